//! How long `evict` holds: a spoofed flood at a steady rate, limits from a part to a
//! multiple of what comes in one round trip, and far clients whose handshake takes that
//! long.
//!
//! The stalest half-open connection goes for each SYN past the limit. So a handshake has
//! limit / rate until it must be finished, and what it takes is the client's round trip.
//! No client's address comes twice: a source that has finished a handshake is proven, and
//! its SYNs have a queue of their own.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU16, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use halfgate::sys::netns::{Family, Namespace};
use socket2::{Domain, Socket, Type};

use crate::{
    attacker::{Attack, Attacker},
    far::{self, Far},
    ground::{Ground, Usage, WEB},
    protector,
};

/// Each way between the far clients and the gateway.
const ONE_WAY: Duration = Duration::from_millis(20);

/// SYNs a second unless told otherwise: what any machine takes.
const RATE: u32 = 10_000;

/// Clients at once.
const CLIENTS: u32 = 24;

/// From one page to the next.
const PAUSE: Duration = Duration::from_millis(60);

/// Between a dozen round trips and the first SYN that is sent again: whoever got no page
/// then was evicted, or its SYN was lost.
const PATIENCE: Duration = Duration::from_millis(900);

/// Pages before the flood; their median is the round trip.
const QUIET: usize = 9;

/// One limit.
struct Point {
    limit: u32,
    /// SYNs a second as they were sent, the honest clients' included.
    rate: f64,
    round_trip: Duration,
    completed: usize,
    begun: usize,
    /// SYNs that nobody judged, or that were dropped as nobody could be evicted for them.
    not_taken: u64,
}

impl Point {
    fn line(&self) -> String {
        let holds = f64::from(self.limit) / self.rate;
        format!(
            "| {} | {:.0} | {:.1} ms | {:.1} ms | {:.2} | {} of {} ({:.1} %) | {} |",
            self.limit,
            self.rate,
            holds * 1e3,
            self.round_trip.as_secs_f64() * 1e3,
            holds / self.round_trip.as_secs_f64(),
            self.completed,
            self.begun,
            self.completed as f64 * 100.0 / self.begun.max(1) as f64,
            self.not_taken,
        )
    }
}

/// Prints the curve, a line for each number of round trips.
pub(crate) fn run(halfgate: &Path, seconds: u64, rate: Option<u32>, trips: &[f64]) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "| limit | SYN/s | limit / rate | round trip | in round trips | honest completed | SYNs not taken |\n\
         |---|---|---|---|---|---|---|"
    )?;
    for trips in trips {
        let point = point(halfgate, seconds, rate.unwrap_or(RATE), *trips)
            .with_context(|| format!("a limit of {trips} round trips"))?;
        writeln!(out, "{}", point.line())?;
        out.flush()?;
    }
    Ok(())
}

fn point(halfgate: &Path, seconds: u64, rate: u32, trips: f64) -> anyhow::Result<Point> {
    let ground = Ground::new()?;
    let far = Far::new(&ground.three.gateway, ONE_WAY)?;
    let limit = (trips * f64::from(rate) * 2.0 * ONE_WAY.as_secs_f64()).round().max(1.0) as u32;
    let rules = protector::rules(&format!("outside, {}", far::DEVICE), limit, "evict");
    let guard = Some(protector::firewall(&ground, halfgate, &rules)?);
    let next = Arc::new(AtomicU16::new(0));
    let round_trip = quiet(&far, &next).context("fetch pages before the flood")?;
    let before = Usage::read(&ground, guard.as_ref())?;
    let start = Instant::now();
    let attacker = Attacker::start(&ground, Attack::SpoofedSyns, Some(rate), 1)?;
    // The limit is reached before anybody honest comes.
    while start.elapsed().as_secs_f64() * f64::from(rate) < 1.5 * f64::from(limit) {
        std::thread::sleep(Duration::from_millis(5));
    }
    let clients = Clients::start(&far, &next)?;
    std::thread::sleep(Duration::from_secs(seconds));
    let (completed, begun) = clients.stop();
    let (sent, took) = (attacker.stop(), start.elapsed());
    let lost = Usage::read(&ground, guard.as_ref())?.since(&before).lost;
    let held = protector::status(&ground, halfgate)?["evictions_held"].as_u64().context("evictions_held")?;
    ensure!(begun > 0, "no client came to begin");
    let rate = (sent + begun as u64) as f64 / took.as_secs_f64();
    Ok(Point { limit, rate, round_trip, completed, begun, not_taken: lost + held })
}

/// The median of some handshakes while nobody attacks.
fn quiet(far: &Far, next: &AtomicU16) -> io::Result<Duration> {
    let mut all = (0..QUIET)
        .map(|_| fetch(&far.clients, next.fetch_add(1, Ordering::Relaxed)))
        .collect::<io::Result<Vec<_>>>()?;
    all.sort_unstable();
    Ok(all[QUIET / 2])
}

/// One page; how long the handshake took.
fn fetch(clients: &Namespace, number: u16) -> io::Result<Duration> {
    let from = SocketAddr::new(far::address(number).into(), 0);
    let to = SocketAddr::new(Family::V4.server(), WEB);
    let socket =
        clients.enter(|| Socket::new(Domain::IPV4, Type::STREAM, None)).map_err(io::Error::other)??;
    socket.bind(&from.into())?;
    let start = Instant::now();
    socket.connect_timeout(&to.into(), PATIENCE)?;
    let connected = start.elapsed();
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: server\r\nConnection: close\r\n\r\n")?;
    let mut page = Vec::new();
    stream.read_to_end(&mut page)?;
    if page.starts_with(b"HTTP/1.1 200") && page.ends_with(b"hello\n") {
        Ok(connected)
    } else {
        Err(io::ErrorKind::InvalidData.into())
    }
}

/// Clients that fetch pages until they are stopped.
struct Clients {
    over: Arc<AtomicBool>,
    /// Completed and begun.
    counts: Arc<Mutex<(usize, usize)>>,
    threads: Vec<JoinHandle<()>>,
}

impl Clients {
    fn start(far: &Far, next: &Arc<AtomicU16>) -> io::Result<Self> {
        let (over, counts) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new((0, 0))));
        let threads = (0..CLIENTS)
            .map(|client| {
                let (over, counts) = (Arc::clone(&over), Arc::clone(&counts));
                let (next, clients) = (Arc::clone(next), far.clients.clone());
                std::thread::Builder::new().spawn(move || {
                    // Not all at once, or they are each other's flood.
                    std::thread::sleep((PAUSE + 4 * ONE_WAY) * client / CLIENTS);
                    while !over.load(Ordering::Relaxed) {
                        let got = fetch(&clients, next.fetch_add(1, Ordering::Relaxed)).is_ok();
                        let mut counts = counts.lock().expect("no client panics");
                        *counts = (counts.0 + usize::from(got), counts.1 + 1);
                        drop(counts);
                        std::thread::sleep(PAUSE);
                    }
                })
            })
            .collect::<io::Result<_>>()?;
        Ok(Self { over, counts, threads })
    }

    fn stop(self) -> (usize, usize) {
        self.over.store(true, Ordering::Relaxed);
        for thread in self.threads {
            let _ = thread.join();
        }
        *self.counts.lock().expect("no client panics")
    }
}
