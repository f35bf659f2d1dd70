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

/// The smallest block: its type, and its length twice.
const SMALLEST: u32 = 12;

/// How the type of a section header begins, whose byte order may be another one.
const SECTION_HEADER: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];

impl Records {
    /// Whether `data` begins with a block that claims to be shorter than any: the parser
    /// subtracts what each has from it without looking.
    pub(super) fn is_too_short(self, data: &[u8]) -> bool {
        let Self::PcapNg { is_big_endian } = self else { return false };
        let Some((&kind, rest)) = data.split_first_chunk::<4>() else { return false };
        let Some(&len) = rest.first_chunk() else { return false };
        let len = if is_big_endian { u32::from_be_bytes(len) } else { u32::from_le_bytes(len) };
        kind != SECTION_HEADER && len < SMALLEST
    }

    /// The record that `data` begins with, and what lies behind it, if it is whole and
    /// holds a packet.
    pub(super) fn first<'d>(self, data: &'d [u8]) -> Option<(&'d [u8], PcapBlockOwned<'d>)> {
        match self {
            Self::Pcap { is_big_endian } => {
                let parse = if is_big_endian { parse_pcap_frame_be } else { parse_pcap_frame };
                parse(data).ok().map(|(rest, record)| (rest, record.into()))
            }
            Self::PcapNg { is_big_endian } => {
                if self.is_too_short(data) {
                    return None;
                }
                let parse = if is_big_endian { parse_block_be } else { parse_block_le };
                let (rest, block) = parse(data).ok()?;
                let holds_packet = matches!(block, Block::EnhancedPacket(_) | Block::SimplePacket(_));
                holds_packet.then(|| (rest, block.into()))
            }
        }
    }
}
