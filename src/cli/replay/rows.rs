//! The connections of a replay: a row each, with what went over the wire and what
//! became of it under each rule set.

use std::net::{IpAddr, Ipv4Addr};

use super::{
    headers::{Content, Seen},
    index::{self, Index},
    shelves::{Number, Shelves},
    zeek,
};
use crate::{
    conntrack::{Fetch, Flow, Instant, Phase},
    engine::{CloseReason, Closed, Counts, DropReason, Event, Peer, Verdict},
    policy::RuleId,
    wire::Flags,
};

/// What became of a connection under one rule set.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Fate {
    /// The phase it is in, or was in when it ended; `None`: never tracked.
    pub(super) phase: Option<Phase>,
    /// Why it ended.
    pub(super) close: Option<CloseReason>,
    /// The rule that let it in.
    pub(super) rule: Option<RuleId>,
    /// The end that seems to have forgotten it.
    pub(super) forgotten_by: Option<Peer>,
    /// Who sent the RST that was believed; `None`: the opener.
    reset_by: Option<Peer>,
    /// Times it was opened: a tuple may be, again and again, by the same SYN.
    pub(super) opened: u32,
    /// Verdicts on its packets; all others were accepted.
    pub(super) dropped: u64,
    pub(super) reset: u64,
    pub(super) reasons: Vec<(DropReason, u64)>,
}

impl Fate {
    /// Why it ended; what an RST or both FINs ended is over before its timer fires.
    pub(super) fn close_reason(&self) -> Option<CloseReason> {
        let reset_by = self.reset_by.unwrap_or(Peer::Client);
        self.close.or(match self.phase {
            Some(Phase::TimeWait) => Some(CloseReason::Finished),
            Some(Phase::Reset) if self.forgotten_by == Some(reset_by) => {
                Some(CloseReason::Forgotten(reset_by))
            }
            Some(Phase::Reset) => Some(CloseReason::Rst(reset_by)),
            _ => None,
        })
    }

    fn count(&mut self, verdict: Verdict) {
        let reason = match verdict {
            Verdict::Accept => return,
            Verdict::Drop(reason) => {
                self.dropped += 1;
                reason
            }
            Verdict::Reset(reason) => {
                self.reset += 1;
                reason
            }
        };
        match self.reasons.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, count)) => *count += 1,
            None => self.reasons.push((reason, 1)),
        }
    }
}

/// What its packets say.
#[derive(Clone, Debug)]
enum Wire {
    Tcp(zeek::Connection),
    Other { is_udp: bool, history: String, bad_sums: [zeek::Scaled; 2], last: Instant },
}

/// One connection: what each of its packets needs, in as few cache lines as it takes.
#[derive(Clone, Debug)]
pub(super) struct Row {
    /// From its originator, as far as packets tell.
    pub(super) flow: Flow,
    pub(super) original: Counts,
    pub(super) reply: Counts,
    wire: Wire,
    /// One for each rule set.
    pub(super) fates: Box<[Fate]>,
    /// The first packet that two rule sets judged differently, and both verdicts.
    pub(super) differs: Option<Box<(u64, [Verdict; 2])>>,
}

impl Row {
    fn new(seen: &Seen, sides: usize) -> Self {
        let flow = seen.flow;
        let turned = match &seen.content {
            Content::Tcp(tcp) => zeek::is_tcp_reply(tcp, flow.src_port, flow.dst_port),
            Content::Udp => zeek::is_udp_reply(flow.src_port, flow.dst_port),
            // A reply whose request was not seen.
            Content::Echo => flow.src_port == 0 && flow.dst_port != 0,
            Content::Other => false,
        };
        let turned = turned && flow.dst != IpAddr::V4(Ipv4Addr::BROADCAST);
        let wire = match seen.content {
            Content::Tcp(_) => Wire::Tcp(zeek::Connection::new(turned)),
            Content::Udp | Content::Echo | Content::Other => Wire::Other {
                is_udp: seen.content == Content::Udp,
                history: if turned { "^".to_owned() } else { String::new() },
                bad_sums: [zeek::Scaled::NEW; 2],
                last: Instant(0),
            },
        };
        Self {
            flow: if turned { flow.reversed() } else { flow },
            original: Counts::default(),
            reply: Counts::default(),
            wire,
            fates: vec![Fate::default(); sides].into_boxed_slice(),
            differs: None,
        }
    }

    /// How many of its packets a rule set accepted.
    pub(super) fn accepted(&self, fate: &Fate) -> u64 {
        (self.original.packets + self.reply.packets).saturating_sub(fate.dropped + fate.reset)
    }

    pub(super) const fn is_tcp(&self) -> bool {
        matches!(self.wire, Wire::Tcp(_))
    }

    /// It was heard of.
    fn lives(&mut self, now: Instant) {
        if let Wire::Other { last, .. } = &mut self.wire {
            *last = now;
        }
    }

    fn is_from_originator(&self, flow: &Flow) -> bool {
        (self.flow.src, self.flow.src_port) == (flow.src, flow.src_port)
    }

    /// What went over the wire.
    fn take(&mut self, seen: &Seen, bad_checksum: bool, now: Instant) {
        let forth = self.is_from_originator(&seen.flow);
        let counts = if forth { &mut self.original } else { &mut self.reply };
        counts.packets += 1;
        counts.bytes += u64::from(seen.len);
        match (&mut self.wire, &seen.content) {
            (Wire::Tcp(connection), Content::Tcp(_)) if bad_checksum => connection.bad_checksum(forth),
            (Wire::Tcp(connection), Content::Tcp(tcp)) => {
                if connection.take(forth, tcp, now) {
                    self.flow = self.flow.reversed();
                    std::mem::swap(&mut self.original, &mut self.reply);
                }
            }
            (Wire::Other { history, bad_sums, .. }, _) if bad_checksum => {
                if bad_sums[usize::from(!forth)].happens() {
                    history.push(if forth { 'C' } else { 'c' });
                }
            }
            (Wire::Other { history, .. }, _) => {
                let letter = if forth { 'D' } else { 'd' };
                if !history.contains(letter) {
                    history.push(letter);
                }
            }
            (Wire::Tcp(_), _) => {}
        }
    }

    /// `conn_state` and `history`.
    pub(super) fn wire(&self) -> (&'static str, &str) {
        match &self.wire {
            Wire::Tcp(connection) => (connection.state(), connection.history()),
            Wire::Other { is_udp, history, .. } => zeek::datagrams(*is_udp, history),
        }
    }

    fn is_reused_by(&self, seen: &Seen) -> bool {
        match (&self.wire, &seen.content) {
            (Wire::Tcp(connection), Content::Tcp(tcp)) => connection.is_reused_by(tcp),
            _ => false,
        }
    }

    /// Whether Zeek has forgotten it by `now`.
    fn is_forgotten(&self, now: Instant) -> Option<zeek::Forgotten> {
        match &self.wire {
            Wire::Tcp(connection) => connection.is_forgotten(now, self.flow.dst_port),
            Wire::Other { last, .. } => {
                (now.since(*last) >= zeek::DATAGRAM_SILENCE).then_some(zeek::Forgotten::Silent)
            }
        }
    }
}

/// A packet with what was decided.
pub(super) struct Judged<'a> {
    pub(super) seen: &'a Seen,
    /// Of its tuple, as [`Rows::hash`] has it.
    pub(super) hash: u32,
    /// Its number in the capture.
    pub(super) number: u64,
    pub(super) now: Instant,
    pub(super) bad_checksum: bool,
    /// By rule set.
    pub(super) verdicts: &'a [Verdict],
    /// What happened while it was judged, by rule set.
    pub(super) events: &'a [Vec<Event>],
}

/// All connections, in the order of their first packets.
#[derive(Debug)]
pub(super) struct Rows {
    /// Under so many rule sets.
    sides: usize,
    all: Shelves,
    index: Index,
}

impl Rows {
    pub(super) fn new(sides: usize) -> Self {
        Self { sides, all: Shelves::default(), index: Index::default() }
    }

    pub(super) const fn all(&self) -> &Shelves {
        &self.all
    }

    /// A packet, its verdicts, and what happened with them.
    pub(super) fn packet(&mut self, judged: &Judged<'_>) {
        let (seen, hash) = (judged.seen, judged.hash);
        let known = self.index.find(&self.all, hash, &seen.flow);
        let mine = |event: &Event| flow_of(event).is_some_and(|flow| index::is_same(flow, &seen.flow));
        let opens = |events: &Vec<Event>| {
            events.iter().any(|event| matches!(event, Event::Opened { .. }) && mine(event))
        };
        let at = match known.and_then(|at| self.all.get(at).map(|row| (at, row))) {
            Some((at, row)) if !Self::begins_anew(row, judged, judged.events.first().is_some_and(&opens)) => {
                at
            }
            _ => {
                let opens: Vec<bool> = judged.events.iter().map(opens).collect();
                let Some(at) = self.add(hash, seen, known, &opens) else { return };
                at
            }
        };
        for (side, events) in judged.events.iter().enumerate() {
            // What ended for this packet is the connection before it.
            let mut is_new = false;
            for event in events {
                is_new |= matches!(event, Event::Opened { .. }) && mine(event);
                match known {
                    _ if !mine(event) => self.event(side, event),
                    Some(known) if !is_new && matches!(event, Event::Closed(_)) => {
                        self.apply(known, side, event, None);
                    }
                    _ => self.apply(at, side, event, Some(seen)),
                }
            }
        }
        let Some(row) = self.all.get_mut(at) else { return };
        row.lives(judged.now);
        row.take(seen, judged.bad_checksum, judged.now);
        if judged.verdicts.iter().all(|verdict| *verdict == Verdict::Accept) {
            return;
        }
        for (fate, verdict) in row.fates.iter_mut().zip(judged.verdicts) {
            fate.count(*verdict);
        }
        if let [one, other] = judged.verdicts
            && std::mem::discriminant(one) != std::mem::discriminant(other)
            && row.differs.is_none()
        {
            row.differs = Some(Box::new((judged.number, [*one, *other])));
        }
    }

    /// Whether a packet begins another row: on the wire it is another connection,
    /// and none that the table still waits for.
    fn begins_anew(row: &Row, judged: &Judged<'_>, opens: bool) -> bool {
        let is_reused = row.is_reused_by(judged.seen);
        let forgotten = row.is_forgotten(judged.now);
        if !is_reused && forgotten.is_none() {
            return false;
        }
        let fate = row.fates.first();
        let Some(phase) = fate.and_then(|fate| fate.phase) else {
            return is_reused || forgotten.is_some();
        };
        match forgotten {
            Some(_) if opens || fate.is_some_and(|fate| fate.close.is_some()) => true,
            // Here a silent connection lives for longer than with Zeek.
            Some(zeek::Forgotten::Silent) => false,
            // As does one whose SYN is sent again.
            Some(zeek::Forgotten::Over) => !(phase.is_embryonic() && judged.seen.is_syn()),
            None => is_reused && opens,
        }
    }

    /// A new row. A rule set that goes on with the connection of the row before takes it along.
    /// `None`: there are too many.
    fn add(&mut self, hash: u32, seen: &Seen, before: Option<Number>, opens: &[bool]) -> Option<Number> {
        let mut row = Row::new(seen, self.sides);
        if let Some(before) = before.and_then(|at| self.all.get(at)) {
            for ((fate, old), opens) in row.fates.iter_mut().zip(&before.fates).zip(opens) {
                if !opens && old.close.is_none() {
                    (fate.phase, fate.rule) = (old.phase, old.rule);
                }
            }
        }
        let at = self.all.add(row)?;
        self.index.insert(&self.all, hash, at);
        Some(at)
    }

    /// The hash by which a tuple is found.
    pub(super) fn hash(&self, flow: &Flow) -> u32 {
        self.index.hash(flow)
    }

    /// Asks for the place where a hash is looked up.
    pub(super) fn fetch_place(&self, hash: u32, with: &impl Fetch) {
        self.index.fetch_place(hash, with);
    }

    /// Asks for the row that has this hash, most likely.
    pub(super) fn fetch(&self, hash: u32, with: &impl Fetch) {
        if let Some(at) = self.index.likely(hash) {
            self.all.fetch(at, with);
        }
    }

    /// A tuple that was seen, in a packet that may never be whole.
    pub(super) fn notes(&mut self, seen: &Seen, now: Instant) {
        let hash = self.index.hash(&seen.flow);
        if self.index.find(&self.all, hash, &seen.flow).is_none() {
            let at = self.add(hash, seen, None, &[]);
            if let Some(row) = at.and_then(|at| self.all.get_mut(at)) {
                row.lives(now);
            }
        }
    }

    /// Something that happened without a packet of its own.
    pub(super) fn event(&mut self, side: usize, event: &Event) {
        let Some(flow) = flow_of(event) else { return };
        let at = self.index.find(&self.all, self.index.hash(flow), flow);
        if let Some(at) = at {
            self.apply(at, side, event, None);
        }
    }

    fn apply(&mut self, at: Number, side: usize, event: &Event, packet: Option<&Seen>) {
        if let Some(row) = self.all.get_mut(at) {
            apply(row, side, event, packet);
        }
    }
}

const fn flow_of(event: &Event) -> Option<&Flow> {
    match event {
        Event::Opened { flow, .. }
        | Event::Phase { flow, .. }
        | Event::Stale { flow, .. }
        | Event::Closed(Closed { flow, .. }) => Some(flow),
        Event::Logged { .. } | Event::Proven { .. } | Event::LimitPassed { .. } | Event::Refused { .. } => {
            None
        }
    }
}

fn apply(row: &mut Row, side: usize, event: &Event, packet: Option<&Seen>) {
    let Some(fate) = row.fates.get_mut(side) else { return };
    match event {
        Event::Opened { rule, .. } => {
            fate.phase = packet.map(first_phase);
            fate.close = None;
            fate.forgotten_by = None;
            fate.rule = Some(*rule);
            fate.opened += 1;
        }
        Event::Phase { flow, to, .. } => {
            fate.phase = Some(*to);
            if let Some(seen) = packet.filter(|_| *to == Phase::Reset) {
                let by_client = (flow.src, flow.src_port) == (seen.flow.src, seen.flow.src_port);
                fate.reset_by = Some(if by_client { Peer::Client } else { Peer::Server });
            }
        }
        Event::Stale { by, .. } => fate.forgotten_by = *by,
        Event::Closed(closed) => {
            fate.phase = Some(closed.phase);
            fate.close = Some(closed.reason);
        }
        Event::Logged { .. } | Event::Proven { .. } | Event::LimitPassed { .. } | Event::Refused { .. } => {}
    }
}

/// The phase that a first packet makes.
fn first_phase(seen: &Seen) -> Phase {
    match seen.content {
        Content::Tcp(tcp) if tcp.flags.contains(Flags::SYN) => Phase::SynSent,
        // Picked up.
        Content::Tcp(tcp) if tcp.flags.contains(Flags::FIN) => Phase::FinWait,
        Content::Tcp(_) => Phase::Established,
        Content::Udp => Phase::UdpNew,
        Content::Echo => Phase::Icmp,
        Content::Other => Phase::Other,
    }
}
