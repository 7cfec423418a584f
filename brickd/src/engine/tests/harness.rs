//! A brick of engines on a disk in memory. Disk operations finish at once unless the test holds or fails
//! them; core messages arrive in order; dialled connections are the test's to route.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use brick_wire::body::{Attach, Crcs, DummyWrite, DummyWrites, put_crcs};
use brick_wire::checksum::block_crcs;
use brick_wire::cursor::Body;
use brick_wire::handshake::{Hello, PeerKind, Welcome};
use brick_wire::limits::{BLOCK_SIZE, PROTOCOL_VERSION, SHARD_SHIFT_MIN};
use brick_wire::placement::{core_of, lane_of};
use brick_wire::record::{EpochRecord, Member, RecordKind};
use brick_wire::register::{RegisterEntry, RegisterKey, RegisterState};
use brick_wire::*;

use crate::buffer::Pool;
use crate::engine::*;

pub const LEASE: Duration = Duration::from_secs(10);
pub const LANES: u16 = 4;
pub const HANDLE: ImageHandle = ImageHandle(1);
pub const ALICE: SessionId = SessionId(0xa);
pub const BOB: SessionId = SessionId(0xb);

pub fn image() -> ImageUuid {
    ImageUuid::from_bytes([7; 16])
}

pub fn volume() -> VolumeUuid {
    VolumeUuid::from_bytes([9; 16])
}

pub fn brick_uuid(index: u8) -> BrickUuid {
    BrickUuid::from_bytes([index + 1; 16])
}

pub fn epoch(counter: u64, session: SessionId) -> Epoch {
    Epoch { counter, session }
}

pub fn epoch_key() -> RegisterKey {
    RegisterKey::Epoch(image())
}

/// A record under `epoch` with brick 0 in sync.
pub fn record(epoch: Epoch, kind: RecordKind) -> EpochRecord {
    let member = |index| Member { brick: brick_uuid(index), incarnation: Incarnation::default() };
    EpochRecord {
        epoch,
        holder: epoch.session,
        kind,
        in_sync: BrickSet::only(BrickIndex(0)),
        membership_version: 1,
        members: vec![member(0), member(1)],
        size_bytes: 1 << 30,
        operation: OperationUuid::from_bytes([3; 16]),
    }
}

pub fn config(index: u8, core: u16, cores: u16) -> EngineConfig {
    EngineConfig {
        core: CoreIndex(core),
        cores,
        lanes: LANES,
        role: Role::Data,
        brick: brick_uuid(index),
        membership: Some(Membership {
            volume: volume(),
            group: 0,
            members: vec![brick_uuid(0), brick_uuid(1)],
        }),
        blank: false,
        floors: Floors::default(),
        incarnation: Incarnation { boot: BootUuid::from_bytes([index + 1; 16]), start: StartCounter(5) },
        lease: LEASE,
        credit_bytes: 1 << 20,
        open_files_max: 2,
        registers: Vec::new(),
        shards: Vec::new(),
        dirty: Vec::new(),
        active: Vec::new(),
        active_shards_max: 8,
    }
}

/// One brick.
pub struct Brick {
    pub engines: Vec<Engine>,
    pub pool: Pool,
    pub now: Timestamp,
    pub files: BTreeMap<(ImageUuid, ShardIndex), Vec<u8>>,
    slots: BTreeMap<(usize, FileSlot), (ImageUuid, ShardIndex)>,
    /// Requests that it picks don't finish before [`Brick::release`].
    pub hold: fn(&DiskRequest) -> bool,
    pub held: VecDeque<(usize, OperationId, DiskRequest)>,
    /// Requests that it picks fail.
    pub fail: fn(&DiskRequest) -> Option<DiskError>,
    pub registers: Vec<RegisterEntry>,
    /// Saved maps and tables of active shards, by lane.
    pub saved: BTreeMap<LaneIndex, Vec<SavedDirty>>,
    pub active: BTreeMap<LaneIndex, Vec<ActiveShard>>,
    pub tables: usize,
    pub saves: usize,
    pub syncs: usize,
    pub opens: usize,
    pub core_of: BTreeMap<ConnectionId, usize>,
    pub replies: Vec<(ConnectionId, Frame)>,
    pub admitted: Vec<(ConnectionId, Welcome)>,
    pub refused: Vec<(ConnectionId, Status, Welcome)>,
    pub closed: Vec<(ConnectionId, CloseReason)>,
    pub dialed: Vec<(usize, ConnectionId, String)>,
    pub stopped: Vec<bool>,
    /// As it is in the superblock.
    pub identity: Option<(Option<Membership>, bool, Floors)>,
    /// Whose place it has taken.
    pub adopted: Option<(BrickUuid, Membership, StartCounter)>,
    pub restarts: usize,
    messages: VecDeque<(usize, CoreMessage)>,
    requests: u64,
    connections: u64,
}

impl Brick {
    pub fn new(configs: Vec<EngineConfig>) -> Brick {
        let pool = Pool::new(8 << 20);
        Brick {
            engines: configs.into_iter().map(|config| Engine::new(config, pool.clone())).collect(),
            pool,
            now: Timestamp(1_000_000),
            files: BTreeMap::new(),
            slots: BTreeMap::new(),
            hold: |_| false,
            held: VecDeque::new(),
            fail: |_| None,
            registers: Vec::new(),
            saved: BTreeMap::new(),
            active: BTreeMap::new(),
            tables: 0,
            saves: 0,
            syncs: 0,
            opens: 0,
            core_of: BTreeMap::new(),
            replies: Vec::new(),
            admitted: Vec::new(),
            refused: Vec::new(),
            closed: Vec::new(),
            dialed: Vec::new(),
            stopped: Vec::new(),
            identity: None,
            adopted: None,
            restarts: 0,
            messages: VecDeque::new(),
            requests: 0,
            connections: 0,
        }
    }

    /// What starts after this brick with `config`, and what its disk has.
    pub fn successor(&self, config: EngineConfig) -> Brick {
        let mut again = Brick::new(vec![EngineConfig {
            registers: self.registers.clone(),
            shards: self.files.keys().copied().collect(),
            dirty: self.saved.values().flatten().cloned().collect(),
            active: self.active.values().flatten().copied().collect(),
            ..config
        }]);
        again.files = self.files.clone();
        again.active = self.active.clone();
        again.saved = self.saved.clone();
        again.registers = self.registers.clone();
        again
    }

    /// Brick 0 on one core.
    pub fn single() -> Brick {
        Brick::new(vec![config(0, 0, 1)])
    }

    pub fn event(&mut self, core: usize, event: Event) {
        self.engines[core].handle_event(self.now, event);
        self.run();
    }

    pub fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
        for core in 0..self.engines.len() {
            self.event(core, Event::Tick);
        }
    }

    /// Finishes what was held.
    pub fn release(&mut self) {
        self.hold = |_| false;
        for (core, operation, request) in std::mem::take(&mut self.held) {
            self.finish(core, operation, request);
            self.run();
        }
    }

    fn run(&mut self) {
        loop {
            let mut idle = true;
            for core in 0..self.engines.len() {
                while let Some(action) = self.engines[core].poll_action() {
                    idle = false;
                    self.act(core, action);
                }
            }
            if let Some((core, message)) = self.messages.pop_front() {
                self.engines[core].handle_event(self.now, Event::Core(message));
                idle = false;
            }
            if idle {
                return;
            }
        }
    }

    fn act(&mut self, core: usize, action: Action) {
        match action {
            Action::Admit { connection, core, peer, welcome } => {
                self.admitted.push((connection, welcome));
                self.core_of.insert(connection, usize::from(core.0));
                let event = Event::Admitted { connection, peer };
                self.engines[usize::from(core.0)].handle_event(self.now, event);
            }
            Action::Refuse { connection, status, welcome } => {
                self.refused.push((connection, status, welcome));
            }
            Action::Send { connection, frame } => self.replies.push((connection, frame)),
            Action::Close { connection, reason } => {
                self.closed.push((connection, reason));
                self.engines[core].handle_event(self.now, Event::Disconnected { connection });
            }
            Action::Dial { connection, address } => self.dialed.push((core, connection, address)),
            Action::Disk { operation, request } => {
                if (self.hold)(&request) {
                    self.held.push_back((core, operation, request));
                } else {
                    self.finish(core, operation, request);
                }
            }
            Action::Core { to, message } => self.messages.push_back((usize::from(to.0), message)),
            Action::Restart => self.restarts += 1,
            Action::Stopped { clean } => self.stopped.push(clean),
        }
    }

    fn finish(&mut self, core: usize, operation: OperationId, request: DiskRequest) {
        let result = match (self.fail)(&request) {
            Some(error) => Err(error),
            None => Ok(self.perform(core, request)),
        };
        self.engines[core].handle_event(self.now, Event::DiskDone { operation, result });
    }

    fn perform(&mut self, core: usize, request: DiskRequest) -> DiskOutput {
        match request {
            DiskRequest::OpenShard { slot, image, shard, file_bytes, create, .. } => {
                self.opens += 1;
                let exists = self.files.contains_key(&(image, shard));
                assert!(exists != create, "created once, opened only if it exists");
                self.files.entry((image, shard)).or_insert_with(|| vec![0; file_bytes as usize]);
                assert!(self.slots.insert((core, slot), (image, shard)).is_none(), "the slot is free");
            }
            DiskRequest::CloseShard { slot } => {
                self.slots.remove(&(core, slot)).expect("closed files are open");
            }
            DiskRequest::Read { slot, offset_bytes, mut buffer } => {
                let file = &self.files[&self.slots[&(core, slot)]];
                let length = buffer.len();
                buffer.copy_from_slice(&file[offset_bytes as usize..][..length]);
                return DiskOutput::Buffer(buffer);
            }
            DiskRequest::Write { slot, offset_bytes, buffer } => {
                let (image, shard) = self.slots[&(core, slot)];
                let table = &self.active[&lane_of(image, shard, LANES)];
                let is_active = |entry: &ActiveShard| (entry.image, entry.shard) == (image, shard);
                assert!(table.iter().any(is_active), "rule I2: the log before the data");
                let file = self.files.get_mut(&(image, shard)).expect("open files exist");
                file[offset_bytes as usize..][..buffer.len()].copy_from_slice(&buffer);
                return DiskOutput::Buffer(buffer);
            }
            DiskRequest::SyncShard { slot } => {
                assert!(self.slots.contains_key(&(core, slot)));
                self.syncs += 1;
            }
            DiskRequest::SyncDirectory { .. } => self.syncs += 1,
            DiskRequest::RemoveImage { lane, image } => {
                assert!(
                    self.slots
                        .values()
                        .all(|(open, shard)| { (*open, lane_of(*open, *shard, LANES)) != (image, lane) })
                );
                self.files.retain(|(of, shard), _| *of != image || lane_of(image, *shard, LANES) != lane);
            }
            DiskRequest::AppendRegisters { entries } => self.registers.extend(entries),
            DiskRequest::WriteIdentity { membership, blank, floors } => {
                self.identity = Some((membership, blank, floors));
            }
            DiskRequest::Adopt { brick, membership, start } => {
                self.adopted = Some((brick, membership, start));
            }
            DiskRequest::WriteActivity { lane, entries } => {
                self.tables += 1;
                self.active.insert(lane, entries);
            }
            DiskRequest::SaveDirty { lane, maps } => {
                self.saves += 1;
                self.saved.insert(lane, maps);
            }
            DiskRequest::Space => return DiskOutput::Space { free_bytes: 1, used_bytes: 2 },
        }
        DiskOutput::Done
    }

    pub fn hello(&mut self, hello: Hello) -> ConnectionId {
        self.connections += 1;
        let connection = ConnectionId(self.connections);
        self.event(0, Event::Hello { connection, hello });
        connection
    }

    /// An admitted client connection with the image attached.
    pub fn connect(&mut self, core: u16, session: SessionId, generation: u32) -> ConnectionId {
        let connection = self.hello(client_hello(core, session, generation));
        assert!(self.admitted.iter().any(|(admitted, _)| *admitted == connection), "{:?}", self.refused);
        self.attach(connection);
        connection
    }

    pub fn attach(&mut self, connection: ConnectionId) {
        let attach = Attach { image: image(), shard_shift: SHARD_SHIFT_MIN };
        let reply = self.ask(connection, request(Opcode::Attach), attach.to_bytes(), None);
        assert_eq!(reply.expect("attach is answered").header.status, Status::Ok);
    }

    /// Sends a request and returns its id.
    pub fn send(
        &mut self,
        connection: ConnectionId,
        header: Header,
        aux: Vec<u8>,
        data: Option<&[u8]>,
    ) -> RequestId {
        self.requests += 1;
        let header = Header { request: RequestId(self.requests), ..header };
        let data = data.map(|data| {
            let mut buffer = self.pool.allocate(data.len()).expect("memory");
            buffer.copy_from_slice(data);
            buffer
        });
        let core = self.core_of[&connection];
        self.event(core, Event::Frame { connection, frame: Frame { header, aux, data } });
        header.request
    }

    /// The reply to a request, if it is there.
    pub fn reply(&mut self, request: RequestId) -> Option<Frame> {
        let index = self.replies.iter().position(|(_, frame)| frame.header.request == request)?;
        Some(self.replies.remove(index).1)
    }

    pub fn ask(
        &mut self,
        connection: ConnectionId,
        header: Header,
        aux: Vec<u8>,
        data: Option<&[u8]>,
    ) -> Option<Frame> {
        let request = self.send(connection, header, aux, data);
        self.reply(request)
    }

    pub fn status_of(&mut self, request: RequestId) -> Option<Status> {
        self.reply(request).map(|frame| frame.header.status)
    }

    pub fn prepare(&mut self, connection: ConnectionId, ballot: Epoch, flags: Flags) -> RequestId {
        let header = Header { epoch: ballot, flags, ..request(Opcode::RegisterPrepare) };
        self.send(connection, header, epoch_key().to_bytes(), None)
    }

    pub fn accept(&mut self, connection: ConnectionId, record: &EpochRecord) -> RequestId {
        let header = Header { epoch: record.epoch, ..request(Opcode::RegisterAccept) };
        let state = RegisterState { value: record.to_bytes(), ..RegisterState::default() };
        self.send(connection, header, RegisterEntry { key: epoch_key(), state }.to_bytes(), None)
    }

    /// Makes the session the holder under `epoch`.
    pub fn hold_image(&mut self, connection: ConnectionId, epoch: Epoch) {
        let promised = self.prepare(connection, epoch, Flags::NONE);
        assert_eq!(self.status_of(promised), Some(Status::Ok));
        let accepted = self.accept(connection, &record(epoch, RecordKind::Client));
        assert_eq!(self.status_of(accepted), Some(Status::Ok));
    }

    pub fn write(
        &mut self,
        connection: ConnectionId,
        epoch: Epoch,
        shard: ShardIndex,
        first: u16,
        data: &[u8],
    ) -> RequestId {
        let (header, aux) = write_header(epoch, shard, first, data);
        self.send(connection, header, aux, Some(data))
    }

    pub fn simple(&mut self, connection: ConnectionId, opcode: Opcode, epoch: Epoch) -> RequestId {
        self.send(connection, Header { epoch, ..request(opcode) }, Vec::new(), None)
    }

    pub fn flush(&mut self, connection: ConnectionId, epoch: Epoch) -> Option<Status> {
        let request = self.simple(connection, Opcode::Flush, epoch);
        self.status_of(request)
    }
}

pub fn client_hello(core: u16, session: SessionId, generation: u32) -> Hello {
    Hello {
        versions: (PROTOCOL_VERSION, PROTOCOL_VERSION),
        features: 0,
        kind: PeerKind::Client,
        core: CoreIndex(core),
        volume: volume(),
        brick: BrickUuid::NIL,
        session,
        generation: ConnectionGeneration(generation),
        name: "test".to_owned(),
    }
}

/// A request for the attached image; the id is filled in on sending.
pub fn request(opcode: Opcode) -> Header {
    Header { image: HANDLE, ..Header::request(opcode, RequestId(0)) }
}

pub fn write_header(epoch: Epoch, shard: ShardIndex, first: u16, data: &[u8]) -> (Header, Vec<u8>) {
    let blocks = BlockRange::new(first, (data.len() / BLOCK_SIZE) as u16);
    let mut header = Header { epoch, shard, blocks, generation: Generation(1), ..request(Opcode::Write) };
    let crcs: Vec<u32> = block_crcs(data).collect();
    let aux = put_crcs(&mut header, &crcs);
    (header, aux)
}

/// A frame that tells an arbiter of writes: shard, first block and data of each.
pub fn dummy_writes(epoch: Epoch, writes: &[(ShardIndex, u16, &[u8])]) -> (Header, Vec<u8>) {
    let writes = writes.iter().map(|(shard, first, data)| {
        let crcs: Crcs = block_crcs(data).collect();
        DummyWrite { shard: *shard, blocks: BlockRange::new(*first, crcs.len() as u16), crcs }
    });
    let body = DummyWrites { writes: writes.collect() };
    (Header { epoch, generation: Generation(1), ..request(Opcode::DummyWrites) }, body.to_bytes())
}

/// A brick on one core, and its client, which holds the image under epoch 1.
pub fn holder_of(config: EngineConfig) -> (Brick, ConnectionId) {
    let mut brick = Brick::new(vec![config]);
    let alice = brick.connect(0, ALICE, 1);
    brick.hold_image(alice, epoch(1, ALICE));
    (brick, alice)
}

/// The same with a data brick.
pub fn holder() -> (Brick, ConnectionId) {
    holder_of(config(0, 0, 1))
}

/// An arbiter on one core.
pub fn arbiter() -> EngineConfig {
    EngineConfig { role: Role::Arbiter, ..config(0, 0, 1) }
}

/// Whether it writes the table of active shards of a lane.
pub fn is_table(request: &DiskRequest) -> bool {
    matches!(request, DiskRequest::WriteActivity { .. })
}

/// Whether it writes blocks of a shard, not its page of CRCs.
pub fn is_data_write(request: &DiskRequest) -> bool {
    matches!(request, DiskRequest::Write { offset_bytes, .. } if *offset_bytes < 1 << SHARD_SHIFT_MIN)
}

/// `count` blocks full of `byte`.
pub fn blocks(byte: u8, count: usize) -> Vec<u8> {
    vec![byte; count * BLOCK_SIZE]
}

/// The n-th shard of the image that lives on `core` of `cores`.
pub fn shard_on(core: u16, cores: u16, nth: usize) -> ShardIndex {
    let on_core = |shard: &ShardIndex| core_of(lane_of(image(), *shard, LANES), cores) == CoreIndex(core);
    (0..).map(ShardIndex).filter(on_core).nth(nth).expect("lanes are spread")
}
