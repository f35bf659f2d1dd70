//! What others' rules do on our hooks: halfgate's accept is not the last word
//! where another base chain drops.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::{
    NAME, TableError, rules, run,
    xtables::{self, Family},
};
use crate::policy::{Hook, Hooks};

/// Base chains of others on our hooks whose policy or rules drop, or take packets
/// past us: one sentence each, for `status`.
///
/// # Errors
/// If nft can't be asked.
pub fn foreign_drops(hooks: Hooks) -> Result<Vec<String>, TableError> {
    let ruleset = run::nft_list(&["ruleset"], "nft -j list ruleset")?;
    let mut sentences = sentences(&nft_chains(&ruleset), hooks);
    for family in Family::ALL {
        if xtables::legacy_tables(family).is_empty() {
            continue;
        }
        let Some(save) = run::find(&format!("{}-legacy-save", family.tool())) else { continue };
        sentences.extend(self::sentences(&legacy_chains(family.nft(), &run::run(&save, &[], "")?), hooks));
    }
    Ok(sentences)
}

/// Where a chain is.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Place {
    family: String,
    table: String,
    chain: String,
}

/// What matters of a chain.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Chain {
    /// For a base chain on one of our hooks.
    base: Option<(Hook, i64)>,
    policy_drops: bool,
    rules_drop: bool,
    /// A rule hands connections to a flowtable.
    offloads: bool,
    /// In nftables, but made by iptables.
    iptables_nft: bool,
    legacy: bool,
    jumps: Vec<String>,
}

/// Chains in the order of their listing.
#[derive(Debug, Default)]
struct Chains {
    order: Vec<Place>,
    all: HashMap<Place, Chain>,
}

impl Chains {
    fn at(&mut self, place: Place) -> &mut Chain {
        if !self.all.contains_key(&place) {
            self.order.push(place.clone());
        }
        self.all.entry(place).or_default()
    }

    /// A chain and all that it can reach.
    fn reach(&self, from: &Place) -> Vec<(&Place, &Chain)> {
        let mut seen = HashSet::new();
        let mut waiting = vec![from.clone()];
        let mut reached = Vec::new();
        while let Some(place) = waiting.pop() {
            let Some((place, chain)) = self.all.get_key_value(&place) else { continue };
            if !seen.insert(place) {
                continue;
            }
            reached.push((place, chain));
            waiting.extend(chain.jumps.iter().map(|jump| Place { chain: jump.clone(), ..place.clone() }));
        }
        reached
    }
}

fn hook_named(name: &str) -> Option<Hook> {
    [Hook::Forward, Hook::Input, Hook::Output]
        .into_iter()
        .find(|hook| rules::name(*hook).eq_ignore_ascii_case(name))
}

fn nft_chains(ruleset: &[Value]) -> Chains {
    let mut chains = Chains::default();
    let text = |body: &Value, key: &str| body.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    for (kind, body) in ruleset.iter().filter_map(Value::as_object).flatten() {
        let chain = match kind.as_str() {
            "chain" => text(body, "name"),
            "rule" => text(body, "chain"),
            _ => continue,
        };
        let place = Place { family: text(body, "family"), table: text(body, "table"), chain };
        let routed = ["inet", "ip", "ip6"].contains(&place.family.as_str());
        if !routed || (place.family == "inet" && place.table == NAME) {
            continue;
        }
        let chain = chains.at(place);
        if kind == "chain" {
            let priority = body.get("prio").and_then(Value::as_i64).unwrap_or_default();
            chain.base = hook_named(&text(body, "hook")).map(|hook| (hook, priority));
            chain.policy_drops = text(body, "policy") == "drop";
        } else if let Some(statements) = body.get("expr") {
            read_statements(statements, chain);
        }
    }
    chains
}

/// Looks for verdicts at any depth: they also stand in verdict maps.
fn read_statements(value: &Value, chain: &mut Chain) {
    match value {
        Value::Array(values) => values.iter().for_each(|value| read_statements(value, chain)),
        Value::Object(object) => {
            for (key, inner) in object {
                match key.as_str() {
                    "drop" | "reject" => chain.rules_drop = true,
                    "flow" => chain.offloads = true,
                    "jump" | "goto" => {
                        chain.jumps.extend(inner.get("target").and_then(Value::as_str).map(str::to_owned));
                    }
                    "xt" => {
                        chain.iptables_nft = true;
                        let name = inner.get("name").and_then(Value::as_str).unwrap_or_default();
                        chain.rules_drop |= ["DROP", "REJECT"].contains(&name);
                    }
                    _ => read_statements(inner, chain),
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Reads what iptables-legacy-save prints.
fn legacy_chains(family: &str, saved: &str) -> Chains {
    let mut chains = Chains::default();
    let mut table = "";
    for line in saved.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let place = |chain: &str| Place {
            family: family.to_owned(),
            table: table.to_owned(),
            chain: chain.to_owned(),
        };
        if let Some(name) = line.strip_prefix('*') {
            table = name;
        } else if let (Some(name), Some(policy)) = (line.strip_prefix(':'), words.get(1)) {
            let priority = match table {
                "raw" => -300,
                "mangle" => -150,
                "security" => 50,
                _ => 0,
            };
            let chain = chains.at(place(name.split_whitespace().next().unwrap_or_default()));
            chain.base = (*policy != "-")
                .then(|| hook_named(words[0].trim_start_matches(':')))
                .flatten()
                .map(|hook| (hook, priority));
            chain.policy_drops = *policy == "DROP";
            chain.legacy = true;
        } else if let ["-A", name, ..] = words.as_slice() {
            let target = words.windows(2).find(|pair| ["-j", "-g"].contains(&pair[0])).map(|pair| pair[1]);
            let chain = chains.at(place(name));
            match target {
                Some("DROP" | "REJECT") => chain.rules_drop = true,
                Some("FLOWOFFLOAD") => chain.offloads = true,
                Some(other) => chain.jumps.push(other.to_owned()),
                None => {}
            }
        }
    }
    chains
}

fn sentences(chains: &Chains, hooks: Hooks) -> Vec<String> {
    let mut sentences = Vec::new();
    for place in &chains.order {
        let Some(chain) = chains.all.get(place) else { continue };
        let Some((hook, priority)) = chain.base else { continue };
        if !rules::on(hooks).any(|(on, _)| on == hook) {
            continue;
        }
        let reach = chains.reach(place);
        let rules_drop = reach.iter().any(|(_, chain)| chain.rules_drop);
        let what = match (chain.policy_drops, rules_drop) {
            (true, _) => "drops by its policy what none of its rules accepts",
            (false, true) => "has rules that drop or reject",
            (false, false) => "",
        };
        let who = owner(place, chain, &reach).map(|owner| format!(", {owner}")).unwrap_or_default();
        let name = format!(
            "{} {} {} (hook {}, priority {priority}{who})",
            place.family,
            place.table,
            place.chain,
            rules::name(hook)
        );
        if !what.is_empty() {
            sentences.push(format!("{name} {what}: what halfgate accepts must be let through there too"));
        }
        if reach.iter().any(|(_, chain)| chain.offloads) {
            sentences.push(format!(
                "{name} offloads connections to a flowtable: their packets pass halfgate by; remove that rule"
            ));
        }
    }
    sentences
}

/// Who manages a chain, as far as names tell.
fn owner(place: &Place, chain: &Chain, reach: &[(&Place, &Chain)]) -> Option<&'static str> {
    let named = |start: &str| reach.iter().any(|(place, _)| place.chain.starts_with(start));
    let by_iptables = place.chain.chars().all(|letter| letter.is_ascii_uppercase())
        || reach.iter().any(|(_, chain)| chain.iptables_nft);
    if place.table == "firewalld" {
        Some("made by firewalld")
    } else if named("ufw") {
        Some("made by ufw")
    } else if named("DOCKER") {
        Some("made by docker")
    } else if named("LIBVIRT") || place.table == "libvirt_network" {
        Some("made by libvirt")
    } else if chain.legacy {
        Some("made by iptables-legacy")
    } else if by_iptables && ["ip", "ip6"].contains(&place.family.as_str()) {
        Some("made by iptables")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORWARD: Hooks = Hooks { forward: true, input: false, output: false };
    const ALL: Hooks = Hooks { forward: true, input: true, output: true };

    #[test]
    fn a_saved_legacy_table_is_read() {
        let saved = "# Generated\n*filter\n:INPUT ACCEPT [0:0]\n:FORWARD DROP [5:300]\n:OUTPUT ACCEPT [0:0]\n:ufw-user - [0:0]\n-A INPUT -p tcp -j ufw-user\n-A ufw-user -s 10.0.0.0/8 -j REJECT --reject-with icmp-port-unreachable\nCOMMIT\n";
        let chains = legacy_chains("ip", saved);
        assert_eq!(
            sentences(&chains, ALL),
            [
                "ip filter INPUT (hook input, priority 0, made by ufw) has rules that drop or reject: what halfgate accepts must be let through there too",
                "ip filter FORWARD (hook forward, priority 0, made by iptables-legacy) drops by its policy what none of its rules accepts: what halfgate accepts must be let through there too",
            ]
        );
        assert_eq!(sentences(&chains, FORWARD).len(), 1);
    }

    #[test]
    fn drops_are_found_through_jumps_and_verdict_maps_and_loops_end() {
        let ruleset = serde_json::json!([
            {"metainfo": {"version": "1.0.6"}},
            {"chain": {"family": "inet", "table": "t", "name": "f", "type": "filter", "hook": "forward", "prio": 5, "policy": "accept"}},
            {"chain": {"family": "inet", "table": "t", "name": "a"}},
            {"chain": {"family": "inet", "table": "t", "name": "b"}},
            {"rule": {"family": "inet", "table": "t", "chain": "f", "expr": [{"vmap": {"key": 1, "data": {"set": [[1, {"jump": {"target": "a"}}]]}}}]}},
            {"rule": {"family": "inet", "table": "t", "chain": "a", "expr": [{"goto": {"target": "b"}}]}},
            {"rule": {"family": "inet", "table": "t", "chain": "b", "expr": [{"jump": {"target": "a"}}]}},
            {"rule": {"family": "inet", "table": "t", "chain": "b", "expr": [{"vmap": {"key": 1, "data": {"set": [[1, {"drop": null}]]}}}]}},
        ]);
        let ruleset = ruleset.as_array().expect("a list");
        let found = sentences(&nft_chains(ruleset), ALL);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("inet t f (hook forward, priority 5) has rules that drop"), "{found:?}");
        let harmless = sentences(&nft_chains(&ruleset[..7]), ALL);
        assert!(harmless.is_empty(), "{harmless:?}");
    }

    #[test]
    fn our_own_table_and_other_hooks_are_not_foreign() {
        let ruleset = serde_json::json!([
            {"chain": {"family": "inet", "table": "halfgate", "name": "static_forward", "hook": "forward", "prio": -160, "policy": "drop"}},
            {"chain": {"family": "inet", "table": "x", "name": "in", "hook": "input", "prio": 0, "policy": "drop"}},
            {"chain": {"family": "bridge", "table": "x", "name": "f", "hook": "forward", "prio": 0, "policy": "drop"}},
        ]);
        let found = sentences(&nft_chains(ruleset.as_array().expect("a list")), FORWARD);
        assert!(found.is_empty(), "{found:?}");
    }

    #[test]
    fn an_offload_is_told() {
        let ruleset = serde_json::json!([
            {"chain": {"family": "inet", "table": "x", "name": "f", "hook": "forward", "prio": 0, "policy": "accept"}},
            {"rule": {"family": "inet", "table": "x", "chain": "f", "expr": [{"flow": {"op": "add", "flowtable": "@ft"}}]}},
        ]);
        let found = sentences(&nft_chains(ruleset.as_array().expect("a list")), FORWARD);
        assert!(found.len() == 1 && found[0].contains("flowtable"), "{found:?}");
    }
}
