//! What is said over the control socket.
//!
//! Newline-delimited JSON. A client sends one [`Request`] object on a line; the
//! daemon sends [`Line`] objects, each an object with one key that says what it
//! is, and ends with `{"done":true}` or `{"error":"..."}`. Then the client may
//! send its next request. The rows' fields are those that `--json` prints.
//!
//! ```text
//! > {"request":"timer_set","timer":"half_closed","value":"30s","scope":{"rule":"web"}}
//! < {"changed":{"affected":12,"ended":3,"dry_run":false,"saved":false}}
//! < {"note":"..."}
//! < {"done":true}
//! ```
//!
//! Times are RFC 3339 in UTC, durations are strings like `5m`. Unknown fields
//! of a request are an error; a client must ignore unknown fields of an answer.

mod seen;
mod status;

pub use seen::{
    AgeRow, ExposureRow, HalfOpenRow, HalfOpenTotal, HandshakeRate, HolderRow, ListenerRow, OverrunRow,
    ScanRow, ServiceRow, SuggestedRow, Unfinished,
};
pub use status::{Challenges, Memory, Named, QueueRow, Sent, ShieldedRow, Status, Syncookies};

use std::{fmt, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use super::text::{as_duration, as_optional_duration};
use crate::config::Diagnostic;

/// The longest request line that the daemon reads, in octets.
pub const MAX_REQUEST: usize = 64 * 1024;

/// What a client asks for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// One [`Status`].
    Status {},
    /// A [`Connection`] for each that passes the filter.
    Connections {
        /// Terms like `dport=443`, all must hold.
        #[serde(default)]
        filter: Vec<String>,
    },
    /// Ends connections; one [`Killed`].
    Kill {
        /// Terms like `dport=443`, all must hold.
        #[serde(default)]
        filter: Vec<String>,
        /// Only count them.
        #[serde(default)]
        dry_run: bool,
        /// Send no RST.
        #[serde(default)]
        silent: bool,
        /// An empty filter is meant.
        #[serde(default)]
        all: bool,
    },
    /// An [`Event`] for each that is remembered, oldest first.
    Events {
        /// Stay, and send the ones that happen from now on.
        #[serde(default)]
        follow: bool,
        /// Only the last so many; all if absent.
        #[serde(default)]
        last: Option<usize>,
    },
    /// A [`TimerRow`] for each timer, and for each rule with its own value.
    Timers {
        /// All timers as they are for this rule.
        #[serde(default)]
        rule: Option<String>,
    },
    /// Sets a timer live; one [`Changed`].
    TimerSet {
        /// Which.
        timer: String,
        /// `30s`; `off` where a timer may be off.
        value: String,
        /// How far and how long.
        #[serde(default)]
        scope: Scope,
    },
    /// Takes a live timer back; one [`Changed`].
    TimerUnset {
        /// Which.
        timer: String,
        /// Of this rule; `None`: the one without a rule.
        #[serde(default)]
        rule: Option<String>,
    },
    /// A [`LimitRow`] for each limit, and for each rule with its own.
    Limits {},
    /// A [`SuggestedRow`] for each limit of the rule set and of rules that were busy.
    LimitSuggest {
        /// Hours to look back, 1 to 24; all if absent.
        #[serde(default)]
        hours: Option<u8>,
    },
    /// A [`HalfOpenRow`] for the total, each age, and the largest holders.
    HalfOpen {
        /// Terms like `dport=443`, all must hold.
        #[serde(default)]
        filter: Vec<String>,
        /// Sources and destinations to be listed, 10 if absent.
        #[serde(default)]
        top: Option<usize>,
    },
    /// An [`ExposureRow`] for each service that answered, and each listener.
    Exposure {},
    /// Sets a limit live; one [`Changed`].
    LimitSet {
        /// Which, as `embryonic.per_source`.
        limit: String,
        /// A number; `off` for none.
        value: String,
        /// How far and how long.
        #[serde(default)]
        scope: Scope,
    },
    /// Takes a live limit back; one [`Changed`].
    LimitUnset {
        /// Which.
        limit: String,
        /// Of this rule; `None`: the one without a rule.
        #[serde(default)]
        rule: Option<String>,
    },
    /// A [`Blocked`] for each source that the kernel blocks.
    Blocked {},
    /// Blocks sources no longer; one [`Lifted`].
    Unblock {
        /// An address; `None`: all, and `all` says that it is meant.
        #[serde(default)]
        source: Option<String>,
        /// All are meant.
        #[serde(default)]
        all: bool,
    },
    /// Reads a rule file and puts it in force; findings and one [`Reloaded`].
    Reload {
        /// Which file, absolute; `None`: the one that is in force.
        #[serde(default)]
        rules: Option<PathBuf>,
        /// Go back after this, unless confirmed.
        #[serde(default, with = "as_optional_duration")]
        confirm: Option<Duration>,
        /// What happens to connections that exist.
        #[serde(default)]
        existing: ReloadExisting,
    },
    /// Keeps what a reload with `confirm` installed.
    Confirm {},
    /// Removes the table and ends the daemon.
    Unload {},
    /// One [`Explanation`].
    Explain {
        /// `tcp 192.0.2.1:4000 > 192.168.10.20:443 S`.
        packet: String,
        /// Interface it comes in by.
        #[serde(default)]
        in_if: Option<String>,
        /// Interface it leaves by.
        #[serde(default)]
        out_if: Option<String>,
    },
}

/// How far a live change reaches.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scope {
    /// Only this rule.
    #[serde(default)]
    pub rule: Option<String>,
    /// It goes back by itself after this.
    #[serde(default, rename = "for", with = "as_optional_duration")]
    pub for_: Option<Duration>,
    /// Whether connections that exist feel it (timers only).
    #[serde(default)]
    pub existing: LiveExisting,
    /// Only say what would happen.
    #[serde(default)]
    pub dry_run: bool,
    /// Survive a restart of the daemon.
    #[serde(default)]
    pub save: bool,
}

/// What a live change of a timer means for connections that exist.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum LiveExisting {
    /// They feel it at once.
    #[default]
    Apply,
    /// They keep the value they have.
    Keep,
}

/// What a reload means for connections that exist.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum ReloadExisting {
    /// They stay.
    #[default]
    Keep,
    /// Each is judged again; those that no rule accepts end with RST.
    Rejudge,
}

/// One line of an answer.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// The end of an answer: it was done.
    Done(bool),
    /// The end of an answer: it was refused, and why.
    Error(String),
    /// Something to know beside the rows.
    Note(String),
    /// One connection.
    Connection(Connection),
    /// Something that happened.
    Event(Box<Event>),
    /// One timer.
    Timer(TimerRow),
    /// One limit.
    Limit(LimitRow),
    /// A limit as it could be set.
    Suggested(SuggestedRow),
    /// Who holds what is not finished.
    HalfOpen(Box<HalfOpenRow>),
    /// What can be reached.
    Exposure(Box<ExposureRow>),
    /// The daemon's state.
    Status(Box<Status>),
    /// What a live change did.
    Changed(Changed),
    /// What a kill did.
    Killed(Killed),
    /// A source that is blocked.
    Blocked(Blocked),
    /// How many are blocked no longer.
    Lifted(Lifted),
    /// Something wrong or odd in a rule file.
    Finding(Diagnostic),
    /// What a reload did.
    Reloaded(Reloaded),
    /// What would happen to a packet.
    Explanation(Box<Explanation>),
}

/// Packets and octets of one direction.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Packets.
    pub packets: u64,
    /// Octets.
    pub bytes: u64,
}

/// One connection, in its original direction.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Connection {
    /// Protocol.
    pub proto: String,
    /// Who opened it.
    pub src: String,
    /// Its port; for an echo its identifier.
    pub sport: u16,
    /// To whom.
    pub dst: String,
    /// The port there.
    pub dport: u16,
    /// Its phase.
    pub phase: String,
    /// The rule that let it in.
    pub rule: String,
    /// Since its first packet.
    #[serde(with = "as_duration")]
    pub age: Duration,
    /// Since its last packet.
    #[serde(with = "as_duration")]
    pub idle: Duration,
    /// Until its timer ends it.
    #[serde(with = "as_duration")]
    pub expires_in: Duration,
    /// The timer it is under.
    pub timer: String,
    /// Original direction.
    pub original: Counts,
    /// Reply direction.
    pub reply: Counts,
    /// Whether its packets pass in the kernel.
    pub fast_path: bool,
    /// Keepalives that were sent because its timer fired, and are not all answered.
    pub probes: u8,
    /// Whether one end seems to have forgotten it.
    pub stale: bool,
    /// Which: `client` or `server`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forgotten_by: Option<String>,
}

/// Something that happened. Fields that don't apply are left out.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Event {
    /// When.
    pub time: String,
    /// What: `opened`, `phase`, `stale`, `closed`, `rule`, `limit`, `scan`, `lost`, or
    /// `daemon`.
    pub event: String,
    /// Protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proto: Option<String>,
    /// Who opened the connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub src: Option<String>,
    /// Its port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sport: Option<u16>,
    /// To whom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dst: Option<String>,
    /// The port there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dport: Option<u16>,
    /// The rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// The phase before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The phase that it is or was in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// What a rule decided, or what was done about a limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
    /// The limit only counts: `action` would have been done, and was not.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shadow: bool,
    /// Which limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<String>,
    /// Why it ended, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub close_reason: Option<String>,
    /// How long it lived.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "as_optional_duration")]
    pub age: Option<Duration>,
    /// Original direction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub original: Option<Counts>,
    /// Reply direction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply: Option<Counts>,
    /// A source that scans.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scan: Option<ScanRow>,
    /// What the daemon itself did, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// A flood: how many of this kind were left out since the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_out: Option<u64>,
    /// How many events were lost here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<u64>,
}

/// One timer's value.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TimerRow {
    /// Which.
    pub timer: String,
    /// The rule whose it is; `null`: all rules without their own.
    pub rule: Option<String>,
    /// Its value; `null`: off.
    #[serde(default, with = "as_optional_duration")]
    pub value: Option<Duration>,
    /// Where the value comes from: `default`, `file`, `rule`, `live` or `live_rule`.
    pub origin: String,
    /// Connections under it now.
    pub connections: u64,
    /// When a live value goes back by itself.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "as_optional_duration")]
    pub ends_in: Option<Duration>,
}

/// One limit's value.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LimitRow {
    /// Which.
    pub limit: String,
    /// The rule whose it is; `null`: the rule set's.
    pub rule: Option<String>,
    /// Its value; `null`: no limit.
    pub value: Option<u32>,
    /// Where the value comes from: `default`, `file`, `rule`, `live` or `live_rule`.
    pub origin: String,
    /// What happens past it.
    pub on_excess: String,
    /// Whether it only counts.
    pub shadow: bool,
    /// What counts as one source; only with limits per source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_prefix: Option<Prefix>,
    /// How many half-open ones there are now; `null` for the scopes that have many counts.
    pub embryonic: Option<u64>,
    /// The same of open ones, for limits of those.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open: Option<u64>,
    /// How long the kernel blocks a source that passes it.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "as_optional_duration")]
    pub block: Option<Duration>,
    /// How often it was passed since the start, and `on_excess` done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passed: Option<u64>,
    /// How often it was passed in shadow: `on_excess` would have been done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passed_in_shadow: Option<u64>,
    /// When a live value goes back by itself.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "as_optional_duration")]
    pub ends_in: Option<Duration>,
}

/// What counts as one source: the length of the prefix that its addresses share.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Prefix {
    /// Of IPv4 addresses.
    pub ipv4: u8,
    /// Of IPv6 addresses.
    pub ipv6: u8,
}

impl fmt::Display for Prefix {
    /// `an IPv4 /24 or IPv6 /64`; a whole length is an address.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self { ipv4: 32, ipv6: 128 } => f.write_str("an address"),
            Self { ipv4: 32, ipv6 } => write!(f, "an IPv4 address or IPv6 /{ipv6}"),
            Self { ipv4, ipv6: 128 } => write!(f, "an IPv4 /{ipv4} or IPv6 address"),
            Self { ipv4, ipv6 } => write!(f, "an IPv4 /{ipv4} or IPv6 /{ipv6}"),
        }
    }
}

/// What a live change did, or would do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Changed {
    /// Connections whose deadline moves.
    pub affected: u64,
    /// Those that end at once.
    pub ended: u64,
    /// Nothing was changed.
    pub dry_run: bool,
    /// It survives a restart.
    pub saved: bool,
}

/// A source whose packets the kernel drops.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Blocked {
    /// The source: an address, or the network that counts as one.
    pub source: String,
    /// The limit that it passed.
    pub limit: String,
    /// The rule of the connection by which it did.
    pub rule: String,
    /// How long it is blocked already.
    #[serde(with = "as_duration")]
    pub since: Duration,
    /// How long it still is.
    #[serde(with = "as_duration")]
    pub ends_in: Duration,
}

/// What `unblock` did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Lifted {
    /// Sources that are blocked no longer.
    pub unblocked: u64,
}

/// What a kill did, or would do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Killed {
    /// Connections that passed the filter.
    pub matched: u64,
    /// Those that were ended; some may have ended by themselves meanwhile.
    pub killed: u64,
    /// Nothing was changed.
    pub dry_run: bool,
}

/// What a reload did.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Reloaded {
    /// The rule file.
    pub rules: String,
    /// Enabled rules in it.
    pub count: usize,
    /// Whether the kernel's table had to be installed anew.
    pub table: bool,
    /// Live changes that stay in force.
    pub live: Vec<LiveChange>,
    /// Goes back after this unless confirmed.
    #[serde(default, with = "as_optional_duration")]
    pub confirm_within: Option<Duration>,
}

/// A live change in force.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LiveChange {
    /// The timer or limit.
    pub name: String,
    /// The rule it is for; `null`: all without their own.
    pub rule: Option<String>,
    /// The value, as people write it.
    pub value: String,
    /// When it goes back by itself.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "as_optional_duration")]
    pub ends_in: Option<Duration>,
    /// Whether it survives a restart.
    pub saved: bool,
    /// The rule is not in the rule file (any more): it waits for its return.
    #[serde(default)]
    pub idle: bool,
}

/// How one rule met a packet.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RuleStep {
    /// The rule.
    pub rule: String,
    /// Where it stands.
    pub place: String,
    /// Whether it matched.
    pub matched: bool,
    /// Why not, or what it decides.
    pub why: String,
}

/// What would happen to a packet, and why.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Explanation {
    /// The packet as it was understood.
    pub packet: String,
    /// Where it would be diverted.
    pub hook: String,
    /// Whether that hook is diverted.
    pub diverted: bool,
    /// Zones of its source.
    pub from_zones: Vec<String>,
    /// Zones of its destination.
    pub to_zones: Vec<String>,
    /// The connection that it belongs to, if one is tracked.
    pub connection: Option<Connection>,
    /// The rules in order, up to the one that matched.
    pub rules: Vec<RuleStep>,
    /// The rule that decides; `default`: the default action.
    pub rule: String,
    /// `accept`, `drop` or `reset`.
    pub verdict: String,
    /// Why, in a sentence.
    pub because: String,
    /// What becomes of Fast Open: `allow`, `strip` or `deny`; for TCP that is accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fast_open: Option<String>,
    /// Which packets of its connection are inspected: `lifecycle` or `full`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inspect: Option<String>,
    /// The limits that apply.
    pub limits: Vec<LimitRow>,
    /// The timers of its connection.
    pub timers: Vec<TimerRow>,
    /// TCP: how its connection ends when one of them fires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_expire: Option<String>,
    /// What else to know.
    pub notes: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(request: &Request) {
        let text = serde_json::to_string(request).unwrap();
        assert!(!text.contains('\n'), "{text}");
        assert_eq!(&serde_json::from_str::<Request>(&text).unwrap(), request, "{text}");
    }

    #[test]
    fn requests_survive_the_wire() {
        let scope = Scope {
            rule: Some("web".to_owned()),
            for_: Some(Duration::from_secs(90)),
            existing: LiveExisting::Keep,
            dry_run: true,
            save: false,
        };
        round_trip(&Request::Status {});
        round_trip(&Request::Connections { filter: vec!["dport=443".to_owned()] });
        round_trip(&Request::TimerSet { timer: "icmp".to_owned(), value: "5s".to_owned(), scope });
        round_trip(&Request::TimerUnset { timer: "icmp".to_owned(), rule: None });
        round_trip(&Request::Reload {
            rules: Some(PathBuf::from("/etc/halfgate/rules.yaml")),
            confirm: Some(Duration::from_secs(60)),
            existing: ReloadExisting::Rejudge,
        });
        round_trip(&Request::Events { follow: true, last: Some(10) });
        round_trip(&Request::Unload {});
    }

    #[test]
    fn short_requests_are_enough() {
        let request: Request = serde_json::from_str(r#"{"request":"reload"}"#).unwrap();
        assert_eq!(request, Request::Reload { rules: None, confirm: None, existing: ReloadExisting::Keep });
        let request: Request =
            serde_json::from_str(r#"{"request":"timer_set","timer":"icmp","value":"5s"}"#).unwrap();
        assert!(matches!(request, Request::TimerSet { scope, .. } if scope == Scope::default()));
    }

    #[test]
    fn unknown_requests_and_fields_are_errors() {
        for text in [
            "",
            "null",
            "{}",
            "[]",
            r#"{"request":"dance"}"#,
            r#"{"request":"status","colour":1}"#,
            r#"{"request":"reload","confirm":"soon"}"#,
            r#"{"request":"kill","filter":"all"}"#,
        ] {
            assert!(serde_json::from_str::<Request>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_answer_ends_as_documented() {
        assert_eq!(serde_json::to_string(&Line::Done(true)).unwrap(), r#"{"done":true}"#);
        assert_eq!(serde_json::to_string(&Line::Error("no".to_owned())).unwrap(), r#"{"error":"no"}"#);
    }

    #[test]
    fn a_connection_has_the_documented_fields_in_order() {
        let row = Connection {
            proto: "tcp".to_owned(),
            src: "10.0.0.1".to_owned(),
            sport: 1234,
            dst: "10.0.0.2".to_owned(),
            dport: 80,
            phase: "established".to_owned(),
            rule: "web".to_owned(),
            age: Duration::from_secs(300),
            idle: Duration::from_millis(20),
            expires_in: Duration::from_secs(7440),
            timer: "established".to_owned(),
            original: Counts { packets: 3, bytes: 180 },
            reply: Counts { packets: 2, bytes: 120 },
            fast_path: false,
            probes: 0,
            stale: false,
            forgotten_by: None,
        };
        assert_eq!(
            serde_json::to_string(&row).unwrap(),
            r#"{"proto":"tcp","src":"10.0.0.1","sport":1234,"dst":"10.0.0.2","dport":80,"phase":"established","rule":"web","age":"5m","idle":"20ms","expires_in":"2h4m","timer":"established","original":{"packets":3,"bytes":180},"reply":{"packets":2,"bytes":120},"fast_path":false,"probes":0,"stale":false}"#
        );
    }

    #[test]
    fn an_event_leaves_out_what_does_not_apply() {
        let event = Event {
            time: "2026-01-01T00:00:00.000Z".to_owned(),
            event: "daemon".to_owned(),
            ..Event::default()
        };
        assert_eq!(
            serde_json::to_string(&event).unwrap(),
            r#"{"time":"2026-01-01T00:00:00.000Z","event":"daemon"}"#
        );
        let back: Event = serde_json::from_str(r#"{"time":"t","event":"e","age":"5s"}"#).unwrap();
        assert_eq!(back.age, Some(Duration::from_secs(5)));
    }
}
