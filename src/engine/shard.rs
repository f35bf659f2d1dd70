//! One piece of the connection table behind its lock.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    ops::Range,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;

use super::cookies::Behind;
use crate::{
    conntrack::{Address, Ahead, Entry, Instant, Phase, Slot, Table, scoped::Scoped},
    wire::InHeader,
};

/// The connections whose hash falls here.
#[derive(Debug)]
pub(super) struct Shard {
    pub(super) ipv4: Table<Ipv4Addr>,
    pub(super) ipv6: Table<Ipv6Addr>,
    phases: [u32; Phase::ALL.len()],
    /// How many of them one end has forgotten.
    pub(super) stale: u32,
    /// How many of them pass in the kernel.
    pub(super) riding: u32,
    /// How many half-open ones don't count, because their SYN could not be delivered.
    pub(super) uncounted: u32,
    /// Connections that we ended lately, by hash; a later one takes the place of an
    /// earlier one.
    ended: Box<[Ended]>,
    /// The numbers of connections behind SYN cookies, by family (IPv6) and slot.
    behind: Scoped<(bool, Slot), Behind>,
    /// Where a walk that makes the wheel agree with shorter timers has come to.
    pub(super) walk: Option<Walk>,
}

/// Where the connections of a shard lie, for whoever looks ahead without its lock.
#[derive(Debug)]
pub(super) struct Aheads {
    pub(super) ipv4: Arc<Ahead<Entry<Ipv4Addr>>>,
    pub(super) ipv6: Arc<Ahead<Entry<Ipv6Addr>>>,
}

/// How many ended connections a shard remembers.
const MEMORY: usize = 256;

/// How long the kernel's conntrack may take to forget what we ended.
const FORGETTING: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug)]
struct Ended {
    hash: u64,
    at: Instant,
}

/// How far a walk over all slots of both tables has come.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Walk {
    pub(super) ipv6: bool,
    pub(super) slot: u32,
}

/// How far a look at all connections has come; at first at their beginning.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bookmark {
    pub(super) shard: u16,
    pub(super) walk: Walk,
}

impl Bookmark {
    /// The place to go on at, where the walk over the shard at hand goes on at `walk`. `None`: all
    /// were looked at.
    pub(super) fn turn(self, walk: Option<Walk>, shards: usize) -> Option<Self> {
        if let Some(walk) = walk {
            return Some(Self { walk, ..self });
        }
        let shard = self.shard.saturating_add(1);
        (usize::from(shard) < shards).then_some(Self { shard, walk: Walk::default() })
    }
}

impl Shard {
    /// Up to `most` slots of a walk, and where it goes on.
    pub(super) fn piece(&self, from: Walk, most: u32) -> (Range<u32>, Option<Walk>) {
        let Walk { ipv6, slot } = from;
        let bound = if ipv6 { self.ipv6.bound() } else { self.ipv4.bound() };
        let end = bound.min(slot.saturating_add(most));
        let next = if end < bound {
            Some(Walk { ipv6, slot: end })
        } else if ipv6 || self.ipv6.bound() == 0 {
            None
        } else {
            Some(Walk { ipv6: true, slot: 0 })
        };
        (slot..end, next)
    }

    /// Octets of a shard without connections.
    pub(super) const FIXED_OCTETS: u64 = (size_of::<Mutex<Self>>() + MEMORY * size_of::<Ended>()) as u64;

    /// Octets that the numbers of at most so many connections behind cookies ever take.
    pub(super) const fn behind_octets(capacity: usize, most: u64) -> u64 {
        Scoped::<(bool, Slot), Behind>::most_octets(capacity, most)
    }

    pub(super) fn new(capacity: usize, seed: [u64; 2], now: Instant) -> Self {
        Self {
            ipv4: Table::new(capacity, now),
            ipv6: Table::new(capacity, now),
            phases: [0; Phase::ALL.len()],
            stale: 0,
            riding: 0,
            uncounted: 0,
            ended: vec![Ended { hash: 0, at: Instant(0) }; MEMORY].into_boxed_slice(),
            behind: Scoped::new(seed, capacity),
            walk: None,
        }
    }

    pub(super) fn ahead(&self) -> Aheads {
        Aheads { ipv4: self.ipv4.ahead(), ipv6: self.ipv6.ahead() }
    }

    /// The numbers of a connection behind a cookie.
    pub(super) fn behind<A: Family>(&self, slot: Slot) -> Option<&Behind> {
        self.behind.get(self.behind.find(&(A::IPV6, slot))?)
    }

    /// Puts a connection behind a cookie.
    pub(super) fn put_behind<A: Family>(&mut self, slot: Slot, behind: Behind) {
        if let Some(at) = self.behind.find_or_insert(&(A::IPV6, slot), behind)
            && let Some(place) = self.behind.get_mut(at)
        {
            *place = behind;
        }
    }

    /// The connection in a slot is no more: what its numbers were, if it was behind one.
    pub(super) fn take_behind<A: Family>(&mut self, slot: Slot) -> Option<Behind> {
        self.behind.remove(self.behind.find(&(A::IPV6, slot))?)
    }

    /// Remembers a connection that we ended: until the kernel has forgotten it, its
    /// word that it knows it counts for nothing.
    pub(super) fn remember_ended(&mut self, hash: u64, now: Instant) {
        if let Some(place) = self.ended.get_mut(place_of(hash)) {
            *place = Ended { hash, at: now };
        }
    }

    pub(super) fn ended_lately(&self, hash: u64, now: Instant) -> bool {
        let place = self.ended.get(place_of(hash));
        place.is_some_and(|ended| ended.hash == hash && now < ended.at.after(FORGETTING))
    }

    pub(super) fn count_phase(&mut self, from: Option<Phase>, to: Option<Phase>) {
        if let Some(count) = from.and_then(|phase| self.phases.get_mut(phase as usize)) {
            *count = count.saturating_sub(1);
        }
        if let Some(count) = to.and_then(|phase| self.phases.get_mut(phase as usize)) {
            *count = count.saturating_add(1);
        }
    }

    /// How many stand in one of the lines.
    pub(super) fn in_line(&self, line: usize) -> u32 {
        self.ipv4.in_line(line).saturating_add(self.ipv6.in_line(line))
    }

    /// Counts one that was stale before, or is now.
    pub(super) fn count_stale(&mut self, before: bool, now: bool) {
        self.stale = self.stale.saturating_sub(u32::from(before)).saturating_add(u32::from(now));
    }

    /// Counts one that rode before, or does now.
    pub(super) fn count_riding(&mut self, before: bool, now: bool) {
        self.riding = self.riding.saturating_sub(u32::from(before)).saturating_add(u32::from(now));
    }

    pub(super) fn phase_count(&self, phase: Phase) -> u32 {
        self.phases.get(phase as usize).copied().unwrap_or(0)
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        match (self.ipv4.next_due(), self.ipv6.next_due()) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }
}

const fn place_of(hash: u64) -> usize {
    (hash >> 16) as usize % MEMORY
}

/// An address family with its table in a shard.
pub(super) trait Family: Address + InHeader {
    const IPV6: bool;
    fn table(shard: &mut Shard) -> &mut Table<Self>;
}

impl Family for Ipv4Addr {
    const IPV6: bool = false;

    fn table(shard: &mut Shard) -> &mut Table<Self> {
        &mut shard.ipv4
    }
}

impl Family for Ipv6Addr {
    const IPV6: bool = true;

    fn table(shard: &mut Shard) -> &mut Table<Self> {
        &mut shard.ipv6
    }
}
