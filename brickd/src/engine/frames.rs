//! From a frame to the handler of its request.
//!
//! Peers may send anything that parses: what makes no sense here gets `Invalid`, and what only a broken
//! peer says (a reply, a second hello, more requests than allowed) ends its connection. Nothing panics.

use brick_wire::body::{Adopt, Attach, Pull, PullRead, Retire, Stamp};
use brick_wire::cursor::{Body, BodyError};
use brick_wire::placement::{core_of, lane_of};
use brick_wire::register::{RegisterEntry, RegisterKey, RegisterListRequest};
use brick_wire::{BlockRange, Epoch, Header, ImageUuid, Opcode, ShardIndex, Status};

use super::flush::SyncTarget;
use super::registers::Change;
use super::requests::{Outcome, Reply};
use super::tasks::Target;
use super::{CloseReason, ConnectionId, Engine, Frame};

impl Engine {
    pub(super) fn handle_frame(&mut self, id: ConnectionId, frame: Frame) {
        if self.links.contains(id) {
            self.handle_link_frame(id, frame);
            return;
        }
        if self.live_connection(id).is_none() {
            return;
        }
        if frame.header.is_reply() {
            self.close_connection(id, CloseReason::Protocol("a reply where requests go"));
            return;
        }
        if frame.header.opcode == Opcode::Hello {
            self.close_connection(id, CloseReason::Protocol("a second hello"));
            return;
        }
        if self.is_overloaded(id) {
            self.close_connection(id, CloseReason::Protocol("too many unanswered requests"));
            return;
        }
        let header = frame.header;
        let outcome = if self.is_stopping() {
            Err(Status::ShuttingDown)
        } else if self.is_brick(id) {
            self.handle_brick_request(id, frame)
        } else {
            self.handle_request(id, frame)
        };
        match outcome {
            Ok(Some(reply)) => self.reply(id, &header, reply),
            Ok(None) => {}
            Err(status) => self.reply(id, &header, status.into()),
        }
    }

    /// What another brick may ask.
    fn handle_brick_request(&mut self, id: ConnectionId, frame: Frame) -> Outcome {
        match frame.header.opcode {
            Opcode::Ping => Ok(Some(Status::Ok.into())),
            Opcode::Attach => self.attach(id, frame.header.image, parse::<Attach>(&frame.aux)?),
            Opcode::PullRead => self.pull_read(id, frame.header, parse::<PullRead>(&frame.aux)?),
            _ => Err(Status::Invalid),
        }
    }

    /// What clients and operators may ask.
    fn handle_request(&mut self, id: ConnectionId, frame: Frame) -> Outcome {
        let header = frame.header;
        match header.opcode {
            Opcode::Ping => self.ping(id, &header),
            Opcode::Attach => self.attach(id, header.image, parse::<Attach>(&frame.aux)?),
            Opcode::BrickStatus => self.brick_status(id, header),
            Opcode::ImageStatus => {
                let image = frame.aux.as_slice().try_into().map_err(|_| Status::Invalid)?;
                Ok(Some(self.image_status(ImageUuid::from_bytes(image))))
            }
            Opcode::HealHistory => Ok(Some(Reply::body(self.joins.history(self.now).to_bytes()))),
            Opcode::Write => self.write(id, frame),
            Opcode::DummyWrites => self.dummy_writes(id, frame),
            Opcode::Read => self.read(id, header),
            Opcode::Flush => self.flush(id, header),
            Opcode::Clean => self.clean(id, &header),
            Opcode::DirtyRead => self.dirty_read(id, &header),
            Opcode::ShardList => self.shard_list(id, &header),
            Opcode::ImageRemove => self.image_remove(id, header),
            Opcode::Verify => self.verify(id, header),
            Opcode::BadRead => self.bad_read(id, &header),
            Opcode::Suspect => self.suspect(id, &header),
            Opcode::Pull => self.pull(id, header, parse::<Pull>(&frame.aux)?),
            Opcode::Stamp
            | Opcode::RegisterRead
            | Opcode::RegisterPrepare
            | Opcode::RegisterAccept
            | Opcode::RegisterList
            | Opcode::BlankDeclare
            | Opcode::RegisterLearn
            | Opcode::BlankClear
            | Opcode::Adopt
            | Opcode::Retire => self.handle_core_zero_request(id, frame),
            Opcode::Hello | Opcode::PullRead => Err(Status::Invalid),
        }
    }

    /// Registers and identity live on core 0.
    fn handle_core_zero_request(&mut self, id: ConnectionId, frame: Frame) -> Outcome {
        if !self.is_core_zero() {
            return Err(Status::Invalid);
        }
        let header = frame.header;
        match header.opcode {
            Opcode::Stamp => self.stamp(id, header, parse::<Stamp>(&frame.aux)?),
            Opcode::Adopt => self.adopt(id, header, parse::<Adopt>(&frame.aux)?),
            Opcode::Retire => self.retire(id, header, parse::<Retire>(&frame.aux)?),
            Opcode::BlankDeclare => self.blank_declare(id, header),
            Opcode::BlankClear => self.blank_clear(id, header),
            Opcode::RegisterRead => Ok(Some(self.register_read(&parse::<RegisterKey>(&frame.aux)?))),
            Opcode::RegisterList => self.register_list(&parse::<RegisterListRequest>(&frame.aux)?),
            Opcode::RegisterPrepare => {
                self.change_register(id, header, parse::<RegisterKey>(&frame.aux)?, Change::Prepare)
            }
            Opcode::RegisterAccept => {
                let entry = parse::<RegisterEntry>(&frame.aux)?;
                self.change_register(id, header, entry.key, Change::Accept { value: entry.state.value })
            }
            Opcode::RegisterLearn => {
                let entry = parse::<RegisterEntry>(&frame.aux)?;
                self.change_register(id, header, entry.key, Change::Learn { state: entry.state })
            }
            _ => Err(Status::Invalid),
        }
    }

    /// `Ping`: under an epoch, from the holder, it renews the lease.
    fn ping(&mut self, id: ConnectionId, header: &Header) -> Outcome {
        if header.epoch != Epoch::ZERO {
            let image = self.attached(id, header.image)?.image;
            self.check_epoch(image, header.epoch)?;
            let session = self.hello_of(id).session;
            if header.epoch.session == session {
                self.fences.renew(image, session, self.now);
                if self.is_core_zero() {
                    self.leases.renew(image, session, self.now);
                }
                return Ok(Some(Reply::from(Status::Ok).with_flags(self.bad_flag(image))));
            }
        }
        Ok(Some(Reply::from(Status::Ok)))
    }

    /// Checks what every request under an epoch has to satisfy on arrival: attached, not fenced, of the
    /// connection's own session, image not being removed.
    pub(super) fn fenced_image(&self, id: ConnectionId, header: &Header) -> Result<Attach, Status> {
        let attach = self.attached(id, header.image)?;
        self.check_epoch(attach.image, header.epoch)?;
        let hello = self.hello_of(id);
        if !self.is_brick(id) && header.epoch.session != hello.session {
            return Err(Status::StaleEpoch);
        }
        if self.removals.contains(attach.image) {
            return Err(Status::Busy);
        }
        Ok(attach)
    }

    /// The same, and the shard that the header names: on this core, with its blocks inside.
    pub(super) fn fenced_shard(&self, id: ConnectionId, header: &Header) -> Result<Target, Status> {
        let attach = self.fenced_image(id, header)?;
        self.target_of(attach, header.shard, header.blocks)
    }

    /// A shard of an attached image, if it is on this core and has the blocks.
    pub(super) fn target_of(
        &self,
        attach: Attach,
        shard: ShardIndex,
        blocks: BlockRange,
    ) -> Result<Target, Status> {
        let key = (attach.image, shard);
        let lane = lane_of(key.0, key.1, self.config.lanes);
        let shard_bytes = 1 << attach.shard_shift;
        let end_bytes = blocks.offset_bytes() + blocks.bytes() as u64;
        if core_of(lane, self.config.cores) != self.config.core || end_bytes > shard_bytes {
            return Err(Status::Invalid);
        }
        Ok(Target { key, shard_bytes, blocks })
    }

    /// What a write to a shard has to make durable.
    pub(super) fn sync_targets_of(&self, key: super::ShardKey) -> [SyncTarget; 2] {
        [SyncTarget::Shard(key), SyncTarget::Directory(self.lane_of(key), key.0)]
    }
}

/// A body, or `Invalid`.
fn parse<T: Body>(aux: &[u8]) -> Result<T, Status> {
    T::from_bytes(aux).map_err(|_: BodyError| Status::Invalid)
}
