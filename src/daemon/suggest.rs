//! `limits suggest`: limits that hold what was seen, and the evidence.

use super::{
    observer::wall_time,
    outlet::{Outlet, Refusal},
    protocol::{Line, SuggestedRow},
    state::Daemon,
};
use crate::{
    conntrack::Instant,
    engine::{
        Passed,
        observe::{Observed, Suggestion, demand},
    },
    policy::{Limit, LimitTable, ResolvedLimits, RuleId},
};

/// Seconds that must have been looked at for a suggestion to mean something: an hour.
const ENOUGH: u32 = 3600;

impl Daemon {
    /// `limits suggest`.
    ///
    /// # Errors
    /// If there is no such window, or the client left.
    pub fn limit_suggest(&self, hours: Option<u8>, out: &mut dyn Outlet) -> Result<(), Refusal> {
        let hours = hours.map_or(demand::HOURS, usize::from);
        if hours == 0 || hours > demand::HOURS {
            return Err(Refusal::Said(format!("--hours can be 1 to {}", demand::HOURS)));
        }
        let engine = &self.shared.engine;
        let (policy, counters, now) = (engine.policy(), engine.counters(), self.now());
        let limits = LimitTable::resolve(&policy, &engine.live());
        // The hour that runs is one of them.
        let back = hours.saturating_sub(1);
        let observer = self.shared.observer.lock();
        let demand = &observer.demand;
        let groups = std::iter::once(0).chain(demand.groups().filter(|group| *group != 0));
        let mut seen = Vec::new();
        for group in groups {
            let rule = (group != 0).then_some(RuleId(group));
            // One that a reload took away needs no limit.
            if rule.is_none_or(|rule| policy.rule(rule).is_some()) {
                seen.push((rule, Limit::EMBRYONIC.map(|limit| demand.observed(group, limit, back, now))));
            }
        }
        let not_looked_at = demand.not_looked_at();
        drop(observer);
        for (rule, observed) in seen {
            let own = rule.map_or(Some(limits.global()), |rule| limits.of_rule(rule));
            for (limit, observed) in Limit::EMBRYONIC.into_iter().zip(observed) {
                let passed = passed(&counters.limits_passed, rule, limit);
                let mut row = suggested(limit, &observed, own.as_ref(), passed, now);
                row.rule = rule.map(|rule| policy.name(rule).to_owned());
                out.send(Line::Suggested(row))?;
            }
        }
        if not_looked_at > 0 {
            out.send(Line::Note(format!(
                "more than {} rules had half-open connections: those of later ones were not looked at",
                demand::GROUPS
            )))?;
        }
        Ok(())
    }
}

fn passed(all: &[Passed], rule: Option<RuleId>, limit: Limit) -> u64 {
    let known = all.iter().find(|passed| passed.of_rule == rule && passed.limit == limit);
    known.map_or(0, |known| known.passes.acted.saturating_add(known.passes.shadow))
}

fn suggested(
    limit: Limit,
    observed: &Observed,
    own: Option<&ResolvedLimits>,
    passed: u64,
    now: Instant,
) -> SuggestedRow {
    let suggestion = Suggestion::of(observed, limit);
    let value = own.and_then(|own| own.limit(limit).value);
    let mut notes = Vec::new();
    if suggestion.peak_left_out {
        notes.push(format!(
            "the peak of {} is far beyond what is usual and was left out, as an attack's; if it was none, set more \
             than that",
            observed.peak
        ));
    }
    let holds = own.is_some_and(|own| !own.shadow);
    if let Some(value) = value.filter(|value| holds && observed.peak >= *value) {
        notes.push(format!(
            "the limit in force, {value}, was reached: how many there would have been is not known (shadow: true \
             would tell)"
        ));
    }
    if observed.samples < ENOUGH {
        notes.push("looked for less than an hour: wait for a busy one".to_owned());
    }
    SuggestedRow {
        limit: limit.name().to_owned(),
        rule: None,
        suggested: suggestion.value,
        p99: observed.p99,
        peak: observed.peak,
        peak_at: (observed.peak > 0).then(|| wall_time(observed.peak_at, now)),
        samples: observed.samples,
        busy: observed.busy,
        value,
        on_excess: own.map_or("drop", |own| own.on_excess.name()).to_owned(),
        passed,
        notes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{EmbryonicLimits, Live, Policy, Settings};

    fn row(observed: &Observed, limits: EmbryonicLimits) -> SuggestedRow {
        let settings = Settings { limits, ..Settings::default() };
        let policy = Policy::new(settings, Vec::new(), Vec::new(), vec!["default".into()]);
        let limits = LimitTable::resolve(&policy, &Live::default()).global();
        suggested(Limit::PerSource, observed, Some(&limits), 3, Instant(9000))
    }

    #[test]
    fn what_a_suggestion_rests_on_is_said() {
        let seen = Observed { samples: 7200, busy: 7000, p99: 40, peak: 50, peak_at: Instant(4000) };
        let plain = row(&seen, EmbryonicLimits::default());
        assert_eq!((plain.suggested, plain.p99, plain.peak, plain.value), (80, 40, 50, None));
        assert!(plain.notes.is_empty() && plain.peak_at.is_some(), "{plain:?}");
        let at_limit = EmbryonicLimits { per_source: Some(50), ..EmbryonicLimits::default() };
        assert!(row(&seen, at_limit).notes[0].contains("limit in force, 50, was reached"));
        let shadow = EmbryonicLimits { shadow: true, ..at_limit };
        assert!(row(&seen, shadow).notes.is_empty(), "what shadow saw is the truth");
        let attack = Observed { peak: 60_000, ..seen };
        assert!(row(&attack, EmbryonicLimits::default()).notes[0].contains("as an attack's"));
        let short = Observed { samples: 60, ..seen };
        assert!(row(&short, EmbryonicLimits::default()).notes[0].contains("less than an hour"));
    }
}
