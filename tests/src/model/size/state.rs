//! What the copies, the record and the holder of the size model remember, and what a reader may find.

use std::hash::{Hash, Hasher};

use super::super::{Brick, Bricks, DATA, hash_with_mirror, mirror};
use super::Room;

/// The two data bricks.
const COPIES: [Brick; 2] = [Brick::D1, Brick::D2];

/// What the block has at the start; later writes count on from here.
pub(super) const FIRST: u8 = 1;

/// A set of values, one bit each.
pub(super) type Values = u8;

/// The second block on a data brick.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Copy {
    /// 0 are zeroes, written or discarded.
    pub(super) value: u8,
    pub(super) durable: u8,
    pub(super) dirty: bool,
    pub(super) away: bool,
}

/// What changes the block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Write(u8),
    Discard,
    Zero,
}

/// A change of the block that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Work {
    pub(super) kind: Kind,
    /// Bricks that haven't done it.
    pub(super) left: Bricks,
}

/// How far the holder has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Resize {
    /// The block is cut off and to be discarded.
    Cut,
    Discarding,
    Zeroing,
    Zeroed,
    /// The record may have the higher size.
    Flushed,
}

/// The other brick's heal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Heal {
    /// The block is to be pulled.
    pub(super) listed: bool,
}

/// What may still happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Left {
    pub(super) shrinks: u8,
    pub(super) cuts: u8,
    pub(super) takeovers: u8,
    pub(super) powers: u8,
}

/// A state of the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    pub(super) copies: [Copy; 2],
    /// The size in the record: the block is there if it is 2.
    pub(super) blocks: u8,
    /// S in the record.
    pub(super) in_sync: Bricks,
    /// It serves; else it is recovering.
    pub(super) serves: bool,
    pub(super) work: Option<Work>,
    pub(super) resize: Option<Resize>,
    pub(super) heal: Option<Heal>,
    pub(super) written: u8,
    /// A grow brought the block back, and nobody has written to it.
    pub(super) fresh: bool,
    pub(super) may_read: Values,
    /// What a power loss may bring back.
    pub(super) flushed: Values,
    pub(super) left: Left,
}

impl State {
    pub(super) fn new(room: &Room) -> State {
        let copy = Copy { value: FIRST, durable: FIRST, dirty: false, away: false };
        State {
            copies: [copy; 2],
            blocks: 2,
            in_sync: DATA,
            serves: true,
            work: None,
            resize: None,
            heal: None,
            written: FIRST,
            fresh: false,
            may_read: 1 << FIRST,
            flushed: 1 << FIRST,
            left: Left {
                shrinks: room.shrinks,
                cuts: room.cuts,
                takeovers: room.takeovers,
                powers: room.powers,
            },
        }
    }

    pub(super) fn copy(&mut self, brick: Brick) -> &mut Copy {
        &mut self.copies[brick.index()]
    }

    /// Bricks that the holder reaches.
    pub(super) fn reachable(&self) -> Bricks {
        members(DATA).filter(|brick| !self.copies[brick.index()].away).map(Brick::bit).sum()
    }

    /// What a reader may be given: copies of S that nothing is under way to, while the size has the block.
    pub(super) fn readable(&self) -> impl Iterator<Item = &Copy> {
        let cut = matches!(self.resize, Some(Resize::Cut | Resize::Discarding));
        let open = self.blocks == 2 && self.serves && self.work.is_none() && !cut;
        let bricks = if open { self.in_sync & self.reachable() } else { 0 };
        members(bricks).map(|brick| &self.copies[brick.index()])
    }

    fn mirrored(&self) -> State {
        let mut state = self.clone();
        state.copies.swap(0, 1);
        state.in_sync = mirror(self.in_sync);
        state.work = self.work.map(|work| Work { left: mirror(work.left), ..work });
        state
    }

    fn feed(&self, hasher: &mut impl Hasher) {
        (self.copies, self.blocks, self.in_sync, self.serves, self.work, self.resize).hash(hasher);
        (self.heal, self.written, self.fresh, self.may_read, self.flushed, self.left).hash(hasher);
    }
}

impl Hash for State {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        let mirrored = self.mirrored();
        hash_with_mirror(|own| self.feed(own), |other| mirrored.feed(other)).hash(hasher);
    }
}

/// The bricks of a set.
pub(super) fn members(bricks: Bricks) -> impl Iterator<Item = Brick> {
    COPIES.into_iter().filter(move |brick| bricks & brick.bit() != 0)
}
