//! What the loads are put on: a file of this disk, two at once, an image on one brick without replication, a replicated
//! image in the process of the load and over NBD, and peers.
//!
//! Each target has data of its own, written whole before anything is measured. A run is a process of its own, `fio` or
//! `brick-perf`; processor time and context switches are those of all processes that belong to brick.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;

use super::case::{self, Case};
use super::run::{Run, Runner};
use super::sample::Sample;
use crate::cluster::measure::{context_switches, cpu_us};
use crate::cluster::nbd::NbdServer;
use crate::cluster::process::{Process, wait_for};
use crate::cluster::{Cluster, ONE_DATA, Options, TWO_AND_ARBITER};

/// A target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// One file on the disk.
    Raw,
    /// Two files on the disk, by two jobs at the same time: what a replicated write costs at least.
    RawPair,
    /// An image on one brick, in the process of the load: what lies between it and the next is replication.
    Brick,
    /// A replicated image, in the process of the load.
    Volume,
    /// A replicated image over NBD.
    Nbd,
    /// QEMU's storage daemon over NBD, on a file, without replication.
    Qemu,
    /// GlusterFS through its library.
    GlusterLibrary,
    /// GlusterFS mounted.
    GlusterMount,
}

impl Target {
    /// Its column.
    pub fn name(self) -> &'static str {
        match self {
            Target::Raw => "raw file",
            Target::RawPair => "two raw files",
            Target::Brick => "one brick",
            Target::Volume => "brick, in process",
            Target::Nbd => "brick, NBD",
            Target::Qemu => "QEMU, NBD, 1 copy",
            Target::GlusterLibrary => "GlusterFS, gfapi",
            Target::GlusterMount => "GlusterFS, FUSE",
        }
    }
}

/// How the targets are set up.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Size of each target's data.
    pub size_mib: u64,
    /// How long a run takes.
    pub runtime: Duration,
    /// How long bricks look for work before they sleep, if not as long as usual.
    pub brick_spin_us: Option<u64>,
    /// The same for clients.
    pub client_spin_us: Option<u64>,
    /// The network namespace, volume and mount point of a running GlusterFS.
    pub gluster: Option<(String, String, PathBuf)>,
}

/// All targets, ready.
#[derive(Debug)]
pub struct Targets {
    setup: Setup,
    cluster: Cluster,
    runner: Runner,
    /// A volume of one brick.
    single: Cluster,
    single_runner: Runner,
    server: NbdServer,
    qemu: Option<Process>,
}

/// The image that is opened by each run.
const IMAGE: &str = "process";
/// The image that is served over NBD.
const SERVED: &str = "served";

impl Targets {
    /// Starts everything and writes all data once.
    pub fn start(setup: Setup) -> Targets {
        // A core for each data brick, as if they had a machine each; the arbiter goes with one of them.
        let arguments = |cores: &str| {
            let spin = setup.brick_spin_us.iter().flat_map(|spin| ["--spin-us".to_owned(), spin.to_string()]);
            ["--cores".to_owned(), cores.to_owned()].into_iter().chain(spin).collect()
        };
        let start = |shape, brick_arguments| {
            let cluster = Cluster::with(&Options { shape, brick_arguments, ..Options::as_shipped() });
            if let Some(spin) = setup.client_spin_us {
                cluster.set_option("spin_us", spin);
            }
            cluster
        };
        let cluster = start(TWO_AND_ARBITER, vec![arguments("0,"), arguments("1,"), arguments("0,")]);
        let single = start(ONE_DATA, vec![arguments("0,")]);
        let size = format!("{}M", setup.size_mib);
        cluster.create_image(IMAGE, &size);
        cluster.create_image(SERVED, &size);
        single.create_image(IMAGE, &size);
        let server = cluster.serve(SERVED);
        let (runner, single_runner) = (Runner::of(&cluster), Runner::of(&single));
        let mut targets = Targets { setup, cluster, runner, single, single_runner, server, qemu: None };
        targets.qemu = targets.start_qemu();
        for target in targets.all() {
            targets.execute(target, case::FILL, None);
        }
        targets
    }

    /// What can be measured here.
    pub fn all(&self) -> Vec<Target> {
        let mut targets = vec![Target::Raw, Target::RawPair, Target::Brick, Target::Volume, Target::Nbd];
        targets.extend(self.qemu.iter().map(|_| Target::Qemu));
        if self.setup.gluster.is_some() {
            targets.extend([Target::GlusterLibrary, Target::GlusterMount]);
        }
        targets
    }

    /// One run.
    pub fn run(&mut self, target: Target, case: Case) -> Sample {
        let before = self.spent(target);
        let mut sample = self.execute(target, case, Some(self.setup.runtime));
        if matches!(target, Target::Brick | Target::Volume | Target::Nbd) {
            let after = self.spent(target);
            let (own_us, own_switches) = sample.own.unwrap_or_default();
            let requests = sample.figures.requests.max(1.0);
            sample.figures.cpu_us = Some((after.0 - before.0 + own_us) / requests);
            sample.figures.switches = Some((after.1 - before.1 + own_switches) / requests);
        }
        sample.figures
    }

    /// Processor time (microseconds) and context switches so far, of the bricks of the target's volume and, if it is the
    /// replicated one, of its NBD server.
    fn spent(&mut self, target: Target) -> (f64, f64) {
        let (cluster, server) = match target {
            Target::Brick => (&mut self.single, None),
            _ => (&mut self.cluster, Some(&mut self.server)),
        };
        let mut pids: Vec<u32> = cluster.bricks.iter_mut().map(|brick| brick.process().pid()).collect();
        pids.extend(server.map(|server| server.process().pid()));
        let cpu_us = pids.iter().map(|pid| cpu_us(*pid)).sum();
        let switches: u64 = pids.iter().map(|pid| context_switches(*pid)).sum();
        (cpu_us, switches as f64)
    }

    /// Runs the case; whole data once if no time is given.
    fn execute(&self, target: Target, case: Case, runtime: Option<Duration>) -> Run {
        let file = |name: &str| format!("ioengine=raw\nfilename={}\n", self.file(name).display());
        let runner = &self.runner;
        let job = |engine: &str| case.job(engine, self.setup.size_mib, runtime);
        let perf = |engine: &str, name: &str| runner.perf(&job(engine), name);
        let fio = |engine: &str, name: &str| runner.fio(&job(engine), name, None);
        match target {
            Target::Raw => perf(&file("raw-1"), "raw-1"),
            Target::RawPair => {
                let second = job(&file("raw-2"));
                let (one, other) = thread::scope(|scope| {
                    let other = scope.spawn(move || runner.perf(&second, "raw-2"));
                    (perf(&file("raw-1"), "raw-1"), other.join().expect("a run doesn't panic"))
                });
                Run { figures: Sample::together(one.figures, other.figures), own: None }
            }
            Target::Brick => {
                let engine = format!("ioengine=brick\nimage={IMAGE}\n");
                self.single_runner.perf(&job(&engine), "brick")
            }
            Target::Volume => perf(&format!("ioengine=volume\nimage={IMAGE}\n"), "volume"),
            Target::Nbd => fio(&format!("ioengine=nbd\nuri={}\n", self.server.uri()), "nbd"),
            Target::Qemu => fio(&format!("ioengine=nbd\nuri={}\n", self.qemu_uri()), "qemu"),
            Target::GlusterLibrary => {
                let (namespace, volume, _) = self.setup.gluster.as_ref().expect("or it isn't a target");
                let engine = format!(
                    "ioengine=gfapi_async\nvolume={volume}\nbrick={GLUSTER_ADDRESS}\nfilename=library\n"
                );
                runner.fio(&job(&engine), "gfapi", Some(namespace))
            }
            Target::GlusterMount => {
                let (_, _, mounted) = self.setup.gluster.as_ref().expect("or it isn't a target");
                let path = mounted.join("mounted");
                fio(&format!("ioengine=io_uring\nfilename={}\n", path.display()), "fuse")
            }
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.cluster.path(name)
    }

    fn start_qemu(&self) -> Option<Process> {
        let file = self.file("qemu.raw");
        fs::File::create(&file).and_then(|file| file.set_len(self.setup.size_mib << 20)).expect("a file");
        let mut command = Command::new(QEMU);
        command.arg("--version");
        command.output().ok()?;
        let mut command = Command::new(QEMU);
        let node =
            format!("driver=file,filename={},aio=io_uring,cache.direct=on,node-name=disk", file.display());
        command.args(["--blockdev", &node]);
        command.args(["--nbd-server", &format!("addr.type=unix,addr.path={}", self.qemu_socket().display())]);
        command.args(["--export", "type=nbd,id=disk,node-name=disk,writable=on"]);
        let process = self.cluster.spawn(command, "qemu");
        wait_for("the storage daemon listens", Duration::from_secs(20), || {
            self.qemu_socket().exists().then_some(())
        });
        Some(process)
    }

    fn qemu_socket(&self) -> PathBuf {
        self.server.socket().with_file_name("qemu.sock")
    }

    fn qemu_uri(&self) -> String {
        format!("nbd+unix:///disk?socket={}", self.qemu_socket().display())
    }
}

const QEMU: &str = "qemu-storage-daemon";
/// Where the bench's GlusterFS listens in its namespace.
const GLUSTER_ADDRESS: &str = "10.77.0.1";
