//! What must hold at every step, against the true state of both ends.

use halfgate::{
    conntrack::{Phase, Timer},
    engine::{CloseReason, Engine, Event, Verdict, View},
    wire::Flags,
};

use super::{
    attacker::Most,
    endpoint::{End, Host, Past, State, Tcb, all},
    packet::{Origin, Packet},
    world::Sum,
};

/// How long an attempt to open may take when both ends are there: an old
/// TIME-WAIT (two minutes at most) and a few rounds of SYN retransmission.
const OPENS_WITHIN: u64 = 600_000;

/// How long a SYN waits for its answer.
const SYN_SENT: u64 = 30_000;

/// The firewall's clock ticks: a stamp is a hundredth of a second.
const STAMP: u64 = 10;

#[derive(Debug, Default)]
pub struct Laws {
    phase: Option<Phase>,
    /// The last entry ended as the documentation says, `true`: by an RST.
    excused: Option<bool>,
    honest_rsts: u64,
    rsts_at_open: u64,
    last_rst: u64,
    /// When the entry came about, and when TIME-WAIT last ended.
    opened_at: u64,
    finished_at: Option<u64>,
    /// When a packet that its receiver could use last passed; one that was no FIN;
    /// one with new data.
    useful: u64,
    useful_from: [u64; 2],
    useful_no_fin: u64,
    useful_data: u64,
    useful_repair: u64,
    /// When a FIN that its receiver in TIME-WAIT knows last passed.
    last_fin: u64,
    since: u64,
    trying: Option<u64>,
    dropped: [u64; 2],
    seen_past: [usize; 2],
    /// The table was lost, and until when what goes on is picked up.
    lost: Option<u64>,
    /// It was lost while the ends of this connection, or their attempt, lived.
    restarted: bool,
    /// The kernel's conntrack knows the connection.
    kernel_knows: bool,
    /// Only one direction has come by so far.
    one_way: bool,
    /// An end has begun anew, as the firewall says.
    stale: bool,
    /// The other direction comes by as well by now.
    both_ways: bool,
    /// The connection was met after its handshake.
    met: bool,
}

fn paired(a: &Tcb, b: &Tcb) -> bool {
    a.iss == b.irs && b.iss == a.irs
}

fn live_pair(hosts: &[Host; 2]) -> bool {
    match (&hosts[0].tcb, &hosts[1].tcb) {
        (Some(a), Some(b)) => a.is_live() && b.is_live() && paired(a, b),
        _ => false,
    }
}

/// Each has all that the other had to say, and only the last acknowledgement may be
/// missing: what a newer SYN may take the place of (RFC 9293 §3.6.1).
fn both_have_all(hosts: &[Host; 2]) -> bool {
    hosts.iter().all(|host| host.tcb.as_ref().is_some_and(|t| t.fin_received))
}

fn some_pair(hosts: &[Host; 2], what: impl Fn(&Tcb, &Tcb) -> bool) -> bool {
    all(&hosts[0]).any(|a| all(&hosts[1]).any(|b| paired(a, b) && what(a, b)))
}

impl Laws {
    pub const fn honest_rst(&mut self, now: u64) {
        self.honest_rsts += 1;
        self.last_rst = now;
    }

    pub const fn opened(&mut self) {
        self.trying = None;
    }

    pub const fn disturbed(&mut self) {
        self.trying = None;
    }

    /// The gateway has started anew.
    pub const fn table_lost(&mut self, picked_up_until: u64) {
        self.phase = None;
        self.excused = None;
        self.lost = Some(picked_up_until);
        self.restarted = true;
    }

    /// What the gateway knows of the packet that comes.
    pub const fn at_gateway(&mut self, kernel_knows: bool, one_way: bool, both_ways: bool) {
        self.kernel_knows = kernel_knows;
        self.one_way = one_way;
        self.both_ways = both_ways;
    }

    /// Law 5: after the table was lost, what goes on is picked up where it may be (the
    /// kernel knows it, or within the grace), and the rest is told so and never left to
    /// silence.
    fn without_table(
        &self,
        until: u64,
        packet: &Packet,
        hosts: &[Host; 2],
        verdict: Verdict,
        now: u64,
    ) -> Result<(), String> {
        let flags = packet.segment.flags;
        let may_be_met = !flags.intersects(Flags::SYN.with(Flags::RST)) && (now < until || self.kernel_knows);
        if may_be_met && live_pair(hosts) {
            return Err(format!("{packet} was not picked up but {verdict:?}"));
        }
        if !flags.contains(Flags::RST) && !matches!(verdict, Verdict::Reset(_)) {
            return Err(format!("{packet} belongs to nothing, and nobody is told: {verdict:?}"));
        }
        Ok(())
    }

    const fn begin(&mut self, phase: Phase, now: u64) {
        // Without its SYN it is met in the middle, or by its answer.
        self.met = !matches!(phase, Phase::SynSent);
        self.lost = None;
        self.phase = Some(phase);
        self.excused = None;
        self.rsts_at_open = self.honest_rsts;
        self.since = now;
        self.opened_at = now;
        self.useful = 0;
        self.useful_from = [0; 2];
        self.useful_no_fin = 0;
        self.useful_data = 0;
        self.useful_repair = 0;
        self.last_fin = 0;
        self.stale = false;
    }

    /// Law 3: what crashed comes back.
    pub fn attempt(&mut self, now: u64, peer_is_up: bool) -> Result<(), String> {
        if !peer_is_up {
            self.trying = None;
            return Ok(());
        }
        let since = *self.trying.get_or_insert(now);
        if now - since > OPENS_WITHIN {
            return Err(format!("no connection could be made for {} s", (now - since) / 1000));
        }
        Ok(())
    }

    /// Law 1: what passed counts for the shadow timers.
    pub fn passed(&mut self, packet: &Packet, receiver: &Host, now: u64) {
        if packet.origin != Origin::End {
            return;
        }
        let s = &packet.segment;
        let Some(tcb) = &receiver.tcb else { return };
        let waits = tcb.state == State::TimeWait && self.phase == Some(Phase::TimeWait);
        if waits && s.flags.contains(Flags::FIN) && s.end() == tcb.rcv {
            self.last_fin = now;
        }
        let answer = s.flags.contains(Flags::ACK)
            && !s.flags.intersects(Flags::RST.with(Flags::SYN))
            && tcb.is_live()
            && (s.seq == tcb.rcv || s.seq.plus(1) == tcb.rcv)
            && s.ack.after_or_at(tcb.una)
            && s.ack.before_or_at(tcb.nxt);
        let moved = !s.flags.contains(Flags::SYN) && receiver.would_move(s, now);
        if moved || answer {
            self.useful = now;
            self.useful_from[packet.from as usize] = now;
            if !s.flags.contains(Flags::FIN) {
                self.useful_no_fin = now;
            }
        }
        if moved && s.payload_len > 1 && !tcb.fin_received && s.seq.after_or_at(tcb.rcv) {
            self.useful_data = now;
            if !s.flags.contains(Flags::FIN) {
                self.useful_repair = now;
            }
        }
    }

    /// Law 1: nothing that its receiver would take is dropped.
    pub fn dropped(
        &mut self,
        packet: &Packet,
        hosts: &[Host; 2],
        verdict: Verdict,
        now: u64,
    ) -> Result<(), String> {
        let (sender, receiver) = (&hosts[packet.from as usize], &hosts[packet.from.other() as usize]);
        let is_syn = packet.segment.flags.contains(Flags::SYN) && !packet.segment.flags.contains(Flags::ACK);
        let excused = match self.phase {
            Some(_) => None,
            None => self.excused,
        };
        if !is_syn && excused.is_some_and(|by_rst| !(by_rst && live_pair(hosts))) {
            return Ok(());
        }
        if let (Some(until), None) = (self.lost, self.phase) {
            return self.without_table(until, packet, hosts, verdict, now);
        }
        // A late duplicate of its SYN, which comes after the restart, hides a connection
        // that lives, for `syn_sent`; and what the last table knew of crossing SYNs is lost.
        let in_handshake = packet.segment.flags.contains(Flags::SYN) || live_pair(hosts);
        if self.restarted && self.phase == Some(Phase::SynSent) && in_handshake {
            return Ok(());
        }
        // How far an end has come that is never seen, the number of an RST does not tell.
        if self.one_way && packet.segment.flags.contains(Flags::RST) {
            return Ok(());
        }
        self.dropped[packet.from as usize] = now;
        // A new SYN has overtaken what its own sender said last on a connection that it
        // has given up: the challenge that the SYN draws is answered with an RST.
        let of_the_last = match (&sender.tcb, &receiver.tcb) {
            (Some(a), Some(b)) => !paired(a, b) && a.state == State::SynSent && !a.is_of(&packet.segment),
            _ => false,
        };
        if of_the_last && self.phase == Some(Phase::SynSent) {
            return Ok(());
        }
        let forgot = packet.segment.flags.contains(Flags::RST)
            || sender
                .tcb
                .as_ref()
                .zip(receiver.tcb.as_ref())
                .is_some_and(|(a, b)| paired(a, b) && a.is_of(&packet.segment));
        let answered = receiver.tcb.as_ref().is_some_and(Tcb::is_live)
            && forgot
            && receiver.would_answer(&packet.segment, now);
        if answered {
            return Err(format!(
                "{:?} would have answered {packet}, dropped as {verdict:?} in {:?}",
                receiver.side, self.phase
            ));
        }
        if receiver.would_move(&packet.segment, now) {
            return Err(format!(
                "{:?} would have taken {packet}, dropped as {verdict:?} in {:?}",
                receiver.side, self.phase
            ));
        }
        Ok(())
    }

    /// What the firewall says happened; `phase` is what the table has now.
    pub fn event(
        &mut self,
        event: &Event,
        phase: Option<Phase>,
        hosts: &[Host; 2],
        now: u64,
        sum: &mut Sum,
    ) -> Result<(), String> {
        match event {
            Event::Opened { .. } => {
                if live_pair(hosts) && !both_have_all(hosts) && self.phase.is_some() {
                    return Err("a live connection was replaced".into());
                }
                self.begin(phase.unwrap_or(Phase::SynSent), now);
                sum.met += u64::from(self.met);
                Ok(())
            }
            Event::Phase { from, to, .. } => {
                if self.phase != Some(*from) {
                    return Err(format!("phase {from} was {:?}", self.phase));
                }
                if *to == Phase::SynReceived && *from != Phase::SynSent {
                    return Err(format!("from {from} a handshake began without a connection's end"));
                }
                self.phase = Some(*to);
                self.since = now;
                let needs_both = matches!(to, Phase::HalfClosed | Phase::Closing | Phase::TimeWait);
                if self.one_way && !self.both_ways && needs_both {
                    return Err(format!("{to} by one direction alone"));
                }
                // That the unseen end has answered is what the seen one's next segment says;
                // an RST may be older than what the firewall has met.
                let told = matches!(to, Phase::Established | Phase::Reset);
                if self.one_way && told { Ok(()) } else { self.truth(*to, hosts) }
            }
            Event::Closed(closed) => {
                let phase = self.phase.take();
                let restarted = std::mem::take(&mut self.restarted);
                if phase != Some(closed.phase) {
                    return Err(format!("closed in {} but was in {phase:?}", closed.phase));
                }
                if let CloseReason::Expired { timer: Timer::TimeWait, after, .. } = closed.reason
                    && now + STAMP < self.last_fin + u64::try_from(after.as_millis()).unwrap_or(0)
                {
                    return Err(format!("time_wait ended {} ms after a FIN", now - self.last_fin));
                }
                if closed.reason == CloseReason::Finished {
                    self.finished_at = Some(now);
                }
                // What both ends forgot goes before the new connection is asked for.
                self.excused = match closed.reason {
                    CloseReason::Expired { .. } | CloseReason::Replaced => Some(false),
                    // An end whose RST was lost says more, and is told again, by the gateway.
                    CloseReason::Rst(_) | CloseReason::Forgotten(_) => Some(true),
                    _ => None,
                };
                if live_pair(hosts) && !(phase == Some(Phase::TimeWait) && both_have_all(hosts)) {
                    sum.excused += 1;
                    self.restarted = restarted;
                    let law = self.ended_alive(closed.reason, now);
                    self.restarted = false;
                    return law;
                }
                Ok(())
            }
            Event::Stale { by, .. } => {
                self.stale = by.is_some();
                Ok(())
            }
            Event::Logged { .. }
            | Event::Proven { .. }
            | Event::LimitPassed { .. }
            | Event::Refused { .. } => Ok(()),
        }
    }

    /// A live connection ends only by a timer that has really run out.
    fn ended_alive(&self, reason: CloseReason, now: u64) -> Result<(), String> {
        let CloseReason::Expired { timer, after, .. } = reason else {
            return Err(format!("a live connection was ended: {reason:?}"));
        };
        let after = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
        if self.one_way && self.stale && timer == Timer::Established {
            // Of two ends that have begun anew the firewall has seen one.
            return Ok(());
        }
        let from = match timer {
            Timer::Established | Timer::Unacknowledged => self.useful,
            // The end that the RST went to vouches for itself, its peer does not.
            Timer::UnverifiedRst => self.useful_from[0].min(self.useful_from[1]),
            Timer::FinWait => self.useful_no_fin.max(self.since),
            Timer::HalfClosed => self.useful_data.max(self.since),
            Timer::Closing => self.useful_repair.max(self.since),
            // Nobody is told, and what goes on is met again.
            Timer::SynSent if self.restarted => self.since,
            Timer::SynReceived if self.one_way => self.since,
            _ => return Err(format!("a live connection was ended by {timer}")),
        };
        if now + STAMP < from + after {
            return Err(format!("{timer} ended a live connection {} ms after its last packet", now - from));
        }
        Ok(())
    }

    /// A phase must be what really happened.
    fn truth(&self, phase: Phase, hosts: &[Host; 2]) -> Result<(), String> {
        let holds = match phase {
            Phase::Established => some_pair(hosts, |_, _| true),
            Phase::FinWait => some_pair(hosts, |a, b| a.fin_sent || b.fin_sent),
            Phase::HalfClosed => {
                some_pair(hosts, |a, b| (a.fin_sent && b.fin_received) || (b.fin_sent && a.fin_received))
            }
            Phase::Closing => some_pair(hosts, |a, b| a.fin_sent && b.fin_sent),
            Phase::TimeWait => {
                some_pair(hosts, |a, b| a.fin_sent && b.fin_received && b.fin_sent && a.fin_received)
            }
            // A SYN may have opened it that went by before, while TIME-WAIT lasted.
            Phase::Reset => {
                let taken_up = self.finished_at == Some(self.opened_at);
                self.honest_rsts > self.rsts_at_open
                    || ((taken_up || self.restarted) && self.last_rst + SYN_SENT >= self.opened_at)
            }
            _ => true,
        };
        if phase == Phase::Reset && live_pair(hosts) {
            return Err("reset, but both ends live".into());
        }
        if holds { Ok(()) } else { Err(format!("{phase} is not what happened")) }
    }

    /// The ends themselves: complete data, no time-out behind a firewall that drops.
    pub fn ends(&mut self, hosts: &[Host; 2], now: u64, sum: &mut Sum) -> Result<(), String> {
        for (i, host) in hosts.iter().enumerate() {
            while let Some(past) = host.past.get(self.seen_past[i]) {
                self.seen_past[i] += 1;
                sum.ended(past.end);
                self.end_of(past, &hosts[1 - i], self.dropped[i], now)?;
            }
        }
        Ok(())
    }

    fn end_of(&self, past: &Past, peer: &Host, dropped: u64, now: u64) -> Result<(), String> {
        let other = all(peer).find(|other| paired(&past.tcb, other));
        match past.end {
            End::Clean => {
                let Some(other) = other else { return Err("clean end of half a connection".into()) };
                let got = u64::from(past.tcb.rcv.since(past.tcb.irs)) - 2;
                if got != other.written {
                    return Err(format!("{got} octets arrived of {}", other.written));
                }
                // Both FINs and their acknowledgements went by here.
                let over = [None, Some(Phase::TimeWait), Some(Phase::SynSent), Some(Phase::SynReceived)];
                let finished = past.tcb.state == State::LastAck
                    && peer.tcb.as_ref().is_some_and(|t| t.state == State::TimeWait && paired(&past.tcb, t));
                if finished && !self.met && !self.one_way && !over.contains(&self.phase) {
                    return Err(format!("both ends have closed, the firewall is in {:?}", self.phase));
                }
                Ok(())
            }
            End::TimedOut
                if now - dropped < 120_000 && peer.tcb.as_ref().is_some_and(|t| paired(&past.tcb, t)) =>
            {
                Err("an end timed out whose packets the firewall drops".into())
            }
            _ => Ok(()),
        }
    }

    /// Law 4: the attacker moved nothing.
    pub fn attacked(
        &self,
        before: &View,
        after: Option<&View>,
        most: Most,
        packet: &Packet,
    ) -> Result<(), String> {
        let Some(after) = after else { return Err(format!("{packet} ended the connection")) };
        if (after.phase, after.flow) != (before.phase, before.flow) {
            return Err(format!("{packet} moved {} to {}", before.phase, after.phase));
        }
        if most != Most::Timer && (after.timer, after.expires_in) != (before.timer, before.expires_in) {
            return Err(format!("{packet} moved {} {:?}", before.timer, before.expires_in));
        }
        Ok(())
    }

    /// Law 2: the books agree.
    pub fn books(&self, engine: &Engine) -> Result<(), String> {
        if !self.since.is_multiple_of(16) {
            return Ok(());
        }
        let counters = engine.counters();
        let by_phase: u64 = counters.phases.iter().map(|(_, count)| count).sum();
        let half_open: u64 =
            counters.phases.iter().filter(|(name, _)| name.starts_with("syn_")).map(|(_, count)| count).sum();
        let dropped: u64 = counters.dropped.iter().map(|(_, count)| count).sum();
        if by_phase != counters.connections
            || counters.opened - counters.closed != counters.connections
            || half_open != counters.embryonic + counters.uncounted
            || counters.accepted + dropped != counters.packets
            || counters.connections != u64::from(self.phase.is_some())
        {
            return Err(format!("the books disagree: {counters:?}"));
        }
        Ok(())
    }

    /// Law 2: nothing is left but the firewall's entry; it must be one that waits for a timer.
    pub fn lingering(&self, hosts: &[Host; 2], now: u64) -> Result<(), String> {
        let Some(phase) = self.phase.filter(|_| !self.met && !self.one_way) else { return Ok(()) };
        let clean = hosts.iter().all(|h| h.past.last().is_some_and(|past| past.end == End::Clean));
        let last = hosts.iter().filter_map(|h| h.past.last()).map(|past| past.at).max().unwrap_or(now);
        if clean && hosts.iter().all(|h| h.tcb.is_none()) && now - last > 200_000 {
            return Err(format!("both ends closed {} s ago, still {phase}", (now - last) / 1000));
        }
        Ok(())
    }

    /// When all is over nothing is left.
    pub fn over(&self, hosts: &[Host; 2], engine: &Engine) -> Result<(), String> {
        let counters = engine.counters();
        if counters.connections != 0 || counters.embryonic != 0 {
            return Err(format!("left over: {counters:?}"));
        }
        if hosts.iter().any(|h| h.tcb.as_ref().is_some_and(Tcb::awaits_answer)) {
            return Err("an end is left with a connection".into());
        }
        if live_pair(hosts) && self.excused != Some(false) {
            return Err("both ends are left with a connection that no timer has ended".into());
        }
        Ok(())
    }
}
