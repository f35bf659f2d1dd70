//! Fast Open (RFC 7413) between the kernel's own client and server: allowed,
//! stripped and denied.

#![allow(unsafe_code)]

use std::{
    fs,
    io::{self, Read as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::{AsRawFd as _, FromRawFd as _},
    time::Duration,
};

use halfgate::{
    sys::netns::{Family, Namespace, Tap},
    wire::{Flags, Segment},
};

use crate::harness::{Gateway, SOON, accept, rules, s, say, segment};

both_families! {
    allowed_the_data_arrive_with_the_syn
    stripped_a_client_never_gets_a_cookie
    stripped_the_data_of_a_client_with_a_cookie_arrive_whole
    denied_the_client_falls_back
    stripped_and_denied_for_the_gateways_own_connections
}

/// More than the queue copies of a packet.
const DATA: &str = "all of this arrives, and once: ";

fn data() -> String {
    DATA.repeat(30)
}

fn with(mode: &str, rest: &str) -> String {
    rules(&format!(
        "{rest}rules:\n\
         \x20 - {{ name: web, service: tcp/80, action: accept, fast_open: {mode} }}\n"
    ))
}

/// Client and server want Fast Open; the server for every listener.
fn start(family: Family, mode: &str, rest: &str) -> (Gateway, TcpListener) {
    let gateway = Gateway::start(&with(mode, rest));
    for namespace in [&gateway.three.client, &gateway.three.gateway, &gateway.three.server] {
        // 1: as a client, 2: as a server, 0x400: without asking the application. And no
        // pause after a path seemed not to take it.
        let settings = [("ipv4/tcp_fastopen", "1027"), ("ipv4/tcp_fastopen_blackhole_timeout_sec", "0")];
        namespace.sysctls(&settings).unwrap();
    }
    let listener = gateway.listen(family, 80);
    (gateway, listener)
}

fn reload(gateway: &Gateway, mode: &str, rest: &str) {
    fs::write(gateway.rules_file(), with(mode, rest)).unwrap();
    gateway.ok(&["reload"]);
}

/// Connects by sending: in the SYN if the kernel has a cookie, else it asks for one.
pub(crate) fn send_first(from: &Namespace, to: SocketAddr, text: &str) -> TcpStream {
    from.enter(|| {
        let domain = if to.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        // SAFETY: no pointers.
        let fd = unsafe { libc::socket(domain, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
        assert!(fd >= 0, "{}", io::Error::last_os_error());
        // SAFETY: it is a new socket of ours.
        let stream = unsafe { TcpStream::from_raw_fd(fd) };
        stream.set_write_timeout(Some(SOON)).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        // SAFETY: all zero is valid for plain data.
        let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
        let len = match to {
            SocketAddr::V4(to) => {
                let address = libc::sockaddr_in {
                    sin_family: libc::AF_INET as u16,
                    sin_port: to.port().to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(to.ip().octets()) },
                    sin_zero: [0; 8],
                };
                // SAFETY: a sockaddr_storage has room and alignment for any address.
                unsafe { std::ptr::from_mut(&mut storage).cast::<libc::sockaddr_in>().write(address) };
                size_of::<libc::sockaddr_in>()
            }
            SocketAddr::V6(to) => {
                let address = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as u16,
                    sin6_port: to.port().to_be(),
                    sin6_flowinfo: 0,
                    sin6_addr: libc::in6_addr { s6_addr: to.ip().octets() },
                    sin6_scope_id: 0,
                };
                // SAFETY: as above.
                unsafe { std::ptr::from_mut(&mut storage).cast::<libc::sockaddr_in6>().write(address) };
                size_of::<libc::sockaddr_in6>()
            }
        };
        // SAFETY: both pointers lead to living memory of the lengths given.
        let sent = unsafe {
            libc::sendto(
                stream.as_raw_fd(),
                text.as_ptr().cast(),
                text.len(),
                libc::MSG_FASTOPEN | libc::MSG_NOSIGNAL,
                std::ptr::from_ref(&storage).cast(),
                len as libc::socklen_t,
            )
        };
        assert_eq!(sent, text.len() as isize, "{}", io::Error::last_os_error());
        stream
    })
    .unwrap()
}

/// One connection: opened with data, which arrive once and whole; an answer; closed.
fn exchange(gateway: &Gateway, from: &Namespace, family: Family, listener: &TcpListener) -> SocketAddr {
    let data = data();
    let mut client = send_first(from, SocketAddr::new(family.server(), 80), &data);
    let (mut server, _) = accept(listener);
    let mut heard = vec![0; data.len()];
    server.read_exact(&mut heard).expect("the data arrive");
    assert_eq!(heard, data.as_bytes());
    say(&server, &client, "thank you");
    let address = client.local_addr().unwrap();
    gateway.wait_phase(address, "established");
    drop(server);
    assert_eq!(client.read(&mut heard).expect("closed"), 0, "nothing else came");
    address
}

/// The first SYN (or SYN-ACK) of a connection on a wire.
fn opening(tap: &mut Tap, port: u16, flags: Flags) -> Segment {
    loop {
        // Sent or received.
        let captured = tap.next(SOON).unwrap().expect("on the wire");
        let found = captured.packet().and_then(|packet| segment(&packet));
        match found {
            Some(found) if found.flags == flags && [found.src_port, found.dst_port].contains(&port) => {
                return found;
            }
            Some(_) | None => {}
        }
    }
}

/// A counter of a namespace's TCP, by its name in `/proc/net/netstat`.
fn count(namespace: &Namespace, name: &str) -> u64 {
    let text = namespace.proc_net("netstat").unwrap();
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
    let found = names.split_whitespace().zip(values.split_whitespace()).find(|(found, _)| *found == name);
    found.unwrap_or_else(|| panic!("no {name}")).1.parse().unwrap()
}

fn status(gateway: &Gateway) -> serde_json::Value {
    gateway.json(&["status"]).remove(0)
}

fn drops(gateway: &Gateway) -> u64 {
    let status = status(gateway);
    let reasons = status["drop_reasons"].as_array().unwrap();
    let own = reasons.iter().find(|reason| reason["name"] == "fast_open");
    own.map_or(0, |reason| reason["count"].as_u64().unwrap())
}

const SYN_ACK: Flags = Flags::SYN.with(Flags::ACK);

fn allowed_the_data_arrive_with_the_syn(family: Family) {
    let (gateway, listener) = start(family, "allow", "");
    let (client, server) = (&gateway.three.client, &gateway.three.server);
    let mut tap = gateway.server_tap();
    let first = exchange(&gateway, client, family, &listener);
    let syn = opening(&mut tap, first.port(), Flags::SYN);
    assert_eq!((syn.options.fast_open, syn.payload_len), (true, 0), "the client asks for a cookie");
    assert!(opening(&mut tap, first.port(), SYN_ACK).options.fast_open, "and gets one");
    assert_eq!(count(server, "TCPFastOpenCookieReqd"), 1);

    let second = exchange(&gateway, client, family, &listener);
    let syn = opening(&mut tap, second.port(), Flags::SYN);
    assert_eq!((syn.options.fast_open, syn.payload_len as usize), (true, data().len()));
    let answer = opening(&mut tap, second.port(), SYN_ACK);
    assert_eq!(answer.ack, syn.end(), "the server has the data after half a round trip");
    assert_eq!((count(server, "TCPFastOpenPassive"), count(server, "TCPFastOpenPassiveFail")), (1, 0));
    assert_eq!((count(client, "TCPFastOpenActive"), count(client, "TCPFastOpenActiveFail")), (1, 0));
    assert_eq!((status(&gateway)["stripped"].as_u64(), drops(&gateway)), (Some(0), 0));
}

fn stripped_a_client_never_gets_a_cookie(family: Family) {
    let (gateway, listener) = start(family, "strip", "");
    let (client, server) = (&gateway.three.client, &gateway.three.server);
    let mut tap = gateway.server_tap();
    for _ in 0..2 {
        let address = exchange(&gateway, client, family, &listener);
        let syn = opening(&mut tap, address.port(), Flags::SYN);
        assert_eq!((syn.options.fast_open, syn.payload_len), (false, 0));
        assert!(syn.options.mss.is_some() && syn.options.window_scale.is_some(), "the others stay: {syn:?}");
        assert!(!opening(&mut tap, address.port(), SYN_ACK).options.fast_open);
    }
    assert_eq!(count(server, "TCPFastOpenCookieReqd"), 0);
    assert_eq!(count(server, "TCPFastOpenPassive"), 0);
    assert_eq!(count(client, "TCPFastOpenActive"), 0);
    let status = status(&gateway);
    assert_eq!(status["stripped"], 2, "{status}");
    assert_eq!(status["refused"], 0, "the kernel takes the shorter packet: {status}");
}

/// It got its cookie while Fast Open was allowed. Also through NAT, which changes what
/// the checksum covers.
fn stripped_the_data_of_a_client_with_a_cookie_arrive_whole(family: Family) {
    let (gateway, listener) = start(family, "allow", "");
    let (client, server) = (&gateway.three.client, &gateway.three.server);
    exchange(&gateway, client, family, &listener);
    reload(&gateway, "strip", "");
    let mut tap = gateway.server_tap();
    let mut outside = gateway.client_tap();
    for round in 1..=2 {
        if round == 2 {
            let masquerade = "table inet nat {\nchain post {\n\
                              type nat hook postrouting priority srcnat; policy accept;\n\
                              oifname \"inside\" masquerade\n}\n}\n";
            gateway.tool("nft", &["-f", "-"], masquerade);
        }
        let address = exchange(&gateway, client, family, &listener);
        let sent = opening(&mut outside, address.port(), Flags::SYN);
        assert_eq!((sent.options.fast_open, sent.payload_len as usize), (true, data().len()));
        let syn = opening(&mut tap, address.port(), Flags::SYN);
        assert_eq!((syn.options.fast_open, syn.payload_len), (false, 0));
        assert_eq!(opening(&mut tap, address.port(), SYN_ACK).ack, syn.end(), "the SYN, and no data");
        assert_eq!(count(server, "TCPFastOpenPassive"), 0);
        assert_eq!(count(client, "TCPFastOpenActiveFail"), round, "the client has noticed");
        let status = status(&gateway);
        assert_eq!((&status["stripped"], &status["refused"]), (&round.into(), &0.into()), "{status}");
    }
    let bad = |file: &str, name: &str| {
        let text = server.proc_net(file).unwrap();
        let mut lines = text.lines().filter(|line| line.starts_with("Tcp:"));
        let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
        let at = names.split_whitespace().position(|found| found == name).unwrap();
        values.split_whitespace().nth(at).unwrap().to_owned()
    };
    assert_eq!(bad("snmp", "InCsumErrors"), "0");
}

fn denied_the_client_falls_back(family: Family) {
    let (gateway, listener) = start(family, "allow", "");
    let client = &gateway.three.client;
    exchange(&gateway, client, family, &listener);
    reload(&gateway, "deny", "");
    let mut tap = gateway.server_tap();
    let start = gateway.now();
    let address = exchange(&gateway, client, family, &listener);
    assert!(gateway.since(start) > Duration::from_millis(500), "a retransmission timeout");
    let syn = opening(&mut tap, address.port(), Flags::SYN);
    assert_eq!((syn.options.fast_open, syn.payload_len), (false, 0), "its second SYN is a plain one");
    assert_eq!(drops(&gateway), 1);
    assert_eq!(status(&gateway)["stripped"], 0);
}

/// Their checksums are not filled in when the queue has them.
fn stripped_and_denied_for_the_gateways_own_connections(family: Family) {
    let hooks = "hooks: [input, output]\n";
    let (gateway, listener) = start(family, "allow", hooks);
    let own = &gateway.three.gateway;
    exchange(&gateway, own, family, &listener);
    reload(&gateway, "strip", hooks);
    let mut tap = gateway.server_tap();
    for mode in ["strip", "deny"] {
        reload(&gateway, mode, hooks);
        let address = exchange(&gateway, own, family, &listener);
        let syn = opening(&mut tap, address.port(), Flags::SYN);
        assert_eq!((syn.options.fast_open, syn.payload_len), (false, 0), "{mode}");
    }
    let status = status(&gateway);
    assert_eq!((&status["stripped"], &status["refused"]), (&1.into(), &0.into()), "{status}");
    assert_eq!(drops(&gateway), 1);
    assert_eq!(count(&gateway.three.server, "TCPFastOpenPassive"), 0);
    gateway.eventually("no connection is left half-open", s(5), || status["half_open"] == 0);
}
