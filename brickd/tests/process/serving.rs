//! A real brick serves a real client: data survives kill -9 and SIGTERM, peers may send anything.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::brick::*;
use brick_wire::body::{Pull, PullReport};
use brick_wire::cursor::Body;
use brick_wire::handshake::PeerKind;
use brick_wire::limits::BLOCK_SIZE;
use brick_wire::placement::{core_of, lane_of};
use brick_wire::*;

/// The first shards of the image that `core` of `cores` serves.
fn shards_on(core: u16, cores: u16) -> impl Iterator<Item = ShardIndex> {
    let owner = move |shard: &ShardIndex| core_of(lane_of(image(), *shard, 4), cores) == CoreIndex(core);
    (0..64).map(ShardIndex).filter(owner)
}

fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// brick: written data and accepted records survive a crash of the process and a clean stop.
#[test]
fn what_was_acknowledged_survives() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("brick");
    format(&directory, "data");
    let Some(brick) = Brick::start(&directory, &["--cores", "1"]) else { return };
    brick.stamp(&[brick.uuid]);
    let mut client = brick.attach(0, 2);
    let first_start = client.welcome.incarnation.start;
    client.hold(EPOCH, &[client.brick()]);
    assert_eq!(client.ping(EPOCH), Status::Ok);
    let shard = ShardIndex(3);
    assert_eq!(client.read(EPOCH, shard, 0, 4), vec![0; 4 * BLOCK_SIZE]);
    for (first, count) in [(0, 1), (9, 3), (20, 16), (60, 100)] {
        assert_eq!(client.write(EPOCH, shard, first, &pattern(first as u8, count)), Status::Ok);
    }
    let wrong = Epoch { counter: 0, ..EPOCH };
    assert_eq!(client.write(wrong, shard, 0, &pattern(99, 1)), Status::StaleEpoch);
    assert_eq!(client.flush(EPOCH), Status::Ok);
    brick.kill();

    let brick = Brick::start(&directory, &["--cores", "1"]).unwrap();
    let mut client = brick.attach(0, 3);
    assert_eq!(client.welcome.incarnation.start, StartCounter(first_start.0 + 1));
    assert_eq!(client.register().accepted, EPOCH);
    assert_eq!(client.ping(EPOCH), Status::Ok);
    for (first, count) in [(0, 1), (9, 3), (20, 16), (60, 100)] {
        assert_eq!(client.read(EPOCH, shard, first, count as u16), pattern(first as u8, count));
    }
    assert_eq!(client.write(EPOCH, shard, 1, &pattern(5, 2)), Status::Ok);
    assert!(brick.terminate().success());

    let brick = Brick::start(&directory, &["--cores", "1"]).unwrap();
    let mut client = brick.attach(0, 4);
    assert_eq!(client.ping(EPOCH), Status::Ok);
    assert_eq!(client.read(EPOCH, shard, 1, 2), pattern(5, 2));
}

/// brick: requests go to the core that owns the lane, over a connection handed to it.
#[test]
fn every_core_serves_its_lanes() {
    let cores = cpus().min(2) as u16;
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("brick");
    format(&directory, "data");
    let Some(brick) = Brick::start(&directory, &["--cores", &cores.to_string()]) else { return };
    brick.stamp(&[brick.uuid]);
    let mut client = brick.attach(0, 2);
    client.hold(EPOCH, &[client.brick()]);
    for core in 0..cores {
        let mut client = brick.attach(core, 2);
        for shard in shards_on(core, cores).take(4) {
            let seed = shard.0 as u8;
            assert_eq!(client.write(EPOCH, shard, 7, &pattern(seed, 5)), Status::Ok);
            assert_eq!(client.read(EPOCH, shard, 6, 3)[BLOCK_SIZE..], pattern(seed, 5)[..2 * BLOCK_SIZE]);
        }
        assert_eq!(client.flush(EPOCH), Status::Ok);
    }
    assert!(brick.terminate().success());
}

/// brick: many requests of all sizes at once come back complete, through a pool smaller than all of them.
#[test]
fn a_deep_queue_completes() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("brick");
    format(&directory, "data");
    let Some(brick) = Brick::start(&directory, &["--cores", "1", "--pool-mib", "4"]) else { return };
    brick.stamp(&[brick.uuid]);
    let mut client = brick.attach(0, 2);
    client.hold(EPOCH, &[client.brick()]);
    let mut sender = client.second_hand();
    let sizes = [1usize, 256, 3, 64, 17, 2, 128, 4];
    let writes: Vec<(ShardIndex, usize)> =
        (0..200).map(|index| (ShardIndex(index % 16), sizes[index as usize % sizes.len()])).collect();
    let expected = writes.len();
    let reader = std::thread::spawn(move || {
        let statuses: Vec<Status> = (0..expected).map(|_| client.receive().header.status).collect();
        (client, statuses)
    });
    let mut last = HashMap::new();
    for (index, (shard, count)) in writes.into_iter().enumerate() {
        sender.send_write(EPOCH, shard, 0, &pattern(index as u8, count));
        last.entry(shard).or_insert_with(Vec::new).push((index as u8, count));
    }
    let (mut client, statuses) = reader.join().unwrap();
    assert!(statuses.iter().all(|status| *status == Status::Ok));
    for (shard, writes) in last {
        let mut blocks = vec![0; 256 * BLOCK_SIZE];
        for (seed, count) in writes {
            blocks[..count * BLOCK_SIZE].copy_from_slice(&pattern(seed, count));
        }
        assert!(client.read(EPOCH, shard, 0, 256) == blocks, "{shard:?} holds what was written last");
    }
}

/// brick: whatever a peer sends costs it its connection, and nobody else anything.
#[test]
fn bad_peers_hurt_only_themselves() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("brick");
    format(&directory, "data");
    let Some(brick) = Brick::start(&directory, &["--cores", "1"]) else { return };
    brick.stamp(&[brick.uuid]);
    let mut good = brick.attach(0, 2);

    let connect = || {
        let stream = TcpStream::connect(&brick.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        stream
    };
    let is_ended = |mut stream: TcpStream| match stream.read(&mut [0; 512]) {
        Ok(0) => true,
        Ok(_) => false,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    };
    // Garbage, a truncated hello, a frame that isn't a hello, a hello with a bad body.
    let mut stream = connect();
    stream.write_all(&[0x5a; 300]).unwrap();
    assert!(is_ended(stream));
    let mut stream = connect();
    stream.write_all(&frame(request(Opcode::Hello), &[1; 70], &[])[..50]).unwrap();
    drop(stream);
    let mut stream = connect();
    stream.write_all(&frame(request(Opcode::Ping), &[], &[])).unwrap();
    assert!(is_ended(stream));
    let mut stream = connect();
    stream.write_all(&frame(request(Opcode::Hello), &[0xff; 9], &[])).unwrap();
    assert!(is_ended(stream));

    // After a good hello: a damaged header, damaged aux, half a payload.
    let mut client = brick.attach(0, 2);
    let mut bytes = frame(request(Opcode::Ping), &[], &[]);
    bytes[9] ^= 1;
    client.stream.write_all(&bytes).unwrap();
    assert!(is_ended(client.stream));
    let mut client = brick.attach(0, 2);
    let mut bytes = frame(request(Opcode::Attach), &[1; 17], &[]);
    *bytes.last_mut().unwrap() ^= 1;
    client.stream.write_all(&bytes).unwrap();
    assert!(is_ended(client.stream));
    let mut client = brick.attach(0, 2);
    let bytes = frame(request(Opcode::Write), &[], &vec![1; 64 * BLOCK_SIZE]);
    client.stream.write_all(&bytes[..100_000]).unwrap();
    drop(client);

    // Wrong volume: refused with a sentence.
    let mut wrong = hello(PeerKind::Client, 0, 9);
    (wrong.volume, wrong.session) = (VolumeUuid::from_bytes([1; 16]), SessionId(5));
    let reason = Client::connect(&brick.address, &wrong).err().expect("refused");
    assert!(reason.contains("volume"), "{reason}");

    assert_eq!(good.ping(Epoch::ZERO), Status::Ok);
    good.hold(EPOCH, &[good.brick()]);
    assert_eq!(good.write(EPOCH, ShardIndex(0), 0, &pattern(1, 256)), Status::Ok);
}

/// brick: one that missed writes fetches them from the other, which it dials by name.
#[test]
fn a_stale_brick_pulls_from_a_good_one() {
    let parent = tempfile::tempdir().unwrap();
    let start = |name: &str| {
        let directory = parent.path().join(name);
        format(&directory, "data");
        Brick::start(&directory, &["--cores", "1"])
    };
    let (Some(good), Some(stale)) = (start("good"), start("stale")) else { return };
    let members = [good.uuid, stale.uuid];
    good.stamp(&members);
    stale.stamp(&members);
    let (mut source, mut target) = (good.attach(0, 2), stale.attach(0, 2));
    let record = [source.brick(), target.brick()];
    source.hold(EPOCH, &record);
    target.hold(EPOCH, &record);
    let shard = ShardIndex(1);
    assert_eq!(source.write(EPOCH, shard, 0, &pattern(1, 256)), Status::Ok);
    assert_eq!(target.write(EPOCH, shard, 0, &pattern(1, 100)), Status::Ok);
    assert_eq!(target.write(EPOCH, shard, 100, &pattern(2, 156)), Status::Ok);

    let (uuid, incarnation) = source.brick();
    let address = good.address.replace("127.0.0.1", "localhost");
    let blocks = BlockSet::from(BlockRange::new(0, 256));
    let pull = |address: String| Pull { source: uuid, incarnation, address, blocks: blocks.clone() };
    let header = Header { epoch: EPOCH, shard, ..request(Opcode::Pull) };
    let reply = target.ask(header, pull(address).to_bytes(), &[]);
    assert_eq!(reply.header.status, Status::Ok);
    let report = PullReport::from_bytes(&reply.aux).unwrap();
    assert_eq!((report.compared_blocks, report.written_blocks), (256, 156));
    assert_eq!(target.read(EPOCH, shard, 0, 256), pattern(1, 256));

    for nowhere in ["127.0.0.1:1", "no-such-host.invalid:1"] {
        let reply = target.ask(header, pull(nowhere.to_owned()).to_bytes(), &[]);
        assert_eq!(reply.header.status, Status::SourceUnreachable, "{nowhere}");
    }
    assert!(good.terminate().success() && stale.terminate().success());
}

/// brick: a connection that says nothing is closed after ten seconds.
#[test]
fn silence_is_no_hello() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("brick");
    format(&directory, "arbiter");
    let Some(brick) = Brick::start(&directory, &["--cores", "1"]) else { return };
    let mut stream = TcpStream::connect(&brick.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
    let start = Instant::now();
    assert_eq!(stream.read(&mut [0; 16]).unwrap(), 0);
    assert!((8..13).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    assert!(brick.terminate().success());
}

/// brick: one that has nothing to do sleeps (voluntary context switches of its threads don't grow).
#[test]
fn an_idle_brick_sleeps() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("brick");
    format(&directory, "data");
    let Some(brick) = Brick::start(&directory, &[]) else { return };
    brick.stamp(&[brick.uuid]);
    let mut client = brick.attach(0, 2);
    client.hold(EPOCH, &[client.brick()]);
    assert_eq!(
        client.write(EPOCH, shards_on(0, client.welcome.cores).next().unwrap(), 0, &pattern(1, 1)),
        Status::Ok
    );
    std::thread::sleep(Duration::from_millis(500));
    let before = context_switches(brick.pid());
    std::thread::sleep(Duration::from_secs(3));
    let switches = context_switches(brick.pid()) - before;
    assert!(switches <= 10, "{switches} wake-ups in three idle seconds");
}

fn context_switches(pid: i32) -> u64 {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let count = |path: std::path::PathBuf| -> u64 {
        let status = std::fs::read_to_string(path.join("status")).unwrap();
        let line = status.lines().find(|line| line.starts_with("voluntary_ctxt_switches")).unwrap();
        line.split_whitespace().last().unwrap().parse().unwrap()
    };
    threads.map(|thread| count(thread.unwrap().path())).sum()
}
