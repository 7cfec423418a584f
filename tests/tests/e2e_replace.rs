//! A brick whose disk is lost, and the empty one that takes its place: under I/O, at another address or the same one;
//! and the lost disk that comes back.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use brick_tests::cluster::command::{brickctl, run};
use brick_tests::cluster::nbd::NbdClient;
use brick_tests::cluster::pattern::{self, BLOCK_BYTES};
use brick_tests::cluster::{ARBITER, Cluster, D1, D2};
use serde_json::Value;

const MIB: u64 = 1 << 20;
const BLOCKS_PER_MIB: usize = MIB as usize / BLOCK_BYTES;

fn write_mebibytes(client: &mut NbdClient, range: std::ops::Range<u64>, version: u64) {
    for offset in range.map(|number| number * MIB) {
        client.write(offset, &pattern::blocks(offset, BLOCKS_PER_MIB, version)).expect("written");
    }
    client.flush().expect("flushed");
}

fn assert_mebibytes(client: &mut NbdClient, range: std::ops::Range<u64>, version: u64) {
    for offset in range.map(|number| number * MIB) {
        let found = client.read(offset, MIB as usize).expect("read");
        assert!(found == pattern::blocks(offset, BLOCKS_PER_MIB, version), "MiB {}", offset / MIB);
    }
}

/// An image with `mebibytes` of data, closed.
fn cluster_with_data(mebibytes: u64) -> Cluster {
    let cluster = Cluster::start();
    cluster.create_image("vm", "64M");
    let server = cluster.serve("vm");
    write_mebibytes(&mut server.connect(), 0..mebibytes, 1);
    server.close();
    cluster
}

fn replace(cluster: &Cluster, old: &str, new: &str) -> Value {
    cluster.ctl(&["volume", "replace-brick", old, new, "--yes", "--json"]).json()
}

fn copied_bytes(answer: &Value) -> u64 {
    let images = answer["images"].as_array().expect("images");
    images.iter().map(|image| image["healed_bytes"].as_u64().expect("a figure")).sum()
}

/// replace-brick: D2's machine is gone; a new one takes its place while the image is written.
/// No I/O fails. The client that has the image goes on without the new brick; the next one, with the new volume file,
/// heals it: all that is allocated and nothing else.
#[test]
fn a_data_brick_is_replaced_under_io() {
    let mut cluster = cluster_with_data(16);
    let server = cluster.serve("vm");
    let mut client = server.connect();
    write_mebibytes(&mut client, 0..4, 2);
    cluster.bricks[D2].kill();
    let spare = cluster.spare_brick("spare", "data");
    let (old, new) = (cluster.bricks[D2].address(), spare.address());

    let unasked = cluster.ctl(&["volume", "replace-brick", &old, &new]);
    assert!(!unasked.status.success() && unasked.stderr.contains("needs a yes"), "{}", unasked.stderr);
    assert!(
        unasked.stderr.contains(&new) && unasked.stderr.contains("takes the place"),
        "{}",
        unasked.stderr
    );
    assert!(!fs::read_to_string(cluster.volume()).unwrap().contains(&new), "nothing was changed");

    let stop = AtomicBool::new(false);
    let answer = thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut rounds = 0;
            while !stop.load(Ordering::SeqCst) || rounds == 0 {
                write_mebibytes(&mut client, 4..8, 3 + rounds);
                rounds += 1;
            }
            2 + rounds
        });
        let answer = replace(&cluster, &old, &new);
        stop.store(true, Ordering::SeqCst);
        (answer, writer.join().expect("no write failed"))
    });
    let (answer, last) = answer;
    assert_eq!((&answer["brick"], &answer["in_use"][0]), (&Value::from(new.as_str()), &Value::from("vm")));
    let volume = fs::read_to_string(cluster.volume()).unwrap();
    assert!(volume.contains(&new) && !volume.contains(&old), "{volume}");
    assert!(volume.contains(answer["uuid"].as_str().unwrap()), "the uuid stays");
    let mut client = server.connect();
    assert_mebibytes(&mut client, 4..8, last);
    drop(client);
    server.close();

    cluster.bricks[D2] = spare;
    let server = cluster.serve("vm");
    cluster.wait_for_state("vm", "healthy");
    let mut client = server.connect();
    assert_mebibytes(&mut client, 0..4, 2);
    assert_mebibytes(&mut client, 4..8, last);
    assert_mebibytes(&mut client, 8..16, 1);
    drop(client);
    server.close();
    let history = cluster.ctl(&["heal", "history", "vm", "--json"]).json();
    let heals = history["heals"].as_array().expect("heals");
    let healed: u64 = heals
        .iter()
        .filter(|heal| heal["brick"] == new)
        .map(|heal| heal["healed_bytes"].as_u64().expect("a figure"))
        .sum();
    println!("16 MiB are allocated, {healed} bytes were copied");
    assert!(healed > 15 * MIB && healed <= 16 * MIB, "{history}");
    cluster.assert_copies_agree("vm");
}

/// replace-brick: nobody has the image open.
/// The command heals it. Run once more, as after an interruption, it finds nothing left to do.
#[test]
fn a_closed_image_is_healed_by_the_command() {
    let mut cluster = cluster_with_data(8);
    cluster.bricks[D1].kill();
    let spare = cluster.spare_brick("spare", "data");
    let (old, new) = (cluster.bricks[D1].address(), spare.address());
    let answer = replace(&cluster, &old, &new);
    assert_eq!(answer["images"][0]["image"], "vm", "{answer}");
    assert!((7 * MIB..=8 * MIB).contains(&copied_bytes(&answer)), "{answer}");
    assert_eq!(cluster.health("vm")["state"], "healthy");
    assert_eq!(copied_bytes(&replace(&cluster, &old, &new)), 0);

    cluster.bricks[D1] = spare;
    cluster.bricks[D1].stop();
    cluster.bricks[D1].start();
    assert_eq!(cluster.health("vm")["state"], "healthy", "it is that brick for good");
    cluster.assert_copies_agree("vm");
}

/// replace-brick: the arbiter. There is nothing to copy; and it votes at once.
#[test]
fn an_arbiter_is_replaced() {
    let mut cluster = cluster_with_data(4);
    cluster.bricks[ARBITER].kill();
    let spare = cluster.spare_brick("spare", "arbiter");
    let data = cluster.spare_brick("data", "data");
    let (old, new) = (cluster.bricks[ARBITER].address(), spare.address());
    cluster
        .ctl(&["volume", "replace-brick", &old, &data.address(), "--yes"])
        .refused(&["it was formatted as data"]);
    let answer = replace(&cluster, &old, &new);
    assert_eq!(copied_bytes(&answer), 0, "{answer}");
    cluster.bricks[ARBITER] = spare;
    assert_eq!(cluster.health("vm")["state"], "healthy");
    cluster.bricks[D2].kill();
    let server = cluster.serve("vm");
    let mut client = server.connect();
    write_mebibytes(&mut client, 0..2, 2);
    cluster.bricks[D2].start();
    cluster.wait_for_state("vm", "healthy");
    drop(client);
    server.close();
    cluster.assert_copies_agree("vm");
}

/// reset-brick: a new disk at the old address, while the image is served.
/// The client that has the image finds the new brick there by itself, and heals it.
#[test]
fn a_brick_is_reset_under_a_client() {
    let mut cluster = cluster_with_data(8);
    let server = cluster.serve("vm");
    let mut client = server.connect();
    write_mebibytes(&mut client, 0..2, 2);
    let address = cluster.bricks[D2].address();
    cluster.ctl(&["volume", "reset-brick", &address, "--yes"]).refused(&["it is the brick itself"]);
    cluster.bricks[D2].kill();
    let new_disk = cluster.path("new-disk");
    cluster.bricks[D2].start_empty(new_disk);
    write_mebibytes(&mut client, 2..4, 2);
    let answer = cluster.ctl(&["volume", "reset-brick", &address, "--yes", "--json"]).json();
    assert!((7 * MIB..=8 * MIB).contains(&copied_bytes(&answer)), "{answer}");
    assert_eq!(cluster.health("vm")["state"], "healthy");
    assert_mebibytes(&mut client, 0..4, 2);
    assert_mebibytes(&mut client, 4..8, 1);
    drop(client);
    server.close();
    cluster.assert_copies_agree("vm");
}

/// replace-brick: what must not be done isn't.
#[test]
fn replacements_that_lose_something_are_refused() {
    let mut cluster = cluster_with_data(2);
    let spare = cluster.spare_brick("spare", "data");
    let address = |index: usize| cluster.bricks[index].address();
    let (d1, d2, new) = (address(D1), address(D2), spare.address());
    let try_replace = |cluster: &Cluster, old: &str, new: &str| {
        cluster.ctl(&["volume", "replace-brick", old, new, "--yes"])
    };
    try_replace(&cluster, "127.0.0.1:9", &new).refused(&["is no brick of this volume"]);
    try_replace(&cluster, &d1, &d2).refused(&["one of the volume's bricks"]);
    try_replace(&cluster, &d1, "127.0.0.1:9").refused(&["can't connect to 127.0.0.1:9"]);
    cluster.bricks[ARBITER].kill();
    try_replace(&cluster, &d1, &new).refused(&["every other brick of the group has to know"]);
    cluster.bricks[ARBITER].start();

    cluster.bricks[D1].kill();
    let server = cluster.serve("vm");
    write_mebibytes(&mut server.connect(), 0..1, 2);
    server.close();
    cluster.bricks[D1].start();
    let sentence = try_replace(&cluster, &d2, &new).refused(&["the only good copy of image \"vm\" is on it"]);
    assert!(sentence.contains(&d2) && sentence.contains("declare-good"), "{sentence}");
    cluster.heal("vm");
    cluster.assert_copies_agree("vm");
}

/// replace-brick: the lost disk comes back at its old address, for who still has the old volume file.
/// Together with one other brick it must not make a quorum, although no record may know its successor's life.
#[test]
fn the_lost_disk_makes_no_quorum() {
    let mut cluster = cluster_with_data(4);
    let old_file = cluster.path("old.toml");
    fs::copy(cluster.volume(), &old_file).expect("copied");
    cluster.bricks[D2].stop();
    let mut spare = cluster.spare_brick("spare", "data");
    replace(&cluster, &cluster.bricks[D2].address(), &spare.address());
    let server = cluster.serve("vm");
    write_mebibytes(&mut server.connect(), 0..2, 2);
    server.close();
    spare.stop();
    cluster.bricks[D1].stop();
    cluster.bricks[D2].start();

    let old = |arguments: &[&str]| run(brickctl().arg("-v").arg(&old_file).args(arguments));
    old(&["image", "ls"]).refused(&["no quorum", "another brick has taken"]);
    let socket = cluster.fresh_socket();
    let served = brick_tests::cluster::nbd::NbdServer::start(&old_file, "vm", socket, &cluster.logs(), &[]);
    let refusal = served.expect_err("the lost disk and the arbiter are no quorum");
    assert!(refusal.contains("no quorum"), "{refusal}");

    // Nor with its successor's data brick, and heal doesn't teach it.
    cluster.bricks[D1].start();
    old(&["heal", "run"]).refused(&["offline"]);
    let status = old(&["volume", "status", "--json"]).json();
    assert_eq!(status["groups"][0]["bricks"][D2]["state"], "offline", "{status}");
    cluster.bricks[D2].stop();
    cluster.bricks[D2].start();
    cluster.bricks[D1].stop();
    old(&["image", "ls"]).refused(&["no quorum"]);
    cluster.bricks[D1].start();
    spare.start();
    let server = cluster.serve("vm");
    assert_mebibytes(&mut server.connect(), 0..2, 2);
    server.close();
    cluster.bricks[D2].stop();
    cluster.bricks[D2] = spare;
    cluster.assert_copies_agree("vm");
}
