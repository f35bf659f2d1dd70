//! `halfgate timers`
#![expect(clippy::wildcard_enum_match_arm, reason = "an answer holds few of the many kinds of line")]

use std::{path::Path, process::ExitCode, time::Duration};

use anyhow::Result;
use clap::Subcommand;

use super::{
    Usage, client,
    output::{Align, Output, Table},
};
use crate::daemon::{
    check_timer_change,
    protocol::{Changed, Line, LiveExisting, Request, Scope, TimerRow},
    text,
};

/// Show timers, or change them while it runs
///
/// Without a subcommand: every timer's value, where it comes from (`default`,
/// `file`, `rule`, `live`, `live_rule`), and how many connections are under it.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    list: List,
}

#[derive(Debug, clap::Args)]
struct List {
    /// All timers as they are for this rule
    #[arg(long, value_name = "RULE")]
    rule: Option<String>,
    /// One object per line instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show them, as without a subcommand
    List(List),
    /// Set a timer; connections that exist feel it at once
    ///
    /// A rule's own timer, from the file or set with --rule, wins over one set
    /// without --rule; the answer names such rules. Live changes survive a
    /// reload, and a restart only with --save: then they are kept in a file in
    /// the daemon's state directory, beside the rule file and not in it.
    Set(Set),
    /// Take a live change back, saved or not
    Unset(Unset),
}

#[derive(Debug, clap::Args)]
struct Set {
    /// The timer, as half_closed
    name: String,
    /// Its value, as 30s, 5m or 2h4m; half_closed_max may be off
    value: String,
    /// What connections that exist do: feel it, or keep the value they have
    #[arg(long, value_enum, default_value_t)]
    existing: LiveExisting,
    #[command(flatten)]
    how: How,
}

/// How far a live change reaches, for timers and limits alike.
#[derive(Debug, clap::Args)]
pub(super) struct How {
    /// Only for this rule
    #[arg(long, value_name = "RULE")]
    pub(super) rule: Option<String>,
    /// Go back by itself after this
    #[arg(long = "for", value_name = "DURATION", value_parser = text::parse_duration, conflicts_with = "save")]
    pub(super) for_: Option<Duration>,
    /// Only say how many connections would be affected, and how many would end
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Survive a restart of the daemon
    #[arg(long)]
    pub(super) save: bool,
    /// One object instead of text
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, clap::Args)]
struct Unset {
    /// The timer, as half_closed
    name: String,
    /// That of this rule
    #[arg(long, value_name = "RULE")]
    rule: Option<String>,
    /// One object instead of text
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: Args, socket: &Path) -> Result<ExitCode> {
    match args.command {
        None => list(args.list, socket),
        Some(Command::List(args)) => list(args, socket),
        Some(Command::Set(set)) => {
            check_timer_change(&set.name, &set.value).map_err(Usage)?;
            let json = set.how.json;
            let scope = scope(set.how, set.existing);
            change(socket, &Request::TimerSet { timer: set.name, value: set.value, scope }, json)
        }
        Some(Command::Unset(unset)) => {
            change(socket, &Request::TimerUnset { timer: unset.name, rule: unset.rule }, unset.json)
        }
    }
}

pub(super) fn scope(how: How, existing: LiveExisting) -> Scope {
    Scope { rule: how.rule, for_: how.for_, existing, dry_run: how.dry_run, save: how.save }
}

fn list(args: List, socket: &Path) -> Result<ExitCode> {
    let mut output = Output::open();
    let mut table = Table::new(&[
        ("TIMER", Align::Left),
        ("RULE", Align::Left),
        ("VALUE", Align::Right),
        ("FROM", Align::Left),
        ("CONNECTIONS", Align::Right),
        ("FOR", Align::Right),
    ]);
    client::ask(socket, &Request::Timers { rule: args.rule }, &mut |line| {
        match line {
            Line::Timer(row) if args.json => output.json(&row)?,
            Line::Timer(row) => table.row(&mut output, &words(&row))?,
            other => client::aside(&other)?,
        }
        Ok(())
    })?;
    table.finish(&mut output)?;
    output.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn words(row: &TimerRow) -> Vec<String> {
    vec![
        row.timer.clone(),
        row.rule.clone().unwrap_or_else(|| "-".to_owned()),
        row.value.map_or_else(|| "off".to_owned(), text::duration),
        row.origin.clone(),
        row.connections.to_string(),
        row.ends_in.map(text::rough_duration).unwrap_or_default(),
    ]
}

/// Asks for a change and shows what it did; timers and limits alike.
pub(super) fn change(socket: &Path, request: &Request, json: bool) -> Result<ExitCode> {
    let mut output = Output::open();
    let timers = matches!(request, Request::TimerSet { .. } | Request::TimerUnset { .. });
    client::ask(socket, request, &mut |line| {
        match line {
            Line::Changed(changed) if json => output.json(&changed)?,
            Line::Changed(changed) => output.line(&told(&changed, timers))?,
            other => client::aside(&other)?,
        }
        Ok(())
    })?;
    output.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn told(changed: &Changed, timers: bool) -> String {
    let saved = if changed.saved { ", saved" } else { "" };
    match (timers, changed.dry_run) {
        (true, true) => {
            format!(
                "nothing changed; {} connections would be affected, {} would end at once",
                changed.affected, changed.ended
            )
        }
        (true, false) => {
            format!(
                "done{saved}: {} connections affected, {} of them end at once",
                changed.affected, changed.ended
            )
        }
        (false, true) => "nothing changed; it would be possible".to_owned(),
        (false, false) => format!("done{saved}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_change_did_is_told() {
        let changed = Changed { affected: 12, ended: 3, dry_run: false, saved: true };
        assert_eq!(told(&changed, true), "done, saved: 12 connections affected, 3 of them end at once");
        let dry = Changed { dry_run: true, saved: false, ..changed };
        assert_eq!(
            told(&dry, true),
            "nothing changed; 12 connections would be affected, 3 would end at once"
        );
        assert_eq!(told(&Changed::default(), false), "done");
    }
}
