//! What is written while a job runs.

use std::fs;

use crate::{brick_perf, directory, report};

const JOBS: &str = "[global]\nioengine=raw\nfilename=f\nsize=1m\niodepth=4\n\
                    [mix.ed]\nrw=randrw\nfsync=8\n[w, x]\nstonewall\nrw=write\n\
                    [ramp]\nstonewall\nrw=randread\ntime_based\nruntime=20ms\nramp_time=20ms\n";

/// Each that counts: those of the ramp have none.
#[test]
fn each_request_has_a_line() {
    let directory = directory();
    fs::write(directory.path().join("a.fio"), JOBS).unwrap();
    let run = ["run", "a.fio", "--output-format=json", "--latency-log=each"];
    let Some(json) = report(directory.path(), &run) else { return };
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    for (index, job) in json["jobs"].as_array().unwrap().iter().enumerate() {
        let log = fs::read_to_string(directory.path().join(format!("each_lat.{}.log", index + 1))).unwrap();
        let lines: Vec<Vec<u64>> = log
            .lines()
            .map(|line| line.split(", ").map(|number| number.parse().expect("a number")).collect())
            .collect();
        for (direction, kind) in [(0, "read"), (1, "write"), (3, "sync")] {
            let ours: Vec<&Vec<u64>> = lines.iter().filter(|line| line[2] == direction).collect();
            assert_eq!(ours.len() as u64, job[kind]["total_ios"].as_u64().unwrap(), "{kind}");
            let latencies = &job[kind][if kind == "sync" { "lat_ns" } else { "clat_ns" }];
            let max_ns = latencies["max"].as_f64().unwrap();
            let longest = ours.iter().map(|line| line[1]).max().unwrap_or(0) as f64;
            assert!((longest - max_ns).abs() <= max_ns / 500.0, "{kind}: {longest} for {max_ns}");
        }
        let blocks = lines.iter().filter(|line| line[2] != 3);
        assert!(blocks.clone().all(|line| line[3] == 4096 && line[4] % 4096 == 0 && line[4] < 1 << 20));
        assert!(lines.iter().all(|line| line.len() == 6), "{log}");
    }
}

#[test]
fn each_second_has_a_histogram() {
    let directory = directory();
    fs::write(directory.path().join("a.fio"), JOBS).unwrap();
    let Some(_) = report(directory.path(), &["run", "a.fio", "--hdr-log=seconds.hlog"]) else { return };
    let log = fs::read_to_string(directory.path().join("seconds.hlog")).unwrap();
    for tag in ["mix.ed.read", "mix.ed.write", "mix.ed.sync", "w__x.write"] {
        let line = log.lines().find(|line| line.starts_with(&format!("Tag={tag},0.000,")));
        let line = line.unwrap_or_else(|| panic!("{tag} is not in\n{log}"));
        assert!(line.split(',').nth(4).is_some_and(|histogram| histogram.starts_with("HISTFAA")), "{line}");
    }
    assert_eq!(log.matches("#[StartTime: ").count(), 3, "{log}");
}

#[test]
fn progress_is_shown_where_it_is_asked_for() {
    let directory = directory();
    fs::write(directory.path().join("a.fio"), JOBS).unwrap();
    for (status, is_shown) in [("always", true), ("auto", false), ("never", false)] {
        let output = brick_perf(directory.path(), &["run", "a.fio", "--status", status]);
        let error = String::from_utf8(output.stderr).unwrap();
        if error.contains("can't set up io_uring") {
            return crate::skip(&error);
        }
        assert!(output.status.success(), "{error}");
        let lines: Vec<&str> = error.lines().filter(|line| line.contains(" IOPS ")).collect();
        assert_eq!(!lines.is_empty(), is_shown, "{status}: {error}");
        if is_shown {
            assert!(lines[0].starts_with("mix.ed: 0 s, read ") && lines[0].contains(", write "), "{error}");
        }
    }
}

#[test]
fn a_log_without_a_place_is_one_sentence() {
    let directory = directory();
    fs::write(directory.path().join("a.fio"), JOBS).unwrap();
    for log in ["--latency-log=no/log", "--hdr-log=no/log"] {
        let output = brick_perf(directory.path(), &["run", "a.fio", log]);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains(": can't write the log: No such file"), "{error}");
        assert_eq!((error.lines().count(), output.stdout.len()), (1, 0), "{error}");
        assert!(!directory.path().join("f").exists(), "nothing ran for nothing");
    }
}
