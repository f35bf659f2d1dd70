//! `on_excess: syncookies`: destinations whose SYNs the kernel answers for a time, by SYN
//! cookies, and the connections that come of it.
//!
//! Here it is only said which destination is to be protected; who tells the kernel, and
//! when that ends, is the shell's to know. A client whose acknowledgement shows that it has
//! got the kernel's cookie is proven: the kernel opens a connection to the server in its
//! name, and that SYN is judged as the client's own would be ([`Worker::handle_opening`]).
//!
//! The client has learned a number of the kernel's (the cookie) where the server has
//! another. At the hooks all has the numbers that its sender gave it: what the server sends
//! has the server's, and what the client acknowledges the kernel's. So only the
//! acknowledgements of the client's must be read in the server's numbers. What halfgate
//! sends itself passes the kernel's translation like everything else, but for an RST to the
//! client: of one the kernel believes that it refuses a SYN, and gives it the number which
//! that would have. It goes out untranslated, in the client's numbers.
//!
//! Read first: the kernel's `net/netfilter/nf_synproxy_core.c`.

use std::{
    net::IpAddr,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    time::Duration,
};

use super::{
    CloseReason, DropReason, Engine, IfIndex, Meta, Renumbering, Transmit, Verdict, Worker,
    context::{Context, Held, expected, hook_of},
    judge::{Arrival, Content, Met, Replaced},
    ruling::Pickup,
    shard::Family,
};
use crate::{
    conntrack::{
        Connection, Direction, Flow, Instant, Key, Phase, Slot,
        keepalive::Keepalive,
        tcp::{self, Kind, Outcome},
        window::Seen,
    },
    policy::{Hook, Limit, OnExcess, RuleId, limits::ResolvedLimits},
    wire::{self, Flags, Segment, SeqNum, Transport},
};

/// In a connection's tag: the kernel has opened it, behind a SYN cookie.
pub(super) const BEHIND: u8 = 1 << 4;

/// While SYNs wait in long queues, as much of a limit is enough to ask for cookies, those who
/// wait included: they are half-open too.
pub(super) const EARLY: u32 = 8;

/// A destination is asked for once in this time by each worker.
const ASKED_EVERY: Duration = Duration::from_secs(1);

/// Destinations that a worker remembers to have asked for.
const ASKED: usize = 8;

/// A destination whose SYNs the kernel should answer: a limit was passed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shield {
    /// Where the SYNs go, as the hooks show it.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
    /// Where they come in.
    pub in_if: IfIndex,
    /// The limit that was passed.
    pub limit: Limit,
    /// The rule whose limit it is; [`RuleId::DEFAULT`]: the rule set's.
    pub of_rule: RuleId,
    /// The rule that the SYN matched.
    pub rule: RuleId,
    /// The limit's value.
    pub most: u32,
    /// How long the pressure must be gone until it ends.
    pub calm: Duration,
    /// Why what the limit says was not waited for, or is not enough.
    pub raised: Option<Raise>,
}

/// Why challenges are not enough.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Raise {
    /// The queues of SYNs overflow, or one is long or would be, were it not served so fast; an eighth of the limit is enough.
    QueuesFill,
    /// Those who pass the limit have proven themselves, as have most of those who would make room.
    AllProven,
}

impl Shield {
    const fn is_of(&self, other: &Self) -> bool {
        let same_address = match (self.address, other.address) {
            (IpAddr::V4(one), IpAddr::V4(two)) => one.to_bits() == two.to_bits(),
            (IpAddr::V6(one), IpAddr::V6(two)) => one.to_bits() == two.to_bits(),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        };
        same_address && self.port == other.port && self.in_if.0 == other.in_if.0
    }
}

/// How the numbers of a connection behind a cookie are translated, where it is met in its
/// middle.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shift {
    /// How much larger the numbers are by which the client knows the server's data, modulo
    /// 2^32.
    pub added: u32,
    /// Whether the packet that was met is the client's.
    pub from_client: bool,
}

/// What the shell says of the kernel's cookies.
#[derive(Debug, Default)]
pub(super) struct Cookieing {
    /// They can't be had: IPv4's, IPv6's.
    unavailable: [AtomicBool; 2],
    /// The queues of SYNs overflow, or one is long: challenges are not enough.
    raised: AtomicBool,
    /// So many SYNs wait then.
    waiting: AtomicU32,
}

impl Cookieing {
    /// So many of a scope, where `all` are half-open, with those who wait: as large a part of
    /// them is taken to be of that scope. Hosts that exist answer by RST what was sent in their
    /// names, so that few of a flood are half-open at a time, however many wait.
    pub(super) fn with_those_who_wait(&self, count: u32, all: u32) -> u32 {
        let part = u64::from(self.waiting.load(Ordering::Relaxed)).saturating_mul(count.into());
        let part = part.checked_div(all.into()).unwrap_or_default();
        count.saturating_add(u32::try_from(part).unwrap_or(u32::MAX))
    }

    /// Whether the queues of SYNs overflow, so that challenges are not enough.
    pub(super) fn are_raised(&self) -> bool {
        self.raised.load(Ordering::Relaxed)
    }

    fn is_available(&self, address: IpAddr) -> bool {
        let [ipv4, ipv6] = &self.unavailable;
        !(if address.is_ipv4() { ipv4 } else { ipv6 }).load(Ordering::Relaxed)
    }
}

/// The destinations that a worker asked for lately.
#[derive(Debug, Default)]
pub(super) struct Asked {
    lately: [Option<(Shield, Instant)>; ASKED],
    next: usize,
}

impl Asked {
    /// `false`: it was asked for a moment ago.
    fn note(&mut self, shield: &Shield, now: Instant) -> bool {
        let same = |(known, _): &&mut (Shield, Instant)| known.is_of(shield);
        if let Some((_, at)) = self.lately.iter_mut().flatten().find(same) {
            let is_due = now >= at.after(ASKED_EVERY);
            if is_due {
                *at = now;
            }
            return is_due;
        }
        if let Some(place) = self.lately.get_mut(self.next) {
            *place = Some((*shield, now));
        }
        self.next = self.next.wrapping_add(1) % ASKED;
        true
    }
}

/// The numbers of a connection behind a cookie.
#[derive(Clone, Copy, Debug)]
pub(super) struct Behind {
    /// The number of the server's SYN as the client knows it: the cookie.
    cookie: SeqNum,
    /// The window in the SYN: that of the client's acknowledgement, scaled already.
    window: u16,
    /// TSval and TSecr in the SYN: the client's, and the one that it has got with the cookie.
    stamps: Option<(u32, u32)>,
    /// How much larger the client's numbers of the server's data are, modulo 2^32, and the
    /// server's timestamps than the client's of them; from the SYN-ACK on.
    shift: Option<(u32, u32)>,
    /// The handshake's last ACK was sent once more.
    repeated: bool,
}

impl Behind {
    /// At the SYN that the kernel sends. It stands there with the cookie for the kernel
    /// itself to find.
    pub(super) const fn at(syn: &Segment) -> Self {
        Self {
            cookie: syn.ack,
            window: syn.window,
            stamps: syn.options.timestamps,
            shift: None,
            repeated: false,
        }
    }

    /// Of a connection that is met in its middle: the kernel says by how much it shifts.
    pub(super) const fn met(shift: u32) -> Self {
        Self { cookie: SeqNum(0), window: 0, stamps: None, shift: Some((shift, 0)), repeated: true }
    }

    fn shift(&self) -> u32 {
        self.shift.map_or(0, |(shift, _)| shift)
    }

    /// A number of the server's as the client knows it.
    pub(super) fn toward_client(&self, seq: SeqNum) -> SeqNum {
        seq.plus(self.shift())
    }

    /// A segment of the client's, its acknowledgements in the server's numbers.
    fn read_of_client(&self, segment: Segment) -> Segment {
        let shift = self.shift();
        Renumbering { position: SeqNum(0), before: shift, after: shift }.undone(segment)
    }

    /// A keepalive to the server, as the client would send it.
    pub(super) fn as_the_client_would(&self, keepalive: Keepalive) -> Keepalive {
        let (shift, stamps) = self.shift.unwrap_or_default();
        Keepalive {
            ack: keepalive.ack.plus(shift),
            timestamps: keepalive.timestamps.map(|(value, echo)| (value, echo.wrapping_sub(stamps))),
            ..keepalive
        }
    }
}

impl Engine {
    /// Whether the kernel can answer SYNs, of IPv4 and of IPv6. While it can't, limits
    /// challenge instead.
    pub fn set_cookies_available(&self, ipv4: bool, ipv6: bool) {
        for (unavailable, available) in self.cookieing.unavailable.iter().zip([ipv4, ipv6]) {
            unavailable.store(!available, Ordering::Relaxed);
        }
    }

    /// Whether challenges are not enough, because the queues of SYNs overflow or one is long, and
    /// how many SYNs wait in them: then the kernel should answer for the destinations whose limits
    /// would challenge, and of any limit that comes to cookies an eighth is enough, those who wait
    /// included.
    pub fn raise_challenges(&self, waiting: Option<u32>) {
        self.cookieing.waiting.store(waiting.unwrap_or_default(), Ordering::Relaxed);
        self.cookieing.raised.store(waiting.is_some(), Ordering::Relaxed);
    }
}

impl Worker {
    /// The next destination whose SYNs the kernel should answer.
    pub fn poll_shield(&mut self) -> Option<Shield> {
        self.out.shields.pop()
    }

    /// As [`Self::handle_packet`], for a SYN that the kernel sends in the name of a client
    /// which has acknowledged a cookie; `meta` says how the client's own would come by. It
    /// opens a connection if the rules let it. If not, the client is told by RST, since it
    /// believes to have one.
    pub fn handle_opening(&mut self, meta: &Meta, bytes: &[u8], now: Instant) -> Verdict {
        self.out.opening = true;
        let verdict = self.handle_packet(meta, bytes, now);
        self.out.opening = false;
        let refused = match verdict {
            Verdict::Accept => return verdict,
            Verdict::Reset(reason) => Some(reason),
            // What has only come too early is sent again.
            Verdict::Drop(DropReason::Unexpected) => None,
            Verdict::Drop(reason) => Some(reason),
        };
        let parsed = wire::parse_where(bytes, meta.wire_len, meta.checksums, self.loopback);
        if refused.is_some()
            && let Ok(packet) = parsed
            && let Transport::Tcp(syn) = packet.transport
        {
            let flow = Flow {
                protocol: packet.protocol,
                src: packet.src,
                src_port: syn.src_port,
                dst: packet.dst,
                dst_port: syn.dst_port,
            };
            self.with(now, |context| context.reset_untranslated(&flow, syn.ack.plus(1), meta.hook));
        }
        match verdict {
            Verdict::Reset(reason) => Verdict::Drop(reason),
            Verdict::Accept | Verdict::Drop(_) => verdict,
        }
    }

    /// As [`Self::handle_packet`], for a packet of a connection behind a cookie. If it
    /// belongs to none that is known here and [`Self::wants_numbers`] then says so, it is to
    /// be handed over again with what the kernel adds to the server's numbers.
    pub fn handle_behind(
        &mut self,
        meta: &Meta,
        bytes: &[u8],
        shift: Option<Shift>,
        now: Instant,
    ) -> Verdict {
        self.out.behind = Some(shift);
        self.out.wants_numbers = None;
        let verdict = self.handle_packet(meta, bytes, now);
        self.out.behind = None;
        verdict
    }

    /// See [`Self::handle_behind`]: the connection of which it must be asked.
    #[must_use]
    pub const fn wants_numbers(&self) -> Option<Flow> {
        self.out.wants_numbers
    }
}

impl Context<'_> {
    /// Whether SYNs to where this one goes could be answered by the kernel: not those to
    /// the gateway itself, whose kernel has cookies of its own, and not through a port
    /// forward, which the kernel does not apply to what it opens itself.
    pub(super) fn may_have_cookies(&self, arrival: &Arrival<'_>) -> bool {
        arrival.meta.hook == Hook::Forward
            && self.out.translated.is_none()
            && !self.out.opening
            && self.engine.cookieing.is_available(arrival.flow.dst)
    }

    /// Asks for cookies where the limit says so that is passed with this answer, or where its
    /// challenges are not enough. `None`: it is not passed, but more than an [`EARLY`] part of it is
    /// taken, which is enough while SYNs wait in long queues.
    pub(super) fn ask_for_cookies(
        &mut self,
        arrival: &Arrival<'_>,
        rule: RuleId,
        (group, limit): (u16, Limit),
        limits: &ResolvedLimits,
        answer: Option<OnExcess>,
    ) {
        let (are_long, per_source) = (self.engine.cookieing.are_raised(), limit.is_per_source());
        let raised = match (limits.on_excess, answer) {
            (OnExcess::Syncookies | OnExcess::Challenge, None) if are_long && !per_source => {
                Some(Raise::QueuesFill)
            }
            (OnExcess::Syncookies, Some(_)) if !per_source => None,
            (OnExcess::Challenge, Some(_)) if are_long => Some(Raise::QueuesFill),
            (OnExcess::Challenge, Some(OnExcess::Syncookies)) => Some(Raise::AllProven),
            _ => return,
        };
        if !self.may_have_cookies(arrival) {
            return;
        }
        let shield = Shield {
            address: arrival.flow.dst,
            port: arrival.flow.dst_port,
            in_if: arrival.meta.in_if,
            limit,
            of_rule: RuleId(group),
            rule,
            most: limits.limit(limit).value.unwrap_or_default(),
            calm: limits.calm,
            raised,
        };
        if self.out.asked.note(&shield, self.now) {
            self.out.shields.push(shield);
        }
    }

    /// A packet of a known connection that is behind a cookie, or meets the kernel's SYN.
    ///
    /// # Errors
    /// It opens a new one in its place.
    pub(super) fn judge_behind<A: Family>(
        &mut self,
        held: &mut Held<'_>,
        met: &Met<'_, A>,
    ) -> Result<Verdict, Replaced> {
        let Met { slot, key, sender, arrival } = *met;
        let Some(entry) = A::table(held.shard).get(slot) else { return Err(Replaced(None)) };
        let connection = &entry.connection;
        let (phase, direction) = (connection.phase, sender.direction(connection.opener()));
        let is_over = matches!(phase, Phase::TimeWait | Phase::Reset);
        if connection.tag() & BEHIND == 0 && self.out.opening && !is_over {
            return Ok(self.give_way::<A>(held, slot, key));
        }
        let behind = held.shard.behind::<A>(slot).copied();
        if let (Some(behind), Content::Tcp(Kind::Ack, segment)) = (behind, arrival.content)
            && (direction, phase) == (Direction::Reply, Phase::Established)
            && behind.shift.is_some()
            && !behind.repeated
            && self.repeat_last_ack::<A>(held, slot, key, behind, segment)
        {
            return Ok(Verdict::Drop(DropReason::AckRepeated));
        }
        let undone;
        let mut read = *arrival;
        // Where the kernel tells by how much it shifts, that is undone already.
        if direction == Direction::Original
            && arrival.meta.renumbered.is_none()
            && let (Some(behind), Content::Tcp(kind, segment)) = (behind, arrival.content)
        {
            undone = behind.read_of_client(*segment);
            read.content = Content::Tcp(kind, &undone);
        }
        self.out.is_read = true;
        let verdict = self.judge_known(held, &Met { arrival: &read, ..*met });
        self.out.is_read = false;
        let verdict = verdict?;
        let (Some(behind), Content::Tcp(kind, segment)) = (behind, arrival.content) else {
            return Ok(verdict);
        };
        let is_same = A::table(held.shard).get(slot).is_some_and(|entry| entry.key == *key);
        if verdict != Verdict::Accept || direction == Direction::Original || !is_same {
            return Ok(verdict);
        }
        match kind {
            Kind::SynAck if behind.shift.is_none() => {
                Ok(self.answered::<A>(held, slot, key, behind, segment))
            }
            Kind::Rst if phase != Phase::SynSent && !is_over => {
                self.pass_rst_on::<A>(held, slot, key, behind, segment);
                Ok(verdict)
            }
            Kind::Syn | Kind::SynAck | Kind::Ack | Kind::Fin | Kind::Rst => Ok(verdict),
        }
    }

    /// The kernel opens a connection where one is known that it has not opened so: the
    /// client has forgotten that, or its first SYN was let in just before. Its entry in
    /// conntrack must go, because the numbers of one that was not opened so are not
    /// translated; the client repeats what it says, and the kernel its SYN.
    fn give_way<A: Family>(&mut self, held: &mut Held<'_>, slot: Slot, key: &Key<A>) -> Verdict {
        let opener = A::table(held.shard).get(slot).map(|entry| entry.connection.opener());
        self.end::<A>(held, slot, false, CloseReason::Replaced, true);
        if let Some(opener) = opener {
            held.shard.remember_ended(key.hash(&self.engine.secret), self.now);
            self.out.transmits.push_back(Transmit::Forget { flow: key.flow(opener) });
        }
        Verdict::Drop(DropReason::Unexpected)
    }

    /// The rule that would let in a connection which is met in its middle by this packet;
    /// of one behind a cookie it is known who has opened it.
    pub(super) fn pickup_of(&self, arrival: &Arrival<'_>) -> Option<Pickup> {
        match self.out.behind {
            Some(Some(shift)) => self.ruling.pickup_from(shift.from_client, arrival.meta, &arrival.flow),
            Some(None) | None => self.ruling.pickup(arrival.meta, &arrival.flow),
        }
    }

    /// Meets a connection behind a cookie in its middle, whose segment is read as it would
    /// be without: `None` if what the kernel adds must be asked for first.
    pub(super) fn read_behind(&mut self, arrival: &Arrival<'_>, segment: &Segment) -> Option<Segment> {
        let Some(known) = self.out.behind else { return Some(*segment) };
        let Some(Shift { added, from_client }) = known else {
            self.out.wants_numbers = Some(arrival.flow);
            return None;
        };
        let is_read = !from_client || arrival.meta.renumbered.is_some();
        Some(if is_read { *segment } else { Behind::met(added).read_of_client(*segment) })
    }

    /// Notes that a connection which was met in its middle is behind a cookie.
    pub(super) fn note_behind<A: Family>(&self, held: &mut Held<'_>, key: &Key<A>, hash: u64) {
        let Some(Some(Shift { added, .. })) = self.out.behind else { return };
        let Some(slot) = A::table(held.shard).find(key, hash) else { return };
        if let Some(entry) = A::table(held.shard).get_mut(slot) {
            entry.connection.add_tag(BEHIND);
            held.shard.put_behind::<A>(slot, Behind::met(added));
        }
    }

    /// The server has answered, and the kernel finishes the handshake at once, by an ACK
    /// that no hook of ours may see: a queue would hold it up until the kernel translates
    /// what is right already.
    fn answered<A: Family>(
        &mut self,
        held: &mut Held<'_>,
        slot: Slot,
        key: &Key<A>,
        mut behind: Behind,
        answer: &Segment,
    ) -> Verdict {
        let now = self.now;
        let Some(mut connection) = A::table(held.shard).live(slot) else { return Verdict::Accept };
        let stamps = behind.stamps.zip(answer.options.timestamps);
        let stamp_shift = stamps.map_or(0, |((_, cookie), (value, _))| value.wrapping_sub(cookie));
        behind.shift = Some((behind.cookie.since(answer.seq), stamp_shift));
        behind.repeated = stamps.is_none();
        let mut last = *answer;
        (last.src_port, last.dst_port) = (answer.dst_port, answer.src_port);
        (last.seq, last.ack) = (answer.ack, answer.seq.plus(1));
        (last.flags, last.window, last.payload_len) = (Flags::ACK, behind.window, 0);
        last.options = wire::TcpOptions {
            timestamps: stamps.map(|((value, _), (echo, _))| (value, echo)),
            ..wire::TcpOptions::default()
        };
        let before = connection.standing();
        let outcome = tcp::step(&mut connection, Direction::Original, Kind::Ack, &last, now);
        drop(connection);
        debug_assert_eq!(outcome, Outcome::Pass, "it is made to fit");
        held.shard.put_behind::<A>(slot, behind);
        self.after_step::<A>(held, slot, key, before);
        match self.out.too_many.take() {
            Some(limit) => self.end_too_many::<A>(held, slot, limit),
            None => Verdict::Accept,
        }
    }

    /// The server repeats that it waits for the handshake's last ACK: some kernels shift the
    /// timestamp in the one that they have sent (seen up to 6.18), and newer servers refuse
    /// that. A client which waits for the server to speak first would wait for ever. The
    /// kernel translates this one like any that comes from the client. `true`: it was sent, and
    /// what asks for it is not for the client, which would echo its timestamp; the server refuses
    /// in its handshake what echoes a later one than its SYN-ACK's, and the client's first data
    /// would have to be sent again.
    fn repeat_last_ack<A: Family>(
        &mut self,
        held: &mut Held<'_>,
        slot: Slot,
        key: &Key<A>,
        mut behind: Behind,
        segment: &Segment,
    ) -> bool {
        let Some(entry) = A::table(held.shard).get(slot) else { return false };
        let connection = &entry.connection;
        let (client, server) = (&connection.original, &connection.reply);
        let is_first = segment.payload_len == 0
            && segment.seq == server.iss.plus(1)
            && segment.ack == client.iss.plus(1)
            && client.end == segment.ack;
        let flow = key.flow(connection.opener());
        behind.repeated = true;
        held.shard.put_behind::<A>(slot, behind);
        let may = is_first && self.may_send();
        if may {
            self.out.transmits.push_back(Transmit::Acknowledge {
                flow,
                tuple: flow.tuple(),
                seq: segment.ack,
                ack: behind.cookie.plus(1),
                window: behind.window,
                timestamps: behind.stamps,
            });
        }
        may
    }

    /// Of an RST of the server's the kernel believes that it refuses the SYN, and gives it
    /// the number that it would have then: the client would not take it. It gets another.
    fn pass_rst_on<A: Family>(
        &mut self,
        held: &mut Held<'_>,
        slot: Slot,
        key: &Key<A>,
        behind: Behind,
        rst: &Segment,
    ) {
        let Some(entry) = A::table(held.shard).get(slot) else { return };
        let connection: &Connection = &entry.connection;
        if connection.phase == Phase::Reset && connection.reply.seen.has(Seen::RST) {
            let (flow, hook) = (key.flow(connection.opener()), hook_of(connection.tag()));
            self.reset_untranslated(&flow, behind.toward_client(rst.seq), hook);
        }
    }

    /// An RST to a client in its own numbers.
    pub(super) fn reset_untranslated(&mut self, flow: &Flow, seq: SeqNum, hook: Hook) {
        if self.may_send() {
            let tuple = flow.reversed().tuple();
            let reset = Transmit::Reset { flow: *flow, tuple, seq, ack: None, hook, untranslated: true };
            self.out.transmits.push_back(reset);
        }
    }

    /// Ends what the kernel has opened behind a cookie toward the client, which believes
    /// from the start that it is connected.
    pub(super) fn reset_client_behind(
        &mut self,
        flow: &Flow,
        connection: &Connection,
        behind: &Behind,
        hook: Hook,
    ) {
        if behind.shift.is_none() {
            return self.reset_untranslated(flow, behind.cookie.plus(1), hook);
        }
        let (server, client) = (&connection.reply, &connection.original);
        for seq in expected(server, client).into_iter().flatten() {
            self.reset_untranslated(flow, behind.toward_client(seq), hook);
        }
    }
}
