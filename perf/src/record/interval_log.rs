//! A histogram of each second, in the log format of HdrHistogram, which its plotters and processors read.
//!
//! Lines are tagged with the kind of requests. Times in the log are seconds since `StartTime`; the values in
//! histograms are nanoseconds, and the greatest of each, which stands readable in its line, is in
//! milliseconds, as `MaxValueDivisor` says.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{
    IntervalLogWriter, IntervalLogWriterBuilder, IntervalLogWriterError, Tag,
};

use super::{IntervalLogOptions, RecordError};
use crate::stats::Stats;

/// The file of a log, for one job.
pub(super) struct IntervalLog {
    file: BufWriter<File>,
    path: PathBuf,
    serializer: V2DeflateSerializer,
    /// With their kinds' names: read, write, sync.
    tags: [String; 3],
    outcome: io::Result<()>,
}

/// A log that has begun. Takes nothing more after a failure.
pub(super) struct Intervals<'a> {
    writer: Option<IntervalLogWriter<'a, 'a, BufWriter<File>, V2DeflateSerializer>>,
    tags: &'a [String; 3],
    outcome: &'a mut io::Result<()>,
}

impl IntervalLog {
    pub(super) fn new(options: IntervalLogOptions) -> IntervalLog {
        let IntervalLogOptions { file, path, tag_prefix } = options;
        let tags = ["read", "write", "sync"].map(|kind| tag(&tag_prefix, kind));
        let serializer = V2DeflateSerializer::new();
        IntervalLog { file: BufWriter::new(file), path, serializer, tags, outcome: Ok(()) }
    }

    /// Says when the job began.
    pub(super) fn begin(&mut self, began: Instant) -> Intervals<'_> {
        let IntervalLog { file, serializer, tags, outcome, .. } = self;
        let began = SystemTime::now().checked_sub(began.elapsed()).unwrap_or(SystemTime::UNIX_EPOCH);
        let mut head = IntervalLogWriterBuilder::new();
        head.add_comment("[Histogram log format version 1.3]");
        head.with_start_time(began).with_max_value_divisor(NANOSECONDS_A_MILLISECOND);
        let writer = match head.begin_log_with(file, serializer) {
            Ok(writer) => Some(writer),
            Err(error) => {
                *outcome = Err(error);
                None
            }
        };
        Intervals { writer, tags, outcome }
    }

    /// Why it isn't complete, if it isn't.
    pub(super) fn finish(mut self) -> Option<RecordError> {
        let outcome = self.outcome.and_then(|()| self.file.flush());
        outcome.err().map(|source| RecordError::Write { path: self.path, source })
    }
}

impl Intervals<'_> {
    /// Appends what was done in an interval, times counted from the job's begin.
    pub(super) fn write(&mut self, stats: &Stats, began_ns: u64, length_ns: u64) {
        let Some(writer) = &mut self.writer else { return };
        let [began, length] = [began_ns, length_ns].map(Duration::from_nanos);
        for (series, tag) in [&stats.read, &stats.write, &stats.sync].into_iter().zip(self.tags) {
            if series.requests() == 0 {
                continue;
            }
            if let Err(error) = writer.write_histogram(series.latencies_ns(), began, length, Tag::new(tag)) {
                *self.outcome = Err(match error {
                    IntervalLogWriterError::IoError(error) => error,
                    IntervalLogWriterError::SerializeError(error) => io::Error::other(error.to_string()),
                });
                self.writer = None;
                return;
            }
        }
    }
}

/// A tag without what separates fields and lines of the log.
fn tag(prefix: &str, kind: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "_.-".contains(c);
    prefix.chars().map(|c| if is_plain(c) { c } else { '_' }).chain(kind.chars()).collect()
}

/// What greatest values are divided by, as other writers of such logs do.
const NANOSECONDS_A_MILLISECOND: f64 = 1e6;

#[cfg(test)]
mod tests {
    use hdrhistogram::Histogram;
    use hdrhistogram::serialization::Deserializer;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    use super::*;
    use crate::pattern::{Kind, Request};

    /// As a processor of such logs does it: every line is read back.
    #[test]
    fn what_is_written_can_be_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.hlog");
        let file = File::create(&path).unwrap();
        let tag_prefix = "a job, the 1st.".to_owned();
        let mut log = IntervalLog::new(IntervalLogOptions { file, path: path.clone(), tag_prefix });
        let mut intervals = log.begin(Instant::now());
        let mut stats = Stats::new();
        for latency_us in 1..=100 {
            let request = Request { kind: Kind::Read, offset_bytes: 0, length_bytes: 4096 };
            stats.record(request, latency_us * 1000);
        }
        stats.record(Request::SYNC, 2_000_000);
        intervals.write(&stats, 0, 1_000_000_000);
        intervals.write(&Stats::new(), 1_000_000_000, 1_000_000_000);
        intervals.write(&stats, 2_000_000_000, 500_000_000);
        assert!(log.finish().is_none());

        let text = std::fs::read(path).unwrap();
        let entries: Vec<LogEntry<'_>> =
            IntervalLogIterator::new(&text).map(|entry| entry.unwrap()).collect();
        assert!(entries.iter().any(|entry| matches!(entry, LogEntry::StartTime(time) if time.as_secs() > 0)));
        let mut found = Vec::new();
        for entry in entries {
            let LogEntry::Interval(interval) = entry else { continue };
            let bytes = base64_bytes(interval.encoded_histogram());
            let histogram: Histogram<u64> = Deserializer::new().deserialize(&mut bytes.as_slice()).unwrap();
            let tag = interval.tag().unwrap().as_str();
            let begin_s = interval.start_timestamp().as_secs_f64();
            found.push((tag, begin_s, interval.duration().as_secs_f64(), histogram.len()));
            if tag.ends_with("read") {
                assert!((interval.max() - 0.1).abs() < 0.001, "milliseconds");
                assert!(histogram.value_at_quantile(0.5).abs_diff(50_000) < 100);
            }
        }
        let (read, sync) = ("a_job__the_1st.read", "a_job__the_1st.sync");
        let expected =
            [(read, 0.0, 1.0, 100), (sync, 0.0, 1.0, 1), (read, 2.0, 0.5, 100), (sync, 2.0, 0.5, 1)];
        assert_eq!(found, expected);
    }

    /// The standard alphabet, as nothing else here needs it.
    fn base64_bytes(text: &str) -> Vec<u8> {
        let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let digits = text.bytes().filter_map(|byte| alphabet.iter().position(|digit| *digit == byte));
        let (mut bits, mut count, mut bytes) = (0, 0, Vec::new());
        for digit in digits {
            bits = bits << 6 | digit;
            count += 6;
            if count >= 8 {
                count -= 8;
                bytes.push((bits >> count) as u8);
                bits &= (1 << count) - 1;
            }
        }
        bytes
    }

    #[test]
    fn a_log_that_cannot_be_written_is_an_error() {
        let Ok(file) = File::options().write(true).open("/dev/full") else { return };
        let path: PathBuf = "/dev/full".into();
        let mut log = IntervalLog::new(IntervalLogOptions { file, path, tag_prefix: String::new() });
        log.begin(Instant::now());
        let error = log.finish().expect("nothing fits").to_string();
        assert!(error.starts_with("/dev/full: can't write the log: No space"), "{error}");
    }
}
