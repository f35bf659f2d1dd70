//! How many different things there were, about, in a fixed number of bits.
//!
//! Linear counting: each thing sets the bit that its hash says, and of m bits of
//! which z are still clear, m ln(m/z) things are the likeliest number (Whang,
//! Vander-Zanden, Taylor: A linear-time probabilistic counting algorithm for
//! database applications, ACM TODS 15, 1990, §3). With 2048 bits 64 things are
//! told within 3 of them, a thousand within 4 %; when all bits are set, all that
//! is known is "at least".

/// A set that can only be counted; `WORDS` times 64 bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Distinct<const WORDS: usize> {
    words: [u64; WORDS],
}

impl<const WORDS: usize> Default for Distinct<WORDS> {
    fn default() -> Self {
        Self { words: [0; WORDS] }
    }
}

impl<const WORDS: usize> Distinct<WORDS> {
    /// Puts a thing in, by its hash. `true`: its bit was clear.
    pub fn insert(&mut self, hash: u64) -> bool {
        let bit = 1_u64.wrapping_shl((hash & 63) as u32);
        let place = ((hash >> 6) as usize).checked_rem(WORDS);
        let Some(word) = place.and_then(|place| self.words.get_mut(place)) else { return false };
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }

    /// What is in either.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let mut both = *self;
        for (word, theirs) in both.words.iter_mut().zip(other.words) {
            *word |= theirs;
        }
        both
    }

    /// About how many things are in it.
    #[must_use]
    pub fn estimate(&self) -> u32 {
        let bits = WORDS.saturating_mul(64) as f64;
        let clear: u32 = self.words.iter().map(|word| word.count_zeros()).sum();
        // With none clear, what one clear bit would say.
        let clear = f64::from(clear.max(1));
        // Saturates, and is never negative.
        (bits * (bits / clear).ln()).round() as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers spread as a good hash spreads them (splitmix64).
    fn spread(number: u64) -> u64 {
        let mut z = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    #[test]
    fn counts_are_about_right() {
        let mut set = Distinct::<32>::default();
        assert_eq!(set.estimate(), 0);
        let mut wrong = Vec::new();
        for number in 0..4000_u64 {
            set.insert(spread(number));
            set.insert(spread(number));
            let (really, told) = (number as f64 + 1.0, f64::from(set.estimate()));
            if (told - really).abs() > 3.0 + really * 0.06 {
                wrong.push((really, told));
            }
        }
        assert!(wrong.is_empty(), "{wrong:?}");
    }

    #[test]
    fn a_full_set_says_at_least() {
        let mut set = Distinct::<8>::default();
        for number in 0..100_000 {
            set.insert(spread(number));
        }
        assert_eq!(set.estimate(), 3194, "512 ln 512");
    }

    #[test]
    fn a_union_counts_what_is_in_both_once() {
        let (mut one, mut other) = (Distinct::<32>::default(), Distinct::<32>::default());
        for number in 0..100 {
            one.insert(spread(number));
            other.insert(spread(number + 50));
        }
        let both = one.union(&other).estimate();
        assert!((145..=155).contains(&both), "{both}");
    }
}
