//! The file or block device of a job: opened, checked, and filled where it is too short; and what its
//! requests may answer.
//!
//! fio's rule: a job that wants more than a file holds makes the file. It is made by writing, not by
//! allocating, because O_DIRECT on blocks that were never written measures the file system's metadata.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, StatxFlags, statx};
use tracing::{info, warn};

use crate::job::Job;
use crate::pattern::{Kind, Request};
use crate::random::Random;

/// Why a file can't be a target.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// A call on it.
    #[error("{path}: can't {action}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A directory, a pipe.
    #[error("{0} is neither a file nor a block device; name one of these")]
    WrongKind(PathBuf),
    /// A block device that a file system or somebody else uses.
    #[error(
        "{0} is in use, perhaps mounted; a job that writes would destroy what it holds, so choose another"
    )]
    InUse(PathBuf),
    /// Nothing to read or write.
    #[error("{0} is missing or empty; give the job a size, and the file is made")]
    Empty(PathBuf),
    /// A file system without O_DIRECT.
    #[error("{0} is on a file system without O_DIRECT; choose one on a disk")]
    NoDirect(PathBuf),
    /// Blocks that the device doesn't take.
    #[error("{path} takes multiples of {alignment_bytes} bytes only; raise bs and offset to such")]
    Alignment {
        /// Which file.
        path: PathBuf,
        /// What of.
        alignment_bytes: u64,
    },
    /// A request.
    #[error("{path}: {kind:?} of {length_bytes} bytes at {offset_bytes} failed: {source}")]
    Request {
        /// Which file.
        path: PathBuf,
        /// What was tried.
        kind: Kind,
        /// Where.
        offset_bytes: u64,
        /// How much.
        length_bytes: u64,
        /// Why.
        source: io::Error,
    },
    /// A request that was done in part.
    #[error(
        "{path}: {kind:?} of {length_bytes} bytes at {offset_bytes} ended after {done_bytes}; does somebody else change the file?"
    )]
    Short {
        /// Which file.
        path: PathBuf,
        /// What was tried.
        kind: Kind,
        /// Where.
        offset_bytes: u64,
        /// How much.
        length_bytes: u64,
        /// How much was done.
        done_bytes: u64,
    },
}

/// Whether a request was done, as the number of its bytes says.
pub(super) fn check(path: &Path, request: Request, result: io::Result<usize>) -> Result<(), TargetError> {
    let Request { kind, offset_bytes, length_bytes } = request;
    let path = || path.to_owned();
    match result.map(|bytes| bytes as u64) {
        Err(source) => Err(TargetError::Request { path: path(), kind, offset_bytes, length_bytes, source }),
        Ok(done_bytes) if done_bytes == length_bytes => Ok(()),
        Ok(done_bytes) => {
            Err(TargetError::Short { path: path(), kind, offset_bytes, length_bytes, done_bytes })
        }
    }
}

/// The job's file with O_DIRECT, and its size in bytes.
pub(super) fn open(job: &Job, path: &Path) -> Result<(File, u64), TargetError> {
    let failed = |action| move |source| TargetError::Io { path: path.to_owned(), action, source };
    let is_device = match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => false,
        Ok(metadata) if metadata.file_type().is_block_device() => true,
        Ok(_) => return Err(TargetError::WrongKind(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(failed("look at it")(error)),
    };
    if !is_device {
        fill_up(job, path)?;
    }
    // O_EXCL on a block device: refused while a file system is mounted from it. The first worker holds it for
    // the others.
    let exclusive = if is_device && job.writes() && job.worker == 0 { libc::O_EXCL } else { 0 };
    let mut file = OpenOptions::new()
        .read(true)
        .write(job.writes())
        .custom_flags(libc::O_DIRECT | exclusive)
        .open(path)
        .map_err(|error| match error.raw_os_error() {
            Some(libc::EBUSY) => TargetError::InUse(path.to_owned()),
            Some(libc::EINVAL) => TargetError::NoDirect(path.to_owned()),
            _ => failed("open it with O_DIRECT")(error),
        })?;
    check_alignment(job, path, &file)?;
    // The only way that knows a block device's size too.
    let size_bytes = file.seek(SeekFrom::End(0)).map_err(failed("find its end"))?;
    if !is_device {
        warn_of_holes(path, &file);
    }
    Ok((file, size_bytes))
}

/// Makes a file that holds what the job wants, if it asks for more than there is.
fn fill_up(job: &Job, path: &Path) -> Result<(), TargetError> {
    let failed = |action| move |source| TargetError::Io { path: path.to_owned(), action, source };
    let held_bytes = std::fs::metadata(path).map_or(0, |metadata| metadata.len());
    let Some(size_bytes) = job.size_bytes else {
        return if held_bytes > 0 { Ok(()) } else { Err(TargetError::Empty(path.to_owned())) };
    };
    // A size beyond what an offset can say is refused by the file system with the right words.
    let wanted_bytes = job.offset_bytes.saturating_add(size_bytes);
    if held_bytes >= wanted_bytes {
        return Ok(());
    }
    info!("filling {} from {held_bytes} to {wanted_bytes} bytes", path.display());
    let options = OpenOptions::new().append(true).create(true).open(path);
    let mut file = options.map_err(failed("open it to fill it"))?;
    let mut chunk = vec![0; FILL_CHUNK_BYTES];
    Random::new(job.seed).fill(&mut chunk);
    let mut left_bytes = wanted_bytes - held_bytes;
    while left_bytes > 0 {
        let length = left_bytes.min(FILL_CHUNK_BYTES as u64);
        file.write_all(&chunk[..length as usize]).map_err(failed("fill it"))?;
        left_bytes -= length;
    }
    file.sync_all().map_err(failed("sync it"))
}

fn check_alignment(job: &Job, path: &Path, file: &File) -> Result<(), TargetError> {
    let Ok(attributes) = statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN) else { return Ok(()) };
    // An older kernel doesn't know; then requests fail with EINVAL instead.
    if attributes.stx_mask & StatxFlags::DIOALIGN.bits() == 0 {
        return Ok(());
    }
    let alignment_bytes = u64::from(attributes.stx_dio_offset_align);
    if alignment_bytes == 0 {
        return Err(TargetError::NoDirect(path.to_owned()));
    }
    if !job.block_bytes.is_multiple_of(alignment_bytes) || !job.offset_bytes.is_multiple_of(alignment_bytes) {
        return Err(TargetError::Alignment { path: path.to_owned(), alignment_bytes });
    }
    Ok(())
}

fn warn_of_holes(path: &Path, file: &File) {
    const UNIT_BYTES: u64 = 512;
    if let Ok(metadata) = file.metadata()
        && metadata.blocks() * UNIT_BYTES < metadata.size()
    {
        warn!(
            "{} has holes: reads of them touch no disk, writes allocate; fill it for steady figures",
            path.display()
        );
    }
}

/// Bytes of a write that fills a file.
const FILL_CHUNK_BYTES: usize = 1 << 20;
