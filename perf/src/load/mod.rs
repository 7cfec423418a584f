//! A job's load, without a clock or a target: when to ask for what, and what counts.
//!
//! The caller keeps up to `depth` requests in flight: it calls [`Load::poll_request`] while it has room,
//! does what [`Next`] says, and calls [`Load::handle_completion`] for each request that completed. Once
//! `poll_request` said [`Next::Over`] it says so for ever, and the job is over when nothing is in flight any
//! more.
//!
//! A job has up to three parts: its reads and writes, a last sync, and the reading of what it wrote if that
//! is to be verified. Only requests of the first two that were started after the ramp count. The time that
//! counts starts with the first of them and ends with the completion of the last, so what is in flight at
//! the end is no free bonus.
//!
//! A latency counts from the start of a request; of a request that has a rate, from the moment at which it
//! was due, however late it could be started.

mod pace;
mod pauses;

#[cfg(test)]
mod tests;

use std::time::Duration;

use self::pace::{Due, Pace};
use self::pauses::{Pause, Pauses};
use crate::job::{Job, Mix};
use crate::pattern::{Kind, Pattern, Region, Request};
use crate::stats::Stats;
use crate::verify::{Verifier, VerifyError};

/// A job that runs.
#[derive(Clone, Debug)]
pub struct Load {
    pattern: Pattern,
    pace: Pace,
    pauses: Pauses,
    depth: u32,
    mix: Mix,
    ramp_ns: u64,
    /// From the end of the ramp on.
    runtime_ns: Option<u64>,
    /// Reads and writes that may still be started after the ramp, and their bytes.
    requests_left: u64,
    bytes_left: u64,
    syncs: Syncs,
    /// Of a job with `verify`.
    verifier: Option<Verifier>,
    reads_again: bool,
    failure: Option<VerifyError>,
    part: Part,
    /// The kind of the next request, and the request itself with its due time, while they have to wait.
    next_kind: Option<Kind>,
    held: Option<(Request, u64)>,
    in_flight: u32,
    /// When the first request that counts was started.
    began_ns: Option<u64>,
    /// When the last request that counts completed.
    ended_ns: u64,
    stats: Stats,
}

/// What the caller does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Starts this, at once.
    Start(Started),
    /// Asks again at that time. Completions before it change nothing.
    At(u64),
    /// Asks again after the next completion; something is in flight.
    AfterCompletion,
    /// Nothing more. The job ends with what is in flight.
    Over,
}

/// A request in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a request that isn't completed holds up the end"]
pub struct Started {
    /// What to do.
    pub request: Request,
    /// From when on its latency counts.
    at_ns: u64,
    counts: bool,
    /// Of a write that is verified.
    stamp: u32,
    check: Check,
}

/// What a read is to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    Nothing,
    /// Anything that was written to be verified.
    Any,
    /// What this job wrote.
    Written,
}

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Running,
    /// Nothing of the first part starts any more, but some may be in flight.
    Ending,
    Rereading,
    Over,
}

/// When syncs follow writes.
#[derive(Clone, Debug)]
struct Syncs {
    every: u64,
    data_every: u64,
    writes: u64,
    writes_of_data: u64,
    at_end: bool,
}

impl Started {
    /// What it took until that time, if it counts.
    pub fn latency_ns(&self, now_ns: u64) -> Option<u64> {
        self.counts.then(|| now_ns.saturating_sub(self.at_ns))
    }
}

impl Load {
    /// The job in its region.
    pub fn new(job: &Job, region: Region) -> Load {
        let verifier = job.verify.then(|| Verifier::new(region, job.block_bytes_max, job.seed));
        Load {
            pattern: Pattern::new(job, region),
            pace: Pace::new(&job.rates),
            pauses: Pauses::new(job.think),
            depth: job.depth,
            mix: job.mix,
            ramp_ns: nanoseconds(job.ramp_time),
            runtime_ns: job.runtime.map(nanoseconds),
            requests_left: job.requests_max.unwrap_or(u64::MAX),
            bytes_left: if job.time_based { u64::MAX } else { region.size_bytes() },
            syncs: Syncs {
                every: job.fsync_every,
                data_every: job.data_sync_every,
                writes: 0,
                writes_of_data: 0,
                at_end: job.sync_at_end && job.writes(),
            },
            verifier,
            reads_again: job.do_verify && job.writes(),
            failure: None,
            part: Part::Running,
            next_kind: None,
            held: None,
            in_flight: 0,
            began_ns: None,
            ended_ns: 0,
            stats: Stats::new(),
        }
    }

    /// Marks what is written with the number of a run, so that verification tells it from that of others.
    #[must_use]
    pub fn of_run(mut self, run: u64) -> Load {
        if let Some(verifier) = &mut self.verifier {
            verifier.set_run(run);
        }
        self
    }

    /// How many requests to keep in flight.
    pub fn depth(&self) -> u32 {
        self.depth
    }

    /// What to do next; `now_ns` counts from the job's start.
    pub fn poll_request(&mut self, now_ns: u64) -> Next {
        loop {
            self.part = match self.part {
                Part::Running => match self.poll_running(now_ns) {
                    Some(next) => return next,
                    None => Part::Ending,
                },
                Part::Ending if !self.syncs.at_end && !self.reads_again => Part::Over,
                Part::Ending if self.in_flight > 0 => return Next::AfterCompletion,
                Part::Ending if self.syncs.at_end => {
                    self.syncs.at_end = false;
                    let counts = self.began_ns.is_some();
                    return self.start(Request::SYNC, now_ns, counts, Check::Nothing);
                }
                Part::Ending => Part::Rereading,
                Part::Rereading => match self.verifier.as_mut().and_then(Verifier::next_read) {
                    Some(read) => return self.start(read, now_ns, false, Check::Written),
                    None => Part::Over,
                },
                Part::Over => return Next::Over,
            };
        }
    }

    /// Makes a block what a write is to write, if that matters to the job.
    pub fn prepare(&self, started: &Started, block: &mut [u8]) {
        if let (Some(verifier), Kind::Write) = (&self.verifier, started.request.kind) {
            verifier.seal(started.request, started.stamp, block);
        }
    }

    /// Whether every write has a content of its own.
    pub fn prepares_blocks(&self) -> bool {
        self.verifier.is_some()
    }

    /// A request completed well; a read with that content.
    pub fn handle_completion(&mut self, started: Started, content: &[u8], now_ns: u64) {
        self.in_flight = self.in_flight.checked_sub(1).expect("what completes was started");
        self.pauses.complete(now_ns);
        if started.counts {
            self.stats.record(started.request, now_ns.saturating_sub(started.at_ns));
            self.ended_ns = self.ended_ns.max(now_ns);
        }
        let Some(verifier) = &mut self.verifier else { return };
        if started.request.kind == Kind::Write {
            verifier.end(started.request);
        }
        let checked = match started.check {
            Check::Nothing => Ok(()),
            Check::Any => verifier.check_any(started.request, content),
            Check::Written => verifier.check_written(started.request, content),
        };
        if let Err(error) = checked {
            self.failure.get_or_insert(error);
            self.stop();
        }
    }

    /// Starts nothing more.
    pub fn stop(&mut self) {
        self.part = Part::Over;
    }

    /// Whether the ramp is over and something counts.
    pub fn is_measuring(&self) -> bool {
        self.began_ns.is_some()
    }

    /// Whether nothing will count any more.
    pub fn is_measured(&self) -> bool {
        match self.part {
            Part::Running => false,
            Part::Ending => self.in_flight == 0 && !self.syncs.at_end,
            Part::Rereading => true,
            Part::Over => self.in_flight == 0,
        }
    }

    /// The block that isn't what was written, if there was one.
    pub fn failure(&self) -> Option<VerifyError> {
        self.failure
    }

    /// When the measurement began and ended so far, from the job's start; `None` before it began.
    pub fn span_ns(&self) -> Option<(u64, u64)> {
        self.began_ns.map(|began_ns| (began_ns, self.ended_ns.max(began_ns)))
    }

    /// How long the measurement took so far, nanoseconds.
    pub fn elapsed_ns(&self) -> u64 {
        self.span_ns().map_or(0, |(began_ns, ended_ns)| ended_ns - began_ns)
    }

    /// What was measured.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// The next step of the reads and writes; `None` when there are no more.
    fn poll_running(&mut self, now_ns: u64) -> Option<Next> {
        let counts = now_ns >= self.ramp_ns;
        let end_ns = self.runtime_ns.map_or(u64::MAX, |runtime_ns| self.ramp_ns.saturating_add(runtime_ns));
        if now_ns >= end_ns {
            return None;
        }
        if let Some(sync) = self.syncs.poll() {
            if counts {
                self.began_ns.get_or_insert(now_ns);
            }
            return Some(self.start(sync, now_ns, counts, Check::Nothing));
        }
        if counts && (self.requests_left == 0 || self.bytes_left == 0) {
            return None;
        }
        match self.pauses.poll(self.in_flight, now_ns) {
            Pause::None => {}
            Pause::Drain => return Some(Next::AfterCompletion),
            Pause::Until(at_ns) => return Some(Next::At(at_ns.min(end_ns))),
        }
        let (request, due_ns) = match self.held.take() {
            Some(held) => held,
            None => {
                let kind = self.next_kind.unwrap_or_else(|| self.pattern.next_kind());
                let mixed = matches!(self.mix, Mix::Mixed { .. });
                match self.pace.poll(kind, mixed, now_ns) {
                    Due::Now { kind: due, due_ns } => {
                        // What was drawn but wasn't due is still wanted.
                        self.next_kind = Some(kind).filter(|kind| *kind != due);
                        (self.pattern.next_request(due), due_ns)
                    }
                    Due::At(at_ns) => {
                        self.next_kind = Some(kind);
                        return Some(Next::At(at_ns.min(end_ns)));
                    }
                }
            }
        };
        if let Some(verifier) = &self.verifier
            && request.kind == Kind::Write
            && verifier.must_wait(request)
        {
            self.held = Some((request, due_ns));
            return Some(Next::AfterCompletion);
        }
        self.pace.start(request.kind, request.length_bytes);
        self.pauses.start();
        if counts {
            self.requests_left -= 1;
            self.bytes_left = self.bytes_left.saturating_sub(request.length_bytes);
            self.began_ns.get_or_insert(now_ns);
        }
        // Mixed jobs read what may be in flight, or was never written.
        let check =
            if self.mix == Mix::Read && self.verifier.is_some() { Check::Any } else { Check::Nothing };
        Some(self.start(request, due_ns, counts, check))
    }

    fn start(&mut self, request: Request, at_ns: u64, counts: bool, check: Check) -> Next {
        let stamp = match &mut self.verifier {
            Some(verifier) if request.kind == Kind::Write => verifier.start(request),
            _ => 0,
        };
        self.syncs.start(request.kind);
        self.in_flight += 1;
        Next::Start(Started { request, at_ns, counts, stamp, check })
    }
}

impl Syncs {
    /// The sync that is due after the writes so far.
    fn poll(&self) -> Option<Request> {
        if self.every > 0 && self.writes >= self.every {
            Some(Request::SYNC)
        } else if self.data_every > 0 && self.writes_of_data >= self.data_every {
            Some(Request::DATA_SYNC)
        } else {
            None
        }
    }

    fn start(&mut self, kind: Kind) {
        match kind {
            Kind::Read => {}
            Kind::Write => {
                self.writes += 1;
                self.writes_of_data += 1;
            }
            Kind::Sync => self.writes = 0,
            Kind::DataSync => self.writes_of_data = 0,
        }
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).expect("job files end at TIME_MAX")
}

const _: () = assert!(crate::job::TIME_MAX.as_nanos() < u64::MAX as u128 / 4);
