//! `halfgate replay` over captures that are made here: every container and link
//! layer, every `conn_state` and letter of `history`, what two rule files make
//! of the same packets, and files that are no captures.

#[path = "replay/capture.rs"]
mod capture;

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use capture::{Format, Kind, formats, links, pcapng, plain, script, tuple, written};
use halfgate::wire::{Flags, FourTuple, SegmentBuilder, SeqNum, build};
use serde_json::Value;

/// A folder that is gone at the end of the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("halfgate-replay-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, bytes).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn halfgate() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_halfgate"));
    command.arg("replay");
    command
}

fn text(octets: &[u8]) -> String {
    String::from_utf8_lossy(octets).into_owned()
}

fn objects(output: &Output) -> Vec<Value> {
    text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The connections of captures.
fn replayed(paths: &[PathBuf], options: &[&str]) -> Vec<Value> {
    let output = halfgate().args(paths).arg("--json").args(options).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    objects(&output)
}

/// A handshake, a request, its answer, both FINs.
const WHOLE: &str = "
    > S 99
    < SA 499 100
    > A 100 500
    > A 100 500 10
    < A 500 110 20
    > FA 110 520
    < FA 520 111
    > A 111 521 0 0.75";

#[test]
fn every_container_and_link_layer_tells_the_same_story() {
    let folder = Folder::new("formats");
    for format in formats() {
        let mut paths = Vec::new();
        for (number, (_, link, before)) in links().iter().enumerate() {
            for is_ipv4 in [true, false] {
                let bytes = written(format, *link, before, &script(is_ipv4, WHOLE));
                paths.push(folder.file(&format!("{number}-{is_ipv4}"), &bytes));
            }
        }
        let rows = replayed(&paths, &["--verify-checksums"]);
        assert_eq!(rows.len(), paths.len(), "{format:?}: a connection for each file");
        for (row, path) in rows.iter().zip(&paths) {
            let what = format!("{format:?} {}", path.display());
            assert_eq!(row["capture"], path.display().to_string(), "{what}");
            assert_eq!((&row["phase"], &row["close_reason"]), (&"time_wait".into(), &"finished".into()));
            assert_eq!((&row["conn_state"], &row["history"]), (&"SF".into(), &"ShADdFf".into()), "{what}");
            assert_eq!(row["verdicts"], serde_json::json!({"accept": 8, "drop": 0, "reset": 0}), "{what}");
        }
    }
}

#[test]
fn the_time_of_a_capture_is_read_in_every_resolution() {
    let folder = Folder::new("resolutions");
    let rules = folder.file(
        "rules.yaml",
        b"version: 1\nhooks: [forward]\ndefault: accept\ntimers: { syn_sent: 2s }\nrules: []\n",
    );
    // Two and a half seconds are too long, one and a half are not.
    for (pause, phase) in [("1.5", "syn_received"), ("2.5", "syn_sent")] {
        let packets = script(true, &format!("> S 99\n< SA 499 100 0 {pause}"));
        let paths: Vec<PathBuf> = formats()
            .iter()
            .enumerate()
            .map(|(n, format)| {
                folder.file(&format!("{n}"), &written(*format, 101, &[vec![], vec![]], &packets))
            })
            .collect();
        let rows = replayed(&paths, &["--rules", rules.to_str().unwrap()]);
        assert_eq!(rows.len(), paths.len());
        for (row, format) in rows.iter().zip(formats()) {
            assert_eq!(row["phase"], phase, "{format:?} after {pause} s");
        }
    }
}

#[test]
fn interfaces_of_one_capture_have_their_own_links_and_clocks() {
    let folder = Folder::new("interfaces");
    let links = links();
    let of = |name: &str| links.iter().find(|(known, ..)| *known == name).unwrap();
    let used = [(of("Ethernet"), 6), (of("Linux cooked v2"), 9), (of("null, big-endian"), 0x8a)];
    let frames: Vec<(u32, u64, Vec<u8>)> = script(true, WHOLE)
        .into_iter()
        .enumerate()
        .map(|(number, (at, packet))| {
            let interface = number % used.len();
            let before = &used[interface].0.2[0];
            (u32::try_from(interface).unwrap(), at, [before.as_slice(), &packet].concat())
        })
        .collect();
    let interfaces = used.map(|((_, link, _), resolution)| (*link, resolution));
    for is_big_endian in [false, true] {
        let path = folder.file("interfaces.pcapng", &pcapng(is_big_endian, &interfaces, &frames));
        let rows = replayed(&[path], &[]);
        let [row] = rows.as_slice() else { panic!("one connection: {rows:?}") };
        assert_eq!((&row["history"], &row["phase"]), (&"ShADdFf".into(), &"time_wait".into()));
    }
    // Two sections, each with interfaces of its own.
    let halves: Vec<u8> = [&frames[..4], &frames[4..]]
        .iter()
        .enumerate()
        .flat_map(|(number, half)| pcapng(number == 1, &interfaces, half))
        .collect();
    let rows = replayed(&[folder.file("sections.pcapng", &halves)], &[]);
    assert_eq!((rows.len(), &rows[0]["history"]), (1, &"ShADdFf".into()));
}

/// A story, and for each of its connections: phase, close reason, `conn_state`,
/// `history`, and packets accepted, dropped and reset.
type Told = (
    &'static str,
    &'static str,
    &'static [(&'static str, &'static str, &'static str, &'static str, [u64; 3])],
);

const NONE: &str = "null";

/// What outsiders' captures show, as far as it can be written by hand.
const STORIES: [Told; 23] = [
    ("S0", "> S 9", &[("syn_sent", NONE, "S0", "S", [1, 0, 0])]),
    ("S1", "> S 99\n< SA 499 100\n> A 100 500", &[("established", NONE, "S1", "ShA", [3, 0, 0])]),
    ("SF", WHOLE, &[("time_wait", "finished", "SF", "ShADdFf", [8, 0, 0])]),
    ("REJ", "> S 9\n< RA 0 10", &[("reset", "rst from server", "REJ", "Sr", [2, 0, 0])]),
    (
        "S2",
        "> S 99\n< SA 499 100\n> A 100 500\n> FA 100 500\n< A 500 101\n< A 500 101 9",
        &[("half_closed", NONE, "S2", "ShAFad", [6, 0, 0])],
    ),
    (
        "S3",
        "> S 99\n< SA 499 100\n> A 100 500\n< FA 500 100\n> A 100 501",
        &[("half_closed", NONE, "S3", "ShAf", [5, 0, 0])],
    ),
    (
        "RSTO",
        "> S 99\n< SA 499 100\n> A 100 500\n> R 100",
        &[("reset", "rst from client", "RSTO", "ShAR", [4, 0, 0])],
    ),
    (
        "RSTR",
        "> S 99\n< SA 499 100\n> A 100 500\n< R 500",
        &[("reset", "rst from server", "RSTR", "ShAr", [4, 0, 0])],
    ),
    ("RSTOS0", "> S 9\n> R 10", &[("reset", "rst from client", "RSTOS0", "SR", [2, 0, 0])]),
    ("RSTRH", "port 80\n< SA 499 100\n< R 500", &[(NONE, NONE, "RSTRH", "^hr", [0, 1, 1])]),
    ("SHR", "port 80\n< SA 499 100\n< FA 500 100", &[(NONE, NONE, "SHR", "^hf", [0, 0, 2])]),
    ("SH", "> S 99\n> FA 100 0", &[("syn_sent", NONE, "SH", "SF", [1, 1, 0])]),
    ("a scan by SYN-ACK", "< SA 499 100\n> R 100", &[(NONE, NONE, "REJ", "Hr", [0, 1, 1])]),
    ("OTH, met in the middle", "> A 100 500 10\n< A 500 110 10", &[(NONE, NONE, "OTH", "Dd", [0, 0, 2])]),
    (
        "without its SYN",
        "< SA 499 100\n> A 100 500\n> A 100 500 10\n< A 500 110",
        &[(NONE, NONE, "OTH", "^hADa", [0, 0, 4])],
    ),
    (
        "retransmissions, by powers of ten",
        "> S 99\n< SA 499 100\n> A 100 500\n> A 100 500 9\n> A 100 500 9\n> A 100 500 9",
        &[("established", NONE, "S1", "ShADT", [6, 0, 0])],
    ),
    (
        "a gap",
        "> S 99\n< SA 499 100\n> A 100 500\n> A 200 500 50\n< A 500 250",
        &[("established", NONE, "S1", "ShADaG", [5, 0, 0])],
    ),
    (
        "windows of zero",
        "> S 99\n< SA 499 100\n> A 100 500\n< AW 500 100\n> A 100 500",
        &[("established", NONE, "S1", "ShAaw", [5, 0, 0])],
    ),
    ("impossible flags", "> SF 9\n> FR 9\n> - 9", &[(NONE, NONE, "OTH", "QI", [0, 3, 0])]),
    (
        "a SYN again with another number after a refusal",
        "> S 9\n< RA 0 10\n> S 5000 0 0 1\n< SA 70 5001",
        &[
            ("reset", "replaced by a newer connection", "REJ", "Sr", [2, 0, 0]),
            ("syn_received", NONE, "S1", "Sh", [2, 0, 0]),
        ],
    ),
    (
        "simultaneous open",
        "> S 99\n< S 499\n> SA 99 500\n< SA 499 100",
        &[("established", NONE, "S1", "Ss", [4, 0, 0])],
    ),
    (
        "late packets of what was reset",
        "> S 99\n< SA 499 100\n> A 100 500\n> R 100\n< R 500 0 0 6",
        &[
            ("reset", "rst from client", "RSTO", "ShAR", [4, 0, 0]),
            ("reset", "rst from client", "OTH", "R", [1, 0, 0]),
        ],
    ),
    (
        "silence longer than its timer",
        "> S 99\n< SA 499 100 0 0\n< SA 499 100 0 31",
        &[("syn_received", "timer syn_received of 30s (default)", "S1", "Sh", [2, 0, 1])],
    ),
];

#[test]
fn stories_end_as_they_are_told() {
    let folder = Folder::new("stories");
    let mut failures = Vec::new();
    for is_ipv4 in [true, false] {
        for (name, lines, expected) in &STORIES {
            let path = folder.file("story.pcap", &plain(&script(is_ipv4, lines)));
            let rows = replayed(&[path], &[]);
            let word = |value: &Value| value.as_str().unwrap_or(NONE).to_owned();
            let told: Vec<_> = rows
                .iter()
                .map(|row| {
                    let verdicts =
                        ["accept", "drop", "reset"].map(|kind| row["verdicts"][kind].as_u64().unwrap());
                    let fields =
                        ["phase", "close_reason", "conn_state", "history"].map(|name| word(&row[name]));
                    (fields, verdicts)
                })
                .collect();
            let wanted: Vec<_> = expected
                .iter()
                .map(|(phase, close, state, history, verdicts)| {
                    ([*phase, *close, *state, *history].map(str::to_owned), *verdicts)
                })
                .collect();
            if told != wanted {
                failures.push(format!("{name} (IPv4: {is_ipv4}):\n  {told:?}\n  expected {wanted:?}"));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn an_object_has_the_fields_that_are_promised() {
    let folder = Folder::new("fields");
    let rows = replayed(&[folder.file("whole.pcap", &plain(&script(true, WHOLE)))], &[]);
    let [row] = rows.as_slice() else { panic!("{rows:?}") };
    let expected = serde_json::json!({
        "proto": "tcp", "src": "192.0.2.10", "sport": 40_000, "dst": "198.51.100.80", "dport": 8443,
        "phase": "time_wait", "close_reason": "finished", "conn_state": "SF", "history": "ShADdFf",
        "original": {"packets": 5, "bytes": 210}, "reply": {"packets": 3, "bytes": 140},
        "verdicts": {"accept": 8, "drop": 0, "reset": 0},
    });
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(row[name], *value, "{name}");
    }
}

#[test]
fn datagrams_echoes_and_other_protocols_are_listed_too() {
    let folder = Folder::new("others");
    let tuple = |src_port, dst_port| FourTuple { src_port, dst_port, ..tuple(true) };
    let (src, dst) = (tuple(0, 0).src, tuple(0, 0).dst);
    use halfgate::wire::{Echo, Protocol};
    let packets = [
        build::udp(tuple(5000, 53), b"question"),
        build::udp(tuple(5000, 53).reversed(), b"answer"),
        build::udp(tuple(5001, 53), b"question"),
        build::udp(tuple(5002, 53).reversed(), b"answer alone"),
        build::icmp_echo(src, dst, Echo::Request, 7, 1, b"ping"),
        build::icmp_echo(dst, src, Echo::Reply, 7, 1, b"ping"),
        build::ip(src, dst, Protocol(47), &[0; 8]),
    ];
    let timed: Vec<_> = packets.into_iter().map(|packet| (1_700_000_000_000, packet.bytes)).collect();
    let rows = replayed(&[folder.file("others.pcap", &plain(&timed))], &[]);
    let told: Vec<_> = rows
        .iter()
        .map(|row| {
            ["proto", "sport", "dport", "phase", "conn_state", "history"].map(|name| match &row[name] {
                Value::String(word) => word.clone(),
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                    row[name].to_string()
                }
            })
        })
        .collect();
    assert_eq!(
        told,
        [
            ["udp", "5000", "53", "udp_stream", "SF", "Dd"],
            ["udp", "5001", "53", "udp_new", "S0", "D"],
            ["udp", "5002", "53", "udp_new", "SHR", "^d"],
            ["icmp", "7", "0", "icmp", "OTH", ""],
            ["47", "0", "0", "other", "OTH", ""],
        ]
    );
}

#[test]
fn a_wrong_checksum_shows_if_asked_for() {
    let folder = Folder::new("checksums");
    let mut packets = script(true, WHOLE);
    for at in [3, 4] {
        *packets[at].1.last_mut().unwrap() ^= 1;
    }
    let path = folder.file("sums.pcap", &plain(&packets));
    assert_eq!(replayed(std::slice::from_ref(&path), &[])[0]["history"], "ShADdFf");
    assert_eq!(replayed(&[path], &["--verify-checksums"])[0]["history"], "ShACcFgfG");
}

#[test]
fn fragments_are_put_together_as_the_kernel_does() {
    let folder = Folder::new("fragments");
    for is_ipv4 in [true, false] {
        let mut packets = script(is_ipv4, WHOLE);
        // The request in two halves, the later one first; an overlap is lost, and
        // so is what never becomes whole.
        let (at, request) = packets.remove(3);
        let [first, second] = halves(&request, 24);
        packets.splice(3..3, [(at, second), (at, first.clone())]);
        let lost = FourTuple { src_port: 41_000, ..tuple(is_ipv4) };
        let alone = SegmentBuilder::new(lost).seq(SeqNum(1)).flags(Flags::SYN).payload_len(40).build();
        packets.push((at, halves(&alone.bytes, 24)[0].clone()));
        let rows = replayed(&[folder.file("fragments.pcap", &plain(&packets))], &["--verify-checksums"]);
        let [whole, never] = rows.as_slice() else { panic!("{rows:?}") };
        assert_eq!((&whole["history"], &whole["phase"]), (&"ShADdFf".into(), &"time_wait".into()));
        assert_eq!(whole["verdicts"]["accept"], 8);
        assert_eq!((&never["phase"], &never["sport"]), (&Value::Null, &41_000.into()));
    }
}

/// A packet in two fragments, the first with so many octets of its data.
fn halves(packet: &[u8], size: usize) -> [Vec<u8>; 2] {
    let is_ipv4 = packet[0] >> 4 == 4;
    let head = if is_ipv4 { 20 } else { 40 };
    let (first, second) = packet[head..].split_at(size);
    [(0, first, true), (size, second, false)].map(|(offset, data, more)| {
        let mut bytes = packet[..head].to_vec();
        let (offset, len) = (u16::try_from(offset).unwrap(), u16::try_from(data.len()).unwrap());
        if is_ipv4 {
            bytes[2..4].copy_from_slice(&(len + 20).to_be_bytes());
            bytes[6..8].copy_from_slice(&((offset / 8) | (u16::from(more) << 13)).to_be_bytes());
            bytes[10..12].fill(0);
            let sum: u32 =
                bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
            let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
            bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        } else {
            bytes[4..6].copy_from_slice(&(len + 8).to_be_bytes());
            let next = std::mem::replace(&mut bytes[6], 44);
            bytes.extend([next, 0]);
            bytes.extend((offset | u16::from(more)).to_be_bytes());
            bytes.extend([0, 0, 0, 7]);
        }
        bytes.extend_from_slice(data);
        bytes
    })
}

#[test]
fn two_rule_files_are_compared_and_the_difference_explained() {
    let folder = Folder::new("compare");
    let rules = |name: &str, more: &str| {
        let head = "version: 1\nhooks: [forward]\ndefault: accept\n";
        folder.file(name, format!("{head}{more}").as_bytes()).display().to_string()
    };
    let open = rules("open.yaml", "rules: []\n");
    let strict = rules("strict.yaml", "rules:\n  - { name: no-8443, service: tcp/8443, action: drop }\n");
    let hasty = rules("hasty.yaml", "timers: { established: 1m }\nrules: []\n");
    let mut packets = script(true, WHOLE);
    packets.extend(script(true, "> A 111 521 0 90").into_iter().take(0));
    let other = FourTuple { src_port: 41_000, dst_port: 25, ..tuple(true) };
    packets.push((packets[0].0, SegmentBuilder::new(other).seq(SeqNum(1)).flags(Flags::SYN).build().bytes));
    let path = folder.file("compared.pcap", &plain(&packets));
    let rows = replayed(std::slice::from_ref(&path), &["--rules", &open, "--compare", &strict]);
    let [row] = rows.as_slice() else { panic!("the SYN to port 25 ends the same: {rows:?}") };
    assert_eq!((&row["phase"], &row["other"]["phase"]), (&"time_wait".into(), &Value::Null));
    assert_eq!(row["other"]["verdicts"]["accept"], 0);
    let why = row["why"].as_str().unwrap();
    assert!(why.starts_with("packet 1: drop by rule no-8443 instead of accept"), "{why}");
    assert!(replayed(std::slice::from_ref(&path), &["--rules", &open, "--compare", &open]).is_empty());
    let shown = halfgate().arg(&path).args(["--rules", &open, "--compare", &strict]).output().unwrap();
    let shown = text(&shown.stdout);
    assert!(shown.contains("no-8443") && shown.contains("1 would have ended otherwise"), "{shown}");
    // The same packets, but a timer that ends the connection before the last of them.
    let pause = "> S 99\n< SA 499 100\n> A 100 500\n> A 100 500 9 90\n";
    let path = folder.file("pause.pcap", &plain(&script(true, pause)));
    let rows = replayed(&[path], &["--rules", &open, "--compare", &hasty]);
    assert_eq!(rows[0]["other"]["close_reason"], "timer established of 1m (file)", "{rows:?}");
    assert_eq!((&rows[0]["close_reason"], &rows[0]["phase"]), (&Value::Null, &"established".into()));
    assert!(rows[0]["why"].as_str().unwrap().starts_with("packet 4: "), "{rows:?}");
}

/// What is said of a file that can't be read, or not to its end.
fn refusal(path: &Path) -> String {
    let output = halfgate().arg(path).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stdout));
    text(&output.stderr)
}

#[test]
fn what_is_no_capture_is_said_in_words() {
    let folder = Folder::new("refused");
    let whole = plain(&script(true, WHOLE));
    let cases: [(&str, &[u8], &str); 9] = [
        ("empty", &[], "the file is empty"),
        ("text", b"GET / HTTP/1.1\r\n", "neither pcap nor pcapng"),
        ("short", &whole[..20], "the file ends in the middle of its own header"),
        ("magic", &whole[..3], "the file ends in the middle of its own header"),
        ("gzip", b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03", "zcat FILE | halfgate replay -"),
        ("zstd", b"\x28\xb5\x2f\xfd\x24\x00", "zstdcat FILE | halfgate replay -"),
        ("xz", b"\xfd7zXZ\0\0", "xzcat FILE | halfgate replay -"),
        ("modified", b"\x34\xcd\xb2\xa1\x02\0\x04\0", "editcap -F pcap"),
        ("snoop", b"snoop\0\0\0\0\0\0\x02", "editcap -F pcap"),
    ];
    for (name, bytes, expected) in cases {
        let path = folder.file(name, bytes);
        let said = refusal(&path);
        assert!(said.contains(expected) && said.contains(&path.display().to_string()), "{name}: {said}");
    }
    assert!(refusal(&folder.0).contains("directory"), "{}", refusal(&folder.0));
    assert!(refusal(&folder.0.join("absent")).contains("absent: No such file"));
    let output = halfgate().output().unwrap();
    assert_eq!(output.status.code(), Some(2), "no capture is wrong usage");
}

#[test]
fn a_capture_that_ends_early_says_where_and_shows_what_it_had() {
    let folder = Folder::new("truncated");
    let whole = plain(&script(true, WHOLE));
    // In the middle of the sixth packet.
    let fifth = 24 + 5 * 16 + script(true, WHOLE)[..5].iter().map(|(_, packet)| packet.len()).sum::<usize>();
    let path = folder.file("cut.pcap", &whole[..fifth + 20]);
    let output = halfgate().arg(&path).arg("--json").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(
        said.contains(&format!("packet 6, at octet {fifth}: the file ends in the middle of it")),
        "{said}"
    );
    assert_eq!(objects(&output)[0]["history"], "ShADd");
    // The captures after it are read.
    let good = folder.file("good.pcap", &whole);
    let output = halfgate().args([&path, &good]).arg("--json").output().unwrap();
    assert_eq!((output.status.code(), objects(&output).len()), (Some(1), 2));
}

#[test]
fn captures_come_by_standard_input_and_in_parts() {
    let folder = Folder::new("input");
    let packets = script(true, WHOLE);
    let mut child =
        halfgate().args(["-", "--json"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    // In drops, as a pipe may.
    let mut input = child.stdin.take().unwrap();
    for drop in plain(&packets).chunks(7) {
        input.write_all(drop).unwrap();
    }
    std::mem::drop(input);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    assert_eq!(objects(&output)[0]["history"], "ShADdFf");
    let parts = [folder.file("1", &plain(&packets[..4])), folder.file("2", &plain(&packets[4..]))];
    let joined = replayed(&parts, &["--join"]);
    assert_eq!((joined.len(), &joined[0]["history"]), (1, &"ShADdFf".into()));
    assert_eq!(replayed(&parts, &[]).len(), 2);
}

#[test]
fn a_long_capture_shows_its_progress_on_a_terminal_only() {
    let folder = Folder::new("progress");
    let syn = |number: u32| {
        let tuple = FourTuple { src_port: 1000 + (number % 100) as u16, ..tuple(true) };
        (1_700_000_000_000, SegmentBuilder::new(tuple).seq(SeqNum(1)).flags(Flags::SYN).build().bytes)
    };
    let packets: Vec<_> = (0..70_000).map(syn).collect();
    let path = folder.file("long.pcap", &plain(&packets));
    let output = halfgate().arg(&path).output().unwrap();
    assert_eq!((output.status.success(), text(&output.stderr)), (true, String::new()));
    // script gives the command a terminal.
    let command = format!("{} replay {}", env!("CARGO_BIN_EXE_halfgate"), path.display());
    let output = Command::new("script").args(["-qec", &command, "/dev/null"]).output().unwrap();
    let shown = text(&output.stdout);
    assert!(shown.contains("long.pcap [") && shown.contains(" %  0.1 M packets"), "{:.500}", shown);
}

/// The corpus of the fuzz target `capture`: a file of each kind.
fn corpus() -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let packets = script(true, "> S 99\n< SA 499 100\n> A 100 500 9\n< FA 500 109");
    for (number, format) in formats().into_iter().enumerate() {
        let (name, link, before) = &links()[number % links().len()];
        let kind = if format.kind == Kind::Pcap { "pcap" } else { "pcapng" };
        let name = name.replace(|letter: char| !letter.is_ascii_alphanumeric(), "_");
        files.insert(format!("{number:02}_{kind}_{name}"), written(format, *link, before, &packets));
    }
    let six = Format { kind: Kind::Pcap, is_big_endian: false, resolution: 6 };
    let [first, second] = halves(&script(false, "> A 1 2 40")[0].1, 24);
    let fragments = [(0, first), (1, second)];
    files.insert("fragments".to_owned(), written(six, 101, &[vec![], vec![]], &fragments));
    let mut cut = plain(&packets);
    cut.truncate(cut.len() - 5);
    files.insert("cut_off".to_owned(), cut);
    files
}

#[test]
fn the_corpus_of_the_fuzz_target_is_made_here() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus/capture");
    let writes = std::env::var_os("HALFGATE_WRITE_CORPUS").is_some();
    for (name, bytes) in corpus() {
        let path = folder.join(&name);
        if writes {
            fs::write(&path, &bytes).unwrap();
        }
        let known = fs::read(&path).unwrap_or_default();
        assert_eq!(known, bytes, "{name} differs: run this test with HALFGATE_WRITE_CORPUS=1");
    }
}
