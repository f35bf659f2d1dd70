//! A packet without a connection: the rules, the limits, pickup.

use parking_lot::Mutex;

use super::{
    CloseReason, DropReason, Event, Verdict,
    context::{ANNOUNCED, Context, Eviction, Held, hook_of, path_of, tag_of},
    cookies::{BEHIND, Behind, EARLY},
    fast_open::{Passage, passage},
    judge::{Arrival, Content, Met},
    ruling::Pickup,
    shard::{Family, Shard},
    stats::add,
};
use crate::{
    conntrack::{
        Connection, Direction, Embryonic, Flow, Key, Phase, Slot, Timer, Whole,
        embryonic::{MAX_SCOPES, Reservation, Scope, Whereabouts},
        key::Sender,
        tcp::{self, Kind},
        window::StaleSyn,
    },
    policy::{Action, Hook, Limit, OnExcess, PickupMode, RuleId, limits::ResolvedLimits},
    wire::{Protocol, Segment},
};

/// A packet without a connection.
pub(super) struct Newcomer<'p, A: Family> {
    pub(super) key: Key<A>,
    pub(super) hash: u64,
    pub(super) sender: Sender,
    pub(super) arrival: Arrival<'p>,
    /// The rule of the live connection whose helper announced this one.
    pub(super) parent_rule: Option<RuleId>,
    /// A SYN of the other end's that met the connection which this one takes the place of.
    pub(super) crossed_syn: Option<StaleSyn>,
}

/// What the limits say about one more half-open connection.
enum Admission {
    In(Reservation),
    Refused(OnExcess),
    /// There is no number left for it.
    Full,
}

impl Context<'_> {
    pub(super) fn judge_newcomer<A: Family>(
        &mut self,
        held: &mut Held<'_>,
        new: &Newcomer<'_, A>,
    ) -> Verdict {
        match new.arrival.content {
            Content::Tcp(kind, segment) => self.judge_mid_stream::<A>(held, new, kind, segment),
            Content::EchoReply => Verdict::Drop(DropReason::OutOfState),
            Content::Udp => self.judge_simple::<A>(held, new, Phase::UdpNew),
            Content::EchoRequest => self.judge_simple::<A>(held, new, Phase::Icmp),
            Content::Other => self.judge_simple::<A>(held, new, Phase::Other),
        }
    }

    /// What the rules say about this packet as a connection's first; logged if asked.
    fn decide(&mut self, arrival: &Arrival<'_>) -> (Action, RuleId) {
        let meta = arrival.meta;
        let ruling = self.ruling;
        let flow = ruling.new_flow(meta.hook, [meta.in_if, meta.out_if], &arrival.flow, arrival.icmp);
        let (action, id, rule) = ruling.decide(&flow);
        if rule.is_some_and(|rule| rule.log) {
            self.event(Event::Logged { flow: arrival.flow, rule: id, action });
        }
        (action, id)
    }

    /// What decides about a new connection: the rules, but one that a helper in the
    /// kernel announced follows its parent's.
    fn decide_newcomer<A: Family>(&mut self, new: &Newcomer<'_, A>) -> (Action, RuleId) {
        let Some(id) = new.parent_rule else { return self.decide(&new.arrival) };
        if self.ruling.policy.rule(id).is_some_and(|rule| rule.log) {
            self.event(Event::Logged { flow: new.arrival.flow, rule: id, action: Action::Accept });
        }
        (Action::Accept, id)
    }

    /// A packet that is judged by itself: ICMP that is neither echo nor error.
    pub(super) fn judge_untracked(&mut self, arrival: &Arrival<'_>) -> Verdict {
        match self.decide(arrival).0 {
            Action::Accept => Verdict::Accept,
            Action::Drop | Action::Reset => Verdict::Drop(DropReason::Rule),
        }
    }

    /// A SYN without a connection. The rules and limits are asked while no shard is
    /// held, because whoever must make room may lie in any.
    pub(super) fn judge_syn<A: Family>(
        &mut self,
        (number, mutex): (u16, &Mutex<Shard>),
        new: &Newcomer<'_, A>,
        segment: &Segment,
    ) -> Verdict {
        let (action, rule) = self.decide_newcomer(new);
        if action != Action::Accept {
            self.event_of_refusal(&new.arrival.flow);
        }
        match action {
            Action::Accept => {}
            Action::Drop => return Verdict::Drop(DropReason::Rule),
            Action::Reset => return self.refuse(&new.arrival, DropReason::Rule),
        }
        let (passage, other) = passage(|| self.ruling.fast_open(rule), Kind::Syn, segment);
        let segment = other.as_ref().unwrap_or(segment);
        if passage == Passage::Denied {
            return Verdict::Drop(DropReason::FastOpen);
        }
        match self.refuses_open(&new.arrival, rule) {
            None => {}
            Some(OnExcess::Reset) => return self.refuse(&new.arrival, DropReason::Limit),
            Some(_) => return Verdict::Drop(DropReason::Limit),
        }
        let reservation = match self.admit(&new.arrival, rule) {
            Admission::In(reservation) => reservation,
            Admission::Full => return Verdict::Drop(DropReason::TableFull),
            Admission::Refused(OnExcess::Reset) => return self.refuse(&new.arrival, DropReason::Limit),
            Admission::Refused(OnExcess::Challenge) => return self.challenge(&new.arrival, segment),
            Admission::Refused(OnExcess::Drop | OnExcess::Evict | OnExcess::Syncookies) => {
                return Verdict::Drop(DropReason::Limit);
            }
        };
        self.carry_out_evictions();
        if !self.has_room() {
            self.make_room(number, 1, false);
        }
        let mut connection = Whole::from(tcp::open(segment, new.sender, self.now));
        connection.rare.stale_syn = new.crossed_syn;
        if self.ruling.pickup_mode(rule) == PickupMode::Loose {
            tcp::expect_one_way(&mut connection, Direction::Original);
        }
        self.stamp(&mut connection, &new.arrival, rule);
        mark_announced(&mut connection, new);
        if self.out.opening {
            connection.add_tag(BEHIND);
        }
        connection.live().count(Direction::Original, new.arrival.len, self.now);
        let mut shard = self.stats.locked(mutex);
        let mut held = Held { shard: &mut shard, number };
        if let Some(slot) = A::table(held.shard).find(&new.key, new.hash) {
            // Another worker was faster with the same SYN.
            self.stats.locked(&self.engine.embryonic).cancel(reservation);
            let met = Met { slot, key: &new.key, sender: new.sender, arrival: &new.arrival };
            let verdict = self.judge_known(&mut held, &met);
            return verdict.unwrap_or(Verdict::Drop(DropReason::Unexpected));
        }
        let Some(slot) = self.enter(&mut held, &new.key, new.hash, connection) else {
            self.stats.locked(&self.engine.embryonic).cancel(reservation);
            return Verdict::Drop(DropReason::TableFull);
        };
        if self.out.opening {
            held.shard.put_behind::<A>(slot, Behind::at(segment));
        }
        self.opened(&connection, new.arrival.flow);
        let at = Whereabouts { shard: number, ipv6: A::IPV6, slot };
        let embryo = self.stats.locked(&self.engine.embryonic).settle(reservation, at);
        if let Some(mut connection) = A::table(held.shard).live(slot) {
            connection.rare_mut().embryo = embryo;
        }
        if embryo.is_none() {
            // A later SYN took its place before it had one.
            held.shard.uncounted = held.shard.uncounted.saturating_add(1);
            self.end::<A>(&mut held, slot, false, CloseReason::Evicted(Limit::Total), true);
            return Verdict::Drop(DropReason::Limit);
        }
        self.out.strip = passage == Passage::Bare;
        Verdict::Accept
    }

    fn judge_simple<A: Family>(
        &mut self,
        held: &mut Held<'_>,
        new: &Newcomer<'_, A>,
        phase: Phase,
    ) -> Verdict {
        let (action, rule) = self.decide_newcomer(new);
        match action {
            Action::Accept => {}
            Action::Drop => return Verdict::Drop(DropReason::Rule),
            Action::Reset => return self.refuse(&new.arrival, DropReason::Rule),
        }
        let mut connection = Whole::from(Connection::new(phase, new.sender, self.now));
        self.stamp(&mut connection, &new.arrival, rule);
        mark_announced(&mut connection, new);
        connection.live().count(Direction::Original, new.arrival.len, self.now);
        self.insert(held, new, connection)
    }

    /// A TCP segment that opens nothing: picked up, answered with RST, or met with
    /// silence (docs/CONNTRACK.md).
    fn judge_mid_stream<A: Family>(
        &mut self,
        held: &mut Held<'_>,
        new: &Newcomer<'_, A>,
        kind: Kind,
        segment: &Segment,
    ) -> Verdict {
        let meta = new.arrival.meta;
        if kind == Kind::Rst && self.takes_proof(&new.arrival.flow, segment) {
            return Verdict::Drop(DropReason::ChallengeAnswer);
        }
        // The gateway's own kernel refuses what it does not know.
        if kind == Kind::Rst && meta.hook == Hook::Output {
            return Verdict::Accept;
        }
        if kind == Kind::SynAck
            && self.has_room()
            && let Some(pickup) = self.ruling.pickup_of_answer(meta, &new.arrival.flow)
            && pickup.mode == PickupMode::Loose
        {
            let connection = tcp::pick_up_answer(segment, opposite(new.sender), self.now);
            return self.insert_answered(held, new, connection.into(), &pickup);
        }
        let Some(pickup) = self.pickup_of(&new.arrival) else {
            return Verdict::Drop(DropReason::OutOfState);
        };
        let in_grace = self.now < self.engine.grace_until(self.ruling.policy.settings.pickup.grace);
        let kernel_knows = meta.kernel_knows && !held.shard.ended_lately(new.hash, self.now);
        let may = kernel_knows || in_grace || pickup.mode == PickupMode::Loose;
        if may && matches!(kind, Kind::Ack | Kind::Fin) {
            let (direction, opener) = if pickup.reversed {
                (Direction::Reply, opposite(new.sender))
            } else {
                (Direction::Original, new.sender)
            };
            let Some(segment) = self.read_behind(&new.arrival, segment) else {
                return Verdict::Drop(DropReason::OutOfState);
            };
            let mut connection = tcp::pick_up(&segment, direction, opener, self.now);
            if pickup.mode == PickupMode::Loose && !kernel_knows {
                tcp::expect_one_way(&mut connection, direction);
            }
            self.stamp_met(&mut connection, new, direction, &pickup);
            let verdict = self.insert(held, new, connection);
            self.note_behind(held, &new.key, new.hash);
            return verdict;
        }
        if kind == Kind::Rst {
            return Verdict::Drop(DropReason::OutOfState);
        }
        self.refuse(&new.arrival, DropReason::OutOfState)
    }

    /// Notes what let in a connection that was met by this packet.
    fn stamp_met<A: Family>(
        &self,
        connection: &mut Whole,
        new: &Newcomer<'_, A>,
        direction: Direction,
        pickup: &Pickup,
    ) {
        self.stamp_way(connection, pickup);
        connection.live().count(direction, new.arrival.len, self.now);
    }

    fn stamp_way(&self, connection: &mut Whole, way: &Pickup) {
        connection.rule = way.rule.0;
        connection.epoch = self.ruling.live.epoch;
        connection.set_tag(tag_of(way.hook));
        connection.set_interfaces(way.path.map(|interface| interface.0));
    }

    /// A connection whose first packet here is its SYN-ACK: half-open like any other.
    pub(super) fn insert_answered<A: Family>(
        &mut self,
        held: &mut Held<'_>,
        new: &Newcomer<'_, A>,
        mut connection: Whole,
        pickup: &Pickup,
    ) -> Verdict {
        self.stamp_met(&mut connection, new, Direction::Reply, pickup);
        self.insert_half_open(held, &new.key, new.hash, connection)
    }

    fn insert_half_open<A: Family>(
        &mut self,
        held: &mut Held<'_>,
        key: &Key<A>,
        hash: u64,
        connection: Whole,
    ) -> Verdict {
        let Some(slot) = self.enter(held, key, hash, connection) else {
            return Verdict::Drop(DropReason::TableFull);
        };
        if !self.count_half_open::<A>(held, slot, key) {
            self.stand::<A>(held, slot, Some(connection.phase), None);
            A::table(held.shard).remove(slot, &self.engine.secret);
            self.engine.connection_closed();
            return Verdict::Drop(DropReason::Limit);
        }
        self.opened(&connection, key.flow(connection.opener()));
        Verdict::Accept
    }

    /// TIME-WAIT has ended just after a SYN met it that passed as stale, and whose answer
    /// may still be under way: that SYN opens a connection of its own, if the rules and
    /// limits let it in. Its timer counts from the SYN. (Out of another phase the ends may
    /// still live, and must get their RSTs.)
    pub(super) fn take_up_syn<A: Family>(&mut self, held: &mut Held<'_>, key: &Key<A>, last: &Whole) {
        let waited = last.phase == Phase::TimeWait && !tcp::is_one_way(last);
        let Some(syn) = last.rare.stale_syn.filter(|_| waited) else { return };
        let (hook, path) = (hook_of(last.tag()), path_of(last));
        let opener = if syn.from == Direction::Original { last.opener() } else { opposite(last.opener()) };
        let Some(way) = self.ruling.way_of(syn.from, hook, path, &key.flow(last.opener())) else { return };
        let (most, _) = self.ruling.value(way.rule, Timer::SynSent, self.ruling.live.epoch);
        if most.is_some_and(|most| last.last_seen.elapsed(self.now) >= most) || !self.has_room() {
            return;
        }
        let mut connection = Whole::from(tcp::open_late(&syn, opener, last.last_seen, self.now));
        if way.mode == PickupMode::Loose {
            tcp::expect_one_way(&mut connection, Direction::Original);
        }
        self.stamp_way(&mut connection, &way);
        self.insert_half_open(held, key, key.hash(&self.engine.secret), connection);
    }

    fn stamp(&self, connection: &mut Whole, arrival: &Arrival<'_>, rule: RuleId) {
        connection.rule = rule.0;
        connection.epoch = self.ruling.live.epoch;
        connection.set_tag(tag_of(arrival.meta.hook));
        connection.set_interfaces([arrival.meta.in_if.0, arrival.meta.out_if.0]);
    }

    fn insert<A: Family>(
        &mut self,
        held: &mut Held<'_>,
        new: &Newcomer<'_, A>,
        connection: Whole,
    ) -> Verdict {
        if self.enter(held, &new.key, new.hash, connection).is_none() {
            return Verdict::Drop(DropReason::TableFull);
        }
        self.opened(&connection, new.key.flow(connection.opener()));
        Verdict::Accept
    }

    /// Puts a connection into the table, if there is room.
    fn enter<A: Family>(
        &mut self,
        held: &mut Held<'_>,
        key: &Key<A>,
        hash: u64,
        connection: Whole,
    ) -> Option<Slot> {
        if !self.engine.claim_place(self.ruling.policy.settings.max_connections) {
            return None;
        }
        let look_at = self.look_at(&connection);
        let slot = A::table(held.shard).insert(*key, hash, connection, look_at);
        match slot {
            Some(slot) => self.stand::<A>(held, slot, None, Some(connection.phase)),
            None => self.engine.connection_closed(),
        }
        slot
    }

    fn opened(&mut self, connection: &Connection, flow: Flow) {
        add(&self.stats.opened, 1);
        if connection.phase.is_embryonic() {
            add(&self.stats.begun, 1);
        }
        self.event(Event::Opened { flow, rule: RuleId(connection.rule) });
    }

    /// Asks every limit that holds for one more half-open connection, and counts it.
    fn admit(&mut self, arrival: &Arrival<'_>, rule: RuleId) -> Admission {
        let mut tracker = self.stats.locked(&self.engine.embryonic);
        let mut evict: [Option<(Scope, Limit, u32)>; MAX_SCOPES] = [None; MAX_SCOPES];
        for (place, (group, limits, limit)) in evict.iter_mut().zip(self.limits_of(rule)) {
            let scope = self.scope_of(limit, group, &arrival.flow);
            let Some(most) = limits.limit(limit).value else { continue };
            let count = tracker.count(&scope);
            if count < most {
                let likely = self.engine.cookieing.with_those_who_wait(count, tracker.len());
                if likely > most / EARLY && !limits.shadow {
                    self.ask_for_cookies(arrival, rule, (group, limit), &limits, None);
                }
                continue;
            }
            let answer = self.answer_to(arrival, limit, &limits, || tracker.most_are_spared(&scope));
            let shadow = limits.shadow;
            self.passed_limit(&arrival.flow, rule, (group, limit), answer, shadow);
            if !shadow {
                self.ask_for_cookies(arrival, rule, (group, limit), &limits, Some(answer));
            }
            match (!shadow).then_some(answer) {
                None => {}
                // A limit of zero has nobody to evict.
                Some(OnExcess::Evict) if most > 0 => *place = Some((scope, limit, most)),
                Some(refused) => return Admission::Refused(refused),
            }
        }
        for (scope, limit, most) in evict.into_iter().flatten() {
            // Two for one, so that a limit that was lowered is reached, and no SYN
            // has to do the work of many. What one scope evicts may serve another.
            for _ in 0..2 {
                if tracker.count(&scope) < most {
                    break;
                }
                let Some(gone) = tracker.evict(&scope) else { break };
                let reason = CloseReason::Evicted(limit);
                self.out.evictions.extend(gone.map(|(id, at)| Eviction { at, id, reason }));
            }
        }
        let Some(reservation) = self.reserve(&mut tracker, rule, &arrival.flow) else {
            return Admission::Full;
        };
        if self.out.opening || (self.ruling.challenges && self.is_proven(arrival.flow.src)) {
            tracker.spare(&reservation);
        }
        Admission::In(reservation)
    }

    /// Counts and tells that a limit was passed, in shadow too.
    pub(super) fn passed_limit(
        &mut self,
        flow: &Flow,
        rule: RuleId,
        (group, limit): (u16, Limit),
        answer: OnExcess,
        shadow: bool,
    ) {
        self.engine.passed.count(group, limit, shadow);
        let of_rule = (group != 0).then_some(rule);
        self.event(Event::LimitPassed { flow: *flow, rule, limit, of_rule, answer, shadow });
    }

    /// Counts a connection that is half-open again. `false`: a limit has no room for
    /// it; nobody is evicted for a SYN-ACK.
    pub(super) fn count_half_open<A: Family>(
        &mut self,
        held: &mut Held<'_>,
        slot: Slot,
        key: &Key<A>,
    ) -> bool {
        let Some(mut connection) = A::table(held.shard).live(slot) else { return false };
        if connection.rare().embryo.is_some() {
            return true;
        }
        let at = Whereabouts { shard: held.number, ipv6: A::IPV6, slot };
        let (flow, rule) = (key.flow(connection.opener()), RuleId(connection.rule));
        let mut tracker = self.stats.locked(&self.engine.embryonic);
        for (group, limits, limit) in self.limits_of(rule) {
            let most = limits.limit(limit).value;
            if most.is_some_and(|most| tracker.count(&self.scope_of(limit, group, &flow)) >= most) {
                self.passed_limit(&flow, rule, (group, limit), OnExcess::Drop, limits.shadow);
                if !limits.shadow {
                    return false;
                }
            }
        }
        let reservation = self.reserve(&mut tracker, rule, &flow);
        connection.rare_mut().embryo = reservation.and_then(|reservation| tracker.settle(reservation, at));
        connection.rare().embryo.is_some()
    }

    /// Counts a half-open connection under the rule that it has now.
    pub(super) fn count_again<A: Family>(&self, held: &mut Held<'_>, slot: Slot) {
        if A::table(held.shard).whole(slot).is_none_or(|connection| connection.rare.embryo.is_none()) {
            return;
        }
        self.release_embryo::<A>(held, slot);
        let Some(key) = A::table(held.shard).get(slot).map(|entry| entry.key) else { return };
        let Some(mut connection) = A::table(held.shard).live(slot) else { return };
        let (flow, rule) = (key.flow(connection.opener()), RuleId(connection.rule));
        let at = Whereabouts { shard: held.number, ipv6: A::IPV6, slot };
        let mut tracker = self.stats.locked(&self.engine.embryonic);
        let reservation = self.reserve(&mut tracker, rule, &flow);
        connection.rare_mut().embryo = reservation.and_then(|reservation| tracker.settle(reservation, at));
    }

    /// Every limit of half-open connections that holds for one of a rule: the rule's own in
    /// its group, then the rule set's.
    fn limits_of(&self, rule: RuleId) -> impl Iterator<Item = (u16, ResolvedLimits, Limit)> + use<> {
        let own = self.ruling.limits.of_rule(rule).map(|limits| (rule.0, limits));
        let all = [own, Some((0, self.ruling.limits.global()))];
        all.into_iter()
            .flatten()
            .flat_map(|(group, limits)| Limit::EMBRYONIC.map(|limit| (group, limits, limit)))
    }

    /// Counts one more half-open connection of a rule, also where no limit is set, so
    /// that one set live finds true numbers.
    fn reserve(&self, tracker: &mut Embryonic, rule: RuleId, flow: &Flow) -> Option<Reservation> {
        let mut scopes = [Scope::Total { group: 0 }; MAX_SCOPES];
        let groups = if rule == RuleId::DEFAULT { &[0][..] } else { &[0, rule.0][..] };
        let wanted =
            groups.iter().flat_map(|&group| Limit::EMBRYONIC.map(|limit| self.scope_of(limit, group, flow)));
        let mut count = 0_usize;
        for (place, scope) in scopes.iter_mut().zip(wanted) {
            *place = scope;
            count = count.saturating_add(1);
        }
        tracker.reserve(scopes.get(..count).unwrap_or(&scopes))
    }

    pub(super) fn scope_of(&self, limit: Limit, group: u16, flow: &Flow) -> Scope {
        match limit {
            Limit::Total | Limit::OpenTotal => Scope::Total { group },
            Limit::PerSource | Limit::OpenPerSource => {
                Scope::source(group, flow.src, self.ruling.limits.source_prefix(RuleId(group)))
            }
            Limit::PerDestination | Limit::OpenPerDestination => {
                Scope::Destination { group, address: flow.dst, port: flow.dst_port }
            }
        }
    }

    /// Drops a packet and has its sender told: TCP by the RST that RFC 9293 §3.10.7.1
    /// gives it, the rest by ICMP administratively prohibited (RFC 1812 §5.2.7.1).
    pub(super) fn refuse(&self, arrival: &Arrival<'_>, reason: DropReason) -> Verdict {
        // Nothing is said about ICMP (RFC 1122 §3.2.2).
        let is_icmp = matches!(arrival.flow.protocol, Protocol::ICMP | Protocol::ICMPV6);
        if is_icmp || !self.may_send() { Verdict::Drop(reason) } else { Verdict::Reset(reason) }
    }
}

fn mark_announced<A: Family>(connection: &mut Connection, new: &Newcomer<'_, A>) {
    if new.parent_rule.is_some() {
        connection.add_tag(ANNOUNCED);
    }
}

pub(super) const fn opposite(sender: Sender) -> Sender {
    match sender {
        Sender::Low => Sender::High,
        Sender::High => Sender::Low,
    }
}
