//! Plays packet scripts: on one side of the gateway the kernel's own TCP, driven
//! by socket calls, on the other a peer that says what the script says and has no
//! stack of its own. A script reads like a trace, one step a line:
//!
//! ```text
//! peer   S 0 mss=1400            the peer sends this, and it arrives
//! peer   R 9000 dropped=bad_rst  the peer sends this, and it does not arrive
//! kernel S. 0 ack=1              the kernel sends this, and it arrives
//! app    accept                  a socket call, or what one must tell
//! phase  established             what the firewall says of the connection
//! closed rst from client         what it says of its end
//! ```
//!
//! Numbers are relative to each end's first SYN, `SEQ+LEN` has data; flags are S F R
//! P U and `.` for ACK (the kernel's P is not compared). Nothing waits for time:
//! what arrives is looked for on the wire, and what must not arrive is counted by
//! the firewall and has not come when the next packet does.
#![allow(unsafe_code)]

use std::{
    collections::VecDeque,
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    time::Duration,
};

use halfgate::{
    sys::{
        netns::{Family, Namespace, Tap},
        raw::RawSender,
    },
    wire::{self, Checksums, Flags, FourTuple, Packet, Segment, SegmentBuilder, SeqNum},
};

use crate::harness::{Gateway, SOON, accept, segment};

/// Where the peer begins to count: its numbers soon pass 2^31.
const PEER_ISS: SeqNum = SeqNum(0x7fff_ff00);

/// Ports that a script may need, each for one connection.
const PORTS: u16 = 4;

/// Which side of the gateway the kernel plays.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kernel {
    Client,
    Server,
}

/// What is played.
pub(crate) struct Script {
    pub(crate) name: &'static str,
    pub(crate) kernel: Kernel,
    /// Steps that many scripts begin with.
    pub(crate) before: &'static str,
    pub(crate) steps: &'static str,
}

/// A script and its surroundings.
pub(crate) struct Player<'g> {
    gateway: &'g Gateway,
    kernel: Kernel,
    /// The kernel's wire and the peer's.
    taps: [Tap; 2],
    raw: RawSender,
    peer: SocketAddr,
    /// Where the kernel is; its port is known with its first segment.
    own: SocketAddr,
    kernel_iss: Option<SeqNum>,
    listener: Option<TcpListener>,
    socket: Option<TcpStream>,
    /// What the peer sent that must not arrive.
    dropped: Vec<Segment>,
    /// What the kernel has sent, to know it when it comes again.
    heard: Vec<Segment>,
    cookie: Vec<u8>,
    step: String,
}

/// Plays every script, each with ports of its own.
pub(crate) fn play(gateway: &Gateway, family: Family, scripts: &[Script]) {
    for (number, script) in (0_u16..).zip(scripts) {
        let mut player = Player::new(gateway, family, script.kernel, 2000 + number * PORTS);
        let lines = script.before.lines().chain(script.steps.lines()).map(str::trim);
        for (at, line) in lines.filter(|line| !line.is_empty()).enumerate() {
            player.step = format!("{:?}, step {}, {line:?}", script.name, at + 1);
            player.play(line);
        }
        assert!(player.dropped.is_empty(), "{:?} ends with a packet nobody looked for", script.name);
    }
}

impl<'g> Player<'g> {
    fn new(gateway: &'g Gateway, family: Family, kernel: Kernel, port: u16) -> Self {
        let (near, far) = match kernel {
            Kernel::Client => (&gateway.three.client, &gateway.three.server),
            Kernel::Server => (&gateway.three.server, &gateway.three.client),
        };
        let (peer, own) = match kernel {
            Kernel::Client => (SocketAddr::new(family.mute(), port), SocketAddr::new(family.client(), 0)),
            Kernel::Server => {
                (SocketAddr::new(family.forged(1), port), SocketAddr::new(family.server(), port))
            }
        };
        let listener = (kernel == Kernel::Server).then(|| listen(near, own));
        Self {
            gateway,
            kernel,
            taps: [Tap::open(near).expect("a tap"), Tap::open(far).expect("a tap")],
            raw: far.enter(|| RawSender::open(0)).unwrap().expect("a raw socket"),
            peer,
            own,
            kernel_iss: None,
            listener,
            socket: None,
            dropped: Vec::new(),
            heard: Vec::new(),
            cookie: Vec::new(),
            step: String::new(),
        }
    }

    /// Who opened the connection, as the firewall lists it.
    fn opener(&self) -> SocketAddr {
        if self.kernel == Kernel::Client { self.own } else { self.peer }
    }

    fn play(&mut self, line: &str) {
        let mut words: VecDeque<&str> = line.split_whitespace().collect();
        match words.pop_front() {
            Some("peer") => self.say(words),
            Some("kernel") => self.expect(words),
            Some("app") => self.call(words),
            Some("phase") => self.gateway.wait_phase(self.opener(), words[0]),
            Some("closed") => {
                let reason = self.gateway.close_reason(self.opener());
                assert_eq!(reason, Vec::from(words).join(" "), "{}", self.step);
            }
            // The same addresses again, with other numbers of the kernel's.
            Some("anew") => self.kernel_iss = None,
            // Another connection.
            Some("next") => {
                self.peer.set_port(self.peer.port() + 1);
                (self.kernel_iss, self.socket) = (None, None);
                self.heard.clear();
            }
            _ => panic!("{}: no such step", self.step),
        }
    }

    /// The peer sends a segment, which arrives or is dropped.
    fn say(&mut self, mut words: VecDeque<&str>) {
        let line = Line::read(&mut words, &self.step);
        let tuple = FourTuple {
            src: self.peer.ip(),
            src_port: self.peer.port(),
            dst: self.own.ip(),
            dst_port: self.own.port(),
        };
        let mut builder = SegmentBuilder::new(tuple)
            .flags(line.flags)
            .seq(PEER_ISS.plus(line.seq.cast_unsigned()))
            .payload_len(line.len as usize);
        if let Some(ack) = line.ack {
            let iss = self.kernel_iss.unwrap_or_else(|| panic!("{}: nothing to acknowledge", self.step));
            builder = builder.ack(iss.plus(ack.cast_unsigned()));
        }
        let mut reason = None;
        for word in words {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            builder = match key {
                "win" => builder.window(value.parse().expect("a window")),
                "mss" => builder.mss(value.parse().expect("a size")),
                "ws" => builder.window_scale(value.parse().expect("a shift")),
                "ts" => builder.timestamps(value.parse().expect("a time"), 0),
                "fo" if value == "cookie" => builder.fast_open(&self.cookie),
                "fo" => builder.fast_open(value.as_bytes()),
                "dropped" => {
                    reason = Some(value);
                    builder
                }
                _ => panic!("{}: {word}?", self.step),
            };
        }
        let packet = builder.build();
        let octets = u32::try_from(packet.bytes.len()).unwrap();
        let parsed = wire::parse(&packet.bytes, octets, Checksums::Verify).expect("a packet");
        let sent = segment(&parsed).expect("a segment");
        let before = reason.map(|reason| self.gateway.drops(reason));
        self.raw.send(&packet).expect("send");
        if let (Some(reason), Some(before)) = (reason, before) {
            let step = &self.step;
            self.gateway
                .eventually(&format!("{step} is counted"), SOON, || self.gateway.drops(reason) > before);
            self.dropped.push(sent);
        } else {
            self.arrives(&sent);
        }
    }

    /// Waits until the kernel's wire has this segment of the peer's, and nothing else
    /// of it before.
    fn arrives(&mut self, sent: &Segment) {
        let (peer, step) = (self.peer, &self.step);
        let from_peer = |packet: &Packet<'_>| {
            packet.src == peer.ip() && segment(packet).is_some_and(|it| it.src_port == peer.port())
        };
        let found = self.taps[0].find(SOON, from_peer).unwrap();
        let found = found.unwrap_or_else(|| panic!("{step} did not arrive"));
        let came = segment(&found.packet().unwrap()).unwrap();
        assert!(!self.dropped.contains(&came), "{step}: what was dropped arrived: {came:?}");
        assert_eq!(came, *sent, "{step}");
        self.dropped.clear();
    }

    /// Waits until the kernel's segment is on the peer's wire. What came before again,
    /// and bare acknowledgements, may come between.
    fn expect(&mut self, mut words: VecDeque<&str>) {
        let line = Line::read(&mut words, &self.step);
        let clock = self.gateway.now();
        loop {
            let (peer, own) = (self.peer, self.own);
            let to_peer = |packet: &Packet<'_>| {
                packet.src == own.ip()
                    && packet.dst == peer.ip()
                    && segment(packet).is_some_and(|it| it.dst_port == peer.port())
            };
            let left = SOON.saturating_sub(self.gateway.since(clock));
            let found = self.taps[1].find(left.max(Duration::from_millis(1)), to_peer).unwrap();
            let Some(found) = found else { panic!("{}: it did not come, only {:?}", self.step, self.heard) };
            let came = segment(&found.packet().unwrap()).unwrap();
            if self.kernel_iss.is_none() && came.flags.contains(Flags::SYN) {
                self.kernel_iss = Some(came.seq);
            }
            self.own.set_port(came.src_port);
            if let Some(cookie) = cookie(&found.bytes) {
                self.cookie = cookie;
            }
            if self.is(&came, &line) && words.iter().all(|word| *word == "fo" && came.options.fast_open) {
                self.heard.push(came);
                return;
            }
            let bare = came.seq_len() == 0 && !came.flags.contains(Flags::RST);
            let again = self.heard.iter().any(|old| (old.seq, old.end()) == (came.seq, came.end()));
            assert!(bare || again, "{}: {came:?} came", self.step);
        }
    }

    fn is(&self, came: &Segment, line: &Line) -> bool {
        let iss = self.kernel_iss.unwrap_or(SeqNum(0));
        let without_push = Flags(came.flags.0 & !Flags::PSH.0);
        let acked = match line.ack {
            Some(ack) => came.ack == PEER_ISS.plus(ack.cast_unsigned()),
            None => true,
        };
        without_push == Flags(line.flags.0 & !Flags::PSH.0)
            && came.seq == iss.plus(line.seq.cast_unsigned())
            && came.payload_len == line.len
            && acked
    }

    /// A socket call of the kernel's side.
    fn call(&mut self, mut words: VecDeque<&str>) {
        let verb = words.pop_front().unwrap_or_default();
        let octets = words.pop_front().map_or(0, |word| word.parse().expect("a number of octets"));
        let step = self.step.clone();
        let client = &self.gateway.three.client;
        match verb {
            "connect" => self.socket = Some(connect(client, self.peer, false)),
            "fastopen" => self.socket = Some(connect(client, self.peer, true)),
            "accept" => self.socket = Some(accept(self.listener.as_ref().expect("a listener")).0),
            "send" => {
                let sent = self.socket().write(&vec![7; octets]);
                assert_eq!(sent.unwrap_or_else(|error| panic!("{step}: {error}")), octets, "{step}");
            }
            "urgent" => send_urgent(self.socket()),
            "keepalive" => {
                option(self.socket().as_raw_fd(), libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1);
                option(self.socket().as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, 1);
                option(self.socket().as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, 1);
            }
            "shutdown" => self.socket().shutdown(std::net::Shutdown::Write).expect("shut down"),
            "close" => drop(self.socket.take()),
            "read" => {
                let mut heard = 0;
                self.wait(|told| {
                    heard += told.as_ref().map_or(0, |read| *read);
                    heard == octets
                });
            }
            "eof" => self.wait(|told| matches!(told, Ok(0))),
            "reset" => self.wait(|told| is(told, io::ErrorKind::ConnectionReset)),
            "refused" => self.wait(|told| is(told, io::ErrorKind::ConnectionRefused)),
            _ => panic!("{step}: no such call"),
        }
    }

    fn socket(&mut self) -> &mut TcpStream {
        self.socket.as_mut().expect("a socket")
    }

    /// Reads until what was told is what is waited for.
    fn wait(&mut self, mut until: impl FnMut(&io::Result<usize>) -> bool) {
        let socket = self.socket.as_ref().expect("a socket");
        socket.set_nonblocking(true).unwrap();
        let mut last = None;
        self.gateway.eventually(&self.step, SOON, || {
            let told = (&mut &*socket).read(&mut [0; 4096]);
            let done = until(&told);
            let waits = is(&told, io::ErrorKind::WouldBlock) || told.as_ref().is_ok_and(|read| *read > 0);
            assert!(done || waits, "{}: {told:?}, before {last:?}", self.step);
            last = Some(told.map_err(|error| error.kind()));
            done
        });
    }
}

fn is(told: &io::Result<usize>, kind: io::ErrorKind) -> bool {
    told.as_ref().is_err_and(|error| error.kind() == kind)
}

/// The part of a segment that every line names.
struct Line {
    flags: Flags,
    seq: i32,
    len: u32,
    ack: Option<i32>,
}

impl Line {
    /// Takes flags, number and acknowledgement off the words.
    fn read(words: &mut VecDeque<&str>, step: &str) -> Self {
        let flag = |letter| match letter {
            'S' => Flags::SYN,
            'F' => Flags::FIN,
            'R' => Flags::RST,
            'P' => Flags::PSH,
            'U' => Flags::URG,
            '.' => Flags::ACK,
            _ => panic!("{step}: {letter} is no flag"),
        };
        let letters = words.pop_front().unwrap_or_else(|| panic!("{step}: no flags"));
        let flags = letters.chars().map(flag).fold(Flags(0), Flags::with);
        let number = words.pop_front().unwrap_or_else(|| panic!("{step}: no number"));
        let (seq, len) = number.split_once('+').unwrap_or((number, "0"));
        let ack = words.iter().position(|word| word.starts_with("ack="));
        let ack = ack.and_then(|at| words.remove(at)).map(|word| word["ack=".len()..].parse().expect("ack"));
        Self { flags, seq: seq.parse().expect("a number"), len: len.parse().expect("a length"), ack }
    }
}

/// The Fast Open cookie in a segment (RFC 7413 §4.1.1).
fn cookie(packet: &[u8]) -> Option<Vec<u8>> {
    let ip_len = if packet.first()? >> 4 == 4 { usize::from(packet[0] & 15) * 4 } else { 40 };
    let tcp = packet.get(ip_len..)?;
    let mut options = tcp.get(20..usize::from(tcp.get(12)? >> 4) * 4)?;
    loop {
        match *options.first()? {
            0 => return None,
            1 => options = &options[1..],
            kind => {
                let len = usize::from(*options.get(1)?);
                if kind == 34 && len > 2 {
                    return Some(options.get(2..len)?.to_vec());
                }
                options = options.get(len.max(2)..)?;
            }
        }
    }
}

/// A listener that takes data in a SYN.
fn listen(at: &Namespace, address: SocketAddr) -> TcpListener {
    let listener = at.enter(|| TcpListener::bind(address)).unwrap().expect("listen");
    option(listener.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_FASTOPEN, 16);
    listener
}

fn option(socket: i32, level: i32, name: i32, value: i32) {
    // SAFETY: value and length describe one c_int that outlives the call.
    let result =
        unsafe { libc::setsockopt(socket, level, name, (&raw const value).cast(), size_of::<i32>() as u32) };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
}

fn send_urgent(socket: &TcpStream) {
    // SAFETY: one octet that outlives the call.
    let sent = unsafe { libc::send(socket.as_raw_fd(), b"!".as_ptr().cast(), 1, libc::MSG_OOB) };
    assert_eq!(sent, 1, "{}", io::Error::last_os_error());
}

/// A socket that connects while the script goes on.
fn connect(from: &Namespace, to: SocketAddr, fast_open: bool) -> TcpStream {
    let socket = from
        .enter(|| {
            let family = if to.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
            let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
            // SAFETY: no pointers are passed; the descriptor is owned at once.
            let socket = unsafe { libc::socket(family, kind, 0) };
            assert!(socket >= 0, "{}", io::Error::last_os_error());
            // SAFETY: `socket` was just opened and nobody else has it.
            unsafe { OwnedFd::from_raw_fd(socket) }
        })
        .unwrap();
    if fast_open {
        option(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_FASTOPEN_CONNECT, 1);
    }
    let result = match to {
        SocketAddr::V4(to) => {
            // SAFETY: plain data; all zero is valid.
            let mut address: libc::sockaddr_in = unsafe { std::mem::zeroed() };
            address.sin_family = libc::AF_INET as libc::sa_family_t;
            address.sin_port = to.port().to_be();
            address.sin_addr.s_addr = u32::from(*to.ip()).to_be();
            let len = size_of_val(&address) as u32;
            // SAFETY: the address is valid for its length and outlives the call.
            unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), len) }
        }
        SocketAddr::V6(to) => {
            // SAFETY: plain data; all zero is valid.
            let mut address: libc::sockaddr_in6 = unsafe { std::mem::zeroed() };
            address.sin6_family = libc::AF_INET6 as libc::sa_family_t;
            address.sin6_port = to.port().to_be();
            address.sin6_addr.s6_addr = to.ip().octets();
            let len = size_of_val(&address) as u32;
            // SAFETY: the address is valid for its length and outlives the call.
            unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), len) }
        }
    };
    let error = io::Error::last_os_error();
    assert!(result == 0 || error.raw_os_error() == Some(libc::EINPROGRESS), "connect: {error}");
    TcpStream::from(socket)
}
