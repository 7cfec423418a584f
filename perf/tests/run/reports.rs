//! Our JSON read as fio's is: with jq, path by path.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
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
fn run(directory: &Path) -> Option<PathBuf> {
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

/// Runs the same job with fio, on one thread.
fn run_fio(directory: &Path) -> Option<PathBuf> {
    let job = format!("[job]\nioengine=psync\nfilename=f\n{}", JOB.replace("iodepth=4\n", ""));
    fs::write(directory.join("fio.fio"), job).unwrap();
    let fio = Command::new("fio")
        .args(["--output-format=json", "--output=fio.json", "fio.fio"])
        .current_dir(directory)
        .stdout(Stdio::null())
        .status();
    let Ok(status) = fio else {
        skip("fio isn't installed");
        return None;
    };
    assert!(status.success());
    Some(directory.join("fio.json"))
}

/// Whatever we print outside of `brick_perf`, fio prints in the same place with the same type; and of what
/// fio prints of a job, we lack what is listed here and nothing else.
#[test]
fn every_path_is_one_of_fios() {
    let directory = directory();
    let Some(ours) = run(directory.path()) else { return };
    let Some(theirs) = run_fio(directory.path()) else { return };
    let typed = "paths(type != \"object\" and type != \"array\") as $p \
                 | \"\\($p | map(tostring) | join(\" / \")): \\(getpath($p) | type)\"";
    let Some(ours) = jq(typed, &ours) else { return };
    let theirs = jq(typed, &theirs).unwrap();
    let (ours, theirs): (BTreeSet<&str>, BTreeSet<&str>) = (ours.lines().collect(), theirs.lines().collect());
    let strange: Vec<_> = ours
        .difference(&theirs)
        .filter(|path| !path.contains(" / brick_perf / ") && !path.contains(" / job options / "))
        .collect();
    assert!(strange.is_empty(), "fio has no such paths: {strange:#?}");
    let lacking: Vec<_> = theirs
        .difference(&ours)
        .filter(|path| path.starts_with("jobs / ") && !path.contains(" / job options / "))
        .filter(|path| !NOT_MEASURED.iter().any(|part| path.contains(part)))
        .collect();
    assert!(lacking.is_empty(), "we have no such paths: {lacking:#?}");
    assert!(ours.len() > 100, "{ours:?}");
}

/// What fio measures and we don't: the depth that was reached, submission apart from completion, shares of
/// latencies in coarse classes, searches for a latency, and its own progress.
const NOT_MEASURED: [&str; 9] = [
    " / elapsed",
    " / eta",
    " / iodepth_",
    " / latency_",
    " / slat_ns / ",
    " / bw_agg",
    " / drop_ios",
    " / short_ios",
    // Of newer versions of fio.
    " / job_start",
];

/// The same name stands for the same unit: what must hold between figures holds in both documents.
#[test]
fn figures_are_in_fios_units() {
    let directory = directory();
    let Some(ours) = run(directory.path()) else { return };
    let fio = run_fio(directory.path());
    for document in [Some(ours), fio].into_iter().flatten() {
        let relations = "(.timestamp_ms / 1000 | floor) - .timestamp, \
             (.jobs[0] | .read, .write | (.bw_bytes / 1024 | floor) - .bw, .io_bytes / 1024 - .io_kbytes, \
             .clat_ns.N - .total_ios, .io_bytes / 4096 - .total_ios, \
             ([.clat_ns.percentile[\"99.990000\"] / .clat_ns.max - 1 | fabs, 0.02] | max) - 0.02)";
        let Some(zeros) = jq(relations, &document) else { return };
        assert_eq!(zeros.lines().count(), 11, "{zeros}");
        assert!(zeros.lines().all(|zero| zero == "0"), "{}: {zeros}", document.display());
    }
}

/// The script that comes with fio reads every bin, and finds in its own table what it read.
#[test]
fn fios_script_reads_json_plus() {
    let directory = directory();
    fs::write(directory.path().join("a.fio"), format!("[job]\nioengine=raw\nfilename=f\n{JOB}")).unwrap();
    let run = ["run", "a.fio", "--output-format=json+", "--output=plus.json"];
    if report(directory.path(), &run).is_none() {
        return;
    }
    for validate in [None, Some("--validate")] {
        let script = Command::new("fio_jsonplus_clat2csv")
            .args(["plus.json", "plus.csv"])
            .args(validate)
            .current_dir(directory.path())
            .output();
        let Ok(output) = script else { return skip("fio_jsonplus_clat2csv isn't installed") };
        let error = String::from_utf8_lossy(&output.stderr);
        if error.contains("ModuleNotFoundError") {
            return skip("fio_jsonplus_clat2csv lacks a module of Python");
        }
        assert!(output.status.success(), "{error}");
        let expected = if validate.is_some() { "validated" } else { "generated" };
        assert!(String::from_utf8_lossy(&output.stdout).contains(&format!("plus_job0.csv {expected}")));
    }
    let table = fs::read_to_string(directory.path().join("plus_job0.csv")).unwrap();
    assert!(table.lines().count() > 10, "{table}");
}
