//! The engine's clock: a number that its caller moves forward.

use std::{num::NonZeroU32, time::Duration};

/// Milliseconds since a start that the caller chose. Never read from a clock
/// in the pure part.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Hash)]
pub struct Instant(pub u64);

/// Whole milliseconds of a duration, saturating. As `as_millis`, in 64 bits: it is
/// asked for every packet.
const fn milliseconds(duration: Duration) -> u64 {
    duration.as_secs().saturating_mul(1000).saturating_add(duration.subsec_millis() as u64)
}

impl Instant {
    /// `self` and `duration` later, saturating.
    #[must_use]
    pub const fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(milliseconds(duration)))
    }

    /// The time from `earlier` to `self`; zero if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// A point in time as an entry stores it: hundredths of a second, 32 bits that
/// wrap after 497 days. Only differences of less than half of that mean anything,
/// which is why no timer may be longer than 100 days. Never zero, so that an
/// `Option` of it is no larger; the moment that would be zero is told as one later.
/// At any address, as [`crate::wire::SeqNum`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(Rust, packed)]
pub struct Stamp(NonZeroU32);

impl Stamp {
    /// Milliseconds of one unit.
    pub(super) const UNIT: u64 = 10;

    /// The stamp of an instant, rounded down.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "stamps wrap by design")]
    pub const fn of(now: Instant) -> Self {
        match NonZeroU32::new((now.0 / Self::UNIT) as u32) {
            Some(units) => Self(units),
            None => Self(NonZeroU32::MIN),
        }
    }

    /// Milliseconds from `self` to `now`.
    const fn elapsed_milliseconds(self, now: Instant) -> u64 {
        let units = Self::of(now).0.get().wrapping_sub(self.0.get());
        (units as u64).saturating_mul(Self::UNIT)
    }

    /// The time from `self` to `now`.
    #[must_use]
    pub fn elapsed(self, now: Instant) -> Duration {
        Duration::from_millis(self.elapsed_milliseconds(now))
    }

    /// Whether more than this has passed from `self` to `now`.
    #[must_use]
    pub const fn is_older(self, duration: Duration, now: Instant) -> bool {
        self.elapsed_milliseconds(now) > milliseconds(duration)
    }

    /// The instant of this stamp, which lies within 497 days before `now`.
    #[must_use]
    pub fn instant(self, now: Instant) -> Instant {
        let whole = now.0.saturating_sub(now.0 % Self::UNIT);
        Instant(whole.saturating_sub(self.elapsed_milliseconds(now)))
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
        assert_eq!(Stamp::of(Instant(0)).elapsed(Instant(5_000)), Duration::from_millis(4_990));
        assert_eq!(size_of::<Option<Stamp>>(), size_of::<u32>());
    }
}
