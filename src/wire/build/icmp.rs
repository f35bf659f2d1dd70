//! ICMP and ICMPv6 messages.

use std::net::IpAddr;

use super::{
    super::{checksum::Sum, packet::Protocol},
    IPV6_HEADER, MAX_BUILT, RawPacket, ip, put,
};

/// Octets of an ICMP header.
const ICMP_HEADER: usize = 8;

/// How much an ICMP error quotes so that it stays within 576 octets
/// (RFC 1812 §4.3.2.3).
const QUOTED_V4: usize = 548;

/// Which echo message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Echo {
    /// The question.
    Request,
    /// The answer.
    Reply,
}

/// An echo message (RFC 792, RFC 4443 §4).
#[must_use]
pub fn icmp_echo(src: IpAddr, dst: IpAddr, echo: Echo, id: u16, seq: u16, payload: &[u8]) -> RawPacket {
    let kind = match (src.is_ipv4(), echo) {
        (true, Echo::Request) => 8,
        (true, Echo::Reply) => 0,
        (false, Echo::Request) => 128,
        (false, Echo::Reply) => 129,
    };
    let [a, b] = id.to_be_bytes();
    let [c, d] = seq.to_be_bytes();
    message(src, dst, kind, 0, [a, b, c, d], payload)
}

/// An ICMP or ICMPv6 error about `quoted`, of which it carries as much as fits
/// (RFC 1812 §4.3.2.3, RFC 4443 §2.4).
#[must_use]
pub fn icmp_error(src: IpAddr, dst: IpAddr, kind: u8, code: u8, quoted: &[u8]) -> RawPacket {
    let room = if src.is_ipv4() {
        QUOTED_V4
    } else {
        MAX_BUILT.saturating_sub(IPV6_HEADER).saturating_sub(ICMP_HEADER)
    };
    message(src, dst, kind, code, [0; 4], quoted.get(..room).unwrap_or(quoted))
}

fn message(src: IpAddr, dst: IpAddr, kind: u8, code: u8, head: [u8; 4], rest: &[u8]) -> RawPacket {
    let mut message = Vec::with_capacity(rest.len().saturating_add(ICMP_HEADER));
    message.extend_from_slice(&[kind, code, 0, 0]);
    message.extend_from_slice(&head);
    message.extend_from_slice(rest);
    let (protocol, sum) = if src.is_ipv4() {
        (Protocol::ICMP, Sum::new())
    } else {
        let len = u32::try_from(message.len()).unwrap_or(u32::MAX);
        (Protocol::ICMPV6, Sum::pseudo(src, dst, Protocol::ICMPV6, len))
    };
    let checksum = sum.bytes(&message).checksum();
    put(&mut message, 2, checksum.to_be_bytes());
    ip(src, dst, protocol, &message)
}
