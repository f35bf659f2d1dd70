//! The fast path: what a connection is worth of which packets pass unseen.

use super::{fast::IMPATIENT_STREAM, *};
use crate::{
    conntrack::{Timer, fast::KernelState},
    policy::{Inspect, LiveTimer, OnExpire, Origin, Probe},
};

/// As the kernel hands over the packet that may begin a ride.
fn known(from: From, len: usize) -> Meta {
    Meta { kernel_knows: true, candidacy: Some(Candidacy::Stands), ..Lab::meta(from, len) }
}

fn silent(seconds: u64) -> Word {
    Word {
        silence: Duration::from_secs(seconds),
        unacknowledged: false,
        state: Some(KernelState::Open),
        counts: None,
        rides: true,
    }
}

/// So much has passed unseen that no number of before is near one of now.
const FAR: u32 = 1 << 30;

impl Lab {
    fn come(&mut self, say: Say) -> (Verdict, Option<Ride>) {
        let packet = self.packet(say);
        let verdict = self.raw(known(say.from, packet.bytes.len()), &packet.bytes);
        (verdict, self.worker.ride())
    }

    /// It passes by the queue; what becomes of its connection's way.
    #[track_caller]
    fn by_queue(&mut self, say: Say) -> Option<Ride> {
        let (verdict, ride) = self.come(say);
        assert_eq!(verdict, Verdict::Accept, "{say:?}");
        ride
    }

    fn rides(&self) -> bool {
        let view = self.view().expect("it is there");
        assert_eq!(u64::from(view.fast_path), self.engine.counters().riding);
        view.fast_path
    }

    /// A connection on the fast path: the client has sent up to 101, the server up to 51.
    fn riding_with(settings: Settings, rules: Vec<Rule>) -> Self {
        let mut lab = Self::with(settings, rules);
        lab.bring_to(Phase::Established);
        lab.by_queue(client("P.", 1).ack(1).len(100));
        lab.by_queue(server("P.", 1).ack(101).len(50));
        lab.by_queue(client(".", 101).ack(51));
        assert!(lab.rides());
        lab.transmits();
        lab
    }

    fn riding() -> Self {
        Self::riding_with(open_settings(), Vec::new())
    }

    fn word(&mut self, word: Option<Word>) {
        let flow = self.flow();
        self.worker.handle_word(&flow, word.as_ref(), self.now);
        self.check();
    }

    /// What is to be sent, in a word each.
    fn errands(&mut self) -> Vec<&'static str> {
        let word = |transmit| match transmit {
            Transmit::Reset { .. } => "reset",
            Transmit::Keepalive { .. } => "keepalive",
            Transmit::Acknowledge { .. } => "acknowledge",
            Transmit::Challenge { .. } => "challenge",
            Transmit::Ask { .. } => "ask",
            Transmit::Release { .. } => "release",
            Transmit::Forget { .. } => "forget",
        };
        self.transmits().into_iter().map(word).collect()
    }

    fn later(&mut self, seconds: u64) {
        self.advance(Duration::from_secs(seconds));
    }
}

fn full(name: &str, id: u16) -> Rule {
    Rule { inspect: Inspect::Full, ..rule(name, id) }
}

#[test]
fn an_established_connection_rides_from_its_candidates_next_packet_on() {
    let mut lab = Lab::new();
    lab.bring_to(Phase::Established);
    let packet = lab.packet(client(".", 1).ack(1));
    let of_kernel = known(From::Client, packet.bytes.len());
    let renumbered = Some(Renumbering { position: SeqNum(0), before: 0, after: 0 });
    for (meta, ride) in [
        (Meta { candidacy: None, ..of_kernel }, Some(Ride::MayBegin)),
        (Meta { candidacy: None, ..of_kernel }, None),
        (Meta { kernel_knows: false, ..of_kernel }, None),
        (Meta { renumbered, ..of_kernel }, None),
    ] {
        assert_eq!(lab.raw(meta, &packet.bytes), Verdict::Accept);
        assert_eq!((lab.worker.ride(), lab.rides()), (ride, false), "{meta:?}");
    }
    assert_eq!(lab.raw(of_kernel, &packet.bytes), Verdict::Accept);
    assert_eq!((lab.worker.ride(), lab.rides()), (Some(Ride::Begins), true));
    assert_eq!(lab.raw(of_kernel, &packet.bytes), Verdict::Accept);
    assert_eq!(
        (lab.worker.ride(), lab.rides()),
        (Some(Ride::Ends), false),
        "somebody else took its mark away"
    );
}

#[test]
fn one_packet_at_a_time_may_begin_a_ride_until_it_has_come_or_is_lost() {
    let mut lab = Lab::new();
    lab.bring_to(Phase::Established);
    let packet = lab.packet(client(".", 1).ack(1));
    let mut come = |candidacy, milliseconds| {
        lab.advance(Duration::from_millis(milliseconds));
        let meta = Meta { candidacy, ..known(From::Client, packet.bytes.len()) };
        assert_eq!(lab.raw(meta, &packet.bytes), Verdict::Accept);
        lab.worker.ride()
    };
    assert_eq!(come(None, 0), Some(Ride::MayBegin));
    assert_eq!(come(None, 0), None);
    assert_eq!(come(Some(Candidacy::Lost), 0), None, "of one that was overtaken before");
    assert_eq!(come(None, 900), None);
    assert_eq!(come(None, 1100), Some(Ride::MayBegin), "it never came");
    assert_eq!(come(Some(Candidacy::Stands), 0), Some(Ride::Begins));
}

#[test]
fn a_candidates_packet_that_is_dropped_or_lost_amid_others_holds_up_no_other() {
    let mut lab = Lab::new();
    lab.bring_to(Phase::Established);
    let packet = lab.packet(client(".", 1).ack(1));
    let forged = lab.packet(client(".", FAR).ack(1).len(1));
    let mut come = |packet: &RawPacket, candidacy, verdict| {
        let meta = Meta { candidacy, ..known(From::Client, packet.bytes.len()) };
        assert_eq!(lab.raw(meta, &packet.bytes), verdict);
        lab.worker.ride()
    };
    assert_eq!(come(&packet, None, Verdict::Accept), Some(Ride::MayBegin));
    let dropped = Verdict::Drop(DropReason::SeqBeyond);
    assert_eq!(come(&forged, Some(Candidacy::Stands), dropped), None);
    assert_eq!(come(&packet, None, Verdict::Accept), Some(Ride::MayBegin));
    let mut wait = || (1..10_000).find(|_| come(&packet, None, Verdict::Accept).is_some());
    for _ in 0..3 {
        let waited = wait().expect("the queue was full, and it was lost");
        assert!((4096..=8192).contains(&waited), "more than wait in a queue: {waited}");
    }
}

#[test]
fn of_a_ride_that_did_not_begin_nobody_is_asked() {
    let mut lab = Lab::riding();
    let next = lab.packet(client("P.", 101).ack(51).len(10));
    let behind = Meta { candidacy: Some(Candidacy::Lost), ..known(From::Client, next.bytes.len()) };
    assert_eq!(lab.raw(behind, &next.bytes), Verdict::Accept);
    assert_eq!((lab.worker.ride(), lab.rides()), (Some(Ride::Ends), false), "its mark may have come late");
    assert!(lab.errands().is_empty());
    lab.pass(&[server(".", 51).ack(111)]);
    assert_eq!(lab.send(client("P.", FAR).ack(51).len(1)), Verdict::Drop(DropReason::SeqBeyond));
    assert_eq!(lab.by_queue(client(".", 111).ack(51)), Some(Ride::Begins));
}

#[test]
fn what_is_under_way_is_not_overtaken_unless_it_never_ends() {
    let mut lab = Lab::new();
    lab.bring_to(Phase::Established);
    for say in [client("P.", 1).ack(1).len(10), client(".", 11).ack(1), server("P.", 1).ack(11).len(10)] {
        assert_eq!(lab.by_queue(say), Some(Ride::MayBegin), "{say:?}");
    }
    assert_eq!(lab.by_queue(client(".", 11).ack(11)), Some(Ride::Begins));
    let mut lab = Lab::new();
    lab.bring_to(Phase::Established);
    lab.by_queue(client("P.", 1).ack(1).len(10));
    lab.later(2);
    assert_eq!(lab.by_queue(client("P.", 11).ack(1).len(10)), Some(Ride::Begins));
}

impl Lab {
    /// A datagram of the stream that a queue of others, and of its own, is never empty of.
    #[track_caller]
    fn of_stream(&mut self, from: From, more: fn(Meta) -> Meta) -> (Option<Ride>, bool) {
        let packet = crate::wire::build::udp(self.tuple(from), b"x");
        let meta = Meta { candidacy: None, ..known(from, packet.bytes.len()) };
        assert_eq!(self.raw(more(meta), &packet.bytes), Verdict::Accept);
        (self.worker.ride(), self.engine.counters().riding == 1)
    }

    /// A stream that rides, though packets of it always wait.
    fn full_stream() -> Self {
        let mut lab = Self::new();
        lab.of_stream(From::Client, |meta| Meta { kernel_knows: false, ..meta });
        for number in 1..IMPATIENT_STREAM - 1 {
            let ride = lab.of_stream(From::Server, |meta| Meta { candidacy: Some(Candidacy::Lost), ..meta });
            let offered = (number == 1).then_some(Ride::MayBegin);
            assert_eq!(ride, (offered, false), "{number}");
        }
        assert_eq!(lab.of_stream(From::Client, |meta| meta), (Some(Ride::BeginsAtOnce), true));
        lab
    }
}

#[test]
fn udp_rides_as_soon_as_nothing_waits_or_after_a_time_whatever_does() {
    let mut lab = Lab::new();
    assert_eq!(lab.of_stream(From::Client, |meta| Meta { kernel_knows: false, ..meta }), (None, false));
    assert_eq!(lab.of_stream(From::Client, |meta| meta), (None, false), "nobody has answered");
    assert_eq!(lab.of_stream(From::Server, |meta| meta), (Some(Ride::MayBegin), false));
    let next = lab.of_stream(From::Client, |meta| Meta { candidacy: Some(Candidacy::Stands), ..meta });
    assert_eq!(next, (Some(Ride::Begins), true));
    let behind = |meta| Meta { candidacy: Some(Candidacy::Lost), ..meta };
    assert_eq!(lab.of_stream(From::Client, behind), (Some(Ride::Ends), false), "it had to wait");
    drop(Lab::full_stream());
    let mut lab = Lab::new();
    lab.of_stream(From::Client, |meta| meta);
    assert_eq!(lab.of_stream(From::Server, |meta| meta), (Some(Ride::MayBegin), false));
    lab.later(1);
    assert_eq!(lab.of_stream(From::Client, |meta| meta), (Some(Ride::BeginsAtOnce), true));
}

#[test]
fn datagrams_that_waited_as_the_ride_began_do_not_end_it() {
    let mut lab = Lab::full_stream();
    for candidacy in [Some(Candidacy::Lost), None] {
        let how: fn(Meta) -> Meta = match candidacy {
            None => |meta| meta,
            Some(_) => |meta| Meta { candidacy: Some(Candidacy::Lost), ..meta },
        };
        assert_eq!(lab.of_stream(From::Client, how), (Some(Ride::BeginsAtOnce), true));
    }
    assert!(lab.errands().is_empty());
    // What the kernel does not know is of a new entry of its.
    let unknown = lab.of_stream(From::Client, |meta| Meta { kernel_knows: false, ..meta });
    assert_eq!(unknown, (Some(Ride::Ends), false));
    assert_eq!(lab.of_stream(From::Server, |meta| meta), (Some(Ride::BeginsAtOnce), true));
}

#[test]
fn a_mark_of_udp_that_came_too_late_is_taken_away_again() {
    let mut lab = Lab::full_stream();
    lab.engine.install(
        policy(open_settings(), vec![full("r", 1)]),
        Existing::Rejudge,
        &mut lab.worker,
        lab.now,
    );
    lab.later(0);
    assert_eq!((lab.engine.counters().riding, lab.errands()), (0, vec!["release"]));
    let flow = Flow { protocol: Protocol::UDP, ..lab.flow() };
    for rides in [true, false] {
        lab.worker.handle_word(&flow, Some(&Word { state: None, rides, ..silent(0) }), lab.now);
        assert_eq!(lab.errands(), if rides { vec!["release"] } else { Vec::new() });
    }
}

#[test]
fn nothing_rides_before_it_is_established_nor_after() {
    for phase in [Phase::FinWait, Phase::HalfClosed, Phase::Closing, Phase::TimeWait] {
        let mut lab = Lab::new();
        lab.bring_to(phase);
        let [original, reply] = lab.numbers().unwrap();
        let mut say = client(".", original.end.0.wrapping_sub(CLIENT_ISS));
        say.ack = Some(reply.end.0.wrapping_sub(SERVER_ISS));
        assert_eq!(lab.come(say), (Verdict::Accept, None), "{phase}");
    }
    let mut lab = Lab::new();
    assert_eq!(lab.come(client("S", 0)), (Verdict::Accept, None));
    assert_eq!(lab.come(server("S.", 0).ack(1)), (Verdict::Accept, Some(Ride::MayBegin)));
    assert_eq!(
        lab.come(client(".", 1).ack(1)),
        (Verdict::Accept, Some(Ride::Begins)),
        "the handshake's last"
    );
}

#[test]
fn rules_and_short_timers_keep_it_in_the_queue() {
    let established = |seconds| {
        let timers = vec![(Timer::Established, Some(Duration::from_secs(seconds)))];
        Rule { timers, ..rule("r", 1) }
    };
    for (rule, may) in
        [(rule("r", 1), true), (full("r", 1), false), (established(29), false), (established(30), true)]
    {
        let mut lab = Lab::with(open_settings(), vec![rule]);
        lab.bring_to(Phase::Established);
        assert_eq!(lab.by_queue(client("P.", 1).ack(1).len(10)).is_some(), may);
    }
}

#[test]
fn a_fin_is_believed_once_its_receiver_acknowledges_it_however_much_passed_unseen() {
    let mut lab = Lab::riding();
    assert_eq!(lab.by_queue(client("F.", FAR).ack(51)), Some(Ride::Ends));
    assert_eq!((lab.phase(), lab.rides()), (Some(Phase::Established), false));
    assert_eq!(lab.errands(), ["ask"]);
    assert_eq!(lab.by_queue(server(".", 51).ack(FAR + 1)), None);
    assert_eq!(lab.phase(), Some(Phase::HalfClosed));
    lab.by_queue(server("F.", 51).ack(FAR + 1));
    lab.by_queue(client(".", FAR + 1).ack(52));
    assert_eq!(lab.phase(), Some(Phase::TimeWait));
}

#[test]
fn a_fin_that_nobody_answers_is_believed_on_the_kernels_word() {
    let mut lab = Lab::riding();
    lab.by_queue(server("F.", FAR).ack(FAR));
    lab.word(Some(silent(0)));
    assert_eq!(lab.phase(), Some(Phase::Established), "the kernel has not taken it");
    lab.word(Some(Word { state: Some(KernelState::Closing), ..silent(0) }));
    assert_eq!(lab.phase(), Some(Phase::FinWait));
    lab.by_queue(client(".", FAR).ack(FAR + 1));
    assert_eq!(lab.phase(), Some(Phase::HalfClosed));
}

#[test]
fn forged_segments_teach_nothing_and_the_ends_go_on() {
    let mut lab = Lab::riding();
    for forged in [client("F.", 7).ack(7 << 28), client(".", 3 << 28).ack(9), client("F.", 5 << 28).ack(51)] {
        lab.by_queue(forged);
        assert_eq!(lab.phase(), Some(Phase::Established));
    }
    // The true ends have gone far in the meantime.
    lab.by_queue(server("P.", FAR).ack(FAR).len(100));
    lab.by_queue(client(".", 1 << 29).ack(77));
    assert_eq!(lab.by_queue(client(".", FAR).ack(FAR + 100)), Some(Ride::Begins), "both agree again");
    assert_eq!(lab.phase(), Some(Phase::Established));
}

#[test]
fn both_words_by_one_way_are_one_forgers() {
    let mut lab = Lab::riding();
    lab.by_queue(client("F.", FAR).ack(FAR));
    let acknowledges = lab.packet(server(".", FAR).ack(FAR + 1));
    let outside = known(From::Client, acknowledges.bytes.len());
    assert_eq!(lab.raw(outside, &acknowledges.bytes), Verdict::Accept);
    assert_eq!(lab.phase(), Some(Phase::Established), "it came from outside, and is no server's word");
}

/// The kernel believes an RST.
fn reset_word(seconds: u64) -> Word {
    Word { state: Some(KernelState::Reset), rides: false, ..silent(seconds) }
}

/// An RST of the client's that the kernel took for exact: it is asked of the server.
fn reset_by_client(say: Say) -> Lab {
    let mut lab = Lab::riding();
    assert_eq!(lab.by_queue(say), Some(Ride::Ends));
    assert_eq!(lab.errands(), ["ask"]);
    lab.word(Some(reset_word(0)));
    assert_eq!(lab.phase(), Some(Phase::Established), "the kernel's word alone ends nothing");
    lab
}

#[test]
fn an_rst_ends_it_if_its_receiver_says_so() {
    let mut lab = Lab::riding();
    lab.by_queue(client("R.", FAR).ack(51));
    lab.word(Some(silent(0)));
    assert_eq!((lab.phase(), lab.view().unwrap().probes), (Some(Phase::Established), 0), "it was not exact");
    // Its receiver's challenge ACK, and what the client says to it.
    lab.by_queue(server(".", FAR).ack(FAR));
    lab.by_queue(client("P.", FAR).ack(FAR).len(1));
    assert_eq!(lab.phase(), Some(Phase::Established));
    for is_invalid in [false, true] {
        let mut lab = reset_by_client(client("R.", FAR).ack(51));
        let asked = lab.transmits();
        let [Transmit::Keepalive { tuple, keepalive, .. }] = asked[..] else { panic!("{asked:?}") };
        assert_eq!(tuple.dst_port, lab.flow().dst_port, "the server");
        let number = keepalive.ack.0.wrapping_sub(SERVER_ISS);
        let denial = lab.packet(server("R", number));
        // To the kernel its number is an old one.
        let meta = Meta { is_invalid, ..known(From::Server, denial.bytes.len()) };
        assert_eq!(lab.raw(meta, &denial.bytes), Verdict::Drop(DropReason::KeepaliveAnswer));
        assert_eq!(lab.phase(), Some(Phase::Reset));
        lab.later(11);
        assert_eq!(lab.closed(), [CloseReason::Rst(Peer::Client)]);
    }
}

#[test]
fn an_rst_that_only_the_kernel_believes_ends_nothing() {
    let mut lab = reset_by_client(client("R", FAR));
    assert_eq!(lab.errands(), ["keepalive"]);
    // The question is lost, and asked again; nobody can answer who has not seen it.
    lab.later(2);
    assert_eq!(lab.errands(), ["keepalive"]);
    let verdict = lab.send(server("R", FAR));
    assert_eq!((verdict, lab.phase()), (Verdict::Accept, Some(Phase::Established)));
    let forged = lab.send(server("R.", 51).ack(FAR));
    assert_eq!((forged, lab.phase()), (Verdict::Accept, Some(Phase::Established)));
    lab.transmits();
    lab.by_queue(server(".", FAR).ack(FAR));
    lab.later(60);
    assert!(!lab.errands().contains(&"keepalive"));
    assert_eq!(lab.by_queue(client("P.", FAR).ack(FAR).len(1)), Some(Ride::Begins));
    assert_eq!((lab.rides(), lab.closed()), (true, Vec::new()));
}

#[test]
fn an_rst_that_nobody_answers_for_ends_it_after_its_timer() {
    let mut lab = reset_by_client(client("R.", FAR).ack(51));
    for _ in 0..3 {
        assert_eq!(lab.errands(), ["keepalive"]);
        lab.advance(Duration::from_millis(1200));
    }
    lab.later(27);
    lab.word(Some(reset_word(31)));
    let closed = lab.closed();
    assert!(matches!(closed[..], [CloseReason::Expired { timer: Timer::UnverifiedRst, .. }]), "{closed:?}");
}

#[test]
fn an_rst_of_an_end_that_knows_nothing_makes_it_stale() {
    let mut lab = Lab::riding();
    lab.by_queue(server("R", FAR));
    lab.transmits();
    lab.word(Some(reset_word(0)));
    let asked = lab.transmits();
    let [Transmit::Keepalive { keepalive, .. }] = asked[..] else { panic!("{asked:?}") };
    lab.send(client("R", keepalive.ack.0.wrapping_sub(CLIENT_ISS)));
    assert_eq!(lab.view().and_then(|view| view.forgotten_by), Some(Peer::Server));
    lab.later(11);
    assert_eq!(lab.closed(), [CloseReason::Forgotten(Peer::Server)]);
}

#[test]
fn what_conntrack_calls_invalid_is_dropped_while_numbers_are_unknown_and_changes_nothing() {
    let mut lab = Lab::riding();
    for say in [client("R", 3 << 29), client("F.", 3 << 29).ack(1), server(".", 3 << 29).ack(7)] {
        let packet = lab.packet(say);
        let meta = Meta { kernel_knows: false, is_invalid: true, ..known(say.from, packet.bytes.len()) };
        assert_eq!(lab.raw(meta, &packet.bytes), Verdict::Drop(DropReason::ConntrackInvalid));
        assert!(lab.rides() && lab.worker.ride().is_none());
    }
    assert_eq!(lab.errands(), ["ask"], "one question at a time");
    lab.word(Some(silent(0)));
    assert!(lab.rides());
}

#[test]
fn the_word_of_another_entry_counts_for_nothing() {
    let mut lab = Lab::riding();
    let invalid = |lab: &mut Lab, say: Say| {
        let packet = lab.packet(say);
        lab.raw(Meta { is_invalid: true, ..Lab::meta(say.from, packet.bytes.len()) }, &packet.bytes)
    };
    let data = client("P.", FAR).ack(FAR).len(10);
    assert_eq!(invalid(&mut lab, data), Verdict::Drop(DropReason::ConntrackInvalid));
    // A forged SYN has had the kernel replace it.
    lab.word(Some(Word { rides: false, state: None, ..silent(0) }));
    assert!(!lab.rides());
    assert_eq!(invalid(&mut lab, data), Verdict::Accept);
    assert_eq!(invalid(&mut lab, server(".", FAR).ack(FAR + 10)), Verdict::Accept);
    assert_eq!(lab.send(client("P.", FAR + (1 << 27)).ack(FAR).len(1)), Verdict::Drop(DropReason::SeqBeyond));
    assert_eq!(lab.by_queue(client(".", FAR + 10).ack(FAR)), Some(Ride::Begins));
}

#[test]
fn before_it_ends_by_a_timer_the_kernel_is_asked() {
    let mut lab = Lab::riding();
    lab.later(2 * 3600);
    assert!(lab.errands().iter().all(|errand| *errand == "ask"));
    assert!(lab.rides(), "nobody has said that it was silent");
    lab.word(Some(silent(60)));
    assert!(lab.rides());
    assert_eq!(lab.view().unwrap().idle, Duration::from_secs(60));
    assert_eq!(lab.view().unwrap().expires_in, Duration::from_secs(7440 - 60));
    lab.word(Some(silent(7441)));
    assert!(lab.rides(), "an older word than the last one");
    lab.later(7440 - 60);
    lab.word(Some(silent(7440)));
    assert!(lab.view().is_none());
    let closed = lab.closed();
    assert!(matches!(closed[..], [CloseReason::Expired { timer: Timer::Established, .. }]), "{closed:?}");
}

#[test]
fn what_nobody_acknowledges_ends_it_sooner() {
    let mut lab = Lab::riding();
    lab.later(301);
    assert!(lab.errands().contains(&"ask"));
    lab.word(Some(silent(301)));
    assert!(lab.rides(), "all was acknowledged");
    lab.later(301);
    lab.word(Some(Word { unacknowledged: true, ..silent(301) }));
    let closed = lab.closed();
    assert!(matches!(closed[..], [CloseReason::Expired { timer: Timer::Unacknowledged, .. }]), "{closed:?}");
}

#[test]
fn both_ends_of_one_that_is_killed_are_told_as_they_speak() {
    let mut lab = Lab::riding();
    let flow = lab.flow();
    assert!(lab.worker.kill(&flow, false, lab.now));
    assert_eq!(lab.closed(), [CloseReason::Killed]);
    assert!(lab.view().is_none(), "it is over for everybody");
    assert_eq!(lab.errands(), ["release", "keepalive", "keepalive"]);
    assert_eq!(lab.engine.counters().connections, 0);
    for say in [server(".", FAR).ack(FAR), server("F.", FAR).ack(FAR)] {
        assert_eq!(lab.come(say), (Verdict::Reset(DropReason::Ended), None), "{say:?}");
    }
    assert_eq!(lab.come(client("R", FAR)).0, Verdict::Drop(DropReason::Ended), "no RST answers an RST");
    lab.advance(Duration::from_millis(1200));
    assert_eq!(lab.errands(), ["release", "keepalive", "keepalive"], "once more, should one be lost");
    assert_eq!(lab.come(client("P.", FAR).ack(FAR).len(10)), (Verdict::Reset(DropReason::Ended), None));
    lab.advance(Duration::from_millis(1200));
    assert_eq!(lab.errands(), ["forget"], "both know");
    assert!(lab.closed().is_empty(), "it has ended once");
}

#[test]
fn ends_that_never_speak_are_given_up() {
    let mut lab = Lab::riding();
    let flow = lab.flow();
    assert!(lab.worker.kill(&flow, false, lab.now));
    assert!(!lab.worker.kill(&flow, false, lab.now), "it is over");
    for _ in 0..12 {
        lab.later(1);
    }
    let errands = lab.errands();
    assert_eq!(errands.iter().filter(|errand| **errand == "keepalive").count(), 8, "{errands:?}");
    assert_eq!(errands.last(), Some(&"forget"));
}

#[test]
fn a_killed_one_makes_room_for_a_new_syn() {
    let mut lab = Lab::riding();
    let flow = lab.flow();
    assert!(lab.worker.kill(&flow, false, lab.now));
    assert_eq!(lab.come(client("S", FAR)).0, Verdict::Accept);
    assert_eq!(lab.phase(), Some(Phase::SynSent));
}

#[test]
fn a_silent_kill_and_a_silent_end_tell_nobody() {
    let mut lab = Lab::riding();
    let flow = lab.flow();
    assert!(lab.worker.kill(&flow, true, lab.now));
    assert_eq!(lab.errands(), ["forget"]);
    assert_eq!(lab.engine.counters().riding, 0);
    let settings = Settings { on_expire: OnExpire::Drop, ..open_settings() };
    let mut lab = Lab::riding_with(settings, Vec::new());
    lab.later(7440);
    lab.transmits();
    lab.word(Some(silent(7440)));
    assert_eq!(lab.errands(), ["forget"]);
    assert_eq!(lab.engine.counters().connections, 0);
}

#[test]
fn probing_brings_it_back_first_and_any_true_answer_keeps_it() {
    let settings = Settings { on_expire: OnExpire::Probe(Probe::default()), ..open_settings() };
    let mut lab = Lab::riding_with(settings, Vec::new());
    lab.later(7440);
    lab.transmits();
    lab.word(Some(silent(7440)));
    assert_eq!(lab.errands(), ["release", "keepalive", "keepalive"]);
    assert!(!lab.rides());
    lab.by_queue(client(".", FAR).ack(FAR));
    assert_eq!(lab.come(server(".", FAR).ack(FAR)).0, Verdict::Drop(DropReason::KeepaliveAnswer));
    let view = lab.view().expect("both live");
    assert_eq!((view.probes, view.expires_in), (0, Duration::from_secs(7440)));
    // And one that does not answer ends it.
    lab.later(7440);
    assert_eq!(lab.errands(), ["keepalive", "keepalive"]);
    lab.send(client(".", FAR).ack(FAR));
    for _ in 0..6 {
        lab.later(16);
    }
    let closed = lab.closed();
    assert!(matches!(closed[..], [CloseReason::Unanswered { by: Some(Peer::Server), .. }]), "{closed:?}");
}

#[test]
fn rules_and_timers_that_change_bring_it_back() {
    let mut lab = Lab::riding_with(open_settings(), vec![rule("r", 1)]);
    lab.engine.install(policy(open_settings(), vec![full("r", 1)]), Existing::Keep, &mut lab.worker, lab.now);
    lab.later(0);
    assert_eq!((lab.rides(), lab.errands()), (false, vec!["release"]));

    let mut lab = Lab::riding();
    let timers = vec![LiveTimer {
        timer: Timer::Established,
        rule: None,
        value: Some(Duration::from_secs(5)),
        until: None,
        from_epoch: 0,
    }];
    lab.engine.set_live(crate::policy::Live { timers, ..Default::default() });
    lab.later(6);
    assert!(!lab.rides());
    assert_eq!(lab.errands(), ["release", "ask"]);
    lab.word(Some(Word { rides: false, ..silent(1) }));
    assert_eq!(lab.view().unwrap().expires_in, Duration::from_secs(4));
    lab.later(4);
    lab.word(Some(Word { rides: false, ..silent(5) }));
    let closed = lab.closed();
    assert!(
        matches!(closed[..], [CloseReason::Expired { timer: Timer::Established, origin: Origin::Live, .. }]),
        "{closed:?}"
    );

    let mut lab = Lab::riding_with(open_settings(), vec![rule("r", 1)]);
    let none = Settings { default: Action::Drop, ..open_settings() };
    lab.engine.install(policy(none, Vec::new()), Existing::Rejudge, &mut lab.worker, lab.now);
    assert_eq!(lab.errands(), ["release", "keepalive", "keepalive"]);
    assert_eq!(lab.come(client("P.", FAR).ack(FAR).len(1)).0, Verdict::Reset(DropReason::Ended));
}

#[test]
fn what_the_kernel_has_forgotten_goes_on_by_the_queue() {
    let mut lab = Lab::riding();
    lab.later(301);
    lab.word(None);
    assert!(!lab.rides());
    assert!(lab.view().is_some(), "nobody knows how long it was silent");
    // As an entry that is new to the kernel has it.
    for say in [client("P.", FAR).ack(FAR).len(10), server(".", FAR).ack(FAR + 10)] {
        let packet = lab.packet(say);
        assert_eq!(lab.raw(Lab::meta(say.from, packet.bytes.len()), &packet.bytes), Verdict::Accept);
    }
    assert_eq!(lab.by_queue(client("P.", FAR + 10).ack(FAR).len(10)), Some(Ride::Begins));
    // And without a packet in all its time it ends.
    lab.later(301);
    lab.word(None);
    lab.later(7440);
    lab.transmits();
    lab.word(None);
    assert!(lab.view().is_none());
}

#[test]
fn counts_are_the_kernels() {
    let mut lab = Lab::riding();
    let counts = |packets| Counts { packets, bytes: packets * 1000 };
    lab.word(Some(Word { counts: Some((counts(500), counts(300))), ..silent(0) }));
    let view = lab.view().unwrap();
    assert_eq!((view.original, view.reply), (counts(500), counts(300)));
    // The kernel names the connection from the other end.
    let flow = lab.flow().reversed();
    let word = Word { counts: Some((counts(700), counts(900))), ..silent(0) };
    lab.worker.handle_word(&flow, Some(&word), lab.now);
    let view = lab.view().unwrap();
    assert_eq!((view.original, view.reply), (counts(900), counts(700)));
}

/// So many connections to the server's port, of four packets each.
fn short_ones(lab: &mut Lab, count: u16) {
    let own = lab.client;
    for number in 0..count {
        lab.client = (own.0, 5000 + number);
        for say in [client("S", 0), server("S.", 0).ack(1), client(".", 1).ack(1), client("F.", 1).ack(1)] {
            let packet = lab.packet(say);
            let meta = Lab::meta(say.from, packet.bytes.len());
            assert_eq!(lab.worker.handle_packet(&meta, &packet.bytes, lab.now), Verdict::Accept);
        }
    }
    lab.client = own;
}

/// The first packet from which on a connection that is quiet all the time may ride.
fn may_ride_from(lab: &mut Lab) -> Option<u32> {
    lab.bring_to(Phase::Established);
    let ride = |lab: &mut Lab| lab.by_queue(client(".", 1).ack(1)).is_some();
    (4..100).find(|_| ride(lab))
}

#[test]
fn where_connections_are_short_one_rides_only_once_it_has_shown_that_it_is_not() {
    let mut lab = Lab::new();
    short_ones(&mut lab, 1000);
    assert_eq!(may_ride_from(&mut lab), Some(4), "a thousand say little");

    let mut lab = Lab::new();
    short_ones(&mut lab, 10_000);
    assert_eq!(may_ride_from(&mut lab), Some(12));
    let mut other = Lab { server: (lab.server.0, 443), client: (lab.client.0, 4001), ..lab };
    assert_eq!(may_ride_from(&mut other), Some(4), "of another service");
}

#[test]
fn of_what_rides_the_kernel_tells_how_long_it_is() {
    let mut lab = Lab::riding();
    short_ones(&mut lab, 10_000);
    let counts = Some((Counts { packets: 50_000, bytes: 0 }, Counts { packets: 30_000, bytes: 0 }));
    lab.word(Some(Word { counts, ..silent(0) }));
    lab.client.1 = 4001;
    assert_eq!(may_ride_from(&mut lab), Some(4), "one long transfer is worth thousands of pages");
}

#[test]
fn a_mark_that_came_too_late_is_taken_away_again() {
    let mut lab = Lab::riding();
    lab.by_queue(client(".", FAR).ack(FAR));
    assert!(!lab.rides());
    lab.transmits();
    lab.word(Some(silent(0)));
    assert_eq!(lab.errands(), ["release"]);
}

#[test]
fn numbers_that_were_found_again_are_tested_as_before() {
    let mut lab = Lab::riding();
    lab.by_queue(client("P.", FAR).ack(FAR).len(100));
    // Not the last in its queue, so that it does not ride on.
    lab.pass(&[server(".", FAR).ack(FAR + 100), client("P.", FAR + 100).ack(FAR).len(100)]);
    assert_eq!(lab.send(client("P.", FAR + (1 << 27)).ack(FAR).len(1)), Verdict::Drop(DropReason::SeqBeyond));
    assert_eq!(lab.send(server(".", FAR).ack(FAR + (1 << 27))), Verdict::Drop(DropReason::AckBeyond));
    assert_eq!(lab.send(client("R", FAR + (1 << 27))), Verdict::Drop(DropReason::BadRst));
}
