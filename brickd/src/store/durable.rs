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

/// Makes everything durable that was ever written to the file system of `path`.
///
/// A brick that was killed leaves completed writes that no flush covered, and its successor doesn't know to
/// which files: were they left alone, a flush that the successor answers would not cover them (rule I7).
pub(super) fn sync_file_system(path: &Path) -> Result<(), StoreError> {
    let directory = File::open(path).map_err(StoreError::io("open", path))?;
    rustix::fs::syncfs(&directory)
        .map_err(|error| StoreError::io("sync the file system of", path)(error.into()))
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
