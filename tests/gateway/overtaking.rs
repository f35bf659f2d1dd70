//! Where a connection leaves the queue, its packets must not overtake those that wait in it.
//!
//! Everything runs on one processor: two of them reorder what a sender writes from both, with
//! or without a firewall (a veth link has no order between them).
#![allow(unsafe_code)]

use std::{
    io::{self, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    thread,
};

use halfgate::sys::netns::Family;

use crate::harness::{Gateway, SOON, accept, connect, listen, rules};

both_families! {
    no_packet_overtakes_another_as_rides_begin
}

/// Transfers, each over a connection of its own.
const TRANSFERS: usize = 60;

/// Octets of a transfer.
const OCTETS: usize = 2 << 20;

fn no_packet_overtakes_another_as_rides_begin(family: Family) {
    stay_on_one_processor();
    let web = "rules: [{ name: web, from: outside, service: tcp/80, action: accept }]";
    let gateway = Gateway::without_firewall(&rules(web));
    let alone = transfers(&gateway, family);
    drop(gateway);
    let gateway = Gateway::start(&rules(web));
    let filtered = transfers(&gateway, family);
    assert!(
        filtered.early <= alone.early && filtered.again <= alone.again,
        "{filtered:?}, and without a firewall {alone:?}"
    );
    let status = &gateway.json(&["status"])[0];
    let queued = status["packets"].as_u64().unwrap();
    assert!(queued < TRANSFERS as u64 * 60, "{queued} packets were queued: they did not ride");
}

/// What the kernels of the two ends have counted.
#[derive(Debug)]
struct Counts {
    /// Segments that came before one that was sent earlier.
    early: u64,
    /// Segments that were sent again because the other end said that others had come.
    again: u64,
}

fn transfers(gateway: &Gateway, family: Family) -> Counts {
    let to = SocketAddr::new(family.server(), 80);
    let listener = listen(&gateway.three.server, to);
    let sink = thread::spawn(move || {
        for _ in 0..TRANSFERS {
            let (mut stream, _) = accept(&listener);
            assert_eq!(io::copy(&mut stream, &mut io::sink()).expect("receive"), OCTETS as u64);
        }
    });
    for _ in 0..TRANSFERS {
        let mut stream: TcpStream = connect(&gateway.three.client, to, SOON).expect("connect");
        stream.write_all(&vec![0x5a; OCTETS]).expect("send");
        stream.shutdown(Shutdown::Write).unwrap();
        // Until the other end has read it all, and closes.
        assert_eq!(stream.read(&mut [0]).expect("its end"), 0);
    }
    sink.join().unwrap();
    let counter = |text: &str, name: &str| {
        let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
        let (names, values) = lines.next().zip(lines.next()).expect("names and values");
        let at = names.split_whitespace().position(|word| word == name).expect("the counter");
        values.split_whitespace().nth(at).unwrap().parse().unwrap()
    };
    Counts {
        early: counter(&gateway.three.server.proc_net("netstat").unwrap(), "TCPOFOQueue"),
        again: counter(&gateway.three.client.proc_net("netstat").unwrap(), "TCPFastRetrans"),
    }
}

/// Threads and processes that this one starts stay there too.
fn stay_on_one_processor() {
    let size = size_of::<libc::cpu_set_t>();
    // SAFETY: the sets are plain data that live through the calls, and their true size
    // is given.
    unsafe {
        let mut allowed: libc::cpu_set_t = std::mem::zeroed();
        assert_eq!(libc::sched_getaffinity(0, size, &raw mut allowed), 0);
        let last = (0..size * 8).rfind(|processor| libc::CPU_ISSET(*processor, &allowed)).unwrap();
        let mut mine: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(last, &mut mine);
        assert_eq!(libc::sched_setaffinity(0, size, &raw const mine), 0);
    }
}
