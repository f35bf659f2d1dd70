//! `conn_state` and `history` as Zeek spells them in its conn.log: what went over
//! the wire, whatever the verdict. Read first: Zeek's documentation of conn.log,
//! whose letters and states these are.
//!
//! Each end has a state that its own packets make; `conn_state` is a function of
//! both. `history` has a letter for each kind of packet, upper case for the
//! originator: a, d, i, q once a direction; s, h, f, r again when the sequence
//! number differs from the last of its kind; c, g, t, w at the first, tenth,
//! hundredth time. `^` stands for a direction that was turned round, because the
//! first packet came from a well-known server port, or because a SYN-ACK without
//! its SYN was followed by an ACK or data.

mod life;
mod ports;
mod stream;

use self::{life::Life, stream::Stream};
pub(super) use self::{
    life::{DATAGRAM_SILENCE, Forgotten},
    ports::{is_tcp_reply, is_udp_reply},
};
use super::headers::Tcp;
use crate::{
    conntrack::Instant,
    wire::{Flags, SeqNum},
};

/// A jump of an RST's or SYN's number that is not believed.
const TOO_FAR: i64 = 1 << 20;

/// Letters that most connections have room for.
const USUAL_HISTORY: usize = 16;

/// What one end has done, by its own packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Inactive,
    SynSent,
    SynAckSent,
    /// Met in the middle of a connection.
    Partial,
    Established,
    Closed,
    Reset,
}

/// Bits of what is in the history already.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Once {
    Syn = 1,
    Fin = 2,
    Rst = 4,
    Data = 8,
    Ack = 16,
    FinRst = 32,
    Multi = 64,
}

/// A letter that comes at the first, tenth, hundredth time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scaled {
    count: u32,
    next: u32,
}

impl Scaled {
    pub(super) const NEW: Self = Self { count: 0, next: 1 };

    pub(super) fn happens(&mut self) -> bool {
        self.count = self.count.saturating_add(1);
        let shows = self.count == self.next;
        if shows {
            self.next = self.next.saturating_mul(10);
        }
        shows
    }
}

/// One end.
#[derive(Clone, Debug)]
struct End {
    state: State,
    before: State,
    /// The number that relative ones count from: its SYN's.
    start: SeqNum,
    /// Behind the last octet that it sent, relative.
    last: i64,
    /// What the other end has acknowledged, relative.
    acked: i64,
    /// Behind its FIN.
    fin: Option<i64>,
    /// It has sent a FIN or an RST, and perhaps not all before it was seen.
    closes: bool,
    is_closed: bool,
    gaps: Scaled,
    stream: Stream,
}

impl End {
    const NEW: Self = Self {
        state: State::Inactive,
        before: State::Inactive,
        start: SeqNum(0),
        last: 0,
        acked: 0,
        fin: None,
        closes: false,
        is_closed: false,
        gaps: Scaled::NEW,
        stream: Stream::NEW,
    };

    fn enter(&mut self, state: State) {
        if self.state != state {
            self.before = self.state;
            self.state = state;
        }
    }

    /// A number relative to the start, the one nearest to `reference`.
    fn relative(&self, number: SeqNum, reference: i64) -> i64 {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "numbers wrap by design")]
        let at = self.start.plus(reference as u32);
        #[expect(clippy::cast_possible_wrap, reason = "a distance, either way")]
        let distance = number.0.wrapping_sub(at.0) as i32;
        reference.saturating_add(i64::from(distance))
    }

    fn begin(&mut self, start: SeqNum, last: i64) {
        self.start = start;
        self.acked = 0;
        self.last = last;
    }

    /// Octets of data it has sent, as far as numbers tell.
    fn size(&self, peer: &Self) -> i64 {
        let gave_up =
            self.before == State::SynSent && self.state == State::Reset && peer.state == State::Inactive;
        if gave_up && self.acked != 0 {
            return 0;
        }
        let size = self.last.max(self.acked);
        (size - 1 - i64::from(self.fin.is_some())).max(0)
    }

    /// Established, or closed after it was.
    fn is_clean(&self) -> bool {
        self.state == State::Established || (self.state == State::Closed && self.before == State::Established)
    }

    /// Whether something that it sent before it closed may still be seen.
    fn waits(&self, peer: &Self) -> bool {
        self.stream.is_behind(self.last)
            || (self.state != State::Reset && !self.stream.has_given_up() && peer.stream.is_unacknowledged())
    }
}

/// What few packets of an end ask for.
#[derive(Clone, Debug)]
struct Marks {
    last_syn: i64,
    last_fin: i64,
    last_rst: i64,
    again: Scaled,
    no_window: Scaled,
    bad_sums: Scaled,
}

impl Marks {
    const NEW: Self = Self {
        last_syn: 0,
        last_fin: 0,
        last_rst: 0,
        again: Scaled::NEW,
        no_window: Scaled::NEW,
        bad_sums: Scaled::NEW,
    };
}

/// What has been told of a connection.
#[derive(Clone, Debug)]
struct Story {
    history: String,
    /// Of the ends, in their order.
    marks: [Marks; 2],
}

/// A TCP connection as its packets show it. The usual packet needs only what lies here.
#[derive(Clone, Debug)]
pub(super) struct Connection {
    /// The originator, the responder.
    ends: [End; 2],
    is_partial: bool,
    first_seen: [bool; 2],
    /// Bits of [`Once`], by side: they stay where they are when ends change places.
    noted: [u8; 2],
    /// Nothing but the SYN-ACK of an originator was seen.
    may_be_scan: bool,
    life: Life,
    story: Box<Story>,
}

/// `conn_state` and `history` of a flow that is not TCP.
pub(super) fn datagrams(is_udp: bool, history: &str) -> (&'static str, &str) {
    if !is_udp {
        return ("OTH", "");
    }
    let state = match (history.contains('D'), history.contains('d')) {
        (true, true) => "SF",
        (true, false) => "S0",
        (false, true) => "SHR",
        (false, false) => "OTH",
    };
    (state, history)
}

impl Connection {
    /// A connection that nothing was seen of; `turned`: its first packet is a reply.
    pub(super) fn new(turned: bool) -> Self {
        let mut history = String::with_capacity(USUAL_HISTORY);
        if turned {
            history.push('^');
        }
        Self {
            ends: [End::NEW; 2],
            is_partial: false,
            first_seen: [false; 2],
            noted: [0; 2],
            may_be_scan: false,
            life: Life::NEW,
            story: Box::new(Story { history, marks: [Marks::NEW; 2] }),
        }
    }

    pub(super) fn history(&self) -> &str {
        &self.story.history
    }

    /// Both ends have closed.
    fn is_over(&self) -> bool {
        self.ends.iter().all(|end| end.is_closed)
    }

    /// Whether this packet begins another connection with the same addresses.
    pub(super) fn is_reused_by(&self, tcp: &Tcp) -> bool {
        let [originator, responder] = &self.ends;
        let is_answer = tcp.flags.contains(Flags::ACK);
        if !tcp.flags.contains(Flags::SYN) || (is_answer && originator.state != State::Inactive) {
            return false;
        }
        if originator.is_closed || responder.is_closed {
            return true;
        }
        // The SYN of an answer that was recorded before it.
        let is_late = !is_answer
            && originator.state == State::SynAckSent
            && responder.state == State::Inactive
            && tcp.seq == responder.start;
        let first = if is_answer { responder } else { originator };
        tcp.seq != first.start && !is_late
    }

    /// A packet whose checksum is wrong: it counts for nothing else.
    pub(super) fn bad_checksum(&mut self, from_originator: bool) {
        let end = usize::from(!from_originator);
        if self.story.marks[end].bad_sums.happens() {
            self.letter(end, 'C');
        }
    }

    fn letter(&mut self, end: usize, letter: char) {
        let history = &mut self.story.history;
        self.may_be_scan = history.is_empty() && end == 0 && letter == 'H';
        history.push(if end == 0 { letter } else { letter.to_ascii_lowercase() });
    }

    /// Takes one packet. `true`: the ends have changed places.
    pub(super) fn take(&mut self, from_originator: bool, tcp: &Tcp, now: Instant) -> bool {
        let end = usize::from(!from_originator);
        let is = |flag| tcp.flags.contains(flag);
        self.set_partial(end, tcp.flags);
        let data = if is(Flags::RST) { 0 } else { tcp.payload };
        let seg_len = data + u32::from(is(Flags::SYN)) + u32::from(is(Flags::FIN));
        self.begin_end(end, tcp, seg_len);
        let rel_seq = self.ends[end].relative(tcp.seq, self.ends[end].last);
        let was_scan = self.turns_from_scan(tcp);
        let end = if was_scan { 1 - end } else { end };
        self.note(end, tcp, rel_seq);
        let (sender, peer) = self.pair(end);
        let is_shut = tcp.window == 0 && !is(Flags::RST);
        let counts = is_shut && peer.state != State::Closed && sender.state != State::Reset;
        if counts && self.story.marks[end].no_window.happens() {
            self.letter(end, 'W');
        }
        let (sender, peer) = self.pair(end);
        if is(Flags::FIN) {
            sender.fin = Some(rel_seq + i64::from(seg_len));
        }
        let rel_ack = is(Flags::ACK).then(|| acknowledge(peer, tcp));
        let is_again = update_last(sender, tcp, seg_len);
        if is_again && self.story.marks[end].again.happens() {
            self.letter(end, 'T');
        }
        let is_attempt = is(Flags::SYN) && end == 0 && self.ends[0].state == State::Inactive;
        self.life.lives(now, is_attempt, self.is_over());
        let turned = self.change_state(end, tcp);
        // After a turn the sender is the other one.
        let end = if turned { 1 - end } else { end };
        if let Some(rel_ack) = rel_ack {
            self.find_gaps(1 - end, rel_ack);
        }
        self.first_seen[end] = true;
        if tcp.payload > 0 && tcp.is_whole && !is(Flags::RST) && rel_seq >= 0 {
            let sender = &mut self.ends[end];
            sender.stream.sent(rel_seq + i64::from(is(Flags::SYN)), i64::from(tcp.payload), sender.acked);
        }
        self.close();
        turned != was_scan
    }

    /// What began with a SYN-ACK may be a scan. An ACK or data after it shows a
    /// connection whose SYN was not seen: then its sender is the server.
    fn turns_from_scan(&mut self, tcp: &Tcp) -> bool {
        let others = Flags::SYN.with(Flags::FIN).with(Flags::RST);
        let goes_on = !tcp.flags.intersects(others) && (tcp.payload > 0 || tcp.flags.contains(Flags::ACK));
        if !self.may_be_scan || !goes_on {
            return false;
        }
        self.turn();
        self.first_seen[0] = true;
        self.may_be_scan = false;
        self.story.history.clear();
        self.story.history.push_str("^h");
        true
    }

    fn turn(&mut self) {
        self.is_partial = false;
        self.ends.swap(0, 1);
        self.story.marks.swap(0, 1);
        self.first_seen.swap(0, 1);
    }

    /// Ends that want to close do so when everything before was seen.
    fn close(&mut self) {
        self.life.comes_to(self.ends.each_ref().map(|end| end.state));
        for at in [0, 1] {
            let (end, peer) = self.pair(at);
            if !end.closes || end.is_closed || end.waits(peer) {
                continue;
            }
            end.is_closed = true;
            let complete = end.state == State::Reset || peer.is_closed || peer.state == State::Inactive;
            self.life.closes(complete);
        }
    }

    fn pair(&mut self, end: usize) -> (&mut End, &mut End) {
        let [originator, responder] = &mut self.ends;
        if end == 0 { (originator, responder) } else { (responder, originator) }
    }

    fn set_partial(&mut self, end: usize, flags: Flags) {
        let (syn, ack) = (flags.contains(Flags::SYN), flags.contains(Flags::ACK));
        if end == 0 && !self.first_seen[0] {
            self.is_partial = !syn || ack;
        } else if end == 1 && !self.first_seen[1] && !self.is_partial {
            self.is_partial = !syn;
        }
    }

    /// Numbers that this packet begins anew.
    fn begin_end(&mut self, end: usize, tcp: &Tcp, seg_len: u32) {
        let end = &mut self.ends[end];
        let is_syn = tcp.flags.contains(Flags::SYN);
        match end.state {
            State::Inactive if is_syn => end.begin(tcp.seq, i64::from(seg_len)),
            // As though its SYN had been seen.
            State::Inactive => end.begin(tcp.seq.minus(1), 1),
            State::SynSent | State::SynAckSent if is_syn && tcp.seq != end.start => {
                end.begin(tcp.seq, i64::from(seg_len));
            }
            State::Established | State::Partial if is_syn => end.begin(tcp.seq, i64::from(seg_len)),
            State::Reset if is_syn && end.before == State::Inactive => {
                end.begin(tcp.seq, i64::from(seg_len));
            }
            State::SynSent
            | State::SynAckSent
            | State::Partial
            | State::Established
            | State::Closed
            | State::Reset => {}
        }
    }

    /// The letters that control bits and data make.
    fn note(&mut self, at: usize, tcp: &Tcp, rel_seq: i64) {
        let is = |flag| tcp.flags.contains(flag);
        let (syn, fin, rst) = (is(Flags::SYN), is(Flags::FIN), is(Flags::RST));
        let noted = &mut self.noted[at];
        let mut is_new = |what: Once| {
            let known = *noted & what as u8 != 0;
            *noted |= what as u8;
            !known
        };
        let marks = &mut self.story.marks[at];
        let letter = match u8::from(syn) + u8::from(fin) + u8::from(rst) {
            0 if tcp.payload > 0 => is_new(Once::Data).then_some('D'),
            0 if is(Flags::ACK) => is_new(Once::Ack).then_some('A'),
            0 => None,
            1 if syn => {
                let shows = is_new(Once::Syn) || rel_seq != marks.last_syn;
                marks.last_syn = rel_seq;
                shows.then_some(if is(Flags::ACK) { 'H' } else { 'S' })
            }
            1 if fin => {
                let number = rel_seq + i64::from(tcp.payload);
                let shows = is_new(Once::Fin) || number != marks.last_fin;
                marks.last_fin = number;
                shows.then_some('F')
            }
            1 => {
                let shows = is_new(Once::Rst) || rel_seq != marks.last_rst;
                marks.last_rst = rel_seq;
                shows.then_some('R')
            }
            _ if fin && rst => is_new(Once::FinRst).then_some('I'),
            _ => is_new(Once::Multi).then_some('Q'),
        };
        if let Some(letter) = letter {
            self.letter(at, letter);
        }
    }

    /// `true`: the ends have changed places.
    fn change_state(&mut self, at: usize, tcp: &Tcp) -> bool {
        let is = |flag| tcp.flags.contains(flag);
        let (end, peer) = self.pair(at);
        match end.state {
            State::Inactive => return self.wake(at, tcp),
            State::SynSent | State::SynAckSent => {
                if is(Flags::FIN) {
                    end.enter(State::Closed);
                    end.closes = true;
                }
                if is(Flags::RST) {
                    end.enter(State::Reset);
                    end.closes = true;
                }
            }
            State::Established | State::Partial => {
                let opens = is(Flags::SYN) && !is(Flags::ACK);
                if opens && end.state == State::Partial && peer.state == State::Inactive {
                    end.enter(State::SynSent);
                }
                if is(Flags::FIN) && !is(Flags::RST) {
                    end.enter(State::Closed);
                    end.closes = true;
                    // A FIN and then an RST was a normal end after all.
                    if peer.state == State::Reset && peer.before == State::Closed {
                        peer.enter(State::Closed);
                    }
                }
                if is(Flags::RST) {
                    end.enter(State::Reset);
                    end.closes = true;
                }
            }
            State::Closed => {
                if is(Flags::RST) && peer.state != State::Closed {
                    end.enter(State::Reset);
                    end.closes = true;
                }
            }
            State::Reset => {}
        }
        false
    }

    /// The first packet of an end. `true`: the ends have changed places.
    fn wake(&mut self, at: usize, tcp: &Tcp) -> bool {
        let is = |flag| tcp.flags.contains(flag);
        let mut turned = false;
        let (end, peer) = self.pair(at);
        if is(Flags::SYN) && at == 0 {
            end.enter(if is(Flags::ACK) { State::SynAckSent } else { State::SynSent });
        } else if is(Flags::SYN) {
            let reversed = !is(Flags::ACK) && peer.state == State::SynAckSent && tcp.seq == end.start;
            if peer.state == State::SynSent || reversed {
                peer.enter(State::Established);
            }
            end.enter(State::Established);
            turned = reversed;
        }
        if is(Flags::FIN) {
            end.enter(State::Closed);
            end.closes = true;
        }
        if is(Flags::RST) {
            end.enter(State::Reset);
            end.closes = true;
        }
        if end.state == State::Inactive {
            let early_ack = at == 1 && tcp.payload == 0 && peer.state == State::SynSent;
            if early_ack {
                // Some hosts acknowledge a SYN before they answer it.
            } else if is(Flags::ACK) && peer.state == State::Established {
                end.enter(State::Established);
                self.is_partial = false;
            } else {
                end.enter(State::Partial);
            }
        }
        if turned {
            // The SYN and its answer were recorded the wrong way round.
            self.turn();
            self.first_seen[0] = true;
            self.may_be_scan = false;
            self.story.history.push('^');
        }
        turned
    }

    /// What the other end acknowledges of this end and nobody has seen.
    fn find_gaps(&mut self, at: usize, rel_ack: i64) {
        let is_partial = self.is_partial;
        let (end, peer) = self.pair(at);
        let up_to = match end.fin {
            Some(fin) if rel_ack >= fin => fin - 1,
            _ => rel_ack,
        };
        if up_to <= 2 && is_partial {
            return;
        }
        let holes = end.stream.acknowledged(up_to);
        if holes == 0 || !(end.is_clean() && peer.is_clean()) {
            return;
        }
        let letters = (0..holes).filter(|_| end.gaps.happens()).count();
        for _ in 0..letters {
            self.letter(at, 'G');
        }
    }

    /// `conn_state`.
    pub(super) fn state(&self) -> &'static str {
        let [originator, responder] = &self.ends;
        let (o, r) = (originator.state, responder.state);
        let idle = |state| matches!(state, State::Inactive | State::Partial);
        match (o, r) {
            (State::SynSent | State::SynAckSent, State::Reset) => "REJ",
            (State::Reset, State::Reset)
                if originator.size(responder) == 0 && responder.size(originator) == 0 =>
            {
                "REJ"
            }
            (_, State::Reset) if idle(o) => "RSTRH",
            (_, State::Reset) => "RSTR",
            (State::Reset, _) if idle(r) && is_syn_then_rst(&self.story.history) => "RSTOS0",
            (State::Reset, _) if idle(r) => "OTH",
            (State::Reset, _) => "RSTO",
            (State::Closed, State::Closed) => "SF",
            (State::Closed, _) if idle(r) => "SH",
            (State::Closed, _) => "S2",
            (_, State::Closed) if idle(o) => "SHR",
            (_, State::Closed) => "S3",
            (State::SynSent, State::Inactive) => "S0",
            (State::Established, State::Established) => "S1",
            _ => "OTH",
        }
    }
}

/// The number that a packet acknowledges, relative to the peer's start.
fn acknowledge(peer: &mut End, tcp: &Tcp) -> i64 {
    if peer.state == State::Inactive {
        peer.begin(tcp.ack.minus(1), 0);
        return 1;
    }
    let rel_ack = peer.relative(tcp.ack, peer.acked);
    if rel_ack < 0 {
        return 0;
    }
    let broken = tcp.ack == SeqNum(0) && rel_ack - peer.acked > TOO_FAR;
    if !tcp.flags.contains(Flags::RST) && rel_ack > peer.acked && !broken {
        peer.acked = rel_ack;
    }
    rel_ack
}

/// Notes how far an end has sent. `true`: it sent data again.
fn update_last(end: &mut End, tcp: &Tcp, seg_len: u32) -> bool {
    let past = end.relative(tcp.seq.plus(seg_len), end.last);
    let further = past - end.last;
    let is = |flag| tcp.flags.contains(flag);
    if (is(Flags::SYN) || is(Flags::RST)) && further.abs() > TOO_FAR {
        return false;
    }
    if is(Flags::FIN) && end.last == 1 {
        // Perhaps far behind what was never seen.
        end.last = i64::from(tcp.seq.plus(seg_len).0.wrapping_sub(end.start.0));
        return false;
    }
    if end.state == State::Reset {
        return false;
    }
    if further > 0 {
        end.last = past;
        return false;
    }
    tcp.payload > 0
}

/// A SYN and then an RST, with nothing between that shows an answer.
fn is_syn_then_rst(history: &str) -> bool {
    let rest = history.strip_prefix('^').unwrap_or(history);
    let Some(rest) = rest.strip_prefix('S') else { return false };
    let reset = rest.find('R');
    reset.is_some_and(|at| !rest[..at].contains(['H', 'A', 'F', 'G', 'I', 'Q']))
}

#[cfg(test)]
mod tests;
