//! A disk whose power can be cut: what was written to it and not flushed is gone then.
//!
//! The disk is a file that nbdkit serves with a write-back cache of its own; a flush empties the cache into the
//! file. FUSE makes it a file again, a loop device makes that a block device, and a file system lies on it.
//! SIGKILL to nbdkit is the power cut: in one moment the cache is lost and nothing more reaches the file,
//! whatever the kernel still wanted to write. When power is back, the file system replays its journal.
//!
//! Needs root, nbdkit and nbdfuse.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::cluster::command::run;
use crate::cluster::disk::FileSystem;
use crate::cluster::process::{Process, wait_for};

/// Longest time until a process of the disk is there, or a mount is free.
const LIMIT: Duration = Duration::from_secs(60);

/// What a power cut does to writes that were completed and not flushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cache {
    /// They are lost, as in a drive with a volatile cache.
    Volatile,
    /// They stay, as in a drive that can finish them by the charge of its capacitors.
    Protected,
}

impl fmt::Display for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Cache::Volatile => "volatile",
            Cache::Protected => "protected",
        })
    }
}

/// A disk with a mounted file system.
#[derive(Debug)]
pub struct PowerDisk {
    cache: Cache,
    folder: TempDir,
    /// Short paths: the name of a unix socket has little room.
    sockets: TempDir,
    processes: Option<Processes>,
}

#[derive(Debug)]
struct Processes {
    nbdkit: Process,
    // Held for its end: it ends by itself when its mount is gone.
    _nbdfuse: Process,
}

impl PowerDisk {
    /// Makes a file system of `size_mib` and mounts it, with everything below `parent`.
    pub fn create(parent: &Path, kind: FileSystem, size_mib: u64, cache: Cache) -> PowerDisk {
        let folder = tempfile::tempdir_in(parent).expect("a folder for the disk");
        let sockets = tempfile::tempdir().expect("a folder for the socket");
        for name in ["device", "mnt", "logs"] {
            fs::create_dir(folder.path().join(name)).expect("a folder in it");
        }
        let mut disk = PowerDisk { cache, folder, sockets, processes: None };
        run(Command::new("truncate").args(["-s", &format!("{size_mib}M")]).arg(disk.backing())).ok();
        kind.make(&disk.backing());
        disk.power_up();
        disk
    }

    /// Where its files are.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("mnt")
    }

    /// In this moment the disk stops. What uses it should be dead already.
    pub fn cut_power(&self) {
        self.processes.as_ref().expect("it has power").nbdkit.signal(Signal::SIGKILL);
    }

    /// Power is back: what the disk kept is mounted again.
    pub fn power_up(&mut self) {
        self.forget();
        let logs = self.folder.path().join("logs");
        let socket = self.sockets.path().join("disk");
        // A server that was killed leaves it behind.
        let _not_there_at_first = fs::remove_file(&socket);
        let mut nbdkit = Command::new("nbdkit");
        nbdkit.args(["--foreground", "--unix"]).arg(&socket).env("TMPDIR", self.folder.path());
        match self.cache {
            Cache::Volatile => {
                nbdkit.arg("--filter=cache").arg("file").arg(self.backing()).arg("cache=writeback")
            }
            Cache::Protected => nbdkit.arg("file").arg(self.backing()),
        };
        let nbdkit = Process::spawn(nbdkit, "nbdkit", &logs);
        wait_for("nbdkit listens", LIMIT, || socket.exists().then_some(()));
        let mut nbdfuse = Command::new("nbdfuse");
        nbdfuse.arg(self.device()).arg(format!("nbd+unix:///?socket={}", socket.display()));
        let nbdfuse = Process::spawn(nbdfuse, "nbdfuse", &logs);
        wait_for("nbdfuse shows the disk", LIMIT, || {
            fs::metadata(self.device()).is_ok_and(|file| file.len() > 0).then_some(())
        });
        self.processes = Some(Processes { nbdkit, _nbdfuse: nbdfuse });
        run(Command::new("mount").args(["-o", "loop"]).arg(self.device()).arg(self.path())).ok();
    }

    fn backing(&self) -> PathBuf {
        self.folder.path().join("disk.img")
    }

    fn device(&self) -> PathBuf {
        self.folder.path().join("device").join("disk")
    }

    /// Unmounts what is left of the last time that it had power.
    fn forget(&mut self) {
        if self.processes.is_some() {
            // The kernel may still be failing what it wanted to write.
            for place in [self.path(), self.folder.path().join("device")] {
                wait_for(&format!("{} is free", place.display()), LIMIT, || unmount(&place).then_some(()));
            }
            self.processes = None;
        }
    }
}

impl Drop for PowerDisk {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.forget();
        } else if self.processes.is_some() {
            // Bricks may still be running; whatever uses it keeps it until it ends.
            for place in [self.path(), self.folder.path().join("device")] {
                run(Command::new("umount").arg("--lazy").arg(&place));
            }
        }
    }
}

fn unmount(place: &Path) -> bool {
    run(Command::new("umount").arg(place)).status.success()
}
