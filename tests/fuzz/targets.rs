//! What fuzzing asks of each part: bytes in, no panic, and laws that hold.
//!
//! Used twice: by the fuzz targets beside this file (`cargo fuzz`), and by
//! `tests/fuzz.rs`, which replays the corpus and a short random run in the suite.

use std::time::Duration;

use halfgate::{
    cli::replay::replay_bytes,
    conntrack::{Flow, Instant},
    engine::{Candidacy, Engine, Existing, IfIndex, Meta, Renumbering, Transmit, Verdict, Word, Worker},
    policy::{
        Action, Adaptive, FastOpen, Hook, Live, LiveTimer, OnExcess, OnExpire, PickupMode, Policy, Probe,
        Rule, RuleId, Settings,
    },
    wire::{self, Checksums, Flags, FourTuple, SegmentBuilder, SeqNum, build},
};

/// A target: its name, which is that of its corpus, and what it does.
pub(crate) type Target = (&'static str, fn(&[u8]));

/// All of them.
pub(crate) const TARGETS: [Target; 5] = [
    ("parser", parser),
    ("engine", engine),
    ("rule_file", rule_file),
    ("control", control),
    ("capture", capture),
];

/// Any bytes as a packet, of any claimed length.
pub(crate) fn parser(data: &[u8]) {
    let Some((head, bytes)) = data.split_at_checked(2) else { return };
    let claimed = u32::from(u16::from_le_bytes([head[0], head[1]]));
    let own = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    for wire_len in [own, claimed, own.max(claimed)] {
        for checksums in [Checksums::Trust, Checksums::VerifyTransport, Checksums::Verify] {
            if let Ok(packet) = wire::parse(bytes, wire_len, checksums) {
                assert!(packet.transport_offset <= bytes.len());
                assert_eq!(packet.src.is_ipv4(), packet.dst.is_ipv4());
            }
        }
    }
}

/// Any bytes as a rule file, with a list file that is also any bytes.
pub(crate) fn rule_file(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut read = |_: &str| Ok(text.clone().into_owned());
    if let Err(diagnostics) = halfgate::config::compile("fuzz.yaml", &text, &mut read, None) {
        assert!(!diagnostics.is_empty(), "a refusal without a reason");
        for diagnostic in diagnostics {
            assert!(!diagnostic.message.is_empty() && diagnostic.line > 0, "{diagnostic:?}");
        }
    }
}

/// Any bytes as a request on the control socket, and as the filter in one.
pub(crate) fn control(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let _ = serde_json::from_str::<halfgate::daemon::protocol::Request>(&text);
    let words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
    if let Err(error) = halfgate::daemon::filter::Filter::parse(&words) {
        assert!(!error.is_empty());
    }
}

/// Any bytes as a capture, through two rule sets.
pub(crate) fn capture(data: &[u8]) {
    let policy = |action| {
        let mut settings = Settings {
            default: action,
            max_connections: 5,
            adaptive: Adaptive { start: 50, end: 150 },
            ..Settings::default()
        };
        settings.pickup.grace = Duration::ZERO;
        Policy::new(settings, Vec::new(), Vec::new(), vec!["default".into()])
    };
    let policies = [policy(Action::Accept), policy(Action::Drop)];
    let outcome = replay_bytes(data, &policies, Checksums::Verify);
    let totals = outcome.totals;
    let judged = totals.packets - totals.not_ip - totals.fragments;
    assert_eq!(totals.accepted + totals.dropped + totals.reset, judged, "{totals:?}");
    let listed: u64 = outcome.connections.iter().map(|(packets, _)| packets).sum();
    assert_eq!(listed + totals.without_tuple, judged, "{totals:?}");
    // A record of either format has a header of sixteen octets or more.
    assert!(totals.packets <= data.len() as u64 / 16, "{totals:?}");
    assert!(outcome.broken.is_none_or(|why| !why.is_empty()));
}

/// Bytes as a story: packets of a few connections, with numbers that are nearly
/// right, time, kills, timers. The books must agree at every turn.
pub(crate) fn engine(data: &[u8]) {
    let mut story = Story::new();
    let mut bytes = data.iter().copied();
    let mut turns = 0;
    while let Some(op) = bytes.next() {
        story.turn(op, &mut || bytes.next().unwrap_or(0));
        turns += 1;
        if turns > 400 {
            break;
        }
    }
    story.check();
    story.advance(Duration::from_secs(200 * 24 * 3600));
    // Who is asked whether it lives has three intervals more, and the wheel is late
    // by a fraction of each. Before that the kernel is asked about one that rides, and
    // after it, its ends are told for as long as `reset` was set to.
    for _ in 0..6 {
        story.advance(PROBE.interval + Duration::from_secs(1));
        story.check();
    }
    story.advance(Duration::from_secs(200 * 24 * 3600));
    story.check();
    assert_eq!(story.worker.poll_timeout(), None, "nothing outlives its timer");
    assert_eq!(story.counters().connections, 0);
}

const PROBE: Probe = Probe { interval: Duration::from_secs(5), retries: 2 };

struct Story {
    engine: std::sync::Arc<Engine>,
    worker: Worker,
    now: Instant,
    /// The highest number that each end of each connection has sent.
    next: [[u32; 2]; 4],
    /// What is uncommon about the packet of this turn.
    odd: Odd,
    /// The last challenge: to whom, and what it acknowledges.
    challenge: Option<(FourTuple, SeqNum)>,
}

/// The uncommon parts of a segment.
#[derive(Clone, Copy, Default)]
struct Odd {
    /// Fast Open's option, with a cookie or asking for one (RFC 7413).
    fast_open: bool,
    /// The kernel's helper announces it as a child of the next connection.
    announced: bool,
    /// The kernel's helper has moved the numbers that it acknowledges.
    renumbered: bool,
}

/// What conntrack says of a connection that was never heard in the kernel.
const SILENT: Word = Word {
    silence: Duration::from_secs(200 * 24 * 3600),
    unacknowledged: false,
    state: None,
    counts: None,
    rides: true,
};

impl Story {
    fn settings() -> Settings {
        let mut settings = Settings {
            default: Action::Accept,
            max_connections: 3,
            adaptive: Adaptive { start: 50, end: 150 },
            ..Settings::default()
        };
        settings.pickup.grace = Duration::from_secs(5);
        settings.limits.total = Some(2);
        settings.limits.on_excess = Some(OnExcess::Evict);
        settings
    }

    fn new() -> Self {
        let policy = Policy::new(Self::settings(), Vec::new(), Vec::new(), vec!["default".into()]);
        let now = Instant(u64::from(u32::MAX) * 10 - 50_000);
        let engine = Engine::new(policy, [3, 4], now);
        let odd = Odd::default();
        Self { worker: engine.worker(), engine, now, next: [[100, u32::MAX - 100]; 4], odd, challenge: None }
    }

    /// A rule that takes every connection.
    fn rule(fast_open: FastOpen) -> Rule {
        Rule {
            id: RuleId(1),
            name: "all".into(),
            place: "fuzz:1".into(),
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
            fast_open,
            inspect: Default::default(),
            evictable: true,
            open_limits: Default::default(),
        }
    }

    fn flow(which: usize) -> Flow {
        let FourTuple { src, src_port, dst, dst_port } = Self::tuple(which);
        Flow { protocol: wire::Protocol::TCP, src, src_port, dst, dst_port }
    }

    fn tuple(which: usize) -> FourTuple {
        let port = 1000 + u16::try_from(which).unwrap_or(0);
        if which.is_multiple_of(2) {
            FourTuple {
                src: [192, 0, 2, 1].into(),
                src_port: port,
                dst: [198, 51, 100, 1].into(),
                dst_port: 80,
            }
        } else {
            let address = |last| std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last).into();
            FourTuple { src: address(1), src_port: port, dst: address(2), dst_port: 80 }
        }
    }

    fn turn(&mut self, op: u8, more: &mut dyn FnMut() -> u8) {
        let which = usize::from(op & 3);
        self.odd = Odd { fast_open: op & 32 != 0, announced: op & 64 != 0, renumbered: op & 128 != 0 };
        match op >> 2 & 7 {
            0..=4 => self.segment(which, more),
            5 => self.advance(Duration::from_millis(u64::from(more()) * u64::from(more()) * 10)),
            6 => match more() % 9 {
                0 => self.raw(more),
                1 => self.datagram(which, more() & 1 == 1),
                2 => self.kill(which),
                3 | 4 => self.opens(which, more),
                5 => self.closes(which, more() & 1),
                6 => self.error(which, more),
                7 => self.rules(more()),
                _ => self.prove(),
            },
            _ => self.tune(more()),
        }
        self.check();
    }

    fn segment(&mut self, which: usize, more: &mut dyn FnMut() -> u8) {
        let (how, flags, seq, ack) = (more(), more() & 0x3f, more(), more());
        let reply = usize::from(how & 1);
        let there = Self::tuple(which);
        let tuple = if reply == 1 { there.reversed() } else { there };
        // Mostly right, sometimes near, rarely far.
        let near = |base: u32, choice: u8| match choice {
            0..=159 => base,
            160..=191 => base.wrapping_sub(1),
            192..=207 => base.wrapping_add(1),
            208..=223 => base.wrapping_sub(70_000),
            224..=239 => base.wrapping_add(65_535),
            _ => base.wrapping_add(u32::from(choice) << 24),
        };
        let length = u32::from(how >> 4) * 100;
        let sent = near(self.next[which][reply], seq);
        let acked = near(self.next[which][1 - reply], ack);
        let flags = Flags(flags);
        let mut builder = SegmentBuilder::new(tuple).seq(SeqNum(sent)).window(u16::from(more()) << 8);
        if flags.contains(Flags::ACK) {
            builder = builder.ack(SeqNum(acked));
        }
        if how & 2 != 0 {
            builder = builder.window_scale(more() % 15);
        }
        if how & 4 != 0 {
            builder = builder.timestamps(u32::from(more()), 0);
        }
        if self.odd.fast_open {
            builder = builder.fast_open(&[7; 8][..usize::from(seq & 8)]);
        }
        let payload = vec![0; usize::try_from(length).unwrap_or(0)];
        let packet = builder.flags(flags).payload(&payload).build();
        let meta = Meta {
            kernel_knows: how & 8 != 0,
            parent: self.odd.announced.then(|| Self::flow((which + 1) & 3)),
            is_invalid: how & 16 != 0,
            candidacy: [None, Some(Candidacy::Stands), Some(Candidacy::Lost), None]
                [usize::from(how >> 5 & 3)],
            renumbered: self.odd.renumbered.then(|| Renumbering {
                position: SeqNum(self.next[which][1 - reply].wrapping_sub(20)),
                before: 0,
                after: u32::from(ack),
            }),
            ..Self::meta(packet.wire_len(), Checksums::Verify)
        };
        let verdict = self.worker.handle_packet(&meta, &packet.bytes, self.now);
        let stripped = self.worker.rewritten().map(|bytes| {
            let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            let wire::Transport::Tcp(segment) = wire::parse(bytes, len, Checksums::Verify)
                .expect("what goes on instead is a legal packet")
                .transport
            else {
                panic!("no TCP any more");
            };
            assert!(!segment.options.fast_open && segment.flags.contains(Flags::SYN), "{segment:?}");
            segment.payload_len
        });
        if verdict == Verdict::Accept {
            let length = stripped.map_or(length, |octets| octets);
            let counted = flags.0 & 1 != 0 || flags.0 & 2 != 0;
            let end = sent.wrapping_add(length).wrapping_add(u32::from(counted));
            if SeqNum(end).after(SeqNum(self.next[which][reply])) || flags.contains(Flags::SYN) {
                self.next[which][reply] = end;
            }
        }
    }

    /// What an honest end sends next, however far it has come.
    fn honest(&mut self, which: usize, end: u8, flags: Flags, octets: u8) {
        // Direction and length; control bits; exact numbers; a window.
        let mut given = [end | octets << 4, flags.0, 0, 0, 200].into_iter();
        self.segment(which, &mut || given.next().unwrap_or(0));
    }

    /// A handshake, by either end, and data both ways.
    fn opens(&mut self, which: usize, more: &mut dyn FnMut() -> u8) {
        let (opener, data) = (more() & 1, more());
        self.honest(which, opener, Flags::SYN, 0);
        self.honest(which, 1 - opener, Flags::SYN.with(Flags::ACK), 0);
        self.honest(which, opener, Flags::ACK, data & 7);
        self.honest(which, 1 - opener, Flags::ACK, data >> 4);
    }

    /// One FIN and its acknowledgement; twice, and both ends have closed.
    fn closes(&mut self, which: usize, end: u8) {
        self.honest(which, end, Flags::FIN.with(Flags::ACK), 0);
        self.honest(which, 1 - end, Flags::ACK, 0);
    }

    /// An ICMP error about something that an end has sent.
    fn error(&mut self, which: usize, more: &mut dyn FnMut() -> u8) {
        let (end, back) = (usize::from(more() & 1), u32::from(more()) << 6);
        let there = Self::tuple(which);
        let tuple = if end == 1 { there.reversed() } else { there };
        let sent = SeqNum(self.next[which][end].wrapping_sub(back));
        let quoted = SegmentBuilder::new(tuple).seq(sent).ack(SeqNum(1)).build();
        let (kind, code) = if tuple.src.is_ipv4() { (3, 4) } else { (2, 0) };
        let packet = build::icmp_error(tuple.dst, tuple.src, kind, code, &quoted.bytes);
        self.judge(&packet.bytes, packet.wire_len(), Checksums::Verify);
    }

    /// Other settings, for those that are there too or not.
    fn rules(&mut self, what: u8) {
        let existing = if what & 1 == 0 { Existing::Keep } else { Existing::Rejudge };
        let mut settings = Self::settings();
        settings.default = if what & 2 == 0 { Action::Accept } else { Action::Drop };
        settings.on_expire = match what & 0x44 {
            0 => OnExpire::Reset,
            4 => OnExpire::Drop,
            _ => OnExpire::Probe(PROBE),
        };
        settings.pickup.mode = if what & 8 == 0 { PickupMode::Strict } else { PickupMode::Loose };
        let on_excess = [OnExcess::Evict, OnExcess::Drop, OnExcess::Reset, OnExcess::Challenge];
        settings.limits.on_excess = on_excess.get(usize::from(what >> 4 & 3)).copied();
        let rules = match what & 0x84 {
            0x80 => vec![Self::rule(FastOpen::Strip)],
            0x84 => vec![Self::rule(FastOpen::Deny)],
            _ => Vec::new(),
        };
        let policy = Policy::new(settings, Vec::new(), rules, vec!["default".into(), "all".into()]);
        self.engine.install(policy, existing, &mut self.worker, self.now);
    }

    /// Whoever was challenged last answers, as a host that knows nothing of it does.
    fn prove(&mut self) {
        let Some((tuple, ack)) = self.challenge.take() else { return };
        let answer = SegmentBuilder::new(tuple.reversed()).seq(ack).flags(Flags::RST).build();
        self.judge(&answer.bytes, answer.wire_len(), Checksums::Verify);
    }

    fn raw(&mut self, more: &mut dyn FnMut() -> u8) {
        let bytes: Vec<u8> = (0..more() % 80).map(|_| more()).collect();
        let len = u32::try_from(bytes.len()).unwrap_or(0);
        self.judge(&bytes, len, Checksums::Trust);
    }

    fn datagram(&mut self, which: usize, reply: bool) {
        let there = Self::tuple(which);
        let packet = build::udp(if reply { there.reversed() } else { there }, b"fuzz");
        self.judge(&packet.bytes, packet.wire_len(), Checksums::Verify);
    }

    fn kill(&mut self, which: usize) {
        self.worker.kill(&Self::flow(which), which == 0, self.now);
    }

    fn tune(&mut self, what: u8) {
        let timer = halfgate::conntrack::Timer::ALL[usize::from(what) % halfgate::conntrack::Timer::COUNT];
        let mut live = Live::default();
        let seconds = 1 + u64::from(what >> 4) * 100;
        let change = LiveTimer {
            timer,
            rule: None,
            value: Some(Duration::from_secs(seconds)),
            until: None,
            from_epoch: 0,
        };
        live.set_timer(change).expect("in range");
        self.engine.set_live(live);
    }

    fn meta(wire_len: u32, checksums: Checksums) -> Meta {
        Meta {
            hook: Hook::Forward,
            in_if: IfIndex(1),
            out_if: IfIndex(2),
            wire_len,
            checksums,
            kernel_knows: false,
            parent: None,
            renumbered: None,
            is_invalid: false,
            candidacy: None,
        }
    }

    fn judge(&mut self, bytes: &[u8], wire_len: u32, checksums: Checksums) {
        self.worker.handle_packet(&Self::meta(wire_len, checksums), bytes, self.now);
        assert_eq!(self.worker.rewritten(), None);
    }

    fn advance(&mut self, time: Duration) {
        self.now = self.now.after(time);
        while self.worker.handle_timeout(self.now) {}
    }

    fn counters(&self) -> halfgate::engine::Counters {
        self.engine.counters()
    }

    fn check(&mut self) {
        while self.worker.poll_event().is_some() {}
        while let Some(transmit) = self.worker.poll_transmit() {
            match transmit {
                Transmit::Challenge { tuple, ack, .. } => self.challenge = Some((tuple, ack)),
                // The kernel has heard nothing that did not come by here.
                Transmit::Ask { flow } => self.worker.handle_word(&flow, Some(&SILENT), self.now),
                Transmit::Reset { .. }
                | Transmit::Keepalive { .. }
                | Transmit::Acknowledge { .. }
                | Transmit::Release { .. }
                | Transmit::Forget { .. } => {}
            }
        }
        let counters = self.counters();
        let by_phase: u64 = counters.phases.iter().map(|(_, count)| count).sum();
        assert_eq!(by_phase, counters.connections);
        assert_eq!(counters.opened - counters.closed, counters.connections);
        let half_open: u64 =
            counters.phases.iter().filter(|(name, _)| name.starts_with("syn_")).map(|(_, count)| count).sum();
        assert_eq!(half_open, counters.embryonic + counters.uncounted);
        assert!(counters.embryonic <= 2 && counters.connections <= 3, "{counters:?}");
        let dropped: u64 = counters.dropped.iter().map(|(_, count)| count).sum();
        assert_eq!(counters.accepted + dropped, counters.packets);
    }
}
