//! halfgate beside what it is measured against, row by row of docs/PERFORMANCE.md.
//!
//! Each row is the same traffic through two networks that differ only in what stands in
//! the gateway, in alternating runs; what counts is the ratio. `tests/bench/run.sh`
//! installs what is needed, builds and runs this.
// Time is what it measures.
#![allow(clippy::disallowed_methods)]

mod engine;
mod entry;
mod lab;
#[path = "../peers.rs"]
mod peers;
mod small;
mod stall;
mod stream;
mod table;
mod web;

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, ensure};
use clap::{Parser, ValueEnum};
use halfgate::sys::cpus;

use lab::{Lab, Programs, Way};
use peers::Scratch;
use stream::Traffic;
use table::{Row, Target};

/// The table stands between these in the document.
const MARKS: [&str; 2] = ["<!-- what tests/bench/run.sh --write puts here -->", "<!-- to here -->"];

/// halfgate beside its references, in alternating runs, as a table
#[derive(Parser, Clone, Debug)]
#[command(name = "run.sh")]
struct Args {
    /// Only these measurements, all of them if left out; see --list
    #[arg(long, value_delimiter = ',')]
    only: Vec<Measurement>,
    /// List the measurements
    #[arg(long)]
    list: bool,
    /// Runs of each way
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// How long a run is; streams are measured second by second, as many as all runs have
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Connections in the table of `stall`
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..=1_400_000))]
    connections: u32,
    /// Put the table into this document, between its marks, not to standard output
    #[arg(long, value_name = "DOCUMENT", num_args = 0..=1, default_missing_value = "docs/PERFORMANCE.md")]
    write: Option<PathBuf>,
    /// The halfgate to measure
    #[arg(long, default_value = "target/release/halfgate")]
    halfgate: PathBuf,
    /// A consumer that accepts everything, in place of tests/bench/floor.c; same options
    #[arg(long)]
    floor: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Measurement {
    /// One TCP stream on the fast path, beside nftables: rate, processor time, retransmissions
    Tcp1,
    /// Eight TCP streams
    Tcp8,
    /// One TCP stream of small segments
    Tcp1Small,
    /// Eight TCP streams of small segments
    Tcp8Small,
    /// Small datagrams
    UdpSmall,
    /// Short transfers: whether packets overtake each other as connections leave the queue
    Entry,
    /// One TCP stream, every packet inspected, beside the floor
    Full1,
    /// Eight of them
    Full8,
    /// One of small segments
    Full1Small,
    /// Eight of small segments
    Full8Small,
    /// Small datagrams, every packet inspected
    FullUdp,
    /// Connections a second, beside nftables
    Connections,
    /// Connections a second, beside Suricata
    ConnectionsSuricata,
    /// Verdicts in a second of processor time, small packets, beside the floor and the same chains
    Verdicts,
    /// How late a packet is by the queue, beside the floor
    Latency,
    /// SYNs of a flood that are taken
    Flood,
    /// Workers of two queues, datagrams of 64 pairs of addresses, beside one of one
    Workers,
    /// How late packets are while a million connections are listed, end, or are judged again
    Stall,
    /// The engine by itself: a packet among a thousand and a million connections, and memory
    Engine,
    /// The engine by itself: 2, 4, 8 and 16 threads
    Threads,
    /// The engine by itself: the longest that a packet waits for locks
    Locks,
    /// A decision among 10 and 10,000 rules
    Rules,
    /// The other floor (--floor) beside the one of this tree
    Floor,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let mut out = std::io::stdout().lock();
    if args.list {
        for measurement in Measurement::value_variants() {
            let value = measurement.to_possible_value().context("each has a name")?;
            let help = value.get_help().map(ToString::to_string).unwrap_or_default();
            writeln!(out, "{:14} {help}", value.get_name())?;
        }
        return Ok(());
    }
    let chosen = if args.only.is_empty() { Measurement::value_variants() } else { &args.only };
    if let Some(path) = &args.write {
        // Before anything is measured that it would have no place for.
        with_table(path, "")?;
    }
    let scratch = Scratch::new("bench")?;
    let programs = Programs::find(&args.halfgate, args.floor.as_deref(), &scratch.0)?;
    let (mut rows, mut failed) = (Vec::new(), Vec::new());
    for measurement in chosen {
        match measure(*measurement, &args, &programs) {
            Ok(found) => {
                for row in &found {
                    eprintln!("{}", row.line());
                }
                rows.extend(found);
            }
            // What the others have measured is not lost.
            Err(error) => {
                let name = measurement.to_possible_value().context("each has a name")?.get_name().to_owned();
                eprintln!("{name}: {error:?}");
                failed.push(name);
            }
        }
    }
    let text = format!("{}\n\n{}\n", about(&args)?, table_of(&rows));
    match &args.write {
        Some(path) if failed.is_empty() => {
            let document = with_table(path, &text)?;
            fs::write(path, document).with_context(|| format!("write {}", path.display()))?;
        }
        _ => out.write_all(text.as_bytes())?,
    }
    let again = failed.join(",");
    ensure!(failed.is_empty(), "not measured: {again} (why: above); again with --only {again}");
    Ok(())
}

fn table_of(rows: &[Row]) -> String {
    let lines: Vec<String> = rows.iter().map(Row::line).collect();
    format!("{}\n{}", table::HEAD, lines.join("\n"))
}

/// A document with this between its marks.
fn with_table(path: &Path, text: &str) -> anyhow::Result<String> {
    let document = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let [begin, end] = MARKS;
    let whole = table::put_between(&document, begin, end, text);
    whole.with_context(|| format!("{}: no {begin} and {end}", path.display()))
}

/// The machine, the version and the day.
fn about(args: &Args) -> anyhow::Result<String> {
    let processors = fs::read_to_string("/proc/cpuinfo")?;
    let model = processors.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let cores = std::thread::available_parallelism()?;
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let commit = Command::new("git").args(["describe", "--always", "--dirty"]).output();
    let commit = commit.ok().filter(|output| output.status.success());
    let commit = commit.map_or_else(
        || "unknown".to_owned(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    );
    let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let day = now.split('T').next().unwrap_or_default();
    Ok(format!(
        "{}, {cores} cores, kernel {}; version {commit}; {day}. Medians of {} runs of {} s each way, lowest \
         and highest in brackets; a ratio is that of two runs beside each other.",
        model.map_or("unknown processor", |(_, model)| model),
        kernel.trim(),
        args.runs,
        args.seconds,
    ))
}

fn measure(measurement: Measurement, args: &Args, programs: &Programs) -> anyhow::Result<Vec<Row>> {
    let tcp = |connections, short| Traffic::Tcp { connections, short };
    match measurement {
        Measurement::Tcp1 => streams(tcp(1, false), Way::Fast, args, programs),
        Measurement::Tcp8 => streams(tcp(8, false), Way::Fast, args, programs),
        Measurement::Tcp1Small => streams(tcp(1, true), Way::Fast, args, programs),
        Measurement::Tcp8Small => streams(tcp(8, true), Way::Fast, args, programs),
        Measurement::UdpSmall => streams(Traffic::Udp, Way::Fast, args, programs),
        Measurement::Entry => entries(args, programs),
        Measurement::Full1 => streams(tcp(1, false), Way::Full, args, programs),
        Measurement::Full8 => streams(tcp(8, false), Way::Full, args, programs),
        Measurement::Full1Small => streams(tcp(1, true), Way::Full, args, programs),
        Measurement::Full8Small => streams(tcp(8, true), Way::Full, args, programs),
        Measurement::FullUdp => streams(Traffic::Udp, Way::Full, args, programs),
        Measurement::Connections => connections(args, programs),
        Measurement::ConnectionsSuricata => connections_suricata(args, programs),
        Measurement::Verdicts => verdicts(args, programs),
        Measurement::Latency => on_one_processor(|| latency(args, programs)),
        Measurement::Flood => flood(args, programs),
        Measurement::Workers => workers(args, programs),
        Measurement::Stall => stall(args, programs),
        Measurement::Engine => engine(args),
        Measurement::Threads => threads(args),
        Measurement::Locks => locks(args),
        Measurement::Rules => rules(args),
        Measurement::Floor => floors(args, programs),
    }
}

/// The same in two networks, in turns; whoever is second in one round is first in the next.
fn alternate<T, U>(
    args: &Args,
    what: &str,
    mut ours: impl FnMut() -> anyhow::Result<T>,
    mut theirs: impl FnMut() -> anyhow::Result<U>,
) -> anyhow::Result<(Vec<T>, Vec<U>)> {
    let (mut left, mut right) = (Vec::new(), Vec::new());
    for round in 0..args.runs {
        eprintln!("{what}: round {} of {}", round + 1, args.runs);
        if round % 2 == 0 {
            right.push(theirs()?);
            left.push(ours()?);
        } else {
            left.push(ours()?);
            right.push(theirs()?);
        }
    }
    Ok((left, right))
}

/// Second by second: for seconds on end this machine copies three times as fast as in others (its
/// caches are not its own), and what stands beside each other should have the same of them.
fn streams(traffic: Traffic, way: Way, args: &Args, programs: &Programs) -> anyhow::Result<Vec<Row>> {
    let turns = args.runs.saturating_mul(u32::try_from(args.seconds)?);
    let args = &Args { runs: turns, seconds: 1, ..args.clone() };
    let (reference, against, how) = match way {
        Way::Full => (Way::Floor, FLOOR, "full inspection"),
        Way::Fast
        | Way::Plain
        | Way::Conntrack
        | Way::Floor
        | Way::Chains
        | Way::Many
        | Way::Tracked
        | Way::Queues
        | Way::Ends
        | Way::Suricata
        | Way::SilentSuricata
        | Way::OneWorker
        | Way::TwoWorkers
        | Way::Large => (Way::Conntrack, "nftables", "fast path"),
    };
    let (mut ours, mut theirs) = (Lab::new(way, programs)?, Lab::new(reference, programs)?);
    stream::serve(&mut ours)?;
    stream::serve(&mut theirs)?;
    let what = format!("{}, {how}", traffic.name());
    let (ours, theirs) = alternate(
        args,
        &what,
        || stream::run(&ours, traffic, args.seconds),
        || stream::run(&theirs, traffic, args.seconds),
    )?;
    let row = |what: String, unit, target, of: fn(&stream::Run) -> f64| Row {
        what,
        unit,
        against,
        ours: ours.iter().map(of).collect(),
        theirs: theirs.iter().map(of).collect(),
        target,
    };
    let unit = if traffic == Traffic::Udp { "1,000 packets/s" } else { "Gbit/s" };
    let mut rows = vec![row(what.clone(), unit, Target::AtLeast(0.95), |run| run.rate)];
    if way == Way::Fast {
        rows.push(row(format!("{what}: processor time"), "s a GB", Target::AtMost(1.1), |run| run.cpu));
        // Else it is not the fast path that was measured.
        rows.push(row(format!("{what}: came to the queue"), "% of packets", Target::Under(1.0), |run| {
            run.queued
        }));
    }
    if way == Way::Fast && traffic != Traffic::Udp {
        let target = Target::NoMore;
        rows.push(row(format!("{what}: sent again"), "segments a run", target, |run| run.again as f64));
        rows.push(row(format!("{what}: out of order"), "segments a run", target, |run| run.early as f64));
    }
    Ok(rows)
}

/// As it comes; with hosts that keep to a processor each, as machines of their own would; and all
/// on one. There what is out of order is the gateway's doing, because the two ends' own packets
/// don't overtake each other from processor to processor; and on one they come between any two
/// steps of the gateway's.
fn entries(args: &Args, programs: &Programs) -> anyhow::Result<Vec<Row>> {
    let mut rows = entries_by("", None, args, programs)?;
    let allowed = cpus::allowed()?;
    let (client, server) = (allowed.first(), allowed.get(1).or(allowed.first()));
    let parted = client.zip(server).map(|(client, server)| [*client, *server]);
    rows.extend(entries_by(", hosts on one processor each", parted, args, programs)?);
    rows.extend(on_one_processor(|| entries_by(", all on one processor", None, args, programs))?);
    Ok(rows)
}

fn entries_by(
    hosts: &str,
    parted: Option<[u16; 2]>,
    args: &Args,
    programs: &Programs,
) -> anyhow::Result<Vec<Row>> {
    let (ours, theirs) = (Lab::new(Way::Fast, programs)?, Lab::new(Way::Conntrack, programs)?);
    if let Some(cpus) = parted {
        ours.part_hosts(cpus)?;
        theirs.part_hosts(cpus)?;
    }
    let count = usize::try_from(args.seconds)? * 40;
    let what = format!("{count} transfers of 4 MiB{hosts}");
    let run = |lab: &Lab| entry::run(lab, count, parted);
    let (ours, theirs) = alternate(args, &what, || run(&ours), || run(&theirs))?;
    let row = |name: &str, of: fn(&entry::Run) -> f64| Row {
        what: format!("{what}: {name}"),
        unit: "segments a run",
        against: "nftables",
        ours: ours.iter().map(of).collect(),
        theirs: theirs.iter().map(of).collect(),
        target: Target::NoMore,
    };
    Ok(vec![row("sent again", |run| run.again as f64), row("out of order", |run| run.early as f64)])
}

const NEW_CONNECTIONS: &str = "connections: a page over a new one each time";

/// Beside them what those could do at best who judge all packets in queues, or no more than how
/// connections open and end.
fn connections(args: &Args, programs: &Programs) -> anyhow::Result<Vec<Row>> {
    let (ours, theirs) = (serving_pages(Way::Fast, programs)?, serving_pages(Way::Conntrack, programs)?);
    let (all, ends) = (serving_pages(Way::Queues, programs)?, serving_pages(Way::Ends, programs)?);
    let run = |lab: &Lab| web::run(lab, args.seconds);
    let floors = || Ok((run(&ours)?, (run(&all)?, run(&ends)?)));
    let (ours, theirs) = alternate(args, NEW_CONNECTIONS, floors, || run(&theirs))?;
    let (ours, floors): (Vec<_>, Vec<_>) = ours.into_iter().unzip();
    let (all, ends) = floors.into_iter().unzip();
    let floor = |what: &str, rates| Row {
        what: format!("{NEW_CONNECTIONS}, {what} through the floor of batch 32"),
        ..new_connections("nftables", rates, theirs.clone(), Target::None)
    };
    let floors = [floor("every packet", all), floor("SYN, FIN and RST alone", ends)];
    let ours = new_connections("nftables", ours, theirs.clone(), Target::AtLeast(0.65));
    Ok([ours].into_iter().chain(floors).collect())
}

/// Beside Suricata without its logs of events; and as it comes, which writes down each connection
/// and each page. halfgate does not: of events that come so fast it remembers some, and counts the
/// others. So the target is for the former.
fn connections_suricata(args: &Args, programs: &Programs) -> anyhow::Result<Vec<Row>> {
    let (ours, theirs) = (serving_pages(Way::Fast, programs)?, serving_pages(Way::Suricata, programs)?);
    let silent = serving_pages(Way::SilentSuricata, programs)?;
    let run = |lab: &Lab| web::run(lab, args.seconds);
    let suricatas = || Ok((run(&theirs)?, run(&silent)?));
    let (ours, theirs) = alternate(args, NEW_CONNECTIONS, || run(&ours), suricatas)?;
    let (theirs, silent) = theirs.into_iter().unzip();
    Ok(vec![
        new_connections("Suricata, its logs off", ours.clone(), silent, Target::AtLeast(1.5)),
        new_connections("Suricata as it comes", ours, theirs, Target::None),
    ])
}

fn serving_pages(way: Way, programs: &Programs) -> anyhow::Result<Lab> {
    let mut lab = Lab::new(way, programs)?;
    web::serve(&mut lab)?;
    Ok(lab)
}

fn new_connections(against: &'static str, ours: Vec<f64>, theirs: Vec<f64>, target: Target) -> Row {
    Row { what: NEW_CONNECTIONS.to_owned(), unit: "a second", against, ours, theirs, target }
}

/// The bare one, one packet a system call.
const FLOOR: &str = "floor";

/// The bare one, many packets a system call.
const FLOOR_OF_MANY: &str = "floor of batch 32";

/// The same beside rules of nftables' that ask conntrack.
const TRACKED: &str = "floor of batch 32, nftables' conntrack";

/// In place of halfgate: what its rules and its many queues leave.
const OF_FLOOR: &str = "the floor behind the same chains";

/// The floor of batch 32 where halfgate's chains and conntrack are.
const SAME_CHAINS: &str = "floor of batch 32, same chains";

fn verdicts(args: &Args, programs: &Programs) -> anyhow::Result<Vec<Row>> {
    let (mut ours, mut theirs) = (Lab::new(Way::Full, programs)?, Lab::new(Way::Chains, programs)?);
    stream::serve(&mut ours)?;
    stream::serve(&mut theirs)?;
    let what = "verdicts on datagrams of 64 octets, full inspection";
    let run = |lab: &Lab| small::verdicts(lab, args.seconds);
    let (ours, theirs) = alternate(args, what, || run(&ours), || run(&theirs))?;
    let unit = "1,000 a second of its processor time";
    let (against, target) = (SAME_CHAINS, Target::AtLeast(0.85));
    Ok(vec![Row { what: what.to_owned(), unit, against, ours, theirs, target }])
}

/// What comes of it where everything that `measure` starts runs on one processor.
fn on_one_processor<T: Send>(measure: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
    let pinned = || {
        let cpu = cpus::allowed()?.first().copied().context("no processor")?;
        cpus::pin(cpu)?;
        measure()
    };
    // What a thread starts inherits where it may run.
    std::thread::scope(|scope| scope.spawn(pinned).join().map_err(|_| anyhow::anyhow!("it panicked"))?)
}

/// What a queue adds is what an echo takes longer than in the same network without one: with
/// conntrack, or without any rules as the floor's. A machine's speed swings over seconds, so
/// that all are measured beside each other many times a run; and all on one processor, because
/// to wake another takes several times what is measured, the same for all, and swings with it.
fn latency(args: &Args, programs: &Programs) -> anyhow::Result<Vec<Row>> {
    const TURNS: u32 = 4;
    let lab = |way| Lab::new(way, programs);
    let (full, chains, conntrack) = (lab(Way::Full)?, lab(Way::Chains)?, lab(Way::Conntrack)?);
    let (floor, plain) = (lab(Way::Floor)?, lab(Way::Plain)?);
    let what = "latency that the queue adds to a packet";
    let added = |with: &Lab, without: &Lab| -> anyhow::Result<[f64; 2]> {
        let time = Duration::from_secs(args.seconds) / TURNS;
        let (without, with) = (small::echoes(without, time)?, small::echoes(with, time)?);
        Ok([(with.half - without.half) / 2.0, (with.of_hundred - without.of_hundred) / 2.0])
    };
    let turns = Args { runs: args.runs.saturating_mul(TURNS), ..args.clone() };
    let ours = || added(&full, &conntrack);
    let theirs = || Ok((added(&floor, &plain)?, added(&chains, &conntrack)?));
    let (ours, theirs) = alternate(&turns, what, ours, theirs)?;
    let (floor, chains): (Vec<_>, Vec<_>) = theirs.into_iter().unzip();
    let row = |what: &str, against, ours: &[[f64; 2]], theirs: &[[f64; 2]], target| {
        [(0, "half of them"), (1, "99 of 100")].map(|(part, name)| Row {
            what: format!("{what}, {name}"),
            unit: "µs",
            against,
            ours: ours.iter().map(|both| both[part]).collect(),
            theirs: theirs.iter().map(|both| both[part]).collect(),
            target,
        })
    };
    let (target, of_floor) = (Target::AtMost(1.2), format!("{what}, {OF_FLOOR}"));
    let rows = [
        row(what, FLOOR, &ours, &floor, target),
        row(what, SAME_CHAINS, &ours, &chains, target),
        row(&of_floor, FLOOR, &chains, &floor, Target::None),
    ];
    Ok(rows.into_iter().flatten().collect())
}

fn flood(args: &Args, programs: &Programs) -> anyhow::Result<Vec<Row>> {
    let what = "SYNs of a flood from 65,536 sources";
    // Each run in networks of its own: a flood fills the tables of the last one.
    let run = |way| -> anyhow::Result<f64> { small::flood(&Lab::new(way, programs)?, args.seconds) };
    let references = || Ok((run(Way::Many)?, run(Way::Tracked)?, run(Way::Chains)?));
    let (ours, theirs) = alternate(args, what, || run(Way::Fast), references)?;
    let floor: Vec<_> = theirs.iter().map(|(floor, ..)| *floor).collect();
    let tracked: Vec<_> = theirs.iter().map(|(_, tracked, _)| *tracked).collect();
    let chains: Vec<_> = theirs.iter().map(|(.., chains)| *chains).collect();
    let row = |what: &str, against, ours: &[f64], theirs: &[f64], target| Row {
        what: what.to_owned(),
        unit: "1,000 taken a second",
        against,
        ours: ours.to_vec(),
        theirs: theirs.to_vec(),
        target,
    };
    let target = Target::AtLeast(0.8);
    Ok(vec![
        row(what, FLOOR_OF_MANY, &ours, &floor, target),
        row(what, TRACKED, &ours, &tracked, Target::None),
        row(what, SAME_CHAINS, &ours, &chains, target),
        row(&format!("{what}, {OF_FLOOR}"), FLOOR_OF_MANY, &chains, &floor, Target::None),
    ])
}

/// That the floor of this tree is as fast as another one.
fn floors(args: &Args, programs: &Programs) -> anyhow::Result<Vec<Row>> {
    let Some(other) = &args.floor else { return Ok(Vec::new()) };
    let scratch = Scratch::new("bench")?;
    let own = Programs::find(&programs.halfgate, None, &scratch.0)?;
    let other = Programs::find(&programs.halfgate, Some(other), &scratch.0)?;
    let mut rows = Vec::new();
    for (way, batch) in [(Way::Floor, "one packet"), (Way::Many, "32 packets")] {
        let (mut ours, mut theirs) = (Lab::new(way, &own)?, Lab::new(way, &other)?);
        stream::serve(&mut ours)?;
        stream::serve(&mut theirs)?;
        let what = format!("this tree's floor, {batch} a system call: verdicts on small datagrams");
        let run = |lab: &Lab| small::verdicts(lab, args.seconds);
        let (ours, theirs) = alternate(args, &what, || run(&ours), || run(&theirs))?;
        let unit = "1,000 a second of its processor time";
        rows.push(Row {
            what,
            unit,
            against: "the other floor",
            ours,
            theirs,
            target: Target::AtLeast(0.95),
        });
    }
    Ok(rows)
}

fn engine(args: &Args) -> anyhow::Result<Vec<Row>> {
    // The first that is made: what an earlier one has given back would be taken again.
    let many = engine::Full::of(engine::MANY);
    let few = engine::Full::of(engine::FEW);
    let speed = |what: &str, nanos: fn(&engine::Full) -> f64, target| -> anyhow::Result<Row> {
        let what = format!("engine: a packet in window, 1,000,000 connections in random order, {what}");
        let (ours, theirs) = alternate(args, &what, || Ok(nanos(&many)), || Ok(nanos(&few)))?;
        Ok(Row { what, unit: "ns", against: "1,000 connections", ours, theirs, target })
    };
    let batches = speed("in batches of 32", engine::Full::nanos, Target::AtMost(4.0))?;
    let single = speed("one by one", engine::Full::nanos_single, Target::AtMost(4.0))?;
    let memory = Row {
        what: "engine: memory a connection of IPv4, all in, 1,000,000 of them".to_owned(),
        unit: "octets",
        against: "nf_conntrack's entry without extensions",
        ours: vec![many.memory],
        theirs: vec![256.0],
        target: Target::Under(128.0),
    };
    Ok(vec![batches, single, memory])
}

fn threads(args: &Args) -> anyhow::Result<Vec<Row>> {
    let full = engine::Full::of(engine::MANY / 10);
    let cores = std::thread::available_parallelism()?.get();
    let mut rows = Vec::new();
    for threads in [2, 4, 8, 16] {
        let what = format!("engine: {threads} threads on one table, 100,000 connections");
        let linear = || {
            let alone = full.together(1);
            Ok(engine::Together { rate: alone.rate * threads.min(cores) as f64, ..alone })
        };
        let (ours, theirs) = alternate(args, &what, || Ok(full.together(threads)), linear)?;
        let row = |what, unit, target, of: fn(&engine::Together) -> f64| Row {
            what,
            unit,
            against: "one thread, times the cores that they have",
            ours: ours.iter().map(of).collect(),
            theirs: theirs.iter().map(of).collect(),
            target,
        };
        let rate = |both: &engine::Together| both.rate / 1e6;
        rows.push(row(what.clone(), "million packets/s", Target::AtLeast(0.8), rate));
        let what = format!("{what}: waited for another's lock");
        rows.push(row(what, "times in 100 packets", Target::Under(1.0), |both| both.waits));
    }
    Ok(rows)
}

fn locks(args: &Args) -> anyhow::Result<Vec<Row>> {
    let row = |work: engine::Work| {
        let what = format!("engine: the longest that a packet takes, 1,000,000 connections, {}", work.name());
        let ours = || Ok(engine::longest(work));
        let (ours, theirs) = alternate(args, &what, ours, || Ok(engine::longest(engine::Work::Nothing)))?;
        let against = engine::Work::Nothing.name();
        Ok(Row { what, unit: "µs", against, ours, theirs, target: Target::Under(1000.0) })
    };
    engine::Work::ALL.into_iter().map(row).collect()
}

/// What two workers cost each other. Whoever sends needs a core too, so that the rate says
/// little here.
fn workers(args: &Args, programs: &Programs) -> anyhow::Result<Vec<Row>> {
    let labs = (Lab::new(Way::TwoWorkers, programs)?, Lab::new(Way::OneWorker, programs)?);
    let what = "two workers, datagrams of 64 pairs of addresses, full inspection";
    let run = |lab: &Lab| small::pairs(lab, args.seconds);
    let (ours, theirs) = alternate(args, what, || run(&labs.0), || run(&labs.1))?;
    let unit = "1,000 verdicts a second of their processor time";
    let (what, against) = (what.to_owned(), "one worker");
    Ok(vec![Row { what, unit, against, ours, theirs, target: Target::AtLeast(0.8) }])
}

fn stall(args: &Args, programs: &Programs) -> anyhow::Result<Vec<Row>> {
    let (many, floor) = (stall::Filled::new(programs, args.connections)?, Lab::new(Way::Floor, programs)?);
    let mut rows = Vec::new();
    for work in stall::Work::ALL {
        let what =
            format!("latency of 999 of 1,000 echoes, {} connections, {}", args.connections, work.name());
        let ours = || many.fill().and_then(|()| many.echoes(work, args.seconds));
        let theirs = || Ok(small::echoes(&floor, Duration::from_secs(args.seconds))?.of_thousand);
        let (ours, theirs) = alternate(args, &what, ours, theirs)?;
        rows.push(Row { what, unit: "µs", against: FLOOR, ours, theirs, target: Target::AtMost(1.5) });
    }
    Ok(rows)
}

fn rules(args: &Args) -> anyhow::Result<Vec<Row>> {
    const NETWORKS: usize = 100_000;
    let many = engine::Rules::of(10_000, NETWORKS);
    let mut rows = Vec::new();
    for (networks, against) in [(NETWORKS, "10 rules, the same lists"), (10, "10 rules, lists of 10")] {
        let few = engine::Rules::of(10, networks);
        let what = "rules: a decision among 10,000, with lists of 100,000 networks";
        let (ours, theirs) = alternate(args, what, || Ok(many.nanos()), || Ok(few.nanos()))?;
        let row = |ours: &[f64], theirs: &[f64], target| Row {
            what: what.to_owned(),
            unit: "ns",
            against,
            ours: ours.to_vec(),
            theirs: theirs.to_vec(),
            target,
        };
        rows.push(row(&ours, &theirs, Target::AtMost(3.0)));
        if networks == NETWORKS {
            rows.push(row(&ours, &theirs, Target::Under(1000.0)));
        }
    }
    Ok(rows)
}
