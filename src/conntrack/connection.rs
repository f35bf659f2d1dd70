//! One tracked connection, without its key.

use std::time::Duration;

use super::{
    Direction, Phase,
    fast::Fast,
    key::Sender,
    rare::{Live, Rare, Whole},
    time::{Instant, Stamp},
    window::{Half, Seen},
};

/// Packets and octets of IP of one direction, headers included.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    /// Packets.
    pub packets: u32,
    /// Octets.
    pub bytes: u64,
}

/// A tally as far as every connection has room for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(Rust, packed)]
struct Counted {
    packets: u32,
    /// The lower half.
    bytes: u32,
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
    pub(super) const fn of(connection: &Connection, rare: &Rare) -> Self {
        Self {
            phase: connection.phase,
            forgot: connection.forgot(),
            unverified_rst: rare.unverified_rst,
            asked: rare.asked,
        }
    }

    /// As [`Connection::forgotten_by`].
    #[must_use]
    pub fn forgotten_by(&self) -> Option<Direction> {
        forgotten_by(self.phase, self.forgot)
    }
}

fn tenths(now: Instant) -> u32 {
    u32::try_from(now.0 / 100).unwrap_or(u32::MAX)
}

fn forgotten_by(phase: Phase, forgot: [bool; 2]) -> Option<Direction> {
    let live = matches!(
        phase,
        Phase::Established | Phase::FinWait | Phase::HalfClosed | Phase::Closing | Phase::Reset
    );
    match forgot {
        _ if !live => None,
        [true, _] => Some(Direction::Original),
        [false, true] => Some(Direction::Reply),
        [false, false] => None,
    }
}

/// Stands for an interface whose number has no room in a connection.
const LARGE: u16 = u16::MAX;

/// Beside the tag: there is something beside the connection's slot.
const HAS_RARE: u8 = 1 << 2;

/// Beside the tag: the upper endpoint of the key opened the connection.
const OPENED_BY_HIGH: u8 = 1 << 3;

/// The bits that a tag can have.
pub const TAGS: u8 = !(HAS_RARE | OPENED_BY_HIGH);

/// What is known of every connection; [`Rare`] is what few have. Timers are computed from it, not stored:
/// `deadline` says how.
#[derive(Clone, Copy, Debug)]
#[repr(Rust, packed)]
pub struct Connection {
    /// The phase it is in.
    pub phase: Phase,
    /// Number of the rule that let it in.
    pub rule: u16,
    /// The timer epoch in which it started.
    pub epoch: u8,
    /// See [`Self::tag`]; beside that [`HAS_RARE`] and [`OPENED_BY_HIGH`].
    tag: u8,
    /// Where it came in and goes out; see [`Rare::interfaces`].
    interfaces: [u16; 2],
    /// Tenths of a second on the engine's clock at its first packet.
    created: u32,
    /// Its last packet.
    pub last_seen: Stamp,
    /// What its phase's timer counts from.
    pub refreshed: Stamp,
    /// Whether packets of it pass unseen.
    pub fast: Fast,
    /// TCP: the opener's half.
    pub original: Half,
    /// TCP: the other half.
    pub reply: Half,
    /// Original direction; see [`Rare::carried`].
    original_counted: Counted,
    /// Reply direction.
    reply_counted: Counted,
}

impl Connection {
    /// A connection at its first packet.
    #[must_use]
    pub fn new(phase: Phase, opener: Sender, now: Instant) -> Self {
        let stamp = Stamp::of(now);
        Self {
            phase,
            rule: 0,
            epoch: 0,
            tag: match opener {
                Sender::Low => 0,
                Sender::High => OPENED_BY_HIGH,
            },
            interfaces: [0; 2],
            created: tenths(now),
            last_seen: stamp,
            refreshed: stamp,
            fast: Fast::default(),
            original: Half::default(),
            reply: Half::default(),
            original_counted: Counted::default(),
            reply_counted: Counted::default(),
        }
    }

    /// Which endpoint of the key opened it.
    #[must_use]
    pub const fn opener(&self) -> Sender {
        if self.tag & OPENED_BY_HIGH == 0 { Sender::Low } else { Sender::High }
    }

    /// The owner's bits (hook, ...), opaque here.
    #[must_use]
    pub const fn tag(&self) -> u8 {
        self.tag & TAGS
    }

    /// Sets the owner's bits; others than [`TAGS`] it has not.
    pub const fn set_tag(&mut self, bits: u8) {
        self.tag = self.tag & !TAGS | bits & TAGS;
    }

    /// Sets these of the owner's bits, and leaves the others as they are.
    pub const fn add_tag(&mut self, bits: u8) {
        self.tag |= bits & TAGS;
    }

    /// Whether there is something beside its slot.
    pub(super) const fn has_rare(&self) -> bool {
        self.tag & HAS_RARE != 0
    }

    pub(super) const fn set_has_rare(&mut self, has: bool) {
        self.tag = if has { self.tag | HAS_RARE } else { self.tag & !HAS_RARE };
    }

    /// Since its first packet.
    #[must_use]
    pub fn age(&self, now: Instant) -> Duration {
        now.since(Instant(u64::from(self.created).saturating_mul(100)))
    }

    /// How many packets passed in both directions.
    #[must_use]
    pub const fn packets(&self) -> u32 {
        self.original_counted.packets.saturating_add(self.reply_counted.packets)
    }

    const fn counted(&self, direction: Direction) -> &Counted {
        match direction {
            Direction::Original => &self.original_counted,
            Direction::Reply => &self.reply_counted,
        }
    }

    const fn counted_mut(&mut self, direction: Direction) -> &mut Counted {
        match direction {
            Direction::Original => &mut self.original_counted,
            Direction::Reply => &mut self.reply_counted,
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
        forgotten_by(self.phase, self.forgot())
    }

    const fn forgot(&self) -> [bool; 2] {
        [self.original.seen.has(Seen::FORGOT), self.reply.seen.has(Seen::FORGOT)]
    }

    /// Whether one more packet, of so many octets, can be counted with nothing beside it.
    #[must_use]
    pub const fn can_count(&self, direction: Direction, bytes: u32) -> bool {
        let counted = self.counted(direction);
        counted.packets != u32::MAX && { counted.bytes }.checked_add(bytes).is_some()
    }

    /// Counts a packet that passed, where [`Self::can_count`].
    #[inline]
    pub fn count(&mut self, direction: Direction, bytes: u32, now: Instant) {
        self.last_seen = Stamp::of(now);
        let counted = self.counted_mut(direction);
        counted.packets = { counted.packets }.wrapping_add(1);
        counted.bytes = { counted.bytes }.wrapping_add(bytes);
    }

    /// As [`Live::count_anew`](super::Live::count_anew), but for what lies beside it.
    pub(super) fn count_anew(&mut self, now: Instant) {
        self.created = tenths(now);
        (self.original_counted, self.reply_counted) = (Counted::default(), Counted::default());
    }

    /// Counts a packet that passed. `true`: its octets have passed 2^32.
    #[inline]
    fn note(&mut self, direction: Direction, bytes: u32, now: Instant) -> bool {
        self.last_seen = Stamp::of(now);
        let counted = self.counted_mut(direction);
        let (sum, carries) = { counted.bytes }.overflowing_add(bytes);
        *counted = Counted { packets: { counted.packets }.saturating_add(1), bytes: sum };
        carries
    }

    /// Whether one of its interfaces has a number that lies beside it.
    pub(super) const fn has_large_interface(&self) -> bool {
        let [from, to] = self.interfaces;
        from == LARGE || to == LARGE
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

impl Whole {
    /// The owner's numbers for where it came in and goes out, opaque here.
    #[must_use]
    pub fn interfaces(&self) -> [u32; 2] {
        interfaces(&self.common, &self.rare)
    }

    /// Notes where it came in and goes out.
    pub fn set_interfaces(&mut self, interfaces: [u32; 2]) {
        self.rare.interfaces = interfaces;
        self.common.interfaces = interfaces.map(|number| u16::try_from(number).unwrap_or(LARGE));
    }

    /// What passed in this direction.
    #[must_use]
    pub fn tally(&self, direction: Direction) -> Tally {
        tally(&self.common, &self.rare, direction)
    }
}

impl Live<'_> {
    /// As [`Whole::interfaces`].
    #[must_use]
    pub fn interfaces(&self) -> [u32; 2] {
        interfaces(self.common, self.rare())
    }

    /// Counts a packet that passed.
    #[inline]
    pub fn count(&mut self, direction: Direction, bytes: u32, now: Instant) {
        if self.common.note(direction, bytes, now) {
            self.rare_mut().carry(direction);
        }
    }

    /// Counts at least so much.
    pub fn raise(&mut self, direction: Direction, least: Tally) {
        let known = tally(self.common, self.rare(), direction);
        let (low, high) = halves_of(known.bytes.max(least.bytes));
        let packets = known.packets.max(least.packets);
        *self.common.counted_mut(direction) = Counted { packets, bytes: low };
        self.rare_mut().set_carried(direction, high);
    }
}

fn tally(connection: &Connection, rare: &Rare, direction: Direction) -> Tally {
    let Counted { packets, bytes } = *connection.counted(direction);
    Tally { packets, bytes: u64::from(rare.carried(direction)) << 32 | u64::from(bytes) }
}

#[expect(clippy::cast_possible_truncation, reason = "cut in two")]
const fn halves_of(number: u64) -> (u32, u32) {
    (number as u32, (number >> 32) as u32)
}

fn interfaces(connection: &Connection, rare: &Rare) -> [u32; 2] {
    if connection.has_large_interface() {
        return rare.interfaces;
    }
    let [from, to] = connection.interfaces;
    [from.into(), to.into()]
}
