//! Packets that halfgate makes itself: RST, ICMP prohibited.

use std::net::IpAddr;

use super::{packet::Flags, seq::SeqNum};

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

/// The longest packet that halfgate makes: an IPv6 minimum-MTU ICMP error.
pub const MAX_BUILT: usize = 1280;

/// A finished packet, IP header first, checksums filled in.
#[derive(Clone)]
pub struct RawPacket {
    /// The octets.
    pub bytes: Vec<u8>,
}

/// A TCP segment without data or options.
#[must_use]
pub fn tcp(tuple: FourTuple, seq: SeqNum, ack: Option<SeqNum>, flags: Flags, window: u16) -> RawPacket {
    let _ = (tuple, seq, ack, flags, window);
    RawPacket { bytes: Vec::new() }
}
