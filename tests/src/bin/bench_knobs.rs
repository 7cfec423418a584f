//! What the knobs are worth: the same loads on volumes that differ in one setting, in rounds that take turns.
//!
//! With the environment variable `BRICK_SCRATCH=/dev/shm` the disk is taken out: bricks keep their directories in memory
//! (tmpfs takes O_DIRECT since Linux 6.6), and what is left is the way of a request through network, engine and files.

use std::process::ExitCode;
use std::time::Duration;

use brick_tests::bench::case::{self, Case};
use brick_tests::bench::run::Runner;
use brick_tests::bench::sample::Sample;
use brick_tests::cluster::{Cluster, ONE_DATA, Options, TWO_AND_ARBITER};
use clap::{Parser, ValueEnum};

/// Compares settings of bricks and clients with the defaults.
///
/// Example: BRICK_SCRATCH=/dev/shm brick-bench-knobs --knob cores --rounds 5
#[derive(Debug, Parser)]
struct Arguments {
    /// Only this one; all by default
    #[arg(long)]
    knob: Option<Knob>,
    /// Rounds; the median of each figure counts
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// How long a run takes, milliseconds
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(100..=600_000))]
    runtime_ms: u64,
    /// Size of the images, MiB
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u64).range(16..=1 << 20))]
    size: u64,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Knob {
    /// `brickd run --cores`
    Cores,
    /// The same of a single brick, without replication
    CoresOfOne,
    /// `brickd run --spin-us` and `spin_us` in the volume file
    Spin,
    /// `brickd run --ring`
    Ring,
    /// `brickd run --pool-mib`
    Pool,
    /// `brickd run --open-files`
    OpenFiles,
}

/// A setting.
struct Setting {
    name: &'static str,
    /// Of each brick: two with data and an arbiter, or a single one.
    arguments: Vec<String>,
    /// A line of the volume file.
    option: Option<(&'static str, u64)>,
    /// The CPU that the load has to share, if it isn't free to use all.
    load_cpu: Option<u32>,
}

const IMAGE: &str = "vm";
const CASES: [Case; 6] =
    [case::WRITE_1, case::WRITE_32, case::READ_1, case::READ_32, case::WRITE_1M, case::READ_1M];

impl Knob {
    /// The first one is the default, or what the others are to be compared with.
    fn settings(self) -> Vec<Setting> {
        let same = |name, arguments: String| Setting {
            name,
            arguments: vec![arguments; TWO_AND_ARBITER[0].len()],
            option: None,
            load_cpu: None,
        };
        let spin = |name, us: u64| Setting {
            option: Some(("spin_us", us)),
            ..same(name, format!("--spin-us {us}"))
        };
        match self {
            // With one core, bricks leave the other CPU to the load: the second core of two shares its CPU with that. What a
            // core and a CPU more are worth together is the second against the third. The fourth has the data bricks share
            // no CPU with each other: bricks with two cores can't be faster than that where there are only two CPUs.
            Knob::Cores => vec![
                same("one core", "--cores 1".to_owned()),
                same("two cores", "--cores 2".to_owned()),
                Setting {
                    load_cpu: Some(0),
                    ..same("one core, which the load shares", "--cores 0,".to_owned())
                },
                Setting {
                    name: "one core each, on CPUs of their own",
                    arguments: ["0,", "1,", "0,"].map(|cores| format!("--cores {cores}")).into(),
                    option: None,
                    load_cpu: None,
                },
            ],
            // The two CPUs belong to one brick and the load.
            Knob::CoresOfOne => {
                let single = |name, arguments: &str| Setting {
                    arguments: vec![arguments.to_owned()],
                    ..same(name, String::new())
                };
                vec![
                    single("one core", "--cores 0,"),
                    single("two cores", "--cores 2"),
                    Setting { load_cpu: Some(0), ..single("one core, which the load shares", "--cores 0,") },
                ]
            }
            Knob::Spin => {
                vec![spin("200 us", 200), spin("0", 0), spin("50 us", 50), spin("1000 us", 1000)]
            }
            Knob::Ring => {
                ["deferred", "cooperative", "plain"].map(|mode| same(mode, format!("--ring {mode}"))).into()
            }
            Knob::Pool => vec![
                same("64 MiB", "--pool-mib 64".to_owned()),
                same("8 MiB", "--pool-mib 8".to_owned()),
                same("512 MiB", "--pool-mib 512".to_owned()),
            ],
            // Of 128 shards in an image of 512 MiB.
            Knob::OpenFiles => vec![
                same("4096 files", "--open-files 4096".to_owned()),
                same("64 files", "--open-files 64".to_owned()),
            ],
        }
    }
}

/// A running volume and what it measured, case by case.
struct Side {
    name: &'static str,
    _cluster: Cluster,
    runner: Runner,
    samples: Vec<Vec<Sample>>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    for knob in Knob::value_variants() {
        if arguments.knob.is_none_or(|only| only as u8 == *knob as u8) {
            compare(*knob, &arguments);
        }
    }
    ExitCode::SUCCESS
}

/// Measures the settings of a knob and prints requests a second, and their ratio to the first setting.
fn compare(knob: Knob, arguments: &Arguments) {
    let runtime = Duration::from_millis(arguments.runtime_ms);
    let mut sides: Vec<Side> =
        knob.settings().into_iter().map(|setting| Side::start(setting, arguments.size)).collect();
    for round in 1..=arguments.rounds {
        for (index, case) in CASES.into_iter().enumerate() {
            for side in &mut sides {
                let sample = side.runner.perf(&job(case, arguments.size, Some(runtime)), "run").figures;
                side.samples[index].push(sample);
            }
        }
        eprintln!("{knob:?}: round {round} of {}", arguments.rounds);
    }
    let names: Vec<&str> = sides.iter().map(|side| side.name).collect();
    println!("\n| {knob:?} | {} |\n|---|{}", names.join(" | "), "---|".repeat(names.len()));
    for (index, case) in CASES.into_iter().enumerate() {
        let iops: Vec<f64> = sides.iter().map(|side| Sample::median(&side.samples[index]).iops).collect();
        let others = iops[1..].iter().map(|value| format!("{value:.0} ({:.2})", value / iops[0]));
        let cells: Vec<String> = std::iter::once(format!("{:.0}", iops[0])).chain(others).collect();
        println!("| {case} | {} |", cells.join(" | "));
    }
}

impl Side {
    fn start(setting: Setting, size_mib: u64) -> Side {
        let words = |line: &String| line.split(' ').map(str::to_owned).collect();
        let brick_arguments: Vec<Vec<String>> = setting.arguments.iter().map(words).collect();
        let shape = if brick_arguments.len() == 1 { ONE_DATA } else { TWO_AND_ARBITER };
        let cluster = Cluster::with(&Options { shape, brick_arguments, ..Options::as_shipped() });
        if let Some((key, value)) = setting.option {
            cluster.set_option(key, value);
        }
        cluster.create_image(IMAGE, &format!("{size_mib}M"));
        let mut runner = Runner::of(&cluster);
        if let Some(cpu) = setting.load_cpu {
            runner = runner.on_cpu(cpu);
        }
        runner.perf(&job(case::FILL, size_mib, None), "fill");
        Side { name: setting.name, _cluster: cluster, runner, samples: vec![Vec::new(); CASES.len()] }
    }
}

fn job(case: Case, size_mib: u64, runtime: Option<Duration>) -> String {
    case.job(&format!("ioengine=volume\nimage={IMAGE}\n"), size_mib, runtime)
}
