//! The IPv6 header and its extension headers (RFC 8200 §3, §4).
//!
//! Extension headers may come in any order, as RFC 8200 §4.1 asks of receivers,
//! but no more than [`MAX_EXTENSIONS`] of them. ESP, no-next-header and every
//! protocol that is not an extension header here end the chain.

use std::net::{IpAddr, Ipv6Addr};

use super::{super::packet::Protocol, Fragment, Header, Malformed};

/// Octets of the fixed header.
pub(super) const FIXED: usize = 40;

/// How many extension headers are followed. RFC 8200 §4.1 recommends an order
/// with six before an upper-layer header; the rest is for odd but honest ones.
pub(super) const MAX_EXTENSIONS: usize = 8;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;

/// The Jumbo Payload option (RFC 2675 §2).
const JUMBO_PAYLOAD: u8 = 0xc2;
/// The Home Address option (RFC 6275 §6.3).
const HOME_ADDRESS: u8 = 0xc9;

/// Where the extension headers lead.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chain {
    pub(super) protocol: Protocol,
    /// Where the upper-layer header begins, from the IPv6 header.
    pub(super) offset: u32,
    pub(super) fragment: Fragment,
    pub(super) readdressed: bool,
    jumbo: Option<u32>,
}

/// Reads the header and all extension headers.
pub(super) fn header(bytes: &[u8], wire_len: u32) -> Result<Header, Malformed> {
    let Some((fixed, _)) = bytes.split_first_chunk::<FIXED>() else {
        return Err(if wire_len < FIXED as u32 { Malformed::TooShort } else { Malformed::CutOff });
    };
    let payload_len = u32::from(u16::from_be_bytes([fixed[4], fixed[5]]));
    let next = fixed[6];
    let longest = (FIXED as u32).saturating_add(u32::from(u16::MAX));
    let oversized = payload_len == 0 && wire_len > longest;
    let len = if oversized { wire_len } else { payload_len.saturating_add(FIXED as u32) };
    if len > wire_len {
        return Err(Malformed::Ipv6PayloadLength);
    }
    if payload_len == 0 && next == HOP_BY_HOP && !oversized {
        return Err(Malformed::Jumbogram);
    }
    let chain = chain(bytes, next, len)?;
    // TCP that the kernel has not cut into segments: payload length zero, with a
    // jumbo payload option before Linux learned to do without it.
    let expected = (oversized && next == HOP_BY_HOP).then(|| len.saturating_sub(FIXED as u32));
    if chain.jumbo != expected || (oversized && chain.protocol != Protocol::TCP) {
        return Err(Malformed::Jumbogram);
    }
    let (src, dst) = addresses(fixed);
    Ok(Header {
        src: IpAddr::V6(src),
        dst: IpAddr::V6(dst),
        protocol: chain.protocol,
        hop_limit: fixed[7],
        len,
        offset: chain.offset,
        fragment: chain.fragment,
        readdressed: chain.readdressed,
    })
}

/// Source and destination.
pub(super) fn addresses(fixed: &[u8; FIXED]) -> (Ipv6Addr, Ipv6Addr) {
    let address = |octets: &[u8]| Ipv6Addr::from(<[u8; 16]>::try_from(octets).unwrap_or_default());
    (address(&fixed[8..24]), address(&fixed[24..40]))
}

/// Follows the extension headers of a packet of `len` octets, of which `bytes`
/// were copied. `next` is the fixed header's next-header field.
pub(super) fn chain(bytes: &[u8], next: u8, len: u32) -> Result<Chain, Malformed> {
    let mut chain = Chain {
        protocol: Protocol(next),
        offset: FIXED as u32,
        fragment: Fragment::Whole,
        readdressed: false,
        jumbo: None,
    };
    let mut fragmented = false;
    for seen in 0..=MAX_EXTENSIONS {
        let kind = chain.protocol.0;
        if !matches!(kind, HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION_OPTIONS) {
            return Ok(chain);
        }
        if seen == MAX_EXTENSIONS {
            break;
        }
        if kind == HOP_BY_HOP && seen != 0 {
            return Err(Malformed::ExtensionOrder);
        }
        // RFC 7112 §5: a first fragment holds the whole chain.
        let short = match chain.fragment {
            Fragment::First => Malformed::TinyFragment,
            Fragment::Whole | Fragment::Later => Malformed::ExtensionLength,
        };
        if len.saturating_sub(chain.offset) < 8 {
            return Err(short);
        }
        let rest = bytes.get(chain.offset as usize..).unwrap_or_default();
        let Some(&[next, units, third, fourth, ..]) = rest.get(..8) else {
            return Err(Malformed::CutOff);
        };
        let octets = extension_len(kind, units)?;
        let end = chain.offset.saturating_add(octets);
        if end > len {
            return Err(short);
        }
        chain.protocol = Protocol(next);
        match kind {
            ROUTING if third == 0 => return Err(Malformed::RoutingType0),
            // Segments left: the destination is not the one of the pseudo header.
            ROUTING => chain.readdressed |= fourth != 0,
            FRAGMENT => {
                if fragmented {
                    return Err(Malformed::ExtensionOrder);
                }
                fragmented = true;
                let field = u16::from_be_bytes([third, fourth]);
                let before = chain.offset.saturating_sub(FIXED as u32);
                chain.fragment = Fragment::judge(
                    Protocol(next),
                    field & 1 != 0,
                    field >> 3,
                    len.saturating_sub(end),
                    before,
                )?;
                if chain.fragment == Fragment::Later {
                    chain.offset = end;
                    return Ok(chain);
                }
            }
            HOP_BY_HOP | DESTINATION_OPTIONS => {
                let options = rest.get(2..octets as usize).ok_or(Malformed::CutOff)?;
                walk_options(kind, options, &mut chain)?;
            }
            _ => {}
        }
        chain.offset = end;
    }
    Err(Malformed::ExtensionCount)
}

/// Octets of an extension header, from its length field.
fn extension_len(kind: u8, units: u8) -> Result<u32, Malformed> {
    match kind {
        FRAGMENT => Ok(8),
        // Counted in four octets, the first two left out (RFC 4302 §2.2); at least
        // SPI and sequence number are there.
        AUTHENTICATION if units == 0 => Err(Malformed::ExtensionLength),
        AUTHENTICATION => Ok(u32::from(units).saturating_add(2) << 2),
        _ => Ok(u32::from(units).saturating_add(1) << 3),
    }
}

/// Reads the options of a hop-by-hop or destination options header.
fn walk_options(header: u8, mut options: &[u8], chain: &mut Chain) -> Result<(), Malformed> {
    loop {
        match *options {
            [] => return Ok(()),
            [0, ref rest @ ..] => options = rest,
            [kind, len, ref rest @ ..] => {
                let (value, rest) =
                    rest.split_at_checked(usize::from(len)).ok_or(Malformed::ExtensionOption)?;
                match (header, kind) {
                    (HOP_BY_HOP, JUMBO_PAYLOAD) => match *value {
                        [a, b, c, d] if chain.jumbo.is_none() => {
                            chain.jumbo = Some(u32::from_be_bytes([a, b, c, d]));
                        }
                        _ => return Err(Malformed::Jumbogram),
                    },
                    (DESTINATION_OPTIONS, HOME_ADDRESS) => chain.readdressed = true,
                    _ => {}
                }
                options = rest;
            }
            [_] => return Err(Malformed::ExtensionOption),
        }
    }
}
