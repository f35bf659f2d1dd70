//! ICMP (RFC 792), ICMPv6 (RFC 4443), and the packets that their errors quote.
//!
//! A quoted packet proves nothing by its lengths and checksums: it was cut, and
//! routers on its way may have changed it. Only what names a connection is read.

use std::net::IpAddr;

use super::{
    super::{
        checksum::Sum,
        packet::{Embedded, IcmpMessage, Protocol},
        seq::SeqNum,
    },
    Body, Fragment, Malformed, ipv4, ipv6,
};

/// Octets before the quoted packet, and the shortest message of either family.
const HEADER: usize = 8;

/// What of the quoted transport header must be there (RFC 792).
const QUOTED: usize = 8;

/// The types of one family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Family {
    V4,
    V6,
}

impl Family {
    const fn is_echo_request(self, kind: u8) -> bool {
        matches!((self, kind), (Self::V4, 8) | (Self::V6, 128))
    }

    const fn is_echo_reply(self, kind: u8) -> bool {
        matches!((self, kind), (Self::V4, 0) | (Self::V6, 129))
    }

    /// RFC 1122 §3.2.2 (unreachable, source quench, redirect, time exceeded,
    /// parameter problem); RFC 4443 §2.1.
    const fn is_error(self, kind: u8) -> bool {
        match self {
            Self::V4 => matches!(kind, 3 | 4 | 5 | 11 | 12),
            Self::V6 => matches!(kind, 1..=4),
        }
    }
}

/// Reads an ICMP message.
pub(super) fn v4<'a>(body: &Body<'a>, verify: bool) -> Result<IcmpMessage<'a>, Malformed> {
    if verify && body.len >= HEADER as u32 && !Sum::new().bytes(body.bytes).is_sound() {
        return Err(Malformed::IcmpChecksum);
    }
    message(body, Family::V4)
}

/// Reads an ICMPv6 message. `pseudo` are the addresses to verify the checksum with.
pub(super) fn v6<'a>(
    body: &Body<'a>,
    pseudo: Option<(IpAddr, IpAddr)>,
) -> Result<IcmpMessage<'a>, Malformed> {
    if let Some((src, dst)) = pseudo
        && body.len >= HEADER as u32
        && !Sum::pseudo(src, dst, Protocol::ICMPV6, body.len).bytes(body.bytes).is_sound()
    {
        return Err(Malformed::IcmpChecksum);
    }
    message(body, Family::V6)
}

fn message<'a>(body: &Body<'a>, family: Family) -> Result<IcmpMessage<'a>, Malformed> {
    let (fixed, rest) = body.split::<HEADER>(Malformed::IcmpTooShort)?;
    let [kind, code, _, _, id_high, id_low, ..] = *fixed;
    let id = u16::from_be_bytes([id_high, id_low]);
    if family.is_echo_request(kind) {
        Ok(IcmpMessage::EchoRequest { id })
    } else if family.is_echo_reply(kind) {
        Ok(IcmpMessage::EchoReply { id })
    } else if family.is_error(kind) {
        let quote = Quote { bytes: rest, len: body.len.saturating_sub(HEADER as u32) };
        let embedded = match family {
            Family::V4 => quote.v4()?,
            Family::V6 => quote.v6()?,
        };
        Ok(IcmpMessage::Error { kind, code, embedded })
    } else {
        Ok(IcmpMessage::Other { kind, code, body: body.bytes.get(4..).unwrap_or_default() })
    }
}

/// The octets that an error quotes.
#[derive(Clone, Copy, Debug)]
struct Quote<'a> {
    /// Those that were copied.
    bytes: &'a [u8],
    /// How many there are.
    len: u32,
}

impl<'a> Quote<'a> {
    /// The octets from `offset`, at least `N` of them.
    fn at<const N: usize>(&self, offset: u32) -> Result<&'a [u8; N], Malformed> {
        let rest = self.bytes.get(offset as usize..).unwrap_or_default();
        rest.first_chunk::<N>().ok_or_else(|| self.why_missing())
    }

    /// Why octets are missing: the quote ended, or the copy.
    fn why_missing(&self) -> Malformed {
        if (self.bytes.len() as u32) < self.len { Malformed::CutOff } else { Malformed::EmbeddedTooShort }
    }

    fn v4(&self) -> Result<Embedded, Malformed> {
        let fixed = self.at::<{ ipv4::SHORTEST }>(0)?;
        let header_len = ipv4::header_len(fixed);
        if fixed[0] >> 4 != 4 || header_len < ipv4::SHORTEST as u32 {
            return Err(Malformed::EmbeddedHeader);
        }
        if ipv4::is_later_fragment(fixed) {
            return Err(Malformed::EmbeddedFragment);
        }
        let (src, dst) = ipv4::addresses(fixed);
        self.transport(src.into(), dst.into(), Protocol(fixed[9]), header_len, Family::V4)
    }

    fn v6(&self) -> Result<Embedded, Malformed> {
        let fixed = self.at::<{ ipv6::FIXED }>(0)?;
        if fixed[0] >> 4 != 6 {
            return Err(Malformed::EmbeddedHeader);
        }
        let len = u32::from(u16::from_be_bytes([fixed[4], fixed[5]])).saturating_add(ipv6::FIXED as u32);
        let chain = ipv6::chain(self.bytes, fixed[6], len).map_err(|reason| {
            if reason == Malformed::CutOff { self.why_missing() } else { Malformed::EmbeddedHeader }
        })?;
        if chain.fragment == Fragment::Later {
            return Err(Malformed::EmbeddedFragment);
        }
        let (src, dst) = ipv6::addresses(fixed);
        self.transport(src.into(), dst.into(), chain.protocol, chain.offset, Family::V6)
    }

    /// Reads the ports of the quoted transport header at `offset`.
    fn transport(
        &self,
        src: IpAddr,
        dst: IpAddr,
        protocol: Protocol,
        offset: u32,
        family: Family,
    ) -> Result<Embedded, Malformed> {
        let mut embedded = Embedded { src, dst, protocol, src_port: 0, dst_port: 0, seq: None };
        let ours = match family {
            Family::V4 => Protocol::ICMP,
            Family::V6 => Protocol::ICMPV6,
        };
        if ![Protocol::TCP, Protocol::UDP, ours].contains(&protocol) {
            return Ok(embedded);
        }
        let [a, b, c, d, e, f, g, h] = *self.at::<QUOTED>(offset)?;
        if protocol != ours {
            embedded.src_port = u16::from_be_bytes([a, b]);
            embedded.dst_port = u16::from_be_bytes([c, d]);
            embedded.seq = (protocol == Protocol::TCP).then(|| SeqNum(u32::from_be_bytes([e, f, g, h])));
        } else if family.is_error(a) {
            return Err(Malformed::EmbeddedError);
        } else if family.is_echo_request(a) || family.is_echo_reply(a) {
            let id = u16::from_be_bytes([e, f]);
            embedded.src_port = id;
            embedded.dst_port = id;
        }
        Ok(embedded)
    }
}
