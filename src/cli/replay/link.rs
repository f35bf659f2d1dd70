//! Link layers: where the IP packet begins in what a capture recorded.

use pcap_parser::Linktype;

/// VLAN tags and MPLS labels that are looked through, one behind the other.
const MAX_TAGS: usize = 8;

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
/// IEEE 802.1Q, 802.1ad, and the number that came before the latter.
const VLAN: [u16; 3] = [0x8100, 0x88a8, 0x9100];
/// PPPoE session stage (RFC 2516).
const PPPOE: u16 = 0x8864;
const PPP_IPV4: u16 = 0x0021;
const PPP_IPV6: u16 = 0x0057;

/// MPLS, to one and to many (RFC 5332 §4).
const MPLS: [u16; 2] = [0x8847, 0x8848];
/// Below this an ethertype is the length of an IEEE 802.3 frame.
const FIRST_ETHERTYPE: u16 = 0x600;
/// LLC and SNAP before an ethertype (RFC 1042).
const SNAP: [u8; 6] = [0xaa, 0xaa, 3, 0, 0, 0];
/// LLC's own number for IP.
const LLC_IP: [u8; 3] = [6, 6, 3];

/// A link layer that is understood.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Link {
    /// Ethernet, with or without VLAN tags.
    Ethernet,
    /// The IP packet itself.
    Raw,
    /// Linux cooked, version 1 (`LINUX_SLL`).
    Cooked,
    /// Linux cooked, version 2 (`LINUX_SLL2`).
    Cooked2,
    /// BSD loopback (`NULL` and `LOOP`): the address family, of either byte order.
    Null,
}

impl Link {
    /// The link layer with this number; `None`: not understood.
    pub(super) const fn of(number: Linktype) -> Option<Self> {
        Some(match number.0 {
            0 | 108 => Self::Null,
            1 => Self::Ethernet,
            // 12 and 14 are what some systems write for 101; 228 and 229 have one IP version.
            12 | 14 | 101 | 228 | 229 => Self::Raw,
            113 => Self::Cooked,
            276 => Self::Cooked2,
            _ => return None,
        })
    }

    /// Octets before the IP header; `None`: it is no IP packet, or nothing of it is there.
    pub(super) fn ip_offset(self, bytes: &[u8]) -> Option<usize> {
        match self {
            Self::Ethernet => behind(bytes, 12),
            Self::Raw => matches!(bytes.first()? >> 4, 4 | 6).then_some(0),
            Self::Cooked => behind(bytes, 14),
            Self::Cooked2 => by_ethertype(bytes, number(bytes, 0)?, 20),
            // The families' numbers differ from system to system; the version does not.
            Self::Null => matches!(bytes.get(4)? >> 4, 4 | 6).then_some(4),
        }
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u16> {
    let pair = bytes.get(at..at + 2)?;
    Some(u16::from_be_bytes([pair[0], pair[1]]))
}

/// The IP header behind an ethertype that stands at `at`.
fn behind(bytes: &[u8], at: usize) -> Option<usize> {
    by_ethertype(bytes, number(bytes, at)?, at + 2)
}

/// The IP header in what an ethertype announces from `at` on.
fn by_ethertype(bytes: &[u8], ethertype: u16, at: usize) -> Option<usize> {
    let (mut ethertype, mut at) = (ethertype, at);
    for _ in 0..=MAX_TAGS {
        match ethertype {
            IPV4 | IPV6 => return (at < bytes.len()).then_some(at),
            PPPOE => {
                let inside = number(bytes, at + 6)?;
                return (matches!(inside, PPP_IPV4 | PPP_IPV6) && at + 8 < bytes.len()).then_some(at + 8);
            }
            tag if VLAN.contains(&tag) => {
                ethertype = number(bytes, at + 2)?;
                at += 4;
            }
            label if MPLS.contains(&label) => {
                let is_last = bytes.get(at + 2)? & 1 == 1;
                at += 4;
                if is_last {
                    return matches!(bytes.get(at)? >> 4, 4 | 6).then_some(at);
                }
            }
            length if length < FIRST_ETHERTYPE => {
                let llc = bytes.get(at..)?;
                if llc.starts_with(&LLC_IP) {
                    return (at + 3 < bytes.len()).then_some(at + 3);
                }
                if !llc.starts_with(&SNAP) {
                    return None;
                }
                ethertype = number(bytes, at + 6)?;
                at += 8;
            }
            _ => return None,
        }
    }
    None
}
