//! TCP segments with everything that a test may want to say.

use super::{
    super::{
        checksum::Sum,
        packet::{Flags, Protocol, TcpOptions},
        seq::SeqNum,
    },
    FourTuple, HOP_LIMIT, RawPacket, ip_with_hop_limit, put,
};

/// Octets of a TCP header without options.
const TCP_HEADER: usize = 20;

/// Octets of options that a data offset of 15 leaves room for.
const MAX_OPTIONS: usize = 40;

/// Describes a TCP segment, field by field, and builds it.
///
/// ```
/// use halfgate::wire::{Flags, FourTuple, SegmentBuilder, SeqNum};
///
/// let tuple = FourTuple {
///     src: [192, 0, 2, 1].into(), src_port: 4000,
///     dst: [198, 51, 100, 2].into(), dst_port: 80,
/// };
/// let syn = SegmentBuilder::new(tuple).flags(Flags::SYN).seq(SeqNum(1)).mss(1460).window_scale(7).build();
/// let data = SegmentBuilder::new(tuple).seq(SeqNum(2)).ack(SeqNum(9)).payload(b"GET /").build();
/// assert_eq!(data.bytes.len(), 20 + 20 + 5);
/// # let _ = syn;
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
#[must_use]
pub struct SegmentBuilder {
    tuple: FourTuple,
    seq: SeqNum,
    ack: SeqNum,
    flags: Flags,
    window: u16,
    hop_limit: u8,
    options: Vec<u8>,
    payload: Vec<u8>,
}

impl SegmentBuilder {
    /// A segment without flags, options and data; sequence numbers are 0, the
    /// window is 65535.
    pub const fn new(tuple: FourTuple) -> Self {
        Self {
            tuple,
            seq: SeqNum(0),
            ack: SeqNum(0),
            flags: Flags(0),
            window: u16::MAX,
            hop_limit: HOP_LIMIT,
            options: Vec::new(),
            payload: Vec::new(),
        }
    }

    /// Sets SEG.SEQ.
    pub const fn seq(mut self, seq: SeqNum) -> Self {
        self.seq = seq;
        self
    }

    /// Sets SEG.ACK and the ACK flag.
    pub const fn ack(mut self, ack: SeqNum) -> Self {
        self.ack = ack;
        self.flags = self.flags.with(Flags::ACK);
        self
    }

    /// Adds control bits.
    pub const fn flags(mut self, flags: Flags) -> Self {
        self.flags = self.flags.with(flags);
        self
    }

    /// Sets SEG.WND as it is on the wire, not scaled.
    pub const fn window(mut self, window: u16) -> Self {
        self.window = window;
        self
    }

    /// Sets TTL or hop limit.
    pub const fn hop_limit(mut self, hop_limit: u8) -> Self {
        self.hop_limit = hop_limit;
        self
    }

    /// Adds the maximum segment size (RFC 9293 §3.7.1).
    pub fn mss(self, mss: u16) -> Self {
        self.option(2, &mss.to_be_bytes())
    }

    /// Adds the window scale (RFC 7323 §2), whatever its value.
    pub fn window_scale(self, shift: u8) -> Self {
        self.option(3, &[shift])
    }

    /// Adds SACK permitted (RFC 2018 §2).
    pub fn sack_permitted(self) -> Self {
        self.option(4, &[])
    }

    /// Adds SACK blocks, left and right edge each (RFC 2018 §3).
    pub fn sack(self, blocks: &[(SeqNum, SeqNum)]) -> Self {
        let octets: Vec<u8> = blocks
            .iter()
            .flat_map(|(left, right)| [left.0.to_be_bytes(), right.0.to_be_bytes()])
            .flatten()
            .collect();
        self.option(5, &octets)
    }

    /// Adds timestamps, TSval and TSecr (RFC 7323 §3.2).
    pub fn timestamps(self, value: u32, echo: u32) -> Self {
        let [a, b, c, d] = value.to_be_bytes();
        let [e, f, g, h] = echo.to_be_bytes();
        self.option(8, &[a, b, c, d, e, f, g, h])
    }

    /// Adds Fast Open, with a cookie or, without one, its request (RFC 7413 §4.1.1).
    pub fn fast_open(self, cookie: &[u8]) -> Self {
        self.option(34, cookie)
    }

    /// Adds what [`super::super::parse()`] would have read these options from; the
    /// highest SACK edge as one block of one octet.
    pub fn options(mut self, options: &TcpOptions) -> Self {
        if let Some(mss) = options.mss {
            self = self.mss(mss);
        }
        if let Some(shift) = options.window_scale {
            self = self.window_scale(shift);
        }
        if options.sack_permitted {
            self = self.sack_permitted();
        }
        if let Some((value, echo)) = options.timestamps {
            self = self.timestamps(value, echo);
        }
        if options.fast_open {
            self = self.fast_open(&[]);
        }
        if let Some(high) = options.sack_high {
            self = self.sack(&[(high.minus(1), high)]);
        }
        self
    }

    /// Adds an option by its number. One that there is no room for (a header has
    /// 40 octets of options) is left out whole.
    pub fn option(mut self, kind: u8, value: &[u8]) -> Self {
        let len = value.len().saturating_add(2);
        if let Ok(octet) = u8::try_from(len)
            && self.options.len().saturating_add(len) <= MAX_OPTIONS
        {
            self.options.extend_from_slice(&[kind, octet]);
            self.options.extend_from_slice(value);
        }
        self
    }

    /// Sets the option area as it stands on the wire, right or wrong, in place of
    /// what was added. Cut to 40 octets, filled up to a multiple of four with
    /// end-of-options.
    pub fn raw_options(mut self, area: &[u8]) -> Self {
        self.options = area.get(..MAX_OPTIONS).unwrap_or(area).to_vec();
        self
    }

    /// Sets the data.
    pub fn payload(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    /// Sets the data to this many zeros.
    pub fn payload_len(mut self, octets: usize) -> Self {
        self.payload = vec![0; octets];
        self
    }

    /// The finished packet.
    #[must_use]
    pub fn build(&self) -> RawPacket {
        let header_len = TCP_HEADER.saturating_add(self.options.len()).next_multiple_of(4);
        let words = u8::try_from(header_len >> 2).unwrap_or(15);
        let mut segment = Vec::with_capacity(header_len.saturating_add(self.payload.len()));
        segment.extend_from_slice(&self.tuple.src_port.to_be_bytes());
        segment.extend_from_slice(&self.tuple.dst_port.to_be_bytes());
        segment.extend_from_slice(&self.seq.0.to_be_bytes());
        segment.extend_from_slice(&self.ack.0.to_be_bytes());
        segment.extend_from_slice(&[words << 4, self.flags.0]);
        segment.extend_from_slice(&self.window.to_be_bytes());
        // Checksum, to be filled in, and urgent pointer.
        segment.extend_from_slice(&[0; 4]);
        segment.extend_from_slice(&self.options);
        segment.resize(header_len, 0);
        segment.extend_from_slice(&self.payload);
        let FourTuple { src, dst, .. } = self.tuple;
        let len = u32::try_from(segment.len()).unwrap_or(u32::MAX);
        let checksum = Sum::pseudo(src, dst, Protocol::TCP, len).bytes(&segment).checksum();
        put(&mut segment, 16, checksum.to_be_bytes());
        ip_with_hop_limit(src, dst, Protocol::TCP, self.hop_limit, &segment)
    }
}
