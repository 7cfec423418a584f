//! When an agent has something to do, and when it must keep its hands off.

use brick_wire::body::ImageStatus;
use brick_wire::record::Member;
use brick_wire::{BrickUuid, Incarnation, OperationUuid, SessionId};

use super::*;
use crate::replica::{BrickConfig, Quorum};

const D1: BrickSet = BrickSet(0b001);
const BOTH: BrickSet = BrickSet(0b011);

fn group() -> Group {
    let brick = |role| BrickConfig { brick: BrickUuid::NIL, role, address: String::new() };
    Group {
        weight: 1,
        quorum: Quorum::Majority,
        bricks: vec![brick(Role::Data), brick(Role::Data), brick(Role::Arbiter)],
    }
}

fn answer(counter: u64, kind: RecordKind, in_sync: BrickSet) -> Answer {
    let epoch = Epoch { counter, session: SessionId(1) };
    let record = EpochRecord {
        epoch,
        holder: SessionId(1),
        kind,
        in_sync,
        membership_version: 1,
        members: vec![Member { brick: BrickUuid::NIL, incarnation: Incarnation::default() }; 3],
        size_bytes: 4096,
        operation: OperationUuid::NIL,
    };
    let counters = ImageStatus::default();
    Answer { record: Some(record), accepted: epoch, lease_left_ms: 0, counters, exact: true }
}

fn all(answer: &Answer) -> [Option<&Answer>; 3] {
    [Some(answer); 3]
}

#[test]
fn healthy_images_are_left_alone() {
    let closed = answer(5, RecordKind::Closed, BOTH);
    assert_eq!(judge(&group(), &all(&closed), false), Verdict::Nothing);
    let dirty = Answer { counters: ImageStatus { dirty_blocks: 9, ..ImageStatus::default() }, ..closed };
    assert_eq!(judge(&group(), &all(&dirty), false), Verdict::Nothing, "after a close the copies are equal");
}

#[test]
fn a_stale_copy_that_answers_is_healed_unless_somebody_holds_the_image() {
    for kind in [RecordKind::Closed, RecordKind::Client, RecordKind::Heal, RecordKind::HealRecovering] {
        let stale = answer(5, kind, D1);
        assert_eq!(judge(&group(), &all(&stale), false), Verdict::Needed, "{kind:?}");
        let held = Answer { lease_left_ms: 1, ..stale.clone() };
        assert_eq!(judge(&group(), &all(&held), false), Verdict::Impossible, "{kind:?}");
        // D2 was restarted, and counts from its start.
        assert_eq!(
            judge(&group(), &[Some(&stale), Some(&held), Some(&stale)], false),
            Verdict::Needed,
            "{kind:?}"
        );
    }
}

#[test]
fn an_arbiter_that_was_away_is_caught_up() {
    let (old, new) = (answer(4, RecordKind::Client, BOTH), answer(5, RecordKind::Closed, BOTH));
    assert_eq!(judge(&group(), &[Some(&new), Some(&new), Some(&old)], false), Verdict::Needed);
    assert_eq!(
        judge(&group(), &[Some(&new), None, Some(&old)], false),
        Verdict::Nothing,
        "nothing can be cleaned"
    );
    assert_eq!(judge(&group(), &[Some(&new), Some(&new), None], false), Verdict::Nothing, "it is away still");
}

#[test]
fn what_cannot_be_healed_now_is_not_tried() {
    let stale = answer(5, RecordKind::Closed, D1);
    assert_eq!(
        judge(&group(), &[Some(&stale), None, Some(&stale)], false),
        Verdict::Nothing,
        "the stale brick is away"
    );
    assert_eq!(
        judge(&group(), &[None, Some(&stale), Some(&stale)], false),
        Verdict::Impossible,
        "the good one is"
    );
    assert_eq!(judge(&group(), &[Some(&stale), None, None], false), Verdict::Impossible, "no quorum");
    assert_eq!(judge(&group(), &[None, None, None], false), Verdict::Impossible);
}

#[test]
fn only_the_newest_record_counts() {
    let (old, new) = (answer(4, RecordKind::Closed, BOTH), answer(5, RecordKind::Closed, D1));
    assert_eq!(judge(&group(), &[Some(&new), Some(&old), Some(&new)], false), Verdict::Needed);
    // An older holder's lease, on a brick that missed the change, is void.
    let behind = Answer { lease_left_ms: 99, ..answer(4, RecordKind::Client, BOTH) };
    assert_eq!(judge(&group(), &[Some(&new), Some(&behind), Some(&new)], false), Verdict::Needed);
}

#[test]
fn a_dead_client_is_cleaned_up_after_once_every_copy_is_there() {
    let dead = answer(5, RecordKind::Client, BOTH);
    assert_eq!(judge(&group(), &all(&dead), false), Verdict::Nothing, "no block may differ");
    let dirty =
        Answer { counters: ImageStatus { dirty_blocks: 9, ..ImageStatus::default() }, ..dead.clone() };
    let lost = Answer { exact: false, ..dead.clone() };
    for answer in [&dirty, &lost] {
        assert_eq!(judge(&group(), &[Some(answer), Some(&dead), Some(&dead)], false), Verdict::Needed);
        assert_eq!(
            judge(&group(), &[Some(answer), None, Some(&dead)], false),
            Verdict::Nothing,
            "D2 would leave S"
        );
    }
}
