//! The simulated disk of one brick: what survives a crash of the process, and what a loss of power.
//!
//! Writes land in a volatile cache that only a sync empties; a loss of power keeps or loses each of its
//! blocks at random. A block is atomic, a write of several isn't. A sync that fails makes nothing durable
//! and spoils what it covered: no later sync saves those bytes, as with Linux's page cache. New files are
//! gone with the power unless their directory was synced. Registers, identity, activity log and saved dirty
//! maps are durable when done; a crash leaves of each of the latter two the old one or the new one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use brick_wire::checksum::block_hash;
use brick_wire::limits::BLOCK_SIZE;
use brick_wire::register::{RegisterEntry, RegisterKey, RegisterState};
use brick_wire::{BrickUuid, Floors, ImageUuid, LaneIndex, ShardIndex};
use brickd::engine::{ActiveShard, Membership, SavedDirty};

use super::content::{self, Content};
use super::random::Random;

/// Second half of a content that stands for a page.
const PAGE_MARK: u64 = 0x5041_4745_5041_4745;

/// A shard's file.
pub type FileKey = (LaneIndex, ImageUuid, ShardIndex);

/// A block in the cache.
#[derive(Clone, Copy, Debug)]
struct Cached {
    content: Content,
    /// A sync that covered it failed.
    spoiled: bool,
}

#[derive(Clone, Debug, Default)]
struct File {
    file_bytes: u64,
    /// Its directory entry is durable.
    linked: bool,
    durable: BTreeMap<u16, Content>,
    cached: BTreeMap<u16, Cached>,
    /// What reads of these blocks return instead, until they are written.
    rotten: BTreeMap<u16, Content>,
    /// The page rotted once: the brick may have forgotten what it knew of the blocks.
    unwatched: bool,
}

impl File {
    /// Whether the block holds CRCs.
    fn is_page(&self, block: u16) -> bool {
        u64::from(block) * BLOCK_SIZE as u64 >= self.file_bytes - BLOCK_SIZE as u64
    }
}

/// The blocks that a sync covers: those in the cache when it began.
pub type Covered = Vec<(u16, Content)>;

/// Everything that a brick keeps.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    files: BTreeMap<FileKey, File>,
    /// Blocks that aren't a client's: pages of CRCs, by the hash that stands for them in a file.
    pages: BTreeMap<u64, Arc<[u8]>>,
    registers: BTreeMap<RegisterKey, RegisterState>,
    /// Whose disk it is.
    pub brick: BrickUuid,
    /// What `WriteIdentity` wrote last.
    pub membership: Option<Membership>,
    /// Whether the registers were lost (rule R2).
    pub blank: bool,
    /// Retired lives of the other members (rule R2).
    pub floors: Floors,
    /// The shards in the activity log, by lane.
    pub active: BTreeMap<LaneIndex, Vec<ActiveShard>>,
    /// Dirty maps as they were saved last, by lane.
    pub saved: BTreeMap<LaneIndex, Vec<SavedDirty>>,
    /// Whether the last stop was clean.
    pub clean: bool,
}

impl Disk {
    /// The disk of a brick that has never run.
    pub fn formatted(brick: BrickUuid) -> Disk {
        Disk { clean: true, brick, ..Disk::default() }
    }

    /// Whether a shard's file exists.
    pub fn exists(&self, key: FileKey) -> bool {
        self.files.contains_key(&key)
    }

    /// Length of a shard's file.
    pub fn file_bytes(&self, key: FileKey) -> Option<u64> {
        self.files.get(&key).map(|file| file.file_bytes)
    }

    /// The content that stands for these bytes, whoever made them.
    pub fn content_of(&mut self, block: &[u8]) -> Content {
        if let Some(content) = content::read(block).filter(|content| content[1] != PAGE_MARK) {
            return content;
        }
        let hash = block_hash(block, 0);
        self.pages.entry(hash).or_insert_with(|| block.into());
        [hash, PAGE_MARK]
    }

    /// The bytes that a content stands for.
    pub fn fill(&self, block: &mut [u8], content: Content) {
        match content {
            [hash, PAGE_MARK] => block.copy_from_slice(&self.pages[&hash]),
            _ => content::fill(block, content),
        }
    }

    /// The files, in order.
    pub fn files(&self) -> impl Iterator<Item = FileKey> {
        self.files.keys().copied()
    }

    /// Creates a file of zeros.
    pub fn create(&mut self, key: FileKey, file_bytes: u64) {
        self.files.entry(key).or_insert_with(|| File { file_bytes, ..File::default() });
    }

    /// What a read returns.
    pub fn read(&self, key: FileKey, block: u16) -> Content {
        let rotten = self.files.get(&key).and_then(|file| file.rotten.get(&block));
        rotten.copied().unwrap_or_else(|| self.intact(key, block))
    }

    /// What a read would return if nothing had rotted.
    pub fn intact(&self, key: FileKey, block: u16) -> Content {
        let Some(file) = self.files.get(&key) else { return [0; 2] };
        match file.cached.get(&block) {
            Some(cached) => cached.content,
            None => file.durable.get(&block).copied().unwrap_or_default(),
        }
    }

    /// The blocks of a file that were ever written.
    pub fn written_blocks(&self, key: FileKey) -> Vec<u16> {
        let file = self.files.get(&key);
        let blocks: BTreeSet<u16> = file
            .into_iter()
            .flat_map(|file| file.durable.keys().chain(file.cached.keys()))
            .copied()
            .collect();
        blocks.into_iter().collect()
    }

    /// A block reads as something else from now on. Not where that would be the second failure of the file: its
    /// page has rotted, or is to rot when a block has.
    pub fn rot(&mut self, key: FileKey, block: u16, content: Content) {
        let file = self.files.get_mut(&key).expect("only what exists rots");
        let is_page = file.is_page(block);
        let second = file.unwatched || (is_page && !file.rotten.is_empty());
        if !second {
            file.unwatched |= is_page;
            file.rotten.insert(block, content);
        }
    }

    /// Whether the block is rotten.
    pub fn is_rotten(&self, key: FileKey, block: u16) -> bool {
        self.files.get(&key).is_some_and(|file| file.rotten.contains_key(&block))
    }

    /// All blocks read again as what was written.
    pub fn cure(&mut self) {
        self.files.values_mut().for_each(|file| file.rotten.clear());
    }

    /// What is there after a loss of power at the worst.
    pub fn durable(&self, key: FileKey, block: u16) -> Content {
        let file = self.files.get(&key).filter(|file| file.linked);
        file.and_then(|file| file.durable.get(&block)).copied().unwrap_or_default()
    }

    /// A block of a write reaches the cache. What it replaces may have reached the medium on its own.
    pub fn write(&mut self, random: &mut Random, key: FileKey, block: u16, content: Content) {
        let file = self.files.get_mut(&key).expect("written files exist");
        file.rotten.remove(&block);
        if let Some(before) = file.cached.insert(block, Cached { content, spoiled: false })
            && random.chance(0.3)
        {
            file.durable.insert(block, before.content);
        }
    }

    /// A sync begins.
    pub fn begin_sync(&self, key: FileKey) -> Covered {
        let file = self.files.get(&key).expect("synced files exist");
        let good = file.cached.iter().filter(|(_, cached)| !cached.spoiled);
        good.map(|(block, cached)| (*block, cached.content)).collect()
    }

    /// A sync ends well.
    pub fn end_sync(&mut self, key: FileKey, covered: &Covered) {
        let Some(file) = self.files.get_mut(&key) else { return };
        for (block, content) in covered {
            file.durable.insert(*block, *content);
            if file.cached.get(block).is_some_and(|cached| cached.content == *content) {
                file.cached.remove(block);
            }
        }
    }

    /// A sync fails.
    /// Whether these include any of a client's.
    pub fn fail_sync(&mut self, key: FileKey, covered: &Covered) -> bool {
        let Some(file) = self.files.get_mut(&key) else { return false };
        for (block, content) in covered {
            if let Some(cached) = file.cached.get_mut(block)
                && cached.content == *content
            {
                cached.spoiled = true;
            }
        }
        covered.iter().any(|(block, _)| !file.is_page(*block))
    }

    /// A directory was synced.
    pub fn link(&mut self, lane: LaneIndex, image: ImageUuid) {
        for (key, file) in &mut self.files {
            file.linked |= (key.0, key.1) == (lane, image);
        }
    }

    /// Makes everything durable that no failed sync has spoiled, as `syncfs` does.
    pub fn sync_all(&mut self) {
        for file in self.files.values_mut() {
            file.linked = true;
            for (block, cached) in file.cached.extract_if(.., |_, cached| !cached.spoiled) {
                file.durable.insert(block, cached.content);
            }
        }
    }

    /// Deletes an image's files in a lane.
    pub fn remove(&mut self, lane: LaneIndex, image: ImageUuid) {
        self.files.retain(|key, _| (key.0, key.1) != (lane, image));
    }

    /// Appends to the register log.
    pub fn append(&mut self, entries: &[RegisterEntry]) {
        for entry in entries {
            self.registers.insert(entry.key.clone(), entry.state.clone());
        }
    }

    /// All registers.
    pub fn registers(&self) -> Vec<RegisterEntry> {
        let registers = self.registers.iter();
        registers.map(|(key, state)| RegisterEntry { key: key.clone(), state: state.clone() }).collect()
    }

    /// One register.
    pub fn register(&self, key: &RegisterKey) -> Option<&RegisterState> {
        self.registers.get(key)
    }

    /// The power goes: every block in the cache makes it or doesn't, and so does every new file.
    pub fn lose_power(&mut self, random: &mut Random) {
        let keep = random.pick(&[0.0, 0.5, 0.9]);
        // What is read from now on comes from the medium, and so does what the store says (see FORMAT.md).
        self.saved.values_mut().flatten().for_each(|map| map.unsynced = false);
        self.files.retain(|_, file| {
            file.linked |= random.chance(keep);
            for (block, cached) in std::mem::take(&mut file.cached) {
                if random.chance(keep) && !cached.spoiled {
                    file.durable.insert(block, cached.content);
                }
            }
            file.linked
        });
    }
}
