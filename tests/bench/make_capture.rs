//! Writes a capture to measure `halfgate replay` with: TCP connections that begin,
//! carry data both ways and end, a share of it lost and sent again, scans,
//! datagrams and echoes, all mixed. The same arguments make the same file.
//!
//! ```text
//! cargo run --release --example make_capture -- FILE [PACKETS [CONNECTIONS [SNAPLEN]]]
//! ```

use std::{
    env,
    error::Error,
    fs::File,
    io::{BufWriter, Write},
};

use halfgate::wire::{Flags, FourTuple, RawPacket, SegmentBuilder, SeqNum, build};

/// Octets of data in a full segment.
const SEGMENT: u32 = 1448;

/// A small generator of numbers (xorshift), so that a file can be made again.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        u32::try_from((self.0 >> 16) % u64::from(limit)).unwrap_or(0)
    }
}

/// One connection, and how far it has come.
struct Story {
    tuple: FourTuple,
    step: u32,
    /// Pairs of a request and its answer.
    turns: u32,
    next: [u32; 2],
}

impl Story {
    fn new(number: u32, random: &mut Random) -> Self {
        let client = [10, 64 | (number >> 16) as u8, (number >> 8) as u8, number as u8];
        let server = [192, 0, 2, 1 + random.below(200) as u8];
        let tuple = FourTuple {
            src: client.into(),
            src_port: 1024 + random.below(60_000) as u16,
            dst: server.into(),
            dst_port: [80, 443, 22, 8443][random.below(4) as usize],
        };
        let turns = 2 + random.below(60);
        Self { tuple, step: 0, turns, next: [random.below(u32::MAX), random.below(u32::MAX)] }
    }

    fn segment(&self, end: usize) -> SegmentBuilder {
        let tuple = if end == 0 { self.tuple } else { self.tuple.reversed() };
        let builder = SegmentBuilder::new(tuple).seq(SeqNum(self.next[end])).window(u16::MAX);
        builder.ack(SeqNum(self.next[1 - end])).timestamps(self.step, self.step)
    }

    /// The next packet; `None`: it has ended.
    fn packet(&mut self, random: &mut Random) -> Option<RawPacket> {
        let closing = 3 + 4 * self.turns;
        let step = self.step;
        self.step += 1;
        let (end, flags, octets) = match step {
            0 => {
                let syn = SegmentBuilder::new(self.tuple).seq(SeqNum(self.next[0])).flags(Flags::SYN);
                let packet = syn.mss(1460).window_scale(7).timestamps(1, 0).build();
                self.next[0] = self.next[0].wrapping_add(1);
                return Some(packet);
            }
            1 => {
                let packet = self.segment(1).flags(Flags::SYN).mss(1460).window_scale(7).build();
                self.next[1] = self.next[1].wrapping_add(1);
                return Some(packet);
            }
            2 => (0, Flags::ACK, 0),
            _ if step < closing => match (step - 3) % 4 {
                0 => (0, Flags::ACK, 100 + random.below(400)),
                1 => (1, Flags::ACK, SEGMENT),
                2 => (1, Flags::ACK, random.below(SEGMENT)),
                _ => (0, Flags::ACK, 0),
            },
            _ if step == closing => (0, Flags::FIN, 0),
            _ if step == closing + 1 => (1, Flags::FIN, 0),
            _ if step == closing + 2 => (0, Flags::ACK, 0),
            _ => return None,
        };
        let payload = vec![0x20; octets as usize];
        let packet = self.segment(end).flags(flags.with(Flags::ACK)).payload(&payload).build();
        // One in a hundred is recorded twice: the first was lost.
        if octets > 0 && random.below(100) == 0 {
            self.step -= 1;
        } else {
            self.next[end] = self.next[end].wrapping_add(octets + u32::from(flags.contains(Flags::FIN)));
        }
        Some(packet)
    }
}

/// What is not TCP, or a scan.
fn other(number: u32, random: &mut Random) -> RawPacket {
    let src = [10, 32, random.below(256) as u8, random.below(256) as u8];
    let dst = [198, 51, 100, random.below(256) as u8];
    let tuple = FourTuple { src: src.into(), src_port: 20_000, dst: dst.into(), dst_port: 53 };
    match number % 4 {
        0 => SegmentBuilder::new(FourTuple { dst_port: 23, ..tuple }).flags(Flags::SYN).build(),
        1 => build::icmp_echo(tuple.src, tuple.dst, halfgate::wire::Echo::Request, 1, 1, &[0; 56]),
        2 => build::udp(tuple.reversed(), &[0; 120]),
        _ => build::udp(tuple, &[0; 40]),
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let path = arguments.next().ok_or("FILE [PACKETS [CONNECTIONS [SNAPLEN]]]")?;
    let mut number = |default: u32| arguments.next().map_or(Ok(default), |word| word.parse());
    let (packets, at_once, snap_len) = (number(3_000_000)?, number(10_000)?, number(262_144)?);
    let mut random = Random(0x6861_6c66_6761_7465);
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, snap_len, 1] {
        file.write_all(&word.to_le_bytes())?;
    }
    let mut stories: Vec<Story> = (0..at_once).map(|n| Story::new(n, &mut random)).collect();
    let mut opened = at_once;
    for written in 0..packets {
        let packet = if written % 20 == 0 {
            other(written / 20, &mut random)
        } else {
            let story = &mut stories[random.below(at_once) as usize];
            match story.packet(&mut random) {
                Some(packet) => packet,
                None => {
                    *story = Story::new(opened, &mut random);
                    opened += 1;
                    story.packet(&mut random).ok_or("a story begins with a packet")?
                }
            }
        };
        let frame = [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0][..], &packet.bytes].concat();
        let recorded = frame.len().min(snap_len as usize);
        // Two hundred thousand packets a second.
        let (second, micro) = (written / 200_000, written % 200_000 * 5);
        for word in [1_700_000_000 + second, micro, u32::try_from(recorded)?, u32::try_from(frame.len())?] {
            file.write_all(&word.to_le_bytes())?;
        }
        file.write_all(&frame[..recorded])?;
    }
    file.flush()?;
    Ok(())
}
