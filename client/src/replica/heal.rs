//! Bringing a brick back: pull what is listed, flush, join (I10), while I/O goes on.
//!
//! Blocks move from a good brick to the stale one directly; this side only says which, and holds the
//! claim on them so that the user's writes to those blocks, and only those, wait for the moment. A brick
//! joins when its list is empty, it has acknowledged every completed write, and it was flushed after that.
//! From that flush on it is required: writes and flushes need it although the record doesn't name it yet.

use std::time::Duration;

use brick_wire::body::{Pull, PullReport};
use brick_wire::cursor::Body;
use brick_wire::decode::Frame;
use brick_wire::{
    BlockRange, BlockSet, BrickIndex, Flags, Generation, Header, Opcode, ShardIndex, Status, Timestamp,
};
use bytes::Bytes;

use super::Group;
use super::admit::{Kind, OperationKey};
use super::gather::Stage;
use super::group::{Joining, Phase};
use super::interface::Output;
use super::open::RECOVER_BLOCKS_MAX;
use super::pending::Purpose;

/// Pulls under way to one brick: many small ones where few blocks of many shards are listed.
const PULLS_MAX: usize = 16;
/// Pause after a heal that failed; doubles up to [`HEAL_PAUSE_MAX`].
const HEAL_PAUSE: Duration = Duration::from_millis(100);
/// Longest pause between attempts to heal a brick.
const HEAL_PAUSE_MAX: Duration = Duration::from_secs(10);

/// A pull under way.
#[derive(Debug)]
pub(super) struct PullOperation {
    target: BrickIndex,
    blocks: BlockSet,
    errand: Errand,
    sent: bool,
    /// The flush generation it was first sent under: what it writes into a copy of S isn't durable before a flush.
    generation: Option<Generation>,
}

/// What a pull is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Errand {
    /// To bring a brick back, or make copies of S equal that refused a write.
    Heal,
    /// Bad blocks in a copy of S.
    Repair,
    /// Blocks in which a copy of S was found wrong; this one is right (`judge`).
    Judged(BrickIndex),
}

impl PullOperation {
    fn new(target: BrickIndex, blocks: BlockSet, errand: Errand) -> PullOperation {
        PullOperation { target, blocks, errand, sent: false, generation: None }
    }

    /// Fetches bad blocks of a copy in S from another one.
    pub(super) fn repair(target: BrickIndex, blocks: BlockSet) -> PullOperation {
        PullOperation::new(target, blocks, Errand::Repair)
    }

    /// Fetches what a copy in S has wrong from the one that has it right.
    pub(super) fn judged(target: BrickIndex, source: BrickIndex, blocks: BlockSet) -> PullOperation {
        PullOperation::new(target, blocks, Errand::Judged(source))
    }

    pub(super) fn generation(&self) -> Option<Generation> {
        self.generation
    }
}

impl Group {
    /// Starts heals that are due and takes the running ones further.
    pub(super) fn progress_heals(&mut self) {
        match self.phase {
            Phase::Recovering => {
                self.start_recovery_heals();
                self.progress_repairs();
            }
            Phase::Serving => self.start_heals(),
            _ => return,
        }
        for target in self.heal_targets().iter() {
            self.pump_heal(target);
        }
        if matches!(self.phase, Phase::Recovering) {
            self.progress_recovery();
        } else {
            self.progress_join();
            self.equalize_suspects();
            self.progress_repairs();
        }
    }

    fn start_heals(&mut self) {
        if self.change.is_some() {
            return;
        }
        let record = self.record.as_ref().expect("serving");
        let (ready, in_sync) = (self.ready(), record.in_sync);
        let stale = self.config.data_bricks().difference(in_sync).intersection(ready);
        for target in stale.iter() {
            let brick = self.brick(target);
            if brick.heal.is_none()
                && self.now >= brick.heal_after
                && let Some(source) = in_sync.intersection(ready).first()
            {
                self.start_heal(target, source);
            }
        }
    }

    /// In a recovery every copy of S but the chosen one is a target.
    fn start_recovery_heals(&mut self) {
        let in_sync = self.record.as_ref().expect("recovering").in_sync;
        if self.change.is_some() || !in_sync.is_subset_of(self.ready()) {
            return;
        }
        let Some(source) = self.recovery_source(in_sync) else { return };
        for target in in_sync.without(source).iter() {
            if self.brick(target).heal.is_none() && !self.recovered.contains(target) {
                self.start_heal(target, source);
            }
        }
    }

    /// Serves when the copies are equal; or at once from one copy if there is much to compare.
    fn progress_recovery(&mut self) {
        if self.change.is_some() {
            return;
        }
        let targets = self.heal_targets();
        for target in targets.iter() {
            let heal = self.brick(target).heal.as_ref().expect("selected by it");
            if matches!(heal.stage, Stage::Gathering { .. }) {
                return;
            }
            if heal.is_equal() {
                let source = heal.source;
                self.brick_mut(target).heal = None;
                self.recovered = self.recovered.with(source).with(target);
            }
        }
        let blocks: u64 =
            self.bricks.iter().filter_map(|brick| brick.heal.as_ref()).map(|heal| heal.listed_blocks()).sum();
        let remaining = self.heal_targets();
        if blocks > RECOVER_BLOCKS_MAX {
            self.dropping = self.dropping.union(remaining);
        }
        if self.recovery_is_over() {
            self.begin_change();
        }
    }

    /// Whether every member of S that is to stay there is equal to the others.
    pub(super) fn recovery_is_over(&self) -> bool {
        let Some(record) = &self.record else { return false };
        let staying = record.in_sync.difference(self.dropping);
        staying.count() <= 1 || staying.is_subset_of(self.recovered)
    }

    /// Keeps pulls under way while there is something listed.
    fn pump_heal(&mut self, target: BrickIndex) {
        if self.change.is_some() || !self.ready().contains(target) {
            return;
        }
        loop {
            let Some(heal) = &mut self.brick_mut(target).heal else { return };
            if heal.stage != Stage::Copying || heal.pulls >= PULLS_MAX {
                return;
            }
            let room = self.pace.next_pull(self.now, self.blocks_being_pulled());
            let Some((shard, blocks)) = self.next_pull(target, room) else { return };
            let range = hull(&blocks);
            self.brick_mut(target).heal.as_mut().expect("checked above").pulls += 1;
            let pull = PullOperation::new(target, blocks, Errand::Heal);
            self.admit(None, Kind::Pull(pull), shard, range);
        }
    }

    fn blocks_being_pulled(&self) -> usize {
        let pulls = self.operations.values().filter_map(|operation| match &operation.kind {
            Kind::Pull(pull) => Some(pull.blocks.count()),
            _ => None,
        });
        pulls.sum()
    }

    /// Listed blocks that no pull is after yet, as many as there is `room` for.
    fn next_pull(&self, target: BrickIndex, room: usize) -> Option<(ShardIndex, BlockSet)> {
        let heal = self.brick(target).heal.as_ref().filter(|_| room > 0)?;
        for (shard, listed) in &heal.list {
            if self.is_to_be_repaired(heal.source, *shard) {
                continue;
            }
            let mut left = listed.clone();
            for operation in self.operations.values().filter(|operation| operation.shard == *shard) {
                if let Kind::Pull(pull) = &operation.kind
                    && pull.target == target
                {
                    left.remove_all(&pull.blocks);
                }
            }
            // Nor is a pull ever in flight beside a write to the same blocks (rule I13).
            heal.unanswered(*shard).for_each(|blocks| left.remove_range(blocks));
            if !left.is_empty() {
                // Not mixed: the brick's own may be compared in another way.
                let left = if self.crashed.contains(target) { heal.others_first(*shard, left) } else { left };
                return Some((*shard, first_blocks(&left, room)));
            }
        }
        None
    }

    pub(super) fn drive_pull(&mut self, key: OperationKey) {
        let operation = &self.operations[&key];
        let Kind::Pull(pull) = &operation.kind else { unreachable!("driven as a pull") };
        let (target, shard, sent, errand) = (pull.target, operation.shard, pull.sent, pull.errand);
        if sent {
            return;
        }
        if matches!(self.phase, Phase::Closing) {
            // Heals have ended, and what remains within S can wait for the next session.
            return self.give_up_pull(target, key);
        }
        if self.change.is_some() || !matches!(self.phase, Phase::Serving | Phase::Recovering) {
            return;
        }
        if !self.ready().contains(target) {
            if !self.is_of_heal(key) {
                self.give_up_pull(target, key);
            }
            return;
        }
        let source = match (errand, &self.brick(target).heal) {
            (Errand::Heal, Some(heal)) => Some(heal.source),
            (Errand::Heal, None) => self.suspect_source(target),
            (Errand::Repair, _) => self.repair_source(target),
            (Errand::Judged(source), _) => Some(source).filter(|source| self.may_be_pulled(*source, target)),
        };
        let Some(source) = source else { return self.give_up_pull(target, key) };
        let Some(link) = self.brick(source).link else { return self.stop_heal(target) };
        let generation = self.flush.generation;
        let Kind::Pull(pull) = &mut self.operations.get_mut(&key).expect("driven").kind else { return };
        pull.sent = true;
        pull.generation.get_or_insert(generation);
        let config = &self.config.bricks[usize::from(source.0)];
        let body = Pull {
            source: config.brick,
            incarnation: link.incarnation,
            address: config.address.clone(),
            blocks: pull.blocks.clone(),
        };
        let mut header = self.data_header(Opcode::Pull);
        header.shard = shard;
        header.flags = match errand {
            Errand::Repair => Flags::BAD,
            Errand::Heal if self.can_only_have_rotted(target, shard, &body.blocks) => Flags::HEAL,
            Errand::Heal | Errand::Judged(_) => Flags::NONE,
        };
        let frame = Frame::new(header, body.to_bytes(), Bytes::new());
        let core = self.core_for(target, shard);
        self.send_frame(target, core, frame, Purpose::Pull(key));
    }

    /// Whether S knows every write that the brick saw to these blocks, and has none: they are looked at only because a
    /// crash made the brick forget their CRCs.
    fn can_only_have_rotted(&self, target: BrickIndex, shard: ShardIndex, blocks: &BlockSet) -> bool {
        let heal = self.brick(target).heal.as_ref();
        let serving = matches!(self.phase, Phase::Serving) && self.crashed.contains(target);
        serving && heal.is_some_and(|heal| heal.is_own(shard, blocks))
    }

    pub(super) fn handle_pulled(&mut self, brick: BrickIndex, key: OperationKey, reply: &Frame) {
        let Some(operation) = self.operations.get_mut(&key) else { return };
        let shard = operation.shard;
        let Kind::Pull(pull) = &mut operation.kind else { return };
        pull.sent = false;
        let (mut blocks, errand) = (pull.blocks.clone(), pull.errand);
        let report = PullReport::from_bytes(&reply.aux).unwrap_or_default();
        match reply.header.status {
            Status::Ok => {}
            Status::StaleEpoch | Status::AheadEpoch => {
                // Refused by the target or by the source: one of them is at another epoch.
                let current = self.is_current(reply.header.epoch);
                self.note_wrong_epoch(brick, reply.header);
                return if current { self.fail_pull(brick, key) } else { self.drive(key) };
            }
            _ => return self.fail_pull(brick, key),
        }
        self.pace.note_pull();
        self.counters.healed_blocks += u64::from(report.written_blocks);
        self.counters.compared_blocks += u64::from(report.compared_blocks);
        self.counters.heal_wire_bytes += report.wire_bytes;
        blocks.remove_all(&report.unvouched);
        if errand != Errand::Heal {
            self.finish(key, Ok(Output::Done));
            self.count_repaired(&report);
            if errand == Errand::Repair {
                self.note_repaired(brick, shard, &blocks);
                if !report.unvouched.is_empty() {
                    self.note_repair_failed(brick, shard);
                }
            }
            return;
        }
        // In a recovery both are of S, and the source is to be mended.
        let recovering = matches!(self.phase, Phase::Recovering);
        let Some(heal) = &mut self.brick_mut(brick).heal else {
            if !report.unvouched.is_empty() {
                return self.give_up_pull(brick, key);
            }
            if report.written_blocks > 0 {
                self.flush.note_write_completed();
            }
            self.note_equalized(brick, shard, &blocks);
            return self.finish(key, Ok(Output::Done));
        };
        heal.pulls -= 1;
        heal.unlist(shard, &blocks);
        let source = heal.source;
        self.finish(key, Ok(Output::Done));
        if !report.unvouched.is_empty() {
            self.note_bad_source(brick, source, shard, &report.unvouched, recovering);
        }
    }

    /// The source can't vouch for blocks that a brick lists. It is repaired, and then they are pulled: from another copy
    /// of S, or, in a recovery, from that brick, which may have them. Where nobody can do that, blocks that S has not
    /// written since the brick was equal stay as they are there, and the source is repaired once the brick is in S; for
    /// others the heal waits until they are written. Not before: the brick may hold what a fenced client wrote to it
    /// alone, and the other copies what S has read.
    fn note_bad_source(
        &mut self,
        target: BrickIndex,
        source: BrickIndex,
        shard: ShardIndex,
        unvouched: &BlockSet,
        recovering: bool,
    ) {
        self.note_bad_blocks(source, shard, unvouched);
        if self.is_to_be_repaired(source, shard) {
            return;
        }
        let heal = self.brick_mut(target).heal.as_mut();
        let settled = !recovering && heal.is_some_and(|heal| heal.settle_unvouched(shard, unvouched));
        if !settled {
            self.stop_heal(target);
        }
    }

    /// The link to the target broke. A pull of heal is forgotten with the heal; one within S must not keep writes
    /// from its blocks while the target is away.
    pub(super) fn undo_pull(&mut self, target: BrickIndex, key: OperationKey) {
        let Some(Kind::Pull(pull)) = self.operations.get_mut(&key).map(|operation| &mut operation.kind)
        else {
            return;
        };
        pull.sent = false;
        if !self.is_of_heal(key) {
            self.give_up_pull(target, key);
        }
    }

    /// Whether the pull brings a brick back; the others mend copies within S.
    fn is_of_heal(&self, key: OperationKey) -> bool {
        let Kind::Pull(pull) = &self.operations[&key].kind else { return false };
        pull.errand == Errand::Heal && self.brick(pull.target).heal.is_some()
    }

    fn fail_pull(&mut self, target: BrickIndex, key: OperationKey) {
        if self.is_of_heal(key) {
            self.stop_heal(target);
        } else {
            self.give_up_pull(target, key);
        }
    }

    /// Ends a pull within S; it is tried again later.
    fn give_up_pull(&mut self, target: BrickIndex, key: OperationKey) {
        let operation = &self.operations[&key];
        let Kind::Pull(PullOperation { errand, generation, .. }) = operation.kind else {
            unreachable!("given up as a pull")
        };
        let shard = operation.shard;
        if generation.is_some() {
            // Some of its blocks may be written, and none of them is durable.
            self.flush.note_write_completed();
        }
        self.finish(key, Ok(Output::Done));
        match errand {
            Errand::Heal => self.suspect_retry_at = self.now + HEAL_PAUSE_MAX,
            Errand::Repair => self.note_repair_failed(target, shard),
            // Found again by the next scrub.
            Errand::Judged(_) => {}
        }
    }

    /// Drops the pulls of a heal that was given up; its claims are free again.
    pub(super) fn forget_pulls(&mut self, target: BrickIndex) {
        let of_target = |kind: &Kind| matches!(kind, Kind::Pull(pull) if pull.target == target);
        // Their blocks are safe to write meanwhile: the target is reset, and drained before it is used.
        for key in self.operations_where(of_target) {
            match self.operations.get(&key).map(|operation| &operation.kind) {
                Some(Kind::Pull(pull)) if pull.errand != Errand::Heal => self.give_up_pull(target, key),
                Some(_) => self.finish(key, Ok(Output::Done)),
                None => {}
            }
        }
    }

    pub(super) fn handle_followed(
        &mut self,
        brick: BrickIndex,
        key: OperationKey,
        (shard, blocks): (ShardIndex, BlockRange),
        reply: Header,
    ) {
        let status = reply.status;
        let applied = status == Status::Ok;
        let Some(heal) = &mut self.brick_mut(brick).heal else { return };
        heal.note_followed(shard, blocks, applied);
        if applied
            && let Some(operation) = self.operations.get_mut(&key)
            && let Kind::Write(write) = &mut operation.kind
        {
            write.note_applied(brick);
        }
        match status {
            Status::Ok => {}
            Status::StaleEpoch | Status::AheadEpoch => {
                self.undo_follow(brick, key);
                self.note_wrong_epoch(brick, reply);
            }
            Status::LeaseExpired => self.undo_follow(brick, key),
            Status::BadChecksum if self.may_follow_again(key) => self.undo_follow(brick, key),
            _ => {
                // The next heal of the brick sends it again.
                self.undo_follow(brick, key);
                self.stop_heal(brick);
            }
        }
        self.drive(key);
        let voters = self.required().union(self.config.arbiters()).intersection(self.ready());
        if !self.config.is_quorum(voters) {
            // Writes that were held back here wait for this brick's acknowledgement.
            self.drive_all();
        }
    }

    /// Flushes a brick that is equal, then proposes it for S.
    fn progress_join(&mut self) {
        if self.change.is_some() {
            return;
        }
        if let Some(joining) = self.joining {
            if joining.unflushed_cores == 0 {
                self.begin_change();
            }
            return;
        }
        let equal = self.bricks_where(|brick| {
            brick.heal.as_ref().is_some_and(|heal| heal.stage == Stage::Copying && heal.is_equal())
        });
        let Some(target) = equal.intersection(self.ready()).first() else { return };
        self.brick_mut(target).heal.as_mut().expect("selected by it").stage = Stage::Joining;
        let cores: Vec<_> = self.brick(target).cores().collect();
        self.joining = Some(Joining { brick: target, unflushed_cores: cores.len() as u16 });
        let header = self.data_header(Opcode::Flush);
        for core in cores {
            self.send(target, core, header, Purpose::JoinFlush);
        }
        self.drive_all();
    }

    pub(super) fn handle_join_flushed(&mut self, brick: BrickIndex, status: Status) {
        let Some(joining) = &mut self.joining else { return };
        if joining.brick != brick {
            return;
        }
        if status == Status::Ok {
            joining.unflushed_cores -= 1;
        } else {
            self.stop_heal(brick);
        }
    }

    /// The brick is in S.
    pub(super) fn finish_join(&mut self, brick: BrickIndex) {
        self.joining = None;
        // It may have crashed since it was flushed, and is to leave again.
        if !self.brick(brick).lost_memory && !self.dropping.contains(brick) {
            self.continuous.insert(brick);
        }
        self.crashed.remove(brick);
        let state = self.brick_mut(brick);
        state.heal = None;
        state.heal_failures = 0;
        self.flush.note_bits_left();
        // With one copy more to ask arbiters can learn what one alone couldn't tell them.
        self.config.arbiters().iter().for_each(|arbiter| self.stop_vouching(arbiter));
    }

    /// After a failure: not again at once.
    pub(super) fn postpone_heal(&mut self, brick: BrickIndex) {
        let now = self.now;
        let state = self.brick_mut(brick);
        let pause = HEAL_PAUSE * (1 << state.heal_failures.min(8));
        state.heal_failures += 1;
        state.heal_after = now + pause.min(HEAL_PAUSE_MAX);
    }

    /// Makes copies in S equal that may differ after all of them refused a write (rule I9).
    fn equalize_suspects(&mut self) {
        let pulling = self.operations.values().any(
            |operation| matches!(&operation.kind, Kind::Pull(pull) if self.brick(pull.target).heal.is_none()),
        );
        if pulling || self.change.is_some() || self.now < self.suspect_retry_at {
            return;
        }
        let Some((shard, blocks)) = self.suspect.iter().next().map(|(shard, set)| (*shard, set.clone()))
        else {
            return;
        };
        let in_sync = self.record.as_ref().expect("serving").in_sync;
        let Some(source) = in_sync.first() else { return };
        self.suspect_left = in_sync.without(source);
        if self.suspect_left.is_empty() {
            // One copy is equal to itself, and a brick that enters S has pulled what it lacked.
            self.suspect.clear();
            return;
        }
        for target in self.suspect_left.iter() {
            let range = hull(&blocks);
            let pull = PullOperation::new(target, blocks.clone(), Errand::Heal);
            self.admit(None, Kind::Pull(pull), shard, range);
        }
    }

    /// Whether one copy of S may be overwritten from the other.
    fn may_be_pulled(&self, source: BrickIndex, target: BrickIndex) -> bool {
        let copies = self.usable_copies();
        source != target && copies.contains(source) && copies.contains(target)
    }

    fn suspect_source(&self, target: BrickIndex) -> Option<BrickIndex> {
        let in_sync = self.record.as_ref()?.in_sync;
        in_sync.first().filter(|source| *source != target && in_sync.contains(target))
    }

    fn note_equalized(&mut self, target: BrickIndex, shard: ShardIndex, blocks: &BlockSet) {
        self.suspect_left.remove(target);
        if self.suspect_left.is_empty() {
            for run in blocks.runs(u16::MAX) {
                self.clear_suspect(shard, run);
            }
        }
    }

    /// When a heal that waits may start.
    pub(super) fn heal_timeout(&self) -> Option<Timestamp> {
        let record = self.record.as_ref()?;
        let stale = self.config.data_bricks().difference(record.in_sync).intersection(self.ready());
        let waiting = stale.iter().map(|brick| self.brick(brick)).filter(|brick| brick.heal.is_none());
        let heals = waiting.map(|brick| brick.heal_after).min();
        let suspects = (!self.suspect.is_empty()).then_some(self.suspect_retry_at);
        heals
            .into_iter()
            .chain(suspects)
            .chain(self.repair_timeout())
            .chain(self.vouching_timeout())
            .filter(|at| *at > self.now)
            .min()
    }
}

/// As many of the blocks as there is `room` for.
pub(super) fn first_blocks(blocks: &BlockSet, room: usize) -> BlockSet {
    let mut room = u16::try_from(room).unwrap_or(u16::MAX);
    let mut first = BlockSet::new();
    for run in blocks.runs(room) {
        let count = run.count.min(room);
        first.insert_range(BlockRange::new(run.first, count));
        room -= count;
        if room == 0 {
            break;
        }
    }
    first
}

/// The smallest range with all of `blocks`.
pub(super) fn hull(blocks: &BlockSet) -> BlockRange {
    let first = blocks.runs(1).next().expect("a pull has blocks").first;
    BlockRange::new(first, blocks.end() as u16 - first)
}
