//! `halfgate unload`

use std::{path::Path, process::ExitCode, time::Duration};

use anyhow::{Context, Result};

use super::{
    client::{Client, Refused, is_refusal},
    output::Output,
};
use crate::{
    daemon::{self, protocol::Request},
    sys::{
        control::{ControlError, Lock, lock_namespace},
        table,
    },
};

/// A daemon that ends gets so many turns of so long.
const TURNS: u32 = 150;
const TURN: Duration = Duration::from_millis(100);

/// Remove everything of halfgate from the kernel, daemon or not
///
/// A running daemon removes its table, puts kernel settings back and ends. Then,
/// or without one, whatever is left of halfgate in this network namespace goes:
/// also the static table of a service, and what a killed daemon left. The
/// gateway is then not guarded by halfgate.
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) fn run(_: Args, socket: &Path) -> Result<ExitCode> {
    let mut output = Output::open();
    match Client::connect(socket) {
        Ok(mut client) => match client.ask(&Request::Unload {}, &mut |_| Ok(())) {
            Ok(()) => output.line("the daemon was told to end")?,
            Err(error) if is_refusal(&error) => return Err(error),
            // It is ending already.
            Err(_) => {}
        },
        Err(error) if is_absent(&error) => {}
        Err(error) => return Err(error),
    }
    // Nobody may install anything meanwhile; a daemon that is ending gets time.
    let lock = wait_for_lock()?;
    let table = table::unload()?;
    let settings = daemon::restore_settings().context("kernel settings")?;
    lock.remove();
    output.line(match (table, settings) {
        (true, true) => "the table and the kernel settings of a daemon that is gone were taken back",
        (true, false) => "the table was removed",
        (false, true) => "the kernel settings of a daemon that is gone were put back",
        (false, false) => "nothing of halfgate is in the kernel",
    })?;
    output.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn is_absent(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref::<ControlError>(), Some(ControlError::NoDaemon(_)))
}

fn wait_for_lock() -> Result<Lock> {
    let mut turns = 0;
    loop {
        match lock_namespace() {
            Ok(lock) => return Ok(lock),
            Err(ControlError::Guarded { .. }) if turns < TURNS => {
                turns += 1;
                std::thread::sleep(TURN);
            }
            Err(ControlError::Guarded { pid, .. }) => {
                let pid = pid.map(|pid| format!(" (process {pid})")).unwrap_or_default();
                return Err(Refused(format!(
                    "a daemon{pid} guards this network namespace and does not end: name its --socket, or stop it"
                ))
                .into());
            }
            Err(error) => return Err(error.into()),
        }
    }
}
