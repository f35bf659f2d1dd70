//! `halfgate explain`
#![expect(clippy::wildcard_enum_match_arm, reason = "an answer holds few of the many kinds of line")]

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Result;

use super::{
    Usage, client,
    output::{Dress, Output},
};
use crate::{
    daemon::{
        explain::{Question, explain},
        protocol::{Explanation, Line, Request},
        rules::{self, Source},
        text,
    },
    policy::Live,
};

/// What would happen to a packet: which rule, which limits, which timers, and why
///
/// Asks the daemon, which knows its connections and live changes; with --rules
/// it works on a rule file alone, without a daemon. For example:
/// `halfgate explain "tcp 192.0.2.1:4000 > 192.168.10.20:443 S" --in ppp0 --out eth1`
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The packet: protocol, source > destination, TCP flags (S A F R P U; S if
    /// left out) or ICMP type; addresses after DNAT and before SNAT
    packet: Vec<String>,
    /// Interface it comes in by
    #[arg(long = "in", value_name = "IF")]
    in_if: Option<String>,
    /// Interface it leaves by; none for a packet to the gateway itself
    #[arg(long = "out", value_name = "IF")]
    out_if: Option<String>,
    /// Explain by this rule file, without a daemon
    #[arg(long, value_name = "FILE")]
    rules: Option<PathBuf>,
    /// One object instead of text
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: Args, socket: &Path) -> Result<ExitCode> {
    let packet = args.packet.join(" ");
    let question = Question::parse(&packet, args.in_if.clone(), args.out_if.clone()).map_err(Usage)?;
    let mut output = Output::open();
    let mut show = |told: &Explanation| -> Result<()> {
        if args.json { Ok(output.json(told)?) } else { show(&mut output, told) }
    };
    if let Some(path) = args.rules {
        let compiled = rules::load(&Source::File(path), None).inspect_err(|error| {
            for diagnostic in error.diagnostics() {
                let _ = client::aside(&Line::Finding(diagnostic.clone()));
            }
        })?;
        show(&explain(&question, &compiled.policy, &Live::default()))?;
    } else {
        let request = Request::Explain { packet, in_if: args.in_if, out_if: args.out_if };
        client::ask(socket, &request, &mut |line| match line {
            Line::Explanation(told) => show(&told),
            other => client::aside(&other),
        })?;
    }
    output.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn show(output: &mut Output, told: &Explanation) -> Result<()> {
    let zones = |zones: &[String]| {
        if zones.is_empty() { "no zone".to_owned() } else { zones.join(", ") }
    };
    output.line(&format!("{} on {}", told.packet, told.hook))?;
    output.line(&format!("  from {}, to {}", zones(&told.from_zones), zones(&told.to_zones)))?;
    for step in &told.rules {
        let sign = if step.matched { output.dressed(Dress::Good, "*") } else { " ".to_owned() };
        output.line(&format!("{sign} rule {} ({}): {}", step.rule, step.place, step.why))?;
    }
    let dress = if told.verdict == "accept" { Dress::Good } else { Dress::Bad };
    let verdict = output.dressed(dress, &told.verdict);
    output.line(&format!("{verdict}: {}", told.because))?;
    if let Some(mode) = told.fast_open.as_deref().filter(|mode| *mode != "allow") {
        let what = if mode == "strip" {
            "is taken out of the SYN, with its data"
        } else {
            "in a SYN, or data, has it dropped"
        };
        output.line(&format!("  fast_open: {mode}: TCP Fast Open {what}"))?;
    }
    if told.inspect.as_deref() == Some("full") {
        output.line("  inspect: full: every packet comes to halfgate, also once it is established")?;
    }
    for limit in &told.limits {
        let rule = limit.rule.as_ref().map(|rule| format!(" of rule {rule}")).unwrap_or_default();
        let now = limit.embryonic.or(limit.open).map(|now| format!(", {now} now")).unwrap_or_default();
        let value = limit.value.map_or_else(|| "off".to_owned(), |value| value.to_string());
        output.line(&format!(
            "  limit {}{rule}: {value} ({}){now}, then {}{}{}",
            limit.limit,
            limit.origin,
            limit.on_excess,
            limit.block.map(|time| format!(", block {}", text::duration(time))).unwrap_or_default(),
            limit.source_prefix.map(|prefix| format!("; one source is {prefix}")).unwrap_or_default()
        ))?;
    }
    for timer in &told.timers {
        let value = timer.value.map_or_else(|| "off".to_owned(), text::duration);
        output.line(&format!("  timer {}: {value} ({})", timer.timer, timer.origin))?;
    }
    if let Some(on_expire) = &told.on_expire {
        output.line(&format!("  on_expire: {on_expire}"))?;
    }
    for note in &told.notes {
        output.line(&format!("note: {note}"))?;
    }
    Ok(())
}
