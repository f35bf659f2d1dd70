//! `exposure`: which services answered, and what listens on the gateway itself, as
//! a stranger meets it.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use super::{
    events,
    observer::{Overrun, is_lower_bound, overrun_row, wall_time},
    outlet::{Outlet, Refusal},
    protocol::{ExposureRow, Line, ListenerRow, ServiceRow},
    state::Daemon,
};
use crate::{
    conntrack::Instant,
    engine::{IfIndex, observe::Answered},
    policy::{Action, Hook, NewFlow, Policy, Rule, RuleId, Selector, Term},
    sys::{
        interfaces,
        listeners::{Listener, listeners},
        table::{Covered, Exempt, Looks},
    },
    wire::Flags,
};

impl Daemon {
    /// `exposure`.
    ///
    /// # Errors
    /// If the kernel can't be asked, or the client left.
    pub fn exposure(&self, out: &mut dyn Outlet) -> Result<(), Refusal> {
        let policy = self.shared.engine.policy();
        let now = self.now();
        let (rows, forgotten, overrun) = {
            let lost = self.shared.events_lost();
            let mut observer = self.shared.observer.lock();
            (observer.services.all(), observer.services.forgotten(), observer.overrun(lost, now))
        };
        let told = |error: std::io::Error| Refusal::Said(format!("the kernel can't be asked: {error}"));
        let names: HashMap<IfIndex, String> = interfaces::list().map_err(told)?.into_iter().collect();
        if let Some(overrun) = &overrun {
            out.send(line(ExposureRow::Overrun(overrun_row(overrun, now))))?;
        }
        for row in rows {
            out.send(line(ExposureRow::Service(service_row(&row, &policy, &names, overrun, now))))?;
        }
        if forgotten > 0 {
            out.send(Line::Note(format!(
                "{forgotten} services that answered longest ago had to make room, and are not listed"
            )))?;
        }
        let outside = outside(&names).map_err(told)?;
        let addresses = interfaces::addresses().map_err(told)?;
        for listener in listeners().map_err(told)? {
            for interface in &outside {
                let own = addresses.iter().filter(|(name, _)| name == interface).map(|(_, address)| *address);
                let own: Vec<IpAddr> = own.collect();
                if let Some(row) = listener_row(&listener, interface, &own, &policy) {
                    out.send(line(ExposureRow::Listener(row)))?;
                }
            }
        }
        Ok(())
    }
}

fn line(row: ExposureRow) -> Line {
    Line::Exposure(Box::new(row))
}

/// Where strangers come from: the interfaces of default routes; without any, all.
fn outside(names: &HashMap<IfIndex, String>) -> std::io::Result<Vec<String>> {
    let routes = interfaces::default_route_interfaces()?;
    if !routes.is_empty() {
        return Ok(routes.into_iter().map(|(_, name)| name).collect());
    }
    let mut all: Vec<String> = names.values().filter(|name| *name != "lo").cloned().collect();
    all.sort_unstable();
    Ok(all)
}

fn service_row(
    row: &Answered,
    policy: &Policy,
    names: &HashMap<IfIndex, String>,
    overrun: Option<Overrun>,
    now: Instant,
) -> ServiceRow {
    let service = &row.service;
    let asked_by = match names.get(&service.asked_by) {
        _ if service.asked_by == IfIndex(0) => "gateway".to_owned(),
        Some(name) => name.clone(),
        None => format!("interface {}, which is gone", service.asked_by.0),
    };
    ServiceRow {
        proto: service.protocol.to_string(),
        dst: service.address.to_string(),
        dport: service.port,
        gateway: service.is_gateway,
        asked_by,
        rule: policy.name(service.rule).to_owned(),
        named: policy.rule(service.rule).is_some_and(|rule| rule.names(service.protocol, service.port)),
        answered: row.count,
        at_least: is_lower_bound(row.first, overrun),
        since: wall_time(row.first, now),
        last: wall_time(row.last, now),
    }
}

/// What a stranger who asks by this interface meets. `None`: it does not listen there.
fn listener_row(
    listener: &Listener,
    interface: &str,
    own: &[IpAddr],
    policy: &Policy,
) -> Option<ListenerRow> {
    let everywhere = listener.address.is_unspecified();
    if !everywhere && !own.contains(&listener.address) {
        return None;
    }
    let is_same_family = |address: &&IpAddr| address.is_ipv4() == listener.address.is_ipv4();
    let dst = if everywhere { *own.iter().find(is_same_family)? } else { listener.address };
    let src = stranger(policy, dst.is_ipv4());
    let flow = NewFlow {
        hook: Hook::Input,
        from_zones: policy.zones_of(Some(interface), src),
        to_zones: policy.zones_of(None, dst),
        src,
        dst,
        protocol: listener.protocol,
        src_port: STRANGERS_PORT,
        dst_port: listener.port,
        icmp: None,
    };
    let (rule, action, named) = match policy.first_match(&flow) {
        Some(rule) => (&*rule.name, rule.action, rule.names(listener.protocol, listener.port)),
        None => (policy.name(RuleId::DEFAULT), policy.settings.default, false),
    };
    let (verdict, rule) = if !policy.settings.hooks.input {
        (Action::Accept, None)
    } else if always_passes(interface, &flow) {
        (Action::Accept, Some("built-in"))
    } else {
        (action, Some(rule))
    };
    let address = match (everywhere, dst.is_ipv4()) {
        (true, true) => "*".to_owned(),
        (true, false) => "[*]".to_owned(),
        (false, _) => listener.address.to_string(),
    };
    let is_built_in = rule == Some("built-in");
    Some(ListenerRow {
        proto: listener.protocol.to_string(),
        address,
        port: listener.port,
        asked_by: interface.to_owned(),
        verdict: events::action_name(verdict).to_owned(),
        rule: rule.map(str::to_owned),
        named: rule.is_some() && (named || is_built_in),
        others: others(listener, policy, rule),
    })
}

/// A port that clients use (RFC 6335 §6).
const STRANGERS_PORT: u16 = 50_000;

/// Ports that strangers may choose to be taken for a DHCP server.
const DHCP_SERVERS: [u16; 2] = [67, 547];

/// Whether it passes whatever the rules say, from whichever port.
fn always_passes(interface: &str, flow: &NewFlow) -> bool {
    [STRANGERS_PORT, DHCP_SERVERS[0], DHCP_SERVERS[1]].into_iter().any(|src_port| {
        let looks = Looks {
            hook: Hook::Input,
            interface: Some(interface),
            protocol: flow.protocol,
            dst: flow.dst,
            ports: (src_port, flow.dst_port),
            flags: Flags::SYN,
            icmp: None,
        };
        Exempt::on(Hook::Input).iter().any(|exempt| exempt.covers(&looks) == Covered::Yes)
    })
}

/// Other rules that accept this by name.
fn others(listener: &Listener, policy: &Policy, decided: Option<&str>) -> Vec<String> {
    let may_be_gateway = |selector: &Selector| {
        (selector.any_of.is_empty() || selector.any_of.iter().any(|term| matches!(term, Term::Gateway)))
            && !selector.none_of.iter().any(|term| matches!(term, Term::Gateway))
    };
    let names = |rule: &&Rule| {
        rule.action == Action::Accept
            && Some(&*rule.name) != decided
            && may_be_gateway(&rule.to)
            && rule.names(listener.protocol, listener.port)
    };
    policy.rules.iter().filter(names).map(|rule| rule.name.to_string()).collect()
}

/// An address of the outside world that no rule, list or zone names, if there is one
/// among many tried.
fn stranger(policy: &Policy, ipv4: bool) -> IpAddr {
    // Spread over the space by steps that are no power of two; none is multicast.
    let candidates = (0..200_u32).map(|number| {
        if ipv4 {
            IpAddr::V4(Ipv4Addr::from_bits(0x0b00_0001_u32.wrapping_add(number.wrapping_mul(0x00d1_1f35))))
        } else {
            let high = 0x2a00_0000_u128 + u128::from(number) * 0x1357;
            IpAddr::V6(Ipv6Addr::from_bits((high << 96) + 1))
        }
    });
    let mut all = candidates.clone();
    let is_named = |address: IpAddr| {
        let in_terms = |terms: &[Term]| {
            terms.iter().any(|term| match term {
                Term::Networks(networks) => networks.contains(address),
                Term::Zone(_) | Term::Gateway => false,
            })
        };
        let in_zones = policy
            .zones
            .iter()
            .any(|zone| zone.networks.as_ref().is_some_and(|networks| networks.contains(address)));
        in_zones
            || policy.rules.iter().any(|rule| in_terms(&rule.from.any_of) || in_terms(&rule.from.none_of))
    };
    let fallback = if ipv4 { Ipv4Addr::new(11, 0, 0, 1).into() } else { IpAddr::V6(Ipv6Addr::LOCALHOST) };
    let first = candidates.clone().next().unwrap_or(fallback);
    all.find(|address| !is_named(*address)).unwrap_or(first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config, wire::Protocol};

    fn policy(rules: &str) -> Policy {
        let text = format!("version: 1\nzones: {{ wan: {{ interfaces: [ppp0] }} }}\n{rules}\n");
        config::compile("test", &text, &mut |_| Err("no file".to_owned()), None).unwrap().policy
    }

    fn ask(policy: &Policy, protocol: Protocol, address: &str, port: u16) -> Option<ListenerRow> {
        let own = ["198.51.100.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        listener_row(&Listener { protocol, address: address.parse().unwrap(), port }, "ppp0", &own, policy)
    }

    #[test]
    fn a_listener_is_what_a_stranger_meets() {
        let policy = policy(
            "hooks: [input]\ndefault: drop\nrules:\n\
             - { name: ssh, from: 203.0.113.0/24, to: gateway, service: tcp/22, action: accept }\n\
             - { name: web, from: wan, to: gateway, service: tcp/443, action: accept }\n\
             - { name: broad, from: wan, to: 2001:db8::1, action: accept }",
        );
        let met = |protocol, address, port| {
            let row = ask(&policy, protocol, address, port).unwrap();
            (row.verdict, row.rule.unwrap(), row.named, row.others)
        };
        let (no, ssh) = (Vec::new(), vec!["ssh".to_owned()]);
        assert_eq!(met(Protocol::TCP, "0.0.0.0", 22), ("drop".into(), "default".into(), false, ssh.clone()));
        assert_eq!(met(Protocol::TCP, "0.0.0.0", 443), ("accept".into(), "web".into(), true, no.clone()));
        assert_eq!(
            met(Protocol::UDP, "198.51.100.1", 443),
            ("drop".into(), "default".into(), false, no.clone())
        );
        assert_eq!(met(Protocol::TCP, "::", 22), ("accept".into(), "broad".into(), false, ssh));
        assert_eq!(met(Protocol::UDP, "0.0.0.0", 68), ("accept".into(), "built-in".into(), true, no));
        assert_eq!(ask(&policy, Protocol::TCP, "192.168.1.1", 22), None, "of another interface");
    }

    #[test]
    fn an_answer_before_events_were_lost_is_counted_at_least() {
        let policy = policy("rules: []");
        let service = crate::engine::observe::Service {
            address: "192.0.2.10".parse().unwrap(),
            protocol: Protocol::TCP,
            port: 80,
            rule: RuleId::DEFAULT,
            asked_by: IfIndex(0),
            is_gateway: false,
        };
        let row = Answered { service, first: Instant(1000), last: Instant(9000), count: 12 };
        let at_least = |last: Option<u64>| {
            let overrun = last.map(|last| Overrun { events: 5, since: Instant(0), last: Instant(last) });
            let row = service_row(&row, &policy, &HashMap::new(), overrun, Instant(9000));
            let json = serde_json::to_value(ExposureRow::Service(row)).unwrap();
            (json["answered"].as_u64(), json.get("at_least").cloned())
        };
        assert_eq!(at_least(None), (Some(12), None));
        assert_eq!(at_least(Some(999)), (Some(12), None), "it answered first when all was counted again");
        assert_eq!(at_least(Some(2000)), (Some(12), Some(true.into())));
    }

    #[test]
    fn without_the_hook_nobody_is_asked() {
        let policy = policy("hooks: [forward]\nrules: []");
        let row = ask(&policy, Protocol::TCP, "0.0.0.0", 22).unwrap();
        assert_eq!((row.verdict.as_str(), row.rule, row.named), ("accept", None, false));
    }

    #[test]
    fn a_stranger_is_named_nowhere() {
        let policy = policy(
            "hooks: [input]\nrules:\n\
             - { name: most, from: [11.0.0.0/8, 12.0.0.0/6, 2a00::/16], to: gateway, action: drop }",
        );
        for ipv4 in [true, false] {
            let address = stranger(&policy, ipv4);
            let source = &policy.rules[0].from.any_of;
            let named = source.iter().any(|term| matches!(term, Term::Networks(n) if n.contains(address)));
            assert!(!named, "{address}");
            assert_eq!(address.is_ipv4(), ipv4);
        }
    }
}
