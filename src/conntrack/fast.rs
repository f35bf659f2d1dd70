//! The fast path: connections of which packets pass in the kernel, unseen.
//!
//! While a connection rides, and after it until both ends were heard again, its numbers
//! are out of date, and the window test can't be made. The kernel's conntrack makes it
//! for every packet, but it lets pass as well what is far too old, so that its word alone
//! is not enough to learn new numbers from: one forged segment could teach any. So what
//! one end says is only noted, and believed as soon as what the other end says agrees
//! with it ([`Connection::find_again`]). Until then segments pass and change nothing: their
//! receiver judges them (RFC 9293 §3.10.7.4, RFC 5961), and the kernel is asked what it
//! made of a FIN or RST ([`Live::heed`]); an RST that it believes must be confirmed by
//! the end that it was sent to.

use super::{
    Connection, Direction, Instant, Phase, Stamp,
    keepalive::Keepalive,
    rare::{Live, Whole},
    tcp,
    window::{self, Seen},
};
use crate::wire::{Flags, Segment};

/// How a connection stands to the fast path, a bit each.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Fast(u8);

impl Fast {
    /// Its packets pass in the kernel.
    const RIDES: u8 = 1;
    /// Packets may have passed unseen, so that its numbers are out of date.
    const UNSEEN: u8 = 1 << 1;
    /// The opener was heard since.
    const HEARD_ORIGINAL: u8 = 1 << 2;
    /// The other end was heard since.
    const HEARD_REPLY: u8 = 1 << 3;
    /// It was ended here, and stays only until its ends know.
    const ENDED: u8 = 1 << 4;
    /// The RST that came since is one of an end that has forgotten the connection.
    const DENIED: u8 = 1 << 5;
    /// The kernel is being asked whether it still lets it ride.
    const QUESTIONED: u8 = 1 << 6;
    /// Its next packet may begin a ride: until that has come, no other is made the one. Of
    /// those that do not ride.
    const CANDIDATE: u8 = 1 << 7;
    /// That is long ago. Of candidates alone: what rides may be questioned.
    const OVERDUE: u8 = Self::QUESTIONED;

    const fn heard(direction: Direction) -> u8 {
        match direction {
            Direction::Original => Self::HEARD_ORIGINAL,
            Direction::Reply => Self::HEARD_REPLY,
        }
    }

    /// Whether it has nothing to do with the fast path now, but for what may come.
    #[must_use]
    pub const fn is_none(self) -> bool {
        const LATE: u8 = Fast::CANDIDATE | Fast::OVERDUE;
        matches!(self.0, 0 | Fast::CANDIDATE | LATE)
    }

    /// Whether its next packet may begin a ride.
    #[must_use]
    pub const fn is_candidate(self) -> bool {
        self.0 & Self::CANDIDATE != 0
    }

    /// Whether its packets pass in the kernel.
    #[must_use]
    pub const fn rides(self) -> bool {
        self.0 & Self::RIDES != 0
    }

    /// Whether packets may have passed unseen.
    #[must_use]
    pub const fn is_unseen(self) -> bool {
        self.0 & Self::UNSEEN != 0
    }

    /// Whether it was ended here, and stays only until its ends know.
    #[must_use]
    pub const fn is_ended(self) -> bool {
        self.0 & Self::ENDED != 0
    }
}

/// What the kernel's conntrack makes of a TCP connection, as far as it matters here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KernelState {
    /// Established.
    Open,
    /// It believes a FIN.
    Closing,
    /// It believes an RST.
    Reset,
}

impl Connection {
    /// Its next packet may begin a ride. `false`: another is to come already.
    pub const fn become_candidate(&mut self) -> bool {
        let is_new = !self.fast.is_candidate();
        self.fast.0 |= Fast::CANDIDATE;
        is_new
    }

    /// The packet that might begin a ride has come, or is lost.
    pub const fn candidate_has_come(&mut self) {
        if self.fast.is_candidate() {
            self.fast.0 &= !(Fast::CANDIDATE | Fast::OVERDUE);
        }
    }

    /// A time has passed in which the packet that might begin a ride ought to have come. Said
    /// twice, it is lost.
    pub const fn miss_candidate(&mut self) {
        if self.fast.0 & Fast::OVERDUE != 0 {
            self.candidate_has_come();
        } else if self.fast.is_candidate() {
            self.fast.0 |= Fast::OVERDUE;
        }
    }

    /// From now on packets may pass unseen.
    pub const fn board(&mut self) {
        self.fast = Fast(Fast::RIDES | Fast::UNSEEN);
    }

    /// Its packets come by again; what they say is not known yet. UDP has no numbers.
    pub fn alight(&mut self) {
        self.fast.0 = if self.phase == Phase::UdpStream { 0 } else { self.fast.0 & !Fast::RIDES };
    }

    /// Whether the kernel is to be asked whether it still lets it ride: `false` if it is
    /// being asked already.
    pub const fn question(&mut self) -> bool {
        let is_new = self.fast.0 & Fast::QUESTIONED == 0;
        self.fast.0 |= Fast::QUESTIONED;
        is_new
    }

    /// The kernel has answered.
    pub const fn note_answer(&mut self) {
        self.fast.0 &= !Fast::QUESTIONED;
    }

    /// The end that sends in this direction, of a connection that was ended here, was told.
    pub const fn note_told(&mut self, direction: Direction) {
        self.fast.0 |= Fast::heard(direction);
    }

    /// Whether both ends were.
    #[must_use]
    pub const fn are_both_told(&self) -> bool {
        let both = Fast::HEARD_ORIGINAL | Fast::HEARD_REPLY;
        self.fast.0 & both == both
    }

    /// Takes what a segment shows of both ends' numbers, after segments passed unseen.
    /// `true`: both ends agree on them, and the segment is to be taken as any other.
    /// `false`: it says nothing that the other end has confirmed, and changes nothing.
    pub fn find_again(&mut self, direction: Direction, segment: &Segment) -> bool {
        let is_heard = |heard: Direction| self.fast.0 & Fast::heard(heard) != 0;
        let (own, other) = (is_heard(direction), is_heard(direction.opposite()));
        let (sender, receiver) = self.halves(direction);
        if other && window::agree(sender, receiver, segment) {
            window::meet_again(sender, receiver, segment, own);
            self.fast = Fast::default();
            return true;
        }
        window::note_unconfirmed(sender, receiver, segment, own);
        self.fast.0 |= Fast::heard(direction);
        false
    }

    /// Notes an RST whose number can't be tested: the kernel knows whether it was exact.
    pub fn note_unseen_rst(&mut self, direction: Direction, segment: &Segment) {
        let sender = self.halves(direction).0;
        sender.seen.add(Seen::RST);
        // RFC 9293 §3.10.7.1: so answers an end that knows no connection.
        let denies = !segment.flags.contains(Flags::ACK) && !sender.seen.has(Seen::FIN);
        self.fast.0 = if denies { self.fast.0 | Fast::DENIED } else { self.fast.0 & !Fast::DENIED };
    }
}

impl Whole {
    /// The directions in which an end is to be asked whether it was reset.
    pub fn to_ask_of_reset(&self) -> impl Iterator<Item = Direction> + use<> {
        let is_doubted = self.fast.is_unseen() && self.rare.unverified_rst.is_some();
        let is_asked = |direction: Direction| {
            let (sender, receiver) = (self.sender(direction), self.sender(direction.opposite()));
            is_doubted && sender.seen.has(Seen::DOUBTED) && receiver.seen.has(Seen::ASKED)
        };
        let ways = [Direction::Original, Direction::Reply].map(|way| is_asked(way).then_some(way));
        ways.into_iter().flatten()
    }
}

impl Live<'_> {
    /// It is over, and stays in `reset` only so that its ends are told as they speak.
    pub fn stay_ended(&mut self, now: Instant) {
        self.fast = Fast(Fast::ENDED);
        self.rare_mut().unverified_rst = None;
        self.enter(Phase::Reset, now);
        self.refresh(now);
        self.rare_mut().asks = 0;
    }

    /// Takes the kernel's word for what ended the connection, or an end of it. `true`: it
    /// says that an RST was exact, and whoever got that is to be asked.
    pub fn heed(&mut self, state: KernelState, now: Instant) -> bool {
        if !self.fast.is_unseen() {
            return false;
        }
        match state {
            KernelState::Reset => self.doubt_reset(now),
            KernelState::Closing => {
                tcp::believe_fins(self, now);
                false
            }
            KernelState::Open => false,
        }
    }

    /// Whoever tries all numbers can have the kernel take one for exact, but not the end
    /// that it was sent to: that knows whether the connection is over. `false`: it is asked
    /// already, or no RST came.
    fn doubt_reset(&mut self, now: Instant) -> bool {
        if self.rare().unverified_rst.is_some() || self.phase == Phase::Reset {
            return false;
        }
        for direction in [Direction::Original, Direction::Reply] {
            let (sender, receiver) = self.halves(direction);
            if sender.seen.has(Seen::RST) {
                sender.seen.add(Seen::DOUBTED);
                receiver.seen.add(Seen::ASKED);
                self.rare_mut().unverified_rst = Some(Stamp::of(now));
            }
        }
        self.rare().unverified_rst.is_some()
    }

    /// Takes an RST that has the number of the question whether its sender was reset: it
    /// was, and knows no such connection (RFC 9293 §3.10.7.1). Nobody who has not seen the
    /// question knows its number. `false`: it is none.
    pub fn take_denial(&mut self, direction: Direction, segment: &Segment, now: Instant) -> bool {
        let toward = direction.opposite();
        let was_asked = self.whole().to_ask_of_reset().any(|asked| asked == toward);
        let answers = segment.seq == Keepalive::toward(toward, self).ack;
        if !was_asked || !answers || segment.flags.contains(Flags::ACK) {
            return false;
        }
        if self.fast.0 & Fast::DENIED != 0 {
            self.halves(toward).0.seen.add(Seen::FORGOT);
        }
        for half in [&mut self.common.original, &mut self.common.reply] {
            half.seen.clear(Seen::DOUBTED);
            half.seen.clear(Seen::ASKED);
        }
        self.rare_mut().unverified_rst = None;
        self.enter(Phase::Reset, now);
        true
    }

    /// The kernel says that the last packet in window came `silence` ago.
    pub fn heard_before(&mut self, silence: std::time::Duration, now: Instant) {
        let last = Instant(now.0.saturating_sub(u64::try_from(silence.as_millis()).unwrap_or(u64::MAX)));
        if last > self.refreshed.instant(now) {
            self.refresh(last);
        }
        if last > self.last_seen.instant(now) {
            self.last_seen = Stamp::of(last);
        }
    }
}
