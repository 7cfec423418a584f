//! `ioengine=tokio-uring`: a file or block device with O_DIRECT through that runtime.
//!
//! Beside `raw` it says what the runtime costs: a task and a wake-up per request through tokio's epoll, no
//! registered file, no registered memory.

use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use nix::sys::timerfd::TimerFd;
use tokio_uring::Runtime;
use tokio_uring::buf::BoundedBuf;
use tokio_uring::fs::File;

use super::aligned::AlignedBlock;
use super::crew::Crew;
use super::target::{self, TargetError};
use super::timer::{self, EXPIRATIONS_BYTES};
use super::{Engine, EngineError};
use crate::job::Job;
use crate::meter::Meter;
use crate::pattern::{Kind, Request};
use crate::random::Random;

/// A file or block device, and the runtime it is used through.
pub struct TokioUringEngine {
    // First, so that nothing of the runtime outlives it.
    target: Rc<Target>,
    runtime: Runtime,
    target_bytes: u64,
    block_bytes_max: usize,
    seed: u64,
}

struct Target {
    path: PathBuf,
    file: File,
    /// tokio's own timers count whole milliseconds: the ring reads this one.
    timer: TimerFd,
    expirations: File,
}

/// Why a file or block device can't be used through tokio-uring.
#[derive(Debug, thiserror::Error)]
pub enum TokioUringError {
    /// The file.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The runtime.
    #[error("can't set up io_uring for tokio-uring: {0}; allow it, and raise the locked-memory limit")]
    Runtime(io::Error),
    /// The clock for requests that are due.
    #[error("can't wait for the next request: {0}")]
    Timer(io::Error),
}

type Block = AlignedBlock<Vec<u8>>;

impl TokioUringEngine {
    /// Opens the job's file, and fills what it lacks up to the job's size.
    pub fn open(job: &Job, path: &Path) -> Result<TokioUringEngine, TokioUringError> {
        let (file, target_bytes) = target::open(job, path)?;
        let (timer, expirations) = timer::timer_file().map_err(TokioUringError::Timer)?;
        let entries = (job.depth + EXTRA_ENTRIES).next_power_of_two();
        let runtime =
            Runtime::new(tokio_uring::builder().entries(entries)).map_err(TokioUringError::Runtime)?;
        let target = runtime.block_on(async {
            let (file, expirations) = (File::from_std(file), File::from_std(expirations));
            Rc::new(Target { path: path.to_owned(), file, timer, expirations })
        });
        let block_bytes_max = job.block_bytes_max as usize;
        Ok(TokioUringEngine { target, runtime, target_bytes, block_bytes_max, seed: job.seed })
    }
}

impl Engine for TokioUringEngine {
    fn target_bytes(&self) -> u64 {
        self.target_bytes
    }

    fn run(&mut self, meter: Meter) -> Result<Meter, EngineError> {
        let depth = meter.depth();
        let crew = Crew::new(meter);
        let mut random = Random::new(self.seed);
        self.runtime.block_on(async {
            let mut tasks = Vec::new();
            for _ in 0..depth {
                let mut block = Block::new(self.block_bytes_max);
                random.fill(block.bytes(self.block_bytes_max));
                tasks.push(tokio_uring::spawn(work(self.target.clone(), crew.clone(), block)));
            }
            for task in tasks {
                task.await.expect("nobody aborts a task, and none panics");
            }
        });
        Ok(crew.finish()?)
    }

    fn close(self: Box<Self>) -> Result<(), EngineError> {
        Ok(())
    }
}

/// One request after the other, until the job is over.
async fn work(target: Rc<Target>, crew: Rc<Crew<TokioUringError>>, mut block: Block) {
    while let Some(started) =
        crew.next(async |time| target.sleep(time).await.map_err(TokioUringError::Timer)).await
    {
        let length = started.request.length_bytes as usize;
        crew.prepare(&started, block.bytes(length));
        let result = execute(&target.file, started.request, &mut block).await;
        match target::check(&target.path, started.request, result) {
            Ok(()) => crew.complete(started, block.bytes(length)),
            Err(error) => crew.fail(error.into()),
        }
    }
}

impl Target {
    async fn sleep(&self, time: Duration) -> io::Result<()> {
        timer::set(&self.timer, time)?;
        self.expirations.read_at(vec![0; EXPIRATIONS_BYTES], 0).await.0.map(|_| ())
    }
}

/// How many bytes were read or written.
async fn execute(file: &File, request: Request, block: &mut Block) -> io::Result<usize> {
    let (memory, range) = match request.kind {
        Kind::Sync => return file.sync_all().await.map(|()| 0),
        Kind::DataSync => return file.sync_data().await.map(|()| 0),
        Kind::Read | Kind::Write => block.lend(request.length_bytes as usize),
    };
    let slice = memory.slice(range);
    let (result, slice) = match request.kind {
        Kind::Read => file.read_at(slice, request.offset_bytes).await,
        _ => file.write_at(slice, request.offset_bytes).submit().await,
    };
    block.give_back(slice.into_inner());
    result
}

/// The timer's, and one to spare.
const EXTRA_ENTRIES: u32 = 2;
