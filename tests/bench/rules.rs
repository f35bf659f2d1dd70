//! What the rules cost a new connection: nanoseconds a decision, and a SYN with all
//! that is done about it, for 10 and for 10,000 rules, lists of 100,000 networks
//! among them, and how long they take to compile.
//!
//!     cargo run --release --example rules_bench

#![allow(clippy::disallowed_methods, clippy::print_stdout, reason = "a benchmark reads the clock and prints")]

mod rule_set;

use std::{hint::black_box, time::Instant as Clock};

use halfgate::{
    conntrack::Instant,
    engine::{Engine, IfIndex, Meta, Worker},
    policy::{NewFlow, Policy},
    wire::{Checksums, Flags, FourTuple, Protocol, RawPacket, SegmentBuilder},
};
use rule_set::{INTERFACES, Numbers, policy, question};

const DECISIONS: usize = 400_000;
/// Decisions that are timed together: so few that another process seldom comes between.
const CHUNK: usize = 100;

/// Nanoseconds a decision: the median of all chunks, and their 10th and 90th percentiles.
fn nanos<T>(questions: &[T], mut decide: impl FnMut(&T)) -> [f64; 3] {
    let mut chunks: Vec<f64> = questions
        .chunks(CHUNK)
        .map(|chunk| {
            let start = Clock::now();
            chunk.iter().for_each(&mut decide);
            start.elapsed().as_secs_f64() * 1e9 / chunk.len() as f64
        })
        .collect();
    chunks.sort_unstable_by(f64::total_cmp);
    [5, 1, 9].map(|tenth| chunks[chunks.len() * tenth / 10])
}

/// The zones of both ends, then the first rule that matches.
fn decide(policy: &Policy, flow: &NewFlow) {
    let (inside, outside) = (Some("eth1"), Some("ppp0"));
    black_box(policy.zones_of(black_box(outside), flow.src));
    black_box(policy.zones_of(black_box(inside), flow.dst));
    black_box(policy.first_match(flow));
}

/// The SYNs among these first packets, each of a connection of its own.
fn syns(questions: &[(NewFlow, [&str; 2])]) -> Vec<(Meta, RawPacket)> {
    let number = |name: &str| {
        let place = INTERFACES.iter().position(|known| *known == name);
        IfIndex(place.and_then(|place| u32::try_from(place + 1).ok()).unwrap_or(0))
    };
    let syn = |(n, (flow, [in_if, out_if])): (usize, &(NewFlow, [&str; 2]))| {
        let src_port = u16::try_from(1024 + n % 60_000).unwrap_or(0);
        let tuple = FourTuple { src: flow.src, src_port, dst: flow.dst, dst_port: flow.dst_port };
        let packet = SegmentBuilder::new(tuple).flags(Flags::SYN).build();
        let meta = Meta {
            hook: flow.hook,
            in_if: number(in_if),
            out_if: number(out_if),
            wire_len: packet.wire_len(),
            checksums: Checksums::Trust,
            kernel_knows: false,
            parent: None,
            renumbered: None,
            is_invalid: false,
            candidacy: None,
        };
        (meta, packet)
    };
    questions.iter().filter(|(flow, _)| flow.protocol == Protocol::TCP).enumerate().map(syn).collect()
}

/// All that is done about a SYN: read, looked up, judged by the rules, and entered
/// into the table if a rule accepts it.
fn judge(worker: &mut Worker, (meta, packet): &(Meta, RawPacket)) {
    black_box(worker.handle_packet(meta, &packet.bytes, Instant(2000)));
    while worker.poll_event().is_some() {}
}

fn main() {
    let mut least = None;
    println!(
        "| rules | networks a list | compiled in | a decision (10th to 90th percentile) | of the first | a SYN, all in | of \
         the first | one rule after the other | memory |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for (rules, networks) in [(10, 10), (10, 100_000), (1_000, 100_000), (10_000, 10), (10_000, 100_000)] {
        let start = Clock::now();
        let policy = policy(rules, networks);
        let compiled = start.elapsed();
        let mut numbers = Numbers(7);
        let questions: Vec<_> = (0..DECISIONS).map(|_| question(&policy, rules, &mut numbers)).collect();
        let [median, low, high] = nanos(&questions, |(flow, _)| decide(&policy, flow));
        let [linear, ..] = nanos(&questions[..2000], |(flow, _)| {
            black_box(policy.rules.iter().find(|rule| rule.matches(flow)));
        });
        let engine = Engine::new(policy.clone(), [11, 13], Instant(1000));
        let interfaces = (1..).map(IfIndex).zip(INTERFACES.map(str::to_owned));
        engine.set_interfaces(&interfaces.collect::<Vec<_>>());
        let mut worker = engine.worker();
        let [syn, ..] = nanos(&syns(&questions), |syn| judge(&mut worker, syn));
        let (first, first_syn) = *least.get_or_insert((median, syn));
        println!(
            "| {rules} | {networks} | {} ms | {median:.0} ns ({low:.0} to {high:.0}) | {:.2} | {syn:.0} ns | {:.2} | \
             {linear:.0} ns | {} KiB |",
            compiled.as_millis(),
            median / first,
            syn / first_syn,
            policy.classifier_bytes() / 1024
        );
    }
}
