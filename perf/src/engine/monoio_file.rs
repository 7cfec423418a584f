//! `ioengine=monoio`: a file or block device with O_DIRECT through the runtime of our client.
//!
//! Beside `raw` it says what the runtime costs: a task and a wake-up per request, no registered file, no
//! registered memory. Only with io_uring: where monoio falls back to epoll, file I/O blocks its thread.

use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use ::monoio::buf::{IoBuf, IoBufMut};
use ::monoio::fs::File;
use ::monoio::{IoUringDriver, Runtime, RuntimeBuilder};

use super::aligned::AlignedBlock;
use super::crew::Crew;
use super::target::{self, TargetError};
use super::timer::Timer;
use super::{Engine, EngineError};
use crate::job::Job;
use crate::meter::Meter;
use crate::pattern::{Kind, Request};
use crate::random::Random;

/// A file or block device, and the runtime it is used through.
pub struct MonoioEngine {
    runtime: Runtime<IoUringDriver>,
    file: Rc<Target>,
    target_bytes: u64,
    block_bytes_max: usize,
    seed: u64,
}

struct Target {
    path: PathBuf,
    file: File,
}

/// Why a file or block device can't be used through monoio.
#[derive(Debug, thiserror::Error)]
pub enum MonoioError {
    /// The file.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The runtime.
    #[error("can't set up io_uring for monoio: {0}; allow it, and raise the locked-memory limit")]
    Runtime(io::Error),
    /// The clock for requests that are due.
    #[error("can't wait for the next request: {0}")]
    Timer(io::Error),
}

type Block = AlignedBlock<Box<[u8]>>;

impl MonoioEngine {
    /// Opens the job's file, and fills what it lacks up to the job's size.
    pub fn open(job: &Job, path: &Path) -> Result<MonoioEngine, MonoioError> {
        let (file, target_bytes) = target::open(job, path)?;
        let mut runtime = RuntimeBuilder::<IoUringDriver>::new()
            .with_entries(job.depth + EXTRA_ENTRIES)
            .build()
            .map_err(MonoioError::Runtime)?;
        let file = runtime.block_on(async { File::from_std(file) }).map_err(MonoioError::Runtime)?;
        let file = Rc::new(Target { path: path.to_owned(), file });
        let block_bytes_max = job.block_bytes_max as usize;
        Ok(MonoioEngine { runtime, file, target_bytes, block_bytes_max, seed: job.seed })
    }
}

impl Engine for MonoioEngine {
    fn target_bytes(&self) -> u64 {
        self.target_bytes
    }

    fn run(&mut self, meter: Meter) -> Result<Meter, EngineError> {
        let MonoioEngine { runtime, file, block_bytes_max, seed, .. } = self;
        let depth = meter.depth();
        let crew = Crew::new(meter);
        let mut random = Random::new(*seed);
        let finished: Result<(), MonoioError> = runtime.block_on(async {
            let timer = Rc::new(Timer::new(true).map_err(MonoioError::Timer)?);
            let mut tasks = Vec::new();
            for _ in 0..depth {
                let mut block = Block::new(*block_bytes_max);
                random.fill(block.bytes(*block_bytes_max));
                tasks.push(::monoio::spawn(work(file.clone(), crew.clone(), timer.clone(), block)));
            }
            for task in tasks {
                task.await;
            }
            Ok(())
        });
        finished?;
        Ok(crew.finish()?)
    }

    fn close(self: Box<Self>) -> Result<(), EngineError> {
        Ok(())
    }
}

/// One request after the other, until the job is over.
async fn work(target: Rc<Target>, crew: Rc<Crew<MonoioError>>, timer: Rc<Timer>, mut block: Block) {
    while let Some(started) =
        crew.next(async |time| timer.sleep(time).await.map_err(MonoioError::Timer)).await
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

/// How many bytes were read or written.
async fn execute(file: &File, request: Request, block: &mut Block) -> io::Result<usize> {
    let (memory, range) = match request.kind {
        Kind::Sync => return file.sync_all().await.map(|()| 0),
        Kind::DataSync => return file.sync_data().await.map(|()| 0),
        Kind::Read | Kind::Write => block.lend(request.length_bytes as usize),
    };
    let (result, memory) = if request.kind == Kind::Read {
        let (result, slice) = file.read_at(memory.slice_mut(range), request.offset_bytes).await;
        (result, slice.into_inner())
    } else {
        let (result, slice) = file.write_at(memory.slice(range), request.offset_bytes).await;
        (result, slice.into_inner())
    };
    block.give_back(memory);
    result
}

/// The timer's, and one to spare.
const EXTRA_ENTRIES: u32 = 2;
