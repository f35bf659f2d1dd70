//! Packets through a gateway: forward and input.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use halfgate::{
    policy::Fail,
    sys::table::{self, Diversion, TableState},
};

use crate::world::{
    Consumer, MARKS, QUEUE_BASE, Seen, World, connects, counted, echo, echo_server, eventually, nft, run,
    spec, udp,
};

/// Long enough for an answer, short enough to wait for none.
const A_WHILE: Duration = Duration::from_millis(700);
const PATIENT: Duration = Duration::from_secs(10);

/// Counts after everything else, with a bit of the operator's set before
/// everything else.
const WATCH: &str = "table inet watch {
    counter ours { }
    counter operators { }
    chain pre { type filter hook prerouting priority -300; meta mark set 0x5; }
    chain post { type filter hook postrouting priority 300;
        meta mark & 0xff000000 != 0 counter name ours
        meta mark & 0xff == 0x5 counter name operators
    }
}";

fn install(world: &World, hooks: &'static str, fail: Fail) -> Diversion {
    world.gateway.run(move || {
        let diversion = table::probe().expect("one way or the other");
        table::install(&spec(hooks, fail), diversion).expect("it loads");
        diversion
    })
}

fn check_queues(seen: &[Seen]) {
    for packet in seen {
        let syn_queue = packet.queue >= QUEUE_BASE + 2;
        assert_eq!(syn_queue, packet.syn, "{packet:?}");
        assert!(packet.mark & MARKS.inspected() == 0, "{packet:?}");
        if packet.syn {
            assert!(packet.mark & MARKS.known() == 0, "{packet:?}");
        }
    }
}

#[test]
fn forwarded_connections_flow_and_every_packet_is_seen() {
    let world = World::new();
    world.gateway.run(|| nft(WATCH));
    let port = world.server.run(echo_server);
    let consumer = world.gateway.run(|| Consumer::start(Consumer::inspect));
    install(&world, "f", Fail::Closed);
    if std::env::var_os("HALFGATE_EXPECT_DIVERSION").is_some() {
        assert!(consumer.attaches, "Debian's kernel can");
    }
    for address in World::targets() {
        world.client.run(move || echo(address, port, 200_000)).expect("an echo");
        let seen = consumer.take();
        check_queues(&seen);
        let version = if address.is_ipv4() { 4 } else { 6 };
        let seen: Vec<_> = seen.into_iter().filter(|packet| packet.version == version).collect();
        assert_eq!(seen.iter().filter(|packet| packet.syn).count(), 1, "one SYN");
        assert!(seen.len() > 10, "{}", seen.len());
        assert!(
            seen.iter().filter(|packet| !packet.syn).all(|packet| packet.mark & MARKS.known() != 0),
            "{seen:?}"
        );
        assert!(seen.iter().all(|packet| packet.mark & 0xff == 0x5), "the operator's bits stay: {seen:?}");
        assert!(seen.iter().all(|packet| packet.conntrack == consumer.attaches), "{seen:?}");
    }
    world.gateway.run(|| {
        assert_eq!(counted("ours"), 0, "no bit of ours goes further");
        assert!(counted("operators") > 20);
    });
}

#[test]
fn udp_and_ping_flow_both_ways() {
    let world = World::new();
    let consumer = world.gateway.run(|| Consumer::start(Consumer::inspect));
    install(&world, "f", Fail::Closed);
    for address in World::targets() {
        let server = Arc::new(world.server.run(|| udp(PATIENT)));
        let target = SocketAddr::new(address, server.local_addr().expect("bound").port());
        let client = Arc::new(world.client.run(|| udp(PATIENT)));
        client.send_to(b"there", target).expect("sent");
        let (_, from) = server.recv_from(&mut [0; 16]).expect("it arrives");
        server.send_to(b"back", from).expect("sent");
        client.recv_from(&mut [0; 16]).expect("it comes back");
        let known: Vec<bool> = consumer
            .take()
            .iter()
            .filter(|p| p.version == if address.is_ipv4() { 4 } else { 6 })
            .map(|p| p.mark & MARKS.known() != 0)
            .collect();
        assert_eq!(known, [false, true], "the answer makes it known");
        world.client.run(move || run("ping", &format!("-c 1 -W 5 {address}")));
        assert!(consumer.take().len() >= 2, "request and reply");
    }
}

#[test]
fn an_accept_without_the_inspected_bit_is_dropped_unless_open() {
    let world = World::new();
    let port = world.server.run(echo_server);
    let consumer = world.gateway.run(|| Consumer::start(Some));
    install(&world, "f", Fail::Closed);
    for address in World::targets() {
        assert!(!world.client.run(move || connects(address, port, A_WHILE)));
        assert!(consumer.take().iter().any(|packet| packet.syn), "it was queued");
        let dropped = world.gateway.run(|| run("nft", "list chain inet halfgate inspected_forward"));
        let drop = dropped.lines().find(|line| line.ends_with("drop")).expect("the rule is there");
        assert!(!drop.contains("counter packets 0 "), "{dropped}");
    }
    install(&world, "f", Fail::Open);
    for address in World::targets() {
        world.client.run(move || echo(address, port, 1000)).expect("open");
    }
}

/// A first packet's conntrack entry is not confirmed: only the kernel can answer it
/// through a port forward and masquerade.
#[test]
fn what_is_refused_is_answered_through_nat() {
    let world = World::new();
    world.gateway.run(|| {
        nft("table inet nat {
    chain pre { type nat hook prerouting priority -100;
        meta nfproto ipv4 meta l4proto { tcp, udp } th dport 8080 dnat ip to 10.2.0.2:80
        meta nfproto ipv6 meta l4proto { tcp, udp } th dport 8080 dnat ip6 to [fd00:2::2]:80
    }
    chain post { type nat hook postrouting priority 100; oifname g1 masquerade; }
}");
    });
    let _consumer =
        world.gateway.run(|| Consumer::start(|mark| Some(mark | MARKS.inspected() | MARKS.refuse())));
    install(&world, "f", Fail::Closed);
    for forwarded in ["10.1.0.1", "fd00:1::1"] {
        let target = SocketAddr::new(forwarded.parse().expect("an address"), 8080);
        let refused = world.client.run(move || std::net::TcpStream::connect_timeout(&target, PATIENT));
        let error = refused.expect_err("nobody listens");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{forwarded}");
        let socket = world.client.run(move || {
            let socket = udp(PATIENT);
            socket.connect(target).expect("a route");
            socket
        });
        socket.send(b"there").expect("sent");
        let error = socket.recv(&mut [0; 16]).expect_err("prohibited");
        assert!(
            error.raw_os_error().is_some_and(|e| e == libc::EHOSTUNREACH || e == libc::EACCES),
            "{error}"
        );
    }
}

#[test]
fn a_drop_drops() {
    let world = World::new();
    let port = world.server.run(echo_server);
    let consumer = world.gateway.run(|| Consumer::start(|_| None));
    install(&world, "f", Fail::Open);
    for address in World::targets() {
        assert!(!world.client.run(move || connects(address, port, A_WHILE)));
        assert!(consumer.take().iter().any(|packet| packet.syn), "it was queued");
    }
}

#[test]
fn without_a_daemon_closed_is_closed_and_open_is_open() {
    let world = World::new();
    let port = world.server.run(echo_server);
    install(&world, "f", Fail::Closed);
    for address in World::targets() {
        assert!(!world.client.run(move || connects(address, port, A_WHILE)));
    }
    install(&world, "f", Fail::Open);
    for address in World::targets() {
        world.client.run(move || echo(address, port, 1000)).expect("open");
    }
}

#[test]
fn the_static_form_does_what_fail_says() {
    let world = World::new();
    let port = world.server.run(echo_server);
    let own = world.gateway.run(echo_server);
    let both = |open: bool| {
        for address in World::targets() {
            assert_eq!(world.client.run(move || connects(address, port, A_WHILE)), open, "forward {address}");
        }
        for address in ["10.1.0.1", "fd00:1::1"] {
            let address = address.parse().expect("address");
            assert_eq!(world.client.run(move || connects(address, own, A_WHILE)), open, "input {address}");
        }
    };
    world.gateway.run(|| table::install_static(&spec("fi", Fail::Closed)).expect("it loads"));
    both(false);
    world.gateway.run(|| table::install_static(&spec("fi", Fail::Open)).expect("it loads"));
    both(true);
}

#[test]
fn input_is_inspected_but_not_what_the_network_needs() {
    let world = World::new();
    let own = world.gateway.run(echo_server);
    // No consumer: what is diverted is lost, so whatever arrives was not diverted.
    install(&world, "io", Fail::Closed);
    world.client.run(|| {
        run("ip", "neigh flush dev c0");
    });
    for address in ["10.1.0.1", "fd00:1::1"] {
        let address = address.parse().expect("address");
        assert!(!world.client.run(move || connects(address, own, A_WHILE)), "diverted: {address}");
    }
    world.client.run(|| {
        let neighbours = run("ip", "-6 neigh show fd00:1::1 dev c0");
        assert!(neighbours.contains("lladdr"), "neighbour discovery passes: {neighbours:?}");
    });
    world.gateway.run(move || {
        for address in ["127.0.0.1", "::1", "10.1.0.1", "fd00:1::1"] {
            echo(address.parse().expect("address"), own, 10_000).expect("loopback is never diverted");
        }
    });
    let consumer = world.gateway.run(|| Consumer::start(Consumer::inspect));
    for address in ["10.1.0.1", "fd00:1::1"] {
        let address = address.parse().expect("address");
        world.client.run(move || echo(address, own, 10_000)).expect("inspected");
        let seen = consumer.take();
        check_queues(&seen);
        assert!(seen.iter().any(|packet| packet.syn), "{seen:?}");
    }
    world.gateway.run(move || echo("::1".parse().expect("address"), own, 1000)).expect("loopback");
    assert!(
        consumer.take().iter().all(|packet| packet.version != 6 || !packet.syn),
        "loopback is never diverted"
    );
}

#[test]
fn the_dhcp_client_is_answered_while_closed() {
    let world = World::new();
    for (family, source, port) in [("10.1.0.1", 67, 68), ("fd00:1::1", 547, 546)] {
        let target = SocketAddr::new(family.parse().expect("address"), port);
        for fixed in [false, true] {
            world.gateway.run(move || {
                let spec = spec("io", Fail::Closed);
                if fixed {
                    table::install_static(&spec).expect("it loads");
                } else {
                    table::install(&spec, table::probe().expect("one way or the other")).expect("it loads");
                }
            });
            let listener = world.gateway.run(move || {
                let socket = std::net::UdpSocket::bind(("::", port)).expect("free");
                socket.set_read_timeout(Some(PATIENT)).expect("not zero");
                socket
            });
            world.client.run(move || {
                let server = std::net::UdpSocket::bind(("::", source)).expect("free");
                server.send_to(b"offer", target).expect("sent");
                let other = udp(PATIENT);
                other.send_to(b"other", target).expect("sent");
            });
            let mut buffer = [0; 16];
            let (length, from) = listener.recv_from(&mut buffer).expect("it arrives");
            assert_eq!(&buffer[..length], b"offer");
            listener.set_read_timeout(Some(A_WHILE)).expect("not zero");
            listener.recv_from(&mut buffer).expect_err("only from the server's port");
            listener.send_to(b"request", from).expect("sent");
        }
    }
}

#[test]
fn replacing_never_leaves_a_moment_open() {
    let world = World::new();
    let server = Arc::new(world.server.run(|| udp(PATIENT)));
    let port = server.local_addr().expect("bound").port();
    install(&world, "f", Fail::Closed);
    let stop = Arc::new(AtomicBool::new(false));
    let flood = {
        let stop = Arc::clone(&stop);
        world.client.run(move || {
            std::thread::spawn(move || {
                let socket = udp(PATIENT);
                let mut sent = 0_u64;
                while !stop.load(Ordering::Relaxed) {
                    for address in World::targets() {
                        let _ = socket.send_to(b"x", SocketAddr::new(address, port));
                        sent += 1;
                    }
                }
                sent
            })
        })
    };
    world.gateway.run(|| {
        let diversion = table::probe().expect("one way or the other");
        for round in 0..4 {
            table::install_static(&spec("f", Fail::Closed)).expect("it replaces");
            table::install(&spec("fio", Fail::Closed), diversion).expect("it replaces");
            let mut other = spec("f", Fail::Closed);
            other.queue_base = 100 + round;
            other.marks.shift = 8;
            table::install(&other, diversion).expect("it replaces");
        }
        assert!(matches!(table::state().expect("asked"), TableState::Live { intact: true, .. }));
    });
    server.set_nonblocking(true).expect("a socket");
    assert!(server.recv_from(&mut [0; 4]).is_err(), "a packet slipped through");
    world.gateway.run(|| table::unload().expect("it unloads"));
    eventually("packets flow once unloaded", || server.recv_from(&mut [0; 4]).is_ok());
    stop.store(true, Ordering::Relaxed);
    assert!(flood.join().expect("it ends") > 100);
}

#[test]
fn a_whole_mark_set_by_the_operator_never_lets_a_packet_pass_uninspected() {
    let world = World::new();
    let port = world.server.run(echo_server);
    let consumer = world.gateway.run(|| {
        nft(
            "table inet operator { chain f { type filter hook forward priority -150; meta mark set 0x7; }; }",
        );
        Consumer::start(Consumer::inspect)
    });
    let diversion = install(&world, "f", Fail::Closed);
    for address in World::targets() {
        let connected = world.client.run(move || connects(address, port, A_WHILE));
        let queued = consumer.take().iter().any(|packet| packet.syn);
        match diversion {
            // Nothing lies between the queue and the check.
            Diversion::Native => assert!(connected && queued),
            // Same priority as the diverting rule: whichever comes first, the packet
            // is dropped for want of the bit.
            Diversion::Xtables => assert!(!connected),
        }
    }
}

#[test]
fn bits_that_an_operator_restores_do_not_count_as_ours() {
    let world = World::new();
    let port = world.server.run(echo_server);
    let own = world.gateway.run(echo_server);
    install(&world, "fi", Fail::Closed);
    for bits in [MARKS.inspected(), MARKS.own(), MARKS.mask()] {
        world.gateway.run(move || {
            nft("table inet operator; delete table inet operator");
            nft(&format!(
                "table inet operator {{ chain pre {{
                     type filter hook prerouting priority -300; meta mark set {bits:#x}; }}; }}"
            ));
        });
        for (address, port) in
            [("10.2.0.2", port), ("fd00:2::2", port), ("10.1.0.1", own), ("fd00:1::1", own)]
        {
            let address = address.parse().expect("address");
            assert!(!world.client.run(move || connects(address, port, A_WHILE)), "{bits:#x} {address}");
        }
    }
}

/// Which queues the SYNs came by: those of strangers, those of proven sources.
fn syns(seen: &[Seen]) -> (usize, usize) {
    let by = |queues: std::ops::Range<u16>| {
        seen.iter().filter(|packet| packet.syn && queues.contains(&packet.queue)).count()
    };
    let (strangers, proven) = (QUEUE_BASE + 2..QUEUE_BASE + 3, QUEUE_BASE + 3..QUEUE_BASE + 5);
    assert!(seen.iter().all(|packet| packet.syn == (packet.queue >= QUEUE_BASE + 2)), "{seen:?}");
    (by(strangers), by(proven))
}

#[test]
fn syns_of_sources_that_proved_themselves_have_queues_of_their_own() {
    let world = World::new();
    let port = world.server.run(echo_server);
    let consumer = world.gateway.run(|| Consumer::start(Consumer::prove));
    install(&world, "f", Fail::Closed);
    for address in World::targets() {
        world.client.run(move || echo(address, port, 100)).expect("an echo");
        assert_eq!(syns(&consumer.take()), (1, 0), "a stranger");
        world.client.run(move || echo(address, port, 100)).expect("an echo");
        assert_eq!(syns(&consumer.take()), (0, 1), "it has proven itself");
        // The family is forgotten with the table.
        install(&world, "f", Fail::Closed);
        world.client.run(move || echo(address, port, 100)).expect("an echo");
        assert_eq!(syns(&consumer.take()), (1, 0), "{address}");
    }
}

#[test]
fn a_proof_that_is_for_nobody_else_goes_no_further() {
    let world = World::new();
    let port = world.server.run(echo_server);
    let consumer = world.gateway.run(|| Consumer::start(Consumer::prove_and_discard));
    install(&world, "f", Fail::Closed);
    let address = World::targets()[0];
    assert!(!world.client.run(move || connects(address, port, A_WHILE)), "no SYN-ACK arrives");
    assert!(consumer.take().iter().any(|packet| packet.syn_ack), "there was one");
    let set = world.gateway.run(|| run("nft", "list set inet halfgate proven_ipv4"));
    assert!(set.contains("10.2.0.2 "), "whose sender is noted: {set}");
    // It is not one of the packets that nobody judged.
    let way = world.gateway.run(|| table::probe().expect("one way or the other"));
    let (_, counts) =
        world.gateway.run(move || table::inspect(&spec("f", Fail::Closed), way).expect("asked"));
    assert_eq!(counts.missed, 0);
}
