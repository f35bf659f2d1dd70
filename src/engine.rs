//! wire + conntrack + policy: packet in, verdict out; events, drop reasons.
//!
//! The engine's grammar: a [`Worker`] takes `handle_packet(meta, bytes, now)`
//! and gives a [`Verdict`]; `handle_timeout(now)` ends what is over,
//! `poll_timeout()` says when to call it; what happened and what is to be sent
//! comes out of `poll_event()` and `poll_transmit()`. It never waits, reads no
//! clock and sends nothing itself.
//!
//! The table is split into shards by the hash of the flow, each behind its lock.
//! Locks are taken in one order: a shard, then the half-open counters, then the proven
//! sources.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

mod admit;
mod ask;
mod budget;
mod challenge;
mod context;
mod cookies;
pub mod event;
pub mod fast;
mod fast_open;
mod foresee;
mod judge;
mod lengths;
mod memory;
pub mod meta;
pub mod observe;
mod open;
pub mod passed;
mod prepare;
mod pressure;
mod ruling;
mod shard;
mod stats;
mod survey;
mod tend;
mod unreachable;
mod usual;
pub mod view;

pub use cookies::{Raise, Shield, Shift};
pub use event::{CloseReason, Closed, Event, Peer};
pub use fast::{MOST_WAITING, Ride, Word};
pub use foresee::Foreseen;
pub use memory::{MemoryBound, Uses};
pub use meta::{Candidacy, DropReason, IfIndex, Meta, Renumbering, Transmit, Verdict};
pub use open::Block;
pub use passed::{Passed, Passes};
pub use prepare::Prepared;
pub use shard::Bookmark;
pub use view::{Change, Counters, Counts, Existing, TimerRow, UnderWay, View};

use std::{
    borrow::Cow,
    collections::HashMap,
    net::{Ipv4Addr, Ipv6Addr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::{Mutex, RwLock};

use self::{
    budget::Budget,
    context::{Context, Outbox},
    cookies::Cookieing,
    lengths::Lengths,
    open::Open,
    passed::PassCounts,
    prepare::{Located, Place, Read},
    pressure::Lines,
    ruling::{Ruling, Shrink},
    shard::{Aheads, Family, Shard},
    stats::{Stats, add},
};
use crate::{
    conntrack::{
        Embryonic, Flow, Instant, Secret, Timer,
        cookie::Cookies,
        proven::{MOST_PROVEN, Proven},
    },
    policy::{Live, Origin, Policy, RuleId},
    wire::{self, Malformed, Packet, Plain},
};

/// Shards of the table: more than any gateway has workers, so that two seldom meet.
const SHARDS: usize = 64;

/// The number of the shard of a hash: its upper bits, because buckets take the lower ones.
const fn shard_number(hash: u64) -> usize {
    (hash >> 48) as usize % SHARDS
}

/// Octets of a rewritten packet, which is headers only: longer ones cost an allocation.
const HEADERS: usize = 256;

/// The whole firewall but the kernel: shared by all workers.
#[derive(Debug)]
pub struct Engine {
    seed: [u64; 2],
    secret: Secret,
    /// So many connections it is made for.
    capacity: usize,
    started: Instant,
    shards: Box<[Mutex<Shard>]>,
    /// Of each shard.
    ahead: Vec<Aheads>,
    embryonic: Mutex<Embryonic>,
    cookies: Cookies,
    cookieing: Cookieing,
    proven: Mutex<Proven>,
    /// When the last challenge was made, in milliseconds and one more; 0: never.
    challenged_at: AtomicU64,
    ruling: RwLock<Arc<Ruling>>,
    /// Moves with every change of `ruling`, so that a worker need not lock to see
    /// that its copy is current.
    generation: AtomicU64,
    connections: AtomicU32,
    lines: Lines,
    open: Open,
    lengths: Lengths,
    /// The shrink that the wheels agree with.
    tended_shrink: AtomicU32,
    budget: Budget,
    /// For keepalives: what attackers have answered with RSTs must not eat it up.
    asking: Budget,
    /// Nobody is evicted for a SYN while the kernel is behind with those who were.
    evictions_held: AtomicBool,
    passed: PassCounts,
    stats: Mutex<Vec<Arc<Stats>>>,
}

/// One thread's way into the engine. Holds no lock between calls.
#[derive(Debug)]
pub struct Worker {
    engine: Arc<Engine>,
    ruling: Arc<Ruling>,
    generation: u64,
    stats: Arc<Stats>,
    loopback: wire::Loopback,
    out: Outbox,
    /// What goes on in place of the packet last accepted; empty if that itself does.
    rewritten: Vec<u8>,
    /// The shard whose timers come first in the next call of `handle_timeout`.
    turn: u16,
}

impl Engine {
    /// An engine with an empty table. `seed` keys the hashes and must be random
    /// on a gateway; `now` starts the pickup grace.
    #[must_use]
    pub fn new(policy: Policy, seed: [u64; 2], now: Instant) -> Arc<Self> {
        let settings = &policy.settings;
        let capacity = usize::try_from(settings.max_connections).unwrap_or(usize::MAX);
        let budget = Budget::new(settings.rst_per_second, now);
        let asking = Budget::new(settings.rst_per_second, now);
        let ruling = Ruling::new(Arc::new(policy), Live::default(), HashMap::new());
        let shard = |_| Shard::new(capacity.div_ceil(SHARDS), seed, now);
        let shards: Vec<_> = (0..SHARDS).map(shard).map(Mutex::new).collect();
        let engine = Self {
            seed,
            secret: Secret::new(seed),
            capacity,
            started: now,
            ahead: shards.iter().map(|shard| shard.lock().ahead()).collect(),
            shards: shards.into(),
            embryonic: Mutex::new(Embryonic::new(seed, capacity)),
            cookies: Cookies::new(seed),
            cookieing: Cookieing::default(),
            proven: Mutex::new(Proven::new(seed, MOST_PROVEN)),
            challenged_at: AtomicU64::new(0),
            ruling: RwLock::new(Arc::new(ruling)),
            generation: AtomicU64::new(0),
            connections: AtomicU32::new(0),
            lines: Lines::default(),
            open: Open::new(seed),
            lengths: Lengths::default(),
            tended_shrink: AtomicU32::new(1000),
            budget,
            asking,
            evictions_held: AtomicBool::new(false),
            passed: PassCounts::default(),
            stats: Mutex::new(Vec::new()),
        };
        engine.count_what_limits_ask(&engine.ruling().limits);
        Arc::new(engine)
    }

    /// A way in for one more thread.
    #[must_use]
    pub fn worker(self: &Arc<Self>) -> Worker {
        let stats = Arc::new(Stats::default());
        self.stats.lock().push(Arc::clone(&stats));
        let generation = self.generation.load(Ordering::Acquire);
        let ruling = self.ruling();
        Worker {
            engine: Arc::clone(self),
            ruling,
            generation,
            stats,
            loopback: wire::Loopback::Refuse,
            out: Outbox::default(),
            rewritten: Vec::with_capacity(HEADERS),
            turn: 0,
        }
    }

    fn ruling(&self) -> Arc<Ruling> {
        Arc::clone(&self.ruling.read())
    }

    fn replace(&self, change: impl FnOnce(&Ruling) -> Ruling) {
        let mut ruling = self.ruling.write();
        *ruling = Arc::new(change(&ruling));
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// The rule set in force.
    #[must_use]
    pub fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.ruling.read().policy)
    }

    /// Swaps the rule set, all at once. `policy` must have been compiled with the
    /// one in force as its predecessor, so that rule ids agree. With
    /// [`Existing::Rejudge`] the connections that no rule accepts any more are ended
    /// by `worker`, which then has their RSTs to send; where there are many, [`Worker::rejudge`]
    /// does so a piece at a time.
    pub fn install(&self, policy: Policy, existing: Existing, worker: &mut Worker, now: Instant) {
        let policy = Arc::new(policy);
        self.replace(|ruling| ruling.with_policy(policy));
        self.count_what_limits_ask(&self.ruling().limits);
        self.start_walk();
        if existing == Existing::Rejudge {
            let mut next = Some(Bookmark::default());
            while let Some(from) = next {
                next = worker.rejudge(from, now);
            }
        }
    }

    /// Tells which interfaces there are now, by kernel index.
    pub fn set_interfaces(&self, interfaces: &[(IfIndex, String)]) {
        self.replace(|ruling| ruling.with_interfaces(interfaces));
    }

    /// Whether a limit that says `evict` drops the SYN instead. The shell holds evictions
    /// while more evicted connections than it allows wait until the kernel's conntrack has
    /// forgotten them: what evicts faster than the kernel forgets would fill its table.
    pub fn hold_evictions(&self, held: bool) {
        // Read by every SYN past a limit, so that it is only written where it changes.
        if self.evictions_held.load(Ordering::Relaxed) != held {
            self.evictions_held.store(held, Ordering::Relaxed);
        }
    }

    /// Whether they are held.
    #[must_use]
    pub fn evictions_are_held(&self) -> bool {
        self.evictions_held.load(Ordering::Relaxed)
    }

    /// The live changes in force.
    #[must_use]
    pub fn live(&self) -> Live {
        self.ruling.read().live.clone()
    }

    /// Replaces the live changes; existing connections feel it at once.
    pub fn set_live(&self, live: Live) {
        self.replace(|ruling| ruling.with_live(live));
        self.count_what_limits_ask(&self.ruling().limits);
        self.start_walk();
    }

    /// The value of a rule's timer for connections that start now, and whose it is.
    #[must_use]
    pub fn timer_value(&self, rule: RuleId, timer: Timer) -> (Option<Duration>, Origin) {
        let ruling = self.ruling();
        ruling.value(rule, timer, ruling.live.epoch)
    }

    /// The shard of a hash.
    fn shard_of(&self, hash: u64) -> (u16, &Mutex<Shard>) {
        let number = shard_number(hash);
        #[expect(clippy::indexing_slicing, reason = "there are SHARDS of them")]
        let mutex = &self.shards[number];
        (u16::try_from(number).unwrap_or(0), mutex)
    }

    /// Where the connections of that shard lie.
    fn ahead_of(&self, hash: u64) -> Option<&Aheads> {
        self.ahead.get(shard_number(hash))
    }

    fn connections_now(&self) -> u32 {
        self.connections.load(Ordering::Relaxed)
    }

    /// Takes a place for one more connection. `false`: there is none, and never more
    /// than `most` are taken.
    fn claim_place(&self, most: u32) -> bool {
        let one_more = |now: u32| (now < most).then(|| now.saturating_add(1));
        self.connections.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok()
    }

    fn connection_closed(&self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }

    fn grace_until(&self, grace: Duration) -> Instant {
        self.started.after(grace)
    }
}

impl Worker {
    /// Lets loopback addresses be judged as any other: for captures that were made
    /// inside of a host. A gateway never does.
    pub const fn allow_loopback(&mut self) {
        self.loopback = wire::Loopback::Allow;
    }

    /// As [`Engine::hold_evictions`], until the shell says otherwise.
    pub fn hold_evictions(&self) {
        self.engine.hold_evictions(true);
    }

    /// Judges one packet. `bytes` starts at the IP header.
    pub fn handle_packet(&mut self, meta: &Meta, bytes: &[u8], now: Instant) -> Verdict {
        if let Some(plain) = Plain::<Ipv4Addr>::of(bytes, meta.wire_len, meta.checksums) {
            let located = self.locate(&plain);
            self.handle_plain(meta, bytes, &plain, &located, now)
        } else if let Some(plain) = Plain::<Ipv6Addr>::of(bytes, meta.wire_len, meta.checksums) {
            let located = self.locate(&plain);
            self.handle_plain(meta, bytes, &plain, &located, now)
        } else {
            self.handle_unread(meta, bytes, None, now)
        }
    }

    /// Judges a packet that was looked at before ([`Self::prepare`]), with the same length and
    /// checksums, by any worker of the same engine.
    pub fn handle_prepared(&mut self, meta: &Meta, prepared: &Prepared<'_>, now: Instant) -> Verdict {
        match &prepared.read {
            Read::Plain(plain, located) => self.handle_plain(meta, prepared.bytes, plain, located, now),
            Read::Any(place) => {
                if let Place::Ipv6(located) = place
                    && let Some(plain) = Plain::of(prepared.bytes, meta.wire_len, meta.checksums)
                {
                    return self.handle_plain(meta, prepared.bytes, &plain, located, now);
                }
                self.handle_unread(meta, prepared.bytes, Some(place), now)
            }
        }
    }

    /// Judges a packet that is as nearly all are, but for what it says.
    #[inline(always)]
    fn handle_plain<A: Family>(
        &mut self,
        meta: &Meta,
        bytes: &[u8],
        plain: &Plain<'_, A>,
        located: &Located<A>,
        now: Instant,
    ) -> Verdict
    where
        Place: From<Located<A>>,
    {
        if self.takes_plain(meta, plain, located, now) {
            return Verdict::Accept;
        }
        self.handle_unusual(meta, bytes, &(*located).into(), now)
    }

    /// Judges a packet of which little was read but its place, if that.
    #[inline(never)]
    fn handle_unread(&mut self, meta: &Meta, bytes: &[u8], place: Option<&Place>, now: Instant) -> Verdict {
        let parsed = wire::parse_where(bytes, meta.wire_len, meta.checksums, self.loopback);
        let parsed = parsed.as_ref();
        let place = place.map_or_else(|| Cow::Owned(self.place_of(parsed.ok())), Cow::Borrowed);
        if let Ok(packet) = parsed
            && self.takes_parsed(meta, packet, &place, now)
        {
            return Verdict::Accept;
        }
        self.handle_any(meta, bytes, parsed, &place, now)
    }

    /// As [`Self::handle_unread`], where the short way was tried in vain.
    #[inline(never)]
    fn handle_unusual(&mut self, meta: &Meta, bytes: &[u8], place: &Place, now: Instant) -> Verdict {
        let parsed = wire::parse_where(bytes, meta.wire_len, meta.checksums, self.loopback);
        self.handle_any(meta, bytes, parsed.as_ref(), place, now)
    }

    /// Judges a packet of whatever kind.
    #[inline(never)]
    fn handle_any(
        &mut self,
        meta: &Meta,
        bytes: &[u8],
        parsed: Result<&Packet<'_>, &Malformed>,
        place: &Place,
        now: Instant,
    ) -> Verdict {
        self.forget_last();
        let verdict = match parsed {
            Ok(packet) => self.with(now, |context| context.judge(meta, packet, place)),
            Err(malformed) => Verdict::Drop(DropReason::Malformed(*malformed)),
        };
        let verdict = if self.out.strip { self.strip(verdict, meta, bytes) } else { verdict };
        if let Some(shard) = self.out.room_for.take() {
            self.with(now, |context| context.keep_headroom(shard));
        }
        self.stats.count(verdict, meta.wire_len);
        verdict
    }

    /// What was said of the packet before does not hold of this one.
    #[inline(always)]
    fn forget_last(&mut self) {
        self.rewritten.clear();
        self.out.strip = false;
        self.out.proof = false;
        self.out.ride = None;
    }

    /// The packet that goes on in place of the one that [`Self::handle_packet`] has
    /// just accepted, IP header first; `None`: that goes on as it is.
    #[must_use]
    pub fn rewritten(&self) -> Option<&[u8]> {
        (!self.rewritten.is_empty()).then_some(self.rewritten.as_slice())
    }

    fn strip(&mut self, verdict: Verdict, meta: &Meta, bytes: &[u8]) -> Verdict {
        match verdict {
            Verdict::Accept => {
                match wire::without_fast_open(bytes, meta.wire_len, &mut self.rewritten) {
                    Some(()) => add(&self.stats.stripped, 1),
                    // As if it had been lost behind us.
                    None => return Verdict::Drop(DropReason::FastOpen),
                }
                verdict
            }
            Verdict::Drop(_) | Verdict::Reset(_) => verdict,
        }
    }

    /// Runs something with the ruling of now.
    fn with<T>(&mut self, now: Instant, work: impl FnOnce(&mut Context<'_>) -> T) -> T {
        self.refresh_ruling();
        let shrink: Shrink = self.ruling.shrink(self.engine.connections_now());
        work(&mut Context {
            engine: &self.engine,
            ruling: &self.ruling,
            stats: &self.stats,
            out: &mut self.out,
            shrink,
            now,
        })
    }

    /// Takes up the ruling of now.
    #[inline(always)]
    fn refresh_ruling(&mut self) {
        let generation = self.engine.generation.load(Ordering::Acquire);
        if generation != self.generation {
            self.generation = generation;
            self.ruling = self.engine.ruling();
        }
    }

    /// Ends one connection, named in either direction. `silent`: no RST. `false` if
    /// there is none.
    pub fn kill(&mut self, flow: &Flow, silent: bool, now: Instant) -> bool {
        self.with(now, |context| context.kill(flow, silent))
    }

    /// The next thing to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.out.transmits.pop_front()
    }

    /// The next source that the kernel should block.
    pub fn poll_block(&mut self) -> Option<Block> {
        self.out.blocks.pop()
    }

    /// The next thing that happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.out.events.pop_front()
    }
}

#[cfg(test)]
mod tests;
