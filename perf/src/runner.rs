//! One job from its description to its figures.
//!
//! Each worker of a job has a thread, an engine and a load of its own. They open their targets one after the
//! other, so that the first one makes what is missing, and start together.

use std::io;
use std::panic;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use nix::sys::prctl;
use tracing::{info, warn};

use crate::engine::{self, EngineError};
use crate::job::Job;
use crate::load::Load;
use crate::meter::{Measured, Meter};
use crate::pattern::{Region, RegionError};
use crate::record::{Recorded, Recorder, Recording};
use crate::verify::VerifyError;

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
    /// The target doesn't hold what was written to it.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// A worker has no thread.
    #[error("can't start a thread for a worker: {0}; lower numjobs")]
    Thread(io::Error),
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
    let meters = run_workers(job, volume_file, recording)?;
    if let Some(failure) = meters.iter().find_map(Meter::failure) {
        return Err(failure.into());
    }
    if job.do_verify {
        info!("job {:?}: everything that it was to verify is as it was written", job.name);
    }
    Meter::finish_all(meters).map_err(RunProblem::Usage)
}

/// The meters of all workers, or the first error.
fn run_workers(
    job: &Job,
    volume_file: Option<&Path>,
    recording: &Recording,
) -> Result<Vec<Meter>, RunProblem> {
    let run = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
    thread::scope(|scope| {
        let mut workers = Vec::new();
        let mut gates = Vec::new();
        let mut problem = None;
        for index in 0..job.workers {
            let (opened, is_open) = mpsc::channel();
            let (gate, start) = mpsc::channel();
            let job = job.of_worker(index);
            let recorder = recording.recorder();
            let worker = move || work(&job, volume_file, run, recorder, &opened, &start);
            match thread::Builder::new().name(format!("worker-{index}")).spawn_scoped(scope, worker) {
                Ok(worker) => workers.push(worker),
                Err(error) => problem = Some(RunProblem::Thread(error)),
            }
            // It hung up: it can't start, and says why when it is joined.
            if problem.is_some() || is_open.recv().is_err() {
                gates.clear();
                break;
            }
            gates.push(gate);
        }
        let start = Instant::now();
        for gate in gates {
            // A worker that is gone says why when it is joined.
            let _sent = gate.send(start);
        }
        let mut meters = Vec::new();
        for worker in workers {
            match worker.join().unwrap_or_else(|payload| panic::resume_unwind(payload)) {
                Ok(meter) => meters.extend(meter),
                Err(error) => problem = problem.or(Some(error)),
            }
        }
        problem.map_or(Ok(meters), Err)
    })
}

/// One worker: opens the target, says so, and runs when it is told to; no meter if it isn't.
fn work(
    job: &Job,
    volume_file: Option<&Path>,
    run: u64,
    recorder: Recorder,
    opened: &mpsc::Sender<()>,
    start: &mpsc::Receiver<Instant>,
) -> Result<Option<Meter>, RunProblem> {
    if job.rates.is_limited()
        && let Err(error) = prctl::set_timerslack(TIMER_SLACK_NS)
    {
        warn!(
            "requests may start up to 50 us after they were due: the kernel refuses exact timers ({error})"
        );
    }
    let mut engine = engine::open(job, volume_file)?;
    let outcome = match Region::new(job, engine.target_bytes()) {
        Ok(region) => {
            let load = Load::new(job, region).of_run(run);
            // The one who waits for it may be gone; then there is no start either.
            let _sent = opened.send(());
            match start.recv() {
                Ok(start) => engine
                    .run(Meter::start_at(load, start).recorded_by(recorder))
                    .map(Some)
                    .map_err(RunProblem::Engine),
                Err(mpsc::RecvError) => Ok(None),
            }
        }
        Err(error) => Err(error.into()),
    };
    // In any case: an image that isn't closed stays leased for seconds.
    let closed = engine.close();
    let meter = outcome?;
    closed?;
    Ok(meter)
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// By default the kernel wakes sleepers up to 50 us late to save power.
const TIMER_SLACK_NS: libc::c_ulong = 1;
