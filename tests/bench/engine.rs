//! What the engine itself costs: nanoseconds a packet in window, and bytes of
//! memory a connection, without a kernel.
//!
//!     cargo run --release --example engine_bench
//!     cargo run --release --example engine_bench ipv4|ipv6 CONNECTIONS

#![allow(clippy::disallowed_methods, clippy::print_stdout, reason = "a benchmark reads the clock and prints")]

mod connections;

use std::{
    process::{Command, ExitCode},
    time::Instant as Clock,
};

use connections::{BATCH, Family, NOW, establish, in_window, judge_batches, meta, open_policy, resident};
use halfgate::{
    conntrack::Instant,
    engine::{Engine, Verdict},
};

const ROUNDS: usize = 7;
const PACKETS: usize = 1_000_000;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.as_slice() {
        [] => {
            // Each by itself, so that none finds memory that another has given back.
            for (family, connections) in [("ipv4", "1000"), ("ipv4", "1000000"), ("ipv6", "1000000")] {
                let own = std::env::current_exe().map(Command::new);
                let status = own.and_then(|mut own| own.args([family, connections]).status());
                if !status.is_ok_and(|status| status.success()) {
                    return ExitCode::FAILURE;
                }
            }
        }
        [family, connections] => {
            let family = match family.as_str() {
                "ipv4" => Family::Ipv4,
                "ipv6" => Family::Ipv6,
                _ => return ExitCode::from(2),
            };
            let Ok(connections) = connections.parse() else { return ExitCode::from(2) };
            print!("{}: ", args[0]);
            measure(family, connections);
        }
        _ => return ExitCode::from(2),
    }
    ExitCode::SUCCESS
}

fn measure(family: Family, connections: u32) {
    let policy = open_policy(connections);
    let before = resident();
    let engine = Engine::new(policy, [11, 13], Instant(1000));
    let mut worker = engine.worker();
    establish(&mut worker, family, connections);
    let tenths = resident().saturating_sub(before) * 10 / usize::try_from(connections).unwrap_or(1);
    let packets = in_window(family, connections, PACKETS);
    let batches = nanos(|| judge_batches(&mut worker, &packets, Verdict::Accept));
    let single = nanos(|| {
        for packet in &packets {
            let verdict = worker.handle_packet(&meta(packet), &packet.bytes, NOW);
            assert_eq!(verdict, Verdict::Accept);
        }
    });
    println!(
        "{connections} connections: a packet in window {batches} in batches of {BATCH}, {single} by itself; \
         {}.{} bytes of memory a connection",
        tenths / 10,
        tenths % 10
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
