//! Reads blocks whose CRCs were adopted from another copy (see `pull`) and compares them: what rotted before a crash is
//! found within moments of the heal, while that copy is there to repair it, and not when a client or a scrub gets there.
//!
//! It can wait, so it does: until nothing is pulled, a piece at a time, with pauses; and where memory is short it lets the
//! blocks go. What is left of it at a stop is forgotten: the CRCs are on disk by then, and scrubs meet those
//! blocks like all others.

use std::collections::BTreeMap;
use std::time::Duration;

use brick_wire::checksum::block_crcs;
use brick_wire::overlap::Access;
use brick_wire::{BlockSet, ImageUuid, Status, Timestamp};

use super::tasks::{Target, Work};
use super::{Engine, ShardKey, Token};
use crate::buffer::Buffer;

/// Blocks that are read at once.
pub(super) const RECHECK_BLOCKS_MAX: u16 = 64;
/// How long after the last CRC was adopted it begins.
const DELAY: Duration = Duration::from_secs(1);
/// Between two reads of a brick of one core: 256 KiB every 5 ms are 50 MB/s. More cores share that.
const PAUSE: Duration = Duration::from_millis(5);

/// What is to be read. There are no more shards in it than the activity log names after a crash.
#[derive(Debug, Default)]
pub(super) struct Rechecks {
    /// With the shards' sizes, bytes.
    waiting: BTreeMap<ShardKey, (u64, BlockSet)>,
    running: bool,
    due: Timestamp,
}

impl Rechecks {
    /// The image is being removed.
    pub(super) fn forget(&mut self, image: ImageUuid) {
        self.waiting.retain(|(other, _), _| *other != image);
    }

    fn insert(&mut self, key: ShardKey, shard_bytes: u64, blocks: &BlockSet) {
        let (_, waiting) = self.waiting.entry(key).or_insert_with(|| (shard_bytes, BlockSet::new()));
        waiting.insert_all(blocks);
    }

    /// Takes the next blocks of a shard.
    fn take_next(&mut self) -> Option<Target> {
        let mut entry = self.waiting.first_entry()?;
        let key = *entry.key();
        let (shard_bytes, left) = entry.get_mut();
        let blocks = left.runs(RECHECK_BLOCKS_MAX).next().expect("shards wait with blocks");
        left.remove_range(blocks);
        let target = Target { key, shard_bytes: *shard_bytes, blocks };
        if left.is_empty() {
            entry.remove();
        }
        Some(target)
    }
}

impl Engine {
    /// These blocks of a shard have a CRC that none of our reads has confirmed.
    pub(super) fn check_later(&mut self, key: ShardKey, shard_bytes: u64, blocks: &BlockSet) {
        if blocks.is_empty() {
            return;
        }
        self.rechecks.insert(key, shard_bytes, blocks);
        self.rechecks.due = self.now + DELAY;
    }

    /// When the next blocks should be read.
    pub(super) fn recheck_due(&self) -> Option<Timestamp> {
        let Rechecks { waiting, running, due } = &self.rechecks;
        let possible = !running && self.pulls.is_idle() && !self.is_stopping();
        (possible && !waiting.is_empty()).then_some(*due)
    }

    /// Starts to read the next blocks when it is time.
    pub(super) fn start_recheck(&mut self) {
        if self.recheck_due().is_none_or(|due| self.now < due) {
            return;
        }
        let Some(target) = self.rechecks.take_next() else { return };
        if self.removals.contains(target.key.0) {
            return self.rechecks.forget(target.key.0);
        }
        self.rechecks.running = true;
        let token = self.new_token();
        self.start_task(token, target, Access::Shared, Work::Recheck(None));
    }

    pub(super) fn advance_recheck(&mut self, token: Token) {
        let target = self.tasks[&token].target;
        if !self.files.exists_soon(target.key) {
            return self.end_task(token);
        }
        if matches!(self.tasks[&token].work, Work::Recheck(None)) {
            let Some(buffer) = self.pool.allocate(target.blocks.bytes()) else {
                self.rechecks.insert(target.key, target.shard_bytes, &target.blocks.into());
                return self.end_task(token);
            };
            self.task(token).work = Work::Recheck(Some(buffer));
        }
        let Some(slot) = self.task_file(token) else { return };
        if !self.task_page(token) {
            return;
        }
        let Work::Recheck(buffer) = &mut self.task(token).work else { unreachable!("dispatched by kind") };
        let buffer = buffer.take().expect("allocated above");
        self.task_read(token, slot, buffer);
    }

    pub(super) fn recheck_read(&mut self, token: Token, result: Result<Buffer, Status>) {
        let Target { key, blocks, .. } = self.tasks[&token].target;
        let bad = match result {
            Ok(buffer) => {
                let crcs: Vec<u32> = block_crcs(&buffer).collect();
                self.examine(key, blocks, &crcs)
            }
            Err(_) => blocks.into(),
        };
        // The holder learns of it with its next renewal.
        self.note_bad(key, &bad);
        self.end_task(token);
    }

    /// The file can't be opened. That may pass.
    pub(super) fn recheck_failed(&mut self, token: Token, status: Status) {
        let Target { key, shard_bytes, blocks } = self.tasks[&token].target;
        if status != Status::Invalid {
            self.check_later(key, shard_bytes, &blocks.into());
        }
        self.end_task(token);
    }

    pub(super) fn recheck_ended(&mut self) {
        self.rechecks.running = false;
        let pause = PAUSE * u32::from(self.config.cores);
        self.rechecks.due = self.rechecks.due.max(self.now + pause);
    }
}
