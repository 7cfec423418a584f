//! The data model: one block on two data bricks, its holder, and the session that takes over from it.
//!
//! The user writes 1, then 2; the copies start at 0. A brick may be cut off, or lose power (so its unflushed
//! write is gone); it is dropped from S, healed and joined again; a write may be refused, a sync may fail; the
//! holder may be replaced at any moment, and its successor, too. Values only grow, so "old" is "less".
//!
//! | here | there |
//! |---|---|
//! | `state::Copy::value`, `durable` | a block in the page cache, and on the medium |
//! | `state::Copy::dirty` | `engine/dirty.rs`: the block's bit; a crash sets it, as the map isn't exact then |
//! | `state::Copy::spoiled` | `engine/flush.rs`: a block whose sync failed, not rewritten since |
//! | `state::Copy::rebooted` | another boot than the record names (`replica/catch_up.rs`: `lost_memory`) |
//! | `state::Copy::late` | a request of a connection that ended, issued and not drained |
//! | `state::Copy::follows` | `engine/fence.rs`: whose epoch is promised |
//! | `state::State::record` | the decided record's S; the arbiter is always there to decide |
//! | `state::Holder::proposal` | `replica/epoch.rs`: `Change`, decided or not, not yet known |
//! | `state::Holder::write`, `flush` | `replica/write.rs`, `flush.rs`: the operation and its answers |
//! | `state::Holder::heal` | `replica/heal.rs`: listed, equal, joining |
//! | `state::Holder::suspect` | `Group::suspect`: after a refusal by all, everybody reads this copy |
//! | `state::Successor` | `replica/open.rs`: promised, then *recovering* |
//!
//! A write that all of S refused may have changed one copy. Its value may be read and then be gone again, if the
//! brick that was read leaves before the copies are equal: the model allows that, as the user was told.
//!
//! Left out: agreement on the record (the epoch model has it), so a proposal is decided in one step or never;
//! CLEAN on its way and PULL in steps (the heal model has them); several blocks; a successor's writes.

mod effects;
mod properties;
mod state;
mod steps;
mod takeover;

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
    flushes: u8,
    /// Connections that break.
    cuts: u8,
    /// Power losses, of one brick or of both.
    powers: u8,
    takeovers: u8,
    /// Writes that a brick refuses.
    refusals: u8,
    /// Syncs that fail.
    sync_errors: u8,
    /// Writes that fail to the user while they are under way.
    timeouts: u8,
}

const NOTHING: Room = Room {
    name: "",
    writes: 1,
    flushes: 0,
    cuts: 0,
    powers: 0,
    takeovers: 0,
    refusals: 0,
    sync_errors: 0,
    timeouts: 0,
};

const DROP: Room = Room { name: "drop and join", cuts: 1, takeovers: 1, ..NOTHING };
const POWER: Room = Room { name: "power", flushes: 1, powers: 1, takeovers: 1, ..NOTHING };
const JOIN: Room = Room { name: "join and power", flushes: 1, cuts: 1, powers: 1, takeovers: 1, ..NOTHING };
const ERRORS: Room = Room { name: "errors", flushes: 1, refusals: 2, sync_errors: 1, ..NOTHING };
const TIMEOUT: Room = Room { name: "timeout", writes: 2, timeouts: 1, cuts: 1, ..NOTHING };

const SMALL: [Room; 5] = [DROP, POWER, JOIN, ERRORS, TIMEOUT];

const FULL: [Room; 5] = [
    Room { writes: 2, flushes: 1, cuts: 2, takeovers: 2, ..DROP },
    Room { writes: 2, flushes: 2, powers: 1, takeovers: 2, ..POWER },
    Room { writes: 2, flushes: 1, takeovers: 1, ..JOIN },
    Room { writes: 2, flushes: 2, cuts: 1, takeovers: 1, ..ERRORS },
    Room { flushes: 1, takeovers: 1, ..TIMEOUT },
];

/// The model: a room, and the rules that hold there.
#[derive(Clone, Copy, Debug)]
pub struct Data {
    /// What may happen.
    pub room: Room,
    /// What the bricks and sessions obey.
    pub rules: Rules,
}

impl Data {
    /// One model for each room.
    pub fn rooms(size: Size, rules: Rules) -> impl Iterator<Item = Data> {
        let rooms: &[Room] = match size {
            Size::Small => &SMALL,
            Size::Full => &FULL,
        };
        rooms.iter().map(move |room| Data { room: *room, rules })
    }

    /// The room in which a broken rule shows.
    pub fn without(mutation: Mutation) -> Data {
        let room = match mutation {
            Mutation::JoinWithoutFlush => JOIN,
            Mutation::BootAcceptedAtSameEpoch | Mutation::ConvergeFromCrashed => POWER,
            Mutation::BothDropped | Mutation::FlushRetried => ERRORS,
            Mutation::UnlocksEarly => TIMEOUT,
            _ => DROP,
        };
        Data { room, rules: Rules::without(mutation) }
    }
}

impl Model for Data {
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

    fn properties(&self) -> Vec<Property<Data>> {
        properties::of(&self.room)
    }
}
