//! Reading captures: pcap and pcapng, record by record, and where one is broken.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use pcap_parser::{Block, Linktype, PcapBlockOwned, PcapError, PcapHeader, create_reader};

use self::records::Records;
use super::link::Link;

mod records;

/// Octets read at once: few enough that they don't push everything else out of the
/// nearer caches.
const BUFFER: usize = 1 << 17;

/// Packets that are given at once, at most.
const AT_ONCE: usize = 64;

/// The longest record that is believed; the format's own tools stop there too.
const LONGEST: usize = 16 << 20;

/// A frame of a capture, from its IP header on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame<'a> {
    /// Its number in the capture, from 1.
    pub(super) number: u64,
    /// Milliseconds since 1970; `None`: the capture does not say.
    pub(super) at: Option<u64>,
    /// The IP packet as far as it was recorded. Empty: it is no IP packet.
    pub(super) bytes: &'a [u8],
    /// Octets of the IP packet on the wire, padding of the link included.
    pub(super) wire_len: u32,
}

/// Who is given frames.
pub(super) trait Takes {
    /// Frames that follow each other in the file, and where the last one ends.
    fn frames(&mut self, frames: &[Frame<'_>], place: Place);
}

/// Where reading has come to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Place {
    /// Packets read.
    pub(super) packets: u64,
    /// Octets read.
    pub(super) offset: u64,
}

/// A capture that can't be read on.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    /// Not even begun.
    #[error("{}: {source}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It does not begin as a capture does.
    #[error("{}: {why}", .path.display())]
    NoCapture {
        /// The file.
        path: PathBuf,
        /// Why.
        why: &'static str,
    },
    /// Something is wrong behind the beginning.
    #[error(
        "{}: packet {packet}, at octet {offset}: {why}; what was read until then counts", .path.display()
    )]
    At {
        /// The file.
        path: PathBuf,
        /// The packet that could not be read, from 1.
        packet: u64,
        /// Where its record begins.
        offset: u64,
        /// What is wrong.
        why: String,
    },
}

/// How an interface of a capture tells time and wraps packets.
#[derive(Clone, Copy, Debug)]
struct Interface {
    number: Linktype,
    link: Option<Link>,
    snap_len: u32,
    clock: Clock,
}

/// Units of a time stamp.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Clock {
    per_second: u64,
    offset_seconds: i64,
}

impl Clock {
    const MICRO: Self = Self { per_second: 1_000_000, offset_seconds: 0 };

    /// pcapng's `if_tsresol`: a power of ten, or with the highest bit set of two.
    fn new(resolution: u8, offset_seconds: i64) -> Option<Self> {
        let exponent = u32::from(resolution & 0x7f);
        let per_second = if resolution & 0x80 == 0 {
            10_u64.checked_pow(exponent)
        } else {
            1_u64.checked_shl(exponent).filter(|units| *units != 0)
        };
        per_second.map(|per_second| Self { per_second, offset_seconds })
    }

    fn milliseconds(self, units: u64) -> u64 {
        let seconds = (units / self.per_second).saturating_add_signed(self.offset_seconds);
        let rest = u128::from(units % self.per_second) * 1000 / u128::from(self.per_second);
        seconds.saturating_mul(1000).saturating_add(u64::try_from(rest).unwrap_or(0))
    }
}

/// Reads that fill what they are given, so that a pipe looks like a file.
struct Whole<R>(R);

impl<R: Read> Read for Whole<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < into.len() {
            match self.0.read(&mut into[filled..]) {
                Ok(0) => break,
                Ok(more) => filled += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }
}

/// What is known while reading.
struct Reading<'p> {
    path: &'p Path,
    place: Place,
    interfaces: Vec<Interface>,
    records: Records,
}

impl Reading<'_> {
    fn broken(&self, why: impl Into<String>) -> Broken {
        Broken::At {
            path: self.path.to_owned(),
            packet: self.place.packets + 1,
            offset: self.place.offset,
            why: why.into(),
        }
    }

    fn no_capture(&self, why: &'static str) -> Broken {
        Broken::NoCapture { path: self.path.to_owned(), why }
    }

    /// Takes what a record says of those behind it.
    fn describe(&mut self, block: &PcapBlockOwned<'_>) -> Result<(), Broken> {
        match block {
            PcapBlockOwned::LegacyHeader(header) => {
                self.records = Records::Pcap { is_big_endian: header.is_bigendian() };
                self.interfaces = vec![legacy(header)];
                self.check_link(0)
            }
            PcapBlockOwned::NG(Block::SectionHeader(section)) => {
                self.records = Records::PcapNg { is_big_endian: section.big_endian() };
                self.interfaces.clear();
                Ok(())
            }
            PcapBlockOwned::NG(Block::InterfaceDescription(about)) => {
                let Some(clock) = Clock::new(about.if_tsresol, about.if_tsoffset) else {
                    return Err(self.broken(format!(
                        "the interface's time resolution {:#04x} makes no sense",
                        about.if_tsresol
                    )));
                };
                self.interfaces.push(Interface {
                    number: about.linktype,
                    link: Link::of(about.linktype),
                    snap_len: about.snaplen,
                    clock,
                });
                Ok(())
            }
            PcapBlockOwned::Legacy(_)
            | PcapBlockOwned::NG(
                Block::EnhancedPacket(_)
                | Block::SimplePacket(_)
                | Block::NameResolution(_)
                | Block::InterfaceStatistics(_)
                | Block::SystemdJournalExport(_)
                | Block::DecryptionSecrets(_)
                | Block::ProcessInformation(_)
                | Block::Custom(_)
                | Block::Unknown(_),
            ) => Ok(()),
        }
    }

    /// The frame in a record, if the record is one.
    fn frame<'b>(&self, block: &PcapBlockOwned<'b>) -> Result<Option<Frame<'b>>, Broken> {
        match block {
            PcapBlockOwned::Legacy(record) => {
                let clock = self.interface(0)?.clock;
                let seconds = u64::from(record.ts_sec).saturating_mul(1000);
                let rest = u64::from(record.ts_usec).saturating_mul(1000) / clock.per_second;
                self.unwrapped(0, Some(seconds.saturating_add(rest)), record.data, record.origlen).map(Some)
            }
            PcapBlockOwned::NG(Block::EnhancedPacket(packet)) => {
                let number = packet.if_id;
                self.check_link(number)?;
                let units = u64::from(packet.ts_high) << 32 | u64::from(packet.ts_low);
                let at = self.interface(number)?.clock.milliseconds(units);
                let Some(data) = packet.data.get(..packet.caplen as usize) else {
                    return Err(self.broken("more octets are announced than the block holds"));
                };
                self.unwrapped(number, Some(at), data, packet.origlen).map(Some)
            }
            PcapBlockOwned::NG(Block::SimplePacket(packet)) => {
                self.check_link(0)?;
                let snap_len = self.interface(0)?.snap_len;
                let recorded = (packet.origlen as usize).min(packet.data.len());
                let copied = if snap_len == 0 { recorded } else { recorded.min(snap_len as usize) };
                self.unwrapped(0, None, &packet.data[..copied], packet.origlen).map(Some)
            }
            PcapBlockOwned::LegacyHeader(_) | PcapBlockOwned::NG(_) => Ok(None),
        }
    }

    /// The frames that `data` begins with, up to the first record that holds none or is
    /// not whole or not sound. Returns their octets.
    fn frames<'d>(&mut self, data: &'d [u8], into: &mut Vec<Frame<'d>>) -> usize {
        let mut rest = data;
        while into.len() < AT_ONCE && !self.interfaces.is_empty() {
            let Some((behind, block)) = self.records.first(rest) else { break };
            let Ok(Some(frame)) = self.frame(&block) else { break };
            into.push(frame);
            self.place.packets += 1;
            rest = behind;
        }
        data.len() - rest.len()
    }

    fn interface(&self, number: u32) -> Result<&Interface, Broken> {
        let interface = self.interfaces.get(number as usize);
        interface.ok_or_else(|| self.broken(format!("interface {number} was never described")))
    }

    fn check_link(&self, number: u32) -> Result<(), Broken> {
        let interface = self.interface(number)?;
        if interface.link.is_some() {
            return Ok(());
        }
        Err(self.broken(format!(
            "link type {} is not understood (understood are Ethernet, raw IP, Linux cooked v1 and v2, \
             null/loopback)",
            interface.number.0
        )))
    }

    fn unwrapped<'b>(
        &self,
        number: u32,
        at: Option<u64>,
        data: &'b [u8],
        len: u32,
    ) -> Result<Frame<'b>, Broken> {
        let offset = self.interface(number)?.link.and_then(|link| link.ip_offset(data));
        // A record that says less than it holds is one of a broken writer.
        let len = len.max(u32::try_from(data.len()).unwrap_or(u32::MAX));
        let number = self.place.packets + 1;
        Ok(match offset {
            Some(offset) => Frame {
                number,
                at,
                bytes: &data[offset..],
                wire_len: len.saturating_sub(u32::try_from(offset).unwrap_or(0)),
            },
            None => Frame { number, at, bytes: &[], wire_len: 0 },
        })
    }
}

fn legacy(header: &PcapHeader) -> Interface {
    // The upper bits hold the length of the frame check sequence, where it was recorded.
    let number = Linktype(header.network.0 & 0x03ff_ffff);
    let per_second = if header.is_nanosecond_precision() { 1_000_000_000 } else { 1_000_000 };
    Interface {
        number,
        link: Link::of(number),
        snap_len: header.snaplen,
        clock: Clock { per_second, ..Clock::MICRO },
    }
}

/// What a file is that is not a capture, by its first octets, and what to do.
const STRANGERS: [(&[u8], &str); 8] = [
    (b"\x1f\x8b", "it is compressed: zcat FILE | halfgate replay -"),
    (b"\x28\xb5\x2f\xfd", "it is compressed: zstdcat FILE | halfgate replay -"),
    (b"\xfd7zXZ", "it is compressed: xzcat FILE | halfgate replay -"),
    (b"BZh", "it is compressed: bzcat FILE | halfgate replay -"),
    (b"\x04\x22\x4d\x18", "it is compressed: lz4cat FILE | halfgate replay -"),
    (b"\x34\xcd\xb2\xa1", "a modified pcap format: editcap -F pcap FILE NEW makes a usual one"),
    (b"\xa1\xb2\xcd\x34", "a modified pcap format: editcap -F pcap FILE NEW makes a usual one"),
    (b"snoop\0", "a snoop capture: editcap -F pcap FILE NEW makes a usual one"),
];

/// How captures begin: pcap in both byte orders and resolutions, and pcapng.
const MAGICS: [[u8; 4]; 5] = [
    [0xa1, 0xb2, 0xc3, 0xd4],
    [0xd4, 0xc3, 0xb2, 0xa1],
    [0xa1, 0xb2, 0x3c, 0x4d],
    [0x4d, 0x3c, 0xb2, 0xa1],
    [0x0a, 0x0d, 0x0d, 0x0a],
];

/// Gives `each` every frame of a capture, in the order of the file; `-` is
/// standard input.
///
/// # Errors
/// [`Broken`], wherever the file can't be read on; the frames before were given.
pub(super) fn read(path: &Path, each: &mut impl Takes) -> Result<Place, Broken> {
    if path == Path::new("-") {
        return read_from(path, io::stdin(), each);
    }
    let file = File::open(path)
        .and_then(|file| {
            let is_directory = file.metadata().is_ok_and(|about| about.is_dir());
            if is_directory { Err(io::Error::from(io::ErrorKind::IsADirectory)) } else { Ok(file) }
        })
        .map_err(|source| Broken::Unreadable { path: path.to_owned(), source })?;
    read_from(path, file, each)
}

/// As [`read`], from anything; `path` is its name.
///
/// # Errors
/// As [`read`].
pub(super) fn read_from(
    path: &Path,
    input: impl Read + Send,
    each: &mut impl Takes,
) -> Result<Place, Broken> {
    let mut reading = Reading {
        path,
        place: Place::default(),
        interfaces: Vec::new(),
        records: Records::Pcap { is_big_endian: false },
    };
    let mut input = Whole(input);
    let mut start = [0; 6];
    let len =
        input.read(&mut start).map_err(|source| Broken::Unreadable { path: path.to_owned(), source })?;
    let start = &start[..len];
    if let Some((_, why)) = STRANGERS.iter().find(|(magic, _)| start.starts_with(magic)) {
        return Err(reading.no_capture(why));
    }
    let begins = |magic: &[u8; 4]| len > 0 && (start.starts_with(magic) || magic.starts_with(start));
    if len > 0 && !MAGICS.iter().any(begins) {
        return Err(reading.no_capture("neither pcap nor pcapng: it does not begin as they do"));
    }
    let mut reader = create_reader(BUFFER, Whole(start.chain(input))).map_err(|error| match error {
        PcapError::Eof => reading.no_capture("the file is empty"),
        PcapError::ReadError => reading.no_capture("it can't be read"),
        PcapError::Incomplete(_) | PcapError::UnexpectedEof => {
            reading.no_capture("the file ends in the middle of its own header")
        }
        PcapError::BufferTooSmall
        | PcapError::HeaderNotRecognized
        | PcapError::NomError(..)
        | PcapError::OwnedNomError(..) => reading.no_capture("its own header makes no sense"),
    })?;
    let mut capacity = BUFFER;
    loop {
        let mut frames = Vec::with_capacity(AT_ONCE);
        let octets = reading.frames(reader.data(), &mut frames);
        if octets > 0 {
            reading.place.offset += octets as u64;
            each.frames(&frames, reading.place);
            // Moving the rest to the front can wait until more is read.
            reader.consume_noshift(octets);
            continue;
        }
        if reading.records.is_too_short(reader.data()) {
            return Err(reading.broken(NONSENSE));
        }
        let trouble = match reader.next() {
            Ok((len, block)) => {
                reading.describe(&block)?;
                // Sound packets were among the frames.
                reading.frame(&block)?;
                reading.place.offset += len as u64;
                reader.consume(len);
                continue;
            }
            Err(trouble) => Trouble::of(&trouble),
        };
        match trouble {
            Trouble::End => return Ok(reading.place),
            Trouble::CutOff => {
                let left = reader.data().len();
                return Err(reading.broken(format!("the file ends in the middle of it, after {left} octets")));
            }
            Trouble::TooSmall if capacity >= LONGEST => {
                return Err(reading.broken(format!("it claims to be longer than {} MiB", LONGEST >> 20)));
            }
            Trouble::TooSmall => {
                capacity *= 2;
                reader.grow(capacity);
                reader.refill().map_err(|_| reading.broken("the file can't be read"))?;
            }
            Trouble::More => reader.refill().map_err(|_| reading.broken("the file can't be read"))?,
            Trouble::Nonsense => return Err(reading.broken(NONSENSE)),
        }
    }
}

const NONSENSE: &str = "the record makes no sense";

/// Why there is no next record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Trouble {
    End,
    CutOff,
    TooSmall,
    More,
    Nonsense,
}

impl Trouble {
    const fn of(error: &PcapError<&[u8]>) -> Self {
        match error {
            PcapError::Eof => Self::End,
            PcapError::UnexpectedEof => Self::CutOff,
            PcapError::BufferTooSmall => Self::TooSmall,
            PcapError::Incomplete(_) => Self::More,
            PcapError::ReadError
            | PcapError::HeaderNotRecognized
            | PcapError::NomError(..)
            | PcapError::OwnedNomError(..) => Self::Nonsense,
        }
    }
}
