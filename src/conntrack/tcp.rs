//! TCP seen from the middle: one table, then one window test.
//!
//! What a segment means depends on who sends it, what kind it is and the phase:
//!
//! ```text
//!               original direction                    reply direction
//!               SYN     SYNACK  ACK     FIN     RST   SYN     SYNACK  ACK     FIN     RST
//! syn_sent      repeat  crossed alone   alone   abort cross   answer  stale   stale   refuse
//! syn_received  repeat  repeat  data    data    rst   repeat  repeat  data    data    rst
//! established   stale   stale   data    data    rst   stale   stale   data    data    rst
//! fin_wait      stale   stale   data    data    rst   stale   stale   data    data    rst
//! half_closed   stale   stale   data    data    rst   stale   stale   data    data    rst
//! closing       stale   stale   data    data    rst   stale   stale   data    data    rst
//! time_wait     reopen  stale   data    data    rst   reopen  stale   data    data    rst
//! reset         reopen  stale   data    data    rst   reopen  stale   data    data    rst
//! ```
//!
//! From segment to verdict: `Kind::of` names it, `meaning` is the table above, `step` does
//! what the cell says, and where that is `data`, `window::check` is the one window test.
//! `next_phase` draws the phase from the FINs, `refreshes` says whether the timer starts
//! anew. The rest answers two questions that only the ends can settle: which of two
//! handshakes counts (`StaleSyn`, `be_reborn`, `reopen`), and to which connection an RST
//! belongs (`note_challenge`, `denies`).
//!
//! Read first: RFC 9293 §3.5 and §3.10.7, RFC 5961 §3 and §4. Clause by clause:
//! docs/CONNTRACK.md, conformance.

mod alone;
mod handshake;
mod resets;
mod usual;

pub use alone::{expect_one_way, is_one_way, pick_up_answer};
pub use handshake::{open, open_late, pick_up, successor};
pub use usual::{Progress, take_usual};

use alone::{alone, begins_alone, goes_on_alone, was_one_way};
use handshake::{
    answer, answers_crosswise, answers_stale_syn, be_crossed, be_reborn, cross, crossed, is_complete,
    note_challenge, note_stale_syn, repeat,
};
use resets::{abort, reopen, reset};

use super::{
    Connection, Direction, Instant, Phase, Stamp,
    rare::Live,
    window::{self, Bound, Half, Outside, Seen},
};
use crate::wire::{Flags, Segment};

/// What kind of segment it is, by its control bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Kind {
    /// SYN without ACK.
    Syn,
    /// SYN with ACK.
    SynAck,
    /// ACK without SYN, FIN, RST.
    Ack,
    /// FIN with ACK.
    Fin,
    /// RST, with or without ACK.
    Rst,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::Syn, Self::SynAck, Self::Ack, Self::Fin, Self::Rst];

    /// The kind of a segment. `None`: no legal segment has these control bits
    /// (none, SYN with FIN or RST, FIN with RST, FIN without ACK, ...).
    #[must_use]
    pub fn of(flags: Flags) -> Option<Self> {
        let is = |flag| flags.contains(flag);
        match (is(Flags::SYN), is(Flags::FIN), is(Flags::RST), is(Flags::ACK)) {
            (true, false, false, false) => Some(Self::Syn),
            (true, false, false, true) => Some(Self::SynAck),
            (false, false, false, true) => Some(Self::Ack),
            (false, true, false, true) => Some(Self::Fin),
            (false, false, true, _) => Some(Self::Rst),
            (false, false, false, false)
            | (true, true, _, _)
            | (true, _, true, _)
            | (_, true, true, _)
            | (false, true, false, false) => None,
        }
    }

    /// Its name in the table.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Syn => "SYN",
            Self::SynAck => "SYNACK",
            Self::Ack => "ACK",
            Self::Fin => "FIN",
            Self::Rst => "RST",
        }
    }
}

/// What a segment means: a cell of the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Meaning {
    /// A SYN or SYN-ACK again (or a SYN-ACK of a simultaneous open).
    Repeat,
    /// The other end's own SYN: simultaneous open.
    Cross,
    /// The answer to the SYN.
    Answer,
    /// The window test decides.
    Data,
    /// An RST: the three-way test of RFC 5961 §3 decides.
    Rst,
    /// The opener gives up.
    Abort,
    /// The SYN is refused.
    Refuse,
    /// From another life of these addresses: passes and changes nothing, because
    /// the receiver's challenge ACK or RST is what resolves it.
    Stale,
    /// A SYN that may begin a new connection.
    Reopen,
    /// The opener goes on: the answer took another path, or no honest end sends this.
    Alone,
    /// The opener answers a SYN that went by before its own, or no honest end sends this.
    Crossed,
}

impl Meaning {
    /// Its name in the table.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Repeat => "repeat",
            Self::Cross => "cross",
            Self::Answer => "answer",
            Self::Data => "data",
            Self::Rst => "rst",
            Self::Abort => "abort",
            Self::Refuse => "refuse",
            Self::Stale => "stale",
            Self::Reopen => "reopen",
            Self::Alone => "alone",
            Self::Crossed => "crossed",
        }
    }
}

/// The table. `None` for phases that are not TCP's.
#[must_use]
pub const fn meaning(direction: Direction, kind: Kind, phase: Phase) -> Option<Meaning> {
    use Direction::{Original, Reply};
    use Kind::{Ack, Fin, Rst, Syn, SynAck};
    Some(match (phase, direction, kind) {
        // RFC 9293 §3.8: an unanswered SYN is sent again.
        (Phase::SynSent, Original, Syn) => Meaning::Repeat,
        // The opener has nothing to acknowledge yet, unless the other end's SYN came first
        // and was stale: it ends a simultaneous open as well (RFC 9293 §3.5, figure 7).
        (Phase::SynSent, Original, SynAck) => Meaning::Crossed,
        // Nor here, unless the answer takes another path (`pickup: loose`).
        (Phase::SynSent, Original, Ack | Fin) => Meaning::Alone,
        // It gave up, or answers an ACK of another life.
        (Phase::SynSent, Original, Rst) => Meaning::Abort,
        // RFC 9293 §3.5, figure 7: simultaneous open.
        (Phase::SynSent, Reply, Syn) => Meaning::Cross,
        (Phase::SynSent, Reply, SynAck) => Meaning::Answer,
        // RFC 9293 §3.5.1, figure 9: the other end still has an old connection;
        // its ACK draws the RST that ends that one.
        (Phase::SynSent, Reply, Ack | Fin) => Meaning::Stale,
        // RFC 9293 §3.10.7.3: an RST refuses if it acknowledges the SYN.
        (Phase::SynSent, Reply, Rst) => Meaning::Refuse,

        // Retransmissions, and the SYN-ACKs of a simultaneous open.
        (Phase::SynReceived, Original | Reply, Syn | SynAck) => Meaning::Repeat,
        // The last ACK, data with it or before it (RFC 7413 §4.2), an early FIN.
        (Phase::SynReceived, Original | Reply, Ack | Fin) => Meaning::Data,
        (Phase::SynReceived, Original | Reply, Rst) => Meaning::Rst,

        // RFC 5961 §4: a SYN in a synchronised state is answered with a challenge
        // ACK; a late SYN-ACK with an ACK.
        (
            Phase::Established | Phase::FinWait | Phase::HalfClosed | Phase::Closing,
            Original | Reply,
            Syn | SynAck,
        ) => Meaning::Stale,
        (
            Phase::Established | Phase::FinWait | Phase::HalfClosed | Phase::Closing,
            Original | Reply,
            Ack | Fin,
        ) => Meaning::Data,
        (Phase::Established | Phase::FinWait | Phase::HalfClosed | Phase::Closing, Original | Reply, Rst) => {
            Meaning::Rst
        }

        // RFC 9293 §3.6.1, RFC 6191: TIME-WAIT may be left by a newer SYN; what an
        // RST ended may be opened again at once.
        (Phase::TimeWait | Phase::Reset, Original | Reply, Syn) => Meaning::Reopen,
        // An old duplicate.
        (Phase::TimeWait | Phase::Reset, Original | Reply, SynAck) => Meaning::Stale,
        // A retransmitted FIN and its ACK; what was under way when the RST came.
        (Phase::TimeWait | Phase::Reset, Original | Reply, Ack | Fin) => Meaning::Data,
        // RFC 1337: an RST does not end TIME-WAIT.
        (Phase::TimeWait | Phase::Reset, Original | Reply, Rst) => Meaning::Rst,

        (Phase::UdpNew | Phase::UdpStream | Phase::Icmp | Phase::Other, _, _) => return None,
    })
}

/// Why a segment can't belong to its connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Invalid {
    /// The table says never.
    Unexpected(Kind, Phase),
    /// It fails the window test.
    Outside(Outside),
    /// In the handshake it acknowledges something else than the other's SYN.
    BadAck,
    /// An RST outside the window, or in `syn_sent` one that does not acknowledge the SYN.
    BadRst,
    /// Data beyond the sender's own FIN.
    AfterFin,
}

/// What came of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It passes; the connection has learned from it.
    Pass,
    /// It passes and changes nothing: an old duplicate, or an end that has
    /// forgotten the connection.
    Stale,
    /// It passes: a SYN-ACK to an opener's SYN that was stale here. Both ends have
    /// forgotten this connection and begin another one under its rule.
    Reborn,
    /// A SYN-ACK to a SYN of the other end's that was stale here. Both ends have
    /// forgotten this connection; whether that end may open one, the rules say at its
    /// next SYN.
    Over,
    /// It begins a new connection in place of this one.
    Reopen,
    /// It is dropped and changes nothing.
    Invalid(Invalid),
}

/// Takes one segment.
pub fn step(
    connection: &mut Live<'_>,
    direction: Direction,
    kind: Kind,
    segment: &Segment,
    now: Instant,
) -> Outcome {
    let phase = connection.phase;
    let Some(meaning) = meaning(direction, kind, phase) else {
        return Outcome::Invalid(Invalid::Unexpected(kind, phase));
    };
    match meaning {
        Meaning::Stale => {
            if begins_alone(connection, direction, kind, segment) {
                return Outcome::Reopen;
            }
            if kind == Kind::SynAck && answers_stale_syn(connection, direction, segment) {
                return be_reborn(connection, direction, segment, now);
            }
            if kind == Kind::SynAck && answers_crosswise(connection, direction, segment) {
                return be_crossed(connection, direction, segment, now);
            }
            note_challenge(connection, direction, kind, segment);
            note_stale_syn(connection, direction, kind, segment);
            Outcome::Stale
        }
        Meaning::Cross => {
            cross(connection, Half::at_syn(segment), now);
            Outcome::Pass
        }
        Meaning::Crossed => crossed(connection, segment, now),
        Meaning::Answer => answer(connection, segment, now),
        Meaning::Alone => alone(connection, kind, segment, now),
        Meaning::Repeat => repeat(connection, direction, kind, segment, now),
        Meaning::Abort => abort(connection, segment, now),
        Meaning::Refuse => {
            let acks_syn = segment.flags.contains(Flags::ACK) && connection.original.is_acked_by(segment.ack);
            if !acks_syn {
                let other = segment.flags.contains(Flags::ACK)
                    && answers_stale_syn(connection, Direction::Reply, segment);
                // Which of two attempts the opener still makes is for it to know.
                return if other { Outcome::Stale } else { Outcome::Invalid(Invalid::BadRst) };
            }
            connection.reply.seen.add(Seen::RST);
            connection.enter(Phase::Reset, now);
            Outcome::Pass
        }
        Meaning::Reopen => {
            let outcome = reopen(connection, direction, segment);
            if outcome == Outcome::Stale {
                note_stale_syn(connection, direction, kind, segment);
            }
            outcome
        }
        Meaning::Rst => reset(connection, direction, segment, now),
        Meaning::Data => data(connection, direction, kind, segment, now),
    }
}

fn data(
    connection: &mut Live<'_>,
    direction: Direction,
    kind: Kind,
    segment: &Segment,
    now: Instant,
) -> Outcome {
    let phase = connection.phase;
    let silence = connection.last_seen.elapsed(now);
    let (sender, receiver) = connection.halves(direction);
    let unseen = receiver.is_elsewhere();
    if phase == Phase::SynReceived && !unseen && !receiver.is_acked_by(segment.ack) {
        if segment.ack.after(receiver.end) {
            return Outcome::Invalid(Invalid::BadAck);
        }
        // Of an older connection: RFC 9293 §3.10.7.4 (SYN-RECEIVED) answers it with an
        // RST, which ends that one.
        note_challenge(connection, direction, kind, segment);
        return Outcome::Stale;
    }
    if sender.seen.has(Seen::FIN) && segment.end().after(sender.end) {
        return Outcome::Invalid(Invalid::AfterFin);
    }
    if let Err(outside) = window::check(sender, receiver, segment) {
        let untaken = outside.bound == Bound::SeqBeyond && segment.seq_len() > 0;
        if untaken && outside.near && receiver.is_known() {
            window::note_untaken(sender, segment);
        }
        // Its receiver does not accept it, but answers (RFC 9293 §3.10.7.4).
        let passes = outside.near || goes_on_alone(connection, direction, segment);
        return if passes { Outcome::Stale } else { Outcome::Invalid(Invalid::Outside(outside)) };
    }
    let (sender, receiver) = connection.halves(direction);
    if silence > window::TIMESTAMPS_HOLD {
        sender.seen.clear(Seen::TIMESTAMPS);
        receiver.seen.clear(Seen::TIMESTAMPS);
    }
    if window::is_outdated(sender, receiver, segment) {
        // Its receiver answers it with an ACK and takes nothing of it, unless it has
        // never got what made this one old here. What it acknowledges later tells.
        window::note_untaken(sender, segment);
        return Outcome::Stale;
    }
    sender.seen.clear(Seen::FORGOT);
    let probe = segment.payload_len <= 1 && kind == Kind::Ack && segment.seq.plus(1) == sender.end;
    let answers_probe = kind == Kind::Ack && receiver.seen.has(Seen::PROBE);
    if answers_probe {
        receiver.seen.clear(Seen::PROBE);
    }
    if probe {
        sender.seen.add(Seen::PROBE);
    }
    // Whoever was told to reset and still speaks has not been (RFC 5961 §3.2).
    let vouches = receiver.seen.has(Seen::DOUBTED);
    receiver.seen.clear(Seen::DOUBTED);
    let still_sends = !sender.seen.has(Seen::FIN);
    let no_fin_yet = still_sends && !receiver.seen.has(Seen::FIN);
    let ahead =
        sender.seen.has(Seen::MET) || !receiver.seen.has(Seen::ACK) || segment.end().after(receiver.ack);
    let new_data = segment.payload_len > 0 && !probe;
    let repairs = new_data && kind == Kind::Ack && segment.end().after(receiver.ack);
    // A FIN is the last that an end sends (RFC 9293 §3.6): whoever has sent more has not
    // sent this one.
    let is_last = sender.seen.has(Seen::UNTAKEN) || segment.end().after_or_at(sender.end);
    window::learn(sender, receiver, segment);
    // One below what its receiver has acknowledged is forged, and old data there.
    let new_fin = kind == Kind::Fin && still_sends && ahead && is_last;
    if new_fin {
        sender.end_with(segment);
    }
    let has_fin = sender.seen.has(Seen::FIN) || receiver.seen.has(Seen::FIN);
    if has_fin && (no_fin_yet || connection.rare().first_fin.is_none()) {
        connection.rare_mut().first_fin = Some(Stamp::of(now));
    }
    if vouches {
        connection.rare_mut().unverified_rst = None;
    }
    let next = next_phase(connection);
    connection.enter(next, now);
    if refreshes(phase, next, kind, Refresh { still_sends, new_data, repairs, answers_probe }) {
        connection.refresh(now);
    }
    Outcome::Pass
}

/// The phase that the FINs and their acknowledgements make.
fn next_phase(connection: &Connection) -> Phase {
    match connection.phase {
        // An end whose peer is never seen goes on only when it was acknowledged, and so
        // does its peer, which is seen after all.
        Phase::SynReceived if !is_complete(connection) && !was_one_way(connection) => {
            return Phase::SynReceived;
        }
        Phase::TimeWait | Phase::Reset => return connection.phase,
        Phase::SynReceived
        | Phase::SynSent
        | Phase::Established
        | Phase::FinWait
        | Phase::HalfClosed
        | Phase::Closing
        | Phase::UdpNew
        | Phase::UdpStream
        | Phase::Icmp
        | Phase::Other => {}
    }
    let (one, other) = (connection.original.seen, connection.reply.seen);
    let acked = one.has(Seen::FIN_ACKED) || other.has(Seen::FIN_ACKED);
    match (one.has(Seen::FIN), other.has(Seen::FIN)) {
        (false, false) => Phase::Established,
        (true, true) if one.has(Seen::FIN_ACKED) && other.has(Seen::FIN_ACKED) => Phase::TimeWait,
        (true, true) => Phase::Closing,
        (true, false) | (false, true) if acked => Phase::HalfClosed,
        (true, false) | (false, true) => Phase::FinWait,
    }
}

/// Believes the FINs that passed before their numbers could be tested.
pub fn believe_fins(connection: &mut Live<'_>, now: Instant) {
    let mut are_new = false;
    for direction in [Direction::Original, Direction::Reply] {
        let (sender, receiver) = connection.halves(direction);
        if sender.seen.has(Seen::UNTAKEN_FIN) {
            are_new |= !sender.seen.has(Seen::FIN) && !receiver.seen.has(Seen::FIN);
            sender.seen.clear(Seen::UNTAKEN);
            sender.seen.clear(Seen::UNTAKEN_FIN);
            sender.seen.add(Seen::FIN);
        }
    }
    if are_new {
        connection.rare_mut().first_fin = Some(Stamp::of(now));
    }
    let next = next_phase(connection);
    connection.enter(next, now);
}

struct Refresh {
    still_sends: bool,
    new_data: bool,
    repairs: bool,
    answers_probe: bool,
}

/// Whether a segment in window starts its phase's timer anew (docs/CONNTRACK.md, phases).
fn refreshes(before: Phase, after: Phase, kind: Kind, why: Refresh) -> bool {
    match after {
        Phase::Established => true,
        // A retransmitted FIN does not buy time.
        Phase::FinWait => kind != Kind::Fin,
        Phase::HalfClosed => before != after || (why.still_sends && why.new_data) || why.answers_probe,
        // Both have said all, but what was lost on the way is still sent again; that
        // is not silence. A FIN alone, sent again, does not buy time.
        Phase::Closing => before != after || why.repairs,
        // RFC 9293 §3.10.7.4, eighth: a retransmitted FIN starts the 2 MSL anew.
        Phase::TimeWait => kind == Kind::Fin,
        Phase::SynSent
        | Phase::SynReceived
        | Phase::Reset
        | Phase::UdpNew
        | Phase::UdpStream
        | Phase::Icmp
        | Phase::Other => false,
    }
}
