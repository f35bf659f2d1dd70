//! What the events add up to while the daemon runs: scans, services, the demand for
//! half-open connections, completed handshakes. The recorder feeds it; whoever asks
//! reads it under its lock, shortly. Of events that the recorder could not take it knows
//! only how many: scans and services are lower bounds from then on, and say so.

use std::{net::IpAddr, time::Duration};

use super::{
    protocol::{HandshakeRate, OverrunRow, ScanRow},
    text,
};
use crate::{
    conntrack::{Instant, Phase, SourcePrefix},
    engine::{
        CloseReason, Engine, Event, IfIndex,
        observe::{Answer, Demand, Handshakes, Probe, Rate, Scan, Scans, Service, Services},
    },
    policy::ScanLimit,
    sys::clock::Clock,
};

/// Services that are remembered.
const SERVICES: usize = 8192;

/// What handshakes "lately" are.
const LATELY: Duration = Duration::from_secs(60);

/// All of it.
#[derive(Debug)]
pub struct Observer {
    /// Who scans.
    pub scans: Scans,
    /// Who answered.
    pub services: Services,
    /// How many half-open connections there were.
    pub demand: Demand,
    handshakes: Handshakes,
    /// What `scans` was last told.
    scan_limit: Option<ScanLimit>,
    overrun: Option<Overrun>,
    /// Interfaces of default routes: what lies behind them is not behind the gateway.
    outside: Vec<IfIndex>,
    next_second: Instant,
}

/// Events that never came here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Overrun {
    /// How many.
    pub events: u64,
    /// When the first was missed.
    pub since: Instant,
    /// When the last was.
    pub last: Instant,
}

impl Observer {
    /// Nothing seen yet; `seed` must be random.
    #[must_use]
    pub fn new(seed: [u64; 2]) -> Self {
        let limit = ScanLimit::default();
        Self {
            scans: Scans::new(seed, limit.window, limit.distinct),
            scan_limit: Some(limit),
            services: Services::new(SERVICES),
            demand: Demand::default(),
            handshakes: Handshakes::new(LATELY),
            overrun: None,
            outside: Vec::new(),
            next_second: Instant(0),
        }
    }

    /// Tells which interfaces default routes lead to.
    pub fn set_outside(&mut self, interfaces: Vec<IfIndex>) {
        self.outside = interfaces;
    }

    /// Takes what happened; a scan if it shows one.
    pub fn take(&mut self, event: &Event, now: Instant) -> Option<Scan> {
        let (flow, answer) = match event {
            Event::Phase { flow, rule, path: [in_if, out_if], from, to } => match (from, to) {
                (Phase::SynSent, Phase::Reset) => (flow, Answer::Reset),
                (Phase::SynSent, Phase::SynReceived) | (Phase::UdpNew, Phase::UdpStream)
                    if !self.outside.contains(out_if) =>
                {
                    let service = Service {
                        address: flow.dst,
                        protocol: flow.protocol,
                        port: flow.dst_port,
                        rule: *rule,
                        asked_by: *in_if,
                        is_gateway: *out_if == IfIndex(0),
                    };
                    self.services.note(service, now);
                    return None;
                }
                _ => return None,
            },
            Event::Closed(closed)
                if closed.phase == Phase::SynSent && matches!(closed.reason, CloseReason::Expired { .. }) =>
            {
                (&closed.flow, Answer::Silence)
            }
            Event::Refused { flow } => (flow, Answer::Refused),
            Event::Opened { .. }
            | Event::Closed(_)
            | Event::Stale { .. }
            | Event::Logged { .. }
            | Event::Proven { .. }
            | Event::LimitPassed { .. } => return None,
        };
        self.scan_limit?;
        let source = SourcePrefix::default().source(flow.src);
        self.scans.note(&Probe { source, address: flow.dst, port: flow.dst_port, answer }, now)
    }

    /// What is to be done once a second; does nothing in between.
    pub fn second(&mut self, engine: &Engine, now: Instant) {
        if now < self.next_second {
            return;
        }
        self.next_second = now.after(Duration::from_secs(1));
        self.set_scan_limit(engine.policy().settings.scans);
        self.demand.note(&engine.take_peaks(), now);
        self.handshakes.sample(engine.handshakes(), now);
    }

    /// Hears how many events were lost since the start: since when, if any were.
    pub fn overrun(&mut self, lost: u64, now: Instant) -> Option<Overrun> {
        if lost > self.overrun.map_or(0, |overrun| overrun.events) {
            let since = self.overrun.map_or(now, |overrun| overrun.since);
            self.overrun = Some(Overrun { events: lost, since, last: now });
        }
        self.overrun
    }

    /// What the rules in force say about scans.
    fn set_scan_limit(&mut self, limit: Option<ScanLimit>) {
        if self.scan_limit != limit {
            self.scan_limit = limit;
            // Off: who scanned is forgotten.
            let ScanLimit { distinct, window } =
                limit.unwrap_or(ScanLimit { window: Duration::ZERO, ..ScanLimit::default() });
            self.scans.set(window, distinct);
        }
    }

    /// How many handshakes were completed lately, and since the start.
    #[must_use]
    pub fn handshakes(&self, so_far: Rate, now: Instant) -> [HandshakeRate; 2] {
        let row = |(rate, window): (Rate, Duration)| HandshakeRate {
            window: Duration::from_secs(window.as_secs()),
            begun: rate.begun,
            completed: rate.completed,
            percent: rate.percent().map(|percent| (percent * 10.0).round() / 10.0),
        };
        [row(self.handshakes.lately(so_far, now)), row((so_far, now.since(Instant(0))))]
    }
}

/// A source as limits count it: an address, or the network that it lies in.
#[must_use]
pub fn source_text(address: IpAddr, prefix: SourcePrefix) -> String {
    let (source, length) = (prefix.source(address), prefix.length(address));
    let whole = if source.is_ipv4() { 32 } else { 128 };
    if length == whole { source.to_string() } else { format!("{source}/{length}") }
}

/// When that was, in RFC 3339.
#[must_use]
pub fn wall_time(at: Instant, now: Instant) -> String {
    text::timestamp(Clock::wall(now.since(at)))
}

/// A scan as people see it.
#[must_use]
pub fn scan_row(scan: &Scan, overrun: Option<Overrun>, now: Instant) -> ScanRow {
    ScanRow {
        src: source_text(scan.source, SourcePrefix::default()),
        distinct: scan.distinct,
        addresses: scan.addresses,
        ports: scan.ports,
        reset: scan.reset,
        silent: scan.silent,
        refused: scan.refused,
        since: wall_time(scan.since, now),
        at_least: is_lower_bound(scan.since, overrun),
    }
}

/// Whether events were lost since.
#[must_use]
pub fn is_lower_bound(since: Instant, overrun: Option<Overrun>) -> bool {
    overrun.is_some_and(|overrun| overrun.last >= since)
}

/// Lost events as people see them.
#[must_use]
pub fn overrun_row(overrun: &Overrun, now: Instant) -> OverrunRow {
    OverrunRow {
        events: overrun.events,
        since: wall_time(overrun.since, now),
        last: wall_time(overrun.last, now),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        conntrack::{Flow, Timer},
        engine::{Closed, Counts},
        policy::{Origin, RuleId},
        wire::Protocol,
    };

    fn flow(port: u16) -> Flow {
        Flow {
            protocol: Protocol::TCP,
            src: [198, 51, 100, 7].into(),
            src_port: 4000,
            dst: [192, 0, 2, 10].into(),
            dst_port: port,
        }
    }

    fn phase(port: u16, from: Phase, to: Phase, out_if: u32) -> Event {
        Event::Phase { flow: flow(port), rule: RuleId(1), path: [IfIndex(2), IfIndex(out_if)], from, to }
    }

    fn expired(port: u16, phase: Phase, reason: CloseReason) -> Event {
        let (original, reply) = (Counts::default(), Counts::default());
        let (flow, rule, age) = (flow(port), RuleId(1), Duration::ZERO);
        Event::Closed(Closed { flow, rule, phase, reason, age, original, reply })
    }

    #[test]
    fn what_was_not_answered_makes_a_scan_and_what_was_makes_a_service() {
        let mut observer = Observer::new([1, 2]);
        let timer =
            CloseReason::Expired { timer: Timer::SynSent, after: Duration::ZERO, origin: Origin::File };
        let mut told = Vec::new();
        for port in (0..150).step_by(3) {
            let reset = phase(port, Phase::SynSent, Phase::Reset, 3);
            told.extend(observer.take(&reset, Instant(0)));
            told.extend(observer.take(&expired(port + 1, Phase::SynSent, timer), Instant(0)));
            told.extend(observer.take(&Event::Refused { flow: flow(port + 2) }, Instant(0)));
            // A half-open scan of open ports: answered, and reset by the scanner.
            let open = phase(port, Phase::SynSent, Phase::SynReceived, 3);
            told.extend(observer.take(&open, Instant(0)));
        }
        assert_eq!((told.len(), observer.scans.total()), (2, 1), "{told:?}");
        let row = scan_row(&observer.scans.scanning(Instant(0))[0], None, Instant(0));
        assert_eq!((row.src.as_str(), row.reset, row.silent, row.refused), ("198.51.100.7", 50, 50, 50));
        assert_eq!(observer.services.all().len(), 50);
    }

    #[test]
    fn after_an_overrun_what_began_before_it_is_a_lower_bound() {
        let mut observer = Observer::new([1, 2]);
        assert_eq!(observer.overrun(0, Instant(5)), None);
        let sweep = |observer: &mut Observer, now| {
            for port in 0..200 {
                observer.take(&Event::Refused { flow: flow(port) }, now);
            }
            observer.scans.scanning(now).remove(0)
        };
        let scan = sweep(&mut observer, Instant(1000));
        let at_least = |scan, overrun| scan_row(scan, overrun, Instant(9000)).at_least;
        assert!(!at_least(&scan, None));
        let first = observer.overrun(3, Instant(2000));
        assert_eq!(first, Some(Overrun { events: 3, since: Instant(2000), last: Instant(2000) }));
        assert!(at_least(&scan, first));
        assert_eq!(observer.overrun(3, Instant(2500)), first, "nothing more was lost");
        let second = observer.overrun(7, Instant(3000));
        assert_eq!(second, Some(Overrun { events: 7, since: Instant(2000), last: Instant(3000) }));
        // One that began when all could be taken again is counted whole.
        assert!(!at_least(&Scan { since: Instant(3001), ..scan }, second));
    }

    #[test]
    fn scans_can_be_off() {
        let mut observer = Observer::new([1, 2]);
        let sweep = |observer: &mut Observer| {
            let refused = (0..200).map(|port| Event::Refused { flow: flow(port) });
            refused.filter_map(|event| observer.take(&event, Instant(0))).count()
        };
        assert!(sweep(&mut observer) > 0);
        observer.set_scan_limit(None);
        assert_eq!((sweep(&mut observer), observer.scans.scanning(Instant(0)).len()), (0, 0));
        observer.set_scan_limit(Some(ScanLimit::default()));
        assert!(sweep(&mut observer) > 0);
    }

    #[test]
    fn what_ended_otherwise_is_no_scan() {
        let mut observer = Observer::new([1, 2]);
        for port in 0..500 {
            for event in [
                phase(port, Phase::SynReceived, Phase::Reset, 3),
                phase(port, Phase::Established, Phase::Reset, 3),
                expired(port, Phase::SynSent, CloseReason::Killed),
                expired(port, Phase::SynReceived, CloseReason::Evicted(crate::policy::Limit::Total)),
            ] {
                assert_eq!(observer.take(&event, Instant(0)), None);
            }
        }
        assert!(observer.scans.scanning(Instant(0)).is_empty());
    }

    #[test]
    fn what_lies_behind_the_default_route_is_not_behind_the_gateway() {
        let mut observer = Observer::new([1, 2]);
        observer.set_outside(vec![IfIndex(9)]);
        observer.take(&phase(443, Phase::SynSent, Phase::SynReceived, 9), Instant(0));
        observer.take(&phase(80, Phase::SynSent, Phase::SynReceived, 3), Instant(0));
        observer.take(&phase(22, Phase::SynSent, Phase::SynReceived, 0), Instant(0));
        let rows = observer.services.all();
        let seen: Vec<_> = rows.iter().map(|row| (row.service.port, row.service.is_gateway)).collect();
        assert_eq!(seen, [(22, true), (80, false)]);
    }

    #[test]
    fn sources_are_written_as_limits_count_them() {
        let told = |address: &str, prefix| source_text(address.parse().unwrap(), prefix);
        let usual = SourcePrefix::default();
        assert_eq!(told("10.0.0.1", usual), "10.0.0.1");
        assert_eq!(told("2001:db8:1:2:3::4", usual), "2001:db8:1:2::/64");
        let other = SourcePrefix { ipv4: 24, ipv6: 128 };
        assert_eq!(told("10.0.0.1", other), "10.0.0.0/24");
        assert_eq!(told("2001:db8::4", other), "2001:db8::4");
    }
}
