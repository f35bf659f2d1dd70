//! Matching against a naive model, and what each part of a rule asks.

use std::{net::Ipv4Addr, sync::Arc};

use ipnet::IpNet;
use proptest::prelude::*;

use super::*;
use crate::policy::{Policy, Settings, Zone};

fn rule(from: Selector, to: Selector, services: Vec<Service>) -> Rule {
    Rule {
        id: RuleId(1),
        name: "r".into(),
        place: "t:1".into(),
        comment: "".into(),
        from,
        to,
        services,
        action: Action::Accept,
        log: false,
        timers: Vec::new(),
        limits: EmbryonicLimits::default(),
        on_expire: None,
        pickup: None,
        fast_open: Default::default(),
        inspect: Default::default(),
        evictable: false,
        open_limits: Default::default(),
    }
}

fn flow() -> NewFlow {
    NewFlow {
        hook: Hook::Forward,
        from_zones: ZoneBits(0),
        to_zones: ZoneBits(0),
        src: "10.0.0.1".parse().unwrap(),
        dst: "192.0.2.1".parse().unwrap(),
        protocol: Protocol::TCP,
        src_port: 4000,
        dst_port: 80,
        icmp: None,
    }
}

fn only(term: Term) -> Selector {
    Selector { any_of: vec![term], none_of: Vec::new() }
}

#[test]
fn the_gateway_is_a_hook() {
    let to_gateway = rule(Selector::default(), only(Term::Gateway), Vec::new());
    let from_gateway = rule(only(Term::Gateway), Selector::default(), Vec::new());
    for hook in [Hook::Forward, Hook::Input, Hook::Output] {
        let flow = NewFlow { hook, ..flow() };
        assert_eq!(to_gateway.matches(&flow), hook == Hook::Input);
        assert_eq!(from_gateway.matches(&flow), hook == Hook::Output);
    }
}

#[test]
fn icmp_by_type_and_code() {
    let asks = |kind, code| ServiceKind::Icmp { protocol: Protocol::ICMP, kind, code };
    let ping = NewFlow { protocol: Protocol::ICMP, icmp: Some((8, 0)), dst_port: 0, ..flow() };
    assert!(asks(8, None).matches(&ping));
    assert!(asks(8, Some(0)).matches(&ping));
    assert!(!asks(8, Some(1)).matches(&ping));
    assert!(!asks(0, None).matches(&ping));
    assert!(!asks(8, None).matches(&NewFlow { protocol: Protocol::ICMPV6, ..ping }));
    assert!(ServiceKind::Protocol(Protocol::ICMP).covers(&asks(8, Some(0))));
    assert!(asks(8, None).covers(&asks(8, Some(0))));
    assert!(!asks(8, Some(0)).covers(&asks(8, None)));
}

#[test]
fn zones_need_the_interface_and_the_source() {
    let zone = |interfaces: &[&str], networks: Option<&str>| Zone {
        name: "z".into(),
        interfaces: interfaces.iter().map(|name| Arc::from(*name)).collect(),
        networks: networks.map(|text| Arc::new(NetworkSet::new(vec![text.parse().unwrap()]))),
    };
    let policy = Policy::new(
        Settings::default(),
        vec![
            zone(&["eth1", "vlan*"], Some("10.0.0.0/8")),
            zone(&["ppp0"], None),
            zone(&[], Some("10.0.0.0/8")),
        ],
        Vec::new(),
        vec!["default".into()],
    );
    let of = |interface, address: &str| policy.zones_of(interface, address.parse().unwrap()).0;
    assert_eq!(of(Some("eth1"), "10.0.0.1"), 0b101);
    assert_eq!(of(Some("vlan7"), "10.0.0.1"), 0b101);
    assert_eq!(of(Some("vlan"), "11.0.0.1"), 0);
    assert_eq!(of(Some("eth10"), "10.0.0.1"), 0b100);
    assert_eq!(of(Some("ppp0"), "10.0.0.1"), 0b110);
    assert_eq!(of(None, "10.0.0.1"), 0b100);
    assert_eq!(of(None, "11.0.0.1"), 0);
}

#[test]
fn a_rule_is_found_by_its_id_and_removed_ones_keep_their_name() {
    let mut second = rule(Selector::default(), Selector::default(), Vec::new());
    second.id = RuleId(2);
    second.name = "s".into();
    let names = vec!["default".into(), "gone".into(), "s".into()];
    let policy = Policy::new(Settings::default(), Vec::new(), vec![second], names);
    assert_eq!(policy.rule(RuleId(2)).map(|rule| &*rule.name), Some("s"));
    assert!(policy.rule(RuleId(1)).is_none());
    assert!(policy.rule(RuleId::DEFAULT).is_none());
    assert!(policy.rule(RuleId(9)).is_none());
    assert_eq!(policy.name(RuleId(1)), "gone");
    assert_eq!(policy.name(RuleId(9)), "?");
}

/// A term and the flows that it holds for, said in another way.
fn model(term: &Term, zones: ZoneBits, address: IpAddr, at_gateway: bool) -> bool {
    match term {
        Term::Zone(zone) => (0..64).filter(|bit| zones.0 >> bit & 1 == 1).any(|bit| bit == u64::from(zone.0)),
        Term::Networks(networks) => networks.contains(address),
        Term::Gateway => at_gateway,
    }
}

fn term() -> impl Strategy<Value = Term> {
    prop_oneof![
        (0_u8..4).prop_map(|zone| Term::Zone(ZoneId(zone))),
        (0_u32..4, 30_u8..=32).prop_map(|(low, prefix)| {
            let net = IpNet::new(Ipv4Addr::from(low).into(), prefix).unwrap();
            Term::Networks(Arc::new(NetworkSet::new(vec![net])))
        }),
        Just(Term::Gateway),
    ]
}

fn selector() -> impl Strategy<Value = Selector> {
    let terms = || proptest::collection::vec(term(), 0..3);
    (terms(), terms()).prop_map(|(any_of, none_of)| Selector { any_of, none_of })
}

fn service() -> impl Strategy<Value = Service> {
    let protocol = || prop_oneof![Just(Protocol::TCP), Just(Protocol::UDP), Just(Protocol::ICMP)];
    prop_oneof![
        (protocol(), 0_u16..4, 0_u16..4).prop_map(|(protocol, a, b)| ServiceKind::Ports(
            protocol,
            Ports { first: a.min(b), last: a.max(b) }
        )),
        protocol().prop_map(ServiceKind::Protocol),
        (protocol(), 0_u8..2, proptest::option::of(0_u8..2))
            .prop_map(|(protocol, kind, code)| ServiceKind::Icmp { protocol, kind, code }),
    ]
}

fn any_flow() -> impl Strategy<Value = NewFlow> {
    let hook = prop_oneof![Just(Hook::Forward), Just(Hook::Input), Just(Hook::Output)];
    let protocol = prop_oneof![Just(Protocol::TCP), Just(Protocol::UDP), Just(Protocol::ICMP)];
    (hook, protocol, 0_u64..16, 0_u64..16, 0_u32..8, 0_u32..8, 0_u16..5, (0_u8..2, 0_u8..2)).prop_map(
        |(hook, protocol, from, to, src, dst, dst_port, icmp)| NewFlow {
            hook,
            from_zones: ZoneBits(from),
            to_zones: ZoneBits(to),
            src: Ipv4Addr::from(src).into(),
            dst: Ipv4Addr::from(dst).into(),
            protocol,
            src_port: 1,
            dst_port: if protocol == Protocol::ICMP { 0 } else { dst_port },
            icmp: (protocol == Protocol::ICMP).then_some(icmp),
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn matching_is_any_of_and_none_of(
        from in selector(), to in selector(),
        services in proptest::collection::vec(service(), 0..3), flow in any_flow(),
    ) {
        let mut expected = true;
        for (selector, zones, address, hook) in [
            (&from, flow.from_zones, flow.src, Hook::Output),
            (&to, flow.to_zones, flow.dst, Hook::Input),
        ] {
            let holds = |term: &Term| model(term, zones, address, flow.hook == hook);
            let positive = selector.any_of.iter().filter(|term| holds(term)).count();
            let negative = selector.none_of.iter().filter(|term| holds(term)).count();
            expected &= (selector.any_of.is_empty() || positive > 0) && negative == 0;
        }
        let asked = services.iter().filter(|service| match **service {
            ServiceKind::Ports(protocol, ports) => {
                protocol == flow.protocol
                    && flow.icmp.is_none()
                    && (ports.first..=ports.last).contains(&flow.dst_port)
            }
            ServiceKind::Protocol(protocol) => protocol == flow.protocol,
            ServiceKind::Icmp { protocol, kind, code } => {
                protocol == flow.protocol
                    && flow.icmp.map(|icmp| icmp.0) == Some(kind)
                    && (code.is_none() || flow.icmp.map(|icmp| icmp.1) == code)
            }
        });
        expected &= services.is_empty() || asked.count() > 0;
        prop_assert_eq!(rule(from, to, services).matches(&flow), expected);
    }

    #[test]
    fn what_a_service_covers_it_matches(ours in service(), theirs in service(), flow in any_flow()) {
        if ours.covers(&theirs) && theirs.matches(&flow) {
            prop_assert!(ours.matches(&flow));
        }
    }
}
