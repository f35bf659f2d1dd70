//! The limits, the rule set's and a rule's own.

use super::{
    reader::{self, Fields, Report, choice},
    schema, words,
    yaml::{Kind, Node},
};
use crate::policy::{EmbryonicLimits, Limit, OnExcess, OwnPrefix};

/// Reads `limits:`.
pub(super) fn limits(node: &Node, report: &mut Report) -> EmbryonicLimits {
    let mut limits = EmbryonicLimits::default();
    let Some(fields) = Fields::of(node, &schema::LIMITS, report) else { return limits };
    let prefix = fields.get("source_prefix");
    if prefix.is_none() && !fields.is_meant("source_prefix") {
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
    let mut count = |key: &'static str, limit: Limit| {
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
    };
    limits.total = count("total", Limit::Total);
    limits.per_source = count("per_source", Limit::PerSource);
    limits.per_destination = count("per_destination", Limit::PerDestination);
    if let Some(node) = fields.get("on_excess") {
        const LATER: &str = "write drop, reset, evict or challenge";
        let choices = [
            ("drop", OnExcess::Drop),
            ("reset", OnExcess::Reset),
            ("evict", OnExcess::Evict),
            ("challenge", OnExcess::Challenge),
        ];
        let later = [("syncookies", LATER), ("syn_cookies", LATER), ("syncookie", LATER)];
        limits.on_excess = choice(node, "on_excess", &choices, words::ACTIONS, &later, report);
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
