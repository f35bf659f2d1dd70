//! What the engine shows of itself: counters, connections, timers.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::atomic::Ordering,
    time::Duration,
};

use parking_lot::MutexGuard;

use super::{
    Change, Counters, DropReason, Engine, Peer, Stats, TimerRow, UnderWay, View,
    context::tallies_of,
    cookies::BEHIND,
    observe::Rate,
    ruling::{Ruling, Shrink},
    shard::Bookmark,
};
use crate::{
    conntrack::{
        Address, Flow, Instant, Key, Phase, Slot, Table, Timer, Whole,
        embryonic::{EmbryoId, Member, Peaks, Scope},
    },
    policy::{Live, RuleId},
};

/// Slots visited under one lock.
const PIECE: u32 = 64;

/// Half-open connections looked up under one lock.
const HALF_OPEN: usize = 512;

fn view<A: Address>(
    table: &Table<A>,
    slot: u32,
    ruling: &Ruling,
    shrink: Shrink,
    now: Instant,
) -> Option<(View, Whole)> {
    let (entry, connection) = (table.get(slot)?, table.whole(slot)?);
    if connection.fast.is_ended() {
        return None;
    }
    let deadline = ruling.deadline(&connection, shrink, now);
    let [original, reply] = tallies_of(&connection);
    let view = View {
        flow: entry.key.flow(connection.opener()),
        phase: connection.phase,
        rule: RuleId(connection.rule),
        age: connection.age(now),
        idle: connection.last_seen.elapsed(now),
        expires_in: ruling.expires_in(&connection, deadline, now),
        timer: deadline.timer,
        original,
        reply,
        probes: connection.rare.asks,
        unacknowledged_fin: matches!(connection.phase, Phase::FinWait | Phase::Closing)
            .then_some(connection.rare.first_fin)
            .flatten()
            .map(|first_fin| first_fin.elapsed(now)),
        forgotten_by: connection.forgotten_by().map(Peer::sending),
        fast_path: connection.fast.rides(),
    };
    Some((view, connection))
}

fn under_way<A: Address>(table: &Table<A>, slot: Slot, id: EmbryoId, now: Instant) -> Option<UnderWay> {
    let entry = table.get(slot)?;
    let connection = table.whole(slot)?;
    let (phase, opener, rule) = (connection.phase, connection.opener(), connection.rule);
    // The slot may be another's by now.
    let is_own = connection.rare.embryo == Some(id) && phase.is_embryonic() && connection.tag() & BEHIND == 0;
    let (flow, age) = (entry.key.flow(opener), connection.age(now));
    is_own.then_some(UnderWay { flow, phase, rule: RuleId(rule), age })
}

fn is_half_open<A: Address>(table: &Table<A>, key: &Key<A>, hash: u64) -> bool {
    let entry = table.find(key, hash).and_then(|slot| table.get(slot));
    entry.is_some_and(|entry| entry.connection.phase.is_embryonic())
}

impl Engine {
    /// Calls `each` for every connection that has not run out, as [`Engine::look`] does.
    pub fn connections(&self, now: Instant, each: &mut dyn FnMut(&View) -> bool) {
        self.visit(now, &mut || {}, &mut |view, _| each(view));
    }

    /// Calls `each` for a bounded piece of all connections that have not run out; it runs under
    /// a shard's lock and must be quick. Stops on `false`. Where to go on; `None`: it was
    /// stopped, or all were shown.
    pub fn look(
        &self,
        from: Bookmark,
        now: Instant,
        each: &mut dyn FnMut(&View) -> bool,
    ) -> Option<Bookmark> {
        self.visit_piece(from, now, &mut |view, _| each(view))
    }

    /// Calls `rest` after each piece, when no lock is held.
    pub(super) fn visit(
        &self,
        now: Instant,
        rest: &mut dyn FnMut(),
        each: &mut dyn FnMut(&View, &Whole) -> bool,
    ) {
        let mut next = Some(Bookmark::default());
        while let Some(from) = next {
            next = self.visit_piece(from, now, each);
            rest();
        }
    }

    fn visit_piece(
        &self,
        from: Bookmark,
        now: Instant,
        each: &mut dyn FnMut(&View, &Whole) -> bool,
    ) -> Option<Bookmark> {
        let ruling = self.ruling();
        let shrink = ruling.shrink(self.connections_now());
        let shard = self.shards.get(usize::from(from.shard))?.lock();
        let (slots, next) = shard.piece(from.walk, PIECE);
        for slot in slots {
            let seen = if from.walk.ipv6 {
                view(&shard.ipv6, slot, &ruling, shrink, now)
            } else {
                view(&shard.ipv4, slot, &ruling, shrink, now)
            };
            if let Some((view, connection)) = seen
                // Whether those are over that pass unseen, the kernel knows.
                && (!view.expires_in.is_zero() || connection.fast.is_unseen())
                && !each(&view, &connection)
            {
                return None;
            }
        }
        // A packet that waits comes before the next piece.
        MutexGuard::unlock_fair(shard);
        from.turn(next, self.shards.len())
    }

    /// Half-open connections to these addresses and ports that the kernel has not opened
    /// behind a cookie, that are as old as `least`, `most` at most, the stalest first. Looks at
    /// those that count for such a destination alone, a bounded piece under each lock; one
    /// whose SYN could not be delivered does not count.
    #[must_use]
    pub fn under_way_to(
        &self,
        places: &BTreeSet<(IpAddr, u16)>,
        least: Duration,
        now: Instant,
        most: usize,
    ) -> Vec<UnderWay> {
        let mut found = Vec::new();
        for &(address, port) in places {
            let scope = Scope::Destination { group: 0, address, port };
            let mut seen: Vec<Member> = Vec::new();
            while found.len() < most {
                let piece = self.embryonic.lock().after(&seen, &scope, HALF_OPEN);
                let there = |one: &UnderWay| (one.flow.dst, one.flow.dst_port) == (address, port);
                let room = most.saturating_sub(found.len());
                let ones = piece.iter().filter_map(|one| self.under_way(one, now));
                let mut is_young = false;
                let old = ones.take_while(|one| {
                    is_young = one.age < least;
                    !is_young
                });
                found.extend(old.filter(there).take(room));
                // Whoever comes after the last piece is there for the next look.
                if is_young || piece.len() < HALF_OPEN {
                    break;
                }
                seen.extend(piece);
            }
        }
        found
    }

    /// Whether the connection of a flow is half-open.
    #[must_use]
    pub fn is_half_open(&self, flow: &Flow) -> bool {
        if let Some((key, _)) = Key::<Ipv4Addr>::of(flow) {
            let hash = key.hash(&self.secret);
            return is_half_open(&self.shard_of(hash).1.lock().ipv4, &key, hash);
        }
        Key::<Ipv6Addr>::of(flow).is_some_and(|(key, _)| {
            let hash = key.hash(&self.secret);
            is_half_open(&self.shard_of(hash).1.lock().ipv6, &key, hash)
        })
    }

    fn under_way(&self, member: &Member, now: Instant) -> Option<UnderWay> {
        let at = member.at?;
        let shard = self.shards.get(usize::from(at.shard))?.lock();
        if at.ipv6 {
            under_way(&shard.ipv6, at.slot, member.id, now)
        } else {
            under_way(&shard.ipv4, at.slot, member.id, now)
        }
    }

    /// How many connections are under each timer, by rule. Looks at all of them, a piece at a
    /// time, and calls `rest` between.
    #[must_use]
    pub fn timers(&self, now: Instant, rest: &mut dyn FnMut()) -> Vec<TimerRow> {
        let mut rows: BTreeMap<(RuleId, Timer), u64> = BTreeMap::new();
        self.visit(now, rest, &mut |view, _| {
            let count = rows.entry((view.rule, view.timer)).or_default();
            *count = count.saturating_add(1);
            true
        });
        rows.into_iter().map(|((rule, timer), connections)| TimerRow { rule, timer, connections }).collect()
    }

    /// What would happen to existing connections if `live` were in force. Looks at all of them,
    /// a piece at a time, and calls `rest` between.
    #[must_use]
    pub fn preview(&self, live: &Live, now: Instant, rest: &mut dyn FnMut()) -> Change {
        let then = self.ruling().with_live(live.clone());
        let shrink = then.shrink(self.connections_now());
        let mut change = Change::default();
        self.visit(now, rest, &mut |view, connection| {
            let deadline = then.deadline(connection, shrink, now);
            let expires_in = then.expires_in(connection, deadline, now);
            if expires_in != view.expires_in {
                change.affected = change.affected.saturating_add(1);
            }
            if expires_in.is_zero() {
                change.ended = change.ended.saturating_add(1);
            }
            true
        });
        change
    }

    /// How many sources are proven now, and the most that there were at once.
    #[must_use]
    pub fn proven(&self, now: Instant) -> (u32, u32) {
        let mut proven = self.proven.lock();
        (proven.count(now), proven.peak())
    }

    /// TCP handshakes since the start; asks no shard.
    #[must_use]
    pub fn handshakes(&self) -> Rate {
        self.stats.lock().iter().fold(Rate::default(), |sum, stats| Rate {
            begun: sum.begun.saturating_add(stats.begun.load(Ordering::Relaxed)),
            completed: sum.completed.saturating_add(stats.completed.load(Ordering::Relaxed)),
        })
    }

    /// Events that were given up because a worker had no room for them; asks no shard.
    #[must_use]
    pub fn events_lost(&self) -> u64 {
        self.stats.lock().iter().fold(0, |sum, s| sum.saturating_add(s.events_lost.load(Ordering::Relaxed)))
    }

    /// The largest counts of half-open connections since the last call, by group: 0 is
    /// the rule set, else a rule's number.
    #[must_use]
    pub fn take_peaks(&self) -> Vec<(u16, Peaks)> {
        self.embryonic.lock().take_peaks()
    }

    /// Counters since the start.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let stats = self.stats.lock();
        let sum = |pick: fn(&Stats) -> u64| stats.iter().fold(0_u64, |sum, s| sum.saturating_add(pick(s)));
        let dropped = DropReason::all()
            .map(|reason| {
                (reason.name(), stats.iter().fold(0_u64, |n, s| n.saturating_add(s.dropped(reason))))
            })
            .filter(|(_, count)| *count > 0)
            .collect();
        let evicted = Phase::ALL
            .into_iter()
            .map(|phase| (phase.name(), stats.iter().fold(0_u64, |n, s| n.saturating_add(s.evicted(phase)))))
            .filter(|(_, count)| *count > 0)
            .collect();
        let mut by_phase = [0_u64; Phase::ALL.len()];
        let (mut stale, mut uncounted, mut riding) = (0_u64, 0_u64, 0_u64);
        for shard in self.shards.iter() {
            let shard = shard.lock();
            stale = stale.saturating_add(u64::from(shard.stale));
            uncounted = uncounted.saturating_add(u64::from(shard.uncounted));
            riding = riding.saturating_add(u64::from(shard.riding));
            for (count, phase) in by_phase.iter_mut().zip(Phase::ALL) {
                *count = count.saturating_add(u64::from(shard.phase_count(phase)));
            }
        }
        let embryonic = self.embryonic.lock();
        let mut embryonic_by_rule: Vec<_> = embryonic
            .counts()
            .filter_map(|(scope, count)| match scope {
                Scope::Total { group } if *group != 0 => Some((RuleId(*group), u64::from(count))),
                Scope::Total { .. } | Scope::Source { .. } | Scope::Destination { .. } => None,
            })
            .collect();
        embryonic_by_rule.sort_unstable();
        Counters {
            packets: sum(|s| s.packets.load(Ordering::Relaxed)),
            bytes: sum(|s| s.bytes.load(Ordering::Relaxed)),
            accepted: sum(|s| s.accepted.load(Ordering::Relaxed)),
            dropped,
            reset: sum(|s| s.reset.load(Ordering::Relaxed)),
            stripped: sum(|s| s.stripped.load(Ordering::Relaxed)),
            rst_suppressed: sum(|s| s.rst_suppressed.load(Ordering::Relaxed)),
            evictions_held: sum(|s| s.evictions_held.load(Ordering::Relaxed)),
            keepalives: sum(|s| s.keepalives.load(Ordering::Relaxed)),
            challenged: sum(|s| s.challenged.load(Ordering::Relaxed)),
            proofs: sum(|s| s.proofs.load(Ordering::Relaxed)),
            connections: u64::from(self.connections_now()),
            evicted,
            phases: Phase::ALL.into_iter().map(Phase::name).zip(by_phase).collect(),
            embryonic: u64::from(embryonic.len()),
            embryonic_by_rule,
            uncounted,
            riding,
            stale,
            forgotten: sum(|s| s.forgotten.load(Ordering::Relaxed)),
            opened: sum(|s| s.opened.load(Ordering::Relaxed)),
            closed: sum(|s| s.closed.load(Ordering::Relaxed)),
            forgets_lost: sum(|s| s.forgets_lost.load(Ordering::Relaxed)),
            lock_waits: sum(|s| s.lock_waits.load(Ordering::Relaxed)),
            limits_passed: self.passed.all(),
        }
    }
}
