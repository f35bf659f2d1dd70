//! Who attacks: packets as fast as a raw socket takes them, or connections as fast as
//! the kernel opens them.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::fd::AsRawFd as _,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clap::ValueEnum;
use halfgate::{
    sys::netns::Family,
    wire::{Flags, FourTuple, SegmentBuilder, SeqNum, build},
};
use socket2::{Domain, Protocol, Socket, Type};

use crate::ground::{Ground, HOLD, REAL, WEB};

/// Different packets of a flood; sent over and over.
const PACKETS: usize = 65_536;

/// Packets a system call.
const BATCH: usize = 64;

/// Connections that the attacker holds open.
const SOCKETS: usize = 8_000;

/// Threads that open them: one waits for an answer that does not come, others go on.
const HOLDERS: usize = 4;

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Attack {
    /// Nothing, for the figures of a quiet network
    Nothing,
    /// SYNs of sources that do not exist
    SpoofedSyns,
    /// SYNs of 1,000 hosts that exist, and answer by RST
    RealSyns,
    /// SYN-ACKs that nobody asked for
    SynAcks,
    /// ACKs without a connection
    Acks,
    /// RSTs without a connection
    Rsts,
    /// FINs without a connection
    Fins,
    /// Small datagrams to a port that no rule names
    Udp,
    /// Handshakes of 1,000 hosts that exist and never finish
    HalfOpen,
    /// Connections of which the attacker closes its half
    HalfClosed,
    /// Connections that are opened and left alone
    Idle,
}

impl Attack {
    pub(crate) const ALL: [Self; 11] = [
        Self::Nothing,
        Self::SpoofedSyns,
        Self::RealSyns,
        Self::SynAcks,
        Self::Acks,
        Self::Rsts,
        Self::Fins,
        Self::Udp,
        Self::HalfOpen,
        Self::HalfClosed,
        Self::Idle,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Nothing => "none",
            Self::SpoofedSyns => "spoofed SYNs",
            Self::RealSyns => "SYNs of 1,000 hosts",
            Self::SynAcks => "SYN-ACKs",
            Self::Acks => "ACKs",
            Self::Rsts => "RSTs",
            Self::Fins => "FINs",
            Self::Udp => "small UDP",
            Self::HalfOpen => "handshakes never finished",
            Self::HalfClosed => "half-closed held",
            Self::Idle => "idle held",
        }
    }

    /// Whether sources are addresses that the client's namespace has.
    const fn real(self) -> bool {
        matches!(self, Self::RealSyns | Self::HalfOpen)
    }

    fn packet(self, number: usize) -> Vec<u8> {
        // A hash, so that sources and ports come in no order.
        let n = (number as u32).wrapping_mul(0x9e37_79b9);
        let [a, b, c, d] = n.to_be_bytes();
        let src = if self.real() {
            Family::V4.forged(u16::from_be_bytes([a, b]) % REAL)
        } else {
            // Routed to the client's namespace, and nobody's.
            IpAddr::V4(Ipv4Addr::new(198, 18, a | 0x80, b))
        };
        let (src_port, dst) = (1024 | u16::from_be_bytes([c, d]), Family::V4.server());
        if self == Self::Udp {
            return build::udp(FourTuple { src, src_port, dst, dst_port: 5353 }, &[0; 22]).bytes;
        }
        let tuple = FourTuple { src, src_port, dst, dst_port: WEB };
        let ack = Flags::ACK;
        let flags = match self {
            Self::SynAcks => Flags::SYN.with(ack),
            Self::Acks => ack,
            Self::Rsts => Flags::RST,
            Self::Fins => Flags::FIN.with(ack),
            Self::Nothing
            | Self::SpoofedSyns
            | Self::RealSyns
            | Self::Udp
            | Self::HalfOpen
            | Self::HalfClosed
            | Self::Idle => Flags::SYN,
        };
        let mut builder = SegmentBuilder::new(tuple).seq(SeqNum(n)).window(64240);
        if flags.contains(ack) {
            builder = builder.ack(SeqNum(n ^ 0x5555_5555));
        }
        if flags == Flags::SYN {
            builder = builder.mss(1460).sack_permitted().timestamps(n, 0).window_scale(7);
        }
        builder.flags(flags).build().bytes
    }
}

pub(crate) struct Attacker {
    over: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Attacker {
    /// `hosts`: so many of those that exist hold connections.
    pub(crate) fn start(
        ground: &Ground,
        attack: Attack,
        rate: Option<u32>,
        hosts: u16,
    ) -> anyhow::Result<Self> {
        let (over, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut attacker = Self { over: Arc::clone(&over), sent: Arc::clone(&sent), threads: Vec::new() };
        if attack == Attack::HalfOpen {
            // The hosts do not say that they did not mean it.
            mute(ground)?;
        }
        let client = ground.three.client.clone();
        match attack {
            Attack::Nothing => {}
            Attack::HalfClosed | Attack::Idle => {
                let rate = rate.map(|rate| rate / HOLDERS as u32);
                for first in 0..HOLDERS {
                    let (client, over, sent) = (client.clone(), Arc::clone(&over), Arc::clone(&sent));
                    let holder = Holder { attack, hosts: hosts.clamp(1, REAL), first: first as u16, rate };
                    attacker.threads.push(std::thread::Builder::new().spawn(move || {
                        let _ = client.enter(|| holder.hold(&over, &sent));
                    })?);
                }
            }
            Attack::SpoofedSyns
            | Attack::RealSyns
            | Attack::SynAcks
            | Attack::Acks
            | Attack::Rsts
            | Attack::Fins
            | Attack::Udp
            | Attack::HalfOpen => {
                let packets: Vec<Vec<u8>> = (0..PACKETS).map(|number| attack.packet(number)).collect();
                let socket = client.enter(raw_socket)?.context("open a raw socket")?;
                attacker.threads.push(
                    std::thread::Builder::new()
                        .spawn(move || flood(&socket, &packets, rate, &over, &sent))?,
                );
            }
        }
        Ok(attacker)
    }

    /// How many packets or connections it was.
    pub(crate) fn stop(mut self) -> u64 {
        self.end();
        self.sent.load(Ordering::Relaxed)
    }

    fn end(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Attacker {
    fn drop(&mut self) {
        self.end();
    }
}

fn mute(ground: &Ground) -> anyhow::Result<()> {
    let rules = "table ip mute { chain out { type filter hook output priority 0; \
                 ip saddr 198.18.0.0/16 tcp flags & (rst | ack) != 0 drop\n}\n}";
    let status = ground.three.client.command("nft").arg(rules).status().context("run nft")?;
    anyhow::ensure!(status.success(), "nft: {status}");
    Ok(())
}

fn raw_socket() -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))?;
    socket.set_send_buffer_size(4 << 20)?;
    socket.connect(&SocketAddr::new(Family::V4.server(), 0).into())?;
    Ok(socket)
}

/// Holds the sender to a rate, if there is one.
struct Pace {
    start: Instant,
    rate: Option<u32>,
}

impl Pace {
    fn wait(&self, sent: u64) {
        let Some(rate) = self.rate else { return };
        let due = Duration::from_secs_f64(sent as f64 / f64::from(rate.max(1)));
        std::thread::sleep(due.saturating_sub(self.start.elapsed()));
    }
}

fn flood(socket: &Socket, packets: &[Vec<u8>], rate: Option<u32>, over: &AtomicBool, sent: &AtomicU64) {
    let mut parts: Vec<libc::iovec> = packets
        .iter()
        .map(|packet| libc::iovec { iov_base: packet.as_ptr().cast_mut().cast(), iov_len: packet.len() })
        .collect();
    let mut messages: Vec<libc::mmsghdr> = parts
        .iter_mut()
        .map(|part| {
            // SAFETY: all zeroes is a message header without a name, data and control.
            let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
            message.msg_hdr.msg_iov = part;
            message.msg_hdr.msg_iovlen = 1;
            message
        })
        .collect();
    let pace = Pace { start: Instant::now(), rate };
    // Held to a rate it sends evenly: each millisecond's at once.
    let at_once = rate.map_or(BATCH, |rate| (rate as usize / 1000).clamp(1, BATCH));
    'all: loop {
        for batch in messages.chunks_mut(at_once) {
            if over.load(Ordering::Relaxed) {
                break 'all;
            }
            // SAFETY: the headers point to `parts`, those to `packets`; both outlive the
            // call, which only reads them.
            let count =
                unsafe { libc::sendmmsg(socket.as_raw_fd(), batch.as_mut_ptr(), batch.len() as u32, 0) };
            // A full device queue drops some; they were not sent.
            let count = u64::try_from(count).unwrap_or(0);
            let total = sent.fetch_add(count, Ordering::Relaxed) + count;
            pace.wait(total);
        }
    }
}

/// Who opens connections and keeps them, one after another from each of its hosts.
struct Holder {
    attack: Attack,
    hosts: u16,
    first: u16,
    rate: Option<u32>,
}

impl Holder {
    /// Opens connections until it holds as many as it may, and then the oldest anew.
    fn hold(&self, over: &AtomicBool, sent: &AtomicU64) {
        let mut held = std::collections::VecDeque::new();
        let pace = Pace { start: Instant::now(), rate: self.rate };
        let mut number = self.first;
        let mut tried = 0;
        while !over.load(Ordering::Relaxed) {
            number = (number + 1) % self.hosts;
            if let Ok(socket) = self.open(number) {
                held.push_back(socket);
                sent.fetch_add(1, Ordering::Relaxed);
            }
            if held.len() > SOCKETS / HOLDERS {
                held.pop_front();
            }
            tried += 1;
            pace.wait(tried);
        }
    }

    fn open(&self, host: u16) -> io::Result<Socket> {
        let port = if self.attack == Attack::HalfClosed { HOLD } else { WEB };
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::new(Family::V4.forged(host), 0).into())?;
        let to = SocketAddr::new(Family::V4.server(), port);
        socket.connect_timeout(&to.into(), Duration::from_millis(500))?;
        if self.attack == Attack::HalfClosed {
            socket.shutdown(std::net::Shutdown::Write)?;
        }
        Ok(socket)
    }
}
