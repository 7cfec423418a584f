//! The superblock: who the brick is, how often it was started, whether it was stopped cleanly.
//!
//! Two copies of 4 KiB in one file. Copy `sequence % 2` is written, durably, with each change, so a torn
//! write leaves the other copy, which is one change older. What that older copy may be wrong about, and
//! what is done about it:
//! - *identity* (who it is, membership, blankness, the other members' floors): both copies are written for each change of it, so no acknowledged
//!   change is lost with one copy;
//! - *start counter*: with a damaged copy the next start skips one number, so that no incarnation (rule
//!   I12) is ever used twice, whether the damage was a torn write or rot;
//! - *clean flag*: with a damaged copy the stop counts as unclean.

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use brick_wire::checksum::crc32c;
use brick_wire::limits::{GROUP_BRICKS_MAX, LANES_MAX};
use brick_wire::{BrickUuid, Floors, Role, StartCounter, VolumeUuid};
use tracing::warn;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::error::StoreError;
use crate::engine::Membership;

/// In the brick's directory.
pub const FILE_NAME: &str = "superblock";
/// The format of the whole directory, written by this code.
pub const FORMAT_VERSION: u32 = 3;
/// First bytes of each copy.
pub const MAGIC: [u8; 8] = *b"BRICKDIR";
/// Size of one copy.
pub const COPY_BYTES: usize = 4096;

/// Who a brick is. Role, lanes and creation never change; the uuid only when it takes another brick's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Drawn at format time, or that of the brick whose place it took.
    pub brick: BrickUuid,
    /// What the brick keeps.
    pub role: Role,
    /// Lanes the shards are spread over.
    pub lanes: u16,
    /// Seconds since 1970.
    pub created_seconds: u64,
    /// `None` before the brick is stamped.
    pub membership: Option<Membership>,
    /// Whether the brick lost its registers (rule R2).
    pub blank: bool,
    /// Retired lives of the other members (rule R2).
    pub floors: Floors,
}

/// Everything in a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// Counts the writes; decides which copy is newer, and where the next one goes.
    pub sequence: u64,
    /// Starts so far.
    pub start: StartCounter,
    /// Whether the last stop was clean.
    pub clean: bool,
    /// Who the brick is.
    pub identity: Identity,
}

/// Why 4 KiB are not a superblock.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SuperblockError {
    /// Not ours, or never written.
    #[error("bad magic")]
    Magic,
    /// Bits changed.
    #[error("bad checksum")]
    Checksum,
    /// Another layout.
    #[error("format version {0}")]
    Version(u32),
    /// A field holds a value that has no meaning, under a valid checksum: a bug, or a forgery.
    #[error("field {0} is out of range")]
    Field(&'static str),
}

/// A copy as it stands on disk, little-endian. Magic, version and checksum keep their places in every later
/// format, so that an older program can tell "newer" from "damaged".
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawSuperblock {
    /// 0: [`MAGIC`].
    magic: [u8; 8],
    /// 8: [`FORMAT_VERSION`].
    version: U32,
    /// 12: bit 0 blank, bit 1 clean, bit 2 stamped (membership is meaningful).
    flags: U32,
    /// 16: counts the writes of superblocks.
    sequence: U64,
    /// 24: counts the starts.
    start: U64,
    /// 32: the brick.
    brick: [u8; 16],
    /// 48: the volume; nil before the stamp.
    volume: [u8; 16],
    /// 64: 1 data, 2 arbiter.
    role: u8,
    /// 65: number of members.
    member_count: u8,
    /// 66: lanes.
    lanes: U16,
    /// 68: group, by its position in the volume file.
    group: U16,
    /// 70: zero.
    reserved: [u8; 2],
    /// 72: seconds since 1970.
    created_seconds: U64,
    /// 80: members in the order of the volume file, then nil.
    members: [[u8; 16]; GROUP_BRICKS_MAX],
    /// 208: the members' floors, in the same order; 0: none.
    floors: [U64; GROUP_BRICKS_MAX],
    /// 272: zero.
    padding: [u8; 3820],
    /// 4092: CRC32C of bytes 0..4092.
    crc: U32,
}

const _: () = assert!(size_of::<RawSuperblock>() == COPY_BYTES);
const CRC_OFFSET: usize = COPY_BYTES - 4;

const FLAG_BLANK: u32 = 1;
const FLAG_CLEAN: u32 = 1 << 1;
const FLAG_STAMPED: u32 = 1 << 2;

impl Superblock {
    /// The 4 KiB.
    pub fn to_bytes(&self) -> [u8; COPY_BYTES] {
        let identity = &self.identity;
        let mut raw = RawSuperblock::new_zeroed();
        raw.magic = MAGIC;
        raw.version = U32::new(FORMAT_VERSION);
        let mut flags = 0;
        if identity.blank {
            flags |= FLAG_BLANK;
        }
        if self.clean {
            flags |= FLAG_CLEAN;
        }
        raw.sequence = U64::new(self.sequence);
        raw.start = U64::new(self.start.0);
        raw.brick = identity.brick.to_bytes();
        raw.role = identity.role.to_byte();
        raw.lanes = U16::new(identity.lanes);
        raw.created_seconds = U64::new(identity.created_seconds);
        if let Some(membership) = &identity.membership {
            assert!(membership.members.len() <= GROUP_BRICKS_MAX, "a stamp's members were counted");
            flags |= FLAG_STAMPED;
            raw.volume = membership.volume.to_bytes();
            raw.group = U16::new(membership.group);
            raw.member_count = membership.members.len() as u8;
            for (place, member) in raw.members.iter_mut().zip(&membership.members) {
                *place = member.to_bytes();
            }
            for (place, member) in raw.floors.iter_mut().zip(&membership.members) {
                *place = U64::new(identity.floors.of(*member).0);
            }
        }
        raw.flags = U32::new(flags);
        raw.crc = U32::new(crc32c(&raw.as_bytes()[..CRC_OFFSET]));
        let mut bytes = [0; COPY_BYTES];
        bytes.copy_from_slice(raw.as_bytes());
        bytes
    }

    /// Reads and checks a copy.
    pub fn parse(bytes: &[u8; COPY_BYTES]) -> Result<Superblock, SuperblockError> {
        let raw = RawSuperblock::ref_from_bytes(bytes).expect("4 KiB of unaligned bytes always fit");
        if raw.magic != MAGIC {
            return Err(SuperblockError::Magic);
        }
        if raw.crc.get() != crc32c(&bytes[..CRC_OFFSET]) {
            return Err(SuperblockError::Checksum);
        }
        if raw.version.get() != FORMAT_VERSION {
            return Err(SuperblockError::Version(raw.version.get()));
        }
        let flags = raw.flags.get();
        if flags & !(FLAG_BLANK | FLAG_CLEAN | FLAG_STAMPED) != 0 {
            return Err(SuperblockError::Field("flags"));
        }
        if !(1..=LANES_MAX).contains(&raw.lanes.get()) {
            return Err(SuperblockError::Field("lanes"));
        }
        let membership = (flags & FLAG_STAMPED != 0).then(|| raw.membership()).transpose()?;
        let identity = Identity {
            brick: BrickUuid::from_bytes(raw.brick),
            role: Role::from_byte(raw.role).ok_or(SuperblockError::Field("role"))?,
            lanes: raw.lanes.get(),
            created_seconds: raw.created_seconds.get(),
            floors: raw.floors(membership.as_ref())?,
            membership,
            blank: flags & FLAG_BLANK != 0,
        };
        Ok(Superblock {
            sequence: raw.sequence.get(),
            start: StartCounter(raw.start.get()),
            clean: flags & FLAG_CLEAN != 0,
            identity,
        })
    }
}

impl RawSuperblock {
    fn membership(&self) -> Result<Membership, SuperblockError> {
        let count = usize::from(self.member_count);
        if count == 0 || count > GROUP_BRICKS_MAX {
            return Err(SuperblockError::Field("member_count"));
        }
        Ok(Membership {
            volume: VolumeUuid::from_bytes(self.volume),
            group: self.group.get(),
            members: self.members[..count].iter().map(|bytes| BrickUuid::from_bytes(*bytes)).collect(),
        })
    }

    fn floors(&self, membership: Option<&Membership>) -> Result<Floors, SuperblockError> {
        let members = membership.map_or(&[][..], |membership| &membership.members);
        let (own, beyond) = self.floors.split_at(members.len());
        if beyond.iter().any(|floor| floor.get() != 0) {
            return Err(SuperblockError::Field("floors"));
        }
        let mut floors = Floors::default();
        for (member, floor) in members.iter().zip(own) {
            floors.raise(*member, StartCounter(floor.get()));
        }
        Ok(floors)
    }
}

/// The superblock file, open for writing.
#[derive(Debug)]
pub struct SuperblockFile {
    file: File,
    directory: PathBuf,
    current: Superblock,
    /// One copy failed its checks when the file was opened.
    damaged: bool,
}

impl SuperblockFile {
    /// Content of a fresh file: both copies, the second being the newer.
    pub(super) fn fresh(identity: Identity) -> Vec<u8> {
        let mut superblock = Superblock { sequence: 0, start: StartCounter(0), clean: true, identity };
        let mut content = superblock.to_bytes().to_vec();
        superblock.sequence = 1;
        content.extend_from_slice(&superblock.to_bytes());
        content
    }

    /// Opens the file and picks the newer good copy.
    pub(super) fn open(directory: &Path) -> Result<SuperblockFile, StoreError> {
        let path = directory.join(FILE_NAME);
        let opened = File::options().read(true).write(true).custom_flags(libc::O_DSYNC).open(&path);
        let file = match opened {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(StoreError::NotFormatted { path: directory.to_owned() });
            }
            Err(source) => return Err(StoreError::io("open", path)(source)),
        };
        let copies = [read_copy(&file, &path, 0)?, read_copy(&file, &path, 1)?];
        let (current, damaged) = pick(copies, directory)?;
        Ok(SuperblockFile { file, directory: directory.to_owned(), current, damaged })
    }

    /// As last written or read.
    pub fn current(&self) -> &Superblock {
        &self.current
    }

    /// Whether the last stop was surely clean.
    pub fn is_clean(&self) -> bool {
        self.current.clean && !self.damaged
    }

    /// Counts a start and clears the clean flag; durable when done.
    pub(super) fn write_start(&mut self) -> Result<StartCounter, StoreError> {
        let skipped = u64::from(self.damaged);
        let start = StartCounter(self.current.start.0 + 1 + skipped);
        self.write(Superblock { start, clean: false, ..self.current.clone() })?;
        self.damaged = false;
        Ok(start)
    }

    /// Changes membership, blankness and floors in both copies; durable when done.
    pub(super) fn write_identity(
        &mut self,
        membership: Option<Membership>,
        blank: bool,
        floors: Floors,
    ) -> Result<(), StoreError> {
        let identity = Identity { membership, blank, floors, ..self.current.identity.clone() };
        self.write(Superblock { identity, ..self.current.clone() })?;
        self.write(self.current.clone())
    }

    /// Makes the brick another one, blank, that goes on from `start`; in both copies, durable when done.
    pub(super) fn write_adoption(
        &mut self,
        brick: BrickUuid,
        membership: Membership,
        start: StartCounter,
    ) -> Result<(), StoreError> {
        let (membership, floors) = (Some(membership), Floors::default());
        let identity = Identity { brick, membership, blank: true, floors, ..self.current.identity.clone() };
        self.write(Superblock { identity, start, ..self.current.clone() })?;
        self.write(self.current.clone())
    }

    /// Notes a clean stop; durable when done.
    pub fn write_clean(&mut self) -> Result<(), StoreError> {
        self.write(Superblock { clean: true, ..self.current.clone() })
    }

    fn write(&mut self, mut next: Superblock) -> Result<(), StoreError> {
        next.sequence = self.current.sequence + 1;
        let offset = (next.sequence % 2) * COPY_BYTES as u64;
        let path = self.directory.join(FILE_NAME);
        self.file.write_all_at(&next.to_bytes(), offset).map_err(StoreError::io("write", &path))?;
        self.file.sync_data().map_err(StoreError::io("sync", &path))?;
        self.current = next;
        Ok(())
    }
}

fn read_copy(file: &File, path: &Path, copy: u64) -> Result<Result<Superblock, SuperblockError>, StoreError> {
    let mut bytes = [0; COPY_BYTES];
    match file.read_exact_at(&mut bytes, copy * COPY_BYTES as u64) {
        Ok(()) => Ok(Superblock::parse(&bytes)),
        // A shorter file is like one whose missing part is zero: not a superblock there.
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(Err(SuperblockError::Magic)),
        Err(source) => Err(StoreError::io("read", path)(source)),
    }
}

/// The newer good copy, and whether the other one is damaged.
fn pick(
    copies: [Result<Superblock, SuperblockError>; 2],
    directory: &Path,
) -> Result<(Superblock, bool), StoreError> {
    let path = directory.to_owned();
    match copies {
        // Another program wrote one of them: the other one says nothing about the present any more.
        [Err(SuperblockError::Version(found)), _] | [_, Err(SuperblockError::Version(found))] => {
            Err(if found > FORMAT_VERSION {
                StoreError::NewerFormat { path, found, known: FORMAT_VERSION }
            } else {
                StoreError::OlderFormat { path, found, known: FORMAT_VERSION }
            })
        }
        [Ok(first), Ok(second)] => Ok((if first.sequence > second.sequence { first } else { second }, false)),
        [Ok(good), Err(error)] | [Err(error), Ok(good)] => {
            warn!("one superblock copy of {} is damaged ({error}); the other one is used", path.display());
            Ok((good, true))
        }
        [Err(SuperblockError::Magic), Err(SuperblockError::Magic)] => Err(StoreError::NotABrick { path }),
        [Err(SuperblockError::Magic), Err(error)] | [Err(error), Err(_)] => {
            Err(StoreError::SuperblockDamaged { path, why: error.to_string() })
        }
    }
}

#[cfg(test)]
mod tests;
