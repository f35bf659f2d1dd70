//! How many embryonic connections may exist at once.

use std::fmt;

use super::{Live, Origin, Policy, RuleId};
use crate::conntrack::SourcePrefix;

/// What happens past a limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum OnExcess {
    /// The new SYN is dropped.
    Drop,
    /// The new SYN is answered with RST.
    Reset,
    /// The stalest half-open connection of that scope goes.
    Evict,
    /// The new SYN's source must prove first that it is where it says it is; then as
    /// [`Self::Evict`].
    Challenge,
}

impl OnExcess {
    /// The name that people write.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Drop => "drop",
            Self::Reset => "reset",
            Self::Evict => "evict",
            Self::Challenge => "challenge",
        }
    }
}

impl fmt::Display for OnExcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The scope of a limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
pub enum Limit {
    /// All embryonic connections (inside a rule: all of the rule's).
    Total,
    /// Those of one source (an IPv4 address, an IPv6 /64, or what `source_prefix` says).
    PerSource,
    /// Those to one destination, address and port.
    PerDestination,
}

impl Limit {
    /// Every scope.
    pub const ALL: [Self; 3] = [Self::Total, Self::PerSource, Self::PerDestination];

    /// The name that people write: `embryonic.per_source`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Total => "embryonic.total",
            Self::PerSource => "embryonic.per_source",
            Self::PerDestination => "embryonic.per_destination",
        }
    }

    /// The limit with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|limit| limit.name() == name)
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Limits of one rule, or of the whole rule set. `None` is no limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct EmbryonicLimits {
    /// All.
    pub total: Option<u32>,
    /// One source.
    pub per_source: Option<u32>,
    /// One destination address and port.
    pub per_destination: Option<u32>,
    /// What happens past a limit; `None` inherits (in a rule from the rule
    /// set, in the rule set `Drop`).
    pub on_excess: Option<OnExcess>,
    /// Count and report, but don't act.
    pub shadow: bool,
    /// What counts as one source.
    pub source_prefix: OwnPrefix,
}

/// What a rule or the rule set says about what counts as one source; `None` inherits
/// (in a rule from the rule set).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OwnPrefix {
    /// Of IPv4 addresses.
    pub ipv4: Option<u8>,
    /// Of IPv6 addresses.
    pub ipv6: Option<u8>,
}

impl OwnPrefix {
    fn over(self, inherited: SourcePrefix) -> SourcePrefix {
        SourcePrefix { ipv4: self.ipv4.unwrap_or(inherited.ipv4), ipv6: self.ipv6.unwrap_or(inherited.ipv6) }
    }
}

impl EmbryonicLimits {
    /// The limit of one scope.
    #[must_use]
    pub const fn value(&self, limit: Limit) -> Option<u32> {
        match limit {
            Limit::Total => self.total,
            Limit::PerSource => self.per_source,
            Limit::PerDestination => self.per_destination,
        }
    }
}

/// A limit, and whose value it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ResolvedLimit {
    /// How many; `None` is no limit.
    pub value: Option<u32>,
    /// Where the value comes from.
    pub origin: Origin,
}

/// The limits in force for a rule, or for the whole rule set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ResolvedLimits {
    /// All.
    pub total: ResolvedLimit,
    /// One source.
    pub per_source: ResolvedLimit,
    /// One destination address and port.
    pub per_destination: ResolvedLimit,
    /// What happens past a limit.
    pub on_excess: OnExcess,
    /// Count and report, but don't act.
    pub shadow: bool,
    /// What counts as one source.
    pub source_prefix: SourcePrefix,
}

impl ResolvedLimits {
    /// The limit of one scope.
    #[must_use]
    pub const fn limit(&self, limit: Limit) -> ResolvedLimit {
        match limit {
            Limit::Total => self.total,
            Limit::PerSource => self.per_source,
            Limit::PerDestination => self.per_destination,
        }
    }

    fn of(file: &EmbryonicLimits, from_file: Origin, on_excess: OnExcess, prefix: SourcePrefix) -> Self {
        let one = |value: Option<u32>| ResolvedLimit {
            value,
            origin: if value.is_some() { from_file } else { Origin::Default },
        };
        Self {
            total: one(file.total),
            per_source: one(file.per_source),
            per_destination: one(file.per_destination),
            on_excess: file.on_excess.unwrap_or(on_excess),
            shadow: file.shadow,
            source_prefix: file.source_prefix.over(prefix),
        }
    }

    fn tune(&mut self, live: &Live, rule: Option<&str>, origin: Origin) {
        for change in live.limits.iter().filter(|change| change.rule.as_deref() == rule) {
            let slot = match change.limit {
                Limit::Total => &mut self.total,
                Limit::PerSource => &mut self.per_source,
                Limit::PerDestination => &mut self.per_destination,
            };
            *slot = ResolvedLimit { value: change.value, origin };
        }
    }

    fn is_untouched(&self) -> bool {
        Limit::ALL.into_iter().all(|limit| self.limit(limit).origin == Origin::Default)
    }
}

/// Every limit in force: the rule set's, and those of rules that have their own.
/// Both apply.
#[derive(Clone, Debug)]
pub struct LimitTable {
    global: ResolvedLimits,
    /// By rule id.
    rules: Vec<Option<ResolvedLimits>>,
    /// What counts as one source, by rule id.
    prefixes: Vec<SourcePrefix>,
}

impl LimitTable {
    /// Works out every limit.
    #[must_use]
    pub fn resolve(policy: &Policy, live: &Live) -> Self {
        let prefix = SourcePrefix::default();
        let mut global = ResolvedLimits::of(&policy.settings.limits, Origin::File, OnExcess::Drop, prefix);
        global.tune(live, None, Origin::Live);
        let none = EmbryonicLimits::default();
        let mut prefixes = Vec::with_capacity(policy.names.len());
        let rules = (0_u16..).zip(&policy.names).map(|(id, name)| {
            prefixes.push(global.source_prefix);
            let own = match policy.rule(RuleId(id)) {
                Some(rule) => &rule.limits,
                None if id == RuleId::DEFAULT.0 => &none,
                None => return None,
            };
            let mut limits = ResolvedLimits::of(own, Origin::Rule, global.on_excess, global.source_prefix);
            if let Some(prefix) = prefixes.last_mut() {
                *prefix = limits.source_prefix;
            }
            limits.tune(live, Some(name), Origin::LiveRule);
            (!limits.is_untouched()).then_some(limits)
        });
        let rules = rules.collect();
        Self { global, rules, prefixes }
    }

    /// The rule set's limits.
    #[must_use]
    pub const fn global(&self) -> ResolvedLimits {
        self.global
    }

    /// What counts as one source in a rule's own counts; also where it has no limit.
    #[must_use]
    pub fn source_prefix(&self, rule: RuleId) -> SourcePrefix {
        self.prefixes.get(usize::from(rule.0)).copied().unwrap_or(self.global.source_prefix)
    }

    /// A rule's own limits; `None` if it has none, or a reload took it away.
    #[must_use]
    pub fn of_rule(&self, rule: RuleId) -> Option<ResolvedLimits> {
        self.rules.get(usize::from(rule.0)).copied().flatten()
    }
}
