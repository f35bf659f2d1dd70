//! The namespaces, nginx, and what the kernel counts there.

use std::{
    collections::VecDeque,
    fs,
    net::{Shutdown, SocketAddr, TcpListener},
    process::Stdio,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use halfgate::sys::netns::{Family, Process, Three};

use crate::{
    peers::{self, Scratch},
    protector::Guard,
};

/// nginx answers here.
pub(crate) const WEB: u16 = 80;

/// Here somebody listens, accepts, and never says or ends anything while there is room.
pub(crate) const HOLD: u16 = 81;

/// Connections that nginx has room for.
const ROOM: u32 = 1024;

/// Connections that whoever holds them has room for: more than the attacker holds.
const HELD: usize = 8_500;

/// Addresses of hosts that exist: they answer what they did not ask for by RST.
pub(crate) const REAL: u16 = 1000;

/// Addresses that honest clients come from.
pub(crate) const HONEST: u8 = 32;

pub(crate) struct Ground {
    _nginx: Process,
    _hold: Hold,
    pub(crate) three: Three,
    pub(crate) scratch: Scratch,
}

/// The address of an honest client.
pub(crate) fn honest(number: u8) -> std::net::IpAddr {
    [203, 0, 113, 100 + number % HONEST].into()
}

impl Ground {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let three = Three::new()?;
        let scratch = Scratch::new("attack")?;
        let mut addresses: String =
            (0..HONEST).map(|number| format!("addr add {}/24 dev eth0\n", honest(number))).collect();
        for number in 0..REAL {
            addresses.push_str(&format!("addr add {}/32 dev lo\n", Family::V4.forged(number)));
        }
        three.client.ip_batch(&addresses)?;
        three.client.sysctls(&[("ipv4/ip_local_port_range", "1024 65535"), ("ipv4/tcp_tw_reuse", "1")])?;
        three.server.sysctls(&[("core/somaxconn", "4096"), ("ipv4/tcp_max_syn_backlog", "4096")])?;
        let mut nginx = peers::nginx(&three.server, &scratch.0, ROOM, 300)?;
        nginx.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let nginx = Process::start(&mut nginx).context("start nginx")?;
        let at = SocketAddr::new(Family::V4.server(), HOLD);
        let hold = Hold::start(three.server.enter(|| TcpListener::bind(at))??)?;
        let ground = Self { _nginx: nginx, _hold: hold, three, scratch };
        ground.wait_for_nginx()?;
        Ok(ground)
    }

    fn wait_for_nginx(&self) -> anyhow::Result<()> {
        let to = SocketAddr::new(Family::V4.server(), WEB);
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(10) {
            if self.three.server.enter(|| std::net::TcpStream::connect(to))?.is_ok() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        bail!(
            "nginx does not listen: {}",
            fs::read_to_string(self.scratch.0.join("error.log")).unwrap_or_default()
        )
    }
}

/// Accepts connections and keeps them; all of them are gone when it is dropped.
struct Hold {
    listener: socket2::Socket,
    thread: Option<JoinHandle<()>>,
}

impl Hold {
    fn start(listener: TcpListener) -> anyhow::Result<Self> {
        let ours = listener.try_clone()?.into();
        let thread = std::thread::Builder::new().spawn(move || {
            let mut held = VecDeque::new();
            while let Ok((stream, _)) = listener.accept() {
                held.push_back(stream);
                if held.len() > HELD {
                    held.pop_front();
                }
            }
        })?;
        Ok(Self { listener: ours, thread: Some(thread) })
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        // `accept` fails from now on.
        let _ = self.listener.shutdown(Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What was taken and used, since the start or between two looks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    /// Packets that came in at the gateway's outside.
    pub(crate) received: u64,
    /// Packets that a full queue or socket lost before they were judged.
    pub(crate) lost: u64,
    /// The protector's processor time.
    ticks: Option<u64>,
    /// The most memory that the protector had, in KiB.
    resident: Option<u64>,
    /// Entries in the kernel's own table, those included that a packet in a queue has.
    conntrack: u64,
}

impl Usage {
    pub(crate) fn read(ground: &Ground, guard: Option<&Guard>) -> anyhow::Result<Self> {
        let devices = ground.three.gateway.proc_net("dev")?;
        let outside = devices
            .lines()
            .find_map(|line| line.trim().strip_prefix("outside:"))
            .context("no interface `outside`")?;
        let received = outside.split_whitespace().nth(1).context("packets")?.parse()?;
        let queues = ground.three.gateway.proc_net("netfilter/nfnetlink_queue").unwrap_or_default();
        let lost = queues
            .lines()
            .flat_map(|line| line.split_whitespace().skip(5).take(2))
            .filter_map(|field| field.parse::<u64>().ok())
            .sum();
        let conntrack = entries(ground)?;
        let process = guard.and_then(Guard::id);
        Ok(Self {
            received,
            lost,
            ticks: process.map(ticks).transpose()?,
            resident: process.map(peak).transpose()?,
            conntrack,
        })
    }

    /// With the entries that are there when the queues have been emptied: those of packets
    /// that wait are in no table yet, but the kernel counts them.
    pub(crate) fn once_judged(self, ground: &Ground) -> anyhow::Result<Self> {
        let start = Instant::now();
        while waiting(ground) > 0 && start.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(Self { conntrack: entries(ground)?, ..self })
    }

    pub(crate) fn since(&self, before: &Self) -> Self {
        Self {
            received: self.received - before.received,
            lost: self.lost.saturating_sub(before.lost),
            ticks: self.ticks.zip(before.ticks).map(|(now, then)| now - then),
            ..*self
        }
    }

    /// `12 MiB; 3000 entries in conntrack`
    pub(crate) fn memory(&self) -> String {
        let own = self.resident.map(|kib| format!("{} MiB; ", kib / 1024)).unwrap_or_default();
        format!("{own}{} in conntrack", self.conntrack)
    }

    /// The share of one processor.
    pub(crate) fn cpu(&self, seconds: u64) -> String {
        // USER_HZ is 100 on every Linux of these days.
        self.ticks.map_or_else(|| "-".to_owned(), |ticks| format!("{} %", ticks / seconds))
    }
}

fn entries(ground: &Ground) -> anyhow::Result<u64> {
    let count =
        ground.three.gateway.enter(|| fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count"))?;
    Ok(count.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0))
}

/// Packets that wait in a queue for their verdict.
fn waiting(ground: &Ground) -> u64 {
    let queues = ground.three.gateway.proc_net("netfilter/nfnetlink_queue").unwrap_or_default();
    let column = queues.lines().filter_map(|line| line.split_whitespace().nth(2));
    column.filter_map(|field| field.parse::<u64>().ok()).sum()
}

fn ticks(process: u32) -> anyhow::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    let fields = stat.rsplit(") ").next().context("a name in brackets")?;
    let times = fields.split_whitespace().skip(11).take(2);
    Ok(times.filter_map(|field| field.parse::<u64>().ok()).sum())
}

fn peak(process: u32) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
