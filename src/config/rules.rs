//! The rules: raw -> compiled.

use std::{collections::HashMap, sync::Arc};

use super::{
    hosts::{Hosts, check_name},
    limits, reach,
    reader::{self, Context, Fields, Report},
    schema,
    services::Services,
    settings,
    yaml::{Kind, Node, Place},
};
use crate::{
    policy::{Action, EmbryonicLimits, Hooks, OpenLimits, Policy, Rule, RuleId, Selector, Service},
    wire::Protocol,
};

/// The most rules in one file.
const MAX_RULES: usize = 10_000;

/// A rule with the places of its parts.
pub(super) struct Placed {
    pub(super) rule: Rule,
    pub(super) place: Place,
    pub(super) from: Place,
    pub(super) to: Place,
    pub(super) service: Place,
}

/// The ids of rules by their names: those of the policy in force, then new ones.
struct Ids {
    names: Vec<Arc<str>>,
    by_name: HashMap<Arc<str>, RuleId>,
}

impl Ids {
    fn after(previous: Option<&Policy>) -> Self {
        let names = previous.map_or_else(|| vec![Arc::from("default")], |policy| policy.names.clone());
        let by_name = (0_u16..).zip(&names).map(|(id, name)| (Arc::clone(name), RuleId(id))).collect();
        Self { names, by_name }
    }

    fn of(&mut self, name: &str) -> Option<(RuleId, Arc<str>)> {
        if let Some((name, id)) = self.by_name.get_key_value(name) {
            return Some((*id, Arc::clone(name)));
        }
        // The last number stays free, so that it means no rule at all.
        let id = u16::try_from(self.names.len()).ok().filter(|id| *id < u16::MAX).map(RuleId)?;
        let name: Arc<str> = name.into();
        self.names.push(Arc::clone(&name));
        self.by_name.insert(Arc::clone(&name), id);
        Some((id, name))
    }
}

/// Reads `rules:` and looks for those that can never match by themselves. Returns
/// the enabled rules, and the names of all ids.
pub(super) fn read(
    node: Option<&Node>,
    hosts: &Hosts,
    services: &Services,
    hooks: Hooks,
    previous: Option<&Policy>,
    report: &mut Report,
) -> (Vec<Placed>, Vec<Arc<str>>) {
    let mut ids = Ids::after(previous);
    let mut enabled = Vec::new();
    let nodes = match node.map(|node| (&node.kind, node.place)) {
        Some((Kind::List(nodes), _)) => nodes.as_slice(),
        Some((_, place)) => {
            report.error(
                place,
                "`rules` must be a list",
                format!("write `- {}` below it", schema::RULE.example),
            );
            &[]
        }
        None => &[],
    };
    let mut lines: HashMap<&str, usize> = HashMap::new();
    for (number, node) in (1_usize..).zip(nodes) {
        if number > MAX_RULES {
            report.enter(Context::File);
            report.error(
                node.place,
                format!("more than {MAX_RULES} rules"),
                "use lists and several services in one rule",
            );
            break;
        }
        let name = name_of(node);
        report.enter(Context::Rule(name.map_or_else(|| format!("#{number}"), str::to_owned)));
        if let Some((name, first)) =
            name.and_then(|name| lines.insert(name, node.place.line).map(|first| (name, first)))
        {
            report.error(
                node.place,
                format!("the name `{name}` is used twice; the first is on line {first}"),
                "give one of them another name: timers, limits and logs go by it",
            );
        }
        let before = report.errors();
        let Some((placed, is_enabled)) = rule(node, hosts, services, &mut ids, report) else { continue };
        if is_enabled && report.errors() == before {
            reach::check_alone(&placed, hooks, &hosts.zones, report);
            enabled.push(placed);
        }
    }
    report.enter(Context::File);
    (enabled, ids.names)
}

/// Fast Open is TCP's.
fn check_fast_open(fields: &Fields<'_>, services: Option<&[Service]>, report: &mut Report) {
    let tcp = Service::Protocol(Protocol::TCP);
    let has_tcp =
        |services: &[Service]| services.is_empty() || services.iter().any(|service| tcp.covers(service));
    if let (Some(node), Some(services)) = (fields.get("fast_open"), services)
        && !has_tcp(services)
    {
        report.warning(
            node.place,
            "`fast_open` does nothing in a rule without TCP",
            "remove it, or name a service like tcp/443",
        );
    }
}

fn name_of(node: &Node) -> Option<&str> {
    let Kind::Map(map) = &node.kind else { return None };
    map.iter().find_map(|(key, value)| match (&key.kind, &value.kind) {
        (Kind::Text(key), Kind::Text(value)) if key == "name" && value.len() <= 200 => Some(value.as_str()),
        _ => None,
    })
}

fn rule(
    node: &Node,
    hosts: &Hosts,
    services: &Services,
    ids: &mut Ids,
    report: &mut Report,
) -> Option<(Placed, bool)> {
    let fields = Fields::of(node, &schema::RULE, report)?;
    let name = fields
        .need("name", "give the rule a name: timers, limits and logs go by it", report)
        .and_then(|node| Some((reader::text(node, "name", report)?, node.place)))
        .filter(|(name, place)| check_name(name, "a rule", *place, report));
    let action = fields
        .need("action", "write `action: accept`, `drop` or `reset`", report)
        .and_then(|node| settings::action(node, "action", report));
    let end = |key: &'static str, report: &mut Report| match fields.get(key) {
        Some(node) => (hosts.selector(node, key, report), node.place),
        None => (Some(Selector::default()), fields.place),
    };
    let (from, from_place) = end("from", report);
    let (to, to_place) = end("to", report);
    let (service, service_place): (Option<Vec<Service>>, Place) = match fields.get("service") {
        Some(node) => (services.services(node, "service", report), node.place),
        None => (Some(Vec::new()), fields.place),
    };
    let log = fields.get("log").and_then(|node| reader::boolean(node, "log", report)).unwrap_or(false);
    let is_enabled =
        fields.get("enabled").and_then(|node| reader::boolean(node, "enabled", report)).unwrap_or(true);
    let comment = fields.get("comment").and_then(|node| reader::text(node, "comment", report)).unwrap_or("");
    let timers = fields.get("timers").map_or_else(Vec::new, |node| settings::timers(node, report));
    let limits =
        fields.get("limits").map_or_else(EmbryonicLimits::default, |node| limits::limits(node, report));
    let open_limits =
        fields.get("limits").map_or_else(OpenLimits::default, |node| limits::open(node, hosts, report));
    let on_expire = fields.get("on_expire").and_then(|node| settings::on_expire(node, report));
    let pickup = fields.get("pickup").and_then(|node| settings::rule_pickup(node, report));
    let fast_open =
        fields.get("fast_open").and_then(|node| settings::fast_open(node, report)).unwrap_or_default();

    let inspect = fields.get("inspect").and_then(|node| settings::inspect(node, report)).unwrap_or_default();
    let evictable =
        fields.get("evictable").and_then(|node| reader::boolean(node, "evictable", report)).unwrap_or(false);
    check_fast_open(&fields, service.as_deref(), report);

    let action = action?;
    if action != Action::Accept {
        for key in ["timers", "limits", "on_expire", "pickup", "fast_open", "inspect", "evictable"] {
            if let Some(node) = fields.get(key) {
                report.warning(
                    node.place,
                    format!("`{key}` does nothing in a rule that lets nothing through"),
                    "remove it, or write `action: accept`",
                );
            }
        }
    }
    let (name, name_place) = name?;
    let Some((id, name)) = ids.of(name) else {
        report.error(
            name_place,
            "too many different rule names since the daemon started",
            "restart it: numbers of rules that are gone are free again then",
        );
        return None;
    };
    let rule = Rule {
        id,
        name,
        place: format!("{}:{}", report.file(), node.place.line).into(),
        comment: comment.into(),
        from: from?,
        to: to?,
        services: service?,
        action,
        log,
        timers,
        limits,
        on_expire,
        pickup,
        fast_open,
        inspect,
        evictable,
        open_limits,
    };
    Some((
        Placed { rule, place: node.place, from: from_place, to: to_place, service: service_place },
        is_enabled,
    ))
}
