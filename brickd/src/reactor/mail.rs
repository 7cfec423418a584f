//! What reaches a core from other threads: a queue and an eventfd that the core's ring reads.
//!
//! In order per sender and never lost. A wake costs 60–70 us (FACTS), so nothing on the data path comes
//! this way.

use std::fmt;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam::queue::SegQueue;
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::engine::{ConnectionId, CoreMessage, DiskError, OperationId, Peer};

/// One thing to know or do.
#[derive(Debug)]
pub enum Mail {
    /// From another core's engine to this one's.
    Core(CoreMessage),
    /// A connection to serve.
    Handover(Handover),
    /// A helper did what was asked.
    Helped {
        /// Asked as this.
        operation: OperationId,
        /// How it went.
        result: Result<(), DiskError>,
    },
    /// A name was looked up.
    Resolved {
        /// The connection that wants to dial it.
        connection: ConnectionId,
        /// Its addresses, or why there are none.
        result: Result<Vec<SocketAddr>, String>,
    },
    /// The operator wants the brick to stop.
    Shutdown,
    /// Every core has stopped: end the loop.
    Exit,
}

/// A connection on its way from core 0 to the one that serves it. No operation of it is in flight.
pub struct Handover {
    /// Its name.
    pub connection: ConnectionId,
    /// The socket; core 0 has no other reference to it.
    pub socket: OwnedFd,
    /// The other end's address, for log lines.
    pub address: String,
    /// What it said.
    pub peer: Peer,
    /// Bytes received behind the hello.
    pub received: Vec<u8>,
}

impl fmt::Debug for Handover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Handover({:?} from {})", self.connection, self.address)
    }
}

/// A core's mailbox.
#[derive(Debug)]
pub struct Mailbox {
    queue: SegQueue<Mail>,
    event: EventFd,
    /// The owner was woken and hasn't looked yet: no need to wake it again.
    woken: AtomicBool,
}

impl Mailbox {
    /// An empty one.
    pub fn new() -> nix::Result<Mailbox> {
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC)?;
        Ok(Mailbox { queue: SegQueue::new(), event, woken: AtomicBool::new(false) })
    }

    /// Puts something in and wakes the owner. From any thread.
    pub fn send(&self, mail: Mail) {
        assert!(self.queue.len() < MAIL_MAX, "a core doesn't empty its mailbox");
        self.queue.push(mail);
        if !self.woken.swap(true, Ordering::SeqCst) {
            self.event.write(1).expect("an eventfd that is read at every wake never fills");
        }
    }

    /// The owner was woken: takes everything out, in order.
    pub fn receive(&self) -> impl Iterator<Item = Mail> {
        // Before looking: whoever puts something in after the last look wakes the owner again.
        self.woken.store(false, Ordering::SeqCst);
        std::iter::from_fn(|| self.queue.pop())
    }

    /// What the owner's ring reads to be woken.
    pub fn event(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

/// Far more than the broadcasts, disk requests and handovers that can be outstanding at once: those are
/// bounded where they start, so a mailbox this full belongs to a core that hangs.
const MAIL_MAX: usize = 1 << 20;
