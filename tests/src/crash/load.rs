//! A verifying load on one image, whose servers come and go.
//!
//! Workers write, read and flush through a connection each, with several requests in flight, and check every
//! answer against the image's [`Oracle`]. Each worker writes its own extents and reads everybody's. Whoever
//! kills a server says so before ([`Load::detach`]) and names the next one afterwards ([`Load::attach`]); a
//! server that is lost otherwise, and a request that is answered with an error, is a wrong refusal.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::oracle::{Expectation, FlushPoint, Flushes, Oracle};
use crate::cluster::nbd::{Answer, Breaker, Cookie, NbdClient};
use crate::cluster::pattern::{BLOCK_BYTES, Sequence};
use crate::cluster::process::wait_for;

/// Longest time until the load goes on, whatever was done to bricks: far more than any timeout of theirs.
const PROGRESS_LIMIT: Duration = Duration::from_secs(90);
/// Blocks of a request of [`Load::fill`] at most.
const FILL_BLOCKS_MAX: usize = 256;
/// How many findings of a kind are kept in words.
const TEXTS_MAX: usize = 20;
/// Pause after an error, so that a volume that refuses everything isn't hammered.
const REFUSAL_PAUSE: Duration = Duration::from_millis(100);

/// What a load does.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Tells the bytes of this image from those of others.
    pub image: u64,
    /// First block of each extent that is used.
    pub extents: Vec<u64>,
    /// Blocks of an extent.
    pub extent_blocks: usize,
    /// Connections.
    pub workers: usize,
    /// Requests in flight on each.
    pub depth: usize,
    /// Longest write; three of four have one block.
    pub write_blocks_max: usize,
    /// Of a thousand requests, reads.
    pub reads_per_mille: u64,
    /// Of a thousand requests, flushes.
    pub flushes_per_mille: u64,
    /// Read all that was ever written whenever a server is new.
    pub verify_on_open: bool,
    /// Whether a power cut may come.
    pub flushes: Flushes,
    /// Where it draws its numbers from.
    pub seed: u64,
}

impl Plan {
    /// Writes and reads scattered over an image of `size_bytes`.
    pub fn scattered(image: u64, size_bytes: u64, extents: usize, seed: u64) -> Plan {
        let extent_blocks = 16;
        let places = size_bytes / BLOCK_BYTES as u64 / extent_blocks as u64;
        let numbers = Sequence::new(seed).distinct(extents, places);
        Plan {
            image,
            extents: numbers.iter().map(|number| number * extent_blocks as u64).collect(),
            extent_blocks,
            workers: 2,
            depth: 6,
            write_blocks_max: extent_blocks,
            reads_per_mille: 350,
            flushes_per_mille: 10,
            verify_on_open: true,
            flushes: Flushes::Irrelevant,
            seed,
        }
    }
}

/// What is wrong.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// Reads that found what they must not.
    pub mismatches: u64,
    /// Requests that failed, and servers that went without having been killed.
    pub refusals: u64,
    /// The first of both, in words.
    pub texts: Vec<String>,
}

impl Findings {
    fn note(&mut self, text: String) {
        if self.texts.len() < TEXTS_MAX {
            println!("FOUND: {text}");
            self.texts.push(text);
        }
    }

    /// A read found what it must not.
    pub fn mismatch(&mut self, text: String) {
        self.mismatches += 1;
        self.note(text);
    }

    /// Something was refused, though it had to be served.
    pub fn refusal(&mut self, text: String) {
        self.refusals += 1;
        self.note(text);
    }

    /// Adds what somebody else found.
    pub fn add(&mut self, other: Findings) {
        self.mismatches += other.mismatches;
        self.refusals += other.refusals;
        self.texts.extend(other.texts);
    }
}

/// A running load.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts workers, who wait for a server.
    pub fn start(plan: Plan) -> Load {
        let shared = Arc::new(Shared::new(plan));
        let worker = |index| {
            let shared = shared.clone();
            thread::spawn(move || shared.work(index))
        };
        let workers = (0..shared.plan.workers).map(worker).collect();
        Load { shared, workers }
    }

    /// A new server is there.
    pub fn attach(&self, socket: &Path) {
        let mut server = self.shared.server();
        server.generation += 1;
        server.socket = Some(socket.to_owned());
        self.shared.server_changed.notify_all();
    }

    /// The server is about to be killed.
    pub fn detach(&self) {
        self.shared.server().socket = None;
    }

    /// Ends connections to a server that doesn't do it by itself, because it was stopped.
    pub fn break_connections(&self) {
        self.shared.server().breakers.drain(..).for_each(|breaker| breaker.break_connection());
    }

    /// Waits until every worker's requests that are in flight now are answered, and some more.
    pub fn wait_for_progress(&self) {
        let Shared { plan, answered, .. } = &*self.shared;
        let goals: Vec<u64> =
            answered.iter().map(|count| count.load(Ordering::SeqCst) + 2 * plan.depth as u64).collect();
        wait_for(&format!("image {}: I/O goes on", plan.image), PROGRESS_LIMIT, || {
            let mut pairs = answered.iter().zip(&goals);
            pairs.all(|(count, goal)| count.load(Ordering::SeqCst) >= *goal).then_some(())
        });
    }

    /// Requests answered so far.
    pub fn requests(&self) -> u64 {
        self.shared.answered.iter().map(|count| count.load(Ordering::SeqCst)).sum()
    }

    /// From now on, waits are measured; those before don't count, of requests in flight neither.
    pub fn begin_measuring(&self) {
        *self.shared.longest_wait() = LongestWait { since: Instant::now(), ..LongestWait::default() };
    }

    /// The longest that any request answered since then took, and which kind of request that was.
    pub fn longest_wait(&self) -> (Duration, &'static str) {
        let longest = self.shared.longest_wait();
        (longest.wait, longest.kind)
    }

    /// What was found so far.
    pub fn findings(&self) -> Findings {
        self.shared.findings().clone()
    }

    /// Writes everything once, in sequence, and flushes; while no worker runs.
    pub fn fill(&self, socket: &Path) -> io::Result<()> {
        let mut client = NbdClient::connect(socket)?;
        let mut indices = 0..self.shared.oracle().count();
        while !indices.is_empty() {
            let mut oracle = self.shared.oracle();
            let run = oracle.leading_run(indices.clone(), FILL_BLOCKS_MAX);
            let offset_bytes = oracle.offset_bytes(run.start);
            let data: Vec<u8> = run.clone().flat_map(|index| oracle.begin_write(index)).collect();
            client.write(offset_bytes, &data)?;
            run.clone().for_each(|index| oracle.acknowledge(index));
            indices.start = run.end;
        }
        let point = self.shared.oracle().begin_flush();
        client.flush()?;
        self.shared.oracle().end_flush(point);
        Ok(())
    }

    /// All power went: what no flush covers may be gone. While no worker runs.
    pub fn cut_power(&self) {
        self.shared.oracle().cut_power();
    }

    /// Blocks whose acknowledged writes a power cut undid, as far as they were read since.
    pub fn undone_blocks(&self) -> u64 {
        self.shared.oracle().undone()
    }

    /// Ends the workers, after their requests in flight if a server is there.
    pub fn stop(&mut self) {
        self.shared.server().is_stopping = true;
        self.shared.server_changed.notify_all();
        for worker in self.workers.drain(..) {
            worker.join().expect("workers don't panic");
        }
    }

    /// Checks every block that was ever written, as an export has it; while no worker runs.
    pub fn check_file(&self, path: &Path) {
        let file = File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        self.check_all(|offset_bytes, bytes| file.read_exact_at(bytes, offset_bytes));
    }

    /// Checks every block that was ever written, as a server has it; while no worker runs.
    pub fn check_server(&self, socket: &Path) {
        let mut client = NbdClient::connect(socket).expect("the server takes clients");
        self.check_all(|offset_bytes, bytes| {
            bytes.copy_from_slice(&client.read(offset_bytes, bytes.len())?);
            Ok(())
        });
    }

    fn check_all(&self, mut read: impl FnMut(u64, &mut [u8]) -> io::Result<()>) {
        let mut indices = 0..self.shared.oracle().count();
        let mut bytes = vec![0; FILL_BLOCKS_MAX * BLOCK_BYTES];
        while !indices.is_empty() {
            let run = self.shared.oracle().leading_run(indices.clone(), FILL_BLOCKS_MAX);
            let offset_bytes = self.shared.oracle().offset_bytes(run.start);
            let bytes = &mut bytes[..run.len() * BLOCK_BYTES];
            match read(offset_bytes, bytes) {
                Ok(()) => {
                    let expectations =
                        run.clone().map(|index| self.shared.oracle().expect(index)).collect::<Vec<_>>();
                    self.shared.check(run.clone(), &expectations, bytes);
                }
                Err(error) => self.shared.refused("a read of the last check", &error),
            }
            indices.start = run.end;
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.server().is_stopping = true;
        self.break_connections();
        self.shared.server_changed.notify_all();
    }
}

/// What workers and their master share.
#[derive(Debug)]
struct Shared {
    plan: Plan,
    oracle: Mutex<Oracle>,
    server: Mutex<Server>,
    server_changed: Condvar,
    findings: Mutex<Findings>,
    /// By worker.
    answered: Vec<AtomicU64>,
    longest_wait: Mutex<LongestWait>,
}

#[derive(Debug)]
struct LongestWait {
    since: Instant,
    wait: Duration,
    kind: &'static str,
}

impl Default for LongestWait {
    fn default() -> LongestWait {
        LongestWait { since: Instant::now(), wait: Duration::ZERO, kind: "nothing" }
    }
}

#[derive(Debug, Default)]
struct Server {
    /// Counts servers.
    generation: u64,
    /// `None` before the first, and from just before one is killed.
    socket: Option<PathBuf>,
    breakers: Vec<Breaker>,
    is_stopping: bool,
}

/// A request that isn't answered.
struct Flight {
    began: Instant,
    what: What,
}

enum What {
    Write(Range<usize>),
    Read(Range<usize>, Vec<Expectation>),
    Flush(FlushPoint),
}

impl What {
    fn name(&self) -> &'static str {
        match self {
            What::Write(_) => "write",
            What::Read(..) => "read",
            What::Flush(_) => "flush",
        }
    }
}

impl Shared {
    fn new(plan: Plan) -> Shared {
        let blocks = |first: &u64| *first..*first + plan.extent_blocks as u64;
        let numbers: Vec<u64> = plan.extents.iter().flat_map(blocks).collect();
        Shared {
            oracle: Mutex::new(Oracle::new(plan.image, &numbers, plan.flushes)),
            server: Mutex::default(),
            server_changed: Condvar::new(),
            findings: Mutex::default(),
            answered: (0..plan.workers).map(|_| AtomicU64::new(0)).collect(),
            longest_wait: Mutex::default(),
            plan,
        }
    }

    fn oracle(&self) -> MutexGuard<'_, Oracle> {
        self.oracle.lock().expect("nobody panics with it")
    }

    fn server(&self) -> MutexGuard<'_, Server> {
        self.server.lock().expect("nobody panics with it")
    }

    fn findings(&self) -> MutexGuard<'_, Findings> {
        self.findings.lock().expect("nobody panics with it")
    }

    fn longest_wait(&self) -> MutexGuard<'_, LongestWait> {
        self.longest_wait.lock().expect("nobody panics with it")
    }

    fn work(&self, worker: usize) {
        let mut draws = Sequence::new(self.plan.seed ^ (worker as u64 + 1) << 32);
        let mut last = 0;
        while let Some((generation, socket)) = self.next_server(last) {
            last = generation;
            if let Err(error) = self.use_server(worker, &socket, &mut draws) {
                self.lost(generation, &error);
            }
        }
    }

    /// Waits for a server newer than `last`; `None` at the end.
    fn next_server(&self, last: u64) -> Option<(u64, PathBuf)> {
        let mut server = self.server();
        loop {
            if server.is_stopping {
                return None;
            }
            match &server.socket {
                Some(socket) if server.generation > last => return Some((server.generation, socket.clone())),
                _ => server = self.server_changed.wait(server).expect("nobody panics with it"),
            }
        }
    }

    fn lost(&self, generation: u64, error: &io::Error) {
        let server = self.server();
        if server.generation == generation && server.socket.is_some() {
            self.refused("a connection to a server that nobody killed", error);
        }
    }

    fn refused(&self, what: &str, error: &io::Error) {
        self.findings().refusal(format!("image {}: {what}: {error}", self.plan.image));
    }

    /// Works until the server is lost (an error) or the load is stopped.
    fn use_server(&self, worker: usize, socket: &Path, draws: &mut Sequence) -> io::Result<()> {
        let mut client = NbdClient::connect(socket)?;
        self.server().breakers.push(client.breaker()?);
        let mut flights = HashMap::new();
        let result = self.exchange(worker, &mut client, draws, &mut flights);
        let mut oracle = self.oracle();
        for flight in flights.into_values() {
            if let What::Write(indices) = flight.what {
                indices.for_each(|index| oracle.lose(index));
            }
        }
        result
    }

    fn exchange(
        &self,
        worker: usize,
        client: &mut NbdClient,
        draws: &mut Sequence,
        flights: &mut HashMap<Cookie, Flight>,
    ) -> io::Result<()> {
        if self.plan.verify_on_open {
            for extent in self.own_extents(worker) {
                self.submit_read(client, self.indices(extent), flights)?;
                let (cookie, answer) = client.next_answer()?;
                self.settle(worker, flights.remove(&cookie).expect("it was submitted"), answer);
            }
        }
        loop {
            let is_stopping = self.server().is_stopping;
            while !is_stopping && flights.len() < self.plan.depth {
                self.submit(worker, client, draws, flights)?;
            }
            if flights.is_empty() {
                return Ok(());
            }
            let (cookie, answer) = client.next_answer()?;
            self.settle(worker, flights.remove(&cookie).expect("it was submitted"), answer);
        }
    }

    fn own_extents(&self, worker: usize) -> impl Iterator<Item = usize> {
        (worker..self.plan.extents.len()).step_by(self.plan.workers)
    }

    fn indices(&self, extent: usize) -> Range<usize> {
        extent * self.plan.extent_blocks..(extent + 1) * self.plan.extent_blocks
    }

    /// Sends a request of some kind.
    fn submit(
        &self,
        worker: usize,
        client: &mut NbdClient,
        draws: &mut Sequence,
        flights: &mut HashMap<Cookie, Flight>,
    ) -> io::Result<()> {
        let Plan { reads_per_mille, flushes_per_mille, .. } = self.plan;
        let kind = draws.draw() % 1000;
        if kind < reads_per_mille {
            let extent = draws.draw() as usize % self.plan.extents.len();
            // Few blocks: the answers of all reads together have to fit into the buffer of a socket.
            let run = part(self.indices(extent), 4, draws);
            self.submit_read(client, run, flights)
        } else if kind < reads_per_mille + flushes_per_mille {
            let point = self.oracle().begin_flush();
            let cookie = client.submit_flush()?;
            flights.insert(cookie, Flight { began: Instant::now(), what: What::Flush(point) });
            Ok(())
        } else {
            self.submit_write(worker, client, draws, flights)
        }
    }

    fn submit_read(
        &self,
        client: &mut NbdClient,
        indices: Range<usize>,
        flights: &mut HashMap<Cookie, Flight>,
    ) -> io::Result<()> {
        let (offset_bytes, expectations) = {
            let oracle = self.oracle();
            let expectations = indices.clone().map(|index| oracle.expect(index)).collect();
            (oracle.offset_bytes(indices.start), expectations)
        };
        let cookie = client.submit_read(offset_bytes, indices.len() * BLOCK_BYTES)?;
        flights.insert(cookie, Flight { began: Instant::now(), what: What::Read(indices, expectations) });
        Ok(())
    }

    fn submit_write(
        &self,
        worker: usize,
        client: &mut NbdClient,
        draws: &mut Sequence,
        flights: &mut HashMap<Cookie, Flight>,
    ) -> io::Result<()> {
        let own_count = self.own_extents(worker).count();
        let (run, offset_bytes, data) = {
            let mut oracle = self.oracle();
            let run = loop {
                let extent = worker + self.plan.workers * (draws.draw() as usize % own_count);
                let blocks_max = if draws.draw().is_multiple_of(4) { self.plan.write_blocks_max } else { 1 };
                let run = part(self.indices(extent), blocks_max, draws);
                // There are more extents than requests in flight, so this ends.
                if !run.clone().any(|index| oracle.is_busy(index)) {
                    break run;
                }
            };
            let data: Vec<u8> = run.clone().flat_map(|index| oracle.begin_write(index)).collect();
            (run.clone(), oracle.offset_bytes(run.start), data)
        };
        let began = Instant::now();
        match client.submit_write(offset_bytes, &data) {
            Ok(cookie) => {
                flights.insert(cookie, Flight { began, what: What::Write(run) });
                Ok(())
            }
            Err(error) => {
                let mut oracle = self.oracle();
                run.for_each(|index| oracle.lose(index));
                Err(error)
            }
        }
    }

    fn settle(&self, worker: usize, flight: Flight, answer: Answer) {
        let (waited, name) = (flight.began.elapsed(), flight.what.name());
        {
            let mut longest = self.longest_wait();
            let wait = flight.began.max(longest.since).elapsed();
            if wait > longest.wait {
                (longest.wait, longest.kind) = (wait, name);
            }
        }
        match (flight.what, answer) {
            (What::Write(indices), Ok(_)) => {
                let mut oracle = self.oracle();
                indices.for_each(|index| oracle.acknowledge(index));
            }
            (What::Read(indices, expectations), Ok(bytes)) => self.check(indices, &expectations, &bytes),
            (What::Flush(point), Ok(_)) => self.oracle().end_flush(point),
            (what, Err(errno)) => {
                if let What::Write(indices) = what {
                    let mut oracle = self.oracle();
                    indices.for_each(|index| oracle.lose(index));
                }
                let what = format!("a {name}, after {:.3} s", waited.as_secs_f64());
                self.refused(&what, &io::Error::from_raw_os_error(errno));
                thread::sleep(REFUSAL_PAUSE);
            }
        }
        self.answered[worker].fetch_add(1, Ordering::SeqCst);
    }

    fn check(&self, indices: Range<usize>, expectations: &[Expectation], bytes: &[u8]) {
        for ((index, expectation), block) in indices.zip(expectations).zip(bytes.chunks(BLOCK_BYTES)) {
            let checked = self.oracle().check(index, expectation, block);
            if let Err(reason) = checked {
                self.findings().mismatch(format!("image {}: {reason}", self.plan.image));
            }
        }
    }
}

/// A part of a range, of up to `length_max`.
fn part(range: Range<usize>, length_max: usize, draws: &mut Sequence) -> Range<usize> {
    let length = 1 + draws.draw() as usize % length_max.min(range.len());
    let start = range.start + draws.draw() as usize % (range.len() - length + 1);
    start..start + length
}
