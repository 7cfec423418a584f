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

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let arguments = args::Arguments::parse();
    init_log();
    // Before the runtime starts any thread: blocked signals are inherited.
    signals::block();
    let mut runtime = match monoio::RuntimeBuilder::<monoio::FusionDriver>::new()
        .with_entries(1024)
        .enable_timer()
        .build()
    {
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

fn init_log() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("BRICK_LOG").unwrap_or_else(|_| "warn".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
}
