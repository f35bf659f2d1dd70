//! Rules, pickup, reload, kill.

use super::*;

#[test]
fn a_forbidden_syn_is_dropped_or_reset() {
    let mut no = rule("no", 1);
    no.action = Action::Reset;
    no.log = true;
    let mut lab = Lab::with(Settings { default: Action::Drop, ..open_settings() }, vec![no]);
    assert_eq!(lab.send(client("S", 0)), Verdict::Reset(DropReason::Rule));
    assert!(matches!(lab.worker.poll_event(), Some(Event::Logged { action: Action::Reset, .. })));
    let mut lab = Lab::with(Settings { default: Action::Drop, ..open_settings() }, Vec::new());
    lab.dropped(client("S", 0), DropReason::Rule);
    assert_eq!(lab.engine.counters().connections, 0);
}

#[test]
fn mid_stream_is_refused_where_a_rule_would_have_let_it_in_and_never_for_an_rst() {
    let mut lab = Lab::new();
    assert_eq!(lab.send(client("P.", 10).ack(7).len(3)), Verdict::Reset(DropReason::OutOfState));
    lab.dropped(client("R", 10), DropReason::OutOfState);
    lab.dropped(client("R.", 10).ack(7), DropReason::OutOfState);
    let mut lab = Lab::with(Settings { default: Action::Drop, ..open_settings() }, Vec::new());
    lab.dropped(client("P.", 10).ack(7), DropReason::OutOfState);
}

#[test]
fn during_the_grace_connections_are_picked_up_in_either_direction() {
    let mut settings = open_settings();
    settings.pickup.grace = Duration::from_secs(60);
    for first in [client("P.", 100).ack(50).len(10), server(".", 50).ack(100)] {
        let mut lab = Lab::with(settings.clone(), Vec::new());
        lab.pass(&[first]);
        assert_eq!(lab.engine.counters().connections, 1);
        lab.pass(&[
            client("P.", 110).ack(50).len(1000),
            server("P.", 50).ack(1110).len(3000),
            client(".", 1110).ack(3050),
        ]);
        lab.pass(&[client("F.", 1110).ack(3050), server("F.", 3050).ack(1111), client(".", 1111).ack(3051)]);
        let phases = lab.engine.counters().phases;
        assert!(phases.contains(&("time_wait", 1)), "{phases:?}");
    }
    let mut lab = Lab::with(settings, Vec::new());
    lab.seconds(61);
    assert_eq!(lab.send(client("P.", 100).ack(50)), Verdict::Reset(DropReason::OutOfState));
}

#[test]
fn what_the_kernel_knows_is_picked_up() {
    let mut lab = Lab::new();
    let packet = lab.packet(client("P.", 100).ack(50).len(10));
    let mut meta = Lab::meta(From::Client, packet.bytes.len());
    meta.kernel_knows = true;
    assert_eq!(lab.raw(meta, &packet.bytes), Verdict::Accept);
    assert_eq!(lab.phase(), Some(Phase::Established));
}

/// The kernel forgets what we ended a moment later; what was under way must not bring
/// the connection back on the kernel's word.
#[test]
fn what_we_ended_is_not_picked_up_again() {
    let mut lab = Lab::in_phase(Phase::SynReceived);
    lab.seconds(31);
    assert_eq!(lab.phase(), None);
    let packet = lab.packet(client(".", 1).ack(1));
    let mut meta = Lab::meta(From::Client, packet.bytes.len());
    meta.kernel_knows = true;
    assert_eq!(lab.raw(meta, &packet.bytes), Verdict::Reset(DropReason::OutOfState));
    lab.seconds(6);
    assert_eq!(lab.raw(meta, &packet.bytes), Verdict::Accept, "it is the kernel's connection now");
}

#[test]
fn rsts_have_a_budget() {
    let mut settings = open_settings();
    settings.rst_per_second = 5;
    let mut lab = Lab::with(settings, Vec::new());
    let mut sent = 0;
    for port in 5000..5020 {
        lab.client.1 = port;
        sent += u32::from(lab.send(client(".", 1).ack(1)) == Verdict::Reset(DropReason::OutOfState));
    }
    assert_eq!(sent, 5, "beyond the budget it is silent");
    assert_eq!(lab.engine.counters().rst_suppressed, 15);
}

#[test]
fn kill_tells_both_ends_the_numbers_they_expect_unless_silent() {
    let mut lab = Lab::in_phase(Phase::Established);
    lab.pass(&[client("P.", 1).ack(1).len(100), server(".", 1).ack(101)]);
    let flow = lab.flow();
    assert!(lab.worker.kill(&flow.reversed(), false, lab.now), "named from either end");
    assert_eq!(lab.resets(), [(From::Client, 1, None), (From::Server, 101, None)]);
    assert_eq!(lab.closed(), [CloseReason::Killed]);
    assert!(!lab.worker.kill(&flow, false, lab.now));

    let mut lab = Lab::in_phase(Phase::Established);
    assert!(lab.worker.kill(&flow, true, lab.now));
    assert!(matches!(lab.transmits().as_slice(), [Transmit::Forget { .. }]));
}

#[test]
fn a_reload_keeps_or_rejudges() {
    let deny = || policy(Settings { default: Action::Drop, ..open_settings() }, Vec::new());
    let mut lab = Lab::in_phase(Phase::Established);
    lab.engine.install(deny(), Existing::Keep, &mut lab.worker, lab.now);
    assert_eq!(lab.phase(), Some(Phase::Established));
    lab.pass(&[client("P.", 1).ack(1).len(10)]);
    lab.client.1 += 1;
    lab.dropped(client("S", 0), DropReason::Rule);
    lab.client.1 -= 1;
    lab.engine.install(deny(), Existing::Rejudge, &mut lab.worker, lab.now);
    assert_eq!(lab.phase(), None);
    assert_eq!(lab.closed(), [CloseReason::Rejudged]);
    assert!(lab.resets().iter().any(|(to, ..)| *to == From::Server));
}

#[test]
fn zones_follow_the_interfaces_names() {
    let zone = crate::policy::Zone { name: "wan".into(), interfaces: vec!["ppp*".into()], networks: None };
    let mut from_wan = rule("from-wan", 1);
    from_wan.from.any_of.push(crate::policy::Term::Zone(crate::policy::ZoneId(0)));
    let names = vec!["default".into(), "from-wan".into()];
    let settings = Settings { default: Action::Drop, ..open_settings() };
    let policy = Policy::new(settings, vec![zone], vec![from_wan], names);
    let mut lab = Lab::at(policy, "198.51.100.7:4000", "192.0.2.20:80");
    lab.dropped(client("S", 0), DropReason::Rule);
    lab.engine.set_interfaces(&[(OUTSIDE, "ppp0".into()), (INSIDE, "eth1".into())]);
    lab.pass(&[client("S", 0)]);
    // It comes back with another number.
    lab.engine.set_interfaces(&[(IfIndex(9), "ppp0".into())]);
    lab.client.1 += 1;
    let packet = lab.packet(client("S", 0));
    let meta = Meta { in_if: IfIndex(9), ..Lab::meta(From::Client, packet.bytes.len()) };
    assert_eq!(lab.raw(meta, &packet.bytes), Verdict::Accept);
}
