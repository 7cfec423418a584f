//! The on-disk format of a brick's directory (byte by byte in `FORMAT.md`) and what opens it.
//!
//! - [`superblock`]: identity, start counter, clean flag; two copies, written alternately.
//! - [`register_log`]: the registers, an append-only log of checked records.
//! - [`activity`]: the shards that may be being written, one table per lane, two copies.
//! - [`dirty`]: saved dirty maps, one file per lane, replaced when shards leave the activity log unclean and at
//!   a clean stop.
//! - [`shards`]: where shard files are, and finding those that exist.
//! - [`format`](mod@format): makes a brick out of an empty directory.
//!
//! Crash assumptions: a write that was not followed by fdatasync may be there wholly, partly or not at all;
//! a rename is atomic and durable once its directory was synced. Nothing read from a file is used before
//! its checksum and its bounds were checked; what does not check is refused with a sentence or, where that
//! is safe (dirty maps, the activity log), counted as lost: see `recover`.

pub mod activity;
pub mod dirty;
mod durable;
pub mod error;
pub mod format;
mod lock;
mod recover;
pub mod register_log;
pub mod shards;
pub mod superblock;

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use brick_wire::register::RegisterEntry;
use brick_wire::{BootUuid, BrickUuid, Floors, ImageUuid, Incarnation, LaneIndex, ShardIndex, StartCounter};

use crate::engine::{ActiveShard, Membership, SavedDirty};
use activity::ActivityFile;
use error::StoreError;
pub use lock::DirectoryLock as Lock;
use lock::DirectoryLock;
use register_log::RegisterLog;
use superblock::{Identity, SuperblockFile};

pub use format::format;

/// A brick's directory, locked, checked and loaded. Opening it counted a start and cleared the clean flag,
/// both durably: from here on a crash is a crash.
#[derive(Debug)]
pub struct Store {
    /// The directory's path, for messages and relative names.
    pub path: PathBuf,
    /// Who the brick is; see [`write_identity`] for changes.
    pub identity: Identity,
    /// This life of the brick.
    pub incarnation: Incarnation,
    /// Whether the last stop was clean.
    pub clean_start: bool,
    /// The latest state of every register.
    pub registers: Vec<RegisterEntry>,
    /// The shard files that exist.
    pub shards: Vec<(LaneIndex, ImageUuid, ShardIndex)>,
    /// Saved dirty maps by lane.
    pub dirty: Vec<(LaneIndex, Vec<SavedDirty>)>,
    /// Tables of active shards by lane.
    pub active: Vec<(LaneIndex, Vec<ActiveShard>)>,
    /// The activity log of every lane, open for writing.
    pub activity: Vec<ActivityFile>,
    /// Bytes of disk that the shard files occupy.
    pub used_bytes: u64,
    /// The superblock, open for writing.
    pub superblock: SuperblockFile,
    /// The register log, open for appending.
    pub register_log: RegisterLog,
    /// Held as long as the brick runs.
    pub lock: DirectoryLock,
}

/// How many lanes the brick in `path` has, without opening it: to check the cores first.
pub fn peek_lanes(path: &Path) -> Result<u16, StoreError> {
    if !path.is_dir() {
        return Err(StoreError::Missing { path: path.to_owned() });
    }
    Ok(SuperblockFile::open(path)?.current().identity.lanes)
}

/// Opens a formatted directory for serving.
pub fn open(path: &Path) -> Result<Store, StoreError> {
    let lock = DirectoryLock::acquire(path)?;
    let mut superblock = SuperblockFile::open(path)?;
    let found = superblock.current().clone();
    let lanes = found.identity.lanes;
    check_direct_io(path)?;
    let (register_log, registers) = RegisterLog::open(path, found.identity.brick, found.identity.blank)?;
    let clean_start = superblock.is_clean();
    if !clean_start {
        durable::sync_file_system(path)?;
    }
    let scan = shards::scan(path, lanes)?;
    let boot = boot_uuid()?;
    let images = recover::known_images(&registers, &scan.shards);
    let lanes = recover::load(path, lanes, boot, clean_start, &images)?;
    let start = superblock.write_start()?;
    Ok(Store {
        path: path.to_owned(),
        identity: found.identity,
        incarnation: Incarnation { boot, start },
        clean_start,
        registers,
        shards: scan.shards,
        dirty: lanes.dirty,
        active: lanes.active,
        activity: lanes.activity,
        used_bytes: scan.used_bytes,
        superblock,
        register_log,
        lock,
    })
}

/// Changes membership, blankness and floors; durable when done.
///
/// A blank brick (rule R2) is an older copy of itself, and so are its saved maps. Its engines know that as
/// long as it is blank; what they saved before they were told must not be believed once it isn't.
pub fn write_identity(
    path: &Path,
    superblock: &mut SuperblockFile,
    membership: Option<Membership>,
    blank: bool,
    floors: Floors,
) -> Result<(), StoreError> {
    let before = &superblock.current().identity;
    if before.blank && !blank {
        dirty::remove_all(path, before.lanes)?;
    }
    superblock.write_identity(membership, blank, floors)
}

/// Makes a brick without registers another one, blank; durable when done. It serves as that one from its next start on:
/// then its register log, which names the brick and holds nothing, becomes the other one's as well.
pub fn write_adoption(
    superblock: &mut SuperblockFile,
    brick: BrickUuid,
    membership: Membership,
    start: StartCounter,
) -> Result<(), StoreError> {
    superblock.write_adoption(brick, membership, start)
}

/// Shard files are opened with O_DIRECT, which some file systems refuse: better said at start than at the
/// first write.
fn check_direct_io(path: &Path) -> Result<(), StoreError> {
    let name = path.join(superblock::FILE_NAME);
    let opened = File::options().read(true).custom_flags(libc::O_DIRECT).open(&name);
    match opened {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            Err(StoreError::NoDirectIo { path: path.to_owned() })
        }
        Err(source) => Err(StoreError::io("open", name)(source)),
        Ok(_) => Ok(()),
    }
}

fn boot_uuid() -> Result<BootUuid, StoreError> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    let text = std::fs::read_to_string(path).map_err(StoreError::io("read", path))?;
    match text.trim().parse() {
        Ok(uuid) => Ok(BootUuid(uuid)),
        Err(_) => Err(StoreError::BootId { found: text.trim().to_owned() }),
    }
}

#[cfg(test)]
mod tests;
