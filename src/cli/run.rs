//! `halfgate run`

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Result;

use crate::daemon::{self, Options, STATE_DIRECTORY};

/// Guard this gateway, in the foreground
///
/// Reads the rules, takes its queues, installs the nftables table `inet
/// halfgate` and judges every packet until SIGINT or SIGTERM; then it removes
/// the table and puts changed kernel settings back. SIGHUP reads the rule file
/// again. Without RULES the built-in ones hold: the default route's interfaces
/// are outside, out is allowed from inside, in only replies and ping.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The rule file
    rules: Option<PathBuf>,
    /// Be a service: when it ends, a static table that does what `fail` says stays
    #[arg(long, conflicts_with = "static_form")]
    service: bool,
    /// Install that static table and end, as at boot before the daemon starts
    #[arg(long = "static")]
    static_form: bool,
    /// Where changes made with --save are kept
    #[arg(long, value_name = "DIR", default_value = STATE_DIRECTORY)]
    state_dir: PathBuf,
}

pub(super) fn run(args: Args, socket: &Path) -> Result<ExitCode> {
    if args.static_form {
        daemon::hold_static(args.rules.as_ref())?;
        return Ok(ExitCode::SUCCESS);
    }
    daemon::run(&Options {
        rules: args.rules,
        socket: socket.to_owned(),
        service: args.service,
        state_directory: args.state_dir,
    })
}
