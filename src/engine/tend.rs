//! What happens without a packet: timers, kills, evictions, rules that changed.
//!
//! Every piece of work under a shard's lock is bounded.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::atomic::Ordering,
};

use parking_lot::MutexGuard;

use super::{
    CloseReason, Engine, Worker,
    context::{ANNOUNCED, Context, Eviction, Held, hook_of, path_of},
    shard::{Bookmark, Family, Walk},
};
use crate::{
    conntrack::{Flow, Instant, Key, Slot, wheel::Popped},
    policy::{Action, RuleId},
};

/// Connections looked at under one lock: to end one takes some microseconds where memory must
/// be waited for, and packets wait meanwhile.
const PIECE: u32 = 32;

/// Pieces after each of which there was more to do, in one call of `handle_timeout`.
const PIECES: u32 = 2;

/// A change of the adaptive timers, in thousandths, that is worth a walk.
const WORTH_A_WALK: u32 = 50;

impl Engine {
    /// Makes every wheel agree with shorter timers, piece by piece, in the coming
    /// calls of `handle_timeout`.
    pub(super) fn start_walk(&self) {
        for shard in self.shards.iter() {
            shard.lock().walk = Some(Walk::default());
        }
    }
}

impl Worker {
    /// Ends what is over; a bounded amount of work a call. `true`: there is more
    /// to do right now.
    pub fn handle_timeout(&mut self, now: Instant) -> bool {
        let (engine, turn) = (std::sync::Arc::clone(&self.engine), self.turn);
        let more = self.with(now, |context| {
            let tended = engine.tended_shrink.load(Ordering::Relaxed);
            if context.shrink.0.saturating_add(WORTH_A_WALK) <= tended
                || (context.shrink.0 == 1000 && tended != 1000)
            {
                engine.tended_shrink.store(context.shrink.0, Ordering::Relaxed);
                engine.start_walk();
            } else if context.shrink.0 > tended {
                // What comes now is looked at by longer timers: the next fall counts from here.
                engine.tended_shrink.store(context.shrink.0, Ordering::Relaxed);
            }
            let mut left = PIECES;
            let shards = (0_u16..).zip(engine.shards.iter());
            let from = usize::from(turn);
            for (number, mutex) in shards.clone().skip(from).chain(shards.take(from)) {
                for work in [Context::walk, Context::fire::<Ipv4Addr>, Context::fire::<Ipv6Addr>] {
                    let mut shard = mutex.lock();
                    let more = work(context, &mut Held { shard: &mut shard, number });
                    MutexGuard::unlock_fair(shard);
                    left = left.saturating_sub(more.into());
                    if left == 0 {
                        return Some(number);
                    }
                }
            }
            (left < PIECES).then_some(turn)
        });
        self.turn = more.unwrap_or_default();
        more.is_some()
    }

    /// When `handle_timeout` should be called next; `None` while there is nothing
    /// to wait for.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.engine.shards.iter().filter_map(|shard| shard.lock().next_due()).min()
    }

    /// Judges a bounded piece of all connections again, by the rules in force, and ends those
    /// that none accepts any more. Where to go on; `None`: all were judged.
    pub fn rejudge(&mut self, from: Bookmark, now: Instant) -> Option<Bookmark> {
        let engine = std::sync::Arc::clone(&self.engine);
        let mut shard = engine.shards.get(usize::from(from.shard))?.lock();
        let mut held = Held { shard: &mut shard, number: from.shard };
        let next = self.with(now, |context| {
            context.piece(&mut held, from.walk, |context, held, walk| {
                if walk.ipv6 {
                    context.rejudge::<Ipv6Addr>(held, walk.slot);
                } else {
                    context.rejudge::<Ipv4Addr>(held, walk.slot);
                }
            })
        });
        // A packet that waits comes before the next piece.
        MutexGuard::unlock_fair(shard);
        from.turn(next, engine.shards.len())
    }
}

impl Context<'_> {
    /// Looks at what the wheel says is due. `true`: more is.
    fn fire<A: Family>(&mut self, held: &mut Held<'_>) -> bool {
        for _ in 0..PIECE {
            let slot = match A::table(held.shard).pop_due(self.now) {
                Some(Popped::Due(slot)) => slot,
                Some(Popped::Nearer) => continue,
                None => return false,
            };
            if self.look_unseen::<A>(held, slot) {
                continue;
            }
            let Some(connection) = A::table(held.shard).whole(slot) else { continue };
            let deadline = self.deadline(&connection);
            if deadline.at > self.now {
                let at = self.ruling.look_at(&connection, deadline, self.shrink, self.now);
                A::table(held.shard).put_back(slot, at);
            } else if self.overdue::<A>(held, slot, true, deadline)
                && let Some(connection) = A::table(held.shard).whole(slot)
            {
                let at = self.look_at(&connection);
                A::table(held.shard).put_back(slot, at);
            }
        }
        true
    }

    /// One piece of the walk that follows a change of timers. `true`: more to walk.
    fn walk(&mut self, held: &mut Held<'_>) -> bool {
        let Some(walk) = held.shard.walk else { return false };
        held.shard.walk = self.piece(held, walk, |context, held, walk| {
            if walk.ipv6 {
                context.hasten::<Ipv6Addr>(held, walk.slot);
            } else {
                context.hasten::<Ipv4Addr>(held, walk.slot);
            }
        });
        held.shard.walk.is_some()
    }

    /// Visits up to [`PIECE`] slots from `from` on; where to go on.
    fn piece(
        &mut self,
        held: &mut Held<'_>,
        from: Walk,
        mut visit: impl FnMut(&mut Self, &mut Held<'_>, Walk),
    ) -> Option<Walk> {
        let (slots, next) = held.shard.piece(from, PIECE);
        for slot in slots {
            visit(self, held, Walk { slot, ..from });
        }
        next
    }

    fn hasten<A: Family>(&mut self, held: &mut Held<'_>, slot: Slot) {
        let Some(connection) = A::table(held.shard).whole(slot) else { return };
        let at = self.look_at(&connection);
        A::table(held.shard).hasten(slot, at);
        self.check_ride::<A>(held, slot);
        self.stand_again::<A>(held, slot);
    }

    pub(super) fn kill(&mut self, flow: &Flow, silent: bool) -> bool {
        match flow.src {
            IpAddr::V4(_) => self.kill_in::<Ipv4Addr>(flow, silent),
            IpAddr::V6(_) => self.kill_in::<Ipv6Addr>(flow, silent),
        }
    }

    fn kill_in<A: Family>(&mut self, flow: &Flow, silent: bool) -> bool {
        let Some((key, _)) = Key::<A>::of(flow) else { return false };
        let hash = key.hash(&self.engine.secret);
        let (number, mutex) = self.engine.shard_of(hash);
        let mut shard = mutex.lock();
        let mut held = Held { shard: &mut shard, number };
        let Some(slot) = A::table(held.shard).find(&key, hash) else { return false };
        if A::table(held.shard).get(slot).is_none_or(|entry| entry.connection.fast.is_ended()) {
            return false;
        }
        self.end::<A>(&mut held, slot, false, CloseReason::Killed, silent);
        true
    }

    /// Ends the half-open connections that had to make room. No shard may be held,
    /// because they may lie in any.
    pub(super) fn carry_out_evictions(&mut self) {
        while let Some(eviction) = self.out.evictions.pop() {
            if eviction.at.ipv6 {
                self.finish_eviction::<Ipv6Addr>(eviction);
            } else {
                self.finish_eviction::<Ipv4Addr>(eviction);
            }
        }
    }

    fn finish_eviction<A: Family>(&mut self, eviction: Eviction) {
        let Eviction { at, id, reason } = eviction;
        let Some(mutex) = self.engine.shards.get(usize::from(at.shard)) else { return };
        let mut shard = mutex.lock();
        let mut held = Held { shard: &mut shard, number: at.shard };
        // It may have finished its handshake, or ended, in the meantime.
        let still =
            A::table(held.shard).whole(at.slot).is_some_and(|connection| connection.rare.embryo == Some(id));
        if still {
            self.end::<A>(&mut held, at.slot, false, reason, false);
        }
    }

    fn rejudge<A: Family>(&mut self, held: &mut Held<'_>, slot: Slot) {
        let ruling = self.ruling;
        let table = A::table(held.shard);
        let (Some(entry), Some(connection)) = (table.get(slot), table.whole(slot)) else { return };
        if connection.fast.is_ended() {
            return;
        }
        let flow = entry.key.flow(connection.opener());
        if connection.tag() & ANNOUNCED != 0 {
            // No rule need match it: it stays as long as its parent's rule lets others in.
            let rule = ruling.policy.rule(RuleId(connection.rule)).map(|rule| rule.action);
            if rule != Some(Action::Accept) {
                self.end::<A>(held, slot, false, CloseReason::Rejudged, false);
            }
            return;
        }
        let icmp = (connection.phase == crate::conntrack::Phase::Icmp).then(|| {
            let v6 = flow.protocol == crate::wire::Protocol::ICMPV6;
            (if v6 { 128 } else { 8 }, 0)
        });
        let new = ruling.new_flow(hook_of(connection.tag()), path_of(&connection), &flow, icmp);
        let (action, RuleId(id), _) = ruling.decide(&new);
        if action == Action::Accept {
            if connection.rule != id {
                self.move_open::<A>(held, slot, id);
                self.count_again::<A>(held, slot);
                self.stand_again::<A>(held, slot);
            }
        } else {
            self.end::<A>(held, slot, false, CloseReason::Rejudged, false);
        }
    }
}
