//! Bytes in and out of connections: arming receives and sends, and what their completions mean.
//!
//! At most one receive and one send of a connection are in flight. A connection whose next payload finds no
//! pool slot stands in line and receives nothing meanwhile, so TCP pushes back on its peer; the line is
//! served in order, and nobody takes a slot past it.

use std::fmt::Display;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use io_uring::opcode;
use io_uring::types::Fd;
use nix::sys::socket::{Shutdown, shutdown};
use tracing::info;

use super::connection::{Connection, Phase};
use super::receive::{Receiver, Step};
use super::send::Batch;
use super::{Core, Operation, Reactor};
use crate::engine::{ConnectionId, Event, Frame};

/// A receive in the ring.
#[derive(Debug)]
pub(super) struct Receiving {
    connection: ConnectionId,
    /// Keeps the socket open until the kernel is done with it.
    _socket: Arc<OwnedFd>,
    receiver: Receiver,
}

/// A send in the ring.
#[derive(Debug)]
pub(super) struct Sending {
    connection: ConnectionId,
    socket: Arc<OwnedFd>,
    batch: Box<Batch>,
}

impl<C: Core> Reactor<C> {
    /// Takes frames out of what was received, and receives more when they run out.
    pub(super) fn pump(&mut self, id: ConnectionId) {
        loop {
            let Some(connection) = self.connections.get(id) else { return };
            if !matches!(connection.phase, Phase::Serving) {
                return;
            }
            // Without a receiver a receive is in flight.
            let Some(receiver) = &mut connection.receiver else { return };
            let may_allocate = self.starved.front().is_none_or(|first| *first == id);
            match receiver.next_step(may_allocate.then_some(&self.pool)) {
                Ok(Step::Frame(frame)) => self.events.push_back(Event::Frame { connection: id, frame }),
                Ok(Step::NeedBytes) => return self.receive(id),
                Ok(Step::NeedBuffer(_)) => {
                    connection.receive_deadline = None;
                    if !connection.is_starved {
                        connection.is_starved = true;
                        self.starved.push_back(id);
                    }
                    return;
                }
                Err(error) => return self.close(id, &format_args!("the peer broke the protocol: {error}")),
            }
        }
    }

    /// Lets the first in line for pool slots go on; returns whether it could.
    pub(super) fn feed_starved(&mut self) -> bool {
        let Some(id) = self.starved.front().copied() else { return false };
        let before = self.events.len();
        self.pump(id);
        let waits = match self.connections.get(id) {
            Some(connection) => {
                let serving = matches!(connection.phase, Phase::Serving);
                serving && connection.receiver.as_ref().is_some_and(|receiver| !receiver.is_amid_payload())
            }
            None => false,
        };
        if !waits {
            self.starved.pop_front();
            if let Some(connection) = self.connections.get(id) {
                connection.is_starved = false;
            }
        }
        !waits || self.events.len() > before
    }

    /// Arms a receive.
    pub(super) fn receive(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get(id) else { return };
        let Some(socket) = connection.socket.clone() else { return };
        let Some(mut receiver) = connection.receiver.take() else { return };
        if matches!(connection.phase, Phase::Serving) {
            let stalls_at = self.now + STALL_TIMEOUT;
            connection.receive_deadline = receiver.is_amid_payload().then_some(stalls_at);
            self.connections.watch(id);
        }
        let target = receiver.target();
        let entry =
            opcode::Recv::new(Fd(socket.as_raw_fd()), target.as_mut_ptr(), target.len() as u32).build();
        let operation = Operation::Receive(Receiving { connection: id, _socket: socket, receiver });
        // SAFETY: the target is on the receiver's heap or in its pool slot, and the receiver and the socket
        // are owned by the operation.
        unsafe { self.ring.start(operation, entry) };
    }

    pub(super) fn received(&mut self, receiving: Receiving, result: i32) {
        let Receiving { connection: id, mut receiver, .. } = receiving;
        let Some(connection) = self.connections.get(id) else { return };
        match result {
            0 => return self.close(id, &"the peer closed it"),
            result if result == -libc::EINTR || result == -libc::EAGAIN => {
                connection.receiver = Some(receiver);
                return self.receive(id);
            }
            result if result < 0 => return self.close(id, &io::Error::from_raw_os_error(-result)),
            result => {
                self.work += result as usize / BYTES_OF_AN_EVENT;
                receiver.advance(result as usize);
            }
        }
        connection.receiver = Some(receiver);
        match connection.phase {
            Phase::Greeting => self.greet(id),
            _ => self.pump(id),
        }
    }

    /// Queues a frame; one to a closed connection vanishes.
    pub(super) fn queue_frame(&mut self, id: ConnectionId, frame: Frame) {
        let Some(connection) = self.connections.get(id) else { return };
        if matches!(connection.phase, Phase::Closing) {
            return;
        }
        if !connection.is_sending {
            if connection.sender.is_empty() {
                self.unsent.push(id);
            }
            self.unsent_bytes += frame.data_bytes();
        }
        if connection.sender.push(frame).is_err() {
            self.close(id, &"the peer doesn't take its replies");
        }
    }

    /// Sends what was queued: a sendmsg per connection.
    pub(super) fn flush_sends(&mut self) {
        self.unsent_bytes = 0;
        let mut unsent = std::mem::take(&mut self.unsent);
        for id in unsent.drain(..) {
            let Some(connection) = self.connections.get(id) else { continue };
            let Some(socket) = connection.socket.clone().filter(|_| !connection.is_sending) else { continue };
            if let Some(batch) = connection.sender.next_batch() {
                connection.is_sending = true;
                if !matches!(connection.phase, Phase::Closing) {
                    connection.send_deadline = Some(self.now + STALL_TIMEOUT);
                    self.connections.watch(id);
                }
                self.send(Sending { connection: id, socket, batch });
            }
        }
        // For its memory; nothing was added meanwhile.
        self.unsent = unsent;
    }

    fn send(&mut self, sending: Sending) {
        // WAITALL: the kernel itself continues short sends where it can.
        let flags = (libc::MSG_NOSIGNAL | libc::MSG_WAITALL) as u32;
        let entry =
            opcode::SendMsg::new(Fd(sending.socket.as_raw_fd()), sending.batch.message()).flags(flags);
        // SAFETY: the message is in the boxed batch and points to the batch's heap and pool slots; batch and
        // socket are owned by the operation.
        unsafe { self.ring.start(Operation::Send(sending), entry.build()) };
    }

    pub(super) fn sent(&mut self, mut sending: Sending, result: i32) {
        let id = sending.connection;
        let Some(connection) = self.connections.get(id) else { return };
        if result == -libc::EINTR || result == -libc::EAGAIN {
            return self.send(sending);
        }
        if result <= 0 {
            return self.close(id, &io::Error::from_raw_os_error(-result));
        }
        self.work += result as usize / BYTES_OF_AN_EVENT;
        if !sending.batch.advance(result as usize) {
            if !matches!(connection.phase, Phase::Closing) {
                connection.send_deadline = Some(self.now + STALL_TIMEOUT);
            }
            return self.send(sending);
        }
        connection.is_sending = false;
        connection.sender.recycle(sending.batch);
        if !connection.sender.is_empty() {
            self.unsent_bytes += connection.sender.queued_bytes();
            return self.unsent.push(id);
        }
        if !matches!(connection.phase, Phase::Closing) {
            connection.send_deadline = None;
        }
        drop(sending.socket);
        match connection.phase {
            Phase::Leaving { .. } => self.hand_over(id),
            Phase::Closing => drop(self.forget(id)),
            _ => {}
        }
    }

    /// Ends a connection now; the engine hears of it if it knew the connection.
    pub(super) fn close(&mut self, id: ConnectionId, reason: &dyn Display) {
        let Some(connection) = self.forget(id) else { return };
        self.announce_end(id, &connection, reason);
        if let Phase::Connecting { key, .. } = connection.phase {
            self.ring.cancel(key);
        }
        if let Some(socket) = &connection.socket {
            // Operations in flight end with this. ENOTCONN: the peer was faster.
            let _ = shutdown(socket.as_raw_fd(), Shutdown::Both);
        }
    }

    /// Ends a connection for the engine now, and for the peer when what is queued was sent.
    pub(super) fn close_gently(&mut self, id: ConnectionId, reason: &dyn Display) {
        let Some(connection) = self.connections.get(id) else { return };
        let nothing_to_send = connection.sender.is_empty() && !connection.is_sending;
        if nothing_to_send || matches!(connection.phase, Phase::Resolving | Phase::Connecting { .. }) {
            return self.close(id, reason);
        }
        if matches!(connection.phase, Phase::Closing) {
            return;
        }
        let phase = std::mem::replace(&mut connection.phase, Phase::Closing);
        connection.receive_deadline = None;
        connection.send_deadline = Some(self.now + CLOSE_TIMEOUT);
        if let Some(socket) = &connection.socket {
            // A receive in flight ends with this, and finds nobody who wants its bytes.
            let _ = shutdown(socket.as_raw_fd(), Shutdown::Read);
        }
        info!("connection from {} ends: {reason}", connection.address);
        if is_known_to_engine(&phase) {
            self.events.push_back(Event::Disconnected { connection: id });
        }
        self.connections.watch(id);
    }

    /// Takes a connection out of the table, and out of the brick's count.
    pub(super) fn forget(&mut self, id: ConnectionId) -> Option<Connection> {
        let connection = self.connections.remove(id)?;
        if connection.accepted {
            self.shared.accepted.fetch_sub(1, Ordering::Relaxed);
        }
        Some(connection)
    }

    pub(super) fn close_overdue(&mut self) {
        while let Some(id) = self.connections.next_overdue(self.now) {
            let reason = match self.connections.get(id).map(|connection| &connection.phase) {
                Some(Phase::Greeting) => "it said no hello in time",
                Some(Phase::Resolving | Phase::Connecting { .. }) => "it can't be reached in time",
                _ => "the peer stalls",
            };
            self.close(id, &reason);
        }
    }

    fn announce_end(&mut self, id: ConnectionId, connection: &Connection, reason: &dyn Display) {
        if matches!(connection.phase, Phase::Closing) {
            return;
        }
        let direction = if connection.accepted { "from" } else { "to" };
        info!("connection {direction} {} ends: {reason}", connection.address);
        if is_known_to_engine(&connection.phase) {
            self.events.push_back(Event::Disconnected { connection: id });
        }
    }
}

fn is_known_to_engine(phase: &Phase) -> bool {
    !matches!(phase, Phase::Greeting | Phase::Closing)
}

/// To receive or send as much is work like handling an event: a core whose one client reads 128 KiB at a time still looks for
/// work between them, one that moves mebibytes sleeps.
const BYTES_OF_AN_EVENT: usize = 32 * 1024;
/// How long a peer may take to send the rest of a payload that a pool slot waits for, or to make room for
/// any byte of its replies. Both hold slots that others wait for.
const STALL_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a closed connection may take its last replies.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
