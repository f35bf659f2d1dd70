//! The kernel's conntrack in a namespace of its own, asked packet by packet.
//!
//! Two TUN devices and a forwarding kernel between them. What conntrack thinks of a
//! packet comes out with it: a rule writes the packet's `ct state` into its DSCP, so
//! that also what a strict rule set drops is answered, and nobody has to wait for
//! something not to come. The connection's state is asked over ctnetlink.

#![allow(unsafe_code, reason = "TUN and netlink")]

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr},
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::fs::OpenOptionsExt as _,
    },
    process::Stdio,
};

use halfgate::{
    sys::netns::Namespace,
    wire::{FourTuple, build::udp},
};

use super::story::Side;

/// What goes in at one end comes out at the other.
const SETUP: &str = "
link set c0 up mtu 65000
link set s0 up mtu 65000
route add 10.1.0.0/16 dev c0
route add 10.2.0.0/16 dev s0
route add fd00:1::/32 dev c0
route add fd00:2::/32 dev s0
";

/// The DSCP of what conntrack calls invalid, related, and what it knows. Everything
/// comes out again, so that no answer is an answer too: the packet never got so far.
const RULES: &str = "
table inet opinion {
    chain forward {
        type filter hook forward priority filter; policy accept;
        ct state invalid ip dscp set 1
        ct state related ip dscp set 2
        ct state { new, established } ip dscp set 3
        ct state invalid ip6 dscp set 1
        ct state related ip6 dscp set 2
        ct state { new, established } ip6 dscp set 3
    }
}
";

/// TCP states by the kernel's number (`enum tcp_conntrack`).
pub const STATES: [&str; 10] = [
    "NONE",
    "SYN_SENT",
    "SYN_RECV",
    "ESTABLISHED",
    "FIN_WAIT",
    "CLOSE_WAIT",
    "LAST_ACK",
    "TIME_WAIT",
    "CLOSE",
    "SYN_SENT2",
];

/// What conntrack calls a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    Invalid,
    Related,
    /// New or established.
    Known,
    /// It did not come out.
    Lost,
}

pub struct Kernel {
    devices: [File; 2],
    netlink: OwnedFd,
    buffer: Vec<u8>,
    beats: u32,
}

impl Kernel {
    /// Sets up a namespace. To be called on the thread inside it that will use this.
    pub fn new(namespace: &Namespace, worker: usize) -> Self {
        namespace
            .sysctls(&[
                ("ipv4/ip_forward", "1"),
                ("ipv6/conf/all/forwarding", "1"),
                ("ipv6/conf/default/addr_gen_mode", "1"),
            ])
            .unwrap();
        let devices = ["c0", "s0"].map(|name| tun(name).unwrap_or_else(|e| panic!("tun {name}: {e}")));
        namespace.ip_batch(SETUP).unwrap();
        let mut nft = namespace.command("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
        nft.stdin.take().unwrap().write_all(RULES.as_bytes()).unwrap();
        assert!(nft.wait().unwrap().success(), "nft takes the rules");
        namespace
            .sysctls(&[
                ("netfilter/nf_conntrack_tcp_loose", "0"),
                ("netfilter/nf_conntrack_tcp_be_liberal", "0"),
            ])
            .unwrap();
        stay_on_one_core(worker);
        let netlink = netlink().unwrap_or_else(|error| panic!("ctnetlink: {error}"));
        Self { devices, netlink, buffer: vec![0; 1 << 16], beats: 0 }
    }

    /// Sends a packet from one side to the other, and says what conntrack called it.
    pub fn pass(&mut self, from: Side, packet: &[u8]) -> State {
        let (src, dst) = addresses(packet);
        (&self.devices[from as usize]).write_all(packet).unwrap();
        match self.receive(from.other(), src, dst) {
            Some(dscp) => dscp,
            None => self.pass_a_beat(from, src, dst),
        }
    }

    /// Nothing has come yet. A datagram that takes the same way comes after it.
    fn pass_a_beat(&mut self, from: Side, src: [u8; 16], dst: [u8; 16]) -> State {
        let address = |side: Side| IpAddr::V4(Ipv4Addr::new(10, 1 + side as u8, 255, 254));
        self.beats += 1;
        let port = u16::try_from(self.beats % 60_000).unwrap() + 1000;
        let tuple = FourTuple { src: address(from), src_port: port, dst: address(from.other()), dst_port: 9 };
        let beat = udp(tuple, b"beat").bytes;
        let (beat_src, beat_dst) = addresses(&beat);
        (&self.devices[from as usize]).write_all(&beat).unwrap();
        let device = &self.devices[from.other() as usize];
        let mut found = State::Lost;
        loop {
            let mut poll = libc::pollfd { fd: device.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            // SAFETY: one pollfd that lives through the call.
            let ready = unsafe { libc::poll(&raw mut poll, 1, 10_000) };
            assert!(ready == 1, "the namespace forwards");
            let Ok(length) = (&*device).read(&mut self.buffer) else { continue };
            let packet = &self.buffer[..length];
            if addresses(packet) == (src, dst) {
                found = state_of(packet);
            } else if addresses(packet) == (beat_src, beat_dst) {
                return found;
            }
        }
    }

    fn receive(&mut self, at: Side, src: [u8; 16], dst: [u8; 16]) -> Option<State> {
        loop {
            match (&self.devices[at as usize]).read(&mut self.buffer) {
                Ok(length) => {
                    let packet = &self.buffer[..length];
                    if addresses(packet) == (src, dst) {
                        return Some(state_of(packet));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                Err(error) => panic!("tun: {error}"),
            }
        }
    }

    /// Conntrack's TCP state of a connection, named in either direction.
    pub fn phase(&mut self, question: &Question) -> Option<u8> {
        self.ask(&question.0);
        let answer = self.hear();
        let kind = u16::from_ne_bytes([answer[4], answer[5]]);
        if i32::from(kind) == libc::NLMSG_ERROR {
            let error = -i32::from_ne_bytes(*answer[16..].first_chunk().unwrap());
            assert_eq!(error, libc::ENOENT, "ctnetlink refuses");
            return None;
        }
        let tcp = find(find(&answer[20..], PROTOINFO)?, PROTOINFO_TCP)?;
        find(tcp, PROTOINFO_TCP_STATE)?.first().copied()
    }

    /// Forgets every connection of this namespace.
    pub fn forget_all(&mut self) {
        let mut flush = message(DELETE, libc::NLM_F_REQUEST | libc::NLM_F_ACK, libc::AF_UNSPEC);
        finish(&mut flush);
        self.ask(&flush);
        let answer = self.hear();
        assert_eq!(answer[16..20], [0; 4], "conntrack forgets");
    }

    fn ask(&self, message: &[u8]) {
        // SAFETY: pointer and length are those of one slice.
        let sent = unsafe { libc::send(self.netlink.as_raw_fd(), message.as_ptr().cast(), message.len(), 0) };
        assert_eq!(usize::try_from(sent).ok(), Some(message.len()), "{}", io::Error::last_os_error());
    }

    fn hear(&mut self) -> &[u8] {
        let (at, room) = (self.buffer.as_mut_ptr(), self.buffer.len());
        // SAFETY: pointer and length are those of one exclusive slice.
        let got = unsafe { libc::recv(self.netlink.as_raw_fd(), at.cast(), room, 0) };
        let got = usize::try_from(got).unwrap_or_else(|_| panic!("{}", io::Error::last_os_error()));
        &self.buffer[..got]
    }
}

/// A prepared question for one connection's state.
pub struct Question(Vec<u8>);

impl Question {
    pub fn about(tuple: FourTuple) -> Self {
        let (family, src, dst) = match (tuple.src, tuple.dst) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                (libc::AF_INET, (1, a.octets().to_vec()), (2, b.octets().to_vec()))
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => {
                (libc::AF_INET6, (3, a.octets().to_vec()), (4, b.octets().to_vec()))
            }
            _ => panic!("of one family"),
        };
        let mut ip = Vec::new();
        attribute(&mut ip, src.0, &src.1);
        attribute(&mut ip, dst.0, &dst.1);
        let mut ports = Vec::new();
        attribute(&mut ports, 1, &[6]);
        attribute(&mut ports, 2, &tuple.src_port.to_be_bytes());
        attribute(&mut ports, 3, &tuple.dst_port.to_be_bytes());
        let mut both = Vec::new();
        attribute(&mut both, NESTED | 1, &ip);
        attribute(&mut both, NESTED | 2, &ports);
        let mut question = message(GET, libc::NLM_F_REQUEST, family);
        attribute(&mut question, NESTED | TUPLE_ORIG, &both);
        finish(&mut question);
        Self(question)
    }
}

// linux/netfilter/nfnetlink_conntrack.h
const GET: u16 = 0x101;
const DELETE: u16 = 0x102;
const NESTED: u16 = 0x8000;
const TUPLE_ORIG: u16 = 1;
const PROTOINFO: u16 = 4;
const PROTOINFO_TCP: u16 = 1;
const PROTOINFO_TCP_STATE: u16 = 1;

fn message(kind: u16, flags: i32, family: i32) -> Vec<u8> {
    let mut message = vec![0; 16];
    message[4..6].copy_from_slice(&kind.to_ne_bytes());
    message[6..8].copy_from_slice(&u16::try_from(flags).unwrap().to_ne_bytes());
    message.extend_from_slice(&[u8::try_from(family).unwrap(), 0, 0, 0]);
    message
}

fn attribute(into: &mut Vec<u8>, kind: u16, value: &[u8]) {
    into.extend_from_slice(&u16::try_from(value.len() + 4).unwrap().to_ne_bytes());
    into.extend_from_slice(&kind.to_ne_bytes());
    into.extend_from_slice(value);
    into.resize(into.len().next_multiple_of(4), 0);
}

fn finish(message: &mut [u8]) {
    let length = u32::try_from(message.len()).unwrap();
    message[..4].copy_from_slice(&length.to_ne_bytes());
}

fn find(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16::from_ne_bytes(*attributes.first_chunk()?));
        let kind = u16::from_ne_bytes(*attributes.get(2..)?.first_chunk()?) & !NESTED;
        if kind == wanted {
            return attributes.get(4..length);
        }
        attributes = attributes.get(length.next_multiple_of(4).max(4)..)?;
    }
}

/// Source and destination, the short ones filled up.
fn addresses(packet: &[u8]) -> ([u8; 16], [u8; 16]) {
    let mut pair = [[0; 16]; 2];
    let (at, length) = if packet[0] >> 4 == 4 { (12, 4) } else { (8, 16) };
    for (place, address) in pair.iter_mut().zip(packet[at..].chunks(length)) {
        place[..length].copy_from_slice(address);
    }
    (pair[0], pair[1])
}

fn state_of(packet: &[u8]) -> State {
    let traffic_class = if packet[0] >> 4 == 4 { packet[1] } else { (packet[0] << 4) | (packet[1] >> 4) };
    match traffic_class >> 2 {
        1 => State::Invalid,
        2 => State::Related,
        3 => State::Known,
        other => panic!("a packet came through with DSCP {other}"),
    }
}

/// Makes a TUN device in this thread's namespace. Its packets start at the IP header.
fn tun(name: &str) -> io::Result<File> {
    let mut how = std::fs::OpenOptions::new();
    let device = how.read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun")?;
    // SAFETY: ifreq is plain data; all zero is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (place, octet) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *place = octet.cast_signed();
    }
    request.ifr_ifru.ifru_flags = i16::try_from(libc::IFF_TUN | libc::IFF_NO_PI).unwrap();
    // SAFETY: the request lives through the call.
    if unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, &raw mut request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(device)
}

fn netlink() -> io::Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    // SAFETY: no pointers are passed.
    let socket = unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_NETFILTER) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was just opened, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(socket) })
}

/// A core has one queue of packets to take; with two of them a beat could overtake.
fn stay_on_one_core(worker: usize) {
    let size = size_of::<libc::cpu_set_t>();
    // SAFETY: the sets are plain data that live through the calls, and their true size
    // is given.
    unsafe {
        let mut allowed: libc::cpu_set_t = std::mem::zeroed();
        libc::sched_getaffinity(0, size, &raw mut allowed);
        let cores: Vec<usize> = (0..size * 8).filter(|core| libc::CPU_ISSET(*core, &allowed)).collect();
        let mut mine: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cores[worker % cores.len()], &mut mine);
        libc::sched_setaffinity(0, size, &raw const mine);
    }
}
