//! Reports read again, ours and fio's: the figures that are compared and drawn.
//!
//! What a report lacks is lacking here too, never zero. Latencies are fio's total ones (`lat_ns`) where it has
//! percentiles of them, else the completion's (`clat_ns`), mean and percentiles always from the same.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// The largest report that is read: days of seconds and every bin.
pub const REPORT_BYTES_MAX: u64 = 256 << 20;

/// A file's jobs.
#[derive(Clone, Debug)]
pub struct Report {
    /// The file's name without folder and ending.
    pub name: String,
    /// In the order of the file; a name that was there before has `#2` and so on behind it.
    pub jobs: Vec<JobFigures>,
}

/// What a job measured.
#[derive(Clone, Debug, Default)]
pub struct JobFigures {
    /// Its name.
    pub name: String,
    /// Of the kinds that it had: `read`, `write`, `trim`, `sync`.
    pub kinds: Vec<KindFigures>,
    /// CPU time for each request.
    pub cpu_ns_per_io: Option<f64>,
}

/// What it measured of one kind of requests.
#[derive(Clone, Debug, Default)]
pub struct KindFigures {
    /// Which.
    pub kind: &'static str,
    /// A second.
    pub iops: Option<f64>,
    /// Bytes a second.
    pub bytes_per_second: Option<f64>,
    /// Mean latency.
    pub mean_ns: Option<f64>,
    /// Percentiles in ascending order, 0 to 100, with their latencies.
    pub percentiles: Vec<(f64, f64)>,
    /// Second by second, if the report holds it.
    pub seconds: Vec<Second>,
}

/// Rates of a second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Second {
    /// Its end, since the job began.
    pub time_s: f64,
    /// Requests a second.
    pub iops: f64,
    /// Bytes a second.
    pub bytes_per_second: f64,
}

/// Why a file can't be read as a report.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The file.
    #[error("{path}: can't read the report: {source}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Its size.
    #[error(
        "{path}: larger than {REPORT_BYTES_MAX} bytes, so it is no report; give it the output of --output-format json"
    )]
    TooLarge {
        /// Which.
        path: PathBuf,
    },
    /// Its content.
    #[error("{path}: not a report ({problem}); give it what --output-format json of brick-perf or fio wrote")]
    NotOne {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

impl Report {
    /// The report in a file.
    pub fn read(path: &Path) -> Result<Report, ReportError> {
        let failed = |source| ReportError::Read { path: path.to_owned(), source };
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(failed)?;
        // One byte more than allowed shows that it is too much.
        file.take(REPORT_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 > REPORT_BYTES_MAX {
            return Err(ReportError::TooLarge { path: path.to_owned() });
        }
        let name = path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy();
        Report::parse(&name, &bytes).map_err(|problem| ReportError::NotOne { path: path.to_owned(), problem })
    }

    /// The report with that content, or what is wrong with it.
    pub fn parse(name: &str, bytes: &[u8]) -> Result<Report, String> {
        let document: Document =
            serde_json::from_slice(json_part(bytes)).map_err(|error| error.to_string())?;
        if document.jobs.is_empty() {
            return Err("it holds no job".into());
        }
        let mut seen: BTreeMap<String, u32> = BTreeMap::new();
        let mut jobs: Vec<JobFigures> = document.jobs.into_iter().map(JobEntry::figures).collect();
        for job in &mut jobs {
            let times = seen.entry(job.name.clone()).or_default();
            *times += 1;
            if *times > 1 {
                job.name = format!("{}#{times}", job.name);
            }
        }
        Ok(Report { name: name.to_owned(), jobs })
    }
}

impl KindFigures {
    /// The latency of a percentile, if the report holds it.
    pub fn percentile_ns(&self, percentile: f64) -> Option<f64> {
        let mut percentiles = self.percentiles.iter();
        percentiles.find(|(at, _)| (at - percentile).abs() < 1e-6).map(|(_, latency_ns)| *latency_ns)
    }
}

/// Without the warnings that fio prints before its document.
fn json_part(bytes: &[u8]) -> &[u8] {
    if bytes.starts_with(b"{") {
        return bytes;
    }
    let start = bytes.windows(2).position(|pair| pair == b"\n{");
    start.map_or(bytes, |at| &bytes[at + 1..])
}

#[derive(Deserialize)]
struct Document {
    jobs: Vec<JobEntry>,
}

#[derive(Deserialize)]
struct JobEntry {
    jobname: String,
    #[serde(default)]
    read: KindEntry,
    #[serde(default)]
    write: KindEntry,
    #[serde(default)]
    trim: KindEntry,
    #[serde(default)]
    sync: KindEntry,
    /// Milliseconds.
    job_runtime: Option<f64>,
    usr_cpu: Option<f64>,
    sys_cpu: Option<f64>,
    #[serde(default)]
    brick_perf: Extra,
}

#[derive(Default, Deserialize)]
struct KindEntry {
    #[serde(default)]
    total_ios: u64,
    iops: Option<f64>,
    bw_bytes: Option<f64>,
    #[serde(default)]
    lat_ns: LatencyEntry,
    #[serde(default)]
    clat_ns: LatencyEntry,
}

#[derive(Default, Deserialize)]
struct LatencyEntry {
    mean: Option<f64>,
    #[serde(default)]
    percentile: BTreeMap<String, f64>,
}

#[derive(Default, Deserialize)]
struct Extra {
    cpu_ns_per_io: Option<f64>,
    #[serde(default)]
    seconds: SecondsEntry,
}

#[derive(Default, Deserialize)]
struct SecondsEntry {
    #[serde(default)]
    time_ms: Vec<f64>,
    #[serde(default)]
    read: ColumnsEntry,
    #[serde(default)]
    write: ColumnsEntry,
    #[serde(default)]
    sync: ColumnsEntry,
}

#[derive(Default, Deserialize)]
struct ColumnsEntry {
    #[serde(default)]
    iops: Vec<f64>,
    #[serde(default)]
    bw_bytes: Vec<f64>,
}

impl JobEntry {
    fn figures(self) -> JobFigures {
        let requests = [&self.read, &self.write, &self.trim, &self.sync].map(|kind| kind.total_ios);
        let cpu_ns_per_io = self.brick_perf.cpu_ns_per_io.or_else(|| {
            // Percent of one core, so a hundredth of a millisecond is 10 us.
            let busy = (self.usr_cpu? + self.sys_cpu?) * self.job_runtime? * 10_000.0;
            let requests: u64 = requests.iter().sum();
            (requests > 0).then(|| busy / requests as f64)
        });
        let sync_iops = self.job_runtime.filter(|ms| *ms > 0.0).map(|ms| requests[3] as f64 * 1000.0 / ms);
        let seconds = self.brick_perf.seconds;
        let rows = |columns: &ColumnsEntry| columns.rows(&seconds.time_ms);
        let kinds = [
            self.read.figures("read", rows(&seconds.read)),
            self.write.figures("write", rows(&seconds.write)),
            self.trim.figures("trim", Vec::new()),
            self.sync
                .figures("sync", rows(&seconds.sync))
                .map(|sync| KindFigures { iops: sync.iops.or(sync_iops), ..sync }),
        ];
        JobFigures { name: self.jobname, kinds: kinds.into_iter().flatten().collect(), cpu_ns_per_io }
    }
}

impl KindEntry {
    /// `None` if there was none of that kind.
    fn figures(self, kind: &'static str, seconds: Vec<Second>) -> Option<KindFigures> {
        if self.total_ios == 0 {
            return None;
        }
        let latency = if self.clat_ns.percentile.is_empty() || !self.lat_ns.percentile.is_empty() {
            self.lat_ns
        } else {
            self.clat_ns
        };
        let pairs = latency.percentile.iter();
        let mut percentiles: Vec<(f64, f64)> = pairs
            .filter_map(|(at, latency_ns)| Some((at.parse().ok()?, *latency_ns)))
            .filter(|(at, _): &(f64, f64)| (0.0..=100.0).contains(at))
            .collect();
        percentiles.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (iops, bytes_per_second, mean_ns) = (self.iops, self.bw_bytes, latency.mean);
        Some(KindFigures { kind, iops, bytes_per_second, mean_ns, percentiles, seconds })
    }
}

impl ColumnsEntry {
    fn rows(&self, time_ms: &[f64]) -> Vec<Second> {
        let rates = self.iops.iter().zip(&self.bw_bytes);
        let row = |(time_ms, (iops, bytes_per_second)): (&f64, (&f64, &f64))| Second {
            time_s: time_ms / 1000.0,
            iops: *iops,
            bytes_per_second: *bytes_per_second,
        };
        time_ms.iter().zip(rates).map(row).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As fio 3.33 writes it, shortened; its warnings included.
    const FIO: &str = r#"note: both iodepth >= 1 and synchronous I/O engine are selected, queue depth will be capped at 1
{
  "fio version" : "fio-3.33", "timestamp" : 1,
  "jobs" : [
    { "jobname" : "job", "groupid" : 0,
      "read" : { "total_ios" : 0, "iops" : 0.0, "clat_ns" : { "mean" : 0.0, "N" : 0 } },
      "write" : { "io_bytes" : 4096000, "bw_bytes" : 8192000, "bw" : 8000, "iops" : 2000.0, "total_ios" : 1000,
        "slat_ns" : { "mean" : 1.0 }, "lat_ns" : { "mean" : 11.0, "N" : 1000 },
        "clat_ns" : { "mean" : 10.0, "percentile" : { "99.900000" : 30, "50.000000" : 9, "99.000000" : 20 } } },
      "sync" : { "total_ios" : 10, "lat_ns" : { "mean" : 5.0, "percentile" : { "50.000000" : 4 } } },
      "job_runtime" : 500, "usr_cpu" : 20.0, "sys_cpu" : 40.0 },
    { "jobname" : "job" }
  ]
}
"#;

    #[test]
    fn fios_reports_are_read() {
        let report = Report::parse("a", FIO.as_bytes()).unwrap();
        let [job, second] = &report.jobs[..] else { panic!("{report:?}") };
        assert_eq!((job.name.as_str(), second.name.as_str()), ("job", "job#2"));
        let [write, sync] = &job.kinds[..] else { panic!("{job:?}") };
        assert_eq!(
            (write.kind, write.iops, write.bytes_per_second),
            ("write", Some(2000.0), Some(8_192_000.0))
        );
        assert_eq!(write.mean_ns, Some(10.0), "where the percentiles are");
        assert_eq!(write.percentiles, [(50.0, 9.0), (99.0, 20.0), (99.9, 30.0)]);
        assert_eq!((write.percentile_ns(99.9), write.percentile_ns(99.99)), (Some(30.0), None));
        assert_eq!((sync.kind, sync.iops, sync.bytes_per_second), ("sync", Some(20.0), None));
        let expected = 300e6 / 1010.0;
        assert!((job.cpu_ns_per_io.unwrap() - expected).abs() < 1.0, "{:?}", job.cpu_ns_per_io);
        assert!(second.kinds.is_empty() && second.cpu_ns_per_io.is_none());
    }

    #[test]
    fn what_is_no_report_is_named() {
        for (text, problem) in [
            ("", "EOF"),
            ("[job]\nrw=read\n", "expected"),
            ("{}", "missing field `jobs`"),
            (r#"{"jobs": []}"#, "it holds no job"),
            (r#"{"jobs": [{"name": "x"}]}"#, "missing field `jobname`"),
        ] {
            let found = Report::parse("a", text.as_bytes()).unwrap_err();
            assert!(found.contains(problem), "{problem:?} in {found:?}");
        }
        let error = Report::read(Path::new("no/such.json")).unwrap_err().to_string();
        assert!(error.starts_with("no/such.json: can't read the report: No such file"), "{error}");
    }
}
