//! Block ranges and sets against a `BTreeSet` of block numbers.

use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::samples::{block_set_below, range_below};

#[derive(Clone, Debug)]
enum Change {
    InsertRange(BlockRange),
    RemoveRange(BlockRange),
    InsertAll(Vec<BlockRange>),
    RemoveAll(Vec<BlockRange>),
}

fn change(end: usize) -> impl Strategy<Value = Change> {
    prop_oneof![
        range_below(end).prop_map(Change::InsertRange),
        range_below(end).prop_map(Change::RemoveRange),
        vec(range_below(end), 0..3).prop_map(Change::InsertAll),
        vec(range_below(end), 0..3).prop_map(Change::RemoveAll),
    ]
}

fn set_of(ranges: &[BlockRange]) -> BlockSet {
    let mut set = BlockSet::new();
    ranges.iter().for_each(|range| set.insert_range(*range));
    set
}

fn apply(change: &Change, set: &mut BlockSet, oracle: &mut BTreeSet<u16>) {
    match change {
        Change::InsertRange(range) => {
            set.insert_range(*range);
            oracle.extend(range.iter());
        }
        Change::RemoveRange(range) => {
            set.remove_range(*range);
            oracle.retain(|block| !range.iter().any(|other| other == *block));
        }
        Change::InsertAll(ranges) => {
            set.insert_all(&set_of(ranges));
            oracle.extend(ranges.iter().flat_map(|range| range.iter()));
        }
        Change::RemoveAll(ranges) => {
            set.remove_all(&set_of(ranges));
            oracle.retain(|block| !ranges.iter().any(|range| (range.first..range.end()).contains(block)));
        }
    }
}

/// Every question a set answers, asked of both.
fn assert_same(set: &BlockSet, oracle: &BTreeSet<u16>, probe: BlockRange, run_max: u16) {
    let inside = oracle.range(probe.first..probe.end()).count();
    assert_eq!(set.count(), oracle.len());
    assert_eq!(set.is_empty(), oracle.is_empty());
    assert_eq!(set.end(), oracle.last().map_or(0, |last| usize::from(*last) + 1));
    assert_eq!(set.count_in(probe), inside);
    assert_eq!(set.intersects(probe), inside > 0);
    assert!((0..=u16::MAX).all(|block| set.contains(block) == oracle.contains(&block)));

    let runs: Vec<BlockRange> = set.runs(run_max).collect();
    let blocks: Vec<u16> = runs.iter().flat_map(|run| run.iter()).collect();
    assert!(blocks.iter().eq(oracle.iter()), "the runs are the members, ascending");
    assert!(runs.iter().all(|run| (1..=run_max).contains(&run.count)));
    for pair in runs.windows(2) {
        assert!(pair[0].end() < pair[1].first || pair[0].count == run_max, "{pair:?} is one run");
    }

    let bytes = set.to_bytes();
    assert_eq!(bytes.len(), set.end().div_ceil(8));
    for (index, byte) in bytes.iter().enumerate() {
        let expected = (0..8).filter(|bit| oracle.contains(&((index * 8 + bit) as u16)));
        assert_eq!(*byte, expected.map(|bit| 1 << bit).sum::<u8>());
    }
    assert_eq!(BlockSet::from_bytes(&bytes).as_ref(), Some(set));
}

proptest! {
    #[test]
    fn a_set_behaves_like_a_tree_of_numbers(
        changes in prop_oneof![vec(change(SHARD_BLOCKS_MAX), 0..8), vec(change(200), 0..20)],
        probe in range_below(SHARD_BLOCKS_MAX),
        run_max in prop_oneof![Just(1u16), 1..70u16, Just(u16::MAX)],
    ) {
        let (mut set, mut oracle) = (BlockSet::new(), BTreeSet::new());
        for change in &changes {
            apply(change, &mut set, &mut oracle);
        }
        assert_same(&set, &oracle, probe, run_max);
    }

    #[test]
    fn equality_is_that_of_the_members(
        one in block_set_below(300),
        two in block_set_below(300),
        appended in 0..9usize,
    ) {
        let members = |set: &BlockSet| -> Vec<u16> { (0..300).filter(|block| set.contains(*block)).collect() };
        prop_assert_eq!(one == two, members(&one) == members(&two));
        let mut padded = one.to_bytes();
        padded.resize(padded.len() + appended, 0);
        prop_assert_eq!(BlockSet::from_bytes(&padded), Some(one));
    }

    #[test]
    fn ranges_overlap_when_they_share_a_block(one in range_below(20), two in range_below(20)) {
        let shared = one.iter().any(|block| two.iter().any(|other| other == block));
        prop_assert_eq!(one.overlaps(two), shared);
        prop_assert_eq!(two.overlaps(one), shared);
    }

    #[test]
    fn any_bytes_of_a_bitmap_are_a_set(bytes in vec(any::<u8>(), 0..=SHARD_BLOCKS_MAX / 8)) {
        let set = BlockSet::from_bytes(&bytes).expect("no longer than the largest shard's");
        let ones: u32 = bytes.iter().map(|byte| byte.count_ones()).sum();
        prop_assert_eq!(set.count(), ones as usize);
        let meaningful = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        prop_assert_eq!(set.to_bytes(), &bytes[..meaningful]);
    }
}

#[test]
fn a_bitmap_beyond_the_largest_shard_is_refused() {
    let largest = vec![0xff; SHARD_BLOCKS_MAX / 8];
    assert_eq!(BlockSet::from_bytes(&largest), Some(BlockSet::full(SHARD_BLOCKS_MAX)));
    assert_eq!(BlockSet::from_bytes(&vec![0; SHARD_BLOCKS_MAX / 8 + 1]), None);
}

#[test]
fn block_0_is_bit_0_of_byte_0() {
    let mut set = BlockSet::from(BlockRange::new(0, 1));
    set.insert_range(BlockRange::new(9, 2));
    assert_eq!(set.to_bytes(), [0b0000_0001, 0b0000_0110]);
}

#[test]
#[should_panic(expected = "beyond any shard")]
fn a_set_does_not_grow_beyond_the_largest_shard() {
    let range = BlockRange { first: SHARD_BLOCKS_MAX as u16, count: 1 };
    BlockSet::new().insert_range(range);
}
