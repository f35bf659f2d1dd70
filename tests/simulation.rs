//! Two real ends, a bad network and an attacker, with the firewall in between.
//!
//! Each seed is a whole story: how both ends behave, what the network loses,
//! who crashes when. A failure prints its seed and every packet; the same by
//! `cargo run --release --example simulate -- --seed N`, which also runs a
//! million of them (`--seeds 1000000`).

#![allow(clippy::wildcard_enum_match_arm, reason = "a model, where the rest is the rest")]
#![allow(clippy::nonminimal_bool, dead_code, unreachable_pub, missing_docs, reason = "shared with a command")]

#[path = "simulation/model.rs"]
mod model;

use model::{simulate, world::Sum};

const SEEDS: u64 = 10_000;

#[test]
fn whatever_honest_ends_do_the_firewall_breaks_nothing() {
    let threads = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let mut total = Sum::default();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|worker| {
                scope.spawn(move || {
                    let mut sum = Sum::default();
                    for seed in (worker..SEEDS).step_by(usize::try_from(threads).unwrap_or(1)) {
                        match simulate(seed) {
                            Ok(one) => sum.add(one),
                            Err(failure) => return Err(failure),
                        }
                    }
                    Ok(sum)
                })
            })
            .collect();
        for worker in workers {
            match worker.join().expect("a simulation does not panic") {
                Ok(sum) => total.add(sum),
                Err(failure) => {
                    panic!("{}\nseed {}: {}", failure.trace.join("\n"), failure.seed, failure.law);
                }
            }
        }
    });
    // A simulation in which nothing happens proves nothing.
    assert!(total.opened > SEEDS && total.attacks > SEEDS && total.crashes > SEEDS / 10, "{total:?}");
}
