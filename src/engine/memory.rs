//! How much memory the engine can ever come to take, whatever comes.
//!
//! Everything that packets can make grow is counted by how many connections there may
//! be, or has a number of its own. What was taken is not given back but used again, so
//! each part is bounded by the most that it held at any time: the connections of both
//! families count in full, for there may be as many as fit of one and later of the other.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{
    Engine, Event, SHARDS, Transmit,
    context::{MAX_EVENTS, MAX_TRANSMITS},
    shard::Shard,
};
use crate::{
    conntrack::{Embryonic, Table, embryonic::Scope, proven::Proven, scoped::Scoped},
    policy::OnExcess,
};

/// Scopes of all connections of a group, of which there can't be more than rules.
const TOTALS: u64 = 1 << 16;

/// The most octets that the engine ever takes, by what for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MemoryBound {
    /// Connections, IPv4 and IPv6.
    pub connections: u64,
    /// The counts of half-open connections.
    pub half_open: u64,
    /// The counts of open connections; none where no limit asks for them.
    pub open: u64,
    /// The numbers of connections behind SYN cookies; where no rules ask for these, only
    /// the room to find them.
    pub cookies: u64,
    /// What does not depend on how many connections there may be.
    pub fixed: u64,
}

/// What takes memory beside the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Uses {
    /// In how many scopes of its own an open connection is counted, where limits ask for it.
    pub open_scopes: Option<u64>,
    /// Whether rules may have the kernel answer SYNs by cookies.
    pub cookies: bool,
    /// Workers that hand out events.
    pub workers: u64,
}

impl MemoryBound {
    /// All of it.
    #[must_use]
    pub const fn total(&self) -> u64 {
        let table = self.connections.saturating_add(self.half_open);
        table.saturating_add(self.open).saturating_add(self.cookies).saturating_add(self.fixed)
    }

    /// What a table of `most` connections takes with what else there is.
    #[must_use]
    pub fn of(most: u32, uses: Uses) -> Self {
        let Uses { open_scopes, cookies, workers } = uses;
        let (shards, capacity) = (SHARDS as u64, usize::try_from(most).unwrap_or(usize::MAX));
        let in_shard = most_in_shard(most);
        let buckets_for = capacity.div_ceil(SHARDS);
        let both = Table::<Ipv4Addr>::most_octets(buckets_for, in_shard)
            .saturating_add(Table::<Ipv6Addr>::most_octets(buckets_for, in_shard));
        let open = |scopes: u64| {
            let scopes = scopes.saturating_mul(most.into()).saturating_add(TOTALS);
            Scoped::<Scope, u32>::most_octets(capacity, scopes)
        };
        let queued = doubled::<Event>(MAX_EVENTS);
        let fixed = [
            shards.saturating_mul(Shard::FIXED_OCTETS),
            Proven::most_octets(),
            workers.saturating_mul(queued),
            // Only a reload that ends many connections comes near that: one at a time.
            doubled::<Transmit>(MAX_TRANSMITS),
        ];
        Self {
            connections: shards.saturating_mul(both),
            half_open: Embryonic::most_octets(capacity, most.into()),
            // While what is counted changes, both tallies are there.
            open: open_scopes.map_or(0, |scopes| open(scopes).saturating_mul(2)),
            cookies: shards
                .saturating_mul(Shard::behind_octets(buckets_for, if cookies { in_shard } else { 0 })),
            fixed: fixed.iter().fold(0, |sum, part| sum.saturating_add(*part)),
        }
    }
}

/// The most connections of one shard: a share, and eight standard deviations more. The
/// hash is keyed, so that nobody outside can fill one shard alone.
fn most_in_shard(most: u32) -> u64 {
    let share = u64::from(most).div_ceil(SHARDS as u64);
    let spread = share.isqrt().saturating_add(1).saturating_mul(8);
    share.saturating_add(spread).saturating_add(16).min(most.into())
}

/// Octets of a queue of so many that doubles as it grows: the old one is there until all
/// have moved.
fn doubled<T>(most: usize) -> u64 {
    let room = most.next_power_of_two().saturating_mul(size_of::<T>());
    (room as u64).saturating_add(room as u64 / 2)
}

impl Engine {
    /// The most that this engine ever takes with the rules and limits in force.
    #[must_use]
    pub fn memory_bound(&self) -> MemoryBound {
        self.memory_bound_for(self.ruling().policy.settings.max_connections)
    }

    /// As [`Self::memory_bound`], were there so many connections at most.
    #[must_use]
    pub fn memory_bound_for(&self, most: u32) -> MemoryBound {
        let ruling = self.ruling();
        let own = |set: [bool; 3]| {
            // The total is one for all.
            let [_, source, destination] = set.map(u64::from);
            source.saturating_add(destination)
        };
        let shape = ruling.limits.open_shape();
        let of_all = shape.iter().filter(|(group, ..)| *group == 0).map(|(_, set, _)| own(*set)).sum::<u64>();
        let of_rules = shape.iter().filter(|(group, ..)| *group != 0).map(|(_, set, _)| own(*set)).max();
        let scopes = (!shape.is_empty()).then(|| of_all.saturating_add(of_rules.unwrap_or(0)));
        let policy = &ruling.policy;
        let answers = policy.rules.iter().map(|rule| rule.limits.on_excess);
        let cookies = answers
            .chain([policy.settings.limits.on_excess])
            // A challenge that the kernel's queues can't stand is raised to cookies.
            .any(|answer| matches!(answer, Some(OnExcess::Syncookies | OnExcess::Challenge)));
        let workers = self.stats.lock().len() as u64;
        MemoryBound::of(most, Uses { open_scopes: scopes, cookies, workers })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uses(open_scopes: Option<u64>) -> Uses {
        Uses { open_scopes, cookies: false, workers: 2 }
    }

    #[test]
    fn a_connection_more_costs_what_a_connection_takes() {
        let [small, large] = [1_000_000, 2_000_000].map(|most| MemoryBound::of(most, uses(None)));
        let each = |of: fn(&MemoryBound) -> u64| (of(&large) - of(&small)) / 1_000_000;
        // An entry of either family and its bucket.
        assert!((400..560).contains(&each(|bound| bound.connections)), "{}", each(|b| b.connections));
        assert!((200..350).contains(&each(|bound| bound.half_open)), "{}", each(|b| b.half_open));
        assert_eq!((small.open, small.fixed), (0, large.fixed));
        assert!((1..6).contains(&each(|bound| bound.cookies)), "{}", each(|b| b.cookies));
        assert!(MemoryBound::of(1_000_000, uses(Some(4))).open > 200_000_000);
        assert!(small.fixed < 50 << 20, "{}", small.fixed);
    }

    #[test]
    fn no_number_of_connections_overflows() {
        for most in [1, 2, 63, 1_000, u32::MAX] {
            let bound = MemoryBound::of(most, Uses { open_scopes: Some(4), cookies: true, workers: 1024 });
            assert!(bound.total() > bound.connections && bound.connections > u64::from(most) * 400, "{most}");
        }
    }
}
