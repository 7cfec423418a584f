//! An image served over NBD, and a client that does exactly one request at a time and knows its answer.

use std::io::{self, Read, Write};
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
    cookie: u64,
}

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
        Ok(NbdClient { stream, size_bytes, cookie: 0 })
    }

    /// Size of the export.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Writes `data`. An answer with an error has its errno; a lost connection has none.
    pub fn write(&mut self, offset_bytes: u64, data: &[u8]) -> io::Result<()> {
        self.send(WRITE, offset_bytes, data.len() as u32, data)?;
        self.answer(&mut [])
    }

    /// Reads.
    pub fn read(&mut self, offset_bytes: u64, length: usize) -> io::Result<Vec<u8>> {
        self.send(READ, offset_bytes, length as u32, &[])?;
        let mut data = vec![0; length];
        self.answer(&mut data)?;
        Ok(data)
    }

    /// Makes what was written durable.
    pub fn flush(&mut self) -> io::Result<()> {
        self.send(FLUSH, 0, 0, &[])?;
        self.answer(&mut [])
    }

    fn send(&mut self, kind: u16, offset_bytes: u64, length: u32, data: &[u8]) -> io::Result<()> {
        self.cookie += 1;
        let mut request = 0x2560_9513u32.to_be_bytes().to_vec();
        request.extend(0u16.to_be_bytes());
        request.extend(kind.to_be_bytes());
        request.extend(self.cookie.to_be_bytes());
        request.extend(offset_bytes.to_be_bytes());
        request.extend(length.to_be_bytes());
        request.extend(data);
        self.stream.write_all(&request)
    }

    fn answer(&mut self, data: &mut [u8]) -> io::Result<()> {
        let mut reply = [0; 16];
        self.stream.read_exact(&mut reply)?;
        assert_eq!(reply[..4], [0x67, 0x44, 0x66, 0x98], "a simple reply");
        assert_eq!(reply[8..], self.cookie.to_be_bytes(), "to this request");
        match i32::from_be_bytes(reply[4..8].try_into().expect("4 bytes")) {
            0 => self.stream.read_exact(data),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }
}
