//! What `status` shows.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    super::text::{as_duration, as_optional_duration},
    LiveChange, OverrunRow, ScanRow,
};

/// One queue.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct QueueRow {
    /// Its number.
    pub number: u16,
    /// `known`, `syn` or `proven`.
    pub carries: String,
    /// Packets that wait in it.
    pub waiting: u64,
    /// Packets lost because it was full.
    pub lost_full: u64,
    /// Packets lost because the socket's buffer was full.
    pub lost_socket: u64,
}

/// A count with its name.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Named {
    /// What is counted.
    pub name: String,
    /// How many.
    pub count: u64,
}

/// What the daemon did beside verdicts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Sent {
    /// RSTs sent.
    pub rst: u64,
    /// Keepalives sent.
    pub keepalives: u64,
    /// Packets that the kernel did not take.
    pub failed: u64,
    /// RSTs that the budget kept back.
    pub suppressed: u64,
    /// RSTs and ICMP errors given up because too many waited.
    pub lost: u64,
    /// Entries of the kernel's conntrack deleted.
    pub forgotten: u64,
    /// Ended connections that wait until the kernel's conntrack has forgotten them.
    #[serde(default)]
    pub to_forget: u64,
}

/// What became of SYNs past a limit with `on_excess: challenge`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Challenges {
    /// SYNs that were challenged.
    pub made: u64,
    /// Challenges given up because too many waited.
    pub lost: u64,
    /// Challenges that the kernel did not take: a forged source may have no route.
    pub failed: u64,
    /// Challenges that were answered.
    pub answered: u64,
    /// Sources that are proven now, by an answer or a finished handshake.
    pub proven: u64,
    /// The most that were at once.
    pub most_proven: u64,
}

/// A destination whose SYNs the kernel answers by cookies.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ShieldedRow {
    /// Where they go.
    pub dst: String,
    /// The port.
    pub dport: u16,
    /// By which interface they come in.
    pub interface: String,
    /// The limit that was passed.
    pub limit: String,
    /// The rule whose limit it is; `null`: the rule set's.
    pub rule: Option<String>,
    /// Its answer is `challenge`, and a queue of SYNs filled up, or it was passed by sources
    /// that answer challenges.
    pub raised: bool,
    /// How long it is on.
    #[serde(with = "as_duration")]
    pub since: Duration,
    /// How long it has been calm, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "as_optional_duration")]
    pub calm: Option<Duration>,
}

/// What the kernel does with SYNs past a limit with `on_excess: syncookies`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Syncookies {
    /// The destinations for which it is on now.
    pub on: Vec<ShieldedRow>,
    /// How many it were since the start.
    pub ever: u64,
    /// Whether SYNs flood a queue, so that `challenge` is raised to `syncookies`.
    pub raised: bool,
    /// SYNs that the kernel answered since it was first on.
    pub syns: u64,
    /// Clients that acknowledged a cookie.
    pub valid: u64,
    /// Acknowledgements that no cookie fits.
    pub invalid: u64,
    /// RSTs of hosts that had asked for no cookie, which the kernel dropped unjudged since the
    /// table was loaded.
    #[serde(default)]
    pub rsts: u64,
}

/// The most memory that the daemon ever takes, in octets, and what there is.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Memory {
    /// All of it.
    pub most: u64,
    /// Of that for connections, of both families.
    pub connections: u64,
    /// For the counts of half-open ones.
    pub half_open: u64,
    /// For the counts of open ones, where limits ask for them.
    pub open: u64,
    /// For the numbers of connections behind SYN cookies, where rules may ask for these.
    pub cookies: u64,
    /// For all else.
    pub rest: u64,
    /// What it takes now.
    pub resident: u64,
    /// What the machine has.
    pub machine: Option<u64>,
    /// What its control group allows, if that sets a limit.
    pub allowed: Option<u64>,
}

/// The daemon's state.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Status {
    /// halfgate's version.
    pub version: String,
    /// Process number.
    pub pid: u32,
    /// When it started.
    pub started: String,
    /// How long it runs.
    #[serde(with = "as_duration")]
    pub uptime: Duration,
    /// The rule file, or `(embedded default)`.
    pub rules: String,
    /// When that came into force.
    pub rules_since: String,
    /// Enabled rules in it.
    pub rule_count: usize,
    /// The default action.
    pub default: String,
    /// Hooks that are diverted.
    pub hooks: Vec<String>,
    /// `native` or `xtables`.
    pub diversion: String,
    /// `closed` or `open`.
    pub fail: String,
    /// Whether it runs as a service.
    pub service: bool,
    /// `installed`, or what is wrong with the table.
    pub table: String,
    /// Packets that the table dropped because nobody had judged them, since it
    /// was loaded.
    pub missed: u64,
    /// Packets that the kernel refused for halfgate, with RST or ICMP, since the
    /// table was loaded.
    pub refused: u64,
    /// Packets of blocked sources that the kernel dropped, since the table was loaded.
    #[serde(default)]
    pub blocked_packets: u64,
    /// Sources that are blocked now.
    #[serde(default)]
    pub blocked: u64,
    /// Sources that were blocked since the start.
    #[serde(default)]
    pub blocked_ever: u64,
    /// The queues.
    pub queues: Vec<QueueRow>,
    /// Connections now.
    pub connections: u64,
    /// How many there may be.
    pub max_connections: u64,
    /// What memory they and all else can take.
    #[serde(default)]
    pub memory: Memory,
    /// Half-open ones now.
    pub half_open: u64,
    /// Those on the fast path now: their packets pass in the kernel.
    pub fast_path: u64,
    /// Stale ones now.
    pub stale: u64,
    /// Connections by phase.
    pub phases: Vec<Named>,
    /// Connections that made room in a full table, by phase, since the start.
    #[serde(default)]
    pub evicted: Vec<Named>,
    /// SYNs that were dropped where another would have been evicted, because more of those
    /// that were evicted waited for the kernel to forget them than may.
    #[serde(default)]
    pub evictions_held: u64,
    /// Opened since the start.
    pub opened: u64,
    /// Closed since the start.
    pub closed: u64,
    /// Those of them that one end had forgotten.
    pub forgotten: u64,
    /// Packets judged.
    pub packets: u64,
    /// Octets judged.
    pub bytes: u64,
    /// Accepted.
    pub accepted: u64,
    /// How often a worker had to wait for another thread's lock on a part of the table.
    #[serde(default)]
    pub lock_waits: u64,
    /// Dropped, without those answered.
    pub dropped: u64,
    /// Dropped and answered.
    pub reset: u64,
    /// Accepted without their Fast Open.
    #[serde(default)]
    pub stripped: u64,
    /// Drops by reason.
    pub drop_reasons: Vec<Named>,
    /// Limits passed, those of rules with their rule set's.
    pub limits_passed: Vec<Named>,
    /// Limits passed in shadow: nothing was done.
    #[serde(default)]
    pub limits_passed_in_shadow: Vec<Named>,
    /// Scans that were seen since the start.
    #[serde(default)]
    pub scans: u64,
    /// The busiest sources that scan now.
    #[serde(default)]
    pub scanning: Vec<ScanRow>,
    /// What was sent.
    pub sent: Sent,
    /// Challenges.
    #[serde(default)]
    pub challenges: Challenges,
    /// What became of `on_excess: syncookies`.
    #[serde(default)]
    pub syncookies: Syncookies,
    /// Events that the recorder could not take.
    pub events_lost: u64,
    /// Since when scans and `exposure` are lower bounds for that; `null`: they are not.
    #[serde(default)]
    pub overrun: Option<OverrunRow>,
    /// Kernel settings that were changed, in words.
    pub sysctls: Vec<String>,
    /// Live changes in force.
    pub live: Vec<LiveChange>,
    /// A reload that goes back after this unless confirmed.
    #[serde(default, with = "as_optional_duration")]
    pub confirm_within: Option<Duration>,
    /// What makes the gateway other than the rules say.
    pub warnings: Vec<String>,
}
