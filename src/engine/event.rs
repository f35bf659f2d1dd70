//! What happened, for logs, `events` and `why`.

use std::time::Duration;

use crate::{
    conntrack::{Direction, Flow, Phase, Timer},
    policy::{Action, Limit, OnExcess, Origin, RuleId},
};

use super::{Counts, IfIndex};

/// Who sent the packet that ended a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Peer {
    /// The end that opened the connection.
    Client,
    /// The other end.
    Server,
}

impl Peer {
    /// The end that sends in this direction.
    #[must_use]
    pub const fn sending(direction: Direction) -> Self {
        match direction {
            Direction::Original => Self::Client,
            Direction::Reply => Self::Server,
        }
    }

    /// The end's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
        }
    }
}

/// Why a connection ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum CloseReason {
    /// A timer fired; where its value came from.
    Expired {
        /// Which.
        timer: Timer,
        /// Its value.
        after: Duration,
        /// Whose value.
        origin: Origin,
    },
    /// A timer fired, and then not every end answered the keepalives.
    Unanswered {
        /// Which timer.
        timer: Timer,
        /// Its value.
        after: Duration,
        /// Whose value.
        origin: Origin,
        /// The end that was silent; `None`: both.
        by: Option<Peer>,
    },
    /// An RST of one end; the connection then stayed in `reset` until that
    /// timer ended it.
    Rst(Peer),
    /// It was stale: this end had forgotten it, and its RST told the other one
    /// (RFC 9293 §3.5.1).
    Forgotten(Peer),
    /// Both FINs acknowledged; it then stayed in `time_wait`.
    Finished,
    /// `halfgate kill`.
    Killed,
    /// A limit made room for another.
    Evicted(Limit),
    /// A newer connection took the same addresses and ports.
    Replaced,
    /// A reload with `--existing rejudge` no longer allows it.
    Rejudged,
    /// The table was full.
    TableFull,
    /// Its handshake completed, and it was more than a limit of open connections allows.
    TooMany(Limit),
}

/// A connection's end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Closed {
    /// The connection.
    pub flow: Flow,
    /// The rule that let it in.
    pub rule: RuleId,
    /// The phase it was in.
    pub phase: Phase,
    /// Why.
    pub reason: CloseReason,
    /// How long it lived.
    pub age: Duration,
    /// Original direction.
    pub original: Counts,
    /// Reply direction.
    pub reply: Counts,
}

/// Something that happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// A connection entered the table.
    Opened {
        /// The connection.
        flow: Flow,
        /// The rule that let it in.
        rule: RuleId,
    },
    /// A connection changed its phase.
    Phase {
        /// The connection.
        flow: Flow,
        /// The rule that let it in.
        rule: RuleId,
        /// Where it came in and goes out; 0 where it does not.
        path: [IfIndex; 2],
        /// From.
        from: Phase,
        /// To.
        to: Phase,
    },
    /// A connection became stale, or is not any more.
    Stale {
        /// The connection.
        flow: Flow,
        /// The end that seems to have forgotten it; `None`: it has spoken again.
        by: Option<Peer>,
    },
    /// A connection left the table.
    Closed(Closed),
    /// A rule with `log: true` (or the default action) decided.
    Logged {
        /// The first packet's addresses.
        flow: Flow,
        /// The rule.
        rule: RuleId,
        /// What it decided.
        action: Action,
    },
    /// A source has answered a challenge, and was not known to be there before.
    Proven {
        /// The addresses of its answer.
        flow: Flow,
    },
    /// A limit was passed.
    LimitPassed {
        /// The connection that was too many.
        flow: Flow,
        /// The rule it matched.
        rule: RuleId,
        /// Which limit.
        limit: Limit,
        /// The rule whose limit it is; `None`: the rule set's.
        of_rule: Option<RuleId>,
        /// What was done, or would have been.
        answer: OnExcess,
        /// It would have been: the limit only counts (`shadow: true`).
        shadow: bool,
    },
    /// A rule, or the default action, let a SYN open nothing. Told of only so many in
    /// a second: for who looks for scans, not for a count.
    Refused {
        /// The SYN's addresses.
        flow: Flow,
    },
}
