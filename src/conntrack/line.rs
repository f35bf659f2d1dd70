//! Lines of slots in the order in which they joined: joining, leaving and looking at the
//! first take constant time. Where one stands lies beside its slot.

use super::{
    rare::Beside,
    slab::{Index, NONE},
};

/// A slot's neighbours in its line.
#[derive(Clone, Copy, Debug)]
pub(super) struct Neighbours {
    before: Index,
    behind: Index,
}

/// A line. All methods take the neighbours of all that stand in one.
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
    /// The slot that joined first.
    #[must_use]
    pub fn first(&self) -> Option<Index> {
        (self.first != NONE).then_some(self.first)
    }

    /// Puts a slot that stands in no line behind all others. `false`: it stands in one.
    pub(super) fn join(&mut self, all: &mut Beside<Neighbours>, slot: Index) -> bool {
        let last = self.last;
        if all.of(slot).is_some() || !all.put(slot, Neighbours { before: last, behind: NONE }) {
            return false;
        }
        match all.of_mut(last) {
            Some(neighbours) => neighbours.behind = slot,
            None => self.first = slot,
        }
        self.last = slot;
        true
    }

    /// Takes a slot out. `false`: it stands in no line.
    pub(super) fn leave(&mut self, all: &mut Beside<Neighbours>, slot: Index) -> bool {
        let Some(Neighbours { before, behind }) = all.take(slot) else { return false };
        match all.of_mut(before) {
            Some(neighbours) => neighbours.behind = behind,
            None => self.first = behind,
        }
        match all.of_mut(behind) {
            Some(neighbours) => neighbours.before = before,
            None => self.last = before,
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        /// Against two naive queues.
        #[test]
        fn agrees_with_a_queue(ops in proptest::collection::vec((0_u8..3, 0_usize..2, 0_u32..12), 1..200)) {
            let mut all = Beside::new(4);
            let mut lines = [Line::default(); 2];
            let mut model = [Vec::<u32>::new(), Vec::new()];
            for (op, which, item) in ops {
                let at = model.iter().position(|line| line.contains(&item));
                match (op, at) {
                    (0 | 1, None) => {
                        assert!(lines[which].join(&mut all, item));
                        model[which].push(item);
                    }
                    (0 | 1, Some(_)) => assert!(!lines[which].join(&mut all, item), "in one line only"),
                    (_, None) => assert!(!lines[which].leave(&mut all, item)),
                    (_, Some(at)) => {
                        assert!(lines[at].leave(&mut all, item));
                        model[at].retain(|other| *other != item);
                    }
                }
                for (line, model) in lines.iter().zip(&model) {
                    assert_eq!(line.first(), model.first().copied());
                    let mut walked = Vec::new();
                    let mut next = line.first;
                    while let Some(neighbours) = all.of(next) {
                        walked.push(next);
                        next = neighbours.behind;
                    }
                    assert_eq!(&walked, model);
                    assert_eq!(line.last, model.last().copied().unwrap_or(NONE));
                }
            }
        }
    }
}
