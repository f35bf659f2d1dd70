//! Several workers on one engine: locks in one order, limits that hold, books
//! that agree.

use std::sync::atomic::AtomicBool;

use super::*;
use crate::policy::OnExcess;

const WORKERS: u64 = 4;
const ROUNDS: u64 = 4_000;
const HALF_OPEN: u32 = 40;
const PER_SOURCE: u32 = 15;
const CONNECTIONS: u32 = 120;

/// Numbers that look random and are the same in every run (xorshift).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

fn limited(on_excess: OnExcess) -> Settings {
    let mut settings = Settings { max_connections: CONNECTIONS, ..open_settings() };
    settings.limits.total = Some(HALF_OPEN);
    settings.limits.per_source = Some(PER_SOURCE);
    settings.limits.on_excess = Some(on_excess);
    settings
}

/// One worker's traffic: pieces of the lives of a few hundred connections, which
/// the others send pieces of at the same time.
fn traffic(engine: &Arc<Engine>, number: u64) {
    let mut dice = Dice(0x9e37_79b9 + number);
    let mut lab = Lab::new();
    let mut worker = engine.worker();
    for round in 0..ROUNDS {
        let now = Instant(1_000_000 + round * 20);
        lab.client.0 = IpAddr::from([198, 51, 100, u8::try_from(dice.roll(4)).unwrap()]);
        lab.client.1 = 4_000 + u16::try_from(dice.roll(100)).unwrap();
        let say = match dice.roll(12) {
            0..=5 => client("S", 0),
            6..=7 => server("S.", 0).ack(1),
            8 => client(".", 1).ack(1),
            9 => client("R", 1),
            10 => client("F.", 1).ack(1),
            _ => server("F.", 1).ack(2),
        };
        let packet = lab.packet(say);
        worker.handle_packet(&Lab::meta(say.from, packet.bytes.len()), &packet.bytes, now);
        match dice.roll(64) {
            0 => {
                worker.kill(&lab.flow(), false, now);
            }
            1 => while worker.handle_timeout(now) {},
            2 => engine.set_live(engine.live()),
            _ => {}
        }
        while worker.poll_transmit().is_some() {}
        while worker.poll_event().is_some() {}
    }
}

#[test]
fn workers_side_by_side_keep_limits_and_books() {
    for on_excess in [OnExcess::Evict, OnExcess::Drop] {
        let engine = Engine::new(policy(limited(on_excess), Vec::new()), [1, 2], Instant(1_000_000));
        let running = AtomicBool::new(true);
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..WORKERS)
                .map(|number| {
                    scope.spawn({
                        let engine = &engine;
                        move || traffic(engine, number)
                    })
                })
                .collect();
            scope.spawn(|| {
                while running.load(Ordering::Relaxed) {
                    let tracker = engine.embryonic.lock();
                    assert!(tracker.len() <= HALF_OPEN, "{} half-open", tracker.len());
                    for (scope, count) in tracker.counts() {
                        let most = if matches!(scope, crate::conntrack::embryonic::Scope::Source { .. }) {
                            PER_SOURCE
                        } else {
                            HALF_OPEN
                        };
                        assert!(count <= most, "{scope:?}: {count}");
                    }
                    drop(tracker);
                    // Each worker may have passed the question for room at once.
                    let most = u64::from(CONNECTIONS) + WORKERS;
                    let connections = engine.counters().connections;
                    assert!(connections <= most, "{connections} connections");
                    std::thread::yield_now();
                }
            });
            for worker in workers {
                worker.join().unwrap();
            }
            running.store(false, Ordering::Relaxed);
        });
        let mut lab = Lab::new();
        lab.worker = engine.worker();
        lab.engine = Arc::clone(&engine);
        lab.now = Instant(1_000_000 + ROUNDS * 20);
        lab.check();
        assert!(engine.counters().connections > 0, "something is left to look at");
        // Everything ends by its timer, and every count is given back.
        lab.seconds(3 * 3600);
        let counters = engine.counters();
        assert_eq!((counters.connections, counters.embryonic), (0, 0));
        assert!(engine.embryonic.lock().is_empty());
    }
}
