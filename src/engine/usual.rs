//! What nearly every packet is, judged by a shorter way to the same end: an acknowledgement,
//! with data or without, of an open TCP connection that needs nothing else.
//!
//! Whatever it takes, [`Context::judge`] would take in the same way; whatever it leaves it
//! leaves as it was.

use std::net::Ipv4Addr;

use super::{
    Meta, Verdict, Worker,
    context::{Context, Held},
    cookies::BEHIND,
    fast::give_candidate_up,
    prepare::{Located, Place},
    shard::Family,
};
use crate::{
    conntrack::{
        Instant,
        tcp::{self, Progress},
    },
    wire::{Flags, Packet, Plain, Transport},
};

impl Worker {
    /// Accepts and counts a packet that is as nearly all are. `false`: it is for [`Self::handle_any`].
    #[inline(always)]
    pub(super) fn takes_plain(
        &mut self,
        meta: &Meta,
        plain: &Plain<'_>,
        located: &Located<Ipv4Addr>,
        now: Instant,
    ) -> bool {
        let progress = Progress {
            seq: plain.seq(),
            ack: plain.ack(),
            window: plain.window(),
            payload_len: plain.payload_len,
            timestamp: plain.timestamps().map(|(value, _)| value),
        };
        is_acknowledgement(plain.flags()) && self.takes(meta, (plain.len, progress), located, now)
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
        let progress = (packet.len, Progress::of(segment));
        is_acknowledgement(segment.flags)
            && match place {
                Place::Ipv4(located) => self.takes(meta, progress, located, now),
                Place::Ipv6(located) => self.takes(meta, progress, located, now),
                Place::Nowhere => false,
            }
    }

    #[inline(always)]
    fn takes<A: Family>(
        &mut self,
        meta: &Meta,
        (len, progress): (u32, Progress),
        located: &Located<A>,
        now: Instant,
    ) -> bool {
        if meta.renumbered.is_some() || meta.parent.is_some() || self.out.opening {
            return false;
        }
        self.forget_last();
        self.refresh_ruling();
        let shrink = self.ruling.shrink(self.engine.connections_now());
        let (number, mutex) = self.engine.shard_of(located.hash);
        let mut shard = self.stats.locked(mutex);
        // While timers are what they were, none fires before the wheel looks.
        let is_in_time = shrink.is_none() && shard.walk.is_none();
        let Some((slot, entry)) = A::table(&mut shard).find_mut(&located.key, located.hash) else {
            return false;
        };
        let is_early = is_in_time && entry.is_early(now);
        let connection = &mut entry.connection;
        let is_plain = connection.fast.is_none() && connection.tag() & BEHIND == 0;
        let direction = located.sender.direction(connection.opener());
        let is_plain = is_plain && connection.can_count(direction, len);
        if !is_early || !is_plain || !tcp::take_usual(connection, direction, &progress, now) {
            return false;
        }
        give_candidate_up(connection, now);
        connection.count(direction, len, now);
        if meta.kernel_knows {
            let mut context = Context {
                engine: &self.engine,
                ruling: &self.ruling,
                stats: &self.stats,
                out: &mut self.out,
                shrink,
                now,
            };
            let load = Some(progress.payload_len);
            context.board::<A>(&mut Held { shard: &mut shard, number }, slot, meta, load);
        }
        self.stats.count(Verdict::Accept, meta.wire_len);
        true
    }
}

/// Whether it is an acknowledgement and nothing else.
const fn is_acknowledgement(flags: Flags) -> bool {
    let all = Flags::SYN.with(Flags::FIN).with(Flags::RST).with(Flags::ACK);
    flags.0 & all.0 == Flags::ACK.0
}
