//! Dummy writes on their way to an arbiter: many in a frame, and a moment later.
//!
//! While the copies that a write needs are a quorum by themselves, it doesn't wait for an arbiter (I3). Then what the
//! arbiter has to hear is *held* until enough has come together or [`HOLD_TIME`] is over, so that the arbiter wakes once
//! for many writes. To all rules a held write is one that was sent: the arbiter's answer is awaited, and if the write
//! completes before it, it is late (`vouch`).
//!
//! - Whatever else goes to that brick goes behind what is held for it.
//! - What is held for a core is of one epoch and one generation.
//! - A write that may need the arbiter's answer isn't held, and takes with it what is.

use std::time::Duration;

use brick_wire::body::{DummyWrite, DummyWrites};
use brick_wire::cursor::Body;
use brick_wire::decode::Frame;
use brick_wire::limits::{DUMMY_BLOCKS_MAX, DUMMY_WRITES_MAX};
use brick_wire::{BlockRange, BrickIndex, CoreIndex, Header, Opcode, ShardIndex};
use bytes::Bytes;

use super::Group;
use super::admit::OperationKey;
use super::group::Phase;
use super::pending::Purpose;

/// How long a write is held at most: short beside all that people notice, long beside what a write takes.
const HOLD_TIME: Duration = Duration::from_millis(2);
/// Writes that are held for a core before they are sent.
const HELD_WRITES_MAX: usize = 32;

const _: () = assert!(HELD_WRITES_MAX <= DUMMY_WRITES_MAX);

/// What a core of an arbiter has to hear.
#[derive(Debug)]
pub(super) struct Held {
    /// The frame's; without the lengths.
    header: Header,
    body: DummyWrites,
    keys: Vec<OperationKey>,
}

impl Held {
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
        if self.brick(arbiter).held.get(&core).is_some_and(|held| !held.takes(&header, blocks)) {
            self.send_held_for(arbiter, core);
        }
        let begun = Held { header, body: DummyWrites::default(), keys: Vec::new() };
        let held = self.brick_mut(arbiter).held.entry(core).or_insert(begun);
        held.body.writes.push(dummy);
        held.keys.push(key);
        let is_full = held.keys.len() == HELD_WRITES_MAX;
        self.held_until.get_or_insert(self.now + HOLD_TIME);
        if is_full || !self.may_hold() {
            self.send_held_for(arbiter, core);
        }
    }

    /// Whether no write needs an arbiter.
    fn may_hold(&self) -> bool {
        matches!(self.phase, Phase::Serving) && self.config.is_quorum(self.required())
    }

    /// Sends what was held long enough, and the rest with it.
    pub(super) fn send_overdue(&mut self) {
        if self.held_until.is_some_and(|until| self.now >= until) {
            self.send_all_held();
        }
    }

    /// Sends all that is held.
    pub(super) fn send_all_held(&mut self) {
        for arbiter in self.config.arbiters().iter() {
            self.send_held(arbiter);
        }
        self.held_until = None;
    }

    /// Sends what is held for a brick.
    pub(super) fn send_held(&mut self, brick: BrickIndex) {
        while let Some((core, _)) = self.brick(brick).held.first_key_value() {
            self.send_held_for(brick, *core);
        }
    }

    fn send_held_for(&mut self, arbiter: BrickIndex, core: CoreIndex) {
        let Some(Held { header, body, keys }) = self.brick_mut(arbiter).held.remove(&core) else { return };
        let frame = Frame::new(header, body.to_bytes(), Bytes::new());
        self.push_frame(arbiter, core, frame, Purpose::DummyWrites(keys));
        if self.bricks.iter().all(|brick| brick.held.is_empty()) {
            self.held_until = None;
        }
    }

    /// The link broke: nothing that is held for the brick is sent.
    pub(super) fn forget_held(&mut self, brick: BrickIndex) {
        for held in std::mem::take(&mut self.brick_mut(brick).held).into_values() {
            held.keys.into_iter().for_each(|key| self.undo_write(brick, key));
        }
    }
}
