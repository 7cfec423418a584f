//! JSON whose paths are fio's: what reads `fio --output-format=json` reads this.
//!
//! What fio measures and we don't is left out, not zero. fio splits a latency in submission (`slat_ns`)
//! and completion (`clat_ns`); here a request counts from the moment it is handed to the engine, so
//! `clat_ns` and `lat_ns` are the same. What fio has no place for is under `brick_perf`.

use hdrhistogram::Histogram;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::seconds::{Samples, Seconds};
use super::{PERCENTILES, percent, rate};
use crate::runner::Outcome;
use crate::stats::Series;

/// How much of a histogram a document holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// As `--output-format=json` of fio.
    Percentiles,
    /// Also how many requests had each latency, as `json+` of fio; latencies have three digits.
    Bins,
}

/// All outcomes as one JSON document.
pub fn json(outcomes: &[Outcome], detail: Detail) -> String {
    let timestamp_ms = outcomes.last().map_or(0, |outcome| outcome.ended_unix_ms);
    let document = Document {
        version: concat!("brick-perf-", env!("CARGO_PKG_VERSION")),
        timestamp: timestamp_ms / 1000,
        timestamp_ms,
        jobs: outcomes.iter().enumerate().map(|(index, outcome)| job(index, outcome, detail)).collect(),
    };
    let mut text = serde_json::to_string_pretty(&document).expect("strings and numbers are JSON");
    text.push('\n');
    text
}

#[derive(Serialize)]
struct Document<'a> {
    #[serde(rename = "fio version")]
    version: &'static str,
    timestamp: u64,
    timestamp_ms: u64,
    jobs: Vec<JobObject<'a>>,
}

#[derive(Serialize)]
struct JobObject<'a> {
    jobname: &'a str,
    groupid: usize,
    error: u32,
    #[serde(rename = "job options", serialize_with = "as_map")]
    options: &'a [(String, String)],
    read: Direction,
    write: Direction,
    /// Of nothing: no job trims, and fio's scripts look for it.
    trim: Direction,
    sync: Sync,
    /// Milliseconds.
    job_runtime: u64,
    /// Of one core, percent.
    usr_cpu: f64,
    sys_cpu: f64,
    ctx: u64,
    majf: u64,
    minf: u64,
    brick_perf: Extra,
}

#[derive(Serialize)]
struct Direction {
    io_bytes: u64,
    io_kbytes: u64,
    bw_bytes: u64,
    /// KiB a second.
    bw: u64,
    iops: f64,
    /// Milliseconds.
    runtime: u64,
    total_ios: u64,
    lat_ns: Latency,
    clat_ns: Latency,
    #[serde(flatten)]
    samples: Samples,
}

#[derive(Serialize)]
struct Sync {
    total_ios: u64,
    lat_ns: Latency,
}

#[derive(Clone, Serialize)]
struct Latency {
    min: u64,
    max: u64,
    mean: f64,
    stddev: f64,
    #[serde(rename = "N")]
    count: u64,
    /// Left out when there is nothing. fio has them in `clat_ns`, and in `lat_ns` only if asked.
    #[serde(skip_serializing_if = "Pairs::is_empty")]
    percentile: Pairs,
    #[serde(skip_serializing_if = "Pairs::is_empty")]
    bins: Pairs,
}

/// Members of an object, in order.
#[derive(Clone, Default)]
struct Pairs(Vec<(String, u64)>);

#[derive(Serialize)]
struct Extra {
    engine: &'static str,
    runtime_ns: u64,
    usr_ns: u64,
    sys_ns: u64,
    /// CPU of this process for each read, write or sync, nanoseconds.
    cpu_ns_per_io: f64,
    voluntary_ctx: u64,
    involuntary_ctx: u64,
    seconds: Seconds,
    /// Latencies count from when a request was due, not from when it was started.
    latency_from_due: bool,
}

fn job(index: usize, outcome: &Outcome, detail: Detail) -> JobObject<'_> {
    let measured = &outcome.measured;
    let (stats, usage, elapsed_ns) = (&measured.stats, &measured.usage, measured.elapsed_ns);
    let requests = stats.read.requests() + stats.write.requests() + stats.sync.requests();
    let points = outcome.recorded.series.points();
    JobObject {
        jobname: &outcome.job.name,
        // Each job waits for the one before: fio makes such jobs groups of their own.
        groupid: index,
        error: 0,
        options: &outcome.job.options,
        read: direction(&stats.read, elapsed_ns, Samples::new(points, |point| point.read), detail),
        write: direction(&stats.write, elapsed_ns, Samples::new(points, |point| point.write), detail),
        trim: direction(&Series::new(), elapsed_ns, Samples::default(), detail),
        sync: Sync { total_ios: stats.sync.requests(), lat_ns: latency(stats.sync.latencies_ns(), detail) },
        job_runtime: milliseconds(elapsed_ns),
        usr_cpu: percent(usage.user, elapsed_ns),
        sys_cpu: percent(usage.system, elapsed_ns),
        ctx: usage.voluntary_switches + usage.involuntary_switches,
        majf: usage.major_faults,
        minf: usage.minor_faults,
        brick_perf: Extra {
            engine: outcome.job.target.engine_name(),
            runtime_ns: elapsed_ns,
            usr_ns: usage.user.as_nanos() as u64,
            sys_ns: usage.system.as_nanos() as u64,
            cpu_ns_per_io: (usage.user + usage.system).as_nanos() as f64 / requests.max(1) as f64,
            voluntary_ctx: usage.voluntary_switches,
            involuntary_ctx: usage.involuntary_switches,
            seconds: Seconds::new(&outcome.recorded.series),
            latency_from_due: outcome.job.rates.is_limited(),
        },
    }
}

fn direction(series: &Series, elapsed_ns: u64, samples: Samples, detail: Detail) -> Direction {
    let bytes_per_second = rate(series.bytes(), elapsed_ns) as u64;
    let latency = latency(series.latencies_ns(), detail);
    Direction {
        io_bytes: series.bytes(),
        io_kbytes: series.bytes() >> 10,
        bw_bytes: bytes_per_second,
        bw: bytes_per_second >> 10,
        iops: rate(series.requests(), elapsed_ns),
        runtime: if series.requests() > 0 { milliseconds(elapsed_ns) } else { 0 },
        total_ios: series.requests(),
        lat_ns: Latency { percentile: Pairs::default(), bins: Pairs::default(), ..latency.clone() },
        clat_ns: latency,
        samples,
    }
}

fn latency(histogram: &Histogram<u64>, detail: Detail) -> Latency {
    let mut percentiles = Vec::new();
    if !histogram.is_empty() {
        let value = |percentile: f64| histogram.value_at_percentile(percentile);
        percentiles.extend(PERCENTILES.map(|percentile| (format!("{percentile:.6}"), value(percentile))));
    }
    Latency {
        min: histogram.min(),
        max: histogram.max(),
        mean: histogram.mean(),
        stddev: histogram.stdev(),
        count: histogram.len(),
        percentile: Pairs(percentiles),
        bins: if detail == Detail::Bins { bins(histogram) } else { Pairs::default() },
    }
}

/// How many requests had each latency.
fn bins(histogram: &Histogram<u64>) -> Pairs {
    let mut bins: Vec<(u64, u64)> = Vec::new();
    for step in histogram.iter_recorded() {
        let (value, count) = (step.value_iterated_to().min(BIN_NS_MAX), step.count_since_last_iteration());
        match bins.last_mut() {
            Some((last, sum)) if *last == value => *sum += count,
            _ => bins.push((value, count)),
        }
    }
    Pairs(bins.into_iter().map(|(value, count)| (value.to_string(), count)).collect())
}

/// Rounded up, as something that ran didn't run for no time.
fn milliseconds(nanoseconds: u64) -> u64 {
    nanoseconds.div_ceil(1_000_000)
}

impl Pairs {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for Pairs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        as_map(&self.0, serializer)
    }
}

/// Pairs as an object, in their order.
fn as_map<V: Serialize, S: Serializer>(pairs: &[(String, V)], serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(pairs.len()))?;
    for (key, value) in pairs {
        map.serialize_entry(key, value)?;
    }
    map.end()
}

/// fio's last bin: longer latencies are counted there, and its scripts expect no greater one.
const BIN_NS_MAX: u64 = 17_112_760_320;
