//! A segment on its way, and how a trace writes it.

use std::fmt;

use halfgate::wire::{Flags, FourTuple, RawPacket, Segment, SegmentBuilder, SeqNum, TcpOptions};

/// One of the two ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    A,
    B,
}

impl Side {
    pub const BOTH: [Self; 2] = [Self::A, Self::B];

    pub const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    pub const fn tuple(self) -> FourTuple {
        let there = FourTuple {
            src: std::net::IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 7)),
            src_port: 4000,
            dst: std::net::IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 20)),
            dst_port: 80,
        };
        match self {
            Self::A => there,
            Self::B => there.reversed(),
        }
    }
}

/// Who really made a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// The end that it seems to come from.
    End,
    /// The gateway: halfgate's own RST, or the one that its kernel makes for verdict `Reset`.
    Gateway,
    /// Somebody beside the path.
    Attacker,
}

#[derive(Clone, Copy, Debug)]
pub struct Packet {
    pub from: Side,
    pub origin: Origin,
    pub segment: Segment,
}

/// A segment without options.
pub fn segment(from: Side, flags: Flags, seq: SeqNum, ack: SeqNum, window: u16, len: u32) -> Segment {
    let tuple = from.tuple();
    Segment {
        src_port: tuple.src_port,
        dst_port: tuple.dst_port,
        seq,
        ack,
        flags,
        window,
        payload_len: len,
        options: TcpOptions::default(),
    }
}

/// The RST that RFC 9293 §3.10.7.1 gives a segment that belongs to nothing.
pub fn answer_rst(to: &Segment, from: Side) -> Segment {
    if to.flags.contains(Flags::ACK) {
        segment(from, Flags::RST, to.ack, SeqNum(0), 0, 0)
    } else {
        segment(from, Flags::RST.with(Flags::ACK), SeqNum(0), to.end(), 0, 0)
    }
}

impl Packet {
    pub fn build(&self) -> RawPacket {
        let s = &self.segment;
        let mut builder = SegmentBuilder::new(self.from.tuple())
            .seq(s.seq)
            .window(s.window)
            .options(&s.options)
            .flags(s.flags)
            .payload_len(s.payload_len as usize);
        if s.flags.contains(Flags::ACK) {
            builder = builder.ack(s.ack);
        }
        builder.build()
    }
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = &self.segment;
        let who = match self.origin {
            Origin::End => "",
            Origin::Gateway => " (gateway)",
            Origin::Attacker => " (ATTACKER)",
        };
        write!(f, "{:?} > {:?}{who}: Flags [", self.from, self.from.other())?;
        for (flag, letter) in
            [(Flags::SYN, 'S'), (Flags::FIN, 'F'), (Flags::RST, 'R'), (Flags::PSH, 'P'), (Flags::ACK, '.')]
        {
            if s.flags.contains(flag) {
                write!(f, "{letter}")?;
            }
        }
        write!(f, "], seq {}", s.seq)?;
        if s.payload_len > 0 {
            write!(f, ":{}", s.seq.plus(s.payload_len))?;
        }
        if s.flags.contains(Flags::ACK) {
            write!(f, ", ack {}", s.ack)?;
        }
        write!(f, ", win {}", s.window)?;
        let o = &s.options;
        if let Some(shift) = o.window_scale {
            write!(f, ", wscale {shift}")?;
        }
        if let Some((value, echo)) = o.timestamps {
            write!(f, ", TS {value}/{echo}")?;
        }
        if let Some(high) = o.sack_high {
            write!(f, ", sack ..{high}")?;
        }
        if o.fast_open {
            write!(f, ", tfo")?;
        }
        write!(f, ", length {}", s.payload_len)
    }
}
