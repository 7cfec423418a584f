//! Reads: from one in-sync data brick, retried on another, ordered behind overlapping writes (I5).
//!
//! A read completes only while the lease holds by this host's clock (I8): the process may have been paused
//! between the brick's answer and now, and another client may have written meanwhile.

use brick_wire::body::{DirtyPage, read_crcs};
use brick_wire::checksum::block_crcs;
use brick_wire::cursor::Body;
use brick_wire::decode::Frame;
use brick_wire::{BlockRange, BrickIndex, BrickSet, Flags, Opcode, ShardIndex, Status};
use bytes::Bytes;

use super::Group;
use super::admit::{Kind, Operation, OperationKey};
use super::balance::ReadShare;
use super::interface::{GroupError, Output, UserRequest};
use super::pending::Purpose;
use super::write::WriteOperation;

/// A read under way.
#[derive(Debug, Default)]
pub(super) struct ReadOperation {
    /// Whom it was sent to.
    asked: Option<BrickIndex>,
    /// Bricks that failed to read it.
    failed: BrickSet,
    /// Every copy was bad somewhere in the blocks, and repairs have ended since.
    has_waited: bool,
}

/// A read that every copy has failed, each in blocks that the other may repair. It holds no claim: a write that waits
/// for it would keep the repair waiting.
#[derive(Debug)]
pub(super) struct ParkedRead {
    pub(super) user: Option<UserRequest>,
    shard: ShardIndex,
    blocks: BlockRange,
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
        let Some((brick, share)) = self.least_loaded(candidates, shard, blocks) else {
            if !failed.is_empty() && readable.intersection(self.linked()).is_subset_of(failed) {
                let is_first = matches!(&operation.kind, Kind::Read(read) if !read.has_waited);
                if is_first && self.is_being_repaired(shard, blocks) {
                    let operation = self.operations.get_mut(&key).expect("driven as a read");
                    let parked = ParkedRead { user: operation.user.take(), shard, blocks };
                    self.parked_reads.push(parked);
                    self.finish(key, Ok(Output::Done));
                } else {
                    self.finish(key, Err(GroupError::Io));
                }
            }
            return;
        };
        let mut header = self.data_header(Opcode::Read);
        header.shard = shard;
        header.blocks = blocks;
        self.read_mut(key).expect("driven as a read").asked = Some(brick);
        self.read_loads.add(brick, share);
        self.send(brick, share.core, header, Purpose::Read(key, share));
    }

    pub(super) fn handle_read(
        &mut self,
        brick: BrickIndex,
        key: OperationKey,
        share: ReadShare,
        reply: &Frame,
    ) {
        self.undo_read(brick, key, share);
        let Some(operation) = self.operations.get(&key) else { return };
        match reply.header.status {
            Status::Ok => match check_data(operation, reply) {
                Some(result) => return self.complete_read(key, result),
                None => self.note_bad_read(brick, key),
            },
            Status::StaleEpoch | Status::AheadEpoch => {
                self.note_wrong_epoch(brick, reply.header);
            }
            // Renewed meanwhile: asked again.
            Status::LeaseExpired => {}
            Status::Io | Status::Corrupt => {
                let place = (operation.shard, operation.blocks);
                self.note_bad_read(brick, key);
                self.note_corrupt(brick, place, reply);
            }
            Status::Invalid | Status::NoSpace => self.note_bad_read(brick, key),
            _ => return self.reset_link(brick, "it can't read"),
        }
        self.drive(key);
    }

    /// Lets reads go on whose blocks are repaired, or won't be.
    pub(super) fn wake_reads(&mut self) {
        let parked = std::mem::take(&mut self.parked_reads);
        for read in parked {
            if self.is_being_repaired(read.shard, read.blocks) {
                self.parked_reads.push(read);
            } else {
                let again = ReadOperation { has_waited: true, ..ReadOperation::default() };
                self.admit(read.user, Kind::Read(again), read.shard, read.blocks);
            }
        }
    }

    /// A copy of S is bad in these blocks, as the brick lists them, or anywhere.
    fn note_corrupt(&mut self, brick: BrickIndex, (shard, blocks): (ShardIndex, BlockRange), reply: &Frame) {
        let page = DirtyPage::from_bytes(&reply.aux).unwrap_or_default();
        let listed = page.shards.into_iter().find(|(listed, _)| *listed == shard);
        let mut bad = listed.map_or_else(|| blocks.into(), |(_, bad)| bad);
        bad.truncate(usize::from(self.config.shard_blocks()));
        if !bad.is_empty() {
            self.note_bad_blocks(brick, shard, &bad);
        }
    }

    fn note_bad_read(&mut self, brick: BrickIndex, key: OperationKey) {
        if let Some(read) = self.read_mut(key) {
            read.failed.insert(brick);
        }
        self.counters.read_errors += 1;
    }

    pub(super) fn undo_read(&mut self, brick: BrickIndex, key: OperationKey, share: ReadShare) {
        self.read_loads.remove(brick, share);
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
            self.unverified_reads.push((key, result));
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
