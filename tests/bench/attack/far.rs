//! Clients far away: a network of their own, behind a wire that takes its time.
//!
//! The kernel here may have no netem. So the wire is two TUN devices, one in the clients'
//! namespace and one in the gateway's, and a thread each way that reads packets from one
//! and writes them to the other when their time has come.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Read as _, Write as _},
    net::Ipv4Addr,
    os::{fd::AsRawFd as _, unix::fs::OpenOptionsExt as _},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use halfgate::sys::netns::{Namespace, Namespaces};

/// Their interface, on either side.
pub(crate) const DEVICE: &str = "far";

/// How long a thread waits before it looks whether it should go home.
const TURN: Duration = Duration::from_millis(50);

/// The network far away, gone when dropped.
pub(crate) struct Far {
    pub(crate) clients: Namespace,
    over: Arc<AtomicBool>,
    wires: Vec<JoinHandle<io::Result<()>>>,
    _all: Namespaces,
}

/// The address of a far client; each number is another one. Shared address space
/// (RFC 6598), so that it is nobody's here.
pub(crate) fn address(number: u16) -> Ipv4Addr {
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(100, 64, high, low)
}

impl Far {
    /// Behind the gateway's own device `far`; each way takes so long.
    pub(crate) fn new(gateway: &Namespace, delay: Duration) -> anyhow::Result<Self> {
        let mut all = Namespaces::new()?;
        let clients = all.add("far")?;
        let ends = [&clients, gateway]
            .map(|namespace| namespace.enter(tun).map_err(io::Error::other).and_then(|end| end));
        let [theirs, ours] = ends;
        let (theirs, ours) = (theirs.context("make a TUN device")?, ours.context("make a TUN device")?);
        clients.ip_batch(&format!(
            "link set {DEVICE} up\nroute add default dev {DEVICE}\nroute add local 100.64.0.0/16 dev lo\n"
        ))?;
        gateway.ip_batch(&format!("link set {DEVICE} up\nroute add 100.64.0.0/16 dev {DEVICE}\n"))?;
        let over = Arc::new(AtomicBool::new(false));
        let ways = [(theirs.try_clone()?, ours.try_clone()?), (ours, theirs)];
        let wires = ways.map(|(from, to)| {
            let over = Arc::clone(&over);
            std::thread::spawn(move || carry(&from, &to, delay, &over))
        });
        Ok(Self { clients, over, wires: wires.into(), _all: all })
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        for wire in self.wires.drain(..) {
            if let Ok(Err(error)) = wire.join() {
                eprintln!("the wire to the far clients broke: {error}");
            }
        }
    }
}

/// Carries packets one way.
fn carry(mut from: &File, mut to: &File, delay: Duration, over: &AtomicBool) -> io::Result<()> {
    let mut under_way: VecDeque<(Instant, Vec<u8>)> = VecDeque::new();
    let mut packet = vec![0; 1 << 16];
    while !over.load(Ordering::Relaxed) {
        let next = under_way.front().map_or(TURN, |(due, _)| due.saturating_duration_since(Instant::now()));
        wait(from, next.min(TURN))?;
        loop {
            match from.read(&mut packet) {
                Ok(octets) => under_way.push_back((Instant::now() + delay, packet[..octets].to_vec())),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        while under_way.front().is_some_and(|(due, _)| *due <= Instant::now()) {
            let (_, packet) = under_way.pop_front().expect("it is there");
            match to.write(&packet) {
                Ok(_) => {}
                // Lost, as on any wire that is full.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

/// Until there is a packet, but no longer than that.
fn wait(device: &File, most: Duration) -> io::Result<()> {
    let mut poll = libc::pollfd { fd: device.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let most = libc::timespec { tv_sec: 0, tv_nsec: i64::from(most.subsec_nanos()) };
    // SAFETY: one pollfd and one timespec that outlive the call; no signal mask.
    match unsafe { libc::ppoll(&raw mut poll, 1, &raw const most, std::ptr::null()) } {
        -1 if io::Error::last_os_error().kind() != io::ErrorKind::Interrupted => {
            Err(io::Error::last_os_error())
        }
        _ => Ok(()),
    }
}

/// A TUN device in the calling thread's namespace.
fn tun() -> io::Result<File> {
    let device = File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open("/dev/net/tun")?;
    // SAFETY: all zeroes is a request without a name and flags.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (octet, letter) in request.ifr_name.iter_mut().zip(DEVICE.bytes()) {
        *octet = letter as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as i16;
    // SAFETY: the request outlives the call, and names its device by a string that ends.
    if unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, &raw mut request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(device)
}
