//! Speed, side by side with the bare disk and with peers. `scripts/bench` runs this, with GlusterFS beside it if that is
//! installed.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use brick_tests::bench::bar::{self, Bar};
use brick_tests::bench::case;
use brick_tests::bench::chart;
use brick_tests::bench::table::Results;
use brick_tests::bench::target::{Setup, Targets};
use clap::Parser;

/// Runs the same loads on the bare disk, on brick and on peers, in rounds that take turns.
///
/// Example: brick-bench --rounds 5 --output results
#[derive(Debug, Parser)]
struct Arguments {
    /// Rounds; the median of each figure counts
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// How long a run takes, milliseconds
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u64).range(100..=600_000))]
    runtime_ms: u64,
    /// Size of the data of each target, MiB
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u64).range(16..=1 << 20))]
    size: u64,
    /// Only cases whose name contains this, e.g. "4k randwrite"; "depth 1;" is not "depth 16"
    #[arg(long, default_value = "")]
    only: String,
    /// How long bricks look for work before they sleep, microseconds; their default if nothing is said
    #[arg(long)]
    brick_spin_us: Option<u64>,
    /// How long clients look for answers before they sleep, microseconds; their default if nothing is said
    #[arg(long)]
    client_spin_us: Option<u64>,
    /// Folder for results.md, results.json and results.svg
    #[arg(long)]
    output: PathBuf,
    /// A running GlusterFS: its network namespace, volume and mount point
    #[arg(long, num_args = 3, value_names = ["NAMESPACE", "VOLUME", "MOUNTED"])]
    gluster: Vec<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let cases = match case::named(&arguments.only) {
        Ok(cases) => cases,
        Err(problem) => {
            eprintln!("brick-bench: {problem}");
            return ExitCode::from(2);
        }
    };
    let gluster = match &arguments.gluster[..] {
        [namespace, volume, mounted] => Some((namespace.clone(), volume.clone(), mounted.into())),
        _ => None,
    };
    let runtime = Duration::from_millis(arguments.runtime_ms);
    let mut targets = Targets::start(Setup {
        size_mib: arguments.size,
        runtime,
        brick_spin_us: arguments.brick_spin_us,
        client_spin_us: arguments.client_spin_us,
        gluster,
    });
    let mut results = Results::default();
    for round in 1..=arguments.rounds {
        for case in &cases {
            for target in targets.all() {
                results.add(*case, target, targets.run(target, *case));
            }
            eprintln!("round {round} of {}: {case}", arguments.rounds);
        }
    }
    let bars: Vec<Bar> = bar::all(|case, target| results.median(case, target))
        .into_iter()
        .filter(|bar| cases.contains(&bar.case))
        .collect();
    let write = |name: &str, text: &str| {
        let path = arguments.output.join(name);
        std::fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    };
    let markdown = results.markdown(&bars);
    write("results.md", &markdown);
    write("results.json", &format!("{:#}\n", results.json(&bars)));
    write("results.svg", &chart::svg(&results));
    print!("{markdown}");
    ExitCode::SUCCESS
}
