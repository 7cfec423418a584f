//! The names model: one name, a register on three bricks, that is created, removed, created again and forgotten.
//!
//! **The product doesn't have this yet.** It removes a name by writing a tombstone and keeps that for good
//! (`brickctl image rm`), so the end of R3 guards nothing there. This model keeps the rule for whoever builds
//! the collection of tombstones: a brick may forget a tombstone only when *every* brick of the group has it, a
//! majority isn't enough. And one more, which R3 leaves unsaid: a brick that forgets the tombstone must go on
//! refusing ballots up to the one it had promised. One number a brick does, for all its names; it says nothing
//! about this name, so a reader can't take it for the tombstone.
//!
//! A change prepares on a majority in one step, and reads there what it changes. Its accepts then reach each
//! brick one by one, at any time or never, also after its client is gone. So a brick that was away during a
//! removal may be told afterwards, and an accept of the first creation may arrive after everything else. Every
//! creation makes an image of its own: another one under the name is as wrong as none.
//!
//! | here | of a product |
//! |---|---|
//! | `state::Side::accepted` | the register: an image, or a tombstone; none is a name never heard of |
//! | `state::Side::promised` | the register's promise while there is one, then the brick's number for all names |
//! | `state::Change` | a create or a remove, with the accepts that are still on their way |
//! | `state::State::collecting` | a tombstone that every brick was seen to have, and who is still to drop it |
//! | `state::State::allowed` | what a reader may find, from what users were told |
//!
//! Left out: a prepare brick by brick, and bricks that forget what they promised (the epoch model has both);
//! renames; the ids by which a retried request gets its old answer.

mod properties;
mod state;
mod steps;

use stateright::{Model, Property};

use super::{Mutation, Rules, Size};
pub use state::State;
pub use steps::Step;

/// What may happen in a run.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// What it is about.
    pub name: &'static str,
    /// Creations and removals.
    changes: u8,
    /// Times that a brick is cut off.
    cuts: u8,
    collections: u8,
}

const AWAY: Room = Room { name: "a brick is away", changes: 3, cuts: 1, collections: 1 };

const SMALL: [Room; 1] = [AWAY];

const FULL: [Room; 2] = [
    Room { name: "two bricks are away", cuts: 2, collections: 2, ..AWAY },
    Room { name: "removed twice", changes: 4, cuts: 0, collections: 1 },
];

/// The model: a room, and the rules that hold there.
#[derive(Clone, Copy, Debug)]
pub struct Names {
    /// What may happen.
    pub room: Room,
    /// What bricks and clients obey.
    pub rules: Rules,
}

impl Names {
    /// One model for each room.
    pub fn rooms(size: Size, rules: Rules) -> impl Iterator<Item = Names> {
        let rooms: &[Room] = match size {
            Size::Small => &SMALL,
            Size::Full => &FULL,
        };
        rooms.iter().map(move |room| Names { room: *room, rules })
    }

    /// The room in which a broken rule shows.
    pub fn without(mutation: Mutation) -> Names {
        Names { room: AWAY, rules: Rules::without(mutation) }
    }
}

impl Model for Names {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State::new(&self.room)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Step>) {
        self.possible_steps(state, actions);
    }

    fn next_state(&self, last: &State, action: Step) -> Option<State> {
        let mut state = last.clone();
        self.take(&mut state, action);
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Names>> {
        properties::all()
    }
}
