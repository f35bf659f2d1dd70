//! The connections of one address family in one shard: found by key, held in a
//! slab, timed by a wheel. Insert, lookup, removal and expiry take constant time,
//! and growing moves nothing.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use super::{
    Connection, Instant, Secret,
    ahead::{Ahead, Buckets, bucket_of},
    fetch::Fetch,
    key::{Address, Key},
    line::{Line, Neighbours},
    link::Link,
    rare::{Beside, Live, Rare, Whole},
    slab::{Index, Slab},
    wheel::{Links, Popped, Timed, Wheel},
};

/// A connection's place in its table.
pub type Slot = Index;

/// The lines that a table has; what stands in which is its owner's business.
pub const LINES: usize = 8;

/// A connection with its key. What it is made of is packed: of each gap in it there would
/// be millions.
#[derive(Debug)]
pub struct Entry<A: Address> {
    /// What it is found by.
    pub key: Key<A>,
    /// What is known of it.
    pub connection: Connection,
    /// The next one in the same bucket.
    next: Link,
    links: Links,
}

impl<A: Address> Entry<A> {
    /// Whether it need not be looked at before or at `now`.
    #[must_use]
    pub const fn is_early(&self, now: Instant) -> bool {
        Wheel::is_early(&self.links, now)
    }
}

impl<A: Address> Timed for Entry<A> {
    fn links(&self) -> &Links {
        &self.links
    }

    fn links_mut(&mut self) -> &mut Links {
        &mut self.links
    }
}

/// A table has no fewer buckets.
const LEAST_BUCKETS: usize = 64;

/// The table.
#[derive(Debug)]
pub struct Table<A: Address> {
    /// There are none before the first connection: many know one address family only.
    buckets: Buckets,
    ahead: Arc<Ahead<Entry<A>>>,
    capacity: usize,
    entries: Slab<Entry<A>>,
    rare: Beside<Rare>,
    wheel: Wheel,
    lines: [(Line, u32); LINES],
    /// Of those who stand in a line.
    neighbours: Beside<Neighbours>,
}

impl<A: Address> Table<A> {
    /// A table for about `capacity` connections; more fit, only slower.
    #[must_use]
    pub fn new(capacity: usize, now: Instant) -> Self {
        Self {
            buckets: Arc::new([]),
            ahead: Arc::default(),
            capacity,
            entries: Slab::default(),
            rare: Beside::new(capacity),
            wheel: Wheel::new(now),
            lines: Default::default(),
            neighbours: Beside::new(capacity),
        }
    }

    /// Octets that a table made for `capacity`, with at most `most` connections at once,
    /// ever takes beside itself.
    #[must_use]
    pub const fn most_octets(capacity: usize, most: u64) -> u64 {
        let buckets = if capacity < LEAST_BUCKETS { LEAST_BUCKETS } else { capacity };
        (buckets as u64)
            .saturating_mul(size_of::<u32>() as u64)
            .saturating_add(Ahead::<Entry<A>>::octets(capacity))
            .saturating_add(Slab::<Entry<A>>::most_octets(most))
            .saturating_add(Beside::<Rare>::most_octets_beside(capacity, most))
            .saturating_add(Beside::<Neighbours>::most_octets_beside(capacity, most))
    }

    /// How many connections there are.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.entries.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// One more than the highest slot ever used: the bound for walking.
    #[must_use]
    pub fn bound(&self) -> Slot {
        self.entries.bound()
    }

    /// What looking ahead for its connections needs, without a lock.
    #[must_use]
    pub fn ahead(&self) -> Arc<Ahead<Entry<A>>> {
        Arc::clone(&self.ahead)
    }

    #[inline(always)]
    fn bucket(&self, hash: u64) -> Option<&AtomicU32> {
        self.buckets.get(bucket_of(hash, self.buckets.len()))
    }

    /// The slot of a connection.
    #[must_use]
    pub fn find(&self, key: &Key<A>, hash: u64) -> Option<Slot> {
        self.find_from(self.first(hash)?.slot(), key)
    }

    /// As [`Self::find`], with the entry itself.
    #[inline(always)]
    pub fn find_mut(&mut self, key: &Key<A>, hash: u64) -> Option<(Slot, &mut Entry<A>)> {
        let first = self.first(hash)?.slot();
        // Nearly always it is the only one there.
        let entry = self.entries.get(first)?;
        if entry.key == *key {
            return Some((first, self.entries.get_mut(first)?));
        }
        let next = entry.next.slot();
        self.find_mut_from(next, key.parts())
    }

    #[inline(never)]
    fn find_mut_from(&mut self, mut slot: Slot, parts: (A::Pair, u64)) -> Option<(Slot, &mut Entry<A>)> {
        loop {
            let entry = self.entries.get(slot)?;
            if entry.key.parts() == parts {
                return Some((slot, self.entries.get_mut(slot)?));
            }
            slot = entry.next.slot();
        }
    }

    /// Where a bucket begins.
    #[inline(always)]
    fn first(&self, hash: u64) -> Option<Link> {
        Some(Link::of_word(self.bucket(hash)?.load(Ordering::Relaxed)))
    }

    /// Asks for the second entry in the bucket of a hash; reads the first.
    pub fn fetch_second(&self, hash: u64, with: &impl Fetch) {
        let first = self.first(hash).and_then(|first| self.entries.get(first.slot()));
        if let Some(first) = first {
            self.entries.fetch(first.next.slot(), with);
        }
    }

    fn find_from(&self, mut slot: Slot, key: &Key<A>) -> Option<Slot> {
        while let Some(entry) = self.entries.get(slot) {
            if entry.key == *key {
                return Some(slot);
            }
            slot = entry.next.slot();
        }
        None
    }

    /// The entry in a slot.
    #[must_use]
    pub fn get(&self, slot: Slot) -> Option<&Entry<A>> {
        self.entries.get(slot)
    }

    /// The entry in a slot.
    pub fn get_mut(&mut self, slot: Slot) -> Option<&mut Entry<A>> {
        self.entries.get_mut(slot)
    }

    /// A copy of all that is known of a connection.
    #[must_use]
    pub fn whole(&self, slot: Slot) -> Option<Whole> {
        let common = self.entries.get(slot)?.connection;
        let rare = if common.has_rare() { self.rare.of(slot) } else { None };
        Some(Whole { common, rare: rare.copied().unwrap_or_default() })
    }

    /// All that is known of a connection, to be changed.
    #[inline]
    pub fn live(&mut self, slot: Slot) -> Option<Live<'_>> {
        let entry = self.entries.get_mut(slot)?;
        Some(Live::of(&mut entry.connection, &mut self.rare, slot))
    }

    /// Adds a connection that is not in the table; it is looked at again at `due`.
    pub fn insert(&mut self, key: Key<A>, hash: u64, whole: Whole, due: Instant) -> Option<Slot> {
        if self.buckets.is_empty() {
            let empty = || AtomicU32::new(0);
            self.buckets = std::iter::repeat_with(empty).take(self.capacity.max(LEAST_BUCKETS)).collect();
            self.entries.make_list(self.capacity);
            self.ahead.begin(&self.buckets, self.capacity);
        }
        let first = self.first(hash)?;
        let (links, mut connection) = (Links::default(), whole.common);
        connection.set_has_rare(false);
        let slot = self.entries.insert(Entry { key, connection, next: first, links })?;
        let Some(link) = Link::to(slot, hash) else {
            self.entries.remove(slot);
            return None;
        };
        self.ahead.note(slot, &self.entries);
        self.bucket(hash)?.store(link.word(), Ordering::Relaxed);
        if let Some(mut live) = self.live(slot) {
            *live.rare_mut() = whole.rare;
        }
        self.wheel.insert(&mut self.entries, slot, due);
        Some(slot)
    }

    /// Puts a connection behind all others in a line. `false`: it stands in one.
    pub fn line_up(&mut self, slot: Slot, line: usize) -> bool {
        let Some((line, count)) = self.lines.get_mut(line) else { return false };
        let joined = line.join(&mut self.neighbours, slot);
        *count = count.saturating_add(u32::from(joined));
        joined
    }

    /// Takes a connection out of the line that it stands in. `false`: it stands in none.
    pub fn step_out(&mut self, slot: Slot, line: usize) -> bool {
        let Some((line, count)) = self.lines.get_mut(line) else { return false };
        let left = line.leave(&mut self.neighbours, slot);
        *count = count.saturating_sub(u32::from(left));
        left
    }

    /// Who joined a line first.
    #[must_use]
    pub fn first_in_line(&self, line: usize) -> Option<Slot> {
        self.lines.get(line)?.0.first()
    }

    /// How many stand in a line.
    #[must_use]
    pub fn in_line(&self, line: usize) -> u32 {
        self.lines.get(line).map_or(0, |(_, count)| *count)
    }

    /// Takes a connection out. It must stand in no line.
    pub fn remove(&mut self, slot: Slot, secret: &Secret) -> Option<Entry<A>> {
        self.wheel.remove(&mut self.entries, slot);
        self.unlink(slot, secret)
    }

    /// Makes sure that a connection is looked at no later than `due`.
    pub fn hasten(&mut self, slot: Slot, due: Instant) {
        self.wheel.hasten(&mut self.entries, slot, due);
    }

    /// Has a connection looked at again at `due`, sooner or later than it would have been.
    pub fn look_again(&mut self, slot: Slot, due: Instant) {
        if self.entries.get(slot).is_some() {
            self.wheel.remove(&mut self.entries, slot);
            self.wheel.insert(&mut self.entries, slot, due);
        }
    }

    /// Whether a connection need not be looked at before or at `now`.
    #[must_use]
    pub fn is_early(&self, slot: Slot, now: Instant) -> bool {
        self.entries.get(slot).is_some_and(|entry| entry.is_early(now))
    }

    /// Takes the next connection that must be looked at off the wheel: its owner
    /// calls [`Self::put_back`] or [`Self::end`].
    pub fn pop_due(&mut self, now: Instant) -> Option<Popped> {
        self.wheel.pop_due(&mut self.entries, now)
    }

    /// The connection lives on: look again at `due`.
    pub fn put_back(&mut self, slot: Slot, due: Instant) {
        self.wheel.insert(&mut self.entries, slot, due);
    }

    /// The connection that was popped has ended.
    pub fn end(&mut self, slot: Slot, secret: &Secret) -> Option<Entry<A>> {
        self.unlink(slot, secret)
    }

    /// A time before which [`Self::pop_due`] gives nothing.
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        self.wheel.next_due()
    }

    /// Takes an entry out of its bucket and its slot.
    fn unlink(&mut self, slot: Slot, secret: &Secret) -> Option<Entry<A>> {
        let entry = self.entries.get(slot)?;
        let (hash, next) = (entry.key.hash(secret), entry.next);
        let mut at = self.first(hash)?.slot();
        if at == slot {
            self.bucket(hash)?.store(next.word(), Ordering::Relaxed);
        } else {
            while let Some(before) = self.entries.get_mut(at) {
                if before.next.slot() == slot {
                    before.next = next;
                    break;
                }
                at = before.next.slot();
            }
        }
        let entry = self.entries.remove(slot)?;
        if entry.connection.has_rare() {
            self.rare.take(slot);
        }
        Some(entry)
    }

    /// Checks that every entry is found by its key, and that nothing lies beside a slot but
    /// what its connection needs (tests and simulation).
    #[must_use]
    pub fn is_consistent(&self, secret: &Secret) -> bool {
        let entries = || (0..self.entries.bound()).filter_map(|slot| Some((slot, self.entries.get(slot)?)));
        let found =
            entries().filter(|(slot, e)| self.find(&e.key, e.key.hash(secret)) == Some(*slot)).count();
        let beside = entries().filter(|(_, entry)| entry.connection.has_rare()).count();
        let is_needed = |(slot, entry): (Slot, &Entry<A>)| {
            let rare = self.rare.of(slot);
            rare.map_or(!entry.connection.has_rare(), |rare| rare.is_needed(&entry.connection))
        };
        found == self.entries.len() as usize && beside == self.rare.len() as usize && entries().all(is_needed)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        cell::RefCell,
        net::{Ipv4Addr, Ipv6Addr},
    };

    use super::*;
    use crate::{conntrack::Phase, wire::Protocol};

    /// What is asked for, in order.
    #[derive(Default)]
    struct Asked(RefCell<Vec<(*const u8, usize)>>);

    impl Fetch for Asked {
        fn fetch_at(&self, begin: *const u8, octets: usize) {
            self.0.borrow_mut().push((begin, octets));
        }
    }

    #[test]
    fn who_is_second_in_a_bucket_is_fetched_where_the_first_is_another() {
        let address = |last| Ipv4Addr::new(10, 0, 0, last);
        let mut table = Table::new(1, Instant(0));
        // Hashes of one bucket.
        for hash in 1..=3_u64 {
            let (key, opener) = Key::between((address(1), hash as u16), (address(2), 80), Protocol::TCP);
            let connection = Connection::new(Phase::Established, opener, Instant(0));
            table.insert(key, hash, connection.into(), Instant(1000)).unwrap();
        }
        let ahead = table.ahead();
        assert_eq!([1, 2, 3, 4].map(|hash| ahead.is_first_another(hash)), [true, true, false, true]);
        let asked = Asked::default();
        ahead.fetch_first(2, &asked);
        table.fetch_second(2, &asked);
        let octets = Slab::<Entry<Ipv4Addr>>::octets();
        let newest = asked.0.borrow()[0].0;
        // They lie one behind the other, as they came.
        assert_eq!(*asked.0.borrow(), [(newest, octets), (newest.wrapping_sub(octets), octets)]);
        // Where nobody is, nothing is asked for.
        assert!(!ahead.is_first_another(u64::from(u32::MAX)));
        table.fetch_second(u64::from(u32::MAX), &asked);
        assert_eq!(asked.0.borrow().len(), 2);
    }

    /// A connection more costs this, and its bucket. Larger entries are paid for by every
    /// connection: what few have belongs beside the table.
    #[test]
    fn entries_are_no_larger_than_they_need_be() {
        assert_eq!(Slab::<Entry<Ipv4Addr>>::octets(), 121);
        assert_eq!(Slab::<Entry<Ipv6Addr>>::octets(), 145);
    }
}
