//! Who scans: sources that met many different destinations and ports without an
//! answer, within a window.
//!
//! A fixed table of [`SOURCES`] sources, in sets of `WAYS`: a new source takes the
//! place of one of its set that is over, else of the one that met the least. What
//! each met is counted approximately ([`Distinct`]), in two halves of a window: what
//! is told is what was met in the last half to whole window. A flood of forged
//! sources can push a slow scan out of its set, but makes none up: each of its
//! sources meets few destinations.

use std::{
    hash::{Hash, Hasher},
    net::IpAddr,
    time::Duration,
};

use siphasher::sip::SipHasher13;

use super::Distinct;
use crate::conntrack::Instant;

/// Sources that are looked at, at once.
pub const SOURCES: usize = 1024;

/// Sources of one set.
const WAYS: usize = 8;

/// How an attempt to connect was met.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Answer {
    /// The destination said that nobody listens: RST.
    Reset,
    /// Nobody said anything until the timer ended it.
    Silence,
    /// A rule, or the default action, let it not through.
    Refused,
}

/// An attempt to connect that nobody took.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Probe {
    /// Who tried.
    pub source: IpAddr,
    /// Whom.
    pub address: IpAddr,
    /// Which port.
    pub port: u16,
    /// What became of it.
    pub answer: Answer,
}

/// What a source met within the window. Counts of different things are about right
/// up to some thousand, and "at least" beyond.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Scan {
    /// Who.
    pub source: IpAddr,
    /// Different pairs of destination and port, about.
    pub distinct: u32,
    /// Different destinations, about.
    pub addresses: u32,
    /// Different ports, about.
    pub ports: u32,
    /// Attempts that were answered by RST, those sent again too.
    pub reset: u64,
    /// Attempts that met silence.
    pub silent: u64,
    /// Attempts that the rules refused.
    pub refused: u64,
    /// When the first of them was, since it was last quiet.
    pub since: Instant,
    /// It has not been told of since it was last quiet.
    pub is_new: bool,
}

/// Half a window's meetings.
#[derive(Clone, Copy, Debug, Default)]
struct Half {
    pairs: Distinct<32>,
    addresses: Distinct<8>,
    ports: Distinct<8>,
}

#[derive(Clone, Debug)]
struct Entry {
    source: IpAddr,
    /// The half window that `current` belongs to.
    epoch: u64,
    current: Half,
    before: Half,
    since: Instant,
    reset: u64,
    silent: u64,
    refused: u64,
    /// The estimate that it was last told with; 0 if it was not.
    told: u32,
}

impl Entry {
    fn new(source: IpAddr, epoch: u64, now: Instant) -> Self {
        let (current, before) = (Half::default(), Half::default());
        Self { source, epoch, current, before, since: now, reset: 0, silent: 0, refused: 0, told: 0 }
    }

    /// Lets go of what is too long ago.
    fn advance(&mut self, epoch: u64, now: Instant) {
        let passed = epoch.saturating_sub(self.epoch);
        match passed {
            0 => return,
            1 => self.before = std::mem::take(&mut self.current),
            _ => *self = Self::new(self.source, epoch, now),
        }
        self.epoch = epoch;
    }

    fn pairs(&self) -> u32 {
        self.before.pairs.union(&self.current.pairs).estimate()
    }

    fn told(&self, is_new: bool) -> Scan {
        Scan {
            source: self.source,
            distinct: self.pairs(),
            addresses: self.before.addresses.union(&self.current.addresses).estimate(),
            ports: self.before.ports.union(&self.current.ports).estimate(),
            reset: self.reset,
            silent: self.silent,
            refused: self.refused,
            since: self.since,
            is_new,
        }
    }
}

/// All sources that met nobody lately.
#[derive(Debug)]
pub struct Scans {
    seed: [u64; 2],
    half_window: Duration,
    threshold: u32,
    sets: Vec<Vec<Entry>>,
    total: u64,
}

impl Scans {
    /// Nobody yet. A source that meets `threshold` different pairs of destination and
    /// port within `window` scans. `seed` keys the hashes and must be random on a
    /// gateway.
    #[must_use]
    pub fn new(seed: [u64; 2], window: Duration, threshold: u32) -> Self {
        let sets = vec![Vec::new(); SOURCES / WAYS];
        let half_window = window.checked_div(2).unwrap_or_default().max(Duration::from_millis(1));
        Self { seed, half_window, threshold: threshold.max(1), sets, total: 0 }
    }

    /// From now on so many within this time; what was met so far counts on, if the
    /// window is the same.
    pub fn set(&mut self, window: Duration, threshold: u32) {
        let other = Self::new(self.seed, window, threshold);
        if other.half_window == self.half_window {
            self.threshold = other.threshold;
        } else {
            *self = Self { total: self.total, ..other };
        }
    }

    /// Takes one attempt. Tells of the source when it is found to scan, and again each
    /// time that it has met twice as much as when it was told of last.
    pub fn note(&mut self, probe: &Probe, now: Instant) -> Option<Scan> {
        let epoch = self.epoch(now);
        let pair = self.hash(&(probe.address, probe.port));
        let (address, port) = (self.hash(&probe.address), self.hash(&probe.port));
        let threshold = self.threshold;
        let entry = self.entry(probe.source, epoch, now)?;
        let counter = match probe.answer {
            Answer::Reset => &mut entry.reset,
            Answer::Silence => &mut entry.silent,
            Answer::Refused => &mut entry.refused,
        };
        *counter = counter.saturating_add(1);
        if !entry.current.pairs.insert(pair) {
            return None;
        }
        entry.current.addresses.insert(address);
        entry.current.ports.insert(port);
        let pairs = entry.pairs();
        let is_new = entry.told == 0;
        let wanted = if is_new { threshold } else { entry.told.saturating_mul(2) };
        if pairs < wanted {
            return None;
        }
        entry.told = pairs;
        let scan = entry.told(is_new);
        self.total = self.total.saturating_add(u64::from(is_new));
        Some(scan)
    }

    /// Those that scan now, the busiest first.
    #[must_use]
    pub fn scanning(&self, now: Instant) -> Vec<Scan> {
        let epoch = self.epoch(now);
        let entries = self.sets.iter().flatten().cloned().map(|mut entry| {
            entry.advance(epoch, now);
            entry.told(false)
        });
        let mut scans: Vec<Scan> = entries.filter(|scan| scan.distinct >= self.threshold).collect();
        scans.sort_unstable_by_key(|scan| (std::cmp::Reverse(scan.distinct), scan.source));
        scans
    }

    /// How many scans were found since the start.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.total
    }

    fn epoch(&self, now: Instant) -> u64 {
        let half = u64::try_from(self.half_window.as_millis()).unwrap_or(u64::MAX).max(1);
        now.0.checked_div(half).unwrap_or(0)
    }

    /// The source's place, made if need be.
    fn entry(&mut self, source: IpAddr, epoch: u64, now: Instant) -> Option<&mut Entry> {
        let hash = self.hash(&source);
        let place = usize::try_from(hash >> 32).unwrap_or(0).checked_rem(self.sets.len())?;
        let set = self.sets.get_mut(place)?;
        for entry in set.iter_mut() {
            entry.advance(epoch, now);
        }
        let at = match set.iter().position(|entry| entry.source == source) {
            Some(at) => at,
            None if set.len() < WAYS => {
                set.push(Entry::new(source, epoch, now));
                set.len().saturating_sub(1)
            }
            None => {
                // Of those that met equally little, who came first goes first.
                let least = (0..).zip(set.iter()).min_by_key(|(_, entry)| (entry.pairs(), entry.since));
                let at = least.map(|(at, _): (usize, _)| at)?;
                *set.get_mut(at)? = Entry::new(source, epoch, now);
                at
            }
        };
        set.get_mut(at)
    }

    fn hash(&self, thing: &impl Hash) -> u64 {
        let [one, other] = self.seed;
        let mut hasher = SipHasher13::new_with_keys(one, other);
        thing.hash(&mut hasher);
        hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const WINDOW: Duration = Duration::from_secs(300);

    fn scans() -> Scans {
        Scans::new([3, 4], WINDOW, 64)
    }

    fn probe(source: u32, address: u32, port: u16) -> Probe {
        Probe {
            source: Ipv4Addr::from_bits(source).into(),
            address: Ipv4Addr::from_bits(0xc000_0200 + address).into(),
            port,
            answer: Answer::Reset,
        }
    }

    #[test]
    fn who_tries_many_ports_scans_and_is_told_once_until_it_doubles() {
        let mut all = scans();
        let mut told = Vec::new();
        for port in 1..=1000 {
            told.extend(all.note(&probe(1, 1, port), Instant(u64::from(port) * 10)));
        }
        let first = told[0];
        assert!(first.is_new && (60..=68).contains(&first.distinct), "{first:?}");
        assert_eq!((first.addresses, first.ports >= 55), (1, true), "one host, many ports: {first:?}");
        assert!(told.len() <= 5, "64, 128, 256, 512: {told:?}");
        assert!(told[1..].iter().all(|scan| !scan.is_new));
        assert_eq!(all.total(), 1);
        let now = all.scanning(Instant(10_000));
        assert_eq!(now.len(), 1);
        assert!((940..=1060).contains(&now[0].distinct), "{now:?}");
        assert_eq!((now[0].reset, now[0].silent, now[0].refused), (1000, 0, 0));
    }

    #[test]
    fn who_tries_many_hosts_scans() {
        let mut all = scans();
        let told: Vec<Scan> = (0..200).filter_map(|host| all.note(&probe(1, host, 22), Instant(0))).collect();
        assert!(told[0].ports == 1 && told[0].addresses >= 55, "{told:?}");
    }

    #[test]
    fn who_tries_again_and_again_does_not() {
        let mut all = scans();
        for number in 0..100_000 {
            // A client of ten services that are down.
            let told = all.note(&probe(1, u32::from(number as u16 % 10), 80), Instant(number));
            assert_eq!(told, None);
        }
        assert!(all.scanning(Instant(100_000)).is_empty());
    }

    #[test]
    fn a_slow_scan_within_the_window_is_seen_and_a_slower_one_is_not() {
        // 64 pairs within half a window are seen wherever its halves begin.
        for (seconds, seen) in [(2, true), (10, false)] {
            let mut all = scans();
            let told = (0..200_u16).filter_map(|port| {
                all.note(&probe(1, 1, port), Instant(77_000 + u64::from(port) * seconds * 1000))
            });
            assert_eq!(told.count() > 0, seen, "a port every {seconds} s");
        }
    }

    #[test]
    fn a_threshold_that_changes_acts_at_once_and_a_window_begins_anew() {
        let mut all = scans();
        let sweep =
            |all: &mut Scans| (0..40_u16).filter_map(|port| all.note(&probe(1, 1, port), Instant(0))).count();
        assert_eq!(sweep(&mut all), 0);
        all.set(WINDOW, 20);
        assert_eq!(all.scanning(Instant(0)).len(), 1, "what was met counts");
        all.set(Duration::from_secs(60), 20);
        assert!(all.scanning(Instant(0)).is_empty());
        assert!(sweep(&mut all) > 0);
    }

    #[test]
    fn when_it_was_quiet_it_is_told_of_anew() {
        let mut all = scans();
        let mut sweep = |start: u64| {
            (0..100_u16).filter_map(|port| all.note(&probe(1, 1, port), Instant(start))).collect::<Vec<_>>()
        };
        assert_eq!(sweep(0).iter().filter(|scan| scan.is_new).count(), 1);
        assert_eq!(sweep(1000).len(), 0, "the same ports again are nothing new");
        let again = sweep(1_000_000);
        assert_eq!((again.len(), again[0].is_new, again[0].since), (1, true, Instant(1_000_000)));
        assert_eq!(all.total(), 2);
    }

    #[test]
    fn a_flood_of_forged_sources_takes_no_more_memory_and_hides_no_quick_scan() {
        let mut all = scans();
        let mut told = Vec::new();
        for number in 0..200_000_u32 {
            told.extend(all.note(&probe(0x0a00_0000 + number, 1, 80), Instant(u64::from(number) / 10)));
            if number % 100 == 0 {
                let port = (number / 100) as u16;
                told.extend(all.note(&probe(1, 1, port), Instant(u64::from(number) / 10)));
            }
        }
        assert!(told.iter().all(|scan| scan.source == IpAddr::from([0, 0, 0, 1])), "{told:?}");
        assert!(!told.is_empty());
        assert!(all.sets.iter().map(Vec::len).sum::<usize>() <= SOURCES);
        assert!(size_of::<Entry>() * SOURCES < 1 << 20, "a mebibyte");
    }
}
