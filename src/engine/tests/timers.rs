//! When connections end by themselves, and what is sent then.

use super::*;
use crate::policy::{LiveTimer, OnExpire, Origin};

fn expired(timer: Timer, seconds: u64, origin: Origin) -> CloseReason {
    CloseReason::Expired { timer, after: Duration::from_secs(seconds), origin }
}

/// Each phase, its timer, its default, and who is told by RST.
#[test]
fn every_phase_ends_by_its_timer_and_tells_whom_it_should() {
    let both = vec![(From::Client, 1, None), (From::Server, 1, None)];
    let cases = [
        (Phase::SynSent, Timer::SynSent, 30, vec![]),
        (Phase::SynReceived, Timer::SynReceived, 30, vec![(From::Server, 1, None)]),
        (Phase::Established, Timer::Established, 7440, both),
        (Phase::FinWait, Timer::FinWait, 120, vec![]),
        (Phase::HalfClosed, Timer::HalfClosed, 600, vec![(From::Client, 1, None), (From::Server, 2, None)]),
        (Phase::Closing, Timer::Closing, 60, vec![]),
    ];
    for (phase, timer, seconds, told) in cases {
        let mut lab = Lab::in_phase(phase);
        let view = lab.view().unwrap();
        assert_eq!((view.timer, view.expires_in), (timer, Duration::from_secs(seconds)), "{phase}");
        lab.seconds(seconds - 1);
        assert_eq!(lab.phase(), Some(phase), "{phase} ended early");
        lab.advance(Duration::from_millis(1200));
        assert_eq!(lab.phase(), None, "{phase} did not end");
        assert_eq!(lab.resets(), told, "{phase}");
        assert_eq!(lab.closed(), [expired(timer, seconds, Origin::Default)], "{phase}");
    }
}

#[test]
fn a_packet_never_meets_a_connection_that_should_be_gone() {
    let mut lab = Lab::in_phase(Phase::SynReceived);
    lab.now = lab.now.after(Duration::from_secs(30));
    // The wheel has not turned; the packet itself finds that the time is over.
    assert_eq!(lab.send(client(".", 1).ack(1)), Verdict::Reset(DropReason::OutOfState));
    assert_eq!(lab.closed(), [expired(Timer::SynReceived, 30, Origin::Default)]);
}

#[test]
fn established_is_refreshed_by_any_packet_in_window_only() {
    let mut lab = Lab::in_phase(Phase::Established);
    lab.seconds(7000);
    lab.dropped(client("P.", 140_000).ack(1).len(5), DropReason::SeqBeyond);
    lab.pass(&[client("P.", 90_000).ack(1).len(5)]);
    assert_eq!(lab.view().unwrap().expires_in, Duration::from_secs(440));
    lab.pass(&[client(".", 1).ack(1)]);
    assert_eq!(lab.view().unwrap().expires_in, Duration::from_secs(7440));
}

#[test]
fn unacknowledged_data_has_its_own_timer() {
    let mut lab = Lab::in_phase(Phase::Established);
    lab.pass(&[client("P.", 1).ack(1).len(100)]);
    let view = lab.view().unwrap();
    assert_eq!((view.timer, view.expires_in), (Timer::Unacknowledged, Duration::from_secs(300)));
    lab.seconds(200);
    lab.pass(&[server(".", 1).ack(101)]);
    assert_eq!(lab.view().unwrap().timer, Timer::Established);
    lab.pass(&[server("P.", 1).ack(101).len(10)]);
    lab.seconds(301);
    assert_eq!(lab.closed(), [expired(Timer::Unacknowledged, 300, Origin::Default)]);
    // What is under way: both numbers that the client may expect.
    let mut resets = lab.resets();
    resets.sort_by_key(|(_, seq, _)| *seq);
    assert_eq!(resets, [(From::Client, 1, None), (From::Client, 11, None), (From::Server, 101, None)]);
}

#[test]
fn half_closed_lives_by_the_side_that_still_sends() {
    let mut lab = Lab::in_phase(Phase::HalfClosed);
    lab.seconds(500);
    // An ACK of the closed side alone is not a sign of life.
    lab.pass(&[client(".", 2).ack(1)]);
    assert_eq!(lab.view().unwrap().expires_in, Duration::from_secs(100));
    lab.pass(&[server("P.", 1).ack(2).len(10)]);
    assert_eq!(lab.view().unwrap().expires_in, Duration::from_secs(600));
    lab.pass(&[client(".", 2).ack(11)]);
    lab.seconds(500);
    // A keepalive buys nothing by itself, its answer does.
    lab.pass(&[server(".", 10).ack(2)]);
    assert_eq!(lab.view().unwrap().expires_in, Duration::from_secs(100));
    lab.pass(&[client(".", 2).ack(11)]);
    assert_eq!(lab.view().unwrap().expires_in, Duration::from_secs(600));
}

/// Both FINs were seen, but data before one of them was lost and is sent again.
#[test]
fn closing_lives_while_what_was_lost_is_repaired() {
    let mut lab = Lab::in_phase(Phase::HalfClosed);
    // Of 5000 octets and a FIN the client gets the first 1000.
    for at in 0..5 {
        lab.pass(&[server("P.", 1 + at * 1000).ack(2).len(1000)]);
    }
    lab.pass(&[server("F.", 5001).ack(2), client(".", 2).ack(1001)]);
    assert_eq!(lab.view().unwrap().timer, Timer::Closing);
    for at in 1..5 {
        lab.seconds(40);
        lab.pass(&[server(".", 1 + at * 1000).ack(2).len(1000)]);
        assert_eq!(lab.view().unwrap().expires_in, Duration::from_secs(60));
        lab.pass(&[client(".", 2).ack(1001 + at * 1000)]);
    }
    lab.seconds(40);
    // What the client has, and the FIN alone, buy no time.
    lab.pass(&[server(".", 4001).ack(2).len(1000), server("F.", 5001).ack(2), client(".", 2).ack(5001)]);
    assert_eq!(lab.view().unwrap().expires_in, Duration::from_secs(20));
    lab.seconds(21);
    assert_eq!(lab.closed(), [expired(Timer::Closing, 60, Origin::Default)]);
}

#[test]
fn half_closed_max_counts_from_the_first_fin() {
    let mut settings = open_settings();
    settings.timers.push((Timer::HalfClosedMax, Some(Duration::from_secs(1000))));
    let mut lab = Lab::with(settings, Vec::new());
    lab.bring_to(Phase::HalfClosed);
    let mut sent = 0;
    for _ in 0..9 {
        lab.seconds(110);
        lab.pass(&[server("P.", 1 + sent).ack(2).len(10), client(".", 2).ack(11 + sent)]);
        sent += 10;
    }
    let view = lab.view().unwrap();
    assert_eq!((view.timer, view.expires_in), (Timer::HalfClosedMax, Duration::from_secs(10)));
    lab.seconds(11);
    assert_eq!(lab.closed(), [expired(Timer::HalfClosedMax, 1000, Origin::File)]);
    assert_eq!(lab.resets().len(), 2);
}

#[test]
fn a_retransmitted_fin_refreshes_time_wait_but_not_fin_wait() {
    let mut lab = Lab::in_phase(Phase::TimeWait);
    lab.seconds(50);
    lab.pass(&[server("F.", 1).ack(2)]);
    assert_eq!(lab.view().unwrap().expires_in, Duration::from_secs(60));
    let mut lab = Lab::in_phase(Phase::FinWait);
    lab.seconds(50);
    lab.pass(&[client("F.", 1).ack(1)]);
    assert_eq!(lab.view().unwrap().expires_in, Duration::from_secs(70));
}

#[test]
fn on_expire_drop_is_silent() {
    let mut own = rule("quiet", 1);
    own.on_expire = Some(OnExpire::Drop);
    let mut lab = Lab::with(open_settings(), vec![own]);
    lab.bring_to(Phase::HalfClosed);
    lab.seconds(601);
    assert_eq!(lab.phase(), None);
    assert!(lab.resets().is_empty());
}

fn live(timer: Timer, seconds: u64, rule: Option<&str>, from_epoch: u8) -> LiveTimer {
    LiveTimer {
        timer,
        rule: rule.map(Into::into),
        value: Some(Duration::from_secs(seconds)),
        until: None,
        from_epoch,
    }
}

#[test]
fn a_live_change_acts_at_once_on_connections_that_exist() {
    let mut lab = Lab::in_phase(Phase::HalfClosed);
    lab.seconds(100);
    let mut change = lab.engine.live();
    change.set_timer(live(Timer::HalfClosed, 120, None, 0)).unwrap();
    assert_eq!(lab.engine.preview(&change, lab.now, &mut || {}), Change { affected: 1, ended: 0 });
    lab.engine.set_live(change.clone());
    assert_eq!(lab.view().unwrap().expires_in, Duration::from_secs(20));
    lab.seconds(21);
    assert_eq!(lab.closed(), [expired(Timer::HalfClosed, 120, Origin::Live)]);

    let mut lab = Lab::in_phase(Phase::HalfClosed);
    lab.seconds(200);
    assert_eq!(lab.engine.preview(&change, lab.now, &mut || {}), Change { affected: 1, ended: 1 });
    lab.engine.set_live(change);
    lab.advance(Duration::ZERO);
    assert_eq!(lab.phase(), None, "it was over already under the new value");
}

#[test]
fn existing_keep_leaves_old_connections_their_timers() {
    let mut lab = Lab::in_phase(Phase::HalfClosed);
    let mut change = lab.engine.live();
    let epoch = change.next_epoch().unwrap();
    change.set_timer(live(Timer::HalfClosed, 5, None, epoch)).unwrap();
    lab.engine.set_live(change);
    assert_eq!(lab.view().unwrap().expires_in, Duration::from_secs(600));
    lab.client.1 += 1;
    lab.bring_to(Phase::HalfClosed);
    assert_eq!(lab.view().unwrap().expires_in, Duration::from_secs(5));
}

#[test]
fn a_rules_own_timer_wins_over_a_live_one_for_all() {
    let mut own = rule("web", 1);
    own.timers.push((Timer::HalfClosed, Some(Duration::from_secs(30))));
    let mut lab = Lab::with(open_settings(), vec![own]);
    lab.bring_to(Phase::HalfClosed);
    let mut change = lab.engine.live();
    change.set_timer(live(Timer::HalfClosed, 5, None, 0)).unwrap();
    lab.engine.set_live(change.clone());
    assert_eq!(lab.view().unwrap().expires_in, Duration::from_secs(30));
    change.set_timer(live(Timer::HalfClosed, 7, Some("web"), 0)).unwrap();
    lab.engine.set_live(change);
    assert_eq!(lab.view().unwrap().expires_in, Duration::from_secs(7));
    assert_eq!(lab.engine.timer_value(RuleId(1), Timer::HalfClosed).1, Origin::LiveRule);
}

#[test]
fn timers_shrink_under_pressure_but_not_established() {
    let mut settings = open_settings();
    settings.max_connections = 10;
    settings.adaptive = crate::policy::Adaptive { start: 50, end: 150 };
    let mut lab = Lab::with(settings, Vec::new());
    lab.bring_to(Phase::Established);
    lab.client.1 = 5000;
    lab.pass(&[client("S", 0)]);
    assert_eq!(lab.view().unwrap().expires_in, Duration::from_secs(30));
    for port in 5001..=5008 {
        lab.client.1 = port;
        lab.pass(&[client("S", 0)]);
    }
    // 10 of 10: half way between 5 and 15.
    assert_eq!(lab.view().unwrap().expires_in, Duration::from_secs(15));
    lab.client.1 = 4000;
    assert_eq!(lab.view().unwrap().expires_in, Duration::from_secs(7440));
    lab.seconds(16);
    assert_eq!(lab.engine.counters().connections, 1, "the wheel follows the pressure");
}

#[test]
fn poll_timeout_says_when_to_come_back() {
    let mut lab = Lab::new();
    assert_eq!(lab.worker.poll_timeout(), None);
    lab.pass(&[client("S", 0)]);
    let mut rounds = 0;
    while let Some(at) = lab.worker.poll_timeout() {
        assert!(at <= lab.now.after(Duration::from_secs(31)), "too late");
        lab.now = lab.now.max(at);
        while lab.worker.handle_timeout(lab.now) {}
        rounds += 1;
        assert!(rounds < 100, "poll_timeout does not get anywhere");
    }
    assert_eq!(lab.phase(), None);
}
