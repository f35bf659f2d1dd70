//! `halfgate lab`: three network namespaces, real traffic, the firewall in the
//! middle.
//!
//! Starts this very binary as the gateway's firewall and asks it over its own
//! command line; what the two ends see is asked of their kernels. Every line of
//! the summary compares the two. Knows nothing of the engine's insides.

mod ground;
mod play;
mod report;
mod scenes;
mod service;
mod traffic;

use std::{
    io::{self, Write as _},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::Duration,
};

use anyhow::Context as _;

use self::{
    ground::{Ground, Lab},
    report::{Report, Said},
};

/// Three network namespaces, real traffic, the firewall in the middle
///
/// Makes a client, a gateway and a server, starts the firewall in the gateway,
/// sends real traffic through it, and compares what was seen with what was
/// expected. The exit code is 0 only if they agree. Needs root; touches nothing
/// outside of its own namespaces and removes them on every way out.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Leave it running with traffic to play with, until Ctrl-C
    #[arg(long)]
    pub keep: bool,
    /// One object per line instead of text
    #[arg(long)]
    pub json: bool,
}

/// How often a wait looks whether it was interrupted.
const TICK: Duration = Duration::from_millis(100);

/// Runs the lab.
///
/// # Errors
/// If the lab can't be set up: no root, no `ip`, or the firewall does not start.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let interrupted = Arc::new(AtomicBool::new(false));
    watch_signals(Arc::clone(&interrupted))?;
    let mut report = Report::new(args.json);
    let finished = perform(args, &mut report, &interrupted);
    match finished {
        Err(error) if broken_pipe(&error) => Ok(ExitCode::SUCCESS),
        other => other,
    }
}

/// Sets up, runs every scene, sums up. The lab is gone when this returns.
fn perform(args: &Args, report: &mut Report, interrupted: &AtomicBool) -> anyhow::Result<ExitCode> {
    report.title(
        "Setting up: client - gateway - server, each a network namespace with a kernel stack of its own",
    )?;
    let lab = Lab::start(interrupted)?;
    report.lab(&lab)?;
    for act in scenes::ACTS {
        report.title(act.title)?;
        if !play_act(act, lab.ground(), report, interrupted)? {
            return interrupted_exit(report);
        }
    }
    let agrees = report.summary()?;
    if args.keep {
        play::keep(&lab, report, interrupted)?;
    }
    drop(lab);
    report.title("Removed the namespaces and the firewall")?;
    Ok(if agrees { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs the scenes of an act side by side and prints what they say as they say
/// it. `false` if it was interrupted; the scenes' threads then end with the
/// process.
fn play_act(
    act: &scenes::Act,
    ground: &Ground,
    report: &mut Report,
    interrupted: &AtomicBool,
) -> anyhow::Result<bool> {
    let (say, said) = mpsc::channel::<Said>();
    for scene in act.scenes {
        let stage = scenes::Stage::new(scene.name, ground.clone(), say.clone());
        let run = scene.run;
        thread::Builder::new()
            .name(scene.name.to_owned())
            .spawn(move || {
                if let Err(error) = run(&stage) {
                    stage.failed(&error);
                }
            })
            .context("start a thread")?;
    }
    drop(say);
    loop {
        if interrupted.load(Ordering::Relaxed) {
            return Ok(false);
        }
        match said.recv_timeout(TICK) {
            Ok(said) => report.take(said)?,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok(true),
        }
    }
}

fn interrupted_exit(report: &mut Report) -> anyhow::Result<ExitCode> {
    report.title("Interrupted; removing the namespaces and the firewall")?;
    // As a shell has it: 128 and the number of SIGINT.
    Ok(ExitCode::from(130))
}

/// Turns the signals that ask us to end into a flag, so that guards can run.
fn watch_signals(interrupted: Arc<AtomicBool>) -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_io().build().context("wait for signals")?;
    let (mut interrupt, mut terminate, mut hangup) = {
        let _inside = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?)
    };
    let wait = move || {
        runtime.block_on(async {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                    _ = hangup.recv() => {}
                }
                interrupted.store(true, Ordering::Relaxed);
            }
        });
    };
    thread::Builder::new().name("signals".to_owned()).spawn(wait).context("wait for signals")?;
    Ok(())
}

/// Whether whoever read our output has gone.
fn broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// Writes a line to standard output.
fn print(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}
