//! Frames that tell an arbiter of many writes: one answer, given when all of them are in effect or won't be.

use brick_wire::body::Attach;
use brick_wire::checksum::block_crcs;
use brick_wire::cursor::Body;
use brick_wire::placement::lane_of;
use brick_wire::*;

use super::data::dirty_blocks;
use super::harness::*;
use crate::engine::*;

const EPOCH: Epoch = Epoch { counter: 1, session: ALICE };

/// Tells of a write of one block, full of `byte`, for each shard and block.
fn tell(brick: &mut Brick, alice: ConnectionId, writes: &[(u32, u16, u8)]) -> RequestId {
    let data: Vec<Vec<u8>> = writes.iter().map(|(_, _, byte)| blocks(*byte, 1)).collect();
    let writes: Vec<(ShardIndex, u16, &[u8])> =
        writes.iter().zip(&data).map(|(write, data)| (ShardIndex(write.0), write.1, &data[..])).collect();
    let (header, aux) = dummy_writes(EPOCH, &writes);
    brick.send(alice, header, aux, None)
}

/// Whether the arbiter knows a block to be full of `byte`.
fn knows(brick: &Brick, shard: u32, block: u16, byte: u8) -> bool {
    let crc = block_crcs(&blocks(byte, 1)).next().expect("a block");
    brick.engines[0].known_crc(image(), ShardIndex(shard), block) == Some(Some(crc))
}

#[test]
fn dummy_writes_are_answered_once_when_all_are_in_effect() {
    let (mut brick, alice) = holder_of(arbiter());
    let first = tell(&mut brick, alice, &[(0, 3, 1)]);
    assert_eq!(brick.status_of(first), Some(Status::Ok));
    brick.hold = is_table;
    let mixed = tell(&mut brick, alice, &[(0, 4, 2), (1, 5, 3), (2, 6, 4)]);
    assert_eq!(brick.status_of(mixed), None, "two of the shards aren't active yet");
    assert!(knows(&brick, 0, 4, 2) && !knows(&brick, 1, 5, 3));
    assert_eq!(dirty_blocks(&mut brick, alice), 4, "bits come before everything else");
    brick.release();
    assert_eq!(brick.status_of(mixed), Some(Status::Ok));
    assert!(knows(&brick, 1, 5, 3) && knows(&brick, 2, 6, 4));
    assert!(brick.replies.is_empty(), "one answer");
}

#[test]
fn dummy_writes_to_one_block_take_effect_in_their_order() {
    let (mut brick, alice) = holder_of(arbiter());
    brick.hold = is_table;
    let first = tell(&mut brick, alice, &[(0, 3, 1), (0, 3, 2)]);
    let second = tell(&mut brick, alice, &[(0, 3, 3)]);
    brick.release();
    assert_eq!([first, second].map(|request| brick.status_of(request)), [Some(Status::Ok); 2]);
    assert!(knows(&brick, 0, 3, 3));
}

#[test]
fn dummy_writes_to_a_shard_of_another_size_are_refused() {
    let (mut brick, alice) = holder_of(arbiter());
    let first = tell(&mut brick, alice, &[(0, 3, 1)]);
    assert_eq!(brick.status_of(first), Some(Status::Ok));
    // Somebody takes the image's shards for larger ones.
    let attach = Attach { image: image(), shard_shift: limits::SHARD_SHIFT_MIN + 2 };
    let larger = ImageHandle(HANDLE.0 + 1);
    let header = Header { image: larger, ..request(Opcode::Attach) };
    let attached = brick.send(alice, header, attach.to_bytes(), None);
    assert_eq!(brick.status_of(attached), Some(Status::Ok));
    let data = blocks(2, 1);
    for block in [3, 300] {
        let (header, aux) = dummy_writes(EPOCH, &[(ShardIndex(0), block, &data)]);
        let refused = brick.send(alice, Header { image: larger, ..header }, aux, None);
        assert_eq!(brick.status_of(refused), Some(Status::Invalid), "block {block}");
    }
    assert!(knows(&brick, 0, 3, 1));
}

#[test]
fn dummy_writes_that_make_no_sense_change_nothing() {
    let (mut brick, alice) = holder_of(arbiter());
    // Shards of 1 MiB have 256 blocks.
    let beyond = tell(&mut brick, alice, &[(0, 3, 1), (0, 256, 1)]);
    assert_eq!(brick.status_of(beyond), Some(Status::Invalid));
    let (header, mut aux) = dummy_writes(EPOCH, &[(ShardIndex(0), 3, &blocks(1, 2))]);
    aux.pop();
    let torn = brick.send(alice, header, aux, None);
    assert_eq!(brick.status_of(torn), Some(Status::Invalid));
    assert_eq!(dirty_blocks(&mut brick, alice), 0);
}

#[test]
fn dummy_writes_fail_with_what_failed_first() {
    let (mut brick, alice) = holder_of(arbiter());
    let first = tell(&mut brick, alice, &[(0, 3, 1)]);
    assert_eq!(brick.status_of(first), Some(Status::Ok));
    brick.fail = |request| is_table(request).then_some(DiskError::Errno(5));
    let failed = tell(&mut brick, alice, &[(0, 4, 2), (1, 5, 3), (2, 6, 4)]);
    assert_eq!(brick.status_of(failed), Some(Status::Io));
    assert!(brick.replies.is_empty(), "one answer");
    assert_eq!(dirty_blocks(&mut brick, alice), 4, "the copies may have them");
    brick.fail = |_| None;
    let again = tell(&mut brick, alice, &[(1, 5, 3), (2, 6, 4)]);
    assert_eq!(brick.status_of(again), Some(Status::Ok));
}

#[test]
fn dummy_writes_are_refused_as_soon_as_one_is() {
    let (mut brick, alice) = holder_of(arbiter());
    let in_lane = |lane| {
        (0..)
            .find(|shard| lane_of(image(), ShardIndex(*shard), LANES) == LaneIndex(lane))
            .expect("lanes are spread")
    };
    let (refused, waiting) = (in_lane(1), in_lane(2));
    brick.fail = |request| {
        matches!(request, DiskRequest::WriteActivity { lane: LaneIndex(1), .. }).then_some(DiskError::NoSpace)
    };
    brick.hold = |request| matches!(request, DiskRequest::WriteActivity { lane: LaneIndex(2), .. });
    let told = tell(&mut brick, alice, &[(waiting, 3, 1), (refused, 4, 2)]);
    assert_eq!(brick.status_of(told), Some(Status::Io), "before anybody can ask for block 4");
    let bob = brick.connect(0, BOB, 1);
    brick.release();
    assert!(brick.replies.is_empty() && knows(&brick, waiting, 3, 1), "answered once");
    let promise = brick.prepare(bob, epoch(2, BOB), Flags::FORCE);
    assert_eq!(brick.status_of(promise), Some(Status::Ok), "nothing is left open");
}

#[test]
fn dummy_writes_are_taken_back_where_another_session_is_promised() {
    let (mut brick, alice) = holder_of(arbiter());
    let bob = brick.connect(0, BOB, 1);
    let first = tell(&mut brick, alice, &[(0, 3, 1)]);
    assert_eq!(brick.status_of(first), Some(Status::Ok));
    brick.hold = is_table;
    let waiting = tell(&mut brick, alice, &[(0, 4, 2), (1, 5, 3)]);
    let promise = brick.prepare(bob, epoch(2, BOB), Flags::FORCE);
    assert_eq!(brick.status_of(waiting), Some(Status::StaleEpoch));
    assert_eq!(brick.status_of(promise), Some(Status::Ok), "nothing is left to wait for");
    brick.release();
    assert!(!knows(&brick, 1, 5, 3));
}

#[test]
fn dummy_writes_vanish_with_their_connection() {
    let (mut brick, alice) = holder_of(arbiter());
    brick.hold = is_table;
    tell(&mut brick, alice, &[(0, 4, 2), (1, 5, 3)]);
    brick.event(0, Event::Disconnected { connection: alice });
    brick.release();
    assert!(brick.replies.is_empty());
    let again = brick.connect(0, ALICE, 2);
    let told = tell(&mut brick, again, &[(1, 5, 3)]);
    assert_eq!(brick.status_of(told), Some(Status::Ok));
}
