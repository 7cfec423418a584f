//! Reports of a made-up outcome, whose figures are known.

use std::time::Duration;

use serde_json::Value;

use super::*;
use crate::job;
use crate::meter::Measured;
use crate::pattern::{Kind, Request};
use crate::record::Recorded;
use crate::record::series::Point;
use crate::runner::Outcome;
use crate::stats::Stats;
use crate::usage::Usage;

/// 1000 writes of 4 KiB that took 1 to 1000 us, and 10 syncs of 2 ms, within half a second.
fn outcome() -> Outcome {
    let text = "[w]\nioengine=raw\nfilename=f\nrw=randwrite\niodepth=8\nfsync=100";
    let job = job::parse("test.fio", text).unwrap().remove(0);
    let mut stats = Stats::new();
    for latency_us in 1..=1000 {
        let request = Request { kind: Kind::Write, offset_bytes: 0, length_bytes: 4096 };
        stats.record(request, latency_us * 1000);
    }
    for _ in 0..10 {
        stats.record(Request::SYNC, 2_000_000);
    }
    let usage = Usage {
        user: Duration::from_millis(100),
        system: Duration::from_millis(200),
        voluntary_switches: 30,
        involuntary_switches: 7,
        major_faults: 1,
        minor_faults: 2,
    };
    let mut recorded = Recorded::default();
    recorded.series.push(Point::new(500_000_000, 500_000_000, &stats));
    Outcome {
        job,
        measured: Measured { stats, elapsed_ns: 500_000_000, usage },
        recorded,
        ended_unix_ms: 1_700_000_000_123,
    }
}

#[test]
fn json_holds_the_figures_where_fio_has_them() {
    let json: Value = serde_json::from_str(&json(&[outcome()], Detail::Percentiles)).unwrap();
    let job = &json["jobs"][0];
    let near = |value: &Value, expected: f64| {
        let found = value.as_f64().unwrap_or_else(|| panic!("{value} is no number"));
        assert!((found / expected - 1.0).abs() < 0.002, "{found} for {expected}");
    };
    assert_eq!(
        (&json["timestamp"], &job["jobname"], &job["error"]),
        (&1_700_000_000.into(), &"w".into(), &0.into())
    );
    assert_eq!(job["job options"]["rw"], "randwrite");
    near(&job["write"]["iops"], 2000.0);
    near(&job["write"]["bw_bytes"], 8_192_000.0);
    near(&job["write"]["bw"], 8000.0);
    assert_eq!(job["write"]["io_bytes"], 4_096_000);
    assert_eq!(job["write"]["total_ios"], 1000);
    assert_eq!(job["write"]["runtime"], 500);
    let latency = &job["write"]["clat_ns"];
    near(&latency["min"], 1000.0);
    near(&latency["max"], 1_000_000.0);
    near(&latency["mean"], 500_500.0);
    near(&latency["stddev"], 288_675.0);
    assert_eq!(latency["N"], 1000);
    near(&latency["percentile"]["50.000000"], 500_000.0);
    near(&latency["percentile"]["99.900000"], 999_000.0);
    assert_eq!(latency["percentile"].as_object().unwrap().len(), 17);
    near(&job["sync"]["lat_ns"]["percentile"]["99.000000"], 2_000_000.0);
    assert_eq!((&job["usr_cpu"], &job["sys_cpu"], &job["ctx"]), (&20.0.into(), &40.0.into(), &37.into()));
    near(&job["brick_perf"]["cpu_ns_per_io"], 300_000_000.0 / 1010.0);
    assert_eq!((&job["read"]["iops"], &job["read"]["runtime"]), (&0.0.into(), &0.into()));
    assert!(job["read"]["clat_ns"].get("percentile").is_none(), "of nothing");
    assert_eq!((&job["trim"]["total_ios"], latency.get("bins")), (&0.into(), None));
    near(&job["write"]["iops_mean"], 2000.0);
    near(&job["write"]["bw_mean"], 8000.0);
    assert_eq!(job["write"]["iops_samples"], 1);
    near(&job["brick_perf"]["seconds"]["write"]["p99_ns"][0], 990_000.0);
}

#[test]
fn json_plus_counts_every_latency() {
    let mut outcome = outcome();
    outcome.measured.stats.record(Request::SYNC, u64::MAX);
    let json: Value = serde_json::from_str(&json(&[outcome], Detail::Bins)).unwrap();
    let bins = |value: &Value| -> Vec<(u64, u64)> {
        let members = value["bins"].as_object().expect("bins").iter();
        members.map(|(at, count)| (at.parse().unwrap(), count.as_u64().unwrap())).collect()
    };
    let writes = bins(&json["jobs"][0]["write"]["clat_ns"]);
    assert_eq!(writes.iter().map(|(_, count)| count).sum::<u64>(), 1000);
    let mean = writes.iter().map(|(at, count)| at * count).sum::<u64>() as f64 / 1000.0;
    assert!((mean / 500_500.0 - 1.0).abs() < 0.001, "{mean}");
    let syncs = bins(&json["jobs"][0]["sync"]["lat_ns"]);
    assert!(syncs.contains(&(17_112_760_320, 1)), "fio's last bin: {syncs:?}");
    assert!(json["jobs"][0]["write"]["lat_ns"].get("bins").is_none(), "nor does fio");
}

#[test]
fn normal_says_the_same_in_words() {
    let text = normal(&[outcome(), outcome()]);
    for expected in [
        "w: rw=randwrite, bs=4KiB, ioengine=raw, iodepth=8, fsync=100\n",
        "  write: IOPS=2k, BW=7.8MiB/s (8.2MB/s)(3.9MiB/500msec)\n",
        "    clat (usec): min=1, max=1000, avg=500.",
        "99.00th=[  990]",
        "  fsync: count=10\n",
        "    sync (usec): min=1999, ",
        "  cpu          : usr=20.00%, sys=40.00%, ctx=37, majf=1, minf=2\n",
        "  cpu per I/O  : usr=99.01us, sys=198.02us (this process only)\n",
    ] {
        assert!(text.contains(expected), "{expected:?} is not in\n{text}");
    }
    assert!(!text.contains("read:"), "nothing was read");
    assert_eq!(text.matches("\n\nw: ").count(), 1, "jobs are apart");
}
