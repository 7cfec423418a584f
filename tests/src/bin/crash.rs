//! Kills real processes for as long as is asked, or the power of a whole rack once, and says what came of it.
//! `scripts/crash` and `scripts/power-cut` run this with everything that it needs, and clean up after it even
//! when it ends by a panic.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::OnceLock;
use std::time::Duration;

use brick_tests::cluster::command::scratch_folder;
use brick_tests::cluster::disk::{FileSystem, SmallDisk};
use brick_tests::cluster::process::dump_logs;
use brick_tests::cluster::{ARBITER, D1, D2};
use brick_tests::crash::campaign::{Campaign, Setup};
use brick_tests::crash::power_cut;
use brick_tests::crash::power_disk::Cache;
use brick_tests::crash::schedule::{Absence, Event};
use clap::{Args, Parser, Subcommand, ValueEnum};

/// Crashes real processes under verifying loads.
///
/// Example: brick-crash kills --kills 200 --seed 4711
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Kills bricks, NBD servers and all of them, as a seed says
    Kills(KillsArguments),
    /// Cuts the power of all bricks and their disks, once
    PowerCut(PowerCutArguments),
}

#[derive(Debug, Args)]
struct KillsArguments {
    /// What the bricks' directories lie on
    #[arg(long, value_enum, default_value = "host")]
    fs: Disk,
    /// Stop after this many kills
    #[arg(long, default_value_t = 200)]
    kills: u64,
    /// Stop after this time, even without so many kills
    #[arg(long, default_value_t = 30)]
    minutes: u64,
    /// Says which kills, in which order; the default is drawn
    #[arg(long, default_value_t = drawn_seed())]
    seed: u64,
    /// Drop packets, too, by rules for this process's whole network namespace
    #[arg(long)]
    cut_off: bool,
}

#[derive(Debug, Args)]
struct PowerCutArguments {
    /// File system of the disks
    #[arg(long, value_enum, default_value = "ext4")]
    fs: Disk,
    /// What the disks do with what was written and not flushed
    #[arg(long, value_enum, default_value = "mixed")]
    caches: Caches,
    /// Size of the image, in MiB
    #[arg(long, default_value_t = 1024)]
    size: u64,
    /// How long the image is written before the cut
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Of a thousand requests, flushes
    #[arg(long, default_value_t = 2)]
    flushes: u64,
    /// Says what is written in which order; the default is drawn
    #[arg(long, default_value_t = drawn_seed())]
    seed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Disk {
    /// Wherever the build lies
    Host,
    /// Journaled ext4 on a loop device for each brick
    Ext4,
    /// XFS on a loop device for each brick
    Xfs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Caches {
    /// They lose it, as those with a volatile cache do
    Volatile,
    /// They keep it, as those with capacitors do
    Protected,
    /// The disk of the first data brick loses it, the others keep it
    Mixed,
}

/// Logs of the running cluster, for the panic hook.
static LOGS: OnceLock<PathBuf> = OnceLock::new();

fn main() -> ExitCode {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if let Some(logs) = LOGS.get() {
            dump_logs(logs);
        }
        print(panic);
    }));
    let violations = match Arguments::parse().command {
        Command::Kills(arguments) => kills(&arguments),
        Command::PowerCut(arguments) => cut_power(&arguments),
    };
    violations.iter().for_each(|violation| eprintln!("VIOLATION: {violation}"));
    if violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn kills(arguments: &KillsArguments) -> Vec<String> {
    let KillsArguments { fs, kills, minutes, seed, cut_off } = *arguments;
    let disks = file_system(fs).map_or(Vec::new(), |kind| {
        let disk = |_| SmallDisk::mount_a(kind, "1G").expect("what is asked for must be possible");
        (0..3).map(disk).collect()
    });
    let mut campaign = Campaign::start(Setup {
        seed,
        images: 3,
        fio: true,
        can_cut_off: cut_off,
        disks: disks.iter().map(|disk: &SmallDisk| Some(disk.path())).collect(),
    });
    LOGS.set(campaign.logs()).expect("there is one campaign");
    stall(&mut campaign, cut_off);
    while campaign.tally().kills_total() < kills && campaign.elapsed() < Duration::from_secs(60 * minutes) {
        campaign.step();
    }
    let tally = campaign.finish();
    println!("seed {seed}, bricks on {}:\n{tally}", name(fs));
    println!("{}", tally.json(seed, &name(fs)));
    tally.violations()
}

/// One brick after the other fails, in every way, while all others are well: what does it cost?
fn stall(campaign: &mut Campaign, can_cut_off: bool) {
    for brick in [D1, D2, ARBITER] {
        for away_ms in [0, 100, 1000] {
            let away = Duration::from_millis(away_ms);
            campaign.cause(Event::KillBrick(Absence { brick, away }));
            campaign.wait_until_healthy();
        }
        campaign.cause(Event::PauseBrick(brick));
        if can_cut_off {
            campaign.cause(Event::CutOff(brick));
        }
    }
}

fn cut_power(arguments: &PowerCutArguments) -> Vec<String> {
    let setup = power_cut::Setup {
        file_system: file_system(arguments.fs).unwrap_or(FileSystem::Ext4),
        caches: match arguments.caches {
            Caches::Volatile => [Cache::Volatile; 3],
            Caches::Protected => [Cache::Protected; 3],
            Caches::Mixed => [Cache::Volatile, Cache::Protected, Cache::Protected],
        },
        size_mib: arguments.size,
        load: Duration::from_secs(arguments.seconds),
        flushes_per_mille: arguments.flushes,
        seed: arguments.seed,
        scratch: scratch_folder(),
    };
    let figures = power_cut::run(&setup);
    println!("seed {}, bricks on {}:\n{figures}", setup.seed, setup.file_system);
    println!("{}", figures.json(&setup));
    figures.violations()
}

fn file_system(disk: Disk) -> Option<FileSystem> {
    match disk {
        Disk::Host => None,
        Disk::Ext4 => Some(FileSystem::Ext4),
        Disk::Xfs => Some(FileSystem::Xfs),
    }
}

fn name(disk: Disk) -> String {
    file_system(disk).map_or("host".to_owned(), |kind| kind.to_string())
}

/// Another one each time, and small enough to be typed.
fn drawn_seed() -> u64 {
    uuid::Uuid::new_v4().as_u64_pair().0 % 1_000_000
}
