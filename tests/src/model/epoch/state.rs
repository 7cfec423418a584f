//! What the bricks and clients of the epoch model remember, and what is on the way between them.

use std::hash::{Hash, Hasher};

use super::super::{Brick, Bricks, DATA, hash_with_mirror, mirror};
use super::Room;

/// A session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Session {
    /// Gives a blank brick its registers back. The lowest, as its ballot is then overtaken soonest.
    #[default]
    Teacher,
    /// Wants the image.
    Y,
    /// Holds it at the start.
    X,
}

impl Session {
    pub(super) const CLIENTS: [Session; 2] = [Session::X, Session::Y];

    /// The other client.
    pub(super) fn other(self) -> Session {
        if self == Session::X { Session::Y } else { Session::X }
    }

    pub(super) fn index(self) -> usize {
        match self {
            Session::X => 0,
            Session::Y => 1,
            Session::Teacher => unreachable!("the teacher is no client"),
        }
    }
}

/// A ballot or epoch, compared whole (R1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ballot {
    pub(super) counter: u8,
    pub(super) session: Session,
}

/// The epoch record. The zero ballot stands for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Record {
    pub(super) ballot: Ballot,
    /// The record it was made from: no two decided records have the same.
    pub(super) base: Ballot,
    pub(super) owner: Session,
    pub(super) closed: bool,
    pub(super) in_sync: Bricks,
}

/// One brick.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Acceptor {
    pub(super) promised: Ballot,
    pub(super) accepted: Record,
    /// The promise that a restart finds.
    pub(super) synced: Ballot,
    pub(super) blank: bool,
    /// Who holds the image as far as the brick knows, and whether that lease still runs.
    pub(super) lease: Option<(Session, bool)>,
    /// A write that is issued to the disk and not done.
    pub(super) ring: Option<(Ballot, Session)>,
    /// The fence has risen to this; the promise waits for the ring.
    pub(super) draining: Option<(Ballot, Session)>,
}

/// How far a client has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Stage {
    Idle,
    Preparing {
        promised: Bricks,
        best: Record,
    },
    Accepting {
        record: Record,
        promised: Bricks,
        accepted: Bricks,
    },
    /// Refused; prepares again, higher.
    Backoff,
    Serving,
    Ended,
}

/// One client session.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Client {
    pub(super) stage: Stage,
    pub(super) ballot: Ballot,
    /// The record it last got decided.
    pub(super) record: Option<Record>,
    pub(super) counter_seen: u8,
    pub(super) force: bool,
    /// Bricks that have accepted the record, as far as the client knows.
    pub(super) ready: Bricks,
    /// Bricks whose renewal still counts.
    pub(super) believes: Bricks,
    /// A forced takeover serves once the other client believes in none of these.
    pub(super) unfenced: Bricks,
    pub(super) dropping: Bricks,
    pub(super) closing: bool,
    pub(super) reads_left: u8,
    pub(super) writes_left: u8,
}

/// From a client to a brick.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Request {
    Prepare { ballot: Ballot, force: bool },
    Accept(Record),
    Read(Ballot),
    Write(Ballot),
}

/// From a brick to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Reply {
    Promise {
        ballot: Ballot,
        accepted: Record,
    },
    Refused {
        promised: Ballot,
        accepted: Record,
    },
    Accepted(Ballot),
    /// `stale`: when the brick read it, another session was already serving.
    Read {
        stale: bool,
    },
}

/// Both directions of a connection, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Link {
    pub(super) requests: Vec<Request>,
    pub(super) replies: Vec<Reply>,
}

/// Restores a blank brick.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Learner {
    pub(super) ballot: Ballot,
    pub(super) asked: Bricks,
    pub(super) best: Record,
}

/// What must never happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Accident {
    /// A brick of a decided S applied a write of another session.
    LateWrite,
    /// A client returned what it had read behind its successor's back.
    StaleRead,
    /// Two records under one ballot.
    BallotUsedTwice,
}

/// A state of the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    pub(super) bricks: [Acceptor; 3],
    pub(super) clients: [Client; 2],
    /// By client, then brick.
    pub(super) links: [[Link; 3]; 2],
    pub(super) learner: Option<Learner>,
    /// Every record that a brick ever accepted, by ballot, with the bricks; all of them once it is decided.
    pub(super) history: Vec<(Record, Bricks)>,
    pub(super) restarts_left: u8,
    pub(super) wipes_left: u8,
    pub(super) accident: Option<Accident>,
}

impl Acceptor {
    /// Requests under another epoch are refused (I1).
    pub(super) fn fence(&self) -> Ballot {
        self.draining.map_or(self.promised, |(ballot, _)| ballot.max(self.promised))
    }

    pub(super) fn is_held_against(&self, session: Session) -> bool {
        matches!(self.lease, Some((holder, true)) if holder != session)
    }
}

impl Client {
    fn cares(&self, reply: &Reply) -> bool {
        match reply {
            _ if self.stage == Stage::Ended => false,
            Reply::Promise { ballot, .. } | Reply::Accepted(ballot) => *ballot == self.ballot,
            Reply::Refused { .. } | Reply::Read { .. } => true,
        }
    }
}

impl State {
    /// X serves; every brick has its record, and its lease runs.
    pub(super) fn new(room: &Room) -> State {
        let ballot = Ballot { counter: 1, session: Session::X };
        let record =
            Record { ballot, base: Ballot::default(), owner: Session::X, closed: false, in_sync: DATA };
        let brick = Acceptor {
            promised: ballot,
            accepted: record,
            synced: ballot,
            blank: false,
            lease: room.leases.then_some((Session::X, true)),
            ring: None,
            draining: None,
        };
        let y = Client {
            stage: Stage::Idle,
            ballot: Ballot::default(),
            record: None,
            counter_seen: 0,
            force: false,
            ready: 0,
            believes: 0,
            unfenced: 0,
            dropping: 0,
            closing: false,
            reads_left: room.reads,
            writes_left: room.writes,
        };
        let x = Client {
            stage: Stage::Serving,
            ballot,
            record: Some(record),
            counter_seen: 1,
            ready: 0b111,
            believes: if room.leases { 0b111 } else { 0 },
            ..y.clone()
        };
        State {
            bricks: [brick.clone(), brick.clone(), brick],
            clients: [x, y],
            links: Default::default(),
            learner: None,
            history: vec![(record, 0b111)],
            restarts_left: room.restarts,
            wipes_left: room.wipes,
            accident: None,
        }
    }

    pub(super) fn brick(&mut self, brick: Brick) -> &mut Acceptor {
        &mut self.bricks[brick.index()]
    }

    /// The brick answers, unless nobody will look: a ballot that was given up, a client that is over.
    pub(super) fn reply(&mut self, client: Session, brick: Brick, reply: Reply) {
        if self.client(client).cares(&reply) {
            self.link(client, brick).replies.push(reply);
        }
    }

    /// The client's stage or ballot changed: what it won't look at any more is forgotten.
    pub(super) fn forget_replies(&mut self, client: Session) {
        let me = &self.clients[client.index()];
        for link in &mut self.links[client.index()] {
            link.replies.retain(|reply| me.cares(reply));
        }
    }

    pub(super) fn link(&mut self, client: Session, brick: Brick) -> &mut Link {
        &mut self.links[client.index()][brick.index()]
    }

    pub(super) fn client(&mut self, client: Session) -> &mut Client {
        &mut self.clients[client.index()]
    }

    /// Whether the client may read and write: after a forced takeover only when the leases are over that it
    /// could not fence (I8).
    pub(super) fn serves(&self, client: Session, waits: bool) -> bool {
        let me = &self.clients[client.index()];
        let waiting = me.unfenced & self.clients[client.other().index()].believes != 0;
        me.record.is_some() && me.stage != Stage::Ended && !(waiting && waits)
    }

    /// D1 and D2 exchanged.
    fn mirrored(&self) -> State {
        let mut state = self.clone();
        state.bricks.swap(0, 1);
        for brick in &mut state.bricks {
            brick.accepted = brick.accepted.mirrored();
        }
        for client in &mut state.clients {
            for set in [&mut client.ready, &mut client.believes, &mut client.unfenced, &mut client.dropping] {
                *set = mirror(*set);
            }
            client.record = client.record.map(Record::mirrored);
            client.stage = client.stage.mirrored();
        }
        for links in &mut state.links {
            links.swap(0, 1);
            links.iter_mut().for_each(Link::mirror);
        }
        if let Some(learner) = &mut state.learner {
            learner.asked = mirror(learner.asked);
            learner.best = learner.best.mirrored();
        }
        for (record, bricks) in &mut state.history {
            (*record, *bricks) = (record.mirrored(), mirror(*bricks));
        }
        state
    }

    fn feed(&self, hasher: &mut impl Hasher) {
        (&self.bricks, &self.clients, &self.links).hash(hasher);
        (&self.learner, &self.history, self.restarts_left, self.wipes_left, self.accident).hash(hasher);
    }
}

impl Hash for State {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        let mirrored = self.mirrored();
        hash_with_mirror(|own| self.feed(own), |other| mirrored.feed(other)).hash(hasher);
    }
}

impl Record {
    fn mirrored(self) -> Record {
        Record { in_sync: mirror(self.in_sync), ..self }
    }
}

impl Stage {
    fn mirrored(self) -> Stage {
        match self {
            Stage::Preparing { promised, best } => {
                Stage::Preparing { promised: mirror(promised), best: best.mirrored() }
            }
            Stage::Accepting { record, promised, accepted } => Stage::Accepting {
                record: record.mirrored(),
                promised: mirror(promised),
                accepted: mirror(accepted),
            },
            other => other,
        }
    }
}

impl Link {
    fn mirror(&mut self) {
        for request in &mut self.requests {
            if let Request::Accept(record) = request {
                *record = record.mirrored();
            }
        }
        for reply in &mut self.replies {
            if let Reply::Promise { accepted, .. } | Reply::Refused { accepted, .. } = reply {
                *accepted = accepted.mirrored();
            }
        }
    }
}
