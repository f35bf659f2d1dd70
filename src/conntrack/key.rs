//! What a connection is found by.
//!
//! Both directions of a connection have the same key: its two endpoints in a
//! fixed order. Which of them opened it is the connection's own knowledge.

use std::{
    hash::Hash,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use super::{Direction, Flow, Secret};
use crate::wire::Protocol;

/// An address of one family; a table holds connections of one family, so that
/// an IPv4 connection does not pay for IPv6 addresses.
pub trait Address: Copy + Eq + Hash + Send + std::fmt::Debug + Into<IpAddr> + 'static {
    /// What endpoints are put in order by.
    type Rank: Ord;

    /// Two of them, in as few words as they have.
    type Pair: Copy + Eq + Hash + Send + std::fmt::Debug;

    /// The place of an address with a port among others: any order will do, as long as it
    /// is the same for every packet.
    fn rank(self, port: u16) -> Self::Rank;

    /// The address, if it is of this family.
    fn from_ip(address: IpAddr) -> Option<Self>;

    /// Two of them as one.
    fn pair(low: Self, high: Self) -> Self::Pair;

    /// Which two these are.
    fn parted(pair: Self::Pair) -> (Self, Self);

    /// The hash of a pair and one more word, of 40 bits.
    fn hash_of(pair: Self::Pair, rest: u64, secret: &Secret) -> u64;
}

impl Address for Ipv4Addr {
    type Rank = u64;
    type Pair = u64;

    #[inline(always)]
    fn rank(self, port: u16) -> u64 {
        u64::from(u32::from_ne_bytes(self.octets())) << 16 | u64::from(port)
    }

    fn from_ip(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        }
    }

    #[inline(always)]
    fn pair(low: Self, high: Self) -> u64 {
        u64::from(u32::from_ne_bytes(low.octets())) << 32 | u64::from(u32::from_ne_bytes(high.octets()))
    }

    #[expect(clippy::cast_possible_truncation, reason = "each is half of it")]
    fn parted(pair: u64) -> (Self, Self) {
        let part = |bits: u64| Self::from((bits as u32).to_ne_bytes());
        (part(pair >> 32), part(pair))
    }

    #[inline(always)]
    fn hash_of(pair: u64, rest: u64, secret: &Secret) -> u64 {
        secret.of_words([pair, rest])
    }
}

impl Address for Ipv6Addr {
    type Rank = (u128, u16);
    type Pair = [Self; 2];

    fn rank(self, port: u16) -> (u128, u16) {
        (self.to_bits(), port)
    }

    fn from_ip(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V6(address) => Some(address),
            IpAddr::V4(_) => None,
        }
    }

    fn pair(low: Self, high: Self) -> [Self; 2] {
        [low, high]
    }

    fn parted([low, high]: [Self; 2]) -> (Self, Self) {
        (low, high)
    }

    #[inline(always)]
    fn hash_of(pair: [Self; 2], rest: u64, secret: &Secret) -> u64 {
        secret.of_blocks(pair.map(|address| address.octets()), rest)
    }
}

/// Two endpoints in a fixed order and a protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(Rust, packed)]
pub struct Key<A: Address> {
    addresses: A::Pair,
    /// The lower endpoint's port in the upper half.
    ports: u32,
    protocol: Protocol,
}

/// Which endpoint of a key a packet came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Sender {
    /// The lower one.
    Low,
    /// The higher one.
    High,
}

impl Sender {
    /// The direction of a packet from this endpoint in a connection opened by `opener`.
    #[must_use]
    pub fn direction(self, opener: Self) -> Direction {
        if self == opener { Direction::Original } else { Direction::Reply }
    }
}

impl<A: Address> Key<A> {
    /// The key of a packet, and which of its endpoints sent it. `None` if the
    /// addresses are of the other family.
    #[must_use]
    #[inline]
    pub fn of(flow: &Flow) -> Option<(Self, Sender)> {
        let src = (A::from_ip(flow.src)?, flow.src_port);
        let dst = (A::from_ip(flow.dst)?, flow.dst_port);
        Some(Self::between(src, dst, flow.protocol))
    }

    /// The key of a packet with these endpoints, and which of them sent it.
    #[must_use]
    #[inline(always)]
    pub fn between(src: (A, u16), dst: (A, u16), protocol: Protocol) -> (Self, Sender) {
        let in_order = src.0.rank(src.1) <= dst.0.rank(dst.1);
        let (low, high, sender) = if in_order { (src, dst, Sender::Low) } else { (dst, src, Sender::High) };
        let ports = u32::from(low.1) << 16 | u32::from(high.1);
        (Self { addresses: A::pair(low.0, high.0), ports, protocol }, sender)
    }

    /// The flow that `opener` sees as original.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "each is half of it")]
    pub fn flow(&self, opener: Sender) -> Flow {
        let (low, high) = A::parted(self.addresses);
        let ports = self.ports;
        let low_first = Flow {
            protocol: self.protocol,
            src: low.into(),
            src_port: (ports >> 16) as u16,
            dst: high.into(),
            dst_port: ports as u16,
        };
        match opener {
            Sender::Low => low_first,
            Sender::High => low_first.reversed(),
        }
    }

    /// All of it: the addresses, and the rest in 40 bits.
    #[must_use]
    #[inline(always)]
    pub fn parts(&self) -> (A::Pair, u64) {
        (self.addresses, u64::from(self.protocol.0) << 32 | u64::from(self.ports))
    }

    /// Its hash by a secret.
    #[must_use]
    #[inline(always)]
    pub fn hash(&self, secret: &Secret) -> u64 {
        let (addresses, rest) = self.parts();
        A::hash_of(addresses, rest, secret)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(src: &str, dst: &str) -> Flow {
        let src: std::net::SocketAddr = src.parse().unwrap();
        let dst: std::net::SocketAddr = dst.parse().unwrap();
        Flow {
            protocol: Protocol::TCP,
            src: src.ip(),
            src_port: src.port(),
            dst: dst.ip(),
            dst_port: dst.port(),
        }
    }

    #[test]
    fn both_directions_have_one_key() {
        for (a, b) in [
            ("10.0.0.1:1234", "10.0.0.2:80"),
            ("10.0.0.2:1234", "10.0.0.1:80"),
            ("10.0.0.1:80", "10.0.0.1:81"),
        ] {
            let there = flow(a, b);
            let (key, sender) = Key::<Ipv4Addr>::of(&there).unwrap();
            let (back, other) = Key::<Ipv4Addr>::of(&there.reversed()).unwrap();
            assert_eq!(key, back);
            assert_ne!(sender, other);
            assert_eq!(key.flow(sender), there);
            let secret = Secret::new([1, 2]);
            assert_eq!(key.hash(&secret), back.hash(&secret));
            assert_ne!(key.hash(&secret), key.hash(&Secret::new([1, 3])));
        }
    }

    #[test]
    fn a_connection_of_a_port_with_itself_is_still_found() {
        let there = flow("10.0.0.1:80", "10.0.0.1:80");
        assert_eq!(Key::<Ipv4Addr>::of(&there), Key::<Ipv4Addr>::of(&there.reversed()));
    }
}
