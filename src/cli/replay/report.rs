//! What a replay shows: a line or an object for each connection.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fmt::Write as _,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use serde::Serialize;

use super::{
    Args, Replay, Totals,
    rows::{Fate, Row},
    world::{Paths, Side},
};
use crate::{
    cli::output::{Align, Dress, Output, Table},
    conntrack::{Flow, Phase},
    daemon::{events::close_reason, protocol::Counts, text},
    engine::{self, DropReason, Verdict},
    policy::Policy,
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
struct Outcome<'a> {
    phase: Option<&'static str>,
    close_reason: Option<String>,
    rule: Option<&'a str>,
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
    src: IpAddr,
    sport: u16,
    dst: IpAddr,
    dport: u16,
    conn_state: &'static str,
    history: &'a str,
    original: Counts,
    reply: Counts,
    #[serde(flatten)]
    outcome: Outcome<'a>,
    /// With the other rule file.
    #[serde(skip_serializing_if = "Option::is_none")]
    other: Option<Outcome<'a>>,
    /// Where the two rule files first part.
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
}

fn counts(counts: engine::Counts) -> Counts {
    Counts { packets: counts.packets, bytes: counts.bytes }
}

fn outcome<'a>(row: &Row, number: usize, policy: &'a Policy) -> Option<Outcome<'a>> {
    let fate: &Fate = row.fates.get(number)?;
    Some(Outcome {
        phase: fate.phase.map(Phase::name),
        close_reason: fate.close_reason().as_ref().map(close_reason),
        rule: fate.rule.map(|rule| policy.name(rule)),
        opened: fate.opened,
        verdicts: Verdicts { accept: row.accepted(fate), drop: fate.dropped, reset: fate.reset },
        drop_reasons: fate.reasons.iter().map(|(reason, count)| (reason.name(), *count)).collect(),
    })
}

/// Whether a connection would have ended otherwise.
fn differs(one: &Outcome<'_>, other: &Outcome<'_>) -> bool {
    (one.phase, &one.close_reason, one.verdicts) != (other.phase, &other.close_reason, other.verdicts)
}

/// Where two rule files part.
fn why(row: &Row, one: &Outcome<'_>, other: &Outcome<'_>, sides: &[Side], paths: &Paths) -> String {
    let Some((packet, [first, second])) = row.differs.as_deref().copied() else {
        let reason =
            |outcome: &Outcome<'_>| outcome.close_reason.clone().unwrap_or_else(|| "still open".to_owned());
        return format!("the same verdicts, but {} instead of {}", reason(other), reason(one));
    };
    let told = |side: &Side, verdict: Verdict, outcome: &Outcome<'_>| match verdict {
        Verdict::Accept => outcome.rule.map_or("accept".to_owned(), |rule| format!("accept by rule {rule}")),
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
    let policies: Vec<_> = replay.sides.iter().map(Side::policy).collect();
    let mut table = Table::new(&COLUMNS);
    let mut differing = 0_u64;
    if !args.json && args.captures.len() > 1 {
        let heading = output.dressed(Dress::Heading, name);
        output.line(&heading)?;
    }
    for row in replay.rows.all().iter() {
        let outcome = |number: usize| outcome(row, number, policies.get(number)?);
        let Some(one) = outcome(0) else { continue };
        let other = outcome(1).filter(|other| differs(&one, other));
        if policies.len() > 1 && other.is_none() {
            continue;
        }
        differing += u64::from(other.is_some());
        let why = other.as_ref().map(|other| why(row, &one, other, &replay.sides, replay.paths));
        if args.json {
            output.json(&object(name, row, one, other, why))?;
        } else if let (Some(other), Some(why)) = (&other, &why) {
            compared(output, args, row, [&one, other], why)?;
        } else {
            table.row(output, &words(row, &one))?;
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

fn object<'a>(
    capture: &'a str,
    row: &'a Row,
    outcome: Outcome<'a>,
    other: Option<Outcome<'a>>,
    why: Option<String>,
) -> Object<'a> {
    let (conn_state, history) = row.wire();
    let Flow { protocol, src, src_port: sport, dst, dst_port: dport } = row.flow;
    let (original, reply) = (counts(row.original), counts(row.reply));
    let proto = protocol.to_string();
    Object {
        capture,
        proto,
        src,
        sport,
        dst,
        dport,
        conn_state,
        history,
        original,
        reply,
        outcome,
        other,
        why,
    }
}

fn end(protocol: Protocol, address: IpAddr, port: u16) -> String {
    let has_port = matches!(protocol, Protocol::TCP | Protocol::UDP);
    match address {
        IpAddr::V4(address) => dotted(address, has_port.then_some(port)),
        IpAddr::V6(_) if has_port => SocketAddr::new(address, port).to_string(),
        IpAddr::V6(_) => address.to_string(),
    }
}

/// An address as [`Ipv4Addr`] itself writes it. There are two a line, and it is slow.
fn dotted(address: Ipv4Addr, port: Option<u16>) -> String {
    let mut text = String::with_capacity("255.255.255.255:65535".len());
    for octet in address.octets() {
        if !text.is_empty() {
            text.push('.');
        }
        push_number(&mut text, octet.into());
    }
    if let Some(port) = port {
        text.push(':');
        push_number(&mut text, port);
    }
    text
}

fn push_number(text: &mut String, number: u16) {
    if number >= 10 {
        push_number(text, number / 10);
    }
    text.push(char::from(b'0' + (number % 10) as u8));
}

fn verdict_words(verdicts: Verdicts) -> String {
    let Verdicts { accept, drop, reset } = verdicts;
    listed([(accept, "accept"), (drop, "drop"), (reset, "reset")].into_iter().filter(|(count, _)| *count > 0))
}

/// `3 accept, 1 drop`.
fn listed(counts: impl Iterator<Item = (u64, &'static str)>) -> String {
    let mut text = String::new();
    for (count, what) in counts {
        let comma = if text.is_empty() { "" } else { ", " };
        // A string takes everything.
        let _ = write!(text, "{comma}{count} {what}");
    }
    text
}

fn words<'a>(row: &'a Row, outcome: &'a Outcome<'_>) -> [Cow<'a, str>; COLUMNS.len()] {
    let (conn_state, history) = row.wire();
    let Flow { protocol, src, src_port, dst, dst_port } = row.flow;
    [
        protocol.to_string().into(),
        end(protocol, src, src_port).into(),
        end(protocol, dst, dst_port).into(),
        outcome.phase.unwrap_or("-").into(),
        conn_state.into(),
        if history.is_empty() { "-" } else { history }.into(),
        text::octets(row.original.bytes).into(),
        text::octets(row.reply.bytes).into(),
        verdict_words(outcome.verdicts).into(),
        outcome.close_reason.as_deref().unwrap_or("-").into(),
        listed(outcome.drop_reasons.iter().map(|(reason, count)| (*count, *reason))).into(),
    ]
}

fn compared(
    output: &mut Output,
    args: &Args,
    row: &Row,
    [one, other]: [&Outcome<'_>; 2],
    why: &str,
) -> io::Result<()> {
    let name = |path: &Option<std::path::PathBuf>| {
        path.as_ref().map_or("without rules".to_owned(), |path| format!("with {}", path.display()))
    };
    let told = |outcome: &Outcome<'_>| {
        let phase = outcome.phase.unwrap_or("never tracked");
        let closed = outcome.close_reason.as_ref().map(|why| format!(", {why}")).unwrap_or_default();
        format!("{phase}{closed}; {}", verdict_words(outcome.verdicts))
    };
    let Flow { protocol, src, src_port, dst, dst_port } = row.flow;
    let (src, dst) = (end(protocol, src, src_port), end(protocol, dst, dst_port));
    let heading = output.dressed(Dress::Heading, &format!("{protocol} {src} > {dst}"));
    output.line(&heading)?;
    output.line(&format!("  {}: {}", name(&args.rules), told(one)))?;
    output.line(&format!("  {}: {}", name(&args.compare), told(other)))?;
    output.line(&format!("  {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_written_as_addresses_write_themselves() {
        for text in ["0.0.0.0:0", "10.0.100.255:9", "192.168.1.20:443", "255.255.255.255:65535"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(end(Protocol::TCP, address.ip(), address.port()), text);
            assert_eq!(end(Protocol::ICMP, address.ip(), address.port()), address.ip().to_string());
        }
        let v6 = "2001:db8::1".parse().unwrap();
        assert_eq!(end(Protocol::UDP, v6, 53), "[2001:db8::1]:53");
        assert_eq!(end(Protocol::ICMPV6, v6, 0), "2001:db8::1");
    }
}
