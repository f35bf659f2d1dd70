//! `on_expire: probe` with the kernel's own TCP at both ends.

use std::net::{Shutdown, SocketAddr};

use halfgate::{sys::netns::Family, wire::Flags};

use crate::{
    harness::{EARLY, Gateway, LATE, SOON, accept, connect, listen, rules, s, say, segment, wait_reset},
    nat, stale,
};

both_families! {
    two_living_ends_are_kept_and_hear_nothing_of_each_others_answers
    half_closed_and_silent_is_kept_while_both_live
    the_end_that_is_cut_off_ends_it_and_the_other_gets_its_rst
    the_end_that_has_forgotten_ends_it_and_the_other_gets_its_rst
    through_nat_both_ends_are_asked_and_told
}

const PROBE: &str = "on_expire: { probe: { interval: 1s, retries: 3 } }";

fn open() -> String {
    rules(&format!(
        "{PROBE}\n\
         timers: {{ established: 2s, half_closed: 2s }}\n\
         rules: [{{ name: web, from: outside, service: tcp/80, action: accept }}]"
    ))
}

/// How many keepalives were sent so far, and how many answers taken.
fn asked(gateway: &Gateway) -> (u64, u64) {
    let status = &gateway.json(&["status"])[0];
    let answers = status["drop_reasons"].as_array().unwrap().iter();
    let answers = answers.filter(|row| row["name"] == "keepalive_answer");
    (status["sent"]["keepalives"].as_u64().unwrap(), answers.map(|row| row["count"].as_u64().unwrap()).sum())
}

/// Waits for some rounds in which everybody answered; the connection is still there.
fn outlives(gateway: &Gateway, from: SocketAddr, rounds: u64) {
    gateway.eventually("its ends were asked and have answered", s(3 * rounds) + LATE, || {
        let (sent, answers) = asked(gateway);
        sent >= 2 * rounds && answers >= 2 * rounds
    });
    assert!(gateway.phase(from).is_some(), "it lives");
}

fn two_living_ends_are_kept_and_hear_nothing_of_each_others_answers(family: Family) {
    let gateway = Gateway::start(&open());
    let (client, server) = gateway.pair(family, 80);
    let from = client.local_addr().unwrap();
    say(&client, &server, "hello");
    say(&server, &client, "hello yourself");
    let mut tap = gateway.server_tap();
    outlives(&gateway, from, 3);
    // Timestamps and numbers were right: data still flow both ways.
    say(&client, &server, "still there");
    say(&server, &client, "so am I");
    // All that the server's wire has seen from the client since: keepalives, one below
    // what was expected, and then the data.
    let mut keepalives = 0;
    let data = tap.find(SOON, |packet| {
        let Some(segment) = segment(packet).filter(|_| packet.src == from.ip()) else { return false };
        assert!(!segment.flags.contains(Flags::RST));
        keepalives += u32::from(segment.payload_len == 0);
        segment.payload_len > 0
    });
    assert!(data.unwrap().is_some() && keepalives >= 3, "{keepalives}");
}

fn half_closed_and_silent_is_kept_while_both_live(family: Family) {
    let gateway = Gateway::start(&open());
    let (client, server) = gateway.pair(family, 80);
    let from = client.local_addr().unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    gateway.wait_phase(from, "half_closed");
    outlives(&gateway, from, 2);
    assert_eq!(gateway.phase(from).as_deref(), Some("half_closed"));
    say(&server, &client, "the rest of it");
}

/// Its host is gone from the net: nothing comes back, not even an RST.
fn the_end_that_is_cut_off_ends_it_and_the_other_gets_its_rst(family: Family) {
    let gateway = Gateway::start(&open());
    let (client, server) = gateway.pair(family, 80);
    let from = client.local_addr().unwrap();
    say(&client, &server, "hello");
    say(&server, &client, "hello yourself");
    let start = gateway.now();
    gateway.three.client.ip_batch("link set eth0 down\n").unwrap();
    // Two seconds of silence, then three keepalives with a second each.
    wait_reset(&server, s(5) + LATE);
    assert!(gateway.since(start) > s(5) - EARLY, "too early: {:?}", gateway.since(start));
    let reason = gateway.close_reason(from);
    assert_eq!(reason.split_once(", ").unwrap().1, "then no answer from the client", "{reason}");
    assert!(reason.starts_with("timer established of"), "{reason}");
    let (sent, answers) = asked(&gateway);
    assert_eq!((sent, answers), (4, 1), "the server answered at once, the client was asked three times");
}

/// Its host has come back without a memory: it denies the keepalive.
fn the_end_that_has_forgotten_ends_it_and_the_other_gets_its_rst(family: Family) {
    let gateway = Gateway::start(&open());
    let (client, server) = gateway.pair(family, 80);
    let from = client.local_addr().unwrap();
    say(&client, &server, "hello");
    stale::forget(&gateway, &gateway.three.client, client, &server);
    wait_reset(&server, s(2) + LATE);
    gateway.wait_phase(from, "reset");
    assert_eq!(gateway.connection(from).unwrap()["forgotten_by"], "client");
}

/// Masquerade: neither end may see the other's own address in a keepalive.
fn through_nat_both_ends_are_asked_and_told(family: Family) {
    let gateway = nat::gateway(
        &rules(&format!(
            "{PROBE}\n\
             timers: {{ established: 2s }}\n\
             rules:\n\
             \x20 - {{ name: out, from: inside, to: outside, service: tcp/80, action: accept }}\n\
             \x20 - {{ name: forward, from: outside, to: inside, service: tcp/8080, action: accept }}"
        )),
        false,
    );
    let at = SocketAddr::new(family.client(), 80);
    let outside = listen(&gateway.three.client, at);
    let inside = gateway.listen(family, 8080);
    let masqueraded = {
        let inner = connect(&gateway.three.server, at, SOON).expect("out through masquerade");
        let (outer, seen) = accept(&outside);
        assert_eq!(seen.ip(), family.outside(), "masqueraded");
        (inner, outer)
    };
    let forwarded = {
        let to = SocketAddr::new(family.outside(), 80);
        let outer = connect(&gateway.three.client, to, SOON).expect("port forward");
        (accept(&inside).0, outer)
    };
    for (inner, outer) in [&masqueraded, &forwarded] {
        say(inner, outer, "hello");
        say(outer, inner, "hello yourself");
    }
    gateway.eventually("both connections were asked for twice", s(6) + LATE, || {
        let (sent, answers) = asked(&gateway);
        sent >= 8 && answers >= 8
    });
    assert_eq!(gateway.connections(&["phase=established"]).len(), 2);
    for (inner, outer) in [&masqueraded, &forwarded] {
        say(inner, outer, "still there");
        // With the acknowledgement, or the inner end would send again and not be silent.
        say(outer, inner, "so am I");
    }
    gateway.three.client.ip_batch("link set eth0 down\n").unwrap();
    for (inner, _) in [&masqueraded, &forwarded] {
        wait_reset(inner, s(6) + LATE);
    }
}
