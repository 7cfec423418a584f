//! Which copy a read goes to: the one that has the least to do.
//!
//! A read waits for the core that owns its shard at the brick, so that core's work is compared first: another core of the
//! same brick may be idle meanwhile. Then the brick's, whose cores share a disk. Where nobody has anything to do all reads
//! of an image in a group go to the same brick, whose core then looks for the next one instead of sleeping; which brick that
//! is differs from image to image.

use brick_wire::limits::GROUP_BRICKS_MAX;
use brick_wire::{BlockRange, BrickIndex, BrickSet, CoreIndex, ImageUuid, ShardIndex};

use super::Group;

/// What a read that isn't answered costs whoever has to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ReadShare {
    pub(super) core: CoreIndex,
    work: u32,
}

/// The unanswered reads of all bricks.
#[derive(Debug)]
pub(super) struct ReadLoads {
    /// Who is asked while nobody has anything to do.
    preferred: BrickIndex,
    /// Of each core that was ever asked.
    cores: [Vec<u32>; GROUP_BRICKS_MAX],
    bricks: [u32; GROUP_BRICKS_MAX],
}

impl ReadShare {
    fn new(core: CoreIndex, blocks: BlockRange) -> ReadShare {
        ReadShare { core, work: REQUEST_WORK + u32::from(blocks.count) }
    }
}

impl ReadLoads {
    /// Of an image that nobody reads yet. `data_bricks` isn't empty.
    pub(super) fn new(image: ImageUuid, data_bricks: BrickSet) -> ReadLoads {
        let nth = usize::from(image.0.as_bytes()[0]) % data_bricks.count();
        let preferred = data_bricks.iter().nth(nth).expect("a group has a data brick");
        ReadLoads { preferred, cores: Default::default(), bricks: Default::default() }
    }

    /// The read was sent to `brick`.
    pub(super) fn add(&mut self, brick: BrickIndex, share: ReadShare) {
        let (cores, core) = (&mut self.cores[usize::from(brick.0)], usize::from(share.core.0));
        if cores.len() <= core {
            cores.resize(core + 1, 0);
        }
        cores[core] += share.work;
        self.bricks[usize::from(brick.0)] += share.work;
    }

    /// It was answered, or never will be.
    pub(super) fn remove(&mut self, brick: BrickIndex, share: ReadShare) {
        self.cores[usize::from(brick.0)][usize::from(share.core.0)] -= share.work;
        self.bricks[usize::from(brick.0)] -= share.work;
    }

    /// What one core of the brick has to do, then all of them, then whether another brick is preferred.
    fn of(&self, brick: BrickIndex, core: CoreIndex) -> (u32, u32, bool) {
        let index = usize::from(brick.0);
        let of_core = self.cores[index].get(usize::from(core.0)).copied().unwrap_or(0);
        (of_core, self.bricks[index], brick != self.preferred)
    }
}

impl Group {
    /// Whom of `candidates` to ask for blocks of the shard.
    pub(super) fn least_loaded(
        &self,
        candidates: BrickSet,
        shard: ShardIndex,
        blocks: BlockRange,
    ) -> Option<(BrickIndex, ReadShare)> {
        let owners = candidates.iter().map(|brick| (brick, self.core_for(brick, shard)));
        let (brick, core) = owners.min_by_key(|(brick, core)| self.read_loads.of(*brick, *core))?;
        Some((brick, ReadShare::new(core, blocks)))
    }
}

/// What a request costs beside its blocks, in blocks: about 13 us of processor time and 1.6 for each block (`scripts/profile`,
/// reads of 4 KiB and 1 MiB).
const REQUEST_WORK: u32 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    const BRICKS: [BrickIndex; 2] = [BrickIndex(0), BrickIndex(1)];

    /// Of the image whose id starts with this byte.
    fn loads(first_byte: u8) -> ReadLoads {
        let mut image = [0; 16];
        image[0] = first_byte;
        ReadLoads::new(ImageUuid::from_bytes(image), BRICKS.into_iter().collect())
    }

    fn share(core: u16, count: u16) -> ReadShare {
        ReadShare::new(CoreIndex(core), BlockRange { first: 0, count })
    }

    fn best(loads: &ReadLoads, core: u16) -> BrickIndex {
        *BRICKS.iter().min_by_key(|brick| loads.of(**brick, CoreIndex(core))).expect("there are two")
    }

    #[test]
    fn a_core_with_nothing_to_do_counts_more_than_a_brick_with_less() {
        let mut loads = loads(0);
        loads.add(BRICKS[0], share(0, 1));
        loads.add(BRICKS[1], share(1, 256));
        assert_eq!(best(&loads, 0), BRICKS[1]);
        assert_eq!(best(&loads, 1), BRICKS[0]);
        assert_eq!(best(&loads, 2), BRICKS[0], "of two idle cores that of the brick with less to do");
    }

    #[test]
    fn a_large_read_counts_more_than_a_small_one() {
        let mut loads = loads(0);
        loads.add(BRICKS[0], share(0, 256));
        loads.add(BRICKS[1], share(0, 1));
        loads.add(BRICKS[1], share(0, 1));
        assert_eq!(best(&loads, 0), BRICKS[1]);
    }

    #[test]
    fn images_prefer_different_bricks_where_both_are_idle() {
        for image in [0, 1] {
            let mut loads = loads(image);
            let preferred = BRICKS[usize::from(image)];
            assert_eq!(best(&loads, 0), preferred);
            loads.add(preferred, share(0, 1));
            assert_ne!(best(&loads, 0), preferred);
            loads.remove(preferred, share(0, 1));
            assert_eq!(best(&loads, 0), preferred, "answered reads are forgotten");
        }
    }
}
