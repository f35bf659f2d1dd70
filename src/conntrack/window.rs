//! The window test: could the receiver accept this segment?
//!
//! What a middle box can know of the two windows (RFC 9293 §3.3.1, §3.4; the
//! argument is Guido van Rooij's "Real Stateful TCP Packet Filtering in IP
//! Filter"). For a segment from S to R, with S's and R's halves as seen here:
//!
//! 1. SEG.SEQ            <= S.max_end                  not beyond R's window
//!    (without data: or S.end, if what S sent ended beyond it)
//! 2. SEG.SEQ + SEG.LEN  >= min(S.end, S.max_end) - R.max_win - 1   not older than
//!    R's window
//! 3. SEG.ACK            <= R.end                      acknowledges only what R sent
//!    (a connection met mid-stream: R may have sent more before it was met)
//! 4. SEG.ACK            >= R.end - 2 max(S.max_win, 66000)   not too old: R's
//!    SND.UNA is at least one window below R.end, and RFC 5961 §5.2 lets an
//!    acknowledgement be another window older
//!
//! Windows are scaled (RFC 7323 §2) when both ends offered it.
//!
//! Nothing that fails is believed. What only misses one of them by little
//! ([`Outside::near`]) is still the receiver's to answer: RFC 9293 §3.10.7.4 has
//! it acknowledge what it can't accept, and that is how two ends find together again.
//! What its receiver acknowledges of it, though, counts ([`note_untaken`]): a sender whose
//! SND.UNA an old segment has moved sends that much further (a window update needs a newer
//! one, SND.WL1), and a receiver that has room takes it.
//!
//! Where a window is not known, because its end was met mid-stream or is never
//! seen, nobody may be further ahead of what was seen than `REACH`.

mod seen;
mod stale_syn;
mod unseen;

pub use seen::Seen;
pub use stale_syn::StaleSyn;
pub use unseen::{agree, meet_again, note_unconfirmed};

use std::time::Duration;

use crate::wire::{Flags, Segment, SeqNum};

/// How far back an acknowledgement may lie at least: more than two unscaled windows,
/// so that reordering on paths with small windows passes.
pub const LEAST_ACK_REACH: u32 = 2 * 66_000;

/// How far back it may lie at most: as far as the largest window. With one that
/// reaches as far ahead all compared numbers are less than 2^31 apart.
const MAX_REACH: u32 = 1 << 30;

/// The shift used where the handshake was not seen: the largest that is legal
/// (RFC 7323 §2.3), so that nothing legal fails the test.
const UNKNOWN_SCALE: u8 = 14;

/// The bits of a shift.
const SHIFT: u8 = 0x0f;

/// Beside a shift: the other end offers none.
const NOT_IN_FORCE: u8 = 1 << 7;

/// Beside a shift: none of this end's segments has come by.
const ELSEWHERE: u8 = 1 << 6;

/// Beside the largest shift: it is not known.
const GUESSED: u8 = 1 << 5;

/// For a shift that is not known.
const GUESSED_SCALE: u8 = GUESSED | UNKNOWN_SCALE;

/// The largest window that is legal, for one that was not seen.
const UNKNOWN_WINDOW: u32 = (u16::MAX as u32) << UNKNOWN_SCALE;

/// How much an end may have sent before it was met, until its peer's
/// acknowledgement says.
const UNDER_WAY: u32 = 1 << 29;

/// How long a timestamp tells old from new on a silent connection (RFC 7323 §5.5).
pub const TIMESTAMPS_HOLD: Duration = Duration::from_hours(24 * 24);

/// How far ahead of what was seen an end may be whose peer's window is not known, and
/// what such a window is taken for until more is under way in it: no smaller than the
/// largest that common systems offer by themselves. Honest data follow each other;
/// only what is lost on the way to us makes a gap.
const REACH: u32 = 1 << 25;

/// One end of a TCP connection, as its own segments show it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(Rust, packed)]
pub struct Half {
    /// The number of its SYN (ISS); while [`Seen::MET`], up to where it may have sent
    /// before it was met.
    pub iss: SeqNum,
    /// The highest sequence number after a segment of this end (SND.NXT as seen).
    pub end: SeqNum,
    /// The highest sequence number that the other end's window allows.
    pub max_end: SeqNum,
    /// The highest acknowledgement of this end (its RCV.NXT as told).
    pub ack: SeqNum,
    /// The largest window that this end has offered, in octets.
    pub max_win: u32,
    /// TS.Recent of its peer, as far as the middle can tell (RFC 7323 §4.3): the
    /// highest TSval of this end in a segment that was not ahead of what its peer had
    /// acknowledged.
    pub ts_recent: u32,
    /// Window scale shift that this end offers, 0 if none. Beside it [`NOT_IN_FORCE`],
    /// [`ELSEWHERE`], and [`GUESSED`] where its handshake was not seen, and so neither its
    /// window.
    pub(super) scale: u8,
    /// What this end has done so far.
    pub seen: Seen,
}

/// Which inequality a segment fails, and by what.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outside {
    /// Which.
    pub bound: Bound,
    /// The segment's number.
    pub number: SeqNum,
    /// What it was compared with.
    pub limit: SeqNum,
    /// Its receiver should see it all the same, and answer it with an ACK: it lies at
    /// most one more window beyond the receiver's, or is no older than the largest
    /// window (RFC 7323 §2.3), or lies in the window and acknowledges no more than 4
    /// reaches back. What is further away never belonged to this connection.
    pub near: bool,
}

/// The four inequalities.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Bound {
    /// 1: beyond the receiver's window.
    SeqBeyond,
    /// 2: older than the receiver's window.
    SeqOld,
    /// 3: acknowledges what was never sent.
    AckBeyond,
    /// 4: acknowledges what is long past.
    AckOld,
}

impl Half {
    /// An end at its SYN or SYN-ACK.
    #[must_use]
    pub fn at_syn(segment: &Segment) -> Self {
        let mut seen = Seen::SYN;
        // A larger one is taken for the largest (RFC 7323 §2.3).
        let scale = segment.options.window_scale.unwrap_or(0).min(UNKNOWN_SCALE);
        if segment.options.window_scale.is_some() {
            seen.add(Seen::SCALE);
        }
        if segment.payload_len > 0 {
            seen.add(Seen::SYN_DATA);
        }
        let mut half = Self {
            iss: segment.seq,
            end: segment.end(),
            max_end: segment.end(),
            // A window in a SYN is never scaled (RFC 7323 §2.2).
            max_win: u32::from(segment.window).max(1),
            scale,
            seen,
            ..Self::default()
        };
        half.note_ack(segment);
        half.note_timestamp(segment);
        half
    }

    /// This end at its SYN (`begun`), after it has challenged its peer.
    #[must_use]
    pub fn begun_after(&self, begun: Self) -> Self {
        let mut half = begun;
        if self.seen.has(Seen::CHALLENGED) {
            half.seen.add(Seen::CHALLENGED);
        }
        half
    }

    /// This end at its SYN (`begun`) on the next connection: a peer that has forgotten this
    /// one may still deny what it said here, which is the challenge then.
    #[must_use]
    pub fn begun_anew(&self, begun: Self) -> Self {
        let mut half = begun;
        if self.seen.has(Seen::ACK) {
            half.seen.add(Seen::CHALLENGED);
        }
        half
    }

    /// Whether its SYN is this one.
    #[must_use]
    pub fn began_with(&self, syn: &StaleSyn) -> bool {
        self.seen.has(Seen::SYN) && self.iss == syn.iss
    }

    /// An end at a SYN that was remembered.
    #[must_use]
    pub fn at_stale(syn: &StaleSyn) -> Self {
        let mut seen = Seen::SYN;
        if syn.scale.is_some() {
            seen.add(Seen::SCALE);
        }
        Self {
            iss: syn.iss,
            end: syn.end(),
            max_end: syn.end(),
            max_win: u32::from(syn.window).max(1),
            scale: syn.scale.unwrap_or(0).min(UNKNOWN_SCALE),
            seen,
            ..Self::default()
        }
    }

    /// An end met mid-stream: its window scale is unknown.
    #[must_use]
    pub fn at_pickup(segment: &Segment) -> Self {
        let max_win = (u32::from(segment.window) << UNKNOWN_SCALE).clamp(1, REACH);
        let mut half = Self {
            iss: segment.end().plus(UNDER_WAY),
            end: segment.end(),
            // The window that the other end has offered is not known yet.
            max_end: segment.end().plus(UNKNOWN_WINDOW),
            max_win,
            scale: GUESSED_SCALE,
            seen: Seen::SYN.and(Seen::MET),
            ..Self::default()
        };
        half.note_ack(segment);
        half.note_timestamp(segment);
        half
    }

    /// The other end of one met mid-stream: known only by what was acknowledged.
    #[must_use]
    pub fn behind_pickup(segment: &Segment) -> Self {
        Self {
            iss: segment.ack.plus(REACH),
            end: segment.ack,
            // What is under way may have been sent under a larger window than this.
            max_end: segment.ack.plus((u32::from(segment.window) << UNKNOWN_SCALE).max(REACH)),
            ack: segment.seq,
            max_win: REACH,
            scale: GUESSED_SCALE,
            seen: Seen::SYN.and(Seen::MET),
            ..Self::default()
        }
    }

    /// The end behind a SYN-ACK, where its SYN took another path or little is known of it.
    #[must_use]
    pub fn behind_syn_ack(segment: &Segment) -> Self {
        let scales = segment.options.window_scale.is_some();
        let mut seen = Seen::SYN;
        if scales {
            // Who answers with it was offered it (RFC 7323 §2.2).
            seen.add(Seen::SCALE);
        }
        Self {
            iss: segment.ack.minus(1),
            end: segment.ack,
            max_end: segment.ack.plus(u32::from(segment.window).max(1)),
            max_win: if scales { REACH } else { u32::from(u16::MAX) },
            scale: if scales { GUESSED_SCALE } else { 0 },
            seen,
            ..Self::default()
        }
    }

    /// Learns the scale that this end's SYN or SYN-ACK offers, if it was not known.
    pub fn settle_guess(&mut self, segment: &Segment) {
        if self.is_guessed() && !self.seen.has(Seen::MET) {
            let offered = segment.options.window_scale.unwrap_or(0).min(UNKNOWN_SCALE);
            self.scale = self.scale & ELSEWHERE | offered;
            self.max_win = u32::from(segment.window).max(1);
        }
    }

    /// Whether something that this end sent is not acknowledged by `other`.
    #[must_use]
    pub fn awaits_ack(&self, other: &Self) -> bool {
        let sent = self.seen.has(Seen::SYN) && !self.seen.has(Seen::UNTAKEN);
        sent && other.seen.has(Seen::ACK) && self.end.after(other.ack)
    }

    /// Lets the other end's SYN or SYN-ACK offer its window to this one: what it
    /// may send before the first ACK (RFC 7413 §4.2 lets a server).
    pub fn offered(&mut self, window: u32) {
        self.max_end = self.max_end.latest(self.end.plus(window));
    }

    /// Whether `ack` acknowledges this end's SYN and nothing that it never sent.
    #[must_use]
    pub fn is_acked_by(&self, ack: SeqNum) -> bool {
        ack.after(self.iss) && ack.before_or_at(self.end)
    }

    /// The first acknowledgement of this end's SYN tells whether data in it were
    /// taken; those that were not count as never sent, because they come again
    /// (RFC 7413 §4.2.2).
    pub fn settle_syn_data(&mut self, ack: SeqNum) {
        if self.seen.has(Seen::SYN_DATA) {
            self.seen.clear(Seen::SYN_DATA);
            self.end = ack;
        }
    }

    /// By how much its windows are scaled, apart from those of its SYN (RFC 7323 §2.2).
    #[must_use]
    pub const fn shift(&self) -> u8 {
        if self.scale & NOT_IN_FORCE != 0 { 0 } else { self.scale & SHIFT }
    }

    /// Whether its window is not known.
    const fn is_guessed(&self) -> bool {
        self.scale & (NOT_IN_FORCE | GUESSED) == GUESSED
    }

    /// Whether of both ends the handshake was seen, and what they acknowledge is.
    #[must_use]
    pub const fn are_plain(&self, other: &Self) -> bool {
        (self.scale | other.scale) & (GUESSED | ELSEWHERE) == 0
    }

    /// Whether its window is known, and what it acknowledges is seen.
    #[must_use]
    pub const fn is_known(&self) -> bool {
        !self.is_guessed() && !self.is_elsewhere()
    }

    /// Whether none of its segments has come by, because they may take another path
    /// (`pickup: loose`): it is known only by what its peer acknowledges.
    #[must_use]
    pub const fn is_elsewhere(&self) -> bool {
        self.scale & ELSEWHERE != 0
    }

    /// Notes that none of its segments has come by.
    pub const fn be_elsewhere(&mut self) {
        self.scale |= ELSEWHERE;
    }

    /// Notes that its windows are not scaled: they can't be larger than that.
    pub const fn scale_not(&mut self) {
        self.scale &= ELSEWHERE;
        self.max_win = u16::MAX as u32;
    }

    /// The highest number that the other end can acknowledge.
    const fn highest_ack(&self) -> SeqNum {
        if self.is_elsewhere() {
            self.end.plus(REACH)
        } else if self.seen.has(Seen::MET) && !self.seen.has(Seen::FIN) {
            self.end.latest(self.iss)
        } else {
            self.end
        }
    }

    /// Where the segments of this end must begin at the latest.
    #[must_use]
    pub const fn last_start(&self, receiver: &Self) -> SeqNum {
        let ahead = self.end.plus(REACH);
        let far = receiver.is_guessed() && self.max_end.after(ahead);
        if far || self.is_elsewhere() || receiver.is_elsewhere() { ahead } else { self.max_end }
    }

    /// Notes that this end is seen after all.
    const fn appear(&mut self) {
        if self.is_elsewhere() {
            self.scale &= !ELSEWHERE;
            self.seen.add(Seen::MET);
            self.iss = self.end.plus(REACH);
        }
    }

    /// Notes its FIN. What was outdated and lay beyond it, this end has never sent.
    pub fn end_with(&mut self, fin: &Segment) {
        self.seen.add(Seen::FIN);
        if self.seen.has(Seen::UNTAKEN) {
            self.end = fin.end();
            self.seen.clear(Seen::UNTAKEN);
            self.seen.clear(Seen::UNTAKEN_FIN);
        }
    }

    fn note_ack(&mut self, segment: &Segment) {
        if segment.flags.contains(Flags::ACK) {
            self.ack = if self.seen.has(Seen::ACK) { self.ack.latest(segment.ack) } else { segment.ack };
            self.seen.add(Seen::ACK);
        }
    }

    pub(super) fn note_timestamp(&mut self, segment: &Segment) {
        if let Some((value, _)) = segment.options.timestamps {
            let newer = !self.seen.has(Seen::TIMESTAMPS) || SeqNum(value).after(SeqNum(self.ts_recent));
            if newer {
                self.ts_recent = value;
            }
            self.seen.add(Seen::TIMESTAMPS);
        }
    }
}

/// The window that a segment offers, in octets.
pub(super) fn offered_window(sender: &Half, segment: &Segment) -> u32 {
    u32::from(segment.window) << if segment.flags.contains(Flags::SYN) { 0 } else { sender.shift() }
}

/// How far below what its peer has sent an acknowledgement of this end may lie (4).
pub fn ack_reach(sender: &Half) -> u32 {
    sender.max_win.clamp(LEAST_ACK_REACH / 2, MAX_REACH / 2).saturating_mul(2)
}

/// The four inequalities.
///
/// # Errors
/// One that fails; 3 before the others, because what fails both is far from this
/// connection.
#[inline]
pub fn check(sender: &Half, receiver: &Half, segment: &Segment) -> Result<(), Outside> {
    let outside = |bound, number, limit, near| Err(Outside { bound, number, limit, near });
    let has_ack = segment.flags.contains(Flags::ACK);
    let reach = ack_reach(sender);
    let oldest_ack = receiver.end.minus(reach);
    let is_ack_old = has_ack && segment.ack.before(oldest_ack);
    let latest = sender.last_start(receiver);
    // What an end that is never seen has acknowledged is not known either.
    let window = if receiver.is_elsewhere() { MAX_REACH } else { receiver.max_win };
    // One octet more: a keepalive probe of an idle connection lies one below. What was
    // sent beyond the window makes nothing in it older.
    let inside = if sender.end.after(latest) { latest } else { sender.end };
    // Nor does what nobody may have taken.
    let doubtful = sender.seen.has(Seen::UNTAKEN) && receiver.seen.has(Seen::ACK);
    let inside = if doubtful && inside.after(receiver.ack) { receiver.ack } else { inside };
    let oldest = inside.minus(window).minus(1);
    // What was sent may end beyond the window; an ACK without data then begins there.
    let is_empty = segment.end() == segment.seq;
    let highest = if is_empty { latest.latest(sender.end) } else { latest };
    let highest_ack = receiver.highest_ack();
    if has_ack && segment.ack.after(highest_ack) {
        let in_window = segment.seq.before_or_at(highest) && segment.end().after_or_at(oldest);
        let near = in_window && segment.ack.since(highest_ack) <= reach;
        return outside(Bound::AckBeyond, segment.ack, highest_ack, near);
    }
    if segment.seq.after(highest) {
        // Counted from the window: what is untaken lies beyond it too.
        let near = segment.end().since(latest) < receiver.max_win && !is_ack_old;
        return outside(Bound::SeqBeyond, segment.seq, highest, near);
    }
    if segment.end().before(oldest) {
        let near = oldest.since(segment.end()) <= MAX_REACH;
        return outside(Bound::SeqOld, segment.end(), oldest, near);
    }
    if is_ack_old {
        let near = oldest_ack.since(segment.ack) <= MAX_REACH;
        return outside(Bound::AckOld, segment.ack, oldest_ack, near);
    }
    Ok(())
}

/// Whether a segment in window is one that its receiver takes for an old duplicate by
/// its timestamp (RFC 7323 §5.3, R1; an RST never is).
#[must_use]
pub fn is_outdated(sender: &Half, receiver: &Half, segment: &Segment) -> bool {
    let both = sender.seen.has(Seen::TIMESTAMPS) && receiver.seen.has(Seen::TIMESTAMPS);
    let older = |(value, _): (u32, u32)| SeqNum(value).before(SeqNum(sender.ts_recent));
    both && segment.options.timestamps.is_some_and(older)
}

/// Learns from a segment that its receiver need not take ([`is_outdated`], or beyond its
/// window but near): what it may acknowledge if it takes it nevertheless.
pub fn note_untaken(sender: &mut Half, segment: &Segment) {
    if segment.end().after(sender.end) {
        sender.end = segment.end();
        sender.seen.clear(Seen::UNTAKEN_FIN);
        sender.seen.add(Seen::UNTAKEN);
        if segment.flags.contains(Flags::FIN) {
            sender.seen.add(Seen::UNTAKEN_FIN);
        }
    } else if segment.flags.contains(Flags::FIN) && segment.end() == sender.end {
        // What its sender said after it has overtaken it.
        sender.seen.add(Seen::UNTAKEN);
        sender.seen.add(Seen::UNTAKEN_FIN);
    }
}

/// Learns from a segment that passed [`check`].
#[inline]
pub fn learn(sender: &mut Half, receiver: &mut Half, segment: &Segment) {
    let window = offered_window(sender, segment);
    let known = if sender.is_guessed() { window.min(REACH) } else { window };
    sender.max_win = sender.max_win.max(known);
    sender.appear();
    if segment.end().after(sender.max_end) && !receiver.is_guessed() {
        // A receiver takes more than it has offered while it has nothing else queued, and
        // answers what it does not take: its window counts as that much larger.
        let more = segment.end().since(sender.max_end);
        receiver.max_win = receiver.max_win.saturating_add(more).min(MAX_REACH);
    }
    if segment.end().after(sender.end) {
        // It has sent more than its SYN.
        sender.seen.clear(Seen::SYN_DATA);
    }
    if segment.end().after(sender.end) || (segment.end() == sender.end && segment.seq_len() > 0) {
        sender.end = segment.end();
        sender.seen.clear(Seen::UNTAKEN);
        sender.seen.clear(Seen::UNTAKEN_FIN);
    }
    // RFC 7323 §4.3: not that of a segment which may have overtaken others, or those
    // would look outdated.
    let in_order = receiver.seen.has(Seen::ACK) && segment.seq.before_or_at(receiver.ack);
    if in_order || !sender.seen.has(Seen::TIMESTAMPS) {
        sender.note_timestamp(segment);
    }
    if receiver.is_guessed() && receiver.seen.has(Seen::ACK) && sender.end.after(receiver.ack) {
        // A window is no smaller than what is under way in it.
        receiver.max_win = receiver.max_win.max(sender.end.since(receiver.ack).min(MAX_REACH));
    }
    if segment.flags.contains(Flags::ACK) {
        if !sender.seen.has(Seen::ACK) && receiver.seen.has(Seen::MET) {
            // Its peer is heard for the first time: no more than a window was under way
            // beyond this, and the window that it has is known.
            receiver.iss = segment.ack.plus(REACH);
            receiver.max_end = receiver.end.plus(REACH);
        }
        sender.note_ack(segment);
        receiver.settle_syn_data(segment.ack);
        if receiver.seen.has(Seen::MET) || receiver.is_elsewhere() {
            // It sent this before it was met, or where it was not seen.
            receiver.end = receiver.end.latest(segment.ack);
        }
        if receiver.seen.has(Seen::MET) && receiver.end.after(receiver.iss) {
            // What it sent before is long past.
            receiver.seen.clear(Seen::MET);
        }
        // A zero window is probed with one octet (RFC 9293 §3.8.6.1).
        receiver.max_end = receiver.max_end.latest(segment.ack.plus(window.max(1)));
        if receiver.seen.has(Seen::UNTAKEN) && segment.ack.after_or_at(receiver.end) {
            // This end has taken it.
            if receiver.seen.has(Seen::UNTAKEN_FIN) {
                receiver.seen.add(Seen::FIN);
            }
            receiver.seen.clear(Seen::UNTAKEN);
            receiver.seen.clear(Seen::UNTAKEN_FIN);
        }
        if receiver.seen.has(Seen::FIN) && segment.ack.after_or_at(receiver.end) {
            receiver.seen.add(Seen::FIN_ACKED);
        }
    }
}

/// After both SYNs: scaling holds only if both offered it (RFC 7323 §2.2). What each has
/// offered stays known, because another SYN may count after all.
pub fn settle_scaling(one: &mut Half, other: &mut Half) {
    let both = one.seen.has(Seen::SCALE) && other.seen.has(Seen::SCALE);
    for half in [one, other] {
        half.scale = half.scale & !NOT_IN_FORCE | if both { 0 } else { NOT_IN_FORCE };
    }
}
