//! Stories that operators know, told step by step to the simulated cluster.
//!
//! Each test names its area and situation, and its first comment says what must come of it.

use std::time::Duration;

use brick_client::replica::{GroupError, Purpose};
use brick_tests::sim::scenario::{ARBITERED, Scenario, THREEFOLD, is_error};
use brick_tests::sim::world::World;
use brick_wire::record::RecordKind;
use brick_wire::{BrickIndex, BrickSet};

fn bricks(indexes: &[u8]) -> BrickSet {
    indexes.iter().copied().map(BrickIndex).collect()
}

/// heal: brick returns while writes go on. It moves the blocks that changed, and no others.
#[test]
fn heal_moves_exactly_the_changed_blocks() {
    let mut scenario = Scenario::new(&ARBITERED);
    let id = scenario.open();
    for block in 0..64 {
        scenario.write(id, 0, block);
    }
    scenario.try_flush(id).unwrap();
    scenario.pause(10);
    scenario.kill(1);
    for round in 0..1000 {
        scenario.write(id, 0, round % 40);
    }
    assert_eq!(scenario.in_sync(id), bricks(&[0]));
    scenario.start(1);
    for round in 0..100 {
        scenario.write(id, 0, round % 40);
    }
    scenario.until_healthy(id);
    let report = scenario.world.sessions[&id].group.report();
    assert!(report.healed_blocks > 0 && report.healed_blocks <= 40, "{report:?}");
    // It was killed, and forgot the CRCs of its active shard: it is told those, and nothing else is read or compared.
    assert!(report.compared_blocks <= 40, "{report:?}");
    scenario.end(id);
}

/// open: the stale copy and the arbiter. A quorum, but it must refuse rather than serve old data.
#[test]
fn open_refuses_a_stale_copy() {
    let mut scenario = Scenario::new(&ARBITERED);
    let id = scenario.open();
    scenario.write(id, 0, 0);
    scenario.kill(1);
    let tag = scenario.write(id, 0, 0);
    scenario.world.close(id).unwrap();
    scenario.kill(0);
    scenario.start(1);
    let (stale, opened) = scenario.try_open(0, false);
    assert!(is_error(&opened, |error| matches!(error, GroupError::NoGoodCopy { .. })), "{opened:?}");
    scenario.world.drop_session(stale, false);
    scenario.start(0);
    let id = scenario.open();
    scenario.until_healthy(id);
    scenario.pause(100);
    assert_eq!(scenario.durable(1, 0, 0), tag);
    scenario.end(id);
}

/// quorum: two of three away. I/O waits for the I/O timeout, fails, and works again when they are back.
#[test]
fn quorum_lost_fails_after_the_timeout_and_resumes() {
    let mut scenario = Scenario::new(&ARBITERED);
    let id = scenario.open();
    scenario.write(id, 0, 0);
    scenario.kill(1);
    scenario.kill(2);
    let before = scenario.world.now();
    let answer = scenario.try_write(id, 0, 1);
    assert!(is_error(&answer, |error| matches!(error, GroupError::NoQuorum { .. })), "{answer:?}");
    let waited = scenario.world.now().since(before);
    let patience = scenario.world.config.io_timeout;
    assert!(waited >= patience && waited < patience + Duration::from_millis(500), "{waited:?}");
    scenario.start(1);
    scenario.start(2);
    scenario.pause(1000);
    scenario.write(id, 0, 1);
    scenario.until_healthy(id);
    scenario.pause(1000);
    scenario.end(id);
}

/// recovery: a client dies with a write on one copy only. The next session makes the copies equal.
#[test]
fn recovery_makes_a_dead_clients_last_write_equal() {
    let mut scenario = Scenario::new(&ARBITERED);
    let id = scenario.open();
    scenario.write(id, 0, 3);
    // The arbiter is told what it missed while the image was opened: not in the way of the next write.
    scenario.pause(100);
    let host = scenario.world.network.client_host(0);
    scenario.world.network.set_blocked(host, 1, true);
    let (_, tag) = scenario.begin_write(id, 0, 3);
    scenario.pause(5);
    scenario.world.drop_session(id, true);
    scenario.pause(3000);
    scenario.world.network.heal(&mut scenario.world.agenda);
    let id = scenario.open();
    let request = scenario.world.request(
        id,
        brick_tests::sim::checker::What::Read(brick_wire::ShardIndex(0), brick_wire::BlockRange::new(3, 1)),
    );
    scenario.answer(id, request).unwrap();
    scenario.try_flush(id).unwrap();
    assert_eq!(scenario.durable(0, 0, 3), scenario.durable(1, 0, 3));
    assert_eq!(scenario.durable(0, 0, 3), tag);
    scenario.until_healthy(id);
    scenario.pause(1000);
    scenario.end(id);
}

/// flush: the only copy in sync loses power with unflushed writes. The session has to say so.
#[test]
fn flush_reports_writes_lost_with_the_only_copy() {
    let mut scenario = Scenario::new(&ARBITERED);
    let id = scenario.open();
    scenario.write(id, 0, 0);
    scenario.kill(1);
    scenario.write(id, 0, 1);
    scenario.lose_power(0);
    scenario.pause(100);
    scenario.start(0);
    let answer = scenario.try_flush(id);
    assert!(is_error(&answer, |error| *error == GroupError::LostWrites), "{answer:?}");
    scenario.world.drop_session(id, false);
    scenario.start(1);
    let id = scenario.open();
    scenario.until_healthy(id);
    scenario.pause(1000);
    scenario.end(id);
}

/// lease: a takeover. The old session never completes anything again.
#[test]
fn lease_taken_over_fences_the_old_session() {
    let mut scenario = Scenario::new(&ARBITERED);
    let old = scenario.open();
    scenario.write(old, 0, 0);
    let (held, opened) = scenario.try_open(1, false);
    assert!(is_error(&opened, |error| matches!(error, GroupError::Held { .. })), "{opened:?}");
    scenario.world.drop_session(held, false);
    let (new, opened) = scenario.try_open(1, true);
    opened.unwrap();
    scenario.write(new, 0, 0);
    let answer = scenario.try_write(old, 0, 0);
    assert!(is_error(&answer, |error| matches!(error, GroupError::Fenced { .. })), "{answer:?}");
    scenario.write(new, 0, 0);
    scenario.world.drop_session(old, false);
    scenario.until_healthy(new);
    scenario.pause(100);
    scenario.end(new);
}

/// fencing: connections break with a write at a slow disk. The write never lands after its repetition, or
/// after the next write to the same block.
#[test]
fn fencing_drains_a_broken_connections_write() {
    let mut scenario = Scenario::new(&ARBITERED);
    let id = scenario.open();
    scenario.write(id, 0, 0);
    scenario.world.brick(BrickIndex(0)).slowness = 2000;
    let (first, _) = scenario.begin_write(id, 0, 0);
    scenario.pause(2);
    scenario.world.brick(BrickIndex(0)).slowness = 1;
    scenario.break_connections(bricks(&[0, 1, 2]));
    let (second, tag) = scenario.begin_write(id, 0, 0);
    scenario.answer(id, first).unwrap();
    scenario.answer(id, second).unwrap();
    scenario.until_healthy(id);
    scenario.try_flush(id).unwrap();
    scenario.pause(1000);
    assert_eq!((scenario.durable(0, 0, 0), scenario.durable(1, 0, 0)), (tag, tag));
    scenario.end(id);
}

/// join: what a brick pulled is flushed before it counts as a copy.
#[test]
fn join_flushes_before_it_counts() {
    let mut scenario = Scenario::new(&ARBITERED);
    let id = scenario.open();
    for block in 0..8 {
        scenario.write(id, 1, block);
    }
    scenario.try_flush(id).unwrap();
    scenario.kill(1);
    let tags: Vec<u64> = (0..8).map(|block| scenario.write(id, 1, block)).collect();
    scenario.start(1);
    scenario.until("the brick is in sync again", |world| {
        world.sessions[&id].group.report().in_sync == bricks(&[0, 1])
    });
    for (block, tag) in tags.iter().enumerate() {
        assert_eq!(scenario.durable(1, 1, block as u16), *tag, "block {block}");
    }
    scenario.pause(100);
    scenario.end(id);
}

/// space: one brick is full. The write succeeds on the other, and the full one leaves S.
#[test]
fn space_gone_on_one_brick_drops_it() {
    let mut scenario = Scenario::new(&ARBITERED);
    let id = scenario.open();
    scenario.world.brick(BrickIndex(1)).full = true;
    scenario.write(id, 2, 0);
    assert_eq!(scenario.in_sync(id), bricks(&[0]));
    scenario.world.brick(BrickIndex(1)).full = false;
    scenario.until_healthy(id);
    scenario.pause(100);
    scenario.end(id);
}

/// space: every brick is full. The user is told, and no copy is worse than the other (GlusterFS issue 4613).
#[test]
fn space_gone_everywhere_keeps_the_copies() {
    let mut scenario = Scenario::new(&ARBITERED);
    let id = scenario.open();
    scenario.world.brick(BrickIndex(0)).full = true;
    scenario.world.brick(BrickIndex(1)).full = true;
    let answer = scenario.try_write(id, 2, 0);
    assert!(is_error(&answer, |error| *error == GroupError::NoSpace), "{answer:?}");
    assert_eq!(scenario.in_sync(id), bricks(&[0, 1]));
    scenario.world.brick(BrickIndex(0)).full = false;
    scenario.world.brick(BrickIndex(1)).full = false;
    scenario.write(id, 2, 0);
    scenario.pause(15_000);
    scenario.end(id);
}

/// heal: a second brick of three dies during the first one's heal. I/O goes on, and both come back.
#[test]
fn heal_survives_a_second_failure() {
    let mut scenario = Scenario::new(&THREEFOLD);
    let id = scenario.open();
    for block in 0..64 {
        scenario.write(id, 0, block);
    }
    scenario.kill(2);
    for block in 0..64 {
        scenario.write(id, 0, block);
    }
    scenario.start(2);
    scenario.until("the heal has begun", |world| world.sessions[&id].group.report().blocks_to_heal > 0);
    scenario.kill(1);
    for block in 0..64 {
        scenario.write(id, 1, block);
    }
    scenario.start(1);
    scenario.until_healthy(id);
    scenario.pause(100);
    scenario.end(id);
}

/// declare-good: the only good copy is lost for good. A stale copy serves after the operator said so, and the
/// lost brick, when it returns after all, is healed from it and never believed.
#[test]
fn a_declared_copy_serves_and_the_lost_one_is_healed_from_it() {
    let mut scenario = Scenario::new(&ARBITERED);
    let id = scenario.open();
    let old = scenario.write(id, 0, 0);
    scenario.try_flush(id).unwrap();
    scenario.kill(1);
    scenario.write(id, 0, 1);
    scenario.world.close(id).unwrap();
    scenario.kill(0);
    scenario.start(1);
    let (refused, opened) = scenario.try_open(0, false);
    assert!(is_error(&opened, |error| matches!(error, GroupError::NoGoodCopy { .. })), "{opened:?}");
    scenario.world.drop_session(refused, false);

    let (operator, declared) = scenario.declare_good(1);
    assert_eq!(declared, Ok(()));
    assert_eq!(scenario.in_sync(operator), bricks(&[1]));
    scenario.world.close(operator).unwrap();
    // What it missed is lost, as the operator was told.
    scenario.world.checker = Default::default();

    scenario.start(0);
    let id = scenario.open();
    scenario.until_healthy(id);
    scenario.try_flush(id).unwrap();
    for brick in [0, 1] {
        assert_eq!(scenario.durable(brick, 0, 0), old, "brick {brick}");
        assert_eq!(scenario.durable(brick, 0, 1), 0, "brick {brick}");
    }
    scenario.end(id);
}

/// declare-good: of a brick that is away, or of an arbiter. Refused, and the record stays as it is.
#[test]
fn only_a_data_brick_that_answers_can_be_declared_good() {
    let mut scenario = Scenario::new(&ARBITERED);
    let id = scenario.open();
    scenario.write(id, 0, 0);
    scenario.world.close(id).unwrap();
    scenario.kill(1);
    for brick in [1, 2] {
        let (operator, declared) = scenario.declare_good(brick);
        assert!(
            is_error(&declared, |error| matches!(error, GroupError::CannotDeclare { .. })),
            "{declared:?}"
        );
        scenario.world.drop_session(operator, false);
    }
    scenario.start(1);
    let id = scenario.open();
    assert_eq!(scenario.in_sync(id), bricks(&[0, 1]));
    // Longer than bits of its active shards stay after the crash.
    scenario.pause(3000);
    scenario.end(id);
}

/// declare-good: while a client has the image. Refused: its lease runs.
#[test]
fn a_copy_in_use_is_not_declared_good() {
    let mut scenario = Scenario::new(&ARBITERED);
    let id = scenario.open();
    scenario.write(id, 0, 0);
    let (operator, declared) = scenario.declare_good(1);
    assert!(is_error(&declared, |error| matches!(error, GroupError::Held { .. })), "{declared:?}");
    scenario.world.drop_session(operator, false);
    scenario.write(id, 0, 0);
    scenario.until_healthy(id);
    scenario.pause(3000);
    scenario.end(id);
}

/// epoch: the last copy loses power between the promise and the accept of the change that leaves it alone in
/// S, and the accept reaches the arbiter only later. It may have been decided, so the next session has to
/// serve from that copy, unflushed writes or not; what was flushed is there, and nobody reads two ways.
#[test]
fn epoch_accepted_after_its_last_copy_lost_power() {
    let mut lost = 0;
    for seed in 0..20 {
        let mut scenario = Scenario::seeded(&ARBITERED, seed);
        let id = scenario.open();
        let flushed = scenario.write(id, 0, 0);
        scenario.try_flush(id).unwrap();
        let completed = scenario.write(id, 0, 0);
        let before = scenario.votes(2).0;
        scenario.kill(1);
        scenario.begin_write(id, 0, 1);
        scenario.until("both have promised", |world| {
            let promised = |brick: usize| {
                let key = brick_wire::register::RegisterKey::Epoch(brick_tests::sim::world::IMAGE);
                world.bricks[brick].disk.register(&key).expect("written").promised.counter
            };
            promised(0) > before && promised(2) > before
        });
        scenario.block_requests(0, 0, true);
        scenario.block_requests(0, 2, true);
        scenario.pause(5);
        scenario.lose_power(0);
        scenario.world.drop_session(id, true);
        scenario.block_requests(0, 2, false);
        scenario.pause(5);
        assert_eq!(scenario.votes(2).1, before + 1, "the accept arrived");
        scenario.start(0);
        scenario.start(1);
        scenario.pause(3000);
        let id = scenario.world.open_until_served(1).unwrap();
        let tag = scenario.read(id, 0, 0);
        assert!(tag == flushed || tag == completed, "{tag:#x}");
        lost += u32::from(tag == flushed);
        scenario.until_healthy(id);
        assert_eq!(scenario.read(id, 0, 0), tag);
        scenario.try_flush(id).unwrap();
        scenario.pause(1000);
        scenario.end(id);
    }
    assert!(lost > 0, "the copy never lost anything");
}

/// flush: the last copy accepts the change that leaves it alone in S, loses power, and then the change is
/// decided: a write completes on an answer that is older than the loss. The next flush has to say so.
#[test]
fn flush_reports_a_write_that_completed_after_its_copy_lost_power() {
    for seed in 0..10 {
        let mut scenario = Scenario::seeded(&ARBITERED, seed);
        let id = scenario.open();
        scenario.write(id, 0, 0);
        scenario.try_flush(id).unwrap();
        let before = scenario.votes(0).1;
        scenario.kill(1);
        let (request, _) = scenario.begin_write(id, 0, 0);
        scenario.until("both have promised", |world| {
            let key = brick_wire::register::RegisterKey::Epoch(brick_tests::sim::world::IMAGE);
            let promised = |brick: usize| world.bricks[brick].disk.register(&key).expect("written").promised;
            promised(0).counter > before && promised(2).counter > before
        });
        scenario.block_requests(0, 2, true);
        scenario.pause(5);
        assert_eq!((scenario.votes(0).1, scenario.votes(2).1), (before + 1, before));
        scenario.lose_power(0);
        scenario.block_requests(0, 2, false);
        scenario.answer(id, request).expect("the copy that is left answered before");
        scenario.start(0);
        let answer = scenario.try_flush(id);
        assert!(is_error(&answer, |error| *error == GroupError::LostWrites), "{answer:?}");
        scenario.world.drop_session(id, false);
        scenario.start(1);
        let id = scenario.open();
        let tag = scenario.read(id, 0, 0);
        scenario.until_healthy(id);
        assert_eq!(scenario.read(id, 0, 0), tag);
        scenario.pause(1000);
        scenario.end(id);
    }
}

/// recovery: three copies, and the source dies when one of the other two is equal to it and the other isn't.
/// They are made equal to each other before anybody reads.
#[test]
fn recovery_goes_on_when_its_source_dies() {
    let mut scenario = Scenario::new(&THREEFOLD);
    let id = scenario.open();
    scenario.write(id, 0, 0);
    scenario.try_flush(id).unwrap();
    scenario.block_requests(0, 1, true);
    scenario.block_requests(0, 2, true);
    let (_, tag) = scenario.begin_write(id, 0, 0);
    scenario.pause(5);
    scenario.world.drop_session(id, true);
    scenario.kill(1);
    scenario.kill(2);
    scenario.world.network.heal(&mut scenario.world.agenda);
    scenario.start(1);
    scenario.start(2);
    scenario.pause(3000);
    let file = scenario.world.file(brick_wire::ShardIndex(0));
    let id = scenario.world.open_by_hand(1, false);
    scenario.world.brick(BrickIndex(2)).slowness = 300;
    scenario.until("the first target is equal", |world| world.bricks[1].disk.intact(file, 0)[0] == tag);
    assert_ne!(scenario.world.bricks[2].disk.intact(file, 0)[0], tag);
    scenario.kill(0);
    scenario.world.brick(BrickIndex(2)).slowness = 1;
    scenario.until("it is open", |world| world.sessions[&id].opened.is_some());
    assert_eq!(scenario.world.sessions[&id].opened, Some(Ok(())));
    let held = |brick: usize| scenario.world.bricks[brick].disk.intact(file, 0)[0];
    assert_eq!(held(1), held(2), "copies in S are equal");
    scenario.start(0);
    scenario.until_healthy(id);
    scenario.pause(1000);
    scenario.end(id);
}

/// heal: the arbiter is silent, and a write began before the returning brick was ready for it. Only that brick's
/// acknowledgement completes the write, and the heal's pull of those blocks waits for the write.
#[test]
fn heal_takes_part_in_writes_that_only_it_can_complete() {
    let mut scenario = Scenario::new(&ARBITERED);
    let id = scenario.open();
    scenario.write(id, 0, 0);
    scenario.kill(1);
    scenario.write(id, 0, 0);
    let host = scenario.world.network.client_host(0);
    scenario.world.network.set_blocked(host, 2, true);
    let (request, _) = scenario.begin_write(id, 0, 0);
    scenario.pause(5);
    scenario.start(1);
    let answer = scenario.answer(id, request);
    assert!(answer.is_ok(), "{answer:?}");
    scenario.until("both copies are good", |world| world.sessions[&id].group.report().in_sync.count() == 2);
    scenario.world.network.heal(&mut scenario.world.agenda);
    scenario.pause(3000);
    scenario.end(id);
}

/// lease: a data brick is away, and the arbiter restarts: for a moment no quorum has renewed. It renews as soon as it is
/// back, and not with the next turn, which may be a quarter of the lease away.
#[test]
fn lease_is_renewed_as_soon_as_a_brick_is_back() {
    for pause in [30, 80, 130, 180, 230] {
        let mut scenario = Scenario::new(&ARBITERED);
        let id = scenario.open();
        scenario.kill(1);
        scenario.write(id, 0, 0);
        scenario.pause(1000 + pause);
        scenario.kill(2);
        scenario.start(2);
        let begun = scenario.world.agenda.now();
        scenario.read(id, 0, 0);
        let waited = scenario.world.agenda.now().since(begun);
        assert!(waited < Duration::from_millis(40), "{waited:?}");
        scenario.start(1);
        scenario.until_healthy(id);
        scenario.pause(1000);
        scenario.end(id);
    }
}

/// lease: a brick restarts while a dead client's lease runs off elsewhere. It says that more is left than the
/// others say; an opener must not take that for a sign of life.
#[test]
fn lease_of_a_dead_holder_looks_no_longer_because_a_brick_restarted() {
    let mut scenario = Scenario::new(&ARBITERED);
    let id = scenario.open();
    scenario.write(id, 0, 0);
    scenario.world.drop_session(id, true);
    scenario.pause(300);
    let left = |opened: &Result<(), GroupError>| match opened {
        Err(GroupError::Held { lease_left_ms, .. }) => *lease_left_ms,
        other => panic!("{other:?}"),
    };
    let (first, opened) = scenario.try_open(1, false);
    let before = left(&opened);
    scenario.world.drop_session(first, false);
    // What is left is told in whole milliseconds.
    scenario.pause(2);
    scenario.kill(1);
    scenario.start(1);
    let (second, opened) = scenario.try_open(1, false);
    assert!(left(&opened) < before, "{} after {before}", left(&opened));
    scenario.world.drop_session(second, false);
    scenario.pause(2000);
    let id = scenario.open();
    scenario.until_healthy(id);
    scenario.pause(3000);
    scenario.end(id);
}

/// heal: the arbiter is away, and the returning brick refuses, for lack of space, a write that only it can
/// complete. It is asked again when its heal starts over.
#[test]
fn heal_asks_again_for_a_write_that_was_refused() {
    let mut scenario = Scenario::new(&ARBITERED);
    let id = scenario.open();
    scenario.write(id, 0, 0);
    scenario.kill(1);
    scenario.write(id, 0, 0);
    scenario.kill(2);
    scenario.world.bricks[1].full = true;
    // A shard that doesn't exist yet, so space is needed.
    let (request, _) = scenario.begin_write(id, 2, 0);
    scenario.pause(5);
    scenario.start(1);
    scenario.pause(1500);
    let unanswered = scenario.world.sessions[&id].asked.contains_key(&request);
    assert!(unanswered, "the full brick can't complete it");
    scenario.world.bricks[1].full = false;
    let answer = scenario.answer(id, request);
    assert!(answer.is_ok(), "{answer:?}");
    scenario.until("both copies are good", |world| world.sessions[&id].group.report().in_sync.count() == 2);
    scenario.start(2);
    scenario.pause(3000);
    scenario.end(id);
}

/// heal agents: one of two takes the image, the other is kept out while the first renews, and takes over when the
/// first has died.
#[test]
fn agents_share_an_image_by_its_lease() {
    let mut scenario = Scenario::new(&ARBITERED);
    let id = scenario.open();
    scenario.kill(1);
    scenario.write(id, 0, 0);
    scenario.world.close(id).unwrap();
    let (first, opened) = scenario.try_heal(0);
    assert_eq!(opened, Ok(()));
    for _ in 0..3 {
        scenario.pause(scenario.world.config.lease.as_millis() as u64);
        let (other, opened) = scenario.try_heal(1);
        let by_first =
            |error: &GroupError| matches!(error, GroupError::Held { holder, .. } if *holder == first);
        assert!(is_error(&opened, by_first), "{opened:?}");
        scenario.world.drop_session(other, false);
    }
    scenario.world.drop_session(first, true);
    scenario.pause(scenario.world.config.lease.as_millis() as u64);
    let (other, opened) = scenario.try_heal(1);
    assert_eq!(opened, Ok(()));
    scenario.start(1);
    scenario.until_healthy(other);
    scenario.end(other);
}

/// heal agents: a client opens an image while an agent heals it. It is served at its first attempt, without a
/// takeover and as soon as if nobody had held the image; the agent is fenced and changes nothing any more.
#[test]
fn an_agent_gives_way_to_a_client() {
    let mut scenario = Scenario::new(&ARBITERED);
    let id = scenario.open();
    for block in 0..64 {
        scenario.write(id, 0, block);
    }
    scenario.kill(1);
    for block in 0..64 {
        scenario.write(id, 0, block);
    }
    scenario.world.close(id).unwrap();
    let before = scenario.world.now();
    let (alone, opened) = scenario.try_open(0, false);
    assert_eq!(opened, Ok(()));
    let usual = scenario.world.now().since(before);
    scenario.world.close(alone).unwrap();

    scenario.start(1);
    let (agent, opened) = scenario.try_heal(1);
    assert_eq!(opened, Ok(()));
    scenario.until("the heal has begun", |world| world.sessions[&agent].group.report().blocks_to_heal > 0);
    let before = scenario.world.now();
    let (id, opened) = scenario.try_open(0, false);
    assert_eq!(opened, Ok(()));
    let waited = scenario.world.now().since(before);
    assert!(waited <= usual + Duration::from_millis(5), "{waited:?}, and {usual:?} without an agent");
    scenario.write(id, 0, 0);
    scenario.until("the agent is fenced", |world| {
        matches!(world.sessions[&agent].group.ended(), Some(GroupError::Fenced { .. }))
    });
    scenario.world.drop_session(agent, false);
    scenario.until_healthy(id);
    scenario.end(id);
}

/// heal agents: an agent dies while it recovers what a dead client left. The next client doesn't wait for its lease.
#[test]
fn an_agent_that_recovers_keeps_no_client_out() {
    let mut scenario = Scenario::new(&ARBITERED);
    let id = scenario.open();
    scenario.write(id, 0, 0);
    scenario.world.drop_session(id, true);
    scenario.pause(2 * scenario.world.config.lease.as_millis() as u64);
    let agent = scenario.world.open(1, false, Purpose::Heal);
    scenario.until("the agent recovers", |world| {
        let decided = |bricks: &BrickSet| bricks.count() >= 2;
        let records = world.records();
        records.iter().any(|(record, bricks)| record.kind == RecordKind::HealRecovering && decided(bricks))
    });
    scenario.world.drop_session(agent, true);
    let (id, opened) = scenario.try_open(0, false);
    assert_eq!(opened, Ok(()));
    scenario.until_healthy(id);
    scenario.end(id);
}

/// lease: a brick is cut off from two clients that take the image over, one right after the other, and the holder from
/// the other bricks. The first takeover leaves that brick out of S and would wait until the holder's lease there is
/// over; the second must not serve earlier, or what the holder reads meanwhile is old.
#[test]
fn lease_is_waited_out_by_a_second_takeover_too() {
    let mut scenario = Scenario::new(&ARBITERED);
    let holder = scenario.open();
    scenario.write(holder, 0, 0);
    scenario.pause(200);
    for (client, brick) in [(1, 0), (2, 0), (0, 1), (0, 2)] {
        scenario.block_requests(client, brick, true);
    }
    let first = scenario.world.open_by_hand(1, true);
    scenario.pause(5);
    let second = scenario.world.open_by_hand(2, true);
    let opened = |id| move |world: &World| world.sessions[&id].opened.is_some();
    scenario.until("the first takes over", opened(first));
    scenario.until("the second takes over", opened(second));
    assert_eq!(scenario.world.sessions[&second].opened, Some(Ok(())));
    let (written, _) = scenario.begin_write(second, 0, 0);
    scenario.pause(5);
    // The checker looks at what it returns, if anything.
    let _old_or_nothing = scenario.try_read(holder, 0, 0);
    assert!(scenario.answer(second, written).is_ok());
    assert_eq!(scenario.world.checker.complaint, None);
    for id in [holder, first] {
        scenario.world.drop_session(id, false);
    }
    scenario.world.network.heal(&mut scenario.world.agenda);
    scenario.until_healthy(second);
    scenario.pause(3000);
    scenario.end(second);
}

/// replace: the arbiter's lost disk is back in place of its successor, which alone knows, beside a good copy that is away
/// now, that the other copy is old. It makes no quorum with that one: who told the floor is enough.
#[test]
fn a_lost_disk_makes_no_quorum_with_a_stale_copy() {
    let mut scenario = Scenario::new(&ARBITERED);
    let id = scenario.open();
    scenario.write(id, 0, 0);
    scenario.end_session(id);
    scenario.replace(2);
    scenario.kill(1);
    let id = scenario.open();
    let tag = scenario.write(id, 0, 0);
    assert_eq!(scenario.in_sync(id), bricks(&[0]));
    scenario.end_session(id);
    scenario.kill(0);
    scenario.put_lost_disk_back(2);
    scenario.start(1);
    let (refused, opened) = scenario.try_open(0, true);
    let is_refusal = |error: &GroupError| {
        // If the right disk is back meanwhile, that one knows better.
        matches!(error, GroupError::NoQuorum { .. } | GroupError::NoGoodCopy { .. })
    };
    assert!(is_error(&opened, is_refusal), "{opened:?}");
    scenario.world.drop_session(refused, false);
    scenario.start(0);
    scenario.until("the right disk is back", |world| !world.bricks[2].needs_operator());
    let id = scenario.open();
    scenario.until_healthy(id);
    assert_eq!(scenario.read(id, 0, 0), tag);
    scenario.pause(1000);
    scenario.end(id);
}

/// replace: a data brick, while a session that wrote before has the image open. It leaves S without anybody waiting for
/// it, and comes back healed, in the middle of the session.
#[test]
fn a_replaced_brick_is_healed_by_the_session_that_lives() {
    let mut scenario = Scenario::new(&ARBITERED);
    let id = scenario.open();
    for block in 0..40 {
        scenario.write(id, 0, block);
    }
    let tag = scenario.write(id, 2, 1);
    scenario.try_flush(id).unwrap();
    scenario.replace(1);
    scenario.until_healthy(id);
    let report = scenario.world.sessions[&id].group.report();
    assert_eq!(
        (report.in_sync, report.healed_blocks),
        (bricks(&[0, 1]), 41),
        "what was written, and nothing else"
    );
    scenario.try_flush(id).unwrap();
    assert_eq!(scenario.durable(1, 2, 1), tag);
    scenario.pause(1000);
    scenario.end(id);
}
