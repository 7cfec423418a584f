//! Asking several bricks what they hold of a run of blocks, for whoever needs all their answers: an arbiter that is caught
//! up (`vouch`), and a judgement (`judge`).

use std::collections::BTreeMap;

use brick_wire::body::VerifyReply;
use brick_wire::checksum::ZERO_BLOCK_CRC;
use brick_wire::cursor::Body;
use brick_wire::decode::Frame;
use brick_wire::{BlockRange, BrickIndex, BrickSet, Flags, Opcode, ShardIndex, Status};

use super::Group;
use super::pending::Purpose;

/// Who was asked, and what was answered so far.
#[derive(Debug, Default)]
pub(super) struct Inquiry {
    /// Nobody before it was sent.
    pub(super) asked: BrickSet,
    pub(super) answers: BTreeMap<BrickIndex, VerifyReply>,
}

impl Inquiry {
    /// One that goes to these bricks.
    pub(super) fn of(asked: BrickSet) -> Inquiry {
        Inquiry { asked, answers: BTreeMap::new() }
    }

    pub(super) fn is_sent(&self) -> bool {
        !self.asked.is_empty()
    }

    /// A brick answered. Whether it was the last.
    pub(super) fn note(&mut self, brick: BrickIndex, answer: VerifyReply) -> bool {
        self.answers.insert(brick, answer);
        self.answers.len() == self.asked.count()
    }
}

impl Group {
    /// Sends the question to every brick of `asked`.
    pub(super) fn inquire(
        &mut self,
        asked: BrickSet,
        (shard, blocks): (ShardIndex, BlockRange),
        flags: Flags,
        purpose: Purpose,
    ) {
        for brick in asked.iter() {
            let mut header = self.data_header(Opcode::Verify);
            (header.shard, header.blocks, header.flags) = (shard, blocks, flags);
            self.send(brick, self.core_for(brick, shard), header, purpose.clone());
        }
    }

    /// What a brick says of blocks, with the CRCs of zeros for a shard that doesn't exist. A peer that sends nonsense
    /// loses its link.
    pub(super) fn read_verified(
        &mut self,
        brick: BrickIndex,
        blocks: BlockRange,
        reply: &Frame,
    ) -> Option<VerifyReply> {
        let mut verified =
            VerifyReply::from_bytes(&reply.aux).ok().filter(|_| reply.header.status == Status::Ok)?;
        if reply.header.flags.contains(Flags::ZEROES) {
            verified.crcs = vec![ZERO_BLOCK_CRC; usize::from(blocks.count)];
        }
        let shard_blocks = usize::from(self.config.shard_blocks());
        let fits = verified.bad.end().max(verified.unknown.end()) <= shard_blocks;
        if !fits || verified.crcs.len() != usize::from(blocks.count) {
            self.reset_link(brick, "it verified other blocks than it was asked for");
            return None;
        }
        Some(verified)
    }
}
