//! CRC32C for frames and blocks, and the 64-bit block hash that heal compares.
//!
//! The CRC guards bytes in transit and at rest; it is no identity (a 32-bit sum over millions of blocks
//! collides), so two copies are compared by [`block_hash`] instead.

use crate::limits::BLOCK_SIZE;

/// CRC32C of a block of zeros.
pub const ZERO_BLOCK_CRC: u32 = 0x98f9_4189;

/// In a `DummyWrite`: nobody knows what the block holds. One block in four billion has this CRC; it isn't watched.
pub const UNKNOWN_CRC: u32 = !ZERO_BLOCK_CRC;

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

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of RFC 3720, appendix B.4, and the check value of the CRC catalogues.
    #[test]
    fn crc32c_is_castagnolis() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
    }

    #[test]
    fn each_block_has_its_crc() {
        let mut data = vec![0; 2 * BLOCK_SIZE];
        data[BLOCK_SIZE..].fill(1);
        let crcs: Vec<u32> = block_crcs(&data).collect();
        assert_eq!(crcs, [ZERO_BLOCK_CRC, crc32c(&[1; BLOCK_SIZE])]);
    }

    /// Bricks of different builds compare these.
    #[test]
    fn block_hashes_are_pinned() {
        let zeroes = [0; BLOCK_SIZE];
        assert_eq!([block_hash(&zeroes, 0), block_hash(&zeroes, 1)], PINNED_HASHES);
    }

    const PINNED_HASHES: [u64; 2] = [0x93d7_6fe1_48c6_89ba, 0xeca1_fdaf_b7b0_bd2a];
}
