//! Clients of the control socket that are many, and say nothing.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
};

use crate::harness::{Gateway, SOON, rules, s};

fn start() -> Gateway {
    Gateway::start(&rules("rules: [{ name: web, from: outside, service: tcp/80, action: accept }]"))
}

fn connect(gateway: &Gateway) -> UnixStream {
    let stream = UnixStream::connect(gateway.socket()).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream
}

#[test]
fn silent_clients_shut_nobody_out() {
    let gateway = start();
    let silent: Vec<UnixStream> = (0..80).map(|_| connect(&gateway)).collect();
    let begun = gateway.now();
    for _ in 0..5 {
        gateway.ok(&["status"]);
    }
    assert!(gateway.since(begun) < s(5), "answered at once, not after {:?}", gateway.since(begun));
    // The last one that came has a seat, and is answered.
    let mut last = BufReader::new(silent.last().unwrap().try_clone().unwrap());
    last.get_mut().write_all(b"{\"request\":\"timers\"}\n").unwrap();
    let mut line = String::new();
    last.read_line(&mut line).unwrap();
    assert!(line.starts_with("{\"timer\""), "{line}");
    // The first made room, and was told why.
    line.clear();
    BufReader::new(&silent[0]).read_line(&mut line).unwrap();
    assert!(line.contains("asked for nothing"), "{line}");
}

#[test]
fn one_process_does_not_hold_all_seats() {
    let gateway = start();
    let mut followers: Vec<UnixStream> = (0..40).map(|_| connect(&gateway)).collect();
    for follower in &mut followers {
        // Those that were sent away may be closed already.
        let _ = follower.write_all(b"{\"request\":\"events\",\"follow\":true}\n");
    }
    gateway.ok(&["status"]);
    let mut line = String::new();
    gateway.eventually("all seats of this process follow events", SOON, || {
        let mut another = BufReader::new(connect(&gateway));
        let _ = another.get_mut().write_all(b"{\"request\":\"events\",\"follow\":true}\n");
        line.clear();
        another.read_line(&mut line).is_ok() && line.contains("this process has")
    });
    gateway.ok(&["status"]);
}
