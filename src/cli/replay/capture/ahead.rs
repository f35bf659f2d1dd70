//! A look at records that are read already but whose turn has not come: their
//! packets, so that what they need can be fetched. A hint, and believed as one:
//! what makes no sense here ends the look and nothing else.

use super::Interface;

/// A frame, and the number of its interface.
type Recorded<'d> = (usize, &'d [u8]);

/// How the records of a file follow each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Records {
    Pcap { is_big_endian: bool },
    PcapNg { is_big_endian: bool },
}

impl Records {
    fn word(self, data: &[u8], at: usize) -> Option<usize> {
        let octets: [u8; 4] = data.get(at..at + 4)?.try_into().ok()?;
        let (Self::Pcap { is_big_endian } | Self::PcapNg { is_big_endian }) = self;
        let word = if is_big_endian { u32::from_be_bytes(octets) } else { u32::from_le_bytes(octets) };
        Some(word as usize)
    }

    /// The octets of the first record, and its frame if it has one.
    fn first(self, data: &[u8]) -> Option<(usize, Option<Recorded<'_>>)> {
        match self {
            Self::Pcap { .. } => {
                let end = self.word(data, 8)?.checked_add(16)?;
                Some((end, data.get(16..end).map(|frame| (0, frame))))
            }
            Self::PcapNg { .. } => {
                let (kind, len) = (self.word(data, 0)?, self.word(data, 4)?);
                if len < 12 {
                    return None;
                }
                if kind != 6 {
                    return Some((len, None));
                }
                let (interface, recorded) = (self.word(data, 8)?, self.word(data, 20)?);
                let frame = data.get(28..recorded.checked_add(28)?);
                Some((len, frame.map(|frame| (interface, frame))))
            }
        }
    }
}

/// The IP packets of the next records in `data`, as many as `into` holds; how many there are.
pub(super) fn packets<'d>(
    records: Records,
    interfaces: &[Interface],
    mut data: &'d [u8],
    into: &mut [&'d [u8]],
) -> usize {
    let mut found = 0;
    for _ in 0..into.len() {
        let Some((len, frame)) = records.first(data) else { break };
        let packet = frame.and_then(|(number, frame)| {
            let link = interfaces.get(number)?.link?;
            frame.get(link.ip_offset(frame)?..)
        });
        if let (Some(packet), Some(place)) = (packet, into.get_mut(found)) {
            *place = packet;
            found += 1;
        }
        match data.get(len..) {
            Some(rest) => data = rest,
            None => break,
        }
    }
    found
}
