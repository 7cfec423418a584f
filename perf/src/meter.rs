//! A load with a clock: what engines work off.

use std::io;
use std::time::{Duration, Instant};

use crate::load::{Load, Next, Started};
use crate::record::Recorder;
use crate::stats::Stats;
use crate::usage::Usage;
use crate::verify::VerifyError;

/// A running job. Reads the clock and the kernel's accounts where the load asks for them.
#[derive(Debug)]
pub struct Meter {
    load: Load,
    start: Instant,
    /// When the ramp was over.
    usage_before: Option<io::Result<Usage>>,
    /// When the last request that counts completed; what verification costs doesn't count.
    usage_after: Option<io::Result<Usage>>,
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
        Meter::start_at(load, Instant::now())
    }

    /// Starts at a moment that several have in common.
    pub fn start_at(load: Load, start: Instant) -> Meter {
        Meter { load, start, usage_before: None, usage_after: None, recorder: None }
    }

    /// Tells a recorder of each request that counts.
    pub fn recorded_by(self, recorder: Recorder) -> Meter {
        Meter { recorder: Some(recorder), ..self }
    }

    /// How many requests to keep in flight.
    pub fn depth(&self) -> u32 {
        self.load.depth()
    }

    /// What to do next.
    pub fn next_request(&mut self) -> Next {
        let next = self.load.poll_request(self.now_ns());
        if self.load.is_measuring() && self.usage_before.is_none() {
            self.usage_before = Some(Usage::now());
        }
        self.note_end();
        next
    }

    /// How long it is until a time of [`Next::At`]; never nothing, as that switches timers off.
    pub fn time_until(&self, at_ns: u64) -> Duration {
        Duration::from_nanos(at_ns.saturating_sub(self.now_ns()).max(1))
    }

    /// Whether every write has a content of its own, which [`Meter::prepare`] makes.
    pub fn prepares_blocks(&self) -> bool {
        self.load.prepares_blocks()
    }

    /// Makes a block what a write is to write, if that matters to the job.
    pub fn prepare(&self, started: &Started, block: &mut [u8]) {
        self.load.prepare(started, block);
    }

    /// A request completed well; a read with that content.
    pub fn complete(&mut self, started: Started, content: &[u8]) {
        let now_ns = self.now_ns();
        if let Some(recorder) = &mut self.recorder {
            recorder.record(&started, now_ns);
        }
        self.load.handle_completion(started, content, now_ns);
        self.note_end();
    }

    /// Starts nothing more: something failed.
    pub fn stop(&mut self) {
        self.load.stop();
    }

    /// The block that isn't what was written, if there was one.
    pub fn failure(&self) -> Option<VerifyError> {
        self.load.failure()
    }

    /// What was measured. To be called when the last request completed.
    pub fn finish(self) -> io::Result<Measured> {
        Meter::finish_all(vec![self])
    }

    /// What meters that started together measured, as one: from the begin of the first to the end of the
    /// last. The kernel's accounts are those of the process, so they hold the work of all.
    pub fn finish_all(meters: Vec<Meter>) -> io::Result<Measured> {
        let mut stats = Stats::new();
        let mut span: Option<(u64, u64)> = None;
        let (mut before, mut after): (Option<Usage>, Option<Usage>) = (None, None);
        for meter in meters {
            stats.merge(meter.load.stats());
            let Some((began_ns, ended_ns)) = meter.load.span_ns() else { continue };
            let (first, last) = span.unwrap_or((began_ns, ended_ns));
            span = Some((first.min(began_ns), last.max(ended_ns)));
            if let Some(usage) = meter.usage_before.transpose()? {
                before = Some(before.map_or(usage, |before| before.min(&usage)));
            }
            let usage = meter.usage_after.unwrap_or_else(Usage::now)?;
            after = Some(after.map_or(usage, |after| after.max(&usage)));
        }
        let usage = match (before, after) {
            (Some(before), Some(after)) => after.since(&before),
            _ => Usage::default(),
        };
        Ok(Measured { elapsed_ns: span.map_or(0, |(first, last)| last - first), stats, usage })
    }

    fn note_end(&mut self) {
        if self.usage_after.is_none() && self.load.is_measured() {
            self.usage_after = Some(Usage::now());
        }
    }

    fn now_ns(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }
}
