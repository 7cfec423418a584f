//! What users feel of a heal: how long each read and write of a mixed load took while a brick was being healed, beside
//! the same load while nothing was.
//!
//! An empty brick takes the place of a data brick again and again, until heals of the whole image were under way for long
//! enough. What happens while a brick is away or replaced isn't heal's doing and isn't counted. The directories of the lost
//! bricks are deleted then, too, when there is little room left: to delete them keeps the disk busy.

use std::fs::{self, File};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use brick_tests::cluster::disk::free_bytes;
use brick_tests::cluster::nbd::NbdClient;
use brick_tests::cluster::pattern::{self, BLOCK_BYTES, Sequence};
use brick_tests::cluster::process::wait_for;
use brick_tests::cluster::{Cluster, D2};
use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::{MIB, filled};

/// Users at the same time, each with one request after the other.
const USERS: usize = 4;
const READ_PERCENT: u64 = 70;
/// Nobody should wait longer for a write because something heals.
const STALL: Duration = Duration::from_millis(50);
/// Images that there has to be room for.
const ROOM: u64 = 8;

/// What goes on when a request begins.
const PLAIN: u8 = 0;
const HEALING: u8 = 1;
const NOT_COUNTED: u8 = 2;
const OVER: u8 = 3;

/// How long requests took, microseconds.
#[derive(Debug)]
struct Latencies {
    reads: Histogram<u64>,
    writes: Histogram<u64>,
}

/// Ends the users' loops, however this ends.
struct Over<'a>(&'a AtomicU8);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(OVER, Ordering::SeqCst);
    }
}

/// The same load for `counted` without a heal, and for as long beside heals of empty bricks.
pub fn mixed(image_mebibytes: u64, counted: Duration) -> Value {
    let mut cluster = Cluster::start_as_shipped();
    let server = filled(&cluster, image_mebibytes);
    let (state, ended) = (AtomicU8::new(PLAIN), [const { AtomicU64::new(0) }; USERS]);
    let blocks = image_mebibytes * MIB / BLOCK_BYTES as u64;
    let (mut plain, mut healing) = (Latencies::new(), Latencies::new());
    let (mut healed_for, mut heals, mut lost) = (Duration::ZERO, 0, Vec::new());
    std::thread::scope(|scope| {
        let users: Vec<_> = (0..USERS)
            .map(|user| {
                let (client, state, ended) = (server.connect(), &state, &ended[user]);
                scope.spawn(move || use_image(client, user as u64, blocks, (state, ended)))
            })
            .collect();
        let over = Over(&state);
        std::thread::sleep(counted);
        while healed_for < counted {
            state.store(NOT_COUNTED, Ordering::SeqCst);
            // What is under way still counts.
            let begun = ended.each_ref().map(|ended| ended.load(Ordering::SeqCst));
            let has_ended = |user: usize| ended[user].load(Ordering::SeqCst) > begun[user];
            wait_for("each user's request ends", Duration::from_secs(60), || {
                (0..USERS).all(has_ended).then_some(())
            });
            cluster.bricks[D2].stop();
            lost.push(cluster.bricks[D2].directory.clone());
            make_room(&cluster, ROOM * image_mebibytes * MIB, &mut lost);
            let empty = cluster.path(&format!("empty-{heals}"));
            cluster.bricks[D2].start_empty(empty);
            let address = cluster.bricks[D2].address();
            cluster.ctl(&["volume", "reset-brick", &address, "--yes", "--no-heal"]).ok();
            state.store(HEALING, Ordering::SeqCst);
            let begun = Instant::now();
            cluster.wait_for_state("vm", "healthy");
            healed_for += begun.elapsed();
            heals += 1;
        }
        drop(over);
        for user in users {
            let [without, with] = user.join().expect("no request failed");
            plain.add(&without);
            healing.add(&with);
        }
    });
    server.close();
    cluster.assert_copies_agree("vm");
    json!({
        "case": "mixed",
        "users": USERS,
        "read_percent": READ_PERCENT,
        "heals": heals,
        "healed_bytes": heals * image_mebibytes * MIB,
        "without_heal": plain.summary(counted),
        "while_healing": healing.summary(healed_for),
    })
}

/// Deletes what is lost if there aren't so many bytes free.
fn make_room(cluster: &Cluster, bytes: u64, lost: &mut Vec<PathBuf>) {
    let folder = cluster.path("");
    if free_bytes(&folder) < bytes {
        for directory in lost.drain(..) {
            fs::remove_dir_all(directory).expect("nobody uses it");
        }
        // What the file system still has to do for that, it does now.
        let folder = File::open(folder).expect("the cluster has a folder");
        nix::unistd::syncfs(&folder).expect("a healthy disk");
    }
}

/// One request after the other; what those took that began without a heal, and beside one.
fn use_image(
    mut client: NbdClient,
    user: u64,
    blocks: u64,
    (state, ended): (&AtomicU8, &AtomicU64),
) -> [Latencies; 2] {
    let mut sequence = Sequence::new(100 + user);
    let mut latencies = [Latencies::new(), Latencies::new()];
    loop {
        let at = state.load(Ordering::SeqCst);
        if at == OVER {
            return latencies;
        }
        let (reads, offset) =
            (sequence.draw() % 100 < READ_PERCENT, sequence.draw() % blocks * BLOCK_BYTES as u64);
        let data = pattern::blocks(offset, 1, 4);
        let begun = Instant::now();
        if reads {
            client.read(offset, BLOCK_BYTES).expect("read");
        } else {
            client.write(offset, &data).expect("written");
        }
        if let Some(latencies) = latencies.get_mut(usize::from(at)) {
            let histogram = if reads { &mut latencies.reads } else { &mut latencies.writes };
            histogram.saturating_record(begun.elapsed().as_micros() as u64);
        }
        ended.fetch_add(1, Ordering::SeqCst);
    }
}

impl Latencies {
    fn new() -> Latencies {
        let histogram =
            || Histogram::new_with_bounds(1, 60_000_000, 3).expect("constant bounds that are in order");
        Latencies { reads: histogram(), writes: histogram() }
    }

    fn add(&mut self, other: &Latencies) {
        self.reads.add(&other.reads).expect("made with the same bounds");
        self.writes.add(&other.writes).expect("made with the same bounds");
    }

    fn summary(&self, time: Duration) -> Value {
        json!({
            "seconds": time.as_secs_f64(),
            "read": summary(&self.reads),
            "write": summary(&self.writes),
        })
    }
}

fn summary(histogram: &Histogram<u64>) -> Value {
    let at = |percentile| histogram.value_at_percentile(percentile);
    let stall_us = STALL.as_micros() as u64;
    json!({
        "requests": histogram.len(),
        "p50_us": at(50.0),
        "p90_us": at(90.0),
        "p99_us": at(99.0),
        "p99_9_us": at(99.9),
        "p99_99_us": at(99.99),
        "max_us": histogram.max(),
        "over_50_ms": histogram.len() - histogram.count_between(0, stall_us),
    })
}
