//! Writes and reads of one shard's blocks, and `Clean`.
//!
//! A write's dirty bits are set before anything of it can reach the disk, and stay if it fails: the other
//! bricks may have applied it. The shard is in the activity log before anything reaches the disk (rule I2). Its
//! bytes are checked against their CRCs on arrival (rule I11), and every read against what was last written (`witness`).
//! A shard that doesn't exist reads as zeros; it is
//! created and allocated before its first write.

use brick_wire::body::{Crcs, DirtyPage, put_crcs, read_crcs};
use brick_wire::checksum::block_crcs;
use brick_wire::cursor::Body;
use brick_wire::overlap::Access;
use brick_wire::{Flags, Header, Role, Status};

use super::requests::{Outcome, Reply};
use super::tasks::{Target, Work};
use super::{ConnectionId, DiskRequest, Engine, Frame, Token};
use crate::buffer::Buffer;

/// A write on its way to disk.
#[derive(Debug)]
pub(super) struct WriteTask {
    /// `None` while it is at the disk's.
    buffer: Option<Buffer>,
    /// One a block.
    crcs: Crcs,
    /// The dirty bits are set.
    marked: bool,
    /// Answer when durable (FUA).
    durable: bool,
}

/// A read on its way.
#[derive(Debug)]
pub(super) struct ReadTask {
    buffer: Option<Buffer>,
}

impl Engine {
    /// `Write`.
    pub(super) fn write(&mut self, id: ConnectionId, frame: Frame) -> Outcome {
        let header = frame.header;
        self.require_role(Role::Data)?;
        let target = self.fenced_shard(id, &header)?;
        self.check_lease(target.key.0, header.epoch.session)?;
        let buffer = frame.data.ok_or(Status::Invalid)?;
        let count = usize::from(target.blocks.count);
        if count == 0 || buffer.len() != target.blocks.bytes() {
            return Err(Status::Invalid);
        }
        let crcs = read_crcs(&header, &frame.aux, count).map_err(|_| Status::Invalid)?;
        if !block_crcs(&buffer).eq(crcs.iter().copied()) {
            return Err(Status::BadChecksum);
        }
        let token = self.open_request(id, header, Some(target.key.0));
        let durable = header.flags.contains(Flags::FUA);
        let work = WriteTask { buffer: Some(buffer), crcs, marked: false, durable };
        self.start_task(token, target, Access::Exclusive, Work::Write(work));
        Ok(None)
    }

    /// `Read`.
    pub(super) fn read(&mut self, id: ConnectionId, header: Header) -> Outcome {
        self.require_role(Role::Data)?;
        let target = self.fenced_shard(id, &header)?;
        self.check_lease(target.key.0, header.epoch.session)?;
        if target.blocks.count == 0 {
            return Err(Status::Invalid);
        }
        let token = self.open_request(id, header, Some(target.key.0));
        self.start_task(token, target, Access::Shared, Work::Read(ReadTask { buffer: None }));
        Ok(None)
    }

    /// `Clean`: every data brick has the blocks of generations up to this one, and flushed them.
    pub(super) fn clean(&mut self, id: ConnectionId, header: &Header) -> Outcome {
        let image = self.fenced_image(id, header)?.image;
        self.dirty.clean(image, header.epoch.session, header.generation);
        Ok(Some(Status::Ok.into()))
    }

    pub(super) fn require_role(&self, role: Role) -> Result<(), Status> {
        if self.config.role == role { Ok(()) } else { Err(Status::Invalid) }
    }

    pub(super) fn advance_write(&mut self, token: Token) {
        if !self.passes_fence(token) {
            return;
        }
        let task = self.tasks.get_mut(&token).expect("advanced tasks exist");
        let (target, header) = (task.target, self.requests.open[&token].header);
        let Work::Write(write) = &mut task.work else { unreachable!("dispatched by kind") };
        if !std::mem::replace(&mut write.marked, true) {
            let any_new =
                self.dirty.insert(target.key, target.blocks, header.epoch.session, header.generation);
            self.bits_set(target.key, any_new);
        }
        if !self.task_activity(token) {
            return;
        }
        let Some(slot) = self.task_file(token) else { return };
        if !self.task_page(token) {
            return;
        }
        let Work::Write(write) = &mut self.task(token).work else { unreachable!("dispatched by kind") };
        let buffer = write.buffer.take().expect("a write is issued once");
        self.mark_issued(token);
        let offset_bytes = target.blocks.offset_bytes();
        self.task_disk(token, DiskRequest::Write { slot, offset_bytes, buffer });
    }

    pub(super) fn write_done(&mut self, token: Token, result: Result<Buffer, Status>) {
        let task = self.tasks.get_mut(&token).expect("a write that ends exists");
        let target = task.target;
        let Work::Write(WriteTask { durable, crcs, .. }) = &mut task.work else {
            unreachable!("dispatched by kind")
        };
        let (durable, crcs) = (*durable, std::mem::take(crcs));
        if let Err(status) = result {
            self.blocks_torn(target.key, target.blocks);
            self.fail_task(token, status);
            return;
        }
        self.blocks_written(target.key, target.blocks, crcs);
        if durable {
            self.sync_for(token, self.sync_targets_of(target.key));
            self.end_task(token);
        } else {
            self.end_task(token);
            self.answer(token, Status::Ok.into());
        }
    }

    pub(super) fn advance_read(&mut self, token: Token) {
        if !self.passes_fence(token) {
            return;
        }
        let target = self.tasks[&token].target;
        if !self.files.exists_soon(target.key) {
            self.end_task(token);
            self.answer(token, Reply::from(Status::Ok).with_flags(Flags::ZEROES));
            return;
        }
        let Work::Read(read) = &self.tasks[&token].work else { unreachable!("dispatched by kind") };
        if read.buffer.is_none() {
            let Some(buffer) = self.task_buffer(token, usize::from(target.blocks.count)) else { return };
            self.task(token).work = Work::Read(ReadTask { buffer: Some(buffer) });
        }
        let Some(slot) = self.task_file(token) else { return };
        if !self.task_page(token) {
            return;
        }
        let Work::Read(read) = &mut self.task(token).work else { unreachable!("dispatched by kind") };
        let buffer = read.buffer.take().expect("allocated above");
        self.mark_issued(token);
        self.task_read(token, slot, buffer);
    }

    pub(super) fn read_done(&mut self, token: Token, result: Result<Buffer, Status>) {
        let buffer = match result {
            Ok(buffer) => buffer,
            Err(status) => {
                let Target { key, blocks, .. } = self.tasks[&token].target;
                self.note_bad(key, &blocks.into());
                return self.fail_task(token, status);
            }
        };
        let crcs: Crcs = block_crcs(&buffer).collect();
        let Target { key, blocks, .. } = self.tasks[&token].target;
        let bad = self.examine(key, blocks, &crcs);
        self.note_bad(key, &bad);
        self.end_task(token);
        if !bad.is_empty() {
            let aux = DirtyPage { shards: vec![(key.1, bad)] }.to_bytes();
            self.answer(token, Reply { aux, ..Reply::from(Status::Corrupt) });
            return;
        }
        let mut header = self.requests.open[&token].header;
        let aux = put_crcs(&mut header, &crcs);
        let reply = Reply { first_crc: header.first_crc, data: Some(buffer), ..Reply::body(aux) };
        self.answer(token, reply);
    }
}
