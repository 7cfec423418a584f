//! What the bricks of the names model remember, which changes are on their way, and what users were told.

use std::hash::{Hash, Hasher};

use super::super::{Brick, Bricks, hash_with_mirror, is_majority, mirror};
use super::Room;

/// D1, D2 and the arbiter: for names there is no difference.
pub(super) const EVERY_BRICK: Bricks = 0b111;

/// A counter, and whose it is: no two changes have the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Ballot {
    pub(super) counter: u8,
    pub(super) change: u8,
}

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Value {
    /// The image that this change created.
    Image(u8),
    /// A tombstone, or no register at all.
    Nothing,
}

/// A brick's register of the name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Side {
    /// No older ballot is accepted; outlives the register.
    pub(super) promised: Ballot,
    /// Forgotten, or never heard of, if none.
    pub(super) accepted: Option<(Ballot, Value)>,
}

/// A creation or removal whose ballot a majority has promised.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Change {
    pub(super) ballot: Ballot,
    pub(super) value: Value,
    /// Accepts still on their way.
    pub(super) unread: Bricks,
    pub(super) accepted: Bricks,
}

/// A state of the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    pub(super) sides: [Side; 3],
    pub(super) away: Bricks,
    pub(super) changes: Vec<Change>,
    /// The client of the last change waits for its answer.
    pub(super) waits: bool,
    /// A tombstone, and who is to drop it.
    pub(super) collecting: Option<(Ballot, Bricks)>,
    /// What a reader may find: one value when the last change was answered, more when that isn't known.
    pub(super) allowed: Vec<Value>,
    pub(super) cuts_left: u8,
    pub(super) collections_left: u8,
}

impl State {
    pub(super) fn new(room: &Room) -> State {
        State {
            sides: Default::default(),
            away: 0,
            changes: Vec::new(),
            waits: false,
            collecting: None,
            allowed: vec![Value::Nothing],
            cuts_left: room.cuts,
            collections_left: room.collections,
        }
    }

    /// What somebody reads who asks these bricks: the value with the highest ballot.
    pub(super) fn read(&self, bricks: Bricks) -> Value {
        let newest =
            members(bricks).filter_map(|brick| self.sides[brick.index()].accepted).max_by_key(by_ballot);
        newest.map_or(Value::Nothing, |(_, value)| value)
    }

    fn mirrored(&self) -> State {
        let mut state = self.clone();
        state.sides.swap(0, 1);
        state.away = mirror(self.away);
        for change in &mut state.changes {
            (change.unread, change.accepted) = (mirror(change.unread), mirror(change.accepted));
        }
        state.collecting = self.collecting.map(|(ballot, bricks)| (ballot, mirror(bricks)));
        state
    }

    fn feed(&self, hasher: &mut impl Hasher) {
        (&self.sides, self.away, &self.changes, self.waits).hash(hasher);
        (self.collecting, &self.allowed, self.cuts_left, self.collections_left).hash(hasher);
    }
}

impl Hash for State {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        let mirrored = self.mirrored();
        hash_with_mirror(|own| self.feed(own), |other| mirrored.feed(other)).hash(hasher);
    }
}

/// All sets of two bricks: what holds for them holds for three.
pub(super) fn majorities() -> impl Iterator<Item = Bricks> {
    (0..EVERY_BRICK).filter(|bricks| is_majority(*bricks))
}

/// The bricks of a set.
pub(super) fn members(bricks: Bricks) -> impl Iterator<Item = Brick> {
    Brick::ALL.into_iter().filter(move |brick| bricks & brick.bit() != 0)
}

fn by_ballot(accepted: &(Ballot, Value)) -> Ballot {
    accepted.0
}
