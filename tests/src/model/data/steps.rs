//! What can happen next in the data model.

use super::super::{Brick, Bricks, DATA, Mutation};
use super::Data;
use super::state::{COPIES, Follows, Heal, Proposal, Request, State};
use super::takeover::members;

/// One thing that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The user writes the next value; it goes to every brick that is needed and there.
    Write,
    /// It is sent to a brick that was not there, or lost it.
    Send(Brick),
    /// The brick has done it.
    Apply(Brick),
    /// The brick refuses it, having changed the block or not.
    Refuse(Brick, bool),
    /// The holder gets the brick's answer.
    Answered(Brick),
    /// Everybody needed has done it.
    WriteDone,
    /// All of S refused it: the user is told, and this copy is read until they are equal.
    RefusedByAll(Brick),
    /// The user is told that it failed, while it is under way.
    TimedOut,
    /// A request of a broken connection is done after all.
    Late(Brick),
    /// The user flushes.
    Flush,
    /// The brick syncs.
    Synced(Brick),
    /// The brick's sync fails.
    SyncFails(Brick),
    /// The flush completes or fails.
    FlushDone,
    /// Bits are dropped.
    Clean,
    /// The holder reads the block from the brick.
    Read(Brick),
    /// The brick's connection breaks.
    Cut(Brick),
    /// These bricks lose power.
    PowerLost(Bricks),
    /// The brick is back.
    Back(Brick),
    /// The only copy is another boot, with nothing unflushed: the record names it.
    Renamed(Brick),
    /// The holder proposes S without the brick.
    ProposeDrop(Brick),
    /// The holder proposes S with both.
    ProposeJoin,
    /// A majority has accepted what is proposed.
    Decided,
    /// The holder knows.
    Known,
    /// The brick outside S is brought to the holder's epoch, and what it may lack is listed.
    HealStarts(Brick),
    /// What was listed is pulled.
    Pulled(Brick),
    /// Nothing is listed or in flight: from now on the brick is required.
    Joins(Brick),
    /// It is flushed.
    JoinFlushed(Brick),
    /// It went away before it was proposed.
    HealStops,
    /// A copy that differs after a refusal by all is made equal to the one that is read.
    Equalized,
    /// These bricks promise to a successor.
    Promised(Bricks),
    /// The holder prepares higher, as the successor has accepted nothing (R4).
    Overtakes,
    /// The successor's record is decided: recovering, or serving if there is one copy.
    TakesOver,
    /// The recovering session copies from this brick to the other.
    Converges(Brick),
    /// Its serving record is decided.
    Serves,
}

impl Data {
    /// Where the holder may read: S as it knows it, but no copy that lost its memory or is to be dropped,
    /// and nothing that a write is under way to.
    pub(super) fn readable(&self, state: &State) -> Bricks {
        let holder = &state.holder;
        if !holder.serves || holder.write.is_some() {
            return 0;
        }
        let kept = holder.proposal.map_or(DATA, |proposal| proposal.in_sync);
        let chosen = if holder.suspect == 0 { DATA } else { holder.suspect };
        holder.in_sync & kept & chosen & !holder.dropping & self.usable(state)
    }

    /// Bricks that take the holder's requests, in the life that the record names.
    pub(super) fn usable(&self, state: &State) -> Bricks {
        let same = self.rules.breaks(Mutation::BootAcceptedAtSameEpoch);
        state.which(|copy| copy.up && copy.follows == Follows::Holder && (same || !copy.rebooted))
    }

    /// Whose acknowledgement a write or flush needs now.
    pub(super) fn required(&self, state: &State) -> Bricks {
        let holder = &state.holder;
        match holder.proposal {
            Some(proposal) if self.rules.breaks(Mutation::CompleteBeforeDrop) => {
                proposal.in_sync | holder.joining()
            }
            _ if self.rules.breaks(Mutation::CompleteOnOldS) => holder.in_sync,
            _ => holder.required(),
        }
    }

    pub(super) fn possible_steps(&self, state: &State, steps: &mut Vec<Step>) {
        if state.holder.serves {
            self.steps_of_write(state, steps);
            self.steps_of_flush(state, steps);
            self.steps_of_change(state, steps);
            self.steps_of_heal(state, steps);
            steps.extend(members(self.readable(state)).map(Step::Read));
        }
        self.steps_of_faults(state, steps);
        self.steps_of_successor(state, steps);
    }

    fn steps_of_write(&self, state: &State, steps: &mut Vec<Step>) {
        let holder = &state.holder;
        let usable = self.usable(state);
        let Some(write) = holder.write else {
            if state.written < self.room.writes && holder.proposal.is_none() && holder.in_sync & usable != 0 {
                steps.push(Step::Write);
            }
            return;
        };
        for brick in members(usable) {
            match state.copies[brick.index()].request {
                Request::NotSent if holder.proposal.is_none() && holder.required() & brick.bit() != 0 => {
                    steps.push(Step::Send(brick));
                }
                Request::Sent => {
                    steps.push(Step::Apply(brick));
                    if state.left.refusals > 0 {
                        steps.extend([Step::Refuse(brick, false), Step::Refuse(brick, true)]);
                    }
                }
                Request::Applied => steps.push(Step::Answered(brick)),
                _ => {}
            }
        }
        let acknowledged = state.which(|copy| copy.request == Request::Acknowledged);
        let refused = state.which(|copy| copy.request == Request::Refused);
        let arbiter_counts = self.rules.breaks(Mutation::ArbiterCounts) && acknowledged != 0;
        let required = self.required(state);
        if required & !acknowledged == 0 || arbiter_counts {
            steps.push(Step::WriteDone);
        }
        if holder.in_sync & !refused == 0 && required & !(acknowledged | refused) == 0 {
            steps.extend(members(holder.in_sync).map(Step::RefusedByAll));
        }
        if write.awaited && state.left.timeouts > 0 {
            steps.push(Step::TimedOut);
        }
    }

    fn steps_of_flush(&self, state: &State, steps: &mut Vec<Step>) {
        let holder = &state.holder;
        let Some(flush) = holder.flush else {
            if state.left.flushes > 0 && holder.proposal.is_none() {
                steps.push(Step::Flush);
            }
            if holder.may_clean && holder.write.is_none() && state.copies.iter().any(|copy| copy.dirty) {
                steps.push(Step::Clean);
            }
            return;
        };
        let answered = flush.done | flush.failed;
        for brick in members(self.usable(state) & holder.required() & !answered) {
            steps.push(Step::Synced(brick));
            if state.left.sync_errors > 0 {
                steps.push(Step::SyncFails(brick));
            }
        }
        if self.required(state) & !answered == 0 {
            steps.push(Step::FlushDone);
        }
    }

    fn steps_of_change(&self, state: &State, steps: &mut Vec<Step>) {
        let holder = &state.holder;
        let usable = self.usable(state);
        match holder.proposal {
            Some(Proposal { decided: true, .. }) => steps.push(Step::Known),
            // A quorum with a data brick of the new S.
            Some(proposal) if proposal.in_sync & usable != 0 => steps.push(Step::Decided),
            Some(_) => {}
            None => {
                for brick in members(holder.in_sync) {
                    let others = holder.in_sync & !brick.bit();
                    if others & usable & !self.failed(state) != 0 && self.failed(state) & brick.bit() != 0 {
                        steps.push(Step::ProposeDrop(brick));
                    }
                    let copy = state.copies[brick.index()];
                    let settled = !holder.unflushed && holder.write.is_none();
                    if others == 0 && copy.up && copy.rebooted && settled {
                        steps.push(Step::Renamed(brick));
                    }
                }
            }
        }
    }

    /// Bricks of S that are away, on another boot, or refused what another did.
    fn failed(&self, state: &State) -> Bricks {
        let same = self.rules.breaks(Mutation::BootAcceptedAtSameEpoch);
        let refused = state.which(|copy| copy.request == Request::Refused);
        let unsynced = state.holder.flush.map_or(0, |flush| flush.failed);
        state.which(|copy| !copy.up || (copy.rebooted && !same)) | refused | unsynced | state.holder.dropping
    }

    fn steps_of_heal(&self, state: &State, steps: &mut Vec<Step>) {
        let holder = &state.holder;
        let outside = DATA & !holder.in_sync;
        let Some(brick) = members(outside).next() else {
            let equalizes = holder.suspect != 0 && holder.write.is_none() && holder.proposal.is_none();
            if equalizes && self.usable(state) == DATA {
                steps.push(Step::Equalized);
            }
            return;
        };
        let copy = state.copies[brick.index()];
        let reachable = copy.up && copy.follows != Follows::Successor;
        let calm = holder.write.is_none() && holder.proposal.is_none();
        let source = holder.in_sync & self.usable(state) != 0;
        match holder.heal {
            None if reachable && holder.proposal.is_none() => steps.push(Step::HealStarts(brick)),
            None => {}
            Some(Heal::Listed) if source && calm && reachable => steps.push(Step::Pulled(brick)),
            Some(Heal::Equal) if calm && reachable => steps.push(Step::Joins(brick)),
            Some(Heal::Joining { flushed: false }) if reachable && holder.proposal.is_none() => {
                steps.push(Step::JoinFlushed(brick));
            }
            Some(Heal::Joining { flushed: true }) if holder.proposal.is_none() => {
                steps.push(Step::ProposeJoin);
            }
            Some(_) => {}
        }
        if holder.heal.is_some() && !reachable && holder.proposal.is_none() {
            steps.push(Step::HealStops);
        }
    }

    fn steps_of_faults(&self, state: &State, steps: &mut Vec<Step>) {
        for brick in COPIES {
            let copy = state.copies[brick.index()];
            if copy.up && state.left.cuts > 0 {
                steps.push(Step::Cut(brick));
            }
            if !copy.up {
                steps.push(Step::Back(brick));
            }
            if copy.late.is_some() {
                steps.push(Step::Late(brick));
            }
        }
        if state.left.powers > 0 {
            steps.extend([0b01, 0b10, 0b11].map(Step::PowerLost));
        }
    }
}
