//! How many half-open connections there were, for who has to set a limit.
//!
//! Every second the peaks of [`crate::conntrack::Embryonic::take_peaks`] go into
//! histograms, one for each rule (and one for the rule set), scope and hour; the last
//! [`HOURS`] hours are kept. A bin is exact up to 15 and an eighth of its value wide
//! beyond, and is told by its upper end. With [`GROUPS`] groups that takes 10 MiB at
//! most; what belongs to further rules is not looked at, and counted.

use std::collections::{BTreeMap, VecDeque};

use crate::{
    conntrack::{Instant, embryonic::Peaks},
    policy::Limit,
};

/// Hours that are looked back.
pub const HOURS: usize = 24;

/// Rules that are looked at, the rule set included.
pub const GROUPS: usize = 256;

const HOUR: u64 = 3_600_000;

/// Values that have a bin of their own.
const EXACT: u32 = 16;

/// Bins: the exact ones, and eight for each further power of two.
const BINS: usize = EXACT as usize + 28 * 8;

/// The most of an hour, and how often each second's peak was what.
#[derive(Clone, Debug)]
struct Hour {
    number: u64,
    bins: Box<[u16; BINS]>,
    peak: u32,
    peak_at: Instant,
}

/// What was seen of one limit's scope.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Observed {
    /// Seconds that were looked at.
    pub samples: u32,
    /// Seconds in which a new half-open connection came.
    pub busy: u32,
    /// In 99 of 100 seconds there were no more than that.
    pub p99: u32,
    /// The most there were.
    pub peak: u32,
    /// When that was.
    pub peak_at: Instant,
}

/// A value for a limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Suggestion {
    /// The value.
    pub value: u32,
    /// The peak was left out of it: it is far beyond what is usual, as an attack's is.
    pub peak_left_out: bool,
}

/// All that was seen.
#[derive(Debug, Default)]
pub struct Demand {
    groups: BTreeMap<u16, [VecDeque<Hour>; Limit::EMBRYONIC.len()]>,
    /// Seconds looked at, by hour.
    seconds: VecDeque<(u64, u32)>,
    not_looked_at: u64,
}

impl Demand {
    /// Octets that all of it ever takes.
    pub const MOST_OCTETS: usize = {
        let hour = size_of::<Hour>().saturating_add(size_of::<[u16; BINS]>());
        let of_one = hour.saturating_mul(HOURS.saturating_add(2)).saturating_mul(2);
        of_one.saturating_mul(Limit::EMBRYONIC.len()).saturating_mul(GROUPS)
    };

    /// Takes the peaks of a second; also an empty second must be told of.
    pub fn note(&mut self, peaks: &[(u16, Peaks)], now: Instant) {
        let number = now.0.checked_div(HOUR).unwrap_or(0);
        match self.seconds.back_mut() {
            Some((hour, seconds)) if *hour == number => *seconds = seconds.saturating_add(1),
            Some(_) | None => self.seconds.push_back((number, 1)),
        }
        while self.seconds.front().is_some_and(|(hour, _)| is_past(*hour, number)) {
            self.seconds.pop_front();
        }
        for (group, peaks) in peaks {
            if !self.groups.contains_key(group) && self.groups.len() >= GROUPS {
                self.not_looked_at = self.not_looked_at.saturating_add(1);
                continue;
            }
            let hours = self.groups.entry(*group).or_default();
            for (hours, peak) in hours.iter_mut().zip([peaks.total, peaks.source, peaks.destination]) {
                note_in(hours, number, peak, now);
            }
        }
    }

    /// What was seen in the hour that runs and so many before it.
    #[must_use]
    pub fn observed(&self, group: u16, limit: Limit, hours: usize, now: Instant) -> Observed {
        let number = now.0.checked_div(HOUR).unwrap_or(0);
        let first = number.saturating_sub(u64::try_from(hours).unwrap_or(u64::MAX));
        let seconds = self.seconds.iter().filter(|(hour, _)| *hour >= first);
        let samples = seconds.fold(0_u32, |sum, (_, seconds)| sum.saturating_add(*seconds));
        let none = VecDeque::new();
        let hours = self.groups.get(&group).and_then(|limits| limits.get(limit as usize)).unwrap_or(&none);
        let mut bins = [0_u32; BINS];
        let mut observed = Observed { samples, ..Observed::default() };
        for hour in hours.iter().filter(|hour| hour.number >= first) {
            for (bin, count) in bins.iter_mut().zip(hour.bins.iter()) {
                *bin = bin.saturating_add(u32::from(*count));
            }
            if hour.peak > observed.peak {
                (observed.peak, observed.peak_at) = (hour.peak, hour.peak_at);
            }
        }
        observed.busy = bins.iter().fold(0, |sum, count| sum.saturating_add(*count));
        observed.p99 = percentile(&bins, observed.busy, samples).min(observed.peak);
        observed
    }

    /// The groups of which anything is known.
    pub fn groups(&self) -> impl Iterator<Item = u16> {
        self.groups.keys().copied()
    }

    /// How often a rule was not looked at because there were too many.
    #[must_use]
    pub const fn not_looked_at(&self) -> u64 {
        self.not_looked_at
    }
}

fn is_past(hour: u64, now: u64) -> bool {
    now.saturating_sub(hour) > HOURS as u64
}

fn note_in(hours: &mut VecDeque<Hour>, number: u64, peak: u32, now: Instant) {
    if peak == 0 {
        return;
    }
    if hours.back().is_none_or(|hour| hour.number != number) {
        hours.push_back(Hour { number, bins: Box::new([0; BINS]), peak: 0, peak_at: now });
        while hours.front().is_some_and(|hour| is_past(hour.number, number)) {
            hours.pop_front();
        }
    }
    let Some(hour) = hours.back_mut() else { return };
    if let Some(bin) = hour.bins.get_mut(bin_of(peak)) {
        *bin = bin.saturating_add(1);
    }
    if peak > hour.peak {
        (hour.peak, hour.peak_at) = (peak, now);
    }
}

/// What 99 of 100 samples do not pass, those of which no bin knows being zero.
fn percentile(bins: &[u32; BINS], busy: u32, samples: u32) -> u32 {
    let samples = u64::from(samples.max(busy));
    let allowed_above = samples.checked_div(100).unwrap_or(0);
    let mut above = 0_u64;
    for (bin, count) in bins.iter().enumerate().rev() {
        above = above.saturating_add(u64::from(*count));
        if above > allowed_above {
            return upper_end(bin);
        }
    }
    0
}

fn bin_of(value: u32) -> usize {
    if value < EXACT {
        return value as usize;
    }
    // At least 4, so that three bits follow the highest.
    let octave = value.ilog2();
    let eighth = value.wrapping_shr(octave.saturating_sub(3)) & 7;
    (EXACT.saturating_add(octave.saturating_sub(4).saturating_mul(8)).saturating_add(eighth)) as usize
}

/// The largest value of a bin.
fn upper_end(bin: usize) -> u32 {
    let bin = u32::try_from(bin).unwrap_or(u32::MAX);
    let Some(beyond) = bin.checked_sub(EXACT) else { return bin };
    let (octave, eighth) = ((beyond >> 3).saturating_add(4), u64::from(beyond & 7));
    let end = (eighth.saturating_add(9)) << octave.saturating_sub(3).min(40);
    u32::try_from(end.saturating_sub(1)).unwrap_or(u32::MAX)
}

/// How far beyond the usual a peak is taken for an attack's.
const BURST: u32 = 4;

impl Suggestion {
    /// A limit for what was seen: twice what 99 of 100 seconds needed, and a quarter
    /// more than the peak; but a peak of more than four times that 99th percentile, and
    /// beyond the least sensible value, is left out and must be looked at. Never below
    /// the least sensible value of that scope, and rounded up.
    #[must_use]
    pub fn of(observed: &Observed, limit: Limit) -> Self {
        let least = least(limit);
        let usual = observed.p99.saturating_mul(2);
        let peak_left_out = observed.peak > observed.p99.saturating_mul(BURST) && observed.peak > least;
        let needed = if peak_left_out {
            observed.p99.saturating_mul(BURST)
        } else {
            usual.max(observed.peak.saturating_add(observed.peak / 4))
        };
        Self { value: round_up(needed.max(least)), peak_left_out }
    }
}

/// What an honest client, server or network may need at once: a browser opens some
/// connections to each of many names behind one address, and networks share addresses.
const fn least(limit: Limit) -> u32 {
    match limit {
        Limit::Total | Limit::OpenTotal => 200,
        Limit::PerSource | Limit::OpenPerSource => 20,
        Limit::PerDestination | Limit::OpenPerDestination => 100,
    }
}

/// Two figures, the second a 0 or 5.
fn round_up(value: u32) -> u32 {
    let mut step = 5_u32;
    while value.checked_div(step).is_some_and(|figures| figures >= 20) {
        step = step.saturating_mul(10);
    }
    value.checked_next_multiple_of(step).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peaks(total: u32, source: u32) -> Peaks {
        Peaks { total, source, destination: total }
    }

    #[test]
    fn every_value_lies_in_its_bin_and_bins_are_an_eighth_wide() {
        let mut last = 0;
        for value in (0..100_000).chain([1 << 20, (1 << 31) + 7, u32::MAX - 1, u32::MAX]) {
            let bin = bin_of(value);
            assert!(bin < BINS && bin >= last, "{value}");
            last = bin;
            let end = upper_end(bin);
            assert!(end >= value && u64::from(end - value) * 8 <= u64::from(value.max(8)), "{value}: {end}");
            assert_eq!(bin_of(end), bin, "{value}");
        }
    }

    #[test]
    fn p99_and_peak_are_those_of_the_seconds() {
        let mut demand = Demand::default();
        for second in 0..1000_u64 {
            let now = Instant(second * 1000);
            match second {
                // One second in a hundred is above 12, and one of those is the peak.
                700 => demand.note(&[(0, peaks(900, 3))], now),
                s if s % 100 == 1 && s < 901 => demand.note(&[(0, peaks(14, 2))], now),
                s if s % 2 == 0 => demand.note(&[(0, peaks(12, 1)), (7, peaks(5, 5))], now),
                _ => demand.note(&[], now),
            }
        }
        let now = Instant(1_000_000);
        let seen = demand.observed(0, Limit::Total, 1, now);
        assert_eq!((seen.samples, seen.busy), (1000, 509));
        assert_eq!((seen.p99, seen.peak, seen.peak_at), (12, 900, Instant(700_000)));
        assert_eq!(demand.observed(0, Limit::PerSource, 1, now).peak, 3);
        assert_eq!(demand.observed(7, Limit::PerSource, 1, now).p99, 5);
        assert_eq!(demand.observed(9, Limit::Total, 1, now).peak, 0, "a rule of which nothing is known");
        assert_eq!(demand.groups().collect::<Vec<_>>(), [0, 7]);
    }

    #[test]
    fn a_day_is_looked_back_and_no_longer() {
        let mut demand = Demand::default();
        for minute in 0..60 * 100_u64 {
            let total = if minute < 60 { 5000 } else { 10 };
            demand.note(&[(0, peaks(total, 1))], Instant(minute * 60_000));
        }
        let now = Instant(60 * 100 * 60_000 - 1);
        let day = demand.observed(0, Limit::Total, HOURS, now);
        assert_eq!(day.peak, 10, "what was four days ago is forgotten");
        assert_eq!(day.samples, 25 * 60);
        assert_eq!(demand.observed(0, Limit::Total, 1, now).samples, 2 * 60);
        assert!(demand.groups[&0].iter().all(|hours| hours.len() <= HOURS + 1));
    }

    #[test]
    fn memory_has_a_bound_however_many_rules_there_are() {
        let mut demand = Demand::default();
        let all: Vec<(u16, Peaks)> = (0..1000).map(|group| (group, peaks(3, 1))).collect();
        demand.note(&all, Instant(0));
        assert_eq!((demand.groups.len(), demand.not_looked_at()), (GROUPS, 744));
        let hour = size_of::<Hour>() + size_of::<[u16; BINS]>();
        assert!(GROUPS * Limit::EMBRYONIC.len() * (HOURS + 1) * hour < 11 << 20);
    }

    #[test]
    fn suggestions_hold_what_is_usual_and_leave_out_what_is_not() {
        let of = |p99, peak, limit| {
            let suggestion = Suggestion::of(&Observed { p99, peak, ..Observed::default() }, limit);
            (suggestion.value, suggestion.peak_left_out)
        };
        assert_eq!(of(0, 0, Limit::PerSource), (20, false), "nothing seen: the least");
        assert_eq!(of(30, 35, Limit::PerSource), (60, false), "twice the usual");
        assert_eq!(of(30, 100, Limit::PerSource), (150, false), "125, rounded up");
        assert_eq!(of(30, 60_000, Limit::PerSource), (150, true), "an attack, most likely: 4 times 30");
        assert_eq!(of(1, 15, Limit::PerSource), (20, false), "small numbers are no attack");
        assert_eq!(of(0, 50_000, Limit::Total), (200, true));
        assert_eq!(of(1234, 1500, Limit::Total), (2500, false));
    }

    #[test]
    fn values_are_rounded_up_to_two_figures() {
        for (value, rounded) in [(20, 20), (21, 25), (96, 100), (101, 150), (1234, 1500), (2468, 2500)] {
            assert_eq!(round_up(value), rounded, "{value}");
        }
    }
}
