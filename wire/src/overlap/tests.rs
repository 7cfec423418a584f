//! The overlap queue against an oracle that keeps every claim in arrival order and decides from scratch.

use std::collections::HashSet;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::samples::range_below;

#[derive(Clone, Debug)]
enum Step {
    Claim { shard: u8, range: BlockRange, access: Access },
    Release(Index),
}

fn step() -> impl Strategy<Value = Step> {
    let access = prop_oneof![Just(Access::Shared), Just(Access::Exclusive)];
    prop_oneof![
        3 => (0..2u8, range_below(12), access)
            .prop_map(|(shard, range, access)| Step::Claim { shard, range, access }),
        2 => any::<Index>().prop_map(Step::Release),
    ]
}

/// Every claim not given up, oldest first. One is active when no older one conflicts with it: that is
/// the whole rule, and it says both "no overlap in flight" and "first come, first served".
#[derive(Default)]
struct Oracle {
    claims: Vec<(u8, u32, BlockRange, Access)>,
}

impl Oracle {
    fn active(&self) -> HashSet<u32> {
        let conflict = |one: &(u8, u32, BlockRange, Access), two: &(u8, u32, BlockRange, Access)| {
            let shared_block = one.2.iter().any(|block| two.2.iter().any(|other| other == block));
            one.0 == two.0 && shared_block && (one.3 == Access::Exclusive || two.3 == Access::Exclusive)
        };
        let is_active =
            |index: &usize| !self.claims[..*index].iter().any(|c| conflict(c, &self.claims[*index]));
        (0..self.claims.len()).filter(is_active).map(|index| self.claims[index].1).collect()
    }

    fn position(&self, token: u32) -> usize {
        self.claims.iter().position(|claim| claim.1 == token).expect("a claim not given up")
    }
}

/// Both, and the tokens that the queue has said may run.
#[derive(Default)]
struct Pair {
    queue: OverlapQueue<u8, u32>,
    oracle: Oracle,
    running: HashSet<u32>,
}

impl Pair {
    fn claim(&mut self, shard: u8, token: u32, range: BlockRange, access: Access) {
        self.oracle.claims.push((shard, token, range, access));
        if self.queue.claim(shard, token, range, access) {
            self.running.insert(token);
        }
        self.assert_same();
    }

    fn release(&mut self, position: usize) {
        let (shard, token, ..) = self.oracle.claims.remove(position);
        self.running.remove(&token);
        let started = self.queue.release(shard, token);
        assert!(started.is_sorted_by_key(|token| self.oracle.position(*token)), "arrival order");
        for token in started {
            assert!(self.running.insert(token), "{token} was started twice");
        }
        self.assert_same();
    }

    fn assert_same(&self) {
        assert_eq!(self.running, self.oracle.active());
        assert_eq!(self.queue.is_empty(), self.oracle.claims.is_empty());
        for (shard, block) in (0..2u8).flat_map(|shard| (0..12u16).map(move |block| (shard, block))) {
            let claimed =
                self.oracle.claims.iter().any(|c| c.0 == shard && c.2.iter().any(|other| other == block));
            assert_eq!(self.queue.is_claimed(shard, BlockRange::new(block, 1)), claimed);
        }
    }
}

proptest! {
    #[test]
    fn the_queue_follows_the_rule(steps in vec(step(), 0..60)) {
        let mut pair = Pair::default();
        for (token, step) in steps.into_iter().enumerate() {
            match step {
                Step::Claim { shard, range, access } => pair.claim(shard, token as u32, range, access),
                Step::Release(index) if !pair.oracle.claims.is_empty() => {
                    pair.release(index.index(pair.oracle.claims.len()));
                }
                Step::Release(_) => {}
            }
        }
        // Nobody starves: as long as claims are left one runs, and giving up the running ones starts the rest.
        while let Some(token) = pair.running.iter().min().copied() {
            pair.release(pair.oracle.position(token));
        }
        prop_assert!(pair.oracle.claims.is_empty());
    }
}

const ALL: BlockRange = BlockRange { first: 0, count: 8 };

#[test]
fn a_writer_is_not_overtaken_by_later_readers() {
    let mut queue = OverlapQueue::default();
    assert!(queue.claim('s', 1, ALL, Access::Shared));
    assert!(!queue.claim('s', 2, BlockRange::new(0, 1), Access::Exclusive));
    assert!(!queue.claim('s', 3, ALL, Access::Shared), "waits behind the writer though only readers run");
    assert!(queue.claim('s', 4, BlockRange::new(1, 7), Access::Shared), "touches no block of the writer's");
    assert_eq!(queue.release('s', 1), [2]);
    assert_eq!(queue.release('s', 2), [3]);
}

#[test]
fn giving_up_a_waiting_claim_lets_those_behind_it_go() {
    let mut queue = OverlapQueue::default();
    assert!(queue.claim('s', 1, ALL, Access::Shared));
    assert!(!queue.claim('s', 2, ALL, Access::Exclusive));
    assert!(!queue.claim('s', 3, ALL, Access::Shared));
    assert!(!queue.claim('s', 4, ALL, Access::Shared));
    assert_eq!(queue.release('s', 2), [3, 4]);
}

#[test]
fn shards_do_not_wait_for_each_other() {
    let mut queue = OverlapQueue::default();
    assert!(queue.claim('s', 1, ALL, Access::Exclusive));
    assert!(queue.claim('t', 1, ALL, Access::Exclusive));
}

#[test]
#[should_panic(expected = "at most one range")]
fn a_token_claims_once_per_shard() {
    let mut queue = OverlapQueue::default();
    queue.claim('s', 1, BlockRange::new(0, 1), Access::Shared);
    queue.claim('s', 1, BlockRange::new(5, 1), Access::Shared);
}
