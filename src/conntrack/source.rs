//! What counts as one source: an address, or the network that it lies in.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// How many leading bits of an address say which source it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct SourcePrefix {
    /// Of an IPv4 address, 1 to 32.
    pub ipv4: u8,
    /// Of an IPv6 address, 1 to 128.
    pub ipv6: u8,
}

impl Default for SourcePrefix {
    /// An IPv4 address; an IPv6 /64, which is what one host can make addresses in
    /// (RFC 4291 §2.5.4).
    fn default() -> Self {
        Self { ipv4: 32, ipv6: 64 }
    }
}

impl SourcePrefix {
    /// The source that an address belongs to: the bits behind the prefix are zero.
    #[must_use]
    pub fn source(self, address: IpAddr) -> IpAddr {
        match address {
            IpAddr::V4(address) => {
                let behind = u32::MAX.checked_shr(self.ipv4.into()).unwrap_or(0);
                Ipv4Addr::from_bits(address.to_bits() & !behind).into()
            }
            IpAddr::V6(address) => {
                let behind = u128::MAX.checked_shr(self.ipv6.into()).unwrap_or(0);
                Ipv6Addr::from_bits(address.to_bits() & !behind).into()
            }
        }
    }

    /// The length of the prefix for an address.
    #[must_use]
    pub const fn length(self, address: IpAddr) -> u8 {
        match address {
            IpAddr::V4(_) => self.ipv4,
            IpAddr::V6(_) => self.ipv6,
        }
    }
}

impl fmt::Display for SourcePrefix {
    /// `/32 and /64`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{} and /{}", self.ipv4, self.ipv6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(ipv4: u8, ipv6: u8, address: &str) -> String {
        SourcePrefix { ipv4, ipv6 }.source(address.parse().unwrap()).to_string()
    }

    #[test]
    fn every_length_keeps_its_bits() {
        assert_eq!(source(32, 64, "203.0.113.77"), "203.0.113.77");
        assert_eq!(source(24, 64, "203.0.113.77"), "203.0.113.0");
        assert_eq!(source(1, 64, "203.0.113.77"), "128.0.0.0");
        assert_eq!(source(32, 128, "2001:db8:1:2::3"), "2001:db8:1:2::3");
        assert_eq!(source(32, 64, "2001:db8:1:2::3"), "2001:db8:1:2::");
        assert_eq!(source(32, 48, "2001:db8:1:2::3"), "2001:db8:1::");
        assert_eq!(
            SourcePrefix::default().source("2001:db8:1:2::3".parse().unwrap()).to_string(),
            "2001:db8:1:2::"
        );
    }
}
