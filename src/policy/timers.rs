//! Which value a timer has for a connection, and whose value that is.
//!
//! From weak to strong: the default, the file's `timers:`, a live change for
//! all, the rule's own in the file, a live change for that rule. A rule's own
//! timer wins over a live change for all, because whoever gave one rule a timer
//! meant it. All of it is worked out when the rules or the live changes change;
//! a packet only looks its cell up.

use std::time::Duration;

use crate::conntrack::Timer;

use super::{Live, Origin, Policy, RuleId, live::LiveTimer};

/// The shortest timer that can be set.
pub const SHORTEST: Duration = Duration::from_secs(1);
/// The longest timer that can be set: 100 days.
pub const LONGEST: Duration = Duration::from_secs(100 * 24 * 3600);

type Cell = (Option<Duration>, Origin);
type Row = [Cell; Timer::COUNT];

/// Every timer's value for every rule and timer epoch.
#[derive(Clone, Debug)]
pub struct TimerTable {
    /// By rule id: the first of its rows, one per step. Rules without timers
    /// of their own share those of the rule set, at 0.
    first_row: Vec<u32>,
    /// By timer epoch: which of a rule's rows.
    step: Box<[u8; 256]>,
    rows: Vec<Row>,
}

impl TimerTable {
    /// Works out every value.
    #[must_use]
    pub fn resolve(policy: &Policy, live: &Live) -> Self {
        let (step, starts) = steps(live);
        let mut rows: Vec<Row> = starts.iter().map(|&epoch| rule_set(policy, live, epoch)).collect();
        let mut first_row = vec![0; policy.names.len()];
        for (id, slot) in (0_u16..).zip(&mut first_row) {
            let own = if id == RuleId::DEFAULT.0 {
                &[][..]
            } else if let Some(rule) = policy.rule(RuleId(id)) {
                &rule.timers
            } else {
                continue;
            };
            let name = policy.name(RuleId(id));
            let is_tuned = live.timers.iter().any(|change| change.rule.as_deref() == Some(name));
            if own.is_empty() && !is_tuned {
                continue;
            }
            let Ok(first) = u32::try_from(rows.len()) else { continue };
            *slot = first;
            for &epoch in &starts {
                let mut row = rule_set(policy, live, epoch);
                for &(timer, value) in own {
                    put(&mut row, timer, (value, Origin::Rule));
                }
                apply(&mut row, live, epoch, Some(name), Origin::LiveRule);
                rows.push(row);
            }
        }
        Self { first_row, step, rows }
    }

    /// The value of a timer for a connection of this rule that began in this
    /// timer epoch; `None` is off. Rules that a reload took away have the rule
    /// set's values.
    #[must_use]
    pub fn value(&self, rule: RuleId, timer: Timer, epoch: u8) -> (Option<Duration>, Origin) {
        let first = self.first_row.get(usize::from(rule.0)).copied().unwrap_or(0);
        let step = self.step.get(usize::from(epoch)).copied().unwrap_or(0);
        let row = usize::try_from(first).unwrap_or(0).saturating_add(usize::from(step));
        self.rows
            .get(row)
            .and_then(|row| row.get(timer as usize))
            .copied()
            .unwrap_or((timer.default_value(), Origin::Default))
    }

    /// The rule set's value, for connections whose rule has no own timers.
    #[must_use]
    pub fn of_rule_set(&self, timer: Timer, epoch: u8) -> (Option<Duration>, Origin) {
        self.value(RuleId(u16::MAX), timer, epoch)
    }
}

/// The epochs at which some value changes, and for every epoch the last of
/// them that is not later.
fn steps(live: &Live) -> (Box<[u8; 256]>, Vec<u8>) {
    let mut starts: Vec<u8> = live.timers.iter().map(|change| change.from_epoch).collect();
    starts.push(0);
    starts.sort_unstable();
    starts.dedup();
    let mut step = Box::new([0_u8; 256]);
    for (epoch, slot) in (0_u8..=u8::MAX).zip(step.iter_mut()) {
        let not_later = starts.partition_point(|&start| start <= epoch);
        *slot = u8::try_from(not_later.saturating_sub(1)).unwrap_or(0);
    }
    (step, starts)
}

fn rule_set(policy: &Policy, live: &Live, epoch: u8) -> Row {
    let mut row = Timer::ALL.map(|timer| (timer.default_value(), Origin::Default));
    for &(timer, value) in &policy.settings.timers {
        put(&mut row, timer, (value, Origin::File));
    }
    apply(&mut row, live, epoch, None, Origin::Live);
    row
}

fn apply(row: &mut Row, live: &Live, epoch: u8, rule: Option<&str>, origin: Origin) {
    let theirs = |change: &&LiveTimer| change.rule.as_deref() == rule && change.from_epoch <= epoch;
    for change in live.timers.iter().filter(theirs) {
        put(row, change.timer, (change.value, origin));
    }
}

fn put(row: &mut Row, timer: Timer, cell: Cell) {
    if let Some(slot) = row.get_mut(timer as usize) {
        *slot = cell;
    }
}

#[cfg(test)]
mod tests;
