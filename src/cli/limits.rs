//! `halfgate limits`
#![expect(clippy::wildcard_enum_match_arm, reason = "an answer holds few of the many kinds of line")]

use std::{path::Path, process::ExitCode};

use anyhow::Result;
use clap::Subcommand;

use super::{
    Usage, client,
    output::{Align, Output, Table},
    suggest,
    timers::{How, change, scope},
};
use crate::daemon::{
    check_limit_change,
    protocol::{LimitRow, Line, LiveExisting, Prefix, Request},
    text,
};

/// Show limits of half-open and of open connections, or change them while it runs
///
/// The rule set's limits and a rule's own both apply. `-` for the count stands
/// for scopes that have one for each source or destination. What counts as one source
/// (`source_prefix` in the rule file) stands behind its limit unless it is an IPv4
/// address and an IPv6 /64.
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
    /// One object per line instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show them, as without a subcommand
    List(List),
    /// Set a limit; new connections meet it at once
    ///
    /// Live changes survive a reload, and a restart only with --save: then they
    /// are kept in a file in the daemon's state directory.
    Set(Set),
    /// Take a live change back, saved or not
    Unset(Unset),
    Suggest(suggest::Args),
}

#[derive(Debug, clap::Args)]
struct Set {
    /// The limit: embryonic.total, embryonic.per_source, embryonic.per_destination, or
    /// the same of open connections, as connections.per_source
    name: String,
    /// How many there may be, or off
    value: String,
    #[command(flatten)]
    how: How,
}

#[derive(Debug, clap::Args)]
struct Unset {
    /// The limit, as embryonic.per_source
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
        None => list(&args.list, socket),
        Some(Command::List(args)) => list(&args, socket),
        Some(Command::Set(set)) => {
            check_limit_change(&set.name, &set.value).map_err(Usage)?;
            let json = set.how.json;
            let scope = scope(set.how, LiveExisting::Apply);
            change(socket, &Request::LimitSet { limit: set.name, value: set.value, scope }, json)
        }
        Some(Command::Suggest(args)) => suggest::run(&args, socket),
        Some(Command::Unset(unset)) => {
            change(socket, &Request::LimitUnset { limit: unset.name, rule: unset.rule }, unset.json)
        }
    }
}

fn list(args: &List, socket: &Path) -> Result<ExitCode> {
    let mut output = Output::open();
    let mut table = Table::new(&[
        ("LIMIT", Align::Left),
        ("RULE", Align::Left),
        ("VALUE", Align::Right),
        ("FROM", Align::Left),
        ("NOW", Align::Right),
        ("PASSED", Align::Right),
        ("IN SHADOW", Align::Right),
        ("ON EXCESS", Align::Left),
        ("FOR", Align::Right),
    ]);
    client::ask(socket, &Request::Limits {}, &mut |line| {
        match line {
            Line::Limit(row) if args.json => output.json(&row)?,
            Line::Limit(row) => table.row(&mut output, &words(&row))?,
            other => client::aside(&other)?,
        }
        Ok(())
    })?;
    table.finish(&mut output)?;
    output.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn words(row: &LimitRow) -> Vec<String> {
    let count = |count: Option<u64>| count.map_or_else(|| "-".to_owned(), |count| count.to_string());
    let block = row.block.map(|time| format!(", block {}", text::duration(time))).unwrap_or_default();
    let shadow = if row.shadow { " (shadow)" } else { "" };
    let excess = format!("{}{block}{shadow}", row.on_excess);
    let is_usual = |prefix: &Prefix| (prefix.ipv4, prefix.ipv6) == (32, 64);
    let prefix = row.source_prefix.filter(|prefix| !is_usual(prefix));
    vec![
        prefix.map_or_else(
            || row.limit.clone(),
            |Prefix { ipv4, ipv6 }| format!("{} (/{ipv4}, /{ipv6})", row.limit),
        ),
        row.rule.clone().unwrap_or_else(|| "-".to_owned()),
        row.value.map_or_else(|| "off".to_owned(), |value| value.to_string()),
        row.origin.clone(),
        count(row.embryonic.or(row.open)),
        count(row.passed),
        row.passed_in_shadow.filter(|count| *count > 0).map(|count| count.to_string()).unwrap_or_default(),
        excess,
        row.ends_in.map(text::rough_duration).unwrap_or_default(),
    ]
}
