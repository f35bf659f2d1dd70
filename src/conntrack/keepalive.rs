//! Dead connection detection: whether both ends of a silent connection still live.
//!
//! A keepalive goes to each end in the name of its peer, with the numbers that the
//! peer itself would use (RFC 9293 §3.8.4); whoever has the connection must answer it
//! with an ACK (§3.10.7.4), whoever has not answers with an RST (§3.10.7.1). When to
//! ask, and how often, is the owner's to know.

use super::{
    Connection, Direction, Instant, Stamp,
    rare::{Live, Whole},
    tcp::Kind,
    window,
    window::Seen,
};
use crate::wire::{Flags, Segment, SeqNum};

/// The numbers of a keepalive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Keepalive {
    /// One below what its receiver has acknowledged: old to it, so that it answers,
    /// whatever of its peer's may be lost.
    pub seq: SeqNum,
    /// What the peer in whose name it goes has acknowledged.
    pub ack: SeqNum,
    /// TSval and TSecr, if both ends send timestamps. The peer's latest TSval: an
    /// older one would fail the receiver's PAWS test (RFC 7323 §5.3).
    pub timestamps: Option<(u32, u32)>,
    /// Whether it carries an octet, as keepalives may (RFC 9293 §3.8.4). Where segments
    /// passed unseen the timestamp may be an old one, and Linux throws an acknowledgement
    /// away that is old in both, but answers data. Without timestamps it answers either,
    /// and a number that is so old that it seems new would make the octet data.
    pub has_octet: bool,
}

impl Keepalive {
    /// The one in this direction: to the end that receives in it.
    #[must_use]
    pub fn toward(direction: Direction, connection: &Connection) -> Self {
        let (peer, receiver) = (connection.sender(direction), connection.sender(direction.opposite()));
        let both_stamp = peer.seen.has(Seen::TIMESTAMPS) && receiver.seen.has(Seen::TIMESTAMPS);
        Self {
            seq: receiver.ack.minus(1),
            ack: if peer.seen.has(Seen::ACK) { peer.ack } else { receiver.end },
            timestamps: both_stamp.then_some((peer.ts_recent, receiver.ts_recent)),
            has_octet: both_stamp && !connection.fast.is_none(),
        }
    }
}

impl Whole {
    /// The directions in which a keepalive is due: toward each end that is to be asked
    /// (in the first round) or has not answered yet.
    pub fn to_ask(&self) -> impl Iterator<Item = Direction> + use<> {
        let wanted = if self.rare.asks == 0 { Seen::ACK } else { Seen::ASKED };
        let (original, reply) = (self.original.seen.has(wanted), self.reply.seen.has(wanted));
        let toward_client = original.then_some(Direction::Reply);
        let toward_server = reply.then_some(Direction::Original);
        toward_client.into_iter().chain(toward_server)
    }
}

impl Live<'_> {
    /// Begins a round of asking, or puts it off where nothing can be sent now.
    pub fn ask(&mut self, can_send: bool, now: Instant) {
        if can_send {
            if self.rare().asks == 0 {
                // An end that was never heard speaks by another way, and so would its answer.
                for half in [&mut self.common.original, &mut self.common.reply] {
                    if half.seen.has(Seen::ACK) {
                        half.seen.add(Seen::ASKED);
                    }
                }
            }
            self.rare_mut().asks = self.rare().asks.saturating_add(1);
        }
        self.rare_mut().asked = Some(Stamp::of(now));
    }

    /// The end that sends in this direction has shown that it lives. Once all that
    /// were asked have, the connection does, and its timer starts anew.
    pub fn is_alive(&mut self, direction: Direction, now: Instant) {
        let (sender, receiver) = self.halves(direction);
        if !sender.seen.has(Seen::ASKED) {
            return;
        }
        sender.seen.clear(Seen::ASKED);
        if receiver.seen.has(Seen::ASKED) {
            return;
        }
        sender.seen.clear(Seen::DOUBTED);
        receiver.seen.clear(Seen::DOUBTED);
        self.rare_mut().unverified_rst = None;
        self.refresh(now);
    }

    /// Takes a segment that answers a keepalive and says nothing else. `false`: it is
    /// none, or says more, and is for the other end too.
    pub fn take_answer(&mut self, direction: Direction, kind: Kind, segment: &Segment, now: Instant) -> bool {
        let (sender, receiver) = self.halves(direction);
        if !sender.seen.has(Seen::ASKED) {
            return false;
        }
        let is_bare = kind == Kind::Ack
            // Its peer has asked too, and waits for this.
            && !receiver.seen.has(Seen::PROBE)
            && segment.payload_len == 0
            && !segment.flags.contains(Flags::URG)
            && segment.options.sack_high.is_none();
        let has_news = segment.seq != sender.end
            || segment.ack != sender.ack
            || segment.ack.plus(window::offered_window(sender, segment)).after(receiver.max_end);
        if !is_bare || has_news {
            return false;
        }
        sender.note_timestamp(segment);
        sender.seen.clear(Seen::FORGOT);
        self.is_alive(direction, now);
        true
    }
}
