//! Counters: each worker counts for itself, whoever asks adds them up.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, MutexGuard};

use super::{DropReason, Verdict};
use crate::conntrack::Phase;

/// One worker's counters. Written by that worker only, so nothing is contended.
#[derive(Debug)]
pub(super) struct Stats {
    pub(super) packets: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) accepted: AtomicU64,
    pub(super) reset: AtomicU64,
    pub(super) stripped: AtomicU64,
    pub(super) rst_suppressed: AtomicU64,
    pub(super) evictions_held: AtomicU64,
    pub(super) keepalives: AtomicU64,
    pub(super) challenged: AtomicU64,
    pub(super) proofs: AtomicU64,
    pub(super) opened: AtomicU64,
    pub(super) closed: AtomicU64,
    pub(super) forgotten: AtomicU64,
    /// Handshakes that began.
    pub(super) begun: AtomicU64,
    /// Handshakes that were completed.
    pub(super) completed: AtomicU64,
    pub(super) events_lost: AtomicU64,
    pub(super) forgets_lost: AtomicU64,
    pub(super) lock_waits: AtomicU64,
    dropped: [AtomicU64; DropReason::COUNT],
    evicted: [AtomicU64; Phase::ALL.len()],
}

impl Default for Stats {
    fn default() -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            packets: zero(),
            bytes: zero(),
            accepted: zero(),
            reset: zero(),
            stripped: zero(),
            rst_suppressed: zero(),
            evictions_held: zero(),
            keepalives: zero(),
            challenged: zero(),
            proofs: zero(),
            opened: zero(),
            closed: zero(),
            forgotten: zero(),
            begun: zero(),
            completed: zero(),
            events_lost: zero(),
            forgets_lost: zero(),
            lock_waits: zero(),
            dropped: std::array::from_fn(|_| zero()),
            evicted: std::array::from_fn(|_| zero()),
        }
    }
}

/// Adds to a counter that only this thread writes.
pub(super) fn add(counter: &AtomicU64, count: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
}

impl Stats {
    pub(super) fn count(&self, verdict: Verdict, bytes: u32) {
        add(&self.packets, 1);
        add(&self.bytes, u64::from(bytes));
        match verdict {
            Verdict::Accept => add(&self.accepted, 1),
            Verdict::Drop(reason) => self.count_drop(reason),
            // The kernel's RST never leaves as one.
            Verdict::Reset(reason @ DropReason::Challenged) => self.count_drop(reason),
            Verdict::Reset(reason) => {
                self.count_drop(reason);
                add(&self.reset, 1);
            }
        }
    }

    /// Locks what others lock as well, and counts if one of them has it.
    #[inline(always)]
    pub(super) fn locked<'m, T>(&self, mutex: &'m Mutex<T>) -> MutexGuard<'m, T> {
        self.locked_at_once(mutex).unwrap_or_else(|| mutex.lock())
    }

    #[inline(always)]
    fn locked_at_once<'m, T>(&self, mutex: &'m Mutex<T>) -> Option<MutexGuard<'m, T>> {
        let guard = mutex.try_lock();
        if guard.is_none() {
            add(&self.lock_waits, 1);
        }
        guard
    }

    fn count_drop(&self, reason: DropReason) {
        if let Some(counter) = self.dropped.get(reason.index()) {
            add(counter, 1);
        }
    }

    /// A connection made room in a full table.
    pub(super) fn count_evicted(&self, phase: Phase) {
        if let Some(counter) = self.evicted.get(phase as usize) {
            add(counter, 1);
        }
    }

    pub(super) fn evicted(&self, phase: Phase) -> u64 {
        self.evicted.get(phase as usize).map_or(0, |counter| counter.load(Ordering::Relaxed))
    }

    pub(super) fn dropped(&self, reason: DropReason) -> u64 {
        self.dropped.get(reason.index()).map_or(0, |counter| counter.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_for_a_lock_is_counted() {
        let (stats, mutex) = (Stats::default(), Mutex::new(7));
        let waits = || stats.lock_waits.load(Ordering::Relaxed);
        assert_eq!((*stats.locked(&mutex), waits()), (7, 0));
        let held = mutex.lock();
        assert!(stats.locked_at_once(&mutex).is_none());
        assert_eq!(waits(), 1);
        drop(held);
        assert_eq!((*stats.locked(&mutex), waits()), (7, 1));
    }
}
