//! The brick's side of the epoch model: `engine/registers.rs`, `fence.rs` and `lease.rs`.

use super::super::{Brick, Mutation, is_majority};
use super::Epoch;
use super::state::{Acceptor, Accident, Ballot, Link, Record, Reply, Request, Session, State};

impl Epoch {
    pub(super) fn take_request(&self, state: &mut State, client: Session, brick: Brick) {
        match state.link(client, brick).requests.remove(0) {
            Request::Prepare { ballot, force } => self.take_prepare(state, client, brick, ballot, force),
            Request::Accept(record) => self.take_accept(state, client, brick, record),
            Request::Read(epoch) => {
                if !self.passes(state.brick(brick), epoch) {
                    return self.refuse(state, client, brick);
                }
                let successor = state.clients[client.other().index()].record;
                let newer = successor.is_some_and(|record| record.ballot > epoch);
                let waits = !self.rules.breaks(Mutation::ForceWithoutWaiting);
                let stale = newer && state.serves(client.other(), waits);
                state.reply(client, brick, Reply::Read { stale });
            }
            Request::Write(epoch) => {
                if !self.passes(state.brick(brick), epoch) {
                    return self.refuse(state, client, brick);
                }
                state.brick(brick).ring = Some((epoch, client));
            }
        }
    }

    /// I1: only the highest epoch promised is served.
    fn passes(&self, brick: &Acceptor, epoch: Ballot) -> bool {
        let old_passes = self.rules.breaks(Mutation::OldEpochPasses) && epoch < brick.fence();
        !brick.blank && (epoch == brick.fence() || old_passes)
    }

    fn take_prepare(&self, state: &mut State, client: Session, brick: Brick, ballot: Ballot, force: bool) {
        let acceptor = state.brick(brick);
        if acceptor.blank {
            return;
        }
        if ballot < acceptor.promised {
            return self.refuse(state, client, brick);
        }
        if ballot == acceptor.promised {
            let accepted = acceptor.accepted;
            return state.reply(client, brick, Reply::Promise { ballot, accepted });
        }
        if acceptor.is_held_against(client) && !force {
            return;
        }
        let foreign = acceptor.ring.is_some_and(|(_, session)| session != client);
        if foreign && !self.rules.breaks(Mutation::PromiseBeforeDrain) {
            acceptor.draining = Some((ballot, client));
        } else {
            self.promise(state, client, brick, ballot);
        }
    }

    /// R1: durable, then answered.
    fn promise(&self, state: &mut State, client: Session, brick: Brick, ballot: Ballot) {
        let acceptor = state.brick(brick);
        acceptor.promised = ballot;
        if !self.rules.breaks(Mutation::PromiseNotSynced) {
            acceptor.synced = ballot;
        }
        let accepted = acceptor.accepted;
        state.reply(client, brick, Reply::Promise { ballot, accepted });
    }

    fn take_accept(&self, state: &mut State, client: Session, brick: Brick, record: Record) {
        let acceptor = state.brick(brick);
        if acceptor.blank {
            return;
        }
        if record.ballot < acceptor.promised {
            return self.refuse(state, client, brick);
        }
        let unprepared = self.rules.breaks(Mutation::AcceptWithoutPrepare);
        let invalid = record.ballot > acceptor.promised && !unprepared
            || record.ballot == acceptor.accepted.ballot && record != acceptor.accepted;
        if invalid {
            // The client resets the connection, and asks for a promise on the next.
            *state.link(client, brick) = Link::default();
            return;
        }
        acceptor.promised = record.ballot;
        acceptor.synced = record.ballot;
        if acceptor.accepted != record {
            acceptor.accepted = record;
            self.note_holder(acceptor);
            note_accepted(state, record, brick);
        }
        state.reply(client, brick, Reply::Accepted(record.ballot));
    }

    fn refuse(&self, state: &mut State, client: Session, brick: Brick) {
        let acceptor = state.brick(brick);
        let (promised, accepted) = (acceptor.fence(), acceptor.accepted);
        state.reply(client, brick, Reply::Refused { promised, accepted });
    }

    /// I8: the recorded holder counts as just renewed, at an accept and after a restart.
    pub(super) fn note_holder(&self, brick: &mut Acceptor) {
        let held = self.room.leases && brick.accepted.ballot.counter > 0 && !brick.accepted.closed;
        brick.lease = held.then_some((brick.accepted.owner, true));
    }

    /// The ring has done what it had; who waited for that gets the promise.
    pub(super) fn finish_write(&self, state: &mut State, brick: Brick) {
        let (epoch, session) = state.brick(brick).ring.take().expect("a write is in the ring");
        let late = |(record, bricks): &(Record, u8)| {
            let decided = is_majority(*bricks);
            decided && record.owner != session && record.ballot >= epoch && record.in_sync & brick.bit() != 0
        };
        if state.history.iter().any(late) {
            state.accident = Some(Accident::LateWrite);
        }
        if let Some((ballot, client)) = state.brick(brick).draining.take() {
            self.promise(state, client, brick, ballot);
        }
    }

    pub(super) fn restart(&self, state: &mut State, brick: Brick) {
        state.restarts_left -= 1;
        let acceptor = state.brick(brick);
        acceptor.promised = acceptor.synced;
        acceptor.ring = None;
        acceptor.draining = None;
        if self.rules.breaks(Mutation::RestartForgetsLease) {
            acceptor.lease = None;
        } else {
            self.note_holder(acceptor);
        }
        break_links(state, brick);
    }

    /// The disk is replaced, or restored from before the first record. The brick knows (R2).
    pub(super) fn wipe(&self, state: &mut State, brick: Brick) {
        state.wipes_left -= 1;
        *state.brick(brick) = Acceptor {
            promised: Ballot::default(),
            accepted: Record::default(),
            synced: Ballot::default(),
            blank: !self.rules.breaks(Mutation::BlankVotes),
            lease: None,
            ring: None,
            draining: None,
        };
        break_links(state, brick);
    }
}

/// What was on the way is gone. The holder brings the brick to its record again before it uses it.
fn break_links(state: &mut State, brick: Brick) {
    for client in Session::CLIENTS {
        *state.link(client, brick) = Link::default();
        state.client(client).ready &= !brick.bit();
    }
}

/// For the properties: which records were ever accepted, and where.
fn note_accepted(state: &mut State, record: Record, brick: Brick) {
    match state.history.iter_mut().find(|(known, _)| *known == record) {
        Some((_, bricks)) => {
            *bricks |= brick.bit();
            if is_majority(*bricks) {
                // Once decided it doesn't matter by whom.
                *bricks = 0b111;
            }
        }
        None => {
            if state.history.iter().any(|(known, _)| known.ballot == record.ballot) {
                state.accident = Some(Accident::BallotUsedTwice);
            }
            state.history.push((record, brick.bit()));
            state.history.sort_by_key(|(known, _)| known.ballot);
        }
    }
}
