//! The registers of this brick (rules R1, R2), on core 0: one acceptor of CASPaxos per key.
//!
//! Invariants: a state in `states` is durable; nobody is told of another. Changes of one key run one after
//! the other. An epoch register is fenced on every core before its promise is durable, and its accepted
//! record is known to every core before the accept is answered. Nothing is accepted under a ballot that
//! wasn't promised here, nor two values under one ballot.
//!
//! Disk: appends are group-committed, one in flight. A failed append leaves unknown what a restart will
//! find, so this brick answers no change any more until it is restarted. Crashes between append and answer
//! are harmless: the asker takes silence for "unknown".

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

use brick_wire::cursor::Body;
use brick_wire::limits::AUX_BYTES_MAX;
use brick_wire::record::EpochRecord;
use brick_wire::register::{
    RegisterEntry, RegisterKey, RegisterKind, RegisterListRequest, RegisterPage, RegisterState,
};
use brick_wire::{Epoch, Flags, Header, ImageUuid, Status};

use super::broadcast::Waiting;
use super::requests::{Outcome, Reply};
use super::{ConnectionId, CoreMessage, DiskError, DiskRequest, Engine, Purpose, Token};

/// Registers of one brick, tombstones included: names, images and epochs of some hundred thousand images.
const REGISTERS_MAX: usize = 1 << 20;

/// A change asked for.
#[derive(Clone, Debug)]
pub(super) enum Change {
    /// Promise the header's ballot.
    Prepare,
    /// Accept `value` under the header's ballot.
    Accept { value: Vec<u8> },
    /// Take over what a majority of the others holds.
    Learn { state: RegisterState },
}

/// How far a change has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The fence is rising on all cores.
    Fencing,
    /// In the append queue, or being appended.
    Appending,
    /// The record is on its way to all cores.
    Recording,
}

#[derive(Debug)]
struct Running {
    token: Token,
    stage: Stage,
    /// The state once it is durable.
    next: RegisterState,
    /// To tell all cores: an epoch register's new record.
    record: Option<EpochRecord>,
}

#[derive(Debug)]
struct KeyQueue {
    running: Option<Running>,
    waiting: VecDeque<(Token, Header, Change)>,
}

/// What a change comes to when its turn is there.
enum Decision {
    Answer(Status),
    Proceed { next: RegisterState, record: Option<EpochRecord>, fence: Option<(ImageUuid, Epoch)> },
}

/// All registers of a brick.
#[derive(Debug)]
pub(super) struct Registers {
    states: BTreeMap<RegisterKey, RegisterState>,
    queues: BTreeMap<RegisterKey, KeyQueue>,
    /// Keys whose append is in flight.
    appending: Vec<RegisterKey>,
    /// Keys for the next append.
    batch: Vec<RegisterKey>,
    vote_lost: bool,
}

impl Registers {
    pub(super) fn new(entries: Vec<RegisterEntry>) -> Registers {
        let states = entries.into_iter().map(|entry| (entry.key, entry.state)).collect();
        let (queues, appending, batch) = (BTreeMap::new(), Vec::new(), Vec::new());
        Registers { states, queues, appending, batch, vote_lost: false }
    }

    /// Whether an append failed.
    pub(super) fn is_vote_lost(&self) -> bool {
        self.vote_lost
    }

    /// Whether there are none, and none is being made.
    pub(super) fn is_empty(&self) -> bool {
        self.states.is_empty() && self.queues.is_empty()
    }

    /// The images with an attribute or epoch register.
    pub(super) fn images(&self) -> impl Iterator<Item = ImageUuid> {
        self.states.keys().filter_map(|key| match key {
            RegisterKey::Image(image) | RegisterKey::Epoch(image) => Some(*image),
            RegisterKey::Name(_) | RegisterKey::Scrub(_) => None,
        })
    }
}

impl Engine {
    /// `RegisterRead`.
    pub(super) fn register_read(&self, key: &RegisterKey) -> Reply {
        Reply::body(self.register_state(key).to_bytes())
    }

    /// `RegisterList`: a page of the registers of one kind, those that hold only a promise included: a
    /// blank brick that didn't learn of it could accept below it (rule R2).
    pub(super) fn register_list(&self, request: &RegisterListRequest) -> Outcome {
        if request.after.as_ref().is_some_and(|after| after.kind() != request.kind) {
            return Err(Status::Invalid);
        }
        let start = match (&request.after, request.kind) {
            (Some(after), _) => Bound::Excluded(after.clone()),
            (None, RegisterKind::Name) => Bound::Included(RegisterKey::Name(String::new())),
            (None, RegisterKind::Image) => Bound::Included(RegisterKey::Image(ImageUuid::NIL)),
            (None, RegisterKind::Scrub) => Bound::Included(RegisterKey::Scrub(ImageUuid::NIL)),
            (None, RegisterKind::Epoch) => Bound::Included(RegisterKey::Epoch(ImageUuid::NIL)),
        };
        let (mut page, mut bytes, mut flags) = (RegisterPage::default(), 0, Flags::NONE);
        for (key, _) in self.registers.states.range((start, Bound::Unbounded)) {
            if key.kind() != request.kind {
                break;
            }
            let entry = RegisterEntry { key: key.clone(), state: self.register_state(key) };
            bytes += entry.to_bytes().len();
            if bytes > AUX_BYTES_MAX - 4 {
                flags = Flags::MORE;
                break;
            }
            page.entries.push(entry);
        }
        Ok(Some(Reply::body(page.to_bytes()).with_flags(flags)))
    }

    /// `RegisterPrepare`, `RegisterAccept`, `RegisterLearn`.
    pub(super) fn change_register(
        &mut self,
        id: ConnectionId,
        header: Header,
        key: RegisterKey,
        change: Change,
    ) -> Outcome {
        if self.is_adopting() {
            return Err(Status::Busy);
        }
        let registers = &self.registers;
        if !registers.states.contains_key(&key) && registers.states.len() >= REGISTERS_MAX {
            return Err(Status::Busy);
        }
        let votes = !matches!(change, Change::Learn { .. });
        let own_ballot = header.epoch.counter > 0 && header.epoch.session == self.hello_of(id).session;
        if votes && !own_ballot {
            return Err(Status::Invalid);
        }
        let token = self.open_issued(id, header, None);
        let empty = || KeyQueue { running: None, waiting: VecDeque::new() };
        let queue = self.registers.queues.entry(key.clone()).or_insert_with(empty);
        queue.waiting.push_back((token, header, change));
        self.run_register_queue(&key);
        Ok(None)
    }

    /// Starts the key's next change if none runs; answers those that come to nothing.
    fn run_register_queue(&mut self, key: &RegisterKey) {
        loop {
            let Some(queue) = self.registers.queues.get_mut(key) else { return };
            if queue.running.is_some() {
                return;
            }
            let Some((token, header, change)) = queue.waiting.pop_front() else {
                self.registers.queues.remove(key);
                return;
            };
            match self.decide(key, &header, change) {
                Decision::Answer(status) => self.answer_change(key, token, status),
                Decision::Proceed { next, record, fence } => {
                    let stage = if fence.is_some() { Stage::Fencing } else { Stage::Appending };
                    let queue = self.registers.queues.get_mut(key).expect("found above");
                    queue.running = Some(Running { token, stage, next, record });
                    match fence {
                        Some((image, epoch)) => {
                            let waiting = Waiting::Register(key.clone());
                            self.broadcast(waiting, |broadcast| CoreMessage::Fence {
                                broadcast,
                                image,
                                epoch,
                            });
                        }
                        None => self.append(key),
                    }
                    return;
                }
            }
        }
    }

    fn decide(&self, key: &RegisterKey, header: &Header, change: Change) -> Decision {
        if self.registers.vote_lost {
            return Decision::Answer(Status::Io);
        }
        let state = self.registers.states.get(key).cloned().unwrap_or_default();
        match change {
            Change::Prepare => self.decide_prepare(key, header, state),
            Change::Accept { value } => self.decide_accept(key, header.epoch, value, state),
            Change::Learn { state: learned } => self.decide_learn(key, learned, state),
        }
    }

    fn decide_prepare(&self, key: &RegisterKey, header: &Header, state: RegisterState) -> Decision {
        let ballot = header.epoch;
        if self.identity.is_blank() {
            return Decision::Answer(Status::Blank);
        }
        if ballot <= state.promised {
            let same = ballot == state.promised;
            return Decision::Answer(if same { Status::Ok } else { Status::BallotRefused });
        }
        let mut fence = None;
        if let RegisterKey::Epoch(image) = *key {
            let asker = (ballot.session, header.flags.contains(Flags::HEAL));
            let held = self.leases.held_against(image, asker, self.now, self.config.lease);
            if held && !header.flags.contains(Flags::FORCE) {
                return Decision::Answer(Status::LeaseHeld);
            }
            fence = Some((image, ballot));
        }
        Decision::Proceed { next: RegisterState { promised: ballot, ..state }, record: None, fence }
    }

    fn decide_accept(
        &self,
        key: &RegisterKey,
        ballot: Epoch,
        value: Vec<u8>,
        state: RegisterState,
    ) -> Decision {
        if self.identity.is_blank() {
            return Decision::Answer(Status::Blank);
        }
        if ballot < state.promised {
            return Decision::Answer(Status::BallotRefused);
        }
        if ballot > state.promised {
            // No promise was asked for: nothing fenced the older epochs' requests here.
            return Decision::Answer(Status::Invalid);
        }
        if ballot == state.accepted {
            let same = value == state.value;
            return Decision::Answer(if same { Status::Ok } else { Status::Invalid });
        }
        let record = match key {
            RegisterKey::Epoch(_) => match EpochRecord::from_bytes(&value) {
                Ok(record) if record.epoch == ballot => Some(record),
                _ => return Decision::Answer(Status::Invalid),
            },
            _ => None,
        };
        let next = RegisterState { accepted: ballot, value, ..state };
        Decision::Proceed { next, record, fence: None }
    }

    fn decide_learn(&self, key: &RegisterKey, learned: RegisterState, state: RegisterState) -> Decision {
        if !self.identity.is_blank() {
            return Decision::Answer(Status::Invalid);
        }
        let promised = state.promised.max(learned.promised).max(learned.accepted);
        let mut next = RegisterState { promised, ..state };
        let mut record = None;
        if learned.accepted > next.accepted {
            if let RegisterKey::Epoch(_) = key {
                match EpochRecord::from_bytes(&learned.value) {
                    Ok(decoded) if decoded.epoch == learned.accepted => record = Some(decoded),
                    _ => return Decision::Answer(Status::Invalid),
                }
            }
            next.accepted = learned.accepted;
            next.value = learned.value;
        }
        let fence = match *key {
            RegisterKey::Epoch(image) => Some((image, promised)),
            _ => None,
        };
        Decision::Proceed { next, record, fence }
    }

    /// All cores have acknowledged the fence or the record of the change that runs.
    pub(super) fn register_broadcast_done(&mut self, key: &RegisterKey) {
        let queue = self.registers.queues.get(key);
        let running = queue.and_then(|queue| queue.running.as_ref()).map(|running| running.stage);
        match running {
            Some(Stage::Fencing) => self.append(key),
            Some(Stage::Recording) => self.finish_change(key, Status::Ok),
            // The vote was lost meanwhile, and everybody was told.
            None => assert!(self.registers.vote_lost, "broadcasts are a running change's"),
            Some(Stage::Appending) => unreachable!("no broadcast runs beside an append"),
        }
    }

    fn append(&mut self, key: &RegisterKey) {
        self.running_change(key).stage = Stage::Appending;
        self.registers.batch.push(key.clone());
        self.start_append();
    }

    fn start_append(&mut self) {
        if !self.registers.appending.is_empty() || self.registers.batch.is_empty() {
            return;
        }
        let keys = std::mem::take(&mut self.registers.batch);
        let entries = keys.iter().map(|key| {
            let state =
                self.registers.queues[key].running.as_ref().expect("appended changes run").next.clone();
            RegisterEntry { key: key.clone(), state }
        });
        let entries = entries.collect();
        self.registers.appending = keys;
        self.disk(Purpose::Append, DiskRequest::AppendRegisters { entries });
    }

    pub(super) fn append_done(&mut self, result: Result<(), DiskError>) {
        let keys = std::mem::take(&mut self.registers.appending);
        assert!(!keys.is_empty(), "one append ran");
        match result {
            Ok(()) => {}
            Err(DiskError::NoSpace) => {
                // None of it is in the log, and when there is space again the next batch may be.
                keys.iter().for_each(|key| self.finish_change(key, Status::NoSpace));
                self.start_append();
                return;
            }
            Err(_) => {
                self.registers.vote_lost = true;
                self.abandon_changes(Status::Io);
                return;
            }
        }
        for key in keys {
            let running = self.running_change(&key);
            let (next, record) = (running.next.clone(), running.record.clone());
            self.registers.states.insert(key.clone(), next);
            let (RegisterKey::Epoch(image), Some(record)) = (&key, record) else {
                self.finish_change(&key, Status::Ok);
                continue;
            };
            let image = *image;
            self.leases.record_accepted(image, &record, self.now);
            if self.is_stopping() {
                // The other cores may be gone. To the asker it is an accept that may or may not count.
                self.finish_change(&key, Status::ShuttingDown);
                continue;
            }
            self.running_change(&key).stage = Stage::Recording;
            self.broadcast(Waiting::Register(key.clone()), |broadcast| CoreMessage::Record {
                broadcast,
                image,
                record: record.clone(),
            });
        }
        self.start_append();
    }

    /// Answers all changes, whatever their stage, except those being appended at shutdown.
    pub(super) fn abandon_changes(&mut self, status: Status) {
        let appending = std::mem::take(&mut self.registers.appending);
        self.registers.batch.clear();
        for (key, queue) in std::mem::take(&mut self.registers.queues) {
            let KeyQueue { running, waiting } = queue;
            for (token, ..) in waiting {
                self.answer_change(&key, token, status);
            }
            let Some(running) = running else { continue };
            if appending.contains(&key) {
                let queue = KeyQueue { running: Some(running), waiting: VecDeque::new() };
                self.registers.queues.insert(key, queue);
            } else {
                self.answer_change(&key, running.token, status);
            }
        }
        self.registers.appending = appending;
    }

    /// Answers the change that runs and goes on with the next.
    fn finish_change(&mut self, key: &RegisterKey, status: Status) {
        let queue = self.registers.queues.get_mut(key).expect("running changes are queued");
        let token = queue.running.take().expect("running changes are queued").token;
        // Told to be blank while it ran: the promise is durable but must not count.
        let blank = self.identity.is_blank()
            && self.requests.open[&token].header.opcode != brick_wire::Opcode::RegisterLearn;
        self.answer_change(key, token, if blank { Status::Blank } else { status });
        self.run_register_queue(key);
    }

    /// The answer to a change carries the register's state, as the asker's next step depends on it.
    fn answer_change(&mut self, key: &RegisterKey, token: Token, status: Status) {
        let reply = match status {
            Status::Ok | Status::BallotRefused | Status::LeaseHeld => {
                Reply { aux: self.register_state(key).to_bytes(), ..Reply::from(status) }
            }
            _ => status.into(),
        };
        self.answer(token, reply);
    }

    fn register_state(&self, key: &RegisterKey) -> RegisterState {
        let mut state = self.registers.states.get(key).cloned().unwrap_or_default();
        state.lease_left_ms = match key {
            RegisterKey::Epoch(image) => {
                let left = self.leases.left(*image, self.now, self.config.lease);
                u32::try_from(left.as_nanos().div_ceil(1_000_000)).unwrap_or(u32::MAX)
            }
            _ => 0,
        };
        state
    }

    fn running_change(&mut self, key: &RegisterKey) -> &mut Running {
        let queue = self.registers.queues.get_mut(key).expect("running changes are queued");
        queue.running.as_mut().expect("running changes are queued")
    }
}
