//! Limits on half-open connections.

use super::*;
use crate::policy::{EmbryonicLimits, Limit, LiveLimit, OnExcess};

fn limited(limits: EmbryonicLimits) -> Lab {
    let mut settings = open_settings();
    settings.limits = limits;
    Lab::with(settings, Vec::new())
}

fn from(lab: &mut Lab, address: &str, port: u16) {
    lab.client = (address.parse().unwrap(), port);
}

fn limits(set: impl FnOnce(&mut EmbryonicLimits)) -> EmbryonicLimits {
    let mut limits = EmbryonicLimits::default();
    set(&mut limits);
    limits
}

#[test]
fn per_source_holds_while_others_connect() {
    let mut lab = limited(limits(|l| l.per_source = Some(3)));
    for port in 0..3 {
        from(&mut lab, "198.51.100.7", 5000 + port);
        lab.pass(&[client("S", 0), client("S", 0)]);
    }
    from(&mut lab, "198.51.100.7", 5003);
    lab.dropped(client("S", 0), DropReason::Limit);
    from(&mut lab, "198.51.100.8", 5003);
    lab.handshake();
    // A finished handshake gives its count back.
    from(&mut lab, "198.51.100.7", 5000);
    lab.pass(&[server("S.", 0).ack(1), client(".", 1).ack(1)]);
    from(&mut lab, "198.51.100.7", 5003);
    lab.pass(&[client("S", 0)]);
    let passes = Passes { acted: 1, shadow: 0 };
    assert_eq!(
        lab.engine.counters().limits_passed,
        [Passed { of_rule: None, limit: Limit::PerSource, passes }]
    );
}

/// `source_prefix`: the rule set's for its own counts, a rule's for that rule's.
#[test]
fn one_source_is_what_the_prefix_says() {
    let wide = |ipv4, ipv6| crate::policy::OwnPrefix { ipv4: Some(ipv4), ipv6: Some(ipv6) };
    for (server_address, base, sources) in [
        ("192.0.2.1", "198.51.100.7", ["198.51.100.7", "198.51.100.8", "198.51.101.7"]),
        ("2001:db8:9::1", "2001:db8:1::", ["2001:db8:1:1::1", "2001:db8:1:2::1", "2001:db8:2:1::1"]),
    ] {
        let mut web = rule("web", 1);
        web.limits = limits(|l| {
            l.per_source = Some(2);
            l.source_prefix = wide(24, 48);
        });
        let mut settings = open_settings();
        settings.limits = limits(|l| l.per_source = Some(1));
        let mut lab = Lab::with(settings, vec![web]);
        lab.server.0 = server_address.parse().unwrap();
        let [one, same_network, other] = sources;
        from(&mut lab, one, 5000);
        lab.pass(&[client("S", 0)]);
        from(&mut lab, one, 5001);
        lab.dropped(client("S", 0), DropReason::Limit);
        // For the rule set another source, for the rule the same.
        from(&mut lab, same_network, 5000);
        lab.pass(&[client("S", 0)]);
        let third = if base.contains(':') { "2001:db8:1:3::1" } else { "198.51.100.9" };
        from(&mut lab, third, 5000);
        lab.dropped(client("S", 0), DropReason::Limit);
        from(&mut lab, other, 5000);
        lab.pass(&[client("S", 0)]);
    }
}

#[test]
fn every_way_out_gives_the_count_back() {
    type WayOut = fn(&mut Lab);
    let ways: [(&str, WayOut); 12] = [
        ("established", |lab| lab.pass(&[server("S.", 0).ack(1), client(".", 1).ack(1)])),
        ("rst of the server", |lab| lab.pass(&[server("R.", 0).ack(1)])),
        ("rst of the client", |lab| lab.pass(&[client("R", 1)])),
        ("expiry", |lab| lab.seconds(31)),
        ("expiry of the other half", |lab| {
            lab.pass(&[server("S.", 0).ack(1)]);
            lab.seconds(31);
        }),
        ("kill", |lab| {
            let flow = lab.flow();
            assert!(lab.worker.kill(&flow, false, lab.now));
        }),
        ("kill of the other half", |lab| {
            lab.pass(&[server("S.", 0).ack(1)]);
            let flow = lab.flow();
            assert!(lab.worker.kill(&flow, true, lab.now));
        }),
        ("an end that was closed at once", |lab| {
            lab.pass(&[server("S.", 0).ack(1), client("F.", 1).ack(1)]);
        }),
        ("eviction", |lab| {
            let mut live = lab.engine.policy().settings.clone();
            live.limits.on_excess = Some(OnExcess::Evict);
            let policy = policy(live, Vec::new());
            lab.engine.install(policy, Existing::Keep, &mut lab.worker, lab.now);
            lab.client.1 += 7;
            lab.pass(&[client("S", 0), client("R", 1)]);
            lab.client.1 -= 7;
            assert_eq!(lab.phase(), None);
        }),
        ("the rules", |lab| {
            let mut settings = lab.engine.policy().settings.clone();
            settings.default = Action::Drop;
            let closed = policy(settings.clone(), Vec::new());
            lab.engine.install(closed, Existing::Rejudge, &mut lab.worker, lab.now);
            settings.default = Action::Accept;
            lab.engine.install(policy(settings, Vec::new()), Existing::Keep, &mut lab.worker, lab.now);
        }),
        ("a destination that can't be reached", |lab| unreachable(lab, client("S", 0), (3, 1))),
        ("a port that can't be reached", |lab| unreachable(lab, client("S", 0), (3, 3))),
    ];
    for (name, way) in ways {
        let mut lab = limited(limits(|l| l.total = Some(1)));
        lab.pass(&[client("S", 0)]);
        lab.client.1 += 1;
        lab.dropped(client("S", 0), DropReason::Limit);
        lab.client.1 -= 1;
        way(&mut lab);
        assert_eq!(lab.engine.counters().embryonic, 0, "{name}");
        lab.client.1 += 1;
        lab.pass(&[client("S", 0)]);
    }
}

/// An ICMP error of a router by the server, about this packet.
#[track_caller]
fn unreachable(lab: &mut Lab, about: Say, (kind, code): (u8, u8)) {
    let packet = lab.packet(about);
    let (to, from) =
        if about.from == From::Client { (lab.client.0, From::Server) } else { (lab.server.0, From::Client) };
    let error = crate::wire::build::icmp_error("203.0.113.1".parse().unwrap(), to, kind, code, &packet.bytes);
    let verdict = lab.raw(Lab::meta(from, error.bytes.len()), &error.bytes);
    assert_eq!(verdict, Verdict::Accept);
}

fn counted(lab: &Lab) -> (u64, u64) {
    let counters = lab.engine.counters();
    (counters.embryonic, counters.uncounted)
}

/// The connection stays (RFC 5382 §7.3, REQ-10), and counts again once it goes on.
#[test]
fn what_could_not_be_delivered_counts_again_when_it_goes_on() {
    let goes_on: [(&str, Say, Phase); 3] = [
        ("the SYN again", client("S", 0), Phase::SynSent),
        ("its answer", server("S.", 0).ack(1), Phase::SynReceived),
        ("the other end's own SYN", server("S", 0), Phase::SynReceived),
    ];
    for (name, say, phase) in goes_on {
        let mut lab = limited(limits(|l| l.total = Some(1)));
        lab.pass(&[client("S", 0)]);
        unreachable(&mut lab, client("S", 0), (3, 1));
        assert_eq!((lab.phase(), counted(&lab)), (Some(Phase::SynSent), (0, 1)), "{name}");
        // Told twice, it is given back once.
        unreachable(&mut lab, client("S", 0), (3, 1));
        // Meanwhile another has the place.
        lab.client.1 += 1;
        lab.pass(&[client("S", 0)]);
        lab.client.1 -= 1;
        lab.dropped(say, DropReason::Limit);
        lab.client.1 += 1;
        lab.pass(&[client("R", 1)]);
        lab.client.1 -= 1;
        if say.from == From::Client {
            // Its first one made way.
            assert_eq!(lab.phase(), None);
        }
        lab.pass(&[say]);
        assert_eq!((lab.phase(), counted(&lab)), (Some(phase), (1, 0)), "{name}");
    }
    // What is no SYN changes nothing, and an RST ends it.
    let mut lab = limited(limits(|l| l.total = Some(1)));
    lab.pass(&[client("S", 0)]);
    unreachable(&mut lab, client("S", 0), (3, 1));
    lab.dropped(client(".", 1).ack(1), DropReason::Unexpected);
    lab.pass(&[server("S.", 0).ack(2000)]);
    assert_eq!(counted(&lab), (0, 1));
    lab.pass(&[server("R.", 0).ack(1)]);
    assert_eq!(counted(&lab), (0, 0));
    // And its timer, which no error moves.
    let mut lab = limited(limits(|l| l.total = Some(1)));
    lab.pass(&[client("S", 0)]);
    unreachable(&mut lab, client("S", 0), (3, 1));
    lab.seconds(31);
    assert_eq!((lab.phase(), counted(&lab)), (None, (0, 0)));
}

/// Only an error about the SYN itself, by the connection's own way, while nobody has
/// answered; and none that says that it was too large.
#[test]
fn other_errors_give_no_count_back() {
    let is_counted = |lab: &Lab| assert_eq!(counted(lab), (1, 0));
    let mut lab = Lab::new();
    lab.pass(&[client("S", 0)]);
    unreachable(&mut lab, client("S", 0), (3, 4));
    unreachable(&mut lab, client("S", 0), (11, 0));
    is_counted(&lab);
    // From outside, where no error about it can come from.
    let packet = lab.packet(client("S", 0));
    let router = "203.0.113.1".parse().unwrap();
    let error = crate::wire::build::icmp_error(router, lab.client.0, 3, 1, &packet.bytes);
    lab.raw(Lab::meta(From::Client, error.bytes.len()), &error.bytes);
    is_counted(&lab);
    // Another number.
    let packet = lab.packet(client("S", 5000));
    let error = crate::wire::build::icmp_error(router, lab.client.0, 3, 1, &packet.bytes);
    lab.raw(Lab::meta(From::Server, error.bytes.len()), &error.bytes);
    is_counted(&lab);
    // Answered: the server has it, whatever becomes of the SYN's copy or of the answer.
    lab.pass(&[server("S.", 0).ack(1)]);
    unreachable(&mut lab, client("S", 0), (3, 1));
    unreachable(&mut lab, server("S.", 0).ack(1), (3, 1));
    is_counted(&lab);
}

/// After a reload the counts are those of the rules that hold now.
#[test]
fn a_connection_that_is_judged_again_counts_under_its_new_rule() {
    let mut lab = Lab::with(open_settings(), vec![rule("old", 1)]);
    lab.pass(&[client("S", 0)]);
    assert_eq!(lab.engine.counters().embryonic_by_rule, [(RuleId(1), 1)]);
    let names = ["default", "old", "new"].map(Into::into).to_vec();
    let new = Policy::new(open_settings(), Vec::new(), vec![rule("new", 2)], names);
    lab.engine.install(new, Existing::Rejudge, &mut lab.worker, lab.now);
    lab.check();
    assert_eq!(lab.engine.counters().embryonic_by_rule, [(RuleId(2), 1)]);
}

#[test]
fn per_destination_counts_address_and_port() {
    let mut lab = limited(limits(|l| l.per_destination = Some(1)));
    lab.pass(&[client("S", 0)]);
    from(&mut lab, "198.51.100.8", 4000);
    lab.dropped(client("S", 0), DropReason::Limit);
    lab.server.1 = 81;
    lab.pass(&[client("S", 0)]);
}

#[test]
fn reset_answers_with_the_rst_of_a_closed_port() {
    let mut lab = limited(limits(|l| {
        l.total = Some(1);
        l.on_excess = Some(OnExcess::Reset);
    }));
    lab.pass(&[client("S", 0)]);
    lab.client.1 += 1;
    assert_eq!(lab.send(client("S", 0)), Verdict::Reset(DropReason::Limit));
}

#[test]
fn evict_lets_the_newest_in_and_tells_the_server_of_the_stalest() {
    let mut lab = limited(limits(|l| {
        l.total = Some(2);
        l.on_excess = Some(OnExcess::Evict);
    }));
    for port in [5000, 5001, 5002] {
        from(&mut lab, "198.51.100.7", port);
        lab.pass(&[client("S", 0)]);
        lab.pass(&[server("S.", 0).ack(1)]);
        lab.seconds(1);
    }
    assert_eq!(lab.engine.counters().embryonic, 2);
    from(&mut lab, "198.51.100.7", 5000);
    assert_eq!(lab.phase(), None, "the stalest went");
    assert_eq!(lab.resets(), [(From::Server, 1, None)]);
    assert_eq!(lab.closed(), [CloseReason::Evicted(Limit::Total)]);
    from(&mut lab, "198.51.100.7", 5002);
    lab.pass(&[client(".", 1).ack(1)]);
}

#[test]
fn a_rules_own_limits_and_the_global_ones_both_hold() {
    let mut web = rule("web", 1);
    web.services =
        vec![crate::policy::ServiceKind::Ports(Protocol::TCP, crate::policy::Ports { first: 80, last: 80 })];
    web.limits = limits(|l| l.total = Some(2));
    let rest = rule("rest", 2);
    let mut settings = open_settings();
    settings.limits = limits(|l| l.total = Some(3));
    let mut lab = Lab::with(settings, vec![web, rest]);
    for port in 0..2 {
        lab.client.1 = 5000 + port;
        lab.pass(&[client("S", 0)]);
    }
    lab.client.1 = 5002;
    lab.dropped(client("S", 0), DropReason::Limit);
    lab.server.1 = 22;
    lab.pass(&[client("S", 0)]);
    lab.client.1 = 5003;
    lab.dropped(client("S", 0), DropReason::Limit);
    assert_eq!(lab.engine.counters().embryonic_by_rule, [(RuleId(1), 2), (RuleId(2), 1)]);
}

#[test]
fn shadow_counts_and_reports_but_does_not_act() {
    let mut lab = limited(limits(|l| {
        l.total = Some(1);
        l.on_excess = Some(OnExcess::Evict);
        l.shadow = true;
    }));
    for port in 5000..5003 {
        lab.client.1 = port;
        lab.pass(&[client("S", 0)]);
    }
    let told: Vec<Event> = std::iter::from_fn(|| lab.worker.poll_event())
        .filter(|event| matches!(event, Event::LimitPassed { .. }))
        .collect();
    assert_eq!(told.len(), 2);
    for event in told {
        assert!(
            matches!(event, Event::LimitPassed { answer: OnExcess::Evict, shadow: true, .. }),
            "{event:?}"
        );
    }
    let passes = Passes { acted: 0, shadow: 2 };
    let expected = [Passed { of_rule: None, limit: Limit::Total, passes }];
    assert_eq!(lab.engine.counters().limits_passed, expected);
}

#[test]
fn a_rules_own_limit_is_counted_as_its_own() {
    let mut settings = open_settings();
    settings.limits = limits(|l| {
        l.per_source = Some(1);
        l.shadow = true;
    });
    let mut web = rule("web", 1);
    web.limits = limits(|l| l.total = Some(2));
    let mut lab = Lab::with(settings, vec![web]);
    for port in 5000..5002 {
        lab.client.1 = port;
        lab.pass(&[client("S", 0)]);
    }
    lab.client.1 = 5002;
    lab.dropped(client("S", 0), DropReason::Limit);
    let counted = lab.engine.counters().limits_passed;
    let of = |of_rule, limit, acted, shadow| Passed { of_rule, limit, passes: Passes { acted, shadow } };
    assert_eq!(
        counted,
        [of(None, Limit::PerSource, 0, 1), of(Some(RuleId(1)), Limit::Total, 1, 0)],
        "the rule's own is asked first, and refuses"
    );
}

#[test]
fn handshakes_are_counted_as_they_begin_and_as_they_are_completed() {
    let mut lab = Lab::new();
    let counted = |lab: &Lab| {
        let rate = lab.engine.handshakes();
        (rate.begun, rate.completed)
    };
    lab.handshake();
    assert_eq!(counted(&lab), (1, 1));
    lab.client.1 += 1;
    lab.pass(&[client("S", 0), client("S", 0)]);
    assert_eq!(counted(&lab), (2, 1), "a SYN that is sent again begins nothing");
    lab.pass(&[server("R.", 0).ack(1)]);
    assert_eq!(counted(&lab), (2, 1), "one that was refused is not completed");
    lab.client.1 += 1;
    lab.pass(&[client("S", 0), server("S.", 0).ack(1)]);
    lab.seconds(31);
    assert_eq!(counted(&lab), (3, 1), "nor is one that ran out");
    lab.client.1 += 1;
    lab.pass(&[client("S", 0), server("S.", 0).ack(1), client("F.", 1).ack(1)]);
    assert_eq!(counted(&lab), (4, 2), "the last step may carry a FIN");
}

#[test]
fn a_fin_that_nobody_acknowledged_has_an_age() {
    let mut lab = Lab::new();
    lab.handshake();
    let ages = |lab: &Lab| {
        let mut ages = Vec::new();
        lab.engine.connections(lab.now, &mut |view| {
            ages.push(view.unacknowledged_fin.map(|age| age.as_secs()));
            true
        });
        ages
    };
    assert_eq!(ages(&lab), [None]);
    lab.pass(&[client("F.", 1).ack(1)]);
    lab.seconds(7);
    assert_eq!(ages(&lab), [Some(7)]);
    lab.pass(&[server(".", 1).ack(2)]);
    assert_eq!(ages(&lab), [None], "half-closed: it was acknowledged");
    lab.pass(&[server("F.", 1).ack(2)]);
    lab.seconds(2);
    assert_eq!(ages(&lab), [Some(9)], "closing: from the first FIN on");
    lab.pass(&[client(".", 2).ack(2)]);
    assert_eq!(ages(&lab), [None]);
}

#[test]
fn refused_syns_are_told_of_but_only_so_many_in_a_second() {
    let mut settings = open_settings();
    settings.default = Action::Drop;
    let mut lab = Lab::with(settings, Vec::new());
    let told = |lab: &mut Lab| {
        let events = std::iter::from_fn(|| lab.worker.poll_event());
        events.filter(|event| matches!(event, Event::Refused { .. })).count()
    };
    lab.dropped(client("S", 0), DropReason::Rule);
    assert_eq!(told(&mut lab), 1);
    for _ in 0..5000 {
        lab.dropped(client("S", 0), DropReason::Rule);
    }
    assert_eq!(told(&mut lab), 255);
    lab.seconds(2);
    lab.dropped(client("S", 0), DropReason::Rule);
    assert_eq!(told(&mut lab), 1);
}

#[test]
fn a_limit_set_live_finds_true_numbers() {
    let mut lab = Lab::new();
    for port in 5000..5003 {
        lab.client.1 = port;
        lab.pass(&[client("S", 0)]);
    }
    let mut live = lab.engine.live();
    live.set_limit(LiveLimit { limit: Limit::PerSource, rule: None, value: Some(3), until: None }).unwrap();
    lab.engine.set_live(live);
    lab.client.1 = 5003;
    lab.dropped(client("S", 0), DropReason::Limit);
}

/// What evicts faster than the kernel forgets would fill its table: the new one is dropped
/// then, and those that are there go on.
#[test]
fn while_the_kernel_is_behind_nobody_is_evicted() {
    let mut lab = limited(limits(|l| {
        l.per_source = Some(1);
        l.on_excess = Some(OnExcess::Evict);
    }));
    from(&mut lab, "198.51.100.7", 5000);
    lab.pass(&[client("S", 0)]);
    lab.engine.hold_evictions(true);
    from(&mut lab, "198.51.100.7", 5001);
    lab.dropped(client("S", 0), DropReason::Limit);
    assert_eq!(lab.engine.counters().evictions_held, 1);
    from(&mut lab, "198.51.100.7", 5000);
    lab.pass(&[server("S.", 0).ack(1), client(".", 1).ack(1)]);
    from(&mut lab, "198.51.100.7", 5001);
    lab.pass(&[client("S", 0)]);
    lab.engine.hold_evictions(false);
    from(&mut lab, "198.51.100.7", 5002);
    lab.pass(&[client("S", 0)]);
    assert_eq!(lab.engine.counters().evictions_held, 1);
}
