//! How fast a heal goes: as fast as it can while nobody uses the image, and beside users as fast as their requests stay
//! quick.
//!
//! What is adapted is how many blocks are being pulled at the same time, by additive increase and multiplicative decrease
//! (Chiu and Jain 1989): each pull that ends well adds a little, a user's request that took long halves it. Pulls shrink
//! with it, and with them the time for which a write to one of their blocks waits. There is a floor, so a heal always ends.

use std::time::Duration;

use brick_wire::Timestamp;

/// Blocks in pulls at once, without users: enough to keep a disk and a network busy.
const BLOCKS_MAX: usize = 2048;
/// However slow users are: one small pull after the other.
const BLOCKS_MIN: usize = 16;
/// What a pull that ends well adds.
const STEP: usize = 8;
/// Blocks of one pull: bounds how long a write to one of them waits.
const PULL_BLOCKS_MAX: usize = 512;
/// Pulls that share the budget.
const SHARES: usize = 4;
/// A user's request that takes longer is slow.
const SLOW: Duration = Duration::from_millis(10);
/// Slow requests are of one cause if they end within this time.
const SETTLE: Duration = Duration::from_millis(50);
/// Without a request for so long there are no users.
const QUIET: Duration = Duration::from_millis(500);

/// How many blocks may be in pulls.
#[derive(Debug)]
pub(super) struct Pace {
    blocks: usize,
    /// When a user's request ended last.
    used_at: Option<Timestamp>,
    slowed_at: Timestamp,
}

impl Pace {
    pub(super) fn new() -> Pace {
        Pace { blocks: BLOCKS_MAX / 4, used_at: None, slowed_at: Timestamp::ZERO }
    }

    /// A user's request ended after so long.
    pub(super) fn note_request(&mut self, now: Timestamp, took: Duration) {
        self.used_at = Some(now);
        if took > SLOW && now.since(self.slowed_at) >= SETTLE {
            self.blocks = (self.blocks / 2).max(BLOCKS_MIN);
            self.slowed_at = now;
        }
    }

    /// A pull ended well.
    pub(super) fn note_pull(&mut self) {
        self.blocks = (self.blocks + STEP).min(BLOCKS_MAX);
    }

    /// Blocks that the next pull may have beside those under way; zero if it has to wait for one of them.
    pub(super) fn next_pull(&self, now: Timestamp, under_way: usize) -> usize {
        let quiet = self.used_at.is_none_or(|at| now.since(at) >= QUIET);
        let budget = if quiet { BLOCKS_MAX } else { self.blocks };
        let share = (budget / SHARES).clamp(BLOCKS_MIN, PULL_BLOCKS_MAX);
        if under_way == 0 || under_way + share <= budget { share } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Timestamp {
        Timestamp::ZERO + Duration::from_millis(millis)
    }

    #[test]
    fn nobody_there_means_full_speed() {
        let mut pace = Pace::new();
        assert_eq!(pace.next_pull(at(0), 0), PULL_BLOCKS_MAX);
        assert_eq!(pace.next_pull(at(0), BLOCKS_MAX), 0);
        pace.note_request(at(1000), Duration::from_secs(1));
        assert!(pace.next_pull(at(1001), 0) < PULL_BLOCKS_MAX);
        assert_eq!(pace.next_pull(at(2000), 0), PULL_BLOCKS_MAX);
    }

    #[test]
    fn slow_requests_slow_the_heal_down_to_its_floor_and_no_further() {
        let mut pace = Pace::new();
        for millis in (100..2000).step_by(100) {
            pace.note_request(at(millis), 2 * SLOW);
        }
        assert_eq!(pace.next_pull(at(2000), 0), BLOCKS_MIN);
        assert_eq!(pace.next_pull(at(2000), BLOCKS_MIN), 0, "one after the other");
        (0..BLOCKS_MAX / STEP).for_each(|_| pace.note_pull());
        assert_eq!(pace.next_pull(at(2000), 0), PULL_BLOCKS_MAX);
    }

    #[test]
    fn a_burst_of_slow_requests_counts_once() {
        let (mut one, mut many) = (Pace::new(), Pace::new());
        one.note_request(at(100), 2 * SLOW);
        (100..120).for_each(|millis| many.note_request(at(millis), 2 * SLOW));
        assert_eq!(one.next_pull(at(120), 0), many.next_pull(at(120), 0));
    }
}
