//! What the client sends: real connections, and SYNs with forged sources.

use std::{
    io::{self, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use anyhow::Context as _;

use super::{ground::Ground, service::WEB};
use crate::{
    sys::{netns::Family, raw::RawSender},
    wire::{Flags, FourTuple, SeqNum, build},
};

/// How long a client waits for anything that should come at once.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);

/// Connects from the client's namespace.
pub(super) fn connect(
    ground: &Ground,
    to: SocketAddr,
    timeout: Duration,
) -> anyhow::Result<io::Result<TcpStream>> {
    Ok(ground.client.enter(|| TcpStream::connect_timeout(&to, timeout))?)
}

/// Connects to the service and asks for something; reads wait up to `patience`.
pub(super) fn ask(
    ground: &Ground,
    family: Family,
    line: &str,
    patience: Duration,
) -> anyhow::Result<TcpStream> {
    let to = SocketAddr::new(family.server(), WEB);
    let stream = connect(ground, to, PATIENCE)?.with_context(|| format!("connect to {to}"))?;
    stream.set_read_timeout(Some(patience))?;
    (&stream).write_all(line.as_bytes())?;
    Ok(stream)
}

/// Sends the client's FIN.
pub(super) fn half_close(stream: &TcpStream) -> anyhow::Result<()> {
    stream.shutdown(Shutdown::Write).context("send the FIN")
}

/// Reads until the server's FIN.
pub(super) fn read_all(mut stream: &TcpStream) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all)?;
    Ok(all)
}

/// A UDP socket in the client's namespace, connected to a port of the server.
pub(super) fn udp(ground: &Ground, family: Family, port: u16) -> anyhow::Result<UdpSocket> {
    let socket = ground.client.enter(|| -> io::Result<UdpSocket> {
        let socket = UdpSocket::bind((family.client(), 0))?;
        socket.connect((family.server(), port))?;
        Ok(socket)
    })??;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// Sends SYNs whose source does not exist.
#[derive(Debug)]
pub(super) struct Forger {
    raw: RawSender,
}

impl Forger {
    /// Opens the raw sockets in the client's namespace.
    pub(super) fn open(ground: &Ground) -> anyhow::Result<Self> {
        let raw = ground.client.enter(|| RawSender::open(0))?.context("open a raw socket")?;
        Ok(Self { raw })
    }

    /// Sends one SYN to the service; `source` and `port` make it one of many.
    pub(super) fn syn(&self, family: Family, source: u16, port: u16) -> anyhow::Result<SocketAddr> {
        self.syn_to(family, source, port, WEB)
    }

    /// Sends one SYN to a port of the server.
    pub(super) fn syn_to(
        &self,
        family: Family,
        source: u16,
        port: u16,
        to: u16,
    ) -> anyhow::Result<SocketAddr> {
        let from = SocketAddr::new(family.forged(source), port);
        let tuple = FourTuple { src: from.ip(), src_port: port, dst: family.server(), dst_port: to };
        let seq = SeqNum(u32::from(source).wrapping_mul(0x9e37_79b9).wrapping_add(u32::from(port)));
        self.raw.send(&build::tcp(tuple, seq, None, Flags::SYN, 64240)).context("send a forged SYN")?;
        Ok(from)
    }
}
