//! What is built says what it was told to say.

use std::net::IpAddr;

use super::*;
use crate::wire::{IcmpMessage, Transport};

#[test]
fn a_bare_segment() {
    for tuple in [v4(), v6()] {
        let packet = build::tcp(tuple, SeqNum(7), Some(SeqNum(9)), Flags::RST, 0);
        let parsed = read(&packet).unwrap();
        assert_eq!((parsed.src, parsed.dst, parsed.hop_limit), (tuple.src, tuple.dst, 64));
        let Transport::Tcp(segment) = parsed.transport else { panic!() };
        assert_eq!((segment.src_port, segment.dst_port), (4000, 80));
        assert_eq!((segment.seq, segment.ack, segment.window), (SeqNum(7), SeqNum(9), 0));
        assert_eq!(segment.flags, Flags::RST.with(Flags::ACK));
        assert_eq!(segment.payload_len, 0);
        let without = build::tcp(tuple, SeqNum(7), None, Flags::RST, 0);
        let Transport::Tcp(segment) = read(&without).unwrap().transport else { panic!() };
        assert_eq!((segment.flags, segment.ack), (Flags::RST, SeqNum(0)));
    }
}

#[test]
fn ipv4_is_not_to_be_fragmented() {
    let packet = build::tcp(v4(), SeqNum(0), None, Flags::RST, 0);
    assert_eq!(packet.bytes[6..8], [0x40, 0]);
    assert_eq!(packet.bytes.len(), 40);
}

#[test]
fn a_udp_checksum_is_never_zero() {
    // The source port that makes the sum all ones.
    let plain = build::udp(FourTuple { src_port: 0, ..v4() }, &[]);
    let checksum = u16::from_be_bytes([plain.bytes[26], plain.bytes[27]]);
    let packet = build::udp(FourTuple { src_port: checksum, ..v4() }, &[]);
    assert_eq!(packet.bytes[26..28], [0xff, 0xff]);
    assert!(read(&packet).is_ok());
}

#[test]
fn options_without_room_are_left_out_whole() {
    let blocks = [(SeqNum(1), SeqNum(2)); 4];
    let packet = SegmentBuilder::new(v4()).ack(SeqNum(1)).timestamps(1, 2).sack(&blocks).mss(9).build();
    assert_eq!(packet.bytes.len(), 20 + 20 + 16);
    let Transport::Tcp(segment) = read(&packet).unwrap().transport else { panic!() };
    assert_eq!((segment.options.timestamps, segment.options.sack_high), (Some((1, 2)), None));
    let packet = SegmentBuilder::new(v4()).raw_options(&[1; 77]).build();
    assert_eq!(packet.bytes.len(), 20 + 60);
}

#[test]
fn mixed_families_build_what_nobody_accepts() {
    let tuple = FourTuple { dst: v6().dst, ..v4() };
    assert_eq!(read(&segment(tuple)), Err(Malformed::MappedAddress));
}

#[test]
fn prohibited_says_so_in_the_destinations_name() {
    for (tuple, ip, kind_and_code, room) in [(v4(), 20, (3, 13), 548), (v6(), 40, (1, 1), 1232)] {
        let refused = build::udp(tuple, &[0xab; 1400]);
        let answer = build::prohibited(&refused.bytes).unwrap();
        let parsed = read(&answer).unwrap();
        assert_eq!((parsed.src, parsed.dst), (tuple.dst, tuple.src));
        let Transport::Icmp(IcmpMessage::Error { kind, code, embedded }) = parsed.transport else { panic!() };
        assert_eq!((kind, code), kind_and_code);
        assert_eq!((embedded.src, embedded.src_port, embedded.dst_port), (tuple.src, 4000, 80));
        // As much as fits is quoted, and not a bit of it is changed.
        assert_eq!(answer.bytes[ip + 8..], refused.bytes[..room]);
        assert_eq!(answer.bytes[ip + 4..ip + 8], [0; 4]);
        assert!(answer.bytes.len() <= build::MAX_BUILT);
    }
}

#[test]
fn prohibited_quotes_a_copy_that_was_cut() {
    for (tuple, ip) in [(v4(), 20), (v6(), 40)] {
        let copied = &build::udp(tuple, &[0; 5000]).bytes[..128];
        let answer = build::prohibited(copied).unwrap();
        assert_eq!(answer.bytes[ip + 8..], *copied);
        assert!(read(&answer).is_ok());
    }
}

#[test]
fn prohibited_is_about_hosts_only() {
    let from = |address: &str| {
        let src: IpAddr = address.parse().unwrap();
        datagram(FourTuple { src, ..if src.is_ipv4() { v4() } else { v6() } })
    };
    let to = |address: &str| {
        let dst: IpAddr = address.parse().unwrap();
        datagram(FourTuple { dst, ..if dst.is_ipv4() { v4() } else { v6() } })
    };
    for packet in [
        from("0.0.0.0"),
        from("224.0.0.5"),
        from("255.255.255.255"),
        from("240.0.0.1"),
        from("127.0.0.1"),
        from("::1"),
        from("ff02::1"),
        to("224.0.0.251"),
        to("239.255.255.250"),
        to("255.255.255.255"),
        to("ff02::fb"),
        // The error would come from a loopback address.
        to("127.0.0.1"),
        to("::1"),
    ] {
        assert_eq!(build::prohibited(&packet.bytes), None, "{:?}", read(&packet));
    }
}

#[test]
fn prohibited_never_answers_an_error() {
    for (tuple, errors) in [(v4(), [3, 4, 5, 11, 12]), (v6(), [1, 2, 3, 4, 4])] {
        for kind in errors {
            let error = answer(tuple, kind, 0, &segment(tuple).bytes);
            assert!(read(&error).is_ok());
            assert_eq!(build::prohibited(&error.bytes), None);
        }
    }
    // Types that nobody knows, and the redirect.
    for (tuple, kinds) in [(v4(), [19, 42, 255]), (v6(), [100, 127, 137])] {
        for kind in kinds {
            let message = build::icmp_error(tuple.src, tuple.dst, kind, 0, &[0; 40]);
            assert!(read(&message).is_ok());
            assert_eq!(build::prohibited(&message.bytes), None, "{kind}");
        }
    }
    // Questions may be answered so.
    for (tuple, kind) in [(v4(), 13), (v6(), 139)] {
        let message = build::icmp_error(tuple.src, tuple.dst, kind, 0, &[0; 40]);
        assert!(build::prohibited(&message.bytes).is_some(), "{kind}");
    }
}

#[test]
fn prohibited_is_about_the_first_fragment_only() {
    assert!(build::prohibited(&fragment_v4(&datagram(v4()), 0, 16, true).bytes).is_some());
    assert!(build::prohibited(&fragment_v6(&datagram(v6()), 0, 16, true).bytes).is_some());
    assert_eq!(build::prohibited(&fragment_v4(&datagram(v4()), 16, 17, false).bytes), None);
    assert_eq!(build::prohibited(&fragment_v6(&datagram(v6()), 16, 17, false).bytes), None);
}

#[test]
fn prohibited_makes_nothing_of_nonsense() {
    assert_eq!(build::prohibited(&[]), None);
    assert_eq!(build::prohibited(&[0x45; 19]), None);
    assert_eq!(build::prohibited(&segment(v4()).bytes[..30]), None);
    assert_eq!(build::prohibited(&changed(segment(v4()), 0, &[0x41]).bytes), None);
}
