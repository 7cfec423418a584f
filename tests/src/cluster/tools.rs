//! Clients that people use, and what to do where one isn't installed: in CI that is a failure, elsewhere
//! the test says what it skips and why.

use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::time::Duration;

use super::command::{Outcome, run};

/// Whether all these programs are installed.
pub fn have(programs: &[&str]) -> bool {
    for program in programs {
        let found = std::env::var_os("PATH").is_some_and(|path| {
            let system = ["/usr/sbin", "/sbin"].map(Into::into);
            std::env::split_paths(&path).chain(system).any(|folder| folder.join(program).exists())
        });
        if !found {
            skip(&format!("{program} isn't installed"));
            return false;
        }
    }
    true
}

/// Whether we may do what only root may.
pub fn is_root(what: &str) -> bool {
    // The owner of a process's own folder is the user it runs as.
    let root = std::fs::metadata("/proc/self").is_ok_and(|folder| folder.uid() == 0);
    if !root {
        skip(&format!("{what} need root"));
    }
    root
}

/// Says that something is left out; where everything has to run, that is a failure.
pub fn skip(reason: &str) {
    assert!(std::env::var_os("CI").is_none(), "this would be skipped: {reason}");
    println!("skipped: {reason}");
}

/// Runs a tool to its end, which must be good.
#[track_caller]
pub fn tool(program: &str, arguments: &[&str]) -> Outcome {
    run(Command::new(program).args(arguments)).ok()
}

/// Runs `qemu-io` commands on an export; all of them must succeed.
#[track_caller]
pub fn qemu_io(uri: &str, commands: &[&str]) -> Outcome {
    let mut command = Command::new("qemu-io");
    command.args(["-f", "raw"]);
    for line in commands {
        command.args(["-c", line]);
    }
    let outcome = run(command.arg(uri)).ok();
    // It exits with 0 when a pattern differs.
    let failed = ["verification failed", "failed:"].iter().any(|mark| outcome.stdout.contains(mark));
    assert!(!failed, "{commands:?}: {}", outcome.stdout);
    outcome
}

/// fio with random writes of 4 to 256 KiB, 32 at once, each read back and checked against its CRC.
/// It runs in a folder of its own, where it leaves its state.
pub fn fio_verify(uri: &str, size: &str, runtime: Duration) -> Command {
    let mut command = Command::new("fio");
    command.args([
        "--name=verify",
        "--ioengine=nbd",
        &format!("--uri={uri}"),
        "--rw=randwrite",
        "--bsrange=4k-256k",
        "--blockalign=4k",
        "--iodepth=32",
        &format!("--size={size}"),
        "--time_based",
        &format!("--runtime={}", runtime.as_secs()),
        "--verify=crc32c",
        "--verify_backlog=512",
        "--verify_fatal=1",
        "--verify_state_save=0",
        "--randrepeat=1",
        "--group_reporting",
    ]);
    command
}
