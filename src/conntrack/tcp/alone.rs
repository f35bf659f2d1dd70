//! Connections of which one end is never seen: its segments take another path
//! (`pickup: loose`, docs/CONNTRACK.md, one direction).

use super::{Invalid, Kind, Outcome, data, reopen};
use crate::{
    conntrack::{
        Connection, Direction, Instant, Phase,
        key::Sender,
        rare::Live,
        window::{self, Half, Seen},
    },
    wire::Segment,
};

/// A connection met at its SYN-ACK, whose SYN took another path.
#[must_use]
pub fn pick_up_answer(segment: &Segment, opener: Sender, now: Instant) -> Connection {
    let mut connection = Connection::new(Phase::SynReceived, opener, now);
    connection.original = Half::behind_syn_ack(segment);
    connection.reply = Half::at_syn(segment);
    let (original, reply) = (&mut connection.original, &mut connection.reply);
    window::settle_scaling(original, reply);
    expect_one_way(&mut connection, Direction::Reply);
    connection
}

/// The segments of this direction's receiver may take another path: none may ever be
/// seen.
pub fn expect_one_way(connection: &mut Connection, direction: Direction) {
    connection.halves(direction).1.be_elsewhere();
}

/// The opener's own next segment shows that it was answered where nobody saw it.
pub(super) fn alone(connection: &mut Live<'_>, kind: Kind, segment: &Segment, now: Instant) -> Outcome {
    let unexpected = Outcome::Invalid(Invalid::Unexpected(kind, connection.phase));
    if !connection.reply.is_elsewhere() || !segment.seq.after(connection.original.iss) {
        return unexpected;
    }
    let mut reply = Half::behind_pickup(segment);
    reply.be_elsewhere();
    if !connection.original.seen.has(Seen::SCALE) {
        reply.scale_not();
    }
    reply.max_end = segment.ack.plus(connection.original.max_win);
    if let Err(outside) = window::check(&connection.original, &reply, segment) {
        return Outcome::Invalid(Invalid::Outside(outside));
    }
    connection.reply = reply;
    connection.enter(Phase::Established, now);
    data(connection, Direction::Original, kind, segment, now)
}

/// Whether an end whose peer is never seen begins a new connection: nobody will see
/// the answer to its SYN, or the SYN that its SYN-ACK answers. Its own FIN, or an RST,
/// has ended the last one, and it is newer (as for `reopen`).
pub(super) fn begins_alone(
    connection: &Connection,
    direction: Direction,
    kind: Kind,
    segment: &Segment,
) -> bool {
    let (sender, receiver) = (connection.sender(direction), connection.sender(direction.opposite()));
    matches!(kind, Kind::Syn | Kind::SynAck)
        && receiver.is_elsewhere()
        && (connection.phase == Phase::Reset || sender.seen.has(Seen::FIN))
        && segment.seq != sender.iss
        && reopen(connection, direction, segment) == Outcome::Reopen
}

/// Whether a segment goes on after a SYN of the same end that was stale: its peer, who
/// is never seen, may have answered it. Who else could have sent both, so that it
/// moves nothing: the old connection ends by its timer.
pub(super) fn goes_on_alone(connection: &Live<'_>, direction: Direction, segment: &Segment) -> bool {
    let receiver = connection.sender(direction.opposite());
    receiver.is_elsewhere()
        && connection
            .rare()
            .stale_syn
            .is_some_and(|syn| syn.from == direction && syn.is_continued_by(segment.seq))
}

/// Whether nothing of one end was ever seen.
#[must_use]
pub fn is_one_way(connection: &Connection) -> bool {
    connection.original.is_elsewhere() || connection.reply.is_elsewhere()
}

/// Whether nothing of one end was seen before this segment: in a handshake nobody else is
/// met mid-stream.
pub(super) fn was_one_way(connection: &Connection) -> bool {
    let met = connection.original.seen.has(Seen::MET) || connection.reply.seen.has(Seen::MET);
    is_one_way(connection) || met
}
