//! Values by scope or another key, found by a keyed hash. How much memory they take follows from how
//! many there are, whatever came and went; growing moves nothing, so that no step takes
//! longer than another.

use std::{
    hash::{BuildHasher, Hash},
    mem::size_of,
};

use siphasher::sip::SipHasher13;

use super::slab::{Index, NONE, Slab};

/// Hashes with a secret, so that nobody outside can choose collisions.
#[derive(Clone, Copy, Debug)]
pub struct Seeded(pub [u64; 2]);

impl BuildHasher for Seeded {
    type Hasher = SipHasher13;

    fn build_hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_keys(self.0[0], self.0[1])
    }
}

#[derive(Debug)]
struct Entry<K, T> {
    scope: K,
    /// The next one in the same bucket.
    next: Index,
    value: T,
}

/// A value for each of many scopes.
#[derive(Debug)]
pub struct Scoped<K, T> {
    seed: Seeded,
    /// The first of each bucket, one higher: 0 is none.
    buckets: Box<[u32]>,
    entries: Slab<Entry<K, T>>,
}

/// Buckets for about so many scopes; more fit, only slower.
fn buckets_for(capacity: usize) -> usize {
    capacity.max(16).next_power_of_two()
}

impl<K: Copy + Eq + Hash, T> Scoped<K, T> {
    /// None yet.
    pub fn new(seed: [u64; 2], capacity: usize) -> Self {
        let buckets = vec![0; buckets_for(capacity)].into_boxed_slice();
        Self { seed: Seeded(seed), buckets, entries: Slab::default() }
    }

    /// Octets that at most so many scopes at once ever take.
    #[must_use]
    pub const fn most_octets(capacity: usize, scopes: u64) -> u64 {
        let buckets = match capacity {
            0..16 => 16,
            more => more.next_power_of_two(),
        };
        let buckets = (buckets as u64).saturating_mul(size_of::<u32>() as u64);
        buckets.saturating_add(Slab::<Entry<K, T>>::most_octets(scopes))
    }

    fn bucket(&self, scope: &K) -> usize {
        let mask = self.buckets.len().wrapping_sub(1);
        #[expect(clippy::cast_possible_truncation, reason = "masked to the number of buckets")]
        let hash = self.seed.hash_one(scope) as usize;
        hash & mask
    }

    /// Where a scope's value is.
    pub fn find(&self, scope: &K) -> Option<Index> {
        let mut at = self.buckets.get(self.bucket(scope))?.wrapping_sub(1);
        while let Some(entry) = self.entries.get(at) {
            if entry.scope == *scope {
                return Some(at);
            }
            at = entry.next;
        }
        None
    }

    /// The value at a place.
    pub fn get(&self, at: Index) -> Option<&T> {
        self.entries.get(at).map(|entry| &entry.value)
    }

    /// The value at a place.
    pub fn get_mut(&mut self, at: Index) -> Option<&mut T> {
        self.entries.get_mut(at).map(|entry| &mut entry.value)
    }

    /// Where a scope's value is, which is made if there is none. `None`: there are too many.
    pub fn find_or_insert(&mut self, scope: &K, new: T) -> Option<Index> {
        if let Some(at) = self.find(scope) {
            return Some(at);
        }
        let bucket = self.bucket(scope);
        let first = self.buckets.get_mut(bucket)?;
        let at = self.entries.insert(Entry { scope: *scope, next: first.wrapping_sub(1), value: new })?;
        *first = at.wrapping_add(1);
        Some(at)
    }

    /// Takes a value out of its place, which may be another's from then on.
    pub fn remove(&mut self, at: Index) -> Option<T> {
        let Entry { scope, next, value } = self.entries.remove(at)?;
        let bucket = self.bucket(&scope);
        let first = self.buckets.get_mut(bucket)?;
        if first.wrapping_sub(1) == at {
            *first = next.wrapping_add(1);
            return Some(value);
        }
        let mut before = first.wrapping_sub(1);
        while let Some(entry) = self.entries.get_mut(before) {
            if entry.next == at {
                entry.next = next;
                break;
            }
            before = entry.next;
        }
        Some(value)
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &T)> {
        let all = (0..self.entries.bound()).filter_map(|at| self.entries.get(at));
        all.map(|entry| (&entry.scope, &entry.value))
    }
}

const _: () = assert!(NONE == u32::MAX, "an empty bucket and the end of a chain are the same number");

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::conntrack::embryonic::Scope;

    proptest! {
        /// Against a map: whatever comes and goes, in buckets that are too few.
        #[test]
        fn agrees_with_a_map(ops in prop::collection::vec((any::<bool>(), 0_u16..60), 1..400)) {
            let (mut scoped, mut map) = (Scoped::new([1, 2], 0), HashMap::new());
            for (number, (comes, group)) in ops.into_iter().enumerate() {
                let scope = Scope::Total { group };
                if comes {
                    let at = scoped.find_or_insert(&scope, number).unwrap();
                    let known = *map.entry(scope).or_insert(number);
                    prop_assert_eq!(scoped.get(at), Some(&known));
                } else {
                    let gone = scoped.find(&scope).and_then(|at| scoped.remove(at));
                    prop_assert_eq!(gone, map.remove(&scope));
                }
                let all: HashMap<Scope, usize> = scoped.iter().map(|(scope, value)| (*scope, *value)).collect();
                prop_assert_eq!(&all, &map);
                for (scope, value) in &map {
                    let found = scoped.find(scope).and_then(|at| scoped.get(at));
                    prop_assert_eq!(found, Some(value));
                }
            }
        }
    }
}
