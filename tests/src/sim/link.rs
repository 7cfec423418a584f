//! A session's link to one brick: one connection per core, all of one generation, up together or not at all.

use std::time::Duration;

use brick_client::replica::{HANDLE, LinkInfo};
use brick_wire::body::Attach;
use brick_wire::cursor::Body;
use brick_wire::decode::Frame;
use brick_wire::handshake::{Hello, PeerKind, Welcome};
use brick_wire::limits::PROTOCOL_VERSION;
use brick_wire::{
    BrickIndex, ConnectionGeneration, CoreIndex, Floors, Header, Opcode, RequestId, SessionId, Status,
};
use bytes::Bytes;

use super::agenda::Happening;
use super::brick::brick_uuid;
use super::network::{Caller, ConnectionKey, Packet, Side};
use super::session::Session;
use super::world::{IMAGE, SHARD_SHIFT, VOLUME, World};

/// Longest pause between two attempts, in units of the shortest.
const BACKOFF_MAX: u32 = 32;
/// Shortest pause between two attempts.
const BACKOFF: Duration = Duration::from_millis(5);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Connecting,
    Greeting,
    Attaching,
    Ready,
}

#[derive(Clone, Copy, Debug)]
struct Wire {
    key: ConnectionKey,
    stage: Stage,
}

/// The link to one brick.
#[derive(Debug, Default)]
pub struct Link {
    /// One per core, as far as known.
    wires: Vec<Wire>,
    info: Option<LinkInfo>,
    floors: Floors,
    /// Attempts so far: the generation of the next hello.
    attempt: u32,
    failures: u32,
    up: bool,
}

impl Link {
    /// The connection to a core.
    pub fn wire(&self, core: CoreIndex) -> Option<ConnectionKey> {
        self.wires.get(usize::from(core.0)).map(|wire| wire.key)
    }

    /// All its connections.
    pub fn keys(&self) -> impl Iterator<Item = ConnectionKey> {
        self.wires.iter().map(|wire| wire.key)
    }

    fn core_of(&self, key: ConnectionKey) -> Option<usize> {
        self.wires.iter().position(|wire| wire.key == key)
    }
}

impl World {
    /// Connects to a brick.
    pub(super) fn relink(&mut self, session: &mut Session, brick: BrickIndex, attempt: u32) {
        let link = session.link_mut(brick);
        if attempt != link.attempt || !link.wires.is_empty() {
            return;
        }
        link.attempt += 1;
        let attempt = link.attempt;
        self.wire_up(session, brick, CoreIndex(0));
        let timeout = Happening::LinkTimeout(session.id, brick, attempt);
        self.agenda.after(self.config.brick_timeout, timeout);
    }

    fn wire_up(&mut self, session: &mut Session, brick: BrickIndex, core: CoreIndex) {
        let caller = Caller::Session { client: session.client, session: session.id, core };
        let key = self.network.connect(&mut self.agenda, &mut self.random, caller, brick);
        session.link_mut(brick).wires.push(Wire { key, stage: Stage::Connecting });
    }

    pub(super) fn link_timeout(&mut self, session: &mut Session, brick: BrickIndex, attempt: u32) {
        let link = session.link_mut(brick);
        if link.attempt == attempt && !link.up && !link.wires.is_empty() {
            self.link_lost(session, brick, "it did not come up in time");
        }
    }

    /// A connection of the link is established: say hello.
    pub(super) fn wire_connected(&mut self, session: &mut Session, brick: BrickIndex, key: ConnectionKey) {
        let (id, link) = (session.id, session.link_mut(brick));
        let Some(core) = link.core_of(key) else { return };
        link.wires[core].stage = Stage::Greeting;
        let hello = Hello {
            versions: (PROTOCOL_VERSION, PROTOCOL_VERSION),
            features: 0,
            kind: PeerKind::Client,
            core: CoreIndex(core as u16),
            volume: VOLUME,
            brick: brick_uuid(usize::from(brick.0)),
            session: id,
            generation: ConnectionGeneration(link.attempt),
            name: String::new(),
        };
        let header = Header::request(Opcode::Hello, RequestId(0));
        self.say(key, Frame::new(header, hello.to_bytes(), Bytes::new()));
    }

    fn say(&mut self, key: ConnectionKey, frame: Frame) {
        self.network.send(&mut self.agenda, &mut self.random, key, Side::Caller, frame);
    }

    /// A packet of one of the link's connections arrived.
    pub(super) fn link_packet(
        &mut self,
        session: &mut Session,
        brick: BrickIndex,
        key: ConnectionKey,
        packet: Packet,
    ) {
        let now = self.agenda.now();
        let link = session.link_mut(brick);
        let Some(core) = link.core_of(key) else { return };
        let Packet::Frame(mut frame) = packet else {
            return self.link_lost(session, brick, "a connection ended");
        };
        match link.wires[core].stage {
            Stage::Greeting => self.wire_welcomed(session, brick, core, &frame),
            Stage::Attaching if frame.header.status == Status::Ok => {
                link.wires[core].stage = Stage::Ready;
                let info = link.info.expect("welcomed before");
                let ready = link.wires.iter().filter(|wire| wire.stage == Stage::Ready).count();
                if ready == usize::from(info.cores) {
                    link.up = true;
                    link.failures = 0;
                    let floors = std::mem::take(&mut link.floors);
                    let who = format_args!("{}", session.id.0);
                    self.log.line(now, who, format_args!("link to brick {} is up", brick.0));
                    session.group.handle_link_up(now, brick, info, &floors);
                }
            }
            Stage::Attaching => self.link_lost(session, brick, "attaching was refused"),
            Stage::Ready if !link.up => self.link_lost(session, brick, "an answer to nothing"),
            Stage::Ready => {
                frame = self.through_codec(frame);
                self.flip_bit(&mut frame);
                if self.log.is_text() {
                    let text = super::brick_events::describe(&frame);
                    let who = format_args!("{}", session.id.0);
                    self.log.line(now, who, format_args!("brick {}: {text}", brick.0));
                }
                session.group.handle_reply(now, brick, CoreIndex(core as u16), frame);
            }
            Stage::Connecting => unreachable!("nothing arrives before it is connected"),
        }
    }

    fn wire_welcomed(&mut self, session: &mut Session, brick: BrickIndex, core: usize, frame: &Frame) {
        let welcome = Welcome::from_bytes(&frame.aux).expect("bricks send a welcome that can be read");
        if frame.header.status != Status::Ok {
            return self.link_lost(session, brick, "the brick refused the connection");
        }
        let info = LinkInfo {
            incarnation: welcome.incarnation,
            cores: welcome.cores,
            lanes: welcome.lanes,
            blank: welcome.blank,
            lease: Duration::from_millis(u64::from(welcome.lease_ms)),
        };
        let link = session.link_mut(brick);
        if link.info.is_some_and(|other| other.incarnation != info.incarnation) {
            return self.link_lost(session, brick, "it restarted meanwhile");
        }
        link.info = Some(info);
        if core == 0 {
            // As the driver does: what the first connection was told.
            link.floors = welcome.floors;
        }
        link.wires[core].stage = Stage::Attaching;
        let key = link.wires[core].key;
        let mut header = Header::request(Opcode::Attach, RequestId(0));
        header.image = HANDLE;
        let attach = Attach { image: IMAGE, shard_shift: SHARD_SHIFT };
        self.say(key, Frame::new(header, attach.to_bytes(), Bytes::new()));
        if core == 0 {
            for core in 1..info.cores {
                self.wire_up(session, brick, CoreIndex(core));
            }
        }
    }

    /// Read data arrives damaged.
    fn flip_bit(&mut self, frame: &mut Frame) {
        if !frame.data.is_empty() && self.faulty && self.random.chance(self.config.faults.bit_flip) {
            let mut data = frame.data.to_vec();
            let bit = self.random.index(data.len() * 8);
            data[bit / 8] ^= 1 << (bit % 8);
            frame.data = Bytes::from(data);
        }
    }

    /// A connection of the link is gone: all of them go, and the core is told.
    pub(super) fn link_lost(&mut self, session: &mut Session, brick: BrickIndex, reason: &str) {
        let now = self.agenda.now();
        let was_up = session.link_mut(brick).up;
        let who = format_args!("{}", session.id.0);
        self.log.line(now, who, format_args!("link to brick {} is down: {reason}", brick.0));
        self.tear_down(session, brick);
        if was_up {
            session.group.handle_link_down(now, brick);
        } else {
            session.group.handle_link_failed(now, brick);
        }
    }

    /// Closes the link's connections and connects again after a pause.
    pub(super) fn tear_down(&mut self, session: &mut Session, brick: BrickIndex) {
        let id = session.id;
        let link = session.link_mut(brick);
        let wires = std::mem::take(&mut link.wires);
        link.info = None;
        link.up = false;
        let pause = BACKOFF * (1 << link.failures.min(5)).min(BACKOFF_MAX);
        link.failures += 1;
        let again = Happening::Relink(id, brick, link.attempt);
        for wire in wires {
            self.network.close(&mut self.agenda, &mut self.random, wire.key, Side::Caller);
        }
        let pause = self.random.around(pause);
        self.agenda.after(pause, again);
    }
}

impl World {
    /// A connection attempt ends.
    pub(super) fn connect(&mut self, key: ConnectionKey) {
        let Some(connection) = self.network.connection(key) else { return };
        let (caller, brick) = (connection.caller, connection.brick);
        if !self.network.listens(key, Side::Caller) {
            return self.network.forget(key);
        }
        let state = &self.bricks[usize::from(brick.0)];
        if !self.network.is_open_road(key) || !state.powered {
            self.agenda.after(Duration::from_millis(300), Happening::ConnectFailed(key));
            return;
        }
        if state.process.is_none() {
            return self.connect_failed(key);
        }
        self.accept(brick, key);
        match caller {
            Caller::Session { session, .. } => {
                self.with_session(session, |world, session| world.wire_connected(session, brick, key));
            }
            Caller::Operator => self.visit_begins(key, brick),
            Caller::Brick { brick: dialer, life, id, .. } => {
                if !self.dial_ended(dialer, life, id, true) {
                    self.network.close(&mut self.agenda, &mut self.random, key, Side::Caller);
                }
            }
        }
    }

    /// A connection attempt failed.
    pub(super) fn connect_failed(&mut self, key: ConnectionKey) {
        let Some(connection) = self.network.connection(key) else { return };
        let (caller, brick) = (connection.caller, connection.brick);
        self.network.forget(key);
        match caller {
            Caller::Session { session, .. } => self.with_session(session, |world, session| {
                if session.link_mut(brick).core_of(key).is_some() {
                    world.link_lost(session, brick, "it can't be connected to");
                }
            }),
            Caller::Operator => self.visit_fails(key),
            Caller::Brick { brick: dialer, life, id, .. } => {
                self.dial_ended(dialer, life, id, false);
            }
        }
    }

    /// The next packet of a connection reaches a side.
    pub(super) fn arrive(&mut self, key: ConnectionKey, side: Side) {
        let Some(connection) = self.network.connection(key) else { return };
        let (caller, brick) = (connection.caller, connection.brick);
        let Some(packet) = self.network.arrive(key, side) else { return };
        match (side, caller) {
            (Side::Called, _) => {
                self.brick_packet(brick, brickd::engine::ConnectionId(key.0), packet);
            }
            (Side::Caller, Caller::Session { session, .. }) => {
                self.with_session(session, |world, session| {
                    world.link_packet(session, brick, key, packet);
                });
            }
            (Side::Caller, Caller::Operator) => self.visit_goes_on(key, packet),
            (Side::Caller, Caller::Brick { brick: dialer, life, id, .. }) => {
                if self.brick(dialer).process_of(life).is_some() {
                    self.brick_packet(dialer, id, packet);
                }
            }
        }
    }

    /// Runs `act` on a session that lives, then does what its core wants.
    pub(super) fn with_session(&mut self, id: SessionId, act: impl FnOnce(&mut World, &mut Session)) {
        let Some(mut session) = self.sessions.remove(&id) else { return };
        act(self, &mut session);
        self.drain_session(&mut session);
        // In every other session: the steps change what comes after if there was something to do.
        assert!(
            id.0.is_multiple_of(2) || session.group.has_nothing_left_to_do(),
            "{id:?} counts as settled and isn't"
        );
        self.sessions.insert(id, session);
        self.bury_ended(id);
    }
}
