//! The epoch model: three bricks, two clients, one image's epoch register, its lease and its fence.
//!
//! X holds the image at the start, decided and renewed everywhere; Y wants it. They prepare, accept, drop a
//! brick, close, renew, read and write, over one queue per client, brick and direction. A brick may restart,
//! another may lose its registers and learn them again. Any message may be delayed for ever, which stands
//! for a partition, a silent brick and a paused client.
//!
//! | here | there |
//! |---|---|
//! | `state::Acceptor::promised`, `accepted` | `engine/registers.rs`: `RegisterState`, as appended |
//! | `state::Acceptor::synced` | what the register log holds; another value only where rule R1 is broken |
//! | `state::Acceptor::draining`, `ring` | `engine/fence.rs`: `Drained::Image`, and an issued request |
//! | `state::Acceptor::lease` | `engine/lease.rs`: `Lease`, its clock reduced to "over or not"; a healer's, which keeps no client out, counts as over |
//! | `state::Client::stage` | `replica/epoch.rs`: `Change` and its `Stage`, with `Phase` |
//! | `state::Client::believes` | `replica/lease.rs`: bricks whose `renewed_at` still counts |
//! | `state::Client::unfenced` | `replica/epoch.rs`: `serve_not_before`, as what it waits for |
//! | `state::Learner` | `volume/learn.rs` |
//! | `steps`: `Open` | `replica/open.rs`: the pre-vote, in one step |
//!
//! Time: a brick's lease ends at any moment after the holder stopped believing in the renewal that the brick
//! counts from, which is what margin and counting from the sending achieve. A renewal is one step.
//!
//! Left out: sizes, incarnations and the *recovering* and *heal* kinds (the data model has them), more than
//! one register, and start counters: the brick that lost its registers always knows that it did.

mod brick;
mod client;
mod properties;
mod state;
mod steps;

use stateright::{Model, Property};

use super::{Brick, Bricks, Mutation, Rules, Size};
use state::Session;
pub use state::State;
pub use steps::Step;

/// What may happen in a run. All of it at once is too much for minutes; each room is searched wholly.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// What it is about.
    pub name: &'static str,
    /// What has happened before it starts.
    script: &'static [Step],
    /// Ballots count up to this.
    counter_max: u8,
    /// There are leases; without them every lease is over from the start.
    leases: bool,
    /// Y may take over by force.
    force: bool,
    /// Reads and writes that a client sends under each of its records.
    reads: u8,
    writes: u8,
    /// Bricks that X may drop from S.
    drops: u8,
    /// X may close the image.
    close: bool,
    restarts: u8,
    /// Bricks that may lose their registers.
    wipes: u8,
    /// The bricks which that may happen to.
    victims: Bricks,
}

const NOTHING: Room = Room {
    name: "",
    script: &[],
    counter_max: 2,
    leases: false,
    force: false,
    reads: 0,
    writes: 0,
    drops: 0,
    close: false,
    restarts: 0,
    wipes: 0,
    victims: 0b111,
};

const VOTES: Room = Room { name: "votes", drops: 1, ..NOTHING };
const RESTART: Room = Room { name: "restart", drops: 1, restarts: 1, victims: 0b100, ..NOTHING };
const BLANK: Room = Room { name: "blank", drops: 1, wipes: 1, victims: 0b100, ..NOTHING };
const LEASE: Room = Room { name: "lease", leases: true, restarts: 1, ..NOTHING };
const READS: Room = Room { name: "reads", leases: true, force: true, reads: 1, ..NOTHING };
const WRITES: Room = Room { name: "writes", writes: 1, ..NOTHING };
/// The arbiter promised to X, lost that, learned, and doesn't know of it any more.
const FORGOTTEN: Room = Room {
    name: "forgotten promise",
    script: &[
        Step::Open(0b111),
        Step::Drop(Brick::D1),
        Step::Request(Session::X, Brick::A),
        Step::Reply(Session::X, Brick::A),
        Step::Wipe(Brick::A),
        Step::Teach,
        Step::TeacherAsks(Brick::D1),
        Step::TeacherAsks(Brick::D2),
        Step::Learned(Brick::A),
    ],
    wipes: 1,
    drops: 1,
    ..NOTHING
};
/// The arbiter was the first to accept Y's record, and lost that.
const LOST_ACCEPT: Room = Room {
    name: "lost accept",
    script: &[
        Step::Open(0b111),
        Step::Request(Session::Y, Brick::D1),
        Step::Reply(Session::Y, Brick::D1),
        Step::Request(Session::Y, Brick::A),
        Step::Reply(Session::Y, Brick::A),
        Step::Propose(Session::Y),
        Step::Request(Session::Y, Brick::A),
        Step::Reply(Session::Y, Brick::A),
        Step::Wipe(Brick::A),
    ],
    wipes: 1,
    drops: 1,
    ..NOTHING
};

/// The rooms of the fast run.
const SMALL: [Room; 6] = [VOTES, FORGOTTEN, LOST_ACCEPT, Room { victims: 0b100, ..LEASE }, READS, WRITES];

/// The rooms of the long run.
const FULL: [Room; 10] = [
    Room { counter_max: 3, ..VOTES },
    Room { victims: 0b111, ..RESTART },
    BLANK,
    FORGOTTEN,
    LOST_ACCEPT,
    LEASE,
    Room { name: "close", counter_max: 3, close: true, ..NOTHING },
    Room { restarts: 1, victims: 0b100, ..READS },
    Room { writes: 1, drops: 1, restarts: 1, ..WRITES },
    Room { name: "writes by force", leases: true, force: true, ..WRITES },
];

/// The model: a room, and the rules that hold there.
#[derive(Clone, Copy, Debug)]
pub struct Epoch {
    /// What may happen.
    pub room: Room,
    /// What the bricks and clients obey.
    pub rules: Rules,
}

impl Epoch {
    /// One model for each room.
    pub fn rooms(size: Size, rules: Rules) -> impl Iterator<Item = Epoch> {
        let rooms: &[Room] = match size {
            Size::Small => &SMALL,
            Size::Full => &FULL,
        };
        rooms.iter().map(move |room| Epoch { room: *room, rules })
    }

    /// The room in which a broken rule shows.
    pub fn without(mutation: Mutation) -> Epoch {
        let room = match mutation {
            Mutation::OldEpochPasses | Mutation::PromiseBeforeDrain => WRITES,
            Mutation::RestartForgetsLease => LEASE,
            Mutation::BlankVotes => BLANK,
            Mutation::LearnWithoutFence => LOST_ACCEPT,
            Mutation::PromiseNotSynced => Room { restarts: 1, ..WRITES },
            Mutation::LeaseCheckedAtIssue | Mutation::ForceWithoutWaiting => READS,
            Mutation::StalePromiseCounts => FORGOTTEN,
            _ => VOTES,
        };
        Epoch { room, rules: Rules::without(mutation) }
    }
}

impl Model for Epoch {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        let mut state = State::new(&self.room);
        for step in self.room.script {
            self.take(&mut state, *step);
        }
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Step>) {
        self.possible_steps(state, actions);
    }

    fn next_state(&self, last: &State, action: Step) -> Option<State> {
        let mut state = last.clone();
        self.take(&mut state, action);
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Epoch>> {
        properties::of(&self.room)
    }
}
