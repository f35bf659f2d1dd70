//! The fuzz targets in the ordinary suite: the corpus, and a short random run.
//!
//! The long form is `tests/fuzz.sh`.

#[path = "fuzz/targets.rs"]
mod targets;

use std::path::Path;

use proptest::{
    strategy::{Strategy, ValueTree},
    test_runner::{Config, RngSeed, TestRunner},
};
use targets::TARGETS;

/// Random inputs of each target.
const RUNS: u32 = 2_000;

#[test]
fn the_corpus_is_replayed() {
    for (name, target) in TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(name);
        let mut replayed = 0;
        for entry in
            std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        {
            let path = entry.expect("listed").path();
            let data = std::fs::read(&path).expect("a file");
            if let Err(panic) = std::panic::catch_unwind(|| target(&data)) {
                eprintln!("by {}", path.display());
                std::panic::resume_unwind(panic);
            }
            replayed += 1;
        }
        assert!(replayed > 0, "{} is empty", folder.display());
    }
}

#[test]
fn random_bytes_do_no_harm() {
    for (name, target) in TARGETS {
        let config =
            Config { rng_seed: RngSeed::Fixed(0x6861_6c66), failure_persistence: None, ..Config::default() };
        let mut runner = TestRunner::new(config);
        let bytes = proptest::collection::vec(proptest::num::u8::ANY, 0..300);
        for run in 0..RUNS {
            let data = bytes.new_tree(&mut runner).expect("it makes some").current();
            if let Err(panic) = std::panic::catch_unwind(|| target(&data)) {
                eprintln!("{name}, run {run}: {data:?}");
                std::panic::resume_unwind(panic);
            }
        }
    }
}
