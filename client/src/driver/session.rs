//! A replica group with its links and its timer, as async calls. All on one thread; nothing here decides.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use brick_wire::body::Attach;
use brick_wire::handshake::PeerKind;
use brick_wire::{BrickIndex, Timestamp, VolumeUuid};
use rustc_hash::FxHashMap;
use tokio::sync::{Notify, oneshot};

use super::clock;
use super::connection::Caller;
use super::link::{Link, LinkConfig, LinkEvent};
use super::spin::Spinner;
use crate::replica::{Action, Group, GroupConfig, GroupError, Output, Report, Request, UserRequest};

/// So few requests in flight that each answer would have to wake the thread.
const FEW_REQUESTS: usize = 4;

/// One opened image in one group.
#[derive(Clone)]
pub(crate) struct Session {
    shared: Rc<Shared>,
}

struct Shared {
    group: RefCell<Group>,
    links: RefCell<Vec<Link>>,
    spinner: Spinner,
    requests: RefCell<FxHashMap<UserRequest, oneshot::Sender<Result<Output, GroupError>>>>,
    request_next: Cell<u64>,
    opened: RefCell<Option<oneshot::Sender<Result<(), GroupError>>>>,
    closed: RefCell<Option<oneshot::Sender<Result<(), GroupError>>>>,
    /// What the timer task sleeps until; it is woken when that moves forward.
    armed: Cell<Option<Timestamp>>,
    rearm: Notify,
    stopped: Cell<bool>,
    pumping: Cell<bool>,
    /// Told when the group ends: fenced, lost, closed.
    ended: Notify,
    /// Told when it is known which shards exist, and when the group ends before.
    listed: Notify,
    told_listed: Cell<bool>,
}

impl Session {
    /// Opens the image in one group; returns when it serves. After each request and answer the thread stays awake for
    /// `spin`.
    pub(crate) async fn open(
        config: GroupConfig,
        volume: VolumeUuid,
        client_name: &str,
        spin: Duration,
    ) -> Result<Session, GroupError> {
        let (opened, wait) = oneshot::channel();
        let caller =
            Caller { kind: PeerKind::Client, volume, session: config.session, name: client_name.to_owned() };
        let attach = Attach { image: config.image, shard_shift: config.shard_shift };
        let bricks = config.bricks.clone();
        let shared = Rc::new(Shared {
            group: RefCell::new(Group::new(config, clock::now())),
            links: RefCell::default(),
            spinner: Spinner::start(spin),
            requests: RefCell::default(),
            request_next: Cell::new(0),
            opened: RefCell::new(Some(opened)),
            closed: RefCell::default(),
            armed: Cell::new(None),
            rearm: Notify::new(),
            stopped: Cell::new(false),
            pumping: Cell::new(false),
            ended: Notify::new(),
            listed: Notify::new(),
            told_listed: Cell::new(false),
        });
        for (index, brick) in bricks.into_iter().enumerate() {
            let config =
                LinkConfig { address: brick.address, brick: brick.brick, caller: caller.clone(), attach };
            let weak = Rc::downgrade(&shared);
            let link = Link::start(config, move |event| {
                if let Some(shared) = weak.upgrade() {
                    shared.handle_link(BrickIndex(index as u8), event);
                }
            });
            shared.links.borrow_mut().push(link);
        }
        monoio::spawn(run_timer(Rc::downgrade(&shared)));
        shared.pump();
        let session = Session { shared };
        match wait.await {
            Ok(Ok(())) => Ok(session),
            Ok(Err(error)) => {
                session.stop();
                Err(error)
            }
            Err(_) => Err(GroupError::Closed),
        }
    }

    /// Runs one request.
    pub(crate) async fn request(&self, request: Request) -> Result<Output, GroupError> {
        let (sender, receiver) = oneshot::channel();
        let id = UserRequest(self.shared.request_next.get());
        self.shared.request_next.set(id.0 + 1);
        self.shared.requests.borrow_mut().insert(id, sender);
        let now = clock::now();
        self.shared.stay_awake(now);
        self.shared.group.borrow_mut().handle_request(now, id, request);
        self.shared.pump();
        receiver.await.unwrap_or(Err(GroupError::Closed))
    }

    /// Flushes, gives the image back, and ends the links.
    pub(crate) async fn close(&self) -> Result<(), GroupError> {
        let (sender, receiver) = oneshot::channel();
        *self.shared.closed.borrow_mut() = Some(sender);
        self.shared.group.borrow_mut().handle_close(clock::now());
        self.shared.pump();
        let result = receiver.await.unwrap_or(Err(GroupError::Closed));
        self.stop();
        result
    }

    /// Completes when the group can't serve any more, with the reason.
    pub(crate) async fn ended(&self) -> GroupError {
        loop {
            let told = self.shared.ended.notified();
            if let Some(error) = self.shared.group.borrow().ended() {
                return error.clone();
            }
            told.await;
        }
    }

    /// Why the group can't serve any more, if so.
    pub(crate) fn end_reason(&self) -> Option<GroupError> {
        self.shared.group.borrow().ended().cloned()
    }

    /// Waits until it is known which shards exist; until then each counts as existing. Gives up after
    /// `patience`, or when the group ends.
    pub(crate) async fn shards_listed(&self, patience: Duration) {
        let until = clock::now() + patience;
        loop {
            let told = self.shared.listed.notified();
            if self.shared.is_listed() || clock::now() >= until {
                return;
            }
            monoio::select! {
                _ = told => {}
                _ = clock::sleep_until(until) => {}
            }
        }
    }

    pub(crate) fn size_bytes(&self) -> u64 {
        self.shared.group.borrow().size_bytes()
    }

    pub(crate) fn report(&self) -> Report {
        self.shared.group.borrow().report()
    }

    /// Whether a shard is known never to have been written.
    pub(crate) fn is_hole(&self, shard: brick_wire::ShardIndex) -> bool {
        self.shared.group.borrow().existing_shards().is_some_and(|existing| !existing.contains(&shard))
    }

    fn stop(&self) {
        self.shared.stopped.set(true);
        self.shared.links.borrow_mut().clear();
        self.shared.rearm.notify_one();
    }
}

impl Shared {
    fn handle_link(&self, brick: BrickIndex, event: LinkEvent) {
        let now = clock::now();
        self.stay_awake(now);
        {
            let mut group = self.group.borrow_mut();
            match event {
                LinkEvent::Up(info, floors) => group.handle_link_up(now, brick, info, &floors),
                LinkEvent::Down => group.handle_link_down(now, brick),
                LinkEvent::Failed => group.handle_link_failed(now, brick),
                LinkEvent::Frame(core, frame) => group.handle_reply(now, brick, core, frame),
            }
        }
        self.pump();
    }

    /// With many requests in flight one wake-up serves several, and the processor has better things to do; without any,
    /// an answer is one to a renewal, for which nobody waits.
    fn stay_awake(&self, now: Timestamp) {
        if (1..=FEW_REQUESTS).contains(&self.requests.borrow().len()) {
            self.spinner.note(now);
        }
    }

    fn is_listed(&self) -> bool {
        let group = self.group.borrow();
        group.existing_shards().is_some() || group.ended().is_some()
    }

    /// Does what the core wants done.
    fn pump(&self) {
        if self.pumping.replace(true) {
            return;
        }
        loop {
            let action = self.group.borrow_mut().poll_action();
            match action {
                None => break,
                Some(Action::Send { brick, core, frame }) => {
                    if let Some(link) = self.links.borrow().get(usize::from(brick.0)) {
                        link.send(core, frame);
                    }
                }
                Some(Action::ResetLink { brick, reason }) => {
                    tracing::info!(brick = brick.0, reason, "link reset");
                    if let Some(link) = self.links.borrow().get(usize::from(brick.0)) {
                        link.reset();
                    }
                }
                Some(Action::Opened(result)) => answer(&self.opened, result),
                Some(Action::Closed(result)) => answer(&self.closed, result),
                Some(Action::Complete { request, result }) => {
                    if let Some(sender) = self.requests.borrow_mut().remove(&request) {
                        let _caller_gave_up = sender.send(result);
                    }
                }
            }
        }
        self.pumping.set(false);
        if self.group.borrow().ended().is_some() {
            self.ended.notify_one();
        }
        if !self.told_listed.get() && self.is_listed() {
            self.told_listed.set(true);
            self.listed.notify_waiters();
        }
        let due = self.group.borrow().poll_timeout();
        if let Some(due) = due
            && self.armed.get().is_none_or(|armed| due < armed)
        {
            self.armed.set(Some(due));
            self.rearm.notify_one();
        }
    }
}

fn answer(
    waiting: &RefCell<Option<oneshot::Sender<Result<(), GroupError>>>>,
    result: Result<(), GroupError>,
) {
    if let Some(sender) = waiting.borrow_mut().take() {
        let _caller_gave_up = sender.send(result);
    }
}

async fn run_timer(shared: std::rc::Weak<Shared>) {
    loop {
        let Some(strong) = shared.upgrade() else { return };
        if strong.stopped.get() {
            return;
        }
        match strong.armed.get() {
            None => strong.rearm.notified().await,
            Some(at) if clock::now() < at => {
                monoio::select! {
                    _ = clock::sleep_until(at) => {}
                    _ = strong.rearm.notified() => {}
                }
            }
            Some(_) => {
                let due = strong.group.borrow().poll_timeout();
                strong.armed.set(None);
                if due.is_some_and(|due| clock::now() >= due) {
                    strong.group.borrow_mut().handle_timeout(clock::now());
                }
                strong.pump();
            }
        }
    }
}
