//! The copies of some shards in one replica group while they are scrubbed: what each finds bad, and where good ones differ.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use brick_wire::{BlockRange, BlockSet, ShardIndex};

use super::copy::{Copy, Verified, verify_all};
use crate::volume::VolumeError;

/// Pause between looks at blocks that are being repaired.
const LOOK_PAUSE: Duration = Duration::from_millis(500);
/// Looks at blocks in which copies differ before that is taken for more than a write under way.
const LOOKS: u32 = 3;
/// Without a block repaired for this long the rest counts as beyond repair.
const REPAIR_PATIENCE: Duration = Duration::from_secs(10);

/// Blocks by shard.
type Blocks = BTreeMap<ShardIndex, BlockSet>;

/// The copies of the shards in one group, and what was found there.
pub(super) struct Group {
    pub(super) copies: Vec<Copy>,
    pub(super) shards: Vec<ShardIndex>,
    /// Of each copy: what it finds bad itself.
    bad: Vec<Blocks>,
    /// In which good copies differ though neither is bad.
    disputed: Blocks,
}

impl Group {
    pub(super) fn new(copies: Vec<Copy>, shards: Vec<ShardIndex>) -> Group {
        let bad = copies.iter().map(|_| Blocks::new()).collect();
        Group { copies, shards, bad, disputed: Blocks::new() }
    }

    /// Has every copy verify a shard, and compares what they say. Returns how many blocks were read, of all copies and
    /// of the one with the most.
    pub(super) async fn look(&mut self, shard: ShardIndex) -> Result<(u64, u64), VolumeError> {
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
    pub(super) async fn raise_disputes(&mut self) -> Result<(), VolumeError> {
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
        self.tell().await
    }

    /// Tells a brick of the disputed blocks. What it has told a holder that died is told again.
    async fn tell(&self) -> Result<(), VolumeError> {
        if let Some(copy) = self.copies.iter().find(|copy| copy.in_sync) {
            for (shard, blocks) in &self.disputed {
                copy.suspect(*shard, blocks).await?;
            }
        }
        Ok(())
    }

    pub(super) fn bad_count(&self) -> u64 {
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
        self.tell().await
    }
}

/// Looks at the bad blocks again until they are good or nothing moves any more.
pub(super) async fn wait_for_repair(groups: &mut [Group]) -> Result<(), VolumeError> {
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
