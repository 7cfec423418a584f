//! `ioengine=volume`: an image of a replicated volume, through the client library in this process.
//!
//! One task per request in flight, all on one thread, as every front end of ours does it. Writes share
//! their memory with the client (`Bytes`), so nothing is copied that a front end wouldn't copy.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::path::Path;
use std::rc::Rc;

use brick_client::{Image, ImageError, ImageName, OpenOptions, Volume, VolumeConfig, VolumeError};
use bytes::Bytes;
use monoio::{FusionDriver, FusionRuntime, RuntimeBuilder};

use super::{Engine, EngineError};
use crate::job::Job;
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

type Runtime = FusionRuntime<
    monoio::time::TimeDriver<monoio::IoUringDriver>,
    monoio::time::TimeDriver<monoio::LegacyDriver>,
>;

/// Why an image can't be opened, or failed.
#[derive(Debug, thiserror::Error)]
pub enum VolumeEngineError {
    /// Nobody said which volume.
    #[error("no volume file: ioengine=volume works on a volume; give its file with -v FILE.toml")]
    NoVolumeFile,
    /// The runtime.
    #[error("can't start the I/O runtime: {0}; is the locked-memory limit too low?")]
    Runtime(io::Error),
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
        let file = file.ok_or(VolumeEngineError::NoVolumeFile)?;
        let config = VolumeConfig::load(file).map_err(VolumeError::from)?;
        let volume = Volume::new(config, &format!("brick-perf (pid {})", std::process::id()));
        let mut runtime = RuntimeBuilder::<FusionDriver>::new()
            .with_entries(RING_ENTRIES)
            .enable_timer()
            .build()
            .map_err(VolumeEngineError::Runtime)?;
        let options = OpenOptions { read_only: !job.writes(), ..OpenOptions::default() };
        let image = runtime.block_on(volume.open_image(name, options))?;
        let mut random = Random::new(job.seed);
        let mut random_block = || {
            let mut block = vec![0; job.block_bytes as usize];
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
        let shared = Rc::new(RefCell::new(Shared { meter, failure: None }));
        let (image, blocks) = (&self.image, &self.blocks);
        self.runtime.block_on(async {
            let workers: Vec<_> = blocks
                .iter()
                .map(|block| monoio::spawn(work(image.clone(), shared.clone(), block.clone())))
                .collect();
            for worker in workers {
                worker.await;
            }
        });
        let Shared { meter, failure } = Rc::into_inner(shared).expect("the workers are gone").into_inner();
        failure.map_or(Ok(meter), |failure| Err(failure.into()))
    }

    fn close(self: Box<Self>) -> Result<(), EngineError> {
        let VolumeEngine { mut runtime, image, .. } = *self;
        runtime.block_on(image.close()).map_err(|source| failed(&image, "close", source))?;
        Ok(())
    }
}

/// What the workers of a job have in common. Never borrowed across an await.
struct Shared {
    meter: Meter,
    failure: Option<VolumeEngineError>,
}

/// One request after the other, until the job is over.
async fn work(image: Image, shared: Rc<RefCell<Shared>>, block: Bytes) {
    loop {
        let next = shared.borrow_mut().meter.next_request();
        let Some(started) = next else { return };
        let result = execute(&image, started.request, &block).await;
        let mut shared = shared.borrow_mut();
        match result {
            Ok(()) => shared.meter.complete(started),
            Err(error) => {
                shared.meter.stop();
                shared.failure.get_or_insert(error);
                return;
            }
        }
    }
}

async fn execute(image: &Image, request: Request, block: &Bytes) -> Result<(), VolumeEngineError> {
    let Request { kind, offset_bytes, length_bytes } = request;
    let (action, result) = match kind {
        Kind::Read => ("read", image.read_at(offset_bytes, length_bytes as usize).await.map(drop)),
        Kind::Write => ("write", image.write_at(offset_bytes, block.clone(), false).await),
        Kind::Sync => ("flush", image.flush().await),
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
