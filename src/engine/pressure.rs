//! Who makes room when the table is full.
//!
//! Connections stand in line by what they are: each shard has a line for each
//! [`Class`], in the order in which they came into it, and one word says which shards
//! have somebody in line. So the choice takes constant time, however large the table.
//! Half-open connections are not in these lines: the half-open counters have an order
//! of their own.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::{
    CloseReason, SHARDS,
    context::{Context, Eviction, Held},
    judge::Content,
    shard::Family,
};
use crate::{
    conntrack::{Phase, Slot, embryonic::Scope, table::LINES, tcp::Kind},
    policy::{Action, PickupMode, RuleId},
};

/// What a connection is to somebody who needs room, in the order in which they go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Class {
    /// UDP and ICMP that nobody has answered: the half-open of those that have no
    /// handshake. They go first together with the half-open.
    Unanswered,
    /// Over: both FINs acknowledged.
    TimeWait,
    /// Both FINs seen.
    Closing,
    /// An RST was seen.
    Reset,
    /// A FIN that nobody has acknowledged.
    FinWait,
    /// One way is closed.
    HalfClosed,
    /// UDP that was answered; an answer proves nothing about who asked.
    Stream,
    /// The rest, if its rule says that it may go.
    Open,
}

const _: () = assert!(Class::Open as usize + 1 == LINES, "a line for each class");
const _: () = assert!(SHARDS == 64, "a bit for each shard");

impl Class {
    /// Those that are over or ending, in their order.
    const ENDING: [Self; 6] =
        [Self::TimeWait, Self::Closing, Self::Reset, Self::FinWait, Self::HalfClosed, Self::Stream];

    const fn of(phase: Phase) -> Option<Self> {
        match phase {
            Phase::SynSent | Phase::SynReceived => None,
            Phase::UdpNew | Phase::Icmp => Some(Self::Unanswered),
            Phase::TimeWait => Some(Self::TimeWait),
            Phase::Closing => Some(Self::Closing),
            Phase::Reset => Some(Self::Reset),
            Phase::FinWait => Some(Self::FinWait),
            Phase::HalfClosed => Some(Self::HalfClosed),
            Phase::UdpStream => Some(Self::Stream),
            Phase::Established | Phase::Other => Some(Self::Open),
        }
    }

    /// Whether its connections may still carry data, so that who was silent longest goes
    /// rather than who came first.
    const fn is_used(self) -> bool {
        matches!(self, Self::HalfClosed | Self::Stream | Self::Open)
    }
}

/// How many of a line are looked at for the one that was silent longest.
const LOOK: usize = 8;

/// How often somebody else may take the room that was just made.
const ATTEMPTS: usize = 4;

/// While less than this part of the table is free, an evictable connection goes for each
/// handshake that completes: so a SYN, for which none may go, finds room.
const HEADROOM: u32 = 64;

/// Which shards have somebody in each line, and how many are unanswered in all.
#[derive(Debug, Default)]
pub(super) struct Lines {
    shards: [AtomicU64; LINES],
    unanswered: AtomicU32,
}

impl Lines {
    fn joined(&self, class: Class, shard: u16, is_first: bool) {
        if class == Class::Unanswered {
            self.unanswered.fetch_add(1, Ordering::Relaxed);
        }
        if is_first && let Some(shards) = self.shards.get(class as usize) {
            shards.fetch_or(1_u64.wrapping_shl(shard.into()), Ordering::Relaxed);
        }
    }

    fn left(&self, class: Class, shard: u16, was_last: bool) {
        if class == Class::Unanswered {
            self.unanswered.fetch_sub(1, Ordering::Relaxed);
        }
        if was_last && let Some(shards) = self.shards.get(class as usize) {
            shards.fetch_and(!1_u64.wrapping_shl(shard.into()), Ordering::Relaxed);
        }
    }

    /// A shard with somebody in this line: this one, or the next that has.
    fn shard_with(&self, class: Class, from: u16) -> Option<u16> {
        let shards = self.shards.get(class as usize)?.load(Ordering::Relaxed);
        let ahead = shards.rotate_right(from.into());
        let found = (ahead != 0).then(|| u32::from(from).wrapping_add(ahead.trailing_zeros()) % 64)?;
        u16::try_from(found).ok()
    }

    /// Whether somebody in this shard stands in this line.
    #[cfg(test)]
    pub(super) fn has(&self, class: usize, shard: usize) -> bool {
        self.shards[class].load(Ordering::Relaxed) >> shard & 1 == 1
    }

    fn is_empty(&self, class: Class) -> bool {
        self.shards.get(class as usize).is_none_or(|shards| shards.load(Ordering::Relaxed) == 0)
    }
}

impl Context<'_> {
    /// Whether the table may take one more.
    pub(super) fn has_room(&self) -> bool {
        self.engine.connections_now() < self.ruling.policy.settings.max_connections
    }

    /// A connection comes (`from` is `None`), goes (`to` is `None`) or changes its phase.
    pub(super) fn stand<A: Family>(
        &mut self,
        held: &mut Held<'_>,
        slot: Slot,
        from: Option<Phase>,
        to: Option<Phase>,
    ) {
        held.shard.count_phase(from, to);
        self.count_open::<A>(held, slot, from, to);
        if let Some(class) = from.and_then(Class::of) {
            self.leave::<A>(held, slot, class);
        }
        if let Some(class) = to.and_then(Class::of) {
            self.join::<A>(held, slot, class);
        }
    }

    /// The rule of a connection may have changed, or what it says.
    pub(super) fn stand_again<A: Family>(&self, held: &mut Held<'_>, slot: Slot) {
        let phase = A::table(held.shard).get(slot).map(|entry| entry.connection.phase);
        if phase.and_then(Class::of) == Some(Class::Open) {
            // Who may go keeps its place.
            if !self.may_go::<A>(held, slot) {
                self.leave::<A>(held, slot, Class::Open);
            } else {
                self.join::<A>(held, slot, Class::Open);
            }
        }
    }

    fn may_go<A: Family>(&self, held: &mut Held<'_>, slot: Slot) -> bool {
        let rule = A::table(held.shard).get(slot).map(|entry| RuleId(entry.connection.rule));
        rule.and_then(|rule| self.ruling.policy.rule(rule)).is_some_and(|rule| rule.evictable)
    }

    fn join<A: Family>(&self, held: &mut Held<'_>, slot: Slot, class: Class) {
        if class == Class::Open && !self.may_go::<A>(held, slot) {
            return;
        }
        if A::table(held.shard).line_up(slot, class as usize) {
            let is_first = held.shard.in_line(class as usize) == 1;
            self.engine.lines.joined(class, held.number, is_first);
        }
    }

    fn leave<A: Family>(&self, held: &mut Held<'_>, slot: Slot, class: Class) {
        if A::table(held.shard).step_out(slot, class as usize) {
            let was_last = held.shard.in_line(class as usize) == 0;
            self.engine.lines.left(class, held.number, was_last);
        }
    }

    /// Whether a packet that is no SYN would bring a connection into the table: nobody
    /// makes room for one that the rules don't let in. Only asked when it is full.
    pub(super) fn would_enter(
        &self,
        arrival: &super::judge::Arrival<'_>,
        parent_rule: Option<RuleId>,
    ) -> bool {
        let (meta, flow, ruling) = (arrival.meta, &arrival.flow, self.ruling);
        match arrival.content {
            Content::Tcp(Kind::Ack | Kind::Fin, _) => ruling.pickup(meta, flow).is_some_and(|pickup| {
                let grace = self.engine.grace_until(ruling.policy.settings.pickup.grace);
                meta.kernel_knows || self.now < grace || pickup.mode == PickupMode::Loose
            }),
            Content::Tcp(Kind::SynAck, _) => {
                ruling.pickup_of_answer(meta, flow).is_some_and(|pickup| pickup.mode == PickupMode::Loose)
            }
            Content::Tcp(Kind::Syn | Kind::Rst, _) | Content::EchoReply => false,
            Content::Udp | Content::EchoRequest | Content::Other => {
                let new = ruling.new_flow(meta.hook, [meta.in_if, meta.out_if], flow, arrival.icmp);
                parent_rule.is_some() || ruling.decide(&new).0 == Action::Accept
            }
        }
    }

    /// Lets somebody go until there is room for one more; no shard may be held. Of the
    /// half-open ones `own` are the newcomer itself. `proven`: its sender can't be forged,
    /// so that evictable connections may go for it.
    pub(super) fn make_room(&mut self, shard: u16, own: u32, proven: bool) {
        for _ in 0..ATTEMPTS {
            if self.has_room() || !self.let_one_go(shard, own, proven) {
                return;
            }
        }
    }

    /// A handshake has completed: if room is scarce, somebody goes who may.
    pub(super) fn keep_headroom(&mut self, shard: u16) {
        let most = self.ruling.policy.settings.max_connections;
        let scarce = most.saturating_sub((most / HEADROOM).max(1));
        if self.engine.connections_now() > scarce {
            // Whoever has just come is the last that should go.
            self.let_go_of(Class::Open, shard.wrapping_add(1) % 64, Some(shard));
        }
    }

    /// Whether [`Self::keep_headroom`] would find anybody.
    pub(super) fn has_evictable(&self) -> bool {
        !self.engine.lines.is_empty(Class::Open)
    }

    fn let_one_go(&mut self, shard: u16, own: u32, proven: bool) -> bool {
        // Of those who have proven nothing yet, the kind that there is more of.
        let half_open = self.engine.embryonic.lock().len().saturating_sub(own);
        let unanswered = self.engine.lines.unanswered.load(Ordering::Relaxed);
        (half_open >= unanswered && self.let_half_open_go(half_open))
            || self.let_go_of(Class::Unanswered, shard, None)
            || self.let_half_open_go(half_open)
            || Class::ENDING.into_iter().any(|class| self.let_go_of(class, shard, None))
            || proven && self.let_go_of(Class::Open, shard, None)
    }

    fn let_half_open_go(&mut self, half_open: u32) -> bool {
        if half_open == 0 {
            return false;
        }
        let gone = self.engine.embryonic.lock().evict(&Scope::Total { group: 0 });
        let reason = CloseReason::TableFull;
        self.out.evictions.extend(gone.flatten().map(|(id, at)| Eviction { at, id, reason }));
        self.carry_out_evictions();
        gone.is_some()
    }

    /// Lets one of a class go, of this shard or the next that has one; but not the only
    /// one of the shard `but`.
    fn let_go_of(&mut self, class: Class, from: u16, but: Option<u16>) -> bool {
        let engine = self.engine;
        let Some(number) = engine.lines.shard_with(class, from) else { return false };
        let Some(mutex) = engine.shards.get(usize::from(number)) else { return false };
        let mut shard = mutex.lock();
        let mut held = Held { shard: &mut shard, number };
        if but == Some(number) && held.shard.in_line(class as usize) == 1 {
            return false;
        }
        // The family that has more in line gives one.
        let [ipv4, ipv6] = [held.shard.ipv4.in_line(class as usize), held.shard.ipv6.in_line(class as usize)];
        if ipv6 > ipv4 {
            self.let_first_go::<std::net::Ipv6Addr>(&mut held, class)
        } else {
            self.let_first_go::<std::net::Ipv4Addr>(&mut held, class)
        }
    }

    fn let_first_go<A: Family>(&mut self, held: &mut Held<'_>, class: Class) -> bool {
        let Some(mut chosen) = A::table(held.shard).first_in_line(class as usize) else { return false };
        if class.is_used() {
            for _ in 0..LOOK {
                let table = A::table(held.shard);
                let Some(next) = table.first_in_line(class as usize) else { break };
                let idle = |slot| table.get(slot).map(|entry| entry.connection.last_seen.elapsed(self.now));
                if idle(next) > idle(chosen) {
                    chosen = next;
                }
                // Behind all others, so that the next look is at the next ones.
                table.step_out(next, class as usize);
                table.line_up(next, class as usize);
            }
        }
        self.end::<A>(held, chosen, false, CloseReason::TableFull, false);
        true
    }
}
