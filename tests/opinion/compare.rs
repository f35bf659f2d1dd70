//! One story through both, packet by packet.

use std::{fmt, sync::Arc, time::Duration};

use halfgate::{
    conntrack::{
        Connection, Direction, Flow, Instant, Phase, Whole,
        key::Sender,
        tcp::{self, Kind, Outcome},
    },
    engine::{Engine, IfIndex, Meta, Verdict, Worker},
    policy::{Action, Hook, Policy, Settings},
    wire::{Checksums, FourTuple, Protocol, Segment},
};

use super::{
    kernel::{Kernel, Question, STATES, State},
    story::{Side, Step, Story, What},
};

/// What both believe of a connection; `None`: no entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
pub struct Pair {
    /// The kernel's state by name.
    pub kernel: Option<&'static str>,
    pub ours: Option<Phase>,
}

impl Pair {
    pub const NONE: Self = Self { kernel: None, ours: None };

    /// Whether they mean the same.
    pub fn agrees(self) -> bool {
        let same = match self.kernel {
            None => None,
            Some("SYN_SENT") => Some(Phase::SynSent),
            // Both SYNs: the kernel has a state of its own for it.
            Some("SYN_SENT2" | "SYN_RECV") => Some(Phase::SynReceived),
            Some("ESTABLISHED") => Some(Phase::Established),
            Some("FIN_WAIT") => Some(Phase::FinWait),
            Some("CLOSE_WAIT") => Some(Phase::HalfClosed),
            Some("LAST_ACK") => Some(Phase::Closing),
            Some("TIME_WAIT") => Some(Phase::TimeWait),
            Some("CLOSE") => Some(Phase::Reset),
            Some(other) => panic!("conntrack's state {other} is not known here"),
        };
        self.ours == same
    }
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ours = self.ours.map_or("-", Phase::name);
        write!(f, "{} / {ours}", self.kernel.unwrap_or("-"))
    }
}

/// Halfgate's connection as it was when a segment came.
#[derive(Clone, Copy, Debug)]
pub struct Met {
    pub connection: Connection,
    pub direction: Direction,
    pub outcome: Outcome,
}

/// What became of a packet.
#[derive(Clone, Copy, Debug)]
pub struct Record {
    pub step: Step,
    pub kernel: State,
    pub ours: Verdict,
    pub before: Pair,
    pub after: Pair,
    pub met: Option<Met>,
}

impl Record {
    pub fn kernel_accepts(&self) -> bool {
        matches!(self.kernel, State::Known | State::Related)
    }

    pub fn ours_accepts(&self) -> bool {
        self.ours == Verdict::Accept
    }

    /// Whether it is an ACK or FIN that both believe.
    pub fn is_plain(&self) -> bool {
        let data = match &self.step.what {
            What::Tcp(segment) => matches!(Kind::of(segment.flags), Some(Kind::Ack | Kind::Fin)),
            What::Icmp { .. } => false,
        };
        data && self.kernel_accepts() && self.met.is_some_and(|met| met.outcome == Outcome::Pass)
    }

    /// Whether both say the same of it.
    pub fn agrees(&self) -> bool {
        self.kernel_accepts() == self.ours_accepts() && (self.after.agrees() || self.after == self.before)
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = if self.agrees() { ' ' } else { '!' };
        let ours = match self.ours {
            Verdict::Accept => "accept",
            Verdict::Drop(reason) | Verdict::Reset(reason) => reason.name(),
        };
        write!(f, "{mark} {} | {:?} / {ours} | {}", self.step, self.kernel, self.after)
    }
}

/// The same connection once more, without an engine around it: it shows why the engine
/// said what it said.
#[derive(Default)]
struct Shadow(Option<(Whole, Side)>);

impl Shadow {
    fn take(&mut self, from: Side, segment: &Segment) -> Option<Met> {
        let kind = Kind::of(segment.flags)?;
        let open = || Some((Whole::from(tcp::open(segment, Sender::Low, NOW)), from));
        let Some((connection, opener)) = &mut self.0 else {
            self.0 = if kind == Kind::Syn { open() } else { None };
            return None;
        };
        let direction = if from == *opener { Direction::Original } else { Direction::Reply };
        let before = connection.common;
        let outcome = tcp::step(&mut connection.live(), direction, kind, segment, NOW);
        match outcome {
            Outcome::Reopen => self.0 = open(),
            Outcome::Over => self.0 = None,
            Outcome::Pass | Outcome::Stale | Outcome::Reborn | Outcome::Invalid(_) => {}
        }
        Some(Met { connection: before, direction, outcome })
    }

    fn phase(&self) -> Option<Phase> {
        self.0.as_ref().map(|(connection, _)| connection.phase)
    }
}

/// Halfgate and the kernel, side by side.
pub struct Pairing {
    kernel: Kernel,
    engine: Arc<Engine>,
    worker: Worker,
    stories: u32,
}

/// All packets of a story come by within a moment.
const NOW: Instant = Instant(1_000_000);

/// Entries that conntrack may gather before they are thrown away.
const CHUNK: u32 = 2000;

impl Pairing {
    pub fn new(kernel: Kernel) -> Self {
        let mut settings = Settings { default: Action::Accept, ..Settings::default() };
        settings.pickup.grace = Duration::ZERO;
        let policy = Policy::new(settings, Vec::new(), Vec::new(), vec!["default".into()]);
        let engine = Engine::new(policy, [1, 2], NOW);
        Self { kernel, worker: engine.worker(), engine, stories: 0 }
    }

    /// Passes a story through both, until `stop` has seen enough.
    pub fn run(&mut self, story: &Story, mut stop: impl FnMut(&[Record]) -> bool) -> Vec<Record> {
        self.stories += 1;
        if self.stories.is_multiple_of(CHUNK) {
            self.kernel.forget_all();
        }
        let question = Question::about(story.tuple);
        let mut records: Vec<Record> = Vec::with_capacity(story.steps.len());
        let mut shadow = Shadow::default();
        for step in &story.steps {
            let packet = story.packet(step);
            let before = records.last().map_or(Pair::NONE, |record| record.after);
            let kernel = self.kernel.pass(step.from, &packet);
            let ours = self.judge(step.from, &packet);
            let state = self.kernel.phase(&question).map(|state| STATES[usize::from(state)]);
            let met = match &step.what {
                What::Tcp(segment) => shadow.take(step.from, segment),
                What::Icmp { .. } => None,
            };
            let after = Pair { kernel: state, ours: shadow.phase() };
            records.push(Record { step: *step, kernel, ours, before, after, met });
            if stop(&records) {
                break;
            }
        }
        assert_eq!(self.phase(), shadow.phase(), "the engine is the table and nothing else");
        self.worker.kill(&flow(story.tuple), true, NOW);
        while self.worker.poll_event().is_some() || self.worker.poll_transmit().is_some() {}
        records
    }

    fn judge(&mut self, from: Side, packet: &[u8]) -> Verdict {
        let (in_if, out_if) = match from {
            Side::Client => (IfIndex(1), IfIndex(2)),
            Side::Server => (IfIndex(2), IfIndex(1)),
        };
        let meta = Meta {
            hook: Hook::Forward,
            in_if,
            out_if,
            wire_len: u32::try_from(packet.len()).unwrap(),
            checksums: Checksums::Verify,
            kernel_knows: false,
            parent: None,
            renumbered: None,
            is_invalid: false,
            candidacy: None,
        };
        self.worker.handle_packet(&meta, packet, NOW)
    }

    /// The phase of the only connection that there is.
    fn phase(&self) -> Option<Phase> {
        let mut phase = None;
        self.engine.connections(NOW, &mut |view| {
            phase = Some(view.phase);
            false
        });
        phase
    }
}

fn flow(tuple: FourTuple) -> Flow {
    Flow {
        protocol: Protocol::TCP,
        src: tuple.src,
        src_port: tuple.src_port,
        dst: tuple.dst,
        dst_port: tuple.dst_port,
    }
}
