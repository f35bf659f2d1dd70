//! The clock. Nobody else reads one.
#![allow(clippy::disallowed_methods)]

use std::time::{Duration, Instant as Monotonic, SystemTime};

use crate::conntrack::Instant;

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
