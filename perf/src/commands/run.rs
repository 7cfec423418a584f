//! `brick-perf run`: a job file in, a report out.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

use brick_perf::job::{self, Job, JobError};
use brick_perf::record::status::Display;
use brick_perf::record::{self, IntervalLogOptions, RecordError, Recording, latency_log};
use brick_perf::report::{self, Detail};
use brick_perf::runner::{self, Outcome, RunError};
use clap::{Args, ValueEnum};

#[derive(Debug, Args)]
pub struct RunArguments {
    /// The job file
    #[arg(value_name = "JOB.fio")]
    job_file: PathBuf,
    /// How the report is written; json has fio's keys, json+ every latency too
    #[arg(long, value_enum, default_value_t = OutputFormat::Normal)]
    output_format: OutputFormat,
    /// Where the report goes [default: standard output]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The volume file, for jobs with ioengine=volume or brick
    #[arg(short = 'v', long = "volume", value_name = "FILE.toml", env = "BRICK_VOLUME")]
    volume: Option<PathBuf>,
    /// Whether a line on standard error says how the job goes; auto: if that is a terminal
    #[arg(long, value_enum, default_value_t = Status::Auto, value_name = "WHEN")]
    status: Status,
    /// Write a line for each request to PREFIX_lat.N.log, N being the job's number, as fio does:
    /// time (ms), latency (ns), direction (0 read, 1 write, 3 sync), bytes, offset, 0
    #[arg(long, value_name = "PREFIX")]
    latency_log: Option<PathBuf>,
    /// Write a histogram of each second to FILE, as HdrHistogram's tools read it; lines are tagged
    /// read, write and sync, with the job's name before it if there are several jobs
    #[arg(long, value_name = "FILE")]
    hdr_log: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum OutputFormat {
    Normal,
    Json,
    #[value(name = "json+")]
    JsonPlus,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Status {
    Auto,
    Always,
    Never,
}

/// Why there is no complete report.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Reading the job file.
    #[error("{path}: can't read the job file: {source}")]
    Read { path: PathBuf, source: io::Error },
    /// What stands in it.
    #[error(transparent)]
    Job(#[from] JobError),
    /// Running a job.
    #[error(transparent)]
    Run(#[from] RunError),
    /// Recording it.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// Writing the report.
    #[error("{path}: can't write the report: {source}")]
    Write { path: PathBuf, source: io::Error },
}

/// What stands under the options.
pub fn help() -> String {
    format!("{EXAMPLE}\n\n{KEYS}\n{}", job::key_list())
}

pub fn run(arguments: &RunArguments) -> Result<(), Error> {
    let jobs = read_jobs(&arguments.job_file)?;
    // Before the jobs: nobody wants to learn afterwards that there is no place for the result.
    let mut output = Output::open(arguments.output.as_deref())?;
    let logs = Logs::open(arguments, jobs.len())?;
    let mut outcomes = Vec::new();
    let mut failure = None;
    for (index, job) in jobs.into_iter().enumerate() {
        match run_job(job, index, arguments.volume.as_deref(), &logs) {
            Ok(outcome) => outcomes.push(outcome),
            Err(error) => {
                failure = Some(error);
                break;
            }
        }
    }
    // What earlier jobs measured isn't lost when a later one fails.
    if !outcomes.is_empty() {
        output.write(&match arguments.output_format {
            OutputFormat::Normal => report::normal(&outcomes),
            OutputFormat::Json => report::json(&outcomes, Detail::Percentiles),
            OutputFormat::JsonPlus => report::json(&outcomes, Detail::Bins),
        })?;
    }
    let lost_log = outcomes.into_iter().find_map(|outcome| outcome.recorded.failure);
    failure.or(lost_log.map(Error::Record)).map_or(Ok(()), Err)
}

fn run_job(job: Job, index: usize, volume: Option<&Path>, logs: &Logs<'_>) -> Result<Outcome, Error> {
    let recording = Recording::start(&job, logs.of_job(&job, index)?)?;
    Ok(runner::run(job, volume, recording)?)
}

fn read_jobs(path: &Path) -> Result<Vec<Job>, Error> {
    let failed = |source| Error::Read { path: path.to_owned(), source };
    let mut text = String::new();
    // One byte more than allowed, so that the parser sees that it is too much.
    let limit = job::FILE_BYTES_MAX as u64 + 1;
    File::open(path).map_err(failed)?.take(limit).read_to_string(&mut text).map_err(failed)?;
    Ok(job::parse(&path.display().to_string(), &text)?)
}

/// Where the report goes.
struct Output {
    path: PathBuf,
    writer: Box<dyn Write>,
}

impl Output {
    fn open(path: Option<&Path>) -> Result<Output, Error> {
        let Some(path) = path.map(Path::to_owned) else {
            return Ok(Output { path: "standard output".into(), writer: Box::new(io::stdout()) });
        };
        match File::create(&path) {
            Ok(file) => Ok(Output { path, writer: Box::new(file) }),
            Err(source) => Err(Error::Write { path, source }),
        }
    }

    fn write(&mut self, text: &str) -> Result<(), Error> {
        let written = self.writer.write_all(text.as_bytes()).and_then(|()| self.writer.flush());
        written.map_err(|source| Error::Write { path: self.path.clone(), source })
    }
}

/// What is recorded beside the report.
struct Logs<'a> {
    display: Display,
    latency_log: Option<&'a Path>,
    hdr_log: Option<(&'a Path, File)>,
    has_several_jobs: bool,
}

impl Logs<'_> {
    fn open(arguments: &RunArguments, jobs: usize) -> Result<Logs<'_>, Error> {
        let display = match (arguments.status, io::stderr().is_terminal()) {
            (Status::Never, _) | (Status::Auto, false) => Display::Hidden,
            (Status::Always | Status::Auto, true) => Display::Redrawn,
            (Status::Always, false) => Display::Lines,
        };
        let hdr_log = match arguments.hdr_log.as_deref() {
            Some(path) => Some((path, File::create(path).map_err(|source| failed(path, source))?)),
            None => None,
        };
        let latency_log = arguments.latency_log.as_deref();
        Ok(Logs { display, latency_log, hdr_log, has_several_jobs: jobs > 1 })
    }

    fn of_job(&self, job: &Job, index: usize) -> Result<record::Options, Error> {
        let interval_log = match &self.hdr_log {
            Some((path, file)) => Some(IntervalLogOptions {
                file: file.try_clone().map_err(|source| failed(path, source))?,
                path: (*path).to_owned(),
                tag_prefix: if self.has_several_jobs { format!("{}.", job.name) } else { String::new() },
            }),
            None => None,
        };
        // fio counts jobs from 1.
        let latency_log = self.latency_log.map(|prefix| latency_log::path(prefix, index + 1));
        Ok(record::Options { display: self.display, latency_log, interval_log })
    }
}

fn failed(path: &Path, source: io::Error) -> Error {
    RecordError::Write { path: path.to_owned(), source }.into()
}

const EXAMPLE: &str = "\
Example:
  $ cat randwrite.fio
  [global]
  ioengine=volume       # or raw with filename=PATH, which is overwritten
  image=vm1             # its content is overwritten
  bs=4k
  iodepth=32
  runtime=10s
  time_based

  [randwrite]
  rw=randwrite

  $ brick-perf run randwrite.fio -v vms.toml
  $ brick-perf run randwrite.fio -v vms.toml --output-format json | jq '.jobs[].write.iops'
  $ brick-perf run randwrite.fio -v vms.toml --latency-log each --hdr-log seconds.hlog";

const KEYS: &str = "\
Keys mean what they mean to fio; any other key is an error. A second job must say stonewall,
because it runs after the first. Engines: volume (an image); brick (the same, of a volume
created with --unreplicated: one brick, no replication); raw, monoio, tokio-uring (a file or block
device, through a ring of our own or through one of these runtimes); nbd (a server, with
uri=nbd://HOST:PORT/EXPORT or nbd+unix:///EXPORT?socket=PATH). With rate or rate_iops, latencies
count from the moment at which a request was due.
";
