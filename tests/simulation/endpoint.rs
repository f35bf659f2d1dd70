//! One end: a small but honest TCP.
//!
//! RFC 9293 §3.10 states and segment arrival, RFC 5961 challenge ACKs, RFC 7323
//! scaling and PAWS, RFC 6298 retransmission with backoff, RFC 6191 TIME-WAIT
//! reuse, delayed ACKs, zero windows and their probes, keepalives, Fast Open data.
//! Data are positions, not octets: what matters is which of them arrive.

use halfgate::wire::{Flags, Segment, SeqNum, TcpOptions};

use super::{
    packet::{Side, answer_rst, segment},
    rng::Rng,
};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    SynSent,
    SynReceived,
    Established,
    FinWait1,
    FinWait2,
    CloseWait,
    Closing,
    LastAck,
    TimeWait,
}

/// How an end behaves.
#[derive(Clone, Debug)]
pub struct Style {
    pub mss: u32,
    pub buffer: u32,
    pub scale: Option<u8>,
    pub timestamps: bool,
    pub sack: bool,
    pub fast_open: bool,
    pub in_flight: u32,
    pub delayed_ack: u64,
    pub keepalive: Option<u64>,
    pub probe_octet: bool,
    pub time_wait: u64,
}

impl Style {
    pub fn of(rng: &mut Rng) -> Self {
        let mut style = Self {
            mss: rng.pick(&[100, 100, 536, 1460]),
            buffer: rng.pick(&[1, 300, 2_000, 10_000, 65_535, 65_535, 200_000]),
            scale: rng.pick(&[None, Some(0), Some(2), Some(7), Some(7), Some(14)]),
            timestamps: rng.percent(50),
            sack: rng.percent(50),
            fast_open: rng.percent(20),
            in_flight: rng.pick(&[1, 4, 10, 40]),
            delayed_ack: rng.pick(&[0, 40, 200, 500]),
            keepalive: rng.pick(&[None, None, Some(20_000), Some(75_000)]),
            probe_octet: rng.percent(50),
            time_wait: rng.pick(&[60_000, 60_000, 30_000, 120_000]),
        };
        // A scale by which the buffer can't be told apart from a full one helps nobody.
        style.scale = style.scale.map(|shift| if style.buffer >> shift < 4 { 0 } else { shift });
        style
    }
}

/// One connection of an end.
#[derive(Clone, Debug)]
pub struct Tcb {
    pub state: State,
    pub iss: SeqNum,
    pub irs: SeqNum,
    pub una: SeqNum,
    pub nxt: SeqNum,
    wnd: u32,
    wl: (SeqNum, SeqNum),
    max_wnd: u32,
    pub rcv: SeqNum,
    buffered: u32,
    gaps: Vec<(SeqNum, SeqNum, bool)>,
    out_scale: u8,
    in_scale: u8,
    scaled: bool,
    pub ts_on: bool,
    ts_recent: u32,
    last_ack_sent: SeqNum,
    mss: u32,
    unsent: u32,
    pub written: u64,
    fin_wanted: bool,
    pub fin_sent: bool,
    pub fin_received: bool,
    passive: bool,
    pub fast: bool,
    released: bool,
    rto: u64,
    retries: u32,
    dup_acks: u32,
    recover: Option<SeqNum>,
    rtx_at: Option<u64>,
    ack_at: Option<u64>,
    keep_at: Option<u64>,
    keeps: u32,
    gone_at: Option<u64>,
    /// The ends of what it has sent and what is not acknowledged.
    pub sent: Vec<SeqNum>,
    /// When it last answered what it could not accept.
    challenged_at: Option<u64>,
}

/// How a connection ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// Both FINs, all acknowledged.
    Clean,
    Reset,
    TimedOut,
    /// Closed, and the other end's FIN never came.
    Orphaned,
    Aborted,
    Crashed,
    /// Nothing came of an attempt: refused.
    Refused,
}

/// What is kept of an ended connection.
#[derive(Clone, Debug)]
pub struct Past {
    pub tcb: Tcb,
    pub end: End,
    pub at: u64,
}

#[derive(Clone, Debug)]
pub struct Host {
    pub side: Side,
    pub style: Style,
    pub rng: Rng,
    pub tcb: Option<Tcb>,
    pub past: Vec<Past>,
    pub listening: bool,
    pub up: bool,
    pub reading: bool,
    pub close_with_peer: bool,
    secret: u32,
    clock: u32,
    pub out: Vec<Segment>,
}

/// Every connection that an end has or had, the newest last.
pub fn all(host: &Host) -> impl Iterator<Item = &Tcb> {
    host.past.iter().map(|past| &past.tcb).chain(&host.tcb)
}

const SYN_ACK: Flags = Flags::SYN.with(Flags::ACK);
const MAX_RTO: u64 = 60_000;
const CHALLENGE_EVERY: u64 = 500;

impl Tcb {
    fn in_flight(&self) -> u32 {
        self.nxt.since(self.una)
    }

    fn fin_acked(&self) -> bool {
        self.fin_sent && self.una == self.nxt
    }

    /// Synchronised, and not yet only waiting.
    pub fn is_live(&self) -> bool {
        !matches!(self.state, State::SynSent | State::SynReceived | State::TimeWait)
    }

    /// It can't wait for ever: something that it sent needs an answer.
    pub fn awaits_answer(&self) -> bool {
        self.in_flight() > 0 || matches!(self.state, State::SynSent | State::SynReceived | State::TimeWait)
    }

    /// Whether its own end may have said this on it.
    pub fn is_of(&self, s: &Segment) -> bool {
        s.seq.after_or_at(self.iss) && s.seq.before_or_at(self.nxt)
    }

    fn may_receive(&self) -> bool {
        !self.fin_received
    }

    fn window(&self, style: &Style) -> u32 {
        style.buffer.saturating_sub(self.buffered)
    }

    /// RFC 9293 §3.4, table 6; one octet below for what real stacks also answer is not in it.
    fn acceptable(&self, s: &Segment, style: &Style) -> bool {
        let window = self.window(style);
        let inside = |n: SeqNum| n.after_or_at(self.rcv) && n.before(self.rcv.plus(window));
        match (s.seq_len(), window) {
            (0, 0) => s.seq == self.rcv,
            (0, _) => inside(s.seq),
            (_, 0) => false,
            (len, _) => inside(s.seq) || inside(s.seq.plus(len - 1)),
        }
    }
}

impl Host {
    pub fn new(side: Side, rng: &mut Rng) -> Self {
        Self {
            side,
            style: Style::of(rng),
            rng: Rng::new(rng.next()),
            tcb: None,
            past: Vec::new(),
            listening: false,
            up: true,
            reading: true,
            close_with_peer: true,
            secret: rng.number(),
            clock: rng.number(),
            out: Vec::new(),
        }
    }

    /// Its timestamp clock.
    pub fn stamp(&self, now: u64) -> u32 {
        self.clock.wrapping_add(now as u32)
    }

    fn emit(&mut self, flags: Flags, seq: SeqNum, len: u32, now: u64) {
        let stamp = self.stamp(now);
        let side = self.side;
        let Some(t) = &mut self.tcb else { return };
        let is_syn = flags.contains(Flags::SYN);
        let shift = if is_syn || !t.scaled { 0 } else { t.in_scale };
        let window = (t.window(&self.style) >> shift).min(65_535) as u16;
        let mut s = segment(side, flags, seq, SeqNum(0), window, len);
        if flags.contains(Flags::ACK) {
            s.ack = t.rcv;
            t.last_ack_sent = t.rcv;
            t.ack_at = None;
        }
        if is_syn {
            let answer = flags.contains(Flags::ACK);
            s.options = TcpOptions {
                mss: Some(self.style.mss as u16),
                window_scale: self.style.scale.filter(|_| !answer || t.scaled),
                sack_permitted: self.style.sack,
                timestamps: None,
                sack_high: None,
                fast_open: self.style.fast_open && !answer,
            };
            if if answer { t.ts_on } else { self.style.timestamps } {
                s.options.timestamps = Some((stamp, if answer { t.ts_recent } else { 0 }));
            }
        } else if t.ts_on {
            s.options.timestamps = Some((stamp, t.ts_recent));
        }
        let end = s.end();
        t.sent.retain(|sent| sent.after(t.una) && *sent != end);
        t.sent.push(end);
        if self.style.sack && !is_syn {
            s.options.sack_high = t.gaps.last().map(|gap| gap.1);
        }
        self.out.push(s);
    }

    fn ack(&mut self, now: u64) {
        if let Some(nxt) = self.tcb.as_ref().map(|t| t.nxt) {
            self.emit(Flags::ACK, nxt, 0, now);
        }
    }

    /// Acknowledges what can't be accepted, but what carries no data not more often than
    /// RFC 5961 §7 asks for: else two ends could answer each other for ever.
    fn challenge(&mut self, s: &Segment, now: u64) {
        let carries_data = s.seq_len() > 0 && !s.flags.contains(Flags::SYN);
        if let Some(t) = &mut self.tcb
            && !carries_data
        {
            if t.challenged_at.is_some_and(|at| now < at + CHALLENGE_EVERY) {
                return;
            }
            t.challenged_at = Some(now);
        }
        self.ack(now);
    }

    fn bury(&mut self, end: End, now: u64) {
        if let Some(tcb) = self.tcb.take() {
            self.past.push(Past { tcb, end, at: now });
        }
    }

    fn fresh(&mut self, state: State, now: u64) -> Tcb {
        let iss = SeqNum(self.secret.wrapping_add((now as u32).wrapping_mul(250)));
        Tcb {
            state,
            iss,
            irs: SeqNum(0),
            una: iss,
            nxt: iss.plus(1),
            wnd: 0,
            wl: (SeqNum(0), SeqNum(0)),
            max_wnd: 0,
            rcv: SeqNum(0),
            buffered: 0,
            gaps: Vec::new(),
            out_scale: 0,
            in_scale: 0,
            scaled: false,
            ts_on: false,
            ts_recent: 0,
            last_ack_sent: SeqNum(0),
            mss: self.style.mss,
            unsent: 0,
            written: 0,
            fin_wanted: false,
            fin_sent: false,
            fin_received: false,
            passive: state == State::SynReceived,
            fast: false,
            released: false,
            rto: 1000,
            retries: 0,
            dup_acks: 0,
            recover: None,
            rtx_at: Some(now + 1000),
            ack_at: None,
            keep_at: None,
            keeps: 0,
            gone_at: None,
            sent: Vec::new(),
            challenged_at: None,
        }
    }

    // ---- what the application does

    pub fn open(&mut self, data: u32, now: u64) {
        if self.tcb.is_some() || !self.up {
            return;
        }
        let mut t = self.fresh(State::SynSent, now);
        t.written = u64::from(data);
        t.unsent = data;
        let first = if self.style.fast_open { data.min(self.style.mss) } else { 0 };
        t.fast = first > 0;
        t.unsent -= first;
        t.nxt = t.nxt.plus(first);
        let iss = t.iss;
        self.tcb = Some(t);
        self.emit(Flags::SYN, iss, first, now);
    }

    pub fn write(&mut self, octets: u32, now: u64) {
        if let Some(t) = &mut self.tcb
            && !t.fin_wanted
            && t.state != State::TimeWait
        {
            t.unsent += octets;
            t.written += u64::from(octets);
        }
        self.push(now);
    }

    pub fn shut(&mut self, now: u64) {
        if let Some(t) = &mut self.tcb {
            t.fin_wanted = true;
        }
        self.push(now);
    }

    /// No more writing, no more interest: what is never answered goes after a while.
    pub fn close(&mut self, now: u64) {
        if self.tcb.as_ref().is_some_and(|t| t.state == State::SynSent) {
            self.bury(End::Aborted, now);
            return;
        }
        self.reading = true;
        self.shut(now);
        self.drain(now);
        if let Some(t) = &mut self.tcb {
            t.released = true;
            if t.state == State::FinWait2 {
                t.gone_at.get_or_insert(now + 60_000);
            }
        }
    }

    pub fn abort(&mut self, now: u64) {
        let Some(t) = &self.tcb else { return };
        let nxt = t.nxt;
        if !matches!(t.state, State::SynSent | State::TimeWait) {
            self.emit(Flags::RST.with(Flags::ACK), nxt, 0, now);
        }
        if self.tcb.as_ref().is_some_and(|t| t.state != State::TimeWait) {
            self.bury(End::Aborted, now);
        }
    }

    pub fn crash(&mut self, now: u64) {
        self.bury(End::Crashed, now);
        self.up = false;
    }

    pub fn restart(&mut self) {
        self.up = true;
        self.reading = true;
        self.secret = self.rng.number();
        self.clock = self.rng.number();
    }

    /// The reader wakes up.
    pub fn drain(&mut self, now: u64) {
        let Some(t) = &mut self.tcb else { return };
        if std::mem::take(&mut t.buffered) > 0 && !matches!(t.state, State::SynSent | State::SynReceived) {
            self.ack(now);
        }
    }

    // ---- sending

    fn push(&mut self, now: u64) {
        loop {
            let limit = self.style.in_flight;
            let Some(t) = &mut self.tcb else { return };
            let open = matches!(t.state, State::Established | State::CloseWait)
                || (t.state == State::SynReceived && t.passive && t.fast);
            if !open || t.fin_sent {
                return;
            }
            let usable = t.una.plus(t.wnd).since(t.nxt);
            let usable = if t.una.plus(t.wnd).before(t.nxt) { 0 } else { usable };
            let room = (limit * t.mss).saturating_sub(t.in_flight());
            let len = t.unsent.min(t.mss).min(usable).min(room);
            // The FIN takes a number, and so room in the window.
            let fin =
                t.fin_wanted && len == t.unsent && t.state != State::SynReceived && usable.min(room) > len;
            if len == 0 && !fin {
                if (t.unsent > 0 || t.fin_wanted || t.in_flight() > 0) && t.rtx_at.is_none() {
                    t.rto = t.rto.max(200);
                    t.rtx_at = Some(now + t.rto);
                }
                return;
            }
            let seq = t.nxt;
            t.unsent -= len;
            t.nxt = t.nxt.plus(len + u32::from(fin));
            if fin {
                t.fin_sent = true;
                t.state = if t.state == State::CloseWait { State::LastAck } else { State::FinWait1 };
            }
            t.rtx_at.get_or_insert(now + t.rto);
            let flags = if fin { Flags::FIN.with(Flags::ACK) } else { Flags::PSH.with(Flags::ACK) };
            self.emit(flags, seq, len, now);
        }
    }

    /// Sends the oldest unacknowledged again.
    fn again(&mut self, now: u64) {
        let Some(t) = &mut self.tcb else { return };
        let (iss, una) = (t.iss, t.una);
        if una == iss {
            // After a timeout Fast Open falls back to a plain SYN (RFC 7413 §4.1.3); the
            // data may have arrived all the same.
            match t.state {
                State::SynSent => self.emit(Flags::SYN, iss, 0, now),
                _ => self.emit(SYN_ACK, iss, 0, now),
            }
            return;
        }
        let in_flight = t.in_flight() - u32::from(t.fin_sent && una != t.nxt);
        if t.in_flight() == 0 {
            if (t.unsent > 0 || t.fin_wanted) && !t.fin_sent {
                // A zero window is probed, with the next octet or with one below.
                if self.style.probe_octet && t.unsent > 0 {
                    let seq = t.nxt;
                    t.unsent -= 1;
                    t.nxt = t.nxt.plus(1);
                    self.emit(Flags::ACK, seq, 1, now);
                } else {
                    let seq = una.minus(1);
                    self.emit(Flags::ACK, seq, 0, now);
                }
            }
            return;
        }
        // What lies beyond the window is not sent again before the window opens.
        let len = in_flight.min(t.mss).min(t.wnd.max(1));
        let fin = t.fin_sent && len == in_flight;
        let flags = if fin { Flags::FIN.with(Flags::ACK) } else { Flags::PSH.with(Flags::ACK) };
        self.emit(flags, una, len, now);
    }

    pub fn deadline(&self) -> Option<u64> {
        let t = self.tcb.as_ref()?;
        [t.rtx_at, t.ack_at, t.keep_at, t.gone_at].into_iter().flatten().min()
    }

    pub fn timer(&mut self, now: u64) {
        let due = |at: Option<u64>| at.is_some_and(|at| at <= now);
        let Some(t) = &mut self.tcb else { return };
        if due(t.gone_at) {
            let end = if t.state == State::TimeWait { End::Clean } else { End::Orphaned };
            self.bury(end, now);
            return;
        }
        if due(t.ack_at) {
            self.ack(now);
        }
        self.keepalive(now);
        let Some(t) = &mut self.tcb else { return };
        if due(t.rtx_at) {
            t.rtx_at = None;
            if t.in_flight() == 0 && t.unsent == 0 && (t.fin_sent || !t.fin_wanted) {
                return;
            }
            // A window probe is answered as long as the peer lives: it never gives up.
            let most = if matches!(t.state, State::SynSent | State::SynReceived) { 6 } else { 12 };
            t.retries += 1;
            if t.retries > most {
                self.bury(End::TimedOut, now);
                return;
            }
            t.rto = (t.rto * 2).min(MAX_RTO);
            t.rtx_at = Some(now + t.rto);
            t.recover = Some(t.nxt);
            self.again(now);
        }
    }

    fn keepalive(&mut self, now: u64) {
        let Some(t) = &mut self.tcb else { return };
        if !t.keep_at.is_some_and(|at| at <= now) {
            return;
        }
        t.keep_at = None;
        let Some(interval) = self.style.keepalive else { return };
        if !matches!(t.state, State::Established | State::CloseWait | State::FinWait2) {
            return;
        }
        t.keeps += 1;
        if t.keeps > 6 {
            self.abort(now);
            return;
        }
        t.keep_at = Some(now + interval);
        if t.in_flight() == 0 && t.unsent == 0 {
            let seq = t.nxt.minus(1);
            let len = u32::from(self.style.probe_octet && t.una.minus(1) != t.iss);
            self.emit(Flags::ACK, seq, len, now);
        }
    }

    /// Whether a segment that arrived now would move something.
    pub fn would_move(&self, s: &Segment, now: u64) -> bool {
        self.as_it_is().receive(s, now)
    }

    /// Whether a segment that arrived now would be answered.
    pub fn would_answer(&self, s: &Segment, now: u64) -> bool {
        let mut then = self.as_it_is();
        then.receive(s, now);
        !then.out.is_empty()
    }

    fn as_it_is(&self) -> Self {
        Self {
            style: self.style.clone(),
            rng: self.rng.clone(),
            tcb: self.tcb.clone(),
            past: Vec::new(),
            out: Vec::new(),
            ..*self
        }
    }

    // ---- receiving

    /// Takes a segment. `true`: it moved something (data, ACK, window, FIN, RST, SYN).
    pub fn receive(&mut self, s: &Segment, now: u64) -> bool {
        if !self.up {
            return false;
        }
        match self.tcb.as_ref().map(|t| t.state) {
            None => self.receive_closed(s, now),
            Some(State::SynSent) => self.receive_syn_sent(s, now),
            Some(_) => self.receive_synchronised(s, now),
        }
    }

    fn receive_closed(&mut self, s: &Segment, now: u64) -> bool {
        let f = s.flags;
        if f.contains(Flags::RST) {
            return false;
        }
        if f.contains(Flags::ACK) || !self.listening {
            self.out.push(answer_rst(s, self.side));
            return false;
        }
        if !f.contains(Flags::SYN) {
            return false;
        }
        let mut t = self.fresh(State::SynReceived, now);
        self.reading = true;
        self.adopt(&mut t, s);
        if s.options.fast_open && s.payload_len > 0 && self.style.fast_open {
            t.rcv = t.rcv.plus(s.payload_len.min(t.window(&self.style)));
            t.fast = true;
        }
        t.una = t.iss;
        let iss = t.iss;
        self.tcb = Some(t);
        self.emit(SYN_ACK, iss, 0, now);
        true
    }

    /// Learns from the other's SYN.
    fn adopt(&self, t: &mut Tcb, s: &Segment) {
        t.irs = s.seq;
        t.rcv = s.seq.plus(1);
        t.wnd = u32::from(s.window);
        t.max_wnd = t.wnd;
        t.wl = (s.seq, s.ack);
        t.last_ack_sent = t.rcv;
        t.scaled = self.style.scale.is_some() && s.options.window_scale.is_some();
        if t.scaled {
            t.in_scale = self.style.scale.unwrap_or(0);
            t.out_scale = s.options.window_scale.unwrap_or(0);
        }
        t.ts_on = self.style.timestamps && s.options.timestamps.is_some();
        t.ts_recent = s.options.timestamps.map_or(0, |ts| ts.0);
        t.mss = t.mss.min(u32::from(s.options.mss.unwrap_or(536)));
    }

    fn receive_syn_sent(&mut self, s: &Segment, now: u64) -> bool {
        let f = s.flags;
        let Some(mut t) = self.tcb.take() else { return false };
        let acks = f.contains(Flags::ACK);
        if acks && !(s.ack.after(t.iss) && s.ack.before_or_at(t.nxt)) {
            self.tcb = Some(t);
            if !f.contains(Flags::RST) {
                self.out.push(answer_rst(s, self.side));
            }
            return false;
        }
        if f.contains(Flags::RST) {
            self.tcb = Some(t);
            if acks {
                self.bury(End::Refused, now);
            }
            return acks;
        }
        if !f.contains(Flags::SYN) {
            self.tcb = Some(t);
            return false;
        }
        self.adopt(&mut t, s);
        t.retries = 0;
        t.rto = 1000;
        if acks {
            t.una = s.ack;
            // Fast Open data that the server did not take is sent again.
            let rest = t.nxt.since(t.una);
            t.nxt = t.una;
            t.unsent += rest;
            t.state = State::Established;
            t.rtx_at = None;
            t.keep_at = self.style.keepalive.map(|k| now + k);
            self.tcb = Some(t);
            self.ack(now);
            self.push(now);
        } else {
            // Simultaneous open (RFC 9293 §3.5): data of a Fast Open SYN go again later.
            let data = t.nxt.since(t.iss) - 1;
            t.nxt = t.iss.plus(1);
            t.unsent += data;
            t.fast = false;
            t.state = State::SynReceived;
            t.rtx_at = Some(now + t.rto);
            let iss = t.iss;
            self.tcb = Some(t);
            self.emit(SYN_ACK, iss, 0, now);
        }
        true
    }

    fn receive_synchronised(&mut self, s: &Segment, now: u64) -> bool {
        let style = self.style.clone();
        let f = s.flags;
        let Some(t) = &mut self.tcb else { return false };
        if t.state == State::TimeWait && f.contains(Flags::SYN) && !f.contains(Flags::ACK) && self.listening {
            let newer = s.seq.after(t.rcv)
                || (t.ts_on
                    && s.options.timestamps.is_some_and(|ts| SeqNum(ts.0).after(SeqNum(t.ts_recent))));
            if newer {
                self.bury(End::Clean, now);
                return self.receive_closed(s, now);
            }
        }
        if t.state == State::SynReceived && f.contains(Flags::SYN) && s.seq == t.irs {
            let iss = t.iss;
            let acked = f.contains(Flags::ACK) && s.ack.after(iss) && s.ack.before_or_at(t.nxt);
            if acked {
                // The SYN-ACK of a simultaneous open.
                self.establish(s, now);
                self.ack(now);
                self.push(now);
                return true;
            }
            self.emit(SYN_ACK, iss, 0, now);
            return false;
        }
        // PAWS (RFC 7323 §5.3).
        if t.ts_on
            && !f.contains(Flags::RST)
            && s.options.timestamps.is_some_and(|ts| SeqNum(ts.0).before(SeqNum(t.ts_recent)))
        {
            self.challenge(s, now);
            return false;
        }
        if !t.acceptable(s, &style) {
            let probe_ack = f.contains(Flags::ACK) && !f.intersects(Flags::RST.with(Flags::SYN));
            // A full window still takes acknowledgements (RFC 9293 §3.10.7.4).
            let full = t.window(&style) == 0 && s.seq == t.rcv && probe_ack;
            let mut moved = false;
            if full {
                moved = self.take_ack(s, now).unwrap_or(false);
            }
            if self.tcb.as_ref().is_some_and(|t| t.state == State::TimeWait && f.contains(Flags::FIN))
                && let Some(t) = &mut self.tcb
            {
                t.gone_at = Some(now + style.time_wait);
            }
            if !f.contains(Flags::RST) {
                self.challenge(s, now);
            }
            return moved;
        }
        if f.contains(Flags::RST) {
            // RFC 5961 §3, RFC 1337.
            if t.state == State::TimeWait {
                return false;
            }
            if s.seq == t.rcv {
                self.bury(End::Reset, now);
                return true;
            }
            self.challenge(s, now);
            return false;
        }
        if f.contains(Flags::SYN) {
            self.challenge(s, now);
            return false;
        }
        if !f.contains(Flags::ACK) {
            return false;
        }
        if let Some((value, _)) = s.options.timestamps
            && t.ts_on
            && s.seq.before_or_at(t.last_ack_sent)
        {
            t.ts_recent = value;
        }
        if t.state == State::SynReceived {
            if !(s.ack.after(t.una) && s.ack.before_or_at(t.nxt)) {
                self.out.push(answer_rst(s, self.side));
                return false;
            }
            self.establish(s, now);
        }
        let Some(mut moved) = self.take_ack(s, now) else {
            self.challenge(s, now);
            return false;
        };
        moved |= self.take_data(s, now);
        self.push(now);
        self.advance_close(now);
        moved
    }

    fn establish(&mut self, s: &Segment, now: u64) {
        let keep = self.style.keepalive.map(|k| now + k);
        let Some(t) = &mut self.tcb else { return };
        t.state = State::Established;
        t.retries = 0;
        t.rto = 300;
        t.una = s.ack;
        let scale = if s.flags.contains(Flags::SYN) { 0 } else { t.out_scale };
        t.wnd = u32::from(s.window) << scale;
        t.max_wnd = t.max_wnd.max(t.wnd);
        t.wl = (s.seq, s.ack);
        t.rtx_at = (t.in_flight() > 0).then_some(now + t.rto);
        t.keep_at = keep;
    }

    /// `None`: the acknowledgement is not acceptable (RFC 5961 §5).
    fn take_ack(&mut self, s: &Segment, now: u64) -> Option<bool> {
        let keep = self.style.keepalive.map(|k| now + k);
        let t = self.tcb.as_mut()?;
        if s.ack.after(t.nxt) || s.ack.before(t.una.minus(t.max_wnd)) {
            return None;
        }
        t.keeps = 0;
        t.keep_at = keep.filter(|_| t.state != State::TimeWait);
        // A peer that answers lives: a closed window may be probed for ever (RFC 9293 §3.8.6.1).
        if s.ack == t.una && t.wnd == 0 {
            t.retries = 0;
        }
        let mut moved = false;
        let advanced = s.ack.after(t.una);
        let mut resend = false;
        if advanced {
            t.una = s.ack;
            t.retries = 0;
            t.dup_acks = 0;
            t.rto = 300;
            t.rtx_at = (t.in_flight() > 0).then_some(now + t.rto);
            moved = true;
            if let Some(recover) = t.recover {
                if t.una.before(recover) {
                    resend = true;
                } else {
                    t.recover = None;
                }
            }
        } else if s.ack == t.una && s.seq_len() == 0 && t.in_flight() > 0 {
            t.dup_acks += 1;
            if t.dup_acks == 3 {
                t.recover = Some(t.nxt);
                resend = true;
            }
        }
        if s.ack.after_or_at(t.una)
            && (t.wl.0.before(s.seq) || (t.wl.0 == s.seq && t.wl.1.before_or_at(s.ack)))
        {
            let window = u32::from(s.window) << t.out_scale;
            if window != t.wnd {
                moved = true;
                if t.wnd == 0 && t.in_flight() > 0 {
                    resend = true;
                }
            }
            t.wnd = window;
            t.max_wnd = t.max_wnd.max(window);
            t.wl = (s.seq, s.ack);
        }
        if resend {
            self.again(now);
        }
        Some(moved)
    }

    fn take_data(&mut self, s: &Segment, now: u64) -> bool {
        let style = self.style.clone();
        let reading = self.reading;
        let Some(t) = &mut self.tcb else { return false };
        if s.seq_len() == 0 {
            return false;
        }
        if !t.may_receive() {
            if t.state == State::TimeWait && s.flags.contains(Flags::FIN) {
                t.gone_at = Some(now + style.time_wait);
            }
            self.ack(now);
            return false;
        }
        let limit = t.rcv.plus(t.window(&style));
        let from = s.seq.latest(t.rcv);
        let mut to = s.seq.plus(s.payload_len);
        let mut fin = s.flags.contains(Flags::FIN);
        if to.after(limit) || (to == limit && fin && t.window(&style) == 0) {
            to = limit;
            fin = false;
        }
        let before = t.rcv;
        let had = t.gaps.clone();
        if from.before(to) || (fin && from.before_or_at(to)) {
            t.gaps.push((from, to, fin));
        }
        t.gaps.sort_by_key(|gap| (gap.0.since(before), gap.1.since(before)));
        t.gaps.dedup();
        let mut rest = Vec::new();
        for gap in std::mem::take(&mut t.gaps) {
            if t.fin_received {
                continue;
            }
            if gap.0.after(t.rcv) {
                rest.push(gap);
                continue;
            }
            if gap.1.after(t.rcv) {
                t.buffered += gap.1.since(t.rcv);
                t.rcv = gap.1;
            }
            if gap.2 && gap.1 == t.rcv {
                t.fin_received = true;
                t.rcv = t.rcv.plus(1);
            }
        }
        t.gaps = rest;
        let moved = t.rcv != before || t.gaps != had;
        if reading {
            t.buffered = 0;
        }
        let at_once = t.rcv == before || !t.gaps.is_empty() || t.fin_received || t.ack_at.is_some();
        if t.fin_received {
            match t.state {
                State::Established => t.state = State::CloseWait,
                State::FinWait1 => t.state = State::Closing,
                State::FinWait2 => t.state = State::TimeWait,
                _ => {}
            }
        }
        if at_once || style.delayed_ack == 0 {
            self.ack(now);
        } else {
            t.ack_at = Some(now + style.delayed_ack);
        }
        moved
    }

    /// The states that acknowledged FINs lead to, and what the application makes of them.
    fn advance_close(&mut self, now: u64) {
        let time_wait = self.style.time_wait;
        let close_with_peer = self.close_with_peer;
        let Some(t) = &mut self.tcb else { return };
        if t.fin_acked() {
            match t.state {
                State::FinWait1 => {
                    t.state = State::FinWait2;
                    if t.released {
                        t.gone_at = Some(now + 60_000);
                    }
                }
                State::Closing => t.state = State::TimeWait,
                State::LastAck => {
                    self.bury(End::Clean, now);
                    return;
                }
                _ => {}
            }
        }
        let Some(t) = &mut self.tcb else { return };
        match t.state {
            State::TimeWait => {
                let restart =
                    t.gone_at.is_none_or(|_| t.rtx_at.is_some() || t.keep_at.is_some() || t.released);
                t.rtx_at = None;
                t.keep_at = None;
                t.released = false;
                if restart {
                    t.gone_at = Some(now + time_wait);
                }
            }
            State::CloseWait if close_with_peer => self.shut(now),
            _ => {}
        }
    }
}
