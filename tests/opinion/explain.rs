//! Why the two differ: each difference has a name here and a row of that name in
//! docs/CONNTRACK.md, with the clause that decides.

use halfgate::{
    conntrack::{
        Direction, Phase,
        tcp::{Invalid, Kind, Outcome},
        window::{self, Bound, Half, Seen},
    },
    engine::{DropReason, Verdict},
    wire::{Flags, Segment},
};

use super::{
    compare::{Met, Record},
    kernel::State,
    story::What,
};

/// The names, and what comes after: whether the two still believe the same numbers.
macro_rules! explanations {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $effect:ident;)*) => {
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
        pub enum Explanation {
            $($(#[$doc])* $variant,)*
        }

        impl Explanation {
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            pub const fn effect(self) -> Effect {
                match self {
                    $(Self::$variant => Effect::$effect,)*
                }
            }
        }
    };
}

/// What a difference does to the rest of its story.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Neither believed the packet: they can be compared on.
    None,
    /// One phase lags behind the other until both are the same again.
    Lags,
    /// They believe different things from here on: the comparison ends.
    Parts,
}

explanations! {
    /// An ICMP error that quotes what can't be under way.
    IcmpQuote = "icmp_quote", None;
    /// Something behind its sender's FIN.
    AfterFin = "after_fin", Parts;
    /// Older than the largest window.
    LongPast = "long_past", Parts;
    /// A segment that begins beyond the window, which conntrack believes.
    BeyondWindow = "beyond_window", Parts;
    /// A segment that begins in the window and ends beyond it.
    Overshoot = "overshoot", Parts;
    /// An acknowledgement of what a SYN brought that was not answered so.
    UnansweredSyn = "unanswered_syn", Parts;
    /// An acknowledgement of a little more than was sent.
    AckAhead = "ack_ahead", None;
    /// An acknowledgement up to another window older.
    OldAck = "old_ack", Parts;
    /// By its timestamp an old duplicate.
    OldTimestamp = "old_timestamp", Parts;
    /// What the server sends before the last ACK of the handshake.
    EarlyData = "early_data", Parts;
    /// What the SYN's window allows and a later one does not.
    ShrunkWindow = "shrunk_window", Parts;
    /// Data where an RST has ended the connection.
    AfterReset = "after_reset", Parts;
    /// One octet below the window.
    KeepaliveOctet = "keepalive_octet", Parts;
    /// A SACK block beyond what was sent.
    SackBlock = "sack_block", Parts;
    /// An RST that its receiver would discard.
    RstOutside = "rst_outside", Parts;
    /// One in the window that is not exact.
    RstInexact = "rst_inexact", Parts;
    /// One that is exact by the other of two numbers.
    RstExact = "rst_exact", Parts;
    /// One to a SYN that met a connection.
    RstRefusesNewSyn = "rst_refuses_new_syn", Parts;
    /// One whose acknowledgement is wrong.
    RstAck = "rst_ack", Parts;
    /// One in TIME-WAIT.
    RstTimeWait = "rst_time_wait", Parts;
    /// One to a SYN, which does not acknowledge it.
    RstRefusesNothing = "rst_refuses_nothing", Parts;
    /// One of the opener's that does not belong to its SYN.
    RstOfNoSyn = "rst_of_no_syn", Parts;
    /// One of the opener's to an old connection.
    RstToOldConnection = "rst_to_old_connection", Parts;
    /// One that ends a handshake: conntrack forgets it at once.
    RefusedIsForgotten = "refused_is_forgotten", Parts;
    /// A FIN that is not acknowledged yet.
    FinNotAcknowledged = "fin_not_acknowledged", Lags;
    /// The same FIN again.
    FinAgain = "fin_again", Parts;
    /// A FIN that acknowledges the other's.
    FinAcknowledges = "fin_acknowledges", Lags;
    /// An ACK of the last FIN right after a SYN, taken for a challenge ACK.
    ChallengeAck = "challenge_ack", Lags;
    /// A FIN before what its sender has sent.
    FinBeforeData = "fin_before_data", Parts;
    /// A handshake that is not complete.
    HandshakeIncomplete = "handshake_incomplete", Parts;
    /// One that is: each has acknowledged the other's SYN.
    HandshakeComplete = "handshake_complete", Parts;
    /// In the handshake an acknowledgement of something older, or of nothing.
    OldAckInHandshake = "old_ack_in_handshake", Parts;
    /// What an opener meets that has forgotten a connection.
    OldConnection = "old_connection", None;
    /// A SYN-ACK to another SYN.
    SynAckToAnother = "syn_ack_to_another", Parts;
    /// What follows an RST that refused nothing.
    AfterInvalidRst = "after_invalid_rst", Parts;
    /// Two SYNs, one of which was answered.
    TwoSyns = "two_syns", Parts;
    /// A SYN or SYN-ACK on a connection.
    SynOnConnection = "syn_on_connection", Parts;
    /// A SYN-ACK of another instance of the server.
    OtherServer = "other_server", Parts;
    /// A SYN and its answer where there was a connection.
    BothBeginAnew = "both_begin_anew", Parts;
    /// A SYN in TIME-WAIT that is older, or the one by which began what is over.
    OldSynInTimeWait = "old_syn_in_time_wait", Parts;
    /// A SYN after an RST.
    SynAfterRst = "syn_after_rst", Parts;
}

/// A difference, taken apart.
struct Case<'a> {
    record: &'a Record,
    kind: Kind,
    segment: &'a Segment,
    met: &'a Met,
    before: Phase,
    /// Our phase stayed, conntrack's state stayed.
    we_stay: bool,
    it_stays: bool,
}

/// What explains a packet's record, if the two differ in it or part by it.
pub fn explain(records: &[Record]) -> Option<Explanation> {
    let record = records.last()?;
    let segment = match &record.step.what {
        What::Icmp { .. } => {
            let ours = record.ours == Verdict::Drop(DropReason::IcmpUnrelated);
            return (record.kernel == State::Related && ours).then_some(Explanation::IcmpQuote);
        }
        What::Tcp(segment) => segment,
    };
    let case = Case {
        record,
        kind: Kind::of(segment.flags)?,
        segment,
        met: record.met.as_ref()?,
        before: record.before.ours?,
        we_stay: record.before.ours == record.after.ours,
        it_stays: record.before.kernel == record.after.kernel,
    };
    case.parts_unseen(records).or_else(|| {
        if record.agrees() {
            return None;
        }
        match case.kind {
            Kind::Rst => case.rst(records),
            Kind::Syn => case.syn(records),
            Kind::SynAck => case.syn_ack(),
            Kind::Ack | Kind::Fin => case.window(records).or_else(|| case.data()),
        }
    })
}

impl Case<'_> {
    fn sender(&self) -> &Half {
        self.met.connection.sender(self.met.direction)
    }

    fn receiver(&self) -> &Half {
        self.met.connection.sender(self.met.direction.opposite())
    }

    fn outside(&self) -> Option<Bound> {
        let checked = window::check(self.sender(), self.receiver(), self.segment);
        checked.err().map(|outside| outside.bound)
    }

    fn verdicts(&self) -> (bool, bool) {
        (self.record.kernel_accepts(), self.record.ours_accepts())
    }

    fn is(&self, state: &str) -> bool {
        self.record.before.kernel == Some(state)
    }

    fn becomes(&self, state: &str) -> bool {
        self.record.after.kernel == Some(state)
    }

    /// Packets that both let through and only one of them believes.
    fn parts_unseen(&self, records: &[Record]) -> Option<Explanation> {
        if self.verdicts() != (true, true) {
            return None;
        }
        let (sender, receiver, segment) = (self.sender(), self.receiver(), self.segment);
        let handshake = self.before == Phase::SynReceived;
        match (self.kind, self.met.outcome) {
            (Kind::Syn, Outcome::Stale) if handshake => Some(Explanation::TwoSyns),
            (Kind::SynAck, Outcome::Pass) if handshake && segment.seq != sender.iss => {
                Some(Explanation::OtherServer)
            }
            (Kind::SynAck, Outcome::Reborn) if handshake => Some(Explanation::OtherServer),
            (Kind::SynAck, Outcome::Stale) if self.before == Phase::SynSent => {
                Some(Explanation::SynAckToAnother)
            }
            (Kind::Rst, Outcome::Pass) if self.we_stay && self.it_stays && segment.seq != sender.end => {
                Some(Explanation::RstInexact)
            }
            (Kind::Ack | Kind::Fin, Outcome::Stale) if handshake && !receiver.is_acked_by(segment.ack) => {
                Some(Explanation::OldAckInHandshake)
            }
            (Kind::Ack | Kind::Fin, Outcome::Stale) if self.outside() == Some(Bound::SeqBeyond) => {
                Some(Explanation::BeyondWindow)
            }
            (Kind::Ack | Kind::Fin, Outcome::Stale) if self.outside() == Some(Bound::AckBeyond) => {
                if self.before == Phase::Reset {
                    Some(Explanation::AfterReset)
                } else {
                    self.covers_a_syn(records).then_some(Explanation::UnansweredSyn)
                }
            }
            (Kind::Ack | Kind::Fin, Outcome::Stale) if window::is_outdated(sender, receiver, segment) => {
                Some(Explanation::OldTimestamp)
            }
            (Kind::Ack | Kind::Fin, Outcome::Pass) if self.is_early() => Some(Explanation::EarlyData),
            (Kind::Ack | Kind::Fin, Outcome::Pass) => {
                let reach = sender.max_win.max(66_000);
                let inside = if sender.end.after(sender.max_end) { sender.max_end } else { sender.end };
                let lowest = inside.minus(receiver.max_win).minus(1);
                if segment.ack.before_or_at(receiver.end.minus(reach).minus(1)) {
                    Some(Explanation::OldAck)
                } else if segment.end() == lowest {
                    Some(Explanation::KeepaliveOctet)
                } else if self.is_beyond_last_window(records) {
                    Some(Explanation::ShrunkWindow)
                } else {
                    segment.end().after(sender.max_end).then_some(Explanation::Overshoot)
                }
            }
            _ => None,
        }
    }

    /// Whether it acknowledges a SYN of the other's, or what came with it.
    fn covers_a_syn(&self, records: &[Record]) -> bool {
        records.iter().any(|earlier| match &earlier.step.what {
            What::Tcp(syn) if earlier.step.from != self.record.step.from => {
                syn.flags.contains(Flags::SYN) && self.segment.ack.before_or_at(syn.end())
            }
            _ => false,
        })
    }

    fn believes(&self) -> bool {
        self.met.outcome == Outcome::Pass
    }

    /// Whether the server sends more than its SYN-ACK before the last ACK.
    fn is_early(&self) -> bool {
        let beyond = self.segment.end().after(self.sender().iss.plus(1));
        self.before == Phase::SynReceived && self.met.direction == Direction::Reply && beyond
    }

    /// Whether it ends beyond every window that its receiver has offered since its SYN.
    fn is_beyond_last_window(&self, records: &[Record]) -> bool {
        let scale = self.receiver().shift();
        let offers = records.iter().filter_map(|earlier| match &earlier.step.what {
            What::Tcp(s) if earlier.step.from != self.record.step.from && earlier.ours_accepts() => {
                let window = u32::from(s.window) << if s.flags.contains(Flags::SYN) { 0 } else { scale };
                s.flags.contains(Flags::ACK).then(|| s.ack.plus(window.max(1)))
            }
            _ => None,
        });
        let limit = offers.reduce(halfgate::wire::SeqNum::latest);
        let (max_end, end) = (self.sender().max_end, self.segment.end());
        let allowed = self.segment.seq.before_or_at(max_end);
        allowed && limit.is_some_and(|limit| limit.before(max_end) && end.after(limit))
    }

    /// Whether its sender has sent an RST before that refused nothing.
    fn follows_invalid_rst(&self, records: &[Record]) -> bool {
        records.iter().any(|earlier| {
            earlier.step.from == self.record.step.from
                && earlier.before.ours == Some(Phase::SynSent)
                && earlier.ours == Verdict::Drop(DropReason::BadRst)
        })
    }

    fn rst(&self, records: &[Record]) -> Option<Explanation> {
        let (segment, after) = (self.segment, self.record.after);
        let has_ack = segment.flags.contains(Flags::ACK);
        match self.verdicts() {
            (true, false) if self.met.outcome == Outcome::Invalid(Invalid::BadRst) => {
                Some(match (self.before, self.met.direction) {
                    (Phase::SynSent, Direction::Original) => Explanation::RstOfNoSyn,
                    (Phase::SynSent, Direction::Reply) => Explanation::RstRefusesNothing,
                    _ => Explanation::RstOutside,
                })
            }
            (false, true) if has_ack && !self.receiver().is_acked_by(segment.ack) && self.believes() => {
                Some(Explanation::RstAck)
            }
            (false, true) if self.is_early() => Some(Explanation::EarlyData),
            (false, true) if self.before == Phase::SynSent && after.ours == Some(Phase::Reset) => {
                self.follows_invalid_rst(records).then_some(Explanation::AfterInvalidRst)
            }
            (_, true) if self.before == Phase::SynSent && self.we_stay => {
                let to_old = self.met.outcome == Outcome::Stale;
                to_old.then_some(Explanation::RstToOldConnection)
            }
            (true, true) if after.kernel.is_none() && after.ours == Some(Phase::Reset) => {
                Some(Explanation::RefusedIsForgotten)
            }
            (_, true) if self.met.outcome == Outcome::Stale => Some(Explanation::RstRefusesNewSyn),
            (true, true) if self.before == Phase::TimeWait && self.we_stay => Some(Explanation::RstTimeWait),
            (true, true) if self.becomes("CLOSE") && self.we_stay => Some(Explanation::RstInexact),
            (true, true) if self.it_stays && after.ours == Some(Phase::Reset) => Some(Explanation::RstExact),
            _ => None,
        }
    }

    fn syn(&self, records: &[Record]) -> Option<Explanation> {
        let after = self.record.after.ours;
        if !self.record.ours_accepts() {
            return None;
        }
        match self.before {
            Phase::TimeWait | Phase::Reset if self.becomes("SYN_SENT") && self.we_stay => {
                Some(Explanation::OldSynInTimeWait)
            }
            Phase::Reset if self.it_stays && after == Some(Phase::SynSent) => Some(Explanation::SynAfterRst),
            Phase::SynSent if self.it_stays && self.met.direction == Direction::Original => {
                Some(Explanation::TwoSyns)
            }
            Phase::SynSent if self.it_stays && after == Some(Phase::SynReceived) => {
                self.follows_invalid_rst(records).then_some(Explanation::AfterInvalidRst)
            }
            Phase::SynReceived
            | Phase::Established
            | Phase::FinWait
            | Phase::HalfClosed
            | Phase::Closing
            | Phase::TimeWait
            | Phase::Reset
                if self.it_stays && self.we_stay && self.record.kernel == State::Invalid =>
            {
                Some(Explanation::SynOnConnection)
            }
            _ => None,
        }
    }

    fn syn_ack(&self) -> Option<Explanation> {
        let after = self.record.after.ours;
        if self.met.outcome == Outcome::Over {
            return Some(Explanation::BothBeginAnew);
        }
        if !self.record.ours_accepts() {
            let wrong = self.met.outcome == Outcome::Invalid(Invalid::BadAck);
            return wrong.then_some(Explanation::SynAckToAnother);
        }
        let acks_syn = self.receiver().is_acked_by(self.segment.ack);
        match (self.before, after) {
            (Phase::SynSent, Some(Phase::SynSent)) if !acks_syn => Some(Explanation::SynAckToAnother),
            (Phase::SynSent, Some(Phase::SynReceived)) if self.it_stays => Some(Explanation::TwoSyns),
            (Phase::SynReceived, Some(Phase::Established)) => Some(Explanation::HandshakeComplete),
            (_, Some(Phase::SynReceived)) if self.it_stays && !self.we_stay => {
                Some(Explanation::BothBeginAnew)
            }
            _ if self.we_stay && self.becomes("SYN_RECV") && !self.it_stays => Some(Explanation::OtherServer),
            _ if self.we_stay && self.it_stays && self.record.kernel == State::Invalid => {
                Some(Explanation::SynOnConnection)
            }
            _ => None,
        }
    }

    /// What one of them finds in its window and the other does not.
    fn window(&self, records: &[Record]) -> Option<Explanation> {
        let segment = self.segment;
        match (self.verdicts(), self.record.ours) {
            ((true, false), Verdict::Drop(DropReason::AfterFin)) => Some(Explanation::AfterFin),
            ((true, false), Verdict::Drop(DropReason::SeqOld | DropReason::AckOld)) => {
                Some(Explanation::LongPast)
            }
            ((true, false), Verdict::Drop(DropReason::SeqBeyond)) => Some(Explanation::BeyondWindow),
            ((true, false), Verdict::Drop(DropReason::BadAck)) => Some(Explanation::OldAckInHandshake),
            ((true, false), Verdict::Drop(DropReason::AckBeyond)) if self.before == Phase::Reset => {
                Some(Explanation::AfterReset)
            }
            ((true, false), Verdict::Drop(DropReason::AckBeyond)) => {
                self.covers_a_syn(records).then_some(Explanation::UnansweredSyn)
            }
            ((false, true), _) if self.outside() == Some(Bound::AckBeyond) => Some(Explanation::AckAhead),
            ((false, true), _) if self.outside() == Some(Bound::SeqBeyond) => Some(Explanation::BeyondWindow),
            ((false, true), _) if self.is_beyond_last_window(records) => Some(Explanation::ShrunkWindow),
            ((false, true), _) => {
                let beyond =
                    segment.options.sack_high.is_some_and(|high| !high.before_or_at(self.receiver().end));
                beyond.then_some(Explanation::SackBlock)
            }
            _ => None,
        }
    }

    fn data(&self) -> Option<Explanation> {
        let (record, after) = (self.record, self.record.after.ours);
        if !record.ours_accepts() {
            return None;
        }
        let handshake = self.before == Phase::SynReceived;
        match self.verdicts().0 {
            false if self.before == Phase::Reset && self.we_stay => Some(Explanation::AfterReset),
            false if self.is_early() => Some(Explanation::EarlyData),
            false if self.is("SYN_SENT") && self.we_stay => Some(Explanation::OldConnection),
            false if handshake && self.met.outcome == Outcome::Stale => Some(Explanation::OldAckInHandshake),
            false if handshake && self.is("SYN_SENT2") && self.we_stay => {
                Some(Explanation::HandshakeIncomplete)
            }
            false if handshake && self.is("SYN_SENT2") => Some(Explanation::HandshakeComplete),
            false => None,
            true if handshake && self.we_stay && !self.it_stays => Some(Explanation::HandshakeIncomplete),
            true if handshake && !self.we_stay => Some(Explanation::HandshakeComplete),
            true => self.closing(after),
        }
    }

    /// FINs and their acknowledgements.
    fn closing(&self, after: Option<Phase>) -> Option<Explanation> {
        let sender = self.sender();
        let (fin, has_fin) = (self.kind == Kind::Fin, sender.seen.has(Seen::FIN));
        let end = self.segment.end();
        let is_last = end.after_or_at(sender.end) && end.after(self.receiver().ack);
        let covers = self.segment.ack.after_or_at(self.receiver().end);
        let peer_fin = self.receiver().seen.has(Seen::FIN);
        if fin && !has_fin && !is_last && !self.it_stays {
            return Some(Explanation::FinBeforeData);
        }
        if fin && has_fin && self.becomes("LAST_ACK") && self.we_stay {
            return Some(Explanation::FinAgain);
        }
        let stays_last = self.is("LAST_ACK") && self.it_stays;
        if stays_last && after == Some(Phase::TimeWait) {
            return Some(if fin { Explanation::FinAcknowledges } else { Explanation::ChallengeAck });
        }
        let advances = self.becomes("CLOSE_WAIT") || self.becomes("TIME_WAIT") || self.becomes("LAST_ACK");
        // Of its own FIN the same may be true.
        let awaits = has_fin && !sender.seen.has(Seen::FIN_ACKED);
        let uncovered = !peer_fin || !covers || awaits;
        (advances && !self.it_stays && uncovered).then_some(Explanation::FinNotAcknowledged)
    }
}
