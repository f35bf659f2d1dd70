//! Connections that the kernel's helpers announce, and what those do to numbers.

use super::*;
use crate::wire::build;

/// Only FTP's control connections are let in.
fn ftp() -> Lab {
    let control =
        crate::policy::ServiceKind::Ports(Protocol::TCP, crate::policy::Ports { first: 21, last: 21 });
    let mut rule = rule("ftp", 1);
    rule.services = vec![control];
    let settings = Settings { default: Action::Drop, ..open_settings() };
    Lab::at(policy(settings, vec![rule]), "198.51.100.7:4000", "192.0.2.20:21")
}

/// The first packet of another connection of the same two hosts.
fn child(lab: &mut Lab, from: From, protocol: Protocol, parent: Option<Flow>) -> (Flow, Verdict) {
    let mut tuple = lab.tuple(from);
    (tuple.src_port, tuple.dst_port) = (50_000, 50_001);
    let packet = if protocol == Protocol::UDP {
        build::udp(tuple, b"data")
    } else {
        SegmentBuilder::new(tuple).flags(Flags::SYN).build()
    };
    let meta = Meta { parent, ..Lab::meta(from, packet.bytes.len()) };
    let flow =
        Flow { protocol, src: tuple.src, src_port: tuple.src_port, dst: tuple.dst, dst_port: tuple.dst_port };
    (flow, lab.raw(meta, &packet.bytes))
}

fn view_of(lab: &Lab, flow: &Flow) -> Option<View> {
    let mut found = None;
    lab.engine.connections(lab.now, &mut |view| {
        found = found.or((view.flow == *flow).then_some(*view));
        true
    });
    found
}

#[test]
fn an_announced_connection_has_its_parents_rule() {
    for from in [From::Client, From::Server] {
        for protocol in [Protocol::TCP, Protocol::UDP] {
            let mut lab = ftp();
            lab.handshake();
            let parent = Some(lab.flow());
            assert_eq!(child(&mut lab, from, protocol, None).1, Verdict::Drop(DropReason::Rule));
            let (flow, verdict) = child(&mut lab, from, protocol, parent);
            assert_eq!(verdict, Verdict::Accept);
            assert_eq!(view_of(&lab, &flow).map(|view| view.rule), Some(RuleId(1)));
            // Its parent's reverse names it as well.
            let mut lab = ftp();
            lab.handshake();
            let parent = Some(lab.flow().reversed());
            assert_eq!(child(&mut lab, from, protocol, parent).1, Verdict::Accept);
        }
    }
}

#[test]
fn what_announces_must_be_alive() {
    // Nobody opened it; a handshake that is not finished has announced nothing; what is
    // over has no more to say.
    let stages: [(Option<Phase>, bool); 9] = [
        (None, false),
        (Some(Phase::SynSent), false),
        (Some(Phase::SynReceived), false),
        (Some(Phase::Established), true),
        (Some(Phase::FinWait), true),
        (Some(Phase::HalfClosed), true),
        (Some(Phase::Closing), true),
        (Some(Phase::TimeWait), false),
        (Some(Phase::Reset), false),
    ];
    for (phase, alive) in stages {
        let mut lab = ftp();
        if let Some(phase) = phase {
            lab.bring_to(phase);
        }
        let parent = Some(lab.flow());
        let (_, verdict) = child(&mut lab, From::Server, Protocol::TCP, parent);
        let expected = if alive { Verdict::Accept } else { Verdict::Drop(DropReason::Rule) };
        assert_eq!(verdict, expected, "{phase:?}");
    }
    // One whose timer has fired, and nobody has looked since.
    let mut lab = ftp();
    lab.handshake();
    let parent = Some(lab.flow());
    lab.now = lab.now.after(Duration::from_secs(3 * 3600));
    assert_eq!(child(&mut lab, From::Server, Protocol::TCP, parent).1, Verdict::Drop(DropReason::Rule));
}

/// Where the rules would let it in by themselves, its parent's still counts.
#[test]
fn limits_count_announced_connections_too() {
    let mut settings = open_settings();
    settings.limits.total = Some(0);
    let mut lab = Lab::at(policy(settings, vec![rule("all", 1)]), "198.51.100.7:4000", "192.0.2.20:21");
    lab.dropped(client("S", 0), DropReason::Limit);

    let mut lab = ftp();
    lab.handshake();
    let parent = Some(lab.flow());
    assert_eq!(lab.engine.counters().embryonic_by_rule, []);
    child(&mut lab, From::Server, Protocol::TCP, parent);
    assert_eq!(lab.engine.counters().embryonic_by_rule, [(RuleId(1), 1)]);
}

#[test]
fn a_reload_judges_it_by_its_parents_rule() {
    let mut lab = ftp();
    lab.handshake();
    let parent = Some(lab.flow());
    let (flow, _) = child(&mut lab, From::Server, Protocol::TCP, parent);
    let now = lab.now;
    let same = Policy::clone(&lab.engine.policy());
    lab.engine.install(same.clone(), Existing::Rejudge, &mut lab.worker, now);
    assert!(view_of(&lab, &flow).is_some(), "no rule matches it, but its parent's is there");
    let mut gone = same;
    gone.rules[0].action = Action::Drop;
    lab.engine.install(gone, Existing::Rejudge, &mut lab.worker, now);
    assert_eq!(view_of(&lab, &flow), None);
}

/// 10 octets that the client sent have become 14, as the server knows them; what it
/// acknowledges is told in its own numbers.
#[test]
fn acknowledgements_of_what_a_helper_made_longer_are_understood() {
    let at = SeqNum(CLIENT_ISS.wrapping_add(1));
    for (after, grown) in [(4_u32, 4_i64), (4_u32.wrapping_neg(), -4)] {
        let mut lab = ftp();
        lab.handshake();
        lab.pass(&[client("P.", 1).ack(1).len(10)]);
        let numbers = Renumbering { position: at, before: 0, after };
        let acked = (11 + grown) as u32;
        let send = |lab: &mut Lab, say: Say, renumbered| {
            let packet = lab.packet(say);
            let meta = Meta { renumbered, ..Lab::meta(say.from, packet.bytes.len()) };
            lab.raw(meta, &packet.bytes)
        };
        if grown > 0 {
            lab.unbelieved(server(".", 1).ack(acked));
        }
        assert_eq!(send(&mut lab, server(".", 1).ack(acked), Some(numbers)), Verdict::Accept);
        // Both close, exactly, and an RST of either would be exact too.
        assert_eq!(send(&mut lab, client("F.", 11).ack(1), None), Verdict::Accept);
        assert_eq!(lab.phase(), Some(Phase::FinWait), "the FIN is not acknowledged yet");
        assert_eq!(send(&mut lab, server(".", 1).ack(acked + 1), Some(numbers)), Verdict::Accept);
        assert_eq!(lab.phase(), Some(Phase::HalfClosed));
        assert_eq!(send(&mut lab, server("F.", 1).ack(acked + 1), Some(numbers)), Verdict::Accept);
        assert_eq!(send(&mut lab, client(".", 12).ack(2), None), Verdict::Accept);
        assert_eq!(lab.phase(), Some(Phase::TimeWait));
    }
}

#[test]
fn numbers_before_a_change_are_told_from_those_behind_it() {
    let numbers = Renumbering { position: SeqNum(1000), before: 6, after: 10 };
    for (acked, own) in [(906, 900), (1006, 1000), (1007, 997), (1011, 1001), (1020, 1010)] {
        assert_eq!(numbers.undo(SeqNum(acked)), SeqNum(own), "{acked}");
    }
    let wrapping = Renumbering { position: SeqNum(u32::MAX), before: 0, after: 3_u32.wrapping_neg() };
    assert_eq!(wrapping.undo(SeqNum(5)), SeqNum(8));
    assert_eq!(wrapping.undo(SeqNum(u32::MAX - 1)), SeqNum(u32::MAX - 1));
}
