//! What a job does while it runs: a line on the terminal, figures of each second, logs of each request.
//!
//! Each of a job's meters has a [`Recorder`] with a slot of its own, which nobody else touches but the
//! collector: a thread that once a second takes what is in all slots and leaves them empty. So a request
//! pays for a lock that is nearly always free and a second entry in a histogram, and everything else (merging,
//! percentiles, drawing, writing) happens beside it. Lines of the latency log go through a queue to a thread
//! that writes them.
//!
//! Bounded in memory: the slots don't grow; the series ends at [`series::POINTS_MAX`], and the queue at
//! [`latency_log::CHUNKS_MAX`] chunks, after which lines are left out and counted. Only requests that count
//! (not those of the ramp) are recorded.

mod collector;
mod interval_log;
pub mod latency_log;
mod recorder;
pub mod series;
pub mod status;

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use self::collector::Collector;
use self::interval_log::IntervalLog;
use self::latency_log::LatencyLog;
pub use self::recorder::Recorder;
use self::recorder::Slot;
use self::series::TimeSeries;
use self::status::{Display, Progress};
use crate::job::Job;

/// What is to be recorded of a job beside its series.
#[derive(Debug, Default)]
pub struct Options {
    /// How its progress is shown.
    pub display: Display,
    /// Where each of its requests is written down.
    pub latency_log: Option<PathBuf>,
    /// Where a histogram of each second is written down.
    pub interval_log: Option<IntervalLogOptions>,
}

/// Where and how histograms of each second are written down.
#[derive(Debug)]
pub struct IntervalLogOptions {
    /// The file that they are appended to.
    pub file: File,
    /// Its name, for errors.
    pub path: PathBuf,
    /// Begins the tag of each line, before the kind of requests.
    pub tag_prefix: String,
}

/// Why something isn't recorded.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// A log can't be written.
    #[error("{path}: can't write the log: {source}")]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no thread to record with.
    #[error("can't start a thread that records: {0}")]
    Thread(io::Error),
}

/// A job that is being recorded.
#[derive(Debug)]
pub struct Recording {
    slots: Slots,
    latency_log: Option<LatencyLog>,
    collector: JoinHandle<Recorded>,
    /// Hangs up when the job is over.
    running: Sender<()>,
}

/// What was recorded.
#[derive(Debug, Default)]
pub struct Recorded {
    /// Second by second.
    pub series: TimeSeries,
    /// The first log that couldn't be written.
    pub failure: Option<RecordError>,
}

/// The slots of all recorders; they come as workers start.
type Slots = Arc<Mutex<Vec<Arc<Mutex<Slot>>>>>;

impl Recording {
    /// Opens the logs and starts the threads.
    pub fn start(job: &Job, options: Options) -> Result<Recording, RecordError> {
        let latency_log = options.latency_log.map(LatencyLog::create).transpose()?;
        let slots = Slots::default();
        let progress = Progress::new(job, options.display);
        let collector = Collector::new(slots.clone(), progress);
        let log = options.interval_log.map(IntervalLog::new);
        let (running, stopped) = mpsc::channel();
        let collector = thread::Builder::new()
            .name("collector".into())
            .spawn(move || collector.run(&stopped, log))
            .map_err(RecordError::Thread)?;
        Ok(Recording { slots, latency_log, collector, running })
    }

    /// What one meter records with.
    pub fn recorder(&self) -> Recorder {
        let slot = Arc::new(Mutex::new(Slot::new()));
        recorder::lock(&self.slots).push(slot.clone());
        Recorder::new(slot, self.latency_log.as_ref().map(LatencyLog::lines))
    }

    /// Writes the rest. To be called when no recorder is left.
    pub fn finish(self) -> Recorded {
        drop(self.running);
        let mut recorded = self.collector.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        if let Some(Err(failure)) = self.latency_log.map(LatencyLog::finish) {
            recorded.failure.get_or_insert(failure);
        }
        recorded
    }
}
