//! Stories out of captures: the segments of each connection in the order in which they
//! were captured, between addresses of their own.

use std::{collections::BTreeMap, fs, net::IpAddr, path::Path};

use halfgate::wire::{self, Checksums, Segment, Transport};
use pcap_parser::{
    Block, Linktype, PcapBlockOwned, PcapError, create_reader, traits::PcapNGPacketBlock as _,
};

use super::story::{Side, Step, Story, What, tuple};

/// What a TUN device takes.
const LARGEST: u32 = 60_000;

type End = (IpAddr, u16);

/// Every TCP connection of a capture, by its ends.
pub fn stories(path: &Path, first_number: u32) -> Vec<(String, Story)> {
    let mut order: Vec<(End, End)> = Vec::new();
    let mut steps: BTreeMap<(End, End), Vec<Step>> = BTreeMap::new();
    each_packet(path, |bytes, wire_len| {
        let Ok(packet) = wire::parse_where(bytes, wire_len, Checksums::Trust, wire::Loopback::Allow) else {
            return;
        };
        let Transport::Tcp(segment) = packet.transport else { return };
        let (from, to) = ((packet.src, segment.src_port), (packet.dst, segment.dst_port));
        let (key, side) = if steps.contains_key(&(to, from)) {
            ((to, from), Side::Server)
        } else {
            ((from, to), Side::Client)
        };
        let known = steps.entry(key).or_insert_with(|| {
            order.push(key);
            Vec::new()
        });
        known.push(Step { from: side, what: What::Tcp(segment), note: "captured" });
    });
    let told = order.into_iter().zip(first_number..).map(|((from, to), number)| {
        let steps = steps.remove(&(from, to)).unwrap_or_default();
        let name = format!("{}:{}>{}:{}", from.0, from.1, to.0, to.1);
        (name, Story { tuple: tuple(number, from.0.is_ipv6()), steps })
    });
    // One with a segment too large for the device is left out whole.
    let fits = |step: &Step| !matches!(step.what, What::Tcp(Segment { payload_len: LARGEST.., .. }));
    told.filter(|(_, story)| story.steps.iter().all(fits)).collect()
}

/// Calls `each` with every IP packet of a capture and its length on the wire.
fn each_packet(path: &Path, mut each: impl FnMut(&[u8], u32)) {
    let file = fs::File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut reader = create_reader(1 << 20, file).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut links: Vec<Linktype> = Vec::new();
    loop {
        let (used, block) = match reader.next() {
            Ok(next) => next,
            Err(PcapError::Eof) => return,
            Err(PcapError::Incomplete(_)) => {
                reader.refill().unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                continue;
            }
            // A truncated capture ends here.
            Err(_) => return,
        };
        let mut packet = |link: Option<&Linktype>, data: &[u8], len: u32| {
            let ip = link.and_then(|link| ip_of(*link, data));
            if let Some(ip) = ip {
                let before = u32::try_from(data.len() - ip.len()).unwrap_or(0);
                each(ip, len.saturating_sub(before));
            }
        };
        match block {
            PcapBlockOwned::LegacyHeader(header) => links = vec![Linktype(header.network.0 & 0x03ff_ffff)],
            PcapBlockOwned::Legacy(record) => packet(links.first(), record.data, record.origlen),
            PcapBlockOwned::NG(Block::SectionHeader(_)) => links.clear(),
            PcapBlockOwned::NG(Block::InterfaceDescription(about)) => links.push(about.linktype),
            PcapBlockOwned::NG(Block::EnhancedPacket(record)) => {
                packet(links.get(record.if_id as usize), record.packet_data(), record.origlen);
            }
            PcapBlockOwned::NG(_) => {}
        }
        reader.consume(used);
    }
}

/// The IP packet in a frame.
fn ip_of(link: Linktype, data: &[u8]) -> Option<&[u8]> {
    let at = match link {
        Linktype::ETHERNET => {
            let mut at = 12;
            while matches!(data.get(at..at + 2)?, [0x81, 0x00] | [0x88, 0xa8]) {
                at += 4;
            }
            at + 2
        }
        Linktype::RAW | Linktype::IPV4 | Linktype::IPV6 => 0,
        Linktype::NULL | Linktype::LOOP => 4,
        Linktype::LINUX_SLL => 16,
        Linktype::LINUX_SLL2 => 20,
        other => panic!("link type {} is not known here", other.0),
    };
    data.get(at..).filter(|ip| matches!(ip.first().map(|octet| octet >> 4), Some(4 | 6)))
}
