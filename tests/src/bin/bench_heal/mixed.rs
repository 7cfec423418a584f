//! What users feel of a heal: how long each read and write of a mixed load took while a brick was being healed, beside
//! the same load while nothing was.
//!
//! A data brick is killed and comes back again and again, until heals were under way for long enough. What happens
//! between its death and its return isn't heal's doing and isn't counted.

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use brick_tests::cluster::nbd::NbdClient;
use brick_tests::cluster::pattern::{self, BLOCK_BYTES, Sequence};
use brick_tests::cluster::{Cluster, D2};
use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::{MIB, filled, return_of};

/// Users at the same time, each with one request after the other.
const USERS: u64 = 4;
const READ_PERCENT: u64 = 70;
/// Nobody should wait longer for a write because something heals.
const STALL: Duration = Duration::from_millis(50);

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

/// The same load for `counted` without a heal, and for as long beside heals of bricks that were away for `away`.
pub fn mixed(image_mebibytes: u64, counted: Duration, away: Duration) -> Value {
    let mut cluster = Cluster::start();
    let server = filled(&cluster, image_mebibytes);
    let state = AtomicU8::new(PLAIN);
    let blocks = image_mebibytes * MIB / BLOCK_BYTES as u64;
    let (mut plain, mut healing) = (Latencies::new(), Latencies::new());
    let (mut healed_for, mut heals, mut healed_blocks) = (Duration::ZERO, 0, 0);
    std::thread::scope(|scope| {
        let users: Vec<_> = (0..USERS)
            .map(|user| {
                let (client, state) = (server.connect(), &state);
                scope.spawn(move || use_image(client, user, blocks, state))
            })
            .collect();
        std::thread::sleep(counted);
        while healed_for < counted {
            state.store(NOT_COUNTED, Ordering::SeqCst);
            cluster.bricks[D2].kill();
            std::thread::sleep(away);
            state.store(HEALING, Ordering::SeqCst);
            let begun = Instant::now();
            let heal = return_of(&mut cluster, D2);
            healed_for += begun.elapsed();
            heals += 1;
            healed_blocks += heal["of_brick"]["healed_blocks"].as_u64().unwrap_or(0);
        }
        state.store(OVER, Ordering::SeqCst);
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
        "healed_blocks": healed_blocks,
        "without_heal": plain.summary(counted),
        "while_healing": healing.summary(healed_for),
    })
}

/// One request after the other; what those took that began without a heal, and beside one.
fn use_image(mut client: NbdClient, user: u64, blocks: u64, state: &AtomicU8) -> [Latencies; 2] {
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
