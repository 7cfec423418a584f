//! Disk requests of one core as operations on its ring: transfers and syncs of open shard files, and the
//! opening of shards.
//!
//! Opening is a little machine of its own (`Opening`): open, make the image's directory if that is what
//! was missing, allocate the whole file if it is too short. A file that is too short was never written
//! (no write enters before allocation is done), so completing it loses nothing, whoever left it short.
//!
//! At most [`OPERATIONS_MAX`] are in the kernel at a time; the rest waits in order. Of large transfers there are at most
//! [`LARGE_BYTES_MAX`] over all cores, or [`LARGE_BYTES_OF_A_CORE`] each if that is more: a disk shares its bandwidth among
//! all that it has, so that many of them end together, and then it has nothing to do while all are on their way through
//! the network. What can't be done without blocking for long isn't here but in [`helper`](super::helper).

use std::collections::VecDeque;
use std::ffi::CString;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use brick_wire::limits::{BLOCK_SIZE, DATA_BYTES_MAX};
use io_uring::opcode;
use io_uring::squeue::Entry;
use io_uring::types::{Fd, FsyncFlags};

use super::files::Files;
use super::ring::Ring;
use crate::buffer::Buffer;
use crate::engine::{DiskError, DiskOutput, FileSlot, OperationId};
use crate::store::shards;

/// What the ring does for the engine.
#[derive(Debug)]
pub enum RingRequest {
    /// See [`crate::engine::DiskRequest::OpenShard`].
    Open {
        /// Where to.
        slot: FileSlot,
        /// The shard's file, relative to the brick's directory.
        path: PathBuf,
        /// Length of the file, bytes.
        file_bytes: u64,
        /// Whether to create it.
        create: bool,
    },
    /// See [`crate::engine::DiskRequest::CloseShard`].
    Close {
        /// Which.
        slot: FileSlot,
    },
    /// See [`crate::engine::DiskRequest::Read`] and [`crate::engine::DiskRequest::Write`].
    Transfer {
        /// Which file.
        slot: FileSlot,
        /// Where in it.
        offset_bytes: u64,
        /// From or to where.
        buffer: Buffer,
        /// Which way.
        direction: Direction,
    },
    /// See [`crate::engine::DiskRequest::SyncShard`].
    Sync {
        /// Which file.
        slot: FileSlot,
    },
}

impl RingRequest {
    /// Bytes to or from a file.
    fn transfer_bytes(&self) -> usize {
        match self {
            RingRequest::Transfer { buffer, .. } => buffer.len(),
            RingRequest::Open { .. } | RingRequest::Close { .. } | RingRequest::Sync { .. } => 0,
        }
    }

    fn is_large(&self) -> bool {
        self.transfer_bytes() >= LARGE_BYTES
    }
}

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the file.
    Read,
    /// To the file.
    Write,
}

/// A request in the kernel.
#[derive(Debug)]
pub struct DiskOperation {
    operation: OperationId,
    state: State,
}

#[derive(Debug)]
enum State {
    Open(Box<Opening>),
    Close,
    Transfer { slot: FileSlot, offset_bytes: u64, buffer: Buffer, direction: Direction, done: usize },
    Sync { slot: FileSlot },
}

/// An open in flight.
#[derive(Debug)]
struct Opening {
    slot: FileSlot,
    path: CString,
    directory: CString,
    file_bytes: u64,
    create: bool,
    /// What the kernel is doing.
    step: OpenStep,
    /// The directory was made once; should it be missing again, somebody else works here.
    directory_made: bool,
    file: Option<OwnedFd>,
}

#[derive(Clone, Copy, Debug)]
enum OpenStep {
    Open,
    MakeDirectory,
    Allocate,
    /// Removes the file that could not be allocated, then reports this.
    Unlink(DiskError),
}

/// How a request ended.
pub type Outcome = (OperationId, Result<DiskOutput, DiskError>);

/// The requests of one core.
#[derive(Debug)]
pub struct Disk {
    directory: Arc<OwnedFd>,
    files: Files,
    used_bytes: Arc<AtomicU64>,
    waiting: VecDeque<(OperationId, RingRequest)>,
    in_flight: usize,
    /// Large transfers that wait for other large ones.
    large_waiting: VecDeque<(OperationId, RingRequest)>,
    /// Bytes of large transfers in flight, or in line for the kernel.
    large_bytes: usize,
    /// So many at most.
    large_bytes_max: usize,
}

impl Disk {
    /// Serves shards under the brick's `directory`, `open_files_max` at a time; counts allocated bytes in
    /// `used_bytes`. The brick has so many cores, and each of them a [`Disk`].
    pub fn new(directory: Arc<OwnedFd>, open_files_max: u32, used_bytes: Arc<AtomicU64>, cores: u16) -> Disk {
        let files = Files::new(open_files_max);
        Disk {
            directory,
            files,
            used_bytes,
            waiting: VecDeque::new(),
            in_flight: 0,
            large_waiting: VecDeque::new(),
            large_bytes: 0,
            large_bytes_max: (LARGE_BYTES_MAX / usize::from(cores)).max(LARGE_BYTES_OF_A_CORE),
        }
    }

    /// Requests that the kernel has and hasn't completed.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Starts a request, or queues it behind those that fill the kernel already.
    pub fn submit<T: From<DiskOperation>>(
        &mut self,
        ring: &mut Ring<T>,
        operation: OperationId,
        request: RingRequest,
    ) {
        if !request.is_large() {
            return self.enter(ring, operation, request);
        }
        self.large_waiting.push_back((operation, request));
        self.enter_large(ring);
    }

    /// Lets large transfers go on, in order, as far as there may be.
    fn enter_large<T: From<DiskOperation>>(&mut self, ring: &mut Ring<T>) {
        while let Some((_, request)) = self.large_waiting.front() {
            let bytes = request.transfer_bytes();
            if self.large_bytes > 0 && self.large_bytes + bytes > self.large_bytes_max {
                return;
            }
            self.large_bytes += bytes;
            let (operation, request) = self.large_waiting.pop_front().expect("looked at above");
            self.enter(ring, operation, request);
        }
    }

    fn enter<T: From<DiskOperation>>(
        &mut self,
        ring: &mut Ring<T>,
        operation: OperationId,
        request: RingRequest,
    ) {
        if self.in_flight == OPERATIONS_MAX {
            self.waiting.push_back((operation, request));
        } else {
            self.begin(ring, operation, request);
        }
    }

    /// Takes a completion; returns the outcome if that was the request's last step.
    pub fn complete<T: From<DiskOperation>>(
        &mut self,
        ring: &mut Ring<T>,
        mut finished: DiskOperation,
        result: i32,
    ) -> Option<Outcome> {
        let again = result == -libc::EINTR || result == -libc::EAGAIN;
        let outcome = match &mut finished.state {
            // EIO and ENOSPC here are about earlier writes, which O_DIRECT has reported already; after EINTR
            // the descriptor is closed as well, on Linux.
            State::Close => Some(Ok(())),
            _ if again => None,
            State::Open(opening) => self.advance_open(ring, opening, result),
            State::Transfer { buffer, done, direction, .. } => {
                advance_transfer(buffer.len(), done, *direction, result)
            }
            State::Sync { .. } => Some(check(result).map(drop)),
        };
        let Some(result) = outcome else {
            self.issue(ring, finished);
            return None;
        };
        self.in_flight -= 1;
        if let Some((operation, request)) = self.waiting.pop_front() {
            self.begin(ring, operation, request);
        }
        if let State::Transfer { buffer, .. } = &finished.state
            && buffer.len() >= LARGE_BYTES
        {
            self.large_bytes -= buffer.len();
            self.enter_large(ring);
        }
        let output = result.map(|()| match finished.state {
            State::Transfer { buffer, .. } => DiskOutput::Buffer(buffer),
            _ => DiskOutput::Done,
        });
        Some((finished.operation, output))
    }

    fn begin<T: From<DiskOperation>>(
        &mut self,
        ring: &mut Ring<T>,
        operation: OperationId,
        request: RingRequest,
    ) {
        let state = match request {
            RingRequest::Open { slot, path, file_bytes, create } => {
                self.files.reserve(slot);
                State::Open(Box::new(Opening::new(slot, path, file_bytes, create)))
            }
            RingRequest::Close { slot } => {
                ring.set_file(slot.0, -1);
                return self.begin_close(ring, operation, slot);
            }
            RingRequest::Transfer { slot, offset_bytes, buffer, direction } => {
                assert!(offset_bytes.is_multiple_of(BLOCK_SIZE as u64) && !buffer.is_empty());
                State::Transfer { slot, offset_bytes, buffer, direction, done: 0 }
            }
            RingRequest::Sync { slot } => State::Sync { slot },
        };
        self.in_flight += 1;
        self.issue(ring, DiskOperation { operation, state });
    }

    fn begin_close<T: From<DiskOperation>>(
        &mut self,
        ring: &mut Ring<T>,
        operation: OperationId,
        slot: FileSlot,
    ) {
        use std::os::fd::IntoRawFd;
        // The kernel's close consumes the descriptor: from here on it is nobody else's to close.
        let descriptor = self.files.take(slot).into_raw_fd();
        self.in_flight += 1;
        let entry = opcode::Close::new(Fd(descriptor)).build();
        // SAFETY: the entry points to no memory, and its descriptor was given up above.
        unsafe { ring.start(DiskOperation { operation, state: State::Close }.into(), entry) };
    }

    /// Puts the next step of an operation into the ring.
    fn issue<T: From<DiskOperation>>(&self, ring: &mut Ring<T>, operation: DiskOperation) {
        let entry = match &operation.state {
            State::Open(opening) => opening.entry(self.directory.as_raw_fd()),
            State::Sync { slot } => {
                let flags = FsyncFlags::DATASYNC;
                self.files.name(*slot).entry(
                    |file| opcode::Fsync::new(file).flags(flags).build(),
                    |file| opcode::Fsync::new(file).flags(flags).build(),
                )
            }
            State::Transfer { slot, offset_bytes, buffer, direction, done } => {
                let offset = offset_bytes + *done as u64;
                self.transfer_entry(*slot, &buffer[*done..], offset, *direction, ring.has_pool())
            }
            State::Close => unreachable!("a close is one step and never repeated"),
        };
        // SAFETY: the entry points into the pool slot or the boxed paths that the operation owns; its
        // descriptors belong to `self.files` (the engine closes no file with operations in flight), to the
        // opening itself, or to `self.directory`, which lives as long as the reactor.
        unsafe { ring.start(operation.into(), entry) };
    }

    fn transfer_entry(
        &self,
        slot: FileSlot,
        bytes: &[u8],
        offset: u64,
        direction: Direction,
        fixed: bool,
    ) -> Entry {
        let (pointer, length) = (bytes.as_ptr(), bytes.len() as u32);
        // A macro, for the crate's trait over both forms of file can't be named.
        macro_rules! build {
            ($file:expr) => {
                match (direction, fixed) {
                    (Direction::Read, true) => {
                        opcode::ReadFixed::new($file, pointer.cast_mut(), length, POOL_INDEX)
                            .offset(offset)
                            .build()
                    }
                    (Direction::Read, false) => {
                        opcode::Read::new($file, pointer.cast_mut(), length).offset(offset).build()
                    }
                    (Direction::Write, true) => {
                        opcode::WriteFixed::new($file, pointer, length, POOL_INDEX).offset(offset).build()
                    }
                    (Direction::Write, false) => {
                        opcode::Write::new($file, pointer, length).offset(offset).build()
                    }
                }
            };
        }
        self.files.name(slot).entry(|file| build!(file), |file| build!(file))
    }

    /// `None`: another step follows.
    fn advance_open<T>(
        &mut self,
        ring: &mut Ring<T>,
        opening: &mut Opening,
        result: i32,
    ) -> Option<Result<(), DiskError>> {
        let next = match (opening.step, check(result)) {
            (OpenStep::Open, Ok(descriptor)) => {
                // SAFETY: the kernel just opened it for this operation, and nobody else knows it.
                opening.file = Some(unsafe { OwnedFd::from_raw_fd(descriptor) });
                opening.check_length(OpenStep::Allocate)
            }
            (OpenStep::Open, Err(DiskError::Errno(libc::ENOENT))) if opening.may_make_directory() => {
                opening.directory_made = true;
                Ok(Some(OpenStep::MakeDirectory))
            }
            (OpenStep::MakeDirectory, Ok(_) | Err(DiskError::Errno(libc::EEXIST))) => {
                Ok(Some(OpenStep::Open))
            }
            (OpenStep::Allocate, Ok(_)) => {
                self.used_bytes.fetch_add(opening.file_bytes, Ordering::Relaxed);
                // Still too short after a fallocate that succeeded: the file system lies.
                match opening.check_length(OpenStep::Allocate) {
                    Ok(Some(_)) => Err(DiskError::Errno(libc::EIO)),
                    other => other,
                }
            }
            (OpenStep::Allocate, Err(error)) if opening.create => Ok(Some(OpenStep::Unlink(error))),
            (OpenStep::Unlink(error), _) => Err(error),
            (_, Err(error)) => Err(error),
        };
        match next {
            Ok(Some(step)) => {
                opening.step = step;
                None
            }
            Ok(None) => {
                let file = opening.file.take().expect("a checked file is open");
                let registered = ring.set_file(opening.slot.0, file.as_raw_fd());
                self.files.install(opening.slot, file, registered);
                Some(Ok(()))
            }
            Err(error) => {
                self.files.abandon(opening.slot);
                Some(Err(error))
            }
        }
    }
}

impl Opening {
    fn new(slot: FileSlot, path: PathBuf, file_bytes: u64, create: bool) -> Opening {
        let directory = path.parent().expect("a shard is in its image's directory").to_owned();
        let terminated = |path: PathBuf| {
            CString::new(path.into_os_string().into_vec()).expect("our own names hold no zero byte")
        };
        Opening {
            slot,
            path: terminated(path),
            directory: terminated(directory),
            file_bytes,
            create,
            step: OpenStep::Open,
            directory_made: false,
            file: None,
        }
    }

    fn entry(&self, directory: i32) -> Entry {
        match self.step {
            OpenStep::Open => {
                let created = if self.create { libc::O_CREAT } else { 0 };
                opcode::OpenAt::new(Fd(directory), self.path.as_ptr())
                    .flags(libc::O_RDWR | libc::O_DIRECT | libc::O_CLOEXEC | created)
                    .mode(SHARD_MODE)
                    .build()
            }
            OpenStep::MakeDirectory => {
                opcode::MkDirAt::new(Fd(directory), self.directory.as_ptr()).mode(DIRECTORY_MODE).build()
            }
            OpenStep::Allocate => {
                let file = self.file.as_ref().expect("only an open file is allocated");
                opcode::Fallocate::new(Fd(file.as_raw_fd()), self.file_bytes).build()
            }
            OpenStep::Unlink(_) => opcode::UnlinkAt::new(Fd(directory), self.path.as_ptr()).build(),
        }
    }

    fn may_make_directory(&self) -> bool {
        self.create && !self.directory_made
    }

    /// `None` if the file is as long as a shard, `if_short` if it is shorter. The inode was just opened or
    /// allocated, so fstat finds it in memory and doesn't block.
    fn check_length(&self, if_short: OpenStep) -> Result<Option<OpenStep>, DiskError> {
        let file = self.file.as_ref().expect("only an open file has a length");
        let stat = nix::sys::stat::fstat(file).map_err(|errno| DiskError::Errno(errno as i32))?;
        let (found, expected) = (stat.st_size as u64, self.file_bytes);
        match found.cmp(&expected) {
            std::cmp::Ordering::Less => Ok(Some(if_short)),
            std::cmp::Ordering::Equal => Ok(None),
            std::cmp::Ordering::Greater => Err(DiskError::Length { found, expected }),
        }
    }
}

/// `None`: the rest has to be transferred.
fn advance_transfer(
    length: usize,
    done: &mut usize,
    direction: Direction,
    result: i32,
) -> Option<Result<(), DiskError>> {
    match check(result) {
        Ok(0) => Some(Err(DiskError::Short)),
        Ok(moved) => {
            *done += moved as usize;
            assert!(*done <= length, "the kernel moved {done} of {length} bytes ({direction:?})");
            if *done == length {
                return Some(Ok(()));
            }
            // O_DIRECT needs aligned offsets: what was moved of the last block is moved again.
            *done -= *done % BLOCK_SIZE;
            None
        }
        Err(error) => Some(Err(error)),
    }
}

/// A completion's result as a value or an error.
fn check(result: i32) -> Result<i32, DiskError> {
    if result < 0 { Err(disk_error(-result)) } else { Ok(result) }
}

/// An errno as the engine knows it.
pub fn disk_error(errno: i32) -> DiskError {
    match errno {
        libc::ENOSPC | libc::EDQUOT => DiskError::NoSpace,
        other => DiskError::Errno(other),
    }
}

/// The shard's path, as [`RingRequest::Open`] wants it.
pub use shards::shard_path;

/// Operations of one core in the kernel. The disks this was measured on queue 256 in hardware; more only
/// moves the waiting into the kernel, where it can't be ordered any more.
pub const OPERATIONS_MAX: usize = 256;
/// Transfers from here on are large.
const LARGE_BYTES: usize = 128 * 1024;
/// Bytes of large transfers of a brick in the kernel: what a fast disk moves in half a millisecond. With 8 requests of
/// 1 MiB in flight this made reads 1.4 and writes 1.1 times as fast; as much for each of two cores, reads 0.9 times.
pub const LARGE_BYTES_MAX: usize = 2 << 20;
/// What each of many cores may have in the kernel in any case: one transfer of the largest kind, as all that is asked of a
/// brick may be one core's.
pub const LARGE_BYTES_OF_A_CORE: usize = DATA_BYTES_MAX;
const _: () = assert!(LARGE_BYTES_OF_A_CORE <= LARGE_BYTES_MAX);
/// The pool is the ring's only registered buffer.
const POOL_INDEX: u16 = 0;
const SHARD_MODE: u32 = 0o600;
const DIRECTORY_MODE: u32 = 0o700;

#[cfg(test)]
mod tests;
