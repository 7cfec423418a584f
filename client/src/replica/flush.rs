//! Durability: flushes on every brick of S (I7), and letting bricks forget dirty bits afterwards (I6).
//!
//! A generation is stamped on every write when it is first sent and grows with every flush. A flush covers
//! what completed before it, so `CLEAN(g)` may follow it with the `g` below every write and pull that was in flight
//! when the flush started, and only if *every* data brick took part: a brick that is away needs the bits. So does an
//! arbiter that lacks CRCs (`vouch`).

use std::time::Duration;

use brick_wire::limits::GROUP_BRICKS_MAX;
use brick_wire::{
    BlockRange, BrickIndex, BrickSet, Generation, Header, Opcode, ShardIndex, Status, Timestamp,
};

use super::Group;
use super::admit::{Kind, OperationKey};
use super::group::Phase;
use super::interface::{Action, GroupError, Output};
use super::pending::Purpose;

/// Bits are cleaned at least this often while there are writes: what a brick that dies had seen since is
/// compared when it comes back.
const CLEAN_INTERVAL: Duration = Duration::from_secs(2);

/// What the group remembers about flushes.
#[derive(Debug)]
pub(super) struct FlushState {
    /// Stamped on writes; the first is 1, below are bits of earlier sessions.
    pub(super) generation: Generation,
    /// The closed record may be written: nothing is in flight and everything is flushed.
    pub(super) may_close: bool,
    /// Writes completed, and how many of those the last good flush covered.
    completed_writes: u64,
    flushed_writes: u64,
    /// Our predecessor didn't close: what it completed and what recovery copied may be unflushed.
    inherited: bool,
    /// There may be bits to clean.
    stale_bits: bool,
    last_clean: Timestamp,
    /// A flush that nobody asked for is under way.
    background: bool,
    /// The last copies failed a flush, and none has succeeded since.
    failed: bool,
    /// A copy of S that restarted counts all its bits as older than this session. Some are of writes that
    /// are still under way, so nothing is cleaned below the generation of that moment.
    clean_from: Generation,
}

/// A flush under way.
#[derive(Debug, Default)]
pub(super) struct FlushOperation {
    /// Set when it is first sent.
    covers: Option<Covers>,
    /// Answers outstanding per brick, one for each core.
    outstanding: [u16; GROUP_BRICKS_MAX],
    sent: BrickSet,
    acknowledged: BrickSet,
    failed: BrickSet,
    /// A core answered that it was at another epoch: to be sent again.
    spoiled: BrickSet,
    background: bool,
}

#[derive(Clone, Copy, Debug)]
struct Covers {
    writes: u64,
    /// Every write and pull of this generation or below was completed before.
    boundary: Generation,
    /// No copy of S was known to differ: what made it equal later was not flushed.
    equal: bool,
}

impl FlushOperation {
    /// Whether one of `bricks` refused it.
    pub(super) fn has_failed_on(&self, bricks: BrickSet) -> bool {
        !self.failed.intersection(bricks).is_empty()
    }
}

impl FlushState {
    pub(super) fn new(now: Timestamp) -> FlushState {
        FlushState {
            generation: Generation(1),
            may_close: false,
            completed_writes: 0,
            flushed_writes: 0,
            inherited: true,
            stale_bits: true,
            last_clean: now,
            background: false,
            failed: false,
            clean_from: Generation(0),
        }
    }

    /// A brick is back in another life: the bits that it kept count as older than this session.
    pub(super) fn note_restarted(&mut self) {
        self.clean_from = self.generation;
    }

    /// Whether a flush failed on every copy: another start of a brick may have made it forget that.
    pub(super) fn has_failed(&self) -> bool {
        self.failed
    }

    /// A write completed, or a pull wrote into a copy of S: that has to be flushed.
    pub(super) fn note_write_completed(&mut self) {
        self.completed_writes += 1;
        self.stale_bits = true;
    }

    /// A brick entered S, or came back to the epoch after a CLEAN that it may have missed: its bits may be cleaned.
    pub(super) fn note_bits_left(&mut self) {
        self.stale_bits = true;
    }

    /// Whether completed writes may be lost by a power loss.
    pub(super) fn has_unflushed(&self) -> bool {
        self.inherited || self.completed_writes > self.flushed_writes
    }

    /// The record that this session took was closed, and so everything before flushed; or not.
    pub(super) fn note_predecessor(&mut self, closed: bool) {
        self.inherited = !closed;
    }

    /// When bits should be cleaned, if they can be; `None` if there are none, or a flush for that is under way.
    pub(super) fn clean_at(&self) -> Option<Timestamp> {
        (self.stale_bits && !self.background).then(|| self.last_clean + CLEAN_INTERVAL)
    }

    /// Whether our predecessor left unflushed writes, or a recovery made copies, that no flush has covered.
    pub(super) fn has_inherited(&self) -> bool {
        self.inherited
    }
}

impl Group {
    /// Finishes what is under way, flushes, and gives the image back. Answered by [`Action::Closed`].
    pub fn handle_close(&mut self, now: Timestamp) {
        self.now = now;
        match &self.phase {
            Phase::Serving => {
                for target in self.heal_targets().iter() {
                    self.stop_heal(target);
                }
                self.phase = Phase::Closing;
                self.forget_repairs();
                // Pulls within S that wait end now.
                self.drive_all();
            }
            Phase::Ended(error) => {
                let result = if *error == GroupError::Closed { Ok(()) } else { Err(error.clone()) };
                self.actions.push_back(Action::Closed(result));
            }
            Phase::Closing => {}
            Phase::PreVote(_) | Phase::Opening | Phase::Recovering => {
                self.end(GroupError::Closed);
                self.actions.push_back(Action::Closed(Ok(())));
            }
        }
        self.progress();
    }

    fn flush_mut(&mut self, key: OperationKey) -> Option<&mut FlushOperation> {
        match &mut self.operations.get_mut(&key)?.kind {
            Kind::Flush(flush) => Some(flush),
            _ => None,
        }
    }

    pub(super) fn drive_flush(&mut self, key: OperationKey) {
        if self.may_send() {
            let covers = self.flush_mut(key).expect("driven as a flush").covers;
            let covers = covers.unwrap_or_else(|| self.start_flush());
            let targets = self.required().intersection(self.ready());
            let flush = self.flush_mut(key).expect("driven as a flush");
            flush.covers = Some(covers);
            let targets = targets.difference(flush.sent.union(flush.failed));
            flush.sent = flush.sent.union(targets);
            for brick in targets.iter() {
                let header = self.data_header(Opcode::Flush);
                for core in self.brick(brick).cores() {
                    self.send(brick, core, header, Purpose::Flush(key));
                    self.flush_mut(key).expect("driven as a flush").outstanding[usize::from(brick.0)] += 1;
                }
            }
        }
        self.settle_flush(key);
    }

    /// Writes sent from now on belong to the next generation.
    fn start_flush(&mut self) -> Covers {
        // So that the arbiter's answers are there when the flush is done, and CLEAN isn't held up by them.
        self.tell_all();
        let in_flight = self.operations.values().filter_map(|operation| match &operation.kind {
            Kind::Write(write) => write.generation(),
            Kind::Pull(pull) => pull.generation(),
            _ => None,
        });
        let current = self.flush.generation.0;
        let boundary = in_flight.map(|generation| generation.0 - 1).min().unwrap_or(current);
        // At the end of the numbers (after years) writes share the last generation, and it is never cleaned.
        let boundary = boundary.min(u32::MAX - 1);
        self.flush.generation.0 = current.saturating_add(1);
        let equal = self.suspect.is_empty();
        Covers { writes: self.flush.completed_writes, boundary: Generation(boundary), equal }
    }

    pub(super) fn handle_flushed(&mut self, brick: BrickIndex, key: OperationKey, reply: Header) {
        let Some(flush) = self.flush_mut(key) else { return };
        flush.outstanding[usize::from(brick.0)] -= 1;
        match reply.status {
            Status::Ok => {}
            Status::StaleEpoch | Status::AheadEpoch => flush.spoiled.insert(brick),
            _ => flush.failed.insert(brick),
        }
        if flush.outstanding[usize::from(brick.0)] == 0 && !flush.failed.contains(brick) {
            if flush.spoiled.contains(brick) {
                flush.sent.remove(brick);
                flush.spoiled.remove(brick);
            } else {
                flush.acknowledged.insert(brick);
            }
        }
        if matches!(reply.status, Status::StaleEpoch | Status::AheadEpoch) {
            self.note_wrong_epoch(brick, reply);
        }
        self.drive(key);
    }

    pub(super) fn undo_flush(&mut self, brick: BrickIndex, key: OperationKey) {
        if let Some(flush) = self.flush_mut(key) {
            flush.outstanding[usize::from(brick.0)] = 0;
            flush.sent.remove(brick);
            flush.spoiled.remove(brick);
        }
    }

    fn settle_flush(&mut self, key: OperationKey) {
        let required = self.required();
        let Some(flush) = self.flush_mut(key) else { return };
        let (acknowledged, failed, background) = (flush.acknowledged, flush.failed, flush.background);
        let covers = flush.covers;
        if !required.is_subset_of(acknowledged.union(failed)) {
            return;
        }
        let failed = failed.intersection(required);
        let in_sync = self.in_sync();
        if failed.is_empty() {
            let covers = covers.expect("acknowledged flushes were sent");
            self.flush.flushed_writes = self.flush.flushed_writes.max(covers.writes);
            self.flush.inherited = false;
            self.flush.background &= !background;
            self.flush.failed = false;
            // What a recovery made equal is so for good; but one that is to leave S may have crashed since it answered.
            self.continuous = self.continuous.union(in_sync.difference(self.dropping));
            if covers.equal {
                self.clean(acknowledged, covers.boundary);
            }
            self.finish(key, Ok(Output::Done));
        } else if in_sync.is_subset_of(failed) {
            self.fail_refused_flush(key);
        } else {
            for brick in failed.iter() {
                self.dropping.insert(brick);
                self.postpone_heal(brick);
            }
        }
    }

    /// The last copies refuse; a second flush that says OK would prove nothing (rule I7).
    pub(super) fn fail_refused_flush(&mut self, key: OperationKey) {
        let Some(flush) = self.flush_mut(key) else { return };
        let background = flush.background;
        self.flush.background &= !background;
        self.flush.last_clean = self.now;
        self.flush.failed = true;
        self.finish(key, Err(GroupError::Io));
        if matches!(self.phase, Phase::Closing) {
            self.end(GroupError::Io);
        }
    }

    /// Lets the bricks forget bits of blocks that are equal and durable everywhere.
    fn clean(&mut self, flushed: BrickSet, boundary: Generation) {
        let data = self.config.data_bricks();
        let in_sync = self.in_sync();
        self.flush.last_clean = self.now;
        let on_time = self.on_time();
        let (late, boundary) = (on_time < boundary, boundary.min(on_time));
        if boundary < self.flush.clean_from {
            return;
        }
        let settled = self.change.is_none() && self.dropping.is_empty() && self.suspect.is_empty();
        if !settled || in_sync != data || !data.is_subset_of(flushed) || !self.all_vouch() {
            return;
        }
        self.flush.stale_bits = late || self.holds_boundary() || self.flush.has_unflushed();
        let mut header = self.data_header(Opcode::Clean);
        header.generation = boundary;
        for brick in self.ready().iter() {
            for core in self.brick(brick).cores() {
                self.send(brick, core, header, Purpose::Clean);
            }
        }
    }

    /// Whether something is under way that kept the last flush from cleaning all bits.
    fn holds_boundary(&self) -> bool {
        let holds = |kind: &Kind| match kind {
            Kind::Write(_) => true,
            Kind::Pull(pull) => pull.generation().is_some(),
            _ => false,
        };
        self.operations.values().any(|operation| holds(&operation.kind))
    }

    /// Starts flushes that nobody asked for: to clean bits in time, and before closing.
    pub(super) fn progress_flush(&mut self) {
        if self.change.is_some() {
            return;
        }
        match self.phase {
            Phase::Serving if self.clean_due().is_some_and(|due| self.now >= due) => {
                self.flush_in_background();
            }
            // A closed record says that nobody else may be served: so not before the lease was waited out.
            Phase::Closing
                if self.operations.is_empty()
                    && !self.flush.may_close
                    && !self.is_cleaning()
                    && !self.waits_for_arbiter()
                    && self.now >= self.serve_not_before =>
            {
                if self.flush.has_unflushed() || (self.flush.stale_bits && self.can_clean()) {
                    self.flush_in_background();
                } else {
                    self.flush.may_close = true;
                    self.begin_change();
                }
            }
            _ => {}
        }
    }

    /// When bits should be cleaned; `None` if there are none, or they can't be.
    pub(super) fn clean_due(&self) -> Option<Timestamp> {
        let serving = matches!(self.phase, Phase::Serving);
        self.flush.clean_at().filter(|_| serving && self.can_clean())
    }

    /// Whether a flush now would let bits be cleaned.
    fn can_clean(&self) -> bool {
        let in_sync = self.in_sync();
        in_sync == self.config.data_bricks()
            && in_sync.is_subset_of(self.ready())
            && self.suspect.is_empty()
            && self.all_vouch()
    }

    /// Whether a brick hasn't answered a clean yet: the closed record's prepare would overtake it on the
    /// other cores, and its bits would stay.
    fn is_cleaning(&self) -> bool {
        let cleaning = |brick| self.pending.any(brick, |purpose| *purpose == Purpose::Clean);
        self.linked().iter().any(cleaning)
    }

    fn flush_in_background(&mut self) {
        self.flush.background = true;
        let flush = FlushOperation { background: true, ..FlushOperation::default() };
        self.admit(None, Kind::Flush(flush), ShardIndex(0), BlockRange::EMPTY);
    }
}
