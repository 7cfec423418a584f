//! A stream to an NBD server: TCP or a Unix socket.

use std::io;
use std::net::{self, Shutdown};
use std::os::unix::net as unix;

use monoio::BufResult;
use monoio::buf::{IoBuf, IoBufMut, IoVecBuf, IoVecBufMut};
use monoio::io::{AsyncReadRent, AsyncWriteRent, Split};
use monoio::net::{TcpStream, UnixStream};

use crate::job::NbdPlace;

/// One of both.
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Ends a connection while others read and write it.
#[derive(Debug)]
pub(super) enum Closer {
    Tcp(net::TcpStream),
    Unix(unix::UnixStream),
}

/// Connects; within a runtime that has a ring or not.
pub(super) fn connect(place: &NbdPlace, has_ring: bool) -> io::Result<(Stream, Closer)> {
    match place {
        NbdPlace::Unix(path) => of_unix(unix::UnixStream::connect(path)?, has_ring),
        NbdPlace::Tcp { host, port } => {
            let stream = net::TcpStream::connect((host.as_str(), *port))?;
            // Nagle's algorithm holds back small requests until the ones before were answered.
            stream.set_nodelay(true)?;
            // A ring waits for blocking sockets only, epoll is for those that don't block.
            stream.set_nonblocking(!has_ring)?;
            let closer = Closer::Tcp(stream.try_clone()?);
            Ok((Stream::Tcp(TcpStream::from_std(stream)?), closer))
        }
    }
}

pub(super) fn of_unix(stream: unix::UnixStream, has_ring: bool) -> io::Result<(Stream, Closer)> {
    stream.set_nonblocking(!has_ring)?;
    let closer = Closer::Unix(stream.try_clone()?);
    Ok((Stream::Unix(UnixStream::from_std(stream)?), closer))
}

impl Closer {
    /// Whoever reads or writes comes to an end; what was written still arrives.
    pub fn close(&self) {
        // It may be closed from the other side already, which is as good.
        let _closed = match self {
            Closer::Tcp(stream) => stream.shutdown(Shutdown::Both),
            Closer::Unix(stream) => stream.shutdown(Shutdown::Both),
        };
    }
}

impl AsyncReadRent for Stream {
    async fn read<T: IoBufMut>(&mut self, buffer: T) -> BufResult<usize, T> {
        match self {
            Stream::Tcp(stream) => stream.read(buffer).await,
            Stream::Unix(stream) => stream.read(buffer).await,
        }
    }

    async fn readv<T: IoVecBufMut>(&mut self, buffer: T) -> BufResult<usize, T> {
        match self {
            Stream::Tcp(stream) => stream.readv(buffer).await,
            Stream::Unix(stream) => stream.readv(buffer).await,
        }
    }
}

impl AsyncWriteRent for Stream {
    async fn write<T: IoBuf>(&mut self, buffer: T) -> BufResult<usize, T> {
        match self {
            Stream::Tcp(stream) => stream.write(buffer).await,
            Stream::Unix(stream) => stream.write(buffer).await,
        }
    }

    async fn writev<T: IoVecBuf>(&mut self, buffer: T) -> BufResult<usize, T> {
        match self {
            Stream::Tcp(stream) => stream.writev(buffer).await,
            Stream::Unix(stream) => stream.writev(buffer).await,
        }
    }

    async fn flush(&mut self) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => stream.flush().await,
            Stream::Unix(stream) => stream.flush().await,
        }
    }

    async fn shutdown(&mut self) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => stream.shutdown().await,
            Stream::Unix(stream) => stream.shutdown().await,
        }
    }
}

// SAFETY: reading and writing use nothing in common but the descriptor; monoio says the same of both kinds.
unsafe impl Split for Stream {}
