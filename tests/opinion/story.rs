//! What the packets of one connection are, and how a trace writes them.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use halfgate::wire::{Flags, FourTuple, RawPacket, Segment, SegmentBuilder, build::icmp_error};

/// One of the two ends. The client is the one that opens in most stories.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
pub enum Side {
    Client,
    Server,
}

impl Side {
    pub const fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

/// What is sent.
#[derive(Clone, Copy, Debug)]
pub enum What {
    Tcp(Segment),
    /// Port unreachable or too big, about a segment of the other side's.
    Icmp {
        quoted: Segment,
        too_big: bool,
    },
}

/// One packet of a story.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    pub from: Side,
    pub what: What,
    /// What its sender meant.
    pub note: &'static str,
}

/// The packets of one connection, in the order in which they come by.
#[derive(Clone, Debug)]
pub struct Story {
    /// From client to server.
    pub tuple: FourTuple,
    pub steps: Vec<Step>,
}

/// Addresses and ports of their own for each number below 2^24.
pub fn tuple(number: u32, ipv6: bool) -> FourTuple {
    let [_, a, b, c] = number.to_be_bytes();
    let port = 10_000 + u16::from(c);
    let address = |side: u8| {
        if ipv6 {
            IpAddr::V6(Ipv6Addr::new(0xfd00, side.into(), 0, 0, 0, a.into(), b.into(), 1))
        } else {
            IpAddr::V4(Ipv4Addr::new(10, side, a, b))
        }
    };
    FourTuple { src: address(1), src_port: port, dst: address(2), dst_port: 80 }
}

impl Story {
    pub fn tuple_of(&self, from: Side) -> FourTuple {
        match from {
            Side::Client => self.tuple,
            Side::Server => self.tuple.reversed(),
        }
    }

    fn segment(&self, from: Side, s: &Segment) -> RawPacket {
        let mut builder = SegmentBuilder::new(self.tuple_of(from))
            .seq(s.seq)
            .window(s.window)
            .options(&s.options)
            .payload_len(s.payload_len as usize);
        if s.flags.contains(Flags::ACK) {
            builder = builder.ack(s.ack);
        }
        builder.flags(s.flags).build()
    }

    /// The packet as it stands on the wire.
    pub fn packet(&self, step: &Step) -> Vec<u8> {
        match &step.what {
            What::Tcp(segment) => self.segment(step.from, segment).bytes,
            What::Icmp { quoted, too_big } => {
                let quoted = self.segment(step.from.other(), quoted);
                let tuple = self.tuple_of(step.from);
                let (kind, code) = match (tuple.src.is_ipv4(), too_big) {
                    (true, false) => (3, 3),
                    (true, true) => (3, 4),
                    (false, false) => (1, 4),
                    (false, true) => (2, 0),
                };
                icmp_error(tuple.src, tuple.dst, kind, code, &quoted.bytes).bytes
            }
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let arrow = match self.from {
            Side::Client => "C > S",
            Side::Server => "S > C",
        };
        match &self.what {
            What::Tcp(segment) => write!(f, "{arrow}: {}", Shown(segment))?,
            What::Icmp { quoted, too_big } => {
                let what = if *too_big { "too big" } else { "port unreachable" };
                write!(f, "{arrow}: ICMP {what} ({})", Shown(quoted))?;
            }
        }
        write!(f, "  # {}", self.note)
    }
}

/// A segment as tcpdump would write it.
pub struct Shown<'a>(pub &'a Segment);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = self.0;
        write!(f, "[")?;
        for (flag, letter) in [
            (Flags::SYN, 'S'),
            (Flags::FIN, 'F'),
            (Flags::RST, 'R'),
            (Flags::PSH, 'P'),
            (Flags::URG, 'U'),
            (Flags::ACK, '.'),
        ] {
            if s.flags.contains(flag) {
                write!(f, "{letter}")?;
            }
        }
        write!(f, "] seq {}", s.seq)?;
        if s.payload_len > 0 {
            write!(f, "+{}", s.payload_len)?;
        }
        if s.flags.contains(Flags::ACK) {
            write!(f, " ack {}", s.ack)?;
        }
        write!(f, " win {}", s.window)?;
        let o = &s.options;
        if let Some(shift) = o.window_scale {
            write!(f, " wscale {shift}")?;
        }
        if o.sack_permitted {
            write!(f, " sackOK")?;
        }
        if let Some((value, echo)) = o.timestamps {
            write!(f, " TS {value}/{echo}")?;
        }
        if let Some(high) = o.sack_high {
            write!(f, " sack ..{high}")?;
        }
        if o.fast_open {
            write!(f, " tfo")?;
        }
        Ok(())
    }
}
