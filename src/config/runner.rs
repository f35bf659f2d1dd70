//! Runs the `tests:` of a rule file through the engine itself, in virtual time.
//!
//! Each test has an engine and a table of its own, and no pickup grace. Before a
//! step all timers that are due by then fire, each at its time. Both ends behave
//! as TCP does: the runner keeps their sequence numbers, and a receiver
//! acknowledges what got through.

use std::{collections::HashMap, net::SocketAddr, time::Duration};

use super::tests::{Expect, ExpectPhase, PacketKind, RuleTest, Step, TestPacket};
use crate::{
    conntrack::{Flow, Instant, Phase},
    engine::{Engine, IfIndex, Meta, Verdict, Worker},
    policy::{Hook, Policy},
    wire::{self, Checksums, Flags, FourTuple, Protocol, RawPacket, SegmentBuilder, SeqNum},
};

/// Virtual time begins here, away from zero.
const START: Instant = Instant(1_000_000);
/// Keys of the hashes; nobody attacks a test.
const SEED: [u64; 2] = [0x6861_6c66, 0x6761_7465];
/// The window that both ends offer.
const WINDOW: u16 = 64_240;

/// How a test ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// Its name.
    pub name: String,
    /// Its line.
    pub line: usize,
    /// How many steps were run.
    pub steps: usize,
    /// The first step that went another way: its line, and what happened.
    pub failure: Option<(usize, String)>,
}

/// Runs every test against the policy.
#[must_use]
pub fn run_tests(policy: &Policy, tests: &[RuleTest]) -> Vec<Outcome> {
    tests.iter().map(|test| run(policy, test)).collect()
}

fn run(policy: &Policy, test: &RuleTest) -> Outcome {
    let mut policy = policy.clone();
    policy.settings.pickup.grace = Duration::ZERO;
    let engine = Engine::new(policy, SEED, START);
    let interfaces = interfaces(test);
    engine.set_interfaces(&interfaces);
    let mut world = World { worker: engine.worker(), interfaces, ends: HashMap::new() };
    let mut outcome = Outcome { name: test.name.clone(), line: test.line, steps: 0, failure: None };
    for step in &test.steps {
        outcome.steps = outcome.steps.saturating_add(1);
        if let Err(message) = world.step(&engine, step) {
            outcome.failure = Some((step.line, message));
            break;
        }
    }
    outcome
}

/// A number for every interface that the test names.
fn interfaces(test: &RuleTest) -> Vec<(IfIndex, String)> {
    let mut names: Vec<&String> =
        test.steps.iter().flat_map(|step| step.in_if.iter().chain(&step.out_if)).collect();
    names.sort_unstable();
    names.dedup();
    (1..).map(IfIndex).zip(names.into_iter().cloned()).collect()
}

/// One end of a TCP connection, as its peer and itself see it.
#[derive(Clone, Copy, Debug)]
struct End {
    /// Where it began.
    first: SeqNum,
    /// What it sends next.
    next: SeqNum,
    /// What its peer has got so far; `None` if nothing.
    delivered: Option<SeqNum>,
    /// The number of its FIN, once sent.
    fin: Option<SeqNum>,
}

struct World {
    worker: Worker,
    interfaces: Vec<(IfIndex, String)>,
    /// By sender and receiver.
    ends: HashMap<(SocketAddr, SocketAddr), End>,
}

impl World {
    fn step(&mut self, engine: &Engine, step: &Step) -> Result<(), String> {
        let now = START.after(step.at);
        self.fire(now);
        let packet = self.build(&step.packet);
        let hook = match (&step.in_if, &step.out_if) {
            (Some(_), None) => Hook::Input,
            (None, Some(_)) => Hook::Output,
            (Some(_), Some(_)) | (None, None) => Hook::Forward,
        };
        let meta = Meta {
            hook,
            in_if: self.index(step.in_if.as_ref()),
            out_if: self.index(step.out_if.as_ref()),
            wire_len: packet.wire_len(),
            checksums: Checksums::Verify,
            kernel_knows: false,
            parent: None,
            renumbered: None,
            is_invalid: false,
            candidacy: None,
        };
        let verdict = self.worker.handle_packet(&meta, &packet.bytes, now);
        while self.worker.poll_transmit().is_some() || self.worker.poll_event().is_some() {}
        self.delivered(&step.packet, verdict);
        let (got, why) = match verdict {
            Verdict::Accept => (Expect::Accept, None),
            Verdict::Drop(reason) => (Expect::Drop, Some(reason.name())),
            Verdict::Reset(reason) => (Expect::Reset, Some(reason.name())),
        };
        if got != step.expect {
            let why = why.map_or_else(String::new, |why| format!(" ({why})"));
            return Err(format!("expected {}, got {got}{why}: {}", step.expect, step.packet.text));
        }
        let Some(expected) = step.phase else { return Ok(()) };
        let phase = phase(engine, &flow(&step.packet), now);
        let is_as_expected = match expected {
            ExpectPhase::In(expected) => phase == Some(expected),
            ExpectPhase::None => phase.is_none(),
        };
        if is_as_expected {
            return Ok(());
        }
        let name = |phase: Option<Phase>| phase.map_or("none", Phase::name);
        let expected = match expected {
            ExpectPhase::In(phase) => Some(phase),
            ExpectPhase::None => None,
        };
        Err(format!("expected phase {}, got {}: {}", name(expected), name(phase), step.packet.text))
    }

    /// Lets every timer fire that is due by `now`, each at its time.
    fn fire(&mut self, now: Instant) {
        let mut last = None;
        while let Some(due) = self.worker.poll_timeout().filter(|due| *due <= now && Some(*due) != last) {
            while self.worker.handle_timeout(due) {}
            last = Some(due);
        }
        while self.worker.handle_timeout(now) {}
    }

    fn index(&self, name: Option<&String>) -> IfIndex {
        self.interfaces.iter().find(|(_, known)| Some(known) == name).map_or(IfIndex(0), |(index, _)| *index)
    }

    fn build(&mut self, packet: &TestPacket) -> RawPacket {
        let tuple = FourTuple {
            src: packet.src.ip(),
            src_port: packet.src.port(),
            dst: packet.dst.ip(),
            dst_port: packet.dst.port(),
        };
        match packet.kind {
            PacketKind::Tcp { flags, seq, ack, len } => {
                let seq = seq.map_or_else(|| self.next_seq(packet, flags), SeqNum);
                let peer = self.ends.get(&(packet.dst, packet.src)).and_then(|end| end.delivered);
                let mut segment = SegmentBuilder::new(tuple).flags(flags).seq(seq).window(WINDOW);
                if flags.contains(Flags::ACK) {
                    segment = segment.ack(ack.map(SeqNum).or(peer).unwrap_or_default());
                }
                if flags.contains(Flags::SYN) {
                    segment = segment.mss(1460);
                }
                self.sent(packet, flags, seq, len);
                segment.payload_len(usize::from(len)).build()
            }
            PacketKind::Udp { len } => wire::build::udp(tuple, &vec![0; usize::from(len)]),
            PacketKind::Echo { is_reply, id } => {
                let echo = if is_reply { wire::build::Echo::Reply } else { wire::build::Echo::Request };
                wire::build::icmp_echo(tuple.src, tuple.dst, echo, id, 1, &[0; 8])
            }
        }
    }

    /// The sequence number of a sender's next segment.
    fn next_seq(&self, packet: &TestPacket, flags: Flags) -> SeqNum {
        let Some(end) = self.ends.get(&(packet.src, packet.dst)) else {
            // Numbers that tell the two ends apart.
            let port = u32::from(packet.src.port());
            return SeqNum(port.wrapping_mul(1_000_003));
        };
        if flags.contains(Flags::SYN) {
            // A SYN again is the same SYN, until something followed it.
            return if end.next == end.first.plus(1) { end.first } else { end.next.plus(100_000) };
        }
        match end.fin {
            Some(fin) if flags.contains(Flags::FIN) => fin,
            Some(_) | None => end.next,
        }
    }

    /// Remembers what a sender has sent.
    fn sent(&mut self, packet: &TestPacket, flags: Flags, seq: SeqNum, len: u16) {
        let fresh = End { first: seq, next: seq, delivered: None, fin: None };
        let end = self.ends.entry((packet.src, packet.dst)).or_insert(fresh);
        if flags.contains(Flags::SYN) && end.first != seq {
            *end = fresh;
            if !flags.contains(Flags::ACK) {
                // A new connection: the other end begins anew too, with newer numbers.
                if let Some(peer) = self.ends.get_mut(&(packet.dst, packet.src)) {
                    peer.delivered = None;
                }
            }
        }
        let Some(end) = self.ends.get_mut(&(packet.src, packet.dst)) else { return };
        end.next = end.next.latest(seq.plus(seq_len(flags, len)));
        if flags.contains(Flags::FIN) {
            end.fin = Some(seq.plus(u32::from(len)));
        }
    }

    /// Tells the receiver what got through.
    fn delivered(&mut self, packet: &TestPacket, verdict: Verdict) {
        let got_through = matches!(verdict, Verdict::Accept) && matches!(packet.kind, PacketKind::Tcp { .. });
        if let Some(end) = self.ends.get_mut(&(packet.src, packet.dst)).filter(|_| got_through) {
            end.delivered = Some(end.next);
        }
    }
}

/// SEG.LEN (RFC 9293 §3.4).
fn seq_len(flags: Flags, len: u16) -> u32 {
    let bits = u32::from(flags.contains(Flags::SYN)).saturating_add(u32::from(flags.contains(Flags::FIN)));
    u32::from(len).saturating_add(bits)
}

fn flow(packet: &TestPacket) -> Flow {
    let (protocol, src_port, dst_port) = match packet.kind {
        PacketKind::Tcp { .. } => (Protocol::TCP, packet.src.port(), packet.dst.port()),
        PacketKind::Udp { .. } => (Protocol::UDP, packet.src.port(), packet.dst.port()),
        PacketKind::Echo { id, .. } => {
            (if packet.src.is_ipv4() { Protocol::ICMP } else { Protocol::ICMPV6 }, id, 0)
        }
    };
    Flow { protocol, src: packet.src.ip(), src_port, dst: packet.dst.ip(), dst_port }
}

/// The phase of the packet's connection, whichever way the packet went.
fn phase(engine: &Engine, flow: &Flow, now: Instant) -> Option<Phase> {
    let is_echo = matches!(flow.protocol, Protocol::ICMP | Protocol::ICMPV6);
    let back = match is_echo {
        true => Flow { src: flow.dst, dst: flow.src, ..*flow },
        false => flow.reversed(),
    };
    let mut found = None;
    engine.connections(now, &mut |view| {
        if view.flow == *flow || view.flow == back {
            found = Some(view.phase);
        }
        found.is_none()
    });
    found
}
