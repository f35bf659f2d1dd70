//! Start, death, restart, end; and interfaces that come and go.

use std::time::Duration;

use halfgate::sys::netns::Family;

use crate::harness::{Gateway, SOON, accept, rules, s, say};

/// SIGTERM, SIGINT, SIGKILL (signal(7)).
const SIGTERM: i32 = 15;
const SIGINT: i32 = 2;
const SIGKILL: i32 = 9;

/// A table of the operator's own that must come out as it went in.
const FOREIGN: &str = "table inet operators {\n\
                       chain forward { type filter hook forward priority 10; policy accept; counter; }\n\
                       }\n";

fn open() -> String {
    rules("rules: [{ name: web, from: outside, service: tcp/80, action: accept }]")
}

fn connects(gateway: &Gateway) {
    for family in Family::BOTH {
        let listener = gateway.listen(family, 80);
        let client = gateway.connect(family, 80);
        let (server, _) = accept(&listener);
        say(&client, &server, "through");
        assert!(gateway.connection(client.local_addr().unwrap()).is_some(), "and the firewall saw it");
    }
}

/// Chains and hooks of the operator's table, without the counter.
fn foreign(gateway: &Gateway) -> String {
    gateway.tool("nft", &["-s", "list", "table", "inet", "operators"], "")
}

fn ends_cleanly_by(signal: i32) {
    let mut gateway = Gateway::without_firewall(&open());
    gateway.tool("nft", &["-f", "-"], FOREIGN);
    let before = foreign(&gateway);
    gateway.start_firewall();
    connects(&gateway);
    assert!(gateway.kernel_rules().contains("halfgate"), "there is a table");
    gateway.firewall().signal(signal).unwrap();
    let status = gateway.firewall().wait(s(10)).expect("it ends");
    assert_eq!(status.code(), Some(0), "{status}: {}", gateway.log());
    assert_eq!(gateway.kernel_rules(), "", "nothing is left in the kernel");
    assert!(!gateway.socket().exists(), "nor the socket");
    assert_eq!(foreign(&gateway), before, "the operator's table is as it was");
}

#[test]
fn sigterm_removes_everything() {
    ends_cleanly_by(SIGTERM);
}

#[test]
fn sigint_removes_everything() {
    ends_cleanly_by(SIGINT);
}

#[test]
fn what_a_killed_daemon_left_is_replaced_at_the_next_start() {
    let mut gateway = Gateway::start(&open());
    connects(&gateway);
    let fresh = gateway.kernel_rules();
    gateway.firewall().signal(SIGKILL).unwrap();
    gateway.firewall().wait(s(5)).unwrap();
    assert!(gateway.kernel_rules().contains("halfgate"), "its table holds the gateway meanwhile");
    let _listener = gateway.listen(Family::V4, 80);
    let closed = gateway.try_connect(Family::V4, 80, Duration::from_millis(1200)).unwrap_err();
    assert_eq!(closed.kind(), std::io::ErrorKind::TimedOut, "fail: closed");
    drop(_listener);
    gateway.start_firewall();
    connects(&gateway);
    let again = gateway.kernel_rules();
    assert_eq!(again.lines().count(), fresh.lines().count(), "nothing twice:\n{fresh}\nthen\n{again}");
    gateway.firewall().signal(SIGTERM).unwrap();
    gateway.firewall().wait(s(10)).unwrap();
    assert_eq!(gateway.kernel_rules(), "");
}

#[test]
fn fail_open_lets_traffic_pass_when_the_daemon_died() {
    let mut gateway = Gateway::start(&format!("{}fail: open\n", open()));
    connects(&gateway);
    gateway.firewall().signal(SIGKILL).unwrap();
    gateway.firewall().wait(s(5)).unwrap();
    let listener = gateway.listen(Family::V4, 80);
    let client = gateway.connect(Family::V4, 80);
    let (server, _) = accept(&listener);
    say(&client, &server, "open by choice");
}

#[test]
fn unload_removes_everything_with_and_without_a_daemon() {
    let mut gateway = Gateway::start(&open());
    gateway.ok(&["unload"]);
    gateway.eventually("the kernel is empty", SOON, || gateway.kernel_rules().is_empty());
    drop(gateway.firewall().terminate());
    gateway.start_firewall();
    gateway.firewall().signal(SIGKILL).unwrap();
    gateway.firewall().wait(s(5)).unwrap();
    assert_ne!(gateway.kernel_rules(), "");
    gateway.ok(&["unload"]);
    assert_eq!(gateway.kernel_rules(), "");
    gateway.ok(&["unload"]);
}

#[test]
fn an_interface_that_comes_back_with_another_index_is_the_same_zone() {
    let gateway = Gateway::start(&open());
    connects(&gateway);
    gateway.three.unlink_outside().unwrap();
    // Another link takes the old number's place in line.
    gateway.three.gateway.ip_batch("link add filler type veth peer name filling\n").unwrap();
    gateway.three.link_outside().unwrap();
    connects(&gateway);
}

#[test]
fn an_interface_that_does_not_exist_yet_is_followed() {
    let mut gateway = Gateway::without_firewall(&open());
    gateway.three.unlink_outside().unwrap();
    gateway.start_firewall();
    gateway.three.link_outside().unwrap();
    connects(&gateway);
}
