//! A job's load, without a clock or a target: when to ask for what, and what counts.
//!
//! The caller keeps up to `depth` requests in flight: it calls [`Load::poll_request`] while it has room,
//! and [`Load::handle_completion`] for each that completed. Once `poll_request` said `None` it says so for
//! ever, and the job is over when nothing is in flight any more.
//!
//! Only requests that were started after the ramp count. The time that counts starts with the first of
//! them and ends with the completion of the last, so what is in flight at the end is no free bonus.

use std::time::Duration;

use crate::job::Job;
use crate::pattern::{Kind, Pattern, Region, Request};
use crate::stats::Stats;

/// A job that runs.
#[derive(Clone, Debug)]
pub struct Load {
    pattern: Pattern,
    depth: u32,
    ramp_ns: u64,
    /// From the end of the ramp on.
    runtime_ns: Option<u64>,
    /// Reads and writes that may still be started after the ramp.
    requests_left: u64,
    fsync_every: u64,
    writes_since_sync: u64,
    over: bool,
    /// When the first request that counts was started.
    began_ns: Option<u64>,
    /// When the last request that counts completed.
    ended_ns: u64,
    stats: Stats,
}

/// A request in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a request that isn't completed holds up the end"]
pub struct Started {
    /// What to do.
    pub request: Request,
    at_ns: u64,
    counts: bool,
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
        let pass = if job.time_based { u64::MAX } else { region.blocks };
        Load {
            pattern: Pattern::new(job, region),
            depth: job.depth,
            ramp_ns: nanoseconds(job.ramp_time),
            runtime_ns: job.runtime.map(nanoseconds),
            requests_left: pass.min(job.requests_max.unwrap_or(u64::MAX)),
            fsync_every: job.fsync_every,
            writes_since_sync: 0,
            over: false,
            began_ns: None,
            ended_ns: 0,
            stats: Stats::new(),
        }
    }

    /// How many requests to keep in flight.
    pub fn depth(&self) -> u32 {
        self.depth
    }

    /// The next request, to be started at once; `now_ns` counts from the job's start.
    pub fn poll_request(&mut self, now_ns: u64) -> Option<Started> {
        let counts = now_ns >= self.ramp_ns;
        let late =
            self.runtime_ns.is_some_and(|runtime_ns| now_ns >= self.ramp_ns.saturating_add(runtime_ns));
        self.over |= late;
        if self.over {
            return None;
        }
        let request = if self.fsync_every > 0 && self.writes_since_sync >= self.fsync_every {
            Request::SYNC
        } else if counts && self.requests_left == 0 {
            self.over = true;
            return None;
        } else {
            self.requests_left -= u64::from(counts);
            self.pattern.next_request()
        };
        match request.kind {
            Kind::Write => self.writes_since_sync += 1,
            Kind::Sync => self.writes_since_sync = 0,
            Kind::Read => {}
        }
        if counts {
            self.began_ns.get_or_insert(now_ns);
        }
        Some(Started { request, at_ns: now_ns, counts })
    }

    /// A request completed well.
    pub fn handle_completion(&mut self, started: Started, now_ns: u64) {
        if started.counts {
            self.stats.record(started.request, now_ns.saturating_sub(started.at_ns));
            self.ended_ns = self.ended_ns.max(now_ns);
        }
    }

    /// Starts nothing more.
    pub fn stop(&mut self) {
        self.over = true;
    }

    /// Whether the ramp is over and something counts.
    pub fn is_measuring(&self) -> bool {
        self.began_ns.is_some()
    }

    /// How long the measurement took so far, nanoseconds.
    pub fn elapsed_ns(&self) -> u64 {
        self.began_ns.map_or(0, |began_ns| self.ended_ns.saturating_sub(began_ns))
    }

    /// What was measured.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).expect("job files end at TIME_MAX")
}

const _: () = assert!(crate::job::TIME_MAX.as_nanos() < u64::MAX as u128 / 4);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job;

    fn load(text: &str) -> Load {
        let text = format!("[job]\nioengine=raw\nfilename=f\n{text}");
        let job = job::parse("test.fio", &text).expect("a good job").remove(0);
        Load::new(&job, Region::new(&job, 40_960).expect("it fits"))
    }

    /// Runs at depth 1 with requests that take `step_ns`; what was started, and the load at its end.
    fn run(mut load: Load, step_ns: u64) -> (Vec<Kind>, Load) {
        let (mut now_ns, mut kinds) = (0, Vec::new());
        while let Some(started) = load.poll_request(now_ns) {
            kinds.push(started.request.kind);
            now_ns += step_ns;
            load.handle_completion(started, now_ns);
            assert!(kinds.len() < 100_000, "it doesn't end");
        }
        assert_eq!(load.poll_request(0), None, "what is over stays over");
        (kinds, load)
    }

    #[test]
    fn a_job_ends_with_its_size() {
        let (kinds, load) = run(load("rw=randwrite"), 1000);
        assert_eq!(kinds.len(), 10);
        assert_eq!((load.stats().write.requests(), load.elapsed_ns()), (10, 10_000));
    }

    #[test]
    fn a_job_ends_with_its_number_of_requests() {
        assert_eq!(run(load("number_ios=3"), 1).0.len(), 3);
        assert_eq!(run(load("number_ios=30"), 1).0.len(), 10, "not more than its size holds");
        assert_eq!(run(load("number_ios=30\ntime_based\nruntime=1s"), 1).0.len(), 30);
    }

    #[test]
    fn a_job_ends_with_its_runtime() {
        assert_eq!(run(load("runtime=5ms"), 1_000_000).0.len(), 5);
        assert_eq!(run(load("runtime=25ms\ntime_based"), 1_000_000).0.len(), 25);
        assert_eq!(run(load("runtime=25ms"), 1_000_000).0.len(), 10, "or with its size if that is first");
    }

    #[test]
    fn the_ramp_does_not_count() {
        let (kinds, load) = run(load("ramp_time=20ms\nruntime=5ms\ntime_based"), 1_000_000);
        assert_eq!(kinds.len(), 25);
        assert_eq!((load.stats().read.requests(), load.elapsed_ns()), (5, 5_000_000));
        let (kinds, load) = run(self::load("ramp_time=20ms"), 1_000_000);
        assert_eq!((kinds.len(), load.stats().read.requests()), (30, 10), "nor towards the size");
    }

    #[test]
    fn a_request_that_the_ramp_started_does_not_count() {
        let mut load = load("ramp_time=1ms");
        let early = load.poll_request(999_999).expect("a request");
        assert!(!load.is_measuring());
        let counted = load.poll_request(1_000_000).expect("a request");
        load.handle_completion(early, 1_500_000);
        load.handle_completion(counted, 1_400_000);
        assert_eq!((load.stats().read.requests(), load.elapsed_ns()), (1, 400_000));
    }

    #[test]
    fn a_sync_follows_every_few_writes() {
        use Kind::{Sync, Write};
        let (kinds, load) = run(load("rw=write\nfsync=4"), 1000);
        let four = [Write, Write, Write, Write, Sync];
        assert_eq!(kinds, [&four[..], &four, &[Write, Write]].concat());
        assert_eq!((load.stats().write.requests(), load.stats().sync.requests()), (10, 2));
        let (kinds, _) = run(self::load("rw=write\nfsync=5"), 1000);
        assert_eq!(kinds.last(), Some(&Sync), "the last writes too");
        assert!(!run(self::load("rw=read\nfsync=1"), 1000).0.contains(&Sync));
    }

    #[test]
    fn stopping_starts_nothing_more() {
        let mut load = load("");
        load.stop();
        assert_eq!(load.poll_request(0), None);
    }
}
