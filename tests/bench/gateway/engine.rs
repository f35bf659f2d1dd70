//! The engine by itself, without a kernel: what a packet costs among few and among many
//! connections, what one takes of memory, what several threads do to each other, and what
//! rules cost.

#[path = "../connections.rs"]
#[allow(dead_code, reason = "others use the rest")]
mod connections;
#[path = "../rule_set.rs"]
#[allow(dead_code, reason = "others use the rest")]
mod rule_set;

use std::{
    fs,
    hint::black_box,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::{Duration, Instant as Clock},
};

use connections::{Family, NOW, establish, in_window, judge_batches, meta, open_policy, resident};
use halfgate::{
    conntrack::Instant,
    engine::{Engine, Existing, Verdict},
    policy::{NewFlow, Policy},
    wire::RawPacket,
};
use rule_set::{Numbers, policy, question};

pub(crate) const FEW: u32 = 1_000;
pub(crate) const MANY: u32 = 1_000_000;

/// When every timer of what was there before has run out.
const LATE: Instant = Instant(7 * 24 * 3_600_000);

/// Packets of a run.
const PACKETS: usize = 500_000;

/// An engine full of connections, and packets of them in random order.
pub(crate) struct Full {
    engine: Arc<Engine>,
    packets: Vec<RawPacket>,
    /// Octets of memory that each connection takes, all in.
    pub(crate) memory: f64,
}

impl Full {
    pub(crate) fn of(connections: u32) -> Self {
        let policy = open_policy(connections);
        let before = resident();
        let engine = Engine::new(policy, [11, 13], Instant(1000));
        establish(&mut engine.worker(), Family::Ipv4, connections);
        let memory = resident().saturating_sub(before) as f64 / f64::from(connections);
        Self { engine, packets: in_window(Family::Ipv4, connections, PACKETS), memory }
    }

    /// Nanoseconds a packet in window, in batches as a worker takes them.
    pub(crate) fn nanos(&self) -> f64 {
        1e9 / self.together(1).rate
    }

    /// Nanoseconds a packet in window that comes alone.
    pub(crate) fn nanos_single(&self) -> f64 {
        let mut worker = self.engine.worker();
        let start = Clock::now();
        for packet in &self.packets {
            let verdict = worker.handle_packet(&meta(packet), &packet.bytes, NOW);
            assert_eq!(verdict, Verdict::Accept);
        }
        start.elapsed().as_secs_f64() * 1e9 / PACKETS as f64
    }

    /// So many threads together, each with the packets of its own connections, as the kernel
    /// brings all packets of a connection to the same queue.
    pub(crate) fn together(&self, threads: usize) -> Together {
        // Each part's one behind the other, as in a worker's buffers.
        let part_of = |number: usize| {
            let is_own = |packet: &&RawPacket| usize::from(source_port(packet)) % threads == number;
            self.packets.iter().filter(is_own).cloned().collect::<Vec<_>>()
        };
        let parts: Vec<_> = (0..threads).map(part_of).collect();
        let (waits, start) = (self.engine.counters().lock_waits, Clock::now());
        std::thread::scope(|scope| {
            for part in &parts {
                scope.spawn(move || {
                    judge_batches(&mut self.engine.worker(), part, Verdict::Accept);
                });
            }
        });
        let rate = PACKETS as f64 / start.elapsed().as_secs_f64();
        let waits = self.engine.counters().lock_waits - waits;
        Together { rate, waits: waits as f64 * 100.0 / PACKETS as f64 }
    }
}

/// What another thread does to all connections while packets are judged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Work {
    Nothing,
    Listed,
    Judged,
    Ended,
}

impl Work {
    pub(crate) const ALL: [Self; 3] = [Self::Listed, Self::Judged, Self::Ended];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing is done to them",
            Self::Listed => "all are listed",
            Self::Judged => "10,000 rules are swapped and all judged again",
            Self::Ended => "the timers of all fire",
        }
    }

    fn run(self, engine: &Arc<Engine>) {
        let mut worker = engine.worker();
        match self {
            Self::Nothing => std::thread::sleep(Duration::from_secs(1)),
            Self::Listed => {
                for _ in 0..3 {
                    engine.connections(NOW, &mut |view| {
                        black_box(view);
                        true
                    });
                }
            }
            Self::Judged => {
                let text = rule_set::rule_file(10_000).replace("default: drop", "default: accept");
                engine.install(rule_set::compiled(&text, 10), Existing::Rejudge, &mut worker, NOW);
            }
            Self::Ended => {
                while worker.handle_timeout(LATE) {
                    while worker.poll_event().is_some() {}
                    while worker.poll_transmit().is_some() {}
                }
            }
        }
    }
}

/// The longest that one packet of a million connections takes while another thread does that to
/// them, in microseconds, if it sleeps to wait for a lock. What was slow because the scheduler
/// gave the processor of either to others is not counted.
pub(crate) fn longest(work: Work) -> f64 {
    let full = Full::of(MANY);
    let over = AtomicBool::new(false);
    let now = if work == Work::Ended { LATE } else { NOW };
    let (tell, told) = mpsc::sync_channel(1);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Who waits for it has not gone.
            let _ = tell.send(this_thread());
            work.run(&full.engine);
            over.store(true, Ordering::Relaxed);
        });
        let threads = [this_thread(), told.recv().expect("it tells before it works")];
        let (mut worker, mut longest) = (full.engine.worker(), 0.0_f64);
        let mut switches = threads.each_ref().map(|thread| Switches::of(thread));
        for packet in full.packets.iter().cycle() {
            if over.load(Ordering::Relaxed) {
                break;
            }
            let start = Clock::now();
            black_box(worker.handle_packet(&meta(packet), &packet.bytes, now));
            let micros = start.elapsed().as_secs_f64() * 1e6;
            if micros > longest {
                let now = threads.each_ref().map(|thread| Switches::of(thread));
                let before = std::mem::replace(&mut switches, now);
                let stayed =
                    switches.iter().zip(&before).all(|(now, before)| now.taken_away == before.taken_away);
                if switches[0].slept > before[0].slept && stayed {
                    longest = micros;
                }
            }
            while worker.poll_event().is_some() {}
            while worker.poll_transmit().is_some() {}
        }
        longest
    })
}

/// Where the kernel shows this thread.
fn this_thread() -> PathBuf {
    Path::new("/proc").join(fs::read_link("/proc/thread-self").expect("Linux has it"))
}

/// How often a thread gave its processor to somebody else.
struct Switches {
    /// To wait for something.
    slept: u64,
    /// Because it had to.
    taken_away: u64,
}

impl Switches {
    /// Of the thread there; of one that has ended none.
    fn of(thread: &Path) -> Self {
        let status = fs::read_to_string(thread.join("status")).unwrap_or_default();
        let count = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.and_then(|count| count.trim().parse().ok()).unwrap_or_default()
        };
        Self { slept: count("voluntary_ctxt_switches"), taken_away: count("nonvoluntary_ctxt_switches") }
    }
}

/// The lower octet of a TCP segment's source port, in an IPv4 packet without options.
fn source_port(packet: &RawPacket) -> u8 {
    packet.bytes[21]
}

/// What several threads do on one table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Together {
    /// Packets a second, of all.
    pub(crate) rate: f64,
    /// How often one waited for another's lock, a hundred packets.
    pub(crate) waits: f64,
}

/// A rule set and packets that it is asked about.
pub(crate) struct Rules {
    policy: Policy,
    questions: Vec<NewFlow>,
}

impl Rules {
    pub(crate) fn of(rules: u64, networks: usize) -> Self {
        let policy = policy(rules, networks);
        let mut numbers = Numbers(7);
        let questions = (0..200_000).map(|_| question(&policy, rules, &mut numbers).0).collect();
        Self { policy, questions }
    }

    /// Nanoseconds a decision, the zones of both ends included.
    pub(crate) fn nanos(&self) -> f64 {
        let start = Clock::now();
        for flow in &self.questions {
            black_box(self.policy.zones_of(black_box(Some("ppp0")), flow.src));
            black_box(self.policy.zones_of(black_box(Some("eth1")), flow.dst));
            black_box(self.policy.first_match(flow));
        }
        start.elapsed().as_secs_f64() * 1e9 / self.questions.len() as f64
    }
}
