//! The queue against the kernel: real packets through a gateway in network
//! namespaces.
#![allow(unsafe_code, clippy::disallowed_methods)]

#[path = "sys_common/net.rs"]
mod net;

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsFd, AsRawFd, FromRawFd},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use halfgate::{
    engine::IfIndex,
    policy::Hook,
    sys::{
        ctnetlink::Ctnetlink,
        interfaces,
        queue::{Answer, Queue, QueueError, QueueLoss, QueueSettings, Queued, UNTIL_RUNG, losses},
    },
    wire::{Checksums, FourTuple, Transport, build},
};
use net::{CLIENT, GATEWAY_IN, Net, SERVER, enter, eventually, inside, run};

const SECOND: Duration = Duration::from_secs(1);

fn settings(number: u16) -> QueueSettings {
    QueueSettings { number, copy_range: 128, max_len: 1000, gso: true, conntrack: false }
}

fn address(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse::<IpAddr>().unwrap(), port)
}

/// Serves a queue in the gateway, diverting what `matching` says, while `body` runs.
fn serving<R: Send>(
    net: &Net,
    settings: QueueSettings,
    divert: &[(&str, &str)],
    mut judge: impl FnMut(&Queued<'_>) -> Answer + Send,
    body: impl FnOnce() -> R + Send,
) -> R {
    let mut queue = inside(&net.gateway, || Queue::open(settings).unwrap());
    for (hook, matching) in divert {
        net.divert(hook, matching, settings.number);
    }
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                queue.serve(Duration::from_millis(20), &mut |queued, _| judge(queued)).unwrap();
            }
        });
        let body = scope.spawn(body);
        let result = body.join();
        stop.store(true, Ordering::Relaxed);
        worker.join().unwrap();
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn accept(queued: &Queued<'_>) -> Answer {
    Answer::Accept { mark: queued.mark }
}

/// Packets and octets that the first rule of a chain has counted.
fn counted(namespace: &str, iptables: &str, chain: &str) -> u64 {
    let listing = run(namespace, &format!("{iptables} -t mangle -L {chain} -v -x -n"));
    listing.lines().nth(2).and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap()
}

#[test]
fn who_waits_without_end_is_woken_by_a_bell_and_by_packets_that_come_alone() {
    const PACKETS: usize = 50;
    let net = Net::new();
    let mut queue = inside(&net.gateway, || Queue::open(settings(9)).unwrap());
    net.divert("FORWARD", "-p udp", 9);
    let bell = queue.bell().unwrap();
    let turns = std::sync::atomic::AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let count = || turns.load(Ordering::Relaxed);
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let mut judged = 0;
            while !stop.load(Ordering::Relaxed) {
                judged += queue.serve(UNTIL_RUNG, &mut |queued, _| accept(queued)).unwrap();
                turns.fetch_add(1, Ordering::Relaxed);
            }
            judged
        });
        let body = scope.spawn(|| {
            thread::sleep(Duration::from_millis(300));
            assert_eq!(count(), 0, "nobody has rung");
            for rung in 1..=3 {
                bell.ring().unwrap();
                eventually("it takes its turn", || (count() == rung).then_some(()));
            }
            let server = inside(&net.server, || UdpSocket::bind(address(SERVER[0], 700)).unwrap());
            server.set_read_timeout(Some(SECOND * 5)).unwrap();
            let client = inside(&net.client, || UdpSocket::bind(address(CLIENT[0], 701)).unwrap());
            let mut buffer = [0; 16];
            // One after the other, and then some at once.
            for sent in 0..PACKETS {
                client.send_to(b"hello", address(SERVER[0], 700)).unwrap();
                if sent < PACKETS / 2 {
                    assert_eq!(server.recv(&mut buffer).unwrap(), 5);
                }
            }
            for _ in PACKETS / 2..PACKETS {
                assert_eq!(server.recv(&mut buffer).unwrap(), 5);
            }
        });
        let body = body.join();
        stop.store(true, Ordering::Relaxed);
        bell.ring().unwrap();
        let judged = worker.join().unwrap();
        body.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        assert_eq!(judged, PACKETS);
    });
}

#[test]
fn a_packet_comes_with_what_the_kernel_knows_and_leaves_with_our_mark() {
    let net = Net::new();
    let interfaces = inside(&net.gateway, || interfaces::list().unwrap());
    let index = |name: &str| interfaces.iter().find(|(_, known)| known == name).unwrap().0;
    for (family, iptables) in ["iptables-nft", "ip6tables-nft"].into_iter().enumerate() {
        run(&net.gateway, &format!("{iptables} -t mangle -A PREROUTING -i g0 -j MARK --set-mark 0x00a00001"));
        run(
            &net.gateway,
            &format!("{iptables} -t mangle -A POSTROUTING -m mark --mark 0x0ca00001 -j ACCEPT"),
        );
        let seen = std::sync::Mutex::new(Vec::new());
        let judge = |queued: &Queued<'_>| {
            if queued.bytes.ends_with(b"hello") {
                seen.lock().unwrap().push((
                    queued.hook,
                    queued.in_if,
                    queued.out_if,
                    queued.mark,
                    queued.wire_len,
                ));
                return Answer::Accept { mark: queued.mark | 0x0c00_0000 };
            }
            accept(queued)
        };
        serving(&net, settings(11 + family as u16), &[("FORWARD", "-p udp")], judge, || {
            let server = inside(&net.server, || UdpSocket::bind(address(SERVER[family], 700)).unwrap());
            server.set_read_timeout(Some(SECOND * 5)).unwrap();
            inside(&net.client, || {
                let client = UdpSocket::bind(address(CLIENT[family], 701)).unwrap();
                client.send_to(b"hello", address(SERVER[family], 700)).unwrap();
            });
            let mut buffer = [0; 16];
            assert_eq!(server.recv(&mut buffer).unwrap(), 5);
        });
        let wire_len = [20, 40][family] + 8 + 5;
        assert_eq!(*seen.lock().unwrap(), [(Hook::Forward, index("g0"), index("g1"), 0x00a0_0001, wire_len)]);
        assert_eq!(counted(&net.gateway, iptables, "POSTROUTING"), 1);
        for iptables in ["iptables-nft", "ip6tables-nft"] {
            run(&net.gateway, &format!("{iptables} -t mangle -F"));
        }
    }
}

#[test]
fn input_has_no_way_out_and_output_no_way_in() {
    let net = Net::new();
    let seen = std::sync::Mutex::new(Vec::new());
    let judge = |queued: &Queued<'_>| {
        seen.lock().unwrap().push((queued.hook, queued.in_if != IfIndex(0), queued.out_if != IfIndex(0)));
        accept(queued)
    };
    let divert = [("INPUT", "-p udp ! -i lo"), ("OUTPUT", "-p udp ! -o lo")];
    serving(&net, settings(1), &divert, judge, || {
        let gateway = inside(&net.gateway, || UdpSocket::bind(address(GATEWAY_IN[0], 700)).unwrap());
        let client = inside(&net.client, || UdpSocket::bind(address(CLIENT[0], 700)).unwrap());
        for socket in [&gateway, &client] {
            socket.set_read_timeout(Some(SECOND * 5)).unwrap();
        }
        client.send_to(b"to", address(GATEWAY_IN[0], 700)).unwrap();
        let (_, from) = gateway.recv_from(&mut [0; 8]).unwrap();
        gateway.send_to(b"from", from).unwrap();
        client.recv_from(&mut [0; 8]).unwrap();
    });
    assert_eq!(*seen.lock().unwrap(), [(Hook::Input, true, false), (Hook::Output, false, true)]);
}

#[test]
fn every_packet_of_a_batch_has_its_own_verdict() {
    let net = Net::new();
    let mut queue = inside(&net.gateway, || Queue::open(settings(2)).unwrap());
    net.divert("FORWARD", "-p udp", 2);
    let server = inside(&net.server, || UdpSocket::bind(address(SERVER[0], 700)).unwrap());
    let client = inside(&net.client, || UdpSocket::bind(address(CLIENT[0], 700)).unwrap());
    server.set_read_timeout(Some(SECOND * 5)).unwrap();
    for number in 0..200_u8 {
        client.send_to(&[number], address(SERVER[0], 700)).unwrap();
    }
    eventually("all packets wait", || {
        (inside(&net.gateway, losses).unwrap()[0].waiting == 200).then_some(())
    });

    let mut calls = 0;
    let mut judged = 0;
    while judged < 200 {
        calls += 1;
        judged += queue
            .serve(SECOND, &mut |queued, _| {
                let number = *queued.bytes.last().unwrap();
                if number % 3 == 0 { Answer::Drop } else { accept(queued) }
            })
            .unwrap();
    }
    assert!(calls <= 8, "200 packets took {calls} rounds");
    let mut received = Vec::new();
    let mut buffer = [0; 8];
    while received.last() != Some(&199) {
        server.recv(&mut buffer).unwrap();
        received.push(buffer[0]);
    }
    assert_eq!(received, (0..200).filter(|number| number % 3 != 0).collect::<Vec<u8>>());
    assert_eq!(inside(&net.gateway, losses).unwrap()[0].waiting, 0);
}

/// Where packets one behind the other have the same answer, and where they have not: each
/// bears its own mark, and none goes on that was to be dropped.
#[test]
fn same_answers_one_behind_the_other_reach_all_and_nobody_else() {
    let net = Net::new();
    let mut queue = inside(&net.gateway, || Queue::open(settings(13)).unwrap());
    net.divert("FORWARD", "-p udp", 13);
    for mark in [1, 2] {
        let count = format!("iptables-nft -t mangle -A POSTROUTING -m mark --mark {mark}");
        run(&net.gateway, &count);
    }
    let server = inside(&net.server, || UdpSocket::bind(address(SERVER[0], 700)).unwrap());
    let client = inside(&net.client, || UdpSocket::bind(address(CLIENT[0], 700)).unwrap());
    server.set_read_timeout(Some(SECOND * 5)).unwrap();
    let answer = |number: u8| match number {
        0..40 | 90..95 => Answer::Accept { mark: 1 },
        40..60 | 95..99 => Answer::Drop,
        60..90 | 99.. => Answer::Accept { mark: 2 },
    };
    for number in 0..100_u8 {
        client.send_to(&[number], address(SERVER[0], 700)).unwrap();
    }
    eventually("all packets wait", || {
        (inside(&net.gateway, losses).unwrap()[0].waiting == 100).then_some(())
    });
    let mut judged = 0;
    while judged < 100 {
        judged += queue.serve(SECOND, &mut |queued, _| answer(*queued.bytes.last().unwrap())).unwrap();
    }
    let mut received = Vec::new();
    let mut buffer = [0; 8];
    while received.last() != Some(&99) {
        server.recv(&mut buffer).unwrap();
        received.push(buffer[0]);
    }
    assert_eq!(received, (0..100).filter(|number| answer(*number) != Answer::Drop).collect::<Vec<u8>>());
    let listing = run(&net.gateway, "iptables-nft -t mangle -L POSTROUTING -v -x -n");
    let counts: Vec<&str> =
        listing.lines().skip(2).map(|line| line.split_whitespace().next().unwrap()).collect();
    assert_eq!(counts, ["45", "31"], "{listing}");
    let losses = inside(&net.gateway, losses).unwrap()[0];
    assert_eq!((losses.waiting, queue.troubles().refused), (0, 0));
}

/// A shorter packet in place of the one that waits, and what is no packet at all.
#[test]
fn a_packet_goes_on_as_it_was_rewritten_or_not_at_all() {
    let net = Net::new();
    let mut queue = inside(&net.gateway, || Queue::open(settings(12)).unwrap());
    net.divert("FORWARD", "-p udp", 12);
    let server = inside(&net.server, || UdpSocket::bind(address(SERVER[0], 700)).unwrap());
    let client = inside(&net.client, || UdpSocket::bind(address(CLIENT[0], 700)).unwrap());
    server.set_read_timeout(Some(SECOND * 5)).unwrap();
    for number in 0..4_u8 {
        client.send_to(&[number; 1200], address(SERVER[0], 700)).unwrap();
    }
    eventually("all packets wait", || (inside(&net.gateway, losses).unwrap()[0].waiting == 4).then_some(()));
    let mut judged = 0;
    while judged < 4 {
        judged += queue
            .serve(SECOND, &mut |queued, rewritten| {
                let (tuple, data) = tuple_and_data(queued);
                match data {
                    0 => rewritten.extend(build::udp(tuple, b"short").bytes),
                    // Less than the IP header that is there.
                    1 => rewritten.extend([0x45; 7]),
                    2 => rewritten.extend(build::udp(tuple, &[9; 1300]).bytes),
                    _ => {}
                }
                if data == 3 { accept(queued) } else { Answer::Rewrite { mark: queued.mark } }
            })
            .unwrap();
    }
    let mut buffer = [0; 2000];
    let mut received = Vec::new();
    for _ in 0..3 {
        let len = server.recv(&mut buffer).unwrap();
        received.push((len, buffer[0]));
    }
    assert_eq!(received, [(5, b's'), (1300, 9), (1200, 3)]);
    eventually("none is left", || (inside(&net.gateway, losses).unwrap()[0].waiting == 0).then_some(()));
}

fn tuple_and_data(queued: &Queued<'_>) -> (FourTuple, u8) {
    let packet = halfgate::wire::parse(queued.bytes, queued.wire_len, Checksums::Trust).unwrap();
    let Transport::Udp(udp) = packet.transport else { panic!("{packet:?}") };
    let (src_port, dst_port) = (udp.src_port, udp.dst_port);
    (FourTuple { src: packet.src, src_port, dst: packet.dst, dst_port }, queued.bytes[28])
}

#[test]
fn a_verdict_for_a_packet_that_is_gone_costs_no_other_verdict() {
    // Of one verdict for all, only those that are there hear.
    for (bit, gone) in [(1, 5), (0, 0)] {
        some_are_gone(bit, gone);
    }
}

fn some_are_gone(bit: u32, gone: u64) {
    let net = Net::new();
    // A second client, whose interface goes down while its packets wait.
    run(&net.client, &format!("ip link add c9 type veth peer name g9 netns {}", net.gateway));
    for (namespace, interface, own) in [(&net.client, "c9", "10.91.9.2"), (&net.gateway, "g9", "10.91.9.1")] {
        run(namespace, &format!("ip address add {own}/24 dev {interface}"));
        run(namespace, &format!("ip link set {interface} up"));
    }
    run(&net.client, "ip route add 10.91.2.0/24 via 10.91.9.1 table 9");
    run(&net.client, "ip rule add from 10.91.9.2 table 9");

    let mut queue = inside(&net.gateway, || Queue::open(settings(3)).unwrap());
    net.divert("FORWARD", "-p udp", 3);
    let server = inside(&net.server, || UdpSocket::bind(address(SERVER[0], 700)).unwrap());
    server.set_read_timeout(Some(SECOND * 5)).unwrap();
    let (stays, goes) = inside(&net.client, || {
        (
            UdpSocket::bind(address(CLIENT[0], 700)).unwrap(),
            UdpSocket::bind(address("10.91.9.2", 700)).unwrap(),
        )
    });
    for number in 0..10_u8 {
        let socket = if number % 2 == 0 { &stays } else { &goes };
        socket.send_to(&[number], address(SERVER[0], 700)).unwrap();
    }
    eventually("all packets wait", || (inside(&net.gateway, losses).unwrap()[0].waiting == 10).then_some(()));

    let mut seen = 0;
    let judged = queue
        .serve(SECOND, &mut |queued, _| {
            seen += 1;
            if seen == 10 {
                run(&net.gateway, "ip link set g9 down");
            }
            Answer::Accept { mark: queued.mark | seen & bit }
        })
        .unwrap();
    assert_eq!(judged, 10);
    let mut received = Vec::new();
    let mut buffer = [0; 8];
    while received.len() < 5 {
        server.recv(&mut buffer).unwrap();
        received.push(buffer[0]);
    }
    assert_eq!(received, [0, 2, 4, 6, 8]);
    // The refusals are read, counted, and don't count as packets.
    assert_eq!(queue.serve(Duration::ZERO, &mut |_, _| unreachable!()).unwrap(), 0);
    assert_eq!((queue.troubles().gone, queue.troubles().refused), (gone, 0));

    stays.send_to(&[99], address(SERVER[0], 700)).unwrap();
    assert_eq!(queue.serve(SECOND * 5, &mut |queued, _| accept(queued)).unwrap(), 1);
    server.recv(&mut buffer).unwrap();
    assert_eq!(buffer[0], 99);
}

#[test]
fn gso_packets_come_whole_and_only_their_start_is_copied() {
    let net = Net::new();
    let largest = std::sync::Mutex::new((0, 0));
    let judge = |queued: &Queued<'_>| {
        let mut largest = largest.lock().unwrap();
        *largest = (largest.0.max(queued.wire_len), largest.1.max(queued.bytes.len()));
        accept(queued)
    };
    serving(&net, settings(4), &[("FORWARD", "-p tcp")], judge, || {
        let listener = inside(&net.server, || TcpListener::bind(address(SERVER[1], 700)).unwrap());
        let mut client = inside(&net.client, || TcpStream::connect(address(SERVER[1], 700)).unwrap());
        let (mut server, _) = listener.accept().unwrap();
        let data: Vec<u8> = (0..3_000_000_u32).map(|number| number.to_le_bytes()[0]).collect();
        let copy = data.clone();
        let sender = thread::spawn(move || client.write_all(&copy).unwrap());
        let mut received = Vec::new();
        server.read_to_end(&mut received).unwrap();
        sender.join().unwrap();
        assert!(received == data, "the data came through changed");
    });
    let (wire_len, copied) = *largest.lock().unwrap();
    assert!(wire_len > 10_000, "largest packet {wire_len}");
    assert_eq!(copied, 128);
}

#[test]
fn a_full_queue_tells_what_it_lost() {
    let net = Net::new();
    let mut queue =
        inside(&net.gateway, || Queue::open(QueueSettings { max_len: 4, ..settings(5) }).unwrap());
    let _other = inside(&net.gateway, || Queue::open(settings(6)).unwrap());
    net.divert("FORWARD", "-p udp", 5);
    let client = inside(&net.client, || UdpSocket::bind(address(CLIENT[0], 700)).unwrap());
    for _ in 0..10 {
        client.send_to(b"x", address(SERVER[0], 700)).unwrap();
    }
    let none = |number| QueueLoss { number, waiting: 0, dropped_by_queue: 0, dropped_by_socket: 0 };
    let full = QueueLoss { waiting: 4, dropped_by_queue: 6, ..none(5) };
    eventually("the queue is full", || {
        (inside(&net.gateway, losses).unwrap() == [full, none(6)]).then_some(())
    });
    assert_eq!(queue.serve(SECOND, &mut |_, _| Answer::Drop).unwrap(), 4);
    assert_eq!(inside(&net.gateway, losses).unwrap()[0], QueueLoss { waiting: 0, ..full });
    drop(queue);
    // A process that another test starts may hold a copy of the socket until it execs.
    eventually("the closed queue is gone", || {
        (inside(&net.gateway, losses).unwrap() == [none(6)]).then_some(())
    });
}

#[test]
fn a_taken_queue_names_its_owner() {
    let net = Net::new();
    inside(&net.gateway, || {
        let queue = Queue::open(settings(7)).unwrap();
        let error = Queue::open(settings(7)).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, QueueError::Taken { number: 7, .. }), "{text}");
        assert!(text.contains(&format!("(pid {})", std::process::id())), "{text}");
        assert!(text.contains("base"), "{text}");
        // The number of another network namespace is another queue.
        inside(&net.server, || drop(Queue::open(settings(7)).unwrap()));
        drop(queue);
        // A process that another test starts may hold a copy of the socket until it execs.
        eventually("the number can be taken again", || Queue::open(settings(7)).ok().map(drop));
    });
}

#[test]
fn missing_privileges_are_named() {
    let net = Net::new();
    let error = thread::spawn(move || {
        enter(&net.gateway);
        // SAFETY: no pointers; the bare system call changes only this thread,
        // which ends right after.
        let result = unsafe { libc::syscall(libc::SYS_setresuid, 65534, 65534, 65534) };
        assert_eq!(result, 0);
        let error = Queue::open(settings(8)).unwrap_err();
        (error, net)
    })
    .join()
    .unwrap()
    .0;
    assert!(matches!(error, QueueError::NoPrivileges { number: 8 }), "{error}");
    assert!(error.to_string().contains("CAP_NET_ADMIN"), "{error}");
}

#[test]
fn the_socket_is_found_among_others_and_not_inherited() {
    let net = Net::new();
    inside(&net.gateway, || {
        let others: Vec<_> = (0..4).map(|_| Ctnetlink::open().unwrap()).collect();
        let queues: Vec<_> = (20..24).map(|number| Queue::open(settings(number)).unwrap()).collect();
        let mut descriptors: Vec<_> = queues.iter().map(|queue| queue.as_fd().as_raw_fd()).collect();
        descriptors.dedup();
        assert_eq!(descriptors.len(), queues.len());
        for fd in descriptors {
            // SAFETY: no pointers; the descriptor is open.
            assert_eq!(unsafe { libc::fcntl(fd, libc::F_GETFD) }, libc::FD_CLOEXEC);
        }
        drop(others);
    });
}

#[test]
fn what_others_say_on_the_queues_socket_is_refused() {
    let net = Net::new();
    inside(&net.gateway, || {
        let mut queue = Queue::open(settings(12)).unwrap();
        // SAFETY: sockaddr_nl is plain data; all zero is valid.
        let mut address: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
        let mut length = size_of_val(&address) as u32;
        let socket = queue.as_fd().as_raw_fd();
        // SAFETY: the address and its length live through the call.
        let found = unsafe { libc::getsockname(socket, (&raw mut address).cast(), &raw mut length) };
        assert_eq!(found, 0);
        // Root, as whoever else may send to this kind of socket is.
        // SAFETY: no pointers; it is ours alone.
        let other = unsafe {
            let socket = libc::socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_NETFILTER);
            std::os::fd::OwnedFd::from_raw_fd(socket)
        };
        let forged = [0_u8; 64];
        // SAFETY: pointers and lengths are those of the two locals.
        let sent = unsafe {
            let (octets, to) = (forged.as_ptr().cast(), (&raw const address).cast());
            libc::sendto(other.as_raw_fd(), octets, forged.len(), 0, to, length)
        };
        let error = std::io::Error::last_os_error();
        assert_eq!((sent, error.raw_os_error()), (-1, Some(libc::ECONNREFUSED)));
        assert_eq!(queue.serve(Duration::ZERO, &mut |_, _| unreachable!()).unwrap(), 0);
    });
}

extern "C" fn nothing(_: libc::c_int) {}

#[test]
fn a_signal_ends_the_wait_and_nothing_else() {
    let net = Net::new();
    let mut queue = inside(&net.gateway, || Queue::open(settings(10)).unwrap());
    let handler: extern "C" fn(libc::c_int) = nothing;
    // SAFETY: the handler does nothing; no other test uses this signal.
    unsafe { libc::signal(libc::SIGUSR2, handler as libc::sighandler_t) };
    let (tell, thread) = std::sync::mpsc::channel();
    thread::scope(|scope| {
        let worker = scope.spawn(move || {
            // SAFETY: no arguments.
            tell.send(unsafe { libc::pthread_self() }).unwrap();
            queue.serve(SECOND * 3600, &mut |_, _| unreachable!()).unwrap()
        });
        let id = thread.recv().unwrap();
        eventually("the wait ends", || {
            // SAFETY: the thread is not joined yet, so its id is still its own.
            unsafe { libc::pthread_kill(id, libc::SIGUSR2) };
            worker.is_finished().then_some(())
        });
        assert_eq!(worker.join().unwrap(), 0);
    });
}
