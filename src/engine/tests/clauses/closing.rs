//! FINs, their acknowledgements, and what follows them.

use super::*;

/// RFC 9293 §3.6 (C9293-30, C9293-31): a FIN is acknowledged only by a number beyond it,
/// and data that come with it or before it do not hide it.
#[test]
fn a_fin_with_data_is_acknowledged_only_by_what_lies_beyond_it() {
    for (from, to) in [(From::Client, From::Server), (From::Server, From::Client)] {
        let mut lab = Lab::in_phase(Phase::Established);
        lab.pass(&[say(from, "P.", 1).ack(1).len(1000), say(from, "FP.", 1001).ack(1).len(500)]);
        assert_eq!(lab.phase(), Some(Phase::FinWait));
        // All data, but not the FIN; then the FIN.
        for (ack, phase) in [(1001, Phase::FinWait), (1501, Phase::FinWait), (1502, Phase::HalfClosed)] {
            lab.pass(&[say(to, ".", 1).ack(ack)]);
            assert_eq!(lab.phase(), Some(phase), "{ack} from {to:?}");
        }
    }
}

/// RFC 9293 §3.6.1 (C9293-33): the end that has not closed may send on, either of them,
/// for as long as it likes; the other acknowledges.
#[test]
fn either_end_may_be_the_one_that_still_sends() {
    for (closed, sending) in [(From::Client, From::Server), (From::Server, From::Client)] {
        let mut lab = Lab::in_phase(Phase::Established);
        lab.pass(&[say(closed, "F.", 1).ack(1), say(sending, ".", 1).ack(2)]);
        assert_eq!(lab.phase(), Some(Phase::HalfClosed));
        for at in 0..20 {
            lab.seconds(590);
            lab.pass(&[
                say(sending, "P.", 1 + at * 100).ack(2).len(100),
                say(closed, ".", 2).ack(101 + at * 100),
            ]);
            assert_eq!(lab.phase(), Some(Phase::HalfClosed));
        }
        lab.pass(&[say(sending, "F.", 2001).ack(2)]);
        assert_eq!(lab.phase(), Some(Phase::Closing));
        lab.pass(&[say(closed, ".", 2).ack(2002)]);
        assert_eq!(lab.phase(), Some(Phase::TimeWait));
    }
}

/// RFC 9293 §3.6.1 (C9293-34): how long an end may stay half-closed is the operator's to
/// say; it counts from the first FIN, whoever sent it.
#[test]
fn half_closed_max_holds_whichever_end_closed_first() {
    let longest = 1000;
    for (closed, sending) in [(From::Client, From::Server), (From::Server, From::Client)] {
        let mut settings = open_settings();
        settings.timers.push((Timer::HalfClosedMax, Some(Duration::from_secs(longest))));
        let mut lab = Lab::with(settings, Vec::new());
        lab.handshake();
        lab.seconds(300);
        lab.pass(&[say(closed, "F.", 1).ack(1)]);
        lab.seconds(100);
        lab.pass(&[say(sending, ".", 1).ack(2)]);
        for at in 0..8 {
            lab.seconds(100);
            lab.pass(&[
                say(sending, "P.", 1 + at * 10).ack(2).len(10),
                say(closed, ".", 2).ack(11 + at * 10),
            ]);
        }
        assert_eq!(lab.timer(), (Timer::HalfClosedMax, 100));
        lab.seconds(101);
        assert_eq!(lab.phase(), None);
    }
}

/// RFC 9293 §3.6 (C9293-32): after its FIN an end sends nothing new, but what it sent
/// before may be lost and come again, the FIN with it.
#[test]
fn behind_a_fin_only_what_was_sent_before_comes_again() {
    for (from, to) in [(From::Client, From::Server), (From::Server, From::Client)] {
        let mut lab = Lab::in_phase(Phase::Established);
        lab.pass(&[say(from, "P.", 1).ack(1).len(1000), say(from, "F.", 1001).ack(1)]);
        // Data beyond the FIN, and a FIN beyond the FIN.
        lab.dropped(say(from, "P.", 1001).ack(1).len(2), DropReason::AfterFin);
        lab.dropped(say(from, "P.", 1002).ack(1).len(1), DropReason::AfterFin);
        lab.dropped(say(from, "F.", 1002).ack(1), DropReason::AfterFin);
        // Alone, and in one segment with the data before it.
        lab.pass(&[
            say(from, "P.", 1).ack(1).len(1000),
            say(from, "F.", 1001).ack(1),
            say(from, "FP.", 1).ack(1).len(1000),
            say(from, ".", 1002).ack(1),
        ]);
        assert_eq!(lab.phase(), Some(Phase::FinWait));
        lab.pass(&[say(to, ".", 1).ack(1002)]);
        assert_eq!(lab.phase(), Some(Phase::HalfClosed));
    }
}

/// RFC 9293 §3.6 (C9293-35): both FINs cross, figure 13; each is acknowledged by itself.
#[test]
fn simultaneous_close_in_every_order() {
    let says = |from, to| {
        [
            [
                say(from, "F.", 1).ack(1),
                say(to, "F.", 1).ack(1),
                say(from, ".", 2).ack(2),
                say(to, ".", 2).ack(2),
            ],
            // The acknowledgement comes with the retransmitted FIN.
            [
                say(from, "F.", 1).ack(1),
                say(to, "F.", 1).ack(1),
                say(from, "F.", 1).ack(2),
                say(to, "F.", 1).ack(2),
            ],
            [
                say(from, "F.", 1).ack(1),
                say(to, "F.", 1).ack(1),
                say(to, ".", 2).ack(2),
                say(from, ".", 2).ack(2),
            ],
        ]
    };
    for script in says(From::Client, From::Server).into_iter().chain(says(From::Server, From::Client)) {
        let mut lab = Lab::in_phase(Phase::Established);
        lab.pass(&script[..2]);
        assert_eq!(lab.phase(), Some(Phase::Closing));
        lab.pass(&script[2..3]);
        assert_eq!(lab.phase(), Some(Phase::Closing), "one FIN is not acknowledged yet");
        lab.pass(&script[3..]);
        assert_eq!(lab.phase(), Some(Phase::TimeWait));
    }
}

/// RFC 9293 §3.10.7.4, eighth (C9293-36): in TIME-WAIT a FIN that comes again, because the
/// last ACK was lost, starts the 2 MSL anew; nothing else does.
#[test]
fn only_a_retransmitted_fin_starts_time_wait_anew() {
    let mut lab = Lab::in_phase(Phase::TimeWait);
    for say in [client(".", 2).ack(2), server(".", 2).ack(2), client("R", 2), server("S.", 0).ack(1)] {
        lab.changes_nothing(say);
    }
    assert_eq!(lab.timer(), (Timer::TimeWait, 56));
    lab.pass(&[server("F.", 1).ack(2), client(".", 2).ack(2)]);
    assert_eq!((lab.phase(), lab.timer()), (Some(Phase::TimeWait), (Timer::TimeWait, 60)));
    lab.seconds(61);
    assert_eq!(lab.closed(), [CloseReason::Finished]);
}

/// RFC 9293 §3.10.7.4, fifth (C9293-37): in LAST-ACK and CLOSING only the acknowledgement
/// of the own FIN ends the connection; a challenge ACK (RFC 5961 §3.2) is not it.
#[test]
fn a_challenge_ack_is_not_the_last_ack() {
    let mut lab = Lab::in_phase(Phase::Closing);
    // A SYN and an inexact RST draw one each from the client, which has not got the FIN.
    lab.pass(&[server("S", 77), client(".", 2).ack(1), server("R", 500), client(".", 2).ack(1)]);
    assert_eq!(lab.phase(), Some(Phase::Closing));
    lab.pass(&[client(".", 2).ack(2)]);
    assert_eq!(lab.phase(), Some(Phase::TimeWait));
}

/// RFC 9293 §3.10.7.4, first and eighth (C9293-38): a FIN below what its receiver has
/// acknowledged is no FIN to it, but an old segment; the connection goes on.
#[test]
fn a_fin_below_what_was_acknowledged_closes_nothing() {
    for (from, to) in [(From::Client, From::Server), (From::Server, From::Client)] {
        let mut lab = Lab::in_phase(Phase::Established);
        lab.pass(&[say(from, "P.", 1).ack(1).len(1000), say(to, ".", 1).ack(1001)]);
        for forged in
            [say(from, "F.", 500).ack(1), say(from, "F.", 1000).ack(1), say(from, "FP.", 1).ack(1).len(9)]
        {
            lab.pass(&[forged, say(to, ".", 1).ack(1001)]);
            assert_eq!(lab.phase(), Some(Phase::Established), "{forged:?}");
        }
        lab.pass(&[say(from, "P.", 1001).ack(1).len(1000), say(to, ".", 1).ack(2001)]);
        lab.pass(&[say(from, "F.", 2001).ack(1), say(to, ".", 1).ack(2002)]);
        assert_eq!(lab.phase(), Some(Phase::HalfClosed));
    }
}

/// RFC 9293 §3.10.7.4, eighth (C9293-39): a FIN may come before the handshake is over.
#[test]
fn a_fin_may_come_with_the_last_ack_of_the_handshake() {
    let mut lab = Lab::in_phase(Phase::SynReceived);
    lab.pass(&[client("FP.", 1).ack(1).len(10)]);
    assert_eq!(lab.phase(), Some(Phase::FinWait));
    lab.pass(&[server(".", 1).ack(12)]);
    assert_eq!(lab.phase(), Some(Phase::HalfClosed));
    // Of the server before the client's ACK: it is not over yet.
    let mut lab = Lab::in_phase(Phase::SynReceived);
    lab.pass(&[server("F.", 1).ack(1)]);
    assert_eq!(lab.phase(), Some(Phase::SynReceived));
    lab.pass(&[client(".", 1).ack(1)]);
    assert_eq!(lab.phase(), Some(Phase::FinWait));
    lab.pass(&[client(".", 1).ack(2)]);
    assert_eq!(lab.phase(), Some(Phase::HalfClosed));
}
