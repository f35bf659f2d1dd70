//! Too many open connections: the one too many is refused, and a source that has made
//! it is blocked in the kernel; nobody else is, whatever is sent in his name.

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use halfgate::{sys::netns::Family, wire::Flags};

use crate::harness::{Gateway, SOON, accept, rules, s, say, wait_reset};

both_families! {
    past_the_limit_new_connections_are_refused_and_the_open_ones_go_on
    who_opens_too_many_is_blocked_in_the_kernel_and_nobody_else
    a_flood_in_an_innocents_name_does_not_block_it
    a_block_ends_by_itself_and_by_hand_and_outlives_a_reload
    an_allow_list_is_never_blocked
}

fn limited(keys: &str) -> String {
    rules(&format!(
        "lists: {{ friends: [203.0.113.0/24, '2001:db8:a::/48'] }}\n\
         rules:\n\
         \x20 - {{ name: web, from: outside, service: tcp/80, action: accept, \
                  limits: {{ connections: {{ {keys} }} }} }}\n\
         \x20 - {{ name: mail, from: outside, service: tcp/25, action: accept }}"
    ))
}

/// So many connections, both ends of each.
fn pairs(
    gateway: &Gateway,
    listener: &TcpListener,
    family: Family,
    count: usize,
) -> Vec<(TcpStream, TcpStream)> {
    let pair = |_| {
        let client = gateway.connect(family, 80);
        (client, accept(listener).0)
    };
    (0..count).map(pair).collect()
}

/// Another host outside: connections from another of the client's addresses.
fn other_host(gateway: &Gateway, family: Family) -> IpAddr {
    let (address, length) = match family {
        Family::V4 => ("203.0.113.77", 24),
        Family::V6 => ("2001:db8:a::77", 64),
    };
    let mut command = gateway.three.client.command("ip");
    command.args(["addr", "add", &format!("{address}/{length}"), "dev", "eth0"]);
    if family == Family::V6 {
        command.arg("nodad");
    }
    assert!(command.status().unwrap().success());
    address.parse().unwrap()
}

fn blocked(gateway: &Gateway) -> Vec<String> {
    let rows = gateway.json(&["blocked"]);
    rows.iter().map(|row| row["source"].as_str().unwrap().to_owned()).collect()
}

fn status(gateway: &Gateway, field: &str) -> u64 {
    gateway.json(&["status"])[0][field].as_u64().unwrap()
}

/// A handshake that is refused as it completes: the client hears of it, perhaps before
/// it hears that it has connected.
fn one_too_many(gateway: &Gateway, family: Family) {
    match gateway.try_connect(family, 80, SOON) {
        Ok(late) => wait_reset(&late, SOON),
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
    }
}

/// As it is counted by default.
fn source(family: Family) -> String {
    match family {
        Family::V4 => "203.0.113.10".to_owned(),
        Family::V6 => "2001:db8:a::/64".to_owned(),
    }
}

fn past_the_limit_new_connections_are_refused_and_the_open_ones_go_on(family: Family) {
    let gateway = Gateway::start(&limited("per_source: 3, on_excess: reset"));
    let listener = gateway.listen(family, 80);
    let mut all = pairs(&gateway, &listener, family, 3);
    let refused = gateway.try_connect(family, 80, SOON).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    for (client, server) in &all {
        say(client, server, "this one was here before");
    }
    assert!(blocked(&gateway).is_empty());
    let rows = gateway.json(&["limits"]);
    let row = rows.iter().find(|row| row["limit"] == "connections.per_source" && row["rule"] == "web");
    let row = row.expect("its row");
    assert_eq!((&row["value"], &row["on_excess"]), (&3.into(), &"reset".into()));
    // One that ends makes room.
    let from = all[0].0.local_addr().unwrap();
    drop(all.remove(0));
    gateway.wait_phase(from, "time_wait");
    all.extend(pairs(&gateway, &listener, family, 1));
}

fn who_opens_too_many_is_blocked_in_the_kernel_and_nobody_else(family: Family) {
    let prefix = if family == Family::V4 { "32" } else { "128" };
    let rules = limited("per_source: 3, block: 1h")
        .replace("limits: { connections", &format!("limits: {{ source_prefix: {prefix}, connections"));
    let gateway = Gateway::start(&rules);
    let (listener, mail) = (gateway.listen(family, 80), gateway.listen(family, 25));
    let all = pairs(&gateway, &listener, family, 3);
    let address = all[0].0.local_addr().unwrap().ip().to_string();
    one_too_many(&gateway, family);
    gateway.eventually("its source is blocked", SOON, || blocked(&gateway) == [address.as_str()]);
    gateway.eventually("an event tells why it ended", SOON, || {
        let events = gateway.json(&["events"]);
        events.iter().any(|event| event["close_reason"] == "more than connections.per_source allows")
    });
    let event = gateway.json(&["events"]).into_iter().find(|event| event["event"] == "blocked");
    assert!(event.expect("an event tells").to_string().contains("for 1h"));
    // Its packets die in the kernel, before the queue: of any connection, to any service.
    let judged = status(&gateway, "packets");
    let died = status(&gateway, "blocked_packets");
    for port in [80, 25] {
        let error = gateway.try_connect(family, port, Duration::from_millis(1200)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
    }
    assert!(status(&gateway, "blocked_packets") >= died + 2);
    assert!(status(&gateway, "packets") <= judged + 2, "next to none of them was queued");
    // Another host is none of this.
    let other = other_host(&gateway, family);
    let server = SocketAddr::new(family.server(), 25);
    let client = gateway
        .three
        .client
        .enter(|| {
            let socket = socket2(other);
            socket.connect_timeout(&server.into(), SOON).map(|()| TcpStream::from(socket))
        })
        .unwrap()
        .expect("another host connects");
    let (there, from) = accept(&mail);
    assert_eq!(from.ip(), other);
    say(&client, &there, "as ever");
    drop(all);
}

/// A TCP socket with this address.
fn socket2(address: IpAddr) -> socket2::Socket {
    let domain = socket2::Domain::for_address(SocketAddr::new(address, 0));
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(address, 0).into()).unwrap();
    socket
}

fn a_flood_in_an_innocents_name_does_not_block_it(family: Family) {
    let gateway = Gateway::start(&limited("per_source: 3, block: 1h"));
    let listener = gateway.listen(family, 80);
    let all = pairs(&gateway, &listener, family, 3);
    // From its own address, but not by its own hand: its kernel resets what it does not know.
    let (forger, innocent) = (gateway.forger(), all[0].0.local_addr().unwrap().ip());
    let server = SocketAddr::new(family.server(), 80);
    for port in 10_000..10_300 {
        let from = SocketAddr::new(innocent, port);
        forger.send(from, server, 1000, None, Flags::SYN);
        for guess in [1, 1001, 77_000] {
            forger.send(from, server, 1001, Some(guess), Flags::ACK);
        }
        forger.send(from, server, 1001, Some(5), Flags::FIN.with(Flags::ACK));
        forger.send(from, server, 1001, None, Flags::RST);
    }
    gateway.eventually("the flood was judged", SOON, || status(&gateway, "packets") > 600);
    assert_eq!(status(&gateway, "blocked_ever"), 0);
    for (client, server) in &all {
        say(client, server, "innocent");
    }
}

fn a_block_ends_by_itself_and_by_hand_and_outlives_a_reload(family: Family) {
    let gateway = Gateway::start(&limited("per_source: 1, block: 6s"));
    let listener = gateway.listen(family, 80);
    let pass = |gateway: &Gateway| {
        one_too_many(gateway, family);
        gateway.eventually("blocked", SOON, || blocked(gateway) == [source(family)]);
    };
    let first = pairs(&gateway, &listener, family, 1);
    pass(&gateway);
    gateway.eventually("it ends by itself", s(6) + SOON, || blocked(&gateway).is_empty());
    say(&first[0].0, &first[0].1, "goes on where it was");
    pass(&gateway);
    // A table that is installed anew (another hook) still blocks.
    let file = gateway.rules_file();
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("hooks: [forward]", "hooks: [forward, input]").replace("6s", "1h"))
        .unwrap();
    gateway.ok(&["reload"]);
    assert_eq!(blocked(&gateway), [source(family)]);
    let died = status(&gateway, "blocked_packets");
    assert!(gateway.try_connect(family, 80, Duration::from_millis(800)).is_err());
    assert!(status(&gateway, "blocked_packets") > died);
    let unknown = gateway.cli(&["unblock", "198.51.100.1"]);
    assert_eq!(unknown.code, 1, "{unknown:?}");
    assert!(unknown.err.contains("not blocked"), "{unknown:?}");
    gateway.ok(&["unblock", &source(family)]);
    assert!(blocked(&gateway).is_empty());
    say(&first[0].0, &first[0].1, "at once");
    pass(&gateway);
    gateway.ok(&["unblock", "--all"]);
    say(&first[0].1, &first[0].0, "and again");
}

fn an_allow_list_is_never_blocked(family: Family) {
    let gateway = Gateway::start(&limited("per_source: 2, block: 1h, allow: friends, on_excess: reset"));
    let listener = gateway.listen(family, 80);
    let all = pairs(&gateway, &listener, family, 2);
    for _ in 0..5 {
        let refused = gateway.try_connect(family, 80, SOON).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "limited like anybody");
    }
    assert_eq!(status(&gateway, "blocked_ever"), 0);
    for (client, server) in &all {
        say(client, server, "a friend");
    }
}
