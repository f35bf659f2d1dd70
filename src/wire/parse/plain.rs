//! What nearly every packet is, looked at in place: TCP in IPv4 without options, whole, and
//! no checksum to verify.

use std::net::{IpAddr, Ipv4Addr};

use super::{
    super::{
        packet::{Flags, Packet, Protocol, Segment, Transport},
        seq::SeqNum,
    },
    Checksums, ipv4, transport,
};

/// Such a packet, whose lengths are right. Nobody has looked at its addresses yet: whoever
/// finds both among those from which packets were taken has no need to, and
/// [`Self::packet`] does.
#[derive(Clone, Copy, Debug)]
pub struct Plain<'a> {
    ip: &'a [u8; ipv4::SHORTEST],
    tcp: &'a [u8; transport::TCP_SHORTEST],
    options: &'a [u8],
    /// Octets of the IP packet.
    pub len: u32,
    /// Octets of data.
    pub payload_len: u32,
}

impl<'a> Plain<'a> {
    /// Looks at a packet. `None`: it may be anything else, or something is wrong with it.
    #[must_use]
    #[inline(always)]
    pub fn of(bytes: &'a [u8], wire_len: u32, checksums: Checksums) -> Option<Self> {
        let (ip, body) = bytes.split_first_chunk::<{ ipv4::SHORTEST }>()?;
        let (tcp, rest) = body.split_first_chunk::<{ transport::TCP_SHORTEST }>()?;
        let is_plain = checksums == Checksums::Trust
            && ip[0] == ipv4::WITHOUT_OPTIONS
            && Protocol(ip[9]) == Protocol::TCP
            && !ipv4::is_fragment(ip);
        let len = u32::from(u16::from_be_bytes([ip[2], ip[3]]));
        if !is_plain || len > wire_len {
            return None;
        }
        let header_len = u32::from(tcp[12] >> 4) << 2;
        let options_len = header_len.checked_sub(transport::TCP_SHORTEST as u32)?;
        let payload_len = len.checked_sub(header_len.saturating_add(ipv4::SHORTEST as u32))?;
        let options = rest.get(..options_len as usize)?;
        Some(Self { ip, tcp, options, len, payload_len })
    }

    /// Source and destination, with their ports.
    #[must_use]
    #[inline(always)]
    pub const fn ends(&self) -> ((Ipv4Addr, u16), (Ipv4Addr, u16)) {
        let (src, dst) = ipv4::addresses(self.ip);
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
