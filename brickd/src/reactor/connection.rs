//! A core's connections: what each one is waiting for, and until when.
//!
//! A connection that is closed leaves the table at once; operations of it that are still in the kernel own
//! the socket and their buffers, and find nobody when they complete. Only one that has something left to
//! send stays a while ([`Phase::Closing`]).

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use brick_wire::{CoreIndex, Header, Timestamp};

use super::receive::Receiver;
use super::send::Sender;
use crate::engine::{ConnectionId, Peer};

/// How far a connection has come.
#[derive(Debug)]
pub enum Phase {
    /// Accepted; its hello hasn't come.
    Greeting,
    /// The engine is thinking about its hello, which had this header.
    Greeted(Header),
    /// Admitted, for another core: leaves when the welcome is sent.
    Leaving {
        /// Where to.
        core: CoreIndex,
        /// Who it is.
        peer: Peer,
    },
    /// Its name is being looked up.
    Resolving,
    /// Being dialled; these addresses are left to try.
    Connecting {
        /// The others.
        rest: Vec<SocketAddr>,
        /// The connect in the ring.
        key: u64,
    },
    /// Frames go to and from the engine.
    Serving,
    /// Ended for the engine; what is queued is still sent.
    Closing,
}

/// A connection of this core.
#[derive(Debug)]
pub struct Connection {
    /// `None` while its name is looked up.
    pub socket: Option<Arc<OwnedFd>>,
    /// The other end, for log lines.
    pub address: String,
    /// How far it has come.
    pub phase: Phase,
    /// `None` while a receive is in flight (it is in the ring then) and before the socket is connected.
    pub receiver: Option<Receiver>,
    /// What is to be sent.
    pub sender: Sender,
    /// A send is in flight.
    pub is_sending: bool,
    /// It is in the line for pool slots.
    pub is_starved: bool,
    /// It was accepted, not dialled, and counts in the brick's bound.
    pub accepted: bool,
    /// When its peer must have said something.
    pub receive_deadline: Option<Timestamp>,
    /// When its peer must have taken something.
    pub send_deadline: Option<Timestamp>,
}

impl Connection {
    /// A connection in its first phase.
    pub fn new(address: String, phase: Phase, socket: Option<Arc<OwnedFd>>) -> Connection {
        Connection {
            socket,
            address,
            phase,
            receiver: None,
            sender: Sender::default(),
            is_sending: false,
            is_starved: false,
            accepted: false,
            receive_deadline: None,
            send_deadline: None,
        }
    }

    fn deadline(&self) -> Option<Timestamp> {
        match (self.receive_deadline, self.send_deadline) {
            (Some(receive), Some(send)) => Some(receive.min(send)),
            (one, other) => one.or(other),
        }
    }
}

/// The connections of a core, and their alarms.
///
/// Alarms are lazy: one is set when a connection gets a deadline that is earlier than its alarms, and when
/// it rings the deadline is looked up again. So a deadline that moves with every frame costs nothing.
#[derive(Debug, Default)]
pub struct Connections {
    table: HashMap<ConnectionId, Connection>,
    alarms: BTreeSet<(Timestamp, ConnectionId)>,
    /// The earliest alarm of each connection that has one.
    armed: HashMap<ConnectionId, Timestamp>,
}

impl Connections {
    /// Adds a connection under a fresh name.
    pub fn insert(&mut self, id: ConnectionId, connection: Connection) {
        let previous = self.table.insert(id, connection);
        assert!(previous.is_none(), "{id:?} is in use");
        self.watch(id);
    }

    /// The connection, unless it has ended.
    pub fn get(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        self.table.get_mut(&id)
    }

    /// Takes a connection out.
    pub fn remove(&mut self, id: ConnectionId) -> Option<Connection> {
        self.table.remove(&id)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// All names.
    pub fn ids(&self) -> Vec<ConnectionId> {
        self.table.keys().copied().collect()
    }

    /// To be called after a deadline was set.
    pub fn watch(&mut self, id: ConnectionId) {
        let Some(deadline) = self.table.get(&id).and_then(Connection::deadline) else { return };
        if self.armed.get(&id).is_none_or(|alarm| deadline < *alarm) {
            self.armed.insert(id, deadline);
            self.alarms.insert((deadline, id));
        }
    }

    /// When the next alarm rings.
    pub fn next_alarm(&self) -> Option<Timestamp> {
        self.alarms.first().map(|(alarm, _)| *alarm)
    }

    /// A connection whose deadline is over. To be called until there is none.
    pub fn next_overdue(&mut self, now: Timestamp) -> Option<ConnectionId> {
        while let Some((alarm, id)) = self.alarms.first().copied().filter(|(alarm, _)| *alarm <= now) {
            self.alarms.remove(&(alarm, id));
            if self.armed.get(&id) == Some(&alarm) {
                self.armed.remove(&id);
            }
            match self.table.get(&id).and_then(Connection::deadline) {
                Some(deadline) if deadline <= now => return Some(id),
                Some(_) => self.watch(id),
                None => {}
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn alarms_follow_deadlines() {
        let (second, id) = (Duration::from_secs(1), ConnectionId(1));
        let start = Timestamp(0);
        let mut connections = Connections::default();
        connections.insert(id, Connection::new(String::new(), Phase::Greeting, None));
        assert_eq!(connections.next_alarm(), None);

        connections.get(id).unwrap().receive_deadline = Some(start + second * 10);
        connections.watch(id);
        connections.get(id).unwrap().send_deadline = Some(start + second * 5);
        connections.watch(id);
        assert_eq!(connections.next_alarm(), Some(start + second * 5));

        connections.get(id).unwrap().send_deadline = None;
        assert_eq!(connections.next_overdue(start + second * 6), None);
        assert_eq!(connections.next_overdue(start + second * 10), Some(id));
        connections.remove(id);
        assert_eq!((connections.next_overdue(start + second * 60), connections.next_alarm()), (None, None));
    }
}
