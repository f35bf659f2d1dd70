//! SYN and SYN-ACK, into a buffer that its caller keeps: many are made in a flood.

use std::net::IpAddr;

use super::{
    super::{
        checksum::Sum,
        packet::{Flags, Protocol},
        seq::SeqNum,
    },
    FourTuple, HOP_LIMIT, put,
};

/// The maximum segment sizes that everybody takes (RFC 9293 §3.7.1).
const MSS: (u16, u16) = (536, 1220);

/// Octets of the TCP header with that option.
const TCP_LEN: u8 = 24;

/// Writes a SYN, or with an acknowledgement a SYN-ACK, in place of what `out` holds, IP
/// header first. Addresses of two families make an empty packet.
pub fn opening(tuple: FourTuple, seq: SeqNum, ack: Option<SeqNum>, out: &mut Vec<u8>) {
    out.clear();
    let mss = match (tuple.src, tuple.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            // Identification 0 is fine for what is never fragmented (RFC 6864 §4.1).
            out.extend_from_slice(&[
                0x45,
                0,
                0,
                20 + TCP_LEN,
                0,
                0,
                0x40,
                0,
                HOP_LIMIT,
                Protocol::TCP.0,
                0,
                0,
            ]);
            out.extend_from_slice(&src.octets());
            out.extend_from_slice(&dst.octets());
            let checksum = Sum::new().bytes(out).checksum();
            put(out, 10, checksum.to_be_bytes());
            MSS.0
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            out.extend_from_slice(&[0x60, 0, 0, 0, 0, TCP_LEN, Protocol::TCP.0, HOP_LIMIT]);
            out.extend_from_slice(&src.octets());
            out.extend_from_slice(&dst.octets());
            MSS.1
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return,
    };
    let flags = if ack.is_some() { Flags::SYN.with(Flags::ACK) } else { Flags::SYN };
    let start = out.len();
    out.extend_from_slice(&tuple.src_port.to_be_bytes());
    out.extend_from_slice(&tuple.dst_port.to_be_bytes());
    out.extend_from_slice(&seq.0.to_be_bytes());
    out.extend_from_slice(&ack.unwrap_or_default().0.to_be_bytes());
    // Header length in words, control bits, window, checksum and urgent pointer.
    out.extend_from_slice(&[(TCP_LEN >> 2) << 4, flags.0, 0xff, 0xff, 0, 0, 0, 0]);
    let [high, low] = mss.to_be_bytes();
    out.extend_from_slice(&[2, 4, high, low]);
    let segment = out.get(start..).unwrap_or_default();
    let checksum = Sum::pseudo(tuple.src, tuple.dst, Protocol::TCP, TCP_LEN.into()).bytes(segment).checksum();
    put(out, start.saturating_add(16), checksum.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::{super::super::SegmentBuilder, *};

    #[test]
    fn it_is_what_the_builder_of_any_segment_makes() {
        for (src, dst, mss) in [("192.0.2.1", "198.51.100.2", 536), ("2001:db8::1", "2001:db8::2", 1220)] {
            let tuple = FourTuple {
                src: src.parse().unwrap(),
                src_port: 80,
                dst: dst.parse().unwrap(),
                dst_port: 40_000,
            };
            let (seq, ack) = (SeqNum(0x1234_5678), SeqNum(0xfedc_ba98));
            let syn = SegmentBuilder::new(tuple).flags(Flags::SYN).seq(seq).mss(mss);
            let mut out = vec![7; 3];
            opening(tuple, seq, None, &mut out);
            assert_eq!(out, syn.build().bytes);
            opening(tuple, seq, Some(ack), &mut out);
            assert_eq!(out, syn.ack(ack).build().bytes);
        }
    }
}
