//! What handling one packet, or one round of timeouts, works with.

use std::collections::VecDeque;

use super::{
    Block, CloseReason, Closed, Counts, Engine, Event, IfIndex, Peer, Ride, Shield, Shift, Transmit,
    cookies::{Asked, BEHIND, Behind},
    open::COUNTED,
    ruling::{Ruling, Shrink},
    shard::{Family, Shard},
    stats::{Stats, add},
    unreachable::is_uncounted,
};
use crate::{
    conntrack::{
        Connection, Deadline, Direction, Flow, Instant, Key, Phase, Slot, Standing, Tally, Timer, Whole,
        connection::TAGS,
        embryonic::{EmbryoId, Whereabouts},
        tcp,
        window::{Half, Seen},
    },
    policy::{Hook, Limit, OnExpire, RuleId},
    wire::{FourTuple, Protocol, SeqNum},
};

/// Events that may wait to be polled; more are counted as lost.
pub(super) const MAX_EVENTS: usize = 16_384;

/// Connections that the kernel has to forget which may wait to be polled, with whatever
/// else does; more are counted as lost. RSTs and keepalives have a budget of their own.
pub(super) const MAX_TRANSMITS: usize = 1 << 17;

/// What a worker has to hand out.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    pub(super) events: VecDeque<Event>,
    pub(super) transmits: VecDeque<Transmit>,
    /// Half-open connections that have to make room; they may lie in any shard.
    pub(super) evictions: Vec<Eviction>,
    /// The limit that the handshake which the packet at hand completes passes.
    pub(super) too_many: Option<Limit>,
    /// Sources that the kernel should block.
    pub(super) blocks: Vec<Block>,
    /// A handshake completed in this shard while room was scarce.
    pub(super) room_for: Option<u16>,
    /// The packet at hand goes on without its Fast Open.
    pub(super) strip: bool,
    /// What becomes of the way of the connection of the packet at hand.
    pub(super) ride: Option<Ride>,
    /// The packet at hand proves that its source is there.
    pub(super) proof: bool,
    /// Set where the kernel has translated where the packet at hand goes. In it, if that
    /// is a SYN to be challenged: its addresses, and the cookie.
    pub(super) translated: Option<Option<(FourTuple, SeqNum)>>,
    /// The packet at hand is a SYN that the kernel sends, behind a cookie.
    pub(super) opening: bool,
    /// The numbers of the packet at hand are read as those of the ends themselves.
    pub(super) is_read: bool,
    /// The packet at hand belongs to a connection behind a cookie. In it, if it is known,
    /// how the kernel translates its numbers.
    pub(super) behind: Option<Option<Shift>>,
    /// Of this connection that must be known before the packet at hand can be judged.
    pub(super) wants_numbers: Option<Flow>,
    /// Destinations whose SYNs the kernel should answer.
    pub(super) shields: Vec<Shield>,
    /// Those that were asked for lately.
    pub(super) asked: Asked,
    refusals: Refusals,
}

/// How many refused SYNs were told of in the second at hand.
#[derive(Clone, Copy, Debug, Default)]
struct Refusals {
    second: u64,
    told: u16,
}

/// Refused SYNs that are told of in a second, by each worker: enough to see a scan, and
/// a flood costs no more.
const REFUSALS_TOLD: u16 = 256;

/// A half-open connection that has to make room.
#[derive(Clone, Copy, Debug)]
pub(super) struct Eviction {
    pub(super) at: Whereabouts,
    pub(super) id: EmbryoId,
    pub(super) reason: CloseReason,
}

/// A shard held by its lock, with its number.
pub(super) struct Held<'s> {
    pub(super) shard: &'s mut Shard,
    pub(super) number: u16,
}

/// One packet's, or one round's, surroundings.
pub(super) struct Context<'a> {
    pub(super) engine: &'a Engine,
    pub(super) ruling: &'a Ruling,
    pub(super) stats: &'a Stats,
    pub(super) out: &'a mut Outbox,
    pub(super) shrink: Shrink,
    pub(super) now: Instant,
}

/// The hook of a connection's first packet, in its tag.
pub(super) const fn tag_of(hook: Hook) -> u8 {
    hook as u8
}

const _: () = assert!(0b11 & TAGS == 0b11 && (ANNOUNCED | BEHIND | COUNTED[0] | COUNTED[1]) & !TAGS == 0);

/// In its tag: a helper in the kernel announced it, and it has its parent's rule.
pub(super) const ANNOUNCED: u8 = 1 << 7;

pub(super) const fn hook_of(tag: u8) -> Hook {
    match tag & 0b11 {
        1 => Hook::Input,
        2 => Hook::Output,
        _ => Hook::Forward,
    }
}

/// Where a connection came in and goes out.
pub(super) fn path_of(connection: &Whole) -> [IfIndex; 2] {
    connection.interfaces().map(IfIndex)
}

/// What passed in the original direction and in the other.
pub(super) fn tallies_of(connection: &Whole) -> [Counts; 2] {
    let counts = |tally: Tally| Counts { packets: u64::from(tally.packets), bytes: tally.bytes };
    [Direction::Original, Direction::Reply].map(|direction| counts(connection.tally(direction)))
}

impl Context<'_> {
    pub(super) fn event(&mut self, event: Event) {
        if self.out.events.len() < MAX_EVENTS {
            self.out.events.push_back(event);
        } else {
            add(&self.stats.events_lost, 1);
        }
    }

    /// Tells of a SYN that a rule refused, unless many were told of lately.
    pub(super) fn event_of_refusal(&mut self, flow: &Flow) {
        let second = self.now.0 >> 10;
        let refusals = &mut self.out.refusals;
        if refusals.second != second {
            *refusals = Refusals { second, told: 0 };
        }
        if refusals.told < REFUSALS_TOLD {
            refusals.told = refusals.told.saturating_add(1);
            self.event(Event::Refused { flow: *flow });
        }
    }

    pub(super) fn deadline(&self, connection: &Whole) -> Deadline {
        self.ruling.deadline(connection, self.shrink, self.now)
    }

    /// When a connection must be looked at.
    pub(super) fn look_at(&self, connection: &Whole) -> Instant {
        self.ruling.look_at(connection, self.deadline(connection), self.shrink, self.now)
    }

    /// Whether one more RST (or ICMP error) may be sent; counts those kept back.
    pub(super) fn may_send(&self) -> bool {
        let per_second = self.ruling.policy.settings.rst_per_second;
        let may = self.engine.budget.take(per_second, self.now);
        if !may {
            add(&self.stats.rst_suppressed, 1);
        }
        may
    }

    /// Gives the counts of a connection that is no longer half-open back.
    pub(super) fn release_embryo<A: Family>(&self, held: &mut Held<'_>, slot: Slot) {
        let id =
            A::table(held.shard).live(slot).and_then(|mut connection| connection.rare_mut().embryo.take());
        if let Some(id) = id {
            let at = Whereabouts { shard: held.number, ipv6: A::IPV6, slot };
            self.stats.locked(&self.engine.embryonic).release(id, at);
        }
    }

    /// Why a connection ends whose timer fired.
    pub(super) fn expired(&self, connection: &Connection, timer: Timer) -> CloseReason {
        let (value, origin) = self.ruling.value(RuleId(connection.rule), timer, connection.epoch);
        CloseReason::Expired { timer, after: value.unwrap_or_default(), origin }
    }

    /// Ends a connection: out of the table, counts given back, RSTs and events made.
    /// `popped`: it was taken off the wheel before.
    pub(super) fn end<A: Family>(
        &mut self,
        held: &mut Held<'_>,
        slot: Slot,
        popped: bool,
        reason: CloseReason,
        silent: bool,
    ) {
        let Some(connection) = A::table(held.shard).whole(slot) else { return };
        let tallies = tallies_of(&connection);
        if !silent && self.must_stay(&connection, reason) {
            self.end_unseen::<A>(held, slot, popped, reason);
            return;
        }
        if is_uncounted(connection.phase, &connection.rare) {
            held.shard.uncounted = held.shard.uncounted.saturating_sub(1);
        }
        self.release_embryo::<A>(held, slot);
        let secret = &self.engine.secret;
        let phase = A::table(held.shard).get(slot).map(|entry| entry.connection.phase);
        if !connection.fast.is_ended() {
            self.stand::<A>(held, slot, phase, None);
        }
        let table = A::table(held.shard);
        let entry = if popped { table.end(slot, secret) } else { table.remove(slot, secret) };
        let Some(entry) = entry else { return };
        let connection = entry.connection;
        let flow = entry.key.flow(connection.opener());
        if connection.fast.is_ended() {
            // Everything was said when it was ended; its ends know by now.
            if reason != CloseReason::Replaced {
                held.shard.remember_ended(entry.key.hash(secret), self.now);
                self.out.transmits.push_back(Transmit::Forget { flow });
            }
            return;
        }
        self.engine.connection_closed();
        held.shard.count_stale(connection.forgotten_by().is_some(), false);
        held.shard.count_riding(connection.fast.rides(), false);
        if reason == CloseReason::TableFull {
            self.stats.count_evicted(connection.phase);
        }
        let is_behind = connection.tag() & BEHIND != 0;
        let behind = if is_behind { held.shard.take_behind::<A>(slot) } else { None };
        if !silent {
            self.tell_ends(&flow, &connection, behind.as_ref(), reason);
        }
        if kernel_must_forget(&connection, reason) {
            held.shard.remember_ended(entry.key.hash(secret), self.now);
            self.transmit_if_room(Transmit::Forget { flow });
        } else if connection.fast.rides() {
            self.transmit_if_room(Transmit::Release { flow });
        }
        self.tell_closed(flow, &connection, tallies, final_reason(&connection, reason));
    }

    /// Tells, and counts, why a connection has ended.
    pub(super) fn tell_closed(
        &mut self,
        flow: Flow,
        connection: &Connection,
        [original, reply]: [Counts; 2],
        reason: CloseReason,
    ) {
        add(&self.stats.closed, 1);
        if matches!(reason, CloseReason::Forgotten(_)) {
            add(&self.stats.forgotten, 1);
        }
        let (rule, phase, age) = (RuleId(connection.rule), connection.phase, connection.age(self.now));
        self.event(Event::Closed(Closed { flow, rule, phase, reason, age, original, reply }));
    }

    /// A connection's entry has gone on with a new handshake of its ends, in `syn_received`.
    pub(super) fn after_renewal<A: Family>(
        &mut self,
        held: &mut Held<'_>,
        slot: Slot,
        key: &Key<A>,
        old: &Whole,
    ) {
        let flow = key.flow(old.opener());
        let forgotten = old.forgotten_by().map(|end| CloseReason::Forgotten(Peer::sending(end)));
        self.tell_closed(flow, old, tallies_of(old), forgotten.unwrap_or(CloseReason::Replaced));
        add(&self.stats.opened, 1);
        self.event(Event::Opened { flow, rule: RuleId(old.rule) });
        let Some(new) = A::table(held.shard).whole(slot) else { return };
        self.keep_books(held, slot, key, &new, old.standing());
    }

    /// Sends the RSTs that a connection's end asks for.
    fn tell_ends(
        &mut self,
        flow: &Flow,
        connection: &Connection,
        behind: Option<&Behind>,
        reason: CloseReason,
    ) {
        if flow.protocol != Protocol::TCP || matches!(connection.phase, Phase::TimeWait | Phase::Reset) {
            return;
        }
        let (client, server) = match reason {
            CloseReason::Expired { .. } => match connection.phase {
                // Nobody knows whether an opener that is never seen has answered: if so, what
                // its peer says next is picked up.
                Phase::SynReceived => (false, !tcp::is_one_way(connection)),
                Phase::Established | Phase::HalfClosed => {
                    let reset = self.ruling.on_expire(RuleId(connection.rule)) != OnExpire::Drop;
                    (reset, reset)
                }
                Phase::SynSent
                | Phase::FinWait
                | Phase::Closing
                | Phase::TimeWait
                | Phase::Reset
                | Phase::UdpNew
                | Phase::UdpStream
                | Phase::Icmp
                | Phase::Other => (false, false),
            },
            // Also to an end that was silent: it may hear, and only its answer be lost.
            CloseReason::Killed
            | CloseReason::Rejudged
            | CloseReason::TooMany(_)
            | CloseReason::Unanswered { .. } => (true, true),
            CloseReason::Evicted(_) => (false, true),
            CloseReason::TableFull => match connection.phase {
                Phase::SynSent | Phase::SynReceived => (false, true),
                Phase::Established | Phase::FinWait | Phase::HalfClosed => (true, true),
                // Both have said all that they had to say.
                Phase::Closing
                | Phase::TimeWait
                | Phase::Reset
                | Phase::UdpNew
                | Phase::UdpStream
                | Phase::Icmp
                | Phase::Other => (false, false),
            },
            CloseReason::Rst(_)
            | CloseReason::Forgotten(_)
            | CloseReason::Finished
            | CloseReason::Replaced => (false, false),
        };
        match behind {
            // Whose server never answers believes to be connected all the same.
            Some(behind) if client || connection.phase == Phase::SynSent => {
                self.reset_client_behind(flow, connection, behind, hook_of(connection.tag()));
            }
            None if client => self.reset_toward(Direction::Reply, flow, connection),
            Some(_) | None => {}
        }
        if server {
            self.reset_toward(Direction::Original, flow, connection);
        }
    }

    /// RSTs in one direction, with the numbers that the receiver may expect: what
    /// it has acknowledged, and the highest that its peer has sent. They differ
    /// only while something is under way (RFC 5961 §3.2 wants the exact one).
    fn reset_toward(&mut self, direction: Direction, flow: &Flow, connection: &Connection) {
        let (from, to, tuple) = match direction {
            Direction::Original => (&connection.original, &connection.reply, flow.tuple()),
            Direction::Reply => (&connection.reply, &connection.original, flow.reversed().tuple()),
        };
        let hook = hook_of(connection.tag());
        if from.seen.has(Seen::SYN) {
            for seq in expected(from, to).into_iter().flatten() {
                self.transmit_reset(flow, tuple, seq, None, hook);
            }
        } else {
            // It has only sent a SYN: an RST must acknowledge it (RFC 9293 §3.10.7.3).
            self.transmit_reset(flow, tuple, SeqNum(0), Some(to.end), hook);
        }
    }

    /// What the kernel is told of a connection that has ended. A reload may end all at once.
    pub(super) fn transmit_if_room(&mut self, transmit: Transmit) {
        if self.out.transmits.len() < MAX_TRANSMITS {
            self.out.transmits.push_back(transmit);
        } else {
            add(&self.stats.forgets_lost, 1);
        }
    }

    pub(super) fn transmit_reset(
        &mut self,
        flow: &Flow,
        tuple: FourTuple,
        seq: SeqNum,
        ack: Option<SeqNum>,
        hook: Hook,
    ) {
        if self.may_send() {
            let reset = Transmit::Reset { flow: *flow, tuple, seq, ack, hook, untranslated: false };
            self.out.transmits.push_back(reset);
        }
    }

    /// Notes what a packet has changed of how a connection stands.
    pub(super) fn after_step<A: Family>(
        &mut self,
        held: &mut Held<'_>,
        slot: Slot,
        key: &Key<A>,
        standing: Standing,
    ) {
        let Some(connection) = A::table(held.shard).whole(slot) else { return };
        if connection.standing() == standing {
            return;
        }
        self.keep_books(held, slot, key, &connection, standing);
        let (flow, forgotten) = (key.flow(connection.opener()), connection.forgotten_by());
        if forgotten != standing.forgotten_by() {
            self.event(Event::Stale { flow, by: forgotten.map(Peer::sending) });
        }
        let (from, to) = (standing.phase, connection.phase);
        if to != from {
            let (rule, path) = (RuleId(connection.rule), path_of(&connection));
            self.event(Event::Phase { flow, rule, path, from, to });
        }
    }

    /// What is counted and waited for after a step that was taken in this standing.
    fn keep_books<A: Family>(
        &mut self,
        held: &mut Held<'_>,
        slot: Slot,
        key: &Key<A>,
        connection: &Whole,
        standing: Standing,
    ) {
        let (before, phase) = (standing.phase, connection.phase);
        held.shard.count_stale(standing.forgotten_by().is_some(), connection.forgotten_by().is_some());
        let look_at = self.look_at(connection);
        if phase != before {
            let flow = key.flow(connection.opener());
            self.note_handshake(&flow, connection, before);
            if before == Phase::Established {
                self.note_length(&flow, connection.packets());
            }
            self.stand::<A>(held, slot, Some(before), Some(phase));
            if before.is_embryonic() && !phase.is_embryonic() {
                if connection.rare.embryo.is_none() {
                    held.shard.uncounted = held.shard.uncounted.saturating_sub(1);
                }
                self.release_embryo::<A>(held, slot);
                if phase == Phase::Established && self.has_evictable() {
                    self.out.room_for = Some(held.number);
                }
            }
            match (before.is_embryonic(), phase.is_embryonic()) {
                (true, false) if phase != Phase::Reset => add(&self.stats.completed, 1),
                (false, true) => add(&self.stats.begun, 1),
                (true | false, true | false) => {}
            }
        }
        A::table(held.shard).hasten(slot, look_at);
    }
}

/// The sequence numbers that the receiver of `from`'s segments may expect next.
pub(super) fn expected(from: &Half, to: &Half) -> [Option<SeqNum>; 2] {
    let acked = (to.seen.has(Seen::ACK) && to.ack != from.end).then_some(to.ack);
    [acked, Some(from.end)]
}

/// What ended a connection that first stayed in `reset` or `time_wait` is not that
/// phase's timer.
fn final_reason(connection: &Connection, reason: CloseReason) -> CloseReason {
    match (connection.phase, reason) {
        (Phase::TimeWait, CloseReason::Expired { .. }) => CloseReason::Finished,
        (Phase::Reset, CloseReason::Expired { .. } | CloseReason::Replaced)
            if connection.forgotten_by().is_some() =>
        {
            CloseReason::Forgotten(who_reset(connection))
        }
        (Phase::Reset, CloseReason::Expired { .. }) => CloseReason::Rst(who_reset(connection)),
        (_, reason) => reason,
    }
}

fn who_reset(connection: &Connection) -> Peer {
    if connection.original.seen.has(Seen::RST) { Peer::Client } else { Peer::Server }
}

/// Whether the kernel would otherwise know a connection that we have ended.
fn kernel_must_forget(connection: &Connection, reason: CloseReason) -> bool {
    let over = matches!(
        connection.phase,
        Phase::TimeWait | Phase::Reset | Phase::UdpNew | Phase::UdpStream | Phase::Icmp | Phase::Other
    );
    match reason {
        CloseReason::Killed
        | CloseReason::Rejudged
        | CloseReason::Evicted(_)
        | CloseReason::TableFull
        | CloseReason::TooMany(_)
        | CloseReason::Unanswered { .. } => true,
        CloseReason::Expired { .. } => !over,
        CloseReason::Rst(_) | CloseReason::Forgotten(_) | CloseReason::Finished | CloseReason::Replaced => {
            false
        }
    }
}
