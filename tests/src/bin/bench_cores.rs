//! What a second core is worth to a brick, on the disk and with the disk taken out: the same loads on bricks with one core
//! each and on bricks with two, in rounds that take turns.
//!
//! With the disk taken out means that the bricks keep their directories in memory (tmpfs, which takes O_DIRECT since Linux
//! 6.6): what is left is the way of a request through network, engine and files.

use std::process::ExitCode;
use std::time::Duration;

use brick_tests::bench::case::{self, Case};
use brick_tests::bench::run::Runner;
use brick_tests::bench::sample::Sample;
use brick_tests::cluster::{Cluster, Options};
use clap::Parser;

/// Compares bricks of one core with bricks of two.
///
/// Example: BRICK_SCRATCH=/dev/shm brick-bench-cores --rounds 5
#[derive(Debug, Parser)]
struct Arguments {
    /// Rounds; the median of each figure counts
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// How long a run takes, milliseconds
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(100..=600_000))]
    runtime_ms: u64,
    /// Size of the images, MiB
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u64).range(16..=1 << 20))]
    size: u64,
}

const IMAGE: &str = "vm";
const CASES: [Case; 6] =
    [case::WRITE_1, case::WRITE_32, case::READ_1, case::READ_32, case::WRITE_1M, case::READ_1M];

/// A running volume and what it measured, case by case.
struct Side {
    _cluster: Cluster,
    runner: Runner,
    samples: Vec<Vec<Sample>>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = Duration::from_millis(arguments.runtime_ms);
    // The data bricks have a CPU each if they have one core, and share both if they have two; the arbiter stays with one.
    let mut sides =
        [Side::start(["0,", "1,", "0,"], arguments.size), Side::start(["0,1", "0,1", "0,"], arguments.size)];
    for round in 1..=arguments.rounds {
        for (index, case) in CASES.into_iter().enumerate() {
            for side in &mut sides {
                let sample = side.runner.perf(&job(case, arguments.size, Some(runtime)), "run").figures;
                side.samples[index].push(sample);
            }
        }
        eprintln!("round {round} of {}", arguments.rounds);
    }
    println!("| | one core each | two | ratio |\n|---|---|---|---|");
    for (index, case) in CASES.into_iter().enumerate() {
        let [one, two] = [0, 1].map(|side: usize| Sample::median(&sides[side].samples[index]).iops);
        println!("| {case} | {one:.0} | {two:.0} | {:.2} |", two / one);
    }
    ExitCode::SUCCESS
}

impl Side {
    fn start(cores: [&str; 3], size_mib: u64) -> Side {
        let arguments = cores.map(|cores| vec!["--cores".to_owned(), cores.to_owned()]);
        let cluster = Cluster::with(&Options { brick_arguments: arguments.into(), ..Options::default() });
        cluster.create_image(IMAGE, &format!("{size_mib}M"));
        let runner = Runner::of(&cluster);
        runner.perf(&job(case::FILL, size_mib, None), "fill");
        Side { _cluster: cluster, runner, samples: vec![Vec::new(); CASES.len()] }
    }
}

fn job(case: Case, size_mib: u64, runtime: Option<Duration>) -> String {
    case.job(&format!("ioengine=volume\nimage={IMAGE}\n"), size_mib, runtime)
}
