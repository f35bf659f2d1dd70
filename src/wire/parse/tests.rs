//! Every reason once, from a sound packet with one field changed; then what must
//! pass although it looks odd.

use super::*;
use crate::wire::{Datagram, Echo, Flags, FourTuple, SegmentBuilder, SeqNum, build};

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

fn read(packet: &build::RawPacket) -> Result<Packet<'_>, Malformed> {
    parse(&packet.bytes, packet.wire_len(), Checksums::Verify)
}

#[test]
fn a_built_segment_is_read_back() {
    for tuple in [v4(), v6()] {
        let packet = SegmentBuilder::new(tuple)
            .flags(Flags::SYN)
            .seq(SeqNum(7))
            .ack(SeqNum(9))
            .window(1234)
            .hop_limit(17)
            .mss(1460)
            .sack_permitted()
            .timestamps(1, 2)
            .window_scale(7)
            .payload(b"data!")
            .build();
        let parsed = read(&packet).unwrap();
        assert_eq!((parsed.src, parsed.dst), (tuple.src, tuple.dst));
        assert_eq!(parsed.len, packet.wire_len());
        assert_eq!(parsed.hop_limit, 17);
        let Transport::Tcp(segment) = parsed.transport else { panic!("{parsed:?}") };
        assert_eq!(segment.flags, Flags::SYN.with(Flags::ACK));
        assert_eq!((segment.seq, segment.ack, segment.window), (SeqNum(7), SeqNum(9), 1234));
        assert_eq!(segment.payload_len, 5);
        assert_eq!(segment.options.mss, Some(1460));
        assert_eq!(segment.options.window_scale, Some(7));
        assert_eq!(segment.options.timestamps, Some((1, 2)));
        assert!(segment.options.sack_permitted);
    }
}

#[test]
fn a_built_datagram_and_echo_are_read_back() {
    for tuple in [v4(), v6()] {
        let packet = build::udp(tuple, b"odd");
        let Transport::Udp(datagram) = read(&packet).unwrap().transport else { panic!() };
        assert_eq!(datagram, Datagram { src_port: 4000, dst_port: 80 });
        let packet = build::icmp_echo(tuple.src, tuple.dst, Echo::Request, 77, 1, b"ping");
        let Transport::Icmp(IcmpMessage::EchoRequest { id: 77 }) = read(&packet).unwrap().transport else {
            panic!()
        };
        let error = build::prohibited(&packet.bytes).unwrap();
        let Transport::Icmp(IcmpMessage::Error { embedded, .. }) = read(&error).unwrap().transport else {
            panic!()
        };
        assert_eq!((embedded.src, embedded.dst, embedded.src_port), (tuple.src, tuple.dst, 77));
        assert_eq!(build::prohibited(&error.bytes), None);
    }
}
