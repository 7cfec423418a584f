//! `ioengine=volume`: an image of a replicated volume, through the client library in this process; and
//! `ioengine=brick`: the same on one brick without replication, so that the difference is what that costs.
//!
//! One task per request in flight, all on one thread, as every front end of ours does it. Writes share
//! their memory with the client (`Bytes`), so nothing is copied that a front end wouldn't copy.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use brick_client::{Image, ImageError, ImageName, OpenOptions, Runtime, Volume, VolumeConfig, VolumeError};
use bytes::{Bytes, BytesMut};
use monoio::FusionRuntime;

use super::crew::Crew;
use super::timer::Timer;
use super::{Engine, EngineError};
use crate::job::{Job, Target};
use crate::load::Started;
use crate::meter::Meter;
use crate::pattern::{Kind, Request};
use crate::random::Random;

/// An open image and the runtime it lives on.
pub struct VolumeEngine {
    runtime: Runtime,
    image: Image,
    /// What is written, again and again; a buffer for each request in flight, so that neighbours differ.
    blocks: Vec<Bytes>,
}

/// Why an image can't be opened, or failed.
#[derive(Debug, thiserror::Error)]
pub enum VolumeEngineError {
    /// Nobody said which volume.
    #[error("no volume file: ioengine={0} works on a volume; give its file with -v FILE.toml")]
    NoVolumeFile(&'static str),
    /// It would measure replication, too, under a name that says it doesn't.
    #[error(
        "{}: the volume is replicated, and ioengine=brick measures one brick; use ioengine=volume, or a volume made by \
         `brickctl volume create --unreplicated`",
        .0.display()
    )]
    Replicated(PathBuf),
    /// The runtime.
    #[error("can't start the I/O runtime: {0}; is the locked-memory limit too low?")]
    Runtime(io::Error),
    /// The clock for requests that are due.
    #[error("can't wait for the next request: {0}")]
    Timer(io::Error),
    /// The volume.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// The image.
    #[error("image {name:?}: {action} failed: {source}")]
    Image {
        /// Which.
        name: String,
        /// What was tried.
        action: &'static str,
        /// Why.
        source: ImageError,
    },
}

impl VolumeEngine {
    /// Opens the image; to read only, if the job doesn't write.
    pub fn open(job: &Job, name: &ImageName, file: Option<&Path>) -> Result<VolumeEngine, VolumeEngineError> {
        let file = file.ok_or(VolumeEngineError::NoVolumeFile(job.target.engine_name()))?;
        let config = VolumeConfig::load(file).map_err(VolumeError::from)?;
        if matches!(job.target, Target::Brick { .. }) && !config.unreplicated {
            return Err(VolumeEngineError::Replicated(file.to_path_buf()));
        }
        let volume = Volume::new(config, &format!("brick-perf (pid {})", std::process::id()));
        let mut runtime = start_runtime().map_err(VolumeEngineError::Runtime)?;
        let options = OpenOptions { read_only: !job.writes(), ..OpenOptions::default() };
        let image = runtime.block_on(volume.open_image(name, options))?;
        let mut random = Random::new(job.seed);
        let mut random_block = || {
            let mut block = vec![0; job.block_bytes_max as usize];
            random.fill(&mut block);
            Bytes::from(block)
        };
        let blocks = (0..job.depth).map(|_| random_block()).collect();
        Ok(VolumeEngine { runtime, image, blocks })
    }
}

impl Engine for VolumeEngine {
    fn target_bytes(&self) -> u64 {
        self.image.size_bytes()
    }

    fn run(&mut self, meter: Meter) -> Result<Meter, EngineError> {
        assert_eq!(meter.depth() as usize, self.blocks.len(), "opened for the same job");
        let crew = Crew::new(meter);
        let has_ring = matches!(self.runtime, FusionRuntime::Uring(_));
        let (image, blocks) = (&self.image, &self.blocks);
        let finished: Result<(), VolumeEngineError> = self.runtime.block_on(async {
            let timer = Rc::new(Timer::new(has_ring).map_err(VolumeEngineError::Timer)?);
            let workers: Vec<_> = blocks
                .iter()
                .map(|block| monoio::spawn(work(image.clone(), crew.clone(), timer.clone(), block.clone())))
                .collect();
            for worker in workers {
                worker.await;
            }
            Ok(())
        });
        finished?;
        Ok(crew.finish()?)
    }

    fn close(self: Box<Self>) -> Result<(), EngineError> {
        let VolumeEngine { mut runtime, image, .. } = *self;
        runtime.block_on(image.close()).map_err(|source| failed(&image, "close", source))?;
        Ok(())
    }
}

/// A runtime with timers; on io_uring where that is allowed.
pub(super) fn start_runtime() -> io::Result<Runtime> {
    brick_client::start_runtime(RING_ENTRIES)
}

/// One request after the other, until the job is over.
async fn work(image: Image, crew: Rc<Crew<VolumeEngineError>>, timer: Rc<Timer>, block: Bytes) {
    while let Some(started) =
        crew.next(async |time| timer.sleep(time).await.map_err(VolumeEngineError::Timer)).await
    {
        let content = block_of(&crew, &started, &block);
        match execute(&image, started.request, content).await {
            Ok(content) => crew.complete(started, &content),
            Err(error) => crew.fail(error),
        }
    }
}

/// What a write writes: the task's block, or its own if each has one.
fn block_of(crew: &Crew<VolumeEngineError>, started: &Started, block: &Bytes) -> Bytes {
    let Request { kind, length_bytes, .. } = started.request;
    match kind {
        Kind::Write if crew.prepares_blocks() => {
            let mut own = BytesMut::zeroed(length_bytes as usize);
            crew.prepare(started, &mut own);
            own.freeze()
        }
        Kind::Write => block.slice(..length_bytes as usize),
        Kind::Read | Kind::Sync | Kind::DataSync => Bytes::new(),
    }
}

/// What was read, if something was.
async fn execute(image: &Image, request: Request, block: Bytes) -> Result<Bytes, VolumeEngineError> {
    let Request { kind, offset_bytes, length_bytes } = request;
    let nothing = |()| Bytes::new();
    let (action, result) = match kind {
        Kind::Read => ("read", image.read_at(offset_bytes, length_bytes as usize).await),
        Kind::Write => ("write", image.write_at(offset_bytes, block, false).await.map(nothing)),
        Kind::Sync | Kind::DataSync => ("flush", image.flush().await.map(nothing)),
    };
    result.map_err(|source| failed(image, action, source))
}

fn failed(image: &Image, action: &'static str, source: ImageError) -> VolumeEngineError {
    VolumeEngineError::Image { name: image.name().to_owned(), action, source }
}

impl fmt::Debug for VolumeEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VolumeEngine({:?})", self.image.name())
    }
}

/// As `brickctl` sizes its ring: the client's sockets, never its requests, use entries.
const RING_ENTRIES: u32 = 1024;
