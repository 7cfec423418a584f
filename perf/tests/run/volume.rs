//! `ioengine=volume` on real bricks.

use std::fs;

use crate::bricks::Bricks;
use crate::{brick_perf, directory, report};

#[test]
fn a_replicated_image_is_written_and_read() {
    let directory = directory();
    let Some(bricks) = Bricks::start(directory.path()) else { return };
    bricks.brickctl(&["image", "create", "bench", "--size", "16M"]);
    let text = "[global]\nioengine=volume\nimage=bench\n\
                [mixed]\nrw=randrw\nrwmixread=40\niodepth=16\nfsync=50\nnumber_ios=400\n\
                [wide]\nstonewall\nrw=write\nbs=1m\niodepth=4\n\
                [read]\nstonewall\nrw=randread\niodepth=8\nruntime=200ms\ntime_based\nramp_time=50ms\n";
    fs::write(directory.path().join("a.fio"), text).unwrap();
    let volume = bricks.volume.to_str().unwrap();
    let json = report(directory.path(), &["run", "a.fio", "-v", volume, "--output-format", "json"]).unwrap();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let count = |job: usize, kind: &str| json["jobs"][job][kind]["total_ios"].as_u64().unwrap();
    assert_eq!(count(0, "read") + count(0, "write"), 400);
    assert_eq!(count(0, "sync"), count(0, "write") / 50);
    assert_eq!((count(1, "write"), &json["jobs"][1]["write"]["io_bytes"]), (16, &(16 << 20).into()));
    assert!(count(2, "read") > 0 && count(2, "write") == 0);

    // What was opened was closed: the image is free at once.
    bricks.brickctl(&["image", "rm", "bench"]);
    let output = brick_perf(directory.path(), &["run", "a.fio", "-v", volume]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1));
    assert!(error.contains("job \"mixed\": no image named \"bench\""), "{error}");
}

#[test]
fn an_image_is_verified_at_a_rate() {
    let directory = directory();
    let Some(bricks) = Bricks::start(directory.path()) else { return };
    bricks.brickctl(&["image", "create", "bench", "--size", "8M"]);
    let text = "[global]\nioengine=volume\nimage=bench\niodepth=8\nverify=crc32c\n\
                [write]\nrw=write\nbssplit=4k/50:64k/50\nfdatasync=64\nend_fsync\n\
                [read]\nstonewall\nrw=randread\nbs=4k\nrate_iops=500\nnumber_ios=101\ntime_based\nruntime=1h\n";
    fs::write(directory.path().join("a.fio"), text).unwrap();
    let volume = bricks.volume.to_str().unwrap();
    let json = report(directory.path(), &["run", "a.fio", "-v", volume, "--output-format", "json"]).unwrap();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["jobs"][0]["write"]["io_bytes"], 8 << 20);
    assert_eq!(json["jobs"][1]["read"]["total_ios"], 101);
    let elapsed_ns = json["jobs"][1]["brick_perf"]["runtime_ns"].as_u64().unwrap();
    assert!(elapsed_ns >= 200_000_000, "the last read is due after 200 ms: {elapsed_ns}");
}

#[test]
fn a_job_beyond_the_image_is_refused() {
    let directory = directory();
    let Some(bricks) = Bricks::start(directory.path()) else { return };
    bricks.brickctl(&["image", "create", "small", "--size", "1M"]);
    fs::write(directory.path().join("a.fio"), "[a]\nioengine=volume\nimage=small\nsize=2m\n").unwrap();
    let output = brick_perf(directory.path(), &["run", "a.fio", "-v", bricks.volume.to_str().unwrap()]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1));
    assert!(error.contains("it needs bytes 0+2097152 of a target that has 1048576"), "{error}");
}
