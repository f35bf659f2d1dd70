//! How many TCP handshakes began and were completed, since the start and lately.

use std::{collections::VecDeque, time::Duration};

use crate::conntrack::Instant;

/// Handshakes in a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rate {
    /// That began.
    pub begun: u64,
    /// That were completed, some of which may have begun before.
    pub completed: u64,
}

impl Rate {
    /// Completed of those begun, in percent; `None` if none began. Above 100 if more
    /// ended well than began.
    #[must_use]
    pub fn percent(&self) -> Option<f64> {
        (self.begun > 0).then(|| self.completed as f64 * 100.0 / self.begun as f64)
    }
}

/// Samples of the engine's counters, which only grow.
#[derive(Clone, Debug)]
pub struct Handshakes {
    window: Duration,
    samples: VecDeque<(Instant, Rate)>,
}

impl Handshakes {
    /// None yet; `window` is what counts as lately, in whole seconds.
    #[must_use]
    pub fn new(window: Duration) -> Self {
        Self { window, samples: VecDeque::new() }
    }

    /// Takes the counters, once a second.
    pub fn sample(&mut self, so_far: Rate, now: Instant) {
        self.samples.push_back((now, so_far));
        // The last one that is older than the window is what its begin is told from.
        while self.samples.get(1).is_some_and(|(at, _)| now.since(*at) >= self.window) {
            self.samples.pop_front();
        }
    }

    /// Handshakes in the window, and how long that really was: less after the start.
    #[must_use]
    pub fn lately(&self, so_far: Rate, now: Instant) -> (Rate, Duration) {
        let Some((at, before)) = self.samples.front() else { return (Rate::default(), Duration::ZERO) };
        let rate = Rate {
            begun: so_far.begun.saturating_sub(before.begun),
            completed: so_far.completed.saturating_sub(before.completed),
        };
        (rate, now.since(*at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lately_is_the_window_and_memory_is_bounded() {
        let mut all = Handshakes::new(Duration::from_secs(60));
        let at = |second: u64| Rate { begun: second * 10, completed: second * 9 };
        for second in 0..1000 {
            all.sample(at(second), Instant(second * 1000));
        }
        let (rate, time) = all.lately(at(999), Instant(999_000));
        assert_eq!((rate, time), (Rate { begun: 600, completed: 540 }, Duration::from_secs(60)));
        assert_eq!(rate.percent(), Some(90.0));
        assert!(all.samples.len() <= 62);
    }

    #[test]
    fn after_the_start_it_says_how_short_the_time_was() {
        let mut all = Handshakes::new(Duration::from_secs(60));
        assert_eq!(all.lately(Rate::default(), Instant(5)), (Rate::default(), Duration::ZERO));
        all.sample(Rate::default(), Instant(1000));
        let (rate, time) = all.lately(Rate { begun: 3, completed: 0 }, Instant(4000));
        assert_eq!((rate.begun, rate.percent(), time), (3, Some(0.0), Duration::from_secs(3)));
        assert_eq!(Rate::default().percent(), None);
    }
}
