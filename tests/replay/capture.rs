//! Captures as the tests make them: packets written by hand, in any container,
//! byte order, resolution and link layer.

use halfgate::wire::{Flags, FourTuple, RawPacket, SegmentBuilder, SeqNum};

/// A packet, and the milliseconds at which it was seen.
pub(crate) type Timed = (u64, Vec<u8>);

/// How a file is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Format {
    pub(crate) kind: Kind,
    pub(crate) is_big_endian: bool,
    /// Units of a time stamp: as pcapng's `if_tsresol` says it.
    pub(crate) resolution: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Pcap,
    PcapNg,
}

/// Every container in both byte orders, with every resolution that it has.
pub(crate) fn formats() -> Vec<Format> {
    let mut all = Vec::new();
    for is_big_endian in [false, true] {
        for resolution in [6, 9] {
            all.push(Format { kind: Kind::Pcap, is_big_endian, resolution });
        }
        // Seconds to nanoseconds by powers of ten, and the 1/1024 and 1/2^20 of a second.
        for resolution in [3, 6, 9, 0x8a, 0x94] {
            all.push(Format { kind: Kind::PcapNg, is_big_endian, resolution });
        }
    }
    all
}

/// What stands before an IP packet: the name, the number of the link layer, and its octets
/// for IPv4 and for IPv6.
pub(crate) type Link = (&'static str, u16, [Vec<u8>; 2]);

/// Every link layer that is understood.
pub(crate) fn links() -> Vec<Link> {
    let types = [[0x08, 0x00], [0x86, 0xdd]];
    let behind = |before: &[u8]| types.map(|ethertype| [before, &ethertype].concat());
    let ethernet = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    let on_ethernet = |more: &[u8]| behind(&[&ethernet[..], more].concat());
    let same = |octets: &[u8]| [octets.to_vec(), octets.to_vec()];
    let pppoe = |protocol: u8| [&ethernet[..], &[0x88, 0x64, 0x11, 0, 0, 1, 0, 42, 0, protocol]].concat();
    vec![
        ("Ethernet", 1, on_ethernet(&[])),
        ("VLAN", 1, on_ethernet(&[0x81, 0, 0, 7])),
        ("QinQ (802.1ad)", 1, on_ethernet(&[0x88, 0xa8, 0, 7, 0x81, 0, 0, 8])),
        ("QinQ (802.1Q twice)", 1, on_ethernet(&[0x81, 0, 0, 7, 0x81, 0, 0, 8])),
        ("QinQ (0x9100)", 1, on_ethernet(&[0x91, 0, 0, 7, 0x81, 0, 0, 8])),
        ("LLC and SNAP", 1, on_ethernet(&[0, 60, 0xaa, 0xaa, 3, 0, 0, 0])),
        ("MPLS", 1, same(&[&ethernet[..], &[0x88, 0x47, 0, 1, 0, 9, 0, 2, 1, 9]].concat())),
        ("PPPoE", 1, [pppoe(0x21), pppoe(0x57)]),
        ("raw IP", 101, same(&[])),
        ("raw IP, OpenBSD's number", 14, same(&[])),
        ("raw IP, BSD's number", 12, same(&[])),
        ("Linux cooked v1", 113, behind(&[0, 0, 0, 1, 0, 6, 2, 0, 0, 0, 0, 1, 0, 0])),
        ("Linux cooked v1, VLAN", 113, behind(&[0, 0, 0, 1, 0, 6, 2, 0, 0, 0, 0, 1, 0, 0, 0x81, 0, 0, 7])),
        ("Linux cooked v2", 276, types.map(|ethertype| [&ethertype[..], &[0; 18]].concat())),
        ("null, little-endian", 0, [vec![2, 0, 0, 0], vec![30, 0, 0, 0]]),
        ("null, big-endian", 0, [vec![0, 0, 0, 2], vec![0, 0, 0, 10]]),
        ("loopback", 108, [vec![0, 0, 0, 2], vec![0, 0, 0, 24]]),
    ]
}

/// Octets in a byte order.
struct Writer {
    is_big_endian: bool,
    out: Vec<u8>,
}

impl Writer {
    fn new(is_big_endian: bool) -> Self {
        Self { is_big_endian, out: Vec::new() }
    }

    fn short(&mut self, number: u16) -> &mut Self {
        self.out.extend(if self.is_big_endian { number.to_be_bytes() } else { number.to_le_bytes() });
        self
    }

    fn word(&mut self, number: u32) -> &mut Self {
        self.out.extend(if self.is_big_endian { number.to_be_bytes() } else { number.to_le_bytes() });
        self
    }

    fn octets(&mut self, octets: &[u8]) -> &mut Self {
        self.out.extend_from_slice(octets);
        self
    }

    /// A pcapng block.
    fn block(&mut self, kind: u32, body: &Self) -> &mut Self {
        let padding = body.out.len().next_multiple_of(4) - body.out.len();
        let len = u32::try_from(body.out.len() + padding + 12).unwrap();
        self.word(kind).word(len).octets(&body.out).octets(&vec![0; padding]).word(len)
    }
}

/// Milliseconds since 1970 in units of a resolution.
fn units(milliseconds: u64, resolution: u8) -> u64 {
    let per_second =
        if resolution & 0x80 == 0 { 10_u128.pow(u32::from(resolution)) } else { 1 << (resolution & 0x7f) };
    // Rounded up, so that it is the same millisecond again.
    u64::try_from((u128::from(milliseconds) * per_second).div_ceil(1000)).unwrap()
}

/// A file whose frames are whole.
pub(crate) fn written(format: Format, link: u16, before: &[Vec<u8>; 2], packets: &[Timed]) -> Vec<u8> {
    let frames: Vec<(u32, u64, Vec<u8>)> = packets
        .iter()
        .map(|(at, packet)| {
            let before = &before[usize::from(packet[0] >> 4 == 6)];
            (0, *at, [before, packet.as_slice()].concat())
        })
        .collect();
    match format.kind {
        Kind::Pcap => pcap(format, link, &frames),
        Kind::PcapNg => pcapng(format.is_big_endian, &[(link, format.resolution)], &frames),
    }
}

fn pcap(format: Format, link: u16, frames: &[(u32, u64, Vec<u8>)]) -> Vec<u8> {
    let magic = if format.resolution == 9 { 0xa1b2_3c4d } else { 0xa1b2_c3d4 };
    let mut file = Writer::new(format.is_big_endian);
    file.word(magic).short(2).short(4).word(0).word(0).word(262_144).word(u32::from(link));
    for (_, at, frame) in frames {
        let part = units(at % 1000, format.resolution);
        let len = u32::try_from(frame.len()).unwrap();
        file.word(u32::try_from(at / 1000).unwrap()).word(u32::try_from(part).unwrap());
        file.word(len).word(len).octets(frame);
    }
    file.out
}

/// A pcapng with some interfaces, by link layer and resolution, and frames by interface.
pub(crate) fn pcapng(
    is_big_endian: bool,
    interfaces: &[(u16, u8)],
    frames: &[(u32, u64, Vec<u8>)],
) -> Vec<u8> {
    let mut file = Writer::new(is_big_endian);
    let mut section = Writer::new(is_big_endian);
    section.word(0x1a2b_3c4d).short(1).short(0).octets(&[0xff; 8]);
    file.block(0x0a0d_0d0a, &section);
    for (link, resolution) in interfaces {
        let mut interface = Writer::new(is_big_endian);
        interface.short(*link).short(0).word(0);
        // if_name, which nobody needs, and if_tsresol.
        interface.short(2).short(3).octets(b"eth\0");
        interface.short(9).short(1).octets(&[*resolution, 0, 0, 0]).short(0).short(0);
        file.block(1, &interface);
    }
    for (number, at, frame) in frames {
        let time = units(*at, interfaces[*number as usize].1);
        let len = u32::try_from(frame.len()).unwrap();
        let mut packet = Writer::new(is_big_endian);
        packet.word(*number).word((time >> 32) as u32).word(time as u32).word(len).word(len).octets(frame);
        file.block(6, &packet);
        // Statistics stand between packets and are no packets.
        let mut statistics = Writer::new(is_big_endian);
        statistics.word(*number).word(0).word(0);
        file.block(5, &statistics);
    }
    file.out
}

/// A pcap of raw IP, as most tests need it.
pub(crate) fn plain(packets: &[Timed]) -> Vec<u8> {
    let format = Format { kind: Kind::Pcap, is_big_endian: false, resolution: 6 };
    written(format, 101, &[Vec::new(), Vec::new()], packets)
}

/// The connection that scripts speak of.
pub(crate) fn tuple(is_ipv4: bool) -> FourTuple {
    let addresses =
        if is_ipv4 { ["192.0.2.10", "198.51.100.80"] } else { ["2001:db8::10", "2001:db8:1::80"] };
    let [src, dst] = addresses.map(|text| text.parse().unwrap());
    FourTuple { src, src_port: 40_000, dst, dst_port: 8443 }
}

/// One line of a script: `> SA 99 0 10 0.5` is a SYN-ACK from the client with sequence
/// number 99, acknowledgement 0, ten octets, half a second after the line before.
/// Numbers left out are 0; `-` for flags means none; `W` a window of zero. A line
/// `port 80` changes the server's.
pub(crate) fn script(is_ipv4: bool, text: &str) -> Vec<Timed> {
    let mut at = 1_700_000_000_000_u64;
    let mut server = tuple(is_ipv4);
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let tuple = match words.next() {
                Some(">") => server,
                Some("<") => server.reversed(),
                Some("port") => {
                    server.dst_port = words.next()?.parse().unwrap();
                    return None;
                }
                other => panic!("{line}: {other:?} is neither > nor <"),
            };
            let letters = words.next().unwrap();
            let mut number = || words.next().map_or(0.0, |word| word.parse::<f64>().unwrap());
            let (seq, ack, octets, pause) = (number(), number(), number(), number());
            at += (pause * 1000.0) as u64;
            let flags = letters.chars().fold(Flags::default(), |flags, letter| {
                flags.with(match letter {
                    'S' => Flags::SYN,
                    'A' => Flags::ACK,
                    'F' => Flags::FIN,
                    'R' => Flags::RST,
                    '-' | 'W' => Flags::default(),
                    other => panic!("{line}: {other} is no flag"),
                })
            });
            let mut builder = SegmentBuilder::new(tuple).seq(SeqNum(seq as u32)).flags(flags);
            builder = builder.window(if letters.contains('W') { 0 } else { 60_000 });
            if flags.contains(Flags::ACK) {
                builder = builder.ack(SeqNum(ack as u32)).flags(flags);
            }
            let RawPacket { bytes } = builder.payload_len(octets as usize).build();
            Some((at, bytes))
        })
        .collect()
}
