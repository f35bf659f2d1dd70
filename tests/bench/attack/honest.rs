//! Clients that want a page, each over a new connection, and those that keep one.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use halfgate::sys::netns::{Family, Namespace};
use socket2::{Domain, Socket, Type};

use crate::ground::{Ground, HONEST, WEB, honest};

/// Clients that come in a second, whatever the others wait for. Each comes from another address
/// than the one before.
const A_SECOND: u32 = 160;

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

pub(crate) struct Honest(JoinHandle<Vec<Client>>);

/// Who fetches one page.
type Client = JoinHandle<std::io::Result<Duration>>;

impl Honest {
    pub(crate) fn warm(ground: &Ground) -> std::io::Result<()> {
        for number in 0..4 {
            fetch(&ground.three.client, number)?;
        }
        Ok(())
    }

    /// Those of so many seconds.
    pub(crate) fn start(ground: &Ground, seconds: u64) -> std::io::Result<Self> {
        let network = ground.three.client.clone();
        let most = usize::try_from(seconds).unwrap_or(usize::MAX).saturating_mul(A_SECOND as usize);
        let clients = std::thread::Builder::new().spawn(move || {
            let (mut clients, mut due) = (Vec::new(), Instant::now());
            for number in (0..HONEST).cycle().take(most) {
                let network = network.clone();
                let client = std::thread::Builder::new().spawn(move || fetch(&network, number));
                clients.push(client.expect("the machine has room for a thread"));
                due += Duration::from_secs(1) / A_SECOND;
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
            }
            clients
        })?;
        Ok(Self(clients))
    }

    /// When all of them have a page, or have given up.
    pub(crate) fn outcome(self) -> Outcome {
        let mut all = Outcome::default();
        for client in self.0.join().expect("clients are started without a panic") {
            match client.join().expect("a client does not panic") {
                Ok(time) => {
                    all.completed += 1;
                    all.times.push(time);
                }
                Err(_) => all.failed += 1,
            }
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
