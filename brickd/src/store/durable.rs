//! Making files and their names survive a power loss: write, fsync, rename, fsync the directory.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use super::error::StoreError;

/// Makes the entries of a directory durable.
pub(super) fn sync_directory(path: &Path) -> Result<(), StoreError> {
    let directory = File::open(path).map_err(StoreError::io("open", path))?;
    directory.sync_all().map_err(StoreError::io("sync", path))
}

/// Puts a file with this content at `path`, or leaves what was there: never a part of it.
pub(super) fn replace_file(path: &Path, content: &[u8]) -> Result<(), StoreError> {
    let parent = path.parent().expect("files of a brick are in its directory");
    let fresh = path.with_extension(FRESH_EXTENSION);
    let mut file = File::create(&fresh).map_err(StoreError::io("create", &fresh))?;
    file.write_all(content).map_err(StoreError::io("write", &fresh))?;
    file.sync_all().map_err(StoreError::io("sync", &fresh))?;
    fs::rename(&fresh, path).map_err(StoreError::io("rename", &fresh))?;
    sync_directory(parent)
}

/// Of a file that is being written and not yet in its place; what a crash leaves of it is overwritten.
const FRESH_EXTENSION: &str = "new";
