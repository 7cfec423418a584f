//! Brick sets against a `BTreeSet`, and the orders that the rules rest on.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn members(set: BrickSet) -> BTreeSet<u8> {
    (0..8).filter(|index| set.0 >> index & 1 == 1).collect()
}

proptest! {
    #[test]
    fn a_brick_set_behaves_like_a_tree(one in any::<u8>(), two in any::<u8>(), index in 0..8u8) {
        let (one, two, brick) = (BrickSet(one), BrickSet(two), BrickIndex(index));
        let (tree_one, tree_two) = (members(one), members(two));
        prop_assert_eq!(members(one.union(two)), &tree_one | &tree_two);
        prop_assert_eq!(members(one.intersection(two)), &tree_one & &tree_two);
        prop_assert_eq!(members(one.difference(two)), &tree_one - &tree_two);
        prop_assert_eq!(one.is_subset_of(two), tree_one.is_subset(&tree_two));
        prop_assert_eq!(one.contains(brick), tree_one.contains(&index));
        prop_assert_eq!(one.count(), tree_one.len());
        prop_assert_eq!(one.is_empty(), tree_one.is_empty());
        prop_assert_eq!(one.first().map(|brick| brick.0), tree_one.first().copied());
        prop_assert!(one.iter().map(|brick| brick.0).eq(tree_one.iter().copied()));
        prop_assert_eq!(one.iter().collect::<BrickSet>(), one);

        let (mut with, mut without) = (one, one);
        with.insert(brick);
        without.remove(brick);
        prop_assert_eq!(with, one.with(brick));
        prop_assert_eq!(without, one.without(brick));
        prop_assert_eq!(members(with), &tree_one | &BTreeSet::from([index]));
        prop_assert_eq!(members(without), &tree_one - &BTreeSet::from([index]));
        prop_assert_eq!(members(BrickSet::only(brick)), BTreeSet::from([index]));
    }

    #[test]
    fn epochs_compare_by_counter_then_session(one in any::<(u64, u64)>(), two in any::<(u64, u64)>()) {
        let epoch = |(counter, session): (u64, u64)| Epoch { counter, session: SessionId(session) };
        prop_assert_eq!(epoch(one).cmp(&epoch(two)), one.cmp(&two));
        prop_assert!(epoch(one) >= Epoch::ZERO);
    }
}

#[test]
#[should_panic(expected = "beyond a group")]
fn a_ninth_brick_is_a_mistake() {
    let _ = BrickSet::EMPTY.with(BrickIndex(8));
}

#[test]
fn uuids_keep_their_byte_order() {
    let bytes: [u8; 16] = std::array::from_fn(|index| index as u8);
    let image = ImageUuid::from_bytes(bytes);
    assert_eq!(image.to_bytes(), bytes);
    assert_eq!(image.to_string(), "00010203-0405-0607-0809-0a0b0c0d0e0f");
    assert!(ImageUuid::NIL.is_nil() && !image.is_nil());
}

#[test]
fn roles_keep_their_bytes() {
    for byte in 0..=u8::MAX {
        let role = Role::from_byte(byte);
        assert_eq!(role.is_some(), byte == 1 || byte == 2);
        assert!(role.is_none_or(|role| role.to_byte() == byte));
    }
}
