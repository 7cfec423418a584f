//! Where each step of the size model leads.

use super::super::{Brick, DATA, Mutation};
use super::Resizing;
use super::state::{Heal, Kind, Resize, State, Work, members};
use super::steps::Step;

impl Resizing {
    pub(super) fn take(&self, state: &mut State, step: Step) {
        match step {
            Step::Write => {
                state.written += 1;
                state.fresh = false;
                state.may_read |= 1 << state.written;
                start(state, Kind::Write(state.written));
            }
            Step::Done(brick) => self.apply(state, brick),
            Step::Clean => {
                flush(state);
                state.copies.iter_mut().for_each(|copy| copy.dirty = false);
            }
            Step::Shrink | Step::Discard | Step::Grow | Step::FlushZeroes | Step::Grown => {
                self.resize(state, step);
            }
            Step::Leaves(brick) => {
                state.left.cuts -= 1;
                state.copy(brick).away = true;
                if state.in_sync & brick.bit() == 0 {
                    stop_heal(state);
                } else {
                    // Its source is gone.
                    state.heal = None;
                }
            }
            Step::Returns(brick) => state.copy(brick).away = false,
            Step::Dropped(brick) => {
                state.in_sync &= !brick.bit();
                stop_heal(state);
            }
            Step::HealStarts | Step::Pulled | Step::Joins => heal(state, step),
            Step::TakeOver => {
                state.left.takeovers -= 1;
                take_over(state);
            }
            Step::PowerLost => {
                state.left.powers -= 1;
                state.may_read |= state.flushed;
                state.copies.iter_mut().for_each(|copy| copy.value = copy.durable);
                take_over(state);
            }
            Step::Recovers(source) => recover(state, source),
        }
    }

    fn resize(&self, state: &mut State, step: Step) {
        let too_early = self.rules.breaks(Mutation::DiscardBeforeLower);
        match step {
            Step::Shrink => {
                state.left.shrinks -= 1;
                state.resize = Some(Resize::Cut);
                if !too_early {
                    lower(state);
                }
            }
            Step::Discard => {
                state.resize = Some(Resize::Discarding);
                start(state, Kind::Discard);
            }
            Step::Grow if self.rules.breaks(Mutation::GrowWithoutZeroing) => {
                state.resize = Some(Resize::Flushed);
            }
            Step::Grow => {
                state.resize = Some(Resize::Zeroing);
                start(state, Kind::Zero);
            }
            Step::FlushZeroes => {
                flush(state);
                state.resize = Some(Resize::Flushed);
            }
            Step::Grown => {
                state.resize = None;
                state.blocks = 2;
                state.fresh = true;
                (state.may_read, state.flushed) = (1, 1);
            }
            _ => unreachable!("a resize's steps"),
        }
    }

    fn apply(&self, state: &mut State, brick: Brick) {
        let work = state.work.as_mut().expect("something is under way");
        work.left &= !brick.bit();
        let kind = work.kind;
        let copy = state.copy(brick);
        copy.value = if let Kind::Write(value) = kind { value } else { 0 };
        copy.dirty |= kind != Kind::Discard || !self.rules.breaks(Mutation::ShrinkWithoutBits);
        complete(state);
    }
}

/// The block isn't there any more, for anybody.
fn lower(state: &mut State) {
    state.blocks = 1;
    state.fresh = false;
    (state.may_read, state.flushed) = (0, 0);
}

/// To S, and to a brick that is healed.
fn start(state: &mut State, kind: Kind) {
    let left = if state.heal.is_some() { DATA } else { state.in_sync };
    state.work = Some(Work { kind, left });
}

/// Once nobody has it left to do.
fn complete(state: &mut State) {
    let Some(Work { kind, .. }) = state.work.take_if(|work| work.left == 0) else { return };
    match kind {
        Kind::Write(value) if state.blocks == 2 => state.may_read = 1 << value,
        Kind::Write(_) => {}
        Kind::Discard => {
            state.resize = None;
            if state.blocks == 2 {
                lower(state);
            }
        }
        Kind::Zero => state.resize = Some(Resize::Zeroed),
    }
}

/// Whoever is outside S has no part in what is under way.
fn stop_heal(state: &mut State) {
    state.heal = None;
    if let Some(work) = &mut state.work {
        work.left &= state.in_sync;
        complete(state);
    }
}

fn flush(state: &mut State) {
    for brick in members(state.in_sync) {
        let copy = state.copy(brick);
        copy.durable = copy.value;
    }
    state.flushed = state.may_read;
}

fn heal(state: &mut State, step: Step) {
    match step {
        Step::HealStarts => {
            let dirty = state.copies.iter().any(|copy| copy.dirty);
            state.heal = Some(Heal { listed: dirty || state.work.is_some() });
        }
        Step::Pulled => {
            let source = members(state.in_sync).next().expect("S is never empty");
            converge(state, source);
            state.heal = Some(Heal { listed: false });
        }
        Step::Joins => {
            for brick in members(DATA & !state.in_sync) {
                let copy = state.copy(brick);
                copy.durable = copy.value;
            }
            state.flushed |= state.may_read;
            state.in_sync = DATA;
            state.heal = None;
        }
        _ => unreachable!("a heal's steps"),
    }
}

/// What the holder had under way is drained, on any of the bricks (I1).
fn take_over(state: &mut State) {
    (state.work, state.resize, state.heal) = (None, None, None);
    state.serves = false;
}

/// A brick of S that isn't reached is dropped; the other one is made equal, where bits say that it may differ.
fn recover(state: &mut State, source: Brick) {
    state.in_sync &= state.reachable();
    if state.in_sync == DATA && state.copies.iter().any(|copy| copy.dirty) {
        converge(state, source);
    }
    state.serves = true;
    // From now on it is read; if it couldn't be, nothing may be.
    state.may_read &= 1 << state.copy(source).value;
}

fn converge(state: &mut State, source: Brick) {
    let value = state.copy(source).value;
    for copy in &mut state.copies {
        copy.dirty |= copy.value != value;
        copy.value = value;
    }
}
