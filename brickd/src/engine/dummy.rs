//! `DummyWrites`: the arbiter's part of writes. What they leave behind are dirty bits and CRCs.
//!
//! A frame tells of many writes. Those whose shard is active (rule I2) and whose page of CRCs is in memory take effect at
//! once; each of the others becomes a *part*, a request and a task of its own. The frame is answered when all of its parts
//! are in effect, or at once when one is refused: before anybody can ask here for what a refused write didn't change. Other
//! writes of the frame may be in effect then, or come into effect, and the frame stays open for those who wait for them to
//! end. Writes to the same blocks take effect in the order in which they came: a part claims its blocks, and nothing happens
//! at once to blocks that are claimed.

use brick_wire::body::{Crcs, DummyWrite, DummyWrites};
use brick_wire::cursor::Body;
use brick_wire::overlap::Access;
use brick_wire::{Role, Status};

use super::requests::{OpenRequest, Outcome};
use super::tasks::{Target, Work};
use super::{ConnectionId, Engine, Frame, Token};

/// A frame with writes that haven't taken effect.
#[derive(Debug)]
pub(super) struct DummyFrame {
    parts_left: usize,
    /// A part was, and so the frame.
    is_refused: bool,
}

impl Engine {
    /// `DummyWrites`.
    pub(super) fn dummy_writes(&mut self, id: ConnectionId, frame: Frame) -> Outcome {
        let header = frame.header;
        self.require_role(Role::Arbiter)?;
        let attach = self.fenced_image(id, &header)?;
        let DummyWrites { writes } = DummyWrites::from_bytes(&frame.aux).map_err(|_| Status::Invalid)?;
        if frame.data.is_some() {
            return Err(Status::Invalid);
        }
        // All or nothing: a frame that makes no sense changes nothing.
        let targets = writes.into_iter().map(|DummyWrite { shard, blocks, crcs }| {
            let target = self.target_of(attach, shard, blocks)?;
            Ok((target, crcs))
        });
        let (mut waiting, mut parts_left) = (None, 0);
        for (target, crcs) in targets.collect::<Result<Vec<(Target, Crcs)>, Status>>()? {
            let Target { key, blocks, shard_bytes } = target;
            let any_new = self.dirty.insert(key, blocks, header.epoch.session, header.generation);
            self.bits_set(key, any_new);
            if self.is_active(key) && self.record_at_once(key, shard_bytes, blocks, &crcs) {
                continue;
            }
            // Its parts can be taken back; it can't, and ends with them.
            let frame = *waiting.get_or_insert_with(|| self.open_issued(id, header, Some(key.0)));
            parts_left += 1;
            let part = self.open_request(id, header, Some(key.0));
            self.requests.open.get_mut(&part).expect("just opened").part_of = Some(frame);
            self.start_task(part, target, Access::Exclusive, Work::DummyWrite(crcs));
        }
        let Some(frame) = waiting else { return Ok(Some(Status::Ok.into())) };
        self.requests.dummy_frames.insert(frame, DummyFrame { parts_left, is_refused: false });
        Ok(None)
    }

    pub(super) fn advance_dummy_write(&mut self, token: Token) {
        if !self.passes_fence(token) || !self.task_activity(token) || !self.task_page_alone(token) {
            return;
        }
        let task = self.task(token);
        let Target { key, blocks, .. } = task.target;
        let Work::DummyWrite(crcs) = &mut task.work else { unreachable!("dispatched by kind") };
        let crcs = std::mem::take(crcs);
        self.witness.record(key, blocks, crcs);
        self.end_task(token);
        self.answer(token, Status::Ok.into());
    }

    /// A part is answered. The first refusal answers the frame, else the last part does.
    pub(super) fn dummy_part_answered(&mut self, frame: Token, status: Status) {
        let state = self.requests.dummy_frames.get_mut(&frame).expect("frames outlive their parts");
        state.parts_left -= 1;
        let (is_last, was_refused) = (state.parts_left == 0, state.is_refused);
        state.is_refused |= status != Status::Ok;
        let OpenRequest { connection, header, .. } = self.requests.open[&frame];
        if is_last {
            self.requests.dummy_frames.remove(&frame);
            self.close_request(frame);
        }
        // Once: at the first refusal, or when all are in effect.
        if !was_refused && (is_last || status != Status::Ok) {
            self.reply(connection, &header, status.into());
        }
    }
}
