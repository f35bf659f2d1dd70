//! The rule set: match, limits, timers. Compiled, validated, immutable.
//!
//! Only `config` (and tests) make a [`Policy`]; once made it can't be wrong:
//! every name is resolved, every duration and count is in range. What is tuned
//! live lies beside it ([`Live`]), so that it survives a reload. [`TimerTable`]
//! and [`LimitTable`] hold what both of them together come to.
//! Knows nothing of YAML, files, interfaces' numbers, or the table's entries.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

pub mod duration;
pub mod limits;
pub mod live;
pub mod network;
pub mod rule;
pub mod settings;
pub mod timers;

pub use limits::{EmbryonicLimits, Limit, LimitTable, OnExcess, ResolvedLimit, ResolvedLimits};
pub use live::{Live, LiveError, LiveLimit, LiveTimer, Origin};
pub use network::NetworkSet;
pub use rule::{
    Action, Hook, Hooks, NewFlow, Ports, Rule, RuleId, Selector, Service, ServiceKind, Term, ZoneBits, ZoneId,
};
pub use settings::{Adaptive, Fail, Marks, OnExpire, Pickup, PickupMode, Queues, Settings, Zone};
pub use timers::TimerTable;

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
    /// Where in `rules` the rule with this id stands.
    index: Vec<Option<u16>>,
}

impl Policy {
    /// A rule set of these parts. `names` has the name of every rule at the
    /// place of its id; its first is `default`.
    #[must_use]
    pub fn new(settings: Settings, zones: Vec<Zone>, rules: Vec<Rule>, names: Vec<Arc<str>>) -> Self {
        let mut index = vec![None; names.len()];
        for (at, rule) in rules.iter().enumerate() {
            debug_assert!(
                names.get(usize::from(rule.id.0)).is_some_and(|name| *name == rule.name),
                "a rule's id is the place of its name"
            );
            if let Some(slot) = index.get_mut(usize::from(rule.id.0)) {
                *slot = u16::try_from(at).ok();
            }
        }
        Self { settings, zones, rules, names, index }
    }

    /// The first rule that matches, `None` if the default action decides.
    #[must_use]
    pub fn first_match(&self, flow: &NewFlow) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.matches(flow))
    }

    /// The enabled rule with this id; `None` for the default and for rules that
    /// a reload took away.
    #[must_use]
    pub fn rule(&self, id: RuleId) -> Option<&Rule> {
        let at = self.index.get(usize::from(id.0)).copied().flatten()?;
        self.rules.get(usize::from(at))
    }

    /// The enabled rule with this name.
    #[must_use]
    pub fn rule_named(&self, name: &str) -> Option<&Rule> {
        self.rules.iter().find(|rule| &*rule.name == name)
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
        (0_u8..).zip(&self.zones).take(ZoneId::MAX).fold(ZoneBits::default(), |bits, (id, zone)| {
            if zone.contains(interface, address) { bits.with(ZoneId(id)) } else { bits }
        })
    }
}
