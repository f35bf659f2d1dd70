//! Honest clients amid an attack: what each way of protecting a web server lets
//! through, loses and costs.
//!
//! Every run has namespaces of its own: clients and attacker, a gateway, nginx. The
//! attacker sends as fast as the machine lets it; clients beside it fetch a page again
//! and again over new connections, and others hold connections from before the attack.
//! `tests/bench/attack.sh` installs what is needed and runs this.
// Time is what it measures.
#![allow(unsafe_code, clippy::disallowed_methods)]

mod attacker;
mod curve;
mod far;
mod ground;
mod honest;
#[path = "../peers.rs"]
mod peers;
mod protector;

use std::{
    io::Write as _,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clap::Parser;

use attacker::{Attack, Attacker};
use ground::{Ground, Usage};
use honest::{Held, Honest, Outcome};
use protector::Protector;

/// Honest clients amid an attack, for each attack and each way to protect from it.
#[derive(Parser, Debug)]
struct Args {
    /// The halfgate to try
    #[arg(long, default_value = "target/release/halfgate")]
    halfgate: PathBuf,
    /// How long each attack goes on
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Attacks, all of them if left out
    #[arg(long, value_delimiter = ',')]
    attacks: Vec<Attack>,
    /// What protects, all of them if left out
    #[arg(long, value_delimiter = ',')]
    against: Vec<Protector>,
    /// Packets a second that the attacker sends at most; left out: what it can
    #[arg(long)]
    rate: Option<u32>,
    /// Hosts from which connections are held
    #[arg(long, default_value_t = 20)]
    hosts: u16,
    /// Half-open connections that halfgate's rules let one destination have
    #[arg(long, default_value_t = 1000)]
    limit: u32,
    /// Instead: how long halfgate's `evict` holds. A spoofed flood at a steady rate (10,000
    /// SYNs a second unless --rate says otherwise) against limits of so many of the honest
    /// clients' round trips of 40 ms
    #[arg(long, conflicts_with_all = ["attacks", "against", "hosts", "limit"])]
    evict_curve: bool,
    /// Points of that curve: limit / rate, in round trips
    #[arg(
        long,
        value_delimiter = ',',
        default_values_t = [0.25, 0.5, 1.0, 2.0, 4.0, 8.0],
        requires = "evict_curve"
    )]
    round_trips: Vec<f64>,
}

/// What one run came to.
struct Row {
    attack: Attack,
    protector: Protector,
    sent: u64,
    honest: Outcome,
    kept: (usize, usize),
    usage: Usage,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    if args.evict_curve {
        return curve::run(&args.halfgate, args.seconds, args.rate, &args.round_trips);
    }
    let all = |chosen: &[Attack]| if chosen.is_empty() { Attack::ALL.to_vec() } else { chosen.to_vec() };
    let protectors = if args.against.is_empty() { Protector::ALL.to_vec() } else { args.against.clone() };
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "| attack | protected by | sent, k/s | taken, k/s | lost before it, k/s | honest completed | p50 | p99 | held kept | memory | its CPU |\n\
         |---|---|---|---|---|---|---|---|---|---|---|"
    )?;
    for attack in all(&args.attacks) {
        for protector in &protectors {
            let row = run(&args, attack, *protector)
                .with_context(|| format!("{attack:?} against {protector:?}"))?;
            writeln!(out, "{}", line(&row, args.seconds))?;
            out.flush()?;
        }
    }
    Ok(())
}

fn run(args: &Args, attack: Attack, protector: Protector) -> anyhow::Result<Row> {
    let ground = Ground::new()?;
    let guard = protector.start(&ground, &args.halfgate, args.limit)?;
    let mut held = Held::open(&ground).context("open the connections that must survive")?;
    // What a client meets on a quiet network, so that the first is not the slowest.
    Honest::warm(&ground).context("fetch a page before the attack")?;
    let before = Usage::read(&ground, guard.as_ref())?;
    let start = Instant::now();
    let attacker = Attacker::start(&ground, attack, args.rate, args.hosts)?;
    let honest = Honest::start(&ground, args.seconds)?;
    while start.elapsed() < Duration::from_secs(args.seconds) {
        std::thread::sleep(Duration::from_millis(200));
        held.speak();
    }
    let outcome = honest.outcome();
    let sent = attacker.stop();
    let usage = Usage::read(&ground, guard.as_ref())?.since(&before).once_judged(&ground)?;
    let kept = held.kept();
    Ok(Row { attack, protector, sent, honest: outcome, kept, usage })
}

fn line(row: &Row, seconds: u64) -> String {
    let thousands = |count: u64| format!("{:.1}", count as f64 / seconds as f64 / 1000.0);
    let milliseconds = |part: f64| {
        row.honest
            .latency(part)
            .map_or_else(|| "-".to_owned(), |time| format!("{:.1} ms", time.as_secs_f64() * 1e3))
    };
    let Outcome { completed, failed, .. } = row.honest;
    let share = completed as f64 * 100.0 / (completed + failed).max(1) as f64;
    format!(
        "| {} | {} | {} | {} | {} | {completed} of {} ({share:.1} %) | {} | {} | {} of {} | {} | {} |",
        row.attack.name(),
        row.protector.name(),
        thousands(row.sent),
        thousands(row.usage.received),
        thousands(row.usage.lost),
        completed + failed,
        milliseconds(0.5),
        milliseconds(0.99),
        row.kept.0,
        row.kept.1,
        row.usage.memory(),
        row.usage.cpu(seconds),
    )
}
