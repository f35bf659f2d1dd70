//! ctnetlink's messages: tuples out, entries in.
//!
//! Pure: bytes in, bytes out. The numbers are those of
//! `linux/netfilter/nfnetlink_conntrack.h`.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use super::{Entry, Status, TcpState, Tuples};
use crate::{
    conntrack::Flow,
    engine::{Counts, Renumbering},
    sys::netlink::{Message, Writer, attributes, be16, be32, be64, find},
    wire::{Protocol, SeqNum},
};

const SUBSYSTEM: u16 = 1 << 8;
const NEW: u16 = SUBSYSTEM;
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 2;
/// Octets of `struct nfgenmsg`.
const FAMILY_HEADER: usize = 4;

const TUPLE_ORIG: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const STATUS: u16 = 3;
const PROTOINFO: u16 = 4;
const TIMEOUT: u16 = 7;
const MARK: u16 = 8;
const COUNTERS_ORIG: u16 = 9;
const COUNTERS_REPLY: u16 = 10;
const ID: u16 = 12;
const TUPLE_MASTER: u16 = 14;
const SEQ_ADJ_ORIG: u16 = 15;
const SEQ_ADJ_REPLY: u16 = 16;
const MARK_MASK: u16 = 21;
const STATUS_MASK: u16 = 26;

const SEQ_ADJ_CORRECTION_POS: u16 = 1;
const SEQ_ADJ_OFFSET_BEFORE: u16 = 2;
const SEQ_ADJ_OFFSET_AFTER: u16 = 3;

const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;

const IP_V4_SRC: u16 = 1;
const IP_V4_DST: u16 = 2;
const IP_V6_SRC: u16 = 3;
const IP_V6_DST: u16 = 4;

const PROTO_NUM: u16 = 1;
const PROTO_SRC_PORT: u16 = 2;
const PROTO_DST_PORT: u16 = 3;
/// ICMP's identifier, type and code follow one another; ICMPv6's come behind.
const PROTO_ICMP_ID: u16 = 4;
const PROTO_ICMPV6_ID: u16 = 7;

const PROTOINFO_TCP: u16 = 1;
const PROTOINFO_TCP_STATE: u16 = 1;

const COUNTERS_PACKETS: u16 = 1;
const COUNTERS_BYTES: u16 = 2;

fn family_header(family: i32) -> [u8; FAMILY_HEADER] {
    [u8::try_from(family).unwrap_or_default(), 0, 0, 0]
}

fn family_of(flow: &Flow) -> i32 {
    if flow.src.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }
}

/// Asks for the entry of which one of the two tuples is this.
pub(super) fn get(tuple: &Flow) -> Writer {
    get_with(libc::NLM_F_ACK, tuple)
}

/// The same as one of many requests, without an acknowledgement of its own.
pub(super) fn get_of_many(tuple: &Flow) -> Writer {
    get_with(0, tuple)
}

fn get_with(flags: i32, tuple: &Flow) -> Writer {
    let mut request = Writer::message(GET, flags, &family_header(family_of(tuple)));
    write_tuple(&mut request, tuple);
    request
}

/// Asks for every entry that has all of these status bits. Kernels before 5.15
/// don't know the filter and send every entry.
pub(super) fn dump(status: Status) -> Writer {
    let mut request = Writer::message(GET, libc::NLM_F_DUMP, &family_header(libc::AF_UNSPEC));
    let bits = status.0.to_be_bytes();
    request.attribute(STATUS, &bits).attribute(STATUS_MASK, &bits);
    request
}

/// Asks for every entry whose mark has this bit.
pub(super) fn dump_marked(bit: u32) -> Writer {
    let mut request = Writer::message(GET, libc::NLM_F_DUMP, &family_header(libc::AF_UNSPEC));
    let bits = bit.to_be_bytes();
    request.attribute(MARK, &bits).attribute(MARK_MASK, &bits);
    request
}

/// Clears bits of an entry's mark and leaves the others, which may change meanwhile.
pub(super) fn unmark(entry: &Entry, bits: u32) -> Writer {
    let original = &entry.tuples.original;
    let mut request = Writer::message(NEW, libc::NLM_F_ACK, &family_header(family_of(original)));
    write_tuple(&mut request, original);
    request.attribute(MARK, &0_u32.to_be_bytes()).attribute(MARK_MASK, &bits.to_be_bytes());
    request
}

/// Deletes an entry, but not another one that has got the same tuple since.
pub(super) fn delete(entry: &Entry) -> Writer {
    let original = &entry.tuples.original;
    let mut request = Writer::message(DELETE, libc::NLM_F_ACK, &family_header(family_of(original)));
    write_tuple(&mut request, original);
    request.attribute(ID, &entry.id.to_be_bytes());
    request
}

/// Deletes the entry of which one of the two tuples is this, whichever it is by now. Asks
/// for no acknowledgement.
pub(super) fn delete_by(tuple: &Flow) -> Writer {
    let mut request = Writer::message(DELETE, 0, &family_header(family_of(tuple)));
    write_tuple(&mut request, tuple);
    request
}

fn write_tuple(request: &mut Writer, flow: &Flow) {
    request.nested(TUPLE_ORIG, |tuple| {
        tuple.nested(TUPLE_IP, |ip| {
            for (address, v4, v6) in [(flow.src, IP_V4_SRC, IP_V6_SRC), (flow.dst, IP_V4_DST, IP_V6_DST)] {
                match address {
                    IpAddr::V4(address) => ip.attribute(v4, &address.octets()),
                    IpAddr::V6(address) => ip.attribute(v6, &address.octets()),
                };
            }
        });
        tuple.nested(TUPLE_PROTO, |proto| {
            proto.attribute(PROTO_NUM, &[flow.protocol.0]);
            match icmp(flow.protocol) {
                None => {
                    proto.attribute(PROTO_SRC_PORT, &flow.src_port.to_be_bytes());
                    proto.attribute(PROTO_DST_PORT, &flow.dst_port.to_be_bytes());
                }
                Some((first, request, reply)) => {
                    // The identifier stands in the port of the end that asks.
                    let (id, kind) = if flow.dst_port == 0 || flow.src_port != 0 {
                        (flow.src_port, request)
                    } else {
                        (flow.dst_port, reply)
                    };
                    proto.attribute(first, &id.to_be_bytes());
                    proto.attribute(first + 1, &[kind]);
                    proto.attribute(first + 2, &[0]);
                }
            }
        });
    });
}

/// The first of the protocol's three attributes, and its echo's two types.
const fn icmp(protocol: Protocol) -> Option<(u16, u8, u8)> {
    match protocol {
        Protocol::ICMP => Some((PROTO_ICMP_ID, 8, 0)),
        Protocol::ICMPV6 => Some((PROTO_ICMPV6_ID, 128, 129)),
        _ => None,
    }
}

/// Reads an entry; `None` for other messages, and for entries of families and
/// shapes that we don't track.
pub(super) fn entry(message: &Message<'_>) -> Option<Entry> {
    if message.kind != NEW {
        return None;
    }
    let body = message.body.get(FAMILY_HEADER..)?;
    let (mut original, mut reply) = (None, None);
    let mut entry = Partial::default();
    for (kind, value) in attributes(body) {
        match kind {
            TUPLE_ORIG => original = tuple(value, true),
            TUPLE_REPLY => reply = tuple(value, false),
            STATUS => entry.status = be32(value),
            PROTOINFO => entry.tcp = tcp_state(value),
            TIMEOUT => entry.timeout = be32(value),
            MARK => entry.mark = be32(value),
            COUNTERS_ORIG => entry.original = counts(value),
            COUNTERS_REPLY => entry.reply = counts(value),
            ID => entry.id = be32(value),
            _ => {}
        }
    }
    Some(Entry {
        tuples: Tuples { original: original?, reply: reply? },
        id: entry.id.unwrap_or_default(),
        status: Status(entry.status.unwrap_or_default()),
        timeout: entry.timeout.map(|seconds| Duration::from_secs(seconds.into())),
        mark: entry.mark.unwrap_or_default(),
        tcp: entry.tcp,
        counters: entry.original.zip(entry.reply),
    })
}

/// What the kernel adds to the numbers of the reply direction of an entry.
pub(super) fn shift(message: &Message<'_>) -> Option<u32> {
    let attributes = message.body.get(FAMILY_HEADER..).filter(|_| message.kind == NEW)?;
    renumbering(attributes, false).map(|numbers| numbers.after)
}

/// The original tuple of the connection whose helper announced the one that these
/// attributes describe.
pub(super) fn parent(attributes_of: &[u8]) -> Option<Flow> {
    tuple(find(attributes_of, TUPLE_MASTER)?, true)
}

/// What a helper has made of the numbers of one direction's data.
pub(super) fn renumbering(attributes_of: &[u8], original: bool) -> Option<Renumbering> {
    let of = find(attributes_of, if original { SEQ_ADJ_ORIG } else { SEQ_ADJ_REPLY })?;
    let number = |kind| find(of, kind).and_then(be32);
    Some(Renumbering {
        position: SeqNum(number(SEQ_ADJ_CORRECTION_POS)?),
        before: number(SEQ_ADJ_OFFSET_BEFORE)?,
        after: number(SEQ_ADJ_OFFSET_AFTER)?,
    })
}

#[derive(Default)]
struct Partial {
    status: Option<u32>,
    tcp: Option<TcpState>,
    timeout: Option<u32>,
    mark: Option<u32>,
    original: Option<Counts>,
    reply: Option<Counts>,
    id: Option<u32>,
}

fn tuple(value: &[u8], asks: bool) -> Option<Flow> {
    let (mut src, mut dst) = (None, None);
    for (kind, value) in attributes(find(value, TUPLE_IP)?) {
        match kind {
            IP_V4_SRC => src = v4(value),
            IP_V4_DST => dst = v4(value),
            IP_V6_SRC => src = v6(value),
            IP_V6_DST => dst = v6(value),
            _ => {}
        }
    }
    let proto = find(value, TUPLE_PROTO)?;
    let protocol = Protocol(*find(proto, PROTO_NUM)?.first()?);
    let number = |kind| find(proto, kind).and_then(be16).unwrap_or_default();
    let (src_port, dst_port) = match icmp(protocol) {
        None => (number(PROTO_SRC_PORT), number(PROTO_DST_PORT)),
        Some((id, ..)) if asks => (number(id), 0),
        Some((id, ..)) => (0, number(id)),
    };
    Some(Flow { protocol, src: src?, src_port, dst: dst?, dst_port })
}

fn v4(value: &[u8]) -> Option<IpAddr> {
    value.first_chunk::<4>().map(|octets| Ipv4Addr::from(*octets).into())
}

fn v6(value: &[u8]) -> Option<IpAddr> {
    value.first_chunk::<16>().map(|octets| Ipv6Addr::from(*octets).into())
}

fn tcp_state(value: &[u8]) -> Option<TcpState> {
    let state = *find(find(value, PROTOINFO_TCP)?, PROTOINFO_TCP_STATE)?.first()?;
    TcpState::from_kernel(state)
}

fn counts(value: &[u8]) -> Option<Counts> {
    let packets = find(value, COUNTERS_PACKETS).and_then(be64)?;
    let bytes = find(value, COUNTERS_BYTES).and_then(be64)?;
    Some(Counts { packets, bytes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::netlink::messages;

    fn flow(protocol: Protocol, src: &str, src_port: u16, dst: &str, dst_port: u16) -> Flow {
        Flow { protocol, src: src.parse().unwrap(), src_port, dst: dst.parse().unwrap(), dst_port }
    }

    /// What the kernel reads from a request is what it writes in an answer.
    fn there_and_back(flow: &Flow, asks: bool) -> Flow {
        let bytes = get(flow).finish(1);
        let message = messages(&bytes).next().unwrap();
        tuple(find(&message.body[FAMILY_HEADER..], TUPLE_ORIG).unwrap(), asks).unwrap()
    }

    #[test]
    fn tuples_survive_the_way_to_the_kernel_and_back() {
        let tcp = flow(Protocol::TCP, "10.0.0.1", 1234, "10.0.0.2", 80);
        let udp = flow(Protocol::UDP, "2001:db8::1", 5353, "2001:db8::2", 53);
        let gre = flow(Protocol(47), "10.0.0.1", 0, "10.0.0.2", 0);
        let ping = flow(Protocol::ICMP, "10.0.0.1", 77, "10.0.0.2", 0);
        let ping6 = flow(Protocol::ICMPV6, "2001:db8::1", 78, "2001:db8::2", 0);
        for flow in [tcp, udp, gre, ping, ping6] {
            assert_eq!(there_and_back(&flow, true), flow);
            assert_eq!(there_and_back(&flow.reversed(), false), flow.reversed());
        }
    }

    #[test]
    fn an_entry_with_everything() {
        let original = flow(Protocol::TCP, "10.0.0.1", 1234, "10.0.0.2", 80);
        let reply = flow(Protocol::TCP, "192.168.0.9", 8080, "10.0.0.1", 1234);
        let mut answer = Writer::message(NEW, 0, &family_header(libc::AF_INET));
        write_tuple(&mut answer, &original);
        let mut second = Writer::message(NEW, 0, &[]);
        write_tuple(&mut second, &reply);
        let second = second.finish(0);
        answer
            .attribute(TUPLE_REPLY, find(&second[16..], TUPLE_ORIG).unwrap())
            .attribute(STATUS, &0x2e_u32.to_be_bytes())
            .attribute(TIMEOUT, &431_999_u32.to_be_bytes())
            .attribute(MARK, &5_u32.to_be_bytes())
            .attribute(ID, &0xdead_u32.to_be_bytes())
            .nested(PROTOINFO, |info| {
                info.nested(PROTOINFO_TCP, |tcp| {
                    tcp.attribute(PROTOINFO_TCP_STATE, &[3]);
                });
            });
        for (kind, packets) in [(COUNTERS_ORIG, 7_u64), (COUNTERS_REPLY, 8)] {
            answer.nested(kind, |counters| {
                counters.attribute(COUNTERS_PACKETS, &packets.to_be_bytes());
                counters.attribute(COUNTERS_BYTES, &(packets * 100).to_be_bytes());
            });
        }
        let bytes = answer.finish(3);
        let read = entry(&messages(&bytes).next().unwrap()).unwrap();
        let counts = |packets| Counts { packets, bytes: packets * 100 };
        let expected = Entry {
            tuples: Tuples { original, reply },
            id: 0xdead,
            status: Status(0x2e),
            timeout: Some(Duration::from_secs(431_999)),
            mark: 5,
            tcp: Some(TcpState::Established),
            counters: Some((counts(7), counts(8))),
        };
        assert_eq!(read, expected);
        assert!(read.status.contains(Status::SEEN_REPLY) && read.status.contains(Status::DST_NAT));
        assert!(!read.status.contains(Status::SRC_NAT));

        // Cut anywhere, it is read as less or as nothing.
        for cut in 16..bytes.len() {
            if let Some(cut) = messages(&bytes[..cut]).next().as_ref().and_then(entry) {
                assert_eq!(cut.tuples, expected.tuples);
            }
        }
    }
}
