//! Connections that this core dials to other bricks, to pull from them.
//!
//! A link leads to one core of one brick at one address. Which core serves a shard there is known after
//! the first welcome, so the first link is a guess and a second one may follow. Peers: a source that
//! doesn't answer in [`ANSWER_TIME_MAX`], or answers nonsense, loses its link, and the pulls on it fail as
//! unreachable; the holder decides what next. Links nobody uses are closed after [`IDLE_TIME_MAX`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use brick_wire::body::{Attach, PullRead};
use brick_wire::cursor::Body;
use brick_wire::handshake::{Hello, PeerKind, Welcome};
use brick_wire::limits::{ATTACHED_IMAGES_MAX, HEADER_SIZE, PROTOCOL_VERSION};
use brick_wire::placement::{core_of, lane_of};
use brick_wire::{
    BrickUuid, ConnectionGeneration, CoreIndex, Epoch, Flags, Header, ImageHandle, ImageUuid, Incarnation,
    Opcode, RequestId, SessionId, Status, Timestamp,
};

use super::tasks::Target;
use super::{Action, CloseReason, ConnectionId, Engine, Frame, ShardKey, Token};

/// How long a source may take to accept a connection, or to answer: brick_timeout (section 4).
const ANSWER_TIME_MAX: Duration = Duration::from_secs(4);
/// How long a link stays without a pull. Heal comes in bursts; a dial costs a millisecond.
const IDLE_TIME_MAX: Duration = Duration::from_secs(30);
/// Links of one core. Addresses come from peers, so they are bounded.
const LINKS_MAX: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LinkState {
    Dialing,
    /// Hello was said.
    Greeting,
    Ready {
        cores: u16,
        lanes: u16,
        incarnation: Incarnation,
    },
    /// Closed by us; its end is awaited.
    Closing,
}

#[derive(Debug)]
struct Link {
    brick: BrickUuid,
    address: String,
    /// The core asked for, then the core that serves it.
    core: CoreIndex,
    state: LinkState,
    /// It can't attach another image; it ends with its last call, and a fresh one takes its place.
    full: bool,
    handles: BTreeMap<ImageUuid, ImageHandle>,
    /// Runs that wait for their answer, and until when.
    calls: BTreeMap<RequestId, (Token, Timestamp)>,
    /// Runs that wait for the link to be ready, or gone.
    waiting: BTreeSet<Token>,
    requests: u64,
    /// The last time something happened on it.
    touched: Timestamp,
}

/// All links of a core.
#[derive(Debug, Default)]
pub(super) struct Links {
    links: BTreeMap<ConnectionId, Link>,
    dials: u32,
}

/// Where a shard of a source can be reached.
enum Route {
    Ready(ConnectionId, Incarnation),
    Soon(ConnectionId),
    Dial(CoreIndex),
}

impl Link {
    /// When something has to be done about it if nothing happens.
    fn deadline(&self) -> Option<Timestamp> {
        match self.state {
            LinkState::Closing => None,
            LinkState::Dialing | LinkState::Greeting => Some(self.touched + ANSWER_TIME_MAX),
            LinkState::Ready { .. } => {
                let answer = self.calls.values().map(|(_, deadline)| *deadline).min();
                Some(answer.unwrap_or(self.touched + IDLE_TIME_MAX))
            }
        }
    }

    fn is_idle(&self) -> bool {
        matches!(self.state, LinkState::Ready { .. }) && self.calls.is_empty()
    }
}

impl Links {
    /// Whether the connection is one of ours.
    pub(super) fn contains(&self, id: ConnectionId) -> bool {
        self.links.contains_key(&id)
    }

    /// The next thing that is due.
    pub(super) fn next_deadline(&self) -> Option<Timestamp> {
        self.links.values().filter_map(Link::deadline).min()
    }

    /// A run doesn't wait for any link any more; an answer that still comes is ignored.
    pub(super) fn forget_run(&mut self, token: Token) {
        for link in self.links.values_mut() {
            link.waiting.remove(&token);
            link.calls.retain(|_, (caller, _)| *caller != token);
        }
    }

    fn route(&self, brick: BrickUuid, address: &str, key: ShardKey, guess: CoreIndex) -> Route {
        let links = || self.links.iter().filter(|(_, link)| link.brick == brick && link.address == address);
        let geometry = links().find_map(|(_, link)| match link.state {
            LinkState::Ready { cores, lanes, .. } => Some((cores, lanes)),
            _ => None,
        });
        let Some((cores, lanes)) = geometry else {
            return links().next().map_or(Route::Dial(guess), |(id, _)| Route::Soon(*id));
        };
        let wanted = core_of(lane_of(key.0, key.1, lanes), cores);
        match links().find(|(_, link)| link.core.0 % cores == wanted.0) {
            Some((id, Link { state: LinkState::Ready { incarnation, .. }, full: false, .. })) => {
                Route::Ready(*id, *incarnation)
            }
            Some((id, _)) => Route::Soon(*id),
            None => Route::Dial(wanted),
        }
    }
}

impl Engine {
    /// Sends a run's `PullRead`, or dials and waits. Returns the frame's bytes if it was sent.
    pub(super) fn call_source(
        &mut self,
        token: Token,
        target: Target,
        (epoch, flags): (Epoch, Flags),
        (brick, address): (BrickUuid, &str),
        body: &PullRead,
    ) -> Result<Option<u64>, Status> {
        match self.links.route(brick, address, target.key, self.config.core) {
            Route::Ready(id, incarnation) if incarnation == body.incarnation => {
                Ok(self.send_call(id, token, target, (epoch, flags), body))
            }
            Route::Ready(id, _) => {
                if self.link(id).is_idle() {
                    // Perhaps it is the link that leads to the past.
                    self.close_link(id, CloseReason::Idle);
                }
                Err(Status::WrongIncarnation)
            }
            Route::Soon(id) => {
                self.link(id).waiting.insert(token);
                Ok(None)
            }
            Route::Dial(core) => {
                let id = self.dial(brick, address, core).ok_or(Status::SourceUnreachable)?;
                self.link(id).waiting.insert(token);
                Ok(None)
            }
        }
    }

    fn dial(&mut self, brick: BrickUuid, address: &str, core: CoreIndex) -> Option<ConnectionId> {
        if self.links.links.len() >= LINKS_MAX {
            return None;
        }
        self.links.dials += 1;
        let id = ConnectionId(1 << 63 | u64::from(self.config.core.0) << 47 | u64::from(self.links.dials));
        let link = Link {
            brick,
            address: address.to_owned(),
            core,
            state: LinkState::Dialing,
            full: false,
            handles: BTreeMap::new(),
            calls: BTreeMap::new(),
            waiting: BTreeSet::new(),
            requests: 0,
            touched: self.now,
        };
        self.links.links.insert(id, link);
        self.actions.push_back(Action::Dial { connection: id, address: address.to_owned() });
        Some(id)
    }

    pub(super) fn handle_dialed(&mut self, id: ConnectionId) {
        let (now, generation) = (self.now, ConnectionGeneration(self.links.dials));
        let Some(link) = self.links.links.get_mut(&id).filter(|link| link.state == LinkState::Dialing) else {
            return;
        };
        link.state = LinkState::Greeting;
        link.touched = now;
        let (core, brick) = (link.core, link.brick);
        let volume = self.config.membership.as_ref().map(|membership| membership.volume);
        let hello = Hello {
            versions: (PROTOCOL_VERSION, PROTOCOL_VERSION),
            features: 0,
            kind: PeerKind::Brick,
            core,
            volume: volume.unwrap_or_default(),
            brick,
            session: self.link_session(core),
            generation,
            name: format!("brickd {}", self.config.brick),
        };
        let header = Header::request(Opcode::Hello, RequestId(0));
        let frame = Frame { header, aux: hello.to_bytes(), data: None };
        self.actions.push_back(Action::Send { connection: id, frame });
    }

    /// A session of its own for every pair of cores: links to two cores of a source must not supersede each
    /// other. Hashed from what no other brick, start or core shares.
    fn link_session(&self, core: CoreIndex) -> SessionId {
        let mut bytes = self.config.brick.to_bytes().to_vec();
        bytes.extend_from_slice(&self.config.incarnation.start.0.to_le_bytes());
        bytes.extend_from_slice(&self.config.core.0.to_le_bytes());
        bytes.extend_from_slice(&core.0.to_le_bytes());
        bytes.resize(brick_wire::limits::BLOCK_SIZE, 0);
        SessionId(brick_wire::checksum::block_hash(&bytes, 0).max(1))
    }

    fn send_call(
        &mut self,
        id: ConnectionId,
        token: Token,
        target: Target,
        (epoch, flags): (Epoch, Flags),
        body: &PullRead,
    ) -> Option<u64> {
        let (image, shard) = target.key;
        let deadline = self.now + ANSWER_TIME_MAX;
        let link = self.link(id);
        if !link.handles.contains_key(&image) && link.handles.len() >= ATTACHED_IMAGES_MAX {
            link.full = true;
            link.waiting.insert(token);
            self.close_full_link(id);
            return None;
        }
        let handle = self.link_handle(id, image, target.shard_bytes);
        let link = self.link(id);
        link.requests += 1;
        let request = RequestId(link.requests);
        link.calls.insert(request, (token, deadline));
        let header = Header {
            epoch,
            flags,
            image: handle,
            shard,
            blocks: target.blocks,
            ..Header::request(Opcode::PullRead, request)
        };
        let aux = body.to_bytes();
        let bytes = HEADER_SIZE + aux.len() + 4;
        self.actions.push_back(Action::Send { connection: id, frame: Frame { header, aux, data: None } });
        Some(bytes as u64)
    }

    /// The image's handle on the link, attached on its first use.
    fn link_handle(&mut self, id: ConnectionId, image: ImageUuid, shard_bytes: u64) -> ImageHandle {
        let link = self.link(id);
        if let Some(handle) = link.handles.get(&image) {
            return *handle;
        }
        let handle = ImageHandle(link.handles.len() as u32 + 1);
        link.handles.insert(image, handle);
        link.requests += 1;
        let request = Header::request(Opcode::Attach, RequestId(link.requests));
        let attach = Attach { image, shard_shift: shard_bytes.trailing_zeros() as u8 };
        let frame = Frame { header: Header { image: handle, ..request }, aux: attach.to_bytes(), data: None };
        self.actions.push_back(Action::Send { connection: id, frame });
        handle
    }

    pub(super) fn handle_link_frame(&mut self, id: ConnectionId, frame: Frame) {
        let now = self.now;
        let link = self.link(id);
        link.touched = now;
        let header = frame.header;
        match (link.state, header.opcode) {
            (LinkState::Closing, _) => {}
            _ if !header.is_reply() => self.break_link(id, "a request where replies go"),
            (LinkState::Greeting, Opcode::Hello) => self.link_welcomed(id, &frame),
            (LinkState::Ready { .. }, Opcode::Attach) if header.status == Status::Ok => {}
            (LinkState::Ready { .. }, Opcode::Attach) => self.break_link(id, "the source refused an attach"),
            (LinkState::Ready { .. }, Opcode::PullRead) => {
                if let Some((token, _)) = link.calls.remove(&header.request)
                    && let Err(nonsense) = self.source_answered(token, frame)
                {
                    self.break_link(id, nonsense);
                    self.fail_task(token, Status::SourceUnreachable);
                }
                self.close_full_link(id);
            }
            _ => self.break_link(id, "a reply to nothing"),
        }
    }

    fn link_welcomed(&mut self, id: ConnectionId, frame: &Frame) {
        let welcome = Welcome::from_bytes(&frame.aux);
        let link = self.link(id);
        match welcome {
            Ok(welcome) if frame.header.status == Status::Ok && welcome.brick == link.brick => {
                link.core = welcome.core;
                link.state = LinkState::Ready {
                    cores: welcome.cores,
                    lanes: welcome.lanes,
                    incarnation: welcome.incarnation,
                };
                let waiting = std::mem::take(&mut link.waiting);
                self.ready.extend(waiting);
            }
            _ => self.break_link(id, "the source refused the connection"),
        }
    }

    /// A full link ends with its last call.
    fn close_full_link(&mut self, id: ConnectionId) {
        let link = self.link(id);
        if link.full && link.is_idle() {
            self.close_link(id, CloseReason::Idle);
        }
    }

    fn close_link(&mut self, id: ConnectionId, reason: CloseReason) {
        let link = self.link(id);
        if link.state != LinkState::Closing {
            link.state = LinkState::Closing;
            self.actions.push_back(Action::Close { connection: id, reason });
        }
    }

    /// Closes a link that doesn't work; what waits on it fails.
    fn break_link(&mut self, id: ConnectionId, reason: &'static str) {
        self.close_link(id, CloseReason::Protocol(reason));
        self.fail_runs(id);
    }

    fn fail_runs(&mut self, id: ConnectionId) {
        let link = self.link(id);
        let calls = std::mem::take(&mut link.calls);
        let waiting = std::mem::take(&mut link.waiting);
        let runs: Vec<Token> = calls.into_values().map(|(token, _)| token).chain(waiting).collect();
        runs.into_iter().for_each(|token| self.fail_task(token, Status::SourceUnreachable));
    }

    /// A link ended.
    pub(super) fn link_lost(&mut self, id: ConnectionId) {
        if self.link(id).state == LinkState::Closing {
            // Who waited for its end dials anew.
            let waiting = std::mem::take(&mut self.link(id).waiting);
            self.ready.extend(waiting);
        }
        self.fail_runs(id);
        self.links.links.remove(&id);
    }

    /// Closes links that are silent or idle for too long.
    pub(super) fn expire_links(&mut self) {
        let links = self.links.links.iter();
        let due: Vec<(ConnectionId, bool)> = links
            .filter(|(_, link)| link.deadline().is_some_and(|deadline| deadline <= self.now))
            .map(|(id, link)| (*id, link.is_idle()))
            .collect();
        for (id, idle) in due {
            if idle {
                self.close_link(id, CloseReason::Idle);
            } else {
                self.break_link(id, "no answer in time");
            }
        }
    }

    /// Closes all links, at shutdown.
    pub(super) fn close_links(&mut self) {
        let ids: Vec<ConnectionId> = self.links.links.keys().copied().collect();
        ids.into_iter().for_each(|id| self.close_link(id, CloseReason::ShuttingDown));
    }

    fn link(&mut self, id: ConnectionId) -> &mut Link {
        self.links.links.get_mut(&id).expect("the link exists")
    }
}
