//! `brickctl`, the operator's command: arguments in, one answer or one clear sentence out.
//!
//! Exit status 0 only on success, 1 on failure, 2 on a bad command line. Errors go to stderr as
//! `brickctl: what: why; what to do`. With `--json` stdout holds one line of JSON and nothing else.

mod args;
mod commands;
mod device;
mod error;
mod output;
mod signals;

use std::error::Error as _;
use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use clap::error::{ContextKind, ErrorKind};

fn main() -> ExitCode {
    let arguments = match args::Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) if error.kind() == ErrorKind::ValueValidation => {
            eprintln!("brickctl: {}", bad_value(&error));
            return ExitCode::from(BAD_COMMAND_LINE);
        }
        Err(error) => error.exit(),
    };
    init_log(arguments.command.log_level());
    brick_client::keep_freed_memory();
    // Before the runtime starts any thread: blocked signals are inherited.
    signals::block();
    let mut runtime = match brick_client::start_runtime(RING_ENTRIES) {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("brickctl: can't start the I/O runtime: {error}; is the locked-memory limit too low?");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(commands::run(arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("brickctl: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Submissions that the ring takes before it has to be entered.
const RING_ENTRIES: u32 = 1024;

/// As clap ends the process.
const BAD_COMMAND_LINE: u8 = 2;

/// A value of the right place and the wrong content, in one sentence; quoted, because what was typed may
/// hold anything, control characters too.
fn bad_value(error: &clap::Error) -> String {
    let context = |kind| error.get(kind).map(ToString::to_string).unwrap_or_default();
    let reason = error.source().map(ToString::to_string).unwrap_or_default();
    let (argument, value) = (context(ContextKind::InvalidArg), context(ContextKind::InvalidValue));
    format!("bad value {value:?} for {argument}: {reason}")
}

fn init_log(level: &str) {
    let filter = tracing_subscriber::EnvFilter::try_from_env("BRICK_LOG").unwrap_or_else(|_| level.into());
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours).init();
}
