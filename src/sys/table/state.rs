//! What of ours is in the kernel now.

use std::{collections::BTreeMap, fmt};

use serde_json::Value;

use super::{
    Diversion, NAME, TableError, TableSpec, rules, run,
    xtables::{self, Family},
};
use crate::policy::Fail;

/// What of halfgate's is in the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TableState {
    /// No table.
    Absent,
    /// The static form: no daemon is asked.
    Static {
        /// What it does with packets.
        fail: Fail,
    },
    /// The live form: packets go to a daemon.
    Live {
        /// How.
        diversion: Diversion,
        /// Whether its chains have rules and the diverting rules in xtables are all
        /// there. `false`: somebody removed some of ours (a restored iptables file
        /// does that) and packets are not inspected; installing again mends it.
        /// [`inspect`] looks closer.
        intact: bool,
    },
}

/// What of halfgate's is in the kernel.
///
/// # Errors
/// If nft can't be asked, or privileges are missing.
pub fn state() -> Result<TableState, TableError> {
    let Some(objects) = ours()? else { return Ok(TableState::Absent) };
    let chains: Vec<&Value> = objects.iter().filter_map(|object| object.get("chain")).collect();
    let of_kind =
        |kind: &str| chains.iter().copied().filter(|chain| chain_name(chain).starts_with(kind)).count();
    let hooks = of_kind("divert_");
    if hooks == 0 {
        let drops = chains.iter().any(|chain| chain.get("policy").is_some_and(|policy| policy == "drop"));
        return Ok(TableState::Static { fail: if drops { Fail::Closed } else { Fail::Open } });
    }
    let rules = rules_by_chain(objects.iter());
    let of_hooks = |chain: &str| chain.starts_with("divert_") || chain.starts_with("inspected_");
    let is_empty = rules.iter().any(|(chain, rules)| of_hooks(chain) && *rules == 0);
    let mut intact = of_kind("inspected_") == hooks && !is_empty;
    let queues = objects.iter().filter_map(|object| object.get("rule")?.get("expr")?.as_array()).flatten();
    if queues.filter(|statement| statement.get("queue").is_some()).count() > 0 {
        return Ok(TableState::Live { diversion: Diversion::Native, intact });
    }
    for family in Family::ALL.into_iter().filter(|family| family.in_kernel()) {
        // One rule for SYNs of proven sources, one for other SYNs and one for the rest.
        intact &= xtables::count(family)? == hooks + 3;
    }
    Ok(TableState::Live { diversion: Diversion::Xtables, intact })
}

/// What the table counted since it was loaded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Packets that were dropped because nobody had judged them.
    pub missed: u64,
    /// Packets that the kernel refused for us, with RST or ICMP.
    pub refused: u64,
    /// Packets of blocked sources that the kernel dropped.
    pub blocked: u64,
    /// RSTs that answered SYN cookies nobody had asked for, and were too many.
    pub stray_rsts: u64,
}

/// What of the live table somebody else took away. Installing again mends it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Damage {
    /// All of it.
    Absent,
    /// It is the static form.
    Static,
    /// Chains or rules of it.
    Rules,
    /// The diverting rules in xtables' `mangle`.
    Xtables,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Absent => "the table inet halfgate is gone",
            Self::Static => "the table inet halfgate is its static form",
            Self::Rules => "rules of the table inet halfgate are gone",
            Self::Xtables => "halfgate's rules in the table mangle are gone",
        })
    }
}

/// Whether the live table is as [`super::install`] made it, and what it counted.
///
/// # Errors
/// If nft or iptables can't be asked, or privileges are missing.
pub fn inspect(spec: &TableSpec, diversion: Diversion) -> Result<(Option<Damage>, Counts), TableError> {
    let Some(objects) = ours()? else { return Ok((Some(Damage::Absent), Counts::default())) };
    let counts = counts(&objects);
    let expected = rules::live(spec, diversion, &Notes::default())?;
    let expected = expected.get("nftables").and_then(Value::as_array).into_iter().flatten();
    let expected = rules_by_chain(expected.filter_map(|command| command.get("add")));
    let present = rules_by_chain(objects.iter());
    let damage = if !present.keys().any(|chain| chain.starts_with("divert_")) {
        Some(Damage::Static)
    } else if expected.iter().any(|(chain, rules)| present.get(chain) != Some(rules)) {
        Some(Damage::Rules)
    } else if diversion == Diversion::Xtables && !xtables::complete(spec)? {
        Some(Damage::Xtables)
    } else {
        None
    };
    Ok((damage, counts))
}

/// How many rules each chain has. What they say is not compared: nft says it in
/// other words than it was told.
fn rules_by_chain<'a>(objects: impl Iterator<Item = &'a Value>) -> BTreeMap<String, usize> {
    let mut chains = BTreeMap::new();
    for object in objects {
        if let Some(chain) = object.get("chain") {
            chains.entry(chain_name(chain).to_owned()).or_default();
        } else if let Some(chain) = object.get("rule").and_then(|rule| rule.get("chain")?.as_str()) {
            *chains.entry(chain.to_owned()).or_default() += 1;
        }
    }
    chains
}

fn counts(objects: &[Value]) -> Counts {
    let mut counts = Counts::default();
    for rule in objects.iter().filter_map(|object| object.get("rule")) {
        let chain = rule.get("chain").and_then(Value::as_str).unwrap_or_default();
        let statements = rule.get("expr").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let packets = |statement: &Value| statement.get("counter")?.get("packets")?.as_u64();
        let packets: u64 = statements.iter().filter_map(packets).sum();
        let drops = statements.iter().any(|statement| statement.get("drop").is_some());
        if chain.starts_with("divert_") && drops {
            let is_limited = statements.iter().any(|statement| statement.get("limit").is_some());
            let count = if is_limited { &mut counts.stray_rsts } else { &mut counts.blocked };
            *count += packets;
        }
        if !chain.starts_with("inspected_") {
            continue;
        }
        if drops {
            counts.missed += packets;
        } else if statements.iter().any(|statement| statement.get("reject").is_some()) {
            counts.refused += packets;
        }
    }
    counts
}

fn chain_name(chain: &Value) -> &str {
    chain.get("name").and_then(Value::as_str).unwrap_or_default()
}

/// The objects of our table; `None` if there is no table.
fn ours() -> Result<Option<Vec<Value>>, TableError> {
    if !has_table("inet", NAME)? {
        return Ok(None);
    }
    run::nft_list(&["table", "inet", NAME], "nft -j list table inet halfgate").map(Some)
}

/// Whether a table exists.
pub(super) fn has_table(family: &str, name: &str) -> Result<bool, TableError> {
    let tables = run::nft_list(&["tables"], "nft -j list tables")?;
    Ok(tables.iter().filter_map(|object| object.get("table")).any(|table| is(table, family, name)))
}

fn is(table: &Value, family: &str, name: &str) -> bool {
    table.get("family").is_some_and(|word| word == family)
        && table.get("name").is_some_and(|word| word == name)
}

/// Chains and tables of iptables-nft that came into being with our rules. They
/// are noted in our own table, as empty chains, so that whoever removes our
/// rules, even after a crash, knows what to take along.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Notes {
    made: Vec<(String, String)>,
}

/// The word for a whole table in a note.
const WHOLE: &str = "mangle";

impl Notes {
    /// Names of the noting chains.
    pub(super) fn chains(&self) -> Vec<String> {
        self.made.iter().map(|(family, what)| format!("made_{family}_{what}")).collect()
    }

    /// Base chains that we made in a family's `mangle`.
    pub(super) fn made_in(&self, family: &str) -> Vec<&str> {
        let made = self.made.iter().filter(|(of, what)| of == family && what != WHOLE);
        made.map(|(_, what)| what.as_str()).collect()
    }

    /// Whether we made a family's `mangle`.
    pub(super) fn made_table(&self, family: &str) -> bool {
        self.made.iter().any(|(of, what)| of == family && what == WHOLE)
    }

    /// Notes what is not there yet, before rules are added to these chains.
    pub(super) fn before<'a>(
        &mut self,
        family: &str,
        chains: impl Iterator<Item = &'a str>,
    ) -> Result<(), TableError> {
        let mut chains: Vec<&str> = chains.collect();
        chains.dedup();
        if chains.is_empty() {
            return Ok(());
        }
        let ruleset = run::nft_list(&["chains"], "nft -j list chains")?;
        let exists = |chain: &str| {
            ruleset.iter().filter_map(|object| object.get("chain")).any(|body| {
                body.get("family").is_some_and(|word| word == family)
                    && body.get("table").is_some_and(|word| word == "mangle")
                    && chain_name(body) == chain
            })
        };
        let mut note = |what: &str| {
            let entry = (family.to_owned(), what.to_owned());
            if !self.made.contains(&entry) {
                self.made.push(entry);
            }
        };
        for chain in chains.into_iter().filter(|chain| !exists(chain)) {
            note(chain);
        }
        if !has_table(family, "mangle")? {
            note(WHOLE);
        }
        Ok(())
    }
}

/// Whether our table exists, and the notes in it.
pub(super) fn notes() -> Result<(bool, Notes), TableError> {
    let Some(objects) = ours()? else { return Ok((false, Notes::default())) };
    let made = objects.iter().filter_map(|object| object.get("chain")).filter_map(|chain| {
        let (family, what) = chain_name(chain).strip_prefix("made_")?.split_once('_')?;
        Some((family.to_owned(), what.to_owned()))
    });
    Ok((true, Notes { made: made.collect() }))
}
