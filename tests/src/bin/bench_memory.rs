//! What a brick's memory comes to under many clients: each has an image open and keeps many requests in flight.
//!
//! The clients are sessions of one process and one thread: what they take for themselves isn't the question. Ends with an
//! error if any brick ever needed more than it may.

use std::cell::Cell;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use brick_client::{Image, ImageName, OpenOptions, Volume, VolumeConfig, start_runtime};
use brick_tests::cluster::Cluster;
use brick_tests::cluster::measure::memory_bytes;
use brick_tests::cluster::pattern::Sequence;
use bytes::Bytes;
use clap::Parser;

/// Puts two data bricks and an arbiter under a mixed load of many clients, and watches their memory.
///
/// Example: brick-bench-memory --seconds 600
#[derive(Debug, Parser)]
struct Arguments {
    /// Clients, each with an image of its own
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=512))]
    clients: u64,
    /// Requests that each keeps in flight
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u64).range(1..=1024))]
    depth: u64,
    /// Size of a request, KiB
    #[arg(long, default_value_t = 4, value_parser = whole_blocks)]
    request_kib: u64,
    /// How long
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u64).range(10..))]
    seconds: u64,
    /// Reads of a hundred requests; the others are writes
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(0..=100))]
    read_percent: u64,
    /// What a brick may need, MiB
    #[arg(long, default_value_t = 150)]
    limit_mib: u64,
}

const MIB: u64 = 1 << 20;
/// For all clients together.
const RING_ENTRIES: u32 = 32 * 1024;
/// Size of each client's image.
const IMAGE_BYTES: u64 = 16 * MIB;
/// Between two lines.
const REPORT_EVERY: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut cluster = Cluster::start_as_shipped();
    let names: Vec<String> = (0..arguments.clients).map(|client| format!("client-{client}")).collect();
    for name in &names {
        cluster.create_image(name, &format!("{IMAGE_BYTES}"));
    }
    let pids: Vec<u32> = cluster.bricks.iter_mut().map(|brick| brick.process().pid()).collect();
    let config = VolumeConfig::load(cluster.volume()).expect("the cluster's volume file");
    let mut runtime = start_runtime(RING_ENTRIES).expect("a runtime for the clients");
    let highest = runtime.block_on(async {
        let mut images = Vec::new();
        for name in &names {
            let volume = Volume::new(config.clone(), name);
            let name: ImageName = name.parse().expect("a name");
            images.push(volume.open_image(&name, OpenOptions::default()).await.expect("opened"));
        }
        let highest = load(&arguments, &images, &pids).await;
        for image in images {
            image.close().await.expect("closed");
        }
        highest
    });
    let limit_bytes = arguments.limit_mib * MIB;
    println!("highest: {} MiB; allowed: {} MiB", highest.div_ceil(MIB), arguments.limit_mib);
    if highest > limit_bytes { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn whole_blocks(text: &str) -> Result<u64, String> {
    let kibibytes = text.parse().ok().filter(|size| (4..=1024).contains(size) && size % 4 == 0);
    kibibytes.ok_or_else(|| "a multiple of 4, at most 1024".to_owned())
}

/// Runs the load; the most bytes that any brick ever had in memory.
async fn load(arguments: &Arguments, images: &[Image], pids: &[u32]) -> u64 {
    let (over, done) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(0u64)));
    let mut users = Vec::new();
    for (client, image) in images.iter().enumerate() {
        for user in 0..arguments.depth {
            let sequence = Sequence::new(client as u64 * 10_000 + user);
            let (image, over, done) = (image.clone(), over.clone(), done.clone());
            let (bytes, read_percent) = (arguments.request_kib as usize * 1024, arguments.read_percent);
            users.push(monoio::spawn(async move {
                use_image(&image, sequence, bytes, read_percent, (&over, &done)).await;
            }));
        }
    }
    let begun = Instant::now();
    let (mut before, mut since) = (0, begun);
    let mut highest = 0;
    while begun.elapsed() < Duration::from_secs(arguments.seconds) {
        monoio::time::sleep(REPORT_EVERY).await;
        let memory: Vec<_> = pids.iter().map(|pid| memory_bytes(*pid)).collect();
        let requests = done.get();
        let of_bricks: Vec<String> = memory.iter().map(|memory| format!("{}", memory.now / MIB)).collect();
        println!(
            "{:5} s  {:6.0} requests/s  MiB of the bricks: {}",
            begun.elapsed().as_secs(),
            (requests - before) as f64 / since.elapsed().as_secs_f64(),
            of_bricks.join(", ")
        );
        (before, since) = (requests, Instant::now());
        highest = memory.iter().map(|memory| memory.highest).max().expect("there are bricks").max(highest);
    }
    over.set(true);
    for user in users {
        user.await;
    }
    highest
}

async fn use_image(
    image: &Image,
    mut sequence: Sequence,
    bytes: usize,
    read_percent: u64,
    (over, done): (&Cell<bool>, &Cell<u64>),
) {
    let places = IMAGE_BYTES / bytes as u64;
    let block: Vec<u8> = (0..bytes / 8).flat_map(|_| sequence.draw().to_le_bytes()).collect();
    let block = Bytes::from(block);
    while !over.get() {
        let offset_bytes = sequence.draw() % places * bytes as u64;
        if sequence.draw() % 100 < read_percent {
            image.read_at(offset_bytes, bytes).await.expect("read");
        } else {
            image.write_at(offset_bytes, block.clone(), false).await.expect("written");
        }
        done.set(done.get() + 1);
    }
}
