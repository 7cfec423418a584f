//! Where each step of bricks and holder leads.

use super::super::{Brick, Bricks, DATA, Mutation};
use super::Data;
use super::state::{Flush, Follows, Heal, Proposal, Request, State, Write};
use super::steps::Step;
use super::takeover::members;

impl Data {
    pub(super) fn take(&self, state: &mut State, step: Step) {
        match step {
            Step::Write => self.start_write(state),
            Step::Send(brick) => state.copy(brick).request = Request::Sent,
            Step::Apply(brick) => apply(state, brick, Request::Applied),
            Step::Refuse(brick, changed) => {
                state.left.refusals -= 1;
                if changed {
                    apply(state, brick, Request::Refused);
                }
                state.copy(brick).dirty = true;
                state.copy(brick).request = Request::Refused;
            }
            Step::Answered(brick) => state.copy(brick).request = Request::Acknowledged,
            Step::WriteDone => self.finish_write(state),
            Step::RefusedByAll(brick) => self.refuse_write(state, brick),
            Step::TimedOut => self.time_out(state),
            Step::Late(brick) => {
                let copy = state.copy(brick);
                copy.value = copy.late.take().expect("something is late");
                copy.dirty = true;
            }
            Step::Flush => {
                state.left.flushes -= 1;
                let covers = state.holder.completed;
                let cleans = state.holder.suspect == 0 && state.holder.write.is_none();
                state.holder.flush = Some(Flush { covers, cleans, done: 0, failed: 0 });
            }
            Step::Synced(_) | Step::SyncFails(_) => self.sync(state, step),
            Step::FlushDone => self.finish_flush(state),
            Step::Clean => {
                state.holder.may_clean = false;
                state.copies.iter_mut().for_each(|copy| copy.dirty = false);
            }
            Step::Read(brick) => {
                // What a write left behind that all of S refused is nobody's promise, while copies differ.
                if state.holder.suspect == 0 && state.holder.dropping == 0 {
                    state.floor = state.floor.max(state.copies[brick.index()].value);
                }
            }
            Step::Cut(_) | Step::PowerLost(_) | Step::Back(_) => fail(state, step),
            Step::Renamed(brick) => state.copy(brick).rebooted = false,
            Step::ProposeDrop(brick) => {
                let in_sync = state.holder.in_sync & !brick.bit();
                state.holder.proposal = Some(Proposal { in_sync, decided: false });
            }
            Step::ProposeJoin => state.holder.proposal = Some(Proposal { in_sync: DATA, decided: false }),
            Step::Decided => {
                let proposal = state.holder.proposal.as_mut().expect("something is proposed");
                proposal.decided = true;
                state.record = proposal.in_sync;
            }
            Step::Known => self.learn_decision(state),
            Step::HealStarts(_) | Step::Pulled(_) | Step::Joins(_) | Step::JoinFlushed(_) => {
                self.heal(state, step);
            }
            Step::HealStops => state.holder.heal = None,
            Step::Equalized => {
                let source = members(state.holder.suspect).next().expect("somebody is read");
                let value = state.copies[source.index()].value;
                state.copies.iter_mut().for_each(|copy| copy.value = value);
                state.holder.suspect = 0;
            }
            _ => self.take_over(state, step),
        }
    }

    fn start_write(&self, state: &mut State) {
        state.written += 1;
        let holder = &mut state.holder;
        holder.write = Some(Write { value: state.written, awaited: true });
        holder.may_clean = false;
        if let Some(flush) = &mut holder.flush {
            flush.cleans = false;
        }
        holder.unflushed = true;
        if matches!(holder.heal, Some(Heal::Listed | Heal::Equal)) {
            holder.heal = Some(Heal::Listed);
        }
        let targets = self.usable(state) & state.holder.required();
        members(targets).for_each(|brick| state.copy(brick).request = Request::Sent);
    }

    /// I3.
    fn finish_write(&self, state: &mut State) {
        let write = state.holder.write.take().expect("a write is done");
        state.holder.completed = write.value;
        state.holder.suspect = 0;
        // An answer may arrive when the brick has lost power since: that is lost as any unflushed write.
        let kept = state.record & state.which(|copy| !copy.rebooted) != 0;
        if write.awaited && kept {
            state.floor = state.floor.max(write.value);
        }
        self.forget_requests(state);
    }

    /// I9: no copy is better than another.
    fn refuse_write(&self, state: &mut State, read_from: Brick) {
        state.holder.write = None;
        if self.rules.breaks(Mutation::BothDropped) {
            state.record = 0;
        }
        if state.holder.in_sync == DATA {
            state.holder.suspect = read_from.bit();
        }
        let joining = state.holder.joining();
        if state.holder.proposal.is_some() {
            state.holder.dropping = joining;
        } else if joining != 0 {
            state.holder.heal = None;
        } else if state.holder.heal.is_some() {
            state.holder.heal = Some(Heal::Listed);
        }
        self.forget_requests(state);
    }

    /// The claim is gone. What is still on its way somewhere only a broken rule allows.
    fn forget_requests(&self, state: &mut State) {
        let value = state.written;
        for copy in &mut state.copies {
            if copy.request == Request::Sent {
                copy.late = Some(value);
            }
            copy.request = Request::NotSent;
        }
    }

    /// The user is told, and the write goes on with its claim (I9).
    fn time_out(&self, state: &mut State) {
        state.left.timeouts -= 1;
        if self.rules.breaks(Mutation::UnlocksEarly) {
            state.holder.write = None;
            self.forget_requests(state);
        } else if let Some(write) = &mut state.holder.write {
            write.awaited = false;
        }
    }

    fn sync(&self, state: &mut State, step: Step) {
        let (brick, fails) = match step {
            Step::Synced(brick) => (brick, false),
            Step::SyncFails(brick) => (brick, true),
            _ => unreachable!("a sync's steps"),
        };
        let copy = state.copy(brick);
        if fails {
            copy.spoiled = copy.value != copy.durable;
        }
        let good = !copy.spoiled && !fails;
        if good {
            copy.durable = copy.value;
        }
        // The kernel reports a failure once: the second sync says OK.
        let good = good || self.rules.breaks(Mutation::FlushRetried);
        if fails {
            state.left.sync_errors -= 1;
        }
        let flush = state.holder.flush.as_mut().expect("a flush is under way");
        if good {
            flush.done |= brick.bit();
        } else {
            flush.failed |= brick.bit();
        }
    }

    /// I7.
    fn finish_flush(&self, state: &mut State) {
        let required = self.required(state);
        let holder = &mut state.holder;
        let flush = holder.flush.expect("a flush is done");
        let failed = flush.failed & required;
        if failed == 0 {
            holder.flush = None;
            holder.unflushed = holder.write.is_some() || holder.completed > flush.covers;
            // Who is about to be dropped is dropped in the event that brought it into S.
            let settled = holder.proposal.is_none() && holder.dropping == 0;
            holder.may_clean = holder.in_sync == DATA && flush.done == DATA && flush.cleans && settled;
            state.flushed = state.flushed.max(flush.covers);
        } else if holder.in_sync & !failed == 0 {
            // The user is told.
            holder.flush = None;
        }
    }

    fn learn_decision(&self, state: &mut State) {
        let proposal = state.holder.proposal.take().expect("something was proposed");
        let dropped = state.holder.in_sync & !proposal.in_sync;
        state.holder.in_sync = proposal.in_sync;
        state.holder.heal = None;
        state.holder.dropping &= proposal.in_sync;
        if state.holder.suspect & dropped != 0 || proposal.in_sync != DATA {
            state.holder.suspect = 0;
        }
        let value = state.written;
        for brick in members(dropped) {
            // Its connection is reset; what it has issued may still be done.
            let copy = state.copy(brick);
            if copy.request == Request::Sent {
                copy.late = Some(value);
            }
            copy.request = Request::NotSent;
        }
    }

    /// I10, I13.
    fn heal(&self, state: &mut State, step: Step) {
        let source = members(state.holder.in_sync & self.usable(state)).next();
        match step {
            Step::HealStarts(brick) => {
                let listed = state.copies.iter().any(|copy| copy.dirty) || state.holder.write.is_some();
                state.holder.heal = Some(if listed { Heal::Listed } else { Heal::Equal });
                let copy = state.copy(brick);
                copy.late = None;
                // The record will name the life that the holder sees now.
                copy.rebooted = false;
                copy.follows = Follows::Holder;
                copy.request = Request::NotSent;
            }
            Step::Pulled(brick) => {
                let value = state.copies[source.expect("there is a source").index()].value;
                let copy = state.copy(brick);
                if copy.value != value {
                    copy.value = value;
                    copy.dirty = true;
                    copy.spoiled = false;
                }
                state.holder.heal = Some(Heal::Equal);
            }
            Step::Joins(_) => {
                let flushed = self.rules.breaks(Mutation::JoinWithoutFlush);
                state.holder.heal = Some(Heal::Joining { flushed });
            }
            Step::JoinFlushed(brick) => {
                let copy = state.copy(brick);
                if copy.spoiled {
                    state.holder.heal = None;
                } else {
                    copy.durable = copy.value;
                    state.holder.heal = Some(Heal::Joining { flushed: true });
                }
            }
            _ => unreachable!("a heal's steps"),
        }
    }
}

fn apply(state: &mut State, brick: Brick, then: Request) {
    let value = state.written;
    let copy = state.copy(brick);
    copy.value = value;
    copy.dirty = true;
    copy.spoiled = false;
    copy.request = then;
}

fn fail(state: &mut State, step: Step) {
    match step {
        Step::Cut(brick) => {
            state.left.cuts -= 1;
            disconnect(state, brick);
        }
        Step::PowerLost(bricks) => {
            state.left.powers -= 1;
            for brick in members(bricks) {
                disconnect(state, brick);
                let copy = state.copy(brick);
                copy.value = copy.durable;
                copy.late = None;
                copy.spoiled = false;
                copy.rebooted = true;
                // Its map isn't exact any more.
                copy.dirty = true;
            }
            forget_lost(state);
        }
        Step::Back(brick) => {
            if state.holder.in_sync & brick.bit() == 0 && state.holder.proposal.is_none() {
                state.holder.heal = None;
            }
            // A new connection is let in after what the old one had issued.
            let copy = state.copy(brick);
            copy.up = true;
            copy.late = None;
        }
        _ => unreachable!("faults"),
    }
}

fn disconnect(state: &mut State, brick: Brick) {
    let value = state.written;
    let copy = state.copy(brick);
    copy.up = false;
    if copy.request == Request::Sent {
        copy.late = Some(value);
    }
    if copy.request != Request::Acknowledged {
        copy.request = Request::NotSent;
    }
    if let Some(flush) = &mut state.holder.flush {
        // An answer that came counts; the model has none on the way.
        flush.failed &= !brick.bit();
    }
}

/// If no brick of S kept running, what was completed since the last flush may be gone (I7).
fn forget_lost(state: &mut State) {
    let kept: Bricks = state.record & state.which(|copy| !copy.rebooted);
    if kept == 0 {
        state.floor = state.flushed;
    }
}
