//! The gateway's own services: the input and the output hook.

use std::{io, net::SocketAddr, time::Duration};

use halfgate::sys::netns::Family;

use crate::harness::{EARLY, Gateway, LATE, SOON, accept, connect, listen, rules, s, say, wait_reset};

both_families! {
    input_guards_the_gateways_own_service
    input_leaves_the_gateway_alone_when_it_is_not_hooked
    output_guards_what_the_gateway_opens
    loopback_is_never_diverted
}

fn guarded(hooks: &str) -> String {
    rules(&format!(
        "hooks: [{hooks}]\n\
         timers: {{ half_closed: 2s }}\n\
         rules:\n\
         \x20 - {{ name: ssh, from: inside, to: gateway, service: tcp/22, action: accept }}\n\
         \x20 - {{ name: updates, from: gateway, service: tcp/443, action: accept }}\n\
         \x20 - {{ name: refused, from: gateway, service: tcp/444, action: reset }}"
    ))
}

/// Allowed from inside, silent from outside; its timers work as for others.
fn input_guards_the_gateways_own_service(family: Family) {
    let gateway = Gateway::start(&guarded("forward, input, output"));
    let at_inside = SocketAddr::new(family.inside(), 22);
    let inside = listen(&gateway.three.gateway, at_inside);
    let outside_listener = listen(&gateway.three.gateway, SocketAddr::new(family.outside(), 22));
    let admin = connect(&gateway.three.server, at_inside, SOON).expect("ssh from inside");
    let (shell, from) = accept(&inside);
    say(&admin, &shell, "uname");
    say(&shell, &admin, "Linux");
    assert_eq!(gateway.connection(from).expect("tracked")["rule"], "ssh");
    let to = SocketAddr::new(family.outside(), 22);
    let error = connect(&gateway.three.client, to, Duration::from_millis(1200)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut, "not from outside");
    drop(outside_listener);
    admin.shutdown(std::net::Shutdown::Write).unwrap();
    let start = gateway.now();
    gateway.wait_phase(from, "half_closed");
    wait_reset(&admin, s(2) + LATE);
    assert!(gateway.since(start) > s(2) - EARLY);
    wait_reset(&shell, SOON);
}

fn input_leaves_the_gateway_alone_when_it_is_not_hooked(family: Family) {
    let gateway =
        Gateway::start(&rules("rules: [{ name: web, from: outside, service: tcp/80, action: accept }]"));
    let at = SocketAddr::new(family.outside(), 2222);
    let listener = listen(&gateway.three.gateway, at);
    let client = connect(&gateway.three.client, at, SOON).expect("nobody guards it");
    let (server, from) = accept(&listener);
    say(&client, &server, "hello");
    assert!(gateway.connection(from).is_none(), "and it is not tracked");
}

fn output_guards_what_the_gateway_opens(family: Family) {
    let gateway = Gateway::start(&guarded("forward, input, output"));
    let (https, refused) = (SocketAddr::new(family.client(), 443), SocketAddr::new(family.client(), 444));
    let other = SocketAddr::new(family.client(), 445);
    let listeners = [https, refused, other].map(|at| listen(&gateway.three.client, at));
    let out = connect(&gateway.three.gateway, https, SOON).expect("updates");
    let (mirror, _) = accept(&listeners[0]);
    say(&out, &mirror, "get");
    say(&mirror, &out, "got");
    let error = connect(&gateway.three.gateway, refused, SOON).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    let error = connect(&gateway.three.gateway, other, Duration::from_millis(1200)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
}

fn loopback_is_never_diverted(family: Family) {
    let gateway = Gateway::start(&guarded("forward, input, output"));
    let address = match family {
        Family::V4 => "127.0.0.1:7777",
        Family::V6 => "[::1]:7777",
    };
    let at: SocketAddr = address.parse().unwrap();
    let listener = listen(&gateway.three.gateway, at);
    let client = connect(&gateway.three.gateway, at, SOON).expect("to itself");
    let (server, _) = accept(&listener);
    say(&client, &server, "to myself");
    assert!(gateway.connections(&[]).is_empty());
}
