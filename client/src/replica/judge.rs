//! Judging: blocks in which copies of S differ although each finds its own in order. A disk that lost a write which it had
//! called durable, page of CRCs and all, looks like that.
//!
//! Whoever compares copies, `scrub`, tells the bricks what it suspects, and the holder learns of it with its renewals.
//! Under the claim on the blocks, so with no write in flight there, every copy of S says what it holds, and every
//! arbiter that vouches (`vouch`) what was written last. What two of them agree on is right, if one of those is a copy:
//! the others pull that. Without two that agree nothing is changed; the next scrub finds it again.

use std::collections::BTreeMap;

use brick_wire::body::VerifyReply;
use brick_wire::decode::Frame;
use brick_wire::limits::DATA_BLOCKS_MAX;
use brick_wire::{BlockRange, BlockSet, BrickIndex, BrickSet, Flags, ShardIndex};

use super::Group;
use super::admit::{Kind, Operation, OperationKey};
use super::group::Phase;
use super::heal::PullOperation;
use super::inquiry::Inquiry;
use super::interface::Output;
use super::pending::Purpose;

/// Shards with suspicious blocks that are remembered; further ones are found again.
const SUSPICIONS_MAX: usize = 1024;

/// A run of blocks about which everybody is being asked.
#[derive(Debug, Default)]
pub(super) struct JudgeOperation {
    inquiry: Inquiry,
}

/// Blocks of one copy that are wrong, and who has them right.
type Sentences = BTreeMap<(BrickIndex, BrickIndex), BlockSet>;

impl Group {
    /// Copies are said to differ in these blocks.
    pub(super) fn note_suspicion(&mut self, shard: ShardIndex, blocks: &BlockSet) {
        if self.suspicions.len() < SUSPICIONS_MAX || self.suspicions.contains_key(&shard) {
            self.suspicions.entry(shard).or_default().insert_all(blocks);
        }
    }

    /// Judges what is suspicious, one run of blocks at a time.
    pub(super) fn progress_judging(&mut self) {
        if self.suspicions.is_empty() || !matches!(self.phase, Phase::Serving) {
            return;
        }
        let judging = self.operations.values().any(|operation| matches!(operation.kind, Kind::Judge(_)));
        // An arbiter that is being caught up may know soon.
        if judging || self.change.is_some() || self.is_catching_up() {
            return;
        }
        // Copies that pull from each other in a shard would wait for each other.
        let Some(shard) = self.suspicions.keys().copied().find(|shard| !self.pulls_in(*shard)) else {
            return;
        };
        let blocks = self.suspicions.get_mut(&shard).expect("just found");
        let run = blocks.runs(DATA_BLOCKS_MAX).next().expect("without blocks a shard isn't suspicious");
        blocks.remove_range(run);
        if blocks.is_empty() {
            self.suspicions.remove(&shard);
        }
        self.admit(None, Kind::Judge(JudgeOperation::default()), shard, run);
    }

    fn judge_mut(&mut self, key: OperationKey) -> Option<&mut JudgeOperation> {
        match &mut self.operations.get_mut(&key)?.kind {
            Kind::Judge(judge) => Some(judge),
            _ => None,
        }
    }

    pub(super) fn drive_judge(&mut self, key: OperationKey) {
        let operation = &self.operations[&key];
        let (shard, blocks) = (operation.shard, operation.blocks);
        if self.judge_mut(key).expect("driven as a judgement").inquiry.is_sent() || !self.may_send() {
            return;
        }
        let copies = self.usable_copies();
        if copies.count() < 2 || self.suspect.contains_key(&shard) {
            // One copy has nobody to differ from; where S refused a write the copies are made equal anyway (rule I9).
            return self.finish(key, Ok(Output::Done));
        }
        let asked = copies.union(self.vouching().intersection(self.ready()));
        self.judge_mut(key).expect("driven as a judgement").inquiry = Inquiry::of(asked);
        self.inquire(asked, (shard, blocks), Flags::NONE, Purpose::Judge(key));
    }

    /// A witness answered.
    pub(super) fn handle_testimony(&mut self, brick: BrickIndex, key: OperationKey, reply: &Frame) {
        let Some(blocks) = self.operations.get(&key).map(|operation| operation.blocks) else { return };
        let Some(verified) = self.read_verified(brick, blocks, reply) else { return self.undo_judge(key) };
        let Some(judge) = self.judge_mut(key) else { return };
        if judge.inquiry.note(brick, verified) {
            self.pass_sentence(key);
        }
    }

    /// Everybody has answered: wrong copies pull the right one. Their pulls wait behind writes that came meanwhile,
    /// which leave the blocks equal or as they were judged.
    fn pass_sentence(&mut self, key: OperationKey) {
        let operation = &self.operations[&key];
        let (shard, blocks) = (operation.shard, operation.blocks);
        let answers = std::mem::take(&mut self.judge_mut(key).expect("just answered").inquiry.answers);
        let copies = self.usable_copies();
        let vouching = self.vouching();
        let believed = answers.iter().filter(|(brick, _)| copies.union(vouching).contains(**brick));
        let sentences =
            judge(blocks, copies, &believed.map(|(brick, said)| (*brick, said)).collect::<Vec<_>>());
        for ((target, source), wrong) in sentences {
            let range = super::heal::hull(&wrong);
            self.admit(None, Kind::Pull(PullOperation::judged(target, source, wrong)), shard, range);
        }
        self.finish(key, Ok(Output::Done));
    }

    /// An arbiter vouches no more: what it said before counts for nothing. The blocks are judged again.
    pub(super) fn adjourn(&mut self, arbiter: BrickIndex) {
        let asked = |kind: &Kind| matches!(kind, Kind::Judge(judge) if judge.inquiry.asked.contains(arbiter));
        for key in self.operations_where(asked) {
            let Operation { shard, blocks, .. } = self.operations[&key];
            self.suspicions.entry(shard).or_default().insert_range(blocks);
            self.finish(key, Ok(Output::Done));
        }
    }

    /// Somebody won't answer: the next scrub finds the blocks again.
    pub(super) fn undo_judge(&mut self, key: OperationKey) {
        if self.judge_mut(key).is_some() {
            self.finish(key, Ok(Output::Done));
        }
    }
}

/// Who is wrong about which of `blocks`, by what everybody said of them.
fn judge(blocks: BlockRange, copies: BrickSet, said: &[(BrickIndex, &VerifyReply)]) -> Sentences {
    let mut sentences = Sentences::new();
    for (index, block) in blocks.iter().enumerate() {
        let good = |answer: &VerifyReply| !answer.bad.contains(block) && !answer.unknown.contains(block);
        // A copy that finds its own block bad says so elsewhere, and is repaired.
        let votes: Vec<(BrickIndex, u32)> = said
            .iter()
            .filter(|(_, answer)| good(answer))
            .map(|(brick, answer)| (*brick, answer.crcs[index]))
            .collect();
        let agreeing = |crc: u32| votes.iter().filter(|(_, other)| *other == crc).count();
        let source = votes.iter().find(|(brick, crc)| copies.contains(*brick) && agreeing(*crc) >= 2);
        let Some((source, right)) = source.copied() else { continue };
        let wrong = votes.iter().filter(|(brick, crc)| copies.contains(*brick) && *crc != right);
        for (target, _) in wrong {
            let blocks = sentences.entry((*target, source)).or_default();
            blocks.insert_range(BlockRange::new(block, 1));
        }
    }
    sentences
}

#[cfg(test)]
mod tests {
    use super::*;

    const COPIES: [BrickIndex; 2] = [BrickIndex(0), BrickIndex(1)];
    const ARBITER: BrickIndex = BrickIndex(2);

    fn said(crcs: &[u32]) -> VerifyReply {
        VerifyReply { crcs: crcs.to_vec(), ..VerifyReply::default() }
    }

    fn judged(first: &VerifyReply, second: &VerifyReply, arbiter: &VerifyReply) -> Sentences {
        let said = vec![(COPIES[0], first), (COPIES[1], second), (ARBITER, arbiter)];
        judge(BlockRange::new(8, 2), COPIES.into_iter().collect(), &said)
    }

    #[test]
    fn the_copy_that_the_arbiter_contradicts_is_wrong() {
        let sentences = judged(&said(&[1, 5]), &said(&[2, 5]), &said(&[2, 5]));
        assert_eq!(sentences, Sentences::from([((COPIES[0], COPIES[1]), BlockRange::new(8, 1).into())]));
        let sentences = judged(&said(&[1, 5]), &said(&[1, 6]), &said(&[1, 5]));
        assert_eq!(sentences, Sentences::from([((COPIES[1], COPIES[0]), BlockRange::new(9, 1).into())]));
    }

    #[test]
    fn without_two_that_agree_nothing_is_touched() {
        assert!(judged(&said(&[1, 5]), &said(&[2, 5]), &said(&[3, 5])).is_empty());
        let ignorant = VerifyReply { unknown: BlockRange::new(8, 2).into(), ..said(&[1, 5]) };
        assert!(judged(&said(&[1, 5]), &said(&[2, 5]), &ignorant).is_empty());
    }

    #[test]
    fn copies_that_agree_outvote_an_arbiter() {
        assert!(judged(&said(&[1, 5]), &said(&[1, 5]), &said(&[2, 6])).is_empty());
    }

    #[test]
    fn a_block_that_its_own_copy_finds_bad_is_left_to_its_repair() {
        let rotten = VerifyReply { bad: BlockRange::new(8, 1).into(), ..said(&[1, 5]) };
        assert!(judged(&rotten, &said(&[2, 5]), &said(&[2, 5])).is_empty());
    }
}
