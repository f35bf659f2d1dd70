//! A gateway under test: three namespaces, the built binary, and ways to ask
//! all of them. Everything is gone when it is dropped, also by a panic, which
//! first prints what the firewall said.

use std::{
    fs,
    io::{self, Read as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    ops::{Add, Sub},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use halfgate::{
    conntrack::Instant,
    sys::{
        clock::Clock,
        netns::{Family, Namespace, Process, Tap, Three},
        raw::RawSender,
    },
    wire::{Flags, FourTuple, Packet, Segment, SeqNum, Transport, build},
};
use serde_json::Value;

/// The binary under test.
pub(crate) const HALFGATE: &str = env!("CARGO_BIN_EXE_halfgate");

/// How long anything may take that should happen at once, on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(10);

/// How much later than its timer an end may come, on a busy machine.
pub(crate) const LATE: Margin = Margin(Duration::from_millis(2500));

/// How much earlier: packets are older than the moment the test looked.
pub(crate) const EARLY: Margin = Margin(Duration::from_millis(400));

/// Set where a kernel must have this way of diversion: `nftables queue`.
pub(crate) const EXPECTED_DIVERSION: &str = "HALFGATE_EXPECT_DIVERSION";

/// Set where the machine is slow: how many seconds a second of the tests lasts, in
/// rule files as well as here.
pub(crate) const PACE: &str = "HALFGATE_TEST_PACE";

fn pace() -> u32 {
    static READ: OnceLock<u32> = OnceLock::new();
    *READ.get_or_init(|| {
        std::env::var(PACE).map_or(1, |text| text.parse().unwrap_or_else(|_| panic!("{PACE}={text}")))
    })
}

/// What a time may be off by, at the machine's pace.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Margin(Duration);

impl Add<Margin> for Duration {
    type Output = Self;

    fn add(self, margin: Margin) -> Self {
        self + margin.0 * pace()
    }
}

impl Sub<Margin> for Duration {
    type Output = Self;

    fn sub(self, margin: Margin) -> Self {
        self - margin.0 * pace()
    }
}

/// The kernel's number for SYN_RECV (include/net/tcp_states.h).
pub(crate) const SYN_RECV: u8 = 3;

/// The start of every rule file here; `rest` follows it. Without hooks of its
/// own it covers what is routed.
pub(crate) fn rules(rest: &str) -> String {
    let hooks = if rest.contains("hooks:") { "" } else { "hooks: [forward]\n" };
    let rest = paced(rest, pace());
    format!(
        "version: 1\n\
         zones:\n\
         \x20 outside: {{ interfaces: [outside] }}\n\
         \x20 inside: {{ interfaces: [inside] }}\n\
         default: drop\n\
         pickup: {{ mode: strict, grace: 1s }}\n\
         {hooks}{rest}\n"
    )
}

/// A rule file's whole seconds and minutes, at a machine's pace.
fn paced(rules: &str, pace: u32) -> String {
    let mut words = String::new();
    let mut rest = rules;
    while let Some(at) = rest.find(|letter: char| letter.is_ascii_digit()) {
        let number = &rest[at..];
        let end = number.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(number.len());
        let (digits, after) = number.split_at(end);
        words.push_str(&rest[..at]);
        let mut unit = after.chars();
        let is_time = matches!(unit.next(), Some('s' | 'm'))
            && unit.next().is_none_or(|letter| !letter.is_ascii_alphanumeric());
        if is_time {
            words.push_str(&(digits.parse::<u32>().expect("a short number") * pace).to_string());
        } else {
            words.push_str(digits);
        }
        rest = after;
    }
    words + rest
}

#[test]
fn only_times_have_a_pace() {
    let rules = "to: 10.0.0.1, service: tcp/80, timers: { established: 5m, half_closed: 2s }, total: 3\n12s";
    let slow = "to: 10.0.0.1, service: tcp/80, timers: { established: 20m, half_closed: 8s }, total: 3\n48s";
    assert_eq!(paced(rules, 4), slow);
    assert_eq!(paced(rules, 1), rules);
}

/// Seconds, at the machine's pace.
pub(crate) fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds) * pace()
}

/// A running firewall between a client and a server.
pub(crate) struct Gateway {
    pub(crate) three: Three,
    firewall: Option<Process>,
    directory: PathBuf,
    clock: Clock,
}

/// What a command of halfgate's said.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Gateway {
    /// Namespaces and files, no firewall yet.
    pub(crate) fn without_firewall(rules: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let three = Three::new().expect("three namespaces");
        let directory = std::env::temp_dir().join(format!("halfgate-test-{}-{number}", std::process::id()));
        fs::create_dir(&directory).expect("a directory of its own");
        let gateway = Self { three, firewall: None, directory, clock: Clock::start() };
        fs::write(gateway.rules_file(), rules).expect("the rule file");
        gateway
    }

    /// Starts a firewall with these rules and waits until it answers.
    pub(crate) fn start(rules: &str) -> Self {
        let mut gateway = Self::without_firewall(rules);
        gateway.start_firewall();
        gateway
    }

    /// Starts the firewall (again) and waits until it answers.
    pub(crate) fn start_firewall(&mut self) {
        let command = self.three.gateway.command(HALFGATE);
        self.start_by(command);
    }

    /// The same, in this control group from its first moment on.
    pub(crate) fn start_firewall_in(&mut self, group: &Path) {
        let mut command = self.three.gateway.command("sh");
        command.args(["-c", "echo $$ >\"$0/cgroup.procs\" && exec \"$@\""]).arg(group).arg(HALFGATE);
        self.start_by(command);
    }

    fn start_by(&mut self, mut command: Command) {
        command.arg("--socket").arg(self.socket()).arg("run").arg(self.rules_file());
        command.arg("--state-dir").arg(&self.directory);
        let log = fs::File::options().create(true).append(true).open(self.log_file()).expect("the log file");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.firewall = Some(Process::start(&mut command).expect("start halfgate"));
        let start = self.now();
        loop {
            if let Some(status) = self.firewall().ended().unwrap() {
                panic!("halfgate ended at its start: {status}");
            }
            let status = self.cli(&["status", "--json"]);
            if status.code == 0 {
                if let Ok(expected) = std::env::var(EXPECTED_DIVERSION) {
                    assert!(status.out.contains(&format!("\"diversion\":\"{expected}\"")), "{}", status.out);
                }
                return;
            }
            assert!(self.since(start) < s(10), "halfgate does not answer");
            thread::sleep(Duration::from_millis(50));
        }
    }

    pub(crate) fn firewall(&mut self) -> &mut Process {
        self.firewall.as_mut().expect("the firewall was started")
    }

    pub(crate) fn directory(&self) -> &PathBuf {
        &self.directory
    }

    pub(crate) fn rules_file(&self) -> PathBuf {
        self.directory.join("rules.yaml")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.join("control.sock")
    }

    fn log_file(&self) -> PathBuf {
        self.directory.join("log")
    }

    /// What the firewall wrote so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    pub(crate) fn now(&self) -> Instant {
        self.clock.now()
    }

    pub(crate) fn since(&self, start: Instant) -> Duration {
        self.clock.now().since(start)
    }

    /// A command of halfgate's, in the gateway.
    pub(crate) fn cli(&self, arguments: &[&str]) -> Done {
        let mut command = self.three.gateway.command(HALFGATE);
        command.arg("--socket").arg(self.socket()).args(arguments);
        run(&mut command)
    }

    /// One that must succeed.
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let done = self.cli(arguments);
        assert_eq!(done.code, 0, "halfgate {arguments:?}: {done:?}");
        done.out
    }

    /// One that must succeed and prints objects.
    pub(crate) fn json(&self, arguments: &[&str]) -> Vec<Value> {
        let out = self.ok(&[arguments, &["--json"]].concat());
        let object =
            |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        out.lines().map(object).collect()
    }

    /// The connections that match.
    pub(crate) fn connections(&self, filter: &[&str]) -> Vec<Value> {
        self.json(&[&["connections"], filter].concat())
    }

    /// The connection that was opened from this address.
    pub(crate) fn connection(&self, from: SocketAddr) -> Option<Value> {
        let port = format!("sport={}", from.port());
        let address = from.ip().to_string();
        self.connections(&[&port]).into_iter().find(|row| row["src"] == address.as_str())
    }

    pub(crate) fn phase(&self, from: SocketAddr) -> Option<String> {
        self.connection(from).map(|row| row["phase"].as_str().expect("a phase").to_owned())
    }

    /// Waits until the connection is in this phase.
    pub(crate) fn wait_phase(&self, from: SocketAddr, phase: &str) {
        let mut last = None;
        self.eventually(&format!("{from} is {phase}"), SOON, || {
            last = self.phase(from);
            last.as_deref() == Some(phase)
        });
    }

    /// Waits until the connection is gone; how long after `start` that was.
    pub(crate) fn wait_gone(&self, from: SocketAddr, start: Instant, within: Duration) -> Duration {
        self.eventually(&format!("{from} is gone"), within, || self.phase(from).is_none());
        self.since(start)
    }

    /// Waits until `condition` holds.
    #[track_caller]
    pub(crate) fn eventually(&self, what: &str, within: Duration, mut condition: impl FnMut() -> bool) {
        let start = self.now();
        while !condition() {
            assert!(self.since(start) < within, "not within {within:?}: {what}");
            thread::sleep(Duration::from_millis(25));
        }
    }

    /// Looks that `condition` holds all the time.
    #[track_caller]
    pub(crate) fn always(&self, what: &str, during: Duration, mut condition: impl FnMut() -> bool) {
        let start = self.now();
        while self.since(start) < during {
            assert!(condition(), "not any more after {:?}: {what}", self.since(start));
            thread::sleep(Duration::from_millis(25));
        }
    }

    /// Waits until `condition` holds and goes on holding for `during`: what is still
    /// on its way may make it hold for a moment.
    #[track_caller]
    pub(crate) fn settles(&self, what: &str, during: Duration, mut condition: impl FnMut() -> bool) {
        let start = self.now();
        let mut since = None;
        loop {
            let now = self.now();
            since = condition().then(|| since.unwrap_or(now));
            if since.is_some_and(|since| now.since(since) >= during) {
                return;
            }
            assert!(self.since(start) < SOON + during, "does not settle within {SOON:?}: {what}");
            thread::sleep(Duration::from_millis(25));
        }
    }

    /// How many packets were dropped for this reason.
    pub(crate) fn drops(&self, reason: &str) -> u64 {
        let status = self.json(&["status"]);
        let reasons = status[0]["drop_reasons"].as_array().expect("drop reasons");
        reasons.iter().find(|row| row["name"] == reason).map_or(0, |row| row["count"].as_u64().unwrap())
    }

    /// Why the connection from this address ended, once an event says so.
    pub(crate) fn close_reason(&self, from: SocketAddr) -> String {
        let mut reason = String::new();
        self.eventually(&format!("an event tells why {from} ended"), SOON, || {
            let events = self.json(&["events"]);
            let closed = events.iter().rev().find(|event| {
                event["event"] == "closed"
                    && event["sport"] == from.port()
                    && event["src"] == from.ip().to_string().as_str()
            });
            closed.inspect(|event| reason = event["close_reason"].as_str().unwrap_or("").to_owned()).is_some()
        });
        reason
    }

    /// A listener on the server.
    pub(crate) fn listen(&self, family: Family, port: u16) -> TcpListener {
        listen(&self.three.server, SocketAddr::new(family.server(), port))
    }

    /// A connection from the client to the server.
    #[track_caller]
    pub(crate) fn connect(&self, family: Family, port: u16) -> TcpStream {
        self.try_connect(family, port, SOON).expect("connect")
    }

    pub(crate) fn try_connect(&self, family: Family, port: u16, timeout: Duration) -> io::Result<TcpStream> {
        connect(&self.three.client, SocketAddr::new(family.server(), port), timeout)
    }

    /// Both ends of a connection from the client to the server.
    #[track_caller]
    pub(crate) fn pair(&self, family: Family, port: u16) -> (TcpStream, TcpStream) {
        let listener = self.listen(family, port);
        let client = self.connect(family, port);
        (client, accept(&listener).0)
    }

    pub(crate) fn client_tap(&self) -> Tap {
        Tap::open(&self.three.client).expect("a tap on the client")
    }

    pub(crate) fn server_tap(&self) -> Tap {
        Tap::open(&self.three.server).expect("a tap on the server")
    }

    /// Sends packets with forged sources from the client's namespace.
    pub(crate) fn forger(&self) -> Forger {
        let raw = self.three.client.enter(|| RawSender::open(0)).unwrap().expect("a raw socket");
        Forger { raw }
    }

    /// The server's half-open sockets on a port.
    pub(crate) fn backlog(&self, port: u16) -> usize {
        self.three.server.tcp_sockets(SYN_RECV, port).unwrap()
    }

    /// A tool in the gateway's namespace; its output.
    pub(crate) fn tool(&self, program: &str, arguments: &[&str], input: &str) -> String {
        use io::Write as _;
        let mut command = self.three.gateway.command(program);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{program}: {error}"));
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{program} {arguments:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    /// Everything of halfgate's in the gateway's kernel: nft and xtables.
    pub(crate) fn kernel_rules(&self) -> String {
        let tables = self.tool("nft", &["list", "tables"], "");
        let mut found: Vec<String> =
            tables.lines().filter(|line| line.contains("halfgate")).map(str::to_owned).collect();
        // Where nftables must do, there may be no iptables at all.
        let xtables = std::env::var_os(EXPECTED_DIVERSION).is_none();
        for save in ["iptables-save", "ip6tables-save"].into_iter().filter(|_| xtables) {
            let rules = self.tool(save, &["-t", "mangle"], "");
            let ours = |line: &&str| line.contains("NFQUEUE") || line.to_lowercase().contains("halfgate");
            found.extend(rules.lines().filter(ours).map(|line| format!("{save}: {line}")));
        }
        found.join("\n")
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if thread::panicking() {
            let connections = self.cli(&["connections"]);
            eprintln!(
                "--- halfgate said:\n{}--- its connections:\n{}{}",
                self.log(),
                connections.out,
                connections.err
            );
        }
        drop(self.firewall.take());
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Sends packets with sources of its choice.
pub(crate) struct Forger {
    pub(crate) raw: RawSender,
}

impl Forger {
    /// One packet from a forged source to the server.
    pub(crate) fn send(&self, from: SocketAddr, to: SocketAddr, seq: u32, ack: Option<u32>, flags: Flags) {
        let tuple = FourTuple { src: from.ip(), src_port: from.port(), dst: to.ip(), dst_port: to.port() };
        self.raw.send(&build::tcp(tuple, SeqNum(seq), ack.map(SeqNum), flags, 64240)).expect("send");
    }

    /// A SYN of the forged source with this number and port; who that was.
    pub(crate) fn syn(&self, family: Family, source: u16, port: u16, to_port: u16) -> SocketAddr {
        let from = SocketAddr::new(family.forged(source), port);
        self.send(from, SocketAddr::new(family.server(), to_port), 1000, None, Flags::SYN);
        from
    }
}

/// Runs a command to its end.
pub(crate) fn run(command: &mut Command) -> Done {
    let output = command.stdin(Stdio::null()).output().expect("run a command");
    Done {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).expect("UTF-8"),
        err: String::from_utf8(output.stderr).expect("UTF-8"),
    }
}

/// A listener. The last one on that port may be open yet in a process that another
/// test has started, until that process execs.
#[track_caller]
pub(crate) fn listen(at: &Namespace, address: SocketAddr) -> TcpListener {
    let clock = Clock::start();
    loop {
        match at.enter(|| TcpListener::bind(address)).unwrap() {
            Err(error)
                if error.kind() == io::ErrorKind::AddrInUse && clock.now().since(Instant(0)) < SOON =>
            {
                thread::sleep(Duration::from_millis(10));
            }
            listener => return listener.expect("listen"),
        }
    }
}

pub(crate) fn connect(from: &Namespace, to: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
    from.enter(|| TcpStream::connect_timeout(&to, timeout)).unwrap()
}

/// Accepts within [`SOON`]; the stream's reads don't wait forever either.
#[track_caller]
pub(crate) fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    let clock = Clock::start();
    listener.set_nonblocking(true).unwrap();
    loop {
        match listener.accept() {
            Ok((stream, from)) => {
                stream.set_nonblocking(false).unwrap();
                stream.set_read_timeout(Some(s(20))).unwrap();
                return (stream, from);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                assert!(clock.now().since(Instant(0)) < SOON, "nobody connects");
                thread::sleep(Duration::from_millis(10));
            }
            Err(error) => panic!("accept: {error}"),
        }
    }
}

pub(crate) fn udp(at: &Namespace, address: SocketAddr) -> UdpSocket {
    let socket = at.enter(|| UdpSocket::bind(address)).unwrap().expect("bind");
    socket.set_read_timeout(Some(SOON)).unwrap();
    socket
}

/// Waits until a RST ended this end; how it was told.
#[track_caller]
pub(crate) fn wait_reset(stream: &TcpStream, within: Duration) {
    let clock = Clock::start();
    stream.set_nonblocking(true).unwrap();
    loop {
        // After a FIN has been read, only the socket's error tells.
        let told = stream.take_error().unwrap().or_else(|| (&mut &*stream).read(&mut [0; 4096]).err());
        match told {
            Some(error)
                if [io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe].contains(&error.kind()) =>
            {
                return;
            }
            Some(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // A soft error (RFC 1122 §4.2.3.9): something could not be delivered.
            Some(error) if error.kind() == io::ErrorKind::HostUnreachable => {}
            Some(error) => panic!("not a reset: {error}"),
            None => {}
        }
        assert!(clock.now().since(Instant(0)) < within, "no RST within {within:?}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// The TCP segment in a packet.
pub(crate) fn segment(packet: &Packet<'_>) -> Option<Segment> {
    if let Transport::Tcp(segment) = packet.transport { Some(segment) } else { None }
}

/// Says something one way and hears it on the other end.
#[track_caller]
pub(crate) fn say(mut from: &TcpStream, mut to: &TcpStream, text: &str) {
    use io::Write as _;
    from.write_all(text.as_bytes()).expect("send");
    let mut heard = vec![0; text.len()];
    to.read_exact(&mut heard).expect("hear");
    assert_eq!(heard, text.as_bytes());
}
