//! Makes a brick out of an empty directory.
//!
//! The superblock comes last and everything before it is durable by then: a directory either is a whole
//! brick or, after a crash, has no superblock and is refused as not empty. Never formats what holds
//! anything (but `lost+found`, which a fresh file system has).

use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use brick_wire::limits::LANES_MAX;
use brick_wire::{BrickUuid, Floors, Incarnation, LaneIndex, Role};

use super::activity::ActivityFile;
use super::error::StoreError;
use super::register_log::{self, RegisterLog};
use super::shards::lane_path;
use super::superblock::{self, Identity, SuperblockFile};
use super::{dirty, durable, lock};

/// Formats `path`, creating it if it is missing, and returns the new brick's uuid.
pub fn format(path: &Path, role: Role, lanes: u16) -> Result<BrickUuid, StoreError> {
    if !(1..=LANES_MAX).contains(&lanes) {
        return Err(StoreError::Lanes { path: path.to_owned(), lanes, lanes_max: LANES_MAX });
    }
    create_directory(path)?;
    check_empty(path)?;
    let brick = BrickUuid(uuid::Uuid::new_v4());
    durable::replace_file(&path.join(lock::FILE_NAME), b"")?;
    durable::replace_file(&path.join(register_log::FILE_NAME), &RegisterLog::fresh(brick))?;
    for index in (0..lanes).map(LaneIndex) {
        let lane = path.join(lane_path(index));
        fs::create_dir(&lane).map_err(StoreError::io("create", &lane))?;
        dirty::save(path, index, Incarnation::default(), &[])?;
        ActivityFile::create(path, index, lanes)?;
    }
    durable::sync_directory(path)?;
    let created_seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (membership, floors) = (None, Floors::default());
    let identity = Identity { brick, role, lanes, created_seconds, membership, blank: false, floors };
    durable::replace_file(&path.join(superblock::FILE_NAME), &SuperblockFile::fresh(identity))?;
    Ok(brick)
}

/// Creates what is missing of the path, and makes the new names durable.
fn create_directory(path: &Path) -> Result<(), StoreError> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        create_directory(parent)?;
    }
    fs::create_dir(path).map_err(StoreError::io("create", path))?;
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => durable::sync_directory(parent),
        _ => durable::sync_directory(Path::new(".")),
    }
}

fn check_empty(path: &Path) -> Result<(), StoreError> {
    if path.join(superblock::FILE_NAME).exists() {
        return Err(StoreError::AlreadyBrick { path: path.to_owned() });
    }
    for entry in fs::read_dir(path).map_err(StoreError::io("list", path))? {
        let name = entry.map_err(StoreError::io("list", path))?.file_name();
        if name != "lost+found" {
            let found = name.to_string_lossy().into_owned();
            return Err(StoreError::NotEmpty { path: path.to_owned(), found });
        }
    }
    Ok(())
}
