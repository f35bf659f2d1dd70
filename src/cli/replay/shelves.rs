//! All rows of a replay. Those of TCP, of which packets come again and again, stand
//! apart from those of scans, datagrams and echoes, of which most have one packet: so
//! what is live lies in less memory.

use super::{index::Indexed, rows::Row};
use crate::conntrack::{Fetch, Flow, slab::Slab};

/// The number of a row: twice its place on its shelf, and one more for what is not TCP.
pub(super) type Number = u32;

/// Rows, in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Shelves {
    tcp: Slab<Row>,
    others: Slab<Row>,
    order: Vec<Number>,
}

impl Shelves {
    fn shelf(&self, number: Number) -> &Slab<Row> {
        if number.is_multiple_of(2) { &self.tcp } else { &self.others }
    }

    /// Puts a row where it belongs. `None`: there are too many.
    pub(super) fn add(&mut self, row: Row) -> Option<Number> {
        let (shelf, odd) = if row.is_tcp() { (&mut self.tcp, 0) } else { (&mut self.others, 1) };
        let number = shelf.insert(row)?.checked_mul(2)? | odd;
        self.order.push(number);
        Some(number)
    }

    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Row> {
        self.order.iter().filter_map(|number| self.get(*number))
    }

    pub(super) fn get(&self, number: Number) -> Option<&Row> {
        self.shelf(number).get(number / 2)
    }

    pub(super) fn get_mut(&mut self, number: Number) -> Option<&mut Row> {
        let shelf = if number.is_multiple_of(2) { &mut self.tcp } else { &mut self.others };
        shelf.get_mut(number / 2)
    }

    /// Asks for a row without reading it.
    pub(super) fn fetch(&self, number: Number, with: &impl Fetch) {
        self.shelf(number).fetch(number / 2, with);
    }
}

impl Indexed for Shelves {
    fn flow(&self, row: Number) -> Option<&Flow> {
        self.get(row).map(|row| &row.flow)
    }
}
