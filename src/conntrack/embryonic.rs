//! Who is half-open: counts per scope, and the stalest one of each.
//!
//! A half-open connection is counted in up to [`MAX_SCOPES`] scopes (all, one
//! source, one destination; each for the rule set and for its rule). In each it
//! stands in a queue in the order of arrival, so that the stalest of a scope is
//! found in constant time. What a limit is and what happens past it is not known here.

use std::net::IpAddr;

use super::{
    scoped::Scoped,
    slab::{Index, NONE, Slab},
    source::SourcePrefix,
    table::Slot,
};

/// The scopes that one connection can be counted in.
pub const MAX_SCOPES: usize = 6;

/// What half-open connections are counted by.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Scope {
    /// All of a group.
    Total {
        /// The group: 0 for the rule set, else a rule's number.
        group: u16,
    },
    /// Those of one source.
    Source {
        /// The group.
        group: u16,
        /// The address, or the network it lies in that counts as one.
        source: IpAddr,
    },
    /// Those to one destination.
    Destination {
        /// The group.
        group: u16,
        /// The address.
        address: IpAddr,
        /// The port.
        port: u16,
    },
}

impl Scope {
    /// The group that it counts for.
    #[must_use]
    pub const fn group(&self) -> u16 {
        match *self {
            Self::Total { group } | Self::Source { group, .. } | Self::Destination { group, .. } => group,
        }
    }

    /// The scope of an address as a source.
    #[must_use]
    pub fn source(group: u16, address: IpAddr, prefix: SourcePrefix) -> Self {
        Self::Source { group, source: prefix.source(address) }
    }
}

/// Where a connection lies: its shard, the address family's table in it, its slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Whereabouts {
    /// Number of the shard.
    pub shard: u16,
    /// Whether it is in the IPv6 table.
    pub ipv6: bool,
    /// The slot there.
    pub slot: Slot,
}

/// A half-open connection's number here.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct EmbryoId(Index);

#[cfg(test)]
impl EmbryoId {
    pub(super) const fn of(index: Index) -> Self {
        Self(index)
    }
}

/// A place in the queue of a scope.
#[derive(Clone, Copy, Debug)]
struct Membership {
    /// [`NONE`]: in no queue.
    queue: Index,
    older: Index,
    younger: Index,
}

impl Membership {
    const NOWHERE: Self = Self { queue: NONE, older: NONE, younger: NONE };
}

/// In a serial number: others go before it.
const SPARED: u64 = 1;

/// So many of the stalest are looked at for one that is not spared: those who are there
/// and never finish keep their places no longer than others.
const LOOKED_AT: usize = 8;

/// One of those that are counted in a scope: see [`Embryonic::after`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Member {
    /// Its number.
    pub id: EmbryoId,
    serial: u64,
    /// Where it lies; `None` while it is reserved.
    pub at: Option<Whereabouts>,
}

/// A place among the half-open ones for a connection that is about to enter the
/// table: the limits are asked before a shard is held, the slot is known after.
#[derive(Clone, Copy, Debug)]
pub struct Reservation {
    index: Index,
    serial: u64,
}

#[derive(Debug)]
struct Embryo {
    /// `None` while it is reserved.
    at: Option<Whereabouts>,
    /// With [`SPARED`].
    serial: u64,
    memberships: [Membership; MAX_SCOPES],
}

impl Embryo {
    const fn is(&self, reservation: &Reservation) -> bool {
        self.serial & !SPARED == reservation.serial
    }

    const fn is_spared(&self) -> bool {
        self.serial & SPARED != 0
    }

    fn membership(&mut self, queue: Index) -> Option<&mut Membership> {
        self.memberships.iter_mut().find(|membership| membership.queue == queue)
    }
}

#[derive(Clone, Copy, Debug)]
struct Queue {
    count: u32,
    stalest: Index,
    youngest: Index,
}

/// All half-open connections.
#[derive(Debug)]
pub struct Embryonic {
    serial: u64,
    embryos: Slab<Embryo>,
    queues: Scoped<Scope, Queue>,
    /// By group; see [`Embryonic::take_peaks`].
    peaks: Vec<Peaks>,
}

/// The largest counts of one group.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Peaks {
    /// Of all.
    pub total: u32,
    /// Of any one source.
    pub source: u32,
    /// Of any one destination.
    pub destination: u32,
}

impl Peaks {
    fn note(&mut self, scope: &Scope, count: u32) {
        let peak = match scope {
            Scope::Total { .. } => &mut self.total,
            Scope::Source { .. } => &mut self.source,
            Scope::Destination { .. } => &mut self.destination,
        };
        *peak = (*peak).max(count);
    }
}

impl Embryonic {
    /// None yet; made for about `capacity`.
    #[must_use]
    pub fn new(seed: [u64; 2], capacity: usize) -> Self {
        Self { serial: 0, embryos: Slab::default(), queues: Scoped::new(seed, capacity), peaks: Vec::new() }
    }

    /// Octets that at most `most` of them at once ever take. All but the totals' scopes may
    /// be one connection's alone.
    #[must_use]
    pub const fn most_octets(capacity: usize, most: u64) -> u64 {
        const OWN: u64 = MAX_SCOPES as u64 - 2;
        const TOTALS: u64 = 1 << 16;
        let scopes = OWN.saturating_mul(most).saturating_add(TOTALS);
        Slab::<Embryo>::most_octets(most)
            .saturating_add(Scoped::<Scope, Queue>::most_octets(capacity, scopes))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.embryos.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.embryos.is_empty()
    }

    /// How many there are in a scope.
    #[must_use]
    pub fn count(&self, scope: &Scope) -> u32 {
        self.queues.find(scope).and_then(|at| self.queues.get(at)).map_or(0, |queue| queue.count)
    }

    /// All scopes with their counts.
    pub fn counts(&self) -> impl Iterator<Item = (&Scope, u32)> {
        self.queues.iter().map(|(scope, queue)| (scope, queue.count))
    }

    /// Up to `most` of a scope that came after those which were `seen`, the stalest first: a
    /// piece of a look at all of them, between whose pieces others come and go.
    #[must_use]
    pub fn after(&self, seen: &[Member], scope: &Scope, most: usize) -> Vec<Member> {
        let Some(at) = self.queues.find(scope) else { return Vec::new() };
        let younger = |index: Index| {
            let memberships = &self.embryos.get(index)?.memberships;
            memberships.iter().find(|membership| membership.queue == at).map(|place| place.younger)
        };
        // Whoever is gone may have given its number to another.
        let is_there = |member: &&Member| {
            let embryo = self.embryos.get(member.id.0);
            embryo.is_some_and(|embryo| embryo.serial & !SPARED == member.serial)
        };
        let last = seen.iter().rev().find(is_there);
        let first = match last {
            Some(member) => younger(member.id.0),
            None => self.queues.get(at).map(|queue| queue.stalest),
        };
        let member = |index: Index| {
            let embryo = self.embryos.get(index)?;
            Some(Member { id: EmbryoId(index), serial: embryo.serial & !SPARED, at: embryo.at })
        };
        let all = std::iter::successors(first, |index| younger(*index));
        all.map_while(member).take(most).collect()
    }

    /// The largest counts that a new one met since the last call, itself included, by
    /// group; groups that no new one came to are left out. One by one, because a peak
    /// may be over before anybody looks.
    pub fn take_peaks(&mut self) -> Vec<(u16, Peaks)> {
        let all = (0_u16..).zip(self.peaks.iter_mut().map(std::mem::take));
        all.filter(|(_, peaks)| *peaks != Peaks::default()).collect()
    }

    /// Counts a new one in its scopes, of which no two may be the same and only
    /// the first [`MAX_SCOPES`] are looked at.
    pub fn reserve(&mut self, scopes: &[Scope]) -> Option<Reservation> {
        self.serial = self.serial.wrapping_add(SPARED << 1);
        let serial = self.serial;
        let index = self.embryos.insert(Embryo {
            at: None,
            serial,
            memberships: [Membership::NOWHERE; MAX_SCOPES],
        })?;
        for (place, scope) in scopes.iter().take(MAX_SCOPES).enumerate() {
            let new = Queue { count: 0, stalest: NONE, youngest: NONE };
            let Some(at) = self.queues.find_or_insert(scope, new) else { continue };
            let Some(queue) = self.queues.get_mut(at) else { continue };
            let older = queue.youngest;
            queue.youngest = index;
            queue.count = queue.count.saturating_add(1);
            if queue.stalest == NONE {
                queue.stalest = index;
            }
            if let Some(peaks) = self.peaks.get_mut(usize::from(scope.group())) {
                peaks.note(scope, queue.count);
            } else {
                self.first_peak(scope);
            }
            if let Some(before) = self.embryos.get_mut(older).and_then(|e| e.membership(at)) {
                before.younger = index;
            }
            if let Some(slot) = self.embryos.get_mut(index).and_then(|e| e.memberships.get_mut(place)) {
                *slot = Membership { queue: at, older, younger: NONE };
            }
        }
        Some(Reservation { index, serial })
    }

    /// The first of a group is its peak.
    #[cold]
    fn first_peak(&mut self, scope: &Scope) {
        let group = usize::from(scope.group());
        self.peaks.resize(group.saturating_add(1), Peaks::default());
        let count = self.count(scope);
        if let Some(peaks) = self.peaks.get_mut(group) {
            peaks.note(scope, count);
        }
    }

    /// Has others go before it: whoever opens it is known to be there, and will finish.
    pub fn spare(&mut self, reservation: &Reservation) {
        let embryo = self.embryos.get_mut(reservation.index);
        if let Some(embryo) = embryo.filter(|embryo| embryo.is(reservation)) {
            embryo.serial |= SPARED;
        }
    }

    /// The connection has its slot. `None`: it was evicted meanwhile.
    pub fn settle(&mut self, reservation: Reservation, at: Whereabouts) -> Option<EmbryoId> {
        let embryo = self.embryos.get_mut(reservation.index)?;
        embryo.is(&reservation).then(|| {
            embryo.at = Some(at);
            EmbryoId(reservation.index)
        })
    }

    /// The connection did not enter the table after all.
    pub fn cancel(&mut self, reservation: Reservation) {
        if self.embryos.get(reservation.index).is_some_and(|embryo| embryo.is(&reservation)) {
            self.take_out(reservation.index);
        }
    }

    /// Gives a connection's counts back. Nothing happens if it was evicted before.
    pub fn release(&mut self, id: EmbryoId, at: Whereabouts) {
        if self.embryos.get(id.0).is_some_and(|embryo| embryo.at == Some(at)) {
            self.take_out(id.0);
        }
    }

    /// Takes the stalest of a scope out of all its counts; one that is spared only if the
    /// next few are too. `None`: there is none. Its whereabouts are `None` if it has not
    /// entered the table yet.
    pub fn evict(&mut self, scope: &Scope) -> Option<Option<(EmbryoId, Whereabouts)>> {
        let queue = self.queues.find(scope)?;
        let stalest = self.queues.get(queue)?.stalest;
        let unspared = self.stalest(queue).find(|(_, embryo)| !embryo.is_spared());
        let index = unspared.map_or(stalest, |(index, _)| index);
        let at = self.embryos.get(index)?.at;
        self.take_out(index);
        Some(at.map(|at| (EmbryoId(index), at)))
    }

    /// Whether most of those who are looked at for one to evict of a scope are spared. Then
    /// who is not has come of late, and is as likely to finish as they are.
    #[must_use]
    pub fn most_are_spared(&self, scope: &Scope) -> bool {
        let Some(queue) = self.queues.find(scope) else { return false };
        let (mut spared, mut looked_at) = (0_usize, 0_usize);
        for (_, embryo) in self.stalest(queue) {
            looked_at = looked_at.saturating_add(1);
            spared = spared.saturating_add(usize::from(embryo.is_spared()));
        }
        spared > looked_at / 2
    }

    /// The stalest few of a queue, in their order.
    fn stalest(&self, queue: Index) -> impl Iterator<Item = (Index, &Embryo)> {
        let mut next = self.queues.get(queue).map_or(NONE, |queue| queue.stalest);
        let each = std::iter::from_fn(move || {
            let (index, embryo) = (next, self.embryos.get(next)?);
            let membership = embryo.memberships.iter().find(|membership| membership.queue == queue);
            next = membership.map_or(NONE, |membership| membership.younger);
            Some((index, embryo))
        });
        each.take(LOOKED_AT)
    }

    fn take_out(&mut self, index: Index) {
        let Some(embryo) = self.embryos.remove(index) else { return };
        for Membership { queue: at, older, younger } in embryo.memberships {
            let Some(queue) = self.queues.get_mut(at) else { continue };
            if queue.stalest == index {
                queue.stalest = younger;
            }
            if queue.youngest == index {
                queue.youngest = older;
            }
            queue.count = queue.count.saturating_sub(1);
            let is_empty = queue.count == 0;
            if let Some(neighbour) = self.embryos.get_mut(older).and_then(|e| e.membership(at)) {
                neighbour.younger = younger;
            }
            if let Some(neighbour) = self.embryos.get_mut(younger).and_then(|e| e.membership(at)) {
                neighbour.older = older;
            }
            if is_empty {
                self.queues.remove(at);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(slot: Slot) -> Whereabouts {
        Whereabouts { shard: 0, ipv6: false, slot }
    }

    fn scopes(source: u8, port: u16) -> Vec<Scope> {
        let address = IpAddr::from([10, 0, 0, source]);
        let to = IpAddr::from([192, 0, 2, 1]);
        vec![
            Scope::Total { group: 0 },
            Scope::source(0, address, SourcePrefix::default()),
            Scope::Destination { group: 0, address: to, port },
            Scope::Total { group: 3 },
            Scope::source(3, address, SourcePrefix::default()),
            Scope::Destination { group: 3, address: to, port },
        ]
    }

    fn admit(all: &mut Embryonic, slot: Slot, scopes: &[Scope]) -> EmbryoId {
        let reservation = all.reserve(scopes).unwrap();
        all.settle(reservation, at(slot)).unwrap()
    }

    #[test]
    fn the_spared_go_when_the_next_few_are_spared_too() {
        let mut all = Embryonic::new([1, 2], 64);
        let scopes = scopes(1, 80);
        let mut enter = |slot, spared| {
            let reservation = all.reserve(&scopes).unwrap();
            if spared {
                all.spare(&reservation);
            }
            all.settle(reservation, at(slot)).unwrap();
        };
        enter(0, true);
        enter(1, true);
        enter(2, false);
        (3..12).for_each(|slot| enter(slot, true));
        enter(12, false);
        let mut gone = || all.evict(&scopes[0]).unwrap().unwrap().1;
        assert_eq!(gone(), at(2), "the stalest that is not spared");
        assert_eq!(gone(), at(0), "no look at all of them");
        assert_eq!(gone(), at(1));
        assert_eq!(gone(), at(3));
        assert_eq!(gone(), at(4));
        assert_eq!(gone(), at(12), "within sight now");
        assert_eq!(gone(), at(5));
    }

    #[test]
    fn most_of_the_stalest_are_spared_or_not() {
        let mut all = Embryonic::new([1, 2], 64);
        let scopes = scopes(1, 80);
        assert!(!all.most_are_spared(&scopes[0]), "there is nobody");
        let mut enter = |slot, spared| {
            let reservation = all.reserve(&scopes).unwrap();
            if spared {
                all.spare(&reservation);
            }
            all.settle(reservation, at(slot)).unwrap();
            all.most_are_spared(&scopes[0])
        };
        assert!(enter(0, true));
        assert!(!enter(1, false), "half of them are not most");
        assert!(enter(2, true));
        assert!(!enter(3, false));
        assert!((4..8).all(|slot| enter(slot, true)));
        // The youngest do not count.
        assert!((8..99).all(|slot| enter(slot, false)));
    }

    #[test]
    fn all_of_a_scope_are_found_in_pieces_whoever_goes_meanwhile() {
        let mut all = Embryonic::new([1, 2], 10);
        let slots = |members: &[Member]| members.iter().map(|one| one.at.unwrap().slot).collect::<Vec<_>>();
        let ids: Vec<_> = (0..8).map(|slot| admit(&mut all, slot, &scopes(1, 80))).collect();
        admit(&mut all, 8, &scopes(1, 81));
        let scope = scopes(1, 80)[2];
        let mut seen = all.after(&[], &scope, 3);
        assert_eq!(slots(&seen), [0, 1, 2]);
        // The last that was seen goes, and its number is another's.
        all.release(ids[2], at(2));
        assert_eq!(admit(&mut all, 9, &scopes(1, 80)), ids[2]);
        seen.extend(all.after(&seen, &scope, 3));
        assert_eq!(slots(&seen), [0, 1, 2, 3, 4, 5]);
        // All that were seen.
        for slot in [0, 1, 3, 4, 5] {
            all.release(ids[slot as usize], at(slot));
        }
        assert_eq!(slots(&all.after(&seen, &scope, 3)), [6, 7, 9]);
        let reserved = all.reserve(&scopes(1, 80)).unwrap();
        all.spare(&reserved);
        seen.extend(all.after(&seen, &scope, 8));
        assert_eq!(seen.last().unwrap().at, None);
        assert_eq!(all.after(&seen, &scope, 8), []);
        assert_eq!(all.after(&[], &scopes(2, 82)[2], 8), []);
    }

    #[test]
    fn a_reservation_that_is_evicted_or_cancelled_leaves_nothing() {
        let mut all = Embryonic::new([1, 2], 10);
        let scopes = scopes(1, 80);
        let first = all.reserve(&scopes).unwrap();
        assert_eq!(all.evict(&scopes[0]), Some(None));
        let second = all.reserve(&scopes).unwrap();
        assert_eq!(all.settle(first, at(1)), None, "its number may be another's now");
        all.cancel(first);
        assert_eq!(all.len(), 1);
        all.cancel(second);
        assert!(all.is_empty());
        assert_eq!(all.evict(&scopes[0]), None);
    }

    #[test]
    fn counts_come_back_on_release_and_the_stalest_goes_first() {
        let mut all = Embryonic::new([1, 2], 10);
        let first = admit(&mut all, 1, &scopes(1, 80));
        let second = admit(&mut all, 2, &scopes(1, 81));
        let third = admit(&mut all, 3, &scopes(2, 80));
        let source = scopes(1, 80)[1];
        assert_eq!(all.count(&source), 2);
        assert_eq!(all.count(&Scope::Total { group: 0 }), 3);
        assert_eq!(all.evict(&source).unwrap().unwrap().1, at(1));
        all.release(first, at(1));
        assert_eq!(all.count(&source), 1, "an evicted one does not count twice");
        assert_eq!(all.evict(&scopes(2, 80)[2]).unwrap().unwrap().1, at(3));
        all.release(second, at(2));
        all.release(third, at(3));
        assert!(all.is_empty());
        assert_eq!(all.counts().count(), 0, "no scope is left behind");
    }

    #[test]
    fn one_source_is_an_ipv6_64_unless_told_otherwise() {
        let by = |prefix: SourcePrefix| {
            ["2001:db8:1:2::1", "2001:db8:1:2:ffff::9", "2001:db8:1:3::1"]
                .map(|address| Scope::source(0, address.parse().unwrap(), prefix))
        };
        let [a, b, c] = by(SourcePrefix::default());
        assert_eq!(a, b);
        assert_ne!(a, c);
        let [a, _, c] = by(SourcePrefix { ipv6: 48, ..SourcePrefix::default() });
        assert_eq!(a, c);
    }

    #[test]
    fn a_peak_is_what_a_new_one_met_and_is_told_once() {
        let mut all = Embryonic::new([1, 2], 10);
        let first = admit(&mut all, 1, &scopes(1, 80));
        admit(&mut all, 2, &scopes(1, 81));
        all.release(first, at(1));
        admit(&mut all, 3, &scopes(2, 81));
        let peaks = Peaks { total: 2, source: 2, destination: 2 };
        assert_eq!(all.take_peaks(), [(0, peaks), (3, peaks)]);
        assert_eq!(all.take_peaks(), []);
        admit(&mut all, 4, &scopes(9, 90)[..3]);
        assert_eq!(all.take_peaks(), [(0, Peaks { total: 3, source: 1, destination: 1 })]);
    }

    proptest::proptest! {
        /// Against a naive model: any order of admissions, releases and evictions.
        #[test]
        fn agrees_with_a_naive_model(ops in proptest::collection::vec((0_u8..3, 0_u8..6, 0_u16..3), 1..200)) {
            let mut all = Embryonic::new([7, 9], 0);
            let mut model: Vec<(Slot, Vec<Scope>, EmbryoId)> = Vec::new();
            for (n, (op, source, port)) in ops.into_iter().enumerate() {
                let scopes = scopes(source, port);
                match op {
                    0 => {
                        let slot = Slot::try_from(n).unwrap();
                        let id = admit(&mut all, slot, &scopes);
                        model.push((slot, scopes.clone(), id));
                    }
                    1 if !model.is_empty() => {
                        let (slot, _, id) = model.remove(usize::from(source) % model.len());
                        all.release(id, at(slot));
                    }
                    _ => {
                        let expected = model.iter().position(|m| m.1.contains(&scopes[1]));
                        let gone = all.evict(&scopes[1]).map(|gone| gone.unwrap().1.slot);
                        assert_eq!(gone, expected.map(|i| model.remove(i).0));
                    }
                }
                assert_eq!(all.len() as usize, model.len());
                for scope in &scopes {
                    let expected = model.iter().filter(|m| m.1.contains(scope)).count();
                    assert_eq!(all.count(scope) as usize, expected);
                }
            }
        }
    }
}
