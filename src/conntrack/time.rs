//! The engine's clock: a number that its caller moves forward.

use std::time::Duration;

/// Milliseconds since a start that the caller chose. Never read from a clock
/// in the pure part.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Hash)]
pub struct Instant(pub u64);

impl Instant {
    /// `self` and `duration` later, saturating.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }

    /// The time from `earlier` to `self`; zero if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// A point in time as an entry stores it: hundredths of a second, 32 bits that
/// wrap after 497 days. Only differences of less than half of that mean anything,
/// which is why no timer may be longer than 100 days.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub struct Stamp(u32);

impl Stamp {
    /// Milliseconds of one unit.
    const UNIT: u64 = 10;

    /// The stamp of an instant, rounded down.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "stamps wrap by design")]
    pub const fn of(now: Instant) -> Self {
        Self((now.0 / Self::UNIT) as u32)
    }

    /// The time from `self` to `now`.
    #[must_use]
    pub fn elapsed(self, now: Instant) -> Duration {
        let units = Self::of(now).0.wrapping_sub(self.0);
        Duration::from_millis(u64::from(units).saturating_mul(Self::UNIT))
    }

    /// The instant of this stamp, which lies within 497 days before `now`.
    #[must_use]
    pub fn instant(self, now: Instant) -> Instant {
        let whole = now.0.saturating_sub(now.0 % Self::UNIT);
        Instant(whole.saturating_sub(u64::try_from(self.elapsed(now).as_millis()).unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamp_keeps_differences_across_the_wrap() {
        let wrap = (1_u64 << 32) * Stamp::UNIT;
        let before = Instant(wrap - 5_000);
        let after = Instant(wrap + 7_000);
        assert_eq!(Stamp::of(before).elapsed(after), Duration::from_secs(12));
        assert_eq!(Stamp::of(before).instant(after), before);
    }
}
