//! `scrub`: has every data brick read an image whole and compare it with what was last written, and waits until what
//! is bad was repaired.
//!
//! Bricks verify for anybody, beside a client that has the image open: that client is told by its bricks and repairs.
//! If nobody has it open it is opened here, under a `heal` epoch which an opening client may preempt. What counts as
//! repaired is what the same brick finds good when it looks again.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use brick_wire::body::{Attach, VerifyReply};
use brick_wire::cursor::Body;
use brick_wire::handshake::PeerKind;
use brick_wire::limits::{BLOCK_SHIFT, BLOCK_SIZE, DATA_BLOCKS_MAX};
use brick_wire::placement::{core_of, group_of, lane_of};
use brick_wire::register::ImageValue;
use brick_wire::{
    BlockRange, BlockSet, CoreIndex, Flags, Header, Opcode, RequestId, Role, ShardIndex, Status,
};

use super::{Volume, VolumeError};
use crate::driver::control::Control;
use crate::name::ImageName;
use crate::replica::{BrickConfig, GroupError, HANDLE};

/// Pause between looks at blocks that are being repaired.
const LOOK_PAUSE: Duration = Duration::from_millis(500);
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

/// A data brick, its connections to all cores, and the shards it may hold.
struct Copy {
    address: String,
    cores: Vec<Rc<Control>>,
    value: ImageValue,
    shards: Vec<ShardIndex>,
}

type Bad = BTreeMap<ShardIndex, BlockSet>;

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
        let info = self.stat_image(name).await?;
        let shard_count = info.size_bytes.div_ceil(info.shard_bytes) as u32;
        let mut copies = Vec::new();
        for group in value.groups.iter().map(|group| usize::from(*group)) {
            let shards: Vec<ShardIndex> = (0..shard_count)
                .map(ShardIndex)
                .filter(|shard| self.group_of(value, *shard) == group)
                .collect();
            for brick in self.group(group).bricks.iter().filter(|brick| brick.role == Role::Data) {
                copies.push(self.open_copy(brick, value, shards.clone()).await?);
            }
        }
        let shards = copies.iter().map(|copy| copy.shards.len() as u64).sum();
        let (mut outcome, mut bad, mut done_shards) = (ScrubOutcome::default(), Vec::new(), 0);
        for copy in &copies {
            let mut found = Bad::new();
            for shard in &copy.shards {
                let begun = Instant::now();
                let checked = copy.verify(*shard, None, &mut found).await?;
                outcome.checked_blocks += checked;
                done_shards += 1;
                watch(ScrubProgress { done_shards, shards });
                let micros = checked * BLOCK_SIZE as u64 * 1_000_000;
                let wanted = Duration::from_micros(micros.checked_div(options.bytes_per_second).unwrap_or(0));
                monoio::time::sleep(wanted.saturating_sub(begun.elapsed())).await;
            }
            bad.push(found);
        }
        outcome.bad_blocks = count(&bad);
        outcome.unrepairable_blocks = wait_for_repair(&copies, bad).await?;
        outcome.repaired_blocks = outcome.bad_blocks - outcome.unrepairable_blocks;
        Ok(outcome)
    }

    fn group_of(&self, value: &ImageValue, shard: ShardIndex) -> usize {
        let weights: Vec<u32> =
            value.groups.iter().map(|group| self.group(usize::from(*group)).weight).collect();
        usize::from(value.groups[usize::from(group_of(value.image, shard, &weights).0)])
    }

    async fn open_copy(
        &self,
        brick: &BrickConfig,
        value: &ImageValue,
        shards: Vec<ShardIndex>,
    ) -> Result<Copy, VolumeError> {
        let caller = self.caller(PeerKind::Client, Volume::fresh_session());
        let first = Rc::new(Control::open(&brick.address, &caller, brick.brick, CoreIndex(0)).await?);
        let mut cores = vec![first.clone()];
        for core in (1..first.welcome.cores).map(CoreIndex) {
            cores.push(Rc::new(Control::open(&brick.address, &caller, brick.brick, core).await?));
        }
        let attach = Attach { image: value.image, shard_shift: value.shard_shift };
        for control in &cores {
            let mut header = Header::request(Opcode::Attach, RequestId(0));
            header.image = HANDLE;
            control.call(header, attach.to_bytes()).await?;
        }
        Ok(Copy { address: brick.address.clone(), cores, value: value.clone(), shards })
    }
}

impl Copy {
    /// Has the brick verify the blocks of a shard (`None`: all), adds what is bad to `bad`, and returns how many
    /// blocks it read.
    async fn verify(
        &self,
        shard: ShardIndex,
        blocks: Option<&BlockSet>,
        bad: &mut Bad,
    ) -> Result<u64, VolumeError> {
        let welcome = &self.cores[0].welcome;
        let core = core_of(lane_of(self.value.image, shard, welcome.lanes), welcome.cores);
        let whole = BlockSet::full(1 << (u32::from(self.value.shard_shift) - BLOCK_SHIFT));
        let runs: Vec<BlockRange> = blocks.unwrap_or(&whole).runs(DATA_BLOCKS_MAX).collect();
        let asked = runs.iter().map(|run| {
            let mut header = Header::request(Opcode::Verify, RequestId(0));
            (header.image, header.shard, header.blocks) = (HANDLE, shard, *run);
            let control = self.cores[usize::from(core.0)].clone();
            monoio::spawn(async move { control.call(header, Vec::new()).await })
        });
        // All at once: a shard's worth.
        let asked: Vec<_> = asked.collect();
        let mut checked_blocks = 0;
        for (answer, run) in asked.into_iter().zip(&runs) {
            let reply = answer.await?;
            let verified = VerifyReply::from_bytes(&reply.aux);
            let (Status::Ok, Ok(verified)) = (reply.header.status, verified) else {
                let reason = format!("it answered {:?} to a verification", reply.header.status);
                return Err(VolumeError::BadBrick { address: self.address.clone(), reason });
            };
            if !reply.header.flags.contains(Flags::ZEROES) {
                checked_blocks += u64::from(run.count);
            }
            if !verified.bad.is_empty() {
                bad.entry(shard).or_default().insert_all(&verified.bad);
            }
        }
        Ok(checked_blocks)
    }
}

/// Looks at the bad blocks again until they are good or nothing moves any more; how many stay bad.
async fn wait_for_repair(copies: &[Copy], mut bad: Vec<Bad>) -> Result<u64, VolumeError> {
    let mut moved_at = Instant::now();
    while count(&bad) > 0 && moved_at.elapsed() < REPAIR_PATIENCE {
        monoio::time::sleep(LOOK_PAUSE).await;
        let before = count(&bad);
        for (copy, bad) in copies.iter().zip(&mut bad) {
            let mut still = Bad::new();
            for (shard, blocks) in bad.iter() {
                copy.verify(*shard, Some(blocks), &mut still).await?;
            }
            *bad = still;
        }
        if count(&bad) < before {
            moved_at = Instant::now();
        }
    }
    Ok(count(&bad))
}

fn count(bad: &[Bad]) -> u64 {
    bad.iter().flat_map(BTreeMap::values).map(|blocks| blocks.count() as u64).sum()
}
