//! YAML as typed by a person -> policy; every error with file, line and rule.
//!
//! Text -> nodes that know their place (`yaml`) -> keys that the schema knows
//! (`schema`, `reader`) -> the parts of a policy (`rules`, `hosts`, `services`,
//! `settings`) -> a look at the whole (`reach`). Every step goes on after an
//! error, so that one run lists them all.
//!
//! Pure: the text comes in as a string, files that it names come through a
//! function argument. Knows nothing of the daemon.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

pub mod diagnostic;
pub mod init;
pub mod runner;
pub mod schema;
pub mod tests;

mod file;
mod hosts;
mod limits;
mod reach;
mod reader;
mod rules;
mod scans;
mod services;
mod settings;
mod words;
mod yaml;

#[cfg(test)]
mod cases;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use diagnostic::picture;
pub use init::{FirstRules, default_rules};
pub use runner::{Outcome, run_tests};
pub use tests::{RuleTest, Step};

use crate::policy::Policy;

/// Something wrong (or odd) in a rule file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Diagnostic {
    /// Whether the file can't be used.
    pub severity: Severity,
    /// The file.
    pub file: Arc<str>,
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1.
    pub column: usize,
    /// The name of the rule it stands in, if any; `#3` for the third one if it
    /// has no name.
    pub rule: Option<String>,
    /// What is wrong, lower case.
    pub message: String,
    /// What to do about it.
    pub cure: String,
}

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The file is refused.
    Error,
    /// It is taken, but probably not as meant.
    Warning,
}

/// A rule file that was understood.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// What it says.
    pub policy: Policy,
    /// Warnings.
    pub warnings: Vec<Diagnostic>,
    /// Its `tests:`.
    pub tests: Vec<RuleTest>,
}

/// The rule file used when none is given. As it stands every interface is
/// outside; [`default_rules`] fills in those that are.
pub const DEFAULT_RULES: &str = include_str!("../rules/default.yaml");

/// Compiles a rule file. `read` gives the text of a file that the rules name
/// (`lists: { x: { file: ... } }`), or the reason why not. `previous` is the
/// policy in force, whose rule ids are kept by name.
///
/// # Errors
/// Every error and warning of the file, in order of their lines.
pub fn compile(
    file: &str,
    text: &str,
    read: &mut dyn FnMut(&str) -> Result<String, String>,
    previous: Option<&Policy>,
) -> Result<Compiled, Vec<Diagnostic>> {
    let mut report = reader::Report::new(file);
    let compiled = match yaml::parse(text) {
        Ok(node) => file::compile(&node, read, previous, &mut report),
        Err(refusal) => {
            report.error(refusal.place, refusal.message, refusal.cure);
            None
        }
    };
    let (diagnostics, is_broken) = report.finish();
    match compiled {
        Some((policy, tests)) if !is_broken => Ok(Compiled { policy, warnings: diagnostics, tests }),
        _ => Err(diagnostics),
    }
}
