//! Flush and FUA (rule I7): what is completed becomes durable, or its flush fails until it is rewritten.
//!
//! Syncs run per shard file and per directory of new shards. One sync serves everybody who asked before it
//! began; who asks while it runs, about writes that completed meanwhile, waits for the next. After a failed
//! sync nobody knows which blocks reached the disk, and a second sync that succeeds proves nothing: the
//! kernel reports an error once. So those blocks are remembered, and every flush of the image fails until
//! each was written again. A directory that couldn't be synced fails its image's flushes until restart.
//!
//! What had to be rewritten outlives a crash of the process: see `marks`.

use std::collections::{BTreeMap, BTreeSet};

use brick_wire::{BlockRange, BlockSet, Header, ImageUuid, LaneIndex, Opcode, Role, ShardIndex, Status};

use super::requests::Outcome;
use super::{ConnectionId, DiskError, DiskRequest, Engine, Purpose, ShardKey, Token};

/// What is synced at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum SyncTarget {
    /// A shard's file.
    Shard(ShardKey),
    /// The directory entries of an image's new shards in one lane.
    Directory(LaneIndex, ImageUuid),
}

/// A sync in flight.
#[derive(Debug)]
struct RunningSync {
    /// Written before it began (shards).
    covers: BlockSet,
    waiting: Vec<Token>,
    /// Served by the next.
    waiting_for_next: Vec<Token>,
}

/// A request (or the shutdown) that waits for syncs.
#[derive(Debug)]
struct SyncWait {
    outstanding: usize,
    failed: bool,
}

/// Syncs in flight, and the traces of failed ones.
#[derive(Debug, Default)]
pub(super) struct Syncs {
    running: BTreeMap<SyncTarget, RunningSync>,
    waits: BTreeMap<Token, SyncWait>,
    /// Directories with entries that no sync has begun to cover.
    new_entries: BTreeSet<(ImageUuid, LaneIndex)>,
    must_rewrite: BTreeMap<ShardKey, BlockSet>,
    lost_directories: BTreeSet<(ImageUuid, LaneIndex)>,
}

impl Syncs {
    /// Whether an earlier sync failed, and its blocks aren't rewritten.
    pub(super) fn is_failed(&self, image: ImageUuid) -> bool {
        self.must_rewrite.keys().any(|key| key.0 == image)
            || self.lost_directories.iter().any(|(other, _)| *other == image)
    }

    /// The same for any image.
    pub(super) fn is_any_failed(&self) -> bool {
        !self.must_rewrite.is_empty() || !self.lost_directories.is_empty()
    }

    /// Whether something of the image is lost in the shards that `wanted` picks, or in the lane's directory.
    pub(super) fn is_lost(
        &self,
        image: ImageUuid,
        wanted: impl Fn(ShardIndex) -> bool,
        lane: LaneIndex,
    ) -> bool {
        self.must_rewrite.keys().any(|key| key.0 == image && wanted(key.1))
            || self.is_directory_lost(image, lane)
    }

    /// Whether a new name in the lane's directory may be lost.
    pub(super) fn is_directory_lost(&self, image: ImageUuid, lane: LaneIndex) -> bool {
        self.lost_directories.contains(&(image, lane))
    }

    /// These blocks may be lost, however well they read.
    pub(super) fn must_be_written_again(&mut self, key: ShardKey, blocks: &BlockSet) {
        self.must_rewrite.entry(key).or_default().insert_all(blocks);
    }

    /// A waiting request has one thing more to wait for.
    pub(super) fn wait_longer(&mut self, token: Token) {
        self.waits.get_mut(&token).expect("waiters are known").outstanding += 1;
    }

    /// The shard's blocks that have to be rewritten.
    pub(super) fn must_be_rewritten(&self, key: ShardKey) -> Option<&BlockSet> {
        self.must_rewrite.get(&key)
    }

    /// Whether a sync of the image runs.
    pub(super) fn is_running(&self, image: ImageUuid) -> bool {
        self.running.keys().any(|target| target.image() == image)
    }

    /// The image is removed.
    pub(super) fn forget(&mut self, image: ImageUuid) {
        self.must_rewrite.retain(|key, _| key.0 != image);
        self.lost_directories.retain(|(other, _)| *other != image);
        self.new_entries.retain(|(other, _)| *other != image);
    }

    /// What has to be synced, or is being synced, for the image; for all images with `None`.
    fn targets(&self, files: &super::files::Files, image: Option<ImageUuid>) -> BTreeSet<SyncTarget> {
        let shards = files.unsynced(image).into_iter().map(SyncTarget::Shard);
        let directories = self.new_entries.iter().map(|(image, lane)| SyncTarget::Directory(*lane, *image));
        let running = self.running.keys().copied();
        let all = shards.chain(directories).chain(running);
        all.filter(|target| image.is_none_or(|image| image == target.image())).collect()
    }
}

impl SyncTarget {
    fn image(self) -> ImageUuid {
        match self {
            SyncTarget::Shard(key) => key.0,
            SyncTarget::Directory(_, image) => image,
        }
    }
}

impl Engine {
    /// `Flush`: all completed writes of the image on this core.
    pub(super) fn flush(&mut self, id: ConnectionId, header: Header) -> Outcome {
        let image = self.fenced_image(id, &header)?.image;
        if self.config.role == Role::Arbiter {
            return Ok(Some(Status::Ok.into()));
        }
        let token = self.open_issued(id, header, Some(image));
        let targets = self.syncs.targets(&self.files, Some(image));
        self.sync_for(token, targets);
        Ok(None)
    }

    /// All that a clean stop has to make durable.
    pub(super) fn sync_everything(&mut self, token: Token) {
        let targets = self.syncs.targets(&self.files, None);
        self.sync_for(token, targets);
    }

    /// Calls [`Engine::synced`] when all `targets` are as durable as they are complete now.
    pub(super) fn sync_for(&mut self, token: Token, targets: impl IntoIterator<Item = SyncTarget>) {
        let targets: Vec<SyncTarget> =
            targets.into_iter().filter(|target| self.needs_sync(*target)).collect();
        // Blocks rewritten only after this moment don't count for it, so the failure is noted now.
        let failed = self.is_flush_failed(token);
        // One for this function, or the wait would end in its middle.
        self.syncs.waits.insert(token, SyncWait { outstanding: targets.len() + 1, failed });
        for target in &targets {
            self.join_sync(*target, Some(token));
        }
        self.wait_for_marks(token);
        self.sync_wait_over(token, false);
    }

    /// A file that gives up its slot.
    pub(super) fn sync_before_close(&mut self, key: ShardKey) {
        self.join_sync(SyncTarget::Shard(key), None);
    }

    fn needs_sync(&self, target: SyncTarget) -> bool {
        self.syncs.running.contains_key(&target) || self.has_news(target)
    }

    /// Whether something completed that no sync has begun to cover.
    fn has_news(&self, target: SyncTarget) -> bool {
        match target {
            SyncTarget::Shard(key) => self.files.is_unsynced(key),
            SyncTarget::Directory(lane, image) => self.syncs.new_entries.contains(&(image, lane)),
        }
    }

    fn join_sync(&mut self, target: SyncTarget, token: Option<Token>) {
        let news = self.has_news(target);
        match self.syncs.running.get_mut(&target) {
            Some(sync) if news => sync.waiting_for_next.extend(token),
            Some(sync) => sync.waiting.extend(token),
            None => self.start_sync(target, token.into_iter().collect()),
        }
    }

    fn start_sync(&mut self, target: SyncTarget, waiting: Vec<Token>) {
        let (covers, request) = match target {
            SyncTarget::Shard(key) => {
                let slot = self.files.hold(key);
                (self.files.take_unsynced(key), DiskRequest::SyncShard { slot })
            }
            SyncTarget::Directory(lane, image) => {
                self.syncs.new_entries.remove(&(image, lane));
                (BlockSet::new(), DiskRequest::SyncDirectory { lane, image })
            }
        };
        let sync = RunningSync { covers, waiting, waiting_for_next: Vec::new() };
        self.syncs.running.insert(target, sync);
        self.disk(Purpose::Sync(target), request);
    }

    pub(super) fn sync_done(&mut self, target: SyncTarget, result: Result<(), DiskError>) {
        let RunningSync { covers, waiting, waiting_for_next } =
            self.syncs.running.remove(&target).expect("a sync that ends was running");
        if result.is_err() {
            self.sync_failed(target, covers);
            // Their blocks were written while it ran, so it may have failed about them.
            for token in &waiting_for_next {
                self.syncs.waits.get_mut(token).expect("waiters are known").failed = true;
            }
            let lane = match target {
                SyncTarget::Shard(key) => self.lane_of(key),
                SyncTarget::Directory(lane, _) => lane,
            };
            self.mark_lane(lane, waiting.iter().chain(&waiting_for_next).copied());
        }
        if !waiting_for_next.is_empty() {
            self.start_sync(target, waiting_for_next);
        }
        if let SyncTarget::Shard(key) = target {
            self.files.release(key);
        }
        for token in waiting {
            self.sync_wait_over(token, result.is_err());
        }
    }

    /// One of the things that a request waits for is over.
    pub(super) fn sync_wait_over(&mut self, token: Token, failed: bool) {
        let wait = self.syncs.waits.get_mut(&token).expect("waiters are known");
        wait.outstanding -= 1;
        wait.failed |= failed;
        if wait.outstanding == 0 {
            self.finish_wait(token);
        }
    }

    /// Whether an earlier failed sync fails this flush. A FUA write answers for its own blocks only.
    fn is_flush_failed(&self, token: Token) -> bool {
        let flush = self.requests.open.get(&token).filter(|open| open.header.opcode == Opcode::Flush);
        flush.and_then(|open| open.fenced_image).is_some_and(|image| self.syncs.is_failed(image))
    }

    fn sync_failed(&mut self, target: SyncTarget, covers: BlockSet) {
        match target {
            SyncTarget::Shard(key) => {
                let mut lost = covers;
                // What completed while it ran may be what it failed about.
                lost.insert_all(&self.files.take_unsynced(key));
                // Nothing, if only the page of CRCs was written: whoever saved that saves it again.
                if !lost.is_empty() {
                    self.witness.note_failed_sync(key);
                    self.syncs.must_rewrite.entry(key).or_default().insert_all(&lost);
                }
            }
            SyncTarget::Directory(lane, image) => {
                self.syncs.lost_directories.insert((image, lane));
            }
        }
    }

    fn finish_wait(&mut self, token: Token) {
        let wait = self.syncs.waits.remove(&token).expect("waiters are known");
        if self.is_shutdown_token(token) {
            self.everything_synced(!wait.failed);
            return;
        }
        if self.is_page_save(token) {
            self.page_saved(token, !wait.failed);
            return;
        }
        let failed = wait.failed || self.is_flush_failed(token);
        self.answer(token, if failed { Status::FlushFailed } else { Status::Ok }.into());
    }

    /// A write completed: it needs a sync, and what a failed one had lost there is written again.
    pub(super) fn blocks_written(
        &mut self,
        key: ShardKey,
        blocks: BlockRange,
        crcs: impl IntoIterator<Item = u32>,
    ) {
        self.witness.record(key, blocks, crcs);
        self.bad_blocks.remove(key, blocks);
        self.files.written(key, blocks);
        if let Some(lost) = self.syncs.must_rewrite.get_mut(&key) {
            lost.remove_range(blocks);
            if lost.is_empty() {
                self.syncs.must_rewrite.remove(&key);
                self.shard_rewritten(key);
            }
        }
    }

    /// A write failed: any of its blocks may be in the file all the same, and a later comparison may find
    /// them equal to another copy's. They need a sync like written ones, and prove nothing else.
    pub(super) fn blocks_torn(&mut self, key: ShardKey, blocks: BlockRange) {
        self.witness.forget_blocks(key, blocks);
        self.files.written(key, blocks);
    }

    /// A shard's file is new.
    pub(super) fn shard_created(&mut self, key: ShardKey) {
        let lane = self.lane_of(key);
        self.syncs.new_entries.insert((key.0, lane));
    }
}
