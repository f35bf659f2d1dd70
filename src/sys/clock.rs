//! The clock. Nobody else reads one.
#![allow(clippy::disallowed_methods)]

use std::time::{Duration, Instant as Monotonic, SystemTime};

use crate::conntrack::Instant;

/// How long work beside the packets goes on without a break.
const STRETCH: Duration = Duration::from_micros(60);

/// How long a break is, at least: the kernel makes some 50 µs of it (`PR_SET_TIMERSLACK`).
const BREAK: Duration = Duration::from_micros(1);

/// Work that has gone on for so long gives way between breaks too.
const LONG: Duration = Duration::from_millis(10);

/// How long it goes on then without giving way to whoever has woken (`sched_yield(2)`).
const GIVE_WAY: Duration = Duration::from_micros(10);

/// Breaks for work that takes long and can wait. The kernel preempts a thread that never sleeps in favour of one
/// that wakes only where it has had more than its share, else up to 4 ms later, however nice it is; in a break
/// whoever waits runs. Long work gives way between breaks too: packets' threads that had woken waited for the
/// next break else (`perf sched timehist`). Short work does not: it is soon over, and each switch has a cost.
#[derive(Debug)]
pub struct Pace {
    began: Monotonic,
    stretch: Monotonic,
    gave_way: Monotonic,
}

impl Pace {
    /// The work begins.
    #[must_use]
    pub fn begin() -> Self {
        let now = Monotonic::now();
        Self { began: now, stretch: now, gave_way: now }
    }

    /// A piece of it is done: takes a break if it is time for one. How long the work takes so far.
    pub fn step(&mut self) -> Duration {
        let now = Monotonic::now();
        if now.duration_since(self.stretch) >= STRETCH {
            std::thread::sleep(BREAK);
            self.stretch = Monotonic::now();
            self.gave_way = self.stretch;
        } else if now.duration_since(self.began) >= LONG && now.duration_since(self.gave_way) >= GIVE_WAY {
            std::thread::yield_now();
            self.gave_way = Monotonic::now();
        }
        now.duration_since(self.began)
    }
}

/// More than one packet in this time comes fast.
const FAST: Duration = Duration::from_micros(50);

/// So many times one behind the other is no accident.
const FAST_IN_A_ROW: u32 = 8;

/// How long more of them are let come together, at least; the kernel makes some 300 µs of it.
const GATHER: Duration = Duration::from_micros(250);

/// Keeps packets that come fast from waking somebody one by one, as a network card moderates its
/// interrupts: each wake-up costs whoever brings the packet, and each batch has a cost of its own.
#[derive(Debug)]
pub struct Moderation {
    last: Monotonic,
    in_a_row: u32,
    gathered: usize,
}

impl Moderation {
    /// Nothing has come.
    #[must_use]
    pub fn begin() -> Self {
        Self { last: Monotonic::now(), in_a_row: 0, gathered: 0 }
    }

    /// So many have been taken. If no more wait, and nobody `hurries`, lets some come where they
    /// have come fast for a while. How many have come fast so far.
    pub fn after(&mut self, taken: usize, more_wait: bool, hurries: bool) -> usize {
        let now = Monotonic::now();
        let since = now.duration_since(self.last);
        self.last = now;
        if self.is_due(taken, more_wait, since) && !hurries {
            std::thread::sleep(GATHER);
        }
        self.gathered
    }

    fn is_due(&mut self, taken: usize, more_wait: bool, since: Duration) -> bool {
        // What waits has come faster than it is taken.
        let is_fast = more_wait || since < FAST.saturating_mul(u32::try_from(taken).unwrap_or(u32::MAX));
        (self.in_a_row, self.gathered) = if is_fast {
            (self.in_a_row.saturating_add(1), self.gathered.saturating_add(taken))
        } else {
            (0, 0)
        };
        self.in_a_row >= FAST_IN_A_ROW && !more_wait
    }
}

/// The engine's clock: monotonic, starting at zero, with the wall clock beside it.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Monotonic,
}

impl Clock {
    /// A clock that starts now.
    #[must_use]
    pub fn start() -> Self {
        Self { start: Monotonic::now() }
    }

    /// The engine's time now.
    #[must_use]
    pub fn now(&self) -> Instant {
        Instant(u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    /// The wall clock's time, `ago` before now.
    #[must_use]
    pub fn wall(ago: Duration) -> SystemTime {
        let now = SystemTime::now();
        now.checked_sub(ago).unwrap_or(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_wait_for_more_and_few_do_not() {
        let mut moderation = Moderation::begin();
        let mut due = |taken, micros| moderation.is_due(taken, false, Duration::from_micros(micros));
        for _ in 1..FAST_IN_A_ROW {
            assert!(!due(1, 10));
        }
        assert!(due(1, 10));
        // Behind a break: ten in its time are many, and one is not.
        assert!(due(10, 110));
        assert_eq!(moderation.gathered, FAST_IN_A_ROW as usize + 10);
        let mut due = |taken, micros| moderation.is_due(taken, false, Duration::from_micros(micros));
        assert!(!due(1, 110));
        for _ in 1..FAST_IN_A_ROW {
            assert!(!due(1, 10));
        }
        assert!(due(1, 10));
        assert!(!due(0, 0));
        assert_eq!(moderation.gathered, 0);
        for batch in 1..=2 * FAST_IN_A_ROW {
            assert!(!moderation.is_due(32, true, Duration::from_secs(1)), "nobody rests while more wait");
            assert_eq!(moderation.gathered, 32 * batch as usize);
        }
        assert!(moderation.is_due(31, false, Duration::from_millis(1)));
    }
}
