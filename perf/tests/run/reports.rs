//! Our JSON read as fio's is: with jq, path by path.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::{directory, report, skip};

/// Reads and writes with syncs, so that every part of a report holds something.
const JOB: &str = "rw=randrw\nbs=4k\nsize=1m\niodepth=4\nfsync=8\n";

/// What jq makes of a document; `None` if jq isn't installed.
fn jq(filter: &str, document: &Path) -> Option<String> {
    let output = Command::new("jq").arg("-r").arg(filter).arg(document).output();
    let Ok(output) = output else {
        skip("jq isn't installed");
        return None;
    };
    assert!(output.status.success(), "jq {filter}: {}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).expect("text"))
}

/// Runs the job and leaves its JSON in a file.
fn run(directory: &Path) -> Option<std::path::PathBuf> {
    fs::write(directory.join("ours.fio"), format!("[job]\nioengine=raw\nfilename=f\n{JOB}")).unwrap();
    let printed = report(directory, &["run", "ours.fio", "--output-format=json", "--output", "ours.json"])?;
    assert!(printed.is_empty(), "the report went into the file");
    Some(directory.join("ours.json"))
}

#[test]
fn jq_finds_what_it_looks_for_in_fios_reports() {
    let directory = directory();
    let Some(json) = run(directory.path()) else { return };
    let figures = ".jobs[] | select(.error == 0) | .read, .write | [.iops, .bw_bytes, .io_bytes, .total_ios, \
                   .runtime, .clat_ns.min, .clat_ns.mean, .clat_ns.percentile[\"50.000000\"], \
                   .clat_ns.percentile[\"99.900000\"], .clat_ns.max] | @csv";
    let Some(lines) = jq(figures, &json) else { return };
    let rows: Vec<Vec<f64>> = lines
        .lines()
        .map(|line| line.split(',').map(|number| number.parse().expect("a number")).collect())
        .collect();
    assert_eq!(rows.len(), 2, "{lines}");
    let mut requests = 0.0;
    for row in rows {
        let [iops, bandwidth, bytes, count, runtime, min, mean, median, p999, max] = row[..] else {
            panic!("{row:?}")
        };
        assert!(iops > 0.0 && runtime >= 1.0 && count > 50.0, "{row:?}");
        assert_eq!(bytes, count * 4096.0);
        assert!((bandwidth / (iops * 4096.0) - 1.0).abs() < 0.001, "{row:?}");
        assert!(min > 0.0 && min <= mean && mean <= max && median <= p999 && p999 <= max, "{row:?}");
        requests += count;
    }
    assert_eq!(requests, 256.0, "the whole size");
    assert!(jq(".jobs[0].sync.total_ios", &json).unwrap().trim().parse::<u64>().unwrap() > 5);
}

/// Whatever we print outside of `brick_perf`, fio prints in the same place with the same type.
#[test]
fn every_path_is_one_of_fios() {
    let directory = directory();
    let Some(ours) = run(directory.path()) else { return };
    let job = format!("[job]\nioengine=psync\nfilename=f\n{}", JOB.replace("iodepth=4\n", ""));
    fs::write(directory.path().join("fio.fio"), job).unwrap();
    let fio = Command::new("fio")
        .args(["--output-format=json", "--output=fio.json", "fio.fio"])
        .current_dir(directory.path())
        .stdout(Stdio::null())
        .status();
    let Ok(status) = fio else { return skip("fio isn't installed") };
    assert!(status.success());
    let typed = "paths(type != \"object\" and type != \"array\") as $p \
                 | \"\\($p | map(tostring) | join(\" / \")): \\(getpath($p) | type)\"";
    let Some(ours) = jq(typed, &ours) else { return };
    let theirs = jq(typed, &directory.path().join("fio.json")).unwrap();
    let theirs: BTreeSet<&str> = theirs.lines().collect();
    let strange: Vec<&str> = ours
        .lines()
        .filter(|path| !path.contains(" / brick_perf / ") && !path.contains(" / job options / "))
        .filter(|path| !theirs.contains(path))
        .collect();
    assert!(strange.is_empty(), "fio has no such paths: {strange:#?}");
    assert!(ours.lines().count() > 100, "{ours}");
}
