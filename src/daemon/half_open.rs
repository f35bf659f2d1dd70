//! `half-open`: who holds handshakes that are not finished, and FINs that nobody
//! acknowledged.
//!
//! One pass over the table, a bounded piece under each lock, as `connections` does
//! it. Holders may be as many as connections (a flood of forged sources), so each pass
//! adds up only a share of them by a hash: memory stays bounded, and every count is
//! exact.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    hash::{BuildHasher, Hash, RandomState},
    net::IpAddr,
    time::Duration,
};

use super::{
    filter::{Bound, Filter},
    observer::source_text,
    outlet::{Outlet, Refusal},
    protocol::{AgeRow, HalfOpenRow, HalfOpenTotal, HolderRow, Line, Unfinished},
    state::Daemon,
};
use crate::{
    conntrack::{Phase, SourcePrefix},
    engine::View,
    policy::{Limit, LimitTable, Policy, ResolvedLimits, RuleId},
};

/// Connections whose holders one pass adds up, about.
const PASS: u64 = 128 * 1024;

/// Rows of each kind that may be asked for.
const MOST: usize = 10_000;

/// Where ages are cut.
const AGES: [u64; 10] = [1, 2, 5, 10, 20, 30, 60, 120, 300, 600];

/// What one holder has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Tally {
    count: Unfinished,
    oldest: Option<Duration>,
    oldest_fin: Option<Duration>,
}

impl Tally {
    fn add(&mut self, one: &One) {
        *one.slot(&mut self.count) += 1;
        let oldest = if one.kind == Kind::Fin { &mut self.oldest_fin } else { &mut self.oldest };
        *oldest = (*oldest).max(Some(one.age));
    }

    const fn sum(&self) -> u64 {
        self.count.syn_sent + self.count.syn_received + self.count.unacknowledged_fins
    }

    fn row(&self) -> HolderRow {
        let rough = |age: Duration| if age.as_secs() > 0 { Duration::from_secs(age.as_secs()) } else { age };
        HolderRow {
            count: self.count,
            oldest: self.oldest.map(rough),
            oldest_fin: self.oldest_fin.map(rough),
            ..HolderRow::default()
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    SynSent,
    SynReceived,
    Fin,
}

/// A connection that is not finished.
#[derive(Clone, Copy, Debug)]
struct One {
    kind: Kind,
    age: Duration,
}

impl One {
    fn of(view: &View) -> Option<Self> {
        let handshake = match view.phase {
            Phase::SynSent => Some(Kind::SynSent),
            Phase::SynReceived => Some(Kind::SynReceived),
            Phase::Established
            | Phase::FinWait
            | Phase::HalfClosed
            | Phase::Closing
            | Phase::TimeWait
            | Phase::Reset
            | Phase::UdpNew
            | Phase::UdpStream
            | Phase::Icmp
            | Phase::Other => None,
        };
        match (handshake, view.unacknowledged_fin) {
            (Some(kind), _) => Some(Self { kind, age: view.age }),
            (None, Some(age)) => Some(Self { kind: Kind::Fin, age }),
            (None, None) => None,
        }
    }

    const fn slot<'c>(&self, count: &'c mut Unfinished) -> &'c mut u64 {
        match self.kind {
            Kind::SynSent => &mut count.syn_sent,
            Kind::SynReceived => &mut count.syn_received,
            Kind::Fin => &mut count.unacknowledged_fins,
        }
    }
}

/// What all passes found.
#[derive(Debug)]
struct Found {
    all: Unfinished,
    ages: [Unfinished; AGES.len() + 1],
    rules: BTreeMap<RuleId, Tally>,
    /// What counts as one source.
    prefix: SourcePrefix,
    sources: Holders<IpAddr>,
    destinations: Holders<(IpAddr, u16)>,
}

impl Found {
    fn new(prefix: SourcePrefix, top: usize, passes: u64) -> Self {
        Self {
            prefix,
            all: Unfinished::default(),
            ages: [Unfinished::default(); AGES.len() + 1],
            rules: BTreeMap::new(),
            sources: Holders::new(top, passes),
            destinations: Holders::new(top, passes),
        }
    }

    fn take(&mut self, view: &View, pass: u64) {
        let Some(one) = One::of(view) else { return };
        if pass == 0 {
            *one.slot(&mut self.all) += 1;
            let place = AGES.iter().take_while(|age| one.age >= Duration::from_secs(**age)).count();
            *one.slot(&mut self.ages[place]) += 1;
            self.rules.entry(view.rule).or_default().add(&one);
        }
        self.sources.add(self.prefix.source(view.flow.src), &one, pass);
        self.destinations.add((view.flow.dst, view.flow.dst_port), &one, pass);
    }
}

/// The largest of many holders.
#[derive(Debug)]
struct Holders<K> {
    top: usize,
    passes: u64,
    hasher: RandomState,
    share: HashMap<K, Tally>,
    largest: Vec<(K, Tally)>,
    different: u64,
}

impl<K: Copy + Ord + Hash> Holders<K> {
    fn new(top: usize, passes: u64) -> Self {
        let (hasher, share, largest) = (RandomState::new(), HashMap::new(), Vec::new());
        Self { top, passes, hasher, share, largest, different: 0 }
    }

    fn add(&mut self, key: K, one: &One, pass: u64) {
        if self.passes == 1 || self.hasher.hash_one(key) % self.passes == pass {
            self.share.entry(key).or_default().add(one);
        }
    }

    /// The end of a pass.
    fn settle(&mut self) {
        self.different += self.share.len() as u64;
        self.largest.extend(self.share.drain());
        self.largest.sort_unstable_by_key(|(key, tally)| (Reverse(tally.sum()), *key));
        self.largest.truncate(self.top);
    }
}

impl Daemon {
    /// `half-open`.
    ///
    /// # Errors
    /// If the filter makes no sense, or the client left.
    pub fn half_open(&self, filter: &[String], top: usize, out: &mut dyn Outlet) -> Result<(), Refusal> {
        let engine = &self.shared.engine;
        let filter: Bound = Filter::parse(filter)?.bind(&engine.policy())?;
        let counters = engine.counters();
        let closing = counters
            .phases
            .iter()
            .filter(|(name, _)| [Phase::FinWait.name(), Phase::Closing.name()].contains(name));
        let most = counters.embryonic + closing.map(|(_, count)| count).sum::<u64>();
        let passes = most / PASS + 1;
        let limits = LimitTable::resolve(&engine.policy(), &engine.live());
        let mut found = Found::new(limits.global().source_prefix, top.min(MOST), passes);
        for pass in 0..passes {
            self.look_at_all(&mut |view| {
                if filter.matches(view) {
                    found.take(view, pass);
                }
                true
            });
            found.sources.settle();
            found.destinations.settle();
        }
        let [lately, since_start] = self.shared.observer.lock().handshakes(engine.handshakes(), self.now());
        let total = HalfOpenTotal {
            count: found.all,
            sources: found.sources.different,
            destinations: found.destinations.different,
            lately,
            since_start,
        };
        out.send(line(HalfOpenRow::Total(total)))?;
        for (place, count) in found.ages.into_iter().enumerate() {
            let end = |place: usize| AGES.get(place).copied().map(Duration::from_secs);
            let from = place.checked_sub(1).and_then(end).unwrap_or_default();
            out.send(line(HalfOpenRow::Age(AgeRow { from, to: end(place), count })))?;
        }
        holders(&found, &engine.policy(), &limits).into_iter().try_for_each(|row| out.send(line(row)))
    }
}

fn line(row: HalfOpenRow) -> Line {
    Line::HalfOpen(Box::new(row))
}

/// Rows of rules, sources and destinations, the largest first.
fn holders(found: &Found, policy: &Policy, limits: &LimitTable) -> Vec<HalfOpenRow> {
    let mut rules: Vec<_> = found.rules.iter().collect();
    rules.sort_by_key(|(rule, tally)| (Reverse(tally.sum()), **rule));
    let global = limits.global();
    let mut rows = Vec::new();
    for (rule, tally) in rules {
        let row = HolderRow { rule: Some(policy.name(*rule).to_owned()), ..tally.row() };
        let own = limits.of_rule(*rule);
        rows.push(HalfOpenRow::Rule(own.map_or(row.clone(), |own| with_limit(row, &own, Limit::Total))));
    }
    for (source, tally) in &found.sources.largest {
        let row = HolderRow { src: Some(source_text(*source, found.prefix)), ..tally.row() };
        rows.push(HalfOpenRow::Source(with_limit(row, &global, Limit::PerSource)));
    }
    for ((address, port), tally) in &found.destinations.largest {
        let row = HolderRow { dst: Some(address.to_string()), dport: Some(*port), ..tally.row() };
        rows.push(HalfOpenRow::Destination(with_limit(row, &global, Limit::PerDestination)));
    }
    rows
}

/// A row with its limit, and what that would answer.
fn with_limit(row: HolderRow, limits: &ResolvedLimits, limit: Limit) -> HolderRow {
    let value = limits.limit(limit).value;
    let held = row.count.syn_sent + row.count.syn_received;
    let is_reached = value.is_some_and(|most| held >= u64::from(most));
    HolderRow {
        limit: value,
        next: is_reached.then(|| limits.on_excess.name().to_owned()),
        shadow: is_reached && limits.shadow,
        ..row
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        conntrack::{Flow, Timer},
        engine::Counts,
        policy::{EmbryonicLimits, Live, OnExcess, Settings},
        wire::Protocol,
    };

    fn view(source: u32, port: u16, phase: Phase, age: u64) -> View {
        let fin = matches!(phase, Phase::FinWait | Phase::Closing).then(|| Duration::from_secs(age));
        View {
            flow: Flow {
                protocol: Protocol::TCP,
                src: std::net::Ipv4Addr::from_bits(source).into(),
                src_port: 4000,
                dst: [192, 0, 2, 7].into(),
                dst_port: port,
            },
            phase,
            rule: RuleId(1),
            age: Duration::from_secs(if fin.is_some() { 9999 } else { age }),
            idle: Duration::ZERO,
            expires_in: Duration::from_secs(1),
            timer: Timer::SynSent,
            original: Counts::default(),
            reply: Counts::default(),
            probes: 0,
            unacknowledged_fin: fin,
            forgotten_by: None,
            fast_path: false,
        }
    }

    fn found(views: &[View], top: usize, passes: u64) -> Found {
        let mut found = Found::new(SourcePrefix::default(), top, passes);
        for pass in 0..passes {
            for view in views {
                found.take(view, pass);
            }
            found.sources.settle();
            found.destinations.settle();
        }
        found
    }

    #[test]
    fn only_what_is_not_finished_counts_and_ages_are_told_apart() {
        let views = [
            view(1, 80, Phase::SynSent, 0),
            view(1, 80, Phase::SynReceived, 7),
            view(2, 81, Phase::FinWait, 40),
            view(2, 81, Phase::Closing, 3),
            view(3, 82, Phase::Established, 1),
            view(3, 82, Phase::HalfClosed, 1),
            view(3, 82, Phase::TimeWait, 1),
        ];
        let found = found(&views, 10, 1);
        let all = Unfinished { syn_sent: 1, syn_received: 1, unacknowledged_fins: 2 };
        assert_eq!((found.all, found.sources.different, found.destinations.different), (all, 2, 2));
        let places: Vec<usize> =
            (0..found.ages.len()).filter(|place| found.ages[*place] != Unfinished::default()).collect();
        assert_eq!(places, [0, 2, 3, 6], "under 1 s, from 2 s, from 5 s, from 30 s");
        let (_, tally) = found.sources.largest[1];
        assert_eq!(tally.oldest_fin, Some(Duration::from_secs(40)), "of a FIN, not of its connection");
        assert_eq!(tally.oldest, None);
    }

    #[test]
    fn many_holders_in_several_passes_are_counted_exactly_and_the_largest_kept() {
        let mut views = Vec::new();
        for source in 0..2000_u32 {
            for _ in 0..=source % 7 {
                views.push(view(source, 80, Phase::SynSent, 1));
            }
        }
        views.extend((0..50).map(|_| view(77_777, 80, Phase::SynReceived, 1)));
        let once = found(&views, 20, 1);
        let often = found(&views, 20, 9);
        assert_eq!(once.sources.largest, often.sources.largest);
        assert_eq!((once.sources.different, often.sources.different), (2001, 2001));
        assert_eq!(once.all, often.all);
        assert_eq!(once.sources.largest.len(), 20);
        assert_eq!(once.sources.largest[0].1.count.syn_received, 50);
        assert_eq!(often.destinations.largest[0].1.sum(), views.len() as u64);
    }

    #[test]
    fn a_limit_that_is_reached_says_what_comes_next_in_shadow_too() {
        let settings = Settings {
            limits: EmbryonicLimits {
                per_source: Some(2),
                on_excess: Some(OnExcess::Evict),
                shadow: true,
                ..EmbryonicLimits::default()
            },
            ..Settings::default()
        };
        let policy = Policy::new(settings, Vec::new(), Vec::new(), vec!["default".into(), "web".into()]);
        let views = [1, 1, 2].map(|source| view(source, 80, Phase::SynSent, 1));
        let rows = holders(&found(&views, 5, 1), &policy, &LimitTable::resolve(&policy, &Live::default()));
        let sources: Vec<_> = rows
            .iter()
            .filter_map(|row| if let HalfOpenRow::Source(row) = row { Some(row) } else { None })
            .map(|row| (row.src.as_deref().unwrap(), row.limit, row.next.as_deref(), row.shadow))
            .collect();
        assert_eq!(sources, [("0.0.0.1", Some(2), Some("evict"), true), ("0.0.0.2", Some(2), None, false)]);
    }
}
