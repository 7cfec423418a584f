//! Connecting to other bricks, for pulls: the name is looked up by a helper, then each of its addresses is
//! tried in turn.

use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use io_uring::opcode;
use io_uring::types::Fd;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrLike, SockaddrStorage, socket};
use tracing::info;

use super::connection::{Connection, Phase};
use super::listen::prepare_socket;
use super::receive::Receiver;
use super::{Core, Operation, Reactor};
use crate::engine::{ConnectionId, Event};

/// A connect in the ring.
#[derive(Debug)]
pub(super) struct Connecting {
    connection: ConnectionId,
    socket: Arc<OwnedFd>,
    _address: Box<SockaddrStorage>,
}

impl<C: Core> Reactor<C> {
    pub(super) fn dial(&mut self, id: ConnectionId, address: String) {
        let mut connection = Connection::new(address.clone(), Phase::Resolving, None);
        connection.receive_deadline = Some(self.now + DIAL_TIMEOUT);
        self.connections.insert(id, connection);
        self.shared.helpers.resolve(self.index, id, address);
    }

    pub(super) fn resolved(&mut self, id: ConnectionId, result: Result<Vec<SocketAddr>, String>) {
        match result {
            Ok(mut addresses) => {
                addresses.reverse();
                self.connect_next(id, addresses);
            }
            Err(reason) => self.close(id, &reason),
        }
    }

    /// Tries the last of `rest`.
    fn connect_next(&mut self, id: ConnectionId, mut rest: Vec<SocketAddr>) {
        let Some(connection) = self.connections.get(id) else { return };
        let Some(address) = rest.pop() else { return self.close(id, &"no address of it answers") };
        let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let socket = match socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None) {
            Ok(socket) => Arc::new(socket),
            Err(errno) => return self.close(id, &errno),
        };
        prepare_socket(&socket);
        let address = Box::new(SockaddrStorage::from(address));
        let entry = opcode::Connect::new(Fd(socket.as_raw_fd()), address.as_ptr(), address.len()).build();
        let connecting = Connecting { connection: id, socket, _address: address };
        // SAFETY: the address is boxed, and the operation owns it and the socket.
        let key = unsafe { self.ring.start(Operation::Connect(connecting), entry) };
        connection.phase = Phase::Connecting { rest, key };
    }

    pub(super) fn connected(&mut self, connecting: Connecting, result: i32) {
        let Connecting { connection: id, socket, .. } = connecting;
        let Some(connection) = self.connections.get(id) else { return };
        let Phase::Connecting { rest, .. } = &mut connection.phase else {
            panic!("a connection in {:?} has no connect in flight", connection.phase)
        };
        let rest = std::mem::take(rest);
        if result < 0 {
            let error = std::io::Error::from_raw_os_error(-result);
            info!("an address of {} doesn't answer: {error}", connection.address);
            return self.connect_next(id, rest);
        }
        connection.socket = Some(socket);
        connection.phase = Phase::Serving;
        connection.receive_deadline = None;
        connection.receiver = Some(Receiver::new(&[]));
        self.events.push_back(Event::Dialed { connection: id });
        self.pump(id);
    }
}

/// For the look-up and all addresses together.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);
