//! Shard files: `lane-NN/<image uuid>/<shard index, 8 hex digits>.shard`, one per shard, as long as a shard.
//!
//! A file is created empty and then allocated whole before any data is written to it, so one that is
//! shorter was never written: the rest of it is completed, and reads zeros, when it is opened next. What
//! is a shard is decided by names alone; anything else in a lane is left alone and mentioned in the log.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use brick_wire::placement::lane_of;
use brick_wire::{ImageUuid, LaneIndex, ShardIndex};
use tracing::warn;

use super::durable;
use super::error::StoreError;

/// What a start finds.
#[derive(Debug, Default)]
pub struct Scan {
    /// The shards, lane by lane.
    pub shards: Vec<(LaneIndex, ImageUuid, ShardIndex)>,
    /// Bytes of disk they occupy.
    pub used_bytes: u64,
}

/// A lane's directory, relative to the brick's.
pub fn lane_path(lane: LaneIndex) -> PathBuf {
    PathBuf::from(format!("lane-{:02}", lane.0))
}

/// The directory of an image's shards in one lane, relative to the brick's.
pub fn image_path(lane: LaneIndex, image: ImageUuid) -> PathBuf {
    lane_path(lane).join(image.to_string())
}

/// A shard's file, relative to the brick's directory.
pub fn shard_path(lane: LaneIndex, image: ImageUuid, shard: ShardIndex) -> PathBuf {
    image_path(lane, image).join(format!("{:08x}{SUFFIX}", shard.0))
}

/// Finds every shard file.
pub(super) fn scan(directory: &Path, lanes: u16) -> Result<Scan, StoreError> {
    let mut scan = Scan::default();
    for lane in (0..lanes).map(LaneIndex) {
        let path = directory.join(lane_path(lane));
        for entry in fs::read_dir(&path).map_err(StoreError::io("list", &path))? {
            let entry = entry.map_err(StoreError::io("list", &path))?;
            let name = entry.file_name();
            match name.to_str().and_then(parse_image_name) {
                Some(image) => scan_image(&entry.path(), lane, image, lanes, &mut scan)?,
                None if name == super::dirty::FILE_NAME || name == super::activity::FILE_NAME => {}
                None => warn!("{} is left alone: it is no image's directory", entry.path().display()),
            }
        }
    }
    Ok(scan)
}

/// Makes the names of an image's shards in one lane durable. An image without a directory has none.
pub fn sync_image(directory: &Path, lane: LaneIndex, image: ImageUuid) -> Result<(), StoreError> {
    match durable::sync_directory(&directory.join(image_path(lane, image))) {
        Err(StoreError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {}
        result => result?,
    }
    durable::sync_directory(&directory.join(lane_path(lane)))
}

/// Deletes every shard of an image in one lane, durably; returns the bytes of disk they occupied.
pub fn remove_image(directory: &Path, lane: LaneIndex, image: ImageUuid) -> Result<u64, StoreError> {
    let path = directory.join(image_path(lane, image));
    let entries = match fs::read_dir(&path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
        Err(source) => return Err(StoreError::io("list", path)(source)),
    };
    let mut freed_bytes = 0;
    for entry in entries {
        let entry = entry.map_err(StoreError::io("list", &path))?;
        let is_shard = entry.file_name().to_str().and_then(parse_shard_name).is_some();
        if is_shard {
            let metadata = entry.metadata().map_err(StoreError::io("stat", entry.path()))?;
            fs::remove_file(entry.path()).map_err(StoreError::io("delete", entry.path()))?;
            freed_bytes += allocated_bytes(&metadata);
        }
    }
    match fs::remove_dir(&path) {
        Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => {
            warn!("{} stays: it holds files that are no shards", path.display());
        }
        result => result.map_err(StoreError::io("delete", &path))?,
    }
    durable::sync_directory(&directory.join(lane_path(lane)))?;
    Ok(freed_bytes)
}

fn scan_image(
    path: &Path,
    lane: LaneIndex,
    image: ImageUuid,
    lanes: u16,
    scan: &mut Scan,
) -> Result<(), StoreError> {
    for entry in fs::read_dir(path).map_err(StoreError::io("list", path))? {
        let entry = entry.map_err(StoreError::io("list", path))?;
        match entry.file_name().to_str().and_then(parse_shard_name) {
            Some(shard) if lane_of(image, shard, lanes) == lane => {
                let metadata = entry.metadata().map_err(StoreError::io("stat", entry.path()))?;
                scan.used_bytes += allocated_bytes(&metadata);
                scan.shards.push((lane, image, shard));
            }
            Some(_) => warn!("{} is left alone: this shard belongs to another lane", entry.path().display()),
            None => warn!("{} is left alone: it is no shard", entry.path().display()),
        }
    }
    Ok(())
}

fn parse_image_name(name: &str) -> Option<ImageUuid> {
    let image = ImageUuid(name.parse().ok()?);
    (image.to_string() == name).then_some(image)
}

fn parse_shard_name(name: &str) -> Option<ShardIndex> {
    let digits = name.strip_suffix(SUFFIX)?;
    let shard = ShardIndex(u32::from_str_radix(digits, 16).ok()?);
    (format!("{:08x}", shard.0) == digits).then_some(shard)
}

/// POSIX counts blocks of 512 bytes whatever the file system's are.
fn allocated_bytes(metadata: &fs::Metadata) -> u64 {
    metadata.blocks() * 512
}

const SUFFIX: &str = ".shard";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_pinned() {
        let image = ImageUuid::from_bytes([0xab; 16]);
        let path = shard_path(LaneIndex(3), image, ShardIndex(0x2a));
        let expected = "lane-03/abababab-abab-abab-abab-abababababab/0000002a.shard";
        assert_eq!(path.to_str(), Some(expected));
        assert_eq!(lane_path(LaneIndex(255)).to_str(), Some("lane-255"));
    }

    #[test]
    fn only_our_own_spelling_is_a_shard() {
        assert_eq!(parse_shard_name("0000002a.shard"), Some(ShardIndex(42)));
        for name in ["2a.shard", "0000002A.shard", "+000002a.shard", "0000002a", "0000002a.shard.new"] {
            assert_eq!(parse_shard_name(name), None, "{name}");
        }
        assert!(parse_image_name("abababab-abab-abab-abab-abababababab").is_some());
        for name in ["ABABABAB-ABAB-ABAB-ABAB-ABABABABABAB", "abababababababababababababababab", "dirty"] {
            assert!(parse_image_name(name).is_none(), "{name}");
        }
    }
}
