//! A stream to an NBD server: TCP or a Unix socket.

use std::io;

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

/// Connects.
pub(super) async fn connect(place: &NbdPlace) -> io::Result<Stream> {
    match place {
        NbdPlace::Unix(path) => Ok(Stream::Unix(UnixStream::connect(path).await?)),
        NbdPlace::Tcp { host, port } => {
            let stream = TcpStream::connect((host.as_str(), *port)).await?;
            // Nagle's algorithm holds back small requests until the ones before were answered.
            stream.set_nodelay(true)?;
            Ok(Stream::Tcp(stream))
        }
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
