//! How many embryonic connections may exist at once.

use std::fmt;

/// What happens past a limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum OnExcess {
    /// The new SYN is dropped.
    Drop,
    /// The new SYN is answered with RST.
    Reset,
    /// The stalest half-open connection of that scope goes.
    Evict,
}

/// The scope of a limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
pub enum Limit {
    /// All embryonic connections (inside a rule: all of the rule's).
    Total,
    /// Those of one source (an IPv4 address, an IPv6 /64).
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
}
