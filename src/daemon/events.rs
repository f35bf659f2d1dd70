//! The last some thousand events, for `events`, and how each is told.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{filter, protocol, text};
use crate::{
    conntrack::Flow,
    engine::{CloseReason, Counts, Event, Peer},
    policy::{Action, Policy},
};

/// How many events are remembered.
pub const REMEMBERED: usize = 8192;

/// A ring of events. Writers never wait for readers: who reads too slowly
/// finds a gap, and is told how long it is.
#[derive(Debug)]
pub struct Ring {
    inner: Mutex<Inner>,
    news: Notify,
    capacity: usize,
}

#[derive(Debug, Default)]
struct Inner {
    events: VecDeque<Arc<protocol::Event>>,
    /// The number of the first event in `events`.
    first: u64,
}

impl Ring {
    /// An empty ring.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { inner: Mutex::default(), news: Notify::new(), capacity: capacity.max(1) }
    }

    /// Remembers events, and wakes those who follow.
    pub fn push(&self, events: impl IntoIterator<Item = protocol::Event>) {
        let mut inner = self.inner.lock();
        for event in events {
            if inner.events.len() == self.capacity {
                inner.events.pop_front();
                inner.first += 1;
            }
            inner.events.push_back(Arc::new(event));
        }
        drop(inner);
        self.news.notify_waiters();
    }

    /// Up to `most` events from number `from` on: how many before them are
    /// gone, the events, and the number to go on from.
    #[must_use]
    pub fn since(&self, from: u64, most: usize) -> (u64, Vec<Arc<protocol::Event>>, u64) {
        let inner = self.inner.lock();
        let start = from.max(inner.first);
        let skip = usize::try_from(start - inner.first).unwrap_or(usize::MAX);
        let events: Vec<_> = inner.events.iter().skip(skip).take(most).cloned().collect();
        let next = start + events.len() as u64;
        (start - from, events, next)
    }

    /// The number of the event `last` before the end; of the oldest if `None`.
    #[must_use]
    pub fn start(&self, last: Option<usize>) -> u64 {
        let inner = self.inner.lock();
        let held = inner.events.len();
        inner.first + held.saturating_sub(last.unwrap_or(held)) as u64
    }

    /// Waits for the next [`Self::push`]. Create the future before looking.
    pub fn news(&self) -> tokio::sync::futures::Notified<'_> {
        self.news.notified()
    }
}

/// Something that the daemon itself did.
#[must_use]
pub fn of_daemon(message: impl Into<String>, time: SystemTime) -> protocol::Event {
    protocol::Event {
        time: text::timestamp(time),
        event: "daemon".to_owned(),
        message: Some(message.into()),
        ..protocol::Event::default()
    }
}

/// So many events were lost here.
#[must_use]
pub fn of_loss(lost: u64, time: SystemTime) -> protocol::Event {
    protocol::Event {
        time: text::timestamp(time),
        event: "lost".to_owned(),
        lost: Some(lost),
        ..protocol::Event::default()
    }
}

/// A source that scans.
#[must_use]
pub fn of_scan(scan: protocol::ScanRow, time: SystemTime) -> protocol::Event {
    protocol::Event {
        time: text::timestamp(time),
        event: "scan".to_owned(),
        src: Some(scan.src.clone()),
        scan: Some(scan),
        ..protocol::Event::default()
    }
}

/// An event of the engine, as people see it.
#[must_use]
pub fn describe(event: &Event, policy: &Policy, time: SystemTime) -> protocol::Event {
    let base = |name: &str, flow: &Flow| protocol::Event {
        time: text::timestamp(time),
        event: name.to_owned(),
        proto: Some(flow.protocol.to_string()),
        src: Some(flow.src.to_string()),
        sport: Some(flow.src_port),
        dst: Some(flow.dst.to_string()),
        dport: Some(flow.dst_port),
        ..protocol::Event::default()
    };
    let name = |rule| Some(policy.name(rule).to_owned());
    match event {
        Event::Opened { flow, rule } => protocol::Event { rule: name(*rule), ..base("opened", flow) },
        Event::Phase { flow, rule, from, to, path: _ } => protocol::Event {
            rule: name(*rule),
            from: Some(from.name().to_owned()),
            phase: Some(to.name().to_owned()),
            ..base("phase", flow)
        },
        Event::Stale { flow, by } => protocol::Event {
            message: Some(match by {
                Some(by) => format!("the {} seems to have forgotten it", by.name()),
                None => "it is not forgotten".to_owned(),
            }),
            ..base("stale", flow)
        },
        Event::Closed(closed) => protocol::Event {
            rule: name(closed.rule),
            phase: Some(closed.phase.name().to_owned()),
            close_reason: Some(close_reason(&closed.reason)),
            age: Some(rough(closed.age)),
            original: Some(counts(closed.original)),
            reply: Some(counts(closed.reply)),
            ..base("closed", &closed.flow)
        },
        Event::Logged { flow, rule, action } => protocol::Event {
            rule: name(*rule),
            action: Some(action_name(*action).to_owned()),
            ..base("rule", flow)
        },
        Event::Proven { flow } => base("proven", flow),
        Event::LimitPassed { flow, rule, limit, of_rule, answer, shadow } => protocol::Event {
            rule: name(*rule),
            limit: Some(match of_rule {
                Some(owner) => format!("{} of rule {}", limit.name(), policy.name(*owner)),
                None => limit.name().to_owned(),
            }),
            action: Some(answer.name().to_owned()),
            shadow: *shadow,
            ..base("limit", flow)
        },
        // Not remembered: a rule that should be heard of has `log: true`.
        Event::Refused { flow } => base("refused", flow),
    }
}

/// Why a connection ended, in words.
#[must_use]
pub fn close_reason(reason: &CloseReason) -> String {
    match reason {
        CloseReason::Expired { timer, after, origin } => {
            format!("timer {} of {} ({})", timer.name(), text::duration(*after), origin.name())
        }
        CloseReason::Unanswered { timer, after, origin, by } => format!(
            "timer {} of {} ({}), then no answer from {}",
            timer.name(),
            text::duration(*after),
            origin.name(),
            by.map_or("either end".to_owned(), |by| format!("the {}", by.name()))
        ),
        CloseReason::Rst(Peer::Client) => "rst from client".to_owned(),
        CloseReason::Rst(Peer::Server) => "rst from server".to_owned(),
        CloseReason::Forgotten(peer) => format!("stale: the {} had forgotten it", peer.name()),
        CloseReason::Finished => "finished".to_owned(),
        CloseReason::Killed => "killed".to_owned(),
        CloseReason::Evicted(limit) => format!("evicted by {}", limit.name()),
        CloseReason::Replaced => "replaced by a newer connection".to_owned(),
        CloseReason::Rejudged => "no longer allowed by the rules".to_owned(),
        CloseReason::TooMany(limit) => format!("more than {} allows", limit.name()),
        CloseReason::TableFull => "made room in a full table".to_owned(),
    }
}

/// One line of text for an event: what `events` prints and `log: true` writes.
#[must_use]
pub fn sentence(event: &protocol::Event) -> String {
    let known = |value: &Option<String>| value.clone().unwrap_or_default();
    let flow = match (&event.proto, &event.src, &event.dst) {
        (Some(proto), Some(src), Some(dst)) => {
            let ports = proto == "tcp" || proto == "udp";
            let end = |address: &str, port: Option<u16>| match (address.contains(':'), ports) {
                (true, true) => format!("[{address}]:{}", port.unwrap_or(0)),
                (false, true) => format!("{address}:{}", port.unwrap_or(0)),
                (_, false) => address.to_owned(),
            };
            format!("{proto} {} > {}", end(src, event.sport), end(dst, event.dport))
        }
        _ => String::new(),
    };
    let left_out =
        event.left_out.map_or_else(String::new, |count| format!("; {count} more like it left out before"));
    let told = match event.event.as_str() {
        "opened" => format!("{flow} opened by rule {}", known(&event.rule)),
        "phase" => format!("{flow} {} -> {}", known(&event.from), known(&event.phase)),
        "stale" => format!("{flow} stale: {}", known(&event.message)),
        "closed" => {
            let bytes = |counts: Option<protocol::Counts>| text::octets(counts.unwrap_or_default().bytes);
            format!(
                "{flow} closed in {}: {} (rule {}, after {}, {} sent, {} received)",
                known(&event.phase),
                known(&event.close_reason),
                known(&event.rule),
                text::duration(event.age.unwrap_or_default()),
                bytes(event.original),
                bytes(event.reply),
            )
        }
        "rule" => format!("rule {}: {} {flow}", known(&event.rule), known(&event.action)),
        "proven" => format!("{flow} answered a challenge: its source is where it says it is"),
        "limit" => format!(
            "limit {} passed: {}{} {flow} (rule {})",
            known(&event.limit),
            if event.shadow { "in shadow, or else " } else { "" },
            known(&event.action),
            known(&event.rule)
        ),
        "scan" => {
            let scan = event.scan.clone().unwrap_or_default();
            format!(
                "{} scans: about {} ports of {} without an answer ({} reset, {} silent, {} refused by the rules){}; \
                 the source may be forged",
                scan.src,
                scan.distinct,
                if scan.addresses == 1 {
                    "one address".to_owned()
                } else {
                    format!("{} addresses", scan.addresses)
                },
                scan.reset,
                scan.silent,
                scan.refused,
                if scan.at_least { ", all lower bounds: events were lost" } else { "" }
            )
        }
        "lost" => {
            format!("{} events lost here: more happened than could be written down", event.lost.unwrap_or(0))
        }
        _ => known(&event.message),
    };
    told + &left_out
}

/// One connection, as `connections` shows it.
#[must_use]
pub fn connection(view: &crate::engine::View, policy: &Policy) -> protocol::Connection {
    protocol::Connection {
        proto: view.flow.protocol.to_string(),
        src: view.flow.src.to_string(),
        sport: view.flow.src_port,
        dst: view.flow.dst.to_string(),
        dport: view.flow.dst_port,
        phase: view.phase.name().to_owned(),
        rule: policy.name(view.rule).to_owned(),
        age: rough(view.age),
        idle: rough(view.idle),
        expires_in: rough(view.expires_in),
        timer: view.timer.name().to_owned(),
        original: counts(view.original),
        reply: counts(view.reply),
        fast_path: view.fast_path,
        probes: view.probes,
        stale: view.forgotten_by.is_some(),
        forgotten_by: view.forgotten_by.map(|peer| peer.name().to_owned()),
    }
}

/// The word for an action.
#[must_use]
pub const fn action_name(action: Action) -> &'static str {
    match action {
        Action::Accept => "accept",
        Action::Drop => "drop",
        Action::Reset => "reset",
    }
}

/// A packet's addresses as `1.2.3.4:1 > 5.6.7.8:80`.
#[must_use]
pub fn arrow(flow: &Flow) -> String {
    format!("{} {} > {}", flow.protocol, filter::end(flow, true), filter::end(flow, false))
}

fn counts(counts: Counts) -> protocol::Counts {
    protocol::Counts { packets: counts.packets, bytes: counts.bytes }
}

/// Whole seconds once there are some: what the table shows, and JSON too.
fn rough(value: Duration) -> Duration {
    if value.as_secs() > 0 { Duration::from_secs(value.as_secs()) } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        conntrack::{Phase, Timer},
        engine::{Closed, IfIndex},
        policy::{Limit, OnExcess, Origin, RuleId, Settings},
        wire::Protocol,
    };

    fn policy() -> Policy {
        Policy::new(Settings::default(), Vec::new(), Vec::new(), vec!["default".into(), "web".into()])
    }

    fn flow(src: &str, dst: &str) -> Flow {
        Flow::tcp(src, 4000, dst, 80)
    }

    fn told(event: &Event) -> String {
        sentence(&describe(event, &policy(), SystemTime::UNIX_EPOCH))
    }

    #[test]
    fn events_are_told_in_sentences() {
        let flow = flow("10.0.0.1", "10.0.0.2");
        assert_eq!(
            told(&Event::Opened { flow, rule: RuleId(1) }),
            "tcp 10.0.0.1:4000 > 10.0.0.2:80 opened by rule web"
        );
        assert_eq!(
            told(&Event::Phase {
                flow,
                rule: RuleId(1),
                path: [IfIndex(0); 2],
                from: Phase::SynSent,
                to: Phase::SynReceived
            }),
            "tcp 10.0.0.1:4000 > 10.0.0.2:80 syn_sent -> syn_received"
        );
        assert_eq!(
            told(&Event::Closed(Closed {
                flow,
                rule: RuleId(1),
                phase: Phase::SynReceived,
                reason: CloseReason::Expired {
                    timer: Timer::SynReceived,
                    after: Duration::from_secs(5),
                    origin: Origin::Rule
                },
                age: Duration::from_millis(5003),
                original: Counts { packets: 1, bytes: 60 },
                reply: Counts { packets: 1, bytes: 2048 },
            })),
            "tcp 10.0.0.1:4000 > 10.0.0.2:80 closed in syn_received: timer syn_received of 5s (rule) \
             (rule web, after 5s, 60 B sent, 2.0 KiB received)"
        );
        assert_eq!(
            told(&Event::Logged { flow, rule: RuleId(0), action: Action::Drop }),
            "rule default: drop tcp 10.0.0.1:4000 > 10.0.0.2:80"
        );
        assert_eq!(
            told(&Event::LimitPassed {
                flow,
                rule: RuleId(1),
                limit: Limit::PerSource,
                of_rule: Some(RuleId(1)),
                answer: OnExcess::Evict,
                shadow: true,
            }),
            "limit embryonic.per_source of rule web passed: in shadow, or else evict \
             tcp 10.0.0.1:4000 > 10.0.0.2:80 (rule web)"
        );
    }

    #[test]
    fn ipv6_and_portless_flows_are_readable() {
        let six = flow("2001:db8::1", "2001:db8::2");
        assert!(told(&Event::Opened { flow: six, rule: RuleId(1) }).contains("[2001:db8::1]:4000"));
        let ping = Flow { protocol: Protocol::ICMP, ..flow("10.0.0.1", "10.0.0.2") };
        assert_eq!(
            told(&Event::Opened { flow: ping, rule: RuleId(1) }),
            "icmp 10.0.0.1 > 10.0.0.2 opened by rule web"
        );
    }

    #[test]
    fn a_slow_reader_is_told_of_the_gap() {
        let ring = Ring::new(3);
        let event = |number: u64| of_loss(number, SystemTime::UNIX_EPOCH);
        ring.push((0..2).map(event));
        let (gap, events, next) = ring.since(0, 100);
        assert_eq!((gap, events.len(), next), (0, 2, 2));
        ring.push((2..9).map(event));
        let (gap, events, next) = ring.since(next, 2);
        assert_eq!((gap, events.len(), next), (4, 2, 8));
        assert_eq!(events[0].lost, Some(6));
        let (gap, events, next) = ring.since(next, 100);
        assert_eq!((gap, events.len(), next), (0, 1, 9));
        assert_eq!(ring.start(None), 6);
        assert_eq!(ring.start(Some(1)), 8);
        assert_eq!(ring.start(Some(100)), 6);
    }
}
