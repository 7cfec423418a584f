//! Reading, listing and changing registers on a quorum of a group.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use brick_wire::cursor::Body;
use brick_wire::decode::Frame;
use brick_wire::register::{
    RegisterEntry, RegisterKey, RegisterKind, RegisterListRequest, RegisterPage, RegisterState,
};
use brick_wire::{BrickIndex, BrickSet, Epoch, Flags, Floors, Header, Opcode, RequestId, Status};
use tokio::sync::mpsc;

use super::{Volume, VolumeError};
use crate::config::Group;
use crate::driver::clock::jittered;
use crate::driver::connection::ConnectError;
use crate::driver::control::Control;
use crate::replica::Quorum;
use crate::replica::proposer::{ATTEMPTS_MAX, Proposer, Step};

/// First pause after a refused ballot.
const RETRY_PAUSE: Duration = Duration::from_millis(10);

/// A group's bricks as one call reaches them.
pub(super) struct Reached {
    pub(super) controls: Vec<Result<Rc<Control>, Rc<ConnectError>>>,
    session: brick_wire::SessionId,
    group: usize,
    quorum: Quorum,
}

type Answer = (BrickIndex, Result<Frame, ConnectError>);

impl Volume {
    /// Connects to a group, or says which quorum is missing.
    pub(super) async fn reach_quorum(&self, group: usize) -> Result<Reached, VolumeError> {
        let session = Volume::fresh_session();
        let controls = self.reach(&self.config.groups[group], session).await;
        Reached::new(controls, session, group, self.config.groups[group].quorum)
    }

    pub(super) fn group(&self, group: usize) -> &Group {
        &self.config.groups[group]
    }
}

impl Reached {
    /// Connections of `session` to the bricks of a group, if a quorum of them is there.
    pub(super) fn new(
        controls: Vec<Result<Rc<Control>, Rc<ConnectError>>>,
        session: brick_wire::SessionId,
        group: usize,
        quorum: Quorum,
    ) -> Result<Reached, VolumeError> {
        let reached = Reached { controls, session, group, quorum };
        reached.check_quorum()?;
        Ok(reached)
    }

    fn check_quorum(&self) -> Result<(), VolumeError> {
        let voters: BrickSet = self.voters().map(|(brick, _)| brick).collect();
        if self.is_quorum(voters) {
            return Ok(());
        }
        let reasons: Vec<String> = self
            .controls
            .iter()
            .filter_map(|control| match control {
                Err(error) => Some(error.to_string()),
                Ok(control) if control.welcome.blank => Some("a brick is blank".to_owned()),
                Ok(_) => None,
            })
            .collect();
        Err(VolumeError::NoQuorum {
            group: self.group,
            answered: voters.count(),
            bricks: self.controls.len(),
            reasons: reasons.join("; "),
        })
    }

    fn is_quorum(&self, bricks: BrickSet) -> bool {
        self.quorum.is_reached_by(bricks, self.controls.len())
    }

    /// Retired lives of the group's bricks, as the voters told when they were connected to.
    pub(super) fn floors(&self) -> Floors {
        let mut floors = Floors::default();
        for (_, control) in self.voters() {
            floors.merge(&control.welcome.floors);
        }
        floors
    }

    /// Bricks that are there and may vote.
    fn voters(&self) -> impl Iterator<Item = (BrickIndex, &Rc<Control>)> {
        self.controls.iter().enumerate().filter_map(|(index, control)| {
            let control = control.as_ref().ok().filter(|control| !control.welcome.blank)?;
            Some((BrickIndex(index as u8), control))
        })
    }

    /// Sends the same request to every voter; answers arrive on the channel.
    fn broadcast(&self, header: Header, aux: &[u8]) -> (usize, mpsc::UnboundedReceiver<Answer>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut count = 0;
        for (brick, control) in self.voters() {
            let (control, sender, aux) = (control.clone(), sender.clone(), aux.to_vec());
            count += 1;
            monoio::spawn(async move {
                let _receiver_has_enough = sender.send((brick, control.call(header, aux).await));
            });
        }
        (count, receiver)
    }

    /// Changes a register: `decide` gets the current value and the ballot, and returns the next value, or
    /// an error that leaves everything as it is. It may be called again if others interfere. Returns the
    /// value that was decided.
    pub(super) async fn change(
        &self,
        key: &RegisterKey,
        mut decide: impl FnMut(Option<&[u8]>, Epoch) -> Result<Vec<u8>, VolumeError>,
    ) -> Result<Vec<u8>, VolumeError> {
        let mut proposer = Proposer::new(key.clone(), self.session, self.quorum, self.controls.len());
        let mut step = proposer.start();
        let mut pause = RETRY_PAUSE;
        loop {
            step = match step {
                Step::Prepare(ballot) => self.prepare(&mut proposer, ballot).await?,
                Step::Decide(current) => {
                    let value = decide(current.as_deref(), proposer.ballot())?;
                    proposer.propose(value)
                }
                Step::Accept(ballot, value) => self.accept(&mut proposer, ballot, value).await?,
                Step::Done(value) => return Ok(value),
                Step::Refused => {
                    monoio::time::sleep(jittered(pause)).await;
                    pause *= 2;
                    proposer.retry().ok_or(VolumeError::Contended)?
                }
                Step::Wait => unreachable!("rounds end with a decision or an error"),
            };
        }
    }

    async fn prepare(&self, proposer: &mut Proposer, ballot: Epoch) -> Result<Step, VolumeError> {
        let mut header = Header::request(Opcode::RegisterPrepare, RequestId(0));
        header.epoch = ballot;
        let (count, mut answers) = self.broadcast(header, &proposer.key().to_bytes());
        for _ in 0..count {
            let Some((brick, Ok(frame))) = answers.recv().await else { continue };
            let state = self.state(brick, &frame)?;
            match proposer.handle_promise(brick, ballot, frame.header.status, &state) {
                Step::Wait => {}
                step => return Ok(step),
            }
        }
        Err(self.lost_quorum())
    }

    async fn accept(
        &self,
        proposer: &mut Proposer,
        ballot: Epoch,
        value: Vec<u8>,
    ) -> Result<Step, VolumeError> {
        let mut header = Header::request(Opcode::RegisterAccept, RequestId(0));
        header.epoch = ballot;
        let state = RegisterState { value, ..RegisterState::default() };
        let entry = RegisterEntry { key: proposer.key().clone(), state };
        let (count, mut answers) = self.broadcast(header, &entry.to_bytes());
        for _ in 0..count {
            let Some((brick, Ok(frame))) = answers.recv().await else { continue };
            match proposer.handle_accepted(brick, ballot, frame.header.status) {
                Step::Wait => {}
                step => return Ok(step),
            }
        }
        Err(self.lost_quorum())
    }

    fn lost_quorum(&self) -> VolumeError {
        VolumeError::NoQuorum {
            group: self.group,
            answered: 0,
            bricks: self.controls.len(),
            reasons: "bricks stopped answering in the middle of a change".to_owned(),
        }
    }

    /// A register's state out of a reply; empty if the brick refused to say.
    fn state(&self, brick: BrickIndex, frame: &Frame) -> Result<RegisterState, VolumeError> {
        if !matches!(frame.header.status, Status::Ok | Status::BallotRefused | Status::LeaseHeld) {
            return Ok(RegisterState::default());
        }
        RegisterState::from_bytes(&frame.aux)
            .map_err(|source| VolumeError::BadAnswer { address: format!("brick {}", brick.0), source })
    }

    /// The newest value that any voter accepted. For epoch records, which only their holder may decide.
    pub(super) async fn read_newest(&self, key: &RegisterKey) -> Result<Option<Vec<u8>>, VolumeError> {
        let states = self.read_states(key).await?.into_iter().map(|(_, state)| state);
        let newest = states.max_by_key(|state| state.accepted);
        Ok(newest.filter(|state| state.accepted != Epoch::ZERO).map(|state| state.value))
    }

    /// What a quorum of voters holds of a register.
    async fn read_states(&self, key: &RegisterKey) -> Result<Vec<(BrickIndex, RegisterState)>, VolumeError> {
        let header = Header::request(Opcode::RegisterRead, RequestId(0));
        let (count, mut answers) = self.broadcast(header, &key.to_bytes());
        let (mut states, mut answered) = (Vec::new(), BrickSet::EMPTY);
        for _ in 0..count {
            if let Some((brick, Ok(frame))) = answers.recv().await {
                states.push((brick, self.state(brick, &frame)?));
                answered.insert(brick);
            }
        }
        if self.is_quorum(answered) { Ok(states) } else { Err(self.lost_quorum()) }
    }

    /// The decided value of a register, linearizable: if a quorum doesn't agree on what was accepted last,
    /// the value found is decided first.
    pub(super) async fn read(&self, key: &RegisterKey) -> Result<Option<Vec<u8>>, VolumeError> {
        assert_ne!(key.kind(), RegisterKind::Epoch, "an epoch record is decided by its holder");
        let states = self.read_states(key).await?;
        let newest = states.iter().map(|(_, state)| state).max_by_key(|state| state.accepted);
        let newest = newest.expect("a quorum isn't empty");
        let agree = states.iter().filter(|(_, state)| state.accepted == newest.accepted);
        if self.is_quorum(agree.map(|(brick, _)| *brick).collect()) {
            return Ok((newest.accepted != Epoch::ZERO).then(|| newest.value.clone()));
        }
        if newest.accepted == Epoch::ZERO {
            return Err(self.lost_quorum());
        }
        let value = self.change(key, |current, _| Ok(current.unwrap_or_default().to_vec())).await?;
        Ok((!value.is_empty()).then_some(value))
    }

    /// Has a quorum promise us a ballot higher than all it promised before, and returns the newest value that it
    /// accepted. Nothing is accepted: a holder prepares again, higher, and goes on.
    pub(super) async fn claim(&self, key: &RegisterKey) -> Result<RegisterState, VolumeError> {
        let mut ballot = Epoch { counter: 1, session: self.session };
        for _ in 0..ATTEMPTS_MAX {
            let mut header = Header::request(Opcode::RegisterPrepare, RequestId(0));
            header.epoch = ballot;
            // A lease is about who may hold the image; this takes it from nobody.
            header.flags = Flags::FORCE;
            let (count, mut answers) = self.broadcast(header, &key.to_bytes());
            let (mut promised, mut newest, mut seen) =
                (BrickSet::EMPTY, RegisterState::default(), ballot.counter);
            for _ in 0..count {
                let Some((brick, Ok(frame))) = answers.recv().await else { continue };
                let state = self.state(brick, &frame)?;
                seen = seen.max(state.promised.counter);
                if frame.header.status == Status::Ok {
                    promised.insert(brick);
                    if state.accepted > newest.accepted {
                        newest = state;
                    }
                }
            }
            if self.is_quorum(promised) {
                return Ok(RegisterState { promised: ballot, lease_left_ms: 0, ..newest });
            }
            ballot.counter = seen + 1;
            monoio::time::sleep(jittered(RETRY_PAUSE)).await;
        }
        Err(VolumeError::Contended)
    }

    /// The names of all registers of a kind that a quorum knows, in order.
    pub(super) async fn keys(&self, kind: RegisterKind) -> Result<Vec<RegisterKey>, VolumeError> {
        Ok(self.list(kind).await?.into_keys().collect())
    }

    /// All registers of a kind with the newest value any voter holds, in key order; those that hold only a
    /// promise included.
    pub(super) async fn list(
        &self,
        kind: RegisterKind,
    ) -> Result<BTreeMap<RegisterKey, RegisterState>, VolumeError> {
        let mut newest: BTreeMap<RegisterKey, RegisterState> = BTreeMap::new();
        let mut answered = BrickSet::EMPTY;
        for (brick, control) in self.voters() {
            match list_one(control, brick, kind).await {
                Ok(entries) => {
                    answered.insert(brick);
                    for entry in entries {
                        let state = newest.entry(entry.key).or_default();
                        if entry.state.accepted > state.accepted {
                            *state = entry.state;
                        }
                    }
                }
                Err(VolumeError::Connect(_)) => {}
                Err(error) => return Err(error),
            }
        }
        if !self.is_quorum(answered) {
            return Err(self.lost_quorum());
        }
        Ok(newest)
    }
}

/// All registers of a kind that one brick holds.
pub(super) async fn list_one(
    control: &Control,
    brick: BrickIndex,
    kind: RegisterKind,
) -> Result<Vec<RegisterEntry>, VolumeError> {
    let mut entries: Vec<RegisterEntry> = Vec::new();
    loop {
        let after = entries.last().map(|entry| entry.key.clone());
        let request = RegisterListRequest { kind, after };
        let frame = control.ask(Opcode::RegisterList, request.to_bytes()).await?;
        let page = RegisterPage::from_bytes(&frame.aux)
            .map_err(|source| VolumeError::BadAnswer { address: format!("brick {}", brick.0), source })?;
        let more = frame.header.flags.contains(Flags::MORE) && !page.entries.is_empty();
        entries.extend(page.entries);
        if !more {
            return Ok(entries);
        }
    }
}
