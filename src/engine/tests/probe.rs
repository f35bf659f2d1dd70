//! `on_expire: probe`: silent connections whose ends are asked before they end.

use super::*;
use crate::{
    conntrack::Timer,
    policy::{LiveTimer, OnExpire, Origin, PickupMode, Probe},
};

/// A keepalive to send: to whom, and its relative numbers.
type Asked = (From, u32, u32);

fn probing() -> Settings {
    Settings { on_expire: OnExpire::Probe(Probe::default()), ..open_settings() }
}

fn unanswered(timer: Timer, seconds: u64, by: Option<Peer>) -> CloseReason {
    CloseReason::Unanswered { timer, after: Duration::from_secs(seconds), origin: Origin::Default, by }
}

impl Lab {
    fn probing(phase: Phase) -> Self {
        let mut lab = Self::with(probing(), Vec::new());
        lab.bring_to(phase);
        lab
    }

    /// The keepalives to send. There must be no RST among what is to be sent.
    #[track_caller]
    fn keepalives(&mut self) -> Vec<Asked> {
        self.stamped_keepalives().into_iter().map(|(asked, _)| asked).collect()
    }

    #[track_caller]
    fn stamped_keepalives(&mut self) -> Vec<(Asked, Option<(u32, u32)>)> {
        let transmits = self.transmits();
        let to_client = self.tuple(From::Server);
        let told = |transmit| {
            let Transmit::Keepalive { tuple, keepalive, flow } = transmit else { panic!("{transmit:?}") };
            assert_eq!(flow, self.flow());
            let (to, own, other) = if tuple == to_client {
                (From::Client, SERVER_ISS, CLIENT_ISS)
            } else {
                assert_eq!(tuple, to_client.reversed());
                (From::Server, CLIENT_ISS, SERVER_ISS)
            };
            let asked = (to, keepalive.seq.0.wrapping_sub(own), keepalive.ack.0.wrapping_sub(other));
            (asked, keepalive.timestamps)
        };
        transmits.into_iter().map(told).collect()
    }

    /// An answer reaches the gateway and goes no further.
    #[track_caller]
    fn answers(&mut self, say: Say) {
        let before = self.view().unwrap();
        assert_eq!(self.send(say), Verdict::Drop(DropReason::KeepaliveAnswer), "{say:?}");
        let after = self.view().unwrap();
        assert_eq!((before.original, before.reply, before.phase), (after.original, after.reply, after.phase));
    }

    /// Time passes, and what is due is done when it is due.
    fn elapse(&mut self, milliseconds: u64) {
        let target = self.now.after(Duration::from_millis(milliseconds));
        let mut last = None;
        while let Some(due) = self.worker.poll_timeout().filter(|due| *due <= target && Some(*due) != last) {
            last = Some(due);
            self.now = self.now.max(due);
            while self.worker.handle_timeout(self.now) {}
        }
        self.now = target;
        self.advance(Duration::ZERO);
    }

    /// Moves on until the ends are asked; how often, and the view then.
    fn until_asked(&mut self, seconds: u64) -> View {
        self.seconds(seconds);
        assert!(self.transmits().is_empty(), "asked too early");
        self.seconds(1);
        self.view().expect("it is asked for, not ended")
    }
}

/// Both alive: the connection stays, again and again, and neither end hears more than
/// the keepalives.
#[test]
fn an_answer_of_both_keeps_the_connection() {
    for mut lab in [Lab::probing(Phase::Established), {
        let mut six = Lab::at(policy(probing(), Vec::new()), "[2001:db8::7]:4000", "[2001:db8:1::20]:80");
        six.handshake();
        six
    }] {
        for round in 1..=3 {
            let view = lab.until_asked(7439);
            assert_eq!((view.timer, view.probes), (Timer::Established, 1));
            assert_eq!(lab.keepalives(), [(From::Client, 0, 1), (From::Server, 0, 1)]);
            lab.answers(client(".", 1).ack(1));
            assert_eq!(lab.view().unwrap().probes, 1, "one is not enough");
            lab.answers(server(".", 1).ack(1));
            let view = lab.view().unwrap();
            assert_eq!((view.probes, view.expires_in), (0, Duration::from_secs(7440)));
            assert_eq!(lab.engine.counters().keepalives, 2 * round);
        }
        // The same segments unasked are packets like any other.
        lab.pass(&[client(".", 1).ack(1), server(".", 1).ack(1)]);
        assert!(lab.closed().is_empty());
    }
}

#[test]
fn one_silent_end_ends_it_after_its_retries() {
    for (alive, by, silent, told) in [
        (client(".", 1).ack(1), Peer::Server, From::Server, (From::Server, 0, 1)),
        (server(".", 1).ack(1), Peer::Client, From::Client, (From::Client, 0, 1)),
    ] {
        let mut lab = Lab::probing(Phase::Established);
        let view = lab.until_asked(7439);
        // The first keepalive was just sent, and each of five gets 15 s.
        assert!(view.expires_in > Duration::from_secs(74) && view.expires_in <= Duration::from_secs(75));
        assert_eq!(lab.keepalives().len(), 2);
        lab.answers(alive);
        for probes in 2..=5 {
            // The wheel may be a tick late.
            lab.elapse(15_200);
            assert_eq!(lab.keepalives(), [told], "only {silent:?} is asked again");
            assert_eq!(lab.view().unwrap().probes, probes);
        }
        lab.elapse(13_000);
        assert_eq!(lab.phase(), Some(Phase::Established), "the last one has its time too");
        lab.elapse(2_200);
        assert_eq!(lab.phase(), None);
        assert_eq!(lab.resets(), [(From::Client, 1, None), (From::Server, 1, None)]);
        assert_eq!(lab.closed(), [unanswered(Timer::Established, 7440, Some(by))]);
    }
}

#[test]
fn two_silent_ends_end_it_and_the_kernel_forgets() {
    let mut lab = Lab::probing(Phase::Established);
    lab.seconds(7440);
    let mut rounds = 0;
    for _ in 0..90 {
        lab.elapse(1_000);
        if lab.phase().is_none() {
            break;
        }
        let asked = lab.keepalives();
        assert!(asked.is_empty() || asked.len() == 2, "{asked:?}");
        rounds += usize::from(!asked.is_empty());
    }
    assert_eq!((lab.phase(), rounds), (None, 5));
    let flow = lab.flow();
    assert!(lab.transmits().contains(&Transmit::Forget { flow }));
    assert_eq!(lab.closed(), [unanswered(Timer::Established, 7440, None)]);
}

/// The end that answers with an RST has forgotten the connection; its RST has the
/// number that the other end expects, and goes there.
#[test]
fn an_rst_in_answer_passes_to_the_living_end() {
    let mut lab = Lab::probing(Phase::Established);
    lab.pass(&[client("P.", 1).ack(1).len(100), server(".", 1).ack(101)]);
    lab.until_asked(7439);
    assert_eq!(lab.keepalives(), [(From::Client, 0, 101), (From::Server, 100, 1)]);
    lab.answers(client(".", 101).ack(1));
    // What a host without the connection makes of the keepalive (RFC 9293 §3.10.7.1).
    lab.pass(&[server("R", 1)]);
    let view = lab.view().unwrap();
    assert_eq!((view.phase, view.forgotten_by, view.probes), (Phase::Reset, Some(Peer::Server), 0));
    lab.seconds(11);
    assert_eq!(lab.closed(), [CloseReason::Forgotten(Peer::Server)]);
    assert!(lab.resets().is_empty());
    // One whose numbers are a guess ends nothing, and answers nothing.
    let mut lab = Lab::probing(Phase::Established);
    lab.until_asked(7439);
    lab.transmits();
    lab.dropped(server("R", 70_000), DropReason::BadRst);
    lab.answers(client(".", 1).ack(1));
    lab.answers(server(".", 1).ack(1));
    assert_eq!(lab.phase(), Some(Phase::Established));
}

/// What says more than that its sender lives is for the other end.
#[test]
fn an_answer_with_news_passes() {
    let news = [
        client("P.", 1).ack(1).len(1),
        client("F.", 1).ack(1),
        // Data that were lost on the way here are behind it.
        client(".", 9).ack(1),
        // A wider window than before.
        client(".", 1).ack(1).window(0xffff),
        client("U.", 1).ack(1),
        // An older segment, and the end's own keepalive.
        client(".", 0).ack(1),
    ];
    for say in news {
        let mut lab = Lab::with(probing(), Vec::new());
        lab.pass(&[client("S", 0).window(9000), server("S.", 0).ack(1), client(".", 1).ack(1).window(9000)]);
        lab.until_asked(7439);
        lab.transmits();
        lab.pass(&[say]);
        assert_eq!(lab.view().unwrap().probes, 0, "{say:?}");
    }
    // An acknowledgement that was lost, of what its peer has sent.
    let mut lab = Lab::with(probing(), Vec::new());
    lab.handshake();
    lab.pass(&[server("P.", 1).ack(1).len(50)]);
    lab.seconds(301);
    assert_eq!(lab.keepalives(), [(From::Client, 0, 1), (From::Server, 0, 1)]);
    lab.pass(&[client(".", 1).ack(51)]);
    assert_eq!(lab.view().unwrap().timer, Timer::Established);
    // A forged one that is not in window is nobody's answer.
    let mut lab = Lab::probing(Phase::Established);
    lab.until_asked(7439);
    lab.transmits();
    lab.dropped(client(".", 300_000).ack(1), DropReason::SeqBeyond);
    lab.unbelieved(client(".", 1).ack(90_000));
    assert_eq!(lab.view().unwrap().probes, 1);
}

/// The timers of an established connection ask; what its packets are about says which.
#[test]
fn unacknowledged_data_and_an_unverified_rst_ask_first() {
    let mut lab = Lab::probing(Phase::Established);
    lab.pass(&[client("P.", 1).ack(1).len(100)]);
    lab.seconds(301);
    assert_eq!(lab.view().unwrap().timer, Timer::Unacknowledged);
    // What the server has acknowledged counts, so that it answers whatever it has got.
    assert_eq!(lab.keepalives(), [(From::Client, 0, 1), (From::Server, 0, 1)]);
    lab.answers(client(".", 101).ack(1));
    lab.answers(server(".", 1).ack(1));
    let view = lab.view().unwrap();
    assert_eq!((view.timer, view.expires_in), (Timer::Unacknowledged, Duration::from_secs(300)));
    lab.elapse(377_000);
    assert_eq!(lab.closed(), [unanswered(Timer::Unacknowledged, 300, None)]);

    let mut lab = Lab::probing(Phase::Established);
    lab.pass(&[client("R", 500)]);
    lab.seconds(31);
    assert_eq!(lab.view().unwrap().timer, Timer::UnverifiedRst);
    assert_eq!(lab.keepalives().len(), 2);
    lab.answers(server(".", 1).ack(1));
    lab.answers(client(".", 1).ack(1));
    let view = lab.view().unwrap();
    assert_eq!((view.timer, view.expires_in), (Timer::Established, Duration::from_secs(7440)));
}

#[test]
fn half_closed_asks_with_the_numbers_behind_the_fin() {
    let mut lab = Lab::probing(Phase::HalfClosed);
    let view = lab.until_asked(599);
    assert_eq!((view.timer, view.probes), (Timer::HalfClosed, 1));
    assert_eq!(lab.keepalives(), [(From::Client, 0, 2), (From::Server, 1, 1)]);
    lab.answers(client(".", 2).ack(1));
    lab.answers(server(".", 1).ack(2));
    assert_eq!(lab.view().unwrap().expires_in, Duration::from_secs(600));
    // A genuine packet of an end that does not refresh the timer is a sign of life too.
    lab.until_asked(599);
    lab.transmits();
    lab.pass(&[client(".", 1).ack(1)]);
    assert_eq!(lab.view().unwrap().probes, 1);
    // That was the client's own keepalive, and its answer is for the client.
    lab.pass(&[server(".", 1).ack(2)]);
    assert_eq!(lab.view().unwrap().expires_in, Duration::from_secs(600));
    // The client closed its socket long ago and knows nothing of it (RFC 9293 §3.6):
    // that is no crash.
    lab.until_asked(599);
    lab.transmits();
    lab.pass(&[client("R", 2)]);
    lab.seconds(11);
    assert_eq!(lab.closed(), [CloseReason::Rst(Peer::Client)]);
}

/// The cap is a cap: no answer buys time from it, and nobody is asked.
#[test]
fn half_closed_max_asks_nobody() {
    let mut settings = probing();
    settings.timers.push((Timer::HalfClosedMax, Some(Duration::from_secs(610))));
    let mut lab = Lab::with(settings, Vec::new());
    lab.bring_to(Phase::HalfClosed);
    lab.seconds(601);
    assert_eq!(lab.keepalives().len(), 2);
    let view = lab.view().unwrap();
    assert_eq!((view.timer, view.expires_in), (Timer::HalfClosedMax, Duration::from_secs(9)));
    lab.seconds(10);
    assert_eq!(lab.resets().len(), 2);
    let after = Duration::from_secs(610);
    let (timer, origin) = (Timer::HalfClosedMax, Origin::File);
    assert_eq!(lab.closed(), [CloseReason::Expired { timer, after, origin }]);
}

/// A FIN while the ends are asked is an answer, and a new phase with its own timer.
#[test]
fn a_new_phase_ends_the_asking() {
    let mut lab = Lab::probing(Phase::Established);
    lab.until_asked(7439);
    lab.transmits();
    lab.pass(&[client("F.", 1).ack(1)]);
    let view = lab.view().unwrap();
    assert_eq!((view.timer, view.probes, view.expires_in), (Timer::FinWait, 0, Duration::from_secs(120)));
    lab.pass(&[server(".", 1).ack(2)]);
    lab.seconds(121);
    assert_eq!((lab.phase(), lab.keepalives()), (Some(Phase::HalfClosed), vec![]));
}

/// RFC 7323 §5.3: an older TSval than the receiver knows would be dropped unanswered.
#[test]
fn timestamps_go_with_it_where_both_ends_send_them() {
    let mut lab = Lab::with(probing(), Vec::new());
    lab.pass(&[
        client("S", 0).timestamp(u32::MAX - 1),
        server("S.", 0).ack(1).timestamp(500),
        client(".", 1).ack(1).timestamp(3),
        server("P.", 1).ack(1).len(10).timestamp(510),
        client(".", 1).ack(11).timestamp(9),
        // Late, and older.
        client(".", 1).ack(1).timestamp(3),
    ]);
    lab.until_asked(7439);
    assert_eq!(
        lab.stamped_keepalives(),
        [((From::Client, 10, 1), Some((510, 9))), ((From::Server, 0, 11), Some((9, 510)))]
    );
    // The next one must not fall behind what an answer said.
    lab.answers(client(".", 1).ack(11).timestamp(8000));
    lab.elapse(15_200);
    assert_eq!(lab.stamped_keepalives(), [((From::Server, 0, 11), Some((8000, 510)))]);
    // One end only offered them.
    let mut lab = Lab::with(probing(), Vec::new());
    lab.pass(&[client("S", 0).timestamp(7), server("S.", 0).ack(1), client(".", 1).ack(1)]);
    lab.until_asked(7439);
    assert!(lab.stamped_keepalives().iter().all(|(_, timestamps)| timestamps.is_none()));
}

/// The wheel has not turned; the packet itself finds that the time is over, and is one
/// of a connection that lives.
#[test]
fn a_packet_that_comes_late_meets_a_connection_that_is_asked_for() {
    let mut lab = Lab::probing(Phase::Established);
    lab.now = lab.now.after(Duration::from_secs(7440));
    assert_eq!(lab.view().unwrap().expires_in, Duration::from_secs(75), "it is not over");
    lab.pass(&[client("P.", 1).ack(1).len(10)]);
    assert_eq!(lab.keepalives().len(), 2);
    assert_eq!((lab.view().unwrap().probes, lab.view().unwrap().timer), (0, Timer::Unacknowledged));
}

#[test]
fn a_rule_has_its_own_way() {
    let mut own = rule("patient", 1);
    let interval = Duration::from_secs(60);
    own.on_expire = Some(OnExpire::Probe(Probe { interval, retries: 2 }));
    let mut lab = Lab::with(open_settings(), vec![own]);
    lab.bring_to(Phase::HalfClosed);
    lab.seconds(601);
    assert_eq!(lab.keepalives().len(), 2);
    lab.elapse(60_200);
    assert_eq!(lab.keepalives().len(), 2);
    lab.elapse(58_000);
    assert_eq!(lab.phase(), Some(Phase::HalfClosed));
    lab.elapse(2_200);
    assert_eq!(lab.resets().len(), 2);

    let mut own = rule("quiet", 1);
    own.on_expire = Some(OnExpire::Drop);
    let mut lab = Lab::with(probing(), vec![own]);
    lab.bring_to(Phase::HalfClosed);
    lab.seconds(601);
    assert_eq!((lab.phase(), lab.resets()), (None, vec![]));
}

/// Phases other than these two end as they always do.
#[test]
fn other_phases_ask_nobody() {
    for (phase, seconds) in [
        (Phase::SynSent, 31),
        (Phase::SynReceived, 31),
        (Phase::FinWait, 121),
        (Phase::Closing, 61),
        (Phase::TimeWait, 61),
        (Phase::Reset, 11),
    ] {
        let mut lab = Lab::probing(phase);
        lab.seconds(seconds);
        assert_eq!(lab.phase(), None, "{phase}");
        assert_eq!(lab.engine.counters().keepalives, 0, "{phase}");
    }
}

/// Whoever was not asked has not been silent: what the budget does not allow now is put
/// off. Where nothing may be sent at all it ends silently.
#[test]
fn no_connection_ends_because_its_keepalives_could_not_be_sent() {
    let mut settings = probing();
    settings.rst_per_second = 4;
    let mut lab = Lab::with(settings, Vec::new());
    for port in 4000..4020 {
        lab.client.1 = port;
        lab.handshake();
    }
    // All at once: two connections are asked for, the others wait.
    lab.now = lab.now.after(Duration::from_secs(7440));
    lab.advance(Duration::from_millis(200));
    assert_eq!(lab.transmits().len(), 4);
    assert_eq!(lab.engine.counters().connections, 20);
    let mut asked = 4;
    for _ in 0..10 {
        lab.elapse(15_200);
        asked += lab.transmits().iter().filter(|t| matches!(t, Transmit::Keepalive { .. })).count();
    }
    let ended = lab.closed().len();
    assert!(ended > 0 && ended < 20, "{ended}");
    assert!(asked >= ended * 10, "{asked} keepalives, {ended} ended: five to each end before");

    let mut settings = probing();
    settings.rst_per_second = 0;
    let mut lab = Lab::with(settings, Vec::new());
    lab.handshake();
    lab.seconds(7441);
    assert_eq!((lab.phase(), lab.resets()), (None, vec![]));
}

/// A reload or a live change while the ends are asked.
#[test]
fn what_changes_meanwhile_acts_at_once() {
    let mut lab = Lab::probing(Phase::Established);
    lab.until_asked(7439);
    lab.transmits();
    // No longer asked: its timer has long fired.
    let before = policy(open_settings(), Vec::new());
    let now = lab.now;
    lab.engine.clone().install(before, Existing::Keep, &mut lab.worker, now);
    lab.seconds(1);
    assert_eq!(lab.resets().len(), 2);
    let closed = lab.closed();
    assert!(matches!(closed[..], [CloseReason::Expired { timer: Timer::Established, .. }]), "{closed:?}");

    // A shorter timer, live: whom it would end is asked, and the preview knows.
    let mut lab = Lab::probing(Phase::Established);
    lab.seconds(100);
    let mut change = lab.engine.live();
    let (value, until, from_epoch) = (Some(Duration::from_secs(60)), None, 0);
    change.set_timer(LiveTimer { timer: Timer::Established, rule: None, value, until, from_epoch }).unwrap();
    assert_eq!(lab.engine.preview(&change, lab.now, &mut || {}), Change { affected: 1, ended: 0 });
    lab.engine.set_live(change);
    lab.advance(Duration::from_millis(200));
    assert_eq!(lab.keepalives().len(), 2);
    lab.answers(client(".", 1).ack(1));
    lab.answers(server(".", 1).ack(1));
    assert_eq!(lab.view().unwrap().expires_in, Duration::from_secs(60));
}

/// Of a connection that passes here one way only one end's answer could be heard, which
/// says nothing about the other: it ends as under `reset`.
#[test]
fn a_connection_that_is_seen_one_way_is_not_asked() {
    let mut settings = probing();
    settings.pickup.mode = PickupMode::Loose;
    for says in [
        vec![client("S", 0), client(".", 1).ack(1), client("P.", 1).ack(1).len(50)],
        vec![client(".", 1).ack(1), client("P.", 1).ack(1).len(50)],
        vec![server("S.", 0).ack(1), server("P.", 1).ack(1).len(50)],
    ] {
        let mut lab = Lab::with(settings.clone(), Vec::new());
        lab.pass(&says);
        let heard = says[0].from;
        assert_eq!(lab.view().unwrap().expires_in, Duration::from_secs(7440));
        lab.seconds(7441);
        assert!(matches!(lab.closed()[..], [CloseReason::Expired { timer: Timer::Established, .. }]));
        let told: Vec<_> = lab.resets().into_iter().map(|(to, seq, _)| (to, seq)).collect();
        let unheard = if heard == From::Client { From::Server } else { From::Client };
        assert!(told.contains(&(unheard, 51)) && told.contains(&(heard, 1)), "{told:?}");
    }
    // Its other direction appears, and it is asked like any other.
    let mut lab = Lab::with(settings, Vec::new());
    lab.pass(&[client("S", 0), client(".", 1).ack(1), server(".", 1).ack(1), client(".", 1).ack(1)]);
    lab.until_asked(7439);
    assert_eq!(lab.keepalives(), [(From::Client, 0, 1), (From::Server, 0, 1)]);
}

/// Of a connection that was met mid-stream, an end that has said nothing since.
#[test]
fn an_end_that_was_never_heard_is_not_asked() {
    let mut settings = probing();
    settings.pickup.grace = Duration::from_secs(60);
    let mut lab = Lab::with(settings, Vec::new());
    lab.pass(&[client(".", 100).ack(5_000), client("P.", 100).ack(5_000).len(50)]);
    let view = lab.until_asked(7439);
    assert_eq!(view.timer, Timer::Established);
    assert_eq!(lab.keepalives(), [(From::Client, 4_999, 150)]);
    lab.answers(client(".", 150).ack(5_000));
    assert_eq!(lab.view().unwrap().expires_in, Duration::from_secs(7440));
    lab.elapse(7_440_000 + 77_000);
    let client = Some(Peer::Client);
    assert_eq!(lab.closed(), [unanswered(Timer::Established, 7440, client)]);
}
