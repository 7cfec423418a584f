//! Changing the epoch record: prepare and accept on a quorum (R1), for opening, dropping, joining, closing.
//!
//! While a change is under way no new data request is sent, and nothing completes that isn't acknowledged
//! by old S and proposed S together (I3): `required` holds both. Only when the accept is known to be
//! decided does the new S count (I4). A change that can't be decided is repeated under a higher ballot,
//! from whatever a quorum then says was accepted, so an outcome that stayed unknown is found out first.

use std::time::Duration;

use brick_wire::cursor::Body;
use brick_wire::decode::Frame;
use brick_wire::record::{EpochRecord, Member, RecordKind};
use brick_wire::{
    BrickIndex, BrickSet, CoreIndex, Epoch, Flags, OperationUuid, SessionId, Status, Timestamp,
};

use super::Group;
use super::catch_up::{accept_frame, is_older, prepare_frame};
use super::group::Phase;
use super::interface::{Action, GroupError};
use super::open::{SETTLE, decode_record};
use super::pending::Purpose;

/// Pause before a refused ballot is tried again, higher; grows with the number of attempts.
const RETRY_PAUSE: Duration = Duration::from_millis(20);
/// How long a holder that meets a foreign promise waits before it overtakes it: who promised for a forced
/// takeover is about to accept, and two sessions that answer each other at once would go on for ever.
pub(super) const CONTEST_PAUSE: Duration = Duration::from_millis(100);
/// The pause grows up to this many times [`RETRY_PAUSE`].
const RETRY_FACTOR_MAX: u32 = 32;
/// How much longer a session that only heals waits before it overtakes a foreign promise. Most likely a client opens
/// the image, whose vote may wait [`SETTLE`] for a slow brick: it is to win at its first attempt.
const YIELD_PAUSE: Duration = Duration::from_millis(700);

const _: () = assert!(YIELD_PAUSE.as_millis() > 2 * SETTLE.as_millis(), "a vote and its accept");

/// A change under way.
#[derive(Debug)]
pub(super) struct Change {
    ballot: Epoch,
    stage: Stage,
    started_at: Timestamp,
    attempts: u32,
}

#[derive(Debug)]
enum Stage {
    /// Collecting promises, and the record accepted under the highest ballot.
    Preparing { promised: BrickSet, best: Option<(Epoch, EpochRecord)>, held: Held },
    /// Collecting accepts of a record that follows the one accepted at `base`.
    Accepting { base: Epoch, record: EpochRecord, accepted: BrickSet },
    /// A ballot was refused; pausing.
    Backoff { until: Timestamp },
}

/// Bricks that keep us out because another session's lease runs there.
#[derive(Clone, Copy, Debug, Default)]
struct Held {
    bricks: BrickSet,
    holder: SessionId,
    lease_left_ms: u32,
}

impl Group {
    /// Starts a change, unless one is under way: that one looks at `dropping` and `joining` again when it
    /// is decided.
    pub(super) fn begin_change(&mut self) {
        if self.change.is_none() && !self.is_ended() {
            self.prepare(0);
        }
    }

    fn prepare(&mut self, attempts: u32) {
        self.counter_seen += 1;
        self.contested = None;
        let ballot = Epoch { counter: self.counter_seen, session: self.config.session };
        self.change = Some(Change {
            ballot,
            stage: Stage::Preparing { promised: BrickSet::EMPTY, best: None, held: Held::default() },
            started_at: self.now,
            attempts,
        });
        for brick in self.linked().iter() {
            self.send_prepare(brick, ballot);
        }
    }

    fn send_prepare(&mut self, brick: BrickIndex, ballot: Epoch) {
        // Once we hold the image, a brick that still keeps a lease for a predecessor is merely behind.
        let force = self.config.takeover || self.record.is_some();
        let heals = if self.config.purpose.heals() { Flags::HEAL } else { Flags::NONE };
        let flags = if force { heals.with(Flags::FORCE) } else { heals };
        let frame = prepare_frame(self.config.image, ballot, flags);
        self.send_frame(brick, CoreIndex(0), frame, Purpose::Prepare(ballot));
    }

    /// A brick whose link came up in the middle takes part.
    pub(super) fn join_change(&mut self, brick: BrickIndex) {
        let change = self.change.as_ref().expect("asked for while a change is under way");
        if !matches!(change.stage, Stage::Backoff { .. }) {
            self.send_prepare(brick, change.ballot);
        }
    }

    /// A link broke. What the brick promised or accepted counts no more until it says so again: it may come back
    /// without its registers (rule R2).
    pub(super) fn forget_votes(&mut self, brick: BrickIndex) {
        if let Phase::PreVote(vote) = &mut self.phase {
            vote.forget(brick);
        }
        match self.change.as_mut().map(|change| &mut change.stage) {
            Some(Stage::Preparing { promised, .. }) => promised.remove(brick),
            Some(Stage::Accepting { accepted, .. }) => accepted.remove(brick),
            Some(Stage::Backoff { .. }) | None => {}
        }
    }

    pub(super) fn handle_promise(&mut self, brick: BrickIndex, ballot: Epoch, reply: &Frame) {
        let Some(change) = &self.change else {
            // Decided without it: the promise alone doesn't make it useful.
            return self.catch_up(brick);
        };
        if change.ballot != ballot {
            return;
        }
        match reply.header.status {
            Status::Ok => {}
            Status::LeaseHeld => return self.note_held(brick, reply),
            Status::BallotRefused => return self.note_refusal(reply),
            _ => return self.reset_link(brick, "the brick can't promise"),
        }
        let Some(state) = self.read_state(brick, reply) else { return };
        let Ok(record) = decode_record(&state) else {
            return self.reset_link(brick, "its epoch record can't be read");
        };
        if let Some(Err(error)) = record.as_ref().map(|record| self.check_members(record)) {
            return self.end(error);
        }
        let change = self.change.as_mut().expect("checked above");
        match &mut change.stage {
            Stage::Preparing { promised, best, .. } => {
                promised.insert(brick);
                if let Some(record) = record
                    && best.as_ref().is_none_or(|(epoch, _)| *epoch < state.accepted)
                {
                    *best = Some((state.accepted, record));
                }
            }
            Stage::Accepting { base, .. } if state.accepted > *base && state.accepted != ballot => {
                // It promised before, lost its registers, and learned what was decided meanwhile without that
                // promise: our record doesn't follow the newest one.
                let attempts = change.attempts + 1;
                self.prepare(attempts);
            }
            Stage::Accepting { record, .. } => {
                let record = record.clone();
                self.accept_late(brick, ballot, &record);
            }
            Stage::Backoff { .. } => {}
        }
    }

    /// A promise came after the record was proposed to the others.
    fn accept_late(&mut self, brick: BrickIndex, ballot: Epoch, record: &EpochRecord) {
        if self.is_rolled_back(brick, record) {
            return self.declare_blank(brick);
        }
        let frame = accept_frame(self.config.image, ballot, record.to_bytes());
        self.send_frame(brick, CoreIndex(0), frame, Purpose::Accept(ballot));
    }

    pub(super) fn handle_accepted(&mut self, brick: BrickIndex, ballot: Epoch, reply: &Frame) {
        match reply.header.status {
            Status::Ok => {}
            Status::BallotRefused => return self.note_refusal(reply),
            _ => return self.reset_link(brick, "the brick can't accept"),
        }
        if let Some(change) = &mut self.change
            && change.ballot == ballot
        {
            if let Stage::Accepting { accepted, .. } = &mut change.stage {
                accepted.insert(brick);
            }
        } else if self.is_current(ballot) {
            // Decided before this one answered.
            self.note_at_epoch(brick);
        }
    }

    /// Somebody promised higher. If another session's record was accepted we are fenced for good; a bare
    /// promise is overtaken by preparing again, higher (rule R4).
    pub(super) fn note_refusal(&mut self, reply: &Frame) {
        let Ok(state) = brick_wire::register::RegisterState::from_bytes(&reply.aux) else { return };
        self.counter_seen = self.counter_seen.max(state.promised.counter);
        let theirs = decode_record(&state).ok().flatten();
        if let (Some(ours), Some(theirs)) = (&self.record, &theirs)
            && theirs.epoch > ours.epoch
            && theirs.epoch.session != self.config.session
        {
            return self.end(GroupError::Fenced { by: theirs.epoch });
        }
        let own = state.promised.session == self.config.session;
        let yielding = self.yield_pause();
        match &mut self.change {
            // Our own next ballot overtook what was refused.
            Some(change) if own && state.promised <= change.ballot => {}
            Some(change) => {
                // Sessions pause differently, so that two of them don't chase each other for ever.
                let jitter = 1 + self.config.session.0 % 7;
                let factor = (change.attempts + 1).min(RETRY_FACTOR_MAX);
                let until = self.now + yielding + RETRY_PAUSE * factor * jitter as u32 / 4;
                change.stage = Stage::Backoff { until };
            }
            None => self.contest(CONTEST_PAUSE),
        }
    }

    fn yield_pause(&self) -> Duration {
        if self.config.purpose.heals() { YIELD_PAUSE } else { Duration::ZERO }
    }

    /// Overtakes a foreign promise, after a pause.
    pub(super) fn contest(&mut self, pause: Duration) {
        self.decide_anew(self.now + pause + self.yield_pause());
    }

    /// Has the record decided anew, under a higher ballot.
    pub(super) fn decide_anew(&mut self, at: Timestamp) {
        self.contested = Some(self.contested.map_or(at, |earlier| earlier.min(at)));
    }

    /// A brick keeps us out. That matters only if no quorum promises without it.
    fn note_held(&mut self, brick: BrickIndex, reply: &Frame) {
        let Some(state) = self.read_state(brick, reply) else { return };
        let holder = decode_record(&state).ok().flatten().map(|record| record.holder).unwrap_or_default();
        if let Some(Change { stage: Stage::Preparing { held, .. }, .. }) = &mut self.change {
            // The shortest, as before the vote: a brick that just started says more than it knows.
            let known = if held.bricks.is_empty() { u32::MAX } else { held.lease_left_ms };
            held.lease_left_ms = known.min(state.lease_left_ms);
            held.bricks.insert(brick);
            held.holder = holder;
        }
    }

    /// Takes the change a step further, when the step's condition holds.
    pub(super) fn progress_change(&mut self) {
        let serving = matches!(self.phase, Phase::Recovering | Phase::Serving | Phase::Closing);
        let contested = self.contested.is_some_and(|at| self.now >= at);
        if self.change.is_none() && contested && serving && self.has_quorum_with(self.linked()) {
            self.begin_change();
        }
        let Some(change) = &self.change else { return };
        match &change.stage {
            Stage::Backoff { until } if self.now >= *until => {
                let attempts = change.attempts + 1;
                self.prepare(attempts);
            }
            Stage::Backoff { .. } => {}
            Stage::Preparing { .. } => self.progress_preparing(),
            Stage::Accepting { .. } => self.progress_accepting(),
        }
    }

    fn progress_preparing(&mut self) {
        let Some(Change { ballot, stage: Stage::Preparing { promised, best, held }, started_at, attempts }) =
            &self.change
        else {
            return;
        };
        let (ballot, held, started_at, attempts) = (*ballot, *held, *started_at, *attempts);
        if !held.bricks.is_empty() && !self.config.is_quorum(self.linked().difference(held.bricks)) {
            let Held { holder, lease_left_ms, .. } = held;
            return self.end(GroupError::Held { holder, lease_left_ms });
        }
        let Some((base_epoch, base)) = best.clone() else {
            if self.config.is_quorum(*promised) {
                self.end(GroupError::NoRecord);
            }
            return;
        };
        // A brick that forgot what the record knows it promised must not be counted (rule R2).
        let rolled_back: BrickSet =
            promised.iter().filter(|brick| self.is_rolled_back(*brick, &base)).collect();
        let promised = promised.difference(rolled_back).intersection(self.linked());
        for brick in rolled_back.intersection(self.linked()).iter() {
            self.declare_blank(brick);
        }
        let outstanding = self.linked().difference(promised).difference(held.bricks);
        if !outstanding.is_empty() && self.now.since(started_at) < SETTLE {
            return;
        }
        if !self.config.is_quorum(promised) {
            return;
        }
        let record = match self.next_record(&base, ballot, promised) {
            Ok(record) => record,
            Err(error) => return self.end(error),
        };
        if record.in_sync.intersection(promised).is_empty() {
            if !record.in_sync.intersection(held.bricks).is_empty() {
                // The only good copies missed that the lease they keep is void. It runs out.
                let Held { holder, lease_left_ms, .. } = held;
                self.end(GroupError::Held { holder, lease_left_ms });
            }
            return;
        }
        if self.config.takeover && matches!(self.phase, Phase::Opening) {
            self.wait_out_lease(&base, promised);
        }
        if matches!(self.phase, Phase::Opening) {
            self.recovered_from = base.members.iter().map(|member| member.incarnation).collect();
            self.flush.note_predecessor(base.kind == RecordKind::Closed);
        }
        let frame = accept_frame(self.config.image, ballot, record.to_bytes());
        let stage = Stage::Accepting { base: base_epoch, record, accepted: BrickSet::EMPTY };
        self.change = Some(Change { ballot, stage, started_at, attempts });
        for brick in promised.iter() {
            self.send_frame(brick, CoreIndex(0), frame.clone(), Purpose::Accept(ballot));
        }
    }

    /// What this session wants the record to say, given the one that a quorum holds.
    fn next_record(
        &self,
        base: &EpochRecord,
        ballot: Epoch,
        promised: BrickSet,
    ) -> Result<EpochRecord, GroupError> {
        let mut record = match self.phase {
            Phase::PreVote(_) | Phase::Opening => self.first_record(base, promised)?,
            _ if base.epoch.session != self.config.session => {
                return Err(GroupError::Fenced { by: base.epoch });
            }
            _ => self.later_record(base),
        };
        record.epoch = ballot;
        record.operation = operation_of(ballot);
        for (index, member) in record.members.iter_mut().enumerate() {
            let brick = BrickIndex(index as u8);
            // Who lost writes with its boot is known by the boot that the record names: that stays until
            // the brick is equal again or leaves S, or our successor would take it for a good copy.
            let unequal = record.kind.is_recovering() || self.brick(brick).lost_memory;
            // Nor does an older copy's life ever replace the one it forgot: nobody could tell any more.
            if let Some(seen) = self.brick(brick).seen
                && !is_older(seen, member.incarnation)
                && !self.is_retired(brick, seen)
                && !(unequal && record.in_sync.contains(brick))
            {
                *member = Member { incarnation: seen, ..*member };
            }
        }
        Ok(record)
    }

    fn later_record(&self, base: &EpochRecord) -> EpochRecord {
        let mut record = base.clone();
        let keep = base.in_sync.difference(self.dropping);
        if !keep.is_empty() {
            record.in_sync = keep;
        }
        if let Some(joining) = self.joining
            && joining.unflushed_cores == 0
            && !self.dropping.contains(joining.brick)
        {
            record.in_sync.insert(joining.brick);
        }
        (record.kind, record.holder) = match self.phase {
            Phase::Recovering if !self.recovery_is_over() => (self.recovering_kind(), self.config.session),
            Phase::Closing if self.flush.may_close => {
                if !self.suspect.is_empty() {
                    // Copies that may differ can't both be good once nobody remembers where (rule I9).
                    let staying = record.in_sync.intersection(self.linked()).first();
                    record.in_sync = staying.map_or(record.in_sync, BrickSet::only);
                }
                (RecordKind::Closed, SessionId::NONE)
            }
            _ => (self.serving_kind(), self.config.session),
        };
        record
    }

    fn progress_accepting(&mut self) {
        let Some(Change { ballot, stage: Stage::Accepting { record, accepted, .. }, started_at, .. }) =
            &self.change
        else {
            return;
        };
        if !self.config.is_quorum(*accepted) || record.in_sync.intersection(*accepted).is_empty() {
            return;
        }
        let (ballot, record, accepted, started_at) = (*ballot, record.clone(), *accepted, *started_at);
        self.change = None;
        for brick in accepted.intersection(self.linked()).iter() {
            let state = self.brick_mut(brick);
            state.accepted = ballot;
            // The brick counts an accept as a renewal; it can't have got it before we began.
            state.renewed_at = Some(started_at);
        }
        self.decided(record);
    }

    /// The record is decided: the old S is history.
    fn decided(&mut self, record: EpochRecord) {
        let left = self.record.as_ref().map_or(BrickSet::EMPTY, |old| old.in_sync).difference(record.in_sync);
        let mut left_out = None;
        if let Some(joining) = self.joining {
            if record.in_sync.contains(joining.brick) {
                self.finish_join(joining.brick);
            } else if self.dropping.contains(joining.brick) {
                self.joining = None;
                left_out = Some(joining.brick);
            }
        }
        self.dropping = self.dropping.intersection(record.in_sync);
        self.suspect_left = self.suspect_left.intersection(record.in_sync);
        let closed = record.kind == RecordKind::Closed;
        let outside = self.bricks_where(|brick| brick.lost_memory).difference(record.in_sync);
        outside.iter().for_each(|brick| self.brick_mut(brick).lost_memory = false);
        self.record = Some(record);
        // They may be needed now, and have room.
        self.forget_refusals(self.config.arbiters());
        self.expel_old_copies();
        if let Some(brick) = left_out {
            self.stop_heal(brick);
        }
        for brick in left.iter() {
            // What it still has in flight must be drained before it gets anything new (rule I13).
            self.reset_link(brick, "it left the in-sync set");
            self.stop_heals_from(brick);
        }
        match self.phase {
            Phase::Opening => self.after_opening(),
            Phase::Recovering => self.after_recovery_step(),
            Phase::Closing if closed => {
                self.phase = Phase::Ended(GroupError::Closed);
                self.actions.push_back(Action::Closed(Ok(())));
                return;
            }
            _ => {}
        }
        self.catch_up_all();
        self.drive_all();
    }

    fn after_recovery_step(&mut self) {
        let record = self.record.as_ref().expect("just decided");
        if !record.kind.is_recovering() {
            self.start_serving();
        }
    }

    /// Moves the group to an epoch without the bricks of S that failed (I4), if somebody waits for them
    /// and a quorum with a good copy is there to decide it. Otherwise everybody waits.
    pub(super) fn consider_drops(&mut self) {
        if self.change.is_some() || !matches!(self.phase, Phase::Recovering | Phase::Serving | Phase::Closing)
        {
            return;
        }
        let Some(record) = &self.record else { return };
        let in_sync = record.in_sync;
        if let Some(joining) = self.joining
            && self.dropping.contains(joining.brick)
            && !in_sync.contains(joining.brick)
        {
            // No change is under way, so it was never proposed, or a decided record left it out.
            self.joining = None;
            self.dropping.remove(joining.brick);
            self.brick_mut(joining.brick).lost_memory = false;
            self.stop_heal(joining.brick);
            self.drive_all();
            return self.consider_drops();
        }
        if in_sync.is_subset_of(self.dropping) && !matches!(self.phase, Phase::Recovering) {
            return self.refuse_everywhere();
        }
        let mut dropping = self.dropping;
        if self.somebody_waits() {
            let required = self.required();
            dropping = dropping.union(required.difference(self.linked()));
        }
        let keep = in_sync.difference(dropping).intersection(self.linked()).intersection(self.trusted());
        let leaving = dropping.intersection(in_sync);
        if let Some(joining) = self.joining.filter(|joining| dropping.contains(joining.brick)) {
            // Its link broke before anybody proposed it.
            self.dropping.insert(joining.brick);
            return self.consider_drops();
        }
        if leaving.is_empty() || keep.is_empty() || !self.has_quorum_with(self.linked()) {
            return;
        }
        self.dropping = dropping;
        self.begin_change();
    }

    /// Bricks that may be the last of S: not those that lost writes with their boot and aren't equal to one
    /// that kept them (rule I12).
    pub(super) fn trusted(&self) -> BrickSet {
        let all = self.bricks_where(|brick| !brick.lost_memory);
        let Some(record) = self.record.as_ref().filter(|_| matches!(self.phase, Phase::Recovering)) else {
            return all;
        };
        let recorded = |brick: BrickIndex| self.recovered_from.get(usize::from(brick.0));
        let same_boot = |brick: &BrickIndex| {
            self.brick(*brick).seen.map(|seen| seen.boot) == recorded(*brick).map(|life| life.boot)
        };
        let kept: BrickSet = record.in_sync.iter().filter(same_boot).collect();
        if kept.is_empty() { all } else { all.intersection(kept.union(self.recovered)) }
    }

    /// Bricks whose acknowledgement a write needs: S, and a brick that may have entered it (rule I3).
    pub(super) fn required(&self) -> BrickSet {
        let in_sync = self.in_sync();
        self.joining.map_or(in_sync, |joining| in_sync.with(joining.brick))
    }

    pub(super) fn has_quorum_with(&self, bricks: BrickSet) -> bool {
        let in_sync = self.in_sync();
        self.config.is_quorum(bricks) && !in_sync.intersection(bricks).is_empty()
    }

    /// When the change needs the clock.
    pub(super) fn change_timeout(&self) -> Option<Timestamp> {
        match &self.change.as_ref()?.stage {
            Stage::Backoff { until } => Some(*until),
            Stage::Preparing { .. } => {
                let settled = self.change.as_ref()?.started_at + SETTLE;
                (settled > self.now).then_some(settled)
            }
            Stage::Accepting { .. } => None,
        }
    }

    /// A forced takeover waits out the lease of every data brick that it could not fence (rule I8). Not of S alone: who
    /// isn't in S any more may have been left out a moment ago, by another takeover that hasn't waited yet, and serve
    /// that one's predecessor.
    fn wait_out_lease(&mut self, base: &EpochRecord, promised: BrickSet) {
        if self.config.data_bricks().is_subset_of(promised) || base.kind == RecordKind::Closed {
            return;
        }
        let lease = self.bricks.iter().filter_map(|brick| brick.link).map(|link| link.lease).max();
        self.serve_not_before = self.now + lease.unwrap_or_default();
    }
}

/// The id of the change that a ballot makes: a ballot is never used for two records, so it names one.
fn operation_of(ballot: Epoch) -> OperationUuid {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&ballot.counter.to_be_bytes());
    bytes[8..].copy_from_slice(&ballot.session.0.to_be_bytes());
    OperationUuid::from_bytes(bytes)
}
