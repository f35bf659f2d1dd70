//! Captures that nobody here wrote, through `halfgate replay`: a folder named by
//! the environment variable HALFGATE_CAPTURES (`tests/run.sh --captures DIR`) with
//! `expected.tsv`, a row a connection, and `floods.tsv`. Zeek's `conn_state` and
//! `history` must be ours, and the phase must be the one that the kernel's
//! conntrack came to, or docs/CONNTRACK.md must say why not. Without the folder
//! only the document is held against itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

const CONNTRACK: &str = include_str!("../docs/CONNTRACK.md");

/// What of a row differs.
type Difference = (String, String, &'static str);

fn folder() -> Option<PathBuf> {
    std::env::var_os("HALFGATE_CAPTURES").map(PathBuf::from)
}

/// A table of tab-separated values, by the names of its columns.
fn table(path: &Path) -> Vec<BTreeMap<String, String>> {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut lines = text.lines();
    let names: Vec<&str> = lines.next().unwrap_or_default().split('\t').collect();
    lines
        .map(|line| {
            names.iter().zip(line.split('\t')).map(|(n, w)| ((*n).to_owned(), w.to_owned())).collect()
        })
        .collect()
}

/// The connections of a capture, as `halfgate replay` tells them.
fn replay(path: &Path) -> Vec<Value> {
    let output = Command::new(env!("CARGO_BIN_EXE_halfgate")).arg("replay").arg(path).arg("--json").output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}: {}", path.display(), String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn end(row: &Value, address: &str, port: &str) -> String {
    format!("{}:{}", row[address].as_str().unwrap(), row[port])
}

/// The rows of a connection, whichever way round it is told.
fn rows_of<'a>(rows: &'a [Value], connection: &str) -> Vec<&'a Value> {
    let (src, dst) = connection.split_once('>').unwrap();
    let mine = |row: &&Value| {
        let (from, to) = (end(row, "src", "sport"), end(row, "dst", "dport"));
        row["proto"] == "tcp" && ((from == src && to == dst) || (from == dst && to == src))
    };
    rows.iter().filter(mine).collect()
}

/// Whether our phase is what conntrack's last state means.
fn agrees(last: &str, path: &str, phase: Option<&str>) -> bool {
    let expected = match last.split(' ').next().unwrap_or_default() {
        "SYN_SENT" => Some("syn_sent"),
        "SYN_RECV" => Some("syn_received"),
        "ESTABLISHED" => Some("established"),
        "TIME_WAIT" => Some("time_wait"),
        "CLOSE" => Some("reset"),
        // A SYN that an RST answered: conntrack forgets the connection at once.
        "-" if path.ends_with("DESTROY") => Some("reset"),
        "-" => None,
        other => panic!("conntrack's state {other} is not known here"),
    };
    phase == expected
}

/// The documented differences: capture, connection and what differs.
fn documented() -> BTreeSet<Difference> {
    let section =
        CONNTRACK.split("\n## Captures\n").nth(1).expect("docs/CONNTRACK.md has a section Captures");
    let section = section.split("\n## ").next().unwrap();
    let cells = |line: &str| -> Vec<String> {
        line.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`').to_owned()).collect()
    };
    let rows = section.lines().filter(|line| line.starts_with('|')).skip(2).map(cells);
    rows.map(|row| {
        assert!(row[3].contains("RFC ") || row[3].contains("Zeek"), "{row:?} names what decides");
        let what = ["phase", "zeek"].into_iter().find(|what| *what == row[2]);
        (row[0].clone(), row[1].clone(), what.unwrap_or_else(|| panic!("{row:?}: phase or zeek")))
    })
    .collect()
}

#[test]
fn the_documented_differences_can_be_read() {
    assert!(!documented().is_empty());
}

#[test]
fn every_connection_is_as_expected_or_documented() {
    let Some(folder) = folder() else { return };
    let expected = table(&folder.join("expected.tsv"));
    assert!(!expected.is_empty(), "expected.tsv has rows");
    let mut replayed: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    let (mut found, mut told) = (BTreeSet::new(), Vec::new());
    for row in &expected {
        let (capture, connection) = (&row["capture"], &row["connection"]);
        let rows = replayed.entry(capture.clone()).or_insert_with(|| replay(&folder.join(capture)));
        let rows = rows_of(rows, connection);
        assert!(!rows.is_empty(), "{capture} {connection} is listed");
        let packets: u64 = rows
            .iter()
            .flat_map(|row| ["original", "reply"].map(|way| row[way]["packets"].as_u64().unwrap()))
            .sum();
        assert_eq!(packets.to_string(), row["packets"], "{capture} {connection}: packets");
        let (state, history) = (&row["zeek_conn_state"], &row["zeek_history"]);
        let is_given = !matches!(state.as_str(), "-" | "");
        let zeek = |ours: &&&Value| ours["conn_state"] == **state && ours["history"] == **history;
        if is_given && !rows.iter().any(|row| zeek(&row)) {
            found.insert((capture.clone(), connection.clone(), "zeek"));
            told.push(format!("{capture} {connection}: zeek {state} {history}, ours {rows:?}"));
        }
        let last = rows.last().unwrap()["phase"].as_str();
        if !agrees(&row["conntrack_last"], &row["conntrack_path"], last) {
            found.insert((capture.clone(), connection.clone(), "phase"));
            told.push(format!("{capture} {connection}: conntrack {}, ours {rows:?}", row["conntrack_last"]));
        }
    }
    assert_eq!(found, documented(), "found and documented differ:\n{}", told.join("\n"));
}

#[test]
fn floods_and_scans_are_counted_as_the_kernel_counts_them() {
    let Some(folder) = folder() else { return };
    for row in table(&folder.join("floods.tsv")) {
        let rows = replay(&folder.join(&row["capture"]));
        let expected = row.iter().find(|(name, _)| name.starts_with("expected")).unwrap().1;
        let sum = |pick: &dyn Fn(&Value) -> u64| rows.iter().map(pick).sum::<u64>();
        let invalid = sum(&|row| {
            row["verdicts"]["drop"].as_u64().unwrap() + row["verdicts"]["reset"].as_u64().unwrap()
        });
        let half_open = sum(&|row| u64::from(row["phase"] == "syn_sent"));
        let tracked = sum(&|row| u64::from(!row["phase"].is_null()));
        let number = |what: &str| -> Option<u64> {
            let before = expected.split(what).next().filter(|_| expected.contains(what))?;
            before.trim().rsplit([' ', ',']).next()?.parse().ok()
        };
        let wanted = [
            (number("half-open connections"), half_open),
            (number("connections").filter(|_| !expected.contains("half-open")), tracked),
            (number("invalid packets"), invalid),
        ];
        assert!(
            wanted.iter().any(|(number, _)| number.is_some()),
            "{expected}: no number that is known here"
        );
        for (number, ours) in wanted {
            assert!(
                number.is_none_or(|number| number == ours),
                "{}: {expected}; ours {ours}",
                row["capture"]
            );
        }
    }
}
