//! A buddy allocator over block numbers: it owns no memory, only says which blocks are in use.
//!
//! A slot of order `k` is `2^k` blocks at a multiple of `2^k`; its buddy is the slot whose number differs
//! in bit `k`. Allocation splits the smallest free slot that fits; release merges with the buddy as long as
//! that one is free whole. Both are bounded by the number of orders. Rejected: a bitmap with first fit
//! (needs scans, fragments large payloads), a slab per size (a workload that changes its block size would
//! strand the memory in the wrong slabs).

/// log2 of the blocks in the largest slot: 256 blocks, 1 MiB.
pub(super) const ORDER_MAX: usize = 8;
const ORDERS: usize = ORDER_MAX + 1;

/// No block: ends a free list.
const NIL: u32 = u32::MAX;

/// What a block number stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Block {
    /// Inside a slot, not its first block.
    Inner,
    /// First block of a free slot of this order.
    Free(u8),
    /// First block of a slot in use, of this order.
    Used(u8),
}

/// Which blocks of a region are free.
#[derive(Debug)]
pub(super) struct Buddy {
    blocks: Vec<Block>,
    /// Per block: previous and next free slot of the same order. Meaningful for `Free` blocks only.
    links: Vec<(u32, u32)>,
    /// Per order: the first free slot. Last released, first used: its cache lines are warm.
    heads: [u32; ORDERS],
    free_count: usize,
}

impl Buddy {
    /// All of `count` blocks, free. The count need not be a power of two.
    pub fn new(count: usize) -> Buddy {
        assert!(count > 0 && count < NIL as usize);
        let mut buddy = Buddy {
            blocks: vec![Block::Inner; count],
            links: vec![(NIL, NIL); count],
            heads: [NIL; ORDERS],
            free_count: count,
        };
        let mut block = 0;
        while block < count {
            let fits = |order: &usize| block.is_multiple_of(1 << order) && block + (1 << order) <= count;
            let order = (0..ORDERS).rev().find(fits).expect("order 0 always fits");
            buddy.link(block, order);
            block += 1 << order;
        }
        buddy
    }

    /// The first block of a slot of `order`, now in use; `None` if no free slot is large enough.
    pub fn allocate(&mut self, order: usize) -> Option<usize> {
        let mut found = (order..ORDERS).find(|order| self.heads[*order] != NIL)?;
        let block = self.heads[found] as usize;
        self.unlink(block, found);
        while found > order {
            found -= 1;
            self.link(block + (1 << found), found);
        }
        self.blocks[block] = Block::Used(order as u8);
        self.free_count -= 1 << order;
        Some(block)
    }

    /// Gives a slot back. Panics unless it is in use with this order.
    pub fn release(&mut self, block: usize, order: usize) {
        assert_eq!(self.blocks[block], Block::Used(order as u8), "release of a slot that isn't in use");
        self.blocks[block] = Block::Inner;
        self.free_count += 1 << order;
        let (mut block, mut order) = (block, order);
        while order < ORDER_MAX {
            let other = block ^ (1 << order);
            if self.blocks.get(other) != Some(&Block::Free(order as u8)) {
                break;
            }
            self.unlink(other, order);
            block = block.min(other);
            order += 1;
        }
        self.link(block, order);
    }

    /// Blocks in free slots.
    pub fn free_blocks(&self) -> usize {
        self.free_count
    }

    fn link(&mut self, block: usize, order: usize) {
        assert_eq!(self.blocks[block], Block::Inner);
        let next = self.heads[order];
        if next != NIL {
            self.links[next as usize].0 = block as u32;
        }
        self.links[block] = (NIL, next);
        self.heads[order] = block as u32;
        self.blocks[block] = Block::Free(order as u8);
    }

    fn unlink(&mut self, block: usize, order: usize) {
        assert_eq!(self.blocks[block], Block::Free(order as u8));
        let (previous, next) = self.links[block];
        match previous {
            NIL => self.heads[order] = next,
            previous => self.links[previous as usize].1 = next,
        }
        if next != NIL {
            self.links[next as usize].0 = previous;
        }
        self.blocks[block] = Block::Inner;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The slow truth: one flag per block.
    struct Oracle {
        used: Vec<bool>,
    }

    impl Oracle {
        /// Whether an aligned, wholly free slot of `order` exists.
        fn has_room(&self, order: usize) -> bool {
            self.used.chunks_exact(1 << order).any(|slot| slot.iter().all(|used| !used))
        }

        fn set(&mut self, block: usize, order: usize, used: bool) {
            for flag in &mut self.used[block..block + (1 << order)] {
                assert_ne!(*flag, used, "two slots overlap, or one was released twice");
                *flag = used;
            }
        }
    }

    proptest! {
        /// Against the oracle: a slot is found exactly when there is one, none overlap, all merge back.
        #[test]
        fn behaves_like_the_oracle(
            count in 1usize..1200,
            steps in prop::collection::vec((any::<bool>(), 0..ORDERS, any::<prop::sample::Index>()), 0..400),
        ) {
            let mut buddy = Buddy::new(count);
            let mut oracle = Oracle { used: vec![false; count] };
            let mut slots = Vec::new();
            for (allocate, order, which) in steps {
                if allocate {
                    let found = buddy.allocate(order);
                    prop_assert_eq!(found.is_some(), oracle.has_room(order));
                    if let Some(block) = found {
                        prop_assert!(block.is_multiple_of(1 << order));
                        oracle.set(block, order, true);
                        slots.push((block, order));
                    }
                } else if !slots.is_empty() {
                    let (block, order) = slots.swap_remove(which.index(slots.len()));
                    oracle.set(block, order, false);
                    buddy.release(block, order);
                }
                prop_assert_eq!(buddy.free_blocks(), oracle.used.iter().filter(|used| !**used).count());
            }
            for (block, order) in slots {
                buddy.release(block, order);
            }
            let fresh = Buddy::new(count);
            prop_assert_eq!(buddy.blocks, fresh.blocks);
        }
    }

    #[test]
    #[should_panic(expected = "isn't in use")]
    fn a_double_release_is_a_bug() {
        let mut buddy = Buddy::new(4);
        let block = buddy.allocate(1).unwrap();
        buddy.release(block, 1);
        buddy.release(block, 1);
    }
}
