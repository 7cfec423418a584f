//! Heal between two bricks: brick 0 is in sync, brick 1 pulls from it.

use std::collections::BTreeMap;
use std::time::Duration;

use brick_wire::body::{FinishedHeal, HealHistory, ImageStatus, Pull, PullRead, PullReport};
use brick_wire::cursor::Body;
use brick_wire::handshake::{Hello, PeerKind};
use brick_wire::record::{EpochRecord, RecordKind};
use brick_wire::*;

use super::harness::*;
use crate::engine::*;

const EPOCH: Epoch = Epoch { counter: 1, session: ALICE };
const SHARD: ShardIndex = ShardIndex(0);
/// The flush generation of pulls.
const PULLED: Generation = Generation(2);

/// Two bricks and the wires between them.
pub(super) struct Pair {
    pub(super) source: Brick,
    pub(super) target: Brick,
    source_client: ConnectionId,
    pub(super) target_client: ConnectionId,
    /// Dialled connection of the target, and the same at the source.
    wires: BTreeMap<ConnectionId, ConnectionId>,
    /// Frames from source to target that arrive broken, from now on.
    corrupt: usize,
    /// What happens to answers from source to target on their way.
    pub(super) tamper: Box<dyn Fn(&mut Frame)>,
}

impl Pair {
    /// The source on `cores` cores, the target on one; both know Alice's epoch.
    pub(super) fn new(cores: u16) -> Pair {
        let mut source = Brick::new((0..cores).map(|core| config(0, core, cores)).collect());
        let mut target = Brick::new(vec![config(1, 0, 1)]);
        let control = source.connect(0, ALICE, 1);
        source.hold_image(control, EPOCH);
        let core = placement::core_of(placement::lane_of(image(), SHARD, LANES), cores);
        let source_client = source.connect(core.0, ALICE, 1);
        let target_client = target.connect(0, ALICE, 1);
        target.hold_image(target_client, EPOCH);
        let wires = BTreeMap::new();
        Pair { source, target, source_client, target_client, wires, corrupt: 0, tamper: Box::new(|_| {}) }
    }

    pub(super) fn write_source(&mut self, first: u16, data: &[u8]) {
        let id = self.source.write(self.source_client, EPOCH, SHARD, first, data);
        assert_eq!(self.source.status_of(id), Some(Status::Ok));
    }

    pub(super) fn write_target(&mut self, first: u16, data: &[u8]) {
        let id = self.target.write(self.target_client, EPOCH, SHARD, first, data);
        assert_eq!(self.target.status_of(id), Some(Status::Ok));
    }

    /// The target died and started again: its active shards have lost their CRCs. Or it was stopped, and lost nothing.
    pub(super) fn restart_target(&mut self, again: EngineConfig) {
        let incarnation = Incarnation { start: StartCounter(6), ..again.incarnation };
        let mut target = self.target.successor(EngineConfig { incarnation, ..again });
        target.now = self.target.now;
        self.wires.clear();
        self.target_client = target.connect(0, ALICE, 1);
        self.target = target;
    }

    fn pull(&mut self, first: u16, count: u16) -> RequestId {
        self.pull_flagged(first, count, Flags::NONE)
    }

    pub(super) fn pull_flagged(&mut self, first: u16, count: u16, flags: Flags) -> RequestId {
        let pull = Pull {
            source: brick_uuid(0),
            incarnation: config(0, 0, 1).incarnation,
            address: "source:1".to_owned(),
            blocks: BlockSet::from(BlockRange::new(first, count)),
        };
        self.send_pull(&pull, flags)
    }

    fn send_pull(&mut self, pull: &Pull, flags: Flags) -> RequestId {
        let header =
            Header { epoch: EPOCH, shard: SHARD, generation: PULLED, flags, ..request(Opcode::Pull) };
        let id = self.target.send(self.target_client, header, pull.to_bytes(), None);
        self.carry();
        id
    }

    /// Carries frames to and fro until nothing moves.
    pub(super) fn carry(&mut self) {
        loop {
            let dialed = std::mem::take(&mut self.target.dialed);
            let to_source: Vec<_> = self.target.replies.extract_if(.., |(id, _)| id.0 >> 63 == 1).collect();
            let wires: Vec<ConnectionId> = self.wires.values().copied().collect();
            let to_target: Vec<_> =
                self.source.replies.extract_if(.., |(id, _)| wires.contains(id)).collect();
            if dialed.is_empty() && to_source.is_empty() && to_target.is_empty() {
                return;
            }
            for (core, connection, _) in dialed {
                self.target.event(core, Event::Dialed { connection });
            }
            for (dialed, frame) in to_source {
                self.deliver_to_source(dialed, frame);
            }
            for (id, mut frame) in to_target {
                (self.tamper)(&mut frame);
                let (dialed, _) = self.wires.iter().find(|(_, other)| **other == id).expect("a wire");
                self.deliver_to_target(*dialed, frame);
            }
        }
    }

    fn deliver_to_source(&mut self, dialed: ConnectionId, frame: Frame) {
        if frame.header.opcode != Opcode::Hello {
            let connection = self.wires[&dialed];
            let core = self.source.core_of[&connection];
            self.source.event(core, Event::Frame { connection, frame });
            return;
        }
        let hello = Hello::from_bytes(&frame.aux).expect("a hello");
        let connection = self.source.hello(hello);
        let (_, welcome) =
            self.source.admitted.iter().find(|(id, _)| *id == connection).expect("bricks are admitted");
        let welcome = Frame { header: frame.header.reply(Status::Ok), aux: welcome.to_bytes(), data: None };
        self.wires.insert(dialed, connection);
        self.deliver_to_target(dialed, welcome);
    }

    fn deliver_to_target(&mut self, connection: ConnectionId, mut frame: Frame) {
        if let Some(data) = frame.data.as_mut().filter(|_| self.corrupt > 0) {
            self.corrupt -= 1;
            data[17] ^= 1;
        }
        self.target.event(0, Event::Frame { connection, frame });
    }

    pub(super) fn report(&mut self, id: RequestId) -> Result<PullReport, Status> {
        let frame = self.target.reply(id).expect("the pull is answered");
        match frame.header.status {
            Status::Ok => Ok(PullReport::from_bytes(&frame.aux).expect("a report")),
            status => Err(status),
        }
    }

    fn status(&mut self) -> ImageStatus {
        let aux = image().to_bytes().to_vec();
        let id = self.target.send(self.target_client, request(Opcode::ImageStatus), aux, None);
        ImageStatus::from_bytes(&self.target.reply(id).expect("answered").aux).expect("counters")
    }

    fn history(&mut self) -> Vec<FinishedHeal> {
        let id = self.target.send(self.target_client, request(Opcode::HealHistory), Vec::new(), None);
        HealHistory::from_bytes(&self.target.reply(id).expect("answered").aux).expect("a history").heals
    }

    /// The target gets a record of the session that holds the image.
    fn accept(&mut self, record: &EpochRecord) {
        let promised = self.target.prepare(self.target_client, record.epoch, Flags::NONE);
        assert_eq!(self.target.status_of(promised), Some(Status::Ok));
        let accepted = self.target.accept(self.target_client, record);
        assert_eq!(self.target.status_of(accepted), Some(Status::Ok));
    }

    fn assert_equal(&self) {
        assert!(self.target.files[&(image(), SHARD)] == self.source.files[&(image(), SHARD)]);
    }
}

#[test]
fn pulling_moves_only_what_differs() {
    for cores in [1, 2, 4] {
        let mut pair = Pair::new(cores);
        pair.write_source(0, &blocks(1, 100));
        pair.write_target(0, &blocks(1, 100));
        pair.write_source(7, &blocks(2, 2));
        pair.write_target(30, &blocks(3, 1));
        let pull = pair.pull(0, 256);
        let report = pair.report(pull).expect("pulled");
        assert_eq!((report.compared_blocks, report.written_blocks), (256, 3), "{cores} cores");
        assert!((3 * 4096..6 * 4096).contains(&report.wire_bytes), "{} bytes", report.wire_bytes);
        pair.assert_equal();
    }
}

#[test]
fn pulling_a_missing_shard() {
    let mut pair = Pair::new(1);
    let nothing = pair.pull(0, 10);
    assert_eq!(pair.report(nothing).expect("pulled").written_blocks, 0);
    pair.write_source(3, &blocks(0, 1));
    let zeros = pair.pull(0, 10);
    assert_eq!(pair.report(zeros).expect("pulled").written_blocks, 0);
    assert!(pair.target.files.is_empty(), "all zeros need no file");
    pair.write_source(5, &blocks(6, 2));
    let some = pair.pull(0, 10);
    assert_eq!(pair.report(some).expect("pulled").written_blocks, 2);
    pair.assert_equal();
}

#[test]
fn pulling_zeros_over_a_shard_the_source_lacks() {
    let mut pair = Pair::new(1);
    pair.write_target(3, &blocks(4, 2));
    let pull = pair.pull(0, 10);
    assert_eq!(pair.report(pull).expect("pulled").written_blocks, 2);
    assert!(pair.target.files[&(image(), SHARD)].iter().all(|byte| *byte == 0));
}

#[test]
fn pulling_sets_dirty_bits_and_counters() {
    let mut pair = Pair::new(1);
    pair.write_source(0, &blocks(1, 4));
    let pull = pair.pull(0, 8);
    pair.report(pull).expect("pulled");
    let client = pair.target_client;
    assert_eq!(super::data::dirty_blocks(&mut pair.target, client), 4);
    assert_eq!(pair.target.flush(client, EPOCH), Some(Status::Ok));
    assert_eq!(pair.target.syncs, 2, "pulled blocks are flushed like written ones");
}

#[test]
fn pulling_rewrites_blocks_whose_sync_failed() {
    let mut pair = Pair::new(1);
    pair.write_source(0, &blocks(1, 2));
    pair.write_target(0, &blocks(1, 2));
    pair.target.fail =
        |request| matches!(request, DiskRequest::SyncShard { .. }).then_some(DiskError::Errno(5));
    assert_eq!(pair.target.flush(pair.target_client, EPOCH), Some(Status::FlushFailed));
    pair.target.fail = |_| None;
    let id = pair.pull(0, 2);
    pair.carry();
    assert_eq!(pair.report(id).map(|report| report.written_blocks), Ok(2), "equal, but perhaps not on disk");
    assert_eq!(pair.target.flush(pair.target_client, EPOCH), Some(Status::Ok));
}

/// A repair is durable with the flush after it, and a clean that an earlier one allowed may still be on its way: what the
/// next flush fails about has to be dirty, or nobody would ever write it again.
#[test]
fn pulling_leaves_bits_that_only_a_later_flush_cleans() {
    let mut pair = Pair::new(1);
    pair.write_source(0, &blocks(1, 2));
    let pull = pair.pull(0, 2);
    pair.report(pull).expect("pulled");
    let client = pair.target_client;
    for (generation, left) in [(Generation(1), 2), (PULLED, 0)] {
        let clean = Header { epoch: EPOCH, generation, ..request(Opcode::Clean) };
        let id = pair.target.send(client, clean, Vec::new(), None);
        assert_eq!(pair.target.status_of(id), Some(Status::Ok));
        assert_eq!(super::data::dirty_blocks(&mut pair.target, client), left, "after {generation:?}");
    }
}

#[test]
fn pulling_excludes_writes_to_its_blocks() {
    let mut pair = Pair::new(1);
    pair.write_source(0, &blocks(1, 4));
    pair.source.hold = |request| matches!(request, DiskRequest::Read { .. });
    let pull = pair.pull(0, 4);
    let client = pair.target_client;
    let write = pair.target.write(client, EPOCH, SHARD, 2, &blocks(9, 1));
    let beside = pair.target.write(client, EPOCH, SHARD, 8, &blocks(9, 1));
    assert_eq!(pair.target.status_of(write), None);
    assert_eq!(pair.target.status_of(beside), Some(Status::Ok));
    pair.source.release();
    pair.carry();
    assert_eq!(pair.report(pull).expect("pulled").written_blocks, 4);
    assert_eq!(pair.target.status_of(write), Some(Status::Ok));
    let file = &pair.target.files[&(image(), SHARD)];
    assert_eq!((file[4096], file[2 * 4096], file[3 * 4096]), (1, 9, 1));
}

#[test]
fn pulling_checks_the_source() {
    let mut pair = Pair::new(1);
    pair.write_source(0, &blocks(1, 1));
    let good = Pull {
        source: brick_uuid(0),
        incarnation: config(0, 0, 1).incarnation,
        address: "source:1".to_owned(),
        blocks: BlockSet::full(4),
    };
    let start = StartCounter(4);
    let past = Pull { incarnation: Incarnation { start, ..good.incarnation }, ..good.clone() };
    let wrong = pair.send_pull(&past, Flags::NONE);
    assert_eq!(pair.report(wrong), Err(Status::WrongIncarnation));
    // A promise without a record: nobody knows whether the source is good.
    let next = epoch(2, ALICE);
    let control = pair.source.connect(0, ALICE, 1);
    pair.source.prepare(control, next, Flags::NONE);
    let client = pair.target_client;
    pair.target.prepare(client, next, Flags::NONE);
    let header = Header { epoch: next, shard: SHARD, ..request(Opcode::Pull) };
    let bare = pair.target.send(client, header, good.to_bytes(), None);
    pair.carry();
    assert_eq!(pair.report(bare), Err(Status::NotInSync));
    pair.source.prepare(control, epoch(3, ALICE), Flags::NONE);
    let fenced = pair.target.send(client, header, good.to_bytes(), None);
    pair.carry();
    assert_eq!(pair.report(fenced), Err(Status::StaleEpoch));
    assert!(pair.target.files.is_empty());
}

#[test]
fn pulling_one_block_twice_at_once_is_ordered() {
    let mut pair = Pair::new(1);
    pair.write_source(0, &blocks(1, 4));
    pair.source.hold = |request| matches!(request, DiskRequest::Read { .. });
    let first = pair.pull(0, 4);
    let second = pair.pull(2, 4);
    assert_eq!(pair.source.held.len(), 1, "the second doesn't even ask");
    pair.source.release();
    pair.carry();
    assert_eq!(pair.report(first).expect("pulled").written_blocks, 4);
    assert_eq!(pair.report(second).expect("pulled").written_blocks, 0);
}

#[test]
fn pulling_the_source_answers_only_bricks_that_mean_this_life_of_it() {
    let mut pair = Pair::new(1);
    let hello = Hello { kind: PeerKind::Brick, ..client_hello(0, BOB, 1) };
    let brick = pair.source.hello(hello);
    pair.source.attach(brick);
    let header = Header { epoch: EPOCH, blocks: BlockRange::new(0, 1), ..request(Opcode::PullRead) };
    let now = config(0, 0, 1).incarnation;
    let boot = BootUuid::from_bytes([8; 16]);
    let mut ask = |id, incarnation, hashes| {
        let body = PullRead { incarnation, hashes };
        pair.source.ask(id, header, body.to_bytes(), None).expect("answered").header.status
    };
    assert_eq!(ask(brick, now, vec![]), Status::Ok);
    assert_eq!(ask(brick, Incarnation { boot, ..now }, vec![]), Status::WrongIncarnation);
    assert_eq!(ask(brick, now, vec![1, 2]), Status::Invalid, "a hash per block or none");
    assert_eq!(ask(pair.source_client, now, vec![]), Status::Invalid);
}

#[test]
fn pulling_ends_with_a_fence() {
    let mut pair = Pair::new(1);
    pair.write_source(0, &blocks(1, 4));
    pair.source.hold = |request| matches!(request, DiskRequest::Read { .. });
    let pull = pair.pull(0, 4);
    let bob = pair.target.connect(0, BOB, 1);
    let promise = pair.target.prepare(bob, epoch(2, BOB), Flags::FORCE);
    assert_eq!(pair.report(pull), Err(Status::StaleEpoch));
    assert_eq!(pair.target.status_of(promise), Some(Status::Ok));
    pair.source.release();
    pair.carry();
    assert!(pair.target.files.is_empty(), "a late answer changes nothing");
}

#[test]
fn pulling_a_fence_waits_for_the_write_in_flight() {
    let mut pair = Pair::new(1);
    pair.write_source(0, &blocks(1, 1));
    pair.write_source(2, &blocks(1, 1));
    pair.target.hold = is_data_write;
    let pull = pair.pull(0, 4);
    let bob = pair.target.connect(0, BOB, 1);
    let promise = pair.target.prepare(bob, epoch(2, BOB), Flags::FORCE);
    assert_eq!(pair.target.status_of(promise), None);
    pair.target.release();
    assert_eq!(pair.report(pull), Err(Status::StaleEpoch));
    assert_eq!(pair.target.status_of(promise), Some(Status::Ok));
    let file = &pair.target.files[&(image(), SHARD)];
    assert_eq!((file[0], file[2 * 4096]), (1, 0), "the second piece isn't written any more");
}

#[test]
fn pulling_fetches_broken_blocks_again() {
    let mut pair = Pair::new(1);
    pair.write_source(0, &blocks(1, 4));
    pair.corrupt = 2;
    let pull = pair.pull(0, 4);
    assert_eq!(pair.report(pull).expect("pulled").written_blocks, 4);
    pair.assert_equal();
    pair.write_source(0, &blocks(2, 4));
    pair.corrupt = 100;
    let hopeless = pair.pull(0, 4);
    assert_eq!(pair.report(hopeless), Err(Status::Io));
    assert_eq!(pair.target.files[&(image(), SHARD)][0], 1);
}

#[test]
fn pulling_from_a_silent_or_lost_source_fails() {
    let mut pair = Pair::new(1);
    pair.write_source(0, &blocks(1, 4));
    pair.source.hold = |request| matches!(request, DiskRequest::Read { .. });
    let silent = pair.pull(0, 4);
    let deadline = pair.target.engines[0].poll_timeout().expect("a deadline");
    assert_eq!(deadline.since(pair.target.now), Duration::from_secs(4));
    pair.target.pass(Duration::from_secs(4));
    assert_eq!(pair.report(silent), Err(Status::SourceUnreachable));
    assert_eq!(pair.target.closed.len(), 1);
    // The source drains the old connection's read before it admits the next connection.
    pair.source.release();
    pair.source.hold = |request| matches!(request, DiskRequest::Read { .. });
    let lost = pair.pull(0, 4);
    let link = *pair.wires.keys().last().expect("dialled again");
    pair.target.event(0, Event::Disconnected { connection: link });
    assert_eq!(pair.report(lost), Err(Status::SourceUnreachable));
}

#[test]
fn pulling_links_close_when_idle() {
    let mut pair = Pair::new(1);
    for _ in 0..3 {
        let pull = pair.pull(0, 4);
        pair.report(pull).expect("pulled");
    }
    assert_eq!(pair.wires.len(), 1, "one link serves all");
    pair.target.pass(Duration::from_secs(30));
    assert!(matches!(pair.target.closed.as_slice(), [(_, CloseReason::Idle)]));
    assert_eq!(pair.target.engines[0].poll_timeout(), None);
}

/// The target's status and history, and what a record makes of them: the first that has the target in S ends the heal.
#[test]
fn pulling_for_a_copy_outside_s_is_remembered_as_a_heal() {
    let mut pair = Pair::new(1);
    pair.write_source(0, &blocks(1, 4));
    pair.pull(0, 8);
    assert_eq!(pair.status().heal_compared_blocks, 8);
    assert_eq!(pair.history(), [], "it has not ended");
    pair.target.pass(Duration::from_millis(700));

    let next = |counter| Epoch { counter, ..EPOCH };
    pair.accept(&record(next(2), RecordKind::Heal));
    assert_eq!(pair.history(), [], "another record without the target changes nothing");
    let both = BrickSet::only(BrickIndex(0)).with(BrickIndex(1));
    pair.accept(&EpochRecord { in_sync: both, ..record(next(3), RecordKind::Heal) });
    pair.target.pass(Duration::from_millis(50));
    let history = pair.history();
    assert_eq!(history.len(), 1, "{history:?}");
    let heal = history[0];
    assert_eq!((heal.image, heal.epoch, heal.age_ms, heal.duration_ms), (image(), next(3), 50, 700));
    assert_eq!((heal.compared_blocks, heal.written_blocks), (8, 4));
    assert_eq!(pair.status().heal_compared_blocks, 0);
    pair.accept(&EpochRecord { in_sync: both, ..record(next(4), RecordKind::Closed) });
    assert_eq!(pair.history(), history, "once");
}
