//! What leaves a core before its turn ends: a core that does what the test says, between real sockets.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use brick_wire::cursor::Body;
use brick_wire::handshake::{Hello, PeerKind};
use brick_wire::header::seal_aux;

use brick_wire::limits::{BLOCK_SIZE, HEADER_SIZE, PROTOCOL_VERSION};
use brick_wire::{
    BrickUuid, ConnectionGeneration, CoreIndex, Header, Opcode, RequestId, Role, SessionId, Status,
    Timestamp, VolumeUuid,
};
use brickd::buffer::Pool;
use brickd::engine::{Action, Engine, Event, Frame};
use brickd::reactor::Core;
use brickd::reactor::cores::{Options, Running};
use brickd::reactor::ring::RingMode;

/// How long the second request waits for the replies to the first one.
const PATIENCE: Duration = Duration::from_secs(10);

/// Answers the first request with much payload; for the second one it stands still until the client has got some of it.
struct Script {
    engine: Engine,
    pool: Pool,
    actions: VecDeque<Action>,
    client: Arc<OnceLock<TcpStream>>,
    seen: Sender<bool>,
}

impl Core for Script {
    fn handle_event(&mut self, now: Timestamp, event: Event) {
        match event {
            Event::Frame { connection, frame } if frame.header.request == RequestId(1) => {
                for _ in 0..8 {
                    let data = self.pool.allocate(BLOCK_SIZE);
                    let frame = Frame { header: frame.header.reply(Status::Ok), aux: Vec::new(), data };
                    self.actions.push_back(Action::Send { connection, frame });
                }
            }
            Event::Frame { frame, .. } if frame.header.request == RequestId(2) => {
                let client = self.client.get().expect("it has sent a request");
                client.set_read_timeout(Some(PATIENCE)).expect("set a timeout");
                let seen = client.peek(&mut [0]).is_ok_and(|bytes| bytes > 0);
                self.seen.send(seen).expect("the test waits");
            }
            other => self.engine.handle_event(now, other),
        }
    }

    fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front().or_else(|| self.engine.poll_action())
    }

    fn poll_timeout(&self) -> Option<Timestamp> {
        self.engine.poll_timeout()
    }
}

#[test]
fn much_payload_leaves_before_the_turn_ends() {
    let directory = tempfile::tempdir().expect("a directory");
    brickd::store::format(directory.path(), Role::Data, 1).expect("formatted");
    let store = brickd::store::open(directory.path()).expect("opened");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    let options = Options {
        cpus: vec![0],
        pool_bytes: 8 << 20,
        open_files_max: 16,
        lease: Duration::from_secs(3),
        spin: Duration::ZERO,
        ring: RingMode::Deferred,
    };
    let (seen, was_seen) = channel();
    let socket = Arc::new(OnceLock::new());
    let for_script = Arc::clone(&socket);
    let _running = Running::start(store, listener, &options, move |config, pool| Script {
        engine: Engine::new(config, pool.clone()),
        pool,
        actions: VecDeque::new(),
        client: Arc::clone(&for_script),
        seen: seen.clone(),
    })
    .expect("started");

    let mut client = TcpStream::connect(address).expect("connected");
    socket.set(client.try_clone().expect("a second handle")).expect("set once");
    let body = seal_aux(hello().to_bytes());
    let head = Header { aux_bytes: body.len() as u32, ..Header::request(Opcode::Hello, RequestId(0)) };
    client.write_all(&[&head.to_bytes()[..], &body].concat()).expect("sent");
    let mut header = [0; HEADER_SIZE];
    client.read_exact(&mut header).expect("a welcome");
    let welcome = Header::parse(&header).expect("a header");
    assert_eq!(welcome.status, Status::Ok);
    client.read_exact(&mut vec![0; welcome.frame_bytes() - HEADER_SIZE]).expect("its body");

    // In one segment, so that they come in one turn.
    let requests = [1, 2].map(|id| Header::request(Opcode::Read, RequestId(id)).to_bytes());
    client.write_all(requests.as_flattened()).expect("sent");
    assert!(was_seen.recv().expect("an answer"), "the replies waited for the end of the turn");
}

fn hello() -> Hello {
    Hello {
        versions: (PROTOCOL_VERSION, PROTOCOL_VERSION),
        features: 0,
        kind: PeerKind::Operator,
        core: CoreIndex(0),
        volume: VolumeUuid::NIL,
        brick: BrickUuid::NIL,
        session: SessionId(7),
        generation: ConnectionGeneration(1),
        name: "test".to_owned(),
    }
}
