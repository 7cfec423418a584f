//! `PullRead`, on the good brick: compare a range with the puller's hashes and send what differs.
//!
//! Served only under the promised epoch, by the incarnation that the holder means, and only while the
//! accepted record counts this brick as in sync (rules I5, I12). Ordered behind writes in flight to the same
//! blocks like any read. It says nothing about blocks that it can't vouch for. A shard that doesn't exist is all zeros, and
//! so is one of a puller without hashes. A puller that has forgotten nothing but CRCs is told those, from the page as far as
//! it knows them.

use brick_wire::body::{PullRead, PullReadReply};
use brick_wire::checksum::{block_crcs, block_hash, crc32c};
use brick_wire::cursor::Body;
use brick_wire::limits::{BLOCK_SIZE, DATA_BLOCKS_MAX};
use brick_wire::overlap::Access;
use brick_wire::{BlockRange, BlockSet, Epoch, Flags, Header, ImageUuid, Role, Status};

use super::requests::{Outcome, Reply};
use super::tasks::{Target, Work};
use super::{ConnectionId, Engine, Token};
use crate::buffer::Buffer;

/// Blocks of source reads with a buffer, per core. Apart from the clients' credits.
pub(super) const SOURCE_BLOCKS_MAX: usize = 1024;
const ZERO_BLOCK: [u8; BLOCK_SIZE] = [0; BLOCK_SIZE];

const _: () = assert!(SOURCE_BLOCKS_MAX >= DATA_BLOCKS_MAX as usize, "the largest range fits");

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one in each boxed read, which passes through both")]
enum Step {
    /// Waits for budget, buffer and file, then for the disk.
    Read(Option<Buffer>),
    /// The blocks are here (`None`: they are zeros); what differs is known.
    Send { blocks: Option<Buffer>, differing: BlockSet, unvouched: BlockSet },
}

/// A `PullRead` on its way.
#[derive(Debug)]
pub(super) struct SourceRead {
    hashes: Vec<u64>,
    /// Counted in the budget.
    budget_blocks: usize,
    step: Step,
}

impl Engine {
    /// `PullRead`.
    pub(super) fn pull_read(&mut self, id: ConnectionId, header: Header, body: PullRead) -> Outcome {
        self.require_role(Role::Data)?;
        let target = self.fenced_shard(id, &header)?;
        let count = usize::from(target.blocks.count);
        let hashes_max = if header.flags.contains(Flags::HEAL) { 0 } else { count };
        if count == 0 || !(body.hashes.is_empty() || body.hashes.len() == hashes_max) {
            return Err(Status::Invalid);
        }
        if body.incarnation != self.config.incarnation {
            return Err(Status::WrongIncarnation);
        }
        self.check_in_sync(target.key.0, header.epoch)?;
        let token = self.open_request(id, header, Some(target.key.0));
        let work = SourceRead { hashes: body.hashes, budget_blocks: 0, step: Step::Read(None) };
        self.start_task(token, target, Access::Shared, Work::SourceRead(Box::new(work)));
        Ok(None)
    }

    /// Whether the record accepted under `epoch` counts this brick as good.
    fn check_in_sync(&self, image: ImageUuid, epoch: Epoch) -> Result<(), Status> {
        let record = self.fences.record(image).filter(|record| record.epoch == epoch);
        let good = record.is_some_and(|record| record.is_in_sync(self.config.brick));
        if good { Ok(()) } else { Err(Status::NotInSync) }
    }

    pub(super) fn advance_source_read(&mut self, token: Token) {
        if matches!(self.source_read(token).step, Step::Send { .. }) {
            self.send_differing(token);
            return;
        }
        if !self.passes_fence(token) || !self.takes_source_budget(token) {
            return;
        }
        let target = self.tasks[&token].target;
        if !self.files.exists_soon(target.key) {
            if self.wants_crcs(token) {
                let crcs = vec![crc32c(&ZERO_BLOCK); usize::from(target.blocks.count)];
                return self.answer_crcs(token, crcs, &BlockSet::new());
            }
            self.compare(token, None, &BlockSet::new());
            return;
        }
        if matches!(self.source_read(token).step, Step::Read(None)) {
            if self.wants_crcs(token) {
                if !self.task_page_alone(token) {
                    return;
                }
                if self.witness.known(target.key, target.blocks).1.is_empty() {
                    return self.tell_crcs(token, &[]);
                }
            }
            let Some(buffer) = self.task_buffer(token, usize::from(target.blocks.count)) else { return };
            self.source_read(token).step = Step::Read(Some(buffer));
        }
        let Some(slot) = self.task_file(token) else { return };
        if !self.task_page(token) {
            return;
        }
        let Step::Read(buffer) = &mut self.source_read(token).step else { unreachable!("checked above") };
        let buffer = buffer.take().expect("allocated above");
        self.mark_issued(token);
        self.task_read(token, slot, buffer);
    }

    pub(super) fn source_read_done(&mut self, token: Token, result: Result<Buffer, Status>) {
        let Target { key, blocks, .. } = self.tasks[&token].target;
        let (buffer, crcs, bad) = match result {
            Ok(buffer) => {
                let crcs: Vec<u32> = block_crcs(&buffer).collect();
                let bad = self.examine(key, blocks, &crcs);
                (Some(buffer), crcs, bad)
            }
            Err(_) => (None, Vec::new(), blocks.into()),
        };
        self.note_bad(key, &bad);
        if self.wants_crcs(token) {
            return self.tell_crcs(token, &crcs);
        }
        self.compare(token, buffer, &bad);
    }

    /// Whether the puller's blocks can only have rotted: it has forgotten their CRCs, and wants nothing else.
    fn wants_crcs(&self, token: Token) -> bool {
        self.requests.open[&token].header.flags.contains(Flags::HEAL)
    }

    /// Answers with the CRCs that are known, also of blocks that turned out bad, and for others with those of the blocks
    /// as they were read, if they could be: one CRC in four billion is never known.
    fn tell_crcs(&mut self, token: Token, read: &[u32]) {
        let Target { key, blocks, .. } = self.tasks[&token].target;
        let (mut crcs, mut unknown) = self.witness.known(key, blocks);
        for (block, (crc, read)) in blocks.iter().zip(crcs.iter_mut().zip(read)) {
            if unknown.contains(block) {
                *crc = *read;
                unknown.remove_range(BlockRange::new(block, 1));
            }
        }
        self.answer_crcs(token, crcs, &unknown);
    }

    fn answer_crcs(&mut self, token: Token, crcs: Vec<u32>, unknown: &BlockSet) {
        let blocks = self.tasks[&token].target.blocks;
        let mut body = PullReadReply::default();
        for ((index, block), crc) in (0..blocks.count).zip(blocks.iter()).zip(crcs) {
            let one = BlockRange::new(index, 1);
            if unknown.contains(block) {
                body.unvouched.insert_range(one);
            } else {
                body.differing.insert_range(one);
                body.crcs.push(crc);
            }
        }
        self.end_task(token);
        self.answer(token, Reply::body(body.to_bytes()));
    }

    /// Finds what differs between the puller's hashes and `blocks` (`None`: zeros), except where these are `bad`.
    fn compare(&mut self, token: Token, blocks: Option<Buffer>, bad: &BlockSet) {
        let target = self.tasks[&token].target.blocks;
        let seed = self.requests.open[&token].header.epoch.counter;
        let zero_hash = block_hash(&ZERO_BLOCK, seed);
        let read = self.source_read(token);
        let (mut differing, mut unvouched) = (BlockSet::new(), BlockSet::new());
        for (index, block) in (0..target.count).zip(target.iter()) {
            let one = BlockRange::new(index, 1);
            if bad.contains(block) {
                unvouched.insert_range(one);
                continue;
            }
            let place = usize::from(index) * BLOCK_SIZE;
            let own =
                blocks.as_ref().map_or(zero_hash, |data| block_hash(&data[place..][..BLOCK_SIZE], seed));
            let other = read.hashes.get(usize::from(index)).copied().unwrap_or(zero_hash);
            if own != other {
                differing.insert_range(one);
            }
        }
        read.step = Step::Send { blocks, differing, unvouched };
        self.send_differing(token);
    }

    /// Answers with the blocks that differ, moved together.
    fn send_differing(&mut self, token: Token) {
        let count = usize::from(self.tasks[&token].target.blocks.count);
        let Step::Send { blocks, differing, .. } = &mut self.source_read(token).step else {
            unreachable!("the caller compared")
        };
        let sent = differing.count();
        let data = match blocks {
            _ if sent == 0 => None,
            Some(read) => {
                // In place: a read that waits for a second buffer could wait for others that do the same.
                if sent < count {
                    move_together(read, differing);
                    read.select(0, sent * BLOCK_SIZE);
                }
                blocks.take()
            }
            None => {
                let Some(mut zeroes) = self.task_buffer(token, sent) else { return };
                zeroes.fill(0);
                Some(zeroes)
            }
        };
        let Step::Send { differing, unvouched, .. } = &mut self.source_read(token).step else {
            unreachable!("the caller compared")
        };
        let (differing, unvouched) = (std::mem::take(differing), std::mem::take(unvouched));
        let crcs = data.as_ref().map_or_else(Vec::new, |data| block_crcs(data).collect());
        self.end_task(token);
        let body = PullReadReply { differing, crcs, unvouched };
        self.answer(token, Reply { data, ..Reply::body(body.to_bytes()) });
    }

    /// Counts the read in the budget; `false` if it has to wait.
    fn takes_source_budget(&mut self, token: Token) -> bool {
        let count = usize::from(self.tasks[&token].target.blocks.count);
        if self.source_read(token).budget_blocks > 0 {
            return true;
        }
        if self.source_blocks + count > SOURCE_BLOCKS_MAX {
            self.buffer_waiters.push_back(token);
            return false;
        }
        self.source_blocks += count;
        self.source_read(token).budget_blocks = count;
        true
    }

    /// Gives the budget back.
    pub(super) fn source_read_ended(&mut self, read: &SourceRead) {
        self.source_blocks -= read.budget_blocks;
    }

    fn source_read(&mut self, token: Token) -> &mut SourceRead {
        let Work::SourceRead(read) = &mut self.task(token).work else { unreachable!("dispatched by kind") };
        read
    }
}

/// Moves the picked blocks to the front, in order.
fn move_together(blocks: &mut [u8], picked: &BlockSet) {
    let mut end = 0;
    for run in picked.runs(DATA_BLOCKS_MAX) {
        let start = usize::from(run.first) * BLOCK_SIZE;
        blocks.copy_within(start..start + run.bytes(), end);
        end += run.bytes();
    }
}
