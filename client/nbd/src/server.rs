//! Listening, accepting, and going down in order.
//!
//! A server exports one device under one name to any number of clients up to
//! [`CONNECTION_COUNT_MAX`]. Errors of one connection are logged in one line and end that connection
//! only. Shutting down: stop accepting, let requests in flight finish within [`SHUTDOWN_GRACE`], close
//! connections, remove the socket file.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use monoio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use crate::condition::Condition;
use crate::connection::{self, ConnectionError, Shared, Stop};
use crate::device::BlockDevice;
use crate::protocol::constants::STRING_LENGTH_MAX;
use crate::socket_file::{self, SocketFile};

/// Clients at a time; more are hung up on at once. qemu opens up to 16 connections for one disk.
pub const CONNECTION_COUNT_MAX: usize = 128;
/// How long requests in flight may take to finish once the server was told to stop.
pub const SHUTDOWN_GRACE: Duration = Duration::from_secs(10);
/// Pause after a failed accept (out of descriptors, most likely), so that it isn't retried at full speed.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);
/// Dead TCP clients are noticed after idle + interval * count seconds.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_COUNT: u32 = 6;

/// How the export presents itself.
#[derive(Clone, Debug, Default)]
pub struct ExportInfo {
    /// Its name; clients that give no name get it too.
    pub name: String,
    /// A text for people, may be empty.
    pub description: String,
}

/// Why a server can't listen.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody answers on this socket.
    #[error("{}: another server is listening there; stop it or choose another path", path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// There is something, and it isn't a socket.
    #[error("{}: exists and is not a socket; choose another path", path.display())]
    NotASocket {
        /// The thing.
        path: PathBuf,
    },
    /// The system refused.
    #[error("cannot listen on {address}: {source}")]
    Socket {
        /// Path or host and port.
        address: String,
        /// What it said.
        source: io::Error,
    },
}

/// A bound, not yet serving server.
#[derive(Debug)]
pub struct Server {
    listener: BoundListener,
}

#[derive(Debug)]
enum BoundListener {
    Unix(std::os::unix::net::UnixListener, SocketFile),
    Tcp(std::net::TcpListener),
}

impl Server {
    /// Listens on a unix socket. The file of a dead server is replaced.
    pub fn bind_unix(path: impl AsRef<Path>) -> Result<Self, BindError> {
        let (listener, file) = socket_file::bind(path.as_ref())?;
        Ok(Self { listener: BoundListener::Unix(listener, file) })
    }

    /// Listens on a TCP address. There is no authentication: bind to networks you trust.
    pub fn bind_tcp(address: impl ToSocketAddrs + std::fmt::Debug) -> Result<Self, BindError> {
        let listener = std::net::TcpListener::bind(&address)
            .map_err(|source| BindError::Socket { address: format!("{address:?}"), source })?;
        Ok(Self { listener: BoundListener::Tcp(listener) })
    }

    /// The bound TCP address, of use when port 0 was asked for.
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        match &self.listener {
            BoundListener::Tcp(listener) => listener.local_addr().ok(),
            BoundListener::Unix(..) => None,
        }
    }

    /// Serves `device` until `shutdown` completes and clients were let go.
    ///
    /// Must run on a monoio runtime with timers enabled. Fails only if the listening socket can't be
    /// handed to the runtime, or the export's name is none.
    pub async fn serve<D: BlockDevice>(
        self,
        device: Rc<D>,
        export: ExportInfo,
        shutdown: impl Future<Output = ()>,
    ) -> io::Result<()> {
        check_text(&export.name)?;
        check_text(&export.description)?;
        let (listener, socket_file) = self.listener.into_runtime()?;
        let shared = Rc::new(Shared { device, export, stop: Stop::default() });
        let connections = Rc::new(Connections::default());
        monoio::select! {
            () = accept_all(&listener, &shared, &connections) => unreachable!("accepting never ends by itself"),
            () = shutdown => {}
        }
        drop((listener, socket_file));
        shared.stop.drain();
        if monoio::time::timeout(SHUTDOWN_GRACE, connections.none_left()).await.is_err() {
            tracing::warn!(
                "{} NBD connections had requests unfinished after {} s; closing them",
                connections.count.get(),
                SHUTDOWN_GRACE.as_secs()
            );
            shared.stop.abandon();
            connections.none_left().await;
        }
        Ok(())
    }
}

/// Names and descriptions go out as protocol strings.
fn check_text(text: &str) -> io::Result<()> {
    if text.len() > STRING_LENGTH_MAX || text.contains('\0') {
        let message = "an export's name and description must be at most 4096 bytes, without NUL";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    Ok(())
}

/// Accepts until dropped.
async fn accept_all<D: BlockDevice>(
    listener: &Listener,
    shared: &Rc<Shared<D>>,
    connections: &Rc<Connections>,
) {
    loop {
        let (socket, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!("cannot accept an NBD connection: {error}");
                monoio::time::sleep(ACCEPT_RETRY_DELAY).await;
                continue;
            }
        };
        if connections.count.get() == CONNECTION_COUNT_MAX {
            tracing::warn!("NBD client {peer} refused: {CONNECTION_COUNT_MAX} are connected");
            continue;
        }
        let present = connections.enter();
        let shared = Rc::clone(shared);
        monoio::spawn(async move {
            let outcome = match socket {
                Socket::Unix(stream) => connection::run(stream, shared).await,
                Socket::Tcp(stream) => connection::run(stream, shared).await,
            };
            log_end(&peer, outcome);
            drop(present);
        });
    }
}

fn log_end(peer: &str, outcome: Result<(), ConnectionError>) {
    match outcome {
        Ok(()) => tracing::debug!("NBD client {peer} left"),
        Err(ConnectionError::Socket(error)) => tracing::info!("NBD client {peer} lost: {error}"),
        Err(error) => tracing::warn!("NBD client {peer} dropped: {error}"),
    }
}

enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

enum Socket {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl BoundListener {
    fn into_runtime(self) -> io::Result<(Listener, Option<SocketFile>)> {
        // Under epoll a blocking listener would stall the whole thread after a client that
        // disappeared before it was accepted; under io_uring a non-blocking one would not wait.
        let nonblocking = monoio::utils::is_legacy();
        Ok(match self {
            Self::Unix(listener, file) => {
                listener.set_nonblocking(nonblocking)?;
                (Listener::Unix(UnixListener::from_std(listener)?), Some(file))
            }
            Self::Tcp(listener) => {
                listener.set_nonblocking(nonblocking)?;
                (Listener::Tcp(TcpListener::from_std(listener)?), None)
            }
        })
    }
}

impl Listener {
    /// The next client, and how to call it in the log.
    async fn accept(&self) -> io::Result<(Socket, String)> {
        match self {
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                let peer = match stream.peer_cred() {
                    Ok(credentials) => format!("uid {}", credentials.uid()),
                    Err(_) => "on the unix socket".to_owned(),
                };
                Ok((Socket::Unix(stream), peer))
            }
            Self::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                // Without it, Nagle and delayed acknowledgements cost 40 ms at depth 1.
                stream.set_nodelay(true)?;
                stream.set_tcp_keepalive(
                    Some(KEEPALIVE_IDLE),
                    Some(KEEPALIVE_INTERVAL),
                    Some(KEEPALIVE_COUNT),
                )?;
                Ok((Socket::Tcp(stream), address.to_string()))
            }
        }
    }
}

/// How many connections there are.
#[derive(Debug, Default)]
struct Connections {
    count: Cell<usize>,
    left: Condition,
}

/// One connection in [`Connections`].
struct Present(Rc<Connections>);

impl Connections {
    fn enter(self: &Rc<Self>) -> Present {
        self.count.set(self.count.get() + 1);
        Present(Rc::clone(self))
    }

    async fn none_left(&self) {
        self.left.until(|| (self.count.get() == 0).then_some(())).await;
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        self.0.count.set(self.0.count.get() - 1);
        self.0.left.notify();
    }
}
