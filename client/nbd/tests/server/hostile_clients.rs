//! Clients that break the protocol, or only try its edges. Each test ends by proving that the server
//! still serves somebody else.

use std::io::{Read, Write};
use std::time::Duration;

use crate::support::{Behaviour, Counters, RawClient, TestServer, connect_unix};

const READ: u16 = 0;
const WRITE: u16 = 1;
const DISC: u16 = 2;
const FLUSH: u16 = 3;
const TRIM: u16 = 4;
const WRITE_ZEROES: u16 = 6;
const BLOCK_STATUS: u16 = 7;

fn enter(server: &TestServer) -> RawClient<std::os::unix::net::UnixStream> {
    connect_unix(&server.socket()).enter()
}

fn assert_still_serving(server: &TestServer) {
    let mut client = enter(server);
    client.request(FLUSH, 0, 7, 0, 0);
    assert_eq!(client.simple_reply(), (0, 7));
    client.request(DISC, 0, 8, 0, 0);
    client.expect_hang_up();
}

#[test]
fn handshake_garbage_ends_only_that_connection() {
    let server = TestServer::unix(Behaviour::default());
    let mut http = connect_unix(&server.socket());
    http.take(18);
    http.send(b"GET / HTTP/1.1\r\nHost: disk\r\n\r\n");
    http.expect_hang_up();

    let mut bad_magic = connect_unix(&server.socket()).greet();
    bad_magic.send(&[0x55; 16]);
    bad_magic.expect_hang_up();

    let mut endless_option = connect_unix(&server.socket()).greet();
    endless_option.send(b"IHAVEOPT\0\0\0\x07\xff\xff\xff\xff");
    endless_option.expect_hang_up();

    let mut unknown_export = connect_unix(&server.socket()).greet();
    unknown_export.option(1, b"no such export");
    unknown_export.expect_hang_up();

    let mut truncated_option = connect_unix(&server.socket()).greet();
    truncated_option.send(b"IHAVEOPT\0\0\0\x07\0\0\0\x10abc");
    truncated_option.stream.shutdown(std::net::Shutdown::Write).unwrap();
    truncated_option.expect_hang_up();
    assert_still_serving(&server);
}

#[test]
fn an_unknown_option_and_tls_are_refused_politely() {
    let server = TestServer::unix(Behaviour::default());
    let mut client = connect_unix(&server.socket()).greet();
    for code in [5, 4242] {
        client.option(code, b"");
        let reply = client.take(20);
        assert_eq!(reply[12..16], 0x8000_0001u32.to_be_bytes(), "ERR_UNSUP");
        client.take(u32::from_be_bytes(reply[16..20].try_into().unwrap()) as usize);
    }
    client.option(2, b"");
    assert_eq!(client.take(20)[12..16], 1u32.to_be_bytes(), "ABORT is acknowledged");
    client.expect_hang_up();
    assert_still_serving(&server);
}

#[test]
fn requests_out_of_bounds_fail_and_the_connection_lives() {
    let server = TestServer::unix(Behaviour { size_bytes: 1 << 20, ..Behaviour::default() });
    let mut client = enter(&server);
    let (invalid, no_space) = (22, 28);
    for (kind, length, expected) in [
        (READ, 4096, invalid),
        (TRIM, 4096, invalid),
        (WRITE_ZEROES, 4096, no_space),
        (BLOCK_STATUS, 4096, invalid),
        (READ, u32::MAX, invalid),
        (99, 4096, invalid),
    ] {
        client.request(kind, 0, 1, (1 << 20) - 1, length);
        assert_eq!(client.simple_reply(), (expected, 1), "command {kind}");
    }
    client.request(WRITE, 0, 2, (1 << 20) - 1, 4096);
    client.send(&[1; 4096]);
    assert_eq!(client.simple_reply(), (no_space, 2));
    client.request(READ, 0, 3, u64::MAX, 2);
    assert_eq!(client.simple_reply(), (invalid, 3));
    client.request(READ, 0, 4, 0, 1 << 20);
    assert_eq!(client.simple_reply(), (0, 4));
    assert!(client.take(1 << 20).iter().all(|byte| *byte == 0), "nothing was written");
    assert_eq!(Counters::get(&server.counters.writes), 0);
}

#[test]
fn an_oversized_write_is_drained_and_refused() {
    let server = TestServer::unix(Behaviour::default());
    let mut client = enter(&server);
    let length = (33 << 20) + 5;
    client.request(WRITE, 0, 1, 0, length as u32);
    client.send(&vec![0x61; length]);
    assert_eq!(client.simple_reply(), (22, 1));
    client.request(WRITE, 0, 2, 0, 32 << 20);
    client.send(&vec![0x62; 32 << 20]);
    assert_eq!(client.simple_reply(), (0, 2), "the maximum itself is accepted");
    assert_eq!(Counters::get(&server.counters.writes), 1);
}

#[test]
fn a_bad_request_magic_ends_the_connection_after_what_was_asked() {
    let server = TestServer::unix(Behaviour { delay: Duration::from_millis(50), ..Behaviour::default() });
    let mut client = enter(&server);
    client.request(WRITE, 0, 1, 0, 4);
    client.send(b"data");
    client.send(&[0; 28]);
    assert_eq!(client.simple_reply(), (0, 1), "the request before it is still answered");
    client.expect_hang_up();
    assert_still_serving(&server);
}

#[test]
fn a_client_that_dies_in_the_middle_of_a_payload_writes_nothing() {
    let server = TestServer::unix(Behaviour::default());
    let mut client = enter(&server);
    client.request(WRITE, 0, 1, 0, 8192);
    client.send(&[1; 8191]);
    client.stream.shutdown(std::net::Shutdown::Write).unwrap();
    client.expect_hang_up();
    assert_eq!(Counters::get(&server.counters.writes), 0);
    assert_still_serving(&server);
}

#[test]
fn empty_requests_succeed_without_the_device() {
    let server = TestServer::unix(Behaviour::default());
    let mut client = enter(&server);
    for (cookie, kind) in [READ, WRITE, TRIM, WRITE_ZEROES].into_iter().enumerate() {
        client.request(kind, 0, cookie as u64, 4096, 0);
        assert_eq!(client.simple_reply(), (0, cookie as u64));
    }
    assert_eq!(Counters::get(&server.counters.reads) + Counters::get(&server.counters.writes), 0);
}

#[test]
fn a_client_that_reads_no_replies_stops_only_itself() {
    let server = TestServer::unix(Behaviour::default());
    let mut greedy = enter(&server);
    greedy.stream.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    let mut request = 0x2560_9513u32.to_be_bytes().to_vec();
    request.extend([0; 20]);
    request.extend((4u32 << 20).to_be_bytes());
    // 16 reads of 4 MiB fill the budget; the socket's buffer then fills with requests.
    let sent = (0..1_000_000).take_while(|_| greedy.stream.write_all(&request).is_ok()).count();
    assert!(sent < 1_000_000, "the server stopped receiving");
    assert!(Counters::get(&server.counters.reads) <= 32, "and did not read ahead");
    assert_still_serving(&server);
    drop(greedy);
    assert_still_serving(&server);
}

#[test]
fn random_bytes_after_the_handshake_hurt_nobody() {
    let server = TestServer::unix(Behaviour::default());
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    for round in 0..50 {
        let mut client = if round % 2 == 0 { enter(&server) } else { connect_unix(&server.socket()).greet() };
        let bytes: Vec<u8> = (0..500)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state as u8
            })
            .collect();
        let _ = client.stream.write_all(&bytes);
        let _ = client.stream.read(&mut [0; 64]);
    }
    assert_still_serving(&server);
}
