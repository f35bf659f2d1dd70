//! The kernel's conntrack, asked through every kind of NAT, and RSTs of ours
//! that reach both ends through it.
#![allow(unsafe_code, clippy::disallowed_methods)]

#[path = "sys_common/net.rs"]
mod net;

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};
use halfgate::{
    conntrack::Flow,
    engine::Peer,
    sys::{
        ctnetlink::{Ctnetlink, Status, TcpState, before_nat},
        queue::{Answer, Queue, QueueSettings},
        raw::RawSender,
    },
    wire::{Flags, FourTuple, Protocol, RawPacket, SeqNum, build},
};
use net::{CLIENT, GATEWAY_IN, GATEWAY_OUT, Net, SERVER, eventually, inside, run};

const OWN: u32 = 0x0800_0000;

fn ip(address: &str) -> IpAddr {
    address.parse().unwrap()
}

fn iptables(family: usize) -> &'static str {
    ["iptables-nft", "ip6tables-nft"][family]
}

fn flow(protocol: Protocol, src: (IpAddr, u16), dst: (IpAddr, u16)) -> Flow {
    Flow { protocol, src: src.0, src_port: src.1, dst: dst.0, dst_port: dst.1 }
}

/// The next sequence number of the sender of the last segment with these ports.
#[derive(Clone, Copy, Debug, Default)]
struct Next {
    client: u32,
    server: u32,
}

/// Follows the sequence numbers of the only connection to `server_port`, by the
/// queue of `hooks`, until `body` is through.
fn watched<R: Send>(
    net: &Net,
    hooks: &[&str],
    server_port: u16,
    body: impl FnOnce(&dyn Fn() -> Next) -> R + Send,
) -> R {
    let settings = QueueSettings { number: 9, copy_range: 128, max_len: 1000, gso: true, conntrack: false };
    let mut queue = inside(&net.gateway, || Queue::open(settings).unwrap());
    for hook in hooks {
        let matching = format!("-p tcp -m mark ! --mark {OWN:#x} -m conntrack --ctstate NEW,ESTABLISHED");
        net.divert(hook, &matching, settings.number);
    }
    let next = parking_lot::Mutex::new(Next::default());
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let judge = |queued: &halfgate::sys::queue::Queued<'_>| {
                    let packet = SlicedPacket::from_ip(queued.bytes).unwrap();
                    let Some(TransportSlice::Tcp(tcp)) = &packet.transport else {
                        panic!("diverted TCP only")
                    };
                    let payload = queued.wire_len as usize - (queued.bytes.len() - tcp.payload().len());
                    let end = tcp
                        .sequence_number()
                        .wrapping_add(payload as u32)
                        .wrapping_add(u32::from(tcp.syn()))
                        .wrapping_add(u32::from(tcp.fin()));
                    let mut next = next.lock();
                    if tcp.source_port() == server_port {
                        next.server = end
                    } else {
                        next.client = end
                    }
                    Answer::Accept { mark: queued.mark }
                };
                queue.serve(Duration::from_millis(20), &mut |queued, _| judge(queued)).unwrap();
            }
        });
        let body = scope.spawn(|| body(&|| *next.lock()));
        let result = body.join();
        stop.store(true, Ordering::Relaxed);
        worker.join().unwrap();
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn rst(tuple: FourTuple, seq: u32) -> RawPacket {
    let builder = match (tuple.src, tuple.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => PacketBuilder::ipv4(src.octets(), dst.octets(), 64),
        (IpAddr::V6(src), IpAddr::V6(dst)) => PacketBuilder::ipv6(src.octets(), dst.octets(), 64),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {
            panic!("two families in {tuple:?}")
        }
    };
    let mut bytes = Vec::new();
    builder.tcp(tuple.src_port, tuple.dst_port, seq, 0).rst().write(&mut bytes, &[]).unwrap();
    RawPacket { bytes }
}

/// A TCP connection, proven to carry data both ways.
fn connected(client: &str, server: &str, listen: SocketAddr, connect: SocketAddr) -> (TcpStream, TcpStream) {
    let listener = inside(server, || TcpListener::bind(listen).unwrap());
    let mut near = inside(client, || TcpStream::connect(connect).unwrap());
    let (mut far, _) = listener.accept().unwrap();
    let mut buffer = [0; 4];
    near.write_all(b"ping").unwrap();
    far.read_exact(&mut buffer).unwrap();
    far.write_all(b"pong").unwrap();
    near.read_exact(&mut buffer).unwrap();
    for stream in [&near, &far] {
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    }
    (near, far)
}

fn through(family: usize, snat: bool, dnat: bool) {
    let net = Net::new();
    let iptables = iptables(family);
    let server = SocketAddr::new(ip(SERVER[family]), 700);
    if snat {
        let rule = "-t nat -A POSTROUTING -o g1 -p tcp -j MASQUERADE --to-ports 40000-40100";
        run(&net.gateway, &format!("{iptables} {rule}"));
    }
    if dnat {
        let rule =
            format!("-t nat -A PREROUTING -i g0 -p tcp --dport 8080 -j DNAT --to-destination {server}");
        run(&net.gateway, &format!("{iptables} {rule}"));
    }
    let connect = if dnat { SocketAddr::new(ip(GATEWAY_IN[family]), 8080) } else { server };

    watched(&net, &["FORWARD"], 700, |next| {
        let (mut near, mut far) = connected(&net.client, &net.server, server, connect);
        let client_end = near.local_addr().unwrap();
        let shown = flow(Protocol::TCP, (client_end.ip(), client_end.port()), (server.ip(), 700));
        let (mut conntrack, sender) =
            inside(&net.gateway, || (Ctnetlink::open().unwrap(), RawSender::open(OWN).unwrap()));

        let tuples = conntrack.lookup(&shown).unwrap().expect("the kernel knows the connection");
        let seen_by_server = far.peer_addr().unwrap();
        assert_eq!(
            tuples.original,
            flow(Protocol::TCP, (shown.src, shown.src_port), (connect.ip(), connect.port()))
        );
        assert_eq!(
            tuples.reply,
            flow(Protocol::TCP, (server.ip(), 700), (seen_by_server.ip(), seen_by_server.port()))
        );
        assert_eq!(seen_by_server.ip() == ip(GATEWAY_OUT[family]), snat);
        // The other way round it is the same connection with its ends exchanged.
        let swapped = conntrack.lookup(&shown.reversed()).unwrap().unwrap();
        assert_eq!((swapped.original, swapped.reply), (tuples.reply, tuples.original));
        assert_eq!(conntrack.lookup(&Flow { src_port: 1, ..shown }).unwrap(), None);

        let entry = conntrack.entry(&shown).unwrap().unwrap();
        assert_eq!(entry.tcp, Some(TcpState::Established));
        assert!(entry.established() && entry.status.contains(Status::ASSURED));
        assert_eq!(entry.status.contains(Status::SRC_NAT), snat);
        assert_eq!(entry.status.contains(Status::DST_NAT), dnat);
        let left = entry.timeout.unwrap().as_secs();
        assert!((200..=432_000).contains(&left), "{left}");

        let next = next();
        sender.send(&rst(before_nat(&tuples, Peer::Server), next.client)).unwrap();
        sender.send(&rst(before_nat(&tuples, Peer::Client), next.server)).unwrap();
        for (end, stream) in [("client", &mut near), ("server", &mut far)] {
            let error = stream.read(&mut [0; 8]).expect_err(end);
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{end}: {error}");
        }
        assert_eq!(conntrack.entry(&shown).unwrap().unwrap().tcp, Some(TcpState::Close));

        assert!(conntrack.forget(&shown).unwrap());
        assert_eq!(conntrack.lookup(&shown).unwrap(), None);
        assert!(!conntrack.forget(&shown).unwrap());
    });
}

#[test]
fn without_nat() {
    through(0, false, false);
    through(1, false, false);
}

#[test]
fn through_masquerade() {
    through(0, true, false);
    through(1, true, false);
}

#[test]
fn through_a_port_forward() {
    through(0, false, true);
    through(1, false, true);
}

#[test]
fn through_both() {
    through(0, true, true);
    through(1, true, true);
}

#[test]
fn an_rst_reaches_the_gateways_own_socket() {
    for address in GATEWAY_IN {
        let net = Net::new();
        let listen = SocketAddr::new(ip(address), 700);
        watched(&net, &["INPUT", "OUTPUT"], 700, |next| {
            let (mut near, mut far) = connected(&net.client, &net.gateway, listen, listen);
            let client_end = near.local_addr().unwrap();
            let shown = flow(Protocol::TCP, (client_end.ip(), client_end.port()), (listen.ip(), 700));
            let (mut conntrack, sender) =
                inside(&net.gateway, || (Ctnetlink::open().unwrap(), RawSender::open(OWN).unwrap()));
            let tuples = conntrack.lookup(&shown).unwrap().unwrap();
            let next = next();
            sender.send(&rst(before_nat(&tuples, Peer::Server), next.client)).unwrap();
            sender.send(&rst(before_nat(&tuples, Peer::Client), next.server)).unwrap();
            for (end, stream) in [("client", &mut near), ("gateway", &mut far)] {
                let error = stream.read(&mut [0; 8]).expect_err(end);
                assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{end}: {error}");
            }
        });
    }
}

#[test]
fn a_new_connection_with_both_nats_is_found_while_others_are_known() {
    let net = Net::new();
    let server = SocketAddr::new(ip(SERVER[0]), 700);
    run(&net.gateway, "iptables-nft -t nat -A POSTROUTING -o g1 -p udp -j MASQUERADE --to-ports 40000-41000");
    run(
        &net.gateway,
        &format!("iptables-nft -t nat -A PREROUTING -p udp --dport 80 -j DNAT --to-destination {server}"),
    );
    let mut conntrack = inside(&net.gateway, || Ctnetlink::open().unwrap());
    let far = inside(&net.server, || UdpSocket::bind(server).unwrap());
    far.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    for port in 5000..5003 {
        let near = inside(&net.client, || UdpSocket::bind((CLIENT[0], port)).unwrap());
        near.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        near.send_to(b"x", (GATEWAY_IN[0], 80)).unwrap();
        let (_, from) = far.recv_from(&mut [0; 8]).unwrap();
        let shown = flow(Protocol::UDP, (ip(CLIENT[0]), port), (server.ip(), 700));
        let entry = eventually("the new connection is found", || conntrack.entry(&shown).unwrap());
        assert_eq!(entry.tuples.reply, flow(Protocol::UDP, (server.ip(), 700), (from.ip(), from.port())));
        assert!(!entry.established() && entry.tcp.is_none());
        far.send_to(b"y", from).unwrap();
        near.recv(&mut [0; 8]).unwrap();
        assert!(conntrack.entry(&shown).unwrap().unwrap().established());
    }
}

/// As after a flood: more than fit into one message, through each kind of NAT.
#[test]
fn many_entries_are_forgotten_at_once() {
    for (family, snat, dnat) in [(0, false, false), (1, false, true), (0, true, false), (1, true, true)] {
        let net = Net::new();
        let server = SocketAddr::new(ip(SERVER[family]), 700);
        let iptables = iptables(family);
        if snat {
            let rule = "-t nat -A POSTROUTING -o g1 -p tcp -j MASQUERADE";
            run(&net.gateway, &format!("{iptables} {rule}"));
        }
        if dnat {
            let rule =
                format!("-t nat -A PREROUTING -i g0 -p tcp --dport 80 -j DNAT --to-destination {server}");
            run(&net.gateway, &format!("{iptables} {rule}"));
        }
        run(&net.gateway, &format!("{iptables} -A FORWARD -m conntrack --ctstate INVALID -j DROP"));
        // So that no packet waits for a neighbour. Then nobody answers.
        run(&net.client, &format!("ping -c 1 {}", SERVER[family]));
        run(&net.server, &format!("{iptables} -A INPUT -p tcp -j DROP"));
        let to = if dnat { SocketAddr::new(ip(GATEWAY_IN[family]), 80) } else { server };
        let sender = inside(&net.client, || RawSender::open(0).unwrap());
        let mut conntrack = inside(&net.gateway, || Ctnetlink::open().unwrap());
        let shown = |port| flow(Protocol::TCP, (ip(CLIENT[family]), port), (server.ip(), server.port()));
        let ports = 5000..5300;
        for port in ports.clone() {
            let (src, dst) = (ip(CLIENT[family]), to.ip());
            let tuple = FourTuple { src, src_port: port, dst, dst_port: to.port() };
            let syn = build::tcp(tuple, SeqNum(1), None, Flags::SYN, 1000);
            eventually("it has room", || sender.send(&syn).ok());
        }
        // One that stays, and one of which there is none.
        let stays = shown(5299);
        eventually("all of them are there", || conntrack.lookup(&stays).unwrap());
        let unknown = shown(4999);
        let mut flows: Vec<Flow> = ports.map(shown).filter(|flow| *flow != stays).collect();
        flows.push(unknown);
        let mut missing = Vec::new();
        // Entries with both kinds of NAT are looked for in a list that may not be made anew
        // at any time.
        eventually("all are forgotten", || {
            let wanted = std::mem::take(&mut flows);
            missing.clear();
            conntrack.forget_all(&wanted, &mut missing).unwrap();
            flows.clone_from(&missing);
            (missing == [unknown]).then_some(())
        });
        assert!(conntrack.lookup(&stays).unwrap().is_some());
        assert_eq!(conntrack.lookup(&shown(5000)).unwrap(), None);
    }
}

#[test]
fn counters_and_echoes() {
    let net = Net::new();
    run(&net.gateway, "sysctl -qw net.netfilter.nf_conntrack_acct=1");
    for (family, protocol) in [Protocol::ICMP, Protocol::ICMPV6].into_iter().enumerate() {
        run(&net.gateway, &format!("{} -t nat -A POSTROUTING -o g1 -j MASQUERADE", iptables(family)));
        run(&net.client, &format!("ping -c 3 -i 0.01 -e 4321 {}", SERVER[family]));
        let mut conntrack = inside(&net.gateway, || Ctnetlink::open().unwrap());
        let shown = flow(protocol, (ip(CLIENT[family]), 4321), (ip(SERVER[family]), 0));
        let entry = conntrack.entry(&shown).unwrap().expect("the echo is known");
        assert_eq!(entry.tuples.original, shown);
        assert_eq!(entry.tuples.reply.dst, ip(GATEWAY_OUT[family]));
        let (original, reply) = entry.counters.unwrap();
        assert_eq!((original.packets, reply.packets), (3, 3));
        assert_eq!(original.bytes, 3 * [84, 104][family]);
        assert_eq!(conntrack.lookup(&Flow { src_port: 4322, ..shown }).unwrap(), None);
        assert!(conntrack.forget(&shown).unwrap());
    }
}

#[test]
fn missing_privileges_are_named() {
    let error = thread::spawn(|| {
        // SAFETY: no pointers; the bare system call changes only this thread.
        assert_eq!(unsafe { libc::syscall(libc::SYS_setresuid, 65534, 65534, 65534) }, 0);
        Ctnetlink::open().unwrap_err()
    });
    let error = error.join().unwrap();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert!(error.to_string().contains("CAP_NET_ADMIN"), "{error}");
}
