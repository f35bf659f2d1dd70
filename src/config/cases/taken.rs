//! What is written is taken as it is written, what is left out has its default,
//! and no file is too much.

use std::time::Duration;

use super::*;
use crate::{
    conntrack::Timer,
    policy::{
        Action, Adaptive, EmbryonicLimits, Fail, FastOpen, Hooks, Inspect, Marks, OnExcess, OnExpire,
        OwnPrefix, Pickup, PickupMode, Ports, Queues, RuleId, ServiceKind, Term, ZoneId,
    },
    wire::Protocol,
};

#[test]
fn what_is_left_out_has_its_default() {
    let policy = good("version: 1\n").policy;
    let settings = &policy.settings;
    assert_eq!(settings.hooks, Hooks { forward: true, input: false, output: false });
    assert_eq!(settings.default, Action::Drop);
    assert_eq!(settings.fail, Fail::Closed);
    assert_eq!(settings.pickup, Pickup { mode: PickupMode::Strict, grace: Duration::from_secs(120) });
    assert_eq!(settings.max_connections, 1_000_000);
    assert_eq!(settings.adaptive, Adaptive { start: 60, end: 120 });
    assert_eq!(settings.on_expire, OnExpire::Reset);
    assert_eq!(settings.timers, []);
    assert_eq!(settings.limits, EmbryonicLimits::default());
    assert_eq!(settings.queues, Queues::default());
    assert_eq!(settings.marks, Marks { shift: 24 });
    assert_eq!(settings.rst_per_second, 1000);
    assert!(policy.zones.is_empty() && policy.rules.is_empty());
    assert_eq!(policy.names.iter().map(|name| &**name).collect::<Vec<_>>(), ["default"]);

    let policy = good("version: 1\nrules: [{ name: r, action: accept }]\n").policy;
    let rule = &policy.rules[0];
    assert_eq!((rule.id, &*rule.name, &*rule.place, &*rule.comment), (RuleId(1), "r", "t:2", ""));
    assert!(rule.from.is_any() && rule.to.is_any() && rule.services.is_empty() && !rule.log);
    assert!(rule.timers.is_empty() && rule.on_expire.is_none() && rule.pickup.is_none());
    assert_eq!(rule.limits, EmbryonicLimits::default());
}

#[test]
fn every_key_is_taken_as_it_is_written() {
    let text = "\
version: 1
zones: { lan: { interfaces: eth1, networks: [192.168.10.0/24, 'fd00:10::/64'] }, wan: { interfaces: ['ppp*'] } }
lists: { blocked: { file: good.txt }, partners: [203.0.113.0/24], none: [] }
services: { web: [tcp/80, 443/TCP], all-web: [web, udp/443] }
hooks: [forward, input, output]
default: reset
fail: open
pickup: { mode: loose, grace: 0s }
max_connections: 250_000
adaptive: { start: 70%, end: 130 % }
on_expire: drop
timers: { half_closed: 30m, half_closed_max: off, established: 1d2h }
limits: { source_prefix: 24, embryonic: { total: 20000, per_source: 200, per_destination: 2000, on_excess: evict, shadow: true } }
queues: { base: 100, count: 4, cpus: [0, 3] }
marks: { mask: 0x00ff0000 }
rst_per_second: 50
rules:
  - name: r
    from: [lan, partners, not 192.168.10.66, gateway]
    to: any
    service: [all-web, icmp/echo-request, gre, ip/89, tcp/8000-8100, icmpv6/1/4]
    action: accept
    log: true
    comment: why
    enabled: true
    timers: { syn_received: 5s, half_closed_max: 1h }
    limits: { embryonic: { per_destination: 500, on_excess: challenge } }
    on_expire: reset
    pickup: loose
    fast_open: strip
    inspect: full
  - { name: off, from: blocked, action: drop, enabled: false }
";
    let compiled = good(text);
    assert_eq!(lines(&compiled.warnings), "");
    let settings = &compiled.policy.settings;
    assert_eq!(settings.hooks, Hooks { forward: true, input: true, output: true });
    assert_eq!(
        (settings.default, settings.fail, settings.on_expire),
        (Action::Reset, Fail::Open, OnExpire::Drop)
    );
    assert_eq!(settings.pickup, Pickup { mode: PickupMode::Loose, grace: Duration::ZERO });
    assert_eq!((settings.max_connections, settings.rst_per_second), (250_000, 50));
    assert_eq!(settings.adaptive, Adaptive { start: 70, end: 130 });
    let secs = |secs| Some(Duration::from_secs(secs));
    assert_eq!(
        settings.timers,
        [(Timer::HalfClosed, secs(1800)), (Timer::HalfClosedMax, None), (Timer::Established, secs(93_600))]
    );
    let limits = EmbryonicLimits {
        total: Some(20_000),
        per_source: Some(200),
        per_destination: Some(2000),
        on_excess: Some(OnExcess::Evict),
        calm: None,
        shadow: true,
        source_prefix: OwnPrefix { ipv4: Some(24), ipv6: None },
    };
    assert_eq!(settings.limits, limits);
    assert_eq!(
        (settings.queues.clone(), settings.marks),
        (Queues { base: 100, count: Some(4), cpus: vec![0, 3] }, Marks { shift: 16 })
    );
    assert_eq!(settings.marks.mask(), 0x00ff_0000);

    assert_eq!(compiled.policy.rules.len(), 1, "the other one is off");
    let rule = &compiled.policy.rules[0];
    assert!(matches!(rule.from.any_of[..], [Term::Zone(ZoneId(0)), Term::Networks(_), Term::Gateway]));
    assert!(matches!(rule.from.none_of[..], [Term::Networks(_)]));
    assert!(rule.to.is_any());
    let port = |protocol, first, last| ServiceKind::Ports(protocol, Ports { first, last });
    let icmp = |protocol, kind, code| ServiceKind::Icmp { protocol, kind, code };
    assert_eq!(
        rule.services,
        [
            port(Protocol::TCP, 80, 80),
            port(Protocol::TCP, 443, 443),
            port(Protocol::UDP, 443, 443),
            icmp(Protocol::ICMP, 8, None),
            icmp(Protocol::ICMPV6, 128, None),
            ServiceKind::Protocol(Protocol(47)),
            ServiceKind::Protocol(Protocol(89)),
            port(Protocol::TCP, 8000, 8100),
            icmp(Protocol::ICMPV6, 1, Some(4)),
        ]
    );
    assert_eq!((rule.action, rule.log, &*rule.comment), (Action::Accept, true, "why"));
    assert_eq!(rule.timers, [(Timer::SynReceived, secs(5)), (Timer::HalfClosedMax, secs(3600))]);
    assert_eq!((rule.limits.per_destination, rule.limits.on_excess), (Some(500), Some(OnExcess::Challenge)));
    assert_eq!((rule.on_expire, rule.pickup), (Some(OnExpire::Reset), Some(PickupMode::Loose)));
    assert_eq!((rule.fast_open, rule.inspect), (FastOpen::Strip, Inspect::Full));
    for service in &rule.services {
        let again = super::super::services::parse(&service.to_string());
        assert_eq!(again, Ok(vec![*service]), "what is shown can be written");
    }
}

#[test]
fn a_rule_keeps_its_id_as_long_as_its_name() {
    let rules = |names: &[&str]| {
        let rules: String =
            names.iter().map(|name| format!("  - {{ name: {name}, to: {HOST}, action: drop }}\n")).collect();
        format!("version: 1\nrules:\n{rules}")
    };
    const HOST: &str = "192.0.2.1";
    let ids = |policy: &Policy| {
        policy.rules.iter().map(|rule| (rule.name.to_string(), rule.id.0)).collect::<Vec<_>>()
    };
    let of = |text: &str, before| compile("t", text, &mut files, before).unwrap().policy;
    let first = of(&rules(&["a", "b", "c"]), None);
    assert_eq!(ids(&first), [("a".into(), 1), ("b".into(), 2), ("c".into(), 3)]);
    let second = of(&rules(&["new", "c", "a"]), Some(&first));
    assert_eq!(ids(&second), [("new".into(), 4), ("c".into(), 3), ("a".into(), 1)]);
    assert_eq!(second.name(RuleId(2)), "b");
    assert!(second.rule(RuleId(2)).is_none());
    let third = of(&rules(&["b"]), Some(&second));
    assert_eq!(ids(&third), [("b".into(), 2)]);
}

#[test]
fn a_hostile_file_exhausts_nothing() {
    let many_zones: String = (0..65).map(|n| format!("  z{n}: {{ interfaces: [e{n}] }}\n")).collect();
    let told = |text: &str| lines(&try_compile(text).unwrap_err());
    assert!(told(&format!("version: 1\nzones:\n{many_zones}")).contains("t:67:3: error: more than 64 zones"));
    let unknown: String = (0..5000).map(|n| format!("k{n}: 1\n")).collect();
    let diagnostics = try_compile(&unknown).unwrap_err();
    assert_eq!(diagnostics.len(), 1001);
    assert!(diagnostics[1000].message.contains("more errors and warnings"));
    let long = "x".repeat(1_000_000);
    assert!(
        told(&format!(
            "version: 1\nrules: [{{ name: {long}, from: {long}, service: {long}, action: {long} }}]"
        ))
        .len()
            < 4000
    );
    let chain: String = (0..2000).map(|n| format!("  s{n}: [s{}, s{}]\n", n + 1, n + 1)).collect();
    assert!(told(&format!("version: 1\nservices:\n{chain}  s2000: tcp/1\n")).contains("too deep"));
    let rules: String = (0..10_001)
        .map(|n| {
            format!(
                "  - {{ name: r{n}, from: [10.0.0.0/8, 11.0.0.0/8], action: drop, service: tcp/{} }}\n",
                n + 1
            )
        })
        .collect();
    assert!(told(&format!("version: 1\nrules:\n{rules}")).contains("more than 10000 rules"));
    let tree = format!(
        "version: 1\nlists: {{ l: &l [{}] }}\nrules: [{{ name: r, from: l, action: drop }}]\n",
        vec!["10.0.0.0/8"; 100_000].join(", ")
    );
    assert!(try_compile(&tree).is_ok());
}

#[test]
fn a_test_that_is_wrong_fails_with_its_line() {
    let with = |step: &str| {
        let text = format!(
            "{HEAD}rules: [{{ name: r, to: 10.0.0.2, service: tcp/2, action: accept, timers: {{ syn_sent: 5s }} }}]
tests:
  - name: t
    steps:
      - {{ packet: 'tcp 10.0.0.1:1 > 10.0.0.2:2 S', in: a, out: b, expect: accept }}
      - {{ {step}, in: a, out: b }}
"
        );
        let compiled = good(&text);
        run_tests(&compiled.policy, &compiled.tests).remove(0)
    };
    let outcome = with("packet: 'tcp 10.0.0.1:1 > 10.0.0.2:2 S', expect: drop");
    let (line, message) = outcome.failure.unwrap();
    assert_eq!((outcome.name.as_str(), outcome.steps, line), ("t", 2, 11));
    assert_eq!(message, "expected drop, got accept: tcp 10.0.0.1:1 > 10.0.0.2:2 S");
    let failure = |step: &str| with(step).failure.map(|(_, message)| message).unwrap_or_default();
    let again = "packet: 'tcp 10.0.0.1:1 > 10.0.0.2:2 S'";
    assert!(
        failure(&format!("{again}, expect: accept, phase: established"))
            .starts_with("expected phase established, got syn_sent:")
    );
    assert!(
        failure(&format!("{again}, expect: accept, phase: none"))
            .starts_with("expected phase none, got syn_sent:")
    );
    assert_eq!(failure(&format!("at: 4s, {again}, expect: accept, phase: syn_sent")), "");
    // Five seconds after the first SYN it is gone; the second one is a new connection.
    assert_eq!(failure("at: 6s, packet: 'tcp 10.0.0.2:2 > 10.0.0.1:1 SA', expect: reset, phase: none"), "");
    let other = failure("packet: 'tcp 10.0.0.1:1 > 10.0.0.2:3 S', expect: accept");
    assert!(other.starts_with("expected accept, got drop (rule"), "{other}");
}

#[test]
fn limits_of_open_connections() {
    let text = "limits: { connections: { total: 9000, on_excess: reset } }\n\
        rules: [{ name: r, action: accept, limits: { embryonic: { total: 5 }, connections: { per_source: 200, \
        per_destination: 5000, block: 10m, allow: [partners, 192.0.2.1], shadow: true } } }]\n";
    let compiled = good(&format!("{HEAD}{text}"));
    assert_eq!(lines(&compiled.warnings), "");
    let global = &compiled.policy.settings.open_limits;
    assert_eq!((global.total, global.on_excess, global.block), (Some(9000), Some(OnExcess::Reset), None));
    let rule = &compiled.policy.rules[0];
    assert_eq!(rule.limits.total, Some(5));
    let own = &rule.open_limits;
    assert_eq!((own.total, own.per_source, own.per_destination), (None, Some(200), Some(5000)));
    assert_eq!(
        (own.block, own.shadow, own.on_excess),
        (Some(std::time::Duration::from_secs(600)), true, None)
    );
    let is_allowed = |address: &str| {
        let address = address.parse().unwrap();
        own.allow.iter().any(|networks| networks.contains(address))
    };
    assert!(is_allowed("203.0.113.9") && is_allowed("192.0.2.1") && !is_allowed("192.0.2.2"));
}

#[test]
fn a_prefix_of_one_family_or_of_both() {
    let of_rule = |text: &str| {
        let compiled = good(&format!("{HEAD}rules:\n  - {{ name: r, action: accept, limits: {text} }}\n"));
        assert_eq!(lines(&compiled.warnings), "", "{text}");
        let prefix = compiled.policy.rules[0].limits.source_prefix;
        (prefix.ipv4, prefix.ipv6)
    };
    for (text, expected) in [
        ("{ embryonic: { per_source: 5 } }", (None, None)),
        ("{ source_prefix: 24, embryonic: { per_source: 5 } }", (Some(24), None)),
        ("{ source_prefix: 32 }", (Some(32), None)),
        ("{ source_prefix: /56, embryonic: { per_source: 5 } }", (None, Some(56))),
        ("{ source_prefix: { ipv4: 24, ipv6: 56 } }", (Some(24), Some(56))),
        ("{ source_prefix: { ipv6: 32 } }", (None, Some(32))),
    ] {
        assert_eq!(of_rule(text), expected, "{text}");
    }
}
