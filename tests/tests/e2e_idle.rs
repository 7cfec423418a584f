//! Nothing to do costs nothing: no thread of a brick or of an NBD server spins.

use std::thread;
use std::time::Duration;

use brick_tests::cluster::measure::{cpu_ticks, system_calls};
use brick_tests::cluster::tools::{have, is_root};
use brick_tests::cluster::{ARBITER, Cluster, D1, D2};

const PERIOD: Duration = Duration::from_secs(10);
/// A brick without clients: a timer may tick, a signal may be looked at.
const BRICK_CALLS_MAX: u64 = 40;
/// With a client that keeps its lease: renewals, several a lease time, to each brick.
const SERVED_CALLS_MAX: u64 = 200;
/// Processor time in the period, clock ticks (1/100 s): half a percent.
const TICKS_MAX: u64 = 5;

/// System calls of several processes in the same period, each with its bound.
fn assert_idle(processes: &[(&str, u32, u64)]) {
    thread::scope(|scope| {
        for (name, pid, calls_max) in processes {
            scope.spawn(move || {
                let calls = system_calls(*pid, PERIOD);
                let total: u64 = calls.values().sum();
                println!("{name}: {total} system calls in {} s: {calls:?}", PERIOD.as_secs());
                assert!(total <= *calls_max, "{name}: {calls:?}");
            });
        }
    });
}

/// idle: bricks without clients.
/// Use an image and close it; then count system calls of D1 and processor time of D2 and A for 10 s.
#[test]
fn a_brick_without_clients_sleeps() {
    if !have(&["strace", "timeout"]) || !is_root("attaching strace to others") {
        return;
    }
    let mut cluster = Cluster::start();
    cluster.create_image("vm", "64M");
    let server = cluster.serve("vm");
    server.connect().write(0, &[7; 4096]).expect("written");
    server.close();
    let pids: Vec<u32> = cluster.bricks.iter_mut().map(|brick| brick.process().pid()).collect();
    let before = [D2, ARBITER].map(|index| cpu_ticks(pids[index]));
    assert_idle(&[("D1", pids[D1], BRICK_CALLS_MAX)]);
    let after = [D2, ARBITER].map(|index| cpu_ticks(pids[index]));
    println!("processor ticks of D2 and A: {before:?}, 10 s later {after:?}");
    assert!((0..2).all(|index| after[index] - before[index] <= TICKS_MAX), "{before:?} {after:?}");
}

/// idle: an image that is served and not used.
/// Only renewals of the lease go over the wire, on all sides.
#[test]
fn an_idle_client_only_renews() {
    if !have(&["strace", "timeout"]) || !is_root("attaching strace to others") {
        return;
    }
    let mut cluster = Cluster::start();
    cluster.create_image("vm", "64M");
    let mut server = cluster.serve("vm");
    let mut client = server.connect();
    client.write(0, &[7; 4096]).expect("written");
    client.flush().expect("flushed");
    let nbd = server.process().pid();
    let pids: Vec<u32> = cluster.bricks.iter_mut().map(|brick| brick.process().pid()).collect();
    let before = cpu_ticks(pids[ARBITER]);
    assert_idle(&[
        ("nbd", nbd, SERVED_CALLS_MAX),
        ("D1", pids[D1], SERVED_CALLS_MAX),
        ("D2", pids[D2], SERVED_CALLS_MAX),
    ]);
    let after = cpu_ticks(pids[ARBITER]);
    println!("processor ticks of A: {before}, 10 s later {after}");
    assert!(after - before <= TICKS_MAX, "{before} {after}");
    server.close();
}
