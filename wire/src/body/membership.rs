//! Who is in a group: the bodies by which an operator makes a formatted brick a member, puts it in the place of one
//! that is lost, and tells the others that the lost one's lives don't count any more.

use crate::cursor::{Body, BodyError, Put, Reader};
use crate::ids::{BrickUuid, Role, StartCounter, VolumeUuid};
use crate::limits::{GROUP_BRICKS_MAX, GROUPS_MAX};

/// `Stamp`: the freshly formatted brick becomes a member of a volume. The same stamp again is a no-op.
///
/// `0 16B volume; 16 u16 group; 18 u8 role; 19 u8 members n; 20 n × 16B brick`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The volume.
    pub volume: VolumeUuid,
    /// The group, by its position in the volume file.
    pub group: u16,
    /// The role the operator means this brick to have.
    pub role: Role,
    /// All bricks of the group.
    pub members: Vec<BrickUuid>,
}

/// `Adopt`: the freshly formatted brick takes the place of a member whose disk is lost: under the member's uuid, with
/// a start counter above any that the lost disk can count, and blank (rule R2). The same again is a no-op.
///
/// `0 16B brick to become; 16 u64 start counter, not 0; 24 stamp`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adopt {
    /// Whose place it takes.
    pub brick: BrickUuid,
    /// The start counter it goes on from.
    pub start: StartCounter,
    /// The membership, as the lost brick had it.
    pub stamp: Stamp,
}

/// `Retire`: lives of a member with a start counter below `floor` don't count any more (rule R2). Lower than what the
/// brick knows already is a no-op.
///
/// `0 16B brick; 16 u64 floor, not 0`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retire {
    /// Whose lives.
    pub brick: BrickUuid,
    /// The lowest start counter that still counts.
    pub floor: StartCounter,
}

impl Body for Stamp {
    fn encode(&self, out: &mut Vec<u8>) {
        assert!((1..=GROUP_BRICKS_MAX).contains(&self.members.len()));
        assert!(usize::from(self.group) < GROUPS_MAX);
        out.extend_from_slice(&self.volume.to_bytes());
        out.put_u16(self.group);
        out.put_u8(self.role.to_byte());
        out.put_u8(self.members.len() as u8);
        for member in &self.members {
            out.extend_from_slice(&member.to_bytes());
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Stamp, BodyError> {
        let volume = VolumeUuid::from_bytes(reader.array()?);
        let group = reader.u16()?;
        if usize::from(group) >= GROUPS_MAX {
            return Err(BodyError::OutOfRange { field: "stamp.group", value: u64::from(group) });
        }
        let role = reader.u8()?;
        let role = Role::from_byte(role)
            .ok_or(BodyError::OutOfRange { field: "stamp.role", value: u64::from(role) })?;
        let count = usize::from(reader.u8()?);
        if count == 0 || count > GROUP_BRICKS_MAX {
            return Err(BodyError::OutOfRange { field: "stamp.members", value: count as u64 });
        }
        let mut members = Vec::with_capacity(count);
        for index in 0..count {
            let member = BrickUuid::from_bytes(reader.array()?);
            // A brick that the operator listed twice would count twice in every majority.
            if members.contains(&member) {
                return Err(BodyError::OutOfRange { field: "stamp.members", value: index as u64 });
            }
            members.push(member);
        }
        Ok(Stamp { volume, group, role, members })
    }
}

impl Body for Adopt {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.brick.to_bytes());
        out.put_u64(self.start.0);
        self.stamp.encode(out);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Adopt, BodyError> {
        let brick = BrickUuid::from_bytes(reader.array()?);
        let start = nonzero_start("adopt.start", reader)?;
        Ok(Adopt { brick, start, stamp: Stamp::decode(reader)? })
    }
}

impl Body for Retire {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.brick.to_bytes());
        out.put_u64(self.floor.0);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Retire, BodyError> {
        let brick = BrickUuid::from_bytes(reader.array()?);
        Ok(Retire { brick, floor: nonzero_start("retire.floor", reader)? })
    }
}

fn nonzero_start(field: &'static str, reader: &mut Reader<'_>) -> Result<StartCounter, BodyError> {
    match reader.u64()? {
        0 => Err(BodyError::OutOfRange { field, value: 0 }),
        start => Ok(StartCounter(start)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::btree_set;
    use proptest::prelude::*;

    use super::*;
    use crate::samples::{assert_fixture, assert_hostile, assert_round_trip, brick, damage};

    #[rustfmt::skip]
    const STAMP: [u8; 52] = [
        0x10, 0x10, 0x10, 0x10, 0x10, 0x10, 0x10, 0x10, //  0 volume
        0x10, 0x10, 0x10, 0x10, 0x10, 0x10, 0x10, 0x10,
        0x03, 0x00,                                     // 16 group 3
        0x02,                                           // 18 role 2: arbiter
        0x02,                                           // 19 2 members
        0x20, 0x20, 0x20, 0x20, 0x20, 0x20, 0x20, 0x20, // 20 member 0
        0x20, 0x20, 0x20, 0x20, 0x20, 0x20, 0x20, 0x20,
        0x21, 0x21, 0x21, 0x21, 0x21, 0x21, 0x21, 0x21, // 36 member 1
        0x21, 0x21, 0x21, 0x21, 0x21, 0x21, 0x21, 0x21,
    ];

    #[rustfmt::skip]
    const RETIRE: [u8; 24] = [
        0x20, 0x20, 0x20, 0x20, 0x20, 0x20, 0x20, 0x20, //  0 brick
        0x20, 0x20, 0x20, 0x20, 0x20, 0x20, 0x20, 0x20,
        0x05, 0x00, 0x10, 0x00, 0x00, 0x00, 0x00, 0x00, // 16 start counter 2^20 + 5
    ];

    fn sample_stamp() -> Stamp {
        Stamp {
            volume: VolumeUuid::from_bytes([0x10; 16]),
            group: 3,
            role: Role::Arbiter,
            members: vec![BrickUuid::from_bytes([0x20; 16]), BrickUuid::from_bytes([0x21; 16])],
        }
    }

    #[test]
    fn they_stand_as_documented() {
        assert_fixture(&sample_stamp(), &STAMP);
        let (brick, start) = (BrickUuid::from_bytes([0x20; 16]), StartCounter((1 << 20) + 5));
        assert_fixture(&Retire { brick, floor: start }, &RETIRE);
        // The same fields, then a stamp.
        assert_fixture(&Adopt { brick, start, stamp: sample_stamp() }, &[&RETIRE[..], &STAMP].concat());
    }

    #[test]
    fn a_stamp_names_each_brick_once() {
        let mut twice = STAMP;
        twice[36..].copy_from_slice(&[0x20; 16]);
        let error = BodyError::OutOfRange { field: "stamp.members", value: 1 };
        assert_eq!(Stamp::from_bytes(&twice), Err(error));
    }

    #[test]
    fn no_life_has_start_counter_0() {
        let mut retire = RETIRE;
        retire[16..].fill(0);
        let error = |field| BodyError::OutOfRange { field, value: 0 };
        assert_eq!(Retire::from_bytes(&retire), Err(error("retire.floor")));
        assert_eq!(Adopt::from_bytes(&[&retire[..], &STAMP].concat()), Err(error("adopt.start")));
    }

    fn stamp() -> impl Strategy<Value = Stamp> {
        let role = prop_oneof![Just(Role::Data), Just(Role::Arbiter)];
        let members = btree_set(brick(), 1..=GROUP_BRICKS_MAX);
        (any::<[u8; 16]>(), 0..GROUPS_MAX as u16, role, members).prop_map(|(volume, group, role, members)| {
            let (volume, members) = (VolumeUuid::from_bytes(volume), members.into_iter().collect());
            Stamp { volume, group, role, members }
        })
    }

    proptest! {
        #[test]
        fn they_round_trip(stamp in stamp(), brick in brick(), start in 1..u64::MAX, damage in damage()) {
            let retire = Retire { brick, floor: StartCounter(start) };
            let adopt = Adopt { brick, start: StartCounter(start), stamp };
            assert_round_trip(&adopt.stamp);
            assert_round_trip(&adopt);
            assert_round_trip(&retire);
            assert_hostile::<Stamp>(&damage.apply(adopt.stamp.to_bytes()));
            assert_hostile::<Adopt>(&damage.apply(adopt.to_bytes()));
            assert_hostile::<Retire>(&damage.apply(retire.to_bytes()));
        }

        #[test]
        fn arbitrary_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            assert_hostile::<Stamp>(&bytes);
            assert_hostile::<Adopt>(&bytes);
            assert_hostile::<Retire>(&bytes);
        }
    }
}
