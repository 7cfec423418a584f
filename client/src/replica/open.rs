//! Opening an image: ask who would promise (R4), take the record, recover what a dead holder left.
//!
//! A client that can't win must change nothing: a prepare fences the holder, so it is sent only when a
//! majority with an in-sync data brick answered and no lease of another session runs.

use std::time::Duration;

use brick_wire::cursor::Body;
use brick_wire::decode::Frame;
use brick_wire::record::{EpochRecord, RecordKind};
use brick_wire::register::{RegisterKey, RegisterState};
use brick_wire::{BrickIndex, BrickSet, CoreIndex, Header, Opcode, RequestId, Status, Timestamp};
use bytes::Bytes;

use super::Group;
use super::group::Phase;
use super::interface::{Action, GroupError, Purpose as OpenPurpose};
use super::pending::Purpose;
use super::report::{LATE, STANDSTILLS_MAX};

/// How long a vote waits for bricks that may still answer, once it has a quorum: a slow brick that is left
/// out of a recovery has to be healed afterwards.
pub(super) const SETTLE: Duration = Duration::from_millis(300);
/// A recovery that has to compare more than this many blocks serves from one copy meanwhile.
pub(super) const RECOVER_BLOCKS_MAX: u64 = 16 * 1024;

/// What the bricks said before the vote.
#[derive(Debug, Default)]
pub(super) struct PreVote {
    answered: BrickSet,
    best: Option<EpochRecord>,
    /// The newest record whose holder's lease runs, and the shortest time that it still runs on some brick: a
    /// brick that was restarted counts from its start, which says nothing about the holder.
    held: Option<(EpochRecord, u32)>,
}

impl PreVote {
    /// What the brick said before its link broke says nothing of what it knows when it is back: it is asked again.
    pub(super) fn forget(&mut self, brick: BrickIndex) {
        self.answered.remove(brick);
    }
}

impl Group {
    pub(super) fn send_pre_vote(&mut self, brick: BrickIndex) {
        let header = Header::request(Opcode::RegisterRead, RequestId(0));
        let key = RegisterKey::Epoch(self.config.image).to_bytes();
        self.send_frame(brick, CoreIndex(0), Frame::new(header, key, Bytes::new()), Purpose::PreVote);
    }

    pub(super) fn handle_pre_vote(&mut self, brick: BrickIndex, reply: &Frame) {
        let session = self.config.session;
        if reply.header.status != Status::Ok {
            return;
        }
        let Some(state) = self.read_state(brick, reply) else { return };
        let Ok(record) = decode_record(&state) else {
            return self.reset_link(brick, "its epoch record can't be read");
        };
        self.counter_seen = self.counter_seen.max(state.promised.counter);
        let Phase::PreVote(vote) = &mut self.phase else { return };
        vote.answered.insert(brick);
        let Some(record) = record else { return };
        if let Err(error) = self.check_members(&record) {
            return self.end(error);
        }
        let Phase::PreVote(vote) = &mut self.phase else { return };
        // A healer keeps out nobody but those who heal.
        let gives_way = record.kind.is_preemptible() && !self.config.purpose.heals();
        if state.lease_left_ms > 0 && record.holder != session && !gives_way {
            match &mut vote.held {
                Some((held, _)) if held.epoch > record.epoch => {}
                Some((held, left_ms)) if held.epoch == record.epoch => {
                    *left_ms = state.lease_left_ms.min(*left_ms);
                }
                held => *held = Some((record.clone(), state.lease_left_ms)),
            }
        }
        if vote.best.as_ref().is_none_or(|best| best.epoch < record.epoch) {
            vote.best = Some(record);
        }
    }

    /// S is a set of places in the group: elsewhere they would name other bricks, and a quorum might be another.
    pub(super) fn check_members(&self, record: &EpochRecord) -> Result<(), GroupError> {
        let (recorded, listed) = (&record.members, &self.config.bricks);
        let same = recorded.len() == listed.len()
            && recorded.iter().zip(listed).all(|(member, brick)| member.brick == brick.brick);
        if same {
            Ok(())
        } else {
            Err(GroupError::OtherGroup { recorded: recorded.len(), listed: listed.len() })
        }
    }

    /// Goes on to the vote when it can be won; gives up when it can't.
    pub(super) fn progress_open(&mut self) {
        self.resolve_lost_memory();
        if matches!(self.phase, Phase::Opening | Phase::Recovering) {
            return self.give_up_opening();
        }
        let Phase::PreVote(vote) = &self.phase else { return };
        let waited = self.now.since(self.opened_at);
        let everybody = self.bricks.iter().all(|brick| brick.attempted);
        let outstanding = self.linked().difference(vote.answered);
        let settled = (everybody && outstanding.is_empty()) || waited >= SETTLE;
        let answered = vote.answered.intersection(self.linked());
        let limit = self.config.brick_timeout;
        if !self.config.is_quorum(answered) {
            if is_over(self.now, &mut self.opened_at, &mut self.standstills, limit) {
                let error = self.no_quorum_error();
                self.end(error);
            }
            return;
        }
        let Some(best) = &vote.best else {
            if settled {
                self.end(GroupError::NoRecord);
            }
            return;
        };
        if self.good_copies(best, answered).is_empty() {
            if is_over(self.now, &mut self.opened_at, &mut self.standstills, limit) {
                let error = match self.config.purpose {
                    OpenPurpose::DeclareGood(brick) => {
                        GroupError::CannotDeclare { address: self.addresses(BrickSet::only(brick)) }
                    }
                    _ => GroupError::NoGoodCopy { in_sync: self.addresses(best.in_sync) },
                };
                self.end(error);
            }
            return;
        }
        // A brick that missed the last change may keep a lease that is void.
        let held = vote.held.as_ref().filter(|(record, _)| record.epoch >= best.epoch);
        if let (Some((record, lease_left_ms)), false) = (held, self.config.takeover) {
            let error = GroupError::Held { holder: record.holder, lease_left_ms: *lease_left_ms };
            return self.end(error);
        }
        if settled {
            self.phase = Phase::Opening;
            self.begin_change();
        }
    }

    /// Bricks went away after the vote: an open ends, it doesn't wait for ever.
    fn give_up_opening(&mut self) {
        let linked = self.linked();
        let trusted = linked.intersection(self.trusted());
        let good = self.record.as_ref().is_none_or(|record| !record.in_sync.intersection(trusted).is_empty());
        if self.config.is_quorum(linked) && good {
            self.stalled_since = None;
            return;
        }
        let since = self.stalled_since.get_or_insert(self.now);
        if is_over(self.now, since, &mut self.standstills, self.config.brick_timeout) {
            let error = self.stall_error();
            self.end(error);
        }
    }

    /// The first record of this session, from what a quorum promised (see Recovery in `REPLICATION.md`).
    pub(super) fn first_record(
        &self,
        base: &EpochRecord,
        promised: BrickSet,
    ) -> Result<EpochRecord, GroupError> {
        let mut record = base.clone();
        record.holder = self.config.session;
        record.kind = self.serving_kind();
        if let OpenPurpose::DeclareGood(brick) = self.config.purpose {
            if !self.good_copies(base, promised).contains(brick) {
                return Err(GroupError::CannotDeclare { address: self.addresses(BrickSet::only(brick)) });
            }
            record.in_sync = BrickSet::only(brick);
            return Ok(record);
        }
        if base.kind == RecordKind::Closed {
            // Nothing is to be done, and who isn't there stays in S until the first write. But not an older copy.
            let others = record.in_sync.difference(self.blank()).difference(self.retired_copies(base));
            record.in_sync = if others.is_empty() { record.in_sync } else { others };
            return Ok(record);
        }
        let reachable = base.in_sync.intersection(promised).difference(self.retired_copies(base));
        if self.good_copies(base, promised).is_empty() {
            return Err(GroupError::NoGoodCopy { in_sync: self.addresses(base.in_sync) });
        }
        record.in_sync = reachable;
        if reachable.count() > 1 {
            record.kind = self.recovering_kind();
        }
        Ok(record)
    }

    /// The bricks of S among `bricks` of which one may be taken as right. A brick on another boot than the
    /// record names has lost completed unflushed writes (rule I12): while a brick of S is away that may
    /// have kept them, it is no good copy. What the operator declares good is.
    fn good_copies(&self, base: &EpochRecord, bricks: BrickSet) -> BrickSet {
        if let OpenPurpose::DeclareGood(brick) = self.config.purpose {
            return BrickSet::only(brick).intersection(bricks).intersection(self.config.data_bricks());
        }
        // An older copy of itself hasn't kept them either.
        let candidates = base.in_sync.difference(self.blank()).difference(self.retired_copies(base));
        let reachable = candidates.intersection(bricks);
        if base.kind == RecordKind::Closed || reachable == candidates {
            return reachable;
        }
        let same_boot = |brick: &BrickIndex| {
            let recorded = base.members.get(usize::from(brick.0)).map(|member| member.incarnation.boot);
            self.brick(*brick).seen.map(|seen| seen.boot) == recorded
        };
        reachable.iter().filter(same_boot).collect()
    }

    pub(super) fn serving_kind(&self) -> RecordKind {
        match self.config.purpose {
            OpenPurpose::Client | OpenPurpose::DeclareGood(_) => RecordKind::Client,
            OpenPurpose::Heal => RecordKind::Heal,
        }
    }

    pub(super) fn recovering_kind(&self) -> RecordKind {
        if self.config.purpose.heals() { RecordKind::HealRecovering } else { RecordKind::Recovering }
    }

    /// The first record of this session was decided.
    pub(super) fn after_opening(&mut self) {
        let record = self.record.as_ref().expect("just decided");
        if record.kind.is_recovering() {
            self.phase = Phase::Recovering;
            self.catch_up_all();
            return;
        }
        self.start_serving();
    }

    pub(super) fn start_serving(&mut self) {
        let in_sync = self.record.as_ref().expect("just decided").in_sync;
        // What a recovery made equal may be unequal again after a loss of power, until it is flushed.
        self.continuous = if self.flush.has_inherited() { BrickSet::EMPTY } else { in_sync };
        self.phase = Phase::Serving;
        self.catch_up_all();
        self.actions.push_back(Action::Opened(Ok(())));
    }

    /// The copy that a recovery takes as right: one that it has made equal already; else one that kept
    /// running since the record was written if there is one, else one on the same boot, else any.
    pub(super) fn recovery_source(&self, members: BrickSet) -> Option<BrickIndex> {
        let record = self.record.as_ref()?;
        let preference = |brick: &BrickIndex| {
            let unequal = !self.recovered.contains(*brick);
            let recorded = self.recovered_from.get(usize::from(brick.0)).copied().unwrap_or_default();
            let age = match self.brick(*brick).seen {
                Some(seen) if seen == recorded => 0,
                Some(seen) if seen.boot == recorded.boot => 1,
                _ => 2,
            };
            (unequal, age)
        };
        record.in_sync.intersection(members).iter().min_by_key(preference)
    }

    pub(super) fn no_quorum_error(&self) -> GroupError {
        GroupError::NoQuorum { reachable: self.linked().count(), bricks: self.bricks.len() }
    }

    pub(super) fn addresses(&self, bricks: BrickSet) -> String {
        let addresses = bricks.iter().filter_map(|brick| self.config.bricks.get(usize::from(brick.0)));
        addresses.map(|brick| brick.address.as_str()).collect::<Vec<_>>().join(", ")
    }

    /// A register's state out of a reply; a peer that sends nonsense loses its link.
    pub(super) fn read_state(&mut self, brick: BrickIndex, reply: &Frame) -> Option<RegisterState> {
        match RegisterState::from_bytes(&reply.aux) {
            Ok(state) => Some(state),
            Err(_) => {
                self.reset_link(brick, "it sent a register state that can't be read");
                None
            }
        }
    }
}

/// Whether bricks had `limit` from `since` on. If we come late to see it (this process was stopped, or starved) they may have
/// had no chance to show themselves, and it begins anew, unless that was so too often.
fn is_over(now: Timestamp, since: &mut Timestamp, standstills: &mut u32, limit: Duration) -> bool {
    if now >= *since + limit + LATE && *standstills < STANDSTILLS_MAX {
        *standstills += 1;
        *since = now;
    }
    now >= *since + limit
}

/// The record in a register's state, if it holds one.
pub(super) fn decode_record(state: &RegisterState) -> Result<Option<EpochRecord>, GroupError> {
    if state.value.is_empty() {
        return Ok(None);
    }
    Ok(Some(EpochRecord::from_bytes(&state.value)?))
}
