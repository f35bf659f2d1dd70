//! Sources that have proven that they are there: a flood of other SYNs never loses
//! theirs.

use std::net::SocketAddr;

use halfgate::{sys::netns::Family, wire::Flags};

use crate::{
    challenge::challenge_of,
    harness::{Gateway, SOON, accept, connect, rules, say, segment},
};

both_families! {
    a_finished_handshake_gives_the_source_queues_of_its_own
    a_flood_that_fills_the_queues_of_strangers_loses_no_known_clients_syn
    an_answered_challenge_does_too
}

const WEB: &str = "rules: [{ name: web, from: outside, service: tcp/80, action: accept }]";

/// The queues of a kind: `known`, `syn` or `proven`.
fn numbers(gateway: &Gateway, kind: &str) -> Vec<String> {
    let status = gateway.json(&["status"]).remove(0);
    let queues = status["queues"].as_array().expect("queues").clone();
    let of_kind = queues.into_iter().filter(|queue| queue["carries"] == kind);
    of_kind.map(|queue| queue["number"].to_string()).collect()
}

/// A column of these queues in the kernel's list, summed up: 2 is how many packets wait,
/// 5 how many found no room, 7 the number of the last one.
fn sum(gateway: &Gateway, queues: &[String], column: usize) -> u64 {
    let rows = gateway.tool("cat", &["/proc/net/netfilter/nfnetlink_queue"], "");
    let rows = rows.lines().map(|row| row.split_whitespace().collect::<Vec<_>>());
    let rows = rows.filter(|row| queues.iter().any(|number| number == row[0]));
    rows.map(|row| row[column].parse::<u64>().expect("a number")).sum()
}

/// How many packets the queues of a kind got.
fn got(gateway: &Gateway, kind: &str) -> u64 {
    sum(gateway, &numbers(gateway, kind), 7)
}

/// What the kernel has in its set of proven sources.
fn set(gateway: &Gateway, family: Family) -> String {
    let name = match family {
        Family::V4 => "proven_ipv4",
        Family::V6 => "proven_ipv6",
    };
    gateway.tool("nft", &["list", "set", "inet", "halfgate", name], "")
}

/// Whether an address, or its /64, is in it.
fn has(set: &str, address: SocketAddr) -> bool {
    match address {
        SocketAddr::V4(address) => set.contains(&format!("{} ", address.ip())),
        SocketAddr::V6(address) => {
            let network = address.ip().to_bits() & !u128::from(u64::MAX);
            set.contains(&format!("{} ", std::net::Ipv6Addr::from_bits(network)))
        }
    }
}

fn a_finished_handshake_gives_the_source_queues_of_its_own(family: Family) {
    let gateway = Gateway::start(&rules(WEB));
    let listener = gateway.listen(family, 80);
    let pair = || (gateway.connect(family, 80), accept(&listener).0);
    let forged = gateway.forger().syn(family, 3, 4000, 80);
    gateway.eventually("a stranger's SYN has passed", SOON, || got(&gateway, "syn") == 1);
    let first = pair();
    let address = first.0.local_addr().unwrap();
    gateway.eventually("its handshake is a proof", SOON, || has(&set(&gateway, family), address));
    assert!(!has(&set(&gateway, family), forged), "a SYN is none");
    assert_eq!((got(&gateway, "syn"), got(&gateway, "proven")), (2, 0));
    let second = pair();
    assert_eq!((got(&gateway, "syn"), got(&gateway, "proven")), (2, 1));
    say(&second.0, &second.1, "known");
    // The server has opened nothing, so nobody has asked it for a proof.
    let server = SocketAddr::new(family.server(), 80);
    assert!(!has(&set(&gateway, family), server));
}

fn a_flood_that_fills_the_queues_of_strangers_loses_no_known_clients_syn(family: Family) {
    let mut gateway = Gateway::start(&rules(WEB));
    let listener = gateway.listen(family, 80);
    let known = (gateway.connect(family, 80), accept(&listener).0);
    let address = known.0.local_addr().unwrap();
    gateway.eventually("it is known", SOON, || has(&set(&gateway, family), address));
    let forger = gateway.forger();
    let [strangers, proven] = ["syn", "proven"].map(|kind| numbers(&gateway, kind));
    let pid = gateway.firewall().id().to_string();
    let signal = |name: &str| drop(gateway.tool("sh", &["-c", &format!("kill -{name} {pid}")], ""));
    signal("STOP");
    // More than the queues hold. No rule lets them in.
    for number in 0..40_000 {
        forger.syn(family, (number % 250) as u16, 1024 + (number / 250) as u16, 443);
    }
    assert!(sum(&gateway, &strangers, 5) > 0, "the flood has filled its queues");
    let to = SocketAddr::new(family.server(), 80);
    let client = std::thread::scope(|scope| {
        let client = scope.spawn(|| connect(&gateway.three.client, to, SOON));
        gateway.eventually("its SYN waits", SOON, || sum(&gateway, &proven, 2) > 0);
        signal("CONT");
        client.join().expect("no panic")
    });
    let client = client.expect("past the flood");
    say(&client, &accept(&listener).0, "past the flood");
    for kind in ["proven", "known"] {
        assert_eq!(sum(&gateway, &numbers(&gateway, kind), 5), 0, "{kind} queues lost something");
    }
    let warnings = gateway.json(&["status"])[0]["warnings"].to_string();
    assert!(warnings.contains("because it was full"), "{warnings}");
}

/// By the answer alone: this source never finishes a handshake.
fn an_answered_challenge_does_too(family: Family) {
    let limits = "limits: { embryonic: { total: 1, on_excess: challenge } }\n";
    let gateway = Gateway::start(&rules(&format!("timers: {{ syn_received: 60s }}\n{limits}{WEB}")));
    let _listener = gateway.listen(family, 80);
    let forger = gateway.forger();
    forger.syn(family, 3, 4000, 80);
    gateway.eventually("the limit is reached", SOON, || gateway.backlog(80) == 1);
    let (from, to) = (SocketAddr::new(family.forged(100), 4000), SocketAddr::new(family.server(), 80));
    let answer = challenge_of(&gateway, &mut gateway.client_tap(), from, to);
    let challenge = segment(&answer.packet().expect("right checksums")).unwrap();
    assert!(!has(&set(&gateway, family), from));
    assert_eq!(got(&gateway, "proven"), 0, "it came as a stranger's");
    forger.send(from, to, challenge.ack.0, None, Flags::RST);
    gateway.eventually("it is proven", SOON, || has(&set(&gateway, family), from));
    forger.send(from, to, 1000, None, Flags::SYN);
    gateway.eventually("its next SYN waits for no stranger", SOON, || got(&gateway, "proven") >= 1);
}
