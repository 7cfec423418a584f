//! The successor's side of the data model: `replica/open.rs`.

use super::super::{Brick, Bricks, DATA, Mutation};
use super::Data;
use super::state::{COPIES, Follows, Holder, Request, State};
use super::steps::Step;

impl Data {
    pub(super) fn steps_of_successor(&self, state: &State, steps: &mut Vec<Step>) {
        let up = state.which(|copy| copy.up);
        match state.successor {
            None if state.left.takeovers > 0 => {
                let reachable = [0b01, 0b10, 0b11].into_iter().filter(|bricks| bricks & !up == 0);
                steps.extend(reachable.filter(|bricks| bricks & state.record != 0).map(Step::Promised));
            }
            None => {}
            Some(promised) => {
                steps.push(Step::Overtakes);
                if !self.good_copies(state, promised) {
                    return;
                }
                steps.push(Step::TakesOver);
                if self.rules.breaks(Mutation::ConvergeBeforeAccept) {
                    self.steps_to_converge(state, state.record & promised, steps);
                }
            }
        }
        let holder = &state.holder;
        if holder.serves || state.successor.is_some() {
            return;
        }
        let equal = state.copies[0].value == state.copies[1].value;
        let dirty = state.copies.iter().any(|copy| copy.dirty);
        self.steps_to_converge(state, holder.in_sync, steps);
        let there = holder.in_sync & !state.which(|copy| copy.up && copy.follows == Follows::Holder) == 0;
        if there && (equal || !dirty) {
            steps.push(Step::Serves);
        }
    }

    /// A brick on another boot lost what wasn't flushed. While a brick of S is away that may have kept it,
    /// it is no good copy (I12).
    fn good_copies(&self, state: &State, promised: Bricks) -> bool {
        state.record & !promised == 0 || state.record & promised & state.which(|copy| !copy.rebooted) != 0
    }

    /// From a copy that kept running if there is one.
    fn steps_to_converge(&self, state: &State, among: Bricks, steps: &mut Vec<Step>) {
        let dirty = state.copies.iter().any(|copy| copy.dirty);
        let kept = among & state.which(|copy| !copy.rebooted);
        let any = kept == 0 || self.rules.breaks(Mutation::ConvergeFromCrashed);
        let there = among & !state.which(|copy| copy.up && copy.follows != Follows::Nobody) == 0;
        if among == DATA && dirty && there {
            let good = COPIES.iter().filter(|brick| any || kept & brick.bit() != 0);
            steps.extend(good.map(|brick| Step::Converges(*brick)));
        }
    }

    pub(super) fn take_over(&self, state: &mut State, step: Step) {
        match step {
            Step::Promised(bricks) => {
                state.left.takeovers -= 1;
                state.successor = Some(bricks);
                for brick in members(bricks) {
                    // What was issued is drained, so it is done or never will be.
                    let copy = state.copy(brick);
                    copy.follows = Follows::Successor;
                    copy.late = None;
                    if copy.request == Request::Sent {
                        copy.request = Request::NotSent;
                    }
                }
            }
            Step::Overtakes => {
                let bricks = state.successor.take().expect("there is one to overtake");
                members(bricks).for_each(|brick| state.copy(brick).follows = Follows::Holder);
            }
            Step::TakesOver => {
                let bricks = state.successor.take().expect("a successor takes over");
                state.record &= bricks;
                state.holder = Holder::new(state.record, state.record != DATA);
                for brick in COPIES {
                    let promised = bricks & brick.bit() != 0;
                    let value = state.written;
                    let copy = state.copy(brick);
                    if copy.request == Request::Sent {
                        copy.late = Some(value);
                    }
                    copy.request = Request::NotSent;
                    copy.follows = if promised { Follows::Holder } else { Follows::Nobody };
                }
                self.name_lives(state);
            }
            Step::Converges(source) => {
                let value = state.copies[source.index()].value;
                let target = state.copy(if source == Brick::D1 { Brick::D2 } else { Brick::D1 });
                target.value = value;
                target.dirty = true;
            }
            Step::Serves => {
                state.holder.serves = true;
                self.name_lives(state);
            }
            _ => unreachable!("the successor's steps"),
        }
    }

    /// A serving record names the present boots of S.
    pub(super) fn name_lives(&self, state: &mut State) {
        if state.holder.serves {
            members(state.record).for_each(|brick| state.copy(brick).rebooted = false);
        }
    }
}

/// The data bricks of a set.
pub(super) fn members(bricks: Bricks) -> impl Iterator<Item = Brick> {
    COPIES.into_iter().filter(move |brick| bricks & brick.bit() != 0)
}
