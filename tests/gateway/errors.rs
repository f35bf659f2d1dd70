//! What can't work is said in one sentence, with exit code 1.

use std::fs;

use crate::harness::{Done, Gateway, HALFGATE, rules, run};

/// nobody, on every Linux.
const NOBODY: u32 = 65534;

fn open() -> String {
    rules("rules: [{ name: web, from: outside, service: tcp/80, action: accept }]")
}

/// One sentence on standard error that holds one of these words, and code 1.
#[track_caller]
fn one_sentence(done: &Done, words: &[&str]) {
    assert_eq!(done.code, 1, "{done:?}");
    assert_eq!(done.err.trim().lines().count(), 1, "one line: {done:?}");
    assert!(words.iter().any(|word| done.err.contains(word)), "one of {words:?}: {done:?}");
    assert!(!done.err.contains("panicked"), "{done:?}");
}

/// `halfgate run` in the gateway, with another socket.
fn second(gateway: &Gateway) -> Done {
    let mut command = gateway.three.gateway.command(HALFGATE);
    command.arg("--socket").arg(gateway.directory().join("second.sock")).arg("run").arg(gateway.rules_file());
    run(&mut command)
}

#[test]
fn without_privileges() {
    let gateway = Gateway::without_firewall(&open());
    // A copy where nobody may read: the build directory may be closed to them.
    let public = gateway.directory().join("halfgate");
    fs::copy(HALFGATE, &public).unwrap();
    let mut command = gateway.three.gateway.command("setpriv");
    command.args([format!("--reuid={NOBODY}"), format!("--regid={NOBODY}"), "--clear-groups".to_owned()]);
    command.arg(&public).arg("--socket").arg(gateway.socket()).arg("run").arg(gateway.rules_file());
    let done = run(&mut command);
    one_sentence(&done, &["root", "CAP_NET_ADMIN"]);
    assert_eq!(gateway.kernel_rules(), "");
}

#[test]
fn without_nft() {
    let gateway = Gateway::without_firewall(&open());
    // An empty directory in the place of those that hold nft.
    let script = "mount -t tmpfs none /usr/sbin && exec \"$@\"";
    let mut command = gateway.three.gateway.command("unshare");
    command.args(["--mount", "sh", "-c", script, "sh", HALFGATE, "--socket"]);
    command.arg(gateway.socket()).arg("run").arg(gateway.rules_file());
    one_sentence(&run(&mut command), &["nft was not found", "nftables"]);
}

#[test]
fn a_second_daemon_in_the_same_gateway() {
    let gateway = Gateway::start(&open());
    let before = gateway.kernel_rules();
    one_sentence(&second(&gateway), &["already", "taken", "another"]);
    assert_eq!(gateway.kernel_rules(), before, "the first one's table is untouched");
    gateway.ok(&["status"]);
}

#[test]
fn a_socket_that_is_taken() {
    let gateway = Gateway::start(&open());
    // In another gateway, so that only the socket is in the way.
    let other = Gateway::without_firewall(&open());
    let mut command = other.three.gateway.command(HALFGATE);
    command.arg("--socket").arg(gateway.socket()).arg("run").arg(other.rules_file());
    one_sentence(&run(&mut command), &["control.sock"]);
    assert_eq!(other.kernel_rules(), "");
    gateway.ok(&["status"]);
}

#[test]
fn no_daemon_to_ask() {
    let gateway = Gateway::without_firewall(&open());
    one_sentence(&gateway.cli(&["connections"]), &["control.sock"]);
}

#[test]
fn a_rule_file_that_is_not_there_or_wrong() {
    let gateway = Gateway::without_firewall("version: 1\nrules: [{ name: a, action: accept, form: b }]\n");
    let mut command = gateway.three.gateway.command(HALFGATE);
    command.arg("--socket").arg(gateway.socket()).args(["run", "/nonexistent/rules.yaml"]);
    one_sentence(&run(&mut command), &["/nonexistent/rules.yaml"]);
    let wrong = second(&gateway);
    assert_eq!(wrong.code, 1, "{wrong:?}");
    assert!(wrong.err.contains("form") && wrong.err.contains("from"), "did you mean: {wrong:?}");
    assert_eq!(gateway.kernel_rules(), "", "nothing was installed");
}

#[test]
fn wrong_usage_is_two() {
    let gateway = Gateway::without_firewall(&open());
    assert_eq!(gateway.cli(&["no-such-command"]).code, 2);
    assert_eq!(gateway.cli(&["timers", "set", "half_closed"]).code, 2);
}
