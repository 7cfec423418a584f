//! What a core sends within a turn, and that its turns end: cores that do what the test says, between real sockets.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use brick_wire::handshake::{Hello, PeerKind};
use brick_wire::limits::{BLOCK_SIZE, HEADER_SIZE};
use brick_wire::{Header, Opcode, RequestId, Role, SessionId, Status, Timestamp};
use brickd::buffer::Pool;
use brickd::engine::{Action, ConnectionId, Engine, EngineConfig, Event, Frame};
use brickd::reactor::Core;
use brickd::reactor::cores::{Options, Running};
use brickd::reactor::ring::RingMode;

use super::brick::{Client, hello};

/// What every script does with the rest: handshakes are the engine's.
struct Script {
    engine: Engine,
    pool: Pool,
    actions: VecDeque<Action>,
}

impl Script {
    fn new(config: EngineConfig, pool: Pool) -> Script {
        Script { engine: Engine::new(config, pool.clone()), pool, actions: VecDeque::new() }
    }

    /// Answers with a block.
    fn answer(&mut self, connection: ConnectionId, header: &Header) {
        let data = self.pool.allocate(BLOCK_SIZE);
        let frame = Frame { header: header.reply(Status::Ok), aux: Vec::new(), data };
        self.actions.push_back(Action::Send { connection, frame });
    }

    fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front().or_else(|| self.engine.poll_action())
    }
}

/// Answers the first request with eight blocks; for the second one it stands still until the client has got some of them.
struct Deaf {
    script: Script,
    client: Arc<OnceLock<TcpStream>>,
    seen: Sender<bool>,
}

/// How long that is at most.
const PATIENCE: Duration = Duration::from_secs(10);

impl Core for Deaf {
    fn handle_event(&mut self, now: Timestamp, event: Event) {
        match event {
            Event::Frame { connection, frame } if frame.header.request == RequestId(1) => {
                (0..8).for_each(|_| self.script.answer(connection, &frame.header));
            }
            Event::Frame { .. } => {
                let client = self.client.get().expect("it has sent a request");
                client.set_read_timeout(Some(PATIENCE)).expect("set a timeout");
                let seen = client.peek(&mut [0]).is_ok_and(|bytes| bytes > 0);
                self.seen.send(seen).expect("the test waits");
            }
            other => self.script.engine.handle_event(now, other),
        }
    }

    fn poll_action(&mut self) -> Option<Action> {
        self.script.poll_action()
    }

    fn poll_timeout(&self) -> Option<Timestamp> {
        self.script.engine.poll_timeout()
    }
}

#[test]
fn much_payload_leaves_before_the_turn_ends() {
    let (seen, was_seen) = channel();
    let socket = Arc::new(OnceLock::new());
    let for_core = Arc::clone(&socket);
    let brick = Brick::start(move |config, pool| Deaf {
        script: Script::new(config, pool),
        client: Arc::clone(&for_core),
        seen: seen.clone(),
    });
    let mut client = brick.connect(1);
    socket.set(client.try_clone().expect("a second handle")).expect("set once");
    // In one segment, so that they come in one turn.
    let requests = [1, 2].map(|id| Header::request(Opcode::Read, RequestId(id)).to_bytes());
    client.write_all(requests.as_flattened()).expect("sent");
    let was_seen = was_seen.recv_timeout(2 * PATIENCE).expect("an answer");
    assert!(was_seen, "the replies waited for the end of the turn");
}

/// Answers each request with a block, and counts those of each turn.
struct Busy {
    script: Script,
    in_turn: Cell<u64>,
    most: Arc<AtomicU64>,
    answered: Arc<AtomicU64>,
}

impl Core for Busy {
    fn handle_event(&mut self, now: Timestamp, event: Event) {
        match event {
            Event::Frame { connection, frame } => {
                self.script.answer(connection, &frame.header);
                self.in_turn.set(self.in_turn.get() + 1);
                self.answered.fetch_add(1, Ordering::Relaxed);
            }
            other => self.script.engine.handle_event(now, other),
        }
    }

    fn poll_action(&mut self) -> Option<Action> {
        self.script.poll_action()
    }

    /// Asked in every turn.
    fn poll_timeout(&self) -> Option<Timestamp> {
        self.most.fetch_max(self.in_turn.take(), Ordering::Relaxed);
        self.script.engine.poll_timeout()
    }
}

#[test]
fn turns_end_though_clients_always_have_more() {
    const CLIENTS: u64 = 16;
    const OUTSTANDING: u64 = 8;
    const REQUESTS: u64 = 400_000;
    let (most, answered) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (for_core, total) = (Arc::clone(&most), Arc::clone(&answered));
    let brick = Brick::start(move |config, pool| Busy {
        script: Script::new(config, pool),
        in_turn: Cell::new(0),
        most: Arc::clone(&for_core),
        answered: Arc::clone(&total),
    });
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (stream, answered) = (brick.connect(client), &answered);
            let is_over = || answered.load(Ordering::Relaxed) >= REQUESTS;
            scope.spawn(move || keep_asking(stream, OUTSTANDING, is_over));
        }
    });
    let most = most.load(Ordering::Relaxed);
    // A completion brings at most what one client has outstanding.
    assert!(most <= 256 * OUTSTANDING, "{most} requests in one turn");
}

/// Asks again for every answer, until it is over.
fn keep_asking(mut stream: TcpStream, outstanding: u64, is_over: impl Fn() -> bool) {
    let request = Header::request(Opcode::Read, RequestId(1)).to_bytes();
    stream.write_all(&request.repeat(outstanding as usize)).expect("sent");
    let reply_bytes = HEADER_SIZE + BLOCK_SIZE;
    let mut buffer = vec![0; reply_bytes * outstanding as usize];
    let (mut received, mut asked) = (0, 0);
    while !is_over() {
        let count = stream.read(&mut buffer).expect("received");
        assert!(count > 0, "the brick hung up");
        received += count;
        let due = received / reply_bytes - asked;
        stream.write_all(&request.repeat(due)).expect("sent");
        asked += due;
    }
}

/// A core on a port, with a fresh directory.
struct Brick {
    _directory: tempfile::TempDir,
    _running: Running,
    address: String,
}

impl Brick {
    fn start<C: Core>(make_core: impl Fn(EngineConfig, Pool) -> C + Clone + Send + 'static) -> Brick {
        let directory = tempfile::tempdir().expect("a directory");
        brickd::store::format(directory.path(), Role::Data, 1).expect("formatted");
        let store = brickd::store::open(directory.path()).expect("opened");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address").to_string();
        let options = Options {
            cpus: vec![0],
            pool_bytes: 8 << 20,
            open_files_max: 16,
            lease: Duration::from_secs(3),
            spin: Duration::ZERO,
            ring: RingMode::Deferred,
        };
        let running = Running::start(store, listener, &options, make_core).expect("started");
        Brick { _directory: directory, _running: running, address }
    }

    /// A connection after its welcome.
    fn connect(&self, session: u64) -> TcpStream {
        let hello = Hello { session: SessionId(session), ..hello(PeerKind::Operator, 0, 1) };
        Client::connect(&self.address, &hello).expect("a welcome").stream
    }
}
