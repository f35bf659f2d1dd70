//! Captures that the tests write themselves: every format, every link layer,
//! truncated and broken ones.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use super::*;
use crate::{
    conntrack::Phase,
    wire::{Flags, FourTuple, SegmentBuilder, SeqNum},
};

/// A file that is gone at the end of the test.
struct Temporary(PathBuf);

impl Temporary {
    fn new(bytes: &[u8]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("halfgate-replay-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::write(&path, bytes).unwrap();
        Self(path)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn tuple() -> FourTuple {
    FourTuple { src: [10, 0, 0, 1].into(), src_port: 4000, dst: [10, 0, 0, 2].into(), dst_port: 80 }
}

/// A handshake, a request and both FINs.
fn packets() -> Vec<Vec<u8>> {
    let there = || SegmentBuilder::new(tuple());
    let back = || SegmentBuilder::new(tuple().reversed());
    let all = [
        there().flags(Flags::SYN).seq(SeqNum(99)),
        back().seq(SeqNum(499)).ack(SeqNum(100)).flags(Flags::SYN),
        there().seq(SeqNum(100)).ack(SeqNum(500)),
        there().seq(SeqNum(100)).ack(SeqNum(500)).payload_len(10),
        back().seq(SeqNum(500)).ack(SeqNum(110)),
        there().seq(SeqNum(110)).ack(SeqNum(500)).flags(Flags::FIN),
        back().seq(SeqNum(500)).ack(SeqNum(111)).flags(Flags::FIN),
        there().seq(SeqNum(111)).ack(SeqNum(501)),
    ];
    all.into_iter().map(|segment| segment.build().bytes).collect()
}

/// What stands before the IP packet on each link layer: its number and octets.
fn links() -> Vec<(u32, Vec<u8>)> {
    let ethernet = |ethertypes: &[u8]| [&[0; 12], ethertypes].concat();
    vec![
        (1, ethernet(&[8, 0])),
        (1, ethernet(&[0x81, 0, 0, 7, 8, 0])),
        (1, ethernet(&[0x88, 0xa8, 0, 7, 0x81, 0, 0, 8, 8, 0])),
        (1, ethernet(&[0x88, 0x64, 0x11, 0, 0, 1, 0, 42, 0, 0x21])),
        (101, Vec::new()),
        (12, Vec::new()),
        (228, Vec::new()),
        (113, [&[0; 14][..], &[8, 0]].concat()),
        (276, [&[8, 0][..], &[0; 18]].concat()),
        (0, vec![2, 0, 0, 0]),
        (0, vec![0, 0, 0, 2]),
        (108, vec![0, 0, 0, 2]),
    ]
}

fn pcap(link: u32, before: &[u8], packets: &[Vec<u8>]) -> Vec<u8> {
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 262_144, link] {
        file.extend(word.to_le_bytes());
    }
    for (second, packet) in (1_700_000_000_u32..).zip(packets) {
        let len = u32::try_from(before.len() + packet.len()).unwrap();
        for word in [second, 500_000, len, len] {
            file.extend(word.to_le_bytes());
        }
        file.extend([before, packet].concat());
    }
    file
}

fn block(kind: u32, body: &[u8]) -> Vec<u8> {
    let padded = [body, &vec![0; body.len().next_multiple_of(4) - body.len()]].concat();
    let len = u32::try_from(padded.len() + 12).unwrap().to_be_bytes();
    [&kind.to_be_bytes()[..], &len, &padded, &len].concat()
}

/// pcapng, big-endian, nanoseconds.
fn pcapng(link: u16, before: &[u8], packets: &[Vec<u8>]) -> Vec<u8> {
    let section = [&0x1a2b_3c4d_u32.to_be_bytes()[..], &[0, 1, 0, 0], &[0xff; 8]].concat();
    let interface = [&link.to_be_bytes()[..], &[0; 6], &[0, 9, 0, 1, 9, 0, 0, 0], &[0; 4]].concat();
    let mut file = [block(0x0a0d_0d0a, &section), block(1, &interface)].concat();
    for (second, packet) in (1_700_000_000_u64..).zip(packets) {
        let data = [before, packet].concat();
        let len = u32::try_from(data.len()).unwrap().to_be_bytes();
        let time = (second * 1_000_000_000).to_be_bytes();
        file.extend(block(6, &[&[0; 4][..], &time, &len, &len, &data].concat()));
    }
    file
}

fn open() -> Policy {
    let args = Args {
        captures: Vec::new(),
        rules: None,
        compare: None,
        interface: Vec::new(),
        gateway: Vec::new(),
        pickup_grace: false,
        verify_checksums: true,
        join: false,
        json: false,
    };
    let mut policy = policy(None, &args, &Paths::default()).unwrap();
    // A small table is made quickly.
    policy.settings.max_connections = 100;
    policy
}

fn replayed<'a>(path: &Path, paths: &'a Paths, policies: &[Policy]) -> (Replay<'a>, Result<Place, Broken>) {
    let mut replay = Replay::new(policies, paths, Checksums::Verify);
    let result = feed(&mut replay, path, &mut LargePages::begin());
    (replay, result)
}

#[test]
fn every_format_and_link_layer_tells_the_same_story() {
    let paths = Paths::default();
    for (link, before) in links() {
        let files =
            [pcap(link, &before, &packets()), pcapng(u16::try_from(link).unwrap(), &before, &packets())];
        for bytes in files {
            let file = Temporary::new(&bytes);
            let (replay, result) = replayed(&file.0, &paths, &[open()]);
            let place = result.unwrap_or_else(|error| panic!("link {link}: {error}"));
            assert_eq!((place.packets, place.offset), (8, bytes.len() as u64), "link {link}");
            let [row] = replay.rows.all().iter().collect::<Vec<_>>()[..] else {
                panic!("link {link}: one connection")
            };
            assert_eq!(row.wire(), ("SF", "ShADaFf"), "link {link}");
            assert_eq!(row.fates[0].phase, Some(Phase::TimeWait), "link {link}");
            assert_eq!((row.accepted(&row.fates[0]), row.original.packets, row.reply.packets), (8, 5, 3));
        }
    }
}

#[test]
fn a_truncated_capture_says_where_and_keeps_what_was_read() {
    let paths = Paths::default();
    let before = &links()[0].1;
    for (bytes, header) in [(pcap(1, before, &packets()), 24), (pcapng(1, before, &packets()), 28 + 32)] {
        let whole = Temporary::new(&bytes);
        let (_, result) = replayed(&whole.0, &paths, &[open()]);
        assert!(result.is_ok());
        for cut in header + 1..bytes.len() {
            let file = Temporary::new(&bytes[..cut]);
            let (replay, result) = replayed(&file.0, &paths, &[open()]);
            match result {
                // Cut between two records: as good as a shorter capture.
                Ok(place) => assert_eq!(place.offset, cut as u64),
                Err(Broken::At { packet, offset, why, .. }) => {
                    assert!(offset < cut as u64 && offset >= header as u64, "{offset} of {cut}");
                    assert_eq!(packet, replay.totals.packets + 1);
                    assert!(why.contains("ends in the middle"), "{why}");
                }
                Err(other) => panic!("{cut}: {other}"),
            }
        }
    }
}

#[test]
fn broken_captures_are_refused_in_words() {
    let paths = Paths::default();
    let good = pcap(1, &links()[0].1, &packets());
    let mut absurd = good;
    // The second record claims to hold four gigabytes.
    let second = 24 + 16 + 14 + packets()[0].len();
    absurd[second + 8..second + 12].fill(0xff);
    let unlinked = pcap(147, &[], &packets());
    let mut undescribed = pcapng(1, &links()[0].1, &packets());
    undescribed[28 + 32 + 8 + 3] = 9;
    let cases: [(&[u8], &str); 5] = [
        (&[], "the file is empty"),
        (b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n", "neither pcap nor pcapng"),
        (&absurd, "packet 2, at octet"),
        (&unlinked, "link type 147 is not understood"),
        (&undescribed, "packet 1, at octet"),
    ];
    for (bytes, expected) in cases {
        let file = Temporary::new(bytes);
        let (_, result) = replayed(&file.0, &paths, &[open()]);
        let error = result.expect_err(expected).to_string();
        assert!(error.contains(expected), "{error}");
    }
    let (_, result) = replayed(Path::new("/nonexistent/capture"), &paths, &[open()]);
    assert!(result.unwrap_err().to_string().contains("/nonexistent/capture"));
}

#[test]
fn no_bytes_make_the_reader_panic() {
    let paths = Paths::default();
    let mut state = 7_u32;
    for bytes in [pcap(1, &links()[2].1, &packets()), pcapng(276, &links()[8].1, &packets())] {
        for _ in 0..100 {
            let mut bytes = bytes.clone();
            for _ in 0..4 {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let at = (state >> 8) as usize % bytes.len();
                bytes[at] = (state >> 3) as u8;
            }
            let file = Temporary::new(&bytes);
            let (replay, _) = replayed(&file.0, &paths, &[open()]);
            let sum: u64 = replay.rows.all().iter().map(|row| row.original.packets + row.reply.packets).sum();
            let totals = replay.totals;
            assert_eq!(sum + totals.not_ip + totals.fragments + totals.without_tuple, totals.packets);
        }
    }
}

#[test]
fn timers_fire_between_packets_and_rules_part_ways() {
    let paths = Paths::default();
    // Nine seconds pass in the handshake; then there is a minute of silence and one more ACK.
    let mut bytes = pcap(101, &[], &packets()[..3]);
    let third = bytes.len() - packets()[2].len() - 16;
    bytes[third..third + 4].copy_from_slice(&1_700_000_009_u32.to_le_bytes());
    let file = Temporary::new(&bytes);
    let mut hasty = open();
    hasty.settings.timers.push((crate::conntrack::Timer::SynReceived, Some(Duration::from_secs(5))));
    let (replay, result) = replayed(&file.0, &paths, &[open(), hasty]);
    result.unwrap();
    let [row] = replay.rows.all().iter().collect::<Vec<_>>()[..] else { panic!("one connection") };
    assert_eq!(row.fates[0].phase, Some(Phase::Established));
    assert_eq!((row.fates[1].phase, row.fates[1].reset), (Some(Phase::SynReceived), 1));
    assert!(matches!(row.fates[1].close, Some(crate::engine::CloseReason::Expired { .. })));
    let (packet, [one, other]) = *row.differs.as_deref().unwrap();
    assert_eq!((packet, one), (3, Verdict::Accept));
    assert!(matches!(other, Verdict::Reset(DropReason::OutOfState)));
}

#[test]
fn what_was_never_tracked_is_listed_without_a_phase() {
    let paths = Paths::default();
    let null = SegmentBuilder::new(tuple()).seq(SeqNum(5)).build();
    let mut bytes = null.bytes;
    bytes[33] = 0; // No control bits at all; the checksum is not looked at first.
    let file = Temporary::new(&pcap(101, &[], &[bytes, packets()[3].clone()]));
    let (replay, result) = replayed(&file.0, &paths, &[open()]);
    result.unwrap();
    let [row] = replay.rows.all().iter().collect::<Vec<_>>()[..] else { panic!("one connection") };
    assert_eq!((row.fates[0].phase, row.accepted(&row.fates[0]), row.fates[0].opened), (None, 0, 0));
    assert_eq!(row.original.packets, 2);
}

#[test]
fn options_that_a_short_snapshot_cut_off_do_not_hide_a_syn() {
    let paths = Paths::default();
    let syn = SegmentBuilder::new(tuple()).flags(Flags::SYN).seq(SeqNum(99)).mss(1460).build();
    let mut file = pcap(101, &[], std::slice::from_ref(&syn.bytes));
    file.truncate(file.len() - 2);
    let captured = u32::try_from(syn.bytes.len() - 2).unwrap();
    file[24 + 8..24 + 12].copy_from_slice(&captured.to_le_bytes());
    let file = Temporary::new(&file);
    let (replay, result) = replayed(&file.0, &paths, &[open()]);
    result.unwrap();
    assert_eq!(replay.rows.all().iter().next().unwrap().fates[0].phase, Some(Phase::SynSent));
}
