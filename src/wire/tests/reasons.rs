//! Every reason: a sound packet, one field changed.

use std::collections::HashSet;

use super::*;

struct Case {
    what: &'static str,
    reason: Malformed,
    /// The packet before the change, which must be sound.
    base: RawPacket,
    bytes: Vec<u8>,
    wire_len: u32,
    checksums: Checksums,
}

/// A case whose checksums the change has broken too, so they are not looked at.
fn case(what: &'static str, reason: Malformed, base: &RawPacket, packet: RawPacket) -> Case {
    let wire_len = packet.wire_len();
    let checksums = Checksums::Trust;
    Case { what, reason, base: base.clone(), bytes: packet.bytes, wire_len, checksums }
}

fn overwritten(what: &'static str, reason: Malformed, base: &RawPacket, at: usize, octets: &[u8]) -> Case {
    case(what, reason, base, changed(base.clone(), at, octets))
}

fn verified(case: Case) -> Case {
    Case { checksums: Checksums::Verify, ..case }
}

/// The packet ends here, on the wire too; its length fields are left as they are.
fn ends(what: &'static str, reason: Malformed, base: &RawPacket, len: usize) -> Case {
    let bytes = base.bytes[..len].to_vec();
    Case { wire_len: len as u32, bytes, ..case(what, reason, base, base.clone()) }
}

/// The copy ends here, not the packet.
fn cut(what: &'static str, base: &RawPacket, len: usize) -> Case {
    let bytes = base.bytes[..len].to_vec();
    Case { bytes, ..case(what, Malformed::CutOff, base, base.clone()) }
}

/// The packet, and its IP length, end here.
fn shortened(what: &'static str, reason: Malformed, base: &RawPacket, len: usize) -> Case {
    let mut packet = RawPacket { bytes: base.bytes[..len].to_vec() };
    let (at, field) = if base.bytes[0] >> 4 == 4 { (2, len) } else { (4, len - 40) };
    packet = changed(packet, at, &u16::try_from(field).unwrap().to_be_bytes());
    case(what, reason, base, packet)
}

fn ip_cases() -> Vec<Case> {
    let (tcp, tcp6) = (segment(v4()), segment(v6()));
    let options = with_options(&tcp, &[148, 4, 0, 0]);
    vec![
        ends("nothing at all", Malformed::TooShort, &tcp, 0),
        ends("19 octets of IPv4", Malformed::TooShort, &tcp, 19),
        ends("39 octets of IPv6", Malformed::TooShort, &tcp6, 39),
        cut("nothing copied", &tcp, 0),
        cut("IPv4 header cut", &tcp, 19),
        cut("IPv4 options cut", &options, 22),
        cut("TCP header cut", &tcp, 39),
        cut("IPv6 header cut", &tcp6, 39),
        cut("TCP options cut", &syn(v4()), 45),
        cut("extension header cut", &chained_tcp(&[(ROUTING, &[0, 0, 2, 0, 0, 0, 0, 0])]), 44),
        cut(
            "extension's options cut",
            &chained_tcp(&[(HOP_BY_HOP, &[0, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])]),
            50,
        ),
        cut(
            "extension before another protocol cut",
            &chained(
                &[(ROUTING, &[0, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])],
                Protocol(132),
                &[1; 12],
            ),
            50,
        ),
        cut("quoted packet cut", &answer(v4(), 3, 1, &tcp.bytes), 40),
        cut("quoted IPv6 packet cut", &answer(v6(), 1, 0, &tcp6.bytes), 90),
        overwritten("version 5", Malformed::Version, &tcp, 0, &[0x55]),
        overwritten("version 0", Malformed::Version, &tcp, 0, &[0x05]),
        overwritten("IHL 4", Malformed::Ipv4HeaderLength, &tcp, 0, &[0x44]),
        overwritten(
            "IHL beyond the packet",
            Malformed::Ipv4TotalLength,
            &datagram(FourTuple { ..v4() }),
            0,
            &[0x4f],
        ),
        overwritten("total length below the header", Malformed::Ipv4TotalLength, &tcp, 2, &[0, 19]),
        overwritten("total length 0", Malformed::Ipv4TotalLength, &tcp, 2, &[0, 0]),
        overwritten("total length beyond the packet", Malformed::Ipv4TotalLength, &tcp, 2, &[0, 50]),
        verified(overwritten("header checksum", Malformed::Ipv4Checksum, &tcp, 10, &[0, 1])),
        verified(overwritten("TTL without its checksum", Malformed::Ipv4Checksum, &tcp, 8, &[63])),
        overwritten("option length 0", Malformed::Ipv4Options, &options, 21, &[0]),
        overwritten("option length 1", Malformed::Ipv4Options, &options, 21, &[1]),
        overwritten("option beyond the header", Malformed::Ipv4Options, &options, 21, &[5]),
        overwritten("option without a length", Malformed::Ipv4Options, &options, 20, &[1, 1, 1, 148]),
        overwritten("loose source route", Malformed::SourceRoute, &options, 20, &[131]),
        overwritten("strict source route", Malformed::SourceRoute, &options, 20, &[1, 137, 3, 4]),
        overwritten("payload beyond the packet", Malformed::Ipv6PayloadLength, &tcp6, 4, &[0, 200]),
    ]
}

fn extension_cases() -> Vec<Case> {
    let tcp6 = segment(v6());
    let hop = chained_tcp(&[(HOP_BY_HOP, &PADDING)]);
    let destination = chained_tcp(&[(DESTINATION_OPTIONS, &PADDING)]);
    let authentication = chained_tcp(&[(AUTHENTICATION, &[0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1])]);
    let routing = chained_tcp(&[(ROUTING, &[0, 0, 4, 1, 0, 0, 0, 0])]);
    let whole = chained_tcp(&[(FRAGMENT, &fragment_header(0, false))]);
    let most = chained_tcp(&[(DESTINATION_OPTIONS, &PADDING as &[u8]); 8]);
    let two = chained_tcp(&[(DESTINATION_OPTIONS, &PADDING), (DESTINATION_OPTIONS, &PADDING)]);
    let split = fragment_v6(&tcp6, 0, 24, true);
    vec![
        overwritten(
            "jumbo payload in a small packet",
            Malformed::Jumbogram,
            &hop,
            42,
            &[0xc2, 4, 0, 1, 0, 0],
        ),
        overwritten("payload length 0 with an option header", Malformed::Jumbogram, &hop, 4, &[0, 0]),
        overwritten("jumbo payload of a wrong size", Malformed::Jumbogram, &hop, 42, &[0xc2, 2, 0, 1, 1, 0]),
        overwritten("hop-by-hop beyond the packet", Malformed::ExtensionLength, &hop, 41, &[200]),
        overwritten(
            "destination options beyond the packet",
            Malformed::ExtensionLength,
            &destination,
            41,
            &[9],
        ),
        overwritten("routing header beyond the packet", Malformed::ExtensionLength, &routing, 41, &[9]),
        overwritten("AH of length 0", Malformed::ExtensionLength, &authentication, 41, &[0]),
        overwritten("AH beyond the packet", Malformed::ExtensionLength, &authentication, 41, &[200]),
        shortened("four octets of extension", Malformed::ExtensionLength, &hop, 44),
        shortened("an extension and nothing", Malformed::TcpTooShort, &hop, 48),
        overwritten("option beyond hop-by-hop", Malformed::ExtensionOption, &hop, 43, &[5]),
        overwritten(
            "option beyond destination options",
            Malformed::ExtensionOption,
            &destination,
            43,
            &[255],
        ),
        overwritten("option without a length", Malformed::ExtensionOption, &hop, 42, &[1, 3, 0, 0, 0, 7]),
        overwritten("hop-by-hop second", Malformed::ExtensionOrder, &two, 40, &[HOP_BY_HOP]),
        case(
            "two fragment headers",
            Malformed::ExtensionOrder,
            &whole,
            chained_tcp(&[(FRAGMENT, &fragment_header(0, false)), (FRAGMENT, &fragment_header(0, false))]),
        ),
        case(
            "a fragment of a fragment",
            Malformed::ExtensionOrder,
            &split,
            chained(
                &[(FRAGMENT, &fragment_header(0, true)), (FRAGMENT, &fragment_header(0, true))],
                Protocol::TCP,
                &tcp6.bytes[40..64],
            ),
        ),
        overwritten(
            "ninth extension header",
            Malformed::ExtensionCount,
            &most,
            40 + 56,
            &[DESTINATION_OPTIONS],
        ),
        overwritten("routing type 0", Malformed::RoutingType0, &routing, 42, &[0]),
        case(
            "extension cut by fragmentation",
            Malformed::TinyFragment,
            &split,
            chained(
                &[(FRAGMENT, &fragment_header(0, true)), (DESTINATION_OPTIONS, &[0, 1, 1, 12, 0, 0, 0, 0])],
                Protocol::TCP,
                &[],
            ),
        ),
    ]
}

fn fragment_cases() -> Vec<Case> {
    let (tcp, tcp6, udp) = (syn(v4()), syn(v6()), datagram(v4()));
    let (first, first6) = (fragment_v4(&tcp, 0, 40, true), fragment_v6(&tcp6, 0, 40, true));
    let last = fragment_v4(&udp, 8, 17, false);
    let last6 = fragment_v6(&datagram(v6()), 8, 17, false);
    vec![
        case("16 octets of TCP", Malformed::TinyFragment, &first, fragment_v4(&tcp, 0, 16, true)),
        case("TCP without its options", Malformed::TinyFragment, &first, fragment_v4(&tcp, 0, 32, true)),
        case("16 octets of TCP over IPv6", Malformed::TinyFragment, &first6, fragment_v6(&tcp6, 0, 16, true)),
        case("flags overwritten", Malformed::FragmentOverlap, &first, fragment_v4(&tcp, 8, 40, false)),
        case(
            "flags overwritten, more to come",
            Malformed::FragmentOverlap,
            &first,
            fragment_v4(&tcp, 8, 24, true),
        ),
        case(
            "flags overwritten over IPv6",
            Malformed::FragmentOverlap,
            &first6,
            fragment_v6(&tcp6, 8, 40, false),
        ),
        case("odd length", Malformed::FragmentLength, &first, fragment_v4(&udp, 0, 12, true)),
        case("odd length over IPv6", Malformed::FragmentLength, &first6, fragment_v6(&tcp6, 0, 39, true)),
        case("empty", Malformed::FragmentLength, &last, fragment_v4(&udp, 8, 8, false)),
        case("empty, more to come", Malformed::FragmentLength, &first, fragment_v4(&tcp, 0, 0, true)),
        overwritten("ping of death", Malformed::FragmentTooLong, &last, 6, &[0x1f, 0xff]),
        overwritten("ping of death over IPv6", Malformed::FragmentTooLong, &last6, 42, &[0xff, 0xf8]),
    ]
}

fn transport_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (tuple, ip) in [(v4(), 20), (v6(), 40)] {
        let (tcp, udp) = (segment(tuple), datagram(tuple));
        let echo = build::icmp_echo(tuple.src, tuple.dst, Echo::Request, 1, 1, b"ping!");
        let other = if ip == 20 { 58 } else { 1 };
        cases.extend([
            shortened("19 octets of TCP", Malformed::TcpTooShort, &tcp, ip + 19),
            shortened("no TCP at all", Malformed::TcpTooShort, &tcp, ip),
            overwritten("data offset 4", Malformed::TcpDataOffset, &tcp, ip + 12, &[0x40]),
            overwritten("data offset beyond the segment", Malformed::TcpDataOffset, &tcp, ip + 12, &[0x80]),
            verified(overwritten("TCP checksum", Malformed::TcpChecksum, &tcp, ip + 16, &[1, 2])),
            verified(overwritten("changed data", Malformed::TcpChecksum, &tcp, ip + 28, &[0])),
            shortened("7 octets of UDP", Malformed::UdpTooShort, &udp, ip + 7),
            overwritten("UDP length 7", Malformed::UdpLength, &udp, ip + 4, &[0, 7]),
            overwritten("UDP length 0", Malformed::UdpLength, &udp, ip + 4, &[0, 0]),
            overwritten("UDP length beyond the packet", Malformed::UdpLength, &udp, ip + 4, &[0, 18]),
            verified(overwritten("UDP checksum", Malformed::UdpChecksum, &udp, ip + 6, &[1, 2])),
            verified(overwritten("changed UDP data", Malformed::UdpChecksum, &udp, ip + 16, &[0])),
            shortened("7 octets of ICMP", Malformed::IcmpTooShort, &echo, ip + 7),
            verified(overwritten("ICMP checksum", Malformed::IcmpChecksum, &echo, ip + 2, &[1, 2])),
            verified(overwritten("changed ICMP data", Malformed::IcmpChecksum, &echo, ip + 12, &[0])),
            overwritten(
                "the other family's ICMP",
                Malformed::IcmpFamily,
                &udp,
                if ip == 20 { 9 } else { 6 },
                &[other],
            ),
        ]);
    }
    cases
}

fn embedded_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (tuple, ip, kind) in [(v4(), 20, 3), (v6(), 40, 1)] {
        let quoted = segment(tuple).bytes;
        let error = answer(tuple, kind, 1, &quoted);
        let about_icmp =
            answer(tuple, kind, 1, &build::icmp_echo(tuple.src, tuple.dst, Echo::Request, 1, 1, &[]).bytes);
        let at = ip + 8;
        cases.extend([
            shortened("nothing quoted", Malformed::EmbeddedTooShort, &error, at),
            shortened("an IP header cut", Malformed::EmbeddedTooShort, &error, at + ip - 1),
            shortened("an IP header and 7 octets", Malformed::EmbeddedTooShort, &error, at + ip + 7),
            overwritten(
                "the other version",
                Malformed::EmbeddedHeader,
                &error,
                at,
                &[if ip == 20 { 0x65 } else { 0x40 }],
            ),
            overwritten("about an error", Malformed::EmbeddedError, &about_icmp, at + ip, &[kind]),
        ]);
    }
    let error = answer(v4(), 3, 1, &segment(v4()).bytes);
    cases.push(overwritten("quoted IHL 4", Malformed::EmbeddedHeader, &error, 28, &[0x44]));
    cases.push(overwritten("about a later fragment", Malformed::EmbeddedFragment, &error, 28 + 6, &[0, 3]));
    let hop = chained_tcp(&[(HOP_BY_HOP, &PADDING)]);
    let error = answer(v6(), 1, 1, &hop.bytes);
    cases.push(overwritten(
        "quoted extension beyond its packet",
        Malformed::EmbeddedHeader,
        &error,
        48 + 41,
        &[99],
    ));
    let later = fragment_v6(&segment(v6()), 16, 29, false);
    cases.push(case(
        "about a later fragment over IPv6",
        Malformed::EmbeddedFragment,
        &error,
        answer(v6(), 1, 1, &later.bytes),
    ));
    cases
}

fn address_cases() -> Vec<Case> {
    let with = |what, reason, tuple: FourTuple, make: fn(FourTuple) -> RawPacket| {
        let base = if tuple.dst.is_ipv4() { v4() } else { v6() };
        verified(case(what, reason, &make(base), make(tuple)))
    };
    let from = |address: &str| {
        let src: std::net::IpAddr = address.parse().unwrap();
        FourTuple { src, ..if src.is_ipv4() { v4() } else { v6() } }
    };
    let to = |address: &str| {
        let dst: std::net::IpAddr = address.parse().unwrap();
        FourTuple { dst, ..if dst.is_ipv4() { v4() } else { v6() } }
    };
    let echo: fn(FourTuple) -> RawPacket = |t| build::icmp_echo(t.src, t.dst, Echo::Request, 1, 1, &[]);
    let itself = |tuple: FourTuple| FourTuple { dst: tuple.src, dst_port: tuple.src_port, ..tuple };
    vec![
        with("from 224.0.0.1", Malformed::SourceMulticast, from("224.0.0.1"), datagram),
        with("from ff02::1", Malformed::SourceMulticast, from("ff02::1"), datagram),
        with("from 255.255.255.255", Malformed::SourceBroadcast, from("255.255.255.255"), datagram),
        with("from 127.0.0.1", Malformed::SourceLoopback, from("127.0.0.1"), datagram),
        with("from 127.255.255.254", Malformed::SourceLoopback, from("127.255.255.254"), syn),
        with("from ::1", Malformed::SourceLoopback, from("::1"), datagram),
        with("TCP from 0.0.0.0", Malformed::SourceUnspecified, from("0.0.0.0"), syn),
        with("echo from 0.0.0.0", Malformed::SourceUnspecified, from("0.0.0.0"), echo),
        with("TCP from ::", Malformed::SourceUnspecified, from("::"), syn),
        with("UDP from ::", Malformed::SourceUnspecified, from("::"), datagram),
        with("echo from ::", Malformed::SourceUnspecified, from("::"), echo),
        with("from ::ffff:192.0.2.1", Malformed::MappedAddress, from("::ffff:192.0.2.1"), datagram),
        with("to ::ffff:192.0.2.1", Malformed::MappedAddress, to("::ffff:192.0.2.1"), datagram),
        with("to 0.0.0.0", Malformed::DestinationUnspecified, to("0.0.0.0"), datagram),
        with("to ::", Malformed::DestinationUnspecified, to("::"), datagram),
        with("TCP to 224.0.0.1", Malformed::TcpMulticast, to("224.0.0.1"), syn),
        with("TCP to 255.255.255.255", Malformed::TcpMulticast, to("255.255.255.255"), syn),
        with("TCP to ff02::1", Malformed::TcpMulticast, to("ff02::1"), syn),
        with("land", Malformed::Land, itself(v4()), syn),
        with("land over IPv6", Malformed::Land, itself(v6()), segment),
    ]
}

fn all_cases() -> Vec<Case> {
    [ip_cases(), extension_cases(), fragment_cases(), transport_cases(), embedded_cases(), address_cases()]
        .into_iter()
        .flatten()
        .collect()
}

#[test]
fn one_changed_field_gives_its_reason() {
    for Case { what, reason, base, bytes, wire_len, checksums } in all_cases() {
        assert!(
            parse(&base.bytes, base.wire_len(), checksums).is_ok(),
            "{what}: the packet before the change: {:?}",
            parse(&base.bytes, base.wire_len(), checksums)
        );
        assert_eq!(parse(&bytes, wire_len, checksums), Err(reason), "{what}");
    }
}

#[test]
fn every_reason_has_a_case() {
    let covered: HashSet<_> = all_cases().iter().map(|case| case.reason).collect();
    let missing: Vec<_> = Malformed::ALL.iter().filter(|reason| !covered.contains(reason)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn names_are_stable_words_and_unique() {
    let mut names = HashSet::new();
    for (index, reason) in Malformed::ALL.iter().enumerate() {
        let name = reason.name();
        assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'), "{name}");
        assert!(names.insert(name), "{name} twice");
        assert_eq!(reason.index(), index);
        assert_eq!(Malformed::from_name(name), Some(*reason));
        assert_eq!(reason.to_string(), name);
    }
    assert_eq!(Malformed::from_name("nonsense"), None);
}

/// What a router does to an option on its way mends the header's checksum later.
#[test]
fn the_header_checksum_is_believed_where_the_kernel_verified_it() {
    let base = segment(v4());
    let rewritten = changed(base.clone(), 8, &[63]);
    let read = |packet: &RawPacket, checksums| {
        parse(&packet.bytes, packet.wire_len(), checksums).map(|packet| packet.protocol)
    };
    assert_eq!(read(&rewritten, Checksums::Verify), Err(Malformed::Ipv4Checksum));
    assert!(read(&rewritten, Checksums::VerifyTransport).is_ok());
    let last = base.bytes.len() - 1;
    let broken = changed(base.clone(), last, &[base.bytes[last] ^ 1]);
    assert_eq!(read(&broken, Checksums::VerifyTransport), read(&broken, Checksums::Verify));
    assert!(read(&broken, Checksums::VerifyTransport).is_err());
}
