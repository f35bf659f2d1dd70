//! Fragments on their way through the gateway. The kernel puts them together before
//! the firewall is asked, so a rule sees whole packets and nothing passes it in pieces;
//! what the kernel lets through alone, the firewall drops. And the errors by which ends
//! learn to send smaller packets (RFC 1191, RFC 8201) find their way.
//!
//! Read first: RFC 791 §3.2, RFC 8200 §4.5, RFC 1858, RFC 3128, RFC 5722.

use std::{
    collections::HashSet,
    io::{Read as _, Write as _},
    net::{IpAddr, Shutdown, SocketAddr},
    ops::Range,
    thread,
    time::Duration,
};

use halfgate::{
    sys::{
        netns::{Family, Namespace, Namespaces, Tap},
        raw::RawSender,
    },
    wire::{Flags, FourTuple, IcmpMessage, Packet, RawPacket, SegmentBuilder, SeqNum, Transport, build},
};

use crate::harness::{Gateway, SOON, accept, connect, listen, rules, run, segment, udp};

both_families! {
    a_datagram_in_fragments_passes_whole_both_ways
    an_echo_in_fragments_passes_whole_both_ways
    a_syn_in_fragments_is_judged_by_its_ports
    the_first_fragment_may_be_the_last_to_come
    a_tiny_first_fragment_opens_no_way_around_a_rule
    overlapping_fragments_never_arrive
    a_fragment_within_another_changes_no_port
    path_mtu_discovery_works_behind_the_gateway
    path_mtu_discovery_works_at_the_gateway
}

/// Octets that need three fragments on links of 1500.
const LARGE: usize = 4000;

fn open() -> String {
    rules(
        "rules:\n\
         \x20 - { name: web, from: outside, service: tcp/80, action: accept }\n\
         \x20 - { name: telnet, from: outside, service: tcp/23, action: reset }\n\
         \x20 - { name: dns, from: outside, service: udp/53, action: accept }\n\
         \x20 - { name: ping, from: outside, service: icmp/echo-request, action: accept }",
    )
}

/// Octets of which no two fragments are alike.
fn pattern(octets: usize) -> Vec<u8> {
    (0..octets).map(|at| (at % 251) as u8).collect()
}

/// A part of a packet's body as a fragment of its own; the last one if it ends where the
/// packet does. Lengths and checksums of IPv4 headers are filled in by the raw socket.
fn fragment(packet: &RawPacket, id: u16, part: Range<usize>) -> RawPacket {
    let is_v4 = packet.bytes[0] >> 4 == 4;
    let (header, body) = packet.bytes.split_at(if is_v4 { 20 } else { 40 });
    let more = u16::from(part.end < body.len());
    let mut bytes = header.to_vec();
    let offset = u16::try_from(part.start / 8).unwrap();
    if is_v4 {
        bytes[4..6].copy_from_slice(&id.to_be_bytes());
        bytes[6..8].copy_from_slice(&(more << 13 | offset).to_be_bytes());
    } else {
        let len = u16::try_from(part.len() + 8).unwrap();
        bytes[4..6].copy_from_slice(&len.to_be_bytes());
        let protocol = std::mem::replace(&mut bytes[6], 44);
        bytes.extend_from_slice(&[protocol, 0]);
        bytes.extend_from_slice(&(offset << 3 | more).to_be_bytes());
        bytes.extend_from_slice(&u32::from(id).to_be_bytes());
    }
    bytes.extend_from_slice(&body[part]);
    RawPacket { bytes }
}

/// Who sent a packet, also a fragment.
fn source(bytes: &[u8]) -> IpAddr {
    if bytes[0] >> 4 == 4 {
        IpAddr::from(<[u8; 4]>::try_from(&bytes[12..16]).unwrap())
    } else {
        IpAddr::from(<[u8; 16]>::try_from(&bytes[8..24]).unwrap())
    }
}

fn is_fragment(bytes: &[u8]) -> bool {
    if bytes[0] >> 4 == 4 {
        bytes[6] & 0x20 != 0 || bytes[6] & 0x1f != 0 || bytes[7] != 0
    } else {
        bytes[6] == 44
    }
}

/// A gateway, and a client that sends pieces of packets from sources of its choice.
struct Cutter {
    gateway: Gateway,
    raw: RawSender,
    family: Family,
    client: Tap,
    server: Tap,
    id: u16,
}

impl Cutter {
    fn start(family: Family) -> Self {
        let gateway = Gateway::start(&open());
        let raw = gateway.three.client.enter(|| RawSender::open(0)).unwrap().expect("a raw socket");
        let (client, server) = (gateway.client_tap(), gateway.server_tap());
        Self { gateway, raw, family, client, server, id: 100 }
    }

    fn tuple(&self, from: u16, port: u16) -> FourTuple {
        FourTuple { src: self.family.forged(from), src_port: 4000, dst: self.family.server(), dst_port: port }
    }

    /// 40 octets of header and 16 of data.
    fn syn(&self, from: u16, port: u16) -> RawPacket {
        let segment = SegmentBuilder::new(self.tuple(from, port)).flags(Flags::SYN).seq(SeqNum(1000));
        let segment = segment.window(64240).mss(1400).window_scale(7).timestamps(1, 0).payload_len(16);
        let packet = segment.build();
        let header = if self.family == Family::V4 { 20 } else { 40 };
        assert_eq!(packet.bytes.len(), header + 56);
        packet
    }

    /// 8 octets of header and 40 of data that don't depend on the port.
    fn datagram(&self, from: u16, port: u16) -> RawPacket {
        build::udp(self.tuple(from, port), &pattern(40))
    }

    /// Sends these parts of packets as if they were of one.
    fn send(&mut self, parts: &[(&RawPacket, Range<usize>)]) {
        self.id += 1;
        for (packet, part) in parts {
            self.raw.send(&fragment(packet, self.id, part.clone())).expect("send");
        }
    }

    /// Waits for the SYN-ACK that answers a source.
    #[track_caller]
    fn answered(&mut self, from: u16, port: u16) {
        let tuple = self.tuple(from, port);
        let found = self.client.find(SOON, |packet| {
            packet.dst == tuple.src
                && segment(packet)
                    .is_some_and(|it| it.src_port == port && it.flags == Flags::SYN.with(Flags::ACK))
        });
        assert!(found.unwrap().is_some(), "no answer to {tuple:?}");
    }

    /// Sends whole packets through every queue and waits until they have arrived; before
    /// them nothing of these sources has.
    #[track_caller]
    fn nothing_came(&mut self, of: &[u16]) {
        let of: Vec<IpAddr> = of.iter().map(|from| self.family.forged(*from)).collect();
        // Addresses choose among the queues, and SYNs have queues of their own.
        let markers = (900..916).map(|from| self.datagram(from, 53));
        let markers = markers.chain((916..932).map(|from| self.syn(from, 80)));
        let mut missing = HashSet::new();
        for marker in markers {
            self.raw.send(&marker).expect("send");
            missing.insert(source(&marker.bytes));
        }
        let start = self.gateway.now();
        while !missing.is_empty() {
            assert!(self.gateway.since(start) < SOON, "{missing:?} did not arrive");
            let Some(came) = self.server.next(SOON).unwrap() else { continue };
            let src = source(&came.bytes);
            assert!(came.outgoing || !of.contains(&src), "it came: {src} {:x?}", came.bytes);
            missing.remove(&src);
        }
    }

    /// Waits until so many packets were dropped for this reason.
    #[track_caller]
    fn dropped(&self, reason: &str, count: u64) {
        let gateway = &self.gateway;
        gateway.eventually(&format!("{count} {reason}"), SOON, || gateway.drops(reason) >= count);
    }
}

/// How many fragments came since the tap was opened.
fn fragments(tap: &mut Tap) -> usize {
    let mut count = 0;
    while let Some(came) = tap.next(Duration::ZERO).unwrap() {
        count += usize::from(!came.outgoing && is_fragment(&came.bytes));
    }
    count
}

fn a_datagram_in_fragments_passes_whole_both_ways(family: Family) {
    let gateway = Gateway::start(&open());
    let mut taps = [gateway.client_tap(), gateway.server_tap()];
    let server = udp(&gateway.three.server, SocketAddr::new(family.server(), 53));
    let client = udp(&gateway.three.client, SocketAddr::new(family.client(), 0));
    let from = client.local_addr().unwrap();
    let (question, mut heard) = (pattern(LARGE), vec![0; 2 * LARGE]);
    client.send_to(&question, (family.server(), 53)).unwrap();
    let (len, peer) = server.recv_from(&mut heard).expect("the question arrives");
    assert_eq!((&heard[..len], peer), (&question[..], from));
    server.send_to(&question, peer).unwrap();
    let len = client.recv(&mut heard).expect("the answer arrives");
    assert_eq!(heard[..len], question);
    assert_eq!(taps.each_mut().map(fragments), [3, 3], "in pieces on both links");
    gateway.wait_phase(from, "udp_stream");
    let rows = gateway.connections(&[]);
    assert_eq!(rows.len(), 1, "{rows:?}");
    let packets = ["original", "reply"].map(|direction| rows[0][direction]["packets"].clone());
    assert_eq!(packets, [1, 1], "{rows:?}");
}

fn an_echo_in_fragments_passes_whole_both_ways(family: Family) {
    let gateway = Gateway::start(&open());
    let mut taps = [gateway.client_tap(), gateway.server_tap()];
    let mut ping = gateway.three.client.command("ping");
    ping.args([
        "-n",
        "-c",
        "2",
        "-i",
        "0.2",
        "-W",
        "5",
        "-s",
        &LARGE.to_string(),
        &family.server().to_string(),
    ]);
    let done = run(&mut ping);
    assert!(done.code == 0 && done.out.contains("2 received"), "{done:?}");
    assert_eq!(taps.each_mut().map(fragments), [6, 6], "in pieces on both links");
    let rows = gateway.connections(&[]);
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert_eq!((&rows[0]["rule"], &rows[0]["original"]["packets"]), (&"ping".into(), &2.into()), "{rows:?}");
}

/// The port says what becomes of a SYN, whichever way it was cut.
fn judged(cutter: &mut Cutter, cut: impl Fn(&RawPacket) -> Vec<(&RawPacket, Range<usize>)>) {
    let _listeners = [80, 23, 25].map(|port| cutter.gateway.listen(cutter.family, port));
    let allowed = cutter.syn(1, 80);
    cutter.send(&cut(&allowed));
    cutter.answered(1, 80);
    let refused = cutter.syn(2, 23);
    cutter.send(&cut(&refused));
    let to = cutter.family.forged(2);
    let is_rst = |packet: &Packet<'_>| {
        packet.dst == to && segment(packet).is_some_and(|it| it.flags.contains(Flags::RST))
    };
    assert!(cutter.client.find(SOON, is_rst).unwrap().is_some(), "no RST");
    let (silent, before) = (cutter.syn(3, 25), cutter.gateway.drops("rule"));
    cutter.send(&cut(&silent));
    cutter.dropped("rule", before + 1);
    cutter.nothing_came(&[2, 3]);
}

fn a_syn_in_fragments_is_judged_by_its_ports(family: Family) {
    judged(&mut Cutter::start(family), |syn| vec![(syn, 0..40), (syn, 40..56)]);
}

fn the_first_fragment_may_be_the_last_to_come(family: Family) {
    judged(&mut Cutter::start(family), |syn| vec![(syn, 48..56), (syn, 40..48), (syn, 0..40)]);
}

/// Eight octets of TCP hold the ports and not the flags (RFC 1858 §3). IPv4's fragments
/// are put together; IPv6's first fragment must hold the whole header (RFC 7112 §5), and
/// Linux lets one that does not through alone, to be dropped here.
fn a_tiny_first_fragment_opens_no_way_around_a_rule(family: Family) {
    let mut cutter = Cutter::start(family);
    if family == Family::V4 {
        return judged(&mut cutter, |syn| vec![(syn, 0..8), (syn, 8..56)]);
    }
    for (from, port) in [(1, 80), (2, 23), (3, 25)] {
        let syn = cutter.syn(from, port);
        cutter.send(&[(&syn, 0..8), (&syn, 8..56)]);
    }
    cutter.dropped("tiny_fragment", 3);
    let rows = cutter.gateway.connections(&[]);
    assert!(rows.is_empty(), "{rows:?}");
    cutter.nothing_came(&[1, 2, 3]);
}

/// In IPv6 by RFC 5722 §4; Linux throws IPv4's away as well.
fn overlapping_fragments_never_arrive(family: Family) {
    let mut cutter = Cutter::start(family);
    let _sockets =
        [53, 99].map(|port| udp(&cutter.gateway.three.server, SocketAddr::new(family.server(), port)));
    // The same cuts side by side do arrive.
    let whole = cutter.datagram(1, 53);
    cutter.send(&[(&whole, 0..24), (&whole, 24..48)]);
    let src = family.forged(1);
    let start = cutter.gateway.now();
    while cutter.server.next(SOON).unwrap().is_none_or(|came| source(&came.bytes) != src) {
        assert!(cutter.gateway.since(start) < SOON, "what does not overlap did not arrive");
    }
    let datagram = |from, port| cutter.datagram(from, port);
    let tails = datagram(2, 53);
    let [open, closed] = [53, 99].map(|port| datagram(3, port));
    let [open_again, closed_again] = [53, 99].map(|port| datagram(4, port));
    let [syn, other_syn] = [80, 23].map(|port| cutter.syn(5, port));
    // Data are covered by others.
    cutter.send(&[(&tails, 0..24), (&tails, 16..48)]);
    // The ports are: first those that a rule allows, then those that none does.
    cutter.send(&[(&open, 0..16), (&closed, 0..24), (&open, 16..48)]);
    cutter.send(&[(&closed_again, 0..16), (&open_again, 0..24), (&closed_again, 16..48)]);
    // And TCP's, by a fragment that covers all.
    cutter.send(&[(&syn, 0..40), (&other_syn, 0..48), (&syn, 40..56)]);
    cutter.nothing_came(&[2, 3, 4, 5]);
}

/// Linux takes what lies within another fragment for its repetition and keeps the first,
/// so that is what a rule sees.
fn a_fragment_within_another_changes_no_port(family: Family) {
    let mut cutter = Cutter::start(family);
    let server = udp(&cutter.gateway.three.server, SocketAddr::new(family.server(), 53));
    let [open, closed] = [53, 99].map(|port| cutter.datagram(1, port));
    cutter.send(&[(&open, 0..16), (&closed, 0..8), (&open, 16..48)]);
    let (len, from) = server.recv_from(&mut [0; 64]).expect("as the first one says");
    assert_eq!((len, from.ip()), (40, family.forged(1)));
    let [open, closed] = [53, 99].map(|port| cutter.datagram(2, port));
    let before = cutter.gateway.drops("rule");
    cutter.send(&[(&closed, 0..16), (&open, 0..8), (&closed, 16..48)]);
    cutter.dropped("rule", before + 1);
    cutter.nothing_came(&[2]);
}

fn is_too_big(packet: &Packet<'_>) -> bool {
    let wanted = if packet.src.is_ipv4() { (3, 4) } else { (2, 0) };
    matches!(packet.transport, Transport::Icmp(IcmpMessage::Error { kind, code, .. }) if (kind, code) == wanted)
}

/// More than any window holds crosses, which it can't unless the sender heard the error.
fn transfer(gateway: &Gateway, to: &Namespace, address: SocketAddr, router: IpAddr) {
    const OCTETS: usize = 300_000;
    let listener = listen(to, address);
    let mut tap = gateway.client_tap();
    let mut client = connect(&gateway.three.client, address, SOON).expect("connect");
    let from = client.local_addr().unwrap();
    let (mut server, _) = accept(&listener);
    client.set_write_timeout(Some(SOON)).unwrap();
    let sender = thread::spawn(move || {
        client.write_all(&pattern(OCTETS)).expect("send");
        client.shutdown(Shutdown::Write).expect("shut down");
        client
    });
    let mut heard = Vec::new();
    let end = server.read_to_end(&mut heard);
    assert!(end.is_ok() && heard == pattern(OCTETS), "{end:?} after {} octets", heard.len());
    drop(sender.join().expect("the sender"));
    let error = tap.find(SOON, |packet| packet.src == router && is_too_big(packet));
    assert!(error.unwrap().is_some(), "on the client's wire");
    assert_eq!(gateway.drops("icmp_unrelated"), 0);
    drop(server);
    gateway.wait_phase(from, "time_wait");
}

/// A router behind the gateway has a narrower link.
fn path_mtu_discovery_works_behind_the_gateway(family: Family) {
    let gateway = Gateway::start(&open());
    let router = &gateway.three.server;
    let mut more = Namespaces::new().unwrap();
    let behind = more.add("behind").unwrap();
    more.link((router, "far"), (&behind, "eth0")).unwrap();
    router.sysctls(&[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")]).unwrap();
    router
        .ip_batch("link set far mtu 1280\naddr add 198.19.0.1/16 dev far\naddr add 2001:db8:6::1/48 dev far nodad\n")
        .unwrap();
    behind
        .ip_batch(
            "addr add 198.19.0.10/16 dev eth0\n\
             addr add 2001:db8:6::10/48 dev eth0 nodad\n\
             route add default via 198.19.0.1\n\
             route add default via 2001:db8:6::1\n",
        )
        .unwrap();
    transfer(&gateway, &behind, SocketAddr::new(family.mute(), 80), family.server());
}

/// The gateway's own link is narrower, and its own error passes its output hook.
fn path_mtu_discovery_works_at_the_gateway(family: Family) {
    let hooks = open().replace("hooks: [forward]", "hooks: [forward, input, output]");
    let gateway = Gateway::start(&hooks);
    gateway.three.gateway.ip_batch("link set inside mtu 1280\n").unwrap();
    transfer(&gateway, &gateway.three.server, SocketAddr::new(family.server(), 80), family.outside());
}
