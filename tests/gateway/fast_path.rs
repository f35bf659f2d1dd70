//! The fast path: established connections pass in the kernel, and are watched all the same.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    thread::{self, JoinHandle},
    time::Duration,
};

use halfgate::{
    sys::netns::Family,
    wire::{Flags, FourTuple, Packet, SegmentBuilder, Transport},
};
use serde_json::Value;

use crate::harness::{EARLY, Gateway, LATE, SOON, rules, s, say, udp, wait_reset};

both_families! {
    a_transfer_leaves_the_queue
    a_fin_leads_to_the_phases_that_it_should
    a_rst_of_an_end_ends_it
    forged_ends_do_nothing
    an_rst_that_only_conntrack_takes_for_exact_ends_nothing
    killed_amid_a_transfer_both_ends_are_reset_at_once
    killed_while_it_is_silent_both_ends_are_reset
    silent_too_long_it_ends_and_both_ends_are_told
    a_timer_that_is_changed_reaches_it
    new_rules_reach_it
    with_full_inspection_nothing_rides
    what_conntrack_forgets_goes_on_by_the_queue
    a_daemon_that_was_killed_finds_it_again
    udp_that_is_answered_rides
    udp_of_which_some_always_waits_rides
}

fn open(more: &str) -> String {
    rules(&format!(
        "rules: [{{ name: web, from: outside, service: [tcp/80-81, udp/53], action: accept{more} }}]"
    ))
}

/// SIGSTOP, SIGCONT (signal(7)).
const SIGSTOP: i32 = 19;
const SIGCONT: i32 = 18;

/// Octets of a transfer that no test waits for.
const LARGE: u64 = 64 << 20;

/// Sends this much, and reads it at the other end; how much arrived.
fn transfer(from: &TcpStream, to: &TcpStream, octets: u64) -> JoinHandle<u64> {
    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
    thread::spawn(move || {
        let sender = thread::spawn(move || {
            let block = vec![0x5a; 64 << 10];
            let mut left = octets;
            while left > 0 {
                let now = usize::try_from(left).unwrap().min(block.len());
                match from.write(&block[..now]) {
                    Ok(sent) => left -= sent as u64,
                    Err(_) => break,
                }
            }
        });
        let mut room = vec![0; 256 << 10];
        let mut arrived = 0;
        while arrived < octets {
            match to.read(&mut room) {
                Ok(0) | Err(_) => break,
                Ok(read) => arrived += read as u64,
            }
        }
        drop(to);
        sender.join().unwrap();
        arrived
    })
}

/// Waits until the connection from there rides, and its packets pass no queue.
fn wait_ride(gateway: &Gateway, client: &TcpStream, server: &TcpStream) -> Value {
    let from = client.local_addr().unwrap();
    let mut row = Value::Null;
    gateway.eventually("it rides", SOON, || {
        let before = packets(gateway);
        say(client, server, "ping");
        say(server, client, "pong");
        row = gateway.connection(from).expect("it is in the table");
        row["fast_path"] == true && packets(gateway) == before
    });
    row
}

fn packets(gateway: &Gateway) -> u64 {
    gateway.json(&["status"])[0]["packets"].as_u64().unwrap()
}

fn a_transfer_leaves_the_queue(family: Family) {
    let gateway = Gateway::start(&open(""));
    let (client, server) = gateway.pair(family, 80);
    let from = client.local_addr().unwrap();
    wait_ride(&gateway, &client, &server);
    let before = packets(&gateway);
    assert_eq!(transfer(&client, &server, LARGE).join().unwrap(), LARGE);
    let queued = packets(&gateway) - before;
    assert!(queued < 20, "{queued} packets were queued");
    let row = gateway.connection(from).unwrap();
    let [original, reply] = ["original", "reply"].map(|way| row[way]["bytes"].as_u64().unwrap());
    assert!(original > LARGE && original < LARGE + LARGE / 5, "{row}");
    assert!(reply > 1000 && reply < LARGE / 10, "{row}");
    assert_eq!(gateway.json(&["status"])[0]["fast_path"], 1);
    drop((client, server));
    gateway.wait_phase(from, "time_wait");
    assert_eq!(gateway.json(&["status"])[0]["fast_path"], 0);
    gateway.ok(&["kill", "--all", "--silent"]);
}

/// A connection that rides, and what became of a transfer over it that goes on.
fn riding_transfer(gateway: &Gateway, family: Family) -> (TcpStream, TcpStream, JoinHandle<u64>) {
    let (client, server) = gateway.pair(family, 80);
    wait_ride(gateway, &client, &server);
    let endless = transfer(&client, &server, u64::MAX);
    let from = client.local_addr().unwrap();
    gateway.eventually("it is under way", SOON, || {
        gateway.connection(from).unwrap()["original"]["bytes"].as_u64().unwrap() > LARGE
    });
    (client, server, endless)
}

fn killed_amid_a_transfer_both_ends_are_reset_at_once(family: Family) {
    let gateway = Gateway::start(&open(""));
    let (client, server, transfer) = riding_transfer(&gateway, family);
    let from = client.local_addr().unwrap();
    gateway.ok(&["kill", "dport=80"]);
    assert!(transfer.join().unwrap() > 0);
    // Who has read the error by reading is told no second time.
    gateway.eventually("both are over", SOON, || {
        [&client, &server].iter().all(|end| {
            end.set_nonblocking(true).unwrap();
            let mut end = *end;
            end.take_error().unwrap().is_some()
                || matches!(end.write(b"x"), Err(error) if error.kind() != std::io::ErrorKind::WouldBlock)
        })
    });
    assert_eq!(gateway.phase(from), None);
    assert!(gateway.close_reason(from).contains("kill"));
    gateway.eventually("conntrack has forgotten it", SOON, || entries(&gateway, "tcp").is_empty());
}

fn killed_while_it_is_silent_both_ends_are_reset(family: Family) {
    let gateway = Gateway::start(&open(""));
    let (client, server) = gateway.pair(family, 80);
    wait_ride(&gateway, &client, &server);
    assert_eq!(transfer(&client, &server, LARGE).join().unwrap(), LARGE);
    gateway.ok(&["kill", "dport=80"]);
    wait_reset(&client, SOON);
    wait_reset(&server, SOON);
}

fn silent_too_long_it_ends_and_both_ends_are_told(family: Family) {
    let gateway = Gateway::start(&open(", timers: { established: 30s }"));
    let (client, server) = gateway.pair(family, 80);
    let from = client.local_addr().unwrap();
    wait_ride(&gateway, &client, &server);
    // What is said in the kernel keeps it, though nobody sees it.
    let begin = gateway.now();
    let queued = packets(&gateway);
    while gateway.since(begin) < s(35) {
        say(&client, &server, "still here");
        thread::sleep(s(1));
    }
    assert!(packets(&gateway) - queued < 5);
    assert_eq!(transfer(&client, &server, LARGE).join().unwrap(), LARGE);
    let start = gateway.now();
    wait_reset(&client, s(30) + LATE);
    assert!(gateway.since(start) > s(30) - EARLY - s(1), "too early: {:?}", gateway.since(start));
    wait_reset(&server, SOON);
    let reason = gateway.close_reason(from);
    assert!(reason.contains("established"), "{reason}");
}

fn a_timer_that_is_changed_reaches_it(family: Family) {
    let gateway = Gateway::start(&open(""));
    let (client, server) = gateway.pair(family, 80);
    let from = client.local_addr().unwrap();
    wait_ride(&gateway, &client, &server);
    gateway.ok(&["timers", "set", "established", &format!("{}s", s(4).as_secs())]);
    gateway.eventually("it is back in the queue", SOON, || {
        gateway.connection(from).unwrap()["fast_path"] == false
    });
    let start = gateway.now();
    say(&client, &server, "and is not silent");
    say(&server, &client, "nor I");
    wait_reset(&client, s(4) + LATE);
    assert!(gateway.since(start) > s(4) - EARLY, "too early: {:?}", gateway.since(start));
    wait_reset(&server, SOON);
}

fn new_rules_reach_it(family: Family) {
    let gateway = Gateway::start(&open(""));
    let (client, server, transfer) = riding_transfer(&gateway, family);
    let from = client.local_addr().unwrap();
    std::fs::write(gateway.rules_file(), open(", inspect: full")).unwrap();
    gateway.ok(&["reload"]);
    let queued = packets(&gateway);
    gateway.eventually("it is inspected", SOON, || packets(&gateway) > queued + 1000);
    assert_eq!(gateway.connection(from).unwrap()["fast_path"], false);
    assert!(!transfer.is_finished(), "it goes on");
    std::fs::write(gateway.rules_file(), open("")).unwrap();
    gateway.ok(&["reload"]);
    gateway.eventually("it rides again", SOON, || gateway.connection(from).unwrap()["fast_path"] == true);
    std::fs::write(gateway.rules_file(), rules("rules: []")).unwrap();
    gateway.ok(&["reload", "--existing", "rejudge"]);
    assert!(transfer.join().unwrap() > 0);
    assert!(gateway.phase(from).is_none());
    drop((client, server));
}

fn with_full_inspection_nothing_rides(family: Family) {
    let gateway = Gateway::start(&open(", inspect: full"));
    let (client, server) = gateway.pair(family, 80);
    let before = packets(&gateway);
    assert_eq!(transfer(&client, &server, LARGE).join().unwrap(), LARGE);
    assert!(packets(&gateway) - before > LARGE / (64 << 10), "each packet was queued");
    let row = gateway.connection(client.local_addr().unwrap()).unwrap();
    assert_eq!(row["fast_path"], false);
}

fn a_fin_leads_to_the_phases_that_it_should(family: Family) {
    let gateway = Gateway::start(&open(""));
    let (client, server) = gateway.pair(family, 80);
    let from = client.local_addr().unwrap();
    wait_ride(&gateway, &client, &server);
    assert_eq!(transfer(&client, &server, LARGE).join().unwrap(), LARGE);
    client.shutdown(Shutdown::Write).unwrap();
    gateway.wait_phase(from, "half_closed");
    assert_eq!(transfer(&server, &client, LARGE).join().unwrap(), LARGE, "the other side may still send");
    server.shutdown(Shutdown::Write).unwrap();
    gateway.wait_phase(from, "time_wait");
    let row = gateway.connection(from).unwrap();
    for way in ["original", "reply"] {
        assert!(row[way]["bytes"].as_u64().unwrap() > LARGE, "{row}");
    }
}

fn a_rst_of_an_end_ends_it(family: Family) {
    let gateway = Gateway::start(&open(""));
    let (client, server) = gateway.pair(family, 80);
    let from = client.local_addr().unwrap();
    wait_ride(&gateway, &client, &server);
    assert_eq!(transfer(&client, &server, LARGE).join().unwrap(), LARGE);
    // It has not read this.
    (&server).write_all(b"unread").unwrap();
    gateway.eventually("it has come", SOON, || client.peek(&mut [0; 6]).is_ok());
    drop(client);
    wait_reset(&server, SOON);
    gateway.wait_phase(from, "reset");
}

fn forged_ends_do_nothing(family: Family) {
    let gateway = Gateway::start(&open(""));
    let (client, server, transfer) = riding_transfer(&gateway, family);
    let (from, to) = (client.local_addr().unwrap(), server.local_addr().unwrap());
    let forger = gateway.forger();
    let mut seq = 0x1234_5678_u32;
    for round in 0..64_u32 {
        seq = seq.wrapping_add(0x0400_0000).wrapping_add(round);
        for flags in [Flags::RST, Flags::FIN.with(Flags::ACK), Flags::RST.with(Flags::ACK)] {
            let ack = flags.contains(Flags::ACK).then_some(seq.rotate_left(9));
            forger.send(from, to, seq, ack, flags);
        }
    }
    goes_on_and_rides(&gateway, from);
    forger.send(from, to, seq, None, Flags::SYN);
    goes_on_and_rides(&gateway, from);
    assert!(!transfer.is_finished());
    gateway.ok(&["kill", "--all"]);
    transfer.join().unwrap();
}

/// Who has hit the window can have conntrack take an RST of the same number for exact.
fn an_rst_that_only_conntrack_takes_for_exact_ends_nothing(family: Family) {
    let gateway = Gateway::start(&open(""));
    let (client, server) = gateway.pair(family, 80);
    wait_ride(&gateway, &client, &server);
    let (from, to) = (client.local_addr().unwrap(), server.local_addr().unwrap());
    let mut tap = gateway.server_tap();
    let is_data = |packet: &Packet<'_>| {
        let Transport::Tcp(segment) = packet.transport else { return false };
        segment.src_port == from.port() && segment.payload_len == 1
    };
    assert_eq!(transfer(&client, &server, 1).join().unwrap(), 1);
    let seen = tap.find(SOON, is_data).unwrap().expect("the octet");
    let Transport::Tcp(last) = seen.packet().unwrap().transport else { unreachable!() };
    let tuple = FourTuple { src: from.ip(), src_port: from.port(), dst: to.ip(), dst_port: to.port() };
    let ahead = SegmentBuilder::new(tuple).seq(last.seq.plus(1000)).ack(last.ack);
    let forger = gateway.forger();
    forger.raw.send(&ahead.build()).unwrap();
    forger.send(from, to, last.seq.plus(1000).0, None, Flags::RST);
    let version = if from.is_ipv4() { "ipv4" } else { "ipv6" };
    gateway.eventually("conntrack believes it", SOON, || {
        let line = format!("dport={} ", from.port());
        let all = gateway.tool("conntrack", &["-L", "-f", version, "-p", "tcp"], "");
        all.lines().any(|entry| entry.contains(" CLOSE ") && entry.contains(&line))
    });
    gateway
        .eventually("the server was asked", SOON, || gateway.json(&["status"])[0]["sent"]["keepalives"] == 1);
    for _ in 0..3 {
        assert_eq!(transfer(&client, &server, LARGE).join().unwrap(), LARGE);
        assert_eq!(transfer(&server, &client, LARGE).join().unwrap(), LARGE);
    }
    wait_ride(&gateway, &client, &server);
    assert_eq!(gateway.connection(from).unwrap()["phase"], "established");
}

fn goes_on_and_rides(gateway: &Gateway, from: SocketAddr) {
    let bytes = |row: &Value| row["original"]["bytes"].as_u64().unwrap();
    let arrived = bytes(&gateway.connection(from).unwrap());
    gateway.eventually("it goes on, and rides", SOON, || {
        let row = gateway.connection(from).unwrap();
        row["phase"] == "established" && row["fast_path"] == true && bytes(&row) > arrived + LARGE
    });
}

fn what_conntrack_forgets_goes_on_by_the_queue(family: Family) {
    let gateway = Gateway::start(&open(""));
    let (client, server, transfer) = riding_transfer(&gateway, family);
    let from = client.local_addr().unwrap();
    let queued = packets(&gateway);
    gateway.tool("conntrack", &["-D", "-f", if from.is_ipv4() { "ipv4" } else { "ipv6" }, "-p", "tcp"], "");
    gateway.eventually("packets come to the queue", SOON, || packets(&gateway) > queued);
    gateway.eventually("it rides again", SOON, || gateway.connection(from).unwrap()["fast_path"] == true);
    assert!(!transfer.is_finished(), "it goes on");
    gateway.ok(&["kill", "--all"]);
    transfer.join().unwrap();
    drop((client, server));
}

fn a_daemon_that_was_killed_finds_it_again(family: Family) {
    let mut gateway = Gateway::start(&open(""));
    let (client, server, transfer) = riding_transfer(&gateway, family);
    let from = client.local_addr().unwrap();
    gateway.firewall().signal(9).unwrap();
    gateway.firewall().wait(SOON).unwrap();
    gateway.start_firewall();
    gateway.eventually("it rides again", SOON, || {
        gateway.connection(from).is_some_and(|row| row["fast_path"] == true)
    });
    assert!(!transfer.is_finished(), "it goes on");
    gateway.ok(&["kill", "--all"]);
    transfer.join().unwrap();
    drop((client, server));
}

fn udp_that_is_answered_rides(family: Family) {
    let gateway = Gateway::start(&open(", timers: { udp_stream: 30s }"));
    let server = udp(&gateway.three.server, SocketAddr::new(family.server(), 53));
    let client = udp(&gateway.three.client, SocketAddr::new(family.client(), 0));
    client.connect(server.local_addr().unwrap()).unwrap();
    let from = client.local_addr().unwrap();
    let exchange = || {
        client.send(b"question").unwrap();
        let (_, from) = server.recv_from(&mut [0; 64]).unwrap();
        server.send_to(b"answer", from).unwrap();
        client.recv(&mut [0; 64]).unwrap();
    };
    gateway.eventually("it rides", SOON, || {
        exchange();
        gateway.connection(from).unwrap()["fast_path"] == true
    });
    let before = packets(&gateway);
    for _ in 0..1000 {
        exchange();
    }
    let start = gateway.now();
    assert!(packets(&gateway) - before < 10);
    let row = gateway.connection(from).unwrap();
    assert!(row["original"]["packets"].as_u64().unwrap() > 1000, "{row}");
    assert!(row["reply"]["packets"].as_u64().unwrap() > 1000, "{row}");
    let lived = gateway.wait_gone(from, start, s(30) + LATE + s(2));
    assert!(lived > s(30) - EARLY - s(2), "{lived:?}");
    // Until conntrack has forgotten it, its packets still pass in the kernel.
    gateway.eventually("it begins anew", SOON, || {
        exchange();
        gateway.connection(from).is_some_and(|row| row["phase"] == "udp_stream")
    });
}

fn udp_of_which_some_always_waits_rides(family: Family) {
    let mut gateway = Gateway::start(&open(""));
    let server = udp(&gateway.three.server, SocketAddr::new(family.server(), 53));
    let client = udp(&gateway.three.client, SocketAddr::new(family.client(), 0));
    client.connect(server.local_addr().unwrap()).unwrap();
    let from = client.local_addr().unwrap();
    client.send(b"question").unwrap();
    let (_, asking) = server.recv_from(&mut [0; 64]).unwrap();
    server.send_to(b"answer", asking).unwrap();
    client.recv(&mut [0; 64]).unwrap();
    // More wait than any queue is emptied of before the next comes.
    gateway.firewall().signal(SIGSTOP).unwrap();
    for _ in 0..3000 {
        client.send(&[0; 18]).unwrap();
    }
    let goes_on = AtomicBool::new(true);
    thread::scope(|scope| {
        scope.spawn(|| {
            while goes_on.load(Ordering::Relaxed) {
                // A full device queue refuses some.
                let _ = client.send(&[0; 18]);
            }
        });
        gateway.firewall().signal(SIGCONT).unwrap();
        let sent =
            |gateway: &Gateway| gateway.connection(from).unwrap()["original"]["packets"].as_u64().unwrap();
        gateway.eventually("it passes no queue", SOON, || {
            let (before, arrived) = (packets(&gateway), sent(&gateway));
            thread::sleep(Duration::from_millis(100));
            packets(&gateway) == before && sent(&gateway) > arrived + 100
        });
        assert_eq!(gateway.connection(from).unwrap()["fast_path"], true);
        goes_on.store(false, Ordering::Relaxed);
    });
}

/// The kernel's entries of a protocol in the gateway.
fn entries(gateway: &Gateway, protocol: &str) -> String {
    let of = |family| gateway.tool("conntrack", &["-L", "-f", family, "-p", protocol], "");
    of("ipv4") + &of("ipv6")
}
