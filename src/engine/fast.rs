//! The fast path: when a connection's packets may pass in the kernel, and how it is
//! watched over meanwhile.
//!
//! Who rides is judged by its rule as all others are, but by what conntrack says of it:
//! SYN, FIN, RST and what conntrack calls invalid come here, and before a timer fires the
//! kernel is asked ([`Transmit::Ask`], [`Word`]) how long the connection was silent. What
//! packets say that come after a time unseen: [`crate::conntrack::fast`].

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use super::{
    Candidacy, CloseReason, Counts, DropReason, IfIndex, Meta, Transmit, Verdict, Worker,
    context::{Context, Held, tallies_of},
    cookies::BEHIND,
    judge::{Content, Met, is_on_path},
    lengths::SHORT,
    ruling::Ruling,
    shard::Family,
};
use crate::{
    conntrack::{
        Connection, Deadline, Direction, Flow, Instant, Key, Live, Phase, Slot, Tally, Timer, Whole,
        fast::KernelState,
        keepalive::Keepalive,
        tcp::{self, Kind},
        window::Seen,
    },
    policy::{Inspect, OnExpire, RuleId},
    wire::Protocol,
};

/// Connections under a shorter timer are worth no way around the queue.
const LEAST_TIMER: Duration = Duration::from_secs(30);

/// A connection that is so old does not wait any longer for a moment at which nothing that
/// it sent is under way: in a long transfer there may be none.
const IMPATIENT: Duration = Duration::from_secs(1);

/// Nor does a UDP stream after so many packets: one whose packets always have others behind
/// them in the queue would fill it until it ends.
pub(super) const IMPATIENT_STREAM: u32 = 1000;

/// If nothing has come for so long, neither has the packet that might have begun a ride.
const CANDIDATE_FOR: Duration = Duration::from_secs(1);

/// The most packets of known connections that may wait in a queue. If on a connection that is
/// never silent so many have come behind such a packet, and at most twice as many, it is lost.
pub const MOST_WAITING: u32 = 1 << 12;

/// How long the kernel's word may take before it is asked again.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// How long an end that is to be told of its connection's end may take to speak, before it
/// is asked to once more.
const SPEAK_WITHIN: Duration = Duration::from_secs(1);

/// How often it is asked to.
const TELL_ROUNDS: u8 = 3;

/// What the verdict of a packet changes about its connection's way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ride {
    /// Its next packet may be the one from which on they pass in the kernel
    /// ([`super::Candidacy`]).
    MayBegin,
    /// From now on its packets pass in the kernel, if none has come behind this one.
    Begins,
    /// From now on they do, and overtake those that wait in the queue: UDP has no order.
    BeginsAtOnce,
    /// From now on they come to the queue.
    Ends,
}

/// What the kernel's conntrack says of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Word {
    /// For how long no packet in window has come.
    pub silence: Duration,
    /// TCP: whether the last data are not acknowledged.
    pub unacknowledged: bool,
    /// TCP: its state; `None` where that says nothing.
    pub state: Option<KernelState>,
    /// What it counted in the original direction and in the other; `None` where it does not
    /// count.
    pub counts: Option<(Counts, Counts)>,
    /// Whether its packets pass in the kernel.
    pub rides: bool,
}

impl Ruling {
    /// Whether packets of this connection may pass in the kernel now.
    fn may_ride(&self, connection: &Connection) -> bool {
        match connection.phase {
            Phase::Established => self.lets_ride(connection, Timer::Established),
            Phase::UdpStream => self.lets_ride(connection, Timer::UdpStream),
            Phase::SynSent
            | Phase::SynReceived
            | Phase::FinWait
            | Phase::HalfClosed
            | Phase::Closing
            | Phase::TimeWait
            | Phase::Reset
            | Phase::UdpNew
            | Phase::Icmp
            | Phase::Other => false,
        }
    }

    /// Whether its rule, and the timer that it is or will be under, let it.
    fn lets_ride(&self, connection: &Connection, timer: Timer) -> bool {
        let rule = RuleId(connection.rule);
        let inspect = self.policy.rule(rule).map_or(Inspect::Lifecycle, |rule| rule.inspect);
        let (value, _) = self.value(rule, timer, connection.epoch);
        inspect == Inspect::Lifecycle && value.is_none_or(|value| value >= LEAST_TIMER)
    }
}

/// Whether nothing about it waits to be told by a packet that must be seen.
fn is_settled(connection: &Live<'_>) -> bool {
    let doubted = |seen: Seen| seen.has(Seen::DOUBTED) || seen.has(Seen::FORGOT) || !seen.has(Seen::ACK);
    connection.phase == Phase::UdpStream
        || (connection.rare().asked.is_none()
            && connection.rare().unverified_rst.is_none()
            && !doubted(connection.original.seen)
            && !doubted(connection.reply.seen)
            && !tcp::is_one_way(connection))
}

/// Whether a connection waits no longer for a moment that may never come.
fn is_impatient(connection: &Connection, is_udp: bool, now: Instant) -> bool {
    let is_full_stream = is_udp && connection.packets() >= IMPATIENT_STREAM;
    is_full_stream || connection.age(now) >= IMPATIENT
}

impl Connection {
    /// Whether this packet is the one that may begin a ride; if so, another may be made one.
    /// One that has come behind it says nothing of that: by then the verdict of the first may
    /// have made another the one, and with two of them under way a ride would begin in the
    /// name of the wrong one, and overtake what waits between them.
    pub(super) fn meet_candidate(&mut self, candidacy: Option<Candidacy>) -> bool {
        let stands = candidacy == Some(Candidacy::Stands);
        if stands {
            self.candidate_has_come();
        }
        stands
    }
}

/// Gives a candidate's packet up that must have been lost on its way.
#[inline]
pub(super) fn give_candidate_up(connection: &mut Connection, now: Instant) {
    if connection.last_seen.elapsed(now) >= CANDIDATE_FOR {
        connection.candidate_has_come();
    } else if connection.packets().is_multiple_of(MOST_WAITING) {
        connection.miss_candidate();
    }
}

/// How many octets of TCP's data a packet carries that is as those which the kernel could
/// let pass. `None`: it is not.
pub(super) fn load_of(content: &Content<'_>) -> Option<u32> {
    match content {
        Content::Tcp(Kind::Ack, segment) => Some(segment.payload_len),
        Content::Udp => Some(0),
        Content::Tcp(Kind::Syn | Kind::SynAck | Kind::Fin | Kind::Rst, _)
        | Content::EchoRequest
        | Content::EchoReply
        | Content::Other => None,
    }
}

impl Worker {
    /// What the verdict of the packet that [`Self::handle_packet`] has just accepted changes
    /// about its connection's way.
    #[must_use]
    pub const fn ride(&self) -> Option<Ride> {
        self.out.ride
    }

    /// Takes the kernel's word for a connection, named as [`Transmit::Ask`] does; `None`:
    /// it does not know it.
    pub fn handle_word(&mut self, flow: &Flow, word: Option<&Word>, now: Instant) {
        self.with(now, |context| match flow.src {
            IpAddr::V4(_) => context.take_word::<Ipv4Addr>(flow, word),
            IpAddr::V6(_) => context.take_word::<Ipv6Addr>(flow, word),
        });
    }
}

impl Context<'_> {
    /// Lets the connection of the packet at hand, with this [`load_of`] it, pass in the kernel,
    /// if it may.
    pub(super) fn board<A: Family>(
        &mut self,
        held: &mut Held<'_>,
        slot: Slot,
        meta: &Meta,
        load: Option<u32>,
    ) {
        if !meta.kernel_knows {
            return;
        }
        let Some(entry) = A::table(held.shard).get(slot) else { return };
        let may_pay = self.may_pay(&entry.key, &entry.connection);
        let Some(mut connection) = A::table(held.shard).live(slot) else { return };
        if connection.fast.rides() {
            // A datagram that waited as the ride began, or of which the mark is gone.
            self.out.ride = Some(Ride::BeginsAtOnce);
            return;
        }
        let stands = connection.meet_candidate(meta.candidacy);
        // Numbers that the kernel translates are told apart here.
        if connection.tag() & BEHIND != 0 || !connection.fast.is_none() || self.out.ride.is_some() || !may_pay
        {
            return;
        }
        let could_ride = load.is_some() && meta.renumbered.is_none();
        let may_ride = could_ride && is_settled(&connection) && self.ruling.may_ride(&connection);
        // The packet that completes the handshake is the best to begin with.
        let may_soon =
            connection.phase == Phase::SynReceived && self.ruling.lets_ride(&connection, Timer::Established);
        let is_udp = connection.phase == Phase::UdpStream;
        let is_impatient = is_impatient(&connection, is_udp, self.now);
        // Nothing that was sent before this packet can be overtaken any more, because its
        // receiver has acknowledged it. (What has left the queue may still wait elsewhere in
        // the kernel, on another processor.)
        let is_quiet = load == Some(0) && !connection.has_unacknowledged();
        let ride = if may_ride && is_impatient && is_udp {
            Ride::BeginsAtOnce
        } else if may_ride && stands && (is_impatient || is_quiet) {
            Ride::Begins
        } else {
            if (may_ride || may_soon) && connection.become_candidate() {
                self.out.ride = Some(Ride::MayBegin);
            }
            return;
        };
        connection.board();
        drop(connection);
        self.out.ride = Some(ride);
        held.shard.count_riding(false, true);
    }

    /// Whether a ride may save more than it costs. Most TCP connections to the port of a service
    /// with short ones are over before it does.
    fn may_pay<A: Family>(&self, key: &Key<A>, connection: &Connection) -> bool {
        connection.packets() >= SHORT || {
            let flow = key.flow(connection.opener());
            flow.protocol != Protocol::TCP || !self.engine.lengths.are_short(flow.dst_port)
        }
    }

    /// Learns from a TCP connection that ends, or of which the kernel has told, how long those to
    /// its port are.
    pub(super) fn note_length(&self, flow: &Flow, packets: u32) {
        if flow.protocol == Protocol::TCP {
            self.engine.lengths.note(flow.dst_port, packets);
        }
    }

    /// A packet of a connection of which others may have passed unseen, or that was ended
    /// here. `None`: it is judged as any other.
    pub(super) fn judge_unseen<A: Family>(
        &mut self,
        held: &mut Held<'_>,
        met: &Met<'_, A>,
        direction: Direction,
    ) -> Option<Verdict> {
        let Met { slot, key, arrival, .. } = *met;
        let mut connection = A::table(held.shard).live(slot)?;
        let before = connection.standing();
        if connection.fast.is_ended() {
            drop(connection);
            return match arrival.content {
                Content::Tcp(Kind::Syn, _) => None,
                Content::Tcp(Kind::Rst, _) => Some(Verdict::Drop(DropReason::Ended)),
                Content::Tcp(Kind::SynAck | Kind::Ack | Kind::Fin, _)
                | Content::Udp
                | Content::EchoRequest
                | Content::EchoReply
                | Content::Other => {
                    let verdict = self.refuse(arrival, DropReason::Ended);
                    if matches!(verdict, Verdict::Reset(_))
                        && let Some(entry) = A::table(held.shard).get_mut(slot)
                    {
                        entry.connection.note_told(direction);
                    }
                    Some(verdict)
                }
            };
        }
        let flow = key.flow(connection.opener());
        let rode = connection.fast.rides();
        // It has come behind the packet that was to begin the ride: so that has not begun (or it
        // has at the very moment at which this one came).
        let is_behind = arrival.meta.candidacy == Some(Candidacy::Lost);
        let is_udp = matches!(arrival.content, Content::Udp);
        let may_go_on = !is_behind || is_impatient(&connection, is_udp, self.now);
        // What waited as the ride began ends nothing.
        if rode && arrival.meta.kernel_knows && is_udp && may_go_on && self.ruling.may_ride(&connection) {
            return None;
        }
        // Both ends' words by one way may be one forger's.
        let on_path = is_on_path(connection.interfaces().map(IfIndex), direction, arrival.meta);
        if let Content::Tcp(Kind::Rst, segment) = arrival.content
            && on_path
            && connection.take_denial(direction, segment, self.now)
        {
            drop(connection);
            self.after_step::<A>(held, slot, key, before);
            return Some(Verdict::Drop(DropReason::KeepaliveAnswer));
        }
        if arrival.meta.is_invalid && self.is_for_kernel_to_drop(&mut connection, &arrival.content, &flow) {
            return Some(Verdict::Drop(DropReason::ConntrackInvalid));
        }
        if rode {
            connection.alight();
        }
        let (passes, asks) = match arrival.content {
            Content::Tcp(Kind::Ack | Kind::Fin | Kind::Rst, _)
                if connection.phase == Phase::Reset || !on_path =>
            {
                (true, false)
            }
            Content::Tcp(Kind::Rst, segment) => {
                connection.note_unseen_rst(direction, segment);
                (true, true)
            }
            Content::Tcp(kind @ (Kind::Ack | Kind::Fin), segment) => {
                let agreed = connection.find_again(direction, segment);
                if agreed {
                    connection.is_alive(direction.opposite(), self.now);
                }
                (!agreed, !agreed && kind == Kind::Fin || rode && !is_behind)
            }
            Content::Tcp(Kind::Syn | Kind::SynAck, _) => (false, false),
            Content::Udp | Content::EchoRequest | Content::EchoReply | Content::Other => {
                (false, rode && !is_behind)
            }
        };
        let is_rst = matches!(arrival.content, Content::Tcp(Kind::Rst, _));
        if passes && !is_rst {
            connection.is_alive(direction, self.now);
        }
        if passes {
            connection.count(direction, arrival.len, self.now);
        }
        drop(connection);
        if rode {
            self.out.ride = Some(Ride::Ends);
            held.shard.count_riding(true, false);
        }
        if asks {
            self.out.transmits.push_back(Transmit::Ask { flow });
        }
        if passes {
            self.after_step::<A>(held, slot, key, before);
        }
        passes.then_some(Verdict::Accept)
    }

    /// Whether a packet that conntrack calls invalid is to be dropped on its word alone. The
    /// entry of a connection that rides may be another one by now (a forger has had the
    /// kernel replace it): if it says that it does not ride any more, its word counts for
    /// nothing, and what the ends say is passed on until it agrees.
    fn is_for_kernel_to_drop(
        &mut self,
        connection: &mut Connection,
        content: &Content<'_>,
        flow: &Flow,
    ) -> bool {
        match content {
            Content::Tcp(Kind::Rst, _) => true,
            Content::Tcp(Kind::Ack | Kind::Fin, _) => {
                if connection.fast.rides() && connection.question() {
                    self.out.transmits.push_back(Transmit::Ask { flow: *flow });
                }
                connection.fast.rides()
            }
            Content::Tcp(Kind::Syn | Kind::SynAck, _)
            | Content::Udp
            | Content::EchoRequest
            | Content::EchoReply
            | Content::Other => false,
        }
    }

    /// A connection was taken off the wheel, of which packets may have passed unseen, or
    /// whose ends are to be told. `false`: it is for those to look at who look at all others.
    pub(super) fn look_unseen<A: Family>(&mut self, held: &mut Held<'_>, slot: Slot) -> bool {
        let Some(entry) = A::table(held.shard).get(slot) else { return false };
        if entry.connection.fast.is_none() {
            return false;
        }
        if entry.connection.fast.is_ended() && entry.connection.are_both_told() {
            self.end::<A>(held, slot, true, CloseReason::Killed, true);
            return true;
        }
        let at = self.look_unseen_at::<A>(held, slot);
        if let Some(at) = at {
            A::table(held.shard).put_back(slot, at);
        }
        at.is_some()
    }

    fn look_unseen_at<A: Family>(&mut self, held: &mut Held<'_>, slot: Slot) -> Option<Instant> {
        let opener = A::table(held.shard).get(slot)?.connection.opener();
        let flow = A::table(held.shard).get(slot)?.key.flow(opener);
        let mut connection = A::table(held.shard).live(slot)?;
        if connection.fast.is_ended() && connection.rare().asks < TELL_ROUNDS {
            connection.rare_mut().asks = connection.rare().asks.saturating_add(1);
            let last = connection.whole();
            drop(connection);
            self.have_ends_speak(&flow, &last);
            return Some(self.look_at_ended(&last));
        }
        let last = connection.whole();
        drop(connection);
        if let Some(since) = last.rare.unverified_rst
            && since.elapsed(self.now) <= SPEAK_WITHIN.saturating_mul(TELL_ROUNDS.into())
            && last.to_ask_of_reset().next().is_some()
        {
            self.ask_of_reset(&flow, &last);
            return Some(self.now.after(SPEAK_WITHIN));
        }
        let is_open = matches!(last.phase, Phase::Established | Phase::UdpStream);
        if !last.fast.is_unseen() || !is_open || last.rare.asked.is_some() {
            return None;
        }
        self.out.transmits.push_back(Transmit::Ask { flow });
        Some(self.now.after(ANSWER_WITHIN))
    }

    fn take_word<A: Family>(&mut self, flow: &Flow, word: Option<&Word>) {
        let Some((key, sender)) = Key::<A>::of(flow) else { return };
        let hash = key.hash(&self.engine.secret);
        let (number, mutex) = self.engine.shard_of(hash);
        let mut shard = self.stats.locked(mutex);
        let mut held = Held { shard: &mut shard, number };
        let Some(slot) = A::table(held.shard).find(&key, hash) else { return };
        let Some(mut connection) = A::table(held.shard).live(slot) else { return };
        let direction = sender.direction(connection.opener());
        if let Some((there, back)) = word.and_then(|word| word.counts) {
            let (original, reply) =
                if direction == Direction::Original { (there, back) } else { (back, there) };
            connection.raise(Direction::Original, tally_of(original));
            connection.raise(Direction::Reply, tally_of(reply));
            self.note_length(&key.flow(connection.opener()), connection.packets());
        }
        let flow = key.flow(connection.opener());
        if !connection.fast.is_unseen() {
            if word.is_some_and(|word| word.rides) {
                // A verdict that was under way has set it.
                self.out.transmits.push_back(Transmit::Release { flow });
            }
            return;
        }
        connection.note_answer();
        let (before, rode) = (connection.standing(), connection.fast.rides());
        let (mut unacknowledged, mut asks) = (false, false);
        let mut ends_ride = false;
        match word {
            Some(word) => {
                unacknowledged = word.unacknowledged;
                connection.heard_before(word.silence, self.now);
                if let Some(state) = word.state {
                    asks = connection.heed(state, self.now);
                }
                if rode && !word.rides {
                    connection.alight();
                    ends_ride = true;
                }
                if word.rides && !rode {
                    // A verdict that was under way has set it.
                    self.out.transmits.push_back(Transmit::Release { flow });
                }
            }
            None if rode => {
                // What passed since it was last asked, nobody knows any more.
                connection.alight();
                connection.refresh(self.now);
                ends_ride = true;
            }
            None => {}
        }
        drop(connection);
        held.shard.count_riding(ends_ride, false);
        self.after_step::<A>(&mut held, slot, &key, before);
        self.end_if_due::<A>(&mut held, slot, unacknowledged);
        if asks && let Some(last) = A::table(held.shard).whole(slot) {
            self.ask_of_reset(&flow, &last);
            A::table(held.shard).look_again(slot, self.now.after(SPEAK_WITHIN));
        }
    }

    /// Asks the end that an RST was sent to whether that has reset it. An old number will
    /// do: whoever has the connection acknowledges what it expects (RFC 9293 §3.10.7.4),
    /// whoever has none sends an RST (§3.10.7.1).
    fn ask_of_reset(&mut self, flow: &Flow, last: &Whole) {
        for direction in last.to_ask_of_reset() {
            self.have_end_speak(flow, last, direction);
        }
    }

    /// Ends a connection that the kernel says was silent too long (or has its ends asked),
    /// or looks at it again when that may be so.
    fn end_if_due<A: Family>(&mut self, held: &mut Held<'_>, slot: Slot, unacknowledged: bool) {
        let Some(connection) = A::table(held.shard).whole(slot) else { return };
        let mut deadline = self.deadline(&connection);
        if unacknowledged
            && connection.phase == Phase::Established
            && let Some(silence) = self.ruling.silence(&connection, self.shrink, Timer::Unacknowledged)
        {
            let at = connection.refreshed.instant(self.now).after(silence);
            if at < deadline.at {
                deadline = Deadline { at, timer: Timer::Unacknowledged };
            }
        }
        if deadline.at > self.now || self.overdue::<A>(held, slot, false, deadline) {
            let Some(connection) = A::table(held.shard).whole(slot) else { return };
            let at = self.look_at(&connection).min(deadline.at.max(self.now.after(ANSWER_WITHIN)));
            A::table(held.shard).look_again(slot, at);
        }
    }

    /// Whether a connection that ends for this reason must stay until its ends were told,
    /// because the numbers of an RST that they would take are not known.
    pub(super) fn must_stay(&self, connection: &Connection, reason: CloseReason) -> bool {
        let is_told = match reason {
            CloseReason::Killed | CloseReason::Rejudged | CloseReason::Unanswered { .. } => true,
            CloseReason::Expired { .. } => self.ruling.on_expire(RuleId(connection.rule)) != OnExpire::Drop,
            CloseReason::Rst(_)
            | CloseReason::Forgotten(_)
            | CloseReason::Finished
            | CloseReason::Evicted(_)
            | CloseReason::TableFull
            | CloseReason::TooMany(_)
            | CloseReason::Replaced => false,
        };
        let is_open = matches!(connection.phase, Phase::Established | Phase::FinWait | Phase::HalfClosed);
        connection.fast.is_unseen() && is_open && is_told
    }

    /// Ends a connection whose numbers are not known: it is over for everybody, but stays
    /// so that each end gets the RST that it takes, in answer to what it says next. Both
    /// are made to say something.
    pub(super) fn end_unseen<A: Family>(
        &mut self,
        held: &mut Held<'_>,
        slot: Slot,
        popped: bool,
        reason: CloseReason,
    ) {
        let Some(key) = A::table(held.shard).get(slot).map(|entry| entry.key) else { return };
        let Some(mut connection) = A::table(held.shard).live(slot) else { return };
        let flow = key.flow(connection.opener());
        let last = connection.whole();
        connection.stay_ended(self.now);
        let ended = connection.whole();
        drop(connection);
        held.shard.count_riding(last.fast.rides(), false);
        held.shard.count_stale(last.forgotten_by().is_some(), false);
        // Nobody counts it any more.
        self.stand::<A>(held, slot, Some(last.phase), None);
        self.engine.connection_closed();
        self.tell_closed(flow, &last, tallies_of(&last), reason);
        self.have_ends_speak(&flow, &last);
        let at = self.look_at_ended(&ended);
        if popped {
            A::table(held.shard).put_back(slot, at);
        } else {
            A::table(held.shard).look_again(slot, at);
        }
    }

    fn look_at_ended(&self, connection: &Whole) -> Instant {
        let at = self.look_at(connection);
        if connection.rare.asks < TELL_ROUNDS { at.min(self.now.after(SPEAK_WITHIN)) } else { at }
    }

    /// Brings a connection back to the queue, and has both ends say something: old numbers
    /// are right for that, because whoever gets them acknowledges what it expects
    /// (RFC 9293 §3.10.7.4).
    fn have_ends_speak(&mut self, flow: &Flow, last: &Connection) {
        self.out.transmits.push_back(Transmit::Release { flow: *flow });
        for direction in [Direction::Reply, Direction::Original] {
            self.have_end_speak(flow, last, direction);
        }
    }

    fn have_end_speak(&mut self, flow: &Flow, last: &Connection, direction: Direction) {
        let per_second = self.ruling.policy.settings.rst_per_second.max(2);
        if !self.engine.asking.take_all(1, per_second, self.now) {
            return;
        }
        self.send_keepalive(flow, direction, Keepalive::toward(direction, last));
    }

    /// Brings a connection back to the queue that may no longer pass in the kernel, by the
    /// rules and timers in force.
    pub(super) fn check_ride<A: Family>(&mut self, held: &mut Held<'_>, slot: Slot) {
        let Some(entry) = A::table(held.shard).get(slot) else { return };
        if entry.connection.fast.rides() && !self.ruling.may_ride(&entry.connection) {
            self.stop_ride::<A>(held, slot);
        }
    }

    /// Brings a connection back to the queue, if it rides.
    pub(super) fn stop_ride<A: Family>(&mut self, held: &mut Held<'_>, slot: Slot) {
        let Some(entry) = A::table(held.shard).get_mut(slot) else { return };
        if entry.connection.fast.rides() {
            let flow = entry.key.flow(entry.connection.opener());
            entry.connection.alight();
            self.transmit_if_room(Transmit::Release { flow });
            held.shard.count_riding(true, false);
        }
    }
}

/// What the kernel has counted.
fn tally_of(counts: Counts) -> Tally {
    Tally { packets: u32::try_from(counts.packets).unwrap_or(u32::MAX), bytes: counts.bytes }
}
