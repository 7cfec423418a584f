//! Writes, reads, their order, and the dirty map seen from outside.

use brick_wire::body::{BrickStatus, DirtyPage, ImageStatus, ShardPage, read_crcs};
use brick_wire::checksum::block_crcs;
use brick_wire::cursor::Body;
use brick_wire::*;

use super::harness::*;
use crate::engine::*;

pub fn dirty_blocks(brick: &mut Brick, id: ConnectionId) -> u64 {
    let aux = image().to_bytes().to_vec();
    let reply = brick.ask(id, request(Opcode::ImageStatus), aux, None).expect("answered");
    ImageStatus::from_bytes(&reply.aux).expect("counters").dirty_blocks
}

fn read(brick: &mut Brick, id: ConnectionId, first: u16, count: u16) -> RequestId {
    let blocks = BlockRange::new(first, count);
    let header = Header { epoch: epoch(1, ALICE), blocks, ..request(Opcode::Read) };
    brick.send(id, header, Vec::new(), None)
}

#[test]
fn data_what_was_written_is_read() {
    let (mut brick, alice) = holder();
    let missing = read(&mut brick, alice, 0, 4);
    let missing = brick.reply(missing).expect("answered");
    assert!(missing.header.flags.contains(Flags::ZEROES) && missing.data.is_none());
    assert_eq!((missing.header.credits, brick.opens), (4, 0));
    let written = brick.write(alice, epoch(1, ALICE), ShardIndex(0), 1, &blocks(5, 2));
    let written = brick.reply(written).expect("answered").header;
    assert_eq!((written.status, written.credits), (Status::Ok, 2));
    let found = read(&mut brick, alice, 0, 4);
    let found = brick.reply(found).expect("answered");
    let data = found.data.as_ref().expect("data");
    assert_eq!(data[4096..3 * 4096], blocks(5, 2));
    let crcs = read_crcs(&found.header, &found.aux, 4).expect("a CRC per block");
    assert!(block_crcs(data).eq(crcs));
    assert_eq!(dirty_blocks(&mut brick, alice), 2);
}

#[test]
fn data_a_bad_checksum_changes_nothing() {
    let (mut brick, alice) = holder();
    let (header, aux) = write_header(epoch(1, ALICE), ShardIndex(0), 0, &blocks(1, 2));
    let mut data = blocks(1, 2);
    data[5000] ^= 1;
    let reply = brick.ask(alice, header, aux, Some(&data)).expect("answered");
    assert_eq!((reply.header.status, brick.opens), (Status::BadChecksum, 0));
    assert_eq!(dirty_blocks(&mut brick, alice), 0);
}

#[test]
fn data_failed_writes_stay_dirty() {
    let (mut brick, alice) = holder();
    brick.fail = |request| matches!(request, DiskRequest::OpenShard { .. }).then_some(DiskError::NoSpace);
    let full = brick.write(alice, epoch(1, ALICE), ShardIndex(0), 0, &blocks(1, 1));
    assert_eq!(brick.status_of(full), Some(Status::NoSpace));
    brick.fail = |request| is_data_write(request).then_some(DiskError::Errno(5));
    let broken = brick.write(alice, epoch(1, ALICE), ShardIndex(0), 1, &blocks(1, 1));
    assert_eq!(brick.status_of(broken), Some(Status::Io));
    assert_eq!(dirty_blocks(&mut brick, alice), 2);
}

#[test]
fn data_overlapping_operations_run_one_after_the_other() {
    let (mut brick, alice) = holder();
    brick.hold = is_data_write;
    let first = brick.write(alice, epoch(1, ALICE), ShardIndex(0), 0, &blocks(1, 2));
    brick.write(alice, epoch(1, ALICE), ShardIndex(0), 1, &blocks(2, 2));
    let after = read(&mut brick, alice, 0, 3);
    brick.write(alice, epoch(1, ALICE), ShardIndex(0), 8, &blocks(3, 1));
    assert_eq!(brick.held.len(), 2, "the first, and the one beside it");
    assert!(brick.status_of(first).is_none() && brick.reply(after).is_none());
    brick.release();
    let data = brick.reply(after).expect("answered").data.expect("data");
    assert_eq!((data[0], data[4096], data[8192]), (1, 2, 2));
}

#[test]
fn data_a_read_waits_for_the_creation_of_its_shard() {
    let (mut brick, alice) = holder();
    brick.hold = |request| matches!(request, DiskRequest::OpenShard { .. });
    brick.write(alice, epoch(1, ALICE), ShardIndex(0), 0, &blocks(1, 1));
    let beside = read(&mut brick, alice, 4, 1);
    assert!(brick.reply(beside).is_none());
    assert_eq!(brick.held.len(), 1);
    brick.release();
    assert_eq!(brick.status_of(beside), Some(Status::Ok));
}

#[test]
fn data_more_shards_than_slots() {
    let (mut brick, alice) = holder();
    for round in 0..3u8 {
        for shard in 0..7 {
            let id = brick.write(alice, epoch(1, ALICE), ShardIndex(shard), 0, &blocks(round + 1, 1));
            assert_eq!(brick.status_of(id), Some(Status::Ok));
        }
    }
    assert!(brick.files.values().all(|file| file[0] == 3));
    assert!(brick.syncs >= 19, "closed files are synced before: {}", brick.syncs);
    // All slots busy: the third waits.
    brick.hold = is_data_write;
    let ids = [0, 1, 2].map(|shard| brick.write(alice, epoch(1, ALICE), ShardIndex(shard), 0, &blocks(9, 1)));
    assert_eq!(brick.held.len(), 2);
    brick.release();
    assert!(ids.into_iter().all(|id| brick.status_of(id) == Some(Status::Ok)));
}

#[test]
fn data_reads_wait_for_buffers() {
    let (mut brick, alice) = holder();
    brick.write(alice, epoch(1, ALICE), ShardIndex(0), 0, &blocks(1, 1));
    let hoard: Vec<_> = std::iter::from_fn(|| brick.pool.allocate(4096)).collect();
    let waiting = read(&mut brick, alice, 0, 1);
    assert!(brick.reply(waiting).is_none());
    let retry = brick.engines[0].poll_timeout().expect("comes back by itself");
    drop(hoard);
    brick.pass(retry.since(brick.now));
    assert_eq!(brick.status_of(waiting), Some(Status::Ok));
    assert_eq!(brick.engines[0].poll_timeout(), None);
}

#[test]
fn data_roles_are_kept_apart() {
    let (mut brick, alice) = holder_of(arbiter());
    let write = brick.write(alice, epoch(1, ALICE), ShardIndex(0), 0, &blocks(1, 1));
    assert_eq!(brick.status_of(write), Some(Status::Invalid));
    let (dummy, aux) = dummy_writes(epoch(1, ALICE), &[(ShardIndex(0), 4, &blocks(1, 3))]);
    let status = |frame: Option<Frame>| frame.expect("answered").header.status;
    assert_eq!(status(brick.ask(alice, dummy, aux.clone(), None)), Status::Ok);
    assert_eq!(dirty_blocks(&mut brick, alice), 3);
    assert_eq!(brick.flush(alice, epoch(1, ALICE)), Some(Status::Ok));
    let (mut data_brick, alice) = holder();
    assert_eq!(status(data_brick.ask(alice, dummy, aux, None)), Status::Invalid);
}

#[test]
fn data_pages_lead_through_maps_and_shards() {
    let (mut brick, alice) = holder();
    // The last block of a 1 MiB shard makes a bitmap of 32 bytes: 2000 shards are more than a page.
    let (mut other, arbiter) = holder_of(arbiter());
    for shard in 0..2000 {
        let (header, aux) = dummy_writes(epoch(1, ALICE), &[(ShardIndex(shard), 255, &blocks(1, 1))]);
        other.ask(arbiter, header, aux, None).expect("answered");
    }
    let (mut start, mut found) = (ShardIndex(0), 0);
    loop {
        let header = Header { epoch: epoch(1, ALICE), shard: start, ..request(Opcode::DirtyRead) };
        let reply = other.ask(arbiter, header, Vec::new(), None).expect("answered");
        let page = DirtyPage::from_bytes(&reply.aux).expect("a page");
        assert!(reply.header.flags.contains(Flags::EXACT));
        found += page.shards.len();
        start = ShardIndex(page.shards.last().expect("not empty").0.0 + 1);
        if !reply.header.flags.contains(Flags::MORE) {
            break;
        }
        assert!(found < 2000);
    }
    assert_eq!(found, 2000);
    for shard in [4, 1] {
        brick.write(alice, epoch(1, ALICE), ShardIndex(shard), 0, &blocks(1, 1));
    }
    let header = Header { epoch: epoch(1, ALICE), ..request(Opcode::ShardList) };
    let reply = brick.ask(alice, header, Vec::new(), None).expect("answered");
    let page = ShardPage::from_bytes(&reply.aux).expect("a page");
    assert_eq!(page.shards, [ShardIndex(1), ShardIndex(4)]);
    let reply = brick.ask(alice, request(Opcode::BrickStatus), Vec::new(), None).expect("answered");
    let status = BrickStatus::from_bytes(&reply.aux).expect("counters");
    assert_eq!((status.images, status.sessions, status.used_bytes), (1, 1, 2));
}

#[test]
fn data_a_start_with_lost_maps_is_inexact_until_cleaned() {
    let dirty = vec![SavedDirty { image: image(), exact: false, unsynced: false, shards: Vec::new() }];
    let mut brick = Brick::new(vec![EngineConfig { dirty, ..config(0, 0, 1) }]);
    let alice = brick.connect(0, ALICE, 1);
    brick.hold_image(alice, epoch(1, ALICE));
    let exact = |brick: &mut Brick| {
        let aux = image().to_bytes().to_vec();
        let reply = brick.ask(alice, request(Opcode::ImageStatus), aux, None).expect("answered");
        reply.header.flags.contains(Flags::EXACT)
    };
    assert!(!exact(&mut brick));
    brick.simple(alice, Opcode::Clean, epoch(1, ALICE));
    assert!(exact(&mut brick));
}

#[test]
fn data_clean_spares_younger_generations() {
    let (mut brick, alice) = holder();
    for (block, generation) in [(0, 1), (1, 2), (0, 3)] {
        let (header, aux) = write_header(epoch(1, ALICE), ShardIndex(0), block, &blocks(1, 1));
        let header = Header { generation: Generation(generation), ..header };
        brick.ask(alice, header, aux, Some(&blocks(1, 1))).expect("answered");
    }
    let mut left = [2, 3].map(|generation| {
        let generation = Generation(generation);
        let clean = Header { epoch: epoch(1, ALICE), generation, ..request(Opcode::Clean) };
        brick.ask(alice, clean, Vec::new(), None).expect("answered");
        dirty_blocks(&mut brick, alice)
    });
    left.reverse();
    assert_eq!(left, [0, 1]);
}

#[test]
fn data_image_remove_waits_then_deletes() {
    let (mut brick, alice) = holder();
    for shard in 0..5 {
        brick.write(alice, epoch(1, ALICE), ShardIndex(shard), 0, &blocks(1, 1));
    }
    brick.hold = is_data_write;
    let before = brick.write(alice, epoch(1, ALICE), ShardIndex(0), 0, &blocks(2, 1));
    let remove = brick.simple(alice, Opcode::ImageRemove, epoch(1, ALICE));
    let during = brick.write(alice, epoch(1, ALICE), ShardIndex(0), 0, &blocks(2, 1));
    assert_eq!(brick.status_of(during), Some(Status::Busy));
    assert_eq!(brick.status_of(remove), None);
    brick.release();
    assert_eq!(brick.status_of(before), Some(Status::Ok));
    assert_eq!(brick.status_of(remove), Some(Status::Ok));
    assert!(brick.files.is_empty());
    assert_eq!(dirty_blocks(&mut brick, alice), 0);
    let again = read(&mut brick, alice, 0, 1);
    assert!(brick.reply(again).expect("answered").header.flags.contains(Flags::ZEROES));
}
