//! What is built says what it was told to say.

use super::*;
use crate::wire::Transport;

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
