//! What a returning brick costs: only the blocks that it missed, from brick to brick, and nothing when it
//! missed nothing. And what an arbiter costs: next to nothing.

use brick_tests::cluster::measure::wire_bytes;
use brick_tests::cluster::nbd::NbdClient;
use brick_tests::cluster::pattern::{self, BLOCK_BYTES, Sequence};
use brick_tests::cluster::tools::have;
use brick_tests::cluster::{ARBITER, Cluster, D1, D2, shard_files};

const MIB: u64 = 1 << 20;
const BLOCKS_PER_MIB: usize = MIB as usize / BLOCK_BYTES;

fn write_sequentially(client: &mut NbdClient, mebibytes: u64, version: u64) {
    for offset in (0..mebibytes).map(|number| number * MIB) {
        client.write(offset, &pattern::blocks(offset, BLOCKS_PER_MIB, version)).expect("written");
    }
    client.flush().expect("flushed");
}

/// heal: 1,000 random 4 KiB writes to a 1 GiB image that one data brick missed.
/// With the image closed, `heal run` moves these blocks and no others; the copies are equal afterwards.
#[test]
fn only_missed_blocks_move() {
    const WRITES: usize = 1000;
    let mut cluster = Cluster::start();
    cluster.create_image("vm", "1G");
    let server = cluster.serve("vm");
    let mut client = server.connect();
    write_sequentially(&mut client, 64, 1);
    cluster.bricks[D2].kill();
    for block in Sequence::new(2).distinct(WRITES, client.size_bytes() / BLOCK_BYTES as u64) {
        let offset = block * BLOCK_BYTES as u64;
        client.write(offset, &pattern::blocks(offset, 1, 2)).expect("written");
    }
    client.flush().expect("flushed");
    server.close();
    cluster.bricks[D2].start();

    let health = cluster.health("vm");
    assert_eq!(health["state"], "degraded");
    assert_eq!(health["bricks"][D2]["state"], "stale");
    assert_eq!(health["bricks"][D2]["dirty_blocks"], WRITES);
    let outcome = cluster.heal("vm");
    println!("healed after {WRITES} random writes: {outcome}");
    assert_eq!(outcome["healed_blocks"], WRITES);
    assert!(outcome["healed_bytes"].as_u64().is_some_and(|bytes| bytes <= 4_200_000), "{outcome}");
    assert!(outcome["wire_bytes"].as_u64().is_some_and(|bytes| bytes <= 5_000_000), "{outcome}");
    assert_eq!(cluster.health("vm")["state"], "healthy");
    cluster.assert_copies_agree("vm");
}

/// heal: a brick returns while the image is being written.
/// The client heals it in the background; nobody has to run anything; the copies are equal afterwards.
#[test]
fn a_served_image_heals_in_the_background() {
    let mut cluster = Cluster::start();
    cluster.create_image("vm", "256M");
    let server = cluster.serve("vm");
    let mut client = server.connect();
    write_sequentially(&mut client, 32, 1);
    cluster.bricks[D1].kill();
    write_sequentially(&mut client, 32, 2);
    cluster.bricks[D1].start();
    for round in 3.. {
        write_sequentially(&mut client, 8, round);
        if cluster.health("vm")["state"] == "healthy" {
            break;
        }
        assert!(round < 1000, "it never becomes healthy under load");
    }
    server.close();
    cluster.assert_copies_agree("vm");
}

/// heal: `heal run` while a client has the image open waits for that client's heal.
#[test]
fn heal_run_waits_for_the_client_that_heals() {
    let mut cluster = Cluster::start();
    cluster.create_image("vm", "64M");
    let server = cluster.serve("vm");
    let mut client = server.connect();
    cluster.bricks[D2].kill();
    write_sequentially(&mut client, 32, 1);
    cluster.bricks[D2].start();
    cluster.heal("vm");
    assert_eq!(cluster.health("vm")["state"], "healthy");
    server.close();
}

/// heal: nothing was missed.
/// After a clean close every brick is restarted (stopped, killed); nothing is to be healed.
#[test]
fn a_restart_after_a_clean_close_heals_nothing() {
    let mut cluster = Cluster::start();
    cluster.create_image("vm", "64M");
    let server = cluster.serve("vm");
    write_sequentially(&mut server.connect(), 16, 1);
    server.close();
    for index in [D1, D2, ARBITER] {
        cluster.bricks[index].stop();
        cluster.bricks[index].start();
    }
    for index in [D1, D2, ARBITER] {
        cluster.bricks[index].kill();
        cluster.bricks[index].start();
    }
    let health = cluster.health("vm");
    assert_eq!(health["state"], "healthy", "{health}");
    let outcome = cluster.heal("vm");
    assert_eq!(outcome["healed_blocks"], 0, "{outcome}");
    let server = cluster.serve("vm");
    let first = server.connect().read(0, BLOCK_BYTES).expect("read");
    assert!(first == pattern::blocks(0, 1, 1));
    server.close();
    assert_eq!(cluster.heal("vm")["healed_blocks"], 0);
}

/// arbiter: no data on its disk, next to none on its wire.
/// Write 256 MiB in sequence; count what the connections to each brick carried, look into its directory.
#[test]
fn an_arbiter_gets_no_data() {
    if !have(&["ss"]) {
        return;
    }
    let cluster = Cluster::start();
    cluster.create_image("vm", "256M");
    let mut server = cluster.serve("vm");
    write_sequentially(&mut server.connect(), 256, 1);
    let pid = server.process().pid();
    let traffic: Vec<u64> = cluster.bricks.iter().map(|brick| wire_bytes(pid, brick.port())).collect();
    let percent = 100.0 * traffic[ARBITER] as f64 / traffic[D1] as f64;
    println!("sequential write of 256 MiB: D1, D2, A carried {traffic:?} bytes; the arbiter {percent:.3} %");
    assert!(traffic[D1] >= 256 * MIB && traffic[D2] >= 256 * MIB, "{traffic:?}");
    assert!(traffic[ARBITER] > 0 && percent < 1.0, "{traffic:?}");
    server.close();

    let directory = &cluster.bricks[ARBITER].directory;
    assert_eq!(shard_files(directory), Vec::<std::path::PathBuf>::new());
    let bytes = bytes_below(directory);
    println!("the arbiter keeps {bytes} bytes");
    assert!(bytes < MIB, "{bytes}");
}

/// Lengths of all files below a folder.
fn bytes_below(folder: &std::path::Path) -> u64 {
    let entries = std::fs::read_dir(folder).expect("a readable folder").flatten();
    let sizes = entries.map(|entry| match entry.metadata().expect("metadata") {
        metadata if metadata.is_dir() => bytes_below(&entry.path()),
        metadata => metadata.len(),
    });
    sizes.sum()
}
