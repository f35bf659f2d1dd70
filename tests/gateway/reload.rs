//! New rules while traffic runs: atomic, refused when broken, and back again
//! unless confirmed.

use std::{fs, io, time::Duration};

use halfgate::sys::netns::Family;

use crate::harness::{Gateway, LATE, SOON, accept, rules, s, say, wait_reset};

both_families! {
    a_reload_takes_effect_and_keeps_what_exists
    rejudge_ends_what_the_new_rules_forbid
    a_broken_file_changes_nothing_and_lists_every_mistake
    confirm_within_or_the_old_rules_come_back
}

fn port(port: u16) -> String {
    rules(&format!("rules: [{{ name: web, from: outside, service: tcp/{port}, action: accept }}]"))
}

fn refused(gateway: &Gateway, family: Family, port: u16) {
    let error = gateway.try_connect(family, port, Duration::from_millis(1200)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut, "port {port}");
}

fn a_reload_takes_effect_and_keeps_what_exists(family: Family) {
    let gateway = Gateway::start(&port(80));
    let (old, new) = (gateway.listen(family, 80), gateway.listen(family, 81));
    let client = gateway.connect(family, 80);
    let (server, _) = accept(&old);
    refused(&gateway, family, 81);
    fs::write(gateway.rules_file(), port(81)).unwrap();
    gateway.ok(&["reload"]);
    say(&client, &server, "what exists stays");
    say(&server, &client, "both ways");
    let second = gateway.connect(family, 81);
    accept(&new);
    drop(second);
    refused(&gateway, family, 80);
}

fn rejudge_ends_what_the_new_rules_forbid(family: Family) {
    let gateway = Gateway::start(&port(80));
    let (client, server) = gateway.pair(family, 80);
    gateway.wait_phase(client.local_addr().unwrap(), "established");
    fs::write(gateway.rules_file(), port(81)).unwrap();
    gateway.ok(&["reload", "--existing", "rejudge"]);
    wait_reset(&client, SOON);
    wait_reset(&server, SOON);
}

fn a_broken_file_changes_nothing_and_lists_every_mistake(family: Family) {
    let gateway = Gateway::start(&port(80));
    let listener = gateway.listen(family, 80);
    let broken = "version: 1\n\
                  default: reject\n\
                  rules:\n\
                  \x20 - { name: web, from: nowhere, service: tcp/80, action: accept }\n\
                  \x20 - { name: web, service: tcp/99999, action: accept }\n";
    fs::write(gateway.rules_file(), broken).unwrap();
    for arguments in [&["reload"][..], &["check", gateway.rules_file().to_str().unwrap()][..]] {
        let said = gateway.cli(arguments);
        assert_eq!(said.code, 1, "{said:?}");
        let text = format!("{}{}", said.out, said.err);
        for mistake in ["reset", "nowhere", "99999"] {
            assert!(text.contains(mistake), "{mistake} is named: {text}");
        }
        assert!(text.contains("rules.yaml"), "with its file: {text}");
    }
    let client = gateway.connect(family, 80);
    let (server, _) = accept(&listener);
    say(&client, &server, "the old rules hold");
}

fn confirm_within_or_the_old_rules_come_back(family: Family) {
    let gateway = Gateway::start(&port(80));
    let (old, new) = (gateway.listen(family, 80), gateway.listen(family, 81));
    let next = gateway.directory().join("next.yaml");
    fs::write(&next, port(81)).unwrap();
    gateway.ok(&["reload", next.to_str().unwrap(), "--confirm", "3s"]);
    drop((gateway.connect(family, 81), accept(&new)));
    gateway.eventually("the old rules are back", s(3) + LATE, || {
        gateway
            .try_connect(family, 80, Duration::from_millis(300))
            .is_ok_and(|_client| accept(&old).1.ip() == family.client())
    });
    refused(&gateway, family, 81);
    gateway.ok(&["reload", next.to_str().unwrap(), "--confirm", "3s"]);
    assert_eq!(gateway.json(&["confirm"]), [serde_json::json!({ "confirmed": true })]);
    gateway.always("what was confirmed stays", s(4), || {
        gateway.try_connect(family, 81, SOON).is_ok_and(|_client| accept(&new).1.ip() == family.client())
    });
}
