//! The epoch record: who may write an image in one group, and which copies are good.
//!
//! It is the value of the register [`RegisterKey::Epoch`](crate::register::RegisterKey). The ballot under
//! which it was accepted *is* the epoch of the data requests sent under it (rule I1), which is why a
//! promise fences and why no ballot is ever used for two records.

use crate::cursor::{Body, BodyError, Put, Reader};
use crate::ids::{
    BootUuid, BrickIndex, BrickSet, BrickUuid, Epoch, Incarnation, OperationUuid, SessionId, StartCounter,
};
use crate::limits::{BLOCK_SIZE, GROUP_BRICKS_MAX};
use crate::register::{put_epoch, read_epoch};

/// The layout written by this code.
pub const RECORD_VERSION: u8 = 1;

/// What the holder is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecordKind {
    /// A client reads and writes.
    Client,
    /// A heal agent copies; an opening client preempts it.
    Heal,
    /// A new holder converges what its predecessor left; whoever finds this starts over from it.
    Recovering,
    /// Nobody writes and the copies in S are equal.
    Closed,
    /// As `Recovering`, by a heal agent: a client that opens preempts it as it preempts `Heal`. A kind of its own, or
    /// an agent that recovers what a dead client left would keep the next client out.
    HealRecovering,
}

impl RecordKind {
    /// Whether copies in S may differ because a recovery has begun: it has to be done again.
    pub fn is_recovering(self) -> bool {
        matches!(self, RecordKind::Recovering | RecordKind::HealRecovering)
    }

    /// Whether the holder only heals, so that its lease keeps out nobody but others who only heal.
    pub fn is_preemptible(self) -> bool {
        matches!(self, RecordKind::Heal | RecordKind::HealRecovering)
    }
}

/// A brick of the group, and the life of it that the holder last saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Member {
    /// Which brick.
    pub brick: BrickUuid,
    /// Zero until somebody has seen the brick. A brick that shows a lower start counter lost its
    /// registers (rule R2).
    pub incarnation: Incarnation,
}

/// `{epoch, holder, kind, S, incarnations, size}` of one image in one group.
///
/// ```text
///  0 u8  layout version (1)
///  1 u8  kind (1 client, 2 heal, 3 recovering, 4 closed, 5 recovering by a heal agent)
///  2 u8  number of members
///  3 u8  in-sync set: bit i is member i
///  4 u32 version of the group's membership
///  8 u64 epoch counter    16 u64 epoch session
/// 24 u64 holder session (0: nobody)
/// 32 u64 size of the image, bytes: whole blocks, at least one
/// 40 16B operation that wrote the record
/// 56 per member: 16B brick, 16B boot, u64 start counter
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EpochRecord {
    /// The ballot this record was proposed under: the epoch of its data requests.
    pub epoch: Epoch,
    /// Who may send data requests.
    pub holder: SessionId,
    /// What for.
    pub kind: RecordKind,
    /// The data bricks whose copy is good. Never empty.
    pub in_sync: BrickSet,
    /// Version of the group's membership.
    pub membership_version: u32,
    /// The group's bricks, in the order of the volume file.
    pub members: Vec<Member>,
    /// The image's one authoritative size (rule I14).
    pub size_bytes: u64,
    /// The change that wrote this (rule R3).
    pub operation: OperationUuid,
}

impl EpochRecord {
    /// The position of `brick` in the group, if it is a member.
    pub fn index_of(&self, brick: BrickUuid) -> Option<BrickIndex> {
        let index = self.members.iter().position(|member| member.brick == brick)?;
        Some(BrickIndex(index as u8))
    }

    /// Whether `brick`'s copy is good.
    pub fn is_in_sync(&self, brick: BrickUuid) -> bool {
        self.index_of(brick).is_some_and(|index| self.in_sync.contains(index))
    }
}

impl Body for EpochRecord {
    fn encode(&self, out: &mut Vec<u8>) {
        assert!(!self.in_sync.is_empty(), "S is never empty");
        assert!(self.members.len() <= GROUP_BRICKS_MAX);
        assert!(usize::from(self.in_sync.0) < 1 << self.members.len(), "S is a subset of the members");
        assert!(self.size_bytes > 0 && self.size_bytes.is_multiple_of(BLOCK_SIZE as u64), "whole blocks");
        out.put_u8(RECORD_VERSION);
        out.put_u8(match self.kind {
            RecordKind::Client => 1,
            RecordKind::Heal => 2,
            RecordKind::Recovering => 3,
            RecordKind::Closed => 4,
            RecordKind::HealRecovering => 5,
        });
        out.put_u8(self.members.len() as u8);
        out.put_u8(self.in_sync.0);
        out.put_u32(self.membership_version);
        put_epoch(out, self.epoch);
        out.put_u64(self.holder.0);
        out.put_u64(self.size_bytes);
        out.extend_from_slice(&self.operation.to_bytes());
        for member in &self.members {
            out.extend_from_slice(&member.brick.to_bytes());
            out.extend_from_slice(&member.incarnation.boot.to_bytes());
            out.put_u64(member.incarnation.start.0);
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<EpochRecord, BodyError> {
        let version = reader.u8()?;
        if version != RECORD_VERSION {
            return Err(BodyError::OutOfRange { field: "record.version", value: u64::from(version) });
        }
        let kind = match reader.u8()? {
            1 => RecordKind::Client,
            2 => RecordKind::Heal,
            3 => RecordKind::Recovering,
            4 => RecordKind::Closed,
            5 => RecordKind::HealRecovering,
            other => {
                return Err(BodyError::OutOfRange { field: "record.kind", value: u64::from(other) });
            }
        };
        let member_count = usize::from(reader.u8()?);
        let in_sync = BrickSet(reader.u8()?);
        if member_count == 0 || member_count > GROUP_BRICKS_MAX {
            return Err(BodyError::OutOfRange { field: "record.members", value: member_count as u64 });
        }
        if in_sync.is_empty() || usize::from(in_sync.0) >= 1 << member_count {
            return Err(BodyError::OutOfRange { field: "record.in_sync", value: u64::from(in_sync.0) });
        }
        let membership_version = reader.u32()?;
        let epoch = read_epoch(reader)?;
        let holder = SessionId(reader.u64()?);
        let size_bytes = reader.u64()?;
        if size_bytes == 0 || !size_bytes.is_multiple_of(BLOCK_SIZE as u64) {
            return Err(BodyError::OutOfRange { field: "record.size_bytes", value: size_bytes });
        }
        let operation = OperationUuid::from_bytes(reader.array()?);
        let mut members = Vec::with_capacity(member_count);
        for _ in 0..member_count {
            let brick = BrickUuid::from_bytes(reader.array()?);
            let boot = BootUuid::from_bytes(reader.array()?);
            let incarnation = Incarnation { boot, start: StartCounter(reader.u64()?) };
            members.push(Member { brick, incarnation });
        }
        Ok(EpochRecord { epoch, holder, kind, in_sync, membership_version, members, size_bytes, operation })
    }
}

#[cfg(test)]
mod tests;
