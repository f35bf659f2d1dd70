//! How long the TCP connections to a port lately were.
//!
//! A way around the queue costs a connection that ends after a request and its answer more than
//! it saves (docs/PERFORMANCE.md). What opens a connection does not say how long it will be; those
//! to the same port before it do.

use std::sync::atomic::{AtomicU32, Ordering};

/// Ports that differ in both octets may share a place: a power of two.
const PLACES: usize = 256;

/// How many connections the mean remembers, as a power of two: so many that one long transfer
/// among thousands of pages counts. In the queue it would cost what they save.
const MEMORY: u32 = 12;

/// The most packets that one connection counts for.
const MOST: u32 = u16::MAX as u32;

/// Connections of fewer packets are short.
pub(super) const SHORT: u32 = 12;

/// So long those to a port are taken for of which none is known.
const AT_FIRST: u32 = 2 * SHORT;

/// The mean of each port's connections, times what it remembers.
#[derive(Debug)]
pub(super) struct Lengths {
    sums: Box<[AtomicU32]>,
}

impl Default for Lengths {
    fn default() -> Self {
        Self { sums: (0..PLACES).map(|_| AtomicU32::new(AT_FIRST << MEMORY)).collect() }
    }
}

impl Lengths {
    fn sum(&self, port: u16) -> Option<&AtomicU32> {
        let [high, low] = port.to_be_bytes();
        self.sums.get(usize::from(high ^ low))
    }

    /// A connection to this port has had so many packets. (Where two threads say so at once, one
    /// of them may not be heard.)
    pub(super) fn note(&self, port: u16, packets: u32) {
        let Some(sum) = self.sum(port) else { return };
        let before = sum.load(Ordering::Relaxed);
        let after = before.saturating_sub(before >> MEMORY).saturating_add(packets.min(MOST));
        sum.store(after, Ordering::Relaxed);
    }

    /// Whether those to this port are short, as a rule.
    pub(super) fn are_short(&self, port: u16) -> bool {
        self.sum(port).is_some_and(|sum| sum.load(Ordering::Relaxed) < SHORT << MEMORY)
    }
}

#[cfg(test)]
mod tests {
    use std::iter::repeat_n;

    use super::*;

    fn after(connections: impl IntoIterator<Item = u32>) -> Lengths {
        let lengths = Lengths::default();
        connections.into_iter().for_each(|packets| lengths.note(80, packets));
        lengths
    }

    #[test]
    fn a_hundred_say_little() {
        assert!(!after(None).are_short(80));
        assert!(!after(repeat_n(10, 100)).are_short(80));
    }

    #[test]
    fn thousands_of_pages_are_short_and_those_to_another_port_are_not() {
        let lengths = after(repeat_n(10, 20_000));
        assert!(lengths.are_short(80) && !lengths.are_short(5201));
        assert!(!after(repeat_n(SHORT, 100_000)).are_short(80));
    }

    #[test]
    fn one_long_transfer_among_thousands_of_pages_counts() {
        let lengths = after(repeat_n(10, 20_000).chain([1_000_000]));
        assert!(!lengths.are_short(80));
        repeat_n(10, 2000).for_each(|packets| lengths.note(80, packets));
        assert!(!lengths.are_short(80), "for a while");
        repeat_n(10, 20_000).for_each(|packets| lengths.note(80, packets));
        assert!(lengths.are_short(80));
    }

    #[test]
    fn no_number_is_too_large() {
        assert!(!after(repeat_n(u32::MAX, 100_000)).are_short(80));
    }
}
