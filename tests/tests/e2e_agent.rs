//! Heal agents: processes that keep the copies of images good which nobody has open, share them by their leases,
//! and let go of an image as soon as a client wants it.
//!
//! Where a test needs a heal to be in the middle, it stops the agent that drives it (SIGSTOP). Should that be over
//! before the signal comes, the test says so and goes on; no test depends on how long anything takes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use brick_tests::cluster::command::brickctl;
use brick_tests::cluster::nbd::NbdClient;
use brick_tests::cluster::pattern::{self, BLOCK_BYTES};
use brick_tests::cluster::process::{Process, wait_for};
use brick_tests::cluster::{Cluster, D2, Options};
use nix::sys::signal::Signal;
use serde_json::Value;

const MIB: u64 = 1 << 20;
const BLOCKS_PER_MIB: usize = MIB as usize / BLOCK_BYTES;
/// For whatever has to happen in the end.
const LIMIT: Duration = Duration::from_secs(90);

fn write_sequentially(client: &mut NbdClient, mebibytes: u64, version: u64) {
    for offset in (0..mebibytes).map(|number| number * MIB) {
        client.write(offset, &pattern::blocks(offset, BLOCKS_PER_MIB, version)).expect("written");
    }
    client.flush().expect("flushed");
}

fn assert_holds(client: &mut NbdClient, mebibytes: u64, version: u64) {
    for offset in (0..mebibytes).map(|number| number * MIB) {
        let found = client.read(offset, MIB as usize).expect("read");
        assert!(found == pattern::blocks(offset, BLOCKS_PER_MIB, version), "version {version} at {offset}");
    }
}

/// Images of which D2 misses all that was written last; nobody has them open, and D2 is back.
fn cluster_with_stale(images: &[&str], mebibytes: u64) -> Cluster {
    let mut cluster = Cluster::start();
    for image in images {
        cluster.create_image(image, "1G");
        let server = cluster.serve(image);
        write_sequentially(&mut server.connect(), mebibytes, 1);
        server.close();
    }
    cluster.bricks[D2].kill();
    for image in images {
        let server = cluster.serve(image);
        write_sequentially(&mut server.connect(), mebibytes, 2);
        server.close();
    }
    cluster.bricks[D2].start();
    cluster
}

fn agent(cluster: &Cluster, name: &str) -> Process {
    let mut command = brickctl();
    command.arg("-v").arg(cluster.volume()).args(["heal", "agent", "--interval", "0.2", "--json"]);
    cluster.spawn(command, name)
}

/// The heals that an agent has finished.
fn heals(agent: &Process) -> Vec<Value> {
    let text = agent.stdout();
    let complete = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
    complete.lines().map(|line| serde_json::from_str(line).expect("one line of JSON a heal")).collect()
}

fn wait_until_logged(agent: &mut Process, mark: &str) {
    wait_for(&format!("the agent says {mark:?}"), LIMIT, || agent.stderr().contains(mark).then_some(()));
}

fn end_well(mut agent: Process) {
    let status = agent.terminate(LIMIT);
    assert!(status.success(), "{status}: {}", agent.stderr());
}

fn in_use(cluster: &Cluster, image: &str) -> bool {
    cluster.ctl(&["image", "stat", image, "--json"]).json()["in_use"].as_bool().expect("a truth value")
}

/// Waits until an agent holds the image, and stops its process there. Whether it still holds it then.
fn stop_in_the_middle(cluster: &Cluster, image: &str, agent: &Process) -> bool {
    wait_for("the agent takes the image", LIMIT, || {
        (in_use(cluster, image) || !heals(agent).is_empty()).then_some(())
    });
    agent.stop();
    let holds = in_use(cluster, image);
    if !holds {
        println!("the heal was over before the agent could be stopped");
    }
    holds
}

/// agent: a brick was away, nobody holds the image. The agent heals what the brick missed, says what that took, and
/// gives the image back.
#[test]
fn agent_heals_what_nobody_holds() {
    const MEBIBYTES: u64 = 8;
    let mut cluster = cluster_with_stale(&["vm"], MEBIBYTES);
    assert_eq!(cluster.health("vm")["state"], "degraded");
    let mut agent = agent(&cluster, "agent");
    agent.wait_for_line("healed_blocks", LIMIT).expect("it heals");
    let heals = heals(&agent);
    println!("healed {MEBIBYTES} MiB: {}", heals[0]);
    assert_eq!(heals.len(), 1, "{heals:?}");
    assert_eq!(heals[0]["image"], "vm");
    assert_eq!(heals[0]["healed_blocks"], MEBIBYTES * BLOCKS_PER_MIB as u64);
    assert_eq!(cluster.health("vm")["state"], "healthy");
    assert!(!in_use(&cluster, "vm"));
    end_well(agent);
    cluster.assert_copies_agree("vm");
}

/// agent: nothing is to be done. It opens nothing, and ends when it is told to; with --once, by itself.
#[test]
fn agent_leaves_the_healthy_alone() {
    let cluster = Cluster::start();
    cluster.create_image("vm", "64M");
    let server = cluster.serve("vm");
    write_sequentially(&mut server.connect(), 4, 1);
    let outcome = cluster.ctl(&["heal", "agent", "--once", "--json"]).ok();
    assert_eq!(outcome.stdout, "", "a client has it open");
    server.close();
    let epoch = cluster.health("vm")["epoch"].clone();
    let outcome = cluster.ctl(&["heal", "agent", "--once", "--json"]).ok();
    assert_eq!(outcome.stdout, "");
    assert_eq!(cluster.health("vm")["epoch"], epoch, "nobody opened it");
}

/// agent: a client opens the image in the middle of its heal. It is served although the agent holds the image; the
/// agent lets go and says so; nothing that either of them wrote is lost.
#[test]
fn agent_yields_to_a_client() {
    const MEBIBYTES: u64 = 64;
    let mut cluster = cluster_with_stale(&["vm"], MEBIBYTES);
    let mut agent = agent(&cluster, "agent");
    let holds = stop_in_the_middle(&cluster, "vm", &agent);
    let server = cluster.serve("vm");
    let mut client = server.connect();
    assert_holds(&mut client, MEBIBYTES, 2);
    write_sequentially(&mut client, MEBIBYTES / 2, 3);
    agent.signal(Signal::SIGCONT);
    if holds {
        wait_until_logged(&mut agent, "yields");
    }
    cluster.wait_for_state("vm", "healthy");
    assert_holds(&mut client, MEBIBYTES / 2, 3);
    server.close();
    end_well(agent);
    cluster.assert_copies_agree("vm");
}

/// agent: how long a client waits for an image that an agent is healing, and for one that nobody holds. Measured and
/// printed; that it is served, and what it reads, is what is asserted.
#[test]
fn agent_costs_an_opening_client_little() {
    const MEBIBYTES: u64 = 256;
    let mut cluster = cluster_with_stale(&["vm"], MEBIBYTES);
    let opening = |cluster: &Cluster| {
        let started = Instant::now();
        let server = cluster.serve("vm");
        let first = server.connect().read(0, BLOCK_BYTES).expect("read");
        assert!(first == pattern::blocks(0, 1, 2));
        (started.elapsed().as_millis(), server)
    };
    cluster.bricks[D2].kill();
    let (alone_ms, server) = opening(&cluster);
    server.close();
    cluster.bricks[D2].start();
    let agent = agent(&cluster, "agent");
    wait_for("the agent heals", LIMIT, || {
        let at_it = cluster.health("vm")["state"] == "healing";
        (at_it || !heals(&agent).is_empty()).then_some(())
    });
    let in_time = heals(&agent).is_empty();
    let (healing_ms, server) = opening(&cluster);
    println!(
        "open to first read: {alone_ms} ms alone, {healing_ms} ms with an agent at it (heal unfinished: {in_time})"
    );
    cluster.wait_for_state("vm", "healthy");
    server.close();
    end_well(agent);
    cluster.assert_copies_agree("vm");
}

/// agents: two of them share six images. Every image is healed, each missed block once.
#[test]
fn agents_share_the_images() {
    const MEBIBYTES: u64 = 4;
    let images = ["a", "b", "c", "d", "e", "f"];
    let mut cluster = cluster_with_stale(&images, MEBIBYTES);
    let agents = [agent(&cluster, "agent1"), agent(&cluster, "agent2")];
    for image in images {
        cluster.wait_for_state(image, "healthy");
        wait_for("the image is given back", LIMIT, || (!in_use(&cluster, image)).then_some(()));
    }
    let mut healed: BTreeMap<String, u64> = BTreeMap::new();
    for (index, agent) in agents.into_iter().enumerate() {
        let text = agent.stderr();
        // Told to end, it has told of every heal that it finished.
        let mut agent = agent;
        assert!(agent.terminate(LIMIT).success(), "{text}");
        let heals = heals(&agent);
        println!("agent {} healed {} of {} images", index + 1, heals.len(), images.len());
        for heal in heals {
            let image = heal["image"].as_str().expect("a name").to_owned();
            *healed.entry(image).or_default() += heal["healed_blocks"].as_u64().expect("a number");
        }
    }
    let expected = images.map(|image| (image.to_owned(), MEBIBYTES * BLOCKS_PER_MIB as u64));
    assert_eq!(healed, BTreeMap::from(expected));
    cluster.assert_all_copies_agree(&images, |_, _| {});
}

/// agents: one dies in the middle of a heal. Another one finishes it when the dead one's lease is over.
#[test]
fn agent_finishes_what_a_dead_one_began() {
    const MEBIBYTES: u64 = 64;
    let mut cluster = cluster_with_stale(&["vm"], MEBIBYTES);
    let mut first = agent(&cluster, "agent1");
    stop_in_the_middle(&cluster, "vm", &first);
    first.kill();
    let second = agent(&cluster, "agent2");
    cluster.wait_for_state("vm", "healthy");
    wait_for("the image is given back", LIMIT, || (!in_use(&cluster, "vm")).then_some(()));
    end_well(second);
    let server = cluster.serve("vm");
    assert_holds(&mut server.connect(), MEBIBYTES, 2);
    server.close();
    cluster.assert_copies_agree("vm");
}

/// agent: a client dies while every copy is there. The agent waits out its lease, makes the copies equal and closes
/// the image: the maps are clean, and nothing that was flushed is gone.
#[test]
fn agent_cleans_up_after_a_dead_client() {
    const MEBIBYTES: u64 = 8;
    let mut cluster = Cluster::start();
    cluster.create_image("vm", "64M");
    let server = cluster.serve("vm");
    let mut client = server.connect();
    write_sequentially(&mut client, MEBIBYTES, 1);
    client.write(0, &pattern::blocks(0, BLOCKS_PER_MIB, 1)).expect("written");
    server.kill();
    assert!(in_use(&cluster, "vm"));
    let agent = agent(&cluster, "agent");
    wait_for("the agent closes the image", LIMIT, || (!in_use(&cluster, "vm")).then_some(()));
    assert_eq!(cluster.health("vm")["state"], "healthy");
    end_well(agent);
    let server = cluster.serve("vm");
    assert_holds(&mut server.connect(), MEBIBYTES, 1);
    server.close();
    cluster.assert_copies_agree("vm");
}

/// watch and history: a heal under somebody's eyes. Every line of the watch is JSON with the keys that programs rely
/// on, it ends well on SIGINT, and the healed brick remembers the heal.
#[test]
fn heals_are_watched_and_remembered() {
    const MEBIBYTES: u64 = 64;
    let cluster = cluster_with_stale(&["vm", "other"], MEBIBYTES);
    let mut command = brickctl();
    command.arg("-v").arg(cluster.volume()).args(["heal", "watch", "--interval", "0.1", "--json"]);
    let mut watch = cluster.spawn(command, "watch");
    let mut command = brickctl();
    command.arg("-v").arg(cluster.volume()).args(["heal", "watch", "vm", "--interval", "0.1"]);
    let mut lines = cluster.spawn(command, "lines");
    lines.wait_for_line("vm degraded", LIMIT).expect("it shows the image");
    watch.wait_for_line("\"healthy\":0", LIMIT).expect("it shows both images");
    let agent = agent(&cluster, "agent");
    watch.wait_for_line("\"healthy\":2", LIMIT).expect("both are healed");
    lines.wait_for_line("all 1 images are healthy", LIMIT).expect("it is healed");
    for mut process in [watch, lines] {
        process.signal(Signal::SIGINT);
        let status = process.wait(LIMIT);
        assert!(status.success(), "{status}: {}", process.stderr());
        println!("{}", process.stdout().lines().next().unwrap_or_default());
        if process.stdout().starts_with('{') {
            process.stdout().lines().for_each(assert_watch_line);
        }
    }
    end_well(agent);

    let history = cluster.ctl(&["heal", "history", "vm", "--json"]).json();
    println!("{history}");
    let heals = history["heals"].as_array().expect("heals");
    assert_eq!(heals.len(), 1, "{history}");
    assert_eq!(heals[0]["image"], "vm");
    assert_eq!(heals[0]["brick"], cluster.bricks[D2].address().as_str());
    assert_eq!(heals[0]["healed_blocks"], MEBIBYTES * BLOCKS_PER_MIB as u64);
    assert!(heals[0]["age_ms"].is_u64() && heals[0]["seconds"].is_f64(), "{history}");
    assert!(heals[0]["wire_bytes"].as_u64() >= heals[0]["healed_bytes"].as_u64(), "{history}");
    let all = cluster.ctl(&["heal", "history", "--json"]).json();
    assert_eq!(all["heals"].as_array().map(Vec::len), Some(2), "{all}");
    let table = cluster.ctl(&["heal", "history"]).ok().stdout;
    assert_eq!(table.lines().count(), 3, "{table}");
}

fn assert_watch_line(line: &str) {
    let value: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line}"));
    assert!(value["healthy"].is_u64(), "{line}");
    for image in value["images"].as_array().expect("images") {
        assert!(
            image["image"].is_string() && image["state"].is_string() && image["epoch"].is_u64(),
            "{line}"
        );
        for figure in ["left_blocks", "done_blocks", "bytes_per_second"] {
            assert!(image[figure].is_u64(), "{figure} in {line}");
        }
        assert!(image["seconds_left"].is_u64() || image["seconds_left"].is_null(), "{line}");
        assert_eq!(image["bricks"].as_array().map(Vec::len), Some(3), "{line}");
    }
}

/// status: a brick that swallows every packet costs a look at all images a few times the brick timeout at most, however
/// many images there are.
#[test]
fn a_silent_brick_delays_the_status_once() {
    let images = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let options = Options { brick_timeout: Duration::from_secs(1), ..Options::default() };
    let mut cluster = Cluster::with(&options);
    images.iter().for_each(|image| cluster.create_image(image, "64M"));
    cluster.bricks[D2].pause();
    let started = Instant::now();
    let status = cluster.ctl(&["heal", "status", "--json"]).json();
    let took = started.elapsed();
    println!("heal status of {} images with a silent brick: {} ms", images.len(), took.as_millis());
    let shown = status["images"].as_array().expect("images");
    assert_eq!(shown.len(), images.len());
    assert!(shown.iter().all(|image| image["bricks"][D2]["state"] == "offline"), "{status}");
    // Asked one after the other, each image costs a timeout.
    assert!(took < options.brick_timeout * images.len() as u32, "{took:?}");
    cluster.bricks[D2].resume();
}
