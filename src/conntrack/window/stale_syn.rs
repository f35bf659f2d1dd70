//! A SYN that passed although a connection was there, and may begin the next one.

use super::{Half, REACH, SHIFT, Seen};
use crate::{
    conntrack::Direction,
    wire::{Segment, SeqNum},
};

/// A SYN that met a connection which it can't replace by itself: if the other end
/// answers it, both ends have forgotten that connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StaleSyn {
    /// Who sent it.
    pub from: Direction,
    pub(super) iss: SeqNum,
    len: u16,
    pub(super) window: u16,
    pub(super) scale: Option<u8>,
    /// Another SYN came before it, from the other end: both may open at the same time.
    crossed: bool,
    other: SeqNum,
}

impl StaleSyn {
    /// What of a SYN is needed later; `last` was remembered before it.
    #[must_use]
    pub fn of(segment: &Segment, from: Direction, last: Option<Self>) -> Self {
        let (crossed, other) = match last {
            Some(last) if last.from != from => (true, last.iss),
            Some(last) => (last.crossed, last.other),
            None => (false, SeqNum(0)),
        };
        Self {
            from,
            iss: segment.seq,
            len: u16::try_from(segment.payload_len).unwrap_or(u16::MAX),
            window: segment.window,
            scale: segment.options.window_scale,
            crossed,
            other,
        }
    }

    /// The same, as a connection knows it that the sender in this direction opens.
    #[must_use]
    pub fn toward(self, opener: Direction) -> Self {
        let from = if opener == Direction::Original { self.from } else { self.from.opposite() };
        Self { from, ..self }
    }

    /// The number after it.
    pub(super) fn end(&self) -> SeqNum {
        self.iss.plus(u32::from(self.len)).plus(1)
    }

    /// The SYN of an opener that has sent nothing else.
    #[must_use]
    pub fn of_half(half: &Half) -> Self {
        let scale = half.seen.has(Seen::SCALE).then_some(half.scale & SHIFT);
        let window = u16::try_from(half.max_win).unwrap_or(u16::MAX);
        let len = u16::try_from(half.end.since(half.iss.plus(1))).unwrap_or(u16::MAX);
        let (crossed, other) = (false, SeqNum(0));
        Self { from: Direction::Original, iss: half.iss, len, window, scale, crossed, other }
    }

    /// Whether `other` is this one again, with no more data.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        (self.from, self.iss) == (other.from, other.iss) && self.len >= other.len
    }

    /// Whether this segment acknowledges it.
    #[must_use]
    pub fn is_acked_by(&self, ack: SeqNum) -> bool {
        ack.after(self.iss) && ack.before_or_at(self.end())
    }

    /// Whether this number may follow it; a keepalive lies one below the first.
    #[must_use]
    pub fn is_continued_by(&self, seq: SeqNum) -> bool {
        seq.after_or_at(self.iss) && seq.before_or_at(self.end().plus(REACH))
    }

    /// Whether this SYN-ACK is the same end's answer to the SYN that came before
    /// (RFC 9293 §3.5, figure 7).
    #[must_use]
    pub fn answers_other(&self, segment: &Segment, from: Direction) -> bool {
        self.crossed && (self.from, self.iss) == (from, segment.seq) && segment.ack == self.other.plus(1)
    }
}
