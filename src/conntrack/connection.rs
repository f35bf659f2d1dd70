//! One tracked connection, without its key.

use std::time::Duration;

use super::{
    Direction, Phase,
    embryonic::EmbryoId,
    fast::Fast,
    key::Sender,
    time::{Instant, Stamp},
    window::{Half, Seen, StaleSyn},
};

/// Packets and octets of one direction.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    /// Packets.
    pub packets: u32,
    /// Octets of IP, headers included.
    pub bytes: u64,
}

impl Tally {
    /// Counts one packet.
    pub fn count(&mut self, bytes: u32) {
        self.packets = self.packets.saturating_add(1);
        self.bytes = self.bytes.saturating_add(u64::from(bytes));
    }
}

/// What of a connection is counted elsewhere, or can bring its end nearer: while a
/// packet leaves it as it was, nobody else needs to hear of that packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Standing {
    /// The phase.
    pub phase: Phase,
    forgot: [bool; 2],
    unverified_rst: Option<Stamp>,
    asked: Option<Stamp>,
}

impl Standing {
    /// As [`Connection::forgotten_by`].
    #[must_use]
    pub fn forgotten_by(&self) -> Option<Direction> {
        let live = matches!(
            self.phase,
            Phase::Established | Phase::FinWait | Phase::HalfClosed | Phase::Closing | Phase::Reset
        );
        match self.forgot {
            _ if !live => None,
            [true, _] => Some(Direction::Original),
            [false, true] => Some(Direction::Reply),
            [false, false] => None,
        }
    }
}

/// What is known of a connection. Timers are computed from it, not stored:
/// `deadline` says how.
#[derive(Clone, Copy, Debug)]
pub struct Connection {
    /// The phase it is in.
    pub phase: Phase,
    /// Which endpoint of the key opened it.
    pub opener: Sender,
    /// Number of the rule that let it in.
    pub rule: u16,
    /// The timer epoch in which it started.
    pub epoch: u8,
    /// The owner's bits (hook, ...), opaque here.
    pub tag: u8,
    /// The owner's number for where it came in and goes out, opaque here.
    pub interfaces: [u32; 2],
    /// Its place among the half-open ones.
    pub embryo: Option<EmbryoId>,
    /// Tenths of a second on the engine's clock at its first packet.
    created: u32,
    /// Its last packet.
    pub last_seen: Stamp,
    /// What its phase's timer counts from.
    pub refreshed: Stamp,
    /// Its first FIN; meaningful from `fin_wait` on.
    pub first_fin: Stamp,
    /// An RST in window but not exact that nobody has answered yet (RFC 5961 §3).
    pub unverified_rst: Option<Stamp>,
    /// TCP: when its ends were last asked whether they live; `None`: they aren't.
    pub asked: Option<Stamp>,
    /// TCP: how often they were asked.
    pub asks: u8,
    /// Whether packets of it pass unseen.
    pub fast: Fast,
    /// TCP: a SYN that may turn out to be the one that counts.
    pub stale_syn: Option<StaleSyn>,
    /// TCP: the opener's half.
    pub original: Half,
    /// TCP: the other half.
    pub reply: Half,
    /// Original direction.
    pub original_tally: Tally,
    /// Reply direction.
    pub reply_tally: Tally,
}

impl Connection {
    /// A connection at its first packet.
    #[must_use]
    pub fn new(phase: Phase, opener: Sender, now: Instant) -> Self {
        let stamp = Stamp::of(now);
        Self {
            phase,
            opener,
            rule: 0,
            epoch: 0,
            tag: 0,
            interfaces: [0; 2],
            embryo: None,
            created: u32::try_from(now.0 / 100).unwrap_or(u32::MAX),
            last_seen: stamp,
            refreshed: stamp,
            first_fin: stamp,
            unverified_rst: None,
            asked: None,
            asks: 0,
            fast: Fast::default(),
            stale_syn: None,
            original: Half::default(),
            reply: Half::default(),
            original_tally: Tally::default(),
            reply_tally: Tally::default(),
        }
    }

    /// Since its first packet.
    #[must_use]
    pub fn age(&self, now: Instant) -> Duration {
        now.since(Instant(u64::from(self.created).saturating_mul(100)))
    }

    /// Moves to a phase, whose timer starts now. Staying is not moving.
    pub fn enter(&mut self, phase: Phase, now: Instant) {
        if self.phase != phase {
            self.phase = phase;
            self.refresh(now);
        }
    }

    /// Starts the phase's timer anew; nobody needs to be asked any more.
    pub fn refresh(&mut self, now: Instant) {
        self.refreshed = Stamp::of(now);
        if self.asked.take().is_some() {
            self.asks = 0;
            self.original.seen.clear(Seen::ASKED);
            self.reply.seen.clear(Seen::ASKED);
        }
    }

    /// Counts a packet that passed.
    pub fn count(&mut self, direction: Direction, bytes: u32, now: Instant) {
        self.last_seen = Stamp::of(now);
        match direction {
            Direction::Original => self.original_tally.count(bytes),
            Direction::Reply => self.reply_tally.count(bytes),
        }
    }

    /// The half of the end that sends in this direction.
    #[must_use]
    pub fn sender(&self, direction: Direction) -> &Half {
        match direction {
            Direction::Original => &self.original,
            Direction::Reply => &self.reply,
        }
    }

    /// The sender's half and the receiver's half.
    pub fn halves(&mut self, direction: Direction) -> (&mut Half, &mut Half) {
        match direction {
            Direction::Original => (&mut self.original, &mut self.reply),
            Direction::Reply => (&mut self.reply, &mut self.original),
        }
    }

    /// The end that seems to have forgotten this connection, while the other has it:
    /// RFC 9293 §3.5.1 calls it half-open, here it is stale.
    #[must_use]
    pub fn forgotten_by(&self) -> Option<Direction> {
        self.standing().forgotten_by()
    }

    /// What others have to hear of when it changes.
    #[must_use]
    pub const fn standing(&self) -> Standing {
        Standing {
            phase: self.phase,
            forgot: [self.original.seen.has(Seen::FORGOT), self.reply.seen.has(Seen::FORGOT)],
            unverified_rst: self.unverified_rst,
            asked: self.asked,
        }
    }

    /// Whether either end has sent something that the other has not acknowledged, as far
    /// as their numbers are known.
    #[must_use]
    pub fn has_unacknowledged(&self) -> bool {
        !self.fast.is_unseen() && self.has_outstanding()
    }

    fn has_outstanding(&self) -> bool {
        self.original.awaits_ack(&self.reply) || self.reply.awaits_ack(&self.original)
    }
}
