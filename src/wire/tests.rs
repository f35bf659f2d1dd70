//! Tests of the wire, and the packets that they start from.

mod bare;
mod built;
mod laws;
mod oracle;
mod reasons;
mod sequence;
mod sound;
mod sums;

use proptest::prelude::ProptestConfig;

use super::{
    Checksums, Echo, Flags, FourTuple, Malformed, Packet, Protocol, RawPacket, SegmentBuilder, SeqNum, build,
    checksum::Sum, parse,
};

/// Extension header numbers, spelled again so that a wrong one in the parser shows.
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const ESP: u8 = 50;
const AUTHENTICATION: u8 = 51;
const NO_NEXT: u8 = 59;
const DESTINATION_OPTIONS: u8 = 60;

/// Eight octets of extension header that hold nothing but padding.
const PADDING: [u8; 8] = [0, 0, 1, 4, 0, 0, 0, 0];

/// How many cases a law is tried on. A failure prints its smallest case, which
/// then becomes a test of its own; nothing is written to disk.
fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

fn v4() -> FourTuple {
    FourTuple { src: [192, 0, 2, 1].into(), src_port: 4000, dst: [198, 51, 100, 2].into(), dst_port: 80 }
}

fn v6() -> FourTuple {
    FourTuple {
        src: "2001:db8::1".parse().unwrap(),
        src_port: 4000,
        dst: "2001:db8:f::2".parse().unwrap(),
        dst_port: 80,
    }
}

/// One packet of each kind and family that every test agrees is fine.
fn sound_packets() -> Vec<RawPacket> {
    [v4(), v6()]
        .into_iter()
        .flat_map(|tuple| {
            let echo = build::icmp_echo(tuple.src, tuple.dst, Echo::Request, 7, 1, b"ping");
            let (kind, code) = if tuple.src.is_ipv4() { (11, 0) } else { (3, 0) };
            [
                syn(tuple),
                segment(tuple),
                datagram(tuple),
                echo.clone(),
                answer(tuple, kind, code, &echo.bytes),
            ]
        })
        .collect()
}

fn syn(tuple: FourTuple) -> RawPacket {
    SegmentBuilder::new(tuple)
        .flags(Flags::SYN)
        .seq(SeqNum(1000))
        .mss(1460)
        .sack_permitted()
        .timestamps(1, 0)
        .window_scale(7)
        .build()
}

fn segment(tuple: FourTuple) -> RawPacket {
    SegmentBuilder::new(tuple).seq(SeqNum(1001)).ack(SeqNum(9)).payload(b"some data").build()
}

fn datagram(tuple: FourTuple) -> RawPacket {
    build::udp(tuple, b"some data")
}

/// An ICMP error that the destination of `tuple` sends back.
fn answer(tuple: FourTuple, kind: u8, code: u8, quoted: &[u8]) -> RawPacket {
    build::icmp_error(tuple.dst, tuple.src, kind, code, quoted)
}

fn read(packet: &RawPacket) -> Result<Packet<'_>, Malformed> {
    parse(&packet.bytes, packet.wire_len(), Checksums::Verify)
}

fn read_trusting(packet: &RawPacket) -> Result<Packet<'_>, Malformed> {
    parse(&packet.bytes, packet.wire_len(), Checksums::Trust)
}

/// Octets overwritten.
fn changed(mut packet: RawPacket, at: usize, octets: &[u8]) -> RawPacket {
    packet.bytes[at..at + octets.len()].copy_from_slice(octets);
    packet
}

/// A new IPv4 header checksum.
fn rechecked(mut packet: RawPacket) -> RawPacket {
    let header_len = usize::from(packet.bytes[0] & 15) * 4;
    packet.bytes[10..12].fill(0);
    let checksum = Sum::new().bytes(&packet.bytes[..header_len]).checksum();
    changed(packet, 10, &checksum.to_be_bytes())
}

/// An IPv4 packet with options put into its header, a multiple of four octets.
fn with_options(packet: &RawPacket, options: &[u8]) -> RawPacket {
    let mut bytes = packet.bytes[..20].to_vec();
    bytes[0] += u8::try_from(options.len() / 4).unwrap();
    bytes.extend_from_slice(options);
    bytes.extend_from_slice(&packet.bytes[20..]);
    let total = u16::try_from(bytes.len()).unwrap();
    bytes[2..4].copy_from_slice(&total.to_be_bytes());
    rechecked(RawPacket { bytes })
}

/// The IPv4 fragment that carries octets `from..to` of the packet's body.
fn fragment_v4(packet: &RawPacket, from: usize, to: usize, more: bool) -> RawPacket {
    let mut bytes = packet.bytes[..20].to_vec();
    bytes.extend_from_slice(&packet.bytes[20 + from..20 + to]);
    let total = u16::try_from(bytes.len()).unwrap();
    bytes[2..4].copy_from_slice(&total.to_be_bytes());
    let field = u16::try_from(from / 8).unwrap() | if more { 0x2000 } else { 0 };
    bytes[6..8].copy_from_slice(&field.to_be_bytes());
    rechecked(RawPacket { bytes })
}

/// The IPv6 fragment that carries octets `from..to` of the packet's body.
fn fragment_v6(packet: &RawPacket, from: usize, to: usize, more: bool) -> RawPacket {
    let header = fragment_header(from / 8, more);
    chained(&[(FRAGMENT, &header)], Protocol(packet.bytes[6]), &packet.bytes[40 + from..40 + to])
}

fn fragment_header(offset: usize, more: bool) -> [u8; 8] {
    let [high, low] = (u16::try_from(offset).unwrap() << 3 | u16::from(more)).to_be_bytes();
    [0, 0, high, low, 0, 0, 0, 1]
}

/// An IPv6 packet with these extension headers before `body`. The first octet of
/// each, its next header, is filled in.
fn chained(headers: &[(u8, &[u8])], protocol: Protocol, body: &[u8]) -> RawPacket {
    let mut octets = Vec::new();
    for (index, (_, header)) in headers.iter().enumerate() {
        let start = octets.len();
        octets.extend_from_slice(header);
        octets[start] = headers.get(index + 1).map_or(protocol.0, |(kind, _)| *kind);
    }
    octets.extend_from_slice(body);
    let first = headers.first().map_or(protocol.0, |(kind, _)| *kind);
    build::ip(v6().src, v6().dst, Protocol(first), &octets)
}

/// An IPv6 packet with extension headers before its TCP header.
fn chained_tcp(headers: &[(u8, &[u8])]) -> RawPacket {
    chained(headers, Protocol::TCP, &segment(v6()).bytes[40..])
}
