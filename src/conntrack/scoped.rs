//! Values by scope or another key that strangers can choose, found by a keyed hash.

use std::hash::{BuildHasher, Hash};

use siphasher::sip::SipHasher13;

use super::chained::{Chained, Spread};

/// Hashes with a secret, so that nobody outside can choose collisions.
#[derive(Clone, Copy, Debug)]
pub struct Seeded(pub [u64; 2]);

impl BuildHasher for Seeded {
    type Hasher = SipHasher13;

    fn build_hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_keys(self.0[0], self.0[1])
    }
}

impl<K: Hash> Spread<K> for Seeded {
    /// As far into the buckets as its hash is into all numbers.
    #[expect(clippy::cast_possible_truncation, reason = "half of a hash is one as well")]
    fn bucket(&self, key: &K, buckets: usize) -> usize {
        (u64::from(self.hash_one(key) as u32).wrapping_mul(buckets as u64) >> 32) as usize
    }
}

/// A value for each of many scopes.
pub type Scoped<K, T> = Chained<K, T, Seeded>;

impl<K: Copy + Eq + Hash, T> Scoped<K, T> {
    /// None yet, for about so many.
    pub fn new(seed: [u64; 2], capacity: usize) -> Self {
        Self::with(Seeded(seed), capacity)
    }
}
