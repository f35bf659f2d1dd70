//! The newest row of each tuple, found by either direction. Small, so that it
//! stays in the cache: a number for each bucket, and the rest in the rows.

use std::{
    hash::{BuildHasher as _, RandomState},
    net::IpAddr,
};

use crate::conntrack::Flow;

/// No row.
pub(super) const NONE: u32 = u32::MAX;

/// Buckets at the beginning.
const FIRST: usize = 1 << 12;

/// What is indexed.
pub(super) trait Indexed {
    fn hash(&self) -> u32;
    fn flow(&self) -> &Flow;
    /// The next older one in the same bucket.
    fn older(&self) -> u32;
    fn set_older(&mut self, row: u32);
}

/// Buckets of rows, the newest first.
#[derive(Debug)]
pub(super) struct Index {
    heads: Vec<u32>,
    /// So that no capture can be made whose tuples share a bucket.
    keys: [u64; 2],
}

impl Default for Index {
    fn default() -> Self {
        let random = RandomState::new();
        Self { heads: vec![NONE; FIRST], keys: [random.hash_one(1), random.hash_one(2)] }
    }
}

/// The two halves of a product.
fn folded(one: u64, other: u64) -> u64 {
    let product = u128::from(one) * u128::from(other);
    (product as u64) ^ ((product >> 64) as u64)
}

impl Index {
    /// The same for both directions.
    pub(super) fn hash(&self, flow: &Flow) -> u32 {
        let [one, two] = self.keys;
        let ports = |first: u16, second: u16| {
            (u64::from(first) << 32) | (u64::from(second) << 16) | u64::from(flow.protocol.0)
        };
        let mixed = match (flow.src, flow.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let (src, dst) = ((src.to_bits(), flow.src_port), (dst.to_bits(), flow.dst_port));
                let (low, high) = if src <= dst { (src, dst) } else { (dst, src) };
                let both = (u64::from(low.0) << 32) | u64::from(high.0);
                folded(both ^ one, ports(low.1, high.1) ^ two)
            }
            (src, dst) => {
                let (src, dst) = ((bits(src), flow.src_port), (bits(dst), flow.dst_port));
                let (low, high) = if src <= dst { (src, dst) } else { (dst, src) };
                let half = |address: u128| folded(address as u64 ^ one, ((address >> 64) as u64) ^ two);
                folded(half(low.0) ^ one, half(high.0).rotate_left(7) ^ ports(low.1, high.1) ^ two)
            }
        };
        (folded(mixed ^ two, one | 1) >> 16) as u32
    }

    fn bucket(&self, hash: u32) -> usize {
        hash as usize & (self.heads.len() - 1)
    }

    /// The newest row of a bucket, which need not be that of the tuple.
    pub(super) fn head(&self, hash: u32) -> u32 {
        self.heads[self.bucket(hash)]
    }

    /// The newest row of a tuple.
    pub(super) fn find<R: Indexed>(&self, rows: &[R], hash: u32, flow: &Flow) -> Option<usize> {
        let mut at = self.head(hash);
        while let Some(row) = rows.get(at as usize) {
            if row.hash() == hash && is_same(row.flow(), flow) {
                return Some(at as usize);
            }
            at = row.older();
        }
        None
    }

    /// Takes in the last of the rows.
    pub(super) fn insert<R: Indexed>(&mut self, rows: &mut [R]) {
        if rows.len() > self.heads.len() {
            self.heads = vec![NONE; self.heads.len() * 4];
            for at in 0..rows.len() {
                self.link(rows, at);
            }
        } else if let Some(last) = rows.len().checked_sub(1) {
            self.link(rows, last);
        }
    }

    fn link<R: Indexed>(&mut self, rows: &mut [R], at: usize) {
        let bucket = self.bucket(rows[at].hash());
        rows[at].set_older(self.heads[bucket]);
        self.heads[bucket] = u32::try_from(at).unwrap_or(NONE);
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// Whether two flows are one tuple, in either direction.
pub(super) fn is_same(one: &Flow, other: &Flow) -> bool {
    *one == *other || *one == other.reversed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Protocol;

    struct Row(Flow, u32, u32);

    impl Indexed for Row {
        fn hash(&self) -> u32 {
            self.1
        }

        fn flow(&self) -> &Flow {
            &self.0
        }

        fn older(&self) -> u32 {
            self.2
        }

        fn set_older(&mut self, row: u32) {
            self.2 = row;
        }
    }

    fn flow(number: u32) -> Flow {
        let address: [IpAddr; 2] = if number.is_multiple_of(2) {
            [[10, 0, 0, 1].into(), [10, 0, 0, 2].into()]
        } else {
            [std::net::Ipv6Addr::LOCALHOST.into(), std::net::Ipv6Addr::from(number as u128).into()]
        };
        Flow {
            protocol: Protocol::TCP,
            src: address[usize::from(number.is_multiple_of(3))],
            src_port: number as u16,
            dst: address[usize::from(!number.is_multiple_of(3))],
            dst_port: 80,
        }
    }

    #[test]
    fn the_newest_is_found_from_both_sides_however_many_there_are() {
        let (mut index, mut rows) = (Index::default(), Vec::new());
        let hashes: Vec<u32> = (0..20_000).map(|number| index.hash(&flow(number))).collect();
        for round in 0..2 {
            for number in 0..20_000 {
                let (flow, hash) = (flow(number), hashes[number as usize]);
                assert_eq!(index.hash(&flow.reversed()), hash);
                let known = index.find(&rows, hash, &flow);
                assert_eq!(known, (round == 1).then_some(number as usize));
                rows.push(Row(flow, hash, NONE));
                index.insert(&mut rows);
                assert_eq!(index.find(&rows, hash, &flow.reversed()), Some(rows.len() - 1));
            }
        }
        let used = index.heads.iter().filter(|head| **head != NONE).count();
        assert!(used > 10_000, "{used} buckets for 20,000 tuples");
    }
}
