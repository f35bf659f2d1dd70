//! What few connections have at a time: it lies beside the table, found by slot, so that
//! all others don't pay for it.

use std::ops::{Deref, DerefMut};

use super::{
    Connection, Direction, Phase, Standing,
    chained::{Chained, Spread},
    embryonic::EmbryoId,
    slab::Index,
    time::{Instant, Stamp},
    window::{Seen, StaleSyn},
};
use crate::wire::SeqNum;

/// What a connection has only for a while, or that most never have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rare {
    /// Its place among the half-open ones.
    pub embryo: Option<EmbryoId>,
    /// Its first FIN, in `fin_wait`, `half_closed` and `closing`.
    pub first_fin: Option<Stamp>,
    /// An RST in window but not exact that nobody has answered yet (RFC 5961 §3).
    pub unverified_rst: Option<Stamp>,
    /// TCP: when its ends were last asked whether they live; `None`: they aren't.
    pub asked: Option<Stamp>,
    /// TCP: how often they were asked.
    pub asks: u8,
    /// TCP: a SYN that may turn out to be the one that counts.
    pub stale_syn: Option<StaleSyn>,
    /// What the opener and the other end acknowledged of something that is not this
    /// connection, where they are [`Seen::CHALLENGED`].
    challenges: [SeqNum; 2],
    /// Where it came in and goes out, by numbers that the connection has no room for.
    pub(super) interfaces: [u32; 2],
    /// Whole times that its octets have passed 2^32, of the opener and of the other end.
    carried: [u32; 2],
}

impl Default for Rare {
    fn default() -> Self {
        Self::NONE
    }
}

impl Rare {
    /// What all others have of it.
    const NONE: Self = Self {
        embryo: None,
        first_fin: None,
        unverified_rst: None,
        asked: None,
        asks: 0,
        stale_syn: None,
        challenges: [SeqNum(0); 2],
        interfaces: [0; 2],
        carried: [0; 2],
    };

    /// What the end that sends in this direction acknowledged of something that is not
    /// this connection.
    #[must_use]
    pub const fn challenge(&self, direction: Direction) -> SeqNum {
        let [original, reply] = self.challenges;
        match direction {
            Direction::Original => original,
            Direction::Reply => reply,
        }
    }

    /// Notes what the end that sends in this direction acknowledged of something else.
    pub const fn note_challenge(&mut self, direction: Direction, number: SeqNum) {
        let [original, reply] = &mut self.challenges;
        match direction {
            Direction::Original => *original = number,
            Direction::Reply => *reply = number,
        }
    }

    /// How often its octets in this direction have passed 2^32.
    pub(super) const fn carried(&self, direction: Direction) -> u32 {
        let [original, reply] = self.carried;
        match direction {
            Direction::Original => original,
            Direction::Reply => reply,
        }
    }

    /// Notes how often.
    pub(super) const fn set_carried(&mut self, direction: Direction, times: u32) {
        let [original, reply] = &mut self.carried;
        match direction {
            Direction::Original => *original = times,
            Direction::Reply => *reply = times,
        }
    }

    /// Notes that they have once more.
    #[cold]
    pub(super) const fn carry(&mut self, direction: Direction) {
        self.set_carried(direction, self.carried(direction).saturating_add(1));
    }

    /// Whether a connection needs any of it.
    pub(super) fn is_needed(&self, connection: &Connection) -> bool {
        let is_ending = matches!(connection.phase, Phase::FinWait | Phase::HalfClosed | Phase::Closing);
        self.embryo.is_some()
            || (is_ending && self.first_fin.is_some())
            || self.unverified_rst.is_some()
            || self.asked.is_some()
            || self.asks != 0
            || self.stale_syn.is_some()
            || connection.original.seen.has(Seen::CHALLENGED)
            || connection.reply.seen.has(Seen::CHALLENGED)
            || connection.has_large_interface()
            || self.carried != [0; 2]
    }
}

/// A connection with all that there is of it, taken out of its place or not there yet.
#[derive(Clone, Copy, Debug)]
pub struct Whole {
    /// What every connection has.
    pub common: Connection,
    /// What few have.
    pub rare: Rare,
}

impl From<Connection> for Whole {
    /// A connection that has nothing rare.
    fn from(common: Connection) -> Self {
        Self { common, rare: Rare::default() }
    }
}

impl Deref for Whole {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.common
    }
}

impl DerefMut for Whole {
    fn deref_mut(&mut self) -> &mut Connection {
        &mut self.common
    }
}

impl Whole {
    /// The same, to be changed.
    pub const fn live(&mut self) -> Live<'_> {
        let Self { common, rare } = self;
        Live { rare: Some(*rare), common, home: Home::Whole(rare) }
    }

    /// What others have to hear of when it changes.
    #[must_use]
    pub const fn standing(&self) -> Standing {
        Standing::of(&self.common, &self.rare)
    }
}

/// A connection to be changed in its place. What is rare goes back beside it when this is
/// dropped.
#[derive(Debug)]
pub struct Live<'t> {
    /// What every connection has.
    pub common: &'t mut Connection,
    /// What few have; `None`: nothing.
    rare: Option<Rare>,
    home: Home<'t>,
}

/// Where what is rare goes back to.
#[derive(Debug)]
enum Home<'t> {
    Whole(&'t mut Rare),
    Beside(&'t mut Beside<Rare>, Index),
}

impl Drop for Live<'_> {
    #[inline]
    fn drop(&mut self) {
        if let Some(rare) = &self.rare {
            self.home.take(self.common, rare);
        }
    }
}

impl Home<'_> {
    /// Takes what is rare back.
    #[inline(never)]
    fn take(&mut self, common: &mut Connection, rare: &Rare) {
        match self {
            Self::Whole(home) => **home = *rare,
            Self::Beside(beside, slot) if rare.is_needed(common) => {
                common.set_has_rare(beside.put(*slot, *rare));
            }
            Self::Beside(beside, slot) if common.has_rare() => {
                beside.take(*slot);
                common.set_has_rare(false);
            }
            Self::Beside(..) => {}
        }
    }
}

impl Deref for Live<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.common
    }
}

impl DerefMut for Live<'_> {
    fn deref_mut(&mut self) -> &mut Connection {
        self.common
    }
}

impl<'t> Live<'t> {
    /// The connection in a slot.
    #[inline]
    pub(super) fn of(common: &'t mut Connection, beside: &'t mut Beside<Rare>, slot: Index) -> Self {
        let rare = if common.has_rare() { beside.of(slot).copied() } else { None };
        Self { rare, common, home: Home::Beside(beside, slot) }
    }
}

impl Live<'_> {
    /// What few have.
    #[must_use]
    pub const fn rare(&self) -> &Rare {
        match &self.rare {
            Some(rare) => rare,
            None => &Rare::NONE,
        }
    }

    /// What few have, and this one now has.
    pub fn rare_mut(&mut self) -> &mut Rare {
        self.rare.get_or_insert(Rare::NONE)
    }

    /// A copy of all of it.
    #[must_use]
    pub const fn whole(&self) -> Whole {
        Whole { common: *self.common, rare: *self.rare() }
    }

    /// Takes it back to what it was.
    pub const fn restore(&mut self, whole: &Whole) {
        // What lies beside it now may be more than did then.
        let has_rare = self.common.has_rare();
        *self.common = whole.common;
        self.common.set_has_rare(has_rare);
        self.rare = Some(whole.rare);
    }

    /// Its age and its packets count from now on: it is another connection of the same addresses and ports.
    pub fn count_anew(&mut self, now: Instant) {
        self.common.count_anew(now);
        if let Some(rare) = &mut self.rare {
            rare.carried = [0; 2];
        }
    }

    /// What others have to hear of when it changes.
    #[must_use]
    pub const fn standing(&self) -> Standing {
        Standing::of(self.common, self.rare())
    }

    /// Moves to a phase, whose timer starts now. Staying is not moving.
    pub fn enter(&mut self, phase: Phase, now: Instant) {
        if self.phase != phase {
            self.phase = phase;
            self.refresh(now);
        }
    }

    /// Starts the phase's timer anew; nobody needs to be asked any more.
    pub fn refresh(&mut self, now: Instant) {
        self.refreshed = Stamp::of(now);
        if self.rare().asked.is_some() {
            let rare = self.rare_mut();
            (rare.asked, rare.asks) = (None, 0);
            self.original.seen.clear(Seen::ASKED);
            self.reply.seen.clear(Seen::ASKED);
        }
    }
}

/// One slot behind the other, from the first bucket on again behind the last: whoever chooses
/// which slots have something beside them, no chain is longer than all slots would make it
/// (some [`SHARE`]).
#[derive(Clone, Copy, Debug)]
pub(super) struct BySlot;

impl Spread<Index> for BySlot {
    fn bucket(&self, slot: &Index, buckets: usize) -> usize {
        (*slot as usize).checked_rem(buckets).unwrap_or(0)
    }
}

/// Values beside some of a table's slots.
pub(super) type Beside<T> = Chained<Index, T, BySlot>;

/// So many slots share a bucket: few need one at the same time.
const SHARE: usize = 8;

impl<T> Beside<T> {
    /// None yet, for a table of about so many slots; more work, only slower.
    pub(super) fn new(slots: usize) -> Self {
        Self::with(BySlot, slots / SHARE)
    }

    /// Octets that values beside at most so many of the slots at once ever take.
    pub(super) const fn most_octets_beside(slots: usize, most: u64) -> u64 {
        Self::most_octets(slots / SHARE, most)
    }

    /// The value beside a slot.
    pub(super) fn of(&self, slot: Index) -> Option<&T> {
        self.get(self.find(&slot)?)
    }

    /// The value beside a slot.
    pub(super) fn of_mut(&mut self, slot: Index) -> Option<&mut T> {
        let at = self.find(&slot)?;
        self.get_mut(at)
    }

    /// Puts a value beside a slot, in place of what lay there. `false`: there are too many.
    pub(super) fn put(&mut self, slot: Index, value: T) -> bool
    where
        T: Copy,
    {
        let at = self.find_or_insert(&slot, value);
        let place = at.and_then(|at| self.get_mut(at));
        place.map(|place| *place = value).is_some()
    }

    /// Takes away what lies beside a slot.
    pub(super) fn take(&mut self, slot: Index) -> Option<T> {
        let at = self.find(&slot)?;
        self.remove(at)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::conntrack::{key::Sender, tcp, window::Half};

    fn connection() -> Connection {
        Connection::new(Phase::Established, Sender::Low, Instant(1_000))
    }

    proptest! {
        /// Against a map: whatever comes and goes, in buckets that are too few.
        #[test]
        fn beside_agrees_with_a_map(ops in prop::collection::vec((any::<bool>(), 0_u32..60), 1..400)) {
            let (mut beside, mut map) = (Beside::new(0), HashMap::new());
            for (number, (comes, slot)) in ops.into_iter().enumerate() {
                if comes {
                    prop_assert!(beside.put(slot, number));
                    map.insert(slot, number);
                } else {
                    prop_assert_eq!(beside.take(slot), map.remove(&slot));
                }
                prop_assert_eq!(beside.len() as usize, map.len());
                for slot in 0..60 {
                    prop_assert_eq!(beside.of(slot), map.get(&slot));
                }
            }
        }
    }

    #[test]
    fn no_choice_of_slots_crowds_a_bucket() {
        let slots = 1000;
        let mut crowd = vec![0; slots / SHARE];
        for slot in 0..u32::try_from(slots).unwrap() {
            crowd[BySlot.bucket(&slot, slots / SHARE)] += 1;
        }
        assert!(crowd.iter().all(|here| *here == SHARE), "{crowd:?}");
    }

    #[test]
    fn what_is_rare_lies_beside_as_long_as_it_is_needed() {
        let now = Instant(2_000);
        let (mut common, mut beside) = (connection(), Beside::new(4));
        let mut change = |change: &dyn Fn(&mut Live<'_>)| {
            change(&mut Live::of(&mut common, &mut beside, 7));
            let kept = *Live::of(&mut common, &mut beside, 7).rare();
            assert_eq!(common.has_rare(), beside.len() == 1);
            (common.has_rare(), kept)
        };
        assert!(!change(&|live| live.refresh(now)).0, "nothing rare");
        let (is_there, kept) = change(&|live| live.ask(true, now));
        assert!(is_there && kept.asks == 1 && kept.asked.is_some());
        assert!(!change(&|live| live.refresh(now)).0, "it lives");
        assert!(change(&|live| live.rare_mut().unverified_rst = Some(Stamp::of(now))).0);
        assert!(change(&|live| live.rare_mut().first_fin = Some(Stamp::of(now))).0);
        assert!(!change(&|live| live.rare_mut().unverified_rst = None).0, "no FIN while established");
        assert!(change(&|live| live.rare_mut().embryo = Some(EmbryoId::of(3))).0);
        assert!(!change(&|live| live.rare_mut().embryo = None).0);
        let challenged = change(&|live| {
            live.original.seen.add(Seen::CHALLENGED);
            live.rare_mut().note_challenge(Direction::Original, SeqNum(9));
        });
        assert!(challenged.0);
        assert_eq!(challenged.1.challenge(Direction::Original), SeqNum(9));
        assert!(!change(&|live| live.original = Half::default()).0, "another handshake");
    }

    #[test]
    fn interfaces_of_any_number_are_told_apart() {
        let mut whole = Whole::from(connection());
        let mut beside = Beside::new(4);
        for interfaces in [[1, 2], [65_534, 65_535], [u32::MAX, 3], [65_536, 0]] {
            whole.set_interfaces(interfaces);
            assert_eq!(whole.interfaces(), interfaces);
            let mut live = Live::of(&mut whole.common, &mut beside, 5);
            *live.rare_mut() = whole.rare;
            drop(live);
            assert_eq!(Live::of(&mut whole.common, &mut beside, 5).interfaces(), interfaces);
            assert_eq!(beside.len() == 1, interfaces.iter().any(|number| *number > 65_534));
        }
    }

    #[test]
    fn what_is_never_seen_stays_so_whatever_its_scale() {
        let mut connection = connection();
        connection.original = Half::default();
        tcp::expect_one_way(&mut connection, Direction::Reply);
        assert!(tcp::is_one_way(&connection));
        connection.original.scale_not();
        crate::conntrack::window::settle_scaling(&mut connection.original, &mut connection.reply);
        assert!(connection.original.is_elsewhere() && !connection.reply.is_elsewhere());
        assert_eq!(connection.original.shift(), 0);
    }
}
