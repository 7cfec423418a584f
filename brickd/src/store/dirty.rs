//! Saved dirty maps: one file per lane, replaced whenever shards leave the activity log with bits, and at a
//! clean stop. What isn't in it is clean, or in a shard of the activity log.
//!
//! Bits that were cleared since stay in the file until it is replaced: a few comparisons more after a crash.
//! A file that doesn't check counts as lost, which is safe: without saved maps everything may be dirty.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use brick_wire::checksum::crc32c;
use brick_wire::cursor::{BodyError, Put, Reader};
use brick_wire::limits::SHARD_BLOCKS_MAX;
use brick_wire::{BlockSet, BootUuid, ImageUuid, Incarnation, LaneIndex, ShardIndex};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::durable;
use super::error::StoreError;
use super::shards::lane_path;
use crate::engine::SavedDirty;

/// In the lane's directory.
pub const FILE_NAME: &str = "dirty";
/// First bytes of the file.
pub const MAGIC: [u8; 8] = *b"BRICKDTY";
/// Layout of the file, written by this code.
pub const DIRTY_VERSION: u16 = 2;

/// First 48 bytes of the file; the images follow.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawHeader {
    /// 0: [`MAGIC`].
    magic: [u8; 8],
    /// 8: [`DIRTY_VERSION`].
    version: U16,
    /// 10: the lane; protects against a file put into another lane.
    lane: U16,
    /// 12: number of images.
    image_count: U32,
    /// 16: start counter of the life that saved it, for whoever reads the file.
    start: U64,
    /// 24: boot of that life. What a failed sync left unsure is sure after another boot: what is read then
    /// comes from the medium.
    boot: [u8; 16],
    /// 40: zero.
    reserved: U32,
    /// 44: CRC32C of bytes 0..44 and of everything after the header.
    crc: U32,
}

const _: () = assert!(size_of::<RawHeader>() == HEADER_BYTES);
const HEADER_BYTES: usize = 48;
const CRC_OFFSET: usize = 44;
/// Flag of an image: no bit was lost earlier.
const EXACT: u8 = 1;
/// Flag of an image: a sync failed, and not all that it covered was written again.
const UNSYNCED: u8 = 2;
/// An image's uuid, flags and shard count: what one takes at least.
const IMAGE_BYTES_MIN: usize = 21;

/// Replaces a lane's saved maps; durable when done.
pub fn save(
    directory: &Path,
    lane: LaneIndex,
    life: Incarnation,
    maps: &[SavedDirty],
) -> Result<(), StoreError> {
    durable::replace_file(&file_path(directory, lane), &encode(lane, life, maps))
}

/// A lane's saved maps, as a life on `boot` has to take them.
pub(super) fn load(directory: &Path, lane: LaneIndex, boot: BootUuid) -> Result<Vec<SavedDirty>, StoreError> {
    let path = file_path(directory, lane);
    let content = std::fs::read(&path).map_err(StoreError::io("read", &path))?;
    let (saved_on, mut maps) = decode(&content, lane).map_err(|why| StoreError::DirtyMaps { path, why })?;
    maps.iter_mut().for_each(|map| map.unsynced &= saved_on == boot);
    Ok(maps)
}

/// Forgets what was saved, durably: with the next crash it counts as lost.
pub(super) fn remove_all(directory: &Path, lanes: u16) -> Result<(), StoreError> {
    for lane in (0..lanes).map(LaneIndex) {
        let path = file_path(directory, lane);
        match std::fs::remove_file(&path) {
            Ok(()) => durable::sync_directory(&directory.join(lane_path(lane)))?,
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(source) => return Err(StoreError::io("delete", path)(source)),
        }
    }
    Ok(())
}

fn encode(lane: LaneIndex, life: Incarnation, maps: &[SavedDirty]) -> Vec<u8> {
    let header = RawHeader {
        magic: MAGIC,
        version: U16::new(DIRTY_VERSION),
        lane: U16::new(lane.0),
        image_count: U32::new(maps.len() as u32),
        start: U64::new(life.start.0),
        boot: life.boot.to_bytes(),
        reserved: U32::new(0),
        crc: U32::new(0),
    };
    let mut content = header.as_bytes().to_vec();
    for map in maps {
        content.extend_from_slice(&map.image.to_bytes());
        let exact = if map.exact { EXACT } else { 0 };
        content.put_u8(exact | if map.unsynced { UNSYNCED } else { 0 });
        content.put_u32(map.shards.len() as u32);
        for (shard, blocks) in &map.shards {
            let bitmap = blocks.to_bytes();
            content.put_u32(shard.0);
            content.put_u16(bitmap.len() as u16);
            content.extend_from_slice(&bitmap);
        }
    }
    let crc = file_crc(&content);
    content[CRC_OFFSET..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
    content
}

fn decode(content: &[u8], lane: LaneIndex) -> Result<(BootUuid, Vec<SavedDirty>), &'static str> {
    let Ok((header, body)) = RawHeader::ref_from_prefix(content) else {
        return Err("it is shorter than its header");
    };
    if header.magic != MAGIC || header.version.get() != DIRTY_VERSION {
        return Err("it doesn't start with the magic and version of saved dirty maps");
    }
    if header.crc.get() != file_crc(content) {
        return Err("it fails its check");
    }
    if header.lane.get() != lane.0 {
        return Err("it belongs to another lane");
    }
    let count = header.image_count.get() as usize;
    if count > body.len() / IMAGE_BYTES_MIN {
        return Err("it holds fewer images than it says");
    }
    let mut reader = Reader::new(body);
    let maps = (0..count).map(|_| decode_map(&mut reader)).collect::<Result<_, _>>();
    match (maps, reader.is_empty()) {
        (Ok(maps), true) => Ok((BootUuid::from_bytes(header.boot), maps)),
        _ => Err("its maps don't decode"),
    }
}

fn decode_map(reader: &mut Reader<'_>) -> Result<SavedDirty, BodyError> {
    let image = ImageUuid::from_bytes(reader.array()?);
    let flags = reader.u8()?;
    if flags & !(EXACT | UNSYNCED) != 0 {
        return Err(BodyError::OutOfRange { field: "dirty.flags", value: u64::from(flags) });
    }
    let count = reader.u32()?;
    let mut shards = Vec::new();
    for _ in 0..count {
        let shard = ShardIndex(reader.u32()?);
        let length = usize::from(reader.u16()?);
        let out_of_range = BodyError::OutOfRange { field: "dirty.bitmap", value: length as u64 };
        shards.push((shard, BlockSet::from_bytes(reader.bytes(length)?).ok_or(out_of_range)?));
    }
    Ok(SavedDirty { image, exact: flags & EXACT != 0, unsynced: flags & UNSYNCED != 0, shards })
}

/// Of everything but the place where it stands.
fn file_crc(content: &[u8]) -> u32 {
    let (header, body) = content.split_at(HEADER_BYTES);
    let mut covered = header[..CRC_OFFSET].to_vec();
    covered.extend_from_slice(body);
    crc32c(&covered)
}

fn file_path(directory: &Path, lane: LaneIndex) -> PathBuf {
    directory.join(lane_path(lane)).join(FILE_NAME)
}

// The bitmap of the largest shard has a u16 length.
const _: () = assert!(SHARD_BLOCKS_MAX / 8 <= u16::MAX as usize);

#[cfg(test)]
mod tests {
    use brick_wire::{BlockRange, StartCounter};

    use super::*;

    const BOOT: BootUuid = BootUuid(uuid::Uuid::from_bytes([0xb0; 16]));
    const LIFE: Incarnation = Incarnation { boot: BOOT, start: StartCounter(8) };

    fn maps() -> Vec<SavedDirty> {
        let image = ImageUuid::from_bytes([0x1a; 16]);
        let blocks = BlockSet::from(BlockRange::new(9, 2));
        vec![SavedDirty { image, exact: true, unsynced: true, shards: vec![(ShardIndex(5), blocks)] }]
    }

    #[test]
    fn bytes_are_as_documented() {
        let mut expected = b"BRICKDTY".to_vec();
        expected.extend([2, 0, 2, 0]); // version, lane
        expected.extend([1, 0, 0, 0]); // images
        expected.extend([8, 0, 0, 0, 0, 0, 0, 0]); // start counter
        expected.extend([0xb0; 16]); // boot
        expected.extend([0; 4]); // reserved
        let mut body = vec![0x1a; 16]; // image
        body.extend([3, 1, 0, 0, 0]); // exact and unsynced, shards
        body.extend([5, 0, 0, 0, 2, 0, 0x00, 0x06]); // shard, bitmap bytes, bitmap
        let crc = crc32c(&[expected.clone(), body.clone()].concat());
        expected.extend(crc.to_le_bytes());
        expected.extend(body);
        assert_eq!(encode(LaneIndex(2), LIFE, &maps()), expected);
        assert_eq!(decode(&expected, LaneIndex(2)), Ok((BOOT, maps())));
    }

    #[test]
    fn what_does_not_check_is_lost() {
        let good = encode(LaneIndex(2), LIFE, &maps());
        assert!(decode(&good, LaneIndex(3)).is_err());
        for length in 0..good.len() {
            assert!(decode(&good[..length], LaneIndex(2)).is_err(), "{length} bytes");
        }
        for index in 0..good.len() {
            let mut bad = good.clone();
            bad[index] ^= 1;
            assert!(decode(&bad, LaneIndex(2)).is_err(), "byte {index}");
        }
    }
}
