//! Dummy writes on their way to an arbiter: many in a frame, and a moment later.
//!
//! While the copies that a write needs are a quorum by themselves, it doesn't wait for an arbiter (I3). Then the arbiter
//! is told of it when enough has come together, or after [`TELL_TIME`], so that it wakes once for many writes. To all rules
//! a write that it is yet to be told of is one that was sent: the answer is awaited, and if the write completes before, it
//! is late (`vouch`).
//!
//! - Whatever else goes to that brick goes behind what it is yet to be told.
//! - What one frame tells is of one epoch and one generation.
//! - A write that needs the arbiter when it is made goes at once, and takes along what is untold.
//! - A refusal of a frame with several writes may be for any of them, so none is refused: those that aren't complete by then
//!   are told again at once, each in a frame of its own.

use std::time::Duration;

use brick_wire::body::{DummyWrite, DummyWrites};
use brick_wire::cursor::Body;
use brick_wire::decode::Frame;
use brick_wire::limits::{DUMMY_BLOCKS_MAX, DUMMY_WRITES_MAX};
use brick_wire::{BlockRange, BrickIndex, CoreIndex, Header, Opcode, ShardIndex, Status};
use bytes::Bytes;

use super::Group;
use super::admit::OperationKey;
use super::group::Phase;
use super::pending::Purpose;
use super::write::is_refusal;

/// How long a write stays untold at most: short beside all that people notice, long beside what a write takes.
const TELL_TIME: Duration = Duration::from_millis(2);

/// What a core of an arbiter is yet to be told.
#[derive(Debug)]
pub(super) struct Untold {
    /// The frame's; without the lengths.
    header: Header,
    body: DummyWrites,
    keys: Vec<OperationKey>,
}

impl Untold {
    fn takes(&self, header: &Header, blocks: BlockRange) -> bool {
        (self.header.epoch, self.header.generation) == (header.epoch, header.generation)
            && self.body.block_count() + usize::from(blocks.count) <= DUMMY_BLOCKS_MAX
    }
}

impl Group {
    /// Tells an arbiter of a write, at once or soon.
    pub(super) fn send_dummy_write(
        &mut self,
        arbiter: BrickIndex,
        key: OperationKey,
        shard: ShardIndex,
        blocks: BlockRange,
    ) {
        let mut header = self.data_header(Opcode::DummyWrites);
        let write = self.write_mut(key).expect("sent as a write");
        write.note_sent(arbiter);
        header.generation = write.generation().expect("set before it is sent");
        let dummy = DummyWrite { shard, blocks, crcs: write.crcs().clone() };
        let core = self.core_for(arbiter, shard);
        if self.brick(arbiter).untold.get(&core).is_some_and(|untold| !untold.takes(&header, blocks)) {
            self.tell_core(arbiter, core);
        }
        let begun = Untold { header, body: DummyWrites::default(), keys: Vec::new() };
        let untold = self.brick_mut(arbiter).untold.entry(core).or_insert(begun);
        untold.body.writes.push(dummy);
        untold.keys.push(key);
        let is_full = untold.keys.len() == DUMMY_WRITES_MAX;
        self.tell_at.get_or_insert(self.now + TELL_TIME);
        if is_full || !self.can_do_without_arbiters() {
            self.tell_core(arbiter, core);
        }
    }

    /// Whether no write needs an arbiter.
    fn can_do_without_arbiters(&self) -> bool {
        matches!(self.phase, Phase::Serving) && self.config.is_quorum(self.required())
    }

    /// When something was untold for long enough, tells it, and the rest with it.
    pub(super) fn tell_in_time(&mut self) {
        if self.tell_at.is_some_and(|at| self.now >= at) {
            self.tell_all();
        }
    }

    /// Tells all arbiters everything.
    pub(super) fn tell_all(&mut self) {
        self.config.arbiters().iter().for_each(|arbiter| self.tell(arbiter));
    }

    /// Tells a brick everything that it is yet to be told.
    pub(super) fn tell(&mut self, brick: BrickIndex) {
        while let Some((core, _)) = self.brick(brick).untold.first_key_value() {
            self.tell_core(brick, *core);
        }
    }

    fn tell_core(&mut self, arbiter: BrickIndex, core: CoreIndex) {
        let Some(Untold { header, body, keys }) = self.brick_mut(arbiter).untold.remove(&core) else {
            return;
        };
        let frame = Frame::new(header, body.to_bytes(), Bytes::new());
        self.send_now(arbiter, core, frame, Purpose::DummyWrites(keys));
        self.disarm();
    }

    fn disarm(&mut self) {
        if self.bricks.iter().all(|brick| brick.untold.is_empty()) {
            self.tell_at = None;
        }
    }

    /// The link broke: nothing more is told.
    pub(super) fn forget_untold(&mut self, brick: BrickIndex) {
        for untold in std::mem::take(&mut self.brick_mut(brick).untold).into_values() {
            untold.keys.into_iter().for_each(|key| self.undo_write(brick, key));
        }
        self.disarm();
    }

    /// An arbiter has answered.
    pub(super) fn handle_told(&mut self, arbiter: BrickIndex, mut keys: Vec<OperationKey>, reply: Header) {
        if reply.status == Status::Ok || keys.len() == 1 {
            keys.into_iter().for_each(|key| self.handle_written(arbiter, key, reply));
            return;
        }
        keys.retain(|key| !self.settle_late(arbiter, *key, reply.status));
        if keys.is_empty() {
            return;
        }
        // All of them before anything follows from it: a link that is reset forgets what it still knows.
        keys.iter().for_each(|key| self.undo_write(arbiter, *key));
        match reply.status {
            Status::StaleEpoch | Status::AheadEpoch => self.note_wrong_epoch(arbiter, reply),
            Status::LeaseExpired => {}
            status if is_refusal(status) => {}
            _ => return self.reset_link(arbiter, "it can't write"),
        }
        self.tell(arbiter);
        for key in keys {
            self.drive(key);
            self.tell(arbiter);
        }
    }
}
