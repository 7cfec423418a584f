//! Five small models of the rules, checked exhaustively: what the simulator tries at random, on whole
//! bricks, is here tried in every order, on an abstraction that fits on a page.
//!
//! - [`epoch`]: registers, lease and fencing (R1, R2, R4, I1, I8): who may write.
//! - [`data`]: one block, its holder and the next one (I3, I4, I5, I7, I9, I10, I12, recovery): what is read.
//! - [`heal`]: one connection a brick, PULL in steps, CLEAN, reconnects (I6, I13, I15): copies become equal.
//! - [`size`]: a block that a shrink cuts off and a grow brings back (I14): nothing old shines through.
//! - [`names`]: a name that is created, removed and forgotten (the end of R3): nothing removed comes back.
//!
//! The last two are ahead of the product, which can neither resize nor forget a name: they keep the rules for
//! whoever builds that.
//!
//! A model is a state, the actions that are possible in it, and properties. [`Rules`] breaks one rule of it:
//! a model that stays quiet about a broken rule proves nothing about the whole one. Every model says at its
//! top which of its fields stands for what in `brickd/src/engine` and `client/src/replica`, and what it
//! leaves out.
//!
//! The two data bricks are interchangeable: a state and its mirror image have one fingerprint
//! (`hash_with_mirror`), so that only one of them is explored.

mod catalogue;
pub mod data;
pub mod epoch;
pub mod heal;
mod mutation;
pub mod names;
mod run;
pub mod size;

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

pub use catalogue::{find, whole};
pub use mutation::{Home, Mutation, Rules};
pub use run::{Size, Verdict, check};

/// A set of bricks, one bit each: 1 and 2 are D1 and D2, 4 is the arbiter.
type Bricks = u8;

/// D1 and D2.
const DATA: Bricks = 0b011;

/// Names of the bricks, for actions that are read by people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Brick {
    /// The first data brick.
    D1,
    /// The second data brick.
    D2,
    /// The arbiter.
    A,
}

impl Brick {
    const ALL: [Brick; 3] = [Brick::D1, Brick::D2, Brick::A];

    fn index(self) -> usize {
        self as usize
    }

    fn bit(self) -> Bricks {
        1 << self as u8
    }
}

/// Two of three bricks.
fn is_majority(bricks: Bricks) -> bool {
    bricks.count_ones() >= 2
}

/// The same set with D1 and D2 exchanged.
fn mirror(bricks: Bricks) -> Bricks {
    bricks & !DATA | (bricks & 1) << 1 | (bricks & 2) >> 1
}

/// One hash for a state and its mirror image.
fn hash_with_mirror(own: impl Fn(&mut DefaultHasher), mirrored: impl Fn(&mut DefaultHasher)) -> u64 {
    let hash = |feed: &dyn Fn(&mut DefaultHasher)| {
        let mut hasher = DefaultHasher::new();
        feed(&mut hasher);
        hasher.finish()
    };
    hash(&own).min(hash(&mirrored))
}
