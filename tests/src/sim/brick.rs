//! The shell around the engines of one brick: what the reactor does in a real one.
//!
//! A brick has a disk, which lives on, and a process, which doesn't. Every start is another life with a
//! higher start counter, possibly on another number of cores; a loss of power gives it another boot.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;

use brick_wire::decode::Frame as WireFrame;
use brick_wire::placement::{core_of, lane_of};
use brick_wire::{
    BootUuid, BrickIndex, BrickUuid, CoreIndex, Floors, Header, ImageUuid, Incarnation, LaneIndex, Role,
    StartCounter, Timestamp,
};
use brickd::buffer::Pool;
use brickd::engine::{
    ConnectionId, CoreMessage, Engine, EngineConfig, Membership, OperationId, PULL_POOL_BYTES, Peer,
    SavedDirty,
};

use super::agenda::Life;
use super::config::Config;
use super::disk::{Disk, FileKey};
use super::disk_work::DiskWork;
use super::network::{ConnectionKey, Side};
use super::world::IMAGE;

/// Data bytes a connection may have outstanding: no limit that these small requests would reach.
const CREDIT_BYTES: u32 = 1 << 20;
/// Enough for the pulls of a brick's cores and for whatever arrives; touched only where used.
const POOL_BYTES: usize = 4 * PULL_POOL_BYTES;

/// A connection as the process sees it.
#[derive(Debug)]
pub struct Endpoint {
    /// The network's name for it.
    pub key: ConnectionKey,
    /// Which end is ours.
    pub side: Side,
    /// The core that serves it.
    pub core: Option<CoreIndex>,
    /// The hello's header, to be answered.
    pub hello: Option<Header>,
    /// Admitted, and on its way to its core.
    pub peer: Option<(CoreIndex, Peer)>,
    /// Frames that arrived meanwhile.
    pub held: VecDeque<WireFrame>,
    /// It ended meanwhile.
    pub ended: bool,
}

/// A brick's process.
pub struct Process {
    /// Which life this is.
    pub life: Life,
    /// One per core.
    pub engines: Vec<Engine>,
    /// Those that have stopped, and whether cleanly.
    pub stopped: Vec<Option<bool>>,
    /// When each engine's timer is due.
    pub timers: Vec<Option<Timestamp>>,
    /// Messages between cores, by sender and receiver.
    pub messages: BTreeMap<(CoreIndex, CoreIndex), VecDeque<CoreMessage>>,
    /// When the last of them arrives.
    pub messages_due: BTreeMap<(CoreIndex, CoreIndex), Timestamp>,
    /// Its connections.
    pub endpoints: BTreeMap<ConnectionId, Endpoint>,
    /// Open files, by core and slot.
    pub slots: BTreeMap<(CoreIndex, u32), FileKey>,
    /// Disk operations in flight.
    pub work: BTreeMap<(CoreIndex, OperationId), DiskWork>,
    /// Where syncs failed since the maps of the lane were last saved, and marks of that with them.
    pub unmarked: BTreeSet<(LaneIndex, ImageUuid)>,
    /// It was told to stop.
    pub stopping: bool,
    /// It starts again by itself once it has stopped.
    pub restarts: bool,
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "life {}, {} cores, {} operations", self.life, self.engines.len(), self.work.len())
    }
}

/// One brick.
#[derive(Debug)]
pub struct Brick {
    /// Its position in the group.
    pub index: BrickIndex,
    /// What it keeps.
    pub role: Role,
    /// What survives.
    pub disk: Disk,
    /// What doesn't.
    pub process: Option<Process>,
    /// Lives so far.
    pub lives: Life,
    /// Starts that the disk counts: as many, unless it is an older copy of itself.
    pub starts: u64,
    /// A copy of the disk and of its count, from before a start.
    pub older: Option<(Disk, u64)>,
    /// It was replaced by that copy, and nobody has helped it yet.
    pub restored: bool,
    /// When it was replaced last.
    pub restored_at: Timestamp,
    /// It has its registers back.
    pub taught: bool,
    /// Its disk is lost: it stays down until an empty one has taken the place.
    pub lost: bool,
    /// An empty disk took its place, and the operator isn't done with it.
    pub fresh: bool,
    /// The disk whose place the present one took, and its count.
    pub retired: Option<(Disk, u64)>,
    /// That disk is back in its place, by mistake: the right one, its count, and until when.
    pub mistaken: Option<(Disk, u64, Timestamp)>,
    /// Boots so far.
    pub boots: u64,
    /// When the present boot began.
    pub booted_at: Timestamp,
    /// The host is down until its process starts.
    pub powered: bool,
    /// Disk operations take this many times longer.
    pub slowness: u32,
    /// A process of it ended without a clean stop.
    pub died: bool,
    /// No new files.
    pub full: bool,
    /// An append to the register log failed in this life: the brick votes no more.
    pub vote_lost: bool,
    lanes: u16,
    pool: Pool,
}

impl Brick {
    /// A formatted, stamped brick that isn't running.
    pub fn new(index: usize, role: Role, lanes: u16, pool: Pool) -> Brick {
        Brick {
            index: BrickIndex(index as u8),
            role,
            disk: Disk::formatted(brick_uuid(index)),
            process: None,
            lives: 0,
            starts: 0,
            older: None,
            restored: false,
            restored_at: Timestamp::ZERO,
            taught: false,
            lost: false,
            fresh: false,
            retired: None,
            mistaken: None,
            boots: 1,
            booted_at: Timestamp::ZERO,
            powered: true,
            slowness: 1,
            died: false,
            full: false,
            vote_lost: false,
            lanes,
            pool,
        }
    }

    /// Its name, as its disk has it.
    pub fn uuid(&self) -> BrickUuid {
        self.disk.brick
    }

    /// The present life, as peers see it.
    pub fn incarnation(&self) -> Incarnation {
        let boot = u128::from(self.boots) << 8 | u128::from(self.index.0);
        Incarnation { boot: BootUuid::from_bytes(boot.to_be_bytes()), start: StartCounter(self.starts) }
    }

    /// Starts the process on `cores` cores.
    pub fn start(&mut self, config: &Config, cores: u16) {
        assert!(self.process.is_none());
        self.lives += 1;
        self.starts += 1;
        self.powered = true;
        self.vote_lost = false;
        if !self.disk.clean && !config.switches.unsynced_start {
            self.disk.sync_all();
        }
        let engines = (0..cores).map(|core| self.engine(config, CoreIndex(core), cores)).collect();
        let count = usize::from(cores);
        self.disk.clean = false;
        self.process = Some(Process {
            life: self.lives,
            engines,
            stopped: vec![None; count],
            timers: vec![None; count],
            messages: BTreeMap::new(),
            messages_due: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            slots: BTreeMap::new(),
            work: BTreeMap::new(),
            unmarked: BTreeSet::new(),
            stopping: false,
            restarts: false,
        });
    }

    fn engine(&self, config: &Config, core: CoreIndex, cores: u16) -> Engine {
        let own = |lane| core_of(lane, cores) == core;
        let files = self.disk.files().filter(|key| own(key.0));
        let shards = files.map(|(lane, image, shard)| {
            assert_eq!(lane, lane_of(image, shard, config.lanes), "a shard lies in its lane");
            (image, shard)
        });
        let saved = self.disk.saved.iter().filter(|(lane, _)| own(**lane));
        let active = self.disk.active.iter().filter(|(lane, _)| own(**lane));
        let engine_config = EngineConfig {
            core,
            cores,
            lanes: config.lanes,
            role: self.role,
            brick: self.uuid(),
            membership: self.disk.membership.clone(),
            blank: self.disk.blank,
            floors: self.disk.floors.clone(),
            incarnation: self.incarnation(),
            lease: config.lease,
            credit_bytes: CREDIT_BYTES,
            open_files_max: config.open_files_max,
            registers: self.disk.registers(),
            shards: shards.collect(),
            dirty: saved.flat_map(|(_, maps)| maps.clone()).collect(),
            active: active.flat_map(|(_, shards)| shards.clone()).collect(),
            active_shards_max: config.active_shards_max,
        };
        Engine::new(engine_config, self.pool.clone())
    }

    /// What the store does for `WriteIdentity`: with its blankness an older copy loses its saved maps, which
    /// are as old as it is.
    pub fn write_identity(&mut self, membership: Option<Membership>, blank: bool, floors: Floors) {
        if self.disk.blank && !blank {
            self.taught = true;
            let nothing_known =
                SavedDirty { image: IMAGE, exact: false, unsynced: false, shards: Vec::new() };
            for lane in 0..self.lanes {
                self.disk.saved.insert(LaneIndex(lane), vec![nothing_known.clone()]);
            }
        }
        (self.disk.membership, self.disk.blank, self.disk.floors) = (membership, blank, floors);
    }

    /// What the store does for `Adopt`.
    pub fn adopt(&mut self, brick: BrickUuid, membership: Membership, start: StartCounter) {
        (self.disk.brick, self.disk.membership, self.disk.blank) = (brick, Some(membership), true);
        self.starts = start.0;
    }

    /// Whether it may not vote, or has forgotten promises and nobody has noticed.
    pub fn needs_operator(&self) -> bool {
        self.restored || self.disk.blank || self.lost || self.mistaken.is_some()
    }

    /// The process, if it is the one that `life` names.
    pub fn process_of(&mut self, life: Life) -> Option<&mut Process> {
        self.process.as_mut().filter(|process| process.life == life)
    }

    /// Memory for received payloads.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }
}

/// A pool for each of `count` bricks. Pools are kept for the next world of this thread: to map and clear
/// their memory anew would cost more than a short run.
pub fn pools(count: usize) -> Vec<Pool> {
    thread_local! {
        static POOLS: RefCell<Vec<Pool>> = const { RefCell::new(Vec::new()) };
    }
    POOLS.with_borrow_mut(|pools| {
        // A world that panicked may have left slots in use.
        pools.retain(|pool| pool.free_bytes() == POOL_BYTES);
        while pools.len() < count {
            pools.push(Pool::new(POOL_BYTES));
        }
        pools[..count].to_vec()
    })
}

/// The name of the brick at a position.
pub fn brick_uuid(index: usize) -> BrickUuid {
    BrickUuid::from_bytes([0xb0 + index as u8; 16])
}
