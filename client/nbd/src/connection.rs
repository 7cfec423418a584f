//! One client, from greeting to hang-up: sockets in, device calls out.
//!
//! The connection's task negotiates, then receives requests and spawns one task for each; a writer
//! task sends replies in the order they finish. The connection ends when the client leaves, breaks the
//! protocol or stops taking replies, or when the server stops; in every case requests in flight run to
//! their end first (within the server's grace), because a device must not see a write cancelled halfway.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use monoio::buf::SliceMut;
use monoio::io::{AsyncReadRent, AsyncWriteRent, AsyncWriteRentExt, Split, Splitable};

use crate::budget::Budget;
use crate::condition::Condition;
use crate::device::BlockDevice;
use crate::execute::execute;
use crate::protocol::{
    BadRequestMagic, Export, Incoming, Limits, Negotiation, NegotiationError, Operation, Reply,
    RequestDecoder, Session, Step,
};
use crate::server::ExportInfo;
use crate::writer::{self, Outbox};

/// How long a client may take from connecting to its first request phase.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);
/// Requests started before others run: the device has something to do while the next are looked at.
const BURST_REQUESTS: usize = 16;
/// Room made for each receive of the handshake; options are short.
const HANDSHAKE_RECEIVE_BYTES: usize = 4096;

/// Why a connection ended other than by the client leaving or the server stopping.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectionError {
    #[error("handshake refused: {0}")]
    Negotiation(#[from] NegotiationError),
    #[error("handshake not finished within {} s", HANDSHAKE_TIMEOUT.as_secs())]
    HandshakeTimeout,
    #[error("stream out of step: {0}")]
    OutOfStep(#[from] BadRequestMagic),
    #[error("the client hung up in the middle of a request")]
    Truncated,
    #[error("socket failed: {0}")]
    Socket(#[from] io::Error),
}

/// Tells all connections that the server is going down, in two steps.
#[derive(Debug, Default)]
pub(crate) struct Stop {
    draining: Cell<bool>,
    abandoned: Cell<bool>,
    changed: Condition,
}

impl Stop {
    /// Take no more requests; finish those in flight.
    pub(crate) fn drain(&self) {
        self.draining.set(true);
        self.changed.notify();
    }

    /// Wait for nothing any more.
    pub(crate) fn abandon(&self) {
        self.abandoned.set(true);
        self.changed.notify();
    }

    async fn draining(&self) {
        self.changed.until(|| self.draining.get().then_some(())).await;
    }

    async fn abandoned(&self) {
        self.changed.until(|| self.abandoned.get().then_some(())).await;
    }
}

/// What all connections of a server share.
#[derive(Debug)]
pub(crate) struct Shared<D> {
    pub(crate) device: Rc<D>,
    pub(crate) export: ExportInfo,
    pub(crate) stop: Stop,
}

/// Serves one client until the connection is over.
pub(crate) async fn run<S, D>(mut stream: S, shared: Rc<Shared<D>>) -> Result<(), ConnectionError>
where
    S: AsyncReadRent + AsyncWriteRent + Split + 'static,
    D: BlockDevice,
{
    let export = Export {
        name: shared.export.name.clone(),
        description: shared.export.description.clone(),
        size_bytes: shared.device.size_bytes(),
        read_only: shared.device.read_only(),
    };
    let negotiated = monoio::select! {
        result = monoio::time::timeout(HANDSHAKE_TIMEOUT, negotiate(&mut stream, export)) => {
            result.map_err(|_| ConnectionError::HandshakeTimeout)??
        }
        () = shared.stop.draining() => None,
    };
    let Some((session, received)) = negotiated else { return Ok(()) };

    let (reader, socket) = stream.into_split();
    let outbox = Rc::new(Outbox::default());
    let budget = Rc::new(Budget::default());
    let writing = monoio::spawn(writer::run(socket, Rc::clone(&outbox)));
    let mut transmission = Transmission { shared: Rc::clone(&shared), session, outbox, budget };
    let outcome = transmission.receive_requests(reader, RequestDecoder::new(&received)).await;

    let finish = async {
        transmission.budget.idle().await;
        transmission.outbox.close();
        writing.await
    };
    monoio::select! {
        // If replies could not be sent, that is the end of the story, whatever ended it for us.
        written = finish => outcome.and_then(|()| Ok(written?)),
        () = shared.stop.abandoned() => outcome,
    }
}

/// The handshake; None if the client left during it.
async fn negotiate<S>(stream: &mut S, export: Export) -> Result<Option<(Session, BytesMut)>, ConnectionError>
where
    S: AsyncReadRent + AsyncWriteRent,
{
    let mut negotiation = Negotiation::new(export);
    let (mut input, mut output) = (BytesMut::new(), BytesMut::from(&Negotiation::greeting()[..]));
    loop {
        if !output.is_empty() {
            stream.write_all(output.split().freeze()).await.0?;
        }
        match negotiation.handle_input(&mut input, &mut output)? {
            Step::Again => {}
            Step::NeedMore => {
                input.reserve(HANDSHAKE_RECEIVE_BYTES);
                let (received, buffer) = receive(stream, input, HANDSHAKE_RECEIVE_BYTES).await;
                input = buffer;
                if received? == 0 {
                    // Probes and clients that only list exports leave like this.
                    return Ok(None);
                }
            }
            step @ (Step::Transmission(_) | Step::Ended) => {
                if !output.is_empty() {
                    stream.write_all(output.freeze()).await.0?;
                }
                return Ok(match step {
                    Step::Transmission(session) => Some((session, input)),
                    _ => None,
                });
            }
        }
    }
}

/// Appends at most `limit` received bytes to `buffer`, which has that much room.
async fn receive(
    stream: &mut impl AsyncReadRent,
    buffer: BytesMut,
    limit: usize,
) -> (io::Result<usize>, BytesMut) {
    let begin = buffer.len();
    let (received, slice) = stream.read(SliceMut::new(buffer, begin, begin + limit)).await;
    (received, slice.into_inner())
}

/// The part of a connection's life in which requests are served.
struct Transmission<D> {
    shared: Rc<Shared<D>>,
    session: Session,
    outbox: Rc<Outbox>,
    budget: Rc<Budget>,
}

impl<D: BlockDevice> Transmission<D> {
    /// Starts every request that arrives; returns when no more will be started.
    async fn receive_requests(
        &mut self,
        mut reader: impl AsyncReadRent,
        mut decoder: RequestDecoder,
    ) -> Result<(), ConnectionError> {
        loop {
            let mut started = 0;
            while let Some(incoming) = decoder.poll_request(|| self.limits())? {
                if matches!(incoming, Incoming::Accepted { operation: Operation::Disconnect, .. }) {
                    return Ok(());
                }
                let permit = monoio::select! {
                    permit = self.budget.acquire(payload_in_flight_bytes(&incoming)) => permit,
                    () = self.over() => return Ok(()),
                };
                match incoming {
                    Incoming::Accepted { cookie, operation, payload } => {
                        self.start(cookie, operation, payload, permit);
                        started += 1;
                        if started % BURST_REQUESTS == 0 {
                            // Goes to the end of the runtime's queue; a task that wakes itself would be put in front.
                            monoio::spawn(async {}).await;
                        }
                    }
                    Incoming::Refused { cookie, code } => {
                        let reply = Reply::failed(cookie, code, self.session.structured_replies);
                        self.outbox.push(reply, permit);
                    }
                }
            }
            let (buffer, limit) = decoder.poll_receive();
            // A cancelled receive loses its buffer, but then nothing more is received.
            let (received, buffer) = monoio::select! {
                received = receive(&mut reader, buffer, limit) => received,
                () = self.over() => return Ok(()),
            };
            decoder.handle_received(buffer);
            if received? == 0 {
                let complete = decoder.is_between_requests();
                return if complete { Ok(()) } else { Err(ConnectionError::Truncated) };
            }
        }
    }

    fn start(&self, cookie: u64, operation: Operation, payload: Bytes, permit: crate::budget::Permit) {
        let device = Rc::clone(&self.shared.device);
        let outbox = Rc::clone(&self.outbox);
        let structured = self.session.structured_replies;
        monoio::spawn(async move {
            let reply = execute(&*device, cookie, operation, payload, structured).await;
            outbox.push(reply, permit);
        });
    }

    /// The server stops, or the client takes no more replies.
    async fn over(&self) {
        monoio::select! {
            () = self.shared.stop.draining() => {}
            () = self.outbox.broken() => {}
        }
    }

    fn limits(&self) -> Limits {
        Limits {
            size_bytes: self.shared.device.size_bytes(),
            read_only: self.shared.device.read_only(),
            structured_replies: self.session.structured_replies,
            allocation_context: self.session.allocation_context,
        }
    }
}

/// What a request holds while it is in flight: the data of a write, or of the reply to a read.
fn payload_in_flight_bytes(incoming: &Incoming) -> u64 {
    match incoming {
        Incoming::Accepted { operation: Operation::Read { length, .. }, .. } => u64::from(*length),
        Incoming::Accepted { payload, .. } => payload.len() as u64,
        Incoming::Refused { .. } => 0,
    }
}
