//! Disks that fill up: the user is told when all are full, and doesn't notice when one is.

use brick_tests::cluster::disk::SmallDisk;
use brick_tests::cluster::nbd::{NO_SPACE, NbdClient};
use brick_tests::cluster::pattern;
use brick_tests::cluster::process::wait_for;
use brick_tests::cluster::{Cluster, D2, Options};

const MIB: u64 = 1 << 20;
const SHARD_BYTES: u64 = 4 << 20;

/// Writes one block into each of `shards`; returns how many were written, and the error that ended it.
fn write_shards(
    client: &mut NbdClient,
    shards: std::ops::Range<u64>,
    version: u64,
) -> (u64, Option<std::io::Error>) {
    for (count, shard) in shards.clone().enumerate() {
        let offset = shard * SHARD_BYTES;
        if let Err(error) = client.write(offset, &pattern::blocks(offset, 1, version)) {
            return (count as u64, Some(error));
        }
    }
    (shards.end - shards.start, None)
}

#[track_caller]
fn check_shards(client: &mut NbdClient, shards: std::ops::Range<u64>, version: u64) {
    for offset in shards.map(|shard| shard * SHARD_BYTES) {
        let bytes = client.read(offset, pattern::BLOCK_BYTES).expect("it can be read");
        assert!(bytes == pattern::blocks(offset, 1, version), "offset {offset}");
    }
}

/// full disk: all data bricks.
/// Write until there is no room: ENOSPC, what was written stays; after making room it goes on.
#[test]
fn all_bricks_full() {
    let (Some(left), Some(right)) = (SmallDisk::mount("160M"), SmallDisk::mount("160M")) else { return };
    let options = Options { disks: vec![Some(left.path()), Some(right.path())], ..Options::default() };
    let mut cluster = Cluster::with(&options);
    cluster.create_image("vm", "1G");
    left.fill(40 * MIB);
    right.fill(40 * MIB);
    let server = cluster.serve("vm");
    let mut client = server.connect();
    let (written, error) = write_shards(&mut client, 0..256, 1);
    let error = error.expect("the disks are small");
    assert_eq!(error.raw_os_error(), Some(NO_SPACE), "{error}");
    assert!(written > 0);
    check_shards(&mut client, 0..written, 1);
    assert_eq!(write_shards(&mut client, 0..written, 2).0, written, "what has its room can be changed");
    client.flush().expect("what was written is kept");

    left.make_room();
    right.make_room();
    wait_for("there is room again", std::time::Duration::from_secs(60), || {
        write_shards(&mut client, written..written + 4, 2).1.is_none().then_some(())
    });
    check_shards(&mut client, 0..written + 4, 2);
    cluster.wait_for_state("vm", "healthy");
    server.close();
    cluster.assert_copies_agree("vm");
}

/// full disk: one data brick.
/// It leaves the in-sync set and I/O goes on; with room again it is healed.
#[test]
fn one_brick_full() {
    let Some(small) = SmallDisk::mount("160M") else { return };
    let options = Options { disks: vec![None, Some(small.path())], ..Options::default() };
    let mut cluster = Cluster::with(&options);
    cluster.create_image("vm", "1G");
    small.fill(40 * MIB);
    let server = cluster.serve("vm");
    let mut client = server.connect();
    let (written, error) = write_shards(&mut client, 0..32, 1);
    assert_eq!((written, error.map(|error| error.to_string())), (32, None));
    client.flush().expect("I/O goes on");
    check_shards(&mut client, 0..32, 1);
    let health = cluster.health("vm");
    assert_ne!(health["state"], "healthy");
    assert_eq!(health["bricks"][D2]["state"], "stale", "{health}");

    small.make_room();
    cluster.wait_for_state("vm", "healthy");
    check_shards(&mut client, 0..32, 1);
    server.close();
    cluster.assert_copies_agree("vm");
}
