//! What nearly every packet is, judged by a shorter way to the same end: an acknowledgement,
//! with data or without, of an open TCP connection that needs nothing else.
//!
//! Whatever it takes, [`Context::judge`] would take in the same way; whatever it leaves it
//! leaves as it was.

use super::{
    Meta, Verdict, Worker,
    context::{Context, Held},
    cookies::BEHIND,
    prepare::{Located, Place},
    ruling::Shrink,
    shard::Family,
};
use crate::{
    conntrack::{
        Instant,
        fast::Fast,
        tcp::{self, Progress},
    },
    wire::{Packet, Plain, Transport},
};

impl Worker {
    /// Accepts and counts a packet that is as nearly all are. `false`: it is for
    /// [`Self::handle_any`].
    ///
    /// Its addresses need no look: where both ends were heard from, both are ones that packets
    /// may bear.
    #[inline(always)]
    pub(super) fn takes_plain<A: Family>(
        &mut self,
        meta: &Meta,
        plain: &Plain<'_, A>,
        located: &Located<A>,
        now: Instant,
    ) -> bool {
        plain.is_acknowledgement() && self.takes(meta, (plain.len, plain.payload_len), plain, located, now)
    }

    /// As [`Self::takes_plain`], where all of the packet was read.
    pub(super) fn takes_parsed(
        &mut self,
        meta: &Meta,
        packet: &Packet<'_>,
        place: &Place,
        now: Instant,
    ) -> bool {
        let Transport::Tcp(segment) = &packet.transport else { return false };
        let lens = (packet.len, segment.payload_len);
        segment.flags.is_acknowledgement()
            && match place {
                Place::Ipv4(located) => self.takes(meta, lens, segment, located, now),
                Place::Ipv6(located) => self.takes(meta, lens, segment, located, now),
                Place::Nowhere => false,
            }
    }

    #[inline(always)]
    fn takes<A: Family, S>(
        &mut self,
        meta: &Meta,
        (len, payload_len): (u32, u32),
        segment: S,
        located: &Located<A>,
        now: Instant,
    ) -> bool
    where
        Progress: From<S>,
    {
        if meta.renumbered.is_some() || meta.parent.is_some() || self.out.opening {
            return false;
        }
        self.forget_last();
        self.refresh_ruling();
        // While timers are what they were, none fires before the wheel looks.
        if !self.ruling.lets_timers_be(self.engine.connections_now()) {
            return false;
        }
        let (number, mutex) = self.engine.shard_of(located.hash);
        let mut shard = self.stats.locked(mutex);
        if shard.walk.is_some() {
            return false;
        }
        let Some((slot, entry)) = A::table(&mut shard).find_mut(&located.key, located.hash) else {
            return false;
        };
        if !entry.is_early(now) {
            return false;
        }
        let connection = &mut entry.connection;
        if connection.fast != Fast::default() || connection.tag() & BEHIND != 0 {
            return false;
        }
        let direction = located.sender.direction(connection.opener());
        if !connection.can_count(direction, len) || !tcp::take_usual(connection, direction, segment, now) {
            return false;
        }
        connection.count(direction, len, now);
        if meta.kernel_knows {
            let mut context = Context {
                engine: &self.engine,
                ruling: &self.ruling,
                stats: &self.stats,
                out: &mut self.out,
                shrink: Shrink::NONE,
                now,
            };
            let load = Some(payload_len);
            context.board::<A>(&mut Held { shard: &mut shard, number }, slot, meta, load);
        }
        self.stats.count(Verdict::Accept, meta.wire_len);
        true
    }
}
