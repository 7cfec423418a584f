//! Rule I1: an old epoch's requests are refused from the promise on, and waited out before it.

use brick_wire::*;

use super::harness::*;
use crate::engine::*;

#[test]
fn fencing_old_epoch_is_refused_after_a_promise() {
    let mut brick = Brick::single();
    let alice = brick.connect(0, ALICE, 1);
    let (old, new) = (epoch(1, ALICE), epoch(2, ALICE));
    brick.hold_image(alice, old);
    let good = brick.write(alice, old, ShardIndex(0), 0, &blocks(1, 1));
    assert_eq!(brick.status_of(good), Some(Status::Ok));
    let ahead = brick.write(alice, new, ShardIndex(0), 0, &blocks(2, 1));
    assert_eq!(brick.status_of(ahead), Some(Status::AheadEpoch));
    let promise = brick.prepare(alice, new, Flags::NONE);
    assert_eq!(brick.status_of(promise), Some(Status::Ok));
    let stale = brick.write(alice, old, ShardIndex(0), 0, &blocks(3, 1));
    assert_eq!(brick.status_of(stale), Some(Status::StaleEpoch));
    assert_eq!(brick.flush(alice, old), Some(Status::StaleEpoch));
    assert_eq!(brick.files[&(image(), ShardIndex(0))][0], 1);
}

#[test]
fn fencing_requests_of_another_session_are_refused() {
    let mut brick = Brick::single();
    let alice = brick.connect(0, ALICE, 1);
    let bob = brick.connect(0, BOB, 1);
    brick.hold_image(alice, epoch(1, ALICE));
    let forged = brick.write(bob, epoch(1, ALICE), ShardIndex(0), 0, &blocks(1, 1));
    assert_eq!(brick.status_of(forged), Some(Status::StaleEpoch));
}

#[test]
fn fencing_a_promise_waits_for_writes_on_every_core() {
    let mut brick = Brick::new(vec![config(0, 0, 2), config(0, 1, 2)]);
    let alice = brick.connect(0, ALICE, 1);
    let alice_1 = brick.connect(1, ALICE, 1);
    let bob = brick.connect(0, BOB, 1);
    brick.hold_image(alice, epoch(1, ALICE));
    let shard = shard_on(1, 2, 0);
    brick.hold = is_data_write;
    let issued = brick.write(alice_1, epoch(1, ALICE), shard, 0, &blocks(1, 1));
    let queued = brick.write(alice_1, epoch(1, ALICE), shard, 0, &blocks(2, 1));
    let appends = brick.registers.len();
    let promise = brick.prepare(bob, epoch(2, BOB), Flags::FORCE);
    // What hadn't reached the disk is refused at once; the promise isn't even appended before the drain.
    assert_eq!(brick.status_of(queued), Some(Status::StaleEpoch));
    assert_eq!(brick.status_of(issued), None);
    assert_eq!(brick.status_of(promise), None);
    assert_eq!(brick.registers.len(), appends);
    let late = brick.write(alice_1, epoch(1, ALICE), shard, 8, &blocks(3, 1));
    assert_eq!(brick.status_of(late), Some(Status::StaleEpoch));
    brick.release();
    assert_eq!(brick.status_of(issued), Some(Status::Ok));
    assert_eq!(brick.status_of(promise), Some(Status::Ok));
    assert_eq!(brick.files[&(image(), shard)][0], 1);
}

#[test]
fn fencing_a_write_that_waits_for_its_file_is_refused() {
    let mut brick = Brick::single();
    let alice = brick.connect(0, ALICE, 1);
    let bob = brick.connect(0, BOB, 1);
    brick.hold_image(alice, epoch(1, ALICE));
    brick.hold = |request| matches!(request, DiskRequest::OpenShard { .. });
    let waiting = brick.write(alice, epoch(1, ALICE), ShardIndex(0), 0, &blocks(1, 1));
    let promise = brick.prepare(bob, epoch(2, BOB), Flags::FORCE);
    assert_eq!(brick.status_of(waiting), Some(Status::StaleEpoch));
    assert_eq!(brick.status_of(promise), Some(Status::Ok));
    brick.release();
    assert!(brick.files[&(image(), ShardIndex(0))].iter().all(|byte| *byte == 0));
}

#[test]
fn fencing_needs_no_drain_within_a_session() {
    let mut brick = Brick::single();
    let alice = brick.connect(0, ALICE, 1);
    brick.hold_image(alice, epoch(1, ALICE));
    brick.hold = is_data_write;
    let issued = brick.write(alice, epoch(1, ALICE), ShardIndex(0), 0, &blocks(1, 1));
    let promise = brick.prepare(alice, epoch(2, ALICE), Flags::NONE);
    assert_eq!(brick.status_of(promise), Some(Status::Ok));
    assert_eq!(brick.status_of(issued), None);
    brick.release();
    assert_eq!(brick.status_of(issued), Some(Status::Ok));
}

#[test]
fn fencing_a_bare_promise_keeps_the_holders_generations() {
    let mut brick = Brick::single();
    let alice = brick.connect(0, ALICE, 1);
    let bob = brick.connect(0, BOB, 1);
    brick.hold_image(alice, epoch(1, ALICE));
    let (header, aux) = write_header(epoch(1, ALICE), ShardIndex(0), 3, &blocks(1, 1));
    let header = Header { generation: Generation(6), ..header };
    brick.ask(alice, header, aux, Some(&blocks(1, 1))).expect("answered");
    let promise = brick.prepare(bob, epoch(2, BOB), Flags::FORCE);
    assert_eq!(brick.status_of(promise), Some(Status::Ok));
    brick.hold_image(alice, epoch(3, ALICE));
    let clean = Header { epoch: epoch(3, ALICE), generation: Generation(5), ..request(Opcode::Clean) };
    brick.ask(alice, clean, Vec::new(), None).expect("answered");
    assert_eq!(super::data::dirty_blocks(&mut brick, alice), 1);
}
