//! The records of a capture where they lie in memory: many are read at once, and
//! nothing of them is copied.

use pcap_parser::{
    Block, PcapBlockOwned, parse_block_be, parse_block_le, parse_pcap_frame, parse_pcap_frame_be,
};

/// How the records of a file follow each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Records {
    Pcap { is_big_endian: bool },
    PcapNg { is_big_endian: bool },
}

impl Records {
    /// The record that `data` begins with, and what lies behind it, if it is whole and
    /// holds a packet.
    pub(super) fn first<'d>(self, data: &'d [u8]) -> Option<(&'d [u8], PcapBlockOwned<'d>)> {
        match self {
            Self::Pcap { is_big_endian } => {
                let parse = if is_big_endian { parse_pcap_frame_be } else { parse_pcap_frame };
                parse(data).ok().map(|(rest, record)| (rest, record.into()))
            }
            Self::PcapNg { is_big_endian } => {
                let parse = if is_big_endian { parse_block_be } else { parse_block_le };
                let (rest, block) = parse(data).ok()?;
                let holds_packet = matches!(block, Block::EnhancedPacket(_) | Block::SimplePacket(_));
                holds_packet.then(|| (rest, block.into()))
            }
        }
    }
}
