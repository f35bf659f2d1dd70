//! The engine of a replay: on the capture's clock, with interfaces and hooks made
//! up from addresses, because a capture has none.

use std::{net::IpAddr, str::FromStr, sync::Arc, time::Duration};

use ipnet::IpNet;

use crate::{
    conntrack::{Fetch, Flow, Instant, Timer},
    engine::{Engine, Event, Existing, Foreseen, IfIndex, Meta, Verdict, Worker},
    policy::{Hook, NewFlow, Policy, RuleId},
    wire::Checksums,
};

/// Virtual time begins here, away from zero.
const START: u64 = 1_000_000;

/// Keys of the hashes; nobody attacks a replay.
const SEED: [u64; 2] = [0x6861_6c66, 0x6761_7465];

/// No timer is shorter, so what is new can't be over before.
const SHORTEST_TIMER: Duration = Duration::from_secs(1);

/// For so many connections the table is made.
const BUCKETS: u32 = 1 << 19;

/// Beyond the longest timer and this much more, a pause changes nothing any more.
const SLACK: Duration = Duration::from_secs(60);

/// An interface by name and the networks behind it; none: everything else.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Interface {
    name: String,
    networks: Vec<IpNet>,
}

impl FromStr for Interface {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, networks) = text.split_once('=').map_or((text, None), |(name, rest)| (name, Some(rest)));
        if name.is_empty() {
            return Err("write IF=NETWORK[,NETWORK...], or IF alone for everything else".to_owned());
        }
        let network = |word: &str| {
            let address = || word.parse::<IpAddr>().map(IpNet::from);
            word.parse::<IpNet>()
                .or_else(|_| address())
                .map_err(|_| format!("`{word}` is no network; write it like 192.168.10.0/24 or fd00::/64"))
        };
        let networks = networks.map_or_else(|| Ok(Vec::new()), |list| list.split(',').map(network).collect());
        Ok(Self { name: name.to_owned(), networks: networks? })
    }
}

/// Where packets come in and go out.
#[derive(Clone, Debug, Default)]
pub(super) struct Paths {
    pub(super) interfaces: Vec<Interface>,
    /// The gateway's own addresses.
    pub(super) gateway: Vec<IpAddr>,
}

impl Paths {
    /// The interface behind which an address lies: of the longest network.
    fn index(&self, address: IpAddr) -> IfIndex {
        let behind = |interface: &Interface| match interface.networks.as_slice() {
            [] => Some(0),
            some => some
                .iter()
                .filter(|network| network.contains(&address))
                .map(|network| u16::from(network.prefix_len()) + 1)
                .max(),
        };
        let known = (1..).map(IfIndex).zip(&self.interfaces);
        let best = known.filter_map(|(index, interface)| Some((behind(interface)?, index)));
        best.max_by_key(|(length, _)| *length).map_or(IfIndex(0), |(_, index)| index)
    }

    fn name(&self, index: IfIndex) -> Option<&str> {
        let at = usize::try_from(index.0).ok()?.checked_sub(1)?;
        self.interfaces.get(at).map(|interface| interface.name.as_str())
    }

    /// The hook of a packet, and its interfaces.
    pub(super) fn path(&self, src: IpAddr, dst: IpAddr) -> (Hook, IfIndex, IfIndex) {
        let none = IfIndex(0);
        if !self.gateway.is_empty() {
            if self.gateway.contains(&dst) {
                return (Hook::Input, self.index(src), none);
            }
            if self.gateway.contains(&src) {
                return (Hook::Output, none, self.index(dst));
            }
        }
        if self.interfaces.is_empty() {
            return (Hook::Forward, none, none);
        }
        (Hook::Forward, self.index(src), self.index(dst))
    }
}

/// The capture's clock as the engine's: it never goes back, and a pause is no
/// longer than any timer needs (a broken time stamp may lie decades ahead).
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    last: Option<u64>,
    now: u64,
    longest_pause: u64,
}

impl Clock {
    /// A clock for these rule sets.
    pub(super) fn new(sides: &[Side]) -> Self {
        let longest = sides.iter().map(Side::longest_timer).max().unwrap_or_default();
        let longest_pause = u64::try_from((longest + SLACK).as_millis()).unwrap_or(u64::MAX);
        Self { last: None, now: 0, longest_pause }
    }

    /// Moves to a time of the capture.
    pub(super) fn at(&mut self, milliseconds: Option<u64>) -> Instant {
        if let Some(time) = milliseconds {
            let before = self.last.unwrap_or(time);
            self.now += time.saturating_sub(before).min(self.longest_pause);
            self.last = Some(before.max(time));
        }
        Instant(START + self.now)
    }
}

/// One rule set's engine.
pub(super) struct Side {
    engine: Arc<Engine>,
    worker: Worker,
    /// Before this nothing can be due.
    look_again: Instant,
}

impl Side {
    pub(super) fn new(policy: Policy, paths: &Paths) -> Self {
        // A table for many is slow for few, and takes more in the end.
        let mut first = policy.clone();
        first.settings.max_connections = first.settings.max_connections.min(BUCKETS);
        let engine = Engine::new(first, SEED, Instant(START));
        let named: Vec<_> =
            (1..).map(IfIndex).zip(paths.interfaces.iter().map(|interface| interface.name.clone())).collect();
        engine.set_interfaces(&named);
        let mut worker = engine.worker();
        worker.allow_loopback();
        engine.install(policy, Existing::Keep, &mut worker, Instant(START));
        Self { engine, worker, look_again: Instant(START) }
    }

    pub(super) fn policy(&self) -> Arc<Policy> {
        self.engine.policy()
    }

    /// The longest value of any timer of any rule.
    fn longest_timer(&self) -> Duration {
        let policy = self.policy();
        let rules = policy.rules.iter().map(|rule| rule.id).chain([RuleId::DEFAULT]);
        rules
            .flat_map(|rule| Timer::ALL.map(|timer| self.engine.timer_value(rule, timer).0))
            .flatten()
            .max()
            .unwrap_or_default()
    }

    /// Lets every timer fire that is due by `now`, each at its time. Returns
    /// whether anything was looked at.
    pub(super) fn advance(&mut self, now: Instant) -> bool {
        if now < self.look_again {
            return false;
        }
        let mut last = None;
        let due = loop {
            let due = self.worker.poll_timeout();
            let Some(at) = due.filter(|at| *at <= now && Some(*at) != last) else { break due };
            while self.worker.handle_timeout(at) {}
            last = Some(at);
        };
        while self.worker.handle_timeout(now) {}
        let soon = now.after(SHORTEST_TIMER);
        self.look_again = due.filter(|at| *at > now).map_or(soon, |at| at.min(soon));
        true
    }

    pub(super) fn judge(&mut self, meta: &Meta, bytes: &[u8], now: Instant) -> Verdict {
        let verdict = self.worker.handle_packet(meta, bytes, now);
        // A replay sends nothing.
        while self.worker.poll_transmit().is_some() {}
        verdict
    }

    /// Where a flow's connection is looked for: in the same place of every rule set's table.
    pub(super) fn foresee(&self, flow: &Flow) -> Option<Foreseen> {
        self.worker.foresee(flow)
    }

    pub(super) fn fetch_place(&self, foreseen: &Foreseen, with: &impl Fetch) {
        self.worker.fetch_place(foreseen, with);
    }

    pub(super) fn fetch(&self, foreseen: &Foreseen, with: &impl Fetch) {
        self.worker.fetch(foreseen, with);
    }

    pub(super) fn event(&mut self) -> Option<Event> {
        self.worker.poll_event()
    }

    /// The rule that a first packet meets.
    pub(super) fn rule(&self, paths: &Paths, flow: &Flow) -> String {
        let policy = self.policy();
        let (hook, in_if, out_if) = paths.path(flow.src, flow.dst);
        let new = NewFlow {
            hook,
            from_zones: policy.zones_of(paths.name(in_if), flow.src),
            to_zones: policy.zones_of(paths.name(out_if), flow.dst),
            src: flow.src,
            dst: flow.dst,
            protocol: flow.protocol,
            src_port: flow.src_port,
            dst_port: flow.dst_port,
            icmp: None,
        };
        policy.name(policy.first_match(&new).map_or(RuleId::DEFAULT, |rule| rule.id)).to_owned()
    }
}

/// What the engine is told about a packet.
pub(super) fn meta(
    paths: &Paths,
    ends: Option<(IpAddr, IpAddr)>,
    wire_len: u32,
    checksums: Checksums,
) -> Meta {
    let none = IfIndex(0);
    let (hook, in_if, out_if) = ends.map_or((Hook::Forward, none, none), |(src, dst)| paths.path(src, dst));
    Meta {
        hook,
        in_if,
        out_if,
        wire_len,
        checksums,
        kernel_knows: false,
        is_invalid: false,
        candidacy: None,
        parent: None,
        renumbered: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_network_is_the_way() {
        let interfaces =
            ["lan=10.0.0.0/8,fd00::/8", "dmz=10.1.0.0/16", "wan"].map(|text| text.parse().unwrap());
        let paths = Paths { interfaces: interfaces.to_vec(), gateway: vec!["10.0.0.1".parse().unwrap()] };
        let path = |src: &str, dst: &str| paths.path(src.parse().unwrap(), dst.parse().unwrap());
        let [none, lan, dmz, wan] = [0, 1, 2, 3].map(IfIndex);
        assert_eq!(path("10.2.0.1", "10.1.0.1"), (Hook::Forward, lan, dmz));
        assert_eq!(path("192.0.2.1", "fd00::1"), (Hook::Forward, wan, lan));
        assert_eq!(path("192.0.2.1", "10.0.0.1"), (Hook::Input, wan, none));
        assert_eq!(path("10.0.0.1", "10.1.0.1"), (Hook::Output, none, dmz));
        assert_eq!(paths.name(dmz), Some("dmz"));
        for bad in ["", "=10.0.0.0/8", "lan=", "lan=10.0.0.0/33", "lan=host"] {
            assert!(bad.parse::<Interface>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_clock_never_goes_back_and_skips_what_no_timer_outlasts() {
        let mut clock = Clock { last: None, now: 0, longest_pause: 10_000 };
        assert_eq!(clock.at(Some(5_000)), Instant(START));
        assert_eq!(clock.at(Some(6_500)), Instant(START + 1_500));
        assert_eq!(clock.at(Some(6_000)), Instant(START + 1_500));
        assert_eq!(clock.at(None), Instant(START + 1_500));
        assert_eq!(clock.at(Some(6_600)), Instant(START + 1_600));
        assert_eq!(clock.at(Some(u64::MAX)), Instant(START + 1_600 + 10_000));
    }
}
