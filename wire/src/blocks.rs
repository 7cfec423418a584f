//! Ranges and sets of blocks within one shard.

use std::fmt;

use smallvec::SmallVec;

use crate::limits::{BLOCK_SIZE, SHARD_BLOCKS_MAX};

/// Consecutive blocks of one shard.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct BlockRange {
    /// First block.
    pub first: u16,
    /// Number of blocks.
    pub count: u16,
}

impl BlockRange {
    /// No block.
    pub const EMPTY: BlockRange = BlockRange { first: 0, count: 0 };

    /// `count` blocks from `first` on.
    pub fn new(first: u16, count: u16) -> BlockRange {
        assert!(usize::from(first) + usize::from(count) <= SHARD_BLOCKS_MAX);
        BlockRange { first, count }
    }

    /// One past the last block.
    pub fn end(self) -> u16 {
        self.first + self.count
    }

    /// Whether a block is in both; never so for an empty range.
    pub fn overlaps(self, other: BlockRange) -> bool {
        self.first.max(other.first) < self.end().min(other.end())
    }

    /// Length in bytes.
    pub fn bytes(self) -> usize {
        usize::from(self.count) * BLOCK_SIZE
    }

    /// Offset of the first block in the shard, bytes.
    pub fn offset_bytes(self) -> u64 {
        u64::from(self.first) * BLOCK_SIZE as u64
    }

    /// The blocks in ascending order.
    pub fn iter(self) -> impl Iterator<Item = u16> {
        self.first..self.end()
    }
}

impl fmt::Debug for BlockRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.first, self.count)
    }
}

/// A set of blocks of one shard: one bit each.
#[derive(Clone, Default)]
pub struct BlockSet {
    /// At most those of the largest shard; those of a shard of 4 MiB need no memory of their own. Zero words may stand
    /// at the end: equality looks past them.
    words: SmallVec<[u64; 16]>,
}

impl BlockSet {
    /// No block; grows as blocks are added.
    pub fn new() -> BlockSet {
        BlockSet::default()
    }

    /// The first `count` blocks: all of a shard.
    pub fn full(count: usize) -> BlockSet {
        let mut set = BlockSet::new();
        set.insert_range(BlockRange::new(0, u16::try_from(count).expect("a shard's blocks fit in u16")));
        set
    }

    /// Adds every block of `range`.
    pub fn insert_range(&mut self, range: BlockRange) {
        assert!(usize::from(range.end()) <= SHARD_BLOCKS_MAX, "blocks {range:?} are beyond any shard");
        let words = usize::from(range.end()).div_ceil(64);
        if self.words.len() < words {
            self.words.resize(words, 0);
        }
        for (index, mask) in word_masks(range) {
            self.words[index] |= mask;
        }
    }

    /// Takes every block of `range` out.
    pub fn remove_range(&mut self, range: BlockRange) {
        for (index, mask) in word_masks(range) {
            if let Some(word) = self.words.get_mut(index) {
                *word &= !mask;
            }
        }
    }

    /// Adds the blocks of `other`.
    pub fn insert_all(&mut self, other: &BlockSet) {
        if self.words.len() < other.words.len() {
            self.words.resize(other.words.len(), 0);
        }
        for (word, more) in self.words.iter_mut().zip(&other.words) {
            *word |= more;
        }
    }

    /// Takes the blocks of `other` out.
    pub fn remove_all(&mut self, other: &BlockSet) {
        for (word, less) in self.words.iter_mut().zip(&other.words) {
            *word &= !less;
        }
    }

    /// Drops the blocks from `count` on.
    pub fn truncate(&mut self, count: usize) {
        let end = self.end();
        if end > count {
            self.remove_range(BlockRange::new(count as u16, (end - count) as u16));
        }
    }

    /// Whether `block` is a member.
    pub fn contains(&self, block: u16) -> bool {
        self.words.get(usize::from(block) / 64).is_some_and(|word| word >> (block % 64) & 1 == 1)
    }

    /// Whether any block of `range` is a member.
    pub fn intersects(&self, range: BlockRange) -> bool {
        word_masks(range).any(|(index, mask)| self.words.get(index).is_some_and(|word| word & mask != 0))
    }

    /// Whether there is no member.
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// Number of members.
    pub fn count(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Number of blocks of `range` that are members.
    pub fn count_in(&self, range: BlockRange) -> usize {
        word_masks(range)
            .map(|(index, mask)| self.words.get(index).map_or(0, |word| (word & mask).count_ones() as usize))
            .sum()
    }

    /// One past the highest member; zero if there is none.
    pub fn end(&self) -> usize {
        let last = self.words.iter().rposition(|word| *word != 0);
        last.map_or(0, |index| index * 64 + 64 - self.words[index].leading_zeros() as usize)
    }

    /// The members as maximal runs of at most `count_max` blocks, ascending.
    pub fn runs(&self, count_max: u16) -> impl Iterator<Item = BlockRange> {
        assert!(count_max > 0);
        let end = self.end();
        let mut next = 0;
        std::iter::from_fn(move || {
            let first = self.first_from(next)?;
            next = first;
            while next < end && next - first < usize::from(count_max) && self.contains(next as u16) {
                next += 1;
            }
            Some(BlockRange::new(first as u16, (next - first) as u16))
        })
    }

    /// The first member that is `block` or comes after it. A read asks this of the one block it has: it has to cost
    /// nothing however far behind in the shard that is.
    fn first_from(&self, block: usize) -> Option<usize> {
        let (index, bit) = (block / 64, block % 64);
        let rest = self.words.get(index..)?;
        let masks = std::iter::once(u64::MAX << bit).chain(std::iter::repeat(u64::MAX));
        let (skipped, word) = rest
            .iter()
            .zip(masks)
            .map(|(word, mask)| word & mask)
            .enumerate()
            .find(|(_, word)| *word != 0)?;
        Some((index + skipped) * 64 + word.trailing_zeros() as usize)
    }

    /// The bitmap, block 0 in bit 0 of byte 0, no trailing zero bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> = self.words.iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes.truncate(self.end().div_ceil(8));
        bytes
    }

    /// Reads the bitmap back; `None` if it is larger than any shard's.
    pub fn from_bytes(bytes: &[u8]) -> Option<BlockSet> {
        if bytes.len() > SHARD_BLOCKS_MAX / 8 {
            return None;
        }
        let words = bytes.chunks(8).map(|chunk| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            u64::from_le_bytes(word)
        });
        Some(BlockSet { words: words.collect() })
    }
}

impl PartialEq for BlockSet {
    fn eq(&self, other: &BlockSet) -> bool {
        let (short, long) = if self.words.len() < other.words.len() { (self, other) } else { (other, self) };
        let (head, tail) = long.words.split_at(short.words.len());
        head == short.words.as_slice() && tail.iter().all(|word| *word == 0)
    }
}

impl Eq for BlockSet {}

impl From<BlockRange> for BlockSet {
    fn from(range: BlockRange) -> BlockSet {
        let mut set = BlockSet::new();
        set.insert_range(range);
        set
    }
}

impl fmt::Debug for BlockSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.runs(u16::MAX)).finish()
    }
}

/// The words that `range` touches, each with the mask of its bits.
fn word_masks(range: BlockRange) -> impl Iterator<Item = (usize, u64)> {
    let (first, end) = (usize::from(range.first), usize::from(range.end()));
    let words = if first == end { 0..0 } else { first / 64..end.div_ceil(64) };
    words.map(move |index| {
        let low = first.saturating_sub(index * 64).min(63);
        let high = (end - index * 64).min(64);
        (index, (u64::MAX >> (64 - (high - low))) << low)
    })
}

#[cfg(test)]
mod tests;
