//! The classifier against the rules asked one after the other.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use ipnet::IpNet;
use proptest::{collection::vec, prelude::*};

use super::*;
use crate::{
    policy::{
        Action, EmbryonicLimits, NetworkSet, Ports, Rule, RuleId, Selector, ServiceKind, Term, ZoneBits,
        ZoneId,
    },
    wire::Protocol,
};

fn rule(from: Selector, to: Selector, services: Vec<ServiceKind>) -> Rule {
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

/// An address of a small world, of either family.
fn address(low: u32, six: bool) -> IpAddr {
    if six { Ipv6Addr::from(u128::from(low)).into() } else { Ipv4Addr::from(low).into() }
}

fn network() -> impl Strategy<Value = IpNet> {
    (0_u32..64, 26_u8..=32, any::<bool>()).prop_map(|(low, prefix, six)| {
        IpNet::new(address(low, six), if six { prefix + 96 } else { prefix }).unwrap()
    })
}

/// Lists that rules share, as named lists are shared.
fn lists() -> impl Strategy<Value = Vec<Arc<NetworkSet>>> {
    vec(vec(network(), 0..12).prop_map(|networks| Arc::new(NetworkSet::new(networks))), 1..4)
}

fn selector(lists: Vec<Arc<NetworkSet>>) -> impl Strategy<Value = Selector> {
    let term = prop_oneof![
        2 => (0_u8..6).prop_map(|zone| Term::Zone(ZoneId(zone * 12))),
        6 => network().prop_map(|network| Term::Networks(Arc::new(NetworkSet::new(vec![network])))),
        2 => (0..lists.len()).prop_map(move |at| Term::Networks(Arc::clone(&lists[at]))),
        1 => Just(Term::Gateway),
    ];
    let (any_of, none_of) = (vec(term.clone(), 0..3), prop_oneof![3 => Just(0), 1 => 1_usize..3]);
    (any_of, none_of.prop_flat_map(move |count| vec(term.clone(), count)))
        .prop_map(|(any_of, none_of)| Selector { any_of, none_of })
}

fn protocol() -> impl Strategy<Value = Protocol> {
    prop_oneof![
        4 => Just(Protocol::TCP),
        2 => Just(Protocol::UDP),
        1 => Just(Protocol::ICMP),
        1 => Just(Protocol::ICMPV6),
        1 => Just(Protocol(255)),
        1 => Just(Protocol(0)),
    ]
}

fn service() -> impl Strategy<Value = ServiceKind> {
    let port = || prop_oneof![0_u16..12, Just(u16::MAX)];
    prop_oneof![
        4 => (protocol(), port(), port()).prop_map(|(protocol, a, b)| {
            ServiceKind::Ports(protocol, Ports { first: a.min(b), last: a.max(b) })
        }),
        1 => protocol().prop_map(ServiceKind::Protocol),
        1 => (protocol(), icmp(), proptest::option::of(icmp()))
            .prop_map(|(protocol, kind, code)| ServiceKind::Icmp { protocol, kind, code }),
    ]
}

fn icmp() -> impl Strategy<Value = u8> {
    prop_oneof![0_u8..3, Just(u8::MAX)]
}

fn zones() -> impl Strategy<Value = ZoneBits> {
    prop_oneof![Just(0), (0_u32..6).prop_map(|zone| 1 << (zone * 12)), any::<u64>()].prop_map(ZoneBits)
}

fn flow() -> impl Strategy<Value = NewFlow> {
    let hook = prop_oneof![3 => Just(Hook::Forward), 1 => Just(Hook::Input), 1 => Just(Hook::Output)];
    let end = || prop_oneof![9 => 0_u32..64, 1 => Just(u32::MAX)];
    let port = prop_oneof![0_u16..12, Just(u16::MAX)];
    let what = (protocol(), port, proptest::option::of((icmp(), icmp())));
    (hook, any::<bool>(), zones(), zones(), end(), end(), what).prop_map(
        |(hook, six, from_zones, to_zones, src, dst, (protocol, dst_port, icmp))| NewFlow {
            hook,
            from_zones,
            to_zones,
            src: address(src, six),
            dst: address(dst, six),
            protocol,
            src_port: 4000,
            dst_port,
            icmp,
        },
    )
}

/// From a rule to as many as fill several words of a group.
fn rules() -> impl Strategy<Value = Vec<Rule>> {
    let count = prop_oneof![40 => 0_usize..8, 20 => 8_usize..200, 1 => 4000_usize..5000];
    (lists(), count).prop_flat_map(|(lists, count)| {
        // Long rule sets repeat themselves, as those of machines do.
        let different = vec((selector(lists.clone()), selector(lists), vec(service(), 0..4)), 1..=60);
        different.prop_map(move |different| {
            let parts = different.into_iter().cycle().take(count);
            parts.map(|(from, to, services)| rule(from, to, services)).collect()
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn the_first_rule_is_the_one_that_a_scan_finds(rules in rules(), flows in vec(flow(), 40)) {
        let classifier = Classifier::new(&rules);
        prop_assert!(!classifier.is_too_large());
        for flow in flows {
            let scan = rules.iter().position(|rule| rule.matches(&flow));
            prop_assert_eq!(classifier.first(&flow), scan, "{:?}", flow);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// The search goes on behind the first words and groups.
    #[test]
    fn a_rule_is_found_behind_any_number_of_others(
        last in rules(), before in 0_u16..9000, flows in vec(flow(), 40),
    ) {
        let nobody = |n: u16| ServiceKind::Ports(Protocol(99), Ports { first: n, last: n });
        let others = (0..before).map(|n| rule(Selector::default(), Selector::default(), vec![nobody(n)]));
        let all: Vec<Rule> = others.chain(last).collect();
        let classifier = Classifier::new(&all);
        for flow in flows {
            let scan = all.iter().position(|rule| rule.matches(&flow));
            prop_assert_eq!(classifier.first(&flow), scan, "{:?}", flow);
        }
    }
}
