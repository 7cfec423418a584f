//! A newtype for every identity in the system, so that a shard index can't be passed for a lane.

use std::fmt;

use crate::limits::GROUP_BRICKS_MAX;

macro_rules! uuid_newtype {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub uuid::Uuid);

        impl $name {
            /// The absent id: all zero.
            pub const NIL: $name = $name(uuid::Uuid::nil());

            /// The 16 bytes as they stand on the wire and on disk (RFC 9562 order).
            pub fn to_bytes(self) -> [u8; 16] {
                *self.0.as_bytes()
            }

            /// Reads the 16 bytes back.
            pub fn from_bytes(bytes: [u8; 16]) -> $name {
                $name(uuid::Uuid::from_bytes(bytes))
            }

            /// Whether this is the absent id.
            pub fn is_nil(self) -> bool {
                self.0.is_nil()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }
    };
}

uuid_newtype!(
    /// A brick, drawn at format time; a re-formatted directory is another brick.
    BrickUuid
);
uuid_newtype!(
    /// A volume, drawn by `brickctl volume create`.
    VolumeUuid
);
uuid_newtype!(
    /// An image, drawn by `brickctl image create`.
    ImageUuid
);
uuid_newtype!(
    /// One change of a register; a retried change carries the same id and is done once (rule R3).
    OperationUuid
);
uuid_newtype!(
    /// One boot of a host's kernel (`/proc/sys/kernel/random/boot_id`).
    BootUuid
);

/// One opening of an image by one client process. Drawn at random, never zero for a real session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SessionId(pub u64);

impl SessionId {
    /// Nobody's session.
    pub const NONE: SessionId = SessionId(0);
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// How often a session has connected to a brick: an admitted higher generation ends the lower ones, so
/// that a request of a broken connection can't be applied after its repetition on the next (rule I1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ConnectionGeneration(pub u32);

/// The version of an image's replica state, and the ballot that decided it: compared whole, so that two
/// sessions never own the same one (rule R1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Epoch {
    /// Grows with every attempt to change the record.
    pub counter: u64,
    /// Whose attempt.
    pub session: SessionId,
}

impl Epoch {
    /// Below every real epoch.
    pub const ZERO: Epoch = Epoch { counter: 0, session: SessionId::NONE };
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.counter, self.session)
    }
}

/// Counts the starts of a brick; durable before the brick serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct StartCounter(pub u64);

/// One life of a brick process (rule I12): another start on the same boot has the disk as it was but lost
/// its memory; another boot lost completed unflushed writes as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Incarnation {
    /// The host's boot.
    pub boot: BootUuid,
    /// The brick's start.
    pub start: StartCounter,
}

/// Index of a shard within its image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ShardIndex(pub u32);

impl fmt::Display for ShardIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A short name for an image on one connection, chosen by the client when it attaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ImageHandle(pub u32);

/// Matches a completion to its request on one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct RequestId(pub u64);

/// A flush generation: writes carry the current one, `CLEAN(g)` covers those up to `g` (rule I6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Generation(pub u32);

/// A partition of the shards inside a brick, fixed at format time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct LaneIndex(pub u16);

/// A core of a brick.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct CoreIndex(pub u16);

/// A replica group of a volume, by its position in the volume file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct GroupIndex(pub u16);

/// A brick of a replica group, by its position in the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct BrickIndex(pub u8);

/// What a brick keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Shard data, registers and dirty maps.
    Data,
    /// Registers and dirty maps only.
    Arbiter,
}

impl Role {
    /// The byte on the wire and on disk: 1 data, 2 arbiter.
    pub fn to_byte(self) -> u8 {
        match self {
            Role::Data => 1,
            Role::Arbiter => 2,
        }
    }

    /// Reads the byte back; `None` for any other value.
    pub fn from_byte(byte: u8) -> Option<Role> {
        match byte {
            1 => Some(Role::Data),
            2 => Some(Role::Arbiter),
            _ => None,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Data => "data",
            Role::Arbiter => "arbiter",
        })
    }
}

/// A set of bricks of one group.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct BrickSet(pub u8);

impl BrickSet {
    /// No brick.
    pub const EMPTY: BrickSet = BrickSet(0);

    /// The set of one brick.
    pub fn only(brick: BrickIndex) -> BrickSet {
        BrickSet::EMPTY.with(brick)
    }

    /// Whether `brick` is a member.
    pub fn contains(self, brick: BrickIndex) -> bool {
        self.0 & bit(brick) != 0
    }

    /// This set and `brick`.
    #[must_use]
    pub fn with(self, brick: BrickIndex) -> BrickSet {
        BrickSet(self.0 | bit(brick))
    }

    /// This set but not `brick`.
    #[must_use]
    pub fn without(self, brick: BrickIndex) -> BrickSet {
        BrickSet(self.0 & !bit(brick))
    }

    /// Adds `brick`.
    pub fn insert(&mut self, brick: BrickIndex) {
        self.0 |= bit(brick);
    }

    /// Takes `brick` out.
    pub fn remove(&mut self, brick: BrickIndex) {
        self.0 &= !bit(brick);
    }

    /// Members of either.
    #[must_use]
    pub fn union(self, other: BrickSet) -> BrickSet {
        BrickSet(self.0 | other.0)
    }

    /// Members of both.
    #[must_use]
    pub fn intersection(self, other: BrickSet) -> BrickSet {
        BrickSet(self.0 & other.0)
    }

    /// Members of this one that aren't in `other`.
    #[must_use]
    pub fn difference(self, other: BrickSet) -> BrickSet {
        BrickSet(self.0 & !other.0)
    }

    /// Whether every member is in `other`.
    pub fn is_subset_of(self, other: BrickSet) -> bool {
        self.0 & !other.0 == 0
    }

    /// Whether there is no member.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Number of members.
    pub fn count(self) -> usize {
        self.0.count_ones() as usize
    }

    /// The members in ascending order.
    pub fn iter(self) -> impl Iterator<Item = BrickIndex> {
        (0..GROUP_BRICKS_MAX as u8).map(BrickIndex).filter(move |brick| self.contains(*brick))
    }

    /// The member with the lowest index.
    pub fn first(self) -> Option<BrickIndex> {
        self.iter().next()
    }
}

impl FromIterator<BrickIndex> for BrickSet {
    fn from_iter<I: IntoIterator<Item = BrickIndex>>(bricks: I) -> BrickSet {
        bricks.into_iter().fold(BrickSet::EMPTY, BrickSet::with)
    }
}

impl fmt::Debug for BrickSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(|brick| brick.0)).finish()
    }
}

fn bit(brick: BrickIndex) -> u8 {
    assert!((brick.0 as usize) < GROUP_BRICKS_MAX, "brick index {} is beyond a group", brick.0);
    1 << brick.0
}

#[cfg(test)]
mod tests;
