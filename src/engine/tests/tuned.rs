//! The timers that a phase may have beside its own, and `half_closed`: from either side,
//! from the file, of a rule, and changed live.

use super::*;
use crate::policy::{LiveTimer, Origin};

const TUNED: [Timer; 4] =
    [Timer::Unacknowledged, Timer::HalfClosed, Timer::HalfClosedMax, Timer::UnverifiedRst];

impl Lab {
    /// A connection under this timer, brought there by one end.
    #[expect(clippy::wildcard_enum_match_arm, reason = "these are the ones that are tried")]
    fn under(&mut self, timer: Timer, by: From) {
        let other = if by == From::Client { From::Server } else { From::Client };
        self.handshake();
        match timer {
            Timer::Unacknowledged => self.pass(&[say(by, "P.", 1).ack(1).len(100)]),
            Timer::HalfClosed | Timer::HalfClosedMax => {
                self.pass(&[say(by, "F.", 1).ack(1), say(other, ".", 1).ack(2)]);
            }
            Timer::UnverifiedRst => self.pass(&[say(by, "R", 500)]),
            other => panic!("{other}"),
        }
    }

    /// It ends when this timer says, and both ends get their RST.
    #[track_caller]
    fn ends_by(&mut self, timer: Timer, seconds: u64, origin: Origin) {
        let view = self.view().unwrap();
        assert_eq!((view.timer, view.expires_in), (timer, Duration::from_secs(seconds)));
        self.seconds(seconds - 1);
        assert!(self.phase().is_some(), "{timer} ended it early");
        self.advance(Duration::from_millis(1200));
        assert_eq!(self.phase(), None, "{timer} did not end it");
        let told: std::collections::BTreeSet<_> =
            self.resets().into_iter().map(|(to, ..)| to == From::Client).collect();
        assert_eq!(told.len(), 2, "both ends are told");
        let after = Duration::from_secs(seconds);
        assert_eq!(self.closed(), [CloseReason::Expired { timer, after, origin }]);
    }
}

fn change(timer: Timer, seconds: u64, rule: Option<&str>) -> LiveTimer {
    let value = Some(Duration::from_secs(seconds));
    LiveTimer { timer, rule: rule.map(Into::into), value, until: None, from_epoch: 0 }
}

#[test]
fn by_either_end_and_from_the_file() {
    for timer in TUNED {
        for by in [From::Client, From::Server] {
            let mut settings = open_settings();
            settings.timers.push((timer, Some(Duration::from_secs(20))));
            let mut lab = Lab::with(settings, Vec::new());
            lab.under(timer, by);
            lab.ends_by(timer, 20, Origin::File);
        }
    }
}

#[test]
fn of_a_rule_and_changed_live() {
    for timer in TUNED {
        let mut own = rule("web", 1);
        own.timers.push((timer, Some(Duration::from_secs(25))));
        let mut lab = Lab::with(open_settings(), vec![own]);
        lab.under(timer, From::Client);
        let mut live = lab.engine.live();
        live.set_timer(change(timer, 15, None)).unwrap();
        lab.engine.set_live(live.clone());
        assert_eq!(lab.view().unwrap().expires_in, Duration::from_secs(25), "the rule's own wins");
        live.set_timer(change(timer, 10, Some("web"))).unwrap();
        lab.seconds(4);
        lab.engine.set_live(live.clone());
        assert_eq!(lab.view().unwrap().expires_in, Duration::from_secs(6), "{timer}: at once");
        assert!(live.unset_timer(timer, Some("web")));
        lab.engine.set_live(live);
        assert_eq!(lab.view().unwrap().expires_in, Duration::from_secs(21), "{timer}: and back");
        lab.seconds(22);
        let (after, origin) = (Duration::from_secs(25), Origin::Rule);
        assert_eq!(lab.closed(), [CloseReason::Expired { timer, after, origin }]);

        let mut lab = Lab::new();
        lab.under(timer, From::Server);
        let mut live = lab.engine.live();
        live.set_timer(change(timer, 15, None)).unwrap();
        lab.engine.set_live(live);
        lab.ends_by(timer, 15, Origin::Live);
    }
}

/// `half_closed_max` from the first FIN, whichever end sent it: the other end's data
/// refresh `half_closed`, and the cap holds; off, nothing does.
#[test]
fn the_cap_holds_in_both_directions() {
    for by in [From::Client, From::Server] {
        let other = if by == From::Client { From::Server } else { From::Client };
        for cap in [Some(100), None] {
            let mut settings = open_settings();
            settings.timers.push((Timer::HalfClosedMax, cap.map(Duration::from_secs)));
            settings.timers.push((Timer::HalfClosed, Some(Duration::from_secs(30))));
            let mut lab = Lab::with(settings, Vec::new());
            lab.under(Timer::HalfClosed, by);
            let mut ended = 0;
            for round in 0..20 {
                if lab.phase().is_none() {
                    break;
                }
                let seq = 1 + round * 10;
                lab.pass(&[say(other, "P.", seq).ack(2).len(10), say(by, ".", 2).ack(seq + 10)]);
                lab.seconds(10);
                ended = (round + 1) * 10;
            }
            match cap {
                Some(cap) => {
                    assert!((100..=110).contains(&ended), "{by:?}: ended after {ended} s");
                    let (timer, origin) = (Timer::HalfClosedMax, Origin::File);
                    let after = Duration::from_secs(cap);
                    assert_eq!(lab.closed(), [CloseReason::Expired { timer, after, origin }]);
                }
                None => assert_eq!(lab.phase(), Some(Phase::HalfClosed), "it sends and lives"),
            }
        }
    }
}

/// What the sender sends again is not silence; an acknowledgement ends the timer.
#[test]
fn unacknowledged_counts_from_the_last_attempt() {
    for by in [From::Client, From::Server] {
        let other = if by == From::Client { From::Server } else { From::Client };
        let mut lab = Lab::new();
        lab.under(Timer::Unacknowledged, by);
        lab.seconds(200);
        lab.pass(&[say(by, "P.", 1).ack(1).len(100)]);
        assert_eq!(lab.view().unwrap().expires_in, Duration::from_secs(300));
        lab.seconds(200);
        // Part of it is not all of it.
        lab.pass(&[say(other, ".", 1).ack(50)]);
        assert_eq!(lab.view().unwrap().timer, Timer::Unacknowledged);
        lab.pass(&[say(other, ".", 1).ack(101)]);
        assert_eq!(lab.view().unwrap().timer, Timer::Established);
    }
}

/// In every phase in which an RST may be a guess the timer runs, and the other end's
/// next word takes it back; a second guess does not start it anew.
#[test]
fn an_unverified_rst_is_taken_back_by_the_end_that_it_went_to() {
    for phase in [Phase::Established, Phase::FinWait, Phase::HalfClosed] {
        let mut lab = Lab::in_phase(phase);
        let before = lab.view().unwrap();
        let seq = if phase == Phase::Established { 1 } else { 2 };
        // In the server's name, toward the client.
        lab.pass(&[server("R", 400)]);
        let view = lab.view().unwrap();
        assert_eq!((view.phase, view.timer), (phase, Timer::UnverifiedRst), "{phase}");
        lab.seconds(20);
        lab.pass(&[server("R", 800)]);
        assert_eq!(lab.view().unwrap().expires_in, Duration::from_secs(10), "{phase}");
        lab.pass(&[client(".", seq).ack(1)]);
        assert_eq!(lab.view().unwrap().timer, before.timer, "{phase}");
        lab.seconds(20);
        assert_eq!(lab.phase(), Some(phase), "it is as if there had been none");
    }
}
