//! What the tests of this crate share: generators of valid values, damage to their encodings, and the two
//! properties that every body has.

use std::fmt::Debug;

use proptest::collection::vec;
use proptest::prelude::*;

use crate::cursor::Body;
use crate::limits::{DATA_BLOCKS_MAX, SHARD_BLOCKS_MAX, SHARD_SHIFT_MAX, SHARD_SHIFT_MIN};
use crate::{
    BlockRange, BlockSet, BootUuid, BrickUuid, Epoch, ImageUuid, Incarnation, SessionId, StartCounter,
};

/// A body comes back as it went, and no byte may be missing or follow.
pub fn assert_round_trip<B: Body + PartialEq + Debug>(body: &B) {
    let bytes = body.to_bytes();
    assert_eq!(B::from_bytes(&bytes).as_ref(), Ok(body));
    let mut appended = vec![0xee];
    body.encode(&mut appended);
    assert_eq!(appended[1..], bytes, "encode appends");
}

/// Whatever the bytes: no panic, and what is accepted can be sent on and is understood the same.
pub fn assert_hostile<B: Body + PartialEq + Debug>(bytes: &[u8]) {
    if let Ok(body) = B::from_bytes(bytes) {
        assert_round_trip(&body);
    }
}

/// Asserts that `body` is encoded as exactly `bytes`, and read back from them.
pub fn assert_fixture<B: Body + PartialEq + Debug>(body: &B, bytes: &[u8]) {
    assert_eq!(body.to_bytes(), bytes);
    assert_eq!(B::from_bytes(bytes).as_ref(), Ok(body));
    for end in 0..bytes.len() {
        assert_hostile::<B>(&bytes[..end]);
    }
}

/// Ways to damage an encoding so that the damage gets past the first field.
#[derive(Clone, Debug)]
pub struct Damage {
    overwrites: Vec<(prop::sample::Index, u8)>,
    cut: Option<prop::sample::Index>,
    appended: Vec<u8>,
}

impl Damage {
    pub fn apply(&self, mut bytes: Vec<u8>) -> Vec<u8> {
        for (index, byte) in &self.overwrites {
            if !bytes.is_empty() {
                let at = index.index(bytes.len());
                bytes[at] = *byte;
            }
        }
        if let Some(cut) = &self.cut {
            bytes.truncate(cut.index(bytes.len() + 1));
        }
        bytes.extend_from_slice(&self.appended);
        bytes
    }
}

pub fn damage() -> impl Strategy<Value = Damage> {
    let byte = prop_oneof![any::<u8>(), Just(0), Just(1), Just(0xff)];
    (
        vec((any::<prop::sample::Index>(), byte), 0..4),
        any::<Option<prop::sample::Index>>(),
        vec(any::<u8>(), 0..8),
    )
        .prop_map(|(overwrites, cut, appended)| Damage { overwrites, cut, appended })
}

pub fn brick() -> impl Strategy<Value = BrickUuid> {
    any::<[u8; 16]>().prop_map(BrickUuid::from_bytes)
}

pub fn image() -> impl Strategy<Value = ImageUuid> {
    any::<[u8; 16]>().prop_map(ImageUuid::from_bytes)
}

pub fn epoch() -> impl Strategy<Value = Epoch> {
    any::<(u64, u64)>().prop_map(|(counter, session)| Epoch { counter, session: SessionId(session) })
}

pub fn incarnation() -> impl Strategy<Value = Incarnation> {
    any::<([u8; 16], u64)>().prop_map(|(boot, start)| Incarnation {
        boot: BootUuid::from_bytes(boot),
        start: StartCounter(start),
    })
}

pub fn shard_shift() -> impl Strategy<Value = u8> {
    SHARD_SHIFT_MIN..=SHARD_SHIFT_MAX
}

/// Text of up to `bytes_max` bytes, of one to four bytes a character.
pub fn text(bytes_max: usize) -> impl Strategy<Value = String> {
    vec(any::<char>(), 0..=bytes_max).prop_map(move |characters| {
        let mut text = String::new();
        for character in characters {
            if text.len() + character.len_utf8() > bytes_max {
                break;
            }
            text.push(character);
        }
        text
    })
}

/// Any range below `end`, short ones and empty ones often.
pub fn range_below(end: usize) -> impl Strategy<Value = BlockRange> {
    let end = end as u16;
    (0..=end).prop_flat_map(move |first| {
        let most = end - first;
        (Just(first), prop_oneof![0..=most, 0..=most.min(70)])
            .prop_map(|(first, count)| BlockRange::new(first, count))
    })
}

/// Ranges as a header may name them.
pub fn header_range() -> impl Strategy<Value = BlockRange> {
    range_below(SHARD_BLOCKS_MAX)
        .prop_map(|range| BlockRange::new(range.first, range.count.min(DATA_BLOCKS_MAX)))
}

/// Sets below `end` whose history left trailing zero words behind, sometimes.
pub fn block_set_below(end: usize) -> impl Strategy<Value = BlockSet> {
    (vec(range_below(end), 0..8), vec(range_below(end), 0..4)).prop_map(|(inserted, removed)| {
        let mut set = BlockSet::new();
        inserted.into_iter().for_each(|range| set.insert_range(range));
        removed.into_iter().for_each(|range| set.remove_range(range));
        set
    })
}
