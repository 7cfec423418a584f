//! Where the time goes: a load, what each request costs every process, and what the processors were busy with.
//!
//! Everything is measured from outside: processor time and context switches by the kernel's accounts, what crosses the
//! loopback device and the disk by their counters, system calls by strace in a run of its own (it slows everything down,
//! so only the number for each request says something), functions by `perf record`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::thread;
use std::time::Duration;

use brick_tests::bench::case::{self, Case};
use brick_tests::bench::run::Runner;
use brick_tests::cluster::measure::{context_switches, cpu_us, system_calls};
use brick_tests::cluster::process::Process;
use brick_tests::cluster::{Cluster, Options};
use clap::Parser;

/// Prints what a request costs in each process, and records what the processors do meanwhile.
///
/// Example: brick-profile --case "4k randwrite, depth 32" --output profile
#[derive(Debug, Parser)]
struct Arguments {
    /// Only cases whose name contains this
    #[arg(long, default_value = "depth 32;")]
    case: String,
    /// How long each run takes, seconds
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Size of the image, MiB
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u64).range(16..=1 << 20))]
    size: u64,
    /// What every brick runs on, as `brickd run --cores`; without, each data brick has a CPU, as if it had a machine
    #[arg(long)]
    cores: Option<String>,
    /// Folder for perf's recordings; nothing is recorded without
    #[arg(long)]
    output: Option<PathBuf>,
}

const IMAGE: &str = "vm";
/// How often perf looks, each second; not a divisor of anything that happens regularly.
const PERF_HZ: &str = "1999";

struct Bench {
    cluster: Cluster,
    /// Name and pid of each brick.
    bricks: Vec<(&'static str, u32)>,
    runner: Runner,
    size_mib: u64,
}

/// Counters of a brick and of the machine.
#[derive(Clone, Debug)]
struct Counters {
    /// Processor time (microseconds) and context switches of each brick.
    bricks: Vec<(f64, f64)>,
    loopback_bytes: f64,
    disk_bytes: f64,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let cases = match case::named(&arguments.case) {
        Ok(cases) => cases,
        Err(problem) => {
            eprintln!("brick-profile: {problem}");
            return ExitCode::from(2);
        }
    };
    let bench = Bench::start(arguments.size, arguments.cores.as_deref());
    for case in cases {
        bench.profile(case, Duration::from_secs(arguments.seconds), arguments.output.as_deref());
    }
    ExitCode::SUCCESS
}

impl Bench {
    fn start(size_mib: u64, cores: Option<&str>) -> Bench {
        // The arbiter goes with one of the data bricks.
        let cores = cores.map_or(["0,", "1,", "0,"], |cores| [cores; 3]);
        let arguments = cores.map(|cores| vec!["--cores".to_owned(), cores.to_owned()]);
        let mut cluster =
            Cluster::with(&Options { brick_arguments: arguments.into(), ..Options::as_shipped() });
        cluster.create_image(IMAGE, &format!("{size_mib}M"));
        let pids: Vec<u32> = cluster.bricks.iter_mut().map(|brick| brick.process().pid()).collect();
        let bricks = ["data brick 1", "data brick 2", "arbiter"].into_iter().zip(pids).collect();
        let runner = Runner::of(&cluster);
        let bench = Bench { cluster, bricks, runner, size_mib };
        bench.runner.perf(&bench.job(case::FILL, None), "fill");
        bench
    }

    fn job(&self, case: Case, runtime: Option<Duration>) -> String {
        case.job(&format!("ioengine=volume\nimage={IMAGE}\n"), self.size_mib, runtime)
    }

    /// One line for each process and one for the machine, all for one request.
    fn profile(&self, case: Case, runtime: Duration, output: Option<&Path>) {
        let job = self.job(case, Some(runtime));
        let recording = output.map(|folder| self.record(case, folder, runtime));
        let before = self.counters();
        let run = self.runner.perf(&job, "measured");
        let after = self.counters();
        if let Some(mut recording) = recording {
            let status = recording.wait(runtime + Duration::from_secs(60));
            assert!(status.success(), "perf: {status}: {}", recording.stderr());
        }
        let requests = run.figures.requests.max(1.0);
        let calls = self.system_calls(&job, runtime);
        println!("### {case}: {:.0} requests/s\n", run.figures.iops);
        println!("| for one request | CPU us | context switches | system calls |");
        println!("|---|---|---|---|");
        let (client_us, client_switches) = run.own.expect("brick-perf says it");
        println!("| client | {:.1} | {:.2} | |", client_us / requests, client_switches / requests);
        let mut total_us = client_us;
        for (index, (name, _)) in self.bricks.iter().enumerate() {
            let cpu_us = after.bricks[index].0 - before.bricks[index].0;
            let switches = (after.bricks[index].1 - before.bricks[index].1) / requests;
            total_us += cpu_us;
            println!("| {name} | {:.1} | {switches:.2} | {:.2} |", cpu_us / requests, calls[index]);
        }
        println!("| all | {:.1} | | |", total_us / requests);
        let each = |of: fn(&Counters) -> f64| (of(&after) - of(&before)) / requests;
        println!("\n{:.0} bytes cross the loopback device", each(|counters| counters.loopback_bytes));
        println!("{:.0} bytes are written to the disk by bricks\n", each(|counters| counters.disk_bytes));
    }

    fn counters(&self) -> Counters {
        let of_brick = |(_, pid): &(_, u32)| (cpu_us(*pid), context_switches(*pid) as f64);
        let loopback = "/sys/class/net/lo/statistics/rx_bytes";
        let loopback_bytes = fs::read_to_string(loopback).expect("a loopback device").trim().parse();
        Counters {
            bricks: self.bricks.iter().map(of_brick).collect(),
            loopback_bytes: loopback_bytes.expect("a number"),
            disk_bytes: self.bricks.iter().map(|(_, pid)| written_bytes(*pid)).sum(),
        }
    }

    /// System calls of each brick for one request, in a run that strace slows down.
    fn system_calls(&self, job: &str, runtime: Duration) -> Vec<f64> {
        thread::scope(|scope| {
            let counts: Vec<_> = self
                .bricks
                .iter()
                .map(|(_, pid)| scope.spawn(|| system_calls(*pid, runtime).values().sum::<u64>() as f64))
                .collect();
            let run = self.runner.perf(job, "traced");
            let of_brick = |count: thread::ScopedJoinHandle<'_, f64>| count.join().expect("strace works");
            counts.into_iter().map(|count| of_brick(count) / run.figures.requests.max(1.0)).collect()
        })
    }

    /// Starts to record what all processors do, for as long as a run takes.
    fn record(&self, case: Case, folder: &Path, runtime: Duration) -> Process {
        let name: String = case
            .to_string()
            .chars()
            .map(|letter| if letter.is_alphanumeric() { letter } else { '-' })
            .collect();
        let mut perf = Command::new("perf");
        perf.args(["record", "--all-cpus", "--call-graph", "fp", "--freq", PERF_HZ, "--output"]);
        perf.arg(folder.join(format!("{name}.perf")));
        perf.args(["--", "sleep", &runtime.as_secs().to_string()]);
        self.cluster.spawn(perf, "perf")
    }
}

/// What a process has had written to disks.
fn written_bytes(pid: u32) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/io")).expect("the process runs");
    let line = text.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    line.and_then(|number| number.parse().ok()).expect("the kernel says it")
}
