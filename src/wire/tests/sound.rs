//! What looks odd and is legal, and what is read from it.

use super::*;
use crate::wire::{Datagram, Embedded, IcmpMessage, Segment, TcpOptions, Transport};

/// The longest IPv4 total length, and the longest IPv6 packet with a length.
const LONGEST_V4: u32 = 65_535;
const LONGEST_V6: u32 = LONGEST_V4 + 40;

fn tcp_of(packet: &RawPacket) -> Segment {
    segment_in(read(packet).unwrap())
}

fn segment_in(packet: Packet<'_>) -> Segment {
    let Transport::Tcp(segment) = packet.transport else { panic!("{packet:?}") };
    segment
}

fn options(area: &[u8], flags: Flags) -> TcpOptions {
    tcp_of(&SegmentBuilder::new(v4()).flags(flags).raw_options(area).build()).options
}

#[test]
fn link_padding_is_not_data() {
    for packet in sound_packets() {
        let expected = read(&packet).unwrap();
        let mut padded = packet.clone();
        padded.bytes.extend_from_slice(&[0xaa; 26]);
        assert_eq!(read(&padded).unwrap(), expected);
        // The padding was on the wire, but not copied.
        assert_eq!(parse(&packet.bytes, padded.wire_len(), Checksums::Verify).unwrap(), expected);
    }
}

#[test]
fn lengths_come_from_ip_not_from_the_copy() {
    for tuple in [v4(), v6()] {
        let packet = SegmentBuilder::new(tuple).ack(SeqNum(1)).payload_len(1400).build();
        let copied = &packet.bytes[..128];
        let parsed = parse(copied, packet.wire_len(), Checksums::Verify).unwrap();
        assert_eq!(parsed.len, packet.wire_len());
        assert_eq!(segment_in(parsed).payload_len, 1400);
    }
}

#[test]
fn a_packet_of_64_kib_is_read() {
    for (tuple, header) in [(v4(), 40), (v6(), 60)] {
        let longest = if header == 40 { LONGEST_V4 } else { LONGEST_V6 };
        let packet = SegmentBuilder::new(tuple).payload_len((longest - header) as usize).build();
        assert_eq!(packet.wire_len(), longest);
        assert_eq!(tcp_of(&packet).payload_len, longest - header);
    }
}

#[test]
fn oversized_tcp_has_the_length_that_the_queue_says() {
    for (tuple, header) in [(v4(), 40), (v6(), 60)] {
        let packet = SegmentBuilder::new(tuple).payload_len(200_000).build();
        assert_eq!(packet.bytes[if header == 40 { 2..4 } else { 4..6 }], [0, 0]);
        let parsed = parse(&packet.bytes[..128], packet.wire_len(), Checksums::Trust).unwrap();
        assert_eq!(parsed.len, 200_000 + header);
        assert_eq!(segment_in(parsed).payload_len, 200_000);
        // The same length field in a packet that would fit in it is a lie.
        let longest = if header == 40 { LONGEST_V4 } else { LONGEST_V6 };
        assert!(parse(&packet.bytes, longest, Checksums::Trust).is_err());
        assert!(parse(&packet.bytes, longest + 1, Checksums::Trust).is_ok());
    }
}

#[test]
fn oversized_is_for_tcp_only() {
    let packet = build::udp(v4(), &vec![0; 70_000]);
    assert_eq!(read_trusting(&packet), Err(Malformed::Ipv4TotalLength));
    let packet = build::udp(v6(), &vec![0; 70_000]);
    assert_eq!(read_trusting(&packet), Err(Malformed::Jumbogram));
}

#[test]
fn the_kernels_jumbo_header_is_read_and_a_lying_one_is_not() {
    let body = SegmentBuilder::new(v6()).payload_len(100_000).build().bytes[40..].to_vec();
    let jumbo = |len: u32| {
        let [a, b, c, d] = len.to_be_bytes();
        chained(&[(HOP_BY_HOP, &[0, 0, 0xc2, 4, a, b, c, d])], Protocol::TCP, &body)
    };
    let honest = jumbo(8 + 20 + 100_000);
    let parsed = read_trusting(&honest).unwrap();
    assert_eq!((parsed.len, parsed.transport_offset), (honest.wire_len(), 48));
    assert_eq!(segment_in(parsed).payload_len, 100_000);
    for lie in [0, 8 + 20 + 99_999, u32::MAX] {
        assert_eq!(read_trusting(&jumbo(lie)), Err(Malformed::Jumbogram));
    }
    // An oversized packet with options, but without the jumbo one.
    let without = chained(&[(HOP_BY_HOP, &PADDING)], Protocol::TCP, &body);
    assert_eq!(read_trusting(&without), Err(Malformed::Jumbogram));
}

#[test]
fn ipv4_options_are_stepped_over() {
    // Router alert; record route with a pointer; no-operations and an end.
    for area in [&[148, 4, 0, 0][..], &[7, 7, 4, 0, 0, 0, 0, 0], &[1, 1, 1, 0], &[0, 99, 99, 99]] {
        let packet = with_options(&segment(v4()), area);
        let parsed = read(&packet).unwrap();
        assert_eq!(parsed.transport_offset, 20 + area.len());
        assert_eq!(segment_in(parsed), tcp_of(&segment(v4())));
    }
}

#[test]
fn df_on_a_fragment_and_the_reserved_bit_pass() {
    let last = fragment_v4(&datagram(v4()), 8, 17, false);
    for field in [0x4001_u16, 0x8001] {
        let packet = rechecked(changed(last.clone(), 6, &field.to_be_bytes()));
        assert_eq!(read(&packet).unwrap().transport, Transport::Fragment);
    }
}

#[test]
fn fragments_carry_their_transport_header_or_not() {
    for (packet, protocol, fragment, ip) in [
        (datagram(v4()), Protocol::UDP, fragment_v4 as fn(&RawPacket, usize, usize, bool) -> RawPacket, 20),
        (datagram(v6()), Protocol::UDP, fragment_v6, 48),
        (segment(v4()), Protocol::TCP, fragment_v4, 20),
        (segment(v6()), Protocol::TCP, fragment_v6, 48),
    ] {
        let first = fragment(&packet, 0, if protocol == Protocol::TCP { 24 } else { 16 }, true);
        let parsed = read(&first).unwrap();
        assert_eq!((parsed.protocol, parsed.transport_offset), (protocol, ip));
        match parsed.transport {
            Transport::Udp(datagram) => assert_eq!(datagram, Datagram { src_port: 4000, dst_port: 80 }),
            Transport::Tcp(segment) => assert_eq!((segment.seq, segment.payload_len), (SeqNum(1001), 4)),
            Transport::Icmp(_) | Transport::Other | Transport::Fragment => panic!("{parsed:?}"),
        }
        let last = fragment(&packet, 16, 17, false);
        let parsed = read(&last).unwrap();
        assert_eq!(parsed.transport, Transport::Fragment);
        assert_eq!((parsed.protocol, parsed.transport_offset), (protocol, ip));
    }
}

#[test]
fn an_atomic_fragment_is_a_whole_packet() {
    let packet = chained_tcp(&[(FRAGMENT, &fragment_header(0, false))]);
    let parsed = read(&packet).unwrap();
    assert_eq!(parsed.transport_offset, 48);
    assert_eq!(segment_in(parsed).payload_len, 9);
    // Its checksum is verified like any other's.
    assert_eq!(read(&changed(packet, 48 + 17, &[1])), Err(Malformed::TcpChecksum));
}

#[test]
fn extension_headers_lead_to_tcp() {
    let authentication: [u8; 16] = [0, 2, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 9, 9, 9, 9];
    let chains: [&[(u8, &[u8])]; 6] = [
        &[(HOP_BY_HOP, &PADDING)],
        &[(ROUTING, &[0, 0, 4, 0, 0, 0, 0, 0])],
        &[(AUTHENTICATION, &authentication)],
        &[(HOP_BY_HOP, &[0, 0, 5, 2, 0, 0, 0, 0]), (DESTINATION_OPTIONS, &PADDING)],
        &[
            (HOP_BY_HOP, &PADDING),
            (DESTINATION_OPTIONS, &PADDING),
            (ROUTING, &[0, 0, 2, 0, 0, 0, 0, 0]),
            (FRAGMENT, &fragment_header(0, false)),
            (AUTHENTICATION, &authentication),
            (DESTINATION_OPTIONS, &PADDING),
        ],
        &[(DESTINATION_OPTIONS, &PADDING as &[u8]); 8],
    ];
    for headers in chains {
        let packet = chained_tcp(headers);
        let parsed = read(&packet).unwrap();
        let octets: usize = headers.iter().map(|(_, header)| header.len()).sum();
        assert_eq!((parsed.protocol, parsed.transport_offset), (Protocol::TCP, 40 + octets), "{headers:?}");
        assert_eq!(segment_in(parsed), tcp_of(&segment(v6())));
    }
}

#[test]
fn a_packet_on_its_way_through_a_routing_header_keeps_its_checksum_to_itself() {
    // The pseudo header has the last segment's address, or the home address.
    let broken = changed(segment(v6()), 40 + 16, &[1, 2]);
    for (kind, header) in [
        (ROUTING, [0, 2, 4, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        (DESTINATION_OPTIONS, [0, 2, 1, 2, 0, 0, 0xc9, 16, 1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3, 4, 5, 6, 7]),
    ] {
        let packet = chained(&[(kind, &header)], Protocol::TCP, &broken.bytes[40..]);
        assert!(read(&packet).is_ok());
    }
    let arrived = chained(&[(ROUTING, &[0, 0, 4, 0, 0, 0, 0, 0])], Protocol::TCP, &broken.bytes[40..]);
    assert_eq!(read(&arrived), Err(Malformed::TcpChecksum));
}

#[test]
fn the_chain_ends_where_nothing_can_be_read() {
    for kind in [ESP, NO_NEXT, 132, 135, 255] {
        let packet = chained(&[(HOP_BY_HOP, &PADDING)], Protocol(kind), &[]);
        let parsed = read(&packet).unwrap();
        assert_eq!((parsed.protocol, parsed.transport), (Protocol(kind), Transport::Other));
        assert_eq!(parsed.transport_offset, 48);
    }
    let gre = build::ip(v4().src, v4().dst, Protocol(47), &[1, 2, 3]);
    assert_eq!(read(&gre).unwrap().transport, Transport::Other);
}

#[test]
fn every_flag_bit_is_kept() {
    for bits in 0..=255 {
        assert_eq!(tcp_of(&SegmentBuilder::new(v4()).flags(Flags(bits)).build()).flags, Flags(bits));
    }
}

#[test]
fn tcp_options_are_read_as_linux_reads_them() {
    let none = TcpOptions::default();
    let mss = TcpOptions { mss: Some(1460), ..none };
    let stamps = TcpOptions { timestamps: Some((1, 2)), ..none };
    let cases: [(&str, &[u8], TcpOptions); 16] = [
        ("nothing", &[], none),
        ("MSS", &[2, 4, 5, 180], mss),
        ("MSS behind no-operations", &[1, 1, 1, 1, 2, 4, 5, 180], mss),
        ("MSS of a wrong length", &[2, 3, 5, 1], none),
        ("behind an unknown option", &[99, 4, 0, 0, 2, 4, 5, 180], mss),
        ("behind an option of length 0", &[99, 0, 0, 0, 2, 4, 5, 180], none),
        ("behind an option of length 1", &[99, 1, 0, 0, 2, 4, 5, 180], none),
        ("before a broken option", &[2, 4, 5, 180, 3, 77, 7, 0], mss),
        ("behind the end", &[0, 0, 0, 0, 2, 4, 5, 180], none),
        ("of two the last", &[2, 4, 1, 1, 2, 4, 5, 180], mss),
        ("scale 255", &[3, 3, 255, 1], TcpOptions { window_scale: Some(14), ..none }),
        ("timestamps, aligned", &[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2], stamps),
        ("timestamps, not aligned", &[8, 10, 0, 0, 0, 1, 0, 0, 0, 2, 1, 1], stamps),
        ("Fast Open request", &[34, 2, 1, 1], TcpOptions { fast_open: true, ..none }),
        ("Fast Open, experimental", &[254, 4, 0xf9, 0x89], TcpOptions { fast_open: true, ..none }),
        ("another experiment", &[254, 4, 0xf9, 0x88], none),
    ];
    for (what, area, expected) in cases {
        assert_eq!(options(area, Flags::SYN), expected, "{what}");
    }
    let synack = options(&[4, 2, 3, 3, 7, 2, 4, 5, 180], Flags::SYN.with(Flags::ACK));
    assert_eq!(synack, TcpOptions { sack_permitted: true, window_scale: Some(7), ..mss });
}

#[test]
fn only_a_syn_negotiates() {
    let area = [2, 4, 5, 180, 3, 3, 7, 4, 2, 34, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2];
    let seen = options(&area, Flags::ACK);
    assert_eq!(seen, TcpOptions { timestamps: Some((1, 2)), ..TcpOptions::default() });
}

#[test]
fn the_highest_sack_edge_wraps() {
    let sack = |blocks: &[(u32, u32)]| {
        let blocks: Vec<_> = blocks.iter().map(|(left, right)| (SeqNum(*left), SeqNum(*right))).collect();
        tcp_of(&SegmentBuilder::new(v4()).ack(SeqNum(1)).sack(&blocks).build()).options.sack_high
    };
    assert_eq!(sack(&[(10, 20)]), Some(SeqNum(20)));
    assert_eq!(sack(&[(10, 20), (40, 50), (30, 35)]), Some(SeqNum(50)));
    assert_eq!(sack(&[(u32::MAX - 9, u32::MAX), (3, 5)]), Some(SeqNum(5)));
    assert_eq!(options(&[5, 8, 0, 0, 0, 1, 0, 0], Flags::ACK).sack_high, None);
    assert_eq!(options(&[5, 2], Flags::ACK).sack_high, None);
}

#[test]
fn udp_without_a_checksum_passes_and_its_tail_is_left_alone() {
    for (tuple, ip) in [(v4(), 20), (v6(), 40)] {
        let packet = changed(datagram(tuple), ip + 6, &[0, 0]);
        assert!(read(&packet).is_ok());
        // Eleven octets for UDP, six behind it.
        let short = build::udp(tuple, b"abc");
        let mut body = short.bytes[ip..].to_vec();
        body.extend_from_slice(b"behind");
        assert!(read(&build::ip(tuple.src, tuple.dst, Protocol::UDP, &body)).is_ok());
    }
}

#[test]
fn addresses_of_hosts_that_have_none_yet() {
    let nobody: std::net::IpAddr = [0, 0, 0, 0].into();
    let all: std::net::IpAddr = [255, 255, 255, 255].into();
    let dhcp = FourTuple { src: nobody, src_port: 68, dst: all, dst_port: 67 };
    assert!(read(&build::udp(dhcp, b"discover")).is_ok());
    assert!(read(&build::ip(nobody, [224, 0, 0, 22].into(), Protocol(2), &[0x22; 8])).is_ok(), "IGMP");
    let nobody: std::net::IpAddr = "::".parse().unwrap();
    let solicited: std::net::IpAddr = "ff02::1:ff00:1".parse().unwrap();
    // Duplicate address detection, MLD, router solicitation.
    for kind in [135, 143, 133] {
        let packet = build::icmp_error(nobody, solicited, kind, 0, &[0; 16]);
        let Transport::Icmp(IcmpMessage::Other { kind: read_kind, body, .. }) =
            read(&packet).unwrap().transport
        else {
            panic!()
        };
        assert_eq!((read_kind, body.len()), (kind, 20));
    }
    // A port forward back to its own host: the address is both, the ports differ.
    let hairpin = FourTuple { dst: v4().src, ..v4() };
    assert!(read(&syn(hairpin)).is_ok());
    assert!(read(&datagram(FourTuple { dst_port: 4000, ..hairpin })).is_ok());
}

fn embedded_in(packet: &RawPacket) -> Embedded {
    let parsed = read(packet).unwrap();
    let Transport::Icmp(IcmpMessage::Error { embedded, .. }) = parsed.transport else { panic!("{parsed:?}") };
    embedded
}

#[test]
fn errors_tell_what_they_are_about() {
    for (tuple, ip, kinds) in [(v4(), 20, &[3, 4, 5, 11, 12][..]), (v6(), 40, &[1, 2, 3, 4])] {
        let FourTuple { src, src_port, dst, dst_port } = tuple;
        for kind in kinds {
            let tcp =
                Embedded { src, dst, protocol: Protocol::TCP, src_port, dst_port, seq: Some(SeqNum(1001)) };
            let quoted = segment(tuple).bytes;
            assert_eq!(embedded_in(&answer(tuple, *kind, 0, &quoted)), tcp);
            // Eight octets behind its IP header are enough.
            assert_eq!(embedded_in(&answer(tuple, *kind, 0, &quoted[..ip + 8])), tcp);
            let udp = Embedded { protocol: Protocol::UDP, seq: None, ..tcp };
            assert_eq!(embedded_in(&answer(tuple, *kind, 0, &datagram(tuple).bytes)), udp);
            let echo = build::icmp_echo(src, dst, Echo::Reply, 0xbeef, 3, &[]);
            let about = embedded_in(&answer(tuple, *kind, 0, &echo.bytes));
            assert_eq!((about.src_port, about.dst_port, about.seq), (0xbeef, 0xbeef, None));
            let other = build::ip(src, dst, Protocol(47), &[]);
            let about = embedded_in(&answer(tuple, *kind, 0, &other.bytes));
            assert_eq!((about.protocol, about.src_port, about.dst_port), (Protocol(47), 0, 0));
        }
    }
}

#[test]
fn quoted_options_and_extension_headers_are_stepped_over() {
    let quoted = with_options(&segment(v4()), &[7, 7, 4, 0, 0, 0, 0, 0]);
    assert_eq!(embedded_in(&answer(v4(), 3, 4, &quoted.bytes[..36])).seq, Some(SeqNum(1001)));
    let quoted = chained_tcp(&[
        (HOP_BY_HOP, &PADDING),
        (FRAGMENT, &fragment_header(0, false)),
        (DESTINATION_OPTIONS, &PADDING),
    ]);
    let embedded = embedded_in(&answer(v6(), 2, 0, &quoted.bytes[..40 + 24 + 8]));
    assert_eq!((embedded.protocol, embedded.seq), (Protocol::TCP, Some(SeqNum(1001))));
    // A quoted first fragment, cut by the router that sent the error.
    let first = fragment_v6(&segment(v6()), 0, 24, true);
    assert_eq!(embedded_in(&answer(v6(), 3, 1, &first.bytes[..56])).dst_port, 80);
}

#[test]
fn quoted_lengths_and_checksums_prove_nothing() {
    let quoted = changed(segment(v4()), 2, &[0xff, 0xff, 1, 2, 0, 0, 1, 6, 3, 3]);
    assert_eq!(embedded_in(&answer(v4(), 11, 0, &quoted.bytes)).src_port, 4000);
}

#[test]
fn a_wire_length_below_the_copy_is_the_packets_end() {
    let packet = segment(v4());
    assert_eq!(parse(&packet.bytes, 48, Checksums::Trust), Err(Malformed::Ipv4TotalLength));
    assert_eq!(parse(&packet.bytes, 0, Checksums::Trust), Err(Malformed::TooShort));
}
