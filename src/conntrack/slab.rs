//! Entries in pieces that never move: growing copies nothing.

use super::fetch::Fetch;

/// A slot's number; never [`NONE`].
pub type Index = u32;

/// No slot.
pub const NONE: Index = u32::MAX;

/// The numbers from here on are no slots: what is linked through slots marks by them where a
/// chain ends.
pub const MARKS: Index = u32::MAX - 255;

#[derive(Debug)]
enum Place<T> {
    Free(Stored),
    Used(T),
}

/// A slot's number as it lies in an entry: at any address, so that entries need no gaps.
#[derive(Clone, Copy, Debug)]
#[repr(Rust, packed)]
pub(super) struct Stored(pub(super) Index);

/// A growable array of slots with a free list. A number is handed out again
/// after its entry was removed.
#[derive(Debug)]
pub struct Slab<T> {
    pieces: Vec<Vec<Place<T>>>,
    free: Index,
    len: u32,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { pieces: Vec::new(), free: NONE, len: 0 }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "indices are below 2^32 by construction")]
impl<T> Slab<T> {
    /// Slots of one piece.
    pub const PIECE: usize = 128;

    /// Octets that a slab with at most so many entries at once ever takes: whole pieces,
    /// with what the allocator adds to each, and the list of pieces, which doubles as it
    /// grows.
    #[must_use]
    pub const fn most_octets(entries: u64) -> u64 {
        // Pieces are smaller than what gets pages of its own.
        const ADDED: u64 = 32;
        const { assert!(Self::PIECE.saturating_mul(size_of::<Place<T>>()) < 128 << 10) };
        let pieces = entries.div_ceil(Self::PIECE as u64);
        let piece = Self::PIECE.saturating_mul(size_of::<Place<T>>()) as u64;
        let list = match pieces {
            0..4 => 4,
            more => more.next_power_of_two(),
        };
        let list = list.saturating_mul(2).saturating_mul(size_of::<Vec<Place<T>>>() as u64);
        pieces.saturating_mul(piece.saturating_add(ADDED)).saturating_add(list)
    }

    /// Octets that an entry takes.
    #[must_use]
    pub const fn octets() -> usize {
        size_of::<Place<T>>()
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// One more than the highest number ever handed out.
    #[must_use]
    pub fn bound(&self) -> u32 {
        let full = self.pieces.len().saturating_sub(1).saturating_mul(Self::PIECE);
        full.saturating_add(self.pieces.last().map_or(0, Vec::len)) as u32
    }

    fn place(&self, index: Index) -> Option<&Place<T>> {
        self.pieces.get(index as usize / Self::PIECE)?.get(index as usize % Self::PIECE)
    }

    fn place_mut(&mut self, index: Index) -> Option<&mut Place<T>> {
        self.pieces.get_mut(index as usize / Self::PIECE)?.get_mut(index as usize % Self::PIECE)
    }

    /// Asks for a slot without reading it.
    pub fn fetch(&self, index: Index, with: &impl Fetch) {
        if let Some(place) = self.place(index) {
            with.fetch(place);
        }
    }

    /// Where the piece lies whose first slot this is, and stays: its slots lie one behind the
    /// other, [`Self::octets`] each.
    #[must_use]
    pub fn piece_that_begins(&self, index: Index) -> Option<*const u8> {
        let is_first = (index as usize).is_multiple_of(Self::PIECE);
        is_first.then(|| self.place(index).map(|place| std::ptr::from_ref(place).cast())).flatten()
    }

    /// The entry in a slot.
    #[must_use]
    pub fn get(&self, index: Index) -> Option<&T> {
        match self.place(index)? {
            Place::Used(entry) => Some(entry),
            Place::Free(_) => None,
        }
    }

    /// The entry in a slot.
    pub fn get_mut(&mut self, index: Index) -> Option<&mut T> {
        match self.place_mut(index)? {
            Place::Used(entry) => Some(entry),
            Place::Free(_) => None,
        }
    }

    /// Makes the list of pieces for so many entries, so that it does not grow before.
    pub fn make_list(&mut self, entries: usize) {
        self.pieces.reserve_exact(entries.div_ceil(Self::PIECE));
    }

    /// Puts an entry into a free slot. `None`, and the entry is lost, only with
    /// 2^32 entries.
    pub fn insert(&mut self, entry: T) -> Option<Index> {
        let index = if self.free == NONE {
            if self.pieces.last().is_none_or(|piece| piece.len() == Self::PIECE) {
                self.pieces.push(Vec::with_capacity(Self::PIECE));
            }
            let index = self.bound();
            if index >= MARKS {
                return None;
            }
            self.pieces.last_mut()?.push(Place::Used(entry));
            index
        } else {
            let index = self.free;
            let place = self.place_mut(index)?;
            if let Place::Free(Stored(next)) = *place {
                *place = Place::Used(entry);
                self.free = next;
            }
            index
        };
        self.len = self.len.saturating_add(1);
        Some(index)
    }

    /// Takes the entry out of a slot.
    pub fn remove(&mut self, index: Index) -> Option<T> {
        let next = self.free;
        let place = self.place_mut(index)?;
        if matches!(place, Place::Free(_)) {
            return None;
        }
        let Place::Used(entry) = std::mem::replace(place, Place::Free(Stored(next))) else { return None };
        self.free = index;
        self.len = self.len.saturating_sub(1);
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_reused_and_never_shared() {
        let mut slab = Slab::default();
        let numbers: Vec<_> = (0..3000).map(|n| slab.insert(n).unwrap()).collect();
        assert_eq!(slab.len(), 3000);
        assert_eq!(slab.bound(), 3000);
        for &index in numbers.iter().step_by(2) {
            assert!(slab.remove(index).is_some());
            assert!(slab.remove(index).is_none(), "removed twice");
        }
        assert_eq!(slab.len(), 1500);
        for n in 0..1500 {
            slab.insert(10_000 + n).unwrap();
        }
        assert_eq!(slab.bound(), 3000, "free slots come first");
        for &index in numbers.iter().skip(1).step_by(2) {
            assert_eq!(slab.get(index).copied(), Some(index));
        }
    }
}
