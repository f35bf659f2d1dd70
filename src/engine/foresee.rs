//! Reading ahead: who knows the next packets can have what they need fetched into
//! the cache, all at once instead of one after the other. Changes nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use parking_lot::MutexGuard;

use super::{
    SHARDS, Worker,
    shard::{Family, Shard},
};
use crate::conntrack::{Flow, Key};

/// Where a flow's connection would be.
#[derive(Clone, Copy)]
struct Place {
    shard: usize,
    hash: u64,
    flow: Flow,
}

impl Worker {
    /// Fetches what packets of these flows will need. Only useful to a caller that
    /// has many packets at hand; it holds several shards' locks at once, so no other
    /// worker may do the same.
    pub fn foresee<const N: usize>(&self, flows: &[Option<Flow>; N]) {
        let places = flows.map(|flow| self.place(&flow?));
        let mut guards: [Option<MutexGuard<'_, Shard>>; SHARDS] = [const { None }; SHARDS];
        for place in places.iter().flatten() {
            if let (Some(guard), Some(shard)) =
                (guards.get_mut(place.shard), self.engine.shards.get(place.shard))
            {
                guard.get_or_insert_with(|| shard.lock());
            }
        }
        // In turns, so that no wait is for another.
        let mut sum = 0_u64;
        for look in [Look::First, Look::Whole] {
            for place in places.iter().flatten() {
                if let Some(shard) = guards.get_mut(place.shard).and_then(Option::as_mut) {
                    let words = match place.flow.src {
                        IpAddr::V4(_) => touch::<Ipv4Addr>(shard, place, look),
                        IpAddr::V6(_) => touch::<Ipv6Addr>(shard, place, look),
                    };
                    sum = sum.wrapping_add(words.unwrap_or_default());
                }
            }
        }
        std::hint::black_box(sum);
    }

    fn place(&self, flow: &Flow) -> Option<Place> {
        let hash = match flow.src {
            IpAddr::V4(_) => Key::<Ipv4Addr>::of(flow)?.0.hash(self.engine.seed),
            IpAddr::V6(_) => Key::<Ipv6Addr>::of(flow)?.0.hash(self.engine.seed),
        };
        let (shard, _) = self.engine.shard_of(hash);
        Some(Place { shard: usize::from(shard), hash, flow: *flow })
    }
}

/// How much of a connection is looked at.
#[derive(Clone, Copy)]
enum Look {
    /// Where its bucket begins.
    First,
    /// All of it.
    Whole,
}

/// A word from each part of a connection.
fn touch<A: Family>(shard: &mut Shard, place: &Place, look: Look) -> Option<u64> {
    let table = A::table(shard);
    let slot = match look {
        Look::First => table.head(place.hash)?,
        Look::Whole => table.find(&Key::<A>::of(&place.flow)?.0, place.hash)?,
    };
    let entry = table.get(slot)?;
    std::hint::black_box(entry.key);
    if matches!(look, Look::Whole) {
        let connection = &entry.connection;
        std::hint::black_box((connection.original.end, connection.reply.end, connection.reply_tally));
    }
    Some(u64::from(entry.connection.epoch))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        conntrack::Instant,
        engine::{Engine, IfIndex, Meta, Verdict},
        policy::{Action, Hook, Policy, Settings},
        wire::{Checksums, Flags, FourTuple, SegmentBuilder},
    };

    #[test]
    fn a_look_changes_nothing_and_leaves_no_lock() {
        let settings = Settings { default: Action::Accept, max_connections: 100, ..Settings::default() };
        let policy = Policy::new(settings, Vec::new(), Vec::new(), vec!["default".into()]);
        let engine = Engine::new(policy, [1, 2], Instant(1_000_000));
        let mut worker = engine.worker();
        let tuples: Vec<FourTuple> = (0..40_u16)
            .map(|number| {
                let [src, dst] = if number.is_multiple_of(2) {
                    ["192.0.2.1", "192.0.2.2"].map(|text| text.parse().unwrap())
                } else {
                    ["2001:db8::1", "2001:db8::2"].map(|text| text.parse().unwrap())
                };
                FourTuple { src, src_port: 1000 + number, dst, dst_port: 80 }
            })
            .collect();
        let flows: [Option<Flow>; 40] = std::array::from_fn(|at| {
            let FourTuple { src, src_port, dst, dst_port } = *tuples.get(at)?;
            Some(Flow { protocol: crate::wire::Protocol::TCP, src, src_port, dst, dst_port })
        });
        let mut meta = Meta {
            hook: Hook::Forward,
            in_if: IfIndex(0),
            out_if: IfIndex(0),
            wire_len: 0,
            checksums: Checksums::Verify,
            kernel_knows: false,
            renumbered: None,
            parent: None,
        };
        for tuple in tuples.iter().step_by(3) {
            worker.foresee(&flows);
            let syn = SegmentBuilder::new(*tuple).flags(Flags::SYN).build();
            meta.wire_len = syn.wire_len();
            assert_eq!(worker.handle_packet(&meta, &syn.bytes, Instant(1_000_000)), Verdict::Accept);
        }
        let before = engine.counters();
        worker.foresee(&flows);
        worker.foresee(&[None; 16]);
        assert_eq!(engine.counters(), before);
        assert_eq!(before.connections, 14);
    }
}
