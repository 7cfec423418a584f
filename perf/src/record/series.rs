//! Figures of a job second by second, for its report.

use crate::stats::{Series, Stats};

/// Intervals in the order of time.
#[derive(Clone, Debug, Default)]
pub struct TimeSeries {
    points: Vec<Point>,
    left_out: u64,
}

/// What was done in an interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// Its end, since the first request that counts.
    pub ended_ns: u64,
    /// How long it lasted.
    pub length_ns: u64,
    /// Reads.
    pub read: Sample,
    /// Writes.
    pub write: Sample,
    /// Syncs.
    pub sync: Sample,
}

/// Requests of one kind that completed in an interval; all zero if there were none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// How many.
    pub requests: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Half took no longer.
    pub p50_ns: u64,
    /// All but one of a hundred took no longer.
    pub p99_ns: u64,
    /// The longest.
    pub max_ns: u64,
}

/// Most intervals that are kept: two days of seconds, 27 MB.
pub const POINTS_MAX: usize = 2 * 24 * 3600;

impl TimeSeries {
    /// Appends an interval, or counts it if there are too many.
    pub fn push(&mut self, point: Point) {
        if self.points.len() < POINTS_MAX {
            self.points.push(point);
        } else {
            self.left_out += 1;
        }
    }

    /// Takes back what lies behind the last completion: nothing was measured there any more.
    pub fn end_at(&mut self, ended_ns: u64) {
        while let Some(last) = self.points.last_mut() {
            if last.ended_ns.saturating_sub(last.length_ns) < ended_ns || last.holds_something() {
                let behind_ns = last.ended_ns.saturating_sub(ended_ns).min(last.length_ns);
                (last.ended_ns, last.length_ns) = (last.ended_ns - behind_ns, last.length_ns - behind_ns);
                return;
            }
            self.points.pop();
        }
    }

    /// The intervals, from the first on.
    pub fn points(&self) -> &[Point] {
        &self.points
    }

    /// Later intervals that aren't there any more.
    pub fn left_out(&self) -> u64 {
        self.left_out
    }
}

impl Point {
    /// What was counted in an interval.
    pub fn new(ended_ns: u64, length_ns: u64, stats: &Stats) -> Point {
        let [read, write, sync] = [&stats.read, &stats.write, &stats.sync].map(Sample::new);
        Point { ended_ns, length_ns, read, write, sync }
    }

    fn holds_something(&self) -> bool {
        [self.read, self.write, self.sync].iter().any(|sample| sample.requests > 0)
    }
}

impl Sample {
    fn new(series: &Series) -> Sample {
        let latencies_ns = series.latencies_ns();
        if latencies_ns.is_empty() {
            return Sample::default();
        }
        Sample {
            requests: series.requests(),
            bytes: series.bytes(),
            p50_ns: latencies_ns.value_at_quantile(0.5),
            p99_ns: latencies_ns.value_at_quantile(0.99),
            max_ns: latencies_ns.max(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A job that verifies for two seconds after 2.3 seconds of measurement, and stalled in the second one.
    #[test]
    fn what_lies_behind_the_end_is_taken_back() {
        let mut stats = Stats::new();
        stats.record(crate::pattern::Request::SYNC, 1000);
        let (some, none) = (stats, Stats::new());
        let mut series = TimeSeries::default();
        for (end, stats) in [(1, &some), (2, &none), (3, &some), (4, &none), (5, &none)] {
            series.push(Point::new(end * 1_000_000_000, 1_000_000_000, stats));
        }
        series.end_at(2_300_000_000);
        let spans: Vec<_> = series.points().iter().map(|point| (point.ended_ns, point.length_ns)).collect();
        let second = 1_000_000_000;
        assert_eq!(spans, [(second, second), (2 * second, second), (2_300_000_000, 300_000_000)]);
        let before = series.points().to_vec();
        series.end_at(2_300_000_000);
        assert_eq!(series.points(), before);
    }

    #[test]
    fn the_series_is_bounded() {
        let mut series = TimeSeries::default();
        let point = Point::new(1, 1, &Stats::new());
        for _ in 0..POINTS_MAX + 3 {
            series.push(point);
        }
        assert_eq!((series.points().len(), series.left_out()), (POINTS_MAX, 3));
        assert!(size_of::<Point>() * POINTS_MAX < 27 << 20, "as promised");
    }
}
