//! Marks of failed syncs (rule I7): what a sync failed about is written down before anybody is told.
//!
//! The kernel reports a lost write once. A brick that forgot the report, because it was killed and started again
//! on the same boot, would find its blocks equal to the other copy's, and its next sync would say OK. So the
//! lane's saved maps carry a mark, and whoever waits for the failed sync, or asks for one while the mark is being
//! written, is answered when it is durable or can't be made so. A start that finds the mark has every dirty block
//! of the image in the lane rewritten: the blocks in question are among them, because bits are cleared only after
//! a sync that succeeded everywhere (rule I6). When the last block was rewritten the mark goes, too.
//!
//! What remains: a process that is killed between the kernel's report and the durable mark, a millisecond after the
//! disk began to fail; and a disk that refuses the mark as well, when the process is then started again on the same
//! boot. The simulator doesn't do these two.

use std::collections::BTreeMap;

use brick_wire::{ImageUuid, LaneIndex, Role, ShardIndex};

use super::{Engine, ShardKey, Token};

/// Lanes whose mark is to be written or being written, and the syncs that wait for it.
#[derive(Debug, Default)]
pub(super) struct Marks {
    waiting: BTreeMap<LaneIndex, Vec<Token>>,
}

impl Engine {
    /// A sync in the lane failed, and `tokens` wait for it: now they wait for the mark as well.
    pub(super) fn mark_lane(&mut self, lane: LaneIndex, tokens: impl IntoIterator<Item = Token>) {
        let waiting = self.marks.waiting.entry(lane).or_default();
        for token in tokens {
            self.syncs.wait_longer(token);
            waiting.push(token);
        }
        self.activity.want_save(lane);
    }

    /// Has a sync that is asked for now wait for the marks that aren't durable yet.
    pub(super) fn wait_for_marks(&mut self, token: Token) {
        for waiting in self.marks.waiting.values_mut() {
            self.syncs.wait_longer(token);
            waiting.push(token);
        }
    }

    /// The lane's maps were saved, mark included, or couldn't be.
    pub(super) fn lane_marked(&mut self, lane: LaneIndex) {
        for token in self.marks.waiting.remove(&lane).unwrap_or_default() {
            self.sync_wait_over(token, false);
        }
    }

    /// Whether the image's map of the lane has to carry the mark.
    pub(super) fn is_unsynced(&self, image: ImageUuid, lane: LaneIndex) -> bool {
        self.syncs.is_lost(image, |shard| self.lane_of((image, shard)) == lane, lane)
    }

    /// A start that found the mark: every dirty block of these images has to be written again.
    pub(super) fn load_marks(&mut self, images: &[ImageUuid]) {
        for image in images {
            if self.config.role == Role::Arbiter {
                // The name of a new file may be lost, and with it what is known of a shard.
                self.dirty.set_inexact(*image);
                continue;
            }
            let shards: Vec<_> = self.dirty.shards_from(*image, ShardIndex(0)).collect();
            // A shard without a file lost nothing: it reads as zeros, and no pull would ever write it.
            for (shard, blocks) in
                shards.into_iter().filter(|(shard, _)| self.files.exists_soon((*image, *shard)))
            {
                self.syncs.must_be_written_again((*image, shard), &blocks);
            }
        }
    }

    /// The last block of a shard was rewritten. Without the mark, the next crash costs comparisons only.
    pub(super) fn shard_rewritten(&mut self, key: ShardKey) {
        let lane = self.lane_of(key);
        if !self.is_unsynced(key.0, lane) {
            self.mark_lane(lane, None);
        }
    }
}
