//! A SYN flood of forged sources, and honest clients beside it.

use std::{
    net::{SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use halfgate::{sys::netns::Family, wire::Flags};

use crate::{
    harness::{Gateway, SOON, accept, rules, s, say},
    nat,
};

both_families! {
    honest_clients_connect_amid_a_flood_and_the_limit_holds
    what_a_flood_evicts_is_forgotten_by_the_kernel_too
}

/// Half-open connections that there may be.
const LIMIT: u64 = 100;

/// SYNs a second, at the machine's pace: who finishes its handshake within half a
/// second is not displaced.
const RATE: u32 = 200;

/// Honest clients, one after another.
const HONEST: usize = 12;

fn half_open(gateway: &Gateway) -> u64 {
    gateway.json(&["status"])[0]["half_open"].as_u64().expect("a number")
}

fn honest_clients_connect_amid_a_flood_and_the_limit_holds(family: Family) {
    let gateway = Gateway::start(&rules(&format!(
        "timers: {{ syn_received: 3s }}\n\
         limits: {{ embryonic: {{ per_destination: {LIMIT}, on_excess: evict }} }}\n\
         rules: [{{ name: web, from: outside, service: tcp/80, action: accept }}]"
    )));
    // The kernel's own answer to a flood would hide ours.
    gateway.three.server.sysctls(&[("ipv4/tcp_syncookies", "0")]).unwrap();
    let listener = gateway.listen(family, 80);
    let forger = gateway.forger();
    let over = AtomicBool::new(false);
    let (pairs, most, sent) = thread::scope(|scope| {
        let flood = scope.spawn(|| {
            let mut sent = 0_u16;
            while !over.load(Ordering::Relaxed) {
                forger.syn(family, sent % 4000, 4000 + sent / 4000, 80);
                sent += 1;
                thread::sleep(s(1) / RATE);
            }
            sent
        });
        let watch = scope.spawn(|| {
            let mut most = 0;
            while !over.load(Ordering::Relaxed) {
                most = most.max(half_open(&gateway));
            }
            most
        });
        let pairs = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            // On a slow machine as many end by their timer as come, so that the count is full
            // only for moments.
            gateway.eventually("the flood has filled the limit", SOON, || {
                gateway.log().contains("limit embryonic.per_destination passed")
            });
            let honest = |_| {
                let client = gateway.connect(family, 80);
                (client, accept(&listener).0)
            };
            (0..HONEST).map(honest).collect::<Vec<(TcpStream, TcpStream)>>()
        }));
        over.store(true, Ordering::Relaxed);
        (pairs, watch.join().expect("the watcher"), flood.join().expect("the flood"))
    });
    let pairs = pairs.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    assert!(most <= LIMIT, "{most} half-open amid {sent} SYNs: the limit was passed");
    for (client, server) in &pairs {
        say(client, server, "amid a flood");
        say(server, client, "as ever");
    }
    // Sooner than the server's kernel gives up by itself, which takes it 63 s
    // (net.ipv4.tcp_synack_retries).
    let (mut ours, mut theirs, end) = (0, 0, gateway.now());
    while gateway.since(end) < s(3) + 3 * SOON {
        (ours, theirs) = (half_open(&gateway), gateway.backlog(80));
        if (ours, theirs) == (0, 0) {
            return;
        }
        thread::sleep(s(1) / 10);
    }
    panic!("{ours} half-open in the firewall and {theirs} on the server are left of {sent} SYNs");
}

/// Thousands at once, and through a port forward, where only the kernel knows from where
/// an RST must come.
fn what_a_flood_evicts_is_forgotten_by_the_kernel_too(family: Family) {
    const SYNS: u16 = 16_000;
    let rest = format!(
        "timers: {{ syn_sent: 60s, syn_received: 60s }}\n\
         limits: {{ embryonic: {{ total: {LIMIT}, on_excess: evict }} }}\n\
         rules: [{{ name: web, from: outside, to: inside, service: tcp/8080, action: accept }}]"
    );
    let gateway = nat::gateway(&rules(&rest), false);
    gateway.three.server.sysctls(&[("ipv4/tcp_syncookies", "0")]).unwrap();
    let _listener = gateway.listen(family, 8080);
    let dialled = SocketAddr::new(family.outside(), 80);
    let forger = gateway.forger();
    for number in 0..SYNS {
        let from = SocketAddr::new(family.forged(number % 4000), 4000 + number / 4000);
        forger.send(from, dialled, 1000, None, Flags::SYN);
    }
    gateway.settles("what is not half-open any more is forgotten", s(1), || {
        let entries = gateway.tool("conntrack", &["-C"], "").trim().parse::<u64>().expect("a number");
        half_open(&gateway) == LIMIT && entries <= LIMIT
    });
    let status = &gateway.json(&["status"])[0];
    let memory = |part: &str| status["memory"][part].as_u64().unwrap();
    assert!((1 << 20..memory("most")).contains(&memory("resident")), "{status}");
    assert!(memory("connections") + memory("half_open") + memory("rest") <= memory("most"), "{status}");
    assert!(gateway.log().contains(" at most ("), "{}", gateway.log());
    // A busy machine loses some of the SYNs in their queue: of those that came, most.
    let opened = status["opened"].as_u64().expect("a number");
    assert!(opened > u64::from(SYNS) / 8, "{status}");
    assert!(status["sent"]["forgotten"].as_u64() > Some(opened / 2), "{status}");
}
