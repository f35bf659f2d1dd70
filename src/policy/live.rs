//! What is tuned live, beside the rule file: it survives a reload.

use std::{sync::Arc, time::Duration};

use super::Limit;
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
