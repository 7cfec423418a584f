//! Numbers of the NBD protocol, named as in its document with the `NBD_` prefix dropped, and our own
//! maxima for what a peer may ask.

/// First eight bytes a server sends: "NBDMAGIC".
pub const SERVER_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// Opens the newstyle greeting and every option: "IHAVEOPT".
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// Opens every reply to an option.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Opens every request of the transmission phase.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Opens a simple reply.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// Opens a chunk of a structured reply.
pub const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;

/// Longest string of the protocol (export names, queries, messages).
pub const STRING_LENGTH_MAX: usize = 4096;
/// Longest data of one option. Enough for a metadata query with six strings of maximal length; real
/// clients send less than 1 KiB. Anything longer ends the connection.
pub const OPTION_LENGTH_MAX: usize = 32 * 1024;
/// Options one client may send. Keeps a client from haggling (and being answered) for ever.
pub const OPTION_COUNT_MAX: usize = 1024;
/// Metadata queries in one option.
pub const CONTEXT_QUERY_COUNT_MAX: usize = 64;
/// Largest payload of one READ or WRITE; the protocol's recommended maximum, which clients assume
/// when they are told nothing.
pub const PAYLOAD_BYTES_MAX: u32 = 32 * 1024 * 1024;
/// Smallest aligned access we advertise, if the export's size is a multiple of it. Not enforced.
pub const BLOCK_SIZE_MINIMUM: u32 = 512;
/// The store's own block: smaller or unaligned writes cost a read first.
pub const BLOCK_SIZE_PREFERRED: u32 = 4096;
/// Extents in one BLOCK_STATUS reply (64 KiB of descriptors); clients ask again for the rest.
pub const EXTENT_COUNT_MAX: usize = 8192;
/// Zeroes that follow the export's flags for clients that did not ask to be spared them.
pub const EXPORT_NAME_PADDING_BYTES: usize = 124;

const _: () = assert!(OPTION_LENGTH_MAX > 4 + STRING_LENGTH_MAX + 2 + 2 * 16);
const _: () = assert!(BLOCK_SIZE_MINIMUM.is_power_of_two() && BLOCK_SIZE_MINIMUM <= BLOCK_SIZE_PREFERRED);
const _: () = assert!(PAYLOAD_BYTES_MAX.is_multiple_of(BLOCK_SIZE_PREFERRED));

/// Handshake flags (server) and client flags share their two bits.
pub mod handshake_flag {
    /// The peer understands options other than EXPORT_NAME.
    pub const FIXED_NEWSTYLE: u16 = 1 << 0;
    /// No padding after the reply to EXPORT_NAME.
    pub const NO_ZEROES: u16 = 1 << 1;
}

/// What an export can do.
pub mod transmission_flag {
    /// Always set.
    pub const HAS_FLAGS: u16 = 1 << 0;
    /// Writes will be refused.
    pub const READ_ONLY: u16 = 1 << 1;
    /// FLUSH is understood.
    pub const SEND_FLUSH: u16 = 1 << 2;
    /// FUA is understood.
    pub const SEND_FUA: u16 = 1 << 3;
    /// TRIM is understood.
    pub const SEND_TRIM: u16 = 1 << 5;
    /// WRITE_ZEROES is understood.
    pub const SEND_WRITE_ZEROES: u16 = 1 << 6;
    /// DF is understood; only with structured replies.
    pub const SEND_DF: u16 = 1 << 7;
    /// A flush on one connection covers completed writes of all.
    pub const CAN_MULTI_CONN: u16 = 1 << 8;
}

/// Options of the handshake.
pub mod option_code {
    /// Choose an export the old way: errors can only be told by hanging up.
    pub const EXPORT_NAME: u32 = 1;
    /// Leave politely.
    pub const ABORT: u32 = 2;
    /// List the exports.
    pub const LIST: u32 = 3;
    /// Upgrade to TLS.
    pub const STARTTLS: u32 = 5;
    /// Describe an export.
    pub const INFO: u32 = 6;
    /// Describe an export and start using it.
    pub const GO: u32 = 7;
    /// Allow structured replies.
    pub const STRUCTURED_REPLY: u32 = 8;
    /// List metadata contexts.
    pub const LIST_META_CONTEXT: u32 = 9;
    /// Choose metadata contexts.
    pub const SET_META_CONTEXT: u32 = 10;
}

/// Types of replies to options.
pub mod option_reply {
    /// Done.
    pub const ACK: u32 = 1;
    /// One export of a list.
    pub const SERVER: u32 = 2;
    /// One fact about an export.
    pub const INFO: u32 = 3;
    /// One metadata context.
    pub const META_CONTEXT: u32 = 4;
    /// The option isn't known here.
    pub const ERR_UNSUP: u32 = (1 << 31) + 1;
    /// The option's data make no sense.
    pub const ERR_INVALID: u32 = (1 << 31) + 3;
    /// No such export.
    pub const ERR_UNKNOWN: u32 = (1 << 31) + 6;
    /// Too much was asked.
    pub const ERR_TOO_BIG: u32 = (1 << 31) + 9;
}

/// Kinds of facts about an export.
pub mod info_type {
    /// Size and transmission flags.
    pub const EXPORT: u16 = 0;
    /// The canonical name.
    pub const NAME: u16 = 1;
    /// A text for people.
    pub const DESCRIPTION: u16 = 2;
    /// Minimum, preferred and maximum block size.
    pub const BLOCK_SIZE: u16 = 3;
}

/// The one metadata context of the standard.
pub const ALLOCATION_CONTEXT_NAME: &str = "base:allocation";
/// The identifier under which we report it.
pub const ALLOCATION_CONTEXT_ID: u32 = 1;
/// Descriptor flag: nothing is allocated here.
pub const STATE_HOLE: u32 = 1 << 0;
/// Descriptor flag: this reads as zeroes.
pub const STATE_ZERO: u32 = 1 << 1;

/// Requests of the transmission phase.
pub mod command {
    /// Read.
    pub const READ: u16 = 0;
    /// Write; the only request with a payload.
    pub const WRITE: u16 = 1;
    /// Leave.
    pub const DISC: u16 = 2;
    /// Make completed writes durable.
    pub const FLUSH: u16 = 3;
    /// Forget a range.
    pub const TRIM: u16 = 4;
    /// Zero a range.
    pub const WRITE_ZEROES: u16 = 6;
    /// Describe a range.
    pub const BLOCK_STATUS: u16 = 7;
}

/// Flags of requests.
pub mod command_flag {
    /// Durable before the reply. Clients may set it on any command.
    pub const FUA: u16 = 1 << 0;
    /// WRITE_ZEROES: keep the range allocated.
    pub const NO_HOLE: u16 = 1 << 1;
    /// READ: one content chunk at most.
    pub const DF: u16 = 1 << 2;
    /// BLOCK_STATUS: one extent only.
    pub const REQ_ONE: u16 = 1 << 3;
}

/// Chunk flag: the last chunk of a reply.
pub const REPLY_FLAG_DONE: u16 = 1 << 0;

/// Types of chunks.
pub mod chunk_type {
    /// Nothing more to say.
    pub const NONE: u16 = 0;
    /// Content.
    pub const OFFSET_DATA: u16 = 1;
    /// Zeroes, not sent.
    pub const OFFSET_HOLE: u16 = 2;
    /// Descriptors.
    pub const BLOCK_STATUS: u16 = 5;
    /// The request failed.
    pub const ERROR: u16 = (1 << 15) + 1;
}

/// The error values the protocol allows; they resemble Linux errno but are fixed by the document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ErrorCode {
    /// The export is read-only.
    Permission = 1,
    /// The device failed.
    Io = 5,
    /// The request makes no sense.
    Invalid = 22,
    /// No room, or beyond the end of the export.
    NoSpace = 28,
    /// An unfragmented read that is too long.
    Overflow = 75,
    /// The export is gone.
    Shutdown = 108,
}

impl ErrorCode {
    /// A sentence for the person in front of the client; sent with structured error replies.
    pub fn message(self) -> &'static str {
        match self {
            Self::Permission => "the export is read-only",
            Self::Io => "the device failed the request",
            Self::Invalid => "the request is not valid for this export",
            Self::NoSpace => "no space left, or the request reaches beyond the end of the export",
            Self::Overflow => "the read is too long to be sent unfragmented",
            Self::Shutdown => "the export is shut down or was taken over by another client",
        }
    }
}
