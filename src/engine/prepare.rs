//! A packet's first step: its headers are read, and where its connection would lie is
//! worked out. Changes nothing, so that whoever has several packets at hand can have what
//! each of them needs fetched ([`super::Foreseen`]) before the first is judged.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Foreseen, Worker, shard::Family};
use crate::{
    conntrack::{Address, Flow, Key, Secret, key::Sender},
    wire::{self, Checksums, IcmpMessage, Packet, Plain, Protocol, Transport},
};

/// A packet that can be judged ([`Worker::handle_prepared`]).
#[derive(Clone, Copy, Debug)]
pub struct Prepared<'p> {
    pub(super) bytes: &'p [u8],
    pub(super) read: Read<'p>,
}

/// What was read of a packet.
#[derive(Clone, Copy, Debug)]
pub(super) enum Read<'p> {
    /// What nearly every packet is.
    Plain(Plain<'p, Ipv4Addr>, Located<Ipv4Addr>),
    /// Any other is read again when it is judged: to carry all that it may be along would
    /// cost more.
    Any(Place),
}

/// Where a packet's connection would lie.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    Ipv4(Located<Ipv4Addr>),
    Ipv6(Located<Ipv6Addr>),
    /// It is judged by itself, or by another packet that it quotes.
    Nowhere,
}

/// What a connection is found by, from a packet of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Located<A: Address> {
    pub(super) key: Key<A>,
    /// Which of its ends has sent the packet.
    pub(super) sender: Sender,
    pub(super) hash: u64,
}

impl<A: Address> Located<A> {
    #[inline(always)]
    fn between(src: (A, u16), dst: (A, u16), protocol: Protocol, secret: &Secret) -> Self {
        let (key, sender) = Key::between(src, dst, protocol);
        Self { key, sender, hash: key.hash(secret) }
    }
}

impl From<Located<Ipv4Addr>> for Place {
    fn from(located: Located<Ipv4Addr>) -> Self {
        Self::Ipv4(located)
    }
}

impl From<Located<Ipv6Addr>> for Place {
    fn from(located: Located<Ipv6Addr>) -> Self {
        Self::Ipv6(located)
    }
}

impl Place {
    /// The place of a flow's connection.
    pub(super) fn of(flow: &Flow, secret: &Secret) -> Self {
        Self::between((flow.src, flow.src_port), (flow.dst, flow.dst_port), flow.protocol, secret)
    }

    #[inline(always)]
    fn between(src: (IpAddr, u16), dst: (IpAddr, u16), protocol: Protocol, secret: &Secret) -> Self {
        match (src, dst) {
            ((IpAddr::V4(src), src_port), (IpAddr::V4(dst), dst_port)) => {
                Self::Ipv4(Located::between((src, src_port), (dst, dst_port), protocol, secret))
            }
            ((IpAddr::V6(src), src_port), (IpAddr::V6(dst), dst_port)) => {
                Self::Ipv6(Located::between((src, src_port), (dst, dst_port), protocol, secret))
            }
            ((IpAddr::V4(_), _), (IpAddr::V6(_), _)) | ((IpAddr::V6(_), _), (IpAddr::V4(_), _)) => {
                Self::Nowhere
            }
        }
    }

    /// The place of a packet's connection.
    #[inline(always)]
    fn of_packet(packet: &Packet<'_>, secret: &Secret) -> Self {
        match ports_of(&packet.transport) {
            Some((src_port, dst_port)) => {
                Self::between((packet.src, src_port), (packet.dst, dst_port), packet.protocol, secret)
            }
            None => Self::Nowhere,
        }
    }

    pub(super) const fn foreseen(&self) -> Option<Foreseen> {
        match self {
            Self::Ipv4(Located { hash, .. }) => Some(Foreseen { is_ipv6: false, hash: *hash }),
            Self::Ipv6(Located { hash, .. }) => Some(Foreseen { is_ipv6: true, hash: *hash }),
            Self::Nowhere => None,
        }
    }
}

/// The ports of the flow that a packet belongs to; `None`: it is judged by itself, or by what
/// it quotes.
pub(super) fn ports_of(transport: &Transport<'_>) -> Option<(u16, u16)> {
    match transport {
        Transport::Tcp(segment) => Some((segment.src_port, segment.dst_port)),
        Transport::Udp(datagram) => Some((datagram.src_port, datagram.dst_port)),
        Transport::Icmp(IcmpMessage::EchoRequest { id }) => Some((*id, 0)),
        Transport::Icmp(IcmpMessage::EchoReply { id }) => Some((0, *id)),
        Transport::Icmp(IcmpMessage::Error { .. } | IcmpMessage::Other { .. }) | Transport::Fragment => None,
        Transport::Other => Some((0, 0)),
    }
}

impl Prepared<'_> {
    /// Where its connection is looked for. `None`: nowhere.
    #[must_use]
    pub const fn foreseen(&self) -> Option<Foreseen> {
        match &self.read {
            Read::Plain(_, located) => Some(Foreseen { is_ipv6: false, hash: located.hash }),
            Read::Any(place) => place.foreseen(),
        }
    }
}

impl Worker {
    /// Looks at a packet, of so many octets on the wire. `bytes` starts at the IP header.
    #[must_use]
    #[inline(always)]
    pub fn prepare<'p>(&self, bytes: &'p [u8], wire_len: u32, checksums: Checksums) -> Prepared<'p> {
        let read = if let Some(plain) = Plain::of(bytes, wire_len, checksums) {
            Read::Plain(plain, self.locate(&plain))
        } else if let Some(plain) = Plain::<Ipv6Addr>::of(bytes, wire_len, checksums) {
            Read::Any(self.locate(&plain).into())
        } else {
            let parsed = wire::parse_where(bytes, wire_len, checksums, self.loopback);
            Read::Any(self.place_of(parsed.as_ref().ok()))
        };
        Prepared { bytes, read }
    }

    #[inline(always)]
    pub(super) fn locate<A: Family>(&self, plain: &Plain<'_, A>) -> Located<A> {
        let (src, dst) = plain.ends();
        Located::between(src, dst, Protocol::TCP, &self.engine.secret)
    }

    #[inline(never)]
    pub(super) fn place_of(&self, packet: Option<&Packet<'_>>) -> Place {
        packet.map_or(Place::Nowhere, |packet| Place::of_packet(packet, &self.engine.secret))
    }
}
