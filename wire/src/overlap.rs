//! Keeps operations on overlapping blocks from being in flight together (rule I13), in arrival order.
//!
//! Per shard there is a short list of ranges in flight and a queue of ranges that wait. A range enters
//! when it conflicts neither with one in flight nor with one that waits before it, so nobody starves.
//! Readers share; everything else excludes. Shards are few and depths small, so lists beat trees.

use std::collections::VecDeque;
use std::hash::Hash;

use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use crate::blocks::BlockRange;

/// How an operation uses its blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Beside other readers.
    Shared,
    /// Alone.
    Exclusive,
}

#[derive(Clone, Copy, Debug)]
struct Claim<T> {
    token: T,
    range: BlockRange,
    access: Access,
}

impl<T> Claim<T> {
    fn conflicts(&self, range: BlockRange, access: Access) -> bool {
        self.range.overlaps(range) && (self.access == Access::Exclusive || access == Access::Exclusive)
    }
}

#[derive(Debug)]
struct ShardClaims<T> {
    active: SmallVec<[Claim<T>; 4]>,
    waiting: VecDeque<Claim<T>>,
}

/// Claims of operations (`T` names one) on block ranges of shards (`K` names one).
#[derive(Debug)]
pub struct OverlapQueue<K, T> {
    shards: FxHashMap<K, ShardClaims<T>>,
}

impl<K, T> Default for OverlapQueue<K, T> {
    fn default() -> Self {
        OverlapQueue { shards: FxHashMap::default() }
    }
}

impl<K: Hash + Eq + Copy, T: Copy + Eq> OverlapQueue<K, T> {
    /// Claims `range`; true if the operation may start now, else [`OverlapQueue::release`] of another
    /// returns its token when it may. A token claims at most one range of a shard.
    pub fn claim(&mut self, shard: K, token: T, range: BlockRange, access: Access) -> bool {
        let claims = self
            .shards
            .entry(shard)
            .or_insert_with(|| ShardClaims { active: SmallVec::new(), waiting: VecDeque::new() });
        let mut tokens = claims.active.iter().chain(&claims.waiting).map(|claim| claim.token);
        assert!(tokens.all(|other| other != token), "a token claims at most one range of a shard");
        let blocked = claims.active.iter().chain(&claims.waiting).any(|other| other.conflicts(range, access));
        let claim = Claim { token, range, access };
        if blocked {
            claims.waiting.push_back(claim);
        } else {
            claims.active.push(claim);
        }
        !blocked
    }

    /// Gives up a claim, active or waiting, and returns the tokens that may start now, in arrival order.
    pub fn release(&mut self, shard: K, token: T) -> Vec<T> {
        let claims = self.shards.get_mut(&shard).expect("released claims were made");
        if let Some(index) = claims.active.iter().position(|claim| claim.token == token) {
            claims.active.swap_remove(index);
        } else {
            let index = claims.waiting.iter().position(|claim| claim.token == token);
            claims.waiting.remove(index.expect("released claims were made"));
        }
        let mut started = Vec::new();
        let mut index = 0;
        while index < claims.waiting.len() {
            let candidate = &claims.waiting[index];
            let earlier = claims.active.iter().chain(claims.waiting.iter().take(index));
            if earlier.into_iter().any(|other| other.conflicts(candidate.range, candidate.access)) {
                index += 1;
                continue;
            }
            let claim = claims.waiting.remove(index).expect("index is in bounds");
            started.push(claim.token);
            claims.active.push(claim);
        }
        if claims.active.is_empty() && claims.waiting.is_empty() {
            self.shards.remove(&shard);
        }
        started
    }

    /// Whether an active or waiting claim touches `range`.
    pub fn is_claimed(&self, shard: K, range: BlockRange) -> bool {
        self.shards.get(&shard).is_some_and(|claims| {
            claims.active.iter().chain(&claims.waiting).any(|claim| claim.range.overlaps(range))
        })
    }

    /// Whether nothing is claimed at all.
    pub fn is_empty(&self) -> bool {
        self.shards.is_empty()
    }
}

#[cfg(test)]
mod tests;
