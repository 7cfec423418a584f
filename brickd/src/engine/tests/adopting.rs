//! A brick that crashed takes the CRCs of its active shards from the source: brick 1 from brick 0.

use std::time::Duration;

use brick_wire::body::{DirtyPage, PullReadReply, PullReport};
use brick_wire::checksum::{ZERO_BLOCK_CRC, crc32c};
use brick_wire::cursor::Body;
use brick_wire::limits::BLOCK_SIZE;
use brick_wire::*;

use super::harness::*;
use super::pulling::Pair;
use crate::engine::*;

const EPOCH: Epoch = Epoch { counter: 1, session: ALICE };
const SHARD: ShardIndex = ShardIndex(0);
const WRITTEN: u16 = 100;

/// Both copies have the same blocks, and the target died.
fn crashed() -> Pair {
    crashed_with(&blocks(1, usize::from(WRITTEN)), 8)
}

fn crashed_with(data: &[u8], active_shards_max: usize) -> Pair {
    let mut pair = Pair::new(1);
    pair.write_source(0, data);
    pair.write_target(0, data);
    pair.restart_target(EngineConfig { active_shards_max, ..config(1, 0, 1) });
    pair
}

fn adopt(pair: &mut Pair) -> PullReport {
    let pull = pair.pull_flagged(0, 256, Flags::HEAL);
    pair.report(pull).expect("pulled")
}

fn rot(pair: &mut Pair, block: usize) {
    pair.target.files.get_mut(&(image(), SHARD)).expect("a file")[block * BLOCK_SIZE + 9] ^= 1;
}

fn read(pair: &mut Pair, block: u16) -> Status {
    let blocks = BlockRange::new(block, 1);
    let header = Header { epoch: EPOCH, shard: SHARD, blocks, ..request(Opcode::Read) };
    let reply = pair.target.ask(pair.target_client, header, Vec::new(), None).expect("answered");
    reply.header.status
}

/// What the target tells the holder of bad blocks.
fn bad(pair: &mut Pair) -> Vec<(ShardIndex, BlockSet)> {
    let header = Header { epoch: EPOCH, ..request(Opcode::BadRead) };
    let reply = pair.target.ask(pair.target_client, header, Vec::new(), None).expect("answered");
    DirtyPage::from_bytes(&reply.aux).expect("a page").shards
}

#[test]
fn adopting_reads_no_block_and_sends_none() {
    let mut pair = crashed();
    // Pages are read, and they are behind the blocks.
    let is_block = |request: &DiskRequest| matches!(request, DiskRequest::Read { offset_bytes, .. } if *offset_bytes < 1 << 20);
    (pair.source.hold, pair.target.hold) = (is_block, is_block);
    let report = adopt(&mut pair);
    assert_eq!((report.compared_blocks, report.written_blocks), (0, 0));
    assert!(report.wire_bytes < 256 * 8, "{} bytes", report.wire_bytes);
    assert!(report.unvouched.is_empty());
}

#[test]
fn adopting_makes_rot_known_when_it_is_read() {
    let mut pair = crashed();
    rot(&mut pair, 5);
    adopt(&mut pair);
    assert_eq!((read(&mut pair, 4), read(&mut pair, 5)), (Status::Ok, Status::Corrupt));
}

#[test]
fn adopting_makes_rot_known_soon_though_nobody_reads_it() {
    let mut pair = crashed();
    (5..90).step_by(17).for_each(|block| rot(&mut pair, block));
    adopt(&mut pair);
    assert!(bad(&mut pair).is_empty(), "heal comes first");
    while let Some(due) = pair.target.engines[0].poll_timeout() {
        assert!(
            due.since(pair.target.now) <= Duration::from_secs(30),
            "a link is idle, or there is something to read"
        );
        pair.target.pass(due.since(pair.target.now));
    }
    let mut expected = BlockSet::new();
    (5..90).step_by(17).for_each(|block| expected.insert_range(BlockRange::new(block, 1)));
    assert_eq!(bad(&mut pair), [(SHARD, expected)]);
}

/// The shard leaves the activity log with a page that knows nothing, before the pull: what is adopted then has to reach
/// the disk like a write's CRC, or another start would take the block as it finds it.
#[test]
fn adopting_outlives_a_clean_stop() {
    let mut pair = crashed_with(&blocks(1, 100), 4);
    rot(&mut pair, 5);
    let lane = placement::lane_of(image(), SHARD, LANES);
    let others = (1..).map(ShardIndex).filter(|shard| placement::lane_of(image(), *shard, LANES) == lane);
    for shard in others.take(8) {
        let id = pair.target.write(pair.target_client, EPOCH, shard, 0, &blocks(3, 1));
        assert_eq!(pair.target.status_of(id), Some(Status::Ok));
    }
    assert!(!pair.target.active[&lane].iter().any(|entry| entry.shard == SHARD), "it has left the log");
    adopt(&mut pair);
    pair.target.event(0, Event::Shutdown);
    assert_eq!(pair.target.stopped, [true]);
    pair.restart_target(config(1, 0, 1));
    assert_eq!((read(&mut pair, 4), read(&mut pair, 5)), (Status::Ok, Status::Corrupt));
}

#[test]
fn adopting_into_a_file_that_cant_be_made_ends() {
    let mut pair = Pair::new(1);
    pair.write_source(0, &blocks(1, 100));
    let is_create = |request: &DiskRequest| matches!(request, DiskRequest::OpenShard { create: true, .. });
    pair.target.hold = is_create;
    let write = pair.target.write(pair.target_client, EPOCH, SHARD, 200, &blocks(2, 1));
    let pull = pair.pull_flagged(0, 100, Flags::HEAL);
    pair.target.fail = |request| {
        matches!(request, DiskRequest::OpenShard { create: true, .. }).then_some(DiskError::NoSpace)
    };
    pair.target.release();
    pair.carry();
    assert_eq!(pair.target.status_of(write), Some(Status::NoSpace));
    // It compares instead, and has no room for what differs.
    assert_eq!(pair.report(pull), Err(Status::NoSpace));
}

/// One CRC in four billion can't be kept.
#[test]
fn adopting_a_crc_that_looks_unknown() {
    let data = block_with_crc(u32::MAX ^ ZERO_BLOCK_CRC);
    let mut pair = crashed_with(&data, 8);
    assert!(adopt(&mut pair).unvouched.is_empty());
    assert_eq!(read(&mut pair, 0), Status::Ok);
}

#[test]
fn adopting_checks_the_answer() {
    type Tamper = fn(&mut PullReadReply);
    let tampers: [Tamper; 3] = [
        |reply| reply.unvouched.insert_range(BlockRange::new(7, 1)),
        |reply| reply.differing.remove_range(BlockRange::new(7, 1)),
        |reply| reply.unvouched.insert_range(BlockRange::new(WRITTEN, 1)),
    ];
    for tamper in tampers {
        let mut pair = crashed();
        let reply = |frame: &mut Frame, tamper: Tamper| {
            if frame.header.opcode == Opcode::PullRead {
                let mut reply = PullReadReply::from_bytes(&frame.aux).expect("well formed");
                tamper(&mut reply);
                reply.crcs.truncate(reply.differing.count());
                frame.aux = reply.to_bytes();
            }
        };
        pair.tamper = Box::new(move |frame| reply(frame, tamper));
        let pull = pair.pull_flagged(0, WRITTEN, Flags::HEAL);
        assert_eq!(pair.report(pull), Err(Status::SourceUnreachable));
        assert_eq!(pair.target.closed.len(), 1, "who answers like that isn't asked again");
    }
}

/// A block with this CRC32C: the CRC is linear in the last four bytes, but for a constant.
fn block_with_crc(wanted: u32) -> Vec<u8> {
    let with = |word: u32| {
        let mut block = blocks(0, 1);
        block[BLOCK_SIZE - 4..].copy_from_slice(&word.to_le_bytes());
        block
    };
    let base = crc32c(&with(0));
    let mut rows: Vec<(u32, u32)> = (0..32).map(|bit| (crc32c(&with(1 << bit)) ^ base, 1 << bit)).collect();
    let (mut rest, mut word) = (wanted ^ base, 0);
    for bit in (0..32).rev() {
        let Some(index) = rows.iter().position(|(crc, _)| crc >> bit & 1 == 1) else { continue };
        let (pivot, bits) = rows.swap_remove(index);
        for row in rows.iter_mut().filter(|row| row.0 >> bit & 1 == 1) {
            *row = (row.0 ^ pivot, row.1 ^ bits);
        }
        if rest >> bit & 1 == 1 {
            (rest, word) = (rest ^ pivot, word ^ bits);
        }
    }
    let block = with(word);
    assert_eq!(crc32c(&block), wanted);
    block
}
