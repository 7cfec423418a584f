//! The virtual clock: what happens next, and when.
//!
//! Two things due at the same time happen in the order in which they were put on the agenda.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::time::Duration;

use brick_wire::{BrickIndex, CoreIndex, SessionId, Timestamp};
use brickd::engine::{ConnectionId, OperationId};

use super::network::{ConnectionKey, Side};

/// One life of a brick process: whatever is due for an earlier one is void.
pub type Life = u64;

/// Something due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happening {
    /// The next packet of a connection reaches this side.
    Arrive(ConnectionKey, Side),
    /// A connection is established, or turns out not to be.
    Connect(ConnectionKey),
    /// A connection could not be established.
    ConnectFailed(ConnectionKey),
    /// A message between two cores of a brick arrives.
    CoreMessage(BrickIndex, Life, CoreIndex, CoreIndex),
    /// An admitted connection reaches the core that serves it.
    Handover(BrickIndex, Life, ConnectionId),
    /// A connection that an engine closed is closed.
    Closed(BrickIndex, Life, ConnectionId),
    /// A disk operation ends.
    DiskDone(BrickIndex, Life, CoreIndex, OperationId),
    /// An engine asked to be called.
    EngineTimer(BrickIndex, Life, CoreIndex),
    /// A dead brick starts.
    Start(BrickIndex),
    /// A brick stops, to start again.
    Stop(BrickIndex, Life),
    /// It starts again.
    StartAgain(BrickIndex),
    /// A group asked to be called.
    GroupTimer(SessionId),
    /// A session connects to a brick (again).
    Relink(SessionId, BrickIndex, u32),
    /// A link that isn't up by now has failed.
    LinkTimeout(SessionId, BrickIndex, u32),
    /// A client opens the image.
    Open(usize),
    /// A session's user does something.
    Work(SessionId),
    /// A paused client goes on.
    Resume(usize),
    /// Something breaks.
    Fault,
    /// Something breaks at a brick that was doing something delicate.
    Ambush(BrickIndex),
    /// The operator looks whether a brick is blank.
    Inspect,
    /// A partition ends.
    Reunite(usize, usize),
    /// A disk is fast, or has space, again.
    DiskRecovers(BrickIndex),
}

#[derive(Debug)]
struct Entry {
    at: Timestamp,
    order: u64,
    what: Happening,
}

impl Ord for Entry {
    fn cmp(&self, other: &Entry) -> Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Entry) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Entry) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Entry {}

/// What is due, by time.
#[derive(Debug, Default)]
pub struct Agenda {
    now: Timestamp,
    entries: BinaryHeap<Reverse<Entry>>,
    count: u64,
}

impl Agenda {
    /// The time.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// Puts something on the agenda, at a time that isn't past.
    pub fn at(&mut self, at: Timestamp, what: Happening) {
        let at = at.max(self.now);
        self.count += 1;
        self.entries.push(Reverse(Entry { at, order: self.count, what }));
    }

    /// Puts something on the agenda, `after` from now.
    pub fn after(&mut self, after: Duration, what: Happening) {
        self.at(self.now + after, what);
    }

    /// When the next thing is due.
    pub fn next_at(&self) -> Option<Timestamp> {
        self.entries.peek().map(|Reverse(entry)| entry.at)
    }

    /// Lets time pass in which nothing is due.
    pub fn advance(&mut self, to: Timestamp) {
        assert!(self.next_at().is_none_or(|at| at >= to), "nothing is skipped");
        self.now = self.now.max(to);
    }

    /// Takes the next thing and sets the clock to it.
    pub fn pop(&mut self) -> Option<Happening> {
        let Reverse(entry) = self.entries.pop()?;
        self.now = entry.at;
        Some(entry.what)
    }
}
