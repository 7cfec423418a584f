//! What carries requests to a target.
//!
//! An engine is opened for one job, runs it once and is closed. To add one: give it a name in the job
//! file's keys and a variant of [`Target`], implement [`Engine`], and open it here. It decides for itself
//! how requests wait for each other (a ring, tasks, threads); when requests start, what they are and what
//! counts is the [`Meter`]'s.

pub mod raw;
pub mod volume;

use std::path::Path;

use crate::job::{Job, Target};
use crate::meter::Meter;

/// A target that is open for one job.
pub trait Engine {
    /// Size of the target.
    fn target_bytes(&self) -> u64;

    /// Keeps the meter's depth of requests in flight until it gives no more, and returns it when the last
    /// completed. After the first error nothing is started any more, and the error is returned once
    /// nothing is in flight.
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
    /// An image.
    #[error(transparent)]
    Volume(#[from] volume::VolumeEngineError),
}

/// Opens what the job names. `volume_file` is needed for images only.
pub fn open(job: &Job, volume_file: Option<&Path>) -> Result<Box<dyn Engine>, EngineError> {
    Ok(match &job.target {
        Target::Raw { path } => Box::new(raw::RawEngine::open(job, path)?),
        Target::Volume { image } => Box::new(volume::VolumeEngine::open(job, image, volume_file)?),
    })
}
