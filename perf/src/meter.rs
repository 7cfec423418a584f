//! A load with a clock: what engines work off.

use std::io;
use std::time::Instant;

use crate::load::{Load, Started};
use crate::record::Recorder;
use crate::stats::Stats;
use crate::usage::Usage;

/// A running job. Reads the clock and the kernel's accounts where the load asks for them.
#[derive(Debug)]
pub struct Meter {
    load: Load,
    start: Instant,
    /// When the ramp was over.
    usage_before: Option<io::Result<Usage>>,
    recorder: Option<Recorder>,
}

/// What a job did.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Requests and their latencies.
    pub stats: Stats,
    /// From the first request that counts to the last completion, nanoseconds.
    pub elapsed_ns: u64,
    /// What it cost in that time.
    pub usage: Usage,
}

impl Meter {
    /// Starts now.
    pub fn start(load: Load) -> Meter {
        Meter { load, start: Instant::now(), usage_before: None, recorder: None }
    }

    /// Tells a recorder of each request that counts.
    pub fn recorded_by(self, recorder: Recorder) -> Meter {
        Meter { recorder: Some(recorder), ..self }
    }

    /// How many requests to keep in flight.
    pub fn depth(&self) -> u32 {
        self.load.depth()
    }

    /// The next request, to be started at once; `None` when the job ends with what is in flight.
    pub fn next_request(&mut self) -> Option<Started> {
        let started = self.load.poll_request(self.now_ns());
        if self.load.is_measuring() && self.usage_before.is_none() {
            self.usage_before = Some(Usage::now());
        }
        started
    }

    /// A request completed well.
    pub fn complete(&mut self, started: Started) {
        let now_ns = self.now_ns();
        if let Some(recorder) = &mut self.recorder {
            recorder.record(&started, now_ns);
        }
        self.load.handle_completion(started, now_ns);
    }

    /// Starts nothing more: something failed.
    pub fn stop(&mut self) {
        self.load.stop();
    }

    /// What was measured. To be called when the last request completed, before anything is closed.
    pub fn finish(self) -> io::Result<Measured> {
        let usage = match self.usage_before {
            Some(before) => Usage::now()?.since(&before?),
            None => Usage::default(),
        };
        Ok(Measured { elapsed_ns: self.load.elapsed_ns(), stats: self.load.stats().clone(), usage })
    }

    fn now_ns(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }
}
