//! The registers on disk: an append-only log of checked records, loaded at start; the latest state of a
//! register wins.
//!
//! One record is one batch of states that was made durable by one fdatasync, and the next batch is written
//! only after that. So a crash can tear the last record only, and "what is bad and followed by nothing
//! valid" is a batch that was never acknowledged: it is cut off. A bad record with a valid one behind it is
//! rot: a promise may be gone, and a brick that forgets a promise breaks rule R1, so it refuses to start.
//! (Were each state a record of its own, a torn batch of two could look like rot.)
//!
//! After a failed write the end of the file is cut back to the last good record; if that fails too, or an
//! fdatasync fails, nothing is appended any more: a second fdatasync that says OK proves nothing.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use brick_wire::BrickUuid;
use brick_wire::checksum::crc32c;
use brick_wire::cursor::{Body, Reader};
use brick_wire::register::{RegisterEntry, RegisterKey, RegisterState};
use nix::fcntl::{FallocateFlags, fallocate};
use tracing::{info, warn};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::durable;
use super::error::StoreError;

/// In the brick's directory.
pub const FILE_NAME: &str = "registers";
/// First bytes of the file.
pub const MAGIC: [u8; 8] = *b"BRICKREG";
/// Layout of the file, written by this code.
pub const LOG_VERSION: u32 = 1;
/// Longest body of a record: thousands of the largest registers.
pub const BODY_BYTES_MAX: usize = 16 << 20;
/// A log that is longer than this and than twice its live content is rewritten at start.
pub const COMPACT_BYTES: usize = 1 << 20;
/// Space allocated ahead of the records: hundreds of changes.
const RESERVE_BYTES: u64 = 128 << 10;

/// First 32 bytes of the file.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawFileHeader {
    /// 0: [`MAGIC`].
    magic: [u8; 8],
    /// 8: the brick; protects against a log copied from another one.
    brick: [u8; 16],
    /// 24: [`LOG_VERSION`].
    version: U32,
    /// 28: CRC32C of bytes 0..28.
    crc: U32,
}

/// Before each record's body.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawRecordHeader {
    /// 0: length of the body.
    body_bytes: U32,
    /// 4: CRC32C of bytes 8..16 and the body.
    crc: U32,
    /// 8: one more than the record before it, so that a stale tail never passes for the present.
    sequence: U64,
}

const _: () = assert!(size_of::<RawFileHeader>() == FILE_HEADER_BYTES);
const _: () = assert!(size_of::<RawRecordHeader>() == RECORD_HEADER_BYTES);
const FILE_HEADER_BYTES: usize = 32;
const RECORD_HEADER_BYTES: usize = 16;

/// The log, open for appending.
#[derive(Debug)]
pub struct RegisterLog {
    file: File,
    path: PathBuf,
    /// Where the next record goes.
    end: u64,
    /// Of the next record.
    sequence: u64,
    /// Up to where space was allocated, or that was tried in vain.
    reserved_end: u64,
    /// What is at or behind `end` is unknown.
    failed: bool,
}

impl RegisterLog {
    /// Content of a log without records.
    pub(super) fn fresh(brick: BrickUuid) -> Vec<u8> {
        let mut header = RawFileHeader {
            magic: MAGIC,
            brick: brick.to_bytes(),
            version: U32::new(LOG_VERSION),
            crc: U32::new(0),
        };
        header.crc = U32::new(crc32c(&header.as_bytes()[..FILE_HEADER_BYTES - 4]));
        header.as_bytes().to_vec()
    }

    /// Loads the log: cuts a torn tail, compacts what has grown, returns the latest states in key order. An empty log
    /// of another brick becomes this one's if this one is `blank`: it took the other's uuid, and has no registers yet.
    pub(super) fn open(
        directory: &Path,
        brick: BrickUuid,
        blank: bool,
    ) -> Result<(RegisterLog, Vec<RegisterEntry>), StoreError> {
        let path = directory.join(FILE_NAME);
        let mut content = std::fs::read(&path).map_err(StoreError::io("read", &path))?;
        if blank && is_empty_log(&content) && content != RegisterLog::fresh(brick) {
            info!("{} becomes the log of brick {brick}", path.display());
            content = RegisterLog::fresh(brick);
            durable::replace_file(&path, &content)?;
        }
        check_file_header(&content, brick, &path)?;
        let loaded = load(&content, &path)?;
        let mut end = loaded.end;
        let mut sequence = loaded.sequence;
        let entries: Vec<RegisterEntry> =
            loaded.latest.into_iter().map(|(key, state)| RegisterEntry { key, state }).collect();
        if let Some(compact) = compacted(&entries, brick, sequence, content.len()) {
            info!("{} is rewritten: {} bytes become {}", path.display(), content.len(), compact.len());
            durable::replace_file(&path, &compact)?;
            end = compact.len();
            sequence += 1;
        }
        let file =
            File::options().read(true).write(true).open(&path).map_err(StoreError::io("open", &path))?;
        let length = file.metadata().map_err(StoreError::io("stat", &path))?.len();
        if length > end as u64 {
            warn!(
                "{}: the last {} bytes are a torn record and are cut off",
                path.display(),
                length - end as u64
            );
            file.set_len(end as u64).map_err(StoreError::io("truncate", &path))?;
            file.sync_all().map_err(StoreError::io("sync", &path))?;
        }
        let mut log = RegisterLog { file, path, end: end as u64, sequence, reserved_end: 0, failed: false };
        log.reserve();
        Ok((log, entries))
    }

    /// Appends a batch; durable when done. After [`StoreError::Io`] the batch is not in the log; after
    /// [`StoreError::RegisterLogEnd`] it may be, and the log takes no more until the next start.
    pub fn append(&mut self, entries: &[RegisterEntry]) -> Result<(), StoreError> {
        if self.failed {
            return Err(StoreError::RegisterLogFailed { path: self.path.clone() });
        }
        let body = encode_entries(entries);
        if body.len() > BODY_BYTES_MAX {
            let (bytes, bytes_max) = (body.len(), BODY_BYTES_MAX);
            return Err(StoreError::RegisterBatch { path: self.path.clone(), bytes, bytes_max });
        }
        let record = encode_record(&body, self.sequence);
        if let Err(source) = self.file.write_all_at(&record, self.end) {
            self.reserved_end = self.end;
            if self.file.set_len(self.end).and_then(|()| self.file.sync_data()).is_ok() {
                return Err(StoreError::io("write", &self.path)(source));
            }
            self.failed = true;
            return Err(StoreError::RegisterLogEnd { path: self.path.clone(), source });
        }
        if let Err(source) = self.file.sync_data() {
            self.failed = true;
            return Err(StoreError::RegisterLogEnd { path: self.path.clone(), source });
        }
        self.end += record.len() as u64;
        self.sequence += 1;
        self.reserve();
        Ok(())
    }

    /// Allocates ahead of the records, so that there is room for those that free space on a full disk. Where that
    /// isn't possible appends may fail sooner, and lose nothing.
    fn reserve(&mut self) {
        if self.end + RESERVE_BYTES / 2 > self.reserved_end {
            let (start, length) = (self.end as i64, RESERVE_BYTES as i64);
            // Not tried again for the next record on a file system that can't.
            self.reserved_end = self.end + RESERVE_BYTES;
            let _best_effort = fallocate(&self.file, FallocateFlags::FALLOC_FL_KEEP_SIZE, start, length);
        }
    }
}

/// What the records say.
struct Loaded {
    latest: BTreeMap<RegisterKey, RegisterState>,
    /// One past the last good record.
    end: usize,
    /// Of the next record.
    sequence: u64,
}

fn load(content: &[u8], path: &Path) -> Result<Loaded, StoreError> {
    let mut loaded = Loaded { latest: BTreeMap::new(), end: FILE_HEADER_BYTES, sequence: 0 };
    while let Some(record) = parse_record(&content[loaded.end..], loaded.sequence) {
        let damaged = || StoreError::RegisterRecord { path: path.to_owned(), offset: loaded.end as u64 };
        // A body that doesn't decode under a valid checksum was never torn: no later record excuses it.
        let mut reader = Reader::new(record.body);
        while !reader.is_empty() {
            let entry = RegisterEntry::decode(&mut reader).map_err(|_| damaged())?;
            loaded.latest.insert(entry.key, entry.state);
        }
        loaded.end += RECORD_HEADER_BYTES + record.body.len();
        loaded.sequence = record.sequence + 1;
    }
    let rest = content.get(loaded.end + 1..).unwrap_or_default();
    // The first record after a compaction may have any sequence, so behind a bad first one any counts.
    if (0..rest.len()).any(|start| parse_record(&rest[start..], loaded.sequence).is_some()) {
        return Err(StoreError::RegisterRecord { path: path.to_owned(), offset: loaded.end as u64 });
    }
    Ok(loaded)
}

struct Record<'a> {
    sequence: u64,
    body: &'a [u8],
}

/// The record at the front of `bytes`, if it is whole, checks, and isn't older than `sequence_min`.
fn parse_record(bytes: &[u8], sequence_min: u64) -> Option<Record<'_>> {
    let (header, rest) = RawRecordHeader::ref_from_prefix(bytes).ok()?;
    let body_bytes = header.body_bytes.get() as usize;
    let sequence = header.sequence.get();
    if body_bytes == 0 || body_bytes > BODY_BYTES_MAX || sequence < sequence_min {
        return None;
    }
    let body = rest.get(..body_bytes)?;
    let covered = &bytes[8..RECORD_HEADER_BYTES + body_bytes];
    (crc32c(covered) == header.crc.get()).then_some(Record { sequence, body })
}

/// A record's body: the states one after another, in the layout they have on the wire.
fn encode_entries(entries: &[RegisterEntry]) -> Vec<u8> {
    let mut body = Vec::new();
    for entry in entries {
        entry.encode(&mut body);
    }
    body
}

fn encode_record(body: &[u8], sequence: u64) -> Vec<u8> {
    let mut record = Vec::with_capacity(RECORD_HEADER_BYTES + body.len());
    let header = RawRecordHeader {
        body_bytes: U32::new(body.len() as u32),
        crc: U32::new(0),
        sequence: U64::new(sequence),
    };
    record.extend_from_slice(header.as_bytes());
    record.extend_from_slice(body);
    let crc = crc32c(&record[8..]);
    record[4..8].copy_from_slice(&crc.to_le_bytes());
    record
}

/// The log's content with one record of all live states, if that is worth it.
fn compacted(entries: &[RegisterEntry], brick: BrickUuid, sequence: u64, length: usize) -> Option<Vec<u8>> {
    if length <= COMPACT_BYTES || entries.is_empty() {
        return None;
    }
    let body = encode_entries(entries);
    if body.len() > BODY_BYTES_MAX || body.len() * 2 > length {
        return None;
    }
    let mut content = RegisterLog::fresh(brick);
    content.extend_from_slice(&encode_record(&body, sequence));
    Some(content)
}

/// Whether the file is a header, sound but for the brick that it names, and nothing else.
fn is_empty_log(content: &[u8]) -> bool {
    let Ok(header) = RawFileHeader::ref_from_bytes(content) else { return false };
    content == RegisterLog::fresh(BrickUuid::from_bytes(header.brick))
}

fn check_file_header(content: &[u8], brick: BrickUuid, path: &Path) -> Result<(), StoreError> {
    let refuse = |why| Err(StoreError::RegisterHeader { path: path.to_owned(), why });
    let Ok((header, _)) = RawFileHeader::ref_from_prefix(content) else {
        return refuse("it is shorter than its header");
    };
    if header.magic != MAGIC {
        return refuse("it doesn't start with the magic of a register log");
    }
    if header.crc.get() != crc32c(&content[..FILE_HEADER_BYTES - 4]) {
        return refuse("its header fails its check");
    }
    if header.version.get() != LOG_VERSION {
        return refuse("its layout is of another version");
    }
    if header.brick != brick.to_bytes() {
        return refuse("it belongs to another brick");
    }
    Ok(())
}

#[cfg(test)]
mod tests;
