//! The shard files of this core: which exist, which are open, and in what order idle ones are closed. An arbiter's hold
//! nothing but the page of CRCs.
//!
//! Invariants: a shard is created and allocated whole before anything reads or writes it; a file is closed
//! only when no operation uses it and its completed writes are synced; every open file has its own slot.
//! A shard's bits of "exists" are as the store found them at start plus what was created since.
//!
//! Files wait for a slot in order of arrival; the longest idle file makes room.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use brick_wire::{BlockSet, ImageUuid, LaneIndex, Role, ShardIndex, Status};

use super::witness::page_bytes;
use super::{DiskError, DiskRequest, Engine, FileSlot, Purpose, ShardKey, ShardLine, ShardMap, Token};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FileState {
    /// All slots are taken.
    WantsSlot,
    Opening(FileSlot),
    Open(FileSlot),
    Closing(FileSlot),
}

#[derive(Debug)]
struct File {
    state: FileState,
    shard_bytes: u64,
    /// Operations that use it; a sync is one.
    users: u32,
    /// Chosen to make room, and counted in [`Files::freeing`], while its last sync runs.
    leaving: bool,
    waiters: Vec<Token>,
    /// Blocks of completed writes since the last sync began.
    unsynced: BlockSet,
    /// The page of CRCs behind the blocks was written since then.
    page_unsynced: bool,
}

impl File {
    fn is_unsynced(&self) -> bool {
        self.page_unsynced || !self.unsynced.is_empty()
    }
}

/// What a task that asks for its file gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Acquired {
    /// The file is the task's to use until it releases it.
    Ready(FileSlot),
    /// The task is woken when it should ask again.
    Waiting,
    /// Open with another shard size: one of two clients is wrong about the image.
    OtherSize,
}

/// The shard files of a core.
#[derive(Debug)]
pub(super) struct Files {
    existing: BTreeSet<ShardKey>,
    existing_count: BTreeMap<ImageUuid, u64>,
    open: ShardMap<File>,
    free_slots: Vec<FileSlot>,
    /// Open files without users, but syncs, longest idle first.
    idle: ShardLine,
    slot_waiters: VecDeque<ShardKey>,
    /// Files on their way to give their slot back.
    freeing: usize,
}

impl Files {
    pub(super) fn new(shards: Vec<ShardKey>, open_files_max: u32) -> Files {
        let mut files = Files {
            existing: BTreeSet::new(),
            existing_count: BTreeMap::new(),
            open: ShardMap::default(),
            free_slots: (0..open_files_max).rev().map(FileSlot).collect(),
            idle: ShardLine::default(),
            slot_waiters: VecDeque::new(),
            freeing: 0,
        };
        shards.into_iter().for_each(|key| files.add_existing(key));
        files
    }

    /// Whether the shard has a file.
    pub(super) fn exists(&self, key: ShardKey) -> bool {
        self.existing.contains(&key)
    }

    /// Whether the shard has a file or is just getting one.
    pub(super) fn exists_soon(&self, key: ShardKey) -> bool {
        self.open.contains_key(&key) || self.exists(key)
    }

    /// Shards of the image with a file.
    pub(super) fn count(&self, image: ImageUuid) -> u64 {
        self.existing_count.get(&image).copied().unwrap_or(0)
    }

    /// Images with a file, in order.
    pub(super) fn images(&self) -> impl Iterator<Item = ImageUuid> {
        self.existing_count.keys().copied()
    }

    /// The image's shards from `start` on, ascending.
    pub(super) fn shards_from(
        &self,
        image: ImageUuid,
        start: ShardIndex,
    ) -> impl Iterator<Item = ShardIndex> {
        let range = (image, start)..=(image, ShardIndex(u32::MAX));
        self.existing.range(range).map(|(_, shard)| *shard)
    }

    /// The image's open files with unsynced writes; all images' with `None`.
    pub(super) fn unsynced(&self, image: Option<ImageUuid>) -> Vec<ShardKey> {
        let files = self.open.iter().filter(|(_, file)| file.is_unsynced());
        files.map(|(key, _)| *key).filter(|key| image.is_none_or(|image| image == key.0)).collect()
    }

    /// Whether the file has writes that no sync has begun to cover.
    pub(super) fn is_unsynced(&self, key: ShardKey) -> bool {
        self.open.get(&key).is_some_and(File::is_unsynced)
    }

    /// A write to the file has completed.
    pub(super) fn written(&mut self, key: ShardKey, blocks: brick_wire::BlockRange) {
        let file = self.open.get_mut(&key).expect("written files are open");
        file.unsynced.insert_range(blocks);
    }

    /// The page of CRCs was written.
    pub(super) fn page_written(&mut self, key: ShardKey) {
        self.open.get_mut(&key).expect("written files are open").page_unsynced = true;
    }

    /// The blocks that a sync which begins, or has just failed, is about. Whether it is about the page, too, is for
    /// whoever waits for that.
    pub(super) fn take_unsynced(&mut self, key: ShardKey) -> BlockSet {
        let Some(file) = self.open.get_mut(&key) else { return BlockSet::new() };
        file.page_unsynced = false;
        std::mem::take(&mut file.unsynced)
    }

    /// One more user of an open file, without a change of its place among the idle.
    pub(super) fn hold(&mut self, key: ShardKey) -> FileSlot {
        let file = self.open.get_mut(&key).expect("held files are open");
        let FileState::Open(slot) = file.state else { panic!("held files are open") };
        file.users += 1;
        slot
    }

    /// One user less.
    pub(super) fn release(&mut self, key: ShardKey) {
        let file = self.open.get_mut(&key).expect("used files are open");
        assert!(matches!(file.state, FileState::Open(_)), "used files are open");
        file.users = file.users.checked_sub(1).expect("uses are counted");
        if file.users == 0 {
            let was_leaving = std::mem::take(&mut file.leaving);
            // One that only a sync held has kept its place.
            if !self.idle.contains(&key) {
                self.idle.insert(key);
            }
            if was_leaving {
                self.freeing -= 1;
                self.idle.to_front(&key);
            }
        }
    }

    /// Takes the longest idle file out of the line.
    fn pop_idle(&mut self) -> Option<ShardKey> {
        let key = self.idle.iter().find(|key| self.open[*key].users == 0).copied()?;
        self.idle.remove(&key);
        Some(key)
    }

    /// Whether a file of the image is open, opening or closing.
    pub(super) fn has_open(&self, image: ImageUuid) -> bool {
        self.open_of(image).next().is_some()
    }

    /// The image's files that nothing uses.
    pub(super) fn idle_of(&self, image: ImageUuid) -> Vec<ShardKey> {
        let idle = self.open_of(image).filter(|(_, file)| file.users == 0);
        idle.filter(|(_, file)| matches!(file.state, FileState::Open(_))).map(|(key, _)| *key).collect()
    }

    fn open_of(&self, image: ImageUuid) -> impl Iterator<Item = (&ShardKey, &File)> {
        self.open.iter().filter(move |(key, _)| key.0 == image)
    }

    fn add_existing(&mut self, key: ShardKey) {
        if self.existing.insert(key) {
            *self.existing_count.entry(key.0).or_default() += 1;
        }
    }

    /// The shards that `gone` picks were deleted.
    pub(super) fn forget(&mut self, image: ImageUuid, gone: impl Fn(ShardIndex) -> bool) {
        let shards: Vec<ShardIndex> =
            self.shards_from(image, ShardIndex(0)).filter(|shard| gone(*shard)).collect();
        let left = self.count(image) - shards.len() as u64;
        shards.into_iter().for_each(|shard| assert!(self.existing.remove(&(image, shard))));
        if left == 0 {
            self.existing_count.remove(&image);
        } else {
            self.existing_count.insert(image, left);
        }
    }
}

impl Engine {
    /// Gets the shard's file for a task, creating it if it doesn't exist (readers look first).
    pub(super) fn acquire_file(&mut self, token: Token, key: ShardKey, shard_bytes: u64) -> Acquired {
        let files = &mut self.files;
        let Some(file) = files.open.get_mut(&key) else {
            let file = File {
                state: FileState::WantsSlot,
                shard_bytes,
                users: 0,
                leaving: false,
                waiters: vec![token],
                unsynced: BlockSet::new(),
                page_unsynced: false,
            };
            files.open.insert(key, file);
            files.slot_waiters.push_back(key);
            return Acquired::Waiting;
        };
        if file.shard_bytes != shard_bytes {
            return Acquired::OtherSize;
        }
        let FileState::Open(slot) = file.state else {
            file.waiters.push(token);
            return Acquired::Waiting;
        };
        files.idle.remove(&key);
        if std::mem::take(&mut file.leaving) {
            files.freeing -= 1;
        }
        file.users += 1;
        Acquired::Ready(slot)
    }

    /// Opens the files that wait for a slot, and makes room for the rest.
    pub(super) fn serve_slot_waiters(&mut self) {
        while let Some(&key) = self.files.slot_waiters.front() {
            let Some(slot) = self.files.free_slots.pop() else { break };
            self.files.slot_waiters.pop_front();
            self.open_file(key, slot);
        }
        while self.files.freeing < self.files.slot_waiters.len() {
            let Some(key) = self.files.pop_idle() else { return };
            if self.files.is_unsynced(key) {
                self.files.freeing += 1;
                self.files.open.get_mut(&key).expect("idle files are open").leaving = true;
                self.sync_before_close(key);
            } else {
                self.close_file(key);
            }
        }
    }

    fn open_file(&mut self, key: ShardKey, slot: FileSlot) {
        let create = !self.files.exists(key);
        let lane = self.lane_of(key);
        let file = self.files.open.get_mut(&key).expect("files that want a slot are known");
        assert_eq!(file.state, FileState::WantsSlot);
        file.state = FileState::Opening(slot);
        let shard_bytes = file.shard_bytes;
        let file_bytes = self.page_start(shard_bytes) + page_bytes(shard_bytes);
        let request = DiskRequest::OpenShard { slot, lane, image: key.0, shard: key.1, file_bytes, create };
        self.disk(Purpose::Open(key), request);
    }

    /// Closes an idle, synced file.
    pub(super) fn close_file(&mut self, key: ShardKey) {
        let file = self.files.open.get_mut(&key).expect("closed files are open");
        let FileState::Open(slot) = file.state else { panic!("closed files are open") };
        assert!(file.users == 0 && !file.is_unsynced());
        file.state = FileState::Closing(slot);
        self.files.idle.remove(&key);
        self.files.freeing += 1;
        self.disk(Purpose::Close(key), DiskRequest::CloseShard { slot });
    }

    pub(super) fn file_opened(&mut self, key: ShardKey, result: Result<(), DiskError>) {
        let file = self.files.open.get_mut(&key).expect("opening files are known");
        let FileState::Opening(slot) = file.state else { panic!("opened files were opening") };
        let waiters = std::mem::take(&mut file.waiters);
        let shard_bytes = file.shard_bytes;
        match result {
            Ok(()) => {
                file.state = FileState::Open(slot);
                self.files.idle.insert(key);
                if !self.files.exists(key) {
                    self.files.add_existing(key);
                    self.shard_created(key);
                    if self.config.role == Role::Data {
                        self.witness.created(key, shard_bytes);
                    }
                }
                self.ready.extend(waiters);
            }
            Err(error) => {
                self.files.open.remove(&key);
                self.files.free_slots.push(slot);
                for token in waiters {
                    // A shard that couldn't be created still reads as zeros.
                    if !self.files.exists(key) && self.only_reads(token) {
                        self.ready.push_back(token);
                    } else {
                        self.fail_task(token, open_status(error));
                    }
                }
            }
        }
    }

    pub(super) fn file_closed(&mut self, key: ShardKey) {
        let file = self.files.open.get_mut(&key).expect("closing files are known");
        let FileState::Closing(slot) = file.state else { panic!("closed files were closing") };
        self.files.freeing -= 1;
        self.files.free_slots.push(slot);
        if file.waiters.is_empty() {
            self.files.open.remove(&key);
        } else {
            file.state = FileState::WantsSlot;
            self.files.slot_waiters.push_back(key);
        }
    }

    /// The lanes in which the image has files.
    pub(super) fn lanes_with_files(&self, image: ImageUuid) -> BTreeSet<LaneIndex> {
        self.files.shards_from(image, ShardIndex(0)).map(|shard| self.lane_of((image, shard))).collect()
    }
}

fn open_status(error: DiskError) -> Status {
    match error {
        DiskError::NoSpace => Status::NoSpace,
        DiskError::Length { .. } => Status::Invalid,
        DiskError::Errno(_) | DiskError::Short => Status::Io,
    }
}
