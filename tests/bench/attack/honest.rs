//! Clients that want a page, each over a new connection, and those that keep one.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use halfgate::sys::netns::{Family, Namespace};
use socket2::{Domain, Socket, Type};

use crate::ground::{Ground, HONEST, WEB, honest};

/// Clients at once. Each comes from another address every time.
const CLIENTS: u8 = 4;

/// From the start of one page to that of the next, but for a client that still waits then:
/// so many come, however long each takes.
const EVERY: Duration = Duration::from_millis(25);

/// A person gives up after this.
const PATIENCE: Duration = Duration::from_secs(5);

/// Connections from before the attack.
const HELD: usize = 16;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: server\r\nConnection: close\r\n\r\n";
const KEPT: &[u8] = b"GET / HTTP/1.1\r\nHost: server\r\n\r\n";

/// What became of the attempts.
#[derive(Default, Debug)]
pub(crate) struct Outcome {
    pub(crate) completed: usize,
    pub(crate) failed: usize,
    /// Of those completed, in order of length.
    times: Vec<Duration>,
}

impl Outcome {
    pub(crate) fn latency(&self, part: f64) -> Option<Duration> {
        let last = self.times.len().checked_sub(1)?;
        self.times.get((last as f64 * part).round() as usize).copied()
    }
}

fn open(client: &Namespace, number: u8) -> std::io::Result<TcpStream> {
    let from = SocketAddr::new(honest(number), 0);
    let to = SocketAddr::new(Family::V4.server(), WEB);
    let socket =
        client.enter(|| Socket::new(Domain::IPV4, Type::STREAM, None)).map_err(std::io::Error::other)??;
    socket.bind(&from.into())?;
    socket.connect_timeout(&to.into(), PATIENCE)?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// One page, from the SYN to the last octet.
fn fetch(client: &Namespace, number: u8) -> std::io::Result<Duration> {
    let start = Instant::now();
    let mut stream = open(client, number)?;
    stream.write_all(REQUEST)?;
    let mut page = Vec::new();
    stream.read_to_end(&mut page)?;
    if page.starts_with(b"HTTP/1.1 200") && page.ends_with(b"hello\n") {
        Ok(start.elapsed())
    } else {
        Err(std::io::ErrorKind::InvalidData.into())
    }
}

pub(crate) struct Honest {
    over: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Outcome>>,
}

impl Honest {
    pub(crate) fn warm(ground: &Ground) -> std::io::Result<()> {
        for number in 0..4 {
            fetch(&ground.three.client, number)?;
        }
        Ok(())
    }

    pub(crate) fn start(ground: &Ground) -> std::io::Result<Self> {
        let over = Arc::new(AtomicBool::new(false));
        let clients = (0..CLIENTS)
            .map(|first| {
                let (over, client) = (Arc::clone(&over), ground.three.client.clone());
                std::thread::Builder::new().spawn(move || {
                    let (mut outcome, mut number) = (Outcome::default(), first);
                    let mut due = Instant::now();
                    while !over.load(Ordering::Relaxed) {
                        match fetch(&client, number) {
                            Ok(time) => {
                                outcome.completed += 1;
                                outcome.times.push(time);
                            }
                            Err(_) => outcome.failed += 1,
                        }
                        number = (number + CLIENTS) % HONEST;
                        let now = Instant::now();
                        due = (due + EVERY).max(now);
                        std::thread::sleep(due - now);
                    }
                    outcome
                })
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { over, clients })
    }

    pub(crate) fn stop(self) -> Outcome {
        self.over.store(true, Ordering::Relaxed);
        let mut all = Outcome::default();
        for client in self.clients {
            let outcome = client.join().expect("a client does not panic");
            all.completed += outcome.completed;
            all.failed += outcome.failed;
            all.times.extend(outcome.times);
        }
        all.times.sort_unstable();
        all
    }
}

/// Connections that are there when the attack begins, and speak now and then.
pub(crate) struct Held {
    streams: Vec<TcpStream>,
    next: usize,
    lost: Vec<bool>,
}

impl Held {
    pub(crate) fn open(ground: &Ground) -> std::io::Result<Self> {
        let mut streams = Vec::new();
        for number in 0..HELD {
            let number = u8::try_from(number).unwrap_or(0);
            streams.push(open(&ground.three.client, number)?);
        }
        let mut held = Self { lost: vec![false; streams.len()], streams, next: 0 };
        for _ in 0..HELD {
            held.speak();
        }
        Ok(held)
    }

    /// The next of them asks for a page.
    pub(crate) fn speak(&mut self) {
        let at = self.next;
        self.next = (at + 1) % self.streams.len();
        if !self.lost[at] {
            self.lost[at] = ask(&mut self.streams[at]).is_err();
        }
    }

    /// How many are still there, and how many there were.
    pub(crate) fn kept(mut self) -> (usize, usize) {
        for _ in 0..self.streams.len() {
            self.speak();
        }
        (self.lost.iter().filter(|lost| !**lost).count(), self.lost.len())
    }
}

/// A page over a connection that stays.
fn ask(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(KEPT)?;
    let mut page = Vec::new();
    let mut part = [0; 512];
    while !page.ends_with(b"hello\n") {
        let octets = stream.read(&mut part)?;
        if octets == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        page.extend_from_slice(&part[..octets]);
    }
    Ok(())
}
