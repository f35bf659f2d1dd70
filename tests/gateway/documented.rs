//! The commands that docs/OPERATIONS.md shows, as they stand there.

use std::fs;

use halfgate::wire::{Flags, FourTuple, SegmentBuilder};

use crate::harness::{Done, Gateway, rules};

const OPERATIONS: &str = include_str!("../../docs/OPERATIONS.md");

/// Every `halfgate` command in the blocks of shell, without its comment.
fn commands() -> Vec<Vec<String>> {
    let mut commands = Vec::new();
    let mut inside = false;
    for line in OPERATIONS.lines() {
        if line.starts_with("```") {
            inside = line == "```sh";
        } else if inside {
            let line = line.split(" # ").next().unwrap_or(line).trim();
            let line = line.strip_prefix("halfgate ").unwrap_or_else(|| panic!("not ours: {line}"));
            commands.push(words(line));
        }
    }
    commands
}

/// Words, those in double quotes as one.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (number, part) in line.split('"').enumerate() {
        if number % 2 == 1 {
            words.push(part.to_owned());
        } else {
            words.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    words
}

/// A capture of one SYN: pcap, raw IP.
fn capture() -> Vec<u8> {
    let tuple =
        FourTuple { src: [192, 168, 10, 9].into(), src_port: 4000, dst: [192, 0, 2, 1].into(), dst_port: 80 };
    let packet = SegmentBuilder::new(tuple).flags(Flags::SYN).build().bytes;
    let len = u32::try_from(packet.len()).unwrap();
    let words = [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65_535, 101, 1_700_000_000, 0, len, len];
    words.into_iter().flat_map(u32::to_le_bytes).chain(packet).collect()
}

#[test]
fn the_documented_commands_do_what_they_are_documented_for() {
    let gateway =
        Gateway::start(&rules("rules: [{ name: web, from: outside, service: tcp/80, action: accept }]"));
    let here = gateway.directory().join("rules.yaml").display().to_string();
    let first = gateway.directory().join("first.yaml").display().to_string();
    let recorded = gateway.directory().join("recorded.pcap").display().to_string();
    fs::write(&recorded, capture()).unwrap();
    let mut ran = 0;
    for mut command in commands() {
        // The file that `init` writes is what the next commands read.
        for word in &mut command {
            match word.as_str() {
                "rules.yaml" | "stricter.yaml" => word.clone_from(&first),
                capture if capture.ends_with(".pcap") => word.clone_from(&recorded),
                _ => {}
            }
        }
        let arguments: Vec<&str> = command.iter().map(String::as_str).collect();
        let done: Done = gateway.cli(&arguments);
        assert_eq!(done.code, 0, "halfgate {arguments:?}: {done:?}");
        if command[0] == "init" {
            fs::write(&first, done.out).unwrap();
        }
        ran += 1;
    }
    assert!(ran > 12, "{ran} commands");
    let status = gateway.json(&["status"]).remove(0);
    assert_eq!((&status["rules"], &status["confirm_within"]), (&here.into(), &serde_json::Value::Null));
    let live = status["live"].to_string();
    assert!(live.contains("embryonic.per_source"), "what was set is in force: {live}");
}
