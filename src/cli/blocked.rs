//! `halfgate blocked` and `halfgate unblock`
#![expect(clippy::wildcard_enum_match_arm, reason = "an answer holds few of the many kinds of line")]

use std::{path::Path, process::ExitCode};

use anyhow::Result;

use super::{
    client,
    output::{Align, Output, Table},
};
use crate::daemon::{
    protocol::{Line, Request},
    text,
};

/// List sources whose packets the kernel drops for a time
///
/// A source comes here when it passes a limit of open connections that says `block:`, by
/// a connection that it has really made.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// One object per line instead of a table
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args, socket: &Path) -> Result<ExitCode> {
    let mut output = Output::open();
    let mut table = Table::new(&[
        ("SOURCE", Align::Left),
        ("LIMIT", Align::Left),
        ("RULE", Align::Left),
        ("SINCE", Align::Right),
        ("ENDS IN", Align::Right),
    ]);
    client::ask(socket, &Request::Blocked {}, &mut |line| {
        match line {
            Line::Blocked(row) if args.json => output.json(&row)?,
            Line::Blocked(row) => table.row(
                &mut output,
                &[
                    row.source,
                    row.limit,
                    row.rule,
                    text::rough_duration(row.since),
                    text::rough_duration(row.ends_in),
                ],
            )?,
            other => client::aside(&other)?,
        }
        Ok(())
    })?;
    table.finish(&mut output)?;
    output.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// Let a blocked source in again
///
/// It is blocked anew if it passes its limit again.
#[derive(Debug, clap::Args)]
pub(super) struct Unblock {
    /// An address, or a network as `halfgate blocked` shows it
    #[arg(required_unless_present = "all")]
    source: Option<String>,
    /// All of them
    #[arg(long, conflicts_with = "source")]
    all: bool,
    /// One object instead of text
    #[arg(long)]
    json: bool,
}

pub(super) fn unblock(args: Unblock, socket: &Path) -> Result<ExitCode> {
    let Unblock { source, all, json } = args;
    let mut output = Output::open();
    client::ask(socket, &Request::Unblock { source, all }, &mut |line| {
        match line {
            Line::Lifted(lifted) if json => output.json(&lifted)?,
            Line::Lifted(lifted) => output.line(&format!("unblocked: {}", lifted.unblocked))?,
            other => client::aside(&other)?,
        }
        Ok(())
    })?;
    output.flush()?;
    Ok(ExitCode::SUCCESS)
}
