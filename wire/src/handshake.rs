//! Who calls whom: the aux bodies of the `Hello` request and its reply, the welcome.
//!
//! The first frame on a connection is a hello; a brick closes a connection that starts otherwise. A
//! refusal is a welcome with a status other than `Ok` and a sentence for the operator.

use crate::cursor::{Body, BodyError, Put, Reader};
use crate::floors::Floors;
use crate::ids::{
    BootUuid, BrickUuid, ConnectionGeneration, CoreIndex, Incarnation, Role, SessionId, StartCounter,
    VolumeUuid,
};
use crate::limits::{CLIENT_NAME_BYTES_MAX, CORES_MAX, LANES_MAX, REASON_BYTES_MAX};

/// What kind of peer calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerKind {
    /// Opens images.
    Client,
    /// A brick that pulls blocks.
    Brick,
    /// `brickctl volume create`: may talk to a brick that belongs to no volume yet.
    Operator,
}

/// The caller's first words.
///
/// ```text
///  0 u16 lowest protocol version spoken     2 u16 highest
///  4 u64 features wanted (none defined: 0)
/// 12 u8  peer kind (1 client, 2 brick, 3 operator)
/// 13 u8  reserved, 0
/// 14 u16 core wanted
/// 16 16B volume (nil: the caller doesn't know; operators only)
/// 32 16B brick expected (nil as above)
/// 48 u64 session                          56 u32 connection generation
/// 60 text caller's name, for messages
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Lowest and highest protocol version the caller speaks.
    pub versions: (u16, u16),
    /// Features the caller can't do without.
    pub features: u64,
    /// Who calls.
    pub kind: PeerKind,
    /// The core that should serve this connection, modulo the brick's cores.
    pub core: CoreIndex,
    /// The volume the caller believes to reach.
    pub volume: VolumeUuid,
    /// The brick the caller believes to reach.
    pub brick: BrickUuid,
    /// The session that all connections of one opener share.
    pub session: SessionId,
    /// Ends connections of the session with a lower generation.
    pub generation: ConnectionGeneration,
    /// For log lines and status, e.g. `brickctl nbd vm1 (pid 4711)`; sent clipped to its limit.
    pub name: String,
}

/// The brick's answer.
///
/// ```text
///  0 u16 protocol version chosen            2 u8 role (1 data, 2 arbiter)
///  3 u8  bit 0: blank (rule R2)
///  4 u64 features granted
/// 12 16B brick    28 16B volume (nil if not stamped)
/// 44 16B boot     60 u64 start counter
/// 68 u16 cores    70 u16 lanes              72 u16 core that serves this connection
/// 74 u16 reserved, 0
/// 76 u32 credits: data bytes the caller may have outstanding
/// 80 u32 lease, milliseconds
/// 84 text reason of a refusal
///  . floors that the brick knows, the rest
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// The protocol version both will speak.
    pub version: u16,
    /// What the brick keeps.
    pub role: Role,
    /// The brick lost its registers and may not vote.
    pub blank: bool,
    /// Features granted.
    pub features: u64,
    /// The brick.
    pub brick: BrickUuid,
    /// Its volume; nil before it is stamped.
    pub volume: VolumeUuid,
    /// This life of the brick.
    pub incarnation: Incarnation,
    /// Cores the brick runs on.
    pub cores: u16,
    /// Lanes the brick was formatted with.
    pub lanes: u16,
    /// The core that serves this connection.
    pub core: CoreIndex,
    /// Data bytes the caller may have outstanding on this connection.
    pub credit_bytes: u32,
    /// How long a holder that stops renewing keeps others out, milliseconds.
    pub lease_ms: u32,
    /// Empty, or why the brick refuses; sent clipped to its limit.
    pub reason: String,
    /// Retired lives of the group's members, as far as this brick knows (rule R2).
    pub floors: Floors,
}

impl Body for Hello {
    fn encode(&self, out: &mut Vec<u8>) {
        assert!(self.versions.0 <= self.versions.1, "the lowest version comes first");
        out.put_u16(self.versions.0);
        out.put_u16(self.versions.1);
        out.put_u64(self.features);
        out.put_u8(match self.kind {
            PeerKind::Client => 1,
            PeerKind::Brick => 2,
            PeerKind::Operator => 3,
        });
        out.put_u8(0);
        out.put_u16(self.core.0);
        out.extend_from_slice(&self.volume.to_bytes());
        out.extend_from_slice(&self.brick.to_bytes());
        out.put_u64(self.session.0);
        out.put_u32(self.generation.0);
        out.put_text(clipped(&self.name, CLIENT_NAME_BYTES_MAX));
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Hello, BodyError> {
        let versions = (reader.u16()?, reader.u16()?);
        if versions.0 > versions.1 {
            return Err(BodyError::OutOfRange { field: "hello.versions", value: u64::from(versions.0) });
        }
        let features = reader.u64()?;
        let kind = match reader.u8()? {
            1 => PeerKind::Client,
            2 => PeerKind::Brick,
            3 => PeerKind::Operator,
            other => {
                return Err(BodyError::OutOfRange { field: "hello.kind", value: u64::from(other) });
            }
        };
        let _reserved = reader.u8()?;
        Ok(Hello {
            versions,
            features,
            kind,
            core: CoreIndex(reader.u16()?),
            volume: VolumeUuid::from_bytes(reader.array()?),
            brick: BrickUuid::from_bytes(reader.array()?),
            session: SessionId(reader.u64()?),
            generation: ConnectionGeneration(reader.u32()?),
            name: reader.text("hello.name", CLIENT_NAME_BYTES_MAX)?,
        })
    }
}

impl Body for Welcome {
    fn encode(&self, out: &mut Vec<u8>) {
        assert!(self.core.0 < self.cores, "the serving core is one of the brick's");
        out.put_u16(self.version);
        out.put_u8(self.role.to_byte());
        out.put_u8(u8::from(self.blank));
        out.put_u64(self.features);
        out.extend_from_slice(&self.brick.to_bytes());
        out.extend_from_slice(&self.volume.to_bytes());
        out.extend_from_slice(&self.incarnation.boot.to_bytes());
        out.put_u64(self.incarnation.start.0);
        out.put_u16(self.cores);
        out.put_u16(self.lanes);
        out.put_u16(self.core.0);
        out.put_u16(0);
        out.put_u32(self.credit_bytes);
        out.put_u32(self.lease_ms);
        out.put_text(clipped(&self.reason, REASON_BYTES_MAX));
        self.floors.encode(out);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Welcome, BodyError> {
        let version = reader.u16()?;
        let role = reader.u8()?;
        let role = Role::from_byte(role)
            .ok_or(BodyError::OutOfRange { field: "welcome.role", value: u64::from(role) })?;
        let blank = reader.u8()? & 1 == 1;
        let features = reader.u64()?;
        let brick = BrickUuid::from_bytes(reader.array()?);
        let volume = VolumeUuid::from_bytes(reader.array()?);
        let boot = BootUuid::from_bytes(reader.array()?);
        let incarnation = Incarnation { boot, start: StartCounter(reader.u64()?) };
        let cores = in_range("welcome.cores", reader.u16()?, CORES_MAX)?;
        let lanes = in_range("welcome.lanes", reader.u16()?, LANES_MAX)?;
        let core = CoreIndex(reader.u16()?);
        if core.0 >= cores {
            return Err(BodyError::OutOfRange { field: "welcome.core", value: u64::from(core.0) });
        }
        let _reserved = reader.u16()?;
        Ok(Welcome {
            version,
            role,
            blank,
            features,
            brick,
            volume,
            incarnation,
            cores,
            lanes,
            core,
            credit_bytes: reader.u32()?,
            lease_ms: reader.u32()?,
            reason: reader.text("welcome.reason", REASON_BYTES_MAX)?,
            floors: Floors::decode(reader)?,
        })
    }
}

fn in_range(field: &'static str, value: u16, max: u16) -> Result<u16, BodyError> {
    if (1..=max).contains(&value) {
        Ok(value)
    } else {
        Err(BodyError::OutOfRange { field, value: u64::from(value) })
    }
}

/// The longest front part of `text` of at most `bytes_max` bytes. These texts are for people, and some are
/// made of file names and arguments: a long one must not fail the handshake.
fn clipped(text: &str, bytes_max: usize) -> &str {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests;
