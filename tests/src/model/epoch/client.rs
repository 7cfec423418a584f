//! The client's side of the epoch model: `replica/epoch.rs`, `open.rs` and `lease.rs`.

use super::super::{Brick, Bricks, Mutation, is_majority};
use super::Epoch;
use super::state::{Accident, Ballot, Client, Record, Reply, Request, Session, Stage, State};

impl Client {
    /// Once it holds the image, a brick that keeps a lease for a predecessor is merely behind.
    pub(super) fn forces(&self) -> bool {
        self.force || self.record.is_some()
    }
}

impl Epoch {
    pub(super) fn ballot(&self, counter: u8, session: Session) -> Ballot {
        let session = if self.rules.breaks(Mutation::EpochWithoutSession) { Session::X } else { session };
        Ballot { counter, session }
    }

    /// Y's first ballot is above what the bricks that it asked have promised.
    pub(super) fn open(&self, state: &mut State, asked: Bricks, force: bool) {
        let members = Brick::ALL.iter().filter(|brick| asked & brick.bit() != 0);
        let seen = members.map(|brick| state.bricks[brick.index()].promised.counter).max();
        let me = state.client(Session::Y);
        me.counter_seen = seen.expect("somebody was asked");
        me.force = force;
        self.prepare(state, Session::Y);
    }

    pub(super) fn prepare(&self, state: &mut State, client: Session) {
        let me = state.client(client);
        me.counter_seen += 1;
        me.ballot = self.ballot(me.counter_seen, client);
        me.stage = Stage::Preparing { promised: 0, best: Record::default() };
        let (ballot, force) = (me.ballot, me.forces());
        state.forget_replies(client);
        for brick in Brick::ALL {
            state.link(client, brick).requests.push(Request::Prepare { ballot, force });
        }
    }

    /// The holder wants another record.
    pub(super) fn change(&self, state: &mut State, client: Session) {
        if !self.rules.breaks(Mutation::AcceptWithoutPrepare) {
            return self.prepare(state, client);
        }
        let me = state.client(client);
        me.counter_seen += 1;
        me.ballot = self.ballot(me.counter_seen, client);
        me.stage = Stage::Preparing { promised: 0b111, best: me.record.expect("a holder has a record") };
        self.propose(state, client);
    }

    pub(super) fn propose(&self, state: &mut State, client: Session) {
        let me = state.client(client);
        let Stage::Preparing { promised, best } = me.stage else { unreachable!("proposed after a quorum") };
        let Some(record) = next_record(me, client, best, promised) else {
            // Fenced for good, or no good copy is there.
            me.stage = Stage::Ended;
            return state.forget_replies(client);
        };
        if record.in_sync & promised == 0 {
            return;
        }
        if me.force && me.record.is_none() && !best.closed && best.in_sync & !promised != 0 {
            me.unfenced = promised;
        }
        me.stage = Stage::Accepting { record, promised, accepted: 0 };
        for brick in Brick::ALL.into_iter().filter(|brick| promised & brick.bit() != 0) {
            state.link(client, brick).requests.push(Request::Accept(record));
        }
    }

    /// A read completes only while the lease holds (I8); until then its reply is kept.
    pub(super) fn is_ready_for(&self, state: &State, client: Session, reply: &Reply) -> bool {
        let Reply::Read { .. } = reply else { return true };
        let me = &state.clients[client.index()];
        let unchecked = self.rules.breaks(Mutation::LeaseCheckedAtIssue);
        is_majority(me.believes) || unchecked
    }

    pub(super) fn take_reply(&self, state: &mut State, client: Session, brick: Brick) {
        let reply = state.link(client, brick).replies.remove(0);
        match reply {
            Reply::Promise { ballot, accepted } => self.take_promise(state, client, brick, ballot, accepted),
            Reply::Accepted(ballot) => self.take_accepted(state, client, brick, ballot),
            Reply::Refused { promised, accepted } => {
                take_refusal(state.client(client), client, promised, accepted);
            }
            Reply::Read { stale } => {
                if stale {
                    state.accident = Some(Accident::StaleRead);
                }
            }
        }
        state.forget_replies(client);
    }

    fn take_promise(&self, state: &mut State, client: Session, brick: Brick, ballot: Ballot, shown: Record) {
        let me = state.client(client);
        let record = match &mut me.stage {
            Stage::Preparing { promised, best } if me.ballot == ballot => {
                *promised |= brick.bit();
                *best = (*best).max(shown);
                return;
            }
            Stage::Accepting { record, promised, .. } if me.ballot == ballot => {
                let newer = shown.ballot > record.base && shown.ballot < ballot;
                if newer && !self.rules.breaks(Mutation::StalePromiseCounts) {
                    // What the quorum showed isn't the newest: a promise was given by a brick that lost it.
                    me.stage = Stage::Backoff;
                    return;
                }
                *promised |= brick.bit();
                *record
            }
            Stage::Serving if me.record.is_some_and(|record| record.ballot == ballot) => {
                me.record.expect("compared above")
            }
            _ => return,
        };
        state.link(client, brick).requests.push(Request::Accept(record));
    }

    fn take_accepted(&self, state: &mut State, client: Session, brick: Brick, ballot: Ballot) {
        // The renewal counts from before the accept was sent: if the brick's lease is over, so is the belief.
        let renewed = state.brick(brick).lease == Some((client, true));
        let me = state.client(client);
        if me.ballot != ballot {
            return;
        }
        match &mut me.stage {
            Stage::Accepting { record, accepted, .. } => {
                *accepted |= brick.bit();
                if renewed {
                    me.believes |= brick.bit();
                }
                if !is_majority(*accepted) || record.in_sync & *accepted == 0 {
                    return;
                }
                me.record = Some(*record);
                me.ready = *accepted;
                me.dropping &= record.in_sync;
                me.stage = if record.closed { Stage::Ended } else { Stage::Serving };
            }
            Stage::Serving => me.ready |= brick.bit(),
            _ => {}
        }
    }
}

/// What the client wants the record to say, given the one that a quorum holds.
fn next_record(me: &Client, client: Session, base: Record, promised: Bricks) -> Option<Record> {
    let mut record = Record { ballot: me.ballot, base: base.ballot, owner: client, ..base };
    record.closed = false;
    if me.record.is_none() {
        if !base.closed {
            record.in_sync &= promised;
        }
        return (record.in_sync != 0).then_some(record);
    }
    if base.owner != client {
        return None;
    }
    if base.in_sync & !me.dropping != 0 {
        record.in_sync &= !me.dropping;
    }
    record.closed = me.closing;
    Some(record)
}

/// Somebody promised higher. Who reads another session's newer record is fenced for good (I1).
fn take_refusal(me: &mut Client, client: Session, promised: Ballot, accepted: Record) {
    me.counter_seen = me.counter_seen.max(promised.counter);
    if me.record.is_some_and(|ours| accepted.ballot > ours.ballot) && accepted.owner != client {
        me.stage = Stage::Ended;
    } else if promised.session == client && promised <= me.ballot {
        // Our own next ballot overtook what was refused.
    } else if me.stage != Stage::Idle {
        me.stage = Stage::Backoff;
    }
}
