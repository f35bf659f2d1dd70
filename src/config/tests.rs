//! The `tests:` of a rule file, as typed steps.
//!
//! A step is one packet and what should become of it. Sequence numbers are the
//! runner's business unless a step gives them.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use super::{
    reader::{self, Context, Fields, Report, choice},
    schema, words,
    yaml::{Kind, Node},
};
use crate::{conntrack::Phase, wire::Flags};

/// Tests in one file, and steps in one test.
const MOST: usize = 1000;

/// A test of a rule file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RuleTest {
    /// Its name.
    pub name: String,
    /// Its line.
    pub line: usize,
    /// Its packets, in time's order.
    pub steps: Vec<Step>,
}

/// One packet, and what should become of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Step {
    /// Its line.
    pub line: usize,
    /// When, since the test's start.
    pub at: Duration,
    /// The packet.
    pub packet: TestPacket,
    /// The interface it comes in by; none: the gateway sends it (output).
    pub in_if: Option<String>,
    /// The interface it leaves by; none: it is for the gateway (input).
    pub out_if: Option<String>,
    /// The verdict.
    pub expect: Expect,
    /// What its connection is in afterwards.
    pub phase: Option<ExpectPhase>,
}

/// A packet as a test writes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TestPacket {
    /// As it was written.
    pub text: String,
    /// Source; the port is 0 for ICMP.
    pub src: SocketAddr,
    /// Destination; the port is 0 for ICMP.
    pub dst: SocketAddr,
    /// What it carries.
    pub kind: PacketKind,
}

/// What a test's packet carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PacketKind {
    /// A TCP segment.
    Tcp {
        /// Control bits.
        flags: Flags,
        /// Sequence number; `None`: the next one of this sender.
        seq: Option<u32>,
        /// Acknowledgement; `None`: all that the other side got through.
        ack: Option<u32>,
        /// Octets of data.
        len: u16,
    },
    /// A UDP datagram.
    Udp {
        /// Octets of data.
        len: u16,
    },
    /// An echo request or reply.
    Echo {
        /// Whether it is the reply.
        is_reply: bool,
        /// The identifier.
        id: u16,
    },
}

/// A verdict, as a test expects it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expect {
    /// It passes.
    Accept,
    /// It is dropped in silence.
    Drop,
    /// It is dropped, and its sender told.
    Reset,
}

impl fmt::Display for Expect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Accept => "accept",
            Self::Drop => "drop",
            Self::Reset => "reset",
        })
    }
}

/// What a connection is in after a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ExpectPhase {
    /// It is in this phase.
    In(Phase),
    /// There is no connection.
    None,
}

/// Reads `tests:`.
pub(super) fn read(node: &Node, report: &mut Report) -> Vec<RuleTest> {
    let Kind::List(nodes) = &node.kind else {
        report.error(
            node.place,
            "`tests` must be a list",
            format!("write `- {}` below it", schema::TEST.example),
        );
        return Vec::new();
    };
    let mut out: Vec<RuleTest> = Vec::new();
    for (number, node) in (1_usize..).zip(nodes) {
        if number > MOST {
            report.error(node.place, format!("more than {MOST} tests"), "split the file");
            break;
        }
        report.enter(Context::Test(format!("#{number}")));
        if let Some(test) = test(node, report) {
            if out.iter().any(|other| other.name == test.name) {
                report.error(
                    node.place,
                    format!("the name `{}` is used twice", test.name),
                    "give one of them another name",
                );
            }
            out.push(test);
        }
    }
    report.enter(Context::File);
    out
}

fn test(node: &Node, report: &mut Report) -> Option<RuleTest> {
    let fields = Fields::of(node, &schema::TEST, report)?;
    let name = fields
        .need("name", "say in a sentence what the test shows", report)
        .and_then(|node| reader::text(node, "name", report))
        .map(|name| words::shorten(name, 200));
    if let Some(name) = &name {
        report.enter(Context::Test(name.clone()));
    }
    let steps = fields.need("steps", &format!("write `- {}` below it", schema::STEP.example), report)?;
    let Kind::List(nodes) = &steps.kind else {
        report.error(
            steps.place,
            "`steps` must be a list",
            format!("write `- {}` below it", schema::STEP.example),
        );
        return None;
    };
    if nodes.is_empty() {
        report.error(steps.place, "`steps` is an empty list", "write at least one packet");
    }
    let mut out = Vec::new();
    let mut before = Duration::ZERO;
    for node in nodes.iter().take(MOST) {
        let Some(step) = step(node, before, report) else { continue };
        before = step.at;
        out.push(step);
    }
    if nodes.len() > MOST {
        report.error(steps.place, format!("more than {MOST} steps"), "split the test");
    }
    Some(RuleTest { name: name?, line: node.place.line, steps: out })
}

fn step(node: &Node, before: Duration, report: &mut Report) -> Option<Step> {
    let fields = Fields::of(node, &schema::STEP, report)?;
    let mut at = before;
    if let Some(node) = fields.get("at")
        && let Some(value) = reader::duration(node, "at", report)
    {
        if value < before {
            report.error(
                node.place,
                "time runs backwards: the step before is later",
                "put the steps in order",
            );
        }
        at = value;
    }
    let packet = fields
        .need("packet", "write it like \"tcp 198.51.100.7:4000 > 192.168.10.20:80 S\"", report)
        .and_then(|node| {
            let text = reader::text(node, "packet", report)?;
            packet(text).map_err(|(message, cure)| report.error(node.place, message, cure)).ok()
        });
    let mut interface = |key: &'static str| {
        let node = fields.get(key)?;
        reader::text(node, key, report).map(str::to_owned)
    };
    let (in_if, out_if) = (interface("in"), interface("out"));
    if fields.get("in").is_none() && fields.get("out").is_none() {
        report.error(
            node.place,
            "a packet comes in by an interface, leaves by one, or both",
            "write `in:` and `out:`; only `in:` for a packet to the gateway, only `out:` for one from it",
        );
    }
    let expect =
        fields.need("expect", "write `expect: accept`, `drop` or `reset`", report).and_then(|node| {
            let choices = [("accept", Expect::Accept), ("drop", Expect::Drop), ("reset", Expect::Reset)];
            choice(node, "expect", &choices, words::ACTIONS, &[], report)
        });
    let phase = fields.get("phase").and_then(|node| match &node.kind {
        Kind::Text(text) if text == "none" => Some(ExpectPhase::None),
        Kind::Null | Kind::Bool(_) | Kind::Text(_) | Kind::List(_) | Kind::Map(_) => {
            let choices = Phase::ALL.map(|phase| (phase.name(), phase));
            choice(node, "phase", &choices, &[], &[], report).map(ExpectPhase::In)
        }
    });
    Some(Step { line: node.place.line, at, packet: packet?, in_if, out_if, expect: expect?, phase })
}

type Wrong = (String, String);

/// Reads a packet: `tcp A:p > B:p SA seq=1 ack=2 len=3`, `udp A:p > B:p len=3`,
/// `icmp A > B echo-request id=1`.
///
/// # Errors
/// What is wrong, and the cure.
pub fn packet(text: &str) -> Result<TestPacket, (String, String)> {
    const CURE: &str = "write it like `tcp 198.51.100.7:4000 > 192.168.10.20:80 S`, `udp A:p > B:p` or `icmp A > B echo-request`";
    let wrong = |message: String| Err((message, CURE.to_owned()));
    let mut words = text.split_whitespace();
    let (Some(protocol), Some(src), Some(">"), Some(dst)) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return wrong(format!("`{}` is no packet", words::shorten(text, 100)));
    };
    let has_ports = match protocol {
        "tcp" | "udp" => true,
        "icmp" | "icmpv6" => false,
        _ => return wrong(format!("`{}` is no protocol for tests", words::shorten(protocol, 40))),
    };
    let src = address(src, has_ports)?;
    let dst = address(dst, has_ports)?;
    if src.is_ipv4() != dst.is_ipv4() {
        return wrong("the two addresses are of different families".to_owned());
    }
    let mut numbers = Numbers::default();
    let mut word = None;
    for part in words {
        match part.split_once('=') {
            Some((key, value)) => numbers.set(key, value)?,
            None if word.is_none() => word = Some(part),
            None => return wrong(format!("`{}` is one word too many", words::shorten(part, 40))),
        }
    }
    let kind = match (protocol, word) {
        ("tcp", Some(word)) => {
            let flags = flags(word)?;
            numbers.only(&["seq", "ack", "len"])?;
            let len = numbers.short("len")?.unwrap_or(0);
            PacketKind::Tcp { flags, seq: numbers.get("seq"), ack: numbers.get("ack"), len }
        }
        ("tcp", None) => {
            return wrong("a TCP packet needs its flags, as in `S`, `SA`, `A`, `PA`, `FA` or `R`".to_owned());
        }
        ("udp", None) => {
            numbers.only(&["len"])?;
            PacketKind::Udp { len: numbers.short("len")?.unwrap_or(0) }
        }
        (_, Some(word @ ("echo-request" | "echo-reply"))) => {
            numbers.only(&["id"])?;
            PacketKind::Echo { is_reply: word == "echo-reply", id: numbers.short("id")?.unwrap_or(1) }
        }
        ("udp", Some(word)) => return wrong(format!("UDP has no flags like `{}`", words::shorten(word, 40))),
        _ => return wrong("an ICMP packet is an echo-request or an echo-reply".to_owned()),
    };
    Ok(TestPacket { text: text.to_owned(), src, dst, kind })
}

fn address(text: &str, has_port: bool) -> Result<SocketAddr, Wrong> {
    let parsed = if has_port {
        text.parse::<SocketAddr>().ok()
    } else {
        text.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, 0))
    };
    parsed.filter(|address| !has_port || address.port() != 0).ok_or_else(|| {
        let cure = if has_port {
            "write 192.0.2.1:80 or [2001:db8::1]:80"
        } else {
            "write 192.0.2.1 or 2001:db8::1, without a port"
        };
        (format!("`{}` is no address for this packet", words::shorten(text, 60)), cure.to_owned())
    })
}

fn flags(word: &str) -> Result<Flags, Wrong> {
    word.chars().try_fold(Flags::default(), |flags, letter| {
        let flag = match letter {
            'S' => Flags::SYN,
            'A' | '.' => Flags::ACK,
            'F' => Flags::FIN,
            'R' => Flags::RST,
            'P' => Flags::PSH,
            'U' => Flags::URG,
            _ => {
                let cure =
                    "the letters are S (SYN), A (ACK), F (FIN), R (RST), P (PSH) and U (URG)".to_owned();
                return Err((format!("`{letter}` in `{}` is no TCP flag", words::shorten(word, 40)), cure));
            }
        };
        Ok(flags.with(flag))
    })
}

/// The `key=number` parts of a packet.
#[derive(Default)]
struct Numbers(Vec<(String, u32)>);

impl Numbers {
    fn set(&mut self, key: &str, value: &str) -> Result<(), Wrong> {
        let part = || words::shorten(&format!("{key}={value}"), 60);
        let number = value
            .parse::<u32>()
            .map_err(|_| (format!("`{}` has no number", part()), "write it like len=100".to_owned()))?;
        if self.get(key).is_some() {
            return Err((format!("`{}` is there twice", part()), "keep one of them".to_owned()));
        }
        self.0.push((key.to_owned(), number));
        Ok(())
    }

    fn get(&self, key: &str) -> Option<u32> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, number)| *number)
    }

    /// A number of 16 bits; data is kept below what an IP packet holds.
    fn short(&self, key: &str) -> Result<Option<u16>, Wrong> {
        let Some(number) = self.get(key) else { return Ok(None) };
        let most = if key == "len" { 60_000 } else { u16::MAX };
        let short = u16::try_from(number).ok().filter(|number| *number <= most);
        short
            .map(Some)
            .ok_or_else(|| (format!("`{key}={number}` is too much"), format!("write at most {most}")))
    }

    fn only(&self, keys: &[&str]) -> Result<(), Wrong> {
        match self.0.iter().find(|(key, _)| !keys.contains(&key.as_str())) {
            Some((key, _)) => Err((
                format!("this packet has no `{}=`", words::shorten(key, 40)),
                format!(
                    "it may have: {}",
                    keys.iter().map(|key| format!("{key}=")).collect::<Vec<_>>().join(", ")
                ),
            )),
            None => Ok(()),
        }
    }
}
