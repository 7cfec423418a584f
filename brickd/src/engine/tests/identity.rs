//! Rule R2's retired lives: floors, and a brick that takes another one's place.

use brick_wire::body::{Adopt, Retire, Stamp};
use brick_wire::cursor::Body;
use brick_wire::handshake::{Hello, PeerKind};
use brick_wire::register::RegisterKey;
use brick_wire::*;

use super::harness::*;
use crate::engine::*;

fn operator_hello(volume: VolumeUuid, session: u64) -> Hello {
    Hello { kind: PeerKind::Operator, volume, ..client_hello(0, SessionId(session), 1) }
}

fn tell(brick: &mut Brick, connection: ConnectionId, opcode: Opcode, aux: Vec<u8>) -> Status {
    brick.ask(connection, request(opcode), aux, None).expect("answered").header.status
}

fn retire(index: u8, floor: u64) -> Vec<u8> {
    Retire { brick: brick_uuid(index), floor: StartCounter(floor) }.to_bytes()
}

fn floors(index: u8, floor: u64) -> Floors {
    let mut floors = Floors::default();
    floors.raise(brick_uuid(index), StartCounter(floor));
    floors
}

#[test]
fn floors_are_told_once_they_are_durable_and_only_rise() {
    let mut brick = Brick::single();
    let operator = brick.hello(operator_hello(volume(), 77));
    assert_eq!(tell(&mut brick, operator, Opcode::Retire, retire(1, 100)), Status::Ok);
    let written = brick.identity.take().expect("durable before the answer");
    assert_eq!((written.1, written.2), (false, floors(1, 100)));
    assert!(written.0.is_some(), "the membership stays");
    for lower in [1, 99, 100] {
        assert_eq!(tell(&mut brick, operator, Opcode::Retire, retire(1, lower)), Status::Ok);
        assert_eq!(brick.identity, None, "nothing to write");
    }
    brick.connect(0, ALICE, 1);
    let welcome = &brick.admitted.last().expect("admitted").1;
    assert_eq!(welcome.floors, floors(1, 100));

    let mut again = Brick::new(vec![EngineConfig { floors: floors(1, 100), ..config(0, 0, 1) }]);
    again.hello(client_hello(0, BOB, 1));
    assert_eq!(again.admitted[0].1.floors, floors(1, 100), "as the store found it");
}

#[test]
fn floors_are_operators_business_and_another_members() {
    let mut brick = Brick::single();
    let alice = brick.connect(0, ALICE, 1);
    assert_eq!(tell(&mut brick, alice, Opcode::Retire, retire(1, 9)), Status::Invalid, "a client");
    let operator = brick.hello(operator_hello(volume(), 77));
    assert_eq!(tell(&mut brick, operator, Opcode::Retire, retire(0, 9)), Status::Invalid, "itself");
    assert_eq!(tell(&mut brick, operator, Opcode::Retire, retire(5, 9)), Status::Invalid, "a stranger");
    assert_eq!(brick.identity, None);
    let mut unstamped = Brick::new(vec![EngineConfig { membership: None, ..config(0, 0, 1) }]);
    let operator = unstamped.hello(operator_hello(VolumeUuid::NIL, 77));
    assert_eq!(tell(&mut unstamped, operator, Opcode::Retire, retire(1, 9)), Status::Invalid);
}

/// A session that was welcomed earlier could still count the retired life beside this brick.
#[test]
fn clients_that_were_told_less_have_to_ask_again() {
    let mut brick = Brick::new(vec![config(0, 0, 2), config(0, 1, 2)]);
    let alice = brick.connect(0, ALICE, 1);
    let alice_1 = brick.connect(1, ALICE, 1);
    let operator = brick.hello(operator_hello(volume(), 77));
    assert_eq!(tell(&mut brick, operator, Opcode::Retire, retire(1, 9)), Status::Ok);
    let outdated = |id| (id, CloseReason::Outdated);
    assert_eq!(brick.closed, [outdated(alice), outdated(alice_1)], "on every core, but not the operator");
    let vote = brick.prepare(alice, epoch(1, ALICE), Flags::NONE);
    assert_eq!(brick.reply(vote).map(|frame| frame.header.status), None);
    brick.connect(0, ALICE, 2);
    assert_eq!(tell(&mut brick, operator, Opcode::Retire, retire(1, 9)), Status::Ok);
    assert_eq!(brick.closed.len(), 2, "who knows it stays");
    // Admitted before, handed over after.
    let peer = Peer { hello: client_hello(1, BOB, 1), standing: Standing(0) };
    brick.event(1, Event::Admitted { connection: ConnectionId(900), peer });
    assert_eq!(brick.closed.last(), Some(&outdated(ConnectionId(900))));
}

fn unstamped() -> Brick {
    Brick::new(vec![EngineConfig { membership: None, ..config(7, 0, 1) }])
}

fn adopt() -> Adopt {
    let members = vec![brick_uuid(0), brick_uuid(1)];
    let stamp = Stamp { volume: volume(), group: 0, role: Role::Data, members };
    Adopt { brick: brick_uuid(1), start: StartCounter(1 << 20), stamp }
}

#[test]
fn a_formatted_brick_takes_a_members_place_and_restarts() {
    let mut brick = unstamped();
    let operator = brick.hello(operator_hello(VolumeUuid::NIL, 77));
    assert_eq!(tell(&mut brick, operator, Opcode::Adopt, adopt().to_bytes()), Status::Ok);
    let (uuid, membership, start) = brick.adopted.clone().expect("durable before the answer");
    assert_eq!((uuid, start), (brick_uuid(1), StartCounter(1 << 20)));
    assert_eq!(brick.restarts, 1);
    assert_eq!(tell(&mut brick, operator, Opcode::BlankClear, vec![]), Status::ShuttingDown, "nothing more");
    brick.event(0, Event::Shutdown);
    assert_eq!(brick.stopped, [true]);

    let start = StartCounter(start.0 + 1);
    let incarnation = Incarnation { start, ..config(7, 0, 1).incarnation };
    let membership = Some(membership);
    let mut again =
        Brick::new(vec![EngineConfig { incarnation, membership, blank: true, ..config(1, 0, 1) }]);
    let operator = again.hello(operator_hello(volume(), 78));
    assert!(again.admitted[0].1.blank);
    assert_eq!(tell(&mut again, operator, Opcode::Adopt, adopt().to_bytes()), Status::Ok, "the same again");
    assert_eq!((again.adopted.clone(), again.restarts), (None, 0), "changes nothing");
    let other = Adopt { brick: brick_uuid(0), ..adopt() };
    assert_eq!(tell(&mut again, operator, Opcode::Adopt, other.to_bytes()), Status::AlreadyStamped);
}

#[test]
fn a_place_is_taken_by_nobody_who_is_or_holds_something() {
    let mut brick = unstamped();
    let operator = brick.hello(operator_hello(VolumeUuid::NIL, 77));
    let mut arbiter = adopt();
    arbiter.stamp.role = Role::Arbiter;
    assert_eq!(tell(&mut brick, operator, Opcode::Adopt, arbiter.to_bytes()), Status::Invalid);
    let stranger = Adopt { brick: brick_uuid(5), ..adopt() };
    assert_eq!(tell(&mut brick, operator, Opcode::Adopt, stranger.to_bytes()), Status::Invalid);
    let mut nowhere = adopt();
    nowhere.stamp.volume = VolumeUuid::NIL;
    assert_eq!(tell(&mut brick, operator, Opcode::Adopt, nowhere.to_bytes()), Status::Invalid);

    let shards = vec![(image(), ShardIndex(0))];
    let mut full = Brick::new(vec![EngineConfig { membership: None, shards, ..config(7, 0, 1) }]);
    let operator = full.hello(operator_hello(VolumeUuid::NIL, 77));
    assert_eq!(
        tell(&mut full, operator, Opcode::Adopt, adopt().to_bytes()),
        Status::Invalid,
        "it has shards"
    );

    let mut promised = unstamped();
    let operator = promised.hello(operator_hello(VolumeUuid::NIL, 77));
    let header = Header { epoch: epoch(1, SessionId(77)), ..request(Opcode::RegisterPrepare) };
    let key = RegisterKey::Name("vm".to_owned()).to_bytes();
    let vote = promised.ask(operator, header, key, None).expect("answered");
    assert_eq!(vote.header.status, Status::Ok);
    assert_eq!(
        tell(&mut promised, operator, Opcode::Adopt, adopt().to_bytes()),
        Status::Invalid,
        "a promise"
    );

    let mut member = Brick::single();
    let alice = member.connect(0, ALICE, 1);
    let own = Adopt { brick: brick_uuid(0), ..adopt() };
    assert_eq!(tell(&mut member, alice, Opcode::Adopt, own.to_bytes()), Status::Invalid, "a client");
    let operator = member.hello(operator_hello(volume(), 77));
    assert_eq!(tell(&mut member, operator, Opcode::Adopt, adopt().to_bytes()), Status::AlreadyStamped);
    assert_eq!(member.adopted, None);
}

#[test]
fn nothing_comes_between_a_place_taken_and_the_restart() {
    let mut brick = unstamped();
    let operator = brick.hello(operator_hello(VolumeUuid::NIL, 77));
    brick.hold = |request| matches!(request, DiskRequest::Adopt { .. });
    let adopting = brick.send(operator, request(Opcode::Adopt), adopt().to_bytes(), None);
    let stamp = Stamp { members: vec![brick_uuid(7)], ..adopt().stamp };
    assert_eq!(tell(&mut brick, operator, Opcode::Stamp, stamp.to_bytes()), Status::Busy);
    let header = Header { epoch: epoch(1, SessionId(77)), ..request(Opcode::RegisterPrepare) };
    let key = RegisterKey::Name("vm".to_owned()).to_bytes();
    let vote = brick.ask(operator, header, key, None).expect("answered");
    assert_eq!(vote.header.status, Status::Busy, "its log is to be another brick's");
    brick.release();
    assert_eq!((brick.status_of(adopting), brick.restarts), (Some(Status::Ok), 1));
}

#[test]
fn a_disk_that_fails_leaves_everything_as_it_was() {
    let mut brick = Brick::single();
    let operator = brick.hello(operator_hello(volume(), 77));
    brick.fail = |_| Some(DiskError::Errno(5));
    assert_eq!(tell(&mut brick, operator, Opcode::Retire, retire(1, 9)), Status::Io);
    brick.connect(0, ALICE, 1);
    assert!(brick.admitted.last().expect("admitted").1.floors.is_empty());
    let mut brick = unstamped();
    let operator = brick.hello(operator_hello(VolumeUuid::NIL, 77));
    brick.fail = |_| Some(DiskError::Errno(5));
    assert_eq!(tell(&mut brick, operator, Opcode::Adopt, adopt().to_bytes()), Status::Io);
    assert_eq!(brick.restarts, 0);
}
