//! One job from its description to its figures.

use std::io;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::engine::{self, EngineError};
use crate::job::Job;
use crate::load::Load;
use crate::meter::{Measured, Meter};
use crate::pattern::{Region, RegionError};
use crate::record::{Recorded, Recording};

/// A job that ran.
#[derive(Debug)]
pub struct Outcome {
    /// What was asked.
    pub job: Job,
    /// What was measured.
    pub measured: Measured,
    /// What was recorded on the way.
    pub recorded: Recorded,
    /// When it ended, milliseconds since 1970.
    pub ended_unix_ms: u64,
}

/// Why a job didn't run to its end.
#[derive(Debug, thiserror::Error)]
#[error("job {job:?}: {source}")]
pub struct RunError {
    /// Which job.
    pub job: String,
    /// Why.
    pub source: RunProblem,
}

/// What was in the way of a job.
#[derive(Debug, thiserror::Error)]
pub enum RunProblem {
    /// The target.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The target is too small.
    #[error(transparent)]
    Region(#[from] RegionError),
    /// The kernel doesn't say what the job cost.
    #[error("can't read this process's resource usage: {0}")]
    Usage(io::Error),
}

/// Runs a job. The volume file is needed by jobs on images.
pub fn run(job: Job, volume_file: Option<&Path>, recording: Recording) -> Result<Outcome, RunError> {
    let measured = measure(&job, volume_file, &recording);
    // In any case: it holds the terminal's line.
    let recorded = recording.finish();
    match measured {
        Ok(measured) => Ok(Outcome { job, measured, recorded, ended_unix_ms: unix_ms() }),
        Err(source) => Err(RunError { job: job.name, source }),
    }
}

fn measure(job: &Job, volume_file: Option<&Path>, recording: &Recording) -> Result<Measured, RunProblem> {
    let mut engine = engine::open(job, volume_file)?;
    let outcome = match Region::new(job, engine.target_bytes()) {
        Ok(region) => engine
            .run(Meter::start(Load::new(job, region)).recorded_by(recording.recorder()))
            .map_err(RunProblem::Engine)
            .and_then(|meter| meter.finish().map_err(RunProblem::Usage)),
        Err(error) => Err(error.into()),
    };
    // In any case: an image that isn't closed stays leased for seconds.
    let closed = engine.close();
    let measured = outcome?;
    closed?;
    Ok(measured)
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
