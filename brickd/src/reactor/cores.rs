//! From an opened store to running cores, and back to a clean stop.
//!
//! Each core is a thread, pinned to a CPU, that builds its own ring and pool (both belong to their thread)
//! and then runs its [`Reactor`]. A core that panics takes the process with it: half a brick would keep
//! promises that the other half forgot.

use std::fs::File;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use brick_wire::limits::DATA_BYTES_MAX;
use brick_wire::placement::core_of;
use brick_wire::{CoreIndex, Role};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use tracing::{info, warn};

use super::disk::Disk;
use super::helper::{Helpers, Tools};
use super::listen::Listener;
use super::mail::Mailbox;
use super::ring::{Ring, RingError, RingMode};
use super::spin::Spin;
use super::{Core, Operation, Reactor, Shared, signals};
use crate::buffer::Pool;
use crate::engine::EngineConfig;
use crate::store::error::StoreError;
use crate::store::superblock::SuperblockFile;
use crate::store::{Store, activity};

/// How a brick is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The CPU of each core.
    pub cpus: Vec<usize>,
    /// Of each core's pool.
    pub pool_bytes: usize,
    /// Of each core's table.
    pub open_files_max: u32,
    /// How long a holder that stops renewing keeps others out.
    pub lease: Duration,
    /// How long a busy core looks for work before it sleeps; see [`Spin`].
    pub spin: Duration,
    /// Of each core's ring.
    pub ring: RingMode,
}

/// Why a brick doesn't run, or ended badly.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// No ring.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A thread, an eventfd or memory was refused.
    #[error("can't start core {core}: {source}; give the brick more memory or fewer cores")]
    Core {
        /// Which.
        core: u16,
        /// Why.
        source: io::Error,
    },
    /// A helper or signal thread was refused.
    #[error("can't start a helper thread: {0}; raise the limit on processes")]
    Thread(#[source] io::Error),
    /// A core's ring failed while it ran.
    #[error(
        "core {core} failed: its io_uring returned {source}; see the kernel's log and start the brick again"
    )]
    Failed {
        /// Which.
        core: u16,
        /// Why.
        source: io::Error,
    },
    /// An engine couldn't flush or save what it had.
    #[error(
        "the brick stopped uncleanly: not everything could be flushed or saved, see the log; the next start is like one after a crash"
    )]
    Unclean,
}

/// How a brick ended that stopped cleanly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// As it was told to.
    Stopped,
    /// To be served again at once: its directory is another brick's now.
    Restart,
}

/// A brick that runs.
#[derive(Debug)]
pub struct Running {
    shared: Arc<Shared>,
    cores: Vec<JoinHandle<io::Result<()>>>,
    helpers: Vec<JoinHandle<()>>,
    superblock: Arc<Mutex<SuperblockFile>>,
    /// Held until the clean stop is noted.
    store: StoreRest,
}

/// What stays of the store when its parts have gone to their threads.
#[derive(Debug)]
struct StoreRest {
    _lock: crate::store::Lock,
}

impl Running {
    /// Starts every core and returns when all of them serve.
    pub fn start<C: Core>(
        store: Store,
        listener: TcpListener,
        options: &Options,
        make_core: impl Fn(EngineConfig, Pool) -> C + Clone + Send + 'static,
    ) -> Result<Running, RunError> {
        let configs = engine_configs(&store, options);
        let superblock = Arc::new(Mutex::new(store.superblock));
        let used_bytes = Arc::new(AtomicU64::new(store.used_bytes));
        let directory = File::open(&store.path).map_err(StoreError::io("open", &store.path))?;
        let mailboxes = configs.iter().map(|_| Mailbox::new()).collect::<Result<Vec<_>, _>>();
        let mailboxes = Arc::new(mailboxes.map_err(|errno| RunError::Thread(errno.into()))?);
        let tools = Tools {
            path: store.path,
            incarnation: store.incarnation,
            superblock: superblock.clone(),
            used_bytes: used_bytes.clone(),
            mailboxes: mailboxes.clone(),
        };
        let (helpers, helper_threads) =
            Helpers::start(tools, store.register_log, store.activity).map_err(RunError::Thread)?;
        let shared = Arc::new(Shared {
            mailboxes: mailboxes.clone(),
            helpers,
            directory: Arc::new(OwnedFd::from(directory)),
            lock: store.lock.share().map_err(RunError::Thread)?,
            used_bytes,
            accepted: AtomicUsize::new(0),
            stopped: AtomicUsize::new(0),
            unclean: AtomicBool::new(false),
            restart: AtomicBool::new(false),
            pool_warned: AtomicBool::new(false),
        });
        let cores = start_cores(configs, listener, options, &shared, &make_core)?;
        signals::watch(mailboxes).map_err(RunError::Thread)?;
        Ok(Running {
            shared,
            cores,
            helpers: helper_threads,
            superblock,
            store: StoreRest { _lock: store.lock },
        })
    }

    /// Returns when the brick has stopped; without an error only if it stopped cleanly and that is durable.
    pub fn join(self) -> Result<End, RunError> {
        for (core, thread) in (0..).zip(self.cores) {
            let ended = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            ended.map_err(|source| RunError::Failed { core, source })?;
        }
        signals::unwatch();
        let is_clean = !self.shared.unclean.load(Ordering::SeqCst);
        let end = if self.shared.restart.load(Ordering::SeqCst) { End::Restart } else { End::Stopped };
        // The helpers end when nobody can ask them for anything any more.
        drop(self.shared);
        for helper in self.helpers {
            helper.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
        if !is_clean {
            return Err(RunError::Unclean);
        }
        self.superblock.lock().expect("nobody panics while writing it").write_clean()?;
        drop(self.store);
        Ok(end)
    }
}

/// What each core's engine is born with: its share of what the store found.
fn engine_configs(store: &Store, options: &Options) -> Vec<EngineConfig> {
    let cores = options.cpus.len() as u16;
    let credit_bytes = (options.pool_bytes / 4).clamp(DATA_BYTES_MAX, CREDIT_BYTES_MAX) as u32;
    let config = |core: CoreIndex| EngineConfig {
        core,
        cores,
        lanes: store.identity.lanes,
        role: store.identity.role,
        brick: store.identity.brick,
        membership: store.identity.membership.clone(),
        blank: store.identity.blank,
        floors: store.identity.floors.clone(),
        incarnation: store.incarnation,
        lease: options.lease,
        credit_bytes,
        open_files_max: options.open_files_max,
        registers: store.registers.clone(),
        shards: store
            .shards
            .iter()
            .filter(|(lane, ..)| core_of(*lane, cores) == core)
            .map(|(_, image, shard)| (*image, *shard))
            .collect(),
        dirty: store
            .dirty
            .iter()
            .filter(|(lane, _)| core_of(*lane, cores) == core)
            .flat_map(|(_, maps)| maps.clone())
            .collect(),
        active: store
            .active
            .iter()
            .filter(|(lane, _)| core_of(*lane, cores) == core)
            .flat_map(|(_, shards)| shards.clone())
            .collect(),
        active_shards_max: activity::ENTRIES_MAX,
    };
    (0..cores).map(CoreIndex).map(config).collect()
}

type CoreThread = JoinHandle<io::Result<()>>;

fn start_cores<C: Core>(
    configs: Vec<EngineConfig>,
    listener: TcpListener,
    options: &Options,
    shared: &Arc<Shared>,
    make_core: &(impl Fn(EngineConfig, Pool) -> C + Clone + Send + 'static),
) -> Result<Vec<CoreThread>, RunError> {
    let mut listener = Some(Listener::new(listener));
    let mut threads = Vec::new();
    let (report, reports) = mpsc::channel();
    for (config, cpu) in configs.into_iter().zip(options.cpus.clone()) {
        let core = config.core;
        let (listener, report) = (listener.take(), report.clone());
        let (shared, make_core) = (shared.clone(), make_core.clone());
        let (pool_bytes, ring, spin) = (options.pool_bytes, options.ring, Spin::new(options.spin));
        let run = move || {
            pin(core, cpu);
            let reactor = build(config, pool_bytes, ring, spin, shared, make_core);
            let mut reactor = match reactor {
                Ok(reactor) => reactor,
                Err(error) => {
                    // The receiver is there as long as not all cores have reported.
                    let _ = report.send(Err(error));
                    return Ok(());
                }
            };
            if let Some(listener) = listener {
                reactor.set_listener(listener);
            }
            let _ = report.send(Ok(()));
            drop(report);
            reactor.run()
        };
        let thread = Builder::new().name(format!("core-{}", core.0)).spawn(run);
        threads.push(thread.map_err(|source| RunError::Core { core: core.0, source })?);
    }
    drop(report);
    reports.into_iter().collect::<Result<(), RunError>>()?;
    Ok(threads)
}

fn build<C: Core>(
    config: EngineConfig,
    pool_bytes: usize,
    ring_mode: RingMode,
    spin: Spin,
    shared: Arc<Shared>,
    make_core: impl Fn(EngineConfig, Pool) -> C,
) -> Result<Reactor<C>, RunError> {
    let index = config.core;
    let pool =
        Pool::try_new(pool_bytes).map_err(|errno| RunError::Core { core: index.0, source: errno.into() })?;
    let mut ring: Ring<Operation> = Ring::new(ring_mode)?;
    // An arbiter moves nothing but pages of CRCs. The limit is the process's, so one warning is enough, whichever core
    // meets it.
    if config.role == Role::Data
        && let Err(error) = ring.register_pool(&pool)
        && !shared.pool_warned.swap(true, Ordering::Relaxed)
    {
        warn!(
            "pools of {} MiB a core can't be registered with io_uring ({error}), which makes I/O slower: \
             raise LimitMEMLOCK in the unit file, or `ulimit -l`, to {} KiB",
            pool_bytes >> 20,
            (pool_bytes >> 10) * usize::from(config.cores)
        );
    }
    if let Err(error) = ring.register_files(config.open_files_max + 1) {
        warn!("core {}: shard files can't be registered with io_uring ({error}): I/O is slower", index.0);
    }
    // Behind the shard files: the ring keeps the directory locked until its last write has ended.
    let _held = ring.set_file(config.open_files_max, shared.lock.as_raw_fd());
    let disk =
        Disk::new(shared.directory.clone(), config.open_files_max, shared.used_bytes.clone(), config.cores);
    let core = make_core(config, pool.clone());
    Ok(Reactor::new(core, index, shared, ring, pool, disk, spin))
}

/// Binds the calling thread to a CPU. Where that is forbidden the scheduler decides.
fn pin(core: CoreIndex, cpu: usize) {
    let mut set = CpuSet::new();
    match set.set(cpu).and_then(|()| sched_setaffinity(Pid::from_raw(0), &set)) {
        Ok(()) => info!("core {} runs on CPU {cpu}", core.0),
        Err(errno) => warn!("core {} can't be bound to CPU {cpu} ({errno}): the scheduler places it", core.0),
    }
}

/// Data bytes a connection may have outstanding, at most: eight of the largest requests.
const CREDIT_BYTES_MAX: usize = 8 << 20;
