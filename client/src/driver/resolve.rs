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
use std::time::Duration;

use monoio::net::TcpStream;
use tokio::sync::oneshot;

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
        if let Ok(Ok(stream)) = monoio::time::timeout(ATTEMPT_TIMEOUT, TcpStream::connect_addr(*other)).await
        {
            return Ok(stream);
        }
    }
    TcpStream::connect_addr(*last).await
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
