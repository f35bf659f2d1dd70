//! Both ends' numbers after a time unseen: noted, and taken up anew when they agree.

use super::{Half, MAX_REACH, REACH, Seen, offered_window};
use crate::wire::{Flags, Segment, SeqNum};

/// Whether two numbers are no further apart than these two ends may be.
fn are_near(one: SeqNum, other: SeqNum, sender: &Half, receiver: &Half) -> bool {
    let reach = REACH.max(sender.max_win).max(receiver.max_win).min(MAX_REACH);
    one.since(other) <= reach || other.since(one) <= reach
}

/// Whether a segment after a time unseen fits what was noted of its receiver since: each
/// of them has sent about what the other acknowledges.
#[must_use]
pub fn agree(sender: &Half, receiver: &Half, segment: &Segment) -> bool {
    are_near(segment.seq, receiver.ack, sender, receiver)
        && are_near(segment.ack, receiver.end, sender, receiver)
}

/// Notes what one end shows of both after a time unseen, without believing it.
/// `is_known`: something of it was noted before.
pub fn note_unconfirmed(sender: &mut Half, receiver: &mut Half, segment: &Segment, is_known: bool) {
    let window = offered_window(sender, segment);
    let goes_on = is_known && are_near(segment.end(), sender.end, sender, receiver);
    sender.ack = if goes_on { sender.ack.latest(segment.ack) } else { segment.ack };
    let known = if sender.is_guessed() { window.min(REACH) } else { window };
    sender.max_win = sender.max_win.max(known);
    receiver.max_end = segment.ack.plus(window.max(1));
    if let Some((value, _)) = segment.options.timestamps {
        sender.ts_recent = value;
    }
    // It speaks on, so it has not reset.
    sender.seen.clear(Seen::RST);
    if !goes_on || segment.end().after(sender.end) {
        sender.end = segment.end();
        sender.seen.clear(Seen::UNTAKEN);
        sender.seen.clear(Seen::UNTAKEN_FIN);
    }
    if segment.flags.contains(Flags::FIN) && segment.end() == sender.end && !sender.seen.has(Seen::FIN) {
        sender.seen.add(Seen::UNTAKEN);
        sender.seen.add(Seen::UNTAKEN_FIN);
    }
}

/// Takes up both ends' numbers anew, where a segment agrees with what was noted of its
/// receiver: they are known as those of ends that were met mid-stream are, but for their
/// scales. `is_known`: something of its sender was noted, too.
pub fn meet_again(sender: &mut Half, receiver: &mut Half, segment: &Segment, is_known: bool) {
    if !(is_known && are_near(segment.end(), sender.end, sender, receiver)) {
        sender.end = segment.seq;
        sender.ack = segment.ack;
        sender.seen.clear(Seen::UNTAKEN);
        sender.seen.clear(Seen::UNTAKEN_FIN);
    }
    if let Some((value, _)) = segment.options.timestamps {
        sender.ts_recent = value;
    }
    receiver.end = receiver.end.latest(segment.ack);
    receiver.max_end = segment.ack.plus(offered_window(sender, segment).max(1));
    for half in [sender, receiver] {
        half.seen.clear(Seen::RST);
        half.seen.add(Seen::MET);
        half.iss = half.end.plus(REACH);
        half.max_end = half.max_end.latest(half.end);
    }
}
