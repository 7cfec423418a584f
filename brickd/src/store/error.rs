//! Why a brick's directory can't be formatted, opened or written: one sentence each, "what: why; what to do".

use std::io;
use std::path::{Path, PathBuf};

/// See the variants. The paths in them are as the operator gave them.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The kernel refused an operation.
    #[error("can't {operation} {}: {source}", path.display())]
    Io {
        /// A verb.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// `run` on a directory that isn't there.
    #[error("no brick in {}: the directory doesn't exist; create it with `brickd format`, or mount it", path.display())]
    Missing {
        /// The brick's directory.
        path: PathBuf,
    },
    /// `run` on a directory without a superblock.
    #[error("no brick in {}: it has no superblock; is the right disk mounted? A new brick is made by `brickd format`", path.display())]
    NotFormatted {
        /// The brick's directory.
        path: PathBuf,
    },
    /// The superblock file is somebody else's.
    #[error("no brick in {}: its superblock file doesn't start with brick's magic; check the path", path.display())]
    NotABrick {
        /// The brick's directory.
        path: PathBuf,
    },
    /// Another process serves the brick.
    #[error("{} is in use: brickd with pid {pid} has it open; stop that one first", path.display())]
    Locked {
        /// The brick's directory.
        path: PathBuf,
        /// Of the holder, as it wrote it.
        pid: String,
    },
    /// A later program wrote it.
    #[error("{} has format version {found}: this brickd knows versions up to {known}; start a newer brickd", path.display())]
    NewerFormat {
        /// The brick's directory.
        path: PathBuf,
        /// In the superblock.
        found: u32,
        /// The newest this code reads.
        known: u32,
    },
    /// Neither superblock copy checks.
    #[error("the superblock of {} is damaged: both copies fail their checks ({why}); format the brick anew and let it heal from the others", path.display())]
    SuperblockDamaged {
        /// The brick's directory.
        path: PathBuf,
        /// About the copy that got furthest.
        why: String,
    },
    /// The start of the register log is bad.
    #[error("{} is damaged: {why}; format the brick anew and let it heal from the others", path.display())]
    RegisterHeader {
        /// The log.
        path: PathBuf,
        /// What is wrong.
        why: &'static str,
    },
    /// A record in the middle of the register log is bad, so a promise may be lost.
    #[error("{} is damaged: the record at byte {offset} fails its check but valid ones follow; promises may be lost, so format the brick anew and let it heal from the others", path.display())]
    RegisterRecord {
        /// The log.
        path: PathBuf,
        /// Where.
        offset: u64,
    },
    /// A write to the register log failed, and what is at its end isn't known.
    #[error("can't write {}: {source}; it takes no more records, so replace a bad disk and restart the brick", path.display())]
    RegisterLogEnd {
        /// The log.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An earlier write to the register log failed in a way that leaves its end unknown.
    #[error("{} takes no more records: an earlier write or fsync failed; restart the brick", path.display())]
    RegisterLogFailed {
        /// The log.
        path: PathBuf,
    },
    /// A batch beyond the limit.
    #[error("a batch of {bytes} bytes doesn't fit in {}: the largest record is {bytes_max} bytes; change fewer registers at once", path.display())]
    RegisterBatch {
        /// The log.
        path: PathBuf,
        /// Of the batch.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// Saved dirty maps that don't check. Not fatal: they count as lost.
    #[error("{} can't be used: {why}; its dirty maps count as lost, so heal will compare whole shards", path.display())]
    DirtyMaps {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: &'static str,
    },
    /// An activity log that doesn't check. Not fatal: it counts as lost.
    #[error("{} can't be used: {why}; what was being written counts as lost, so heal will compare whole shards", path.display())]
    Activity {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: &'static str,
    },
    /// Formatting something that has content.
    #[error("can't format {}: it isn't empty (it has {found:?}); choose an empty directory or delete its content", path.display())]
    NotEmpty {
        /// The directory.
        path: PathBuf,
        /// One of the things found.
        found: String,
    },
    /// Formatting a brick.
    #[error("can't format {}: it is a brick already; delete its content first if you mean to lose it", path.display())]
    AlreadyBrick {
        /// The directory.
        path: PathBuf,
    },
    /// A lane count out of bounds.
    #[error("can't format {}: {lanes} lanes are out of range; choose 1 to {lanes_max}", path.display())]
    Lanes {
        /// The directory.
        path: PathBuf,
        /// As asked.
        lanes: u16,
        /// The limit.
        lanes_max: u16,
    },
    /// The file system has no O_DIRECT.
    #[error("{} can't hold a data brick: its file system doesn't support O_DIRECT; use ext4 or XFS", path.display())]
    NoDirectIo {
        /// The directory.
        path: PathBuf,
    },
    /// The kernel's boot id is no UUID.
    #[error("the kernel's boot id {found:?} is no UUID: is /proc the kernel's? Mount it")]
    BootId {
        /// As read.
        found: String,
    },
}

impl StoreError {
    /// For `map_err`: the kernel refused `operation` on `path`.
    pub fn io(operation: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> StoreError {
        let path = path.as_ref().to_owned();
        move |source| StoreError::Io { operation, path, source }
    }

    /// Whether a file is missing.
    pub(super) fn is_not_found(&self) -> bool {
        matches!(self, StoreError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    /// The kernel's errno, if it was the kernel who refused.
    pub fn errno(&self) -> Option<i32> {
        match self {
            StoreError::Io { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}
