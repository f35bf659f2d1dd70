//! Windows, their scaling, and probes of an idle or closed one.

use super::*;

/// Whether one octet at this place of the client's numbers is taken for sent.
fn takes(lab: &mut Lab, seq: u32) -> bool {
    lab.believes(client("P.", seq).ack(1).len(1))
}

/// A connection after a handshake with these shifts, and a first window of 1000 of both.
fn scaled(of_client: Option<u8>, of_server: Option<u8>) -> Lab {
    let mut lab = Lab::new();
    let (mut syn, mut syn_ack) = (client("S", 0), server("S.", 0).ack(1));
    (syn.scale, syn_ack.scale) = (of_client, of_server);
    lab.pass(&[syn, syn_ack, client(".", 1).ack(1).window(1000), server(".", 1).ack(1).window(1000)]);
    lab
}

/// RFC 7323 §2.2 (C7323-01, C7323-02): each end's windows are shifted by its own count, and
/// only if both SYNs carried the option.
#[test]
fn each_direction_has_its_own_scale() {
    let cases = [(Some(0), 0), (Some(3), 0), (Some(7), 0), (None, 0)];
    for (of_client, _) in cases {
        for (of_server, _) in cases {
            let both = of_client.is_some() && of_server.is_some();
            let shift = |scale: Option<u8>| if both { scale.unwrap() } else { 0 };
            // The SYNs' own windows are 65535, so measure beyond that only.
            let reach_of = |scale| (1000_u32 << shift(scale)).max(0xffff);
            let last = 1 + reach_of(of_server);
            assert!(takes(&mut scaled(of_client, of_server), last), "{of_client:?} {of_server:?}");
            assert!(!takes(&mut scaled(of_client, of_server), last + 1), "{of_client:?} {of_server:?}");
            let last = 1 + reach_of(of_client);
            for (seq, taken) in [(last, true), (last + 1, false)] {
                let mut lab = scaled(of_client, of_server);
                let believed = lab.believes(server("P.", seq).ack(1).len(1));
                assert_eq!(believed, taken, "{of_client:?} {of_server:?}");
            }
        }
    }
}

/// RFC 7323 §2.2 (C7323-03): the window in a SYN or SYN-ACK is never scaled.
#[test]
fn a_window_in_a_syn_is_never_scaled() {
    let lab = |scale| {
        let mut lab = Lab::new();
        lab.pass(&[
            client("S", 0).scale(scale).window(2000),
            server("S.", 0).ack(1).scale(scale).window(1000),
            client(".", 1).ack(1).window(1),
        ]);
        lab
    };
    assert!(takes(&mut lab(10), 1001));
    assert!(!takes(&mut lab(10), 1002));
    // Also where it comes again, before the last ACK or after.
    let mut again = Lab::new();
    let syn_ack = server("S.", 0).ack(1).scale(10).window(1000);
    again.pass(&[
        client("S", 0).scale(10).window(2000),
        syn_ack,
        syn_ack,
        client(".", 1).ack(1).window(1),
        syn_ack,
    ]);
    assert!(!takes(&mut again, 1002));
}

/// RFC 7323 §2.3 (C7323-04): a shift beyond 14 counts as 14.
#[test]
fn a_shift_beyond_14_counts_as_14() {
    let longest = 1 + (1000 << 14);
    for shift in [14, 15, 31, 255] {
        assert!(takes(&mut scaled(Some(0), Some(shift)), longest), "{shift}");
        assert!(!takes(&mut scaled(Some(0), Some(shift)), longest + 1), "{shift}");
    }
}

/// RFC 7323 §2.4 (C7323-05), RFC 9293 §3.8.6, MUST-34 (C9293-26): a window that shrinks does
/// not make what was sent before wrong, nor its acknowledgements.
#[test]
fn a_window_may_shrink_under_what_is_under_way() {
    let mut lab = Lab::in_phase(Phase::Established);
    lab.pass(&[
        server(".", 1).ack(1).window(10_000),
        client("P.", 1).ack(1).len(5000),
        // It shrinks to 2000, then to nothing, and still the rest arrives.
        server(".", 1).ack(1001).window(1000),
        server(".", 1).ack(1001).window(0),
        client("P.", 5001).ack(1).len(5000),
        client("P.", 1001).ack(1).len(4000),
        server(".", 1).ack(10_001).window(0),
    ]);
    assert_eq!(lab.timer(), (Timer::Established, 7440));
}

/// RFC 9293 §3.8.6.1, MUST-36 and MUST-37 (C9293-27): a closed window is probed with an
/// octet beyond it, for as long as the other end answers.
#[test]
fn a_closed_window_may_be_probed_for_hours() {
    for (from, to) in [(From::Client, From::Server), (From::Server, From::Client)] {
        let mut lab = Lab::in_phase(Phase::Established);
        lab.pass(&[say(from, "P.", 1).ack(1).len(1000), say(to, ".", 1).ack(1001).window(0)]);
        for _ in 0..200 {
            lab.seconds(120);
            lab.pass(&[say(from, ".", 1001).ack(1).len(1), say(to, ".", 1).ack(1001).window(0)]);
        }
        assert_eq!(lab.phase(), Some(Phase::Established));
        // It opens; the probe's octet was taken.
        lab.pass(&[say(to, ".", 1).ack(1002).window(5000), say(from, "P.", 1002).ack(1).len(1000)]);
        assert_eq!(lab.send(say(to, ".", 1).ack(2002).window(5000)), Verdict::Accept);
    }
}

/// RFC 9293 §3.10.7.4, first (C9293-28): ACKs and RSTs are valid also while the window is
/// closed (MUST-66 of §3.4).
#[test]
fn a_closed_window_takes_acks_and_rsts() {
    let mut lab = Lab::in_phase(Phase::Established);
    lab.pass(&[
        server("P.", 1).ack(1).len(500).window(0),
        client(".", 1).ack(501),
        server("P.", 501).ack(1).len(500).window(0),
        client("F.", 1).ack(1001),
    ]);
    assert_eq!(lab.phase(), Some(Phase::FinWait));
    let mut lab = Lab::in_phase(Phase::Established);
    lab.pass(&[server(".", 1).ack(1).window(0), client("R", 1)]);
    assert_eq!(lab.phase(), Some(Phase::Reset));
}

/// RFC 9293 §3.8.4 (C9293-24): a keepalive lies one below what was sent, with no octet or
/// one; its answer is an ACK. Both pass wherever an end may send them, and keep an idle
/// connection alive if they come every two hours.
#[test]
fn keepalives_with_and_without_an_octet_keep_a_connection() {
    for octets in [0, 1] {
        for (from, to) in [(From::Client, From::Server), (From::Server, From::Client)] {
            let mut lab = Lab::in_phase(Phase::Established);
            for _ in 0..5 {
                lab.seconds(2 * 3600);
                lab.pass(&[say(from, ".", 0).ack(1).len(octets), say(to, ".", 1).ack(1)]);
                assert_eq!(lab.timer(), (Timer::Established, 7440));
            }
            // They have not moved a number.
            lab.unbelieved(say(to, ".", 1).ack(2));
        }
        // Of the end that still sends, while the other has closed: only the answer counts.
        let mut lab = Lab::in_phase(Phase::HalfClosed);
        lab.seconds(300);
        lab.changes_nothing(server(".", 0).ack(2).len(octets));
        lab.pass(&[client(".", 2).ack(1)]);
        assert_eq!(lab.timer(), (Timer::HalfClosed, 600));
    }
}

/// RFC 9293 §3.4 (C9293-05): what its receiver can't accept is not believed. It passes if
/// it may draw the ACK by which both ends find together again, and is dropped where it
/// never belonged to this connection.
#[test]
fn what_is_out_of_window_is_never_believed() {
    let largest = 1_u32 << 30;
    for (from, to) in [(From::Client, From::Server), (From::Server, From::Client)] {
        for flags in [".", "P.", "F."] {
            let mut lab = Lab::in_phase(Phase::Established);
            for seq in [1 + 0xffff + 1, 0_u32.wrapping_sub(100_000)] {
                lab.changes_nothing(say(from, flags, seq).ack(1).len(10));
            }
            lab.dropped(say(from, flags, 200_000).ack(1), DropReason::SeqBeyond);
            lab.dropped(
                say(from, flags, 0_u32.wrapping_sub(largest + 66_000)).ack(1).len(1),
                DropReason::SeqOld,
            );
            lab.unbelieved(say(from, flags, 1).ack(2));
            lab.dropped(say(from, flags, 1).ack(0_u32.wrapping_sub(largest + 200_000)), DropReason::AckOld);
            lab.pass(&[say(from, "P.", 1).ack(1).len(10), say(to, ".", 1).ack(11)]);
            assert_eq!(lab.phase(), Some(Phase::Established));
        }
    }
}

/// RFC 9293 §3.10.7.4, fifth (C9293-43): an acknowledgement moves SND.UNA however old its
/// segment is, but only one that is not older than the last update moves the window
/// (SND.WL1, SND.WL2). So a sender may go beyond all that its peer has offered, and a
/// peer that has room takes it: what it acknowledges counts.
#[test]
fn what_is_taken_beyond_the_window_counts_once_it_is_acknowledged() {
    let lab = || {
        let mut lab = Lab::new();
        lab.pass(&[
            client("S", 0).window(1000),
            server("S.", 0).ack(1).window(1000),
            client(".", 1).ack(1).window(1000),
        ]);
        lab
    };
    for [from, other] in [[From::Client, From::Server], [From::Server, From::Client]] {
        let data = |seq, len| say(from, "P.", seq).ack(1).len(len).window(1000);
        let answer = |ack| say(other, ".", 1).ack(ack).window(1000);
        let mut beyond = lab();
        beyond.pass(&[data(1, 1000)]);
        beyond.unbelieved(data(1101, 500));
        // Nobody knows yet whether it was taken.
        assert!(beyond.believes(answer(1601)));
        assert!(beyond.believes(data(2601, 10)), "its window counts from there");
        // Some of it, and the rest is sent again.
        let mut beyond = lab();
        beyond.unbelieved(data(1101, 500));
        beyond.pass(&[data(1, 1000)]);
        assert!(beyond.believes(answer(1201)));
        assert!(beyond.believes(data(1601, 600)));
        assert!(beyond.believes(answer(2201)));
        // A FIN.
        let mut beyond = lab();
        beyond.unbelieved(say(from, "F.", 1101).ack(1).window(1000));
        assert_eq!(beyond.phase(), Some(Phase::Established));
        assert!(beyond.believes(answer(1102)));
        assert_eq!(beyond.phase(), Some(Phase::HalfClosed));
        // Where it was none of its own, nothing is lost.
        let mut forged = lab();
        forged.unbelieved(data(1101, 500));
        forged.pass(&[data(1, 100), answer(101), say(from, "R", 1601)]);
        assert_eq!(forged.phase(), Some(Phase::Established));
        forged.pass(&[say(other, ".", 1).ack(101), say(from, "F.", 101).ack(1), answer(102)]);
        assert_eq!(forged.phase(), Some(Phase::HalfClosed));
        assert_eq!(forged.send(say(from, "P.", 102).ack(1).len(5)), Verdict::Drop(DropReason::AfterFin));
    }
}
