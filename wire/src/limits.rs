//! Every bound of the protocol, by name. A peer that exceeds one is refused with a reason; nothing here
//! is negotiated upwards. Relations between the bounds are checked at compile time.

/// The unit of I/O, of dirty maps, of checksums and of heal.
pub const BLOCK_SIZE: usize = 4096;
/// log2 of [`BLOCK_SIZE`].
pub const BLOCK_SHIFT: u32 = 12;
/// Size of the fixed frame header.
pub const HEADER_SIZE: usize = 64;
/// Largest aux part, trailer CRC included.
pub const AUX_BYTES_MAX: usize = 64 * 1024;
/// Largest data part.
pub const DATA_BYTES_MAX: usize = 1024 * 1024;
/// Largest data part in blocks.
pub const DATA_BLOCKS_MAX: u16 = (DATA_BYTES_MAX / BLOCK_SIZE) as u16;
/// Largest whole frame.
pub const FRAME_BYTES_MAX: usize = HEADER_SIZE + AUX_BYTES_MAX + DATA_BYTES_MAX;

/// Smallest shard: 1 MiB.
pub const SHARD_SHIFT_MIN: u8 = 20;
/// Largest shard: 64 MiB.
pub const SHARD_SHIFT_MAX: u8 = 26;
/// Default shard: 4 MiB, as in GlusterFS's sharding translator.
pub const SHARD_SHIFT_DEFAULT: u8 = 22;
/// Blocks in the largest shard.
pub const SHARD_BLOCKS_MAX: usize = 1 << (SHARD_SHIFT_MAX as u32 - BLOCK_SHIFT);

/// Finished heals that a core of a brick remembers.
pub const HEALS_REMEMBERED: usize = 32;
/// Longest image name, in bytes of UTF-8.
pub const IMAGE_NAME_BYTES_MAX: usize = 255;
/// Longest register value.
pub const REGISTER_VALUE_BYTES_MAX: usize = 4096;
/// Longest client name in a hello (for messages to operators only).
pub const CLIENT_NAME_BYTES_MAX: usize = 128;
/// Longest reason in a refused welcome.
pub const REASON_BYTES_MAX: usize = 512;
/// Longest peer address in a pull.
pub const ADDRESS_BYTES_MAX: usize = 255;

/// Writes that one frame tells an arbiter of.
pub const DUMMY_WRITES_MAX: usize = 32;
/// Blocks of those writes.
pub const DUMMY_BLOCKS_MAX: usize = 1024;

/// Bricks in one replica group: a [`crate::ids::BrickSet`] is a byte.
pub const GROUP_BRICKS_MAX: usize = 8;
/// Replica groups in one volume.
pub const GROUPS_MAX: usize = 1024;
/// Images attached on one connection.
pub const ATTACHED_IMAGES_MAX: usize = 64;
/// Lanes of one brick.
pub const LANES_MAX: u16 = 256;
/// Cores of one brick.
pub const CORES_MAX: u16 = 256;

/// Version 2 pulls CRCs where 1 compared by them; since 3 a frame tells an arbiter of many writes. The hello carries a range
/// so that a later one can talk to this one.
pub const PROTOCOL_VERSION: u16 = 3;

const _: () = assert!(BLOCK_SIZE == 1 << BLOCK_SHIFT);
const _: () = assert!(DATA_BYTES_MAX.is_multiple_of(BLOCK_SIZE));
// The CRCs of the largest write, its trailer included, fit in aux.
const _: () = assert!(DATA_BLOCKS_MAX as usize * 4 + 4 <= AUX_BYTES_MAX);
// So do those of all writes of which an arbiter is told at once, among them the largest.
const _: () = assert!(DUMMY_WRITES_MAX * 8 + DUMMY_BLOCKS_MAX * 4 + 4 <= AUX_BYTES_MAX);
const _: () = assert!(DATA_BLOCKS_MAX as usize <= DUMMY_BLOCKS_MAX);
// The hashes of the largest compared range fit in aux.
const _: () = assert!(DATA_BLOCKS_MAX as usize * 8 + 64 <= AUX_BYTES_MAX);
// The bitmap of the largest shard fits in aux beside an address.
const _: () = assert!(SHARD_BLOCKS_MAX / 8 + ADDRESS_BYTES_MAX + 128 <= AUX_BYTES_MAX);
// The largest write fits in the smallest shard.
const _: () = assert!(DATA_BYTES_MAX <= 1 << SHARD_SHIFT_MIN);
// An image over every group of the volume, with the longest name, fits in a register.
const _: () = assert!(46 + GROUPS_MAX * 2 + IMAGE_NAME_BYTES_MAX <= REGISTER_VALUE_BYTES_MAX);
// The epoch record of the largest group fits in a register.
const _: () = assert!(56 + GROUP_BRICKS_MAX * 40 <= REGISTER_VALUE_BYTES_MAX);
// A register with the longest key fits in aux.
const _: () = assert!(REGISTER_VALUE_BYTES_MAX + IMAGE_NAME_BYTES_MAX + 128 <= AUX_BYTES_MAX);
