//! What a packet says, once its headers have been believed.
//!
//! Borrowed from the bytes, allocates nothing. Lengths are those of the packet
//! on the wire, not of the copy that reached us: the queue may hand over only
//! the first bytes of it.

use std::net::IpAddr;

use super::seq::SeqNum;

/// An IP protocol number (IPv4 `protocol`, IPv6 `next header`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct Protocol(pub u8);

impl Protocol {
    /// ICMP (RFC 792).
    pub const ICMP: Self = Self(1);
    /// TCP (RFC 9293).
    pub const TCP: Self = Self(6);
    /// UDP (RFC 768).
    pub const UDP: Self = Self(17);
    /// ICMPv6 (RFC 4443).
    pub const ICMPV6: Self = Self(58);
}

/// An IP packet with its transport header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// The transport protocol, behind all extension headers.
    pub protocol: Protocol,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// Octets on the wire, IP header included.
    pub len: u32,
    /// Octets before the transport header, or before a fragment's data.
    pub transport_offset: usize,
    /// The transport header. `Transport::Fragment` if it is not in this packet.
    pub transport: Transport<'a>,
}

/// The transport header of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport<'a> {
    /// A TCP segment.
    Tcp(Segment),
    /// A UDP datagram.
    Udp(Datagram),
    /// An ICMP or ICMPv6 message.
    Icmp(IcmpMessage<'a>),
    /// Another protocol; nothing behind the IP header is read.
    Other,
    /// A fragment that does not carry the transport header.
    Fragment,
}

/// A UDP header (RFC 768).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
}

/// A TCP header (RFC 9293 §3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
    /// SEG.SEQ.
    pub seq: SeqNum,
    /// SEG.ACK; meaningless without the ACK flag.
    pub ack: SeqNum,
    /// The control bits.
    pub flags: Flags,
    /// SEG.WND as on the wire, not scaled.
    pub window: u16,
    /// Octets of data, without SYN and FIN.
    pub payload_len: u32,
    /// The options that matter here.
    pub options: TcpOptions,
}

impl Segment {
    /// SEG.LEN: octets of data, SYN and FIN counted (RFC 9293 §3.4).
    #[must_use]
    pub fn seq_len(&self) -> u32 {
        self.payload_len
            .wrapping_add(u32::from(self.flags.contains(Flags::SYN)))
            .wrapping_add(u32::from(self.flags.contains(Flags::FIN)))
    }

    /// The sequence number after the last octet of this segment.
    #[must_use]
    pub fn end(&self) -> SeqNum {
        self.seq.plus(self.seq_len())
    }
}

/// TCP control bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub struct Flags(pub u8);

impl Flags {
    /// No more data from the sender.
    pub const FIN: Self = Self(0x01);
    /// Synchronise sequence numbers.
    pub const SYN: Self = Self(0x02);
    /// Reset the connection.
    pub const RST: Self = Self(0x04);
    /// Push.
    pub const PSH: Self = Self(0x08);
    /// The acknowledgement field is significant.
    pub const ACK: Self = Self(0x10);
    /// The urgent pointer is significant.
    pub const URG: Self = Self(0x20);

    /// Whether it is an acknowledgement, and neither begins nor ends anything.
    #[must_use]
    pub const fn is_acknowledgement(self) -> bool {
        let all = Self::SYN.with(Self::FIN).with(Self::RST).with(Self::ACK);
        self.0 & all.0 == Self::ACK.0
    }

    /// Whether all of `other`'s bits are set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether any of `other`'s bits is set.
    #[must_use]
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Both sets of bits.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// The TCP options that a middle box has to understand.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TcpOptions {
    /// Maximum segment size (RFC 9293 §3.7.1).
    pub mss: Option<u16>,
    /// Window scale shift, already capped at 14 (RFC 7323 §2.3).
    pub window_scale: Option<u8>,
    /// SACK permitted (RFC 2018).
    pub sack_permitted: bool,
    /// TSval and TSecr (RFC 7323 §3.2).
    pub timestamps: Option<(u32, u32)>,
    /// The right edge of the highest SACK block (RFC 2018 §3), if any.
    pub sack_high: Option<SeqNum>,
    /// A Fast Open option, cookie or request (RFC 7413 §4.1.1).
    pub fast_open: bool,
}

/// An ICMP or ICMPv6 message, in words that serve both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IcmpMessage<'a> {
    /// Echo request with its identifier.
    EchoRequest {
        /// The identifier.
        id: u16,
    },
    /// Echo reply with its identifier.
    EchoReply {
        /// The identifier.
        id: u16,
    },
    /// An error about another packet (RFC 792; RFC 4443 §3).
    Error {
        /// ICMP type.
        kind: u8,
        /// ICMP code.
        code: u8,
        /// The packet that the error is about, as far as it is quoted.
        embedded: Embedded,
    },
    /// Everything else.
    Other {
        /// ICMP type.
        kind: u8,
        /// ICMP code.
        code: u8,
        /// The message behind type, code and checksum, as far as it was copied.
        body: &'a [u8],
    },
}

/// The start of the packet that an ICMP error quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Embedded {
    /// Source address of the quoted packet.
    pub src: IpAddr,
    /// Destination address of the quoted packet.
    pub dst: IpAddr,
    /// Its transport protocol.
    pub protocol: Protocol,
    /// Its source port, or the echo identifier for ICMP, 0 for other protocols.
    pub src_port: u16,
    /// Its destination port, or the echo identifier for ICMP, 0 for others.
    pub dst_port: u16,
    /// Its TCP sequence number, if it was TCP.
    pub seq: Option<SeqNum>,
}
