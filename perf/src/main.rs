//! `brick-perf`'s command line: arguments in, a report or one clear sentence out.
//!
//! Exit status 0 only on success, 1 on failure, 2 on a bad command line.

mod commands;

use std::io::{self, IsTerminal};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::commands::compare::{self, CompareArguments};
use crate::commands::plot::{self, PlotArguments};
use crate::commands::run::{self, RunArguments};

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
    #[command(after_help = run::help())]
    Run(RunArguments),
    /// Says what changed from one report to another
    #[command(after_help = compare::EXAMPLE)]
    Compare(CompareArguments),
    /// Draws reports: latencies by percentile, and requests over time
    #[command(after_help = plot::EXAMPLE)]
    Plot(PlotArguments),
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Run(#[from] run::Error),
    #[error(transparent)]
    Compare(#[from] compare::Error),
    #[error(transparent)]
    Plot(#[from] plot::Error),
}

fn main() -> ExitCode {
    let command = Arguments::parse().command;
    // As the NBD server does.
    brick_client::keep_freed_memory();
    let filter = EnvFilter::try_from_env("BRICK_LOG").unwrap_or_else(|_| "warn,brick_perf=info".into());
    let colours = io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(colours).init();
    let outcome: Result<(), Error> = match command {
        Command::Run(arguments) => run::run(&arguments).map_err(Error::from),
        Command::Compare(arguments) => compare::compare(&arguments).map_err(Error::from),
        Command::Plot(arguments) => plot::plot(&arguments).map_err(Error::from),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("brick-perf: {error}");
            ExitCode::FAILURE
        }
    }
}
