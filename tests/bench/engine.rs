//! What the engine itself costs: nanoseconds a packet in window, and bytes of
//! memory a connection, without a kernel.
//!
//!     cargo run --release --example engine_bench [CONNECTIONS]

#![allow(clippy::disallowed_methods, clippy::print_stdout, reason = "a benchmark reads the clock and prints")]

mod connections;

use std::time::Instant as Clock;

use connections::{NOW, establish, in_window, meta, open_policy};
use halfgate::{
    conntrack::Instant,
    engine::{Engine, Verdict},
};

const ROUNDS: usize = 7;
const PACKETS: usize = 1_000_000;

fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) * 4096
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
    let policy = open_policy(connections);
    let before = resident();
    let engine = Engine::new(policy, [11, 13], Instant(1000));
    let mut worker = engine.worker();
    establish(&mut worker, connections);
    let bytes = resident().saturating_sub(before) / usize::try_from(connections).unwrap_or(1);
    let packets = in_window(connections, PACKETS);
    let mut nanos: Vec<u128> = (0..ROUNDS)
        .map(|_| {
            let start = Clock::now();
            for packet in &packets {
                let verdict = worker.handle_packet(&meta(packet), &packet.bytes, NOW);
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
