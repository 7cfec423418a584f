//! Scripted stories about rot: blocks and pages of CRCs that read as something nobody wrote.
//!
//! The checker listens all the time: no step may ever return such bytes. Each story ends with both copies whole.

use brick_tests::sim::scenario::{ARBITERED, Scenario};
use brick_wire::{SessionId, ShardIndex};

const GARBAGE: [u64; 2] = [0xbad0_bad0, 0xbad1_bad1];
/// Of the simulator's shards; the page of CRCs is the block behind them.
const SHARD_BLOCKS: u16 = 256;

fn rot(scenario: &mut Scenario, brick: usize, block: u16) {
    let file = scenario.world.file(ShardIndex(0));
    scenario.world.bricks[brick].disk.rot(file, block, GARBAGE);
}

fn is_rotten(scenario: &Scenario, brick: usize, block: u16) -> bool {
    let file = scenario.world.file(ShardIndex(0));
    scenario.world.bricks[brick].disk.is_rotten(file, block)
}

/// An open image with a flushed block on both copies, which nobody lists any more.
fn written() -> (Scenario, SessionId, u64) {
    let mut scenario = Scenario::new(&ARBITERED);
    let id = scenario.open();
    let tag = scenario.write(id, 0, 3);
    scenario.try_flush(id).unwrap();
    scenario.pause(3000);
    (scenario, id, tag)
}

fn repaired(scenario: &Scenario, id: SessionId) -> u64 {
    scenario.world.sessions[&id].group.report().repaired_blocks
}

/// rot: a block of either copy. The read that meets it is served by the other, and the block is written again.
#[test]
fn rot_is_never_served_and_mended_at_once() {
    for brick in 0..2 {
        let (mut scenario, id, tag) = written();
        rot(&mut scenario, brick, 3);
        // One of these reads is the rotten copy's.
        for _ in 0..4 {
            assert_eq!(scenario.read(id, 0, 3), tag);
        }
        if brick == 1 {
            // Reads of this image go to the first copy when both are idle: this one is asked when that is gone.
            scenario.kill(0);
            let answer = scenario.try_read(id, 0, 3);
            assert!(answer.is_err(), "the only copy left is rotten: {answer:?}");
            scenario.start(0);
            scenario.pause(1000);
            scenario.until_healthy(id);
            assert_eq!(scenario.read(id, 0, 3), tag);
        }
        scenario.pause(3000);
        assert!(!is_rotten(&scenario, brick, 3), "it was written again");
        assert_eq!(repaired(&scenario, id), 1);
        scenario.pause(1000);
        scenario.end(id);
    }
}

/// rot: in different blocks of both copies, within one read. Each is the other's help, and the read waits for it.
#[test]
fn rot_in_both_copies_is_mended_crosswise() {
    let (mut scenario, id, tag) = written();
    let other = scenario.write(id, 0, 4);
    scenario.try_flush(id).unwrap();
    rot(&mut scenario, 0, 3);
    rot(&mut scenario, 1, 4);
    assert_eq!(scenario.read_tags(id, 0, 3, 2), [tag, other]);
    scenario.pause(3000);
    assert_eq!((is_rotten(&scenario, 0, 3), is_rotten(&scenario, 1, 4)), (false, false));
    assert_eq!(repaired(&scenario, id), 2);
    scenario.end(id);
}

/// rot: the same block of both copies. Its reader is told; everything else goes on, and writing it mends it.
#[test]
fn rot_of_a_block_in_both_copies_costs_that_block_only() {
    let (mut scenario, id, _) = written();
    let other = scenario.write(id, 0, 4);
    scenario.try_flush(id).unwrap();
    rot(&mut scenario, 0, 3);
    rot(&mut scenario, 1, 3);
    for _ in 0..3 {
        assert!(scenario.try_read(id, 0, 3).is_err());
        assert_eq!(scenario.read(id, 0, 4), other);
        scenario.pause(2000);
        assert_eq!(scenario.in_sync(id).count(), 2, "nobody leaves S for it");
    }
    let tag = scenario.write(id, 0, 3);
    assert_eq!(scenario.read(id, 0, 3), tag);
    scenario.pause(3000);
    scenario.end(id);
}

/// rot: a block of the copy that a recovery takes as right. It is repaired from the one that is to be made equal.
#[test]
fn rot_in_the_source_of_a_recovery_is_mended_from_the_target() {
    let (mut scenario, id, tag) = written();
    rot(&mut scenario, 0, 3);
    scenario.world.drop_session(id, true);
    scenario.kill(1);
    scenario.start(1);
    scenario.pause(3000);
    let id = scenario.open();
    assert_eq!(scenario.in_sync(id).count(), 2, "both copies are good after it");
    assert_eq!(scenario.read(id, 0, 3), tag);
    assert!(!is_rotten(&scenario, 0, 3));
    scenario.pause(3000);
    scenario.end(id);
}

/// rot: a brick crashes and forgets the CRCs of its active shards. It takes those of the good copy, and what had rotted is
/// met when it is read.
#[test]
fn rot_isnt_blessed_by_a_crash() {
    let (mut scenario, id, tag) = written();
    scenario.pause(3000);
    let file = scenario.world.file(ShardIndex(0));
    scenario.kill(0);
    scenario.world.bricks[0].disk.rot(file, 3, GARBAGE);
    scenario.write(id, 0, 7);
    scenario.start(0);
    scenario.pause(1000);
    scenario.until_healthy(id);
    for _ in 0..4 {
        assert_eq!(scenario.read(id, 0, 3), tag);
    }
    assert!(!is_rotten(&scenario, 0, 3));
    scenario.pause(3000);
    scenario.end(id);
}

/// rot: what a crash made a brick forget is looked at after the heal, though no user ever reads it, and mended.
#[test]
fn rot_that_a_crash_hid_is_mended_without_a_read() {
    let (mut scenario, id, _) = written();
    scenario.pause(3000);
    scenario.kill(0);
    rot(&mut scenario, 0, 3);
    scenario.write(id, 0, 7);
    scenario.start(0);
    scenario.pause(1000);
    scenario.until_healthy(id);
    scenario.pause(6000);
    assert!(!is_rotten(&scenario, 0, 3));
    assert_eq!(repaired(&scenario, id), 1);
    scenario.end(id);
}

/// rot: part of a block is written while the first copy's is rotten. The other copy's is what is modified.
#[test]
fn rot_doesnt_get_into_a_block_that_is_modified() {
    let (mut scenario, id, tag) = written();
    rot(&mut scenario, 0, 3);
    let half = scenario.modify(id, 0, 3, 1);
    assert_eq!(scenario.read_halves(id, 0, 3), [tag, half]);
    scenario.pause(3000);
    scenario.end(id);
}

/// rot: the page of CRCs, met after a restart. It takes no good block with it, and is written anew.
#[test]
fn rot_of_a_page_takes_no_good_block_with_it() {
    let (mut scenario, id, tag) = written();
    scenario.end_session(id);
    scenario.stop(0);
    rot(&mut scenario, 0, SHARD_BLOCKS);
    scenario.start(0);
    let id = scenario.open();
    for _ in 0..4 {
        assert_eq!(scenario.read(id, 0, 3), tag);
    }
    scenario.write(id, 0, 5);
    scenario.pause(3000);
    scenario.end(id);
}

/// rot: a good copy that is rotten where the returning one is stale. The rest waits for a source that can vouch.
#[test]
fn rot_in_the_source_never_reaches_the_target() {
    let (mut scenario, id, _) = written();
    scenario.kill(1);
    scenario.write(id, 0, 3);
    scenario.try_flush(id).unwrap();
    rot(&mut scenario, 0, 3);
    scenario.start(1);
    scenario.pause(3000);
    let in_sync = scenario.world.sessions[&id].group.report().in_sync;
    assert_eq!(in_sync.count(), 1, "the stale copy isn't good");
    // The user writes it anew.
    let tag = scenario.write(id, 0, 3);
    scenario.until_healthy(id);
    assert_eq!(scenario.read(id, 0, 3), tag);
    scenario.pause(3000);
    scenario.end(id);
}
