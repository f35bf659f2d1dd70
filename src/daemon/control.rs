//! The control thread: signals, clients, deaths of other threads, and time.

use std::{os::unix::net::UnixListener, sync::Arc, time::Duration};

use tokio::{
    net::UnixStream,
    signal::unix::{SignalKind, signal},
    sync::mpsc::UnboundedReceiver,
    time::{MissedTickBehavior, interval},
};

use super::{
    log,
    mend::Mending,
    protocol::{Line, ReloadExisting},
    seats::Seats,
    session::{self, Backend, Patience},
    shared::Pulse,
    state::{Daemon, Order},
    threads::{Death, Watchman},
};
use crate::sys::{
    control::{PeerCredentials, group_id},
    queue,
};

/// How often time is looked at: `--for` and `--confirm` are late by this.
const TICK: Duration = Duration::from_millis(200);

/// How long an answer has to leave before the end.
const LAST_WORD: Duration = Duration::from_millis(100);

/// Why the daemon ends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ending {
    /// It was told to, by a signal.
    Signal(&'static str),
    /// It was told to take everything away.
    Unload,
    /// It can't go on.
    Fatal(String),
}

/// What the control thread hears of.
pub struct Ears {
    /// Clients.
    pub listener: UnixListener,
    /// Orders of requests.
    pub orders: UnboundedReceiver<Order>,
    /// Deaths of other threads.
    pub deaths: UnboundedReceiver<Death>,
    /// The other threads' pulses.
    pub pulses: Vec<Pulse>,
    /// The queues that are served.
    pub queues: Vec<u16>,
}

/// Runs until the daemon should end. `ready` is called when clients are served.
///
/// # Errors
/// If signals or the socket can't be listened to.
pub async fn run(daemon: &Arc<Daemon>, mut ears: Ears, ready: impl FnOnce()) -> std::io::Result<Ending> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let listener = tokio::net::UnixListener::from_std(ears.listener)?;
    let seats = Arc::new(Seats::default());
    let mut watchman = Watchman::default();
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut look = interval(Duration::from_secs(1));
    look.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut mending = Mending::start(daemon.now());
    ready();
    loop {
        tokio::select! {
            _ = interrupt.recv() => return Ok(Ending::Signal("SIGINT")),
            _ = terminate.recv() => return Ok(Ending::Signal("SIGTERM")),
            _ = hangup.recv() => hang_up(daemon),
            order = ears.orders.recv() => match order {
                Some(Order::Unload) | None => {
                    // Who ordered it hears that it is done.
                    tokio::time::sleep(LAST_WORD).await;
                    return Ok(Ending::Unload);
                }
            },
            death = ears.deaths.recv() => {
                let (name, why) = death.map_or_else(|| ("all threads".into(), "they are gone".into()), |death| {
                    (death.name, death.why)
                });
                return Ok(Ending::Fatal(format!("thread {name} died: {why}")));
            },
            client = listener.accept() => match client {
                Ok((stream, _)) => welcome(daemon, &seats, stream),
                Err(error) => {
                    // Out of descriptors, mostly: clients that leave free some.
                    log::warning(format_args!("control socket: {error}"));
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            _ = tick.tick() => {
                daemon.tick();
                mending.turn(daemon);
            }
            _ = look.tick() => {
                if let Some(name) = watchman.look(&ears.pulses) {
                    let patience = Watchman::PATIENCE;
                    return Ok(Ending::Fatal(format!("thread {name} has not moved for {patience} s")));
                }
                if let Some(number) = gone(&ears.queues) {
                    return Ok(Ending::Fatal(format!("queue {number} is gone: somebody unbound it")));
                }
                if sd_notify::watchdog_enabled().is_some() {
                    let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
                }
            },
        }
    }
}

/// A queue that the kernel has no more: its worker would wait for ever.
fn gone(served: &[u16]) -> Option<u16> {
    // Where it can't be asked nothing is known; `status` says so.
    let there = queue::losses().ok()?;
    served.iter().copied().find(|number| there.iter().all(|queue| queue.number != *number))
}

fn welcome(daemon: &Arc<Daemon>, seats: &Arc<Seats>, stream: UnixStream) {
    let who = match PeerCredentials::of(&stream) {
        Ok(who) if who.may_command(group_id()) => who,
        Ok(who) => {
            log::warning(format_args!("control socket: user {} was sent away", who.uid));
            tokio::spawn(session::send_away(
                stream,
                "only root and members of the group halfgate may do this".to_owned(),
            ));
            return;
        }
        Err(error) => {
            log::warning(format_args!("control socket: who connected can't be told: {error}"));
            return;
        }
    };
    match seats.take(&who) {
        Ok(seat) => {
            let backend: Arc<dyn Backend> = Arc::<Daemon>::clone(daemon);
            tokio::spawn(session::serve(stream, backend, seat, Patience::default()));
        }
        Err(full) => {
            tokio::spawn(session::send_away(stream, full.to_string()));
        }
    }
}

/// SIGHUP: reload, with the log for an answer.
fn hang_up(daemon: &Arc<Daemon>) {
    use super::outlet::Refusal;
    use sd_notify::NotifyState;
    if let Ok(now) = NotifyState::monotonic_usec_now() {
        let _ = sd_notify::notify(&[NotifyState::Reloading, now]);
    }
    let daemon = Arc::clone(daemon);
    tokio::task::spawn_blocking(move || {
        let mut lines: Vec<Line> = Vec::new();
        let result = daemon.reload(None, None, ReloadExisting::Keep, &mut lines);
        for line in lines {
            if let Line::Finding(diagnostic) = line {
                log::warning(diagnostic);
            } else if let Line::Note(note) = line {
                log::notice(note);
            }
        }
        if let Err(Refusal::Said(why)) = result {
            log::error(format_args!("reload refused: {why}"));
        }
        let _ = sd_notify::notify(&[NotifyState::Ready]);
    });
}
