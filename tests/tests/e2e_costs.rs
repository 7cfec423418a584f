//! What I/O must not cost, counted and not timed.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Instant;

use brick_tests::cluster::measure::{worker_runs, written_bytes};
use brick_tests::cluster::nbd::NbdClient;
use brick_tests::cluster::pattern::{self, BLOCK_BYTES, Sequence};
use brick_tests::cluster::{Cluster, D1, D2};

/// Size of the image.
const IMAGE_BYTES: u64 = 64 << 20;
const REQUESTS: usize = 20_000;
const DEPTH: usize = 16;
const WORKER_RUNS_MAX: u64 = REQUESTS as u64 / 100;
/// Syncs, which the kernel always hands to a worker, belong to no request: bricks clean their bits every two seconds, and
/// sync each of 16 shards for that.
const SYNC_RUNS_MAX: u64 = 100;
/// Rounding: a request that allocates comes to 20,000.
const ALLOCATIONS_MAX: u64 = REQUESTS as u64 / 100;
/// Flushes that clean bits and renewals belong to no request.
const ALLOCATIONS_A_SECOND_MAX: u64 = 50;

/// Overwrites and reads random blocks, several at a time.
fn use_blocks(client: &mut NbdClient, sequence: &mut Sequence) {
    let blocks = IMAGE_BYTES / BLOCK_BYTES as u64;
    let mut in_flight = 0;
    for request in 0..REQUESTS {
        let offset = sequence.draw() % blocks * BLOCK_BYTES as u64;
        if request % 4 == 0 {
            client.submit_read(offset, BLOCK_BYTES).expect("sent");
        } else {
            client.submit_write(offset, &pattern::blocks(offset, 1, 2)).expect("sent");
        }
        in_flight += 1;
        if in_flight == DEPTH {
            client.next_answer().expect("answered").1.expect("done");
            in_flight -= 1;
        }
    }
    for _ in 0..in_flight {
        client.next_answer().expect("answered").1.expect("done");
    }
}

/// punted I/O: an image in use for a while.
/// Requests on blocks that exist are carried out by the disk alone: the kernel hands none to its workers, where each would
/// cost two switches and a lock. What has to be handed over, the first write of each shard, shows that the count sees it.
#[test]
fn requests_on_written_blocks_are_not_punted() {
    let mut cluster = Cluster::start();
    cluster.create_image("vm", &IMAGE_BYTES.to_string());
    let server = cluster.serve("vm");
    let mut client = server.connect();
    let pids = [D1, D2].map(|brick| cluster.bricks[brick].process().pid());
    for offset in (0..IMAGE_BYTES).step_by(1 << 20) {
        client.write(offset, &pattern::blocks(offset, (1 << 20) / BLOCK_BYTES, 1)).expect("written");
    }
    let written = pids.map(worker_runs);
    let total = |runs: &BTreeMap<String, u64>| runs.values().sum::<u64>();
    println!(
        "kernel workers of D1 and D2 ran {:?} times for the first writes",
        written.each_ref().map(total)
    );
    assert!(written.iter().all(|runs| total(runs) > 0), "the first writes need the kernel's workers");
    client.flush().expect("flushed");
    let written = pids.map(worker_runs);
    let begun = Instant::now();
    use_blocks(&mut client, &mut Sequence::new(5));
    let runs_max = WORKER_RUNS_MAX + SYNC_RUNS_MAX * begun.elapsed().as_secs();
    for (pid, written) in pids.into_iter().zip(&written) {
        let after = worker_runs(pid);
        // A worker that is gone may have left its number to another.
        let since = |(id, runs): (&String, &u64)| runs.saturating_sub(*written.get(id).unwrap_or(&0));
        let runs: u64 = after.iter().map(since).sum();
        println!("and {runs} times for {REQUESTS} requests on written blocks");
        assert!(runs <= runs_max, "{runs} of {REQUESTS} requests were punted");
    }
    server.close();
}

/// allocations: an image in use for a while.
/// A brick in its steady state takes all that a request of 4 KiB needs from what it has: nothing is allocated for it.
#[test]
fn requests_allocate_nothing() {
    let mut cluster = Cluster::start();
    let counts = cluster.path("counts");
    cluster.bricks[D1].stop();
    cluster.bricks[D1].start_counting(&counts);
    cluster.create_image("vm", &IMAGE_BYTES.to_string());
    let server = cluster.serve("vm");
    let mut client = server.connect();
    for offset in (0..IMAGE_BYTES).step_by(1 << 20) {
        client.write(offset, &pattern::blocks(offset, (1 << 20) / BLOCK_BYTES, 1)).expect("written");
    }
    let first = allocations(&counts);
    use_blocks(&mut client, &mut Sequence::new(5));
    let warm = allocations(&counts);
    let (begun, written) = (Instant::now(), written_bytes(cluster.bricks[D1].process().pid()));
    use_blocks(&mut client, &mut Sequence::new(6));
    let steady = allocations(&counts) - warm;
    let written = written_bytes(cluster.bricks[D1].process().pid()) - written;
    let allowed = ALLOCATIONS_MAX + ALLOCATIONS_A_SECOND_MAX * begun.elapsed().as_secs();
    assert_eq!(cluster.health("vm")["state"], "healthy", "the brick that counts is in use");
    // Where they came from, if BRICK_TRACES asked for that.
    println!("{}", cluster.bricks[D1].process().stderr());
    println!("{} allocations for the first {REQUESTS} requests, {steady} for the next", warm - first);
    assert!(first > 0, "starting a brick allocates, and is counted");
    assert!(written >= (REQUESTS / 2 * BLOCK_BYTES) as u64, "three requests of four were written here");
    assert!(steady <= allowed, "{steady} allocations for {REQUESTS} requests");
    server.close();
}

/// What a counting brick has allocated.
fn allocations(counts: &Path) -> u64 {
    let mut text = String::new();
    let mut asked = UnixStream::connect(counts).expect("the brick tells");
    asked.read_to_string(&mut text).expect("a number");
    text.parse().expect("a number")
}
