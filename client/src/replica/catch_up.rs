//! Bringing a brick that missed the last change to the decided epoch, and what its restart means.
//!
//! The record is decided already; the late brick gets the same prepare and accept, so it votes for nothing
//! new (a ballot is never used for two records, rule R1). Data goes to a brick only after its accept
//! was acknowledged, so a brick is never ahead of or behind the requests it gets.

use brick_wire::cursor::Body;
use brick_wire::decode::Frame;
use brick_wire::record::EpochRecord;
use brick_wire::register::{RegisterEntry, RegisterKey, RegisterState};
use brick_wire::{
    BrickIndex, BrickSet, CoreIndex, Epoch, Flags, Floors, Header, Incarnation, Opcode, RequestId, Status,
};
use bytes::Bytes;

use super::Group;
use super::group::Phase;
use super::interface::{GroupError, HANDLE};
use super::pending::Purpose;

impl Group {
    /// A fresh link joins whatever is going on.
    pub(super) fn attach_to_phase(&mut self, brick: BrickIndex) {
        if !self.linked().contains(brick) {
            return;
        }
        match &self.phase {
            Phase::PreVote(_) => self.send_pre_vote(brick),
            Phase::Ended(_) => {}
            Phase::Opening | Phase::Recovering | Phase::Serving | Phase::Closing => {
                if self.change.is_some() {
                    self.join_change(brick);
                } else {
                    self.catch_up(brick);
                }
            }
        }
    }

    /// Starts the catch-up of a brick that isn't at the decided epoch. A lease that it still keeps for a
    /// predecessor of ours is void: the record was decided without it, so the prepare is forced.
    pub(super) fn catch_up(&mut self, brick: BrickIndex) {
        let Some(record) = &self.record else { return };
        let epoch = record.epoch;
        let state = self.brick(brick);
        if state.accepted == epoch || state.catching_up == Some(epoch) || !self.linked().contains(brick) {
            return;
        }
        self.brick_mut(brick).catching_up = Some(epoch);
        let frame = prepare_frame(self.config.image, epoch, Flags::FORCE);
        self.send_frame(brick, CoreIndex(0), frame, Purpose::CatchUpPrepare(epoch));
    }

    /// Starts the catch-up of every brick that needs it.
    pub(super) fn catch_up_all(&mut self) {
        for brick in self.linked().iter() {
            self.catch_up(brick);
        }
    }

    pub(super) fn handle_catch_up_promise(&mut self, brick: BrickIndex, epoch: Epoch, reply: &Frame) {
        if self.record.as_ref().map(|record| record.epoch) != Some(epoch) {
            return self.catch_up_again(brick);
        }
        match reply.header.status {
            Status::Ok => {
                let record = self.record.as_ref().expect("compared above");
                if self.is_rolled_back(brick, record) {
                    return self.declare_blank(brick);
                }
                let frame = accept_frame(self.config.image, epoch, record.to_bytes());
                self.send_frame(brick, CoreIndex(0), frame, Purpose::CatchUpAccept(epoch));
            }
            Status::BallotRefused => {
                self.brick_mut(brick).catching_up = None;
                self.note_refusal(reply);
            }
            _ => self.reset_link(brick, "the brick can't promise the current epoch"),
        }
    }

    pub(super) fn handle_catch_up_accepted(&mut self, brick: BrickIndex, epoch: Epoch, status: Status) {
        if self.record.as_ref().map(|record| record.epoch) != Some(epoch) {
            return self.catch_up_again(brick);
        }
        match status {
            Status::Ok => {
                self.brick_mut(brick).catching_up = None;
                self.note_at_epoch(brick);
            }
            Status::BallotRefused => {
                self.brick_mut(brick).catching_up = None;
                // Unless it was our own next ballot that overtook it: that one brings it along.
                if self.change.is_none() {
                    self.contest(std::time::Duration::ZERO);
                }
            }
            _ => self.reset_link(brick, "the brick can't accept the current epoch"),
        }
    }

    /// The brick has accepted the decided record, late.
    pub(super) fn note_at_epoch(&mut self, brick: BrickIndex) {
        let record = self.record.as_ref().expect("it was decided");
        self.brick_mut(brick).accepted = record.epoch;
        // Without this brick there may be no quorum that renewed: requests that wait for one don't wait for the next turn.
        for core in self.brick(brick).cores() {
            self.send_renewal(brick, core);
        }
        self.flush.note_bits_left();
        self.drive_all();
    }

    fn catch_up_again(&mut self, brick: BrickIndex) {
        self.brick_mut(brick).catching_up = None;
        if self.change.is_none() {
            self.catch_up(brick);
        }
    }

    /// The brick is another life of the one we knew (rule I12).
    pub(super) fn handle_restart(&mut self, brick: BrickIndex, rebooted: bool) {
        let Some(record) = &self.record else { return };
        self.flush.note_restarted();
        // It lost what it knew of the CRCs in its active shards: those are to be compared, however well S knows what
        // was written. Else a block that had rotted there would count as good.
        if self.continuous.contains(brick) && !rebooted {
            self.crashed.insert(brick);
        } else {
            self.crashed.remove(brick);
        }
        self.continuous.remove(brick);
        if !record.in_sync.contains(brick) {
            // The record learns the new life when it is changed next; an arbiter has nothing to lose. But a brick
            // that was flushed to join may be in the record that is being decided, and has lost what it was
            // written since: it must leave again before anything counts on it.
            if self.joining.is_some_and(|joining| joining.brick == brick) {
                self.brick_mut(brick).lost_memory |= rebooted;
                self.dropping.insert(brick);
            }
            return;
        }
        if rebooted && matches!(self.phase, Phase::Recovering) {
            // What was made equal may be unequal again, and the source may have been this one: start over.
            return self.end(GroupError::LostWrites);
        }
        if !self.kept_running().without(brick).is_empty() {
            // Until it has left S nothing is read from it, and what it flushes proves nothing.
            self.brick_mut(brick).lost_memory |= rebooted;
            self.dropping.insert(brick);
        } else if (rebooted || self.flush.has_failed()) && (self.flush.has_unflushed() || self.has_writes()) {
            self.brick_mut(brick).lost_memory = true;
        } else {
            // Its disk is as it was. The record has to name its new life before it is used again.
            self.decide_anew(self.now);
        }
    }

    /// Decides about bricks of S that lost completed unflushed writes with their boot, as soon as it is
    /// known whether another one kept them.
    pub(super) fn resolve_lost_memory(&mut self) {
        let Some(record) = &self.record else { return };
        let lost = self.bricks_where(|brick| brick.lost_memory).intersection(record.in_sync);
        let in_sync = record.in_sync.difference(self.dropping);
        if lost.is_empty() {
            return;
        }
        // Another start on the same boot has the completed writes; only the boot matters here.
        let kept = |brick: &BrickIndex| {
            let recorded = record.members[usize::from(brick.0)].incarnation.boot;
            self.brick(*brick).seen.map(|seen| seen.boot) == Some(recorded)
        };
        let keepers = in_sync.difference(lost).intersection(self.linked());
        if keepers.iter().any(|brick| kept(&brick)) {
            self.dropping = self.dropping.union(lost.intersection(in_sync));
        } else if in_sync.is_subset_of(self.linked()) {
            // The writes may be on one copy and not on the other. Only a recovery may sort that out, and
            // the user has to know (rule I7).
            self.end(GroupError::LostWrites);
        }
    }

    /// Linked bricks of S that are in the life the record names.
    fn kept_running(&self) -> BrickSet {
        let Some(record) = &self.record else { return BrickSet::EMPTY };
        let in_sync = record.in_sync.difference(self.dropping).intersection(self.linked());
        let same = |brick: &BrickIndex| {
            self.brick(*brick).seen == Some(record.members[usize::from(brick.0)].incarnation)
        };
        in_sync.iter().filter(same).collect()
    }

    /// Whether the brick shows an older life than `record` knows: it was restored from an older copy and forgot
    /// promises (rule R2).
    pub(super) fn is_rolled_back(&self, brick: BrickIndex, record: &EpochRecord) -> bool {
        let member = record.members.get(usize::from(brick.0));
        let (Some(member), Some(seen)) = (member, self.brick(brick).seen) else { return false };
        is_older(seen, member.incarnation)
    }

    /// Whether a life of the brick is below its floor: another brick took its place, and promised in its name what this
    /// one doesn't know, even where no record shows that yet (rule R2).
    pub(super) fn is_retired(&self, brick: BrickIndex, life: Incarnation) -> bool {
        self.floors.is_retired(self.config.bricks[usize::from(brick.0)].brick, life.start)
    }

    /// A brick told its floors. Links to retired lives that are up already have been counted on: they start over, and
    /// with them what was promised there.
    pub(super) fn learn_floors(&mut self, floors: &Floors) {
        if !self.floors.merge(floors) {
            return;
        }
        for index in 0..self.bricks.len() {
            let brick = BrickIndex(index as u8);
            let counted = self.brick(brick).link.filter(|link| !link.blank);
            if counted.is_some_and(|link| self.is_retired(brick, link.incarnation)) {
                self.reset_link(brick, "another brick has taken its place");
            }
        }
        self.expel_old_copies();
    }

    /// The bricks of a record's S whose copy is that of a retired life: who took the place has none. (A start of 0 is
    /// nobody's: the image was created while the brick was away, and is all zeros in either life.)
    pub(super) fn retired_copies(&self, record: &EpochRecord) -> BrickSet {
        let retired = |brick: &BrickIndex| {
            let life = record.members.get(usize::from(brick.0)).map(|member| member.incarnation);
            life.is_some_and(|life| life.start.0 > 0 && self.is_retired(*brick, life))
        };
        record.in_sync.iter().filter(retired).collect()
    }

    /// Has such copies, and those of blank bricks, leave S, although nobody waits for them. A link may have come up, or a
    /// floor been told, while the record was being decided.
    pub(super) fn expel_old_copies(&mut self) {
        let Some(record) = &self.record else { return };
        let old = self.retired_copies(record).union(self.blank().intersection(record.in_sync));
        old.iter().for_each(|brick| self.expel_blank(brick));
    }

    /// Tells a brick that it is blank: it won't vote again before it has learned its registers.
    pub(super) fn declare_blank(&mut self, brick: BrickIndex) {
        let header = Header::request(Opcode::BlankDeclare, RequestId(0));
        self.send(brick, CoreIndex(0), header, Purpose::DeclareBlank);
        if let Some(link) = &mut self.brick_mut(brick).link {
            link.blank = true;
        }
        self.expel_blank(brick);
    }

    /// An older copy of itself: its own map says what this session doesn't know, and it is no good copy any more.
    /// Once its registers are restored nothing tells that, so it leaves S before (rule R2).
    pub(super) fn expel_blank(&mut self, brick: BrickIndex) {
        self.continuous.remove(brick);
        self.crashed.remove(brick);
        if self.in_sync().contains(brick) && self.in_sync().count() > 1 {
            self.dropping.insert(brick);
        }
    }

    /// Bricks that said, or were told, that they are blank.
    pub(super) fn blank(&self) -> BrickSet {
        self.bricks_where(|brick| brick.link.is_some_and(|link| link.blank))
    }
}

/// Whether a brick that shows `seen` is an older copy of the one recorded: it counts fewer starts, or as many
/// but on another boot, which no brick does that only goes forward.
pub(super) fn is_older(seen: Incarnation, recorded: Incarnation) -> bool {
    seen.start < recorded.start || (seen.start == recorded.start && seen.boot != recorded.boot)
}

/// A prepare of an image's epoch register.
pub(super) fn prepare_frame(image: brick_wire::ImageUuid, ballot: Epoch, flags: Flags) -> Frame {
    let mut header = Header::request(Opcode::RegisterPrepare, RequestId(0));
    header.epoch = ballot;
    header.image = HANDLE;
    header.flags = flags;
    Frame::new(header, RegisterKey::Epoch(image).to_bytes(), Bytes::new())
}

/// An accept of an image's epoch register.
pub(super) fn accept_frame(image: brick_wire::ImageUuid, ballot: Epoch, value: Vec<u8>) -> Frame {
    let mut header = Header::request(Opcode::RegisterAccept, RequestId(0));
    header.epoch = ballot;
    header.image = HANDLE;
    let state = RegisterState { value, ..RegisterState::default() };
    let entry = RegisterEntry { key: RegisterKey::Epoch(image), state };
    Frame::new(header, entry.to_bytes(), Bytes::new())
}
