//! What nearly every packet is, looked at in place: TCP right behind the IP header, which has
//! no options, whole, and no checksum to verify.

use std::{
    fmt::Debug,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use super::{
    super::{
        packet::{Flags, Packet, Protocol, Segment, Transport},
        seq::SeqNum,
    },
    Checksums, ipv4, ipv6, transport,
};

/// An address as it stands in its family's plain header.
pub trait InHeader: Copy + Debug + 'static {
    /// The header without options, or without extension headers.
    type Header: Copy + Debug + 'static;

    /// Octets of the header.
    const HEADER_LEN: u32;

    /// A plain header in front of TCP that is no fragment, and what follows it. `None`: it is not.
    fn split(bytes: &[u8]) -> Option<(&Self::Header, &[u8])>;

    /// Octets of the packet as the header says: less than there are where it is zero.
    fn packet_len(header: &Self::Header) -> u32;

    /// Source and destination.
    fn ends(header: &Self::Header) -> (Self, Self);
}

impl InHeader for Ipv4Addr {
    type Header = [u8; ipv4::SHORTEST];

    const HEADER_LEN: u32 = ipv4::SHORTEST as u32;

    #[inline(always)]
    fn split(bytes: &[u8]) -> Option<(&Self::Header, &[u8])> {
        let (ip, body) = bytes.split_first_chunk()?;
        let is_plain =
            ip[0] == ipv4::WITHOUT_OPTIONS && Protocol(ip[9]) == Protocol::TCP && !ipv4::is_fragment(ip);
        is_plain.then_some((ip, body))
    }

    #[inline(always)]
    fn packet_len(ip: &Self::Header) -> u32 {
        u16::from_be_bytes([ip[2], ip[3]]).into()
    }

    #[inline(always)]
    fn ends(ip: &Self::Header) -> (Self, Self) {
        ipv4::addresses(ip)
    }
}

impl InHeader for Ipv6Addr {
    type Header = [u8; ipv6::FIXED];

    const HEADER_LEN: u32 = ipv6::FIXED as u32;

    #[inline(always)]
    fn split(bytes: &[u8]) -> Option<(&Self::Header, &[u8])> {
        let (ip, body) = bytes.split_first_chunk()?;
        (ip[0] >> 4 == 6 && Protocol(ip[6]) == Protocol::TCP).then_some((ip, body))
    }

    #[inline(always)]
    fn packet_len(ip: &Self::Header) -> u32 {
        u32::from(u16::from_be_bytes([ip[4], ip[5]])).saturating_add(Self::HEADER_LEN)
    }

    #[inline(always)]
    fn ends(ip: &Self::Header) -> (Self, Self) {
        ipv6::addresses(ip)
    }
}

/// Such a packet, whose lengths are right. Nobody has looked at its addresses yet: whoever
/// finds both among those from which packets were taken has no need to, and
/// [`Self::packet`] does.
#[derive(Clone, Copy, Debug)]
pub struct Plain<'a, A: InHeader> {
    ip: &'a A::Header,
    tcp: &'a [u8; transport::TCP_SHORTEST],
    options: &'a [u8],
    /// Octets of the IP packet.
    pub len: u32,
    /// Octets of data.
    pub payload_len: u32,
}

impl<'a, A: InHeader> Plain<'a, A> {
    /// Looks at a packet. `None`: it may be anything else, or something is wrong with it.
    #[must_use]
    #[inline(always)]
    pub fn of(bytes: &'a [u8], wire_len: u32, checksums: Checksums) -> Option<Self> {
        let (ip, body) = A::split(bytes)?;
        let (tcp, rest) = body.split_first_chunk::<{ transport::TCP_SHORTEST }>()?;
        let len = A::packet_len(ip);
        if checksums != Checksums::Trust || len > wire_len {
            return None;
        }
        let header_len = u32::from(tcp[12] >> 4) << 2;
        let options_len = header_len.checked_sub(transport::TCP_SHORTEST as u32)?;
        let payload_len = len.checked_sub(header_len.saturating_add(A::HEADER_LEN))?;
        let options = rest.get(..options_len as usize)?;
        Some(Self { ip, tcp, options, len, payload_len })
    }

    /// Source and destination, with their ports.
    #[must_use]
    #[inline(always)]
    pub fn ends(&self) -> ((A, u16), (A, u16)) {
        let (src, dst) = A::ends(self.ip);
        let src_port = u16::from_be_bytes([self.tcp[0], self.tcp[1]]);
        let dst_port = u16::from_be_bytes([self.tcp[2], self.tcp[3]]);
        ((src, src_port), (dst, dst_port))
    }

    /// SEG.SEQ.
    #[must_use]
    #[inline(always)]
    pub const fn seq(&self) -> SeqNum {
        SeqNum(u32::from_be_bytes([self.tcp[4], self.tcp[5], self.tcp[6], self.tcp[7]]))
    }

    /// SEG.ACK.
    #[must_use]
    #[inline(always)]
    pub const fn ack(&self) -> SeqNum {
        SeqNum(u32::from_be_bytes([self.tcp[8], self.tcp[9], self.tcp[10], self.tcp[11]]))
    }

    /// Whether it is an acknowledgement and neither begins nor ends anything.
    #[must_use]
    #[inline(always)]
    pub const fn is_acknowledgement(&self) -> bool {
        self.flags().is_acknowledgement()
    }

    /// The control bits.
    #[must_use]
    #[inline(always)]
    pub const fn flags(&self) -> Flags {
        Flags(self.tcp[13])
    }

    /// SEG.WND as on the wire.
    #[must_use]
    #[inline(always)]
    pub const fn window(&self) -> u16 {
        u16::from_be_bytes([self.tcp[14], self.tcp[15]])
    }

    /// TSval and TSecr.
    #[must_use]
    #[inline(always)]
    pub fn timestamps(&self) -> Option<(u32, u32)> {
        if self.options.is_empty() {
            return None;
        }
        transport::options_of(self.options, self.flags().contains(Flags::SYN)).timestamps
    }
}

impl<'a> Plain<'a, Ipv4Addr> {
    /// All of it. `None`: it may not bear these addresses, or they are not of hosts like all
    /// others.
    #[must_use]
    #[inline(always)]
    pub fn packet(&self) -> Option<Packet<'a>> {
        let ((src, src_port), (dst, dst_port)) = self.ends();
        let flags = self.flags();
        let is_ordinary = src != dst && is_unicast(src) && is_unicast(dst);
        is_ordinary.then(|| Packet {
            src: IpAddr::V4(src),
            dst: IpAddr::V4(dst),
            protocol: Protocol::TCP,
            hop_limit: self.ip[8],
            len: self.len,
            transport_offset: ipv4::SHORTEST,
            transport: Transport::Tcp(Segment {
                src_port,
                dst_port,
                seq: self.seq(),
                ack: self.ack(),
                flags,
                window: self.window(),
                payload_len: self.payload_len,
                options: transport::options_of(self.options, flags.contains(Flags::SYN)),
            }),
        })
    }
}

/// Whether it is an address of a host's like nearly all: neither a loopback address nor one
/// that is reserved.
const fn is_unicast(address: Ipv4Addr) -> bool {
    matches!(address.to_bits() >> 24, 1..=126 | 128..=223)
}
