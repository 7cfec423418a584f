//! Who may talk to this brick, on core 0: hello to welcome.
//!
//! A session's connections carry a generation. Before the first connection of a higher one is admitted,
//! every core closes the lower ones and waits out their requests, so that a repeated request can't be
//! overtaken by its original (rule I1). Connections of one generation, one per core, live side by side.
//!
//! Peers are refused with a sentence for their operator: what, why, what to do.

use std::collections::BTreeMap;

use brick_wire::handshake::{Hello, PeerKind, Welcome};
use brick_wire::limits::PROTOCOL_VERSION;
use brick_wire::{BrickUuid, ConnectionGeneration, CoreIndex, SessionId, Status, VolumeUuid};

use super::broadcast::Waiting;
use super::{Action, BroadcastId, ConnectionId, CoreMessage, Engine, Peer};

/// Connections of one brick, all cores together.
pub(super) const CONNECTIONS_MAX: usize = 4096;
/// Sessions whose generation is remembered; those without a connection are forgotten beyond it.
const SESSIONS_MAX: usize = 2 * CONNECTIONS_MAX;

#[derive(Debug, Default)]
struct Session {
    generation: ConnectionGeneration,
    connections: usize,
    /// Hellos that wait until the lower generations are gone; `None` once they are.
    pending: Option<Vec<(ConnectionId, Hello)>>,
    /// The latest of the broadcasts that asked for it.
    broadcast: Option<BroadcastId>,
}

/// Sessions and connections of the whole brick.
#[derive(Debug, Default)]
pub(super) struct Admission {
    sessions: BTreeMap<SessionId, Session>,
    admitted: BTreeMap<ConnectionId, SessionId>,
}

impl Admission {
    /// Sessions with a connection.
    pub(super) fn session_count(&self) -> usize {
        self.sessions.values().filter(|session| session.connections > 0).count()
    }

    fn connection_count(&self) -> usize {
        let pending = self.sessions.values().filter_map(|session| session.pending.as_ref());
        self.admitted.len() + pending.map(Vec::len).sum::<usize>()
    }

    fn forget_idle_session(&mut self) {
        let idle = |session: &Session| session.connections == 0 && session.pending.is_none();
        let victim = self.sessions.iter().find(|(_, session)| idle(session)).map(|(id, _)| *id);
        if let Some(victim) = victim {
            self.sessions.remove(&victim);
        }
    }
}

impl Engine {
    pub(super) fn handle_hello(&mut self, connection: ConnectionId, hello: Hello) {
        assert!(self.is_core_zero(), "hellos go to core 0");
        if let Err((status, reason)) = self.check_hello(&hello) {
            self.refuse(connection, status, reason);
            return;
        }
        if self.admission.sessions.len() >= SESSIONS_MAX {
            self.admission.forget_idle_session();
        }
        let known = self.admission.sessions.contains_key(&hello.session);
        let session = self.admission.sessions.entry(hello.session).or_default();
        if known && hello.generation < session.generation {
            let reason = format!(
                "connection refused: generation {} of session {} is older than its generation {}; \
                 let the newer connection work",
                hello.generation.0, hello.session, session.generation.0
            );
            self.refuse(connection, Status::Invalid, reason);
        } else if known && hello.generation == session.generation {
            match &mut session.pending {
                Some(pending) => pending.push((connection, hello)),
                None => self.admit(connection, hello),
            }
        } else {
            self.supersede(connection, hello);
        }
    }

    /// The first connection of a generation: end the lower ones.
    fn supersede(&mut self, connection: ConnectionId, hello: Hello) {
        let (id, below) = (hello.session, hello.generation);
        let session = self.admission.sessions.get_mut(&id).expect("entered by the caller");
        session.generation = below;
        let overtaken = session.pending.replace(vec![(connection, hello)]);
        for (connection, hello) in overtaken.into_iter().flatten() {
            let reason = format!(
                "connection refused: session {} connected again meanwhile; let the newer connection work",
                hello.session
            );
            self.refuse(connection, Status::Invalid, reason);
        }
        let broadcast = self.next_broadcast();
        self.admission.sessions.get_mut(&id).expect("entered by the caller").broadcast = Some(broadcast);
        self.broadcast(Waiting::Admission(id), |broadcast| CoreMessage::DropSession {
            broadcast,
            session: id,
            below,
        });
    }

    /// No core serves a lower generation any more.
    pub(super) fn session_dropped(&mut self, id: SessionId, broadcast: BroadcastId) {
        let session = self.admission.sessions.get_mut(&id).expect("sessions with a pending hello stay");
        if session.broadcast != Some(broadcast) {
            // A still higher generation has said hello; its own broadcast decides.
            return;
        }
        session.broadcast = None;
        for (connection, hello) in session.pending.take().into_iter().flatten() {
            self.admit(connection, hello);
        }
    }

    fn admit(&mut self, connection: ConnectionId, hello: Hello) {
        let core = CoreIndex(hello.core.0 % self.config.cores);
        let session = self.admission.sessions.get_mut(&hello.session).expect("entered at hello");
        session.connections += 1;
        let twice = self.admission.admitted.insert(connection, hello.session);
        assert!(twice.is_none(), "a connection is admitted once");
        let welcome = self.welcome(core, String::new());
        let peer = Peer { hello, standing: self.identity.standing() };
        self.actions.push_back(Action::Admit { connection, core, peer, welcome });
    }

    /// A connection of some core ended.
    pub(super) fn connection_departed(&mut self, connection: ConnectionId) {
        if let Some(id) = self.admission.admitted.remove(&connection) {
            let session = self.admission.sessions.get_mut(&id).expect("sessions with connections stay");
            session.connections -= 1;
        }
    }

    /// A connection ended before it was admitted.
    pub(super) fn drop_pending_hello(&mut self, connection: ConnectionId) {
        let pending = self.admission.sessions.values_mut().filter_map(|session| session.pending.as_mut());
        pending.for_each(|pending| pending.retain(|(id, _)| *id != connection));
    }

    /// Refuses every hello that waits, at shutdown.
    pub(super) fn refuse_pending_hellos(&mut self) {
        let sessions = self.admission.sessions.values_mut();
        let pending: Vec<(ConnectionId, Hello)> =
            sessions.filter_map(|session| session.pending.take()).flatten().collect();
        for (connection, _) in pending {
            self.refuse(connection, Status::ShuttingDown, stopping());
        }
    }

    fn check_hello(&self, hello: &Hello) -> Result<(), (Status, String)> {
        let config = &self.config;
        if self.is_stopping() {
            return Err((Status::ShuttingDown, stopping()));
        }
        let (low, high) = hello.versions;
        if !(low..=high).contains(&PROTOCOL_VERSION) {
            let reason = format!(
                "connection refused: the caller speaks protocol versions {low} to {high} and this brick \
                 speaks {PROTOCOL_VERSION}; upgrade the older side"
            );
            return Err((Status::Unsupported, reason));
        }
        if hello.features != 0 {
            let reason = format!(
                "connection refused: the caller needs features {:#x}, which this brick doesn't have; \
                 upgrade the brick",
                hello.features
            );
            return Err((Status::Unsupported, reason));
        }
        check_volume(hello, config.membership.as_ref().map(|membership| membership.volume))?;
        check_brick(hello, config.brick)?;
        if self.admission.connection_count() >= CONNECTIONS_MAX {
            let reason = format!(
                "connection refused: {CONNECTIONS_MAX} connections are open; close some and try again"
            );
            return Err((Status::Busy, reason));
        }
        Ok(())
    }

    fn refuse(&mut self, connection: ConnectionId, status: Status, reason: String) {
        let welcome = self.welcome(self.config.core, reason);
        self.actions.push_back(Action::Refuse { connection, status, welcome });
    }

    fn welcome(&self, core: CoreIndex, reason: String) -> Welcome {
        let config = &self.config;
        let volume = config.membership.as_ref().map_or(VolumeUuid::NIL, |membership| membership.volume);
        Welcome {
            version: PROTOCOL_VERSION,
            role: config.role,
            blank: self.identity.is_blank(),
            features: 0,
            brick: config.brick,
            volume,
            incarnation: config.incarnation,
            cores: config.cores,
            lanes: config.lanes,
            core,
            credit_bytes: config.credit_bytes,
            lease_ms: config.lease.as_millis().try_into().unwrap_or(u32::MAX),
            reason,
            floors: self.identity.floors().clone(),
        }
    }
}

fn check_volume(hello: &Hello, own: Option<VolumeUuid>) -> Result<(), (Status, String)> {
    let operator = hello.kind == PeerKind::Operator;
    match own {
        None if operator => Ok(()),
        None => Err((
            Status::WrongBrick,
            "connection refused: this brick belongs to no volume yet; run brickctl volume create".to_owned(),
        )),
        Some(own) if hello.volume == own || (operator && hello.volume.is_nil()) => Ok(()),
        Some(own) => {
            let reason = format!(
                "connection refused: this brick belongs to volume {own}, not to {}; correct the address in \
                 the volume file",
                hello.volume
            );
            Err((Status::WrongBrick, reason))
        }
    }
}

fn check_brick(hello: &Hello, own: BrickUuid) -> Result<(), (Status, String)> {
    if hello.brick.is_nil() || hello.brick == own {
        return Ok(());
    }
    let reason = format!(
        "connection refused: this is brick {own}, not {}; correct the address in the volume file",
        hello.brick
    );
    Err((Status::WrongBrick, reason))
}

fn stopping() -> String {
    "connection refused: the brick is stopping; try again when it is back".to_owned()
}
