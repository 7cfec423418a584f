//! What the integration tests share: a device in memory that can be told to misbehave, a server on a
//! thread of its own, and a client that says exactly what it is told to say.
//!
//! [`MemoryDevice`] may inject: a delay per call, one error for all calls, and no other faults.

use std::cell::{Cell, RefCell};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use brick_nbd::{BlockDevice, DeviceError, ExportInfo, Extent, Server};
use bytes::{Bytes, BytesMut};

/// Allocation unit of the device in memory.
pub const BLOCK_BYTES: u64 = 4096;
pub const EXPORT_NAME: &str = "vm/disk";

/// What a device saw; shared with the test's thread.
#[derive(Debug, Default)]
pub struct Counters {
    pub reads: AtomicU64,
    pub writes: AtomicU64,
    pub fua_writes: AtomicU64,
    pub flushes: AtomicU64,
    pub trims: AtomicU64,
    pub zeroes: AtomicU64,
    pub in_flight_max: AtomicU64,
}

impl Counters {
    pub fn get(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::SeqCst)
    }
}

/// How a device behaves.
#[derive(Clone, Debug)]
pub struct Behaviour {
    pub size_bytes: u64,
    pub read_only: bool,
    /// Every call takes this long; reads at an odd block take thrice as long.
    pub delay: Duration,
    pub error: Option<DeviceError>,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self { size_bytes: 64 << 20, read_only: false, delay: Duration::ZERO, error: None }
    }
}

pub struct MemoryDevice {
    behaviour: Behaviour,
    data: RefCell<Vec<u8>>,
    allocated: RefCell<Vec<bool>>,
    counters: Arc<Counters>,
    in_flight: Cell<u64>,
}

impl MemoryDevice {
    pub fn new(behaviour: Behaviour, counters: Arc<Counters>) -> Self {
        let blocks = behaviour.size_bytes.div_ceil(BLOCK_BYTES) as usize;
        Self {
            data: RefCell::new(vec![0; behaviour.size_bytes as usize]),
            allocated: RefCell::new(vec![false; blocks]),
            behaviour,
            counters,
            in_flight: Cell::new(0),
        }
    }

    async fn begin(&self, offset_bytes: u64) -> Result<(), DeviceError> {
        self.in_flight.set(self.in_flight.get() + 1);
        self.counters.in_flight_max.fetch_max(self.in_flight.get(), Ordering::SeqCst);
        if !self.behaviour.delay.is_zero() {
            let slow = (offset_bytes / BLOCK_BYTES) % 2 == 1;
            monoio::time::sleep(self.behaviour.delay * if slow { 3 } else { 1 }).await;
        }
        self.in_flight.set(self.in_flight.get() - 1);
        self.behaviour.error.map_or(Ok(()), Err)
    }

    fn mark(&self, offset_bytes: u64, length: u64, allocated: bool) {
        let first = offset_bytes.div_ceil(BLOCK_BYTES);
        let (first, last) = if allocated {
            (offset_bytes / BLOCK_BYTES, (offset_bytes + length).div_ceil(BLOCK_BYTES))
        } else {
            (first, ((offset_bytes + length) / BLOCK_BYTES).max(first))
        };
        self.allocated.borrow_mut()[first as usize..last as usize].fill(allocated);
    }

    fn zero(&self, offset_bytes: u64, length: u64) {
        self.data.borrow_mut()[offset_bytes as usize..(offset_bytes + length) as usize].fill(0);
    }
}

impl BlockDevice for MemoryDevice {
    fn size_bytes(&self) -> u64 {
        self.behaviour.size_bytes
    }

    fn read_only(&self) -> bool {
        self.behaviour.read_only
    }

    async fn read(&self, offset_bytes: u64, length: usize) -> Result<Bytes, DeviceError> {
        self.counters.reads.fetch_add(1, Ordering::SeqCst);
        self.begin(offset_bytes).await?;
        let start = offset_bytes as usize;
        Ok(BytesMut::from(&self.data.borrow()[start..start + length]).freeze())
    }

    async fn write(&self, offset_bytes: u64, data: Bytes, fua: bool) -> Result<(), DeviceError> {
        self.counters.writes.fetch_add(1, Ordering::SeqCst);
        self.counters.fua_writes.fetch_add(u64::from(fua), Ordering::SeqCst);
        self.begin(offset_bytes).await?;
        let start = offset_bytes as usize;
        self.data.borrow_mut()[start..start + data.len()].copy_from_slice(&data);
        self.mark(offset_bytes, data.len() as u64, true);
        Ok(())
    }

    async fn write_zeroes(
        &self,
        offset_bytes: u64,
        length: u64,
        _fua: bool,
        may_unmap: bool,
    ) -> Result<(), DeviceError> {
        self.counters.zeroes.fetch_add(1, Ordering::SeqCst);
        self.begin(offset_bytes).await?;
        self.zero(offset_bytes, length);
        self.mark(offset_bytes, length, !may_unmap);
        Ok(())
    }

    async fn trim(&self, offset_bytes: u64, length: u64, _fua: bool) -> Result<(), DeviceError> {
        self.counters.trims.fetch_add(1, Ordering::SeqCst);
        self.begin(offset_bytes).await?;
        self.zero(offset_bytes, length);
        self.mark(offset_bytes, length, false);
        Ok(())
    }

    async fn flush(&self) -> Result<(), DeviceError> {
        self.counters.flushes.fetch_add(1, Ordering::SeqCst);
        self.begin(0).await
    }

    async fn block_status(&self, offset_bytes: u64, length: u64) -> Result<Vec<Extent>, DeviceError> {
        let allocated = self.allocated.borrow();
        let mut extents = Vec::new();
        let (mut at, end) = (offset_bytes, offset_bytes + length);
        while at < end {
            let next = ((at / BLOCK_BYTES + 1) * BLOCK_BYTES).min(end);
            let allocated = allocated[(at / BLOCK_BYTES) as usize];
            extents.push(Extent { length_bytes: next - at, allocated });
            at = next;
        }
        Ok(extents)
    }
}

/// A server on its own thread; dropping it shuts it down and waits.
pub struct TestServer {
    pub counters: Arc<Counters>,
    pub directory: tempfile::TempDir,
    pub tcp: Option<SocketAddr>,
    /// The thread's number, for its CPU time.
    pub thread_id: i32,
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl TestServer {
    pub fn unix(behaviour: Behaviour) -> Self {
        Self::start(behaviour, false, false)
    }

    pub fn tcp(behaviour: Behaviour) -> Self {
        Self::start(behaviour, true, false)
    }

    /// On the runtime that is used where io_uring is forbidden.
    pub fn unix_on_epoll(behaviour: Behaviour) -> Self {
        Self::start(behaviour, false, true)
    }

    /// The same, on TCP.
    pub fn tcp_on_epoll(behaviour: Behaviour) -> Self {
        Self::start(behaviour, true, true)
    }

    fn start(behaviour: Behaviour, tcp: bool, epoll: bool) -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("nbd.sock");
        let (stop, stopped) = UnixStream::pair().expect("socket pair");
        let counters = Arc::new(Counters::default());
        let device_counters = Arc::clone(&counters);
        let (ready, started) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let serving = async move {
                let server = if tcp { Server::bind_tcp("127.0.0.1:0") } else { Server::bind_unix(&path) };
                let server = server.expect("bind");
                // SAFETY: gettid has no preconditions.
                ready.send((server.tcp_address(), unsafe { libc::gettid() })).expect("the test waits");
                let device = Rc::new(MemoryDevice::new(behaviour, device_counters));
                let export = ExportInfo { name: EXPORT_NAME.into(), description: "test disk".into() };
                server.serve(device, export, closed(stopped)).await.expect("serve");
            };
            if epoll {
                let builder = monoio::RuntimeBuilder::<monoio::LegacyDriver>::new();
                builder.enable_timer().build().expect("runtime").block_on(serving);
            } else {
                let builder = monoio::RuntimeBuilder::<monoio::FusionDriver>::new();
                builder.enable_timer().build().expect("runtime").block_on(serving);
            }
        });
        let (tcp, thread_id) = started.recv().expect("the server starts");
        Self { counters, directory, tcp, thread_id, stop: Some(stop), thread: Some(thread) }
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("nbd.sock")
    }

    /// What qemu and libnbd call the export.
    pub fn uri(&self) -> String {
        match self.tcp {
            Some(address) => format!("nbd://{address}/{EXPORT_NAME}"),
            None => format!("nbd+unix:///{EXPORT_NAME}?socket={}", self.socket().display()),
        }
    }

    /// Starts the shutdown without waiting.
    pub fn stop(&mut self) {
        drop(self.stop.take());
    }

    /// Waits for the end of a shutdown.
    pub fn join(&mut self) {
        self.thread.take().expect("joined once").join().expect("the server must not panic");
    }

    /// CPU time of the server's thread so far, in clock ticks (1/100 s).
    pub fn cpu_ticks(&self) -> u64 {
        let path = format!("/proc/self/task/{}/stat", self.thread_id);
        let stat = std::fs::read_to_string(path).expect("the thread runs");
        let (_, fields) = stat.rsplit_once(") ").expect("stat has a name");
        let fields: Vec<&str> = fields.split(' ').collect();
        fields[11].parse::<u64>().expect("utime") + fields[12].parse::<u64>().expect("stime")
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.stop();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !std::thread::panicking()
        {
            panic!("the server panicked");
        }
    }
}

/// Completes when the other end is dropped.
async fn closed(stream: UnixStream) {
    use monoio::io::AsyncReadRent;
    if monoio::utils::is_legacy() {
        stream.set_nonblocking(true).expect("socket");
    }
    let mut stream = monoio::net::UnixStream::from_std(stream).expect("socket");
    let _ = stream.read(vec![0; 1]).await;
}

/// A client that does what it is told.
pub struct RawClient<S> {
    pub stream: S,
}

pub fn connect_unix(path: &Path) -> RawClient<UnixStream> {
    let stream = UnixStream::connect(path).expect("connect");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("timeout");
    RawClient { stream }
}

pub fn connect_tcp(address: SocketAddr) -> RawClient<TcpStream> {
    let stream = TcpStream::connect(address).expect("connect");
    stream.set_nodelay(true).expect("nodelay");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("timeout");
    RawClient { stream }
}

impl<S: Read + Write> RawClient<S> {
    /// Greets and sends flags; then options may follow.
    pub fn greet(mut self) -> Self {
        assert_eq!(self.take(18)[..8], *b"NBDMAGIC");
        self.send(&3u32.to_be_bytes());
        self
    }

    /// Greets and enters transmission by EXPORT_NAME: no structured replies.
    pub fn enter(mut self) -> Self {
        self = self.greet();
        self.option(1, b"");
        self.take(10);
        self
    }

    /// The same with structured replies and `base:allocation`.
    pub fn enter_structured(mut self) -> Self {
        self = self.greet();
        self.option(8, b"");
        self.take(20);
        let mut query = vec![0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 15];
        query.extend_from_slice(b"base:allocation");
        self.option(10, &query);
        self.take(20 + 4 + 15 + 20);
        self.option(1, b"");
        self.take(10);
        self
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("send");
    }

    pub fn option(&mut self, code: u32, data: &[u8]) {
        self.send(b"IHAVEOPT");
        self.send(&code.to_be_bytes());
        self.send(&(data.len() as u32).to_be_bytes());
        self.send(data);
    }

    pub fn request(&mut self, kind: u16, flags: u16, cookie: u64, offset_bytes: u64, length: u32) {
        let mut bytes = 0x2560_9513u32.to_be_bytes().to_vec();
        bytes.extend(flags.to_be_bytes());
        bytes.extend(kind.to_be_bytes());
        bytes.extend(cookie.to_be_bytes());
        bytes.extend(offset_bytes.to_be_bytes());
        bytes.extend(length.to_be_bytes());
        self.send(&bytes);
    }

    /// Exactly `length` bytes, which must come.
    pub fn take(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.stream.read_exact(&mut bytes).expect("the server must answer");
        bytes
    }

    /// A simple reply's error value and cookie.
    pub fn simple_reply(&mut self) -> (u32, u64) {
        let bytes = self.take(16);
        assert_eq!(bytes[..4], [0x67, 0x44, 0x66, 0x98], "simple reply magic");
        (
            u32::from_be_bytes(bytes[4..8].try_into().unwrap()),
            u64::from_be_bytes(bytes[8..].try_into().unwrap()),
        )
    }

    /// A structured chunk's type, cookie and payload; it must be the last of its reply.
    pub fn chunk(&mut self) -> (u16, u64, Vec<u8>) {
        let bytes = self.take(20);
        assert_eq!(bytes[..4], [0x66, 0x8e, 0x33, 0xef], "structured reply magic");
        assert_eq!(bytes[4..6], [0, 1], "DONE");
        let length = u32::from_be_bytes(bytes[16..].try_into().unwrap()) as usize;
        let payload = self.take(length);
        let kind = u16::from_be_bytes(bytes[6..8].try_into().unwrap());
        (kind, u64::from_be_bytes(bytes[8..16].try_into().unwrap()), payload)
    }

    /// The server must hang up, having sent nothing more.
    pub fn expect_hang_up(mut self) {
        let mut rest = Vec::new();
        match self.stream.read_to_end(&mut rest) {
            Ok(_) => assert!(rest.is_empty(), "unexpected: {rest:?}"),
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "no hang-up"),
        }
    }
}
