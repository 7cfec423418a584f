//! The size model: an image of two blocks, of which a shrink cuts off the second and a grow brings it back.
//!
//! **The product doesn't have this yet**: an image keeps the size it was created with, so I14 guards nothing
//! there. This model keeps the rule for whoever builds the resize:
//!
//! - A shrink lowers the size in the record first. Else a holder that dies between leaves a hole in an image
//!   that is as large as ever.
//! - It then discards, with dirty bits. A brick that is away meanwhile still has the bytes, and only the bits
//!   tell that the copies differ.
//! - A grow zeroes the new range first, dirty: a holder that died before the discard left the old bytes there.
//! - It also *flushes* the zeroes before the record has the higher size, which I14 doesn't say: else a power loss
//!   undoes them, and not the size.
//!
//! Only the second block is modelled; the first never changes. It starts as 1 on both copies, flushed and clean.
//! Either brick may leave, at any moment, be dropped from S, and be healed by what bits there are.
//!
//! | here | of a product |
//! |---|---|
//! | `state::Copy::value`, `durable` | the block in the page cache, and on the medium |
//! | `state::Copy::dirty` | its bit; a discarded block keeps it until clean |
//! | `state::State::blocks`, `in_sync` | the record, decided in one step |
//! | `state::Work` | a write, discard or zeroing under way: it has the claim of the block (I13) |
//! | `state::Resize` | how far the holder's shrink or grow has come; gone with the holder |
//! | `state::State::may_read` | what a reader may find |
//!
//! Left out, as the data and heal models have them: the agreement on the record, the recovery in steps, PULL in
//! steps, and CLEAN's generations (it waits for the write under way). The dirty bit is as durable as I2 makes it.

mod effects;
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
    writes: u8,
    /// Shrinks; each may be followed by a grow.
    shrinks: u8,
    /// Times that a brick is cut off.
    cuts: u8,
    takeovers: u8,
    /// Power losses of everything at once.
    powers: u8,
}

const AWAY: Room = Room { name: "a brick is away", writes: 2, shrinks: 1, cuts: 1, takeovers: 0, powers: 0 };
const TAKEOVER: Room = Room { name: "takeover", writes: 1, cuts: 0, takeovers: 1, ..AWAY };
const POWER: Room = Room { name: "power", writes: 1, cuts: 0, powers: 1, ..AWAY };

const SMALL: [Room; 3] = [AWAY, TAKEOVER, POWER];

const FULL: [Room; 3] = [
    Room { shrinks: 2, cuts: 2, ..AWAY },
    Room { name: "away and takeover", writes: 2, shrinks: 2, cuts: 1, takeovers: 2, ..TAKEOVER },
    Room { name: "away and power", writes: 2, shrinks: 2, cuts: 1, takeovers: 1, ..POWER },
];

/// The model: a room, and the rules that hold there.
#[derive(Clone, Copy, Debug)]
pub struct Resizing {
    /// What may happen.
    pub room: Room,
    /// What the bricks and the holder obey.
    pub rules: Rules,
}

impl Resizing {
    /// One model for each room.
    pub fn rooms(size: Size, rules: Rules) -> impl Iterator<Item = Resizing> {
        let rooms: &[Room] = match size {
            Size::Small => &SMALL,
            Size::Full => &FULL,
        };
        rooms.iter().map(move |room| Resizing { room: *room, rules })
    }

    /// The room in which a broken rule shows.
    pub fn without(mutation: Mutation) -> Resizing {
        let room = match mutation {
            Mutation::DiscardBeforeLower | Mutation::GrowWithoutZeroing => TAKEOVER,
            Mutation::GrowWithoutFlush => POWER,
            _ => AWAY,
        };
        Resizing { room, rules: Rules::without(mutation) }
    }
}

impl Model for Resizing {
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

    fn properties(&self) -> Vec<Property<Resizing>> {
        properties::of(&self.room)
    }
}
