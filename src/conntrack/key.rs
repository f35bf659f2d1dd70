//! What a connection is found by.
//!
//! Both directions of a connection have the same key: its two endpoints in a
//! fixed order. Which of them opened it is the connection's own knowledge.

use std::{
    hash::{Hash, Hasher},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use siphasher::sip::SipHasher13;

use super::{Direction, Flow};
use crate::wire::Protocol;

/// An address of one family; a table holds connections of one family, so that
/// an IPv4 connection does not pay for IPv6 addresses.
pub trait Address: Copy + Eq + Hash + Send + std::fmt::Debug + Into<IpAddr> + 'static {
    /// What endpoints are put in order by.
    type Rank: Ord;

    /// The place of an address with a port among others.
    fn rank(self, port: u16) -> Self::Rank;

    /// The address, if it is of this family.
    fn from_ip(address: IpAddr) -> Option<Self>;

    /// Gives the address to a hasher, in as few words as it has.
    fn feed(self, hasher: &mut SipHasher13);
}

impl Address for Ipv4Addr {
    type Rank = u64;

    fn rank(self, port: u16) -> u64 {
        u64::from(self.to_bits()) << 16 | u64::from(port)
    }

    fn from_ip(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        }
    }

    fn feed(self, hasher: &mut SipHasher13) {
        hasher.write_u32(self.to_bits());
    }
}

impl Address for Ipv6Addr {
    type Rank = (u128, u16);

    fn rank(self, port: u16) -> (u128, u16) {
        (self.to_bits(), port)
    }

    fn from_ip(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V6(address) => Some(address),
            IpAddr::V4(_) => None,
        }
    }

    fn feed(self, hasher: &mut SipHasher13) {
        let bits = self.to_bits();
        hasher.write_u64((bits >> 64) as u64);
        hasher.write_u64(bits as u64);
    }
}

/// Two endpoints in a fixed order and a protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(Rust, packed)]
pub struct Key<A> {
    low: A,
    high: A,
    low_port: u16,
    high_port: u16,
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
    #[inline]
    pub fn between(src: (A, u16), dst: (A, u16), protocol: Protocol) -> (Self, Sender) {
        let in_order = src.0.rank(src.1) <= dst.0.rank(dst.1);
        let (low, high, sender) = if in_order { (src, dst, Sender::Low) } else { (dst, src, Sender::High) };
        (Self { low: low.0, high: high.0, low_port: low.1, high_port: high.1, protocol }, sender)
    }

    /// The flow that `opener` sees as original.
    #[must_use]
    pub fn flow(&self, opener: Sender) -> Flow {
        let low_first = Flow {
            protocol: self.protocol,
            src: self.low.into(),
            src_port: self.low_port,
            dst: self.high.into(),
            dst_port: self.high_port,
        };
        match opener {
            Sender::Low => low_first,
            Sender::High => low_first.reversed(),
        }
    }

    /// A keyed hash: with a random seed nobody outside can choose collisions.
    #[must_use]
    #[inline]
    pub fn hash(&self, seed: [u64; 2]) -> u64 {
        let mut hasher = SipHasher13::new_with_keys(seed[0], seed[1]);
        self.low.feed(&mut hasher);
        self.high.feed(&mut hasher);
        hasher.write_u32(u32::from(self.low_port) << 16 | u32::from(self.high_port));
        hasher.write_u8(self.protocol.0);
        hasher.finish()
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
            assert_eq!(key.hash([1, 2]), back.hash([1, 2]));
            assert_ne!(key.hash([1, 2]), key.hash([1, 3]));
        }
    }

    #[test]
    fn a_connection_of_a_port_with_itself_is_still_found() {
        let there = flow("10.0.0.1:80", "10.0.0.1:80");
        assert_eq!(Key::<Ipv4Addr>::of(&there), Key::<Ipv4Addr>::of(&there.reversed()));
    }
}
