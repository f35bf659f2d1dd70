//! `halfgate half-open`
#![expect(clippy::wildcard_enum_match_arm, reason = "an answer holds few of the many kinds of line")]

use std::{path::Path, process::ExitCode, time::Duration};

use anyhow::Result;

use super::{
    Usage, client,
    output::{Align, Dress, Output, Table},
};
use crate::daemon::{
    filter::{self, Filter},
    protocol::{AgeRow, HalfOpenRow, HalfOpenTotal, HandshakeRate, HolderRow, Line, Request, Unfinished},
    text,
};

/// Who holds half-open connections, by source, destination and rule; and FINs that
/// nobody acknowledged
///
/// SYN_SENT: the second step of the handshake is missing; SYN_RECEIVED: the third;
/// FINS: one side has closed, and the other has not acknowledged it. A handshake's
/// age counts from its first packet, a close's from its first FIN. LIMIT is the rule
/// set's for that source or destination, the rule's own total for a rule; if it is
/// reached, NEXT is what one more SYN meets.
#[derive(Debug, clap::Args)]
#[command(after_help = filter::GRAMMAR)]
pub(super) struct Args {
    /// Terms like dport=443; all must hold
    #[arg(value_name = "FILTER")]
    filter: Vec<String>,
    /// So many sources and destinations, the largest first
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    top: u16,
    /// One object per line instead of tables
    #[arg(long)]
    json: bool,
}

const COUNTS: [(&str, Align); 3] =
    [("SYN_SENT", Align::Right), ("SYN_RECEIVED", Align::Right), ("FINS", Align::Right)];

pub(super) fn run(args: &Args, socket: &Path) -> Result<ExitCode> {
    Filter::parse(&args.filter).map_err(Usage)?;
    let mut output = Output::open();
    let mut rows = Vec::new();
    let request = Request::HalfOpen { filter: args.filter.clone(), top: Some(usize::from(args.top)) };
    client::ask(socket, &request, &mut |line| {
        match line {
            Line::HalfOpen(row) if args.json => output.json(&row)?,
            Line::HalfOpen(row) => rows.push(*row),
            other => client::aside(&other)?,
        }
        Ok(())
    })?;
    show(&mut output, &rows)?;
    output.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn show(output: &mut Output, rows: &[HalfOpenRow]) -> Result<()> {
    for row in rows {
        if let HalfOpenRow::Total(total) = row {
            for (name, value) in summary(total) {
                let name = output.dressed(Dress::Heading, &format!("{name:<12}"));
                output.line(&format!("{name} {value}"))?;
            }
        }
    }
    let ages: Vec<&AgeRow> = rows
        .iter()
        .filter_map(|row| if let HalfOpenRow::Age(age) = row { Some(age) } else { None })
        .collect();
    if ages.iter().any(|row| row.count != Unfinished::default()) {
        output.line("")?;
        histogram(output, &ages)?;
    }
    let of = |pick: fn(&HalfOpenRow) -> Option<&HolderRow>| rows.iter().filter_map(pick).collect::<Vec<_>>();
    let kinds = [
        ("RULE", of(|row| if let HalfOpenRow::Rule(row) = row { Some(row) } else { None })),
        ("SOURCE", of(|row| if let HalfOpenRow::Source(row) = row { Some(row) } else { None })),
        ("DESTINATION", of(|row| if let HalfOpenRow::Destination(row) = row { Some(row) } else { None })),
    ];
    for (name, rows) in kinds {
        if !rows.is_empty() {
            output.line("")?;
            holders(output, name, &rows)?;
        }
    }
    Ok(())
}

fn summary(total: &HalfOpenTotal) -> [(&'static str, String); 3] {
    let count = &total.count;
    [
        (
            "half-open",
            format!(
                "{}: {} without a second step, {} without a third",
                count.syn_sent + count.syn_received,
                count.syn_sent,
                count.syn_received
            ),
        ),
        (
            "closes",
            format!(
                "{} whose FIN nobody acknowledged; all together of {} sources to {} destinations",
                count.unacknowledged_fins, total.sources, total.destinations
            ),
        ),
        (
            "handshakes",
            format!("completed {} lately, {} since the start", rate(&total.lately), rate(&total.since_start)),
        ),
    ]
}

/// `98.5 % (197 of 200 in 1m)`.
fn rate(rate: &HandshakeRate) -> String {
    let percent = rate.percent.map_or_else(|| "-".to_owned(), |percent| format!("{percent} %"));
    format!("{percent} ({} of {} in {})", rate.completed, rate.begun, text::rough_duration(rate.window))
}

fn counts(count: &Unfinished) -> [String; 3] {
    [count.syn_sent, count.syn_received, count.unacknowledged_fins].map(|count| count.to_string())
}

/// The longest bar of the histogram.
const BAR: u64 = 40;

fn histogram(output: &mut Output, rows: &[&AgeRow]) -> Result<()> {
    let columns = [&[("AGE", Align::Left)][..], &COUNTS, &[("", Align::Left)]].concat();
    let mut table = Table::new(&columns);
    let sum = |row: &AgeRow| row.count.syn_sent + row.count.syn_received + row.count.unacknowledged_fins;
    let most = rows.iter().map(|row| sum(row)).max().unwrap_or(0).max(1);
    let end = rows.iter().rposition(|row| sum(row) > 0).map_or(0, |last| last + 1);
    for row in rows.iter().take(end) {
        let age = match row.to {
            Some(to) => format!("under {}", text::duration(to)),
            None => format!("{} and more", text::duration(row.from)),
        };
        // Rounded up: what is there shows.
        let bar = "#".repeat(usize::try_from((sum(row) * BAR).div_ceil(most)).unwrap_or(0));
        let words = [&[age][..], &counts(&row.count), &[bar]].concat();
        table.row(output, &words)?;
    }
    Ok(table.finish(output)?)
}

fn holders(output: &mut Output, name: &'static str, rows: &[&HolderRow]) -> Result<()> {
    let columns = [
        &[(name, Align::Left)][..],
        &COUNTS,
        &[("OLDEST", Align::Right), ("LIMIT", Align::Right), ("NEXT", Align::Left)],
    ]
    .concat();
    let mut table = Table::new(&columns);
    for row in rows {
        let words = [&[holder(row)][..], &counts(&row.count), &rest(row)].concat();
        table.row(output, &words)?;
    }
    Ok(table.finish(output)?)
}

fn holder(row: &HolderRow) -> String {
    let known = |value: &Option<String>| value.clone().unwrap_or_default();
    match (&row.dst, row.dport) {
        (Some(dst), Some(port)) if dst.contains(':') => format!("[{dst}]:{port}"),
        (Some(dst), Some(port)) => format!("{dst}:{port}"),
        _ if row.src.is_some() => known(&row.src),
        _ => known(&row.rule),
    }
}

fn rest(row: &HolderRow) -> [String; 3] {
    let oldest: Option<Duration> = row.oldest.max(row.oldest_fin);
    let next = match (&row.next, row.shadow) {
        (None, _) => String::new(),
        (Some(next), false) => next.clone(),
        (Some(next), true) => format!("{next} (shadow)"),
    };
    [
        oldest.map(text::rough_duration).unwrap_or_default(),
        row.limit.map_or_else(|| "-".to_owned(), |limit| limit.to_string()),
        next,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_readable() {
        let total = HalfOpenTotal {
            count: Unfinished { syn_sent: 3, syn_received: 40, unacknowledged_fins: 2 },
            sources: 7,
            destinations: 1,
            lately: HandshakeRate {
                window: Duration::from_secs(60),
                begun: 200,
                completed: 197,
                percent: Some(98.5),
            },
            since_start: HandshakeRate { window: Duration::from_secs(3600), ..HandshakeRate::default() },
        };
        let text: Vec<String> =
            summary(&total).iter().map(|(name, value)| format!("{name}: {value}")).collect();
        insta::assert_snapshot!(text.join("\n"), @r"
        half-open: 43: 3 without a second step, 40 without a third
        closes: 2 whose FIN nobody acknowledged; all together of 7 sources to 1 destinations
        handshakes: completed 98.5 % (197 of 200 in 1m) lately, - (0 of 0 in 1h) since the start
        ");
    }

    #[test]
    fn a_holder_is_a_rule_a_source_or_a_destination() {
        let row = |src: Option<&str>, dst: Option<(&str, u16)>| {
            holder(&HolderRow {
                rule: Some("web".to_owned()).filter(|_| src.is_none() && dst.is_none()),
                src: src.map(str::to_owned),
                dst: dst.map(|(dst, _)| dst.to_owned()),
                dport: dst.map(|(_, port)| port),
                ..HolderRow::default()
            })
        };
        assert_eq!(row(None, None), "web");
        assert_eq!(row(Some("10.0.0.1"), None), "10.0.0.1");
        assert_eq!(row(None, Some(("10.0.0.1", 80))), "10.0.0.1:80");
        assert_eq!(row(None, Some(("2001:db8::1", 80))), "[2001:db8::1]:80");
        let row = HolderRow { next: Some("evict".to_owned()), shadow: true, ..HolderRow::default() };
        assert_eq!(rest(&row)[2], "evict (shadow)");
    }
}
