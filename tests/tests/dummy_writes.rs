//! Scripted stories about what an arbiter is told of writes, and when.

use brick_client::replica::GroupError;
use brick_tests::sim::config::Config;
use brick_tests::sim::scenario::{ARBITERED, Scenario, is_error};
use brick_wire::body::DummyWrites;
use brick_wire::cursor::Body;
use brick_wire::{BrickIndex, BrickSet, Opcode, SessionId};

const ARBITER: u8 = 2;
/// Writes of which one frame tells.
const GATHERED: usize = 32;

/// An open image, and nothing on the way from its client to the arbiter from now on.
fn with_requests_blocked() -> (Scenario, SessionId) {
    let mut scenario = Scenario::new(&ARBITERED);
    let id = scenario.open();
    scenario.write(id, 0, 0);
    scenario.pause(100);
    scenario.block_requests(0, usize::from(ARBITER), true);
    (scenario, id)
}

/// How many writes each frame tells of that waits on the way to the arbiter.
fn told(scenario: &Scenario) -> Vec<usize> {
    let frames = scenario.world.network.frames_to(BrickIndex(ARBITER));
    let dummies = frames.filter(|frame| frame.header.opcode == Opcode::DummyWrites);
    dummies.map(|frame| DummyWrites::from_bytes(&frame.aux).expect("our own").writes.len()).collect()
}

/// Writes a block of shard 0 each at the same time, and waits for none.
fn write_all(scenario: &mut Scenario, id: SessionId, blocks: std::ops::Range<u16>) {
    for block in blocks {
        scenario.begin_write(id, 0, block);
    }
}

/// arbiter: both copies are good. No write waits for it, and it is told of many at once.
#[test]
fn an_arbiter_is_told_of_many_writes_at_once() {
    let (mut scenario, id) = with_requests_blocked();
    write_all(&mut scenario, id, 0..GATHERED as u16 + 8);
    assert_eq!(told(&scenario), [GATHERED], "no more than so many are kept back");
    scenario.pause(5);
    assert_eq!(told(&scenario), [GATHERED, 8], "nor are they for long");
    scenario.write(id, 0, 100);
    scenario.block_requests(0, usize::from(ARBITER), false);
    scenario.pause(3000);
    scenario.end(id);
}

/// arbiter: a flush. The arbiter hears of the writes before it, so that their dirty bits can go.
#[test]
fn a_flush_takes_along_what_the_arbiter_has_to_be_told() {
    let (mut scenario, id) = with_requests_blocked();
    for block in 0..8 {
        scenario.write(id, 0, block);
    }
    let before: usize = told(&scenario).iter().sum();
    assert!(before < 8, "the last ones are kept back: {before}");
    scenario.try_flush(id).unwrap();
    assert_eq!(told(&scenario).iter().sum::<usize>(), 8);
    scenario.block_requests(0, usize::from(ARBITER), false);
    scenario.pause(3000);
    scenario.end(id);
}

/// arbiter: one copy is gone. Each write needs the arbiter's answer, and tells it at once.
#[test]
fn a_write_that_needs_the_arbiter_tells_it_at_once() {
    let mut scenario = Scenario::new(&ARBITERED);
    let id = scenario.open();
    scenario.write(id, 0, 0);
    scenario.kill(1);
    scenario.write(id, 0, 0);
    scenario.pause(100);
    scenario.block_requests(0, usize::from(ARBITER), true);
    write_all(&mut scenario, id, 0..4);
    assert_eq!(told(&scenario), [1; 4]);
    scenario.block_requests(0, usize::from(ARBITER), false);
    scenario.start(1);
    scenario.until_healthy(id);
    scenario.end(id);
}

/// arbiter: its connections break while writes are kept back for it that the copies have yet to take. It is told of them
/// when it is back; a session that closes doesn't wait for an answer to what was never sent.
#[test]
fn an_arbiter_is_told_again_of_what_was_kept_back() {
    // Sooner or later than the writes would have been sent.
    for seed in 0..20 {
        let mut scenario = Scenario::seeded(&ARBITERED, seed);
        let id = scenario.open();
        scenario.write(id, 0, 0);
        scenario.pause(3000);
        scenario.block_requests(0, 1, true);
        let writes = [1, 2, 3].map(|block| scenario.begin_write(id, 0, block));
        assert_eq!(told(&scenario), [0; 0]);
        scenario.break_connections(BrickSet::only(BrickIndex(ARBITER)));
        scenario.pause(20);
        let answers = scenario.world.sessions[&id].answers.as_ref().expect("it keeps them");
        assert!(
            writes.iter().all(|(request, _)| !answers.contains_key(request)),
            "one copy has yet to hear of them"
        );
        scenario.block_requests(0, 1, false);
        for (request, _) in writes {
            scenario.answer(id, request).unwrap();
        }
        scenario.pause(3000);
        scenario.end(id);
    }
}

/// space: one copy is gone, and the arbiter has no room to note what is written to further shards. The user is told.
#[test]
fn a_write_that_the_arbiter_refuses_fails_where_it_is_needed() {
    let (mut scenario, id) = with_small_tables();
    scenario.kill(1);
    scenario.write(id, 0, 0);
    scenario.world.brick(BrickIndex(ARBITER)).full = true;
    let answers: Vec<_> = (1..12).map(|shard| scenario.try_write(id, shard, 0)).collect();
    let is_refused = |error: &GroupError| matches!(error, GroupError::NoSpace | GroupError::Io);
    let refused = answers.iter().filter(|answer| is_error(answer, is_refused)).count();
    let done = answers.iter().filter(|answer| answer.is_ok()).count();
    assert!(refused > 0 && refused + done == answers.len(), "{answers:?}");
    scenario.world.brick(BrickIndex(ARBITER)).full = false;
    scenario.start(1);
    scenario.until_healthy(id);
    for shard in 0..12 {
        scenario.write(id, shard, 0);
    }
    scenario.pause(3000);
    scenario.end(id);
}

/// space: the arbiter refuses a write while it isn't needed. When it is, it has room again, and is asked again.
#[test]
fn an_arbiter_that_refused_is_asked_again_when_it_is_needed() {
    let (mut scenario, id) = with_small_tables();
    scenario.world.brick(BrickIndex(ARBITER)).full = true;
    for shard in 1..11 {
        scenario.write(id, shard, 0);
    }
    scenario.block_requests(0, 1, true);
    let writes: Vec<_> = (1..12).map(|shard| scenario.begin_write(id, shard, 1)).collect();
    scenario.pause(50);
    scenario.world.brick(BrickIndex(ARBITER)).full = false;
    for (request, _) in writes {
        scenario.answer(id, request).unwrap();
    }
    scenario.block_requests(0, 1, false);
    scenario.until_healthy(id);
    scenario.pause(3000);
    scenario.end(id);
}

/// An open image of many shards, on bricks that can have few in use.
fn with_small_tables() -> (Scenario, SessionId) {
    let mut config = Config { active_shards_max: 1, ..Config::quiet(&ARBITERED) };
    config.workload.shards = 12;
    let mut scenario = Scenario::of(config, 7);
    let id = scenario.open();
    scenario.write(id, 0, 0);
    (scenario, id)
}
