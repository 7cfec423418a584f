//! What one run measured.

use serde_json::Value;

/// One run of a case on a target.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sample {
    /// Reads and writes a second.
    pub iops: f64,
    /// Bytes a second.
    pub bytes_per_second: f64,
    /// Mean latency, microseconds.
    pub mean_us: f64,
    /// 99th percentile of the latency, of the slower direction, microseconds.
    pub p99_us: f64,
    /// Reads and writes.
    pub requests: f64,
    /// Processor time for each, of all processes that belong to the target, microseconds; if it was measured.
    pub cpu_us: Option<f64>,
    /// Context switches for each; if they were counted.
    pub switches: Option<f64>,
}

impl Sample {
    /// From the JSON of fio or brick-perf, of one job.
    pub fn from_json(report: &Value) -> Sample {
        let job = &report["jobs"][0];
        let of = |direction: &str, key: &str| job[direction][key].as_f64().unwrap_or(0.0);
        let total = |key: &str| of("read", key) + of("write", key);
        let requests = total("total_ios");
        let latency = |direction: &str, key: &str| job[direction]["clat_ns"][key].as_f64().unwrap_or(0.0);
        let weighted = |direction: &str| latency(direction, "mean") * of(direction, "total_ios");
        let p99 = |direction: &str| {
            job[direction]["clat_ns"]["percentile"]["99.000000"].as_f64().unwrap_or(0.0) / 1000.0
        };
        Sample {
            iops: total("iops"),
            bytes_per_second: total("bw_bytes"),
            mean_us: (weighted("read") + weighted("write")) / requests.max(1.0) / 1000.0,
            p99_us: p99("read").max(p99("write")),
            requests,
            cpu_us: None,
            switches: None,
        }
    }

    /// Two jobs that ran at the same time.
    pub fn together(one: Sample, other: Sample) -> Sample {
        Sample {
            iops: one.iops + other.iops,
            bytes_per_second: one.bytes_per_second + other.bytes_per_second,
            mean_us: (one.mean_us + other.mean_us) / 2.0,
            p99_us: one.p99_us.max(other.p99_us),
            requests: one.requests + other.requests,
            cpu_us: None,
            switches: None,
        }
    }

    /// The median of each figure by itself.
    pub fn median(samples: &[Sample]) -> Sample {
        let figure = |of: fn(&Sample) -> f64| median(samples.iter().map(of));
        let measured = |of: fn(&Sample) -> Option<f64>| {
            let values: Vec<f64> = samples.iter().filter_map(of).collect();
            (!values.is_empty()).then(|| median(values.into_iter()))
        };
        Sample {
            iops: figure(|sample| sample.iops),
            bytes_per_second: figure(|sample| sample.bytes_per_second),
            mean_us: figure(|sample| sample.mean_us),
            p99_us: figure(|sample| sample.p99_us),
            requests: figure(|sample| sample.requests),
            cpu_us: measured(|sample| sample.cpu_us),
            switches: measured(|sample| sample.switches),
        }
    }
}

/// Zero of nothing.
pub fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        length if length % 2 == 1 => values[length / 2],
        length => f64::midpoint(values[length / 2 - 1], values[length / 2]),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_mixed_job_is_the_sum_of_its_directions() {
        let direction = |ios: u32, mean_ns: u32, p99_ns: u32| {
            let percentile = json!({ "99.000000": p99_ns });
            json!({ "total_ios": ios, "iops": ios, "bw_bytes": ios * 4096,
                "clat_ns": { "mean": mean_ns, "percentile": percentile } })
        };
        let report =
            json!({ "jobs": [{ "read": direction(3, 1000, 9000), "write": direction(1, 5000, 6000) }] });
        let sample = Sample::from_json(&report);
        assert_eq!((sample.requests, sample.iops, sample.bytes_per_second), (4.0, 4.0, 16384.0));
        assert_eq!((sample.mean_us, sample.p99_us), (2.0, 9.0));
    }

    #[test]
    fn medians_are_taken_of_each_figure() {
        let sample = |iops, mean_us, cpu_us| Sample { iops, mean_us, cpu_us, ..Sample::default() };
        let samples = [sample(1.0, 9.0, None), sample(3.0, 5.0, Some(4.0)), sample(8.0, 2.0, Some(6.0))];
        let median = Sample::median(&samples);
        assert_eq!((median.iops, median.mean_us, median.cpu_us), (3.0, 5.0, Some(5.0)));
        assert_eq!(Sample::median(&samples[..2]).iops, 2.0);
    }
}
