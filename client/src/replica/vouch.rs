//! Whether an arbiter can be asked which of two copies is right: only while it *vouches*, that is, while it has the CRC
//! of every completed write.
//!
//! An arbiter isn't in S, and writes complete without it. What it missed keeps its dirty bits on the data bricks, because
//! nothing is cleaned (rule I6) unless every arbiter vouches, for the writes in question too. So whoever comes next
//! finds there what the arbiter may lack, and *catches it up* under the lease: the blocks that S or the arbiter itself
//! lists are looked up in the pages of every copy of S (and read where they aren't known), and where all agree their CRCs go to the arbiter like those of a write, under the
//! same claims (I13). Where copies differ, or one can't vouch for itself and no other can, the arbiter is told that
//! nobody knows: it must not learn a wrong CRC from the copy that is wrong, which would then be taken for right. A session begins with that, and so does the return of an arbiter's link. A write that an arbiter hasn't answered
//! when it completes is *late*: bits of its generation are kept until the answer is there.
//!
//! A crash of an arbiter makes it forget CRCs, but it knows which: those it doesn't vouch for by itself.

use std::collections::BTreeMap;

use brick_wire::body::{Crcs, DummyWrite, DummyWrites, VerifyReply};
use brick_wire::checksum::UNKNOWN_CRC;
use brick_wire::cursor::Body;
use brick_wire::decode::Frame;
use brick_wire::limits::DATA_BLOCKS_MAX;
use brick_wire::{
    BlockRange, BlockSet, BrickIndex, BrickSet, Flags, Generation, Header, Opcode, ShardIndex, Status,
    Timestamp,
};
use bytes::Bytes;

use super::Group;
use super::admit::{Kind, OperationKey};
use super::gather::{Heal, Stage};
use super::group::Phase;
use super::inquiry::Inquiry;
use super::interface::Output;
use super::open::RECOVER_BLOCKS_MAX;
use super::pending::Purpose;

/// Runs of blocks under way to one arbiter.
const COPIES_MAX: usize = 4;

/// How far an arbiter's CRCs can be believed.
#[derive(Debug, Default)]
pub(super) struct Vouch {
    /// It has those of all completed writes, but for the late ones.
    complete: bool,
    /// Being caught up; its pulls are [`CopyOperation`]s.
    pub(super) catching_up: Option<Heal>,
    /// Completed writes that it hasn't answered.
    late: BTreeMap<OperationKey, Generation>,
}

impl Vouch {
    /// Whether the arbiter vouches.
    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }
}

/// The CRCs of a run of blocks on their way from the copies of S to an arbiter.
#[derive(Debug)]
pub(super) struct CopyOperation {
    arbiter: BrickIndex,
    inquiry: Inquiry,
}

impl Group {
    /// Catches arbiters up, and notes those that are.
    pub(super) fn progress_vouching(&mut self) {
        if self.change.is_some() || !matches!(self.phase, Phase::Serving | Phase::Closing) {
            return;
        }
        for arbiter in self.config.arbiters().iter() {
            if matches!(self.phase, Phase::Closing) && self.is_far_behind(arbiter) {
                // The next session's, or an agent's.
                self.stop_vouching(arbiter);
            }
            // All of S has to be asked.
            if self.in_sync().is_subset_of(self.ready())
                && self.should_catch_up(arbiter)
                && let Some(source) = self.in_sync().intersection(self.ready()).first()
            {
                self.start_heal(arbiter, source);
            }
            self.pump_copies(arbiter);
        }
    }

    /// Whether catching up takes more than moments.
    fn is_far_behind(&self, arbiter: BrickIndex) -> bool {
        let heal = self.brick(arbiter).vouch.catching_up.as_ref();
        heal.is_some_and(|heal| heal.stage == Stage::Copying && heal.listed_blocks() > RECOVER_BLOCKS_MAX)
    }

    fn should_catch_up(&self, arbiter: BrickIndex) -> bool {
        let brick = self.brick(arbiter);
        // A closing session tries once.
        let wanted = matches!(self.phase, Phase::Serving) || brick.heal_failures == 0;
        wanted
            && !brick.vouch.complete
            && brick.vouch.catching_up.is_none()
            && self.ready().contains(arbiter)
            && self.suspect.is_empty()
            && self.now >= brick.heal_after
    }

    /// Keeps copies under way; without any left the arbiter vouches.
    fn pump_copies(&mut self, arbiter: BrickIndex) {
        while let Some(heal) = &self.brick(arbiter).vouch.catching_up {
            if heal.stage != Stage::Copying || heal.pulls >= COPIES_MAX {
                return;
            }
            if heal.is_equal() {
                let brick = self.brick_mut(arbiter);
                (brick.vouch.complete, brick.vouch.catching_up, brick.heal_failures) = (true, None, 0);
                self.flush.note_bits_left();
                return;
            }
            let Some((shard, blocks)) = self.next_copy(arbiter) else { return };
            self.catching_up(arbiter).expect("checked above").pulls += 1;
            self.admit(
                None,
                Kind::Copy(CopyOperation { arbiter, inquiry: Inquiry::default() }),
                shard,
                blocks,
            );
        }
    }

    /// Listed blocks that no copy is after yet.
    fn next_copy(&self, arbiter: BrickIndex) -> Option<(ShardIndex, BlockRange)> {
        let heal = self.brick(arbiter).vouch.catching_up.as_ref()?;
        heal.list.iter().find_map(|(shard, listed)| {
            let mut left = listed.clone();
            for operation in self.operations.values().filter(|operation| operation.shard == *shard) {
                if matches!(&operation.kind, Kind::Copy(copy) if copy.arbiter == arbiter) {
                    left.remove_range(operation.blocks);
                }
            }
            left.runs(DATA_BLOCKS_MAX).next().map(|run| (*shard, run))
        })
    }

    pub(super) fn drive_copy(&mut self, key: OperationKey) {
        let Some((arbiter, shard, blocks)) = self.copy(key) else { unreachable!("driven as a copy") };
        if self.copy_mut(key).expect("just found").inquiry.is_sent() || !self.may_send() {
            return;
        }
        let Some(source) = self.brick(arbiter).vouch.catching_up.as_ref().map(|heal| heal.source) else {
            return self.finish(key, Ok(Output::Done));
        };
        let copies = self.in_sync();
        if !copies.contains(source) || !copies.with(arbiter).is_subset_of(self.ready()) {
            return self.stop_vouching(arbiter);
        }
        // The arbiter too: what it knows counts as much as what a copy says.
        let asked = copies.with(arbiter);
        self.copy_mut(key).expect("just found").inquiry = Inquiry::of(asked);
        self.inquire(asked, (shard, blocks), Flags::HEAL, Purpose::CopyRead(key));
    }

    /// An answer; the last one sends the CRCs to the arbiter.
    pub(super) fn handle_copy_read(&mut self, copy: BrickIndex, key: OperationKey, reply: &Frame) {
        let Some((arbiter, shard, blocks)) = self.copy(key) else { return };
        let Some(verified) = self.read_verified(copy, blocks, reply) else {
            return self.stop_vouching(arbiter);
        };
        if !verified.bad.is_empty() {
            self.note_bad_blocks(copy, shard, &verified.bad);
        }
        let Some(operation) = self.copy_mut(key) else { return };
        if !operation.inquiry.note(copy, verified) {
            return;
        }
        let crcs = agreed(blocks, &operation.inquiry.answers, arbiter);
        if !self.may_send() || !self.ready().contains(arbiter) {
            return self.stop_vouching(arbiter);
        }
        let mut header = self.data_header(Opcode::DummyWrites);
        // Of no write of ours: the next CLEAN drops the bits, whichever flush it follows.
        header.generation = Generation(0);
        let aux = DummyWrites { writes: vec![DummyWrite { shard, blocks, crcs }] }.to_bytes();
        let core = self.core_for(arbiter, shard);
        self.send_frame(arbiter, core, Frame::new(header, aux, Bytes::new()), Purpose::CopyWrite(key));
    }

    pub(super) fn handle_copy_written(&mut self, key: OperationKey, reply: Header) {
        let Some((arbiter, shard, blocks)) = self.copy(key) else { return };
        if reply.status != Status::Ok {
            return self.stop_vouching(arbiter);
        }
        if let Some(heal) = self.catching_up(arbiter) {
            heal.pulls -= 1;
            heal.unlist(shard, &BlockSet::from(blocks));
        }
        self.finish(key, Ok(Output::Done));
    }

    /// A copy's request was never answered.
    pub(super) fn undo_copy(&mut self, key: OperationKey) {
        if let Some((arbiter, ..)) = self.copy(key) {
            self.stop_vouching(arbiter);
        }
    }

    fn copy_mut(&mut self, key: OperationKey) -> Option<&mut CopyOperation> {
        match &mut self.operations.get_mut(&key)?.kind {
            Kind::Copy(copy) => Some(copy),
            _ => None,
        }
    }

    fn copy(&self, key: OperationKey) -> Option<(BrickIndex, ShardIndex, BlockRange)> {
        let operation = self.operations.get(&key)?;
        let Kind::Copy(copy) = &operation.kind else { return None };
        Some((copy.arbiter, operation.shard, operation.blocks))
    }

    fn catching_up(&mut self, arbiter: BrickIndex) -> Option<&mut Heal> {
        self.brick_mut(arbiter).vouch.catching_up.as_mut()
    }

    /// An arbiter lacks something, or may: it is caught up again. What was on its way to it comes before what
    /// follows on the same connection.
    pub(super) fn stop_vouching(&mut self, arbiter: BrickIndex) {
        let vouch = &mut self.brick_mut(arbiter).vouch;
        if std::mem::replace(&mut vouch.complete, false) {
            self.adjourn(arbiter);
        }
        let vouch = &mut self.brick_mut(arbiter).vouch;
        if vouch.catching_up.take().is_none() {
            return;
        }
        self.postpone_heal(arbiter);
        let of_arbiter = |kind: &Kind| matches!(kind, Kind::Copy(copy) if copy.arbiter == arbiter);
        for key in self.operations_where(of_arbiter) {
            if self.operations.contains_key(&key) {
                self.finish(key, Ok(Output::Done));
            }
        }
    }

    /// The same for those that are caught up from a copy that isn't good any more.
    pub(super) fn stop_vouching_from(&mut self, source: BrickIndex) {
        let from = |heal: &Heal| heal.source == source;
        let arbiters = self.bricks_where(|brick| brick.vouch.catching_up.as_ref().is_some_and(from));
        arbiters.iter().for_each(|arbiter| self.stop_vouching(arbiter));
    }

    /// The arbiter's link broke: nothing that is late will be answered.
    pub(super) fn forget_late(&mut self, arbiter: BrickIndex) {
        self.brick_mut(arbiter).vouch.late.clear();
        self.stop_vouching(arbiter);
    }

    /// A write is completed, or failed on every copy; these bricks have not answered it, those have applied it.
    pub(super) fn note_vouched(
        &mut self,
        key: OperationKey,
        generation: Generation,
        (waiting, applied): (BrickSet, BrickSet),
    ) {
        for arbiter in self.config.arbiters().difference(applied).iter() {
            if waiting.contains(arbiter) {
                self.brick_mut(arbiter).vouch.late.insert(key, generation);
            } else {
                self.stop_vouching(arbiter);
            }
        }
    }

    /// Whether the answer is to a write that was late.
    pub(super) fn settle_late(&mut self, arbiter: BrickIndex, key: OperationKey, status: Status) -> bool {
        let late = self.brick_mut(arbiter).vouch.late.remove(&key).is_some();
        if late && status != Status::Ok {
            self.stop_vouching(arbiter);
        }
        late
    }

    /// The arbiters that vouch.
    pub(super) fn vouching(&self) -> BrickSet {
        self.bricks_where(|brick| brick.vouch.complete)
    }

    /// Whether all do.
    pub(super) fn all_vouch(&self) -> bool {
        self.config.arbiters().is_subset_of(self.vouching())
    }

    /// The generation up to which no write is late.
    pub(super) fn on_time(&self) -> Generation {
        let late = self.bricks.iter().flat_map(|brick| brick.vouch.late.values());
        late.map(|generation| Generation(generation.0 - 1)).min().unwrap_or(Generation(u32::MAX))
    }

    /// Whether a session that closes waits for an arbiter: for its answers, and to be caught up where that takes
    /// moments.
    pub(super) fn waits_for_arbiter(&self) -> bool {
        self.bricks.iter().any(|brick| !brick.vouch.late.is_empty() || brick.vouch.catching_up.is_some())
    }

    /// Blocks whose CRCs arbiters that are being caught up may lack.
    pub(super) fn blocks_to_vouch(&self) -> u64 {
        let heals = self.bricks.iter().filter_map(|brick| brick.vouch.catching_up.as_ref());
        heals.map(|heal| heal.listed_blocks()).sum()
    }

    /// Whether an arbiter is there that doesn't vouch yet.
    pub(super) fn is_catching_up(&self) -> bool {
        !self.config.arbiters().intersection(self.ready()).is_subset_of(self.vouching())
    }

    /// When an arbiter that has to be caught up may be.
    pub(super) fn vouching_timeout(&self) -> Option<Timestamp> {
        let arbiters = self.config.arbiters().intersection(self.ready()).iter();
        let waiting = arbiters.map(|arbiter| self.brick(arbiter)).filter(|brick| {
            !brick.vouch.complete && brick.vouch.catching_up.is_none() && self.suspect.is_empty()
        });
        waiting.map(|brick| brick.heal_after).min()
    }
}

/// The CRCs in which all copies agree that can vouch for the block, if two do or the arbiter knew that one already;
/// elsewhere that of a block nobody knows.
fn agreed(blocks: BlockRange, answers: &BTreeMap<BrickIndex, VerifyReply>, arbiter: BrickIndex) -> Crcs {
    let crc = |(index, block): (usize, u16)| {
        let copies =
            answers.iter().filter(|(brick, answer)| **brick != arbiter && !answer.bad.contains(block));
        let mut said = copies.map(|(_, answer)| answer.crcs[index]);
        let crc = said.next()?;
        let others: Vec<u32> = said.collect();
        let known = answers.get(&arbiter).filter(|answer| !answer.unknown.contains(block));
        let confirmed = !others.is_empty() || known.is_some_and(|known| known.crcs[index] == crc);
        (confirmed && others.iter().all(|other| *other == crc)).then_some(crc)
    };
    blocks.iter().enumerate().map(|place| crc(place).unwrap_or(UNKNOWN_CRC)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arbiter_learns_only_what_two_say_and_no_copy_denies() {
        const ARBITER: BrickIndex = BrickIndex(2);
        let said = |crcs: &[u32]| VerifyReply { crcs: crcs.to_vec(), ..VerifyReply::default() };
        let agreed = |answers: &[(u8, VerifyReply)]| {
            let answers =
                answers.iter().cloned().map(|(brick, answer)| (BrickIndex(brick), answer)).collect();
            agreed(BlockRange::new(1, 3), &answers, ARBITER)
        };
        let ignorant = VerifyReply { unknown: BlockRange::new(1, 3).into(), ..said(&[0; 3]) };
        let rotten = VerifyReply { bad: BlockRange::new(2, 2).into(), ..said(&[1, 2, 9]) };
        let both = [(0, said(&[1, 2, 4])), (1, said(&[7, 2, 4])), (2, ignorant.clone())];
        assert_eq!(agreed(&both)[..], [UNKNOWN_CRC, 2, 4]);
        // A copy of its own, however sure of itself, is no witness for what it holds; with the arbiter it is.
        assert_eq!(agreed(&[(0, said(&[1, 2, 4])), (2, ignorant.clone())])[..], [UNKNOWN_CRC; 3]);
        assert_eq!(agreed(&[(0, said(&[1, 2, 4])), (2, said(&[1, 3, 4]))])[..], [1, UNKNOWN_CRC, 4]);
        assert_eq!(
            agreed(&[(0, said(&[1, 2, 4])), (1, rotten), (2, ignorant)])[..],
            [1, UNKNOWN_CRC, UNKNOWN_CRC]
        );
    }
}
