//! Packets that the gateway itself sends.

use std::{net::UdpSocket, os::fd::AsRawFd, time::Duration};

use halfgate::{
    policy::Fail,
    sys::table::{self},
};

use crate::world::{Consumer, Host, MARKS, World, echo, echo_server, nft, run, spec, udp};

const A_WHILE: Duration = Duration::from_millis(700);
const PATIENT: Duration = Duration::from_secs(10);

/// A socket whose packets bear a mark.
fn marked(mark: u32) -> UdpSocket {
    let socket = udp(PATIENT);
    let size = u32::try_from(size_of::<u32>()).expect("four");
    // SAFETY: the descriptor is open and the pointer is to `size` octets of ours.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_MARK, (&raw const mark).cast(), size)
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    socket
}

#[test]
fn our_own_packets_leave_without_the_queue_and_others_do_not() {
    let world = World::new();
    let server = world.server.run(|| udp(PATIENT));
    let port = server.local_addr().expect("bound").port();
    world.gateway.run(move || {
        nft("table inet watch { counter ours { }; chain post { type filter hook postrouting priority 300; meta mark & 0xff000000 != 0 counter name ours; }; }");
        let diversion = table::probe().expect("one way or the other");
        table::install(&spec("fo", Fail::Closed), diversion).expect("it loads");
        for address in World::targets() {
            udp(PATIENT).send_to(b"other", (address, port)).expect("sent");
            marked(MARKS.own() | 0x3).send_to(b"own", (address, port)).expect("sent");
        }
    });
    let mut buffer = [0; 16];
    for _ in World::targets() {
        let (length, _) = server.recv_from(&mut buffer).expect("it arrives");
        assert_eq!(&buffer[..length], b"own");
    }
    server.set_read_timeout(Some(A_WHILE)).expect("not zero");
    server.recv_from(&mut buffer).expect_err("no daemon answered for the others");
    world.gateway.run(|| assert_eq!(crate::world::counted("ours"), 0, "the bit goes no further"));
}

#[test]
fn connections_of_the_gateway_flow_through_the_queue() {
    let world = World::new();
    let port = world.server.run(echo_server);
    let consumer = world.gateway.run(|| Consumer::start(Consumer::inspect));
    world.gateway.run(move || {
        let diversion = table::probe().expect("one way or the other");
        table::install(&spec("io", Fail::Closed), diversion).expect("it loads");
        for address in World::targets() {
            echo(address, port, 100_000).expect("an echo");
        }
    });
    let seen = consumer.take();
    assert_eq!(seen.iter().filter(|packet| packet.syn).count(), 2, "one SYN each");
    assert!(seen.len() > 40, "{}", seen.len());
}

#[test]
fn routing_by_the_operators_marks_survives_the_queue() {
    // Two ways to the same address; the mark chooses. A mark that comes back from
    // the queue with a bit more would choose wrongly.
    let gateway = Host::new();
    let (left, right) = (Host::new(), Host::new());
    gateway.link("l0", &left, "l1", 1);
    gateway.link("r0", &right, "r1", 2);
    for host in [&left, &right] {
        host.run(|| {
            run("ip", "addr add 10.9.0.9/32 dev lo");
            run("ip", "addr add fd00:9::9/128 dev lo nodad");
        });
    }
    left.run(|| {
        run("ip", "route add default via 10.1.0.1");
        run("ip", "route add default via fd00:1::1");
    });
    right.run(|| {
        run("ip", "route add default via 10.2.0.1");
        run("ip", "route add default via fd00:2::1");
    });
    gateway.run(|| {
        run("ip", "route add 10.9.0.9 via 10.1.0.2");
        run("ip", "-6 route add fd00:9::9 via fd00:1::2");
        run("ip", "route add 10.9.0.9 via 10.2.0.2 table 77");
        run("ip", "-6 route add fd00:9::9 via fd00:2::2 table 77");
        run("ip", "rule add fwmark 0x7 lookup 77");
        run("ip", "-6 rule add fwmark 0x7 lookup 77");
    });
    let listen = || {
        let socket = UdpSocket::bind("[::]:4000").expect("free");
        socket.set_read_timeout(Some(A_WHILE)).expect("not zero");
        socket
    };
    let (at_left, at_right) = (left.run(listen), right.run(listen));
    let consumer = gateway.run(|| Consumer::start(Consumer::inspect));
    gateway.run(|| {
        let diversion = table::probe().expect("one way or the other");
        table::install(&spec("o", Fail::Closed), diversion).expect("it loads");
        for target in ["10.9.0.9:4000", "[fd00:9::9]:4000"] {
            marked(0x7).send_to(b"right", target).expect("sent");
            udp(PATIENT).send_to(b"left", target).expect("sent");
        }
    });
    let mut buffer = [0; 16];
    at_right.set_read_timeout(Some(PATIENT)).expect("not zero");
    at_left.set_read_timeout(Some(PATIENT)).expect("not zero");
    for _ in 0..2 {
        let (length, _) = at_right.recv_from(&mut buffer).expect("it goes right");
        assert_eq!(&buffer[..length], b"right");
        let (length, _) = at_left.recv_from(&mut buffer).expect("it goes left");
        assert_eq!(&buffer[..length], b"left");
    }
    assert_eq!(consumer.take().len(), 4);
}
