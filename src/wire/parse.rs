//! Bytes to packets.
//!
//! Lengths are believed in one order only: the IP header's own length is held
//! against the packet's length on the wire, and everything behind it against
//! the IP length. Octets behind the IP length are padding of the link and are
//! never read. Where a header goes on beyond the copied octets the reason is
//! `cut_off`, so that a copy range that is too small can be told from a liar.

mod icmp;
mod ipv4;
mod ipv6;
mod plain;
mod transport;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub use super::malformed::Malformed;
use super::packet::{IcmpMessage, Packet, Protocol, Transport};
pub use plain::{InHeader, Plain};
pub(super) use transport::is_fast_open;

/// Which checksums of a packet are to be verified.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Checksums {
    /// The IPv4 header's, and the transport's if the whole packet is here.
    Verify,
    /// The transport's alone. The kernel has verified the IPv4 header's when the
    /// packet arrived, and since then may have filled in options (record route,
    /// timestamp) whose checksum it mends only behind the forward hook.
    VerifyTransport,
    /// None: the kernel says that the transport's is not filled in yet, or has
    /// verified it.
    Trust,
}

/// Whether packets from loopback addresses may be believed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Loopback {
    /// None may be seen outside of a host (RFC 1122 §3.2.1.3): refused.
    #[default]
    Refuse,
    /// A capture that was made inside of a host.
    Allow,
}

/// What an IP header says, extension headers included.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    pub(super) src: IpAddr,
    pub(super) dst: IpAddr,
    pub(super) protocol: Protocol,
    hop_limit: u8,
    /// Octets of the whole packet, padding of the link left out.
    pub(super) len: u32,
    /// Where the transport header (or the fragment's data) begins; at most `len`.
    pub(super) offset: u32,
    fragment: Fragment,
    /// The pseudo header has other addresses than the IP header (a routing header
    /// on its way, a home address), so the transport checksum can't be verified.
    pub(super) readdressed: bool,
}

impl Header {
    /// Whether it is no fragment.
    pub(super) fn is_whole(&self) -> bool {
        self.fragment == Fragment::Whole
    }
}

/// Which part of a packet this is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fragment {
    Whole,
    First,
    Later,
}

impl Fragment {
    /// Judges the fragment fields of either family. `offset` counts eight octets,
    /// `len` is what this fragment carries, `before` what stands before it in the
    /// reassembled packet and counts toward `u16::MAX` there.
    fn judge(protocol: Protocol, more: bool, offset: u16, len: u32, before: u32) -> Result<Self, Malformed> {
        if !more && offset == 0 {
            return Ok(Self::Whole);
        }
        if len == 0 || (more && len & 7 != 0) {
            return Err(Malformed::FragmentLength);
        }
        let end = (u32::from(offset) << 3).saturating_add(len).saturating_add(before);
        if end > u32::from(u16::MAX) {
            return Err(Malformed::FragmentTooLong);
        }
        match offset {
            0 => Ok(Self::First),
            // The first fragment would have held eight octets of a TCP header, and
            // this one the flags (RFC 1858 §4).
            1 if protocol == Protocol::TCP => Err(Malformed::FragmentOverlap),
            _ => Ok(Self::Later),
        }
    }
}

/// The octets behind the IP header.
#[derive(Clone, Copy, Debug)]
struct Body<'a> {
    /// Those that were copied, at most `len`.
    bytes: &'a [u8],
    /// How many there are.
    len: u32,
    fragment: Fragment,
}

impl<'a> Body<'a> {
    /// The first `N` octets and the rest of the copied ones; `short` if the packet
    /// does not have so many.
    #[inline]
    fn split<const N: usize>(&self, short: Malformed) -> Result<(&'a [u8; N], &'a [u8]), Malformed> {
        self.bytes.split_first_chunk::<N>().ok_or_else(|| self.why_missing(N as u32, short))
    }

    /// Why there are not `needed` octets in `bytes`.
    #[cold]
    fn why_missing(&self, needed: u32, short: Malformed) -> Malformed {
        match self.fragment {
            _ if needed <= self.len => Malformed::CutOff,
            Fragment::First => Malformed::TinyFragment,
            Fragment::Whole | Fragment::Later => short,
        }
    }
}

/// Reads the headers of an IP packet.
///
/// `bytes` starts at the IP header and may be cut short; `wire_len` is the
/// packet's length on the wire in octets, at least that of the packet: padding
/// of the link may follow it. Beyond 65535 octets, which the length fields can't
/// hold, it is the only length, and is believed for TCP (segments that the kernel
/// has not cut yet).
///
/// What [`Checksums`] says is verified; the transport checksum only if all of the
/// packet is here, so not for fragments.
///
/// # Errors
/// [`Malformed`], if a header is absurd or cut off, or the addresses are ones
/// that no packet may bear.
pub fn parse(bytes: &[u8], wire_len: u32, checksums: Checksums) -> Result<Packet<'_>, Malformed> {
    parse_where(bytes, wire_len, checksums, Loopback::Refuse)
}

/// As [`parse`], where loopback addresses may be legal.
///
/// # Errors
/// As [`parse`].
pub fn parse_where(
    bytes: &[u8],
    wire_len: u32,
    checksums: Checksums,
    loopback: Loopback,
) -> Result<Packet<'_>, Malformed> {
    match Plain::of(bytes, wire_len, checksums).and_then(|plain| plain.packet()) {
        Some(packet) => Ok(packet),
        None => any(bytes, wire_len, checksums, loopback),
    }
}

/// Reads any packet.
#[inline(never)]
pub(super) fn any(
    bytes: &[u8],
    wire_len: u32,
    checksums: Checksums,
    loopback: Loopback,
) -> Result<Packet<'_>, Malformed> {
    let bytes = bytes.get(..wire_len as usize).unwrap_or(bytes);
    let verify = checksums != Checksums::Trust;
    let header = header(bytes, wire_len, checksums == Checksums::Verify)?;
    if header.offset as usize > bytes.len() {
        // The last extension header is cut off, and with it whatever is behind.
        return Err(Malformed::CutOff);
    }
    let transport = transport(bytes, &header, verify)?;
    match (header.src, header.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => check_v4(src, dst, &transport, loopback)?,
        (IpAddr::V6(src), IpAddr::V6(dst)) => check_v6(&src, &dst, &transport, loopback)?,
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {}
    }
    Ok(Packet {
        src: header.src,
        dst: header.dst,
        protocol: header.protocol,
        hop_limit: header.hop_limit,
        len: header.len,
        transport_offset: header.offset as usize,
        transport,
    })
}

/// Reads the IP header, extension headers included. `verify`: also its checksum.
pub(super) fn header(bytes: &[u8], wire_len: u32, verify: bool) -> Result<Header, Malformed> {
    match bytes.first().map(|first| first >> 4) {
        Some(4) => ipv4::header(bytes, wire_len, verify),
        Some(6) => ipv6::header(bytes, wire_len),
        Some(_) => Err(Malformed::Version),
        None if wire_len == 0 => Err(Malformed::TooShort),
        None => Err(Malformed::CutOff),
    }
}

/// Reads what is behind the IP header.
fn transport<'a>(bytes: &'a [u8], header: &Header, verify: bool) -> Result<Transport<'a>, Malformed> {
    if header.fragment == Fragment::Later {
        return Ok(Transport::Fragment);
    }
    let end = bytes.len().min(header.len as usize);
    let body = Body {
        bytes: bytes.get(header.offset as usize..end).unwrap_or_default(),
        len: header.len.saturating_sub(header.offset),
        fragment: header.fragment,
    };
    let whole = header.fragment == Fragment::Whole && body.bytes.len() == body.len as usize;
    let pseudo = (verify && whole && !header.readdressed).then_some((header.src, header.dst));
    match header.protocol {
        Protocol::TCP => transport::tcp(&body, pseudo).map(Transport::Tcp),
        Protocol::UDP => transport::udp(&body, pseudo).map(Transport::Udp),
        Protocol::ICMP if header.src.is_ipv4() => icmp::v4(&body, pseudo.is_some()).map(Transport::Icmp),
        Protocol::ICMPV6 if header.src.is_ipv6() => icmp::v6(&body, pseudo).map(Transport::Icmp),
        Protocol::ICMP | Protocol::ICMPV6 => Err(Malformed::IcmpFamily),
        Protocol(_) => Ok(Transport::Other),
    }
}

/// Addresses that no legal IPv4 packet bears.
///
/// Not refused: `0.0.0.0` as the source of UDP (DHCP), of router solicitations
/// and address mask requests, and of IGMP; 240.0.0.0/4, which Linux routes.
fn check_v4(
    src: Ipv4Addr,
    dst: Ipv4Addr,
    transport: &Transport<'_>,
    loopback: Loopback,
) -> Result<(), Malformed> {
    if src.is_multicast() {
        return Err(Malformed::SourceMulticast);
    }
    if src.is_broadcast() {
        return Err(Malformed::SourceBroadcast);
    }
    if src.is_loopback() && loopback == Loopback::Refuse {
        return Err(Malformed::SourceLoopback);
    }
    if dst.is_unspecified() {
        return Err(Malformed::DestinationUnspecified);
    }
    if src.is_unspecified() && expects_answer(transport) {
        return Err(Malformed::SourceUnspecified);
    }
    if let Transport::Tcp(segment) = transport {
        if dst.is_multicast() || dst.is_broadcast() {
            return Err(Malformed::TcpMulticast);
        }
        if src == dst && segment.src_port == segment.dst_port {
            return Err(Malformed::Land);
        }
    }
    Ok(())
}

/// Addresses that no legal IPv6 packet bears.
///
/// Not refused: `::` as the source of duplicate address detection, router
/// solicitations and MLD (RFC 4862 §5.4.2, RFC 4861 §4.1, RFC 3590).
fn check_v6(
    src: &Ipv6Addr,
    dst: &Ipv6Addr,
    transport: &Transport<'_>,
    loopback: Loopback,
) -> Result<(), Malformed> {
    if src.is_multicast() {
        return Err(Malformed::SourceMulticast);
    }
    if src.is_loopback() && loopback == Loopback::Refuse {
        return Err(Malformed::SourceLoopback);
    }
    if dst.is_unspecified() {
        return Err(Malformed::DestinationUnspecified);
    }
    if src.to_ipv4_mapped().is_some() || dst.to_ipv4_mapped().is_some() {
        return Err(Malformed::MappedAddress);
    }
    if src.is_unspecified() && !matches!(transport, Transport::Icmp(IcmpMessage::Other { .. })) {
        return Err(Malformed::SourceUnspecified);
    }
    if let Transport::Tcp(segment) = transport {
        if dst.is_multicast() {
            return Err(Malformed::TcpMulticast);
        }
        if src == dst && segment.src_port == segment.dst_port {
            return Err(Malformed::Land);
        }
    }
    Ok(())
}

/// Whether nobody sends this without an address of their own.
fn expects_answer(transport: &Transport<'_>) -> bool {
    match transport {
        Transport::Tcp(_)
        | Transport::Icmp(
            IcmpMessage::EchoRequest { .. } | IcmpMessage::EchoReply { .. } | IcmpMessage::Error { .. },
        ) => true,
        Transport::Icmp(IcmpMessage::Other { .. })
        | Transport::Udp(_)
        | Transport::Other
        | Transport::Fragment => false,
    }
}
