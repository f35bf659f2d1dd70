//! Somebody else takes our rules away: they come back by themselves.

use halfgate::sys::netns::Family;

use crate::harness::{EXPECTED_DIVERSION, Gateway, SOON, accept, rules, say};

fn open() -> String {
    rules("rules: [{ name: web, from: outside, service: tcp/80, action: accept }]")
}

/// A new connection passes, and the firewall has it.
fn guards(gateway: &Gateway, port: u16) -> bool {
    for family in Family::BOTH {
        let (client, server) = gateway.pair(family, port);
        say(&client, &server, "through");
        if gateway.connection(client.local_addr().unwrap()).is_none() {
            return false;
        }
    }
    true
}

fn comes_back(what: &str, take_away: impl Fn(&Gateway)) {
    let gateway = Gateway::start(&open());
    assert!(guards(&gateway, 80));
    let before = gateway.kernel_rules();
    take_away(&gateway);
    assert_ne!(gateway.json(&["status"])[0]["table"], "", "it answers all the while");
    gateway.eventually("the table is whole", SOON + SOON, || {
        gateway.json(&["status"])[0]["table"] == "installed"
    });
    assert_eq!(gateway.kernel_rules(), before);
    assert!(guards(&gateway, 80));
    let told = |text: &str| text.lines().filter(|line| line.contains("put back")).count();
    assert_eq!(told(&gateway.log()), 1, "one line tells of it: {}", gateway.log());
    assert!(gateway.log().contains(what), "and says what: {}", gateway.log());
    assert_eq!(told(&gateway.ok(&["events"])), 1, "and an event");
    assert_eq!(gateway.json(&["status"])[0]["missed"], 0, "since the table was loaded");
}

#[test]
fn a_flushed_rule_set_comes_back() {
    comes_back("the table inet halfgate is gone", |gateway| {
        gateway.tool("nft", &["flush", "ruleset"], "");
    });
}

#[test]
fn a_flushed_table_comes_back() {
    comes_back("rules of the table inet halfgate are gone", |gateway| {
        gateway.tool("nft", &["flush", "table", "inet", "halfgate"], "");
    });
}

#[test]
fn a_flushed_chain_comes_back() {
    comes_back("rules of the table inet halfgate are gone", |gateway| {
        gateway.tool("nft", &["flush", "chain", "inet", "halfgate", "divert_forward"], "");
    });
}

/// Where nftables queues by itself there are no such rules; the operator's `mangle`
/// may then come and go.
#[test]
fn a_flushed_mangle_table_comes_back() {
    assert!(std::env::var_os(EXPECTED_DIVERSION).is_none(), "for kernels that divert by xtables");
    if Gateway::start(&open()).json(&["status"])[0]["diversion"] == "nftables queue" {
        return;
    }
    comes_back("in the table mangle are gone", |gateway| {
        gateway.tool("iptables", &["-t", "mangle", "-F"], "");
        gateway.tool("ip6tables", &["-t", "mangle", "-F"], "");
    });
}

#[test]
fn packets_that_nobody_judged_are_counted_and_warned_of() {
    let gateway = Gateway::start(&open());
    // An operator's rule behind the queue that wipes the whole mark, before the chain
    // that looks for it: of two chains of one priority the later one comes first.
    let native = gateway.json(&["status"])[0]["diversion"] == "nftables queue";
    let priority = if native { -159 } else { -145 };
    let wipe = format!(
        "table inet operators {{ chain wipe {{ type filter hook forward priority {priority}; policy accept; \
         meta mark set 0; }}; }}\n"
    );
    gateway.tool("nft", &["-f", "-"], &wipe);
    let listener = gateway.listen(Family::V4, 80);
    gateway.try_connect(Family::V4, 80, std::time::Duration::from_millis(700)).unwrap_err();
    let status = &gateway.json(&["status"])[0];
    assert!(status["missed"].as_u64().is_some_and(|missed| missed > 0), "{status}");
    let text = gateway.ok(&["status"]);
    assert!(text.contains("dropped that nobody had judged"), "{text}");
    gateway.tool("nft", &["delete", "table", "inet", "operators"], "");
    let client = gateway.connect(Family::V4, 80);
    let (server, _) = accept(&listener);
    say(&client, &server, "again");
}

#[test]
fn refusals_are_counted() {
    let gateway =
        Gateway::start(&rules("rules: [{ name: no, from: outside, service: tcp/80, action: reset }]"));
    gateway.try_connect(Family::V4, 80, SOON).unwrap_err();
    let status = &gateway.json(&["status"])[0];
    assert_eq!((&status["refused"], &status["missed"]), (&1.into(), &0.into()), "{status}");
}
