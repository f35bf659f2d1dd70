//! `halfgate status`
#![expect(clippy::wildcard_enum_match_arm, reason = "an answer holds few of the many kinds of line")]

use std::{path::Path, process::ExitCode};

use anyhow::Result;

use super::{
    client,
    output::{Dress, Output},
    reload,
};
use crate::daemon::{
    memory,
    protocol::{Challenges, Line, Named, Request, ShieldedRow, Status, Syncookies},
    text,
};

/// How the daemon is, and what makes the gateway other than the rules say
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// One object instead of text
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args, socket: &Path) -> Result<ExitCode> {
    let mut output = Output::open();
    client::ask(socket, &Request::Status {}, &mut |line| {
        match line {
            Line::Status(status) if args.json => output.json(&status)?,
            Line::Status(status) => show(&mut output, &status)?,
            other => client::aside(&other)?,
        }
        Ok(())
    })?;
    output.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn show(output: &mut Output, status: &Status) -> Result<()> {
    for (name, value) in rows(status) {
        let name = output.dressed(Dress::Heading, &format!("{name:<14}"));
        output.line(&format!("{name} {value}"))?;
    }
    for change in &status.live {
        let name = output.dressed(Dress::Heading, &format!("{:<14}", "live change"));
        output.line(&format!("{name} {}", reload::told(change)))?;
    }
    if let Some(time) = status.confirm_within {
        let text = format!(
            "the last reload goes back in {} unless you run: halfgate confirm",
            text::rough_duration(time)
        );
        let text = output.dressed(Dress::Odd, &text);
        output.line(&text)?;
    }
    for warning in &status.warnings {
        let word = output.dressed(Dress::Odd, "warning:");
        output.line(&format!("{word} {warning}"))?;
    }
    Ok(())
}

fn rows(status: &Status) -> Vec<(&'static str, String)> {
    let service = if status.service { ", as a service" } else { "" };
    let mut rows = vec![
        (
            "daemon",
            format!(
                "halfgate {}, process {}, up {}{service}",
                status.version,
                status.pid,
                text::rough_duration(status.uptime)
            ),
        ),
        (
            "rules",
            format!(
                "{} ({} rules, default {}) since {}",
                status.rules, status.rule_count, status.default, status.rules_since
            ),
        ),
        (
            "table",
            format!(
                "{}, hooks {}, diversion {}, fail {}",
                status.table,
                status.hooks.join(" "),
                status.diversion,
                status.fail
            ),
        ),
    ];
    rows.push((
        "kernel",
        format!("{} refused with RST or ICMP, {} dropped unjudged", status.refused, status.missed),
    ));
    if status.blocked_ever > 0 {
        rows.push((
            "blocked",
            format!(
                "{} sources now, {} since the start; {} of their packets dropped",
                status.blocked, status.blocked_ever, status.blocked_packets
            ),
        ));
    }
    for queue in &status.queues {
        rows.push((
            "queue",
            format!(
                "{} ({}): {} waiting, {} lost when full, {} lost at the socket",
                queue.number, queue.carries, queue.waiting, queue.lost_full, queue.lost_socket
            ),
        ));
    }
    rows.push((
        "connections",
        format!(
            "{} of {}, {} half-open, {} on the fast path, {} stale; {} opened, {} closed ({} were stale){}",
            status.connections,
            status.max_connections,
            status.half_open,
            status.fast_path,
            status.stale,
            status.opened,
            status.closed,
            status.forgotten,
            in_brackets(&status.phases),
        ),
    ));
    if status.memory.most > 0 {
        let now = text::octets(status.memory.resident);
        rows.push(("memory", format!("{now} now, {}", memory::words(&status.memory))));
    }
    if !status.evicted.is_empty() {
        rows.push(("made room", listed(&status.evicted)));
    }
    rows.push((
        "packets",
        format!(
            "{} ({}): {} accepted{}, {} dropped, {} reset",
            status.packets,
            text::octets(status.bytes),
            status.accepted,
            stripped(status.stripped),
            status.dropped,
            status.reset
        ),
    ));
    if !status.drop_reasons.is_empty() {
        rows.push(("drops", listed(&status.drop_reasons)));
    }
    if !status.limits_passed.is_empty() {
        rows.push(("limits passed", listed(&status.limits_passed)));
    }
    if !status.limits_passed_in_shadow.is_empty() {
        rows.push(("in shadow", format!("limits passed: {}", listed(&status.limits_passed_in_shadow))));
    }
    if status.scans > 0 || status.overrun.is_some() {
        let now: Vec<String> =
            status.scanning.iter().map(|scan| format!("{} ({} ports)", scan.src, scan.distinct)).collect();
        let now = if now.is_empty() { "none now".to_owned() } else { format!("now {}", now.join(", ")) };
        let least = status.overrun.as_ref().map_or_else(String::new, |overrun| {
            format!("; a lower bound: {} events were lost since {}", overrun.events, overrun.since)
        });
        rows.push(("scans", format!("{} seen, {now}{least}", status.scans)));
    }
    let sent = &status.sent;
    rows.push((
        "sent",
        format!(
            "{} RSTs ({} kept back by the budget), {} keepalives; {} refused by the kernel, {} lost",
            sent.rst, sent.suppressed, sent.keepalives, sent.failed, sent.lost
        ),
    ));
    let challenges = &status.challenges;
    if *challenges != Challenges::default() {
        rows.push((
            "challenges",
            format!(
                "{} made ({} lost, {} without a route), {} answered; {} sources proven, {} at most",
                challenges.made,
                challenges.lost,
                challenges.failed,
                challenges.answered,
                challenges.proven,
                challenges.most_proven
            ),
        ));
    }
    let cookies = &status.syncookies;
    if *cookies != Syncookies::default() {
        let on: Vec<String> = cookies.on.iter().map(shielded).collect();
        let on = if on.is_empty() { "off".to_owned() } else { format!("on for {}", on.join(", ")) };
        let rsts = match cookies.rsts {
            0 => String::new(),
            rsts => format!(", {rsts} RSTs of hosts that had asked for none dropped"),
        };
        let raised = if cookies.raised { ", challenges are raised to it" } else { "" };
        rows.push((
            "syncookies",
            format!(
                "{on} ({} since the start){raised}; {} SYNs answered, {} cookies came back, {} fit none{rsts}",
                cookies.ever, cookies.syns, cookies.valid, cookies.invalid
            ),
        ));
    }
    if !status.sysctls.is_empty() {
        // The part that all of them share says nothing.
        let short = |words: &String| words.trim_start_matches("net.netfilter.nf_").to_owned();
        let settings: Vec<String> = status.sysctls.iter().map(short).collect();
        rows.push(("sysctls set", settings.join(", ")));
    }
    rows
}

/// A destination and since when.
fn shielded(row: &ShieldedRow) -> String {
    let place = if row.dst.contains(':') {
        format!("[{}]:{}", row.dst, row.dport)
    } else {
        format!("{}:{}", row.dst, row.dport)
    };
    format!("{place} from {} for {}", row.interface, text::rough_duration(row.since))
}

fn listed(counts: &[Named]) -> String {
    let words: Vec<String> = counts.iter().map(|named| format!("{} {}", named.name, named.count)).collect();
    words.join(", ")
}

fn in_brackets(counts: &[Named]) -> String {
    if counts.is_empty() { String::new() } else { format!(" ({})", listed(counts)) }
}

/// How many of the accepted packets went on without their Fast Open.
fn stripped(count: u64) -> String {
    if count == 0 { String::new() } else { format!(" ({count} without their Fast Open)") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::protocol::{OverrunRow, QueueRow, Sent};
    use std::time::Duration;

    #[test]
    fn scans_are_a_lower_bound_once_events_were_lost() {
        let overrun = OverrunRow { events: 200, since: "early".to_owned(), last: "late".to_owned() };
        let mut status = Status { events_lost: 200, overrun: Some(overrun), ..Status::default() };
        let scans = |status: &Status| rows(status).into_iter().find(|(name, _)| *name == "scans");
        let words = "0 seen, none now; a lower bound: 200 events were lost since early";
        assert_eq!(scans(&status), Some(("scans", words.to_owned())));
        let json = serde_json::to_value(&status).unwrap();
        assert_eq!((&json["overrun"]["events"], &json["overrun"]["since"]), (&200.into(), &"early".into()));
        status.overrun = None;
        assert_eq!(scans(&status), None);
        assert!(serde_json::to_value(&status).unwrap()["overrun"].is_null());
    }

    #[test]
    fn a_status_is_readable() {
        let named = |name: &str, count| Named { name: name.to_owned(), count };
        let status = Status {
            version: "0.1.0".to_owned(),
            pid: 42,
            uptime: Duration::from_secs(3661),
            rules: "/etc/halfgate/rules.yaml".to_owned(),
            rules_since: "2026-01-01T00:00:00.000Z".to_owned(),
            rule_count: 3,
            default: "drop".to_owned(),
            hooks: vec!["forward".to_owned(), "input".to_owned()],
            diversion: "xtables NFQUEUE".to_owned(),
            fail: "closed".to_owned(),
            table: "installed".to_owned(),
            queues: vec![QueueRow {
                number: 1,
                carries: "syn".to_owned(),
                lost_full: 2,
                ..QueueRow::default()
            }],
            connections: 7,
            max_connections: 1_000_000,
            half_open: 1,
            fast_path: 4,
            phases: vec![named("established", 6), named("syn_sent", 1)],
            evicted: vec![named("syn_sent", 2), named("time_wait", 1)],
            packets: 10,
            bytes: 2048,
            drop_reasons: vec![named("rule", 3)],
            sent: Sent { rst: 4, ..Sent::default() },
            ..Status::default()
        };
        let text: Vec<String> =
            rows(&status).iter().map(|(name, value)| format!("{name}: {value}")).collect();
        insta::assert_snapshot!(text.join("\n"), @r"
        daemon: halfgate 0.1.0, process 42, up 1h1m1s
        rules: /etc/halfgate/rules.yaml (3 rules, default drop) since 2026-01-01T00:00:00.000Z
        table: installed, hooks forward input, diversion xtables NFQUEUE, fail closed
        kernel: 0 refused with RST or ICMP, 0 dropped unjudged
        queue: 1 (syn): 0 waiting, 2 lost when full, 0 lost at the socket
        connections: 7 of 1000000, 1 half-open, 4 on the fast path, 0 stale; 0 opened, 0 closed (0 were stale) (established 6, syn_sent 1)
        made room: syn_sent 2, time_wait 1
        packets: 10 (2.0 KiB): 0 accepted, 0 dropped, 0 reset
        drops: rule 3
        sent: 4 RSTs (0 kept back by the budget), 0 keepalives; 0 refused by the kernel, 0 lost
        ");
    }
}
