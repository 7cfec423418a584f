//! CRC32C for frames and blocks, and the 64-bit block hash that heal compares.
//!
//! The CRC guards bytes in transit and at rest; it is no identity (a 32-bit sum over millions of blocks
//! collides), so two copies are compared by [`block_hash`] instead.

use crate::limits::BLOCK_SIZE;

/// CRC32C (Castagnoli, iSCSI) of `bytes`.
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

/// CRC32C of every block of `data`, in order.
///
/// `data` must be whole blocks: its length was checked when the frame was parsed.
pub fn block_crcs(data: &[u8]) -> impl ExactSizeIterator<Item = u32> {
    assert!(data.len().is_multiple_of(BLOCK_SIZE), "{} bytes are not whole blocks", data.len());
    data.chunks_exact(BLOCK_SIZE).map(crc32c)
}

/// XXH3 (64 bits) of one block under `seed`. The seed is the epoch's counter: should two different blocks
/// ever collide, they won't again under the next epoch.
pub fn block_hash(block: &[u8], seed: u64) -> u64 {
    assert_eq!(block.len(), BLOCK_SIZE);
    xxhash_rust::xxh3::xxh3_64_with_seed(block, seed)
}
