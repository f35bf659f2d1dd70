//! What is forbidden, as a client sees it.

use std::{io, net::SocketAddr, time::Duration};

use halfgate::sys::netns::Family;

use crate::harness::{Gateway, SOON, accept, rules, s, say, udp};

both_families! {
    drop_is_silence_and_the_server_hears_nothing
    reset_is_connection_refused_at_once
    reset_for_udp_is_administratively_prohibited
    the_default_decides_what_no_rule_names
    the_first_match_wins
    the_inside_may_not_open_what_only_the_outside_may
}

fn forbidding() -> String {
    rules(
        "rules:\n\
         \x20 - { name: mail, from: outside, service: tcp/25, action: drop }\n\
         \x20 - { name: telnet, from: outside, service: [tcp/23, udp/23], action: reset }\n\
         \x20 - { name: all-mail, from: outside, service: [tcp/25, tcp/80], action: accept }",
    )
}

fn drop_is_silence_and_the_server_hears_nothing(family: Family) {
    let gateway = Gateway::start(&forbidding());
    let _listener = gateway.listen(family, 25);
    let mut tap = gateway.server_tap();
    let error = gateway.try_connect(family, 25, Duration::from_millis(1500)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    let heard = tap.find(Duration::from_millis(1), |packet| packet.src == family.client());
    assert!(heard.unwrap().is_none(), "nothing of it reached the server");
    assert!(gateway.connections(&[]).is_empty(), "what was dropped is not tracked");
}

fn reset_is_connection_refused_at_once(family: Family) {
    let gateway = Gateway::start(&forbidding());
    let _listener = gateway.listen(family, 23);
    let mut tap = gateway.server_tap();
    let start = gateway.now();
    let error = gateway.try_connect(family, 23, SOON).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    assert!(gateway.since(start) < s(1), "at once, not after {:?}", gateway.since(start));
    let heard = tap.find(Duration::from_millis(1), |packet| packet.src == family.client());
    assert!(heard.unwrap().is_none(), "nothing of it reached the server");
}

fn reset_for_udp_is_administratively_prohibited(family: Family) {
    let gateway = Gateway::start(&forbidding());
    let socket = udp(&gateway.three.client, SocketAddr::new(family.client(), 0));
    socket.connect(SocketAddr::new(family.server(), 23)).unwrap();
    socket.send(b"hello").unwrap();
    let error = socket.recv(&mut [0; 16]).unwrap_err();
    // Linux tells ICMP's code 13 as EHOSTUNREACH, ICMPv6's code 1 as EACCES.
    let expected = match family {
        Family::V4 => io::ErrorKind::HostUnreachable,
        Family::V6 => io::ErrorKind::PermissionDenied,
    };
    assert_eq!(error.kind(), expected, "{error}");
}

fn the_default_decides_what_no_rule_names(family: Family) {
    let gateway = Gateway::start(&forbidding().replace("default: drop", "default: reset"));
    let _listener = gateway.listen(family, 9999);
    let error = gateway.try_connect(family, 9999, SOON).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
}

fn the_first_match_wins(family: Family) {
    let gateway = Gateway::start(&forbidding());
    let (_mail, listener) = (gateway.listen(family, 25), gateway.listen(family, 80));
    let client = gateway.connect(family, 80);
    let (server, _) = accept(&listener);
    say(&client, &server, "allowed");
    let row = gateway.connection(client.local_addr().unwrap()).expect("tracked");
    assert_eq!(row["rule"], "all-mail");
    let error = gateway.try_connect(family, 25, Duration::from_millis(1200)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut, "the later rule does not open what the first forbids");
}

fn the_inside_may_not_open_what_only_the_outside_may(family: Family) {
    let gateway = Gateway::start(&forbidding());
    let at = SocketAddr::new(family.client(), 80);
    let _listener = crate::harness::listen(&gateway.three.client, at);
    let error = crate::harness::connect(&gateway.three.server, at, Duration::from_millis(1200)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
}
