//! Keeps a flood of events to a line a second of each kind, with the count of what
//! was left out.
//!
//! Of each kind so many are written in a second. A second that brought more is a
//! flood's, and until a second has brought no more than that, one in a second is
//! written. Nothing is lost uncounted: each line says how many of its kind were left
//! out before it, and what was left out last is written when its second is over.
//! Knows no clock.

use std::{collections::HashMap, hash::Hash, time::Duration};

use crate::conntrack::Instant;

const SECOND: Duration = Duration::from_secs(1);

/// Lets through what may be written.
#[derive(Debug)]
pub struct Governor<K, E> {
    burst: u32,
    most_kinds: usize,
    kinds: HashMap<K, Window<E>>,
}

/// A kind's second.
#[derive(Debug)]
struct Window<E> {
    start: Instant,
    /// In this second, written or not.
    seen: u32,
    written: u32,
    /// A flood is on: one line in a second.
    flooded: bool,
    /// Since the last line.
    left_out: u64,
    last: Option<(E, Instant)>,
}

/// Something to be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Written<E> {
    /// What.
    pub what: E,
    /// When.
    pub at: Instant,
    /// How many of its kind were left out since the last one.
    pub left_out: u64,
}

impl<E> Window<E> {
    fn new(now: Instant) -> Self {
        Self { start: now, seen: 0, written: 0, flooded: false, left_out: 0, last: None }
    }

    fn roll(&mut self, burst: u32, now: Instant) {
        let age = now.since(self.start);
        if age >= SECOND {
            self.flooded = self.seen > burst && age < 2 * SECOND;
            (self.start, self.seen, self.written) = (now, 0, 0);
        }
    }

    fn is_idle(&self, now: Instant) -> bool {
        self.left_out == 0 && now.since(self.start) >= 2 * SECOND
    }
}

impl<K: Copy + Eq + Hash, E> Governor<K, E> {
    /// Of each kind up to `burst` in a second, and no more than `most_kinds` kinds at
    /// once.
    #[must_use]
    pub fn new(burst: u32, most_kinds: usize) -> Self {
        Self { burst, most_kinds, kinds: HashMap::new() }
    }

    /// One more of a kind. `None`: it is left out. When there are too many kinds it
    /// counts as one of `other`.
    pub fn offer(&mut self, kind: K, other: K, what: E, now: Instant) -> Option<Written<E>> {
        let burst = self.burst;
        let window = self.window(kind, other, now);
        window.roll(burst, now);
        window.seen = window.seen.saturating_add(1);
        let most = if window.flooded { 1 } else { burst };
        if window.written < most {
            window.written += 1;
            window.last = None;
            return Some(Written { what, at: now, left_out: std::mem::take(&mut window.left_out) });
        }
        window.left_out += 1;
        window.last = Some((what, now));
        None
    }

    fn window(&mut self, kind: K, other: K, now: Instant) -> &mut Window<E> {
        let mut kind = kind;
        if !self.kinds.contains_key(&kind) && self.kinds.len() >= self.most_kinds {
            self.kinds.retain(|_, window| !window.is_idle(now));
            if self.kinds.len() >= self.most_kinds {
                kind = other;
            }
        }
        self.kinds.entry(kind).or_insert_with(|| Window::new(now))
    }

    /// What was left out last of kinds whose second is over: nothing may follow it.
    pub fn overdue(&mut self, now: Instant) -> Vec<Written<E>> {
        let burst = self.burst;
        let over =
            self.kinds.values_mut().filter(|window| window.left_out > 0 && now.since(window.start) >= SECOND);
        over.filter_map(|window| {
            let (what, at) = window.last.take()?;
            window.roll(burst, now);
            window.written = 1;
            let left_out = std::mem::take(&mut window.left_out).saturating_sub(1);
            Some(Written { what, at, left_out })
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Offers `count` in a second's even steps; the lines, overdue ones asked for
    /// five times a second.
    fn second(governor: &mut Governor<u8, u64>, second: u64, count: u64) -> Vec<Written<u64>> {
        let mut lines = Vec::new();
        for number in 0..count {
            let now = Instant(second * 1000 + number * 1000 / count);
            if now.0.is_multiple_of(200) {
                lines.extend(governor.overdue(now));
            }
            lines.extend(governor.offer(1, 0, number, now));
        }
        lines
    }

    fn all(lines: &[Written<u64>]) -> u64 {
        lines.iter().map(|line| 1 + line.left_out).sum()
    }

    #[test]
    fn a_flood_is_a_line_a_second_and_every_event_is_counted() {
        let mut governor = Governor::new(10, 16);
        assert_eq!(second(&mut governor, 0, 9).len(), 9, "all of few");
        let first = second(&mut governor, 1, 50_000);
        assert!((10..=11).contains(&first.len()), "the burst: {}", first.len());
        let mut lines = first;
        for at in 2..22 {
            let some = second(&mut governor, at, 50_000);
            assert!(some.len() <= 2, "{} lines in second {at}", some.len());
            lines.extend(some);
        }
        assert!(lines.len() <= 11 + 21, "{} lines of a million events", lines.len());
        let end = governor.overdue(Instant(23_500));
        assert_eq!(end.len(), 1, "the end of a flood is told");
        lines.extend(end);
        assert_eq!(all(&lines), 21 * 50_000);
        assert!(governor.overdue(Instant(60_000)).is_empty());
        let calm = second(&mut governor, 60, 9);
        assert_eq!((calm.len(), all(&calm)), (9, 9), "when it is calm again, all of few");
    }

    #[test]
    fn kinds_do_not_hide_each_other() {
        let mut governor = Governor::new(1, 16);
        for number in 0..100 {
            governor.offer(1, 0, number, Instant(number));
        }
        assert_eq!(
            governor.offer(2, 0, 7, Instant(99)),
            Some(Written { what: 7, at: Instant(99), left_out: 0 })
        );
    }

    #[test]
    fn many_kinds_are_bounded_and_counted_together() {
        let mut governor = Governor::new(1, 100);
        let mut written = 0;
        for kind in 1..10_000_u32 {
            written += u64::from(governor.offer(kind, 0, kind, Instant(0)).is_some());
        }
        assert!(governor.kinds.len() <= 101);
        assert_eq!(written, 101);
        let rest = governor.overdue(Instant(1000));
        assert_eq!(rest.iter().map(|line| 1 + line.left_out).sum::<u64>() + written, 9_999);
        // Room is made by those that are over.
        assert!(governor.offer(20_000, 0, 1, Instant(9000)).is_some());
        assert!(governor.kinds.len() <= 2);
    }

    #[test]
    fn a_burst_that_ends_is_told_in_its_time() {
        let mut governor = Governor::new(2, 16);
        for number in 0..5 {
            governor.offer(1, 0, number, Instant(number));
        }
        assert!(governor.overdue(Instant(999)).is_empty());
        assert_eq!(governor.overdue(Instant(1000)), [Written { what: 4, at: Instant(4), left_out: 2 }]);
        assert!(governor.overdue(Instant(5000)).is_empty());
    }
}
