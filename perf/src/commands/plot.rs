//! `brick-perf plot`: reports as a picture.

use std::io;
use std::path::PathBuf;

use brick_perf::report::figures::{Report, ReportError};
use brick_perf::report::plot::{self, Format, PlotError};
use clap::Args;

#[derive(Debug, Args)]
pub struct PlotArguments {
    /// Reports: those of brick-perf run --output-format json, and fio's
    #[arg(value_name = "FILE.json", required = true)]
    files: Vec<PathBuf>,
    /// The picture; its name says whether it is an SVG or a PNG
    #[arg(short, long, value_name = "NAME.svg|NAME.png")]
    output: PathBuf,
}

/// Why there is no picture.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// Drawing.
    #[error(transparent)]
    Plot(#[from] PlotError),
    /// The name of the picture.
    #[error("{0}: the name of a picture ends in .svg or .png")]
    Name(PathBuf),
    /// Writing it.
    #[error("{path}: can't write the picture: {source}")]
    Write { path: PathBuf, source: io::Error },
}

pub fn plot(arguments: &PlotArguments) -> Result<(), Error> {
    let path = &arguments.output;
    let format = Format::of(path).ok_or_else(|| Error::Name(path.clone()))?;
    let reports = arguments.files.iter().map(|file| Report::read(file)).collect::<Result<Vec<_>, _>>()?;
    let picture = plot::draw(&reports, format)?;
    std::fs::write(path, picture).map_err(|source| Error::Write { path: path.clone(), source })
}

pub const EXAMPLE: &str = "\
Example:
  $ brick-perf plot before.json after.json --output latency.svg

Above are latencies by percentile, with the same room for each nine; below are requests a second over time
(bytes, if requests are large), of reports that hold it: brick-perf's do, fio's don't.";
