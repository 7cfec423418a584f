//! `ioengine=nbd` against nbdkit, which isn't ours: what it says and does is the protocol.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::{brick_perf, directory, report, skip};

/// A server in a directory, on the socket `nbd.sock` there. Killed when dropped.
struct Server(Child);

impl Server {
    /// Starts nbdkit, and waits until it listens; `None`, with the reason, if that isn't possible here.
    fn start(directory: &Path, arguments: &[&str]) -> Option<Server> {
        // nbdkit runs the command once it listens, and ends when the command does: it says so, and waits for
        // its input to end, which is when we are gone.
        let process = Command::new("nbdkit")
            .args(["--foreground", "--unix", "nbd.sock"])
            .args(arguments)
            .args(["--run", "echo listening; exec cat"])
            .current_dir(directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let Ok(mut process) = process else {
            skip("nbdkit isn't installed");
            return None;
        };
        let mut line = String::new();
        BufReader::new(process.stdout.take().expect("piped")).read_line(&mut line).expect("text");
        assert_eq!(line.trim(), "listening", "its reason is above");
        Some(Server(process))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Closes its input, so that the command ends, and nbdkit with it.
        drop(self.0.stdin.take());
        let _reaped = self.0.wait();
    }
}

fn write_job(directory: &Path, keys: &str) {
    let text = format!("[job]\nioengine=nbd\nuri=nbd+unix:///?socket=nbd.sock\n{keys}");
    fs::write(directory.join("a.fio"), text).unwrap();
}

fn run(directory: &Path, keys: &str) -> Value {
    write_job(directory, keys);
    let text = report(directory, &["run", "a.fio", "--output-format", "json"]).expect("no ring of ours");
    let mut json: Value = serde_json::from_str(&text).unwrap();
    json["jobs"][0].take()
}

fn sentence(directory: &Path, keys: &str) -> String {
    write_job(directory, keys);
    let output = brick_perf(directory, &["run", "a.fio"]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
    error
}

#[test]
fn an_export_is_written_and_verified() {
    let directory = directory();
    let Some(_server) = Server::start(directory.path(), &["memory", "16M"]) else { return };
    let keys = "rw=randwrite\niodepth=32\nfsync=256\nverify=crc32c\nbssplit=4k/90:256k/10\n";
    let job = run(directory.path(), keys);
    let count = |job: &Value, kind: &str| job[kind]["total_ios"].as_u64().unwrap();
    assert!(job["write"]["io_bytes"].as_u64().unwrap() >= 16 << 20);
    assert_eq!(count(&job, "sync"), count(&job, "write") / 256);
    // Large requests in both directions at once: neither side may wait for the other to read.
    let job = run(directory.path(), "rw=randrw\nbs=1m\niodepth=32\nnumber_ios=300\ntime_based\nruntime=1h\n");
    assert_eq!(count(&job, "read") + count(&job, "write"), 300);
    let job = run(
        directory.path(),
        "rw=read\nbs=64k\niodepth=4\nnumjobs=4\ngroup_reporting\nsize=4m\noffset_increment=4m\n",
    );
    assert_eq!(job["read"]["io_bytes"], 16 << 20, "a connection for each worker");
    let job = run(directory.path(), "rw=randread\niodepth=32\nrate_iops=200\nnumber_ios=21\n");
    assert!(job["brick_perf"]["runtime_ns"].as_u64().unwrap() >= 100_000_000);
}

#[test]
fn what_the_server_refuses_is_said() {
    let directory = directory();
    {
        let Some(_server) = Server::start(directory.path(), &["--readonly", "memory", "1M"]) else { return };
        let error = sentence(directory.path(), "rw=write\n");
        assert!(
            error.contains("NBD server nbd.sock: the export is read-only, but the job writes"),
            "{error}"
        );
        let error = sentence(directory.path(), "rw=read\nsize=2m\n");
        assert!(error.contains("it needs bytes 0+2097152 of a target that has 1048576"), "{error}");
    }
    fs::remove_file(directory.path().join("nbd.sock")).ok();
    let arguments = ["--filter=error", "memory", "1M", "error-pread=EIO", "error-pread-rate=100%"];
    let Some(_server) = Server::start(directory.path(), &arguments) else { return };
    let error = sentence(directory.path(), "rw=read\niodepth=8\n");
    assert!(error.contains("NBD server nbd.sock: Read of 4096 bytes at "), "{error}");
    assert!(error.contains("failed with error 5"), "{error}");
}
