//! The thread that takes what recorders took down, once a second, and hands it on.
//!
//! An interval lasts from one look to the next by the collector's clock: about a second, and its rates are
//! of the time that it really lasted. The first begins with the first request that counts, the last ends
//! with the last completion.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::interval_log::{IntervalLog, Intervals};
use super::recorder::{Began, lock};
use super::series::{Point, TimeSeries};
use super::status::Progress;
use super::{Recorded, Slots};
use crate::stats::Stats;

/// What is known of a running job.
pub(super) struct Collector {
    slots: Slots,
    progress: Progress,
    /// Where the last interval ended, since the first request that counts.
    taken_ns: u64,
    /// Swapped with what is in a slot, so that a recorder never waits for more than that.
    spare: Stats,
    interval: Stats,
    total: Stats,
    series: TimeSeries,
}

impl Collector {
    pub(super) fn new(slots: Slots, progress: Progress) -> Collector {
        Collector {
            slots,
            progress,
            taken_ns: 0,
            spare: Stats::new(),
            interval: Stats::new(),
            total: Stats::new(),
            series: TimeSeries::default(),
        }
    }

    /// Works until the other end of `stopped` is dropped.
    pub(super) fn run(mut self, stopped: &Receiver<()>, mut log: Option<IntervalLog>) -> Recorded {
        let started = Instant::now();
        let mut is_over = false;
        let began = loop {
            match self.began() {
                Some(began) => break began,
                None if is_over => return self.finish(log),
                None => self.progress.show_ramp(started.elapsed()),
            }
            is_over = has_hung_up(stopped, BEGIN_POLL);
        };
        let mut intervals = log.as_mut().map(|log| log.begin(began.instant));
        loop {
            if !is_over {
                let boundary = Duration::from_nanos(self.taken_ns) + INTERVAL;
                is_over = has_hung_up(stopped, boundary.saturating_sub(began.instant.elapsed()));
            }
            if is_over {
                let ended_ns = self.ended_ns(began);
                self.take(ended_ns, intervals.as_mut());
                // The job may have been over long before: targets are closed, and verified, in peace.
                self.series.end_at(ended_ns);
                break;
            }
            self.take(began.instant.elapsed().as_nanos() as u64, intervals.as_mut());
        }
        drop(intervals);
        self.finish(log)
    }

    /// Ends an interval at that time.
    fn take(&mut self, now_ns: u64, intervals: Option<&mut Intervals<'_>>) {
        self.interval.clear();
        for slot in lock(&self.slots).iter() {
            self.spare.clear();
            std::mem::swap(&mut lock(slot).stats, &mut self.spare);
            self.interval.merge(&self.spare);
        }
        let length_ns = now_ns.saturating_sub(self.taken_ns);
        // The job ended with the last interval, or its last completion was seen too early to be timed.
        if length_ns == 0 && self.interval.requests() == 0 {
            return;
        }
        self.total.merge(&self.interval);
        self.series.push(Point::new(now_ns.max(self.taken_ns), length_ns, &self.interval));
        if let Some(intervals) = intervals {
            intervals.write(&self.interval, self.taken_ns, length_ns);
        }
        self.taken_ns = self.taken_ns.max(now_ns);
        self.progress.show(self.taken_ns, length_ns, &self.interval, &self.total);
    }

    fn finish(self, log: Option<IntervalLog>) -> Recorded {
        self.progress.clear();
        Recorded { series: self.series, failure: log.and_then(IntervalLog::finish) }
    }

    /// When the first request that counts started, once it completed.
    fn began(&self) -> Option<Began> {
        let slots = lock(&self.slots);
        slots.iter().filter_map(|slot| lock(slot).began).min_by_key(|began| began.meter_ns)
    }

    /// When the last request completed, since `began`.
    fn ended_ns(&self, began: Began) -> u64 {
        let slots = lock(&self.slots);
        let ended_ns = slots.iter().map(|slot| lock(slot).ended_ns).max().unwrap_or(0);
        ended_ns.saturating_sub(began.meter_ns)
    }
}

/// Whether the other end is gone, asked for at most that long.
fn has_hung_up(stopped: &Receiver<()>, wait: Duration) -> bool {
    stopped.recv_timeout(wait) != Err(RecvTimeoutError::Timeout)
}

/// What a point of the series stands for.
const INTERVAL: Duration = Duration::from_secs(1);
/// How often the collector asks whether the ramp is over; the first interval may look shorter by that to
/// whoever watches, but isn't.
const BEGIN_POLL: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::job;
    use crate::pattern::{Kind, Request};
    use crate::record::recorder::Slot;
    use crate::record::status::Display;

    fn request(kind: Kind) -> Request {
        Request { kind, offset_bytes: 0, length_bytes: 4096 }
    }

    /// A collector of two workers' slots.
    fn collector() -> (Collector, [Arc<Mutex<Slot>>; 2]) {
        let job = job::parse("test.fio", "[a]\nioengine=raw\nfilename=f").unwrap().remove(0);
        let slots = [(); 2].map(|()| Arc::new(Mutex::new(Slot::new())));
        let shared = Arc::new(Mutex::new(slots.to_vec()));
        (Collector::new(shared, Progress::new(&job, Display::Hidden)), slots)
    }

    #[test]
    fn an_interval_holds_what_all_workers_did_in_it() {
        let (mut collector, [a, b]) = collector();
        assert!(collector.began().is_none());
        a.lock().unwrap().record(request(Kind::Read), 100_000, 2_000_100_000);
        b.lock().unwrap().record(request(Kind::Read), 300_000, 2_000_200_000);
        b.lock().unwrap().record(request(Kind::Write), 50_000, 2_500_000_000);
        let began = collector.began().expect("something completed");
        assert_eq!(began.meter_ns, 1_999_900_000, "the earliest start");
        collector.take(1_000_000_000, None);
        a.lock().unwrap().record(request(Kind::Read), 100_000, 3_999_900_000);
        let ended_ns = collector.ended_ns(began);
        assert_eq!(ended_ns, 2_000_000_000);
        collector.take(ended_ns, None);
        collector.take(ended_ns, None);
        let points = collector.series.points();
        let figures: Vec<_> =
            points.iter().map(|p| (p.ended_ns, p.read.requests, p.write.requests)).collect();
        assert_eq!(figures, [(1_000_000_000, 2, 1), (2_000_000_000, 1, 0)], "and nothing twice");
        assert_eq!(points[0].read.max_ns.abs_diff(300_000) / 300, 0);
        assert_eq!(collector.total.requests(), 4);
    }

    #[test]
    fn a_job_without_a_request_has_no_intervals() {
        let (collector, _slots) = collector();
        let (running, stopped) = std::sync::mpsc::channel();
        drop(running);
        let recorded = collector.run(&stopped, None);
        assert!(recorded.series.points().is_empty() && recorded.failure.is_none());
    }

    #[test]
    fn the_rest_is_an_interval_of_its_own() {
        let (collector, [a, _]) = collector();
        a.lock().unwrap().record(request(Kind::Write), 1_000_000, 500_000_000);
        a.lock().unwrap().record(request(Kind::Write), 1_000_000, 749_000_000);
        let (running, stopped) = std::sync::mpsc::channel();
        drop(running);
        let recorded = collector.run(&stopped, None);
        let [point] = recorded.series.points() else { panic!("{recorded:?}") };
        assert_eq!((point.ended_ns, point.length_ns, point.write.requests), (250_000_000, 250_000_000, 2));
    }
}
