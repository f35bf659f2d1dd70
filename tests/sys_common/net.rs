//! Network namespaces for the tests of `sys`: a client, a gateway and a server
//! in a row, gone again when the test ends. Needs root, iproute2, iptables-nft.
#![allow(dead_code, unreachable_pub, unsafe_code, clippy::disallowed_methods)]

use std::{
    fs::File,
    os::fd::AsRawFd,
    process::{Command, Output},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// The client's addresses, IPv4 and IPv6.
pub const CLIENT: [&str; 2] = ["10.91.1.2", "fd91:1::2"];
/// The gateway's, toward the client.
pub const GATEWAY_IN: [&str; 2] = ["10.91.1.1", "fd91:1::1"];
/// The gateway's, toward the server.
pub const GATEWAY_OUT: [&str; 2] = ["10.91.2.1", "fd91:2::1"];
/// The server's.
pub const SERVER: [&str; 2] = ["10.91.2.2", "fd91:2::2"];

/// `client (c0) -- (g0) gateway (g1) -- (s0) server`.
pub struct Net {
    pub client: String,
    pub gateway: String,
    pub server: String,
}

impl Net {
    pub fn new() -> Self {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = |role: &str| format!("hg{}-{number}{role}", std::process::id());
        let net = Self { client: name("c"), gateway: name("g"), server: name("s") };
        for namespace in [&net.client, &net.gateway, &net.server] {
            ok(Command::new("ip").args(["netns", "add", namespace]));
            run(namespace, "ip link set lo up");
        }
        let (client, gateway, server) = (&net.client, &net.gateway, &net.server);
        for (end, far, near, other) in [("c0", client, "g0", gateway), ("s0", server, "g1", gateway)] {
            run(far, &format!("ip link add {end} type veth peer name {near} netns {other}"));
        }
        for (namespace, interface, addresses) in [
            (client, "c0", CLIENT),
            (gateway, "g0", GATEWAY_IN),
            (gateway, "g1", GATEWAY_OUT),
            (server, "s0", SERVER),
        ] {
            run(namespace, &format!("ip address add {}/24 dev {interface}", addresses[0]));
            run(namespace, &format!("ip address add {}/64 dev {interface} nodad", addresses[1]));
            run(namespace, &format!("ip link set {interface} up"));
        }
        for (namespace, gateway) in [(client, GATEWAY_IN), (server, GATEWAY_OUT)] {
            run(namespace, &format!("ip route add default via {}", gateway[0]));
            run(namespace, &format!("ip -6 route add default via {}", gateway[1]));
        }
        run(gateway, "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
        net
    }

    /// Diverts all packets of a hook (`FORWARD`) of both families into a queue.
    pub fn divert(&self, hook: &str, matching: &str, queue: u16) {
        for iptables in ["iptables-nft", "ip6tables-nft"] {
            run(
                &self.gateway,
                &format!("{iptables} -t mangle -A {hook} {matching} -j NFQUEUE --queue-num {queue}"),
            );
        }
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for namespace in [&self.client, &self.gateway, &self.server] {
            let _ = Command::new("ip").args(["netns", "delete", namespace]).status();
        }
    }
}

/// Runs a command line in a namespace; it must succeed.
pub fn run(namespace: &str, line: &str) -> String {
    ok(Command::new("ip").args(["netns", "exec", namespace]).args(line.split_whitespace()))
}

fn ok(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().expect("the command starts");
    assert!(status.success(), "{command:?}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8_lossy(&stdout).into_owned()
}

/// Puts this thread into a namespace.
pub fn enter(namespace: &str) {
    let file = File::open(format!("/run/netns/{namespace}")).expect("the namespace exists");
    // SAFETY: no pointers are passed; only this thread changes its namespace.
    let result = unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) };
    assert_eq!(result, 0, "setns: {}", std::io::Error::last_os_error());
}

/// Runs a function in a namespace, on a thread of its own.
pub fn inside<R: Send>(namespace: &str, function: impl FnOnce() -> R + Send) -> R {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            enter(namespace);
            function()
        });
        match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Asks until there is an answer; fails the test after ten seconds.
pub fn eventually<R>(what: &str, mut ask: impl FnMut() -> Option<R>) -> R {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "never happened: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}
