//! docs/RULES.md knows every key, and its examples are right.

use halfgate::{
    config::{self, schema::GROUPS},
    conntrack::{Phase, Timer},
};

const DOC: &str = include_str!("../docs/RULES.md");

/// The YAML examples with the line on which each begins.
fn examples() -> Vec<(usize, String)> {
    let mut out = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (number, line) in (1..).zip(DOC.lines()) {
        match (&mut open, line) {
            (None, "```yaml") => open = Some((number + 1, String::new())),
            (Some(_), "```") => out.extend(open.take()),
            (Some((_, text)), line) => {
                text.push_str(line);
                text.push('\n');
            }
            (None, _) => {}
        }
    }
    out
}

/// The rows of tables whose first cell is this name.
fn rows(name: &str) -> Vec<&'static str> {
    DOC.lines().filter(|line| line.starts_with(&format!("| `{name}` |"))).collect()
}

#[test]
fn every_key_of_the_schema_has_its_row() {
    let missing: Vec<String> = GROUPS
        .iter()
        .flat_map(|group| group.keys.iter().map(move |key| (group.title, *key)))
        .filter(|(_, key)| rows(key).is_empty())
        .map(|(title, key)| format!("{key} of {title}"))
        .collect();
    assert!(missing.is_empty(), "docs/RULES.md lacks {}", missing.join(", "));
}

#[test]
fn every_timer_has_its_row_and_its_default() {
    for timer in Timer::ALL {
        let default =
            timer.default_value().map_or_else(|| "off".to_owned(), halfgate::policy::duration::text);
        let rows = rows(timer.name());
        let is_there = rows.iter().any(|row| row.contains(&format!("` | {default} |")));
        assert!(is_there, "{timer} is {default}, and docs/RULES.md says {rows:?}");
    }
    for phase in Phase::ALL {
        assert!(DOC.contains(&format!("`{phase}`")), "docs/RULES.md lacks the phase {phase}");
    }
}

#[test]
fn every_example_compiles_and_passes_its_own_tests() {
    let examples = examples();
    assert!(examples.len() >= 10, "{} examples", examples.len());
    let mut tests = 0;
    for (line, text) in examples {
        let mut read = |path: &str| match path {
            "lists/blocked.txt" => Ok("203.0.113.66\n".to_owned()),
            other => Err(format!("{other} is not there")),
        };
        let compiled = config::compile("RULES.md", &text, &mut read, None).unwrap_or_else(|diagnostics| {
            let lines: Vec<String> = diagnostics.iter().map(ToString::to_string).collect();
            panic!("the example on line {line} of docs/RULES.md is refused:\n{}", lines.join("\n"))
        });
        assert_eq!(compiled.warnings, [], "the example on line {line} of docs/RULES.md");
        for outcome in config::run_tests(&compiled.policy, &compiled.tests) {
            assert_eq!(outcome.failure, None, "the example on line {line}: {}", outcome.name);
            tests += 1;
        }
    }
    assert!(tests > 0, "no example has tests");
}

/// The table of other firewalls' timers says what the parser says.
#[test]
fn what_the_table_of_other_words_says_the_parser_says_too() {
    let start = DOC.find("| timer | netfilter").unwrap();
    let mut words = 0;
    for row in DOC[start..].lines().skip(2).take_while(|line| line.starts_with('|')) {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let ours = cells[0].trim_matches('`');
        for word in cells[1..].iter().flat_map(|cell| cell.split(", ")) {
            let word = word.trim_matches(['`', '|', ' ']);
            if word.is_empty() || Timer::from_name(word).is_some() {
                continue;
            }
            let text = format!("version: 1\nhooks: [forward]\nrules: []\ntimers: {{ {word}: 5s }}\n");
            let told = config::compile("t", &text, &mut |_| Err(String::new()), None).unwrap_err();
            assert_eq!(told.len(), 1, "{word}");
            assert!(
                told[0].cure.contains(&format!("`{ours}`")),
                "{word} is {ours}, and the parser says: {}",
                told[0]
            );
            words += 1;
        }
    }
    assert!(words > 25, "{words}");
}
