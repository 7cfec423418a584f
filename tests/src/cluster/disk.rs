//! Files and small disks: comparison of large files, and file systems on loop devices.

use std::fmt;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::command::{run, scratch_folder};
use super::tools;

/// Whether two files have the same bytes.
pub fn same_bytes(left: &Path, right: &Path) -> bool {
    const CHUNK_BYTES: usize = 1 << 20;
    let open = |path: &Path| File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let (left, right) = (open(left), open(right));
    let length = |file: &File| file.metadata().expect("metadata of an open file").len();
    if length(&left) != length(&right) {
        return false;
    }
    let chunk = |file: &File| {
        let mut bytes = Vec::with_capacity(CHUNK_BYTES);
        file.take(CHUNK_BYTES as u64).read_to_end(&mut bytes).expect("a readable file");
        bytes
    };
    loop {
        let (left_chunk, right_chunk) = (chunk(&left), chunk(&right));
        if left_chunk != right_chunk {
            return false;
        }
        if left_chunk.is_empty() {
            return true;
        }
    }
}

/// File systems that bricks are used on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileSystem {
    /// With a journal.
    Ext4,
    /// Which has one always.
    Xfs,
}

impl FileSystem {
    /// Makes one in a file, or on a device.
    pub fn make(self, place: &Path) {
        let mut command = match self {
            FileSystem::Ext4 => Command::new("mkfs.ext4"),
            FileSystem::Xfs => Command::new("mkfs.xfs"),
        };
        match self {
            FileSystem::Ext4 => command.args(["-q", "-m", "0", "-F", "-O", "has_journal"]),
            FileSystem::Xfs => command.args(["-q", "-f"]),
        };
        run(command.arg(place)).ok();
    }
}

impl fmt::Display for FileSystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FileSystem::Ext4 => "ext4",
            FileSystem::Xfs => "xfs",
        })
    }
}

/// A small file system of its own, unmounted when dropped.
#[derive(Debug)]
pub struct SmallDisk {
    folder: tempfile::TempDir,
}

impl SmallDisk {
    /// Makes and mounts an ext4. `None`, with the reason printed, where that isn't allowed.
    pub fn mount(size: &str) -> Option<SmallDisk> {
        SmallDisk::mount_a(FileSystem::Ext4, size)
    }

    /// Makes and mounts one. `None`, with the reason printed, where that isn't allowed.
    pub fn mount_a(kind: FileSystem, size: &str) -> Option<SmallDisk> {
        let mkfs = format!("mkfs.{kind}");
        if !tools::have(&[&mkfs, "mount", "umount", "truncate"]) || !tools::is_root("loop mounts") {
            return None;
        }
        let folder = tempfile::tempdir_in(scratch_folder()).expect("a folder for the disk");
        let image = folder.path().join("disk.img");
        let mount_point = folder.path().join("mnt");
        fs::create_dir(&mount_point).expect("a mount point");
        run(Command::new("truncate").args(["-s", size]).arg(&image)).ok();
        kind.make(&image);
        let mounted = run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&mount_point));
        if !mounted.status.success() {
            tools::skip(&format!("loop mounts: {}", mounted.stderr.trim()));
            return None;
        }
        Some(SmallDisk { folder })
    }

    /// Where its files are.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("mnt")
    }

    /// Fills it up, but for `left_bytes`; what fills it is removed by [`SmallDisk::make_room`].
    pub fn fill(&self, left_bytes: u64) {
        let length = free_bytes(&self.path()).saturating_sub(left_bytes).to_string();
        run(Command::new("fallocate").args(["-l", &length]).arg(self.ballast())).ok();
    }

    /// Removes what fills it.
    pub fn make_room(&self) {
        fs::remove_file(self.ballast()).expect("it was filled");
    }

    fn ballast(&self) -> PathBuf {
        self.path().join("ballast")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = run(Command::new("umount").arg(self.path()));
        if !unmounted.status.success() {
            println!("{} stays mounted: {}", self.path().display(), unmounted.stderr.trim());
        }
    }
}

/// What the file system of `path` has left, bytes.
pub fn free_bytes(path: &Path) -> u64 {
    let statistics = nix::sys::statvfs::statvfs(path).expect("a mounted file system");
    statistics.blocks_available() * statistics.fragment_size()
}
