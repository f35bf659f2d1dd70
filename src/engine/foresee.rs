//! Reading ahead: who knows the next packets can have what they need fetched into
//! the cache while others are judged. Changes nothing, and waits for no lock.

use super::{Prepared, Worker, prepare::Place};
use crate::conntrack::{Fetch, Flow};

/// So many connections and their index don't stay in a processor's second cache beside
/// everything else.
const WORTH_FETCHING: u32 = 4096;

/// Where the connection of a flow lies, if there is one.
#[derive(Clone, Copy, Debug)]
pub struct Foreseen {
    pub(super) is_ipv6: bool,
    pub(super) hash: u64,
}

impl Worker {
    /// Works out where a flow's connection is looked for. `None`: nowhere. The same in all
    /// engines that have the same seed.
    #[must_use]
    pub fn foresee(&self, flow: &Flow) -> Option<Foreseen> {
        Place::of(flow, &self.engine.secret).foreseen()
    }

    /// Fetches what judging these packets will read. A table that is so small that it stays in
    /// the cache by itself is not worth the time.
    pub fn look_ahead<'s, 'p: 's>(
        &self,
        packets: impl Iterator<Item = &'s Prepared<'p>> + Clone,
        with: &impl Fetch,
    ) {
        if self.engine.connections_now() < WORTH_FETCHING {
            return;
        }
        let foreseen = packets.filter_map(Prepared::foreseen);
        for place in foreseen.clone() {
            self.fetch_place(&place, with);
        }
        for place in foreseen.clone() {
            self.fetch(&place, with);
        }
        for place in foreseen {
            self.fetch_second(&place, with);
        }
    }

    /// Fetches what finding the connection begins with.
    pub fn fetch_place(&self, foreseen: &Foreseen, with: &impl Fetch) {
        let Some(ahead) = self.engine.ahead_of(foreseen.hash) else { return };
        match foreseen.is_ipv6 {
            false => ahead.ipv4.fetch_bucket(foreseen.hash, with),
            true => ahead.ipv6.fetch_bucket(foreseen.hash, with),
        }
    }

    /// Fetches the connection, some time after [`Self::fetch_place`]: what most likely is it.
    pub fn fetch(&self, foreseen: &Foreseen, with: &impl Fetch) {
        let Some(ahead) = self.engine.ahead_of(foreseen.hash) else { return };
        match foreseen.is_ipv6 {
            false => ahead.ipv4.fetch_first(foreseen.hash, with),
            true => ahead.ipv6.fetch_first(foreseen.hash, with),
        }
    }

    /// Fetches what comes behind in the same bucket, some time after [`Self::fetch`], where that
    /// was another connection.
    pub fn fetch_second(&self, foreseen: &Foreseen, with: &impl Fetch) {
        let Foreseen { is_ipv6, hash } = *foreseen;
        let is_another = self.engine.ahead_of(hash).is_some_and(|ahead| match is_ipv6 {
            false => ahead.ipv4.is_first_another(hash),
            true => ahead.ipv6.is_first_another(hash),
        });
        if !is_another {
            return;
        }
        // Who has it now may change the chain.
        let Some(shard) = self.engine.shard_of(hash).1.try_lock() else { return };
        match is_ipv6 {
            false => shard.ipv4.fetch_second(hash, with),
            true => shard.ipv6.fetch_second(hash, with),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::{
        conntrack::{Connection, Instant},
        engine::{Engine, IfIndex, Meta, Verdict},
        policy::{Action, Hook, Policy, Settings},
        wire::{Checksums, Flags, FourTuple, SegmentBuilder},
    };

    /// Counts the octets that are asked for.
    #[derive(Default)]
    struct Counting(Cell<usize>);

    impl Fetch for Counting {
        fn fetch_at(&self, _: *const u8, octets: usize) {
            self.0.set(self.0.get() + octets);
        }
    }

    fn look(worker: &Worker, flow: &Flow) -> usize {
        let counting = Counting::default();
        let foreseen = worker.foresee(flow).unwrap();
        worker.fetch_place(&foreseen, &counting);
        worker.fetch(&foreseen, &counting);
        counting.0.get()
    }

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
        let protocol = crate::wire::Protocol::TCP;
        let flows = tuples.iter().map(|&FourTuple { src, src_port, dst, dst_port }| Flow {
            protocol,
            src,
            src_port,
            dst,
            dst_port,
        });
        let mut meta = Meta {
            hook: Hook::Forward,
            in_if: IfIndex(0),
            out_if: IfIndex(0),
            wire_len: 0,
            checksums: Checksums::Verify,
            kernel_knows: false,
            renumbered: None,
            is_invalid: false,
            candidacy: None,
            parent: None,
        };
        for tuple in tuples.iter().step_by(3) {
            for flow in flows.clone() {
                look(&worker, &flow);
            }
            let syn = SegmentBuilder::new(*tuple).flags(Flags::SYN).build();
            meta.wire_len = syn.wire_len();
            assert_eq!(worker.handle_packet(&meta, &syn.bytes, Instant(1_000_000)), Verdict::Accept);
        }
        let before = engine.counters();
        let is_found = |flow: &Flow| look(&worker, flow) > size_of::<Connection>();
        for flow in flows.step_by(3) {
            assert!(is_found(&flow) && is_found(&flow.reversed()), "{flow:?}");
        }
        assert_eq!(engine.counters(), before);
        assert_eq!(before.connections, 14);
    }
}
