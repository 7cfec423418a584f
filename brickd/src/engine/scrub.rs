//! Scrub: `Verify` reads blocks and compares them with the witness, `BadRead` lists what was found bad and not
//! written since.
//!
//! Verifying needs no epoch: it changes nothing, and a claim on the blocks keeps writes out of the comparison. Only
//! the holder may repair (rule I15); it learns from the answers to its renewals that there is something.

use std::collections::BTreeMap;

use brick_wire::body::{DirtyPage, VerifyReply};
use brick_wire::checksum::block_crcs;
use brick_wire::cursor::Body;
use brick_wire::overlap::Access;
use brick_wire::{BlockRange, BlockSet, Flags, Header, ImageUuid, Role, ShardIndex, Status};

use super::requests::{Outcome, Reply};
use super::tasks::{Target, Work};
use super::{ConnectionId, Engine, ShardKey, Token};
use crate::buffer::Buffer;

/// Shards of an image whose bad blocks are remembered; those of further ones are found again.
const BAD_SHARDS_MAX: usize = 1024;

/// Shards whose suspicions the holder is told at once.
const SUSPICIONS_A_PAGE: usize = 16;

/// Blocks that couldn't be read, or weren't what was last written, and weren't written since.
#[derive(Debug, Default)]
pub(super) struct BadBlocks {
    images: BTreeMap<ImageUuid, BTreeMap<ShardIndex, BlockSet>>,
    /// Blocks that read well here, and in which another copy is said to differ.
    suspicions: BTreeMap<ImageUuid, BTreeMap<ShardIndex, BlockSet>>,
}

impl BadBlocks {
    /// Returns how many of them weren't known.
    fn insert(&mut self, (image, shard): ShardKey, blocks: &BlockSet) -> usize {
        let shards = self.images.entry(image).or_default();
        if shards.len() >= BAD_SHARDS_MAX && !shards.contains_key(&shard) {
            return blocks.count();
        }
        let bad = shards.entry(shard).or_default();
        let known = bad.count();
        bad.insert_all(blocks);
        bad.count() - known
    }

    /// Whether none is known in any image, as is usual.
    fn is_empty(&self) -> bool {
        self.images.is_empty()
    }

    /// The blocks are good: written, or read well.
    pub(super) fn remove(&mut self, (image, shard): ShardKey, blocks: BlockRange) {
        let Some(shards) = self.images.get_mut(&image) else { return };
        if let Some(bad) = shards.get_mut(&shard) {
            bad.remove_range(blocks);
            if bad.is_empty() {
                shards.remove(&shard);
            }
        }
        if shards.is_empty() {
            self.images.remove(&image);
        }
    }

    /// Whether one of the blocks is known to be bad.
    pub(super) fn intersect(&self, (image, shard): ShardKey, blocks: BlockRange) -> bool {
        let bad = self.images.get(&image).and_then(|shards| shards.get(&shard));
        bad.is_some_and(|bad| bad.intersects(blocks))
    }

    /// The image is removed.
    pub(super) fn forget(&mut self, image: ImageUuid) {
        self.images.remove(&image);
        self.suspicions.remove(&image);
    }
}

impl Engine {
    /// `Verify`: which of the blocks are bad here.
    pub(super) fn verify(&mut self, id: ConnectionId, header: Header) -> Outcome {
        let attach = self.attached(id, header.image)?;
        if self.removals.contains(attach.image) {
            return Err(Status::Busy);
        }
        let target = self.target_of(attach, header.shard, header.blocks)?;
        if target.blocks.count == 0 {
            return Err(Status::Invalid);
        }
        let token = self.open_request(id, header, None);
        self.start_task(token, target, Access::Shared, Work::Verify(None));
        Ok(None)
    }

    pub(super) fn advance_verify(&mut self, token: Token) {
        let target = self.tasks[&token].target;
        let untouched = match self.config.role {
            Role::Data => !self.files.exists_soon(target.key),
            Role::Arbiter => self.is_untouched(target.key),
        };
        if untouched {
            self.end_task(token);
            self.answer(token, Reply::body(VerifyReply::default().to_bytes()).with_flags(Flags::ZEROES));
            return;
        }
        if self.config.role == Role::Arbiter {
            return self.say_what_is_known(token);
        }
        let by_page = self.requests.open[&token].header.flags.contains(Flags::HEAL);
        if by_page && matches!(self.task(token).work, Work::Verify(None)) {
            // What was written last is all that is asked for: a page knows that of most blocks.
            if !self.task_page_alone(token) {
                return;
            }
            if self.witness.known(target.key, target.blocks).1.is_empty() {
                return self.say_what_is_known(token);
            }
        }
        if matches!(self.task(token).work, Work::Verify(None)) {
            let Some(buffer) = self.task_buffer(token, usize::from(target.blocks.count)) else { return };
            self.task(token).work = Work::Verify(Some(buffer));
        }
        let Some(slot) = self.task_file(token) else { return };
        if !self.task_page(token) {
            return;
        }
        let Work::Verify(buffer) = &mut self.task(token).work else { unreachable!("dispatched by kind") };
        let buffer = buffer.take().expect("allocated above");
        self.mark_issued(token);
        self.task_read(token, slot, buffer);
    }

    /// An answer from the page. An arbiter has nothing else.
    fn say_what_is_known(&mut self, token: Token) {
        if !self.task_page_alone(token) {
            return;
        }
        let Target { key, blocks, .. } = self.tasks[&token].target;
        let (crcs, unknown) = self.witness.known(key, blocks);
        self.end_task(token);
        let reply = VerifyReply { bad: BlockSet::new(), unknown, crcs };
        self.answer(token, Reply::body(reply.to_bytes()));
    }

    pub(super) fn verify_done(&mut self, token: Token, result: Result<Buffer, Status>) {
        let Target { key, blocks, .. } = self.tasks[&token].target;
        let reply = match result {
            Ok(buffer) => {
                let crcs: Vec<u32> = block_crcs(&buffer).collect();
                VerifyReply { bad: self.examine(key, blocks, &crcs), unknown: BlockSet::new(), crcs }
            }
            // One of them can't be read; to the reader none of them could.
            Err(_) => {
                let crcs = vec![0; usize::from(blocks.count)];
                VerifyReply { bad: blocks.into(), unknown: blocks.into(), crcs }
            }
        };
        self.note_bad(key, &reply.bad);
        self.end_task(token);
        self.answer(token, Reply::body(reply.to_bytes()));
    }

    /// `Suspect`: somebody found that another copy differs. It is kept for the holder.
    pub(super) fn suspect(&mut self, id: ConnectionId, header: &Header) -> Outcome {
        let attach = self.attached(id, header.image)?;
        let target = self.target_of(attach, header.shard, header.blocks)?;
        if self.fences.record(attach.image).is_none() {
            return Err(Status::NotFound);
        }
        let shards = self.bad_blocks.suspicions.entry(attach.image).or_default();
        if shards.len() >= BAD_SHARDS_MAX && !shards.contains_key(&header.shard) {
            return Err(Status::Busy);
        }
        shards.entry(header.shard).or_default().insert_range(target.blocks);
        Ok(Some(Status::Ok.into()))
    }

    /// Takes the suspicions of some shards.
    fn take_suspicions(&mut self, image: ImageUuid) -> Reply {
        let mut page = DirtyPage::default();
        if let Some(shards) = self.bad_blocks.suspicions.get_mut(&image) {
            page.shards.extend((0..SUSPICIONS_A_PAGE).map_while(|_| shards.pop_first()));
            if shards.is_empty() {
                self.bad_blocks.suspicions.remove(&image);
            }
        }
        Reply::body(page.to_bytes())
    }

    /// `BadRead`: what was found bad and not written since; or what is suspected, once.
    pub(super) fn bad_read(&mut self, id: ConnectionId, header: &Header) -> Outcome {
        let image = self.fenced_image(id, header)?.image;
        if header.flags.contains(Flags::SUSPECT) {
            return Ok(Some(self.take_suspicions(image)));
        }
        let shards = self.bad_blocks.images.get(&image).into_iter().flatten();
        Ok(Some(super::status::page_of(shards.map(|(shard, blocks)| (*shard, blocks.clone())))))
    }

    /// Says in the answer to a renewal that there are bad blocks, or suspicions.
    pub(super) fn bad_flag(&self, image: ImageUuid) -> Flags {
        let bad = self.bad_blocks.images.contains_key(&image);
        let suspected = self.bad_blocks.suspicions.contains_key(&image);
        let flag = |is_set, flag| if is_set { flag } else { Flags::NONE };
        flag(bad, Flags::BAD).with(flag(suspected, Flags::SUSPECT))
    }

    /// These blocks were met, and are bad.
    pub(super) fn note_bad(&mut self, key: ShardKey, blocks: &BlockSet) {
        if !blocks.is_empty() {
            let fresh = self.bad_blocks.insert(key, blocks);
            self.witness.count_bad(key.0, fresh);
        }
    }

    /// The blocks of a shard in use that aren't what was last written there. What wasn't known of the others is now.
    pub(super) fn examine(&mut self, key: ShardKey, blocks: BlockRange, crcs: &[u32]) -> BlockSet {
        let bad = self.witness.unlike(key, blocks, crcs);
        self.take_as_found(key, blocks, crcs, &bad);
        bad
    }

    /// The blocks that were read of a shard in use are good, but for `others`.
    pub(super) fn take_as_found(
        &mut self,
        key: ShardKey,
        blocks: BlockRange,
        crcs: &[u32],
        others: &BlockSet,
    ) {
        self.witness.fill_in(key, blocks, crcs, others);
        if self.bad_blocks.is_empty() {
            return;
        }
        let mut good = BlockSet::from(blocks);
        good.remove_all(others);
        for run in good.runs(u16::MAX) {
            self.bad_blocks.remove(key, run);
        }
    }
}
