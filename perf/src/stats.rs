//! What was measured: requests, bytes and latencies, apart for reads, writes and syncs.

use hdrhistogram::Histogram;

use crate::pattern::{Kind, Request};

/// What a job did while it was measured.
#[derive(Clone, Debug)]
pub struct Stats {
    /// Reads.
    pub read: Series,
    /// Writes.
    pub write: Series,
    /// Syncs.
    pub sync: Series,
}

impl Stats {
    /// Nothing yet.
    pub fn new() -> Stats {
        Stats { read: Series::new(), write: Series::new(), sync: Series::new() }
    }

    /// Counts a request that completed.
    pub fn record(&mut self, request: Request, latency_ns: u64) {
        let series = match request.kind {
            Kind::Read => &mut self.read,
            Kind::Write => &mut self.write,
            Kind::Sync | Kind::DataSync => &mut self.sync,
        };
        series.bytes += request.length_bytes;
        series.latencies_ns.saturating_record(latency_ns);
    }

    /// Adds what somebody else counted.
    pub fn merge(&mut self, other: &Stats) {
        self.read.merge(&other.read);
        self.write.merge(&other.write);
        self.sync.merge(&other.sync);
    }

    /// Forgets everything, and keeps the memory.
    pub fn clear(&mut self) {
        for series in [&mut self.read, &mut self.write, &mut self.sync] {
            series.clear();
        }
    }

    /// Requests of every kind.
    pub fn requests(&self) -> u64 {
        self.read.requests() + self.write.requests() + self.sync.requests()
    }
}

impl Default for Stats {
    fn default() -> Stats {
        Stats::new()
    }
}

/// Requests of one kind.
#[derive(Clone, Debug)]
pub struct Series {
    bytes: u64,
    latencies_ns: Histogram<u64>,
}

impl Series {
    /// Nothing yet.
    pub fn new() -> Series {
        let latencies_ns = Histogram::new_with_bounds(1, LATENCY_NS_MAX, LATENCY_DIGITS);
        Series { bytes: 0, latencies_ns: latencies_ns.expect("constant bounds that are in order") }
    }

    fn merge(&mut self, other: &Series) {
        self.bytes += other.bytes;
        self.latencies_ns.add(&other.latencies_ns).expect("the same constant bounds");
    }

    fn clear(&mut self) {
        self.bytes = 0;
        // Most kinds of most intervals are empty already, and a histogram is a quarter of a megabyte.
        if !self.latencies_ns.is_empty() {
            self.latencies_ns.reset();
        }
    }

    /// How many.
    pub fn requests(&self) -> u64 {
        self.latencies_ns.len()
    }

    /// Their bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// From handing a request to the engine, or from when it was due, until its completion was seen,
    /// nanoseconds.
    pub fn latencies_ns(&self) -> &Histogram<u64> {
        &self.latencies_ns
    }
}

impl Default for Series {
    fn default() -> Series {
        Series::new()
    }
}

/// Longer latencies count as this: nothing in the stack waits for an hour.
const LATENCY_NS_MAX: u64 = 3600 * 1_000_000_000;
/// Decimal digits that a latency keeps; fio's own buckets keep less.
const LATENCY_DIGITS: u8 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_counted_apart() {
        let mut stats = Stats::new();
        stats.record(Request { kind: Kind::Read, offset_bytes: 0, length_bytes: 4096 }, 1000);
        stats.record(Request { kind: Kind::Write, offset_bytes: 0, length_bytes: 512 }, 2000);
        stats.record(Request { kind: Kind::Write, offset_bytes: 0, length_bytes: 512 }, u64::MAX);
        stats.record(Request::SYNC, 0);
        let counts =
            [&stats.read, &stats.write, &stats.sync].map(|series| (series.requests(), series.bytes()));
        assert_eq!(counts, [(1, 4096), (2, 1024), (1, 0)]);
        assert!(stats.read.latencies_ns().max().abs_diff(1000) <= 1);
        assert!(stats.write.latencies_ns().max() >= LATENCY_NS_MAX, "too long is recorded as the longest");
        let mut twice = stats.clone();
        twice.merge(&stats);
        assert_eq!((twice.write.requests(), twice.write.bytes(), twice.sync.requests()), (4, 2048, 2));
    }

    #[test]
    fn what_is_cleared_is_as_new() {
        let mut stats = Stats::new();
        stats.record(Request { kind: Kind::Write, offset_bytes: 0, length_bytes: 512 }, 2000);
        stats.record(Request::SYNC, 10);
        assert_eq!(stats.requests(), 2);
        stats.clear();
        assert_eq!((stats.requests(), stats.write.bytes(), stats.write.latencies_ns().max()), (0, 0, 0));
    }
}
