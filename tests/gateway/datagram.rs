//! UDP, ping, and the ICMP errors that traceroute lives on.

use std::{net::SocketAddr, time::Duration};

use halfgate::{
    sys::{netns::Family, raw::RawSender},
    wire::{FourTuple, IcmpMessage, Packet, Transport, build},
};

use crate::harness::{EARLY, Gateway, LATE, SOON, rules, s, udp};

both_families! {
    a_datagram_and_its_answer_pass_and_end_on_time
    nobody_asked_for_a_datagram_from_inside
    ping_passes
    ping_is_dropped_where_no_rule_allows_it
    port_unreachable_finds_its_way_back
    time_exceeded_finds_its_way_back
}

fn open() -> String {
    rules(
        "timers: { udp_new: 2s, udp_stream: 3s }\n\
         rules:\n\
         \x20 - { name: dns, from: outside, service: udp/53, action: accept }\n\
         \x20 - { name: trace, from: outside, service: udp/33434-33534, action: accept }\n\
         \x20 - { name: ping, from: outside, service: icmp/echo-request, action: accept }",
    )
}

fn a_datagram_and_its_answer_pass_and_end_on_time(family: Family) {
    let gateway = Gateway::start(&open());
    let server = udp(&gateway.three.server, SocketAddr::new(family.server(), 53));
    let client = udp(&gateway.three.client, SocketAddr::new(family.client(), 0));
    let from = client.local_addr().unwrap();
    client.send_to(b"question", (family.server(), 53)).unwrap();
    let mut heard = [0; 64];
    let (len, peer) = server.recv_from(&mut heard).expect("the question arrives");
    assert_eq!((&heard[..len], peer), (&b"question"[..], from));
    gateway.wait_phase(from, "udp_new");
    server.send_to(b"answer", peer).unwrap();
    assert_eq!(client.recv(&mut heard).expect("the answer arrives"), 6);
    let start = gateway.now();
    gateway.wait_phase(from, "udp_stream");
    let took = gateway.wait_gone(from, start, s(3) + LATE);
    assert!(took > s(3) - EARLY, "gone too early: {took:?}");
    assert!(gateway.close_reason(from).contains("udp_stream"));
}

fn nobody_asked_for_a_datagram_from_inside(family: Family) {
    let gateway = Gateway::start(&open());
    let server = udp(&gateway.three.server, SocketAddr::new(family.server(), 53));
    let client = udp(&gateway.three.client, SocketAddr::new(family.client(), 5000));
    client.set_read_timeout(Some(Duration::from_millis(700))).unwrap();
    server.send_to(b"surprise", (family.client(), 5000)).unwrap();
    assert!(client.recv(&mut [0; 16]).is_err(), "it must not arrive");
    assert!(gateway.connections(&[]).is_empty());
}

/// The kernel fills such options in on the way, before the packet is judged, and
/// makes the header's checksum good only when it sends the packet on. Without a
/// checksum of UDP's, conntrack has not vouched for the packet either.
#[test]
fn a_datagram_that_records_its_way_passes() {
    let gateway = Gateway::start(&open());
    let raw = gateway.three.client.enter(|| RawSender::open(0)).unwrap().expect("a raw socket");
    let server = udp(&gateway.three.server, SocketAddr::new(Family::V4.server(), 53));
    let mut record_route = [0; 40];
    record_route[..3].copy_from_slice(&[7, 39, 4]);
    let mut timestamps = [0; 40];
    timestamps[..4].copy_from_slice(&[68, 40, 5, 0]);
    for (src_port, options) in [(4001, record_route), (4002, timestamps)] {
        let (src, dst) = (Family::V4.client(), Family::V4.server());
        let mut packet = build::udp(FourTuple { src, src_port, dst, dst_port: 53 }, b"question");
        packet.bytes[26..28].fill(0);
        packet.bytes.splice(20..20, options);
        // 15 words of header; the kernel sets total length and checksum itself.
        packet.bytes[0] = 0x4f;
        raw.send(&packet).expect("send");
        let heard = server.recv_from(&mut [0; 64]);
        let from = heard.unwrap_or_else(|error| panic!("{error}: {}", gateway.ok(&["status", "--json"]))).1;
        assert_eq!(from, SocketAddr::new(src, src_port));
    }
}

fn ping(gateway: &Gateway, family: Family) -> bool {
    let mut command = gateway.three.client.command("ping");
    command.args(["-n", "-c", "2", "-i", "0.2", "-W", "1", &family.server().to_string()]);
    crate::harness::run(&mut command).code == 0
}

fn ping_passes(family: Family) {
    let gateway = Gateway::start(&open());
    assert!(ping(&gateway, family), "two echoes, two answers");
    let rows = gateway.connections(&["phase=icmp"]);
    assert_eq!(rows.len(), 1, "one identifier, one connection: {rows:?}");
    assert_eq!(rows[0]["rule"], "ping");
}

fn ping_is_dropped_where_no_rule_allows_it(family: Family) {
    let gateway =
        Gateway::start(&rules("rules: [{ name: web, from: outside, service: tcp/80, action: accept }]"));
    assert!(!ping(&gateway, family));
}

/// What traceroute sees of the last hop.
fn port_unreachable_finds_its_way_back(family: Family) {
    let gateway = Gateway::start(&open());
    let client = udp(&gateway.three.client, SocketAddr::new(family.client(), 0));
    client.connect(SocketAddr::new(family.server(), 33434)).unwrap();
    client.send(b"anyone?").unwrap();
    let error = client.recv(&mut [0; 16]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{error}");
}

fn is_error(packet: &Packet<'_>, wanted: u8) -> bool {
    matches!(packet.transport, Transport::Icmp(IcmpMessage::Error { kind, .. }) if kind == wanted)
}

/// What traceroute sees of a hop behind the gateway.
fn time_exceeded_finds_its_way_back(family: Family) {
    let gateway = Gateway::start(&open());
    // The server becomes a router: what is for the mute network dies there.
    gateway.three.server.sysctls(&[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")]).unwrap();
    let (route, kind) = match family {
        Family::V4 => ("route add 198.19.0.0/16 via 192.0.2.77\n", 11),
        Family::V6 => ("route add 2001:db8:6::/48 via 2001:db8:b::77\n", 3),
    };
    gateway.three.server.ip_batch(route).unwrap();
    let mut tap = gateway.client_tap();
    let mut command = gateway.three.client.command("traceroute");
    command.args(["-n", "-q", "1", "-w", "1", "-f", "2", "-m", "2", &family.mute().to_string()]);
    let trace = crate::harness::run(&mut command);
    assert_eq!(trace.code, 0, "{trace:?}");
    let second_hop = family.server().to_string();
    assert!(trace.out.contains(&second_hop), "the second hop is {second_hop}: {}", trace.out);
    let error = tap.find(SOON, |packet| packet.src == family.server() && is_error(packet, kind));
    assert!(error.unwrap().is_some(), "as time exceeded on the client's wire");
}
