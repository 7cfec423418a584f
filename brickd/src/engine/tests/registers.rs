//! Rules R1, R2 and I8: promises, accepts, blankness, leases.

use std::time::Duration;

use brick_wire::cursor::Body;
use brick_wire::record::RecordKind;
use brick_wire::register::*;
use brick_wire::*;

use super::harness::*;
use crate::engine::*;

fn accept_value(
    brick: &mut Brick,
    id: ConnectionId,
    key: &RegisterKey,
    ballot: Epoch,
    value: &[u8],
) -> Status {
    let state = RegisterState { value: value.to_vec(), ..RegisterState::default() };
    let entry = RegisterEntry { key: key.clone(), state };
    let header = Header { epoch: ballot, ..request(Opcode::RegisterAccept) };
    brick.ask(id, header, entry.to_bytes(), None).expect("answered").header.status
}

fn prepare_key(brick: &mut Brick, id: ConnectionId, key: &RegisterKey, ballot: Epoch) -> Frame {
    let header = Header { epoch: ballot, ..request(Opcode::RegisterPrepare) };
    brick.ask(id, header, key.to_bytes(), None).expect("answered")
}

fn state_of(frame: &Frame) -> RegisterState {
    RegisterState::from_bytes(&frame.aux).expect("carries the state")
}

#[test]
fn registers_follow_the_ballots() {
    let mut brick = Brick::single();
    let alice = brick.connect(0, ALICE, 1);
    let key = RegisterKey::Name("vm1".to_owned());
    let (low, high) = (epoch(1, ALICE), epoch(2, ALICE));
    assert_eq!(accept_value(&mut brick, alice, &key, low, b"x"), Status::Invalid, "accept without prepare");
    assert_eq!(prepare_key(&mut brick, alice, &key, high).header.status, Status::Ok);
    assert_eq!(prepare_key(&mut brick, alice, &key, high).header.status, Status::Ok);
    let refused = prepare_key(&mut brick, alice, &key, low);
    assert_eq!((refused.header.status, state_of(&refused).promised), (Status::BallotRefused, high));
    assert_eq!(accept_value(&mut brick, alice, &key, low, b"x"), Status::BallotRefused);
    assert_eq!(accept_value(&mut brick, alice, &key, epoch(3, ALICE), b"x"), Status::Invalid);
    assert_eq!(accept_value(&mut brick, alice, &key, high, b"x"), Status::Ok);
    assert_eq!(accept_value(&mut brick, alice, &key, high, b"x"), Status::Ok);
    assert_eq!(accept_value(&mut brick, alice, &key, high, b"y"), Status::Invalid, "one value per ballot");
    let found = state_of(&prepare_key(&mut brick, alice, &key, epoch(3, ALICE)));
    assert_eq!((found.accepted, found.value), (high, b"x".to_vec()));
    let stolen = prepare_key(&mut brick, alice, &key, epoch(9, BOB));
    assert_eq!(stolen.header.status, Status::Invalid, "another session's ballot");
    assert_eq!(prepare_key(&mut brick, alice, &key, Epoch::ZERO).header.status, Status::Invalid);
}

#[test]
fn registers_answer_after_the_append_and_group_appends() {
    let mut brick = Brick::single();
    let alice = brick.connect(0, ALICE, 1);
    brick.hold = |request| matches!(request, DiskRequest::AppendRegisters { .. });
    let prepare = |name: &str| {
        let header = Header { epoch: epoch(1, ALICE), ..request(Opcode::RegisterPrepare) };
        (header, RegisterKey::Name(name.to_owned()).to_bytes())
    };
    let ids: Vec<RequestId> =
        ["a", "b", "c"].map(prepare).map(|(header, aux)| brick.send(alice, header, aux, None)).to_vec();
    assert_eq!(brick.held.len(), 1, "one append in flight");
    assert!(brick.replies.is_empty());
    let key = RegisterKey::Name("a".to_owned());
    let read = brick.ask(alice, request(Opcode::RegisterRead), key.to_bytes(), None).expect("answered");
    assert_eq!(state_of(&read).promised, Epoch::ZERO, "nobody is told of what isn't durable");
    let (core, operation, entries) = brick.held.pop_front().expect("held");
    drop(entries);
    brick.event(core, Event::DiskDone { operation, result: Ok(DiskOutput::Done) });
    assert_eq!(brick.status_of(ids[0]), Some(Status::Ok));
    assert_eq!(brick.held.len(), 1);
    let DiskRequest::AppendRegisters { entries } = &brick.held[0].2 else { panic!("an append") };
    assert_eq!(entries.len(), 2, "the rest in one append");
    brick.release();
    assert_eq!(brick.status_of(ids[2]), Some(Status::Ok));
}

#[test]
fn registers_a_failed_append_ends_the_vote() {
    let mut brick = Brick::single();
    let alice = brick.connect(0, ALICE, 1);
    let key = RegisterKey::Name("vm1".to_owned());
    brick.fail =
        |request| matches!(request, DiskRequest::AppendRegisters { .. }).then_some(DiskError::Errno(5));
    assert_eq!(prepare_key(&mut brick, alice, &key, epoch(1, ALICE)).header.status, Status::Io);
    brick.fail = |_| None;
    assert_eq!(prepare_key(&mut brick, alice, &key, epoch(2, ALICE)).header.status, Status::Io);
}

#[test]
fn registers_epoch_records_are_checked() {
    let mut brick = Brick::single();
    let alice = brick.connect(0, ALICE, 1);
    let ballot = epoch(1, ALICE);
    brick.prepare(alice, ballot, Flags::NONE);
    assert_eq!(accept_value(&mut brick, alice, &epoch_key(), ballot, b"junk"), Status::Invalid);
    let other = record(epoch(7, ALICE), RecordKind::Client).to_bytes();
    assert_eq!(accept_value(&mut brick, alice, &epoch_key(), ballot, &other), Status::Invalid);
    let good = record(ballot, RecordKind::Client).to_bytes();
    assert_eq!(accept_value(&mut brick, alice, &epoch_key(), ballot, &good), Status::Ok);
}

#[test]
fn registers_a_blank_brick_learns_before_it_votes() {
    let mut brick = Brick::new(vec![EngineConfig { blank: true, ..config(0, 0, 1) }]);
    let alice = brick.connect(0, ALICE, 1);
    let key = epoch_key();
    assert_eq!(prepare_key(&mut brick, alice, &key, epoch(1, ALICE)).header.status, Status::Blank);
    let known = record(epoch(4, BOB), RecordKind::Closed);
    let state = RegisterState {
        promised: epoch(5, BOB),
        accepted: known.epoch,
        lease_left_ms: 0,
        value: known.to_bytes(),
    };
    let learn = RegisterEntry { key: key.clone(), state }.to_bytes();
    let learned = brick.ask(alice, request(Opcode::RegisterLearn), learn.clone(), None).expect("answered");
    assert_eq!(learned.header.status, Status::Ok);
    let clear = brick.ask(alice, request(Opcode::BlankClear), Vec::new(), None).expect("answered");
    assert_eq!(clear.header.status, Status::Ok);
    assert_eq!(brick.closed, [(alice, CloseReason::Outdated)], "its welcome said that the brick is blank");
    let alice = brick.connect(0, ALICE, 2);
    let status = brick.ask(alice, request(Opcode::ImageStatus), image().to_bytes().to_vec(), None);
    let exact = status.expect("answered").header.flags.contains(Flags::EXACT);
    assert!(!exact, "of an image that it only heard of its map knows nothing");
    let refused = prepare_key(&mut brick, alice, &key, epoch(5, ALICE));
    assert_eq!(refused.header.status, Status::BallotRefused);
    let promised = prepare_key(&mut brick, alice, &key, epoch(6, ALICE));
    assert_eq!((promised.header.status, state_of(&promised).accepted), (Status::Ok, known.epoch));
    let late = brick.ask(alice, request(Opcode::RegisterLearn), learn, None).expect("answered");
    assert_eq!(late.header.status, Status::Invalid);
}

#[test]
fn registers_list_is_paged_in_order() {
    let mut brick = Brick::single();
    let alice = brick.connect(0, ALICE, 1);
    let value = vec![7; 4000];
    let names: Vec<String> = (0..40).map(|index| format!("vm{index:02}")).collect();
    for name in &names {
        let key = RegisterKey::Name(name.clone());
        prepare_key(&mut brick, alice, &key, epoch(1, ALICE));
        assert_eq!(accept_value(&mut brick, alice, &key, epoch(1, ALICE), &value), Status::Ok);
    }
    let (mut found, mut after, mut pages) = (Vec::new(), None, 0);
    loop {
        let list = RegisterListRequest { kind: RegisterKind::Name, after: after.clone() };
        let reply = brick.ask(alice, request(Opcode::RegisterList), list.to_bytes(), None).expect("answered");
        let page = RegisterPage::from_bytes(&reply.aux).expect("a page");
        after = page.entries.last().map(|entry| entry.key.clone());
        found.extend(page.entries.into_iter().map(|entry| entry.key));
        pages += 1;
        if !reply.header.flags.contains(Flags::MORE) {
            break;
        }
    }
    assert_eq!(found, names.into_iter().map(RegisterKey::Name).collect::<Vec<_>>());
    assert!(pages > 1);
}

#[test]
fn lease_keeps_others_out_until_it_runs_off() {
    let mut brick = Brick::single();
    let alice = brick.connect(0, ALICE, 1);
    let bob = brick.connect(0, BOB, 1);
    brick.hold_image(alice, epoch(1, ALICE));
    brick.pass(LEASE - Duration::from_secs(1));
    let ping = brick.simple(alice, Opcode::Ping, epoch(1, ALICE));
    assert_eq!(brick.status_of(ping), Some(Status::Ok));
    brick.pass(Duration::from_secs(2));
    let held = brick.prepare(bob, epoch(2, BOB), Flags::NONE);
    let held = brick.reply(held).expect("answered");
    assert_eq!(held.header.status, Status::LeaseHeld);
    assert_eq!(state_of(&held).lease_left_ms, 8000);
    let write = brick.write(alice, epoch(1, ALICE), ShardIndex(0), 0, &blocks(1, 1));
    assert_eq!(brick.status_of(write), Some(Status::Ok), "a refused prepare fences nobody");
    brick.pass(LEASE);
    let promised = brick.prepare(bob, epoch(2, BOB), Flags::NONE);
    assert_eq!(brick.status_of(promised), Some(Status::Ok));
    let stale = brick.simple(alice, Opcode::Ping, epoch(1, ALICE));
    assert_eq!(brick.status_of(stale), Some(Status::StaleEpoch));
}

#[test]
fn lease_that_ran_out_serves_no_data_until_it_is_renewed() {
    let mut brick = Brick::single();
    let alice = brick.connect(0, ALICE, 1);
    let held = epoch(1, ALICE);
    brick.hold_image(alice, held);
    brick.pass(LEASE);
    for _ in 0..2 {
        let write = brick.write(alice, held, ShardIndex(0), 0, &blocks(1, 1));
        assert_eq!(brick.status_of(write), Some(Status::LeaseExpired), "a write doesn't renew");
    }
    let read = brick.simple(alice, Opcode::Read, held);
    assert_eq!(brick.status_of(read), Some(Status::LeaseExpired));
    let ping = brick.simple(alice, Opcode::Ping, held);
    assert_eq!(brick.status_of(ping), Some(Status::Ok));
    let write = brick.write(alice, held, ShardIndex(0), 0, &blocks(1, 1));
    assert_eq!(brick.status_of(write), Some(Status::Ok));
}

#[test]
fn lease_is_checked_again_when_a_write_reaches_its_turn() {
    let mut brick = Brick::single();
    let alice = brick.connect(0, ALICE, 1);
    let held = epoch(1, ALICE);
    brick.hold_image(alice, held);
    brick.hold = is_data_write;
    let first = brick.write(alice, held, ShardIndex(0), 0, &blocks(1, 1));
    let second = brick.write(alice, held, ShardIndex(0), 0, &blocks(2, 1));
    brick.pass(LEASE);
    brick.release();
    assert_eq!(brick.status_of(first), Some(Status::Ok), "it was in the ring");
    assert_eq!(brick.status_of(second), Some(Status::LeaseExpired));
}

#[test]
fn lease_keeps_out_by_the_kind_of_the_record_and_of_the_asker() {
    // Does the lease keep out a client? Somebody who heals?
    for (kind, client, healer) in [
        (RecordKind::Client, true, true),
        (RecordKind::Recovering, true, true),
        (RecordKind::Heal, false, true),
        (RecordKind::HealRecovering, false, true),
        (RecordKind::Closed, false, false),
    ] {
        for (flags, kept_out) in [(Flags::NONE, client), (Flags::HEAL, healer)] {
            let mut brick = Brick::single();
            let alice = brick.connect(0, ALICE, 1);
            let bob = brick.connect(0, BOB, 1);
            brick.prepare(alice, epoch(1, ALICE), Flags::NONE);
            brick.accept(alice, &record(epoch(1, ALICE), kind));
            let asked = brick.prepare(bob, epoch(2, BOB), flags);
            let expected = if kept_out { Status::LeaseHeld } else { Status::Ok };
            assert_eq!(brick.status_of(asked), Some(expected), "{kind:?}, {flags:?}");
        }
    }
}

#[test]
fn lease_of_a_healer_is_renewed_shown_and_runs_out() {
    let mut brick = Brick::single();
    let alice = brick.connect(0, ALICE, 1);
    let bob = brick.connect(0, BOB, 1);
    brick.prepare(alice, epoch(1, ALICE), Flags::HEAL);
    brick.accept(alice, &record(epoch(1, ALICE), RecordKind::Heal));
    brick.pass(LEASE / 2);
    let ping = brick.simple(alice, Opcode::Ping, epoch(1, ALICE));
    assert_eq!(brick.status_of(ping), Some(Status::Ok));
    brick.pass(LEASE / 2);
    let held = brick.prepare(bob, epoch(2, BOB), Flags::HEAL);
    let reply = brick.reply(held).expect("answered");
    assert_eq!(reply.header.status, Status::LeaseHeld);
    assert_eq!(u128::from(state_of(&reply).lease_left_ms), (LEASE / 2).as_millis());
    brick.pass(LEASE / 2);
    let promised = brick.prepare(bob, epoch(3, BOB), Flags::HEAL);
    assert_eq!(brick.status_of(promised), Some(Status::Ok));
}

#[test]
fn lease_counts_as_renewed_after_a_restart() {
    let value = record(epoch(1, ALICE), RecordKind::Client).to_bytes();
    let state =
        RegisterState { promised: epoch(1, ALICE), accepted: epoch(1, ALICE), lease_left_ms: 0, value };
    let registers = vec![RegisterEntry { key: epoch_key(), state }];
    let mut brick = Brick::new(vec![EngineConfig { registers, ..config(0, 0, 1) }]);
    brick.now = Timestamp(3_600_000_000_000);
    let bob = brick.connect(0, BOB, 1);
    brick.pass(LEASE - Duration::from_millis(1));
    let held = brick.prepare(bob, epoch(2, BOB), Flags::NONE);
    assert_eq!(brick.status_of(held), Some(Status::LeaseHeld));
    brick.pass(Duration::from_millis(1));
    let promised = brick.prepare(bob, epoch(3, BOB), Flags::NONE);
    assert_eq!(brick.status_of(promised), Some(Status::Ok));
}

#[test]
fn full_disk_costs_a_promise_and_not_the_vote() {
    let mut brick = Brick::single();
    let alice = brick.connect(0, ALICE, 1);
    brick.fail =
        |request| matches!(request, DiskRequest::AppendRegisters { .. }).then_some(DiskError::NoSpace);
    let full = brick.prepare(alice, epoch(1, ALICE), Flags::NONE);
    assert_eq!(brick.status_of(full), Some(Status::NoSpace));
    brick.fail = |_| None;
    let promised = brick.prepare(alice, epoch(2, ALICE), Flags::NONE);
    assert_eq!(brick.status_of(promised), Some(Status::Ok));
}
