//! The engine by packet scripts: who sends what, what becomes of it.
//!
//! `Lab` is a gateway with a client outside and a server inside, on a clock that
//! the test moves. Sequence numbers are relative, as in packetdrill: the client's
//! SYN is 0 of its numbers, the server's SYN-ACK 0 of its own.

mod boarding;
mod cells;
mod challenge;
mod clauses;
mod cookies;
mod counts;
mod fast_open;
mod fast_path;
mod flags;
mod forgotten;
mod limits;
mod one_way;
mod open;
mod other;
mod prepared;
mod pressure;
mod probe;
mod related;
mod rules;
mod stale;
mod tcp;
mod threads;
mod timers;
mod tuned;

use std::{net::IpAddr, sync::Arc, time::Duration};

use super::*;
use crate::{
    conntrack::{
        Phase, Scope, Whole,
        window::{Half, Seen},
    },
    policy::{Action, Hook, Rule, Settings},
    wire::{Checksums, Flags, FourTuple, Protocol, RawPacket, SeqNum, build::SegmentBuilder},
};

const OUTSIDE: IfIndex = IfIndex(2);
const INSIDE: IfIndex = IfIndex(3);
const CLIENT_ISS: u32 = u32::MAX - 5;
const SERVER_ISS: u32 = 0x7fff_fffe;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum From {
    Client,
    Server,
}

/// A segment of a script.
#[derive(Clone, Copy, Debug)]
struct Say {
    from: From,
    flags: Flags,
    seq: u32,
    ack: Option<u32>,
    len: usize,
    window: u16,
    scale: Option<u8>,
    timestamp: Option<u32>,
    fast_open: bool,
}

fn client(flags: &str, seq: u32) -> Say {
    say(From::Client, flags, seq)
}

fn server(flags: &str, seq: u32) -> Say {
    say(From::Server, flags, seq)
}

fn say(from: From, flags: &str, seq: u32) -> Say {
    let flags = flags.bytes().fold(Flags::default(), |flags, letter| {
        flags.with(match letter {
            b'S' => Flags::SYN,
            b'F' => Flags::FIN,
            b'R' => Flags::RST,
            b'P' => Flags::PSH,
            b'U' => Flags::URG,
            b'E' => Flags(0x40),
            b'W' => Flags(0x80),
            b'.' => Flags::ACK,
            other => panic!("unknown flag {other}"),
        })
    });
    Say {
        from,
        flags,
        seq,
        ack: None,
        len: 0,
        window: 0xffff,
        scale: None,
        timestamp: None,
        fast_open: false,
    }
}

impl Say {
    fn ack(mut self, ack: u32) -> Self {
        self.ack = Some(ack);
        self
    }

    fn len(mut self, len: usize) -> Self {
        self.len = len;
        self
    }

    fn window(mut self, window: u16) -> Self {
        self.window = window;
        self
    }

    fn scale(mut self, scale: u8) -> Self {
        self.scale = Some(scale);
        self
    }

    fn fast_open(mut self) -> Self {
        self.fast_open = true;
        self
    }

    fn timestamp(mut self, value: u32) -> Self {
        self.timestamp = Some(value);
        self
    }
}

struct Lab {
    engine: Arc<Engine>,
    worker: Worker,
    now: Instant,
    client: (IpAddr, u16),
    server: (IpAddr, u16),
}

fn rule(name: &str, id: u16) -> Rule {
    Rule {
        id: RuleId(id),
        name: name.into(),
        place: "test:1".into(),
        comment: "".into(),
        from: Default::default(),
        to: Default::default(),
        services: Vec::new(),
        action: Action::Accept,
        log: false,
        timers: Vec::new(),
        limits: Default::default(),
        on_expire: None,
        pickup: None,
        fast_open: Default::default(),
        inspect: Default::default(),
        evictable: false,
        open_limits: Default::default(),
    }
}

fn policy(settings: Settings, rules: Vec<Rule>) -> Policy {
    let mut names: Vec<Arc<str>> = vec!["default".into()];
    names.extend(rules.iter().map(|rule| Arc::clone(&rule.name)));
    Policy::new(settings, Vec::new(), rules, names)
}

/// Rules that accept everything, strict pickup, no grace.
fn open_settings() -> Settings {
    let mut settings = Settings { default: Action::Accept, ..Settings::default() };
    settings.pickup.grace = Duration::ZERO;
    settings
}

fn seen<A: crate::conntrack::Address>(table: &crate::conntrack::Table<A>) -> Vec<(Flow, Whole)> {
    let all = (0..table.bound()).filter_map(|slot| Some((table.get(slot)?, table.whole(slot)?)));
    all.map(|(entry, connection)| (entry.key.flow(connection.opener()), connection)).collect()
}

impl Lab {
    fn new() -> Self {
        Self::with(open_settings(), Vec::new())
    }

    fn with(settings: Settings, rules: Vec<Rule>) -> Self {
        Self::at(policy(settings, rules), "198.51.100.7:4000", "192.0.2.20:80")
    }

    fn ipv6() -> Self {
        Self::at(policy(open_settings(), Vec::new()), "[2001:db8::7]:4000", "[2001:db8:1::20]:80")
    }

    fn at(policy: Policy, client: &str, server: &str) -> Self {
        let now = Instant(1_000_000);
        let engine = Engine::new(policy, [1, 2], now);
        let client: std::net::SocketAddr = client.parse().unwrap();
        let server: std::net::SocketAddr = server.parse().unwrap();
        Self {
            worker: engine.worker(),
            engine,
            now,
            client: (client.ip(), client.port()),
            server: (server.ip(), server.port()),
        }
    }

    fn flow(&self) -> Flow {
        Flow {
            protocol: Protocol::TCP,
            src: self.client.0,
            src_port: self.client.1,
            dst: self.server.0,
            dst_port: self.server.1,
        }
    }

    fn tuple(&self, from: From) -> FourTuple {
        let there = FourTuple {
            src: self.client.0,
            src_port: self.client.1,
            dst: self.server.0,
            dst_port: self.server.1,
        };
        if from == From::Client { there } else { there.reversed() }
    }

    fn packet(&self, say: Say) -> RawPacket {
        self.builder(say).build()
    }

    fn builder(&self, say: Say) -> SegmentBuilder {
        let (own, other) = match say.from {
            From::Client => (CLIENT_ISS, SERVER_ISS),
            From::Server => (SERVER_ISS, CLIENT_ISS),
        };
        let payload = vec![0x55; say.len];
        let mut builder = SegmentBuilder::new(self.tuple(say.from))
            .seq(SeqNum(own.wrapping_add(say.seq)))
            .window(say.window);
        if let Some(ack) = say.ack {
            builder = builder.ack(SeqNum(other.wrapping_add(ack)));
        }
        if let Some(scale) = say.scale {
            builder = builder.window_scale(scale);
        }
        if let Some(value) = say.timestamp {
            builder = builder.timestamps(value, 0);
        }
        if say.fast_open {
            builder = builder.fast_open(&[0xc0; 8]);
        }
        // Flags last: `ack` sets its flag.
        builder.flags(say.flags).payload(&payload)
    }

    fn meta(from: From, len: usize) -> Meta {
        let (in_if, out_if) = if from == From::Client { (OUTSIDE, INSIDE) } else { (INSIDE, OUTSIDE) };
        Meta {
            hook: Hook::Forward,
            in_if,
            out_if,
            wire_len: u32::try_from(len).unwrap(),
            checksums: Checksums::Verify,
            kernel_knows: false,
            parent: None,
            renumbered: None,
            is_invalid: false,
            candidacy: None,
        }
    }

    fn send(&mut self, say: Say) -> Verdict {
        let packet = self.packet(say);
        self.raw(Self::meta(say.from, packet.bytes.len()), &packet.bytes)
    }

    fn raw(&mut self, meta: Meta, bytes: &[u8]) -> Verdict {
        let verdict = self.worker.handle_packet(&meta, bytes, self.now);
        self.check();
        verdict
    }

    /// Everything passes.
    #[track_caller]
    fn pass(&mut self, says: &[Say]) {
        for say in says {
            assert_eq!(self.send(*say), Verdict::Accept, "{say:?} in {:?}", self.phase());
        }
    }

    #[track_caller]
    fn dropped(&mut self, say: Say, reason: DropReason) {
        let before = self.view();
        assert_eq!(self.send(say), Verdict::Drop(reason), "{say:?}");
        if let (Some(before), Some(after)) = (before, self.view()) {
            assert_eq!(before, after, "a dropped packet changes nothing");
        }
    }

    /// What is known of the numbers of both ends.
    fn numbers(&self) -> Option<[Half; 2]> {
        let mut found = None;
        let wanted = self.flow();
        self.engine.visit(self.now, &mut || {}, &mut |view, connection| {
            if view.flow == wanted {
                found = Some([connection.original, connection.reply]);
            }
            true
        });
        found
    }

    /// What is believed of them: where `end` is that of a segment which the other end
    /// need not take, what it was before.
    fn believed_since(&self, before: Option<[Half; 2]>) -> Option<[Half; 2]> {
        let mut now = self.numbers();
        for (now, before) in now.iter_mut().flatten().zip(before.iter().flatten()) {
            if now.seen.has(Seen::UNTAKEN) {
                (now.end, now.seen) = (before.end, before.seen);
            }
        }
        now
    }

    /// Whether it passes and teaches something new of its ends' numbers.
    fn believes(&mut self, say: Say) -> bool {
        let before = self.numbers();
        self.send(say) == Verdict::Accept && self.believed_since(before) != before
    }

    /// It passes, because its receiver answers it, and nothing of it is believed.
    #[track_caller]
    fn unbelieved(&mut self, say: Say) {
        let before = (self.numbers(), self.phase());
        assert_eq!(self.send(say), Verdict::Accept, "{say:?}");
        let after = (self.believed_since(before.0), self.phase());
        assert_eq!(after, before, "{say:?} changes nothing");
    }

    fn view(&self) -> Option<View> {
        let mut found = None;
        let wanted = self.flow();
        self.engine.connections(self.now, &mut |view| {
            if view.flow == wanted {
                found = Some(*view);
            }
            true
        });
        found
    }

    fn phase(&self) -> Option<Phase> {
        self.view().map(|view| view.phase)
    }

    fn handshake(&mut self) {
        self.pass(&[client("S", 0), server("S.", 0).ack(1), client(".", 1).ack(1)]);
        assert_eq!(self.phase(), Some(Phase::Established));
    }

    /// A connection in each phase of TCP.
    fn in_phase(phase: Phase) -> Self {
        let mut lab = Self::new();
        lab.bring_to(phase);
        lab
    }

    fn bring_to(&mut self, phase: Phase) {
        let opening = [client("S", 0), server("S.", 0).ack(1), client(".", 1).ack(1)];
        let closing =
            [client("F.", 1).ack(1), server(".", 1).ack(2), server("F.", 1).ack(2), client(".", 2).ack(2)];
        match phase {
            Phase::SynSent => self.pass(&opening[..1]),
            Phase::SynReceived => self.pass(&opening[..2]),
            Phase::Established => self.pass(&opening),
            Phase::FinWait => {
                self.pass(&opening);
                self.pass(&closing[..1]);
            }
            Phase::HalfClosed => {
                self.pass(&opening);
                self.pass(&closing[..2]);
            }
            Phase::Closing => {
                self.pass(&opening);
                self.pass(&closing[..3]);
            }
            Phase::TimeWait => {
                self.pass(&opening);
                self.pass(&closing);
            }
            Phase::Reset => {
                self.pass(&opening);
                self.pass(&[client("R", 1)]);
            }
            Phase::UdpNew | Phase::UdpStream | Phase::Icmp | Phase::Other => panic!("not TCP's"),
        }
        assert_eq!(self.phase(), Some(phase));
    }

    fn advance(&mut self, time: Duration) {
        self.now = self.now.after(time);
        while self.worker.handle_timeout(self.now) {}
        self.check();
    }

    fn seconds(&mut self, seconds: u64) {
        self.advance(Duration::from_secs(seconds));
    }

    fn transmits(&mut self) -> Vec<Transmit> {
        std::iter::from_fn(|| self.worker.poll_transmit()).collect()
    }

    /// The RSTs to send: to whom, and with which relative numbers.
    fn resets(&mut self) -> Vec<(From, u32, Option<u32>)> {
        let (client, server) = (self.tuple(From::Server), self.tuple(From::Client));
        self.transmits()
            .into_iter()
            .filter_map(|transmit| match transmit {
                Transmit::Reset { tuple, seq, ack, .. } if tuple == client => Some((
                    From::Client,
                    seq.0.wrapping_sub(SERVER_ISS),
                    ack.map(|a| a.0.wrapping_sub(CLIENT_ISS)),
                )),
                Transmit::Reset { tuple, seq, ack, .. } if tuple == server => Some((
                    From::Server,
                    seq.0.wrapping_sub(CLIENT_ISS),
                    ack.map(|a| a.0.wrapping_sub(SERVER_ISS)),
                )),
                Transmit::Reset { tuple, .. } => panic!("an RST for nobody: {tuple:?}"),
                Transmit::Keepalive { .. }
                | Transmit::Acknowledge { .. }
                | Transmit::Challenge { .. }
                | Transmit::Ask { .. }
                | Transmit::Release { .. }
                | Transmit::Forget { .. } => None,
            })
            .collect()
    }

    fn closed(&mut self) -> Vec<CloseReason> {
        std::iter::from_fn(|| self.worker.poll_event())
            .filter_map(|event| match event {
                Event::Closed(closed) => Some(closed.reason),
                Event::Opened { .. }
                | Event::Phase { .. }
                | Event::Stale { .. }
                | Event::Proven { .. }
                | Event::Logged { .. }
                | Event::LimitPassed { .. }
                | Event::Refused { .. } => None,
            })
            .collect()
    }

    /// The books agree, after every step.
    fn check(&self) {
        let counters = self.engine.counters();
        let by_phase: u64 = counters.phases.iter().map(|(_, count)| count).sum();
        assert_eq!(by_phase, counters.connections);
        assert_eq!(counters.opened - counters.closed, counters.connections);
        let half_open: u64 =
            counters.phases.iter().filter(|(name, _)| name.starts_with("syn_")).map(|(_, count)| count).sum();
        assert_eq!(
            half_open,
            counters.embryonic + counters.uncounted,
            "half-open connections and their counts"
        );
        let dropped: u64 = counters.dropped.iter().map(|(_, count)| count).sum();
        assert_eq!(counters.accepted + dropped, counters.packets);
        assert_eq!(counters.embryonic == 0, self.engine.embryonic.lock().counts().count() == 0);
        let (mut stale, mut scopes) = (0, std::collections::HashMap::<Scope, u32>::new());
        let mut all = Vec::new();
        for (at, shard) in self.engine.shards.iter().enumerate() {
            let shard = shard.lock();
            let known = [seen(&shard.ipv4), seen(&shard.ipv6)].concat();
            stale += known.iter().filter(|(_, connection)| connection.forgotten_by().is_some()).count();
            for (flow, connection) in known.iter().filter(|(_, connection)| connection.rare.embryo.is_some())
            {
                assert!(connection.phase.is_embryonic(), "{flow:?} counts in {}", connection.phase);
                for scope in self.scopes(flow, connection.rule) {
                    *scopes.entry(scope).or_default() += 1;
                }
            }
            all.extend(known);
            for class in 0..crate::conntrack::table::LINES {
                let bit = self.engine.lines.has(class, at);
                assert_eq!(bit, shard.in_line(class) > 0, "line {class} of shard {at}");
            }
            assert!(
                shard.ipv4.is_consistent(&self.engine.secret)
                    && shard.ipv6.is_consistent(&self.engine.secret)
            );
        }
        assert_eq!(stale as u64, counters.stale, "stale connections and their count");
        let counted = self.engine.embryonic.lock().counts().map(|(scope, count)| (*scope, count)).collect();
        assert_eq!(scopes, counted, "every scope's count is what a recount gives");
        let [expected, open] = self.engine.open.recount(&all);
        assert_eq!(expected, open, "and that of open connections");
    }

    /// What a half-open connection of this rule is counted in.
    fn scopes(&self, flow: &Flow, rule: u16) -> Vec<Scope> {
        let limits = crate::policy::LimitTable::resolve(&self.engine.policy(), &self.engine.live());
        let mut groups = vec![0, rule];
        groups.dedup();
        let scope = |group| {
            let prefix = limits.source_prefix(RuleId(group));
            [
                Scope::Total { group },
                Scope::source(group, flow.src, prefix),
                Scope::Destination { group, address: flow.dst, port: flow.dst_port },
            ]
        };
        groups.into_iter().flat_map(scope).collect()
    }
}
