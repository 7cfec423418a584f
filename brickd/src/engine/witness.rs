//! The witness: which CRC32C each block of a shard has, so that a block which isn't what was last written there is
//! found when it is read, and never served.
//!
//! Each shard's CRCs are a page behind its data, in the same file: a slot a block, and a CRC of the page itself. All
//! are stored as the XOR with what they would be for zeros, so that a page of zeros, which is what an allocated file
//! has, is right for a shard of zeros. One value is set apart for "not known": such a block is taken as it is found.
//! A CRC that would look like it is stored as "not known", too: one block in four billion goes unwatched.
//!
//! - A page is in memory, and stays there, while a task works on its shard. It changes when a write has ended
//!   (a failed one leaves its blocks unknown), under the task's claim on the blocks; so block and slot agree
//!   whenever a read looks.
//! - It is written to disk late: before its shard leaves the activity log (rule I2), and synced with the file, data
//!   and all. So after a crash exactly the pages of the shards in the log may be older than their blocks. All their
//!   slots become unknown; who reads a block next fills its slot in.
//! - A page that can't be read, or fails its own CRC, counts as unknown: it must not take good blocks with it.
//!
//! Pages without news are dropped, longest unused first, beyond [`SLOTS_MAX`]. Pages go to and from disk a block at a
//! time, in buffers of their own: writes that wait for a page may hold all the pool.
//!
//! An arbiter keeps the same pages, by what its dummy writes say; they are all that its shard files hold. A file is made
//! with the first save of its page, so a shard without one was never written there, and its CRCs are those of zeros.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use brick_wire::checksum::{ZERO_BLOCK_CRC, crc32c};
use brick_wire::limits::{BLOCK_SHIFT, BLOCK_SIZE, SHARD_SHIFT_MAX, SHARD_SHIFT_MIN};
use brick_wire::overlap::Access;
use brick_wire::{BlockRange, BlockSet, ImageUuid, Role, ShardIndex, Status};

use super::flush::SyncTarget;
use super::tasks::{Target, Task, Work};
use super::{DiskRequest, Engine, ShardKey, ShardLine, ShardMap, Token};
use crate::buffer::Buffer;

/// Slots in memory before pages are dropped, per core: 16 MiB, which watch 16 GiB of blocks. Pages with news can't
/// be dropped; the activity log bounds those.
const SLOTS_MAX: usize = 4 << 20;
/// The slot of a block whose CRC isn't known.
const UNKNOWN: u32 = u32::MAX;
const CRC_BYTES: usize = size_of::<u32>();
/// Blocks of pages on their way to or from disk, per core.
const BUFFERS: usize = 16;

/// Length of the page behind a shard of this size, bytes: the slots, then the page's CRC in the last four bytes of
/// the last block.
pub fn page_bytes(shard_bytes: u64) -> u64 {
    (((shard_bytes >> BLOCK_SHIFT) + 1) * CRC_BYTES as u64).next_multiple_of(BLOCK_SIZE as u64)
}

/// What a page on disk says of its blocks, in order, `None` where that is unknown; nothing if it is damaged.
pub fn read_page(bytes: &[u8], shard_bytes: u64) -> Option<Vec<Option<u32>>> {
    let mut slots = vec![UNKNOWN; slot_count(shard_bytes)];
    let known = |slot: u32| (slot != UNKNOWN).then(|| stored(slot));
    decode(bytes, &mut slots).then(|| slots.into_iter().map(known).collect())
}

/// The CRCs of one shard.
#[derive(Debug)]
struct Page {
    slots: Vec<u32>,
    /// The page as far as it was read, and who waits for the rest; `None` once all of it is here.
    loading: Option<Loading>,
    /// Tasks that work on the shard.
    users: u32,
    /// When a slot last changed in a way that the disk has to learn.
    changed_at: u64,
    /// Changes up to then are durable.
    saved_at: u64,
}

#[derive(Debug, Default)]
struct Loading {
    bytes: Vec<u8>,
    waiters: Vec<Token>,
}

/// The pages of a core.
#[derive(Debug, Default)]
pub(super) struct Witness {
    pages: ShardMap<Page>,
    /// Shards that were active when the brick died: what the disk has of their pages means nothing.
    distrusted: BTreeSet<ShardKey>,
    /// Pages without users and news, longest unused first.
    idle: ShardLine,
    slots: usize,
    clock: u64,
    buffers: Vec<Buffer>,
    found: BTreeMap<ImageUuid, Found>,
}

/// What was found wrong since start.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Found {
    /// Blocks that couldn't be read, or weren't what was last written.
    pub(super) bad_blocks: u64,
    /// Such blocks that were written again from another copy.
    pub(super) repaired_blocks: u64,
}

/// Writes a page to its file and has it synced.
#[derive(Debug)]
pub(super) struct PageSave {
    /// The page as it is being written, and what the clock was then; empty before.
    bytes: Vec<u8>,
    copied_at: u64,
    /// Bytes written.
    written: usize,
}

impl Page {
    fn has_news(&self) -> bool {
        self.changed_at > self.saved_at
    }

    fn is_idle(&self) -> bool {
        self.users == 0 && self.loading.is_none() && !self.has_news()
    }
}

impl Witness {
    /// The shard was active when the brick died.
    pub(super) fn distrust(&mut self, key: ShardKey) {
        self.distrusted.insert(key);
    }

    /// What was found wrong in the image since start.
    pub(super) fn found(&self, image: ImageUuid) -> Found {
        self.found.get(&image).copied().unwrap_or_default()
    }

    pub(super) fn count_bad(&mut self, image: ImageUuid, blocks: usize) {
        self.found.entry(image).or_default().bad_blocks += blocks as u64;
    }

    pub(super) fn count_repaired(&mut self, image: ImageUuid, blocks: usize) {
        if blocks > 0 {
            self.found.entry(image).or_default().repaired_blocks += blocks as u64;
        }
    }

    /// Whether the shard may leave the activity log as far as its page is concerned.
    pub(super) fn is_durable(&self, key: ShardKey) -> bool {
        !self.distrusted.contains(&key) && self.pages.get(&key).is_none_or(|page| !page.has_news())
    }

    /// These blocks of a shard in use were written and have these CRCs.
    pub(super) fn record(&mut self, key: ShardKey, blocks: BlockRange, crcs: impl IntoIterator<Item = u32>) {
        self.change(key, |slots| {
            for (block, crc) in blocks.iter().zip(crcs) {
                slots[usize::from(block)] = stored(crc);
            }
        });
    }

    /// A sync of blocks of the shard failed. They read well, and may be gone after a loss of power: so the page on disk
    /// has to say that it doesn't know them.
    pub(super) fn note_failed_sync(&mut self, key: ShardKey) {
        let at = self.tick();
        if let Some(page) = self.pages.get_mut(&key) {
            page.changed_at = at;
            self.idle.remove(&key);
        }
    }

    /// A write to these blocks failed: nobody knows what they hold.
    pub(super) fn forget_blocks(&mut self, key: ShardKey, blocks: BlockRange) {
        self.change(key, |slots| {
            blocks.iter().for_each(|block| slots[usize::from(block)] = UNKNOWN);
        });
    }

    fn change(&mut self, key: ShardKey, change: impl FnOnce(&mut [u32])) {
        let at = self.tick();
        let page = self.pages.get_mut(&key).expect("shards are written under their page");
        assert!(page.users > 0 && page.loading.is_none(), "shards are written under their page");
        page.changed_at = at;
        change(&mut page.slots);
    }

    /// What is known of the blocks of a shard in use: their CRCs (zero where unknown), and which are unknown.
    pub(super) fn known(&self, key: ShardKey, blocks: BlockRange) -> (Vec<u32>, BlockSet) {
        let slots = &self.pages[&key].slots;
        let mut unknown = BlockSet::new();
        let crc = |block| match slots[usize::from(block)] {
            UNKNOWN => {
                unknown.insert_range(BlockRange::new(block, 1));
                0
            }
            slot => stored(slot),
        };
        (blocks.iter().map(crc).collect(), unknown)
    }

    /// Whether there is a page of the shard in memory, or will be without a look at the disk.
    fn is_at_hand(&self, key: ShardKey) -> bool {
        self.distrusted.contains(&key) || self.pages.contains_key(&key)
    }

    /// Those of the blocks that were read of a shard in use which have another CRC than they should.
    pub(super) fn unlike(&self, key: ShardKey, blocks: BlockRange, crcs: &[u32]) -> BlockSet {
        let slots = &self.pages[&key].slots;
        let mut unlike = BlockSet::new();
        for (block, crc) in blocks.iter().zip(crcs) {
            let slot = slots[usize::from(block)];
            if slot != UNKNOWN && slot != stored(*crc) {
                unlike.insert_range(BlockRange::new(block, 1));
            }
        }
        unlike
    }

    /// Takes blocks as they were found, but for `others`, where the CRC wasn't known. The disk needn't learn that.
    pub(super) fn fill_in(&mut self, key: ShardKey, blocks: BlockRange, crcs: &[u32], others: &BlockSet) {
        let page = self.pages.get_mut(&key).expect("shards are read under their page");
        for (block, crc) in blocks.iter().zip(crcs) {
            let slot = &mut page.slots[usize::from(block)];
            if *slot == UNKNOWN && !others.contains(block) {
                *slot = stored(*crc);
            }
        }
    }

    /// Takes CRCs that another copy told, but for `others`, where ours wasn't known; returns where. The disk has to learn
    /// them: a block that doesn't match must not be taken as it is found after another start.
    pub(super) fn adopt(
        &mut self,
        key: ShardKey,
        blocks: BlockRange,
        crcs: &[u32],
        others: &BlockSet,
    ) -> BlockSet {
        let (_, mut adopted) = self.known(key, blocks);
        adopted.remove_all(others);
        if !adopted.is_empty() {
            self.change(key, |slots| {
                for (block, crc) in blocks.iter().zip(crcs).filter(|(block, _)| adopted.contains(*block)) {
                    slots[usize::from(block)] = stored(*crc);
                }
            });
        }
        adopted
    }

    /// The shard's file is new, and zero.
    pub(super) fn created(&mut self, key: ShardKey, shard_bytes: u64) {
        self.distrusted.remove(&key);
        self.insert(key, vec![0; slot_count(shard_bytes)], None);
    }

    /// The shards that `gone` picks were deleted; none of them is in use.
    pub(super) fn forget(&mut self, image: ImageUuid, gone: impl Fn(ShardIndex) -> bool) {
        let is_gone = |key: &ShardKey| key.0 == image && gone(key.1);
        self.distrusted.retain(|key| !is_gone(key));
        let pages: Vec<ShardKey> = self.pages.keys().filter(|key| is_gone(key)).copied().collect();
        pages.into_iter().for_each(|key| self.drop_page(key));
    }

    /// The image is removed: what was found in it doesn't matter any more.
    pub(super) fn forget_found(&mut self, image: ImageUuid) {
        self.found.remove(&image);
    }

    fn drop_page(&mut self, key: ShardKey) {
        let page = self.pages.remove(&key).expect("dropped pages exist");
        assert!(page.users == 0 && page.loading.is_none(), "a page in use stays");
        self.idle.remove(&key);
        self.slots -= page.slots.len();
    }

    fn insert(&mut self, key: ShardKey, slots: Vec<u32>, loading: Option<Loading>) {
        self.slots += slots.len();
        let page = Page { slots, loading, users: 0, changed_at: 0, saved_at: 0 };
        let replaced = self.pages.insert(key, page);
        assert!(replaced.is_none(), "a shard has one page");
        while self.slots > SLOTS_MAX
            && let Some(victim) = self.idle.pop_front()
        {
            assert!(self.pages[&victim].is_idle(), "a page with news stays");
            self.drop_page(victim);
        }
        self.note_idle(key);
    }

    /// A page of which nothing is known, and that the disk has to learn.
    fn insert_unknown(&mut self, key: ShardKey, shard_bytes: u64) {
        let changed_at = self.tick();
        self.insert(key, vec![UNKNOWN; slot_count(shard_bytes)], None);
        let page = self.pages.get_mut(&key).expect("just inserted");
        page.changed_at = changed_at;
        self.idle.remove(&key);
    }

    fn hold(&mut self, key: ShardKey) {
        let page = self.pages.get_mut(&key).expect("held pages exist");
        if page.is_idle() {
            self.idle.remove(&key);
        }
        page.users += 1;
    }

    /// One user less.
    pub(super) fn release(&mut self, key: ShardKey) {
        let page = self.pages.get_mut(&key).expect("held pages exist");
        page.users = page.users.checked_sub(1).expect("users are counted");
        if page.is_idle() {
            self.idle.insert(key);
        }
    }

    fn note_idle(&mut self, key: ShardKey) {
        if self.pages[&key].is_idle() {
            self.idle.insert(key);
        }
    }

    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }
}

impl Engine {
    /// What the page in memory says of a block, for audits: nothing if no page is there, then whether the CRC is known.
    pub fn known_crc(&self, image: ImageUuid, shard: ShardIndex, block: u16) -> Option<Option<u32>> {
        if self.witness.distrusted.contains(&(image, shard)) {
            return Some(None);
        }
        let page = self.witness.pages.get(&(image, shard)).filter(|page| page.loading.is_none())?;
        let slot = page.slots[usize::from(block)];
        Some((slot != UNKNOWN).then(|| stored(slot)))
    }

    /// Sets memory aside for pages in flight.
    pub(super) fn reserve_page_buffers(&mut self) {
        let pool = &self.pool;
        self.witness.buffers.extend((0..BUFFERS).map_while(|_| pool.allocate(BLOCK_SIZE)));
    }

    /// Where the page begins in a shard's file, bytes.
    pub(super) fn page_start(&self, shard_bytes: u64) -> u64 {
        match self.config.role {
            Role::Data => shard_bytes,
            Role::Arbiter => 0,
        }
    }

    /// Whether nothing was ever written to the shard here.
    pub(super) fn is_untouched(&self, key: ShardKey) -> bool {
        !self.files.exists_soon(key) && !self.witness.is_at_hand(key)
    }

    /// [`Engine::task_page`] for tasks that want nothing but the page: the file is opened only if that has to be read.
    pub(super) fn task_page_alone(&mut self, token: Token) -> bool {
        let Target { key, shard_bytes, .. } = self.tasks[&token].target;
        let at_hand = match self.config.role {
            // With its file, which may just be made: the page is made with that.
            Role::Data => self.witness.pages.contains_key(&key),
            Role::Arbiter => {
                if self.is_untouched(key) {
                    self.witness.insert(key, vec![0; slot_count(shard_bytes)], None);
                }
                self.witness.is_at_hand(key)
            }
        };
        (at_hand || self.task_file(token).is_some()) && self.task_page(token)
    }

    /// Records blocks at once if the shard's page is here and nobody uses the blocks; `false` if that takes a task.
    pub(super) fn record_at_once(
        &mut self,
        key: ShardKey,
        shard_bytes: u64,
        blocks: BlockRange,
        crcs: &[u32],
    ) -> bool {
        let fits = |page: &Page| page.loading.is_none() && page.slots.len() == slot_count(shard_bytes);
        if !self.witness.pages.get(&key).is_some_and(fits) || self.claims.is_claimed(key, blocks) {
            return false;
        }
        self.witness.hold(key);
        self.witness.record(key, blocks, crcs.iter().copied());
        self.witness.release(key);
        true
    }

    /// Whether the page of the task's shard is here, and held for the task. If not, the task waits; it has its file.
    pub(super) fn task_page(&mut self, token: Token) -> bool {
        let task = &self.tasks[&token];
        if task.page {
            return true;
        }
        let Target { key, shard_bytes, .. } = task.target;
        match self.witness.pages.get_mut(&key) {
            Some(page) if page.slots.len() != slot_count(shard_bytes) => {
                self.fail_task(token, Status::Invalid);
                return false;
            }
            Some(Page { loading: Some(loading), .. }) => {
                loading.waiters.push(token);
                return false;
            }
            Some(_) => {}
            None => {
                if !self.bring_page(token) {
                    return false;
                }
            }
        }
        self.witness.hold(key);
        self.task(token).page = true;
        true
    }

    /// Makes a page that isn't in memory: `true` if that is done at once, `false` if it takes a look at the disk, or if the
    /// activity log knows the shard with another size.
    fn bring_page(&mut self, token: Token) -> bool {
        let Target { key, shard_bytes, .. } = self.tasks[&token].target;
        let known = self.activity.shard_bytes(self.lane_of(key), key);
        if known.is_some_and(|known| known != shard_bytes) {
            // One of two clients is wrong about the image.
            self.fail_task(token, Status::Invalid);
            return false;
        }
        if self.witness.distrusted.remove(&key) {
            self.witness.insert_unknown(key, shard_bytes);
            return true;
        }
        if self.read_page_from(token, 0) {
            let slots = vec![UNKNOWN; slot_count(shard_bytes)];
            self.witness.insert(key, slots, Some(Loading::default()));
        }
        false
    }

    /// Reads a block of the page, as an operation of the task that wants it first; `false` if that has to wait.
    fn read_page_from(&mut self, token: Token, begin: usize) -> bool {
        let Some(buffer) = self.page_buffer(token) else { return false };
        if self.requests.open.contains_key(&token) {
            self.mark_issued(token);
        }
        let task = self.task(token);
        task.loading = true;
        let slot = task.slot.expect("pages are read from an open file");
        let shard_bytes = task.target.shard_bytes;
        let offset_bytes = self.page_start(shard_bytes) + begin as u64;
        self.task_disk(token, DiskRequest::Read { slot, offset_bytes, buffer });
        true
    }

    /// A block of the page was read.
    pub(super) fn page_block_read(&mut self, token: Token, result: Result<Buffer, Status>) {
        let Target { key, shard_bytes, .. } = self.tasks[&token].target;
        let page = self.witness.pages.get_mut(&key).expect("a page that is read exists");
        let loading = page.loading.as_mut().expect("a page is read once");
        let mut unreadable = true;
        if let Ok(buffer) = result {
            loading.bytes.extend_from_slice(&buffer);
            self.witness.buffers.push(buffer);
            unreadable = false;
        }
        let read = loading.bytes.len();
        if !unreadable && read < page_bytes(shard_bytes) as usize && self.read_page_from(token, read) {
            return;
        }
        let page = self.witness.pages.get_mut(&key).expect("a page that is read exists");
        let Loading { bytes, waiters } = page.loading.take().expect("a page is read once");
        if !decode(&bytes, &mut page.slots) {
            page.slots.fill(UNKNOWN);
        }
        self.witness.note_idle(key);
        self.ready.push_back(token);
        self.ready.extend(waiters);
    }

    /// Starts to save the shard's page; nothing happens while it is being saved.
    pub(super) fn save_page(&mut self, key: ShardKey, shard_bytes: u64) {
        if self.removals.contains(key.0) {
            return;
        }
        if self.config.role == Role::Data && !self.files.exists_soon(key) {
            // Its file was never created, or lost with the power: there is no page either.
            self.witness.distrusted.remove(&key);
            return;
        }
        let is_save = |task: &Task| task.target.key == key && matches!(task.work, Work::PageSave(_));
        if self.tasks.values().any(is_save) {
            return;
        }
        let token = self.new_token();
        // No blocks: it is in nobody's way.
        let target = Target { key, shard_bytes, blocks: BlockRange::EMPTY };
        let work = Work::PageSave(PageSave { bytes: Vec::new(), copied_at: 0, written: 0 });
        self.start_task(token, target, Access::Exclusive, work);
    }

    pub(super) fn advance_page_save(&mut self, token: Token) {
        let key = self.tasks[&token].target.key;
        if self.config.role == Role::Data && !self.files.exists_soon(key) {
            // It couldn't be created after all.
            return self.fail_task(token, Status::Io);
        }
        let Some(slot) = self.task_file(token) else { return };
        if !self.task_page(token) {
            return;
        }
        let shard_bytes = self.tasks[&token].target.shard_bytes;
        let Work::PageSave(save) = &self.tasks[&token].work else { unreachable!("dispatched by kind") };
        if !save.bytes.is_empty() && save.written == save.bytes.len() {
            // Waits for its sync.
            return;
        }
        let Some(mut buffer) = self.page_buffer(token) else { return };
        let clock = self.witness.clock;
        let slots = &self.witness.pages[&key].slots;
        let lost = self.syncs.must_be_rewritten(key);
        let known = |block| lost.is_none_or(|lost| !lost.contains(block));
        let task = self.tasks.get_mut(&token).expect("advanced tasks exist");
        let Work::PageSave(save) = &mut task.work else { unreachable!("dispatched by kind") };
        if save.bytes.is_empty() {
            (save.bytes, save.copied_at) = (encode(slots, known), clock);
        }
        buffer.copy_from_slice(&save.bytes[save.written..][..BLOCK_SIZE]);
        let written = save.written as u64;
        save.written += BLOCK_SIZE;
        let offset_bytes = self.page_start(shard_bytes) + written;
        self.task_disk(token, DiskRequest::Write { slot, offset_bytes, buffer });
    }

    pub(super) fn page_block_written(&mut self, token: Token, result: Result<Buffer, Status>) {
        let key = self.tasks[&token].target.key;
        self.files.page_written(key);
        let Ok(buffer) = result else { return self.page_saved(token, false) };
        self.witness.buffers.push(buffer);
        let Work::PageSave(save) = &self.task(token).work else { unreachable!("dispatched by kind") };
        if save.written == save.bytes.len() {
            // A data brick's flushes see to the name of a new file; an arbiter has none.
            let directory = SyncTarget::Directory(self.lane_of(key), key.0);
            let name = (self.config.role == Role::Arbiter).then_some(directory);
            self.sync_for(token, [SyncTarget::Shard(key)].into_iter().chain(name));
        } else {
            self.ready.push_back(token);
        }
    }

    /// Page and data are durable, or nobody knows what is.
    pub(super) fn page_saved(&mut self, token: Token, good: bool) {
        let task = &self.tasks[&token];
        let Work::PageSave(PageSave { copied_at: at, .. }) = task.work else {
            unreachable!("the caller wrote a page")
        };
        let key = task.target.key;
        // A file whose name may be lost is no page at all.
        let named = self.config.role == Role::Data || !self.syncs.is_directory_lost(key.0, self.lane_of(key));
        let good = good && named;
        if good {
            let page = self.witness.pages.get_mut(&key).expect("held by the task");
            page.saved_at = page.saved_at.max(at);
        }
        self.end_task(token);
        let lane = self.lane_of(key);
        self.page_save_ended(lane, good);
    }

    /// Whether the token is that of a save under way.
    pub(super) fn is_page_save(&self, token: Token) -> bool {
        self.tasks.get(&token).is_some_and(|task| matches!(task.work, Work::PageSave(_)))
    }

    fn page_buffer(&mut self, token: Token) -> Option<Buffer> {
        // One that went to a failed operation doesn't come back.
        let buffer = self.witness.buffers.pop().or_else(|| self.pool.allocate(BLOCK_SIZE));
        if buffer.is_none() {
            self.buffer_waiters.push_back(token);
        }
        buffer
    }
}

fn slot_count(shard_bytes: u64) -> usize {
    (shard_bytes >> BLOCK_SHIFT) as usize
}

/// A CRC as its slot holds it.
fn stored(crc: u32) -> u32 {
    crc ^ ZERO_BLOCK_CRC
}

/// The page as it stands on disk: with the slots of blocks that are `known`.
fn encode(slots: &[u32], known: impl Fn(u16) -> bool) -> Vec<u8> {
    let length = page_bytes((slots.len() as u64) << BLOCK_SHIFT) as usize;
    let slots = (0..).zip(slots).map(|(block, slot)| if known(block) { *slot } else { UNKNOWN });
    let mut bytes: Vec<u8> = slots.flat_map(u32::to_le_bytes).collect();
    bytes.resize(length - CRC_BYTES, 0);
    let crc = own_crc(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

/// Reads the slots from what [`encode`] made; `false` if that isn't what these bytes are.
fn decode(bytes: &[u8], slots: &mut [u32]) -> bool {
    let Some((content, crc)) = bytes.split_last_chunk() else { return false };
    if bytes.len() as u64 != page_bytes((slots.len() as u64) << BLOCK_SHIFT)
        || own_crc(content) != u32::from_le_bytes(*crc)
    {
        return false;
    }
    for (slot, bytes) in slots.iter_mut().zip(content.chunks_exact(CRC_BYTES)) {
        *slot = u32::from_le_bytes(bytes.try_into().expect("4 bytes"));
    }
    true
}

/// The CRC of a page's content, zero for zeros.
fn own_crc(content: &[u8]) -> u32 {
    static OF_ZEROS: LazyLock<BTreeMap<usize, u32>> = LazyLock::new(|| {
        let lengths =
            (SHARD_SHIFT_MIN..=SHARD_SHIFT_MAX).map(|shift| page_bytes(1 << shift) as usize - CRC_BYTES);
        lengths.map(|length| (length, crc32c(&vec![0; length]))).collect()
    });
    crc32c(content) ^ OF_ZEROS[&content.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_of_zeros_is_right_for_a_shard_of_zeros() {
        assert_eq!(stored(crc32c(&[0; BLOCK_SIZE])), 0);
        assert!(encode(&[0; 1024], |_| true).iter().all(|byte| *byte == 0));
    }

    #[test]
    fn pages_are_whole_blocks() {
        assert_eq!([20, 22, 24, 26].map(|shift| page_bytes(1 << shift)), [4096, 8192, 20480, 69632]);
    }

    #[test]
    fn a_page_with_any_bit_changed_is_refused() {
        let slots: Vec<u32> = (0..256).map(|slot| slot * 77).collect();
        let (bytes, mut read) = (encode(&slots, |_| true), vec![0; 256]);
        assert!(decode(&bytes, &mut read) && read == slots);
        for bit in (0..bytes.len() * 8).step_by(101) {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(!decode(&changed, &mut read), "bit {bit}");
        }
        assert!(!decode(&bytes[..4092], &mut read) && !decode(&[], &mut read));
    }
}
