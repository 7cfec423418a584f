//! A real brick process and a blocking client that speaks its protocol, for tests from outside.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use brick_wire::body::{Attach, Stamp, put_crcs, read_crcs};
use brick_wire::checksum::block_crcs;
use brick_wire::cursor::Body;
use brick_wire::handshake::{Hello, PeerKind, Welcome};
use brick_wire::header::{parse_aux, seal_aux};
use brick_wire::limits::{BLOCK_SIZE, HEADER_SIZE, PROTOCOL_VERSION, SHARD_SHIFT_MIN};
use brick_wire::record::{EpochRecord, Member, RecordKind};
use brick_wire::register::{RegisterEntry, RegisterKey, RegisterState};
use brick_wire::*;

pub const HANDLE: ImageHandle = ImageHandle(1);
pub const SESSION: SessionId = SessionId(0xc11e);
pub const EPOCH: Epoch = Epoch { counter: 1, session: SESSION };

pub fn image() -> ImageUuid {
    ImageUuid::from_bytes([7; 16])
}

pub fn volume() -> VolumeUuid {
    VolumeUuid::from_bytes([9; 16])
}

/// Runs the command to its end.
pub fn brickd(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_brickd")).args(arguments).output().expect("the binary runs")
}

pub fn format(directory: &Path, role: &str) {
    let output = brickd(&["format", "--dir", directory.to_str().unwrap(), "--role", role, "--lanes", "4"]);
    assert!(output.status.success(), "{output:?}");
}

/// A process, killed when dropped.
pub struct Brick {
    child: Child,
    pub address: String,
    pub uuid: BrickUuid,
}

impl Brick {
    /// Starts it on a free port and waits until it serves. `None`, with the reason printed, where io_uring
    /// is forbidden.
    pub fn start(directory: &Path, more: &[&str]) -> Option<Brick> {
        let mut child = Command::new(env!("CARGO_BIN_EXE_brickd"))
            .args(["run", "--dir", directory.to_str().unwrap(), "--listen", "127.0.0.1:0"])
            .args(more)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        if line.is_empty() {
            let mut text = String::new();
            log.read_to_string(&mut text).unwrap();
            child.wait().unwrap();
            assert!(text.contains("io_uring"), "the brick doesn't start: {text}");
            println!("skipped: {text}");
            return None;
        }
        std::thread::spawn(move || log.lines().map_while(Result::ok).for_each(|line| println!("{line}")));
        let (head, tail) = line.split_once(") on ").expect("the line says where");
        let uuid = head.rsplit(' ').next().unwrap().parse().expect("and which brick");
        let address = tail.split(',').next().unwrap().to_owned();
        Some(Brick { child, address, uuid: BrickUuid(uuid) })
    }

    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// As a crash of the process.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// As an operator would.
    pub fn terminate(mut self) -> ExitStatus {
        let pid = nix::unistd::Pid::from_raw(self.pid());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("the brick doesn't stop");
    }

    /// Makes it a member of a group of data bricks.
    pub fn stamp(&self, members: &[BrickUuid]) {
        let mut client = Client::connect(&self.address, &hello(PeerKind::Operator, 0, 1)).unwrap();
        let stamp = Stamp { volume: volume(), group: 0, role: Role::Data, members: members.to_vec() };
        let reply = client.ask(Header::request(Opcode::Stamp, RequestId(0)), stamp.to_bytes(), &[]);
        assert_eq!(reply.header.status, Status::Ok);
    }

    /// A client's connection to `core`, with the image attached.
    pub fn attach(&self, core: u16, generation: u32) -> Client {
        let mut client = Client::connect(&self.address, &hello(PeerKind::Client, core, generation)).unwrap();
        assert_eq!(client.welcome.core, CoreIndex(core % client.welcome.cores));
        let attach = Attach { image: image(), shard_shift: SHARD_SHIFT_MIN };
        let reply = client.ask(request(Opcode::Attach), attach.to_bytes(), &[]);
        assert_eq!(reply.header.status, Status::Ok);
        client
    }
}

impl Drop for Brick {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn hello(kind: PeerKind, core: u16, generation: u32) -> Hello {
    Hello {
        versions: (PROTOCOL_VERSION, PROTOCOL_VERSION),
        features: 0,
        kind,
        core: CoreIndex(core),
        volume: if kind == PeerKind::Operator { VolumeUuid::NIL } else { volume() },
        brick: BrickUuid::NIL,
        session: SESSION,
        generation: ConnectionGeneration(generation),
        name: "test".to_owned(),
    }
}

/// A request about the attached image; the id is filled in on sending.
pub fn request(opcode: Opcode) -> Header {
    Header { image: HANDLE, ..Header::request(opcode, RequestId(0)) }
}

#[derive(Debug)]
pub struct Reply {
    pub header: Header,
    pub aux: Vec<u8>,
    pub data: Vec<u8>,
}

pub struct Client {
    pub stream: TcpStream,
    pub welcome: Welcome,
    next: u64,
}

impl Client {
    /// `Err` holds the reason of a refusal.
    pub fn connect(address: &str, hello: &Hello) -> Result<Client, String> {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        (&stream).write_all(&frame(request(Opcode::Hello), &hello.to_bytes(), &[])).unwrap();
        let reply = receive(&stream).map_err(|error| error.to_string())?;
        let welcome = Welcome::from_bytes(&reply.aux).unwrap();
        match reply.header.status {
            Status::Ok => Ok(Client { stream, welcome, next: 1 }),
            _ => Err(welcome.reason),
        }
    }

    /// Another hand on the same connection, to send while this one receives.
    pub fn second_hand(&self) -> Client {
        let stream = self.stream.try_clone().unwrap();
        Client { stream, welcome: self.welcome.clone(), next: 1_000_000 }
    }

    pub fn send(&mut self, header: Header, aux: &[u8], data: &[u8]) -> RequestId {
        let request = RequestId(self.next);
        self.next += 1;
        self.stream.write_all(&frame(Header { request, ..header }, aux, data)).unwrap();
        request
    }

    pub fn receive(&mut self) -> Reply {
        receive(&self.stream).expect("the brick answers")
    }

    /// One request, nothing else outstanding.
    pub fn ask(&mut self, header: Header, aux: Vec<u8>, data: &[u8]) -> Reply {
        let request = self.send(header, &aux, data);
        let reply = self.receive();
        assert_eq!(reply.header.request, request);
        reply
    }

    /// Prepares and accepts a record that makes this session the holder and the first member good.
    pub fn hold(&mut self, epoch: Epoch, members: &[(BrickUuid, Incarnation)]) {
        let promised = self.ask(Header { epoch, ..request(Opcode::RegisterPrepare) }, key().to_bytes(), &[]);
        assert_eq!(promised.header.status, Status::Ok);
        let members = members.iter().map(|&(brick, incarnation)| Member { brick, incarnation }).collect();
        let record = EpochRecord {
            epoch,
            holder: SESSION,
            kind: RecordKind::Client,
            in_sync: BrickSet::only(BrickIndex(0)),
            membership_version: 1,
            members,
            size_bytes: 64 << 20,
            operation: OperationUuid::from_bytes([3; 16]),
        };
        let state = RegisterState { value: record.to_bytes(), ..RegisterState::default() };
        let entry = RegisterEntry { key: key(), state };
        let accepted = self.ask(Header { epoch, ..request(Opcode::RegisterAccept) }, entry.to_bytes(), &[]);
        assert_eq!(accepted.header.status, Status::Ok);
    }

    /// The brick at the other end, as it is named in a record.
    pub fn brick(&self) -> (BrickUuid, Incarnation) {
        (self.welcome.brick, self.welcome.incarnation)
    }

    pub fn register(&mut self) -> RegisterState {
        let reply = self.ask(request(Opcode::RegisterRead), key().to_bytes(), &[]);
        RegisterState::from_bytes(&reply.aux).unwrap()
    }

    pub fn ping(&mut self, epoch: Epoch) -> Status {
        self.ask(Header { epoch, ..request(Opcode::Ping) }, Vec::new(), &[]).header.status
    }

    pub fn send_write(&mut self, epoch: Epoch, shard: ShardIndex, first: u16, data: &[u8]) -> RequestId {
        let blocks = BlockRange::new(first, (data.len() / BLOCK_SIZE) as u16);
        let mut header = Header { epoch, shard, blocks, generation: Generation(1), ..request(Opcode::Write) };
        let crcs: Vec<u32> = block_crcs(data).collect();
        let aux = put_crcs(&mut header, &crcs);
        self.send(header, &aux, data)
    }

    pub fn write(&mut self, epoch: Epoch, shard: ShardIndex, first: u16, data: &[u8]) -> Status {
        self.send_write(epoch, shard, first, data);
        self.receive().header.status
    }

    pub fn read(&mut self, epoch: Epoch, shard: ShardIndex, first: u16, count: u16) -> Vec<u8> {
        let blocks = BlockRange::new(first, count);
        let reply = self.ask(Header { epoch, shard, blocks, ..request(Opcode::Read) }, Vec::new(), &[]);
        assert_eq!(reply.header.status, Status::Ok);
        if reply.header.flags.contains(Flags::ZEROES) {
            return vec![0; blocks.bytes()];
        }
        let crcs = read_crcs(&reply.header, &reply.aux, usize::from(count)).unwrap();
        assert!(block_crcs(&reply.data).eq(crcs));
        reply.data
    }

    pub fn flush(&mut self, epoch: Epoch) -> Status {
        self.ask(Header { epoch, ..request(Opcode::Flush) }, Vec::new(), &[]).header.status
    }
}

fn key() -> RegisterKey {
    RegisterKey::Epoch(image())
}

pub fn frame(mut header: Header, aux: &[u8], data: &[u8]) -> Vec<u8> {
    let aux = seal_aux(aux.to_vec());
    header.aux_bytes = aux.len() as u32;
    header.data_bytes = data.len() as u32;
    [&header.to_bytes(), aux.as_slice(), data].concat()
}

pub fn receive(mut stream: &TcpStream) -> std::io::Result<Reply> {
    let mut bytes = [0; HEADER_SIZE];
    stream.read_exact(&mut bytes)?;
    let header = Header::parse(&bytes).expect("the brick speaks the protocol");
    let mut aux = vec![0; header.aux_bytes as usize];
    stream.read_exact(&mut aux)?;
    let mut data = vec![0; header.data_bytes as usize];
    stream.read_exact(&mut data)?;
    let aux = parse_aux(&aux).expect("the brick's aux checks").to_vec();
    Ok(Reply { header, aux, data })
}

/// Blocks that say which they are.
pub fn pattern(seed: u8, count: usize) -> Vec<u8> {
    (0..count * BLOCK_SIZE).map(|index| (index / BLOCK_SIZE) as u8 ^ seed.wrapping_add(index as u8)).collect()
}
