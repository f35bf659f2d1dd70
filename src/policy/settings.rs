//! Everything in a rule file that is not a rule.

use std::{fmt, sync::Arc, time::Duration};

use super::{Action, EmbryonicLimits, Hooks, NetworkSet, OpenLimits, duration};
use crate::conntrack::Timer;

/// Packets while no daemon answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fail {
    /// Dropped.
    Closed,
    /// Let through.
    Open,
}

/// How packets of unknown connections are met after the grace period.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PickupMode {
    /// RST where a rule would have accepted the SYN, silence elsewhere.
    Strict,
    /// Picked up, for asymmetric paths.
    Loose,
}

/// Mid-stream pickup.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pickup {
    /// After the grace.
    pub mode: PickupMode,
    /// How long after the start unknown connections are picked up.
    pub grace: Duration,
}

/// Table use at which timers start to shrink and reach zero, in percent of
/// `max_connections`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Adaptive {
    /// Where they start to shrink.
    pub start: u32,
    /// Where they would be zero.
    pub end: u32,
}

/// How `established` or `half_closed` ends a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnExpire {
    /// RST to both ends.
    Reset,
    /// Silence.
    Drop,
    /// Keepalives to both ends first; RST to both unless both answer.
    Probe(Probe),
}

impl fmt::Display for OnExpire {
    /// `reset`, `drop`, or `probe every 15s, 5 times`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reset => f.write_str("reset"),
            Self::Drop => f.write_str("drop"),
            Self::Probe(Probe { interval, retries }) => {
                write!(f, "probe every {}, {retries} times", duration::text(*interval))
            }
        }
    }
}

/// How the ends of a silent connection are asked whether they live.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Probe {
    /// From one keepalive to the next, and from the last to the end.
    pub interval: Duration,
    /// How many keepalives an end may leave without an answer.
    pub retries: u8,
}

impl Default for Probe {
    fn default() -> Self {
        Self { interval: Duration::from_secs(15), retries: 5 }
    }
}

/// NFQUEUE numbers. `count` queues for packets of known connections, then
/// [`Queues::for_syns`] for SYNs, then `count` for SYNs of proven sources.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Queues {
    /// The first number.
    pub base: u16,
    /// Workers; `None`: one per core, or per processor of `cpus`.
    pub count: Option<u16>,
    /// The processors on which the workers run, by turns; none: wherever the kernel likes.
    pub cpus: Vec<u16>,
}

impl Queues {
    /// How many queues strangers' SYNs have where the other kinds have `count`. Half as many:
    /// a flood's come one behind the other, and whoever takes them from where they are brought in
    /// keeps a processor from those who bring them.
    #[must_use]
    pub const fn for_syns(count: u16) -> u16 {
        count.div_ceil(2)
    }

    /// How many queues there are of all kinds.
    #[must_use]
    pub fn in_all(count: u16) -> u32 {
        let of = u32::from(count);
        of.saturating_add(of).saturating_add(Self::for_syns(count).into())
    }
}

/// The bits of the packet mark that are halfgate's: eight bits from `shift` up.
/// Some mean one thing before the queue and another in a verdict, which sets all of
/// them anew. All others are the operator's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Marks {
    /// The lowest bit, 0 to 24.
    pub shift: u8,
}

impl Marks {
    const fn bit(self, index: u8) -> u32 {
        1_u32.wrapping_shl(self.shift as u32).wrapping_shl(index as u32)
    }

    /// All bits that are ours.
    #[must_use]
    pub const fn mask(self) -> u32 {
        0xff_u32.wrapping_shl(self.shift as u32)
    }

    /// Set before the queue: this packet is to be diverted.
    #[must_use]
    pub const fn divert(self) -> u32 {
        self.bit(0)
    }

    /// Set before the queue: it is a SYN, for the SYN queues.
    #[must_use]
    pub const fn divert_syn(self) -> u32 {
        self.bit(1)
    }

    /// Set by every accept.
    #[must_use]
    pub const fn inspected(self) -> u32 {
        self.bit(2)
    }

    /// Both set before the queue: it is a SYN of a source that has proven that it is
    /// there, for queues of their own.
    #[must_use]
    pub const fn divert_proven(self) -> u32 {
        self.divert() | self.divert_syn()
    }

    /// On packets that halfgate sends: never diverted.
    #[must_use]
    pub const fn own(self) -> u32 {
        self.bit(3)
    }

    /// On packets that halfgate sends past conntrack, with [`Self::own`].
    #[must_use]
    pub const fn own_untracked(self) -> u32 {
        self.own() | self.bit(6)
    }

    /// Set before the queue: the packet belongs to a connection behind a SYN cookie. Both
    /// bits mean something else alone.
    #[must_use]
    pub const fn behind(self) -> u32 {
        self.translated() | self.challenge()
    }

    /// Set before xtables' rules: its synproxy is to take the packet. No other packet that
    /// is forwarded has these bits.
    #[must_use]
    pub const fn synproxy(self) -> u32 {
        self.own() | self.behind()
    }

    /// In the conntrack mark: the kernel has opened the connection behind a SYN cookie.
    #[must_use]
    pub const fn opened_behind(self) -> u32 {
        self.bit(4)
    }

    /// Set by a verdict: the packet is dropped and its sender told, by RST or ICMP.
    #[must_use]
    pub const fn refuse(self) -> u32 {
        self.bit(5)
    }

    /// Set before the queue, where [`Self::refuse`] is in a verdict: conntrack calls the
    /// packet invalid.
    #[must_use]
    pub const fn invalid(self) -> u32 {
        self.refuse()
    }

    /// A bit of the conntrack mark: the connection's packets pass without the queue. In the
    /// packet mark the same bit is never set before the queue of a packet that has an entry,
    /// so that an operator's rule which saves a packet's mark in its entry can't set it.
    #[must_use]
    pub const fn fast(self) -> u32 {
        self.refuse()
    }

    /// A bit of the conntrack mark: the next packet of the connection may begin a ride.
    #[must_use]
    pub const fn candidate(self) -> u32 {
        self.divert()
    }

    /// A bit of the conntrack mark: that packet has come to the queue, and none behind it.
    #[must_use]
    pub const fn latest(self) -> u32 {
        self.divert_syn()
    }

    /// Both set before the queue: it is that packet. What conntrack knows is not invalid.
    #[must_use]
    pub const fn may_begin(self) -> u32 {
        self.known() | self.invalid()
    }

    /// Set before the queue, where [`Self::own`] is on `output`: this packet has come behind
    /// that one.
    #[must_use]
    pub const fn overtaken(self) -> u32 {
        self.own()
    }

    /// Set by a verdict, where [`Self::divert`] is before the queue: the connection's next
    /// packet may begin a ride.
    #[must_use]
    pub const fn ride_may_begin(self) -> u32 {
        self.divert()
    }

    /// Set by a verdict, where [`Self::divert_syn`] is before the queue: from now on the
    /// connection's packets come to it.
    #[must_use]
    pub const fn ride_ends(self) -> u32 {
        self.divert_syn()
    }

    /// Both set by a verdict: from now on they pass without it.
    #[must_use]
    pub const fn ride_begins(self) -> u32 {
        self.ride_may_begin() | self.ride_ends()
    }

    /// All set by a verdict: from now on they pass without it, whatever waits in it.
    #[must_use]
    pub const fn ride_begins_at_once(self) -> u32 {
        self.ride_begins() | self.own()
    }

    /// Set by a verdict, where [`Self::known`] is before the queue: this packet proves that
    /// its source is there.
    #[must_use]
    pub const fn proof(self) -> u32 {
        self.known()
    }

    /// Set by a verdict, where [`Self::translated`] is before the queue: the packet has
    /// done its work and goes no further.
    #[must_use]
    pub const fn discard(self) -> u32 {
        self.translated()
    }

    /// Set before the queue: the kernel has translated its destination (a port forward).
    #[must_use]
    pub const fn translated(self) -> u32 {
        self.bit(6)
    }

    /// Set by a verdict: the kernel's RST is to be made a challenge; the same bit of the
    /// conntrack mark says so of that RST. Set before the queue: an RST to the gateway
    /// that may answer a challenge.
    #[must_use]
    pub const fn challenge(self) -> u32 {
        self.bit(7)
    }

    /// Set before the queue: the kernel's conntrack knows this connection both
    /// ways (`ct state established`).
    #[must_use]
    pub const fn known(self) -> u32 {
        self.bit(4)
    }
}

/// A zone: interfaces by name (a trailing `*` matches any rest), networks, or
/// both; with both, both must hold.
#[derive(Clone, Debug)]
pub struct Zone {
    /// Its name.
    pub name: Arc<str>,
    /// Interface patterns; empty: any.
    pub interfaces: Vec<Arc<str>>,
    /// Networks; `None`: any.
    pub networks: Option<Arc<NetworkSet>>,
}

impl Zone {
    /// Whether a packet with this interface (`None` where it has none) may be in the
    /// zone; its address must be too.
    #[must_use]
    pub fn has_interface(&self, interface: Option<&str>) -> bool {
        self.interfaces.is_empty()
            || interface.is_some_and(|name| self.interfaces.iter().any(|pattern| is_named(pattern, name)))
    }
}

/// Whether an interface's name fits a pattern; only a `*` at its end is special.
#[must_use]
pub fn is_named(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => pattern == name,
    }
}

/// From when on a source scans.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ScanLimit {
    /// So many different pairs of destination and port, without an answer.
    pub distinct: u32,
    /// Within this time.
    pub window: Duration,
}

impl Default for ScanLimit {
    fn default() -> Self {
        Self { distinct: 64, window: Duration::from_secs(300) }
    }
}

/// The rule set's settings.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which hooks are diverted.
    pub hooks: Hooks,
    /// A new connection that no rule matches.
    pub default: Action,
    /// Packets while no daemon answers.
    pub fail: Fail,
    /// Mid-stream pickup.
    pub pickup: Pickup,
    /// How many connections the table holds.
    pub max_connections: u32,
    /// Adaptive timers.
    pub adaptive: Adaptive,
    /// How idle connections end.
    pub on_expire: OnExpire,
    /// Timers that the file sets; the rest are the defaults.
    pub timers: Vec<(Timer, Option<Duration>)>,
    /// Global limits.
    pub limits: EmbryonicLimits,
    /// From when on a source scans; `None`: nobody is told of.
    pub scans: Option<ScanLimit>,
    /// Global limits of open connections.
    pub open_limits: OpenLimits,
    /// Queue numbers.
    pub queues: Queues,
    /// Mark bits.
    pub marks: Marks,
    /// RSTs that may be sent in one second, and as many keepalives.
    pub rst_per_second: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            hooks: Hooks { forward: true, input: false, output: false },
            default: Action::Drop,
            fail: Fail::Closed,
            pickup: Pickup { mode: PickupMode::Strict, grace: Duration::from_secs(120) },
            max_connections: 1_000_000,
            adaptive: Adaptive { start: 60, end: 120 },
            on_expire: OnExpire::Reset,
            timers: Vec::new(),
            limits: EmbryonicLimits::default(),
            scans: Some(ScanLimit::default()),
            open_limits: OpenLimits::default(),
            queues: Queues::default(),
            marks: Marks { shift: 24 },
            rst_per_second: 1000,
        }
    }
}
