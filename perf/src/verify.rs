//! `verify=crc32c`: what is written can be recognised when it is read.
//!
//! Every unit of a write starts with a header, and the rest of it is random bytes that follow from it:
//!
//! ```text
//! 0  "brickvfy" | 8 u64 offset | 16 u64 run | 24 u32 stamp | 28 u32 CRC32C of everything else in the unit
//! ```
//!
//! Integers are little-endian. The offset finds what went to or came from another place, the checksum what was
//! torn or changed, and the stamp, which numbers the writes of a run, finds the write that was lost although
//! an older one left a good block. The run tells blocks of an earlier run from those of this one.
//!
//! For that, a note is kept of each unit: the stamp of its last write, and whether it is in flight. Writes that
//! overlap one in flight have to wait, because nobody can say what is to be found after both (fio's
//! `serialize_overlap`; without it, fio may report such blocks as errors).

use crc_fast::{CrcAlgorithm, Digest};

use crate::pattern::{Kind, Region, Request};
use crate::random::Random;

/// Most units of a region: their notes take 256 MiB.
pub const UNITS_MAX: u64 = 64 << 20;

/// Notes about the blocks of a job.
#[derive(Clone, Debug)]
pub struct Verifier {
    region: Region,
    run: u64,
    /// Of each unit, the stamp of its last write, with [`IN_FLIGHT`]; 0 if it wasn't written.
    notes: Vec<u32>,
    stamp: u32,
    /// Up to where units were read again.
    reread: u64,
    /// Most units of a request.
    length_max: u64,
}

/// A block that isn't what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("verification failed: the block at offset {offset_bytes} {mismatch}")]
pub struct VerifyError {
    /// Where.
    pub offset_bytes: u64,
    /// What is wrong with it.
    pub mismatch: Mismatch,
}

/// What is wrong with a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// Nothing that was written with `verify`.
    #[error("has no header, so it wasn't written with verify=crc32c and this bs, or it was lost")]
    NoHeader,
    /// A block of another place.
    #[error("holds the block of offset {0}")]
    OtherOffset(u64),
    /// A block of an earlier run.
    #[error("holds what an earlier run wrote: a write of this one was lost")]
    OtherRun,
    /// A block that was overwritten since.
    #[error("holds write {found} of this run instead of write {expected}: that one was lost")]
    OtherWrite {
        /// What it holds.
        found: u32,
        /// What it was to hold.
        expected: u32,
    },
    /// Something in it changed.
    #[error("has checksum {found:#010x} where its header says {expected:#010x}")]
    Checksum {
        /// Of what it holds.
        found: u32,
        /// Of what was written.
        expected: u32,
    },
}

impl Verifier {
    /// Nothing written yet. Requests have `length_bytes_max` at most.
    pub fn new(region: Region, length_bytes_max: u64, run: u64) -> Verifier {
        assert!(region.units <= UNITS_MAX, "checked when the region was chosen");
        assert!(region.unit_bytes >= HEADER_BYTES as u64, "a unit is at least a sector");
        let length_max = length_bytes_max / region.unit_bytes;
        Verifier { region, run, notes: vec![0; region.units as usize], stamp: 0, reread: 0, length_max }
    }

    /// Marks what is written from now on as that run's.
    pub fn set_run(&mut self, run: u64) {
        self.run = run;
    }

    /// Whether a write has to wait for one in flight.
    pub fn must_wait(&self, write: Request) -> bool {
        self.notes[self.units(write)].iter().any(|note| note & IN_FLIGHT != 0)
    }

    /// A write starts; its stamp.
    pub fn start(&mut self, write: Request) -> u32 {
        assert!(!self.must_wait(write), "writes in flight don't overlap");
        // 0 says that nothing was written.
        self.stamp = if self.stamp == STAMP_MAX { 1 } else { self.stamp + 1 };
        let units = self.units(write);
        self.notes[units].fill(self.stamp | IN_FLIGHT);
        self.stamp
    }

    /// A write completed.
    pub fn end(&mut self, write: Request) {
        let units = self.units(write);
        for note in &mut self.notes[units] {
            *note &= STAMP_MAX;
        }
    }

    /// Makes a block what the write with that stamp writes.
    pub fn seal(&self, write: Request, stamp: u32, block: &mut [u8]) {
        assert_eq!(block.len() as u64, write.length_bytes, "the block of that write");
        let mut offset_bytes = write.offset_bytes;
        for unit in block.chunks_exact_mut(self.region.unit_bytes as usize) {
            Random::new(offset_bytes ^ self.run.rotate_left(21) ^ u64::from(stamp).rotate_left(42))
                .fill(&mut unit[HEADER_BYTES..]);
            unit[..8].copy_from_slice(MAGIC);
            unit[8..16].copy_from_slice(&offset_bytes.to_le_bytes());
            unit[16..24].copy_from_slice(&self.run.to_le_bytes());
            unit[24..28].copy_from_slice(&stamp.to_le_bytes());
            let checksum = checksum(unit);
            unit[CHECKSUM_AT..HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
            offset_bytes += self.region.unit_bytes;
        }
    }

    /// The next read of what was written; `None` when all of it was read.
    pub fn next_read(&mut self) -> Option<Request> {
        let unread = &self.notes[self.reread as usize..];
        let skipped = unread.iter().position(|note| *note != 0)?;
        let written = unread[skipped..].iter().take(self.length_max as usize);
        let length = written.take_while(|note| **note != 0).count() as u64;
        let unit = self.reread + skipped as u64;
        self.reread = unit + length;
        let Region { offset_bytes, unit_bytes, .. } = self.region;
        Some(Request {
            kind: Kind::Read,
            offset_bytes: offset_bytes + unit * unit_bytes,
            length_bytes: length * unit_bytes,
        })
    }

    /// Whether a read found what this run wrote last.
    pub fn check_written(&self, read: Request, content: &[u8]) -> Result<(), VerifyError> {
        let notes = &self.notes[self.units(read)];
        self.check_units(read, content, |index, header| match notes[index] & STAMP_MAX {
            _ if header.run != self.run => Err(Mismatch::OtherRun),
            expected if header.stamp != expected => {
                Err(Mismatch::OtherWrite { found: header.stamp, expected })
            }
            _ => Ok(()),
        })
    }

    /// Whether a read found what some run wrote with verification.
    pub fn check_any(&self, read: Request, content: &[u8]) -> Result<(), VerifyError> {
        self.check_units(read, content, |_, _| Ok(()))
    }

    fn check_units(
        &self,
        read: Request,
        content: &[u8],
        check: impl Fn(usize, Header) -> Result<(), Mismatch>,
    ) -> Result<(), VerifyError> {
        assert_eq!(content.len() as u64, read.length_bytes, "the content of that read");
        for (index, unit) in content.chunks_exact(self.region.unit_bytes as usize).enumerate() {
            let offset_bytes = read.offset_bytes + index as u64 * self.region.unit_bytes;
            open(unit, offset_bytes)
                .and_then(|header| check(index, header))
                .map_err(|mismatch| VerifyError { offset_bytes, mismatch })?;
        }
        Ok(())
    }

    fn units(&self, request: Request) -> std::ops::Range<usize> {
        let Region { offset_bytes, unit_bytes, .. } = self.region;
        let first = (request.offset_bytes - offset_bytes) / unit_bytes;
        first as usize..(first + request.length_bytes / unit_bytes) as usize
    }
}

/// What a header says besides its place.
struct Header {
    run: u64,
    stamp: u32,
}

/// The header of a good unit of that place.
fn open(unit: &[u8], offset_bytes: u64) -> Result<Header, Mismatch> {
    let u64_at = |at: usize| u64::from_le_bytes(unit[at..at + 8].try_into().expect("eight bytes"));
    let u32_at = |at: usize| u32::from_le_bytes(unit[at..at + 4].try_into().expect("four bytes"));
    if &unit[..8] != MAGIC {
        return Err(Mismatch::NoHeader);
    }
    let (found, expected) = (checksum(unit), u32_at(CHECKSUM_AT));
    if found != expected {
        return Err(Mismatch::Checksum { found, expected });
    }
    match u64_at(8) {
        found if found != offset_bytes => Err(Mismatch::OtherOffset(found)),
        _ => Ok(Header { run: u64_at(16), stamp: u32_at(24) }),
    }
}

/// Of a unit without its checksum.
fn checksum(unit: &[u8]) -> u32 {
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    digest.update(&unit[..CHECKSUM_AT]);
    digest.update(&unit[HEADER_BYTES..]);
    // 32 bits in a common type of all algorithms.
    digest.finalize() as u32
}

const MAGIC: &[u8; 8] = b"brickvfy";
const CHECKSUM_AT: usize = 28;
const HEADER_BYTES: usize = 32;
const IN_FLIGHT: u32 = 1 << 31;
const STAMP_MAX: u32 = IN_FLIGHT - 1;

#[cfg(test)]
mod tests {
    use super::*;

    const REGION: Region = Region { offset_bytes: 4096, unit_bytes: 512, units: 16 };

    fn request(kind: Kind, unit: u64, length: u64) -> Request {
        Request { kind, offset_bytes: 4096 + unit * 512, length_bytes: length * 512 }
    }

    /// Writes units, in a made-up target.
    fn write(verifier: &mut Verifier, target: &mut [u8], unit: u64, length: u64) {
        let write = request(Kind::Write, unit, length);
        let stamp = verifier.start(write);
        verifier.seal(write, stamp, &mut target[unit as usize * 512..][..length as usize * 512]);
        verifier.end(write);
    }

    fn check(verifier: &mut Verifier, target: &[u8]) -> Result<Vec<(u64, u64)>, VerifyError> {
        let mut reads = Vec::new();
        while let Some(read) = verifier.next_read() {
            let start = (read.offset_bytes - 4096) as usize;
            verifier.check_written(read, &target[start..][..read.length_bytes as usize])?;
            verifier.check_any(read, &target[start..][..read.length_bytes as usize])?;
            reads.push((start as u64 / 512, read.length_bytes / 512));
        }
        Ok(reads)
    }

    #[test]
    fn exactly_what_was_written_is_read() {
        let (mut verifier, mut target) = (Verifier::new(REGION, 2048, 1), vec![0; 16 * 512]);
        for (unit, length) in [(1, 2), (2, 3), (15, 1), (7, 1)] {
            write(&mut verifier, &mut target, unit, length);
        }
        assert_eq!(check(&mut verifier, &target), Ok(vec![(1, 4), (7, 1), (15, 1)]));
        assert_eq!(verifier.next_read(), None);
    }

    #[test]
    fn every_kind_of_damage_is_found() {
        let damage = |harm: fn(&mut Verifier, &mut [u8])| {
            let (mut verifier, mut target) = (Verifier::new(REGION, 2048, 7), vec![0; 16 * 512]);
            write(&mut verifier, &mut target, 4, 4);
            harm(&mut verifier, &mut target);
            let error = check(&mut verifier, &target).expect_err("damage");
            assert_eq!(error.offset_bytes, 4096 + 5 * 512, "the second unit");
            error.mismatch
        };
        assert_eq!(damage(|_, target| target[5 * 512..6 * 512].fill(0)), Mismatch::NoHeader);
        for byte in [8, 20, 24, 29, 32, 511] {
            let (mut verifier, mut target) = (Verifier::new(REGION, 2048, 7), vec![0; 16 * 512]);
            write(&mut verifier, &mut target, 5, 1);
            target[5 * 512 + byte] ^= 1;
            let error = check(&mut verifier, &target).expect_err("damage");
            assert!(matches!(error.mismatch, Mismatch::Checksum { .. }), "byte {byte}: {error}");
        }
        assert_eq!(
            damage(|_, target| target.copy_within(4 * 512..5 * 512, 5 * 512)),
            Mismatch::OtherOffset(6144)
        );
        let older = damage(|verifier, target| {
            let before = target.to_vec();
            write(verifier, target, 5, 2);
            target.copy_from_slice(&before);
        });
        assert_eq!(older, Mismatch::OtherWrite { found: 1, expected: 2 });
        let other = damage(|_, target| write(&mut Verifier::new(REGION, 512, 8), target, 5, 1));
        assert_eq!(other, Mismatch::OtherRun);
    }

    #[test]
    fn overlapping_writes_wait() {
        let mut verifier = Verifier::new(REGION, 2048, 1);
        let first = request(Kind::Write, 4, 4);
        let _stamp = verifier.start(first);
        for (unit, length, waits) in [(0, 4, false), (3, 2, true), (7, 1, true), (8, 4, false), (0, 16, true)]
        {
            assert_eq!(verifier.must_wait(request(Kind::Write, unit, length)), waits, "{unit}+{length}");
        }
        verifier.end(first);
        assert!(!verifier.must_wait(first));
    }
}
