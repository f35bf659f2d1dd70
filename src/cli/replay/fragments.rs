//! Fragments put together, as the kernel does before it asks halfgate: an exact
//! repetition is ignored, what overlaps is thrown away whole (RFC 5722 §4), and
//! so is what is not complete in time. Bounded: a capture can't fill the memory.

use std::{collections::HashMap, net::IpAddr, time::Duration};

use crate::conntrack::Instant;

/// How long the rest is waited for (RFC 8200 §4.5; Linux' `ip6frag_time`, and
/// twice its `ipfrag_time`).
const PATIENCE: Duration = Duration::from_secs(60);

/// Octets that wait at most, as Linux' `ipfrag_high_thresh`.
const MOST_OCTETS: usize = 4 << 20;

/// Packets that wait at most.
const MOST_PACKETS: usize = 1 << 16;

/// The longest packet that can be put together.
const LONGEST: usize = 65_535;

const FRAGMENT_HEADER: u8 = 44;

/// Whether a packet may be a fragment: quick, because it is asked for all of them.
pub(super) fn may_be(bytes: &[u8]) -> bool {
    match bytes {
        [first, _, _, _, _, _, high, low, ..] if first >> 4 == 4 => {
            u16::from_be_bytes([*high, *low]) & 0x3fff != 0
        }
        [first, _, _, _, _, _, next, ..] => first >> 4 == 6 && matches!(next, 0 | 43 | 44 | 60),
        _ => false,
    }
}

/// What becomes of a frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken<'a> {
    /// It is no fragment, or one that can't be put together: go on with it alone.
    Alone,
    /// It waits for the others, or is thrown away.
    Held,
    /// The last one: the whole packet.
    Whole(&'a [u8]),
}

/// Which packet a fragment belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Name {
    src: IpAddr,
    dst: IpAddr,
    id: u32,
    protocol: u8,
}

/// What a fragment says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Piece<'a> {
    name: Name,
    offset: usize,
    is_last: bool,
    data: &'a [u8],
    /// Octets before the fragment header, or before the data.
    before: usize,
    /// Where the number of what follows stands in them; IPv4 has no need.
    next_at: Option<usize>,
}

/// A packet that is not complete.
#[derive(Debug, Default)]
struct Waiting {
    since: Instant,
    /// Offset and data, in order, not overlapping.
    pieces: Vec<(usize, Vec<u8>)>,
    /// Octets of all data, when the last fragment was seen.
    total: Option<usize>,
    /// The headers of the first fragment.
    head: Vec<u8>,
    /// It was thrown away, and so is what belongs to it.
    is_broken: bool,
}

/// All packets that are not complete.
#[derive(Debug, Default)]
pub(super) struct Fragments {
    waiting: HashMap<Name, Waiting>,
    octets: usize,
    whole: Vec<u8>,
}

impl Fragments {
    /// Takes a packet as it was recorded.
    pub(super) fn take(&mut self, bytes: &[u8], now: Instant) -> Taken<'_> {
        match piece(bytes) {
            None => Taken::Alone,
            Some(piece) if self.add(&piece, bytes, now) => Taken::Whole(&self.whole),
            Some(_) => Taken::Held,
        }
    }

    /// `true`: the packet is complete.
    fn add(&mut self, piece: &Piece<'_>, bytes: &[u8], now: Instant) -> bool {
        let is_late = |waiting: &Waiting| now.since(waiting.since) > PATIENCE;
        if self.is_full(piece) || self.waiting.get(&piece.name).is_some_and(is_late) {
            self.forget(now);
        }
        if self.is_full(piece) {
            return false;
        }
        let waiting = self.waiting.entry(piece.name).or_default();
        if waiting.pieces.is_empty() {
            waiting.since = now;
        }
        let held: usize = waiting.pieces.iter().map(|(_, data)| data.len()).sum();
        let is_complete = waiting.add(piece, bytes);
        let holds: usize = waiting.pieces.iter().map(|(_, data)| data.len()).sum();
        self.octets = (self.octets + holds).saturating_sub(held);
        if !is_complete {
            return false;
        }
        if let Some(waiting) = self.waiting.remove(&piece.name) {
            self.octets = self.octets.saturating_sub(holds);
            waiting.write(piece.name.src.is_ipv4(), &mut self.whole);
        }
        true
    }

    fn is_full(&self, piece: &Piece<'_>) -> bool {
        self.octets + piece.data.len() > MOST_OCTETS || self.waiting.len() >= MOST_PACKETS
    }

    fn forget(&mut self, now: Instant) {
        self.waiting.retain(|_, waiting| now.since(waiting.since) <= PATIENCE);
        let data = self.waiting.values().flat_map(|waiting| &waiting.pieces);
        self.octets = data.map(|(_, data)| data.len()).sum();
    }
}

impl Waiting {
    /// `true`: nothing is missing any more.
    fn add(&mut self, piece: &Piece<'_>, bytes: &[u8]) -> bool {
        let end = piece.offset + piece.data.len();
        let known = self.pieces.iter().any(|(at, data)| *at <= piece.offset && end <= at + data.len());
        if self.is_broken || known {
            return false;
        }
        let overlaps = self.pieces.iter().any(|(at, data)| *at < end && piece.offset < at + data.len());
        let last = self.pieces.last().map_or(0, |(at, data)| at + data.len());
        let is_beyond = self.total.is_some_and(|total| end > total || piece.is_last)
            || (piece.is_last && end < last)
            || piece.before + end > LONGEST;
        if overlaps || is_beyond {
            *self = Self { is_broken: true, since: self.since, ..Self::default() };
            return false;
        }
        if piece.is_last {
            self.total = Some(end);
        }
        if piece.offset == 0 {
            self.head = bytes[..piece.before].to_vec();
            if let Some(at) = piece.next_at {
                self.head[at] = piece.name.protocol;
            }
        }
        let place = self.pieces.partition_point(|(at, _)| *at < piece.offset);
        self.pieces.insert(place, (piece.offset, piece.data.to_vec()));
        let holds: usize = self.pieces.iter().map(|(_, data)| data.len()).sum();
        self.total == Some(holds)
    }

    /// The packet, as if it had never been cut.
    fn write(self, is_ipv4: bool, into: &mut Vec<u8>) {
        into.clear();
        into.extend_from_slice(&self.head);
        for (_, data) in &self.pieces {
            into.extend_from_slice(data);
        }
        let len = u16::try_from(into.len()).unwrap_or(u16::MAX);
        if is_ipv4 {
            into[2..4].copy_from_slice(&len.to_be_bytes());
            into[6..8].fill(0);
            into[10..12].fill(0);
            let sum = header_checksum(&into[..self.head.len()]);
            into[10..12].copy_from_slice(&sum.to_be_bytes());
        } else {
            into[4..6].copy_from_slice(&(len.saturating_sub(40)).to_be_bytes());
        }
    }
}

/// RFC 1071.
fn header_checksum(header: &[u8]) -> u16 {
    let sum: u32 =
        header.chunks(2).map(|pair| (u32::from(pair[0]) << 8) | u32::from(*pair.get(1).unwrap_or(&0))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap_or(0)
}

/// A fragment that is all there; `None`: it is none, or is broken, which the
/// engine says better.
fn piece(bytes: &[u8]) -> Option<Piece<'_>> {
    match bytes.first()? >> 4 {
        4 => piece_v4(bytes),
        6 => piece_v6(bytes),
        _ => None,
    }
}

fn piece_v4(bytes: &[u8]) -> Option<Piece<'_>> {
    let (fixed, _) = bytes.split_first_chunk::<20>()?;
    let flags = u16::from_be_bytes([fixed[6], fixed[7]]);
    if flags & 0x3fff == 0 {
        return None;
    }
    let before = usize::from(fixed[0] & 0x0f) * 4;
    let len = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
    let data = bytes.get(before..len).filter(|data| before >= 20 && !data.is_empty())?;
    let is_last = flags & 0x2000 == 0;
    if !is_last && !data.len().is_multiple_of(8) {
        return None;
    }
    let address = |at: usize| IpAddr::from([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]]);
    let id = u32::from(u16::from_be_bytes([fixed[4], fixed[5]]));
    let name = Name { src: address(12), dst: address(16), id, protocol: fixed[9] };
    let offset = usize::from(flags & 0x1fff) * 8;
    Some(Piece { name, offset, is_last, data, before, next_at: None })
}

fn piece_v6(bytes: &[u8]) -> Option<Piece<'_>> {
    let (fixed, _) = bytes.split_first_chunk::<40>()?;
    let len = usize::from(u16::from_be_bytes([fixed[4], fixed[5]])) + 40;
    let (mut next_at, mut at) = (6, 40);
    // Hop-by-hop, routing, destination options: before a fragment header nothing else is legal.
    while matches!(bytes.get(next_at)?, 0 | 43 | 60) {
        next_at = at;
        at += (usize::from(*bytes.get(at + 1)?) + 1) * 8;
    }
    if *bytes.get(next_at)? != FRAGMENT_HEADER {
        return None;
    }
    let header: &[u8; 8] = bytes.get(at..at + 8)?.try_into().ok()?;
    let fields = u16::from_be_bytes([header[2], header[3]]);
    let (offset, is_last) = (usize::from(fields & 0xfff8), fields & 1 == 0);
    if offset == 0 && is_last {
        // An atomic fragment is a packet of its own (RFC 6946).
        return None;
    }
    let data = bytes.get(at + 8..len).filter(|data| !data.is_empty())?;
    if !is_last && !data.len().is_multiple_of(8) {
        return None;
    }
    let address = |at: usize| {
        let octets: [u8; 16] = fixed[at..at + 16].try_into().unwrap_or_default();
        IpAddr::from(octets)
    };
    let id = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
    let name = Name { src: address(8), dst: address(24), id, protocol: header[0] };
    Some(Piece { name, offset, is_last, data, before: at, next_at: Some(next_at) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::{self, Checksums, FourTuple, RawPacket, SegmentBuilder, SeqNum};

    const NOW: Instant = Instant(1_000_000);

    fn packet(is_ipv4: bool, payload: usize) -> RawPacket {
        let [src, dst]: [IpAddr; 2] = if is_ipv4 {
            [[192, 0, 2, 1].into(), [198, 51, 100, 1].into()]
        } else {
            ["2001:db8::1", "2001:db8::2"].map(|text| text.parse().unwrap())
        };
        let tuple = FourTuple { src, src_port: 4000, dst, dst_port: 80 };
        let data: Vec<u8> = (0..payload).map(|at| at as u8).collect();
        SegmentBuilder::new(tuple).seq(SeqNum(7)).ack(SeqNum(9)).payload(&data).build()
    }

    /// The packet cut into pieces of so many octets.
    fn cut(packet: &RawPacket, size: usize) -> Vec<Vec<u8>> {
        let is_ipv4 = packet.bytes[0] >> 4 == 4;
        let head = if is_ipv4 { 20 } else { 40 };
        let body = &packet.bytes[head..];
        let count = body.len().div_ceil(size);
        body.chunks(size)
            .enumerate()
            .map(|(number, data)| {
                let (offset, more) = (u16::try_from(number * size).unwrap(), number + 1 < count);
                let mut bytes = packet.bytes[..head].to_vec();
                if is_ipv4 {
                    let len = u16::try_from(20 + data.len()).unwrap();
                    bytes[2..4].copy_from_slice(&len.to_be_bytes());
                    bytes[4..6].copy_from_slice(&77_u16.to_be_bytes());
                    bytes[6..8].copy_from_slice(&((offset / 8) | (u16::from(more) << 13)).to_be_bytes());
                } else {
                    let len = u16::try_from(8 + data.len()).unwrap();
                    bytes[4..6].copy_from_slice(&len.to_be_bytes());
                    let next = std::mem::replace(&mut bytes[6], FRAGMENT_HEADER);
                    bytes.extend([next, 0]);
                    bytes.extend((offset | u16::from(more)).to_be_bytes());
                    bytes.extend(77_u32.to_be_bytes());
                }
                bytes.extend_from_slice(data);
                bytes
            })
            .collect()
    }

    /// What comes out for each, and the packet of the last that made one.
    fn fed(fragments: &mut Fragments, pieces: &[Vec<u8>]) -> (Vec<bool>, Vec<u8>) {
        let mut whole = Vec::new();
        let made = pieces.iter().map(|piece| match fragments.take(piece, NOW) {
            Taken::Whole(bytes) => {
                whole = bytes.to_vec();
                true
            }
            Taken::Held => false,
            Taken::Alone => panic!("a fragment"),
        });
        (made.collect(), whole)
    }

    #[test]
    fn a_packet_in_pieces_is_whole_again_in_any_order() {
        for is_ipv4 in [true, false] {
            let packet = packet(is_ipv4, 100);
            for size in [8, 24, 64, 112] {
                let mut pieces = cut(&packet, size);
                for _ in 0..pieces.len() {
                    pieces.rotate_left(1);
                    let mut fragments = Fragments::default();
                    let (made, whole) = fed(&mut fragments, &pieces);
                    assert_eq!(made.iter().position(|made| *made), Some(pieces.len() - 1));
                    let mut expected = packet.bytes.clone();
                    if is_ipv4 {
                        // The fragments bore a number, and so the checksum differs.
                        expected[4..6].copy_from_slice(&whole[4..6]);
                        expected[6..8].fill(0);
                        expected[10..12].copy_from_slice(&whole[10..12]);
                    }
                    assert_eq!(whole, expected);
                    let len = u32::try_from(whole.len()).unwrap();
                    assert!(wire::parse(&whole, len, Checksums::Verify).is_ok());
                    assert_eq!((fragments.octets, fragments.waiting.len()), (0, 0));
                }
            }
        }
    }

    #[test]
    fn a_repetition_is_ignored_and_an_overlap_ends_it() {
        for is_ipv4 in [true, false] {
            let pieces = cut(&packet(is_ipv4, 100), 40);
            let repeated = [&pieces[..1], &pieces[..1], &pieces[1..]].concat();
            assert_eq!(fed(&mut Fragments::default(), &repeated).0, [false, false, false, true]);
            let other = cut(&packet(is_ipv4, 100), 48);
            let mixed = [&pieces[..1], &other[..1], &pieces[1..]].concat();
            assert_eq!(fed(&mut Fragments::default(), &mixed).0, [false; 4], "nothing of it is believed");
        }
    }

    #[test]
    fn patience_and_memory_have_an_end() {
        let pieces = cut(&packet(true, 100), 40);
        let mut fragments = Fragments::default();
        assert_eq!(fragments.take(&pieces[0], NOW), Taken::Held);
        assert_eq!(fragments.take(&pieces[1], NOW.after(Duration::from_secs(61))), Taken::Held);
        assert_eq!(fragments.take(&pieces[2], NOW.after(Duration::from_secs(61))), Taken::Held, "too late");
        let mut first = cut(&packet(true, 2000), 1400).remove(0);
        for number in 0..20_000_u16 {
            first[4..6].copy_from_slice(&number.to_be_bytes());
            assert_eq!(fragments.take(&first, NOW), Taken::Held);
        }
        assert!(fragments.octets <= MOST_OCTETS && fragments.waiting.len() <= MOST_OCTETS / 1400 + 2);
        let later = NOW.after(PATIENCE * 3);
        for piece in &pieces[..2] {
            fragments.take(piece, later);
        }
        assert!(matches!(fragments.take(&pieces[2], later), Taken::Whole(_)), "there is room again");
    }

    #[test]
    fn what_is_no_fragment_is_left_alone() {
        let whole = packet(false, 10);
        let atomic = {
            let mut bytes = cut(&packet(false, 10), 8).remove(0);
            bytes[43] &= !1;
            bytes
        };
        let cut_off = cut(&packet(true, 100), 40).remove(0)[..30].to_vec();
        assert!(!may_be(&whole.bytes) && !may_be(&packet(true, 0).bytes));
        assert!([true, false].iter().all(|is_ipv4| may_be(&cut(&packet(*is_ipv4, 100), 40)[2])));
        for bytes in
            [whole.bytes, packet(true, 0).bytes, atomic, cut_off, Vec::new(), vec![0x45], vec![0x60; 41]]
        {
            assert_eq!(Fragments::default().take(&bytes, NOW), Taken::Alone, "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_do_harm(frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..90), 0..20)) {
            let mut fragments = Fragments::default();
            for mut bytes in frames {
                if let Some(first) = bytes.first_mut() {
                    *first = if *first & 1 == 0 { 0x45 } else { 0x60 };
                }
                fragments.take(&bytes, NOW);
            }
            let holds: usize =
                fragments.waiting.values().flat_map(|w| &w.pieces).map(|(_, data)| data.len()).sum();
            prop_assert_eq!(holds, fragments.octets);
        }
    }
}
