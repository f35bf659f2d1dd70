//! Sets of networks, looked up by address.
//!
//! A set is kept as sorted ranges that neither touch nor overlap, one vector per
//! family, so that a lookup is one binary search whatever was typed.

use std::{
    cmp::Ordering,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;

/// A set of IPv4 and IPv6 networks. Lookup is a binary search over merged,
/// sorted ranges; lists may hold 100,000 networks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct NetworkSet {
    v4: Vec<(u32, u32)>,
    v6: Vec<(u128, u128)>,
}

impl NetworkSet {
    /// A set of these networks, in any order, overlapping or not. Host bits
    /// are ignored.
    #[must_use]
    pub fn new(networks: Vec<IpNet>) -> Self {
        let mut v4 = Vec::new();
        let mut v6 = Vec::new();
        for network in networks {
            match network {
                IpNet::V4(net) => v4.push((u32::from(net.network()), u32::from(net.broadcast()))),
                IpNet::V6(net) => v6.push((u128::from(net.network()), u128::from(net.broadcast()))),
            }
        }
        Self { v4: merged(v4, |end| end.checked_add(1)), v6: merged(v6, |end| end.checked_add(1)) }
    }

    /// Every address of both families.
    #[must_use]
    pub fn everything() -> Self {
        Self { v4: vec![(0, u32::MAX)], v6: vec![(0, u128::MAX)] }
    }

    /// Whether an address lies in one of the networks.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => find(&self.v4, u32::from(address)).is_some(),
            IpAddr::V6(address) => find(&self.v6, u128::from(address)).is_some(),
        }
    }

    /// Whether every address of `other` lies in `self`.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        // Ranges of a set never touch, so a covered range lies in one of ours.
        fn all<T: Ord + Copy>(ours: &[(T, T)], theirs: &[(T, T)]) -> bool {
            theirs.iter().all(|&(first, last)| find(ours, first).is_some_and(|(_, end)| last <= end))
        }
        std::ptr::eq(self, other) || all(&self.v4, &other.v4) && all(&self.v6, &other.v6)
    }

    /// Whether an address lies in both.
    #[must_use]
    pub fn intersects(&self, other: &Self) -> bool {
        fn any<T: Ord + Copy>(ours: &[(T, T)], theirs: &[(T, T)]) -> bool {
            // The first of our ranges that ends at or behind the start is the only candidate.
            theirs.iter().any(|&(first, last)| {
                let at = ours.partition_point(|&(_, end)| end < first);
                ours.get(at).is_some_and(|&(start, _)| start <= last)
            })
        }
        any(&self.v4, &other.v4) || any(&self.v6, &other.v6)
    }

    /// Whether it holds no address.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    /// Whether it holds IPv4 addresses, and whether it holds IPv6 addresses.
    #[must_use]
    pub fn families(&self) -> (bool, bool) {
        (!self.v4.is_empty(), !self.v6.is_empty())
    }

    /// Its IPv4 ranges, first and last addresses, in order; none touches the next.
    pub(super) fn ipv4(&self) -> impl Iterator<Item = (u32, u32)> {
        self.v4.iter().copied()
    }

    /// Its IPv6 ranges, as those of IPv4.
    pub(super) fn ipv6(&self) -> impl Iterator<Item = (u128, u128)> {
        self.v6.iter().copied()
    }

    /// The lowest address of a family that it holds.
    #[must_use]
    pub fn lowest(&self, is_ipv6: bool) -> Option<IpAddr> {
        if is_ipv6 {
            self.v6.first().map(|(first, _)| Ipv6Addr::from(*first).into())
        } else {
            self.v4.first().map(|(first, _)| Ipv4Addr::from(*first).into())
        }
    }

    /// How many ranges are searched.
    #[must_use]
    pub fn ranges(&self) -> usize {
        self.v4.len().saturating_add(self.v6.len())
    }
}

/// The range that holds `value`.
fn find<T: Ord + Copy>(ranges: &[(T, T)], value: T) -> Option<(T, T)> {
    let found = ranges.binary_search_by(|&(first, last)| {
        if last < value {
            Ordering::Less
        } else if first > value {
            Ordering::Greater
        } else {
            Ordering::Equal
        }
    });
    found.ok().and_then(|at| ranges.get(at).copied())
}

/// Sorts the ranges and joins those that overlap or touch.
fn merged<T: Ord + Copy>(mut ranges: Vec<(T, T)>, next: impl Fn(T) -> Option<T>) -> Vec<(T, T)> {
    ranges.sort_unstable();
    let mut out: Vec<(T, T)> = Vec::with_capacity(ranges.len());
    for (first, last) in ranges {
        match out.last_mut() {
            Some((_, end)) if next(*end).is_none_or(|after| first <= after) => *end = last.max(*end),
            _ => out.push((first, last)),
        }
    }
    out.shrink_to_fit();
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn set(texts: &[&str]) -> NetworkSet {
        NetworkSet::new(texts.iter().map(|text| net(text)).collect())
    }

    #[test]
    fn neighbours_and_overlaps_become_one_range() {
        let merged = set(&["10.0.1.0/24", "10.0.0.0/24", "10.0.0.128/25", "fd00::/16"]);
        assert_eq!(merged.ranges(), 2);
        assert!(merged.contains("10.0.1.255".parse().unwrap()));
        assert!(!merged.contains("10.0.2.0".parse().unwrap()));
        assert!(!merged.contains("::ffff:10.0.0.1".parse().unwrap()));
    }

    #[test]
    fn the_last_address_is_no_trap() {
        let all = set(&["0.0.0.0/0", "255.255.255.255/32", "::/0"]);
        assert_eq!(all, NetworkSet::everything());
        assert!(all.contains("255.255.255.255".parse().unwrap()));
    }

    #[test]
    fn covering_is_not_touching() {
        assert!(set(&["10.0.0.0/8"]).covers(&set(&["10.1.0.0/16", "10.255.0.0/16"])));
        assert!(!set(&["10.0.0.0/9"]).covers(&set(&["10.0.0.0/8"])));
        assert!(!set(&["10.0.0.0/8"]).covers(&set(&["fd00::/8"])));
        assert!(set(&["10.0.0.0/9"]).intersects(&set(&["10.0.0.0/8"])));
        assert!(!set(&["10.0.0.0/8"]).intersects(&set(&["11.0.0.0/8", "fd00::/8"])));
    }

    prop_compose! {
        /// Networks of a small corner of the address space, so that they meet.
        fn network()(bits in 0_u32..=255, prefix in 24_u8..=32, six in any::<bool>()) -> IpNet {
            let address: IpAddr = if six {
                std::net::Ipv6Addr::from(u128::from(bits)).into()
            } else {
                std::net::Ipv4Addr::from(bits).into()
            };
            IpNet::new(address, if six { prefix + 96 } else { prefix }).unwrap()
        }
    }

    proptest! {
        #[test]
        fn the_set_is_what_a_scan_of_its_networks_says(
            networks in proptest::collection::vec(network(), 0..12),
            others in proptest::collection::vec(network(), 0..4),
        ) {
            let ours = NetworkSet::new(networks.clone());
            let theirs = NetworkSet::new(others.clone());
            let scan = |list: &[IpNet], address: IpAddr| list.iter().any(|net| net.contains(&address));
            let mut covers = true;
            let mut intersects = false;
            for low in 0..=256_u32 {
                for address in [
                    IpAddr::from(std::net::Ipv4Addr::from(low)),
                    IpAddr::from(std::net::Ipv6Addr::from(u128::from(low))),
                ] {
                    let (a, b) = (scan(&networks, address), scan(&others, address));
                    prop_assert_eq!(ours.contains(address), a);
                    covers &= a || !b;
                    intersects |= a && b;
                }
            }
            prop_assert_eq!(ours.covers(&theirs), covers);
            prop_assert_eq!(ours.intersects(&theirs), intersects);
        }
    }
}
