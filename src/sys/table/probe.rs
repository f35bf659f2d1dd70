//! Asks the kernel how it can hand us packets. Nothing stays behind.

use super::{
    Diversion, TableError, rules, run,
    xtables::{Family, Tools},
};

/// Asks the kernel which way of diversion it has: first nftables' own `queue`
/// statement, then an NFQUEUE rule of xtables for each IP family that the kernel
/// has.
///
/// # Errors
/// If it has none, or nft is missing, or privileges are.
pub fn probe() -> Result<Diversion, TableError> {
    // A check goes to the kernel, which builds the table and throws it away.
    let name = format!("halfgate-probe-{}", std::process::id());
    if let Err(error) = run::nft_check(&rules::queue_probe(&name, false))? {
        return Err(if error.is_permission() {
            TableError::NoPrivileges
        } else {
            TableError::NoNftables(error)
        });
    }
    match run::nft_check(&rules::queue_probe(&name, true))? {
        Ok(()) => return Ok(Diversion::Native),
        Err(error) if error.is_unknown() => {}
        Err(error) => return Err(error.into()),
    }
    for family in Family::ALL.into_iter().filter(|family| family.in_kernel()) {
        working(family, &Tools::installed(family))?;
    }
    Ok(Diversion::Xtables)
}

/// The first of a family's tools that can load an NFQUEUE rule.
pub(super) fn working(family: Family, installed: &[Tools]) -> Result<&Tools, TableError> {
    let mut refusal = None;
    for tools in installed {
        match tools.probe()? {
            Ok(()) => return Ok(tools),
            Err(error) if error.is_permission() => return Err(TableError::NoPrivileges),
            Err(error) => {
                refusal.get_or_insert(error);
            }
        }
    }
    Err(match (refusal, family) {
        (Some(said), _) => TableError::NoQueue { family: family.tool(), said },
        (None, Family::V4) => TableError::NoIptables,
        (None, Family::V6) => TableError::NoIp6tables,
    })
}
