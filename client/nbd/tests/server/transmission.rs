//! What an honest client may rely on: concurrency, order of replies, durability flags, errors, and an
//! orderly shutdown.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use crate::support::{Behaviour, Counters, TestServer, connect_tcp, connect_unix};
use brick_nbd::{BindError, DeviceError, Server};

const READ: u16 = 0;
const WRITE: u16 = 1;
const DISC: u16 = 2;
const FLUSH: u16 = 3;
const BLOCK_STATUS: u16 = 7;
const FUA: u16 = 1;
const REQ_ONE: u16 = 8;

#[test]
fn requests_run_concurrently_and_fast_ones_overtake() {
    let delay = Duration::from_millis(100);
    let server = TestServer::unix(Behaviour { delay, ..Behaviour::default() });
    let mut client = connect_unix(&server.socket()).enter();
    let start = Instant::now();
    for cookie in 0..40 {
        client.request(READ, 0, cookie, cookie * 4096, 512);
    }
    let mut order = Vec::new();
    for _ in 0..40 {
        order.push(client.simple_reply().1);
        client.take(512);
    }
    let elapsed = start.elapsed();
    assert!(elapsed < delay * 10, "40 requests, one after the other, take 80 delays; took {elapsed:?}");
    assert!(order[..20].iter().all(|cookie| cookie % 2 == 0), "even blocks are faster: {order:?}");
    assert_eq!(Counters::get(&server.counters.in_flight_max), 40);
}

#[test]
fn requests_in_flight_are_bounded() {
    let server = TestServer::unix(Behaviour { delay: Duration::from_millis(20), ..Behaviour::default() });
    let mut client = connect_unix(&server.socket()).enter();
    let count = 1000;
    for cookie in 0..count {
        client.request(FLUSH, 0, cookie, 0, 0);
    }
    for _ in 0..count {
        assert_eq!(client.simple_reply().0, 0);
    }
    let in_flight_max = Counters::get(&server.counters.in_flight_max);
    assert_eq!(in_flight_max, brick_nbd::REQUESTS_IN_FLIGHT_MAX as u64);
}

#[test]
fn data_written_is_data_read_in_every_size() {
    let start = [TestServer::unix, TestServer::tcp, TestServer::unix_on_epoll, TestServer::tcp_on_epoll];
    for server in start.map(|start| start(Behaviour::default())) {
        match server.tcp {
            Some(address) => round_trips(connect_tcp(address).enter_structured()),
            None => round_trips(connect_unix(&server.socket()).enter_structured()),
        }
    }
}

fn round_trips<S: Read + Write>(mut client: crate::support::RawClient<S>) {
    for (index, length) in [1, 511, 4096, 4097, 65536, 300_000, 1 << 20, 5 << 20, 3].into_iter().enumerate() {
        let offset_bytes = 12_345 + index as u64;
        let data: Vec<u8> = (0..length).map(|at| (at * 7 + index + 1) as u8).collect();
        client.request(WRITE, 0, 1, offset_bytes, length as u32);
        client.send(&data);
        assert_eq!(client.simple_reply(), (0, 1));
        client.request(READ, 0, 2, offset_bytes, length as u32);
        let (kind, cookie, payload) = client.chunk();
        assert_eq!((kind, cookie), (1, 2), "OFFSET_DATA");
        assert_eq!(payload[..8], offset_bytes.to_be_bytes());
        assert!(payload[8..] == data, "{length} bytes differ");
    }
}

#[test]
fn structured_replies_say_what_is_known() {
    let server = TestServer::unix(Behaviour::default());
    let mut client = connect_unix(&server.socket()).enter_structured();
    client.request(WRITE, FUA, 1, 8192, 4096);
    client.send(&[9; 4096]);
    assert_eq!(client.simple_reply(), (0, 1));
    assert_eq!(Counters::get(&server.counters.fua_writes), 1);

    client.request(READ, 0, 2, 0, 8192);
    let (kind, _, payload) = client.chunk();
    assert_eq!((kind, &payload[8..]), (2, &8192u32.to_be_bytes()[..]), "OFFSET_HOLE");

    client.request(BLOCK_STATUS, 0, 3, 4096, 1 << 20);
    let (kind, _, payload) = client.chunk();
    let extents: Vec<u32> =
        payload[4..].chunks(4).map(|field| u32::from_be_bytes(field.try_into().unwrap())).collect();
    assert_eq!(kind, 5);
    assert_eq!(extents, [4096, 3, 4096, 0, (1 << 20) - 8192, 3]);
    client.request(BLOCK_STATUS, REQ_ONE, 4, 4096, 1 << 20);
    assert_eq!(client.chunk().2.len(), 4 + 8);

    client.request(READ, 0, 5, 64 << 20, 1);
    let (kind, cookie, payload) = client.chunk();
    assert_eq!((kind, cookie), (0x8001, 5), "ERROR");
    assert_eq!(payload[..4], 22u32.to_be_bytes());
    assert_eq!(payload.len(), 6 + usize::from(u16::from_be_bytes([payload[4], payload[5]])));
}

#[test]
fn device_errors_become_protocol_errors() {
    for (error, expected) in [
        (DeviceError::NoSpace, 28),
        (DeviceError::Io, 5),
        (DeviceError::ReadOnly, 1),
        (DeviceError::Shutdown, 108),
        (DeviceError::Invalid, 22),
    ] {
        let server = TestServer::unix(Behaviour { error: Some(error), ..Behaviour::default() });
        let mut client = connect_unix(&server.socket()).enter();
        client.request(READ, 0, 1, 0, 4096);
        assert_eq!(client.simple_reply(), (expected, 1), "{error}: no data may follow");
        client.request(FLUSH, 0, 2, 0, 0);
        assert_eq!(client.simple_reply(), (expected, 2));
    }
}

#[test]
fn a_read_only_export_refuses_writes() {
    let server = TestServer::unix(Behaviour { read_only: true, ..Behaviour::default() });
    let mut client = connect_unix(&server.socket()).enter();
    client.request(WRITE, 0, 1, 0, 3);
    client.send(b"abc");
    assert_eq!(client.simple_reply(), (1, 1));
    client.request(READ, 0, 2, 0, 3);
    assert_eq!(client.simple_reply(), (0, 2));
    assert_eq!(client.take(3), [0; 3]);
}

#[test]
fn disconnect_waits_for_requests_in_flight() {
    let server = TestServer::unix(Behaviour { delay: Duration::from_millis(100), ..Behaviour::default() });
    let mut client = connect_unix(&server.socket()).enter();
    client.request(FLUSH, 0, 1, 0, 0);
    client.request(DISC, 0, 2, 0, 0);
    assert_eq!(client.simple_reply(), (0, 1));
    client.expect_hang_up();
}

#[test]
fn shutdown_finishes_what_is_in_flight_and_removes_the_socket() {
    let behaviour = Behaviour { delay: Duration::from_millis(200), ..Behaviour::default() };
    for start in [TestServer::unix, TestServer::unix_on_epoll] {
        shutdown_with_clients(start(behaviour.clone()));
    }
}

fn shutdown_with_clients(mut server: TestServer) {
    let mut busy = connect_unix(&server.socket()).enter();
    let idle = connect_unix(&server.socket()).enter();
    let haggling = connect_unix(&server.socket()).greet();
    busy.request(FLUSH, 0, 1, 0, 0);
    while Counters::get(&server.counters.flushes) == 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    let start = Instant::now();
    server.stop();
    assert_eq!(busy.simple_reply(), (0, 1));
    busy.expect_hang_up();
    idle.expect_hang_up();
    haggling.expect_hang_up();
    server.join();
    assert!(start.elapsed() < Duration::from_secs(5), "nothing was waited for in vain");
    assert!(!server.socket().exists());
}

#[test]
fn shutdown_does_not_wait_for_ever() {
    let mut server = TestServer::unix(Behaviour { delay: Duration::from_secs(60), ..Behaviour::default() });
    let mut client = connect_unix(&server.socket()).enter();
    client.request(FLUSH, 0, 1, 0, 0);
    while Counters::get(&server.counters.flushes) == 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    let start = Instant::now();
    server.stop();
    server.join();
    let grace = brick_nbd::SHUTDOWN_GRACE;
    assert!(start.elapsed() >= grace && start.elapsed() < grace + Duration::from_secs(10));
}

#[test]
fn a_live_socket_is_refused() {
    let server = TestServer::unix(Behaviour::default());
    let refused = Server::bind_unix(server.socket()).expect_err("somebody listens there");
    assert!(matches!(refused, BindError::InUse { .. }), "{refused}");
    let mut client = connect_unix(&server.socket()).enter();
    client.request(FLUSH, 0, 1, 0, 0);
    assert_eq!(client.simple_reply(), (0, 1));
}

#[test]
fn an_idle_server_uses_no_processor() {
    for start in [TestServer::unix, TestServer::unix_on_epoll] {
        let server = start(Behaviour::default());
        let mut client = connect_unix(&server.socket()).enter();
        client.request(FLUSH, 0, 1, 0, 0);
        assert_eq!(client.simple_reply(), (0, 1));
        let before = server.cpu_ticks();
        std::thread::sleep(Duration::from_secs(2));
        let ticks = server.cpu_ticks() - before;
        assert!(ticks <= 2, "{ticks} ticks of 10 ms in 2 s with one idle client");
    }
}
