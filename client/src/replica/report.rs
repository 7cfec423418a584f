//! Timers, figures for status output, the existence cache, and the removal of an image.

use std::time::Duration;

use brick_wire::body::ShardPage;
use brick_wire::cursor::Body;
use brick_wire::decode::Frame;
use brick_wire::limits::GROUP_BRICKS_MAX;
use brick_wire::{
    BrickIndex, BrickSet, CoreIndex, Epoch, Flags, Header, Opcode, ShardIndex, Status, Timestamp,
};

use super::Group;
use super::admit::{Kind, OperationKey};
use super::group::Phase;
use super::interface::{GroupError, NoQuorum, Output, Report, State};
use super::open::SETTLE;
use super::pending::Purpose;

/// The share of the brick timeout after which a silent brick has failed, percent: the rest is for the change of
/// epoch that lets I/O go on without it.
const SILENCE_PERCENT: u32 = 85;

/// A timer that is handled later than this says more about us than about a brick.
pub(crate) const LATE: Duration = Duration::from_millis(250);
/// So often are bricks given their time again because of it: on a host that is always late something has to end, too.
pub(crate) const STANDSTILLS_MAX: u32 = 3;

/// What happened since opening.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) read_errors: u64,
    pub(super) healed_blocks: u64,
    pub(super) repaired_blocks: u64,
    pub(super) compared_blocks: u64,
    pub(super) heal_wire_bytes: u64,
}

/// The removal of all shards, under way.
#[derive(Debug, Default)]
pub(super) struct RemoveOperation {
    outstanding: [u16; GROUP_BRICKS_MAX],
    sent: BrickSet,
    removed: BrickSet,
    failed: BrickSet,
}

impl Group {
    /// Time passed: renews, times out, retries.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        self.now = now;
        // Under load that is what most timeouts are for, and no operation waits for it.
        let tells = self.tell_at.is_some_and(|at| now >= at);
        if now >= self.serve_not_before && !(tells && self.may_rest()) {
            self.drive_all();
        }
        self.progress();
    }

    /// Handles what came due. Every event does this first: under load the timer itself may come late.
    pub(super) fn progress_timers(&mut self) {
        for index in 0..self.bricks.len() {
            let brick = BrickIndex(index as u8);
            let due = self.pending.oldest(brick).map(|at| at + self.silence_max());
            if due.is_some_and(|due| self.is_silent_since(due)) {
                self.reset_link(brick, "it did not answer in time");
            }
        }
        self.renew_if_due();
    }

    /// Whether a brick that had to answer by `due` has failed. If we come late ourselves (this process was stopped,
    /// or starved), the answer may lie in a socket of ours: there is a moment to read it first.
    fn is_silent_since(&mut self, due: Timestamp) -> bool {
        if self.now >= due + LATE && self.patient_until < due {
            self.patient_until = self.now + LATE;
        }
        self.now >= due && self.now >= self.patient_until
    }

    /// A brick that leaves a request unanswered for this long has failed.
    pub(super) fn silence_max(&self) -> Duration {
        self.config.brick_timeout * SILENCE_PERCENT / 100
    }

    /// When [`Group::handle_timeout`] is due; `None` if only an event can change anything.
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        let mut next: Option<Timestamp> = None;
        let mut consider = |at: Option<Timestamp>| {
            if let Some(at) = at.filter(|at| *at > self.now) {
                next = Some(next.map_or(at, |other| other.min(at)));
            }
        };
        consider(self.tell_at);
        let silence_max = self.silence_max();
        for index in 0..self.bricks.len() {
            let oldest = self.pending.oldest(BrickIndex(index as u8));
            consider(oldest.map(|at| (at + silence_max).max(self.patient_until)));
        }
        if self.is_settled() {
            consider(Some(self.renew_at));
            consider(self.flush.clean_at());
            consider(Some(self.serve_not_before));
            return next;
        }
        match self.phase {
            Phase::Ended(_) => return None,
            Phase::PreVote(_) => {
                consider(Some(self.opened_at + SETTLE));
                consider(Some(self.opened_at + self.config.brick_timeout));
            }
            Phase::Opening => consider(self.stalled_since.map(|since| since + self.config.brick_timeout)),
            Phase::Recovering | Phase::Serving | Phase::Closing => consider(Some(self.renew_at)),
        }
        if matches!(self.phase, Phase::Recovering) {
            consider(self.stalled_since.map(|since| since + self.config.brick_timeout));
        }
        consider(self.change_timeout());
        consider(self.heal_timeout());
        consider(self.clean_due());
        if let (Some(since), NoQuorum::Suspend) = (self.stalled_since, self.config.no_quorum)
            && self.operations.values().any(|operation| operation.user.is_some())
        {
            consider(Some(since + self.config.io_timeout));
        }
        consider(self.contested);
        consider(Some(self.serve_not_before));
        next
    }

    /// What state the group is in.
    pub fn report(&self) -> Report {
        let in_sync = self.in_sync();
        let heals = self.bricks.iter().filter_map(|brick| brick.heal.as_ref());
        Report {
            state: self.state(in_sync),
            epoch: self.record.as_ref().map_or(Epoch::ZERO, |record| record.epoch),
            in_sync,
            vouching: self.vouching(),
            blocks_to_vouch: self.blocks_to_vouch(),
            blank: self.blank(),
            connected: self.bricks_where(|brick| brick.link.is_some()),
            blocks_to_heal: heals.map(|heal| heal.listed_blocks()).sum(),
            healed_blocks: self.counters.healed_blocks,
            repaired_blocks: self.counters.repaired_blocks,
            compared_blocks: self.counters.compared_blocks,
            heal_wire_bytes: self.counters.heal_wire_bytes,
        }
    }

    fn state(&self, in_sync: BrickSet) -> State {
        match &self.phase {
            Phase::Ended(GroupError::Closed) => State::Closed,
            Phase::Ended(GroupError::NoQuorum { .. }) => State::NoQuorum,
            Phase::Ended(GroupError::NoGoodCopy { .. }) => State::NoGoodCopy,
            Phase::Ended(_) => State::Fenced,
            Phase::PreVote(_) | Phase::Opening => State::Opening,
            _ if !self.config.is_quorum(self.linked()) => State::NoQuorum,
            _ if in_sync.intersection(self.linked()).is_empty() => State::NoGoodCopy,
            _ if self.bricks.iter().any(|brick| brick.heal.is_some()) => State::Healing,
            _ if in_sync != self.config.data_bricks() => State::Degraded,
            _ => State::Healthy,
        }
    }

    /// A write is about to create this shard.
    pub(super) fn note_shard(&mut self, shard: ShardIndex) {
        if let Some(existing) = &mut self.existing {
            existing.insert(shard);
        } else {
            self.existing_next.insert(shard);
        }
    }

    /// Asks one brick of S which shards exist, once, so that reads of the others never leave the client:
    /// only this session's writes create more.
    pub(super) fn load_existence(&mut self) {
        if self.existing.is_some() || self.existence_pages > 0 || !self.may_send() {
            return;
        }
        let in_sync = self.record.as_ref().expect("serving").in_sync;
        let Some(brick) = in_sync.intersection(self.ready()).first() else { return };
        let header = self.data_header(Opcode::ShardList);
        for core in self.brick(brick).cores() {
            self.existence_pages += 1;
            self.send(brick, core, header, Purpose::Existence(self.existence_attempt));
        }
    }

    pub(super) fn handle_existence(
        &mut self,
        brick: BrickIndex,
        core: CoreIndex,
        attempt: u32,
        reply: &Frame,
    ) {
        if attempt != self.existence_attempt {
            return;
        }
        self.existence_pages -= 1;
        let page = ShardPage::from_bytes(&reply.aux);
        let (Status::Ok, Ok(page)) = (reply.header.status, page) else {
            return self.restart_existence();
        };
        let last = page.shards.last().copied();
        self.existing_next.extend(page.shards);
        if reply.header.flags.contains(Flags::MORE)
            && let Some(next) = last.and_then(|last| last.0.checked_add(1))
        {
            if !self.may_send() || !self.ready().contains(brick) {
                return self.restart_existence();
            }
            let mut header = self.data_header(Opcode::ShardList);
            header.shard = ShardIndex(next);
            self.existence_pages += 1;
            self.send(brick, core, header, Purpose::Existence(attempt));
        }
        if self.existence_pages == 0 {
            self.existing = Some(std::mem::take(&mut self.existing_next));
        }
    }

    /// The list was not finished. What was learned stays true; the rest is asked for again.
    pub(super) fn restart_existence(&mut self) {
        self.existence_attempt += 1;
        self.existence_pages = 0;
    }

    fn remove_mut(&mut self, key: OperationKey) -> Option<&mut RemoveOperation> {
        match &mut self.operations.get_mut(&key)?.kind {
            Kind::Remove(remove) => Some(remove),
            _ => None,
        }
    }

    /// Has every brick that is there delete the shards; those that aren't are told when they are back.
    pub(super) fn drive_remove(&mut self, key: OperationKey) {
        if self.may_send() {
            let ready = self.ready();
            let remove = self.remove_mut(key).expect("driven as a removal");
            let targets = ready.difference(remove.sent);
            remove.sent = remove.sent.union(targets);
            for brick in targets.iter() {
                let header = self.data_header(Opcode::ImageRemove);
                for core in self.brick(brick).cores() {
                    self.send(brick, core, header, Purpose::Remove(key));
                    self.remove_mut(key).expect("driven").outstanding[usize::from(brick.0)] += 1;
                }
            }
        }
        let linked = self.linked();
        let Some(remove) = self.remove_mut(key) else { return };
        let done = remove.removed.union(remove.failed);
        if !remove.sent.is_empty() && linked.is_subset_of(done) {
            let removed = remove.removed;
            self.finish(key, Ok(Output::Removed(removed)));
        }
    }

    pub(super) fn handle_removed(&mut self, brick: BrickIndex, key: OperationKey, reply: Header) {
        let Some(remove) = self.remove_mut(key) else { return };
        remove.outstanding[usize::from(brick.0)] -= 1;
        if reply.status != Status::Ok {
            remove.failed.insert(brick);
        } else if remove.outstanding[usize::from(brick.0)] == 0 && !remove.failed.contains(brick) {
            remove.removed.insert(brick);
        }
        self.drive(key);
    }

    pub(super) fn undo_remove(&mut self, brick: BrickIndex, key: OperationKey) {
        if let Some(remove) = self.remove_mut(key) {
            remove.outstanding[usize::from(brick.0)] = 0;
            remove.failed.insert(brick);
        }
    }
}
