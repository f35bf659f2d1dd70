//! What is in force right now, worked out for the packet path: the rule set, the
//! resolved timers and limits, and which interface has which name.

use std::{collections::HashMap, net::IpAddr, sync::Arc, time::Duration};

use super::{IfIndex, Meta};
use crate::{
    conntrack::{Connection, Deadline, Direction, Flow, Instant, Phase, Timer, Whole, tcp},
    policy::{
        Action, FastOpen, Hook, Live, NewFlow, OnExpire, Origin, PickupMode, Policy, Probe, Rule, RuleId,
        ZoneBits, limits::LimitTable, timers::TimerTable,
    },
};

/// Table use in thousandths by which the timers are scaled: 1000 is full length.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Shrink(pub(super) u32);

impl Shrink {
    pub(super) const NONE: Self = Self(1000);

    /// Whether timers have their full length.
    pub(super) const fn is_none(self) -> bool {
        self.0 >= Self::NONE.0
    }
}

/// Everything that decides, at one moment; replaced as a whole.
#[derive(Debug)]
pub(super) struct Ruling {
    pub(super) policy: Arc<Policy>,
    pub(super) live: Live,
    pub(super) timers: TimerTable,
    pub(super) limits: LimitTable,
    /// Whether some limit may challenge.
    pub(super) challenges: bool,
    interfaces: HashMap<IfIndex, Arc<str>>,
    /// The zones of each interface by its name, in order of their numbers.
    zones: Vec<(IfIndex, ZoneBits)>,
    /// The zones of a packet's end that has no interface, or one without a name.
    zones_of_none: ZoneBits,
    /// So many connections leave the timers their full length.
    at_full_length: u32,
}

impl Ruling {
    pub(super) fn new(policy: Arc<Policy>, live: Live, interfaces: HashMap<IfIndex, Arc<str>>) -> Self {
        let timers = TimerTable::resolve(&policy, &live);
        let limits = LimitTable::resolve(&policy, &live);
        let challenges = policy.challenges();
        let mut zones: Vec<(IfIndex, ZoneBits)> =
            interfaces.iter().map(|(index, name)| (*index, policy.zones_of_interface(Some(name)))).collect();
        zones.sort_unstable_by_key(|(index, _)| index.0);
        let zones_of_none = policy.zones_of_interface(None);
        let (start, end) = shrinking(&policy);
        let at_full_length = if end <= start { u32::MAX } else { u32::try_from(start).unwrap_or(u32::MAX) };
        Self { policy, live, timers, limits, challenges, interfaces, zones, zones_of_none, at_full_length }
    }

    pub(super) fn with_policy(&self, policy: Arc<Policy>) -> Self {
        Self::new(policy, self.live.clone(), self.interfaces.clone())
    }

    pub(super) fn with_live(&self, live: Live) -> Self {
        Self::new(Arc::clone(&self.policy), live, self.interfaces.clone())
    }

    /// Interfaces that are gone keep their name, for the connections that used them.
    pub(super) fn with_interfaces(&self, now: &[(IfIndex, String)]) -> Self {
        let mut interfaces = self.interfaces.clone();
        interfaces.extend(now.iter().map(|(index, name)| (*index, Arc::from(name.as_str()))));
        Self::new(Arc::clone(&self.policy), self.live.clone(), interfaces)
    }

    fn zones(&self, interface: IfIndex, address: IpAddr) -> ZoneBits {
        let known = self.zones.binary_search_by_key(&interface.0, |(index, _)| index.0).ok();
        let by_name = known.and_then(|at| self.zones.get(at)).map_or(self.zones_of_none, |(_, bits)| *bits);
        by_name.both(self.policy.zones_of_address(address))
    }

    /// A connection's first packet as the rules see it.
    pub(super) fn new_flow(
        &self,
        hook: Hook,
        path: [IfIndex; 2],
        flow: &Flow,
        icmp: Option<(u8, u8)>,
    ) -> NewFlow {
        let [in_if, out_if] = path;
        NewFlow {
            hook,
            from_zones: self.zones(in_if, flow.src),
            to_zones: self.zones(out_if, flow.dst),
            src: flow.src,
            dst: flow.dst,
            protocol: flow.protocol,
            src_port: flow.src_port,
            dst_port: flow.dst_port,
            icmp,
        }
    }

    /// What the rules say about a new connection, and which rule it was.
    pub(super) fn decide(&self, new: &NewFlow) -> (Action, RuleId, Option<&Rule>) {
        match self.policy.first_match(new) {
            Some(rule) => (rule.action, rule.id, Some(rule)),
            None => (self.policy.settings.default, RuleId::DEFAULT, None),
        }
    }

    pub(super) fn value(&self, rule: RuleId, timer: Timer, epoch: u8) -> (Option<Duration>, Origin) {
        self.timers.value(rule, timer, epoch)
    }

    /// When a connection ends if nothing more is heard.
    pub(super) fn deadline(&self, connection: &Whole, shrink: Shrink, now: Instant) -> Deadline {
        let interval = connection.rare.asked.and_then(|_| self.probe(connection)).map(|probe| probe.interval);
        connection.deadline(now, interval, |timer| self.silence(connection, shrink, timer))
    }

    /// When a connection with this deadline must be looked at.
    pub(super) fn look_at(
        &self,
        connection: &Connection,
        deadline: Deadline,
        shrink: Shrink,
        now: Instant,
    ) -> Instant {
        connection.look_at(deadline, now, |timer| self.silence(connection, shrink, timer))
    }

    /// A timer's value for a connection, at this table use.
    pub(super) fn silence(&self, connection: &Connection, shrink: Shrink, timer: Timer) -> Option<Duration> {
        let (value, _) = self.value(RuleId(connection.rule), timer, connection.epoch);
        if shrink.is_none() || timer == Timer::Established {
            return value;
        }
        value.map(|value| value.saturating_mul(shrink.0).checked_div(1000).unwrap_or(value))
    }

    /// How a connection of this rule ends when it was idle too long.
    pub(super) fn on_expire(&self, rule: RuleId) -> OnExpire {
        let own = self.policy.rule(rule).and_then(|rule| rule.on_expire);
        own.unwrap_or(self.policy.settings.on_expire)
    }

    /// How the ends of a connection are asked when it was idle too long; `None`: they
    /// are not, or can't be. Where one end's segments take another path its answer would
    /// too, and what the other end says tells nothing of it.
    pub(super) fn probe(&self, connection: &Connection) -> Option<Probe> {
        let asks = matches!(connection.phase, Phase::Established | Phase::HalfClosed)
            && !tcp::is_one_way(connection);
        match self.on_expire(RuleId(connection.rule)) {
            OnExpire::Probe(probe) if asks && self.policy.settings.rst_per_second > 0 => Some(probe),
            OnExpire::Probe(_) | OnExpire::Reset | OnExpire::Drop => None,
        }
    }

    /// As [`Self::probe`], for a connection that one of its timers would end.
    pub(super) fn asks_first(&self, connection: &Whole, timer: Timer) -> Option<Probe> {
        // The cap holds whatever lives.
        self.probe(connection)
            .filter(|probe| timer != Timer::HalfClosedMax && connection.rare.asks < probe.retries)
    }

    /// How long a connection has at least, if nothing more is heard.
    pub(super) fn expires_in(&self, connection: &Whole, deadline: Deadline, now: Instant) -> Duration {
        let left = deadline.at.since(now);
        match self.asks_first(connection, deadline.timer) {
            Some(probe) if connection.rare.asked.is_some() || left.is_zero() => {
                let rounds = probe.retries.saturating_sub(connection.rare.asks);
                left.saturating_add(probe.interval.saturating_mul(u32::from(rounds)))
            }
            Some(_) | None => left,
        }
    }

    /// What becomes of Fast Open in connections of this rule.
    pub(super) fn fast_open(&self, rule: RuleId) -> FastOpen {
        self.policy.rule(rule).map_or(FastOpen::Allow, |rule| rule.fast_open)
    }

    /// Whether timers have their whole length at this table use.
    #[inline(always)]
    pub(super) const fn lets_timers_be(&self, connections: u32) -> bool {
        connections <= self.at_full_length
    }

    /// How much of their length timers have left at this table use.
    pub(super) fn shrink(&self, connections: u32) -> Shrink {
        if self.lets_timers_be(connections) {
            return Shrink::NONE;
        }
        let (start, end) = shrinking(&self.policy);
        let left = end.saturating_sub(connections.into()).saturating_mul(1000);
        let left = left.checked_div(end.saturating_sub(start)).unwrap_or(0);
        Shrink(u32::try_from(left).unwrap_or(Shrink::NONE.0))
    }

    /// The rule that would let this connection in, asked for one direction and then
    /// for the other, with the pickup mode that holds for it. `None`: neither.
    pub(super) fn pickup(&self, meta: &Meta, flow: &Flow) -> Option<Pickup> {
        let path = [meta.in_if, meta.out_if];
        self.way_in(false, meta.hook, path, flow).or_else(|| self.pickup_of_answer(meta, flow))
    }

    /// As [`Self::pickup`], where it is known whether the packet is its opener's.
    pub(super) fn pickup_from(&self, opener: bool, meta: &Meta, flow: &Flow) -> Option<Pickup> {
        if opener {
            self.way_in(false, meta.hook, [meta.in_if, meta.out_if], flow)
        } else {
            self.pickup_of_answer(meta, flow)
        }
    }

    /// The rule that would let in the connection that this packet answers.
    pub(super) fn pickup_of_answer(&self, meta: &Meta, flow: &Flow) -> Option<Pickup> {
        self.way_in(true, opposite(meta.hook), [meta.out_if, meta.in_if], &flow.reversed())
    }

    /// The rule that would let in now what a connection's end opens that sends in this
    /// direction.
    pub(super) fn way_of(
        &self,
        direction: Direction,
        hook: Hook,
        path: [IfIndex; 2],
        flow: &Flow,
    ) -> Option<Pickup> {
        let [from, to] = path;
        match direction {
            Direction::Original => self.way_in(false, hook, path, flow),
            Direction::Reply => self.way_in(true, opposite(hook), [to, from], &flow.reversed()),
        }
    }

    fn way_in(&self, reversed: bool, hook: Hook, path: [IfIndex; 2], flow: &Flow) -> Option<Pickup> {
        let (action, id, _) = self.decide(&self.new_flow(hook, path, flow, None));
        let mode = self.pickup_mode(id);
        (action == Action::Accept).then_some(Pickup { rule: id, mode, reversed, hook, path })
    }

    /// How unknown connections of this rule are met.
    pub(super) fn pickup_mode(&self, rule: RuleId) -> PickupMode {
        let own = self.policy.rule(rule).and_then(|rule| rule.pickup);
        own.unwrap_or(self.policy.settings.pickup.mode)
    }
}

/// The numbers of connections between which timers become shorter, down to nothing.
fn shrinking(policy: &Policy) -> (u64, u64) {
    let settings = &policy.settings;
    let per = |percent: u32| u64::from(settings.max_connections).saturating_mul(u64::from(percent)) / 100;
    (per(settings.adaptive.start), per(settings.adaptive.end))
}

/// How a packet of an unknown connection would be let in.
pub(super) struct Pickup {
    pub(super) rule: RuleId,
    pub(super) mode: PickupMode,
    /// The packet goes in the reply direction.
    pub(super) reversed: bool,
    pub(super) hook: Hook,
    pub(super) path: [IfIndex; 2],
}

/// The hook that the answers to a packet at this hook run through.
pub(super) const fn opposite(hook: Hook) -> Hook {
    match hook {
        Hook::Forward => Hook::Forward,
        Hook::Input => Hook::Output,
        Hook::Output => Hook::Input,
    }
}
