//! Services: `tcp/80`, `udp`, `icmp/echo-request`, and names for them.

use std::collections::HashMap;

use super::{
    hosts::check_name,
    reader::{self, Report},
    words,
    yaml::{Kind, Node},
};
use crate::{
    policy::{Ports, Service, ServiceKind},
    wire::Protocol,
};

/// How deep named services may refer to each other.
const MAX_DEPTH: usize = 8;
/// How many services one rule may come to.
const MAX_SERVICES: usize = 10_000;

/// Protocols by name, beside ICMP.
const PROTOCOLS: [(&str, u8); 14] = [
    ("tcp", 6),
    ("udp", 17),
    ("igmp", 2),
    ("ipip", 4),
    ("dccp", 33),
    ("6in4", 41),
    ("gre", 47),
    ("esp", 50),
    ("ah", 51),
    ("ospf", 89),
    ("pim", 103),
    ("vrrp", 112),
    ("sctp", 132),
    ("udplite", 136),
];

/// ICMP types by name: RFC 792 and RFC 4443, 4861. Where a family lacks a
/// type, the name means the other family only.
const ICMP_TYPES: [(&str, Option<u8>, Option<u8>); 13] = [
    ("echo-request", Some(8), Some(128)),
    ("echo-reply", Some(0), Some(129)),
    ("destination-unreachable", Some(3), Some(1)),
    ("packet-too-big", None, Some(2)),
    ("time-exceeded", Some(11), Some(3)),
    ("parameter-problem", Some(12), Some(4)),
    ("redirect", Some(5), Some(137)),
    ("router-solicitation", Some(10), Some(133)),
    ("router-advertisement", Some(9), Some(134)),
    ("neighbour-solicitation", None, Some(135)),
    ("neighbour-advertisement", None, Some(136)),
    ("timestamp-request", Some(13), None),
    ("timestamp-reply", Some(14), None),
];

/// The services that have names.
#[derive(Default)]
pub(super) struct Services {
    /// `None`: its definition has an error, so its use is no second one.
    named: HashMap<String, Option<Vec<Service>>>,
}

impl Services {
    /// Reads `services:`.
    pub(super) fn read(node: Option<&Node>, report: &mut Report) -> Self {
        let Some(node) = node else { return Self::default() };
        let entries = reader::named(node, "services", "services: { web: [tcp/80, tcp/443] }", report);
        let mut services = Self::default();
        let all: HashMap<&str, &Node> = entries.iter().map(|&(name, _, node)| (name, node)).collect();
        for &(name, place, node) in &entries {
            let is_ours = protocol(name).is_some() || name.starts_with("icmp");
            if is_ours {
                report.error(
                    place,
                    format!("`{name}` is a protocol and can't be the name of a service"),
                    "take another name",
                );
            } else if check_name(name, "a service", place, report) {
                services.resolve(name, node, &all, &mut Vec::new(), report);
            }
            services.named.entry(name.to_owned()).or_insert(None);
        }
        services
    }

    /// Resolves a name, and before it those that it is made of.
    fn resolve<'n>(
        &mut self,
        name: &'n str,
        node: &'n Node,
        all: &HashMap<&'n str, &'n Node>,
        path: &mut Vec<&'n str>,
        report: &mut Report,
    ) {
        if self.named.contains_key(name) {
            return;
        }
        path.push(name);
        for part in reader::one_or_more(node) {
            let Kind::Text(text) = &part.kind else { continue };
            let Some((other, other_node)) = all.get_key_value(text.as_str()) else { continue };
            if path.contains(other) || path.len() >= MAX_DEPTH {
                report.error(
                    part.place,
                    format!("service `{name}` is made of `{other}`, which is made of others in a circle or too deep"),
                    "write the ports out",
                );
                self.named.insert(name.to_owned(), None);
                path.pop();
                return;
            }
            self.resolve(other, other_node, all, path, report);
        }
        path.pop();
        let services = self.services(node, &format!("service {name}"), report);
        self.named.entry(name.to_owned()).or_insert(services);
    }

    /// Reads `service:`; empty means any. `None` if something in it is wrong.
    pub(super) fn services(&self, node: &Node, title: &str, report: &mut Report) -> Option<Vec<Service>> {
        let before = report.errors();
        let mut out = Vec::new();
        let mut is_any = false;
        let mut has_broken = false;
        let nodes = reader::one_or_more(node);
        if nodes.is_empty() {
            report.error(node.place, format!("{title} is an empty list"), "write a service, or `any`");
        }
        for node in nodes {
            let Some(text) = reader::text(node, title, report) else { continue };
            let text = text.trim();
            if text == "any" {
                is_any = true;
            } else if let Some(named) = self.named.get(text) {
                match named {
                    Some(services) => {
                        is_any |= services.is_empty();
                        out.extend_from_slice(services);
                    }
                    None => has_broken = true,
                }
            } else {
                match parse(text) {
                    Ok(services) => out.extend(services),
                    Err((message, cure)) => {
                        let names = || self.named.keys().map(String::as_str);
                        let near = (!text.contains('/')).then(|| words::nearest(text, names())).flatten();
                        report.error(
                            node.place,
                            message,
                            near.map_or(cure, |name| format!("did you mean `{name}`?")),
                        );
                    }
                }
            }
            if out.len() > MAX_SERVICES {
                report.error(
                    node.place,
                    format!("{title} comes to more than {MAX_SERVICES} services"),
                    "use ranges of ports",
                );
                return None;
            }
        }
        if is_any && !out.is_empty() {
            report.warning(
                node.place,
                format!("`any` beside others in {title}"),
                "remove `any`, or the others",
            );
            out.clear();
        }
        (report.errors() == before && !has_broken).then_some(out)
    }
}

fn protocol(name: &str) -> Option<Protocol> {
    PROTOCOLS.into_iter().find(|(known, _)| *known == name).map(|(_, number)| Protocol(number))
}

type Wrong = (String, String);

/// Reads one service.
pub(super) fn parse(text: &str) -> Result<Vec<Service>, Wrong> {
    let lower = text.to_ascii_lowercase();
    let Some((first, rest)) = lower.split_once('/') else { return whole(text, &lower) };
    if first.starts_with(|c: char| c.is_ascii_digit()) && first != "6in4" && protocol(rest).is_some() {
        // 80/tcp, as /etc/services has it.
        return parse(&format!("{rest}/{first}"));
    }
    match first {
        "icmp" | "icmpv4" | "icmpv6" | "icmp6" | "ipv6-icmp" => icmp(text, first, rest),
        "ip" | "proto" | "protocol" => match rest.parse::<u8>() {
            Ok(1 | 58) => Err((format!("`{text}` is ICMP"), "write icmpv4 or icmpv6".to_owned())),
            Ok(number) => Ok(vec![ServiceKind::Protocol(Protocol(number))]),
            Err(_) => Err((
                format!("`{text}` is no protocol number"),
                "write a number from 0 to 255, as in ip/47".to_owned(),
            )),
        },
        _ => match protocol(first) {
            Some(protocol @ (Protocol::TCP | Protocol::UDP)) => ports(text, first, protocol, rest),
            Some(_) => Err((
                format!("`{text}`: ports are read in TCP and UDP only"),
                format!("write {first} for the whole protocol"),
            )),
            None => Err((
                format!("`{text}`: `{}` is no protocol", words::shorten(first, 40)),
                match words::nearest(first, PROTOCOLS.into_iter().map(|(name, _)| name).chain(["icmp"])) {
                    Some(name) => format!("did you mean `{name}/{rest}`?"),
                    None => "write it like tcp/80, udp/53, icmp/echo-request or ip/47".to_owned(),
                },
            )),
        },
    }
}

/// A service without a `/`.
fn whole(text: &str, lower: &str) -> Result<Vec<Service>, Wrong> {
    let whole = |protocol| ServiceKind::Protocol(protocol);
    match lower {
        "icmp" => return Ok(vec![whole(Protocol::ICMP), whole(Protocol::ICMPV6)]),
        "icmpv4" => return Ok(vec![whole(Protocol::ICMP)]),
        "icmpv6" | "icmp6" | "ipv6-icmp" => return Ok(vec![whole(Protocol::ICMPV6)]),
        _ => {}
    }
    if let Some(protocol) = protocol(lower) {
        return Ok(vec![whole(protocol)]);
    }
    if lower.starts_with(|c: char| c.is_ascii_digit())
        && lower.chars().all(|c| c.is_ascii_digit() || c == '-')
    {
        return Err((
            format!("`{text}` does not say of which protocol"),
            format!("write tcp/{lower} or udp/{lower}"),
        ));
    }
    if let Some((first, rest)) = lower.split_once([':', ' ', '-'])
        && (protocol(first).is_some() || first.starts_with("icmp"))
    {
        return Err((format!("`{text}` is no service"), format!("did you mean `{first}/{}`?", rest.trim())));
    }
    let cure = match words::well_known(lower) {
        Some(ours) if ours.contains(',') => format!("write [{ours}], or define `{lower}` under `services:`"),
        Some("any") => "write any".to_owned(),
        Some(ours) => format!("write {ours}, or define `{lower}` under `services:`"),
        None => {
            "define it under `services:`, or write it like tcp/80, udp/53 or icmp/echo-request".to_owned()
        }
    };
    Err((format!("no service is called `{text}`"), cure))
}

fn ports(text: &str, name: &str, protocol: Protocol, rest: &str) -> Result<Vec<Service>, Wrong> {
    let wrong = |message: &str, cure: String| Err((format!("`{text}`: {message}"), cure));
    if rest == "*" || rest == "any" || rest == "all" {
        return wrong("every port is the whole protocol", format!("write {name}"));
    }
    if rest.contains(',') {
        let parts: Vec<String> = rest.split(',').map(|port| format!("{name}/{}", port.trim())).collect();
        return wrong(
            "several ports are several services",
            format!("write [{}]", words::shorten(&parts.join(", "), 120)),
        );
    }
    if let Some(ours) = words::well_known(rest) {
        return wrong("ports are numbers", format!("write {ours}"));
    }
    let number = |text: &str| text.trim().parse::<u16>().ok().filter(|port| *port > 0);
    let (first, last) = rest.split_once(['-', ':']).unwrap_or((rest, rest));
    match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => {
            Ok(vec![ServiceKind::Ports(protocol, Ports { first, last })])
        }
        (Some(first), Some(last)) => {
            wrong("the range runs backwards", format!("write {name}/{last}-{first}"))
        }
        _ => {
            wrong("ports are numbers from 1 to 65535", format!("write it like {name}/80 or {name}/8000-8100"))
        }
    }
}

fn icmp(text: &str, family: &str, rest: &str) -> Result<Vec<Service>, Wrong> {
    let wrong = |message: &str, cure: String| Err((format!("`{text}`: {message}"), cure));
    let only = match family {
        "icmp" => None,
        "icmpv4" => Some(Protocol::ICMP),
        _ => Some(Protocol::ICMPV6),
    };
    let (kind, code) = match rest.split_once('/') {
        Some((kind, code)) => match code.parse::<u8>() {
            Ok(code) => (kind, Some(code)),
            Err(_) => {
                return wrong("a code is a number from 0 to 255", "write it like icmpv4/3/4".to_owned());
            }
        },
        None => (rest, None),
    };
    let one = |protocol, kind| ServiceKind::Icmp { protocol, kind, code };
    if let Ok(kind) = kind.parse::<u8>() {
        return match only {
            Some(protocol) => Ok(vec![one(protocol, kind)]),
            None => {
                let named = ICMP_TYPES.into_iter().find(|(_, v4, v6)| *v4 == Some(kind) || *v6 == Some(kind));
                let cure = match named {
                    Some((name, Some(v4), _)) if v4 == kind => {
                        format!("write icmp/{name} for both, or icmpv4/{rest}")
                    }
                    Some((name, ..)) => format!("write icmp/{name} for both, or icmpv6/{rest}"),
                    None => format!("write icmpv4/{rest} or icmpv6/{rest}"),
                };
                wrong("type numbers differ between IPv4 and IPv6", cure)
            }
        };
    }
    let plain = kind.replace('_', "-").replace("neighbor", "neighbour");
    let plain = match plain.as_str() {
        "ping" | "echo" => "echo-request",
        "unreachable" => "destination-unreachable",
        "ttl-exceeded" => "time-exceeded",
        other => other,
    };
    let Some((_, v4, v6)) = ICMP_TYPES.into_iter().find(|(name, ..)| *name == plain) else {
        let names = || ICMP_TYPES.into_iter().map(|(name, ..)| name);
        let cure = match words::nearest(plain, names()) {
            Some(name) => format!("did you mean `{family}/{name}`?"),
            None => format!("the types are: {}", names().collect::<Vec<_>>().join(", ")),
        };
        return wrong("no ICMP type has this name", cure);
    };
    let pairs = [(Protocol::ICMP, v4), (Protocol::ICMPV6, v6)];
    let found: Vec<Service> = pairs
        .into_iter()
        .filter(|(protocol, _)| only.is_none_or(|only| only == *protocol))
        .filter_map(|(protocol, kind)| kind.map(|kind| one(protocol, kind)))
        .collect();
    if found.is_empty() {
        return wrong("this family has no such type", format!("write icmp/{plain}"));
    }
    Ok(found)
}
