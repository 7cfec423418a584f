//! `brick-perf`'s command line: arguments in, a report or one clear sentence out.
//!
//! Exit status 0 only on success, 1 on failure, 2 on a bad command line.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use brick_perf::job::{self, Job, JobError};
use brick_perf::report;
use brick_perf::runner::{self, RunError};
use clap::{Args, Parser, Subcommand, ValueEnum};
use tracing_subscriber::EnvFilter;

/// Puts fio-style load on files, block devices and replicated volumes, and measures it
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the jobs of a file, one after the other, and reports what they measured
    #[command(after_help = format!("{EXAMPLE}\n\n{KEYS}\n{}", job::key_list()))]
    Run(RunArguments),
}

#[derive(Debug, Args)]
struct RunArguments {
    /// The job file
    #[arg(value_name = "JOB.fio")]
    job_file: PathBuf,
    /// How the report is written; json has fio's keys
    #[arg(long, value_enum, default_value_t = OutputFormat::Normal)]
    output_format: OutputFormat,
    /// Where the report goes [default: standard output]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The volume file, for jobs with ioengine=volume
    #[arg(short = 'v', long = "volume", value_name = "FILE.toml", env = "BRICK_VOLUME")]
    volume: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum OutputFormat {
    Normal,
    Json,
}

/// Why there is no complete report.
#[derive(Debug, thiserror::Error)]
enum Error {
    /// Reading the job file.
    #[error("{path}: can't read the job file: {source}")]
    Read { path: PathBuf, source: io::Error },
    /// What stands in it.
    #[error(transparent)]
    Job(#[from] JobError),
    /// Running a job.
    #[error(transparent)]
    Run(#[from] RunError),
    /// Writing the report.
    #[error("{path}: can't write the report: {source}")]
    Write { path: PathBuf, source: io::Error },
}

fn main() -> ExitCode {
    let Command::Run(arguments) = Arguments::parse().command;
    // As the NBD server does.
    brick_client::keep_freed_memory();
    let filter = EnvFilter::try_from_env("BRICK_LOG").unwrap_or_else(|_| "warn,brick_perf=info".into());
    let colours = io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(colours).init();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("brick-perf: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &RunArguments) -> Result<(), Error> {
    let jobs = read_jobs(&arguments.job_file)?;
    // Before the jobs: nobody wants to learn afterwards that there is no place for the result.
    let path = arguments.output.clone().unwrap_or_else(|| "standard output".into());
    let mut output: Box<dyn Write> = match &arguments.output {
        Some(path) => {
            Box::new(File::create(path).map_err(|source| Error::Write { path: path.clone(), source })?)
        }
        None => Box::new(io::stdout()),
    };
    let mut outcomes = Vec::new();
    let mut failure = None;
    for job in jobs {
        match runner::run(job, arguments.volume.as_deref()) {
            Ok(outcome) => outcomes.push(outcome),
            Err(error) => {
                failure = Some(error);
                break;
            }
        }
    }
    // What earlier jobs measured isn't lost when a later one fails.
    if !outcomes.is_empty() {
        let text = match arguments.output_format {
            OutputFormat::Normal => report::normal(&outcomes),
            OutputFormat::Json => report::json(&outcomes),
        };
        let written = output.write_all(text.as_bytes()).and_then(|()| output.flush());
        written.map_err(|source| Error::Write { path, source })?;
    }
    failure.map_or(Ok(()), |failure| Err(failure.into()))
}

fn read_jobs(path: &Path) -> Result<Vec<Job>, Error> {
    let failed = |source| Error::Read { path: path.to_owned(), source };
    let mut text = String::new();
    // One byte more than allowed, so that the parser sees that it is too much.
    let limit = job::FILE_BYTES_MAX as u64 + 1;
    File::open(path).map_err(failed)?.take(limit).read_to_string(&mut text).map_err(failed)?;
    Ok(job::parse(&path.display().to_string(), &text)?)
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
  $ brick-perf run randwrite.fio -v vms.toml --output-format json | jq '.jobs[].write.iops'";

const KEYS: &str = "\
Keys mean what they mean to fio; any other key is an error. A second job must say stonewall,
because it runs after the first. Engines: volume (an image); raw, monoio, tokio-uring (a file or
block device, through a ring of our own or through one of these runtimes); nbd (a server, with
uri=nbd://HOST:PORT/EXPORT or nbd+unix:///EXPORT?socket=PATH). With rate or rate_iops, latencies
count from the moment at which a request was due.
";
