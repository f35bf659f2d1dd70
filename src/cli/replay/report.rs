//! What a replay shows: a line or an object for each connection.

use std::{collections::BTreeMap, io};

use serde::Serialize;

use super::{
    Args, Replay, Totals,
    rows::{Fate, Row},
    world::{Paths, Side},
};
use crate::{
    cli::output::{Align, Dress, Output, Table},
    conntrack::Phase,
    daemon::{events::close_reason, protocol::Counts, text},
    engine::{self, DropReason, Verdict},
    wire::Protocol,
};

const COLUMNS: [(&str, Align); 11] = [
    ("PROTO", Align::Left),
    ("SOURCE", Align::Left),
    ("DESTINATION", Align::Left),
    ("PHASE", Align::Left),
    ("STATE", Align::Left),
    ("HISTORY", Align::Left),
    ("SENT", Align::Right),
    ("RECEIVED", Align::Right),
    ("VERDICTS", Align::Left),
    ("CLOSED", Align::Left),
    ("DROPPED", Align::Left),
];

/// Verdicts by kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
struct Verdicts {
    accept: u64,
    drop: u64,
    reset: u64,
}

/// What became of a connection under a rule set.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
struct Outcome {
    phase: Option<&'static str>,
    close_reason: Option<String>,
    rule: Option<String>,
    /// Times the table opened it.
    opened: u32,
    verdicts: Verdicts,
    drop_reasons: BTreeMap<&'static str, u64>,
}

/// A connection as `--json` shows it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
struct Object<'a> {
    capture: &'a str,
    proto: String,
    src: String,
    sport: u16,
    dst: String,
    dport: u16,
    conn_state: &'static str,
    history: String,
    original: Counts,
    reply: Counts,
    #[serde(flatten)]
    outcome: Outcome,
    /// With the other rule file.
    #[serde(skip_serializing_if = "Option::is_none")]
    other: Option<Outcome>,
    /// Where the two rule files first part.
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
}

fn counts(counts: engine::Counts) -> Counts {
    Counts { packets: counts.packets, bytes: counts.bytes }
}

fn outcome(row: &Row, number: usize, side: &Side) -> Option<Outcome> {
    let fate: &Fate = row.fates.get(number)?;
    let policy = side.policy();
    Some(Outcome {
        phase: fate.phase.map(Phase::name),
        close_reason: fate.close_reason(*row.reset_by.get(number)?).as_ref().map(close_reason),
        rule: fate.rule.map(|rule| policy.name(rule).to_owned()),
        opened: fate.opened,
        verdicts: Verdicts { accept: fate.accepted, drop: fate.dropped, reset: fate.reset },
        drop_reasons: fate.reasons.iter().map(|(reason, count)| (reason.name(), *count)).collect(),
    })
}

/// Whether a connection would have ended otherwise.
fn differs(one: &Outcome, other: &Outcome) -> bool {
    (one.phase, &one.close_reason, one.verdicts) != (other.phase, &other.close_reason, other.verdicts)
}

/// Where two rule files part.
fn why(row: &Row, one: &Outcome, other: &Outcome, sides: &[Side], paths: &Paths) -> String {
    let Some((packet, [first, second])) = row.differs else {
        let reason =
            |outcome: &Outcome| outcome.close_reason.clone().unwrap_or_else(|| "still open".to_owned());
        return format!("the same verdicts, but {} instead of {}", reason(other), reason(one));
    };
    let told = |side: &Side, verdict: Verdict, outcome: &Outcome| match verdict {
        Verdict::Accept => {
            outcome.rule.as_ref().map_or("accept".to_owned(), |rule| format!("accept by rule {rule}"))
        }
        Verdict::Drop(DropReason::Rule) => format!("drop by rule {}", side.rule(paths, &row.flow)),
        Verdict::Reset(DropReason::Rule) => format!("reset by rule {}", side.rule(paths, &row.flow)),
        Verdict::Drop(reason) => format!("drop ({})", reason.name()),
        Verdict::Reset(reason) => format!("reset ({})", reason.name()),
    };
    let [a, b] = sides else { return String::new() };
    format!("packet {packet}: {} instead of {}", told(b, second, other), told(a, first, one))
}

/// Writes a replay's connections.
pub(super) fn write(output: &mut Output, args: &Args, name: &str, replay: &Replay<'_>) -> io::Result<()> {
    let Some(side) = replay.sides.first() else { return Ok(()) };
    let mut table = Table::new(&COLUMNS);
    let mut differing = 0_u64;
    if !args.json && args.captures.len() > 1 {
        let heading = output.dressed(Dress::Heading, name);
        output.line(&heading)?;
    }
    for row in replay.rows.all() {
        let Some(one) = outcome(row, 0, side) else { continue };
        let (conn_state, history) = row.wire();
        let mut object = Object {
            capture: name,
            proto: row.flow.protocol.to_string(),
            src: row.flow.src.to_string(),
            sport: row.flow.src_port,
            dst: row.flow.dst.to_string(),
            dport: row.flow.dst_port,
            conn_state,
            history,
            original: counts(row.original),
            reply: counts(row.reply),
            outcome: one,
            other: None,
            why: None,
        };
        if let Some(side) = replay.sides.get(1) {
            let Some(other) = outcome(row, 1, side).filter(|other| differs(&object.outcome, other)) else {
                continue;
            };
            differing += 1;
            object.why = Some(why(row, &object.outcome, &other, &replay.sides, replay.paths));
            object.other = Some(other);
        }
        if args.json {
            output.json(&object)?;
        } else if let Some(other) = &object.other {
            compared(output, args, row, &object, other)?;
        } else {
            table.row(output, words(row, &object))?;
        }
    }
    table.finish(output)?;
    if args.json {
        return Ok(());
    }
    output.line(&summary(&replay.totals, replay.rows.all().len()))?;
    if args.compare.is_some() {
        output.line(&format!("{differing} would have ended otherwise"))?;
    }
    Ok(())
}

fn summary(totals: &Totals, connections: usize) -> String {
    let Totals { packets, not_ip, fragments, without_tuple, accepted, dropped, reset } = *totals;
    let mut text = format!(
        "{connections} connections, {packets} packets: {accepted} accepted, {dropped} dropped, {reset} reset"
    );
    let others =
        [(not_ip, "not IP"), (fragments, "fragments"), (without_tuple, "without a tuple of their own")];
    for (count, what) in others {
        if count > 0 {
            text.push_str(&format!(", {count} {what}"));
        }
    }
    text
}

fn end(protocol: Protocol, address: &str, port: u16) -> String {
    match (protocol, address.contains(':')) {
        (Protocol::TCP | Protocol::UDP, true) => format!("[{address}]:{port}"),
        (Protocol::TCP | Protocol::UDP, false) => format!("{address}:{port}"),
        _ => address.to_owned(),
    }
}

fn verdict_words(verdicts: Verdicts) -> String {
    let Verdicts { accept, drop, reset } = verdicts;
    let parts = [(accept, "accept"), (drop, "drop"), (reset, "reset")];
    let parts = parts.iter().filter(|(count, _)| *count > 0);
    parts.map(|(count, word)| format!("{count} {word}")).collect::<Vec<_>>().join(", ")
}

fn reason_words(reasons: &BTreeMap<&'static str, u64>) -> String {
    reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect::<Vec<_>>().join(", ")
}

fn words(row: &Row, object: &Object<'_>) -> Vec<String> {
    let outcome = &object.outcome;
    vec![
        object.proto.clone(),
        end(row.flow.protocol, &object.src, object.sport),
        end(row.flow.protocol, &object.dst, object.dport),
        outcome.phase.unwrap_or("-").to_owned(),
        object.conn_state.to_owned(),
        if object.history.is_empty() { "-".to_owned() } else { object.history.clone() },
        text::octets(object.original.bytes),
        text::octets(object.reply.bytes),
        verdict_words(outcome.verdicts),
        outcome.close_reason.clone().unwrap_or_else(|| "-".to_owned()),
        reason_words(&outcome.drop_reasons),
    ]
}

fn compared(
    output: &mut Output,
    args: &Args,
    row: &Row,
    object: &Object<'_>,
    other: &Outcome,
) -> io::Result<()> {
    let name = |path: &Option<std::path::PathBuf>| {
        path.as_ref().map_or("without rules".to_owned(), |path| format!("with {}", path.display()))
    };
    let told = |outcome: &Outcome| {
        let phase = outcome.phase.unwrap_or("never tracked");
        let closed = outcome.close_reason.as_ref().map(|why| format!(", {why}")).unwrap_or_default();
        format!("{phase}{closed}; {}", verdict_words(outcome.verdicts))
    };
    let (src, dst) = (
        end(row.flow.protocol, &object.src, object.sport),
        end(row.flow.protocol, &object.dst, object.dport),
    );
    let heading = output.dressed(Dress::Heading, &format!("{} {src} > {dst}", object.proto));
    output.line(&heading)?;
    output.line(&format!("  {}: {}", name(&args.rules), told(&object.outcome)))?;
    output.line(&format!("  {}: {}", name(&args.compare), told(other)))?;
    output.line(&format!("  {}", object.why.as_deref().unwrap_or_default()))
}
