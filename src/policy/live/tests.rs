//! Setting, unsetting, running out, and what is refused.

use super::*;

fn timer(timer: Timer, rule: Option<&str>, secs: u64, until: Option<u64>) -> LiveTimer {
    LiveTimer {
        timer,
        rule: rule.map(Arc::from),
        value: Some(Duration::from_secs(secs)),
        until: until.map(Instant),
        from_epoch: 0,
    }
}

#[test]
fn a_later_change_replaces_an_earlier_one_of_the_same_name_and_rule() {
    let mut live = Live::default();
    live.set_timer(timer(Timer::TimeWait, None, 5, None)).unwrap();
    live.set_timer(timer(Timer::TimeWait, Some("web"), 6, None)).unwrap();
    live.set_timer(timer(Timer::TimeWait, None, 7, None)).unwrap();
    assert_eq!(live.timers.len(), 2);
    assert_eq!(live.timer(Timer::TimeWait, None).unwrap().value, Some(Duration::from_secs(7)));
    assert!(live.unset_timer(Timer::TimeWait, None));
    assert!(!live.unset_timer(Timer::TimeWait, None));
    assert_eq!(live.timers.len(), 1);
}

#[test]
fn a_change_for_a_while_brings_the_lasting_one_back() {
    let mut live = Live::default();
    live.set_timer(timer(Timer::TimeWait, None, 5, None)).unwrap();
    live.set_timer(timer(Timer::TimeWait, None, 6, Some(1000))).unwrap();
    live.set_timer(timer(Timer::TimeWait, None, 7, Some(2000))).unwrap();
    live.set_limit(LiveLimit { limit: Limit::Total, rule: None, value: Some(9), until: Some(Instant(1500)) })
        .unwrap();
    assert_eq!(live.timer(Timer::TimeWait, None).unwrap().value, Some(Duration::from_secs(7)));
    assert_eq!(live.next_expiry(), Some(Instant(1500)));
    assert!(!live.expire(Instant(1499)));
    assert!(live.expire(Instant(1500)));
    assert!(live.limits.is_empty());
    assert!(live.expire(Instant(2000)));
    assert_eq!(live.timer(Timer::TimeWait, None).unwrap().value, Some(Duration::from_secs(5)));
    assert_eq!(live.next_expiry(), None);
    assert!(!live.expire(Instant(u64::MAX)));
}

#[test]
fn values_out_of_range_are_refused_with_the_cure() {
    let mut live = Live::default();
    let mut refused = |timer, value: Option<u64>| {
        let value = value.map(Duration::from_millis);
        live.set_timer(LiveTimer { timer, rule: None, value, until: None, from_epoch: 0 })
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        refused(Timer::TimeWait, Some(999)),
        "timer time_wait: 999ms is too short; the shortest is 1s"
    );
    assert_eq!(
        refused(Timer::Established, Some(8_640_000_001)),
        "timer established: 100d1ms is too long; the longest is 100d"
    );
    assert!(refused(Timer::HalfClosed, None).contains("only half_closed_max can be off"));
    assert!(live.timers.is_empty());
    let off = LiveTimer { value: None, ..timer(Timer::HalfClosedMax, None, 1, None) };
    assert_eq!(live.set_timer(off), Ok(()));
    let zero = LiveLimit { limit: Limit::PerSource, rule: None, value: Some(0), until: None };
    assert!(live.set_limit(zero).unwrap_err().to_string().starts_with("embryonic.per_source: a limit of 0"));
}

#[test]
fn epochs_run_out_with_a_word() {
    let mut live = Live { epoch: 254, ..Live::default() };
    assert_eq!(live.next_epoch(), Ok(255));
    assert_eq!(live.next_epoch(), Err(LiveError::NoMoreEpochs));
    assert_eq!(live.epoch, 255);
}
