//! From a fresh connection to a chosen export: fixed newstyle with `GO`, nothing else negotiated, so that
//! every reply is a simple one.

use std::io;
use std::time::Duration;

use brick_nbd::protocol::constants::{
    OPTION_MAGIC, OPTION_REPLY_MAGIC, PAYLOAD_BYTES_MAX, SERVER_MAGIC, handshake_flag, info_type,
    option_code, option_reply, transmission_flag,
};
use monoio::io::{AsyncReadRentExt, AsyncWriteRentExt};

use super::connection::Stream;

/// What a server said of an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Export {
    pub size_bytes: u64,
    pub read_only: bool,
    pub flushes: bool,
    /// Requests are multiples of it.
    pub block_bytes_min: u32,
    /// The most that one request carries.
    pub payload_bytes_max: u32,
}

/// Why an export can't be chosen.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The connection broke.
    #[error("the handshake failed: {0}")]
    Io(#[from] io::Error),
    /// The server is silent.
    #[error("it doesn't answer the handshake within {} s", TIMEOUT.as_secs())]
    Silent,
    /// No NBD server.
    #[error("it isn't an NBD server, or one that is too old for fixed newstyle negotiation")]
    NotNbd,
    /// It broke the rules.
    #[error("it sends replies that the protocol doesn't allow")]
    Confused,
    /// It doesn't want to.
    #[error("it refuses export {export:?}: {message} (reply {code:#x})")]
    Refused {
        /// Which export.
        export: String,
        /// What it says.
        message: String,
        /// The protocol's reply type.
        code: u32,
    },
}

/// Chooses an export, within [`TIMEOUT`].
pub(super) async fn negotiate(stream: &mut Stream, export: &str) -> Result<Export, HandshakeError> {
    monoio::time::timeout(TIMEOUT, choose(stream, export)).await.map_err(|_| HandshakeError::Silent)?
}

async fn choose(stream: &mut Stream, name: &str) -> Result<Export, HandshakeError> {
    let greeting = read(stream, 18).await?;
    let flags = u16_at(&greeting, 16);
    if u64_at(&greeting, 0) != SERVER_MAGIC
        || u64_at(&greeting, 8) != OPTION_MAGIC
        || flags & handshake_flag::FIXED_NEWSTYLE == 0
    {
        return Err(HandshakeError::NotNbd);
    }
    let answer = handshake_flag::FIXED_NEWSTYLE | (flags & handshake_flag::NO_ZEROES);
    let mut go = u32::from(answer).to_be_bytes().to_vec();
    go.extend(OPTION_MAGIC.to_be_bytes());
    go.extend(option_code::GO.to_be_bytes());
    go.extend((name.len() as u32 + 8).to_be_bytes());
    go.extend((name.len() as u32).to_be_bytes());
    go.extend(name.as_bytes());
    // One wish: to be told the block sizes.
    go.extend(1u16.to_be_bytes());
    go.extend(info_type::BLOCK_SIZE.to_be_bytes());
    stream.write_all(go).await.0?;

    let mut export: Option<Export> = None;
    let (mut block_bytes_min, mut payload_bytes_max) = (1, PAYLOAD_BYTES_MAX);
    for _ in 0..REPLIES_MAX {
        let header = read(stream, 20).await?;
        let (code, length) = (u32_at(&header, 12), u32_at(&header, 16) as usize);
        if u64_at(&header, 0) != OPTION_REPLY_MAGIC || length > REPLY_BYTES_MAX {
            return Err(HandshakeError::Confused);
        }
        let data = read(stream, length).await?;
        match code {
            option_reply::ACK => {
                let export = export.ok_or(HandshakeError::Confused)?;
                return Ok(Export { block_bytes_min, payload_bytes_max, ..export });
            }
            option_reply::INFO if length >= 12 && u16_at(&data, 0) == info_type::EXPORT => {
                let flags = u16_at(&data, 10);
                export = Some(Export {
                    size_bytes: u64_at(&data, 2),
                    read_only: flags & transmission_flag::READ_ONLY != 0,
                    flushes: flags & transmission_flag::SEND_FLUSH != 0,
                    block_bytes_min,
                    payload_bytes_max,
                });
            }
            option_reply::INFO if length >= 14 && u16_at(&data, 0) == info_type::BLOCK_SIZE => {
                block_bytes_min = u32_at(&data, 2).max(1);
                payload_bytes_max = u32_at(&data, 10).min(PAYLOAD_BYTES_MAX);
            }
            option_reply::INFO => {}
            _ => {
                let message = String::from_utf8_lossy(&data);
                let message = if message.is_empty() { "it doesn't say why" } else { message.trim() };
                let message = message.replace(char::is_control, " ");
                return Err(HandshakeError::Refused { export: name.to_owned(), message, code });
            }
        }
    }
    Err(HandshakeError::Confused)
}

async fn read(stream: &mut Stream, length: usize) -> io::Result<Box<[u8]>> {
    if length == 0 {
        return Ok(Box::default());
    }
    let (result, bytes) = stream.read_exact(vec![0; length].into_boxed_slice()).await;
    result.map(|_| bytes)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) << 16 | u32::from(u16_at(bytes, at + 2))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) << 32 | u64::from(u32_at(bytes, at + 4))
}

/// A server on the other side of the world answers within it.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Facts about one export; the protocol knows four.
const REPLIES_MAX: usize = 64;
/// Longest reply to an option: a message, or a string of the protocol.
const REPLY_BYTES_MAX: usize = 16 << 10;

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use monoio::FusionRuntime;

    use super::super::connection::of_unix;
    use super::super::start_runtime;
    use super::*;

    /// What comes of a server that says this, whatever it is asked; and what it was asked.
    fn negotiate_with(answers: &[u8]) -> (Result<Export, HandshakeError>, Vec<u8>) {
        let (ours, mut theirs) = UnixStream::pair().expect("a pair of sockets");
        theirs.write_all(answers).expect("room for it");
        theirs.shutdown(std::net::Shutdown::Write).expect("shut");
        let mut runtime = start_runtime().expect("a runtime");
        let has_ring = matches!(runtime, FusionRuntime::Uring(_));
        let result = runtime.block_on(async {
            let (mut stream, _closer) = of_unix(ours, has_ring).expect("a stream");
            negotiate(&mut stream, "vm1").await
        });
        drop(runtime);
        let mut asked = Vec::new();
        // A socket that is closed with unread answers in it says so behind what was sent.
        let _reset = theirs.read_to_end(&mut asked);
        (result, asked)
    }

    fn greeting(flags: u16) -> Vec<u8> {
        [&b"NBDMAGICIHAVEOPT"[..], &flags.to_be_bytes()].concat()
    }

    fn reply(code: u32, data: &[u8]) -> Vec<u8> {
        let numbers = [option_code::GO, code, data.len() as u32].map(u32::to_be_bytes);
        [&OPTION_REPLY_MAGIC.to_be_bytes()[..], &numbers.concat(), data].concat()
    }

    /// Information about an export of 1 MiB that is read-only and knows flush.
    fn export() -> Vec<u8> {
        reply(option_reply::INFO, &[0, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 0b0111])
    }

    #[test]
    fn an_export_is_described() {
        let sizes = reply(option_reply::INFO, &[0, 3, 0, 0, 2, 0, 0, 0, 16, 0, 0, 1, 0, 0]);
        let name = reply(option_reply::INFO, b"\0\x01vm1");
        let ack = reply(option_reply::ACK, &[]);
        let (result, asked) = negotiate_with(&[greeting(3), export(), sizes, name, ack.clone()].concat());
        let expected = Export {
            size_bytes: 1 << 20,
            read_only: true,
            flushes: true,
            block_bytes_min: 512,
            payload_bytes_max: 65_536,
        };
        assert_eq!(result.expect("an export"), expected);
        let expected = b"\0\0\0\x03IHAVEOPT\0\0\0\x07\0\0\0\x0b\0\0\0\x03vm1\0\x01\0\x03";
        assert_eq!(asked, expected, "client flags, then GO with a name and one wish");

        let (result, asked) = negotiate_with(&[greeting(1), export(), ack].concat());
        let export = result.expect("an export");
        assert_eq!((export.block_bytes_min, export.payload_bytes_max), (1, PAYLOAD_BYTES_MAX));
        assert_eq!(asked[..4], [0, 0, 0, 1], "no flag that the server doesn't know");
    }

    #[test]
    fn what_is_wrong_is_said() {
        let refusal = reply(option_reply::ERR_UNKNOWN, b"no such\nexport");
        let long =
            [&OPTION_REPLY_MAGIC.to_be_bytes()[..], &[0, 0, 0, 7, 0, 0, 0, 3, 255, 255, 255, 255]].concat();
        for (answers, expected) in [
            (b"HTTP/1.1 400 Bad Request\r\n".to_vec(), "it isn't an NBD server"),
            (greeting(0), "too old for fixed newstyle"),
            (greeting(1)[..10].to_vec(), "the handshake failed: "),
            ([greeting(1), refusal].concat(), "it refuses export \"vm1\": no such export (reply 0x80000006)"),
            ([greeting(1), reply(option_reply::ERR_UNSUP, &[])].concat(), "it doesn't say why"),
            (
                [greeting(1), reply(option_reply::ACK, &[])].concat(),
                "replies that the protocol doesn't allow",
            ),
            ([greeting(1), long].concat(), "replies that the protocol doesn't allow"),
            ([greeting(1), export().repeat(REPLIES_MAX)].concat(), "replies that the protocol doesn't allow"),
        ] {
            let error = negotiate_with(&answers).0.expect_err("no export").to_string();
            assert!(error.contains(expected), "{expected:?} is not in {error:?}");
        }
    }
}
