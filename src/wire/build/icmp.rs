//! ICMP and ICMPv6 messages.

use std::net::IpAddr;

use super::{
    super::{
        checksum::Sum,
        packet::{IcmpMessage, Packet, Protocol, Transport},
        parse::{Checksums, parse},
    },
    IPV6_HEADER, MAX_BUILT, RawPacket, ip, put,
};

/// Octets of an ICMP header.
const ICMP_HEADER: usize = 8;

/// How much an ICMP error quotes so that it stays within 576 octets
/// (RFC 1812 §4.3.2.3).
const QUOTED_V4: usize = 548;

/// Destination unreachable, communication administratively prohibited
/// (RFC 1812 §5.2.7.1).
const PROHIBITED_V4: (u8, u8) = (3, 13);
/// The same (RFC 4443 §3.1).
const PROHIBITED_V6: (u8, u8) = (1, 1);

/// The longest packet whose length fields hold its length.
const LONGEST: u32 = 65_535 + 40;

/// The highest ICMP type whose meaning is settled enough to answer it with an
/// error (RFC 792, RFC 950: address mask reply).
const LAST_KNOWN_V4: u8 = 18;
/// ICMPv6 types below this are errors, known or not (RFC 4443 §2.1).
const FIRST_INFORMATIONAL: u8 = 128;
/// ICMPv6 redirect (RFC 4861 §4.5).
const REDIRECT_V6: u8 = 137;

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

/// ICMP administratively prohibited about a packet, in the name of its
/// destination: type 3 code 13, ICMPv6 type 1 code 1.
///
/// `quoted` are the packet's octets from its IP header on, as many as there are.
/// `None` where an error must not be sent (RFC 1122 §3.2.2, RFC 4443 §2.4): about
/// an ICMP error, a fragment other than the first, a packet to or from many, from
/// nobody, or one that makes no sense.
#[must_use]
pub fn prohibited(quoted: &[u8]) -> Option<RawPacket> {
    // The packet was held against its length on the wire when it came.
    let packet = parse(quoted, LONGEST, Checksums::Trust).ok()?;
    if !may_be_answered(&packet) {
        return None;
    }
    let (kind, code) = if packet.src.is_ipv4() { PROHIBITED_V4 } else { PROHIBITED_V6 };
    Some(icmp_error(packet.dst, packet.src, kind, code, quoted))
}

fn may_be_answered(packet: &Packet<'_>) -> bool {
    let about_icmp = match packet.transport {
        Transport::Fragment | Transport::Icmp(IcmpMessage::Error { .. }) => return false,
        Transport::Icmp(IcmpMessage::Other { kind, .. }) => Some(kind),
        Transport::Icmp(IcmpMessage::EchoRequest { .. } | IcmpMessage::EchoReply { .. })
        | Transport::Tcp(_)
        | Transport::Udp(_)
        | Transport::Other => None,
    };
    match (packet.src, packet.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            // Class E does not define a single host either; multicast and loopback
            // sources never parse.
            let single = !src.is_unspecified() && src.octets()[0] < 240;
            // The error will have the destination's address, which must not be one
            // that leaves no host.
            let usable = !dst.is_multicast() && !dst.is_broadcast() && !dst.is_loopback();
            single && usable && about_icmp.is_none_or(|kind| kind <= LAST_KNOWN_V4)
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let answerable = about_icmp.is_none_or(|kind| kind >= FIRST_INFORMATIONAL && kind != REDIRECT_V6);
            !src.is_unspecified() && !dst.is_multicast() && !dst.is_loopback() && answerable
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
    }
}
