//! Which blocks may differ between the bricks, and since which flush generation (rule I6).
//!
//! A block's bit carries the generation of the last write to it, or pull; `CLEAN(g)` drops bits of generations up to
//! g. Per shard the bits lie in a few layers, one per generation, and no block is in two of them. When there
//! are more generations than layers, the two oldest merge into the younger of the two: a bit may then stay
//! longer than needed, but never goes too early.
//!
//! Sessions count their generations from 1, each for itself. With the first write or clean of another
//! session, all bits become generation 0, older than what it counts. Not with its promise: the holder may
//! come back after a promise that came to nothing (rule R4), and its own bits must keep their generations,
//! or its next `CLEAN` would drop bits of writes that it doesn't cover.
//!
//! A crash loses the map. What it stood for is among the maps as they were saved last and all blocks of the
//! shards in the activity log (`activity`). It is inexact only where one of those files was damaged,
//! or is older than the brick's registers once were (a blank brick, rule R2).

use std::collections::BTreeMap;

use brick_wire::limits::BLOCK_SHIFT;
use brick_wire::{BlockRange, BlockSet, Generation, ImageUuid, SessionId, ShardIndex};

use super::{ActiveShard, SavedDirty, ShardKey};

/// Layers per shard: the current generation, the one being flushed, and two that a slow brick holds back.
const LAYERS_MAX: usize = 4;

/// The bits of one shard, by generation ascending; no layer is empty and no block is in two.
#[derive(Debug, Default)]
struct ShardBits {
    layers: Vec<(Generation, BlockSet)>,
}

/// The dirty map of one image on this core.
#[derive(Debug, Default)]
pub(super) struct ImageBits {
    /// Bits were lost: any block of any shard may be dirty.
    inexact: bool,
    /// Who counts the generations other than 0.
    session: SessionId,
    shards: BTreeMap<ShardIndex, ShardBits>,
    /// Bits set in all shards, kept incrementally: asking for the state must not walk the map.
    block_count: u64,
}

/// The dirty maps of all images on this core.
#[derive(Debug, Default)]
pub(super) struct DirtyMaps {
    images: BTreeMap<ImageUuid, ImageBits>,
}

impl ShardBits {
    /// Raises `blocks` to `generation` where they were older or clean; returns how many were clean.
    fn insert(&mut self, blocks: BlockRange, generation: Generation) -> u64 {
        let known: usize = self.layers.iter().map(|(_, set)| set.count_in(blocks)).sum();
        for (_, older) in self.layers.iter_mut().take_while(|(other, _)| *other < generation) {
            older.remove_range(blocks);
        }
        match self.layers.last_mut() {
            // The usual case.
            Some((newest, set)) if *newest == generation => set.insert_range(blocks),
            _ => self.insert_beside(blocks, generation),
        }
        self.layers.retain(|(_, set)| !set.is_empty());
        if self.layers.len() > LAYERS_MAX {
            let (_, oldest) = self.layers.remove(0);
            self.layers[0].1.insert_all(&oldest);
        }
        u64::from(blocks.count) - known as u64
    }

    /// Sets bits of a generation that isn't the newest, or has no layer yet.
    fn insert_beside(&mut self, blocks: BlockRange, generation: Generation) {
        let mut fresh = BlockSet::from(blocks);
        for (_, younger) in self.layers.iter().filter(|(other, _)| *other > generation) {
            fresh.remove_all(younger);
        }
        match self.layers.binary_search_by_key(&generation, |(other, _)| *other) {
            Ok(index) => self.layers[index].1.insert_all(&fresh),
            Err(index) => {
                // Most shards have one layer, and there may be very many of them.
                self.layers.reserve_exact(1);
                self.layers.insert(index, (generation, fresh));
            }
        }
    }

    /// Drops layers up to `generation`; returns the number of bits dropped.
    fn clean(&mut self, generation: Generation) -> u64 {
        let dropped = self.layers.extract_if(.., |(layer, _)| *layer <= generation);
        dropped.map(|(_, set)| set.count() as u64).sum()
    }

    fn retire(&mut self) {
        let all = self.all();
        self.layers = vec![(Generation(0), all)];
    }

    fn all(&self) -> BlockSet {
        let mut all = BlockSet::new();
        self.layers.iter().for_each(|(_, set)| all.insert_all(set));
        all
    }
}

impl ImageBits {
    /// Whether one of the blocks was clean.
    fn insert(&mut self, shard: ShardIndex, blocks: BlockRange, generation: Generation) -> bool {
        let fresh_count = self.shards.entry(shard).or_default().insert(blocks, generation);
        self.block_count += fresh_count;
        fresh_count > 0
    }

    /// Another session takes over: what is set becomes older than all that it will write.
    fn count_for(&mut self, session: SessionId) {
        if std::mem::replace(&mut self.session, session) != session {
            self.shards.values_mut().for_each(ShardBits::retire);
        }
    }

    fn clean(&mut self, generation: Generation) {
        let dropped: u64 = self.shards.values_mut().map(|bits| bits.clean(generation)).sum();
        self.shards.retain(|_, bits| !bits.layers.is_empty());
        self.block_count -= dropped;
        self.inexact = false;
    }
}

impl DirtyMaps {
    /// Sets the bits of a write, or a pull's, in the session's generation; whether one of them is new.
    pub(super) fn insert(
        &mut self,
        (image, shard): ShardKey,
        blocks: BlockRange,
        session: SessionId,
        generation: Generation,
    ) -> bool {
        let bits = self.images.entry(image).or_default();
        bits.count_for(session);
        bits.insert(shard, blocks, generation)
    }

    /// Whether the shard has dirty bits.
    pub(super) fn contains(&self, (image, shard): ShardKey) -> bool {
        self.images.get(&image).is_some_and(|bits| bits.shards.contains_key(&shard))
    }

    /// Drops bits up to the session's `generation`. What an inexact map stands for is of generation 0.
    pub(super) fn clean(&mut self, image: ImageUuid, session: SessionId, generation: Generation) {
        if let Some(bits) = self.images.get_mut(&image) {
            bits.count_for(session);
            bits.clean(generation);
            if bits.shards.is_empty() {
                self.images.remove(&image);
            }
        }
    }

    /// The image is removed.
    pub(super) fn forget(&mut self, image: ImageUuid) {
        self.images.remove(&image);
    }

    /// Any block of the image may be dirty.
    pub(super) fn set_inexact(&mut self, image: ImageUuid) {
        self.images.entry(image).or_default().inexact = true;
    }

    /// Whether no bit of the image was lost.
    pub(super) fn is_exact(&self, image: ImageUuid) -> bool {
        self.images.get(&image).is_none_or(|bits| !bits.inexact)
    }

    /// Bits set.
    pub(super) fn block_count(&self, image: ImageUuid) -> u64 {
        self.images.get(&image).map_or(0, |bits| bits.block_count)
    }

    /// Shards with bits from `start` on, ascending.
    pub(super) fn shards_from(
        &self,
        image: ImageUuid,
        start: ShardIndex,
    ) -> impl Iterator<Item = (ShardIndex, BlockSet)> {
        let shards = self.images.get(&image).map(|bits| bits.shards.range(start..));
        shards.into_iter().flatten().map(|(shard, bits)| (*shard, bits.all()))
    }

    /// Takes over what was saved last.
    pub(super) fn load(&mut self, saved: SavedDirty) {
        let bits = self.images.entry(saved.image).or_default();
        bits.inexact |= !saved.exact;
        for (shard, blocks) in saved.shards {
            for run in blocks.runs(u16::MAX) {
                bits.insert(shard, run, Generation(0));
            }
        }
    }

    /// A shard that was active when the brick died: nobody knows which of its blocks were written.
    pub(super) fn load_active(&mut self, active: ActiveShard) {
        let blocks = BlockRange::new(0, 1 << (u32::from(active.shard_shift) - BLOCK_SHIFT));
        let bits = self.images.entry(active.image).or_default();
        bits.insert(active.shard, blocks, Generation(0));
    }

    /// What has to be saved: of every image with bits or an inexact map, the shards that `wanted` picks.
    pub(super) fn save(
        &self,
        wanted: impl Fn(ImageUuid, ShardIndex) -> bool,
        is_unsynced: impl Fn(ImageUuid) -> bool,
    ) -> Vec<SavedDirty> {
        let maps = self.images.iter().map(|(image, bits)| {
            let shards = bits.shards.iter().filter(|(shard, _)| wanted(*image, **shard));
            let shards = shards.map(|(shard, bits)| (*shard, bits.all())).collect();
            SavedDirty { image: *image, exact: !bits.inexact, unsynced: is_unsynced(*image), shards }
        });
        maps.filter(|map| !map.exact || map.unsynced || !map.shards.is_empty()).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const IMAGE: ImageUuid = ImageUuid::NIL;
    const SHARD: ShardIndex = ShardIndex(3);
    const BLOCKS: u16 = 200;

    #[derive(Clone, Debug)]
    enum Step {
        Write(BlockRange, Generation),
        Clean(Generation),
        Takeover,
    }

    fn step() -> impl Strategy<Value = Step> {
        let range = (0..BLOCKS, 1..32u16);
        prop_oneof![
            8 => (range, 0..12u32).prop_map(|((first, count), generation)| {
                Step::Write(BlockRange::new(first, count.min(BLOCKS - first)), Generation(generation))
            }),
            2 => (0..12u32).prop_map(|generation| Step::Clean(Generation(generation))),
            1 => Just(Step::Takeover),
        ]
    }

    proptest! {
        /// dirty: against one generation per block. The map may keep a bit too long, but never drops one of
        /// a generation that wasn't cleaned, and keeps none that was never set.
        #[test]
        fn the_map_never_forgets_too_early(steps in prop::collection::vec(step(), 1..60)) {
            let mut maps = DirtyMaps::default();
            let mut oracle: BTreeMap<u16, Generation> = BTreeMap::new();
            let mut ever = BlockSet::new();
            let (mut highest, mut session) = (Generation(0), SessionId(1));
            for step in steps {
                match step {
                    Step::Write(blocks, generation) => {
                        maps.insert((IMAGE, SHARD), blocks, session, generation);
                        highest = highest.max(generation);
                        ever.insert_range(blocks);
                        for block in blocks.iter() {
                            let known = oracle.entry(block).or_default();
                            *known = generation.max(*known);
                        }
                    }
                    Step::Clean(generation) => {
                        maps.clean(IMAGE, session, generation);
                        oracle.retain(|_, known| *known > generation);
                    }
                    Step::Takeover => {
                        session.0 += 1;
                        oracle.values_mut().for_each(|known| *known = Generation(0));
                    }
                }
                let set: BlockSet = maps
                    .shards_from(IMAGE, ShardIndex(0))
                    .next()
                    .map_or_else(BlockSet::new, |(_, set)| set);
                for block in oracle.keys() {
                    prop_assert!(set.contains(*block), "block {} lost its bit", block);
                }
                prop_assert_eq!(maps.block_count(IMAGE), set.count() as u64);
                let mut strange = set.clone();
                strange.remove_all(&ever);
                prop_assert!(strange.is_empty());
            }
            maps.clean(IMAGE, session, highest);
            prop_assert_eq!(maps.block_count(IMAGE), 0);
        }
    }

    #[test]
    fn few_generations_are_exact() {
        let mut maps = DirtyMaps::default();
        let session = SessionId(1);
        let key = (IMAGE, SHARD);
        maps.insert(key, BlockRange::new(0, 4), session, Generation(1));
        maps.insert(key, BlockRange::new(2, 4), session, Generation(2));
        // A late write of an older generation doesn't make younger bits older.
        maps.insert(key, BlockRange::new(3, 1), session, Generation(1));
        maps.clean(IMAGE, session, Generation(1));
        let (_, left) = maps.shards_from(IMAGE, ShardIndex(0)).next().unwrap();
        assert_eq!(left, BlockSet::from(BlockRange::new(2, 4)));
    }

    #[test]
    fn saved_maps_load_again_by_lane() {
        let mut maps = DirtyMaps::default();
        maps.insert((IMAGE, ShardIndex(1)), BlockRange::new(5, 2), SessionId(1), Generation(3));
        maps.insert((IMAGE, ShardIndex(2)), BlockRange::new(9, 1), SessionId(1), Generation(4));
        let mut loaded = DirtyMaps::default();
        for wanted in [1, 2] {
            maps.save(|_, shard| shard.0 == wanted, |_| false).into_iter().for_each(|map| loaded.load(map));
        }
        assert_eq!(loaded.block_count(IMAGE), 3);
        assert!(loaded.is_exact(IMAGE));
        loaded.clean(IMAGE, SessionId(2), Generation(0));
        assert_eq!(loaded.block_count(IMAGE), 0);
    }
}
