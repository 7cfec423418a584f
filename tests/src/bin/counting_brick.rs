//! A brick of one core that counts what its core allocates, for tests.
//!
//! Whoever connects to a socket gets the count. With the environment variable `BRICK_TRACES` it also prints where the next
//! so many allocations after that come from, most frequent first, when the next one asks.

use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use brickd::engine::Engine;
use brickd::reactor::cores::{Options, Running};
use brickd::reactor::ring::RingMode;
use brickd::reactor::signals;
use clap::Parser;

/// Serves a brick and counts what its core allocates.
///
/// Example: brick-counting-brick --dir /srv/brick0 --listen 127.0.0.1:7070 --counts /tmp/counts
#[derive(Debug, Parser)]
struct Arguments {
    /// The brick's directory
    #[arg(long)]
    dir: PathBuf,
    /// Where to listen
    #[arg(long)]
    listen: String,
    /// The socket to ask for the count
    #[arg(long)]
    counts: PathBuf,
}

/// Counts allocations of the threads that ask for it.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
/// How many more allocations are to be traced.
static TO_TRACE: AtomicUsize = AtomicUsize::new(0);
static TRACES: Mutex<BTreeMap<String, u64>> = Mutex::new(BTreeMap::new());

thread_local! {
    /// Whether this thread is a core and not tracing just now.
    static COUNTED: Cell<bool> = const { Cell::new(false) };
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

impl Counting {
    fn note() {
        if COUNTED.get() {
            ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
            if TO_TRACE.load(Ordering::Relaxed) > 0 {
                TO_TRACE.fetch_sub(1, Ordering::Relaxed);
                // What tracing allocates doesn't count.
                COUNTED.set(false);
                let trace = Backtrace::force_capture().to_string();
                *TRACES.lock().expect("nobody panics with it").entry(trace).or_default() += 1;
                COUNTED.set(true);
            }
        }
    }
}

// SAFETY: every call is the system allocator's; counting touches no memory of the caller, and allocates only after it has
// switched itself off for this thread.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Counting::note();
        // SAFETY: the caller keeps the contract of `alloc`, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        Counting::note();
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, new_size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    signals::block().expect("before any other thread exists");
    let listener = TcpListener::bind(&arguments.listen).expect("a free address");
    let counts = UnixListener::bind(&arguments.counts).expect("a free path");
    std::thread::spawn(move || tell(&counts));
    let store = brickd::store::open(&arguments.dir).expect("a brick's directory");
    let options = Options {
        cpus: vec![0],
        pool_bytes: 64 << 20,
        open_files_max: 1024,
        lease: Duration::from_secs(5),
        spin: Duration::ZERO,
        ring: RingMode::default(),
    };
    let make_core = |config, pool| {
        COUNTED.set(true);
        Engine::new(config, pool)
    };
    let running = Running::start(store, listener, &options, make_core).expect("a brick that starts");
    println!("serving on {}", arguments.listen);
    match running.join() {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Tells everybody who connects.
fn tell(counts: &UnixListener) {
    let traces = std::env::var("BRICK_TRACES").ok().and_then(|count| count.parse().ok()).unwrap_or(0);
    for asker in counts.incoming() {
        let count = ALLOCATIONS.load(Ordering::Relaxed);
        TO_TRACE.store(0, Ordering::Relaxed);
        let traced = std::mem::take(&mut *TRACES.lock().expect("nobody panics with it"));
        let mut traced: Vec<(u64, String)> =
            traced.into_iter().map(|(trace, times)| (times, trace)).collect();
        traced.sort_unstable_by(|one, other| other.cmp(one));
        for (times, trace) in traced {
            eprintln!("{times} times:\n{trace}");
        }
        TO_TRACE.store(traces, Ordering::Relaxed);
        let mut asker = asker.expect("a connection");
        asker.write_all(count.to_string().as_bytes()).expect("told");
    }
}
