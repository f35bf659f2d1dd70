//! Blind attacks: RST, SYN and data, exact, in window and outside (RFC 5961).

use super::*;

const BOTH_WAYS: [(From, From); 2] = [(From::Client, From::Server), (From::Server, From::Client)];

/// A synchronised connection, and what each end sends next.
fn at(phase: Phase) -> (Lab, impl Fn(From) -> u32) {
    let lab = Lab::in_phase(phase);
    let next = move |from: From| match (from, phase) {
        (From::Client, Phase::FinWait | Phase::HalfClosed | Phase::Closing) => 2,
        (From::Server, Phase::Closing) => 2,
        (From::Client | From::Server, _) => 1,
    };
    (lab, next)
}

/// What the other end has acknowledged of an end in these phases (see `bring_to`).
fn acked(phase: Phase, of: From) -> u32 {
    match (of, phase) {
        (From::Client, Phase::HalfClosed | Phase::Closing) => 2,
        (From::Client | From::Server, _) => 1,
    }
}

/// RFC 5961 §3.2, step 2 (C5961-02): an RST that is exactly what its receiver expects
/// ends the connection.
#[test]
fn an_exact_rst_ends_the_connection() {
    for phase in SYNCHRONISED {
        for (from, _) in BOTH_WAYS {
            let next = at(phase).1(from);
            for seq in [next, acked(phase, from)] {
                for rst in [say(from, "R", seq), say(from, "R.", seq).ack(1)] {
                    let mut lab = Lab::in_phase(phase);
                    lab.pass(&[rst]);
                    assert_eq!(lab.phase(), Some(Phase::Reset), "{phase} {rst:?}");
                }
            }
            let mut lab = Lab::in_phase(phase);
            lab.pass(&[say(from, "R.", next).ack(1)]);
            lab.seconds(11);
            assert!(matches!(lab.closed()[..], [CloseReason::Rst(_)]), "{phase}");
        }
    }
}

/// RFC 5961 §3.2, step 3 (C5961-03, C5961-10): an RST in window but not exact passes, for
/// its receiver to challenge. The challenge passes and ends the suspicion; without any
/// answer the connection ends by `unverified_rst`.
#[test]
fn an_rst_in_window_waits_for_its_receivers_word() {
    for phase in SYNCHRONISED {
        for (from, to) in BOTH_WAYS {
            let (mut lab, next) = at(phase);
            lab.pass(&[say(from, "R", next(from) + 100)]);
            assert_eq!((lab.phase(), lab.timer()), (Some(phase), (Timer::UnverifiedRst, 30)), "{from:?}");
            // Another one buys no time.
            lab.seconds(10);
            lab.pass(&[say(from, "R", next(from) + 200)]);
            assert_eq!(lab.timer(), (Timer::UnverifiedRst, 20), "{phase}");
            // The challenge ACK says what its sender has got, and changes no phase.
            lab.pass(&[say(to, ".", next(to)).ack(acked(phase, from))]);
            assert_eq!(lab.phase(), Some(phase), "{from:?}");
            assert_ne!(lab.timer().0, Timer::UnverifiedRst, "{phase}");
            // Whoever is really gone answers the challenge with the exact number.
            lab.pass(&[say(from, "R", acked(phase, from))]);
            assert_eq!(lab.phase(), Some(Phase::Reset));

            let (mut silent, next) = at(phase);
            silent.pass(&[say(from, "R", next(from) + 100)]);
            silent.seconds(31);
            let [CloseReason::Expired { timer: Timer::UnverifiedRst, .. }] = silent.closed()[..] else {
                panic!("{phase} {from:?}")
            };
        }
    }
}

/// RFC 5961 §3.2, step 1 (C5961-01): an RST outside the window is dropped, as its receiver
/// would.
#[test]
fn an_rst_outside_the_window_is_dropped() {
    for phase in SYNCHRONISED {
        for (from, _) in BOTH_WAYS {
            let (mut lab, _) = at(phase);
            for seq in [70_000, 1 << 30, 1 << 31, 0, 0_u32.wrapping_sub(1000), 0x9000_0000] {
                lab.dropped(say(from, "R", seq), DropReason::BadRst);
                lab.dropped(say(from, "R.", seq).ack(1), DropReason::BadRst);
            }
            assert_eq!(lab.phase(), Some(phase));
        }
    }
}

/// RFC 5961 §4.2 (C5961-04): a SYN in a synchronised state passes whatever its number, and
/// changes nothing; nor does the challenge ACK that it draws.
#[test]
fn a_syn_and_its_challenge_ack_change_nothing() {
    for phase in SYNCHRONISED {
        for (from, to) in BOTH_WAYS {
            for seq in [0, 1, 2, 100, 70_000, 1 << 31, u32::MAX] {
                let (mut lab, next) = at(phase);
                lab.changes_nothing(say(from, "S", seq));
                lab.pass(&[say(to, ".", next(to)).ack(acked(phase, from))]);
                assert_eq!(lab.phase(), Some(phase), "{seq} from {from:?}");
                // It goes on: nothing was learnt from the SYN.
                lab.unbelieved(say(to, ".", next(to)).ack(next(from) + 1));
            }
        }
    }
}

/// RFC 5961 §4.2 (C5961-05): an end that really has begun anew answers the challenge with
/// an RST of the number that it acknowledges, which is exact; then its SYN opens.
#[test]
fn an_end_that_restarted_answers_the_challenge_and_opens_anew() {
    for phase in SYNCHRONISED {
        let (mut lab, next) = at(phase);
        let again = 0x4000_0000;
        lab.pass(&[client("S", again), server(".", next(From::Server)).ack(acked(phase, From::Client))]);
        lab.pass(&[client("R", acked(phase, From::Client))]);
        assert_eq!(lab.phase(), Some(Phase::Reset), "{phase}");
        lab.pass(&[
            client("S", again),
            server("S.", 9_000).ack(again + 1),
            client(".", again + 1).ack(9_001),
        ]);
        assert_eq!(lab.phase(), Some(Phase::Established));
    }
}

/// RFC 5961 §5.2 (C5961-06): data are believed only with an acknowledgement that lies no
/// further back than MAX.SND.WND below SND.UNA, and not beyond SND.NXT.
#[test]
fn data_need_an_acknowledgement_in_range() {
    for (from, to) in BOTH_WAYS {
        let mut lab = Lab::in_phase(Phase::Established);
        lab.pass(&[say(to, "P.", 1).ack(1).len(1000)]);
        let oldest = 1001_u32.wrapping_sub(2 * 66_000);
        lab.unbelieved(say(from, "P.", 1).ack(1002).len(10));
        lab.dropped(say(from, "P.", 1).ack(1 << 31).len(10), DropReason::AckBeyond);
        lab.changes_nothing(say(from, "P.", 1).ack(oldest.wrapping_sub(1)).len(10));
        lab.unbelieved(say(to, ".", 1001).ack(11));
        lab.pass(&[say(from, "P.", 1).ack(oldest).len(10), say(to, ".", 1001).ack(11)]);
    }
}

/// RFC 5961 §9.1 and §9.3 (C5961-08, C5961-09): an RST that was exact here may not have
/// been at its receiver, where data before it were lost. Its challenge passes, and so does
/// the RST that answers it.
#[test]
fn after_an_rst_the_challenge_and_its_answer_still_pass() {
    for (from, to) in BOTH_WAYS {
        let mut lab = Lab::in_phase(Phase::Established);
        lab.pass(&[say(from, "P.", 1).ack(1).len(500), say(from, "R", 501)]);
        assert_eq!(lab.phase(), Some(Phase::Reset));
        lab.changes_nothing(say(to, ".", 1).ack(1));
        lab.changes_nothing(say(from, "R", 1));
        lab.seconds(9);
        assert_eq!(lab.phase(), None, "nothing of this bought time");
    }
}

/// RFC 5961 §7 (C5961-07): challenges are throttled by their senders; no answer at all may
/// come to a SYN. The connection is none the worse for it.
#[test]
fn a_syn_that_nobody_challenges_harms_nothing() {
    for (from, to) in BOTH_WAYS {
        let mut lab = Lab::in_phase(Phase::Established);
        for seq in 0..200 {
            lab.pass(&[say(from, "S", seq * 20_000_000)]);
        }
        lab.seconds(7000);
        lab.pass(&[say(from, "P.", 1).ack(1).len(10), say(to, "P.", 1).ack(11).len(10)]);
        assert_eq!(lab.phase(), Some(Phase::Established));
        assert_eq!(lab.engine.counters().connections, 1);
    }
}
