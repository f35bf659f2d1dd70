//! Timers and limits changed live.

use std::{net::Shutdown, time::Duration};

use halfgate::sys::netns::Family;

use crate::harness::{Done, EARLY, Gateway, LATE, SOON, accept, rules, s, say, wait_reset};

both_families! {
    a_timer_set_live_acts_on_connections_that_exist
    a_rules_own_timer_wins_over_a_live_one_without_rule
    existing_keep_spares_those_that_exist
    for_goes_back_by_itself_and_unset_at_once
    dry_run_changes_nothing
    a_limit_set_live_holds
}

fn open() -> String {
    rules(
        "timers: { established: 5m, half_closed: 5m }\n\
         rules:\n\
         \x20 - { name: web, from: outside, service: tcp/80, action: accept }\n\
         \x20 - { name: slow, from: outside, service: tcp/81, action: accept, timers: { half_closed: 4m } }",
    )
}

/// The value of a timer, without a rule or of one.
fn value(gateway: &Gateway, timer: &str, rule: Option<&str>) -> (String, String) {
    let rows = gateway.json(&["timers"]);
    let row = rows.iter().find(|row| row["timer"] == timer && row["rule"].as_str() == rule);
    let row = row.unwrap_or_else(|| panic!("no row for {timer} of {rule:?}: {rows:?}"));
    let text = |key: &str| row[key].as_str().unwrap_or("").to_owned();
    (text("value"), text("origin"))
}

fn a_timer_set_live_acts_on_connections_that_exist(family: Family) {
    let gateway = Gateway::start(&open());
    let (client, server) = gateway.pair(family, 80);
    client.shutdown(Shutdown::Write).unwrap();
    let start = gateway.now();
    gateway.wait_phase(client.local_addr().unwrap(), "half_closed");
    gateway.ok(&["timers", "set", "half_closed", "3s"]);
    wait_reset(&client, s(3) + LATE);
    let took = gateway.since(start);
    assert!(took > s(3) - EARLY, "counted from its last packet, not ended at once: {took:?}");
    wait_reset(&server, SOON);
    assert_eq!(value(&gateway, "half_closed", None), ("3s".to_owned(), "live".to_owned()));
}

fn a_rules_own_timer_wins_over_a_live_one_without_rule(family: Family) {
    let gateway = Gateway::start(&open());
    let (client, server) = gateway.pair(family, 81);
    client.shutdown(Shutdown::Write).unwrap();
    gateway.wait_phase(client.local_addr().unwrap(), "half_closed");
    let said = gateway.cli(&["timers", "set", "half_closed", "1s"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(
        format!("{}{}", said.out, said.err).contains("slow"),
        "it names the rule that keeps its own: {said:?}"
    );
    gateway.always("the rule's own timer holds", s(2), || client.take_error().unwrap().is_none());
    gateway.ok(&["timers", "set", "half_closed", "1s", "--rule", "slow"]);
    wait_reset(&client, s(1) + LATE);
    wait_reset(&server, SOON);
    assert_eq!(value(&gateway, "half_closed", Some("slow")), ("1s".to_owned(), "live_rule".to_owned()));
}

fn existing_keep_spares_those_that_exist(family: Family) {
    let gateway = Gateway::start(&open());
    let listener = gateway.listen(family, 80);
    let old = gateway.connect(family, 80);
    let (old_server, _) = accept(&listener);
    gateway.ok(&["timers", "set", "established", "2s", "--existing", "keep"]);
    let new = gateway.connect(family, 80);
    let (new_server, _) = accept(&listener);
    wait_reset(&new, s(2) + LATE);
    wait_reset(&new_server, SOON);
    say(&old, &old_server, "the old one lives");
}

fn for_goes_back_by_itself_and_unset_at_once(_: Family) {
    let gateway = Gateway::start(&open());
    let before = value(&gateway, "established", None);
    gateway.ok(&["timers", "set", "established", "1m", "--for", "2s"]);
    assert_eq!(value(&gateway, "established", None).0, "1m");
    gateway.eventually("it goes back", s(2) + LATE, || value(&gateway, "established", None) == before);
    gateway.ok(&["timers", "set", "established", "2m"]);
    assert_eq!(value(&gateway, "established", None), ("2m".to_owned(), "live".to_owned()));
    gateway.ok(&["timers", "unset", "established"]);
    assert_eq!(value(&gateway, "established", None), before);
    let wrong = gateway.cli(&["timers", "set", "half_open", "2m"]);
    assert!(wrong.code != 0 && !wrong.err.is_empty(), "{wrong:?}");
}

fn dry_run_changes_nothing(family: Family) {
    let gateway = Gateway::start(&open());
    let (client, server) = gateway.pair(family, 80);
    gateway.wait_phase(client.local_addr().unwrap(), "established");
    let before = value(&gateway, "established", None);
    let told = gateway.json(&["timers", "set", "established", "1s", "--dry-run"]);
    assert_eq!(told[0]["affected"], 1, "{told:?}");
    assert_eq!(value(&gateway, "established", None), before);
    gateway.always("nothing ends", s(2), || client.take_error().unwrap().is_none());
    say(&client, &server, "still here");
}

fn a_limit_set_live_holds(family: Family) {
    let gateway = Gateway::start(&open());
    let _listener = gateway.listen(family, 80);
    gateway.ok(&["limits", "set", "embryonic.per_source", "3"]);
    let forger = gateway.forger();
    for port in 4000..4020 {
        forger.syn(family, 1, port, 80);
    }
    gateway.eventually("three get through", SOON, || gateway.backlog(80) == 3);
    gateway.always("and no more", Duration::from_millis(500), || gateway.backlog(80) == 3);
    let rows = gateway.json(&["limits"]);
    let row = rows
        .iter()
        .find(|row| row["limit"] == "embryonic.per_source" && row["rule"].is_null())
        .expect("a row");
    assert_eq!((&row["value"], row["origin"].as_str()), (&3.into(), Some("live")));
}

/// As in the rule file: the kernel's cookies are for destinations.
#[test]
fn cookies_for_a_source_are_refused_live_too() {
    let gateway = Gateway::start(&rules(
        "limits: { embryonic: { per_destination: 50, on_excess: syncookies } }\n\
         rules:\n\
         \x20 - { name: web, from: outside, service: tcp/80, action: accept }\n\
         \x20 - { name: mail, from: outside, service: tcp/25, action: accept, limits: { embryonic: { total: 9, on_excess: evict } } }",
    ));
    let set = |rest: &[&str]| gateway.cli(&[&["limits", "set", "embryonic.per_source"], rest].concat());
    for rest in [&["3"][..], &["3", "--rule", "web"], &["3", "--dry-run"], &["3", "--save"]] {
        let Done { code, err: told, .. } = set(rest);
        assert_eq!(code, 1, "{rest:?}: {told}");
        assert!(told.contains("can't answer a limit per source"), "{told}");
        assert!(told.contains("write `on_excess: challenge`"), "{told}");
    }
    let rows = gateway.json(&["limits"]);
    assert!(rows.iter().all(|row| row["origin"] != "live" && row["origin"] != "live_rule"), "{rows:?}");
    for rest in [&["3", "--rule", "mail"][..], &["off"]] {
        let Done { code, err: told, .. } = set(rest);
        assert_eq!(code, 0, "{rest:?}: {told}");
    }
}

#[test]
fn what_is_saved_survives_a_restart_until_it_is_unset() {
    let mut gateway = Gateway::start(&open());
    gateway.ok(&["timers", "set", "half_closed", "33s", "--save"]);
    gateway.ok(&["timers", "set", "closing", "34s"]);
    gateway.ok(&["limits", "set", "embryonic.per_source", "77", "--save"]);
    let restart = |gateway: &mut Gateway| {
        gateway.firewall().terminate().unwrap();
        gateway.start_firewall();
    };
    let limit = |gateway: &Gateway| {
        let rows = gateway.json(&["limits"]);
        let found = rows.iter().find(|row| row["limit"] == "embryonic.per_source" && row["rule"].is_null());
        found.expect("the limit").clone()
    };
    restart(&mut gateway);
    assert_eq!(value(&gateway, "half_closed", None), ("33s".to_owned(), "live".to_owned()));
    assert_ne!(value(&gateway, "closing", None).1, "live", "it was not saved");
    assert_eq!((&limit(&gateway)["value"], &limit(&gateway)["origin"]), (&77.into(), &"live".into()));
    gateway.ok(&["timers", "unset", "half_closed"]);
    gateway.ok(&["limits", "unset", "embryonic.per_source"]);
    restart(&mut gateway);
    assert_ne!(value(&gateway, "half_closed", None).1, "live");
    assert_ne!(limit(&gateway)["origin"], "live");
}
