//! Where the connections of a table lie, for whoever looks ahead without its lock. What is
//! read here may be out of date by the time it is used: then the wrong memory is fetched, and
//! nothing else happens.

use std::{
    marker::PhantomData,
    ptr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicPtr, AtomicU32, Ordering},
    },
};

use super::{
    fetch::Fetch,
    link::Link,
    slab::{Index, Slab},
};

/// Where each bucket begins ([`Link`]). Written under the table's lock only.
pub(super) type Buckets = Arc<[AtomicU32]>;

/// The bucket of a hash: as far into so many as its lower half is into all numbers.
#[expect(clippy::cast_possible_truncation, reason = "below the number of buckets")]
#[inline(always)]
pub(super) const fn bucket_of(hash: u64, buckets: usize) -> usize {
    ((hash as u32 as u64).wrapping_mul(buckets as u64) >> 32) as usize
}

/// Where entries of this kind lie. Nowhere until the table has had one.
#[derive(Debug)]
pub struct Ahead<T> {
    lists: OnceLock<Lists>,
    of: PhantomData<fn() -> T>,
}

#[derive(Debug)]
struct Lists {
    buckets: Buckets,
    /// Where each piece of the slab begins; a null pointer if it is not there yet.
    pieces: Box<[AtomicPtr<u8>]>,
}

impl<T> Default for Ahead<T> {
    fn default() -> Self {
        Self { lists: OnceLock::new(), of: PhantomData }
    }
}

impl<T> Ahead<T> {
    /// Octets that it takes beside the buckets, of a table made for `capacity`.
    #[must_use]
    pub const fn octets(capacity: usize) -> u64 {
        let list = pieces_for(capacity).saturating_mul(size_of::<AtomicPtr<u8>>());
        size_of::<Self>().saturating_add(list) as u64
    }

    /// There are buckets now, and will be no others.
    pub(super) fn begin(&self, buckets: &Buckets, capacity: usize) {
        let none = || AtomicPtr::new(ptr::null_mut());
        let pieces = std::iter::repeat_with(none).take(pieces_for(capacity)).collect();
        // Who comes second finds the same.
        let _ = self.lists.set(Lists { buckets: Arc::clone(buckets), pieces });
    }

    /// Notes where a slot lies that has just been filled.
    pub(super) fn note(&self, slot: Index, entries: &Slab<T>) {
        let Some(begin) = entries.piece_that_begins(slot) else { return };
        let place = self.lists.get().and_then(|lists| lists.pieces.get(slot as usize / Slab::<T>::PIECE));
        if let Some(place) = place {
            place.store(begin.cast_mut(), Ordering::Relaxed);
        }
    }

    /// Asks for the bucket where the search for a hash begins.
    pub fn fetch_bucket(&self, hash: u64, with: &impl Fetch) {
        if let Some(bucket) = self.lists.get().and_then(|lists| lists.bucket(hash)) {
            with.fetch(bucket);
        }
    }

    /// Asks for the first entry in the bucket, the newest one; reads only the bucket.
    pub fn fetch_first(&self, hash: u64, with: &impl Fetch) {
        let Some(lists) = self.lists.get() else { return };
        // That of an empty bucket is in no piece.
        let slot = lists.first(hash).slot() as usize;
        let Some(piece) = lists.pieces.get(slot / Slab::<T>::PIECE) else { return };
        let begin = piece.load(Ordering::Relaxed).cast_const();
        if !begin.is_null() {
            let octets = Slab::<T>::octets();
            let offset = (slot % Slab::<T>::PIECE).saturating_mul(octets);
            with.fetch_at(begin.wrapping_add(offset), octets);
        }
    }

    /// Whether the first entry in the bucket is not the one with this hash; reads only the
    /// bucket.
    #[must_use]
    pub fn is_first_another(&self, hash: u64) -> bool {
        self.lists.get().is_some_and(|lists| lists.first(hash).leads_to_another(hash))
    }
}

impl Lists {
    fn first(&self, hash: u64) -> Link {
        let bucket = self.bucket(hash);
        bucket.map_or(Link::NOWHERE, |bucket| Link::of_word(bucket.load(Ordering::Relaxed)))
    }

    fn bucket(&self, hash: u64) -> Option<&AtomicU32> {
        self.buckets.get(bucket_of(hash, self.buckets.len()))
    }
}

/// Pieces of which is known where they are: of some more entries than the table is made for.
/// What lies in others is not fetched ahead.
const fn pieces_for(capacity: usize) -> usize {
    let entries = capacity.saturating_add(capacity / 16);
    (entries / Slab::<()>::PIECE).saturating_add(2)
}
