//! Reading a packet allocates nothing, whatever is in it.
//!
//! Counts on this thread only, because the test harness has others.

#![allow(unsafe_code)]

#[path = "sys_common/counting.rs"]
mod counting;

use std::{hint::black_box, net::IpAddr};

use counting::allocations;
use halfgate::wire::{
    Checksums, Echo, Flags, FourTuple, Malformed, RawPacket, SegmentBuilder, SeqNum, build, parse,
};

fn packets() -> Vec<RawPacket> {
    let v4: (IpAddr, IpAddr) = ([192, 0, 2, 1].into(), [198, 51, 100, 2].into());
    let v6: (IpAddr, IpAddr) = ("2001:db8::1".parse().unwrap(), "2001:db8::2".parse().unwrap());
    let mut packets = Vec::new();
    for (src, dst) in [v4, v6] {
        let tuple = FourTuple { src, src_port: 4000, dst, dst_port: 80 };
        let blocks = [(SeqNum(1), SeqNum(2)), (SeqNum(5), SeqNum(9))];
        packets.extend([
            SegmentBuilder::new(tuple).flags(Flags::SYN).mss(1460).window_scale(7).fast_open(&[7; 8]).build(),
            SegmentBuilder::new(tuple).ack(SeqNum(1)).timestamps(1, 2).sack(&blocks).build(),
            SegmentBuilder::new(tuple).ack(SeqNum(1)).payload_len(60_000).build(),
            build::udp(tuple, b"data"),
            build::icmp_echo(src, dst, Echo::Request, 1, 1, b"ping"),
        ]);
        let (kind, quoted) = (3, build::udp(tuple, &[0; 500]).bytes);
        packets.push(build::icmp_error(dst, src, kind, 1, &quoted));
        packets.push(build::ip(src, dst, halfgate::wire::Protocol(47), &[0; 20]));
    }
    // Extension headers: hop-by-hop, routing, destination options, then nothing.
    let chain = [43, 0, 1, 4, 0, 0, 0, 0, 60, 0, 2, 0, 0, 0, 0, 0, 59, 0, 1, 4, 0, 0, 0, 0];
    packets.push(build::ip(v6.0, v6.1, halfgate::wire::Protocol(0), &chain));
    packets
}

#[test]
fn the_counter_counts() {
    let before = allocations();
    drop(black_box(vec![1_u8; 100]));
    assert_eq!(allocations() - before, 1);
}

#[test]
fn parse_allocates_nothing() {
    let packets = packets();
    let mut seen = [0_u64; Malformed::ALL.len()];
    let mut read = 0_u64;
    let before = allocations();
    let ways = [Checksums::Verify, Checksums::VerifyTransport, Checksums::Trust];
    for packet in &packets {
        for checksums in ways {
            read += u64::from(parse(&packet.bytes, packet.wire_len(), checksums).is_ok());
            // Cut everywhere, as a liar and as a copy range would.
            for len in 0..packet.bytes.len().min(200) {
                let cut = &packet.bytes[..len];
                for wire_len in [len as u32, packet.wire_len()] {
                    if let Err(reason) = black_box(parse(cut, wire_len, checksums)) {
                        seen[reason.index()] += 1;
                    }
                }
            }
        }
    }
    assert_eq!(allocations(), before);
    assert_eq!(read, (packets.len() * ways.len()) as u64, "every packet is sound");
    assert!(seen[Malformed::CutOff.index()] > 0 && seen[Malformed::TooShort.index()] > 0);
}

#[test]
fn refusing_a_packet_allocates_nothing() {
    let mut packets = packets();
    let mut refused = 0;
    let before = allocations();
    for packet in &mut packets {
        let wire_len = packet.wire_len();
        for place in 0..packet.bytes.len().min(120) {
            for octet in [0, 1, 0x7f, 0xff] {
                let whole = std::mem::replace(&mut packet.bytes[place], octet);
                for checksums in [Checksums::Verify, Checksums::VerifyTransport, Checksums::Trust] {
                    refused += u64::from(black_box(parse(&packet.bytes, wire_len, checksums)).is_err());
                }
                packet.bytes[place] = whole;
            }
        }
    }
    assert_eq!(allocations(), before);
    assert!(refused > 1000, "{refused}");
}
