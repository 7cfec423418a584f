//! Clusters of real processes on real disks, for end-to-end tests.
//!
//! A [`Cluster`] is a volume: directories on this machine's disk, a `brickd` on each, a volume file made by
//! `brickctl volume create`. Bricks are killed, paused and restarted by pid, each on the port it had. Every
//! process writes its log into the cluster's folder; when a test panics, the ends of all logs are printed
//! with it. Dropping a cluster ends every process it started.
//!
//! What it takes for granted: Linux, io_uring and O_DIRECT where the build lies. What it needs to be root
//! for (loop mounts, strace of others) is in [`tools`].

pub mod brick;
pub mod command;
pub mod disk;
pub mod measure;
pub mod nbd;
pub mod pattern;
pub mod process;
pub mod tools;

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use uuid::Uuid;

use self::brick::Brick;
use self::command::{Outcome, brickctl, run, scratch_folder};
use self::nbd::NbdServer;
use self::process::{Process, dump_logs, wait_for};

/// The bricks of a volume, group by group; each data brick or arbiter.
pub type Shape = &'static [&'static [&'static str]];

/// One group of two data bricks and an arbiter.
pub const TWO_AND_ARBITER: Shape = &[&["data", "data", "arbiter"]];
/// One group of three data bricks.
pub const THREE_DATA: Shape = &[&["data", "data", "data"]];
/// One data brick, without replication.
pub const ONE_DATA: Shape = &[&["data"]];
/// Two groups of two data bricks and an arbiter.
pub const TWO_GROUPS: Shape = &[&["data", "data", "arbiter"], &["data", "data", "arbiter"]];

/// Places of the bricks in [`TWO_AND_ARBITER`].
pub const D1: usize = 0;
/// See [`D1`].
pub const D2: usize = 1;
/// See [`D1`].
pub const ARBITER: usize = 2;

/// What differs from one cluster to the other.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its bricks.
    pub shape: Shape,
    /// I/O without a quorum waits this long.
    pub io_timeout: Duration,
    /// A silent brick has failed after this, and an image isn't opened without those that it needs.
    pub brick_timeout: Duration,
    /// A silent client's lease.
    pub lease: Duration,
    /// Where bricks keep their directories, one by one; in the scratch folder if nothing is said.
    pub disks: Vec<Option<PathBuf>>,
    /// Further arguments of `brickd run`, brick by brick.
    pub brick_arguments: Vec<Vec<String>>,
    /// The boot that bricks believe in; the machine's if nothing is said. Needs root.
    pub boot: Option<Uuid>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            shape: TWO_AND_ARBITER,
            io_timeout: Duration::from_secs(30),
            // Machines that run tests stand still for seconds now and then.
            brick_timeout: Duration::from_secs(10),
            lease: Duration::from_secs(3),
            disks: Vec::new(),
            brick_arguments: Vec::new(),
            boot: None,
        }
    }
}

impl Options {
    /// With the `brick_timeout` of a volume if nothing is said.
    pub fn as_shipped() -> Options {
        Options { brick_timeout: Duration::from_secs(4), ..Options::default() }
    }
}

/// A volume of running bricks.
#[derive(Debug)]
pub struct Cluster {
    /// Group after group, in the order of the shape.
    pub bricks: Vec<Brick>,
    volume: PathBuf,
    folder: TempDir,
    /// Short paths: the name of a unix socket has little room.
    sockets: TempDir,
    sockets_made: Cell<u32>,
}

impl Cluster {
    /// Two data bricks and an arbiter.
    pub fn start() -> Cluster {
        Cluster::with(&Options::default())
    }

    /// The same with [`Options::as_shipped`], for benches, and for tests that wait for the timeout.
    pub fn start_as_shipped() -> Cluster {
        Cluster::with(&Options::as_shipped())
    }

    /// Formats and starts the bricks and makes them a volume.
    pub fn with(options: &Options) -> Cluster {
        let mut cluster = Cluster::unmade(options);
        let groups = cluster.group_arguments(options.shape);
        let mut command = brickctl();
        command.args(["volume", "create"]).arg(&cluster.volume).args(&groups);
        run(&mut command).ok();
        cluster.set_option("io_timeout_ms", options.io_timeout.as_millis() as u64);
        cluster.set_option("brick_timeout_ms", options.brick_timeout.as_millis() as u64);
        cluster.bricks.iter_mut().for_each(|brick| assert!(brick.is_running()));
        cluster
    }

    /// Formatted, running bricks that are no volume yet.
    pub fn unmade(options: &Options) -> Cluster {
        let folder = tempfile::tempdir_in(scratch_folder()).expect("a folder for the bricks");
        let logs = folder.path().join("logs");
        fs::create_dir(&logs).expect("a folder for the logs");
        let arguments = ["--lease-ms".to_owned(), options.lease.as_millis().to_string()];
        let roles = options.shape.iter().copied().flatten();
        let bricks = roles.enumerate().map(|(index, role)| {
            let name = format!("brick{index}");
            let parent = options.disks.get(index).and_then(Option::as_deref).unwrap_or(folder.path());
            let more = options.brick_arguments.get(index).cloned().unwrap_or_default();
            let arguments = [arguments.as_slice(), &more].concat();
            Brick::create(&name, role, parent.join(&name), &logs, &arguments, options.boot)
        });
        let bricks = bricks.collect();
        let volume = folder.path().join("volume.toml");
        let sockets = tempfile::tempdir().expect("a folder for the sockets");
        Cluster { bricks, volume, folder, sockets, sockets_made: Cell::new(0) }
    }

    /// Formats and starts another brick, which belongs to nothing yet.
    pub fn spare_brick(&self, name: &str, role: &'static str) -> Brick {
        let arguments = ["--lease-ms".to_owned(), Options::default().lease.as_millis().to_string()];
        Brick::create(name, role, self.path(name), &self.logs(), &arguments, None)
    }

    /// Arguments of `volume create` for these bricks.
    pub fn group_arguments(&self, shape: Shape) -> Vec<String> {
        let mut bricks = self.bricks.iter();
        let mut arguments = Vec::new();
        for group in shape {
            let members = group.iter().map(|role| {
                let brick = bricks.next().expect("a brick of every place of the shape");
                format!("{role}={}", brick.address())
            });
            arguments.extend(["--group".to_owned(), members.collect::<Vec<_>>().join(",")]);
        }
        if shape.iter().all(|group| group.len() == 1) {
            arguments.push("--unreplicated".to_owned());
        }
        arguments
    }

    /// The volume file.
    pub fn volume(&self) -> &Path {
        &self.volume
    }

    /// A path for a file of the test's own.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Where the logs are.
    pub fn logs(&self) -> PathBuf {
        self.path("logs")
    }

    /// Changes a number in the volume file.
    pub fn set_option(&self, key: &str, value: u64) {
        let text = fs::read_to_string(&self.volume).expect("volume create wrote it");
        let changed = text.lines().map(|line| match line.split_once(" = ") {
            Some((name, _)) if name == key => format!("{key} = {value}\n"),
            _ => format!("{line}\n"),
        });
        let changed: String = changed.collect();
        assert!(changed.contains(key), "the volume file has {key}: {text}");
        fs::write(&self.volume, changed).expect("it can be written");
    }

    /// Runs `brickctl -v VOLUME` with these arguments.
    pub fn ctl(&self, arguments: &[&str]) -> Outcome {
        run(brickctl().arg("-v").arg(&self.volume).args(arguments))
    }

    /// Creates an image.
    #[track_caller]
    pub fn create_image(&self, name: &str, size: &str) {
        self.ctl(&["image", "create", name, "--size", size]).ok();
    }

    /// Serves an image over NBD.
    #[track_caller]
    pub fn serve(&self, image: &str) -> NbdServer {
        self.try_serve(image, &[]).unwrap_or_else(|reason| panic!("{reason}"))
    }

    /// Serves an image over NBD, if `brickctl` can; else says why not.
    pub fn try_serve(&self, image: &str, more: &[&str]) -> Result<NbdServer, String> {
        NbdServer::start(&self.volume, image, self.fresh_socket(), &self.logs(), more)
    }

    /// A name for a socket that nobody uses.
    pub fn fresh_socket(&self) -> PathBuf {
        let number = self.sockets_made.get();
        self.sockets_made.set(number + 1);
        self.sockets.path().join(format!("{number}.sock"))
    }

    /// Starts a process that logs beside the others.
    pub fn spawn(&self, command: Command, name: &str) -> Process {
        Process::spawn(command, name, &self.logs())
    }

    /// `heal status --json` of one image.
    #[track_caller]
    pub fn health(&self, image: &str) -> Value {
        let answer = self.ctl(&["heal", "status", image, "--json"]).json();
        answer["images"][0].clone()
    }

    /// Waits until an image has a state.
    #[track_caller]
    pub fn wait_for_state(&self, image: &str, state: &str) -> Value {
        let mut last = Value::Null;
        let found = wait_until(Duration::from_secs(60), || {
            last = self.health(image);
            (last["state"] == state).then(|| last.clone())
        });
        found.unwrap_or_else(|| panic!("{image} doesn't become {state}: {last}"))
    }

    /// `heal run --json` of one image.
    #[track_caller]
    pub fn heal(&self, image: &str) -> Value {
        let answer = self.ctl(&["heal", "run", image, "--json"]).json();
        answer["images"][0].clone()
    }

    /// Exports an image to a new file; returns its path.
    #[track_caller]
    pub fn export(&self, image: &str, file: &str) -> PathBuf {
        let path = self.path(file);
        self.ctl(&["image", "export", image, &path.display().to_string(), "--force"]).ok();
        path
    }

    /// Asserts that D1 and D2 hold the same, twice over: as exported from each pair with the arbiter, and
    /// file by file once all bricks have stopped, which they have afterwards.
    #[track_caller]
    pub fn assert_copies_agree(&mut self, image: &str) {
        self.assert_all_copies_agree(&[image], |_, _| {});
    }

    /// The same for several images; `check` is told the name of each and an export of it.
    #[track_caller]
    pub fn assert_all_copies_agree(&mut self, images: &[&str], mut check: impl FnMut(&str, &Path)) {
        assert_eq!(self.bricks.len(), 3, "for two data bricks and an arbiter");
        let file = |image: &str, side: &str| format!("{image}.{side}.raw");
        self.bricks[D2].stop();
        for image in images {
            self.export(image, &file(image, "left"));
        }
        self.bricks[D2].start();
        self.bricks[D1].stop();
        for image in images {
            let right = self.export(image, &file(image, "right"));
            let same = disk::same_bytes(&self.path(&file(image, "left")), &right);
            assert!(same, "{image}: exports from the two pairs differ");
            check(image, &right);
        }
        self.bricks[D2].stop();
        self.bricks[ARBITER].stop();
        self.assert_same_shards(D1, D2);
    }

    /// Asserts that bricks `left` and `right` hold the same shard files with the same bytes.
    #[track_caller]
    pub fn assert_same_shards(&self, left: usize, right: usize) {
        let (left, right) = (&self.bricks[left].directory, &self.bricks[right].directory);
        let (left_files, right_files) = (shard_files(left), shard_files(right));
        assert_eq!(left_files, right_files, "both have the same shards");
        assert!(!left_files.is_empty(), "there are shards");
        for file in left_files {
            let (left, right) = (shard_data(&left.join(&file)), shard_data(&right.join(&file)));
            assert!(left == right, "the copies of {} differ", file.display());
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            dump_logs(&self.logs());
        }
    }
}

/// Like [`wait_for`], for callers with something better to say when the time is over.
fn wait_until<T>(limit: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let started = std::time::Instant::now();
    let late = limit + Duration::from_secs(60);
    wait_for("a probe", late, || match probe() {
        Some(found) => Some(Some(found)),
        None => (started.elapsed() > limit).then_some(None),
    })
}

/// The data of a shard file, without the page of CRCs behind it: what each brick knows of its blocks may differ.
pub fn shard_data(file: &Path) -> Vec<u8> {
    let mut bytes = fs::read(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    // A power of two, and a page that is far smaller.
    bytes.truncate(1 << bytes.len().ilog2());
    bytes
}

/// The shard files below a brick's directory, sorted.
pub fn shard_files(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(directory.join(&folder)).expect("a readable directory");
        for entry in entries {
            let entry = entry.expect("a readable directory");
            let path = folder.join(entry.file_name());
            if entry.file_type().expect("a file type").is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "shard") {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}
