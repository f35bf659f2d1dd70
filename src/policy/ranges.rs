//! Which part of a space a value lies in: of addresses, or of ports.
//!
//! [`Ranges`] is made once and searched often. It is a search tree of eight ways
//! without pointers, a node of IPv4 addresses just one cache line, so that a search
//! among a million ranges touches seven lines, takes no branch that depends on the
//! value, and two searches run side by side in one core. Made by [`partition`].

/// A value that a space is made of.
pub(super) trait Point: Copy + Ord {
    /// The lowest.
    const FIRST: Self;
    /// The highest.
    const LAST: Self;

    /// The one behind it.
    fn next(self) -> Option<Self>;
}

impl Point for u32 {
    const FIRST: Self = 0;
    const LAST: Self = Self::MAX;

    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
}

impl Point for u128 {
    const FIRST: Self = 0;
    const LAST: Self = Self::MAX;

    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
}

/// Keys in a node.
const KEYS: usize = 7;
/// Children of a node.
const WAYS: usize = KEYS + 1;

#[derive(Clone, Debug)]
#[repr(align(64))]
struct Node<T> {
    /// Where ranges begin, in order.
    firsts: [T; KEYS],
    /// What holds before the first of them, and from each of them on.
    values: [u32; WAYS],
}

/// A space cut into ranges, each with a value.
#[derive(Clone, Debug)]
pub(super) struct Ranges<T> {
    nodes: Box<[Node<T>]>,
}

impl<T: Point> Ranges<T> {
    /// A space cut where these begin, in order. What lies before the first of them
    /// has the value 0.
    fn new(begins: &[(T, u32)]) -> Self {
        let blank = Node { firsts: [T::LAST; KEYS], values: [0; WAYS] };
        let mut nodes = vec![blank; begins.len().div_ceil(KEYS)].into_boxed_slice();
        fill(&mut nodes, 0, &mut begins.iter().copied(), &mut 0);
        Self { nodes }
    }

    /// The value of the range that a point lies in.
    pub(super) fn find(&self, point: T) -> u32 {
        let (mut at, mut value) = (0_usize, 0);
        while let Some(node) = self.nodes.get(at) {
            let before = node.firsts.iter().filter(|&&first| first <= point).count();
            value = node.values.get(before).copied().unwrap_or(0);
            at = child(at, before);
        }
        value
    }

    /// Octets of memory that it takes.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.nodes)
    }
}

const fn child(node: usize, way: usize) -> usize {
    node.saturating_mul(WAYS).saturating_add(way).saturating_add(1)
}

/// Fills a node and those below it, in the order of their keys. `value` is the one
/// before the next key. Keys that are left over lie behind all others and change nothing.
fn fill<T: Point>(
    nodes: &mut [Node<T>],
    at: usize,
    begins: &mut impl Iterator<Item = (T, u32)>,
    value: &mut u32,
) {
    if at >= nodes.len() {
        return;
    }
    for way in 0..WAYS {
        fill(nodes, child(at, way), begins, value);
        let Some(node) = nodes.get_mut(at) else { return };
        if let Some(slot) = node.values.get_mut(way) {
            *slot = *value;
        }
        if let Some(slot) = node.firsts.get_mut(way) {
            (*slot, *value) = begins.next().unwrap_or((T::LAST, *value));
        }
    }
}

/// Cuts a space wherever one of these ranges (first, last, whose) begins or ends.
/// `value` says what a part is worth that lies in the ranges of these owners, who
/// are told in order. The ranges of one owner must not meet.
pub(super) fn partition<T: Point>(
    ranges: impl Iterator<Item = (T, T, u32)>,
    mut value: impl FnMut(&[u32]) -> u32,
) -> Ranges<T> {
    let mut edges: Vec<(T, bool, u32)> = Vec::new();
    for (first, last, owner) in ranges {
        edges.push((first, true, owner));
        edges.extend(last.next().map(|behind| (behind, false, owner)));
    }
    edges.sort_unstable();
    let mut inside: Vec<u32> = Vec::new();
    let mut begins: Vec<(T, u32)> = Vec::new();
    if edges.first().is_none_or(|(first, ..)| *first != T::FIRST) {
        begins.push((T::FIRST, value(&inside)));
    }
    for chunk in edges.chunk_by(|a, b| a.0 == b.0) {
        for &(_, enters, owner) in chunk {
            match (inside.binary_search(&owner), enters) {
                (Err(at), true) => inside.insert(at, owner),
                (Ok(at), false) => drop(inside.remove(at)),
                (Ok(_), true) | (Err(_), false) => debug_assert!(false, "ranges of one owner meet"),
            }
        }
        let Some(&(first, ..)) = chunk.first() else { continue };
        let new = value(&inside);
        if begins.last().is_none_or(|(_, old)| *old != new) {
            begins.push((first, new));
        }
    }
    Ranges::new(&begins)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_is_one_part() {
        let ranges = partition::<u32>(std::iter::empty(), |inside| 7 + u32::try_from(inside.len()).unwrap());
        assert_eq!([0, 9, u32::MAX].map(|point| ranges.find(point)), [7, 7, 7]);
    }

    #[test]
    fn the_ends_of_the_space_are_no_trap() {
        let all = [(0, u32::MAX, 1), (u32::MAX, u32::MAX, 2), (0, 0, 3)];
        let ranges = partition(all.into_iter(), |inside| inside.iter().sum());
        assert_eq!([0, 1, u32::MAX - 1, u32::MAX].map(|point| ranges.find(point)), [4, 1, 1, 3]);
    }

    proptest! {
        #[test]
        fn a_search_is_what_a_scan_says(
            ranges in proptest::collection::vec((0_u32..600, 0_u32..40), 0..150), high in any::<bool>(),
        ) {
            let top = if high { u128::MAX - 639 } else { 0 };
            let spread = |low: u32| top + u128::from(low);
            let owned = || (0_u32..).zip(&ranges).map(|(owner, &(first, len))| {
                (spread(first), spread(first + len), owner)
            });
            let mut told: Vec<Vec<u32>> = Vec::new();
            let tree = partition(owned(), |inside| {
                told.push(inside.to_vec());
                u32::try_from(told.len() - 1).unwrap()
            });
            for point in (0..640).map(spread).chain([0, u128::MAX, u128::MAX / 2]) {
                let scan: Vec<u32> = owned()
                    .filter(|&(first, last, _)| first <= point && point <= last)
                    .map(|(.., owner)| owner)
                    .collect();
                prop_assert_eq!(&told[tree.find(point) as usize], &scan, "{}", point);
            }
        }
    }
}
