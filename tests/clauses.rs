//! The conformance table of docs/CONNTRACK.md against the tests that it names.
//!
//! Every clause has a test that exists and runs; every test of
//! `src/engine/tests/clauses/` names its clauses by number in its doc comment, and the
//! table names it for these and no others.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

const ROOM: &str = "src/engine/tests/clauses";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A row of the table.
#[derive(Debug)]
struct Clause {
    /// The RFC of the heading above it.
    rfc: String,
    id: String,
    clause: String,
    behaviour: String,
    tests: Vec<String>,
}

/// The rows below the heading `## Conformance`; what is wrong with their form.
fn clauses(document: &str) -> (Vec<Clause>, Vec<String>) {
    let (mut rows, mut faults) = (Vec::new(), Vec::new());
    let section = document.split("\n## Conformance\n").nth(1).unwrap_or_default();
    let section = section.split("\n## ").next().unwrap_or_default();
    let mut rfc = String::new();
    for line in section.lines() {
        if let Some(heading) = line.strip_prefix("### RFC ") {
            rfc = heading.chars().take_while(char::is_ascii_digit).collect();
        }
        let Some(cells) = line.strip_prefix("| C") else { continue };
        let cells: Vec<&str> = cells.trim_end().trim_end_matches('|').split(" | ").map(str::trim).collect();
        let [id, clause, behaviour, tests] = cells[..] else {
            faults.push(format!("not four cells: {line}"));
            continue;
        };
        let tests = tests.split(", ").filter(|test| !test.is_empty());
        let named =
            |test: &str| test.strip_prefix('`').and_then(|test| test.strip_suffix('`')).map(str::to_owned);
        let named: Vec<Option<String>> = tests.map(named).collect();
        if named.contains(&None) {
            faults.push(format!("C{id}: a test that is not in backquotes"));
        }
        rows.push(Clause {
            rfc: rfc.clone(),
            id: format!("C{id}"),
            clause: clause.to_owned(),
            behaviour: behaviour.to_owned(),
            tests: named.into_iter().flatten().collect(),
        });
    }
    (rows, faults)
}

/// The file that holds a test, by the name that the table gives it: `windows::name` is in
/// the room of the clauses, other names are whole paths of the library or of `tests/`.
fn place(test: &str) -> Option<(PathBuf, &str)> {
    let (module, name) = test.rsplit_once("::")?;
    let file = format!("{}.rs", module.replace("::", "/"));
    let found: Vec<PathBuf> = [ROOM, "src", "tests"]
        .iter()
        .map(|folder| root().join(folder).join(&file))
        .filter(|p| p.is_file())
        .collect();
    match &found[..] {
        [one] => Some((one.clone(), name)),
        _ => None,
    }
}

/// The tests of a source, each with its doc comment, attributes between left out.
fn tests_in(source: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let (mut comment, mut is_test, mut is_conditional) = (String::new(), false, false);
    for line in source.lines().map(str::trim) {
        if let Some(doc) = line.strip_prefix("///") {
            comment.push_str(doc);
        } else if line.starts_with("#[") {
            is_test |= line == "#[test]";
            is_conditional |= line.starts_with("#[cfg");
        } else {
            let name = line.strip_prefix("fn ").and_then(|rest| rest.split(['(', '<']).next());
            if let (Some(name), true, false) = (name, is_test, is_conditional) {
                found.insert(name.to_owned(), comment.clone());
            }
            comment.clear();
            (is_test, is_conditional) = (false, false);
        }
    }
    found
}

/// Whether a source has this test: also one that a macro makes for both families, or that
/// proptest runs, whose functions have no attribute of their own.
fn has_test(source: &str, name: &str) -> bool {
    let made = (source.contains("both_families!") || source.contains("proptest!"))
        && source.contains(&format!("fn {name}("));
    tests_in(source).contains_key(name) || made
}

/// The numbers of the clauses in a doc comment; `C1-02 to C1-04` are three.
fn numbers(comment: &str) -> BTreeSet<String> {
    let words: Vec<&str> = comment.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-')).collect();
    let parse = |word: &str| {
        let (rfc, number) = word.strip_prefix('C')?.split_once('-')?;
        let whole = rfc.chars().all(|c| c.is_ascii_digit()) && !rfc.is_empty();
        whole.then_some((rfc.to_owned(), number.parse::<u32>().ok()?))
    };
    let mut found = BTreeSet::new();
    for (place, word) in words.iter().enumerate() {
        let Some((rfc, number)) = parse(word) else { continue };
        let last = (words.get(place + 1) == Some(&"to"))
            .then(|| words.get(place + 2).and_then(|word| parse(word)))
            .flatten()
            .map_or(number, |(_, last)| last);
        found.extend((number..=last).map(|number| format!("C{rfc}-{number:02}")));
    }
    found
}

/// Everything that is wrong between a document and the sources.
fn faults(document: &str, room: &BTreeMap<String, String>, exists: impl Fn(&str) -> bool) -> Vec<String> {
    let (rows, mut faults) = clauses(document);
    let mut seen = BTreeSet::new();
    let mut by_test: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for row in &rows {
        let Clause { rfc, id, clause, behaviour, tests } = row;
        if !seen.insert(id) {
            faults.push(format!("{id} stands twice"));
        }
        if !id.starts_with(&format!("C{rfc}-")) {
            faults.push(format!("{id} stands below RFC {rfc}"));
        }
        if clause.is_empty() || behaviour.is_empty() {
            faults.push(format!("{id} says nothing"));
        }
        if tests.is_empty() {
            faults.push(format!("{id} has no test"));
        }
        for test in tests {
            if !exists(test) {
                faults.push(format!("{id}: there is no test {test}"));
            }
            by_test.entry(test).or_default().insert(id.clone());
        }
    }
    for (test, comment) in room {
        let (said, listed) = (numbers(comment), by_test.remove(test.as_str()).unwrap_or_default());
        if said.is_empty() {
            faults.push(format!("{test} names no clause"));
        }
        if said != listed {
            faults.push(format!("{test} says {said:?}, the table has it for {listed:?}"));
        }
    }
    faults
}

/// The tests of the room, `module::name`, with their doc comments.
fn room() -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(root().join(ROOM)).expect("the room of the clauses") {
        let path = entry.expect("an entry").path();
        let module = path.file_stem().and_then(|stem| stem.to_str()).expect("a name").to_owned();
        let source = std::fs::read_to_string(&path).expect("a source");
        all.extend(tests_in(&source).into_iter().map(|(name, doc)| (format!("{module}::{name}"), doc)));
    }
    all
}

fn document() -> String {
    std::fs::read_to_string(root().join("docs/CONNTRACK.md")).expect("docs/CONNTRACK.md")
}

fn exists(test: &str) -> bool {
    place(test).is_some_and(|(path, name)| has_test(&std::fs::read_to_string(path).expect("a source"), name))
}

#[test]
fn every_clause_has_its_tests_and_every_test_its_clause() {
    let room = room();
    let faults = faults(&document(), &room, exists);
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
    // A table that was not found has no faults either.
    let rows = clauses(&document()).0;
    assert!(rows.len() >= 100 && room.len() >= 60, "{} clauses, {} tests", rows.len(), room.len());
}

/// Each kind of fault is found: the table with one thing changed.
#[test]
fn a_fault_in_the_table_is_found() {
    let (document, room) = (document(), room());
    let line = document.lines().find(|line| line.starts_with("| C5961-01 ")).expect("a row");
    let test = "`resets::an_rst_outside_the_window_is_dropped`";
    let other = "`resets::an_exact_rst_ends_the_connection`";
    assert!(line.contains(test), "{line}");
    let changed = |new: String| document.replace(line, &new);
    let cases = [
        ("C5961-01 has no test", changed(line.replace(test, ""))),
        ("there is no test resets::gone", changed(line.replace(test, "`resets::gone`"))),
        ("there is no test gone::gone", changed(line.replace(test, "`gone::gone`"))),
        ("a test that is not in backquotes", changed(line.replace(test, test.trim_matches('`')))),
        ("C5961-01 stands twice", changed(format!("{line}\n{line}"))),
        ("C1-01 stands below RFC 5961", changed(line.replace("C5961-01", "C1-01"))),
        ("not four cells", changed(format!("{line} more |"))),
        ("the table has it for {}", changed(line.replace(test, other))),
        ("the table has it for {}", changed(String::new())),
        ("C5961-01 says nothing", changed(format!("| C5961-01 | x |  | {test} |"))),
    ];
    for (fault, document) in cases {
        let found = faults(&document, &room, exists);
        assert!(found.iter().any(|one| one.contains(fault)), "{fault}: {found:?}");
    }
    let mut nameless = room;
    nameless.insert("resets::new".to_owned(), " What it holds.".to_owned());
    assert_eq!(faults(&document, &nameless, exists), ["resets::new names no clause"]);
}

/// A test that is commented out, left out, or not marked as one does not count. (Nothing is
/// ignored: `tests/purity.rs` sees to that.)
#[test]
fn only_a_test_that_runs_counts() {
    let source = "
        /// RFC 1 §2 (C1-02, C1-04 to C1-06): it runs.
        #[test]
        fn runs() {}
        #[test]
        #[cfg(any())]
        fn conditional() {}
        fn helper() {}
        // #[test]
        // fn commented() {}
    ";
    assert!(has_test(source, "runs"));
    for name in ["conditional", "helper", "commented", "absent"] {
        assert!(!has_test(source, name), "{name}");
    }
    let comment = &tests_in(source)["runs"];
    let expected = ["C1-02", "C1-04", "C1-05", "C1-06"].map(str::to_owned);
    assert_eq!(numbers(comment), BTreeSet::from(expected));
}
