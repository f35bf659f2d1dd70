//! The kernel side's rules: the nftables table `inet halfgate` and, where
//! nftables can't queue, the xtables rules beside it.
//!
//! Owns what is loaded, replaced and removed, and that nothing of the operator's
//! is touched on the way. Knows nothing of the rule file or of single packets.
//!
//! What the table does on every hook that is on:
//!
//! * `divert_*`, priority -160, after conntrack and before the operator's
//!   `mangle`: wipes our mark bits (nobody else may set them), lets pass what is
//!   exempt (`exempt_*`: loopback, our own packets, neighbour discovery, MLD, the
//!   DHCP client), marks what conntrack knows both ways, and sends the rest to
//!   the queues, SYNs to queues of their own, and SYNs of proven sources to others.
//! * in `divert_*`, where sources can be blocked: what comes from one that is, is dropped
//!   and counted before it is queued (`blocked`).
//! * behind that in `divert_*`: what is of a connection whose conntrack mark says that it
//!   rides, neither begins nor ends it and is not invalid, passes without a queue (`fast`).
//! * `inspected_*`, right after the diversion: what is not exempt and does not
//!   carry the `inspected` bit of an accept is dropped and counted (unless
//!   `fail: open`); what carries the `refuse` bit is answered by the kernel with
//!   RST or ICMP prohibited, and what proves its source puts it into a set; then our
//!   bits are wiped.
//!
//! An accept from a queue goes on at the next base chain, hence two of them.
//! With [`Diversion::Native`] nothing lies between them (-160 and -159), so that
//! a rule of the operator that sets the whole mark in `mangle` (-150) can't take
//! the bit away. With [`Diversion::Xtables`] the diverting rule is itself in
//! `mangle`, and `inspected_*` follows at -140; a rule that overwrites our bits
//! there makes packets end in the drop, never pass uninspected.
//!
//! `inspected_output` is of type `route`: the kernel routes a locally made
//! packet again when its mark comes back changed from a queue, and must do so
//! once more with the operator's bits alone.
//!
//! Read first: nft(8), libnftables-json(5), iptables-extensions(8) NFQUEUE.

mod blocked;
mod cookies;
mod empty;
mod errands;
mod exempt;
mod fast;
mod foreign;
mod lane;
mod probe;
mod proven;
mod rules;
mod run;
mod state;
mod watch;
mod xtables;

pub use blocked::{Blocked, Lengths, MOST as MOST_BLOCKED, block, unblock};
pub use cookies::{MOST as MOST_SHIELDED, MOST_UNDER_WAY, ShieldChange, Shielded, probe_cookies, shield};
pub use exempt::{Covered, Exempt, Looks, Share};
pub use foreign::foreign_drops;
pub use lane::Lane;
pub use probe::probe;
pub use run::ToolError;
pub use state::{Counts, Damage, TableState, inspect, state};
pub use watch::Watch;

use std::fmt;

use crate::policy::{Fail, Hooks, Marks, Queues};

/// The table's name, in family `inet`; also the comment of the xtables rules.
pub const NAME: &str = "halfgate";

/// How packets get from our chain into the queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Diversion {
    /// nftables' own `queue` statement.
    Native,
    /// A mark bit and an NFQUEUE rule in the xtables `mangle` table.
    Xtables,
}

impl fmt::Display for Diversion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Native => "nftables queue",
            Self::Xtables => "xtables NFQUEUE",
        })
    }
}

/// What the table must do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TableSpec {
    /// Which hooks are diverted.
    pub hooks: Hooks,
    /// What happens while no daemon answers.
    pub fail: Fail,
    /// Our mark bits.
    pub marks: Marks,
    /// First queue of the first lane; those of the others follow.
    pub queue_base: u16,
    /// Queues of each lane but that of SYNs, which has [`Queues::for_syns`].
    pub queue_count: u16,
    /// Whether some limit may challenge.
    pub challenge: bool,
    /// Whether the kernel may answer SYNs by cookies.
    pub syncookies: bool,
    /// The lengths of prefixes that sources can be blocked by.
    pub blocked: Lengths,
}

impl TableSpec {
    /// First and last queue of a lane.
    ///
    /// # Errors
    /// If the numbers leave the range of queue numbers, or there are none.
    pub fn queues(&self, lane: Lane) -> Result<(u16, u16), TableError> {
        let (count, of_syns) = (self.queue_count, Queues::for_syns(self.queue_count));
        let (skip, own) = match lane {
            Lane::Known => (Some(0), count),
            Lane::Syns => (Some(count), of_syns),
            Lane::Proven => (count.checked_add(of_syns), count),
        };
        let first = skip.and_then(|skip| self.queue_base.checked_add(skip));
        let last = first.zip(own.checked_sub(1)).and_then(|(first, more)| first.checked_add(more));
        first.zip(last).ok_or(TableError::Queues { base: self.queue_base, count })
    }

    /// All queues and what they are for, in the order of their numbers.
    ///
    /// # Errors
    /// As [`Self::queues`].
    pub fn all_queues(&self) -> Result<Vec<(u16, Lane)>, TableError> {
        let mut all = Vec::new();
        for lane in Lane::ALL {
            let (first, last) = self.queues(lane)?;
            all.extend((first..=last).map(|number| (number, lane)));
        }
        Ok(all)
    }
}

/// Why the kernel side could not be set up. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// `nft` is not installed.
    #[error("nft was not found in {}: install the package nftables", run::DIRECTORIES.join(", "))]
    NoNft,
    /// Not allowed to change the kernel's rules.
    #[error(
        "not allowed to change the kernel's rules: run it as root, or with CAP_NET_ADMIN and CAP_NET_RAW"
    )]
    NoPrivileges,
    /// The kernel has no nftables.
    #[error(
        "the kernel has no nftables for inet: load the modules nf_tables and nft_ct, or boot a kernel with them ({0})"
    )]
    NoNftables(ToolError),
    /// nftables can't queue, and there is no iptables.
    #[error(
        "the kernel's nftables can't queue and iptables was not found: load the module nft_queue, or install the package iptables"
    )]
    NoIptables,
    /// Nothing can queue.
    #[error(
        "the kernel can't hand packets to halfgate: load the module nft_queue (or xt_NFQUEUE with nfnetlink_queue), or boot a kernel with it; {family} said: {said}"
    )]
    NoQueue {
        /// `iptables` or `ip6tables`.
        family: &'static str,
        /// What it said.
        said: ToolError,
    },
    /// IPv6 is on but ip6tables is missing.
    #[error(
        "ip6tables was not found but the kernel has IPv6, whose packets would pass by or be dropped: install the package iptables, or boot with ipv6.disable=1"
    )]
    NoIp6tables,
    /// There is no synproxy.
    #[error(
        "the kernel can't answer SYNs by cookies (on_excess: syncookies): load the modules nft_synproxy and nft_ct, or boot a kernel with them, or write on_excess: challenge ({0})"
    )]
    NoSynproxy(ToolError),
    /// Queue numbers out of range.
    #[error(
        "queues {base} and the following 3 x {count} don't exist: numbers go from 0 to 65535, and one of each kind is the least"
    )]
    Queues {
        /// First one.
        base: u16,
        /// Of each kind.
        count: u16,
    },
    /// A tool refused.
    #[error(transparent)]
    Tool(ToolError),
    /// What nft printed is not what it documents.
    #[error("nft's answer to `{asked}` can't be read: {why}")]
    Unreadable {
        /// The command.
        asked: &'static str,
        /// What is wrong.
        why: String,
    },
}

impl TableError {
    /// Whether the kernel did not have what it was asked to change.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Tool(error) if error.is_unknown())
    }
}

impl From<ToolError> for TableError {
    fn from(error: ToolError) -> Self {
        if error.is_permission() { Self::NoPrivileges } else { Self::Tool(error) }
    }
}

/// Installs the table in one transaction, replacing whatever a former daemon
/// or the static form left. The queues must be open.
///
/// # Errors
/// If nft or iptables refuses; what was there before is there again then.
pub fn install(spec: &TableSpec, diversion: Diversion) -> Result<(), TableError> {
    let wanted = match diversion {
        Diversion::Native => xtables::Wanted::default(),
        Diversion::Xtables => xtables::Wanted::of(spec)?,
    };
    replace(&wanted, |notes| rules::live(spec, diversion, notes))
}

/// Replaces the table by its static form: what `fail` says, without a daemon.
/// Only `hooks` and `fail` of the specification count.
///
/// # Errors
/// As [`install`].
pub fn install_static(spec: &TableSpec) -> Result<(), TableError> {
    replace(&xtables::Wanted::default(), |notes| Ok(rules::fixed(spec.hooks, spec.fail, notes)))
}

/// Removes everything that is halfgate's, table and xtables rules. `true` if
/// there was something.
///
/// # Errors
/// As [`install`].
pub fn unload() -> Result<bool, TableError> {
    let (present, notes) = state::notes()?;
    if present {
        run::nft_apply(&rules::remove())?;
    }
    let removed = xtables::remove_all()?;
    xtables::tidy(&notes)?;
    Ok(present || removed)
}

/// xtables rules that are new first (nothing bears their mark yet), then the
/// table in one transaction, then xtables rules that are no longer wanted: no
/// moment in which a packet passes that neither form would let pass.
fn replace(
    wanted: &xtables::Wanted,
    document: impl Fn(&state::Notes) -> Result<serde_json::Value, TableError>,
) -> Result<(), TableError> {
    let (_, mut notes) = state::notes()?;
    // Everything that can be refused without asking the kernel is refused here.
    document(&notes)?;
    let change = xtables::prepare(wanted, &mut notes)?;
    let loaded = document(&notes).and_then(|document| run::nft_apply(&document));
    match loaded {
        Ok(()) => {
            change.finish()?;
            if wanted.is_empty() { xtables::tidy(&notes) } else { Ok(()) }
        }
        Err(error) => {
            change.undo(&notes);
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(queue_base: u16, queue_count: u16) -> TableSpec {
        TableSpec {
            hooks: Hooks { forward: true, input: false, output: false },
            fail: Fail::Closed,
            marks: Marks { shift: 24 },
            queue_base,
            queue_count,
            challenge: false,
            syncookies: false,
            blocked: Lengths::default(),
        }
    }

    #[test]
    fn syn_queues_follow_the_others() {
        let spec = spec(10, 4);
        assert_eq!(spec.queues(Lane::Known).expect("in range"), (10, 13));
        assert_eq!(spec.queues(Lane::Syns).expect("in range"), (14, 15));
        assert_eq!(spec.queues(Lane::Proven).expect("in range"), (16, 19));
        let all = spec.all_queues().expect("in range");
        assert_eq!(
            (all.len(), all.first(), all.last()),
            (10, Some(&(10, Lane::Known)), Some(&(19, Lane::Proven)))
        );
        for count in 1..=128 {
            let all = super::tests::spec(0, count).all_queues().expect("in range");
            assert_eq!(all.len(), Queues::in_all(count) as usize);
            assert!(all.iter().map(|(number, _)| *number).eq(0..all.len() as u16), "one behind the other");
        }
    }

    #[test]
    fn the_last_queue_number_is_usable_and_no_more() {
        assert_eq!(spec(65533, 1).queues(Lane::Proven).expect("in range"), (65535, 65535));
        assert!(matches!(spec(65534, 1).queues(Lane::Proven), Err(TableError::Queues { .. })));
        assert!(matches!(spec(65534, 1).all_queues(), Err(TableError::Queues { .. })));
        assert!(matches!(
            spec(65535, 1).queues(Lane::Syns),
            Err(TableError::Queues { base: 65535, count: 1 })
        ));
        assert!(matches!(spec(0, 0).queues(Lane::Known), Err(TableError::Queues { .. })));
        assert!(matches!(spec(0, u16::MAX).queues(Lane::Syns), Err(TableError::Queues { .. })));
    }
}
