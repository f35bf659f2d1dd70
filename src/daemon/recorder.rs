//! Writes down what happened: into the ring that `events` reads, and into the log.
//!
//! A flood is a line a second of each kind in either; what is left out is counted
//! (`governor`).

use std::{
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::Duration,
};

use super::{
    events,
    gathering::Gathering,
    governor::{Governor, Written},
    log,
    observer::{Overrun, scan_row},
    protocol,
    shared::{Pulse, Shared},
};
use crate::{
    conntrack::Instant,
    engine::{CloseReason, Event, observe::Scan},
    policy::{Action, Policy, RuleId},
    sys::clock::{Clock, Pace},
};

/// How long it waits before it looks whether it should go home.
const TURN: Duration = Duration::from_millis(200);

/// Events that are written down at one lock of the ring.
const BATCH: usize = 256;

/// Events of a kind that are remembered in a second.
pub(super) const EVENTS_PER_SECOND: u32 = 200;

/// Lines that a rule with `log: true` may write in a second.
const LINES_PER_SECOND: u32 = 10;

/// Kinds that are told apart.
pub(super) const KINDS: usize = 4096;

/// What is limited together.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Kind {
    what: u8,
    rule: RuleId,
    detail: [u8; 3],
}

/// Of which kind an event is: the connection itself makes no difference.
fn kind_of(event: &Event) -> Kind {
    let (what, rule, detail) = match event {
        Event::Opened { rule, .. } => (1, *rule, [0; 3]),
        Event::Phase { rule, from, to, .. } => (2, *rule, [*from as u8, *to as u8, 0]),
        Event::Stale { by, .. } => (3, RuleId::DEFAULT, [u8::from(by.is_some()), 0, 0]),
        Event::Closed(closed) => {
            let [reason, timer] = reason_of(&closed.reason);
            (4, closed.rule, [closed.phase as u8, reason, timer])
        }
        Event::Logged { rule, action, .. } => (5, *rule, [action_of(*action), 0, 0]),
        Event::LimitPassed { rule, limit, of_rule, shadow, .. } => {
            (6, *rule, [*limit as u8, u8::from(of_rule.is_some()), u8::from(*shadow)])
        }
        Event::Refused { .. } => (7, RuleId::DEFAULT, [0; 3]),
        Event::Proven { .. } => (8, RuleId::DEFAULT, [0; 3]),
    };
    Kind { what, rule, detail }
}

/// Where kinds are too many to be told apart.
fn rest_of(kind: Kind) -> Kind {
    Kind { rule: RuleId::DEFAULT, detail: [u8::MAX; 3], ..kind }
}

const fn action_of(action: Action) -> u8 {
    match action {
        Action::Accept => 0,
        Action::Drop => 1,
        Action::Reset => 2,
    }
}

const fn reason_of(reason: &CloseReason) -> [u8; 2] {
    match reason {
        CloseReason::Expired { timer, .. } => [0, *timer as u8],
        CloseReason::Unanswered { timer, .. } => [1, *timer as u8],
        CloseReason::Rst(_) => [2, 0],
        CloseReason::Forgotten(_) => [3, 0],
        CloseReason::Finished => [4, 0],
        CloseReason::Killed => [5, 0],
        CloseReason::Evicted(limit) => [6, *limit as u8],
        CloseReason::Replaced => [7, 0],
        CloseReason::Rejudged => [8, 0],
        CloseReason::TableFull => [9, 0],
        CloseReason::TooMany(limit) => [10, *limit as u8],
    }
}

/// What is written where.
#[derive(Debug)]
struct Record {
    ring: Governor<Kind, Event>,
    log: Governor<Kind, Event>,
    limits: Governor<Kind, Event>,
    scans: Governor<(), Scan>,
    /// Lost events that were told of.
    lost: u64,
    lost_told: Instant,
}

impl Record {
    fn new() -> Self {
        Self {
            ring: Governor::new(EVENTS_PER_SECOND, KINDS),
            log: Governor::new(LINES_PER_SECOND, KINDS),
            limits: Governor::new(1, KINDS),
            scans: Governor::new(LINES_PER_SECOND, 1),
            lost: 0,
            lost_told: Instant(0),
        }
    }

    /// Takes one event: what the ring gets of it, and what the log.
    fn take(&mut self, event: Event, now: Instant) -> [Option<Written<Event>>; 2] {
        let kind = kind_of(&event);
        let log = match event {
            Event::Logged { .. } => Some(&mut self.log),
            Event::LimitPassed { .. } => Some(&mut self.limits),
            Event::Refused { .. } => return [None, None],
            Event::Opened { .. }
            | Event::Phase { .. }
            | Event::Stale { .. }
            | Event::Proven { .. }
            | Event::Closed(_) => None,
        };
        let line = log.and_then(|log| log.offer(kind, rest_of(kind), event, now));
        [self.ring.offer(kind, rest_of(kind), event, now), line]
    }

    /// What was left out and nothing followed.
    fn overdue(&mut self, now: Instant) -> [Vec<Written<Event>>; 2] {
        let mut lines = self.log.overdue(now);
        lines.extend(self.limits.overdue(now));
        [self.ring.overdue(now), lines]
    }

    /// Events that nobody could take, told of once a second.
    fn newly_lost(&mut self, lost: u64, now: Instant) -> Option<u64> {
        let news = lost.saturating_sub(self.lost);
        if news == 0 || now.since(self.lost_told) < Duration::from_secs(1) {
            return None;
        }
        (self.lost, self.lost_told) = (lost, now);
        Some(news)
    }
}

fn told(written: &Written<Event>, policy: &Policy, now: Instant) -> protocol::Event {
    let mut row = events::describe(&written.what, policy, Clock::wall(now.since(written.at)));
    row.left_out = (written.left_out > 0).then_some(written.left_out);
    row
}

fn scan_told(written: &Written<Scan>, overrun: Option<Overrun>, now: Instant) -> protocol::Event {
    let time = Clock::wall(now.since(written.at));
    let mut row = events::of_scan(scan_row(&written.what, overrun, now), time);
    row.left_out = (written.left_out > 0).then_some(written.left_out);
    row
}

/// Writes down what happened, until everybody goes home.
///
/// # Errors
/// None.
pub fn run(shared: &Arc<Shared>, inbox: &Receiver<Event>, pulse: &Pulse) -> Result<(), String> {
    let mut record = Record::new();
    let (mut gathering, mut pace) = (Gathering::of(BATCH), Pace::begin());
    while !shared.stopping() {
        pulse.beat();
        let batch = match gathering.take(inbox, TURN) {
            Ok(batch) => Some(batch),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => break,
        };
        let (now, wall) = (shared.clock.now(), Clock::wall(Duration::ZERO));
        let mut observer = shared.observer.lock();
        observer.second(&shared.engine, now);
        let mut scans = record.scans.overdue(now);
        let [mut ring, mut lines] = record.overdue(now);
        for event in batch.into_iter().flatten() {
            let scan = observer.take(&event, now);
            scans.extend(scan.and_then(|scan| record.scans.offer((), (), scan, now)));
            let [row, line] = record.take(event, now);
            ring.extend(row);
            lines.extend(line);
        }
        let lost = shared.events_lost();
        let overrun = observer.overrun(lost, now);
        drop(observer);
        let policy = shared.engine.policy();
        for line in &lines {
            log::notice(events::sentence(&told(line, &policy, now)));
        }
        let scans = scans.iter().map(|written| scan_told(written, overrun, now)).collect::<Vec<_>>();
        for scan in &scans {
            log::warning(events::sentence(scan));
        }
        let lost = record.newly_lost(lost, now);
        let rows = ring.iter().map(|row| told(row, &policy, now));
        shared.ring.push(rows.chain(scans).chain(lost.map(|lost| events::of_loss(lost, wall))));
        pace.step();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::*;
    use crate::{
        conntrack::{Flow, Phase, Timer},
        daemon::shared::{Forgets, Outbox},
        engine::{Closed, Counts, IfIndex},
        policy::{Limit, OnExcess, Origin, Settings},
        wire::Protocol,
    };

    const WEB: RuleId = RuleId(1);

    fn flow(number: u32) -> Flow {
        Flow {
            protocol: Protocol::TCP,
            src: std::net::Ipv4Addr::from_bits(number).into(),
            src_port: 4000,
            dst: [192, 0, 2, 1].into(),
            dst_port: 80,
        }
    }

    /// What one SYN of a flood makes: it enters, a limit is passed, another goes.
    fn syn(number: u32) -> [Event; 4] {
        let flow = flow(number);
        let path = [IfIndex(2), IfIndex(3)];
        [
            Event::LimitPassed {
                flow,
                rule: WEB,
                limit: Limit::Total,
                of_rule: None,
                answer: OnExcess::Evict,
                shadow: false,
            },
            Event::Opened { flow, rule: WEB },
            Event::Phase { flow, rule: WEB, path, from: Phase::SynSent, to: Phase::SynReceived },
            closed(flow, Phase::SynReceived, CloseReason::Evicted(Limit::Total)),
        ]
    }

    fn closed(flow: Flow, phase: Phase, reason: CloseReason) -> Event {
        let (original, reply) = (Counts::default(), Counts::default());
        Event::Closed(Closed { flow, rule: WEB, phase, reason, age: Duration::ZERO, original, reply })
    }

    #[test]
    fn a_flood_of_a_million_is_a_line_a_second_of_each_kind_in_ring_and_log() {
        let mut record = Record::new();
        let [mut ring, mut log] = [Vec::new(), Vec::new()];
        // A million events in twenty seconds: 13 SYNs in a millisecond, four events each.
        for millisecond in 0..20_000_u64 {
            let now = Instant(millisecond);
            if millisecond.is_multiple_of(200) {
                let [more, lines] = record.overdue(now);
                ring.extend(more);
                log.extend(lines);
            }
            for number in 0..13 {
                for event in syn(u32::try_from(millisecond * 13 + number).unwrap()) {
                    let [row, line] = record.take(event, now);
                    ring.extend(row);
                    log.extend(line);
                }
            }
            // One honest connection's end, of a kind of its own.
            if millisecond == 10_500 {
                let reason =
                    CloseReason::Expired { timer: Timer::HalfClosed, after: SECOND, origin: Origin::File };
                let [row, _] = record.take(closed(flow(1), Phase::HalfClosed, reason), now);
                assert_eq!(row.map(|row| row.left_out), Some(0), "the flood does not hide it");
            }
        }
        let [more, lines] = record.overdue(Instant(22_000));
        ring.extend(more);
        log.extend(lines);
        assert!(ring.len() <= 4 * (200 + 22), "{} rows of a million events", ring.len());
        assert!(log.len() <= 22, "{} lines", log.len());
        let all = |rows: &[Written<Event>]| rows.iter().map(|row| 1 + row.left_out).sum::<u64>();
        assert_eq!((all(&ring), all(&log)), (4 * 260_000, 260_000), "every one is counted");
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn what_was_left_out_is_told_with_the_line() {
        let policy =
            Policy::new(Settings::default(), Vec::new(), Vec::new(), vec!["default".into(), "web".into()]);
        let [_, what, ..] = syn(1);
        let row = |left_out| {
            let row = told(&Written { what, at: Instant(5), left_out }, &policy, Instant(5));
            (events::sentence(&row), row.left_out)
        };
        let plain = "tcp 0.0.0.1:4000 > 192.0.2.1:80 opened by rule web".to_owned();
        assert_eq!(row(0), (plain.clone(), None));
        assert_eq!(row(12), (format!("{plain}; 12 more like it left out before"), Some(12)));
    }

    #[test]
    fn what_finds_no_room_here_makes_scans_and_services_lower_bounds() {
        let shared = Arc::new(crate::daemon::shared::tests::shared());
        let (into, inbox) = sync_channel(100);
        let others = || sync_channel(1).0;
        let outbox = Outbox::new(into, others(), others(), Forgets::new(sync_channel(1).0), others());
        // A scan of 300 ports while the recorder finds no processor.
        for port in 0..300 {
            let flow = Flow { dst_port: port, ..flow(7) };
            outbox.tell(Event::Refused { flow }, &shared.tally);
        }
        drop(outbox);
        run(&shared, &inbox, &Pulse::new("recorder".to_owned())).unwrap();
        let now = shared.clock.now();
        let mut observer = shared.observer.lock();
        let overrun = observer.overrun(shared.events_lost(), now).expect("it is known");
        assert_eq!(overrun.events, 200);
        let row = scan_row(&observer.scans.scanning(now)[0], Some(overrun), now);
        assert!(row.refused == 100 && row.at_least, "{row:?}");
        drop(observer);
        let (_, told, _) = shared.ring.since(0, 64);
        let scan = told.iter().find(|event| event.event == "scan").expect("the scan is told");
        let sentence = events::sentence(scan);
        assert!(sentence.contains("lower bounds"), "{sentence}");
    }

    #[test]
    fn losses_are_told_once_a_second() {
        let mut record = Record::new();
        assert_eq!(record.newly_lost(0, Instant(5000)), None);
        assert_eq!(record.newly_lost(7, Instant(5000)), Some(7));
        assert_eq!(record.newly_lost(9, Instant(5900)), None);
        assert_eq!(record.newly_lost(11, Instant(6000)), Some(4));
    }
}
