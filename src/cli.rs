//! The command line: an enum and a dispatch. One file per subcommand holds its
//! `Args`, whose doc comments are the help, and its function.
//!
//! Exit codes: 0 done, 1 refused or found wanting, 2 wrong usage.

mod blocked;
pub mod check;
mod client;
mod confirm;
mod connections;
mod events;
mod explain;
mod exposure;
mod half_open;
pub mod init;
mod kill;
pub mod lab;
mod limits;
mod output;
mod reload;
pub mod replay;
mod run;
mod status;
mod suggest;
pub mod test;
mod timers;
mod unload;

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::Result;
use clap::{CommandFactory, Parser, Subcommand};

use crate::sys::control::DEFAULT_SOCKET;

/// A stateful firewall for Linux gateways: a connection table, and every timer
/// under your hand
#[derive(Debug, Parser)]
#[command(
    name = "halfgate",
    version,
    after_help = "Exit codes: 0 done, 1 refused or found wanting, 2 wrong usage.\n\
                  Try it without touching this machine's network: halfgate lab"
)]
struct Cli {
    /// The daemon's control socket
    #[arg(long, global = true, value_name = "PATH", default_value = DEFAULT_SOCKET)]
    socket: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Args),
    Check(check::Args),
    Test(test::Args),
    Explain(explain::Args),
    Init(init::Args),
    Reload(reload::Args),
    Confirm(confirm::Args),
    Unload(unload::Args),
    Status(status::Args),
    Connections(connections::Args),
    Kill(kill::Args),
    Timers(timers::Args),
    Limits(limits::Args),
    HalfOpen(half_open::Args),
    Exposure(exposure::Args),
    Blocked(blocked::Args),
    Unblock(blocked::Unblock),
    Events(events::Args),
    Replay(replay::Args),
    Lab(lab::Args),
}

/// Wrong usage that `clap` can't see: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(pub(crate) String);

/// Parses the command line, runs it, and says how it went.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // Help and version are no errors, and clap knows where each belongs.
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    match dispatch(cli) {
        Ok(code) => code,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody may be there to read it; the exit code says it too.
            let _ = writeln!(io::stderr().lock(), "halfgate: {error:#}");
            ExitCode::from(if error.is::<Usage>() { 2 } else { 1 })
        }
    }
}

fn dispatch(cli: Cli) -> Result<ExitCode> {
    let socket = &cli.socket;
    match cli.command {
        Command::Run(args) => run::run(args, socket),
        Command::Check(args) => check::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Explain(args) => explain::run(args, socket),
        Command::Init(args) => init::run(&args),
        Command::Reload(args) => reload::run(args, socket),
        Command::Confirm(args) => confirm::run(args, socket),
        Command::Unload(args) => unload::run(args, socket),
        Command::Status(args) => status::run(&args, socket),
        Command::Connections(args) => connections::run(&args, socket),
        Command::Kill(args) => kill::run(args, socket),
        Command::Timers(args) => timers::run(args, socket),
        Command::Limits(args) => limits::run(args, socket),
        Command::HalfOpen(args) => half_open::run(&args, socket),
        Command::Exposure(args) => exposure::run(&args, socket),
        Command::Blocked(args) => blocked::run(&args, socket),
        Command::Unblock(args) => blocked::unblock(args, socket),
        Command::Events(args) => events::run(&args, socket),
        Command::Replay(args) => replay::run(&args),
        Command::Lab(args) => lab::run(&args),
    }
}

/// Whoever reads our output may stop when they have enough (`| head`).
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    })
}

/// The whole command line, for manual pages and completions.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn the_socket_goes_with_every_command() {
        for line in [
            &["halfgate", "--socket", "/tmp/x", "status"][..],
            &["halfgate", "status", "--socket", "/tmp/x"],
            &["halfgate", "run", "--socket", "/tmp/x", "rules.yaml"],
            &["halfgate", "timers", "set", "half_closed", "30s", "--socket", "/tmp/x"],
        ] {
            assert_eq!(Cli::try_parse_from(line).unwrap().socket, PathBuf::from("/tmp/x"), "{line:?}");
        }
        let cli = Cli::try_parse_from(["halfgate", "status"]).unwrap();
        assert_eq!(cli.socket, PathBuf::from(DEFAULT_SOCKET));
    }

    #[test]
    fn wrong_usage_is_exit_code_2() {
        for line in [
            &["halfgate"][..],
            &["halfgate", "dance"],
            &["halfgate", "timers", "set", "half_closed"],
            &["halfgate", "reload", "--confirm", "soon"],
            &["halfgate", "reload", "--existing", "burn"],
        ] {
            let error = Cli::try_parse_from(line).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line:?}");
        }
        assert_eq!(Cli::try_parse_from(["halfgate", "--help"]).unwrap_err().exit_code(), 0);
    }

    #[test]
    fn a_broken_pipe_is_a_quiet_end() {
        let pipe = anyhow::Error::from(io::Error::from(io::ErrorKind::BrokenPipe)).context("while listing");
        assert!(is_broken_pipe(&pipe));
        assert!(!is_broken_pipe(&anyhow::anyhow!("no")));
    }
}
