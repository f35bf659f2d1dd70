//! The kernel side's rules, loaded for real in network namespaces of their own:
//! what is loaded, replaced and removed, and that nothing else is touched.
#![allow(unsafe_code)]

use std::process::{Command, Stdio};

use halfgate::{
    policy::{Fail, Hooks, Marks},
    sys::table::{self, Diversion, TableSpec, TableState},
};

/// Moves this thread, and what it starts, into a network namespace of its own.
/// It goes when the thread ends.
fn fresh_namespace() {
    // SAFETY: takes a flag, touches no memory.
    let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    assert_eq!(result, 0, "these tests need root: {}", std::io::Error::last_os_error());
    run("ip", &["link", "set", "lo", "up"]);
}

/// Runs a command that must succeed; its standard output.
fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("the program is installed");
    assert!(
        output.status.success(),
        "{program} {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("text")
}

/// Everything that decides about packets here, without counters and dates.
fn everything() -> String {
    let mut text = run("nft", &["-s", "list", "ruleset"]);
    for family in ["ip", "ip6"] {
        let names = std::fs::read_to_string(format!("/proc/thread-self/net/{family}_tables_names"));
        for name in names.unwrap_or_default().lines() {
            let rules = run(&format!("{family}tables-legacy"), &["-t", name, "-S"]);
            text.push_str(&format!("# legacy {family} {name}\n{rules}"));
        }
    }
    text
}

fn spec(hooks: &str, fail: Fail) -> TableSpec {
    let on = |letter| hooks.contains(letter);
    TableSpec {
        hooks: Hooks { forward: on('f'), input: on('i'), output: on('o') },
        fail,
        marks: Marks { shift: 24 },
        queue_base: 10,
        queue_count: 2,
    }
}

#[test]
fn this_kernel_can_divert_and_probing_leaves_nothing() {
    fresh_namespace();
    let before = everything();
    table::probe().expect("one way or the other");
    assert_eq!(everything(), before);
}

#[test]
fn installed_then_unloaded_leaves_what_was_there() {
    fresh_namespace();
    let before = everything();
    let diversion = table::probe().expect("one way or the other");
    for hooks in ["f", "i", "o", "fi", "fio"] {
        for fail in [Fail::Closed, Fail::Open] {
            table::install(&spec(hooks, fail), diversion).expect("it loads");
            assert_eq!(table::state().expect("asked"), TableState::Live { diversion, intact: true });
            eprintln!("{}", everything());
            assert!(table::unload().expect("it unloads"));
            assert_eq!(everything(), before, "{hooks} {fail:?}");
            assert!(!table::unload().expect("twice is fine"));
            assert_eq!(table::state().expect("asked"), TableState::Absent);
        }
    }
    let _ = Diversion::Native;
}
