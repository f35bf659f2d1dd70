//! What a packet says of itself, believed as far as it goes: the rows of a replay
//! list also what the engine refuses to read (impossible flags, absurd addresses).
//! The engine reads every packet with `wire`; nothing here decides anything.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{
    conntrack::Flow,
    wire::{Flags, Protocol, SeqNum},
};

/// Headers between IPv6 and its transport that are stepped over.
const MAX_EXTENSIONS: usize = 8;

/// A packet that has a tuple.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Seen {
    /// From, to, as this packet goes. Echo: the identifier stands on the requester's side.
    pub(super) flow: Flow,
    /// Octets of IP.
    pub(super) len: u32,
    /// Octets of all headers, also of what a short snapshot has cut off.
    pub(super) headers: usize,
    pub(super) content: Content,
}

impl Seen {
    /// A SYN without ACK.
    pub(super) fn is_syn(&self) -> bool {
        matches!(self.content, Content::Tcp(tcp) if tcp.flags.contains(Flags::SYN) && !tcp.flags.contains(Flags::ACK))
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Content {
    Tcp(Tcp),
    Udp,
    Echo,
    Other,
}

/// A TCP header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Tcp {
    pub(super) flags: Flags,
    pub(super) seq: SeqNum,
    pub(super) ack: SeqNum,
    pub(super) window: u16,
    /// Octets of data on the wire.
    pub(super) payload: u32,
    /// Whether all of them were recorded.
    pub(super) is_whole: bool,
}

/// Reads the headers. `None`: it has no tuple (an ICMP error, a later fragment, a
/// header that is cut off).
pub(super) fn look(bytes: &[u8], wire_len: u32) -> Option<Seen> {
    match bytes.first()? >> 4 {
        4 => ipv4(bytes, wire_len),
        6 => ipv6(bytes, wire_len),
        _ => None,
    }
}

fn ipv4(bytes: &[u8], wire_len: u32) -> Option<Seen> {
    let (fixed, _) = bytes.split_first_chunk::<20>()?;
    let header = usize::from(fixed[0] & 0x0f) * 4;
    let len = match u16::from_be_bytes([fixed[2], fixed[3]]) {
        // Segments that the kernel had not cut yet.
        0 => wire_len,
        total => u32::from(total),
    };
    if header < 20 || u16::from_be_bytes([fixed[6], fixed[7]]) & 0x1fff != 0 {
        return None;
    }
    let src = Ipv4Addr::new(fixed[12], fixed[13], fixed[14], fixed[15]);
    let dst = Ipv4Addr::new(fixed[16], fixed[17], fixed[18], fixed[19]);
    transport(bytes, header, len, Protocol(fixed[9]), [src.into(), dst.into()])
}

fn ipv6(bytes: &[u8], wire_len: u32) -> Option<Seen> {
    let (fixed, _) = bytes.split_first_chunk::<40>()?;
    let address = |at: usize| {
        let octets: [u8; 16] = fixed[at..at + 16].try_into().unwrap_or_default();
        IpAddr::V6(Ipv6Addr::from(octets))
    };
    let len = match u16::from_be_bytes([fixed[4], fixed[5]]) {
        0 => wire_len,
        payload => u32::from(payload) + 40,
    };
    let (mut next, mut at) = (fixed[6], 40_usize);
    for _ in 0..MAX_EXTENSIONS {
        let extension = |offset: usize| bytes.get(at + offset).copied();
        match next {
            // Hop-by-hop, routing, destination options (RFC 8200 §4).
            0 | 43 | 60 => {
                let octets = (usize::from(extension(1)?) + 1) * 8;
                next = extension(0)?;
                at += octets;
            }
            // Authentication (RFC 4302 §2).
            51 => {
                let octets = (usize::from(extension(1)?) + 2) * 4;
                next = extension(0)?;
                at += octets;
            }
            // A fragment (RFC 8200 §4.5); only the first has the transport header.
            44 => {
                if u16::from_be_bytes([extension(2)?, extension(3)?]) & 0xfff8 != 0 {
                    return None;
                }
                next = extension(0)?;
                at += 8;
            }
            _ => break,
        }
    }
    transport(bytes, at, len, Protocol(next), [address(8), address(24)])
}

fn transport(bytes: &[u8], at: usize, len: u32, protocol: Protocol, ends: [IpAddr; 2]) -> Option<Seen> {
    let body = bytes.get(at..)?;
    let [src, dst] = ends;
    let number = |at: usize| Some(u16::from_be_bytes([*body.get(at)?, *body.get(at + 1)?]));
    let seen = |src_port, dst_port, content| {
        let headers = match content {
            Content::Tcp(_) => at + body.get(12).map_or(0, |offset| usize::from(offset >> 4) * 4),
            Content::Udp | Content::Echo | Content::Other => at,
        };
        Some(Seen { flow: Flow { protocol, src, src_port, dst, dst_port }, len, headers, content })
    };
    match protocol {
        Protocol::TCP => {
            let (header, _) = body.split_first_chunk::<20>()?;
            let word =
                |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
            let before = u32::try_from(at).ok()? + u32::from(header[12] >> 4) * 4;
            let tcp = Tcp {
                flags: Flags(header[13]),
                seq: SeqNum(word(4)),
                ack: SeqNum(word(8)),
                window: number(14)?,
                payload: len.saturating_sub(before),
                is_whole: bytes.len() >= len as usize,
            };
            seen(number(0)?, number(2)?, Content::Tcp(tcp))
        }
        Protocol::UDP => seen(number(0)?, number(2)?, Content::Udp),
        Protocol::ICMP | Protocol::ICMPV6 => match (protocol, *body.first()?) {
            (Protocol::ICMP, 8) | (Protocol::ICMPV6, 128) => seen(number(4)?, 0, Content::Echo),
            (Protocol::ICMP, 0) | (Protocol::ICMPV6, 129) => seen(0, number(4)?, Content::Echo),
            _ => None,
        },
        Protocol(_) => seen(0, 0, Content::Other),
    }
}
