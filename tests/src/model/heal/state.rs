//! What the bricks and the holder of the heal model remember, and what is on the way.

use super::super::{Brick, Bricks, DATA};
use super::{Room, Start};

/// The value of a write that only D2 ever got.
const STRAY: u8 = 9;

/// From the holder to a brick.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Request {
    Write { value: u8, generation: u8 },
    Clean { generation: u8 },
    Pull,
}

/// Back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Reply {
    Written { value: u8 },
    Pulled { good: bool },
}

/// A write that is issued and not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Issued {
    pub(super) value: u8,
    /// Its connection is gone, so nobody gets the answer.
    pub(super) old: bool,
}

/// A pull at its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Pull {
    /// Read at the source, and not yet written here.
    pub(super) fetched: Option<u8>,
    pub(super) session: u8,
    /// Its connection is gone.
    pub(super) old: bool,
}

/// A data brick, and the holder's connection to it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Side {
    pub(super) value: u8,
    /// The newest generation of the block's bit; 0 is older than the session.
    pub(super) dirty: Option<u8>,
    pub(super) fence: u8,
    pub(super) connected: bool,
    pub(super) requests: Vec<Request>,
    pub(super) replies: Vec<Reply>,
    pub(super) ring: Vec<Issued>,
    /// Requests of a connection that ended, not read yet; only a broken rule reads them.
    pub(super) unread: Vec<Request>,
    pub(super) pull: Option<Pull>,
    /// A pull of an older session that hasn't arrived yet; only a broken rule lets it in.
    pub(super) stray_pull: bool,
    /// On another boot than the record names, without its unflushed write.
    pub(super) rebooted: bool,
}

/// How far D2's heal has come.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Heal {
    /// Bricks whose map was read.
    pub(super) gathered: Bricks,
    pub(super) listed: bool,
    /// A pull is under way, and its claim is held.
    pub(super) pulling: bool,
    /// Writes sent and not answered, and whether each was overtaken by one that wasn't sent.
    pub(super) followed: Vec<(u8, bool)>,
}

/// A write under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Write {
    pub(super) value: u8,
    pub(super) generation: u8,
    pub(super) sent: Bricks,
    pub(super) applied: Bricks,
}

/// A flush under way: what its CLEAN may drop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Flush {
    pub(super) boundary: u8,
}

/// A state of the model.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub(super) sides: [Side; 2],
    pub(super) session: u8,
    pub(super) in_sync: Bricks,
    /// It serves; else it is recovering.
    pub(super) serves: bool,
    pub(super) write: Option<Write>,
    pub(super) flush: Option<Flush>,
    pub(super) generation: u8,
    pub(super) heal: Option<Heal>,
    /// What a reader must find.
    pub(super) expected: u8,
    /// What was completed or could be read, which a recovery may add an unfinished write to.
    pub(super) completed: u8,
    pub(super) written: u8,
    pub(super) flushes_left: u8,
    pub(super) breaks_left: u8,
    pub(super) takeovers_left: u8,
    pub(super) powers_left: u8,
}

impl State {
    pub(super) fn starts(room: &Room) -> Vec<State> {
        let side = Side {
            value: 0,
            dirty: None,
            fence: 1,
            connected: true,
            requests: Vec::new(),
            replies: Vec::new(),
            ring: Vec::new(),
            unread: Vec::new(),
            pull: None,
            stray_pull: false,
            rebooted: false,
        };
        let state = State {
            sides: [side.clone(), side],
            session: 1,
            in_sync: Brick::D1.bit(),
            serves: true,
            write: None,
            flush: None,
            generation: 1,
            heal: None,
            expected: 0,
            completed: 0,
            written: 0,
            flushes_left: room.flushes,
            breaks_left: room.breaks,
            takeovers_left: room.takeovers,
            powers_left: room.powers,
        };
        match room.start {
            Start::Stale => {
                let (mut missed, mut stray) = (state.clone(), state);
                missed.sides[0].value = STRAY;
                missed.sides[0].dirty = Some(0);
                (missed.expected, missed.completed) = (STRAY, STRAY);
                stray.sides[1].value = STRAY;
                stray.sides[1].dirty = Some(0);
                vec![missed, stray]
            }
            Start::Recovering => {
                let mut state =
                    State { in_sync: DATA, serves: false, expected: STRAY, completed: STRAY, ..state };
                for side in &mut state.sides {
                    side.value = STRAY;
                    side.dirty = Some(0);
                }
                vec![state]
            }
        }
    }

    pub(super) fn side(&mut self, brick: Brick) -> &mut Side {
        &mut self.sides[brick.index()]
    }

    /// What a reader may be given: copies of S that nothing is under way to.
    pub(super) fn readable(&self) -> impl Iterator<Item = &Side> {
        let open = self.serves && self.write.is_none();
        let readable =
            move |(index, side): &(usize, &Side)| open && self.in_sync & (1 << index) != 0 && !side.rebooted;
        self.sides.iter().enumerate().filter(readable).map(|(_, side)| side)
    }
}
