//! What comes to a thread, many at a time.

use std::{
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::Duration,
    vec::Drain,
};

/// How long it lets them come together, unless there are many. Who sends meanwhile finds
/// nobody waiting, and need not wake anybody: that costs more than what is sent.
const GATHER: Duration = Duration::from_millis(5);

/// Takes what comes in batches.
#[derive(Debug)]
pub struct Gathering<T> {
    batch: Vec<T>,
    most: usize,
    is_behind: bool,
}

impl<T> Gathering<T> {
    /// Batches of so many at most.
    #[must_use]
    pub fn of(most: usize) -> Self {
        Self { batch: Vec::with_capacity(most), most, is_behind: false }
    }

    /// The next batch, whose first comes within `wait`.
    ///
    /// # Errors
    /// Nothing came, or nobody is left who could send.
    pub fn take(&mut self, inbox: &Receiver<T>, wait: Duration) -> Result<Drain<'_, T>, RecvTimeoutError> {
        self.batch.clear();
        self.batch.push(inbox.recv_timeout(wait)?);
        if !self.is_behind {
            std::thread::sleep(GATHER);
        }
        self.batch.extend(inbox.try_iter().take(self.most.saturating_sub(1)));
        self.is_behind = self.batch.len() == self.most;
        Ok(self.batch.drain(..))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn all_come_in_their_order_and_no_more_than_asked_for_at_once() {
        let (sender, inbox) = mpsc::sync_channel(8);
        (0..5).for_each(|number| sender.send(number).unwrap());
        let mut gathering = Gathering::of(3);
        let mut take = || gathering.take(&inbox, Duration::ZERO).map(Iterator::collect::<Vec<_>>);
        assert_eq!(take(), Ok(vec![0, 1, 2]));
        assert_eq!(take(), Ok(vec![3, 4]));
        assert_eq!(take(), Err(RecvTimeoutError::Timeout));
        drop(sender);
        assert_eq!(take(), Err(RecvTimeoutError::Disconnected));
    }
}
