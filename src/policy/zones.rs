//! Which zones an address may be in.

use std::net::IpAddr;

use super::{
    Zone, ZoneBits, ZoneId,
    ranges::{Ranges, partition},
};

/// The networks of all zones. A zone without networks holds every address.
#[derive(Clone, Debug)]
pub(super) struct ZoneMap {
    ipv4: Ranges<u32>,
    ipv6: Ranges<u128>,
    /// Each different set of zones that an address is in.
    sets: Vec<ZoneBits>,
}

impl ZoneMap {
    pub(super) fn new(zones: &[Zone]) -> Self {
        let zones = || (0_u8..).zip(zones).take(ZoneId::MAX);
        let anywhere = zones()
            .filter(|(_, zone)| zone.networks.is_none())
            .fold(ZoneBits::default(), |bits, (id, _)| bits.with(ZoneId(id)));
        let networks = || zones().filter_map(|(id, zone)| Some((u32::from(id), zone.networks.as_deref()?)));
        let mut sets = Vec::new();
        let mut of = |inside: &[u32]| {
            let ids = inside.iter().filter_map(|id| u8::try_from(*id).ok());
            let bits = ids.fold(anywhere, |bits, id| bits.with(ZoneId(id)));
            let place = sets.iter().position(|set| *set == bits).unwrap_or_else(|| {
                sets.push(bits);
                sets.len().saturating_sub(1)
            });
            u32::try_from(place).unwrap_or(0)
        };
        let ipv4 = networks().flat_map(|(id, set)| set.ipv4().map(move |(first, last)| (first, last, id)));
        let ipv6 = networks().flat_map(|(id, set)| set.ipv6().map(move |(first, last)| (first, last, id)));
        let (ipv4, ipv6) = (partition(ipv4, &mut of), partition(ipv6, &mut of));
        Self { ipv4, ipv6, sets }
    }

    pub(super) fn find(&self, address: IpAddr) -> ZoneBits {
        let set = match address {
            IpAddr::V4(address) => self.ipv4.find(u32::from(address)),
            IpAddr::V6(address) => self.ipv6.find(u128::from(address)),
        };
        usize::try_from(set).ok().and_then(|set| self.sets.get(set)).copied().unwrap_or_default()
    }

    /// Octets of memory that it takes.
    pub(super) fn bytes(&self) -> usize {
        let tables = self.ipv4.bytes().saturating_add(self.ipv6.bytes());
        tables.saturating_add(size_of_val(&*self.sets))
    }
}
