//! Sources that have proven that they are where they say they are: each for a time, and
//! so many of them that memory is bounded. Whoever proved it longest ago goes first.
//!
//! Every step takes constant time and, once made, no memory: entries stand in a list in
//! the order of their proofs and are found by a keyed hash.

use std::{
    hash::Hasher,
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use siphasher::sip::SipHasher13;

use super::{
    Instant,
    slab::{Index, NONE},
};

/// How long a proof counts.
pub const PROVEN_FOR: Duration = Duration::from_secs(600);

/// How many sources are remembered: 3.5 MB.
pub const MOST_PROVEN: u32 = 1 << 16;

/// How many outdated ones are taken out for one that is put in.
const SWEEP: usize = 2;

#[derive(Clone, Copy, Debug)]
struct Entry {
    source: Ipv6Addr,
    at: Instant,
    /// The next one in its bucket or, where it is empty, the next empty one.
    next: Index,
    older: Index,
    younger: Index,
}

/// The memory.
#[derive(Debug)]
pub struct Proven {
    seed: [u64; 2],
    most: usize,
    entries: Vec<Entry>,
    /// The first of each bucket, one higher: 0 is none.
    buckets: Vec<Index>,
    empty: Index,
    oldest: Index,
    youngest: Index,
    len: u32,
    /// The most that there were at once.
    peak: u32,
}

impl Proven {
    /// Nobody yet, and room for `most`.
    #[must_use]
    pub fn new(seed: [u64; 2], most: u32) -> Self {
        let most = most.max(1) as usize;
        Self {
            seed,
            most,
            entries: Vec::with_capacity(most),
            buckets: vec![0; most.next_power_of_two()],
            empty: NONE,
            oldest: NONE,
            youngest: NONE,
            len: 0,
            peak: 0,
        }
    }

    /// Octets of a memory of [`MOST_PROVEN`].
    #[must_use]
    pub const fn most_octets() -> u64 {
        const EACH: usize = size_of::<Entry>().saturating_add(size_of::<Index>());
        (MOST_PROVEN as u64).saturating_mul(EACH as u64)
    }

    /// Notes that this source has just proven itself. `true`: it was not known.
    pub fn insert(&mut self, source: IpAddr, now: Instant) -> bool {
        let source = wide(source);
        for _ in 0..SWEEP {
            if !self.drop_outdated(now) {
                break;
            }
        }
        let known = self.find(source);
        if let Some(index) = known {
            self.unlink(index);
        }
        let index = match known {
            Some(index) => index,
            None => {
                let Some(index) = self.place() else { return false };
                index
            }
        };
        let older = self.youngest;
        let (bucket, is_new) = (self.bucket(source), known.is_none());
        let Some(entry) = self.entries.get_mut(index as usize) else { return false };
        (entry.source, entry.at, entry.older, entry.younger) = (source, now, older, NONE);
        if is_new && let Some(head) = self.buckets.get_mut(bucket) {
            entry.next = head.wrapping_sub(1);
            *head = index.wrapping_add(1);
        }
        match self.entries.get_mut(older as usize) {
            Some(before) => before.younger = index,
            None => self.oldest = index,
        }
        self.youngest = index;
        if is_new {
            self.len = self.len.saturating_add(1);
            self.peak = self.peak.max(self.len);
        }
        is_new
    }

    /// Whether this source has proven itself lately.
    #[must_use]
    pub fn contains(&self, source: IpAddr, now: Instant) -> bool {
        let entry = self.find(wide(source)).and_then(|index| self.entries.get(index as usize));
        entry.is_some_and(|entry| counts(entry, now))
    }

    /// How many there are now. Takes as long as there are some to forget.
    pub fn count(&mut self, now: Instant) -> u32 {
        while self.drop_outdated(now) {}
        self.len
    }

    /// The most that there were at once.
    #[must_use]
    pub const fn peak(&self) -> u32 {
        self.peak
    }

    /// A place for one more, if need be the oldest's.
    fn place(&mut self) -> Option<Index> {
        if self.empty == NONE && self.entries.len() < self.most {
            let index = Index::try_from(self.entries.len()).ok()?;
            let source = Ipv6Addr::UNSPECIFIED;
            self.entries.push(Entry { source, at: Instant(0), next: NONE, older: NONE, younger: NONE });
            return Some(index);
        }
        if self.empty == NONE {
            self.remove(self.oldest);
        }
        let index = self.empty;
        self.empty = self.entries.get(index as usize)?.next;
        Some(index)
    }

    /// Takes the oldest out if it counts no more.
    fn drop_outdated(&mut self, now: Instant) -> bool {
        let is_outdated = self.entries.get(self.oldest as usize).is_some_and(|entry| !counts(entry, now));
        if is_outdated {
            self.remove(self.oldest);
        }
        is_outdated
    }

    fn remove(&mut self, index: Index) {
        self.unlink(index);
        let Some(Entry { source, next, .. }) = self.entries.get(index as usize).copied() else { return };
        let bucket = self.bucket(source);
        let mut before = self.buckets.get(bucket).map_or(NONE, |head| head.wrapping_sub(1));
        if before == index {
            if let Some(head) = self.buckets.get_mut(bucket) {
                *head = next.wrapping_add(1);
            }
        } else {
            while let Some(entry) = self.entries.get_mut(before as usize) {
                if entry.next == index {
                    entry.next = next;
                    break;
                }
                before = entry.next;
            }
        }
        if let Some(entry) = self.entries.get_mut(index as usize) {
            entry.next = self.empty;
            self.empty = index;
        }
        self.len = self.len.saturating_sub(1);
    }

    /// Takes one out of the order of proofs.
    fn unlink(&mut self, index: Index) {
        let Some(Entry { older, younger, .. }) = self.entries.get(index as usize).copied() else { return };
        match self.entries.get_mut(older as usize) {
            Some(before) => before.younger = younger,
            None => self.oldest = younger,
        }
        match self.entries.get_mut(younger as usize) {
            Some(after) => after.older = older,
            None => self.youngest = older,
        }
    }

    fn find(&self, source: Ipv6Addr) -> Option<Index> {
        let mut index = self.buckets.get(self.bucket(source))?.wrapping_sub(1);
        loop {
            let entry = self.entries.get(index as usize)?;
            if entry.source == source {
                return Some(index);
            }
            index = entry.next;
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "a bucket is chosen by the lower bits")]
    fn bucket(&self, source: Ipv6Addr) -> usize {
        let [first, second] = self.seed;
        let mut hasher = SipHasher13::new_with_keys(first, second);
        hasher.write(&source.octets());
        hasher.finish() as usize & self.buckets.len().saturating_sub(1)
    }
}

fn counts(entry: &Entry, now: Instant) -> bool {
    now < entry.at.after(PROVEN_FOR)
}

/// Both families in one: no packet bears an IPv4-mapped address.
fn wide(source: IpAddr) -> Ipv6Addr {
    match source {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(number: u8) -> IpAddr {
        if number.is_multiple_of(2) {
            IpAddr::from([10, 0, 0, number])
        } else {
            IpAddr::from([0x2001, 0xdb8, 0, u16::from(number), 0, 0, 0, 0])
        }
    }

    #[test]
    fn a_proof_counts_for_its_time_and_a_new_one_begins_it_anew() {
        let mut proven = Proven::new([1, 2], 8);
        let (start, end) = (Instant(5), Instant(5).after(PROVEN_FOR));
        assert!(proven.insert(source(1), start));
        assert!(proven.contains(source(1), start) && !proven.contains(source(2), start));
        assert!(proven.contains(source(1), Instant(end.0 - 1)) && !proven.contains(source(1), end));
        assert!(!proven.insert(source(1), Instant(end.0 - 1)), "known");
        assert!(proven.contains(source(1), end));
        assert_eq!((proven.count(end), proven.peak()), (1, 1));
        assert_eq!((proven.count(end.after(PROVEN_FOR)), proven.peak()), (0, 1));
    }

    #[test]
    fn who_proved_itself_longest_ago_makes_room() {
        let mut proven = Proven::new([1, 2], 3);
        for number in 0..3 {
            proven.insert(source(number), Instant(u64::from(number)));
        }
        proven.insert(source(0), Instant(3));
        proven.insert(source(9), Instant(4));
        let known: Vec<u8> = (0..10).filter(|number| proven.contains(source(*number), Instant(4))).collect();
        assert_eq!(known, [0, 2, 9]);
        assert_eq!((proven.count(Instant(4)), proven.peak()), (3, 3));
    }

    #[test]
    fn memory_is_what_it_was_made_with() {
        let mut proven = Proven::new([1, 2], 1000);
        let (entries, buckets) = (proven.entries.capacity(), proven.buckets.capacity());
        for number in 0..50_000_u32 {
            proven.insert(IpAddr::from(number.to_be_bytes()), Instant(u64::from(number)));
        }
        assert_eq!((proven.entries.capacity(), proven.buckets.capacity()), (entries, buckets));
        assert_eq!(proven.count(Instant(50_000)), 1000);
        let bytes = size_of::<Entry>() * MOST_PROVEN as usize + size_of::<Index>() * MOST_PROVEN as usize;
        assert!(bytes <= 3_500_000, "{bytes} octets, not what is said");
    }

    proptest::proptest! {
        /// Against a naive list.
        #[test]
        fn agrees_with_a_naive_model(
            most in 1_u32..6,
            steps in proptest::collection::vec((0_u8..12, 0_u64..200_000), 1..200),
        ) {
            let mut proven = Proven::new([7, 9], most);
            let mut model: Vec<(u8, Instant)> = Vec::new();
            let mut now = Instant(0);
            for (number, pause) in steps {
                now = Instant(now.0 + pause);
                let swept = model.iter().take(SWEEP).take_while(|(_, at)| now >= at.after(PROVEN_FOR)).count();
                model.drain(..swept);
                let known = model.iter().position(|(other, _)| *other == number);
                if let Some(known) = known {
                    model.remove(known);
                } else if model.len() == most as usize {
                    model.remove(0);
                }
                model.push((number, now));
                assert_eq!(proven.insert(source(number), now), known.is_none());
                for number in 0..12 {
                    let expected = model.iter().any(|(other, at)| *other == number && now < at.after(PROVEN_FOR));
                    assert_eq!(proven.contains(source(number), now), expected);
                }
                assert_eq!(proven.len as usize, model.len());
            }
        }
    }
}
