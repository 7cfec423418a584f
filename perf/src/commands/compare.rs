//! `brick-perf compare`: what changed from one report to another.

use std::io::{self, Write};
use std::path::PathBuf;

use brick_perf::report::compare::Comparison;
use brick_perf::report::figures::{Report, ReportError};
use clap::Args;

#[derive(Debug, Args)]
pub struct CompareArguments {
    /// The base and what is compared with it; with --base, all are compared with that
    #[arg(value_name = "FILE.json", required = true)]
    files: Vec<PathBuf>,
    /// Several reports as the base; of several on one side, each figure is the median
    #[arg(long, value_name = "FILE.json,...", value_delimiter = ',')]
    base: Vec<PathBuf>,
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
}

/// Why nothing is compared.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// The arguments.
    #[error("two reports are compared, here are {0}; say which are the base with --base FILE.json,FILE.json")]
    NotTwo(usize),
    /// Writing it.
    #[error("can't write the comparison: {0}")]
    Write(io::Error),
}

pub fn compare(arguments: &CompareArguments) -> Result<(), Error> {
    let (base, new) = match (&arguments.base[..], &arguments.files[..]) {
        ([], [base, new]) => (std::slice::from_ref(base), std::slice::from_ref(new)),
        ([], files) => return Err(Error::NotTwo(files.len())),
        (base, new) => (base, new),
    };
    let read = |paths: &[PathBuf]| paths.iter().map(|path| Report::read(path)).collect::<Result<Vec<_>, _>>();
    let comparison = Comparison::new(&read(base)?, &read(new)?);
    let text = if arguments.json { comparison.json() } else { comparison.to_string() };
    let mut output = io::stdout().lock();
    output.write_all(text.as_bytes()).and_then(|()| output.flush()).map_err(Error::Write)
}

pub const EXAMPLE: &str = "\
Examples:
  $ brick-perf compare before.json after.json
  $ brick-perf compare --base before1.json,before2.json,before3.json after1.json after2.json after3.json

Reports are those of brick-perf run --output-format json, and fio's. Jobs belong together by name. B/A is
what is compared divided by the base.";
