//! One core's io_uring with a slab of the operations in flight.
//!
//! Invariant: whatever the kernel reads or writes for an operation (buffers, paths, message headers,
//! descriptors) is owned by the operation's entry in the slab, behind a pointer, until its completion
//! was reaped. So nothing that happens to a connection or a file meanwhile can free it.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use io_uring::types::{CancelBuilder, SubmitArgs, Timespec};
use io_uring::{IoUring, opcode, squeue};
use slab::Slab;
use tracing::warn;

use crate::buffer::Pool;

/// The kernel won't give us a ring.
#[derive(Debug, thiserror::Error)]
#[error(
    "can't set up io_uring: {0}; allow it (sysctl kernel.io_uring_disabled=0, the container's seccomp profile) on Linux 6.1 or later"
)]
pub struct RingError(#[from] io::Error);

/// When the kernel does what it put off until a completion could be told to the thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RingMode {
    /// When the thread enters it to wait: SINGLE_ISSUER, DEFER_TASKRUN, TASKRUN_FLAG (Linux 6.1).
    #[default]
    Deferred,
    /// With the thread's next system call: COOP_TASKRUN, TASKRUN_FLAG (Linux 5.19).
    Cooperative,
    /// At once: the thread is interrupted for it.
    Plain,
}

/// A ring whose operations are described by `T`.
pub struct Ring<T> {
    ring: IoUring,
    operations: Slab<T>,
    /// Entries that found the submission queue full; they enter it before the next wait.
    backlog: VecDeque<squeue::Entry>,
    /// The kernel says by a flag when it has deferred completions, which an enter makes visible.
    has_taskrun_flag: bool,
    buffers_registered: bool,
    files_registered: bool,
}

impl<T> Ring<T> {
    /// A ring for the calling thread, which must be the only one to use it. Where the kernel doesn't know the mode it is a
    /// plain one.
    pub fn new(mode: RingMode) -> Result<Ring<T>, RingError> {
        let mut builder = IoUring::builder();
        builder.setup_cqsize(COMPLETION_ENTRIES);
        let mut preferred = builder.clone();
        match mode {
            RingMode::Deferred => {
                preferred.setup_submit_all().setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag()
            }
            RingMode::Cooperative => preferred.setup_submit_all().setup_coop_taskrun().setup_taskrun_flag(),
            RingMode::Plain => &mut preferred,
        };
        let (ring, has_taskrun_flag) = match preferred.build(SUBMISSION_ENTRIES) {
            Ok(ring) => (ring, mode != RingMode::Plain),
            Err(error) if mode == RingMode::Plain => return Err(error.into()),
            Err(error) => {
                let plain = builder.build(SUBMISSION_ENTRIES)?;
                warn!("the kernel refuses a ring of mode {mode:?} ({error}): a plain ring is used");
                (plain, false)
            }
        };
        Ok(Ring {
            ring,
            operations: Slab::new(),
            backlog: VecDeque::new(),
            has_taskrun_flag,
            buffers_registered: false,
            files_registered: false,
        })
    }

    /// Registers the pool's memory as buffer 0. Without that everything works, at a higher price.
    pub fn register_pool(&mut self, pool: &Pool) -> io::Result<()> {
        let (memory, bytes) = pool.region();
        let region = libc::iovec { iov_base: memory.as_ptr().cast(), iov_len: bytes };
        // SAFETY: the region stays mapped while the pool or a buffer of it lives, and every fixed-buffer
        // operation owns a buffer; the kernel pins the pages itself.
        unsafe { self.ring.submitter().register_buffers(&[region])? };
        self.buffers_registered = true;
        Ok(())
    }

    /// Registers a table of `count` empty places for files.
    pub fn register_files(&mut self, count: u32) -> io::Result<()> {
        self.ring.submitter().register_files_sparse(count)?;
        self.files_registered = true;
        Ok(())
    }

    /// Puts a file into its place in the table, or empties the place with -1. Returns whether the file can
    /// be used by its place.
    pub fn set_file(&mut self, place: u32, file: RawFd) -> bool {
        let updated = |ring: &IoUring| ring.submitter().register_files_update(place, &[file]);
        self.files_registered && updated(&self.ring).is_ok()
    }

    /// Whether the pool is registered as buffer 0.
    pub fn has_pool(&self) -> bool {
        self.buffers_registered
    }

    /// Starts an operation: `entry` describes to the kernel what `operation` says. It enters the kernel with
    /// the next wait, or before. Returns its key for [`Ring::cancel`].
    ///
    /// # Safety
    ///
    /// Everything that `entry` points to is owned by `operation`, behind a pointer (the operation itself
    /// moves), and isn't touched by anybody else until the operation is returned by
    /// [`Ring::next_completion`].
    pub unsafe fn start(&mut self, operation: T, entry: squeue::Entry) -> u64 {
        let key = self.operations.insert(operation) as u64;
        assert!(key < NOBODY);
        self.push(entry.user_data(key));
        key
    }

    /// Asks the kernel to end an operation early; it completes as any other, probably with ECANCELED.
    pub fn cancel(&mut self, key: u64) {
        self.push(opcode::AsyncCancel::new(key).build().user_data(NOBODY));
    }

    /// Submits what was started, and says whether something has completed. Enters the kernel only if there is a reason.
    pub fn look(&mut self) -> io::Result<bool> {
        self.push_backlog();
        let submission = self.ring.submission();
        let idle = submission.is_empty() && !submission.taskrun() && !submission.cq_overflow();
        drop(submission);
        if !idle || !self.has_taskrun_flag {
            match self.ring.submitter().submit() {
                Ok(_) => {}
                Err(error) if is_passing(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(!self.ring.completion().is_empty())
    }

    /// Submits what was started if that is a burst; returns whether it was.
    pub fn submit_burst(&mut self) -> bool {
        let is_burst = self.ring.submission().len() >= BURST_ENTRIES;
        if is_burst {
            self.submit();
        }
        is_burst
    }

    /// Submits what was started.
    pub fn submit(&mut self) {
        self.push_backlog();
        // An error meets the next wait, too.
        let _seen_again = self.ring.submitter().submit();
    }

    /// Submits what was started and sleeps until something completes or `timeout` is over.
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.push_backlog();
        let submitter = self.ring.submitter();
        let result = match timeout {
            _ if !self.backlog.is_empty() => submitter.submit(),
            None => submitter.submit_and_wait(1),
            Some(timeout) => {
                let timespec = Timespec::from(timeout);
                submitter.submit_with_args(1, &SubmitArgs::new().timespec(&timespec))
            }
        };
        match result {
            Err(error) if !is_passing(&error) => Err(error),
            _ => Ok(()),
        }
    }

    /// The next operation that ended, and its result: not negative, or a negative errno.
    pub fn next_completion(&mut self) -> Option<(T, i32)> {
        loop {
            let completion = self.ring.completion().next()?;
            if completion.user_data() != NOBODY {
                // A key that isn't in the slab would be a completion of nothing: `remove` panics.
                let operation = self.operations.remove(completion.user_data() as usize);
                return Some((operation, completion.result()));
            }
        }
    }

    /// Cancels everything and waits for it, so that the memory of operations can be freed.
    pub fn drain(mut self) {
        let deadline = Instant::now() + DRAIN_TIMEOUT;
        self.push(opcode::AsyncCancel2::new(CancelBuilder::any()).build().user_data(NOBODY));
        while !self.operations.is_empty() && Instant::now() < deadline {
            if self.wait(Some(DRAIN_TIMEOUT)).is_err() {
                break;
            }
            while self.next_completion().is_some() {}
        }
        if !self.operations.is_empty() {
            warn!("{} operations don't end; their memory is given up", self.operations.len());
            std::mem::forget(std::mem::take(&mut self.operations));
        }
    }

    fn push(&mut self, entry: squeue::Entry) {
        self.backlog.push_back(entry);
        if self.backlog.len() == 1 {
            self.push_backlog();
        }
    }

    fn push_backlog(&mut self) {
        while let Some(entry) = self.backlog.front() {
            // SAFETY: `start` demands that the operation owns what the entry points to until it completes;
            // entries without an operation (cancellations) point to nothing.
            if unsafe { self.ring.submission().push(entry) }.is_ok() {
                self.backlog.pop_front();
            } else if self.ring.submit().is_err() || self.ring.submission().is_full() {
                return;
            }
        }
    }
}

/// Errors after which the caller goes on. EBUSY, EAGAIN: the kernel wants completions reaped first, which is what the
/// caller does next.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN))
}

impl<T> fmt::Debug for Ring<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ring({} operations)", self.operations.len())
    }
}

/// The user data of entries whose completion nobody waits for.
const NOBODY: u64 = u64::MAX;
/// Operations that don't wait for the end of a turn.
const BURST_ENTRIES: usize = 16;
/// Operations that enter the kernel in one go; more take several enters.
const SUBMISSION_ENTRIES: u32 = 512;
/// Room for completions; beyond it the kernel keeps them for us (NODROP) at a price.
const COMPLETION_ENTRIES: u32 = 4096;
/// How long the end of a ring waits for its operations.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
