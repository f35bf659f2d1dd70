//! The service on the server: does what a client's first line asks.
//!
//! * `get N`: sends N octets and closes.
//! * `hold`: waits for the client's FIN, then stays silent and open.
//! * `drip N`: waits for the client's FIN, then sends an octet every half
//!   second, N times, and closes.
//!
//! It listens on forbidden ports as well, so that only the firewall can be the
//! one who forbids.

use std::{
    collections::HashMap,
    io::{self, BufRead as _, BufReader, Write as _},
    net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::Context as _;
use parking_lot::Mutex;

use crate::sys::netns::Namespace;

/// The port that the rules allow.
pub(super) const WEB: u16 = 8080;
/// Another one, so that its backlog can be looked at alone.
pub(super) const QUIET: u16 = 8081;
/// The port that the rules answer with RST.
pub(super) const TELNET: u16 = 23;
/// The port that the rules drop.
pub(super) const MAIL: u16 = 25;
/// The UDP port that is allowed.
pub(super) const ECHO: u16 = 7;

/// Between two octets of a `drip`.
pub(super) const DRIP: Duration = Duration::from_millis(500);

/// How a connection ended for the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ended {
    /// It closed it itself.
    Closed,
    /// A RST came.
    Reset,
    /// Something else failed.
    Failed(io::ErrorKind),
}

/// The running service; its threads end with the process.
#[derive(Debug)]
pub(super) struct Service {
    ends: Arc<Mutex<HashMap<SocketAddr, Ended>>>,
}

impl Service {
    /// Listens on all ports, IPv4 and IPv6.
    pub(super) fn start(server: &Namespace) -> anyhow::Result<Self> {
        let ends = Arc::new(Mutex::new(HashMap::new()));
        for port in [WEB, QUIET, TELNET, MAIL] {
            let listener = server
                .enter(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)))?
                .with_context(|| format!("listen on port {port}"))?;
            let ends = Arc::clone(&ends);
            thread::spawn(move || accept(&listener, &ends));
        }
        let echo = server
            .enter(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, ECHO)))?
            .with_context(|| format!("bind UDP port {ECHO}"))?;
        thread::spawn(move || {
            let mut buffer = [0; 2048];
            while let Ok((len, from)) = echo.recv_from(&mut buffer) {
                let _ = echo.send_to(buffer.get(..len).unwrap_or_default(), from);
            }
        });
        Ok(Self { ends })
    }

    /// How the connection from this address ended, if it has.
    pub(super) fn ended(&self, client: SocketAddr) -> Option<Ended> {
        self.ends.lock().get(&client).copied()
    }
}

fn accept(listener: &TcpListener, ends: &Arc<Mutex<HashMap<SocketAddr, Ended>>>) {
    while let Ok((stream, from)) = listener.accept() {
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        let ends = Arc::clone(ends);
        thread::spawn(move || {
            let end = match serve(&stream) {
                Ok(()) => Ended::Closed,
                Err(error) if reset(&error) => Ended::Reset,
                Err(error) => Ended::Failed(error.kind()),
            };
            ends.lock().insert(from, end);
        });
    }
}

/// A side that has already read the FIN is told of a RST as a broken pipe.
pub(super) fn reset(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::ConnectionReset || error.kind() == io::ErrorKind::BrokenPipe
}

fn serve(stream: &TcpStream) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let (verb, count) = (words.next(), words.next().and_then(|count| count.parse().ok()).unwrap_or(0));
    match verb {
        Some("get") => (&mut &*stream).write_all(&pattern(count)),
        Some("hold") => {
            wait_for_fin(&mut reader)?;
            loop {
                // Reading says nothing any more after a FIN; the error does.
                if let Some(error) = stream.take_error()? {
                    return Err(error);
                }
                thread::sleep(Duration::from_millis(20));
            }
        }
        Some("drip") => {
            wait_for_fin(&mut reader)?;
            for octet in pattern(count) {
                thread::sleep(DRIP);
                (&mut &*stream).write_all(&[octet])?;
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

fn wait_for_fin(reader: &mut impl io::Read) -> io::Result<()> {
    let mut rest = Vec::new();
    reader.read_to_end(&mut rest).map(drop)
}

/// Octets that show if one is missing or doubled.
pub(super) fn pattern(count: usize) -> Vec<u8> {
    (0_u8..251).cycle().take(count).collect()
}
