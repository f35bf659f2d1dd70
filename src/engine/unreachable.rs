//! A SYN that could not be delivered: nobody holds anything for it, so that it no
//! longer counts as half-open.
//!
//! RFC 5382 §7.3, REQ-10 has no ICMP message end a connection: where both ends open at
//! once, one end's NAT may send an error and the other's SYN still come. So the
//! connection stays as it is, and counts again as soon as anything shows that it goes on.
//! Read also: RFC 1122 §4.2.3.9, RFC 5461 §4, RFC 5927 §4.1.

use super::{
    CloseReason, DropReason, Meta, Verdict,
    context::{Context, Held, path_of},
    judge::{Content, Met, Replaced, is_on_path},
    shard::Family,
};
use crate::{
    conntrack::{Direction, Phase, Rare, Slot, tcp::Kind},
    policy::Hook,
    wire::Protocol,
};

/// Destination unreachable (RFC 792, RFC 4443 §3.1).
const UNREACHABLE: (u8, u8) = (3, 1);

/// Its code for a packet that is only too large (RFC 1191 §4); IPv6 has a type for that.
const TOO_LARGE: u8 = 4;

/// Whether an ICMP error says that a packet did not arrive. Its sender's stack may give
/// up the connection or not (RFC 5461 §4): neither is known here.
pub(super) const fn says_unreachable(protocol: Protocol, kind: u8, code: u8) -> bool {
    if protocol.0 == Protocol::ICMPV6.0 {
        kind == UNREACHABLE.1
    } else {
        kind == UNREACHABLE.0 && code != TOO_LARGE
    }
}

/// Whether a connection is half-open and does not count.
pub(super) const fn is_uncounted(phase: Phase, rare: &Rare) -> bool {
    phase.is_embryonic() && rare.embryo.is_none()
}

impl Context<'_> {
    /// An error about a packet of this connection, sent in this direction, says that it
    /// did not arrive. An answered SYN has: who answered it holds it.
    pub(super) fn unreachable<A: Family>(
        &mut self,
        held: &mut Held<'_>,
        slot: Slot,
        direction: Direction,
        meta: &Meta,
    ) {
        let Some(connection) = A::table(held.shard).whole(slot) else { return };
        // Who is on no way to the server must not lower the counts that protect it.
        let is_believed =
            meta.hook == Hook::Output || is_on_path(path_of(&connection), direction.opposite(), meta);
        let is_lone = connection.phase == Phase::SynSent && connection.rare.embryo.is_some();
        if direction == Direction::Original && is_lone && is_believed {
            self.release_embryo::<A>(held, slot);
            held.shard.uncounted = held.shard.uncounted.saturating_add(1);
        }
    }

    /// A SYN or SYN-ACK of a connection that does not count.
    ///
    /// # Errors
    /// It opens a new one in its place.
    pub(super) fn judge_uncounted<A: Family>(
        &mut self,
        held: &mut Held<'_>,
        met: &Met<'_, A>,
    ) -> Result<Verdict, Replaced> {
        let Met { slot, key, sender, arrival } = *met;
        let Some(entry) = A::table(held.shard).get(slot) else { return Err(Replaced(None)) };
        if sender == entry.connection.opener() && matches!(arrival.content, Content::Tcp(Kind::Syn, _)) {
            self.end::<A>(held, slot, false, CloseReason::Replaced, true);
            return Err(Replaced(None));
        }
        if !self.count_half_open::<A>(held, slot, key) {
            return Ok(Verdict::Drop(DropReason::Limit));
        }
        held.shard.uncounted = held.shard.uncounted.saturating_sub(1);
        let verdict = self.judge_known(held, met);
        let entry = A::table(held.shard).get(slot).filter(|entry| entry.key == *key);
        if entry.is_some_and(|entry| entry.connection.phase == Phase::SynSent) {
            self.release_embryo::<A>(held, slot);
            held.shard.uncounted = held.shard.uncounted.saturating_add(1);
        }
        verdict
    }
}

/// What a connection that does not count must be judged by [`Context::judge_uncounted`] for.
pub(super) const fn may_go_on(content: &Content) -> bool {
    matches!(content, Content::Tcp(Kind::Syn | Kind::SynAck, _))
}
