//! The replica core's vocabulary: what enters it, what it asks for, how it fails.

use std::time::Duration;

use brick_wire::decode::Frame;
use brick_wire::limits::{BLOCK_SHIFT, GROUP_BRICKS_MAX};
use brick_wire::{
    BlockRange, BrickIndex, BrickSet, BrickUuid, CoreIndex, Epoch, ImageHandle, ImageUuid, Incarnation, Role,
    SessionId, ShardIndex,
};
use bytes::Bytes;

/// The handle under which the driver attaches the image on every connection of a link.
pub const HANDLE: ImageHandle = ImageHandle(1);

/// Which sets of bricks may decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Quorum {
    /// More than half of the group's bricks, arbiter included.
    #[default]
    Majority,
    /// Any set with the first brick (replica 2 only): survives the death of the second, not of the first.
    First,
}

impl Quorum {
    /// Whether `bricks` may decide in a group of `brick_count`.
    pub fn is_reached_by(self, bricks: BrickSet, brick_count: usize) -> bool {
        match self {
            Quorum::Majority => bricks.count() * 2 > brick_count,
            Quorum::First => bricks.contains(BrickIndex(0)),
        }
    }
}

/// What to do with I/O when no quorum or no good copy can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum NoQuorum {
    /// Hold it for the I/O timeout, then fail it.
    #[default]
    Suspend,
    /// Fail it at once.
    Error,
}

/// What the image is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To read and write.
    Client,
    /// To heal: an opening client preempts it, and it keeps out of the way of others that heal.
    Heal,
    /// To make this brick's copy the only good one, whatever the record says: the operator's last resort
    /// when the good copies are lost for good. The next record leaves every other copy out of S, so that
    /// what is lost and returns all the same is healed, and never believed.
    DeclareGood(BrickIndex),
}

impl Purpose {
    /// Whether the session only heals.
    pub fn heals(self) -> bool {
        self == Purpose::Heal
    }
}

/// A brick of the group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrickConfig {
    /// Which brick.
    pub brick: BrickUuid,
    /// What it keeps.
    pub role: Role,
    /// `host:port`, for other bricks that pull from it.
    pub address: String,
}

/// One image in one group, as opened by one session.
#[derive(Clone, Debug)]
pub struct GroupConfig {
    /// The image.
    pub image: ImageUuid,
    /// This opening; never reused.
    pub session: SessionId,
    /// log2 of the shard size in bytes.
    pub shard_shift: u8,
    /// The group's bricks in the order of the volume file.
    pub bricks: Vec<BrickConfig>,
    /// Who may decide.
    pub quorum: Quorum,
    /// What for.
    pub purpose: Purpose,
    /// Prepare although another session's lease runs.
    pub takeover: bool,
    /// I/O waits for a silent brick no longer than this: the change of epoch that it takes to go on without the
    /// brick included.
    pub brick_timeout: Duration,
    /// I/O that can't be served for this long fails.
    pub io_timeout: Duration,
    /// Whether it waits that long at all.
    pub no_quorum: NoQuorum,
}

impl GroupConfig {
    /// Blocks of one shard.
    pub fn shard_blocks(&self) -> u16 {
        1 << (u32::from(self.shard_shift) - BLOCK_SHIFT)
    }

    /// The bricks with data.
    pub fn data_bricks(&self) -> BrickSet {
        self.with_role(Role::Data)
    }

    /// The bricks without.
    pub fn arbiters(&self) -> BrickSet {
        self.with_role(Role::Arbiter)
    }

    /// Whether `bricks` may decide.
    pub fn is_quorum(&self, bricks: BrickSet) -> bool {
        assert!(self.bricks.len() <= GROUP_BRICKS_MAX);
        self.quorum.is_reached_by(bricks, self.bricks.len())
    }

    fn with_role(&self, role: Role) -> BrickSet {
        let indexes = (0..self.bricks.len()).filter(|index| self.bricks[*index].role == role);
        indexes.map(|index| BrickIndex(index as u8)).collect()
    }
}

/// What the welcomes of a link's connections said: one per core, all of one life of the brick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkInfo {
    /// Which life.
    pub incarnation: Incarnation,
    /// Cores, each with a connection.
    pub cores: u16,
    /// Lanes, for routing.
    pub lanes: u16,
    /// The brick may not vote (rule R2).
    pub blank: bool,
    /// How long the brick keeps others out after our last renewal.
    pub lease: Duration,
}

/// A request of the user of the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserRequest(pub u64);

/// What the user wants. Ranges lie in one shard and count at most `DATA_BLOCKS_MAX` blocks.
#[derive(Clone, Debug)]
pub enum Request {
    /// Read whole blocks.
    Read {
        /// Where.
        shard: ShardIndex,
        /// Where in it.
        blocks: BlockRange,
    },
    /// Write whole blocks.
    Write {
        /// Where.
        shard: ShardIndex,
        /// Where in it.
        blocks: BlockRange,
        /// Privately ours (rule I11): nobody changes these bytes while they are in flight.
        data: Bytes,
        /// Durable before it completes.
        fua: bool,
    },
    /// Write part of one block: read, modify, write, under the block's lock.
    Modify {
        /// Where.
        shard: ShardIndex,
        /// Which block.
        block: u16,
        /// Where in the block, bytes.
        offset_bytes: u16,
        /// What; ends within the block.
        data: Bytes,
        /// Durable before it completes.
        fua: bool,
    },
    /// Make completed writes durable.
    Flush,
    /// Delete every shard on every brick that is there. The last request but the close.
    Remove,
}

/// What a completed request returns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Nothing: writes, flushes.
    Done,
    /// Data of a read.
    Data(Bytes),
    /// The blocks read belong to a shard that was never written: all zero.
    Zeroes,
    /// Bricks that removed the image.
    Removed(BrickSet),
}

/// Why a request, or the opening of an image, failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GroupError {
    /// Too few bricks answer.
    #[error("no quorum: {reachable} of {bricks} bricks of the group answer; bring another one back")]
    NoQuorum {
        /// Bricks that answer.
        reachable: usize,
        /// Bricks of the group.
        bricks: usize,
    },
    /// A quorum answers, but no brick with a good copy.
    #[error("no good copy: the only good copy is on {in_sync}; bring that brick back")]
    NoGoodCopy {
        /// Addresses of the bricks in S.
        in_sync: String,
    },
    /// Another session holds the image.
    #[error(
        "the image is in use: session {holder} holds it and its lease runs for {lease_left_ms} ms more; \
         stop that client or take over"
    )]
    Held {
        /// Who.
        holder: SessionId,
        /// On the brick's clock.
        lease_left_ms: u32,
    },
    /// Another session took the image over; this one never completes anything again.
    #[error("fenced: another client took the image over at epoch {by}; open it again")]
    Fenced {
        /// The epoch that fenced us.
        by: Epoch,
    },
    /// No epoch record: the image doesn't exist in this group.
    #[error("the image has no epoch record in this group: it was never created here, or is being created")]
    NoRecord,
    /// The volume file was edited: places in S mean nothing then.
    #[error(
        "the image's record names {recorded} bricks, and the volume file lists {listed}, which aren't the same in the same \
         order; use the file that `volume create` wrote, as it was or as a replacement left it"
    )]
    OtherGroup {
        /// Bricks in the record.
        recorded: usize,
        /// Bricks in the volume file.
        listed: usize,
    },
    /// Every good copy refused for lack of space.
    #[error("no space left on the bricks that hold the image; free some or add bricks")]
    NoSpace,
    /// Every good copy failed.
    #[error("I/O error on every brick that holds a good copy")]
    Io,
    /// The brick to be declared good isn't one of those that answer.
    #[error("{address} can't be declared good: it must answer, be a data brick and know its registers")]
    CannotDeclare {
        /// Which brick.
        address: String,
    },
    /// A record or reply can't be read.
    #[error("a brick sent an epoch record that can't be read: {0}")]
    BadRecord(#[from] brick_wire::cursor::BodyError),
    /// Completed but unflushed writes went with a power loss (rule I7).
    #[error("bricks lost power and with it completed writes that were not flushed; open the image again")]
    LostWrites,
    /// The group is closing or closed.
    #[error("the image is closed")]
    Closed,
}

/// What the core wants done.
#[derive(Debug)]
pub enum Action {
    /// Send a frame on the link's connection to `core`. In order per connection.
    Send {
        /// To which brick.
        brick: BrickIndex,
        /// To which of its cores.
        core: CoreIndex,
        /// What.
        frame: Frame,
    },
    /// Tear the link down and connect again, with a higher generation. The core has forgotten everything
    /// in flight on it and expects no [`Group::handle_link_down`](super::Group::handle_link_down).
    ResetLink {
        /// To which brick.
        brick: BrickIndex,
        /// For the log.
        reason: &'static str,
    },
    /// The group serves, or can't.
    Opened(Result<(), GroupError>),
    /// A request ended.
    Complete {
        /// Which.
        request: UserRequest,
        /// How.
        result: Result<Output, GroupError>,
    },
    /// The group is closed; whether the closed record was decided.
    Closed(Result<(), GroupError>),
}

/// What state a group is in, for status output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Not serving yet.
    Opening,
    /// Every data brick is in sync.
    Healthy,
    /// A data brick is out of sync and away.
    Degraded,
    /// A data brick is being brought back.
    Healing,
    /// Too few bricks.
    NoQuorum,
    /// A quorum, but not the good copy.
    NoGoodCopy,
    /// Somebody else holds the image.
    Fenced,
    /// Closed.
    Closed,
}

/// A group's state with figures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// See [`State`].
    pub state: State,
    /// The decided epoch.
    pub epoch: Epoch,
    /// S.
    pub in_sync: BrickSet,
    /// Arbiters with the CRC of every completed write.
    pub vouching: BrickSet,
    /// Blocks whose CRCs arbiters may still lack.
    pub blocks_to_vouch: u64,
    /// Bricks that may not vote.
    pub blank: BrickSet,
    /// Bricks whose link is up.
    pub connected: BrickSet,
    /// Blocks still to heal, over all bricks being healed.
    pub blocks_to_heal: u64,
    /// Blocks that heal wrote since opening.
    pub healed_blocks: u64,
    /// Bad blocks of good copies that were written again since opening.
    pub repaired_blocks: u64,
    /// Blocks that heal compared since opening.
    pub compared_blocks: u64,
    /// Bytes that heal moved between bricks since opening, both ways.
    pub heal_wire_bytes: u64,
}
