//! The rules of the house, read from its sources: the pure rooms touch nothing
//! outside, dependencies point one way, and every file says what it is.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The rooms from the inside out. Each may use itself and those before it.
const ROOMS: [&str; 8] = ["wire", "conntrack", "policy", "engine", "config", "sys", "daemon", "cli"];

/// How many of them are pure.
const PURE: usize = 5;

/// What no pure room may name: a path's beginning.
const IMPURE: [&str; 24] = [
    "std::fs",
    "std::thread",
    "std::env",
    "std::process",
    "std::os",
    "std::io::stdin",
    "std::io::stdout",
    "std::io::stderr",
    "std::time::Instant",
    "std::time::SystemTime",
    "std::net::TcpStream",
    "std::net::TcpListener",
    "std::net::UdpSocket",
    "std::net::ToSocketAddrs",
    "std::hash::RandomState",
    "std::collections::hash_map::RandomState",
    "libc",
    "tokio",
    "rand",
    "getrandom",
    "nfq",
    "nftables",
    "log",
    "tracing",
];

/// Macros that write to the terminal.
const PRINTING: [&str; 5] = ["print!", "println!", "eprint!", "eprintln!", "dbg!"];

#[test]
fn pure_rooms_touch_nothing_outside_and_dependencies_point_one_way() {
    let mut complaints = Vec::new();
    for (rank, room) in ROOMS.iter().enumerate() {
        let files = files_of(room);
        assert!(!files.is_empty(), "{room} has no files");
        for file in files.iter().filter(|file| !is_test(file)) {
            for complaint in judge(&fs::read_to_string(file).unwrap(), rank) {
                complaints.push(format!("{}: {complaint}", file.display()));
            }
        }
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[test]
fn every_file_says_what_it_is() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut complaints = Vec::new();
    let files = rust_files(&root.join("src")).into_iter().chain(rust_files(&root.join("tests")));
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        if !text.starts_with("//! ") {
            complaints.push(format!("{} does not begin with `//!`", file.display()));
        }
        if file.file_name().is_some_and(|name| name == "mod.rs") {
            complaints.push(format!("{}: name it after its module", file.display()));
        }
        // Spelled so that this line is not one itself.
        for word in
            [concat!("todo", "!("), concat!("TO", "DO"), concat!("FIX", "ME"), concat!("#[ig", "nore")]
        {
            if text.contains(word) {
                complaints.push(format!("{} has {word}", file.display()));
            }
        }
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[test]
fn the_judge_sees_what_is_hidden_in_groups_and_skips_what_is_no_code() {
    let bad = "use std::{collections::HashMap, net::{IpAddr, UdpSocket}, time::{Duration, Instant}};\n\
               use crate::{wire::Packet, sys::{clock, queue::Queue}};\n\
               fn f() { let _ = std::fs::read(\"x\"); super::super::daemon(); println!(\"{}\", 1); }";
    let complaints = judge(bad, 1).join("; ");
    for wanted in
        ["std::net::UdpSocket", "std::time::Instant", "crate::sys::clock", "std::fs::read", "println!"]
    {
        assert!(complaints.contains(wanted), "{wanted} in {complaints}");
    }
    assert!(!complaints.contains("crate::wire"), "{complaints}");
    let good = "// std::fs is not for us\n/* std::thread, /* nested */ libc:: */\n\
                use std::{time::Duration, net::IpAddr};\n\
                const WHY: &str = \"std::env \\\" libc::\"; const QUOTE: char = '\"';\n\
                const RAW: &str = r#\"std::process \" crate::cli\"#;\n\
                fn f<'a>(x: &'a str) -> &'a str { x }\n\
                #[cfg(test)]\nmod tests { use std::fs; fn g() { std::env::args(); } }\n";
    assert_eq!(judge(good, 0), Vec::<String>::new());
}

/// What is wrong with a file of the room with this rank.
fn judge(text: &str, rank: usize) -> Vec<String> {
    let code = without_tests(&code_only(text));
    let mut complaints = Vec::new();
    let paths = used(&code).into_iter().chain(named(&code));
    for path in paths {
        let of_us = path.strip_prefix("crate::").and_then(|rest| rest.split("::").next());
        let other = of_us.and_then(|name| ROOMS.iter().position(|room| *room == name));
        if let Some(other) = other.filter(|other| *other > rank) {
            complaints.push(format!("{path}: {} must not use {}", ROOMS[rank], ROOMS[other]));
        }
        let impure = |start: &&&str| path == **start || path.starts_with(&format!("{start}::"));
        if rank < PURE && IMPURE.iter().any(|start| impure(&start)) {
            complaints.push(format!("{path}: {} is pure", ROOMS[rank]));
        }
    }
    for printing in PRINTING {
        if rank < PURE && code.match_indices(printing).any(|(at, _)| !ends_in_word(&code[..at])) {
            complaints.push(format!("{printing}: {} is pure", ROOMS[rank]));
        }
    }
    complaints
}

/// The text without comments and without what is inside of quotes.
fn code_only(text: &str) -> String {
    let mut code = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let (kept, len) = if rest.starts_with("//") {
            ("", rest.find('\n').unwrap_or(rest.len()))
        } else if rest.starts_with("/*") {
            (" ", block_comment(rest))
        } else if let Some(len) = raw_string(rest).filter(|_| !ends_in_word(&code)) {
            ("\"\"", len)
        } else if first == '"' {
            ("\"\"", string(rest))
        } else if let Some(len) = character(rest) {
            ("' '", len)
        } else {
            (&rest[..first.len_utf8()], first.len_utf8())
        };
        code.push_str(kept);
        rest = &rest[len..];
    }
    code
}

fn ends_in_word(text: &str) -> bool {
    text.ends_with(|last: char| last.is_alphanumeric() || last == '_')
}

fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        let rest = &text.as_bytes()[at..];
        if rest.starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                break;
            }
        } else {
            at += 1;
        }
    }
    at
}

/// The length of `r"..."`, `r#"..."#`, `br"..."`, if one begins here.
fn raw_string(text: &str) -> Option<usize> {
    let body = text.strip_prefix("br").or_else(|| text.strip_prefix('r'))?;
    let hashes = body.chars().take_while(|next| *next == '#').count();
    let inside = body[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let length = inside.find(&end).map_or(inside.len(), |at| at + end.len());
    Some(text.len() - inside.len() + length)
}

fn string(text: &str) -> usize {
    let mut escaped = false;
    for (at, next) in text.char_indices().skip(1) {
        match next {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The length of a character literal; a lifetime is none.
fn character(text: &str) -> Option<usize> {
    let inside = text.strip_prefix('\'')?;
    if inside.starts_with('\\') {
        return inside[2..].find('\'').map(|at| at + 4);
    }
    let first = inside.chars().next()?;
    inside[first.len_utf8()..].starts_with('\'').then_some(first.len_utf8() + 2)
}

/// The code without items that only tests have.
fn without_tests(code: &str) -> String {
    let mut kept = String::new();
    let mut rest = code;
    while let Some(at) = rest.find("#[cfg(test)]") {
        kept.push_str(&rest[..at]);
        rest = &rest[at..];
        let end = rest.find([';', '{']).unwrap_or(rest.len());
        let length = if rest[end..].starts_with('{') { end + braces(&rest[end..]) } else { end };
        rest = rest.get(length..).unwrap_or("");
    }
    kept + rest
}

/// The length of a text in braces.
fn braces(text: &str) -> usize {
    let mut depth = 0;
    for (at, next) in text.char_indices() {
        match next {
            '{' => depth += 1,
            '}' if depth == 1 => return at + 1,
            '}' => depth -= 1,
            _ => {}
        }
    }
    text.len()
}

/// The paths of all `use` items, groups taken apart.
fn used(code: &str) -> Vec<String> {
    let mut paths = Vec::new();
    for (at, _) in code.match_indices("use ") {
        if !ends_in_word(&code[..at]) {
            let tree = code[at + 4..].split(';').next().unwrap_or("");
            expand("", tree, &mut paths);
        }
    }
    paths
}

fn expand(before: &str, tree: &str, paths: &mut Vec<String>) {
    let tree = tree.trim();
    let Some(open) = tree.find('{') else {
        let name = tree.split(" as ").next().unwrap_or("").trim();
        paths.push(format!("{before}{name}").trim_start_matches("::").to_owned());
        return;
    };
    let before = format!("{before}{}", tree[..open].trim());
    let inside = &tree[open + 1..tree.rfind('}').unwrap_or(tree.len())];
    let (mut depth, mut start) = (0, 0);
    for (at, next) in inside.char_indices().chain([(inside.len(), ',')]) {
        match next {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                if !inside[start..at].trim().is_empty() {
                    expand(&before, &inside[start..at], paths);
                }
                start = at + 1;
            }
            _ => {}
        }
    }
}

/// Paths that stand in the code itself.
fn named(code: &str) -> Vec<String> {
    let words = code.split(|next: char| !(next.is_alphanumeric() || next == '_' || next == ':'));
    words.filter(|word| word.contains("::")).map(|word| word.trim_start_matches("::").to_owned()).collect()
}

/// A file that only tests have. Asked below `src`: the path to the house may
/// itself have such a name in it.
fn is_test(file: &Path) -> bool {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let below = file.strip_prefix(src).unwrap_or(file);
    below.components().any(|part| part.as_os_str() == "tests" || part.as_os_str() == "tests.rs")
}

/// A room's root file and everything below it.
fn files_of(room: &str) -> Vec<PathBuf> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = rust_files(&src.join(room));
    files.push(src.join(format!("{room}.rs")));
    files.retain(|file| file.exists());
    files
}

fn rust_files(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let Ok(entries) = fs::read_dir(directory) else { return files };
    for path in entries.map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}
