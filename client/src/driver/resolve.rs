//! From a brick's `host:port` to a connected stream, without holding up the thread that serves the image.
//!
//! The resolver of the C library blocks, for ten seconds and more when name servers are away, and that may well be
//! while bricks are: so it runs on a thread of its own, at most one per name. What a name meant last is used at
//! once, and looked up again beside that; so a brick that is known is reached without any name server, and one that
//! moved at the next attempt. All addresses of a name are tried, in the resolver's order.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use monoio::net::TcpStream;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, socket};
use tokio::sync::oneshot;

use super::patience::within;

/// How long one of several addresses may take.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(1);

type Found = io::Result<Vec<SocketAddr>>;

#[derive(Default)]
struct Name {
    /// What it meant last.
    known: Vec<SocketAddr>,
    looking: bool,
}

thread_local! {
    /// The names of the volume file: a few.
    static NAMES: RefCell<BTreeMap<String, Name>> = RefCell::default();
}

/// Connects to the first address of `address` (`host:port`) that answers.
pub(super) async fn connect(address: &str) -> io::Result<TcpStream> {
    let addresses = match address.parse::<SocketAddr>() {
        Ok(numeric) => vec![numeric],
        Err(_) => resolve(address).await?,
    };
    let Some((last, others)) = addresses.split_last() else {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    };
    for other in others {
        if let Some(Ok(stream)) = within(ATTEMPT_TIMEOUT, connect_to(*other)).await {
            return Ok(stream);
        }
    }
    connect_to(*last).await
}

/// Connects a socket that is set up before, which the runtime's own way to connect has no place for.
async fn connect_to(address: SocketAddr) -> io::Result<TcpStream> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(family, SockType::Stream, flags, None)?;
    brick_transport::prepare(&socket);
    match nix::sys::socket::connect(socket.as_raw_fd(), &SockaddrStorage::from(address)) {
        Ok(()) | Err(Errno::EINPROGRESS) => {}
        Err(errno) => return Err(errno.into()),
    }
    let socket = std::net::TcpStream::from(socket);
    let same_socket = socket.try_clone()?;
    let stream = TcpStream::from_std(socket)?;
    stream.writable(false).await?;
    if let Some(error) = same_socket.take_error()? {
        return Err(error);
    }
    same_socket.set_nonblocking(wants_nonblocking()?)?;
    Ok(stream)
}

/// Whether the runtime's sockets don't block: it polls them, where io_uring is forbidden. The ring takes those that do. It
/// doesn't say which it is, but its own sockets show it.
fn wants_nonblocking() -> io::Result<bool> {
    let (one, _other) = monoio::net::UnixStream::pair()?;
    // SAFETY: the socket is open until the end of this function.
    let one = unsafe { BorrowedFd::borrow_raw(one.as_raw_fd()) };
    let flags = OFlag::from_bits_retain(fcntl(one, FcntlArg::F_GETFL)?);
    Ok(flags.contains(OFlag::O_NONBLOCK))
}

async fn resolve(address: &str) -> Found {
    let (known, looking) = NAMES.with_borrow_mut(|names| {
        let name = names.entry(address.to_owned()).or_default();
        (name.known.clone(), std::mem::replace(&mut name.looking, true))
    });
    if known.is_empty() && looking {
        return Err(io::Error::new(io::ErrorKind::TimedOut, "the name is still being looked up"));
    }
    if known.is_empty() {
        return look_up(address.to_owned()).await;
    }
    if !looking {
        monoio::spawn(look_up(address.to_owned()));
    }
    Ok(known)
}

/// Asks the resolver, and remembers what it says.
async fn look_up(address: String) -> Found {
    let waiting = Looking(address.clone());
    let (sender, receiver) = oneshot::channel();
    let ask = move || {
        let found: Found = address.to_socket_addrs().map(Iterator::collect);
        let _nobody_waits_any_more = sender.send(found);
    };
    std::thread::Builder::new().name("resolver".to_owned()).spawn(ask)?;
    let found = receiver.await.unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))?;
    NAMES.with_borrow_mut(|names| names.entry(waiting.0.clone()).or_default().known.clone_from(&found));
    Ok(found)
}

/// The name is being looked up until this is dropped, be it because whoever waited gave up.
struct Looking(String);

impl Drop for Looking {
    fn drop(&mut self) {
        NAMES.with_borrow_mut(|names| {
            if let Some(name) = names.get_mut(&self.0) {
                name.looking = false;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use monoio::io::{AsyncReadRentExt, AsyncWriteRentExt};
    use monoio::{LegacyDriver, RuntimeBuilder};

    use super::super::runtime::start_runtime;
    use super::*;

    /// On the ring, if it is allowed, and without.
    fn on_each_runtime<F: Future<Output = ()>>(run: impl Fn() -> F) {
        let mut fusion = start_runtime(256).expect("a runtime");
        fusion.block_on(run());
        let mut legacy = RuntimeBuilder::<LegacyDriver>::new().enable_timer().build().expect("a runtime");
        legacy.block_on(run());
    }

    #[test]
    fn reads_wait_for_what_comes_later() {
        on_each_runtime(async || {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap().to_string();
            let peer = std::thread::spawn(move || {
                let (mut socket, _) = listener.accept().unwrap();
                let mut question = [0; 2];
                socket.read_exact(&mut question).unwrap();
                std::thread::sleep(Duration::from_millis(30));
                socket.write_all(&question).unwrap();
            });
            let mut stream = connect(&address).await.unwrap();
            assert!(stream.nodelay().unwrap());
            stream.write_all(b"hi").await.0.unwrap();
            let (result, answer) = stream.read_exact(vec![0; 2]).await;
            result.unwrap();
            assert_eq!(answer, b"hi");
            peer.join().unwrap();
        });
    }

    #[test]
    fn who_does_not_listen_refuses() {
        on_each_runtime(async || {
            // Bound, so that nobody else gets the port, and not listening.
            let flags = SockFlag::SOCK_CLOEXEC;
            let bound = socket(AddressFamily::Inet, SockType::Stream, flags, None).unwrap();
            let any = SockaddrStorage::from(SocketAddr::from(([127, 0, 0, 1], 0)));
            nix::sys::socket::bind(bound.as_raw_fd(), &any).unwrap();
            let address: SockaddrStorage = nix::sys::socket::getsockname(bound.as_raw_fd()).unwrap();
            let error = connect(&address.to_string()).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        });
    }
}
