//! A few seeds of the cluster simulator, and the proof that a seed replays.
//!
//! `scripts/test simulation` and `scripts/simulate` run many more; a failing one prints how to replay it.

use brick_tests::sim::config::Length;
use brick_tests::sim::log::Recording;
use brick_tests::sim::{Options, run};

/// Seeds here: enough to notice at once that something is broken.
const SEEDS: u64 = 100;

#[test]
fn short_seeds_pass() {
    let options = Options { length: Length::Short, ..Options::default() };
    let mut failed = 0;
    for seed in 1..=SEEDS {
        if let Some(failure) = run(seed, options).failure {
            println!("scripts/simulate --seed {seed} --short: {failure}");
            failed += 1;
        }
    }
    assert_eq!(failed, 0, "of {SEEDS} seeds");
}

/// The same seed twice is the same run, down to the text of its log.
#[test]
fn a_seed_replays() {
    let options = Options { recording: Recording::Text, ..Options::default() };
    for seed in 1..20 {
        let (one, other) = (run(seed, options), run(seed, options));
        assert_eq!((one.hash, one.events), (other.hash, other.events), "seed {seed}");
        assert!(one.events > 100 && one.failure.is_none(), "seed {seed}: {:?}", one.failure);
    }
}
