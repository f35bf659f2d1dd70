//! Handshakes that are under way when the kernel begins to answer the SYNs of their
//! destination. conntrack knows them, and would not bring a client's acknowledgement of a
//! cookie to whom has given it: so their SYNs, sent again, go to the server like the first.
//!
//! Here it is known which of them the kernel has been told, and for how long.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    time::Duration,
};

use crate::{
    conntrack::{Flow, Instant, Phase, Timer},
    engine::{Engine, UnderWay},
    policy::RuleId,
    sys::table::MOST_UNDER_WAY,
};

/// A client does not send its SYN again for longer: the last of Linux' six comes after 63
/// seconds, and it gives up after 127.
const LONGEST: Duration = Duration::from_secs(130);

/// One whose time is nearly over may be gone in the kernel when it is told.
const CLOSE_TO_ITS_END: Duration = Duration::from_secs(1);

/// A handshake, and how long the kernel is to know it.
type Told = (Flow, Duration);

/// Handshakes of which the kernel was told, until when.
#[derive(Debug, Default)]
pub(super) struct Handshakes(HashMap<Flow, Instant>);

impl Handshakes {
    /// Those to these destinations, as old as `least`, of which the kernel is still to be told.
    pub(super) fn found(
        &self,
        engine: &Engine,
        places: &BTreeSet<(IpAddr, u16)>,
        least: Duration,
        now: Instant,
    ) -> Vec<Told> {
        let found = engine.under_way_to(places, least, now, MOST_UNDER_WAY as usize);
        self.untold(&found, now, |rule, timer| engine.timer_value(rule, timer).0)
    }

    fn untold(
        &self,
        found: &[UnderWay],
        now: Instant,
        value: impl Fn(RuleId, Timer) -> Option<Duration>,
    ) -> Vec<Told> {
        let told = self.0.values().filter(|until| now < **until).count();
        let room = (MOST_UNDER_WAY as usize).saturating_sub(told);
        let is_untold = |one: &&UnderWay| self.0.get(&one.flow).is_none_or(|until| *until <= now);
        let open_for = |one: &UnderWay| {
            let timer = |timer| value(one.rule, timer).unwrap_or(LONGEST);
            let received = timer(Timer::SynReceived);
            let sent = if one.phase == Phase::SynSent { timer(Timer::SynSent) } else { Duration::ZERO };
            received.saturating_add(sent).min(LONGEST)
        };
        found.iter().filter(is_untold).map(|one| (one.flow, open_for(one))).take(room).collect()
    }

    /// The kernel was told.
    pub(super) fn note(&mut self, told: &[Told], now: Instant) {
        self.0.retain(|_, until| now < *until);
        self.0.extend(told.iter().map(|(flow, time)| (*flow, now.after(*time))));
    }

    /// Those that are over, and that the kernel still knows.
    pub(super) fn over(&self, is_open: impl Fn(&Flow) -> bool, now: Instant) -> Vec<Flow> {
        let stays = |until: &Instant| now.after(CLOSE_TO_ITS_END) < *until;
        let over = self.0.iter().filter(|(flow, until)| stays(until) && !is_open(flow));
        over.map(|(flow, _)| *flow).collect()
    }

    /// The kernel knows these no more, or not for long.
    pub(super) fn forget(&mut self, over: &[Flow]) {
        for flow in over {
            self.0.remove(flow);
        }
    }

    /// What the kernel must be told again, whose sets are empty.
    pub(super) fn all(&self, now: Instant) -> Vec<Told> {
        let rest = |(flow, until): (&Flow, &Instant)| (now < *until).then(|| (*flow, until.since(now)));
        self.0.iter().filter_map(rest).collect()
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn under_way(number: u32, phase: Phase) -> UnderWay {
        let src = std::net::Ipv4Addr::from(0x0a00_0000 | number).into();
        let flow = Flow { src, ..Flow::tcp("10.0.0.0", 4000, "192.0.2.1", 80) };
        UnderWay { flow, phase, rule: RuleId::DEFAULT, age: Duration::ZERO }
    }

    fn ten_and_thirty(_: RuleId, timer: Timer) -> Option<Duration> {
        Some(Duration::from_secs(if timer == Timer::SynSent { 10 } else { 30 }))
    }

    #[test]
    fn the_kernel_is_told_once_of_each_and_for_as_long_as_it_can_be_open() {
        let mut handshakes = Handshakes::default();
        let mut found = vec![under_way(1, Phase::SynSent), under_way(2, Phase::SynReceived)];
        let told = handshakes.untold(&found, Instant(0), ten_and_thirty);
        let seconds = |told: &[Told]| told.iter().map(|(_, time)| time.as_secs()).collect::<Vec<_>>();
        assert_eq!(seconds(&told), [40, 30]);
        handshakes.note(&told, Instant(0));
        // Another came meanwhile.
        found.push(under_way(3, Phase::SynSent));
        let told = handshakes.untold(&found, Instant(1000), ten_and_thirty);
        assert_eq!(told, [(found[2].flow, Duration::from_secs(40))]);
        handshakes.note(&told, Instant(1000));
        let mut rest = seconds(&handshakes.all(Instant(20_000)));
        rest.sort_unstable();
        assert_eq!(rest, [10, 20, 21]);
        // The time of one is over.
        let told = handshakes.untold(&found, Instant(30_000), ten_and_thirty);
        assert_eq!(told, [(found[1].flow, Duration::from_secs(30))]);
        // A timer that is off.
        let told = Handshakes::default().untold(&found, Instant(0), |_, _| None);
        assert_eq!(seconds(&told), [LONGEST.as_secs(); 3]);
    }

    #[test]
    fn those_that_are_over_make_room_while_the_kernel_surely_knows_them() {
        let mut handshakes = Handshakes::default();
        let found = [1, 2].map(|number| under_way(number, Phase::SynReceived));
        let told = handshakes.untold(&found, Instant(0), ten_and_thirty);
        handshakes.note(&told, Instant(0));
        let is_first = |flow: &Flow| *flow == found[0].flow;
        assert_eq!(handshakes.over(|_| true, Instant(0)), []);
        assert_eq!(handshakes.over(is_first, Instant(28_999)), [found[1].flow]);
        assert_eq!(handshakes.over(is_first, Instant(29_000)), []);
        handshakes.forget(&[found[1].flow]);
        assert_eq!(handshakes.over(|_| false, Instant(0)), [found[0].flow]);
    }

    #[test]
    fn no_more_are_told_than_the_sets_have_room_for() {
        let mut handshakes = Handshakes::default();
        let most = MOST_UNDER_WAY as usize;
        let found: Vec<_> = (0..MOST_UNDER_WAY + 5).map(|one| under_way(one, Phase::SynReceived)).collect();
        let told = handshakes.untold(&found, Instant(0), ten_and_thirty);
        assert_eq!(told.len(), most);
        handshakes.note(&told, Instant(0));
        assert_eq!(handshakes.untold(&found, Instant(29_999), ten_and_thirty), []);
        assert_eq!(handshakes.untold(&found, Instant(30_000), ten_and_thirty).len(), most);
    }
}
