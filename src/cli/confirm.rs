//! `halfgate confirm`

use std::{path::Path, process::ExitCode};

use anyhow::Result;

use super::{client, output::Output};
use crate::daemon::protocol::Request;

/// Keep the rules that `reload --confirm` put in force
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// One object instead of text
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: Args, socket: &Path) -> Result<ExitCode> {
    client::ask(socket, &Request::Confirm {}, &mut |line| client::aside(&line))?;
    let mut output = Output::open();
    if args.json {
        output.json(&serde_json::json!({ "confirmed": true }))?;
    } else {
        output.line("confirmed: the rules stay")?;
    }
    output.flush()?;
    Ok(ExitCode::SUCCESS)
}
