//! Machines that lack something: each time one sentence that says what to do.

use std::{ffi::CString, os::unix::fs::symlink, path::Path};

use halfgate::{
    policy::Fail,
    sys::table::{self, Diversion, TableError, TableState},
};

use crate::world::{Host, run, spec};

const RESTORE: [&str; 3] = ["iptables-restore", "iptables-nft-restore", "iptables-legacy-restore"];
const RESTORE6: [&str; 3] = ["ip6tables-restore", "ip6tables-nft-restore", "ip6tables-legacy-restore"];

fn mount(source: &str, target: &str, kind: &str, flags: libc::c_ulong) {
    let [source, to, kind] = [source, target, kind].map(|text| CString::new(text).expect("text"));
    // SAFETY: the strings end with a zero and outlive the call; no data is passed.
    let result = unsafe { libc::mount(source.as_ptr(), to.as_ptr(), kind.as_ptr(), flags, std::ptr::null()) };
    assert_eq!(result, 0, "{target}: {}", std::io::Error::last_os_error());
}

/// Gives this thread a view of the files of its own, that goes with it.
fn own_files() {
    // SAFETY: takes a flag, touches no memory.
    assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNS) }, 0, "{}", std::io::Error::last_os_error());
    mount("none", "/", "", libc::MS_REC | libc::MS_PRIVATE);
}

/// Has a /usr/sbin in which some tools are missing and others always refuse.
fn tools(missing: &[&str], refusing: &[&str]) {
    own_files();
    mount("tmpfs", "/run", "tmpfs", 0);
    for directory in ["/run/real", "/run/sbin"] {
        std::fs::create_dir(directory).expect("root");
    }
    mount("/usr/sbin", "/run/real", "", libc::MS_BIND);
    for entry in std::fs::read_dir("/run/real").expect("it is there") {
        let entry = entry.expect("it is there");
        let name = entry.file_name().into_string().expect("text");
        let real =
            if refusing.contains(&name.as_str()) { Path::new("/bin/false").to_owned() } else { entry.path() };
        if !missing.contains(&name.as_str()) {
            symlink(real, format!("/run/sbin/{name}")).expect("root");
        }
    }
    mount("/run/sbin", "/usr/sbin", "", libc::MS_BIND);
}

fn one_sentence(error: &TableError, says: &str) {
    let text = error.to_string();
    assert!(text.contains(says) && !text.contains('\n'), "{text}");
}

/// Runs where the kernel's nftables can't queue, and nowhere else.
fn with_xtables(work: fn()) {
    Host::new().run(move || {
        if table::probe().expect("one way or the other") == Diversion::Xtables {
            work();
        }
    });
}

#[test]
fn without_nft() {
    Host::new().run(|| {
        tools(&["nft"], &[]);
        let error = table::probe().expect_err("nft is gone");
        assert!(matches!(error, TableError::NoNft), "{error}");
        one_sentence(&error, "install the package nftables");
        one_sentence(&table::unload().expect_err("nft is gone"), "install the package nftables");
    });
}

#[test]
fn without_iptables() {
    with_xtables(|| {
        tools(&RESTORE, &[]);
        one_sentence(
            &table::probe().expect_err("it is gone"),
            "load the module nft_queue, or install the package",
        );
    });
}

#[test]
fn without_ip6tables() {
    with_xtables(|| {
        tools(&RESTORE6, &[]);
        one_sentence(&table::probe().expect_err("it is gone"), "ip6tables was not found");
        let error = table::install(&spec("f", Fail::Closed), Diversion::Xtables).expect_err("it is gone");
        one_sentence(&error, "install the package iptables");
        let left = run("nft", "list ruleset");
        assert!(left.is_empty(), "the half of IPv4 is taken back: {left}");
    });
}

#[test]
fn without_nfqueue_in_the_kernel() {
    with_xtables(|| {
        tools(&[], &RESTORE);
        let error = table::probe().expect_err("all refuse");
        assert!(matches!(error, TableError::NoQueue { family: "iptables", .. }), "{error}");
        one_sentence(&error, "load the module nft_queue (or xt_NFQUEUE");
    });
}

#[test]
fn the_second_kind_of_iptables_is_used_where_the_first_refuses() {
    with_xtables(|| {
        tools(&[], &[&RESTORE[..2], &RESTORE6[..2]].concat());
        table::install(&spec("f", Fail::Closed), Diversion::Xtables).expect("the legacy kind can");
        let rules = run("iptables-legacy", "-t mangle -S halfgate");
        assert_eq!(rules.matches("NFQUEUE").count(), 3, "{rules}");
        let whole = TableState::Live { diversion: Diversion::Xtables, intact: true };
        assert_eq!(table::state().expect("asked"), whole);
        table::unload().expect("it unloads");
        assert_eq!(run("iptables-legacy", "-t mangle -S FORWARD"), "-P FORWARD ACCEPT\n");
    });
}

#[test]
fn a_kernel_without_ipv6_needs_no_ip6tables() {
    with_xtables(|| {
        tools(&RESTORE6, &[]);
        mount("tmpfs", "/proc/sys/net", "tmpfs", 0);
        assert_eq!(table::probe().expect("IPv4 is enough"), Diversion::Xtables);
        table::install(&spec("f", Fail::Closed), Diversion::Xtables).expect("it loads");
        let whole = TableState::Live { diversion: Diversion::Xtables, intact: true };
        assert_eq!(table::state().expect("asked"), whole);
        assert!(!run("nft", "list ruleset").contains("table ip6"));
        table::unload().expect("it unloads");
        assert!(run("nft", "list ruleset").is_empty());
    });
}

#[test]
fn a_change_that_fails_half_way_is_taken_back() {
    with_xtables(|| {
        table::install(&spec("fi", Fail::Closed), Diversion::Xtables).expect("it loads");
        let before = run("nft", "-s list ruleset");
        tools(&[], &RESTORE6);
        let mut other = spec("fio", Fail::Open);
        other.queue_base = 100;
        let error = table::install(&other, Diversion::Xtables).expect_err("IPv6 refuses");
        assert!(matches!(error, TableError::NoQueue { family: "ip6tables", .. }), "{error}");
        assert_eq!(run("nft", "-s list ruleset"), before);
    });
}
