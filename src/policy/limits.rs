//! How many embryonic connections may exist at once.

use std::{fmt, sync::Arc, time::Duration};

use super::{Live, NetworkSet, Origin, Policy, RuleId};
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
    /// The kernel answers the SYNs of the destination from now on, by SYN cookies, until
    /// the pressure is gone. Until it does, the new SYN is dropped.
    Syncookies,
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
            Self::Syncookies => "syncookies",
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
    /// All open connections (inside a rule: all of the rule's).
    OpenTotal,
    /// Open connections of one source.
    OpenPerSource,
    /// Open connections to one destination, address and port.
    OpenPerDestination,
}

impl Limit {
    /// Every limit.
    pub const ALL: [Self; 6] = [
        Self::Total,
        Self::PerSource,
        Self::PerDestination,
        Self::OpenTotal,
        Self::OpenPerSource,
        Self::OpenPerDestination,
    ];

    /// Those of half-open connections.
    pub const EMBRYONIC: [Self; 3] = [Self::Total, Self::PerSource, Self::PerDestination];

    /// Those of open connections: past their handshake, and not over.
    pub const OPEN: [Self; 3] = [Self::OpenTotal, Self::OpenPerSource, Self::OpenPerDestination];

    /// Whether it is one of open connections.
    #[must_use]
    pub const fn is_open(self) -> bool {
        matches!(self, Self::OpenTotal | Self::OpenPerSource | Self::OpenPerDestination)
    }

    /// Whether it counts those of one source.
    #[must_use]
    pub const fn is_per_source(self) -> bool {
        matches!(self, Self::PerSource | Self::OpenPerSource)
    }

    /// The name that people write: `embryonic.per_source`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Total => "embryonic.total",
            Self::PerSource => "embryonic.per_source",
            Self::PerDestination => "embryonic.per_destination",
            Self::OpenTotal => "connections.total",
            Self::OpenPerSource => "connections.per_source",
            Self::OpenPerDestination => "connections.per_destination",
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
    /// How long the pressure must be gone until SYN cookies end; `None` inherits (in a
    /// rule from the rule set, there [`CALM`]).
    pub calm: Option<Duration>,
    /// Count and report, but don't act.
    pub shadow: bool,
    /// What counts as one source.
    pub source_prefix: OwnPrefix,
}

/// Why `per_source` has no SYN cookies.
pub const NO_COOKIES_PER_SOURCE: &str =
    "`on_excess: syncookies` can't answer a limit per source: the kernel answers all SYNs to a destination";

/// How long the pressure must be gone until SYN cookies end, if nobody says otherwise.
pub const CALM: Duration = Duration::from_secs(60);

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
            Limit::OpenTotal | Limit::OpenPerSource | Limit::OpenPerDestination => None,
        }
    }
}

/// Limits of open connections, of one rule or of the whole rule set.
#[derive(Clone, Debug, Default)]
pub struct OpenLimits {
    /// All.
    pub total: Option<u32>,
    /// One source.
    pub per_source: Option<u32>,
    /// One destination address and port.
    pub per_destination: Option<u32>,
    /// What meets the connection that is too many: `Drop` or `Reset`; `None` inherits.
    pub on_excess: Option<OnExcess>,
    /// How long the kernel blocks a source that passes `per_source` by a connection
    /// that it has really made; `None`: it does not.
    pub block: Option<Duration>,
    /// Addresses that are never blocked.
    pub allow: Vec<Arc<NetworkSet>>,
    /// Count and report, but don't act.
    pub shadow: bool,
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
    /// How long the pressure must be gone until SYN cookies end.
    pub calm: Duration,
    /// Count and report, but don't act.
    pub shadow: bool,
    /// What counts as one source.
    pub source_prefix: SourcePrefix,
    /// Those of open connections.
    pub open: ResolvedOpen,
}

/// The limits of open connections in force for a rule, or for the whole rule set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ResolvedOpen {
    /// All.
    pub total: ResolvedLimit,
    /// One source.
    pub per_source: ResolvedLimit,
    /// One destination address and port.
    pub per_destination: ResolvedLimit,
    /// What meets the connection that is too many.
    pub on_excess: OnExcess,
    /// How long a source is blocked that passes `per_source`.
    pub block: Option<Duration>,
    /// Count and report, but don't act.
    pub shadow: bool,
}

impl ResolvedLimits {
    /// The limit of one scope.
    #[must_use]
    pub const fn limit(&self, limit: Limit) -> ResolvedLimit {
        match limit {
            Limit::Total => self.total,
            Limit::PerSource => self.per_source,
            Limit::PerDestination => self.per_destination,
            Limit::OpenTotal => self.open.total,
            Limit::OpenPerSource => self.open.per_source,
            Limit::OpenPerDestination => self.open.per_destination,
        }
    }

    /// What happens past a limit.
    #[must_use]
    pub const fn answer(&self, limit: Limit) -> OnExcess {
        if limit.is_open() { self.open.on_excess } else { self.on_excess }
    }

    /// Whether a limit only counts.
    #[must_use]
    pub const fn is_shadow(&self, limit: Limit) -> bool {
        if limit.is_open() { self.open.shadow } else { self.shadow }
    }

    /// Which limits of open connections there are.
    #[must_use]
    pub fn open_set(&self) -> [bool; 3] {
        Limit::OPEN.map(|limit| self.limit(limit).value.is_some())
    }

    fn of(
        (file, open): (&EmbryonicLimits, &OpenLimits),
        from_file: Origin,
        (on_excess, calm): ([OnExcess; 2], Duration),
        prefix: SourcePrefix,
    ) -> Self {
        let one = |value: Option<u32>| ResolvedLimit {
            value,
            origin: if value.is_some() { from_file } else { Origin::Default },
        };
        Self {
            total: one(file.total),
            per_source: one(file.per_source),
            per_destination: one(file.per_destination),
            on_excess: file.on_excess.unwrap_or(on_excess[0]),
            calm: file.calm.unwrap_or(calm),
            shadow: file.shadow,
            source_prefix: file.source_prefix.over(prefix),
            open: ResolvedOpen {
                total: one(open.total),
                per_source: one(open.per_source),
                per_destination: one(open.per_destination),
                on_excess: open.on_excess.unwrap_or(on_excess[1]),
                block: open.block,
                shadow: open.shadow,
            },
        }
    }

    fn tune(&mut self, live: &Live, rule: Option<&str>, origin: Origin) {
        for change in live.limits.iter().filter(|change| change.rule.as_deref() == rule) {
            let slot = match change.limit {
                Limit::Total => &mut self.total,
                Limit::PerSource => &mut self.per_source,
                Limit::PerDestination => &mut self.per_destination,
                Limit::OpenTotal => &mut self.open.total,
                Limit::OpenPerSource => &mut self.open.per_source,
                Limit::OpenPerDestination => &mut self.open.per_destination,
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
    /// Whether there is any limit of open connections.
    counts_open: bool,
}

impl LimitTable {
    /// Works out every limit.
    #[must_use]
    pub fn resolve(policy: &Policy, live: &Live) -> Self {
        let prefix = SourcePrefix::default();
        let settings = &policy.settings;
        let drop = ([OnExcess::Drop; 2], CALM);
        let mut global =
            ResolvedLimits::of((&settings.limits, &settings.open_limits), Origin::File, drop, prefix);
        global.tune(live, None, Origin::Live);
        let none = (EmbryonicLimits::default(), OpenLimits::default());
        let inherited = ([global.on_excess, global.open.on_excess], global.calm);
        let mut prefixes = Vec::with_capacity(policy.names.len());
        let rules = (0_u16..).zip(&policy.names).map(|(id, name)| {
            prefixes.push(global.source_prefix);
            let own = match policy.rule(RuleId(id)) {
                Some(rule) => (&rule.limits, &rule.open_limits),
                None if id == RuleId::DEFAULT.0 => (&none.0, &none.1),
                None => return None,
            };
            let mut limits = ResolvedLimits::of(own, Origin::Rule, inherited, global.source_prefix);
            if let Some(prefix) = prefixes.last_mut() {
                *prefix = limits.source_prefix;
            }
            limits.tune(live, Some(name), Origin::LiveRule);
            (!limits.is_untouched()).then_some(limits)
        });
        let rules: Vec<Option<ResolvedLimits>> = rules.collect();
        let all = rules.iter().flatten().chain([&global]);
        let counts_open = all.into_iter().any(|limits| limits.open_set().contains(&true));
        Self { global, rules, prefixes, counts_open }
    }

    /// The rule set's limits.
    #[must_use]
    pub const fn global(&self) -> ResolvedLimits {
        self.global
    }

    /// Whether there is any limit of open connections.
    #[must_use]
    pub const fn counts_open(&self) -> bool {
        self.counts_open
    }

    /// What open connections are counted by, for each rule that has a limit of its own
    /// (0: the rule set): while this stays the same, counts stay true.
    #[must_use]
    pub fn open_shape(&self) -> Vec<(u16, [bool; 3], SourcePrefix)> {
        let own = (0_u16..).zip(&self.rules).filter_map(|(id, limits)| Some((id, limits.as_ref()?)));
        let own = own.filter(|(id, _)| *id != RuleId::DEFAULT.0);
        let all = std::iter::once((RuleId::DEFAULT.0, &self.global)).chain(own);
        all.map(|(id, limits)| (id, limits.open_set(), limits.source_prefix))
            .filter(|(_, set, _)| set.contains(&true))
            .collect()
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
