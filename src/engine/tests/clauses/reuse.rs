//! TIME-WAIT: what it keeps out, and what may leave it.

use super::*;
use crate::policy::{NetworkSet, Term};

/// A finished connection, with timestamps (the client's last one is 100) or without.
fn finished(timestamps: bool) -> Lab {
    let mut lab = Lab::new();
    let script = [
        client("S", 0),
        server("S.", 0).ack(1),
        client(".", 1).ack(1),
        client("F.", 1).ack(1),
        server("F.", 1).ack(2),
        client(".", 2).ack(2),
    ];
    for (say, time) in script.into_iter().zip(95..) {
        lab.pass(&[if timestamps { say.timestamp(time) } else { say }]);
    }
    assert_eq!(lab.phase(), Some(Phase::TimeWait));
    lab
}

/// Numbers of a new SYN: the FIN's was 1.
const NEWER: u32 = 2;
const OLDER: u32 = 1;
const LONG_AGO: u32 = 0_u32.wrapping_sub(1_000_000);

/// RFC 6191 §2 (C6191-01 to C6191-06): which SYN leaves TIME-WAIT, case by case.
#[test]
fn a_syn_leaves_time_wait_as_rfc_6191_says() {
    let cases = [
        // Both connections tell the time: it decides, and if it is equal the number.
        (true, LONG_AGO, Some(101), true),
        (true, NEWER, Some(101), true),
        (true, NEWER, Some(100), true),
        (true, OLDER, Some(100), false),
        (true, NEWER, Some(99), false),
        (true, LONG_AGO, Some(99), false),
        // The new one does not tell it: the number.
        (true, NEWER, None, true),
        (true, OLDER, None, false),
        // The last one did not, the new one does: it is new.
        (false, LONG_AGO, Some(1), true),
        // Neither does: the number.
        (false, NEWER, None, true),
        (false, NEWER + 1_000_000, None, true),
        (false, OLDER, None, false),
        (false, LONG_AGO, None, false),
    ];
    for (timestamps, seq, time, leaves) in cases {
        let mut lab = finished(timestamps);
        let mut syn = client("S", seq);
        syn.timestamp = time;
        lab.pass(&[syn]);
        let expected = if leaves { Phase::SynSent } else { Phase::TimeWait };
        assert_eq!(lab.phase(), Some(expected), "{timestamps} {seq} {time:?}");
        assert_eq!(lab.closed().contains(&CloseReason::Replaced), leaves);
        if leaves {
            // A new connection in every respect.
            assert_eq!(lab.engine.counters().embryonic, 1);
            lab.pass(&[
                server("S.", 900_000).ack(seq.wrapping_add(1)),
                client(".", seq.wrapping_add(1)).ack(900_001),
            ]);
            assert_eq!(lab.phase(), Some(Phase::Established));
        }
    }
}

/// RFC 9293 §3.6.1, MAY-2 (C9293-40), RFC 1122 §4.2.2.13 (C1122-03): the SYN of either end may leave TIME-WAIT; rules
/// are asked anew, in its direction.
#[test]
fn either_end_may_leave_time_wait_if_a_rule_lets_it() {
    let mut lab = finished(false);
    lab.pass(&[server("S", NEWER)]);
    assert_eq!(lab.phase(), None);
    assert_eq!(lab.engine.counters().embryonic, 1);

    let from_client = |name| {
        let mut rule = rule(name, 1);
        let networks = NetworkSet::new(vec!["198.51.100.7/32".parse().unwrap()]);
        rule.from.any_of.push(Term::Networks(networks.into()));
        rule
    };
    let mut lab = Lab::with(Settings { default: Action::Drop, ..open_settings() }, vec![from_client("out")]);
    lab.bring_to(Phase::TimeWait);
    lab.dropped(server("S", NEWER), DropReason::Rule);
}

/// RFC 9293 §3.6.1 (C9293-41): an old duplicate leaves TIME-WAIT alone, and the ACK that
/// it draws, and the RST of an end that knows nothing of it, pass.
#[test]
fn an_old_syn_and_what_it_draws_leave_time_wait_alone() {
    let mut lab = finished(false);
    lab.changes_nothing(client("S", LONG_AGO));
    lab.changes_nothing(server(".", 2).ack(2));
    lab.changes_nothing(client("R", 2));
}

/// RFC 1337 §3, F1 (C1337-01): an RST does not end TIME-WAIT, whatever its number and whoever
/// sends it.
#[test]
fn no_rst_ends_time_wait() {
    for from in [From::Client, From::Server] {
        let mut lab = finished(false);
        for seq in [2, 3, 1000, 0] {
            lab.changes_nothing(say(from, "R", seq));
            lab.changes_nothing(say(from, "R.", seq).ack(2));
        }
    }
}

/// RFC 1337 §2 (C1337-02): old duplicates of data and ACKs, and what the ends answer, do
/// not disturb TIME-WAIT; a new connection is then not harmed by them.
#[test]
fn old_duplicates_in_time_wait_neither_refresh_it_nor_harm_the_next_connection() {
    let mut lab = Lab::in_phase(Phase::Established);
    lab.pass(&[
        client("P.", 1).ack(1).len(500),
        server(".", 1).ack(501),
        client("F.", 501).ack(1),
        server("F.", 1).ack(502),
        client(".", 502).ack(2),
    ]);
    assert_eq!(lab.phase(), Some(Phase::TimeWait));
    lab.changes_nothing(client("P.", 1).ack(1).len(500));
    lab.changes_nothing(server(".", 1).ack(501));
    let again = 3_000_000;
    lab.pass(&[client("S", again), server("S.", 7_000_000).ack(again + 1)]);
    lab.pass(&[client(".", again + 1).ack(7_000_001)]);
    // What is left of the old one is out of every window of the new one.
    lab.changes_nothing(client("P.", 1).ack(1).len(500));
    lab.changes_nothing(client("F.", 501).ack(1));
    lab.changes_nothing(server(".", 1).ack(501));
    lab.dropped(server("R", 2), DropReason::BadRst);
    assert_eq!(lab.phase(), Some(Phase::Established));
}
