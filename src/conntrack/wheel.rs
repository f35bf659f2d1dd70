//! The timer wheel: hierarchical, lazy, constant time.
//!
//! Four levels of 64 slots. An entry lies in exactly one slot, linked through
//! itself, so the wheel owns no memory per connection. It does not know
//! deadlines: an entry is put where it should be looked at next; when the slot
//! comes due, its owner asks the entry again and ends it or puts it back.
//! Packets that move a deadline away therefore don't touch the wheel.

use super::{
    slab::{Index, MARKS, NONE, Slab},
    time::{Instant, Stamp},
};

/// Milliseconds of a slot of the lowest level: how late a timer may fire.
pub const TICK_MS: u64 = 160;

const SLOT_BITS: u32 = 6;
const SLOTS: u64 = 1 << SLOT_BITS;
const SLOT_MASK: u8 = (1 << SLOT_BITS) - 1;
const LEVELS: u32 = 4;

/// The wheel's links in an entry.
#[derive(Clone, Copy, Debug)]
#[repr(Rust, packed)]
pub struct Links {
    /// The entry before, or a mark: the slot of the wheel that this one is the first of.
    prev: Index,
    next: Index,
    /// The tick at which the entry is looked at (low 32 bits).
    due: u32,
}

impl Default for Links {
    fn default() -> Self {
        Self { prev: NONE, next: NONE, due: 0 }
    }
}

/// The mark of a slot of the wheel.
#[expect(clippy::cast_possible_truncation, reason = "levels and slots are few")]
const fn mark(level: u32, slot: u64) -> Index {
    !(level << SLOT_BITS | slot as u32)
}

/// The level and the slot that a mark stands for; `None`: it is an entry's number.
fn marked(prev: Index) -> Option<(usize, usize)> {
    let place = u8::try_from(!prev).ok()?;
    Some((usize::from(place >> SLOT_BITS), usize::from(place & SLOT_MASK)))
}

const _: () = assert!(mark(LEVELS - 1, SLOTS - 1) == MARKS, "no entry has the number of a mark");

/// An entry that a wheel can hold.
pub trait Timed {
    /// Its links.
    fn links(&self) -> &Links;
    /// Its links.
    fn links_mut(&mut self) -> &mut Links;
}

/// What [`Wheel::pop_due`] has done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Popped {
    /// This entry is due, and no longer in the wheel.
    Due(Index),
    /// One that is not lies nearer now; ask again.
    Nearer,
}

/// The wheel. All methods take the slab that its entries live in.
#[derive(Debug)]
pub struct Wheel {
    /// Everything before this tick has fired.
    current: u64,
    heads: [[Index; SLOTS as usize]; LEVELS as usize],
    /// One bit for each slot that is not empty.
    used: [u64; LEVELS as usize],
}

const fn tick_of(at: Instant) -> u64 {
    at.0.div_ceil(TICK_MS)
}

#[expect(clippy::cast_possible_truncation, reason = "slots are taken modulo 64, due ticks wrap")]
impl Wheel {
    /// An empty wheel.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            current: now.0 / TICK_MS,
            heads: [[NONE; SLOTS as usize]; LEVELS as usize],
            used: [0; LEVELS as usize],
        }
    }

    /// Where an entry due at `tick` belongs: level and slot.
    fn place(&self, tick: u64) -> (u32, u64) {
        let tick = tick.max(self.current);
        let ahead = tick.wrapping_sub(self.current);
        let fits = |level: &u32| ahead >> SLOT_BITS.wrapping_mul(level.wrapping_add(1)) == 0;
        let level = (0..LEVELS).find(fits).unwrap_or(LEVELS - 1);
        // Too far for the highest level: look at it a turn from now.
        let reach = (SLOTS - 1) << (SLOT_BITS * (LEVELS - 1));
        let tick = if ahead > reach { self.current.saturating_add(reach) } else { tick };
        (level, tick >> SLOT_BITS.wrapping_mul(level) & (SLOTS - 1))
    }

    /// Puts an entry that is not in the wheel where it is looked at `at`.
    pub fn insert<T: Timed>(&mut self, slab: &mut Slab<T>, index: Index, at: Instant) {
        let tick = tick_of(at).max(self.current);
        let (level, slot) = self.place(tick);
        let Some(head) = self.heads.get_mut(level as usize).and_then(|l| l.get_mut(slot as usize)) else {
            return;
        };
        let first = std::mem::replace(head, index);
        if let Some(entry) = slab.get_mut(first) {
            entry.links_mut().prev = index;
        }
        if let Some(entry) = slab.get_mut(index) {
            *entry.links_mut() = Links { prev: mark(level, slot), next: first, due: tick as u32 };
        }
        if let Some(used) = self.used.get_mut(level as usize) {
            *used |= 1 << slot;
        }
    }

    /// Takes an entry out.
    pub fn remove<T: Timed>(&mut self, slab: &mut Slab<T>, index: Index) {
        let Some(links) = slab.get(index).map(|entry| *entry.links()) else { return };
        if let Some(next) = slab.get_mut(links.next) {
            next.links_mut().prev = links.prev;
        }
        let Some((level, slot)) = marked(links.prev) else {
            if let Some(prev) = slab.get_mut(links.prev) {
                prev.links_mut().next = links.next;
            }
            return;
        };
        if let Some(head) = self.heads.get_mut(level).and_then(|l| l.get_mut(slot)) {
            *head = links.next;
            if links.next == NONE
                && let Some(used) = self.used.get_mut(level)
            {
                *used &= !(1 << slot);
            }
        }
    }

    /// Makes sure that an entry is looked at no later than `at`.
    pub fn hasten<T: Timed>(&mut self, slab: &mut Slab<T>, index: Index, at: Instant) {
        let Some(due) = slab.get(index).map(|entry| entry.links().due) else { return };
        let tick = tick_of(at).max(self.current) as u32;
        if tick.wrapping_sub(due) > u32::MAX / 2 {
            self.remove(slab, index);
            self.insert(slab, index, at);
        }
    }

    /// Whether an entry is looked at after `now` only; `false` as well in the tick before.
    #[must_use]
    #[inline(always)]
    pub const fn is_early(links: &Links, now: Instant) -> bool {
        // Divided as stamps are, which whoever asks needs as well.
        const { assert!(TICK_MS == Stamp::UNIT << 4) };
        let ahead = links.due.wrapping_sub(((now.0 / Stamp::UNIT) >> 4) as u32);
        ahead > 1 && ahead <= u32::MAX / 2
    }

    /// Takes out the next entry that is due at `now`, moves one nearer that is not, or moves
    /// the wheel's hand to `now`: constant time, however many lie in a slot. `None`: nothing is
    /// due.
    pub fn pop_due<T: Timed>(&mut self, slab: &mut Slab<T>, now: Instant) -> Option<Popped> {
        let target = now.0 / TICK_MS;
        loop {
            if let Some(index) = self.come_near() {
                self.move_nearer(slab, index);
                return Some(Popped::Nearer);
            }
            let slot = self.current & (SLOTS - 1);
            let head = self.heads.first().and_then(|l| l.get(slot as usize)).copied().unwrap_or(NONE);
            if self.current <= target && head != NONE {
                self.remove(slab, head);
                return Some(Popped::Due(head));
            }
            if self.current >= target {
                return None;
            }
            // To the next tick that has something to do: however long nothing happened, it
            // takes a few steps.
            self.current = (0..LEVELS).filter_map(|level| self.next_used(level)).fold(target, u64::min);
        }
    }

    /// The tick at which the next used slot of a level begins, after the hand's own,
    /// whose turn comes again after all the others.
    fn next_used(&self, level: u32) -> Option<u64> {
        let used = self.used.get(level as usize).copied().filter(|used| *used != 0)?;
        let shift = SLOT_BITS.wrapping_mul(level);
        let next = (self.current >> shift).wrapping_add(1);
        let ahead = used.rotate_right((next & (SLOTS - 1)) as u32).trailing_zeros();
        Some(next.wrapping_add(u64::from(ahead)) << shift)
    }

    /// The first entry of a slot of the higher levels whose turn begins where the hand is:
    /// before the hand goes on, all of them are spread over lower ones, one at a time.
    fn come_near(&self) -> Option<Index> {
        for level in 1..LEVELS {
            let place = self.current >> SLOT_BITS.wrapping_mul(level.wrapping_sub(1));
            if place & (SLOTS - 1) != 0 {
                return None;
            }
            let slot = place >> SLOT_BITS & (SLOTS - 1);
            let head = self.heads.get(level as usize)?.get(slot as usize).copied()?;
            if head != NONE {
                return Some(head);
            }
        }
        None
    }

    fn move_nearer<T: Timed>(&mut self, slab: &mut Slab<T>, index: Index) {
        let Some(due) = slab.get(index).map(|entry| entry.links().due) else { return };
        // The due tick's upper half comes from the hand.
        let ahead = due.wrapping_sub(self.current as u32);
        let ahead = if ahead > u32::MAX / 2 { 0 } else { ahead };
        let at = self.current.saturating_add(u64::from(ahead)).saturating_mul(TICK_MS);
        self.remove(slab, index);
        self.insert(slab, index, Instant(at));
    }

    /// A time before which nothing is due; `None` if the wheel is empty.
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        let now = self.used.first().is_some_and(|used| used >> (self.current & (SLOTS - 1)) & 1 == 1)
            || self.come_near().is_some();
        let later = (0..LEVELS).filter_map(|level| self.next_used(level)).min();
        let tick = if now { Some(self.current) } else { later };
        tick.map(|tick| Instant(tick.saturating_mul(TICK_MS)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Item {
        links: Links,
        deadline: u64,
    }

    impl Timed for Item {
        fn links(&self) -> &Links {
            &self.links
        }

        fn links_mut(&mut self) -> &mut Links {
            &mut self.links
        }
    }

    fn add(wheel: &mut Wheel, slab: &mut Slab<Item>, deadline: u64) -> Index {
        let index = slab.insert(Item { links: Links::default(), deadline }).unwrap();
        wheel.insert(slab, index, Instant(deadline));
        index
    }

    proptest::proptest! {
        /// Nothing fires before its deadline, nothing later than a tick, whatever is
        /// added, hastened, delayed or taken out in between.
        #[test]
        fn fires_on_time(
            start in 0_u64..1 << 40,
            ops in proptest::collection::vec((0_u8..4, 0_u64..9_000_000_000, 1_u64..50_000_000), 1..120),
        ) {
            let mut now = start;
            let mut wheel = Wheel::new(Instant(now));
            let mut slab = Slab::default();
            let mut live: Vec<Index> = Vec::new();
            for (op, ahead, step) in ops {
                // Mostly near deadlines, some far.
                let ahead = if op % 2 == 0 { ahead % 300_000 } else { ahead };
                match op {
                    0 | 1 => live.push(add(&mut wheel, &mut slab, now + ahead)),
                    2 if !live.is_empty() => {
                        let index = live[usize::try_from(ahead).unwrap() % live.len()];
                        let sooner = now + ahead / 2;
                        let item = slab.get_mut(index).unwrap();
                        item.deadline = item.deadline.min(sooner);
                        let deadline = item.deadline;
                        wheel.hasten(&mut slab, index, Instant(deadline));
                    }
                    _ if !live.is_empty() => {
                        let index = live.remove(usize::try_from(ahead).unwrap() % live.len());
                        wheel.remove(&mut slab, index);
                        slab.remove(index);
                    }
                    _ => {}
                }
                if let Some(due) = wheel.next_due() {
                    let first = live.iter().map(|&i| slab.get(i).unwrap().deadline).min().unwrap();
                    assert!(due.0 <= first.div_ceil(TICK_MS) * TICK_MS, "next_due {due:?} is after {first}");
                } else {
                    assert!(live.is_empty());
                }
                now += step;
                while let Some(popped) = wheel.pop_due(&mut slab, Instant(now)) {
                    let Popped::Due(index) = popped else { continue };
                    let deadline = slab.get(index).unwrap().deadline;
                    if deadline > now {
                        wheel.insert(&mut slab, index, Instant(deadline));
                    } else {
                        live.retain(|&i| i != index);
                        slab.remove(index);
                    }
                }
                for &index in &live {
                    let deadline = slab.get(index).unwrap().deadline;
                    assert!(deadline + TICK_MS > now, "{deadline} did not fire by {now}");
                }
            }
        }
    }

    /// A million timers in one slot of a higher level are a million short calls, and nothing
    /// is late by it.
    #[test]
    fn a_full_slot_comes_near_one_entry_at_a_time() {
        const ENTRIES: u64 = 5000;
        let mut wheel = Wheel::new(Instant(0));
        let mut slab = Slab::default();
        let day = 24 * 3600 * 1000;
        for number in 0..ENTRIES {
            add(&mut wheel, &mut slab, day + number);
        }
        let now = Instant(day + ENTRIES + TICK_MS);
        let (mut nearer, mut due) = (0, 0);
        while let Some(popped) = wheel.pop_due(&mut slab, now) {
            match popped {
                Popped::Nearer => {
                    nearer += 1;
                    assert!(wheel.next_due().unwrap() <= now, "there is more to do");
                }
                Popped::Due(_) => due += 1,
            }
        }
        assert_eq!(due, ENTRIES);
        assert!((ENTRIES..=3 * ENTRIES).contains(&nearer), "{nearer}");
    }

    /// A machine that slept for years must not spin when it wakes.
    #[test]
    fn an_idle_wheel_takes_any_leap_at_once() {
        let year = 365 * 24 * 3600 * 1000;
        let mut wheel = Wheel::new(Instant(0));
        let mut slab = Slab::default();
        for leap in 1..=10_000 {
            let now = Instant(leap * year);
            let soon = add(&mut wheel, &mut slab, now.0 - year / 2);
            let mut popped = std::iter::from_fn(|| wheel.pop_due(&mut slab, now)).take(20);
            assert!(popped.any(|popped| popped == Popped::Due(soon)));
            slab.remove(soon);
            assert_eq!(wheel.pop_due(&mut slab, now), None);
            assert_eq!(wheel.next_due(), None);
        }
    }

    #[test]
    fn a_deadline_beyond_the_highest_level_fires_once_on_its_hour() {
        let mut wheel = Wheel::new(Instant(0));
        let mut slab = Slab::default();
        let day = 24 * 3600 * 1000;
        add(&mut wheel, &mut slab, 100 * day);
        let mut fired = Vec::new();
        for hour in 0..=100 * 24 {
            while let Some(popped) = wheel.pop_due(&mut slab, Instant(hour * 3600 * 1000)) {
                let Popped::Due(index) = popped else { continue };
                assert_eq!(slab.get(index).unwrap().deadline, 100 * day);
                fired.push(hour);
            }
        }
        assert_eq!(fired, [100 * 24]);
    }
}
