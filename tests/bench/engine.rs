//! What the engine itself costs: nanoseconds a packet in window, and bytes of
//! memory a connection, without a kernel.
//!
//!     cargo run --release --example engine_bench [CONNECTIONS]

#![allow(clippy::disallowed_methods, clippy::print_stdout, reason = "a benchmark reads the clock and prints")]

mod connections;

use std::time::Instant as Clock;

use connections::{BATCH, NOW, establish, in_window, judge_batches, meta, open_policy};
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
    let batches = nanos(|| judge_batches(&mut worker, &packets, Verdict::Accept));
    let single = nanos(|| {
        for packet in &packets {
            let verdict = worker.handle_packet(&meta(packet), &packet.bytes, NOW);
            assert_eq!(verdict, Verdict::Accept);
        }
    });
    println!(
        "{connections} connections: a packet in window {batches} in batches of {BATCH}, {single} by itself; \
         {bytes} bytes of memory a connection"
    );
}

/// Nanoseconds that each of the packets takes: the median of the rounds, the least, the most.
fn nanos(mut judge: impl FnMut()) -> String {
    let mut nanos: Vec<u128> = (0..ROUNDS)
        .map(|_| {
            let start = Clock::now();
            judge();
            start.elapsed().as_nanos() / PACKETS as u128
        })
        .collect();
    nanos.sort_unstable();
    format!("{} ns ({} to {})", nanos[ROUNDS / 2], nanos[0], nanos[ROUNDS - 1])
}
