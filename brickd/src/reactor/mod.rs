//! The shell around the engine: per core a thread, a ring, a pool, and this loop. It does what the engine
//! asks and tells it what happened; it decides nothing about data.
//!
//! One turn of the loop: reap completions, feed the events they make to the engine, do the actions it
//! answers with, send what was queued, and enter the kernel once to submit all of it and sleep; what is much is sent and
//! submitted before. There is no periodic tick: an idle brick sleeps.
//!
//! - [`ring`], [`files`], [`disk`], [`helper`]: disk operations, on the ring and beside it.
//! - [`connection`], [`receive`], [`send`], `listen`, `dial`, `traffic`: sockets and frames.
//! - [`cores`], [`mail`], [`signals`], [`clock`], [`spin`]: threads, what they say to each other, the way out.
//!
//! Peers may send anything and stop anywhere: that costs them their connection and nobody else anything. A
//! crash may come anywhere: what must survive it went through the store.

pub mod clock;
pub mod connection;
pub mod cores;
mod dial;
pub mod disk;
pub mod files;
pub mod helper;
mod listen;
pub mod mail;
pub mod receive;
mod requests;
pub mod ring;
pub mod send;
pub mod signals;
pub mod spin;
mod traffic;

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use brick_wire::{CoreIndex, Timestamp};
use io_uring::opcode;
use io_uring::types::Fd;

use crate::buffer::Pool;
use crate::engine::{Action, ConnectionId, Engine, Event};
use connection::Connections;
use dial::Connecting;
use disk::{Disk, DiskOperation};
use helper::Helpers;
use listen::Listener;
use mail::{Mail, Mailbox};
use ring::Ring;
use spin::Spin;
use traffic::{Receiving, Sending};

/// What the reactor drives: the engine, or a test's script in its place. The contract is the
/// [`Engine`](crate::engine)'s.
pub trait Core {
    /// Takes an event.
    fn handle_event(&mut self, now: Timestamp, event: Event);
    /// The next thing to do.
    fn poll_action(&mut self) -> Option<Action>;
    /// When to call with [`Event::Tick`].
    fn poll_timeout(&self) -> Option<Timestamp>;
}

impl Core for Engine {
    fn handle_event(&mut self, now: Timestamp, event: Event) {
        Engine::handle_event(self, now, event);
    }

    fn poll_action(&mut self) -> Option<Action> {
        Engine::poll_action(self)
    }

    fn poll_timeout(&self) -> Option<Timestamp> {
        Engine::poll_timeout(self)
    }
}

/// What the cores of a brick have in common.
#[derive(Debug)]
pub struct Shared {
    /// One per core.
    pub mailboxes: Arc<Vec<Mailbox>>,
    /// For what blocks.
    pub helpers: Helpers,
    /// The brick's directory.
    pub directory: Arc<OwnedFd>,
    /// Its lock, for the rings.
    pub lock: OwnedFd,
    /// Bytes of disk under shard files.
    pub used_bytes: Arc<AtomicU64>,
    /// Accepted connections that are open.
    pub accepted: AtomicUsize,
    /// Cores whose engine has stopped.
    pub stopped: AtomicUsize,
    /// An engine could not stop cleanly.
    pub unclean: AtomicBool,
    /// The directory is to be served again once everything has stopped.
    pub restart: AtomicBool,
    /// The operator was told that a pool can't be registered.
    pub pool_warned: AtomicBool,
}

/// One core.
#[derive(Debug)]
pub struct Reactor<C> {
    core: C,
    index: CoreIndex,
    shared: Arc<Shared>,
    ring: Ring<Operation>,
    pool: Pool,
    disk: Disk,
    connections: Connections,
    /// What the engine has to hear.
    events: VecDeque<Event>,
    /// Connections with something to send.
    unsent: Vec<ConnectionId>,
    /// Payload, about, that could be sent, bytes: of connections that wait for no earlier send.
    unsent_bytes: usize,
    /// Connections that wait for pool slots, in line.
    starved: VecDeque<ConnectionId>,
    listener: Option<Listener>,
    spin: Spin,
    /// Events that the engine was told.
    told: u64,
    /// Those before the last wait.
    told_before: u64,
    /// What was done between waits, not counting those after which the engine heard nothing: events, and bytes moved.
    work: usize,
    /// What time it was when this turn of the loop began, or its last burst.
    now: Timestamp,
    /// Every core has stopped; what is still to be sent has until then.
    exit_deadline: Option<Timestamp>,
}

/// What is in the ring.
#[derive(Debug)]
enum Operation {
    Accept { _socket: Arc<OwnedFd> },
    Mail { _counter: Box<[u8; 8]> },
    Receive(Receiving),
    Send(Sending),
    Connect(Connecting),
    Disk(DiskOperation),
}

impl From<DiskOperation> for Operation {
    fn from(operation: DiskOperation) -> Operation {
        Operation::Disk(operation)
    }
}

impl<C: Core> Reactor<C> {
    /// A core that isn't running yet. The ring must belong to the calling thread.
    fn new(
        core: C,
        index: CoreIndex,
        shared: Arc<Shared>,
        ring: Ring<Operation>,
        pool: Pool,
        disk: Disk,
        spin: Spin,
    ) -> Self {
        Reactor {
            core,
            index,
            shared,
            ring,
            pool,
            disk,
            connections: Connections::default(),
            events: VecDeque::new(),
            unsent: Vec::new(),
            unsent_bytes: 0,
            starved: VecDeque::new(),
            listener: None,
            spin,
            told: 0,
            told_before: 0,
            work: 0,
            now: clock::now(),
            exit_deadline: None,
        }
    }

    /// Runs until every core has stopped. An error is the ring's: without it nothing works.
    fn run(mut self) -> io::Result<()> {
        self.read_mail();
        self.accept();
        loop {
            self.turn();
            if self.exit_deadline.is_some_and(|deadline| self.connections.is_empty() || self.now >= deadline)
            {
                break;
            }
            self.wait()?;
            self.reap();
        }
        self.ring.drain();
        Ok(())
    }

    /// Takes what has completed, to a limit: what is started meanwhile may complete meanwhile, and a core that its clients
    /// keep busy would never come to what else is due.
    fn reap(&mut self) {
        let told = self.told;
        for _ in 0..TURN_COMPLETIONS_MAX {
            let Some((operation, result)) = self.ring.next_completion() else { return };
            self.complete(operation, result);
            self.process_events();
            if self.told - told >= TURN_EVENTS_MAX {
                return;
            }
        }
    }

    /// Submits what was started, and returns when something completed or is due: having looked for it for a while if
    /// that pays, having slept otherwise.
    fn wait(&mut self) -> io::Result<()> {
        let (began, timeout) = (clock::now(), self.timeout());
        let budget = self.spin.budget(began, self.disk.in_flight()).min(timeout.unwrap_or(Duration::MAX));
        let mut now = began;
        let mut completed = false;
        while now.since(began) < budget && !self.spin.is_pausing(now) {
            completed = self.ring.look()?;
            let looked = clock::now();
            now = looked;
            if completed {
                break;
            }
            std::thread::yield_now();
            now = clock::now();
            self.spin.note_yield(now, now.since(looked));
        }
        if !completed {
            self.ring.wait(timeout.map(|timeout| timeout.saturating_sub(now.since(began))))?;
            now = clock::now();
        }
        if self.told == self.told_before {
            self.spin.note_more(now.since(began));
        } else {
            self.told_before = self.told;
            self.spin.note_wait(now.since(began), std::mem::take(&mut self.work));
        }
        self.now = now;
        Ok(())
    }

    /// Everything that is due and not a completion.
    fn turn(&mut self) {
        self.close_overdue();
        self.retry_accept();
        if self.core.poll_timeout().is_some_and(|timeout| timeout <= self.now) {
            self.events.push_back(Event::Tick);
        }
        self.process_events();
        while self.feed_starved() {
            self.process_events();
        }
        self.flush_sends();
    }

    /// How long to sleep: until the engine or a connection wants attention. At least a moment, so that an
    /// engine that keeps asking for the past can't make the loop spin.
    fn timeout(&self) -> Option<Duration> {
        let accept = self.listener.as_ref().and_then(|listener| listener.retry_at);
        let wishes = [self.core.poll_timeout(), self.connections.next_alarm(), accept, self.exit_deadline];
        let next = wishes.into_iter().flatten().min()?;
        Some(next.since(self.now).max(SLEEP_MIN))
    }

    fn process_events(&mut self) {
        while let Some(event) = self.events.pop_front() {
            self.work += 1;
            self.told += 1;
            self.core.handle_event(self.now, event);
            while let Some(action) = self.core.poll_action() {
                self.apply(action);
            }
            self.start_burst();
        }
    }

    /// Lets what was started begin before the turn ends, if it is much: disk and peers needn't wait for all of a turn, or
    /// they would have nothing to do in one half of the time and everything in the other.
    fn start_burst(&mut self) {
        if self.unsent_bytes >= BURST_BYTES {
            self.flush_sends();
            self.ring.submit();
        } else if !self.ring.submit_burst() {
            return;
        }
        // What has become possible now must not seem to be older.
        self.now = clock::now();
    }

    fn apply(&mut self, action: Action) {
        match action {
            Action::Admit { connection, core, peer, welcome } => self.admit(connection, core, peer, &welcome),
            Action::Refuse { connection, status, welcome } => self.refuse(connection, status, &welcome),
            Action::Send { connection, frame } => self.queue_frame(connection, frame),
            Action::Close { connection, reason } => self.close_gently(connection, &reason),
            Action::Dial { connection, address } => self.dial(connection, address),
            Action::Disk { operation, request } => self.start_disk(operation, request),
            Action::Core { to, message } if to == self.index => self.events.push_back(Event::Core(message)),
            Action::Core { to, message } => self.mailbox(to).send(Mail::Core(message)),
            Action::Restart => self.restart(),
            Action::Stopped { clean } => self.note_stopped(clean),
        }
    }

    fn complete(&mut self, operation: Operation, result: i32) {
        match operation {
            Operation::Accept { .. } => self.accepted(result),
            Operation::Mail { .. } => {
                let shared = self.shared.clone();
                for mail in shared.mailboxes[usize::from(self.index.0)].receive() {
                    self.open_mail(mail);
                }
                self.read_mail();
            }
            Operation::Receive(receiving) => self.received(receiving, result),
            Operation::Send(sending) => self.sent(sending, result),
            Operation::Connect(connecting) => self.connected(connecting, result),
            Operation::Disk(operation) => {
                if let Some((operation, result)) = self.disk.complete(&mut self.ring, operation, result) {
                    self.events.push_back(Event::DiskDone { operation, result });
                }
            }
        }
    }

    fn open_mail(&mut self, mail: Mail) {
        match mail {
            Mail::Core(message) => self.events.push_back(Event::Core(message)),
            Mail::Handover(handover) => self.take_over(handover),
            Mail::Helped { operation, result } => {
                let result = result.map(|()| crate::engine::DiskOutput::Done);
                self.events.push_back(Event::DiskDone { operation, result });
            }
            Mail::Resolved { connection, result } => self.resolved(connection, result),
            Mail::Shutdown => self.events.push_back(Event::Shutdown),
            Mail::Exit => {
                for id in self.connections.ids() {
                    self.close_gently(id, &"the brick has stopped");
                }
                self.exit_deadline = Some(self.now + EXIT_TIMEOUT);
            }
        }
    }

    /// Arms the read that mail wakes.
    fn read_mail(&mut self) {
        let event = self.mailbox(self.index).event().as_raw_fd();
        let mut counter = Box::new([0; 8]);
        let entry = opcode::Read::new(Fd(event), counter.as_mut_ptr(), 8).build();
        // SAFETY: the counter is boxed and owned by the operation; the eventfd lives in `shared`, which this
        // reactor holds until its ring is drained.
        unsafe { self.ring.start(Operation::Mail { _counter: counter }, entry) };
    }

    fn mailbox(&self, core: CoreIndex) -> &Mailbox {
        &self.shared.mailboxes[usize::from(core.0)]
    }

    /// Every core stops, as after a signal.
    fn restart(&mut self) {
        self.shared.restart.store(true, Ordering::SeqCst);
        for mailbox in self.shared.mailboxes.iter() {
            mailbox.send(Mail::Shutdown);
        }
    }

    /// An engine that has stopped goes on answering the other cores until all have.
    fn note_stopped(&mut self, clean: bool) {
        if !clean {
            self.shared.unclean.store(true, Ordering::SeqCst);
        }
        let stopped = self.shared.stopped.fetch_add(1, Ordering::SeqCst) + 1;
        if stopped == self.shared.mailboxes.len() {
            for mailbox in self.shared.mailboxes.iter() {
                mailbox.send(Mail::Exit);
            }
        }
    }
}

/// Completions after which a turn ends though there are more.
const TURN_COMPLETIONS_MAX: usize = 256;
/// Events after which it does: a completion may bring thousands of small frames.
const TURN_EVENTS_MAX: u64 = 1024;
/// Payload that doesn't wait for the end of a turn: eight reads of 4 KiB (32 of them in flight: 9% more).
const BURST_BYTES: usize = 32 * 1024;
/// The shortest sleep.
const SLEEP_MIN: Duration = Duration::from_millis(1);
/// How long peers get to take what a stopped brick still has to send.
const EXIT_TIMEOUT: Duration = Duration::from_secs(1);
