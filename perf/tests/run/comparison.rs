//! Reports of real runs compared and drawn.

use std::fs;
use std::path::Path;

use crate::{brick_perf, directory, report};

/// Two reports of short jobs: `first` only in the first, `both` in both.
fn reports(directory: &Path) -> Option<()> {
    let global = "[global]\nioengine=raw\nfilename=f\nsize=1m\niodepth=4\n";
    let both = "[both]\nrw=randrw\nfsync=8\n";
    fs::write(directory.join("a.fio"), format!("{global}{both}[first]\nstonewall\nrw=read\n")).unwrap();
    fs::write(directory.join("b.fio"), format!("{global}{both}")).unwrap();
    for name in ["a", "b"] {
        let (job, json) = (format!("{name}.fio"), format!("{name}.json"));
        report(directory, &["run", &job, "--output-format=json", "--output", &json])?;
    }
    Some(())
}

#[test]
fn two_reports_are_compared() {
    let directory = directory();
    let Some(()) = reports(directory.path()) else { return };
    let table = report(directory.path(), &["compare", "a.json", "b.json"]).unwrap();
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["both", "A", "B", "B/A"]);
    for row in ["read IOPS", "read p99.9", "write bandwidth", "write p50", "sync mean", "CPU per I/O"] {
        assert!(table.contains(&format!("  {row} ")), "{row} is not in\n{table}");
    }
    assert!(table.ends_with("only in A: first\n"), "{table}");

    let same = report(directory.path(), &["compare", "a.json", "a.json", "--json"]).unwrap();
    let same: serde_json::Value = serde_json::from_str(&same).unwrap();
    let figures = same["jobs"].as_array().unwrap().iter().flat_map(|job| job["figures"].as_array().unwrap());
    let ratios: Vec<&serde_json::Value> = figures.map(|figure| &figure["ratio"]).collect();
    assert!(ratios.len() > 20 && ratios.iter().all(|ratio| ratio.as_f64() == Some(1.0)), "{same}");

    let json = ["compare", "--base", "a.json,b.json", "b.json", "--json"];
    let medians: serde_json::Value = serde_json::from_str(&report(directory.path(), &json).unwrap()).unwrap();
    let sides = [&medians["only_base"][0], &medians["jobs"][0]["job"]];
    assert_eq!(sides, ["first", "both"]);
}

#[test]
fn reports_are_drawn() {
    let directory = directory();
    let Some(()) = reports(directory.path()) else { return };
    for picture in ["picture.svg", "picture.png"] {
        let printed = report(directory.path(), &["plot", "a.json", "b.json", "--output", picture]).unwrap();
        assert!(printed.is_empty(), "{printed}");
    }
    let svg = fs::read_to_string(directory.path().join("picture.svg")).unwrap();
    assert_well_formed(&svg);
    for label in ["a both read", "a both sync", "a first read", "b both write", "over time"] {
        assert!(svg.contains(label), "{label} is not in\n{svg}");
    }
    let file = fs::read(directory.path().join("picture.png")).unwrap();
    assert_eq!(file[..8], *b"\x89PNG\r\n\x1a\n");
    let mut reader = png::Decoder::new(std::io::Cursor::new(file)).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut pixels).unwrap();
    assert!(info.width >= 600 && info.height >= 600, "{info:?}");
    let inked = pixels.chunks(3).filter(|pixel| *pixel != [255, 255, 255]).count();
    assert!(inked > 2000, "{inked} pixels aren't white");
}

#[test]
fn what_is_no_report_is_one_sentence() {
    let directory = directory();
    fs::write(directory.path().join("job.fio"), "[a]\nrw=read\n").unwrap();
    fs::write(directory.path().join("other.json"), "{\"jobs\": 3}\n").unwrap();
    let bare = r#"{"jobs": [{"jobname": "a"}]}"#;
    fs::write(directory.path().join("bare.json"), bare).unwrap();
    for (arguments, expected) in [
        (&["compare", "none.json", "bare.json"][..], "none.json: can't read the report: No such file"),
        (&["compare", "bare.json", "job.fio"], "job.fio: not a report (expected value"),
        (&["compare", "bare.json", "other.json"], "other.json: not a report (invalid type: integer `3`"),
        (&["compare", "bare.json"], "two reports are compared, here are 1; say which are the base"),
        (&["compare", ".", "bare.json"], ".: can't read the report: Is a directory"),
        (&["plot", "job.fio", "-o", "a.svg"], "job.fio: not a report"),
        (&["plot", "bare.json", "-o", "a.svg"], "there is nothing to draw"),
        (&["plot", "bare.json", "-o", "a.pdf"], "a.pdf: the name of a picture ends in .svg or .png"),
    ] {
        let output = brick_perf(directory.path(), arguments);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {error}");
        assert!(error.starts_with("brick-perf: ") && error.contains(expected), "{expected:?} in {error:?}");
        assert_eq!(error.lines().count(), 1, "{error}");
        assert!(output.stdout.is_empty());
    }
    assert!(!directory.path().join("a.svg").exists());
}

/// Every element that is opened is closed, and what is between them is escaped.
fn assert_well_formed(xml: &str) {
    let mut open = Vec::new();
    for piece in xml.split('<').skip(1) {
        let (tag, text) = piece.split_once('>').unwrap_or_else(|| panic!("<{piece} has no end"));
        assert!(!text.contains('>') && text.split('&').skip(1).all(|rest| rest.contains(';')), "{text:?}");
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag:?}");
        let name = tag.trim_matches('/').split_whitespace().next().expect("a name");
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name));
        } else if !tag.ends_with('/') {
            open.push(name);
        }
    }
    assert!(open.is_empty() && xml.starts_with("<svg"), "{open:?}");
}
