//! What the rules cost a new connection: nanoseconds a decision for 10 and for
//! 10,000 rules, lists of 100,000 networks among them, and how long they take to
//! compile.
//!
//!     cargo run --release --example rules_bench

#![allow(clippy::disallowed_methods, clippy::print_stdout, reason = "a benchmark reads the clock and prints")]

mod rule_set;

use std::{hint::black_box, time::Instant as Clock};

use halfgate::policy::{NewFlow, Policy};
use rule_set::{Numbers, policy, question};

const DECISIONS: usize = 400_000;
/// Decisions that are timed together: so few that another process seldom comes between.
const CHUNK: usize = 2000;

/// Nanoseconds a decision: the median of all chunks, and their 10th and 90th percentiles.
fn nanos(flows: &[NewFlow], mut decide: impl FnMut(&NewFlow)) -> [f64; 3] {
    let mut chunks: Vec<f64> = flows
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

fn main() {
    let mut least = None;
    println!(
        "| rules | networks a list | compiled in | a decision (10th to 90th percentile) | of that of the first | one rule after the other | memory |"
    );
    println!("|---|---|---|---|---|---|---|");
    for (rules, networks) in [(10, 10), (10, 100_000), (1_000, 100_000), (10_000, 10), (10_000, 100_000)] {
        let start = Clock::now();
        let policy = policy(rules, networks);
        let compiled = start.elapsed();
        let mut numbers = Numbers(7);
        let flows: Vec<NewFlow> = (0..DECISIONS).map(|_| question(&policy, rules, &mut numbers)).collect();
        let [median, low, high] = nanos(&flows, |flow| decide(&policy, flow));
        let [linear, ..] = nanos(&flows[..CHUNK], |flow| {
            black_box(policy.rules.iter().find(|rule| rule.matches(flow)));
        });
        let least = *least.get_or_insert(median);
        println!(
            "| {rules} | {networks} | {} ms | {median:.0} ns ({low:.0} to {high:.0}) | {:.2} | {linear:.0} ns | {} KiB |",
            compiled.as_millis(),
            median / least,
            policy.classifier_bytes() / 1024
        );
    }
}
