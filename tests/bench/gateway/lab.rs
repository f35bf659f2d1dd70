//! A network of its own for each way to protect it: client, gateway, server, and what
//! stands in the gateway.

use std::{
    fs,
    net::{IpAddr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use halfgate::{
    policy::Settings,
    sys::netns::{Family, Namespace, Process, Three},
};

use crate::peers::{self, Scratch};

/// nginx listens here.
pub(crate) const WEB: u16 = 80;

/// iperf3 listens here.
pub(crate) const STREAM: u16 = 5201;

/// Nobody answers here.
pub(crate) const DISCARD: u16 = 9;

/// What a test's traffic goes through.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    /// No rules at all
    Plain,
    /// nftables with conntrack, no queue
    Conntrack,
    /// A queue whose consumer accepts everything, one packet a system call
    Floor,
    /// halfgate as it comes: live connections pass in the kernel
    Fast,
    /// halfgate, every packet through the queue
    Full,
    /// The same, with one worker
    OneWorker,
    /// The same, with two workers
    TwoWorkers,
    /// halfgate, every packet through the queue, with room for more than a million connections
    Large,
    /// halfgate's chains, and the floor, many packets a system call, on all of its queues
    Chains,
    /// The floor, many packets a system call, on one queue
    Many,
    /// nftables with conntrack, and the floor, many packets a system call, on one queue
    Tracked,
    /// nftables with conntrack, and the floor, many packets a system call, a queue for each
    /// processor
    Queues,
    /// The same, but only what opens and ends connections comes to it: SYN, FIN, RST
    Ends,
    /// Suricata as it comes, without signatures
    Suricata,
    /// The same, its logs of events off
    SilentSuricata,
}

/// The programs that are measured.
#[derive(Debug)]
pub(crate) struct Programs {
    pub(crate) halfgate: PathBuf,
    pub(crate) floor: PathBuf,
}

impl Programs {
    /// Compiles the floor that the tree carries, unless another is named.
    pub(crate) fn find(halfgate: &Path, floor: Option<&Path>, scratch: &Path) -> anyhow::Result<Self> {
        let halfgate =
            fs::canonicalize(halfgate).context("find halfgate; build it with `cargo build --release`")?;
        let floor = match floor {
            Some(path) => fs::canonicalize(path).with_context(|| format!("find {}", path.display()))?,
            None => own_floor(scratch)?,
        };
        Ok(Self { halfgate, floor })
    }
}

/// The floor that the tree carries, compiled.
fn own_floor(scratch: &Path) -> anyhow::Result<PathBuf> {
    let floor = scratch.join("floor");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bench/floor.c");
    let status = Command::new("cc").args(["-O2", "-o"]).arg(&floor).arg(source).status().context("run cc")?;
    ensure!(status.success(), "cc: {status}");
    Ok(floor)
}

/// What halfgate has the kernel copy of each packet.
const RANGE: &str = "256";

/// Packets a system call that halfgate takes.
const MANY: &str = "32";

const CONNTRACK: &str = "table inet peer { chain forward { type filter hook forward priority 0; policy drop;\n\
    ct state established,related accept\n\
    ct state invalid drop\n\
    iifname \"outside\" tcp dport { 80, 5201 } ct state new accept\n\
    iifname \"outside\" udp dport 5201 ct state new accept\n\
    }\n}\n";

/// halfgate's rule file, with this kind of inspection and these lines more.
pub(crate) fn rules(inspect: &str, more: &str) -> String {
    format!(
        "version: 1\n{more}\
         zones: {{ outside: {{ interfaces: [outside] }}, inside: {{ interfaces: [inside] }} }}\n\
         hooks: [forward]\n\
         rules:\n\
         \x20 - {{ name: all, from: outside, service: [tcp/80, tcp/{STREAM}, udp/{STREAM}, udp/{DISCARD}], \
         action: accept, inspect: {inspect} }}\n"
    )
}

/// How hosts find out how much the path takes, where nobody has chosen another way.
const LINUX_DEFAULT: &str = "cubic";

/// A network with something in its gateway; gone when dropped.
#[derive(Debug)]
pub(crate) struct Lab {
    // In this order: processes end before the networks that they are in.
    servers: Vec<Process>,
    guards: Vec<Process>,
    pub(crate) three: Three,
    scratch: Scratch,
}

impl Lab {
    pub(crate) fn new(way: Way, programs: &Programs) -> anyhow::Result<Self> {
        let mut lab = Self {
            servers: Vec::new(),
            guards: Vec::new(),
            three: Three::new()?,
            scratch: Scratch::new("bench")?,
        };
        // A new namespace has the machine's, which may be another: by BBR rates are what the
        // senders' models of the path make of the first packets.
        for host in [&lab.three.client, &lab.three.server] {
            host.sysctls(&[("ipv4/tcp_congestion_control", LINUX_DEFAULT)])?;
        }
        match way {
            Way::Plain => {}
            Way::Conntrack => lab.tool("nft", &[CONNTRACK])?,
            Way::Floor => lab.start_floor(&programs.floor, "1")?,
            Way::Many => lab.start_floor(&programs.floor, MANY)?,
            Way::Tracked => {
                lab.tool("nft", &[CONNTRACK])?;
                lab.start_floor(&programs.floor, MANY)?;
            }
            Way::Queues => lab.start_floors(&programs.floor, &[])?,
            Way::Ends => lab.start_floors(&programs.floor, &["!", "--tcp-flags", "SYN,FIN,RST", "NONE"])?,
            Way::Chains => lab.start_floor_behind(programs)?,
            Way::Suricata => lab.start_suricata(&[])?,
            Way::SilentSuricata => lab.start_suricata(&peers::WITHOUT_LOGS)?,
            Way::Fast => lab.start_halfgate(&programs.halfgate, &rules("lifecycle", ""))?,
            Way::Full => lab.start_halfgate(&programs.halfgate, &rules("full", ""))?,
            Way::OneWorker => {
                lab.start_halfgate(&programs.halfgate, &rules("full", "queues: { count: 1 }\n"))?
            }
            Way::TwoWorkers => {
                lab.start_halfgate(&programs.halfgate, &rules("full", "queues: { count: 2 }\n"))?
            }
            Way::Large => {
                lab.start_halfgate(&programs.halfgate, &rules("full", "max_connections: 1500000\n"))?;
            }
        }
        Ok(lab)
    }

    /// halfgate's control socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.scratch.0.join("control.sock")
    }

    /// A tool in the gateway that must succeed.
    pub(crate) fn tool(&self, program: &str, arguments: &[&str]) -> anyhow::Result<()> {
        let status = self.three.gateway.command(program).args(arguments).status();
        let status = status.with_context(|| format!("run {program}"))?;
        ensure!(status.success(), "{program} {arguments:?}: {status}");
        Ok(())
    }

    fn start_halfgate(&mut self, program: &Path, rules: &str) -> anyhow::Result<()> {
        let file = self.scratch.0.join("rules.yaml");
        fs::write(&file, rules)?;
        let mut command = self.three.gateway.command(program);
        command.arg("--socket").arg(self.socket()).arg("run").arg(&file);
        command.arg("--state-dir").arg(&self.scratch.0);
        self.start_guard(&mut command)?;
        self.wait("halfgate", |lab| lab.log().contains("ready:"))
    }

    fn start_floor(&mut self, program: &Path, batch: &str) -> anyhow::Result<()> {
        let mut command = self.three.gateway.command(program);
        command.args(["0", "--range", RANGE, "--batch", batch]);
        self.start_guard(&mut command)?;
        self.wait("the floor", |lab| lab.queues() == 1)?;
        self.tool("iptables-nft", &["-t", "mangle", "-A", "FORWARD", "-j", "NFQUEUE", "--queue-num", "0"])
    }

    /// A floor for each processor's queue, to which these segments come.
    fn start_floors(&mut self, program: &Path, which: &[&str]) -> anyhow::Result<()> {
        self.tool("nft", &[CONNTRACK])?;
        let queues = std::thread::available_parallelism()?.get();
        for queue in 0..queues {
            // Like halfgate's workers of known connections: who never runs as soon as one packet
            // has come takes more of them at once.
            let mut command = self.three.gateway.command("chrt");
            command.args(["--batch", "0"]).arg(program);
            command.args([&queue.to_string(), "--range", RANGE, "--batch", MANY]);
            self.start_guard(&mut command)?;
        }
        self.wait("the floor", |lab| lab.queues() == queues)?;
        let balance = format!("0:{}", queues.saturating_sub(1));
        let to_queues = ["-j", "NFQUEUE", "--queue-balance", &balance];
        self.tool(
            "iptables-nft",
            &[&["-t", "mangle", "-A", "FORWARD", "-p", "tcp"], which, &to_queues].concat(),
        )
    }

    /// halfgate leaves its chains behind, and the floor takes its place.
    fn start_floor_behind(&mut self, programs: &Programs) -> anyhow::Result<()> {
        self.start_halfgate(&programs.halfgate, &rules("full", ""))?;
        let queues = self.queues();
        let chains = self.listing("nft", &["-s", "list", "table", "inet", "halfgate"])?;
        let diverted = self.listing("iptables-save", &["-t", "mangle"])?;
        self.guards.clear();
        self.wait("the queues' end", |lab| lab.queues() == 0)?;
        let inspected = Settings::default().marks.inspected().to_string();
        for queue in 0..queues {
            let mut command = self.three.gateway.command(&programs.floor);
            command.args([&queue.to_string(), "--range", RANGE, "--batch", MANY, "--mark", &inspected]);
            self.start_guard(&mut command)?;
        }
        self.wait("the floor", |lab| lab.queues() == queues)?;
        // As halfgate sets it while it runs.
        self.three.gateway.sysctls(&[("netfilter/nf_conntrack_acct", "1")])?;
        for (text, program, arguments) in
            [(chains, "nft", &["-f"][..]), (diverted, "iptables-restore", &["--noflush"])]
        {
            let file = self.scratch.0.join("loaded");
            fs::write(&file, text)?;
            let file = file.to_str().context("a path in UTF-8")?;
            self.tool(program, &[arguments, &[file]].concat())?;
        }
        Ok(())
    }

    fn listing(&self, program: &str, arguments: &[&str]) -> anyhow::Result<String> {
        let output = self.three.gateway.command(program).args(arguments).output();
        let output = output.with_context(|| format!("run {program}"))?;
        ensure!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }

    fn start_suricata(&mut self, more: &[&str]) -> anyhow::Result<()> {
        let mut command = peers::suricata(&self.three.gateway, &self.scratch.0)?;
        command.args(more);
        // It keeps 4 KiB of each connection for a minute behind its end, and where the 256 MiB that
        // it takes by itself are used up, it drops what comes: after 65,000.
        command.args(["--set", "stream.reassembly.memcap=4gb", "--set", "flow.memcap=1gb"]);
        self.start_guard(&mut command)?;
        self.wait("suricata", |lab| lab.log().contains("ngine started"))?;
        self.tool("iptables-nft", &peers::TO_SURICATA)
    }

    fn start_guard(&mut self, command: &mut Command) -> anyhow::Result<()> {
        let log = fs::File::create(self.scratch.0.join("log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.guards.push(Process::start(command).with_context(|| format!("start {command:?}"))?);
        Ok(())
    }

    fn log(&self) -> String {
        fs::read_to_string(self.scratch.0.join("log")).unwrap_or_default()
    }

    /// How many queues somebody serves.
    fn queues(&self) -> usize {
        let queues = self.three.gateway.proc_net("netfilter/nfnetlink_queue");
        queues.map_or(0, |queues| queues.lines().count())
    }

    /// How many packets have reached those who judge them.
    pub(crate) fn taken(&self) -> anyhow::Result<u64> {
        let queues = self.three.gateway.proc_net("netfilter/nfnetlink_queue")?;
        // Waiting, lost by the socket, and all that have got a number.
        let taken = |line: &str| {
            let fields: Vec<u64> = line.split_whitespace().filter_map(|field| field.parse().ok()).collect();
            let [_, _, waiting, _, _, _, lost, numbered, ..] = fields[..] else { return None };
            Some(numbered.saturating_sub(waiting + lost))
        };
        queues.lines().map(taken).sum::<Option<u64>>().context("nfnetlink_queue: not as expected")
    }

    /// Processor time of those who judge, so far.
    pub(crate) fn guards_busy(&self) -> anyhow::Result<Duration> {
        let mut ticks = 0;
        for guard in &self.guards {
            let stat = fs::read_to_string(format!("/proc/{}/stat", guard.id()))?;
            let fields = stat.rsplit(") ").next().context("a name in brackets")?;
            let times = fields.split_whitespace().skip(11).take(2);
            ticks += times.filter_map(|field| field.parse::<u64>().ok()).sum::<u64>();
        }
        // USER_HZ is 100 on every Linux of these days.
        Ok(Duration::from_millis(ticks * 10))
    }

    /// Has each of the hosts handle what comes in on a processor of its own, whichever sent it, as
    /// if they were machines of their own. What they send is their programs' business.
    pub(crate) fn part_hosts(&self, [client, server]: [u16; 2]) -> anyhow::Result<()> {
        for (host, cpu) in [(&self.three.client, client), (&self.three.server, server)] {
            // `ip netns exec` shows the namespace's own /sys.
            let mask = 1_u32.checked_shl(cpu.into()).context("a processor's number is above 31")?;
            let steer = format!("echo {mask:x} >/sys/class/net/eth0/queues/rx-0/rps_cpus");
            let mut command = Command::new("ip");
            command.args(["netns", "exec", host.name(), "sh", "-c", &steer]);
            let status = command.status().with_context(|| format!("run {command:?}"))?;
            ensure!(status.success(), "{command:?}: {status}");
        }
        Ok(())
    }

    /// A folder for what belongs to this network.
    pub(crate) fn folder(&self) -> &Path {
        &self.scratch.0
    }

    /// Waits until what stands in the gateway is in place.
    fn wait(&mut self, what: &str, ready: impl Fn(&Self) -> bool) -> anyhow::Result<()> {
        let start = Instant::now();
        while !ready(self) {
            for guard in &mut self.guards {
                if let Some(status) = guard.ended()? {
                    bail!("{what} ended ({status}):\n{}", self.log());
                }
            }
            ensure!(start.elapsed() < Duration::from_secs(60), "{what} is not ready:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Starts a server and waits until it listens.
    pub(crate) fn serve(&mut self, program: &str, arguments: &[&str], port: u16) -> anyhow::Result<()> {
        let mut command = self.three.server.command(program);
        command.args(arguments);
        self.serve_by(command, port)
    }

    /// As [`Lab::serve`], by this command.
    pub(crate) fn serve_by(&mut self, mut command: Command, port: u16) -> anyhow::Result<()> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.servers.push(Process::start(&mut command).with_context(|| format!("start {command:?}"))?);
        let start = Instant::now();
        let to = SocketAddr::new(server(), port);
        while self.three.server.enter(|| TcpStream::connect(to))?.is_err() {
            ensure!(start.elapsed() < Duration::from_secs(10), "{command:?} does not listen on port {port}");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

pub(crate) fn server() -> IpAddr {
    Family::V4.server()
}

/// A counter of `/proc/net/snmp` or `/proc/net/netstat`: `Tcp: RetransSegs`.
pub(crate) fn counter(space: &Namespace, file: &str, section: &str, name: &str) -> anyhow::Result<u64> {
    let text = space.proc_net(file)?;
    let mut lines = text.lines().filter(|line| line.split(':').next() == Some(section));
    let (names, values) = lines.next().zip(lines.next()).with_context(|| format!("{file}: no {section}"))?;
    let at = names.split_whitespace().position(|word| word == name);
    let value = at.and_then(|at| values.split_whitespace().nth(at));
    Ok(value.with_context(|| format!("{file}: no {section} {name}"))?.parse()?)
}

/// What has come in at an interface: octets and packets.
pub(crate) fn received(space: &Namespace, interface: &str) -> anyhow::Result<(u64, u64)> {
    let devices = space.proc_net("dev")?;
    let line = devices.lines().find_map(|line| line.trim().strip_prefix(interface)?.strip_prefix(':'));
    let line = line.with_context(|| format!("no interface {interface}"))?;
    let mut fields = line.split_whitespace().map(str::parse::<u64>);
    let mut next = || fields.next().context("a number")?.context("a number");
    Ok((next()?, next()?))
}

/// Processor time of the whole machine so far, idle and stolen left out.
pub(crate) fn busy() -> anyhow::Result<Duration> {
    let stat = fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().context("/proc/stat is empty")?;
    let fields: Vec<u64> = line.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    let [user, nice, system, _idle, _iowait, irq, softirq, ..] = fields[..] else {
        bail!("/proc/stat: {line}");
    };
    // USER_HZ is 100 on every Linux of these days.
    Ok(Duration::from_millis((user + nice + system + irq + softirq) * 10))
}
