//! Runs the simulator for many seeds, or replays one.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use brick_tests::sim::config::{Length, Switches};
use brick_tests::sim::log::Recording;
use brick_tests::sim::{Options, Summary, run};
use clap::Parser;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;

/// Runs a whole cluster in one thread from a seed, breaks things, and checks what every user sees.
///
/// Example: simulate --seeds 10000
#[derive(Debug, Parser)]
struct Arguments {
    /// How many seeds to run
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first of them
    #[arg(long, default_value_t = 1)]
    start: u64,
    /// Run this seed only
    #[arg(long)]
    seed: Option<u64>,
    /// Short seeds only, instead of a mix
    #[arg(long)]
    short: bool,
    /// So many requests per seed, with faults as long as they last
    #[arg(long, conflicts_with = "short")]
    steps: Option<u32>,
    /// Threads
    #[arg(long, default_value_t = 1)]
    threads: u64,
    /// Print everything that happens (with --seed)
    #[arg(long)]
    log: bool,
    /// Stop after this many failures
    #[arg(long, default_value_t = 10)]
    failures: usize,
    /// Let a killed brick start again without syncing what it had written
    #[arg(long)]
    unsynced_start: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let recording = if arguments.log { Recording::Print } else { Recording::Hash };
    let switches = Switches { unsynced_start: arguments.unsynced_start };
    let length = match (arguments.steps, arguments.short) {
        (Some(requests), _) => Length::Requests(requests),
        (None, true) => Length::Short,
        (None, false) => Length::Mixed,
    };
    let options = Options { length, recording, switches };
    let (first, count) = match arguments.seed {
        Some(seed) => (seed, 1),
        None => (arguments.start, arguments.seeds),
    };
    if !arguments.log {
        // A panic is reported with its seed; the message alone helps nobody.
        std::panic::set_hook(Box::new(|_| {}));
    }
    let started = Instant::now();
    let next = AtomicU64::new(first);
    let results: Mutex<Totals> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..arguments.threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count {
                        return;
                    }
                    let summary = run(seed, options);
                    let mut totals = results.lock().expect("no thread panics with it");
                    totals.add(&summary, &arguments);
                    if totals.failures >= arguments.failures {
                        next.store(first + count, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let totals = results.into_inner().expect("no thread panics with it");
    totals.print(started.elapsed().as_secs_f64(), cpu_seconds());
    if totals.failures > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// The processor time that this process took: on a busy machine the only fair measure of speed.
fn cpu_seconds() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("one's own usage can always be asked for");
    let seconds = |time: TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    seconds(usage.user_time()) + seconds(usage.system_time())
}

#[derive(Debug, Default)]
struct Totals {
    seeds: u64,
    failures: usize,
    events: u64,
    completed: u64,
}

impl Totals {
    fn print(&self, seconds: f64, cpu_seconds: f64) {
        let Totals { seeds, failures, events, completed } = self;
        let (speed, cpu_speed) = (*seeds as f64 / seconds, *seeds as f64 / cpu_seconds);
        println!(
            "{seeds} seeds, {failures} failures, {events} events, {completed} requests, {seconds:.1} s, \
             {speed:.0} seeds/s, {cpu_speed:.0} seeds per CPU second"
        );
        // For scripts/test, which adds up lines like this one.
        let (word, passed) =
            if *failures == 0 { ("ok", *seeds) } else { ("FAILED", seeds - *failures as u64) };
        println!("test result: {word}. {passed} passed; {failures} failed");
    }

    fn add(&mut self, summary: &Summary, arguments: &Arguments) {
        self.seeds += 1;
        self.events += summary.events;
        self.completed += summary.completed;
        let Some(failure) = &summary.failure else { return };
        self.failures += 1;
        let seed = summary.seed;
        let mut replay = format!("scripts/simulate --seed {seed}");
        if let Some(requests) = arguments.steps {
            replay += &format!(" --steps {requests}");
        }
        if arguments.short {
            replay += " --short";
        }
        if arguments.unsynced_start {
            replay += " --unsynced-start";
        }
        println!("FAILED {replay}: {failure}");
    }
}
