//! `halfgate replay`

mod capture;
mod foreseen;
mod fragments;
mod headers;
mod index;
mod link;
mod progress;
mod report;
mod rows;
mod shelves;
mod world;
mod zeek;

#[cfg(test)]
mod tests;

use std::{
    io::{self, Write as _},
    net::IpAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::Result;

use self::{
    capture::{Broken, Frame, Place, Takes},
    foreseen::{AHEAD, Look},
    fragments::{Fragments, Taken},
    progress::Progress,
    rows::{Judged, Rows},
    world::{Clock, Interface, Paths, Side},
};
use super::{client, output::Output};
use crate::{
    conntrack::Instant,
    daemon::{
        protocol::Line,
        rules::{self, Source},
    },
    engine::{DropReason, Event, Verdict},
    policy::{Action, Adaptive, Policy, Settings},
    sys::memory::LargePages,
    wire::Checksums,
};

/// Run captures through a rule file, on the capture's own clock
///
/// The engine of the gateway judges every packet; timers fire between packets as
/// they would have. Shown is a line for each connection: the phase it came to and
/// why it ended, `conn_state` and `history` as Zeek's conn.log spells them (what
/// was on the wire, whatever the verdict), and how many packets were accepted,
/// dropped and reset. A tuple that was never tracked has no phase.
///
/// A capture has no interfaces: all packets are forwarded, from and to no named
/// one. Where rules ask for zones by interface, say with --interface which
/// networks lie behind which.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    halfgate replay day.pcap --rules rules.yaml --interface lan=192.168.10.0/24 --interface wan\n  \
    halfgate replay day.pcap --rules rules.yaml --compare stricter.yaml ...\n  \
    halfgate replay day.pcap --json | jq 'select(.phase == null)'")]
pub(super) struct Args {
    /// Captures, pcap or pcapng: Ethernet, VLAN, raw IP, Linux cooked, loopback
    #[arg(required = true, value_name = "PCAP")]
    captures: Vec<PathBuf>,
    /// The rule file; without it everything is accepted that TCP allows
    #[arg(long, value_name = "RULES")]
    rules: Option<PathBuf>,
    /// List only the connections that would have ended otherwise with these rules, and why
    #[arg(long, value_name = "OTHER")]
    compare: Option<PathBuf>,
    /// The networks behind an interface, by commas; without networks it has all others
    #[arg(long, value_name = "IF[=NETWORK,...]")]
    interface: Vec<Interface>,
    /// The gateway's own addresses: packets to them are input, from them output
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    gateway: Vec<IpAddr>,
    /// Pick up connections that began before the capture, as the rule file's `pickup: { grace }` says
    #[arg(long)]
    pickup_grace: bool,
    /// Drop packets with wrong checksums; where they were captured many are not filled in yet
    #[arg(long)]
    verify_checksums: bool,
    /// The captures are parts of one: one table, one clock
    #[arg(long)]
    join: bool,
    /// One object per connection
    #[arg(long)]
    json: bool,
}

/// How many packets there were, and of what kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Totals {
    /// All that were read.
    pub packets: u64,
    /// Those that hold no IP packet, or nothing of it.
    pub not_ip: u64,
    /// Fragments but the last of each packet, and those that make no packet.
    pub fragments: u64,
    /// Without a tuple of their own: ICMP errors, what is cut off.
    pub without_tuple: u64,
    /// Verdicts of the first rule set.
    pub accepted: u64,
    /// As above.
    pub dropped: u64,
    /// As above.
    pub reset: u64,
}

/// What came of a capture in memory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// Of all packets.
    pub totals: Totals,
    /// Packets and octets of each connection, both ways together.
    pub connections: Vec<(u64, u64)>,
    /// Why reading ended before the end, and where.
    pub broken: Option<String>,
}

/// Runs a capture that is in memory through rule sets. Nothing is shown.
#[must_use]
pub fn replay_bytes(capture: &[u8], policies: &[Policy], checksums: Checksums) -> Outcome {
    let paths = Paths::default();
    let mut replay = Replay::new(policies, &paths, checksums);
    let result = capture::read_from(Path::new("-"), capture, &mut replay);
    let connections = replay.rows.all().iter().map(|row| {
        let (original, reply) = (row.original, row.reply);
        (original.packets + reply.packets, original.bytes + reply.bytes)
    });
    Outcome {
        totals: replay.totals,
        connections: connections.collect(),
        broken: result.err().map(|broken| broken.to_string()),
    }
}

/// A capture under one or two rule sets.
struct Replay<'a> {
    paths: &'a Paths,
    checksums: Checksums,
    clock: Clock,
    sides: Vec<Side>,
    rows: Rows,
    totals: Totals,
    fragments: Fragments,
    /// What was seen of the packets at hand, ahead of their turn.
    looks: Vec<Option<Look>>,
    /// A packet whose options were cut off.
    padded: Vec<u8>,
    /// Used anew for every packet.
    verdicts: Vec<Verdict>,
    events: Vec<Vec<Event>>,
}

impl<'a> Replay<'a> {
    fn new(policies: &[Policy], paths: &'a Paths, checksums: Checksums) -> Self {
        let sides: Vec<Side> = policies.iter().map(|policy| Side::new(policy.clone(), paths)).collect();
        Self {
            paths,
            checksums,
            clock: Clock::new(&sides),
            sides,
            rows: Rows::new(policies.len()),
            totals: Totals::default(),
            fragments: Fragments::default(),
            looks: Vec::new(),
            padded: Vec::new(),
            verdicts: Vec::new(),
            events: vec![Vec::new(); policies.len()],
        }
    }

    /// A packet that is whole, or a fragment that stays one; `look` is what was seen of it.
    fn judge(&mut self, number: u64, whole: &[u8], wire_len: u32, now: Instant, look: Option<Look>) {
        let seen = look.map(|look| look.seen);
        let ends = seen.map(|seen| (seen.flow.src, seen.flow.dst));
        let mut meta = world::meta(self.paths, ends, wire_len, self.checksums);
        let mut bytes = whole;
        if let Some(seen) =
            seen.filter(|seen| seen.headers > bytes.len() && seen.len as usize >= seen.headers)
        {
            // A short snapshot cut TCP options off: zeros end the list of options.
            self.padded.clear();
            self.padded.extend_from_slice(bytes);
            self.padded.resize(seen.headers, 0);
            bytes = &self.padded;
            meta.checksums = Checksums::Trust;
        }
        self.verdicts.clear();
        for (side, events) in self.sides.iter_mut().zip(&mut self.events) {
            self.verdicts.push(side.judge(&meta, bytes, now));
            events.clear();
            while let Some(event) = side.event() {
                events.push(event);
            }
        }
        match self.verdicts.first() {
            Some(Verdict::Accept) => self.totals.accepted += 1,
            Some(Verdict::Drop(_)) => self.totals.dropped += 1,
            Some(Verdict::Reset(_)) => self.totals.reset += 1,
            None => {}
        }
        match &look {
            Some(look) => self.rows.packet(&Judged {
                seen: &look.seen,
                hash: look.hash,
                number,
                now,
                bad_checksum: self.verdicts.iter().any(is_bad_checksum),
                verdicts: &self.verdicts,
                events: &self.events,
            }),
            None => {
                self.totals.without_tuple += 1;
                for (side, events) in self.events.iter().enumerate() {
                    for event in events {
                        self.rows.event(side, event);
                    }
                }
            }
        }
    }
}

impl Replay<'_> {
    fn frame(&mut self, frame: &Frame<'_>, look: Option<Look>) {
        let now = self.clock.at(frame.at);
        for (number, side) in self.sides.iter_mut().enumerate() {
            if side.advance(now) {
                while let Some(event) = side.event() {
                    self.rows.event(number, &event);
                }
            }
        }
        self.totals.packets += 1;
        if frame.bytes.is_empty() {
            self.totals.not_ip += 1;
            return;
        }
        if !fragments::may_be(frame.bytes) {
            return self.judge(frame.number, frame.bytes, frame.wire_len, now, look);
        }
        let mut fragments = std::mem::take(&mut self.fragments);
        match fragments.take(frame.bytes, now) {
            Taken::Alone => self.judge(frame.number, frame.bytes, frame.wire_len, now, look),
            Taken::Whole(bytes) => {
                let wire_len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                let look = self.look(bytes, wire_len);
                self.judge(frame.number, bytes, wire_len, now, look);
            }
            Taken::Held => {
                self.totals.fragments += 1;
                if let Some(look) = look {
                    self.rows.notes(&look.seen, now);
                }
            }
        }
        self.fragments = fragments;
    }
}

impl Takes for Replay<'_> {
    fn frames(&mut self, frames: &[Frame<'_>], _: Place) {
        self.looks.clear();
        for at in 0..frames.len() + 2 * AHEAD {
            if let Some(frame) = frames.get(at) {
                self.looks.push(self.foresee(frame));
            }
            let is_due = |steps: usize| at.checked_sub(steps * AHEAD).filter(|at| *at < frames.len());
            if let Some(look) = is_due(1).and_then(|at| self.looks[at].as_ref()) {
                self.fetch(look);
            }
            if let Some(at) = is_due(2) {
                self.frame(&frames[at], self.looks[at]);
            }
        }
    }
}

fn is_bad_checksum(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Drop(DropReason::Malformed(why)) if why.name().ends_with("checksum"))
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let paths = Paths { interfaces: args.interface.clone(), gateway: args.gateway.clone() };
    let mut policies = vec![policy(args.rules.as_deref(), args, &paths)?];
    if let Some(other) = &args.compare {
        policies.push(policy(Some(other), args, &paths)?);
    }
    let checksums = if args.verify_checksums { Checksums::Verify } else { Checksums::Trust };
    let mut pages = LargePages::begin();
    let mut output = Output::open();
    let mut code = ExitCode::SUCCESS;
    let groups: Vec<&[PathBuf]> =
        if args.join { vec![&args.captures] } else { args.captures.chunks(1).collect() };
    for group in groups {
        let mut replay = Replay::new(&policies, &paths, checksums);
        for path in group {
            if let Err(broken) = feed(&mut replay, path, &mut pages) {
                let _ = writeln!(io::stderr().lock(), "halfgate: {broken}");
                code = ExitCode::FAILURE;
            }
        }
        let name = group.first().map(|path| path.display().to_string()).unwrap_or_default();
        report::write(&mut output, args, &name, &replay)?;
    }
    output.flush()?;
    Ok(code)
}

fn feed(replay: &mut Replay<'_>, path: &Path, pages: &mut LargePages) -> Result<Place, Broken> {
    capture::read(path, &mut Shown { replay, progress: Progress::new(path), pages })
}

/// A replay whose progress is shown.
struct Shown<'r, 'a> {
    replay: &'r mut Replay<'a>,
    progress: Progress,
    pages: &'r mut LargePages,
}

impl Takes for Shown<'_, '_> {
    fn frames(&mut self, frames: &[Frame<'_>], place: Place) {
        self.replay.frames(frames, place);
        self.progress.at(place.packets, place.offset);
        self.pages.ask();
    }
}

/// The policy of a rule file; of none: everything is accepted, nothing limited.
fn policy(path: Option<&Path>, args: &Args, paths: &Paths) -> Result<Policy> {
    let Some(path) = path else {
        let mut settings = Settings {
            default: Action::Accept,
            max_connections: 8_000_000,
            adaptive: Adaptive { start: 200, end: 300 },
            rst_per_second: u32::MAX,
            ..Settings::default()
        };
        if !args.pickup_grace {
            settings.pickup.grace = Duration::ZERO;
        }
        return Ok(Policy::new(settings, Vec::new(), Vec::new(), vec![Arc::from("default")]));
    };
    let compiled = rules::load(&Source::File(path.to_owned()), None).inspect_err(|error| {
        for diagnostic in error.diagnostics() {
            let _ = client::aside(&Line::Finding(diagnostic.clone()));
        }
    })?;
    let mut policy = compiled.policy;
    if !args.pickup_grace {
        policy.settings.pickup.grace = Duration::ZERO;
    }
    let by_name = policy.zones.iter().find(|zone| !zone.interfaces.is_empty());
    if let Some(zone) = by_name.filter(|_| paths.interfaces.is_empty()) {
        let _ = writeln!(
            io::stderr().lock(),
            "halfgate: zone {} of {} is named by interface and a capture has none, so nothing is in it: \
             say what lies behind with --interface {}=NETWORK",
            zone.name,
            path.display(),
            zone.interfaces.first().map_or("IF", |name| name.trim_end_matches('*')),
        );
    }
    Ok(policy)
}
