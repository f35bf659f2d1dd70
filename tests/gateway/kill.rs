//! `halfgate kill`: RST to both ends, or silence.

use halfgate::sys::netns::Family;

use crate::harness::{Gateway, SOON, accept, rules, say, wait_reset};

both_families! {
    kill_resets_both_ends_of_what_the_filter_names
    dry_run_and_silent_and_all
}

fn open() -> String {
    rules("rules: [{ name: web, from: outside, service: tcp/80-81, action: accept }]")
}

fn kill_resets_both_ends_of_what_the_filter_names(family: Family) {
    let gateway = Gateway::start(&open());
    let (client, server) = gateway.pair(family, 80);
    let (other_client, other_server) = gateway.pair(family, 81);
    let from = client.local_addr().unwrap();
    say(&client, &server, "hello");
    gateway.wait_phase(from, "established");
    gateway.ok(&["kill", "dport=80"]);
    wait_reset(&client, SOON);
    wait_reset(&server, SOON);
    gateway.wait_gone(from, gateway.now(), SOON);
    assert!(gateway.close_reason(from).contains("kill"));
    say(&other_client, &other_server, "the other one lives");
    say(&other_server, &other_client, "both ways");
}

fn dry_run_and_silent_and_all(family: Family) {
    let gateway = Gateway::start(&open());
    let listener = gateway.listen(family, 80);
    let client = gateway.connect(family, 80);
    let (server, from) = accept(&listener);
    gateway.wait_phase(from, "established");
    let told = gateway.json(&["kill", "dport=80", "--dry-run"]);
    assert_eq!(told[0]["matched"], 1, "{told:?}");
    say(&client, &server, "nothing happened");
    let refused = gateway.cli(&["kill"]);
    assert_ne!(refused.code, 0, "all of them only by --all: {refused:?}");
    say(&client, &server, "still nothing");
    gateway.ok(&["kill", "--all", "--silent"]);
    gateway.wait_gone(from, gateway.now(), SOON);
    gateway.always("neither end is told", std::time::Duration::from_millis(700), || {
        client.take_error().unwrap().is_none() && server.take_error().unwrap().is_none()
    });
}
