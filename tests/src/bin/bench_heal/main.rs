//! What heal costs: bricks go away and return while an image is written, one after the other in every order.
//!
//! Each line of output is an object of JSON. For each absence: how many different blocks were written meanwhile, how many the heal moved, how long it took from
//! the start of the brick's process, and what the writer felt before and during it. `scripts/bench-heal` runs this
//! and, beside it, the same on GlusterFS.

mod mixed;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use brick_tests::cluster::nbd::{NbdClient, NbdServer};
use brick_tests::cluster::pattern::{self, BLOCK_BYTES, Sequence};
use brick_tests::cluster::{ARBITER, Cluster, D1, D2, shard_files};
use clap::Parser;
use serde_json::{Value, json};

/// Measures a whole heal, and heal after single and double failures under 4 KiB random writes.
///
/// Example: brick-bench-heal --size 1024
#[derive(Debug, Parser)]
struct Arguments {
    /// Size of the image, in MiB; all of it is written first
    #[arg(long, default_value_t = 1024)]
    size: u64,
    /// Random writes that the single absence without load misses
    #[arg(long, default_value_t = 1000)]
    writes: usize,
    /// Milliseconds that a brick stays away under load
    #[arg(long, default_value_t = 2000)]
    away_ms: u64,
    /// Seconds of a mixed load without a heal, and as many beside heals
    #[arg(long, default_value_t = 60)]
    mixed_seconds: u64,
    /// Only the cases whose name holds this: quiet, whole, mixed, or bricks, as in "D1, then A"
    #[arg(long, default_value = "")]
    only: String,
}

/// The states of the world that a write is counted under.
const WHOLE: usize = 0;
const AWAY: usize = 1;
const RETURNING: usize = 2;
const MIB: u64 = 1 << 20;

/// What the writer noted, by state: how long each write took, and which blocks it was about.
#[derive(Debug, Default)]
struct Notes {
    latencies_us: [Vec<u64>; 3],
    blocks: [BTreeSet<u64>; 3],
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let (one, two, arbiter) = (("D1", D1), ("D2", D2), ("A", ARBITER));
    let orders: [&[(&str, usize)]; 9] = [
        &[one],
        &[two],
        &[arbiter],
        &[one, two],
        &[two, one],
        &[one, arbiter],
        &[arbiter, one],
        &[two, arbiter],
        &[arbiter, two],
    ];
    let names = ["quiet", "whole", "mixed"].map(str::to_owned).into_iter();
    let names: Vec<String> = names.chain(orders.map(name_of)).collect();
    if !names.iter().any(|name| name.contains(&arguments.only)) {
        eprintln!(
            "brick-bench-heal: no case is called {:?}; there are: {}",
            arguments.only,
            names.join("; ")
        );
        return ExitCode::from(2);
    }
    for name in names.iter().filter(|name| name.contains(&arguments.only)) {
        let lines = match name.as_str() {
            "quiet" => vec![quiet(&arguments)],
            "whole" => vec![whole(&arguments)],
            "mixed" => vec![mixed::mixed(arguments.size, Duration::from_secs(arguments.mixed_seconds))],
            _ => {
                let order = orders.into_iter().find(|order| name_of(order) == *name);
                under_load(&arguments, order.expect("named after it"))
            }
        };
        lines.iter().for_each(|line| println!("{line}"));
    }
    ExitCode::SUCCESS
}

fn name_of(order: &[(&str, usize)]) -> String {
    let names: Vec<&str> = order.iter().map(|(name, _)| *name).collect();
    names.join(", then ")
}

/// One data brick misses a number of random writes and returns; nobody else does anything.
fn quiet(arguments: &Arguments) -> Value {
    let mut cluster = Cluster::start_as_shipped();
    let server = filled(&cluster, arguments.size);
    let mut client = server.connect();
    cluster.bricks[D2].kill();
    let blocks = arguments.size * MIB / BLOCK_BYTES as u64;
    for block in Sequence::new(11).distinct(arguments.writes, blocks) {
        write(&mut client, block, 2);
    }
    client.flush().expect("flushed");
    let healed = return_of(&mut cluster, D2);
    server.close();
    cluster.assert_copies_agree("vm");
    json!({ "case": "quiet", "brick": "D2", "changed_blocks": arguments.writes, "heal": healed })
}

/// An empty brick takes the place of a data brick; a quarter of the image is allocated. Beside it, in the same folder, how
/// long the disk takes to copy the same bytes.
fn whole(arguments: &Arguments) -> Value {
    let mut cluster = Cluster::start_as_shipped();
    cluster.create_image("vm", &format!("{}M", 4 * arguments.size));
    let server = cluster.serve("vm");
    write_all(&mut server.connect(), arguments.size);
    server.close();
    let copy_seconds = copy(&cluster.bricks[D1].directory, &cluster.path("copy"));
    cluster.bricks[D2].stop();
    let new_disk = cluster.path("new-disk");
    cluster.bricks[D2].start_empty(new_disk);
    let address = cluster.bricks[D2].address();
    let reset = cluster.ctl(&["volume", "reset-brick", &address, "--yes", "--json"]).json();
    cluster.assert_copies_agree("vm");
    let healed = &reset["images"][0];
    json!({
        "case": "whole",
        "brick": "D2",
        "allocated_bytes": arguments.size * MIB,
        "healed_bytes": healed["healed_bytes"],
        "wire_bytes": healed["wire_bytes"],
        "seconds": healed["seconds"],
        "copy_seconds": copy_seconds,
    })
}

/// Copies a brick's shard files past the page cache and makes the copy durable; the time it took, seconds.
fn copy(from: &Path, to: &Path) -> f64 {
    std::fs::create_dir(to).expect("a folder");
    let begun = Instant::now();
    for (number, file) in shard_files(from).into_iter().enumerate() {
        let (input, output) = (from.join(file), to.join(number.to_string()));
        let mut dd = std::process::Command::new("dd");
        dd.arg(format!("if={}", input.display())).arg(format!("of={}", output.display()));
        let done = dd.args(["bs=1M", "iflag=direct", "oflag=direct", "conv=fsync", "status=none"]).status();
        assert!(done.expect("dd runs").success());
    }
    begun.elapsed().as_secs_f64()
}

/// Bricks go away and come back, one after the other, while a client writes random blocks one at a time.
fn under_load(arguments: &Arguments, order: &[(&str, usize)]) -> Vec<Value> {
    let mut cluster = Cluster::start_as_shipped();
    let server = filled(&cluster, arguments.size);
    let (over, state) = (AtomicBool::new(false), AtomicUsize::new(WHOLE));
    let notes = Mutex::new(Notes::default());
    let blocks = arguments.size * MIB / BLOCK_BYTES as u64;
    let mut lines = Vec::new();
    std::thread::scope(|scope| {
        let mut client = server.connect();
        let (over, state, notes) = (&over, &state, &notes);
        scope.spawn(move || {
            let mut sequence = Sequence::new(12);
            while !over.load(Ordering::Relaxed) {
                let block = sequence.draw() % blocks;
                let (begun, at) = (Instant::now(), state.load(Ordering::SeqCst));
                write(&mut client, block, 3);
                let mut notes = notes.lock().expect("nobody panics with it");
                notes.latencies_us[at].push(begun.elapsed().as_micros() as u64);
                notes.blocks[at].insert(block);
            }
        });
        for (name, brick) in order {
            std::thread::sleep(Duration::from_secs(2));
            cluster.bricks[*brick].kill();
            state.store(AWAY, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(arguments.away_ms));
            state.store(RETURNING, Ordering::SeqCst);
            let healed = return_of(&mut cluster, *brick);
            state.store(WHOLE, Ordering::SeqCst);
            let mut notes = std::mem::take(&mut *notes.lock().expect("nobody panics with it"));
            lines.push(json!({
                "case": name_of(order),
                "brick": name,
                "changed_blocks": notes.blocks[AWAY].len(),
                "heal": healed,
                "p99_us_before": percentile(&mut notes.latencies_us[WHOLE], 99),
                "max_us_before": percentile(&mut notes.latencies_us[WHOLE], 100),
                "p99_us_during": percentile(&mut notes.latencies_us[RETURNING], 99),
                "max_us_during": percentile(&mut notes.latencies_us[RETURNING], 100),
            }));
        }
        over.store(true, Ordering::Relaxed);
    });
    server.close();
    cluster.assert_copies_agree("vm");
    lines
}

/// Starts a brick and waits until every copy is good; what its heal moved.
fn return_of(cluster: &mut Cluster, brick: usize) -> Value {
    let begun = Instant::now();
    cluster.bricks[brick].start();
    cluster.wait_for_state("vm", "healthy");
    let seconds = begun.elapsed().as_secs_f64();
    let history = cluster.ctl(&["heal", "history", "vm", "--json"]).json();
    let address = cluster.bricks[brick].address();
    let heals: Vec<Value> = history["heals"].as_array().cloned().unwrap_or_default();
    let last = heals.into_iter().rfind(|heal| heal["brick"] == address.as_str()).unwrap_or(Value::Null);
    json!({ "seconds": seconds, "of_brick": last })
}

fn filled(cluster: &Cluster, mebibytes: u64) -> NbdServer {
    cluster.create_image("vm", &format!("{mebibytes}M"));
    let server = cluster.serve("vm");
    write_all(&mut server.connect(), mebibytes);
    server
}

fn write_all(client: &mut NbdClient, mebibytes: u64) {
    for offset in (0..mebibytes).map(|number| number * MIB) {
        let data = pattern::blocks(offset, MIB as usize / BLOCK_BYTES, 1);
        client.write(offset, &data).expect("written");
    }
    client.flush().expect("flushed");
}

fn write(client: &mut NbdClient, block: u64, version: u64) {
    let offset = block * BLOCK_BYTES as u64;
    client.write(offset, &pattern::blocks(offset, 1, version)).expect("written");
}

fn percentile(values: &mut [u64], percent: usize) -> Option<u64> {
    values.sort_unstable();
    let last = values.len().checked_sub(1)?;
    Some(values[last * percent / 100])
}
