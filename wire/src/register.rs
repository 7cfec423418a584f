//! Registers: small replicated values changed by CASPaxos (Rystsov, "CASPaxos: Replicated State Machines
//! without logs", 2018) on a majority of a group's bricks. Here: keys, the state one brick holds, and
//! the values of name and image registers. The epoch record has its own file, [`crate::record`].
//!
//! The ballot of a prepare or accept travels in the frame header's epoch fields.

use crate::cursor::{Body, BodyError, Put, Reader};
use crate::ids::{Epoch, ImageUuid, OperationUuid, SessionId};
use crate::limits::{
    GROUPS_MAX, IMAGE_NAME_BYTES_MAX, REGISTER_VALUE_BYTES_MAX, SHARD_SHIFT_MAX, SHARD_SHIFT_MIN,
};

/// Which register. Encoded as kind (u8: 1 name, 2 image, 3 epoch, 4 scrub), then the text or the 16 bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RegisterKey {
    /// Whose image a name is: [`NameValue`].
    Name(String),
    /// An image's attributes: [`ImageValue`].
    Image(ImageUuid),
    /// An image's replica state in this group: [`crate::record::EpochRecord`].
    Epoch(ImageUuid),
    /// When an image was scrubbed: [`ScrubValue`].
    Scrub(ImageUuid),
}

/// One kind of register, for paging through them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegisterKind {
    /// Names.
    Name,
    /// Image attributes.
    Image,
    /// Epoch records.
    Epoch,
    /// Scrubs.
    Scrub,
}

/// What one brick holds of a register.
///
/// ```text
///  0 u64 promised counter    8 u64 promised session
/// 16 u64 accepted counter   24 u64 accepted session
/// 32 u32 lease left, milliseconds (epoch registers)
/// 36 u16 length of value    38 value
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegisterState {
    /// Nothing below this ballot will be accepted.
    pub promised: Epoch,
    /// The ballot under which `value` was accepted; zero if nothing ever was.
    pub accepted: Epoch,
    /// How long the recorded holder's lease still runs on this brick's clock; zero for other registers.
    pub lease_left_ms: u32,
    /// The accepted value, empty if nothing ever was.
    pub value: Vec<u8>,
}

/// The body of `RegisterAccept` and `RegisterLearn`: the key, the state that `Learn` installs (an accept
/// leaves it zero but for the value; its ballot is in the header).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisterEntry {
    /// Which register.
    pub key: RegisterKey,
    /// Its state, or for an accept only its new value.
    pub state: RegisterState,
}

/// The body of a `RegisterList` request: entries of `kind` after `after`, as many as fit in a reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisterListRequest {
    /// Which kind.
    pub kind: RegisterKind,
    /// The last key of the page before; `None` starts.
    pub after: Option<RegisterKey>,
}

/// The reply's body: entries in key order; [`crate::Flags::MORE`] says that the list goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegisterPage {
    /// The entries.
    pub entries: Vec<RegisterEntry>,
}

/// A name's register: who owns it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameValue {
    /// The change that wrote this.
    pub operation: OperationUuid,
    /// The image; nil is a tombstone: the name is free, but was used.
    pub image: ImageUuid,
}

/// How far an image's life has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageState {
    /// Usable.
    Live,
    /// Being removed; anybody may finish that.
    Removing,
    /// Gone. The tombstone stays until every brick has it.
    Removed,
}

/// An image's attributes.
///
/// ```text
///  0 16B operation    16 16B image
/// 32 u8  state (1 live, 2 removing, 3 removed)   33 u8 log2 of the shard size
/// 34 u16 number of groups in the layout, then that many u16 group indexes
///  . u64 created, seconds since 1970
///  . text canonical name
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageValue {
    /// The change that wrote this.
    pub operation: OperationUuid,
    /// The image.
    pub image: ImageUuid,
    /// How far its life has come.
    pub state: ImageState,
    /// log2 of the shard size in bytes.
    pub shard_shift: u8,
    /// The groups its shards are spread over, in order.
    pub groups: Vec<u16>,
    /// Seconds since 1970.
    pub created_seconds: u64,
    /// The canonical name.
    pub name: String,
}

/// An image's scrubs: the pass that runs or ran last, and when one last ended. Times are seconds since 1970, by the
/// clock of whoever wrote them; they are for schedules only.
///
/// ```text
///  0 16B operation       16 u64 session of the agent at work
/// 24 u64 pass begun      32 u64 last sign of life     40 u64 a pass ended; zero if none ever did
/// 48 u32 next shard      52 u32 shards of the pass; equal when it has ended
/// 56 u64 blocks checked  64 u64 bad    72 u64 repaired    80 u64 beyond repair
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScrubValue {
    /// The change that wrote this.
    pub operation: OperationUuid,
    /// Who is at it.
    pub agent: SessionId,
    /// When the pass began.
    pub begun_seconds: u64,
    /// When the pass last got on.
    pub touched_seconds: u64,
    /// When a pass last ended; zero if none ever did.
    pub finished_seconds: u64,
    /// Shards below are done.
    pub next_shard: u32,
    /// Shards of the image when the pass began.
    pub shards: u32,
    /// Blocks read and compared in this pass, over all copies.
    pub checked_blocks: u64,
    /// Of those, bad.
    pub bad_blocks: u64,
    /// Of those, repaired.
    pub repaired_blocks: u64,
    /// And beyond repair.
    pub unrepairable_blocks: u64,
}

impl RegisterKey {
    /// Which kind it is.
    pub fn kind(&self) -> RegisterKind {
        match self {
            RegisterKey::Name(_) => RegisterKind::Name,
            RegisterKey::Image(_) => RegisterKind::Image,
            RegisterKey::Epoch(_) => RegisterKind::Epoch,
            RegisterKey::Scrub(_) => RegisterKind::Scrub,
        }
    }
}

impl RegisterKind {
    fn to_byte(self) -> u8 {
        match self {
            RegisterKind::Name => 1,
            RegisterKind::Image => 2,
            RegisterKind::Epoch => 3,
            RegisterKind::Scrub => 4,
        }
    }

    fn from_byte(byte: u8) -> Result<RegisterKind, BodyError> {
        match byte {
            1 => Ok(RegisterKind::Name),
            2 => Ok(RegisterKind::Image),
            3 => Ok(RegisterKind::Epoch),
            4 => Ok(RegisterKind::Scrub),
            other => Err(BodyError::OutOfRange { field: "register.kind", value: u64::from(other) }),
        }
    }
}

impl Body for RegisterKey {
    fn encode(&self, out: &mut Vec<u8>) {
        out.put_u8(self.kind().to_byte());
        match self {
            RegisterKey::Name(name) => {
                assert!(name.len() <= IMAGE_NAME_BYTES_MAX);
                out.put_text(name);
            }
            RegisterKey::Image(image) | RegisterKey::Epoch(image) | RegisterKey::Scrub(image) => {
                out.extend_from_slice(&image.to_bytes());
            }
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<RegisterKey, BodyError> {
        Ok(match RegisterKind::from_byte(reader.u8()?)? {
            RegisterKind::Name => RegisterKey::Name(reader.text("register.name", IMAGE_NAME_BYTES_MAX)?),
            RegisterKind::Image => RegisterKey::Image(ImageUuid::from_bytes(reader.array()?)),
            RegisterKind::Epoch => RegisterKey::Epoch(ImageUuid::from_bytes(reader.array()?)),
            RegisterKind::Scrub => RegisterKey::Scrub(ImageUuid::from_bytes(reader.array()?)),
        })
    }
}

impl Body for RegisterState {
    fn encode(&self, out: &mut Vec<u8>) {
        assert!(self.value.len() <= REGISTER_VALUE_BYTES_MAX);
        put_epoch(out, self.promised);
        put_epoch(out, self.accepted);
        out.put_u32(self.lease_left_ms);
        out.put_u16(self.value.len() as u16);
        out.extend_from_slice(&self.value);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<RegisterState, BodyError> {
        let promised = read_epoch(reader)?;
        let accepted = read_epoch(reader)?;
        let lease_left_ms = reader.u32()?;
        let length = reader.u16()?;
        if usize::from(length) > REGISTER_VALUE_BYTES_MAX {
            return Err(BodyError::OutOfRange { field: "register.value", value: u64::from(length) });
        }
        let value = reader.bytes(usize::from(length))?.to_vec();
        Ok(RegisterState { promised, accepted, lease_left_ms, value })
    }
}

impl Body for RegisterEntry {
    fn encode(&self, out: &mut Vec<u8>) {
        self.key.encode(out);
        self.state.encode(out);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<RegisterEntry, BodyError> {
        Ok(RegisterEntry { key: RegisterKey::decode(reader)?, state: RegisterState::decode(reader)? })
    }
}

impl Body for RegisterListRequest {
    fn encode(&self, out: &mut Vec<u8>) {
        out.put_u8(self.kind.to_byte());
        if let Some(after) = &self.after {
            assert_eq!(after.kind(), self.kind, "a list is of one kind");
            after.encode(out);
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<RegisterListRequest, BodyError> {
        let kind = RegisterKind::from_byte(reader.u8()?)?;
        let after = if reader.is_empty() { None } else { Some(RegisterKey::decode(reader)?) };
        if let Some(key) = after.as_ref().filter(|key| key.kind() != kind) {
            let value = u64::from(key.kind().to_byte());
            return Err(BodyError::OutOfRange { field: "list.after", value });
        }
        Ok(RegisterListRequest { kind, after })
    }
}

impl Body for RegisterPage {
    fn encode(&self, out: &mut Vec<u8>) {
        assert!(self.entries.is_sorted_by(|one, next| one.key < next.key), "pages ascend");
        for entry in &self.entries {
            entry.encode(out);
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<RegisterPage, BodyError> {
        let mut entries: Vec<RegisterEntry> = Vec::new();
        while !reader.is_empty() {
            let entry = RegisterEntry::decode(reader)?;
            if entries.last().is_some_and(|last| last.key >= entry.key) {
                return Err(BodyError::OutOfRange { field: "page.key", value: entries.len() as u64 });
            }
            entries.push(entry);
        }
        Ok(RegisterPage { entries })
    }
}

impl Body for NameValue {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.operation.to_bytes());
        out.extend_from_slice(&self.image.to_bytes());
    }

    fn decode(reader: &mut Reader<'_>) -> Result<NameValue, BodyError> {
        let operation = OperationUuid::from_bytes(reader.array()?);
        Ok(NameValue { operation, image: ImageUuid::from_bytes(reader.array()?) })
    }
}

impl Body for ImageValue {
    fn encode(&self, out: &mut Vec<u8>) {
        assert!((SHARD_SHIFT_MIN..=SHARD_SHIFT_MAX).contains(&self.shard_shift));
        assert!((1..=GROUPS_MAX).contains(&self.groups.len()));
        assert!(self.name.len() <= IMAGE_NAME_BYTES_MAX);
        out.extend_from_slice(&self.operation.to_bytes());
        out.extend_from_slice(&self.image.to_bytes());
        out.put_u8(match self.state {
            ImageState::Live => 1,
            ImageState::Removing => 2,
            ImageState::Removed => 3,
        });
        out.put_u8(self.shard_shift);
        out.put_u16(self.groups.len() as u16);
        for group in &self.groups {
            out.put_u16(*group);
        }
        out.put_u64(self.created_seconds);
        out.put_text(&self.name);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<ImageValue, BodyError> {
        let operation = OperationUuid::from_bytes(reader.array()?);
        let image = ImageUuid::from_bytes(reader.array()?);
        let state = match reader.u8()? {
            1 => ImageState::Live,
            2 => ImageState::Removing,
            3 => ImageState::Removed,
            other => {
                return Err(BodyError::OutOfRange { field: "image.state", value: u64::from(other) });
            }
        };
        let shard_shift = reader.u8()?;
        if !(SHARD_SHIFT_MIN..=SHARD_SHIFT_MAX).contains(&shard_shift) {
            let value = u64::from(shard_shift);
            return Err(BodyError::OutOfRange { field: "image.shard_shift", value });
        }
        let group_count = usize::from(reader.u16()?);
        if group_count == 0 || group_count > GROUPS_MAX {
            return Err(BodyError::OutOfRange { field: "image.groups", value: group_count as u64 });
        }
        let groups = (0..group_count).map(|_| reader.u16()).collect::<Result<_, _>>()?;
        let created_seconds = reader.u64()?;
        let name = reader.text("image.name", IMAGE_NAME_BYTES_MAX)?;
        Ok(ImageValue { operation, image, state, shard_shift, groups, created_seconds, name })
    }
}

impl Body for ScrubValue {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.operation.to_bytes());
        for number in [self.agent.0, self.begun_seconds, self.touched_seconds, self.finished_seconds] {
            out.put_u64(number);
        }
        out.put_u32(self.next_shard);
        out.put_u32(self.shards);
        for blocks in [self.checked_blocks, self.bad_blocks, self.repaired_blocks, self.unrepairable_blocks] {
            out.put_u64(blocks);
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<ScrubValue, BodyError> {
        let value = ScrubValue {
            operation: OperationUuid::from_bytes(reader.array()?),
            agent: SessionId(reader.u64()?),
            begun_seconds: reader.u64()?,
            touched_seconds: reader.u64()?,
            finished_seconds: reader.u64()?,
            next_shard: reader.u32()?,
            shards: reader.u32()?,
            checked_blocks: reader.u64()?,
            bad_blocks: reader.u64()?,
            repaired_blocks: reader.u64()?,
            unrepairable_blocks: reader.u64()?,
        };
        if value.next_shard > value.shards {
            let next_shard = u64::from(value.next_shard);
            return Err(BodyError::OutOfRange { field: "scrub.next_shard", value: next_shard });
        }
        Ok(value)
    }
}

/// Appends an epoch: counter, session.
pub fn put_epoch(out: &mut Vec<u8>, epoch: Epoch) {
    out.put_u64(epoch.counter);
    out.put_u64(epoch.session.0);
}

/// Reads an epoch back.
pub fn read_epoch(reader: &mut Reader<'_>) -> Result<Epoch, BodyError> {
    Ok(Epoch { counter: reader.u64()?, session: SessionId(reader.u64()?) })
}

#[cfg(test)]
mod tests;
