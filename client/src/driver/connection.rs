//! One TCP connection to one core of a brick: hello and welcome, then frames both ways.
//!
//! Received payloads are slices of the receive buffers ([`Incoming`]), which the user gets as they are. A
//! frame that can't be parsed ends the connection: the stream is out of step.

use std::io;
use std::time::Duration;

use brick_wire::cursor::{Body, BodyError};
use brick_wire::decode::Frame;
use brick_wire::handshake::{Hello, PeerKind, Welcome};
use brick_wire::limits::PROTOCOL_VERSION;
use brick_wire::{
    BrickUuid, ConnectionGeneration, CoreIndex, FrameError, Header, Opcode, RequestId, SessionId, Status,
    VolumeUuid,
};
use bytes::Bytes;
use monoio::io::{AsyncWriteRent, CancelHandle, CancelableAsyncWriteRent, Splitable};
use monoio::net::tcp::{TcpOwnedReadHalf, TcpOwnedWriteHalf};

use super::incoming::Incoming;
use super::outbox::Outbox;
use super::patience::within;
use super::{clock, resolve, timers};

/// How long connecting and the welcome may take.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);
/// Frames handed on before others run. What they set free is on its way to the bricks while the next are looked at;
/// otherwise all requests in flight move in step, and disks and bricks wait for the client and it for them (32 writes
/// of 4 KiB in flight: 43 thousand a second instead of 34).
const BURST_FRAMES: usize = 16;
/// Payload handed on before others run: eight reads of 4 KiB, which take about as long as those frames.
const BURST_BYTES: usize = 32 * 1024;

/// Why there is no connection (any more).
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The brick isn't there.
    #[error("can't connect to {address}: {source}; is brickd running there?")]
    Connect {
        /// Where.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// It took too long.
    #[error("{address} did not answer within {seconds} s; is the host up?")]
    Timeout {
        /// Where.
        address: String,
        /// How long.
        seconds: u64,
    },
    /// The connection broke.
    #[error("the connection to {address} broke: {source}")]
    Broken {
        /// Where.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// The peer closed it.
    #[error("{address} closed the connection; look into the brick's log for the reason")]
    Closed {
        /// Where.
        address: String,
    },
    /// The peer isn't a brick, or is broken.
    #[error("{address} sent a bad frame: {source}; is that a brick's port?")]
    Frame {
        /// Where.
        address: String,
        /// What was wrong.
        source: FrameError,
    },
    /// The welcome can't be read.
    #[error("{address} sent a welcome that can't be read: {source}")]
    Welcome {
        /// Where.
        address: String,
        /// What was wrong.
        source: BodyError,
    },
    /// Another brick has taken its place.
    #[error(
        "{address} is a disk whose place another brick has taken: what it remembers doesn't count; stop it, and use the \
         volume file with the other brick's address"
    )]
    Retired {
        /// Where.
        address: String,
    },
    /// The brick doesn't want us.
    #[error("{address} refused the connection: {reason}")]
    Refused {
        /// Where.
        address: String,
        /// The brick's words.
        reason: String,
    },
}

/// Whom to call, and as whom.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) kind: PeerKind,
    pub(crate) volume: VolumeUuid,
    pub(crate) session: SessionId,
    pub(crate) name: String,
}

/// A connection after its welcome.
pub(crate) struct Connection {
    pub(crate) welcome: Welcome,
    address: String,
    reader: TcpOwnedReadHalf,
    writer: TcpOwnedWriteHalf,
    received: Incoming,
}

impl Connection {
    /// Connects and shakes hands, within [`CONNECT_TIMEOUT`].
    pub(crate) async fn open(
        address: &str,
        caller: &Caller,
        brick: BrickUuid,
        generation: ConnectionGeneration,
        core: CoreIndex,
    ) -> Result<Connection, ConnectError> {
        let hello = Hello {
            versions: (PROTOCOL_VERSION, PROTOCOL_VERSION),
            features: 0,
            kind: caller.kind,
            core,
            volume: caller.volume,
            brick,
            session: caller.session,
            generation,
            name: caller.name.clone(),
        };
        within(CONNECT_TIMEOUT, shake_hands(address, hello)).await.unwrap_or_else(|| {
            Err(ConnectError::Timeout { address: address.to_owned(), seconds: CONNECT_TIMEOUT.as_secs() })
        })
    }

    /// Runs the connection until it breaks or `cancel` is used: sends what is in `outbox`, hands every
    /// received frame to `receive`.
    pub(crate) async fn run(
        self,
        outbox: Outbox,
        cancel: CancelHandle,
        mut receive: impl FnMut(Frame),
    ) -> ConnectError {
        let Connection { address, mut reader, mut writer, mut received, .. } = self;
        let sender = outbox.clone();
        let writer_cancel = cancel.clone();
        let writer_task = monoio::spawn(async move {
            while let Some(mut batch) = sender.next_batch().await {
                while !batch.is_empty() {
                    let (result, rest) = writer.cancelable_writev(batch, writer_cancel.clone()).await;
                    batch = rest;
                    match result {
                        Ok(count) if count > 0 => batch.advance(count),
                        _ => {
                            sender.close();
                            break;
                        }
                    }
                }
            }
            // Makes the peer close its side, and so ends our reader.
            let _closed_already = writer.shutdown().await;
        });
        let error = loop {
            match drain_frames(&mut received, &outbox, &mut receive) {
                Ok(Drained::All) => {}
                Ok(Drained::Burst) => {
                    let_others_run().await;
                    continue;
                }
                Err(source) => break ConnectError::Frame { address, source },
            }
            timers::let_timers_run(clock::now()).await;
            match received.receive(&mut reader, Some(&cancel)).await {
                Ok(0) => break ConnectError::Closed { address },
                Ok(_) => {}
                Err(source) => break ConnectError::Broken { address, source },
            }
        };
        outbox.close();
        writer_task.await;
        error
    }
}

/// How far the received frames were handed on.
enum Drained {
    /// As far as they are whole.
    All,
    /// By a burst: there may be more.
    Burst,
}

fn drain_frames(
    received: &mut Incoming,
    outbox: &Outbox,
    receive: &mut impl FnMut(Frame),
) -> Result<Drained, FrameError> {
    let mut bytes = 0;
    for _ in 0..BURST_FRAMES {
        let Some(frame) = received.next_frame()? else { return Ok(Drained::All) };
        bytes += frame.data.len();
        outbox.restore(frame.header.credits);
        receive(frame);
        if bytes >= BURST_BYTES {
            break;
        }
    }
    Ok(Drained::Burst)
}

async fn shake_hands(address: &str, hello: Hello) -> Result<Connection, ConnectError> {
    let owned = || address.to_owned();
    let stream = resolve::connect(address)
        .await
        .map_err(|source| ConnectError::Connect { address: owned(), source })?;
    let (mut reader, mut writer) = stream.into_split();
    let header = Header::request(Opcode::Hello, RequestId(0));
    let frame = Frame::new(header, hello.to_bytes(), Bytes::new()).head_bytes();
    let (result, _) = monoio::io::AsyncWriteRentExt::write_all(&mut writer, frame).await;
    result.map_err(|source| ConnectError::Broken { address: owned(), source })?;
    let mut received = Incoming::default();
    let frame = loop {
        let parsed = received.next_frame();
        if let Some(frame) = parsed.map_err(|source| ConnectError::Frame { address: owned(), source })? {
            break frame;
        }
        match received.receive(&mut reader, None).await {
            Ok(0) => return Err(ConnectError::Closed { address: owned() }),
            Ok(_) => {}
            Err(source) => return Err(ConnectError::Broken { address: owned(), source }),
        }
    };
    let welcome = Welcome::from_bytes(&frame.aux)
        .map_err(|source| ConnectError::Welcome { address: owned(), source })?;
    if frame.header.status != Status::Ok {
        return Err(ConnectError::Refused { address: owned(), reason: welcome.reason });
    }
    Ok(Connection { welcome, address: owned(), reader, writer, received })
}

/// Goes to the end of the runtime's queue: a task that wakes itself would be put in front of it.
async fn let_others_run() {
    monoio::spawn(async {}).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames_of_a_burst(data_bytes: usize) -> usize {
        let header = Header::request(Opcode::Read, RequestId(1));
        let frame = Frame::new(header, Vec::new(), Bytes::from(vec![0; data_bytes]));
        let stream = [frame.head_bytes(), frame.data.to_vec()].concat().repeat(1 + BURST_FRAMES);
        let mut count = 0;
        let drained = drain_frames(&mut Incoming::of(&stream), &Outbox::new(0), &mut |_| count += 1);
        assert!(matches!(drained, Ok(Drained::Burst)));
        count
    }

    #[test]
    fn bursts_end_after_much_payload_or_many_frames() {
        assert_eq!(frames_of_a_burst(0), BURST_FRAMES);
        assert_eq!(frames_of_a_burst(4096), 8);
        assert_eq!(frames_of_a_burst(BURST_BYTES), 1);
    }
}
