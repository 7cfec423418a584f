//! The figures of each second in a report: as columns, and their spread where fio has it.

use serde::Serialize;

use super::rate;
use crate::record::series::{Point, Sample, TimeSeries};

/// Columns of as many values as there are seconds. The last one may be shorter: it ends with the job.
#[derive(Debug, Serialize)]
pub(super) struct Seconds {
    /// Where each ends, since the first request that counts.
    time_ms: Vec<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    read: Option<Columns>,
    #[serde(skip_serializing_if = "Option::is_none")]
    write: Option<Columns>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sync: Option<Columns>,
    /// Seconds that came later than what is kept.
    #[serde(skip_serializing_if = "is_zero")]
    left_out: u64,
}

#[derive(Debug, Serialize)]
struct Columns {
    iops: Vec<f64>,
    bw_bytes: Vec<u64>,
    p50_ns: Vec<u64>,
    p99_ns: Vec<u64>,
    max_ns: Vec<u64>,
}

/// Of the seconds of one direction. fio takes its samples every half second, and as little from short jobs.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Samples {
    /// KiB a second.
    bw_min: u64,
    bw_max: u64,
    bw_mean: f64,
    bw_dev: f64,
    bw_samples: u64,
    iops_min: u64,
    iops_max: u64,
    iops_mean: f64,
    iops_stddev: f64,
    iops_samples: u64,
}

impl Seconds {
    pub(super) fn new(series: &TimeSeries) -> Seconds {
        let points = series.points();
        Seconds {
            time_ms: points.iter().map(|point| point.ended_ns / 1_000_000).collect(),
            read: Columns::new(points, |point| point.read),
            write: Columns::new(points, |point| point.write),
            sync: Columns::new(points, |point| point.sync),
            left_out: series.left_out(),
        }
    }
}

impl Columns {
    /// `None` of a kind that there was none of.
    fn new(points: &[Point], kind: fn(&Point) -> Sample) -> Option<Columns> {
        let column =
            |value: &dyn Fn(Sample) -> u64| points.iter().map(|point| value(kind(point))).collect::<Vec<_>>();
        if column(&|sample| sample.requests).iter().all(|requests| *requests == 0) {
            return None;
        }
        Some(Columns {
            iops: points.iter().map(|point| rate(kind(point).requests, point.length_ns)).collect(),
            bw_bytes: points.iter().map(|point| rate(kind(point).bytes, point.length_ns) as u64).collect(),
            p50_ns: column(&|sample| sample.p50_ns),
            p99_ns: column(&|sample| sample.p99_ns),
            max_ns: column(&|sample| sample.max_ns),
        })
    }
}

impl Samples {
    pub(super) fn new(points: &[Point], kind: fn(&Point) -> Sample) -> Samples {
        let mut samples = Samples::default();
        let full = || points.iter().filter(|point| point.length_ns >= SAMPLE_NS_MIN);
        let rates = |count: fn(Sample) -> u64| {
            Spread::new(full().map(move |point| rate(count(kind(point)), point.length_ns)))
        };
        if let (Some(bytes), Some(requests)) = (rates(|s| s.bytes), rates(|s| s.requests)) {
            let kib = |bytes: f64| bytes / 1024.0;
            (samples.bw_min, samples.bw_max) = (kib(bytes.min) as u64, kib(bytes.max) as u64);
            (samples.bw_mean, samples.bw_dev) = (kib(bytes.mean), kib(bytes.deviation));
            (samples.iops_min, samples.iops_max) = (requests.min as u64, requests.max as u64);
            (samples.iops_mean, samples.iops_stddev) = (requests.mean, requests.deviation);
            (samples.bw_samples, samples.iops_samples) = (bytes.samples, requests.samples);
        }
        samples
    }
}

struct Spread {
    samples: u64,
    min: f64,
    max: f64,
    mean: f64,
    deviation: f64,
}

impl Spread {
    /// `None` of nothing.
    fn new(values: impl Iterator<Item = f64> + Clone) -> Option<Spread> {
        let samples = values.clone().count();
        let mean = values.clone().sum::<f64>() / samples.max(1) as f64;
        let square = |value: f64| (value - mean) * (value - mean);
        let variance = values.clone().map(square).sum::<f64>() / samples.saturating_sub(1).max(1) as f64;
        (samples > 0).then(|| Spread {
            samples: samples as u64,
            min: values.clone().fold(f64::INFINITY, f64::min),
            max: values.fold(0.0, f64::max),
            mean,
            deviation: variance.sqrt(),
        })
    }
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// What is shorter has no rate worth comparing with those of whole seconds.
const SAMPLE_NS_MIN: u64 = 500_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn point(ended_ns: u64, length_ns: u64, requests: u64) -> Point {
        let write = Sample { requests, bytes: requests * 4096, p50_ns: 5, p99_ns: 6, max_ns: 7 };
        Point { ended_ns, length_ns, read: Sample::default(), write, sync: Sample::default() }
    }

    #[test]
    fn rates_are_of_the_time_that_passed() {
        let mut series = TimeSeries::default();
        series.push(point(1_000_000_000, 1_000_000_000, 100));
        series.push(point(3_000_000_000, 2_000_000_000, 400));
        series.push(point(3_100_000_000, 100_000_000, 1));
        let json = serde_json::to_value(Seconds::new(&series)).unwrap();
        assert_eq!(json["time_ms"], serde_json::json!([1000, 3000, 3100]));
        assert_eq!(json["write"]["iops"], serde_json::json!([100.0, 200.0, 10.0]));
        assert_eq!(json["write"]["bw_bytes"], serde_json::json!([409_600, 819_200, 40_960]));
        assert_eq!(json["write"]["max_ns"], serde_json::json!([7, 7, 7]));
        assert_eq!((json.get("read"), json.get("left_out")), (None, None));

        let samples = Samples::new(series.points(), |point| point.write);
        assert_eq!(
            (samples.iops_min, samples.iops_max, samples.iops_samples),
            (100, 200, 2),
            "the whole ones"
        );
        assert_eq!((samples.bw_min, samples.bw_max, samples.bw_mean), (400, 800, 600.0));
        assert!((samples.iops_stddev - 70.71).abs() < 0.01 && samples.iops_mean == 150.0);
        let none = Samples::new(&series.points()[2..], |point| point.write);
        assert_eq!((none.iops_samples, none.iops_max, none.bw_mean), (0, 0, 0.0));
    }
}
