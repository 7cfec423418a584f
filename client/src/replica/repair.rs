//! Repair: blocks of a copy in S that can't be read, or aren't what was last written there, are fetched again from
//! another copy of S.
//!
//! A read that meets such a block is served by another copy at once; the repair follows. What a brick finds by itself
//! it says in its answers to renewals. A repair is a pull like those of heal, under the same claims (I13) and for the
//! holder only (I15): the brick fetches what it can't vouch for itself, and nothing else, or a recovery's source would
//! change under the copies that were made equal to it. The source sends only what it can vouch for, so a block that is bad everywhere stays bad, and its readers
//! are told. A read for which each copy is bad somewhere waits for the repairs. A block that was written meanwhile is
//! good, and the pull finds that.

use std::time::Duration;

use brick_wire::body::{DirtyPage, PullReport};
use brick_wire::cursor::Body;
use brick_wire::decode::Frame;
use brick_wire::{
    BlockRange, BlockSet, BrickIndex, CoreIndex, Flags, Header, Opcode, ShardIndex, Status, Timestamp,
};

use super::Group;
use super::admit::Kind;
use super::group::Phase;
use super::heal::{PullOperation, first_blocks, hull};
use super::pending::Purpose;

/// Shards with blocks to repair that are remembered; further ones are met again.
const REPAIRS_MAX: usize = 1024;
/// Blocks of one repair.
const REPAIR_BLOCKS_MAX: usize = 512;
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
    pub(super) fn note_bad_blocks(&mut self, brick: BrickIndex, shard: ShardIndex, blocks: &BlockSet) {
        let known = self.repairs.contains_key(&(brick, shard));
        if !self.in_sync().contains(brick) || (!known && self.repairs.len() >= REPAIRS_MAX) {
            return;
        }
        let not_before = self.now;
        let fresh = Repair { blocks: BlockSet::new(), attempts: 0, not_before, in_flight: false };
        self.repairs.entry((brick, shard)).or_insert(fresh).blocks.insert_all(blocks);
    }

    /// A core knows bad blocks that nobody may have read yet.
    /// With [`Flags::SUSPECT`]: or was told of suspicious ones (`judge`).
    pub(super) fn ask_for_bad_blocks(&mut self, brick: BrickIndex, core: CoreIndex, flags: Flags) {
        let purpose = Purpose::BadRead(core, flags);
        let asked = self.pending.any(brick, |pending| *pending == purpose);
        if matches!(self.phase, Phase::Serving) && self.ready().contains(brick) && !asked {
            let header = Header { flags, ..self.data_header(Opcode::BadRead) };
            self.send(brick, core, header, purpose);
        }
    }

    pub(super) fn handle_bad_blocks(&mut self, brick: BrickIndex, flags: Flags, reply: &Frame) {
        let (Status::Ok, Ok(page)) = (reply.header.status, DirtyPage::from_bytes(&reply.aux)) else { return };
        for (shard, blocks) in page.shards {
            if blocks.end() > usize::from(self.config.shard_blocks()) {
                return self.reset_link(brick, "it lists bad blocks behind the end of a shard");
            }
            if blocks.is_empty() {
                continue;
            }
            if flags.contains(Flags::SUSPECT) {
                self.note_suspicion(shard, &blocks);
            } else {
                self.note_bad_blocks(brick, shard, &blocks);
            }
        }
    }

    /// Starts the repairs that are due, one pull a shard: two copies that pull from each other there would wait for
    /// each other's blocks.
    pub(super) fn progress_repairs(&mut self) {
        // Bricks that left S are healed whole.
        let in_sync = self.in_sync();
        self.repairs.retain(|(brick, _), repair| in_sync.contains(*brick) || repair.in_flight);
        while self.change.is_none()
            && let Some((target, shard, blocks)) = self.next_repair()
        {
            self.repairs.get_mut(&(target, shard)).expect("listed").in_flight = true;
            let range = hull(&blocks);
            self.admit(None, Kind::Pull(PullOperation::repair(target, blocks)), shard, range);
        }
        self.wake_reads();
    }

    fn next_repair(&self) -> Option<(BrickIndex, ShardIndex, BlockSet)> {
        if self.repairs.values().filter(|repair| repair.in_flight).count() >= REPAIRS_IN_FLIGHT_MAX {
            return None;
        }
        let is_due = |repair: &Repair| !repair.in_flight && repair.not_before <= self.now;
        let due = self.repairs.iter().filter(|(_, repair)| is_due(repair));
        let mut due = due.filter(|((brick, shard), _)| {
            // Where copies may differ because S refused a write, they are made equal first (rule I9).
            self.repair_source(*brick).is_some()
                && !self.pulls_in(*shard)
                && !self.suspect.contains_key(shard)
        });
        due.next()
            .map(|((brick, shard), repair)| (*brick, *shard, first_blocks(&repair.blocks, REPAIR_BLOCKS_MAX)))
    }

    /// Whether a pull of the shard's blocks is under way.
    pub(super) fn pulls_in(&self, shard: ShardIndex) -> bool {
        let mut operations = self.operations.values();
        operations.any(|operation| operation.shard == shard && matches!(operation.kind, Kind::Pull(_)))
    }

    /// Whether a repair that hasn't failed yet will show that the blocks are good.
    pub(super) fn is_being_repaired(&self, shard: ShardIndex, blocks: BlockRange) -> bool {
        self.repairs.iter().any(|((brick, other), repair)| {
            let hopeful = repair.attempts == 0 && self.repair_source(*brick).is_some();
            *other == shard && hopeful && repair.blocks.intersects(blocks)
        })
    }

    /// Whether a repair in this brick's copy of the shard is listed that can be made and hasn't failed yet.
    pub(super) fn is_to_be_repaired(&self, brick: BrickIndex, shard: ShardIndex) -> bool {
        let repair = self.repairs.get(&(brick, shard));
        repair.is_some_and(|repair| repair.attempts == 0) && self.repair_source(brick).is_some()
    }

    /// The image closes: what is bad is found again.
    pub(super) fn forget_repairs(&mut self) {
        self.repairs.clear();
        self.wake_reads();
    }

    /// Another copy of S; in a recovery, one that hasn't lost writes with its boot.
    pub(super) fn repair_source(&self, target: BrickIndex) -> Option<BrickIndex> {
        let usable = self.usable_copies();
        let sources = usable.intersection(self.trusted()).without(target);
        if usable.contains(target) { sources.first() } else { None }
    }

    /// Blocks of a copy in S were written again from another one.
    pub(super) fn count_repaired(&mut self, report: &PullReport) {
        self.counters.repaired_blocks += u64::from(report.written_blocks);
        if report.written_blocks > 0 {
            self.flush.note_write_completed();
        }
    }

    pub(super) fn note_repaired(&mut self, brick: BrickIndex, shard: ShardIndex, blocks: &BlockSet) {
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
        if matches!(self.phase, Phase::Recovering) {
            // Its blocks are bad, and nobody has better ones: what was to become equal to it has to do without.
            self.stop_heals_from(brick);
        }
    }

    /// When a repair that waits may start.
    pub(super) fn repair_timeout(&self) -> Option<Timestamp> {
        let waiting = self.repairs.values().filter(|repair| !repair.in_flight);
        waiting.map(|repair| repair.not_before).filter(|at| *at > self.now).min()
    }
}
