//! The command from outside: exit status, sentences, and reports as their readers take them.
//!
//! A test that lacks a tool or a binary says so and passes, except where `CI` is set: there everything
//! must be there.

mod bricks;
mod commands;
mod comparison;
mod engines;
mod logs;
mod nbd;
mod reports;
mod volume;

use std::path::Path;
use std::process::{Command, Output};

/// Runs `brick-perf` in a directory.
fn brick_perf(directory: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_brick-perf"))
        .args(arguments)
        .env_remove("BRICK_VOLUME")
        .env_remove("BRICK_LOG")
        .current_dir(directory)
        .output()
        .expect("the binary runs")
}

/// What it printed, if it succeeded; `None` where io_uring is forbidden.
fn report(directory: &Path, arguments: &[&str]) -> Option<String> {
    let output = brick_perf(directory, arguments);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    if error.contains("can't set up io_uring") {
        skip(&error);
        return None;
    }
    assert!(output.status.success(), "{arguments:?}: {}\n{error}", output.status);
    Some(String::from_utf8(output.stdout).expect("text"))
}

/// A directory on a disk, not in memory.
fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory")
}

/// Says why a test doesn't test.
fn skip(reason: &str) {
    assert!(std::env::var_os("CI").is_none(), "nothing may be skipped under CI: {reason}");
    println!("skipped: {reason}");
}
