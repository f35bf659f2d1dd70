//! What the engine shows of itself.

use std::time::Duration;

use super::{Passed, Peer};
use crate::{
    conntrack::{Flow, Phase, Timer},
    policy::RuleId,
};

/// Packets and octets of one direction (octets of IP, headers included).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Packets.
    pub packets: u64,
    /// Octets.
    pub bytes: u64,
}

/// One connection, as `connections` shows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct View {
    /// The connection, in its original direction.
    pub flow: Flow,
    /// Its phase.
    pub phase: Phase,
    /// The rule that let it in.
    pub rule: RuleId,
    /// Since its first packet.
    pub age: Duration,
    /// Since its last packet.
    pub idle: Duration,
    /// Until its timer ends it, or its ends are asked; while they are, until that ends it.
    pub expires_in: Duration,
    /// The timer it is under.
    pub timer: Timer,
    /// Original direction.
    pub original: Counts,
    /// Reply direction.
    pub reply: Counts,
    /// Keepalives that it was sent, in its name or its peer's, and not all answered.
    pub probes: u8,
    /// TCP: since its first FIN, while that or its peer's is not acknowledged.
    pub unacknowledged_fin: Option<Duration>,
    /// It is stale: the end that seems to have forgotten it.
    pub forgotten_by: Option<Peer>,
    /// Whether its packets pass in the kernel.
    pub fast_path: bool,
}

/// A half-open connection whose SYN the server may still be to hear of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UnderWay {
    /// The connection, in its original direction.
    pub flow: Flow,
    /// Its phase.
    pub phase: Phase,
    /// The rule that let it in.
    pub rule: RuleId,
    /// Since its first packet, to a tenth of a second.
    pub age: Duration,
}

/// What a reload means for connections that exist.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Existing {
    /// They stay.
    Keep,
    /// Each is judged again; those that no rule accepts end with RST.
    Rejudge,
}

/// How many connections are under one timer of one rule.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TimerRow {
    /// The rule.
    pub rule: RuleId,
    /// The timer.
    pub timer: Timer,
    /// Connections under it now.
    pub connections: u64,
}

/// What a change of timers would do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Change {
    /// Connections whose deadline would move.
    pub affected: u64,
    /// Those that would end at once.
    pub ended: u64,
}

/// Counters since the engine started.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Packets judged.
    pub packets: u64,
    /// Octets judged.
    pub bytes: u64,
    /// Accepted.
    pub accepted: u64,
    /// Dropped, by reason (`DropReason::name`); reasons that never happened are left out.
    pub dropped: Vec<(&'static str, u64)>,
    /// Dropped and answered with RST or ICMP.
    pub reset: u64,
    /// Accepted without their Fast Open (`fast_open: strip`).
    pub stripped: u64,
    /// RSTs that the budget kept back.
    pub rst_suppressed: u64,
    /// SYNs that were dropped where another would have been evicted, because the kernel was
    /// behind with forgetting those who were.
    pub evictions_held: u64,
    /// Keepalives to be sent.
    pub keepalives: u64,
    /// SYNs that were challenged (`on_excess: challenge`).
    pub challenged: u64,
    /// Challenges that were answered.
    pub proofs: u64,
    /// Connections now.
    pub connections: u64,
    /// Connections that made room in a full table, by phase; phases of which none did
    /// are left out.
    pub evicted: Vec<(&'static str, u64)>,
    /// Connections by phase now.
    pub phases: Vec<(&'static str, u64)>,
    /// Embryonic connections now that count toward the limits.
    pub embryonic: u64,
    /// Embryonic connections now that don't, because their SYN could not be delivered.
    pub uncounted: u64,
    /// Embryonic connections now by rule, rules without any left out.
    pub embryonic_by_rule: Vec<(RuleId, u64)>,
    /// Connections now whose packets pass in the kernel.
    pub riding: u64,
    /// Stale connections now: one end has forgotten them.
    pub stale: u64,
    /// Connections closed because one end had forgotten them.
    pub forgotten: u64,
    /// Connections opened.
    pub opened: u64,
    /// Connections closed.
    pub closed: u64,
    /// Ended connections that the kernel was not told of, because too many ended at once.
    pub forgets_lost: u64,
    /// How often a thread that judges found what it needs of the table locked by another one.
    pub lock_waits: u64,
    /// Limits that were passed, by whose they are.
    pub limits_passed: Vec<Passed>,
}
