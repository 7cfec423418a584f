//! What bricks and sessions of the data model remember, and what the user was told.

use std::hash::{Hash, Hasher};

use super::super::{Brick, Bricks, DATA, hash_with_mirror, mirror};
use super::Room;

/// The two data bricks.
pub(super) const COPIES: [Brick; 2] = [Brick::D1, Brick::D2];

/// Whose epoch a brick has promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Follows {
    /// A session that is over.
    Nobody,
    Holder,
    Successor,
}

/// A data brick's copy of the block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Copy {
    pub(super) value: u8,
    pub(super) durable: u8,
    pub(super) dirty: bool,
    pub(super) spoiled: bool,
    pub(super) up: bool,
    pub(super) rebooted: bool,
    pub(super) late: Option<u8>,
    pub(super) follows: Follows,
    /// How far the holder's write has come here.
    pub(super) request: Request,
}

/// A write on its way to a brick and back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Request {
    NotSent,
    Sent,
    /// Done, and the answer is on its way.
    Applied,
    Acknowledged,
    Refused,
}

/// A write under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Write {
    pub(super) value: u8,
    /// The user still waits.
    pub(super) awaited: bool,
}

/// A flush under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Flush {
    /// The newest completed write when it began.
    pub(super) covers: u8,
    /// Nothing was in flight when it began, no copy was known to differ, and no write began since.
    pub(super) cleans: bool,
    pub(super) done: Bricks,
    pub(super) failed: Bricks,
}

/// A change of S that the holder has proposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Proposal {
    pub(super) in_sync: Bricks,
    pub(super) decided: bool,
}

/// The heal of the brick outside S.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Heal {
    Listed,
    Equal,
    /// Required by writes and flushes from now on; `flushed` once its own flush is done.
    Joining {
        flushed: bool,
    },
}

/// The session that has the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Holder {
    /// It serves; else it is recovering.
    pub(super) serves: bool,
    /// S as far as it knows.
    pub(super) in_sync: Bricks,
    pub(super) proposal: Option<Proposal>,
    pub(super) write: Option<Write>,
    pub(super) flush: Option<Flush>,
    pub(super) heal: Option<Heal>,
    /// It was about to join when all of S refused what it may have applied: it has to leave again.
    pub(super) dropping: Bricks,
    /// The only brick that is read after all refused a write; none if the copies are equal.
    pub(super) suspect: Bricks,
    pub(super) completed: u8,
    /// Something may be unflushed.
    pub(super) unflushed: bool,
    /// A flush on every data brick, and no write since: bits may be dropped.
    pub(super) may_clean: bool,
}

/// A session that has promises of these bricks and no record yet.
pub(super) type Successor = Option<Bricks>;

/// A state of the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    pub(super) copies: [Copy; 2],
    pub(super) holder: Holder,
    pub(super) successor: Successor,
    /// S as decided.
    pub(super) record: Bricks,
    /// The newest value that was completed or read; what no reader may fall below.
    pub(super) floor: u8,
    /// The newest value that a flush covered.
    pub(super) flushed: u8,
    pub(super) written: u8,
    pub(super) left: Left,
}

/// What may still happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Left {
    pub(super) flushes: u8,
    pub(super) cuts: u8,
    pub(super) powers: u8,
    pub(super) takeovers: u8,
    pub(super) refusals: u8,
    pub(super) sync_errors: u8,
    pub(super) timeouts: u8,
}

impl Holder {
    /// A session that has just got its record decided.
    pub(super) fn new(in_sync: Bricks, serves: bool) -> Holder {
        Holder {
            serves,
            in_sync,
            proposal: None,
            write: None,
            flush: None,
            heal: None,
            dropping: 0,
            suspect: 0,
            completed: 0,
            unflushed: true,
            may_clean: false,
        }
    }

    /// The brick that isn't in S, while that is healed (with two data bricks there is one at most).
    pub(super) fn joining(&self) -> Bricks {
        if matches!(self.heal, Some(Heal::Joining { .. })) { DATA & !self.in_sync } else { 0 }
    }

    /// Who has to acknowledge (I3).
    pub(super) fn required(&self) -> Bricks {
        self.in_sync | self.joining()
    }
}

impl State {
    /// Both copies are equal, flushed and in S.
    pub(super) fn new(room: &Room) -> State {
        let copy = Copy {
            value: 0,
            durable: 0,
            dirty: false,
            spoiled: false,
            up: true,
            rebooted: false,
            late: None,
            follows: Follows::Holder,
            request: Request::NotSent,
        };
        State {
            copies: [copy, copy],
            holder: Holder { unflushed: false, ..Holder::new(DATA, true) },
            successor: None,
            record: DATA,
            floor: 0,
            flushed: 0,
            written: 0,
            left: Left {
                flushes: room.flushes,
                cuts: room.cuts,
                powers: room.powers,
                takeovers: room.takeovers,
                refusals: room.refusals,
                sync_errors: room.sync_errors,
                timeouts: room.timeouts,
            },
        }
    }

    pub(super) fn copy(&mut self, brick: Brick) -> &mut Copy {
        &mut self.copies[brick.index()]
    }

    /// The data bricks of which something is true.
    pub(super) fn which(&self, holds: impl Fn(&Copy) -> bool) -> Bricks {
        COPIES.iter().filter(|brick| holds(&self.copies[brick.index()])).map(|brick| brick.bit()).sum()
    }

    fn mirrored(&self) -> State {
        let mut state = self.clone();
        state.copies.swap(0, 1);
        state.record = mirror(state.record);
        state.successor = state.successor.map(mirror);
        let holder = &mut state.holder;
        holder.in_sync = mirror(holder.in_sync);
        holder.suspect = mirror(holder.suspect);
        holder.dropping = mirror(holder.dropping);
        if let Some(proposal) = &mut holder.proposal {
            proposal.in_sync = mirror(proposal.in_sync);
        }
        if let Some(flush) = &mut holder.flush {
            (flush.done, flush.failed) = (mirror(flush.done), mirror(flush.failed));
        }
        state
    }

    fn feed(&self, hasher: &mut impl Hasher) {
        (&self.copies, &self.holder, self.successor, self.record).hash(hasher);
        (self.floor, self.flushed, self.written, self.left).hash(hasher);
    }
}

impl Hash for State {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        let mirrored = self.mirrored();
        hash_with_mirror(|own| self.feed(own), |other| mirrored.feed(other)).hash(hasher);
    }
}
