//! Which octets of a stream were seen, so that a gap can be told from what was
//! only reordered. Numbers are relative to the SYN, whose own is 0.

/// Pieces beyond a hole that are remembered; of more, holes between them are lost.
const MAX_PIECES: usize = 64;

/// Octets beyond a hole while nothing at all is acknowledged: the acknowledgements
/// are not in the capture, and holes say nothing any more
/// (`tcp_max_above_hole_without_any_acks`).
const MAX_UNANSWERED: i64 = 16_384;

/// The octets of one end.
#[derive(Clone, Debug)]
pub(super) struct Stream {
    /// Everything below was seen, or given up.
    complete: i64,
    /// Everything below was acknowledged.
    acknowledged: i64,
    /// Behind the last octet that was seen.
    top: i64,
    has_given_up: bool,
    /// Pieces beyond, in order, not touching; `None`: there is none.
    #[expect(clippy::box_collection, reason = "every packet brings all of this into the cache")]
    pieces: Option<Box<Vec<(i64, i64)>>>,
}

impl Stream {
    pub(super) const NEW: Self =
        Self { complete: 1, acknowledged: 1, top: 1, has_given_up: false, pieces: None };

    pub(super) const fn has_given_up(&self) -> bool {
        self.has_given_up
    }

    /// Whether octets before `last`, which may be a FIN, were not seen.
    pub(super) const fn is_behind(&self, last: i64) -> bool {
        !self.has_given_up && self.complete < last - 1
    }

    /// Whether octets were seen that were not acknowledged.
    pub(super) const fn is_unacknowledged(&self) -> bool {
        self.top > self.acknowledged
    }

    /// Octets that were seen; what lies below `acked` does not matter any more.
    pub(super) fn sent(&mut self, at: i64, len: i64, acked: i64) {
        let (from, to) = (at.max(acked), at + len);
        if to <= from || self.has_given_up {
            return;
        }
        self.top = self.top.max(to);
        if from <= self.complete {
            self.complete = self.complete.max(to);
            self.close_up();
            return;
        }
        self.insert(from, to);
        if acked <= 1 && self.top - self.complete > MAX_UNANSWERED {
            self.pieces = None;
            self.top = self.acknowledged;
            self.has_given_up = true;
        }
    }

    fn insert(&mut self, from: i64, to: i64) {
        let pieces = self.pieces.get_or_insert_default();
        let place = pieces.partition_point(|(_, end)| *end < from);
        let (mut from, mut to) = (from, to);
        while let Some(&(start, end)) = pieces.get(place).filter(|(start, _)| *start <= to) {
            (from, to) = (from.min(start), to.max(end));
            pieces.remove(place);
        }
        pieces.insert(place, (from, to));
        if pieces.len() > MAX_PIECES {
            let (_, end) = pieces.remove(1);
            pieces[0].1 = end;
        }
    }

    /// Everything below `up_to` was acknowledged: how many holes were in it.
    pub(super) fn acknowledged(&mut self, up_to: i64) -> usize {
        self.acknowledged = self.acknowledged.max(up_to);
        let mut holes = 0;
        while self.complete < up_to {
            holes += 1;
            self.complete = match self.pieces.as_ref().and_then(|pieces| pieces.first()) {
                Some(&(start, _)) if start < up_to => start,
                _ => up_to,
            };
            self.close_up();
        }
        if self.has_given_up { 0 } else { holes }
    }

    fn close_up(&mut self) {
        let Some(pieces) = &mut self.pieces else { return };
        let met = pieces.iter().take_while(|(start, _)| *start <= self.complete).count();
        for (_, end) in pieces.drain(..met) {
            self.complete = self.complete.max(end);
        }
        if pieces.is_empty() {
            self.pieces = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hole_is_told_from_reordering() {
        let mut stream = Stream::NEW;
        stream.sent(101, 100, 1);
        stream.sent(1, 100, 1);
        assert_eq!(stream.acknowledged(201), 0, "reordered");
        stream.sent(301, 100, 201);
        stream.sent(501, 100, 201);
        assert_eq!(stream.acknowledged(601), 2, "two holes");
        assert_eq!(stream.acknowledged(601), 0, "once");
        assert_eq!(stream.acknowledged(700), 1, "nothing was seen of it");
    }

    #[test]
    fn what_is_missing_before_the_end_is_known() {
        let mut stream = Stream::NEW;
        assert!(!stream.is_behind(1) && !stream.is_behind(2) && stream.is_behind(3));
        stream.sent(11, 10, 1);
        assert!(stream.is_behind(21) && stream.is_unacknowledged());
        stream.sent(1, 10, 1);
        assert!(!stream.is_behind(22), "all but the FIN");
        stream.acknowledged(21);
        assert!(!stream.is_unacknowledged());
    }

    #[test]
    fn without_any_acknowledgement_holes_say_nothing() {
        let mut stream = Stream::NEW;
        stream.sent(1001, 16_384, 1);
        assert!(stream.has_given_up() && !stream.is_behind(30_000));
        assert_eq!(stream.acknowledged(20_000), 0);
        let mut answered = Stream::NEW;
        answered.sent(1001, 16_384, 500);
        assert_eq!(answered.acknowledged(17_385), 1);
    }

    #[test]
    fn pieces_are_bounded() {
        let mut stream = Stream::NEW;
        for n in 0..10_000 {
            stream.sent(10 + 20 * n, 10, 2);
        }
        assert!(stream.pieces.as_ref().is_some_and(|pieces| pieces.len() <= MAX_PIECES));
        assert!(stream.acknowledged(300_000) > 1);
    }
}
