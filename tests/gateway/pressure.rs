//! A table that fills up: timers shrink, and when it is full somebody makes room.

use std::{
    net::{Shutdown, SocketAddr, TcpStream},
    time::Duration,
};

use halfgate::sys::netns::Family;

use crate::harness::{EARLY, Gateway, LATE, SOON, accept, rules, s, say, wait_reset};

both_families! {
    timers_shrink_while_the_table_is_full
    a_full_table_makes_room_among_those_that_have_proven_nothing
    evictable_connections_make_room_for_who_completes_a_handshake
}

/// So many connections, both ends of each.
fn pairs(
    gateway: &Gateway,
    listener: &std::net::TcpListener,
    family: Family,
    count: usize,
) -> Vec<(TcpStream, TcpStream)> {
    let pair = |_| {
        let client = gateway.connect(family, 80);
        let server = accept(listener).0;
        (client, server)
    };
    (0..count).map(pair).collect()
}

fn of_client((client, _): &(TcpStream, TcpStream)) -> SocketAddr {
    client.local_addr().unwrap()
}

fn timers_shrink_while_the_table_is_full(family: Family) {
    let gateway = Gateway::start(&rules(
        "max_connections: 20\n\
         adaptive: { start: 10%, end: 110% }\n\
         timers: { half_closed: 40s }\n\
         rules: [{ name: web, from: outside, service: tcp/80, action: accept }]",
    ));
    let listener = gateway.listen(family, 80);
    let closing = pairs(&gateway, &listener, family, 1).remove(0);
    closing.0.shutdown(Shutdown::Write).unwrap();
    let from = of_client(&closing);
    gateway.wait_phase(from, "half_closed");
    let start = gateway.now();
    let left = || {
        let row = gateway.connection(from).expect("it is there");
        halfgate::policy::duration::parse(row["expires_in"].as_str().unwrap()).unwrap()
    };
    let full = left();
    assert!(full > s(30), "one of twenty: {full:?}");
    // 18 of 20: of the line from 2 to 22 a fifth is left.
    let others = pairs(&gateway, &listener, family, 17);
    let shrunk = left() + gateway.since(start);
    // It is shown in whole seconds.
    assert!(shrunk > s(7) - EARLY && shrunk < s(8) + LATE, "{shrunk:?}");
    let took = gateway.wait_gone(from, start, s(8) + SOON);
    assert!(took > s(8) - EARLY && took < s(8) + LATE, "{took:?}");
    wait_reset(&closing.1, SOON);
    for (client, server) in &others {
        say(client, server, "established keeps its time");
    }
    assert_eq!(gateway.connections(&["phase=established"]).len(), 17);
}

fn a_full_table_makes_room_among_those_that_have_proven_nothing(family: Family) {
    let gateway = Gateway::start(&rules(
        "max_connections: 6\n\
         adaptive: { start: 900%, end: 1000% }\n\
         rules: [{ name: web, from: outside, service: tcp/80, action: accept }]",
    ));
    let listener = gateway.listen(family, 80);
    let mut all = pairs(&gateway, &listener, family, 3);
    let forger = gateway.forger();
    let forged: Vec<SocketAddr> = (0..3)
        .map(|source| {
            let from = forger.syn(family, source, 4000, 80);
            gateway.wait_phase(from, "syn_received");
            from
        })
        .collect();
    for (number, gone) in (4..).zip(&forged) {
        all.extend(pairs(&gateway, &listener, family, 1));
        assert!(
            gateway.close_reason(*gone).contains("room in a full table"),
            "{}",
            gateway.close_reason(*gone)
        );
        gateway.eventually("its server is told", SOON, || gateway.backlog(80) == forged.len() + 3 - number);
    }
    // Nobody is left who may go.
    let refused = gateway.try_connect(family, 80, Duration::from_millis(1500)).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::TimedOut);
    assert!(gateway.drops("table_full") > 0);
    for (client, server) in &all {
        say(client, server, "not for a SYN");
    }
    let status = &gateway.json(&["status"])[0];
    assert_eq!(status["connections"], 6);
    assert_eq!(status["evicted"][0]["name"], "syn_received");
    assert_eq!(status["evicted"][0]["count"], 3);
    // One that is over makes room again.
    let over = all.remove(0);
    let from = of_client(&over);
    drop(over);
    gateway.wait_phase(from, "time_wait");
    all.extend(pairs(&gateway, &listener, family, 1));
    assert!(gateway.phase(from).is_none());
}

fn evictable_connections_make_room_for_who_completes_a_handshake(family: Family) {
    let gateway = Gateway::start(&rules(
        "max_connections: 6\n\
         adaptive: { start: 900%, end: 1000% }\n\
         rules:\n\
         \x20 - { name: web, from: outside, service: tcp/80, action: accept, evictable: true }\n\
         \x20 - { name: mail, from: outside, service: tcp/25, action: accept }",
    ));
    let (listener, mail) = (gateway.listen(family, 80), gateway.listen(family, 25));
    let client = gateway.connect(family, 25);
    let kept = (client, accept(&mail).0);
    // Each that completes when all places but one are taken sends another away.
    let all = pairs(&gateway, &listener, family, 12);
    say(&kept.0, &kept.1, "its rule does not let it go");
    let last = all.last().unwrap();
    say(&last.0, &last.1, "the newest stays");
    let left = gateway.connections(&["phase=established", "rule=web"]).len();
    assert_eq!(left, 4, "and room for one more SYN");
    let gone = all.iter().filter(|pair| gateway.phase(of_client(pair)).is_none()).collect::<Vec<_>>();
    assert_eq!(gone.len(), 8);
    for (client, server) in gone {
        wait_reset(client, SOON);
        wait_reset(server, SOON);
    }
}
