//! The IPv4 header (RFC 791 §3.1) and its options.
//!
//! The reserved flag bit and contradictions between DF and fragments are left
//! alone, as Linux does: real hosts send DF fragments.

use std::net::{IpAddr, Ipv4Addr};

use super::{
    super::{checksum::Sum, packet::Protocol},
    Fragment, Header, Malformed,
};

/// Octets without options.
pub(super) const SHORTEST: usize = 20;

/// The first octet of a header without options.
pub(super) const WITHOUT_OPTIONS: u8 = 0x45;

const MORE_FRAGMENTS: u16 = 0x2000;
const FRAGMENT_OFFSET: u16 = 0x1fff;

/// Loose and strict source route (RFC 791 §3.1).
const SOURCE_ROUTES: [u8; 2] = [131, 137];

/// Reads the header.
pub(super) fn header(bytes: &[u8], wire_len: u32, verify: bool) -> Result<Header, Malformed> {
    let Some((fixed, _)) = bytes.split_first_chunk::<SHORTEST>() else {
        return Err(if wire_len < SHORTEST as u32 { Malformed::TooShort } else { Malformed::CutOff });
    };
    let protocol = Protocol(fixed[9]);
    let header_len = header_len(fixed);
    if header_len < SHORTEST as u32 {
        return Err(Malformed::Ipv4HeaderLength);
    }
    let len = match u16::from_be_bytes([fixed[2], fixed[3]]) {
        // Too long for the field: TCP that the kernel has not cut into segments.
        0 if wire_len > u32::from(u16::MAX) && protocol == Protocol::TCP => wire_len,
        total => u32::from(total),
    };
    if len < header_len || len > wire_len {
        return Err(Malformed::Ipv4TotalLength);
    }
    let Some(whole) = bytes.get(..header_len as usize) else {
        return Err(Malformed::CutOff);
    };
    if verify && !Sum::new().bytes(whole).is_sound() {
        return Err(Malformed::Ipv4Checksum);
    }
    check_options(whole.get(SHORTEST..).unwrap_or_default())?;
    let flags = u16::from_be_bytes([fixed[6], fixed[7]]);
    let fragment = Fragment::judge(
        protocol,
        flags & MORE_FRAGMENTS != 0,
        flags & FRAGMENT_OFFSET,
        len.saturating_sub(header_len),
        header_len,
    )?;
    let (src, dst) = addresses(fixed);
    Ok(Header {
        src: IpAddr::V4(src),
        dst: IpAddr::V4(dst),
        protocol,
        hop_limit: fixed[8],
        len,
        offset: header_len,
        fragment,
        readdressed: false,
    })
}

/// Octets of the header, options included, as it says.
pub(super) const fn header_len(fixed: &[u8; SHORTEST]) -> u32 {
    ((fixed[0] & 0x0f) as u32) << 2
}

/// Whether this is a fragment that does not begin the packet.
pub(super) const fn is_later_fragment(fixed: &[u8; SHORTEST]) -> bool {
    u16::from_be_bytes([fixed[6], fixed[7]]) & FRAGMENT_OFFSET != 0
}

/// Whether this is a fragment.
pub(super) const fn is_fragment(fixed: &[u8; SHORTEST]) -> bool {
    u16::from_ne_bytes([fixed[6], fixed[7]]) & (MORE_FRAGMENTS | FRAGMENT_OFFSET).to_be() != 0
}

/// Source and destination.
pub(super) const fn addresses(fixed: &[u8; SHORTEST]) -> (Ipv4Addr, Ipv4Addr) {
    (
        Ipv4Addr::from_octets([fixed[12], fixed[13], fixed[14], fixed[15]]),
        Ipv4Addr::from_octets([fixed[16], fixed[17], fixed[18], fixed[19]]),
    )
}

fn check_options(mut options: &[u8]) -> Result<(), Malformed> {
    loop {
        match *options {
            [] | [0, ..] => return Ok(()),
            [1, ref rest @ ..] => options = rest,
            [kind, len, ..] => {
                if SOURCE_ROUTES.contains(&kind) {
                    return Err(Malformed::SourceRoute);
                }
                if len < 2 {
                    return Err(Malformed::Ipv4Options);
                }
                options = options.get(usize::from(len)..).ok_or(Malformed::Ipv4Options)?;
            }
            [_] => return Err(Malformed::Ipv4Options),
        }
    }
}
