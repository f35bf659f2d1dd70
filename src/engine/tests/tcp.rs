//! TCP's phases, numbers and RSTs.

use super::*;
use crate::engine::Peer;

#[test]
fn a_life_from_syn_to_time_wait() {
    for mut lab in [Lab::new(), Lab::ipv6()] {
        for phase in [Phase::SynSent, Phase::SynReceived, Phase::Established] {
            let mut one = if lab.client.0.is_ipv4() { Lab::new() } else { Lab::ipv6() };
            one.bring_to(phase);
        }
        lab.handshake();
        lab.pass(&[
            client("P.", 1).ack(1).len(100),
            server(".", 1).ack(101),
            server("P.", 1).ack(101).len(1000),
        ]);
        lab.pass(&[client("F.", 101).ack(1001)]);
        assert_eq!(lab.phase(), Some(Phase::FinWait));
        lab.pass(&[server(".", 1001).ack(102)]);
        assert_eq!(lab.phase(), Some(Phase::HalfClosed));
        lab.pass(&[server("P.", 1001).ack(102).len(500), client(".", 102).ack(1501)]);
        assert_eq!(lab.phase(), Some(Phase::HalfClosed), "the server may still send");
        lab.pass(&[server("F.", 1501).ack(102)]);
        assert_eq!(lab.phase(), Some(Phase::Closing));
        lab.pass(&[client(".", 102).ack(1502)]);
        assert_eq!(lab.phase(), Some(Phase::TimeWait));
        lab.seconds(61);
        assert_eq!(lab.phase(), None);
        assert_eq!(lab.closed(), [CloseReason::Finished]);
        assert!(lab.resets().is_empty());
    }
}

#[test]
fn the_ack_must_cover_the_fin() {
    let mut lab = Lab::in_phase(Phase::Established);
    lab.pass(&[client("F.", 1).ack(1), server(".", 1).ack(1)]);
    assert_eq!(lab.phase(), Some(Phase::FinWait), "an ACK below the FIN does not close");
    lab.pass(&[server("P.", 1).ack(1).len(10)]);
    assert_eq!(lab.phase(), Some(Phase::FinWait));
    lab.pass(&[server(".", 11).ack(2)]);
    assert_eq!(lab.phase(), Some(Phase::HalfClosed));
}

#[test]
fn both_fins_cross() {
    let mut lab = Lab::in_phase(Phase::Established);
    lab.pass(&[client("F.", 1).ack(1), server("F.", 1).ack(1)]);
    assert_eq!(lab.phase(), Some(Phase::Closing));
    lab.pass(&[client(".", 2).ack(2)]);
    assert_eq!(lab.phase(), Some(Phase::Closing));
    lab.pass(&[server(".", 2).ack(2)]);
    assert_eq!(lab.phase(), Some(Phase::TimeWait));
}

#[test]
fn data_behind_a_fin_is_dropped_but_its_retransmission_passes() {
    let mut lab = Lab::in_phase(Phase::HalfClosed);
    lab.dropped(client("P.", 2).ack(1).len(10), DropReason::AfterFin);
    lab.pass(&[client("F.", 1).ack(1)]);
    assert_eq!(lab.phase(), Some(Phase::HalfClosed));
}

#[test]
fn simultaneous_open() {
    let mut lab = Lab::new();
    lab.pass(&[client("S", 0), server("S", 0)]);
    assert_eq!(lab.phase(), Some(Phase::SynReceived));
    lab.pass(&[client("S.", 0).ack(1)]);
    assert_eq!(lab.phase(), Some(Phase::SynReceived));
    lab.pass(&[server("S.", 0).ack(1)]);
    assert_eq!(lab.phase(), Some(Phase::Established));
    lab.pass(&[client("P.", 1).ack(1).len(5), server(".", 1).ack(6)]);
}

#[test]
fn retransmissions_of_the_handshake_pass_and_buy_no_time() {
    let mut lab = Lab::new();
    lab.pass(&[client("S", 0)]);
    lab.seconds(10);
    lab.pass(&[client("S", 0)]);
    assert_eq!(lab.view().unwrap().expires_in, Duration::from_secs(20));
    lab.pass(&[server("S.", 0).ack(1)]);
    lab.seconds(10);
    lab.pass(&[server("S.", 0).ack(1), client("S", 0)]);
    assert_eq!(lab.view().unwrap().expires_in, Duration::from_secs(20));
    lab.pass(&[client(".", 1).ack(1), server("S.", 0).ack(1)]);
    assert_eq!(lab.phase(), Some(Phase::Established));
}

#[test]
fn a_syn_ack_for_another_syn_opens_nothing_but_may_be_refused() {
    let mut lab = Lab::in_phase(Phase::SynSent);
    lab.pass(&[server("S.", 0).ack(77)]);
    assert_eq!(lab.phase(), Some(Phase::SynSent));
    // The client's RST to it passes and does not end its own attempt.
    lab.pass(&[client("R", 77)]);
    assert_eq!(lab.phase(), Some(Phase::SynSent));
    lab.pass(&[server("S.", 0).ack(1)]);
    assert_eq!(lab.phase(), Some(Phase::SynReceived));
    lab.dropped(client(".", 1).ack(9), DropReason::BadAck);
}

/// RFC 9293 §3.5.1, figure 9: the client crashed and opens again.
#[test]
fn a_crashed_end_recovers_through_the_challenge_ack() {
    let mut lab = Lab::in_phase(Phase::Established);
    lab.pass(&[server("P.", 1).ack(1).len(100), client(".", 1).ack(101)]);
    let again = 500_000;
    lab.pass(&[client("S", again)]);
    assert_eq!(lab.phase(), Some(Phase::Established), "a SYN ends nothing by itself");
    lab.pass(&[server(".", 101).ack(1)]);
    lab.pass(&[client("R", 1)]);
    assert_eq!(lab.phase(), Some(Phase::Reset));
    lab.pass(&[client("S", again)]);
    assert_eq!(lab.phase(), Some(Phase::SynSent));
    assert_eq!(lab.closed(), [CloseReason::Forgotten(Peer::Client)]);
}

#[test]
fn rst_three_ways() {
    // Exact: closes. The test is what the receiver has acknowledged or may expect.
    let mut lab = Lab::in_phase(Phase::Established);
    lab.pass(&[client("R", 1)]);
    assert_eq!(lab.phase(), Some(Phase::Reset));
    lab.seconds(11);
    assert_eq!(lab.closed(), [CloseReason::Rst(Peer::Client)]);

    // In window: passes, the connection is kept, the timer is short.
    let mut lab = Lab::in_phase(Phase::Established);
    lab.pass(&[client("R", 500)]);
    let view = lab.view().unwrap();
    assert_eq!((view.phase, view.timer), (Phase::Established, Timer::UnverifiedRst));
    assert_eq!(view.expires_in, Duration::from_secs(30));
    // The challenge ACK shows that the other end lives.
    lab.pass(&[server(".", 1).ack(1)]);
    assert_eq!(lab.view().unwrap().timer, Timer::Established);
    // Without an answer it ends.
    lab.pass(&[client("R", 500)]);
    lab.seconds(31);
    assert_eq!(lab.phase(), None);

    // What is said on the RST's own side answers nothing.
    let mut lab = Lab::in_phase(Phase::Established);
    lab.pass(&[client("R", 500), client("P.", 1).ack(1).len(10)]);
    assert_eq!(lab.view().unwrap().timer, Timer::UnverifiedRst);
    lab.pass(&[server(".", 1).ack(11)]);
    assert_eq!(lab.view().unwrap().timer, Timer::Established);

    // Between what is acknowledged and what was sent only the receiver knows: a
    // forged one among much that is under way must not end the connection.
    let mut lab = Lab::in_phase(Phase::Established);
    lab.pass(&[client("P.", 1).ack(1).len(1000), client("P.", 1001).ack(1).len(1000), client("R", 1001)]);
    assert_eq!(lab.view().unwrap().timer, Timer::UnverifiedRst);
    lab.pass(&[server(".", 1).ack(2001)]);
    assert_eq!(lab.view().unwrap().timer, Timer::Unacknowledged.min(Timer::Established));
    for exact in [1, 2001] {
        let mut lab = Lab::in_phase(Phase::Established);
        lab.pass(&[client("P.", 1).ack(1).len(1000), client("P.", 1001).ack(1).len(1000)]);
        lab.pass(&[client("R", exact)]);
        assert_eq!(lab.phase(), Some(Phase::Reset));
        // What is still under way to the end that is gone draws more of them.
        lab.pass(&[client("R", 1), client("R", 2001)]);
    }

    // Outside: dropped.
    let mut lab = Lab::in_phase(Phase::Established);
    lab.dropped(client("R", 70_000), DropReason::BadRst);
    lab.dropped(client("R", 0), DropReason::BadRst);
    lab.dropped(client("R", 1 << 31), DropReason::BadRst);
}

#[test]
fn a_refused_syn_needs_an_rst_that_acknowledges_it() {
    let mut lab = Lab::in_phase(Phase::SynSent);
    lab.dropped(server("R", 0), DropReason::BadRst);
    lab.dropped(server("R.", 0).ack(2), DropReason::BadRst);
    lab.pass(&[server("R.", 0).ack(1)]);
    assert_eq!(lab.phase(), Some(Phase::Reset));
    lab.seconds(11);
    assert_eq!(lab.closed(), [CloseReason::Rst(Peer::Server)]);
}

#[test]
fn the_four_inequalities() {
    let mut lab = Lab::new();
    lab.pass(&[
        client("S", 0).window(1000),
        server("S.", 0).ack(1).window(2000),
        client(".", 1).ack(1).window(1000),
    ]);
    // 1: the server's window ends at 2001.
    lab.dropped(client(".", 4001).ack(1).window(1000), DropReason::SeqBeyond);
    lab.pass(&[
        client(".", 1).ack(1).len(1000).window(1000),
        client(".", 1001).ack(1).len(1000).window(1000),
    ]);
    // 2: more than the server's window and the largest one behind what was sent.
    lab.dropped(client(".", 0u32.wrapping_sub((1 << 30) + 1)).ack(1).window(1000), DropReason::SeqOld);
    // 3: the server acknowledges what was never sent.
    lab.unbelieved(server(".", 1).ack(2002).window(2000));
    lab.dropped(server(".", 1).ack(2001 + 132_001).window(2000), DropReason::AckBeyond);
    // 4: and what is long past.
    let long_past = 2001u32.wrapping_sub((1 << 30) + 132_001);
    lab.dropped(server(".", 1).ack(long_past).window(2000), DropReason::AckOld);
    lab.pass(&[server(".", 1).ack(2001u32.wrapping_sub(132_000)).window(2000)]);
    lab.pass(&[server(".", 1).ack(2001).window(2000)]);
}

/// RFC 9293 §3.10.7.4: a receiver answers what it can't accept with an ACK. It must
/// see it, and the firewall must not believe it.
#[test]
fn what_is_little_outside_the_window_passes_and_changes_nothing() {
    let outside = [
        client("P.", 2002).ack(1).len(100),
        client("F.", 2002).ack(1),
        client("P.", 4000).ack(1),
        client("P.", 0u32.wrapping_sub(3000)).ack(1).len(100),
        client("F.", 0u32.wrapping_sub(1 << 29)).ack(1),
        client("P.", 1).ack(1u32.wrapping_sub(140_000)).len(100),
        client("F.", 1).ack(1u32.wrapping_sub(1 << 29)),
    ];
    for segment in outside {
        let mut lab = Lab::new();
        lab.pass(&[
            client("S", 0).window(1000),
            server("S.", 0).ack(1).window(2000),
            client(".", 1).ack(1).window(1000),
        ]);
        lab.seconds(100);
        let expires_in = lab.view().unwrap().expires_in;
        lab.pass(&[segment]);
        let view = lab.view().unwrap();
        assert_eq!((view.phase, view.expires_in), (Phase::Established, expires_in), "{segment:?}");
        // It has opened no window, and nobody can acknowledge it but who may take it.
        lab.dropped(client(".", 4001).ack(1), DropReason::SeqBeyond);
        if segment.seq != 2002 {
            lab.unbelieved(server(".", 1).ack(2));
        }
    }
}

/// RFC 9293 §3.6: a FIN is the last that an end sends. One that lies before what was
/// sent is a forger's or of another life, and must not cut the rest off.
#[test]
fn a_fin_before_what_was_sent_closes_nothing() {
    let mut lab = Lab::in_phase(Phase::Established);
    lab.pass(&[client("P.", 1).ack(1).len(1000), client("F.", 501).ack(1)]);
    assert_eq!(lab.phase(), Some(Phase::Established));
    lab.pass(&[client("P.", 1001).ack(1).len(1000), client("F.", 2001).ack(1)]);
    assert_eq!(lab.phase(), Some(Phase::FinWait));
}

/// What a forger sends at the window's end must not make the rest look old.
#[test]
fn what_ends_beyond_the_window_makes_nothing_older() {
    let mut lab = Lab::new();
    lab.pass(&[client("S", 0), server("S.", 0).ack(1).window(1000), client(".", 1).ack(1)]);
    lab.pass(&[client("P.", 1001).ack(1).len(1400)]);
    lab.pass(&[server("F.", 1).ack(1).window(1000), client("F.", 1).ack(2), server(".", 2).ack(2)]);
    assert_eq!(lab.phase(), Some(Phase::HalfClosed), "the client's ACK was believed");
}

/// What fits into the window may end beyond it; the ACKs after it must be believed.
#[test]
fn an_ack_may_begin_where_the_last_segment_ended() {
    let mut lab = Lab::new();
    lab.pass(&[client("S", 0), server("S.", 0).ack(1).window(100), client(".", 1).ack(1)]);
    lab.pass(&[client("F.", 1).ack(1).len(150), server("F.", 1).ack(1).window(100)]);
    lab.pass(&[server(".", 2).ack(152), client(".", 152).ack(2)]);
    assert_eq!(lab.phase(), Some(Phase::TimeWait));
}

/// RFC 9293 §3.10.7.4 (SYN-RECEIVED): an old acknowledgement is answered with an RST
/// of its number, which must pass to whoever still has that old connection.
#[test]
fn an_old_acknowledgement_in_the_handshake_is_for_the_server_to_refuse() {
    let mut lab = Lab::in_phase(Phase::SynReceived);
    lab.pass(&[client(".", 1).ack(0u32.wrapping_sub(500)), server("R", 0u32.wrapping_sub(500))]);
    assert_eq!(lab.phase(), Some(Phase::SynReceived));
    lab.pass(&[server("S.", 0).ack(0u32.wrapping_sub(700)), client("R", 0u32.wrapping_sub(700))]);
    assert_eq!(lab.phase(), Some(Phase::SynReceived));
    lab.pass(&[client(".", 1).ack(1)]);
    assert_eq!(lab.phase(), Some(Phase::Established));
}

#[test]
fn windows_scale_only_if_both_ends_offer_it() {
    for (server_scale, reach) in [(Some(7), 1000 << 7), (None, 1000)] {
        let mut lab = Lab::new();
        let mut answer = server("S.", 0).ack(1).window(1000);
        answer.scale = server_scale;
        lab.pass(&[client("S", 0).scale(5), answer, client(".", 1).ack(1)]);
        lab.pass(&[server(".", 1).ack(1).window(1000)]);
        lab.dropped(client("P.", 1 + reach + 200_000).ack(1), DropReason::SeqBeyond);
        lab.pass(&[client("P.", 1 + reach).ack(1).len(1)]);
        // That was believed.
        lab.pass(&[server(".", 1).ack(1 + reach + 1)]);
    }
}

#[test]
fn keepalives_and_zero_window_probes_pass() {
    let mut lab = Lab::in_phase(Phase::Established);
    lab.pass(&[client(".", 0).ack(1), server(".", 1).ack(1)]);
    lab.pass(&[client(".", 0).ack(1).len(1), server(".", 1).ack(1)]);
    lab.pass(&[
        server(".", 1).ack(1).window(0),
        client("P.", 1).ack(1).len(1),
        server(".", 1).ack(1).window(0),
    ]);
}

#[test]
fn fast_open_data_in_the_syn_and_before_the_last_ack() {
    let mut lab = Lab::new();
    lab.pass(&[client("S", 0).len(100), server("S.", 0).ack(101), server("P.", 1).ack(101).len(500)]);
    assert_eq!(lab.phase(), Some(Phase::SynReceived));
    lab.pass(&[client(".", 101).ack(501)]);
    assert_eq!(lab.phase(), Some(Phase::Established));
    // The server may send as much as the SYN's window allows.
    let mut lab = Lab::new();
    lab.pass(&[
        client("S", 0).len(100).window(3000),
        server("S.", 0).ack(101),
        server("P.", 1).ack(101).len(1448),
        server("P.", 1449).ack(101).len(1448),
        server("P.", 2897).ack(101).len(104),
    ]);
    lab.dropped(server("P.", 6001).ack(101).len(1), DropReason::SeqBeyond);
    // The server may also take only the SYN.
    let mut lab = Lab::new();
    lab.pass(&[client("S", 0).len(100), server("S.", 0).ack(1), client("P.", 1).ack(1).len(100)]);
    assert_eq!(lab.phase(), Some(Phase::Established));
}

#[test]
fn time_wait_is_left_by_a_newer_syn_only() {
    let mut lab = Lab::in_phase(Phase::TimeWait);
    lab.pass(&[client("S", 1)]);
    assert_eq!(lab.phase(), Some(Phase::TimeWait), "an old duplicate");
    lab.pass(&[client("S", 100_000)]);
    assert_eq!(lab.phase(), Some(Phase::SynSent));

    let mut lab = Lab::new();
    let stamped = |mut say: Say, value| {
        say.timestamp = Some(value);
        say
    };
    lab.pass(&[
        client("S", 0).timestamp(10),
        stamped(server("S.", 0).ack(1), 20),
        stamped(client(".", 1).ack(1), 11),
        stamped(client("F.", 1).ack(1), 12),
        stamped(server("F.", 1).ack(2), 22),
        stamped(client(".", 2).ack(2), 13),
    ]);
    assert_eq!(lab.phase(), Some(Phase::TimeWait));
    lab.pass(&[client("S", 0u32.wrapping_sub(1000)).timestamp(14)]);
    assert_eq!(lab.phase(), Some(Phase::SynSent), "a newer timestamp (RFC 6191)");
}

/// A late duplicate of the SYN that began what is over: timestamps offered in it and
/// not taken, or an RST, make it no newer.
#[test]
fn the_syn_that_began_a_connection_begins_no_other() {
    let mut lab = Lab::new();
    lab.pass(&[client("S", 0).timestamp(10), server("S.", 0).ack(1), client(".", 1).ack(1)]);
    lab.pass(&[client("F.", 1).ack(1), server("F.", 1).ack(2), client(".", 2).ack(2)]);
    lab.pass(&[client("S", 0).timestamp(10)]);
    assert_eq!(lab.phase(), Some(Phase::TimeWait));
    lab.pass(&[client(".", 2).ack(2)]);

    let mut lab = Lab::in_phase(Phase::Established);
    lab.pass(&[client("P.", 1).ack(1).len(10), server("R", 1), client("S", 0), server("R", 1)]);
    assert_eq!(lab.phase(), Some(Phase::Reset));
    lab.pass(&[client("S", 1)]);
    assert_eq!(lab.phase(), Some(Phase::SynSent), "any other one does");

    // Refused, and sent again before the refusal arrives: that is no duplicate.
    let mut lab = Lab::in_phase(Phase::SynSent);
    lab.pass(&[server("R.", 0).ack(1), client("S", 0)]);
    assert_eq!(lab.phase(), Some(Phase::SynSent));
    lab.pass(&[server("S.", 0).ack(1), client(".", 1).ack(1)]);
    assert_eq!(lab.phase(), Some(Phase::Established));
}

#[test]
fn an_rst_does_not_end_time_wait() {
    let mut lab = Lab::in_phase(Phase::TimeWait);
    lab.pass(&[client("R", 2)]);
    assert_eq!(lab.phase(), Some(Phase::TimeWait));
}

#[test]
fn impossible_flags_are_dropped_everywhere() {
    for flags in ["", "SF", "SR", "SF.", "FR", "FR.", "F", "SFRPU.", "FPU", "P", "U"] {
        let mut lab = Lab::in_phase(Phase::Established);
        let mut say = client(flags, 1);
        if flags.contains('.') {
            say = say.ack(1);
        }
        lab.dropped(say, DropReason::ImpossibleFlags);
        let mut fresh = Lab::new();
        fresh.dropped(client(flags, 0), DropReason::ImpossibleFlags);
        assert_eq!(fresh.phase(), None);
    }
}

/// Linux takes one segment beyond its window while nothing else is queued, and answers
/// what comes beyond it afterwards, which therefore has to reach it.
#[test]
fn a_receiver_that_takes_more_than_it_offered_has_a_larger_window() {
    let mut lab = Lab::new();
    lab.pass(&[
        client("S", 0),
        server("S.", 0).ack(1).window(10_000),
        client(".", 1).ack(1),
        client("P.", 1).ack(1).len(4_000),
        server(".", 1).ack(4_001).window(5_000),
    ]);
    lab.dropped(client("P.", 70_001).ack(1).len(10_000), DropReason::SeqBeyond);
    lab.pass(&[
        client("P.", 4_001).ack(1).len(50_000),
        client("P.", 5_001).ack(1).len(50_000),
        client("P.", 70_001).ack(1).len(10_000),
        server(".", 1).ack(4_001).window(5_000),
    ]);
    lab.dropped(client("P.", 900_001).ack(1).len(10_000), DropReason::SeqBeyond);
}
