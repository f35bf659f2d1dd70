//! Many seeds, or one with its trace.
//!
//!     cargo run --release --example simulate -- [--story S] [--seeds N] [--from N] [--seed N]
//!
//! The stories are `plain` (the default), `restart` (the gateway loses its table) and
//! `one-way` (it sees one direction).

#![allow(clippy::wildcard_enum_match_arm, reason = "a model, where the rest is the rest")]
#![allow(clippy::print_stdout, clippy::nonminimal_bool, reason = "a command for tests")]
#![allow(dead_code, unreachable_pub, missing_docs, reason = "shared with a test")]

#[path = "model.rs"]
mod model;

use std::{
    process::ExitCode,
    sync::Mutex,
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use model::{
    story::Story,
    world::{Sum, run},
};

fn main() -> ExitCode {
    let (mut seeds, mut from, mut only) = (10_000_u64, 0_u64, None);
    let mut story = Story::Plain;
    let mut args = std::env::args().skip(1);
    while let Some(name) = args.next() {
        let text = args.next().unwrap_or_default();
        if let ("--story", Some(told)) = (name.as_str(), Story::ALL.iter().find(|story| story.name() == text))
        {
            story = *told;
            continue;
        }
        match (name.as_str(), text.parse::<u64>().ok()) {
            ("--seeds", Some(value)) => seeds = value,
            ("--from", Some(value)) => from = value,
            ("--seed", Some(value)) => only = Some(value),
            _ => {
                println!("usage: simulate [--story plain|restart|one-way] [--seeds N] [--from N] [--seed N]");
                return ExitCode::from(2);
            }
        }
    }
    if let Some(seed) = only {
        return one(story, seed);
    }
    let next = AtomicU64::new(from);
    let total = Mutex::new((Sum::default(), Vec::new()));
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut sum = Sum::default();
                let mut failed = Vec::new();
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= from + seeds || failed.len() > 500 {
                        break;
                    }
                    match run(story, seed, false) {
                        Ok(one) => sum.add(one),
                        Err(failure) => failed.push((failure.seed, failure.law)),
                    }
                }
                let mut total = total.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                total.0.add(sum);
                total.1.extend(failed);
            });
        }
    });
    let (sum, mut failed) = total.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    failed.sort();
    for (seed, law) in failed.iter().take(40) {
        println!("seed {seed}: {law}");
    }
    println!("{} stories, {seeds} seeds from {from}, {} failed; {sum:?}", story.name(), failed.len());
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn one(story: Story, seed: u64) -> ExitCode {
    match run(story, seed, true) {
        Ok(sum) => {
            println!("seed {seed}: every law held; {sum:?}");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            for line in &failure.trace {
                println!("{line}");
            }
            println!("seed {seed}: {}", failure.law);
            ExitCode::FAILURE
        }
    }
}
