//! The engine by itself, without a kernel: what a packet costs among few and among many
//! connections, what one takes of memory, what several threads do to each other, and what
//! rules cost.

#[path = "../connections.rs"]
#[allow(dead_code, reason = "others use the rest")]
mod connections;
#[path = "../rule_set.rs"]
#[allow(dead_code, reason = "others use the rest")]
mod rule_set;

use std::{fs, hint::black_box, sync::Arc, time::Instant as Clock};

use connections::{Family, NOW, establish, in_window, judge_batches, meta, open_policy};
use halfgate::{
    conntrack::Instant,
    engine::{Engine, Verdict},
    policy::{NewFlow, Policy},
    wire::RawPacket,
};
use rule_set::{Numbers, policy, question};

pub(crate) const FEW: u32 = 1_000;
pub(crate) const MANY: u32 = 1_000_000;

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

    /// So many threads together, each with a part of the packets.
    pub(crate) fn together(&self, threads: usize) -> Together {
        let (waits, start) = (self.engine.counters().lock_waits, Clock::now());
        std::thread::scope(|scope| {
            for part in self.packets.chunks(PACKETS.div_ceil(threads)) {
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

/// What several threads do on one table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Together {
    /// Packets a second, of all.
    pub(crate) rate: f64,
    /// How often one waited for another's lock, a hundred packets.
    pub(crate) waits: f64,
}

/// Octets of memory that this process has.
fn resident() -> usize {
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) * 4096
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
