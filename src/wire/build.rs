//! Packets that halfgate makes itself, which are RSTs; and the packets of tests,
//! rule-file tests and simulations.
//!
//! What comes out is finished: lengths and checksums are filled in, and
//! [`super::parse()`] reads it back. Sends nothing, and knows no connection: the
//! sequence numbers are the caller's. Read first: RFC 9293 §3.1, RFC 1122 §3.2.2.

mod challenge;
mod icmp;
mod segment;

use std::net::IpAddr;

pub use challenge::opening;
pub use icmp::{Echo, icmp_echo, icmp_error};
pub use segment::SegmentBuilder;

use super::{
    checksum::Sum,
    packet::{Flags, Protocol},
    seq::SeqNum,
};

/// Addresses and ports of a packet to build. Both addresses are of one family.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct FourTuple {
    /// Source address.
    pub src: IpAddr,
    /// Source port.
    pub src_port: u16,
    /// Destination address.
    pub dst: IpAddr,
    /// Destination port.
    pub dst_port: u16,
}

impl FourTuple {
    /// The way back.
    #[must_use]
    pub const fn reversed(self) -> Self {
        Self { src: self.dst, src_port: self.dst_port, dst: self.src, dst_port: self.src_port }
    }
}

/// The longest packet that halfgate makes: an IPv6 minimum-MTU ICMP error.
pub const MAX_BUILT: usize = 1280;

/// TTL and hop limit of what halfgate makes, Linux's own default.
pub const HOP_LIMIT: u8 = 64;

const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;

/// A finished packet, IP header first, checksums filled in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RawPacket {
    /// The octets.
    pub bytes: Vec<u8>,
}

impl RawPacket {
    /// Octets of the packet: the `wire_len` that [`super::parse()`] asks for.
    #[must_use]
    pub fn wire_len(&self) -> u32 {
        u32::try_from(self.bytes.len()).unwrap_or(u32::MAX)
    }
}

/// A TCP segment without data or options. An acknowledgement brings the ACK
/// flag with it.
#[must_use]
pub fn tcp(tuple: FourTuple, seq: SeqNum, ack: Option<SeqNum>, flags: Flags, window: u16) -> RawPacket {
    let segment = SegmentBuilder::new(tuple).flags(flags).seq(seq).window(window);
    match ack {
        Some(ack) => segment.ack(ack).build(),
        None => segment.build(),
    }
}

/// A UDP datagram.
#[must_use]
pub fn udp(tuple: FourTuple, payload: &[u8]) -> RawPacket {
    let len = payload.len().saturating_add(8);
    let mut datagram = Vec::with_capacity(len);
    datagram.extend_from_slice(&tuple.src_port.to_be_bytes());
    datagram.extend_from_slice(&tuple.dst_port.to_be_bytes());
    datagram.extend_from_slice(&u16::try_from(len).unwrap_or(0).to_be_bytes());
    datagram.extend_from_slice(&[0, 0]);
    datagram.extend_from_slice(payload);
    let len = u32::try_from(len).unwrap_or(u32::MAX);
    let sum = Sum::pseudo(tuple.src, tuple.dst, Protocol::UDP, len).bytes(&datagram);
    // Zero would say that there is no checksum (RFC 768).
    let checksum = match sum.checksum() {
        0 => 0xffff,
        checksum => checksum,
    };
    put(&mut datagram, 6, checksum.to_be_bytes());
    ip(tuple.src, tuple.dst, Protocol::UDP, &datagram)
}

/// An IP packet around a finished transport header and its data.
///
/// The addresses must be of one family; if they are not, the IPv4 one is written
/// as an IPv4-mapped IPv6 address, which [`super::parse()`] refuses. A packet that
/// is too long for the length fields gets length 0, like the kernel's own
/// oversized segments.
#[must_use]
pub fn ip(src: IpAddr, dst: IpAddr, protocol: Protocol, body: &[u8]) -> RawPacket {
    ip_with_hop_limit(src, dst, protocol, HOP_LIMIT, body)
}

fn ip_with_hop_limit(src: IpAddr, dst: IpAddr, protocol: Protocol, hop_limit: u8, body: &[u8]) -> RawPacket {
    let mut bytes;
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let len = body.len().saturating_add(IPV4_HEADER);
            bytes = Vec::with_capacity(len);
            // Version and header length, no service class.
            bytes.extend_from_slice(&[0x45, 0]);
            bytes.extend_from_slice(&u16::try_from(len).unwrap_or(0).to_be_bytes());
            // Identification 0 is fine for what is never fragmented (RFC 6864 §4.1).
            bytes.extend_from_slice(&[0, 0, 0x40, 0]);
            bytes.extend_from_slice(&[hop_limit, protocol.0, 0, 0]);
            bytes.extend_from_slice(&src.octets());
            bytes.extend_from_slice(&dst.octets());
            let checksum = Sum::new().bytes(&bytes).checksum();
            put(&mut bytes, 10, checksum.to_be_bytes());
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_) | IpAddr::V6(_)) => {
            bytes = Vec::with_capacity(body.len().saturating_add(IPV6_HEADER));
            bytes.extend_from_slice(&[0x60, 0, 0, 0]);
            bytes.extend_from_slice(&u16::try_from(body.len()).unwrap_or(0).to_be_bytes());
            bytes.extend_from_slice(&[protocol.0, hop_limit]);
            for address in [src, dst] {
                let address = match address {
                    IpAddr::V4(v4) => v4.to_ipv6_mapped(),
                    IpAddr::V6(v6) => v6,
                };
                bytes.extend_from_slice(&address.octets());
            }
        }
    }
    bytes.extend_from_slice(body);
    RawPacket { bytes }
}

/// Writes a field at its place.
fn put(bytes: &mut [u8], at: usize, field: [u8; 2]) {
    for (to, from) in bytes.iter_mut().skip(at).zip(field) {
        *to = from;
    }
}
