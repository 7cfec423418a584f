//! What carries requests to a target.
//!
//! An engine is opened for one job, runs it once and is closed. To add one: give it a name in the job
//! file's keys and a variant of [`Target`], implement [`Engine`], and open it here. It decides for itself
//! how requests wait for each other (a ring, tasks, threads); when requests start, what they are and what
//! counts is the [`Meter`]'s.

mod aligned;
mod crew;
pub mod monoio_file;
pub mod nbd;
pub mod raw;
mod target;
mod timer;
pub mod tokio_uring_file;
pub mod volume;

use std::path::Path;

pub use self::target::TargetError;
use crate::job::{Job, Target};
use crate::meter::Meter;

/// A target that is open for one job.
pub trait Engine {
    /// Size of the target.
    fn target_bytes(&self) -> u64;

    /// Keeps the meter's depth of requests in flight as far as it gives them, sleeps while it says that
    /// nothing is due, and returns it when the last request completed. Blocks of writes are prepared by the
    /// meter, and contents of reads are shown to it. After the first error nothing is started any more, and
    /// the error is returned once nothing is in flight.
    fn run(&mut self, meter: Meter) -> Result<Meter, EngineError>;

    /// Gives the target back.
    fn close(self: Box<Self>) -> Result<(), EngineError>;
}

/// Why a target can't be opened, or failed.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A file or block device.
    #[error(transparent)]
    Raw(#[from] raw::RawError),
    /// A file or block device through monoio.
    #[error(transparent)]
    Monoio(#[from] monoio_file::MonoioError),
    /// A file or block device through tokio-uring.
    #[error(transparent)]
    TokioUring(#[from] tokio_uring_file::TokioUringError),
    /// An export of an NBD server.
    #[error(transparent)]
    Nbd(#[from] nbd::NbdError),
    /// An image.
    #[error(transparent)]
    Volume(#[from] volume::VolumeEngineError),
}

/// Opens what the job names. `volume_file` is needed for images only.
pub fn open(job: &Job, volume_file: Option<&Path>) -> Result<Box<dyn Engine>, EngineError> {
    Ok(match &job.target {
        Target::Raw { path } => Box::new(raw::RawEngine::open(job, path)?),
        Target::Monoio { path } => Box::new(monoio_file::MonoioEngine::open(job, path)?),
        Target::TokioUring { path } => Box::new(tokio_uring_file::TokioUringEngine::open(job, path)?),
        Target::Nbd { uri } => Box::new(nbd::NbdEngine::open(job, uri)?),
        Target::Volume { image } | Target::Brick { image } => {
            Box::new(volume::VolumeEngine::open(job, image, volume_file)?)
        }
    })
}
