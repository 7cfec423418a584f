//! The network: connections that keep order in each direction and promise nothing else.
//!
//! A packet in a partitioned direction waits until the partition ends. A connection may be lost at any
//! time: a random part of what is in flight still arrives, and each side learns of the loss on its own time.
//! Who closes a connection forgets it at once, while what he sent before is still on its way: requests of a
//! broken link do arrive late, which is what rule I1's drains are for.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use brick_wire::decode::Frame;
use brick_wire::{BrickIndex, CoreIndex, SessionId, Timestamp};
use brickd::engine::ConnectionId;

use super::agenda::{Agenda, Happening, Life};
use super::random::Random;

/// Names a connection; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionKey(pub u64);

/// One of a connection's two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// Who connected.
    Caller,
    /// The brick that was called.
    Called,
}

impl Side {
    /// The other end.
    pub fn other(self) -> Side {
        match self {
            Side::Caller => Side::Called,
            Side::Called => Side::Caller,
        }
    }
}

/// Who called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// A client's session, for one of the brick's cores.
    Session {
        /// The client.
        client: usize,
        /// Its session.
        session: SessionId,
        /// The core asked for.
        core: CoreIndex,
    },
    /// The operator.
    Operator,
    /// A brick that pulls.
    Brick {
        /// Which.
        brick: BrickIndex,
        /// Which life of it.
        life: Life,
        /// Which core.
        core: CoreIndex,
        /// Its engine's name for the connection.
        id: ConnectionId,
    },
}

/// What travels.
#[derive(Debug)]
pub enum Packet {
    /// A frame.
    Frame(Frame),
    /// The other side is gone: nothing follows.
    End,
}

#[derive(Debug)]
struct InFlight {
    packet: Packet,
    /// The receiver's own kernel says so (a timeout): partitions don't hold it up.
    local: bool,
}

/// One direction of a connection.
#[derive(Debug, Default)]
struct Pipe {
    packets: VecDeque<InFlight>,
    last_arrival: Timestamp,
    /// Packets that were due but could not get through.
    stalled: u32,
    /// Nothing more may be sent.
    ended: bool,
    /// The receiver is gone.
    deaf: bool,
}

/// A connection, or an attempt.
#[derive(Debug)]
pub struct Connection {
    /// Who called.
    pub caller: Caller,
    /// Whom.
    pub brick: BrickIndex,
    pipes: [Pipe; 2],
}

/// How the network behaves.
#[derive(Clone, Copy, Debug)]
pub struct NetworkConfig {
    /// Mean time of a packet.
    pub latency: Duration,
    /// Chance that a packet takes much longer.
    pub spike: f64,
}

/// All connections, and who can't reach whom.
#[derive(Debug)]
pub struct Network {
    config: NetworkConfig,
    bricks: usize,
    next: u64,
    connections: BTreeMap<ConnectionKey, Connection>,
    /// By sending and receiving host: bricks first, then clients.
    blocked: Vec<Vec<bool>>,
    /// Hosts that take nothing in at the moment.
    frozen: Vec<bool>,
}

impl Network {
    /// A network of `bricks` and `clients` hosts that all reach each other.
    pub fn new(config: NetworkConfig, bricks: usize, clients: usize) -> Network {
        // The last one is the operator's.
        let hosts = bricks + clients + 1;
        Network {
            config,
            bricks,
            next: 1,
            connections: BTreeMap::new(),
            blocked: vec![vec![false; hosts]; hosts],
            frozen: vec![false; hosts],
        }
    }

    /// Starts to connect to a brick.
    pub fn connect(
        &mut self,
        agenda: &mut Agenda,
        random: &mut Random,
        caller: Caller,
        brick: BrickIndex,
    ) -> ConnectionKey {
        let key = ConnectionKey(self.next);
        self.next += 1;
        self.connections.insert(key, Connection { caller, brick, pipes: Default::default() });
        agenda.after(random.around(self.config.latency) * 2, Happening::Connect(key));
        key
    }

    /// The connection, unless both sides are done with it.
    pub fn connection(&self, key: ConnectionKey) -> Option<&Connection> {
        self.connections.get(&key)
    }

    /// The frames on their way to a brick.
    pub fn frames_to(&self, brick: BrickIndex) -> impl Iterator<Item = &Frame> {
        let connections = self.connections.values().filter(move |connection| connection.brick == brick);
        let packets = connections.flat_map(|connection| &connection.pipes[Side::Called as usize].packets);
        packets.filter_map(|in_flight| match &in_flight.packet {
            Packet::Frame(frame) => Some(frame),
            Packet::End => None,
        })
    }

    /// Whether packets get through in both directions.
    pub fn is_open_road(&self, key: ConnectionKey) -> bool {
        let Some(connection) = self.connections.get(&key) else { return false };
        let (caller, called) = self.hosts(connection);
        !self.blocked[caller][called] && !self.blocked[called][caller]
    }

    /// An attempt came to nothing.
    pub fn forget(&mut self, key: ConnectionKey) {
        self.connections.remove(&key);
    }

    /// Whether the side that packets go to is still there.
    pub fn listens(&self, key: ConnectionKey, side: Side) -> bool {
        self.connections.get(&key).is_some_and(|connection| !connection.pipes[side as usize].deaf)
    }

    /// Sends a frame from one side.
    pub fn send(
        &mut self,
        agenda: &mut Agenda,
        random: &mut Random,
        key: ConnectionKey,
        from: Side,
        frame: Frame,
    ) {
        let mut delay = random.around(self.config.latency);
        if random.chance(self.config.spike) {
            delay *= random.within(10..=200) as u32;
        }
        self.push(agenda, key, from, Packet::Frame(frame), false, delay);
    }

    /// One side is done: what it sent still arrives, then the other side learns that this was the end.
    pub fn close(&mut self, agenda: &mut Agenda, random: &mut Random, key: ConnectionKey, from: Side) {
        let delay = random.around(self.config.latency);
        self.close_after(agenda, key, from, delay);
    }

    /// The same, but the other side learns of it after `delay` only.
    pub fn close_after(&mut self, agenda: &mut Agenda, key: ConnectionKey, from: Side, delay: Duration) {
        self.push(agenda, key, from, Packet::End, false, delay);
        self.hang_up(key, from);
    }

    /// The connection breaks: a random part of what is in flight is lost.
    pub fn reset(&mut self, agenda: &mut Agenda, random: &mut Random, key: ConnectionKey) {
        for toward in [Side::Caller, Side::Called] {
            let Some(connection) = self.connections.get_mut(&key) else { return };
            let pipe = &mut connection.pipes[toward as usize];
            let kept = random.index(pipe.packets.len() + 1);
            pipe.packets.truncate(kept);
            // An end that was on its way may have been among them: this one takes its place.
            pipe.ended = false;
            let patience = if random.chance(0.2) { 3000 } else { 3 };
            let delay = Duration::from_micros(random.within(1..=patience * 1000));
            self.push(agenda, key, toward.other(), Packet::End, true, delay);
        }
    }

    fn push(
        &mut self,
        agenda: &mut Agenda,
        key: ConnectionKey,
        from: Side,
        packet: Packet,
        local: bool,
        delay: Duration,
    ) {
        let Some(connection) = self.connections.get_mut(&key) else { return };
        let toward = from.other();
        let pipe = &mut connection.pipes[toward as usize];
        if pipe.ended || pipe.deaf {
            return;
        }
        pipe.ended = matches!(packet, Packet::End);
        pipe.packets.push_back(InFlight { packet, local });
        pipe.last_arrival = pipe.last_arrival.max(agenda.now() + delay);
        agenda.at(pipe.last_arrival, Happening::Arrive(key, toward));
    }

    /// The packet that arrives at a side now, if one gets through.
    pub fn arrive(&mut self, key: ConnectionKey, side: Side) -> Option<Packet> {
        let connection = self.connections.get(&key)?;
        let (caller, called) = self.hosts(connection);
        let (from, to) = if side == Side::Called { (caller, called) } else { (called, caller) };
        let front = connection.pipes[side as usize].packets.front()?;
        let stopped = self.frozen[to] || (self.blocked[from][to] && !front.local);
        let pipe = &mut self.connections.get_mut(&key)?.pipes[side as usize];
        if stopped {
            pipe.stalled += 1;
            return None;
        }
        let packet = pipe.packets.pop_front()?.packet;
        if matches!(packet, Packet::End) {
            self.hang_up(key, side);
        }
        Some(packet)
    }

    /// A packet that the receiver has no room for: it comes again in a moment.
    pub fn put_back(&mut self, agenda: &mut Agenda, key: ConnectionKey, side: Side, frame: Frame) {
        let Some(connection) = self.connections.get_mut(&key) else { return };
        let pipe = &mut connection.pipes[side as usize];
        pipe.packets.push_front(InFlight { packet: Packet::Frame(frame), local: false });
        agenda.after(Duration::from_micros(50), Happening::Arrive(key, side));
    }

    /// A side doesn't listen any more; forgets the connection when none does.
    pub fn hang_up(&mut self, key: ConnectionKey, side: Side) {
        let Some(connection) = self.connections.get_mut(&key) else { return };
        let pipe = &mut connection.pipes[side as usize];
        pipe.deaf = true;
        pipe.packets.clear();
        if connection.pipes.iter().all(|pipe| pipe.deaf) {
            self.connections.remove(&key);
        }
    }

    /// Starts or ends a partition in one direction between two hosts.
    pub fn set_blocked(&mut self, from: usize, to: usize, blocked: bool) {
        self.blocked[from][to] = blocked;
    }

    /// A host stops or starts to take things in.
    pub fn set_frozen(&mut self, host: usize, frozen: bool) {
        self.frozen[host] = frozen;
    }

    /// The host number of a client.
    pub fn client_host(&self, client: usize) -> usize {
        self.bricks + client
    }

    /// Number of hosts, without the operator's.
    pub fn host_count(&self) -> usize {
        self.frozen.len() - 1
    }

    /// Delivers what waited for a road that is open again.
    pub fn release(&mut self, agenda: &mut Agenda) {
        for (key, connection) in &mut self.connections {
            for side in [Side::Caller, Side::Called] {
                let pipe = &mut connection.pipes[side as usize];
                for _ in 0..std::mem::take(&mut pipe.stalled) {
                    agenda.after(Duration::from_micros(10), Happening::Arrive(*key, side));
                }
            }
        }
    }

    /// Ends every partition and every excess of latency.
    pub fn heal(&mut self, agenda: &mut Agenda) {
        self.config.spike = 0.0;
        self.blocked.iter_mut().for_each(|row| row.fill(false));
        self.frozen.fill(false);
        self.release(agenda);
    }

    /// Every connection there is, in order.
    pub fn keys(&self) -> Vec<ConnectionKey> {
        self.connections.keys().copied().collect()
    }

    fn hosts(&self, connection: &Connection) -> (usize, usize) {
        let caller = match connection.caller {
            Caller::Session { client, .. } => self.bricks + client,
            Caller::Brick { brick, .. } => usize::from(brick.0),
            Caller::Operator => self.host_count(),
        };
        (caller, usize::from(connection.brick.0))
    }
}
