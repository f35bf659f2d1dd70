//! A packet's way to its verdict.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use parking_lot::{Mutex, MutexGuard};

use super::{
    CloseReason, DropReason, IfIndex, Meta, Verdict,
    admit::{Newcomer, opposite},
    context::{Context, Held},
    cookies::BEHIND,
    fast::{give_candidate_up, load_of},
    fast_open::{Passage, passage},
    prepare::{Located, Place, ports_of},
    shard::{Family, Shard},
    unreachable::{is_uncounted, may_go_on, says_unreachable},
};
use crate::{
    conntrack::{
        Connection, Direction, Flow, Key, Live, Phase, Slot,
        key::Sender,
        tcp::{self, Kind, Outcome},
        window::{Half, Seen, StaleSyn},
    },
    policy::{Hook, RuleId},
    wire::{Embedded, IcmpMessage, Packet, Protocol, Segment, Transport},
};

/// ICMP redirect (RFC 792).
const REDIRECT: u8 = 5;

/// What of a packet its connection needs to know.
#[derive(Clone, Copy, Debug)]
pub(super) enum Content<'p> {
    Tcp(Kind, &'p Segment),
    Udp,
    EchoRequest,
    EchoReply,
    Other,
}

/// A connection gave way to the packet at hand; a SYN of the other end's had met it
/// before, which this one crosses.
#[derive(Clone, Copy, Debug)]
pub(super) struct Replaced(pub(super) Option<StaleSyn>);

/// A packet that belongs to a connection or may open one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival<'p> {
    pub(super) meta: &'p Meta,
    pub(super) flow: Flow,
    pub(super) len: u32,
    pub(super) icmp: Option<(u8, u8)>,
    pub(super) content: Content<'p>,
}

/// A packet of a connection that is known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Met<'p, A: Family> {
    /// Where that lies.
    pub(super) slot: Slot,
    pub(super) key: &'p Key<A>,
    /// Which of its ends has sent the packet.
    pub(super) sender: Sender,
    pub(super) arrival: &'p Arrival<'p>,
}

impl Context<'_> {
    /// Judges one packet.
    pub(super) fn judge(&mut self, meta: &Meta, packet: &Packet<'_>, place: &Place) -> Verdict {
        let (src_port, dst_port) = ports_of(&packet.transport).unwrap_or((0, 0));
        let flow = Flow { protocol: packet.protocol, src: packet.src, src_port, dst: packet.dst, dst_port };
        let arrival = |icmp, content| Arrival { meta, flow, len: packet.len, icmp, content };
        let undone;
        let arrival = match &packet.transport {
            Transport::Tcp(segment) => {
                let Some(kind) = Kind::of(segment.flags) else {
                    return Verdict::Drop(DropReason::ImpossibleFlags);
                };
                let segment = match &meta.renumbered {
                    Some(numbers) => {
                        undone = numbers.undone(*segment);
                        &undone
                    }
                    None => segment,
                };
                arrival(None, Content::Tcp(kind, segment))
            }
            Transport::Udp(_) => arrival(None, Content::Udp),
            Transport::Icmp(IcmpMessage::EchoRequest { .. }) => {
                arrival(Some((echo_request(packet.protocol), 0)), Content::EchoRequest)
            }
            Transport::Icmp(IcmpMessage::EchoReply { .. }) => {
                arrival(Some((echo_reply(packet.protocol), 0)), Content::EchoReply)
            }
            // A redirect changes routes: only a rule may let it in.
            Transport::Icmp(IcmpMessage::Error { kind: REDIRECT, code, .. })
                if packet.protocol == Protocol::ICMP =>
            {
                let arrival = arrival(Some((REDIRECT, *code)), Content::Other);
                return self.judge_untracked(&arrival);
            }
            Transport::Icmp(IcmpMessage::Error { kind, code, embedded }) => {
                let is_lost = says_unreachable(packet.protocol, *kind, *code);
                return self.judge_icmp_error(meta, packet, embedded, is_lost);
            }
            Transport::Icmp(IcmpMessage::Other { kind, code, .. }) => {
                let arrival = arrival(Some((*kind, *code)), Content::Other);
                return self.judge_untracked(&arrival);
            }
            Transport::Other => arrival(None, Content::Other),
            Transport::Fragment => return Verdict::Drop(DropReason::Fragment),
        };
        match place {
            Place::Ipv4(located) => self.judge_in(&arrival, located),
            Place::Ipv6(located) => self.judge_in(&arrival, located),
            Place::Nowhere => Verdict::Drop(DropReason::Unexpected),
        }
    }

    fn judge_in<A: Family>(&mut self, arrival: &Arrival<'_>, located: &Located<A>) -> Verdict {
        let Located { key, sender, hash } = *located;
        // It may lie in any shard, so before this one is held.
        let parent_rule = arrival.meta.parent.and_then(|parent| self.rule_of_parent(&parent));
        let (number, mutex) = self.engine.shard_of(hash);
        let mut shard = self.stats.locked(mutex);
        let mut held = Held { shard: &mut shard, number };
        let mut crossed_syn = None;
        if let Some(slot) = self.find_live::<A>(&mut held, &key, hash) {
            match self.judge_known::<A>(&mut held, &Met { slot, key: &key, sender, arrival }) {
                Ok(verdict) => return verdict,
                Err(Replaced(syn)) => crossed_syn = syn,
            }
        }
        let new = Newcomer { key, hash, sender, arrival: *arrival, parent_rule, crossed_syn };
        self.judge_unknown(shard, (number, mutex), &new)
    }

    /// A packet that belongs to no connection. `shard` is the one where it would lie.
    #[inline(never)]
    fn judge_unknown<'s, A: Family>(
        &mut self,
        mut shard: MutexGuard<'s, Shard>,
        (number, mutex): (u16, &'s Mutex<Shard>),
        new: &Newcomer<'_, A>,
    ) -> Verdict {
        let &Newcomer { key, hash, sender, ref arrival, parent_rule, .. } = new;
        if let Content::Tcp(Kind::Syn, segment) = arrival.content {
            drop(shard);
            return self.judge_syn((number, mutex), new, segment);
        }
        if !self.has_room() && self.would_enter(arrival, parent_rule) {
            // Who must go may lie in any shard.
            drop(shard);
            self.make_room(number, 0, arrival.meta.kernel_knows);
            let mut shard = self.stats.locked(mutex);
            let mut held = Held { shard: &mut shard, number };
            // Another worker may have been faster with the same connection.
            return match self.find_live::<A>(&mut held, &key, hash) {
                Some(slot) => {
                    let met = Met { slot, key: &key, sender, arrival };
                    let verdict = self.judge_known::<A>(&mut held, &met);
                    verdict.unwrap_or(Verdict::Drop(DropReason::Unexpected))
                }
                None => self.judge_newcomer(&mut held, new),
            };
        }
        self.judge_newcomer(&mut Held { shard: &mut shard, number }, new)
    }

    /// The rule of a connection whose helper announces another, if it is live: past
    /// its handshake and not over.
    fn rule_of_parent(&mut self, parent: &Flow) -> Option<RuleId> {
        match parent.src {
            IpAddr::V4(_) => self.rule_of_parent_in::<Ipv4Addr>(parent),
            IpAddr::V6(_) => self.rule_of_parent_in::<Ipv6Addr>(parent),
        }
    }

    fn rule_of_parent_in<A: Family>(&mut self, parent: &Flow) -> Option<RuleId> {
        let (key, _) = Key::<A>::of(parent)?;
        let hash = key.hash(&self.engine.secret);
        let (number, mutex) = self.engine.shard_of(hash);
        let mut shard = self.stats.locked(mutex);
        let mut held = Held { shard: &mut shard, number };
        let slot = self.find_live::<A>(&mut held, &key, hash)?;
        let connection = &A::table(held.shard).get(slot)?.connection;
        match connection.phase {
            Phase::SynSent | Phase::SynReceived | Phase::TimeWait | Phase::Reset => None,
            Phase::Established
            | Phase::FinWait
            | Phase::HalfClosed
            | Phase::Closing
            | Phase::UdpNew
            | Phase::UdpStream
            | Phase::Icmp
            | Phase::Other => Some(RuleId(connection.rule)),
        }
    }

    /// The connection of a key. One whose timer has fired meanwhile is ended first,
    /// so that a packet never meets a connection that should be gone (or its ends are
    /// asked, and it is not).
    fn find_live<A: Family>(&mut self, held: &mut Held<'_>, key: &Key<A>, hash: u64) -> Option<Slot> {
        // While timers are what they were, none fires before the wheel looks.
        let is_in_time = self.shrink.is_none() && held.shard.walk.is_none();
        let table = A::table(held.shard);
        let slot = table.find(key, hash)?;
        if is_in_time && table.is_early(slot, self.now) {
            return Some(slot);
        }
        let connection = table.whole(slot)?;
        // Only the kernel knows how long those were silent of which packets pass unseen.
        let is_unknown = connection.fast.is_unseen() && connection.rare.asked.is_none();
        let deadline = self.deadline(&connection);
        if deadline.at > self.now || is_unknown || self.overdue::<A>(held, slot, false, deadline) {
            return Some(slot);
        }
        // A SYN that waits for its answer may have taken its place.
        A::table(held.shard).find(key, hash)
    }

    /// A packet of a known connection.
    ///
    /// # Errors
    /// It opens a new one in its place.
    pub(super) fn judge_known<A: Family>(
        &mut self,
        held: &mut Held<'_>,
        met: &Met<'_, A>,
    ) -> Result<Verdict, Replaced> {
        let now = self.now;
        let Met { slot, key, arrival, .. } = *met;
        let Some(mut connection) = A::table(held.shard).live(slot) else { return Err(Replaced(None)) };
        // Whatever becomes of it.
        connection.meet_candidate(arrival.meta.candidacy);
        if (connection.tag() & BEHIND != 0 || self.out.opening) && !self.out.is_read {
            drop(connection);
            return self.judge_behind(held, met);
        }
        if is_uncounted(connection.phase, connection.rare()) && may_go_on(&arrival.content) {
            drop(connection);
            return self.judge_uncounted(held, met);
        }
        let direction = met.sender.direction(connection.opener());
        if !connection.fast.is_none() {
            drop(connection);
            if let Some(verdict) = self.judge_unseen(held, met, direction) {
                return Ok(verdict);
            }
            let Some(again) = A::table(held.shard).live(slot) else { return Err(Replaced(None)) };
            connection = again;
        }
        // Only a handshake that begins anew may have to be taken back.
        let unchanged = connection.rare().stale_syn.map(|_| connection.whole());
        let before = connection.standing();
        // Both ends' words by one way may be one forger's.
        let on_path = is_on_path(connection.interfaces().map(IfIndex), direction, arrival.meta);
        match arrival.content {
            Content::Tcp(kind, segment) if connection.take_answer(direction, kind, segment, now) => {
                drop(connection);
                self.after_step::<A>(held, slot, key, before);
                return Ok(Verdict::Drop(DropReason::KeepaliveAnswer));
            }
            // It may answer a challenge from before its connection was let in.
            Content::Tcp(Kind::Rst, segment)
                if before.phase.is_embryonic() && self.takes_proof(&arrival.flow, segment) =>
            {
                return Ok(Verdict::Drop(DropReason::ChallengeAnswer));
            }
            Content::Tcp(kind, segment) => match self.step(&mut connection, direction, kind, segment) {
                None => return Ok(Verdict::Drop(DropReason::FastOpen)),
                Some(Outcome::Stale) if kind == Kind::Syn && !on_path => {
                    connection.rare_mut().stale_syn = None;
                    connection.halves(direction).0.seen.clear(Seen::FORGOT);
                }
                Some(Outcome::Reborn) if !on_path => {
                    if let Some(unchanged) = &unchanged {
                        connection.restore(unchanged);
                    }
                }
                Some(Outcome::Over) if !on_path => {}
                Some(Outcome::Pass) if matches!(kind, Kind::Ack | Kind::Fin) => {
                    connection.is_alive(direction, now);
                }
                Some(Outcome::Pass | Outcome::Stale) => {}
                Some(Outcome::Reborn) => {
                    drop(connection);
                    let is_counted = self.count_half_open::<A>(held, slot, key);
                    let had_opened = !before.phase.is_embryonic();
                    if let Some(mut connection) = A::table(held.shard).live(slot) {
                        if is_counted {
                            if had_opened {
                                connection.count_anew(now);
                            }
                            connection.count(direction, arrival.len, now);
                        } else if let Some(unchanged) = &unchanged {
                            connection.restore(unchanged);
                        }
                    }
                    if !is_counted {
                        return Ok(Verdict::Drop(DropReason::Limit));
                    }
                    if let Some(old) = unchanged.filter(|_| had_opened) {
                        self.after_renewal(held, slot, key, &old);
                    } else {
                        self.after_step::<A>(held, slot, key, before);
                    }
                    return Ok(Verdict::Accept);
                }
                Some(Outcome::Over) => {
                    drop(connection);
                    return Ok(self.take_over(held, met, segment));
                }
                Some(Outcome::Reopen) => {
                    let crossed = connection.rare().stale_syn.filter(|syn| on_path && syn.from != direction);
                    let syn = crossed.map(|syn| syn.toward(direction));
                    drop(connection);
                    self.end::<A>(held, slot, false, CloseReason::Replaced, true);
                    return Err(Replaced(syn));
                }
                Some(Outcome::Invalid(invalid)) => return Ok(Verdict::Drop(invalid.into())),
            },
            Content::Udp => {
                if direction == Direction::Reply {
                    connection.enter(Phase::UdpStream, now);
                }
                connection.refresh(now);
            }
            Content::EchoRequest | Content::EchoReply | Content::Other => connection.refresh(now),
        }
        give_candidate_up(&mut connection, now);
        connection.count(direction, arrival.len, now);
        let stands = connection.standing() == before;
        drop(connection);
        if !stands {
            self.after_step::<A>(held, slot, key, before);
            if let Some(limit) = self.out.too_many.take() {
                return Ok(self.end_too_many::<A>(held, slot, limit));
            }
        }
        self.board::<A>(held, slot, arrival.meta, load_of(&arrival.content));
        Ok(Verdict::Accept)
    }

    /// Both ends have forgotten a connection, and the end that had not opened it begins
    /// another: whether it may, the rules say now. If not, its SYN-ACK is dropped.
    fn take_over<A: Family>(&mut self, held: &mut Held<'_>, met: &Met<'_, A>, segment: &Segment) -> Verdict {
        let Met { slot, key, arrival, .. } = *met;
        let old = A::table(held.shard).whole(slot);
        let next = old.and_then(|old| tcp::successor(&old, segment, opposite(old.opener()), self.now));
        self.end::<A>(held, slot, false, CloseReason::Replaced, true);
        match (next, self.ruling.pickup_of_answer(arrival.meta, &arrival.flow)) {
            (Some(next), Some(pickup)) => {
                let hash = key.hash(&self.engine.secret);
                let sender = opposite(next.opener());
                let new = Newcomer {
                    key: *key,
                    hash,
                    sender,
                    arrival: *arrival,
                    parent_rule: None,
                    crossed_syn: None,
                };
                self.insert_answered(held, &new, next, &pickup)
            }
            _ => Verdict::Drop(DropReason::Unexpected),
        }
    }

    /// Takes one segment of a connection, as its rule's `fast_open` lets it on.
    /// `None`: it does not, and changes nothing.
    fn step(
        &mut self,
        connection: &mut Live<'_>,
        direction: Direction,
        kind: Kind,
        segment: &Segment,
    ) -> Option<Outcome> {
        let rule = RuleId(connection.rule);
        let (passage, other) = passage(|| self.ruling.fast_open(rule), kind, segment);
        let segment = other.as_ref().unwrap_or(segment);
        if passage != Passage::Denied {
            self.out.strip = passage == Passage::Bare;
            return Some(tcp::step(connection, direction, kind, segment, self.now));
        }
        let unchanged = connection.whole();
        match tcp::step(connection, direction, kind, segment, self.now) {
            // A new connection may have another rule.
            Outcome::Reopen => Some(Outcome::Reopen),
            Outcome::Pass | Outcome::Stale | Outcome::Reborn | Outcome::Over | Outcome::Invalid(_) => {
                connection.restore(&unchanged);
                None
            }
        }
    }

    /// An ICMP error is let through if it is about a live connection, and for TCP
    /// about something that may be under way (RFC 5927 §4.1). What the gateway's own
    /// kernel says is believed.
    fn judge_icmp_error(
        &mut self,
        meta: &Meta,
        packet: &Packet<'_>,
        embedded: &Embedded,
        is_lost: bool,
    ) -> Verdict {
        let is_ours = meta.hook == Hook::Output;
        if is_ours && !is_lost {
            return Verdict::Accept;
        }
        // The error goes to whoever sent the packet that it is about.
        if packet.dst != embedded.src && !is_ours {
            return Verdict::Drop(DropReason::IcmpUnrelated);
        }
        let quoted = |src_port, dst_port| Flow {
            protocol: embedded.protocol,
            src: embedded.src,
            src_port,
            dst: embedded.dst,
            dst_port,
        };
        let echo = matches!(embedded.protocol, Protocol::ICMP | Protocol::ICMPV6);
        // An echo is found by its identifier on the requester's side: either end may be quoted.
        let flows = if echo {
            [Some(quoted(embedded.src_port, 0)), Some(quoted(0, embedded.src_port))]
        } else {
            [Some(quoted(embedded.src_port, embedded.dst_port)), None]
        };
        let related = flows.into_iter().flatten().any(|flow| match flow.src {
            IpAddr::V4(_) => self.is_related::<Ipv4Addr>(&flow, embedded, is_lost, meta),
            IpAddr::V6(_) => self.is_related::<Ipv6Addr>(&flow, embedded, is_lost, meta),
        });
        if related || is_ours { Verdict::Accept } else { Verdict::Drop(DropReason::IcmpUnrelated) }
    }

    /// Whether an error is about a live connection; if it says that the packet did not
    /// arrive, that is noted.
    fn is_related<A: Family>(
        &mut self,
        flow: &Flow,
        embedded: &Embedded,
        is_lost: bool,
        meta: &Meta,
    ) -> bool {
        let Some((key, sender)) = Key::<A>::of(flow) else { return false };
        let hash = key.hash(&self.engine.secret);
        let (number, mutex) = self.engine.shard_of(hash);
        let mut shard = self.stats.locked(mutex);
        let mut held = Held { shard: &mut shard, number };
        let Some(slot) = self.find_live::<A>(&mut held, &key, hash) else { return false };
        let Some(entry) = A::table(held.shard).get_mut(slot) else { return false };
        let connection = &mut entry.connection;
        // For conntrack the error is a packet of its connection.
        connection.meet_candidate(meta.candidacy);
        match embedded.seq {
            Some(seq) if embedded.protocol == Protocol::TCP => {
                let direction = sender.direction(connection.opener());
                // Where numbers are not known its receiver makes the test.
                let is_under_way =
                    connection.fast.is_unseen() || may_be_under_way(connection, direction, seq);
                if is_under_way && is_lost {
                    self.unreachable::<A>(&mut held, slot, direction, meta);
                }
                is_under_way
            }
            _ => true,
        }
    }
}

/// Whether an end may have sent this sequence number lately (RFC 5927 §4.1: between
/// what is acknowledged and what was sent; a window back, because the error took time).
fn may_be_under_way(connection: &Connection, direction: Direction, seq: crate::wire::SeqNum) -> bool {
    let sender: &Half = connection.sender(direction);
    let receiver: &Half = connection.sender(direction.opposite());
    let (oldest, newest) = if connection.phase.is_embryonic() {
        // A SYN may carry more than any window allows yet (RFC 7413 §2). An answer to it
        // may be followed by all that its window allows (§4.2.2); that end counts what it
        // has not sent.
        (sender.iss, sender.max_end.latest(sender.end))
    } else {
        (sender.end.minus(receiver.max_win).minus(1), sender.end)
    };
    seq.after_or_at(oldest) && seq.before_or_at(newest)
}

/// Whether a packet came by the interfaces that its connection runs through.
pub(super) fn is_on_path(path: [IfIndex; 2], direction: Direction, meta: &Meta) -> bool {
    let [from, to] = path;
    match direction {
        Direction::Original => (meta.in_if, meta.out_if) == (from, to),
        Direction::Reply => (meta.in_if, meta.out_if) == (to, from),
    }
}

const fn echo_request(protocol: Protocol) -> u8 {
    if protocol.0 == Protocol::ICMPV6.0 { 128 } else { 8 }
}

const fn echo_reply(protocol: Protocol) -> u8 {
    if protocol.0 == Protocol::ICMPV6.0 { 129 } else { 0 }
}
