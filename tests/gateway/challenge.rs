//! `on_excess: challenge`: a kernel's own client proves that it is there, forged
//! sources can't.

use std::{
    net::{SocketAddr, TcpListener},
    time::Duration,
};

use halfgate::{
    sys::netns::{Captured, Family, Tap},
    wire::{Flags, SeqNum},
};
use serde_json::Value;

use crate::{
    fast_open::send_first,
    harness::{Gateway, SOON, accept, connect, listen, rules, s, say, segment},
    nat,
};

both_families! {
    a_client_passes_a_full_limit_and_forged_sources_never_do
    through_a_port_forward_the_client_is_challenged_from_where_it_dialled
    through_a_port_forward_with_every_hook
    through_masquerade_the_inside_is_challenged_too
    a_service_of_the_gateway_itself_is_covered
    the_data_of_a_syn_arrive_once
    a_client_whose_handshake_was_finished_is_not_challenged
    a_reload_brings_it_and_takes_it_away
}

/// Half-open connections that there may be.
const LIMIT: usize = 4;

fn limits() -> String {
    format!(
        "timers: {{ syn_received: 60s }}\n\
         limits: {{ embryonic: {{ total: {LIMIT}, on_excess: challenge }} }}\n"
    )
}

fn start() -> Gateway {
    let rest = "rules: [{ name: web, from: outside, service: tcp/80, action: accept }]";
    Gateway::start(&rules(&(limits() + rest)))
}

fn challenges(gateway: &Gateway) -> Value {
    gateway.json(&["status"])[0]["challenges"].clone()
}

/// How long one who opens a connection waits before it sends its SYN again (RFC 6298).
const RETRANSMISSION: Duration = Duration::from_secs(1);

/// Forged SYNs to this address until the limit is reached; they are sent again like
/// any SYN that may have been lost on its way.
fn fill(gateway: &Gateway, family: Family, to: SocketAddr, backlog: u16) {
    let forger = gateway.forger();
    let mut sent = None;
    gateway.eventually("the limit is reached", SOON, || {
        if sent.is_none_or(|at| gateway.since(at) >= RETRANSMISSION) {
            sent = Some(gateway.now());
            for source in 0..LIMIT as u16 {
                let from = SocketAddr::new(family.forged(source), 4000);
                forger.send(from, to, 1000, None, Flags::SYN);
            }
        }
        gateway.backlog(backlog) == LIMIT
    });
}

/// The answer to this SYN, which is sent again until there is one.
pub(crate) fn challenge_of(
    gateway: &Gateway,
    client: &mut Tap,
    from: SocketAddr,
    to: SocketAddr,
) -> Captured {
    let forger = gateway.forger();
    let start = gateway.now();
    while gateway.since(start) < SOON {
        forger.send(from, to, 1000, None, Flags::SYN);
        if let Some(answer) = client.find(RETRANSMISSION, |packet| packet.dst == from.ip()).unwrap() {
            return answer;
        }
    }
    panic!("no challenge of {from}");
}

/// A connection that is made although the limit is reached, and used.
fn passes(gateway: &Gateway, listener: &TcpListener, to: SocketAddr) {
    let start = gateway.now();
    let client = connect(&gateway.three.client, to, SOON).expect("past the limit");
    let took = gateway.since(start);
    let (server, _) = accept(listener);
    say(&client, &server, "let me in");
    say(&server, &client, "you are in");
    assert!(took < s(5), "it took {took:?}");
    let challenges = challenges(gateway);
    assert!(challenges["made"].as_u64() >= Some(1), "{challenges}");
    assert!(challenges["answered"].as_u64() >= Some(1), "{challenges}");
    assert_eq!((&challenges["proven"], &challenges["most_proven"]), (&1.into(), &1.into()), "{challenges}");
    assert_eq!((&challenges["lost"], &challenges["failed"]), (&0.into(), &0.into()), "{challenges}");
}

fn a_client_passes_a_full_limit_and_forged_sources_never_do(family: Family) {
    let gateway = start();
    let to = SocketAddr::new(family.server(), 80);
    let listener = gateway.listen(family, 80);
    fill(&gateway, family, to, 80);
    let (mut client, mut server) = (gateway.client_tap(), gateway.server_tap());
    let forger = gateway.forger();
    let forged: Vec<SocketAddr> =
        (100..140).map(|source| SocketAddr::new(family.forged(source), 4000)).collect();
    for from in &forged {
        let challenge = challenge_of(&gateway, &mut client, *from, to);
        let packet = challenge.packet().unwrap();
        assert_eq!(packet.src, to.ip());
        let challenge = segment(&packet).unwrap();
        assert_eq!((challenge.src_port, challenge.dst_port), (80, 4000));
        assert_eq!(challenge.flags, Flags::SYN.with(Flags::ACK));
        assert_ne!(challenge.ack, SeqNum(1001), "no number that the SYN's sender could take");
    }
    // Guesses prove nothing.
    for from in &forged {
        forger.send(*from, to, 1001, None, Flags::RST);
    }
    gateway.eventually("all of them are dropped", SOON, || {
        gateway.drops("challenged") >= 40 && gateway.drops("out_of_state") == 40
    });
    assert_eq!(challenges(&gateway)["proven"], 0);
    assert!(gateway.backlog(80) <= LIMIT, "the server has got none of them");
    assert_eq!(gateway.connections(&[]).len(), LIMIT);
    let entries = gateway.tool("conntrack", &["-L", "-p", "tcp", "--state", "SYN_SENT"], "");
    assert_eq!(entries.trim(), "", "the kernel has no entry of them either");
    passes(&gateway, &listener, to);
    let reached =
        server.find(Duration::from_millis(300), |packet| forged.iter().any(|from| from.ip() == packet.src));
    assert!(reached.unwrap().is_none(), "a forged SYN reached the server");
    // It took the stalest one's place.
    gateway.eventually("the limit holds", SOON, || {
        // On a slow machine the server has given some up by now.
        let half_open = gateway.connections(&["phase=half_open"]).len();
        half_open == LIMIT - 1 && gateway.backlog(80) < LIMIT
    });
    let limits = gateway.ok(&["limits"]);
    assert!(limits.contains("challenge"), "{limits}");
    let events = gateway.ok(&["events"]);
    assert!(events.contains("answered a challenge"), "{events}");
    let status = gateway.ok(&["status"]);
    assert!(status.contains("1 sources proven"), "{status}");
}

fn through_a_port_forward_the_client_is_challenged_from_where_it_dialled(family: Family) {
    for hairpin in [false, true] {
        forwarded(family, hairpin, "");
    }
}

fn through_a_port_forward_with_every_hook(family: Family) {
    forwarded(family, false, "hooks: [forward, input, output]\n");
    forwarded(family, false, "hooks: [forward, output]\n");
}

fn forwarded(family: Family, hairpin: bool, hooks: &str) {
    let rest = "rules: [{ name: forward, from: outside, to: inside, service: tcp/8080, action: accept }]";
    let gateway = nat::gateway(&rules(&format!("{hooks}{}{rest}", limits())), hairpin);
    let listener = gateway.listen(family, 8080);
    let dialled = SocketAddr::new(family.outside(), 80);
    fill(&gateway, family, dialled, 8080);
    let mut client = gateway.client_tap();
    let forger = gateway.forger();
    let from = SocketAddr::new(family.forged(100), 4000);
    let answer = challenge_of(&gateway, &mut client, from, dialled);
    let packet = answer.packet().expect("right checksums");
    let challenge = segment(&packet).unwrap();
    assert_eq!((packet.src, challenge.src_port), (dialled.ip(), dialled.port()), "as dialled");
    assert_eq!(challenge.flags, Flags::SYN.with(Flags::ACK), "{challenge:?}");
    // Who knows the number is believed; who does not is refused silently.
    forger.send(from, dialled, challenge.ack.plus(1).0, None, Flags::RST);
    passes(&gateway, &listener, dialled);
    assert_eq!(gateway.json(&["status"])[0]["missed"], 0);
}

fn through_masquerade_the_inside_is_challenged_too(family: Family) {
    let rest = "rules: [{ name: out, from: inside, to: outside, service: tcp/80, action: accept }]";
    let gateway = nat::gateway(&rules(&(limits() + rest)), false);
    let at = SocketAddr::new(family.client(), 80);
    let listener = listen(&gateway.three.client, at);
    let silent = SocketAddr::new(family.forged(7), 80);
    // Nobody answers these, which the inside opens for real.
    let streams: Vec<_> = (0..LIMIT)
        .map(|_| connect(&gateway.three.server, silent, Duration::from_millis(50)).unwrap_err())
        .collect();
    assert_eq!(streams.len(), LIMIT);
    let half_open = || gateway.connections(&["phase=syn_sent"]).len();
    assert_eq!(half_open(), LIMIT);
    let inside = connect(&gateway.three.server, at, SOON).expect("out past the limit");
    let (outside, seen) = accept(&listener);
    assert_eq!(seen.ip(), family.outside(), "masqueraded");
    say(&inside, &outside, "out");
    say(&outside, &inside, "and in");
    assert_eq!(challenges(&gateway)["proven"], 1);
}

fn a_service_of_the_gateway_itself_is_covered(family: Family) {
    let rest = "rules: [{ name: web, from: outside, to: gateway, service: tcp/80, action: accept }]";
    let gateway = Gateway::start(&rules(&format!("hooks: [forward, input]\n{}{rest}", limits())));
    let to = SocketAddr::new(family.outside(), 80);
    let listener = listen(&gateway.three.gateway, to);
    let forger = gateway.forger();
    for source in 0..LIMIT as u16 {
        forger.send(SocketAddr::new(family.forged(source), 4000), to, 1000, None, Flags::SYN);
    }
    gateway.eventually("the limit is reached", SOON, || {
        gateway.connections(&["phase=half_open"]).len() == LIMIT
    });
    passes(&gateway, &listener, to);
}

fn the_data_of_a_syn_arrive_once(family: Family) {
    let gateway = start();
    let to = SocketAddr::new(family.server(), 80);
    for namespace in [&gateway.three.client, &gateway.three.server] {
        let settings = [("ipv4/tcp_fastopen", "1027"), ("ipv4/tcp_fastopen_blackhole_timeout_sec", "0")];
        namespace.sysctls(&settings).unwrap();
    }
    let listener = gateway.listen(family, 80);
    // It gets its cookie before there is any pressure.
    let first = send_first(&gateway.three.client, to, "first");
    let (server, _) = accept(&listener);
    assert_eq!(hear(&server, 5), "first");
    drop((first, server));
    // A daemon that was started again knows no proof.
    let mut gateway = gateway;
    gateway.firewall().signal(15).unwrap();
    let ended = |gateway: &mut Gateway| gateway.firewall().ended().unwrap().is_some();
    let start = gateway.now();
    while !ended(&mut gateway) {
        assert!(gateway.since(start) < SOON, "it does not end");
    }
    gateway.start_firewall();
    fill(&gateway, family, to, 80);
    let mut tap = Tap::open(&gateway.three.gateway).expect("a tap between");
    let text = "these go with the SYN";
    let client = send_first(&gateway.three.client, to, text);
    let (server, _) = accept(&listener);
    assert_eq!(hear(&server, text.len()), text);
    say(&server, &client, "once");
    let port = client.local_addr().unwrap().port();
    let syn = tap.find(SOON, |packet| {
        segment(packet).is_some_and(|segment| segment.src_port == port && segment.flags.contains(Flags::SYN))
    });
    let syn = syn.unwrap().expect("the SYN");
    assert!(segment(&syn.packet().unwrap()).unwrap().payload_len > 0, "with data");
    assert!(challenges(&gateway)["answered"].as_u64() >= Some(1));
    say(&client, &server, "and the rest");
}

fn hear(mut from: &std::net::TcpStream, octets: usize) -> String {
    use std::io::Read as _;
    let mut heard = vec![0; octets];
    from.read_exact(&mut heard).expect("hear");
    String::from_utf8(heard).unwrap()
}

fn a_client_whose_handshake_was_finished_is_not_challenged(family: Family) {
    let gateway = start();
    let to = SocketAddr::new(family.server(), 80);
    let listener = gateway.listen(family, 80);
    let pair = || (gateway.connect(family, 80), accept(&listener).0);
    let known = pair();
    say(&known.0, &known.1, "well met");
    fill(&gateway, family, to, 80);
    let again = pair();
    say(&again.0, &again.1, "again");
    let challenges = challenges(&gateway);
    assert_eq!((&challenges["made"], &challenges["proven"]), (&0.into(), &1.into()), "{challenges}");
}

fn a_reload_brings_it_and_takes_it_away(family: Family) {
    let rule = "rules: [{ name: forward, from: outside, to: inside, service: tcp/8080, action: accept }]";
    let with = rules(&(limits() + rule));
    let without = with.replace("challenge", "drop");
    let gateway = nat::gateway(&without, false);
    let listener = gateway.listen(family, 8080);
    let dialled = SocketAddr::new(family.outside(), 80);
    fill(&gateway, family, dialled, 8080);
    let before = gateway.kernel_rules();
    let reload = |rules: &str| {
        std::fs::write(gateway.rules_file(), rules).unwrap();
        gateway.ok(&["reload"]);
        assert_eq!(gateway.json(&["status"])[0]["table"], "installed");
    };
    reload(&with);
    passes(&gateway, &listener, dialled);
    reload(&without);
    assert_eq!(gateway.kernel_rules(), before, "as it was");
    fill(&gateway, family, dialled, 8080);
    connect(&gateway.three.client, dialled, s(1)).expect_err("past a limit that drops");
}
