//! Many short transfers, each over a connection of its own: whether packets overtake each
//! other where a connection leaves the queue.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use halfgate::sys::cpus;

use crate::lab::{Lab, counter, server};

/// Octets of a transfer.
const TRANSFER: usize = 4 << 20;

/// The server's port.
const PORT: u16 = 80;

/// What came of some transfers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    /// Segments sent again.
    pub(crate) again: u64,
    /// Segments that came before one that was sent earlier.
    pub(crate) early: u64,
}

/// Sends `count` times something from client to server, each on the processor given.
pub(crate) fn run(lab: &Lab, count: usize, parted: Option<[u16; 2]>) -> anyhow::Result<Run> {
    let to = SocketAddr::new(server(), PORT);
    let listener = lab.three.server.enter(|| TcpListener::bind(to))??;
    let before = look(lab)?;
    std::thread::scope(|scope| -> anyhow::Result<()> {
        let sink = scope.spawn(|| {
            stay(parted.map(|[_, server]| server))?;
            (0..count).try_for_each(|_| swallow(&listener))
        });
        let source = scope.spawn(|| {
            stay(parted.map(|[client, _]| client))?;
            (0..count).try_for_each(|_| {
                // What ends here would leave the other waiting for the next connection.
                let connect = || TcpStream::connect_timeout(&to, Duration::from_secs(10));
                send(&lab.three.client.enter(connect)?.context("connect")?)
            })
        });
        source.join().map_err(|_| anyhow::anyhow!("the client panicked"))??;
        sink.join().map_err(|_| anyhow::anyhow!("the server panicked"))?.context("receive")
    })?;
    let after = look(lab)?;
    Ok(Run { again: after.again - before.again, early: after.early - before.early })
}

/// Keeps this thread, and those that it starts, on one processor.
fn stay(cpu: Option<u16>) -> io::Result<()> {
    cpu.map_or(Ok(()), cpus::pin)
}

fn send(mut stream: &TcpStream) -> anyhow::Result<()> {
    stream.write_all(&vec![0x5a; TRANSFER])?;
    stream.shutdown(std::net::Shutdown::Write)?;
    // Until the other end has read all and closes.
    let rest = stream.read(&mut [0])?;
    ensure!(rest == 0, "the server said something");
    Ok(())
}

fn swallow(listener: &TcpListener) -> io::Result<()> {
    let (mut stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let octets = io::copy(&mut stream, &mut io::sink())?;
    if octets == TRANSFER as u64 { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

fn look(lab: &Lab) -> anyhow::Result<Run> {
    Ok(Run {
        again: counter(&lab.three.client, "snmp", "Tcp", "RetransSegs")?,
        early: counter(&lab.three.server, "netstat", "TcpExt", "TCPOFOQueue")?,
    })
}
