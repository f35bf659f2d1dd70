//! What is tuned live, beside the rule file: it survives a reload.
//!
//! A change for a while (`until`) lies on top of a lasting one, so that its end
//! brings the lasting one back.

use std::{sync::Arc, time::Duration};

use super::{
    Limit,
    duration::text,
    timers::{LONGEST, SHORTEST},
};
use crate::conntrack::{Instant, Timer};

/// Where a timer's or limit's value comes from. A rule's own value (file or
/// live) wins over a live one made without a rule.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Origin {
    /// Built in.
    Default,
    /// The rule file's `timers:` or `limits:`.
    File,
    /// The rule's own, in the file.
    Rule,
    /// Set live, for all rules without their own.
    Live,
    /// Set live, for this rule.
    LiveRule,
}

impl Origin {
    /// The name in listings.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::File => "file",
            Self::Rule => "rule",
            Self::Live => "live",
            Self::LiveRule => "live_rule",
        }
    }
}

/// A timer set live.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LiveTimer {
    /// Which.
    pub timer: Timer,
    /// For one rule, by name; `None`: for all without their own.
    pub rule: Option<Arc<str>>,
    /// The value; `None` turns it off.
    pub value: Option<Duration>,
    /// When it goes back by itself.
    pub until: Option<Instant>,
    /// Applies to connections of this timer epoch and later (`--existing keep`
    /// starts a new epoch); 0: to all.
    pub from_epoch: u8,
}

/// A limit set live.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LiveLimit {
    /// Which.
    pub limit: Limit,
    /// For one rule, by name; `None`: the global one.
    pub rule: Option<Arc<str>>,
    /// The value; `None`: no limit.
    pub value: Option<u32>,
    /// When it goes back by itself.
    pub until: Option<Instant>,
}

/// All live changes, oldest first; a later one replaces an earlier one of the
/// same name, rule and epoch.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Live {
    /// Timers.
    pub timers: Vec<LiveTimer>,
    /// Limits.
    pub limits: Vec<LiveLimit>,
    /// The epoch of connections that start now.
    pub epoch: u8,
}

/// Why a live change was refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LiveError {
    /// Shorter than [`SHORTEST`].
    #[error("timer {0}: {short} is too short; the shortest is 1s", short = text(*.1))]
    TooShort(Timer, Duration),
    /// Longer than [`LONGEST`].
    #[error("timer {0}: {long} is too long; the longest is 100d", long = text(*.1))]
    TooLong(Timer, Duration),
    /// Only `half_closed_max` can be turned off.
    #[error(
        "timer {0} can't be off: its connections would never end; give it a duration up to 100d (only half_closed_max can be off)"
    )]
    NeverOff(Timer),
    /// A limit of 0.
    #[error(
        "{0}: a limit of 0 would refuse every new connection; use a rule with `action: drop` for that, or `off` for no limit"
    )]
    ZeroLimit(Limit),
    /// All 255 epochs are used up.
    #[error("timers were changed 255 times with `--existing keep`; use `--existing apply` from here on")]
    NoMoreEpochs,
}

/// Whether a timer may have this value; `None` is off.
///
/// # Errors
/// Why not, and what to do.
pub fn check_timer(timer: Timer, value: Option<Duration>) -> Result<(), LiveError> {
    match value {
        None if timer == Timer::HalfClosedMax => Ok(()),
        None => Err(LiveError::NeverOff(timer)),
        Some(value) if value < SHORTEST => Err(LiveError::TooShort(timer, value)),
        Some(value) if value > LONGEST => Err(LiveError::TooLong(timer, value)),
        Some(_) => Ok(()),
    }
}

/// Whether a limit may have this value; `None` is no limit.
///
/// # Errors
/// Why not, and what to do.
pub const fn check_limit(limit: Limit, value: Option<u32>) -> Result<(), LiveError> {
    match value {
        Some(0) => Err(LiveError::ZeroLimit(limit)),
        Some(_) | None => Ok(()),
    }
}

impl Live {
    /// Sets a timer. Replaces what was set for the same timer and rule: all of
    /// it if the change reaches back to epoch 0, else what holds from its epoch
    /// on. A change for a while leaves the lasting one below it in place.
    ///
    /// # Errors
    /// [`LiveError`], if the value is out of range; nothing is changed then.
    pub fn set_timer(&mut self, change: LiveTimer) -> Result<(), LiveError> {
        check_timer(change.timer, change.value)?;
        self.timers.retain(|old| {
            let same = old.timer == change.timer && old.rule == change.rule;
            let is_below = change.until.is_some() && old.until.is_none();
            !same || old.from_epoch < change.from_epoch || is_below
        });
        self.timers.push(change);
        Ok(())
    }

    /// Takes back every live change of a timer for this rule (`None`: for all).
    /// `false` if there was none.
    pub fn unset_timer(&mut self, timer: Timer, rule: Option<&str>) -> bool {
        let before = self.timers.len();
        self.timers.retain(|old| old.timer != timer || old.rule.as_deref() != rule);
        self.timers.len() != before
    }

    /// Sets a limit. Replaces what was set for the same limit and rule; a change
    /// for a while leaves the lasting one below it in place.
    ///
    /// # Errors
    /// [`LiveError`], if the value is out of range; nothing is changed then.
    pub fn set_limit(&mut self, change: LiveLimit) -> Result<(), LiveError> {
        check_limit(change.limit, change.value)?;
        self.limits.retain(|old| {
            let same = old.limit == change.limit && old.rule == change.rule;
            let is_below = change.until.is_some() && old.until.is_none();
            !same || is_below
        });
        self.limits.push(change);
        Ok(())
    }

    /// Takes back every live change of a limit for this rule (`None`: the
    /// global one). `false` if there was none.
    pub fn unset_limit(&mut self, limit: Limit, rule: Option<&str>) -> bool {
        let before = self.limits.len();
        self.limits.retain(|old| old.limit != limit || old.rule.as_deref() != rule);
        self.limits.len() != before
    }

    /// The change of a timer that holds for new connections.
    #[must_use]
    pub fn timer(&self, timer: Timer, rule: Option<&str>) -> Option<&LiveTimer> {
        let found = |change: &&LiveTimer| {
            change.timer == timer && change.rule.as_deref() == rule && change.from_epoch <= self.epoch
        };
        self.timers.iter().rev().find(found)
    }

    /// The change of a limit that holds.
    #[must_use]
    pub fn limit(&self, limit: Limit, rule: Option<&str>) -> Option<&LiveLimit> {
        self.limits.iter().rev().find(|change| change.limit == limit && change.rule.as_deref() == rule)
    }

    /// Starts a new timer epoch (`--existing keep`) and gives its number, for
    /// `from_epoch`.
    ///
    /// # Errors
    /// [`LiveError::NoMoreEpochs`] after 255 of them.
    pub const fn next_epoch(&mut self) -> Result<u8, LiveError> {
        match self.epoch.checked_add(1) {
            Some(epoch) => {
                self.epoch = epoch;
                Ok(epoch)
            }
            None => Err(LiveError::NoMoreEpochs),
        }
    }

    /// Drops the changes whose time is over; `true` if there were some.
    pub fn expire(&mut self, now: Instant) -> bool {
        let before = (self.timers.len(), self.limits.len());
        let lasts = |until: Option<Instant>| until.is_none_or(|until| now < until);
        self.timers.retain(|change| lasts(change.until));
        self.limits.retain(|change| lasts(change.until));
        before != (self.timers.len(), self.limits.len())
    }

    /// When `expire` has something to do next.
    #[must_use]
    pub fn next_expiry(&self) -> Option<Instant> {
        let timers = self.timers.iter().filter_map(|change| change.until);
        timers.chain(self.limits.iter().filter_map(|change| change.until)).min()
    }
}

#[cfg(test)]
mod tests;
