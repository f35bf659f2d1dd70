//! Filters over connections: `proto=tcp phase=half_closed src=10.0.0.0/8`.
//!
//! Terms are `key=value`; all must hold. A value may be several, separated by
//! commas, of which one must hold. Both ends of the control socket parse them:
//! the command line for its error, the daemon because it trusts nobody.

use std::{net::IpAddr, time::Duration};

use ipnet::IpNet;

use super::text::parse_duration;
use crate::{
    conntrack::{Flow, Phase},
    engine::View,
    policy::{Policy, RuleId},
    wire::Protocol,
};

/// What a filter may be made of, for help and errors.
pub const GRAMMAR: &str = "proto=tcp|udp|icmp|icmpv6|other|NUMBER phase=PHASE|half_open src=NETWORK dst=NETWORK \
sport=PORT[-PORT] dport=PORT[-PORT] rule=NAME older=DURATION idle=DURATION stale=yes|no";

/// A parsed filter; an empty one lets everything through.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Filter {
    terms: Vec<Term>,
}

/// One `key=value`.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Term {
    Proto(Vec<Proto>),
    Phase(Vec<Phase>),
    Src(Vec<IpNet>),
    Dst(Vec<IpNet>),
    Sport(Vec<(u16, u16)>),
    Dport(Vec<(u16, u16)>),
    Rule(Vec<String>),
    Older(Duration),
    Idle(Duration),
    Stale(bool),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Proto {
    Is(Protocol),
    Other,
}

impl Filter {
    /// Parses the terms.
    ///
    /// # Errors
    /// A sentence that names the term, and what would be right.
    pub fn parse<T: AsRef<str>>(terms: &[T]) -> Result<Self, String> {
        // A whole filter in one argument is as good as one term in each.
        let words = terms.iter().flat_map(|term| term.as_ref().split_whitespace());
        Ok(Self { terms: words.map(term).collect::<Result<_, _>>()? })
    }

    /// Whether it lets everything through.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// Replaces rule names by numbers, so that each connection is quick to test.
    ///
    /// # Errors
    /// If a rule has never been in force.
    pub fn bind(&self, policy: &Policy) -> Result<Bound, String> {
        let mut rules: Vec<Vec<RuleId>> = Vec::new();
        for term in &self.terms {
            if let Term::Rule(names) = term {
                rules.push(names.iter().map(|name| rule_id(policy, name)).collect::<Result<_, _>>()?);
            }
        }
        let rest = self.terms.iter().filter(|term| !matches!(term, Term::Rule(_))).cloned().collect();
        Ok(Bound { terms: rest, rules })
    }
}

/// A filter that knows the rules in force.
#[derive(Clone, Debug)]
pub struct Bound {
    terms: Vec<Term>,
    rules: Vec<Vec<RuleId>>,
}

impl Bound {
    /// Whether a connection passes.
    #[must_use]
    pub fn matches(&self, view: &View) -> bool {
        self.terms.iter().all(|term| holds(term, view))
            && self.rules.iter().all(|rules| rules.contains(&view.rule))
    }
}

/// The number of a rule by its name, also of one that a reload took away.
///
/// # Errors
/// A sentence with the names that there are.
pub fn rule_id(policy: &Policy, name: &str) -> Result<RuleId, String> {
    let position = policy.names.iter().position(|known| &**known == name);
    position.and_then(|number| u16::try_from(number).ok()).map(RuleId).ok_or_else(|| {
        let known: Vec<&str> = policy.rules.iter().map(|rule| &*rule.name).take(30).collect();
        format!("there is no rule \"{name}\"; the rules are {} and default", known.join(", "))
    })
}

fn holds(term: &Term, view: &View) -> bool {
    let flow = &view.flow;
    match term {
        Term::Proto(any) => any.iter().any(|proto| match proto {
            Proto::Is(protocol) => flow.protocol == *protocol,
            Proto::Other => {
                ![Protocol::TCP, Protocol::UDP, Protocol::ICMP, Protocol::ICMPV6].contains(&flow.protocol)
            }
        }),
        Term::Phase(any) => any.contains(&view.phase),
        Term::Src(any) => any.iter().any(|network| network.contains(&flow.src)),
        Term::Dst(any) => any.iter().any(|network| network.contains(&flow.dst)),
        Term::Sport(any) => any.iter().any(|(first, last)| (*first..=*last).contains(&flow.src_port)),
        Term::Dport(any) => any.iter().any(|(first, last)| (*first..=*last).contains(&flow.dst_port)),
        // Bound::rules holds these.
        Term::Rule(_) => true,
        Term::Older(age) => view.age >= *age,
        Term::Idle(idle) => view.idle >= *idle,
        Term::Stale(stale) => view.forgotten_by.is_some() == *stale,
    }
}

fn term(text: &str) -> Result<Term, String> {
    let Some((key, value)) = text.split_once('=') else {
        return Err(format!("\"{text}\" is not a filter: write key=value, with {GRAMMAR}"));
    };
    if value.is_empty() {
        return Err(format!("\"{text}\" has no value: write one behind the ="));
    }
    Ok(match key {
        "proto" => Term::Proto(several(value, proto)?),
        "phase" => Term::Phase(several(value, phases)?.concat()),
        "src" => Term::Src(several(value, network)?),
        "dst" => Term::Dst(several(value, network)?),
        "sport" => Term::Sport(several(value, ports)?),
        "dport" => Term::Dport(several(value, ports)?),
        "rule" => Term::Rule(several(value, |name| Ok(name.to_owned()))?),
        "older" => Term::Older(parse_duration(value)?),
        "idle" => Term::Idle(parse_duration(value)?),
        "stale" => Term::Stale(match value {
            "yes" | "true" => true,
            "no" | "false" => false,
            _ => return Err(format!("stale can't be \"{value}\": write stale=yes or stale=no")),
        }),
        _ => return Err(format!("\"{key}\" is no key of a filter: use {GRAMMAR}")),
    })
}

fn several<T>(text: &str, one: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, String> {
    text.split(',').map(one).collect()
}

fn proto(text: &str) -> Result<Proto, String> {
    Ok(match text {
        "tcp" => Proto::Is(Protocol::TCP),
        "udp" => Proto::Is(Protocol::UDP),
        "icmp" => Proto::Is(Protocol::ICMP),
        "icmpv6" => Proto::Is(Protocol::ICMPV6),
        "other" => Proto::Other,
        number => Proto::Is(Protocol(number.parse().map_err(|_| {
            format!("\"{text}\" is no protocol: use tcp, udp, icmp, icmpv6, other or a number")
        })?)),
    })
}

fn phases(text: &str) -> Result<Vec<Phase>, String> {
    if text == "half_open" || text == "embryonic" {
        return Ok(Phase::ALL.into_iter().filter(|phase| phase.is_embryonic()).collect());
    }
    Phase::from_name(text).map(|phase| vec![phase]).ok_or_else(|| {
        let names: Vec<&str> = Phase::ALL.iter().map(|phase| phase.name()).collect();
        format!("\"{text}\" is no phase: use {} or half_open", names.join(", "))
    })
}

fn network(text: &str) -> Result<IpNet, String> {
    text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).map_err(|_| {
        format!("\"{text}\" is neither an address nor a network: write 10.0.0.1, 10.0.0.0/8 or 2001:db8::/32")
    })
}

fn ports(text: &str) -> Result<(u16, u16), String> {
    let wrong = || format!("\"{text}\" is no port: write a number up to 65535, or a range like 8000-8100");
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let first = first.parse().map_err(|_| wrong())?;
    let last = last.parse().map_err(|_| wrong())?;
    if first > last { Err(wrong()) } else { Ok((first, last)) }
}

/// Half of a flow, as `10.0.0.1:80` or `[2001:db8::1]:80`; without a port where
/// the protocol has none.
#[must_use]
pub fn end(flow: &Flow, source: bool) -> String {
    let (address, port) = if source { (flow.src, flow.src_port) } else { (flow.dst, flow.dst_port) };
    match flow.protocol {
        Protocol::TCP | Protocol::UDP => std::net::SocketAddr::new(address, port).to_string(),
        _ => address.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{conntrack::Timer, engine::Counts, policy::Settings};

    fn view() -> View {
        View {
            flow: Flow {
                protocol: Protocol::TCP,
                src: "10.1.2.3".parse().unwrap(),
                src_port: 40000,
                dst: "192.0.2.7".parse().unwrap(),
                dst_port: 443,
            },
            phase: Phase::HalfClosed,
            rule: RuleId(1),
            age: Duration::from_secs(600),
            idle: Duration::from_secs(59),
            expires_in: Duration::from_secs(1),
            timer: Timer::HalfClosed,
            original: Counts::default(),
            reply: Counts::default(),
            probes: 0,
            unacknowledged_fin: None,
            forgotten_by: Some(crate::engine::Peer::Client),
            fast_path: false,
        }
    }

    fn policy() -> Policy {
        Policy::new(
            Settings::default(),
            Vec::new(),
            Vec::new(),
            vec!["default".into(), "web".into(), "dns".into()],
        )
    }

    fn passes(terms: &[&str]) -> bool {
        Filter::parse(terms).unwrap().bind(&policy()).unwrap().matches(&view())
    }

    #[test]
    fn every_term_holds_or_does_not() {
        for (yes, no) in [
            ("proto=tcp", "proto=udp"),
            ("proto=6", "proto=other"),
            ("phase=half_closed", "phase=half_open"),
            ("src=10.0.0.0/8", "src=11.0.0.0/8"),
            ("src=10.1.2.3", "src=2001:db8::/32"),
            ("dst=192.0.2.0/24", "dst=10.0.0.0/8"),
            ("sport=40000", "sport=443"),
            ("dport=400-500", "dport=444-500"),
            ("rule=web", "rule=dns"),
            ("older=10m", "older=10m1s"),
            ("idle=59s", "idle=1m"),
            ("stale=yes", "stale=no"),
            ("dport=80,443", "dport=80,8080"),
            ("phase=established,half_closed", "phase=established,time_wait"),
            ("rule=dns,web", "rule=dns,default"),
        ] {
            assert!(passes(&[yes]), "{yes}");
            assert!(!passes(&[no]), "{no}");
        }
    }

    #[test]
    fn all_terms_must_hold() {
        assert!(passes(&[]));
        assert!(passes(&["proto=tcp", "dport=443", "rule=web"]));
        assert!(passes(&["proto=tcp dport=443"]));
        assert!(!passes(&["proto=tcp", "dport=80"]));
        assert!(!passes(&["rule=web", "rule=dns"]));
    }

    #[test]
    fn errors_say_what_would_be_right() {
        for (text, part) in [
            ("tcp", "key=value"),
            ("colour=red", "dport="),
            ("src=", "no value"),
            ("src=example.org", "neither an address"),
            ("src=10.0.0.0/33", "neither an address"),
            ("dport=70000", "65535"),
            ("dport=9-8", "65535"),
            ("phase=open", "half_open"),
            ("proto=sctpp", "number"),
            ("older=5", "unit"),
            ("older=5m,6m", "duration"),
            ("stale=perhaps", "stale=no"),
        ] {
            let error = Filter::parse(&[text]).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
        let error = Filter::parse(&["rule=nope"]).unwrap().bind(&policy()).unwrap_err();
        assert!(error.contains("no rule \"nope\""), "{error}");
    }
}
