//! Changing one register by CASPaxos, for names and image attributes: prepare, look, accept (R1, R3).
//!
//! Sans-IO like the rest: [`Proposer`] says what to send and is told what came back. The change itself is
//! the caller's: once a quorum has promised, [`Step::Decide`] hands over the current value, and the caller
//! proposes the next one (or the same one, which makes the read linearizable).

use brick_wire::register::{RegisterKey, RegisterState};
use brick_wire::{BrickIndex, BrickSet, Epoch, SessionId, Status};

use super::interface::Quorum;

/// Ballots tried before giving up: others change the same register all the time.
pub const ATTEMPTS_MAX: u32 = 16;

/// What the proposer wants next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Send a prepare at this ballot to every brick that is there.
    Prepare(Epoch),
    /// A quorum promised; this is the current value. Answer with [`Proposer::propose`].
    Decide(Option<Vec<u8>>),
    /// Send an accept of this value at this ballot to every brick that is there.
    Accept(Epoch, Vec<u8>),
    /// This value is decided.
    Done(Vec<u8>),
    /// Refused: start again after a pause, with [`Proposer::retry`].
    Refused,
    /// Not enough answers yet.
    Wait,
}

/// One change of one register.
#[derive(Debug)]
pub struct Proposer {
    key: RegisterKey,
    ballot: Epoch,
    quorum: (Quorum, usize),
    state: State,
    promised: BrickSet,
    accepted: BrickSet,
    best: Option<(Epoch, Vec<u8>)>,
    counter_seen: u64,
    attempts: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Preparing,
    Deciding,
    Accepting(Vec<u8>),
    Done,
    Refused,
}

impl Proposer {
    /// A change of `key` by `session` in a group of `bricks` bricks with this quorum rule. Its first step is
    /// a prepare.
    pub fn new(key: RegisterKey, session: SessionId, quorum: Quorum, bricks: usize) -> Proposer {
        Proposer {
            key,
            ballot: Epoch { counter: 1, session },
            quorum: (quorum, bricks),
            state: State::Preparing,
            promised: BrickSet::EMPTY,
            accepted: BrickSet::EMPTY,
            best: None,
            counter_seen: 1,
            attempts: 1,
        }
    }

    /// Which register.
    pub fn key(&self) -> &RegisterKey {
        &self.key
    }

    /// The ballot under way.
    pub fn ballot(&self) -> Epoch {
        self.ballot
    }

    /// The first step.
    pub fn start(&self) -> Step {
        Step::Prepare(self.ballot)
    }

    /// Starts over, higher than anything seen; `None` when it was tried too often.
    pub fn retry(&mut self) -> Option<Step> {
        if self.attempts == ATTEMPTS_MAX {
            return None;
        }
        self.attempts += 1;
        self.counter_seen += 1;
        self.ballot.counter = self.counter_seen;
        self.state = State::Preparing;
        self.promised = BrickSet::EMPTY;
        self.accepted = BrickSet::EMPTY;
        self.best = None;
        Some(Step::Prepare(self.ballot))
    }

    /// A brick answered the prepare at `ballot`.
    pub fn handle_promise(
        &mut self,
        brick: BrickIndex,
        ballot: Epoch,
        status: Status,
        state: &RegisterState,
    ) -> Step {
        self.counter_seen = self.counter_seen.max(state.promised.counter);
        if ballot != self.ballot || self.state != State::Preparing {
            return Step::Wait;
        }
        match status {
            Status::Ok => {}
            Status::BallotRefused => return self.refuse(),
            _ => return Step::Wait,
        }
        self.promised.insert(brick);
        let better = self.best.as_ref().is_none_or(|(accepted, _)| *accepted < state.accepted);
        if state.accepted != Epoch::ZERO && better {
            self.best = Some((state.accepted, state.value.clone()));
        }
        if !self.quorum.0.is_reached_by(self.promised, self.quorum.1) {
            return Step::Wait;
        }
        self.state = State::Deciding;
        Step::Decide(self.best.as_ref().map(|(_, value)| value.clone()))
    }

    /// The caller's decision after [`Step::Decide`].
    pub fn propose(&mut self, value: Vec<u8>) -> Step {
        assert_eq!(self.state, State::Deciding, "a value is proposed once a quorum has promised");
        self.state = State::Accepting(value.clone());
        Step::Accept(self.ballot, value)
    }

    /// A brick answered the accept at `ballot`.
    pub fn handle_accepted(&mut self, brick: BrickIndex, ballot: Epoch, status: Status) -> Step {
        let State::Accepting(value) = &self.state else { return Step::Wait };
        if ballot != self.ballot {
            return Step::Wait;
        }
        match status {
            Status::Ok => {}
            Status::BallotRefused => return self.refuse(),
            _ => return Step::Wait,
        }
        self.accepted.insert(brick);
        if !self.quorum.0.is_reached_by(self.accepted, self.quorum.1) {
            return Step::Wait;
        }
        let value = value.clone();
        self.state = State::Done;
        Step::Done(value)
    }

    fn refuse(&mut self) -> Step {
        self.state = State::Refused;
        Step::Refused
    }
}
