//! The queue's messages: attributes to packet, answer to verdict.
//!
//! Pure: bytes in, bytes out. The numbers are those of
//! `linux/netfilter/nfnetlink_queue.h`.

use super::{Answer, Queued};
use crate::{
    engine::IfIndex,
    policy::Hook,
    sys::ctnetlink,
    sys::netlink::{self, HEADER, Message, Writer, attributes, be32},
    wire::Checksums,
};

const SUBSYSTEM: u16 = 3 << 8;
const PACKET: u16 = SUBSYSTEM;
const VERDICT: u16 = SUBSYSTEM | 1;
/// One verdict for all packets that wait, up to this one.
const VERDICT_BATCH: u16 = SUBSYSTEM | 3;
const CONFIG: u16 = SUBSYSTEM | 2;

/// Octets of `struct nfgenmsg`.
const FAMILY_HEADER: usize = 4;

const PACKET_HDR: u16 = 1;
const VERDICT_HDR: u16 = 2;
const MARK: u16 = 3;
const IFINDEX_INDEV: u16 = 5;
const IFINDEX_OUTDEV: u16 = 6;
const PAYLOAD: u16 = 10;
const CT: u16 = 11;
const CT_INFO: u16 = 12;
const CAP_LEN: u16 = 13;
const SKB_INFO: u16 = 14;

const SKB_CSUM_NOT_READY: u32 = 1;
const SKB_CSUM_NOT_VERIFIED: u32 = 4;

/// Conntrack's word for the first packets of a connection that a helper announced,
/// and for ICMP errors (`IP_CT_RELATED`).
const RELATED: u32 = 1;
/// The first of its words for packets in the reply direction (`IP_CT_IS_REPLY`).
const FIRST_REPLY: u32 = 3;

const NF_DROP: u32 = 0;
const NF_ACCEPT: u32 = 1;

/// Octets of the longest verdict without a payload.
pub(super) const MAX_VERDICT: usize = HEADER + FAMILY_HEADER + 12 + 8;

/// Octets of everything in a packet's message that is not the packet. The
/// attributes that we ask for take about 150.
pub(super) const PACKET_OVERHEAD: usize = 512;

/// Octets of what conntrack knows of a packet: three tuples of IPv6 take most.
pub(super) const CONNTRACK_OVERHEAD: usize = 1024;

/// Changes nothing, and has the kernel say so.
pub(super) fn question(number: u16) -> Vec<u8> {
    let [high, low] = number.to_be_bytes();
    // AF_UNSPEC, NFNETLINK_V0.
    Writer::message(CONFIG, libc::NLM_F_ACK, &[0, 0, high, low]).finish(0)
}

/// A message of the queue's socket.
#[derive(Debug)]
pub(super) enum Incoming<'a> {
    /// A packet, waiting under this id.
    Packet(u32, Queued<'a>),
    /// Something waits under this id, but what is unreadable.
    Unreadable(u32),
    /// The kernel refused a verdict.
    Refused {
        /// Its word, positive.
        error: i32,
        /// Which packet is still waiting, the last of those that the verdict was for; `None`
        /// if it was to drop them.
        waiting: Option<u32>,
    },
    /// Nothing that matters.
    Other,
}

/// Reads one message.
pub(super) fn read<'a>(message: &Message<'a>) -> Incoming<'a> {
    if let Some(error) = message.error() {
        return if error == 0 { Incoming::Other } else { refused(error, message.body) };
    }
    if message.kind != PACKET {
        return Incoming::Other;
    }
    packet(message.body.get(FAMILY_HEADER..).unwrap_or_default())
}

fn packet(body: &[u8]) -> Incoming<'_> {
    let mut header = None;
    let mut payload = None;
    let mut wire_len = None;
    let (mut conntrack, mut relation) = (None, None);
    // Absent: the kernel has verified the checksum, or needn't.
    let mut skb_info = 0;
    let (mut mark, mut in_if, mut out_if) = (0, 0, 0);
    for (kind, value) in attributes(body) {
        match kind {
            PACKET_HDR => header = be32(value).map(|id| (id, value.get(6).copied())),
            MARK => mark = be32(value).unwrap_or_default(),
            IFINDEX_INDEV => in_if = be32(value).unwrap_or_default(),
            IFINDEX_OUTDEV => out_if = be32(value).unwrap_or_default(),
            PAYLOAD => payload = Some(value),
            CT => conntrack = Some(value),
            CT_INFO => relation = be32(value),
            CAP_LEN => wire_len = be32(value),
            SKB_INFO => skb_info = be32(value).unwrap_or_default(),
            _ => {}
        }
    }
    let Some((id, hook)) = header else { return Incoming::Other };
    let (Some(hook), Some(bytes)) = (hook.and_then(hook_of), payload) else {
        return Incoming::Unreadable(id);
    };
    let checksums = if skb_info & (SKB_CSUM_NOT_READY | SKB_CSUM_NOT_VERIFIED) == SKB_CSUM_NOT_VERIFIED {
        Checksums::VerifyTransport
    } else {
        Checksums::Trust
    };
    let wire_len = wire_len.unwrap_or_else(|| u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    let parent = conntrack.filter(|_| relation == Some(RELATED)).and_then(ctnetlink::parent_in);
    // What goes one way acknowledges what came the other.
    let renumbered = conntrack
        .zip(relation)
        .and_then(|(conntrack, relation)| ctnetlink::renumbering_in(conntrack, relation >= FIRST_REPLY));
    let (in_if, out_if) = (IfIndex(in_if), IfIndex(out_if));
    let packet = Queued { hook, in_if, out_if, mark, wire_len, checksums, parent, renumbered, bytes };
    Incoming::Packet(id, packet)
}

/// The hook by the kernel's number (`linux/netfilter.h`); we never divert on
/// the others.
const fn hook_of(number: u8) -> Option<Hook> {
    match number {
        1 => Some(Hook::Input),
        2 => Some(Hook::Forward),
        3 => Some(Hook::Output),
        _ => None,
    }
}

/// An error carries the message that it is about.
fn refused(error: i32, body: &[u8]) -> Incoming<'static> {
    let verdict = netlink::messages(body.get(4..).unwrap_or_default())
        .next()
        .filter(|about| matches!(about.kind, VERDICT | VERDICT_BATCH))
        .and_then(|about| netlink::find(about.body.get(FAMILY_HEADER..)?, VERDICT_HDR));
    let waiting = verdict
        .filter(|verdict| be32(verdict) != Some(NF_DROP))
        .and_then(|verdict| verdict.get(4..))
        .and_then(be32);
    Incoming::Refused { error, waiting }
}

/// Which packets a verdict is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum About {
    /// This one.
    One(u32),
    /// All that wait, up to this one.
    UpTo(u32),
}

/// Appends a verdict as a message of its own. The kernel takes any number of them in one
/// datagram and answers only those it refuses. `rewritten` goes with [`Answer::Rewrite`]:
/// the whole packet, as it shall be.
pub(super) fn write_verdict(out: &mut Vec<u8>, queue: u16, about: About, answer: Answer, rewritten: &[u8]) {
    let (kind, id) = match about {
        About::One(id) => (VERDICT, id),
        About::UpTo(id) => (VERDICT_BATCH, id),
    };
    let (verdict, mark, payload) = match answer {
        Answer::Accept { mark } => (NF_ACCEPT, Some(mark), None),
        Answer::Rewrite { mark } => (NF_ACCEPT, Some(mark), Some(rewritten)),
        Answer::Drop => (NF_DROP, None, None),
    };
    let length = if mark.is_some() { MAX_VERDICT } else { MAX_VERDICT - 8 };
    // An attribute's length field holds no more; nobody rewrites such a packet.
    let payload = payload.and_then(|payload| Some((payload, u16::try_from(payload.len() + 4).ok()?)));
    let whole = length + payload.map_or(0, |(payload, _)| (payload.len() + 4).next_multiple_of(4));
    let flags = libc::NLM_F_REQUEST as u16;
    let mut message = [0_u8; MAX_VERDICT];
    let mut at = 0;
    let mut put = |octets: &[u8]| {
        if let Some(place) = message.get_mut(at..at + octets.len()) {
            place.copy_from_slice(octets);
        }
        at += octets.len();
    };
    put(&(whole as u32).to_ne_bytes());
    put(&kind.to_ne_bytes());
    put(&flags.to_ne_bytes());
    put(&[0; 8]);
    // Family unspecified, version 0, the queue.
    put(&[0, 0]);
    put(&queue.to_be_bytes());
    put(&12_u16.to_ne_bytes());
    put(&VERDICT_HDR.to_ne_bytes());
    put(&verdict.to_be_bytes());
    put(&id.to_be_bytes());
    if let Some(mark) = mark {
        put(&8_u16.to_ne_bytes());
        put(&MARK.to_ne_bytes());
        put(&mark.to_be_bytes());
    }
    let end = out.len() + whole;
    out.extend_from_slice(message.get(..length).unwrap_or_default());
    if let Some((payload, length)) = payload {
        out.extend_from_slice(&length.to_ne_bytes());
        out.extend_from_slice(&PAYLOAD.to_ne_bytes());
        out.extend_from_slice(payload);
        out.resize(end, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
        out.extend((value.len() as u16 + 4).to_ne_bytes());
        out.extend(kind.to_ne_bytes());
        out.extend(value);
        out.resize(out.len().next_multiple_of(4), 0);
    }

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend((body.len() as u32 + 16).to_ne_bytes());
        out.extend(kind.to_ne_bytes());
        out.extend([0; 10]);
        out.extend(body);
        out
    }

    fn packet_message(hook: u8, skb_info: Option<u32>, cap_len: Option<u32>) -> Vec<u8> {
        let mut body = vec![2, 0, 0, 9];
        attribute(&mut body, PACKET_HDR, &[0, 0, 1, 2, 0x08, 0x00, hook]);
        attribute(&mut body, IFINDEX_INDEV, &7_u32.to_be_bytes());
        attribute(&mut body, IFINDEX_OUTDEV, &8_u32.to_be_bytes());
        attribute(&mut body, MARK, &0xab00_0001_u32.to_be_bytes());
        attribute(&mut body, 9, &[0; 12]);
        if let Some(info) = skb_info {
            attribute(&mut body, SKB_INFO, &info.to_be_bytes());
        }
        if let Some(length) = cap_len {
            attribute(&mut body, CAP_LEN, &length.to_be_bytes());
        }
        attribute(&mut body, PAYLOAD, &[0x45, 0, 0, 5, 6]);
        message(PACKET, &body)
    }

    fn read_one(bytes: &[u8]) -> Incoming<'_> {
        read(&netlink::messages(bytes).next().unwrap())
    }

    #[test]
    fn a_packet_with_everything() {
        let bytes = packet_message(2, Some(2 | SKB_CSUM_NOT_READY), Some(65_000));
        let Incoming::Packet(id, queued) = read_one(&bytes) else { panic!("not a packet") };
        assert_eq!(id, 0x102);
        assert_eq!(queued.hook, Hook::Forward);
        assert_eq!((queued.in_if, queued.out_if), (IfIndex(7), IfIndex(8)));
        assert_eq!(queued.mark, 0xab00_0001);
        assert_eq!(queued.wire_len, 65_000);
        assert_eq!(queued.checksums, Checksums::Trust);
        assert_eq!(queued.bytes, [0x45, 0, 0, 5, 6]);
    }

    #[test]
    fn a_packet_copied_whole_has_its_own_length() {
        let bytes = packet_message(1, None, None);
        let Incoming::Packet(_, queued) = read_one(&bytes) else { panic!("not a packet") };
        assert_eq!((queued.wire_len, queued.hook), (5, Hook::Input));
    }

    fn tuple(out: &mut Vec<u8>, kind: u16, ends: [[u8; 4]; 2], ports: [u16; 2]) {
        let (mut ip, mut proto, mut tuple) = (Vec::new(), Vec::new(), Vec::new());
        attribute(&mut ip, 1, &ends[0]);
        attribute(&mut ip, 2, &ends[1]);
        attribute(&mut proto, 1, &[6]);
        attribute(&mut proto, 2, &ports[0].to_be_bytes());
        attribute(&mut proto, 3, &ports[1].to_be_bytes());
        attribute(&mut tuple, 1 | 0x8000, &ip);
        attribute(&mut tuple, 2 | 0x8000, &proto);
        attribute(out, kind | 0x8000, &tuple);
    }

    /// With what conntrack knows: its parent only where it is announced, the numbers of
    /// the other direction only.
    #[test]
    fn a_packet_with_what_conntrack_knows() {
        let (client, server) = ([192, 0, 2, 1], [198, 51, 100, 2]);
        for (info, announced, renumbered) in [
            (0_u32, false, Some(9)),
            (1, true, Some(9)),
            (2, false, Some(9)),
            (3, false, Some(7)),
            (4, false, Some(7)),
        ] {
            let mut ct = Vec::new();
            tuple(&mut ct, 1, [server, client], [20, 5000]);
            tuple(&mut ct, 2, [client, server], [5000, 20]);
            tuple(&mut ct, 14, [client, server], [4000, 21]);
            for (kind, after) in [(15_u16, 7_u32), (16, 9)] {
                let mut numbers = Vec::new();
                attribute(&mut numbers, 1, &1000_u32.to_be_bytes());
                attribute(&mut numbers, 2, &0_u32.to_be_bytes());
                attribute(&mut numbers, 3, &after.to_be_bytes());
                attribute(&mut ct, kind | 0x8000, &numbers);
            }
            let mut body = vec![2, 0, 0, 9];
            attribute(&mut body, PACKET_HDR, &[0, 0, 1, 2, 0x08, 0x00, 2]);
            attribute(&mut body, CT | 0x8000, &ct);
            attribute(&mut body, CT_INFO, &info.to_be_bytes());
            attribute(&mut body, PAYLOAD, &[0x45, 0, 0, 5, 6]);
            let bytes = message(PACKET, &body);
            let Incoming::Packet(_, queued) = read_one(&bytes) else { panic!("not a packet") };
            let parent = queued.parent.map(|flow| flow.to_string());
            assert_eq!(parent.as_deref(), announced.then_some("tcp 192.0.2.1:4000 198.51.100.2:21"));
            assert_eq!(queued.renumbered.map(|numbers| numbers.after), renumbered, "{info}");
        }
    }

    #[test]
    fn only_an_unverified_checksum_is_verified() {
        for (info, expected) in [
            (None, Checksums::Trust),
            (Some(SKB_CSUM_NOT_READY), Checksums::Trust),
            (Some(2), Checksums::Trust),
            (Some(SKB_CSUM_NOT_VERIFIED), Checksums::VerifyTransport),
            (Some(2 | SKB_CSUM_NOT_VERIFIED), Checksums::VerifyTransport),
        ] {
            let bytes = packet_message(3, info, None);
            let Incoming::Packet(_, queued) = read_one(&bytes) else { panic!("not a packet") };
            assert_eq!(queued.checksums, expected, "{info:?}");
        }
    }

    #[test]
    fn what_is_unreadable_still_has_an_id() {
        assert!(matches!(read_one(&packet_message(0, None, None)), Incoming::Unreadable(0x102)));
        assert!(matches!(read_one(&packet_message(77, None, None)), Incoming::Unreadable(0x102)));
        let whole = packet_message(2, None, None);
        // Cut inside the payload, as a buffer that is too small would.
        assert!(matches!(read_one(&whole[..whole.len() - 6]), Incoming::Unreadable(0x102)));
        let padding = 3;
        for cut in 16..whole.len() - padding {
            assert!(!matches!(read_one(&whole[..cut]), Incoming::Packet(..)), "cut at {cut}");
        }
    }

    #[test]
    fn a_refused_verdict_names_the_packet_that_still_waits() {
        for (answer, expected) in [
            (Answer::Accept { mark: 5 }, Some(77)),
            (Answer::Rewrite { mark: 5 }, Some(77)),
            (Answer::Drop, None),
        ] {
            let mut body = (-libc::EINVAL).to_ne_bytes().to_vec();
            write_verdict(&mut body, 9, About::One(77), answer, &[1; 41]);
            let Incoming::Refused { error, waiting } = read_one(&message(libc::NLMSG_ERROR as u16, &body))
            else {
                panic!("not an error")
            };
            assert_eq!((error, waiting), (libc::EINVAL, expected));
        }
        let acknowledged = message(libc::NLMSG_ERROR as u16, &[0; 20]);
        assert!(matches!(read_one(&acknowledged), Incoming::Other));
    }

    #[test]
    fn verdicts_follow_one_another() {
        let mut out = Vec::new();
        write_verdict(&mut out, 0x0102, About::One(1), Answer::Accept { mark: 0xdead_beef }, &[9; 7]);
        write_verdict(&mut out, 0x0102, About::UpTo(2), Answer::Drop, &[9; 7]);
        write_verdict(&mut out, 0x0102, About::One(3), Answer::Rewrite { mark: 1 }, &[9; 7]);
        let read: Vec<_> = netlink::messages(&out).collect();
        assert_eq!(read.iter().map(|one| one.kind).collect::<Vec<_>>(), [VERDICT, VERDICT_BATCH, VERDICT]);
        assert_eq!(read[0].body[..4], [0, 0, 1, 2]);
        assert_eq!(netlink::find(&read[0].body[4..], VERDICT_HDR), Some(&[0, 0, 0, 1, 0, 0, 0, 1][..]));
        assert_eq!(netlink::find(&read[0].body[4..], MARK), Some(&0xdead_beef_u32.to_be_bytes()[..]));
        assert_eq!(netlink::find(&read[1].body[4..], VERDICT_HDR), Some(&[0, 0, 0, 0, 0, 0, 0, 2][..]));
        assert_eq!(netlink::find(&read[1].body[4..], MARK), None);
        for other in &read[..2] {
            assert_eq!(netlink::find(&other.body[4..], PAYLOAD), None, "only a rewrite has one");
        }
        assert_eq!(netlink::find(&read[2].body[4..], MARK), Some(&[0, 0, 0, 1][..]));
        assert_eq!(netlink::find(&read[2].body[4..], PAYLOAD), Some(&[9; 7][..]));
        assert_eq!(out.len() % 4, 0);
    }
}
