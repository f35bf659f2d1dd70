//! Connections whose timer has fired: they end, or their ends are asked first.

use super::{
    CloseReason, Peer, Transmit,
    context::{Context, Held},
    shard::Family,
    stats::add,
};
use crate::{
    conntrack::{Deadline, Direction, Flow, Slot, Whole, keepalive::Keepalive, window::Seen},
    policy::RuleId,
};

impl Context<'_> {
    /// Deals with a connection whose deadline has come. `popped`: it was taken off the
    /// wheel before. `true`: it lives on, because its ends are asked whether they do.
    /// `false`: it is gone, and an unanswered SYN may have its place.
    pub(super) fn overdue<A: Family>(
        &mut self,
        held: &mut Held<'_>,
        slot: Slot,
        popped: bool,
        deadline: Deadline,
    ) -> bool {
        let table = A::table(held.shard);
        let (Some(entry), Some(last)) = (table.get(slot), table.whole(slot)) else { return false };
        let (key, flow) = (entry.key, entry.key.flow(last.opener()));
        if self.ruling.asks_first(&last, deadline.timer).is_none() {
            let reason = self.silenced(&last, deadline);
            self.end::<A>(held, slot, popped, reason, false);
            self.take_up_syn::<A>(held, &key, &last);
            return false;
        }
        // The answers must come by.
        self.stop_ride::<A>(held, slot);
        let behind = held.shard.behind::<A>(slot).copied();
        let Some(connection) = A::table(held.shard).whole(slot) else { return false };
        let count = connection.to_ask().fold(0_u32, |count, _| count.saturating_add(1));
        // Both ends or none.
        let per_second = self.ruling.policy.settings.rst_per_second.max(2);
        let can_send = self.engine.asking.take_all(count, per_second, self.now);
        if can_send {
            for direction in connection.to_ask() {
                let keepalive = Keepalive::toward(direction, &connection);
                let keepalive = match behind {
                    Some(behind) if direction == Direction::Original => behind.as_the_client_would(keepalive),
                    Some(_) | None => keepalive,
                };
                self.send_keepalive(&flow, direction, keepalive);
            }
        }
        if let Some(mut connection) = A::table(held.shard).live(slot) {
            connection.ask(can_send, self.now);
        }
        true
    }

    /// Sends a keepalive in this direction of a connection.
    pub(super) fn send_keepalive(&mut self, flow: &Flow, direction: Direction, keepalive: Keepalive) {
        let there = if direction == Direction::Original { *flow } else { flow.reversed() };
        self.out.transmits.push_back(Transmit::Keepalive { flow: *flow, tuple: there.tuple(), keepalive });
        add(&self.stats.keepalives, 1);
    }

    /// Why a connection ends whose timer fired: because of that alone, or because an
    /// end did not answer either.
    fn silenced(&self, connection: &Whole, deadline: Deadline) -> CloseReason {
        let timer = deadline.timer;
        let asked = connection.rare.asks > 0 && timer != crate::conntrack::Timer::HalfClosedMax;
        if !asked || self.ruling.probe(connection).is_none() {
            return self.expired(connection, timer);
        }
        let (value, origin) = self.ruling.value(RuleId(connection.rule), timer, connection.epoch);
        let silent = |half: &crate::conntrack::window::Half| half.seen.has(Seen::ASKED);
        let by = match (silent(&connection.original), silent(&connection.reply)) {
            (true, false) => Some(Peer::Client),
            (false, true) => Some(Peer::Server),
            (true, true) | (false, false) => None,
        };
        CloseReason::Unanswered { timer, after: value.unwrap_or_default(), origin, by }
    }
}
