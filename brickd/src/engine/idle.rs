//! Things in the order in which they became idle, for those that have to make room: files and pages of CRCs.
//!
//! Becoming busy again costs nothing: the place in line stays, and is passed over when its turn comes. So every place
//! has a number, and its owner remembers the number of the one that counts.

use std::collections::VecDeque;

use super::ShardKey;

/// Places that don't count any more before they are cleared away, beside as many as there are things.
const SLACK: usize = 64;

/// The line.
#[derive(Debug, Default)]
pub(super) struct IdleQueue {
    places: VecDeque<(u64, ShardKey)>,
}

impl IdleQueue {
    /// Becomes the last in line. Of `count` things, those places are kept that count.
    pub(super) fn push(
        &mut self,
        place: (u64, ShardKey),
        count: usize,
        counts: impl Fn(u64, ShardKey) -> bool,
    ) {
        if self.places.len() >= 2 * count + SLACK {
            self.places.retain(|(number, key)| counts(*number, *key));
        }
        self.places.push_back(place);
    }

    /// Becomes the first.
    pub(super) fn push_front(&mut self, place: (u64, ShardKey)) {
        self.places.push_front(place);
    }

    /// Takes the first that `is_idle` in its place. Those before it are passed over, and have lost theirs.
    pub(super) fn pop(&mut self, mut is_idle: impl FnMut(u64, ShardKey) -> bool) -> Option<ShardKey> {
        while let Some((number, key)) = self.places.pop_front() {
            if is_idle(number, key) {
                return Some(key);
            }
        }
        None
    }
}
