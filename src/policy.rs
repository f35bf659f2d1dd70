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

mod classifier;
pub mod duration;
pub mod limits;
pub mod live;
pub mod network;
mod ranges;
pub mod rule;
pub mod settings;
pub mod timers;
mod zones;

pub use limits::{
    EmbryonicLimits, Limit, LimitTable, OnExcess, OpenLimits, OwnPrefix, ResolvedLimit, ResolvedLimits,
    ResolvedOpen,
};
pub use live::{Live, LiveError, LiveLimit, LiveTimer, Origin};
pub use network::NetworkSet;
pub use rule::{
    Action, FastOpen, Hook, Hooks, Inspect, NewFlow, Ports, Rule, RuleId, Selector, Service, ServiceKind,
    Term, ZoneBits, ZoneId,
};
pub use settings::{
    Adaptive, Fail, Marks, OnExpire, Pickup, PickupMode, Probe, Queues, ScanLimit, Settings, Zone,
};
pub use timers::TimerTable;

use std::{net::IpAddr, sync::Arc};

use classifier::Classifier;
use zones::ZoneMap;

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
    /// `rules` and `zones` once more, as packets ask for them.
    classifier: Arc<Classifier>,
    zone_map: Arc<ZoneMap>,
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
        let classifier = Arc::new(Classifier::new(&rules));
        let zone_map = Arc::new(ZoneMap::new(&zones));
        Self { settings, zones, rules, names, index, classifier, zone_map }
    }

    /// The first rule that matches, `None` if the default action decides.
    #[must_use]
    pub fn first_match(&self, flow: &NewFlow) -> Option<&Rule> {
        let found = self.classifier.first(flow).and_then(|at| self.rules.get(at));
        debug_assert_eq!(
            found.map(|rule| rule.id),
            self.rules.iter().find(|rule| rule.matches(flow)).map(|rule| rule.id),
            "the classifier and the rules agree about {flow:?}"
        );
        found
    }

    /// The places in `rules` of all that match, in order; the first of them decides.
    #[must_use]
    pub fn all_matches(&self, flow: &NewFlow) -> Vec<usize> {
        let mut all = Vec::new();
        self.classifier.visit(flow, |at| {
            all.push(at);
            false
        });
        all
    }

    /// Octets of memory that rules and zones take in the form that packets ask them
    /// in, beside the rules themselves.
    #[must_use]
    pub fn classifier_bytes(&self) -> usize {
        self.classifier.bytes().saturating_add(self.zone_map.bytes())
    }

    /// Whether that form would take more memory than it may, a gibibyte: then the
    /// rule set must not be used.
    #[must_use]
    pub fn is_too_large(&self) -> bool {
        self.classifier.is_too_large()
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

    /// Whether some limit may challenge, if it is set: also where SYN cookies can't be had.
    #[must_use]
    pub fn challenges(&self) -> bool {
        self.may_answer(OnExcess::Challenge) || self.syncookies()
    }

    /// Whether some limit may turn SYN cookies on, if it is set.
    #[must_use]
    pub fn syncookies(&self) -> bool {
        self.may_answer(OnExcess::Syncookies)
    }

    fn may_answer(&self, on_excess: OnExcess) -> bool {
        let own = self.rules.iter().map(|rule| &rule.limits);
        let mut all = std::iter::once(&self.settings.limits).chain(own);
        all.any(|limits| limits.on_excess == Some(on_excess))
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
    pub fn zones_of(&self, interface: Option<&str>, address: IpAddr) -> ZoneBits {
        self.zones_of_interface(interface).both(self.zones_of_address(address))
    }

    /// The zones that an interface may be in, by its name alone. Compares the name
    /// with every pattern: to be kept for each interface.
    #[must_use]
    pub fn zones_of_interface(&self, interface: Option<&str>) -> ZoneBits {
        let zones = (0_u8..).zip(&self.zones).take(ZoneId::MAX);
        zones.fold(ZoneBits::default(), |bits, (id, zone)| {
            if zone.has_interface(interface) { bits.with(ZoneId(id)) } else { bits }
        })
    }

    /// The zones that an address may be in, by itself.
    #[must_use]
    pub fn zones_of_address(&self, address: IpAddr) -> ZoneBits {
        self.zone_map.find(address)
    }
}
