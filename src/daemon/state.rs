//! What the daemon holds beside the engine, and the changes of it that are more
//! than one step: a reload, its way back, and the end.

use std::{path::PathBuf, sync::Arc, time::SystemTime};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::mpsc::UnboundedSender;

use super::{
    blocks, events,
    kernel::KernelSettings,
    log,
    outlet::{Outlet, Refusal},
    protocol::{Line, LiveChange, ReloadExisting, Reloaded},
    rules::{self, LoadError, Source},
    saved::Saved,
    shared::{Outbox, Shared},
    shields, text,
};
use crate::{
    conntrack::Instant,
    engine::{Bookmark, Existing, Worker},
    policy::{Hooks, Live, Policy},
    sys::{
        clock::{Clock, Pace},
        table::{self, Diversion, TableError, TableSpec},
    },
};

/// What the control thread is to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// Remove the table and end, as a service too.
    Unload,
}

/// A reload that goes back by itself.
#[derive(Clone, Debug)]
pub struct Pending {
    deadline: Instant,
    before: Arc<Policy>,
    source: Source,
    since: SystemTime,
    spec: TableSpec,
    existing: Existing,
}

/// What changes while the daemon runs.
#[derive(Debug)]
pub struct State {
    /// Where the rules in force came from.
    pub source: Source,
    /// When they came into force.
    pub since: SystemTime,
    /// What the table does.
    pub spec: TableSpec,
    /// A reload that waits for `confirm`.
    pub pending: Option<Pending>,
    /// Live changes that survive a restart.
    pub saved: Saved,
    /// Kernel settings that were changed.
    pub settings: KernelSettings,
    /// The table is gone or going: nothing may bring it back.
    pub closing: bool,
}

/// The daemon, as its control side sees it.
pub struct Daemon {
    /// What all threads see.
    pub shared: Arc<Shared>,
    /// When it started.
    pub started: SystemTime,
    /// Whether it is a service: the gateway stays guarded when it stops.
    pub service: bool,
    /// How packets reach the queues.
    pub diversion: Diversion,
    /// Where saved changes are.
    pub state_directory: PathBuf,
    /// Orders for the control thread.
    pub orders: UnboundedSender<Order>,
    state: Mutex<State>,
    worker: Mutex<Worker>,
    outbox: Outbox,
}

/// What a new daemon consists of.
pub struct Parts {
    /// What all threads see.
    pub shared: Arc<Shared>,
    /// Whether it is a service.
    pub service: bool,
    /// How packets reach the queues.
    pub diversion: Diversion,
    /// Where saved changes are.
    pub state_directory: PathBuf,
    /// Orders for the control thread.
    pub orders: UnboundedSender<Order>,
    /// What changes.
    pub state: State,
    /// The way to the recorder and the sender.
    pub outbox: Outbox,
}

impl Daemon {
    /// Puts it together.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self {
            worker: Mutex::new(parts.shared.engine.worker()),
            started: Clock::wall(std::time::Duration::ZERO),
            shared: parts.shared,
            service: parts.service,
            diversion: parts.diversion,
            state_directory: parts.state_directory,
            orders: parts.orders,
            state: Mutex::new(parts.state),
            outbox: parts.outbox,
        }
    }

    /// The state, for one change at a time.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// The state, if it is free within `patience`.
    pub fn try_state_for(&self, patience: std::time::Duration) -> Option<MutexGuard<'_, State>> {
        self.state.try_lock_for(patience)
    }

    /// Lets `work` use the control side's own worker, and passes on what came
    /// of it.
    pub fn with_worker<T>(&self, work: impl FnOnce(&mut Worker) -> T) -> T {
        let mut worker = self.worker.lock();
        let result = work(&mut worker);
        self.outbox.drain(&mut worker, &self.shared.tally);
        result
    }

    /// Says something in the log and among the events.
    pub fn tell(&self, message: String) {
        log::notice(&message);
        self.shared.ring.push([events::of_daemon(message, Clock::wall(std::time::Duration::ZERO))]);
    }

    /// The engine's time.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.shared.clock.now()
    }

    /// What takes long, and can wait, calls this after each piece of it: a break, if it is time
    /// for one, and live connections go first if it has taken long.
    pub fn breaks(&self) -> impl FnMut() {
        let mut pace = Pace::begin();
        move || self.shared.rush.note(pace.step(), self.now())
    }

    /// Puts live changes in force, and has the kernel remember as long.
    pub fn set_live(&self, state: &mut State, live: Live) {
        self.shared.engine.set_live(live);
        self.adjust_sysctls(state);
    }

    /// Live changes in force, for status and reload.
    #[must_use]
    pub fn live_changes(&self, state: &State) -> Vec<LiveChange> {
        let live = self.shared.engine.live();
        let policy = self.shared.engine.policy();
        let now = self.now();
        let idle = |rule: Option<&str>| {
            rule.is_some_and(|rule| rule != "default" && !policy.rules.iter().any(|own| &*own.name == rule))
        };
        let ends_in = |until: Option<Instant>| until.map(|until| until.since(now));
        let timers = live.timers.iter().map(|change| LiveChange {
            name: change.timer.name().to_owned(),
            rule: change.rule.as_deref().map(str::to_owned),
            value: change.value.map_or_else(|| "off".to_owned(), text::duration),
            ends_in: ends_in(change.until),
            saved: change.until.is_none() && state.saved.has_timer(change.timer, change.rule.as_deref()),
            idle: idle(change.rule.as_deref()),
        });
        let limits = live.limits.iter().map(|change| LiveChange {
            name: change.limit.name().to_owned(),
            rule: change.rule.as_deref().map(str::to_owned),
            value: change.value.map_or_else(|| "off".to_owned(), |value| value.to_string()),
            ends_in: ends_in(change.until),
            saved: change.until.is_none() && state.saved.has_limit(change.limit, change.rule.as_deref()),
            idle: idle(change.rule.as_deref()),
        });
        timers.chain(limits).collect()
    }

    /// `halfgate reload`, and SIGHUP.
    ///
    /// # Errors
    /// Why nothing was changed.
    pub fn reload(
        &self,
        rules: Option<PathBuf>,
        confirm: Option<std::time::Duration>,
        existing: ReloadExisting,
        out: &mut dyn Outlet,
    ) -> Result<(), Refusal> {
        let mut state = self.state();
        if state.closing {
            return Err("the daemon is ending".into());
        }
        if let Some(pending) = &state.pending {
            let left = text::rough_duration(pending.deadline.since(self.now()));
            return Err(Refusal::Said(format!(
                "the last reload waits to be confirmed: run `halfgate confirm` first, or let it go back in {left}"
            )));
        }
        if confirm.is_some_and(|confirm| confirm < std::time::Duration::from_secs(1)) {
            return Err("--confirm needs at least a second".into());
        }
        let source = rules.map_or_else(|| state.source.clone(), Source::File);
        let before = self.shared.engine.policy();
        let compiled = match rules::load(&source, Some(&before)) {
            Ok(compiled) => compiled,
            Err(error) => return Err(refuse(&error, out)?),
        };
        for warning in &compiled.warnings {
            out.send(Line::Finding(warning.clone()))?;
        }
        let policy = compiled.policy;
        if let Some(why) = needs_restart(&before, &policy) {
            return Err(Refusal::Said(format!(
                "{why}: the rules in force stay; restart the daemon for that"
            )));
        }
        let existing = match existing {
            ReloadExisting::Keep => Existing::Keep,
            ReloadExisting::Rejudge => Existing::Rejudge,
        };
        let settings = &policy.settings;
        let spec = TableSpec {
            hooks: settings.hooks,
            fail: settings.fail,
            challenge: policy.challenges(),
            syncookies: shields::wanted(&policy, self.diversion).map_err(|error| error.to_string())?,
            blocked: blocks::lengths(&policy),
            ..state.spec
        };
        let old_spec = state.spec;
        let count = policy.rules.len();
        self.switch(&mut state, policy, spec, existing)
            .map_err(|error| format!("{error}: the rules in force stay"))?;
        let since = std::mem::replace(&mut state.since, Clock::wall(std::time::Duration::ZERO));
        let old_source = std::mem::replace(&mut state.source, source.clone());
        state.pending = confirm.map(|confirm| Pending {
            deadline: self.now().after(confirm),
            before,
            source: old_source.clone(),
            since,
            spec: old_spec,
            existing,
        });
        self.adopt_saved(&mut state, &old_source, out)?;
        let mut message = format!("rules of {source} are in force");
        if let Some(confirm) = confirm {
            message.push_str(&format!(", for {} unless confirmed", text::duration(confirm)));
        }
        self.tell(message);
        out.send(Line::Reloaded(Reloaded {
            rules: source.to_string(),
            count,
            table: spec != old_spec,
            live: self.live_changes(&state),
            confirm_within: confirm,
        }))
    }

    /// Live changes stay; but from now on `--save` goes to the file of the rules
    /// in force, and those saved there before wait for the next start.
    fn adopt_saved(&self, state: &mut State, old: &Source, out: &mut dyn Outlet) -> Result<(), Refusal> {
        if *old == state.source {
            return Ok(());
        }
        match Saved::load(&self.state_directory, &state.source) {
            Ok(saved) => {
                if saved.live().is_ok_and(|live| live != Live::default()) {
                    out.send(Line::Note(format!(
                        "live changes saved for these rules ({}) come into force at the next start",
                        saved.path().display()
                    )))?;
                }
                state.saved = saved;
                Ok(())
            }
            Err(error) => out.send(Line::Note(error)),
        }
    }

    /// New rules and, if it must be, a new table. A packet must never meet a
    /// hook whose rules are not in force yet: where hooks are added, rules come
    /// first; where hooks go, the table does.
    fn switch(
        &self,
        state: &mut State,
        policy: Policy,
        spec: TableSpec,
        existing: Existing,
    ) -> Result<(), TableError> {
        let old_spec = state.spec;
        let both = Hooks {
            forward: old_spec.hooks.forward && spec.hooks.forward,
            input: old_spec.hooks.input && spec.hooks.input,
            output: old_spec.hooks.output && spec.hooks.output,
        };
        let engine = &self.shared.engine;
        let mut current = old_spec;
        if both != old_spec.hooks && (both.forward || both.input || both.output) {
            current = TableSpec { hooks: both, ..spec };
            table::install(&current, self.diversion)?;
        }
        if existing == Existing::Rejudge {
            // Those that end are told of with what the kernel has counted.
            self.look_at_riders();
        }
        let before = engine.policy();
        self.with_worker(|worker| engine.install(policy, Existing::Keep, worker, self.now()));
        if existing == Existing::Rejudge {
            let (mut next, mut rest) = (Some(Bookmark::default()), self.breaks());
            while let Some(from) = next {
                next = self.with_worker(|worker| worker.rejudge(from, self.now()));
                rest();
            }
        }
        if current != spec
            && let Err(error) = table::install(&spec, self.diversion)
        {
            let back = with_names_of(&before, &engine.policy());
            self.with_worker(|worker| engine.install(back, Existing::Keep, worker, self.now()));
            if current != old_spec
                && let Err(error) = table::install(&old_spec, self.diversion)
            {
                log::error(format_args!("the table could not be brought back: {error}"));
            }
            self.block_again(old_spec);
            return Err(error);
        }
        state.spec = spec;
        if spec != old_spec {
            self.block_again(spec);
        }
        self.adjust_sysctls(state);
        Ok(())
    }

    /// A table that was installed anew blocks nobody, and answers for nobody.
    fn block_again(&self, spec: TableSpec) {
        if let Err(error) = self.shared.blocks.installed(spec.blocked, self.now()) {
            log::error(format_args!("sources that were blocked are no longer: {error}"));
        }
        let with = (spec.syncookies, self.diversion);
        if let Err(error) = self.shared.shields.installed(&self.shared.engine, with, self.now()) {
            log::error(format_args!("SYNs are no longer answered by the kernel's cookies: {error}"));
        }
    }

    fn adjust_sysctls(&self, state: &mut State) {
        if let Err(error) = state.settings.adjust(&self.shared.engine) {
            log::warning(error);
        }
    }

    /// `halfgate confirm`.
    ///
    /// # Errors
    /// If there is nothing to confirm.
    pub fn confirm(&self) -> Result<(), Refusal> {
        let mut state = self.state();
        if state.pending.take().is_none() {
            return Err(
                "there is no reload to confirm: it went back already, or was not made with --confirm".into(),
            );
        }
        self.tell(format!("rules of {} are confirmed", state.source));
        Ok(())
    }

    /// What time brings: live changes end, unconfirmed reloads go back. Called
    /// some times a second; does nothing while somebody changes the state.
    pub fn tick(&self) {
        let Some(mut state) = self.state.try_lock() else { return };
        if state.closing {
            return;
        }
        let now = self.now();
        let mut live = self.shared.engine.live();
        if live.expire(now) {
            self.set_live(&mut state, live);
            self.tell("a live change ended as it was told to (--for)".to_owned());
        }
        if state.pending.as_ref().is_some_and(|pending| pending.deadline <= now)
            && let Some(pending) = state.pending.take()
        {
            self.go_back(&mut state, pending);
        }
    }

    fn go_back(&self, state: &mut State, pending: Pending) {
        let policy = with_names_of(&pending.before, &self.shared.engine.policy());
        match self.switch(state, policy, pending.spec, pending.existing) {
            Ok(()) => {
                self.tell(format!(
                    "rules of {} were not confirmed: those of {} before it are in force again; the file is as it is",
                    state.source, pending.source
                ));
                let unconfirmed = std::mem::replace(&mut state.source, pending.source);
                state.since = pending.since;
                // The way back can't refuse because of a file of saved changes.
                let _ = self.adopt_saved(state, &unconfirmed, &mut Vec::new());
            }
            Err(error) => {
                log::error(format_args!("the rules before could not be brought back: {error}; trying again"));
                state.pending = Some(Pending { deadline: self.now().after(RETRY), ..pending });
            }
        }
    }

    /// How long until an unconfirmed reload goes back.
    #[must_use]
    pub fn confirm_within(&self, state: &State) -> Option<std::time::Duration> {
        state.pending.as_ref().map(|pending| pending.deadline.since(self.now()))
    }
}

/// When a way back that failed is tried again.
const RETRY: std::time::Duration = std::time::Duration::from_secs(5);

/// Former rules, to be installed again: rule numbers that were given since stay
/// given.
fn with_names_of(before: &Policy, now: &Policy) -> Policy {
    let mut policy = before.clone();
    policy.names.clone_from(&now.names);
    policy
}

/// Sends what is wrong in the file, and gives the sentence that ends it.
fn refuse(error: &LoadError, out: &mut dyn Outlet) -> Result<Refusal, Refusal> {
    for diagnostic in error.diagnostics() {
        out.send(Line::Finding(diagnostic.clone()))?;
    }
    Ok(Refusal::Said(format!("{error}: the rules in force stay")))
}

/// What can't be changed while packets are in flight.
fn needs_restart(before: &Policy, after: &Policy) -> Option<String> {
    let (old, new) = (&before.settings, &after.settings);
    if old.max_connections != new.max_connections {
        return Some(format!(
            "max_connections changes from {} to {}, and the table has its size from the start",
            old.max_connections, new.max_connections
        ));
    }
    if old.queues != new.queues {
        return Some("queues change, and the workers are bound to theirs".to_owned());
    }
    if old.marks != new.marks {
        return Some("marks change, and packets in the queues bear the old ones".to_owned());
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Marks, Queues, Settings};

    fn policy(settings: Settings) -> Policy {
        Policy::new(settings, Vec::new(), Vec::new(), vec!["default".into()])
    }

    #[test]
    fn what_needs_a_restart_is_said() {
        let before = policy(Settings::default());
        let needs = |settings| needs_restart(&before, &policy(settings));
        assert_eq!(needs(Settings::default()), None);
        let hooks = Hooks { forward: true, input: true, output: true };
        assert_eq!(needs(Settings { hooks, ..Settings::default() }), None);
        for (settings, word) in [
            (Settings { max_connections: 7, ..Settings::default() }, "max_connections"),
            (Settings { queues: Queues { base: 9, ..Queues::default() }, ..Settings::default() }, "queues"),
            (Settings { marks: Marks { shift: 8 }, ..Settings::default() }, "marks"),
        ] {
            assert!(needs(settings).unwrap().contains(word));
        }
    }
}
