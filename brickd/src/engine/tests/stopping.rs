//! A clean stop and the start after it.

use brick_wire::*;

use super::harness::*;
use crate::engine::*;

const EPOCH: Epoch = Epoch { counter: 1, session: ALICE };

#[test]
fn stopping_finishes_syncs_and_saves() {
    let mut brick = Brick::new(vec![config(0, 0, 2), config(0, 1, 2)]);
    let alice = brick.connect(0, ALICE, 1);
    let alice_1 = brick.connect(1, ALICE, 1);
    brick.hold_image(alice, EPOCH);
    let shards = [shard_on(0, 2, 0), shard_on(1, 2, 0)];
    brick.write(alice, EPOCH, shards[0], 0, &blocks(1, 3));
    brick.hold = is_data_write;
    let last = brick.write(alice_1, EPOCH, shards[1], 5, &blocks(1, 1));
    for core in 0..2 {
        brick.event(core, Event::Shutdown);
    }
    let refused = brick.write(alice, EPOCH, shards[0], 0, &blocks(2, 1));
    assert_eq!(brick.status_of(refused), Some(Status::ShuttingDown));
    brick.hello(client_hello(0, BOB, 1));
    assert_eq!(brick.refused.len(), 1);
    assert_eq!(brick.stopped, [true], "core 1 still writes");
    brick.release();
    assert_eq!(brick.status_of(last), Some(Status::Ok));
    assert_eq!((brick.stopped.as_slice(), brick.syncs), ([true, true].as_slice(), 4));
    let dirty = brick.saved.values().flatten().cloned().collect();
    assert!(brick.active.values().all(Vec::is_empty), "all bits are saved");
    let shards: Vec<_> = brick.files.keys().copied().collect();
    let config = EngineConfig { registers: brick.registers.clone(), shards, dirty, ..config(0, 0, 1) };
    let mut again = Brick::new(vec![config]);
    let alice = again.connect(0, ALICE, 2);
    assert_eq!(super::data::dirty_blocks(&mut again, alice), 4);
}

#[test]
fn stopping_after_a_failed_sync_is_unclean() {
    let mut brick = Brick::single();
    let alice = brick.connect(0, ALICE, 1);
    brick.hold_image(alice, EPOCH);
    brick.write(alice, EPOCH, ShardIndex(0), 0, &blocks(1, 3));
    brick.fail = |request| matches!(request, DiskRequest::SyncShard { .. }).then_some(DiskError::Errno(5));
    brick.event(0, Event::Shutdown);
    assert_eq!(brick.stopped, [false]);
}

#[test]
fn stopping_doesnt_wait_for_other_cores() {
    let mut brick = Brick::new(vec![config(0, 0, 2), config(0, 1, 2)]);
    let alice = brick.connect(0, ALICE, 1);
    let alice_1 = brick.connect(1, ALICE, 1);
    let bob = brick.connect(0, BOB, 1);
    brick.hold_image(alice, EPOCH);
    brick.hold = is_data_write;
    brick.write(alice_1, EPOCH, shard_on(1, 2, 0), 5, &blocks(1, 1));
    let promise = brick.prepare(bob, epoch(2, BOB), Flags::FORCE);
    assert_eq!(brick.status_of(promise), None);
    brick.event(0, Event::Shutdown);
    assert_eq!(brick.status_of(promise), Some(Status::ShuttingDown));
    assert_eq!(brick.stopped, [true]);
    brick.release();
    brick.event(1, Event::Shutdown);
    assert_eq!(brick.stopped, [true, true]);
}
