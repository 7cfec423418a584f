//! What an operator does by hand on a bad day, or on a good one: declares a copy good, hands an image over.

use std::fs;
use std::thread;
use std::time::Duration;

use brick_tests::cluster::nbd::NbdServer;
use brick_tests::cluster::pattern::{self, BLOCK_BYTES};
use brick_tests::cluster::{Cluster, D1, D2};

/// Longer than the lease of a client that died, and than the pauses between attempts to open.
const A_WHILE: Duration = Duration::from_secs(8);

fn write_block(cluster: &Cluster, index: u64, version: u64) {
    let server = cluster.serve("vm");
    let mut client = server.connect();
    let offset = index * BLOCK_BYTES as u64;
    client.write(offset, &pattern::blocks(offset, 1, version)).unwrap();
    client.flush().unwrap();
    drop(client);
    server.close();
}

/// Whether a log of the brick says this.
fn is_logged(cluster: &Cluster, what: &str) -> bool {
    let logs = fs::read_dir(cluster.logs()).unwrap();
    logs.map(|entry| entry.unwrap().path()).any(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.contains("brick") && String::from_utf8_lossy(&fs::read(&path).unwrap()).contains(what)
    })
}

/// declare-good: D2 has the only good copy and doesn't come back.
/// The image is refused, and stays so without a yes. With one D1's copy serves, and D2, which comes back after all,
/// is healed from it. The bricks' logs tell who said so.
#[test]
fn a_stale_copy_serves_when_the_operator_says_so() {
    let mut cluster = Cluster::start_as_shipped();
    cluster.create_image("vm", "64M");
    write_block(&cluster, 0, 1);
    cluster.bricks[D1].stop();
    write_block(&cluster, 0, 2);
    cluster.bricks[D2].stop();
    cluster.bricks[D1].start();
    let (d1, d2) = (cluster.bricks[D1].address(), cluster.bricks[D2].address());
    let refusal = cluster.try_serve("vm", &[]).unwrap_err();
    assert!(refusal.contains(&format!("the only good copy is on {d2}")), "{refusal}");

    let declare = ["image", "declare-good", "vm", &d1];
    let unasked = cluster.ctl(&declare);
    assert!(!unasked.status.success() && unasked.stderr.contains("needs a yes"), "{}", unasked.stderr);
    assert!(unasked.stderr.contains("up to 1 blocks (4.00 KiB)"), "the price is told: {}", unasked.stderr);
    assert!(cluster.try_serve("vm", &[]).is_err(), "nothing was changed");
    cluster.ctl(&["image", "declare-good", "vm", "127.0.0.1:9", "--yes"]).refused(&["is no brick of image"]);
    cluster.ctl(&["image", "declare-good", "vm", &d1, "--yes"]).ok();
    assert!(is_logged(&cluster, "image declare-good"), "the bricks know who it was");

    let server = cluster.serve("vm");
    let mut client = server.connect();
    assert!(client.read(0, BLOCK_BYTES).unwrap() == pattern::blocks(0, 1, 1), "as old as D1's copy");
    cluster.bricks[D2].start();
    cluster.wait_for_state("vm", "healthy");
    assert!(client.read(0, BLOCK_BYTES).unwrap() == pattern::blocks(0, 1, 1), "D2 isn't believed");
    server.close();
    cluster.assert_copies_agree("vm");
}

/// handover: a second server waits for the image while the first serves it, as in a live migration.
/// The first is never disturbed; when it gives the image back the second has it at once, with all that was written.
#[test]
fn an_image_is_handed_over_to_who_waits_for_it() {
    let cluster = Cluster::start();
    cluster.create_image("vm", "64M");
    let first = cluster.serve("vm");
    let mut client = first.connect();
    let (volume, socket, logs) = (cluster.volume().to_owned(), cluster.fresh_socket(), cluster.logs());
    thread::scope(|scope| {
        let second = scope.spawn(|| NbdServer::start(&volume, "vm", socket, &logs, &["--wait", "60"]));
        thread::sleep(A_WHILE);
        assert!(!second.is_finished(), "it waits");
        client.write(0, &pattern::blocks(0, 1, 7)).expect("the first one serves on");
        client.flush().unwrap();
        drop(client);
        first.close();
        let second = second.join().unwrap().expect("the image was given back");
        let mut client = second.connect();
        assert!(client.read(0, BLOCK_BYTES).unwrap() == pattern::blocks(0, 1, 7));
        client.write(0, &pattern::blocks(0, 1, 8)).unwrap();
        second.close();
    });
}
