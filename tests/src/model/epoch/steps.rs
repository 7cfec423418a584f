//! What can happen next in the epoch model, and where each step leads.

use super::super::{Brick, Bricks, DATA, Mutation, is_majority};
use super::Epoch;
use super::state::{Learner, Request, Session, Stage, State};

/// One thing that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The brick takes the client's oldest request.
    Request(Session, Brick),
    /// The client takes the brick's oldest reply.
    Reply(Session, Brick),
    /// The write in the brick's ring is done.
    WriteDone(Brick),
    /// Y has asked these bricks, could win, and prepares.
    Open(Bricks),
    /// The same, with an operator's word that the holder may be thrown out.
    TakeOver(Bricks),
    /// A majority promised: the client proposes its record.
    Propose(Session),
    /// A refused client prepares higher.
    Retry(Session),
    /// The connection came back, and the client asks again.
    Reconnect(Session, Brick),
    /// The holder brings a brick to its record.
    CatchUp(Session, Brick),
    /// The holder drops a brick from S.
    Drop(Brick),
    /// The holder gives the image back.
    Close,
    /// A renewal, from its sending to its reply.
    Renew(Session, Brick),
    /// By the client's clock its renewal of this brick is over.
    BeliefEnds(Session, Brick),
    /// By the brick's clock its holder's lease is over.
    LeaseEnds(Brick),
    /// The client sends a read.
    Read(Session, Brick),
    /// The client sends a write.
    Write(Session, Brick),
    /// The brick's process dies and starts again.
    Restart(Brick),
    /// The brick loses its registers.
    Wipe(Brick),
    /// The teacher begins, above all that the others promised.
    Teach,
    /// The teacher asks a brick that has its registers.
    TeacherAsks(Brick),
    /// The blank brick has learned.
    Learned(Brick),
}

impl Epoch {
    pub(super) fn possible_steps(&self, state: &State, steps: &mut Vec<Step>) {
        if state.accident.is_some() {
            return;
        }
        for client in Session::CLIENTS {
            for brick in Brick::ALL {
                self.steps_on_link(state, client, brick, steps);
            }
            self.steps_of_client(state, client, steps);
        }
        for brick in Brick::ALL {
            self.steps_of_brick(state, brick, steps);
        }
        if state.learner.is_none() && state.bricks.iter().any(|brick| brick.blank) {
            steps.push(Step::Teach);
        }
    }

    fn steps_on_link(&self, state: &State, client: Session, brick: Brick, steps: &mut Vec<Step>) {
        let link = &state.links[client.index()][brick.index()];
        let acceptor = &state.bricks[brick.index()];
        let me = &state.clients[client.index()];
        if let Some(request) = link.requests.first() {
            let waits = match request {
                // Changes of one register run one after the other.
                Request::Prepare { .. } | Request::Accept(_) => acceptor.draining.is_some(),
                Request::Write(_) => acceptor.ring.is_some(),
                Request::Read(_) => false,
            };
            if !waits {
                steps.push(Step::Request(client, brick));
            }
        }
        if link.replies.first().is_some_and(|reply| self.is_ready_for(state, client, reply)) {
            steps.push(Step::Reply(client, brick));
        }
        let idle = link.requests.is_empty() && link.replies.is_empty() && acceptor.draining.is_none();
        let unanswered = match me.stage {
            Stage::Preparing { promised, .. } => promised & brick.bit() == 0,
            Stage::Accepting { accepted, .. } => accepted & brick.bit() == 0,
            _ => false,
        };
        if idle && unanswered {
            steps.push(Step::Reconnect(client, brick));
        }
        if idle && me.stage == Stage::Serving && me.ready & brick.bit() == 0 {
            steps.push(Step::CatchUp(client, brick));
        }
    }

    fn steps_of_client(&self, state: &State, client: Session, steps: &mut Vec<Step>) {
        let me = &state.clients[client.index()];
        match me.stage {
            Stage::Idle if client == Session::Y => self.steps_to_open(state, steps),
            Stage::Preparing { promised, .. } if is_majority(promised) => steps.push(Step::Propose(client)),
            Stage::Backoff if me.counter_seen < self.room.counter_max => steps.push(Step::Retry(client)),
            Stage::Serving => self.steps_of_holder(state, client, steps),
            _ => {}
        }
        for brick in Brick::ALL {
            if me.believes & brick.bit() != 0 {
                steps.push(Step::BeliefEnds(client, brick));
            }
        }
    }

    /// R4: Y changes nothing unless a majority with a good copy would promise.
    fn steps_to_open(&self, state: &State, steps: &mut Vec<Step>) {
        for asked in [0b011, 0b101, 0b110, 0b111] {
            let members = || Brick::ALL.iter().filter(|brick| asked & brick.bit() != 0);
            let brick = |brick: &Brick| &state.bricks[brick.index()];
            let best = members().map(|member| brick(member).accepted).max().unwrap_or_default();
            let counter = members().map(|member| brick(member).promised.counter).max().unwrap_or_default();
            if counter >= self.room.counter_max || best.in_sync & asked == 0 {
                continue;
            }
            if !members().any(|member| brick(member).is_held_against(Session::Y)) {
                steps.push(Step::Open(asked));
            }
            if self.room.force {
                steps.push(Step::TakeOver(asked));
            }
        }
    }

    fn steps_of_holder(&self, state: &State, client: Session, steps: &mut Vec<Step>) {
        let me = &state.clients[client.index()];
        let record = me.record.expect("a holder has a record");
        if me.counter_seen < self.room.counter_max && client == Session::X {
            if self.room.drops > 0 && me.dropping == 0 && record.in_sync == DATA {
                steps.extend([Step::Drop(Brick::D1), Step::Drop(Brick::D2)]);
            }
            if self.room.close {
                steps.push(Step::Close);
            }
        }
        for brick in Brick::ALL {
            let acceptor = &state.bricks[brick.index()];
            let renewed = acceptor.lease == Some((client, true)) && me.believes & brick.bit() != 0;
            let ours = acceptor.accepted.ballot == record.ballot && acceptor.fence() == record.ballot;
            if self.room.leases && ours && !acceptor.blank && !renewed {
                steps.push(Step::Renew(client, brick));
            }
        }
        if !state.serves(client, !self.rules.breaks(Mutation::ForceWithoutWaiting)) {
            return;
        }
        for brick in [Brick::D1, Brick::D2] {
            if record.in_sync & me.ready & brick.bit() == 0 {
                continue;
            }
            let held = is_majority(me.believes) || !self.rules.breaks(Mutation::LeaseCheckedAtIssue);
            if me.reads_left > 0 && held {
                steps.push(Step::Read(client, brick));
            }
            if me.writes_left > 0 {
                steps.push(Step::Write(client, brick));
            }
        }
    }

    fn steps_of_brick(&self, state: &State, brick: Brick, steps: &mut Vec<Step>) {
        let acceptor = &state.bricks[brick.index()];
        if acceptor.ring.is_some() {
            steps.push(Step::WriteDone(brick));
        }
        if let Some((holder, true)) = acceptor.lease {
            // The holder always stops first.
            if state.clients[holder.index()].believes & brick.bit() == 0 {
                steps.push(Step::LeaseEnds(brick));
            }
        }
        let victim = self.room.victims & brick.bit() != 0;
        if state.restarts_left > 0 && victim && !acceptor.blank {
            steps.push(Step::Restart(brick));
        }
        if state.wipes_left > 0 && victim {
            steps.push(Step::Wipe(brick));
        }
        let Some(learner) = state.learner else { return };
        if acceptor.blank && is_majority(learner.asked) {
            steps.push(Step::Learned(brick));
        }
        let drained = acceptor.ring.is_none() && acceptor.draining.is_none();
        if !acceptor.blank && learner.asked & brick.bit() == 0 && drained {
            steps.push(Step::TeacherAsks(brick));
        }
    }

    pub(super) fn take(&self, state: &mut State, step: Step) {
        match step {
            Step::Request(client, brick) => self.take_request(state, client, brick),
            Step::Reply(client, brick) => self.take_reply(state, client, brick),
            Step::WriteDone(brick) => self.finish_write(state, brick),
            Step::Open(asked) => self.open(state, asked, false),
            Step::TakeOver(asked) => self.open(state, asked, true),
            Step::Propose(client) => self.propose(state, client),
            Step::Retry(client) => self.prepare(state, client),
            Step::Reconnect(client, brick) => {
                let (ballot, force) = (state.client(client).ballot, state.client(client).forces());
                state.link(client, brick).requests.push(Request::Prepare { ballot, force });
            }
            Step::CatchUp(client, brick) => {
                let ballot = state.client(client).record.expect("a holder has a record").ballot;
                state.link(client, brick).requests.push(Request::Prepare { ballot, force: true });
            }
            Step::Drop(brick) => {
                state.client(Session::X).dropping = brick.bit();
                self.change(state, Session::X);
            }
            Step::Close => {
                state.client(Session::X).closing = true;
                self.change(state, Session::X);
            }
            Step::Renew(client, brick) => {
                state.brick(brick).lease = Some((client, true));
                state.client(client).believes |= brick.bit();
            }
            Step::BeliefEnds(client, brick) => state.client(client).believes &= !brick.bit(),
            Step::LeaseEnds(brick) => {
                if let Some((_, runs)) = &mut state.brick(brick).lease {
                    *runs = false;
                }
            }
            Step::Read(client, brick) => {
                let ballot = state.client(client).record.expect("a holder has a record").ballot;
                state.client(client).reads_left -= 1;
                state.link(client, brick).requests.push(Request::Read(ballot));
            }
            Step::Write(client, brick) => {
                let ballot = state.client(client).record.expect("a holder has a record").ballot;
                state.client(client).writes_left -= 1;
                state.link(client, brick).requests.push(Request::Write(ballot));
            }
            Step::Restart(brick) => self.restart(state, brick),
            Step::Wipe(brick) => self.wipe(state, brick),
            Step::Teach | Step::TeacherAsks(_) | Step::Learned(_) => self.teach(state, step),
        }
    }

    /// Gives a blank brick its registers back (R2).
    fn teach(&self, state: &mut State, step: Step) {
        match step {
            Step::Teach => {
                let voters = state.bricks.iter().filter(|brick| !brick.blank);
                let counter = 1 + voters.map(|brick| brick.promised.counter).max().unwrap_or_default();
                let reads_only = self.rules.breaks(Mutation::LearnWithoutFence);
                let ballot = self.ballot(if reads_only { 0 } else { counter }, Session::Teacher);
                state.learner = Some(Learner { ballot, asked: 0, best: Default::default() });
            }
            Step::TeacherAsks(brick) => {
                let acceptor = &mut state.bricks[brick.index()];
                let learner = state.learner.as_mut().expect("a teacher asks");
                if self.rules.breaks(Mutation::LearnWithoutFence) {
                    learner.ballot = learner.ballot.max(acceptor.promised);
                } else if learner.ballot <= acceptor.promised {
                    // Overtaken: it begins again, higher.
                    state.learner = None;
                    return;
                } else {
                    acceptor.promised = learner.ballot;
                    acceptor.synced = learner.ballot;
                }
                learner.asked |= brick.bit();
                learner.best = learner.best.max(acceptor.accepted);
            }
            Step::Learned(brick) => {
                let learner = state.learner.take().expect("a teacher has asked");
                let acceptor = state.brick(brick);
                acceptor.promised = learner.ballot.max(learner.best.ballot);
                acceptor.synced = acceptor.promised;
                acceptor.accepted = learner.best;
                acceptor.blank = false;
                self.note_holder(acceptor);
            }
            _ => unreachable!("the teacher's steps"),
        }
    }
}
