//! `scrub`: has every data brick read an image whole and compare it with what was last written, and waits until what
//! is bad was repaired.
//!
//! Bricks verify for anybody, beside a client that has the image open: that client is told by its bricks and repairs.
//! If nobody has it open it is opened here, under a `heal` epoch which an opening client may preempt. What counts as
//! repaired is what the same brick finds good when it looks again.
//!
//! The good copies are also compared, by the CRCs that they say. What differs because it is just being written differs
//! otherwise a moment later. What stays as it is, each copy finding its own in order, is told to the bricks, and the
//! holder judges it with the arbiter's help: such a block counts as bad, once, and as repaired when the copies agree.

mod copy;
mod group;
mod pass;

use std::time::{Duration, Instant};

use brick_wire::limits::BLOCK_SIZE;
use brick_wire::placement::group_of;
use brick_wire::register::ImageValue;
use brick_wire::{Role, ShardIndex};

use self::group::{Group, wait_for_repair};
use super::images::unix_seconds;
use super::status::BrickState;
use super::{Volume, VolumeError};
use crate::name::ImageName;
use crate::replica::GroupError;

pub use self::pass::ScrubState;
pub(super) use self::pass::{PassEnd, is_due as is_scrub_due};

/// Shards that are looked at before what is bad there is repaired, and progress is noted.
const CHUNK_SHARDS: u32 = 64;

/// How a scrub goes about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScrubOptions {
    /// Bytes that each brick may read a second; unbounded if zero.
    pub bytes_per_second: u64,
}

/// What a scrub found, over all copies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScrubOutcome {
    /// Blocks read and compared.
    pub checked_blocks: u64,
    /// Of those, blocks that can't be read or aren't what was last written.
    pub bad_blocks: u64,
    /// Bad blocks that were written again from another copy.
    pub repaired_blocks: u64,
    /// Bad blocks that weren't: no other good copy has them, or none answers.
    pub unrepairable_blocks: u64,
}

/// Where a scrub is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScrubProgress {
    /// Shards of the image that have been looked at.
    pub done_shards: u64,
    /// Of so many.
    pub shards: u64,
}

impl Volume {
    /// Scrubs an image; `watch` is told about progress. Every data brick must answer.
    pub async fn scrub(
        &self,
        name: &ImageName,
        options: ScrubOptions,
        mut watch: impl FnMut(ScrubProgress),
    ) -> Result<ScrubOutcome, VolumeError> {
        let value = self.resolve(name).await?;
        let begun_seconds = unix_seconds();
        let shards = self.shard_count(name).await?;
        let mut outcome = ScrubOutcome::default();
        let mut done = 0;
        while done < shards {
            let chunk = done..(done + CHUNK_SHARDS).min(shards);
            done = chunk.end;
            let progress =
                |shard: u32| watch(ScrubProgress { done_shards: shard.into(), shards: shards.into() });
            outcome.add(self.scrub_shards(&value, chunk, options, progress).await?);
        }
        self.note_scrub(&value, begun_seconds, shards, outcome).await?;
        Ok(outcome)
    }

    async fn shard_count(&self, name: &ImageName) -> Result<u32, VolumeError> {
        let info = self.stat_image(name).await?;
        Ok(info.size_bytes.div_ceil(info.shard_bytes) as u32)
    }

    /// Scrubs some shards of an image; `done` is told which are.
    async fn scrub_shards(
        &self,
        value: &ImageValue,
        shards: std::ops::Range<u32>,
        options: ScrubOptions,
        mut done: impl FnMut(u32),
    ) -> Result<ScrubOutcome, VolumeError> {
        let mut groups = self.copies_of(value, shards.clone()).await?;
        let (mut outcome, mut done_shards) = (ScrubOutcome::default(), shards.start);
        for group in &mut groups {
            for shard in group.shards.clone() {
                let begun = Instant::now();
                let (checked, busiest) = group.look(shard).await?;
                outcome.checked_blocks += checked;
                done_shards += 1;
                done(done_shards);
                let micros = busiest * BLOCK_SIZE as u64 * 1_000_000;
                let wanted = Duration::from_micros(micros.checked_div(options.bytes_per_second).unwrap_or(0));
                monoio::time::sleep(wanted.saturating_sub(begun.elapsed())).await;
            }
            group.raise_disputes().await?;
        }
        outcome.bad_blocks = groups.iter().map(Group::bad_count).sum();
        if outcome.bad_blocks > 0 {
            self.await_repair(value, &mut groups).await?;
        }
        outcome.unrepairable_blocks = groups.iter().map(Group::bad_count).sum();
        outcome.repaired_blocks = outcome.bad_blocks - outcome.unrepairable_blocks;
        Ok(outcome)
    }

    /// Waits until whoever has the image open has repaired it; if nobody has, takes it for that.
    async fn await_repair(&self, value: &ImageValue, groups: &mut [Group]) -> Result<(), VolumeError> {
        let sessions = self.open_to_heal(value).await?;
        let result = wait_for_repair(groups).await;
        for session in sessions {
            match session.close().await {
                // A client that opened the image meanwhile repairs by itself.
                Ok(()) | Err(GroupError::Fenced { .. }) => {}
                Err(_) if result.is_err() => {}
                Err(source) => return Err(VolumeError::Image { name: value.name.clone(), source }),
            }
        }
        result
    }

    /// Connections to all copies. Those that are good now are compared; the others are heal's business.
    async fn copies_of(
        &self,
        value: &ImageValue,
        shards: std::ops::Range<u32>,
    ) -> Result<Vec<Group>, VolumeError> {
        let health = self.image_health(value).await;
        let is_good = |address: &str| {
            health.bricks.iter().any(|brick| brick.address == address && brick.state == BrickState::InSync)
        };
        let mut groups = Vec::new();
        for index in value.groups.iter().map(|group| usize::from(*group)) {
            let shards: Vec<ShardIndex> = shards
                .clone()
                .map(ShardIndex)
                .filter(|shard| self.group_of(value, *shard) == index)
                .collect();
            let mut copies = Vec::new();
            for brick in self.group(index).bricks.iter().filter(|brick| brick.role == Role::Data) {
                copies.push(self.open_copy(brick, value, is_good(&brick.address)).await?);
            }
            groups.push(Group::new(copies, shards));
        }
        Ok(groups)
    }

    fn group_of(&self, value: &ImageValue, shard: ShardIndex) -> usize {
        let weights: Vec<u32> =
            value.groups.iter().map(|group| self.group(usize::from(*group)).weight).collect();
        usize::from(value.groups[usize::from(group_of(value.image, shard, &weights).0)])
    }
}

impl ScrubOutcome {
    fn add(&mut self, other: ScrubOutcome) {
        self.checked_blocks += other.checked_blocks;
        self.bad_blocks += other.bad_blocks;
        self.repaired_blocks += other.repaired_blocks;
        self.unrepairable_blocks += other.unrepairable_blocks;
    }
}
