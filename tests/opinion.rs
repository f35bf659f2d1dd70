//! A second opinion: the same packets through the kernel's conntrack and through
//! halfgate, packet by packet. Wherever they differ, in verdict or in phase, a
//! predicate of `opinion/explain.rs` says why, and a row of docs/CONNTRACK.md
//! which clause decides. Needs root, iproute2 and nftables.
//!
//! Each seed is the story of one connection. `HALFGATE_STORIES=1000000` compares
//! more of them, `HALFGATE_STORY=N` (with `--nocapture`) shows one.

#![allow(clippy::wildcard_enum_match_arm, reason = "a comparison, where the rest is the rest")]
#![allow(dead_code, unreachable_pub, missing_docs, reason = "modules of a test")]

#[path = "opinion/captured.rs"]
mod captured;
#[path = "opinion/compare.rs"]
mod compare;
#[path = "opinion/explain.rs"]
mod explain;
#[path = "opinion/kernel.rs"]
mod kernel;
#[path = "simulation/rng.rs"]
mod rng;
#[path = "opinion/story.rs"]
mod story;
#[path = "opinion/teller.rs"]
mod teller;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use compare::{Pairing, Record};
use explain::{Effect, Explanation, explain};
use halfgate::sys::netns::{Namespace, Namespaces};
use kernel::Kernel;
use parking_lot::Mutex;
use story::Story;

const CONNTRACK: &str = include_str!("../docs/CONNTRACK.md");

/// The suite's seeds.
const STORIES: u64 = 100_000;

/// So many unexplained ones are enough to know.
const MOST_FAILURES: usize = 3;

/// What became of all stories.
#[derive(Default)]
struct Sum {
    stories: u64,
    packets: u64,
    /// Stories in which both say the same from the first packet to the last.
    alike: u64,
    explained: BTreeMap<Explanation, u64>,
    /// Traces, by their seeds.
    unexplained: BTreeMap<u64, String>,
}

/// One story, until the two part.
struct Outcome {
    records: Vec<Record>,
    explained: Vec<Explanation>,
    is_unexplained: bool,
}

fn compare_one(pairing: &mut Pairing, story: &Story) -> Outcome {
    let (mut explained, mut is_unexplained, mut lags) = (Vec::new(), false, false);
    let records = pairing.run(story, |records| {
        let Some(last) = records.last() else { return false };
        if lags {
            lags = !last.after.agrees();
            return !last.is_plain();
        }
        let Some(explanation) = explain(records) else {
            is_unexplained = !last.agrees();
            return is_unexplained;
        };
        explained.push(explanation);
        lags = explanation.effect() == Effect::Lags && !last.after.agrees();
        explanation.effect() == Effect::Parts
    });
    Outcome { records, explained, is_unexplained }
}

fn trace(records: &[Record]) -> String {
    records.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|value| value.parse().unwrap_or_else(|e| panic!("{variable}: {e}")))
}

/// Works through the seeds in a namespace of its own.
fn work(namespace: &Namespace, worker: usize, next: &AtomicU64, end: u64, sum: &Mutex<Sum>) {
    let mut pairing = Pairing::new(Kernel::new(namespace, worker));
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= end {
            return;
        }
        let outcome = compare_one(&mut pairing, &teller::tell(seed));
        let mut sum = sum.lock();
        sum.stories += 1;
        sum.packets += outcome.records.len() as u64;
        sum.alike += u64::from(outcome.explained.is_empty() && !outcome.is_unexplained);
        for explanation in outcome.explained {
            *sum.explained.entry(explanation).or_default() += 1;
        }
        if outcome.is_unexplained {
            sum.unexplained.insert(seed, trace(&outcome.records));
            if sum.unexplained.len() >= MOST_FAILURES {
                next.store(end, Ordering::Relaxed);
            }
        }
    }
}

#[test]
fn every_difference_has_an_explanation() {
    let one = number("HALFGATE_STORY");
    let stories = number("HALFGATE_STORIES").unwrap_or(STORIES);
    let (start, end) = one.map_or((0, stories), |seed| (seed, seed + 1));
    let workers = if one.is_some() { 1 } else { thread::available_parallelism().map_or(1, usize::from) };
    let mut namespaces = Namespaces::new().unwrap();
    let ours: Vec<Namespace> =
        (0..workers).map(|worker| namespaces.add(&format!("opinion{worker}")).unwrap()).collect();
    let (next, sum) = (AtomicU64::new(start), Mutex::new(Sum::default()));
    thread::scope(|scope| {
        for (worker, namespace) in ours.iter().enumerate() {
            let (next, sum) = (&next, &sum);
            scope.spawn(move || namespace.enter(|| work(namespace, worker, next, end, sum)).unwrap());
        }
    });
    let sum = sum.into_inner();
    eprintln!("{} stories, {} packets compared; {} alike throughout", sum.stories, sum.packets, sum.alike);
    for explanation in Explanation::ALL {
        let count = sum.explained.get(explanation).copied().unwrap_or(0);
        eprintln!("{count:>9} {}", explanation.name());
    }
    for (seed, trace) in &sum.unexplained {
        eprintln!("\nHALFGATE_STORY={seed}: nothing explains the last line (conntrack / halfgate)\n{trace}");
    }
    assert!(sum.unexplained.is_empty(), "stories with a difference that nothing explains: see above");
    if one.is_none() && stories >= STORIES {
        let never: Vec<_> = Explanation::ALL.iter().filter(|e| !sum.explained.contains_key(e)).collect();
        assert!(never.is_empty(), "explanations that explain nothing: {never:?}");
        assert!(sum.alike > sum.stories / 20, "most stories part too early to prove anything");
    }
}

/// The captures of `tests/captures.rs`: what real stacks sent. Without the folder only
/// the generated stories are compared.
#[test]
fn captured_connections_differ_in_nothing_else() {
    let Some(folder) = std::env::var_os("HALFGATE_CAPTURES") else { return };
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|end| end == "pcap" || end == "pcapng"));
    paths.sort();
    assert!(!paths.is_empty(), "the folder has captures");
    let mut namespaces = Namespaces::new().unwrap();
    let namespace = namespaces.add("opinion").unwrap();
    let (mut sum, mut failed) = (Sum::default(), Vec::new());
    let compare = || {
        let mut pairing = Pairing::new(Kernel::new(&namespace, 0));
        for path in &paths {
            let first_number = u32::try_from(sum.stories).unwrap();
            for (name, story) in captured::stories(path, first_number) {
                let outcome = compare_one(&mut pairing, &story);
                sum.stories += 1;
                sum.packets += outcome.records.len() as u64;
                sum.alike += u64::from(outcome.explained.is_empty() && !outcome.is_unexplained);
                for explanation in outcome.explained {
                    *sum.explained.entry(explanation).or_default() += 1;
                }
                if outcome.is_unexplained {
                    failed.push(format!("{} {name}\n{}", path.display(), trace(&outcome.records)));
                }
            }
        }
    };
    namespace.enter(compare).unwrap();
    eprintln!("{} captured connections, {} packets; {} alike", sum.stories, sum.packets, sum.alike);
    for (explanation, count) in &sum.explained {
        eprintln!("{count:>9} {}", explanation.name());
    }
    assert!(failed.is_empty(), "nothing explains the last lines:\n{}", failed.join("\n\n"));
    assert!(sum.alike > sum.stories / 2);
}

/// The documented differences: name, and what decides.
fn documented() -> BTreeMap<String, String> {
    let section = CONNTRACK.split("\n### Packet by packet\n").nth(1).expect("docs/CONNTRACK.md has them");
    let section = section.split("\n## ").next().unwrap_or_default();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        (cells[0].trim_matches('`').to_owned(), cells[cells.len() - 1].to_owned())
    })
    .collect()
}

#[test]
fn every_explanation_is_a_row_that_names_the_clause() {
    let documented = documented();
    let coded: BTreeSet<String> = Explanation::ALL.iter().map(|e| e.name().to_owned()).collect();
    assert_eq!(documented.keys().cloned().collect::<BTreeSet<_>>(), coded);
    for (name, decides) in documented {
        assert!(decides.starts_with("RFC ") && decides.contains('§'), "{name}: {decides:?} names a clause");
    }
}
