//! Lines of entries in the order in which they joined, linked through the entries:
//! joining, leaving and looking at the first take constant time and no memory.

use super::slab::{Index, NONE, Slab};

/// In the links of an entry that stands in no line.
const OUT: Index = NONE - 1;

/// An entry's neighbours in its line.
#[derive(Clone, Copy, Debug)]
pub struct Neighbours {
    before: Index,
    behind: Index,
}

impl Default for Neighbours {
    fn default() -> Self {
        Self { before: OUT, behind: OUT }
    }
}

/// An entry that can stand in one line at a time.
pub trait Lined {
    /// Its neighbours.
    fn neighbours(&self) -> &Neighbours;
    /// Its neighbours.
    fn neighbours_mut(&mut self) -> &mut Neighbours;
}

/// A line. All methods take the slab that its entries live in.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    first: Index,
    last: Index,
}

impl Default for Line {
    fn default() -> Self {
        Self { first: NONE, last: NONE }
    }
}

impl Line {
    /// The entry that joined first.
    #[must_use]
    pub fn first(&self) -> Option<Index> {
        (self.first != NONE).then_some(self.first)
    }

    /// Puts an entry that stands in no line behind all others. `false`: it stands in one,
    /// or there is no such entry.
    pub fn join<T: Lined>(&mut self, slab: &mut Slab<T>, index: Index) -> bool {
        let last = self.last;
        match slab.get_mut(index).map(Lined::neighbours_mut) {
            Some(own) if own.before == OUT => *own = Neighbours { before: last, behind: NONE },
            Some(_) | None => return false,
        }
        match slab.get_mut(last) {
            Some(entry) => entry.neighbours_mut().behind = index,
            None => self.first = index,
        }
        self.last = index;
        true
    }

    /// Takes an entry out. `false`: it stands in no line.
    pub fn leave<T: Lined>(&mut self, slab: &mut Slab<T>, index: Index) -> bool {
        let Some(own) = slab.get_mut(index).map(Lined::neighbours_mut) else { return false };
        let Neighbours { before, behind } = std::mem::take(own);
        if before == OUT {
            return false;
        }
        match slab.get_mut(before) {
            Some(entry) => entry.neighbours_mut().behind = behind,
            None => self.first = behind,
        }
        match slab.get_mut(behind) {
            Some(entry) => entry.neighbours_mut().before = before,
            None => self.last = before,
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Item(Neighbours);

    impl Lined for Item {
        fn neighbours(&self) -> &Neighbours {
            &self.0
        }

        fn neighbours_mut(&mut self) -> &mut Neighbours {
            &mut self.0
        }
    }

    proptest::proptest! {
        /// Against two naive queues.
        #[test]
        fn agrees_with_a_queue(ops in proptest::collection::vec((0_u8..3, 0_usize..2, 0_u32..12), 1..200)) {
            let mut slab = Slab::default();
            for _ in 0..12 {
                slab.insert(Item::default()).unwrap();
            }
            let mut lines = [Line::default(); 2];
            let mut model = [Vec::<u32>::new(), Vec::new()];
            for (op, which, item) in ops {
                let at = model.iter().position(|line| line.contains(&item));
                match (op, at) {
                    (0 | 1, None) => {
                        assert!(lines[which].join(&mut slab, item));
                        model[which].push(item);
                    }
                    (0 | 1, Some(_)) => assert!(!lines[which].join(&mut slab, item), "in one line only"),
                    (_, None) => assert!(!lines[which].leave(&mut slab, item)),
                    (_, Some(at)) => {
                        assert!(lines[at].leave(&mut slab, item));
                        model[at].retain(|other| *other != item);
                    }
                }
                for (line, model) in lines.iter().zip(&model) {
                    assert_eq!(line.first(), model.first().copied());
                    let mut walked = Vec::new();
                    let mut next = line.first;
                    while let Some(item) = slab.get(next) {
                        walked.push(next);
                        next = item.0.behind;
                    }
                    assert_eq!(&walked, model);
                    assert_eq!(line.last, model.last().copied().unwrap_or(NONE));
                }
            }
        }
    }
}
