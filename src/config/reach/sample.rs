//! One packet that a rule matches.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{
    policy::{Hook, NewFlow, Policy, Rule, Selector, Service, ServiceKind, Term},
    wire::Protocol,
};

/// How many terms of an end are tried.
const TERMS: usize = 4;
/// An interface that no pattern names, because names don't begin so.
const NO_INTERFACE: &str = "\u{1}";
/// A protocol for experiments (RFC 3692 §2.1), which few rules name.
const SELDOM: Protocol = Protocol(253);

/// A packet that could really come, and that the rule matches. `None`: what was
/// tried does not match, which says nothing about the rule.
pub(super) fn packet_for(rule: &Rule, policy: &Policy) -> Option<NewFlow> {
    let (protocol, dst_port, icmp) = service(rule.services.first());
    for hook in [Hook::Forward, Hook::Input, Hook::Output] {
        for is_ipv6 in [false, true] {
            for (in_if, src) in ends(&rule.from, policy, is_ipv6) {
                for (out_if, dst) in ends(&rule.to, policy, is_ipv6) {
                    let flow = NewFlow {
                        hook,
                        from_zones: policy.zones_of((hook != Hook::Output).then_some(in_if.as_str()), src),
                        to_zones: policy.zones_of((hook != Hook::Input).then_some(out_if.as_str()), dst),
                        src,
                        dst,
                        protocol,
                        src_port: 1024,
                        dst_port,
                        icmp,
                    };
                    if rule.matches(&flow) {
                        return Some(flow);
                    }
                }
            }
        }
    }
    None
}

/// Interfaces and addresses that may be at an end.
fn ends(selector: &Selector, policy: &Policy, is_ipv6: bool) -> Vec<(String, IpAddr)> {
    let anyone: IpAddr = if is_ipv6 { Ipv6Addr::LOCALHOST.into() } else { Ipv4Addr::LOCALHOST.into() };
    let nowhere = || NO_INTERFACE.to_owned();
    let end = |term: &Term| match term {
        Term::Gateway => Some((nowhere(), anyone)),
        Term::Networks(networks) => Some((nowhere(), networks.lowest(is_ipv6)?)),
        Term::Zone(id) => {
            let zone = policy.zones.get(usize::from(id.0))?;
            let interface =
                zone.interfaces.first().map_or_else(nowhere, |name| name.replace('*', NO_INTERFACE));
            let address = match &zone.networks {
                Some(networks) => networks.lowest(is_ipv6)?,
                None => anyone,
            };
            Some((interface, address))
        }
    };
    if selector.any_of.is_empty() {
        return vec![(nowhere(), anyone)];
    }
    selector.any_of.iter().take(TERMS).filter_map(end).collect()
}

fn service(service: Option<&Service>) -> (Protocol, u16, Option<(u8, u8)>) {
    match service {
        None => (SELDOM, 0, None),
        Some(ServiceKind::Ports(protocol, ports)) => (*protocol, ports.first, None),
        Some(ServiceKind::Protocol(protocol @ (Protocol::ICMP | Protocol::ICMPV6))) => {
            (*protocol, 0, Some((u8::MAX, u8::MAX)))
        }
        Some(ServiceKind::Protocol(protocol)) => (*protocol, 0, None),
        Some(ServiceKind::Icmp { protocol, kind, code }) => {
            (*protocol, 0, Some((*kind, code.unwrap_or(u8::MAX))))
        }
    }
}
