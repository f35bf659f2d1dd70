//! Half-closed both ways, closed, reset.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpStream},
    thread,
    time::Duration,
};

use halfgate::{conntrack::Instant, sys::netns::Family};

use crate::harness::{EARLY, Gateway, LATE, SOON, rules, s, say, wait_reset};

both_families! {
    half_closed_by_the_client_and_silent_ends_on_time
    half_closed_by_the_server_and_silent_ends_on_time
    half_closed_and_still_sending_lives_on
    half_closed_max_ends_even_the_one_that_sends
    on_expire_drop_ends_it_silently
    both_fins_lead_to_time_wait_and_its_end
    a_rst_ends_it
    an_idle_established_connection_ends_with_rst_to_both
}

fn timers(timers: &str) -> String {
    rules(&format!(
        "timers: {{ {timers} }}\n\
         rules: [{{ name: web, from: outside, service: tcp/80, action: accept }}]"
    ))
}

/// Half-closes one end and waits until the firewall says so.
fn half_close(gateway: &Gateway, who: &TcpStream, client: &TcpStream) -> Instant {
    who.shutdown(Shutdown::Write).unwrap();
    let start = gateway.now();
    gateway.wait_phase(client.local_addr().unwrap(), "half_closed");
    start
}

fn ends_on_time(gateway: &Gateway, client: &TcpStream, server: &TcpStream, start: Instant) {
    wait_reset(client, s(2) + LATE);
    let took = gateway.since(start);
    assert!(took > s(2) - EARLY, "too early: {took:?}");
    wait_reset(server, SOON);
    let from = client.local_addr().unwrap();
    gateway.wait_gone(from, start, SOON);
    assert!(gateway.close_reason(from).contains("half_closed"), "{}", gateway.close_reason(from));
}

fn half_closed_by_the_client_and_silent_ends_on_time(family: Family) {
    let gateway = Gateway::start(&timers("half_closed: 2s"));
    let (client, server) = gateway.pair(family, 80);
    let start = half_close(&gateway, &client, &client);
    ends_on_time(&gateway, &client, &server, start);
}

fn half_closed_by_the_server_and_silent_ends_on_time(family: Family) {
    let gateway = Gateway::start(&timers("half_closed: 2s"));
    let (client, server) = gateway.pair(family, 80);
    let start = half_close(&gateway, &server, &client);
    ends_on_time(&gateway, &client, &server, start);
}

fn half_closed_and_still_sending_lives_on(family: Family) {
    let gateway = Gateway::start(&timers("half_closed: 2s"));
    let (client, server) = gateway.pair(family, 80);
    half_close(&gateway, &client, &client);
    for round in 0..10 {
        say(&server, &client, &format!("chunk {round}"));
        thread::sleep(s(1) / 2);
    }
    assert_eq!(gateway.phase(client.local_addr().unwrap()).as_deref(), Some("half_closed"));
    drop(server);
    let mut rest = Vec::new();
    (&client).read_to_end(&mut rest).expect("it ends in peace");
    gateway.wait_phase(client.local_addr().unwrap(), "time_wait");
}

fn half_closed_max_ends_even_the_one_that_sends(family: Family) {
    let gateway = Gateway::start(&timers("half_closed: 10s, half_closed_max: 3s"));
    let (client, mut server) = gateway.pair(family, 80);
    let start = half_close(&gateway, &client, &client);
    let mut failed = false;
    while !failed && gateway.since(start) < s(3) + LATE {
        failed = server.write_all(b"x").is_err();
        thread::sleep(Duration::from_millis(200));
    }
    let took = gateway.since(start);
    assert!(failed && took > s(3) - EARLY, "ended after {took:?}");
    wait_reset(&client, SOON);
}

fn on_expire_drop_ends_it_silently(family: Family) {
    let gateway = Gateway::start(&rules(
        "on_expire: drop\ntimers: { half_closed: 1s }\n\
         rules: [{ name: web, from: outside, service: tcp/80, action: accept }]",
    ));
    let (client, server) = gateway.pair(family, 80);
    let start = half_close(&gateway, &client, &client);
    gateway.wait_gone(client.local_addr().unwrap(), start, s(1) + LATE);
    gateway.always("neither end is told", s(1), || {
        client.take_error().unwrap().is_none() && server.take_error().unwrap().is_none()
    });
}

fn both_fins_lead_to_time_wait_and_its_end(family: Family) {
    let gateway = Gateway::start(&timers("time_wait: 2s"));
    let (client, mut server) = gateway.pair(family, 80);
    let from = client.local_addr().unwrap();
    say(&client, &server, "bye");
    drop(client);
    gateway.wait_phase(from, "half_closed");
    assert_eq!(server.read(&mut [0]).unwrap(), 0, "the FIN arrived");
    drop(server);
    let start = gateway.now();
    gateway.wait_phase(from, "time_wait");
    let took = gateway.wait_gone(from, start, s(2) + LATE);
    assert!(took > s(2) - EARLY, "gone too early: {took:?}");
    assert!(gateway.close_reason(from).contains("finished"), "{}", gateway.close_reason(from));
}

fn a_rst_ends_it(family: Family) {
    let gateway = Gateway::start(&timers("reset: 2s"));
    let (client, mut server) = gateway.pair(family, 80);
    let from = client.local_addr().unwrap();
    // Closing with unread data makes the kernel send RST (RFC 1122 §4.2.2.13).
    server.write_all(b"never read").unwrap();
    gateway.eventually("it arrived", SOON, || client.peek(&mut [0]).is_ok());
    drop(client);
    let start = gateway.now();
    gateway.wait_phase(from, "reset");
    wait_reset(&server, SOON);
    let took = gateway.wait_gone(from, start, s(2) + LATE);
    assert!(took > s(2) - EARLY, "gone too early: {took:?}");
    assert!(gateway.close_reason(from).contains("client"), "{}", gateway.close_reason(from));
}

fn an_idle_established_connection_ends_with_rst_to_both(family: Family) {
    let gateway = Gateway::start(&timers("established: 2s"));
    let (client, server) = gateway.pair(family, 80);
    say(&client, &server, "one word");
    let start = gateway.now();
    wait_reset(&client, s(2) + LATE);
    assert!(gateway.since(start) > s(2) - EARLY, "too early: {:?}", gateway.since(start));
    wait_reset(&server, SOON);
}
