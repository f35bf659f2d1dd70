//! How the queues of SYNs are, all together.

use crate::{daemon::start::SYN_WAITING_LONG, sys::queue::QueueLoss};

/// How the queues of SYNs are.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Load {
    /// SYNs that they have lost since they were opened.
    pub(super) lost: u64,
    /// Whether one is long.
    pub(super) is_long: bool,
    /// SYNs that wait in all of them.
    pub(super) waiting: u32,
}

impl Load {
    /// With one more of them.
    pub(super) fn with(self, queue: &QueueLoss) -> Self {
        let lost = queue.dropped_by_queue.saturating_add(queue.dropped_by_socket);
        Self {
            lost: self.lost.saturating_add(lost),
            is_long: self.is_long || queue.waiting as usize > SYN_WAITING_LONG,
            waiting: self.waiting.saturating_add(queue.waiting),
        }
    }
}
