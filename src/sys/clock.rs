//! The clock. Nobody else reads one.
#![allow(clippy::disallowed_methods)]

use std::time::{Duration, Instant as Monotonic, SystemTime};

use crate::conntrack::Instant;

/// How long work beside the packets goes on without a break.
const STRETCH: Duration = Duration::from_micros(60);

/// How long a break is, at least: the kernel makes some 50 µs of it (`PR_SET_TIMERSLACK`).
const BREAK: Duration = Duration::from_micros(1);

/// Breaks for work that takes long and can wait. The kernel preempts a thread that never sleeps in favour of one
/// that wakes only where it has had more than its share, else up to 4 ms later, however nice it is; in a break
/// whoever waits runs.
#[derive(Debug)]
pub struct Pace {
    began: Monotonic,
    stretch: Monotonic,
}

impl Pace {
    /// The work begins.
    #[must_use]
    pub fn begin() -> Self {
        let now = Monotonic::now();
        Self { began: now, stretch: now }
    }

    /// A piece of it is done: takes a break if it is time for one. How long the work takes so far.
    pub fn step(&mut self) -> Duration {
        let now = Monotonic::now();
        if now.duration_since(self.stretch) >= STRETCH {
            std::thread::sleep(BREAK);
            self.stretch = Monotonic::now();
        }
        now.duration_since(self.began)
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
