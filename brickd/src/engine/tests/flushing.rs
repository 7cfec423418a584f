//! Rule I7: what a flush covers, and what a failed one leaves behind.

use brick_wire::*;

use super::activity::crashed;
use super::harness::*;
use crate::engine::*;

const EPOCH: Epoch = Epoch { counter: 1, session: ALICE };

#[test]
fn flushing_covers_files_and_directories_once() {
    let (mut brick, alice) = holder();
    assert_eq!(brick.flush(alice, EPOCH), Some(Status::Ok));
    assert_eq!(brick.syncs, 0);
    brick.write(alice, EPOCH, ShardIndex(0), 0, &blocks(1, 1));
    assert_eq!(brick.flush(alice, EPOCH), Some(Status::Ok));
    assert_eq!(brick.syncs, 2, "the file and its directory");
    brick.write(alice, EPOCH, ShardIndex(0), 0, &blocks(2, 1));
    assert_eq!(brick.flush(alice, EPOCH), Some(Status::Ok));
    assert_eq!(brick.syncs, 3, "the file only");
    assert_eq!(brick.flush(alice, EPOCH), Some(Status::Ok));
    assert_eq!(brick.syncs, 3);
}

#[test]
fn flushing_a_later_write_needs_the_next_sync() {
    let (mut brick, alice) = holder();
    brick.write(alice, EPOCH, ShardIndex(0), 0, &blocks(1, 1));
    brick.flush(alice, EPOCH);
    brick.write(alice, EPOCH, ShardIndex(0), 0, &blocks(2, 1));
    brick.hold = |request| matches!(request, DiskRequest::SyncShard { .. });
    let first = brick.simple(alice, Opcode::Flush, EPOCH);
    let joined = brick.simple(alice, Opcode::Flush, EPOCH);
    brick.write(alice, EPOCH, ShardIndex(0), 1, &blocks(3, 1));
    let second = brick.simple(alice, Opcode::Flush, EPOCH);
    let third = brick.simple(alice, Opcode::Flush, EPOCH);
    assert_eq!(brick.held.len(), 1);
    let (core, operation, _) = brick.held.pop_front().expect("held");
    brick.event(core, Event::DiskDone { operation, result: Ok(DiskOutput::Done) });
    assert_eq!(brick.status_of(first), Some(Status::Ok));
    assert_eq!(brick.status_of(joined), Some(Status::Ok));
    assert_eq!((brick.status_of(second), brick.held.len()), (None, 1));
    brick.release();
    assert_eq!(brick.status_of(second), Some(Status::Ok));
    assert_eq!(brick.status_of(third), Some(Status::Ok));
}

#[test]
fn flushing_fails_until_the_blocks_are_rewritten() {
    let (mut brick, alice) = holder();
    brick.write(alice, EPOCH, ShardIndex(0), 0, &blocks(1, 1));
    assert_eq!(brick.flush(alice, EPOCH), Some(Status::Ok));
    brick.write(alice, EPOCH, ShardIndex(0), 3, &blocks(1, 2));
    brick.fail = |request| matches!(request, DiskRequest::SyncShard { .. }).then_some(DiskError::Errno(5));
    assert_eq!(brick.flush(alice, EPOCH), Some(Status::FlushFailed));
    brick.fail = |_| None;
    assert_eq!(brick.flush(alice, EPOCH), Some(Status::FlushFailed), "a second fsync proves nothing");
    brick.write(alice, EPOCH, ShardIndex(0), 3, &blocks(1, 1));
    assert_eq!(brick.flush(alice, EPOCH), Some(Status::FlushFailed), "block 4 is still lost");
    brick.write(alice, EPOCH, ShardIndex(0), 4, &blocks(1, 1));
    assert_eq!(brick.flush(alice, EPOCH), Some(Status::Ok));
}

fn is_sync(request: &DiskRequest) -> bool {
    matches!(request, DiskRequest::SyncShard { .. })
}

fn is_save(request: &DiskRequest) -> bool {
    matches!(request, DiskRequest::SaveDirty { .. })
}

/// Whether the saved maps say that a sync failed.
fn is_marked(brick: &Brick) -> bool {
    brick.saved.values().flatten().any(|map| map.unsynced)
}

/// A holder whose sync of block 3 failed.
fn failed_holder() -> (Brick, ConnectionId) {
    let (mut brick, alice) = holder();
    brick.write(alice, EPOCH, ShardIndex(0), 0, &blocks(1, 1));
    assert_eq!(brick.flush(alice, EPOCH), Some(Status::Ok));
    brick.write(alice, EPOCH, ShardIndex(0), 3, &blocks(1, 1));
    brick.fail = |request| is_sync(request).then_some(DiskError::Errno(5));
    assert_eq!(brick.flush(alice, EPOCH), Some(Status::FlushFailed));
    brick.fail = |_| None;
    (brick, alice)
}

#[test]
fn flushing_notes_a_failure_before_it_is_told() {
    let (mut brick, alice) = holder();
    brick.write(alice, EPOCH, ShardIndex(0), 3, &blocks(1, 1));
    brick.fail = |request| is_sync(request).then_some(DiskError::Errno(5));
    brick.hold = is_save;
    let first = brick.simple(alice, Opcode::Flush, EPOCH);
    brick.fail = |_| None;
    let second = brick.simple(alice, Opcode::Flush, EPOCH);
    assert_eq!((brick.status_of(first), brick.status_of(second)), (None, None), "nobody is told yet");
    brick.release();
    assert!(is_marked(&brick));
    assert_eq!(brick.status_of(first), Some(Status::FlushFailed));
    assert_eq!(brick.status_of(second), Some(Status::FlushFailed));
}

#[test]
fn flushing_fails_in_the_next_life_until_every_dirty_block_is_rewritten() {
    let (brick, _) = failed_holder();
    let (mut again, alice) = crashed(&brick, Role::Data);
    assert_eq!(again.flush(alice, EPOCH), Some(Status::FlushFailed), "the kernel won't say it twice");
    again.write(alice, EPOCH, ShardIndex(0), 0, &blocks(1, 200));
    assert_eq!(again.flush(alice, EPOCH), Some(Status::FlushFailed), "the shard has 256 blocks");
    again.write(alice, EPOCH, ShardIndex(0), 200, &blocks(1, 56));
    assert_eq!(again.flush(alice, EPOCH), Some(Status::Ok));
    assert!(!is_marked(&again), "the mark goes with the last block");
}

#[test]
fn flushing_misses_nothing_of_a_shard_without_a_file() {
    let (mut brick, _) = failed_holder();
    brick.files.clear();
    let (mut again, alice) = crashed(&brick, Role::Data);
    assert_eq!(again.flush(alice, EPOCH), Some(Status::Ok), "no pull would ever write its zeros");
}

#[test]
fn flushing_on_another_boot_knows_nothing_of_the_failure() {
    let (mut brick, _) = failed_holder();
    // As the store loads them then.
    brick.saved.values_mut().flatten().for_each(|map| map.unsynced = false);
    let (mut again, alice) = crashed(&brick, Role::Data);
    assert_eq!(again.flush(alice, EPOCH), Some(Status::Ok));
}

#[test]
fn flushing_fails_after_an_eviction_whose_sync_failed() {
    let (mut brick, alice) = holder();
    brick.write(alice, EPOCH, ShardIndex(0), 0, &blocks(1, 1));
    brick.fail = |request| matches!(request, DiskRequest::SyncShard { .. }).then_some(DiskError::Errno(5));
    for shard in [1, 2] {
        brick.write(alice, EPOCH, ShardIndex(shard), 0, &blocks(1, 1));
    }
    brick.fail = |_| None;
    assert_eq!(brick.flush(alice, EPOCH), Some(Status::FlushFailed));
    brick.write(alice, EPOCH, ShardIndex(0), 0, &blocks(1, 1));
    assert_eq!(brick.flush(alice, EPOCH), Some(Status::Ok));
}

#[test]
fn flushing_a_fua_write_is_durable_when_answered() {
    let (mut brick, alice) = holder();
    let (header, aux) = write_header(EPOCH, ShardIndex(0), 0, &blocks(1, 1));
    let header = Header { flags: Flags::FUA, ..header };
    brick.hold = |request| matches!(request, DiskRequest::SyncDirectory { .. });
    let id = brick.send(alice, header, aux, Some(&blocks(1, 1)));
    assert_eq!(brick.status_of(id), None, "its directory entry isn't durable");
    brick.release();
    assert_eq!((brick.status_of(id), brick.syncs), (Some(Status::Ok), 2));
}
