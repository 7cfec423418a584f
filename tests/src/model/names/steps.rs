//! What can happen next in the names model, and where it leads.

use super::super::{Brick, Bricks, Mutation, is_majority};
use super::Names;
use super::state::{Ballot, Change, EVERY_BRICK, State, Value, majorities, members};

/// One thing that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Somebody creates the name, as these bricks don't have it; they promise.
    Create(Bricks),
    /// Somebody removes it.
    Remove(Bricks),
    /// The brick reads this change's accept.
    Accept(u8, Brick),
    /// The client of the change under way dies.
    ClientDies,
    /// Somebody sees that all bricks have the tombstone, and tells them to drop it.
    Collect,
    /// The brick reads that.
    Drop(Brick),
    /// The brick is cut off.
    Leaves(Brick),
    /// It is back.
    Returns(Brick),
}

impl Names {
    pub(super) fn possible_steps(&self, state: &State, steps: &mut Vec<Step>) {
        if !state.waits && state.changes.len() < usize::from(self.room.changes) {
            for bricks in majorities().filter(|bricks| bricks & state.away == 0) {
                let free = state.read(bricks) == Value::Nothing;
                steps.push(if free { Step::Create(bricks) } else { Step::Remove(bricks) });
            }
        }
        for (number, change) in (0..).zip(&state.changes) {
            steps.extend(members(change.unread & !state.away).map(|brick| Step::Accept(number, brick)));
        }
        if state.waits {
            steps.push(Step::ClientDies);
        }
        match state.collecting {
            Some((_, left)) => steps.extend(members(left & !state.away).map(Step::Drop)),
            None if state.collections_left > 0 && self.collectable(state).is_some() => {
                steps.push(Step::Collect);
            }
            None => {}
        }
        for brick in members(EVERY_BRICK) {
            if state.away & brick.bit() != 0 {
                steps.push(Step::Returns(brick));
            } else if state.cuts_left > 0 && state.away == 0 {
                steps.push(Step::Leaves(brick));
            }
        }
    }

    pub(super) fn take(&self, state: &mut State, step: Step) {
        match step {
            Step::Create(bricks) => prepare(state, bricks, Value::Image(state.changes.len() as u8)),
            Step::Remove(bricks) => prepare(state, bricks, Value::Nothing),
            Step::Accept(number, brick) => accept(state, usize::from(number), brick),
            Step::ClientDies => state.waits = false,
            Step::Collect => {
                state.collections_left -= 1;
                state.collecting = self.collectable(state);
            }
            Step::Drop(brick) => self.drop_tombstone(state, brick),
            Step::Leaves(brick) => {
                state.cuts_left -= 1;
                state.away |= brick.bit();
            }
            Step::Returns(brick) => state.away &= !brick.bit(),
        }
    }

    /// The tombstone that may be dropped, and who has it: every brick of the group (R3).
    fn collectable(&self, state: &State) -> Option<(Ballot, Bricks)> {
        let early = self.rules.breaks(Mutation::TombstoneCollectedEarly);
        state.changes.iter().filter(|change| change.value == Value::Nothing).find_map(|removal| {
            let tombstone = Some((removal.ballot, Value::Nothing));
            let holds = |brick: &Brick| state.sides[brick.index()].accepted == tombstone;
            let holders: Bricks = members(EVERY_BRICK & !state.away).filter(holds).map(Brick::bit).sum();
            let enough = holders == EVERY_BRICK || early && is_majority(holders);
            enough.then_some((removal.ballot, holders))
        })
    }

    /// Only this very tombstone is dropped: the name may have been created again meanwhile.
    fn drop_tombstone(&self, state: &mut State, brick: Brick) {
        let (ballot, left) = state.collecting.expect("a tombstone is collected");
        let left = left & !brick.bit();
        state.collecting = (left != 0).then_some((ballot, left));
        let side = &mut state.sides[brick.index()];
        let another = side.accepted != Some((ballot, Value::Nothing));
        if another && !self.rules.breaks(Mutation::DropWithoutLooking) {
            return;
        }
        side.accepted = None;
        if self.rules.breaks(Mutation::CollectorForgetsBallots) {
            side.promised = Ballot::default();
        }
    }
}

/// The bricks promise a ballot above all of theirs.
fn prepare(state: &mut State, bricks: Bricks, value: Value) {
    let highest = members(bricks).map(|brick| state.sides[brick.index()].promised.counter).max();
    let ballot = Ballot { counter: highest.unwrap_or(0) + 1, change: state.changes.len() as u8 };
    for brick in members(bricks) {
        state.sides[brick.index()].promised = ballot;
    }
    state.changes.push(Change { ballot, value, unread: EVERY_BRICK, accepted: 0 });
    state.waits = true;
    if !state.allowed.contains(&value) {
        state.allowed.push(value);
    }
}

fn accept(state: &mut State, number: usize, brick: Brick) {
    let last = number + 1 == state.changes.len();
    let change = &mut state.changes[number];
    change.unread &= !brick.bit();
    let side = &mut state.sides[brick.index()];
    if change.ballot < side.promised {
        return;
    }
    side.promised = change.ballot;
    side.accepted = Some((change.ballot, change.value));
    change.accepted |= brick.bit();
    // The client is told that it is done, and so is everybody who asks from now on.
    if last && state.waits && is_majority(change.accepted) {
        state.waits = false;
        state.allowed = vec![change.value];
    }
}
