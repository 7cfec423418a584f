//! Rule I2: the log before the data, group commit, who leaves a full table, and what a crash leaves.
//! (The disk of these tests also panics at every write to a shard that isn't in its lane's table.)

use brick_wire::placement::lane_of;
use brick_wire::*;

use super::data::dirty_blocks;
use super::harness::*;
use crate::engine::*;

const EPOCH: Epoch = Epoch { counter: 1, session: ALICE };
/// Of the smallest shard.
const SHARD_BLOCKS: u64 = 256;

fn is_save(request: &DiskRequest) -> bool {
    matches!(request, DiskRequest::SaveDirty { .. })
}

/// The n-th shard of lane 1.
fn shard(nth: usize) -> ShardIndex {
    let in_lane = |shard: &ShardIndex| lane_of(image(), *shard, LANES) == LaneIndex(1);
    (0..).map(ShardIndex).filter(in_lane).nth(nth).expect("lanes are spread")
}

/// The shards in lane 1's table on disk, as `shard` counts them.
fn table(brick: &Brick) -> Vec<usize> {
    let entries = brick.active.get(&LaneIndex(1)).into_iter().flatten();
    entries.map(|entry| (0..).find(|nth| shard(*nth) == entry.shard).expect("of this lane")).collect()
}

fn write(brick: &mut Brick, alice: ConnectionId, nth: usize, first: u16) -> RequestId {
    brick.write(alice, EPOCH, shard(nth), first, &blocks(1, 1))
}

fn written(brick: &mut Brick, alice: ConnectionId, nth: usize, first: u16) {
    let request = write(brick, alice, nth, first);
    assert_eq!(brick.status_of(request), Some(Status::Ok));
}

fn dummy(brick: &mut Brick, alice: ConnectionId, nth: usize) -> RequestId {
    let (header, aux) = dummy_writes(EPOCH, &[(shard(nth), 0, &blocks(1, 1))]);
    brick.send(alice, header, aux, None)
}

fn clean(brick: &mut Brick, alice: ConnectionId) {
    let header = Header { epoch: EPOCH, generation: Generation(1), ..request(Opcode::Clean) };
    brick.ask(alice, header, Vec::new(), None).expect("answered");
}

/// The brick died; this is what starts after it.
pub fn crashed(brick: &Brick, role: Role) -> (Brick, ConnectionId) {
    let mut again = brick.successor(EngineConfig { role, ..config(0, 0, 1) });
    let alice = again.connect(0, ALICE, 1);
    (again, alice)
}

#[test]
fn activity_comes_before_data() {
    let (mut brick, alice) = holder();
    brick.hold = is_table;
    let first = write(&mut brick, alice, 0, 0);
    assert_eq!((brick.status_of(first), brick.opens), (None, 0));
    brick.release();
    assert_eq!(brick.status_of(first), Some(Status::Ok));
    assert_eq!((table(&brick), brick.tables), (vec![0], 1));
    written(&mut brick, alice, 0, 7);
    assert_eq!(brick.tables, 1, "an active shard costs nothing");
}

#[test]
fn activity_is_committed_in_groups() {
    let (mut brick, alice) = holder();
    brick.hold = is_table;
    let mut requests = vec![write(&mut brick, alice, 0, 0)];
    for nth in [1, 2, 1, 0] {
        requests.push(write(&mut brick, alice, nth, requests.len() as u16));
    }
    assert_eq!(brick.held.len(), 1, "one table of a lane in flight");
    let (core, operation, _) = brick.held.pop_front().expect("held");
    brick.active.insert(LaneIndex(1), vec![active(0)]);
    brick.event(core, Event::DiskDone { operation, result: Ok(DiskOutput::Done) });
    let answered = requests.iter().map(|request| brick.status_of(*request).is_some());
    assert_eq!(answered.collect::<Vec<_>>(), [true, false, false, false, true]);
    assert_eq!(brick.held.len(), 1, "the others gathered");
    brick.release();
    assert!(requests[1..4].iter().all(|request| brick.status_of(*request) == Some(Status::Ok)));
    assert_eq!(table(&brick), [0, 1, 2]);
}

fn active(nth: usize) -> ActiveShard {
    ActiveShard { image: image(), shard: shard(nth), shard_shift: limits::SHARD_SHIFT_MIN }
}

#[test]
fn activity_that_cant_be_logged_fails_the_write() {
    let (mut brick, alice) = holder();
    brick.fail = |request| is_table(request).then_some(DiskError::Errno(5));
    let failed = write(&mut brick, alice, 0, 0);
    assert_eq!((brick.status_of(failed), brick.opens), (Some(Status::Io), 0));
    brick.fail = |_| None;
    written(&mut brick, alice, 0, 0);
    assert_eq!(table(&brick), [0]);
}

#[test]
fn activity_checks_the_fence_after_the_wait() {
    let (mut brick, alice) = holder();
    let bob = brick.connect(0, BOB, 1);
    brick.hold = is_table;
    let late = write(&mut brick, alice, 0, 0);
    let promise = brick.prepare(bob, epoch(2, BOB), Flags::FORCE);
    assert_eq!(brick.status_of(late), Some(Status::StaleEpoch));
    assert_eq!(brick.status_of(promise), Some(Status::Ok), "nobody waits for the log");
    brick.release();
    assert_eq!(brick.opens, 0);
}

#[test]
fn activity_of_clean_shards_ends_without_a_save() {
    let (mut brick, alice) = holder();
    for nth in 0..6 {
        written(&mut brick, alice, nth, 0);
    }
    clean(&mut brick, alice);
    written(&mut brick, alice, 0, 0);
    for nth in 6..8 {
        written(&mut brick, alice, nth, 0);
    }
    // 1, the longest unused; 2 follows, its page has just been saved.
    assert_eq!((table(&brick), brick.saves), (vec![0, 2, 3, 4, 5, 6, 7], 0));
}

#[test]
fn activity_of_dirty_shards_ends_after_a_save_only() {
    let (mut brick, alice) = holder();
    for nth in 0..6 {
        written(&mut brick, alice, nth, 0);
    }
    brick.hold = is_save;
    for nth in 6..8 {
        written(&mut brick, alice, nth, 0);
    }
    assert_eq!((table(&brick).len(), brick.held.len()), (8, 1), "into the spare room");
    let waits = write(&mut brick, alice, 8, 0);
    let rewritten = write(&mut brick, alice, 0, 9);
    assert_eq!(brick.status_of(waits), None, "the table is full");
    assert_eq!(brick.status_of(rewritten), Some(Status::Ok));
    brick.release();
    assert_eq!(brick.status_of(waits), Some(Status::Ok));
    let left = table(&brick);
    assert!(left.contains(&0), "it got a bit after the save had begun");
    assert!(left.contains(&7) && left.contains(&8) && !left.contains(&1) && left.len() == 6, "{left:?}");
    let (mut again, alice) = crashed(&brick, Role::Data);
    assert_eq!(dirty_blocks(&mut again, alice), 6 * SHARD_BLOCKS + 3, "the rest is saved, by the block");
}

#[test]
fn activity_without_room_fails_with_the_save() {
    let (mut brick, alice) = holder();
    brick.fail = |request| is_save(request).then_some(DiskError::NoSpace);
    for nth in 0..8 {
        written(&mut brick, alice, nth, 0);
    }
    let failed = write(&mut brick, alice, 8, 0);
    assert_eq!(brick.status_of(failed), Some(Status::NoSpace));
    written(&mut brick, alice, 3, 1);
    clean(&mut brick, alice);
    written(&mut brick, alice, 8, 0);
}

#[test]
fn activity_is_held_while_a_write_is_in_flight() {
    let (mut brick, alice) = holder_of(EngineConfig { active_shards_max: 1, ..config(0, 0, 1) });
    brick.hold = is_data_write;
    let first = write(&mut brick, alice, 0, 0);
    let second = write(&mut brick, alice, 1, 0);
    clean(&mut brick, alice);
    assert_eq!((table(&brick), brick.saves), (vec![0], 0), "neither cleaning nor saving helps");
    brick.release();
    assert_eq!(brick.status_of(first), Some(Status::Ok));
    assert_eq!(brick.status_of(second), Some(Status::Ok));
    assert_eq!(table(&brick), [1]);
}

#[test]
fn activity_makes_an_arbiters_answer_wait() {
    let (mut brick, alice) = holder_of(arbiter());
    brick.hold = is_table;
    let first = dummy(&mut brick, alice, 0);
    assert_eq!(brick.status_of(first), None);
    brick.release();
    assert_eq!(brick.status_of(first), Some(Status::Ok));
    let second = dummy(&mut brick, alice, 0);
    assert_eq!((brick.status_of(second), brick.tables), (Some(Status::Ok), 1));
    let (mut again, alice) = crashed(&brick, Role::Arbiter);
    assert_eq!(dirty_blocks(&mut again, alice), SHARD_BLOCKS);
}

#[test]
fn activity_survives_crash_after_crash() {
    let (mut brick, alice) = holder();
    written(&mut brick, alice, 0, 3);
    let (again, _) = crashed(&brick, Role::Data);
    let (mut again, alice) = crashed(&again, Role::Data);
    assert_eq!(dirty_blocks(&mut again, alice), SHARD_BLOCKS, "the second life wrote nothing");
    written(&mut again, alice, 1, 3);
    assert_eq!(table(&again), [0, 1], "a table carries on what it found");
    clean(&mut again, alice);
    assert_eq!(dirty_blocks(&mut again, alice), 0);
    let reply = again.ask(alice, request(Opcode::ImageStatus), image().to_bytes().to_vec(), None);
    assert!(reply.expect("answered").header.flags.contains(Flags::EXACT));
}

#[test]
fn activity_of_loaded_shards_ends_after_a_save_only() {
    let (mut brick, alice) = holder();
    for nth in 0..6 {
        written(&mut brick, alice, nth, 0);
    }
    let (mut again, alice) = crashed(&brick, Role::Data);
    for nth in 6..12 {
        written(&mut again, alice, nth, 0);
    }
    assert!(again.saves > 0 && table(&again).len() <= 8);
    let (mut last, alice) = crashed(&again, Role::Data);
    let active = table(&again);
    let count = |nth: usize| if active.contains(&nth) || nth < 6 { SHARD_BLOCKS } else { 1 };
    assert_eq!(dirty_blocks(&mut last, alice), (0..12).map(count).sum::<u64>());
}
