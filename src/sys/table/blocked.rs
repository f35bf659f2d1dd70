//! Sources whose packets the kernel drops before they are queued, for a time each.
//!
//! A set for each length of prefix that counts as one source, so that a look takes
//! constant time and nothing in a set overlaps. The kernel forgets them by itself when
//! their time is over, and all of them when the table goes or is replaced.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use serde_json::{Value, json};

use super::{NAME, TableError, run};
use crate::conntrack::SourcePrefix;

/// How many sources a set holds.
pub const MOST: u32 = 65_536;

/// The lengths of prefixes for which there are sets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Lengths {
    /// IPv4: bit n for length n.
    ipv4: u64,
    /// IPv6: bit n-1 for length n.
    ipv6: u128,
}

impl Lengths {
    /// These and one of each family.
    #[must_use]
    pub const fn with(mut self, prefix: SourcePrefix) -> Self {
        self.ipv4 |= 1_u64.wrapping_shl(prefix.ipv4 as u32);
        self.ipv6 |= 1_u128.wrapping_shl((prefix.ipv6 as u32).wrapping_sub(1));
        self
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.ipv4 == 0 && self.ipv6 == 0
    }

    /// Whether there is a set for this source.
    #[must_use]
    pub const fn has(self, source: IpAddr, prefix: u8) -> bool {
        match source {
            IpAddr::V4(_) => prefix <= 32 && self.ipv4 >> prefix & 1 == 1,
            IpAddr::V6(_) => prefix > 0 && prefix <= 128 && self.ipv6 >> (prefix - 1) & 1 == 1,
        }
    }

    /// Each set: whether it is of IPv6, and the length.
    pub(super) fn each(self) -> impl Iterator<Item = (bool, u8)> {
        let ipv4 = (1..=32).filter(move |length| self.ipv4 >> length & 1 == 1).map(|length| (false, length));
        let ipv6 =
            (1..=128).filter(move |length| self.ipv6 >> (length - 1) & 1 == 1).map(|length| (true, length));
        ipv4.chain(ipv6)
    }
}

/// A set's name.
pub(super) fn set_name(ipv6: bool, length: u8) -> String {
    format!("blocked{}_{length}", if ipv6 { 6 } else { 4 })
}

/// The bits of an address that a prefix of this length keeps, as an address.
pub(super) fn mask(ipv6: bool, length: u8) -> IpAddr {
    let ones = if ipv6 { Ipv6Addr::from([0xff; 16]).into() } else { Ipv4Addr::BROADCAST.into() };
    SourcePrefix { ipv4: length, ipv6: length }.source(ones)
}

/// A source to block, for how long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Blocked {
    /// The source, zero behind its prefix.
    pub source: IpAddr,
    /// Its prefix.
    pub prefix: u8,
    /// How long.
    pub time: Duration,
}

/// Blocks sources, in one transaction. None of them may be blocked already.
///
/// # Errors
/// If nft refuses, or the table is gone.
pub fn block(sources: &[Blocked]) -> Result<(), TableError> {
    apply("add", sources, true)
}

/// Blocks them no longer.
///
/// # Errors
/// If nft refuses, the table is gone, or one of them is not blocked any more.
pub fn unblock(sources: &[Blocked]) -> Result<(), TableError> {
    apply("delete", sources, false)
}

fn apply(command: &str, sources: &[Blocked], timed: bool) -> Result<(), TableError> {
    if sources.is_empty() { Ok(()) } else { run::nft_apply(&document(command, sources, timed)) }
}

fn document(command: &str, sources: &[Blocked], timed: bool) -> Value {
    let element = |blocked: &Blocked| {
        let value = blocked.source.to_string();
        // The kernel's clock for it has whole seconds here.
        let seconds = blocked.time.as_secs().max(1);
        let element = if timed { json!({"elem": {"val": value, "timeout": seconds}}) } else { json!(value) };
        let set = set_name(blocked.source.is_ipv6(), blocked.prefix);
        json!({command: {"element": {"family": "inet", "table": NAME, "name": set, "elem": [element]}}})
    };
    json!({"nftables": sources.iter().map(element).collect::<Vec<_>>()})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_for_each_length_of_a_family() {
        let lengths = Lengths::default()
            .with(SourcePrefix::default())
            .with(SourcePrefix { ipv4: 24, ipv6: 128 })
            .with(SourcePrefix { ipv4: 1, ipv6: 1 });
        let names: Vec<_> = lengths.each().map(|(ipv6, length)| set_name(ipv6, length)).collect();
        assert_eq!(
            names,
            ["blocked4_1", "blocked4_24", "blocked4_32", "blocked6_1", "blocked6_64", "blocked6_128"]
        );
        assert!(
            lengths.has("10.0.0.0".parse().unwrap(), 24) && !lengths.has("10.0.0.0".parse().unwrap(), 64)
        );
        assert!(lengths.has("2001:db8::".parse().unwrap(), 64) && !lengths.has("::".parse().unwrap(), 32));
        assert!(Lengths::default().is_empty() && !lengths.is_empty());
        assert_eq!(mask(false, 24).to_string(), "255.255.255.0");
        assert_eq!(mask(true, 56).to_string(), "ffff:ffff:ffff:ff00::");
    }

    #[test]
    fn a_batch_is_one_document() {
        let source = |text: &str, prefix| Blocked {
            source: text.parse().unwrap(),
            prefix,
            time: Duration::from_millis(90_500),
        };
        let sources = [source("203.0.113.7", 32), source("2001:db8::", 64)];
        let text = document("add", &sources, true).to_string();
        assert_eq!(text.matches("\"add\"").count(), 2, "{text}");
        assert!(
            text.contains(r#""name":"blocked4_32""#) && text.contains(r#""name":"blocked6_64""#),
            "{text}"
        );
        assert!(text.contains(r#""timeout":90"#), "{text}");
        assert!(!document("delete", &sources, false).to_string().contains("timeout"));
    }
}
