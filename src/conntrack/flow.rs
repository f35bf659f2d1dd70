//! A connection's 5-tuple as people see it.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use crate::wire::{FourTuple, Protocol};

/// Which way a packet of a connection goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Direction {
    /// As the first packet.
    Original,
    /// The other way.
    Reply,
}

impl Direction {
    /// The other direction.
    #[must_use]
    pub const fn opposite(self) -> Self {
        match self {
            Self::Original => Self::Reply,
            Self::Reply => Self::Original,
        }
    }
}

/// A 5-tuple in the direction of the first packet. For ICMP echo the source
/// port is the identifier and the destination port 0; for protocols without
/// ports both are 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Flow {
    /// IP protocol.
    pub protocol: Protocol,
    /// Who sent the first packet.
    pub src: IpAddr,
    /// Its port.
    pub src_port: u16,
    /// Whom it was sent to.
    pub dst: IpAddr,
    /// The port there.
    pub dst_port: u16,
}

impl Flow {
    /// The same connection seen from the other end.
    #[must_use]
    pub const fn reversed(self) -> Self {
        Self {
            protocol: self.protocol,
            src: self.dst,
            src_port: self.dst_port,
            dst: self.src,
            dst_port: self.src_port,
        }
    }

    /// A TCP connection of these addresses.
    #[cfg(test)]
    pub fn tcp(src: &str, src_port: u16, dst: &str, dst_port: u16) -> Self {
        let address = |text: &str| text.parse().expect("an address");
        Self { protocol: Protocol::TCP, src: address(src), src_port, dst: address(dst), dst_port }
    }

    /// Its addresses and ports.
    #[must_use]
    pub const fn tuple(self) -> FourTuple {
        FourTuple { src: self.src, src_port: self.src_port, dst: self.dst, dst_port: self.dst_port }
    }
}

impl fmt::Display for Flow {
    /// `tcp 10.0.0.1:1234 10.0.0.2:80`, `tcp [2001:db8::1]:1234 [2001:db8::2]:80`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let src = SocketAddr::new(self.src, self.src_port);
        let dst = SocketAddr::new(self.dst, self.dst_port);
        write!(f, "{} {src} {dst}", self.protocol)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::TCP => f.pad("tcp"),
            Self::UDP => f.pad("udp"),
            Self::ICMP => f.pad("icmp"),
            Self::ICMPV6 => f.pad("icmpv6"),
            Self(number) => f.pad(&number.to_string()),
        }
    }
}
