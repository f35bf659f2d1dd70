//! Sequence numbers: 32 bits that wrap (RFC 9293 §3.4).
//!
//! Deliberately without `PartialOrd`: an order exists only between numbers
//! that are less than 2^31 apart, and the reader should see where one is asked.

use std::fmt;

/// A TCP sequence number. Arithmetic wraps; `before` and `after` compare as
/// RFC 9293 §3.4 has it. Two numbers exactly 2^31 apart are neither. It lies at any
/// address, so that what holds some needs no gaps.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(Rust, packed)]
pub struct SeqNum(pub u32);

impl SeqNum {
    /// Whether `self` comes strictly before `other`.
    #[must_use]
    pub const fn before(self, other: Self) -> bool {
        let ahead = other.0.wrapping_sub(self.0);
        ahead != 0 && ahead < 1 << 31
    }

    /// Whether `self` comes strictly after `other`.
    #[must_use]
    pub const fn after(self, other: Self) -> bool {
        other.before(self)
    }

    /// Whether `self` is `other` or comes before it.
    #[must_use]
    pub const fn before_or_at(self, other: Self) -> bool {
        other.0.wrapping_sub(self.0) < 1 << 31
    }

    /// Whether `self` is `other` or comes after it.
    #[must_use]
    pub const fn after_or_at(self, other: Self) -> bool {
        other.before_or_at(self)
    }

    /// `self` moved `count` octets ahead.
    #[must_use]
    pub const fn plus(self, count: u32) -> Self {
        Self(self.0.wrapping_add(count))
    }

    /// `self` moved `count` octets back.
    #[must_use]
    pub const fn minus(self, count: u32) -> Self {
        Self(self.0.wrapping_sub(count))
    }

    /// Octets from `earlier` to `self`, wrapping.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u32 {
        self.0.wrapping_sub(earlier.0)
    }

    /// The later of the two.
    #[must_use]
    pub const fn latest(self, other: Self) -> Self {
        if self.after(other) { self } else { other }
    }
}

impl fmt::Debug for SeqNum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", { self.0 })
    }
}

impl fmt::Display for SeqNum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", { self.0 })
    }
}
