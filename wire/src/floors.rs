//! Floors: of each member of a group, the lowest start counter that still counts (rule R2).
//!
//! When another brick takes a member's place it goes on under the member's uuid, with a start counter above any
//! that the replaced disk can ever count. What is below the floor is a *retired life*: should that disk come back it
//! has forgotten what its successor promised. A floor only rises, and whoever knows one passes it on.

use std::collections::BTreeMap;

use crate::cursor::{Body, BodyError, Put, Reader};
use crate::ids::{BrickUuid, StartCounter};
use crate::limits::GROUP_BRICKS_MAX;

/// The members that have a floor, and their floors. On the wire, up to the end of the body:
///
/// `per member, ascending: 16B brick; 16 u64 floor, not 0`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Floors(BTreeMap<BrickUuid, StartCounter>);

impl Floors {
    /// Raises a member's floor; whether that changed anything. Beyond [`GROUP_BRICKS_MAX`] members nothing is taken:
    /// no group has more, so they belong to none.
    pub fn raise(&mut self, brick: BrickUuid, floor: StartCounter) -> bool {
        let full = self.0.len() >= GROUP_BRICKS_MAX && !self.0.contains_key(&brick);
        if full || floor <= self.of(brick) {
            return false;
        }
        self.0.insert(brick, floor);
        true
    }

    /// Takes over what is higher in `other`; whether that changed anything.
    pub fn merge(&mut self, other: &Floors) -> bool {
        let mut changed = false;
        for (brick, floor) in other.iter() {
            changed |= self.raise(brick, floor);
        }
        changed
    }

    /// A member's floor; 0 if it has none.
    pub fn of(&self, brick: BrickUuid) -> StartCounter {
        self.0.get(&brick).copied().unwrap_or_default()
    }

    /// Whether this life of the brick is below its floor.
    pub fn is_retired(&self, brick: BrickUuid, start: StartCounter) -> bool {
        start < self.of(brick)
    }

    /// All of them, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (BrickUuid, StartCounter)> {
        self.0.iter().map(|(brick, floor)| (*brick, *floor))
    }

    /// Whether no member has one.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Body for Floors {
    fn encode(&self, out: &mut Vec<u8>) {
        for (brick, floor) in self.iter() {
            out.extend_from_slice(&brick.to_bytes());
            out.put_u64(floor.0);
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Floors, BodyError> {
        let mut floors = Floors::default();
        let mut last = None;
        while !reader.is_empty() {
            let brick = BrickUuid::from_bytes(reader.array()?);
            let floor = reader.u64()?;
            let index = floors.0.len() as u64;
            if index as usize == GROUP_BRICKS_MAX || last >= Some(brick) {
                return Err(BodyError::OutOfRange { field: "floors.brick", value: index });
            }
            if floor == 0 {
                return Err(BodyError::OutOfRange { field: "floors.floor", value: 0 });
            }
            last = Some(brick);
            floors.raise(brick, StartCounter(floor));
        }
        Ok(floors)
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::samples::{assert_fixture, assert_hostile, assert_round_trip, brick, damage};

    #[rustfmt::skip]
    const FLOORS: [u8; 48] = [
        0x20, 0x20, 0x20, 0x20, 0x20, 0x20, 0x20, 0x20, //  0 brick
        0x20, 0x20, 0x20, 0x20, 0x20, 0x20, 0x20, 0x20,
        0x09, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, // 16 floor 9
        0x21, 0x21, 0x21, 0x21, 0x21, 0x21, 0x21, 0x21, // 24 brick
        0x21, 0x21, 0x21, 0x21, 0x21, 0x21, 0x21, 0x21,
        0x01, 0x00, 0x10, 0x00, 0x00, 0x00, 0x00, 0x00, // 40 floor 2^20 + 1
    ];

    fn floors(entries: &[(u8, u64)]) -> Floors {
        let mut floors = Floors::default();
        for (byte, floor) in entries {
            floors.raise(BrickUuid::from_bytes([*byte; 16]), StartCounter(*floor));
        }
        floors
    }

    #[test]
    fn floors_stand_as_documented() {
        assert_fixture(&floors(&[(0x21, (1 << 20) + 1), (0x20, 9)]), &FLOORS);
    }

    #[test]
    fn a_floor_only_rises() {
        let brick = BrickUuid::from_bytes([1; 16]);
        let mut known = floors(&[(1, 5)]);
        assert!(!known.raise(brick, StartCounter(5)) && !known.raise(brick, StartCounter(4)));
        assert!(known.raise(brick, StartCounter(6)));
        assert!(!known.merge(&floors(&[(1, 3)])) && known.merge(&floors(&[(1, 3), (2, 1)])));
        assert_eq!(known, floors(&[(1, 6), (2, 1)]));
        assert!(known.is_retired(brick, StartCounter(5)) && !known.is_retired(brick, StartCounter(6)));
        assert!(
            !known.is_retired(BrickUuid::from_bytes([3; 16]), StartCounter(0)),
            "no floor, no retirement"
        );
    }

    #[test]
    fn what_no_group_has_is_refused() {
        let mut twice = FLOORS;
        twice[24..40].copy_from_slice(&[0x20; 16]);
        let out_of_range = |field, value| Err(BodyError::OutOfRange { field, value });
        assert_eq!(Floors::from_bytes(&twice), out_of_range("floors.brick", 1));
        let mut nothing = FLOORS;
        nothing[16] = 0;
        assert_eq!(Floors::from_bytes(&nothing), out_of_range("floors.floor", 0));
        let nine: Vec<(u8, u64)> = (0..9).map(|byte| (byte, 1)).collect();
        let mut bytes = floors(&nine[..8]).to_bytes();
        floors(&nine[8..]).encode(&mut bytes);
        assert_eq!(Floors::from_bytes(&bytes), out_of_range("floors.brick", 8));
        assert!(!floors(&nine[..8]).raise(BrickUuid::from_bytes([9; 16]), StartCounter(1)), "nor held");
    }

    proptest! {
        #[test]
        fn floors_round_trip(entries in vec((brick(), 1..u64::MAX), 0..GROUP_BRICKS_MAX), damage in damage()) {
            let mut floors = Floors::default();
            for (brick, floor) in entries {
                floors.raise(brick, StartCounter(floor));
            }
            assert_round_trip(&floors);
            assert_hostile::<Floors>(&damage.apply(floors.to_bytes()));
        }
    }
}
