//! The heal model: one block, two writes, one connection to each data brick, and what is on them.
//!
//! D1 is the good copy, D2 is healed from it. Requests and answers travel on one connection a brick, in order;
//! a brick does
//! what overlaps in the order of its arrival (`engine/tasks.rs`). A connection may break and come back, another session may take over
//! at any moment, and in a recovery the source may lose power. Every write has its own value, and the copies
//! of S are compared with what the user must see.
//!
//! | here | there |
//! |---|---|
//! | `state::Side::requests`, `replies` | one connection; `driver/link.rs`, `reactor/connection.rs` |
//! | `state::Side::ring` | `engine/tasks.rs`: writes by their claims; `old` ones came by a lower generation |
//! | `state::Side::dirty` | `engine/dirty.rs`: the block's highest layer |
//! | `state::Side::fence` | `engine/fence.rs`: the session whose epoch is promised |
//! | `state::Pull` | `engine/pull.rs`, `pull_source.rs`: asked for, or fetched and not yet written |
//! | `state::Heal` | `replica/gather.rs`: `Heal`, its list, `Followed` and their staleness |
//! | `state::State::in_sync` | S, decided and known in one step (the data model takes that apart) |
//! | `state::State::generation` | `FlushState::generation`; `Covers::boundary` in `state::Flush` |
//!
//! Left out: durability (the data model has it), several blocks and cores, so that a CLEAN never overtakes a
//! write on another connection; the arbiter. D1 and D2 have different roles, so there is no symmetry.

mod effects;
mod properties;
mod state;
mod steps;

use stateright::{Model, Property};

use super::{Mutation, Rules, Size};
pub use state::State;
pub use steps::Step;

/// Where it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// D2 is not in S: it missed a write, or has one that nobody else saw.
    Stale,
    /// Both are in S, both have a completed unflushed write, and the next session recovers from D1.
    Recovering,
}

/// What may happen in a run.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// What it is about.
    pub name: &'static str,
    start: Start,
    writes: u8,
    flushes: u8,
    /// Connections that break.
    breaks: u8,
    takeovers: u8,
    /// Power losses of the source, in a recovery.
    powers: u8,
}

const HEAL: Room =
    Room { name: "heal", start: Start::Stale, writes: 2, flushes: 1, breaks: 0, takeovers: 0, powers: 0 };
const RECONNECT: Room = Room { name: "reconnect", flushes: 0, breaks: 1, ..HEAL };
const TAKEOVER: Room = Room { name: "takeover", writes: 2, flushes: 0, takeovers: 1, ..HEAL };
const RECOVERY: Room =
    Room { name: "recovery", start: Start::Recovering, writes: 1, flushes: 0, powers: 1, ..HEAL };

const SMALL: [Room; 4] = [HEAL, RECONNECT, TAKEOVER, RECOVERY];

const FULL: [Room; 3] = [
    Room { name: "heal and reconnect", flushes: 2, breaks: 2, ..HEAL },
    Room { flushes: 1, breaks: 1, ..TAKEOVER },
    Room { writes: 2, flushes: 1, takeovers: 1, breaks: 1, ..RECOVERY },
];

/// The model: a room, and the rules that hold there.
#[derive(Clone, Copy, Debug)]
pub struct Healing {
    /// What may happen.
    pub room: Room,
    /// What the bricks and the holder obey.
    pub rules: Rules,
}

impl Healing {
    /// One model for each room.
    pub fn rooms(size: Size, rules: Rules) -> impl Iterator<Item = Healing> {
        let rooms: &[Room] = match size {
            Size::Small => &SMALL,
            Size::Full => &FULL,
        };
        rooms.iter().map(move |room| Healing { room: *room, rules })
    }

    /// The room in which a broken rule shows.
    pub fn without(mutation: Mutation) -> Healing {
        let room = match mutation {
            Mutation::OldConnectionSurvives => RECONNECT,
            Mutation::HealWithoutEpoch => TAKEOVER,
            Mutation::PullFromRestarted => RECOVERY,
            _ => HEAL,
        };
        Healing { room, rules: Rules::without(mutation) }
    }
}

impl Model for Healing {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        State::starts(&self.room)
    }

    fn actions(&self, state: &State, actions: &mut Vec<Step>) {
        self.possible_steps(state, actions);
    }

    fn next_state(&self, last: &State, action: Step) -> Option<State> {
        let mut state = last.clone();
        self.take(&mut state, action);
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Healing>> {
        properties::of(&self.room)
    }
}
