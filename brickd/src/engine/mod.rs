//! What a brick does, without doing any of it: a state machine per core that takes [`Event`]s and returns
//! [`Action`]s. It opens no file or socket, reads no clock and draws no random number, so the simulator
//! runs the code that the reactor runs.
//!
//! Calling contract: feed one event with [`Engine::handle_event`], then drain [`Engine::poll_action`] until
//! it returns `None`; call with [`Event::Tick`] no later than [`Engine::poll_timeout`] says.
//!
//! One engine runs on each core. Core 0's also keeps the registers and admits connections; it reaches the
//! other cores by [`CoreMessage`] only, delivered in order per pair of cores and never lost.
//!
//! The life of a request: `frames` finds its handler; `data`, `dummy`, `pull` and `pull_source` make a task of it
//! (`tasks`), which claims its blocks, waits until its shard is in the activity log (`activity`), gets a
//! buffer, an open file (`files`) and the CRCs of its blocks (`witness`), checks the fence a second time
//! (`fence`) and goes to disk. Everything waited for wakes a task by its token, and a woken task checks all its conditions again, so a wake-up too
//! many does no harm.
//!
//! Everything iterated is ordered, or in an order that is the same in every run: the same events in the same order give
//! the same actions.

use std::collections::VecDeque;

use brick_wire::overlap::OverlapQueue;
use brick_wire::placement::{core_of, lane_of};
use brick_wire::{BrickUuid, CoreIndex, ImageUuid, LaneIndex, ShardIndex, Timestamp};
use hashlink::LinkedHashSet;
use rustc_hash::{FxBuildHasher, FxHashMap};

use crate::buffer::Pool;

mod activity;
mod admission;
mod broadcast;
mod data;
mod dirty;
mod dummy;
mod fence;
mod files;
mod flush;
mod frames;
mod identity;
mod interface;
mod joins;
mod lease;
mod link;
mod marks;
mod pull;
mod pull_source;
mod recheck;
mod registers;
mod remove;
mod requests;
mod scrub;
mod shutdown;
mod status;
mod tasks;
mod witness;

#[cfg(test)]
mod tests;

pub use interface::*;
pub use pull::PULL_POOL_BYTES;
pub use witness::{page_bytes, read_page};

use activity::ActivityLog;
use admission::Admission;
use broadcast::Broadcasts;
use dirty::DirtyMaps;
use fence::Fences;
use files::Files;
use flush::{SyncTarget, Syncs};
use identity::Identity;
use joins::Joins;
use lease::Leases;
use link::Links;
use marks::Marks;
use pull::Pulls;
use recheck::Rechecks;
use registers::Registers;
use remove::Removals;
use requests::Requests;
use scrub::BadBlocks;
use shutdown::Shutdown;
use tasks::Task;
use witness::Witness;

/// One shard of this core.
type ShardKey = (ImageUuid, ShardIndex);

/// Names a request that waits for its answer, or a task; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Token(u64);

/// What belongs to tokens. Its order is the same in every run, but none that means anything.
type TokenMap<T> = FxHashMap<Token, T>;

/// What belongs to shards, where nobody asks for it in order.
type ShardMap<T> = FxHashMap<ShardKey, T>;

/// Shards in line, longest waiting first.
type ShardLine = LinkedHashSet<ShardKey, FxBuildHasher>;

/// Why a disk operation was started.
#[derive(Clone, Copy, Debug)]
enum Purpose {
    Open(ShardKey),
    Close(ShardKey),
    /// The read or write of a task.
    Task(Token),
    Sync(SyncTarget),
    Remove(ImageUuid, LaneIndex),
    Append,
    Identity,
    Space(Token),
    Activity(LaneIndex),
    SaveDirty(LaneIndex),
}

/// The engine of one core. See the module's documentation for the calling contract.
#[derive(Debug)]
pub struct Engine {
    /// What doesn't change; registers, shards and dirty maps were moved out of it.
    config: EngineConfig,
    pool: Pool,
    now: Timestamp,
    started: bool,
    next_token: u64,
    next_operation: u64,
    actions: VecDeque<Action>,
    operations: FxHashMap<OperationId, Purpose>,
    requests: Requests,
    tasks: TokenMap<Task>,
    claims: OverlapQueue<ShardKey, Token>,
    /// Tasks to look at before this event is done with.
    ready: VecDeque<Token>,
    /// Tasks that found the pool or their budget exhausted. Buffers come back to the pool without an
    /// event, so these are tried again with every event.
    buffer_waiters: VecDeque<Token>,
    fences: Fences,
    files: Files,
    syncs: Syncs,
    marks: Marks,
    dirty: DirtyMaps,
    activity: ActivityLog,
    witness: Witness,
    bad_blocks: BadBlocks,
    pulls: Pulls,
    rechecks: Rechecks,
    joins: Joins,
    /// Blocks of source reads that hold buffers.
    source_blocks: usize,
    links: Links,
    removals: Removals,
    shutdown: Shutdown,
    /// The rest is core 0's; elsewhere it stays empty.
    admission: Admission,
    broadcasts: Broadcasts,
    registers: Registers,
    identity: Identity,
    leases: Leases,
}

impl Engine {
    /// The engine of `config.core`, with what the store found. Payloads are allocated from `pool`.
    pub fn new(mut config: EngineConfig, pool: Pool) -> Engine {
        assert!(config.core.0 < config.cores && config.lanes > 0);
        assert!(config.open_files_max > 0, "shards have files, on an arbiter too");
        let registers = std::mem::take(&mut config.registers);
        let shards = std::mem::take(&mut config.shards);
        let saved = std::mem::take(&mut config.dirty);
        let fences = Fences::new(&registers);
        let leases = Leases::new(&fences);
        let own_lanes = own_lanes(&config).count();
        let mut activity = ActivityLog::new(own_lanes, config.cores, config.active_shards_max);
        let mut dirty = DirtyMaps::default();
        let unsynced: Vec<ImageUuid> = saved.iter().filter(|map| map.unsynced).map(|map| map.image).collect();
        saved.into_iter().for_each(|map| dirty.load(map));
        let mut witness = Witness::default();
        for shard in std::mem::take(&mut config.active) {
            dirty.load_active(shard);
            witness.distrust((shard.image, shard.shard));
            activity.load(lane_of(shard.image, shard.shard, config.lanes), shard);
        }
        if config.blank {
            shards.iter().for_each(|(image, _)| dirty.set_inexact(*image));
            fences.images().for_each(|image| dirty.set_inexact(image));
        }
        let mut engine = Engine {
            pool,
            now: Timestamp::ZERO,
            started: false,
            next_token: 0,
            next_operation: 0,
            actions: VecDeque::new(),
            operations: FxHashMap::default(),
            requests: Requests::default(),
            tasks: TokenMap::default(),
            claims: OverlapQueue::default(),
            ready: VecDeque::new(),
            buffer_waiters: VecDeque::new(),
            fences,
            files: Files::new(shards, config.open_files_max),
            syncs: Syncs::default(),
            marks: Marks::default(),
            dirty,
            activity,
            witness,
            bad_blocks: BadBlocks::default(),
            pulls: Pulls::default(),
            rechecks: Rechecks::default(),
            joins: Joins::default(),
            source_blocks: 0,
            links: Links::default(),
            removals: Removals::default(),
            shutdown: Shutdown::Serving,
            admission: Admission::default(),
            broadcasts: Broadcasts::default(),
            registers: Registers::new(registers),
            identity: Identity::new(&config),
            leases,
            config,
        };
        engine.load_marks(&unsynced);
        engine.reserve_page_buffers();
        engine
    }

    /// Takes one event. `now` never goes back.
    pub fn handle_event(&mut self, now: Timestamp, event: Event) {
        self.now = self.now.max(now);
        if !self.started {
            self.started = true;
            self.leases.start(self.now);
            self.fences.start(self.now);
        }
        match event {
            Event::Hello { connection, hello } => self.handle_hello(connection, hello),
            Event::Admitted { connection, peer } => self.handle_admitted(connection, peer),
            Event::Dialed { connection } => self.handle_dialed(connection),
            Event::Frame { connection, frame } => self.handle_frame(connection, frame),
            Event::Disconnected { connection } => self.handle_disconnected(connection),
            Event::DiskDone { operation, result } => self.handle_disk_done(operation, result),
            Event::Core(message) => self.handle_core_message(message),
            Event::Tick => {}
            Event::Shutdown => self.begin_shutdown(),
        }
        // They waited longest; the event may have freed what they wait for.
        self.buffer_waiters.append(&mut self.ready);
        std::mem::swap(&mut self.ready, &mut self.buffer_waiters);
        self.settle();
    }

    /// The next thing to do, if there is one.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When to come back with [`Event::Tick`] at the latest; `None` if only an event can change anything.
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        let retry = (!self.buffer_waiters.is_empty()).then(|| self.now + tasks::BUFFER_RETRY);
        retry.into_iter().chain(self.links.next_deadline()).chain(self.recheck_due()).min()
    }

    /// Does all that the event made possible.
    fn settle(&mut self) {
        self.expire_links();
        loop {
            while let Some(token) = self.ready.pop_front() {
                self.advance_task(token);
            }
            self.start_pull_runs();
            self.start_recheck();
            self.advance_removals();
            self.check_drains();
            if !self.ready.is_empty() {
                continue;
            }
            self.advance_activity();
            self.serve_slot_waiters();
            self.advance_shutdown();
            // They may have begun to save a page.
            if self.ready.is_empty() {
                break;
            }
        }
    }

    fn handle_disk_done(&mut self, operation: OperationId, result: Result<DiskOutput, DiskError>) {
        let purpose = self.operations.remove(&operation).expect("the shell answers what was asked, once");
        match purpose {
            Purpose::Open(key) => self.file_opened(key, result.map(drop)),
            Purpose::Close(key) => self.file_closed(key),
            Purpose::Task(token) => self.task_done(token, result),
            Purpose::Sync(target) => self.sync_done(target, result.map(drop)),
            Purpose::Remove(image, lane) => self.lane_removed(image, lane, result.is_ok()),
            Purpose::Append => self.append_done(result.map(drop)),
            Purpose::Identity => self.identity_written(result.is_ok()),
            Purpose::Space(token) => self.space_known(token, result),
            Purpose::Activity(_) if self.is_saving() => self.lane_stopped(result.is_ok()),
            Purpose::Activity(lane) => self.table_written(lane, result.map(drop)),
            Purpose::SaveDirty(lane) if self.is_saving() => self.dirty_saved(lane, result.is_ok()),
            Purpose::SaveDirty(lane) => self.bits_saved(lane, result.map(drop)),
        }
    }

    fn disk(&mut self, purpose: Purpose, request: DiskRequest) {
        let operation = OperationId(self.next_operation);
        self.next_operation += 1;
        self.operations.insert(operation, purpose);
        self.actions.push_back(Action::Disk { operation, request });
    }

    fn new_token(&mut self) -> Token {
        self.next_token += 1;
        Token(self.next_token)
    }

    fn lane_of(&self, key: ShardKey) -> LaneIndex {
        lane_of(key.0, key.1, self.config.lanes)
    }

    /// The lanes of this core, ascending.
    fn own_lanes(&self) -> Vec<LaneIndex> {
        own_lanes(&self.config).collect()
    }

    fn own_brick(&self) -> BrickUuid {
        self.config.brick
    }

    fn is_core_zero(&self) -> bool {
        self.config.core == CoreIndex(0)
    }
}

fn own_lanes(config: &EngineConfig) -> impl Iterator<Item = LaneIndex> {
    let (core, cores) = (config.core, config.cores);
    (0..config.lanes).map(LaneIndex).filter(move |lane| core_of(*lane, cores) == core)
}
