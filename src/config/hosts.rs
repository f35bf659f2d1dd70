//! Zones, lists, addresses: who may be at the ends of a connection.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use ipnet::{IpNet, Ipv4Net, Ipv4Subnets};

use super::{
    reader::{self, Fields, Report},
    schema, words,
    yaml::{Kind, Node, Place, START},
};
use crate::policy::{NetworkSet, Selector, Term, Zone, ZoneId};

/// Linux's IFNAMSIZ without the terminating zero.
const LONGEST_INTERFACE: usize = 15;
/// The longest name of a zone, list, service, rule or test.
const LONGEST_NAME: usize = 64;
/// Errors of one list file that are told one by one.
const ERRORS_PER_FILE: usize = 20;
/// Networks in one list.
const MAX_NETWORKS: usize = 1_000_000;

/// Words that mean something where a name could stand.
const RESERVED: [&str; 4] = ["any", "gateway", "not", "default"];

/// All that a name in `from` or `to` can mean.
#[derive(Default)]
pub(super) struct Hosts {
    pub(super) zones: Vec<Zone>,
    /// Lists that have an error are here too, empty, so that their use is no second error.
    lists: HashMap<String, Arc<NetworkSet>>,
    /// Names that were given to something broken: their use is no second error.
    broken: Vec<String>,
}

/// Whether a name may be given to something.
pub(super) fn check_name(name: &str, what: &str, place: Place, report: &mut Report) -> bool {
    let cure = "use letters, digits, `_` and `-`, beginning with a letter, at most 64 of them";
    let is_word = name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    if !is_word || name.len() > LONGEST_NAME {
        report.error(place, format!("`{}` can't be the name of {what}", words::shorten(name, 80)), cure);
        return false;
    }
    if RESERVED.contains(&name) {
        report.error(
            place,
            format!("`{name}` has a meaning of its own and can't be the name of {what}"),
            "take another name",
        );
        return false;
    }
    true
}

impl Hosts {
    /// Reads `lists:` and `zones:`.
    pub(super) fn read(
        zones: Option<&Node>,
        lists: Option<&Node>,
        read: &mut dyn FnMut(&str) -> Result<String, String>,
        report: &mut Report,
    ) -> Self {
        let mut hosts = Self::default();
        let mut places = HashMap::new();
        if let Some(lists) = lists {
            for (name, place, node) in
                reader::named(lists, "lists", "lists: { partners: [203.0.113.0/24] }", report)
            {
                places.insert(name, place);
                let networks = list(node, read, report);
                if check_name(name, "a list", place, report) {
                    hosts.lists.insert(name.to_owned(), Arc::new(NetworkSet::new(networks)));
                }
            }
        }
        if let Some(zones) = zones {
            for (name, place, node) in
                reader::named(zones, "zones", "zones: { wan: { interfaces: [ppp0] } }", report)
            {
                let zone = hosts.zone(name, node, report);
                if !check_name(name, "a zone", place, report) {
                    continue;
                }
                if let Some(other) = places.get(name) {
                    report.error(
                        place,
                        format!("`{name}` is also the name of a list, on line {}", other.line),
                        "give one of them another name: `from: NAME` could mean both",
                    );
                    continue;
                }
                if hosts.zones.len() == ZoneId::MAX {
                    report.error(
                        place,
                        format!("more than {} zones", ZoneId::MAX),
                        "use lists for sets of networks",
                    );
                    break;
                }
                match zone {
                    Some(zone) => hosts.zones.push(zone),
                    None => hosts.broken.push(name.to_owned()),
                }
            }
        }
        hosts
    }

    fn zone(&self, name: &str, node: &Node, report: &mut Report) -> Option<Zone> {
        if let Kind::Text(text) = &node.kind {
            let key = if network(text).is_ok() { "networks" } else { "interfaces" };
            report.error(
                node.place,
                format!("zone {name} must say what `{text}` is"),
                format!("write `{name}: {{ {key}: [{text}] }}`"),
            );
            return None;
        }
        let before = report.errors();
        let fields = Fields::of(node, &schema::ZONE, report)?;
        let mut interfaces: Vec<Arc<str>> = Vec::new();
        if let Some(node) = fields.get("interfaces") {
            for node in reader::one_or_more(node) {
                let Some(pattern) = reader::text(node, "an interface", report) else { continue };
                if let Some((message, cure)) = bad_interface(pattern) {
                    report.error(node.place, message, cure);
                } else {
                    interfaces.push(pattern.into());
                }
            }
            if interfaces.is_empty() && report.errors() == before {
                report.error(
                    node.place,
                    format!("zone {name} lists no interface"),
                    "name one, or leave `interfaces` out",
                );
            }
        }
        let mut networks = None;
        if let Some(node) = fields.get("networks") {
            let mut set = Vec::new();
            for node in reader::one_or_more(node) {
                networks_of(node, &mut set, report);
            }
            if set.is_empty() && report.errors() == before {
                report.error(
                    node.place,
                    format!("zone {name} lists no network"),
                    "write one, or leave `networks` out",
                );
            }
            networks = Some(Arc::new(NetworkSet::new(set)));
        }
        if !["interfaces", "networks"].iter().any(|key| fields.get(key).is_some() || fields.is_meant(key)) {
            report.error(
                node.place,
                format!("zone {name} has neither interfaces nor networks"),
                format!("write it like `{name}: {}`", schema::ZONE.example),
            );
        }
        (report.errors() == before).then(|| Zone { name: name.into(), interfaces, networks })
    }

    /// Reads `from:` or `to:`. `None` if something in it is wrong.
    pub(super) fn selector(&self, node: &Node, key: &str, report: &mut Report) -> Option<Selector> {
        let before = report.errors();
        let mut selector = Selector::default();
        let nodes = reader::one_or_more(node);
        if nodes.is_empty() {
            report.error(
                node.place,
                format!("`{key}` is an empty list"),
                format!("leave `{key}` out if anyone may be meant"),
            );
        }
        let mut is_any = false;
        for node in nodes {
            let Some(text) = reader::text(node, key, report) else { continue };
            let (text, negated) = match text.split_once(char::is_whitespace) {
                Some(("not", rest)) => (rest.trim(), true),
                _ => match text.strip_prefix('!') {
                    Some(rest) => {
                        report.error(
                            node.place,
                            format!("`{text}`: `!` is not used here"),
                            format!("write `not {}`", rest.trim()),
                        );
                        continue;
                    }
                    None => (text.trim(), false),
                },
            };
            if text == "any" {
                if negated {
                    report.error(node.place, "`not any` can never match", "remove it");
                }
                is_any = true;
                continue;
            }
            let Some(term) = self.term(text, node.place, report) else { continue };
            if negated {
                selector.none_of.push(term);
            } else {
                selector.any_of.push(term);
            }
        }
        if is_any && !selector.any_of.is_empty() {
            report.error(
                node.place,
                format!("`any` beside others in `{key}`"),
                "remove `any`, or the others",
            );
        }
        (report.errors() == before).then_some(selector)
    }

    fn term(&self, text: &str, place: Place, report: &mut Report) -> Option<Term> {
        if text == "gateway" {
            return Some(Term::Gateway);
        }
        if let Some(at) = self.zones.iter().position(|zone| &*zone.name == text) {
            return u8::try_from(at).ok().map(|id| Term::Zone(ZoneId(id)));
        }
        if let Some(list) = self.lists.get(text) {
            return Some(Term::Networks(Arc::clone(list)));
        }
        match network(text) {
            Ok(network) => return Some(Term::Networks(Arc::new(NetworkSet::new(vec![network])))),
            Err(BadNetwork::Wrong(message, cure)) => {
                report.error(place, message, cure);
                return None;
            }
            Err(BadNetwork::Other) => {}
        }
        if self.broken.iter().any(|name| name == text) {
            return None;
        }
        let lower = text.to_ascii_lowercase();
        let names = || self.zones.iter().map(|zone| &*zone.name).chain(self.lists.keys().map(String::as_str));
        let by_interface = || {
            let has = |zone: &&Zone| zone.interfaces.iter().any(|name| &**name == text);
            self.zones
                .iter()
                .find(has)
                .map(|zone| format!("`{text}` is an interface of the zone `{}`: write that", zone.name))
        };
        let cure = match lower.as_str() {
            "self" | "localhost" | "me" | "this" | "firewall" | "fw" | "local" | "router" | "host" => {
                Some("did you mean `gateway`?".to_owned())
            }
            "all" | "*" | "anywhere" | "anyone" | "everyone" | "0" => Some("did you mean `any`?".to_owned()),
            _ => by_interface().or_else(|| {
                words::nearest(text, names().chain(RESERVED)).map(|name| format!("did you mean `{name}`?"))
            }),
        };
        if cure.is_none() && looks_like_hostname(text) {
            report.error(
                place,
                format!("`{text}` is a hostname, and rules hold for addresses"),
                "write its address: a firewall must not depend on what DNS says today",
            );
            return None;
        }
        let cure = cure.unwrap_or_else(|| {
            let mut known: Vec<&str> = names().collect();
            known.sort_unstable();
            known.truncate(12);
            if known.is_empty() {
                "define it under `zones:` or `lists:`, or write an address, `gateway` or `any`".to_owned()
            } else {
                format!(
                    "define it under `zones:` or `lists:`, or use one of: {}, gateway, any",
                    known.join(", ")
                )
            }
        });
        report.error(place, format!("no zone or list is called `{text}`"), cure);
        None
    }
}

fn looks_like_hostname(text: &str) -> bool {
    text.contains('.')
        && text.chars().all(|c| c.is_alphanumeric() || matches!(c, '.' | '-' | '_'))
        && text.chars().any(char::is_alphabetic)
}

fn bad_interface(pattern: &str) -> Option<(String, &'static str)> {
    let start = pattern.strip_suffix('*').unwrap_or(pattern);
    if pattern == "lo" {
        return Some((
            "`lo` is never diverted, and in no zone".to_owned(),
            "remove it: loopback always passes",
        ));
    }
    if network(pattern).is_ok() {
        return Some((format!("`{pattern}` is an address, not an interface"), "put it under `networks`"));
    }
    if pattern.is_empty() || start.contains(['*', '?', '+']) || pattern.ends_with('+') {
        return Some((
            format!("`{pattern}` is no interface pattern"),
            "only a `*` at the end is special, as in `ppp*`",
        ));
    }
    if pattern.contains(|c: char| c.is_whitespace() || c == '/' || c.is_control()) {
        return Some((
            format!("`{pattern}` can't be the name of an interface"),
            "names have no spaces and no `/`",
        ));
    }
    if start.len() > LONGEST_INTERFACE {
        return Some((
            format!("`{pattern}` is longer than an interface's name can be"),
            "Linux allows 15 characters",
        ));
    }
    None
}

/// Why a text is no network.
enum BadNetwork {
    /// It was meant as one: message and cure.
    Wrong(String, String),
    /// It is something else, perhaps a name.
    Other,
}

/// An address or a network.
fn network(text: &str) -> Result<IpNet, BadNetwork> {
    let wrong = |message: String, cure: String| Err(BadNetwork::Wrong(message, cure));
    let Some((address, prefix)) = text.split_once('/') else {
        return bare_address(text);
    };
    let Ok(address) = address.parse::<IpAddr>() else {
        let like = address.contains(':') || address.starts_with(|c: char| c.is_ascii_digit());
        let cure = "write four numbers, as in 192.168.10.0/24".to_owned();
        return if like { wrong(format!("`{text}` is no network"), cure) } else { Err(BadNetwork::Other) };
    };
    if let (IpAddr::V4(v4), Ok(mask)) = (address, prefix.parse::<Ipv4Addr>()) {
        let cure = match Ipv4Net::with_netmask(v4, mask) {
            Ok(net) => format!("write {}", net.trunc()),
            Err(_) => "write the number of leading ones, as in /24".to_owned(),
        };
        return wrong(format!("`{text}` has a netmask instead of a prefix length"), cure);
    }
    let most = if address.is_ipv4() { 32 } else { 128 };
    let all_digits = !prefix.is_empty() && prefix.chars().all(|c| c.is_ascii_digit());
    let network =
        prefix.parse::<u8>().ok().filter(|_| all_digits).and_then(|prefix| IpNet::new(address, prefix).ok());
    let Some(network) = network else {
        return wrong(
            format!("`{text}` has no prefix length from 0 to {most}"),
            format!("write it like {address}/{most}"),
        );
    };
    if network.trunc() != network {
        return wrong(
            format!("`{text}` has bits set behind its prefix"),
            format!("write {} for the network, or {address} for the one address", network.trunc()),
        );
    }
    mapped(network.addr()).map_or(Ok(network), |v4| {
        wrong(
            format!("`{text}` is an IPv4 address in IPv6 clothes"),
            format!("write the IPv4 network, {v4}/..."),
        )
    })
}

fn mapped(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V6(v6) => v6.to_ipv4_mapped(),
        IpAddr::V4(_) => None,
    }
}

/// A network as it is best written: one address without `/32`.
fn shortest(net: Ipv4Net) -> String {
    if net.prefix_len() == 32 { net.addr().to_string() } else { net.to_string() }
}

fn bare_address(text: &str) -> Result<IpNet, BadNetwork> {
    let wrong = |message: String, cure: String| Err(BadNetwork::Wrong(message, cure));
    if let Ok(address) = text.parse::<IpAddr>() {
        return match mapped(address) {
            Some(v4) => wrong(format!("`{text}` is an IPv4 address in IPv6 clothes"), format!("write {v4}")),
            None => Ok(IpNet::from(address)),
        };
    }
    if let Some((bare, scope)) = text.split_once('%')
        && bare.parse::<IpAddr>().is_ok()
    {
        return wrong(
            format!("`{text}` names an interface behind `%`"),
            format!("write {bare}, and {scope} in a zone's `interfaces`"),
        );
    }
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    if bare != text && bare.parse::<IpAddr>().is_ok() {
        return wrong(format!("`{text}` has brackets around the address"), format!("write {bare}"));
    }
    if let Some((first, last)) = text.split_once('-')
        && let (Ok(first), Ok(last)) = (first.trim().parse::<Ipv4Addr>(), last.trim().parse::<Ipv4Addr>())
    {
        let networks: Vec<String> = Ipv4Subnets::new(first, last, 0).take(6).map(shortest).collect();
        let cure = match networks.as_slice() {
            [] => "write networks; and the first address must not be behind the last".to_owned(),
            some if some.len() < 6 => format!("write [{}]", some.join(", ")),
            _ => "write networks, as in 192.168.10.0/24".to_owned(),
        };
        return wrong(format!("`{text}` is a range of addresses"), cure);
    }
    if text.starts_with(|c: char| c.is_ascii_digit())
        && text.chars().all(|c| c.is_ascii_digit() || matches!(c, '.' | '*' | 'x'))
    {
        return wrong(
            format!("`{text}` is no address"),
            "write four numbers from 0 to 255, or a network like 192.168.10.0/24".to_owned(),
        );
    }
    if text.contains("::") || text.matches(':').count() > 2 {
        return wrong(
            format!("`{text}` is no IPv6 address"),
            "write it like 2001:db8::1, without port or brackets".to_owned(),
        );
    }
    Err(BadNetwork::Other)
}

/// Reads one network of a list or zone.
fn networks_of(node: &Node, out: &mut Vec<IpNet>, report: &mut Report) {
    let Some(text) = reader::text(node, "a network", report) else { return };
    match network(text.trim()) {
        Ok(network) => out.push(network),
        Err(bad) => {
            let (message, cure) = explain(bad, text);
            report.error(node.place, message, cure);
        }
    }
}

fn explain(bad: BadNetwork, text: &str) -> (String, String) {
    match bad {
        BadNetwork::Wrong(message, cure) => (message, cure),
        BadNetwork::Other if looks_like_hostname(text) => (
            format!("`{text}` is a hostname, and lists hold addresses"),
            "write its address: a firewall must not depend on what DNS says today".to_owned(),
        ),
        BadNetwork::Other => (
            format!("`{text}` is no network"),
            "write an address or a network, as in 203.0.113.0/24".to_owned(),
        ),
    }
}

/// The networks of one list, written there or in a file.
fn list(
    node: &Node,
    read: &mut dyn FnMut(&str) -> Result<String, String>,
    report: &mut Report,
) -> Vec<IpNet> {
    let mut out = Vec::new();
    if matches!(node.kind, Kind::Map(_)) {
        let Some(fields) = Fields::of(node, &schema::LIST, report) else { return out };
        let Some(node) = fields.need("file", "write `{ file: lists/blocked.txt }`", report) else {
            return out;
        };
        let Some(path) = reader::text(node, "file", report) else { return out };
        if path.is_empty() {
            report.error(node.place, "the file's name is empty", "name a file beside the rule file");
            return out;
        }
        match read(path) {
            Ok(text) => list_file(path, &text, &mut out, report),
            Err(reason) => {
                report.error(
                    node.place,
                    format!("can't read `{path}`: {reason}"),
                    "names are taken from the rule file's directory; an empty file is fine",
                );
            }
        }
        return out;
    }
    for node in reader::one_or_more(node) {
        if !matches!(node.kind, Kind::Null) {
            networks_of(node, &mut out, report);
        }
    }
    out
}

/// One network a line; `#` and `;` begin comments.
fn list_file(path: &str, text: &str, out: &mut Vec<IpNet>, report: &mut Report) {
    let file: Arc<str> = path.into();
    let mut wrong = 0_usize;
    for (line, written) in (1_usize..).zip(text.strip_prefix('\u{feff}').unwrap_or(text).lines()) {
        let entry = written.split(['#', ';']).next().unwrap_or("").trim();
        if entry.is_empty() {
            continue;
        }
        if out.len() >= MAX_NETWORKS {
            report.error_in(
                &file,
                Place { line, ..START },
                format!("more than {MAX_NETWORKS} networks"),
                "join networks, or make a second list",
            );
            return;
        }
        match network(entry) {
            Ok(network) => out.push(network),
            Err(bad) => {
                wrong = wrong.saturating_add(1);
                let (message, cure) = explain(bad, entry);
                let indent = written.len().saturating_sub(written.trim_start().len());
                let place = Place { line, column: indent.saturating_add(1) };
                if wrong <= ERRORS_PER_FILE {
                    report.error_in(&file, place, message, cure);
                }
            }
        }
    }
    if wrong > ERRORS_PER_FILE {
        let more = wrong.saturating_sub(ERRORS_PER_FILE);
        let last = Place { line: text.lines().count().max(1), ..START };
        report.error_in(
            &file,
            last,
            format!("{more} more lines are wrong"),
            "one network a line; `#` begins a comment",
        );
    }
}
