//! `on_excess: syncookies`: the kernel answers the SYNs of a destination under attack, and
//! what comes of it is tracked to its end.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use halfgate::{
    sys::netns::{Family, Namespace, Tap},
    wire::Flags,
};
use serde_json::Value;

use crate::{
    harness::{EARLY, Gateway, LATE, SOON, accept, connect, rules, s, say, segment, wait_reset},
    nat,
    stale::nft,
};

both_families! {
    honest_clients_connect_and_transfer_amid_a_flood
    a_server_that_speaks_first_is_heard_at_once
    a_client_that_speaks_at_once_is_heard_at_once
    kill_and_timers_send_rsts_that_both_ends_take
    an_rst_of_either_end_reaches_the_other
    rsts_of_hosts_that_asked_for_no_cookie_stay_in_the_kernel
    the_same_addresses_and_ports_come_again
    keepalives_behind_a_cookie_are_answered
    calm_for_long_enough_ends_it_and_nothing_else
    what_was_established_before_is_not_lost
    a_handshake_under_way_when_it_begins_is_finished
    a_syn_that_was_lost_before_it_begins_comes_to_the_server_again
    a_syn_ack_that_was_lost_before_it_begins_is_sent_again
    every_handshake_under_way_when_it_begins_is_named_to_the_kernel
    a_handshake_that_is_over_is_no_longer_named
    a_cookie_given_before_it_ends_is_still_taken
    a_client_that_no_rule_lets_in_is_told
    a_server_that_never_answers_is_noticed
    where_the_server_sees_the_gateways_address
    with_every_hook
    through_a_port_forward_clients_are_challenged
    in_shadow_nothing_is_done
    a_daemon_that_comes_back_finds_its_connections
    a_queue_of_syns_that_overflows_raises_challenges
    those_who_wait_count_where_rsts_end_what_is_half_open
    a_flood_of_a_proven_source_raises_them_too
}

/// Half-open connections that there may be.
const LIMIT: usize = 4;

/// The rule set's limits.
fn limits(calm: u32, more: &str) -> String {
    format!(
        "limits: {{ embryonic: {{ per_destination: {LIMIT}, on_excess: syncookies, calm: {calm}s{more} }} }}\n"
    )
}

const WEB: &str = "rules: [{ name: web, from: outside, service: tcp/80, action: accept }]";

/// A gateway whose cookies stay on once they are.
fn start(more: &str) -> Gateway {
    Gateway::start(&rules(&format!("timers: {{ syn_received: 60s }}\n{}{more}\n{WEB}", limits(600, ""))))
}

fn cookies(gateway: &Gateway) -> Value {
    gateway.json(&["status"])[0]["syncookies"].clone()
}

/// Whether the kernel answers for some destination.
fn is_on(gateway: &Gateway) -> bool {
    !cookies(gateway)["on"].as_array().expect("a list").is_empty()
}

fn valid(gateway: &Gateway) -> u64 {
    cookies(gateway)["valid"].as_u64().expect("a number")
}

fn loose(gateway: &Gateway) -> String {
    gateway.tool("cat", &["/proc/sys/net/netfilter/nf_conntrack_tcp_loose"], "").trim().to_owned()
}

/// Passes the limit.
fn pass(gateway: &Gateway, family: Family) {
    let forger = gateway.forger();
    for source in 0..=LIMIT as u16 {
        forger.syn(family, source, 4000, 80);
    }
}

/// Passes the limit, and waits until the kernel answers.
fn turn_on(gateway: &Gateway, family: Family) {
    pass(gateway, family);
    gateway.eventually("the kernel answers", SOON, || is_on(gateway));
}

/// A connection behind a cookie.
fn pair(gateway: &Gateway, listener: &TcpListener, family: Family) -> (TcpStream, TcpStream) {
    let before = valid(gateway);
    let client = gateway.connect(family, 80);
    let server = accept(listener).0;
    assert_eq!(valid(gateway), before + 1, "it came by a cookie");
    (client, server)
}

fn talk(client: &TcpStream, server: &TcpStream) {
    say(client, server, "hello");
    say(server, client, "hello yourself, and how do you do?");
    say(client, server, "well");
}

/// Some megabytes one way, read at the other end.
fn transfer(mut from: &TcpStream, mut to: &TcpStream) {
    const OCTETS: usize = 3_000_000;
    thread::scope(|scope| {
        scope.spawn(move || from.write_all(&vec![7; OCTETS]).expect("send"));
        let mut heard = vec![0; OCTETS];
        to.read_exact(&mut heard).expect("hear");
        assert!(heard.iter().all(|octet| *octet == 7));
    });
}

/// Ends a flood when it is dropped.
struct Flood<'s>(&'s AtomicBool);

impl Drop for Flood<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// While `body` runs, SYNs of forged sources come, some hundreds a second.
fn amid_a_flood(gateway: &Gateway, family: Family, body: impl FnOnce()) {
    let over = AtomicBool::new(false);
    let forger = gateway.forger();
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut sent = 0_u16;
            while !over.load(Ordering::Relaxed) {
                forger.syn(family, sent % 4000, 4000 + sent / 4000, 80);
                sent = sent.wrapping_add(1);
                thread::sleep(Duration::from_millis(2));
            }
        });
        let _flood = Flood(&over);
        gateway.eventually("the kernel answers", SOON, || is_on(gateway));
        body();
    });
}

fn honest_clients_connect_and_transfer_amid_a_flood(family: Family) {
    let gateway = start("");
    let listener = gateway.listen(family, 80);
    let mut wire = gateway.server_tap();
    amid_a_flood(&gateway, family, || {
        let pairs: Vec<_> = (0..8).map(|_| pair(&gateway, &listener, family)).collect();
        for (client, server) in &pairs {
            talk(client, server);
            gateway.wait_phase(client.local_addr().unwrap(), "established");
        }
        transfer(&pairs[0].0, &pairs[0].1);
        transfer(&pairs[1].1, &pairs[1].0);
        let answered = cookies(&gateway)["syns"].as_u64().expect("a number");
        assert!(answered > 50, "the kernel has answered {answered} SYNs only");
    });
    // Of the flood the server has got what the limit lets through.
    let mut forged = 0;
    while let Some(captured) = wire.next(Duration::from_millis(100)).unwrap() {
        let is_syn = |segment: halfgate::wire::Segment| segment.flags == Flags::SYN;
        let packet = captured.packet();
        let is_forged = packet.as_ref().is_some_and(|packet| packet.src != family.client());
        forged += usize::from(is_forged && packet.as_ref().and_then(segment).is_some_and(is_syn));
    }
    assert!(forged <= 2 * LIMIT, "{forged} of them reached the server");
    let status = gateway.ok(&["status"]);
    assert!(status.contains("syncookies") && status.contains("cookies came back"), "{status}");
    let events = gateway.ok(&["events"]);
    assert!(events.contains("by cookies: embryonic.per_destination is passed"), "{events}");
    assert!(gateway.ok(&["limits"]).contains("syncookies"));
}

fn a_server_that_speaks_first_is_heard_at_once(family: Family) {
    let gateway = start("");
    let listener = gateway.listen(family, 80);
    turn_on(&gateway, family);
    let mut wire = gateway.server_tap();
    let (client, server) = pair(&gateway, &listener, family);
    say(&server, &client, "220 who are you?");
    // It was believed the first time: its SYN-ACK was not sent again.
    let port = client.local_addr().unwrap().port();
    let mut answers = 0;
    while let Some(captured) = wire.next(Duration::from_millis(100)).unwrap() {
        let is_answer = |segment: halfgate::wire::Segment| {
            segment.dst_port == port && segment.flags == Flags::SYN.with(Flags::ACK)
        };
        answers += usize::from(captured.packet().as_ref().and_then(segment).is_some_and(is_answer));
    }
    assert_eq!(answers, 1);
    gateway.wait_phase(client.local_addr().unwrap(), "established");
}

/// Segments that the client's kernel has sent again (`/proc/net/snmp`).
fn sent_again(gateway: &Gateway) -> u64 {
    let counters = gateway.three.client.proc_net("snmp").expect("counters");
    let mut rows = counters.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = (rows.next().expect("names"), rows.next().expect("values"));
    let mut both = names.split_whitespace().zip(values.split_whitespace());
    both.find(|(name, _)| *name == "RetransSegs").expect("a counter").1.parse().expect("a number")
}

/// The server waits for the last ACK of a handshake, as the kernel's own has no timestamp that
/// it takes; what it says of that must not reach the client before the client's data reach it.
fn a_client_that_speaks_at_once_is_heard_at_once(family: Family) {
    let gateway = start("");
    let listener = gateway.listen(family, 80);
    turn_on(&gateway, family);
    let before = sent_again(&gateway);
    for _ in 0..400 {
        let mut client = gateway.connect(family, 80);
        client.write_all(b"hello").expect("send");
        let mut heard = [0; 5];
        accept(&listener).0.read_exact(&mut heard).expect("hear");
    }
    assert_eq!(sent_again(&gateway), before);
}

fn kill_and_timers_send_rsts_that_both_ends_take(family: Family) {
    let gateway = Gateway::start(&rules(&format!(
        "timers: {{ syn_received: 60s, half_closed: 2s }}\n{}{WEB}",
        limits(600, "")
    )));
    let listener = gateway.listen(family, 80);
    turn_on(&gateway, family);
    ends(&gateway, || pair(&gateway, &listener, family));
}

/// A connection that `kill` ends, and another that its timer does.
fn ends(gateway: &Gateway, pair: impl Fn() -> (TcpStream, TcpStream)) {
    let (client, server) = pair();
    talk(&client, &server);
    gateway.ok(&["kill", "phase=established"]);
    wait_reset(&client, SOON);
    wait_reset(&server, SOON);
    // One that has said nothing yet.
    let (client, server) = pair();
    gateway.wait_phase(client.local_addr().unwrap(), "established");
    gateway.ok(&["kill", "phase=established"]);
    wait_reset(&client, SOON);
    wait_reset(&server, SOON);
    let (client, server) = pair();
    talk(&client, &server);
    client.shutdown(Shutdown::Write).unwrap();
    let start = gateway.now();
    wait_reset(&client, s(2) + LATE);
    assert!(gateway.since(start) > s(2) - EARLY, "too early: {:?}", gateway.since(start));
    wait_reset(&server, SOON);
}

/// Ends a connection by RST.
fn abort(stream: TcpStream) {
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(stream);
}

fn an_rst_of_either_end_reaches_the_other(family: Family) {
    let gateway = start("");
    let listener = gateway.listen(family, 80);
    turn_on(&gateway, family);
    let (client, server) = pair(&gateway, &listener, family);
    talk(&client, &server);
    abort(server);
    wait_reset(&client, SOON);
    let (client, server) = pair(&gateway, &listener, family);
    talk(&client, &server);
    abort(client);
    wait_reset(&server, SOON);
    // A closed port: the client learns it a little later than it would.
    drop(listener);
    match gateway.try_connect(family, 80, SOON) {
        Ok(client) => wait_reset(&client, SOON),
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
    }
}

fn rsts_of_hosts_that_asked_for_no_cookie_stay_in_the_kernel(family: Family) {
    const MANY: u16 = 20_000;
    let gateway = start("");
    let listener = gateway.listen(family, 80);
    let (forger, to) = (gateway.forger(), SocketAddr::new(family.server(), 80));
    let rsts = || {
        for number in 0..MANY {
            let from = SocketAddr::new(family.forged(number % 4000), 4000 + number / 4000);
            forger.send(from, to, number.into(), None, Flags::RST);
        }
    };
    let judged = || gateway.json(&["status"])[0]["packets"].as_u64().expect("a number");
    turn_on(&gateway, family);
    let (client, server) = pair(&gateway, &listener, family);
    talk(&client, &server);
    let before = judged();
    rsts();
    thread::sleep(s(1));
    let rest = judged() - before;
    assert!((1..u64::from(MANY) / 2).contains(&rest), "{rest} of {MANY} came to the queues");
    let dropped = cookies(&gateway)["rsts"].as_u64().expect("a number");
    assert!((u64::from(MANY) / 2..=u64::from(MANY)).contains(&dropped), "{dropped} are counted");
    assert_eq!(gateway.json(&["status"])[0]["blocked_packets"], 0);
    // One of a connection's is not among them.
    abort(client);
    wait_reset(&server, SOON);
}

/// conntrack still knows the connection before.
fn the_same_addresses_and_ports_come_again(family: Family) {
    let gateway = start("");
    let listener = gateway.listen(family, 80);
    turn_on(&gateway, family);
    let (from, to) = (SocketAddr::new(family.client(), 40_000), SocketAddr::new(family.server(), 80));
    for times in 1..=3 {
        let domain = socket2::Domain::for_address(from);
        let socket = || socket2::Socket::new(domain, socket2::Type::STREAM, None);
        let client = gateway.three.client.enter(socket).unwrap().unwrap();
        client.set_reuse_address(true).unwrap();
        client.bind(&from.into()).unwrap();
        client.connect_timeout(&to.into(), SOON).unwrap();
        let client = TcpStream::from(client);
        client.set_read_timeout(Some(SOON)).unwrap();
        let (server, who) = accept(&listener);
        assert_eq!((who, valid(&gateway)), (from, times), "it came by a cookie");
        talk(&client, &server);
        // The server remembers it, and the client does not.
        drop(server);
        assert_eq!((&client).read(&mut [0; 1]).unwrap(), 0);
        drop(client);
        gateway.wait_phase(from, "time_wait");
    }
}

fn keepalives_behind_a_cookie_are_answered(family: Family) {
    let gateway = Gateway::start(&rules(&format!(
        "on_expire: {{ probe: {{ interval: 1s, retries: 3 }} }}\n\
         timers: {{ syn_received: 60s, established: 2s }}\n{}{WEB}",
        limits(600, "")
    )));
    let listener = gateway.listen(family, 80);
    turn_on(&gateway, family);
    let (client, server) = pair(&gateway, &listener, family);
    talk(&client, &server);
    gateway.eventually("both ends were asked and have answered", s(20) + LATE, || {
        let sent = gateway.json(&["status"])[0]["sent"]["keepalives"].as_u64().unwrap();
        sent >= 4 && gateway.drops("keepalive_answer") >= 4
    });
    assert!(gateway.phase(client.local_addr().unwrap()).is_some(), "it lives");
    talk(&client, &server);
}

fn calm_for_long_enough_ends_it_and_nothing_else(family: Family) {
    let gateway = Gateway::start(&rules(&format!("timers: {{ syn_received: 10s }}\n{}{WEB}", limits(2, ""))));
    assert_eq!(loose(&gateway), "1");
    let listener = gateway.listen(family, 80);
    let mut kept = None;
    amid_a_flood(&gateway, family, || {
        assert_eq!(loose(&gateway), "0");
        kept = Some(pair(&gateway, &listener, family));
        gateway.always("it stays on under pressure", s(4), || is_on(&gateway));
    });
    let start = gateway.now();
    gateway.eventually("it is off", s(2) + LATE + LATE, || !is_on(&gateway));
    assert!(gateway.since(start) > s(2) - EARLY, "too early: {:?}", gateway.since(start));
    gateway.eventually("the setting is as before", s(10) + LATE + LATE, || loose(&gateway) == "1");
    let (client, server) = kept.expect("it was made");
    talk(&client, &server);
    // New ones come straight, as soon as those of the flood are gone.
    gateway
        .eventually("there is room", s(10) + LATE, || gateway.connections(&["phase=half_open"]).is_empty());
    let before = valid(&gateway);
    let straight = (gateway.connect(family, 80), accept(&listener).0);
    talk(&straight.0, &straight.1);
    assert_eq!(valid(&gateway), before);
    gateway.ok(&["kill", "phase=established"]);
    for end in [&client, &server, &straight.0, &straight.1] {
        wait_reset(end, SOON);
    }
    let events = gateway.ok(&["events"]);
    assert!(events.contains("no longer answers") && events.contains("calm for"), "{events}");
}

fn what_was_established_before_is_not_lost(family: Family) {
    let gateway = start("");
    let listener = gateway.listen(family, 80);
    let before = (gateway.connect(family, 80), accept(&listener).0);
    talk(&before.0, &before.1);
    // One that has said nothing yet.
    let silent = (gateway.connect(family, 80), accept(&listener).0);
    amid_a_flood(&gateway, family, || {
        talk(&before.0, &before.1);
        talk(&silent.0, &silent.1);
        transfer(&before.1, &before.0);
    });
    gateway.ok(&["kill", "phase=established"]);
    for end in [&before.0, &before.1, &silent.0, &silent.1] {
        wait_reset(end, SOON);
    }
}

/// The server has answered, and the client's last ACK is still to come when the kernel begins
/// to answer SYNs.
fn a_handshake_under_way_when_it_begins_is_finished(family: Family) {
    let gateway = start("");
    let listener = gateway.listen(family, 80);
    // By hand: nobody in the client's namespace has its address, and so none answers for it.
    let (from, to) = (SocketAddr::new(family.forged(9), 4009), SocketAddr::new(family.server(), 80));
    let (forger, mut wire) = (gateway.forger(), gateway.client_tap());
    forger.send(from, to, 1000, None, Flags::SYN);
    let mut answer = None;
    gateway.eventually("the server's answer", SOON, || {
        answer = answer.or(answer_to(from, &mut wire));
        answer.is_some()
    });
    turn_on(&gateway, family);
    forger.send(from, to, 1001, answer.map(|seq| seq.wrapping_add(1)), Flags::ACK);
    let (_server, who) = accept(&listener);
    assert_eq!(who, from);
    gateway.wait_phase(from, "established");
}

/// The number of a SYN-ACK to this client, if it is the next packet there.
fn answer_to(client: SocketAddr, wire: &mut Tap) -> Option<u32> {
    let captured = wire.next(Duration::from_millis(50)).unwrap()?;
    let segment = segment(&captured.packet()?)?;
    let is_answer = segment.dst_port == client.port() && segment.flags == Flags::SYN.with(Flags::ACK);
    is_answer.then_some(segment.seq.0)
}

fn a_syn_that_was_lost_before_it_begins_comes_to_the_server_again(family: Family) {
    let gateway = start("");
    a_handshake_amid_losses(
        &gateway,
        &gateway.three.server,
        "tcp dport 80 tcp flags & (syn|ack) == syn",
        family,
    );
}

fn a_syn_ack_that_was_lost_before_it_begins_is_sent_again(family: Family) {
    let gateway = start("");
    a_handshake_amid_losses(
        &gateway,
        &gateway.three.client,
        "tcp sport 80 tcp flags & (syn|ack) == syn|ack",
        family,
    );
}

/// A client's SYN is let in; what is `lost` does not come in `at` one end, until the kernel
/// answers SYNs and the client has sent its own again.
fn a_handshake_amid_losses(gateway: &Gateway, at: &Namespace, lost: &str, family: Family) {
    let listener = gateway.listen(family, 80);
    let to = SocketAddr::new(family.server(), 80);
    nft(
        at,
        &format!("table inet lossy {{ chain in {{ type filter hook input priority 0; {lost} drop; }}; }}"),
    );
    let mut wire = gateway.server_tap();
    let mut syns = || {
        let mut seen = 0;
        while let Some(captured) = wire.next(Duration::ZERO).unwrap() {
            let packet = captured.packet();
            let is_own = packet.as_ref().is_some_and(|packet| packet.src == family.client());
            let segment = packet.as_ref().and_then(segment);
            seen += usize::from(is_own && segment.is_some_and(|segment| segment.flags == Flags::SYN));
        }
        seen
    };
    thread::scope(|scope| {
        let client = scope.spawn(|| connect(&gateway.three.client, to, s(30)));
        gateway.eventually("it is let in", SOON, || syns() > 0);
        turn_on(gateway, family);
        syns();
        gateway.eventually("its SYN comes to the server again", s(8) + LATE, || syns() > 0);
        nft(at, "delete table inet lossy");
        let client = client.join().expect("no panic").expect("connected");
        let (server, who) = accept(&listener);
        talk(&client, &server);
        transfer(&server, &client);
        gateway.wait_phase(who, "established");
        assert_eq!(valid(gateway), 0, "it has got no cookie");
        // Who comes now does.
        let (client, server) = pair(gateway, &listener, family);
        talk(&client, &server);
    });
}

fn every_handshake_under_way_when_it_begins_is_named_to_the_kernel(family: Family) {
    // More than one transaction names.
    const MANY: u16 = 2500;
    let limits =
        limits(600, "").replace(&format!("per_destination: {LIMIT}"), &format!("per_destination: {MANY}"));
    let gateway =
        Gateway::start(&rules(&format!("timers: {{ syn_sent: 60s, syn_received: 60s }}\n{limits}{WEB}")));
    let (forger, mute) = (gateway.forger(), SocketAddr::new(family.mute(), 80));
    let mut sent = 0;
    gateway.eventually("the kernel answers", s(20) + LATE, || {
        for _ in 0..100 {
            forger.send(SocketAddr::new(family.forged(sent), 4000), mute, 1000, None, Flags::SYN);
            sent += 1;
        }
        is_on(&gateway)
    });
    let set = if family == Family::V4 { "underway4" } else { "underway6" };
    gateway.eventually("all are named, each with its time", SOON, || {
        let listing = gateway.tool("nft", &["list", "set", "inet", "halfgate", set], "");
        listing.matches(" . 80 timeout 2m expires").count() == usize::from(MANY)
    });
    assert_eq!(gateway.connections(&["phase=half_open"]).len(), usize::from(MANY));
}

fn a_handshake_that_is_over_is_no_longer_named(family: Family) {
    let gateway = start("");
    let _listener = gateway.listen(family, 80);
    let set = if family == Family::V4 { "underway4" } else { "underway6" };
    let named = || {
        let listing = gateway.tool("nft", &["list", "set", "inet", "halfgate", set], "");
        let is_named = |source: &u16| listing.contains(&format!("{} . 4000 . ", family.forged(*source)));
        (0..=LIMIT as u16).filter(is_named).collect::<Vec<_>>()
    };
    turn_on(&gateway, family);
    gateway.eventually("all that were let in are named", SOON, || named().len() == LIMIT);
    let mut rest = named();
    gateway.always("they stay", s(2), || named() == rest);
    // One says that it has not asked for it.
    let from = SocketAddr::new(family.forged(rest.remove(0)), 4000);
    let to = SocketAddr::new(family.server(), 80);
    gateway.forger().send(from, to, 1001, None, Flags::RST);
    gateway.eventually("it is named no more", s(1) + LATE, || named() == rest);
    gateway.always("nor again", s(1), || named() == rest);
}

fn a_cookie_given_before_it_ends_is_still_taken(family: Family) {
    let gateway = Gateway::start(&rules(&format!("timers: {{ syn_received: 60s }}\n{}{WEB}", limits(2, ""))));
    let listener = gateway.listen(family, 80);
    let (from, to) = (SocketAddr::new(family.forged(9), 4009), SocketAddr::new(family.server(), 80));
    let (forger, mut wire) = (gateway.forger(), gateway.client_tap());
    turn_on(&gateway, family);
    let mut cookie = None;
    gateway.eventually("a cookie", SOON, || {
        forger.send(from, to, 1000, None, Flags::SYN);
        cookie = answer_to(from, &mut wire);
        cookie.is_some()
    });
    gateway.eventually("it is off", s(2) + LATE + LATE, || !is_on(&gateway));
    let before = valid(&gateway);
    forger.send(from, to, 1001, cookie.map(|seq| seq.wrapping_add(1)), Flags::ACK);
    let (_server, who) = accept(&listener);
    assert_eq!((who, valid(&gateway)), (from, before + 1));
    gateway.wait_phase(from, "established");
}

fn a_client_that_no_rule_lets_in_is_told(family: Family) {
    let refused = format!("{{ name: unwanted, from: {}, action: drop }}", family.client());
    let gateway = Gateway::start(&rules(&format!(
        "timers: {{ syn_received: 60s }}\n{}\
         rules: [{refused}, {{ name: web, from: outside, service: tcp/80, action: accept }}]",
        limits(600, "")
    )));
    let listener = gateway.listen(family, 80);
    turn_on(&gateway, family);
    // The kernel has answered before anybody could ask the rules; the RST may be as fast.
    match gateway.try_connect(family, 80, SOON) {
        Ok(client) => wait_reset(&client, SOON),
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
    }
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err(), "the server has heard of it");
    assert!(gateway.drops("rule") >= 1);
}

fn a_server_that_never_answers_is_noticed(family: Family) {
    let gateway = Gateway::start(&rules(&format!("timers: {{ syn_sent: 2s }}\n{}{WEB}", limits(600, ""))));
    let mute = SocketAddr::new(family.mute(), 80);
    let forger = gateway.forger();
    for source in 0..=LIMIT as u16 {
        forger.send(SocketAddr::new(family.forged(source), 4000), mute, 1000, None, Flags::SYN);
    }
    gateway.eventually("the kernel answers", SOON, || is_on(&gateway));
    let client = connect(&gateway.three.client, mute, SOON).expect("the kernel's answer");
    let start = gateway.now();
    wait_reset(&client, s(2) + LATE);
    assert!(gateway.since(start) > s(2) - EARLY, "too early: {:?}", gateway.since(start));
}

fn where_the_server_sees_the_gateways_address(family: Family) {
    let gateway = Gateway::start(&rules(&format!(
        "timers: {{ syn_received: 60s, half_closed: 2s }}\n{}{WEB}",
        limits(600, "")
    )));
    let table = "table inet nat { chain post { type nat hook postrouting priority srcnat;\n\
                 oifname \"inside\" masquerade\n }\n }\n";
    gateway.tool("nft", &["-f", "-"], table);
    let listener = gateway.listen(family, 80);
    turn_on(&gateway, family);
    let (client, server) = pair(&gateway, &listener, family);
    assert_eq!(server.peer_addr().unwrap().ip(), family.inside(), "masqueraded");
    talk(&client, &server);
    ends(&gateway, || pair(&gateway, &listener, family));
}

fn with_every_hook(family: Family) {
    let hooks = "hooks: [forward, input, output]\n";
    let gateway = Gateway::start(&rules(&format!(
        "timers: {{ syn_received: 60s, half_closed: 2s }}\n{}{hooks}{WEB}",
        limits(600, "")
    )));
    let listener = gateway.listen(family, 80);
    turn_on(&gateway, family);
    ends(&gateway, || pair(&gateway, &listener, family));
    assert_eq!(gateway.json(&["status"])[0]["missed"], 0);
    // What the gateway itself opens to that destination is inspected as ever.
    let own = connect(&gateway.three.gateway, SocketAddr::new(family.server(), 80), s(1));
    assert!(own.is_err(), "no rule lets it");
}

fn through_a_port_forward_clients_are_challenged(family: Family) {
    let rest = "rules: [{ name: forward, from: outside, to: inside, service: tcp/8080, action: accept }]";
    let text = rules(&format!("timers: {{ syn_received: 60s }}\n{}{rest}", limits(600, "")));
    let gateway = nat::gateway(&text, false);
    let listener = gateway.listen(family, 8080);
    let dialled = SocketAddr::new(family.outside(), 80);
    let forger = gateway.forger();
    for source in 0..LIMIT as u16 {
        forger.send(SocketAddr::new(family.forged(source), 4000), dialled, 1000, None, Flags::SYN);
    }
    gateway.eventually("the limit is reached", SOON, || gateway.backlog(8080) == LIMIT);
    let client = connect(&gateway.three.client, dialled, SOON).expect("past the limit");
    let server = accept(&listener).0;
    talk(&client, &server);
    let status = &gateway.json(&["status"])[0];
    assert!(status["challenges"]["answered"].as_u64() >= Some(1), "{status}");
    assert!(!is_on(&gateway));
}

fn in_shadow_nothing_is_done(family: Family) {
    let gateway = Gateway::start(&rules(&format!(
        "timers: {{ syn_received: 60s }}\n{}{WEB}",
        limits(600, ", shadow: true")
    )));
    let _listener = gateway.listen(family, 80);
    pass(&gateway, family);
    gateway.eventually("it is told of", SOON, || {
        let events = gateway.json(&["events"]);
        events.iter().any(|event| event["action"] == "syncookies" && event["shadow"] == true)
    });
    gateway.eventually("all of them are there", SOON, || gateway.connections(&[]).len() == LIMIT + 1);
    gateway.always("nothing is done", s(1), || !is_on(&gateway) && loose(&gateway) == "1");
}

fn a_daemon_that_comes_back_finds_its_connections(family: Family) {
    let mut gateway = start("");
    let listener = gateway.listen(family, 80);
    turn_on(&gateway, family);
    let (client, server) = pair(&gateway, &listener, family);
    talk(&client, &server);
    // Killed, it can put nothing back itself.
    gateway.firewall().signal(9).unwrap();
    let start = gateway.now();
    while gateway.firewall().ended().unwrap().is_none() {
        assert!(gateway.since(start) < SOON, "it does not end");
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(loose(&gateway), "0");
    gateway.start_firewall();
    assert_eq!(loose(&gateway), "1", "what it had set is as before");
    talk(&client, &server);
    gateway.wait_phase(client.local_addr().unwrap(), "established");
    transfer(&client, &server);
    gateway.ok(&["kill", "phase=established"]);
    wait_reset(&client, SOON);
    wait_reset(&server, SOON);
}

fn a_queue_of_syns_that_overflows_raises_challenges(family: Family) {
    let limits = limits(2, "").replace("syncookies", "challenge");
    let mut gateway = Gateway::start(&rules(&format!("timers: {{ syn_received: 10s }}\n{limits}{WEB}")));
    let listener = gateway.listen(family, 80);
    let forger = gateway.forger();
    gateway.firewall().signal(libc::SIGSTOP).unwrap();
    // More than the queues hold.
    for number in 0..20_000_u16 {
        forger.syn(family, number % 4000, 4000 + number / 4000, 80);
    }
    gateway.firewall().signal(libc::SIGCONT).unwrap();
    gateway.eventually("it is raised", s(5) + LATE, || cookies(&gateway)["raised"] == true);
    // Whoever passes the limit now.
    forger.syn(family, 1, 3999, 80);
    gateway.eventually("the kernel answers", SOON, || {
        forger.syn(family, 2, 3999, 80);
        is_on(&gateway)
    });
    assert_eq!(cookies(&gateway)["on"][0]["raised"], true);
    let (client, server) = pair(&gateway, &listener, family);
    talk(&client, &server);
    gateway.eventually("it comes back by itself", s(12) + SOON, || {
        let cookies = cookies(&gateway);
        let is_told = gateway.log().contains("challenge is itself again");
        is_told && cookies["raised"] == false && cookies["on"].as_array().unwrap().is_empty()
    });
    assert!(gateway.log().contains("challenge is raised to syncookies"));
    talk(&client, &server);
}

/// Each is over as soon as it is seen, and so few are half-open, however many wait.
fn those_who_wait_count_where_rsts_end_what_is_half_open(family: Family) {
    let limits = limits(2, "").replace("per_destination: 4", "per_destination: 8000");
    let mut gateway = Gateway::start(&rules(&format!("{limits}{WEB}")));
    let forger = gateway.forger();
    gateway.firewall().signal(libc::SIGSTOP).unwrap();
    // Nobody listens there.
    for number in 0..16_000_u16 {
        forger.syn(family, number % 4000, 4000 + number / 4000, 80);
    }
    gateway.firewall().signal(libc::SIGCONT).unwrap();
    gateway.eventually("the kernel answers", s(5) + LATE, || is_on(&gateway));
    let status = gateway.json(&["status"]).remove(0);
    assert_eq!(status["syncookies"]["on"][0]["raised"], true, "{status}");
}

/// Whoever floods from where he really is can answer every challenge.
fn a_flood_of_a_proven_source_raises_them_too(family: Family) {
    let limits = limits(2, "").replace("syncookies", "challenge");
    let mut gateway = Gateway::start(&rules(&format!("{limits}{WEB}")));
    let (client, server) = gateway.pair(family, 80);
    let proven = |gateway: &Gateway| gateway.json(&["status"])[0]["challenges"]["proven"] == 1;
    gateway.eventually("it has finished a handshake", SOON, || proven(&gateway));
    let forger = gateway.forger();
    gateway.firewall().signal(libc::SIGSTOP).unwrap();
    let to = SocketAddr::new(family.server(), 80);
    // More than the queues hold, from one host.
    for port in 10_000..30_000_u16 {
        forger.send(SocketAddr::new(family.client(), port), to, 1000, None, Flags::SYN);
    }
    gateway.firewall().signal(libc::SIGCONT).unwrap();
    gateway.eventually("it is raised", s(5) + LATE, || cookies(&gateway)["raised"] == true);
    let status = gateway.json(&["status"]).remove(0);
    let lost = |kind: &str| -> u64 {
        let of_kind = status["queues"].as_array().unwrap().iter().filter(|queue| queue["carries"] == kind);
        of_kind.map(|queue| queue["lost_full"].as_u64().unwrap()).sum()
    };
    assert!(lost("proven") > 0 && lost("syn") == 0, "{status}");
    talk(&client, &server);
}
