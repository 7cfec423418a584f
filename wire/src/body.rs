//! The aux bodies of the requests that aren't about registers.
//!
//! Block CRCs have no struct of their own: the aux of a `Write` or a `Read` reply is the CRC32C of
//! blocks 1.. (u32 each); block 0's is in the header. A one-block frame has no aux.

use smallvec::SmallVec;

use crate::blocks::BlockSet;
use crate::cursor::{Body, BodyError, Put, Reader};
use crate::header::Header;
use crate::ids::{BootUuid, BrickUuid, Epoch, ImageUuid, Incarnation, ShardIndex, StartCounter};
use crate::limits::{ADDRESS_BYTES_MAX, DATA_BLOCKS_MAX, HEALS_REMEMBERED, SHARD_SHIFT_MAX, SHARD_SHIFT_MIN};
use crate::register::{put_epoch, read_epoch};

mod dummy;
mod membership;

pub use dummy::{DummyWrite, DummyWrites};
pub use membership::{Adopt, Retire, Stamp};

/// `Attach`: the header's image handle stands for this image from now on, on this connection.
///
/// `0 16B image; 16 u8 log2 of the shard size`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attach {
    /// The image.
    pub image: ImageUuid,
    /// log2 of the shard size in bytes.
    pub shard_shift: u8,
}

/// Reply to `BrickStatus`.
///
/// `0 u64 free bytes; 8 u64 used bytes; 16 u32 images; 20 u32 sessions`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BrickStatus {
    /// Free bytes of the file system under the brick.
    pub free_bytes: u64,
    /// Bytes in this brick's shard files.
    pub used_bytes: u64,
    /// Images with a shard or a register here.
    pub images: u32,
    /// Sessions connected.
    pub sessions: u32,
}

/// Reply to `ImageStatus` (the request's aux is the image's 16 bytes): counters of one core, to be summed
/// over a brick's cores. `EXACT` is set in the flags if the brick lost no dirty bit.
///
/// `0 u64 dirty blocks; 8 u64 shards; 16 u64 blocks pulled; 24 u64 blocks compared; 32 u64 wire bytes pulled;`
/// `40 u64 blocks compared by the heal that runs`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ImageStatus {
    /// Blocks that may differ between bricks.
    pub dirty_blocks: u64,
    /// Shards with a file here.
    pub shards: u64,
    /// Blocks fetched from other bricks since this brick started.
    pub pulled_blocks: u64,
    /// Blocks compared with another brick's since this brick started.
    pub compared_blocks: u64,
    /// Bytes those pulls moved over the network, both ways.
    pub pulled_wire_bytes: u64,
    /// Of a copy that isn't in S: blocks compared on behalf of the present holder. Progress, as dirty bits are kept
    /// until every copy is good.
    pub heal_compared_blocks: u64,
    /// Blocks found since this brick started that couldn't be read, or weren't what was last written.
    pub bad_blocks: u64,
    /// Such blocks that were written again from another copy.
    pub repaired_blocks: u64,
}

/// A heal of one of the brick's copies that ended with its return into S.
///
/// `0 16B image; 16 u64 epoch counter; 24 u64 epoch session; 32 u64 age, ms; 40 u64 duration, ms;`
/// `48 u64 blocks compared; 56 u64 blocks written; 64 u64 wire bytes, both ways`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FinishedHeal {
    /// Of which image.
    pub image: ImageUuid,
    /// The record that put the brick into S: the same heal has the same one on every core.
    pub epoch: Epoch,
    /// How long ago that was, by the brick's clock.
    pub age_ms: u64,
    /// From the first pull until then.
    pub duration_ms: u64,
    /// Blocks whose hashes were compared.
    pub compared_blocks: u64,
    /// Blocks that differed and were written.
    pub written_blocks: u64,
    /// Bytes of all frames, both ways.
    pub wire_bytes: u64,
}

/// Reply to `HealHistory`: what one core remembers of the last heals, the oldest first. In memory only; a core that
/// pulled nothing for a heal doesn't list it.
///
/// `per heal: 72 bytes, see [FinishedHeal]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HealHistory {
    /// At most [`HEALS_REMEMBERED`].
    pub heals: Vec<FinishedHeal>,
}

/// A page of `DirtyRead`: bitmaps of the shards with dirty bits, ascending. The request's header says at
/// which shard to start.
///
/// `per shard: u32 shard; u16 bitmap bytes; bitmap`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DirtyPage {
    /// Shard and its dirty blocks.
    pub shards: Vec<(ShardIndex, BlockSet)>,
}

/// Reply to `Verify`. With `ZEROES` in the flags nothing was ever written to the shard, and all of this is empty.
///
/// `0 u16 bytes of the bitmap of bad blocks; bitmap; u16 bytes of the bitmap of unknown blocks; bitmap;`
/// `n × u32 CRC32C, one for each block asked for`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyReply {
    /// Blocks of the shard that can't be read, or aren't what was last written. An arbiter has none.
    pub bad: BlockSet,
    /// Blocks whose CRC an arbiter doesn't know; on a data brick those that can't be read.
    pub unknown: BlockSet,
    /// CRCs of the blocks as they were read, or as an arbiter knows them; meaningless where unknown.
    pub crcs: Vec<u32>,
}

/// A page of `ShardList`: indexes, ascending, u32 each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShardPage {
    /// Shards that exist.
    pub shards: Vec<ShardIndex>,
}

/// `Pull`: fetch those of `blocks` of the header's shard that differ from the source's copy.
///
/// `0 16B source brick; 16 16B its boot; 32 u64 its start counter; 40 text its address; . bitmap (rest)`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pull {
    /// Where the good copy is.
    pub source: BrickUuid,
    /// The life of the source that the holder knows.
    pub incarnation: Incarnation,
    /// `host:port` of the source.
    pub address: String,
    /// Blocks that may differ.
    pub blocks: BlockSet,
}

/// Reply to `Pull`.
///
/// `0 u32 blocks compared; 4 u32 blocks written; 8 u64 wire bytes, both ways;`
/// `16 bitmap of blocks that the source couldn't vouch for (rest)`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PullReport {
    /// Blocks whose hashes were compared.
    pub compared_blocks: u32,
    /// Blocks that differed and were written.
    pub written_blocks: u32,
    /// Bytes of all frames, both ways.
    pub wire_bytes: u64,
    /// Blocks of the shard that stay as they are: the source couldn't vouch for its own.
    pub unvouched: BlockSet,
}

/// `PullRead`, brick to brick: the header's blocks, but only those whose hash differs from the puller's.
///
/// `0 16B boot; 16 u64 start counter of the source that is meant; 24 count × u64 hashes, or none at all:`
/// `the puller has no such shard, which reads as zeros`
///
/// With [`crate::Flags::HEAL`] there are none either: the puller wants the blocks' CRCs and nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PullRead {
    /// The life of the source that the holder knows.
    pub incarnation: Incarnation,
    /// The puller's hashes ([`crate::checksum::block_hash`], seeded by the epoch's counter).
    pub hashes: Vec<u64>,
}

/// Reply to `PullRead`: which blocks follow, and their CRCs (all of them: unlike a read's, the first one's
/// stands here too, as the first block may not be among them).
///
/// `0 u16 bitmap bytes n; 2 n bytes bitmap, bit i is block first+i; . u32 CRC per block sent;`
/// `. bitmap of blocks that the source can't vouch for (rest)`
///
/// To one with [`crate::Flags::HEAL`]: the blocks whose CRCs are known, and those; no data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PullReadReply {
    /// Relative to the first block asked for; at most the blocks of one frame. That it stays within the
    /// range asked for is the puller's to check.
    pub differing: BlockSet,
    /// One per differing block.
    pub crcs: Vec<u32>,
    /// Blocks that the source can't read, or that aren't what was last written there; relative like the others. It
    /// says nothing about these.
    pub unvouched: BlockSet,
}

/// The CRCs of a request's blocks: those of a request of up to 64 KiB need no memory of their own.
pub type Crcs = SmallVec<[u32; 16]>;

/// Splits block CRCs into the header's and the aux body's part; sets the header's.
pub fn put_crcs(header: &mut Header, crcs: &[u32]) -> Vec<u8> {
    header.first_crc = crcs.first().copied().unwrap_or(0);
    crcs.iter().skip(1).flat_map(|crc| crc.to_le_bytes()).collect()
}

/// Joins what [`put_crcs`] split; `block_count` CRCs or an error.
pub fn read_crcs(header: &Header, aux: &[u8], block_count: usize) -> Result<Crcs, BodyError> {
    if aux.len() != block_count.saturating_sub(1) * 4 {
        return Err(BodyError::OutOfRange { field: "block crcs", value: aux.len() as u64 });
    }
    let rest = aux.chunks_exact(4).map(|chunk| u32::from_le_bytes(chunk.try_into().expect("4 bytes")));
    Ok(std::iter::once(header.first_crc).chain(rest).take(block_count).collect())
}

impl Body for Attach {
    fn encode(&self, out: &mut Vec<u8>) {
        assert!((SHARD_SHIFT_MIN..=SHARD_SHIFT_MAX).contains(&self.shard_shift));
        out.extend_from_slice(&self.image.to_bytes());
        out.put_u8(self.shard_shift);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Attach, BodyError> {
        let image = ImageUuid::from_bytes(reader.array()?);
        let shard_shift = reader.u8()?;
        if !(SHARD_SHIFT_MIN..=SHARD_SHIFT_MAX).contains(&shard_shift) {
            return Err(BodyError::OutOfRange { field: "attach.shard_shift", value: u64::from(shard_shift) });
        }
        Ok(Attach { image, shard_shift })
    }
}

impl Body for BrickStatus {
    fn encode(&self, out: &mut Vec<u8>) {
        out.put_u64(self.free_bytes);
        out.put_u64(self.used_bytes);
        out.put_u32(self.images);
        out.put_u32(self.sessions);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<BrickStatus, BodyError> {
        Ok(BrickStatus {
            free_bytes: reader.u64()?,
            used_bytes: reader.u64()?,
            images: reader.u32()?,
            sessions: reader.u32()?,
        })
    }
}

impl Body for ImageStatus {
    fn encode(&self, out: &mut Vec<u8>) {
        out.put_u64(self.dirty_blocks);
        out.put_u64(self.shards);
        out.put_u64(self.pulled_blocks);
        out.put_u64(self.compared_blocks);
        out.put_u64(self.pulled_wire_bytes);
        out.put_u64(self.heal_compared_blocks);
        out.put_u64(self.bad_blocks);
        out.put_u64(self.repaired_blocks);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<ImageStatus, BodyError> {
        Ok(ImageStatus {
            dirty_blocks: reader.u64()?,
            shards: reader.u64()?,
            pulled_blocks: reader.u64()?,
            compared_blocks: reader.u64()?,
            pulled_wire_bytes: reader.u64()?,
            heal_compared_blocks: reader.u64()?,
            bad_blocks: reader.u64()?,
            repaired_blocks: reader.u64()?,
        })
    }
}

impl Body for HealHistory {
    fn encode(&self, out: &mut Vec<u8>) {
        assert!(self.heals.len() <= HEALS_REMEMBERED);
        for heal in &self.heals {
            out.extend_from_slice(&heal.image.to_bytes());
            put_epoch(out, heal.epoch);
            let FinishedHeal { age_ms, duration_ms, compared_blocks, written_blocks, wire_bytes, .. } = *heal;
            for figure in [age_ms, duration_ms, compared_blocks, written_blocks, wire_bytes] {
                out.put_u64(figure);
            }
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<HealHistory, BodyError> {
        let mut heals = Vec::new();
        while !reader.is_empty() {
            if heals.len() == HEALS_REMEMBERED {
                return Err(BodyError::OutOfRange { field: "history.heals", value: heals.len() as u64 + 1 });
            }
            heals.push(FinishedHeal {
                image: ImageUuid::from_bytes(reader.array()?),
                epoch: read_epoch(reader)?,
                age_ms: reader.u64()?,
                duration_ms: reader.u64()?,
                compared_blocks: reader.u64()?,
                written_blocks: reader.u64()?,
                wire_bytes: reader.u64()?,
            });
        }
        Ok(HealHistory { heals })
    }
}

impl Body for DirtyPage {
    fn encode(&self, out: &mut Vec<u8>) {
        assert!(self.shards.is_sorted_by(|(one, _), (next, _)| one < next), "pages ascend");
        for (shard, blocks) in &self.shards {
            out.put_u32(shard.0);
            put_sized_bitmap(out, blocks);
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<DirtyPage, BodyError> {
        let mut shards: Vec<(ShardIndex, BlockSet)> = Vec::new();
        while !reader.is_empty() {
            let shard = ShardIndex(reader.u32()?);
            if shards.last().is_some_and(|(last, _)| *last >= shard) {
                return Err(BodyError::OutOfRange { field: "dirty.shard", value: u64::from(shard.0) });
            }
            shards.push((shard, read_sized_bitmap("dirty.bitmap", reader)?));
        }
        Ok(DirtyPage { shards })
    }
}

impl Body for VerifyReply {
    fn encode(&self, out: &mut Vec<u8>) {
        assert!(self.crcs.len() <= usize::from(DATA_BLOCKS_MAX), "no more than a request asks for");
        put_sized_bitmap(out, &self.bad);
        put_sized_bitmap(out, &self.unknown);
        self.crcs.iter().for_each(|crc| out.put_u32(*crc));
    }

    fn decode(reader: &mut Reader<'_>) -> Result<VerifyReply, BodyError> {
        let bad = read_sized_bitmap("verify.bad", reader)?;
        let unknown = read_sized_bitmap("verify.unknown", reader)?;
        let mut crcs = Vec::new();
        while !reader.is_empty() {
            if crcs.len() == usize::from(DATA_BLOCKS_MAX) {
                return Err(BodyError::OutOfRange { field: "verify.crcs", value: crcs.len() as u64 + 1 });
            }
            crcs.push(reader.u32()?);
        }
        Ok(VerifyReply { bad, unknown, crcs })
    }
}

impl Body for ShardPage {
    fn encode(&self, out: &mut Vec<u8>) {
        assert!(self.shards.is_sorted_by(|one, next| one < next), "pages ascend");
        for shard in &self.shards {
            out.put_u32(shard.0);
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<ShardPage, BodyError> {
        let mut shards: Vec<ShardIndex> = Vec::new();
        while !reader.is_empty() {
            let shard = ShardIndex(reader.u32()?);
            if shards.last().is_some_and(|last| *last >= shard) {
                return Err(BodyError::OutOfRange { field: "shards.shard", value: u64::from(shard.0) });
            }
            shards.push(shard);
        }
        Ok(ShardPage { shards })
    }
}

impl Body for Pull {
    fn encode(&self, out: &mut Vec<u8>) {
        assert!(self.address.len() <= ADDRESS_BYTES_MAX);
        out.extend_from_slice(&self.source.to_bytes());
        put_incarnation(out, self.incarnation);
        out.put_text(&self.address);
        out.extend_from_slice(&self.blocks.to_bytes());
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Pull, BodyError> {
        let source = BrickUuid::from_bytes(reader.array()?);
        let incarnation = read_incarnation(reader)?;
        let address = reader.text("pull.address", ADDRESS_BYTES_MAX)?;
        let blocks = read_bitmap("pull.blocks", reader.rest())?;
        Ok(Pull { source, incarnation, address, blocks })
    }
}

impl Body for PullReport {
    fn encode(&self, out: &mut Vec<u8>) {
        out.put_u32(self.compared_blocks);
        out.put_u32(self.written_blocks);
        out.put_u64(self.wire_bytes);
        out.extend_from_slice(&self.unvouched.to_bytes());
    }

    fn decode(reader: &mut Reader<'_>) -> Result<PullReport, BodyError> {
        Ok(PullReport {
            compared_blocks: reader.u32()?,
            written_blocks: reader.u32()?,
            wire_bytes: reader.u64()?,
            unvouched: read_bitmap("pull.unvouched", reader.rest())?,
        })
    }
}

impl Body for PullRead {
    fn encode(&self, out: &mut Vec<u8>) {
        assert!(self.hashes.len() <= usize::from(DATA_BLOCKS_MAX));
        put_incarnation(out, self.incarnation);
        for hash in &self.hashes {
            out.put_u64(*hash);
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<PullRead, BodyError> {
        let incarnation = read_incarnation(reader)?;
        let mut hashes = Vec::new();
        while !reader.is_empty() {
            hashes.push(reader.u64()?);
        }
        if hashes.len() > usize::from(DATA_BLOCKS_MAX) {
            return Err(BodyError::OutOfRange { field: "pull_read.hashes", value: hashes.len() as u64 });
        }
        Ok(PullRead { incarnation, hashes })
    }
}

impl Body for PullReadReply {
    fn encode(&self, out: &mut Vec<u8>) {
        assert_eq!(self.crcs.len(), self.differing.count(), "one CRC per differing block");
        assert!(self.differing.end() <= usize::from(DATA_BLOCKS_MAX));
        put_sized_bitmap(out, &self.differing);
        for crc in &self.crcs {
            out.put_u32(*crc);
        }
        assert!(self.unvouched.end() <= usize::from(DATA_BLOCKS_MAX));
        out.extend_from_slice(&self.unvouched.to_bytes());
    }

    fn decode(reader: &mut Reader<'_>) -> Result<PullReadReply, BodyError> {
        let differing = read_sized_bitmap("pull_read.differing", reader)?;
        if differing.end() > usize::from(DATA_BLOCKS_MAX) {
            let value = differing.end() as u64;
            return Err(BodyError::OutOfRange { field: "pull_read.differing", value });
        }
        let crcs = (0..differing.count()).map(|_| reader.u32()).collect::<Result<_, _>>()?;
        let unvouched = read_bitmap("pull_read.unvouched", reader.rest())?;
        if unvouched.end() > usize::from(DATA_BLOCKS_MAX) {
            let value = unvouched.end() as u64;
            return Err(BodyError::OutOfRange { field: "pull_read.unvouched", value });
        }
        Ok(PullReadReply { differing, crcs, unvouched })
    }
}

fn put_incarnation(out: &mut Vec<u8>, incarnation: Incarnation) {
    out.extend_from_slice(&incarnation.boot.to_bytes());
    out.put_u64(incarnation.start.0);
}

fn read_incarnation(reader: &mut Reader<'_>) -> Result<Incarnation, BodyError> {
    let boot = BootUuid::from_bytes(reader.array()?);
    Ok(Incarnation { boot, start: StartCounter(reader.u64()?) })
}

/// A bitmap behind its length in bytes (u16).
fn put_sized_bitmap(out: &mut Vec<u8>, blocks: &BlockSet) {
    let bitmap = blocks.to_bytes();
    out.put_u16(bitmap.len() as u16);
    out.extend_from_slice(&bitmap);
}

fn read_sized_bitmap(field: &'static str, reader: &mut Reader<'_>) -> Result<BlockSet, BodyError> {
    let length = usize::from(reader.u16()?);
    read_bitmap(field, reader.bytes(length)?)
}

fn read_bitmap(field: &'static str, bytes: &[u8]) -> Result<BlockSet, BodyError> {
    BlockSet::from_bytes(bytes).ok_or(BodyError::OutOfRange { field, value: bytes.len() as u64 })
}

#[cfg(test)]
mod tests;
