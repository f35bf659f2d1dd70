//! Rows of the commands that show what happens: `half-open`, `limits suggest`,
//! `exposure`, and scans among the events.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::super::text::{as_duration, as_optional_duration};

/// A row of `half-open`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "snake_case")]
pub enum HalfOpenRow {
    /// All of them, once.
    Total(HalfOpenTotal),
    /// Those of an age.
    Age(AgeRow),
    /// Those of a rule.
    Rule(HolderRow),
    /// Those of a source.
    Source(HolderRow),
    /// Those to a destination.
    Destination(HolderRow),
}

/// Handshakes and closes that are not finished.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Unfinished {
    /// Handshakes whose second step is missing.
    pub syn_sent: u64,
    /// Handshakes whose third step is missing.
    pub syn_received: u64,
    /// Closes whose FIN nobody acknowledged.
    pub unacknowledged_fins: u64,
}

/// All that are not finished, and how handshakes end.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct HalfOpenTotal {
    /// How many.
    #[serde(flatten)]
    pub count: Unfinished,
    /// Different sources of them.
    pub sources: u64,
    /// Different destinations (address and port) of them.
    pub destinations: u64,
    /// Of all TCP handshakes, whatever the filter.
    pub lately: HandshakeRate,
    /// The same since the start.
    pub since_start: HandshakeRate,
}

/// How many handshakes were completed.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct HandshakeRate {
    /// In this time.
    #[serde(with = "as_duration")]
    pub window: Duration,
    /// Handshakes that began in it.
    pub begun: u64,
    /// Handshakes that were completed in it.
    pub completed: u64,
    /// Completed of begun; `null` if none began.
    pub percent: Option<f64>,
}

/// Those of an age.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AgeRow {
    /// At least so old.
    #[serde(with = "as_duration")]
    pub from: Duration,
    /// Younger than this; `null`: no end.
    #[serde(with = "as_optional_duration")]
    pub to: Option<Duration>,
    /// How many. A handshake's age counts from its first packet, a close's from its
    /// first FIN.
    #[serde(flatten)]
    pub count: Unfinished,
}

/// Those of one rule, source or destination.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct HolderRow {
    /// The rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// The source, as limits count it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub src: Option<String>,
    /// The destination.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dst: Option<String>,
    /// The port there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dport: Option<u16>,
    /// How many.
    #[serde(flatten)]
    pub count: Unfinished,
    /// The oldest handshake.
    #[serde(default, with = "as_optional_duration", skip_serializing_if = "Option::is_none")]
    pub oldest: Option<Duration>,
    /// The oldest FIN.
    #[serde(default, with = "as_optional_duration", skip_serializing_if = "Option::is_none")]
    pub oldest_fin: Option<Duration>,
    /// The limit for it: of a rule its own total, else the rule set's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// The limit is reached: what the next SYN meets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// It would meet that, but the limit only counts.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shadow: bool,
}

/// A limit as it could be set, and why.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SuggestedRow {
    /// Which limit.
    pub limit: String,
    /// The rule whose it would be; `null`: the rule set's.
    pub rule: Option<String>,
    /// The value.
    pub suggested: u32,
    /// What 99 of 100 seconds did not pass.
    pub p99: u32,
    /// The most there were.
    pub peak: u32,
    /// When that was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_at: Option<String>,
    /// Seconds that were looked at.
    pub samples: u32,
    /// Seconds of them in which a new half-open connection came.
    pub busy: u32,
    /// The limit in force; `null`: none.
    pub value: Option<u32>,
    /// What happens past it.
    pub on_excess: String,
    /// How often the one in force was passed since the start, in shadow too.
    pub passed: u64,
    /// What to look at before it is used.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// A row of `exposure`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ExposureRow {
    /// Services may be missing here, and `answered` too small; once, where it is so.
    Overrun(OverrunRow),
    /// A service that answered.
    Service(ServiceRow),
    /// Something that listens on the gateway itself.
    Listener(ListenerRow),
}

/// A service that answered: TCP with a SYN-ACK, UDP with a packet.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ServiceRow {
    /// `tcp` or `udp`.
    pub proto: String,
    /// Where.
    pub dst: String,
    /// The port.
    pub dport: u16,
    /// It is the gateway's own.
    pub gateway: bool,
    /// The interface by which it was asked; `gateway`: by the gateway itself.
    pub asked_by: String,
    /// The rule that let it be reached.
    pub rule: String,
    /// That rule names the port: `service: any`, a whole protocol, a range of over a
    /// thousand ports and the default action do not.
    pub named: bool,
    /// Connections that were answered.
    pub answered: u64,
    /// Events were lost after the first answer: `answered` is a lower bound.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub at_least: bool,
    /// The first answer.
    pub since: String,
    /// The last.
    pub last: String,
}

/// Something that listens on the gateway itself, and whether a stranger reaches it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ListenerRow {
    /// `tcp` or `udp`.
    pub proto: String,
    /// Where it listens; `*`: everywhere, in IPv4, `[*]`: in IPv6 and mostly IPv4 too.
    pub address: String,
    /// The port.
    pub port: u16,
    /// The interface by which a stranger would ask.
    pub asked_by: String,
    /// What a stranger's first packet meets: `accept`, `drop` or `reset`.
    pub verdict: String,
    /// By which rule; `null`: the hook `input` is not diverted, and no rule is asked.
    pub rule: Option<String>,
    /// That rule names the port.
    pub named: bool,
    /// Rules that name the port and let others than strangers in.
    pub others: Vec<String>,
}

impl ExposureRow {
    /// An open port that no rule names.
    #[must_use]
    pub fn is_open_and_unnamed(&self) -> bool {
        match self {
            Self::Overrun(_) => false,
            Self::Service(row) => !row.named,
            Self::Listener(row) => row.verdict == "accept" && !row.named,
        }
    }
}

/// A source that scans.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ScanRow {
    /// Who; it may be forged.
    pub src: String,
    /// Different pairs of destination and port, about.
    pub distinct: u32,
    /// Different destinations, about.
    pub addresses: u32,
    /// Different ports, about.
    pub ports: u32,
    /// Attempts that were answered by RST.
    pub reset: u64,
    /// Attempts that nobody answered.
    pub silent: u64,
    /// Attempts that the rules refused.
    pub refused: u64,
    /// Since when.
    pub since: String,
    /// Events were lost since then: all counts are lower bounds.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub at_least: bool,
}

/// Events that nobody could take: what is counted by them (scans, `exposure`) is a lower
/// bound.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct OverrunRow {
    /// How many, of all kinds.
    pub events: u64,
    /// When the first of them was missed.
    pub since: String,
    /// When the last was.
    pub last: String,
}
