//! The engine's vocabulary: everything that enters it and everything it asks for.

use std::time::Duration;

use brick_wire::handshake::{Hello, Welcome};
use brick_wire::record::EpochRecord;
use brick_wire::register::RegisterEntry;
use brick_wire::{
    BlockSet, BrickUuid, ConnectionGeneration, CoreIndex, Epoch, Floors, Header, ImageUuid, Incarnation,
    LaneIndex, Role, SessionId, ShardIndex, StartCounter, VolumeUuid,
};

use crate::buffer::Buffer;

/// A connection, unique over the life of the brick process and all its cores. Those that an engine dials
/// itself ([`Action::Dial`]) have the highest bit set and the core's index below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// A disk operation in flight, unique per engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperationId(pub u64);

/// A place in the core's table of open shard files, chosen by the engine, below
/// [`EngineConfig::open_files_max`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileSlot(pub u32);

/// Matches the acknowledgements of a broadcast to the other cores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BroadcastId(pub u64);

/// A frame as the brick holds it: the payload is in a pool slot, where it was received or read.
#[derive(Debug)]
pub struct Frame {
    /// Checked header. Of a frame to send, the lengths are filled in from `aux` and `data` by the shell.
    pub header: Header,
    /// Aux body without trailer; the shell checks it on receipt and adds it on sending.
    pub aux: Vec<u8>,
    /// Whole blocks.
    pub data: Option<Buffer>,
}

impl Frame {
    /// Length of its data.
    pub fn data_bytes(&self) -> usize {
        self.data.as_ref().map_or(0, |data| data.len())
    }
}

/// Who is at the other end of an admitted connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// What the hello said.
    pub hello: Hello,
    /// Which version of the brick's standing its welcome told.
    pub standing: Standing,
}

/// Counts the changes of what a welcome says and what peers rely on for as long as the connection lives: whether the
/// brick is blank, and the floors. Connections that were told less are closed, so that their callers ask again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Standing(pub u64);

/// Which volume the brick belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// The volume.
    pub volume: VolumeUuid,
    /// The group, by its position in the volume file.
    pub group: u16,
    /// All bricks of the group, this one included.
    pub members: Vec<BrickUuid>,
}

/// The dirty map of one image in one lane, as it is saved and loaded at start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedDirty {
    /// The image.
    pub image: ImageUuid,
    /// False if bits were lost earlier (a damaged file): every block of every shard may then be dirty.
    pub exact: bool,
    /// A sync failed, and not all that it covered was written again: dirty blocks may read well and be lost
    /// all the same (rule I7). After another boot the store no longer says so.
    pub unsynced: bool,
    /// Shards with dirty bits.
    pub shards: Vec<(ShardIndex, BlockSet)>,
}

/// A shard in the activity log of its lane (rule I2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ActiveShard {
    /// The image.
    pub image: ImageUuid,
    /// The shard.
    pub shard: ShardIndex,
    /// log2 of the shard's size in bytes: an arbiter has no file that would tell.
    pub shard_shift: u8,
}

/// What an engine is born with. All of it comes from the store; see `FORMAT.md`.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// This engine's core.
    pub core: CoreIndex,
    /// Cores of the brick.
    pub cores: u16,
    /// Lanes of the brick; this core owns those with `lane % cores == core`.
    pub lanes: u16,
    /// What the brick keeps.
    pub role: Role,
    /// The brick.
    pub brick: BrickUuid,
    /// `None` before it is stamped.
    pub membership: Option<Membership>,
    /// Whether the brick lost its registers (rule R2).
    pub blank: bool,
    /// Retired lives of the other members (rule R2).
    pub floors: Floors,
    /// This life of the brick.
    pub incarnation: Incarnation,
    /// How long a holder that stops renewing keeps others out.
    pub lease: Duration,
    /// Data bytes a connection may have outstanding.
    pub credit_bytes: u32,
    /// Size of the table of open shard files.
    pub open_files_max: u32,
    /// All registers. Core 0 keeps them; the other cores read promises and records of epoch registers.
    pub registers: Vec<RegisterEntry>,
    /// The shards that exist in this core's lanes.
    pub shards: Vec<(ImageUuid, ShardIndex)>,
    /// Dirty maps of this core's lanes, as they were saved last, be it before a clean stop or a crash.
    pub dirty: Vec<SavedDirty>,
    /// The tables of active shards of this core's lanes: all blocks of these may be dirty. A clean stop
    /// leaves none.
    pub active: Vec<ActiveShard>,
    /// Shards that the table of one lane holds at most.
    pub active_shards_max: usize,
}

/// What can happen to an engine.
#[derive(Debug)]
pub enum Event {
    /// Core 0: a fresh connection said hello. Answered by [`Action::Admit`] or [`Action::Refuse`].
    Hello {
        /// The connection.
        connection: ConnectionId,
        /// What it said.
        hello: Hello,
    },
    /// The connection was admitted and is served by this core from now on.
    Admitted {
        /// The connection.
        connection: ConnectionId,
        /// Who is there.
        peer: Peer,
    },
    /// A dialled connection is open; the engine says hello next.
    Dialed {
        /// The connection.
        connection: ConnectionId,
    },
    /// A frame arrived on a connection of this core.
    Frame {
        /// The connection.
        connection: ConnectionId,
        /// The frame.
        frame: Frame,
    },
    /// A connection of this core ended (also: could not be dialled; was closed on the engine's wish).
    Disconnected {
        /// The connection.
        connection: ConnectionId,
    },
    /// A disk operation ended.
    DiskDone {
        /// Which.
        operation: OperationId,
        /// How.
        result: Result<DiskOutput, DiskError>,
    },
    /// Another core (or this one) says something.
    Core(CoreMessage),
    /// Time passed; see [`Engine::poll_timeout`](super::Engine).
    Tick,
    /// Stop cleanly: finish what is in flight, flush, save the dirty maps, then [`Action::Stopped`].
    Shutdown,
}

/// What an engine wants done.
#[derive(Debug)]
pub enum Action {
    /// Core 0: send this welcome on the connection, then hand it to `core` as [`Event::Admitted`]. The
    /// welcome's frame is the reply to the hello.
    Admit {
        /// The connection.
        connection: ConnectionId,
        /// Who will serve it.
        core: CoreIndex,
        /// Who is there.
        peer: Peer,
        /// What to answer.
        welcome: Welcome,
    },
    /// Core 0: send this welcome with its status, then close the connection.
    Refuse {
        /// The connection.
        connection: ConnectionId,
        /// Why, for the peer's program.
        status: brick_wire::Status,
        /// Why, for the peer's operator.
        welcome: Welcome,
    },
    /// Send a frame. Frames to one connection leave in order; one to a closed connection vanishes.
    Send {
        /// The connection.
        connection: ConnectionId,
        /// The frame.
        frame: Frame,
    },
    /// Close a connection; answered by [`Event::Disconnected`].
    Close {
        /// The connection.
        connection: ConnectionId,
        /// For the log.
        reason: CloseReason,
    },
    /// Connect to another brick; answered by [`Event::Dialed`] or [`Event::Disconnected`].
    Dial {
        /// The name of the new connection.
        connection: ConnectionId,
        /// `host:port`.
        address: String,
    },
    /// Start a disk operation; answered by [`Event::DiskDone`]. Operations run concurrently: the engine
    /// waits for one where order matters.
    Disk {
        /// Its name.
        operation: OperationId,
        /// What to do.
        request: DiskRequest,
    },
    /// Say something to another core; delivered in order.
    Core {
        /// To whom.
        to: CoreIndex,
        /// What.
        message: CoreMessage,
    },
    /// Stop cleanly ([`Event::Shutdown`] to every core), then serve the directory again: it is another brick's now.
    Restart,
    /// The answer to [`Event::Shutdown`]: nothing is in flight any more.
    Stopped {
        /// Whether everything was flushed and every dirty map saved.
        clean: bool,
    },
}

/// Why an engine closes a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    /// Its session connected again.
    #[error("the session connected again")]
    Superseded,
    /// It said something that only a broken peer says.
    #[error("the peer broke the protocol: {0}")]
    Protocol(&'static str),
    /// What its welcome said isn't so any more.
    #[error("the brick's standing changed: the caller has to hear of it")]
    Outdated,
    /// It is not used any more.
    #[error("idle")]
    Idle,
    /// The brick stops.
    #[error("the brick is stopping")]
    ShuttingDown,
}

/// A disk operation. The store knows how; the engine says when.
#[derive(Debug)]
pub enum DiskRequest {
    /// Open a shard file into `slot`. With `create`, create it (and its directory) if missing and allocate it
    /// whole, file size included, reading as zeros. A file of another length is an error.
    OpenShard {
        /// Where in the table of open files.
        slot: FileSlot,
        /// The shard's lane.
        lane: LaneIndex,
        /// The image.
        image: ImageUuid,
        /// The shard.
        shard: ShardIndex,
        /// Length of the file, bytes: the shard and its page of CRCs.
        file_bytes: u64,
        /// Whether to create it.
        create: bool,
    },
    /// Close the file in `slot`. Nothing is in flight on it.
    CloseShard {
        /// Which.
        slot: FileSlot,
    },
    /// Fill `buffer` from the file.
    Read {
        /// Which file.
        slot: FileSlot,
        /// Where in it, a multiple of 4096.
        offset_bytes: u64,
        /// Destination.
        buffer: Buffer,
    },
    /// Write all of `buffer` to the file. Durable only after [`DiskRequest::SyncShard`].
    Write {
        /// Which file.
        slot: FileSlot,
        /// Where in it, a multiple of 4096.
        offset_bytes: u64,
        /// Source; comes back in [`DiskOutput::Buffer`].
        buffer: Buffer,
    },
    /// Make all completed writes to the file durable.
    SyncShard {
        /// Which file.
        slot: FileSlot,
    },
    /// Make the directory entries of an image's new shards in one lane durable.
    SyncDirectory {
        /// The lane.
        lane: LaneIndex,
        /// The image.
        image: ImageUuid,
    },
    /// Delete every shard of an image in one lane. No file of it is open.
    RemoveImage {
        /// The lane.
        lane: LaneIndex,
        /// The image.
        image: ImageUuid,
    },
    /// Append these register states to the register log; durable when done. One at a time. With
    /// [`DiskError::NoSpace`] none of them is in the log; after another error any of them may be, and no more can be
    /// appended.
    AppendRegisters {
        /// New states, the latest of each key last.
        entries: Vec<RegisterEntry>,
    },
    /// Write membership, blankness and floors to the superblock; durable when done. One at a time.
    WriteIdentity {
        /// Membership.
        membership: Option<Membership>,
        /// Blankness.
        blank: bool,
        /// Retired lives of the other members.
        floors: Floors,
    },
    /// Become another brick, blank, from the next start on; durable when done. One at a time, and none of the above
    /// beside it. [`Action::Restart`] follows.
    Adopt {
        /// Which brick.
        brick: BrickUuid,
        /// Its membership.
        membership: Membership,
        /// The start counter that it goes on from.
        start: StartCounter,
    },
    /// Replace one lane's table of active shards; durable when done. One at a time per lane. When it fails,
    /// either the old table or the new one is there.
    WriteActivity {
        /// The lane.
        lane: LaneIndex,
        /// At most [`EngineConfig::active_shards_max`].
        entries: Vec<ActiveShard>,
    },
    /// Replace one lane's saved dirty maps; durable when done. When it fails, either the old maps or the new
    /// ones are there.
    SaveDirty {
        /// The lane.
        lane: LaneIndex,
        /// All of the lane's images that have dirty bits or an inexact map.
        maps: Vec<SavedDirty>,
    },
    /// How much space there is.
    Space,
}

/// What a successful disk operation returns.
#[derive(Debug)]
pub enum DiskOutput {
    /// Nothing.
    Done,
    /// The buffer of a read or write.
    Buffer(Buffer),
    /// Answer to [`DiskRequest::Space`].
    Space {
        /// Free bytes of the file system.
        free_bytes: u64,
        /// Bytes of this brick's files.
        used_bytes: u64,
    },
}

/// Why a disk operation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiskError {
    /// The file system or quota is full; nothing was torn.
    #[error("no space left")]
    NoSpace,
    /// The kernel refused, with this errno.
    #[error("errno {0}")]
    Errno(i32),
    /// A shard file exists but has another length than its image's shards.
    #[error("the shard file is {found} bytes long instead of {expected}")]
    Length {
        /// As found, bytes.
        found: u64,
        /// As it should be, bytes.
        expected: u64,
    },
    /// A read or write moved fewer bytes than asked.
    #[error("short transfer")]
    Short,
}

/// What cores tell each other.
#[derive(Clone, Debug)]
pub enum CoreMessage {
    /// Core 0 to all: refuse every data request of `image` under another epoch, drain the older sessions'
    /// requests (pulls included), then acknowledge (rule I1).
    Fence {
        /// To acknowledge.
        broadcast: BroadcastId,
        /// The image.
        image: ImageUuid,
        /// About to be promised.
        epoch: Epoch,
    },
    /// Core 0 to all: this record was accepted; acknowledge.
    Record {
        /// To acknowledge.
        broadcast: BroadcastId,
        /// The image.
        image: ImageUuid,
        /// The record.
        record: EpochRecord,
    },
    /// Core 0 to all: close the session's connections of lower generations, drain their requests, then
    /// acknowledge (rule I1).
    DropSession {
        /// To acknowledge.
        broadcast: BroadcastId,
        /// The session.
        session: SessionId,
        /// The generation about to be admitted.
        below: ConnectionGeneration,
    },
    /// Any core to core 0: done.
    Acknowledge {
        /// Which broadcast.
        broadcast: BroadcastId,
        /// By whom.
        core: CoreIndex,
    },
    /// Any core to core 0: a connection it served ended.
    Departed {
        /// Which.
        connection: ConnectionId,
    },
    /// Core 0 to all: the brick was declared blank, so no dirty map of it is exact.
    Distrust,
    /// Core 0 to all: what earlier welcomes said isn't so any more; their connections are closed.
    Outdated {
        /// Welcomes that tell at least this are right.
        standing: Standing,
    },
    /// Core 0 to all: the brick was stamped. Without it, only core 0 could say hello to other bricks
    /// before the next start.
    Stamped {
        /// As what.
        membership: Membership,
    },
}
