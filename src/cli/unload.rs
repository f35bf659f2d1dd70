//! `halfgate unload`

use std::{path::Path, process::ExitCode};

use anyhow::{Context, Result};

use super::{
    client::{Client, Refused},
    output::Output,
};
use crate::{
    daemon::{self, protocol::Request},
    sys::{
        control::{ControlError, lock_namespace},
        table,
    },
};

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
        Ok(mut client) => {
            client.ask(&Request::Unload {}, &mut |_| Ok(()))?;
            // It closes the connection when it is done.
            let _ = client.ask(&Request::Status {}, &mut |_| Ok(()));
            output.line("the daemon was told to end")?;
        }
        Err(error) if is_absent(&error) => {}
        Err(error) => return Err(error),
    }
    // Nobody may install anything meanwhile; a daemon that is ending gets time.
    let _lock = wait_for_lock()?;
    let table = table::unload()?;
    let settings = daemon::restore_settings().context("kernel settings")?;
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

fn wait_for_lock() -> Result<crate::sys::control::Lock> {
    const TURNS: u32 = 100;
    for turn in 0.. {
        match lock_namespace() {
            Ok(lock) => return Ok(lock),
            Err(ControlError::Guarded { .. }) if turn < TURNS => {
                std::thread::sleep(std::time::Duration::from_millis(100));
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
    Err(Refused("unreachable lock".to_owned()).into())
}
