//! A table that fills up: timers that shrink, and who makes room when it is full.

use super::*;
use crate::{
    conntrack::Key,
    policy::{Adaptive, PickupMode},
    wire::build::udp,
};

/// Room for so many, and timers as they are.
fn room_for(most: u32, evictable: bool) -> Lab {
    let mut settings = open_settings();
    settings.max_connections = most;
    settings.adaptive = Adaptive { start: 200, end: 300 };
    let mut web = rule("web", 1);
    web.evictable = evictable;
    Lab::with(settings, vec![web])
}

impl Lab {
    /// A connection in this phase from a port of its own.
    fn another(&mut self, port: u16, phase: Phase) {
        self.client.1 = port;
        self.bring_to(phase);
    }

    fn is_there(&mut self, port: u16) -> bool {
        self.client.1 = port;
        self.view().is_some()
    }

    fn datagram(&mut self, from: From, port: u16) -> Verdict {
        let client = std::net::SocketAddr::new(self.client.0, port);
        let server = std::net::SocketAddr::new(self.server.0, 53);
        let (src, dst) = if from == From::Client { (client, server) } else { (server, client) };
        let tuple = FourTuple { src: src.ip(), src_port: src.port(), dst: dst.ip(), dst_port: dst.port() };
        let packet = udp(tuple, b"question");
        self.raw(Self::meta(from, packet.bytes.len()), &packet.bytes)
    }

    fn evicted(&self) -> Vec<(&'static str, u64)> {
        self.engine.counters().evicted
    }
}

const ENDING: [Phase; 5] = [Phase::TimeWait, Phase::Closing, Phase::Reset, Phase::FinWait, Phase::HalfClosed];

/// One of each, in an order other than theirs: newcomers take their places in the order
/// of the contract, and the established one stays.
#[test]
fn they_go_in_their_order() {
    let mut lab = room_for(8, false);
    let mixed = [
        (5, Phase::Established),
        (6, Phase::HalfClosed),
        (7, Phase::Closing),
        (8, Phase::SynSent),
        (9, Phase::Reset),
        (10, Phase::FinWait),
        (11, Phase::SynReceived),
        (12, Phase::TimeWait),
    ];
    for (port, phase) in mixed {
        lab.another(port, phase);
    }
    let order = [8, 11, 12, 7, 9, 10, 6];
    for (gone, port) in (1..).zip(100..107) {
        // Established at once, so that it is not the next that goes.
        lab.another(port, Phase::Established);
        let left: Vec<u16> = mixed.iter().map(|(port, _)| *port).filter(|port| lab.is_there(*port)).collect();
        let expected: Vec<u16> =
            mixed.iter().map(|(port, _)| *port).filter(|port| !order[..gone].contains(port)).collect();
        assert_eq!(left, expected, "after {gone}");
    }
    assert_eq!(lab.engine.counters().connections, 8);
    lab.client.1 = 200;
    lab.dropped(client("S", 0), DropReason::TableFull);
    let reasons = lab.closed();
    assert_eq!(reasons, [CloseReason::TableFull; 7]);
    let evicted = ["syn_sent", "syn_received", "fin_wait", "half_closed", "closing", "time_wait", "reset"];
    assert_eq!(lab.evicted(), evicted.map(|phase| (phase, 1)));
}

/// Who still has something to hear is told, and nobody else.
#[test]
fn the_evicted_are_told() {
    for (phase, told) in [
        (Phase::SynSent, vec![From::Server]),
        (Phase::SynReceived, vec![From::Server]),
        (Phase::TimeWait, vec![]),
        (Phase::Closing, vec![]),
        (Phase::Reset, vec![]),
        (Phase::FinWait, vec![From::Client, From::Server]),
        (Phase::HalfClosed, vec![From::Client, From::Server]),
    ] {
        let mut lab = room_for(1, false);
        lab.bring_to(phase);
        lab.transmits();
        lab.client.1 += 1;
        lab.pass(&[client("S", 0)]);
        lab.client.1 -= 1;
        let mut to: Vec<From> = lab.resets().into_iter().map(|(to, ..)| to).collect();
        to.dedup();
        assert_eq!(to, told, "{phase}");
        assert_eq!(lab.closed(), [CloseReason::TableFull], "{phase}");
    }
}

/// In each phase the one that came into it first goes first.
#[test]
fn of_a_kind_the_first_goes_first() {
    for phase in [Phase::SynSent, Phase::SynReceived].into_iter().chain(ENDING) {
        let mut lab = room_for(3, false);
        // One shard each: the hash decides, and the order holds within it.
        let mut all = Vec::new();
        let shard_of = |lab: &Lab| {
            let (key, _) = Key::<std::net::Ipv4Addr>::of(&lab.flow()).unwrap();
            lab.engine.shard_of(key.hash(&lab.engine.secret)).0
        };
        lab.client.1 = 1;
        let shard = shard_of(&lab);
        for port in 1.. {
            lab.client.1 = port;
            if shard_of(&lab) == shard {
                lab.bring_to(phase);
                all.push(port);
                lab.seconds(1);
            }
            if all.len() == 3 {
                break;
            }
        }
        for (gone, port) in (1..=3).zip(50_000..) {
            lab.another(port, Phase::Established);
            let left: Vec<u16> = all.iter().copied().filter(|port| lab.is_there(*port)).collect();
            assert_eq!(left, all[gone..], "{phase}");
        }
    }
}

/// Of the unproven, TCP and UDP, those that are more make room: a flood of one kind does
/// not push the other kind out.
#[test]
fn a_flood_of_one_kind_makes_room_for_itself() {
    let mut lab = room_for(10, false);
    for port in 1..=3 {
        lab.another(port, Phase::SynSent);
    }
    for port in 100..140 {
        assert_eq!(lab.datagram(From::Client, port), Verdict::Accept);
    }
    assert_eq!(lab.engine.counters().embryonic, 3, "the handshakes stay");
    lab.another(4, Phase::SynReceived);
    assert_eq!(lab.evicted(), [("udp_new", 34)]);
    let mut lab = room_for(10, false);
    for port in 100..103 {
        assert_eq!(lab.datagram(From::Client, port), Verdict::Accept);
    }
    for port in 1..40 {
        lab.another(port, Phase::SynSent);
    }
    assert_eq!(lab.evicted(), [("syn_sent", 32)]);
    assert_eq!(lab.datagram(From::Server, 100), Verdict::Accept, "the question is still known");
}

/// Answered UDP goes last of all but the established: who was silent longest of those
/// that are looked at.
#[test]
fn of_streams_the_longest_silent_goes() {
    let mut lab = room_for(4, false);
    for port in 100..104 {
        lab.datagram(From::Client, port);
        lab.datagram(From::Server, port);
        lab.seconds(1);
    }
    // All but the third speak again.
    for port in [100, 101, 103] {
        lab.datagram(From::Client, port);
    }
    // Which of several shards is asked depends on hashes, so all of them are asked.
    for port in 1..=4 {
        lab.another(port, Phase::Established);
    }
    assert_eq!(lab.evicted(), [("udp_stream", 4)]);
    lab.client.1 = 5;
    lab.dropped(client("S", 0), DropReason::TableFull);
    assert_eq!(lab.datagram(From::Client, 200), Verdict::Drop(DropReason::TableFull));
}

/// A packet that the rules don't let in makes nobody go; neither does one over a limit.
#[test]
fn nobody_goes_for_who_may_not_enter() {
    let mut settings = open_settings();
    settings.default = Action::Drop;
    settings.max_connections = 2;
    settings.adaptive = Adaptive { start: 200, end: 300 };
    settings.limits.per_source = Some(1);
    let mut web = rule("web", 1);
    web.services =
        vec![crate::policy::ServiceKind::Ports(Protocol::TCP, crate::policy::Ports { first: 80, last: 80 })];
    let mut lab = Lab::with(settings, vec![web]);
    lab.another(1, Phase::TimeWait);
    lab.another(2, Phase::SynSent);
    assert_eq!(lab.datagram(From::Client, 100), Verdict::Drop(DropReason::Rule));
    lab.client.1 = 3;
    lab.dropped(client("S", 0), DropReason::Limit);
    lab.dropped(client("R", 0), DropReason::OutOfState);
    assert_eq!(lab.evicted(), []);
    assert!(lab.is_there(1) && lab.is_there(2));
}

/// No SYN displaces an established connection, whatever its rule says.
#[test]
fn a_syn_displaces_no_established_connection() {
    let mut lab = room_for(100, true);
    for port in 1..=100 {
        lab.client.1 = port;
        lab.pass(&[client("S", 0)]);
    }
    // 99 complete; for the last of them, which leave too little room, somebody goes.
    for port in 1..=100 {
        lab.client.1 = port;
        lab.pass(&[server("S.", 0).ack(1), client(".", 1).ack(1)]);
    }
    let before = lab.engine.counters();
    assert_eq!(before.connections, 99, "one place is kept free");
    assert_eq!(before.evicted, [("established", 1)]);
    lab.client.1 = 101;
    lab.pass(&[client("S", 0)]);
    for port in 102..500 {
        lab.client.1 = port;
        lab.pass(&[client("S", 0)]);
    }
    let after = lab.engine.counters();
    assert_eq!((after.connections, after.embryonic), (100, 1), "they displace each other only");
    // Who completes its handshake has proven itself, and takes the place of one that may go.
    lab.pass(&[server("S.", 0).ack(1), client(".", 1).ack(1)]);
    assert_eq!(lab.evicted(), [("syn_sent", 398), ("established", 2)]);
    let reasons = lab.closed();
    assert_eq!(reasons.last(), Some(&CloseReason::TableFull));
}

/// The evictable that was silent longest of those looked at goes, and both ends hear of it.
#[test]
fn of_the_evictable_the_longest_silent_goes() {
    let mut lab = room_for(4, true);
    for port in 1..=3 {
        lab.another(port, Phase::Established);
        lab.seconds(10);
    }
    assert_eq!(lab.engine.counters().connections, 3);
    lab.transmits();
    lab.another(4, Phase::Established);
    assert_eq!(lab.engine.counters().connections, 3);
    assert_eq!(lab.evicted(), [("established", 1)]);
    let told = lab.transmits().into_iter().filter(|t| matches!(t, Transmit::Reset { .. })).count();
    assert_eq!(told, 2, "the client and the server");
}

/// A reload gives and takes the right to go, also of connections that exist.
#[test]
fn a_reload_changes_who_may_go() {
    let mut lab = room_for(2, false);
    lab.another(1, Phase::Established);
    for (evictable, there) in [(true, true), (false, false), (true, true)] {
        let mut web = rule("web", 1);
        web.evictable = evictable;
        let settings = lab.engine.policy().settings.clone();
        lab.engine.install(policy(settings, vec![web]), Existing::Keep, &mut lab.worker, lab.now);
        lab.seconds(1);
        let in_line: u32 = lab.engine.shards.iter().map(|shard| shard.lock().in_line(7)).sum();
        assert_eq!(in_line > 0, there);
    }
}

/// A connection that the kernel knows can't be forged, so the evictable make room for it;
/// one that is picked up on its word alone takes the place of those that are ending.
#[test]
fn what_the_kernel_knows_takes_the_place_of_the_evictable() {
    for (kernel_knows, expected) in [(true, Verdict::Accept), (false, Verdict::Drop(DropReason::TableFull))] {
        let mut settings = open_settings();
        settings.max_connections = 1;
        settings.adaptive = Adaptive { start: 200, end: 300 };
        let mut web = rule("web", 1);
        web.evictable = true;
        web.pickup = Some(PickupMode::Loose);
        let mut lab = Lab::with(settings, vec![web]);
        let meta = |lab: &Lab, knows| {
            let packet = lab.packet(client(".", 500).ack(700));
            (Meta { kernel_knows: knows, ..Lab::meta(From::Client, packet.bytes.len()) }, packet)
        };
        lab.client.1 = 1;
        let (first, packet) = meta(&lab, true);
        assert_eq!(lab.raw(first, &packet.bytes), Verdict::Accept);
        lab.client.1 = 2;
        let (second, packet) = meta(&lab, kernel_knows);
        assert_eq!(lab.raw(second, &packet.bytes), expected);
    }
}

/// At the start of the line a timer has its length, at the end none, and half way half:
/// all but `established`.
#[test]
fn timers_shrink_in_a_straight_line() {
    let full = |phase: Phase| phase.timer().default_value().unwrap();
    for (fill, thousandths) in [(40, 1000), (50, 1000), (60, 833), (80, 500), (99, 183)] {
        for phase in [Phase::SynSent, Phase::SynReceived, Phase::Established].into_iter().chain(ENDING) {
            let mut settings = open_settings();
            settings.max_connections = 100;
            settings.adaptive = Adaptive { start: 50, end: 110 };
            let mut lab = Lab::with(settings, Vec::new());
            for port in 1000..1000 + fill - 1 {
                lab.another(port, Phase::Established);
            }
            lab.another(1, phase);
            lab.closed();
            let expected =
                if phase == Phase::Established { full(phase) } else { full(phase) * thousandths / 1000 };
            let view = lab.view().unwrap();
            let off = view.expires_in.abs_diff(expected);
            assert!(off <= Duration::from_millis(200), "{phase} at {fill}%: {view:?}, not {expected:?}");
            lab.advance(expected - Duration::from_millis(500));
            assert!(lab.phase().is_some(), "{phase} at {fill}% ends early");
            lab.advance(Duration::from_millis(900));
            assert_eq!(lab.phase(), None, "{phase} at {fill}% ends late");
        }
    }
}

/// The wheel follows, down and up and down again: nothing ends late because its timer was
/// longer when it was looked at last.
#[test]
fn timers_follow_the_filling_of_the_table() {
    let mut settings = open_settings();
    settings.max_connections = 100;
    settings.adaptive = Adaptive { start: 50, end: 100 };
    let mut lab = Lab::with(settings, Vec::new());
    lab.another(1, Phase::HalfClosed);
    let expires = |lab: &mut Lab| {
        lab.client.1 = 1;
        lab.view().map(|view| view.expires_in.as_secs())
    };
    assert_eq!(expires(&mut lab), Some(600));
    for port in 1000..1074 {
        lab.another(port, Phase::Established);
    }
    // 75 of 100: half way.
    assert_eq!(expires(&mut lab), Some(300));
    let leave = |lab: &mut Lab, ports: std::ops::Range<u16>| {
        for port in ports {
            lab.client.1 = port;
            let flow = lab.flow();
            assert!(lab.worker.kill(&flow, true, lab.now));
        }
        lab.advance(Duration::from_millis(10));
    };
    lab.advance(Duration::from_millis(10));
    leave(&mut lab, 1060..1074);
    assert_eq!(expires(&mut lab), Some(467), "61 of 100: 78% of it");
    // One that comes now is looked at by the longer timer.
    lab.another(2, Phase::HalfClosed);
    lab.advance(Duration::from_millis(10));
    for port in 1060..1073 {
        lab.another(port, Phase::Established);
    }
    lab.advance(Duration::from_millis(10));
    assert_eq!(expires(&mut lab), Some(299), "75 again");
    lab.seconds(301);
    assert!(!lab.is_there(1) && !lab.is_there(2), "both ended in time");
}
