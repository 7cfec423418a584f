//! What a core tells about itself: counters, and pages of its maps. Nothing here walks the store, and a
//! page never exceeds one frame.

use std::collections::BTreeSet;

use brick_wire::body::{BrickStatus, DirtyPage, ImageStatus, ShardPage};
use brick_wire::cursor::Body;
use brick_wire::limits::AUX_BYTES_MAX;
use brick_wire::{BlockSet, Flags, Header, ImageUuid, ShardIndex, Status};

use super::requests::{Outcome, Reply};
use super::{ConnectionId, DiskError, DiskOutput, DiskRequest, Engine, Purpose, Token};

/// A page's bytes: aux without its trailer.
const PAGE_BYTES_MAX: usize = AUX_BYTES_MAX - 4;

impl Engine {
    /// `BrickStatus`. Core 0 counts the sessions of all cores and knows the registers; the others answer
    /// for themselves.
    pub(super) fn brick_status(&mut self, id: ConnectionId, header: Header) -> Outcome {
        let token = self.open_issued(id, header, None);
        self.disk(Purpose::Space(token), DiskRequest::Space);
        Ok(None)
    }

    pub(super) fn space_known(&mut self, token: Token, result: Result<DiskOutput, DiskError>) {
        let Ok(DiskOutput::Space { free_bytes, used_bytes }) = result else {
            self.answer(token, Status::Io.into());
            return;
        };
        let core_zero = self.is_core_zero();
        let mut images: BTreeSet<ImageUuid> = self.files.images().collect();
        if core_zero {
            images.extend(self.registers.images());
        }
        let sessions = if core_zero { self.admission.session_count() } else { self.requests.session_count() };
        let (images, sessions) = (images.len() as u32, sessions as u32);
        let status = BrickStatus { free_bytes, used_bytes, images, sessions };
        self.answer(token, Reply::body(status.to_bytes()));
    }

    /// `ImageStatus`.
    pub(super) fn image_status(&self, image: ImageUuid) -> Reply {
        let (pulled, found) = (self.pulls.report(image), self.witness.found(image));
        let status = ImageStatus {
            dirty_blocks: self.dirty.block_count(image),
            shards: self.files.count(image),
            pulled_blocks: pulled.written_blocks,
            compared_blocks: pulled.compared_blocks,
            pulled_wire_bytes: pulled.wire_bytes,
            heal_compared_blocks: self.joins.compared_blocks(image, pulled),
            bad_blocks: found.bad_blocks,
            repaired_blocks: found.repaired_blocks,
        };
        Reply::body(status.to_bytes()).with_flags(self.exact_flag(image))
    }

    /// `DirtyRead`: a page of the dirty map.
    pub(super) fn dirty_read(&mut self, id: ConnectionId, header: &Header) -> Outcome {
        let image = self.fenced_image(id, header)?.image;
        let reply = page_of(self.dirty.shards_from(image, header.shard));
        let rewrite = if self.syncs.is_failed(image) { Flags::REWRITE } else { Flags::NONE };
        Ok(Some(reply.with_flags(self.exact_flag(image)).with_flags(rewrite)))
    }

    /// `ShardList`: a page of the shards that exist.
    pub(super) fn shard_list(&mut self, id: ConnectionId, header: &Header) -> Outcome {
        let image = self.fenced_image(id, header)?.image;
        let mut shards = self.files.shards_from(image, header.shard);
        let page = ShardPage { shards: shards.by_ref().take(PAGE_BYTES_MAX / 4).collect() };
        let more = if shards.next().is_some() { Flags::MORE } else { Flags::NONE };
        Ok(Some(Reply::body(page.to_bytes()).with_flags(more)))
    }

    fn exact_flag(&self, image: ImageUuid) -> Flags {
        if self.dirty.is_exact(image) { Flags::EXACT } else { Flags::NONE }
    }
}

/// As many shards and blocks as fit in a frame; flagged if there are more.
pub(super) fn page_of(shards: impl Iterator<Item = (ShardIndex, BlockSet)>) -> Reply {
    let (mut page, mut bytes, mut more) = (DirtyPage::default(), 0, Flags::NONE);
    for (shard, blocks) in shards {
        bytes += 6 + blocks.end().div_ceil(8);
        if bytes > PAGE_BYTES_MAX {
            more = Flags::MORE;
            break;
        }
        page.shards.push((shard, blocks));
    }
    Reply::body(page.to_bytes()).with_flags(more)
}
