//! One piece of the packet path, to be run where instructions are counted: see
//! tests/instructions.sh.
//!
//!     cargo run --release --example instructions            # names the cases
//!     cargo run --release --example instructions CASE
//!
//! What is to be counted happens below functions that are called `counted_...`;
//! the program prints how many times.

#![allow(clippy::print_stdout, reason = "its result is a number on standard output")]

#[allow(dead_code, reason = "others use the rest")]
mod connections;
mod rule_set;

use std::{hint::black_box, process::ExitCode};

use connections::{Family, NOW, establish, in_window, judge_batches, meta, open_policy, syn};
use halfgate::{
    conntrack::Instant,
    engine::{DropReason, Engine, IfIndex, Meta, Verdict, Worker},
    policy::{Action, NewFlow, Policy, Settings},
    wire::{Checksums, RawPacket, parse},
};
use rule_set::{INTERFACES, Numbers, policy, question};

const TIMES: usize = 2000;
/// Networks in each list of the rule sets.
const NETWORKS: usize = 2000;

type Case = (&'static str, fn() -> usize);

const CASES: [Case; 10] = [
    ("parse", || {
        let packets = in_window(Family::Ipv4, 1000, TIMES);
        counted_parse(&packets);
        packets.len()
    }),
    ("in_window_1000", || packets_in_window(Family::Ipv4, 1000)),
    ("in_window_1000_ipv6", || packets_in_window(Family::Ipv6, 1000)),
    ("in_window_50000", || packets_in_window(Family::Ipv4, 50_000)),
    ("in_window_50000_batches", || in_window_of(Family::Ipv4, 50_000, counted_batches)),
    ("syn_accepted", || syns(open_policy(10_000), Verdict::Accept)),
    ("syn_dropped", || {
        let settings = Settings { default: Action::Drop, ..Settings::default() };
        syns(
            Policy::new(settings, Vec::new(), Vec::new(), vec!["default".into()]),
            Verdict::Drop(DropReason::Rule),
        )
    }),
    ("syn_dropped_1000_rules", || syns(policy(1000, NETWORKS), Verdict::Drop(DropReason::Rule))),
    ("decision_10_rules", || decisions(10)),
    ("decision_10000_rules", || decisions(10_000)),
];

fn main() -> ExitCode {
    let Some(name) = std::env::args().nth(1) else {
        CASES.iter().for_each(|(name, _)| println!("{name}"));
        return ExitCode::SUCCESS;
    };
    let Some((_, case)) = CASES.iter().find(|(known, _)| *known == name) else { return ExitCode::FAILURE };
    println!("{}", case());
    ExitCode::SUCCESS
}

fn packets_in_window(family: Family, connections: u32) -> usize {
    let counted = |worker: &mut Worker, packets: &[RawPacket]| {
        counted_packets(worker, &queued(packets), Verdict::Accept);
    };
    in_window_of(family, connections, counted)
}

fn in_window_of(family: Family, connections: u32, counted: impl FnOnce(&mut Worker, &[RawPacket])) -> usize {
    let engine = Engine::new(open_policy(connections), [11, 13], Instant(1000));
    let mut worker = engine.worker();
    establish(&mut worker, family, connections);
    let packets = in_window(family, connections, TIMES);
    counted(&mut worker, &packets);
    packets.len()
}

fn syns(policy: Policy, verdict: Verdict) -> usize {
    let engine = Engine::new(policy, [11, 13], Instant(1000));
    let interfaces = (1..).map(IfIndex).zip(INTERFACES.map(str::to_owned));
    engine.set_interfaces(&interfaces.collect::<Vec<_>>());
    let mut worker = engine.worker();
    let packets: Vec<RawPacket> = (0..).take(TIMES).map(|n| syn(Family::Ipv4, n)).collect();
    counted_packets(&mut worker, &queued(&packets), verdict);
    packets.len()
}

fn decisions(rules: u64) -> usize {
    let policy = policy(rules, NETWORKS);
    let mut numbers = Numbers(7);
    let flows: Vec<NewFlow> = (0..TIMES).map(|_| question(&policy, rules, &mut numbers).0).collect();
    counted_decisions(&policy, &flows);
    flows.len()
}

#[inline(never)]
fn counted_parse(packets: &[RawPacket]) {
    for packet in packets {
        assert!(black_box(parse(&packet.bytes, packet.wire_len(), Checksums::Trust)).is_ok());
    }
}

#[inline(never)]
fn counted_packets(worker: &mut Worker, packets: &[(Meta, &[u8])], verdict: Verdict) {
    for (meta, bytes) in packets {
        assert_eq!(worker.handle_packet(meta, bytes, NOW), verdict);
    }
}

/// Packets as a queue hands them over.
fn queued(packets: &[RawPacket]) -> Vec<(Meta, &[u8])> {
    packets.iter().map(|packet| (meta(packet), packet.bytes.as_slice())).collect()
}

#[inline(never)]
fn counted_batches(worker: &mut Worker, packets: &[RawPacket]) {
    judge_batches(worker, packets, Verdict::Accept);
}

#[inline(never)]
fn counted_decisions(policy: &Policy, flows: &[NewFlow]) {
    for flow in flows {
        black_box(policy.first_match(flow));
    }
}
