//! The command line, and what is wrong with what people give it.

use std::fs;

use crate::{brick_perf, directory, report};

#[test]
fn bad_input_is_one_sentence_and_exit_1() {
    let directory = directory();
    let raw = "[a]\nioengine=raw\nfilename=f\nsize=1m\n";
    fs::write(directory.path().join("binary.fio"), [0xff, 0xfe]).unwrap();
    for (name, text, expected) in [
        ("missing.fio", None, "missing.fio: can't read the job file: No such file"),
        ("binary.fio", None, "can't read the job file"),
        (".", None, "can't read the job file: Is a directory"),
        ("key.fio", Some(format!("{raw}sync=1\n")), "key.fio:5: key \"sync\" is unknown; possible are"),
        ("jobs.fio", Some(format!("{raw}numjobs=2\n")), "jobs.fio:1: job \"a\" has numjobs"),
        (
            "nbd.fio",
            Some("[a]\nioengine=nbd\nuri=nbd+unix:///?socket=none\n".into()),
            "job \"a\": NBD server none: can't connect: No such file",
        ),
        ("empty.fio", Some(String::new()), "the file holds no job"),
        ("offset.fio", Some("[a]\nioengine=raw\nfilename=empty.fio\n".into()), "give the job a size"),
        ("kind.fio", Some("[a]\nioengine=raw\nfilename=.\n".into()), "neither a file nor a block device"),
        (
            "brick.fio",
            Some("[a]\nioengine=brick\nimage=i\n".into()),
            "ioengine=brick works on a volume; give its",
        ),
        ("volume.fio", Some("[a]\nioengine=volume\nimage=i\n".into()), "give its file with -v FILE.toml"),
    ] {
        if let Some(text) = text {
            fs::write(directory.path().join(name), text).unwrap();
        }
        let output = brick_perf(directory.path(), &["run", name]);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{name}: {error}");
        assert!(error.starts_with("brick-perf: ") && error.contains(expected), "{expected:?} in {error:?}");
        assert_eq!(error.lines().count(), 1, "{error}");
        assert!(output.stdout.is_empty());
    }
    fs::write(directory.path().join("good.fio"), raw).unwrap();
    let output = brick_perf(directory.path(), &["run", "good.fio", "--output", "no/such/folder"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no/such/folder: can't write the report"));
    assert!(!directory.path().join("f").exists(), "nothing ran for nothing");

    let output =
        brick_perf(directory.path(), &["run", "good.fio", "-v", "none.toml", "--output-format", "xml"]);
    assert_eq!(output.status.code(), Some(2), "as every command line does");
}

#[test]
fn help_has_examples() {
    for (command, expected) in [
        ("run", "brick-perf run randwrite.fio -v vms.toml"),
        ("run", "\n  pace     iodepth rate rate_iops thinktime"),
        ("compare", "brick-perf compare before.json after.json"),
        ("plot", "brick-perf plot before.json after.json --output latency.svg"),
    ] {
        let help = report(directory().path(), &[command, "--help"]).unwrap();
        let (_, examples) = help.split_once("Example").expect("an example");
        assert!(examples.contains(expected), "{examples}");
    }
}

#[test]
fn what_earlier_jobs_measured_survives_a_failure() {
    let directory = directory();
    let text = "[global]\nioengine=raw\nfilename=f\nsize=1m\nnumber_ios=10\n[good]\n\
                [bad]\nstonewall\nfilename=.\n[never]\nstonewall\n";
    fs::write(directory.path().join("a.fio"), text).unwrap();
    let output = brick_perf(directory.path(), &["run", "a.fio"]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    if error.contains("can't set up io_uring") {
        return crate::skip(&error);
    }
    assert_eq!(output.status.code(), Some(1));
    assert!(error.contains("brick-perf: job \"bad\": ."), "{error}");
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(printed.contains("good: rw=read") && !printed.contains("never"), "{printed}");
}
