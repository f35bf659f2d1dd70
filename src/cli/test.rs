//! `halfgate test`: runs the tests inside rule files, in virtual time.

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use super::check::{compile, many, quietly, show};
use crate::config;

/// Runs the tests inside rule files: virtual time, the engine itself, no
/// pickup grace.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The rule files.
    #[arg(required = true, value_name = "RULES")]
    pub rules: Vec<PathBuf>,
    /// One JSON object per line.
    #[arg(long)]
    pub json: bool,
}

/// Runs the tests. Exit code 1 if one fails or a file is refused.
///
/// # Errors
/// If the output can't be written.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    quietly(test(args, &mut io::stdout().lock()))
}

fn test(args: &Args, out: &mut dyn Write) -> io::Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    for path in &args.rules {
        let name = path.display().to_string();
        let (text, compiled) = compile(path);
        let compiled = match compiled {
            Ok(compiled) => compiled,
            Err(diagnostics) => {
                code = ExitCode::FAILURE;
                show(&diagnostics, &name, text.as_deref(), args.json, out)?;
                continue;
            }
        };
        let outcomes = config::run_tests(&compiled.policy, &compiled.tests);
        let mut failed = 0_usize;
        for outcome in &outcomes {
            if outcome.failure.is_some() {
                failed = failed.saturating_add(1);
                code = ExitCode::FAILURE;
            }
            if args.json {
                let (line, message) = outcome.failure.clone().unzip();
                let object = serde_json::json!({
                    "file": name, "test": outcome.name, "line": line.unwrap_or(outcome.line), "steps": outcome.steps,
                    "ok": outcome.failure.is_none(), "message": message,
                });
                writeln!(out, "{object}")?;
            } else {
                match &outcome.failure {
                    None => writeln!(out, "ok      {}", outcome.name)?,
                    Some((line, message)) => {
                        writeln!(out, "FAILED  {}\n        {name}:{line}: {message}", outcome.name)?
                    }
                }
            }
        }
        if !args.json {
            if outcomes.is_empty() {
                writeln!(out, "{name}: no tests; docs/RULES.md shows how to write them under `tests:`")?;
            } else {
                writeln!(out, "{name}: {}, {failed} failed", many(outcomes.len(), "test"))?;
            }
        }
    }
    Ok(code)
}
