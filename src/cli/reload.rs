//! `halfgate reload`
#![expect(clippy::wildcard_enum_match_arm, reason = "an answer holds few of the many kinds of line")]

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result};

use super::{client, output::Output};
use crate::daemon::{
    protocol::{Line, LiveChange, ReloadExisting, Reloaded, Request},
    text,
};

/// Put a rule file in force, all at once
///
/// A file with errors changes nothing, and all its errors are listed. Live
/// changes (`timers set`, `limits set`) stay in force. Changes of `queues`,
/// `marks` and `max_connections` need a restart and are refused.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The rule file; without it the one in force is read again
    rules: Option<PathBuf>,
    /// Go back after this time, unless `halfgate confirm` comes before
    #[arg(long, value_name = "DURATION", value_parser = text::parse_duration)]
    confirm: Option<Duration>,
    /// Connections that exist: keep them, or judge each by the new rules
    #[arg(long, value_enum, default_value_t)]
    existing: ReloadExisting,
    /// One object per line instead of text
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: Args, socket: &Path) -> Result<ExitCode> {
    // The daemon has another working directory.
    let rules = args.rules.map(std::path::absolute).transpose().context("the working directory is gone")?;
    let request = Request::Reload { rules, confirm: args.confirm, existing: args.existing };
    let mut output = Output::open();
    let asked = client::ask(socket, &request, &mut |line| {
        match line {
            Line::Finding(diagnostic) if args.json => output.json(&diagnostic)?,
            Line::Reloaded(reloaded) if args.json => output.json(&reloaded)?,
            Line::Reloaded(reloaded) => show(&mut output, &reloaded)?,
            other => client::aside(&other)?,
        }
        Ok(())
    });
    output.flush()?;
    asked.map(|()| ExitCode::SUCCESS)
}

fn show(output: &mut Output, reloaded: &Reloaded) -> Result<()> {
    let table = if reloaded.table { ", the kernel's table was installed anew" } else { "" };
    output.line(&format!("{}: {} rules in force{table}", reloaded.rules, reloaded.count))?;
    for change in &reloaded.live {
        output.line(&format!("live change stays: {}", told(change)))?;
    }
    if let Some(time) = reloaded.confirm_within {
        output.line(&format!("goes back in {} unless you run: halfgate confirm", text::duration(time)))?;
    }
    Ok(())
}

/// A live change in words.
pub(super) fn told(change: &LiveChange) -> String {
    let mut words = match &change.rule {
        Some(rule) => format!("{} of rule {rule} is {}", change.name, change.value),
        None => format!("{} is {}", change.name, change.value),
    };
    if let Some(time) = change.ends_in {
        words.push_str(&format!(", for {} more", text::rough_duration(time)));
    }
    if change.saved {
        words.push_str(", saved");
    }
    if change.idle {
        words.push_str(" (no such rule now)");
    }
    words
}
