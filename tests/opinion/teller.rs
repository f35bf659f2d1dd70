//! Tells a story from a seed: how the two ends of a connection, the network before
//! the firewall and whoever meddles might speak. Mostly plausible, seldom perfect.

use halfgate::wire::{Flags, Segment, SeqNum, TcpOptions};

#[path = "opening.rs"]
mod opening;

use super::{
    rng::Rng,
    story::{Side, Step, Story, What, tuple},
};

const SYN: Flags = Flags::SYN;
const ACK: Flags = Flags::ACK;
const SYN_ACK: Flags = Flags::SYN.with(Flags::ACK);
const FIN_ACK: Flags = Flags::FIN.with(Flags::ACK);
const RST: Flags = Flags::RST;
const RST_ACK: Flags = Flags::RST.with(Flags::ACK);

/// One end as it would know itself.
#[derive(Clone, Copy, Debug)]
struct End {
    iss: SeqNum,
    /// SND.NXT, SND.UNA, RCV.NXT.
    next: SeqNum,
    una: SeqNum,
    rcv: SeqNum,
    /// How far the other's window lets it send.
    limit: SeqNum,
    /// The largest window that it has offered.
    widest: u32,
    window: u16,
    shift: Option<u8>,
    timestamp: Option<u32>,
    echo: u32,
    sack: bool,
    has_fin: bool,
    /// A SYN of the other end has come.
    knows_peer: bool,
}

impl End {
    fn new(rng: &mut Rng) -> Self {
        let iss = match rng.range(0, 3) {
            0 => SeqNum(0).minus(rng.number() % 3000),
            1 => SeqNum(1 << 31).minus(rng.number() % 3000),
            _ => SeqNum(rng.number()),
        };
        let window = rng.pick(&[65_535, 65_535, 29_200, 8192, 1000, 200]);
        let shift = rng.pick(&[None, None, Some(0), Some(2), Some(7), Some(14)]);
        Self {
            iss,
            next: iss,
            una: iss,
            rcv: SeqNum(0),
            limit: iss,
            widest: window.into(),
            window,
            shift,
            timestamp: rng.percent(50).then(|| rng.number()),
            echo: 0,
            sack: rng.percent(60),
            has_fin: false,
            knows_peer: false,
        }
    }
}

pub struct Teller {
    rng: Rng,
    ends: [End; 2],
    steps: Vec<Step>,
    /// Held back by the network: after how many more packets each comes.
    held: Vec<(u64, Step)>,
    /// Both windows are scaled.
    scales: bool,
    /// Nobody meddles once the connection is open.
    honest: bool,
}

/// The story of a seed.
pub fn tell(seed: u64) -> Story {
    let mut rng = Rng::new(seed);
    let ipv6 = rng.percent(40);
    let honest = rng.percent(50);
    let ends = [End::new(&mut rng), End::new(&mut rng)];
    let mut teller = Teller { rng, ends, steps: Vec::new(), held: Vec::new(), scales: false, honest };
    teller.story();
    while !teller.held.is_empty() {
        let (_, step) = teller.held.remove(0);
        teller.steps.push(step);
    }
    Story { tuple: tuple(u32::try_from(seed & 0xff_ffff).unwrap_or(0), ipv6), steps: teller.steps }
}

impl Teller {
    fn story(&mut self) {
        self.open();
        if self.steps.is_empty() {
            self.syn(Side::Client, "SYN");
        }
        for _ in 0..self.rng.range(0, 12) {
            self.live();
        }
        if self.rng.percent(75) {
            self.close();
        }
        for _ in 0..self.rng.range(0, 4) {
            self.afterwards();
        }
    }

    fn end(&mut self, side: Side) -> &mut End {
        &mut self.ends[side as usize]
    }

    fn side(&mut self) -> Side {
        if self.rng.percent(50) { Side::Client } else { Side::Server }
    }

    /// A segment as this end would make it now.
    fn make(&mut self, from: Side, flags: Flags, seq: SeqNum, len: u32) -> Segment {
        let is_syn = flags.contains(SYN);
        let zero = !is_syn && self.rng.percent(4);
        let other = self.ends[from.other() as usize];
        let end = &mut self.ends[from as usize];
        let mut options = TcpOptions::default();
        if is_syn {
            options.mss = Some(1460);
            options.window_scale = end.shift;
            options.sack_permitted = end.sack;
        }
        if let Some(now) = &mut end.timestamp
            && (is_syn || other.timestamp.is_some())
        {
            *now = now.wrapping_add(1);
            options.timestamps = Some((*now, end.echo));
        }
        let window = if zero { 0 } else { end.window };
        let ack = if flags.contains(ACK) { end.rcv } else { SeqNum(0) };
        Segment { src_port: 0, dst_port: 0, seq, ack, flags, window, payload_len: len, options }
    }

    /// Sends what an honest end sends: the network may lose it before the firewall or
    /// behind it, hold it back or double it.
    fn send(&mut self, from: Side, segment: Segment, note: &'static str) {
        if segment.flags.contains(ACK) && !self.end(from).knows_peer {
            return;
        }
        let step = Step { from, what: What::Tcp(segment), note };
        match self.rng.range(0, 99) {
            0..=3 => {}
            4..=8 => {
                let behind = self.rng.range(1, 4);
                self.held.push((behind, step));
            }
            9..=11 => {
                let behind = self.rng.range(0, 4);
                self.emit(step, true);
                self.held.push((behind, Step { note: "a duplicate", ..step }));
            }
            12..=15 => self.emit(step, false),
            _ => self.emit(step, true),
        }
    }

    /// Sends what no end believes.
    fn forge(&mut self, from: Side, segment: Segment, note: &'static str) {
        self.emit(Step { from, what: What::Tcp(segment), note }, false);
    }

    fn emit(&mut self, step: Step, arrives: bool) {
        self.steps.push(step);
        if arrives {
            self.arrive(&step);
        }
        let due: Vec<Step> = self.held.iter().filter(|(behind, _)| *behind == 0).map(|(_, s)| *s).collect();
        self.held.retain(|(behind, _)| *behind > 0);
        for (behind, _) in &mut self.held {
            *behind -= 1;
        }
        for step in due {
            self.steps.push(step);
            self.arrive(&step);
        }
    }

    /// What the receiver makes of a segment.
    fn arrive(&mut self, step: &Step) {
        let What::Tcp(segment) = step.what else { return };
        let scaled = self.scales && !segment.flags.contains(SYN);
        let shift = if scaled { self.ends[step.from as usize].shift.unwrap_or(0) } else { 0 };
        let offered = u32::from(segment.window) << shift;
        let sender = &mut self.ends[step.from as usize];
        sender.widest = sender.widest.max(offered);
        let end = &mut self.ends[step.from.other() as usize];
        if segment.flags.contains(SYN) || segment.seq == end.rcv {
            end.rcv = segment.end();
            end.knows_peer |= segment.flags.contains(SYN);
        }
        if let Some((value, _)) = segment.options.timestamps {
            end.echo = value;
        }
        if segment.flags.contains(SYN) {
            end.limit = end.limit.latest(end.iss.plus(1).plus(offered));
        }
        if segment.flags.contains(ACK)
            && segment.ack.after_or_at(end.una)
            && segment.ack.before_or_at(end.next)
        {
            end.una = segment.ack;
            end.limit = end.limit.latest(segment.ack.plus(offered));
        }
    }
}

// The life.
impl Teller {
    fn data(&mut self, from: Side, note: &'static str) {
        let len = self.rng.pick(&[1, 100, 536, 1400, 1400, 6000]);
        let end = *self.end(from);
        let room = end.limit.since(end.next);
        let fits = end.limit.after(end.next) && room < 1 << 31;
        let waits = end.next != end.una || self.rng.percent(30);
        if self.honest && (end.has_fin || (!fits && waits)) {
            return self.ack(from, "ACK, for want of a window");
        }
        let (len, note) = match (fits, note) {
            (true, note) => (len.min(room), note),
            (false, _) => (1, "a window probe"),
        };
        let flags = if self.rng.percent(5) { ACK.with(Flags::URG) } else { ACK.with(Flags::PSH) };
        let mut segment = self.make(from, flags, end.next, len);
        if end.has_fin {
            segment.seq = end.next;
        }
        self.end(from).next = segment.end();
        self.send(from, segment, note);
    }

    fn live(&mut self) {
        let from = self.side();
        let end = *self.end(from);
        match self.rng.range(0, if self.honest { 61 } else { 99 }) {
            0..=29 => self.data(from, "data"),
            30..=49 => self.ack(from, "ACK"),
            50..=54 => {
                let len = end.next.since(end.una).min(1400);
                let segment = self.make(from, ACK, end.una, len);
                self.send(from, segment, "retransmission");
            }
            55..=58 => {
                let len = self.rng.pick(&[0, 1]);
                let segment = self.make(from, ACK, end.next.minus(1), len);
                self.send(from, segment, "keepalive");
                if self.rng.percent(70) {
                    self.ack(from.other(), "answer to a keepalive");
                }
            }
            59..=61 => {
                // Lost before it came here; the next does not follow on.
                let gap = self.rng.pick(&[1, 1400, 20_000, 60_000]);
                let room = end.limit.since(end.next);
                if end.limit.after(end.next) && gap < room {
                    self.end(from).next = end.next.plus(gap);
                    self.data(from, "data after a gap");
                }
            }
            62..=64 if self.ends.iter().all(|end| end.sack) => {
                let peer = *self.end(from.other());
                let mut segment = self.make(from, ACK, end.next, 0);
                segment.options.sack_high = Some(peer.next.plus(self.rng.pick(&[0, 0, 0, 1, 1000])));
                self.forge(from, segment, "ACK with SACK");
            }
            65..=76 => self.near_an_edge(from),
            77..=83 => self.rst(from),
            84..=88 => self.stray_syn(from),
            89..=90 => {
                let flags = self.rng.pick(&[
                    Flags(0),
                    SYN.with(Flags::FIN),
                    SYN.with(RST),
                    Flags::FIN,
                    RST.with(Flags::FIN),
                    Flags::PSH,
                    Flags::URG,
                    Flags(0x3f),
                    SYN_ACK.with(Flags::PSH),
                    SYN.with(Flags::URG),
                    RST.with(Flags::PSH),
                ]);
                let segment = self.make(from, flags, end.next, 0);
                self.forge(from, segment, "odd control bits");
            }
            91..=93 => {
                let mut segment = self.make(from, ACK, end.next, 100);
                if let Some((value, _)) = &mut segment.options.timestamps {
                    *value = value.wrapping_sub(self.rng.pick(&[1, 1000, 1 << 30]));
                }
                self.forge(from, segment, "an old timestamp");
            }
            94..=97 => self.icmp(from),
            _ => {
                let other = from.other();
                let iss = self.end(other).iss;
                let segment = self.make(other, SYN_ACK, iss, 0);
                self.forge(other, segment, "a late SYN-ACK");
            }
        }
    }

    /// A segment with numbers about where a window begins or ends.
    fn near_an_edge(&mut self, from: Side) {
        let (end, peer) = (*self.end(from), *self.end(from.other()));
        let len = self.rng.pick(&[0, 1, 100]);
        let flags = self.rng.pick(&[ACK, ACK, ACK, ACK, FIN_ACK]);
        let mut segment = self.make(from, flags, end.next, len);
        let about = self.rng.pick(&[0, 1, 2, u32::MAX, u32::MAX - 1, u32::MAX - len]);
        let note = match self.rng.range(0, 9) {
            0 | 1 => {
                segment.seq = end.limit.plus(about);
                "about the window's end"
            }
            2 | 3 => {
                segment.seq = end.next.minus(peer.widest).plus(about);
                "about a window back"
            }
            4 => {
                segment.seq = end.una.plus(about);
                "about what is acknowledged"
            }
            5 | 6 => {
                segment.ack = peer.next.plus(about);
                "acknowledges about all that was sent"
            }
            7 | 8 => {
                let reach = self.rng.pick(&[66_000, 132_000, end.widest, end.widest.saturating_mul(2)]);
                segment.ack = peer.next.minus(reach).plus(about);
                "acknowledges about a window back"
            }
            _ => {
                segment.seq = SeqNum(self.rng.number());
                segment.ack = SeqNum(self.rng.number());
                "blind"
            }
        };
        self.forge(from, segment, note);
    }

    fn rst(&mut self, from: Side) {
        let (end, peer) = (*self.end(from), *self.end(from.other()));
        let flags = self.rng.pick(&[RST, RST, RST_ACK]);
        let (seq, note) = match self.rng.range(0, 9) {
            0..=2 => (peer.rcv, "RST of what its receiver expects"),
            3 | 4 => (end.next, "RST of all that its sender sent"),
            5 => (peer.rcv.plus(self.rng.pick(&[1, 100, 500])), "RST inside the window"),
            6 => (end.limit.plus(self.rng.pick(&[0, 1, 2])), "RST about the window's end"),
            7 => (peer.rcv.minus(self.rng.pick(&[1, 2, 1000])), "RST before the window"),
            8 => (SeqNum(0), "RST of zero"),
            _ => (SeqNum(self.rng.number()), "blind RST"),
        };
        let mut segment = self.make(from, flags, seq, 0);
        if flags == RST_ACK && self.rng.percent(30) {
            segment.ack = self.rng.pick(&[SeqNum(0), peer.next.plus(1), peer.next.plus(1000)]);
        }
        segment.window = 0;
        self.forge(from, segment, note);
        if self.rng.percent(30) {
            self.ack(from.other(), "challenge ACK");
        }
    }

    /// A SYN where there is a connection already.
    fn stray_syn(&mut self, from: Side) {
        let end = *self.end(from);
        let ahead = self.rng.pick(&[0, 1, 1000, 100_000, 1 << 30, 1 << 31, u32::MAX - 1000]);
        let iss = if ahead == 0 { end.iss } else { end.next.plus(ahead) };
        let mut segment = self.make(from, SYN, iss, 0);
        if let Some((value, _)) = &mut segment.options.timestamps
            && self.rng.percent(30)
        {
            *value = value.wrapping_sub(100_000);
        }
        self.forge(from, segment, "SYN on a connection");
        match self.rng.range(0, 9) {
            0..=3 => self.ack(from.other(), "challenge ACK"),
            4..=6 => {
                let other = from.other();
                *self.end(from) = End { iss, next: iss.plus(1), una: iss, limit: iss, has_fin: false, ..end };
                let old = *self.end(other);
                let fresh = SeqNum(self.rng.number());
                let rcv = iss.plus(1);
                *self.end(other) =
                    End { iss: fresh, next: fresh, una: fresh, limit: fresh, has_fin: false, rcv, ..old };
                self.syn_ack(other, "SYN-ACK to it");
                if self.rng.percent(80) {
                    self.ack(from, "the last ACK");
                }
            }
            7 => {
                let mut rst = self.make(from.other(), RST_ACK, SeqNum(0), 0);
                rst.ack = iss.plus(1);
                self.forge(from.other(), rst, "refused");
            }
            _ => {}
        }
    }

    fn icmp(&mut self, from: Side) {
        let peer = *self.end(from.other());
        let seq = match self.rng.range(0, 5) {
            0 | 1 => peer.una,
            2 => peer.next.minus(1),
            3 => peer.next.plus(1000),
            4 => peer.una.minus(1 << 28),
            _ => SeqNum(self.rng.number()),
        };
        let quoted = self.make(from.other(), ACK, seq, 100);
        let too_big = self.rng.percent(50);
        self.emit(
            Step { from, what: What::Icmp { quoted, too_big }, note: "about the other's segment" },
            false,
        );
    }
}

// The end.
impl Teller {
    fn fin(&mut self, from: Side, note: &'static str) {
        let end = *self.end(from);
        let len = self.rng.pick(&[0, 0, 0, 100]);
        let full = len > 0 && !end.limit.after(end.next.plus(len));
        let len = if self.honest && full { 0 } else { len };
        let (seq, len) = if end.has_fin { (end.next.minus(1), 0) } else { (end.next, len) };
        let segment = self.make(from, FIN_ACK, seq, len);
        let end = self.end(from);
        end.has_fin = true;
        end.next = segment.end();
        self.send(from, segment, note);
    }

    fn close(&mut self) {
        let first = self.side();
        let second = first.other();
        match self.rng.range(0, 9) {
            0 => self.rst(first),
            1 | 2 => {
                self.fin(first, "FIN");
                self.fin(second, "FIN at the same time");
                self.ack(first, "ACK of the FIN");
                self.ack(second, "ACK of the FIN");
            }
            3 => {
                self.fin(first, "FIN");
                self.fin(second, "FIN with the ACK of the other's");
                if self.rng.percent(90) {
                    self.ack(first, "the last ACK");
                }
            }
            4 => {
                self.fin(first, "FIN");
                self.data(second, "data that cross the FIN");
                self.fin(first, "FIN again");
                self.ack(second, "ACK of the FIN");
                self.data(first, "data after the FIN");
            }
            _ => {
                self.fin(first, "FIN");
                if self.rng.percent(90) {
                    self.ack(second, "ACK of the FIN");
                }
                for _ in 0..self.rng.range(0, 3) {
                    self.live();
                }
                self.fin(second, "the second FIN");
                if self.rng.percent(90) {
                    self.ack(first, "the last ACK");
                }
            }
        }
    }

    fn afterwards(&mut self) {
        let from = self.side();
        match self.rng.range(0, if self.honest { 3 } else { 9 }) {
            0 => self.fin(from, "FIN again"),
            1 => self.ack(from, "ACK again"),
            2 => self.live(),
            4 => self.rst(from),
            3 => {
                let segment = self.make(from, ACK, self.ends[from as usize].una, 100);
                self.send(from, segment, "late data");
            }
            _ => self.stray_syn(from),
        }
    }
}
