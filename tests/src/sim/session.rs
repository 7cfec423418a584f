//! A client's session: the shell around one replica core, and the bookkeeping of its user's requests.

use std::collections::BTreeMap;
use std::time::Duration;

use brick_client::replica::{
    Action, BrickConfig, Group, GroupConfig, GroupError, Output, Purpose, Request, UserRequest,
};
use brick_wire::{BrickIndex, BrickSet, Epoch, SessionId, Timestamp};

use super::agenda::Happening;
use super::brick::brick_uuid;
use super::checker::{Asked, Cell, Checker, What};
use super::content::{self, Tag};
use super::finale::lease_left;
use super::history::History;
use super::link::Link;
use super::network::Side;
use super::world::{IMAGE, SHARD_SHIFT, World};

/// A host on which sessions run, one after the other.
#[derive(Debug, Default)]
pub struct Client {
    /// The present session.
    pub session: Option<SessionId>,
    /// It stands still.
    pub paused: bool,
    /// What came due meanwhile.
    pub deferred: Vec<Happening>,
}

/// What a request or an opening came to.
pub type Answer<T> = Result<T, GroupError>;

/// One opening of the image.
#[derive(Debug)]
pub struct Session {
    /// Its name.
    pub id: SessionId,
    /// On which host.
    pub client: usize,
    /// The core under test.
    pub group: Group,
    /// One per brick.
    pub links: Vec<Link>,
    /// Whether the image could be opened; `None` until known.
    pub opened: Option<Answer<()>>,
    /// Whether it could be closed; `None` until known.
    pub closed: Option<Answer<()>>,
    /// Its first epoch.
    pub epoch: Epoch,
    /// Requests without an answer.
    pub asked: BTreeMap<UserRequest, Asked>,
    /// Answers, if somebody wants to look at them.
    pub answers: Option<BTreeMap<UserRequest, Answer<Output>>>,
    /// Requests made.
    pub requests: u64,
    /// It opens to heal.
    pub heals: bool,
    /// Its user waits for an answer before the next request.
    pub(super) waits: bool,
    timer: Option<Timestamp>,
}

impl Session {
    pub(super) fn link_mut(&mut self, brick: BrickIndex) -> &mut Link {
        &mut self.links[usize::from(brick.0)]
    }

    /// Whether nothing more comes of it.
    pub fn is_over(&self) -> bool {
        self.closed.is_some() || matches!(self.opened, Some(Err(_)))
    }
}

impl World {
    /// A client opens the image.
    pub fn open(&mut self, client: usize, takeover: bool, purpose: Purpose) -> SessionId {
        let now = self.agenda.now();
        let id = SessionId(self.next_session);
        self.next_session += 1;
        let bricks = self.bricks.iter().enumerate().map(|(index, brick)| BrickConfig {
            brick: brick_uuid(index),
            role: brick.role,
            address: format!("brick-{index}"),
        });
        let config = GroupConfig {
            image: IMAGE,
            session: id,
            shard_shift: SHARD_SHIFT,
            bricks: bricks.collect(),
            quorum: self.config.quorum,
            purpose,
            takeover,
            brick_timeout: self.config.brick_timeout,
            io_timeout: self.config.io_timeout,
            no_quorum: self.config.no_quorum,
        };
        self.note_session(id, format_args!("client {client} opens, takeover {takeover}, {purpose:?}"));
        if purpose == Purpose::Heal {
            self.healers.insert(id);
        }
        let session = Session {
            id,
            client,
            group: Group::new(config, now),
            links: self.bricks.iter().map(|_| Link::default()).collect(),
            opened: None,
            closed: None,
            epoch: Epoch::ZERO,
            asked: BTreeMap::new(),
            answers: None,
            requests: 0,
            heals: purpose == Purpose::Heal,
            waits: false,
            timer: None,
        };
        self.sessions.insert(id, Box::new(session));
        self.clients[client].session = Some(id);
        for index in 0..self.bricks.len() {
            self.agenda.after(Duration::ZERO, Happening::Relink(id, BrickIndex(index as u8), 0));
        }
        id
    }

    /// A happening of a session; put off if its host stands still.
    pub(super) fn session_happening(&mut self, id: SessionId, what: Happening) {
        let Some(session) = self.sessions.get(&id) else { return };
        let client = session.client;
        if self.clients[client].paused {
            self.clients[client].deferred.push(what);
            return;
        }
        self.with_session(id, |world, session| match what {
            Happening::GroupTimer(_) => {
                let now = world.agenda.now();
                if session.timer.is_some_and(|at| at <= now) {
                    session.timer = None;
                    session.group.handle_timeout(now);
                }
            }
            Happening::Relink(_, brick, attempt) => world.relink(session, brick, attempt),
            Happening::LinkTimeout(_, brick, attempt) => world.link_timeout(session, brick, attempt),
            Happening::Work(_) => world.work(session),
            _ => unreachable!("not a session's"),
        });
    }

    /// Asks for something on behalf of a session's user.
    pub fn ask(&mut self, session: &mut Session, what: What) -> UserRequest {
        let now = self.agenda.now();
        session.requests += 1;
        let request = UserRequest(session.requests);
        let asked = Asked { made_at: now, order: (session.epoch, session.requests), what };
        if self.log.is_text() {
            self.note_session(session.id, format_args!("asks {}: {:x?}", request.0, asked.what));
        }
        self.checker.begin(&asked);
        let wanted = request_of(&asked.what);
        session.asked.insert(request, asked);
        session.group.handle_request(now, request, wanted);
        request
    }

    /// Does all that a session's core wants.
    pub(super) fn drain_session(&mut self, session: &mut Session) {
        while let Some(action) = session.group.poll_action() {
            match action {
                Action::Send { brick, core, frame } => {
                    let key =
                        session.link_mut(brick).wire(core).expect("the core sends on links that are up");
                    self.network.send(&mut self.agenda, &mut self.random, key, Side::Caller, frame);
                }
                Action::ResetLink { brick, reason } => {
                    self.note_session(session.id, format_args!("resets brick {}: {reason}", brick.0));
                    self.tear_down(session, brick);
                }
                Action::Opened(result) => self.note_opened(session, result),
                Action::Complete { request, result } => self.complete(session, request, result),
                Action::Closed(result) => {
                    self.note_session(session.id, format_args!("closed: {result:?}"));
                    session.closed = Some(result);
                }
            }
        }
        let now = self.agenda.now();
        if let Some(at) = session.group.poll_timeout()
            && session.timer.is_none_or(|due| due > at || due <= now)
        {
            session.timer = Some(at);
            self.agenda.at(at.max(now + Duration::from_nanos(1)), Happening::GroupTimer(session.id));
        }
    }

    fn note_opened(&mut self, session: &mut Session, result: Answer<()>) {
        let report = session.group.report();
        session.epoch = report.epoch;
        let (epoch, in_sync) = (report.epoch, report.in_sync);
        self.note_session(session.id, format_args!("opened: {result:?}, epoch {epoch}, S {in_sync:?}"));
        if let Err(GroupError::Held { holder, .. }) = &result
            && !session.heals
            && self.healers.contains(holder)
        {
            let complaint = format!("session {} is kept out by {}, which only heals", session.id.0, holder.0);
            self.checker.complain(complaint);
        }
        if result.is_ok() {
            self.agenda.after(Duration::ZERO, Happening::Work(session.id));
        }
        session.opened = Some(result);
    }

    fn complete(&mut self, session: &mut Session, request: UserRequest, result: Answer<Output>) {
        let now = self.agenda.now();
        let Some(asked) = session.asked.remove(&request) else {
            return self.checker.complain(format!("request {} completed twice", request.0));
        };
        if self.log.is_text() {
            let outcome = match &result {
                Ok(Output::Data(_)) => "data".to_owned(),
                other => format!("{other:?}"),
            };
            self.note_session(session.id, format_args!("request {}: {outcome}", request.0));
        }
        let is_write = matches!(asked.what, What::Write { .. });
        match &result {
            Ok(Output::Data(data)) => self.checker.read(now, &asked, Some(data)),
            Ok(Output::Zeroes) => self.checker.read(now, &asked, None),
            Ok(_) => {
                self.checker.done(now, &asked);
                self.check_copies(session.group.report().in_sync, &asked);
            }
            Err(GroupError::Io | GroupError::NoSpace) if is_write => self.checker.refused(&asked),
            Err(_) => {}
        }
        if let Some(answers) = &mut session.answers {
            answers.insert(request, result);
        }
        if std::mem::take(&mut session.waits) {
            let pause = self.random.around(self.config.workload.think);
            self.agenda.after(pause, Happening::Work(session.id));
        }
    }

    /// What completed is where the rules want it: written to every brick of S (I3), durable there (I7).
    fn check_copies(&mut self, in_sync: BrickSet, asked: &Asked) {
        let durable = matches!(asked.what, What::Flush | What::Write { fua: true, .. });
        let mut complaint = None;
        for ((shard, block, half), history, tag) in self.checker.concerned(&asked.what) {
            // A session that was replaced meanwhile answers for what it wrote before, not for what its
            // successors wrote, or flushed on an S of theirs.
            let least = match tag {
                Some(tag) => history.index(tag).expect("completed writes were begun"),
                None => history.covered(asked.order, asked.made_at).unwrap_or(0),
            };
            for brick in &self.bricks {
                let lost_power = brick.booted_at > asked.made_at;
                // Only a session that doesn't know yet that it was replaced has it in S still: its answer is
                // from before.
                let restored = brick.restored_at > asked.made_at;
                let excused = history.is_refused() || restored || (lost_power && !durable);
                if !in_sync.contains(brick.index) || excused {
                    continue;
                }
                let file = self.file(shard);
                let disk = &brick.disk;
                let content = if durable { disk.durable(file, block) } else { disk.intact(file, block) };
                if history.index(content[half]).is_none_or(|index| index < least) {
                    let what = if durable { "durable" } else { "written" };
                    let (index, held) = (brick.index.0, content[half]);
                    complaint.get_or_insert(format!(
                        "shard {shard} block {block} half {half}: not {what} on brick {index}, which holds \
                         {held:#x}; {}",
                        history.describe()
                    ));
                }
            }
        }
        if let Some(complaint) = complaint {
            self.checker.complain(complaint);
        }
    }

    /// A session that is over makes room for the next.
    pub(super) fn bury_ended(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get(&id) else { return };
        if session.answers.is_some() {
            return;
        }
        let fatal = session.opened.as_ref().is_some_and(Result::is_ok)
            && session.group.ended().is_some_and(|error| *error != GroupError::Closed);
        if session.is_over() || fatal {
            let client = session.client;
            let held = match &session.opened {
                Some(Err(error)) => lease_left(error),
                _ => Duration::ZERO,
            };
            self.drop_session(id, false);
            // Some wait as long as they were told, some try their luck.
            let held = held * self.random.pick(&[0, 1, 1, 1]);
            let pause = self.random.around(Duration::from_millis(20)) + held;
            self.agenda.after(pause, Happening::Open(client));
        }
    }

    /// The session is gone; if its host died, the bricks learn that late.
    pub fn drop_session(&mut self, id: SessionId, died: bool) {
        let Some(session) = self.sessions.remove(&id) else { return };
        self.clients[session.client].session = None;
        for key in session.links.iter().flat_map(Link::keys) {
            let patience = if died && self.random.chance(0.5) { 2_000_000 } else { 2_000 };
            let delay = Duration::from_micros(self.random.within(1..=patience));
            self.network.close_after(&mut self.agenda, key, Side::Caller, delay);
        }
    }

    pub(super) fn note_session(&mut self, id: SessionId, what: std::fmt::Arguments<'_>) {
        self.log.line(self.agenda.now(), format_args!("session {}", id.0), what);
    }

    /// A fresh tag for `blocks` blocks.
    pub fn new_tag(&mut self, blocks: u16) -> u64 {
        let tag = self.next_tag << 8;
        assert!(blocks <= 256);
        self.next_tag += 1;
        tag
    }
}

impl Checker {
    /// The histories that a request is about: those it wrote, each with its tag; all of them for a flush.
    fn concerned(&self, what: &What) -> Vec<(Cell, &History, Option<Tag>)> {
        let history = |cell| self.history(&cell).expect("written halves have a history");
        match what {
            What::Flush => self.cells().map(|(cell, history)| (*cell, history, None)).collect(),
            _ => what.cells().into_iter().map(|(cell, tag)| (cell, history(cell), Some(tag))).collect(),
        }
    }
}

/// What to ask the core for.
fn request_of(what: &What) -> Request {
    match what {
        What::Read(shard, blocks) => Request::Read { shard: *shard, blocks: *blocks },
        What::Flush => Request::Flush,
        What::Write { shard, blocks, half: Some(half), tag, fua } => Request::Modify {
            shard: *shard,
            block: blocks.first,
            offset_bytes: (half * content::HALF_BYTES) as u16,
            data: content::half(*tag),
            fua: *fua,
        },
        What::Write { shard, blocks, half: None, tag, fua } => {
            let tags = (0..u64::from(blocks.count)).map(|index| [tag + index; 2]);
            let data = content::blocks(&tags.collect::<Vec<_>>());
            Request::Write { shard: *shard, blocks: *blocks, data, fua: *fua }
        }
    }
}
