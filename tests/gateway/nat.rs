//! Masquerade and port forward on the same gateway: both ends get their RST
//! through it.

use std::{
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use halfgate::sys::netns::Family;

use crate::harness::{EARLY, Gateway, LATE, SOON, accept, connect, listen, rules, s, say, wait_reset};

both_families! {
    masquerade_timers_and_kill_reach_both_ends
    port_forward_timers_and_kill_reach_both_ends
    both_at_once_timers_and_kill_reach_both_ends
    a_stalled_handshake_through_a_port_forward_frees_the_server
}

fn open() -> String {
    rules(
        "timers: { half_closed: 2s, syn_received: 2s }\n\
         rules:\n\
         \x20 - { name: out, from: inside, to: outside, service: tcp/80, action: accept }\n\
         \x20 - { name: forward, from: outside, to: inside, service: tcp/8080, action: accept }",
    )
}

/// The operator's own table: out behind the gateway's address, port 80 of the
/// outside address to the server's 8080; with `hairpin` the server sees the
/// gateway as the client.
fn with_nat(hairpin: bool) -> Gateway {
    gateway(&open(), hairpin)
}

/// A gateway with such a table and these rules.
pub(crate) fn gateway(rules: &str, hairpin: bool) -> Gateway {
    let gateway = Gateway::start(rules);
    let masquerade = if hairpin { "oifname \"inside\" tcp dport 8080 masquerade" } else { "" };
    gateway.tool(
        "nft",
        &["-f", "-"],
        &format!(
            "table inet nat {{\n\
             chain pre {{ type nat hook prerouting priority dstnat; policy accept;\n\
             iifname \"outside\" ip daddr {} tcp dport 80 dnat ip to {}:8080\n\
             iifname \"outside\" ip6 daddr {} tcp dport 80 dnat ip6 to [{}]:8080\n\
             }}\n\
             chain post {{ type nat hook postrouting priority srcnat; policy accept;\n\
             oifname \"outside\" ct direction original masquerade\n\
             {masquerade}\n\
             }}\n\
             }}\n",
            Family::V4.outside(),
            Family::V4.server(),
            Family::V6.outside(),
            Family::V6.server(),
        ),
    );
    gateway
}

/// A connection's two ends, by a timer and then another two by kill.
fn both_ways_to_end(gateway: &Gateway, open: impl Fn() -> (TcpStream, TcpStream)) {
    let (one, other) = open();
    say(&one, &other, "hello");
    say(&other, &one, "hello yourself");
    one.shutdown(Shutdown::Write).unwrap();
    let start = gateway.now();
    wait_reset(&one, s(2) + LATE);
    assert!(gateway.since(start) > s(2) - EARLY, "too early: {:?}", gateway.since(start));
    wait_reset(&other, SOON);

    let (one, other) = open();
    say(&one, &other, "hello again");
    say(&other, &one, "and again");
    gateway.ok(&["kill", "phase=established"]);
    wait_reset(&one, SOON);
    wait_reset(&other, SOON);
    gateway.eventually("the kernel has closed it too", SOON, || {
        let entries = gateway.tool("conntrack", &["-L", "-p", "tcp", "--state", "ESTABLISHED"], "");
        entries.trim().is_empty()
    });
}

fn masquerade_timers_and_kill_reach_both_ends(family: Family) {
    let gateway = with_nat(false);
    let at = SocketAddr::new(family.client(), 80);
    let listener = listen(&gateway.three.client, at);
    both_ways_to_end(&gateway, || {
        let inside = connect(&gateway.three.server, at, SOON).expect("out through masquerade");
        let (outside, seen) = accept(&listener);
        assert_eq!(seen.ip(), family.outside(), "masqueraded");
        (inside, outside)
    });
}

/// Through the forwarded port; who the server saw.
fn through_the_forward(
    gateway: &Gateway,
    family: Family,
    listener: &TcpListener,
) -> (TcpStream, TcpStream, SocketAddr) {
    let client =
        connect(&gateway.three.client, SocketAddr::new(family.outside(), 80), SOON).expect("port forward");
    let (server, seen) = accept(listener);
    (client, server, seen)
}

fn port_forward_timers_and_kill_reach_both_ends(family: Family) {
    let gateway = with_nat(false);
    let listener = gateway.listen(family, 8080);
    both_ways_to_end(&gateway, || {
        let (client, server, seen) = through_the_forward(&gateway, family, &listener);
        assert_eq!(seen.ip(), family.client());
        (client, server)
    });
}

fn both_at_once_timers_and_kill_reach_both_ends(family: Family) {
    let gateway = with_nat(true);
    let listener = gateway.listen(family, 8080);
    both_ways_to_end(&gateway, || {
        let (client, server, seen) = through_the_forward(&gateway, family, &listener);
        assert_eq!(seen.ip(), family.inside(), "the server sees the gateway");
        (client, server)
    });
}

fn a_stalled_handshake_through_a_port_forward_frees_the_server(family: Family) {
    let gateway = with_nat(false);
    let _listener = gateway.listen(family, 8080);
    let from = SocketAddr::new(family.forged(3), 4000);
    gateway.forger().send(
        from,
        SocketAddr::new(family.outside(), 80),
        1000,
        None,
        halfgate::wire::Flags::SYN,
    );
    gateway.wait_phase(from, "syn_received");
    assert_eq!(gateway.backlog(8080), 1);
    gateway.eventually("the server's half is free", s(2) + LATE, || gateway.backlog(8080) == 0);
    gateway.always("and stays free", Duration::from_millis(300), || gateway.backlog(8080) == 0);
}
