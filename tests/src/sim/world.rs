//! The whole cluster in one thread: everything there is, and what each happening does to it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use brick_wire::cursor::Body;
use brick_wire::placement::lane_of;
use brick_wire::record::{EpochRecord, Member, RecordKind};
use brick_wire::register::{RegisterEntry, RegisterKey, RegisterState};
use brick_wire::{
    BrickIndex, BrickSet, Epoch, ImageUuid, Incarnation, OperationUuid, Role, SessionId, ShardIndex,
    StartCounter, Timestamp, VolumeUuid,
};
use brickd::engine::Membership;

use super::agenda::{Agenda, Happening};
use super::brick::{Brick, brick_uuid, pools};
use super::checker::Checker;
use super::config::Config;
use super::disk::FileKey;
use super::log::{Log, Recording};
use super::network::{ConnectionKey, Network};
use super::operator::Visit;
use super::random::Random;
use super::session::{Client, Session};

/// The image that all seeds use.
pub const IMAGE: ImageUuid = ImageUuid(uuid_of(0x1a));
/// The volume it is in.
pub const VOLUME: VolumeUuid = VolumeUuid(uuid_of(0x0f));
/// log2 of its shard size: the smallest.
pub const SHARD_SHIFT: u8 = 20;
/// Its size.
const SIZE_BYTES: u64 = 64 << SHARD_SHIFT;
/// More events than any sound run takes.
const EVENTS_MAX: u64 = 3_000_000;

const fn uuid_of(byte: u8) -> uuid::Uuid {
    uuid::Uuid::from_bytes([byte; 16])
}

/// The cluster.
#[derive(Debug)]
pub struct World {
    /// What this seed drew.
    pub config: Config,
    /// All chance.
    pub random: Random,
    /// All time.
    pub agenda: Agenda,
    /// What happened.
    pub log: Log,
    /// All connections.
    pub network: Network,
    /// The bricks, in the order of the group.
    pub bricks: Vec<Brick>,
    /// The hosts of sessions.
    pub clients: Vec<Client>,
    /// Sessions that live.
    pub sessions: BTreeMap<SessionId, Box<Session>>,
    /// What the users saw.
    pub checker: Checker,
    /// Faults happen.
    pub faulty: bool,
    /// Requests still to be made in this phase.
    pub requests_left: u32,
    /// Faults that the scheduler may still make.
    pub(super) faults_left: u32,
    /// When every disk operation that was started so far has ended.
    pub(super) disks_busy_until: Timestamp,
    /// The records that any brick has accepted.
    pub(super) records_seen: BTreeSet<Epoch>,
    /// What the operator still has to say, by connection.
    pub(super) visits: BTreeMap<ConnectionKey, Visit>,
    /// The brick whose place an empty one is to take, and the floor that the others learn first.
    pub(super) replacing: Option<(BrickIndex, StartCounter)>,
    /// How often a lost disk may still come back at the worst moment.
    pub(super) temptations_left: u32,
    /// Happenings so far.
    pub events: u64,
    pub(super) next_session: u64,
    /// Sessions that only heal, those that are over included.
    pub(super) healers: BTreeSet<SessionId>,
    pub(super) next_tag: u64,
    /// An engine's actions while they are done: kept for its memory.
    pub(super) actions: Vec<brickd::engine::Action>,
}

impl World {
    /// A cluster whose bricks run and whose image exists, closed.
    pub fn new(config: Config, random: Random, recording: Recording) -> World {
        let roles = config.roles.iter().enumerate().zip(pools(config.roles.len()));
        let brick = |((index, role), pool): ((usize, &Role), _)| Brick::new(index, *role, config.lanes, pool);
        let bricks: Vec<Brick> = roles.map(brick).collect();
        let hosts = config.clients + config.workload.agents;
        let mut world = World {
            network: Network::new(config.network, bricks.len(), hosts),
            clients: (0..hosts).map(|_| Client::default()).collect(),
            requests_left: config.workload.requests,
            faults_left: config.faults.count_max,
            disks_busy_until: Timestamp::ZERO,
            records_seen: BTreeSet::new(),
            visits: BTreeMap::new(),
            replacing: None,
            temptations_left: 3,
            actions: Vec::new(),
            config,
            random,
            agenda: Agenda::default(),
            log: Log::new(recording),
            bricks,
            sessions: BTreeMap::new(),
            checker: Checker::default(),
            faulty: false,
            events: 0,
            next_session: 1,
            healers: BTreeSet::new(),
            next_tag: 1,
        };
        world.create_image();
        for index in 0..world.bricks.len() {
            world.start_brick(BrickIndex(index as u8));
        }
        world
    }

    /// Stamps the bricks and writes the image's first record, as a volume's and an image's creation do.
    fn create_image(&mut self) {
        let members: Vec<_> = (0..self.bricks.len()).map(brick_uuid).collect();
        let data = (0..self.bricks.len()).filter(|index| self.config.roles[*index] == Role::Data);
        let epoch = Epoch { counter: 1, session: SessionId(self.next_session) };
        self.next_session += 1;
        let member = |brick| Member { brick, incarnation: Incarnation::default() };
        let record = EpochRecord {
            epoch,
            holder: SessionId::NONE,
            kind: RecordKind::Closed,
            in_sync: data.map(|index| BrickIndex(index as u8)).collect(),
            membership_version: 1,
            members: members.iter().copied().map(member).collect(),
            size_bytes: SIZE_BYTES,
            operation: OperationUuid::NIL,
        };
        let state =
            RegisterState { promised: epoch, accepted: epoch, lease_left_ms: 0, value: record.to_bytes() };
        let entry = RegisterEntry { key: RegisterKey::Epoch(IMAGE), state };
        for brick in &mut self.bricks {
            brick.disk.membership = Some(Membership { volume: VOLUME, group: 0, members: members.clone() });
            brick.disk.append(std::slice::from_ref(&entry));
        }
    }

    /// The time.
    pub fn now(&self) -> Timestamp {
        self.agenda.now()
    }

    /// One brick.
    pub fn brick(&mut self, brick: BrickIndex) -> &mut Brick {
        &mut self.bricks[usize::from(brick.0)]
    }

    /// The data bricks.
    pub fn data_bricks(&self) -> impl Iterator<Item = &Brick> {
        self.bricks.iter().filter(|brick| brick.role == Role::Data)
    }

    /// The file of a shard, on every brick.
    pub fn file(&self, shard: ShardIndex) -> FileKey {
        (lane_of(IMAGE, shard, self.config.lanes), IMAGE, shard)
    }

    /// The records that bricks accepted, and by whom, from the newest that a quorum holds on.
    pub fn records(&self) -> Vec<(EpochRecord, BrickSet)> {
        let mut records: BTreeMap<Epoch, (EpochRecord, BrickSet)> = BTreeMap::new();
        for brick in &self.bricks {
            // An empty disk that took the place of another has none yet.
            let Some(state) = brick.disk.register(&RegisterKey::Epoch(IMAGE)) else { continue };
            let record = EpochRecord::from_bytes(&state.value).expect("bricks accept what can be read");
            records.entry(state.accepted).or_insert((record, BrickSet::EMPTY)).1.insert(brick.index);
        }
        let decided = records.iter().rev().find(|(_, (_, bricks))| self.is_quorum(*bricks));
        let from = decided.map_or(Epoch::ZERO, |(epoch, _)| *epoch);
        records.split_off(&from).into_values().collect()
    }

    pub(super) fn is_quorum(&self, bricks: BrickSet) -> bool {
        match self.config.quorum {
            brick_client::replica::Quorum::Majority => bricks.count() * 2 > self.bricks.len(),
            brick_client::replica::Quorum::First => bricks.contains(BrickIndex(0)),
        }
    }

    /// Lets the next thing happen; false if nothing is left to happen or something went wrong.
    pub fn step(&mut self) -> bool {
        if self.checker.complaint.is_some() {
            return false;
        }
        let Some(what) = self.agenda.pop() else { return false };
        self.events += 1;
        if self.events > EVENTS_MAX {
            self.checker.complain(format!("no end after {EVENTS_MAX} events"));
            return false;
        }
        self.log.note(self.agenda.now().0);
        self.happen(what);
        true
    }

    /// Runs until `done` says so; false if that takes longer than `limit`.
    pub fn run_until(&mut self, limit: Duration, done: impl Fn(&World) -> bool) -> bool {
        let end = self.now() + limit;
        while !done(self) {
            if self.now() > end || !self.step() {
                return false;
            }
        }
        true
    }

    /// Runs for a while.
    pub fn run_for(&mut self, time: Duration) {
        let end = self.now() + time;
        while self.agenda.next_at().is_some_and(|at| at < end) && self.step() {}
        if self.checker.complaint.is_none() && self.agenda.next_at().is_none_or(|at| at >= end) {
            self.agenda.advance(end);
        }
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Arrive(key, side) => self.arrive(key, side),
            Happening::Connect(key) => self.connect(key),
            Happening::ConnectFailed(key) => self.connect_failed(key),
            Happening::CoreMessage(brick, life, from, to) => self.core_message(brick, life, from, to),
            Happening::Handover(brick, life, id) => self.handover(brick, life, id),
            Happening::Closed(brick, life, id) => self.closed(brick, life, id),
            Happening::DiskDone(brick, life, core, operation) => {
                self.disk_done(brick, life, core, operation);
            }
            Happening::EngineTimer(brick, life, core) => self.engine_timer(brick, life, core),
            // Whoever was down when the faults ended was started then; nobody starts what the finale stops.
            Happening::Start(brick) if self.faulty => self.start_brick(brick),
            Happening::Start(_) => {}
            Happening::Stop(brick, life) => self.restart_brick(brick, life),
            Happening::StartAgain(brick) => self.start_brick(brick),
            Happening::GroupTimer(session)
            | Happening::Relink(session, ..)
            | Happening::LinkTimeout(session, ..)
            | Happening::Work(session) => self.session_happening(session, what),
            Happening::Open(client) => self.open_next(client),
            Happening::Resume(client) => self.resume(client),
            Happening::Fault => self.fault(),
            Happening::Ambush(brick) => self.ambush(brick),
            Happening::Inspect => self.inspect(),
            Happening::Reunite(from, to) => {
                self.network.set_blocked(from, to, false);
                self.network.release(&mut self.agenda);
            }
            Happening::DiskRecovers(brick) => {
                self.brick(brick).slowness = 1;
                self.brick(brick).full = false;
            }
        }
    }
}
