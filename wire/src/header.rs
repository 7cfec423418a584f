//! The 64-byte frame header: every length and index in it is checked before anything uses it.
//!
//! A frame is header | aux | data. The header carries its own CRC32C; aux ends in one; data is covered
//! per block, the first block's CRC in the header and the rest in aux. A peer that sends a bad header
//! loses its connection with a reason, since after it the stream can't be trusted to be in step.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::blocks::BlockRange;
use crate::checksum::crc32c;
use crate::ids::{Epoch, Generation, ImageHandle, RequestId, SessionId, ShardIndex};
use crate::limits::{
    AUX_BYTES_MAX, BLOCK_SIZE, DATA_BLOCKS_MAX, DATA_BYTES_MAX, HEADER_SIZE, SHARD_BLOCKS_MAX,
};

/// "BRCK" in memory order.
pub const MAGIC: u32 = u32::from_le_bytes(*b"BRCK");
/// Version of the header's layout. Independent of the protocol version that the handshake agrees on.
pub const HEADER_VERSION: u8 = 1;

macro_rules! byte_enum {
    ($(#[$doc:meta])* $name:ident : $repr:ident { $($(#[$variant_doc:meta])* $variant:ident = $value:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr($repr)]
        pub enum $name { $($(#[$variant_doc])* $variant = $value,)* }

        impl $name {
            /// Every value, for tests and tables.
            pub const ALL: &'static [$name] = &[$($name::$variant,)*];
        }

        impl TryFrom<$repr> for $name {
            type Error = $repr;

            fn try_from(value: $repr) -> Result<$name, $repr> {
                match value {
                    $($value => Ok($name::$variant),)*
                    other => Err(other),
                }
            }
        }
    };
}

byte_enum! {
    /// What a frame asks for, or answers.
    Opcode: u8 {
        /// First frame of a connection: who calls, and for which core. See [`crate::handshake::Hello`].
        Hello = 1,
        /// Nothing but "are you there"; under an epoch it renews the holder's lease.
        Ping = 2,
        /// Names an image on this connection. See [`crate::body::Attach`].
        Attach = 3,
        /// What the brick has: space, identity. See [`crate::body::BrickStatus`].
        BrickStatus = 4,
        /// Counters of one image on this core. See [`crate::body::ImageStatus`].
        ImageStatus = 5,
        /// Makes a freshly formatted brick a member of a volume. See [`crate::body::Stamp`].
        Stamp = 6,
        /// The last heals of this brick's copies, on this core. See [`crate::body::HealHistory`].
        HealHistory = 7,
        /// Puts a freshly formatted brick in the place of one that is lost. See [`crate::body::Adopt`].
        Adopt = 8,

        /// Reads a register's state on this brick. See [`crate::register`].
        RegisterRead = 16,
        /// Phase one of a change: promise nothing below this ballot. Of an epoch register: fence.
        RegisterPrepare = 17,
        /// Phase two: accept this value under this ballot.
        RegisterAccept = 18,
        /// Pages through the registers of one kind.
        RegisterList = 19,
        /// Tells a brick that it is blank (rule R2): it promises and accepts nothing until cleared.
        BlankDeclare = 20,
        /// Installs a register that a majority of the others holds into a blank brick.
        RegisterLearn = 21,
        /// Every register was learned: the brick may promise and accept again.
        BlankClear = 22,
        /// Raises a member's floor: its lower start counters don't count any more. See [`crate::body::Retire`].
        Retire = 23,

        /// Writes blocks of one shard.
        Write = 32,
        // 33 was one dummy write, up to version 2.
        /// Reads blocks of one shard.
        Read = 34,
        /// Makes all completed writes of an image on this core durable.
        Flush = 35,
        /// Drops dirty bits of generations up to the one given (rule I6).
        Clean = 36,
        /// Pages through the dirty map of an image on this core.
        DirtyRead = 37,
        /// Pages through the shards of an image that exist on this core.
        ShardList = 38,
        /// Deletes every shard of an image on this core.
        ImageRemove = 39,
        /// Reads blocks of one shard and says which aren't what was last written there; on an arbiter, what it
        /// knows of them. See [`crate::body::VerifyReply`].
        Verify = 40,
        /// Lists blocks on this core that were found bad and not written since.
        BadRead = 41,
        /// Blocks of one shard in which another copy differs, for the holder to judge; from whoever compared them.
        Suspect = 42,
        /// Writes without their data: marks the blocks dirty and keeps their CRCs, on an arbiter. See
        /// [`crate::body::DummyWrites`].
        DummyWrites = 43,

        /// Tells a stale brick to fetch blocks from a good one. See [`crate::body::Pull`].
        Pull = 48,
        /// What the stale brick then asks the good one. See [`crate::body::PullRead`].
        PullRead = 49,
    }
}

byte_enum! {
    /// How a request ended.
    Status: u16 {
        /// Done.
        Ok = 0,
        /// The request's epoch is lower than the one promised here (rule I1): fenced, or merely behind.
        StaleEpoch = 1,
        /// The request's epoch is higher than the one this core knows: park and retry.
        AheadEpoch = 2,
        /// A higher ballot was promised; the reply carries the register's state.
        BallotRefused = 3,
        /// Another session holds the lease; the reply carries the register's state.
        LeaseHeld = 4,
        /// No space on this brick; nothing was torn.
        NoSpace = 5,
        /// The disk refused.
        Io = 6,
        /// The data did not match its CRC when it arrived: send it again (rule I11).
        BadChecksum = 7,
        /// The request makes no sense here (block beyond the shard, unattached image, wrong role).
        Invalid = 8,
        /// No such register, image or shard.
        NotFound = 9,
        /// This brick lost its registers and may not vote (rule R2).
        Blank = 10,
        /// The source of a pull isn't the incarnation that was meant.
        WrongIncarnation = 11,
        /// The source of a pull isn't in the in-sync set.
        NotInSync = 12,
        /// An earlier flush failed here; blocks written before it have to be rewritten first (rule I7).
        FlushFailed = 13,
        /// The brick is a member of a volume already.
        AlreadyStamped = 14,
        /// The source of a pull can't be reached from the brick that should pull.
        SourceUnreachable = 15,
        /// The brick is stopping.
        ShuttingDown = 16,
        /// The handshake asks for a version or feature this side doesn't have.
        Unsupported = 17,
        /// The handshake names another volume or brick than this one.
        WrongBrick = 18,
        /// A bound was reached (connections, images, requests); try again later.
        Busy = 19,
        /// The session's lease ran out by this core's clock: renew it here and send the request again (rule I8).
        LeaseExpired = 20,
        /// A block on disk isn't what was last written there, by this brick's own witness: another copy has it.
        Corrupt = 21,
    }
}

/// Bits of the header's flag field. Unknown bits are refused: a peer that needs a new one negotiates it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Flags(pub u16);

impl Flags {
    /// No flag.
    pub const NONE: Flags = Flags(0);
    /// The frame answers a request.
    pub const REPLY: Flags = Flags(1);
    /// More pages follow (replies of the paged reads).
    pub const MORE: Flags = Flags(1 << 1);
    /// All blocks asked for are zero and no data follows (replies to reads).
    pub const ZEROES: Flags = Flags(1 << 2);
    /// Write and flush of that write (force unit access).
    pub const FUA: Flags = Flags(1 << 3);
    /// Prepare although another session's lease runs: the operator asked for a takeover.
    pub const FORCE: Flags = Flags(1 << 4);
    /// The map or list read is exact: the brick lost none of it (replies to `DirtyRead`, `ImageStatus`).
    pub const EXACT: Flags = Flags(1 << 5);
    /// The dirty blocks of this map have to be written again, whatever they hold: a sync of them failed in an
    /// earlier life of the brick (replies to `DirtyRead`; rule I7).
    pub const REWRITE: Flags = Flags(1 << 6);
    /// The asker only heals: the lease of another that only heals keeps it out, too (`RegisterPrepare`). What was
    /// written last is wanted, whatever the disk returns: blocks whose CRCs are known aren't read (`Verify`). The blocks
    /// can only have rotted here: the source's CRCs are taken, and nothing is compared (`Pull`, `PullRead`).
    pub const HEAL: Flags = Flags(1 << 7);
    /// This core knows bad blocks of the image: `BadRead` lists them (replies to `Ping`). Write only blocks that are
    /// bad here (`Pull`).
    pub const BAD: Flags = Flags(1 << 8);
    /// Somebody suspects blocks of the image on this core: `BadRead` with this flag takes the list (replies to `Ping`).
    pub const SUSPECT: Flags = Flags(1 << 9);
    const KNOWN: u16 = (1 << 10) - 1;

    /// Whether all bits of `other` are set.
    pub fn contains(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both sets of bits.
    #[must_use]
    pub fn with(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }
}

/// The header of a frame, checked.
///
/// Bytes 56..60 hold a request's generation or a reply's status and credits, by [`Flags::REPLY`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What is asked or answered.
    pub opcode: Opcode,
    /// See [`Flags`].
    pub flags: Flags,
    /// Copied from request to reply, which may arrive in another order than the requests left.
    pub request: RequestId,
    /// Under which epoch a data request is sent, or the ballot of a register change.
    pub epoch: Epoch,
    /// Which image, as attached on this connection.
    pub image: ImageHandle,
    /// Which shard; where paging starts; zero if neither.
    pub shard: ShardIndex,
    /// Which blocks of the shard; an empty range if none.
    pub blocks: BlockRange,
    /// Length of the aux part, its CRC trailer included; zero if there is none.
    pub aux_bytes: u32,
    /// Length of the data part, whole blocks.
    pub data_bytes: u32,
    /// CRC32C of the first block written or read; zero in other frames.
    pub first_crc: u32,
    /// Requests: the flush generation. Zero in replies.
    pub generation: Generation,
    /// Replies: how the request ended. `Ok` in requests.
    pub status: Status,
    /// Replies: credits given back, in blocks.
    pub credits: u16,
}

/// Why bytes are not a frame of this protocol. All of these end the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The stream is not ours, or out of step.
    #[error("bad magic {0:#010x}: the peer doesn't speak brick's protocol")]
    Magic(u32),
    /// Bits changed on the way.
    #[error("header checksum is {found:#010x}, computed {computed:#010x}")]
    HeaderChecksum {
        /// In the header.
        found: u32,
        /// Of its bytes.
        computed: u32,
    },
    /// A layout this side doesn't know.
    #[error("header version {0} is unknown")]
    Version(u8),
    /// An operation this side doesn't know.
    #[error("opcode {0} is unknown")]
    Opcode(u8),
    /// A status this side doesn't know.
    #[error("status {0} is unknown")]
    Status(u16),
    /// A flag this side doesn't know.
    #[error("flags {0:#06x} hold unknown bits")]
    Flags(u16),
    /// Aux beyond the limit, or too short to hold its CRC.
    #[error("aux of {0} bytes is out of bounds")]
    AuxLength(u32),
    /// Data beyond the limit, or not whole blocks.
    #[error("data of {0} bytes is out of bounds or not whole blocks")]
    DataLength(u32),
    /// Blocks beyond the largest shard, or more than the largest data part.
    #[error("blocks {first}+{count} are beyond any shard, or more than a frame may name")]
    Blocks {
        /// First block.
        first: u16,
        /// Number of blocks.
        count: u16,
    },
    /// Aux doesn't match its trailer.
    #[error("aux checksum is {found:#010x}, computed {computed:#010x}")]
    AuxChecksum {
        /// In the trailer.
        found: u32,
        /// Of the bytes before it.
        computed: u32,
    },
}

/// The header as it stands on the wire: 64 bytes, little-endian.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawHeader {
    /// 0: [`MAGIC`].
    magic: U32,
    /// 4: [`HEADER_VERSION`].
    version: u8,
    /// 5: [`Opcode`].
    opcode: u8,
    /// 6: [`Flags`].
    flags: U16,
    /// 8: request id.
    request: U64,
    /// 16: epoch counter.
    epoch_counter: U64,
    /// 24: epoch session.
    epoch_session: U64,
    /// 32: image handle.
    image: U32,
    /// 36: shard index.
    shard: U32,
    /// 40: first block.
    block_first: U16,
    /// 42: number of blocks.
    block_count: U16,
    /// 44: length of aux.
    aux_bytes: U32,
    /// 48: length of data.
    data_bytes: U32,
    /// 52: CRC32C of the first data block.
    first_crc: U32,
    /// 56: request: flush generation; reply: status (u16), credits (u16).
    argument: U32,
    /// 60: CRC32C of bytes 0..60.
    header_crc: U32,
}

const _: () = assert!(size_of::<RawHeader>() == HEADER_SIZE);
const _: () = assert!(SHARD_BLOCKS_MAX <= u16::MAX as usize);

impl Header {
    /// A request with nothing but an opcode and an id; fill in the rest.
    pub fn request(opcode: Opcode, request: RequestId) -> Header {
        Header {
            opcode,
            flags: Flags::NONE,
            request,
            epoch: Epoch::ZERO,
            image: ImageHandle(0),
            shard: ShardIndex(0),
            blocks: BlockRange::EMPTY,
            aux_bytes: 0,
            data_bytes: 0,
            first_crc: 0,
            generation: Generation(0),
            status: Status::Ok,
            credits: 0,
        }
    }

    /// The reply to this request: same opcode, id, epoch, image, shard and blocks.
    #[must_use]
    pub fn reply(&self, status: Status) -> Header {
        Header {
            flags: Flags::REPLY,
            aux_bytes: 0,
            data_bytes: 0,
            first_crc: 0,
            generation: Generation(0),
            status,
            credits: 0,
            ..*self
        }
    }

    /// Whether this is a reply.
    pub fn is_reply(&self) -> bool {
        self.flags.contains(Flags::REPLY)
    }

    /// Length of the whole frame, bytes.
    pub fn frame_bytes(&self) -> usize {
        HEADER_SIZE + self.aux_bytes as usize + self.data_bytes as usize
    }

    /// The 64 bytes.
    ///
    /// Panics on whatever [`Header::parse`] would refuse: whoever builds a frame owns its limits.
    pub fn to_bytes(&self) -> [u8; HEADER_SIZE] {
        check_lengths(self.aux_bytes, self.data_bytes).expect("own frames keep the limits");
        check_blocks(self.blocks.first, self.blocks.count).expect("own frames keep the limits");
        assert!(self.flags.0 & !Flags::KNOWN == 0, "own frames have known flags");
        let argument = if self.is_reply() {
            u32::from(self.status as u16) | u32::from(self.credits) << 16
        } else {
            self.generation.0
        };
        let mut raw = RawHeader {
            magic: U32::new(MAGIC),
            version: HEADER_VERSION,
            opcode: self.opcode as u8,
            flags: U16::new(self.flags.0),
            request: U64::new(self.request.0),
            epoch_counter: U64::new(self.epoch.counter),
            epoch_session: U64::new(self.epoch.session.0),
            image: U32::new(self.image.0),
            shard: U32::new(self.shard.0),
            block_first: U16::new(self.blocks.first),
            block_count: U16::new(self.blocks.count),
            aux_bytes: U32::new(self.aux_bytes),
            data_bytes: U32::new(self.data_bytes),
            first_crc: U32::new(self.first_crc),
            argument: U32::new(argument),
            header_crc: U32::new(0),
        };
        raw.header_crc = U32::new(crc32c(&raw.as_bytes()[..HEADER_SIZE - 4]));
        let mut bytes = [0; HEADER_SIZE];
        bytes.copy_from_slice(raw.as_bytes());
        bytes
    }

    /// Reads and checks the 64 bytes.
    pub fn parse(bytes: &[u8; HEADER_SIZE]) -> Result<Header, FrameError> {
        let raw = RawHeader::ref_from_bytes(bytes).expect("64 unaligned bytes always fit");
        if raw.magic.get() != MAGIC {
            return Err(FrameError::Magic(raw.magic.get()));
        }
        let computed = crc32c(&bytes[..HEADER_SIZE - 4]);
        if raw.header_crc.get() != computed {
            return Err(FrameError::HeaderChecksum { found: raw.header_crc.get(), computed });
        }
        if raw.version != HEADER_VERSION {
            return Err(FrameError::Version(raw.version));
        }
        let flags = Flags(raw.flags.get());
        if flags.0 & !Flags::KNOWN != 0 {
            return Err(FrameError::Flags(flags.0));
        }
        check_lengths(raw.aux_bytes.get(), raw.data_bytes.get())?;
        let (first, count) = (raw.block_first.get(), raw.block_count.get());
        check_blocks(first, count)?;
        let argument = raw.argument.get();
        let (generation, status, credits) = if flags.contains(Flags::REPLY) {
            let status = Status::try_from(argument as u16).map_err(FrameError::Status)?;
            (Generation(0), status, (argument >> 16) as u16)
        } else {
            (Generation(argument), Status::Ok, 0)
        };
        Ok(Header {
            opcode: Opcode::try_from(raw.opcode).map_err(FrameError::Opcode)?,
            flags,
            request: RequestId(raw.request.get()),
            epoch: Epoch { counter: raw.epoch_counter.get(), session: SessionId(raw.epoch_session.get()) },
            image: ImageHandle(raw.image.get()),
            shard: ShardIndex(raw.shard.get()),
            blocks: BlockRange { first, count },
            aux_bytes: raw.aux_bytes.get(),
            data_bytes: raw.data_bytes.get(),
            first_crc: raw.first_crc.get(),
            generation,
            status,
            credits,
        })
    }
}

/// Checks an aux part against its trailer and returns the body before it. Empty aux has no trailer.
pub fn parse_aux(aux: &[u8]) -> Result<&[u8], FrameError> {
    if aux.is_empty() {
        return Ok(aux);
    }
    let Some((body, trailer)) = aux.split_last_chunk::<4>().filter(|(body, _)| !body.is_empty()) else {
        return Err(FrameError::AuxLength(aux.len() as u32));
    };
    let (found, computed) = (u32::from_le_bytes(*trailer), crc32c(body));
    if found != computed {
        return Err(FrameError::AuxChecksum { found, computed });
    }
    Ok(body)
}

/// Appends the CRC trailer that [`parse_aux`] checks. An empty body stays empty.
pub fn seal_aux(mut body: Vec<u8>) -> Vec<u8> {
    if let Some(trailer) = aux_trailer(&body) {
        body.extend_from_slice(&trailer);
    }
    body
}

/// The trailer of a body; none of an empty one.
pub fn aux_trailer(body: &[u8]) -> Option<[u8; 4]> {
    (!body.is_empty()).then(|| crc32c(body).to_le_bytes())
}

fn check_lengths(aux_bytes: u32, data_bytes: u32) -> Result<(), FrameError> {
    if aux_bytes as usize > AUX_BYTES_MAX || (1..=4).contains(&aux_bytes) {
        return Err(FrameError::AuxLength(aux_bytes));
    }
    if data_bytes as usize > DATA_BYTES_MAX || !(data_bytes as usize).is_multiple_of(BLOCK_SIZE) {
        return Err(FrameError::DataLength(data_bytes));
    }
    Ok(())
}

fn check_blocks(first: u16, count: u16) -> Result<(), FrameError> {
    if usize::from(first) + usize::from(count) > SHARD_BLOCKS_MAX || count > DATA_BLOCKS_MAX {
        return Err(FrameError::Blocks { first, count });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
