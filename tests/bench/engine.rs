//! What the engine itself costs: nanoseconds a packet in window, and bytes of
//! memory a connection, without a kernel.
//!
//!     cargo run --release --example engine_bench [CONNECTIONS]

#![allow(clippy::disallowed_methods, clippy::print_stdout, reason = "a benchmark reads the clock and prints")]

use std::{net::Ipv4Addr, time::Instant as Clock};

use halfgate::{
    conntrack::Instant,
    engine::{Engine, IfIndex, Meta, Verdict},
    policy::{Action, Hook, Policy, Settings},
    wire::{Checksums, Flags, FourTuple, RawPacket, SegmentBuilder, SeqNum},
};

const ROUNDS: usize = 7;
const PACKETS: usize = 1_000_000;

fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) * 4096
}

fn tuple(n: u32) -> FourTuple {
    let client = Ipv4Addr::from(0x0a00_0000 | (n >> 12));
    FourTuple {
        src: client.into(),
        src_port: 1024 + u16::try_from(n & 0xfff).unwrap_or(0),
        dst: [192, 0, 2, 1].into(),
        dst_port: 80,
    }
}

fn main() {
    let counts = match std::env::args().nth(1).and_then(|n| n.parse().ok()) {
        Some(count) => vec![count],
        None => vec![1_000, 1_000_000],
    };
    for connections in counts {
        measure(connections);
    }
}

fn measure(connections: u32) {
    let settings = Settings {
        default: Action::Accept,
        max_connections: connections.max(1000),
        adaptive: halfgate::policy::Adaptive { start: 200, end: 300 },
        ..Settings::default()
    };
    let policy = Policy::new(settings, Vec::new(), Vec::new(), vec!["default".into()]);
    let before = resident();
    let engine = Engine::new(policy, [11, 13], Instant(1000));
    let mut worker = engine.worker();
    let meta = |packet: &RawPacket| Meta {
        hook: Hook::Forward,
        in_if: IfIndex(1),
        out_if: IfIndex(2),
        wire_len: packet.wire_len(),
        checksums: Checksums::Trust,
        kernel_knows: false,
    };
    let now = Instant(2000);
    for n in 0..connections {
        let there = tuple(n);
        for packet in [
            SegmentBuilder::new(there).flags(Flags::SYN).seq(SeqNum(n)).build(),
            SegmentBuilder::new(there.reversed()).seq(SeqNum(9)).ack(SeqNum(n + 1)).flags(Flags::SYN).build(),
            SegmentBuilder::new(there).seq(SeqNum(n + 1)).ack(SeqNum(10)).build(),
        ] {
            assert_eq!(worker.handle_packet(&meta(&packet), &packet.bytes, now), Verdict::Accept);
        }
        while worker.poll_event().is_some() {}
    }
    let bytes = resident().saturating_sub(before) / usize::try_from(connections).unwrap_or(1);
    // A fixed order that a prefetcher can't guess.
    let mut n = 1_u32;
    let packets: Vec<RawPacket> = (0..PACKETS)
        .map(|_| {
            n = n.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let n = (n >> 4) % connections;
            SegmentBuilder::new(tuple(n)).seq(SeqNum(n + 1)).ack(SeqNum(10)).build()
        })
        .collect();
    let mut nanos: Vec<u128> = (0..ROUNDS)
        .map(|_| {
            let start = Clock::now();
            for packet in &packets {
                let verdict = worker.handle_packet(&meta(packet), &packet.bytes, now);
                assert_eq!(verdict, Verdict::Accept);
            }
            start.elapsed().as_nanos() / PACKETS as u128
        })
        .collect();
    nanos.sort_unstable();
    println!(
        "{connections} connections: {} ns a packet in window (min {}, max {}), {bytes} bytes of memory a connection",
        nanos[ROUNDS / 2],
        nanos[0],
        nanos[ROUNDS - 1]
    );
}
