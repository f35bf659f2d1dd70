//! Links of the chains that run through a slab: where the next entry is, and enough of its
//! hash to tell most others from it before it is read.

use super::slab::{Index, NONE};

/// Bits that are a slot plus one.
const SLOT_BITS: u32 = 24;

const SLOT: u32 = (1 << SLOT_BITS) - 1;

/// To an entry, or nowhere. Lies at any address, so that entries need no gaps.
#[derive(Clone, Copy, Debug)]
#[repr(Rust, packed)]
pub(super) struct Link(u32);

impl Link {
    /// The end of a chain.
    pub(super) const NOWHERE: Self = Self(0);

    /// To the entry with this hash in this slot; `None`: no link reaches so far.
    pub(super) const fn to(slot: Index, hash: u64) -> Option<Self> {
        if slot < SLOT { Some(Self(tag_of(hash) << SLOT_BITS | slot.saturating_add(1))) } else { None }
    }

    /// As [`Self::word`] gave it.
    #[inline(always)]
    pub(super) const fn of_word(word: u32) -> Self {
        Self(word)
    }

    /// The whole of it; 0 is nowhere.
    #[inline(always)]
    pub(super) const fn word(self) -> u32 {
        self.0
    }

    /// Where it leads; [`NONE`]: nowhere.
    #[inline(always)]
    pub(super) const fn slot(self) -> Index {
        (self.0 & SLOT).wrapping_sub(1)
    }

    /// Whether it leads to an entry that is not the one with this hash.
    #[inline(always)]
    pub(super) const fn leads_to_another(self, hash: u64) -> bool {
        self.0 != 0 && self.0 >> SLOT_BITS != tag_of(hash)
    }
}

/// What a link keeps of a hash: bits that say little of the bucket and nothing of the shard.
#[expect(clippy::cast_possible_truncation, reason = "the lowest bits are what is wanted")]
#[inline(always)]
const fn tag_of(hash: u64) -> u32 {
    hash as u32 & ((1 << (32 - SLOT_BITS)) - 1)
}

const _: () = assert!(Link::NOWHERE.slot() == NONE, "the end of a chain is in no slot");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_keeps_its_slot_and_tells_most_hashes_apart() {
        for slot in [0, 1, 77, SLOT - 1] {
            for hash in [0, 1, 255, 256, u64::MAX] {
                let link = Link::to(slot, hash).unwrap();
                assert_eq!((link.slot(), Link::of_word(link.word()).slot()), (slot, slot));
                assert!(!link.leads_to_another(hash));
                assert!(link.leads_to_another(hash ^ 1) && link.leads_to_another(hash ^ 128));
            }
        }
        assert!(Link::to(SLOT, 0).is_none());
        assert!(!Link::NOWHERE.leads_to_another(5));
    }
}
