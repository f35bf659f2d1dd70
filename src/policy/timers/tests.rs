//! Who wins, for every pair of places that a value can come from.

use std::sync::Arc;

use super::*;
use crate::policy::{
    Action, EmbryonicLimits, Limit, LimitTable, LiveLimit, OnExcess, ResolvedLimit, Rule, Selector, Settings,
};

const fn secs(secs: u64) -> Option<Duration> {
    Some(Duration::from_secs(secs))
}

fn policy(file: &[(Timer, Option<Duration>)], own: &[(Timer, Option<Duration>)]) -> Policy {
    let rule = Rule {
        id: RuleId(2),
        name: "web".into(),
        place: "t:1".into(),
        comment: "".into(),
        from: Selector::default(),
        to: Selector::default(),
        services: Vec::new(),
        action: Action::Accept,
        log: false,
        timers: own.to_vec(),
        limits: EmbryonicLimits { per_source: Some(7), ..EmbryonicLimits::default() },
        on_expire: None,
        pickup: None,
        fast_open: Default::default(),
        inspect: Default::default(),
        evictable: false,
        open_limits: Default::default(),
    };
    let plain = Rule {
        id: RuleId(3),
        name: "plain".into(),
        timers: Vec::new(),
        limits: EmbryonicLimits::default(),
        ..rule.clone()
    };
    let names = vec!["default".into(), "gone".into(), "web".into(), "plain".into()];
    let settings = Settings { timers: file.to_vec(), ..Settings::default() };
    Policy::new(settings, Vec::new(), vec![rule, plain], names)
}

fn change(timer: Timer, rule: Option<&str>, value: u64, from_epoch: u8) -> LiveTimer {
    LiveTimer { timer, rule: rule.map(Arc::from), value: secs(value), until: None, from_epoch }
}

const WEB: RuleId = RuleId(2);
const PLAIN: RuleId = RuleId(3);
const GONE: RuleId = RuleId(1);

#[test]
fn each_place_wins_over_the_weaker_ones() {
    // A bit per place: file, live, rule, live for the rule.
    for places in 0_u8..16 {
        let has = |bit: u8| places >> bit & 1 == 1;
        let file = if has(0) { vec![(Timer::TimeWait, secs(2))] } else { Vec::new() };
        let own = if has(2) { vec![(Timer::TimeWait, secs(4))] } else { Vec::new() };
        let policy = policy(&file, &own);
        let mut live = Live::default();
        // The order in which they were set says nothing.
        if has(3) {
            live.set_timer(change(Timer::TimeWait, Some("web"), 5, 0)).unwrap();
        }
        if has(1) {
            live.set_timer(change(Timer::TimeWait, None, 3, 0)).unwrap();
        }
        let table = TimerTable::resolve(&policy, &live);
        let rule_set = if has(1) {
            (secs(3), Origin::Live)
        } else if has(0) {
            (secs(2), Origin::File)
        } else {
            (secs(60), Origin::Default)
        };
        let web = if has(3) {
            (secs(5), Origin::LiveRule)
        } else if has(2) {
            (secs(4), Origin::Rule)
        } else {
            rule_set
        };
        assert_eq!(table.value(WEB, Timer::TimeWait, 0), web, "places {places:04b}");
        for other in [RuleId::DEFAULT, GONE, PLAIN, RuleId(999)] {
            assert_eq!(table.value(other, Timer::TimeWait, 0), rule_set, "places {places:04b}, {other:?}");
        }
        assert_eq!(table.of_rule_set(Timer::TimeWait, 9), rule_set);
        assert_eq!(table.value(WEB, Timer::FinWait, 0), (secs(120), Origin::Default));
    }
}

#[test]
fn an_epoch_keeps_what_held_before_it() {
    let policy = policy(&[], &[(Timer::HalfClosed, secs(30))]);
    let mut live = Live::default();
    live.set_timer(change(Timer::Established, None, 100, 0)).unwrap();
    let epoch = live.next_epoch().unwrap();
    live.set_timer(change(Timer::Established, None, 200, epoch)).unwrap();
    live.set_timer(change(Timer::HalfClosed, Some("web"), 5, epoch)).unwrap();
    let table = TimerTable::resolve(&policy, &live);
    for (epoch, established, half_closed) in [(0, 100, 30), (1, 200, 5), (2, 200, 5), (255, 200, 5)] {
        assert_eq!(table.value(WEB, Timer::Established, epoch).0, secs(established), "epoch {epoch}");
        assert_eq!(table.value(PLAIN, Timer::Established, epoch).0, secs(established), "epoch {epoch}");
        assert_eq!(table.value(WEB, Timer::HalfClosed, epoch).0, secs(half_closed), "epoch {epoch}");
    }
    // A later change for all connections ends the epochs' differences.
    live.set_timer(change(Timer::Established, None, 300, 0)).unwrap();
    let table = TimerTable::resolve(&policy, &live);
    assert_eq!(table.value(WEB, Timer::Established, 0).0, secs(300));
    assert_eq!(table.value(WEB, Timer::Established, 1).0, secs(300));
    assert_eq!(table.value(WEB, Timer::HalfClosed, 1).0, secs(5));
}

#[test]
fn what_no_rule_matched_can_be_tuned_by_its_name() {
    let policy = policy(&[], &[]);
    let mut live = Live::default();
    live.set_timer(change(Timer::Established, Some("default"), 9, 0)).unwrap();
    let table = TimerTable::resolve(&policy, &live);
    assert_eq!(table.value(RuleId::DEFAULT, Timer::Established, 0), (secs(9), Origin::LiveRule));
    assert_eq!(table.value(PLAIN, Timer::Established, 0).1, Origin::Default);
    assert_eq!(table.of_rule_set(Timer::Established, 0).1, Origin::Default);
}

#[test]
fn limits_come_from_the_strongest_place() {
    let mut policy = policy(&[], &[]);
    policy.settings.limits =
        EmbryonicLimits { total: Some(20), on_excess: Some(OnExcess::Evict), ..EmbryonicLimits::default() };
    let mut live = Live::default();
    let table = LimitTable::resolve(&policy, &live);
    assert_eq!(table.global().total, ResolvedLimit { value: Some(20), origin: Origin::File });
    assert_eq!(table.global().per_source, ResolvedLimit { value: None, origin: Origin::Default });
    let web = table.of_rule(WEB).unwrap();
    assert_eq!(web.per_source, ResolvedLimit { value: Some(7), origin: Origin::Rule });
    assert_eq!(web.total.value, None, "the global total is counted by itself");
    assert_eq!(web.on_excess, OnExcess::Evict, "inherited");
    for none in [PLAIN, GONE, RuleId::DEFAULT, RuleId(99)] {
        assert_eq!(table.of_rule(none), None);
    }

    let set =
        |limit, rule: Option<&str>, value| LiveLimit { limit, rule: rule.map(Arc::from), value, until: None };
    live.set_limit(set(Limit::Total, None, Some(5))).unwrap();
    live.set_limit(set(Limit::PerSource, Some("web"), None)).unwrap();
    live.set_limit(set(Limit::Total, Some("plain"), Some(3))).unwrap();
    let table = LimitTable::resolve(&policy, &live);
    assert_eq!(table.global().total, ResolvedLimit { value: Some(5), origin: Origin::Live });
    assert_eq!(
        table.of_rule(WEB).unwrap().per_source,
        ResolvedLimit { value: None, origin: Origin::LiveRule }
    );
    assert_eq!(
        table.of_rule(PLAIN).unwrap().total,
        ResolvedLimit { value: Some(3), origin: Origin::LiveRule }
    );
}
