//! What an arbiter is told of writes: which blocks, and their CRCs. One frame covers many writes.

use super::Crcs;
use crate::blocks::BlockRange;
use crate::cursor::{Body, BodyError, Put, Reader};
use crate::ids::ShardIndex;
use crate::limits::{DATA_BLOCKS_MAX, DUMMY_BLOCKS_MAX, DUMMY_WRITES_MAX, SHARD_BLOCKS_MAX};

/// A write without its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DummyWrite {
    /// Which shard.
    pub shard: ShardIndex,
    /// Which of its blocks: at least one, at most those of one frame with data.
    pub blocks: BlockRange,
    /// One for each block.
    pub crcs: Crcs,
}

/// `DummyWrites`: writes in the order in which they take effect, all under the header's epoch and generation; at least
/// one, at most [`DUMMY_WRITES_MAX`], with [`DUMMY_BLOCKS_MAX`] blocks in all.
///
/// `per write: u32 shard; u16 first block; u16 number of blocks n; n × u32 CRC32C`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DummyWrites {
    /// The writes.
    pub writes: Vec<DummyWrite>,
}

impl DummyWrites {
    /// Blocks in all.
    pub fn block_count(&self) -> usize {
        self.writes.iter().map(|write| write.crcs.len()).sum()
    }
}

impl Body for DummyWrites {
    fn encode(&self, out: &mut Vec<u8>) {
        assert!(
            (1..=DUMMY_WRITES_MAX).contains(&self.writes.len()) && self.block_count() <= DUMMY_BLOCKS_MAX
        );
        for DummyWrite { shard, blocks, crcs } in &self.writes {
            assert!(blocks.count > 0 && crcs.len() == usize::from(blocks.count), "a CRC for each block");
            out.put_u32(shard.0);
            out.put_u16(blocks.first);
            out.put_u16(blocks.count);
            crcs.iter().for_each(|crc| out.put_u32(*crc));
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<DummyWrites, BodyError> {
        let mut writes = Vec::new();
        let mut block_count = 0;
        loop {
            let shard = ShardIndex(reader.u32()?);
            let (first, count) = (reader.u16()?, reader.u16()?);
            block_count += usize::from(count);
            let end = usize::from(first) + usize::from(count);
            let fits = (1..=DATA_BLOCKS_MAX).contains(&count)
                && end <= SHARD_BLOCKS_MAX
                && writes.len() < DUMMY_WRITES_MAX
                && block_count <= DUMMY_BLOCKS_MAX;
            if !fits {
                return Err(BodyError::OutOfRange { field: "dummy.blocks", value: u64::from(count) });
            }
            let crcs = (0..count).map(|_| reader.u32()).collect::<Result<Crcs, _>>()?;
            writes.push(DummyWrite { shard, blocks: BlockRange::new(first, count), crcs });
            if reader.is_empty() {
                return Ok(DummyWrites { writes });
            }
        }
    }
}
