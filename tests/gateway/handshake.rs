//! Handshakes that stall in either half, and what becomes of them.

use std::{net::SocketAddr, thread, time::Duration};

use halfgate::{
    sys::netns::Family,
    wire::{Flags, SeqNum},
};

use crate::harness::{EARLY, Gateway, LATE, SOON, accept, rules, s, say, segment};

both_families! {
    a_server_that_never_answers_is_given_up_and_retransmissions_buy_no_time
    a_client_that_never_finishes_is_cut_and_the_server_gets_its_rst
    a_client_that_finishes_late_finds_its_connection_reset
    a_normal_handshake_outlives_the_timers_of_the_handshake
}

fn open(port: u16) -> String {
    rules(&format!(
        "timers: {{ syn_sent: 2s, syn_received: 2s }}\n\
         rules: [{{ name: web, from: outside, service: tcp/{port}, action: accept }}]"
    ))
}

/// The client's kernel repeats its SYN every second: it still ends on time. A
/// repetition after that is a new connection, so the events tell.
fn a_server_that_never_answers_is_given_up_and_retransmissions_buy_no_time(family: Family) {
    let gateway = Gateway::start(&open(80));
    let mut tap = gateway.server_tap();
    let to = SocketAddr::new(family.mute(), 80);
    let client = gateway.three.client.spawn(move || std::net::TcpStream::connect_timeout(&to, s(4)));
    gateway.eventually("the SYN is tracked", SOON, || !gateway.connections(&["phase=syn_sent"]).is_empty());
    let start = gateway.now();
    let closed = || gateway.json(&["events"]).into_iter().find(|event| event["event"] == "closed");
    gateway.eventually("it is given up", s(2) + Duration::from_millis(900), || closed().is_some());
    assert!(gateway.since(start) > s(2) - EARLY, "given up too early: {:?}", gateway.since(start));
    let closed = closed().expect("an event");
    assert!(closed["close_reason"].as_str().is_some_and(|reason| reason.contains("syn_sent")), "{closed}");
    assert_ne!(closed["original"]["packets"], 1, "the SYN was repeated meanwhile: {closed}");
    let end = client.join().unwrap().unwrap();
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::TimedOut, "syn_sent ends silently");
    let rst = tap.find(Duration::from_millis(1), |packet| {
        segment(packet).is_some_and(|segment| segment.flags.contains(Flags::RST))
    });
    assert!(rst.unwrap().is_none(), "nobody is told");
}

fn a_client_that_never_finishes_is_cut_and_the_server_gets_its_rst(family: Family) {
    let gateway = Gateway::start(&open(80));
    let _listener = gateway.listen(family, 80);
    let mut tap = gateway.server_tap();
    let from = gateway.forger().syn(family, 7, 4000, 80);
    gateway.wait_phase(from, "syn_received");
    let start = gateway.now();
    assert_eq!(gateway.backlog(80), 1, "the server waits for the last ACK");
    gateway.eventually("the server's backlog is free", s(2) + LATE, || gateway.backlog(80) == 0);
    let took = gateway.since(start);
    assert!(took > s(2) - EARLY, "cut too early: {took:?}");
    let rst = tap.find(SOON, |packet| {
        segment(packet).is_some_and(|segment| packet.src == from.ip() && segment.flags.contains(Flags::RST))
    });
    let rst = rst.unwrap().expect("a RST on the server's wire");
    let rst = segment(&rst.packet().unwrap()).unwrap();
    assert_eq!((rst.src_port, rst.dst_port), (4000, 80));
    assert_eq!(rst.seq, SeqNum(1001), "what the server expects next");
    assert_eq!(gateway.phase(from), None, "and the firewall has forgotten it");
    assert!(gateway.close_reason(from).contains("syn_received"), "{}", gateway.close_reason(from));
}

/// After the cut, the last ACK finds no connection: it is not let through.
fn a_client_that_finishes_late_finds_its_connection_reset(family: Family) {
    let gateway = Gateway::start(&open(80));
    let _listener = gateway.listen(family, 80);
    let mut client = gateway.client_tap();
    let forger = gateway.forger();
    let from = forger.syn(family, 8, 4000, 80);
    let syn_ack = client.find(SOON, |packet| {
        segment(packet).is_some_and(|segment| {
            packet.dst == from.ip() && segment.flags.contains(Flags::SYN.with(Flags::ACK))
        })
    });
    let syn_ack = segment(&syn_ack.unwrap().expect("a SYN-ACK").packet().unwrap()).unwrap();
    let start = gateway.now();
    gateway.wait_phase(from, "syn_received");
    gateway.wait_gone(from, start, s(2) + LATE);
    let mut server = gateway.server_tap();
    let to = SocketAddr::new(family.server(), 80);
    forger.send(from, to, 1001, Some(syn_ack.seq.0.wrapping_add(1)), Flags::ACK);
    let rst = client.find(SOON, |packet| {
        segment(packet).is_some_and(|segment| packet.dst == from.ip() && segment.flags.contains(Flags::RST))
    });
    let rst = segment(&rst.unwrap().expect("a RST to the late one").packet().unwrap()).unwrap();
    assert_eq!(rst.seq, syn_ack.seq.plus(1), "RFC 9293 §3.5.2: the sequence number is the ACK's");
    let ack = server.find(Duration::from_millis(1), |packet| packet.src == from.ip());
    let ack = ack.unwrap().and_then(|packet| segment(&packet.packet().unwrap()));
    assert!(ack.is_none_or(|segment| segment.flags.contains(Flags::RST)), "the ACK did not pass: {ack:?}");
}

fn a_normal_handshake_outlives_the_timers_of_the_handshake(family: Family) {
    let gateway = Gateway::start(&open(80));
    let listener = gateway.listen(family, 80);
    let client = gateway.connect(family, 80);
    let (server, _) = accept(&listener);
    let from = client.local_addr().unwrap();
    gateway.wait_phase(from, "established");
    gateway.always("it stays established", s(3), || {
        thread::sleep(Duration::from_millis(200));
        gateway.phase(from).as_deref() == Some("established")
    });
    say(&client, &server, "still there?");
    say(&server, &client, "still here.");
}
