//! Finding the first rule that matches, however many there are.
//!
//! A rule asks three things of a connection's first packet: who it is from, to
//! whom, and for what. For each of the three the classifier knows, by one search
//! ([`Ranges`]), the set of all rules that are content with the packet; the first
//! rule in all three sets is the answer. (Lakshman and Stiliadis, SIGCOMM 1998;
//! the two levels of the sets after Baboescu and Varghese, SIGCOMM 2001.)
//!
//! Sets of rules are bits, 64 to a word, in 64 groups of words. A set keeps which
//! of its groups hold anything, and those only: rules that ask for one address are
//! few in each set, and a set of ten thousand rules is searched by looking at one
//! word of groups, then at the few groups that all three sets share. However
//! unfortunate the rules, no more is looked at than all words of the sets, which is
//! what bounds the time.
//!
//! An end is more than an address: it is also in zones, and may be the gateway.
//! Each of these is a reason to be content or not, in a set of its own, and they
//! are joined as they are read; `Rule::matches` is the definition.
//!
//! Memory: 64 octets for each 7 places where an IPv4 network begins or ends (IPv6:
//! 192), and for each different set of rules that an address or a service can be
//! of interest to, 16 octets and its groups, of an octet for every 512 rules each.

mod build;

use std::net::IpAddr;

use super::{Hook, NewFlow, ranges::Ranges};

/// A set of rules that takes no place: nothing is in it.
const NOBODY: u32 = 0;

/// All rules, in a form that is searched.
#[derive(Clone, Debug)]
pub(super) struct Classifier {
    from: End,
    to: End,
    any_service: Everyone,
    services: Ranges<u32>,
    sets: Sets,
}

/// Who may be at one end.
#[derive(Clone, Debug)]
struct End {
    anyone: Everyone,
    ipv4: Ranges<u32>,
    ipv6: Ranges<u128>,
    /// By zone.
    zones: Vec<u32>,
    /// Zones that any rule names at this end.
    named: u64,
    gateway: u32,
}

/// The rules that ask nothing, every word of them, and which groups hold any.
#[derive(Clone, Debug)]
struct Everyone {
    groups: u64,
    words: Box<[u64]>,
}

/// Pairs of sets of rules: those for which something is a reason to match, and
/// those for which it is a reason not to (`not X`). A pair is the groups of the one
/// and of the other, then the words of both.
#[derive(Clone, Debug)]
struct Sets {
    /// Words in a group.
    width: usize,
    words: Vec<u64>,
    /// There were more sets than are kept: some are missing.
    is_too_large: bool,
}

/// One pair.
#[derive(Clone, Copy)]
struct Pair<'c> {
    with: u64,
    without: u64,
    words: &'c [u64],
}

/// What is known of one end of a packet.
struct Known<'c> {
    end: &'c End,
    address: Pair<'c>,
    gateway: Pair<'c>,
    zones: u64,
}

impl Classifier {
    /// Where the first rule stands that matches.
    pub(super) fn first(&self, flow: &NewFlow) -> Option<usize> {
        let mut first = None;
        self.visit(flow, |at| {
            first = Some(at);
            true
        });
        first
    }

    /// Tells where each rule stands that matches, in order, until `is_enough`.
    pub(super) fn visit(&self, flow: &NewFlow, mut is_enough: impl FnMut(usize) -> bool) {
        let from = self.known(&self.from, flow.src, flow.from_zones.0, flow.hook == Hook::Output);
        let to = self.known(&self.to, flow.dst, flow.to_zones.0, flow.hook == Hook::Input);
        let service = self.sets.pair(self.services.find(service_key(flow)));
        let any_service = &self.any_service;
        let mut groups = (any_service.groups | service.with) & self.groups(&from) & self.groups(&to);
        while groups != 0 {
            let group = groups.trailing_zeros();
            groups &= groups.wrapping_sub(1);
            for place in 0..self.sets.width {
                let at = self.sets.at(group, place);
                let mut rules = any_service.word(at) | self.sets.with(service, group, place);
                for end in [&from, &to] {
                    if rules != 0 {
                        rules &= self.word(end, group, place);
                    }
                }
                while rules != 0 {
                    let bit = usize::try_from(rules.trailing_zeros()).unwrap_or(0);
                    if is_enough(at.saturating_mul(64).saturating_add(bit)) {
                        return;
                    }
                    rules &= rules.wrapping_sub(1);
                }
            }
        }
    }

    /// Octets of memory that it takes.
    pub(super) fn bytes(&self) -> usize {
        let end = |end: &End| {
            let sets = size_of_val(&*end.anyone.words).saturating_add(size_of_val(&*end.zones));
            end.ipv4.bytes().saturating_add(end.ipv6.bytes()).saturating_add(sets)
        };
        let services = self.services.bytes().saturating_add(size_of_val(&*self.any_service.words));
        let sets = size_of_val(&*self.sets.words);
        [end(&self.from), end(&self.to), services, sets].into_iter().fold(0, usize::saturating_add)
    }

    /// Whether its sets would have taken more memory than it may: it is of no use then.
    pub(super) const fn is_too_large(&self) -> bool {
        self.sets.is_too_large
    }

    fn known<'c>(&'c self, end: &'c End, address: IpAddr, zones: u64, is_gateway: bool) -> Known<'c> {
        let address = match address {
            IpAddr::V4(address) => end.ipv4.find(u32::from(address)),
            IpAddr::V6(address) => end.ipv6.find(u128::from(address)),
        };
        Known {
            end,
            address: self.sets.pair(address),
            gateway: self.sets.pair(if is_gateway { end.gateway } else { NOBODY }),
            zones: zones & end.named,
        }
    }

    /// The groups that may hold a rule which is content with an end.
    fn groups(&self, known: &Known<'_>) -> u64 {
        let named = known.end.anyone.groups | known.address.with | known.gateway.with;
        self.zones(known).fold(named, |groups, zone| groups | zone.with)
    }

    /// A word of the rules that are content with an end.
    fn word(&self, known: &Known<'_>, group: u32, place: usize) -> u64 {
        let sets = &self.sets;
        let mut with = known.end.anyone.word(sets.at(group, place));
        let mut without = 0;
        for pair in [known.address, known.gateway].into_iter().chain(self.zones(known)) {
            with |= sets.with(pair, group, place);
            without |= sets.without(pair, group, place);
        }
        with & !without
    }

    fn zones<'c>(&'c self, known: &Known<'c>) -> impl Iterator<Item = Pair<'c>> + use<'c> {
        let (end, mut zones) = (known.end, known.zones);
        std::iter::from_fn(move || {
            let zone = usize::try_from(zones.trailing_zeros()).ok().filter(|_| zones != 0)?;
            zones &= zones.wrapping_sub(1);
            Some(self.sets.pair(end.zones.get(zone).copied().unwrap_or(NOBODY)))
        })
    }
}

impl Everyone {
    fn word(&self, at: usize) -> u64 {
        self.words.get(at).copied().unwrap_or(0)
    }
}

impl Sets {
    /// Where a word of a group lies in a set that keeps all of them.
    const fn at(&self, group: u32, place: usize) -> usize {
        (group as usize).saturating_mul(self.width).saturating_add(place)
    }

    fn pair(&self, at: u32) -> Pair<'_> {
        let words = usize::try_from(at).ok().and_then(|at| self.words.get(at..)).unwrap_or(&[]);
        match words {
            [with, without, words @ ..] => Pair { with: *with, without: *without, words },
            _ => Pair { with: 0, without: 0, words: &[] },
        }
    }

    fn with(&self, pair: Pair<'_>, group: u32, place: usize) -> u64 {
        self.one(pair, pair.with, 0, group, place)
    }

    fn without(&self, pair: Pair<'_>, group: u32, place: usize) -> u64 {
        self.one(pair, pair.without, pair.with.count_ones(), group, place)
    }

    /// A word of a set with these groups, which stand behind `skipped` others.
    fn one(&self, pair: Pair<'_>, groups: u64, skipped: u32, group: u32, place: usize) -> u64 {
        let bit = 1_u64.wrapping_shl(group);
        if groups & bit == 0 {
            return 0;
        }
        let before = (groups & bit.wrapping_sub(1)).count_ones().saturating_add(skipped);
        pair.words.get(self.at(before, place)).copied().unwrap_or(0)
    }
}

/// What a packet asks for, as one number: its protocol, then its destination port,
/// or behind all ports the type and code of its ICMP message.
fn service_key(flow: &NewFlow) -> u32 {
    let asked = match flow.icmp {
        Some((kind, code)) => ICMP | u32::from(u16::from_be_bytes([kind, code])),
        None => u32::from(flow.dst_port),
    };
    protocol_key(flow.protocol.0) | asked
}

/// Marks a service key that ends in the type and code of an ICMP message.
const ICMP: u32 = 1 << 16;

const fn protocol_key(protocol: u8) -> u32 {
    (protocol as u32).wrapping_shl(17)
}

#[cfg(test)]
mod tests;
