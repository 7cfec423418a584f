//! Rot on real disks: bytes of shard files change behind the bricks' backs while a client uses the image.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use brick_tests::cluster::command::brickctl;
use brick_tests::cluster::nbd::{NbdClient, NbdServer};
use brick_tests::cluster::pattern::{self, BLOCK_BYTES, Sequence};
use brick_tests::cluster::process::wait_for;
use brick_tests::cluster::{ARBITER, Cluster, D1, D2, shard_data, shard_files};
use serde_json::Value;

const MIB: u64 = 1 << 20;
const IMAGE_MIB: u64 = 64;
const SHARD_BLOCKS: u64 = 1024;
const BLOCKS: u64 = IMAGE_MIB * MIB / BLOCK_BYTES as u64;
/// Of each copy.
const ROTTEN_BLOCKS: usize = 500;

fn write_all(client: &mut NbdClient) {
    for offset in (0..IMAGE_MIB).map(|number| number * MIB) {
        client.write(offset, &pattern::blocks(offset, MIB as usize / BLOCK_BYTES, 1)).expect("written");
    }
    client.flush().expect("flushed");
}

/// A cluster with an image that is served and all written.
fn filled() -> (Cluster, NbdServer) {
    let cluster = Cluster::start();
    cluster.create_image("vm", &format!("{IMAGE_MIB}M"));
    let server = cluster.serve("vm");
    write_all(&mut server.connect());
    (cluster, server)
}

fn assert_reads_well(client: &mut NbdClient, block: u64) {
    let offset = block * BLOCK_BYTES as u64;
    let bytes = client.read(offset, BLOCK_BYTES).expect("read");
    assert_eq!(bytes, pattern::blocks(offset, 1, 1), "block {block}");
}

/// Changes one bit of each block, at a place of its own, in a brick's files.
fn rot(directory: &Path, blocks: &[u64]) {
    let files = shard_files(directory);
    for block in blocks {
        let name = format!("{:08x}.shard", block / SHARD_BLOCKS);
        let file = files.iter().find(|file| file.ends_with(&name)).expect("every shard was written");
        let path = directory.join(file);
        let file = OpenOptions::new().read(true).write(true).open(path).expect("a shard file");
        let offset = block % SHARD_BLOCKS * BLOCK_BYTES as u64 + block * 7 % BLOCK_BYTES as u64;
        let mut byte = [0];
        file.read_exact_at(&mut byte, offset).expect("read");
        file.write_all_at(&[byte[0] ^ 1 << (block % 8)], offset).expect("written");
        file.sync_all().expect("synced");
    }
}

fn scrub(cluster: &Cluster) -> Value {
    cluster.ctl(&["scrub", "vm", "--json"]).json()
}

/// scrub: 1,000 single bits flip, 500 in each copy, in different blocks, while a client reads all over the image.
/// No wrong byte is ever read, scrub finds exactly these, and the client's session repairs all.
#[test]
fn a_thousand_flipped_bits_are_found_and_repaired_in_use() {
    let (mut cluster, server) = filled();
    let rotten = Sequence::new(5).distinct(2 * ROTTEN_BLOCKS, BLOCKS);
    let (left, right) = rotten.split_at(ROTTEN_BLOCKS);
    rot(&cluster.bricks[D1].directory, left);
    rot(&cluster.bricks[D2].directory, right);
    let over = AtomicBool::new(false);
    let outcome = std::thread::scope(|scope| {
        let mut client = server.connect();
        let over = &over;
        scope.spawn(move || {
            let mut sequence = Sequence::new(6);
            while !over.load(Ordering::Relaxed) {
                assert_reads_well(&mut client, sequence.draw() % BLOCKS);
            }
        });
        let outcome = scrub(&cluster);
        over.store(true, Ordering::Relaxed);
        outcome
    });
    println!("scrub: {outcome}");
    assert_eq!(outcome["checked_blocks"], 2 * BLOCKS);
    assert_eq!(outcome["unrepairable_blocks"], 0);
    // Those that the reader met first were repaired before scrub came by.
    let found = outcome["bad_blocks"].as_u64().expect("a number");
    assert_eq!(outcome["repaired_blocks"], found);
    assert!(found > 0 && found <= 2 * ROTTEN_BLOCKS as u64, "{found}");
    let again = scrub(&cluster);
    assert_eq!((again["bad_blocks"].as_u64(), again["checked_blocks"].as_u64()), (Some(0), Some(2 * BLOCKS)));
    let mut client = server.connect();
    (0..BLOCKS).for_each(|block| assert_reads_well(&mut client, block));
    server.close();
    cluster.assert_copies_agree("vm");
}

/// scrub: nobody has the image open. Scrub finds exactly what rotted and repairs it itself.
#[test]
fn an_image_that_nobody_uses_is_repaired_by_scrub() {
    let (mut cluster, server) = filled();
    server.close();
    let rotten = Sequence::new(7).distinct(2 * ROTTEN_BLOCKS, BLOCKS);
    let (left, right) = rotten.split_at(ROTTEN_BLOCKS);
    rot(&cluster.bricks[D1].directory, left);
    rot(&cluster.bricks[D2].directory, right);
    let outcome = scrub(&cluster);
    println!("scrub: {outcome}");
    assert_eq!(outcome["bad_blocks"], 2 * ROTTEN_BLOCKS);
    assert_eq!(outcome["repaired_blocks"], 2 * ROTTEN_BLOCKS);
    assert_eq!(outcome["unrepairable_blocks"], 0);
    cluster.assert_copies_agree("vm");
}

/// scrub: the same block of both copies. Nobody can repair it; that is said, and only that block is lost.
#[test]
fn a_block_that_rotted_in_both_copies_is_said_to_be_lost() {
    let (mut cluster, server) = filled();
    for brick in [D1, D2] {
        rot(&cluster.bricks[brick].directory, &[77]);
    }
    let outcome = cluster.ctl(&["scrub", "vm", "--json"]);
    assert!(outcome.stdout.contains("\"unrepairable_blocks\":2"), "{}", outcome.stdout);
    outcome.refused(&["2 blocks stay bad"]);
    let mut client = server.connect();
    client.read(77 * BLOCK_BYTES as u64, BLOCK_BYTES).expect_err("no good copy of that block");
    assert_reads_well(&mut client, 76);
    client.write(77 * BLOCK_BYTES as u64, &pattern::blocks(77 * BLOCK_BYTES as u64, 1, 1)).expect("written");
    assert_reads_well(&mut client, 77);
    server.close();
    assert_eq!(scrub(&cluster)["bad_blocks"], 0);
    cluster.assert_copies_agree("vm");
}

/// heal agent: it scrubs by itself what wasn't scrubbed for a while, finds what rotted and has it repaired; when that
/// was, and what it found, can be asked.
#[test]
fn agents_scrub_on_a_schedule() {
    let (mut cluster, server) = filled();
    server.close();
    let status = |cluster: &Cluster| cluster.ctl(&["scrub", "vm", "--status", "--json"]).json();
    assert_eq!(status(&cluster)["finished_seconds"], Value::Null);
    let rotten = Sequence::new(13).distinct(50, BLOCKS);
    rot(&cluster.bricks[D2].directory, &rotten);
    let mut command = brickctl();
    command.arg("-v").arg(cluster.volume()).args(["heal", "agent", "--interval", "0.2", "--json"]);
    // An image is as old as its creation, in whole seconds.
    command.args(["--scrub-days", "0.00001", "--scrub-rate", "1G"]);
    let mut agent = cluster.spawn(command, "agent");
    let line = wait_for("a scrub by the agent", Duration::from_secs(90), || {
        let text = agent.stdout();
        text.contains('\n').then(|| text.lines().next().expect("a line").to_owned())
    });
    agent.terminate(Duration::from_secs(30));
    let outcome: Value = serde_json::from_str(&line).expect("one line of JSON a scrub");
    assert_eq!((&outcome["image"], &outcome["checked_blocks"]), (&"vm".into(), &(2 * BLOCKS).into()));
    assert_eq!((&outcome["bad_blocks"], &outcome["repaired_blocks"]), (&50.into(), &50.into()));
    assert!(status(&cluster)["finished_seconds"].as_u64() > Some(0));
    // A scrub by hand counts, too.
    assert_eq!(scrub(&cluster)["bad_blocks"], 0);
    assert_eq!((&status(&cluster)["bad_blocks"], &status(&cluster)["shards"]), (&0.into(), &Value::Null));
    cluster.assert_copies_agree("vm");
}

/// Blocks that a disk forgets in the tests below.
const FORGOTTEN_BLOCKS: usize = 300;

/// A volume of an image whose blocks were all written, and some of them (returned) once more; the disk of `liar` has
/// forgotten that again, data and CRCs, although it was flushed.
fn forgetful(liar: usize) -> (Cluster, Vec<u64>) {
    let (mut cluster, server) = filled();
    server.close();
    let directory = cluster.bricks[liar].directory.clone();
    cluster.bricks[liar].stop();
    let files = shard_files(&directory);
    let before: Vec<Vec<u8>> =
        files.iter().map(|file| std::fs::read(directory.join(file)).expect("a shard file")).collect();
    cluster.bricks[liar].start();
    let mut blocks = Sequence::new(11).distinct(FORGOTTEN_BLOCKS, BLOCKS);
    blocks.sort_unstable();
    let server = cluster.serve("vm");
    let mut client = server.connect();
    for block in &blocks {
        let offset = block * BLOCK_BYTES as u64;
        client.write(offset, &pattern::blocks(offset, 1, 2)).expect("written");
    }
    client.flush().expect("flushed");
    server.close();
    cluster.bricks[liar].stop();
    for (file, content) in files.iter().zip(&before) {
        let path = directory.join(file);
        let file = OpenOptions::new().write(true).open(path).expect("a shard file");
        file.write_all_at(content, 0).expect("written");
        file.sync_all().expect("synced");
    }
    cluster.bricks[liar].start();
    (cluster, blocks)
}

fn assert_nothing_is_forgotten(cluster: &mut Cluster, newer: &[u64]) {
    let server = cluster.serve("vm");
    let mut client = server.connect();
    for block in 0..BLOCKS {
        let offset = block * BLOCK_BYTES as u64;
        let version = if newer.binary_search(&block).is_ok() { 2 } else { 1 };
        let bytes = client.read(offset, BLOCK_BYTES).expect("read");
        assert_eq!(bytes, pattern::blocks(offset, 1, version), "block {block}");
    }
    server.close();
    cluster.assert_copies_agree("vm");
}

/// scrub: a disk forgot writes that it had called durable, and finds itself in order. The arbiter knows better,
/// whichever copy it is, and whether or not somebody has the image open.
#[test]
fn the_arbiter_says_which_of_two_copies_is_right() {
    for (liar, in_use) in [(D1, false), (D2, true)] {
        let (mut cluster, newer) = forgetful(liar);
        let server = in_use.then(|| cluster.serve("vm"));
        let outcome = scrub(&cluster);
        println!("scrub: {outcome}");
        assert_eq!(outcome["bad_blocks"], FORGOTTEN_BLOCKS);
        assert_eq!(outcome["repaired_blocks"], FORGOTTEN_BLOCKS);
        assert_eq!(outcome["unrepairable_blocks"], 0);
        assert_eq!(scrub(&cluster)["bad_blocks"], 0);
        if let Some(server) = server {
            server.close();
        }
        assert_nothing_is_forgotten(&mut cluster, &newer);
    }
}

/// scrub: without the arbiter nobody can say which copy is right, so nothing is touched. With it, it is.
#[test]
fn copies_that_differ_are_left_alone_while_nobody_knows_better() {
    let (mut cluster, newer) = forgetful(D2);
    cluster.bricks[ARBITER].stop();
    let outcome = cluster.ctl(&["scrub", "vm", "--json"]);
    assert!(
        outcome.stdout.contains(&format!("\"unrepairable_blocks\":{FORGOTTEN_BLOCKS}")),
        "{}",
        outcome.stdout
    );
    outcome.refused(&["300 blocks stay bad"]);
    cluster.bricks[ARBITER].start();
    assert_eq!(scrub(&cluster)["repaired_blocks"], FORGOTTEN_BLOCKS);
    assert_nothing_is_forgotten(&mut cluster, &newer);
}

/// scrub: the arbiter was killed and learns anew, while the copy that it would ask first is the one that forgot. It must
/// not learn from that, or the right copy would be outvoted and destroyed.
#[test]
fn an_arbiter_that_learns_anew_takes_no_side() {
    let (mut cluster, newer) = forgetful(D1);
    cluster.bricks[ARBITER].kill();
    cluster.bricks[ARBITER].start();
    let outcome = cluster.ctl(&["scrub", "vm", "--json"]);
    assert!(outcome.stdout.contains("\"repaired_blocks\":0"), "{}", outcome.stdout);
    outcome.refused(&["300 blocks stay bad"]);
    cluster.bricks[D1].stop();
    let server = cluster.serve("vm");
    let mut client = server.connect();
    for block in &newer {
        let offset = block * BLOCK_BYTES as u64;
        assert_eq!(
            client.read(offset, BLOCK_BYTES).expect("read"),
            pattern::blocks(offset, 1, 2),
            "block {block}"
        );
    }
    server.close();
}

/// arbiter: it was away while blocks were written, and a clean stop and start later it knows them all: a copy that
/// forgets them afterwards is found out.
#[test]
fn an_arbiter_that_was_away_learns_what_it_missed() {
    let (mut cluster, server) = filled();
    server.close();
    cluster.bricks[ARBITER].stop();
    let server = cluster.serve("vm");
    let mut client = server.connect();
    for block in 0..64u64 {
        let offset = block * 16 * BLOCK_BYTES as u64;
        client.write(offset, &pattern::blocks(offset, 1, 2)).expect("written");
    }
    client.flush().expect("flushed");
    server.close();
    cluster.bricks[ARBITER].start();
    let state = |cluster: &Cluster| cluster.health("vm")["bricks"][ARBITER]["state"].clone();
    assert_eq!((cluster.health("vm")["state"].clone(), state(&cluster)), ("degraded".into(), "stale".into()));
    cluster.heal("vm");
    assert_eq!(
        (cluster.health("vm")["state"].clone(), state(&cluster)),
        ("healthy".into(), "in_sync".into())
    );
    // What a shard's page says survives a start.
    cluster.bricks[ARBITER].stop();
    cluster.bricks[ARBITER].start();
    let brick = &mut cluster.bricks[D2];
    brick.stop();
    let file = shard_files(&brick.directory).into_iter().find(|file| file.ends_with("00000000.shard"));
    let path = brick.directory.join(file.expect("written"));
    let file = OpenOptions::new().write(true).open(path).expect("a shard file");
    // A file of zeros finds itself in order.
    let shard_blocks = SHARD_BLOCKS as usize;
    file.write_all_at(&vec![0; (shard_blocks + 2) * BLOCK_BYTES], 0).expect("written");
    cluster.bricks[D2].start();
    let outcome = scrub(&cluster);
    assert_eq!(
        (&outcome["bad_blocks"], &outcome["repaired_blocks"]),
        (&1024.into(), &1024.into()),
        "{outcome}"
    );
    cluster.assert_copies_agree("vm");
}

/// rot: the page of CRCs of every shard of one brick, while it is down. No good block counts as bad for it.
#[test]
fn rotten_pages_take_no_good_block_with_them() {
    let (mut cluster, server) = filled();
    server.close();
    cluster.bricks[D1].stop();
    let directory = cluster.bricks[D1].directory.clone();
    for file in shard_files(&directory) {
        let path = directory.join(file);
        let page_offset = shard_data(&path).len() as u64;
        let file = OpenOptions::new().write(true).open(path).expect("a shard file");
        file.write_all_at(&[0xa5; 64], page_offset + 128).expect("written");
    }
    cluster.bricks[D1].start();
    let outcome = scrub(&cluster);
    assert_eq!(
        (outcome["bad_blocks"].as_u64(), outcome["checked_blocks"].as_u64()),
        (Some(0), Some(2 * BLOCKS))
    );
    let server = cluster.serve("vm");
    let mut client = server.connect();
    (0..BLOCKS).for_each(|block| assert_reads_well(&mut client, block));
    server.close();
    cluster.assert_copies_agree("vm");
}

/// rot: shards of the smallest and of the largest size, whose pages have other lengths.
#[test]
fn shards_of_every_size_are_watched() {
    for (size, shard_blocks) in [("1M", 256), ("64M", 16384)] {
        let mut cluster = Cluster::start();
        cluster.ctl(&["image", "create", "vm", "--size", "64M", "--shard-size", size]).ok();
        let server = cluster.serve("vm");
        write_all(&mut server.connect());
        server.close();
        for brick in [D1, D2] {
            cluster.bricks[brick].stop();
            cluster.bricks[brick].start();
        }
        let file = &shard_files(&cluster.bricks[D1].directory)[0];
        let path = cluster.bricks[D1].directory.join(file);
        let file = OpenOptions::new().write(true).open(path).expect("a shard file");
        file.write_all_at(&[0xa5; 8], (shard_blocks - 1) * BLOCK_BYTES as u64).expect("written");
        let outcome = scrub(&cluster);
        assert_eq!(
            (&outcome["bad_blocks"], &outcome["repaired_blocks"]),
            (&1.into(), &1.into()),
            "{outcome}"
        );
        cluster.assert_copies_agree("vm");
    }
}
