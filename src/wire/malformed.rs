//! Why bytes are not a packet that halfgate will look at.
//!
//! One variant per reason, each with a stable name: operators count by it.

use std::fmt;

/// Declares the reasons with their names, so that none can miss in
/// [`Malformed::ALL`] or share a name with another by mistake of the pen.
macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// Why bytes are not a packet that halfgate will look at. The names are drop
        /// reasons: stable, lower case with underscores in `Display`.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
        #[repr(u8)]
        pub enum Malformed {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Malformed {
            /// Every reason, in the order of [`Malformed::index`].
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The reason's name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }
    };
}

reasons! {
    /// Fewer octets on the wire than the shortest IP header.
    TooShort = "too_short",
    /// The headers go on beyond the octets that were copied to us. Not the
    /// sender's fault: the copy range is too small for this packet.
    CutOff = "cut_off",
    /// Neither IPv4 nor IPv6.
    Version = "ip_version",
    /// An IPv4 header of fewer than 20 octets.
    Ipv4HeaderLength = "ipv4_header_length",
    /// An IPv4 total length below its own header or beyond the packet.
    Ipv4TotalLength = "ipv4_total_length",
    /// A wrong IPv4 header checksum.
    Ipv4Checksum = "ipv4_checksum",
    /// An IPv4 option that reaches beyond the options.
    Ipv4Options = "ipv4_options",
    /// An IPv4 source route (RFC 7126 §4.3, §4.4): the destination is not the
    /// destination.
    SourceRoute = "ipv4_source_route",
    /// An IPv6 payload length beyond the packet.
    Ipv6PayloadLength = "ipv6_payload_length",
    /// An IPv6 jumbogram (RFC 2675) other than the kernel's own oversized TCP.
    Jumbogram = "ipv6_jumbogram",
    /// An IPv6 extension header that reaches beyond the packet.
    ExtensionLength = "ipv6_extension_length",
    /// An option inside an extension header that reaches beyond it.
    ExtensionOption = "ipv6_extension_option",
    /// Hop-by-hop options anywhere but first, or a second fragment header
    /// (RFC 8200 §4.1).
    ExtensionOrder = "ipv6_extension_order",
    /// More extension headers than halfgate follows.
    ExtensionCount = "ipv6_extension_count",
    /// A routing header of type 0 (RFC 5095 §3).
    RoutingType0 = "ipv6_routing_type_0",
    /// A first fragment that does not hold the whole transport header
    /// (RFC 1858 §3, RFC 3128 §3, RFC 7112 §5).
    TinyFragment = "tiny_fragment",
    /// A fragment that would overwrite the flags of a TCP header
    /// (RFC 1858 §4, RFC 3128 §3).
    FragmentOverlap = "fragment_overlap",
    /// An empty fragment, or one before the last whose length is not a multiple
    /// of eight.
    FragmentLength = "fragment_length",
    /// A fragment that ends beyond the longest packet there can be.
    FragmentTooLong = "fragment_too_long",
    /// Fewer octets than a TCP header.
    TcpTooShort = "tcp_too_short",
    /// A TCP data offset inside the fixed header or beyond the segment.
    TcpDataOffset = "tcp_data_offset",
    /// A wrong TCP checksum.
    TcpChecksum = "tcp_checksum",
    /// TCP to a multicast or broadcast address (RFC 9293 §3.9.2.3).
    TcpMulticast = "tcp_multicast",
    /// TCP from an address and port to themselves.
    Land = "land",
    /// Fewer octets than a UDP header.
    UdpTooShort = "udp_too_short",
    /// A UDP length below its own header or beyond the packet.
    UdpLength = "udp_length",
    /// A wrong UDP checksum.
    UdpChecksum = "udp_checksum",
    /// Fewer octets than an ICMP header.
    IcmpTooShort = "icmp_too_short",
    /// A wrong ICMP or ICMPv6 checksum.
    IcmpChecksum = "icmp_checksum",
    /// ICMPv6 over IPv4, or ICMP over IPv6.
    IcmpFamily = "icmp_family",
    /// An ICMP error that quotes too little to tell what it is about (RFC 792:
    /// the IP header and eight octets).
    EmbeddedTooShort = "embedded_too_short",
    /// An ICMP error that quotes something with absurd headers.
    EmbeddedHeader = "embedded_header",
    /// An ICMP error about a fragment other than the first (RFC 1122 §3.2.2).
    EmbeddedFragment = "embedded_fragment",
    /// An ICMP error about an ICMP error (RFC 1122 §3.2.2).
    EmbeddedError = "embedded_error",
    /// A multicast source address.
    SourceMulticast = "source_multicast",
    /// The broadcast address as the source.
    SourceBroadcast = "source_broadcast",
    /// No source address, where an answer is expected (RFC 1122 §3.2.1.3,
    /// RFC 4291 §2.5.2).
    SourceUnspecified = "source_unspecified",
    /// A loopback source address outside of `lo` (RFC 1122 §3.2.1.3).
    SourceLoopback = "source_loopback",
    /// An IPv4 address in IPv6 clothes (`::ffff:a.b.c.d`) on the wire.
    MappedAddress = "ipv4_mapped_address",
    /// No destination address.
    DestinationUnspecified = "destination_unspecified",
}

impl Malformed {
    /// The place of this reason in [`Malformed::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The reason with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|reason| reason.name() == name)
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
