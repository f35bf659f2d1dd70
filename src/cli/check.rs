//! `halfgate check`: every error and warning of rule files.

use std::{
    fs::File,
    io::{self, IsTerminal as _, Read as _, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use crate::config::{self, Compiled, Diagnostic, Severity};

/// The largest file that is read; the compiler's own bound is lower.
const MAX_BYTES: u64 = 64 << 20;

/// Lists every error and warning of rule files, with line, rule and cure.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The rule files.
    #[arg(required = true, value_name = "RULES")]
    pub rules: Vec<PathBuf>,
    /// One JSON object per line.
    #[arg(long)]
    pub json: bool,
}

/// Checks the files. Exit code 1 if one of them has an error.
///
/// # Errors
/// If the output can't be written.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    quietly(check(args, &mut io::stdout().lock()))
}

fn check(args: &Args, out: &mut dyn Write) -> io::Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    for path in &args.rules {
        let name = path.display().to_string();
        let (text, compiled) = compile(path);
        let diagnostics = match &compiled {
            Ok(compiled) => &compiled.warnings,
            Err(diagnostics) => diagnostics,
        };
        show(diagnostics, &name, text.as_deref(), args.json, out)?;
        let count =
            |severity| diagnostics.iter().filter(|diagnostic| diagnostic.severity == severity).count();
        let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
        let rules = compiled.as_ref().map_or(0, |compiled| compiled.policy.rules.len());
        if compiled.is_err() {
            code = ExitCode::FAILURE;
        }
        if args.json {
            let summary = serde_json::json!({
                "file": name, "ok": compiled.is_ok(), "rules": rules, "errors": errors, "warnings": warnings,
            });
            writeln!(out, "{summary}")?;
        } else if compiled.is_ok() {
            writeln!(out, "{name}: ok, {}, {}", many(rules, "rule"), many(warnings, "warning"))?;
        } else {
            writeln!(out, "{name}: refused, {}, {}", many(errors, "error"), many(warnings, "warning"))?;
        }
    }
    Ok(code)
}

/// Reads and compiles a rule file; files that it names are taken from its
/// directory. The text comes back too, for pictures.
///
/// # Errors
/// All diagnostics, that the file can't be read among them.
pub fn compile(path: &Path) -> (Option<String>, Result<Compiled, Vec<Diagnostic>>) {
    let name = path.display().to_string();
    let text = match read(path) {
        Ok(text) => text,
        Err(reason) => {
            let diagnostic = Diagnostic {
                severity: Severity::Error,
                file: name.into(),
                line: 1,
                column: 1,
                rule: None,
                message: format!("can't read the file: {reason}"),
                cure: "name a rule file; `halfgate init --wan IF --lan IF` writes a first one".to_owned(),
            };
            return (None, Err(vec![diagnostic]));
        }
    };
    let directory = path.parent().unwrap_or_else(|| Path::new(""));
    let mut beside = |file: &str| read(&directory.join(file));
    let compiled = config::compile(&name, &text, &mut beside, None);
    (Some(text), compiled)
}

/// The text of a file, or why not.
///
/// # Errors
/// The reason, in a few words.
pub fn read(path: &Path) -> Result<String, String> {
    let file = File::open(path).map_err(|error| plain(&error))?;
    if file.metadata().is_ok_and(|about| about.is_dir()) {
        return Err("it is a directory".to_owned());
    }
    let mut bytes = Vec::new();
    file.take(MAX_BYTES.saturating_add(1)).read_to_end(&mut bytes).map_err(|error| plain(&error))?;
    if u64::try_from(bytes.len()).is_ok_and(|len| len > MAX_BYTES) {
        return Err(format!("it is larger than {} MiB", MAX_BYTES >> 20));
    }
    String::from_utf8(bytes)
        .map_err(|error| format!("octet {} is not UTF-8", error.utf8_error().valid_up_to()))
}

fn plain(error: &io::Error) -> String {
    #[expect(clippy::wildcard_enum_match_arm, reason = "the other kinds speak for themselves")]
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such file".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => error.to_string(),
    }
}

/// Writes diagnostics: objects, pictures on a terminal, or a line each.
pub(super) fn show(
    diagnostics: &[Diagnostic],
    name: &str,
    text: Option<&str>,
    json: bool,
    out: &mut dyn Write,
) -> io::Result<()> {
    let is_terminal = io::stdout().is_terminal();
    let has_colour = is_terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    for diagnostic in diagnostics {
        if json {
            writeln!(out, "{}", serde_json::to_string(diagnostic)?)?;
        } else if is_terminal {
            let source = text.filter(|_| &*diagnostic.file == name);
            writeln!(out, "{}\n", config::picture(diagnostic, source, has_colour))?;
        } else {
            writeln!(out, "{diagnostic}")?;
        }
    }
    Ok(())
}

/// `1 rule`, `2 rules`.
pub(super) fn many(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

/// A closed pipe is the reader's choice, not an error.
pub(super) fn quietly(result: io::Result<ExitCode>) -> anyhow::Result<ExitCode> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_told_and_one_bad_one_is_enough() {
        let directory = std::env::temp_dir().join(format!("halfgate-check-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = |name: &str| directory.join(name);
        std::fs::write(path("list.txt"), "10.0.0.0/8\n").unwrap();
        let good = "version: 1\nhooks: [forward]\nlists: { l: { file: list.txt } }\nrules: [{ name: r, from: l, action: drop }]\n";
        std::fs::write(path("good.yaml"), good).unwrap();
        std::fs::write(
            path("bad.yaml"),
            "version: 1\nhooks: [forward]\nrules: [{ name: r, action: deny }]\n",
        )
        .unwrap();
        std::fs::write(path("octets.yaml"), b"version: \xff").unwrap();
        let run = |names: &[&str], json| {
            let mut out = Vec::new();
            let args = Args { rules: names.iter().map(|name| path(name)).collect(), json };
            let code = check(&args, &mut out).unwrap();
            let text = String::from_utf8(out).unwrap().replace(&format!("{}/", directory.display()), "");
            (code == ExitCode::SUCCESS, text)
        };
        assert_eq!(run(&["good.yaml"], false), (true, "good.yaml: ok, 1 rule, 0 warnings\n".to_owned()));
        let (is_ok, text) = run(&["good.yaml", "bad.yaml", "octets.yaml", "none.yaml", "."], true);
        assert!(!is_ok);
        let objects: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(objects.len(), 9, "{text}");
        assert_eq!(objects[0]["ok"], true);
        assert_eq!(objects[1]["rule"], "r");
        assert_eq!((&objects[1]["line"], &objects[1]["severity"]), (&3.into(), &"error".into()));
        assert_eq!(objects[2]["errors"], 1);
        assert!(objects[3]["message"].as_str().unwrap().contains("octet 9 is not UTF-8"));
        assert!(objects[5]["message"].as_str().unwrap().contains("there is no such file"));
        assert!(objects[7]["message"].as_str().unwrap().contains("it is a directory"));
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
