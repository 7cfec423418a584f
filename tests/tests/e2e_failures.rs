//! Bricks and clients that die, fall silent and come back: who may serve, and what survives.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use brick_tests::cluster::nbd::{IO_ERROR, NbdClient, NbdServer};
use brick_tests::cluster::pattern::{self, BLOCK_BYTES};
use brick_tests::cluster::process::wait_for;
use brick_tests::cluster::{ARBITER, Cluster, D1, D2, Options, THREE_DATA, TWO_GROUPS};

/// Longest time for anything that should take seconds, on a machine that does much else.
const LIMIT: Duration = Duration::from_secs(60);
const SHARD_BYTES: u64 = 4 << 20;
/// All of an image of 64 MiB: which group a shard is in is chance, and each group is to have some.
const SHARDS: u64 = 16;

/// Writes a block at the start and one inside of each shard.
fn write_some(client: &mut NbdClient, version: u64) {
    for shard in 0..SHARDS {
        for offset in [shard * SHARD_BYTES, shard * SHARD_BYTES + version * BLOCK_BYTES as u64] {
            client.write(offset, &pattern::blocks(offset, 1, version)).expect("I/O goes on");
        }
    }
    client.flush().expect("I/O goes on");
}

#[track_caller]
fn check_some(client: &mut NbdClient, versions: &[u64]) {
    let newest = *versions.last().expect("a version");
    for base in (0..SHARDS).map(|shard| shard * SHARD_BYTES) {
        let inside = versions.iter().map(|version| (base + version * BLOCK_BYTES as u64, *version));
        for (offset, version) in inside.chain([(base, newest)]) {
            let bytes = client.read(offset, BLOCK_BYTES).expect("I/O goes on");
            assert!(bytes == pattern::blocks(offset, 1, version), "offset {offset}, version {version}");
        }
    }
}

/// Kills each of `bricks` in turn; the image is written and read meanwhile, and whole again afterwards.
fn each_may_be_away(cluster: &mut Cluster, bricks: &[usize]) {
    cluster.create_image("vm", "64M");
    let server = cluster.serve("vm");
    let mut client = server.connect();
    let mut versions = vec![1];
    write_some(&mut client, 1);
    for (round, away) in bricks.iter().enumerate() {
        let version = round as u64 + 2;
        cluster.bricks[*away].kill();
        let killed = Instant::now();
        write_some(&mut client, version);
        println!("brick {away} away: the first writes took {:.3} s", killed.elapsed().as_secs_f64());
        versions.push(version);
        check_some(&mut client, &versions);
        assert_eq!(cluster.health("vm")["state"], "degraded");
        cluster.bricks[*away].start();
        cluster.wait_for_state("vm", "healthy");
    }
    server.close();
}

/// failures: one brick away (two data bricks and an arbiter).
/// D1, D2 and A are killed in turn; writes and reads go on; the copies agree in the end.
#[test]
fn any_pair_is_enough() {
    let mut cluster = Cluster::start();
    each_may_be_away(&mut cluster, &[D1, D2, ARBITER]);
    cluster.assert_copies_agree("vm");
}

/// failures: one brick away (three data bricks).
#[test]
fn any_two_of_three_are_enough() {
    let mut cluster = Cluster::with(&Options { shape: THREE_DATA, ..Options::default() });
    each_may_be_away(&mut cluster, &[0, 1, 2]);
    cluster.bricks.iter_mut().for_each(|brick| brick.stop());
    cluster.assert_same_shards(0, 1);
    cluster.assert_same_shards(1, 2);
}

/// failures: one brick away in each of two groups, at the same time.
#[test]
fn groups_fail_apart() {
    let mut cluster = Cluster::with(&Options { shape: TWO_GROUPS, ..Options::default() });
    cluster.create_image("vm", "64M");
    let server = cluster.serve("vm");
    let mut client = server.connect();
    write_some(&mut client, 1);
    cluster.bricks[0].kill();
    cluster.bricks[4].kill();
    write_some(&mut client, 2);
    check_some(&mut client, &[1, 2]);
    cluster.bricks[0].start();
    cluster.bricks[4].start();
    cluster.wait_for_state("vm", "healthy");
    server.close();
    cluster.bricks.iter_mut().for_each(|brick| brick.stop());
    cluster.assert_same_shards(0, 1);
    cluster.assert_same_shards(3, 4);
}

/// failures: two bricks away, with an I/O timeout.
/// A write fails with EIO, brickctl says that there is no quorum; when one brick is back, I/O goes on.
#[test]
fn one_brick_alone_serves_nothing() {
    let options = Options { io_timeout: Duration::from_secs(2), ..Options::default() };
    let mut cluster = Cluster::with(&options);
    cluster.create_image("vm", "64M");
    let server = cluster.serve("vm");
    let mut client = server.connect();
    write_some(&mut client, 1);
    cluster.bricks[D2].kill();
    cluster.bricks[ARBITER].kill();
    let error = client.write(0, &pattern::blocks(0, 1, 9)).expect_err("no quorum");
    assert_eq!(error.raw_os_error(), Some(IO_ERROR), "{error}");
    let error = client.read(0, BLOCK_BYTES).expect_err("no quorum");
    assert_eq!(error.raw_os_error(), Some(IO_ERROR), "{error}");
    assert_eq!(cluster.health("vm")["state"], "no_quorum");
    cluster.ctl(&["image", "stat", "vm"]).refused(&["no quorum", "1 of 3 bricks answer"]);

    cluster.bricks[ARBITER].start();
    wait_for("I/O comes back by itself", LIMIT, || client.write(0, &pattern::blocks(0, 1, 2)).ok());
    write_some(&mut client, 2);
    check_some(&mut client, &[1, 2]);
    cluster.bricks[D2].start();
    cluster.wait_for_state("vm", "healthy");
    server.close();
    cluster.assert_copies_agree("vm");
}

/// failures: two bricks away, patiently.
/// A write waits for as long as there is no quorum, and completes when a brick returns.
#[test]
fn io_waits_for_a_quorum() {
    let options = Options { io_timeout: Duration::from_secs(300), ..Options::default() };
    let mut cluster = Cluster::with(&options);
    cluster.create_image("vm", "64M");
    let server = cluster.serve("vm");
    let mut client = server.connect();
    write_some(&mut client, 1);
    cluster.bricks[D1].kill();
    cluster.bricks[ARBITER].kill();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            write_some(&mut client, 2);
            done.store(true, Ordering::SeqCst);
        });
        // Asking takes the client about as long as the write would take if it went on.
        assert_eq!(cluster.health("vm")["state"], "no_quorum");
        assert!(!done.load(Ordering::SeqCst), "nothing completes without a quorum");
        cluster.bricks[ARBITER].start();
    });
    check_some(&mut server.connect(), &[1, 2]);
    cluster.bricks[D1].start();
    cluster.wait_for_state("vm", "healthy");
    server.close();
}

/// failures: a stale data brick with the arbiter.
/// D2 misses writes, D1 goes, D2 comes back: nothing is served, the sentence names D1. D1 returns: all there.
#[test]
fn a_stale_copy_is_never_served() {
    let mut cluster = Cluster::start_as_shipped();
    cluster.create_image("vm", "64M");
    let server = cluster.serve("vm");
    let mut client = server.connect();
    write_some(&mut client, 1);
    cluster.bricks[D2].kill();
    write_some(&mut client, 2);
    server.close();
    cluster.bricks[D1].kill();
    cluster.bricks[D2].start();

    let good = cluster.bricks[D1].address();
    let reason = cluster.try_serve("vm", &[]).expect_err("the good copy is away");
    assert!(reason.contains("no good copy") && reason.contains(&good), "{reason}");
    let file = cluster.path("stale.raw").display().to_string();
    cluster.ctl(&["image", "export", "vm", &file]).refused(&["no good copy", &good]);
    let health = cluster.health("vm");
    assert_eq!(health["state"], "no_good_copy");
    assert!(health["reason"].as_str().is_some_and(|reason| reason.contains(&good)), "{health}");

    cluster.bricks[D1].start();
    let server = cluster.serve("vm");
    check_some(&mut server.connect(), &[1, 2]);
    cluster.wait_for_state("vm", "healthy");
    server.close();
    cluster.assert_copies_agree("vm");
}

/// failures: a stale data brick with the arbiter, while the image is served.
/// D2 returns in the moment in which D1 dies: I/O waits for D1 and then goes on.
#[test]
fn a_served_image_waits_for_its_good_copy() {
    let options = Options { io_timeout: Duration::from_secs(2), ..Options::default() };
    let mut cluster = Cluster::with(&options);
    cluster.create_image("vm", "64M");
    let server = cluster.serve("vm");
    let mut client = server.connect();
    write_some(&mut client, 1);
    cluster.bricks[D2].kill();
    write_some(&mut client, 2);
    cluster.bricks[D1].kill();
    cluster.bricks[D2].start();
    let error = client.read(0, BLOCK_BYTES).expect_err("the good copy is away");
    assert_eq!(error.raw_os_error(), Some(IO_ERROR), "{error}");
    cluster.bricks[D1].start();
    wait_for("I/O comes back by itself", LIMIT, || client.read(0, BLOCK_BYTES).ok());
    check_some(&mut client, &[1, 2]);
    cluster.wait_for_state("vm", "healthy");
    server.close();
    cluster.assert_copies_agree("vm");
}

/// failures: a brick falls silent, its connections stay open.
/// A write that meets it completes after the brick timeout; the brick is healed when it goes on.
#[test]
fn a_silent_brick_is_left_behind() {
    let options = Options { brick_timeout: Duration::from_secs(2), ..Options::default() };
    let mut cluster = Cluster::with(&options);
    cluster.create_image("vm", "64M");
    let server = cluster.serve("vm");
    let mut client = server.connect();
    write_some(&mut client, 1);
    cluster.bricks[D2].pause();
    let paused = Instant::now();
    write_some(&mut client, 2);
    let stall = paused.elapsed();
    println!("silent brick, timeout 2 s: writes went on after {:.3} s", stall.as_secs_f64());
    assert!(stall < Duration::from_secs(20), "{stall:?}");
    cluster.bricks[D2].resume();
    cluster.wait_for_state("vm", "healthy");
    check_some(&mut client, &[1, 2]);
    server.close();
    cluster.assert_copies_agree("vm");
}

/// A writer of its own blocks: what it tried and what it was told is done, block by block.
struct Writer {
    first_block: u64,
    tried: Vec<u64>,
    done: Vec<u64>,
}

impl Writer {
    const BLOCKS: usize = 64;

    fn new(number: u64) -> Writer {
        // Far apart: each in a shard of its own.
        let first_block = number * (SHARD_BYTES / BLOCK_BYTES as u64);
        Writer { first_block, tried: vec![0; Writer::BLOCKS], done: vec![0; Writer::BLOCKS] }
    }

    fn offset(&self, index: usize) -> u64 {
        (self.first_block + index as u64) * BLOCK_BYTES as u64
    }

    /// Writes until the server is gone.
    fn run(&mut self, client: &mut NbdClient, acknowledged: &AtomicU64) {
        for version in 1.. {
            let index = version as usize * 7 % Writer::BLOCKS;
            self.tried[index] = version;
            let offset = self.offset(index);
            if client.write(offset, &pattern::blocks(offset, 1, version)).is_err() {
                return;
            }
            self.done[index] = version;
            acknowledged.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Every block is what was acknowledged last, or what was in flight.
    fn check(&self, client: &mut NbdClient) {
        for index in 0..Writer::BLOCKS {
            let offset = self.offset(index);
            let bytes = client.read(offset, BLOCK_BYTES).expect("it is served again");
            let is = |version: u64| match version {
                0 => bytes.iter().all(|byte| *byte == 0),
                version => bytes == pattern::blocks(offset, 1, version),
            };
            let (done, tried) = (self.done[index], self.tried[index]);
            assert!(is(done) || is(tried), "offset {offset}: neither version {done} nor {tried}");
        }
    }
}

fn write_until_killed(server: NbdServer, writers: &mut [Writer], writes: u64) {
    let acknowledged = AtomicU64::new(0);
    thread::scope(|scope| {
        for writer in writers.iter_mut() {
            let (mut client, acknowledged) = (server.connect(), &acknowledged);
            scope.spawn(move || writer.run(&mut client, acknowledged));
        }
        wait_for("writes go on", LIMIT, || (acknowledged.load(Ordering::SeqCst) >= writes).then_some(()));
        server.kill();
    });
}

/// failures: the client dies in the middle of writes.
/// Four writers, kill -9, serve again: it opens when the lease is over, every acknowledged block is there,
/// and the copies agree.
#[test]
fn a_dead_client_leaves_consistent_copies() {
    let mut cluster = Cluster::start();
    cluster.create_image("vm", "64M");
    let mut writers: Vec<Writer> = (0..4).map(Writer::new).collect();
    write_until_killed(cluster.serve("vm"), &mut writers, 400);
    let server = cluster.serve("vm");
    let mut client = server.connect();
    writers.iter().for_each(|writer| writer.check(&mut client));
    cluster.wait_for_state("vm", "healthy");
    server.close();
    cluster.assert_copies_agree("vm");
}

/// failures: the client and every brick die in the middle of writes.
/// The machine kept running, so everything acknowledged is there.
#[test]
fn everybody_dies_at_once() {
    let mut cluster = Cluster::start();
    cluster.create_image("vm", "64M");
    let mut writers: Vec<Writer> = (0..4).map(Writer::new).collect();
    write_until_killed(cluster.serve("vm"), &mut writers, 400);
    cluster.bricks.iter_mut().for_each(|brick| brick.kill());
    cluster.bricks.iter_mut().for_each(|brick| brick.start());
    let server = cluster.serve("vm");
    let mut client = server.connect();
    writers.iter().for_each(|writer| writer.check(&mut client));
    cluster.wait_for_state("vm", "healthy");
    server.close();
    cluster.assert_copies_agree("vm");
}

/// failures: a takeover.
/// The second client is refused while the first lives; with --takeover it serves, and the first says that
/// it was fenced and ends with an error.
#[test]
fn a_takeover_fences_the_holder() {
    let cluster = Cluster::start();
    cluster.create_image("vm", "64M");
    let mut first = cluster.serve("vm");
    write_some(&mut first.connect(), 1);
    let reason = cluster.try_serve("vm", &[]).expect_err("it is in use");
    assert!(reason.contains("in use") && reason.contains("take"), "{reason}");
    write_some(&mut first.connect(), 2);

    let second = cluster.try_serve("vm", &["--takeover"]).expect("taken over");
    let status = first.process().wait(LIMIT);
    let told = first.process().stderr();
    assert!(!status.success() && told.contains("took the image over"), "{status}: {told}");
    assert!(!told.contains("panicked"), "{told}");
    check_some(&mut second.connect(), &[1, 2]);
    write_some(&mut second.connect(), 3);
    check_some(&mut second.connect(), &[1, 2, 3]);
    second.close();
}
