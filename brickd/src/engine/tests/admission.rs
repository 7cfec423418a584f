//! Who gets in, and what a session's next connection does to its earlier ones.

use brick_wire::handshake::{Hello, PeerKind};
use brick_wire::limits::PROTOCOL_VERSION;
use brick_wire::*;

use super::harness::*;
use crate::engine::*;

#[test]
fn admission_refuses_with_a_reason() {
    let mut brick = Brick::single();
    let good = || client_hello(0, ALICE, 1);
    let bad = [
        (Hello { volume: VolumeUuid::from_bytes([1; 16]), ..good() }, Status::WrongBrick),
        (Hello { brick: brick_uuid(1), ..good() }, Status::WrongBrick),
        (Hello { versions: (PROTOCOL_VERSION + 1, PROTOCOL_VERSION + 2), ..good() }, Status::Unsupported),
        (Hello { features: 1, ..good() }, Status::Unsupported),
        (Hello { volume: VolumeUuid::NIL, ..good() }, Status::WrongBrick),
    ];
    for (hello, expected) in bad {
        brick.hello(hello);
        let (_, status, welcome) = brick.refused.pop().expect("refused");
        assert_eq!(status, expected);
        assert!(welcome.reason.contains(": ") && welcome.reason.contains("; "), "{}", welcome.reason);
    }
    brick.hello(Hello { kind: PeerKind::Operator, volume: VolumeUuid::NIL, ..good() });
    assert_eq!(brick.admitted.len(), 1);
}

#[test]
fn admission_an_unstamped_brick_admits_operators_and_is_stamped_once() {
    use brick_wire::body::Stamp;
    use brick_wire::cursor::Body;

    let mut brick = Brick::new(vec![EngineConfig { membership: None, ..config(0, 0, 1) }]);
    brick.hello(client_hello(0, ALICE, 1));
    assert_eq!(brick.refused.len(), 1);
    let operator = Hello { kind: PeerKind::Operator, volume: VolumeUuid::NIL, ..client_hello(0, ALICE, 1) };
    let operator = brick.hello(operator);
    let stamp = Stamp { volume: volume(), group: 0, role: Role::Data, members: vec![brick_uuid(0)] };
    let mut ask = |stamp: &Stamp| {
        brick.ask(operator, request(Opcode::Stamp), stamp.to_bytes(), None).expect("answered").header.status
    };
    assert_eq!(ask(&Stamp { role: Role::Arbiter, ..stamp.clone() }), Status::Invalid);
    assert_eq!(ask(&Stamp { members: vec![brick_uuid(1)], ..stamp.clone() }), Status::Invalid);
    assert_eq!(ask(&stamp), Status::Ok);
    assert_eq!(ask(&stamp), Status::Ok);
    assert_eq!(ask(&Stamp { group: 1, ..stamp.clone() }), Status::AlreadyStamped);
    brick.connect(0, BOB, 1);
}

#[test]
fn admission_a_session_is_drained_before_its_next_connection() {
    let mut brick = Brick::new(vec![config(0, 0, 2), config(0, 1, 2)]);
    let first = brick.connect(0, ALICE, 1);
    let first_1 = brick.connect(1, ALICE, 1);
    brick.hold_image(first, epoch(1, ALICE));
    brick.hold = is_data_write;
    brick.write(first_1, epoch(1, ALICE), shard_on(1, 2, 0), 0, &blocks(1, 1));
    let second = brick.hello(client_hello(0, ALICE, 2));
    // Superseded connections are closed on both cores, but a write of theirs is in flight.
    assert_eq!(brick.closed, [(first, CloseReason::Superseded), (first_1, CloseReason::Superseded)]);
    assert!(brick.admitted.iter().all(|(id, _)| *id != second));
    let beside = brick.hello(client_hello(1, ALICE, 2));
    brick.release();
    let admitted: Vec<ConnectionId> = brick.admitted.iter().map(|(id, _)| *id).collect();
    assert_eq!(admitted, [first, first_1, second, beside]);
    assert!(brick.replies.is_empty(), "the old connection hears nothing any more");
    brick.hello(client_hello(0, ALICE, 1));
    assert_eq!(brick.refused.len(), 1);
}

#[test]
fn admission_nonsense_never_panics() {
    let mut brick = Brick::single();
    let mut alice = brick.connect(0, ALICE, 1);
    brick.hold_image(alice, epoch(1, ALICE));
    let mut generation = 1;
    for opcode in Opcode::ALL.iter().filter(|opcode| **opcode != Opcode::Hello) {
        for aux in [Vec::new(), vec![0xff; 3], vec![0; 200], vec![0xff; 5000]] {
            let blocks = BlockRange::new(16_000, 200);
            let odd = Header { epoch: epoch(1, ALICE), blocks, ..request(*opcode) };
            let unattached = Header { image: ImageHandle(77), ..odd };
            for header in [odd, unattached, Header { blocks: BlockRange::EMPTY, ..odd }] {
                let id = brick.send(alice, header, aux.clone(), Some(&super::harness::blocks(1, 1)));
                assert!(brick.reply(id).is_some(), "{opcode:?} is answered");
                if brick.closed.pop() == Some((alice, CloseReason::Outdated)) {
                    // It was blank, and isn't any more: everybody has to be told.
                    generation += 1;
                    alice = brick.connect(0, ALICE, generation);
                }
            }
        }
    }
    let reply = Header { flags: Flags::REPLY, ..request(Opcode::Ping) };
    brick.send(alice, reply, Vec::new(), None);
    assert!(matches!(brick.closed.pop(), Some((id, CloseReason::Protocol(_))) if id == alice));
}
