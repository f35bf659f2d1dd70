//! `halfgate kill`
#![expect(clippy::wildcard_enum_match_arm, reason = "an answer holds few of the many kinds of line")]

use std::{path::Path, process::ExitCode};

use anyhow::Result;

use super::{Usage, client, output::Output};
use crate::daemon::{
    filter::{self, Filter},
    protocol::{Line, Request},
};

/// End connections: RST to both ends
///
/// The filter is that of `halfgate connections`; look there first, or use
/// --dry-run. Exit code 1 if no connection passed the filter.
#[derive(Debug, clap::Args)]
#[command(after_help = filter::GRAMMAR)]
pub(super) struct Args {
    /// Terms like dport=443; all must hold
    #[arg(value_name = "FILTER", required_unless_present = "all")]
    filter: Vec<String>,
    /// Only say how many it would be
    #[arg(long)]
    dry_run: bool,
    /// Forget them without sending RST
    #[arg(long)]
    silent: bool,
    /// Every connection, if there is no filter
    #[arg(long)]
    all: bool,
    /// One object instead of text
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: Args, socket: &Path) -> Result<ExitCode> {
    if Filter::parse(&args.filter).map_err(Usage)?.is_empty() && !args.all {
        return Err(
            Usage("an empty filter means every connection: say --all if you mean it".to_owned()).into()
        );
    }
    let request =
        Request::Kill { filter: args.filter, dry_run: args.dry_run, silent: args.silent, all: args.all };
    let mut output = Output::open();
    let mut matched = 0;
    client::ask(socket, &request, &mut |line| {
        match line {
            Line::Killed(killed) => {
                matched = killed.matched;
                if args.json {
                    output.json(&killed)?;
                } else if killed.dry_run {
                    output.line(&format!("{} connections would be ended", killed.matched))?;
                } else {
                    output.line(&format!("{} connections ended", killed.killed))?;
                }
            }
            other => client::aside(&other)?,
        }
        Ok(())
    })?;
    output.flush()?;
    Ok(if matched == 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
