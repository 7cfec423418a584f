//! The life of a write: to every brick of S at once, payload-free to the arbiter (`dummy`), complete by rule I3.
//!
//! - I3: complete when every brick of S (old and proposed) applied it and a quorum acknowledged.
//! - I9: refused by every brick of S, it fails to the user and S stays; refused by some, those leave S. Refused
//!   by an arbiter without which there is no majority, it fails, too.
//! - I11: the payload is a slice that nobody else may change, checksummed once; every brick gets those
//!   bytes. A brick that finds the checksum wrong gets them again.
//! - I13: a brick outside S that is being healed gets new writes as well, but never one that overlaps a
//!   write it hasn't answered: that goes onto its list instead.

use brick_wire::body::{Crcs, put_crcs};
use brick_wire::checksum::block_crcs;
use brick_wire::decode::Frame;
use brick_wire::{
    BlockRange, BrickIndex, BrickSet, Epoch, Flags, Generation, Header, Opcode, ShardIndex, Status,
};
use bytes::{Bytes, BytesMut};

use super::Group;
use super::admit::{Kind, OperationKey};
use super::interface::{GroupError, Output};
use super::pending::Purpose;

/// How often a write is sent again to a brick that found its checksum wrong.
const CHECKSUM_RETRIES_MAX: u8 = 8;

/// A write under way.
#[derive(Debug)]
pub(super) struct WriteOperation {
    data: Bytes,
    crcs: Crcs,
    fua: bool,
    /// The flush generation it was first sent under; none before.
    generation: Option<Generation>,
    /// Sent, and neither answered nor drained.
    waiting: BrickSet,
    /// Applied by these bricks, or acknowledged (arbiters).
    applied: BrickSet,
    /// Outside S, being healed, and sent it.
    followed: BrickSet,
    refused: BrickSet,
    refusal: Status,
    checksum_retries: u8,
}

/// The changed part of a block.
#[derive(Debug)]
pub(super) struct Patch {
    pub(super) offset_bytes: usize,
    pub(super) data: Bytes,
    pub(super) fua: bool,
}

impl Patch {
    /// The whole block with the patch in it; `None` for `block` is all zeros.
    pub(super) fn apply(&self, block: Option<&[u8]>) -> Bytes {
        let mut whole = BytesMut::zeroed(brick_wire::limits::BLOCK_SIZE);
        if let Some(block) = block {
            whole.copy_from_slice(block);
        }
        whole[self.offset_bytes..self.offset_bytes + self.data.len()].copy_from_slice(&self.data);
        whole.freeze()
    }
}

impl WriteOperation {
    pub(super) fn new(data: Bytes, fua: bool, blocks: BlockRange) -> WriteOperation {
        assert_eq!(data.len(), blocks.bytes(), "a write carries its blocks");
        WriteOperation {
            crcs: block_crcs(&data).collect(),
            data,
            fua,
            generation: None,
            waiting: BrickSet::EMPTY,
            applied: BrickSet::EMPTY,
            followed: BrickSet::EMPTY,
            refused: BrickSet::EMPTY,
            refusal: Status::Ok,
            checksum_retries: 0,
        }
    }

    /// Whether a brick may have seen it.
    pub(super) fn was_sent(&self) -> bool {
        self.generation.is_some()
    }

    /// A brick outside S has it, too.
    pub(super) fn note_applied(&mut self, brick: BrickIndex) {
        self.applied.insert(brick);
    }

    pub(super) fn generation(&self) -> Option<Generation> {
        self.generation
    }

    /// Of each block.
    pub(super) fn crcs(&self) -> &Crcs {
        &self.crcs
    }

    /// It is on its way to a brick.
    pub(super) fn note_sent(&mut self, brick: BrickIndex) {
        self.waiting.insert(brick);
    }
}

impl Group {
    pub(super) fn write_mut(&mut self, key: OperationKey) -> Option<&mut WriteOperation> {
        match &mut self.operations.get_mut(&key)?.kind {
            Kind::Write(write) => Some(write),
            _ => None,
        }
    }

    /// Sends the write to whoever needs it and hasn't got it, then looks whether it is complete.
    pub(super) fn drive_write(&mut self, key: OperationKey) {
        if self.may_send() {
            let (required, ready, arbiters) = (self.required(), self.ready(), self.config.arbiters());
            let generation = self.flush.generation;
            let operation = &self.operations[&key];
            let (shard, blocks) = (operation.shard, operation.blocks);
            let write = self.write_mut(key).expect("driven as a write");
            let got = write.waiting.union(write.applied).union(write.refused);
            let first = write.generation.is_none();
            let targets = required.union(arbiters).intersection(ready).difference(got);
            if !targets.is_empty() {
                write.generation.get_or_insert(generation);
            }
            if first && !targets.is_empty() {
                self.note_shard(shard);
            }
            for brick in targets.iter() {
                if arbiters.contains(brick) {
                    self.send_dummy_write(brick, key, shard, blocks);
                } else {
                    self.send_write(brick, key, shard, blocks);
                }
            }
            if self.was_sent(key) {
                self.follow(key, shard, blocks, required);
            }
        }
        self.settle_write(key);
    }

    fn send_write(&mut self, brick: BrickIndex, key: OperationKey, shard: ShardIndex, blocks: BlockRange) {
        let frame = self.write_frame(key, shard, blocks);
        self.write_mut(key).expect("sent as a write").note_sent(brick);
        let core = self.core_for(brick, shard);
        self.send_frame(brick, core, frame, Purpose::Write(key));
    }

    /// The frame for a data brick.
    fn write_frame(&self, key: OperationKey, shard: ShardIndex, blocks: BlockRange) -> Frame {
        let mut header = self.data_header(Opcode::Write);
        let Kind::Write(write) = &self.operations[&key].kind else { unreachable!("framed as a write") };
        header.shard = shard;
        header.blocks = blocks;
        header.generation = write.generation.expect("set before it is sent");
        if write.fua {
            header.flags = Flags::FUA;
        }
        let aux = put_crcs(&mut header, &write.crcs);
        Frame::new(header, aux, write.data.clone())
    }

    fn was_sent(&mut self, key: OperationKey) -> bool {
        self.write_mut(key).is_some_and(|write| write.was_sent())
    }

    /// Writes go to bricks that are being healed as well, within a bound on what may lag: new ones, and those
    /// that found the brick not ready. Where an arbiter is away they need its acknowledgement for their quorum,
    /// and its pull of their blocks waits for them.
    fn follow(&mut self, key: OperationKey, shard: ShardIndex, blocks: BlockRange, required: BrickSet) {
        let followed = self.write_mut(key).expect("followed as a write").followed;
        let tracked = self.bricks_where(|brick| brick.heal.is_some()).difference(required);
        for brick in tracked.difference(followed).iter() {
            let ready = self.ready().contains(brick);
            let heal = self.brick_mut(brick).heal.as_mut().expect("selected by it");
            if heal.note_write(shard, blocks, ready) {
                self.write_mut(key).expect("followed as a write").followed.insert(brick);
                let frame = self.write_frame(key, shard, blocks);
                let core = self.core_for(brick, shard);
                self.send_frame(brick, core, frame, Purpose::Follow(key, shard, blocks));
            }
        }
    }

    pub(super) fn handle_written(&mut self, brick: BrickIndex, key: OperationKey, reply: Header) {
        if self.settle_late(brick, key, reply.status) {
            return;
        }
        let Some(write) = self.write_mut(key) else { return };
        write.waiting.remove(brick);
        match reply.status {
            Status::Ok => write.applied.insert(brick),
            Status::StaleEpoch | Status::AheadEpoch => self.note_wrong_epoch(brick, reply),
            // Renewed meanwhile: sent again.
            Status::LeaseExpired => {}
            Status::BadChecksum if write.checksum_retries < CHECKSUM_RETRIES_MAX => {
                write.checksum_retries += 1;
            }
            status if is_refusal(status) => {
                write.refused.insert(brick);
                write.refusal = status;
            }
            _ => return self.reset_link(brick, "it can't write"),
        }
        self.drive(key);
    }

    /// A request reached a brick under another epoch than the brick's. If ours is the decided one, either
    /// somebody fenced us or the brick is behind; otherwise the request is just sent again.
    pub(super) fn note_wrong_epoch(&mut self, brick: BrickIndex, reply: Header) {
        if !self.is_current(reply.epoch) || self.change.is_some() {
            return;
        }
        if reply.status == Status::StaleEpoch {
            self.contest(super::epoch::CONTEST_PAUSE);
        } else {
            self.brick_mut(brick).accepted = Epoch::ZERO;
            self.catch_up(brick);
        }
    }

    /// Whether an epoch is that of the record this session last got decided.
    pub(super) fn is_current(&self, epoch: Epoch) -> bool {
        self.record.as_ref().is_some_and(|record| record.epoch == epoch)
    }

    /// Whether a write whose checksum a brick found wrong is sent once more.
    pub(super) fn may_follow_again(&mut self, key: OperationKey) -> bool {
        let Some(write) = self.write_mut(key) else { return false };
        write.checksum_retries += 1;
        write.checksum_retries <= CHECKSUM_RETRIES_MAX
    }

    /// The link to a brick that is being healed broke, or the brick refused the write. Its heal starts over, with all that is unfinished listed.
    pub(super) fn undo_follow(&mut self, brick: BrickIndex, key: OperationKey) {
        if let Some(write) = self.write_mut(key) {
            write.followed.remove(brick);
        }
    }

    /// What these bricks refused they are asked again.
    pub(super) fn forget_refusals(&mut self, bricks: BrickSet) {
        for operation in self.operations.values_mut() {
            if let Kind::Write(write) = &mut operation.kind {
                write.refused = write.refused.difference(bricks);
            }
        }
    }

    pub(super) fn undo_write(&mut self, brick: BrickIndex, key: OperationKey) {
        if let Some(write) = self.write_mut(key) {
            write.waiting.remove(brick);
        }
    }

    /// Completes the write, fails it, or has the bricks that refused it leave S.
    fn settle_write(&mut self, key: OperationKey) {
        let required = self.required();
        let Some(operation) = self.operations.get(&key) else { return };
        let Kind::Write(write) = &operation.kind else { return };
        let answered = write.applied.union(write.refused);
        if !write.waiting.intersection(required).is_empty() || !required.is_subset_of(answered) {
            return;
        }
        let (shard, blocks) = (operation.shard, operation.blocks);
        let error = if write.refusal == Status::NoSpace { GroupError::NoSpace } else { GroupError::Io };
        let refused = write.refused.intersection(required);
        let in_sync = self.in_sync();
        if refused.is_empty() {
            if self.config.is_quorum(write.applied) {
                // The answers may have waited for a process that was paused: what they say was true once, but the copies
                // may have served others and lost power meanwhile (rule I8).
                if !self.lease_holds() {
                    self.unverified_writes.insert(key);
                    return self.renew();
                }
                let generation = write.generation.expect("completed writes were sent");
                let answers = (write.waiting, write.applied);
                self.note_vouched(key, generation, answers);
                self.flush.note_write_completed();
                self.clear_suspect(shard, blocks);
                self.finish(key, Ok(Output::Done));
            } else if self.is_kept_from_quorum(write) {
                self.fail_refused_write(key, shard, blocks, error);
            }
        } else if in_sync.is_subset_of(refused) {
            // No copy is better than another (GlusterFS issue 4613): the user is told and S stays.
            self.fail_refused_write(key, shard, blocks, error);
        } else {
            for brick in refused.iter() {
                self.dropping.insert(brick);
                self.postpone_heal(brick);
            }
        }
    }

    /// Whether S has it, and a majority won't acknowledge it because an arbiter refused.
    fn is_kept_from_quorum(&self, write: &WriteOperation) -> bool {
        let arbiters = self.config.arbiters();
        // Who is being healed gets it sooner or later (I13).
        let healing = self.bricks_where(|brick| brick.heal.is_some());
        let others = healing.union(arbiters.difference(write.refused));
        !arbiters.intersection(write.refused).is_empty()
            && !self.config.is_quorum(write.applied.union(others))
    }

    /// Each copy of S refused something, if not the same thing: none is better than the others, so none leaves S
    /// (rule I9). What was refused fails to its user; what else waits goes on.
    pub(super) fn refuse_everywhere(&mut self) {
        self.dropping = self.dropping.intersection(self.blank());
        let (in_sync, arbiters) = (self.in_sync(), self.config.arbiters());
        let mut refused = Vec::new();
        for key in self.operation_keys() {
            let operation = &self.operations[&key];
            match &operation.kind {
                // While a copy may still apply it, it keeps its blocks (rule I13), and is settled later.
                Kind::Write(write)
                    if write.waiting.is_subset_of(arbiters) && !write.refused.is_subset_of(arbiters) =>
                {
                    refused.push((key, Some((operation.shard, operation.blocks))));
                }
                Kind::Flush(flush) if flush.has_failed_on(in_sync) => refused.push((key, None)),
                _ => {}
            }
        }
        for (key, written) in refused {
            match written {
                Some((shard, blocks)) => self.fail_refused_write(key, shard, blocks, GroupError::Io),
                None => self.fail_refused_flush(key),
            }
        }
        self.drive_all();
    }

    /// The user is told, S stays, and its copies are compared where they may differ now.
    fn fail_refused_write(
        &mut self,
        key: OperationKey,
        shard: ShardIndex,
        blocks: BlockRange,
        error: GroupError,
    ) {
        self.flush.note_write_completed();
        // An arbiter may have taken it for good.
        self.config.arbiters().iter().for_each(|arbiter| self.stop_vouching(arbiter));
        self.note_suspect(shard, blocks);
        if self.operations.contains_key(&key) {
            self.finish(key, Err(error));
        }
        // Last: it may reset a link, and then everything that isn't finished is driven again.
        self.list_refused(shard, blocks);
    }

    /// S refused a write that bricks outside S may have applied: they have to be compared there.
    fn list_refused(&mut self, shard: ShardIndex, blocks: BlockRange) {
        for brick in self.heal_targets().iter() {
            let heal = self.brick_mut(brick).heal.as_mut().expect("selected by it");
            heal.relist(shard, blocks);
            if self.joining.is_some_and(|joining| joining.brick == brick) {
                // It was equal, and isn't any more.
                self.stop_heal(brick);
            }
        }
    }

    /// The copies in S may differ in these blocks: they are read from one brick until they are equal.
    fn note_suspect(&mut self, shard: ShardIndex, blocks: BlockRange) {
        let in_sync = self.in_sync();
        if in_sync.count() > 1 {
            self.suspect.entry(shard).or_default().insert_range(blocks);
        }
    }

    pub(super) fn clear_suspect(&mut self, shard: ShardIndex, blocks: BlockRange) {
        if let Some(set) = self.suspect.get_mut(&shard) {
            set.remove_range(blocks);
            if set.is_empty() {
                self.suspect.remove(&shard);
            }
        }
    }
}

/// Whether a brick answers so to a write that it won't make.
pub(super) fn is_refusal(status: Status) -> bool {
    matches!(
        status,
        Status::BadChecksum | Status::NoSpace | Status::Io | Status::FlushFailed | Status::Invalid
    )
}
