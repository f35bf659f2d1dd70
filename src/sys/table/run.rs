//! Runs `nft` and the iptables tools: found in fixed directories, with a clean
//! environment, their complaints kept.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::Value;

use super::TableError;

/// Where the tools may be. Never the caller's PATH: this runs as root.
pub(super) const DIRECTORIES: [&str; 6] =
    ["/usr/sbin", "/sbin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/local/bin"];

/// A tool refused, or could not be run. One line, with what it said.
#[derive(Debug, thiserror::Error)]
#[error("{command}: {said}")]
pub struct ToolError {
    command: String,
    said: String,
}

impl ToolError {
    pub(super) fn new(command: &str, said: &str) -> Self {
        Self { command: command.to_owned(), said: said.to_owned() }
    }

    /// Whether it is about privileges.
    #[must_use]
    pub fn is_permission(&self) -> bool {
        ["Operation not permitted", "must be root", "Permission denied"]
            .iter()
            .any(|words| self.said.contains(words))
    }

    /// Whether the kernel did not know something that it was asked for: a table,
    /// a chain, an expression.
    pub(super) fn is_unknown(&self) -> bool {
        ["No such file or directory", "Not supported", "not supported"]
            .iter()
            .any(|words| self.said.contains(words))
    }
}

/// The absolute path of a tool.
pub(super) fn find(name: &str) -> Option<PathBuf> {
    DIRECTORIES.iter().map(|directory| Path::new(directory).join(name)).find(|path| path.is_file())
}

/// Runs a tool with `input` on its standard input; gives its standard output.
pub(super) fn run(tool: &Path, arguments: &[&str], input: &str) -> Result<String, ToolError> {
    let command = || format!("{} {}", tool.display(), arguments.join(" "));
    let failed = |error: std::io::Error| ToolError { command: command(), said: error.to_string() };
    let mut child = Command::new(tool)
        .args(arguments)
        .env_clear()
        .env("PATH", DIRECTORIES.join(":"))
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let mut pipe = child.stdin.take();
    let output = std::thread::scope(|scope| {
        // A tool that ends early closes the pipe; its own words then say why.
        scope.spawn(move || pipe.as_mut().map(|pipe| pipe.write_all(input.as_bytes())));
        child.wait_with_output()
    })
    .map_err(failed)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = one_line(&String::from_utf8_lossy(&output.stderr));
    let said = if said.is_empty() { output.status.to_string() } else { said };
    Err(ToolError { command: command(), said })
}

/// Complaints in one line: no markers under quoted input, no echo of a document.
fn one_line(stderr: &str) -> String {
    let lines = stderr.lines().map(str::trim);
    let mut telling: Vec<&str> =
        lines.filter(|line| !line.is_empty() && !line.starts_with(['^', '{'])).collect();
    telling.dedup();
    telling.truncate(4);
    telling.join("; ")
}

fn nft() -> Result<PathBuf, TableError> {
    find("nft").ok_or(TableError::NoNft)
}

/// Loads a document: one transaction.
pub(super) fn nft_apply(document: &Value) -> Result<(), TableError> {
    run(&nft()?, &["-j", "-f", "-"], &document.to_string())?;
    Ok(())
}

/// Lets the kernel judge a document without loading it.
pub(super) fn nft_check(document: &Value) -> Result<Result<(), ToolError>, TableError> {
    Ok(run(&nft()?, &["-c", "-j", "-f", "-"], &document.to_string()).map(drop))
}

/// Lists as JSON: the objects under `nftables`. Set elements are left out.
pub(super) fn nft_list(what: &'static [&'static str], asked: &'static str) -> Result<Vec<Value>, TableError> {
    let mut arguments = vec!["-j", "-t", "list"];
    arguments.extend(what);
    let text = run(&nft()?, &arguments, "")?;
    let unreadable = |why: String| TableError::Unreadable { asked, why };
    let mut value: Value = serde_json::from_str(&text).map_err(|error| unreadable(error.to_string()))?;
    match value.get_mut("nftables").map(Value::take) {
        Some(Value::Array(objects)) => Ok(objects),
        _ => Err(unreadable("it has no list `nftables`".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_that_fails_is_quoted_in_one_line() {
        let sh = find("sh").expect("every system has a shell");
        let error = run(&sh, &["-c", "echo first >&2; echo '  ^^^' >&2; echo second >&2; exit 3"], "")
            .expect_err("it exits with 3");
        let line = error.to_string();
        assert!(line.ends_with(": first; second"), "{line}");
    }

    #[test]
    fn a_tool_that_fails_silently_still_has_a_reason() {
        let sh = find("sh").expect("every system has a shell");
        let error = run(&sh, &["-c", "exit 3"], "").expect_err("it exits with 3");
        assert!(error.to_string().contains("exit status: 3"), "{error}");
    }

    #[test]
    fn the_callers_environment_stays_outside() {
        let sh = find("sh").expect("every system has a shell");
        let text = run(&sh, &["-c", "echo \"$HOME|$LC_ALL\"; cat"], "in").expect("it runs");
        assert_eq!(text, "|C\nin");
    }

    #[test]
    fn input_larger_than_a_pipe_and_an_early_end_do_not_hang() {
        let sh = find("sh").expect("every system has a shell");
        let long = "x".repeat(1 << 20);
        assert_eq!(run(&sh, &["-c", "cat"], &long).expect("it runs").len(), 1 << 20);
        assert_eq!(run(&sh, &["-c", "true"], &long).expect("it runs"), "");
    }
}
