//! Making a classifier of rules.

use std::{collections::HashMap, sync::Arc};

use super::{Classifier, End, Everyone, ICMP, NOBODY, Sets, protocol_key};
use crate::policy::{
    NetworkSet, Ports, Rule, Selector, ServiceKind, Term, ZoneId,
    ranges::{Ranges, partition},
};

/// Rules in a word, and groups in a set.
const BITS: usize = 64;
/// The most words of all sets: a gibibyte. Ten thousand rules of an address each
/// come to a thousandth of it.
const MOST_WORDS: usize = 1 << 27;

/// The rules for which one thing (a zone, a list, a service) is a reason to match,
/// and those for which it is a reason not to; by their places, in order.
#[derive(Clone, Default)]
struct Reasons {
    with: Vec<usize>,
    without: Vec<usize>,
}

/// What all rules say about one end, by what they name.
#[derive(Default)]
struct Named<'r> {
    anyone: Vec<usize>,
    networks: Vec<(&'r NetworkSet, Reasons)>,
    /// The place in `networks` of each set by where it lies, so that a long list
    /// is compared once; and by what it holds, so that each address is there once.
    by_place: HashMap<*const NetworkSet, usize>,
    by_content: HashMap<&'r NetworkSet, usize>,
    zones: Vec<Reasons>,
    gateway: Reasons,
}

impl Classifier {
    /// A classifier of these rules; what it finds are places in this slice.
    pub(in crate::policy) fn new(rules: &[Rule]) -> Self {
        let mut sets = Builder::new(rules.len());
        let from = sets.end(rules.iter().map(|rule| &rule.from));
        let to = sets.end(rules.iter().map(|rule| &rule.to));
        let (any_service, services) = sets.services(rules);
        sets.sets.words.shrink_to_fit();
        Self { from, to, any_service, services, sets: sets.sets }
    }
}

impl<'r> Named<'r> {
    fn of(selectors: impl Iterator<Item = &'r Selector>) -> Self {
        let mut named = Self::default();
        for (rule, selector) in selectors.enumerate() {
            if selector.any_of.is_empty() {
                named.anyone.push(rule);
            }
            for term in &selector.any_of {
                named.note(term, |reasons| reasons.with.push(rule));
            }
            for term in &selector.none_of {
                named.note(term, |reasons| reasons.without.push(rule));
            }
        }
        named
    }

    /// Writes something down for a term.
    fn note(&mut self, term: &'r Term, note: impl FnOnce(&mut Reasons)) {
        let reasons = match term {
            Term::Gateway => Some(&mut self.gateway),
            Term::Zone(ZoneId(zone)) => {
                let zone = usize::from(*zone);
                if self.zones.len() <= zone {
                    self.zones.resize_with(zone.saturating_add(1), Reasons::default);
                }
                self.zones.get_mut(zone)
            }
            Term::Networks(networks) => {
                let next = self.networks.len();
                let by_content = &mut self.by_content;
                let place = *self
                    .by_place
                    .entry(Arc::as_ptr(networks))
                    .or_insert_with(|| *by_content.entry(networks).or_insert(next));
                if place == next {
                    self.networks.push((networks, Reasons::default()));
                }
                self.networks.get_mut(place).map(|(_, reasons)| reasons)
            }
        };
        if let Some(reasons) = reasons {
            note(reasons);
        }
    }
}

/// Makes sets of rules, each different one once.
struct Builder {
    sets: Sets,
    /// Where each pair lies.
    places: HashMap<Box<[u64]>, u32>,
    /// The pair in work, all words of both.
    with: Box<[u64]>,
    without: Box<[u64]>,
}

impl Builder {
    fn new(rules: usize) -> Self {
        let width = rules.div_ceil(BITS * BITS).max(1);
        let blank = vec![0; width.saturating_mul(BITS)].into_boxed_slice();
        let mut builder = Self {
            sets: Sets { width, words: Vec::new(), is_too_large: false },
            places: HashMap::new(),
            with: blank.clone(),
            without: blank,
        };
        let nobody = builder.pair(std::iter::empty());
        debug_assert_eq!(nobody, NOBODY, "the first pair of sets is the empty one");
        builder
    }

    fn end<'r>(&mut self, selectors: impl Iterator<Item = &'r Selector>) -> End {
        let named = Named::of(selectors);
        let zones: Vec<u32> = named.zones.iter().map(|zone| self.pair([zone].into_iter())).collect();
        let is_named = |zone: &Reasons| !zone.with.is_empty() || !zone.without.is_empty();
        let bits = (0_u32..).zip(&named.zones).filter(|(_, zone)| is_named(zone));
        let owners = || (0_u32..).zip(&named.networks);
        let ipv4 = owners().flat_map(|(owner, (set, _))| set.ipv4().map(move |(a, b)| (a, b, owner)));
        let ipv6 = owners().flat_map(|(owner, (set, _))| set.ipv6().map(move |(a, b)| (a, b, owner)));
        let mut worth = HashMap::new();
        let reasons = |owner: usize| named.networks.get(owner).map(|(_, reasons)| reasons);
        let mut of = |inside: &[u32]| self.worth(inside, &mut worth, reasons);
        let (ipv4, ipv6) = (partition(ipv4, &mut of), partition(ipv6, &mut of));
        End {
            anyone: self.everyone(&named.anyone),
            ipv4,
            ipv6,
            named: bits.fold(0, |bits, (zone, _)| bits | 1_u64.wrapping_shl(zone)),
            zones,
            gateway: self.pair([&named.gateway].into_iter()),
        }
    }

    fn services(&mut self, rules: &[Rule]) -> (Everyone, Ranges<u32>) {
        let mut any = Vec::new();
        let mut asked: Vec<(ServiceKind, Reasons)> = Vec::new();
        let mut places = HashMap::new();
        for (rule, parts) in rules.iter().enumerate() {
            if parts.services.is_empty() {
                any.push(rule);
            }
            for service in &parts.services {
                let place = *places.entry(*service).or_insert(asked.len());
                if place == asked.len() {
                    asked.push((*service, Reasons::default()));
                }
                if let Some((_, reasons)) = asked.get_mut(place) {
                    reasons.with.push(rule);
                }
            }
        }
        let ranges = (0_u32..).zip(&asked).map(|(owner, (service, _))| {
            let (first, last) = keys(service);
            (first, last, owner)
        });
        let mut worth = HashMap::new();
        let services = partition(ranges, |inside| {
            self.worth(inside, &mut worth, |owner| asked.get(owner).map(|(_, reasons)| reasons))
        });
        (self.everyone(&any), services)
    }

    /// The pair for what lies inside all of these.
    fn worth<'r>(
        &mut self,
        inside: &[u32],
        known: &mut HashMap<Box<[u32]>, u32>,
        reasons: impl Fn(usize) -> Option<&'r Reasons>,
    ) -> u32 {
        if let Some(place) = known.get(inside) {
            return *place;
        }
        let owners = inside.iter().filter_map(|owner| usize::try_from(*owner).ok());
        let place = self.pair(owners.filter_map(reasons));
        known.insert(inside.into(), place);
        place
    }

    fn everyone(&self, rules: &[usize]) -> Everyone {
        let mut words = vec![0; self.with.len()].into_boxed_slice();
        add(&mut words, rules);
        Everyone { groups: self.groups(&words), words }
    }

    /// The pair of sets of all these reasons, and where it lies.
    fn pair<'r>(&mut self, reasons: impl Iterator<Item = &'r Reasons>) -> u32 {
        self.with.fill(0);
        self.without.fill(0);
        for one in reasons {
            add(&mut self.with, &one.with);
            add(&mut self.without, &one.without);
        }
        let mut pair = vec![self.groups(&self.with), self.groups(&self.without)];
        for set in [&self.with, &self.without] {
            let groups = set.chunks(self.sets.width).filter(|group| group.iter().any(|word| *word != 0));
            pair.extend(groups.flatten());
        }
        if let Some(place) = self.places.get(&*pair) {
            return *place;
        }
        let words = &mut self.sets.words;
        let room = MOST_WORDS.saturating_sub(words.len());
        let Some(place) = u32::try_from(words.len()).ok().filter(|_| pair.len() <= room) else {
            self.sets.is_too_large = true;
            return NOBODY;
        };
        words.extend_from_slice(&pair);
        self.places.insert(pair.into_boxed_slice(), place);
        place
    }

    /// Which groups of a whole set hold anything.
    fn groups(&self, set: &[u64]) -> u64 {
        let groups = (0_u32..).zip(set.chunks(self.sets.width));
        groups.fold(0, |bits, (number, group)| {
            if group.iter().any(|word| *word != 0) { bits | 1_u64.wrapping_shl(number) } else { bits }
        })
    }
}

/// Puts rules into a whole set.
fn add(set: &mut [u64], rules: &[usize]) {
    for rule in rules {
        if let Some(word) = set.get_mut(rule / BITS) {
            *word |= 1_u64.wrapping_shl(u32::try_from(rule % BITS).unwrap_or(0));
        }
    }
}

/// The service keys, first and last, that ask for a service.
fn keys(service: &ServiceKind) -> (u32, u32) {
    match *service {
        ServiceKind::Ports(protocol, Ports { first, last }) => {
            let key = protocol_key(protocol.0);
            (key | u32::from(first), key | u32::from(last))
        }
        ServiceKind::Protocol(protocol) => {
            let key = protocol_key(protocol.0);
            (key, key | ICMP | u32::from(u16::MAX))
        }
        ServiceKind::Icmp { protocol, kind, code } => {
            let key = |code| protocol_key(protocol.0) | ICMP | u32::from(u16::from_be_bytes([kind, code]));
            (key(code.unwrap_or(0)), key(code.unwrap_or(u8::MAX)))
        }
    }
}
