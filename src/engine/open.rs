//! Limits of open connections: past their handshake, and not over.
//!
//! Counted only where some limit asks for it, by what the limits ask for. A connection
//! bears in its tag whether it is counted and in which of two tallies: when what is
//! counted changes, a new tally is filled by a walk over the table while packets go on,
//! and the old one serves those that the walk has not reached.
//!
//! A SYN can be forged, the ACK that completes a handshake can't: it acknowledges a
//! number that only the SYN's source was told (RFC 6528). So a source is blocked only
//! for a handshake that it has completed.

use std::{
    net::IpAddr,
    sync::atomic::{AtomicU8, Ordering},
    time::Duration,
};

use parking_lot::Mutex;

use super::{
    CloseReason, DropReason, Engine, Verdict,
    context::{Context, Held},
    judge::Arrival,
    shard::Family,
};
use crate::{
    conntrack::{
        Connection, Flow, Phase, Slot, SourcePrefix, embryonic::Scope, scoped::Scoped, window::Seen,
    },
    policy::{Limit, LimitTable, OnExcess, PickupMode, ResolvedLimits, RuleId},
};

/// In a connection's tag: counted in the first tally, in the second.
pub(super) const COUNTED: [u8; 2] = [1 << 5, 1 << 6];

/// No tally: nothing is counted.
const NONE: u8 = 2;

/// A source to be blocked in the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Block {
    /// The source: an address, zero behind the prefix.
    pub source: IpAddr,
    /// The prefix that counts as one source.
    pub prefix: u8,
    /// For how long.
    pub time: Duration,
    /// The rule of the connection that was too many.
    pub rule: RuleId,
    /// The rule whose limit it was; `None`: the rule set's.
    pub of_rule: Option<RuleId>,
}

/// What is counted by, and the counts.
#[derive(Debug)]
struct Tally {
    shape: Vec<(u16, [bool; 3], SourcePrefix)>,
    counts: Scoped<Scope, u32>,
}

/// Open connections by scope.
#[derive(Debug)]
pub(super) struct Open {
    tallies: [Mutex<Tally>; 2],
    /// The tally that new ones are counted in.
    current: AtomicU8,
    /// Held while what is counted changes.
    changing: Mutex<()>,
}

impl Tally {
    /// The scopes of a connection.
    fn scopes(&self, rule: u16, flow: &Flow) -> impl Iterator<Item = Scope> {
        let groups = self.shape.iter().filter(move |(group, ..)| *group == 0 || *group == rule);
        groups.flat_map(move |&(group, set, prefix)| {
            let all = [
                Scope::Total { group },
                Scope::source(group, flow.src, prefix),
                Scope::Destination { group, address: flow.dst, port: flow.dst_port },
            ];
            all.into_iter().zip(set).filter_map(|(scope, is_set)| is_set.then_some(scope))
        })
    }

    fn add(&mut self, rule: u16, flow: &Flow) {
        let scopes: Vec<Scope> = self.scopes(rule, flow).collect();
        for scope in scopes {
            let at = self.counts.find_or_insert(&scope, 0);
            if let Some(count) = at.and_then(|at| self.counts.get_mut(at)) {
                *count = count.saturating_add(1);
            }
        }
    }

    fn take(&mut self, rule: u16, flow: &Flow) {
        let scopes: Vec<Scope> = self.scopes(rule, flow).collect();
        for scope in scopes {
            let Some(at) = self.counts.find(&scope) else { continue };
            let Some(count) = self.counts.get_mut(at) else { continue };
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.counts.remove(at);
            }
        }
    }
}

impl Open {
    pub(super) fn new(seed: [u64; 2]) -> Self {
        let tally = || Mutex::new(Tally { shape: Vec::new(), counts: Scoped::new(seed, 0) });
        Self { tallies: [tally(), tally()], current: AtomicU8::new(NONE), changing: Mutex::new(()) }
    }

    fn tally(&self, number: u8) -> Option<&Mutex<Tally>> {
        self.tallies.get(usize::from(number))
    }

    fn current(&self) -> Option<(u8, &Mutex<Tally>)> {
        let number = self.current.load(Ordering::Acquire);
        Some((number, self.tally(number)?))
    }

    /// How many are counted in a scope.
    pub(super) fn count(&self, scope: &Scope) -> u32 {
        self.current().map_or(0, |(_, tally)| {
            let tally = tally.lock();
            tally.counts.find(scope).and_then(|at| tally.counts.get(at)).copied().unwrap_or(0)
        })
    }
}

const fn is_open(phase: Phase) -> bool {
    matches!(phase, Phase::Established | Phase::FinWait | Phase::HalfClosed | Phase::Closing)
}

impl Engine {
    /// Counts what the limits in force ask for. Walks the table only if that has changed.
    pub(super) fn count_what_limits_ask(&self, limits: &LimitTable) {
        let _changing = self.open.changing.lock();
        let shape = limits.open_shape();
        let old = self.open.current();
        if old.map_or(shape.is_empty(), |(_, tally)| tally.lock().shape == shape) {
            return;
        }
        let new = match old {
            _ if shape.is_empty() => NONE,
            Some((0, _)) => 1,
            Some(_) | None => 0,
        };
        if let Some(tally) = self.open.tally(new) {
            let mut tally = tally.lock();
            tally.shape = shape;
            // Nobody bears its mark: the last walk has changed all of them.
            tally.counts = Scoped::new(self.seed, self.capacity);
        }
        self.open.current.store(new, Ordering::Release);
        for mutex in self.shards.iter() {
            recount::<std::net::Ipv4Addr>(self, mutex);
            recount::<std::net::Ipv6Addr>(self, mutex);
        }
        if let Some((_, tally)) = old {
            // What it took is free again.
            tally.lock().counts = Scoped::new(self.seed, 0);
        }
    }

    /// Open connections that are counted now, all of the rule set's (`None`) or a rule's;
    /// only where there is such a limit.
    #[must_use]
    pub fn open_total(&self, rule: Option<RuleId>) -> u32 {
        self.open.count(&Scope::Total { group: rule.map_or(0, |rule| rule.0) })
    }

    /// Open connections of the source or to the destination of a flow, or all: what a
    /// limit of the rule set (`None`) or of a rule compares with.
    #[must_use]
    pub fn open_count(&self, limit: Limit, rule: Option<RuleId>, flow: &Flow) -> u32 {
        let ruling = self.ruling();
        let group = rule.map_or(0, |rule| rule.0);
        let scope = match limit {
            Limit::OpenPerSource => {
                Scope::source(group, flow.src, ruling.limits.source_prefix(RuleId(group)))
            }
            Limit::OpenPerDestination => Scope::Destination { group, address: flow.dst, port: flow.dst_port },
            Limit::OpenTotal | Limit::Total | Limit::PerSource | Limit::PerDestination => {
                Scope::Total { group }
            }
        };
        self.open.count(&scope)
    }
}

/// One lock is held for so many slots.
const PIECE: u32 = 256;

fn recount<A: Family>(engine: &Engine, mutex: &Mutex<super::shard::Shard>) {
    let mut slot = 0_u32;
    loop {
        let mut shard = mutex.lock();
        let table = A::table(&mut shard);
        let bound = table.bound();
        let end = bound.min(slot.saturating_add(PIECE));
        for slot in slot..end {
            let Some(entry) = table.get_mut(slot) else { continue };
            let flow = entry.key.flow(entry.connection.opener());
            uncount(engine, &mut entry.connection, &flow);
            count(engine, &mut entry.connection, &flow);
        }
        slot = end;
        if slot >= bound {
            return;
        }
    }
}

/// Counts a connection that is open and is not counted.
fn count(engine: &Engine, connection: &mut Connection, flow: &Flow) {
    let is_counted = connection.tag() & (COUNTED[0] | COUNTED[1]) != 0;
    if is_open(connection.phase)
        && !is_counted
        && let Some((number, tally)) = engine.open.current()
        && let Some(bit) = COUNTED.get(usize::from(number))
    {
        tally.lock().add(connection.rule, flow);
        connection.add_tag(*bit);
    }
}

/// Gives the counts of a connection back, if it is counted.
fn uncount(engine: &Engine, connection: &mut Connection, flow: &Flow) {
    for (tally, bit) in engine.open.tallies.iter().zip(COUNTED) {
        if connection.tag() & bit != 0 {
            connection.set_tag(connection.tag() & !bit);
            tally.lock().take(connection.rule, flow);
        }
    }
}

/// Whether the end that opened a connection was told the other's number and has
/// acknowledged it, so that nobody elsewhere can have done it in its name.
fn is_proven(connection: &Connection) -> bool {
    let (client, server) = (&connection.original, &connection.reply);
    client.seen.has(Seen::SYN)
        && client.seen.has(Seen::ACK)
        && server.seen.has(Seen::SYN)
        && !client.seen.has(Seen::MET)
        && !server.seen.has(Seen::MET)
}

impl Context<'_> {
    /// A connection comes, goes or changes its phase; of both kinds of change only those
    /// over the edge of being open count.
    pub(super) fn count_open<A: Family>(
        &mut self,
        held: &mut Held<'_>,
        slot: Slot,
        from: Option<Phase>,
        to: Option<Phase>,
    ) {
        let (was, is) = (from.is_some_and(is_open), to.is_some_and(is_open));
        if was == is {
            return;
        }
        let Some(entry) = A::table(held.shard).get_mut(slot) else { return };
        let flow = entry.key.flow(entry.connection.opener());
        if was {
            uncount(self.engine, &mut entry.connection, &flow);
            return;
        }
        count(self.engine, &mut entry.connection, &flow);
        // One that is met in its middle was open before.
        if from.is_some_and(Phase::is_embryonic) && self.ruling.limits.counts_open() {
            let connection = entry.connection;
            self.out.too_many = self.passed_by(&connection, &flow);
        }
    }

    /// The rule of a connection has changed: what it counts in is that rule's.
    pub(super) fn move_open<A: Family>(&mut self, held: &mut Held<'_>, slot: Slot, rule: u16) {
        let Some(entry) = A::table(held.shard).get_mut(slot) else { return };
        let flow = entry.key.flow(entry.connection.opener());
        uncount(self.engine, &mut entry.connection, &flow);
        entry.connection.rule = rule;
        count(self.engine, &mut entry.connection, &flow);
    }

    /// Every limit of open connections for one of a rule, the rule's own first, with how
    /// many there are.
    fn open_limits(
        &self,
        rule: RuleId,
        flow: &Flow,
    ) -> impl Iterator<Item = (u16, ResolvedLimits, Limit, u32, u32)> {
        let own = self.ruling.limits.of_rule(rule).filter(|_| rule != RuleId::DEFAULT);
        let all = [own.map(|limits| (rule.0, limits)), Some((0, self.ruling.limits.global()))];
        let all = all.into_iter().flatten();
        all.flat_map(|(group, limits)| Limit::OPEN.map(|limit| (group, limits, limit))).filter_map(
            |(group, limits, limit)| {
                let most = limits.limit(limit).value?;
                let now = self.engine.open.count(&self.scope_of(limit, group, flow));
                Some((group, limits, limit, most, now))
            },
        )
    }

    /// Tells that a limit was passed. `true`: and something is to be done about it.
    fn tell_passed(
        &mut self,
        flow: &Flow,
        rule: RuleId,
        (group, limits, limit): (u16, ResolvedLimits, Limit),
    ) -> bool {
        let open = limits.open;
        self.passed_limit(flow, rule, (group, limit), open.on_excess, open.shadow);
        !open.shadow
    }

    /// Whether the limits of open connections refuse a SYN. Where a source can be blocked,
    /// its SYN passes, so that it can prove that it is there.
    pub(super) fn refuses_open(&mut self, arrival: &Arrival<'_>, rule: RuleId) -> Option<OnExcess> {
        if !self.ruling.limits.counts_open() {
            return None;
        }
        let passed: Vec<_> = self
            .open_limits(rule, &arrival.flow)
            .filter(|(group, limits, limit, most, now)| {
                now >= most && self.block_of(*group, limits, *limit, &arrival.flow, rule).is_none()
            })
            .map(|(group, limits, limit, ..)| (group, limits, limit))
            .collect();
        passed
            .into_iter()
            .filter(|passed| self.tell_passed(&arrival.flow, rule, *passed))
            .map(|(_, limits, _)| limits.open.on_excess)
            .last()
    }

    /// The limit that a handshake which has just completed passes.
    fn passed_by(&mut self, connection: &Connection, flow: &Flow) -> Option<Limit> {
        let rule = RuleId(connection.rule);
        let passed: Vec<_> = self
            .open_limits(rule, flow)
            .filter(|(.., most, now)| now > most)
            .map(|(group, limits, limit, ..)| (group, limits, limit))
            .collect();
        let mut refused = None;
        for (group, limits, limit) in passed {
            if self.tell_passed(flow, rule, (group, limits, limit)) {
                refused = Some(limit);
                let block = self.block_of(group, &limits, limit, flow, rule);
                if let Some(block) = block.filter(|_| is_proven(connection)) {
                    self.out.blocks.push(block);
                }
            }
        }
        refused
    }

    /// What passing this limit by a real connection leads to.
    fn block_of(
        &self,
        group: u16,
        limits: &ResolvedLimits,
        limit: Limit,
        flow: &Flow,
        rule: RuleId,
    ) -> Option<Block> {
        let time = limits.open.block.filter(|_| limit == Limit::OpenPerSource && !limits.open.shadow)?;
        // Where one way may be unseen, nothing is proven.
        if self.ruling.pickup_mode(rule) == PickupMode::Loose {
            return None;
        }
        let policy = &self.ruling.policy;
        let of_rule = (group != 0).then_some(rule);
        let own = match of_rule {
            Some(rule) => policy.rule(rule).map(|rule| &rule.open_limits),
            None => Some(&policy.settings.open_limits),
        };
        let allowed = own.is_some_and(|own| own.allow.iter().any(|allow| allow.contains(flow.src)));
        let (source, prefix) = (limits.source_prefix.source(flow.src), limits.source_prefix.length(flow.src));
        (!allowed).then_some(Block { source, prefix, time, rule, of_rule })
    }

    /// The packet at hand has completed a handshake that is one too many: both ends are
    /// told, and it goes no further.
    pub(super) fn end_too_many<A: Family>(
        &mut self,
        held: &mut Held<'_>,
        slot: Slot,
        limit: Limit,
    ) -> Verdict {
        self.end::<A>(held, slot, false, CloseReason::TooMany(limit), false);
        Verdict::Drop(DropReason::Limit)
    }
}

#[cfg(test)]
impl Open {
    /// The counts that these connections would have, and those that there are.
    pub(super) fn recount(
        &self,
        all: &[(Flow, crate::conntrack::Whole)],
    ) -> [std::collections::HashMap<Scope, u32>; 2] {
        let Some((_, tally)) = self.current() else { return Default::default() };
        let tally = tally.lock();
        let mut expected = std::collections::HashMap::new();
        for (flow, connection) in all.iter().filter(|(_, connection)| is_open(connection.phase)) {
            for scope in tally.scopes(connection.rule, flow) {
                *expected.entry(scope).or_default() += 1;
            }
        }
        [expected, tally.counts.iter().map(|(scope, count)| (*scope, *count)).collect()]
    }
}
