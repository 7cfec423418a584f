//! Where each disk request of the engine goes: the ring, a helper thread, or (space) a call that doesn't
//! block.

use std::sync::atomic::Ordering;

use nix::sys::statvfs::fstatvfs;

use super::disk::{Direction, RingRequest, shard_path};
use super::helper::HelperRequest;
use super::{Core, Reactor};
use crate::engine::{DiskError, DiskOutput, DiskRequest, Event, OperationId};

impl<C: Core> Reactor<C> {
    pub(super) fn start_disk(&mut self, operation: OperationId, request: DiskRequest) {
        match request {
            DiskRequest::OpenShard { slot, lane, image, shard, file_bytes, create } => {
                let path = shard_path(lane, image, shard);
                self.start_ring(operation, RingRequest::Open { slot, path, file_bytes, create });
            }
            DiskRequest::CloseShard { slot } => self.start_ring(operation, RingRequest::Close { slot }),
            DiskRequest::Read { slot, offset_bytes, buffer } => {
                let direction = Direction::Read;
                self.start_ring(operation, RingRequest::Transfer { slot, offset_bytes, buffer, direction });
            }
            DiskRequest::Write { slot, offset_bytes, buffer } => {
                let direction = Direction::Write;
                self.start_ring(operation, RingRequest::Transfer { slot, offset_bytes, buffer, direction });
            }
            DiskRequest::SyncShard { slot } => self.start_ring(operation, RingRequest::Sync { slot }),
            DiskRequest::SyncDirectory { lane, image } => {
                self.start_helper(operation, HelperRequest::SyncDirectory(lane, image));
            }
            DiskRequest::RemoveImage { lane, image } => {
                self.start_helper(operation, HelperRequest::RemoveImage(lane, image));
            }
            DiskRequest::AppendRegisters { entries } => {
                self.start_helper(operation, HelperRequest::AppendRegisters(entries));
            }
            DiskRequest::WriteIdentity { membership, blank, floors } => {
                self.start_helper(operation, HelperRequest::WriteIdentity(membership, blank, floors));
            }
            DiskRequest::Adopt { brick, membership, start } => {
                self.start_helper(operation, HelperRequest::Adopt(brick, membership, start));
            }
            DiskRequest::WriteActivity { lane, entries } => {
                self.start_helper(operation, HelperRequest::WriteActivity(lane, entries));
            }
            DiskRequest::SaveDirty { lane, maps } => {
                self.start_helper(operation, HelperRequest::SaveDirty(lane, maps));
            }
            DiskRequest::Space => {
                let result = self.space();
                self.events.push_back(Event::DiskDone { operation, result });
            }
        }
    }

    fn start_ring(&mut self, operation: OperationId, request: RingRequest) {
        self.disk.submit(&mut self.ring, operation, request);
    }

    fn start_helper(&mut self, operation: OperationId, request: HelperRequest) {
        self.shared.helpers.disk(self.index, operation, request);
    }

    fn space(&self) -> Result<DiskOutput, DiskError> {
        let found = fstatvfs(&self.shared.directory).map_err(|errno| DiskError::Errno(errno as i32))?;
        let free_bytes = found.blocks_available() * found.fragment_size();
        Ok(DiskOutput::Space { free_bytes, used_bytes: self.shared.used_bytes.load(Ordering::Relaxed) })
    }
}
