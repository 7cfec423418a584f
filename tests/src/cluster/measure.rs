//! What processes cost: processor time, system calls, bytes on the wire. All from outside.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use super::command::run;

/// Processor time of a process so far, all threads, in clock ticks (1/100 s).
pub fn cpu_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process runs");
    let (_, fields) = stat.rsplit_once(") ").expect("the name is in brackets");
    let fields: Vec<&str> = fields.split(' ').collect();
    fields[11].parse::<u64>().expect("utime") + fields[12].parse::<u64>().expect("stime")
}

/// The same, microseconds.
pub fn cpu_us(pid: u32) -> f64 {
    cpu_ticks(pid) as f64 * 10_000.0
}

/// What a process has in memory, bytes.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// At the moment.
    pub now: u64,
    /// The most it ever had.
    pub highest: u64,
}

/// What a process has in memory.
pub fn memory_bytes(pid: u32) -> Memory {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let kibibytes = |name: &str| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("the kernel says it");
        line.trim().trim_end_matches(" kB").parse().expect("a number of KiB")
    };
    Memory { now: kibibytes("VmRSS:") << 10, highest: kibibytes("VmHWM:") << 10 }
}

/// Bytes that a process has had written to disks so far.
pub fn written_bytes(pid: u32) -> u64 {
    let io = std::fs::read_to_string(format!("/proc/{pid}/io")).expect("the process is ours");
    let written = io.lines().find_map(|line| line.strip_prefix("write_bytes: ")).expect("the kernel says it");
    written.parse().expect("a number")
}

/// Context switches of a process so far, all threads.
pub fn context_switches(pid: u32) -> u64 {
    threads(pid).iter().map(|thread| thread.switches).sum()
}

/// How often each of io_uring's kernel workers of a process ran: what the kernel can't do without waiting is handed
/// ("punted") to them. By thread, because a worker that had nothing to do for 5 s is gone, and its count with it.
pub fn worker_runs(pid: u32) -> BTreeMap<String, u64> {
    let workers = threads(pid).into_iter().filter(|thread| thread.name.starts_with("iou-wrk"));
    workers.map(|thread| (thread.id, thread.switches)).collect()
}

struct Thread {
    id: String,
    name: String,
    switches: u64,
}

fn threads(pid: u32) -> Vec<Thread> {
    let folders = std::fs::read_dir(format!("/proc/{pid}/task")).expect("the process runs");
    let of_thread = |folder: std::fs::DirEntry| {
        // A thread may have ended since it was listed.
        let status = std::fs::read_to_string(folder.path().join("status")).unwrap_or_default();
        let name = status.strip_prefix("Name:").unwrap_or_default().lines().next().unwrap_or_default();
        let counts = status.lines().filter_map(|line| {
            let (name, count) = line.split_once(':')?;
            name.ends_with("ctxt_switches").then(|| count.trim().parse::<u64>().ok())?
        });
        let id = folder.file_name().to_string_lossy().into_owned();
        Thread { id, name: name.trim().to_owned(), switches: counts.sum() }
    };
    folders.flatten().map(of_thread).collect()
}

/// System calls of a process, all threads, in `period`, as strace counts them: name and number.
pub fn system_calls(pid: u32, period: Duration) -> BTreeMap<String, u64> {
    let mut strace = Command::new("timeout");
    strace.args(["--signal=INT", &period.as_secs().to_string()]);
    strace.args(["strace", "-c", "-f", "-U", "calls,name", "-p", &pid.to_string()]);
    let outcome = run(&mut strace);
    let attached = outcome.stderr.contains("attached");
    assert!(attached, "strace can't attach: {}", outcome.stderr);
    let counts = outcome.stderr.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let calls = words.next()?.parse().ok()?;
        let name = words.next().filter(|name| *name != "total")?;
        Some((name.to_owned(), calls))
    });
    counts.collect()
}

/// Bytes that a process's connections to a port have carried so far, both ways, headers of the network
/// not counted.
pub fn wire_bytes(pid: u32, port: u16) -> u64 {
    let filter = format!("( dport = :{port} )");
    let outcome = run(Command::new("ss").args(["-tinpOH", "state", "established", &filter])).ok();
    let owner = format!("pid={pid},");
    let lines = outcome.stdout.lines().filter(|line| line.contains(&owner));
    let words = lines.flat_map(str::split_whitespace);
    let counters = words.filter_map(|word| {
        let (name, value) = word.split_once(':')?;
        ["bytes_acked", "bytes_received"].contains(&name).then(|| value.parse::<u64>().ok())?
    });
    counters.sum()
}
