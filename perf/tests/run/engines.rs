//! Engines on a file, and what jobs can ask of each of them.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::{brick_perf, directory, report, skip};

const ENGINES: [&str; 3] = ["raw", "monoio", "tokio-uring"];

/// The first job's part of the report; `None` where io_uring is forbidden.
fn run(directory: &Path, engine: &str, keys: &str) -> Option<Value> {
    let text = format!("[job]\nioengine={engine}\nfilename=f\n{keys}");
    fs::write(directory.join("a.fio"), text).unwrap();
    let text = report(directory, &["run", "a.fio", "--output-format", "json"])?;
    let mut json: Value = serde_json::from_str(&text).unwrap();
    Some(json["jobs"][0].take())
}

fn count(job: &Value, kind: &str) -> u64 {
    job[kind]["total_ios"].as_u64().unwrap()
}

#[test]
fn each_engine_writes_all_blocks_and_verifies_them() {
    for engine in ENGINES {
        let directory = directory();
        let keys =
            "rw=randwrite\nbs=4k\nsize=1m\niodepth=16\nfsync=100\nfdatasync=50\nend_fsync\nverify=crc32c\n";
        let Some(job) = run(directory.path(), engine, keys) else { return };
        assert_eq!(job["brick_perf"]["engine"], engine);
        assert_eq!(
            (count(&job, "write"), count(&job, "read")),
            (256, 0),
            "{engine}: verification isn't load"
        );
        assert_eq!(count(&job, "sync"), 2 + 5 + 1, "{engine}");
        let content = fs::read(directory.path().join("f")).unwrap();
        assert_eq!(content.len(), 1 << 20);
        assert!(content.chunks(4096).all(|block| block.starts_with(b"brickvfy")), "{engine}");

        // Another job finds what this one wrote, until something happens to it.
        assert_eq!(count(&run(directory.path(), engine, "rw=read\nverify=crc32c\n").unwrap(), "read"), 256);
        let mut content = content;
        content[40_960 + 1000] ^= 1;
        fs::write(directory.path().join("f"), content).unwrap();
        let output = brick_perf(directory.path(), &["run", "a.fio"]);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1));
        assert!(
            error.contains("job \"job\": verification failed: the block at offset 40960 has checksum"),
            "{engine}: {error}"
        );
    }
}

#[test]
fn each_engine_keeps_a_rate_and_pauses() {
    for engine in ENGINES {
        let directory = directory();
        let keys = "rw=randread\nsize=1m\niodepth=8\nrate_iops=200\nnumber_ios=41\n";
        let Some(job) = run(directory.path(), engine, keys) else { return };
        assert_eq!(count(&job, "read"), 41);
        let elapsed_ns = job["brick_perf"]["runtime_ns"].as_u64().unwrap();
        assert!(elapsed_ns >= 200_000_000, "{engine}: the last one is due after 200 ms: {elapsed_ns}");
        assert_eq!(job["brick_perf"]["latency_from_due"], true);

        let keys = "rw=randread\nsize=1m\niodepth=8\nthinktime=10ms\nthinktime_blocks=4\nnumber_ios=20\n";
        let job = run(directory.path(), engine, keys).unwrap();
        let elapsed_ns = job["brick_perf"]["runtime_ns"].as_u64().unwrap();
        assert!(elapsed_ns >= 40_000_000, "{engine}: there are four pauses: {elapsed_ns}");
        assert_eq!(job["brick_perf"]["latency_from_due"], false);
    }
}

/// Waiting for a time costs nothing: neither looks at the clock in a loop, nor is every slot woken by it.
#[test]
fn waiting_is_not_busy() {
    for engine in ENGINES {
        let directory = directory();
        let keys = "rw=randread\nsize=1m\niodepth=32\nthinktime=300ms\nnumber_ios=3\n";
        let Some(job) = run(directory.path(), engine, keys) else { return };
        let switches = job["brick_perf"]["voluntary_ctx"].as_u64().unwrap();
        assert!(switches < 100, "{engine}: {switches} wake-ups for three reads");
        let cpu_ns =
            job["brick_perf"]["usr_ns"].as_u64().unwrap() + job["brick_perf"]["sys_ns"].as_u64().unwrap();
        assert!(cpu_ns < 300_000_000, "{engine}: {cpu_ns} ns of processor time for three reads in 600 ms");
    }
}

#[test]
fn workers_are_reported_together() {
    for engine in ENGINES {
        let directory = directory();
        let keys = "rw=randwrite\nsize=512k\niodepth=4\nnumjobs=3\ngroup_reporting\noffset_increment=512k\n\
                    bssplit=4k/60:16k/40\npercentage_random=70\nverify=crc32c\n";
        let Some(job) = run(directory.path(), engine, keys) else { return };
        let bytes = job["write"]["io_bytes"].as_u64().unwrap();
        // Each ends with the request that reaches its size.
        assert!((3 * (512 << 10)..3 * (528 << 10)).contains(&bytes), "{engine}: {bytes}");
        assert_eq!(fs::metadata(directory.path().join("f")).unwrap().len(), 3 * (512 << 10));
        let text = report(directory.path(), &["run", "a.fio"]).unwrap();
        assert_eq!(text.matches("job: rw=randwrite, bs=4KiB-16KiB").count(), 1, "{text}");
    }
}

#[test]
fn a_worker_that_can_not_start_stops_the_others() {
    let directory = directory();
    fs::write(directory.path().join("f"), vec![1; 1 << 20]).unwrap();
    // The third worker starts where the file ends.
    let text =
        "[job]\nioengine=raw\nfilename=f\nrw=read\nnumjobs=4\ngroup_reporting\noffset_increment=512k\n";
    fs::write(directory.path().join("a.fio"), text).unwrap();
    let output = brick_perf(directory.path(), &["run", "a.fio"]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    if error.contains("can't set up io_uring") {
        return skip(&error);
    }
    assert_eq!(output.status.code(), Some(1));
    assert!(error.contains("job \"job\": no block of 4096 bytes fits behind offset 1048576"), "{error}");
}
