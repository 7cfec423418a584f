//! What can happen next in the heal model.

use super::super::{Brick, Bricks, DATA, Mutation};
use super::Healing;
use super::state::{Heal, Request, State};

const COPIES: [Brick; 2] = [Brick::D1, Brick::D2];

/// One thing that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The user writes the next value.
    Write,
    /// It is sent again to a brick whose connection came back.
    Resend(Brick),
    /// The brick takes the oldest request of its connection.
    Request(Brick),
    /// The brick takes a request of a connection that has ended.
    OldRequest(Brick),
    /// The brick has done the write at this place of its ring.
    Done(Brick, usize),
    /// The holder takes the oldest answer of the connection.
    Reply(Brick),
    /// A flush begins.
    Flush,
    /// It is done, and bits may be dropped.
    FlushDone,
    /// The heal of D2 begins: from now on writes are followed or listed.
    HealStarts,
    /// The brick's map is read.
    Gathered(Brick),
    /// D2 is told to pull the block.
    PullSent,
    /// D1 reads it for D2.
    SourceReads,
    /// D2 writes what it fetched.
    TargetWrites,
    /// A pull of an older session arrives after all.
    StrayPull,
    /// Nothing is listed or under way: D2 enters S.
    Joins,
    /// The copies are equal: the recovering session serves.
    Serves,
    /// The connection breaks.
    Breaks(Brick),
    /// The next connection of the same session is let in.
    Reconnects(Brick),
    /// Another session is promised, and takes over.
    TakeOver,
    /// D1 loses power and is back, without its unflushed write.
    PowerLost,
    /// D1 leaves S for that, and D2 serves.
    SourceLeaves,
}

impl Healing {
    pub(super) fn possible_steps(&self, state: &State, steps: &mut Vec<Step>) {
        for brick in COPIES {
            self.steps_of_brick(state, brick, steps);
        }
        self.steps_of_pull(state, steps);
        self.steps_of_user(state, steps);
        self.steps_of_heal(state, steps);
        let drained = state.sides.iter().all(|side| {
            let unchecked = self.rules.breaks(Mutation::HealWithoutEpoch);
            side.ring.is_empty() && (side.pull.is_none() || unchecked)
        });
        if state.takeovers_left > 0 && drained {
            steps.push(Step::TakeOver);
        }
        if state.powers_left > 0 && !state.serves {
            steps.push(Step::PowerLost);
        }
        // Not before the pull that D2 has issued is over: its connection is reset and drained.
        if state.sides[0].rebooted && !state.serves && state.sides[1].pull.is_none() {
            steps.push(Step::SourceLeaves);
        }
    }

    fn steps_of_brick(&self, state: &State, brick: Brick, steps: &mut Vec<Step>) {
        let side = &state.sides[brick.index()];
        // A pull holds its block: a write that comes after it waits (`engine/tasks.rs`).
        let beside = self.rules.breaks(Mutation::PullBesideWrite);
        let waits = |request: &Request| match request {
            Request::Write { .. } => side.pull.is_some() && !beside,
            Request::Pull => side.pull.is_some(),
            Request::Clean { .. } => false,
        };
        if side.requests.first().is_some_and(|request| !waits(request)) {
            steps.push(Step::Request(brick));
        }
        if !side.unread.is_empty() && side.pull.is_none() {
            steps.push(Step::OldRequest(brick));
        }
        if !side.replies.is_empty() {
            steps.push(Step::Reply(brick));
        }
        // So does a write that comes after another one.
        let any_order = self.rules.breaks(Mutation::SecondWriteOvertakes);
        let ready = if any_order { side.ring.len() } else { side.ring.len().min(1) };
        steps.extend((0..ready).map(|place| Step::Done(brick, place)));
        if side.connected && state.breaks_left > 0 {
            steps.push(Step::Breaks(brick));
        }
        // Everything that the old connection had issued is done before the new one is welcomed (I1).
        let drained = side.ring.is_empty() && side.pull.is_none();
        if !side.connected && (drained || self.rules.breaks(Mutation::OldConnectionSurvives)) {
            steps.push(Step::Reconnects(brick));
        }
    }

    fn steps_of_pull(&self, state: &State, steps: &mut Vec<Step>) {
        let target = &state.sides[1];
        let busy = state.sides.iter().any(|side| !side.ring.is_empty());
        match target.pull {
            Some(pull) if pull.fetched.is_some() => steps.push(Step::TargetWrites),
            // A read is ordered behind writes in flight to the same block, at both ends.
            Some(_) if busy && !self.rules.breaks(Mutation::PullBesideWrite) => {}
            Some(_) => steps.push(Step::SourceReads),
            None if target.stray_pull => steps.push(Step::StrayPull),
            None => {}
        }
    }

    fn steps_of_user(&self, state: &State, steps: &mut Vec<Step>) {
        let pulling = state.heal.as_ref().is_some_and(|heal| heal.pulling);
        if let Some(write) = state.write {
            for brick in COPIES {
                let missing = state.in_sync & !write.sent & brick.bit() != 0;
                if missing && state.sides[brick.index()].connected {
                    steps.push(Step::Resend(brick));
                }
            }
        } else if state.serves && state.written < self.room.writes && !pulling {
            // The claim of a pull keeps the write waiting (I13).
            steps.push(Step::Write);
        }
        match state.flush {
            None if state.flushes_left > 0 && state.serves => steps.push(Step::Flush),
            Some(_) => steps.push(Step::FlushDone),
            None => {}
        }
    }

    fn steps_of_heal(&self, state: &State, steps: &mut Vec<Step>) {
        let linked = state.sides.iter().all(|side| side.connected);
        if !linked || state.sides[0].rebooted {
            return;
        }
        let wanted = !state.serves || state.in_sync != DATA;
        let Some(heal) = &state.heal else {
            if wanted {
                steps.push(Step::HealStarts);
            }
            return;
        };
        let own = if self.rules.breaks(Mutation::OwnBitsForgotten) { Brick::D1.bit() } else { DATA };
        let left = own & !heal.gathered;
        steps.extend(
            COPIES.iter().filter(|brick| left & brick.bit() != 0).map(|brick| Step::Gathered(*brick)),
        );
        if left != 0 {
            return;
        }
        // A pull waits for writes to its block.
        if heal.listed && !heal.pulling && state.write.is_none() {
            steps.push(Step::PullSent);
        }
        if is_equal(heal) && state.write.is_none() {
            steps.push(if state.serves { Step::Joins } else { Step::Serves });
        }
    }
}

/// Nothing listed, nothing in flight: it has every completed write (I10).
fn is_equal(heal: &Heal) -> bool {
    !heal.listed && !heal.pulling && heal.followed.is_empty()
}

/// The bricks of a set.
pub(super) fn members(bricks: Bricks) -> impl Iterator<Item = Brick> {
    COPIES.into_iter().filter(move |brick| bricks & brick.bit() != 0)
}
