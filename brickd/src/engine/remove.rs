//! `ImageRemove`: deletes the image's shards on this core.
//!
//! From the request on, other requests for the image are refused as busy; those before it finish first,
//! then the files are closed, then deleted lane by lane. A lane that fails keeps its shards on the books,
//! so that the request can be repeated; so does a crash.

use std::collections::BTreeMap;

use brick_wire::{Header, ImageUuid, LaneIndex, Status};

use super::requests::Outcome;
use super::{ConnectionId, DiskRequest, Engine, Purpose, Token};

#[derive(Debug)]
struct Removal {
    token: Token,
    /// Deletions in flight; `None` before the files are closed.
    deleting: Option<usize>,
    failed: bool,
}

/// Images being removed.
#[derive(Debug, Default)]
pub(super) struct Removals {
    images: BTreeMap<ImageUuid, Removal>,
}

impl Removals {
    /// Whether the image is being removed.
    pub(super) fn contains(&self, image: ImageUuid) -> bool {
        self.images.contains_key(&image)
    }
}

impl Engine {
    pub(super) fn image_remove(&mut self, id: ConnectionId, header: Header) -> Outcome {
        let image = self.fenced_image(id, &header)?.image;
        let token = self.open_issued(id, header, Some(image));
        self.removals.images.insert(image, Removal { token, deleting: None, failed: false });
        self.rechecks.forget(image);
        Ok(None)
    }

    /// Goes on with the removals whose image has become quiet.
    pub(super) fn advance_removals(&mut self) {
        let images = self.removals.images.iter();
        let waiting: Vec<(ImageUuid, Token)> = images
            .filter(|(_, removal)| removal.deleting.is_none())
            .map(|(image, removal)| (*image, removal.token))
            .collect();
        for (image, token) in waiting {
            let mut open = self.requests.open.iter();
            let busy = open.any(|(other, request)| *other != token && request.fenced_image == Some(image))
                || self.tasks.values().any(|task| task.target.key.0 == image);
            if busy || self.syncs.is_running(image) {
                continue;
            }
            for key in self.files.idle_of(image) {
                self.files.take_unsynced(key);
                self.close_file(key);
            }
            if !self.files.has_open(image) {
                self.delete_shards(image);
            }
        }
    }

    fn delete_shards(&mut self, image: ImageUuid) {
        let lanes = self.lanes_with_files(image);
        let removal = self.removals.images.get_mut(&image).expect("the caller found it");
        removal.deleting = Some(lanes.len());
        if lanes.is_empty() {
            self.finish_removal(image);
            return;
        }
        for lane in lanes {
            self.disk(Purpose::Remove(image, lane), DiskRequest::RemoveImage { lane, image });
        }
    }

    pub(super) fn lane_removed(&mut self, image: ImageUuid, lane: LaneIndex, good: bool) {
        if good {
            let lanes = self.config.lanes;
            let in_lane = |shard| brick_wire::placement::lane_of(image, shard, lanes) == lane;
            self.files.forget(image, in_lane);
            self.witness.forget(image, in_lane);
        }
        let removal = self.removals.images.get_mut(&image).expect("deletions belong to a removal");
        removal.failed |= !good;
        let outstanding = removal.deleting.as_mut().expect("deletions belong to a removal");
        *outstanding -= 1;
        if *outstanding == 0 {
            self.finish_removal(image);
        }
    }

    fn finish_removal(&mut self, image: ImageUuid) {
        let removal = self.removals.images.remove(&image).expect("the caller found it");
        if !removal.failed {
            self.dirty.forget(image);
            self.activity.forget(image);
            self.syncs.forget(image);
            self.bad_blocks.forget(image);
            // An arbiter's pages may have no file yet.
            self.witness.forget(image, |_| true);
            self.witness.forget_found(image);
            self.pulls.forget(image);
            self.joins.forget(image);
        }
        self.answer(removal.token, if removal.failed { Status::Io } else { Status::Ok }.into());
    }
}
