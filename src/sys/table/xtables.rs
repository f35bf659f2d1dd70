//! The xtables rules that divert what our chain marked, for kernels whose
//! nftables can't queue.
//!
//! They are in a chain of their own, where only marked packets come: what rides is
//! asked one question. The rules that lead there stand at the end of `mangle`, so that
//! the operator's rules there (MSS clamping, say) still see each packet: an accept from
//! the queue leaves the whole `mangle` chain.

use std::path::{Path, PathBuf};

use super::{
    NAME, TableError, TableSpec,
    cookies::XTABLES6,
    errands::touched,
    lane::Lane,
    run::{self, ToolError},
    state::Notes,
};
use crate::policy::{Fail, Hook};

/// An IP family of xtables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The name of its tool.
    pub(super) const fn tool(self) -> &'static str {
        match self {
            Self::V4 => "iptables",
            Self::V6 => "ip6tables",
        }
    }

    /// nftables' name of it, where iptables-nft keeps its tables.
    pub(super) const fn nft(self) -> &'static str {
        match self {
            Self::V4 => "ip",
            Self::V6 => "ip6",
        }
    }

    /// Whether the kernel has it at all.
    pub(super) fn in_kernel(self) -> bool {
        match self {
            Self::V4 => true,
            Self::V6 => Path::new("/proc/sys/net/ipv6").is_dir(),
        }
    }
}

/// One implementation of one family's tools.
#[derive(Clone, Debug)]
pub(super) struct Tools {
    pub(super) family: Family,
    /// Whether it keeps its rules in nftables.
    pub(super) in_nft: bool,
    restore: PathBuf,
    save: PathBuf,
}

impl Tools {
    /// All that are installed for a family: first what `iptables` is here.
    pub(super) fn installed(family: Family) -> Vec<Self> {
        let mut all: Vec<Self> = Vec::new();
        for variant in ["", "-nft", "-legacy"] {
            let name = format!("{}{variant}", family.tool());
            let (Some(tool), Some(restore), Some(save)) =
                (run::find(&name), run::find(&format!("{name}-restore")), run::find(&format!("{name}-save")))
            else {
                continue;
            };
            let Ok(version) = run::run(&tool, &["-V"], "") else { continue };
            let in_nft = version.contains("nf_tables");
            if all.iter().all(|known| known.in_nft != in_nft) {
                all.push(Self { family, in_nft, restore, save });
            }
        }
        all
    }

    /// Runs commands on `mangle`, all or none.
    fn apply(&self, commands: &[String]) -> Result<(), ToolError> {
        if commands.is_empty() {
            return Ok(());
        }
        let input = format!("*mangle\n{}\nCOMMIT\n", commands.join("\n"));
        // The wait is for others that hold the xtables lock.
        run::run(&self.restore, &["--noflush", "--wait", "10"], &input).map(drop)
    }

    /// Tries an NFQUEUE rule in a chain that no packet reaches, and removes it.
    /// The inner result is the tool's answer.
    pub(super) fn probe(&self) -> Result<Result<(), ToolError>, TableError> {
        self.try_rule(|chain| line(chain, 1, 1, (0, 1), Fail::Open))
    }

    fn try_rule(&self, rule: impl Fn(&str) -> String) -> Result<Result<(), ToolError>, TableError> {
        let chain = format!("halfgate-{}", std::process::id());
        let had_table = self.has_mangle();
        let rule = rule(&chain);
        let tried = self.apply(&[format!(":{chain} - [0:0]"), rule]);
        if tried.is_ok() {
            self.apply(&[format!("-F {chain}"), format!("-X {chain}")])?;
        }
        if self.in_nft && !had_table {
            delete_mangle(self.family)?;
        }
        Ok(tried)
    }

    /// As [`Self::probe`], with a rule for SYN cookies.
    fn probe_synproxy(&self) -> Result<Result<(), ToolError>, TableError> {
        self.try_rule(|chain| synproxy_line(chain, 1))
    }

    /// Whether `mangle` exists. Asked first, because looking at a table of the
    /// legacy kind makes the kernel set it up.
    fn has_mangle(&self) -> bool {
        if self.in_nft {
            return super::state::has_table(self.family.nft(), "mangle").unwrap_or(false);
        }
        legacy_tables(self.family).lines().any(|table| table == "mangle")
    }

    /// Our chain, `:CHAIN ...`, and our rules, `-A CHAIN ...`, as they are in the kernel.
    fn ours(&self) -> Result<Vec<String>, ToolError> {
        if !self.has_mangle() {
            return Ok(Vec::new());
        }
        let text = run::run(&self.save, &["-t", "mangle"], "")?;
        Ok(text.lines().filter(|line| is_ours(line)).map(str::to_owned).collect())
    }
}

/// Deletes the `mangle` of iptables-nft, if nobody has anything in it.
fn delete_mangle(family: Family) -> Result<(), TableError> {
    match super::empty::delete_table(family, "mangle") {
        Ok(_) => Ok(()),
        Err(error) => Err(ToolError::new("deleting an empty table mangle", &error.to_string()).into()),
    }
}

/// Names of the legacy tables in this network namespace; empty if the kernel has
/// none.
pub(super) fn legacy_tables(family: Family) -> String {
    std::fs::read_to_string(format!("/proc/thread-self/net/{}_tables_names", family.nft()))
        .unwrap_or_default()
}

/// Everything in our chain, what leads there, and what bears our comment: the rules for SYN
/// cookies, and those that diverted before there was a chain.
fn is_ours(line: &str) -> bool {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words[..] {
        [chain, ..] if chain.starts_with(':') => chain[1..] == *NAME,
        ["-A", NAME, ..] | ["-A", .., "-j", NAME] => true,
        ["-A", ..] => {
            line.contains(&format!("--comment {NAME} "))
                && words.iter().any(|word| ["NFQUEUE", "SYNPROXY"].contains(word))
        }
        _ => false,
    }
}

/// The chain that a rule is in; of a chain, nothing.
fn chain_of(line: &str) -> Option<&str> {
    line.strip_prefix("-A ")?.split_whitespace().next()
}

fn deletion(line: &str) -> String {
    match chain_of(line) {
        Some(_) => line.replacen("-A", "-D", 1),
        None => format!("-X {NAME}"),
    }
}

/// Takes these away, last first: a chain goes when it is empty and nothing leads there.
fn deletions<'a>(lines: impl DoubleEndedIterator<Item = &'a String>) -> Vec<String> {
    lines.rev().map(|line| deletion(line)).collect()
}

/// Our chain. Spelled as iptables-save does, as all that follows, so that one can be compared
/// with the other.
fn own_chain() -> String {
    format!(":{NAME} - [0:0]")
}

/// What leads from a chain of the kernel's to ours: one of these bits.
fn leads(chain: &str, bits: u32) -> String {
    format!("-A {chain} -m mark ! --mark 0x0/{bits:#x} -j {NAME}")
}

/// To a queue, if of all these bits it bears one kind's.
fn line(chain: &str, kind: u32, all: u32, (first, last): (u16, u16), fail: Fail) -> String {
    let queue = if first == last {
        format!("--queue-num {first}")
    } else {
        format!("--queue-balance {first}:{last}")
    };
    let bypass = match fail {
        Fail::Open => " --queue-bypass",
        Fail::Closed => "",
    };
    format!("-A {chain} -m mark --mark {kind:#x}/{all:#x} -j NFQUEUE {queue}{bypass}")
}

/// Hands what bears these bits to the kernel's synproxy.
fn synproxy_line(chain: &str, bits: u32) -> String {
    format!("-A {chain} -p tcp -m mark --mark {bits:#x}/{bits:#x} -m comment --comment {NAME} -j {XTABLES6}")
}

/// Whether IPv6 can have SYN cookies here: the inner result is the tool's answer.
pub(super) fn probe_synproxy() -> Result<Result<(), ToolError>, TableError> {
    if !Family::V6.in_kernel() {
        return Ok(Ok(()));
    }
    super::probe::working(Family::V6, &Tools::installed(Family::V6))?.probe_synproxy()
}

/// The rules that there should be.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Wanted {
    /// For each family.
    lines: Vec<String>,
    /// For IPv6 alone.
    ipv6: Vec<String>,
}

impl Wanted {
    pub(super) fn of(spec: &TableSpec) -> Result<Self, TableError> {
        let marks = spec.marks;
        let all = Lane::ALL.iter().fold(0, |all, lane| all | lane.bits(marks));
        let mut lines = vec![own_chain()];
        for lane in Lane::ALL {
            lines.push(line(NAME, lane.bits(marks), all, spec.queues(lane)?, spec.fail));
        }
        lines.extend(touched(spec).map(|(hook, _)| match hook {
            Hook::Forward => leads("FORWARD", all),
            Hook::Input => leads("INPUT", all),
            Hook::Output => leads("OUTPUT", all),
        }));
        let bits = marks.synproxy();
        let ipv6 = if spec.syncookies { vec![synproxy_line("FORWARD", bits)] } else { Vec::new() };
        Ok(Self { lines, ipv6 })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    fn of_family(&self, family: Family) -> Vec<String> {
        match family {
            Family::V4 => self.lines.clone(),
            Family::V6 => [self.ipv6.as_slice(), &self.lines].concat(),
        }
    }
}

/// A change under way: what was done, and what waits until the table is loaded.
#[derive(Debug, Default)]
pub(super) struct Change {
    steps: Vec<Step>,
}

#[derive(Debug)]
struct Step {
    tools: Tools,
    /// Takes back what was done.
    undo: Vec<String>,
    /// Removes rules in chains that are no longer used.
    finish: Vec<String>,
}

impl Change {
    /// Removes what is no longer wanted.
    pub(super) fn finish(&self) -> Result<(), TableError> {
        for step in &self.steps {
            step.tools.apply(&step.finish)?;
        }
        Ok(())
    }

    /// Puts back what was there. The error that made it necessary counts; one on
    /// the way back leaves rules that match nothing, for the next start to replace.
    pub(super) fn undo(&self, notes: &Notes) {
        for step in &self.steps {
            let _ = step.tools.apply(&step.undo);
        }
        let _ = tidy(notes);
    }

    fn begin(&mut self, wanted: &Wanted, notes: &mut Notes) -> Result<(), TableError> {
        for family in Family::ALL {
            let installed = Tools::installed(family);
            let chosen = if wanted.is_empty() || !family.in_kernel() {
                None
            } else {
                Some(super::probe::working(family, &installed)?.in_nft)
            };
            let lines = wanted.of_family(family);
            for tools in installed {
                let target: &[String] = if chosen == Some(tools.in_nft) { &lines } else { &[] };
                self.step(tools, target, notes)?;
            }
        }
        Ok(())
    }

    fn step(&mut self, tools: Tools, target: &[String], notes: &mut Notes) -> Result<(), TableError> {
        let present = tools.ours()?;
        let missing: Vec<&String> = target.iter().filter(|line| !present.contains(line)).collect();
        let stale: Vec<&String> = present.iter().filter(|line| !target.contains(line)).collect();
        let (now, later): (Vec<&String>, Vec<&String>) = stale.into_iter().partition(|old| {
            chain_of(old).is_some() && missing.iter().any(|new| chain_of(new) == chain_of(old))
        });
        if tools.in_nft {
            let chains = missing.iter().filter_map(|line| chain_of(line)).filter(|chain| *chain != NAME);
            notes.before(tools.family.nft(), chains)?;
        }
        let replace = |from: &[&String], to: &[&String]| -> Vec<String> {
            let away = deletions(from.iter().copied());
            away.into_iter().chain(to.iter().map(|line| (*line).clone())).collect()
        };
        tools.apply(&replace(&now, &missing))?;
        self.steps.push(Step { undo: replace(&missing, &now), finish: replace(&later, &[]), tools });
        Ok(())
    }
}

/// Adds what is wanted and missing, and in the same transaction takes away what
/// is in its place. Rules that only lose their chain wait for
/// [`Change::finish`]. Notes which chains and tables this made.
pub(super) fn prepare(wanted: &Wanted, notes: &mut Notes) -> Result<Change, TableError> {
    let mut change = Change::default();
    match change.begin(wanted, notes) {
        Ok(()) => Ok(change),
        Err(error) => {
            change.undo(notes);
            Err(error)
        }
    }
}

/// How many of the diverting rules in the kernel are ours: one for each kind of queue, and one
/// for each hook that leads to them.
pub(super) fn count(family: Family) -> Result<usize, TableError> {
    let mut count = 0;
    for tools in Tools::installed(family) {
        count += tools
            .ours()?
            .iter()
            .filter(|line| line.starts_with("-A ") && !line.contains("-j SYNPROXY "))
            .count();
    }
    Ok(count)
}

/// Whether all rules that there should be are there, for each family.
pub(super) fn complete(spec: &TableSpec) -> Result<bool, TableError> {
    let wanted = Wanted::of(spec)?;
    for family in Family::ALL.into_iter().filter(|family| family.in_kernel()) {
        let mut whole = false;
        for tools in Tools::installed(family) {
            let present = tools.ours()?;
            whole |= wanted.of_family(family).iter().all(|line| present.contains(line));
        }
        if !whole {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Removes all rules that are ours. `true` if there were any.
pub(super) fn remove_all() -> Result<bool, TableError> {
    let mut found = false;
    for family in Family::ALL {
        for tools in Tools::installed(family) {
            let present = tools.ours()?;
            found |= !present.is_empty();
            tools.apply(&deletions(present.iter()))?;
        }
    }
    Ok(found)
}

/// Removes base chains and tables that only our rules brought into being, if
/// nobody has put anything there since.
pub(super) fn tidy(notes: &Notes) -> Result<(), TableError> {
    for family in Family::ALL {
        let chains = notes.made_in(family.nft());
        for tools in Tools::installed(family).iter().filter(|tools| tools.in_nft && !chains.is_empty()) {
            for chain in &chains {
                // Refused where the operator has rules by now, and that is right.
                let _ = tools.apply(&[format!("-X {chain}")]);
            }
        }
        if notes.made_table(family.nft()) {
            delete_mangle(family)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Hooks, Marks};

    fn spec(queue_count: u16, fail: Fail) -> TableSpec {
        TableSpec {
            hooks: Hooks { forward: true, input: false, output: true },
            fail,
            marks: Marks { shift: 8 },
            queue_base: 4,
            queue_count,
            challenge: false,
            syncookies: false,
            blocked: Default::default(),
        }
    }

    #[test]
    fn each_kind_to_its_own_queues_and_each_hook_leads_there() {
        // The answers to what leaves by `output` come in by `input`.
        let wanted = Wanted::of(&spec(2, Fail::Closed)).expect("in range");
        assert_eq!(
            wanted.lines,
            [
                ":halfgate - [0:0]",
                "-A halfgate -m mark --mark 0x100/0x300 -j NFQUEUE --queue-balance 4:5",
                "-A halfgate -m mark --mark 0x200/0x300 -j NFQUEUE --queue-num 6",
                "-A halfgate -m mark --mark 0x300/0x300 -j NFQUEUE --queue-balance 7:8",
                "-A FORWARD -m mark ! --mark 0x0/0x300 -j halfgate",
                "-A INPUT -m mark ! --mark 0x0/0x300 -j halfgate",
                "-A OUTPUT -m mark ! --mark 0x0/0x300 -j halfgate",
            ]
        );
        let away = deletions(wanted.lines.iter());
        assert_eq!(away[0], "-D OUTPUT -m mark ! --mark 0x0/0x300 -j halfgate");
        assert_eq!(away[6], "-X halfgate");
    }

    #[test]
    fn one_queue_is_a_number_and_open_is_bypass() {
        let wanted = Wanted::of(&spec(1, Fail::Open)).expect("in range");
        assert!(wanted.lines[2].ends_with("-j NFQUEUE --queue-num 5 --queue-bypass"), "{}", wanted.lines[2]);
    }

    #[test]
    fn only_our_own_rules_are_ours() {
        let before_the_chain =
            "-A FORWARD -m mark --mark 0x1/0x1 -m comment --comment halfgate -j NFQUEUE --queue-num 3";
        assert!(is_ours(before_the_chain), "of an older halfgate");
        for line in Wanted::of(&spec(2, Fail::Open)).expect("in range").lines {
            assert!(is_ours(&line), "{line}");
        }
        for other in [
            "-A FORWARD -m comment --comment halfgate -j ACCEPT",
            "-A FORWARD -m comment --comment halfgate2 -j NFQUEUE --queue-num 1",
            "-A FORWARD -m comment --comment \"not halfgate at all\" -j NFQUEUE --queue-num 1",
            "-A FORWARD -j NFQUEUE --queue-num 1",
            "-A FORWARD -j halfgate2",
            "-A halfgate2 -j NFQUEUE --queue-num 1",
            ":halfgate2 - [0:0]",
            ":FORWARD ACCEPT [0:0]",
        ] {
            assert!(!is_ours(other), "{other}");
        }
    }
}
