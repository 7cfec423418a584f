//! The group: its state, and what every event does first.
//!
//! All decisions are functions of the events so far. Collections are ordered, so that a seed of the
//! simulator replays to the byte.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use brick_wire::decode::Frame;
use brick_wire::overlap::OverlapQueue;
use brick_wire::placement::{core_of, lane_of};
use brick_wire::record::EpochRecord;
use brick_wire::{
    BlockSet, BrickIndex, BrickSet, CoreIndex, Flags, Floors, Generation, Header, Opcode, ShardIndex, Status,
    Timestamp,
};
use bytes::Bytes;

use super::admit::{OperationKey, Operations};
use super::balance::ReadLoads;
use super::bricks::Brick;
use super::epoch::Change;
use super::flush::FlushState;
use super::interface::{Action, GroupConfig, GroupError, HANDLE, LinkInfo};
use super::open::PreVote;
use super::pace::Pace;
use super::pending::{PendingTable, Purpose};
use super::read::ParkedRead;
use super::repair::Repair;
use super::report::Counters;
use super::vouch::Vouch;

/// How far the session has come.
#[derive(Debug)]
pub(super) enum Phase {
    /// Asking who would promise (rule R4).
    PreVote(PreVote),
    /// Preparing and accepting the first record of this session.
    Opening,
    /// The recovering record is decided; copies are being made equal.
    Recovering,
    /// Reading and writing.
    Serving,
    /// Flushing, then deciding the closed record.
    Closing,
    /// Over, for good.
    Ended(GroupError),
}

/// One image in one group, as opened by one session. See the [module](super) for the calling contract.
#[derive(Debug)]
pub struct Group {
    pub(super) config: GroupConfig,
    pub(super) now: Timestamp,
    pub(super) phase: Phase,
    pub(super) bricks: Vec<Brick>,
    pub(super) pending: PendingTable,
    /// The record this session last got decided.
    pub(super) record: Option<EpochRecord>,
    pub(super) change: Option<Change>,
    /// Lives of bricks that don't count any more, as any brick has told (rule R2).
    pub(super) floors: Floors,
    /// The highest ballot counter seen anywhere.
    pub(super) counter_seen: u64,
    /// Members of S that have to leave it.
    pub(super) dropping: BrickSet,
    /// The brick that is about to enter S: completion needs it from its flush on (rule I10).
    pub(super) joining: Option<Joining>,
    /// Somebody else's promise stopped us: prepare again, higher, but not before this (rule R4): who
    /// promised may be about to accept.
    pub(super) contested: Option<Timestamp>,
    pub(super) operations: Operations,
    pub(super) operation_next: u64,
    pub(super) overlap: OverlapQueue<ShardIndex, OperationKey>,
    pub(super) flush: FlushState,
    /// Shards known to exist; `None` until the list is complete.
    pub(super) existing: Option<BTreeSet<ShardIndex>>,
    pub(super) existence_pages: u32,
    pub(super) existence_attempt: u32,
    pub(super) existing_next: BTreeSet<ShardIndex>,
    /// Bricks whose every write since they were equal to S came from this session: their own dirty bits
    /// add nothing to what S knows. A crash ends that.
    pub(super) continuous: BrickSet,
    /// Those that were, until they crashed: what they alone list can only have rotted.
    pub(super) crashed: BrickSet,
    /// Blocks that may differ within S after every copy refused a write (rule I9).
    pub(super) suspect: BTreeMap<ShardIndex, BlockSet>,
    /// Bricks that still have to pull the first of them.
    pub(super) suspect_left: BrickSet,
    pub(super) suspect_retry_at: Timestamp,
    /// Reads that wait for repairs.
    pub(super) parked_reads: Vec<ParkedRead>,
    /// Bad blocks in copies of S.
    pub(super) repairs: BTreeMap<(BrickIndex, ShardIndex), Repair>,
    /// Blocks in which copies are said to differ.
    pub(super) suspicions: BTreeMap<ShardIndex, BlockSet>,
    pub(super) heal_attempts: u32,
    /// Members of S that a recovery has made equal, its source among them once there is another. Should the
    /// source leave S, the next one is one of these: the others may differ from all of them.
    pub(super) recovered: BrickSet,
    /// Since when requests wait for bricks that aren't there.
    pub(super) stalled_since: Option<Timestamp>,
    /// No brick is found silent before this.
    pub(super) patient_until: Timestamp,
    /// After a forced takeover: when the lease of bricks that could not be fenced is over (rule I8).
    pub(super) serve_not_before: Timestamp,
    pub(super) opened_at: Timestamp,
    /// How often the opening began to wait anew.
    pub(super) standstills: u32,
    /// The lives that the record of our predecessor named, to find copies that kept running.
    pub(super) recovered_from: Vec<brick_wire::Incarnation>,
    pub(super) renew_at: Timestamp,
    /// Reads and writes that bricks have answered, and that complete once a renewal has shown that the lease held.
    pub(super) unverified_reads: Vec<(OperationKey, super::read::ReadResult)>,
    pub(super) unverified_writes: BTreeSet<OperationKey>,
    /// When arbiters are told what they are yet to be told.
    pub(super) tell_at: Option<Timestamp>,
    pub(super) pace: Pace,
    pub(super) read_loads: ReadLoads,
    pub(super) counters: Counters,
    pub(super) actions: VecDeque<Action>,
}

/// A brick between its flush and the record that puts it into S.
#[derive(Clone, Copy, Debug)]
pub(super) struct Joining {
    pub(super) brick: BrickIndex,
    /// Cores whose flush has not been answered.
    pub(super) unflushed_cores: u16,
}

impl Group {
    /// Starts to open the image at `now`; links come up one by one.
    pub fn new(config: GroupConfig, now: Timestamp) -> Group {
        assert!(!config.data_bricks().is_empty(), "a group has a data brick");
        let bricks = config.bricks.iter().map(|_| Brick::default()).collect();
        Group {
            now,
            phase: Phase::PreVote(PreVote::default()),
            bricks,
            pending: PendingTable::new(),
            record: None,
            change: None,
            floors: Floors::default(),
            counter_seen: 0,
            dropping: BrickSet::EMPTY,
            joining: None,
            contested: None,
            operations: Operations::default(),
            operation_next: 0,
            overlap: OverlapQueue::default(),
            flush: FlushState::new(now),
            existing: None,
            existence_pages: 0,
            existence_attempt: 0,
            existing_next: BTreeSet::new(),
            continuous: BrickSet::EMPTY,
            crashed: BrickSet::EMPTY,
            suspect: BTreeMap::new(),
            suspect_left: BrickSet::EMPTY,
            suspect_retry_at: Timestamp::ZERO,
            parked_reads: Vec::new(),
            repairs: BTreeMap::new(),
            suspicions: BTreeMap::new(),
            heal_attempts: 0,
            recovered: BrickSet::EMPTY,
            stalled_since: None,
            patient_until: Timestamp::ZERO,
            serve_not_before: Timestamp::ZERO,
            opened_at: now,
            standstills: 0,
            recovered_from: Vec::new(),
            renew_at: now,
            unverified_reads: Vec::new(),
            unverified_writes: BTreeSet::new(),
            tell_at: None,
            pace: Pace::new(),
            read_loads: ReadLoads::new(config.image, config.data_bricks()),
            counters: Counters::default(),
            actions: VecDeque::new(),
            config,
        }
    }

    /// The size in the decided record, bytes; zero before the group serves.
    pub fn size_bytes(&self) -> u64 {
        self.record.as_ref().map_or(0, |record| record.size_bytes)
    }

    /// Why the group serves no more, if so.
    pub fn ended(&self) -> Option<&GroupError> {
        match &self.phase {
            Phase::Ended(error) => Some(error),
            _ => None,
        }
    }

    /// The shards known to exist, once the list is complete: everything else reads as zeros.
    pub fn existing_shards(&self) -> Option<&BTreeSet<ShardIndex>> {
        self.existing.as_ref()
    }

    /// What to do next; `None` when everything is done for now.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// All connections to a brick are up; its welcome told these `floors`.
    pub fn handle_link_up(&mut self, now: Timestamp, brick: BrickIndex, info: LinkInfo, floors: &Floors) {
        self.now = now;
        self.learn_floors(floors);
        let state = self.brick_mut(brick);
        assert!(state.link.is_none(), "a link comes up once");
        state.link = Some(info);
        state.attempted = true;
        if self.is_retired(brick, info.incarnation) {
            // Whatever it remembers, it isn't the brick that the record means: that one is away.
            self.declare_blank(brick);
            return self.progress();
        }
        if info.blank {
            self.expel_blank(brick);
        }
        let state = self.brick_mut(brick);
        let restarted = state.seen.is_some_and(|seen| seen != info.incarnation);
        let rebooted = state.seen.is_some_and(|seen| seen.boot != info.incarnation.boot);
        state.seen = Some(info.incarnation);
        state.accepted = brick_wire::Epoch::ZERO;
        if restarted {
            self.handle_restart(brick, rebooted);
        }
        self.attach_to_phase(brick);
        self.progress();
    }

    /// A link broke. Everything in flight on it is as good as never answered.
    pub fn handle_link_down(&mut self, now: Timestamp, brick: BrickIndex) {
        self.now = now;
        self.forget_link(brick);
        self.progress();
    }

    /// A brick can't be connected to at the moment.
    pub fn handle_link_failed(&mut self, now: Timestamp, brick: BrickIndex) {
        self.now = now;
        self.brick_mut(brick).attempted = true;
        self.progress();
    }

    /// A brick answered.
    pub fn handle_reply(&mut self, now: Timestamp, brick: BrickIndex, core: CoreIndex, reply: Frame) {
        self.now = now;
        let Some(pending) = self.pending.remove(brick, reply.header.request) else {
            return self.reset_link(brick, "it answered a request that was not sent");
        };
        if self.is_ended() {
            return;
        }
        self.dispatch_reply(brick, core, pending.purpose, pending.sent_at, &reply);
        self.progress();
    }

    fn dispatch_reply(
        &mut self,
        brick: BrickIndex,
        core: CoreIndex,
        purpose: Purpose,
        sent_at: Timestamp,
        reply: &Frame,
    ) {
        let status = reply.header.status;
        if status == Status::ShuttingDown {
            self.undo_sent(brick, purpose);
            return self.reset_link(brick, "the brick is stopping");
        }
        if status == Status::LeaseExpired {
            self.distrust_own_clock(brick, core);
        }
        match purpose {
            Purpose::PreVote => self.handle_pre_vote(brick, reply),
            Purpose::Prepare(ballot) => self.handle_promise(brick, ballot, reply),
            Purpose::Accept(ballot) => self.handle_accepted(brick, ballot, reply),
            Purpose::CatchUpPrepare(epoch) => self.handle_catch_up_promise(brick, epoch, reply),
            Purpose::CatchUpAccept(epoch) => self.handle_catch_up_accepted(brick, epoch, status),
            Purpose::Write(key) => self.handle_written(brick, key, reply.header),
            Purpose::DummyWrites(keys) => self.handle_told(brick, keys, reply.header),
            Purpose::Follow(key, shard, blocks) => {
                self.handle_followed(brick, key, (shard, blocks), reply.header);
            }
            Purpose::Read(key, share) => self.handle_read(brick, key, share, reply),
            Purpose::Flush(key) => self.handle_flushed(brick, key, reply.header),
            Purpose::JoinFlush => self.handle_join_flushed(brick, status),
            Purpose::Gather { target, shards, attempt } => {
                self.handle_gathered(brick, core, (target, shards, attempt), reply);
            }
            Purpose::Existence(attempt) => self.handle_existence(brick, core, attempt, reply),
            Purpose::Pull(key) => self.handle_pulled(brick, key, reply),
            Purpose::CopyRead(key) => self.handle_copy_read(brick, key, reply),
            Purpose::CopyWrite(key) => self.handle_copy_written(key, reply.header),
            Purpose::Renew => self.handle_renewed((brick, core), sent_at, reply.header),
            Purpose::BadRead(_, flags) => self.handle_bad_blocks(brick, flags, reply),
            Purpose::Judge(key) => self.handle_testimony(brick, key, reply),
            Purpose::Remove(key) => self.handle_removed(brick, key, reply.header),
            Purpose::Clean | Purpose::DeclareBlank => {}
        }
    }

    /// Runs what became possible. Every event ends here; each step is a no-op unless its condition holds.
    pub(super) fn progress(&mut self) {
        self.tell_in_time();
        if !self.may_rest() {
            self.take_steps();
        }
    }

    pub(super) fn take_steps(&mut self) {
        self.progress_timers();
        self.progress_open();
        self.progress_change();
        self.consider_drops();
        self.progress_change();
        self.progress_heals();
        self.progress_vouching();
        self.progress_judging();
        self.load_existence();
        self.progress_flush();
        self.progress_stall();
    }

    /// Sends a request with no payload.
    pub(super) fn send(&mut self, brick: BrickIndex, core: CoreIndex, header: Header, purpose: Purpose) {
        self.send_frame(brick, core, Frame::new(header, Vec::new(), Bytes::new()), purpose);
    }

    /// Sends a request, behind what the brick is yet to be told.
    pub(super) fn send_frame(&mut self, brick: BrickIndex, core: CoreIndex, frame: Frame, purpose: Purpose) {
        self.tell(brick);
        self.send_now(brick, core, frame, purpose);
    }

    /// Sends a request; its id is filled in here.
    pub(super) fn send_now(
        &mut self,
        brick: BrickIndex,
        core: CoreIndex,
        mut frame: Frame,
        purpose: Purpose,
    ) {
        assert!(self.brick(brick).link.is_some(), "requests go to linked bricks");
        frame.header.request = self.pending.insert(brick, purpose, self.now);
        self.actions.push_back(Action::Send { brick, core, frame });
    }

    /// A data request under the decided epoch.
    pub(super) fn data_header(&self, opcode: Opcode) -> Header {
        let record = self.record.as_ref().expect("data requests follow a decided record");
        let mut header = Header::request(opcode, brick_wire::RequestId(0));
        header.epoch = record.epoch;
        header.image = HANDLE;
        header.generation = Generation(self.flush.generation.0);
        header.flags = Flags::NONE;
        header
    }

    /// The core of `brick` that owns a shard.
    pub(super) fn core_for(&self, brick: BrickIndex, shard: ShardIndex) -> CoreIndex {
        let link = self.brick(brick).link.expect("routed bricks are linked");
        core_of(lane_of(self.config.image, shard, link.lanes), link.cores)
    }

    /// Ends the link from our side: the brick failed, or what is in flight on it must be drained.
    pub(super) fn reset_link(&mut self, brick: BrickIndex, reason: &'static str) {
        if self.brick(brick).link.is_some() {
            self.actions.push_back(Action::ResetLink { brick, reason });
            self.forget_link(brick);
        }
    }

    fn forget_link(&mut self, brick: BrickIndex) {
        let state = self.brick_mut(brick);
        if state.link.take().is_none() {
            return;
        }
        state.accepted = brick_wire::Epoch::ZERO;
        state.catching_up = None;
        state.renewed_at = None;
        self.forget_votes(brick);
        self.forget_untold(brick);
        if self.config.arbiters().contains(brick) {
            self.forget_refusals(BrickSet::only(brick));
        }
        for purpose in self.pending.drain(brick) {
            self.undo_sent(brick, purpose);
        }
        self.stop_heal(brick);
        self.forget_late(brick);
        self.stop_heals_from(brick);
        if self.joining.is_some_and(|joining| joining.brick == brick) {
            self.dropping.insert(brick);
        }
        self.drive_all();
    }

    /// A request was never answered: whoever waits for it must send it again.
    fn undo_sent(&mut self, brick: BrickIndex, purpose: Purpose) {
        match purpose {
            Purpose::Write(key) => self.undo_write(brick, key),
            Purpose::DummyWrites(keys) => keys.into_iter().for_each(|key| self.undo_write(brick, key)),
            Purpose::Follow(key, ..) => self.undo_follow(brick, key),
            Purpose::Read(key, share) => self.undo_read(brick, key, share),
            Purpose::Flush(key) => self.undo_flush(brick, key),
            Purpose::Remove(key) => self.undo_remove(brick, key),
            Purpose::Existence(attempt) if attempt == self.existence_attempt => self.restart_existence(),
            Purpose::Pull(key) => self.undo_pull(brick, key),
            Purpose::CopyRead(key) | Purpose::CopyWrite(key) => self.undo_copy(key),
            Purpose::Judge(key) => self.undo_judge(key),
            Purpose::Gather { target, .. } if target != brick => self.stop_heal(target),
            // The rest is repeated from the state of the brick when its link is back.
            _ => {}
        }
    }

    pub(super) fn is_ended(&self) -> bool {
        matches!(self.phase, Phase::Ended(_))
    }

    /// Fails everything, now and from now on.
    pub(super) fn end(&mut self, error: GroupError) {
        if self.is_ended() {
            return;
        }
        let before = std::mem::replace(&mut self.phase, Phase::Ended(error.clone()));
        match before {
            Phase::PreVote(_) | Phase::Opening | Phase::Recovering => {
                self.actions.push_back(Action::Opened(Err(error.clone())));
            }
            Phase::Closing => self.actions.push_back(Action::Closed(Err(error.clone()))),
            Phase::Serving | Phase::Ended(_) => {}
        }
        self.change = None;
        for key in self.operation_keys() {
            if let Some(request) = self.operations.remove(&key).and_then(|operation| operation.user) {
                self.actions.push_back(Action::Complete { request, result: Err(error.clone()) });
            }
        }
        for request in std::mem::take(&mut self.parked_reads).into_iter().filter_map(|read| read.user) {
            self.actions.push_back(Action::Complete { request, result: Err(error.clone()) });
        }
        self.overlap = OverlapQueue::default();
        self.unverified_reads.clear();
        self.unverified_writes.clear();
        for index in 0..self.bricks.len() {
            self.bricks[index].heal = None;
            self.bricks[index].vouch = Vouch::default();
            self.bricks[index].untold.clear();
        }
        self.tell_at = None;
    }
}
