//! How often each limit was passed, by whose limit it is.
//!
//! Asked for under a flood as often as packets come: one short lock, no search.

use parking_lot::Mutex;

use crate::policy::{Limit, RuleId};

/// How often a limit was passed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Passes {
    /// With what `on_excess` says.
    pub acted: u64,
    /// In shadow: nothing was done.
    pub shadow: u64,
}

/// A limit that was passed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Passed {
    /// The rule whose limit it is; `None`: the rule set's.
    pub of_rule: Option<RuleId>,
    /// Which limit.
    pub limit: Limit,
    /// How often.
    pub passes: Passes,
}

/// All of them, by group: 0 is the rule set, else a rule's number.
#[derive(Debug, Default)]
pub(super) struct PassCounts(Mutex<Vec<[Passes; Limit::ALL.len()]>>);

impl PassCounts {
    pub(super) fn count(&self, group: u16, limit: Limit, shadow: bool) {
        let mut groups = self.0.lock();
        let group = usize::from(group);
        if groups.len() <= group {
            groups.resize(group.saturating_add(1), Default::default());
        }
        let Some(passes) = groups.get_mut(group).and_then(|limits| limits.get_mut(limit as usize)) else {
            return;
        };
        let counter = if shadow { &mut passes.shadow } else { &mut passes.acted };
        *counter = counter.saturating_add(1);
    }

    pub(super) fn all(&self) -> Vec<Passed> {
        let groups = self.0.lock();
        let each = (0_u16..).zip(groups.iter()).flat_map(|(group, limits)| {
            Limit::ALL.into_iter().zip(*limits).map(move |(limit, passes)| Passed {
                of_rule: (group != 0).then_some(RuleId(group)),
                limit,
                passes,
            })
        });
        each.filter(|passed| passed.passes != Passes::default()).collect()
    }
}
