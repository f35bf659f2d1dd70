//! `status`: how the daemon is, and what makes the gateway other than the rules
//! say.

use std::{sync::atomic::Ordering, time::Duration};

use super::{
    events, memory,
    observer::{overrun_row, scan_row},
    protocol::{Challenges, Named, OverrunRow, QueueRow, ScanRow, Sent, Status},
    state::{Daemon, State},
    text,
};
use crate::{
    engine::{Passed, Passes},
    policy::{Fail, Hooks, Limit},
    sys::{
        interfaces::{self, Forwarding},
        queue,
        table::{self, Counts, Damage, Diversion, Lane},
    },
};

impl Daemon {
    /// The daemon's state.
    #[must_use]
    pub fn status(&self) -> Status {
        let state = self.state();
        let engine = &self.shared.engine;
        let (policy, counters) = (engine.policy(), engine.counters());
        let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let tally = &self.shared.tally;
        let uptime = self.now().since(crate::conntrack::Instant(0));
        let mut warnings = Vec::new();
        let queues = queues(&state, &mut warnings);
        let (table, counts) = table_words(&state, self.diversion, &mut warnings);
        let settings = &policy.settings;
        warn_of_hooks(settings.hooks, &mut warnings);
        if settings.fail == Fail::Open {
            warnings.push("fail: open lets every packet through while no daemon answers".to_owned());
        }
        if settings.hooks.forward {
            match interfaces::forwarding() {
                Ok(forwarding) => warn_of_forwarding(forwarding, &mut warnings),
                Err(error) => warnings.push(format!("can't ask whether the kernel forwards: {error}")),
            }
        }
        match table::foreign_drops(settings.hooks) {
            Ok(drops) => warnings.extend(drops),
            Err(error) => warnings.push(format!("can't ask for other tables: {error}")),
        }
        warnings.extend(state.settings.shortfalls());
        let Seen { scans, scanning, events_lost, overrun } = self.seen();
        warnings.extend(overrun.as_ref().map(overrun_words));
        if load(&tally.send_failed) > 0 {
            warnings
                .push(format!("the kernel refused to send {} RSTs or keepalives", load(&tally.send_failed)));
        }
        let forgets_lost = load(&tally.forgets_lost) + counters.forgets_lost;
        if forgets_lost > 0 {
            warnings.push(format!(
                "{forgets_lost} connections that ended stay in the kernel's conntrack until its own timers end \
                 them: more ended at once than it could be told of"
            ));
        }
        if counters.evictions_held > 0 {
            warnings.push(format!(
                "{} SYNs were dropped where a limit says evict: more half-open connections were evicted than \
                 the kernel's conntrack could forget; challenge or syncookies bear such a flood",
                counters.evictions_held
            ));
        }
        let memory = memory::plan(engine, self.shared.at_start);
        warnings.extend(memory::warning(engine, &memory));
        let proven = engine.proven(self.now());
        let (blocked, blocked_ever) = self.shared.blocks.counts(self.now());
        let dropped: u64 = counters.dropped.iter().map(|(_, count)| count).sum();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            started: text::timestamp(self.started),
            uptime: Duration::from_secs(uptime.as_secs()),
            rules: state.source.to_string(),
            rules_since: text::timestamp(state.since),
            rule_count: policy.rules.len(),
            default: events::action_name(settings.default).to_owned(),
            hooks: hook_names(settings.hooks).into_iter().map(str::to_owned).collect(),
            diversion: self.diversion.to_string(),
            fail: fail_name(settings.fail).to_owned(),
            service: self.service,
            table: table.to_owned(),
            missed: counts.missed,
            refused: counts.refused,
            blocked_packets: counts.blocked,
            blocked,
            blocked_ever,
            queues,
            connections: counters.connections,
            max_connections: u64::from(settings.max_connections),
            memory,
            half_open: counters.embryonic,
            fast_path: counters.riding,
            stale: counters.stale,
            phases: named(&counters.phases),
            evicted: named(&counters.evicted),
            evictions_held: counters.evictions_held,
            opened: counters.opened,
            closed: counters.closed,
            forgotten: counters.forgotten,
            packets: counters.packets,
            bytes: counters.bytes,
            accepted: counters.accepted,
            lock_waits: counters.lock_waits,
            dropped,
            reset: counters.reset,
            stripped: counters.stripped,
            drop_reasons: named(&counters.dropped),
            limits_passed: passed(&counters.limits_passed, |passes| passes.acted),
            limits_passed_in_shadow: passed(&counters.limits_passed, |passes| passes.shadow),
            scans,
            scanning,
            sent: Sent {
                rst: load(&tally.rst_sent),
                keepalives: load(&tally.keepalives_sent),
                failed: load(&tally.send_failed),
                suppressed: counters.rst_suppressed,
                lost: load(&tally.transmits_lost),
                forgotten: load(&tally.forgotten),
                to_forget: tally.forgets_waiting.load(Ordering::Relaxed) as u64,
            },
            challenges: Challenges {
                made: counters.challenged,
                lost: load(&tally.challenges_lost),
                failed: load(&tally.challenges_failed),
                answered: counters.proofs,
                proven: proven.0.into(),
                most_proven: proven.1.into(),
            },
            syncookies: self.shared.shields.status(&policy, counts.stray_rsts, self.now()),
            events_lost,
            overrun,
            sysctls: [state.settings.words(), self.shared.shields.words()].concat(),
            live: self.live_changes(&state),
            confirm_within: self.confirm_within(&state),
            warnings,
        }
    }
}

impl Daemon {
    fn seen(&self) -> Seen {
        let (events_lost, now) = (self.shared.events_lost(), self.now());
        let mut observer = self.shared.observer.lock();
        let overrun = observer.overrun(events_lost, now);
        let scanning = observer.scans.scanning(now);
        let rows = scanning.iter().take(SCANS_SHOWN).map(|scan| scan_row(scan, overrun, now));
        Seen {
            scans: observer.scans.total(),
            scanning: rows.collect(),
            events_lost,
            overrun: overrun.map(|overrun| overrun_row(&overrun, now)),
        }
    }
}

/// What the events add up to.
struct Seen {
    /// Scans since the start.
    scans: u64,
    /// The busiest of now.
    scanning: Vec<ScanRow>,
    events_lost: u64,
    overrun: Option<OverrunRow>,
}

/// The warning that events were lost.
fn overrun_words(overrun: &OverrunRow) -> String {
    format!(
        "{} events were not written down: more happened than could be; scans and exposure are lower bounds \
         since {}, when the first was missed (the last: {})",
        overrun.events, overrun.since, overrun.last
    )
}

/// Scans that `status` shows.
const SCANS_SHOWN: usize = 10;

/// Those that happened.
fn named(counts: &[(&'static str, u64)]) -> Vec<Named> {
    let some = counts.iter().filter(|(_, count)| *count > 0);
    some.map(|(name, count)| Named { name: (*name).to_owned(), count: *count }).collect()
}

/// Limits by their names, whosever they are.
fn passed(all: &[Passed], pick: fn(&Passes) -> u64) -> Vec<Named> {
    let sum = |limit: Limit| {
        let mine = all.iter().filter(|passed| passed.limit == limit);
        mine.map(|passed| pick(&passed.passes)).fold(0, u64::saturating_add)
    };
    named(&Limit::ALL.map(|limit| (limit.name(), sum(limit))))
}

fn queues(state: &State, warnings: &mut Vec<String>) -> Vec<QueueRow> {
    let all = queue::losses().unwrap_or_else(|error| {
        warnings.push(format!("can't read the queues' losses: {error}"));
        Vec::new()
    });
    let mut rows = Vec::new();
    for (number, lane) in state.spec.all_queues().unwrap_or_default() {
        let carries = match lane {
            Lane::Known => "known",
            Lane::Syns => "syn",
            Lane::Proven => "proven",
        };
        let Some(loss) = all.iter().find(|loss| loss.number == number) else {
            warnings.push(format!("queue {number} is gone: nobody judges its packets; restart the daemon"));
            continue;
        };
        if loss.dropped_by_queue + loss.dropped_by_socket > 0 {
            warnings.push(format!(
                "queue {number} ({carries}) lost {} packets because it was full and {} because the socket was",
                loss.dropped_by_queue, loss.dropped_by_socket
            ));
        }
        rows.push(QueueRow {
            number,
            carries: carries.to_owned(),
            waiting: u64::from(loss.waiting),
            lost_full: loss.dropped_by_queue,
            lost_socket: loss.dropped_by_socket,
        });
    }
    rows
}

/// The table in a word, and what it counted.
fn table_words(state: &State, diversion: Diversion, warnings: &mut Vec<String>) -> (&'static str, Counts) {
    let (damage, counts) = match table::inspect(&state.spec, diversion) {
        Ok(known) => known,
        Err(error) => {
            warnings.push(format!("can't ask for the table: {error}"));
            return ("unknown", Counts::default());
        }
    };
    if let Some(damage) = damage {
        warnings.push(format!("{damage}: packets are not inspected until it is put back, in some seconds"));
    }
    warn_of_missed(counts.missed, warnings);
    let word = match damage {
        None => "installed",
        Some(Damage::Absent) => "absent",
        Some(Damage::Static) => "static",
        Some(Damage::Rules | Damage::Xtables) => "damaged",
    };
    (word, counts)
}

fn warn_of_missed(missed: u64, warnings: &mut Vec<String>) {
    if missed > 0 {
        warnings.push(format!(
            "{missed} packets were dropped that nobody had judged: halfgate's rules in mangle were missing for a \
             while, or another rule overwrites its mark bits (see marks: in the rule file)"
        ));
    }
}

fn warn_of_hooks(hooks: Hooks, warnings: &mut Vec<String>) {
    if !hooks.input {
        warnings.push(
            "the hook input is not diverted: the gateway itself is not covered by the rules".to_owned(),
        );
    }
    if !hooks.forward {
        warnings
            .push("the hook forward is not diverted: routed traffic is not covered by the rules".to_owned());
    }
}

fn warn_of_forwarding(forwarding: Forwarding, warnings: &mut Vec<String>) {
    if !forwarding.v4 {
        warnings.push(
            "net.ipv4.ip_forward is 0: the kernel routes no IPv4, whatever the rules accept".to_owned(),
        );
    }
    if !forwarding.v6 {
        warnings.push("net.ipv6.conf.all.forwarding is 0: the kernel routes no IPv6".to_owned());
    }
}

/// The names of the hooks that are on.
#[must_use]
pub fn hook_names(hooks: Hooks) -> Vec<&'static str> {
    let all = [(hooks.forward, "forward"), (hooks.input, "input"), (hooks.output, "output")];
    all.into_iter().filter(|(on, _)| *on).map(|(_, name)| name).collect()
}

/// The word for what happens without a daemon.
#[must_use]
pub const fn fail_name(fail: Fail) -> &'static str {
    match fail {
        Fail::Closed => "closed",
        Fail::Open => "open",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_covered_is_said() {
        let warned = |hooks| {
            let mut warnings = Vec::new();
            warn_of_hooks(hooks, &mut warnings);
            warnings
        };
        assert!(warned(Hooks { forward: true, input: true, output: false }).is_empty());
        assert!(warned(Hooks { forward: true, input: false, output: false })[0].contains("gateway itself"));
        assert!(warned(Hooks { forward: false, input: true, output: false })[0].contains("routed traffic"));
    }

    #[test]
    fn lost_events_are_said_with_what_they_are_missing_in() {
        let overrun = OverrunRow { events: 200, since: "early".to_owned(), last: "late".to_owned() };
        let words = overrun_words(&overrun);
        assert!(words.starts_with("200 events were not written down"), "{words}");
        assert!(words.ends_with("lower bounds since early, when the first was missed (the last: late)"));
    }

    #[test]
    fn packets_that_nobody_judged_are_said() {
        let mut warnings = Vec::new();
        warn_of_missed(0, &mut warnings);
        assert!(warnings.is_empty());
        warn_of_missed(7, &mut warnings);
        assert!(warnings[0].starts_with("7 packets were dropped"), "{warnings:?}");
    }

    #[test]
    fn a_kernel_that_does_not_route_is_said() {
        let warned = |v4, v6| {
            let mut warnings = Vec::new();
            warn_of_forwarding(Forwarding { v4, v6 }, &mut warnings);
            warnings.len()
        };
        assert_eq!((warned(true, true), warned(false, true), warned(false, false)), (0, 1, 2));
    }
}
