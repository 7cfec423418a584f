//! A fixed number of seeds of the cluster simulator, and the proof that a seed replays.
//!
//! Many more are run by `scripts/simulate --seeds 100000`; a failing one prints how to replay it.

use brick_tests::sim::log::Recording;
use brick_tests::sim::{Options, Summary, run};

/// Seeds per test; four tests share the cores.
const SEEDS: u64 = 150;

fn run_seeds(first: u64) {
    let summaries = (first..first + SEEDS).map(|seed| run(seed, Options::default()));
    let failed: Vec<Summary> = summaries.filter(|summary| summary.failure.is_some()).collect();
    for summary in &failed {
        let Summary { seed, failure, .. } = summary;
        println!("scripts/simulate --seed {seed}: {}", failure.as_deref().unwrap_or_default());
    }
    assert!(failed.is_empty(), "{} of {SEEDS} seeds failed", failed.len());
}

#[test]
fn simulation_first_quarter() {
    run_seeds(1);
}

#[test]
fn simulation_second_quarter() {
    run_seeds(1 + SEEDS);
}

#[test]
fn simulation_third_quarter() {
    run_seeds(1 + 2 * SEEDS);
}

#[test]
fn simulation_last_quarter() {
    run_seeds(1 + 3 * SEEDS);
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
