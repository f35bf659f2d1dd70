//! Puts the table back when somebody else takes it away, wholly or in part: a
//! restart of `nftables.service` flushes the rule set, restoring an iptables file
//! the table `mangle`.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::task::{JoinHandle, spawn_blocking};

use super::{log, state::Daemon};
use crate::{
    conntrack::Instant,
    sys::table::{self, TableError, Watch},
};

/// How often the table is looked at when nobody told of a change: xtables' legacy
/// tables change without a word.
const EVERY: Duration = Duration::from_secs(10);

/// The least time between two looks, however much changes.
const PAUSE: Duration = Duration::from_secs(1);

/// When to look, and what was said already.
#[derive(Debug, Default)]
pub struct Mending {
    watch: Option<Watch>,
    told: bool,
    last: Instant,
    /// The look that is under way: never two at once.
    look: Option<JoinHandle<()>>,
    /// Said once, not every time.
    complaint: Arc<Mutex<Option<String>>>,
}

impl Mending {
    /// Hears of deletions from now on, where the kernel tells of them.
    #[must_use]
    pub fn start(now: Instant) -> Self {
        let watch = Watch::open().inspect_err(|error| {
            log::warning(format_args!(
                "changes of the rule set can't be heard of: the table is looked at every {} s ({error})",
                EVERY.as_secs()
            ));
        });
        Self { watch: watch.ok(), last: now, ..Self::default() }
    }

    /// Has the table looked at, if it is time: on a thread of its own, since it asks
    /// tools. Called some times a second.
    pub fn turn(&mut self, daemon: &Arc<Daemon>) {
        let is_busy = self.look.as_ref().is_some_and(|look| !look.is_finished());
        if !is_busy && self.is_due(daemon.now()) {
            let (daemon, complaint) = (Arc::clone(daemon), Arc::clone(&self.complaint));
            self.look = Some(spawn_blocking(move || daemon.mend(&mut complaint.lock())));
        }
    }

    /// Whether it is time to look.
    fn is_due(&mut self, now: Instant) -> bool {
        match self.watch.as_ref().map_or(Ok(false), Watch::something_went) {
            Ok(went) => self.told |= went,
            Err(error) => {
                log::warning(format_args!("changes of the rule set can't be heard of any more: {error}"));
                self.watch = None;
            }
        }
        let since = now.since(self.last);
        let due = since >= EVERY || self.told && since >= PAUSE;
        if due {
            (self.told, self.last) = (false, now);
        }
        due
    }
}

impl Daemon {
    /// Looks at the table and puts back what is missing.
    fn mend(&self, complaint: &mut Option<String>) {
        match self.put_back() {
            Ok(Some(what)) => {
                *complaint = None;
                self.tell(what);
            }
            Ok(None) => *complaint = None,
            Err(error) => {
                let words = format!("the table can't be looked after: {error}");
                if complaint.as_ref() != Some(&words) {
                    log::error(&words);
                    *complaint = Some(words);
                }
            }
        }
    }

    /// What was put back.
    fn put_back(&self) -> Result<Option<String>, TableError> {
        let state = self.state();
        if state.closing {
            return Ok(None);
        }
        let (damage, counts) = table::inspect(&state.spec, self.diversion)?;
        let Some(damage) = damage else { return Ok(None) };
        table::install(&state.spec, self.diversion)?;
        self.shared.blocks.installed(state.spec.blocked, self.now())?;
        let with = (state.spec.syncookies, self.diversion);
        self.shared.shields.installed(&self.shared.engine, with, self.now())?;
        let lost = if counts.missed > 0 {
            format!(", {} packets had been dropped unjudged", counts.missed)
        } else {
            String::new()
        };
        Ok(Some(format!("{damage}, taken away by somebody else: put back{lost}")))
    }
}
