//! How many half-open connections may exist at once, per scope, while others
//! connect.

use std::time::Duration;

use halfgate::{
    sys::netns::Family,
    wire::{Flags, SeqNum},
};

use crate::harness::{Gateway, SOON, accept, rules, s, segment};

both_families! {
    per_source_holds_while_others_connect
    per_destination_holds_while_another_destination_connects
    total_holds_and_eviction_makes_room_and_frees_the_server
    a_rule_has_a_total_of_its_own
    reset_answers_the_one_too_many
    a_finished_handshake_gives_its_count_back
}

/// `global` limits, and a rule `web` for port 80 with limits of its own.
fn limited(global: &str, of_rule: &str) -> String {
    rules(&format!(
        "timers: {{ syn_received: 20s }}\n\
         limits: {{ embryonic: {{ {global} }} }}\n\
         rules:\n\
         \x20 - {{ name: web, from: outside, service: tcp/80, action: accept{of_rule} }}\n\
         \x20 - {{ name: other, from: outside, service: tcp/81, action: accept }}"
    ))
}

/// Waits until exactly `count` are half-open, and looks that it stays so.
fn settles_at(gateway: &Gateway, port: u16, count: usize) {
    gateway.settles(&format!("{count} half-open"), Duration::from_millis(500), || {
        gateway.backlog(port) == count && gateway.connections(&["phase=syn_received"]).len() == count
    });
}

fn connects(gateway: &Gateway, listener: &std::net::TcpListener, family: Family, port: u16) {
    let client = gateway.connect(family, port);
    let from = client.local_addr().unwrap();
    assert_eq!(accept(listener).1, from);
}

fn per_source_holds_while_others_connect(family: Family) {
    let gateway = Gateway::start(&limited("per_source: 5, on_excess: drop", ""));
    let listener = gateway.listen(family, 80);
    let forger = gateway.forger();
    for port in 4000..4030 {
        forger.syn(family, 1, port, 80);
    }
    settles_at(&gateway, 80, 5);
    connects(&gateway, &listener, family, 80);
    for port in 4000..4030 {
        forger.syn(family, 2, port, 80);
    }
    settles_at(&gateway, 80, 10);
}

fn per_destination_holds_while_another_destination_connects(family: Family) {
    let gateway = Gateway::start(&limited("per_destination: 6, on_excess: drop", ""));
    let (_listener, other) = (gateway.listen(family, 80), gateway.listen(family, 81));
    let forger = gateway.forger();
    for source in 0..30 {
        forger.syn(family, source, 4000, 80);
    }
    settles_at(&gateway, 80, 6);
    connects(&gateway, &other, family, 81);
    let full = gateway.try_connect(family, 80, Duration::from_millis(1500)).unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::TimedOut, "the full destination stays full");
}

fn total_holds_and_eviction_makes_room_and_frees_the_server(family: Family) {
    let gateway = Gateway::start(&limited("total: 8, on_excess: evict", ""));
    let listener = gateway.listen(family, 80);
    let forger = gateway.forger();
    for source in 0..40 {
        forger.syn(family, source, 4000, 80);
    }
    settles_at(&gateway, 80, 8);
    // Alone, so that no other SYN overtakes it on another queue.
    let last = forger.syn(family, 40, 4000, 80);
    gateway.wait_phase(last, "syn_received");
    settles_at(&gateway, 80, 8);
    assert_eq!(gateway.phase(last).as_deref(), Some("syn_received"), "the newest stays, the stalest goes");
    connects(&gateway, &listener, family, 80);
    let first = std::net::SocketAddr::new(family.forged(0), 4000);
    assert!(gateway.close_reason(first).contains("evicted"), "{}", gateway.close_reason(first));
}

fn a_rule_has_a_total_of_its_own(family: Family) {
    let own = ", limits: { embryonic: { total: 4, on_excess: drop } }";
    let gateway = Gateway::start(&limited("total: 1000", own));
    let (_listener, other) = (gateway.listen(family, 80), gateway.listen(family, 81));
    let forger = gateway.forger();
    for source in 0..20 {
        forger.syn(family, source, 4000, 80);
    }
    settles_at(&gateway, 80, 4);
    connects(&gateway, &other, family, 81);
}

fn reset_answers_the_one_too_many(family: Family) {
    let gateway = Gateway::start(&limited("per_source: 2, on_excess: reset", ""));
    let _listener = gateway.listen(family, 80);
    let forger = gateway.forger();
    let mut tap = gateway.client_tap();
    for port in 4000..4003 {
        forger.syn(family, 1, port, 80);
        // One after the other, so that the third is the one too many.
        let answer = tap.find(SOON, |packet| segment(packet).is_some_and(|segment| segment.dst_port == port));
        let answer = segment(&answer.unwrap().expect("an answer").packet().unwrap()).unwrap();
        assert_eq!(answer.flags.contains(Flags::RST), port == 4002, "port {port}: {answer:?}");
        if port == 4002 {
            assert_eq!(answer.ack, SeqNum(1001), "RFC 9293 §3.5.2: the RST acknowledges the SYN");
        }
    }
    settles_at(&gateway, 80, 2);
}

fn a_finished_handshake_gives_its_count_back(family: Family) {
    let gateway =
        Gateway::start(&limited("per_source: 1, per_destination: 1, total: 1, on_excess: drop", ""));
    let listener = gateway.listen(family, 80);
    let start = gateway.now();
    let mut all = Vec::new();
    for _ in 0..20 {
        let client = gateway.connect(family, 80);
        all.push((accept(&listener), client));
    }
    assert!(gateway.since(start) < s(5), "none of them had to repeat its SYN for long");
    assert_eq!(gateway.connections(&["phase=established"]).len(), 20);
}
