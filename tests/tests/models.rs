//! The models of the rules, in rooms small enough for every build, and the proof that they notice each rule
//! that is broken. The large rooms: `scripts/models`.

use brick_tests::model::{Home, Mutation, Size, find, whole};

fn is_clean(home: Home) {
    for (room, verdict) in whole(home, Size::Small, 1) {
        println!("{room}: {verdict}");
        assert!(verdict.is_clean(), "{room}: {verdict}");
    }
}

fn notices_broken_rules(home: Home) {
    for mutation in Mutation::ALL.iter().filter(|mutation| mutation.home() == home) {
        let (room, verdict) = find(*mutation);
        assert!(!verdict.violated.is_empty(), "{room} doesn't notice: {mutation}");
    }
}

#[test]
fn epoch_is_clean() {
    is_clean(Home::Epoch);
}

#[test]
fn epoch_notices_broken_rules() {
    notices_broken_rules(Home::Epoch);
}

#[test]
fn data_is_clean() {
    is_clean(Home::Data);
}

#[test]
fn data_notices_broken_rules() {
    notices_broken_rules(Home::Data);
}

#[test]
fn heal_is_clean() {
    is_clean(Home::Heal);
}

#[test]
fn heal_notices_broken_rules() {
    notices_broken_rules(Home::Heal);
}

#[test]
fn size_is_clean() {
    is_clean(Home::Size);
}

#[test]
fn size_notices_broken_rules() {
    notices_broken_rules(Home::Size);
}

#[test]
fn names_are_clean() {
    is_clean(Home::Names);
}

#[test]
fn names_notice_broken_rules() {
    notices_broken_rules(Home::Names);
}
