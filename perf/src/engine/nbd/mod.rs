//! `ioengine=nbd`: an export of an NBD server, through a small client of the published protocol
//! (`doc/proto.md` of the NetworkBlockDevice project): fixed newstyle, simple replies.
//!
//! One connection with all requests of the job in flight. Three tasks share it: one starts requests, which
//! appends them to a buffer; one writes that buffer, whatever it holds by then, in one call; one reads
//! replies. So a server that waits for its replies to be read never waits for us.

mod connection;
mod handshake;
mod replies;
mod session;

use std::fmt;
use std::io;

use brick_client::Runtime;
use monoio::FusionRuntime;
use monoio::io::{OwnedReadHalf, OwnedWriteHalf, Splitable};

use self::connection::{Closer, Stream};
use self::handshake::Export;
use self::session::Session;
use super::volume::start_runtime;
use super::{Engine, EngineError};
use crate::job::{Job, NbdUri};
use crate::meter::Meter;
use crate::pattern::Kind;

/// A connection to an NBD server.
pub struct NbdEngine {
    runtime: Runtime,
    /// `None` once a job ran over it.
    connection: Option<Connection>,
    export: Export,
    place: String,
    block_bytes_max: usize,
    seed: u64,
}

struct Connection {
    reader: OwnedReadHalf<Stream>,
    writer: OwnedWriteHalf<Stream>,
    closer: Closer,
}

/// Why an export can't be used, or failed.
#[derive(Debug, thiserror::Error)]
pub enum NbdError {
    /// The runtime.
    #[error("can't start the I/O runtime: {0}; is the locked-memory limit too low?")]
    Runtime(io::Error),
    /// The server isn't there.
    #[error("NBD server {place}: can't connect: {source}; does it run?")]
    Connect {
        /// Where.
        place: String,
        /// Why.
        source: io::Error,
    },
    /// The server is there, but the export can't be used.
    #[error("NBD server {place}: {reason}")]
    Handshake {
        /// Where.
        place: String,
        /// Why.
        reason: handshake::HandshakeError,
    },
    /// The job doesn't fit the export.
    #[error("NBD server {place}: the export is read-only, but the job writes; choose rw=read or randread")]
    ReadOnly {
        /// Where.
        place: String,
    },
    /// Requests that are too large for the server.
    #[error("NBD server {place}: it takes at most {max_bytes} bytes at once; lower bs")]
    TooLarge {
        /// Where.
        place: String,
        /// The most.
        max_bytes: u32,
    },
    /// Blocks that the server doesn't take.
    #[error("NBD server {place}: it takes multiples of {min_bytes} bytes only; raise bs and offset to such")]
    Alignment {
        /// Where.
        place: String,
        /// What of.
        min_bytes: u32,
    },
    /// A server that can't sync.
    #[error("NBD server {place}: it knows no flush, so the job can't have fsync, fdatasync or end_fsync")]
    NoFlush {
        /// Where.
        place: String,
    },
    /// A request.
    #[error(
        "NBD server {place}: {kind:?} of {length_bytes} bytes at {offset_bytes} failed with error {code}"
    )]
    Request {
        /// Where.
        place: String,
        /// What was tried.
        kind: Kind,
        /// At what offset.
        offset_bytes: u64,
        /// How much.
        length_bytes: u64,
        /// The protocol's error value, which resembles an errno.
        code: u32,
    },
    /// The connection.
    #[error("NBD server {place}: the connection broke with requests in flight: {source}")]
    Broken {
        /// Where.
        place: String,
        /// Why.
        source: io::Error,
    },
    /// The clock for requests that are due.
    #[error("can't wait for the next request: {0}")]
    Timer(io::Error),
}

impl NbdEngine {
    /// Connects, and chooses the export.
    pub fn open(job: &Job, uri: &NbdUri) -> Result<NbdEngine, NbdError> {
        let place = uri.place.to_string();
        let mut runtime = start_runtime().map_err(NbdError::Runtime)?;
        let has_ring = matches!(runtime, FusionRuntime::Uring(_));
        let (stream, closer, export) = runtime.block_on(async {
            let (mut stream, closer) = connection::connect(&uri.place, has_ring)
                .map_err(|source| NbdError::Connect { place: place.clone(), source })?;
            let export = handshake::negotiate(&mut stream, &uri.export)
                .await
                .map_err(|reason| NbdError::Handshake { place: place.clone(), reason })?;
            Ok((stream, closer, export))
        })?;
        check(job, &export, &place)?;
        let block_bytes_max = job.block_bytes_max as usize;
        let (reader, writer) = stream.into_split();
        let connection = Some(Connection { reader, writer, closer });
        Ok(NbdEngine { runtime, connection, export, place, block_bytes_max, seed: job.seed })
    }
}

/// Whether the server can do what the job does.
fn check(job: &Job, export: &Export, place: &str) -> Result<(), NbdError> {
    let place = || place.to_owned();
    let min_bytes = export.block_bytes_min;
    let aligned = |bytes: u64| bytes.is_multiple_of(u64::from(min_bytes));
    if job.writes() && export.read_only {
        return Err(NbdError::ReadOnly { place: place() });
    }
    if job.block_bytes_max > u64::from(export.payload_bytes_max) {
        return Err(NbdError::TooLarge { place: place(), max_bytes: export.payload_bytes_max });
    }
    if !aligned(job.block_bytes) || !aligned(job.offset_bytes) {
        return Err(NbdError::Alignment { place: place(), min_bytes });
    }
    if job.writes() && job.syncs() && !export.flushes {
        return Err(NbdError::NoFlush { place: place() });
    }
    Ok(())
}

impl Engine for NbdEngine {
    fn target_bytes(&self) -> u64 {
        self.export.size_bytes
    }

    fn run(&mut self, meter: Meter) -> Result<Meter, EngineError> {
        let has_ring = matches!(self.runtime, FusionRuntime::Uring(_));
        let Connection { reader, writer, closer } = self.connection.take().expect("an engine runs one job");
        let session = Session::new(meter, closer, self.place.clone(), self.block_bytes_max, self.seed);
        Ok(self.runtime.block_on(session.run(reader, writer, has_ring))?)
    }

    fn close(self: Box<Self>) -> Result<(), EngineError> {
        Ok(())
    }
}

impl fmt::Debug for NbdEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NbdEngine({})", self.place)
    }
}
