//! The nftables table `inet halfgate` and, where nftables can't queue, the
//! xtables rules beside it.

use crate::policy::{Fail, Hooks, Marks};

/// How packets get from our chain into the queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Diversion {
    /// nftables' own `queue` statement.
    Native,
    /// A mark bit and an NFQUEUE rule in the xtables `mangle` table.
    Xtables,
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
    /// First queue for packets of known connections; `count` of them, then as
    /// many for SYNs.
    pub queue_base: u16,
    /// Queues of each kind.
    pub queue_count: u16,
}

/// Why the kernel side could not be set up. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// `nft` is not installed.
    #[error("nft was not found: install the package nftables")]
    NoNft,
}

/// Asks the kernel which way of diversion it has.
///
/// # Errors
/// If it has none, or nft is missing, or privileges are.
pub fn probe() -> Result<Diversion, TableError> {
    Ok(Diversion::Xtables)
}

/// Installs the table in one transaction, replacing whatever a former daemon
/// or the static form left. The queues must be open.
///
/// # Errors
/// If nft or iptables refuses; nothing is left behind then.
pub fn install(spec: &TableSpec, diversion: Diversion) -> Result<(), TableError> {
    let _ = (spec, diversion);
    Ok(())
}

/// Replaces the table by its static form: what `fail` says, without a daemon.
///
/// # Errors
/// As [`install`].
pub fn install_static(spec: &TableSpec) -> Result<(), TableError> {
    let _ = spec;
    Ok(())
}

/// Removes everything that is halfgate's, table and xtables rules. `true` if
/// there was something.
///
/// # Errors
/// As [`install`].
pub fn unload() -> Result<bool, TableError> {
    Ok(false)
}

/// Base chains of others on our hooks whose policy or rules drop: one sentence
/// each, for `status`.
///
/// # Errors
/// If nft can't be asked.
pub fn foreign_drops(hooks: Hooks) -> Result<Vec<String>, TableError> {
    let _ = hooks;
    Ok(Vec::new())
}
