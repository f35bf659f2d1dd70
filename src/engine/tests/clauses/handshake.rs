//! Opening: three packets, crossing SYNs, split handshakes, and segments that open nothing.

use super::*;

/// RFC 9293 §3.5, MUST-10 (C9293-07), RFC 5382 §4.2, REQ-2 (C5382-01): simultaneous open, figure 7, in every order in which
/// the second halves may come.
#[test]
fn simultaneous_open_in_every_order() {
    let syns = [client("S", 0), server("S", 0)];
    let scripts = [
        vec![client("S.", 0).ack(1), server("S.", 0).ack(1)],
        vec![server("S.", 0).ack(1), client("S.", 0).ack(1)],
        // One SYN-ACK was lost; data or an ACK say the same.
        vec![client("S.", 0).ack(1), server(".", 1).ack(1)],
        vec![server("S.", 0).ack(1), client("P.", 1).ack(1).len(10)],
        // The SYNs come again meanwhile.
        vec![client("S", 0), server("S", 0), client("S.", 0).ack(1), client("S", 0), server("S.", 0).ack(1)],
    ];
    for script in scripts {
        let mut lab = Lab::new();
        lab.pass(&syns);
        let (last, rest) = script.split_last().unwrap();
        for say in rest {
            lab.pass(&[*say]);
            assert_eq!(lab.phase(), Some(Phase::SynReceived), "{script:?}");
        }
        lab.pass(&[*last]);
        assert_eq!(lab.phase(), Some(Phase::Established), "{script:?}");
        assert_eq!(lab.engine.counters().connections, 1);
        lab.pass(&[
            client("P.", 11).ack(1).len(10),
            server("P.", 1).ack(21).len(10),
            client(".", 21).ack(11),
        ]);
    }
}

/// RFC 9293 §3.10.7.3, fourth (C9293-15): a server that answers with an ACK and then a SYN
/// of its own, or with that SYN alone, splits the handshake into five or four packets.
/// The client stays the opener: nothing makes its connection one from the outside in.
#[test]
fn a_split_handshake_does_not_turn_the_connection_round() {
    let four = vec![client("S", 0), server("S", 0), client("S.", 0).ack(1), server(".", 1).ack(1)];
    let mut five = four.clone();
    five.insert(1, server(".", 5_000).ack(1));
    let mut with_rst = four.clone();
    with_rst.insert(1, server("R", 5_000));
    for (script, refused) in [(four, None), (five, None), (with_rst, Some(1))] {
        let mut settings = Settings { default: Action::Drop, ..open_settings() };
        settings.limits.per_destination = Some(1);
        let mut out = rule("out", 1);
        out.services = vec![crate::policy::ServiceKind::Ports(
            Protocol::TCP,
            crate::policy::Ports { first: 80, last: 80 },
        )];
        let mut lab = Lab::with(settings, vec![out]);
        for (place, say) in script.iter().enumerate() {
            if refused == Some(place) {
                // An RST that acknowledges nothing refuses no SYN.
                lab.dropped(*say, DropReason::BadRst);
            } else {
                lab.pass(&[*say]);
            }
        }
        let view = lab.view().unwrap();
        assert_eq!((view.phase, view.flow, view.rule), (Phase::Established, lab.flow(), RuleId(1)));
        assert_eq!(lab.engine.counters().opened, 1);
        // The server is still the one that may not open.
        lab.server.1 = 22;
        lab.dropped(server("S", 0), DropReason::Rule);
    }
}

/// RFC 9293 §3.10.7.3, fourth (C9293-15): until both ends have acknowledged the other's SYN
/// it is half-open, and counts so, however it was split.
#[test]
fn a_split_handshake_is_half_open_until_both_syns_are_acknowledged() {
    let mut lab = Lab::new();
    for say in [client("S", 0), server(".", 5_000).ack(1), server("S", 0), client("S.", 0).ack(1)] {
        lab.pass(&[say]);
        assert_eq!(lab.engine.counters().embryonic, 1, "{say:?}");
    }
    // Neither data of the client nor another SYN make it more.
    lab.pass(&[client("P.", 1).ack(1).len(10), server("S", 0)]);
    assert_eq!((lab.phase(), lab.engine.counters().embryonic), (Some(Phase::SynReceived), 1));
    lab.pass(&[server(".", 1).ack(11)]);
    assert_eq!((lab.phase(), lab.engine.counters().embryonic), (Some(Phase::Established), 0));
}

/// RFC 9293 §3.8 (C9293-18): an unanswered SYN or SYN-ACK comes again; it counts once,
/// buys no time, and is answered once more.
#[test]
fn a_syn_and_a_syn_ack_may_come_again_at_any_time() {
    let mut lab = Lab::new();
    lab.pass(&[client("S", 0)]);
    for _ in 0..3 {
        lab.changes_nothing(client("S", 0));
    }
    lab.pass(&[server("S.", 0).ack(1)]);
    for say in [client("S", 0), server("S.", 0).ack(1), server("S.", 0).ack(1)] {
        lab.changes_nothing(say);
    }
    assert_eq!((lab.timer(), lab.engine.counters().embryonic), ((Timer::SynReceived, 27), 1));
    lab.pass(&[client(".", 1).ack(1)]);
    // The last ACK was lost behind the gateway.
    for say in [server("S.", 0).ack(1), client("S", 0)] {
        lab.changes_nothing(say);
    }
    lab.pass(&[client(".", 1).ack(1), server("P.", 1).ack(1).len(10)]);
    assert_eq!(lab.phase(), Some(Phase::Established));
}

/// RFC 9293 §3.10.7.4, second, SYN-RECEIVED (C9293-20): an RST ends the attempt of either
/// end, and the next one may begin at once.
#[test]
fn a_handshake_that_was_reset_may_begin_again_at_once() {
    for rst in [client("R", 1), client("R.", 1).ack(1), server("R", 1), server("R.", 1).ack(1)] {
        let mut lab = Lab::in_phase(Phase::SynReceived);
        lab.pass(&[rst]);
        assert_eq!((lab.phase(), lab.engine.counters().embryonic), (Some(Phase::Reset), 0), "{rst:?}");
        lab.pass(&[client("S", 9_000)]);
        assert_eq!((lab.phase(), lab.engine.counters().embryonic), (Some(Phase::SynSent), 1));
        lab.pass(&[server("S.", 4_000).ack(9_001), client(".", 9_001).ack(4_001)]);
        assert_eq!(lab.phase(), Some(Phase::Established));
    }
}

/// RFC 9293 §3.10.7.3, first (C9293-13): a SYN-ACK that acknowledges nothing of the SYN
/// opens nothing; it passes, because the RST that it draws belongs to whoever sent it.
#[test]
fn only_a_syn_ack_that_acknowledges_the_syn_answers_it() {
    for ack in [0, 2, 1 << 30, 1 << 31, u32::MAX] {
        let mut lab = Lab::in_phase(Phase::SynSent);
        lab.changes_nothing(server("S.", 0).ack(ack));
        lab.changes_nothing(client("R", ack));
        assert_eq!(lab.phase(), Some(Phase::SynSent), "{ack}");
    }
    // Part of the data of a SYN is enough.
    let mut lab = Lab::new();
    lab.pass(&[client("S", 0).len(100), server("S.", 0).ack(51)]);
    assert_eq!(lab.phase(), Some(Phase::SynReceived));
}

/// RFC 9293 §3.10.7.3, fifth (C9293-16): an ACK without a SYN does not answer a SYN. It
/// comes from an end that still has an old connection, which the opener's RST ends.
#[test]
fn an_ack_alone_answers_no_syn() {
    let mut lab = Lab::in_phase(Phase::SynSent);
    lab.changes_nothing(server(".", 7_000).ack(1));
    lab.changes_nothing(server("P.", 7_000).ack(900).len(10));
    lab.changes_nothing(client("R", 900));
    lab.changes_nothing(server("F.", 7_000).ack(900));
    assert_eq!(lab.phase(), Some(Phase::SynSent));
    lab.pass(&[server("S.", 0).ack(1), client(".", 1).ack(1)]);
    assert_eq!(lab.phase(), Some(Phase::Established));
}

/// RFC 9293 §3.10.7.4, fifth (C9293-21): in the handshake an ACK must acknowledge the
/// SYN-ACK and nothing that was never sent.
#[test]
fn the_last_ack_of_the_handshake_must_acknowledge_the_syn_ack() {
    for kind in [".", "P.", "F."] {
        let mut lab = Lab::in_phase(Phase::SynReceived);
        for beyond in [2, 3, 1 << 30] {
            lab.dropped(client(kind, 1).ack(beyond), DropReason::BadAck);
        }
        // An older one is for the server to refuse (its RST bears that number).
        lab.changes_nothing(client(kind, 1).ack(0));
        assert_eq!(lab.phase(), Some(Phase::SynReceived));
        lab.pass(&[client(".", 1).ack(1)]);
        assert_eq!(lab.phase(), Some(Phase::Established));
    }
}

/// RFC 9293 §3.5.2, group 1 (C9293-09): what belongs to no connection is answered with an
/// RST where its SYN would have been let in, an RST never.
#[test]
fn what_belongs_to_no_connection_gets_an_rst_but_an_rst_never() {
    for say in [
        client(".", 5).ack(7),
        client("P.", 5).ack(7).len(10),
        client("F.", 5).ack(7),
        client("S.", 5).ack(7),
    ] {
        for mut say in [say, say] {
            let mut lab = Lab::new();
            assert_eq!(lab.send(say), Verdict::Reset(DropReason::OutOfState), "{say:?}");
            say.flags = say.flags.with(Flags::PSH);
            assert_eq!(lab.send(say), Verdict::Reset(DropReason::OutOfState), "{say:?}");
            assert_eq!(lab.engine.counters().connections, 0);
        }
    }
    for say in [client("R", 5), client("R.", 5).ack(7)] {
        let mut lab = Lab::new();
        lab.dropped(say, DropReason::OutOfState);
    }
    let mut lab = Lab::with(Settings { default: Action::Drop, ..open_settings() }, Vec::new());
    lab.dropped(client(".", 5).ack(7), DropReason::OutOfState);
}

/// RFC 9293 §3.4 (C9293-03): data in a SYN or SYN-ACK are numbered behind it.
#[test]
fn data_in_a_syn_ack_are_numbered_behind_it() {
    let mut lab = Lab::new();
    lab.pass(&[client("S", 0), server("S.", 0).ack(1).len(100)]);
    assert_eq!(lab.phase(), Some(Phase::SynReceived));
    lab.dropped(client(".", 1).ack(102), DropReason::BadAck);
    lab.pass(&[client(".", 1).ack(101)]);
    assert_eq!((lab.phase(), lab.timer().0), (Some(Phase::Established), Timer::Established));
}

/// RFC 9293 §3.10.7.4, fifth (C9293-22), and §3.10 (C9293-23): control bits that no
/// end sends are dropped with a reason of their own in every phase, and open nothing.
#[test]
fn impossible_control_bits_in_every_phase() {
    let phases =
        SYNCHRONISED.into_iter().chain([Phase::SynSent, Phase::SynReceived, Phase::TimeWait, Phase::Reset]);
    for phase in phases {
        let mut lab = Lab::in_phase(phase);
        for bits in 0..=0xff {
            let flags = Flags(bits);
            let is = |flag| flags.contains(flag);
            let alone = [Flags::SYN, Flags::FIN, Flags::RST].into_iter().filter(|flag| is(*flag)).count();
            let legal = alone <= 1 && (is(Flags::ACK) || is(Flags::SYN) || is(Flags::RST));
            if legal {
                continue;
            }
            for from in [From::Client, From::Server] {
                let mut say = say(from, "", 1);
                say.flags = flags;
                say.ack = is(Flags::ACK).then_some(1);
                lab.dropped(say, DropReason::ImpossibleFlags);
            }
        }
        assert_eq!(lab.phase(), Some(phase));
    }
}

/// RFC 9293 §3.4 (C9293-04): numbers wrap, in the middle of a segment as well.
#[test]
fn numbers_wrap_within_a_segment() {
    // The client's SYN is five below the wrap, the server's two below half way round.
    for (from, to) in [(From::Client, From::Server), (From::Server, From::Client)] {
        let mut lab = Lab::in_phase(Phase::Established);
        lab.pass(&[
            say(from, "P.", 1).ack(1).len(1000),
            say(to, ".", 1).ack(1001),
            say(from, "P.", 1001).ack(1).len(1000),
            say(to, ".", 1).ack(2001),
            say(from, "P.", 1).ack(1).len(1000),
        ]);
        lab.unbelieved(say(to, ".", 1).ack(2002));
    }
}
