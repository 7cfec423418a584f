//! Core 0's door: accepting connections, reading their hello, and handing them to the core that will serve
//! them.
//!
//! Until the engine has admitted a connection nothing but its hello is read, into 4 KiB at most, and no
//! pool slot is given to it.

use std::net::TcpListener;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use brick_wire::cursor::Body;
use brick_wire::handshake::{Hello, Welcome};
use brick_wire::{CoreIndex, Header, Opcode, Status, Timestamp};
use io_uring::opcode;
use io_uring::types::Fd;
use nix::sys::socket::{SockaddrStorage, getpeername, setsockopt, sockopt};
use tracing::{info, warn};

use super::connection::{Connection, Phase};
use super::mail::{Handover, Mail};
use super::receive::{Receiver, Step};
use super::{Core, Operation, Reactor};
use crate::engine::{ConnectionId, Event, Frame, Peer};

/// The listening socket.
#[derive(Debug)]
pub(super) struct Listener {
    socket: Arc<OwnedFd>,
    /// Of the next accepted connection.
    next_id: u64,
    /// When accepting is tried again after the kernel refused for want of something.
    pub(super) retry_at: Option<Timestamp>,
}

impl Listener {
    pub(super) fn new(socket: TcpListener) -> Listener {
        Listener { socket: Arc::new(socket.into()), next_id: 1, retry_at: None }
    }
}

impl<C: Core> Reactor<C> {
    /// Makes this core the one that accepts.
    pub(super) fn set_listener(&mut self, listener: Listener) {
        self.listener = Some(listener);
    }

    /// Arms an accept.
    pub(super) fn accept(&mut self) {
        let Some(listener) = &self.listener else { return };
        let socket = listener.socket.clone();
        let accept = opcode::Accept::new(Fd(socket.as_raw_fd()), std::ptr::null_mut(), std::ptr::null_mut());
        let entry = accept.flags(libc::SOCK_CLOEXEC).build();
        // SAFETY: the entry points to no memory, and the operation owns the socket.
        unsafe { self.ring.start(Operation::Accept { _socket: socket }, entry) };
    }

    pub(super) fn retry_accept(&mut self) {
        let due = |listener: &&mut Listener| listener.retry_at.is_some_and(|at| at <= self.now);
        if let Some(listener) = self.listener.as_mut().filter(due) {
            listener.retry_at = None;
            self.accept();
        }
    }

    pub(super) fn accepted(&mut self, result: i32) {
        if result < 0 {
            return self.accept_failed(-result);
        }
        // SAFETY: the kernel just opened the descriptor for this accept, and nobody else knows it.
        let socket = unsafe { OwnedFd::from_raw_fd(result) };
        self.accept();
        let address = match getpeername::<SockaddrStorage>(socket.as_raw_fd()) {
            Ok(address) => address.to_string(),
            // Gone already; the first receive says so.
            Err(_) => "a peer that has gone".to_owned(),
        };
        if self.shared.accepted.load(Ordering::Relaxed) >= CONNECTIONS_MAX {
            warn!("connection from {address} refused: {CONNECTIONS_MAX} are open, which is the limit");
            return;
        }
        self.shared.accepted.fetch_add(1, Ordering::Relaxed);
        prepare_socket(&socket);
        let listener = self.listener.as_mut().expect("only a listening core accepts");
        let id = ConnectionId(listener.next_id);
        listener.next_id += 1;
        let mut connection = Connection::new(address, Phase::Greeting, Some(Arc::new(socket)));
        connection.accepted = true;
        connection.receiver = Some(Receiver::new(&[]));
        connection.receive_deadline = Some(self.now + HELLO_TIMEOUT);
        self.connections.insert(id, connection);
        self.receive(id);
    }

    fn accept_failed(&mut self, errno: i32) {
        match errno {
            // The peer gave up, or a signal came: there may be others.
            libc::ECONNABORTED | libc::EINTR | libc::EAGAIN | libc::EPROTO => self.accept(),
            libc::ECANCELED => {}
            errno => {
                let error = std::io::Error::from_raw_os_error(errno);
                warn!("can't accept connections: {error}; trying again in {} s", ACCEPT_PAUSE.as_secs());
                let retry_at = Some(self.now + ACCEPT_PAUSE);
                if let Some(listener) = &mut self.listener {
                    listener.retry_at = retry_at;
                }
            }
        }
    }

    /// Looks for the hello in what was received.
    pub(super) fn greet(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get(id) else { return };
        let Some(receiver) = &mut connection.receiver else { return };
        match take_hello(receiver) {
            Ok(None) => self.receive(id),
            Ok(Some((header, hello))) => {
                connection.phase = Phase::Greeted(header);
                connection.receive_deadline = None;
                self.events.push_back(Event::Hello { connection: id, hello });
            }
            Err(reason) => self.close(id, &reason),
        }
    }

    pub(super) fn admit(&mut self, id: ConnectionId, core: CoreIndex, peer: Peer, welcome: &Welcome) {
        assert!(usize::from(core.0) < self.shared.mailboxes.len(), "{core:?} doesn't exist");
        let here = core == self.index;
        let Some(connection) = self.connections.get(id) else { return };
        let Phase::Greeted(hello) = &connection.phase else { return };
        let frame = welcome_frame(hello, Status::Ok, welcome);
        // The name is the peer's own words: quoted.
        info!(
            "connection from {}: {:?}, session {}",
            connection.address, peer.hello.name, peer.hello.session
        );
        connection.phase = if here { Phase::Serving } else { Phase::Leaving { core, peer: peer.clone() } };
        self.queue_frame(id, frame);
        if here {
            self.events.push_back(Event::Admitted { connection: id, peer });
            self.pump(id);
        }
    }

    pub(super) fn refuse(&mut self, id: ConnectionId, status: Status, welcome: &Welcome) {
        let Some(connection) = self.connections.get(id) else { return };
        let Phase::Greeted(hello) = &connection.phase else { return };
        let frame = welcome_frame(hello, status, welcome);
        self.queue_frame(id, frame);
        self.close_gently(id, &format_args!("refused: {}", welcome.reason));
    }

    /// The welcome was sent: the connection goes to its core.
    pub(super) fn hand_over(&mut self, id: ConnectionId) {
        // Not `forget`: it stays in the brick's count.
        let Some(mut connection) = self.connections.remove(id) else { return };
        let Phase::Leaving { core, peer } = connection.phase else {
            panic!("only an admitted connection leaves, not one in {:?}", connection.phase)
        };
        let receiver = connection.receiver.take().expect("nothing is received before the handover");
        let socket = connection.socket.take().expect("an accepted connection has a socket");
        let socket = Arc::into_inner(socket).expect("nothing is in flight before the handover");
        let received = receiver.unconsumed().to_vec();
        let handover = Handover { connection: id, socket, address: connection.address, peer, received };
        self.mailbox(core).send(Mail::Handover(handover));
    }

    /// The other end of [`Reactor::hand_over`].
    pub(super) fn take_over(&mut self, handover: Handover) {
        let Handover { connection: id, socket, address, peer, received } = handover;
        let mut connection = Connection::new(address, Phase::Serving, Some(Arc::new(socket)));
        connection.accepted = true;
        connection.receiver = Some(Receiver::new(&received));
        self.connections.insert(id, connection);
        self.events.push_back(Event::Admitted { connection: id, peer });
        self.pump(id);
    }
}

/// The hello, if it is whole; or why what came is none.
fn take_hello(receiver: &mut Receiver) -> Result<Option<(Header, Hello)>, String> {
    let Some(header) = receiver.peek_header().map_err(|error| error.to_string())? else { return Ok(None) };
    let is_hello = header.opcode == Opcode::Hello && !header.is_reply();
    if !is_hello || header.data_bytes > 0 || header.aux_bytes > HELLO_BYTES_MAX {
        return Err(format!("it doesn't start with a hello but with {:?}", header.opcode));
    }
    match receiver.next_step(None).map_err(|error| error.to_string())? {
        Step::Frame(frame) => {
            let hello = Hello::from_bytes(&frame.aux).map_err(|error| format!("bad hello: {error}"))?;
            Ok(Some((header, hello)))
        }
        Step::NeedBytes => Ok(None),
        Step::NeedBuffer(_) => unreachable!("a hello has no data"),
    }
}

fn welcome_frame(hello: &Header, status: Status, welcome: &Welcome) -> Frame {
    Frame { header: hello.reply(status), aux: welcome.to_bytes(), data: None }
}

/// Options of every TCP socket. They make a connection faster or its end known sooner; without one of them
/// it still works, so failures are dropped.
pub(super) fn prepare_socket(socket: &OwnedFd) {
    brick_transport::prepare(socket);
    let _ = setsockopt(socket, sockopt::KeepAlive, &true);
    let _ = setsockopt(socket, sockopt::TcpKeepIdle, &KEEPALIVE_IDLE_SECONDS);
    let _ = setsockopt(socket, sockopt::TcpKeepInterval, &KEEPALIVE_INTERVAL_SECONDS);
    let _ = setsockopt(socket, sockopt::TcpKeepCount, &KEEPALIVE_COUNT);
    let _ = setsockopt(socket, sockopt::TcpUserTimeout, &USER_TIMEOUT_MS);
}

/// Accepted connections of a brick: 64 clients on 64 cores.
pub const CONNECTIONS_MAX: usize = 4096;
/// How long a fresh connection may take to say hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// A hello's aux is 62 bytes and a name.
const HELLO_BYTES_MAX: u32 = 4096;
/// Before accepting again when descriptors or memory ran out.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);
// A peer whose host died is noticed after 10 + 3 x 3 s idle, or 20 s with bytes unacknowledged.
const KEEPALIVE_IDLE_SECONDS: u32 = 10;
const KEEPALIVE_INTERVAL_SECONDS: u32 = 3;
const KEEPALIVE_COUNT: u32 = 3;
const USER_TIMEOUT_MS: u32 = 20_000;
