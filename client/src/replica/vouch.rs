//! Whether an arbiter can be asked which of two copies is right: only while it *vouches*, that is, while it has the CRC
//! of every completed write.
//!
//! An arbiter isn't in S, and writes complete without it. What it missed keeps its dirty bits on the data bricks, because
//! nothing is cleaned (rule I6) unless every arbiter vouches, for the writes in question too. So whoever comes next
//! finds there what the arbiter may lack, and *catches it up* under the lease: the blocks that S or the arbiter itself
//! lists are read on a good copy, and their CRCs go to the arbiter like those of a write, under the same claims (I13).
//! A session begins with that, and so does the return of an arbiter's link. A write that an arbiter hasn't answered
//! when it completes is *late*: bits of its generation are kept until the answer is there.
//!
//! A crash of an arbiter makes it forget CRCs, but it knows which: those it doesn't vouch for by itself.

use std::collections::BTreeMap;

use brick_wire::body::{VerifyReply, put_crcs};
use brick_wire::checksum::ZERO_BLOCK_CRC;
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

/// The CRCs of a run of blocks on their way from a good copy to an arbiter.
#[derive(Debug)]
pub(super) struct CopyOperation {
    arbiter: BrickIndex,
    sent: bool,
}

impl Group {
    /// Catches arbiters up, and notes those that are.
    pub(super) fn progress_vouching(&mut self) {
        if self.change.is_some() || !matches!(self.phase, Phase::Serving | Phase::Closing) {
            return;
        }
        for arbiter in self.config.arbiters().iter() {
            if self.should_catch_up(arbiter)
                && let Some(source) = self.in_sync().intersection(self.ready()).first()
            {
                self.start_heal(arbiter, source);
            }
            self.pump_copies(arbiter);
        }
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
            self.admit(None, Kind::Copy(CopyOperation { arbiter, sent: false }), shard, blocks);
        }
    }

    /// Listed blocks that no copy is after yet.
    fn next_copy(&self, arbiter: BrickIndex) -> Option<(ShardIndex, BlockRange)> {
        let heal = self.brick(arbiter).vouch.catching_up.as_ref()?;
        let left = heal.list.iter().find_map(|(shard, listed)| {
            let mut left = listed.clone();
            for operation in self.operations.values().filter(|operation| operation.shard == *shard) {
                if matches!(&operation.kind, Kind::Copy(copy) if copy.arbiter == arbiter) {
                    left.remove_range(operation.blocks);
                }
            }
            left.runs(DATA_BLOCKS_MAX).next().map(|run| (*shard, run))
        });
        left
    }

    pub(super) fn drive_copy(&mut self, key: OperationKey) {
        let operation = &self.operations[&key];
        let Kind::Copy(CopyOperation { arbiter, sent }) = operation.kind else {
            unreachable!("driven as a copy")
        };
        let (shard, blocks) = (operation.shard, operation.blocks);
        if sent || !self.may_send() {
            return;
        }
        let Some(source) = self.brick(arbiter).vouch.catching_up.as_ref().map(|heal| heal.source) else {
            return self.finish(key, Ok(Output::Done));
        };
        let good = self.in_sync().intersection(self.ready());
        if !good.contains(source) || !self.ready().contains(arbiter) {
            return self.stop_vouching(arbiter);
        }
        self.note_copy_sent(key);
        let mut header = self.data_header(Opcode::Verify);
        (header.shard, header.blocks) = (shard, blocks);
        self.send(source, self.core_for(source, shard), header, Purpose::CopyRead(key));
    }

    fn note_copy_sent(&mut self, key: OperationKey) {
        if let Some(Kind::Copy(copy)) = self.operations.get_mut(&key).map(|operation| &mut operation.kind) {
            copy.sent = true;
        }
    }

    /// The source's answer: its CRCs go to the arbiter.
    pub(super) fn handle_copy_read(&mut self, source: BrickIndex, key: OperationKey, reply: &Frame) {
        let Some((arbiter, shard, blocks)) = self.copy(key) else { return };
        let verified = VerifyReply::from_bytes(&reply.aux).ok().filter(|_| reply.header.status == Status::Ok);
        let Some(verified) = verified else { return self.stop_vouching(arbiter) };
        let crcs = match reply.header.flags.contains(Flags::ZEROES) {
            true => vec![ZERO_BLOCK_CRC; usize::from(blocks.count)],
            false => verified.crcs,
        };
        if !verified.bad.is_empty() {
            // To be repaired first.
            self.note_bad_blocks(source, shard, &verified.bad);
            return self.stop_vouching(arbiter);
        }
        if crcs.len() != usize::from(blocks.count) {
            return self.reset_link(source, "it verified other blocks than it was asked for");
        }
        if !self.may_send() || !self.ready().contains(arbiter) {
            return self.stop_vouching(arbiter);
        }
        let mut header = self.data_header(Opcode::DummyWrite);
        (header.shard, header.blocks) = (shard, blocks);
        let aux = put_crcs(&mut header, &crcs);
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
        vouch.complete = false;
        if vouch.catching_up.take().is_none() {
            return;
        }
        self.postpone_heal(arbiter);
        let of_arbiter = |kind: &Kind| matches!(kind, Kind::Copy(copy) if copy.arbiter == arbiter);
        let keys = self.operations.iter().filter(|(_, operation)| of_arbiter(&operation.kind));
        let keys: Vec<OperationKey> = keys.map(|(key, _)| *key).collect();
        for key in keys {
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
    /// moments, or is what the session is for.
    pub(super) fn waits_for_arbiter(&self) -> bool {
        let heals = self.config.purpose.heals();
        self.bricks.iter().any(|brick| {
            let vouch = &brick.vouch;
            let short = |heal: &Heal| heals || heal.listed_blocks() <= RECOVER_BLOCKS_MAX;
            !vouch.late.is_empty() || vouch.catching_up.as_ref().is_some_and(short)
        })
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
