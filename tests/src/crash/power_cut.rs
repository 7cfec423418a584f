//! The power of the whole rack goes while an image is written at random, and comes back.
//!
//! The image is fully written and flushed, then overwritten in blocks of 4 KiB, 32 at once, with a flush now
//! and then. In one moment the NBD server, all bricks and all disks are killed. The disks come back with
//! what they had kept, the bricks with another boot id (a file in front of the kernel's, in a mount namespace of
//! each brick's own), so everybody has to believe that the machines were rebooted. Then it is measured
//! what recovery takes, and checked that flushed blocks are there and the copies equal.

use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::healing::{Healed, healed_by};
use super::load::{Findings, Load, Plan};
use super::oracle::Flushes;
use super::power_disk::{Cache, PowerDisk};
use crate::cluster::disk::FileSystem;
use crate::cluster::nbd::NbdServer;
use crate::cluster::pattern::BLOCK_BYTES;
use crate::cluster::{Cluster, D1, D2, Options, shard_files};

const IMAGE: &str = "vm";
/// Connections of the load, and requests in flight on each: 32 together.
const WORKERS: usize = 4;
/// See [`WORKERS`].
const DEPTH: usize = 8;
/// What a file system and a brick need beside the image.
const SPARE_MIB: u64 = 512;

/// How it is done.
#[derive(Clone, Debug)]
pub struct Setup {
    /// File system of the disks.
    pub file_system: FileSystem,
    /// What a cut does to the caches of the disks of D1, D2 and the arbiter.
    pub caches: [Cache; 3],
    /// Size of the image.
    pub size_mib: u64,
    /// How long it is written before the cut.
    pub load: Duration,
    /// Of a thousand requests, flushes.
    pub flushes_per_mille: u64,
    /// Where the load draws its numbers from.
    pub seed: u64,
    /// Folder for the disks.
    pub scratch: PathBuf,
}

/// What it took.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Blocks of the image.
    pub image_blocks: u64,
    /// Requests that were answered before the cut.
    pub requests: u64,
    /// Blocks that the two copies differed in after the cut, as files.
    pub differing_blocks: u64,
    /// Blocks whose acknowledged, unflushed writes were gone.
    pub undone_blocks: u64,
    /// What heal and recovery compared and moved.
    pub healed: Healed,
    /// From the start of the first brick until all run.
    pub bricks_up: Duration,
    /// From then until the image was served.
    pub served: Duration,
    /// From then until both copies were good.
    pub healthy: Duration,
    /// Wrong answers.
    pub findings: Findings,
}

/// Does it once.
pub fn run(setup: &Setup) -> Figures {
    let mut rack = Rack::build(setup);
    let load = rack.fill_and_load(setup);
    let mut figures = Figures { image_blocks: setup.size_mib * 256, ..Figures::default() };
    rack.cut_power(load);
    figures.requests = rack.load.requests();
    rack.load.cut_power();
    rack.power_up();
    let bricks = &rack.cluster.bricks;
    figures.differing_blocks = differing_blocks(&bricks[D1].directory, &bricks[D2].directory);
    println!("the copies differ in {} blocks", figures.differing_blocks);
    rack.recover(&mut figures);
    figures.undone_blocks = rack.load.undone_blocks();
    figures.findings = rack.load.findings();
    figures
}

#[derive(Debug)]
struct Rack {
    // Bricks end before the disks below them are unmounted.
    cluster: Cluster,
    load: Load,
    disks: Vec<PowerDisk>,
}

impl Rack {
    fn build(setup: &Setup) -> Rack {
        let size_mib = |index| if index == 2 { SPARE_MIB } else { setup.size_mib + SPARE_MIB };
        let disk = |index| {
            PowerDisk::create(&setup.scratch, setup.file_system, size_mib(index), setup.caches[index])
        };
        let disks: Vec<PowerDisk> = (0..3).map(disk).collect();
        let options = Options {
            disks: disks.iter().map(|disk| Some(disk.path())).collect(),
            boot: Some(uuid::Uuid::new_v4()),
            ..Options::as_shipped()
        };
        let extent_blocks = 16;
        let plan = Plan {
            image: 1,
            extents: (0..setup.size_mib * 256).step_by(extent_blocks).collect(),
            extent_blocks,
            workers: WORKERS,
            depth: DEPTH,
            write_blocks_max: 1,
            reads_per_mille: 0,
            flushes_per_mille: setup.flushes_per_mille,
            verify_on_open: false,
            flushes: Flushes::Kept,
            seed: setup.seed,
        };
        Rack { cluster: Cluster::with(&options), load: Load::start(plan), disks }
    }

    fn fill_and_load(&self, setup: &Setup) -> NbdServer {
        self.cluster.create_image(IMAGE, &format!("{}M", setup.size_mib));
        let server = self.cluster.serve(IMAGE);
        let began = Instant::now();
        self.load.fill(server.socket()).expect("written and flushed");
        println!("{} MiB written and flushed in {:.1} s", setup.size_mib, began.elapsed().as_secs_f64());
        self.load.attach(server.socket());
        thread::sleep(setup.load);
        self.load.wait_for_progress();
        server
    }

    /// Processes first, by a fraction of a millisecond: none of them sees a disk fail.
    fn cut_power(&mut self, mut server: NbdServer) {
        self.load.detach();
        server.process().signal(Signal::SIGKILL);
        self.cluster.bricks.iter_mut().for_each(|brick| brick.process().signal(Signal::SIGKILL));
        self.disks.iter().for_each(PowerDisk::cut_power);
        println!("power cut after {} requests", self.load.requests());
        server.kill();
        self.cluster.bricks.iter_mut().for_each(|brick| brick.kill());
        self.load.stop();
    }

    fn power_up(&mut self) {
        self.disks.iter_mut().for_each(PowerDisk::power_up);
        let boot = uuid::Uuid::new_v4();
        self.cluster.bricks.iter_mut().for_each(|brick| brick.set_boot(boot));
    }

    fn recover(&mut self, figures: &mut Figures) {
        let began = Instant::now();
        self.cluster.bricks.iter_mut().for_each(|brick| brick.start());
        figures.bricks_up = began.elapsed();
        let began = Instant::now();
        let served = self.cluster.try_serve(IMAGE, &["--takeover"]);
        let server = served.unwrap_or_else(|reason| panic!("it isn't served again: {reason}"));
        figures.served = began.elapsed();
        self.cluster.wait_for_state(IMAGE, "healthy");
        figures.healthy = began.elapsed();
        let addresses: Vec<String> = self.cluster.bricks.iter().map(|brick| brick.address()).collect();
        figures.healed = healed_by(self.cluster.volume(), &addresses);
        self.load.check_server(server.socket());
        server.close();
        let load = &self.load;
        self.cluster.assert_all_copies_agree(&[IMAGE], |_, export| load.check_file(export));
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = Duration::as_secs_f64;
        let Figures { healed, .. } = self;
        writeln!(f, "  {:<38} {:>13}", "blocks of the image", self.image_blocks)?;
        writeln!(f, "  {:<38} {:>13}", "requests before the cut", self.requests)?;
        writeln!(f, "  {:<38} {:>13}", "unflushed blocks that the cut undid", self.undone_blocks)?;
        writeln!(f, "  {:<38} {:>13}", "blocks that the copies differed in", self.differing_blocks)?;
        writeln!(f, "  {:<38} {:>13}", "blocks compared", healed.compared_blocks)?;
        writeln!(f, "  {:<38} {:>13}", "blocks copied", healed.copied_blocks)?;
        writeln!(f, "  {:<38} {:>13}", "bytes copied", healed.copied_blocks * BLOCK_BYTES as u64)?;
        writeln!(f, "  {:<38} {:>13}", "bytes on the wire for that", healed.wire_bytes)?;
        writeln!(f, "  {:<38} {:>11.3} s", "until all bricks were up", seconds(&self.bricks_up))?;
        writeln!(f, "  {:<38} {:>11.3} s", "from then until served", seconds(&self.served))?;
        writeln!(f, "  {:<38} {:>11.3} s", "from then until both copies were good", seconds(&self.healthy))?;
        writeln!(f, "  {:<38} {:>13}", "mismatches", self.findings.mismatches)?;
        write!(f, "  {:<38} {:>13}", "wrong refusals", self.findings.refusals)
    }
}

impl Figures {
    /// What must not be; empty if all is well.
    pub fn violations(&self) -> Vec<String> {
        let mut violations = self.findings.texts.clone();
        if self.healed.copied_blocks > self.differing_blocks {
            let Figures { healed, differing_blocks, .. } = self;
            violations.push(format!(
                "{} blocks were copied, though only {differing_blocks} differed",
                healed.copied_blocks
            ));
        }
        violations
    }

    /// One line of JSON.
    pub fn json(&self, setup: &Setup) -> Value {
        json!({
            "disk": setup.file_system.to_string(),
            "caches": setup.caches.map(|cache| cache.to_string()),
            "seed": setup.seed,
            "image_blocks": self.image_blocks,
            "requests": self.requests,
            "undone_blocks": self.undone_blocks,
            "differing_blocks": self.differing_blocks,
            "compared_blocks": self.healed.compared_blocks,
            "copied_blocks": self.healed.copied_blocks,
            "copied_bytes": self.healed.copied_blocks * BLOCK_BYTES as u64,
            "wire_bytes": self.healed.wire_bytes,
            "bricks_up_ms": self.bricks_up.as_millis() as u64,
            "served_ms": self.served.as_millis() as u64,
            "healthy_ms": self.healthy.as_millis() as u64,
            "mismatches": self.findings.mismatches,
            "wrong_refusals": self.findings.refusals,
            "violations": self.violations(),
        })
    }
}

/// Blocks in which the shard files below two folders differ; a file that isn't there has zeros.
fn differing_blocks(left: &Path, right: &Path) -> u64 {
    let mut files = shard_files(left);
    files.extend(shard_files(right));
    files.sort();
    files.dedup();
    files.iter().map(|file| differing_blocks_of(&left.join(file), &right.join(file))).sum()
}

fn differing_blocks_of(left: &Path, right: &Path) -> u64 {
    let (left, right) = (File::open(left).ok(), File::open(right).ok());
    // Without the page of CRCs behind the data, whose length is a power of two.
    let length = |file: &Option<File>| {
        let bytes = file.as_ref().map_or(0, |file| file.metadata().expect("metadata of an open file").len());
        bytes.checked_ilog2().map_or(0, |shift| 1 << shift)
    };
    let blocks = length(&left).max(length(&right)) / BLOCK_BYTES as u64;
    let read = |file: &Option<File>, block: u64| {
        let mut bytes = [0; BLOCK_BYTES];
        if let Some(file) = file {
            // What lies beyond its end has zeros as well.
            let _nothing = file.read_exact_at(&mut bytes, block * BLOCK_BYTES as u64);
        }
        bytes
    };
    (0..blocks).filter(|block| read(&left, *block) != read(&right, *block)).count() as u64
}
