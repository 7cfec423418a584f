//! What can happen next in the size model.

use super::super::{Brick, DATA, Mutation};
use super::Resizing;
use super::state::{FIRST, Resize, State, members};

/// One thing that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The user writes the next value.
    Write,
    /// The brick does what is under way.
    Done(Brick),
    /// All have flushed: bits are dropped.
    Clean,
    /// The user shrinks the image: the record has the lower size.
    Shrink,
    /// The block that was cut off is discarded.
    Discard,
    /// The user grows the image: the block is zeroed.
    Grow,
    /// S flushes the zeroes.
    FlushZeroes,
    /// The record has the higher size.
    Grown,
    /// The brick is cut off.
    Leaves(Brick),
    /// It is back.
    Returns(Brick),
    /// It is dropped from S.
    Dropped(Brick),
    /// The heal of the brick outside S begins: from now on it gets what S gets.
    HealStarts,
    /// It pulls the block.
    Pulled,
    /// Nothing is listed: it is flushed, and enters S.
    Joins,
    /// The holder dies, another session takes over.
    TakeOver,
    /// Everything loses power.
    PowerLost,
    /// The recovering session makes the copies equal, from this one, and serves.
    Recovers(Brick),
}

impl Resizing {
    pub(super) fn possible_steps(&self, state: &State, steps: &mut Vec<Step>) {
        if state.serves {
            self.steps_of_holder(state, steps);
            self.steps_of_resize(state, steps);
            steps_of_heal(state, steps);
        } else {
            steps.extend(members(state.in_sync & state.reachable()).map(Step::Recovers));
        }
        if state.left.takeovers > 0 {
            steps.push(Step::TakeOver);
        }
        if state.left.powers > 0 {
            steps.push(Step::PowerLost);
        }
        for brick in members(DATA) {
            if state.copies[brick.index()].away {
                steps.push(Step::Returns(brick));
            } else if state.left.cuts > 0 {
                steps.push(Step::Leaves(brick));
            }
        }
    }

    fn steps_of_holder(&self, state: &State, steps: &mut Vec<Step>) {
        let idle = state.work.is_none();
        let cut = matches!(state.resize, Some(Resize::Cut | Resize::Discarding));
        if idle && state.blocks == 2 && !cut && state.written < FIRST + self.room.writes {
            steps.push(Step::Write);
        }
        if let Some(work) = state.work {
            steps.extend(members(work.left & state.reachable()).map(Step::Done));
        }
        let dirty = state.copies.iter().any(|copy| copy.dirty);
        if idle && dirty && state.in_sync & state.reachable() == DATA {
            steps.push(Step::Clean);
        }
        // S is never empty (I9).
        let missing = state.in_sync & !state.reachable();
        if state.in_sync & state.reachable() != 0 {
            steps.extend(members(missing).map(Step::Dropped));
        }
    }

    fn steps_of_resize(&self, state: &State, steps: &mut Vec<Step>) {
        let idle = state.work.is_none();
        match state.resize {
            // The record changes beside a write to the block; what was cut is discarded after it (I13).
            None if state.blocks == 2 && state.left.shrinks > 0 => steps.push(Step::Shrink),
            None if state.blocks == 1 && idle => steps.push(Step::Grow),
            Some(Resize::Cut) if idle => steps.push(Step::Discard),
            Some(Resize::Zeroed) if self.rules.breaks(Mutation::GrowWithoutFlush) => steps.push(Step::Grown),
            Some(Resize::Zeroed) if state.in_sync & !state.reachable() == 0 => steps.push(Step::FlushZeroes),
            Some(Resize::Flushed) => steps.push(Step::Grown),
            _ => {}
        }
    }
}

fn steps_of_heal(state: &State, steps: &mut Vec<Step>) {
    if state.in_sync == DATA || state.reachable() != DATA {
        return;
    }
    match state.heal {
        None => steps.push(Step::HealStarts),
        // A pull waits for what is under way to the block.
        Some(_) if state.work.is_some() => {}
        Some(heal) => steps.push(if heal.listed { Step::Pulled } else { Step::Joins }),
    }
}
