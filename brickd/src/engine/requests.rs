//! Connections of this core, and the requests on them that still wait for an answer.
//!
//! A request is *queued* until its first disk operation is issued (`issued`). Queued requests can be taken
//! back at any time; issued ones can't, so fencing and session changes wait for them. A connection that
//! ends takes its queued requests with it, its issued ones are finished and their answers vanish. A frame of dummy writes
//! counts as issued, and its parts are queued (`dummy`).
//!
//! Peers: a connection with more than [`REQUESTS_PER_CONNECTION_MAX`] unanswered requests is closed. Each part is one.

use std::collections::BTreeMap;

use brick_wire::body::Attach;
use brick_wire::handshake::{Hello, PeerKind};
use brick_wire::limits::ATTACHED_IMAGES_MAX;
use brick_wire::{
    ConnectionGeneration, Epoch, Flags, Header, ImageHandle, ImageUuid, Opcode, SessionId, Status,
};

use super::dummy::DummyFrame;
use super::{Action, CloseReason, ConnectionId, CoreMessage, Engine, Frame, Peer, Standing, Token, TokenMap};
use crate::buffer::Buffer;

/// Requests that one connection may have unanswered. Credits bound the payloads; this bounds the rest.
pub(super) const REQUESTS_PER_CONNECTION_MAX: usize = 4096;
/// Sessions whose lowest admissible generation a core remembers after their connections are gone.
const FLOORS_MAX: usize = 8192;

/// An admitted connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) hello: Hello,
    standing: Standing,
    /// Closed by us, [`super::Event::Disconnected`] is awaited; nothing it still says counts.
    closing: bool,
    attached: BTreeMap<ImageHandle, Attach>,
    unanswered: usize,
}

/// A request that waits for its answer.
#[derive(Debug)]
pub(super) struct OpenRequest {
    pub(super) connection: ConnectionId,
    pub(super) session: SessionId,
    pub(super) generation: ConnectionGeneration,
    pub(super) header: Header,
    /// The image under whose epoch it runs; `None` if it doesn't run under one.
    pub(super) fenced_image: Option<ImageUuid>,
    /// It can't be taken back any more.
    pub(super) issued: bool,
    /// Its answer is one to this request (see `dummy`).
    pub(super) part_of: Option<Token>,
}

/// Connections and unanswered requests.
#[derive(Debug, Default)]
pub(super) struct Requests {
    pub(super) connections: BTreeMap<ConnectionId, Connection>,
    pub(super) open: TokenMap<OpenRequest>,
    /// Those that consist of others.
    pub(super) dummy_frames: TokenMap<DummyFrame>,
    /// Lowest generation that each session may still use here. Protects against a connection that was
    /// admitted before its session was dropped, but handed over to this core after.
    floors: BTreeMap<SessionId, ConnectionGeneration>,
    /// What a welcome has to have told. Protects against a connection that was admitted before that changed, but
    /// handed over to this core after.
    standing: Standing,
}

/// What to answer.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: Status,
    pub(super) flags: Flags,
    pub(super) first_crc: u32,
    pub(super) aux: Vec<u8>,
    pub(super) data: Option<Buffer>,
}

/// What a handler made of a request: an answer, nothing yet, or a refusal.
pub(super) type Outcome = Result<Option<Reply>, Status>;

impl From<Status> for Reply {
    fn from(status: Status) -> Reply {
        Reply { status, flags: Flags::NONE, first_crc: 0, aux: Vec::new(), data: None }
    }
}

impl Reply {
    /// `Ok` and a body.
    pub(super) fn body(aux: Vec<u8>) -> Reply {
        Reply { aux, ..Reply::from(Status::Ok) }
    }

    /// The same with `flags`.
    pub(super) fn with_flags(self, flags: Flags) -> Reply {
        Reply { flags: self.flags.with(flags), ..self }
    }
}

impl Requests {
    /// Distinct sessions with a connection here.
    pub(super) fn session_count(&self) -> usize {
        let mut sessions: Vec<SessionId> = self.connections.values().map(|peer| peer.hello.session).collect();
        sessions.sort_unstable();
        sessions.dedup();
        sessions.len()
    }

    /// Whether a request of `session` from a connection before generation `below` is unanswered.
    pub(super) fn has_older(&self, session: SessionId, below: ConnectionGeneration) -> bool {
        self.open.values().any(|request| request.session == session && request.generation < below)
    }

    /// Whether a request for `image` under another session's epoch is unanswered.
    pub(super) fn has_foreign(&self, image: ImageUuid, session: SessionId) -> bool {
        let mut requests = self.open.values();
        requests.any(|open| open.fenced_image == Some(image) && open.header.epoch.session != session)
    }

    /// Unanswered requests for `image` under another epoch than `epoch`.
    pub(super) fn under_other_epoch(&self, image: ImageUuid, epoch: Epoch) -> Vec<Token> {
        self.tokens_where(|open| open.fenced_image == Some(image) && open.header.epoch != epoch)
    }

    /// The unanswered requests that `picked` picks, oldest first.
    fn tokens_where(&self, picked: impl Fn(&OpenRequest) -> bool) -> Vec<Token> {
        let requests = self.open.iter().filter(|(_, request)| picked(request));
        let mut tokens: Vec<Token> = requests.map(|(token, _)| *token).collect();
        tokens.sort_unstable();
        tokens
    }

    fn remember_floor(&mut self, session: SessionId, below: ConnectionGeneration) {
        let floor = self.floors.entry(session).or_default();
        *floor = below.max(*floor);
        if self.floors.len() > FLOORS_MAX {
            let connected = |session: &SessionId| {
                self.connections.values().any(|connection| connection.hello.session == *session)
            };
            let victim = self.floors.keys().copied().find(|other| *other != session && !connected(other));
            if let Some(victim) = victim {
                self.floors.remove(&victim);
            }
        }
    }
}

impl Engine {
    pub(super) fn handle_admitted(&mut self, id: ConnectionId, peer: Peer) {
        let Peer { hello, standing } = peer;
        let floor = self.requests.floors.get(&hello.session).copied().unwrap_or_default();
        let superseded = hello.generation < floor;
        let outdated = is_outdated(&hello, standing, self.requests.standing);
        let connection =
            Connection { hello, standing, closing: false, attached: BTreeMap::new(), unanswered: 0 };
        let replaced = self.requests.connections.insert(id, connection);
        assert!(replaced.is_none(), "connections are never named twice");
        if superseded {
            self.close_connection(id, CloseReason::Superseded);
        } else if outdated {
            self.close_connection(id, CloseReason::Outdated);
        }
    }

    pub(super) fn handle_disconnected(&mut self, id: ConnectionId) {
        if self.links.contains(id) {
            self.link_lost(id);
            return;
        }
        self.drop_pending_hello(id);
        if self.requests.connections.remove(&id).is_some() {
            self.withdraw_requests(id);
        }
        if self.is_core_zero() {
            self.connection_departed(id);
        } else {
            let message = CoreMessage::Departed { connection: id };
            self.actions.push_back(Action::Core { to: brick_wire::CoreIndex(0), message });
        }
    }

    /// Closes a connection on our wish.
    pub(super) fn close_connection(&mut self, id: ConnectionId, reason: CloseReason) {
        let Some(connection) = self.requests.connections.get_mut(&id) else { return };
        if std::mem::replace(&mut connection.closing, true) {
            return;
        }
        self.actions.push_back(Action::Close { connection: id, reason });
        self.withdraw_requests(id);
    }

    /// Closes the connections of `session` before generation `below`.
    pub(super) fn close_older(&mut self, session: SessionId, below: ConnectionGeneration) {
        self.requests.remember_floor(session, below);
        let connections = self.requests.connections.iter();
        let older: Vec<ConnectionId> = connections
            .filter(|(_, peer)| peer.hello.session == session && peer.hello.generation < below)
            .map(|(id, _)| *id)
            .collect();
        older.into_iter().for_each(|id| self.close_connection(id, CloseReason::Superseded));
    }

    /// Closes the connections whose welcome told less than `standing`.
    pub(super) fn close_outdated(&mut self, standing: Standing) {
        self.requests.standing = standing.max(self.requests.standing);
        let connections = self.requests.connections.iter();
        let outdated: Vec<ConnectionId> = connections
            .filter(|(_, peer)| is_outdated(&peer.hello, peer.standing, standing))
            .map(|(id, _)| *id)
            .collect();
        outdated.into_iter().for_each(|id| self.close_connection(id, CloseReason::Outdated));
    }

    /// Takes back what a closed connection had queued.
    fn withdraw_requests(&mut self, id: ConnectionId) {
        for token in self.requests.tokens_where(|request| request.connection == id) {
            self.withdraw(token, Status::ShuttingDown);
        }
    }

    /// Takes a request back if it isn't issued, and answers `status`; a pull stops at its next step.
    pub(super) fn withdraw(&mut self, token: Token, status: Status) {
        if self.pulls.contains(token) {
            self.abort_pull(token, status);
        } else if self.requests.open.get(&token).is_some_and(|request| !request.issued) {
            self.end_task(token);
            self.answer(token, status.into());
        }
    }

    /// A connection that may speak; `None` if it is closed or unknown.
    pub(super) fn live_connection(&self, id: ConnectionId) -> Option<&Connection> {
        self.requests.connections.get(&id).filter(|connection| !connection.closing)
    }

    /// Whether the connection has as many unanswered requests as it may have.
    pub(super) fn is_overloaded(&self, id: ConnectionId) -> bool {
        let connection = self.requests.connections.get(&id);
        connection.is_some_and(|connection| connection.unanswered >= REQUESTS_PER_CONNECTION_MAX)
    }

    /// The hello of a connection whose frame is being handled.
    pub(super) fn hello_of(&self, id: ConnectionId) -> &Hello {
        &self.requests.connections.get(&id).expect("frames are handled for live connections only").hello
    }

    /// Opens a request that will be answered later. `fenced_image` if it runs under an epoch.
    pub(super) fn open_request(
        &mut self,
        connection: ConnectionId,
        header: Header,
        fenced_image: Option<ImageUuid>,
    ) -> Token {
        let token = self.new_token();
        let peer =
            self.requests.connections.get_mut(&connection).expect("requests come from live connections");
        peer.unanswered += 1;
        let (session, generation) = (peer.hello.session, peer.hello.generation);
        let request = OpenRequest {
            connection,
            session,
            generation,
            header,
            fenced_image,
            issued: false,
            part_of: None,
        };
        self.requests.open.insert(token, request);
        token
    }

    /// Opens a request that can't be taken back from the start.
    pub(super) fn open_issued(
        &mut self,
        connection: ConnectionId,
        header: Header,
        fenced_image: Option<ImageUuid>,
    ) -> Token {
        let token = self.open_request(connection, header, fenced_image);
        self.mark_issued(token);
        token
    }

    /// From now on the request can't be taken back.
    pub(super) fn mark_issued(&mut self, token: Token) {
        self.requests.open.get_mut(&token).expect("issued requests are open").issued = true;
    }

    /// Answers an open request and forgets it.
    pub(super) fn answer(&mut self, token: Token, reply: Reply) {
        let request = self.close_request(token);
        match request.part_of {
            Some(frame) => self.dummy_part_answered(frame, reply.status),
            None => self.reply(request.connection, &request.header, reply),
        }
    }

    /// Forgets an open request.
    pub(super) fn close_request(&mut self, token: Token) -> OpenRequest {
        let request = self.requests.open.remove(&token).expect("a request is answered once");
        if let Some(connection) = self.requests.connections.get_mut(&request.connection) {
            connection.unanswered -= 1;
        }
        request
    }

    /// Sends the reply to a request; vanishes if the connection is closed.
    pub(super) fn reply(&mut self, connection: ConnectionId, request: &Header, reply: Reply) {
        if self.live_connection(connection).is_none() {
            return;
        }
        let mut header = request.reply(reply.status);
        header.flags = header.flags.with(reply.flags);
        header.first_crc = reply.first_crc;
        if matches!(request.opcode, Opcode::Write | Opcode::Read) {
            header.credits = request.blocks.count;
        }
        let frame = Frame { header, aux: reply.aux, data: reply.data };
        self.actions.push_back(Action::Send { connection, frame });
    }

    /// `Attach`: gives an image a handle on this connection.
    pub(super) fn attach(&mut self, id: ConnectionId, handle: ImageHandle, attach: Attach) -> Outcome {
        let connection = self.requests.connections.get_mut(&id).expect("handled for live connections only");
        match connection.attached.get(&handle) {
            Some(before) if *before == attach => {}
            Some(_) => return Err(Status::Invalid),
            None if connection.attached.len() >= ATTACHED_IMAGES_MAX => return Err(Status::Busy),
            None => {
                connection.attached.insert(handle, attach);
            }
        }
        Ok(Some(Status::Ok.into()))
    }

    /// The image that a handle stands for.
    pub(super) fn attached(&self, id: ConnectionId, handle: ImageHandle) -> Result<Attach, Status> {
        let connection = self.requests.connections.get(&id).expect("handled for live connections only");
        connection.attached.get(&handle).copied().ok_or(Status::Invalid)
    }

    /// Whether the peer is another brick.
    pub(super) fn is_brick(&self, id: ConnectionId) -> bool {
        self.hello_of(id).kind == PeerKind::Brick
    }
}

/// Whether a peer relies on what its welcome said, and that isn't so any more. Operators look at each welcome and do one
/// thing; bricks that pull go by their holder's word.
fn is_outdated(hello: &Hello, told: Standing, now: Standing) -> bool {
    hello.kind == PeerKind::Client && told < now
}
