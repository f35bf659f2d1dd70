//! Ends that know another story than the table: both have forgotten a
//! connection, or this gateway has not seen its beginning.

use super::*;

/// A new attempt of the client's, with numbers of its own.
const AGAIN: u32 = 0x9000_0000;

/// The server has forgotten the connection too and answers the client's new SYN:
/// the table must follow, or nothing would pass until the old one's timer.
#[test]
fn both_ends_forgot_and_begin_anew() {
    for phase in [Phase::Established, Phase::FinWait, Phase::HalfClosed, Phase::Closing, Phase::TimeWait] {
        let mut lab = Lab::in_phase(phase);
        // Older than the last one, so that time-wait does not simply end.
        lab.pass(&[client("S", AGAIN).scale(3)]);
        assert_eq!(lab.phase(), Some(phase), "a SYN alone changes nothing");
        let acked = lab.numbers().unwrap()[0].ack.0.wrapping_sub(SERVER_ISS);
        lab.pass(&[server("S.", 700_000).ack(AGAIN + 1).scale(5)]);
        // What the client had said before, the server denies: it may live, and the SYN be forged.
        lab.pass(&[server("R", acked)]);
        assert_eq!(lab.phase(), Some(Phase::SynReceived), "from {phase}");
        assert_eq!(lab.engine.counters().embryonic, 1);
        assert_eq!(lab.view().unwrap().expires_in, Duration::from_secs(30));
        lab.pass(&[
            client(".", AGAIN + 1).ack(700_001),
            client("P.", AGAIN + 1).ack(700_001).len(1000),
            server("P.", 700_001).ack(AGAIN + 1001).len(1000),
        ]);
        assert_eq!(lab.phase(), Some(Phase::Established));
        assert_eq!(lab.engine.counters().embryonic, 0);
        lab.dropped(client("P.", 1).ack(1).len(10), DropReason::SeqBeyond);
    }
}

/// The entry goes on, but it is told and counted as another connection.
#[test]
fn the_end_of_what_both_have_forgotten_is_told() {
    for (phase, reason) in [
        (Phase::Established, CloseReason::Forgotten(Peer::Client)),
        (Phase::HalfClosed, CloseReason::Forgotten(Peer::Client)),
        (Phase::TimeWait, CloseReason::Replaced),
    ] {
        let mut lab = Lab::in_phase(phase);
        lab.seconds(5);
        let (old, opened) = (lab.view().unwrap(), lab.engine.counters().opened);
        lab.pass(&[client("S", AGAIN), server("S.", 700_000).ack(AGAIN + 1)]);
        let events: Vec<Event> = std::iter::from_fn(|| lab.worker.poll_event()).collect();
        let at = events.iter().position(|event| matches!(event, Event::Closed(_))).expect("it is told");
        let Event::Closed(closed) = events[at] else { unreachable!() };
        assert_eq!((closed.reason, closed.phase, closed.flow), (reason, phase, old.flow));
        assert!(closed.age >= Duration::from_secs(5) && closed.original.packets >= old.original.packets);
        assert_eq!(events[at + 1], Event::Opened { flow: old.flow, rule: old.rule });
        let new = lab.view().unwrap();
        assert!(new.age < Duration::from_secs(1), "{new:?}");
        assert_eq!((new.original.packets, new.reply.packets), (0, 1), "what has passed since");
        let counters = lab.engine.counters();
        assert_eq!((counters.opened, counters.stale), (opened + 1, 0));
        lab.check();
    }
    // A handshake that begins anew is still no connection.
    let mut lab = Lab::in_phase(Phase::SynReceived);
    lab.pass(&[client("S", AGAIN), server("S.", 700_000).ack(AGAIN + 1)]);
    assert_eq!(lab.closed(), []);
}

/// RFC 9293 §3.10.7.1: an end that has forgotten the connection and does not listen
/// refuses the other's new SYN. Its RST must pass, or the opener would try in vain.
#[test]
fn an_end_that_forgot_refuses_the_others_new_syn() {
    for phase in [Phase::Established, Phase::FinWait, Phase::HalfClosed, Phase::Closing] {
        let mut lab = Lab::in_phase(phase);
        lab.dropped(server("R.", AGAIN).ack(AGAIN + 1), DropReason::BadRst);
        lab.pass(&[client("S", AGAIN)]);
        lab.dropped(server("R.", 0u32.wrapping_sub(9)).ack(AGAIN + 2), DropReason::BadRst);
        lab.pass(&[server("R.", 0u32.wrapping_sub(9)).ack(AGAIN + 1)]);
        assert_eq!(lab.phase(), Some(phase), "to an end that lives it means nothing");
    }
}

/// With SYN cookies a server answers any SYN, without knowing that it has answered
/// another one before.
#[test]
fn a_cookie_server_answers_the_clients_second_attempt() {
    let mut lab = Lab::in_phase(Phase::SynReceived);
    lab.seconds(20);
    lab.pass(&[client("S", AGAIN), server("S.", 5_000).ack(AGAIN + 1)]);
    assert_eq!(lab.engine.counters().embryonic, 1);
    lab.pass(&[client(".", AGAIN + 1).ack(5_001)]);
    assert_eq!(lab.phase(), Some(Phase::Established));
}

/// Nobody can bring a connection into a new handshake from outside: it takes the
/// opener's SYN and an answer that acknowledges it.
#[test]
fn a_forged_syn_or_syn_ack_moves_nothing() {
    let mut lab = Lab::in_phase(Phase::Established);
    lab.pass(&[server("S.", 700_000).ack(AGAIN + 1)]);
    lab.pass(&[client("S", AGAIN), server("S.", 700_000).ack(AGAIN + 2)]);
    assert_eq!(lab.phase(), Some(Phase::Established));
    lab.pass(&[client("P.", 1).ack(1).len(10), server(".", 1).ack(11)]);
}

/// The right answer to a SYN, but one of them came by another way than the
/// connection's packets: one forger could have sent both.
#[test]
fn a_syn_and_its_answer_that_came_by_another_way_move_nothing() {
    for [syn_by, answer_by] in
        [[From::Client, From::Client], [From::Server, From::Server], [From::Server, From::Client]]
    {
        for [syn, answer] in [
            [client("S", 900_000), server("S.", 500_000).ack(900_001)],
            [server("S", 900_000), client("S.", 500_000).ack(900_001)],
        ] {
            // By the way that either should have come is another test.
            if (syn.from, answer.from) == (syn_by, answer_by) {
                continue;
            }
            let mut lab = Lab::in_phase(Phase::Established);
            for (say, by) in [(syn, syn_by), (answer, answer_by)] {
                let packet = lab.packet(say);
                let meta = Lab::meta(by, packet.bytes.len());
                assert_eq!(lab.raw(meta, &packet.bytes), Verdict::Accept);
            }
            assert_eq!(lab.phase(), Some(Phase::Established));
            lab.pass(&[client("P.", 1).ack(1).len(10), server(".", 1).ack(11)]);
        }
    }
}

/// The other end opens anew: whether it may, the rules say.
#[test]
fn both_ends_forgot_and_the_other_begins_anew() {
    let mut lab = Lab::in_phase(Phase::Established);
    lab.pass(&[server("S", 700_000).len(100), client("S.", AGAIN).ack(700_101)]);
    assert_eq!((lab.phase(), lab.closed()), (None, vec![CloseReason::Replaced]));
    assert_eq!(cells::opened_by_server(&lab), Some(Phase::SynReceived));
    assert_eq!(lab.engine.counters().embryonic, 1);
    lab.pass(&[server(".", 700_101).ack(AGAIN + 1), client("P.", AGAIN + 1).ack(700_101).len(9)]);
    assert_eq!(cells::opened_by_server(&lab), Some(Phase::Established));
    // Only the client may open, says this rule.
    let zone =
        crate::policy::Zone { name: "outside".into(), interfaces: vec!["eth0".into()], networks: None };
    let mut in_from_outside = rule("in", 1);
    in_from_outside.from.any_of.push(crate::policy::Term::Zone(crate::policy::ZoneId(0)));
    let mut settings = open_settings();
    settings.default = Action::Drop;
    let names = vec!["default".into(), "in".into()];
    let one_sided = Policy::new(settings, vec![zone], vec![in_from_outside], names);
    let mut lab = Lab::at(one_sided, "198.51.100.7:4000", "192.0.2.20:80");
    lab.engine.set_interfaces(&[(OUTSIDE, "eth0".into()), (INSIDE, "eth1".into())]);
    lab.handshake();
    lab.pass(&[server("S", 700_000)]);
    lab.dropped(client("S.", AGAIN).ack(700_001), DropReason::Unexpected);
    assert_eq!((lab.phase(), lab.closed()), (None, vec![CloseReason::Replaced]));
    lab.dropped(server("S", 700_000), DropReason::Rule);
    // Nor where a limit has no room.
    let mut settings = open_settings();
    settings.limits.total = Some(1);
    let mut lab = Lab::with(settings, Vec::new());
    lab.handshake();
    lab.client.1 += 1;
    lab.pass(&[client("S", 0)]);
    lab.client.1 -= 1;
    lab.pass(&[server("S", 700_000)]);
    lab.dropped(client("S.", AGAIN).ack(700_001), DropReason::Limit);
    assert_eq!(lab.engine.counters().connections, 1);
}

/// Both have forgotten, and open at the same time: two SYNs cross, and each end
/// answers the other's (RFC 9293 §3.5, figure 7).
#[test]
fn both_ends_forgot_and_open_crosswise() {
    for client_first in [true, false] {
        let mut lab = Lab::in_phase(Phase::Established);
        let mut syns = [client("S", AGAIN), server("S", 700_000)];
        if !client_first {
            syns.reverse();
        }
        lab.pass(&syns);
        assert_eq!(lab.phase(), Some(Phase::Established));
        // What the server had said before, the client denies.
        lab.pass(&[client("S.", AGAIN).ack(700_001), client("R", 1)]);
        lab.pass(&[server("S.", 700_000).ack(AGAIN + 1)]);
        lab.pass(&[client("P.", AGAIN + 1).ack(700_001).len(10), server(".", 700_001).ack(AGAIN + 11)]);
        let phases = [lab.phase(), cells::opened_by_server(&lab)];
        assert!(phases.contains(&Some(Phase::Established)), "{phases:?}");
        assert_eq!(lab.engine.counters().embryonic, 0);
    }
}

/// The same while the first handshake still waits for its last ACK.
#[test]
fn both_ends_forgot_a_handshake_and_open_crosswise() {
    let mut lab = Lab::in_phase(Phase::SynReceived);
    lab.pass(&[client("S", AGAIN), server("S", 700_000)]);
    lab.pass(&[server("S.", 700_000).ack(AGAIN + 1), client("S.", AGAIN).ack(700_001)]);
    assert_eq!(lab.phase(), Some(Phase::Established));
    lab.pass(&[client("P.", AGAIN + 1).ack(700_001).len(10), server(".", 700_001).ack(AGAIN + 11)]);
    assert_eq!(lab.engine.counters().embryonic, 0);
    // Any other SYN-ACK is an old one.
    for syns in [&[client("S", AGAIN), server("S", 700_001)][..], &[server("S", 700_000)]] {
        let mut lab = Lab::in_phase(Phase::SynReceived);
        lab.pass(syns);
        lab.pass(&[server("S.", 700_000).ack(AGAIN + 1)]);
        lab.dropped(client(".", AGAIN + 1).ack(700_001), DropReason::BadAck);
        assert_eq!(lab.phase(), Some(Phase::SynReceived));
    }
}

/// The same out of TIME-WAIT: the first SYN is older and stale there, the second opens a
/// connection in its place. Whichever SYN-ACK comes first, both belong to that one.
#[test]
fn syns_cross_out_of_time_wait() {
    let answers = [server("S.", 700_000).ack(AGAIN + 1), client("S.", AGAIN).ack(700_001)];
    for [first, last] in [answers, [answers[1], answers[0]]] {
        let mut lab = Lab::in_phase(Phase::TimeWait);
        lab.pass(&[client("S", AGAIN).len(100), server("S", 700_000)]);
        assert_eq!(cells::opened_by_server(&lab), Some(Phase::SynSent));
        lab.pass(&[first]);
        assert_eq!(cells::opened_by_server(&lab), Some(Phase::SynReceived));
        lab.pass(&[last]);
        assert_eq!(cells::opened_by_server(&lab), Some(Phase::Established));
        lab.pass(&[client("P.", AGAIN + 1).ack(700_001).len(10), server(".", 700_001).ack(AGAIN + 11)]);
        assert_eq!(lab.engine.counters().embryonic, 0);
    }
    // No other SYN-ACK of an opener is one.
    for (syn, answer) in [
        (client("S", AGAIN), server("S.", 700_000).ack(AGAIN + 2)),
        (client("S", AGAIN), server("S.", 700_001).ack(AGAIN + 1)),
        (client(".", 2).ack(2), server("S.", 700_000).ack(AGAIN + 1)),
    ] {
        let mut lab = Lab::in_phase(Phase::TimeWait);
        lab.pass(&[syn, server("S", 700_000)]);
        lab.dropped(answer, DropReason::Unexpected);
        assert_eq!(cells::opened_by_server(&lab), Some(Phase::SynSent));
    }
    // A SYN-ACK that comes once more, late, begins nothing anew.
    let mut lab = Lab::in_phase(Phase::TimeWait);
    lab.pass(&[client("S", AGAIN), server("S", 700_000), client("S.", AGAIN).ack(700_001)]);
    lab.pass(&[server(".", 700_001).ack(AGAIN + 1), server("S.", 700_000).ack(AGAIN + 1)]);
    assert_eq!(cells::opened_by_server(&lab), Some(Phase::Established));
}

/// An old SYN that outlives TIME-WAIT offers no scaling; the handshake that counts does.
#[test]
fn windows_scale_as_the_handshake_that_counts_has_it() {
    let mut lab = Lab::in_phase(Phase::TimeWait);
    lab.seconds(45);
    lab.pass(&[server("S", 0_u32.wrapping_sub(5000))]);
    lab.seconds(16);
    assert_eq!(cells::opened_by_server(&lab), Some(Phase::SynSent));
    let answer = server("S.", 700_000).ack(AGAIN + 1).scale(0).window(500);
    lab.pass(&[client("S", AGAIN).scale(7).window(500), answer]);
    lab.pass(&[client(".", AGAIN + 1).ack(700_001).window(500)]);
    assert_eq!(cells::opened_by_server(&lab), Some(Phase::Established));
    lab.pass(&[server(".", 750_001).ack(AGAIN + 1).len(3000).window(500)]);
}

/// A SYN passes as stale just before TIME-WAIT ends: its answer must find a connection.
#[test]
fn a_syn_outlives_the_connection_that_it_met() {
    for syn in [client("S", AGAIN), server("S", AGAIN)] {
        for handled in [true, false] {
            let mut lab = Lab::in_phase(Phase::TimeWait);
            lab.seconds(58);
            lab.pass(&[syn]);
            assert_eq!(lab.phase(), Some(Phase::TimeWait));
            if handled {
                lab.seconds(4);
                let opened = [lab.phase(), cells::opened_by_server(&lab)];
                assert!(opened.contains(&Some(Phase::SynSent)), "{opened:?}");
                assert_eq!(lab.engine.counters().embryonic, 1);
            } else {
                // The answer itself is what finds the old one over.
                lab.now = lab.now.after(Duration::from_secs(4));
            }
            let from_client = syn.from == From::Client;
            let other = if from_client { From::Server } else { From::Client };
            lab.pass(&[
                say(other, "S.", 5_000).ack(AGAIN + 1),
                say(syn.from, ".", AGAIN + 1).ack(5_001),
                say(other, "P.", 5_001).ack(AGAIN + 1).len(10),
            ]);
            let opened = if from_client { lab.phase() } else { cells::opened_by_server(&lab) };
            assert_eq!(opened, Some(Phase::Established));
        }
    }
    // It buys no time: without an answer its timer counts from the SYN.
    let mut lab = Lab::in_phase(Phase::TimeWait);
    lab.seconds(50);
    lab.pass(&[client("S", AGAIN)]);
    lab.seconds(11);
    assert_eq!(
        lab.view().map(|view| (view.phase, view.expires_in)),
        Some((Phase::SynSent, Duration::from_secs(19)))
    );
    lab.seconds(20);
    assert_eq!(lab.phase(), None);
    // Too long ago it opens nothing; nor where the ends may still live, or in a handshake.
    let mut lab = Lab::in_phase(Phase::TimeWait);
    lab.seconds(20);
    lab.pass(&[client("S", AGAIN)]);
    lab.seconds(41);
    assert_eq!(lab.phase(), None);
    for (phase, seconds) in [(Phase::SynSent, 30), (Phase::Established, 7440), (Phase::Closing, 60)] {
        let mut lab = Lab::in_phase(phase);
        lab.seconds(seconds - 1);
        lab.pass(&[client("S", AGAIN)]);
        lab.seconds(2);
        assert_eq!(lab.phase(), None);
    }
}

/// An old SYN of one end meets the other's new one, which its listener answers: it was no
/// simultaneous open.
#[test]
fn an_old_syn_that_is_crossed_is_in_nobodys_way() {
    let mut lab = Lab::new();
    lab.pass(&[client("S", 0), server("S", 700_000)]);
    assert_eq!(lab.phase(), Some(Phase::SynReceived));
    lab.pass(&[
        client("S.", AGAIN).ack(700_001),
        server(".", 700_001).ack(AGAIN + 1),
        server("P.", 700_001).ack(AGAIN + 1).len(10),
        client(".", AGAIN + 1).ack(700_011),
    ]);
    assert_eq!(lab.phase(), Some(Phase::Established));
    // Its real SYN came later, and its SYN-ACK once more: nothing begins anew.
    let mut lab = Lab::new();
    lab.pass(&[client("S", 0), server("S", 700_000), client("S", AGAIN)]);
    lab.pass(&[client("S.", AGAIN).ack(700_001), server(".", 700_001).ack(AGAIN + 1)]);
    assert_eq!(lab.phase(), Some(Phase::Established));
    lab.pass(&[server("S.", 700_000).ack(AGAIN + 1), client("P.", AGAIN + 1).ack(700_001).len(10)]);
    assert_eq!(lab.phase(), Some(Phase::Established));
    // It does not take the data of the SYN that it answers.
    let mut lab = Lab::new();
    lab.pass(&[client("S", 0), server("S", 700_000).len(200), client("S.", AGAIN).ack(700_001).window(300)]);
    lab.pass(&[server("P.", 700_001).ack(AGAIN + 1).len(200)]);
    assert!(lab.believes(client(".", AGAIN + 1).ack(700_201).window(300)));
    assert!(lab.believes(server("P.", 700_201).ack(AGAIN + 1).len(10)));
    // Or it refuses it: only the other end knows that this is right.
    let mut lab = Lab::new();
    lab.pass(&[client("S", 0), server("S", 700_000)]);
    lab.dropped(client("R.", 1 << 20).ack(700_002), DropReason::BadRst);
    lab.dropped(client("R", 1 << 20), DropReason::BadRst);
    lab.pass(&[client("R.", 1 << 20).ack(700_001)]);
    assert_eq!(lab.phase(), Some(Phase::SynReceived));
    // Once its SYN was acknowledged no other number counts.
    let mut lab = Lab::new();
    lab.pass(&[client("S", 0), server("S", 700_000), server("S.", 700_000).ack(1)]);
    lab.pass(&[client("S.", AGAIN).ack(700_001), server(".", 700_001).ack(AGAIN + 1)]);
    assert_eq!(lab.phase(), Some(Phase::SynReceived));
}

/// What opens in an old connection's place is let in by the rules and limits alone.
#[test]
fn a_syn_outlives_no_rule_and_no_limit() {
    let mut lab = Lab::in_phase(Phase::TimeWait);
    lab.seconds(58);
    lab.pass(&[client("S", AGAIN)]);
    let denying = policy(Settings { default: Action::Drop, ..open_settings() }, Vec::new());
    lab.engine.install(denying, Existing::Keep, &mut lab.worker, lab.now);
    lab.seconds(3);
    assert_eq!(lab.phase(), None);
    lab.dropped(server("S.", 5_000).ack(AGAIN + 1), DropReason::OutOfState);
    let mut settings = open_settings();
    settings.limits.total = Some(1);
    let mut lab = Lab::with(settings, Vec::new());
    lab.bring_to(Phase::TimeWait);
    lab.seconds(58);
    lab.pass(&[client("S", AGAIN)]);
    lab.client.1 += 1;
    lab.pass(&[client("S", 0)]);
    lab.client.1 -= 1;
    lab.seconds(3);
    assert_eq!((lab.phase(), lab.engine.counters().embryonic), (None, 1));
}

/// A duplicate of the handshake that comes late is not a new one.
#[test]
fn late_duplicates_of_the_handshake_change_nothing() {
    for phase in [Phase::Established, Phase::FinWait, Phase::HalfClosed] {
        let mut lab = Lab::in_phase(phase);
        lab.pass(&[server("P.", 1).ack(1).len(1000), client("S", 0), server("S.", 0).ack(1)]);
        assert_eq!(lab.phase(), Some(phase));
        lab.pass(&[server("P.", 1001).ack(1).len(1000)]);
    }
}

/// What one end sent before this gateway met the connection is acknowledged after.
#[test]
fn what_was_under_way_when_a_connection_was_met_may_be_acknowledged() {
    let mut settings = open_settings();
    settings.pickup.grace = Duration::from_secs(60);
    let mut lab = Lab::with(settings.clone(), Vec::new());
    lab.pass(&[
        client(".", 100).ack(5_000).window(500),
        // The server's data up to 50,000 had passed before.
        client(".", 100).ack(50_000).window(500),
        // It does not know yet that they arrived and sends from the start again.
        server(".", 5_000).ack(100).len(1448),
        client(".", 100).ack(50_000).window(500),
        server(".", 50_000).ack(100).len(1448),
    ]);
    // No window is as large as that.
    lab.dropped(client(".", 100).ack(5_000 + (1 << 29)), DropReason::AckBeyond);
    // Met by an acknowledgement that closes the window: what was sent before still comes.
    let mut lab = Lab::with(settings.clone(), Vec::new());
    lab.pass(&[
        client(".", 100).ack(5_000).window(0),
        server(".", 90_000).ack(100).len(1448).window(0),
        client(".", 500_000).ack(5_000).window(0),
    ]);
    // Met by a retransmission of old data.
    let mut lab = Lab::with(settings, Vec::new());
    lab.pass(&[
        server(".", 5_000).ack(100).len(1448),
        client(".", 100).ack(50_000),
        server("F.", 50_000).ack(100),
    ]);
    lab.unbelieved(client(".", 100).ack(50_002));
    lab.pass(&[client(".", 100).ack(50_001)]);
    assert_eq!(lab.engine.counters().phases.iter().find(|p| p.0 == "half_closed").unwrap().1, 1);
}

/// A handshake that begins anew is half-open like any other: where a limit has no
/// room for it, its SYN-ACK is dropped and the table stays as it was.
#[test]
fn a_handshake_that_begins_anew_passes_no_limit() {
    let mut settings = open_settings();
    settings.limits.total = Some(1);
    let mut lab = Lab::with(settings, Vec::new());
    lab.handshake();
    lab.client.1 += 1;
    lab.pass(&[client("S", 0)]);
    lab.client.1 -= 1;
    lab.pass(&[client("S", AGAIN)]);
    lab.dropped(server("S.", 700_000).ack(AGAIN + 1), DropReason::Limit);
    assert_eq!((lab.phase(), lab.engine.counters().embryonic), (Some(Phase::Established), 1));
    lab.pass(&[client("P.", 1).ack(1).len(10)]);
}

/// RFC 9293 §3.5, figure 8: an old SYN arrives behind the new one, or before it.
#[test]
fn of_two_syns_the_one_that_is_answered_counts() {
    let old = 0_u32.wrapping_sub(70_000);
    for old_first in [true, false] {
        let syns = if old_first { [old, 0] } else { [0, old] };
        let mut lab = Lab::new();
        lab.pass(&syns.map(|seq| client("S", seq)));
        lab.pass(&[server("S.", 0).ack(1), client(".", 1).ack(1)]);
        assert_eq!(lab.phase(), Some(Phase::Established));
        // The old one may wake the server first, and the client denies it.
        let mut lab = Lab::new();
        lab.pass(&syns.map(|seq| client("S", seq)));
        lab.pass(&[server("S.", 9_000).ack(old.wrapping_add(1)), client("R", old.wrapping_add(1))]);
        lab.pass(&[client("S", 0), server("S.", 0).ack(1), client(".", 1).ack(1)]);
        assert_eq!(lab.phase(), Some(Phase::Established));
        // A refusal of either reaches the client; only of the last it ends the attempt.
        let mut lab = Lab::new();
        lab.pass(&syns.map(|seq| client("S", seq)));
        lab.pass(&[server("R.", 0).ack(syns[0].wrapping_add(1))]);
        assert_eq!(lab.phase(), Some(Phase::SynSent));
        lab.dropped(server("R.", 0).ack(5_000), DropReason::BadRst);
        lab.pass(&[server("R.", 0).ack(syns[1].wrapping_add(1))]);
        assert_eq!(lab.phase(), Some(Phase::Reset));
    }
}

/// A late duplicate of the SYN that once opened the connection wakes a server that
/// has forgotten it; the client, which has as well, answers with an RST.
#[test]
fn a_woken_server_gets_its_rst() {
    for phase in [Phase::Established, Phase::HalfClosed, Phase::TimeWait] {
        let mut lab = Lab::in_phase(phase);
        lab.dropped(client("R", 0x7000_0000), DropReason::BadRst);
        lab.pass(&[server("S.", 700_000).ack(0x7000_0000), client("R", 0x7000_0000)]);
        assert_eq!(lab.phase(), Some(phase), "it is no RST of this connection");
    }
}

/// RFC 7413 §4.2.2: the server took the SYN and not its data, and its window is small.
#[test]
fn fast_open_data_are_sent_again_into_a_small_window() {
    let mut lab = Lab::new();
    lab.pass(&[
        client("S", 0).len(200),
        server("S.", 0).ack(1).window(1),
        client("S", 0).len(200),
        client(".", 1).ack(1),
        client("P.", 1).ack(1).len(1),
    ]);
    assert_eq!(lab.phase(), Some(Phase::Established));
    // What was in the SYN only counts as never sent: an RST there is a guess.
    lab.dropped(client("R", 201), DropReason::BadRst);
    assert_eq!(lab.phase(), Some(Phase::Established));
    // An old connection is in the way, and the data are not sent again.
    let mut lab = Lab::in_phase(Phase::Established);
    lab.pass(&[
        client("S", AGAIN).len(200),
        client("S", AGAIN),
        server("S.", 700_000).ack(AGAIN + 201),
        client(".", AGAIN + 201).ack(700_001),
        server(".", 700_001).ack(AGAIN + 201).len(10),
    ]);
    // Two SYNs cross, and neither end takes the data.
    let mut lab = Lab::new();
    lab.pass(&[
        client("S", 0).window(1),
        server("S", 0).len(200),
        server("S.", 0).ack(1),
        client("S.", 0).ack(1).window(1),
        server("P.", 1).ack(1).len(1),
    ]);
    assert_eq!(lab.phase(), Some(Phase::Established));
}

/// Of two SYNs that cross, each may carry data, and an end may take the other's: its
/// first acknowledgement tells.
#[test]
fn fast_open_data_of_crossing_syns_are_taken_or_not() {
    // The server takes the client's, the client does not take the server's.
    let mut lab = Lab::new();
    lab.pass(&[
        client("S", 0).len(1000),
        server("S", 0).len(500),
        client("S.", 0).ack(1),
        server("S.", 0).ack(1001),
        client(".", 1001).ack(1),
        server("P.", 1).ack(1001).len(500),
        client(".", 1001).ack(501),
    ]);
    assert_eq!(lab.phase(), Some(Phase::Established));
    lab.pass(&[client("R", 1001)]);
    assert_eq!(lab.phase(), Some(Phase::Reset));
    // The other way round; more than was sent nobody can take.
    let mut lab = Lab::new();
    lab.pass(&[client("S", 0).len(1000), server("S", 0).len(500)]);
    lab.dropped(server("S.", 0).ack(1002), DropReason::BadAck);
    lab.pass(&[client("S.", 0).ack(501), server("S.", 0).ack(1)]);
    // What was not taken counts as never sent: an RST there is not exact.
    lab.pass(&[client("R", 1001), client(".", 1).ack(501).len(1000), server(".", 501).ack(1001)]);
    assert_eq!(lab.phase(), Some(Phase::Established));
}
