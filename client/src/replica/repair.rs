//! Repair: blocks of a copy in S that can't be read, or aren't what was last written there, are fetched again from
//! another copy of S.
//!
//! A read that meets such a block is served by another copy at once; the repair follows. What a brick finds by itself
//! it says in its answers to renewals. A repair is a pull like those of
//! heal, under the same claims (I13) and for the holder only (I15): the brick asks the source for what differs, and
//! counts as differing what it can't vouch for itself. The source vouches for every block that it sends, so a block
//! that is bad everywhere stays bad, and its readers are told. A block that was written meanwhile is good, and the
//! pull finds that.

use std::time::Duration;

use brick_wire::body::{DirtyPage, PullReport};
use brick_wire::cursor::Body;
use brick_wire::decode::Frame;
use brick_wire::{BlockRange, BlockSet, BrickIndex, CoreIndex, Opcode, ShardIndex, Status, Timestamp};

use super::Group;
use super::admit::Kind;
use super::group::Phase;
use super::heal::{PullOperation, hull};
use super::pending::Purpose;

/// Shards with blocks to repair that are remembered; further ones are met again.
const REPAIRS_MAX: usize = 1024;
/// Repairs under way.
const REPAIRS_IN_FLIGHT_MAX: usize = 4;
/// Pause after a repair that failed; doubles up to [`RETRY_PAUSE_MAX`].
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause between attempts: the other copy may be bad there, too, and stay so.
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(60);

/// Bad blocks of one copy of a shard.
#[derive(Debug)]
pub(super) struct Repair {
    blocks: BlockSet,
    attempts: u32,
    not_before: Timestamp,
    in_flight: bool,
}

impl Group {
    /// A brick of S couldn't read these blocks, or found that they aren't what was written.
    pub(super) fn note_bad_blocks(&mut self, brick: BrickIndex, shard: ShardIndex, blocks: BlockRange) {
        let known = self.repairs.contains_key(&(brick, shard));
        if !self.in_sync().contains(brick) || (!known && self.repairs.len() >= REPAIRS_MAX) {
            return;
        }
        let not_before = self.now;
        let fresh = Repair { blocks: BlockSet::new(), attempts: 0, not_before, in_flight: false };
        self.repairs.entry((brick, shard)).or_insert(fresh).blocks.insert_range(blocks);
    }

    /// A core knows bad blocks that nobody may have read yet.
    pub(super) fn ask_for_bad_blocks(&mut self, brick: BrickIndex, core: CoreIndex) {
        let asked = self.pending.any(brick, |purpose| purpose == Purpose::BadRead);
        if matches!(self.phase, Phase::Serving) && self.ready().contains(brick) && !asked {
            let header = self.data_header(Opcode::BadRead);
            self.send(brick, core, header, Purpose::BadRead);
        }
    }

    pub(super) fn handle_bad_blocks(&mut self, brick: BrickIndex, reply: &Frame) {
        let (Status::Ok, Ok(page)) = (reply.header.status, DirtyPage::from_bytes(&reply.aux)) else { return };
        for (shard, blocks) in page.shards {
            if blocks.end() > usize::from(self.config.shard_blocks()) {
                return self.reset_link(brick, "it lists bad blocks behind the end of a shard");
            }
            for run in blocks.runs(u16::MAX) {
                self.note_bad_blocks(brick, shard, run);
            }
        }
    }

    /// Starts the repairs that are due.
    pub(super) fn progress_repairs(&mut self) {
        // Bricks that left S are healed whole.
        let in_sync = self.in_sync();
        self.repairs.retain(|(brick, _), repair| in_sync.contains(*brick) || repair.in_flight);
        if self.change.is_some() {
            return;
        }
        let in_flight = self.repairs.values().filter(|repair| repair.in_flight).count();
        let now = self.now;
        let due = self.repairs.iter().filter(|(_, repair)| !repair.in_flight && repair.not_before <= now);
        let due: Vec<_> = due
            .filter(|((brick, _), _)| self.repair_source(*brick).is_some())
            .map(|((brick, shard), repair)| (*brick, *shard, repair.blocks.clone()))
            .take(REPAIRS_IN_FLIGHT_MAX.saturating_sub(in_flight))
            .collect();
        for (target, shard, blocks) in due {
            self.repairs.get_mut(&(target, shard)).expect("listed above").in_flight = true;
            let range = hull(&blocks);
            self.admit(None, Kind::Pull(PullOperation::repair(target, blocks)), shard, range);
        }
    }

    /// Another copy of S.
    pub(super) fn repair_source(&self, target: BrickIndex) -> Option<BrickIndex> {
        let usable = self.in_sync().intersection(self.ready()).difference(self.dropping);
        usable.contains(target).then(|| usable.without(target).first()).flatten()
    }

    pub(super) fn note_repaired(
        &mut self,
        brick: BrickIndex,
        shard: ShardIndex,
        blocks: &BlockSet,
        report: PullReport,
    ) {
        self.counters.repaired_blocks += u64::from(report.written_blocks);
        if report.written_blocks > 0 {
            // What was written has to be flushed, like a write.
            self.flush.note_bits_left();
        }
        if let Some(repair) = self.repairs.get_mut(&(brick, shard)) {
            repair.in_flight = false;
            repair.blocks.remove_all(blocks);
            if repair.blocks.is_empty() {
                self.repairs.remove(&(brick, shard));
            }
        }
    }

    pub(super) fn note_repair_failed(&mut self, brick: BrickIndex, shard: ShardIndex) {
        let now = self.now;
        if let Some(repair) = self.repairs.get_mut(&(brick, shard)) {
            repair.in_flight = false;
            repair.not_before = now + (RETRY_PAUSE * (1 << repair.attempts.min(8))).min(RETRY_PAUSE_MAX);
            repair.attempts += 1;
        }
    }

    /// When a repair that waits may start.
    pub(super) fn repair_timeout(&self) -> Option<Timestamp> {
        let waiting = self.repairs.values().filter(|repair| !repair.in_flight);
        waiting.map(|repair| repair.not_before).filter(|at| *at > self.now).min()
    }
}
