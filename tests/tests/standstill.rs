//! Stories of clients that stand still: stopped processes, paused machines.
//!
//! Each test names its area and situation, and its first comment says what must come of it.

use std::time::Duration;

use brick_client::replica::GroupError;
use brick_tests::sim::scenario::{ARBITERED, Scenario, is_error};
use brick_wire::ShardIndex;

/// lease: a client stands still between its write and the answers. Somebody else takes the image and dies, both copies lose
/// power and with it the write, and a third one reads that. The first wakes up and finds good answers: it may not believe them.
#[test]
fn a_client_that_stood_still_completes_no_write_on_old_answers() {
    for seed in 0..10 {
        let mut scenario = Scenario::seeded(&ARBITERED, seed);
        let lease = scenario.world.config.lease.as_millis() as u64;
        let holder = scenario.open();
        scenario.write(holder, 0, 0);
        scenario.try_flush(holder).unwrap();
        let (request, tag) = scenario.begin_write(holder, 0, 0);
        scenario.until("both copies hold it", |world| {
            let file = world.file(ShardIndex(0));
            world.bricks[..2].iter().all(|brick| brick.disk.read(file, 0)[0] == tag)
        });
        scenario.stand_still(0, 4 * lease);
        scenario.pause(2 * lease);
        let successor = scenario.world.open_until_served(1).unwrap();
        scenario.world.drop_session(successor, true);
        scenario.lose_power(0);
        scenario.lose_power(1);
        scenario.start(0);
        scenario.start(1);
        let third = scenario.world.open_until_served(2).unwrap();
        scenario.read(third, 0, 0);
        let answer = scenario.answer(holder, request);
        assert!(is_error(&answer, |error| matches!(error, GroupError::Fenced { .. })), "{answer:?}");
        scenario.world.drop_session(holder, false);
        scenario.until_healthy(third);
        scenario.pause(1000);
        scenario.end(third);
    }
}

/// open: the client's machine stands still while it opens the image, for longer than bricks have to answer. They did
/// nothing wrong, and the image is opened.
#[test]
fn who_stood_still_while_opening_blames_nobody() {
    for (micros, resumes_with) in [(0, "nothing sent"), (30, "hello on the way")] {
        for seed in 1..20 {
            let mut scenario = Scenario::seeded(&ARBITERED, seed);
            let patience = scenario.world.config.brick_timeout;
            let id = scenario.world.open_by_hand(0, false);
            scenario.world.run_for(Duration::from_micros(micros));
            scenario.stand_still(0, 3 * patience.as_millis() as u64);
            scenario.until("the image is opened or not", |world| world.sessions[&id].opened.is_some());
            assert_eq!(scenario.world.sessions[&id].opened, Some(Ok(())), "{resumes_with}, seed {seed}");
            assert_eq!(scenario.in_sync(id).count(), 2, "{resumes_with}, seed {seed}");
            scenario.until_healthy(id);
            scenario.end(id);
        }
    }
}

/// open: the same when two bricks go away during the vote, and are back while the client stands still.
#[test]
fn who_stood_still_while_bricks_were_away_blames_nobody() {
    let mut interrupted = 0;
    for micros in (100..600).step_by(10) {
        let mut scenario = Scenario::seeded(&ARBITERED, micros);
        let patience = scenario.world.config.brick_timeout;
        let id = scenario.world.open_by_hand(0, false);
        scenario.world.run_for(Duration::from_micros(micros));
        scenario.kill(1);
        scenario.kill(2);
        scenario.world.run_for(Duration::from_millis(5));
        if scenario.world.sessions[&id].opened.is_none() {
            interrupted += 1;
            scenario.stand_still(0, 3 * patience.as_millis() as u64);
            scenario.start(1);
            scenario.start(2);
        }
        scenario.until("the image is opened or not", |world| world.sessions[&id].opened.is_some());
        assert_eq!(scenario.world.sessions[&id].opened, Some(Ok(())), "after {micros} us");
        scenario.world.drop_session(id, true);
    }
    assert!(interrupted > 10, "{interrupted}");
}
