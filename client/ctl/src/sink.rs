//! A raw file being exported: sparse, and never half there.
//!
//! Bytes go to `FILE.partial`, which gets its final name only after everything is on disk. So a file
//! under the final name is complete, whatever crashed meanwhile, and an existing file is replaced only
//! at the very end and only with `force`. Zero blocks are not written: the file starts as one hole.
//!
//! Two exports to the same file are kept apart by a lock on the partial file.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

/// Granularity of holes: the block of the store and of every common file system.
const BLOCK_BYTES: usize = 4096;
/// What is appended to the name until the export is complete.
const PARTIAL_SUFFIX: &str = ".partial";

/// Why an export can't be written.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// There is a file of that name.
    #[error("{}: exists; choose another name, or say --force to replace it", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// There is something of that name that can't be replaced by a file.
    #[error("{}: exists and is not a regular file; export to a new file", path.display())]
    NotAFile {
        /// The thing.
        path: PathBuf,
    },
    /// An export was interrupted earlier.
    #[error("{}: left by an interrupted export; remove it, or say --force to replace it", path.display())]
    Leftover {
        /// The partial file.
        path: PathBuf,
    },
    /// Another process is exporting.
    #[error("{}: another export is writing it; wait for it or choose another name", path.display())]
    Busy {
        /// The partial file.
        path: PathBuf,
    },
    /// The path has no file name.
    #[error("{}: not a file name", path.display())]
    NoName {
        /// The path.
        path: PathBuf,
    },
    /// A system call failed.
    #[error("{}: cannot {operation}: {source}", path.display())]
    System {
        /// The file.
        path: PathBuf,
        /// What was tried.
        operation: &'static str,
        /// Why not.
        source: io::Error,
    },
}

/// An export under way. Dropping it without [`Sink::finish`] removes the partial file.
#[derive(Debug)]
pub struct Sink {
    file: File,
    path: PathBuf,
    partial_path: PathBuf,
    size_bytes: u64,
    force: bool,
    finished: bool,
}

impl Sink {
    /// Starts an export of `size_bytes` to `path`.
    pub fn create(path: &Path, size_bytes: u64, force: bool) -> Result<Self, SinkError> {
        let partial_path = partial_path(path)?;
        match fs::metadata(path) {
            Ok(metadata) if !metadata.is_file() => {
                return Err(SinkError::NotAFile { path: path.to_owned() });
            }
            Ok(_) if !force => return Err(SinkError::Exists { path: path.to_owned() }),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(system(path, "look at it")(source)),
        }
        let file = claim(&partial_path, force)?;
        let sink = Self { file, path: path.to_owned(), partial_path, size_bytes, force, finished: false };
        // First to nothing: what an earlier export left must not shine through the holes.
        sink.file.set_len(0).map_err(system(&sink.partial_path, "empty it"))?;
        sink.file.set_len(size_bytes).map_err(system(&sink.partial_path, "set its size"))?;
        Ok(sink)
    }

    /// Writes `data`, leaving out its zero blocks. Each byte may be written once at most: zeroes
    /// don't erase what was written before. The range must lie within the size.
    pub fn write_at(&self, offset_bytes: u64, data: &[u8]) -> Result<(), SinkError> {
        let end = offset_bytes.checked_add(data.len() as u64);
        assert!(end.is_some_and(|end| end <= self.size_bytes), "writes stay within the export's size");
        for (start, run) in data_runs(offset_bytes, data) {
            self.file
                .write_all_at(run, offset_bytes + start as u64)
                .map_err(system(&self.partial_path, "write"))?;
        }
        Ok(())
    }

    /// Makes everything durable and gives the file its name.
    pub fn finish(mut self) -> Result<(), SinkError> {
        self.file.sync_all().map_err(system(&self.partial_path, "make it durable"))?;
        self.rename()?;
        self.finished = true;
        let directory = match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        File::open(directory)
            .and_then(|directory| directory.sync_all())
            .map_err(system(directory, "make the new name durable"))
    }

    fn rename(&self) -> Result<(), SinkError> {
        let failed = system(&self.path, "give the finished export its name");
        if self.force {
            return fs::rename(&self.partial_path, &self.path).map_err(failed);
        }
        let flags = RenameFlags::RENAME_NOREPLACE;
        match renameat2(AT_FDCWD, &self.partial_path, AT_FDCWD, &self.path, flags) {
            Ok(()) => Ok(()),
            Err(Errno::EEXIST) => Err(SinkError::Exists { path: self.path.clone() }),
            // A file system without that flag; look, and leave the instant between to luck.
            Err(Errno::EINVAL) if self.path.exists() => Err(SinkError::Exists { path: self.path.clone() }),
            Err(Errno::EINVAL) => fs::rename(&self.partial_path, &self.path).map_err(failed),
            Err(error) => Err(failed(error.into())),
        }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        if !self.finished
            && let Err(error) = fs::remove_file(&self.partial_path)
        {
            tracing::warn!("cannot remove {}: {error}", self.partial_path.display());
        }
    }
}

fn system(path: &Path, operation: &'static str) -> impl FnOnce(io::Error) -> SinkError + use<> {
    let path = path.to_owned();
    move |source| SinkError::System { path, operation, source }
}

fn partial_path(path: &Path) -> Result<PathBuf, SinkError> {
    let name = path.file_name().ok_or_else(|| SinkError::NoName { path: path.to_owned() })?;
    let mut partial_name = OsString::from(name);
    partial_name.push(PARTIAL_SUFFIX);
    Ok(path.with_file_name(partial_name))
}

/// Opens and locks the partial file.
fn claim(partial_path: &Path, force: bool) -> Result<File, SinkError> {
    let mut options = OpenOptions::new();
    options.write(true).truncate(false);
    if force {
        options.create(true)
    } else {
        options.create_new(true)
    };
    let file = match options.open(partial_path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(SinkError::Leftover { path: partial_path.to_owned() });
        }
        other => other.map_err(system(partial_path, "create it"))?,
    };
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(SinkError::Busy { path: partial_path.to_owned() }),
        Err(TryLockError::Error(source)) => return Err(system(partial_path, "lock it")(source)),
    }
    // Between open and lock, another export may have finished and given this very file its name.
    let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    let ours = file.metadata().map(identity).map_err(system(partial_path, "look at it"))?;
    match fs::symlink_metadata(partial_path).map(identity) {
        Ok(named) if named == ours => Ok(file),
        _ => Err(SinkError::Busy { path: partial_path.to_owned() }),
    }
}

/// The parts of `data` that aren't zero blocks (by the file's block grid), each with its start in `data`.
fn data_runs(offset_bytes: u64, data: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let mut start = None;
        while at < data.len() {
            let within = ((offset_bytes + at as u64) % BLOCK_BYTES as u64) as usize;
            let block_end = data.len().min(at + BLOCK_BYTES - within);
            let is_zero = data[at..block_end].iter().all(|byte| *byte == 0);
            match (is_zero, start) {
                (true, Some(start)) => return Some((start, &data[start..at])),
                (false, None) => start = Some(at),
                _ => {}
            }
            at = block_end;
        }
        start.map(|start| (start, &data[start..]))
    })
}

#[cfg(test)]
mod tests;
