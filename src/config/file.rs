//! The whole file: its parts in the order in which they need each other.

use super::{
    hosts::Hosts,
    limits, reach,
    reader::{Fields, Report},
    rules, schema,
    services::Services,
    settings,
    tests::{self, RuleTest},
    yaml::Node,
};
use crate::policy::{Policy, RuleId};

/// Compiles the file; errors go to `report`, and the result counts only if
/// there were none.
pub(super) fn compile(
    node: &Node,
    read: &mut dyn FnMut(&str) -> Result<String, String>,
    previous: Option<&Policy>,
    report: &mut Report,
) -> Option<(Policy, Vec<RuleTest>)> {
    let fields = Fields::of(node, &schema::FILE, report)?;
    let mut settings = settings::read(&fields, report);
    let hosts = Hosts::read(fields.get("zones"), fields.get("lists"), read, report);
    if let Some(node) = fields.get("limits") {
        settings.open_limits = limits::open(node, &hosts, report);
    }
    let services = Services::read(fields.get("services"), report);
    if fields.get("rules").is_none() {
        report.warning(
            fields.place,
            format!("there are no rules, so every new connection meets `default: {}`", settings.default),
            "write `rules:` with a list below it",
        );
    }
    let (placed, names) =
        rules::read(fields.get("rules"), &hosts, &services, settings.hooks, previous, report);
    let rules = placed.iter().map(|placed| (&placed.rule, placed.place));
    limits::check_cookies(&settings, fields.get("limits").map(|node| node.place), rules, report);
    let tests = fields.get("tests").map_or_else(Vec::new, |node| tests::read(node, report));
    let (rules, places): (Vec<_>, Vec<_>) =
        placed.into_iter().map(|placed| (placed.rule, placed.place)).unzip();
    debug_assert!(rules.iter().all(|rule| rule.id != RuleId::DEFAULT), "`default` can't be a rule's name");
    let policy = Policy::new(settings, hosts.zones, rules, names);
    if policy.is_too_large() {
        report.error(
            fields.place,
            "the rules name so many different networks and services together that looking them up would take more \
             than 1 GiB of memory",
            "use fewer and larger lists, and ranges of ports",
        );
        return None;
    }
    reach::check_order(&policy, &places, report);
    Some((policy, tests))
}
