//! A TCP segment without Fast Open (RFC 7413): the option blanked, the data cut off.
//!
//! What is left is a legal segment as if its sender had never tried: lengths and
//! checksums are those of the shorter packet, and the options keep their places.
//! Data that are cut off are sent again, because nobody acknowledges them
//! (RFC 7413 §4.2.2).

use std::net::IpAddr;

use super::{
    checksum::Sum,
    packet::Protocol,
    parse::{self, Header},
};

/// Octets of a TCP header without options.
const TCP_SHORTEST: usize = 20;
/// Octets of an IPv6 header without extensions.
const IPV6_FIXED: usize = 40;

const OPTION_END: u8 = 0;
const OPTION_NOP: u8 = 1;

/// Writes the packet of `bytes` and `wire_len` (as [`parse()`](super::parse())
/// takes them) to `out`, without its Fast Open option and without its data. `bytes`
/// may be cut short behind the TCP header. `out` is replaced; it allocates only
/// where it is shorter than the headers.
///
/// `None`, and nothing in `out`: this is not a whole TCP segment, or not one whose
/// checksum can be made (a routing header or home address hides an address, RFC 8200
/// §8.1), or longer than its length field says.
#[must_use]
pub fn without_fast_open(bytes: &[u8], wire_len: u32, out: &mut Vec<u8>) -> Option<()> {
    out.clear();
    let header = parse::header(bytes, wire_len, false).ok()?;
    let is_plain = header.is_whole() && !header.readdressed && header.len <= u32::from(u16::MAX);
    if !is_plain || header.protocol != Protocol::TCP {
        return None;
    }
    let offset = header.offset as usize;
    let tcp = bytes.get(offset..)?;
    let tcp_len = usize::from(tcp.get(12)? >> 4) << 2;
    if tcp_len < TCP_SHORTEST || tcp_len > (header.len as usize).checked_sub(offset)? {
        return None;
    }
    out.extend_from_slice(bytes.get(..offset.checked_add(tcp_len)?)?);
    if finish(out, &header, offset, tcp_len).is_none() {
        out.clear();
        return None;
    }
    Some(())
}

fn finish(out: &mut [u8], header: &Header, offset: usize, tcp_len: usize) -> Option<()> {
    let len = u16::try_from(out.len()).ok()?;
    let (ip, tcp) = out.split_at_mut_checked(offset)?;
    match header.src {
        IpAddr::V4(_) => {
            ip.get_mut(2..4)?.copy_from_slice(&len.to_be_bytes());
            ip.get_mut(10..12)?.fill(0);
            let checksum = Sum::new().bytes(ip).checksum();
            ip.get_mut(10..12)?.copy_from_slice(&checksum.to_be_bytes());
        }
        IpAddr::V6(_) => {
            let payload_len = len.checked_sub(IPV6_FIXED as u16)?;
            ip.get_mut(4..6)?.copy_from_slice(&payload_len.to_be_bytes());
        }
    }
    blank(tcp.get_mut(TCP_SHORTEST..)?);
    tcp.get_mut(16..18)?.fill(0);
    let sum = Sum::pseudo(header.src, header.dst, Protocol::TCP, u32::try_from(tcp_len).ok()?);
    let checksum = sum.bytes(tcp).checksum();
    tcp.get_mut(16..18)?.copy_from_slice(&checksum.to_be_bytes());
    Some(())
}

/// Puts NOPs in the place of every Fast Open option. Walks as the parser does, so
/// that what one sees the other sees.
fn blank(mut area: &mut [u8]) {
    loop {
        let len = match *area {
            [] | [OPTION_END, ..] | [_] => return,
            [OPTION_NOP, ..] => 1,
            [_, len, ..] if len < 2 => return,
            [_, len, ..] => usize::from(len),
        };
        let Some((option, rest)) = area.split_at_mut_checked(len) else { return };
        if let [kind, _, value @ ..] = &*option
            && parse::is_fast_open(*kind, value)
        {
            option.fill(OPTION_NOP);
        }
        area = rest;
    }
}
