//! `halfgate limits suggest`
#![expect(clippy::wildcard_enum_match_arm, reason = "an answer holds few of the many kinds of line")]

use std::{path::Path, process::ExitCode, time::Duration};

use anyhow::Result;

use super::{client, output::Output};
use crate::daemon::{
    protocol::{Line, Request, SuggestedRow},
    text,
};

/// Suggest limits from what was seen, with the evidence, ready to be pasted
///
/// For the rule set and each rule: the 99th percentile and the peak of half-open
/// connections in all, of any one source and to any one destination, second by second.
/// The value is twice the percentile or a quarter above the peak, whichever is more; a
/// peak of more than four times the percentile is left out, as an attack's, and said.
/// Look over a busy day before you use it, and try it with `shadow: true` first.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Look so many hours back; a day unless told
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=24))]
    hours: Option<u8>,
    /// One object per line instead of YAML
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args, socket: &Path) -> Result<ExitCode> {
    let mut output = Output::open();
    let mut rows = Vec::new();
    client::ask(socket, &Request::LimitSuggest { hours: args.hours }, &mut |line| {
        match line {
            Line::Suggested(row) if args.json => output.json(&row)?,
            Line::Suggested(row) => rows.push(row),
            other => client::aside(&other)?,
        }
        Ok(())
    })?;
    for line in yaml(&rows) {
        output.line(&line)?;
    }
    output.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// The rule set's limits, then each rule's, as they stand in a rule file; the evidence
/// as comments.
fn yaml(rows: &[SuggestedRow]) -> Vec<String> {
    let mut lines = Vec::new();
    let mut rest = rows;
    while let Some(first) = rest.first() {
        let count = rest.iter().take_while(|row| row.rule == first.rule).count();
        let (group, others) = rest.split_at(count);
        rest = others;
        let indent = match &first.rule {
            None => {
                let looked = text::duration(Duration::from_secs(u64::from(first.samples)));
                lines.push(format!("# What was seen in {looked}, second by second."));
                ""
            }
            Some(rule) => {
                lines.push(String::new());
                lines.push(format!("# In rule {rule}:"));
                "    "
            }
        };
        for row in group {
            for note in &row.notes {
                lines.push(format!("{indent}# {}: {note}", row.limit));
            }
        }
        lines.push(format!("{indent}limits:"));
        lines.push(format!("{indent}  embryonic:"));
        lines.extend(group.iter().map(|row| format!("{indent}    {}", value(row))));
        lines.push(format!("{indent}    on_excess: {}", first.on_excess));
    }
    lines
}

fn value(row: &SuggestedRow) -> String {
    let name = row.limit.strip_prefix("embryonic.").unwrap_or(&row.limit);
    let pair = format!("{name}: {}", row.suggested);
    let at = row.peak_at.as_deref().map(|at| format!(" at {at}")).unwrap_or_default();
    let now = row.value.map_or_else(|| "none".to_owned(), |value| value.to_string());
    format!(
        "{pair:<23} # p99 {}, peak {}{at}; busy in {} of {} s; now {now}, passed {} times",
        row.p99, row.peak, row.busy, row.samples, row.passed
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn row(rule: Option<&str>, limit: &str, suggested: u32) -> SuggestedRow {
        SuggestedRow {
            limit: limit.to_owned(),
            rule: rule.map(str::to_owned),
            suggested,
            p99: 40,
            peak: 60_000,
            peak_at: Some("2026-01-01T00:00:00.000Z".to_owned()),
            samples: 7200,
            busy: 600,
            value: None,
            on_excess: "evict".to_owned(),
            passed: 0,
            notes: vec!["look: at this".to_owned()],
        }
    }

    #[test]
    fn what_is_suggested_is_a_rule_files_and_means_what_it_says() {
        let names = ["embryonic.total", "embryonic.per_source", "embryonic.per_destination"];
        let of =
            |rule| names.into_iter().zip([200, 20, 100]).map(move |(name, value)| row(rule, name, value));
        let rows: Vec<SuggestedRow> = of(None).chain(of(Some("web"))).collect();
        let lines = yaml(&rows);
        assert_eq!(lines[0], "# What was seen in 2h, second by second.");
        assert!(
            lines.iter().any(|line| line.contains("per_source: 20") && line.contains("p99 40, peak 60000"))
        );
        let (global, own) = lines.split_at(lines.iter().position(String::is_empty).unwrap());
        let file = format!(
            "version: 1\nhooks: [forward]\n{}\nrules:\n  - name: web\n    action: accept\n{}\n",
            global.join("\n"),
            own.join("\n")
        );
        let compiled = config::compile("test", &file, &mut |_| Err("none".to_owned()), None);
        let policy = compiled.unwrap_or_else(|errors| panic!("{errors:?}\n{file}")).policy;
        for limits in [&policy.settings.limits, &policy.rules[0].limits] {
            assert_eq!(
                (limits.total, limits.per_source, limits.per_destination),
                (Some(200), Some(20), Some(100))
            );
        }
    }
}
