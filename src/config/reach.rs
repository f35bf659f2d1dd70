//! Rules that can never match: impossible by themselves, or behind an earlier
//! rule that takes everything they ask for.
//!
//! What is said here is certain: a rule is called unreachable only if no packet
//! can reach it. Rules that several earlier ones cover together are not found.

mod sample;

use super::{
    reader::{Context, Report},
    rules::Placed,
    yaml::Place,
};
use crate::{
    policy::{Hooks, NetworkSet, Policy, Rule, Selector, Service, ServiceKind, Term, Zone},
    wire::Protocol,
};

/// Comparisons of terms before the search for shadowed rules ends: files beyond
/// that are machines' work.
const BUDGET: u64 = 20_000_000;

/// Looks at one rule by itself.
pub(super) fn check_alone(placed: &Placed, hooks: Hooks, zones: &[Zone], report: &mut Report) {
    let rule = &placed.rule;
    for (selector, place, is_diverted, hook) in
        [(&rule.to, placed.to, hooks.input, "input"), (&rule.from, placed.from, hooks.output, "output")]
    {
        let gateways = selector.any_of.iter().filter(|term| is_gateway(term)).count();
        if gateways == 0 || is_diverted {
            continue;
        }
        let end = if hook == "input" { "to" } else { "from" };
        let cure = format!("add `{hook}` to `hooks`, or remove `gateway`");
        if gateways == selector.any_of.len() {
            report.error(
                place,
                format!("never matches: `{end}: gateway` is the hook `{hook}`, which is not diverted"),
                cure,
            );
        } else {
            report.warning(
                place,
                format!("`{end}: gateway` never matches: the hook `{hook}` is not diverted"),
                cure,
            );
        }
    }
    let only_gateway =
        |selector: &Selector| !selector.any_of.is_empty() && selector.any_of.iter().all(is_gateway);
    if only_gateway(&rule.from) && only_gateway(&rule.to) {
        report.error(
            placed.to,
            "never matches: from the gateway to the gateway goes over loopback",
            "remove the rule: loopback always passes",
        );
    }
    for (selector, place, end) in [(&rule.from, placed.from, "from"), (&rule.to, placed.to, "to")] {
        if !selector.any_of.is_empty()
            && selector
                .any_of
                .iter()
                .all(|term| selector.none_of.iter().any(|none| covers_term(none, term, zones)))
        {
            report.error(
                place,
                format!("never matches: `not` takes away all that `{end}` allows"),
                "remove one of them",
            );
        }
        // On the gateway's own traffic one of the two interfaces does not exist.
        let by_interface = |term: &Term| is_by_interface(term, zones);
        let has_interface =
            if end == "from" { hooks.forward || hooks.input } else { hooks.forward || hooks.output };
        if !has_interface && !selector.any_of.is_empty() && selector.any_of.iter().all(by_interface) {
            let cure = if end == "from" {
                "add `forward` or `input` to `hooks`"
            } else {
                "add `forward` or `output` to `hooks`"
            };
            report.error(
                place,
                format!("never matches: packets of these hooks have no interface to be `{end}`"),
                cure,
            );
        }
    }
    families(placed, zones, report);
}

fn is_gateway(term: &Term) -> bool {
    matches!(term, Term::Gateway)
}

fn is_by_interface(term: &Term, zones: &[Zone]) -> bool {
    zone_of(term, zones).is_some_and(|zone| !zone.interfaces.is_empty())
}

fn zone_of<'z>(term: &Term, zones: &'z [Zone]) -> Option<&'z Zone> {
    match term {
        Term::Zone(id) => zones.get(usize::from(id.0)),
        Term::Networks(_) | Term::Gateway => None,
    }
}

/// The networks that a term is limited to, if it is.
fn networks_of<'t>(term: &'t Term, zones: &'t [Zone]) -> Option<&'t NetworkSet> {
    match term {
        Term::Networks(networks) => Some(networks),
        Term::Zone(_) => zone_of(term, zones).and_then(|zone| zone.networks.as_deref()),
        Term::Gateway => None,
    }
}

/// Which families may pass: (IPv4, IPv6).
type Families = (bool, bool);

const BOTH: Families = (true, true);

fn both_in(a: Families, b: Families) -> Families {
    (a.0 && b.0, a.1 && b.1)
}

fn any_in(a: Families, b: Families) -> Families {
    (a.0 || b.0, a.1 || b.1)
}

fn families_of(selector: &Selector, zones: &[Zone]) -> Families {
    if selector.any_of.is_empty() {
        return BOTH;
    }
    let of_term = |term: &Term| match networks_of(term, zones) {
        // An empty list may have entries tomorrow.
        Some(networks) if !networks.is_empty() => networks.families(),
        Some(_) | None => BOTH,
    };
    selector.any_of.iter().map(of_term).fold((false, false), any_in)
}

fn families_of_services(services: &[Service]) -> Families {
    if services.is_empty() {
        return BOTH;
    }
    let of_service = |service: &Service| match service {
        ServiceKind::Ports(protocol, _)
        | ServiceKind::Protocol(protocol)
        | ServiceKind::Icmp { protocol, .. } => (*protocol != Protocol::ICMPV6, *protocol != Protocol::ICMP),
    };
    services.iter().map(of_service).fold((false, false), any_in)
}

fn families(placed: &Placed, zones: &[Zone], report: &mut Report) {
    let rule = &placed.rule;
    let ends = both_in(families_of(&rule.from, zones), families_of(&rule.to, zones));
    if ends == (false, false) {
        report.error(
            placed.to,
            "never matches: one end is IPv4 only, the other IPv6 only",
            "give both ends addresses of one family",
        );
    } else if both_in(ends, families_of_services(&rule.services)) == (false, false) {
        report.error(
            placed.service,
            "never matches: this ICMP is of the other family than the addresses",
            "write icmp, which means both families",
        );
    }
}

/// Looks for rules behind an earlier one that takes all they ask for. Only rules
/// that take one certain packet of a rule can take all of them, so few are compared.
pub(super) fn check_order(policy: &Policy, places: &[Place], report: &mut Report) {
    let mut budget = BUDGET;
    for (at, (later, place)) in policy.rules.iter().zip(places).enumerate() {
        let candidates = match sample::packet_for(later, policy) {
            Some(flow) => policy.all_matches(&flow),
            None => (0..at).collect(),
        };
        for earlier in candidates.into_iter().take_while(|earlier| *earlier < at) {
            let (Some(rule), Some(line)) = (policy.rules.get(earlier), places.get(earlier)) else { break };
            budget = budget.saturating_sub(cost_of(rule, later));
            if budget == 0 {
                return;
            }
            if covers(rule, later, &policy.zones) {
                report.enter(Context::Rule(later.name.to_string()));
                report.warning(
                    *place,
                    format!(
                        "never matches: rule {} on line {} already takes all of it",
                        rule.name, line.line
                    ),
                    "move it before that rule, narrow that rule, or remove one of them",
                );
                report.enter(Context::File);
                break;
            }
        }
    }
}

/// About how many terms and networks are compared to see whether a rule covers another.
fn cost_of(earlier: &Rule, later: &Rule) -> u64 {
    let terms = |rule: &Rule| {
        let ends = [&rule.from, &rule.to].map(|end| end.any_of.len().saturating_add(end.none_of.len()));
        ends.into_iter().sum::<usize>().saturating_add(rule.services.len())
    };
    let networks = |end: &Selector| {
        let sizes = end.any_of.iter().map(|term| match term {
            Term::Networks(networks) => networks.ranges(),
            Term::Zone(_) | Term::Gateway => 0,
        });
        sizes.fold(0, usize::saturating_add)
    };
    let ranges = networks(&later.from).saturating_add(networks(&later.to));
    let cost = terms(earlier).saturating_mul(terms(later).saturating_add(ranges)).saturating_add(1);
    u64::try_from(cost).unwrap_or(u64::MAX)
}

/// Whether every flow that `b` matches is matched by `a`.
pub(super) fn covers(a: &Rule, b: &Rule, zones: &[Zone]) -> bool {
    covers_services(&a.services, &b.services)
        && covers_selector(&a.from, &b.from, zones)
        && covers_selector(&a.to, &b.to, zones)
}

fn covers_services(a: &[Service], b: &[Service]) -> bool {
    a.is_empty() || (!b.is_empty() && b.iter().all(|b| a.iter().any(|a| a.covers(b))))
}

fn covers_selector(a: &Selector, b: &Selector, zones: &[Zone]) -> bool {
    let is_in_a = |term: &Term| a.any_of.iter().any(|ours| covers_term(ours, term, zones));
    let allowed = if a.any_of.is_empty() {
        true
    } else if b.any_of.is_empty() {
        a.any_of.iter().any(|term| is_everything(term, zones))
    } else {
        b.any_of.iter().all(is_in_a)
    };
    // What `a` leaves out, `b` must leave out too.
    let is_outside_b = |none: &Term| {
        b.none_of.iter().any(|theirs| covers_term(theirs, none, zones))
            || (!b.any_of.is_empty() && b.any_of.iter().all(|term| are_disjoint(none, term, zones)))
    };
    allowed && a.none_of.iter().all(is_outside_b)
}

fn is_everything(term: &Term, zones: &[Zone]) -> bool {
    let all = |networks: &NetworkSet| networks.covers(&NetworkSet::everything());
    match term {
        Term::Networks(networks) => all(networks),
        Term::Zone(_) => zone_of(term, zones).is_some_and(|zone| {
            zone.interfaces.is_empty() && zone.networks.as_ref().is_none_or(|networks| all(networks))
        }),
        Term::Gateway => false,
    }
}

/// Whether everyone in `b` is in `a`.
fn covers_term(a: &Term, b: &Term, zones: &[Zone]) -> bool {
    if is_everything(a, zones) {
        return true;
    }
    match (a, b) {
        (Term::Gateway, Term::Gateway) => true,
        (Term::Gateway, Term::Zone(_) | Term::Networks(_))
        | (Term::Zone(_) | Term::Networks(_), Term::Gateway) => false,
        (Term::Zone(x), Term::Zone(y)) if x == y => true,
        (Term::Zone(_) | Term::Networks(_), Term::Zone(_) | Term::Networks(_)) => {
            let interfaces = match (zone_of(a, zones), zone_of(b, zones)) {
                (Some(ours), _) if ours.interfaces.is_empty() => true,
                (Some(ours), Some(theirs)) => {
                    let is_in_ours =
                        |name: &str| ours.interfaces.iter().any(|pattern| covers_pattern(pattern, name));
                    !theirs.interfaces.is_empty() && theirs.interfaces.iter().all(|name| is_in_ours(name))
                }
                (Some(_), None) => false,
                (None, _) => true,
            };
            let networks = match (networks_of(a, zones), networks_of(b, zones)) {
                (None, _) => true,
                (Some(ours), Some(theirs)) => ours.covers(theirs),
                (Some(_), None) => false,
            };
            interfaces && networks
        }
    }
}

/// Whether nobody can be in both.
fn are_disjoint(a: &Term, b: &Term, zones: &[Zone]) -> bool {
    if let (Some(ours), Some(theirs)) = (networks_of(a, zones), networks_of(b, zones))
        && !ours.intersects(theirs)
    {
        return true;
    }
    match (a, b) {
        // The gateway's own end of a packet has no interface.
        (Term::Gateway, Term::Zone(_)) => is_by_interface(b, zones),
        (Term::Zone(_), Term::Gateway) => is_by_interface(a, zones),
        (Term::Zone(_), Term::Zone(_)) => match (zone_of(a, zones), zone_of(b, zones)) {
            (Some(ours), Some(theirs)) => {
                let meet = |x: &str, y: &str| covers_pattern(x, y) || covers_pattern(y, x);
                !ours.interfaces.is_empty()
                    && !theirs.interfaces.is_empty()
                    && !ours.interfaces.iter().any(|x| theirs.interfaces.iter().any(|y| meet(x, y)))
            }
            _ => false,
        },
        (Term::Gateway, Term::Gateway | Term::Networks(_))
        | (Term::Networks(_), Term::Gateway | Term::Networks(_) | Term::Zone(_))
        | (Term::Zone(_), Term::Networks(_)) => false,
    }
}

/// Whether every interface that `b` means is one that `a` means.
fn covers_pattern(a: &str, b: &str) -> bool {
    match a.strip_suffix('*') {
        Some(start) => b.strip_suffix('*').unwrap_or(b).starts_with(start),
        None => a == b,
    }
}
