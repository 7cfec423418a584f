//! Reads: from one in-sync data brick, retried on another, ordered behind overlapping writes (I5).
//!
//! A read completes only while the lease holds by this host's clock (I8): the process may have been paused
//! between the brick's answer and now, and another client may have written meanwhile.

use brick_wire::body::read_crcs;
use brick_wire::checksum::block_crcs;
use brick_wire::decode::Frame;
use brick_wire::{BrickIndex, BrickSet, Flags, Opcode, Status};
use bytes::Bytes;

use super::Group;
use super::admit::{Kind, Operation, OperationKey};
use super::interface::{GroupError, Output};
use super::pending::Purpose;
use super::write::WriteOperation;

/// A read under way.
#[derive(Debug, Default)]
pub(super) struct ReadOperation {
    /// Whom it was sent to.
    asked: Option<BrickIndex>,
    /// Bricks that failed to read it.
    failed: BrickSet,
}

/// What a brick returned: `None` stands for zeros.
pub(super) type ReadResult = Option<Bytes>;

impl Group {
    fn read_mut(&mut self, key: OperationKey) -> Option<&mut ReadOperation> {
        match &mut self.operations.get_mut(&key)?.kind {
            Kind::Read(read) | Kind::Modify(read, _) => Some(read),
            _ => None,
        }
    }

    pub(super) fn drive_read(&mut self, key: OperationKey) {
        if !self.may_send() {
            return;
        }
        let operation = &self.operations[&key];
        let (shard, blocks) = (operation.shard, operation.blocks);
        let (Kind::Read(read) | Kind::Modify(read, _)) = &operation.kind else { return };
        if read.asked.is_some() {
            return;
        }
        // Shards known not to exist are asked for, too: after a forced takeover our lease runs on by our own
        // count, and only a brick that was fenced can tell that somebody else wrote there meanwhile.
        let failed = read.failed;
        let in_sync = self.record.as_ref().expect("serving").in_sync;
        let is_suspect = self.suspect.get(&shard).is_some_and(|suspect| suspect.intersects(blocks));
        // Where the copies may differ everybody reads the same one (rule I9).
        let readable =
            if is_suspect { in_sync.first().map(BrickSet::only).unwrap_or_default() } else { in_sync };
        let candidates = readable.intersection(self.ready()).difference(failed).difference(self.dropping);
        let Some(brick) = self.least_loaded(candidates) else {
            if !failed.is_empty() && readable.intersection(self.linked()).is_subset_of(failed) {
                self.finish(key, Err(GroupError::Io));
            }
            return;
        };
        let mut header = self.data_header(Opcode::Read);
        header.shard = shard;
        header.blocks = blocks;
        self.read_mut(key).expect("driven as a read").asked = Some(brick);
        self.counters.reads_outstanding[usize::from(brick.0)] += 1;
        let core = self.core_for(brick, shard);
        self.send(brick, core, header, Purpose::Read(key));
    }

    fn least_loaded(&self, candidates: BrickSet) -> Option<BrickIndex> {
        candidates.iter().min_by_key(|brick| self.counters.reads_outstanding[usize::from(brick.0)])
    }

    pub(super) fn handle_read(&mut self, brick: BrickIndex, key: OperationKey, reply: &Frame) {
        self.undo_read(brick, key);
        let current = self.record.as_ref().is_some_and(|record| record.epoch == reply.header.epoch);
        let Some(operation) = self.operations.get(&key) else { return };
        match reply.header.status {
            Status::Ok => match check_data(operation, reply) {
                Some(result) => return self.complete_read(key, result),
                None => self.note_bad_read(brick, key),
            },
            Status::StaleEpoch | Status::AheadEpoch => {
                self.note_wrong_epoch(brick, reply.header.status, current);
            }
            // Renewed meanwhile: asked again.
            Status::LeaseExpired => {}
            Status::Io | Status::Invalid | Status::NoSpace => self.note_bad_read(brick, key),
            _ => return self.reset_link(brick, "it can't read"),
        }
        self.drive(key);
    }

    fn note_bad_read(&mut self, brick: BrickIndex, key: OperationKey) {
        if let Some(read) = self.read_mut(key) {
            read.failed.insert(brick);
        }
        self.counters.read_errors += 1;
    }

    pub(super) fn undo_read(&mut self, brick: BrickIndex, key: OperationKey) {
        self.counters.reads_outstanding[usize::from(brick.0)] -= 1;
        if let Some(read) = self.read_mut(key) {
            read.asked = None;
        }
    }

    /// Completes the read if the lease holds, else when a renewal has shown that it did.
    pub(super) fn complete_read(&mut self, key: OperationKey, result: ReadResult) {
        if !self.lease_holds() {
            if let Some(read) = self.read_mut(key) {
                // Not to be sent again meanwhile.
                read.asked = Some(BrickIndex(0));
            }
            self.unverified.push((key, result));
            return self.renew();
        }
        let operation = self.operations.get_mut(&key).expect("completed reads exist");
        if let Kind::Modify(_, patch) = &operation.kind {
            let data = patch.apply(result.as_deref());
            operation.kind = Kind::Write(WriteOperation::new(data, patch.fua, operation.blocks));
            return self.drive(key);
        }
        self.finish(key, Ok(result.map_or(Output::Zeroes, Output::Data)));
    }
}

/// The data of a reply if it is what was asked for and its checksums match.
fn check_data(operation: &Operation, reply: &Frame) -> Option<ReadResult> {
    if reply.header.flags.contains(Flags::ZEROES) {
        return Some(None);
    }
    if reply.data.len() != operation.blocks.bytes() {
        return None;
    }
    let crcs = read_crcs(&reply.header, &reply.aux, usize::from(operation.blocks.count)).ok()?;
    block_crcs(&reply.data).eq(crcs).then(|| Some(reply.data.clone()))
}
