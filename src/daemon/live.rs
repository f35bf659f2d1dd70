//! `timers` and `limits`: what is in force, and changes while it runs.

use std::{sync::Arc, time::Duration};

use super::{
    filter::rule_id,
    outlet::{Outlet, Refusal},
    protocol::{Changed, LimitRow, Line, LiveExisting, Prefix, Scope, TimerRow},
    state::{Daemon, State},
    text,
};
use crate::{
    conntrack::{Instant, Timer},
    engine::{Change, Passed},
    policy::{
        Limit, LimitTable, Live, LiveLimit, LiveTimer, OnExcess, Origin, Policy, ResolvedLimits, RuleId,
        limits::NO_COOKIES_PER_SOURCE,
    },
};

/// The timer with this name.
///
/// # Errors
/// A sentence with all names.
pub fn timer_named(name: &str) -> Result<Timer, String> {
    Timer::from_name(name).ok_or_else(|| {
        let names: Vec<&str> = Timer::ALL.iter().map(|timer| timer.name()).collect();
        format!("there is no timer \"{name}\"; the timers are {}", names.join(", "))
    })
}

/// The limit with this name.
///
/// # Errors
/// A sentence with all names.
pub fn limit_named(name: &str) -> Result<Limit, String> {
    Limit::from_name(name).ok_or_else(|| {
        let names: Vec<&str> = Limit::ALL.iter().map(|limit| limit.name()).collect();
        format!("there is no limit \"{name}\"; the limits are {}", names.join(", "))
    })
}

/// A timer's value as people write it; `None` is off.
///
/// # Errors
/// A sentence that says what to write.
pub fn timer_value(timer: Timer, text: &str) -> Result<Option<Duration>, String> {
    let value = if text == "off" { None } else { Some(text::parse_duration(text)?) };
    crate::policy::live::check_timer(timer, value).map_err(|error| error.to_string())?;
    Ok(value)
}

/// A limit's value as people write it; `None` is no limit.
///
/// # Errors
/// A sentence that says what to write.
pub fn limit_value(limit: Limit, text: &str) -> Result<Option<u32>, String> {
    let wrong = |_| format!("\"{text}\" is not a limit: write a whole number like 200, or off");
    let value = if text == "off" { None } else { Some(text.parse().map_err(wrong)?) };
    crate::policy::live::check_limit(limit, value).map_err(|error| error.to_string())?;
    Ok(value)
}

/// How far a change reaches, once its words were checked.
struct Reach {
    rule: Option<Arc<str>>,
    until: Option<Instant>,
}

impl Daemon {
    fn reach(&self, policy: &Policy, scope: &Scope) -> Result<Reach, String> {
        if let Some(rule) = &scope.rule {
            rule_id(policy, rule)?;
        }
        if scope.save && scope.for_.is_some() {
            return Err("--save and --for exclude each other: a change for a while is not saved".to_owned());
        }
        if scope.for_.is_some_and(|time| time < Duration::from_secs(1)) {
            return Err("--for needs at least a second".to_owned());
        }
        Ok(Reach {
            rule: scope.rule.as_deref().map(Arc::from),
            until: scope.for_.map(|time| self.now().after(time)),
        })
    }

    /// `timers`.
    ///
    /// # Errors
    /// If there is no such rule, or the client left.
    pub fn timers(&self, rule: Option<&str>, out: &mut dyn Outlet) -> Result<(), Refusal> {
        self.look_at_riders();
        let engine = &self.shared.engine;
        let (policy, live, counts, now) =
            (engine.policy(), engine.live(), engine.timers(self.now(), &mut self.breaks()), self.now());
        let only = rule.map(|name| rule_id(&policy, name)).transpose()?;
        let row = |timer: Timer, rule: Option<RuleId>, connections: u64| {
            let (value, origin) = engine.timer_value(rule.unwrap_or(RuleId::DEFAULT), timer);
            let name = rule.map(|rule| policy.name(rule));
            let change = match origin {
                Origin::Live => live.timer(timer, None),
                Origin::LiveRule => live.timer(timer, name),
                Origin::Default | Origin::File | Origin::Rule => None,
            };
            TimerRow {
                timer: timer.name().to_owned(),
                rule: name.map(str::to_owned),
                value,
                origin: origin.name().to_owned(),
                connections,
                ends_in: change.and_then(|change| change.until).map(|until| until.since(now)),
            }
        };
        for timer in Timer::ALL {
            let under = |rule: RuleId| -> u64 {
                let rows = counts.iter().filter(|row| row.timer == timer && row.rule == rule);
                rows.map(|row| row.connections).sum()
            };
            if let Some(rule) = only {
                out.send(Line::Timer(row(timer, Some(rule), under(rule))))?;
                continue;
            }
            let is_own =
                |rule: &RuleId| matches!(engine.timer_value(*rule, timer).1, Origin::Rule | Origin::LiveRule);
            let own: Vec<RuleId> = all_rules(&policy).filter(is_own).collect();
            let all: u64 = counts.iter().filter(|row| row.timer == timer).map(|row| row.connections).sum();
            let theirs: u64 = own.iter().map(|rule| under(*rule)).sum();
            out.send(Line::Timer(row(timer, None, all.saturating_sub(theirs))))?;
            for rule in own {
                out.send(Line::Timer(row(timer, Some(rule), under(rule))))?;
            }
        }
        Ok(())
    }

    /// `timers set`.
    ///
    /// # Errors
    /// Why nothing was changed.
    pub fn timer_set(
        &self,
        name: &str,
        value: &str,
        scope: &Scope,
        out: &mut dyn Outlet,
    ) -> Result<(), Refusal> {
        let timer = timer_named(name)?;
        let new = timer_value(timer, value)?;
        let policy = self.shared.engine.policy();
        let reach = self.reach(&policy, scope)?;
        if scope.save && scope.existing == LiveExisting::Keep {
            return Err(
                "--save and --existing keep exclude each other: after a restart all connections are new"
                    .into(),
            );
        }
        let mut state = self.state();
        let mut live = self.shared.engine.live();
        let from_epoch = match scope.existing {
            LiveExisting::Apply => 0,
            LiveExisting::Keep => live.next_epoch().map_err(|error| error.to_string())?,
        };
        let change = LiveTimer { timer, rule: reach.rule, value: new, until: reach.until, from_epoch };
        live.set_timer(change).map_err(|error| error.to_string())?;
        self.look_at_riders();
        let effect = self.shared.engine.preview(&live, self.now(), &mut self.breaks());
        if scope.rule.is_none() {
            let own: Vec<&str> = all_rules(&policy)
                .filter(|rule| {
                    matches!(self.shared.engine.timer_value(*rule, timer).1, Origin::Rule | Origin::LiveRule)
                })
                .map(|rule| policy.name(rule))
                .collect();
            if !own.is_empty() {
                out.send(Line::Note(format!(
                    "{timer} of {} stays as it is: a rule's own timer wins; change it with --rule",
                    own.join(", ")
                )))?;
            }
        }
        if !scope.dry_run {
            if scope.save {
                state.saved.set_timer(timer, scope.rule.as_deref(), Some(value))?;
            }
            self.set_live(&mut state, live);
            self.tell(format!(
                "{} set live: {}",
                subject(timer.name(), scope.rule.as_deref()),
                told(value, scope)
            ));
        }
        say_saved(&state, scope, out)?;
        out.send(Line::Changed(changed(effect, scope)))
    }

    /// `timers unset`.
    ///
    /// # Errors
    /// Why nothing was changed.
    pub fn timer_unset(&self, name: &str, rule: Option<&str>, out: &mut dyn Outlet) -> Result<(), Refusal> {
        let timer = timer_named(name)?;
        let mut state = self.state();
        let mut live = self.shared.engine.live();
        let was_saved = state.saved.has_timer(timer, rule);
        if !live.unset_timer(timer, rule) && !was_saved {
            return Err(Refusal::Said(format!("{} was not set live", subject(timer.name(), rule))));
        }
        self.look_at_riders();
        let effect = self.shared.engine.preview(&live, self.now(), &mut self.breaks());
        state.saved.set_timer(timer, rule, None)?;
        self.taken_back(&mut state, live, &subject(timer.name(), rule), was_saved, effect, out)
    }

    /// `limits`.
    ///
    /// # Errors
    /// If the client left.
    pub fn limits(&self, out: &mut dyn Outlet) -> Result<(), Refusal> {
        let engine = &self.shared.engine;
        let (policy, live, counters) = (engine.policy(), engine.live(), engine.counters());
        let table = LimitTable::resolve(&policy, &live);
        for limit in Limit::ALL {
            let mut row = self.limit_row(&live, &table.global(), limit, None);
            row.embryonic = (limit == Limit::Total).then_some(counters.embryonic);
            count_passed(&mut row, &counters.limits_passed, limit, None);
            row.open = is_counted(limit, &row).then(|| engine.open_total(None).into());
            out.send(Line::Limit(row))?;
        }
        for rule in all_rules(&policy) {
            let Some(own) = table.of_rule(rule) else { continue };
            for limit in Limit::ALL {
                if own.limit(limit).origin == Origin::Default {
                    continue;
                }
                let mut row = self.limit_row(&live, &own, limit, Some(policy.name(rule)));
                let held = counters.embryonic_by_rule.iter().find(|(id, _)| *id == rule);
                row.embryonic = (limit == Limit::Total).then_some(held.map_or(0, |(_, count)| *count));
                count_passed(&mut row, &counters.limits_passed, limit, Some(rule));
                row.open = is_counted(limit, &row).then(|| engine.open_total(Some(rule)).into());
                out.send(Line::Limit(row))?;
            }
        }
        Ok(())
    }

    fn limit_row(&self, live: &Live, limits: &ResolvedLimits, limit: Limit, rule: Option<&str>) -> LimitRow {
        let mut row = limit_row(limits, limit, rule);
        if matches!(limits.limit(limit).origin, Origin::Live | Origin::LiveRule) {
            let until = live.limit(limit, rule).and_then(|change| change.until);
            row.ends_in = until.map(|until| until.since(self.now()));
        }
        row
    }

    /// `limits set`.
    ///
    /// # Errors
    /// Why nothing was changed.
    pub fn limit_set(
        &self,
        name: &str,
        value: &str,
        scope: &Scope,
        out: &mut dyn Outlet,
    ) -> Result<(), Refusal> {
        let limit = limit_named(name)?;
        let new = limit_value(limit, value)?;
        let policy = self.shared.engine.policy();
        let reach = self.reach(&policy, scope)?;
        let mut state = self.state();
        let mut live = self.shared.engine.live();
        let change = LiveLimit { limit, rule: reach.rule, value: new, until: reach.until };
        live.set_limit(change).map_err(|error| error.to_string())?;
        check_cookies(&policy, &live, limit, scope.rule.as_deref())?;
        let effect = self.shared.engine.preview(&live, self.now(), &mut self.breaks());
        out.send(Line::Note("a limit counts new connections: those that exist stay".to_owned()))?;
        if !scope.dry_run {
            if scope.save {
                state.saved.set_limit(limit, scope.rule.as_deref(), Some(value))?;
            }
            self.set_live(&mut state, live);
            self.tell(format!(
                "{} set live: {}",
                subject(limit.name(), scope.rule.as_deref()),
                told(value, scope)
            ));
        }
        say_saved(&state, scope, out)?;
        out.send(Line::Changed(changed(effect, scope)))
    }

    /// `limits unset`.
    ///
    /// # Errors
    /// Why nothing was changed.
    pub fn limit_unset(&self, name: &str, rule: Option<&str>, out: &mut dyn Outlet) -> Result<(), Refusal> {
        let limit = limit_named(name)?;
        let mut state = self.state();
        let mut live = self.shared.engine.live();
        let was_saved = state.saved.has_limit(limit, rule);
        if !live.unset_limit(limit, rule) && !was_saved {
            return Err(Refusal::Said(format!("{} was not set live", subject(limit.name(), rule))));
        }
        let effect = self.shared.engine.preview(&live, self.now(), &mut self.breaks());
        state.saved.set_limit(limit, rule, None)?;
        self.taken_back(&mut state, live, &subject(limit.name(), rule), was_saved, effect, out)
    }

    fn taken_back(
        &self,
        state: &mut State,
        live: Live,
        subject: &str,
        was_saved: bool,
        effect: Change,
        out: &mut dyn Outlet,
    ) -> Result<(), Refusal> {
        self.set_live(state, live);
        self.tell(format!("{subject} is no longer set live"));
        if was_saved {
            out.send(Line::Note(format!("taken out of {} too", state.saved.path().display())))?;
        }
        out.send(Line::Changed(changed(effect, &Scope::default())))
    }
}

/// One limit of a rule or of the rule set, without counts.
#[must_use]
pub fn limit_row(limits: &ResolvedLimits, limit: Limit, rule: Option<&str>) -> LimitRow {
    let resolved = limits.limit(limit);
    LimitRow {
        limit: limit.name().to_owned(),
        rule: rule.map(str::to_owned),
        value: resolved.value,
        origin: resolved.origin.name().to_owned(),
        on_excess: limits.answer(limit).name().to_owned(),
        shadow: limits.is_shadow(limit),
        open: None,
        block: limits.open.block.filter(|_| limit == Limit::OpenPerSource),
        source_prefix: limit
            .is_per_source()
            .then_some(Prefix { ipv4: limits.source_prefix.ipv4, ipv6: limits.source_prefix.ipv6 }),
        embryonic: None,
        passed: None,
        passed_in_shadow: None,
        ends_in: None,
    }
}

/// What the rule file refuses is refused live too.
///
/// # Errors
/// If a limit of half-open connections per source would be answered by SYN cookies.
fn check_cookies(policy: &Policy, live: &Live, limit: Limit, rule: Option<&str>) -> Result<(), String> {
    let table = LimitTable::resolve(policy, live);
    let limits = match rule {
        Some(name) => table.of_rule(rule_id(policy, name)?).unwrap_or_else(|| table.global()),
        None => table.global(),
    };
    if limit != Limit::PerSource
        || limits.limit(limit).value.is_none()
        || limits.on_excess != OnExcess::Syncookies
    {
        return Ok(());
    }
    let (whose, other) = match rule {
        Some(name) => (format!("rule {name}"), "the rule set's, without --rule,"),
        None => ("the rule set".to_owned(), "a rule's, by --rule,"),
    };
    Err(format!(
        "{NO_COOKIES_PER_SOURCE}, and that is what {whose} says (set {other} if its on_excess is drop, reset, \
         evict or challenge, or write `on_excess: challenge` in the rule file)"
    ))
}

/// How often a limit was passed, by whose it is.
fn count_passed(row: &mut LimitRow, all: &[Passed], limit: Limit, of_rule: Option<RuleId>) {
    let known = all.iter().find(|passed| passed.limit == limit && passed.of_rule == of_rule);
    let passes = known.map(|passed| passed.passes).unwrap_or_default();
    (row.passed, row.passed_in_shadow) = (Some(passes.acted), Some(passes.shadow));
}

/// Whether all open connections are counted: only for a limit that compares with them.
fn is_counted(limit: Limit, row: &LimitRow) -> bool {
    limit == Limit::OpenTotal && row.value.is_some()
}

/// The default action and the enabled rules, in their order.
fn all_rules(policy: &Policy) -> impl Iterator<Item = RuleId> {
    std::iter::once(RuleId::DEFAULT).chain(policy.rules.iter().map(|rule| rule.id))
}

fn subject(name: &str, rule: Option<&str>) -> String {
    rule.map_or_else(|| name.to_owned(), |rule| format!("{name} of rule {rule}"))
}

fn told(value: &str, scope: &Scope) -> String {
    scope.for_.map_or_else(|| value.to_owned(), |time| format!("{value} for {}", text::duration(time)))
}

fn changed(effect: Change, scope: &Scope) -> Changed {
    Changed {
        affected: effect.affected,
        ended: effect.ended,
        dry_run: scope.dry_run,
        saved: scope.save && !scope.dry_run,
    }
}

fn say_saved(state: &State, scope: &Scope, out: &mut dyn Outlet) -> Result<(), Refusal> {
    if !scope.save {
        return Ok(());
    }
    let verb = if scope.dry_run { "would be saved" } else { "saved" };
    out.send(Line::Note(format!(
        "{verb} in {}, which is read at the next start",
        state.saved.path().display()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values_are_checked_with_a_cure() {
        assert!(timer_named("half_shut").unwrap_err().contains("half_closed"));
        assert!(limit_named("per_source").unwrap_err().contains("embryonic.per_source"));
        assert_eq!(timer_value(Timer::HalfClosedMax, "off"), Ok(None));
        assert!(timer_value(Timer::Icmp, "off").is_err());
        assert!(timer_value(Timer::Icmp, "10ms").is_err());
        assert!(timer_value(Timer::Icmp, "30").is_err());
        assert_eq!(timer_value(Timer::Icmp, "1m30s"), Ok(Some(Duration::from_secs(90))));
        assert_eq!(limit_value(Limit::Total, "off"), Ok(None));
        assert_eq!(limit_value(Limit::Total, "200"), Ok(Some(200)));
        for text in ["0", "-1", "2.5", "", "many", "99999999999"] {
            assert!(limit_value(Limit::Total, text).is_err(), "{text}");
        }
    }
}
