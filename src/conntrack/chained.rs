//! Values by key, in buckets whose chains run through a slab. How much memory they take
//! follows from how many there are, whatever came and went; there are no buckets before the
//! first value, and growing moves nothing, so that no step takes longer than another.

use std::mem::size_of;

use super::slab::{Index, NONE, Slab};

/// How keys are spread over buckets.
pub trait Spread<K> {
    /// Which of so many buckets a key is in: all should be as likely.
    fn bucket(&self, key: &K, buckets: usize) -> usize;
}

#[derive(Debug)]
struct Entry<K, T> {
    key: K,
    /// The next one in the same bucket.
    next: Index,
    value: T,
}

/// A value for each of many keys.
#[derive(Debug)]
pub struct Chained<K, T, S> {
    spread: S,
    /// The first of each bucket, one higher: 0 is none.
    buckets: Box<[u32]>,
    capacity: usize,
    entries: Slab<Entry<K, T>>,
}

/// Buckets for about so many values; more fit, only slower.
const fn buckets_for(capacity: usize) -> usize {
    match capacity {
        0..16 => 16,
        more => more,
    }
}

impl<K: Copy + Eq, T, S: Spread<K>> Chained<K, T, S> {
    /// None yet.
    pub fn with(spread: S, capacity: usize) -> Self {
        Self { spread, buckets: Box::default(), capacity, entries: Slab::default() }
    }

    /// Octets that at most so many values at once ever take.
    #[must_use]
    pub const fn most_octets(capacity: usize, values: u64) -> u64 {
        let buckets = (buckets_for(capacity) as u64).saturating_mul(size_of::<u32>() as u64);
        buckets.saturating_add(Slab::<Entry<K, T>>::most_octets(values))
    }

    /// How many there are.
    pub fn len(&self) -> u32 {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn bucket(&self, key: &K) -> usize {
        self.spread.bucket(key, self.buckets.len())
    }

    /// Where a key's value is.
    pub fn find(&self, key: &K) -> Option<Index> {
        let mut at = self.buckets.get(self.bucket(key))?.wrapping_sub(1);
        while let Some(entry) = self.entries.get(at) {
            if entry.key == *key {
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

    /// Where a key's value is, which is made if there is none. `None`: there are too many.
    pub fn find_or_insert(&mut self, key: &K, new: T) -> Option<Index> {
        if let Some(at) = self.find(key) {
            return Some(at);
        }
        if self.buckets.is_empty() {
            self.buckets = vec![0; buckets_for(self.capacity)].into_boxed_slice();
        }
        let bucket = self.bucket(key);
        let first = self.buckets.get_mut(bucket)?;
        let at = self.entries.insert(Entry { key: *key, next: first.wrapping_sub(1), value: new })?;
        *first = at.wrapping_add(1);
        Some(at)
    }

    /// Takes a value out of its place, which may be another's from then on.
    pub fn remove(&mut self, at: Index) -> Option<T> {
        let Entry { key, next, value } = self.entries.remove(at)?;
        let bucket = self.bucket(&key);
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
        all.map(|entry| (&entry.key, &entry.value))
    }
}

const _: () = assert!(NONE == u32::MAX, "an empty bucket and the end of a chain are the same number");

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    /// No better than it must be.
    struct Poor;

    impl Spread<u16> for Poor {
        fn bucket(&self, key: &u16, buckets: usize) -> usize {
            usize::from(*key % 5).min(buckets)
        }
    }

    proptest! {
        /// Against a map: whatever comes and goes, in buckets that are too few.
        #[test]
        fn agrees_with_a_map(ops in prop::collection::vec((any::<bool>(), 0_u16..60), 1..400)) {
            let (mut chained, mut map) = (Chained::with(Poor, 0), HashMap::new());
            for (number, (comes, key)) in ops.into_iter().enumerate() {
                if comes {
                    let at = chained.find_or_insert(&key, number).unwrap();
                    let known = *map.entry(key).or_insert(number);
                    prop_assert_eq!(chained.get(at), Some(&known));
                } else {
                    let gone = chained.find(&key).and_then(|at| chained.remove(at));
                    prop_assert_eq!(gone, map.remove(&key));
                }
                let all: HashMap<u16, usize> = chained.iter().map(|(key, value)| (*key, *value)).collect();
                prop_assert_eq!(&all, &map);
                prop_assert_eq!((chained.len() as usize, chained.is_empty()), (map.len(), map.is_empty()));
                for (key, value) in &map {
                    let found = chained.find(key).and_then(|at| chained.get(at));
                    prop_assert_eq!(found, Some(value));
                }
            }
        }
    }
}
