//! `halfgate events`
#![expect(clippy::wildcard_enum_match_arm, reason = "an answer holds few of the many kinds of line")]

use std::{path::Path, process::ExitCode};

use anyhow::Result;

use super::{
    client,
    output::{Dress, Output},
};
use crate::daemon::{
    events::sentence,
    protocol::{Event, Line, Request},
};

/// What happened: connections opened, changed and closed (and why), rules with
/// `log`, limits that were passed, scans, reloads and live changes
///
/// The daemon remembers the last some thousand. When more than 200 of a kind happen in
/// a second (a flood), one of them is shown in a second, with the count of those left
/// out, until it is over.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Stay, and show them as they happen
    #[arg(long, short)]
    follow: bool,
    /// Only the last so many (with --follow: 10 unless told)
    #[arg(long, short = 'n', value_name = "N")]
    last: Option<usize>,
    /// One object per line instead of text
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args, socket: &Path) -> Result<ExitCode> {
    let last = args.last.or(args.follow.then_some(10));
    let mut output = Output::open();
    client::ask(socket, &Request::Events { follow: args.follow, last }, &mut |line| {
        match line {
            Line::Event(event) if args.json => output.json(&event)?,
            Line::Event(event) => show(&mut output, &event)?,
            other => client::aside(&other)?,
        }
        if args.follow { Ok(output.flush()?) } else { Ok(()) }
    })?;
    output.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn show(output: &mut Output, event: &Event) -> std::io::Result<()> {
    let dress = match event.event.as_str() {
        "rule" | "limit" | "scan" => Some(Dress::Odd),
        "lost" => Some(Dress::Bad),
        "daemon" => Some(Dress::Heading),
        "closed" => Some(Dress::Faint),
        _ => None,
    };
    let text = sentence(event);
    let text = dress.map_or_else(|| text.clone(), |dress| output.dressed(dress, &text));
    output.line(&format!("{} {text}", event.time))
}
