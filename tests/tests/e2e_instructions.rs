//! Instructions that a request costs, in a run that is the same every time: what the clock says of a slower path is noise,
//! and this isn't.
//!
//! Counted by callgrind in the simulator, so without sockets, system calls and disks: what is left is what we wrote, and the
//! CRCs; and in the profile of tests, which inlines little, so only the ratio to the limit means something. A limit is what
//! was measured and a fifth more, as compilers differ. Who makes a path cheaper lowers its limit; who needs more says why.

use std::path::Path;
use std::process::Command;

use brick_tests::cluster::command::{binary, run};

/// Requests per measurement.
const REQUESTS: u64 = 1000;

/// One part of the code, and what it may need for a write and for a read of 4 KiB.
struct Part {
    name: &'static str,
    functions: &'static str,
    write_max: u64,
    read_max: u64,
}

const PARTS: [Part; 2] = [
    Part { name: "bricks", functions: "*Engine*handle_event*", write_max: 37_300, read_max: 15_800 },
    Part { name: "client", functions: "*replica*Group*handle_*", write_max: 14_800, read_max: 11_400 },
];

/// instructions: single requests on a healthy image.
#[test]
fn requests_need_no_more_instructions_than_before() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut dearer = Vec::new();
    for part in PARTS {
        let count = |writes, reads| instructions(folder.path(), part.functions, writes, reads);
        let base = count(0, 0);
        let write = (count(REQUESTS, 0) - base) / REQUESTS;
        let read = (count(0, REQUESTS) - base) / REQUESTS;
        println!("{}: {write} instructions for a write, {read} for a read", part.name);
        assert!(base > 0 && write > 0 && read > 0, "{}: callgrind saw the functions", part.name);
        if write > part.write_max || read > part.read_max {
            dearer.push(format!(
                "{}: {write} instructions for a write ({} allowed), {read} for a read ({} allowed)",
                part.name, part.write_max, part.read_max
            ));
        }
    }
    assert!(dearer.is_empty(), "{}", dearer.join("\n"));
}

/// Instructions within `functions` of a run.
fn instructions(folder: &Path, functions: &str, writes: u64, reads: u64) -> u64 {
    let mut command = Command::new("valgrind");
    command
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(format!("--toggle-collect={functions}"))
        .arg(binary("brick-scripted-load"))
        .args(["--writes", &writes.to_string(), "--reads", &reads.to_string()])
        .current_dir(folder);
    let report = run(&mut command).ok().stderr;
    let line = report.lines().find_map(|line| line.split_once("Collected : ")).expect("callgrind's summary");
    line.1.trim().parse().expect("a number")
}
