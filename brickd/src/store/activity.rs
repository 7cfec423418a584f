//! The activity log (rule I2): per lane one small table of the shards that may be being written.
//!
//! Two copies of 4 KiB in one file. Copy `sequence % 2` is written, durably, with each table, so that a write
//! which a crash tears leaves the table before it. That one is good enough: no byte of a shard that the torn
//! table added was written yet, and one that it dropped is a shard too many.
//!
//! It wouldn't be good enough if the newer copy had been whole once and rotted since. So the two are told
//! apart: sectors are atomic, each has a checksum and the sequence number, and a torn copy is one of good
//! sectors with different numbers. A copy with a bad sector is rot; the file is then lost, like one that is
//! missing, and every block of the images in its lane may be dirty.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use brick_wire::checksum::crc32c;
use brick_wire::limits::{SHARD_SHIFT_MAX, SHARD_SHIFT_MIN};
use brick_wire::placement::lane_of;
use brick_wire::{ImageUuid, LaneIndex, ShardIndex, StartCounter};
use tracing::warn;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::durable;
use super::error::StoreError;
use super::shards::lane_path;
use crate::engine::ActiveShard;

/// In the lane's directory.
pub const FILE_NAME: &str = "activity";
/// First bytes of each copy.
pub const MAGIC: [u8; 8] = *b"BRICKACT";
/// Layout of the file, written by this code.
pub const ACTIVITY_VERSION: u16 = 1;
/// Shards in a table at most.
pub const ENTRIES_MAX: usize = 190;

/// Size of one copy.
const COPY_BYTES: usize = 4096;
/// What a disk writes wholly or not at all.
const SECTOR_BYTES: usize = 512;
/// Of a sector; the rest is its [`RawTrailer`].
const CONTENT_BYTES: usize = SECTOR_BYTES - size_of::<RawTrailer>();
const SECTORS: usize = COPY_BYTES / SECTOR_BYTES;

/// What the contents of a copy's sectors, one after the other, are.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawTable {
    /// 0: [`MAGIC`].
    magic: [u8; 8],
    /// 8: [`ACTIVITY_VERSION`].
    version: U16,
    /// 10: the lane; protects against a file put into another lane.
    lane: U16,
    /// 12: number of entries.
    count: U16,
    /// 14: zero.
    reserved: U16,
    /// 16: counts the tables of the lane; decides which copy is newer, and where the next one goes.
    sequence: U64,
    /// 24: the life that wrote it, for whoever reads the file.
    start: U64,
    /// 32: the shards, then zeros.
    entries: [RawEntry; ENTRIES_MAX],
    /// 4022: zero.
    padding: [u8; 10],
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawEntry {
    /// 0: the image.
    image: [u8; 16],
    /// 16: the shard.
    shard: U32,
    /// 20: log2 of the shard's size.
    shard_shift: u8,
}

/// The end of each sector.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawTrailer {
    /// 504: low half of the table's sequence number: tells which sectors were written together.
    sequence: U32,
    /// 508: CRC32C of bytes 0..508 of the sector.
    crc: U32,
}

const _: () = assert!(size_of::<RawTable>() == SECTORS * CONTENT_BYTES);

/// A table as it stands on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Table {
    sequence: u64,
    start: StartCounter,
    entries: Vec<ActiveShard>,
}

/// Why 4 KiB are not a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Damage {
    /// A write of it was interrupted; the highest number of a sector, low half.
    Torn(u32),
    /// Its bits changed, or it was never one.
    Rotten(&'static str),
}

/// A lane's file, open for writing.
#[derive(Debug)]
pub struct ActivityFile {
    file: File,
    path: PathBuf,
    lane: LaneIndex,
    /// The next table gets one more. Its parity is that of the copy that counts; no number is used twice.
    sequence: u64,
}

impl ActivityFile {
    /// Opens the file of a lane, with what its newest table says; `Err` also if no table can be trusted.
    pub(super) fn open(
        directory: &Path,
        lane: LaneIndex,
        lanes: u16,
    ) -> Result<(ActivityFile, Vec<ActiveShard>), StoreError> {
        let path = file_path(directory, lane);
        let opened = File::options().read(true).write(true).custom_flags(libc::O_DSYNC).open(&path);
        let file = opened.map_err(StoreError::io("open", &path))?;
        let mut bytes = [[0; COPY_BYTES]; 2];
        for (copy, bytes) in (0..).zip(&mut bytes) {
            match file.read_exact_at(bytes, copy * COPY_BYTES as u64) {
                Ok(()) => {}
                // As if the missing part were zeros: no table.
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => {}
                Err(source) => return Err(StoreError::io("read", path)(source)),
            }
        }
        let copies = bytes.map(|bytes| Table::parse(&bytes, lane, lanes));
        if copies.iter().any(|copy| matches!(copy, Err(Damage::Torn(_)))) {
            warn!("a write of {} was interrupted: the table before it counts", path.display());
        }
        match newest(copies) {
            Ok(table) => Ok((ActivityFile { file, path, lane, sequence: table.sequence }, table.entries)),
            Err(why) => Err(StoreError::Activity { path, why }),
        }
    }

    /// Puts a fresh file with an empty table in place; durable when done.
    pub(super) fn create(directory: &Path, lane: LaneIndex, lanes: u16) -> Result<ActivityFile, StoreError> {
        let mut content = Vec::new();
        for sequence in [0, 1] {
            let table = Table { sequence, start: StartCounter(0), entries: Vec::new() };
            content.extend_from_slice(&table.to_bytes(lane));
        }
        durable::replace_file(&file_path(directory, lane), &content)?;
        ActivityFile::open(directory, lane, lanes).map(|(file, _)| file)
    }

    /// Replaces the table; durable when done. If it fails, the next one goes to the same place, under another
    /// number: the other copy stays as it is, and what the failed one left behind can't mix with the next.
    pub fn write(&mut self, start: StartCounter, entries: Vec<ActiveShard>) -> Result<(), StoreError> {
        let table = Table { sequence: self.sequence + 1, start, entries };
        let offset = (table.sequence % 2) * COPY_BYTES as u64;
        let bytes = table.to_bytes(self.lane);
        if let Err(error) = self.file.write_all_at(&bytes, offset) {
            self.sequence += 2;
            return Err(StoreError::io("write", &self.path)(error));
        }
        self.sequence = table.sequence;
        Ok(())
    }
}

impl Table {
    fn to_bytes(&self, lane: LaneIndex) -> [u8; COPY_BYTES] {
        assert!(self.entries.len() <= ENTRIES_MAX, "the engine was told how many fit");
        let mut raw = RawTable::new_zeroed();
        raw.magic = MAGIC;
        raw.version = U16::new(ACTIVITY_VERSION);
        raw.lane = U16::new(lane.0);
        raw.count = U16::new(self.entries.len() as u16);
        raw.sequence = U64::new(self.sequence);
        raw.start = U64::new(self.start.0);
        for (place, entry) in raw.entries.iter_mut().zip(&self.entries) {
            *place = RawEntry {
                image: entry.image.to_bytes(),
                shard: U32::new(entry.shard.0),
                shard_shift: entry.shard_shift,
            };
        }
        let mut bytes = [0; COPY_BYTES];
        let contents = raw.as_bytes().chunks_exact(CONTENT_BYTES);
        for (sector, content) in bytes.chunks_exact_mut(SECTOR_BYTES).zip(contents) {
            sector[..CONTENT_BYTES].copy_from_slice(content);
            sector[CONTENT_BYTES..CRC_OFFSET].copy_from_slice(&(self.sequence as u32).to_le_bytes());
            let crc = crc32c(&sector[..CRC_OFFSET]);
            sector[CRC_OFFSET..].copy_from_slice(&crc.to_le_bytes());
        }
        bytes
    }

    fn parse(bytes: &[u8; COPY_BYTES], lane: LaneIndex, lanes: u16) -> Result<Table, Damage> {
        let mut content = Vec::with_capacity(SECTORS * CONTENT_BYTES);
        let mut sequences = Vec::with_capacity(SECTORS);
        for sector in bytes.chunks_exact(SECTOR_BYTES) {
            let (_, trailer) = RawTrailer::ref_from_suffix(sector).expect("a sector has a trailer");
            if trailer.crc.get() != crc32c(&sector[..CRC_OFFSET]) {
                return Err(Damage::Rotten("a sector fails its check"));
            }
            content.extend_from_slice(&sector[..CONTENT_BYTES]);
            sequences.push(trailer.sequence.get());
        }
        if sequences.iter().any(|sequence| *sequence != sequences[0]) {
            return Err(Damage::Torn(sequences.into_iter().max().unwrap_or_default()));
        }
        let raw = RawTable::ref_from_bytes(&content).expect("as long as its sectors' contents");
        if raw.magic != MAGIC || raw.version.get() != ACTIVITY_VERSION {
            return Err(Damage::Rotten("it doesn't start with the magic and version of an activity log"));
        }
        if raw.lane.get() != lane.0 || raw.sequence.get() as u32 != sequences[0] {
            return Err(Damage::Rotten("it belongs to another lane"));
        }
        let entries = raw.entries.get(..usize::from(raw.count.get()));
        let entries = entries.ok_or(Damage::Rotten("it has more shards than fit"))?;
        let entries = entries.iter().map(|entry| entry.parse(lane, lanes)).collect::<Option<_>>();
        let entries = entries.ok_or(Damage::Rotten("it names a shard that can't be in this lane"))?;
        Ok(Table { sequence: raw.sequence.get(), start: StartCounter(raw.start.get()), entries })
    }
}

impl RawEntry {
    fn parse(&self, lane: LaneIndex, lanes: u16) -> Option<ActiveShard> {
        let (image, shard) = (ImageUuid::from_bytes(self.image), ShardIndex(self.shard.get()));
        let sound = (SHARD_SHIFT_MIN..=SHARD_SHIFT_MAX).contains(&self.shard_shift)
            && lane_of(image, shard, lanes) == lane;
        sound.then_some(ActiveShard { image, shard, shard_shift: self.shard_shift })
    }
}

/// The newer table of two copies, or why none can be trusted.
fn newest(copies: [Result<Table, Damage>; 2]) -> Result<Table, &'static str> {
    match copies {
        [Ok(first), Ok(second)] => Ok(if first.sequence > second.sequence { first } else { second }),
        // The number of the torn one isn't used again: sectors of two tables must never look like one.
        [Ok(good), Err(Damage::Torn(number))] | [Err(Damage::Torn(number)), Ok(good)] => {
            let ahead = number.wrapping_sub(good.sequence as u32).next_multiple_of(2);
            Ok(Table { sequence: good.sequence + u64::from(ahead), ..good })
        }
        [Err(Damage::Rotten(why)), _] | [_, Err(Damage::Rotten(why))] => Err(why),
        [Err(Damage::Torn(_)), Err(Damage::Torn(_))] => Err("both copies are torn"),
    }
}

fn file_path(directory: &Path, lane: LaneIndex) -> PathBuf {
    directory.join(lane_path(lane)).join(FILE_NAME)
}

const CRC_OFFSET: usize = SECTOR_BYTES - 4;

#[cfg(test)]
mod tests;
