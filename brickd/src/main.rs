//! `brickd`: formats a brick's directory, or serves it.

use std::collections::BTreeSet;
use std::io::{ErrorKind, IsTerminal, Write};
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use brick_wire::Role;
use brick_wire::limits::{DATA_BYTES_MAX, LANES_MAX};
use brickd::engine::Engine;
use brickd::reactor::cores::{End, Options, RunError, Running};
use brickd::reactor::ring::{Ring, RingError, RingMode};
use brickd::reactor::signals;
use brickd::store::Store;
use brickd::store::error::StoreError;
use clap::{Args, Parser, Subcommand, ValueEnum};
use nix::sched::{CpuSet, sched_getaffinity};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::Pid;
use tracing_subscriber::EnvFilter;

/// One brick of a replicated block store: a process that serves one storage directory.
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES)]
struct Command {
    #[command(subcommand)]
    action: Action,
}

const EXAMPLES: &str = "\
Examples:
  brickd format --dir /srv/brick0 --role data
  brickd run --dir /srv/brick0 --listen 0.0.0.0:7070

The environment variable BRICK_LOG filters the log on stderr, e.g. BRICK_LOG=warn (default: info).";

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a brick out of an empty directory
    #[command(after_help = "Example:\n  brickd format --dir /srv/brick0 --role arbiter --lanes 32")]
    Format(FormatArguments),
    /// Serve a brick until SIGTERM or SIGINT
    #[command(
        after_help = "Example:\n  brickd run --dir /srv/brick0 --listen 10.0.0.1:7070 --cores 0,2-3 --pool-mib 256"
    )]
    Run(RunArguments),
}

#[derive(Debug, Args)]
struct FormatArguments {
    /// The directory: empty, or to be created
    #[arg(long)]
    dir: PathBuf,
    /// What the brick keeps
    #[arg(long)]
    role: RoleArgument,
    /// Partitions of the shards: the most cores the brick can ever run on
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=i64::from(LANES_MAX)))]
    lanes: u16,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum RoleArgument {
    /// Shard data, registers and dirty maps
    Data,
    /// Registers and dirty maps only
    Arbiter,
}

#[derive(Debug, Args)]
struct RunArguments {
    /// The brick's directory
    #[arg(long)]
    dir: PathBuf,
    /// Where to listen; port 0 takes any free port
    #[arg(long, value_name = "HOST:PORT")]
    listen: String,
    /// CPUs to run on, e.g. "0,2-3", or how many of those allowed, e.g. "4" [default: all allowed]
    #[arg(long, value_name = "LIST|COUNT")]
    cores: Option<Cores>,
    /// Memory for payloads in flight, over all cores, MiB
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pool_mib: u32,
    /// Shard files kept open, over all cores
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u32).range(64..=1 << 20))]
    open_files: u32,
    /// How long a lease holder that falls silent keeps others out, milliseconds
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u32).range(100..=600_000))]
    lease_ms: u32,
    /// How long a busy core looks for work before it sleeps, microseconds: latency for processor time; 0 sleeps at once
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    spin_us: u32,
    /// When the kernel completes the disk's and the network's work; only the default was found to be fast
    #[arg(long, default_value = "deferred")]
    ring: RingArgument,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum RingArgument {
    /// When a core asks for completions (DEFER_TASKRUN, SINGLE_ISSUER)
    Deferred,
    /// With a core's next system call (COOP_TASKRUN)
    Cooperative,
    /// At once, interrupting the core
    Plain,
}

impl From<RingArgument> for RingMode {
    fn from(argument: RingArgument) -> RingMode {
        match argument {
            RingArgument::Deferred => RingMode::Deferred,
            RingArgument::Cooperative => RingMode::Cooperative,
            RingArgument::Plain => RingMode::Plain,
        }
    }
}

/// What `--cores` says.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Cores {
    Count(usize),
    List(BTreeSet<usize>),
}

impl std::str::FromStr for Cores {
    type Err = String;

    fn from_str(text: &str) -> Result<Cores, String> {
        if let Ok(count) = text.parse() {
            return if count > 0 { Ok(Cores::Count(count)) } else { Err("a brick needs a core".to_owned()) };
        }
        let bad = |_| format!("{text:?} is neither a count nor a list like 0,2-3");
        let mut list = BTreeSet::new();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last): (usize, usize) = (first.parse().map_err(bad)?, last.parse().map_err(bad)?);
            if first > last || last >= CpuSet::count() {
                return Err(format!("CPUs {part} are out of range"));
            }
            list.extend(first..=last);
        }
        if list.is_empty() { Err("a brick needs a core".to_owned()) } else { Ok(Cores::List(list)) }
    }
}

/// What stops the command.
#[derive(Debug, thiserror::Error)]
enum CommandError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Run(#[from] RunError),
    #[error(transparent)]
    Ring(#[from] RingError),
    #[error("can't listen on {address}: {source}; choose another address or port with --listen")]
    Listen { address: String, source: std::io::Error },
    #[error(
        "can't listen on {address}: it has no address; give --listen a host and a port like 0.0.0.0:7070"
    )]
    NoAddress { address: String },
    #[error(
        "can't run on {cores} cores: the brick has {lanes} lanes and a lane belongs to one core; use --cores {lanes}"
    )]
    Lanes { cores: usize, lanes: u16 },
    #[error(
        "can't run on CPU {cpu}: it isn't among the allowed ones ({allowed}); change --cores or the cpuset"
    )]
    Cpu { cpu: usize, allowed: String },
    #[error(
        "can't run on {asked} cores: {allowed} CPUs are allowed, and more threads than those only wait for each other; lower --cores"
    )]
    CpuCount { asked: usize, allowed: usize },
    #[error(
        "a pool of {pool_mib} MiB is out of range for {cores} cores: each needs {POOL_MIB_MIN} to 1024 MiB; change --pool-mib"
    )]
    Pool { pool_mib: u32, cores: usize },
    #[error(
        "can't read this process's CPUs or block its signals: {0}; allow sched_getaffinity and sigprocmask"
    )]
    Process(#[from] nix::Error),
}

/// A core's pool holds at least a few of the largest requests.
const POOL_MIB_MIN: usize = 4;
const _: () = assert!(POOL_MIB_MIN << 20 >= 4 * DATA_BYTES_MAX);

fn main() -> ExitCode {
    let command = Command::parse();
    let filter = EnvFilter::try_from_env("BRICK_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours).init();
    let result = match command.action {
        Action::Format(arguments) => format(&arguments),
        Action::Run(arguments) => run(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Whoever closed stderr doesn't want to know.
            let _ = writeln!(std::io::stderr(), "brickd: {error}");
            ExitCode::FAILURE
        }
    }
}

fn format(arguments: &FormatArguments) -> Result<(), CommandError> {
    let role = match arguments.role {
        RoleArgument::Data => Role::Data,
        RoleArgument::Arbiter => Role::Arbiter,
    };
    let brick = brickd::store::format(&arguments.dir, role, arguments.lanes)?;
    say(&format!("brickd: formatted {} ({role} brick {brick})", arguments.dir.display()));
    Ok(())
}

fn run(arguments: &RunArguments) -> Result<(), CommandError> {
    // Before any thread exists: they inherit it.
    signals::block()?;
    abort_on_panic();
    // What can fail for reasons outside the directory comes before the start is counted in it.
    Ring::<()>::new(arguments.ring.into())?;
    let listener = listen(&arguments.listen)?;
    let bound = listener.local_addr();
    let address = bound.map_or_else(|_| arguments.listen.clone(), |address| address.to_string());
    let allowed = allowed_cpus()?;
    let asked = asked_cpus(arguments.cores.as_ref(), &allowed)?;
    let lanes = brickd::store::peek_lanes(&arguments.dir)?;
    let cpus = match arguments.cores {
        None => asked.into_iter().take(usize::from(lanes)).collect(),
        Some(_) if asked.len() > usize::from(lanes) => {
            return Err(CommandError::Lanes { cores: asked.len(), lanes });
        }
        Some(_) => asked,
    };
    let options = options(arguments, cpus)?;
    let mut store = brickd::store::open(&arguments.dir)?;
    loop {
        let (role, brick, cores) = (store.identity.role, store.identity.brick, options.cpus.len());
        let own_listener = listener.try_clone().map_err(|source| refuse_listening(&address, source))?;
        let running = Running::start(store, own_listener, &options, Engine::new)?;
        say(&format!(
            "brickd: serving {} ({role} brick {brick}) on {address}, {cores} cores",
            arguments.dir.display()
        ));
        match running.join()? {
            End::Stopped => return Ok(()),
            // Callers wait in the listening socket meanwhile.
            End::Restart => store = reopen(&arguments.dir)?,
        }
    }
}

/// Opens the directory that this process has just closed. The kernel takes the old rings apart in its own time, and they
/// hold the lock until then.
fn reopen(directory: &Path) -> Result<Store, StoreError> {
    let started = Instant::now();
    loop {
        match brickd::store::open(directory) {
            Err(StoreError::Locked { .. }) if started.elapsed() < LOCK_PATIENCE => {
                std::thread::sleep(PORT_PAUSE);
            }
            other => return other,
        }
    }
}

/// How long the lock may stay held after all that held it was closed.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);

fn refuse_listening(address: &str, source: std::io::Error) -> CommandError {
    CommandError::Listen { address: address.to_owned(), source }
}

fn options(arguments: &RunArguments, cpus: Vec<usize>) -> Result<Options, CommandError> {
    let cores = cpus.len();
    let pool_mib = arguments.pool_mib as usize / cores;
    // The kernel registers at most 1 GiB as one buffer.
    if !(POOL_MIB_MIN..=1024).contains(&pool_mib) {
        return Err(CommandError::Pool { pool_mib: arguments.pool_mib, cores });
    }
    let open_files = arguments.open_files.min(raise_descriptor_limit() / 2);
    Ok(Options {
        cpus,
        pool_bytes: pool_mib << 20,
        open_files_max: (open_files / cores as u32).max(1),
        lease: Duration::from_millis(u64::from(arguments.lease_ms)),
        spin: Duration::from_micros(u64::from(arguments.spin_us)),
        ring: arguments.ring.into(),
    })
}

/// Listens on the first address of `address` that works. The standard library sets SO_REUSEADDR.
fn listen(address: &str) -> Result<TcpListener, CommandError> {
    let refuse = |source| refuse_listening(address, source);
    let mut last = CommandError::NoAddress { address: address.to_owned() };
    for candidate in address.to_socket_addrs().map_err(refuse)? {
        match bind_patiently(candidate) {
            Ok(listener) => return Ok(listener),
            Err(source) => last = refuse(source),
        }
    }
    Err(last)
}

/// Binds; a port in use is tried again for a while. The kernel takes the rings of a killed process apart
/// after its end is reported, and its listening socket with them: whoever restarts a brick at once would
/// be refused by its own predecessor.
fn bind_patiently(address: SocketAddr) -> std::io::Result<TcpListener> {
    let started = Instant::now();
    loop {
        match TcpListener::bind(address) {
            Err(error) if error.kind() == ErrorKind::AddrInUse && started.elapsed() < PORT_PATIENCE => {
                std::thread::sleep(PORT_PAUSE);
            }
            Ok(listener) => {
                // Now: clients of the last run connect while the directory is still being opened.
                brick_transport::prepare(&listener);
                return Ok(listener);
            }
            Err(error) => return Err(error),
        }
    }
}

/// How long a port may stay in use after its owner was killed; some 10 ms were seen.
const PORT_PATIENCE: Duration = Duration::from_secs(2);
const PORT_PAUSE: Duration = Duration::from_millis(10);

fn allowed_cpus() -> Result<Vec<usize>, CommandError> {
    let set = sched_getaffinity(Pid::from_raw(0))?;
    Ok((0..CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap_or(false)).collect())
}

fn asked_cpus(cores: Option<&Cores>, allowed: &[usize]) -> Result<Vec<usize>, CommandError> {
    match cores {
        None => Ok(allowed.to_vec()),
        Some(Cores::Count(count)) if *count > allowed.len() => {
            Err(CommandError::CpuCount { asked: *count, allowed: allowed.len() })
        }
        Some(Cores::Count(count)) => Ok(allowed[..*count].to_vec()),
        Some(Cores::List(list)) => match list.iter().find(|cpu| !allowed.contains(cpu)) {
            Some(cpu) => {
                let allowed = allowed.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
                Err(CommandError::Cpu { cpu: *cpu, allowed })
            }
            None => Ok(list.iter().copied().collect()),
        },
    }
}

/// Raises the limit on open files to what is allowed; returns it. A limit that can't be raised is lived
/// with.
fn raise_descriptor_limit() -> u32 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return 1024 };
    let limit = if setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() { hard } else { soft };
    u32::try_from(limit).unwrap_or(u32::MAX)
}

/// A core that panics must not leave the others serving, in debug builds too.
fn abort_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        let _ = writeln!(std::io::stderr(), "brickd: internal error: {panic}; please report it");
        std::process::abort();
    }));
}

/// For whoever waits for this line; if nobody does, that is no error.
fn say(line: &str) {
    let mut out = std::io::stdout();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_a_count_or_a_list() {
        assert_eq!("4".parse(), Ok(Cores::Count(4)));
        assert_eq!("0,2-4".parse(), Ok(Cores::List(BTreeSet::from([0, 2, 3, 4]))));
        assert_eq!("3,".parse(), Ok(Cores::List(BTreeSet::from([3]))));
        for bad in ["", "0", "x", "3-1", "1-", "0-99999"] {
            assert!(bad.parse::<Cores>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Command::command().debug_assert();
    }
}
