//! An image served over NBD, and a client that knows the answer to each of its requests: one at a time, or
//! submitted and awaited apart, so that many are in flight.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use super::command::brickctl;
use super::process::Process;

/// Longest time until the image is served: the lease of a dead predecessor may have to run out.
const START_LIMIT: Duration = Duration::from_secs(60);
/// Longest time for an orderly end.
const STOP_LIMIT: Duration = Duration::from_secs(60);
/// Longest time for one request.
const REQUEST_LIMIT: Duration = Duration::from_secs(60);

/// A `brickctl nbd` process.
#[derive(Debug)]
pub struct NbdServer {
    process: Process,
    socket: PathBuf,
    image: String,
}

impl NbdServer {
    /// Starts one and waits until it serves. The error is why it doesn't.
    pub fn start(
        volume: &Path,
        image: &str,
        socket: PathBuf,
        logs: &Path,
        more: &[&str],
    ) -> Result<NbdServer, String> {
        let mut command = brickctl();
        command.arg("-v").arg(volume).args(["nbd", image, "--socket"]).arg(&socket).args(more);
        let mut process = Process::spawn(command, &format!("nbd-{image}"), logs);
        process.wait_for_line("serving image", START_LIMIT)?;
        Ok(NbdServer { process, socket, image: image.to_owned() })
    }

    /// What qemu and libnbd call it.
    pub fn uri(&self) -> String {
        format!("nbd+unix:///{}?socket={}", self.image, self.socket.display())
    }

    /// Its socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// A connection.
    pub fn connect(&self) -> NbdClient {
        NbdClient::connect(&self.socket).expect("the server takes clients")
    }

    /// As a crash.
    pub fn kill(mut self) {
        self.process.kill();
    }

    /// SIGTERM: finishes what is in flight and gives the image back; must end well.
    #[track_caller]
    pub fn close(mut self) {
        let status: ExitStatus = self.process.terminate(STOP_LIMIT);
        assert!(status.success(), "nbd {}: {status}: {}", self.image, self.process.stderr());
    }
}

/// A blocking NBD client.
#[derive(Debug)]
pub struct NbdClient {
    stream: UnixStream,
    size_bytes: u64,
    cookie: Cookie,
    /// Bytes that come with the answers of the requests in flight.
    expected: HashMap<Cookie, usize>,
}

/// Names a request of a connection.
pub type Cookie = u64;

/// How a request ended: what was read, or the errno that the server answered.
pub type Answer = Result<Vec<u8>, i32>;

const READ: u16 = 0;
const WRITE: u16 = 1;
const FLUSH: u16 = 3;
/// `NBD_ENOSPC`, as in errno.
pub const NO_SPACE: i32 = 28;
/// `NBD_EIO`, as in errno.
pub const IO_ERROR: i32 = 5;

impl NbdClient {
    /// Connects, and enters transmission without structured replies.
    pub fn connect(socket: &Path) -> io::Result<NbdClient> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(REQUEST_LIMIT))?;
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting)?;
        // Fixed newstyle and no zeroes; option EXPORT_NAME with the empty name, the default export.
        stream.write_all(&3u32.to_be_bytes())?;
        stream.write_all(b"IHAVEOPT\0\0\0\x01\0\0\0\0")?;
        let mut export = [0; 10];
        stream.read_exact(&mut export)?;
        let size_bytes = u64::from_be_bytes(export[..8].try_into().expect("8 bytes"));
        Ok(NbdClient { stream, size_bytes, cookie: 0, expected: HashMap::new() })
    }

    /// Size of the export.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Something that ends the connection while another thread waits for an answer on it.
    pub fn breaker(&self) -> io::Result<Breaker> {
        Ok(Breaker(self.stream.try_clone()?))
    }

    /// Writes `data`. An answer with an error has its errno; a lost connection has none.
    pub fn write(&mut self, offset_bytes: u64, data: &[u8]) -> io::Result<()> {
        self.submit_write(offset_bytes, data)?;
        self.only_answer().map(drop)
    }

    /// Reads.
    pub fn read(&mut self, offset_bytes: u64, length: usize) -> io::Result<Vec<u8>> {
        self.submit_read(offset_bytes, length)?;
        self.only_answer()
    }

    /// Makes what was written durable.
    pub fn flush(&mut self) -> io::Result<()> {
        self.submit_flush()?;
        self.only_answer().map(drop)
    }

    /// Sends a write and waits for nothing.
    pub fn submit_write(&mut self, offset_bytes: u64, data: &[u8]) -> io::Result<Cookie> {
        self.send(WRITE, offset_bytes, data.len(), data)
    }

    /// Sends a read and waits for nothing. All reads in flight together should fit into the buffer of a
    /// socket, or both sides may wait for each other to read.
    pub fn submit_read(&mut self, offset_bytes: u64, length: usize) -> io::Result<Cookie> {
        self.send(READ, offset_bytes, length, &[])
    }

    /// Sends a flush and waits for nothing.
    pub fn submit_flush(&mut self) -> io::Result<Cookie> {
        self.send(FLUSH, 0, 0, &[])
    }

    /// Waits for the answer to any request in flight. The error is that the connection is lost.
    pub fn next_answer(&mut self) -> io::Result<(Cookie, Answer)> {
        let mut reply = [0; 16];
        self.stream.read_exact(&mut reply)?;
        assert_eq!(reply[..4], [0x67, 0x44, 0x66, 0x98], "a simple reply");
        let cookie = Cookie::from_be_bytes(reply[8..].try_into().expect("8 bytes"));
        let length = self.expected.remove(&cookie).expect("to a request in flight");
        match i32::from_be_bytes(reply[4..8].try_into().expect("4 bytes")) {
            0 => {
                let mut data = vec![0; length];
                self.stream.read_exact(&mut data)?;
                Ok((cookie, Ok(data)))
            }
            error => Ok((cookie, Err(error))),
        }
    }

    fn only_answer(&mut self) -> io::Result<Vec<u8>> {
        let (cookie, answer) = self.next_answer()?;
        assert_eq!(cookie, self.cookie, "to this request, as no other is in flight");
        answer.map_err(io::Error::from_raw_os_error)
    }

    fn send(&mut self, kind: u16, offset_bytes: u64, length: usize, data: &[u8]) -> io::Result<Cookie> {
        self.cookie += 1;
        let mut request = 0x2560_9513u32.to_be_bytes().to_vec();
        request.extend(0u16.to_be_bytes());
        request.extend(kind.to_be_bytes());
        request.extend(self.cookie.to_be_bytes());
        request.extend(offset_bytes.to_be_bytes());
        request.extend((length as u32).to_be_bytes());
        request.extend(data);
        self.expected.insert(self.cookie, if kind == READ { length } else { 0 });
        self.stream.write_all(&request)?;
        Ok(self.cookie)
    }
}

/// Ends a connection from another thread.
#[derive(Debug)]
pub struct Breaker(UnixStream);

impl Breaker {
    /// Ends it; whoever waits for an answer is told that the connection is lost.
    pub fn break_connection(&self) {
        // It may be lost already.
        let _already_lost = self.0.shutdown(Shutdown::Both);
    }
}
