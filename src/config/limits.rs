//! The limits, the rule set's and a rule's own.

use std::{sync::Arc, time::Duration};

use super::{
    hosts::Hosts,
    reader::{self, Context, Fields, Report, choice},
    schema, words,
    yaml::{Kind, Node, Place},
};
use crate::policy::{
    EmbryonicLimits, Limit, NetworkSet, OnExcess, OpenLimits, OwnPrefix, Rule, Settings, Term, duration,
    limits::NO_COOKIES_PER_SOURCE,
};

/// Reads `limits:`.
pub(super) fn limits(node: &Node, report: &mut Report) -> EmbryonicLimits {
    let mut limits = EmbryonicLimits::default();
    let Some(fields) = Fields::of(node, &schema::LIMITS, report) else { return limits };
    let prefix = fields.get("source_prefix");
    if prefix.is_none() && fields.get("connections").is_none() && !fields.is_meant("source_prefix") {
        fields.need("embryonic", &format!("write it like `{}`", schema::LIMITS.example), report);
    }
    if let Some(node) = fields.get("embryonic") {
        limits = embryonic(node, report);
    }
    limits.source_prefix = prefix.map(|node| source_prefix(node, report)).unwrap_or_default();
    limits
}

fn embryonic(node: &Node, report: &mut Report) -> EmbryonicLimits {
    let mut limits = EmbryonicLimits::default();
    let Some(fields) = Fields::of(node, &schema::EMBRYONIC, report) else { return limits };
    limits.total = count(&fields, "total", Limit::Total, report);
    limits.per_source = count(&fields, "per_source", Limit::PerSource, report);
    limits.per_destination = count(&fields, "per_destination", Limit::PerDestination, report);
    if let Some(node) = fields.get("on_excess") {
        let choices = [
            ("drop", OnExcess::Drop),
            ("reset", OnExcess::Reset),
            ("evict", OnExcess::Evict),
            ("challenge", OnExcess::Challenge),
            ("syncookies", OnExcess::Syncookies),
        ];
        let foreign = [
            ("syn_cookies", "syncookies"),
            ("syncookie", "syncookies"),
            ("synproxy", "syncookies"),
            ("cookies", "syncookies"),
        ];
        let foreign: Vec<_> = words::ACTIONS.iter().copied().chain(foreign).collect();
        limits.on_excess = choice(node, "on_excess", &choices, &foreign, &[], report);
    }
    if let Some(node) = fields.get("calm") {
        limits.calm = calm(node, report);
    }
    if let Some(node) = fields.get("per_source").filter(|_| limits.on_excess == Some(OnExcess::Syncookies)) {
        no_cookies_per_source(node.place, report);
    }
    if let Some(node) = fields.get("shadow") {
        limits.shadow = reader::boolean(node, "shadow", report).unwrap_or(false);
    }
    let has_limit = Limit::ALL.into_iter().any(|limit| limits.value(limit).is_some());
    if limits.shadow && !has_limit {
        report.warning(
            node.place,
            "`shadow` without a limit does nothing",
            "give total, per_source or per_destination",
        );
    }
    limits
}

/// How long it may have to be calm.
const CALMS: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(24 * 3600);

fn calm(node: &Node, report: &mut Report) -> Option<Duration> {
    let time = reader::duration(node, "calm", report)?;
    if CALMS.contains(&time) {
        return Some(time);
    }
    report.error(
        node.place,
        format!("a calm of {} is out of range", duration::text(time)),
        "write one from 1s to 1d",
    );
    None
}

/// Looks for rules whose limit per source would inherit SYN cookies, and for cookies where
/// no packet is forwarded.
pub(super) fn check_cookies<'a>(
    settings: &Settings,
    place: Option<Place>,
    rules: impl Iterator<Item = (&'a Rule, Place)>,
    report: &mut Report,
) {
    let inherited = settings.limits.on_excess;
    let mut cookies = place.filter(|_| inherited == Some(OnExcess::Syncookies));
    for (rule, place) in rules {
        report.enter(Context::Rule(rule.name.to_string()));
        let own = rule.limits.on_excess;
        if rule.limits.per_source.is_some()
            && own.or(inherited) == Some(OnExcess::Syncookies)
            && own.is_none()
        {
            no_cookies_per_source(place, report);
        }
        cookies = cookies.or((own == Some(OnExcess::Syncookies)).then_some(place));
    }
    report.enter(Context::File);
    if let Some(place) = cookies.filter(|_| !settings.hooks.forward) {
        report.warning(
            place,
            "`on_excess: syncookies` needs the hook forward: what goes to the gateway itself is challenged instead",
            "add forward to `hooks`, or write `on_excess: challenge`",
        );
    }
}

/// The kernel answers for a destination: cookies for the SYNs of one source can't be had.
fn no_cookies_per_source(place: Place, report: &mut Report) {
    report.error(
        place,
        NO_COOKIES_PER_SOURCE,
        "put per_source into another `limits:` with on_excess drop, reset, evict or challenge (the rule set's or the rule's), or write `on_excess: challenge`",
    );
}

/// How long a source may be blocked.
const BLOCKS: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(7 * 24 * 3600);

/// Reads `connections:` of `limits:`, whose other keys [`limits`] reads.
pub(super) fn open(limits: &Node, hosts: &Hosts, report: &mut Report) -> OpenLimits {
    let mut open = OpenLimits::default();
    let Kind::Map(map) = &limits.kind else { return open };
    let is_ours = |key: &Node| matches!(&key.kind, Kind::Text(text) if text == "connections");
    let Some((_, node)) = map.iter().find(|(key, _)| is_ours(key)) else { return open };
    let Some(fields) = Fields::of(node, &schema::OPEN, report) else { return open };
    open.total = count(&fields, "total", Limit::OpenTotal, report);
    open.per_source = count(&fields, "per_source", Limit::OpenPerSource, report);
    open.per_destination = count(&fields, "per_destination", Limit::OpenPerDestination, report);
    if let Some(node) = fields.get("on_excess") {
        let choices = [("drop", OnExcess::Drop), ("reset", OnExcess::Reset)];
        let foreign = [
            ("evict", "drop"),
            ("challenge", "drop"),
            ("syncookies", "drop"),
            ("block", "drop, and `block: 10m`"),
        ];
        let foreign: Vec<_> = words::ACTIONS.iter().copied().chain(foreign).collect();
        open.on_excess = choice(node, "on_excess", &choices, &foreign, &[], report);
    }
    open.shadow =
        fields.get("shadow").and_then(|node| reader::boolean(node, "shadow", report)).unwrap_or(false);
    if let Some(node) = fields.get("block") {
        open.block = block(node, report);
        if open.per_source.is_none() {
            report.warning(
                node.place,
                "`block` without `per_source` blocks nobody: of those who pass another limit, the last is not to blame",
                "give it `per_source`, in the file or live",
            );
        }
    }
    if let Some(node) = fields.get("allow") {
        open.allow = allow(node, hosts, report);
        if fields.get("block").is_none() {
            report.warning(
                node.place,
                "`allow` names who is never blocked, and without `block` nobody is",
                "write `block: 10m`, or remove it",
            );
        }
    }
    let has_limit = [open.total, open.per_source, open.per_destination].iter().any(Option::is_some);
    if open.shadow && !has_limit {
        report.warning(
            node.place,
            "`shadow` without a limit does nothing",
            "give total, per_source or per_destination",
        );
    }
    open
}

fn block(node: &Node, report: &mut Report) -> Option<Duration> {
    let time = reader::duration(node, "block", report)?;
    if BLOCKS.contains(&time) {
        return Some(time);
    }
    report.error(
        node.place,
        format!("a block of {} is out of range", duration::text(time)),
        "write one from 1s to 7d; a rule with `action: drop` blocks for ever",
    );
    None
}

fn allow(node: &Node, hosts: &Hosts, report: &mut Report) -> Vec<Arc<NetworkSet>> {
    let Some(selector) = hosts.selector(node, "allow", report) else { return Vec::new() };
    let networks: Vec<_> = selector
        .any_of
        .iter()
        .filter_map(
            |term| if let Term::Networks(networks) = term { Some(Arc::clone(networks)) } else { None },
        )
        .collect();
    if networks.len() != selector.any_of.len() || !selector.none_of.is_empty() || networks.is_empty() {
        report.error(
            node.place,
            "`allow` takes lists, addresses and networks only: a block holds wherever its source's packets come in",
            "write it like `allow: partners` or `allow: [partners, 192.0.2.0/24]`",
        );
        return Vec::new();
    }
    networks
}

/// A limit, which must let somebody in.
fn count(fields: &Fields<'_>, key: &'static str, limit: Limit, report: &mut Report) -> Option<u32> {
    let node = fields.get(key)?;
    if matches!(&node.kind, Kind::Text(text) if text == "0") {
        report.error(
            node.place,
            format!("{limit}: a limit of 0 would refuse every new connection"),
            "leave it out for no limit, or write a rule with `action: drop`",
        );
        return None;
    }
    reader::number(node, key, 1..=u32::MAX, report)
}

/// Reads `source_prefix:`, a number or `{ ipv4: 24, ipv6: 56 }`. An IPv4 prefix ends at
/// 32, so a number above it is of IPv6.
fn source_prefix(node: &Node, report: &mut Report) -> OwnPrefix {
    if let Kind::Map(_) = node.kind {
        let Some(fields) = Fields::of(node, &schema::SOURCE_PREFIX, report) else {
            return OwnPrefix::default();
        };
        let mut length = |key: &'static str, most: u8| {
            prefix_length(fields.get(key)?, &format!("source_prefix of {key}"), most, report)
        };
        return OwnPrefix { ipv4: length("ipv4", 32), ipv6: length("ipv6", 128) };
    }
    match prefix_length(node, "source_prefix", 128, report) {
        Some(ipv4 @ ..=32) => OwnPrefix { ipv4: Some(ipv4), ipv6: None },
        ipv6 => OwnPrefix { ipv4: None, ipv6 },
    }
}

fn prefix_length(node: &Node, title: &str, most: u8, report: &mut Report) -> Option<u8> {
    let text = reader::text(node, title, report)?;
    match text.strip_prefix('/').unwrap_or(text).parse::<u8>() {
        Ok(0) => {
            report.error(
                node.place,
                format!("{title} can't be 0: all sources would be one"),
                "write `total` for a limit on all of them",
            );
            None
        }
        Ok(length) if length <= most => Some(length),
        _ => {
            report.error(
                node.place,
                format!("{title} must be a length from 1 to {most}, and `{text}` is not"),
                if most == 32 {
                    "write it like `{ ipv4: 24 }`"
                } else {
                    "write it like `24`, `56` or `{ ipv4: 24, ipv6: 56 }`"
                },
            );
            None
        }
    }
}
