//! The heals of this brick's own copies, on each core: the one that runs, and the last that ended well.
//!
//! A heal of an image begins with the first pull while the record leaves this brick out of S, and ends with the
//! record that puts it back (rule I10): a *join*. However many sessions have worked on it in between, it is one heal.
//! A core that pulled nothing for it knows nothing of it; who asks sums up over the cores. All of this is in memory
//! alone, for people who want to know what happened: nothing decides by it.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use brick_wire::body::{FinishedHeal, HealHistory};
use brick_wire::limits::HEALS_REMEMBERED;
use brick_wire::{Epoch, ImageUuid, SessionId, Timestamp};

use super::pull::Pulled;

/// A heal that has not ended.
#[derive(Clone, Copy, Debug)]
struct Running {
    began: Timestamp,
    /// What the image had pulled before.
    before: Pulled,
    /// Who has the pulls done at present. It compares everything again that its predecessor did.
    holder: SessionId,
    /// What the image had pulled before that one.
    before_holder: Pulled,
}

#[derive(Clone, Copy, Debug)]
struct Finished {
    image: ImageUuid,
    epoch: Epoch,
    ended: Timestamp,
    duration: Duration,
    pulled: Pulled,
}

/// The heals of a core.
#[derive(Debug, Default)]
pub(super) struct Joins {
    running: BTreeMap<ImageUuid, Running>,
    /// The oldest first.
    finished: VecDeque<Finished>,
}

impl Joins {
    /// A holder has a copy pulled that is not in S; `pulled` is what the image has pulled so far.
    pub(super) fn pull_began(&mut self, image: ImageUuid, holder: SessionId, pulled: Pulled, now: Timestamp) {
        let fresh = Running { began: now, before: pulled, holder, before_holder: pulled };
        let running = self.running.entry(image).or_insert(fresh);
        if running.holder != holder {
            (running.holder, running.before_holder) = (holder, pulled);
        }
    }

    /// A record put this brick into S.
    pub(super) fn joined(&mut self, image: ImageUuid, epoch: Epoch, pulled: Pulled, now: Timestamp) {
        let Some(running) = self.running.remove(&image) else { return };
        if self.finished.len() == HEALS_REMEMBERED {
            self.finished.pop_front();
        }
        let duration = now.since(running.began);
        let pulled = pulled.since(running.before);
        self.finished.push_back(Finished { image, epoch, ended: now, duration, pulled });
    }

    /// Blocks compared for the present holder, of a heal that runs.
    pub(super) fn compared_blocks(&self, image: ImageUuid, pulled: Pulled) -> u64 {
        let running = self.running.get(&image);
        running.map_or(0, |running| pulled.since(running.before_holder).compared_blocks)
    }

    /// The heals that ended, the oldest first.
    pub(super) fn history(&self, now: Timestamp) -> HealHistory {
        let heal = |heal: &Finished| FinishedHeal {
            image: heal.image,
            epoch: heal.epoch,
            age_ms: millis(now.since(heal.ended)),
            duration_ms: millis(heal.duration),
            compared_blocks: heal.pulled.compared_blocks,
            written_blocks: heal.pulled.written_blocks,
            wire_bytes: heal.pulled.wire_bytes,
        };
        HealHistory { heals: self.finished.iter().map(heal).collect() }
    }

    /// The image is removed.
    pub(super) fn forget(&mut self, image: ImageUuid) {
        self.running.remove(&image);
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const IMAGE: ImageUuid = ImageUuid::NIL;

    fn pulled(blocks: u64) -> Pulled {
        Pulled { written_blocks: blocks, compared_blocks: 2 * blocks, wire_bytes: 5000 * blocks }
    }

    fn at(ms: u64) -> Timestamp {
        Timestamp(ms * 1_000_000)
    }

    fn epoch(counter: u64) -> Epoch {
        Epoch { counter, session: SessionId(1) }
    }

    #[test]
    fn a_heal_by_two_holders_is_one() {
        let mut joins = Joins::default();
        joins.pull_began(IMAGE, SessionId(1), pulled(100), at(1000));
        assert_eq!(joins.compared_blocks(IMAGE, pulled(110)), 20);
        joins.pull_began(IMAGE, SessionId(1), pulled(110), at(1500));
        assert_eq!(joins.compared_blocks(IMAGE, pulled(110)), 20, "the same goes on");
        joins.pull_began(IMAGE, SessionId(2), pulled(130), at(2000));
        assert_eq!(joins.compared_blocks(IMAGE, pulled(140)), 20, "another starts over");
        joins.joined(IMAGE, epoch(7), pulled(150), at(3000));
        assert_eq!(joins.compared_blocks(IMAGE, pulled(150)), 0);
        let heal = FinishedHeal {
            image: IMAGE,
            epoch: epoch(7),
            age_ms: 500,
            duration_ms: 2000,
            compared_blocks: 100,
            written_blocks: 50,
            wire_bytes: 250_000,
        };
        assert_eq!(joins.history(at(3500)).heals, [heal]);
    }

    #[test]
    fn a_record_without_a_heal_before_it_is_none() {
        let mut joins = Joins::default();
        joins.joined(IMAGE, epoch(1), pulled(1), at(1));
        joins.pull_began(IMAGE, SessionId(1), pulled(1), at(2));
        joins.forget(IMAGE);
        joins.joined(IMAGE, epoch(2), pulled(2), at(3));
        assert_eq!(joins.history(at(4)).heals, []);
    }

    #[test]
    fn only_the_last_are_remembered() {
        let mut joins = Joins::default();
        for counter in 1..=HEALS_REMEMBERED as u64 + 3 {
            joins.pull_began(IMAGE, SessionId(1), pulled(0), at(counter));
            joins.joined(IMAGE, epoch(counter), pulled(0), at(counter));
        }
        let counters: Vec<u64> = joins.history(at(99)).heals.iter().map(|heal| heal.epoch.counter).collect();
        assert_eq!(counters, (4..=HEALS_REMEMBERED as u64 + 3).collect::<Vec<_>>());
    }
}
