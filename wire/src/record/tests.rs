//! The epoch record: a byte fixture, round trips and hostile bytes.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::limits::REGISTER_VALUE_BYTES_MAX;
use crate::samples::{assert_fixture, assert_hostile, assert_round_trip, brick, damage, epoch, incarnation};

#[rustfmt::skip]
const RECORD: [u8; 56 + 2 * 40] = [
    0x01,                                           //  0 layout version 1
    0x03,                                           //  1 kind 3: recovering
    0x02,                                           //  2 2 members
    0x02,                                           //  3 in-sync: member 1
    0x06, 0x00, 0x00, 0x00,                         //  4 membership version 6
    0x15, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, //  8 epoch counter 21
    0xef, 0xcd, 0xab, 0x89, 0x67, 0x45, 0x23, 0x01, // 16 epoch session
    0xef, 0xcd, 0xab, 0x89, 0x67, 0x45, 0x23, 0x01, // 24 holder session
    0x00, 0x00, 0x00, 0x00, 0x05, 0x00, 0x00, 0x00, // 32 size: 20 GiB
    0x50, 0x50, 0x50, 0x50, 0x50, 0x50, 0x50, 0x50, // 40 operation
    0x50, 0x50, 0x50, 0x50, 0x50, 0x50, 0x50, 0x50,
    0x20, 0x20, 0x20, 0x20, 0x20, 0x20, 0x20, 0x20, // 56 member 0: brick
    0x20, 0x20, 0x20, 0x20, 0x20, 0x20, 0x20, 0x20,
    0x30, 0x30, 0x30, 0x30, 0x30, 0x30, 0x30, 0x30, //    its boot
    0x30, 0x30, 0x30, 0x30, 0x30, 0x30, 0x30, 0x30,
    0x09, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, //    its start counter 9
    0x21, 0x21, 0x21, 0x21, 0x21, 0x21, 0x21, 0x21, // 96 member 1: brick
    0x21, 0x21, 0x21, 0x21, 0x21, 0x21, 0x21, 0x21,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, //    never seen: no boot
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, //    and no start
];

fn sample() -> EpochRecord {
    let session = SessionId(0x0123_4567_89ab_cdef);
    let incarnation = Incarnation { boot: BootUuid::from_bytes([0x30; 16]), start: StartCounter(9) };
    EpochRecord {
        epoch: Epoch { counter: 21, session },
        holder: session,
        kind: RecordKind::Recovering,
        in_sync: BrickSet::only(BrickIndex(1)),
        membership_version: 6,
        members: vec![
            Member { brick: BrickUuid::from_bytes([0x20; 16]), incarnation },
            Member { brick: BrickUuid::from_bytes([0x21; 16]), incarnation: Incarnation::default() },
        ],
        size_bytes: 20 << 30,
        operation: OperationUuid::from_bytes([0x50; 16]),
    }
}

#[test]
fn a_record_stands_as_documented() {
    assert_fixture(&sample(), &RECORD);
}

#[test]
fn every_kind_has_its_number_and_says_who_preempts_it() {
    for (number, kind, recovering, preemptible) in [
        (1, RecordKind::Client, false, false),
        (2, RecordKind::Heal, false, true),
        (3, RecordKind::Recovering, true, false),
        (4, RecordKind::Closed, false, false),
        (5, RecordKind::HealRecovering, true, true),
    ] {
        let mut bytes = RECORD;
        bytes[1] = number;
        assert_fixture(&EpochRecord { kind, ..sample() }, &bytes);
        assert_eq!((kind.is_recovering(), kind.is_preemptible()), (recovering, preemptible), "{kind:?}");
    }
}

#[test]
fn fields_without_meaning_are_refused() {
    for (offset, byte, field) in [
        (0, 2, "record.version"),
        (1, 0, "record.kind"),
        (1, 6, "record.kind"),
        (2, 0, "record.members"),
        (2, 9, "record.members"),
        (3, 0, "record.in_sync"),
        (3, 0b100, "record.in_sync"),
    ] {
        let mut bytes = RECORD;
        bytes[offset] = byte;
        let error = BodyError::OutOfRange { field, value: u64::from(byte) };
        assert_eq!(EpochRecord::from_bytes(&bytes), Err(error));
    }
    for size in [0, 4097u64] {
        let mut bytes = RECORD;
        bytes[32..40].copy_from_slice(&size.to_le_bytes());
        let error = BodyError::OutOfRange { field: "record.size_bytes", value: size };
        assert_eq!(EpochRecord::from_bytes(&bytes), Err(error));
    }
}

#[test]
fn members_are_found_by_their_uuid() {
    let record = sample();
    assert_eq!(record.index_of(BrickUuid::from_bytes([0x21; 16])), Some(BrickIndex(1)));
    assert!(record.is_in_sync(BrickUuid::from_bytes([0x21; 16])));
    assert!(!record.is_in_sync(BrickUuid::from_bytes([0x20; 16])));
    assert!(!record.is_in_sync(BrickUuid::from_bytes([0x99; 16])));
}

#[test]
#[should_panic(expected = "S is never empty")]
fn a_record_without_a_good_copy_is_never_written() {
    let _ = EpochRecord { in_sync: BrickSet::EMPTY, ..sample() }.to_bytes();
}

pub fn record() -> impl Strategy<Value = EpochRecord> {
    let kind = prop::sample::select(vec![
        RecordKind::Client,
        RecordKind::Heal,
        RecordKind::Recovering,
        RecordKind::Closed,
        RecordKind::HealRecovering,
    ]);
    let members = vec((brick(), incarnation()), 1..=GROUP_BRICKS_MAX);
    let numbers = (any::<u64>(), any::<u32>(), 1..=u64::MAX / BLOCK_SIZE as u64, any::<[u8; 16]>());
    (epoch(), kind, members, any::<u8>(), numbers).prop_map(|(epoch, kind, members, in_sync, numbers)| {
        let (holder, membership_version, size_blocks, operation) = numbers;
        let in_sync = BrickSet(in_sync & ((1u16 << members.len()) - 1) as u8);
        EpochRecord {
            epoch,
            holder: SessionId(holder),
            kind,
            in_sync: if in_sync.is_empty() { BrickSet::only(BrickIndex(0)) } else { in_sync },
            membership_version,
            members: members.into_iter().map(|(brick, incarnation)| Member { brick, incarnation }).collect(),
            size_bytes: size_blocks * BLOCK_SIZE as u64,
            operation: OperationUuid::from_bytes(operation),
        }
    })
}

proptest! {
    #[test]
    fn a_record_comes_back_as_it_went(record in record()) {
        assert_round_trip(&record);
        prop_assert!(record.to_bytes().len() <= REGISTER_VALUE_BYTES_MAX);
    }

    #[test]
    fn damage_does_not_panic(record in record(), damage in damage()) {
        assert_hostile::<EpochRecord>(&damage.apply(record.to_bytes()));
    }

    #[test]
    fn arbitrary_bytes_do_not_panic(bytes in vec(any::<u8>(), 0..400)) {
        assert_hostile::<EpochRecord>(&bytes);
    }
}
