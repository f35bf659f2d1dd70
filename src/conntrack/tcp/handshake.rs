//! How a connection begins: handshakes of every kind, and which of two counts.

use super::{Invalid, Kind, Outcome};
use crate::{
    conntrack::{
        Connection, Direction, Instant, Phase, Stamp,
        fast::Fast,
        key::Sender,
        rare::{Live, Whole},
        window::{self, Half, Seen, StaleSyn},
    },
    wire::{Flags, Segment},
};

/// A connection at the SYN that opens it.
#[must_use]
pub fn open(segment: &Segment, opener: Sender, now: Instant) -> Connection {
    let mut connection = Connection::new(Phase::SynSent, opener, now);
    connection.original = Half::at_syn(segment);
    connection
}

/// A connection at a SYN that passed at `since` and was stale to the one before it.
#[must_use]
pub fn open_late(syn: &StaleSyn, opener: Sender, since: Stamp, now: Instant) -> Connection {
    let mut connection = Connection::new(Phase::SynSent, opener, now);
    connection.original = Half::at_stale(syn);
    connection.refreshed = since;
    connection
}

/// A connection met mid-stream. `direction` is the segment's, `opener` the end
/// that is taken to have opened it.
#[must_use]
pub fn pick_up(segment: &Segment, direction: Direction, opener: Sender, now: Instant) -> Whole {
    let mut whole = Whole::from(Connection::new(Phase::Established, opener, now));
    let (sender, receiver) = whole.halves(direction);
    *sender = Half::at_pickup(segment);
    *receiver = Half::behind_pickup(segment);
    if segment.flags.contains(Flags::FIN) {
        sender.seen.add(Seen::FIN);
        whole.rare.first_fin = Some(Stamp::of(now));
        whole.phase = Phase::FinWait;
    }
    whole
}

/// The connection that takes the place of one that both ends have forgotten: this
/// SYN-ACK answers the other end's SYN, which was stale there. `None`: it does not.
#[must_use]
pub fn successor(whole: &Whole, segment: &Segment, opener: Sender, now: Instant) -> Option<Whole> {
    let syn = whole.rare.stale_syn.filter(|syn| syn.is_acked_by(segment.ack))?;
    let mut next = Whole::from(open_late(&syn, opener, Stamp::of(now), now));
    let last = whole.sender(syn.from);
    next.original = last.begun_anew(next.original);
    next.rare.note_challenge(Direction::Original, last.ack);
    answer(&mut next.live(), segment, now);
    Some(next)
}

/// The other end's own SYN meets the opener's: simultaneous open.
pub(super) fn cross(connection: &mut Live<'_>, other: Half, now: Instant) {
    connection.reply = connection.reply.begun_after(other);
    let window = connection.original.max_win;
    connection.reply.offered(window);
    connection.enter(Phase::SynReceived, now);
    settle(connection);
}

/// The opener's answer to a SYN of the other end's which was stale to the connection
/// that this one has taken the place of.
pub(super) fn crossed(connection: &mut Live<'_>, segment: &Segment, now: Instant) -> Outcome {
    let answers =
        segment.seq == connection.original.iss && answers_stale_syn(connection, Direction::Original, segment);
    let Some(syn) = connection.rare().stale_syn.filter(|_| answers) else {
        return Outcome::Invalid(Invalid::Unexpected(Kind::SynAck, connection.phase));
    };
    connection.rare_mut().stale_syn = None;
    // What of its data it does not acknowledge counts as never sent.
    let mut other = Half::at_stale(&syn);
    other.end = segment.ack;
    cross(connection, other, now);
    repeat(connection, Direction::Original, Kind::SynAck, segment, now)
}

pub(super) fn settle(connection: &mut Live<'_>) {
    let common = &mut *connection.common;
    window::settle_scaling(&mut common.original, &mut common.reply);
}

/// What passes as stale and acknowledges something may be answered with an RST of that
/// number: of an opener in `syn_sent`, to an end that still has an old connection; of
/// an end that has none, to one that an old SYN has woken.
pub(super) fn note_challenge(connection: &mut Live<'_>, direction: Direction, kind: Kind, segment: &Segment) {
    if matches!(kind, Kind::SynAck | Kind::Ack | Kind::Fin) {
        connection.rare_mut().note_challenge(direction, segment.ack);
        connection.halves(direction).0.seen.add(Seen::CHALLENGED);
    }
}

/// Remembers a SYN that changes nothing by itself, but not a late duplicate of this
/// connection's own, or with a late SYN-ACK it would begin again.
pub(super) fn note_stale_syn(connection: &mut Live<'_>, direction: Direction, kind: Kind, segment: &Segment) {
    let another = segment.seq != connection.sender(direction).iss;
    // Where the SYNs are never seen, the SYN-ACKs tell.
    let alone = connection.sender(direction.opposite()).is_elsewhere();
    if (kind == Kind::Syn || (kind == Kind::SynAck && alone)) && another {
        let syn = StaleSyn::of(segment, direction, connection.rare().stale_syn);
        // Sent again without its Fast Open data it may still be answered with them.
        let again = connection.rare().stale_syn.is_some_and(|known| known.covers(&syn));
        if !again {
            connection.rare_mut().stale_syn = Some(syn);
        }
        if matches!(
            connection.phase,
            Phase::Established | Phase::FinWait | Phase::HalfClosed | Phase::Closing
        ) {
            connection.halves(direction).0.seen.add(Seen::FORGOT);
        }
    }
}

pub(super) fn answers_stale_syn(connection: &Live<'_>, direction: Direction, segment: &Segment) -> bool {
    let receiver = connection.sender(direction.opposite());
    // Its own SYN, by which it has begun anew meanwhile, is none.
    let other = connection.rare().stale_syn.filter(|syn| !receiver.began_with(syn));
    other.is_some_and(|syn| syn.from != direction && syn.is_acked_by(segment.ack))
}

/// Both ends are in a new handshake (RFC 9293 §3.10.7.4 would have had the server
/// challenge the SYN if it still knew the old connection).
pub(super) fn be_reborn(
    connection: &mut Live<'_>,
    direction: Direction,
    segment: &Segment,
    now: Instant,
) -> Outcome {
    if direction == Direction::Original {
        return Outcome::Over;
    }
    let Some(syn) = connection.rare_mut().stale_syn.take() else { return Outcome::Stale };
    let last = connection.original;
    connection.original = last.begun_anew(Half::at_stale(&syn));
    connection.rare_mut().note_challenge(Direction::Original, last.ack);
    connection.rare_mut().unverified_rst = None;
    connection.fast = Fast::default();
    // Also where it was in `syn_received`: it is another handshake.
    connection.refresh(now);
    answer(connection, segment, now);
    Outcome::Reborn
}

pub(super) fn answers_crosswise(connection: &Live<'_>, direction: Direction, segment: &Segment) -> bool {
    connection.rare().stale_syn.is_some_and(|syn| syn.answers_other(segment, direction))
}

/// Both ends have forgotten the connection and their SYNs have crossed: simultaneous
/// open. Of the receiver's only the number is known.
pub(super) fn be_crossed(
    connection: &mut Live<'_>,
    direction: Direction,
    segment: &Segment,
    now: Instant,
) -> Outcome {
    connection.rare_mut().stale_syn = None;
    connection.rare_mut().unverified_rst = None;
    connection.fast = Fast::default();
    let last = connection.sender(direction.opposite()).ack;
    connection.rare_mut().note_challenge(direction.opposite(), last);
    let (sender, receiver) = connection.halves(direction);
    *sender = Half::at_syn(segment);
    *receiver = receiver.begun_anew(Half::behind_syn_ack(segment));
    sender.offered(u32::from(u16::MAX));
    settle(connection);
    connection.enter(Phase::SynReceived, now);
    connection.refresh(now);
    Outcome::Reborn
}

pub(super) fn answer(connection: &mut Live<'_>, segment: &Segment, now: Instant) -> Outcome {
    if !connection.original.is_acked_by(segment.ack) {
        // Of two SYNs that went by, in whatever order, the one that is answered counts
        // (RFC 9293 §3.5, figure 8).
        let answered = answers_stale_syn(connection, Direction::Reply, segment);
        let Some(syn) = connection.rare().stale_syn.filter(|_| answered) else {
            // An old SYN-ACK: the opener answers it with an RST (RFC 9293 §3.10.7.3).
            note_challenge(connection, Direction::Reply, Kind::SynAck, segment);
            return Outcome::Stale;
        };
        connection.rare_mut().stale_syn = Some(StaleSyn::of_half(&connection.original));
        connection.original = Half::at_stale(&syn);
    }
    // It answers, so its own SYN, if it came by before, has done its part.
    connection.rare_mut().stale_syn =
        connection.rare().stale_syn.filter(|syn| syn.from == Direction::Original);
    // Data of the SYN that the server did not take count as never sent: they come
    // again (RFC 7413 §4.2.2), and no RST at their end is an exact one.
    connection.original.seen.clear(Seen::SYN_DATA);
    connection.original.end = segment.ack;
    connection.reply = connection.reply.begun_after(Half::at_syn(segment));
    let room = connection.original.max_win;
    connection.reply.offered(room);
    settle(connection);
    let window = u32::from(segment.window).max(1);
    connection.original.max_end = segment.ack.plus(window);
    connection.enter(Phase::SynReceived, now);
    Outcome::Pass
}

/// Whether both ends have acknowledged the other's SYN.
pub(super) fn is_complete(connection: &Connection) -> bool {
    let acked =
        |by: &Half, whom: &Half| by.seen.has(Seen::ACK) && whom.seen.has(Seen::SYN) && by.ack.after(whom.iss);
    acked(&connection.original, &connection.reply) && acked(&connection.reply, &connection.original)
}

pub(super) fn repeat(
    connection: &mut Live<'_>,
    direction: Direction,
    kind: Kind,
    segment: &Segment,
    now: Instant,
) -> Outcome {
    let phase = connection.phase;
    let receiver = connection.sender(direction.opposite());
    if kind == Kind::SynAck && !receiver.is_acked_by(segment.ack) {
        let (beyond, receiver_is_unseen) = (segment.ack.after(receiver.end), receiver.is_elsewhere());
        if answers_stale_syn(connection, direction, segment) {
            return be_reborn(connection, direction, segment, now);
        }
        if answers_crosswise(connection, direction, segment) {
            return be_crossed(connection, direction, segment, now);
        }
        if beyond && !receiver_is_unseen {
            return Outcome::Invalid(Invalid::BadAck);
        }
        // A SYN that was never seen may have come later than the one that is known.
        note_stale_syn(connection, direction, kind, segment);
        note_challenge(connection, direction, kind, segment);
        return Outcome::Stale;
    }
    let (sender, receiver) = connection.halves(direction);
    if !sender.seen.has(Seen::SYN) || sender.iss != segment.seq {
        // Another sequence number: before anything was answered the opener began
        // anew, and a server may answer from another instance; later it is stale. So may
        // an opener whose SYN, which nobody has acknowledged yet, was an old one.
        let restart = match kind {
            Kind::Syn => phase == Phase::SynSent,
            Kind::SynAck => direction == Direction::Reply || !receiver.seen.has(Seen::ACK),
            Kind::Ack | Kind::Fin | Kind::Rst => false,
        };
        if !restart {
            note_stale_syn(connection, direction, kind, segment);
            return Outcome::Stale;
        }
        let other = std::mem::replace(sender, Half::at_syn(segment));
        sender.offered(receiver.max_win);
        if kind == Kind::SynAck {
            receiver.settle_syn_data(segment.ack);
            settle(connection);
        } else {
            // Either may be the one that is answered.
            connection.rare_mut().stale_syn = Some(StaleSyn::of_half(&other));
        }
        return Outcome::Pass;
    }
    sender.settle_guess(segment);
    // Data in a SYN that was answered before without them don't count.
    if phase == Phase::SynSent {
        sender.end = sender.end.latest(segment.end());
        sender.max_end = sender.max_end.latest(segment.end());
    }
    if kind == Kind::SynAck {
        window::learn(sender, receiver, segment);
        if is_complete(connection) {
            connection.enter(Phase::Established, now);
        }
    }
    Outcome::Pass
}
