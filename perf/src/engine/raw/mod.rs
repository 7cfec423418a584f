//! `ioengine=raw`: a file or block device with O_DIRECT on io_uring, the most that the machine gives.
//!
//! The figure that everything else is compared with, so it takes every short cut that changes nothing in
//! what the disk does: a registered file, registered memory, one system call per turn that submits and
//! waits. Where the kernel refuses one of them, it says so and goes on without.
//!
//! Invariant: the memory of a request in flight is neither freed nor given to another one until its
//! completion was reaped. A slot's number is the request's user data and decides its memory.

mod memory;

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use io_uring::{IoUring, opcode, squeue, types};
use tracing::warn;

use self::memory::Memory;
use super::target::{self, TargetError};
use super::{Engine, EngineError};
use crate::job::Job;
use crate::load::{Next, Started};
use crate::meter::Meter;
use crate::pattern::{Kind, Request};
use crate::random::Random;

/// A file or block device with a ring of its own.
#[derive(Debug)]
pub struct RawEngine {
    // First, so that the ring is closed before the memory it may use is freed. It holds the file.
    ring: Ring,
    path: PathBuf,
    target_bytes: u64,
    /// One slot for each request in flight; `None` once it was given up.
    memory: Option<Memory>,
    /// What is in flight in each slot.
    slots: Vec<Option<Started>>,
    /// Slots without a request.
    free: Vec<u32>,
}

/// Why a file or block device can't be used.
#[derive(Debug, thiserror::Error)]
pub enum RawError {
    /// The file.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The ring.
    #[error(
        "can't set up io_uring: {0}; allow it (sysctl kernel.io_uring_disabled=0, the container's seccomp profile)"
    )]
    Ring(io::Error),
    /// Memory for the blocks.
    #[error("can't get {bytes} bytes of memory for blocks in flight: {source}; lower bs or iodepth")]
    Memory {
        /// How much.
        bytes: usize,
        /// Why.
        source: io::Error,
    },
    /// The kernel doesn't take or give requests any more.
    #[error("io_uring failed: {0}")]
    Enter(io::Error),
}

impl RawEngine {
    /// Opens the job's file, and fills what it lacks up to the job's size.
    pub fn open(job: &Job, path: &Path) -> Result<RawEngine, RawError> {
        let (file, target_bytes) = target::open(job, path)?;
        let (block_bytes, depth) = (job.block_bytes_max as usize, job.depth as usize);
        let mut memory = Memory::new(block_bytes, depth)
            .map_err(|source| RawError::Memory { bytes: Memory::needed_bytes(block_bytes, depth), source })?;
        Random::new(job.seed).fill(memory.bytes());
        let ring = Ring::new(job.depth, &file, &memory).map_err(RawError::Ring)?;
        let free = (0..job.depth).rev().collect();
        let slots = vec![None; depth];
        Ok(RawEngine { ring, path: path.to_owned(), target_bytes, memory: Some(memory), slots, free })
    }

    /// Starts requests while there is room, and says what comes then.
    fn fill(&mut self, meter: &mut Meter) -> Next {
        let memory = self.memory.as_mut().expect("given up only when the engine is dropped");
        while let Some(slot) = self.free.pop() {
            let started = match meter.next_request() {
                Next::Start(started) => started,
                other => {
                    self.free.push(slot);
                    return other;
                }
            };
            let length = started.request.length_bytes as usize;
            let block = &mut memory.slot(slot as usize)[..length];
            meter.prepare(&started, block);
            let entry = self.ring.entry(started.request, block.as_mut_ptr()).user_data(u64::from(slot));
            // SAFETY: the block is the slot's, which stays taken, and its memory mapped, until the
            // completion was reaped; the ring holds the file.
            unsafe { self.ring.ring.submission().push(&entry) }.expect("an entry for each slot");
            self.slots[slot as usize] = Some(started);
        }
        Next::AfterCompletion
    }

    /// Reaps what completed; the first error, if there was one.
    fn reap(&mut self, meter: &mut Meter) -> Result<(), RawError> {
        let mut outcome = Ok(());
        let memory = self.memory.as_mut().expect("given up only when the engine is dropped");
        for completion in self.ring.ring.completion() {
            let slot = completion.user_data() as u32;
            let started = self.slots[slot as usize].take().expect("a completion of what is in flight");
            self.free.push(slot);
            let result = usize::try_from(completion.result())
                .map_err(|_| io::Error::from_raw_os_error(-completion.result()));
            match target::check(&self.path, started.request, result) {
                Ok(()) => {
                    let length = started.request.length_bytes as usize;
                    meter.complete(started, &memory.slot(slot as usize)[..length]);
                }
                Err(error) => outcome = outcome.and(Err(error.into())),
            }
        }
        outcome
    }
}

impl Engine for RawEngine {
    fn target_bytes(&self) -> u64 {
        self.target_bytes
    }

    fn run(&mut self, mut meter: Meter) -> Result<Meter, EngineError> {
        let mut outcome = Ok(());
        loop {
            let wait = match self.fill(&mut meter) {
                Next::At(at_ns) => Some(meter.time_until(at_ns)),
                _ if self.free.len() == self.slots.len() => return Ok(outcome.map(|()| meter)?),
                _ => None,
            };
            self.ring.enter(wait).map_err(RawError::Enter)?;
            if let Err(error) = self.reap(&mut meter) {
                meter.stop();
                outcome = outcome.and(Err(error));
            }
        }
    }

    fn close(self: Box<Self>) -> Result<(), EngineError> {
        Ok(())
    }
}

impl Drop for RawEngine {
    fn drop(&mut self) {
        if self.free.len() < self.slots.len() {
            // The kernel may still write to it: better lost than somebody else's.
            std::mem::forget(self.memory.take());
        }
    }
}

/// A ring with a registered file, and memory that is registered where the locked-memory limit allows it.
struct Ring {
    ring: IoUring,
    memory_registered: bool,
}

impl Ring {
    fn new(depth: u32, file: &File, memory: &Memory) -> io::Result<Ring> {
        let preferred =
            IoUring::builder().setup_submit_all().setup_single_issuer().setup_defer_taskrun().build(depth);
        let ring = match preferred {
            Ok(ring) => ring,
            Err(error) => {
                let plain = IoUring::new(depth)?;
                warn!("the kernel refuses SINGLE_ISSUER and DEFER_TASKRUN ({error}): a plain ring is used");
                plain
            }
        };
        ring.submitter().register_files(&[file.as_raw_fd()])?;
        // SAFETY: the region stays mapped until the ring is gone or nothing is in flight.
        let memory_registered = match unsafe { ring.submitter().register_buffers(&[memory.region()]) } {
            Ok(()) => true,
            Err(error) => {
                warn!(
                    "memory can't be registered ({error}): requests cost more; raise the locked-memory limit"
                );
                false
            }
        };
        Ok(Ring { ring, memory_registered })
    }

    /// Submits what was pushed, and waits for a completion, or that long.
    fn enter(&self, wait: Option<Duration>) -> io::Result<()> {
        let submitter = self.ring.submitter();
        let entered = match wait {
            None => submitter.submit_and_wait(1),
            Some(wait) => {
                let limit = types::Timespec::from(wait);
                submitter.submit_with_args(1, &types::SubmitArgs::new().timespec(&limit))
            }
        };
        match entered.map_err(|error| (error.raw_os_error(), error)) {
            // The time is over, interrupted, or the kernel wants completions reaped first.
            Ok(_) | Err((Some(libc::ETIME | libc::EINTR | libc::EAGAIN | libc::EBUSY), _)) => Ok(()),
            Err((_, error)) => Err(error),
        }
    }

    /// What tells the kernel to do the request with the memory at `block`.
    fn entry(&self, request: Request, block: *mut u8) -> squeue::Entry {
        let (offset, length) = (request.offset_bytes, request.length_bytes as u32);
        match (request.kind, self.memory_registered) {
            (Kind::Read, true) => opcode::ReadFixed::new(FILE, block, length, 0).offset(offset).build(),
            (Kind::Read, false) => opcode::Read::new(FILE, block, length).offset(offset).build(),
            (Kind::Write, true) => opcode::WriteFixed::new(FILE, block, length, 0).offset(offset).build(),
            (Kind::Write, false) => opcode::Write::new(FILE, block, length).offset(offset).build(),
            (Kind::Sync, _) => opcode::Fsync::new(FILE).build(),
            (Kind::DataSync, _) => opcode::Fsync::new(FILE).flags(types::FsyncFlags::DATASYNC).build(),
        }
    }
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ring(memory registered: {})", self.memory_registered)
    }
}

/// The file's place among the registered ones.
const FILE: types::Fixed = types::Fixed(0);

#[cfg(test)]
mod tests;
