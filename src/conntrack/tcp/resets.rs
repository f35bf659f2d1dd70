//! How a connection ends at once, or makes room for the next: RSTs and new SYNs.

use super::{Invalid, Outcome, handshake::answers_stale_syn};
use crate::{
    conntrack::{Connection, Direction, Instant, Phase, Stamp, rare::Live, window::Seen},
    wire::{Flags, Segment, SeqNum},
};

pub(super) fn abort(connection: &mut Live<'_>, segment: &Segment, now: Instant) -> Outcome {
    if is_challenged_by(connection, Direction::Reply, segment) {
        // It ends the other end's old connection, not this one.
        return Outcome::Stale;
    }
    let own =
        segment.seq.after_or_at(connection.original.iss) && segment.seq.before_or_at(connection.original.end);
    if !own {
        return Outcome::Invalid(Invalid::BadRst);
    }
    connection.original.seen.add(Seen::RST);
    connection.enter(Phase::Reset, now);
    Outcome::Pass
}

/// Whether this number is that of an RST which answers a challenge of the end that sends in
/// this direction.
fn is_challenged_by(connection: &Live<'_>, direction: Direction, segment: &Segment) -> bool {
    let is_challenged = connection.sender(direction).seen.has(Seen::CHALLENGED);
    is_challenged && segment.seq == connection.rare().challenge(direction)
}

/// TIME-WAIT may be left only by a SYN that is newer (RFC 9293 §3.6.1): in time, where
/// both connections tell it, else in sequence (RFC 6191 §2, its cases in order). What
/// was reset may be opened by any. Whoever has acknowledged the answer does not send the
/// SYN again by which it has begun: that one is a late duplicate.
pub(super) fn reopen(connection: &Connection, direction: Direction, segment: &Segment) -> Outcome {
    let sender = connection.sender(direction);
    if sender.seen.has(Seen::SYN) && sender.seen.has(Seen::ACK) && segment.seq == sender.iss {
        return Outcome::Stale;
    }
    if connection.phase == Phase::Reset {
        return Outcome::Reopen;
    }
    // The last number that was used is the FIN's.
    let newer_number = segment.seq.after_or_at(sender.end);
    let recent = SeqNum(sender.ts_recent);
    let newer = match segment.options.timestamps.map(|(value, _)| SeqNum(value)) {
        Some(_) if !sender.seen.has(Seen::TIMESTAMPS) => true,
        Some(time) if time != recent => time.after(recent),
        Some(_) | None => newer_number,
    };
    if newer { Outcome::Reopen } else { Outcome::Stale }
}

/// Whether an RST says that its sender knows no such connection (RFC 9293 §3.10.7.1:
/// without ACK, and of the number that the other end's segment acknowledged), and not
/// that it gives it up: it sent a SYN of its own before, or a question of ours or
/// something of the other end's waits for its answer. An end that has closed may do without a connection.
pub(super) fn denies(connection: &Connection, direction: Direction, segment: &Segment) -> bool {
    let (sender, receiver) = (connection.sender(direction), connection.sender(direction.opposite()));
    let is_answer = !segment.flags.contains(Flags::ACK) && segment.seq == receiver.ack;
    let was_asked = sender.seen.has(Seen::FORGOT)
        || sender.seen.has(Seen::ASKED)
        || receiver.seen.has(Seen::PROBE)
        || receiver.awaits_ack(sender);
    is_answer && was_asked && receiver.seen.has(Seen::ACK) && !sender.seen.has(Seen::FIN)
}

/// The three-way test of RFC 5961 §3, as far as the middle can make it. Exact is
/// what the receiver has last acknowledged (it has not got more, or its ACK is
/// still under way), or the highest number that its peer has sent (it has all of
/// it). Between them only the receiver knows, and answers.
pub(super) fn reset(
    connection: &mut Live<'_>,
    direction: Direction,
    segment: &Segment,
    now: Instant,
) -> Outcome {
    let phase = connection.phase;
    let denies = denies(connection, direction, segment);
    let refuses_stale_syn =
        segment.flags.contains(Flags::ACK) && answers_stale_syn(connection, direction, segment);
    let is_challenged = is_challenged_by(connection, direction.opposite(), segment);
    let (sender, receiver) = connection.halves(direction);
    // The sender's SYN that was crossed may be an old one, and its end refuse the other's.
    let refuses_crossing = phase == Phase::SynReceived
        && !sender.seen.has(Seen::ACK)
        && segment.flags.contains(Flags::ACK)
        && receiver.is_acked_by(segment.ack);
    let heard = receiver.seen.has(Seen::ACK);
    let expected = if heard && receiver.ack.before(sender.end) { receiver.ack } else { sender.end };
    // What an end has acknowledged that was never heard is not known.
    let unknown = !heard && (receiver.seen.has(Seen::MET) || receiver.is_elsewhere());
    let expected_from = if unknown { sender.end.minus(receiver.max_win) } else { expected };
    // To a woken end, or to one that opens anew toward an end that has forgotten this
    // connection, it is the right answer, and here it changes nothing.
    let is_answer = is_challenged || refuses_stale_syn || refuses_crossing;
    let outside = if is_answer { Outcome::Stale } else { Outcome::Invalid(Invalid::BadRst) };
    if matches!(phase, Phase::TimeWait | Phase::Reset) {
        // It changes nothing. An end that is gone answers everything that was still
        // under way to it, with numbers that may be a window old.
        let oldest = expected.minus(receiver.max_win).minus(1);
        let known = segment.seq.after_or_at(oldest) && segment.seq.before_or_at(sender.max_end);
        return if known { Outcome::Pass } else { outside };
    }
    let all_sent = segment.seq == sender.end && !sender.seen.has(Seen::UNTAKEN);
    let exact = segment.seq == expected || all_sent;
    let highest = sender.last_start(receiver).latest(sender.end);
    let inside = segment.seq.after_or_at(expected_from) && segment.seq.before_or_at(highest);
    if !inside && !exact {
        return outside;
    }
    if !exact && receiver.is_elsewhere() {
        // Only the receiver knows, and nobody would see its answer.
        return Outcome::Stale;
    }
    if exact {
        sender.seen.add(Seen::RST);
        sender.seen.clear(Seen::FORGOT);
        receiver.seen.clear(Seen::FORGOT);
        if denies {
            sender.seen.add(Seen::FORGOT);
        }
        connection.rare_mut().unverified_rst = None;
        connection.enter(Phase::Reset, now);
    } else {
        sender.seen.add(Seen::DOUBTED);
        connection.rare_mut().unverified_rst.get_or_insert(Stamp::of(now));
    }
    Outcome::Pass
}
