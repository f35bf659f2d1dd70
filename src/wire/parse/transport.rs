//! TCP (RFC 9293 §3.1) and UDP (RFC 768) headers.

use std::net::IpAddr;

use super::{
    super::{
        checksum::Sum,
        packet::{Datagram, Flags, Protocol, Segment, TcpOptions},
        seq::SeqNum,
    },
    Body, Fragment, Malformed,
};

/// Octets of a TCP header without options.
pub(super) const TCP_SHORTEST: usize = 20;
/// Octets of a UDP header.
const UDP_HEADER: usize = 8;

/// The largest window scale shift (RFC 7323 §2.3).
const MAX_WINDOW_SCALE: u8 = 14;

const OPTION_END: u8 = 0;
const OPTION_NOP: u8 = 1;
const OPTION_MSS: u8 = 2;
const OPTION_WINDOW_SCALE: u8 = 3;
const OPTION_SACK_PERMITTED: u8 = 4;
const OPTION_SACK: u8 = 5;
const OPTION_TIMESTAMPS: u8 = 8;
const OPTION_FAST_OPEN: u8 = 34;
/// Shared experimental kind; Fast Open used it before it had its own number
/// (RFC 7413 §4.1.1, RFC 6994).
const OPTION_EXPERIMENT: u8 = 254;
const FAST_OPEN_MAGIC: [u8; 2] = [0xf9, 0x89];

/// Reads a TCP header. `pseudo` are the addresses to verify the checksum with.
pub(super) fn tcp(body: &Body<'_>, pseudo: Option<(IpAddr, IpAddr)>) -> Result<Segment, Malformed> {
    let (fixed, rest) = body.split::<TCP_SHORTEST>(Malformed::TcpTooShort)?;
    let header_len = u32::from(fixed[12] >> 4) << 2;
    let Some(options_len) = header_len.checked_sub(TCP_SHORTEST as u32) else {
        return Err(Malformed::TcpDataOffset);
    };
    let Some(options) = rest.get(..options_len as usize) else {
        return Err(body.why_missing(header_len, Malformed::TcpDataOffset));
    };
    if let Some((src, dst)) = pseudo
        && !Sum::pseudo(src, dst, Protocol::TCP, body.len).bytes(body.bytes).is_sound()
    {
        return Err(Malformed::TcpChecksum);
    }
    let flags = Flags(fixed[13]);
    Ok(Segment {
        src_port: u16::from_be_bytes([fixed[0], fixed[1]]),
        dst_port: u16::from_be_bytes([fixed[2], fixed[3]]),
        seq: SeqNum(u32::from_be_bytes([fixed[4], fixed[5], fixed[6], fixed[7]])),
        ack: SeqNum(u32::from_be_bytes([fixed[8], fixed[9], fixed[10], fixed[11]])),
        flags,
        window: u16::from_be_bytes([fixed[14], fixed[15]]),
        payload_len: body.len.saturating_sub(header_len),
        options: options_of(options, flags.contains(Flags::SYN)),
    })
}

/// Reads the options as Linux does: the rest of a broken option area is ignored,
/// an option of the wrong length is skipped, of two alike the last one counts,
/// and those that only a SYN may carry are not seen elsewhere.
#[inline(always)]
pub(super) fn options_of(area: &[u8], syn: bool) -> TcpOptions {
    match *area {
        [] => TcpOptions::default(),
        // What nearly every segment of a connection with timestamps carries.
        [OPTION_NOP, OPTION_NOP, OPTION_TIMESTAMPS, 10, a, b, c, d, e, f, g, h] => {
            let timestamps = Some((u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h])));
            TcpOptions { timestamps, ..TcpOptions::default() }
        }
        _ => each_option(area, syn),
    }
}

fn each_option(mut area: &[u8], syn: bool) -> TcpOptions {
    let mut options = TcpOptions::default();
    loop {
        match *area {
            [] | [OPTION_END, ..] | [_] => return options,
            [OPTION_NOP, ref rest @ ..] => area = rest,
            [kind, len, ref rest @ ..] => {
                let value = usize::from(len).checked_sub(2).and_then(|len| rest.split_at_checked(len));
                let Some((value, rest)) = value else { return options };
                read_option(&mut options, kind, value, syn);
                area = rest;
            }
        }
    }
}

fn read_option(options: &mut TcpOptions, kind: u8, value: &[u8], syn: bool) {
    match (kind, value) {
        (OPTION_MSS, &[high, low]) if syn => options.mss = Some(u16::from_be_bytes([high, low])),
        (OPTION_WINDOW_SCALE, &[shift]) if syn => {
            options.window_scale = Some(shift.min(MAX_WINDOW_SCALE));
        }
        (OPTION_SACK_PERMITTED, []) if syn => options.sack_permitted = true,
        (OPTION_TIMESTAMPS, &[a, b, c, d, e, f, g, h]) => {
            options.timestamps = Some((u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h])));
        }
        (OPTION_SACK, blocks) if blocks.len() & 7 == 0 => {
            for block in blocks.as_chunks::<8>().0 {
                let right = SeqNum(u32::from_be_bytes([block[4], block[5], block[6], block[7]]));
                options.sack_high = Some(options.sack_high.map_or(right, |high| high.latest(right)));
            }
        }
        _ if syn && is_fast_open(kind, value) => options.fast_open = true,
        _ => {}
    }
}

/// Whether an option is Fast Open's, cookie or request.
pub(in crate::wire) fn is_fast_open(kind: u8, value: &[u8]) -> bool {
    match kind {
        OPTION_FAST_OPEN => true,
        OPTION_EXPERIMENT => value.starts_with(&FAST_OPEN_MAGIC),
        _ => false,
    }
}

/// Reads a UDP header.
///
/// The UDP length may be smaller than what IP carries: receivers cut the rest
/// off (RFC 9868 puts options there). Only a first fragment may be shorter.
/// Checksum zero means none, over IPv6 too: tunnels may leave it out (RFC 6935
/// §5), and a middle box must let them (RFC 6936 §5, requirements 8 to 10).
pub(super) fn udp(body: &Body<'_>, pseudo: Option<(IpAddr, IpAddr)>) -> Result<Datagram, Malformed> {
    let (fixed, _) = body.split::<UDP_HEADER>(Malformed::UdpTooShort)?;
    let len = u32::from(u16::from_be_bytes([fixed[4], fixed[5]]));
    if len < UDP_HEADER as u32 || (len > body.len && body.fragment == Fragment::Whole) {
        return Err(Malformed::UdpLength);
    }
    if let Some((src, dst)) = pseudo
        && [fixed[6], fixed[7]] != [0, 0]
    {
        let covered = body.bytes.get(..len as usize).unwrap_or(body.bytes);
        if !Sum::pseudo(src, dst, Protocol::UDP, len).bytes(covered).is_sound() {
            return Err(Malformed::UdpChecksum);
        }
    }
    Ok(Datagram {
        src_port: u16::from_be_bytes([fixed[0], fixed[1]]),
        dst_port: u16::from_be_bytes([fixed[2], fixed[3]]),
    })
}
