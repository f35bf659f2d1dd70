//! The newest row of each tuple, found by either direction. Small, so that it stays
//! in the cache: a row is looked at only if its tuple has the same hash.

use std::{
    hash::{BuildHasher as _, RandomState},
    net::IpAddr,
};

use crate::conntrack::{Fetch, Flow};

/// Places at the beginning.
const FIRST: usize = 1 << 13;

/// What is indexed: rows by number.
pub(super) trait Indexed {
    fn flow(&self, row: u32) -> Option<&Flow>;
}

/// A row by its hash.
#[derive(Clone, Copy, Debug)]
struct Place {
    hash: u32,
    row: u32,
}

impl Place {
    const EMPTY: Self = Self { hash: 0, row: u32::MAX };

    fn row(self) -> Option<u32> {
        (self.row != u32::MAX).then_some(self.row)
    }
}

/// Places of rows, each as near behind the one that its hash names as there was room.
#[derive(Debug)]
pub(super) struct Index {
    places: Vec<Place>,
    used: usize,
    /// So that no capture can be made whose tuples share a place.
    keys: [u64; 2],
}

impl Default for Index {
    fn default() -> Self {
        let random = RandomState::new();
        Self { places: vec![Place::EMPTY; FIRST], used: 0, keys: [random.hash_one(1), random.hash_one(2)] }
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

    /// The places where a hash may lie, in turn, up to the first empty one.
    fn probe(&self, hash: u32) -> impl Iterator<Item = (usize, Place)> + '_ {
        let mask = self.places.len() - 1;
        (hash as usize..).map(move |at| at & mask).map(|at| (at, self.places[at]))
    }

    /// Asks for the place where a hash most likely lies.
    pub(super) fn fetch_place(&self, hash: u32, with: &impl Fetch) {
        let mask = self.places.len() - 1;
        with.fetch(&self.places[hash as usize & mask]);
    }

    /// The newest row with this hash, most likely that of its tuple.
    pub(super) fn likely(&self, hash: u32) -> Option<u32> {
        let (_, place) = self.probe(hash).find(|(_, place)| place.row().is_none() || place.hash == hash)?;
        place.row()
    }

    /// Where the newest row of a tuple lies, or would. Half of the places are empty, so
    /// there is one.
    fn place(&self, rows: &impl Indexed, hash: u32, flow: &Flow) -> Option<(usize, Place)> {
        self.probe(hash).find(|(_, place)| match place.row() {
            None => true,
            Some(row) => place.hash == hash && rows.flow(row).is_some_and(|known| is_same(known, flow)),
        })
    }

    /// The newest row of a tuple.
    pub(super) fn find(&self, rows: &impl Indexed, hash: u32, flow: &Flow) -> Option<u32> {
        self.place(rows, hash, flow)?.1.row()
    }

    /// Takes in a row, in place of an older one of its tuple.
    pub(super) fn insert(&mut self, rows: &impl Indexed, hash: u32, row: u32) {
        let Some(flow) = rows.flow(row) else { return };
        if (self.used + 1) * 2 > self.places.len() {
            self.grow();
        }
        let Some((at, known)) = self.place(rows, hash, flow) else { return };
        self.used += usize::from(known.row().is_none());
        self.places[at] = Place { hash, row };
    }

    fn grow(&mut self) {
        let places = vec![Place::EMPTY; self.places.len() * 4];
        for place in std::mem::replace(&mut self.places, places) {
            if place.row().is_some() {
                let free = self.probe(place.hash).find(|(_, place)| place.row().is_none());
                if let Some((at, _)) = free {
                    self.places[at] = place;
                }
            }
        }
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

    impl Indexed for Vec<Flow> {
        fn flow(&self, row: u32) -> Option<&Flow> {
            self.get(row as usize)
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
                assert_eq!(known, (round == 1).then_some(number));
                let row = rows.len() as u32;
                rows.push(flow);
                index.insert(&rows, hash, row);
                assert_eq!(index.find(&rows, hash, &flow.reversed()), Some(row));
                assert!(index.likely(hash).is_some());
            }
        }
        let used = index.places.iter().filter(|place| place.row().is_some()).count();
        assert_eq!((used, index.used), (20_000, 20_000));
        let moved = (0..index.places.len()).filter(|at| {
            let place = index.places[*at];
            place.row().is_some() && place.hash as usize & (index.places.len() - 1) != *at
        });
        assert!(moved.count() < 10_000, "most lie where their hash says");
    }

    #[test]
    fn tuples_of_one_hash_are_told_apart() {
        let (mut index, mut rows) = (Index::default(), Vec::new());
        for number in 0..100 {
            assert_eq!(index.find(&rows, 7, &flow(number)), None);
            rows.push(flow(number));
            index.insert(&rows, 7, number);
        }
        for number in 0..100 {
            assert_eq!(index.find(&rows, 7, &flow(number)), Some(number));
        }
    }
}
