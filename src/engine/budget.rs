//! How many RSTs may be sent: a token bucket that holds one second's worth.

use parking_lot::Mutex;

use crate::conntrack::Instant;

/// The bucket.
#[derive(Debug)]
pub(super) struct Budget {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Thousandths of an RST.
    tokens: u64,
    filled: Instant,
}

impl Budget {
    pub(super) fn new(per_second: u32, now: Instant) -> Self {
        let tokens = u64::from(per_second).saturating_mul(1000);
        Self { state: Mutex::new(State { tokens, filled: now }) }
    }

    /// Whether one more may be sent now.
    pub(super) fn take(&self, per_second: u32, now: Instant) -> bool {
        self.take_all(1, per_second, now)
    }

    /// Whether so many more may be sent now: all of them or none.
    pub(super) fn take_all(&self, count: u32, per_second: u32, now: Instant) -> bool {
        let wanted = u64::from(count).saturating_mul(1000);
        let mut state = self.state.lock();
        let full = u64::from(per_second).saturating_mul(1000);
        let elapsed = now.0.saturating_sub(state.filled.0);
        // Per second times milliseconds is thousandths.
        let earned = elapsed.saturating_mul(u64::from(per_second));
        state.tokens = state.tokens.saturating_add(earned).min(full);
        state.filled = state.filled.max(now);
        if state.tokens < wanted {
            return false;
        }
        state.tokens = state.tokens.saturating_sub(wanted);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holds_what_a_second_may() {
        let budget = Budget::new(10, Instant(0));
        let taken = (0..100).filter(|_| budget.take(10, Instant(0))).count();
        assert_eq!(taken, 10);
        assert!(budget.take(10, Instant(100)));
        assert!(!budget.take(10, Instant(100)));
        assert!(!budget.take_all(2, 10, Instant(200)));
        assert!(budget.take_all(2, 10, Instant(300)));
        let taken = (0..100).filter(|_| budget.take(10, Instant(60_000))).count();
        assert_eq!(taken, 10, "no saving up beyond a second");
    }
}
