//! What the documents say, held against the code.

use halfgate::conntrack::{
    Direction, Phase,
    tcp::{Kind, meaning},
};

const CONNTRACK: &str = include_str!("../docs/CONNTRACK.md");

fn cells(line: &str) -> Vec<&str> {
    line.trim().trim_matches('|').split('|').map(str::trim).collect()
}

#[test]
fn every_cell_of_the_state_table_is_the_codes() {
    let mut lines = CONNTRACK.lines().skip_while(|line| !line.starts_with("| phase | original SYN"));
    let header = cells(lines.next().expect("the state table is in docs/CONNTRACK.md"));
    let mut compared = 0;
    for line in lines.skip(1).take_while(|line| line.starts_with('|')) {
        let row = cells(line);
        let phase = Phase::from_name(row[0]).unwrap_or_else(|| panic!("{} is a phase", row[0]));
        for (column, documented) in header.iter().zip(&row).skip(1) {
            let (who, kind) = column.split_once(' ').expect("direction and kind");
            let direction = if who == "original" { Direction::Original } else { Direction::Reply };
            let kind = Kind::ALL.into_iter().find(|k| k.name() == kind).expect("a kind");
            let coded = meaning(direction, kind, phase).expect("a phase of TCP").name();
            assert_eq!(*documented, coded, "{phase} {column}");
            compared += 1;
        }
    }
    assert_eq!(compared, 8 * 2 * 5);
}

#[test]
fn the_codes_own_picture_of_the_table_is_the_documents() {
    let source = include_str!("../src/conntrack/tcp.rs");
    let drawn = |phase: &str| {
        let line = source.lines().find(|line| line.starts_with(&format!("//! {phase} "))).expect("drawn");
        line.split_whitespace().skip(2).map(str::to_owned).collect::<Vec<_>>()
    };
    for line in CONNTRACK.lines().skip_while(|l| !l.starts_with("| phase | original SYN")).skip(2).take(8) {
        let row = cells(line);
        assert_eq!(drawn(row[0]), row[1..], "{}", row[0]);
    }
}

#[test]
fn the_timers_defaults_are_the_codes() {
    for phase in Phase::ALL {
        let named = format!("`{phase}`");
        assert!(CONNTRACK.contains(&named), "{named} is documented");
    }
}
