//! Hosts in network namespaces: a thread each, gone with the process.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::Path,
    process::{Command, Stdio},
    sync::{Arc, Mutex, mpsc},
    time::{Duration, Instant},
};

use halfgate::{
    policy::{Fail, Hooks, Marks},
    sys::table::TableSpec,
};

/// Mark bits in these tests.
pub(crate) const MARKS: Marks = Marks { shift: 24 };
/// First of two queues for packets, then one for SYNs, then two for those of proven
/// sources.
pub(crate) const QUEUE_BASE: u16 = 10;

/// Hooks by their first letters.
pub(crate) fn spec(hooks: &str, fail: Fail) -> TableSpec {
    let on = |letter| hooks.contains(letter);
    TableSpec {
        hooks: Hooks { forward: on('f'), input: on('i'), output: on('o') },
        fail,
        marks: MARKS,
        queue_base: QUEUE_BASE,
        queue_count: 2,
        challenge: false,
        syncookies: false,
        blocked: Default::default(),
    }
}

/// Runs a command that must succeed; its standard output.
pub(crate) fn run(program: &str, arguments: &str) -> String {
    let output = Command::new(program)
        .args(arguments.split_whitespace())
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// Loads rules in nftables' own language.
pub(crate) fn nft(rules: &str) {
    let mut child =
        Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().expect("nft is installed");
    child.stdin.take().expect("piped").write_all(rules.as_bytes()).expect("nft reads");
    assert!(child.wait().expect("it ends").success(), "{rules}");
}

/// How many packets a named counter of the table `inet watch` saw.
pub(crate) fn counted(name: &str) -> u64 {
    let listing: serde_json::Value =
        serde_json::from_str(&run("nft", &format!("-j list counter inet watch {name}"))).expect("json");
    listing["nftables"][1]["counter"]["packets"].as_u64().expect("a counter")
}

/// Polls until it holds.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(20), "never: {what}");
        std::thread::yield_now();
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace, and a thread that lives in it.
pub(crate) struct Host {
    jobs: mpsc::Sender<Job>,
    thread: i32,
}

impl Host {
    pub(crate) fn new() -> Self {
        let (jobs, work) = mpsc::channel::<Job>();
        let (ready, wait) = mpsc::channel();
        std::thread::spawn(move || {
            // SAFETY: takes a flag, touches no memory.
            let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
            assert_eq!(result, 0, "these tests need root: {}", std::io::Error::last_os_error());
            // SAFETY: takes nothing and can't fail.
            ready.send(unsafe { libc::gettid() }).expect("someone waits");
            work.into_iter().for_each(|job| job());
        });
        let host = Self { jobs, thread: wait.recv().expect("it starts") };
        host.run(|| {
            // Addresses are unique here; waiting for duplicates delays the first packets.
            let wait = Path::new("/proc/sys/net/ipv6/conf/default/accept_dad");
            if wait.exists() {
                std::fs::write(wait, "0").expect("root");
            }
            run("ip", "link set lo up");
        });
        host
    }

    /// Runs a function inside and waits for it. What it starts, threads and
    /// programs, is inside as well.
    pub(crate) fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, wait) = mpsc::channel();
        let job = move || {
            let _ = done.send(catch_unwind(AssertUnwindSafe(work)));
        };
        self.jobs.send(Box::new(job)).expect("the host lives");
        wait.recv().expect("the host lives").unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// A link to another host, with addresses `10.net.0.1` and `fd00:net::1` here,
    /// `.2` and `::2` there.
    pub(crate) fn link(&self, name: &'static str, other: &Self, peer: &'static str, net: u8) {
        let thread = other.thread;
        let up = move |name: &str, host: u8| {
            run("ip", &format!("link set {name} up"));
            run("ip", &format!("addr add 10.{net}.0.{host}/24 dev {name}"));
            run("ip", &format!("addr add fd00:{net}::{host}/64 dev {name} nodad"));
        };
        self.run(move || {
            run("ip", &format!("link add {name} type veth peer name {peer} netns {thread}"));
            up(name, 1);
        });
        other.run(move || up(peer, 2));
    }
}

/// A client, a gateway and a server: `10.1.0.2 - 10.1.0.1|10.2.0.1 - 10.2.0.2`, the
/// same with `fd00:1::` and `fd00:2::`.
pub(crate) struct World {
    pub(crate) client: Host,
    pub(crate) gateway: Host,
    pub(crate) server: Host,
}

impl World {
    pub(crate) fn new() -> Self {
        let world = Self { client: Host::new(), gateway: Host::new(), server: Host::new() };
        world.gateway.link("g0", &world.client, "c0", 1);
        world.gateway.link("g1", &world.server, "s0", 2);
        world.gateway.run(|| {
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("root");
            std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").expect("root");
        });
        for (host, net) in [(&world.client, 1), (&world.server, 2)] {
            host.run(move || {
                run("ip", &format!("route add default via 10.{net}.0.1"));
                run("ip", &format!("route add default via fd00:{net}::1"));
            });
        }
        world
    }

    /// The server's addresses.
    pub(crate) fn targets() -> [IpAddr; 2] {
        ["10.2.0.2".parse().expect("address"), "fd00:2::2".parse().expect("address")]
    }
}

/// A packet that a consumer saw.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Seen {
    pub(crate) queue: u16,
    pub(crate) mark: u32,
    /// IP version.
    pub(crate) version: u8,
    /// A TCP packet with SYN and without ACK.
    pub(crate) syn: bool,
    /// A TCP packet with SYN and ACK.
    pub(crate) syn_ack: bool,
    /// The kernel attached its conntrack entry.
    pub(crate) conntrack: bool,
}

/// The simplest firewall: a verdict by mark. Lives as long as the process.
#[derive(Clone)]
pub(crate) struct Consumer {
    /// Whether this kernel can attach conntrack's entry to a queued packet.
    pub(crate) attaches: bool,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Consumer {
    /// Starts on all six queues of [`spec`], in the namespace of the caller.
    /// `judge` gives the accepted packet's mark, or `None` to drop it.
    pub(crate) fn start(judge: fn(u32) -> Option<u32>) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let mut attaches = false;
        for number in QUEUE_BASE..QUEUE_BASE + 5 {
            let mut queue = nfq::Queue::open().expect("the kernel has NFQUEUE");
            queue.bind(number).expect("the queue is free");
            queue.set_copy_range(number, 256).expect("configured");
            attaches = queue.set_recv_conntrack(number, true).is_ok();
            let seen = Arc::clone(&seen);
            std::thread::spawn(move || {
                while let Ok(mut message) = queue.recv() {
                    let mark = message.get_nfmark();
                    seen.lock().expect("nobody panics here").push(look(&message));
                    match judge(mark) {
                        Some(mark) => {
                            message.set_nfmark(mark);
                            message.set_verdict(nfq::Verdict::Accept);
                        }
                        None => message.set_verdict(nfq::Verdict::Drop),
                    }
                    queue.verdict(message).expect("the kernel takes it");
                }
            });
        }
        Self { seen, attaches }
    }

    /// What halfgate's daemon does with every packet that it accepts.
    pub(crate) fn inspect(mark: u32) -> Option<u32> {
        Some(mark & !MARKS.mask() | MARKS.inspected())
    }

    /// The same, and what the kernel knows both ways proves its source.
    pub(crate) fn prove(mark: u32) -> Option<u32> {
        let proof = if mark & MARKS.known() == 0 { 0 } else { MARKS.proof() };
        Self::inspect(mark).map(|mark| mark | proof)
    }

    /// As [`Self::prove`], but what proves its source goes no further.
    pub(crate) fn prove_and_discard(mark: u32) -> Option<u32> {
        Self::prove(mark).map(|mark| if mark & MARKS.proof() == 0 { mark } else { mark | MARKS.discard() })
    }

    /// All packets since the last call.
    pub(crate) fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.seen.lock().expect("nobody panics here"))
    }
}

fn look(message: &nfq::Message) -> Seen {
    let bytes = message.get_payload();
    let version = bytes.first().map_or(0, |first| first >> 4);
    let (protocol, header) = if version == 4 { (bytes[9], 20) } else { (bytes[6], 40) };
    let flags = bytes.get(header + 13).filter(|_| protocol == 6).map_or(0, |flags| flags & 0x12);
    let (syn, syn_ack) = (flags == 0x02, flags == 0x12);
    Seen {
        queue: message.get_queue_num(),
        mark: message.get_nfmark(),
        version,
        syn,
        syn_ack,
        conntrack: message.get_conntrack().is_some(),
    }
}

/// Listens on a free port in the caller's namespace and echoes what comes, for
/// ever. The port.
pub(crate) fn echo_server() -> u16 {
    let listener = TcpListener::bind("[::]:0").expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut reader = stream.try_clone().expect("a socket");
                let _ = std::io::copy(&mut reader, &mut { stream });
            });
        }
    });
    port
}

/// Sends `length` octets to an echo server and reads them back.
pub(crate) fn echo(address: IpAddr, port: u16, length: usize) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::new(address, port), Duration::from_secs(10))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let sent: Vec<u8> = (0..length).map(|index| index as u8).collect();
    let mut writer = stream.try_clone()?;
    let copy = sent.clone();
    let writing = std::thread::spawn(move || writer.write_all(&copy));
    let mut received = vec![0; length];
    stream.read_exact(&mut received)?;
    writing.join().expect("it writes")?;
    assert!(sent == received, "the echo differs");
    Ok(())
}

/// Whether a connection is answered within `patience`.
pub(crate) fn connects(address: IpAddr, port: u16, patience: Duration) -> bool {
    TcpStream::connect_timeout(&SocketAddr::new(address, port), patience).is_ok()
}

/// A UDP socket in the caller's namespace that has to wait at most `patience`.
pub(crate) fn udp(patience: Duration) -> UdpSocket {
    let socket = UdpSocket::bind("[::]:0").expect("a free port");
    socket.set_read_timeout(Some(patience)).expect("not zero");
    socket
}
