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

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use brick_wire::limits::BLOCK_SIZE;
use brick_wire::placement::group_of;
use brick_wire::register::ImageValue;
use brick_wire::{BlockRange, BlockSet, Role, ShardIndex};

use self::copy::{Copy, Verified, verify_all};
use super::status::BrickState;
use super::{Volume, VolumeError};
use crate::name::ImageName;
use crate::replica::GroupError;

/// Pause between looks at blocks that are being repaired.
const LOOK_PAUSE: Duration = Duration::from_millis(500);
/// Looks at blocks in which copies differ before that is taken for more than a write under way.
const LOOKS: u32 = 3;
/// Without a block repaired for this long the rest counts as beyond repair.
const REPAIR_PATIENCE: Duration = Duration::from_secs(10);

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
    /// Shards of all copies that have been looked at.
    pub done_shards: u64,
    /// Of so many.
    pub shards: u64,
}

/// Blocks by shard.
type Blocks = BTreeMap<ShardIndex, BlockSet>;

/// The copies of the shards in one group, and what was found there.
struct Group {
    copies: Vec<Copy>,
    shards: Vec<ShardIndex>,
    /// Of each copy: what it finds bad itself.
    bad: Vec<Blocks>,
    /// In which good copies differ though neither is bad.
    disputed: Blocks,
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
        let sessions = self.open_to_heal(&value).await?;
        let result = self.scrub_copies(name, &value, options, &mut watch).await;
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

    async fn scrub_copies(
        &self,
        name: &ImageName,
        value: &ImageValue,
        options: ScrubOptions,
        watch: &mut impl FnMut(ScrubProgress),
    ) -> Result<ScrubOutcome, VolumeError> {
        let mut groups = self.copies_of(name, value).await?;
        let count = |group: &Group| (group.shards.len() * group.copies.len()) as u64;
        let shards = groups.iter().map(count).sum();
        let (mut outcome, mut done_shards) = (ScrubOutcome::default(), 0);
        for group in &mut groups {
            for shard in group.shards.clone() {
                let begun = Instant::now();
                let (checked, busiest) = group.look(shard).await?;
                outcome.checked_blocks += checked;
                done_shards += group.copies.len() as u64;
                watch(ScrubProgress { done_shards, shards });
                let micros = busiest * BLOCK_SIZE as u64 * 1_000_000;
                let wanted = Duration::from_micros(micros.checked_div(options.bytes_per_second).unwrap_or(0));
                monoio::time::sleep(wanted.saturating_sub(begun.elapsed())).await;
            }
            group.raise_disputes().await?;
        }
        outcome.bad_blocks = groups.iter().map(Group::bad_count).sum();
        wait_for_repair(&mut groups).await?;
        outcome.unrepairable_blocks = groups.iter().map(Group::bad_count).sum();
        outcome.repaired_blocks = outcome.bad_blocks - outcome.unrepairable_blocks;
        Ok(outcome)
    }

    /// Connections to all copies. Those that are good now are compared; the others are heal's business.
    async fn copies_of(&self, name: &ImageName, value: &ImageValue) -> Result<Vec<Group>, VolumeError> {
        let info = self.stat_image(name).await?;
        let shard_count = info.size_bytes.div_ceil(info.shard_bytes) as u32;
        let health = self.image_health(value).await;
        let is_good = |address: &str| {
            health.bricks.iter().any(|brick| brick.address == address && brick.state == BrickState::InSync)
        };
        let mut groups = Vec::new();
        for index in value.groups.iter().map(|group| usize::from(*group)) {
            let shards: Vec<ShardIndex> = (0..shard_count)
                .map(ShardIndex)
                .filter(|shard| self.group_of(value, *shard) == index)
                .collect();
            let mut copies = Vec::new();
            for brick in self.group(index).bricks.iter().filter(|brick| brick.role == Role::Data) {
                copies.push(self.open_copy(brick, value, is_good(&brick.address)).await?);
            }
            let bad = copies.iter().map(|_| Blocks::new()).collect();
            groups.push(Group { copies, shards, bad, disputed: Blocks::new() });
        }
        Ok(groups)
    }

    fn group_of(&self, value: &ImageValue, shard: ShardIndex) -> usize {
        let weights: Vec<u32> =
            value.groups.iter().map(|group| self.group(usize::from(*group)).weight).collect();
        usize::from(value.groups[usize::from(group_of(value.image, shard, &weights).0)])
    }
}

impl Group {
    /// Has every copy verify a shard, and compares what they say. Returns how many blocks were read, of all copies and
    /// of the one with the most.
    async fn look(&mut self, shard: ShardIndex) -> Result<(u64, u64), VolumeError> {
        let looks = verify_all(&self.copies, shard, None).await?;
        for (verified, bad) in looks.iter().zip(&mut self.bad) {
            if !verified.bad.is_empty() {
                bad.entry(shard).or_default().insert_all(&verified.bad);
            }
        }
        let disputed = self.differing(&looks);
        if !disputed.is_empty() {
            self.disputed.insert(shard, disputed);
        }
        let read = looks.iter().map(|verified| verified.read_blocks);
        Ok((read.clone().sum(), read.max().unwrap_or(0)))
    }

    /// Blocks in which good copies differ though each finds its own in order.
    fn differing(&self, looks: &[Verified]) -> BlockSet {
        let good = self.copies.iter().zip(looks).filter(|(copy, _)| copy.in_sync);
        let good: Vec<&Verified> = good.map(|(_, verified)| verified).collect();
        let Some((first, others)) = good.split_first() else { return BlockSet::new() };
        let mut differing = BlockSet::new();
        for (block, crc) in &first.crcs {
            let differs = |other: &&Verified| other.crcs.get(block).is_some_and(|other| other != crc);
            if others.iter().any(differs) {
                differing.insert_range(BlockRange::new(*block, 1));
            }
        }
        differing
    }

    /// Looks again at what differs: a write that was under way has ended, or the block holds something else. What
    /// stays as it was is told to a brick, for the holder to judge.
    async fn raise_disputes(&mut self) -> Result<(), VolumeError> {
        let mut before: BTreeMap<ShardIndex, Vec<Verified>> = BTreeMap::new();
        for look in 0..LOOKS {
            if look > 0 && !self.disputed.is_empty() {
                monoio::time::sleep(LOOK_PAUSE).await;
            }
            for (shard, blocks) in std::mem::take(&mut self.disputed) {
                let looks = verify_all(&self.copies, shard, Some(&blocks)).await?;
                let mut still = self.differing(&looks);
                if let Some(before) = before.get(&shard) {
                    let changed = |block: u16| {
                        looks
                            .iter()
                            .zip(before)
                            .any(|(now, then)| now.crcs.get(&block) != then.crcs.get(&block))
                    };
                    blocks.runs(1).filter(|one| changed(one.first)).for_each(|one| still.remove_range(one));
                }
                before.insert(shard, looks);
                if !still.is_empty() {
                    self.disputed.insert(shard, still);
                }
            }
        }
        if let Some(copy) = self.copies.iter().find(|copy| copy.in_sync) {
            for (shard, blocks) in &self.disputed {
                copy.suspect(*shard, blocks).await?;
            }
        }
        Ok(())
    }

    fn bad_count(&self) -> u64 {
        let all = self.bad.iter().chain([&self.disputed]).flat_map(BTreeMap::values);
        all.map(|blocks| blocks.count() as u64).sum()
    }

    /// Looks again at what was bad; what is good now is struck out.
    async fn look_again(&mut self) -> Result<(), VolumeError> {
        for (copy, bad) in self.copies.iter().zip(&mut self.bad) {
            for (shard, blocks) in std::mem::take(bad) {
                let still = copy.verify(shard, Some(&blocks)).await?.bad;
                if !still.is_empty() {
                    bad.insert(shard, still);
                }
            }
        }
        for (shard, blocks) in std::mem::take(&mut self.disputed) {
            let still = self.differing(&verify_all(&self.copies, shard, Some(&blocks)).await?);
            if !still.is_empty() {
                self.disputed.insert(shard, still);
            }
        }
        Ok(())
    }
}

/// Looks at the bad blocks again until they are good or nothing moves any more.
async fn wait_for_repair(groups: &mut [Group]) -> Result<(), VolumeError> {
    let left = |groups: &[Group]| -> u64 { groups.iter().map(Group::bad_count).sum() };
    let mut moved_at = Instant::now();
    while left(groups) > 0 && moved_at.elapsed() < REPAIR_PATIENCE {
        monoio::time::sleep(LOOK_PAUSE).await;
        let before = left(groups);
        for group in groups.iter_mut() {
            group.look_again().await?;
        }
        if left(groups) < before {
            moved_at = Instant::now();
        }
    }
    Ok(())
}
