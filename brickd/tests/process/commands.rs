//! The command line as an operator meets it: exit codes, and one clear sentence per mistake.

use std::fs;

use super::brick::{Brick, brickd, format};

fn refusal(arguments: &[&str]) -> String {
    let output = brickd(arguments);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = String::from_utf8(output.stderr).unwrap();
    let last = text.lines().last().unwrap_or_default().to_owned();
    assert!(last.starts_with("brickd: "), "{text}");
    assert!(!text.contains("panicked") && !text.contains("backtrace"), "{text}");
    last
}

#[test]
fn help_has_examples_and_usage_errors_are_two() {
    let help = brickd(&["run", "--help"]);
    assert!(help.status.success());
    assert!(String::from_utf8(help.stdout).unwrap().contains("Example:"));
    assert_eq!(brickd(&["run"]).status.code(), Some(2));
    assert_eq!(brickd(&["format", "--dir", "x", "--role", "both"]).status.code(), Some(2));
}

#[test]
fn mistakes_are_named() {
    let parent = tempfile::tempdir().unwrap();
    let path = |name: &str| parent.path().join(name).to_str().unwrap().to_owned();
    let run = |directory: &str| refusal(&["run", "--dir", directory, "--listen", "127.0.0.1:0"]);

    assert!(run(&path("missing")).contains("the directory doesn't exist"));
    fs::create_dir(path("bare")).unwrap();
    assert!(run(&path("bare")).contains("no superblock"));

    fs::write(parent.path().join("bare/file"), "mine").unwrap();
    let text = refusal(&["format", "--dir", &path("bare"), "--role", "data"]);
    assert!(text.contains("isn't empty"), "{text}");

    format(&parent.path().join("brick"), "data");
    let text = refusal(&["format", "--dir", &path("brick"), "--role", "data"]);
    assert!(text.contains("is a brick already"), "{text}");

    let text = refusal(&["run", "--dir", &path("brick"), "--listen", "127.0.0.1:0", "--cores", "1000"]);
    assert!(text.contains("can't run on 1000 cores"), "{text}");

    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = listener.local_addr().unwrap().to_string();
    let text = refusal(&["run", "--dir", &path("brick"), "--listen", &taken]);
    assert!(text.contains(&taken) && text.contains("in use"), "{text}");

    let mut superblock = fs::read(parent.path().join("brick/superblock")).unwrap();
    superblock[100] ^= 1;
    superblock[4096 + 100] ^= 1;
    fs::write(parent.path().join("brick/superblock"), superblock).unwrap();
    assert!(run(&path("brick")).contains("both copies fail their checks"));
}

#[test]
fn a_served_directory_is_locked() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("brick");
    format(&directory, "arbiter");
    let Some(brick) = Brick::start(&directory, &[]) else { return };
    let text = refusal(&["run", "--dir", directory.to_str().unwrap(), "--listen", "127.0.0.1:0"]);
    assert!(text.contains(&format!("pid {}", brick.pid())), "{text}");
    assert!(brick.terminate().success());
}
