//! The report that people read, in the order and the words of fio's.

use std::fmt::{self, Display, Write};

use hdrhistogram::Histogram;

use super::units::{binary, decimal};
use super::{PERCENTILES, percent, rate};
use crate::job::{Job, Mix};
use crate::runner::Outcome;
use crate::stats::Series;

/// All outcomes as text.
pub fn normal(outcomes: &[Outcome]) -> String {
    let mut text = String::new();
    for (index, outcome) in outcomes.iter().enumerate() {
        let separator = if index > 0 { "\n" } else { "" };
        // Nothing fails to be appended to a string.
        let _appended = write!(text, "{separator}{}", Block(outcome));
    }
    text
}

struct Block<'a>(&'a Outcome);

impl Display for Block<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Outcome { job, measured, .. } = self.0;
        let (stats, elapsed_ns) = (&measured.stats, measured.elapsed_ns);
        headline(f, job)?;
        for (name, series) in [("read", &stats.read), ("write", &stats.write)] {
            if series.requests() > 0 {
                direction(f, name, series, elapsed_ns)?;
            }
        }
        if stats.sync.requests() > 0 {
            writeln!(f, "  fsync: count={}", stats.sync.requests())?;
            latencies(f, "sync", stats.sync.latencies_ns())?;
        }
        costs(f, self.0)
    }
}

fn headline(f: &mut fmt::Formatter<'_>, job: &Job) -> fmt::Result {
    write!(f, "{}: rw={}", job.name, job.rw())?;
    if let Mix::Mixed { read_percent } = job.mix {
        write!(f, ", rwmixread={read_percent}")?;
    }
    write!(f, ", bs={}, ioengine={}, iodepth={}", sizes(job), job.target.engine_name(), job.depth)?;
    if job.fsync_every > 0 {
        write!(f, ", fsync={}", job.fsync_every)?;
    }
    if job.rates.is_limited() {
        let rate =
            |rate: Option<u64>| rate.map_or("none".into(), |rate| format!("{}/s", binary(rate as f64)));
        let (read, write) = (rate(job.rates.read), rate(job.rates.write));
        write!(f, ", rate={read},{write}, latencies from when a request was due")?;
    }
    writeln!(f)
}

/// `4KiB`, or the smallest and the largest.
fn sizes(job: &Job) -> String {
    let size = |bytes: u64| binary(bytes as f64);
    let (min, max) = (size(job.block_bytes), size(job.block_bytes_max));
    if min == max { min } else { format!("{min}-{max}") }
}

fn direction(f: &mut fmt::Formatter<'_>, name: &str, series: &Series, elapsed_ns: u64) -> fmt::Result {
    let bandwidth = rate(series.bytes(), elapsed_ns);
    writeln!(
        f,
        "  {name}: IOPS={}, BW={}/s ({}/s)({}/{}msec)",
        decimal(rate(series.requests(), elapsed_ns)),
        binary(bandwidth),
        format_args!("{}B", decimal(bandwidth)),
        binary(series.bytes() as f64),
        elapsed_ns.div_ceil(1_000_000),
    )?;
    latencies(f, "clat", series.latencies_ns())
}

fn latencies(f: &mut fmt::Formatter<'_>, name: &str, histogram: &Histogram<u64>) -> fmt::Result {
    let (unit, unit_ns) = unit_of(histogram);
    writeln!(
        f,
        "    {name} ({unit}): min={}, max={}, avg={:.2}, stdev={:.2}",
        histogram.min() / unit_ns,
        histogram.max() / unit_ns,
        histogram.mean() / unit_ns as f64,
        histogram.stdev() / unit_ns as f64,
    )?;
    writeln!(f, "    {name} percentiles ({unit}):")?;
    for line in PERCENTILES.chunks(4) {
        let cells: Vec<String> = line
            .iter()
            .map(|p| format!("{p:>5.2}th=[{:>5}]", histogram.value_at_percentile(*p) / unit_ns))
            .collect();
        writeln!(f, "     | {}", cells.join(", "))?;
    }
    Ok(())
}

fn costs(f: &mut fmt::Formatter<'_>, outcome: &Outcome) -> fmt::Result {
    let (usage, elapsed_ns) = (&outcome.measured.usage, outcome.measured.elapsed_ns);
    let stats = &outcome.measured.stats;
    let requests = stats.read.requests() + stats.write.requests() + stats.sync.requests();
    let each = |time: std::time::Duration| time.as_secs_f64() * 1e6 / requests.max(1) as f64;
    writeln!(
        f,
        "  cpu          : usr={:.2}%, sys={:.2}%, ctx={}, majf={}, minf={}",
        percent(usage.user, elapsed_ns),
        percent(usage.system, elapsed_ns),
        usage.voluntary_switches + usage.involuntary_switches,
        usage.major_faults,
        usage.minor_faults,
    )?;
    writeln!(
        f,
        "  cpu per I/O  : usr={:.2}us, sys={:.2}us (this process only)",
        each(usage.user),
        each(usage.system)
    )
}

/// The finest unit that keeps the figures short.
fn unit_of(histogram: &Histogram<u64>) -> (&'static str, u64) {
    match (histogram.min(), histogram.max()) {
        (2_000_000.., 100_000_000..) => ("msec", 1_000_000),
        (_, 100_000..) => ("usec", 1_000),
        _ => ("nsec", 1),
    }
}
